/* SPDX-License-Identifier: BSD-3-Clause */
/* Losing and finding the controller: by policy, in order, exactly once; timeouts; the end; closing over all of it. */
#include <string.h>
#include "fake.h"
#include "unit.h"

#define N 24

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

static void up(enum svio_nvme_policy policy, uint32_t io_timeout_ms)
{
	struct svio_nvme_opts opts = { .size = sizeof(opts), .policy = policy, .io_timeout_ms = io_timeout_ms };

	dev = fake_new();
	dev->max_steps = 4000000;
	nvme = fake_open(dev, &opts);
	qp = fake_qp(nvme, 64);
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

static void submit(intptr_t from, intptr_t to)
{
	for (intptr_t i = from; i < to; i++)
		CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, (uint64_t)i * 8, 1, 0, cb, (void *)i), 0);
	fake_run(dev);
}

static void polls(int n)
{
	while (n--) {
		(void)svio_nvme_poll(qp, 0);
		fake_now += 50000;
	}
}

static int completed(void)
{
	int n = 0;

	for (int i = 0; i < N; i++)
		n += calls[i];
	return n;
}

static void all_once(int want)
{
	for (int i = 0; i < N; i++) {
		CU_ASSERT_EQUAL(calls[i], 1);
		CU_ASSERT_EQUAL(status[i], want);
	}
}

/* The controller has fetched these LBAs, in this order, since order_len was cleared. */
static void check_order(const int *want, uint32_t n)
{
	CU_ASSERT_EQUAL(dev->order_len, n);
	for (uint32_t i = 0; i < n && i < dev->order_len; i++)
		CU_ASSERT_EQUAL(dev->order_lba[i], (uint64_t)want[i] * 8);
}

static void test_requeue_order(void)
{
	static const int rest[] = { 0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23 };
	struct svio_nvme_stats stats;

	up(SVIO_NVME_REQUEUE, 0);
	submit(0, 20);
	fake_complete(dev, 1, 0); /* posted, not yet taken when the BAR goes: stays a completion */
	fake_complete(dev, 3, 0);
	fake_execute(dev, 0); /* done by the device, never reported: done again */
	fake_revoke(dev);
	polls(20);
	CU_ASSERT_EQUAL(completed(), 0); /* nothing while it is away */
	CU_ASSERT_FALSE(svio_nvme_ready(nvme));
	submit(20, N); /* accepted, held */
	CU_ASSERT_EQUAL(completed(), 0);
	dev->order_len = 0;
	fake_decode(dev, true);
	polls(200);
	CU_ASSERT_TRUE(svio_nvme_ready(nvme));
	CU_ASSERT_EQUAL(completed(), 2);
	CU_ASSERT_TRUE(calls[1] == 1 && calls[4] == 1);
	check_order(rest, SVIO_ARRAY_SIZE(rest));
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.revocations, 1);
	CU_ASSERT_EQUAL(stats.resets, 1);
	CU_ASSERT_EQUAL(stats.requeued, 18);
	CU_ASSERT_EQUAL(stats.failed, 0);
	down();
}

