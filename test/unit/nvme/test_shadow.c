/* SPDX-License-Identifier: BSD-3-Clause */
/* Doorbell Buffer Config (1.4 §5.7): shadows instead of doorbells, EventIdx obeyed, nothing left over a reset. */
#include <string.h>
#include "fake.h"
#include "unit.h"

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint8_t *mem;
static int calls;

static void cb(void *ctx, int status)
{
	(void)ctx;
	CU_ASSERT_EQUAL(status, 0);
	calls++;
}

static void up_with(bool off, bool messages)
{
	struct svio_nvme_opts opts = { .size = sizeof(opts), .no_shadow_doorbells = off };
	struct svio_nvme_info info;

	dev = fake_new();
	dev->no_mapping = messages;
	dev->id.oacs = svio_cpu_to_le16(NVME_OACS_DBBUF);
	nvme = fake_open(dev, &opts);
	svio_nvme_get_info(nvme, &info);
	CU_ASSERT_EQUAL(info.shadow_doorbells, !off);
	CU_ASSERT_EQUAL(dev->dbbuf, off ? 0 : 1);
	qp = fake_qp(nvme, 16);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	mem = fake_alloc(65536);
	calls = 0;
}

static void up(bool off)
{
	up_with(off, false);
}

static void down(void)
{
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	svio_mem_free(mem);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

static uint32_t doorbell(void)
{
	return svio_mmio_read32(dev->bar + NVME_DB_SQ(1, 0));
}

static uint32_t *word(uint64_t base, bool cq)
{
	return (uint32_t *)(uintptr_t)(base - FAKE_DELTA + 8 + (cq ? 4 : 0));
}

static void test_eventidx(void)
{
	uint32_t sent = 0;

	up(false);
	dev->auto_io = false;
	/* EventIdx 0, tail 0 → 1: passes the mark, so the real doorbell is rung. */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
	CU_ASSERT_EQUAL(*word(dev->shadow, false), 1);
	CU_ASSERT_EQUAL(doorbell(), 1);
	/* The controller has not looked: EventIdx stays behind, the shadow alone moves. */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
	CU_ASSERT_EQUAL(*word(dev->shadow, false), 2);
	CU_ASSERT_EQUAL(doorbell(), 1);
	/* It asks to be told at 2: held back, then 2 → 5 passes it. */
	*word(dev->eventidx, false) = 2;
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, SVIO_NVME_MORE, cb, NULL), 0);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, SVIO_NVME_MORE, cb, NULL), 0);
	CU_ASSERT_EQUAL(*word(dev->shadow, false), 2);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
	CU_ASSERT_EQUAL(*word(dev->shadow, false), 5);
	CU_ASSERT_EQUAL(doorbell(), 5);
	sent = 5;
	/* And around the ring, many times, with the controller's EventIdx right behind. */
	dev->auto_io = true;
	fake_complete_all(dev);
	for (int i = 0; i < 200; i++) {
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
		sent++;
		fake_run(dev);
		(void)svio_nvme_poll(qp, 0);
		CU_ASSERT_EQUAL(calls, sent);
	}
	down();
}

static void test_off(void)
{
	up(true);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
	fake_run(dev);
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 1);
	down();
}

static void test_refused(void)
{
	struct svio_nvme_info info;

	dev = fake_new();
	dev->id.oacs = svio_cpu_to_le16(NVME_OACS_DBBUF);
	dev->fail_opcode = NVME_ADM_DBBUF_CONFIG;
	dev->fail_status = NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD);
	nvme = fake_open(dev, NULL); /* goes on without */
	svio_nvme_get_info(nvme, &info);
	CU_ASSERT_FALSE(info.shadow_doorbells);
	svio_nvme_close(nvme);
	fake_free(dev);
}

/* A tail of the old generation must not reach the new queue by its shadow. */
/* A BAR that cannot be mapped: each doorbell is a message, or with shadows those that EventIdx asks for. */
static void test_messages(void)
{
	uint64_t before;

	for (int off = 0; off < 2; off++) {
		up_with(off, true);
		CU_ASSERT_EQUAL(dev->bars, 0);
		dev->auto_io = true;
		for (int i = 0; i < 100; i++) {
			if (i == 50) {
				CU_ASSERT_EQUAL(svio_nvme_reset(nvme), 0);
				/* Rung before the queue pair has heard of it, and submitted again afterwards. */
			}
			CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
			for (int step = 0; step < 50 && calls <= i; step++) {
				fake_run(dev);
				(void)svio_nvme_poll(qp, 0);
			}
			CU_ASSERT_EQUAL(calls, i + 1);
		}
		before = dev->db_messages;
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
		CU_ASSERT_EQUAL(dev->db_messages, before + 1); /* the controller had taken everything: it asks */
		dev->auto_io = false;
		fake_run(dev);
		CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 1);
		before = dev->db_messages;
		if (!off)
			*word(dev->eventidx, false) = (doorbell() - 1) & 15; /* passed already: it is looking by itself */
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
		CU_ASSERT_EQUAL(dev->db_messages, before + (off ? 1 : 0));
		fake_run(dev);
		fake_complete_all(dev);
		CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 1);
		down();
	}
}

static void test_reset(void)
{
	up(false);
	for (int round = 0; round < 20; round++) {
		dev->auto_io = false;
		for (int i = 0; i < 5; i++)
			CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
		fake_run(dev);
		CU_ASSERT_EQUAL(svio_nvme_reset(nvme), 0);
		/* Not told yet, the queue pair still rings: into the shadow of queues that are no more. */
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), 0);
		dev->auto_io = true;
		for (int i = 0; i < 50; i++) {
			(void)svio_nvme_poll(qp, 0);
			fake_run(dev);
		}
		CU_ASSERT_EQUAL(calls, (round + 1) * 6);
	}
	down();
}

static const struct unit_test tests[] = {
	{ "EventIdx decides", test_eventidx },
	{ "not used when not wanted", test_off },
	{ "goes on without when refused", test_refused },
	{ "doorbells by messages, with shadows and without", test_messages },
	{ "nothing old after a reset", test_reset },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/shadow", tests);
}
