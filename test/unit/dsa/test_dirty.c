/* SPDX-License-Identifier: BSD-3-Clause */
/* The driver's log for dirty tracking: what operations of identity bonds write is marked when they complete, with whatever result. */
#include <string.h>
#include "fake.h"
#include "unit.h"

#define PAGE  4096u
#define PAGES 64u

static struct svio_device *dev;
static struct svio_dsa *dsa;
static struct svio_dsa_wq *wq;
static struct svio_sva_bond bond;
static uint8_t *mem, *table;
static struct seen seen;

/* The table's entries for the arena. */
static uint8_t *first_page(void)
{
	const uint8_t *arena = mem;

	while (fake_in_arena(arena - PAGE, 1))
		arena -= PAGE;
	return table + ((uintptr_t)arena >> SVIO_DIRTY_SHIFT);
}

static void start(void)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 2, .timeout_ms = 100 };

	dev = fake_new();
	bond = fake_bond(dev, false);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(dev, &opts, &dsa), 0);
	CU_ASSERT_PTR_NULL(dev->log);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(dsa, &bond, NULL, &wq), 0);
	mem = fake_buf(PAGES * PAGE);
	table = fake_dirty_table();
	for (size_t i = 0; i < FAKE_ARENA / PAGE; i++)
		first_page()[i] = 0;
	CU_ASSERT_PTR_NOT_NULL_FATAL(dev->log);
	CU_ASSERT_PTR_EQUAL(dev->log->dev, dev);
}

static void stop(void)
{
	svio_dsa_wq_destroy(wq);
	CU_ASSERT_PTR_NULL(dev->log);
	svio_dsa_close(dsa);
	fake_free(dev);
}

static void on(void)
{
	dev->log->set(dev->log->ctx, table);
}

static void off(void)
{
	dev->log->set(dev->log->ctx, NULL);
}

static void run(void)
{
	for (uint32_t i = 0; i < 1000 && svio_dsa_inflight(wq); i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
		fake_now += 1000000;
	}
	CU_ASSERT_EQUAL(svio_dsa_inflight(wq), 0);
}

/* Marked pages of mem, as a bitmap; and unmarks them. */
static uint64_t marked(void)
{
	uint8_t *marks = table + ((uintptr_t)mem >> SVIO_DIRTY_SHIFT);
	uint64_t got = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		got |= (uint64_t)marks[i] << i;
	memset(marks, 0, PAGES);
	return got;
}

static struct svio_dsa_op op_of(enum svio_dsa_opcode op)
{
	return (struct svio_dsa_op){ .op = op, .src = mem + 32 * PAGE, .src2 = mem + 40 * PAGE, .dst = mem + 2 * PAGE - 8,
				     .dst2 = mem + 10 * PAGE - 8, .len = PAGE };
}

static void submit(enum svio_dsa_opcode op)
{
	struct svio_dsa_op o = op_of(op);

	CU_ASSERT_EQUAL(svio_dsa_submit(wq, &o, cb, &seen), 0);
}

static void test_off(void)
{
	start();
	submit(SVIO_DSA_COPY);
	run();
	CU_ASSERT_EQUAL(marked(), 0);
	on();
	off();
	submit(SVIO_DSA_COPY);
	run();
	CU_ASSERT_EQUAL(marked(), 0);
	stop();
}

static void test_operations(void)
{
	static const struct {
		enum svio_dsa_opcode op;
		uint64_t want;
	} cases[] = {
		{ SVIO_DSA_COPY, 3u << 1 },	  { SVIO_DSA_FILL, 3u << 1 },
		{ SVIO_DSA_COPY_CRC, 3u << 1 },	  { SVIO_DSA_DUALCAST, 3u << 1 | 3u << 9 },
		{ SVIO_DSA_CRC, 0 },		  { SVIO_DSA_COMPARE, 0 },
		{ SVIO_DSA_COMPARE_PATTERN, 0 },  { SVIO_DSA_NOOP, 0 },
		{ SVIO_DSA_DRAIN, 0 },
	};

	start();
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		submit(cases[i].op); /* in flight when tracking begins */
		fake_run(dev);
		on();
		CU_ASSERT_EQUAL(marked(), 0); /* not before it completes */
		run();
		CU_ASSERT_EQUAL(marked(), cases[i].want);
		submit(cases[i].op);
		run();
		CU_ASSERT_EQUAL(marked(), cases[i].want);
		off();
	}
	stop();
}