/* Every kind of request is written again as it was. */
static void test_requeue_kinds(void)
{
	struct svio_nvme_range ranges[3] = { { 900, 4 }, { 910, 2 }, { 920, 1 } };
	struct svio_nvme_iov pages[2], any[3];
	struct nvme_cmd before[8];
	uint8_t *big;

	up(SVIO_NVME_REQUEUE, 0);
	big = fake_alloc(1 << 20);
	pages[0] = (struct svio_nvme_iov){ big + 512, 3584 };
	pages[1] = (struct svio_nvme_iov){ big + 8192, 4096 };
	any[0] = (struct svio_nvme_iov){ big + 4, 512 };
	any[1] = (struct svio_nvme_iov){ big + 1004, 1024 };
	any[2] = (struct svio_nvme_iov){ big + 5004, 512 };
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, big, 0, 1, SVIO_NVME_FUA, cb, (void *)0), 0);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, big + 516, 8, 1000, 0, cb, (void *)1), 0);
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, pages, 2, 4, 15, 0, cb, (void *)2), 0);
	CU_ASSERT_EQUAL(svio_nvme_writev(qp, &ns, any, 3, 40, 4, SVIO_NVME_FUA, cb, (void *)3), 0);
	CU_ASSERT_EQUAL(svio_nvme_flush(qp, &ns, cb, (void *)4), 0);
	CU_ASSERT_EQUAL(svio_nvme_write_zeroes(qp, &ns, 77, 9, SVIO_NVME_FUA, cb, (void *)5), 0);
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, ranges, 3, cb, (void *)6), 0);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, big, 80, 8, 0, cb, (void *)7), 0);
	fake_run(dev);
	CU_ASSERT_EQUAL_FATAL(dev->num_cmds, 8);
	for (int i = 0; i < 8; i++)
		before[i] = dev->cmds[i].cmd;
	CU_ASSERT_EQUAL(svio_nvme_reset(nvme), 0);
	polls(50);
	CU_ASSERT_EQUAL_FATAL(dev->num_cmds, 8);
	for (int i = 0; i < 8; i++)
		CU_ASSERT_EQUAL(memcmp(&before[i], &dev->cmds[i].cmd, sizeof(before[i])), 0);
	fake_complete_all(dev);
	polls(2);
	for (int i = 0; i < 8; i++)
		CU_ASSERT_TRUE(calls[i] == 1 && status[i] == 0);
	svio_mem_free(big);
	down();
}

static void test_fail_policy(void)
{
	struct svio_nvme_stats stats;

	up(SVIO_NVME_FAIL, 0);
	submit(0, 10);
	fake_complete(dev, 2, 0);
	fake_function_reset(dev, false);
	dev->order_len = 0;
	polls(3);
	submit(10, N); /* never sent before: not failed */
	polls(100);
	for (int i = 0; i < 10; i++) {
		CU_ASSERT_EQUAL(calls[i], 1);
		CU_ASSERT_EQUAL(status[i], i == 2 ? 0 : -ECANCELED);
	}
	fake_complete_all(dev);
	polls(3);
	for (int i = 10; i < N; i++)
		CU_ASSERT_EQUAL(calls[i], 1);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.failed + (uint64_t)(stats.requeued), 9);
	down();
}

/* The limit of a poll holds for what a reset fails, too. */
static void test_fail_in_parts(void)
{
	up(SVIO_NVME_FAIL, 0);
	submit(0, N);
	for (int i = 0; i < 6; i++)
		fake_complete(dev, 0, 0);
	CU_ASSERT_EQUAL(svio_nvme_reset(nvme), 0);
	for (int n = 0; n < N;) {
		uint32_t k = svio_nvme_poll(qp, 4);

		CU_ASSERT_TRUE_FATAL(k <= 4);
		n += (int)k;
		CU_ASSERT_EQUAL_FATAL(completed(), n);
	}
	for (int i = 0; i < N; i++)
		CU_ASSERT_EQUAL(status[i], i < 6 ? 0 : -ECANCELED);
	down();
}

static void test_reset_hooks(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_function_reset(dev, true);
	CU_ASSERT_EQUAL(completed(), 0);
	polls(100);
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	down();
}

/* During an orderly reset, before it is done, nobody touches the controller. */
static void test_quiesce(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	svio_device_event_set(dev, SVIO_EV_QUIESCE);
	dev->hook->prepare(dev->hook->ctx, dev);
	CU_ASSERT_EQUAL(dev->csts & NVME_CSTS_RDY, 0); /* the reset meets a quiet device */
	polls(100);
	CU_ASSERT_EQUAL(dev->enables, 1);
	CU_ASSERT_EQUAL(completed(), 0);
	dev->hook->done(dev->hook->ctx, dev, 0);
	polls(10);
	CU_ASSERT_EQUAL(dev->enables, 1);
	svio_device_event_clear(dev, SVIO_EV_QUIESCE);
	polls(100);
	CU_ASSERT_EQUAL(dev->enables, 2);
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	down();
}

