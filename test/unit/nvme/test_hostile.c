/* SPDX-License-Identifier: BSD-3-Clause */
/* A device that lies: resets, an end, but no crash, no completion twice, none lost. */
#include <string.h>
#include "fake.h"
#include "unit.h"

#define N 16

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint8_t *mem;
static int calls[N], status[N];

static void cb(void *ctx, int st)
{
	calls[(intptr_t)ctx]++;
	status[(intptr_t)ctx] = st;
}

static void up(void)
{
	dev = fake_new();
	dev->max_steps = 2000000;
	nvme = fake_open(dev, NULL);
	qp = fake_qp(nvme, 32);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	mem = fake_alloc(65536);
	memset(calls, 0, sizeof(calls));
	dev->auto_io = false;
}

static void down(void)
{
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	svio_mem_free(mem);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

static void submit_all(void)
{
	for (intptr_t i = 0; i < N; i++)
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, (uint64_t)i, 1, 0, cb, (void *)i), 0);
	fake_run(dev);
}

static void settle(void)
{
	dev->auto_io = true;
	for (int i = 0; i < 200 && svio_nvme_inflight(qp); i++) {
		fake_complete_all(dev);
		(void)svio_nvme_poll(qp, 0);
	}
}

static void check_once(int want)
{
	for (int i = 0; i < N; i++) {
		CU_ASSERT_EQUAL(calls[i], 1);
		CU_ASSERT_EQUAL(status[i], want);
	}
}

/* One bad completion in the middle: everything still completes, once, well, after one reset. */
static void bad(uint16_t cid, uint16_t sqid, uint16_t sqhd)
{
	struct svio_nvme_stats stats;

	up();
	submit_all();
	for (int i = 0; i < 5; i++)
		fake_complete(dev, 0, 0);
	fake_post(dev, 1, cid, sqid, sqhd, 0);
	fake_complete(dev, 3, 0); /* behind the bad one: not looked at in the live queue */
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 5);
	CU_ASSERT_FALSE(svio_nvme_ready(nvme));
	settle();
	check_once(0);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.resets, 1);
	CU_ASSERT_EQUAL(stats.requeued, 11);
	CU_ASSERT_TRUE(svio_nvme_ready(nvme));
	down();
}

static void test_cid_out_of_range(void)
{
	bad(31, 1, 0);
	bad(0xffff, 1, 0);
}

static void test_cid_not_in_flight(void)
{
	bad(20, 1, 0);
}

static void test_cid_twice(void)
{
	up();
	submit_all();
	fake_complete(dev, 0, 0);
	fake_post(dev, 1, 0, 1, 1, 0); /* id 0 was the first */
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 1);
	settle();
	check_once(0);
	down();
}

static void test_sqid(void)
{
	bad(3, 2, 0);
	bad(3, 0, 0);
	bad(3, 0xffff, 0);
}

static void test_sqhd(void)
{
	bad(3, 1, 32);
	bad(3, 1, 0xffff);
}

/* It goes on lying: the driver gives it up, and everything completes. */
static void test_for_ever(void)
{
	up();
	for (int i = 0; i < 50 && !svio_nvme_gone(nvme); i++) {
		if (svio_nvme_inflight(qp) == 0)
			submit_all();
		fake_run(dev);
		fake_post(dev, 1, 0x7777, 1, 0, 0);
		for (int k = 0; k < 20; k++)
			(void)svio_nvme_poll(qp, 0);
	}
	CU_ASSERT_TRUE(svio_nvme_gone(nvme));
	for (int k = 0; k < 5; k++)
		(void)svio_nvme_poll(qp, 0);
	check_once(-ENODEV);
	CU_ASSERT_FALSE(dev->master); /* it cannot write any more */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), -ENODEV);
	down();
}

static void test_admin(void)
{
	struct svio_nvme_ns other;
	static const uint16_t cids[] = { 30, 31, 0xffff };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cids); i++) {
		up();
		submit_all();
		fake_post(dev, 0, cids[i], 0, 0, 0);
		/* A synchronous command meets it, and goes on over the reset. */
		CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &other), 0);
		settle();
		check_once(0);
		down();
	}
}

/* Events without end: each is served, none fills the log or the stack. */
static void test_aer_flood(void)
{
	up();
	for (int i = 0; i < 1000; i++) {
		fake_aer(dev, NVME_AER_MAKE(i % 8, i & 0xff, i & 0xff));
		fake_now += 20000000;
		for (int k = 0; k < 3000 && dev->logs <= (uint64_t)i; k++)
			(void)svio_nvme_poll(qp, 0);
	}
	CU_ASSERT_EQUAL(dev->logs, 1000);
	fake_run(dev);
	(void)svio_nvme_reset(nvme);
	settle();
	CU_ASSERT_TRUE(svio_nvme_ready(nvme));
	down();
}

/* Another controller answers after the reset: it does not get the requests. */
static void test_swapped(void)
{
	up();
	submit_all();
	memcpy(dev->id.sn, "OTHER", 5);
	CU_ASSERT_EQUAL(svio_nvme_reset(nvme), -ENODEV);
	for (int k = 0; k < 10; k++)
		(void)svio_nvme_poll(qp, 0);
	CU_ASSERT_TRUE(svio_nvme_gone(nvme));
	check_once(-ENODEV);
	down();
}

/* It came back with fewer queues than are in use, for good. */
static void test_fewer_queues(void)
{
	up();
	svio_nvme_qp_destroy(qp);
	struct svio_nvme_qp *first = fake_qp(nvme, 8);

	qp = fake_qp(nvme, 32); /* queue 2 */
	submit_all();
	dev->grant = 1u << 16; /* one submission queue */
	CU_ASSERT_EQUAL(svio_nvme_reset(nvme), 0);
	for (int k = 0; k < 400 && !svio_nvme_gone(nvme); k++) {
		(void)svio_nvme_poll(qp, 0);
		fake_now += 1000000;
	}
	for (int k = 0; k < 4; k++)
		(void)svio_nvme_poll(qp, 0);
	check_once(-ENODEV);
	svio_nvme_qp_destroy(first);
	down();
}

static void test_namespace(void)
{
	struct svio_nvme_ns bad_ns;

	up();
	dev->lba_shift = 63;
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &bad_ns), -ENOTSUP);
	dev->lba_shift = 3;
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &bad_ns), -ENOTSUP);
	down();
}

static const struct unit_test tests[] = {
	{ "command id out of range", test_cid_out_of_range },
	{ "command id not in flight", test_cid_not_in_flight },
	{ "command id twice", test_cid_twice },
	{ "another queue's id", test_sqid },
	{ "head out of range", test_sqhd },
	{ "lies for ever", test_for_ever },
	{ "admin completions", test_admin },
	{ "events without end", test_aer_flood },
	{ "another controller after the reset", test_swapped },
	{ "fewer queues after the reset", test_fewer_queues },
	{ "namespaces that cannot be", test_namespace },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/hostile", tests);
}
