/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine on a driver of memory that misbehaves to order: whatever can go wrong with a request or a block is
 * counted, as what it is; and nothing else is.
 */
#include <stdlib.h>
#include <string.h>
#include "fake_nvme.h"
#include "perf.h"
#include "unit.h"

#define MS UINT64_C(1000000)

static struct perf_result result;

static struct perf_config config(enum perf_rw rw)
{
	struct perf_config c = { .rw = rw,
				 .bs = 4096,
				 .qd = 32,
				 .queues = 1,
				 .read_pct = 50,
				 .seed = 1,
				 .verify = true,
				 .drain_ms = 50 };

	return c;
}

static struct perf *create(const struct perf_config *c)
{
	struct perf *perf = NULL;

	fake_expect_offset(c->offset);
	CU_ASSERT_EQUAL_FATAL(perf_create(c, &fake_ns, &perf), 0);
	CU_ASSERT_EQUAL_FATAL(perf_attach(perf, fake_device, fake_nvme, &fake_ns, false), 0);
	return perf;
}

/* Let it complete so many requests, or end by itself. */
static int run_for(struct perf *perf, uint64_t requests)
{
	struct perf_sample s;
	uint64_t before;

	perf_sample(perf, &s);
	before = s.ops[0] + s.ops[1] + s.failed;
	CU_ASSERT_EQUAL_FATAL(perf_start(perf, PERF_RUN), 0);
	do {
		perf_wait(perf, svio_now_ns() + MS);
		perf_sample(perf, &s);
	} while (s.ops[0] + s.ops[1] + s.failed < before + requests && perf_running(perf));
	perf_stop(perf);
	return perf_join(perf);
}

static int read_back(struct perf *perf)
{
	CU_ASSERT_EQUAL_FATAL(perf_start(perf, PERF_READBACK), 0);
	while (perf_running(perf))
		perf_wait(perf, svio_now_ns() + MS);
	return perf_join(perf);
}

static void finish(struct perf *perf)
{
	perf_detach(perf);
	perf_get_result(perf, &result);
	perf_destroy(perf);
	CU_ASSERT_EQUAL(fake_queue_pairs(), 0);
}

static uint64_t status_count(int status)
{
	for (int i = 0; i < PERF_STATUSES && result.status[i].count; i++)
		if (result.status[i].status == status)
			return result.status[i].count;
	return 0;
}

static void expect_clean(void)
{
	CU_ASSERT_EQUAL(result.lost, 0);
	CU_ASSERT_EQUAL(result.doubled, 0);
	CU_ASSERT_EQUAL(result.completed_err, 0);
	CU_ASSERT_EQUAL(result.verify_errors, 0);
	CU_ASSERT_EQUAL(result.submitted, result.completed_ok);
	CU_ASSERT_FALSE(fake_overlapped());
	CU_ASSERT_EQUAL(fake_wrong_offsets(), 0);
}

static void test_matrix(void)
{
	static const struct {
		uint32_t bs, offset, qd, queues, batch;
	} cases[] = {
		{ 512, 0, 1, 1, 0 },
		{ 512, 12, 32, 3, 0 },
		{ 4096, 0, 256, 2, 8 },
		{ 4096, 4, 32, 4, 1 },
		{ 65536, 512, 32, 1, 0 },
		{ 1 << 20, 1028, 2, 2, 0 },
		{ 1 << 20, 0, 32, 1, 0 } /* more requests than places */,
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++)
		for (int rw = 0; rw < PERF_RW_KINDS; rw++) {
			struct perf_config c = config((enum perf_rw)rw);
			struct perf *perf;
			bool writes = rw == PERF_RANDRW || rw == PERF_WRITE || rw == PERF_RANDWRITE;

			fake_reset();
			c.bs = cases[i].bs;
			c.offset = cases[i].offset;
			c.qd = cases[i].qd;
			c.queues = cases[i].queues;
			c.batch = cases[i].batch;
			perf = create(&c);
			CU_ASSERT_EQUAL(run_for(perf, 300), 0);
			CU_ASSERT_EQUAL(read_back(perf), 0);
			finish(perf);
			expect_clean();
			CU_ASSERT(result.completed_ok >= 300);
			CU_ASSERT_EQUAL(result.slots_written > 0, writes);
			CU_ASSERT_EQUAL(result.readback_slots, result.slots_written);
			CU_ASSERT(fake_max_inflight() <= c.qd);
			if (c.bs <= 4096) {
				CU_ASSERT_EQUAL(fake_max_inflight(), c.qd);
			}
			if (writes) {
				CU_ASSERT(result.verified[VERIFY_OK] >=
					  result.slots_written * (c.bs / FAKE_LBA_SIZE));
			} else {
				CU_ASSERT_EQUAL(result.verified[VERIFY_UNKNOWN],
						result.completed_ok * (c.bs / FAKE_LBA_SIZE));
			}
		}
}