static void test_gone(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_complete(dev, 5, 0);
	fake_unplug(dev);
	polls(3);
	for (int i = 0; i < N; i++) {
		CU_ASSERT_EQUAL(calls[i], 1);
		CU_ASSERT_EQUAL(status[i], i == 5 ? 0 : -ENODEV);
	}
	CU_ASSERT_TRUE(svio_nvme_gone(nvme));
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, NULL), -ENODEV);
	CU_ASSERT_EQUAL(svio_nvme_flush(qp, &ns, cb, NULL), -ENODEV);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), -ENODEV);
	CU_ASSERT_EQUAL(svio_nvme_reset(nvme), -ENODEV);
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 0);
	down();
}

/* The host wants it back: the controller is stopped before the buffers go back to the caller. */
static void test_req(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	svio_device_event_set(dev, SVIO_EV_REQ);
	for (int i = 0; i < 100 && !completed(); i++)
		polls(1);
	CU_ASSERT_EQUAL(dev->csts & NVME_CSTS_RDY, 0);
	polls(3);
	all_once(-ENODEV);
	CU_ASSERT_EQUAL(dev->enables, 1);
	down();
}

/* The same while its BAR is away: then bus mastering goes. */
static void test_req_revoked(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_revoke(dev);
	polls(3);
	svio_device_event_set(dev, SVIO_EV_REQ);
	polls(100);
	all_once(-ENODEV);
	CU_ASSERT_FALSE(dev->master);
	down();
}

static void elapse(uint64_t ms)
{
	for (uint64_t i = 0; i < ms * 4; i++) {
		for (int k = 0; k < 64; k++)
			(void)svio_nvme_poll(qp, 0);
		fake_now += 250000;
	}
}

static void test_abort(void)
{
	struct svio_nvme_stats stats;

	up(SVIO_NVME_REQUEUE, 200);
	submit(0, N);
	for (int i = 1; i < N; i++)
		fake_complete(dev, 1, 0);
	elapse(150);
	CU_ASSERT_EQUAL(calls[0], 0); /* not before its time */
	elapse(200);
	CU_ASSERT_EQUAL(calls[0], 1);
	CU_ASSERT_EQUAL(status[0], -ETIMEDOUT);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.timeouts, 1);
	CU_ASSERT_EQUAL(stats.aborts, 1);
	CU_ASSERT_EQUAL(stats.resets, 0);
	down();
}

static void test_abort_refused(void)
{
	struct svio_nvme_stats stats;

	up(SVIO_NVME_REQUEUE, 200);
	dev->refuse_abort = true;
	submit(0, 1);
	elapse(180);
	submit(1, N); /* younger: not timed out, kept */
	elapse(400);
	CU_ASSERT_EQUAL(calls[0], 1);
	CU_ASSERT_EQUAL(status[0], -ETIMEDOUT);
	fake_complete_all(dev);
	polls(100);
	fake_complete_all(dev);
	polls(3);
	CU_ASSERT_EQUAL(completed(), N);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.resets, 1);
	CU_ASSERT_TRUE(stats.timeouts >= 1);
	for (int i = 1; i < N; i++)
		CU_ASSERT_TRUE(status[i] == 0 || status[i] == -ETIMEDOUT);
	down();
}

/* A user that did not poll for a minute: what it finds completed is not late. */
static void test_late_poll(void)
{
	struct svio_nvme_stats stats;

	up(SVIO_NVME_REQUEUE, 1000);
	elapse(20);
	fake_now += UINT64_C(60000000000);
	submit(0, N);
	fake_now += UINT64_C(60000000000);
	fake_complete_all(dev);
	elapse(20);
	all_once(0);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.timeouts, 0);
	/* And one submitted after a pause is not as old as the pause. */
	memset(calls, 0, sizeof(calls));
	fake_now += UINT64_C(60000000000);
	submit(0, N);
	elapse(100);
	fake_complete_all(dev);
	elapse(20);
	all_once(0);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_EQUAL(stats.timeouts, 0);
	down();
}