static void test_batches(void)
{
	struct svio_dsa_op ops[3];

	start();
	on();
	ops[0] = op_of(SVIO_DSA_COPY);
	ops[1] = op_of(SVIO_DSA_CRC);
	ops[2] = op_of(SVIO_DSA_FILL);
	ops[2].dst = mem + 20 * PAGE;
	ops[2].len = 1;
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, 3, NULL, cb, &seen), 0);
	run();
	CU_ASSERT_EQUAL(marked(), 3u << 1 | 1u << 20);
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, &ops[2], 1, NULL, cb, &seen), 0);
	run();
	CU_ASSERT_EQUAL(marked(), 1u << 20);
	stop();
}

/* Longer than a piece, stopped in the middle, refused, canceled: what may have been written is marked. */
static void test_trouble(void)
{
	struct svio_dsa_op long_one = { .op = SVIO_DSA_FILL, .len = UINT64_C(1) << 21 };
	uint8_t *far;

	start();
	on();
	far = fake_buf(long_one.len);
	long_one.dst = far;
	CU_ASSERT_EQUAL(svio_dsa_submit(wq, &long_one, cb, &seen), 0);
	run();
	for (size_t i = 0; i < long_one.len / PAGE; i++)
		CU_ASSERT_EQUAL(table[((uintptr_t)far >> SVIO_DIRTY_SHIFT) + i], 1);
	memset(table + ((uintptr_t)far >> SVIO_DIRTY_SHIFT), 0, long_one.len / PAGE);

	dev->force = DSA_ST_HW_ERROR;
	submit(SVIO_DSA_COPY);
	run();
	dev->force = 0;
	CU_ASSERT_EQUAL(seen.res.status, DSA_ST_HW_ERROR);
	CU_ASSERT_EQUAL(marked(), 3u << 1);

	/* The device goes away under it (policy: cancel). */
	dev->lose = true;
	submit(SVIO_DSA_DUALCAST);
	fake_run(dev);
	dev->lose = false;
	svio_dsa_reset(dsa);
	run();
	CU_ASSERT_EQUAL(seen.res.status, -ECANCELED);
	CU_ASSERT_EQUAL(marked(), 3u << 1 | 3u << 9);

	/* Before the device is stopped to move as it is: what is in flight counts. */
	dev->stall_until = UINT64_MAX;
	submit(SVIO_DSA_COPY);
	svio_dsa_state_quiesce(dsa);
	CU_ASSERT_EQUAL(marked(), 3u << 1);
	dev->stall_until = 0;
	run();
	stop();
}

/* Records are marked whenever somebody collects; native queues say nothing, and leave the log to others. */
static void test_records(void)
{
	struct svio_sva_bond native;
	struct svio_dsa_wq *other;
	uint32_t records = 0;

	start();
	on();
	native = fake_bond(dev, true);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(dsa, &native, NULL, &other), 0);
	dev->log->touch(dev->log->ctx, table);
	for (size_t i = 0; i < FAKE_ARENA / PAGE; i++)
		records += first_page()[i];
	CU_ASSERT_TRUE(records >= 2);
	CU_ASSERT_EQUAL(marked(), 0);
	CU_ASSERT_EQUAL(svio_dsa_run(other, &(struct svio_dsa_op){ .op = SVIO_DSA_FILL, .dst = mem, .len = PAGE }, NULL), 0);
	CU_ASSERT_EQUAL(marked(), 0);
	svio_dsa_wq_destroy(other);
	CU_ASSERT_PTR_NOT_NULL(dev->log);
	stop();
}

static const struct unit_test tests[] = {
	{ "off: nothing", test_off },
	{ "each operation", test_operations },
	{ "batches", test_batches },
	{ "whatever becomes of it", test_trouble },
	{ "records, and native queues", test_records },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/dirty", tests);
}