static void test_plain(void)
{
	struct perf_config c = config(PERF_RANDRW);
	struct perf *perf;
	uint64_t reads, writes;

	fake_reset();
	c.verify = false;
	c.read_pct = 80;
	c.queues = 2;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 20000), 0);
	finish(perf);
	CU_ASSERT(result.lost == 0 && result.doubled == 0 &&
		  result.submitted == result.completed_ok);
	reads = result.latency[PERF_OP_READ].count;
	writes = result.latency[PERF_OP_WRITE].count;
	CU_ASSERT_EQUAL(reads + writes, result.completed_ok);
	CU_ASSERT(reads > writes * 3 && reads < writes * 5);
}

static bool is_zero(size_t first, size_t end)
{
	for (size_t i = first * FAKE_LBA_SIZE; i < end * FAKE_LBA_SIZE; i++)
		if (fake_disk[i])
			return false;
	return true;
}

/* Requests follow the whole range in order, each queue its part. */
static void test_sequential(void)
{
	struct perf_config c = config(PERF_WRITE);
	struct perf *perf;

	fake_reset();
	c.queues = 3;
	c.lba = 100;
	c.blocks = 8 * 100 + 5; /* a hundred requests, and some blocks that fill none */
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 500), 0);
	CU_ASSERT_EQUAL(read_back(perf), 0);
	finish(perf);
	expect_clean();
	CU_ASSERT_EQUAL(result.blocks, 800);
	CU_ASSERT_EQUAL(result.slots_written, 100);
	CU_ASSERT_EQUAL(result.readback_slots, 100);
	CU_ASSERT(is_zero(0, 100));
	CU_ASSERT_FALSE(is_zero(100, 900));
	CU_ASSERT(is_zero(900, FAKE_BLOCKS));
}

static void run_faulty(enum perf_rw rw, uint64_t requests)
{
	struct perf_config c = config(rw);
	struct perf *perf = create(&c);

	if (run_for(perf, requests) == 0)
		read_back(perf);
	finish(perf);
}

static void test_twice(void)
{
	fake_reset();
	fake_faults.twice = 50;
	run_faulty(PERF_RANDRW, 2000);
	CU_ASSERT(result.doubled > 0);
	CU_ASSERT_EQUAL(result.lost, 0);
	CU_ASSERT_EQUAL(result.submitted, result.completed_ok);
	CU_ASSERT_EQUAL(result.verify_errors, 0);
}

static void test_lost(void)
{
	struct perf_config c = config(PERF_RANDRW);
	struct perf *perf;

	fake_reset();
	fake_faults.lose = 500;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 2000), -ETIMEDOUT);
	finish(perf);
	CU_ASSERT(result.lost >= 4 && result.lost < 32);
	CU_ASSERT_EQUAL(result.doubled, 0);
	/* They end with their queue pair; that does not make them found. */
	CU_ASSERT_EQUAL(status_count(-ECANCELED), result.lost);
}

static void test_errors(void)
{
	fake_reset();
	fake_faults.fail = 10;
	fake_faults.fail_status = SVIO_NVME_SC(0, 0x04);
	run_faulty(PERF_RANDRW, 2000);
	CU_ASSERT_EQUAL(result.lost, 0);
	CU_ASSERT_EQUAL(result.doubled, 0);
	CU_ASSERT_EQUAL(result.submitted, result.completed_ok + result.completed_err);
	CU_ASSERT_EQUAL(status_count(SVIO_NVME_SC(0, 0x04)), result.completed_err);
	CU_ASSERT(result.completed_err >= 200);
	/* A write that failed left the old version: no error of the data. */
	CU_ASSERT_EQUAL(result.verify_errors, 0);
}

/* A write that failed halfway may leave some new blocks among old ones, and nothing worse. */
static void test_torn(void)
{
	fake_reset();
	fake_faults.torn = 7;
	run_faulty(PERF_RANDWRITE, 2000);
	CU_ASSERT(result.completed_err > 0);
	CU_ASSERT_EQUAL(result.verify_errors, 0);
	CU_ASSERT_EQUAL(result.readback_slots, result.slots_written);
}