static void test_fatal_status(void)
{
	up(SVIO_NVME_REQUEUE, 60000);
	submit(0, N);
	dev->csts |= NVME_CSTS_CFS;
	elapse(1500);
	CU_ASSERT_EQUAL(dev->enables, 2);
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	down();
}

/* Registers that read all ones although decoding is on: waited for, then given up. */
static void test_lost(void)
{
	up(SVIO_NVME_REQUEUE, 60000);
	submit(0, N);
	dev->dead_regs = true;
	fake_run(dev);
	elapse(1500);
	CU_ASSERT_EQUAL(completed(), 0);
	elapse(3000);
	all_once(-ENODEV);
	CU_ASSERT_FALSE(dev->master);
	down();
}

/* Gone while it comes up again, several times over. */
static void test_lost_again(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	for (int stage = 0; stage < 60; stage++) {
		fake_revoke(dev);
		polls(stage % 7);
		fake_decode(dev, true);
		polls(stage); /* a little further each time */
	}
	polls(200);
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	down();
}

static void test_destroy_in_flight(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_complete(dev, 7, 0);
	svio_nvme_qp_destroy(qp);
	for (int i = 0; i < N; i++) {
		CU_ASSERT_EQUAL(calls[i], 1);
		CU_ASSERT_TRUE(status[i] == (i == 7 ? 0 : SVIO_NVME_SC(0, NVME_SC_ABORT_SQ_DELETED)) || status[i] == -ECANCELED);
	}
	CU_ASSERT_FALSE(dev->sq[1].exists || dev->cq[1].exists);
	qp = NULL;
	down();
}

/* While the BAR is away: no hang, and the controller cannot reach the freed memory. */
static void test_destroy_revoked(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_revoke(dev);
	svio_nvme_qp_destroy(qp);
	all_once(-ECANCELED);
	CU_ASSERT_FALSE(dev->master);
	/* The device comes back, stopped before it may write again. */
	fake_decode(dev, true);
	qp = fake_qp(nvme, 64);
	CU_ASSERT_TRUE(dev->master);
	memset(calls, 0, sizeof(calls));
	submit(0, N);
	fake_complete_all(dev);
	polls(3);
	all_once(0);
	down();
}

/* Delete is not answered: the controller is reset, and the memory is safe. */
static void test_destroy_mute(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	dev->mute_opcode = NVME_ADM_DELETE_SQ;
	svio_nvme_qp_destroy(qp);
	all_once(-ECANCELED);
	dev->mute_opcode = -1;
	qp = fake_qp(nvme, 64);
	down();
}

static void test_close_revoked(void)
{
	up(SVIO_NVME_REQUEUE, 0);
	submit(0, N);
	fake_revoke(dev);
	down(); /* fake_free() sees that no DMA went astray */
}

static const struct unit_test tests[] = {
	{ "requeued in order, completions that were posted stay", test_requeue_order },
	{ "every kind of request is the same again", test_requeue_kinds },
	{ "policy fail", test_fail_policy },
	{ "policy fail, a few at a time", test_fail_in_parts },
	{ "an orderly function reset", test_reset_hooks },
	{ "quiesced: hands off", test_quiesce },
	{ "unplugged", test_gone },
	{ "the host wants it back", test_req },
	{ "the host wants it back while the BAR is away", test_req_revoked },
	{ "timeout: abort", test_abort },
	{ "timeout: abort refused, reset", test_abort_refused },
	{ "late polls are not late requests", test_late_poll },
	{ "controller fatal status under load", test_fatal_status },
	{ "registers lost for good", test_lost },
	{ "lost again while it comes up", test_lost_again },
	{ "queue pair destroyed with requests in flight", test_destroy_in_flight },
	{ "queue pair destroyed while the BAR is away", test_destroy_revoked },
	{ "queue deletion not answered", test_destroy_mute },
	{ "closed while the BAR is away", test_close_revoked },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/recover", tests);
}