static void test_flip(void)
{
	fake_reset();
	fake_faults.flip = 100;
	run_faulty(PERF_RANDRW, 2000);
	CU_ASSERT(result.verified[VERIFY_BAD_CRC] > 0);
	CU_ASSERT_EQUAL(result.verify_errors, result.verified[VERIFY_BAD_CRC]);
	CU_ASSERT(result.complaints > 0);
	CU_ASSERT_EQUAL(result.complaint[0].result, VERIFY_BAD_CRC);
	CU_ASSERT_EQUAL(result.completed_err, 0);
}

static void test_dropped_write(void)
{
	fake_reset();
	fake_faults.drop_write = 100;
	run_faulty(PERF_RANDWRITE, 6000);
	CU_ASSERT(result.verified[VERIFY_STALE] > 0 || result.verified[VERIFY_BAD_MAGIC] > 0);
	CU_ASSERT_EQUAL(result.verify_errors,
			result.verified[VERIFY_STALE] + result.verified[VERIFY_BAD_MAGIC]);
	CU_ASSERT_EQUAL(result.completed_err, 0);
}

static void test_misplaced_write(void)
{
	fake_reset();
	fake_faults.misplace = 100;
	run_faulty(PERF_RANDWRITE, 6000);
	CU_ASSERT(result.verified[VERIFY_BAD_LBA] > 0);
	CU_ASSERT_EQUAL(result.completed_err, 0);
}

/* A full queue is no error: the request waits, and nothing is taken for written before it was. */
static void test_busy(void)
{
	static const enum perf_rw kinds[] = { PERF_RANDRW, PERF_WRITE };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(kinds); i++) {
		fake_reset();
		fake_faults.busy = 3;
		run_faulty(kinds[i], 1500);
		expect_clean();
		CU_ASSERT_EQUAL(result.readback_slots, result.slots_written);
		CU_ASSERT_EQUAL(result.verified[VERIFY_UNKNOWN], 0);
	}
	/* In order, and without a gap: as many places as requests, until the device goes. */
	fake_reset();
	fake_faults.busy = 3;
	fake_faults.gone_after = 1000;
	run_faulty(PERF_WRITE, 1000000);
	CU_ASSERT(result.submitted >= 1000 && result.submitted < FAKE_BLOCKS / 8);
	CU_ASSERT_EQUAL(result.slots_written, result.submitted);
	CU_ASSERT(is_zero(result.submitted * 8, FAKE_BLOCKS));
}

static void test_refused(void)
{
	struct perf_config c = config(PERF_RANDRW);
	struct perf *perf;

	fake_reset();
	fake_faults.refuse_after = 1000;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 1000000), -EFAULT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "cannot submit"));
	finish(perf);
	CU_ASSERT_EQUAL(result.submitted, 1000);
	CU_ASSERT_EQUAL(result.completed_ok, 1000);
	CU_ASSERT(result.lost == 0 && result.doubled == 0);
}

/* The device goes, and comes back with what it held. */
static void test_gone_and_back(void)
{
	struct perf_config c = config(PERF_RANDRW);
	struct svio_nvme *nvme;
	struct perf *perf;
	uint64_t run;

	fake_reset();
	c.queues = 2;
	fake_faults.gone_after = 1500;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 1000000), -ENODEV);
	CU_ASSERT(perf_gone(perf));
	perf_get_result(perf, &result);
	run = result.run;
	CU_ASSERT_EQUAL(result.submitted, result.completed_ok + result.completed_err);
	CU_ASSERT_EQUAL(result.completed_err, status_count(-ENODEV));
	CU_ASSERT(result.completed_err > 0 && result.completed_err <= 64);
	perf_detach(perf);
	fake_faults.gone_after = 0;
	svio_nvme_open(fake_device, NULL, NULL, &nvme);
	CU_ASSERT_EQUAL_FATAL(perf_attach(perf, fake_device, nvme, &fake_ns, true), 0);
	CU_ASSERT_EQUAL(run_for(perf, 1000), 0);
	CU_ASSERT_FALSE(perf_gone(perf));
	CU_ASSERT_EQUAL(read_back(perf), 0);
	finish(perf);
	CU_ASSERT_EQUAL(result.run, run);
	CU_ASSERT(result.lost == 0 && result.doubled == 0 && result.verify_errors == 0);
	CU_ASSERT_EQUAL(result.readback_slots, result.slots_written);
}

/* Another device holds nothing of ours: the book begins anew, and old blocks are foreign. */
static void test_gone_and_another(void)
{
	struct perf_config c = config(PERF_RANDWRITE);
	struct svio_nvme *nvme;
	struct perf *perf;
	uint64_t run;

	fake_reset();
	fake_faults.gone_after = 500;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 1000000), -ENODEV);
	perf_get_result(perf, &result);
	run = result.run;
	perf_detach(perf);
	memset(fake_disk, 0, sizeof(fake_disk));
	fake_faults.gone_after = 0;
	svio_nvme_open(fake_device, NULL, NULL, &nvme);
	CU_ASSERT_EQUAL_FATAL(perf_attach(perf, fake_device, nvme, &fake_ns, false), 0);
	CU_ASSERT_EQUAL(run_for(perf, 100), 0);
	CU_ASSERT_EQUAL(read_back(perf), 0);
	finish(perf);
	CU_ASSERT_NOT_EQUAL(result.run, run);
	CU_ASSERT(result.lost == 0 && result.doubled == 0 && result.verify_errors == 0);
	CU_ASSERT_EQUAL(result.readback_slots, result.slots_written);
}

/* The same, told wrongly that nothing has changed: noticed. */
static void test_another_taken_for_the_same(void)
{
	struct perf_config c = config(PERF_RANDWRITE);
	struct perf *perf;

	fake_reset();
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 500), 0);
	memset(fake_disk, 0, sizeof(fake_disk));
	CU_ASSERT_EQUAL(read_back(perf), 0);
	finish(perf);
	CU_ASSERT_EQUAL(result.verify_errors, result.verified[VERIFY_BAD_MAGIC]);
	CU_ASSERT_EQUAL(result.verify_errors, result.slots_written * 8);
}

/* What an earlier run left is judged by itself: this is how a killed run's data are checked. */
static void test_earlier_run(void)
{
	struct perf_config c = config(PERF_WRITE);
	struct perf *perf;

	fake_reset();
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 3000), 0);
	finish(perf);
	CU_ASSERT_EQUAL(result.slots_written, FAKE_BLOCKS / 8);
	c.rw = PERF_READ;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 3000), 0);
	finish(perf);
	CU_ASSERT_EQUAL(result.verify_errors, 0);
	CU_ASSERT_EQUAL(result.verified[VERIFY_FOREIGN], result.completed_ok * 8);
	fake_disk[FAKE_LBA_SIZE * 10 + 100] ^= 1;
	perf = create(&c);
	CU_ASSERT_EQUAL(run_for(perf, 3000), 0);
	finish(perf);
	CU_ASSERT(result.verified[VERIFY_BAD_CRC] > 0);
	CU_ASSERT_EQUAL(result.complaint[0].lba, 10);
}

static void test_does_not_fit(void)
{
	struct perf_config c = config(PERF_READ);
	struct perf *perf = NULL;

	fake_reset();
	c.bs = 768;
	CU_ASSERT_EQUAL(perf_create(&c, &fake_ns, &perf), -EINVAL);
	c = config(PERF_READ);
	c.lba = FAKE_BLOCKS;
	CU_ASSERT_EQUAL(perf_create(&c, &fake_ns, &perf), -ERANGE);
	c.lba = 1;
	c.blocks = FAKE_BLOCKS;
	CU_ASSERT_EQUAL(perf_create(&c, &fake_ns, &perf), -ERANGE);
	c.blocks = 16;
	c.queues = 3;
	CU_ASSERT_EQUAL(perf_create(&c, &fake_ns, &perf), -ERANGE);
	CU_ASSERT_PTR_NULL(perf);
	/* Limits of the controller. */
	c = config(PERF_READ);
	c.qd = 2048;
	CU_ASSERT_EQUAL_FATAL(perf_create(&c, &fake_ns, &perf), 0);
	CU_ASSERT_EQUAL(perf_attach(perf, fake_device, fake_nvme, &fake_ns, false), -EINVAL);
	perf_destroy(perf);
	CU_ASSERT_EQUAL(fake_queue_pairs(), 0);
}

static const struct unit_test tests[] = {
	{ "all loads, sizes, depths and queues come out clean", test_matrix },
	{ "without verify: the mix, and a latency for every request", test_plain },
	{ "in order, within the range", test_sequential },
	{ "a completion too many is counted", test_twice },
	{ "a request that never completes is lost", test_lost },
	{ "failed requests are counted by status", test_errors },
	{ "a failed write leaves either version", test_torn },
	{ "a wrong bit is found", test_flip },
	{ "a write that never happened is found", test_dropped_write },
	{ "a write in the wrong place is found", test_misplaced_write },
	{ "a full queue only delays", test_busy },
	{ "a refused request ends the run, explained", test_refused },
	{ "a device that goes and comes back", test_gone_and_back },
	{ "a device that is replaced", test_gone_and_another },
	{ "lost data are found", test_another_taken_for_the_same },
	{ "what an earlier run wrote is checked by itself", test_earlier_run },
	{ "what does not fit is refused", test_does_not_fit },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/perf", tests);
}
