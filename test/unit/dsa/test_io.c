/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations, pieces, page faults, batches, drains: on a device of memory (simulated). */
#include <stdlib.h>
#include <string.h>
#include "fake.h"
#include "unit.h"

#define PAGE 4096u

static struct svio_device *dev;
static struct svio_dsa *dsa;
static struct svio_dsa_wq *wq;
static struct svio_sva_bond bond;

static void begin(bool native, uint32_t max_xfer_shift, uint32_t batch)
{
	struct svio_dsa_wq_opts opts = { .size = sizeof(opts), .max_batch = batch };

	dev = fake_new();
	if (max_xfer_shift)
		dev->gencap = (dev->gencap & ~(0x1full << 16)) | (uint64_t)max_xfer_shift << 16;
	bond = fake_bond(dev, native);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(dev, NULL, &dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(dsa, &bond, &opts, &wq), 0);
}

static void finish(void)
{
	svio_dsa_wq_destroy(wq);
	svio_dsa_close(dsa);
	CU_ASSERT_EQUAL(dev->bad_dma, 0);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

static int run(const struct svio_dsa_op *op, struct svio_dsa_result *res)
{
	struct seen s = { 0 };
	int err = svio_dsa_submit(wq, op, cb, &s);

	if (err)
		return err;
	for (int i = 0; i < 100000 && !s.calls; i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
	}
	CU_ASSERT_EQUAL(s.calls, 1);
	if (res)
		*res = s.res;
	return s.res.status;
}

static void noise(uint8_t *p, size_t n, unsigned int seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1103515245 + 12345;
		p[i] = (uint8_t)(seed >> 16);
	}
}

/* Every operation, on lengths around pieces of 2 KiB, against what the C library says. */
static void all_operations(bool native, bool faults)
{
	static const uint32_t lens[] = { 1, 7, 8, 64, 2047, 2048, 2049, 6000, 3 * PAGE + 5 };
	struct svio_dsa_result res;
	uint8_t *src, *dst, *dst2;

	begin(native, 11, 0);
	src = fake_buf(8 * PAGE);
	dst = fake_buf(8 * PAGE);
	dst2 = fake_buf(8 * PAGE);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(lens); i++) {
		uint32_t n = lens[i], off = 13 + (uint32_t)i;
		uint8_t *s = src + off, *d = dst + off, *d2 = dst2 + off;
		uint64_t pattern = UINT64_C(0x8877665544332211);
		bool ok = true;

		for (int k = 0; k < 2; k++) {
			struct svio_dsa_op op = { .len = n, .src = s, .dst = d };

			if (faults)
				for (unsigned int p = 0; p < 4; p++) {
					fake_absent(dev, src + p * PAGE, false);
					fake_absent(dev, dst + p * PAGE, false);
					fake_absent(dev, dst2 + p * PAGE, false);
				}
			noise(s, n, n);
			memset(d, 0, n + 1);
			op.op = SVIO_DSA_COPY;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(!memcmp(s, d, n) && !d[n] && res.bytes == n);
			op.op = SVIO_DSA_COMPARE;
			op.src2 = d;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(!res.differs && res.bytes == n);
			d[n - 1] ^= 1;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(res.differs && res.bytes == n - 1);
			if (faults)
				fake_absent(dev, dst, false);
			op.op = SVIO_DSA_FILL;
			op.pattern = pattern;
			memset(d, 0, n + 1);
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			for (uint32_t b = 0; b < n; b++)
				ok &= d[b] == ((uint8_t *)&pattern)[b % 8];
			CU_ASSERT_TRUE(ok && !d[n] && res.bytes == n);
			if (faults)
				fake_absent(dev, dst + PAGE, false);
			op.op = SVIO_DSA_COMPARE_PATTERN;
			op.src = d;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(!res.differs && res.bytes == n);
			d[n - 1] ^= 0x80;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(res.differs && res.bytes == n - 1);
			op.op = SVIO_DSA_DUALCAST;
			op.src = s;
			op.dst2 = d2;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_TRUE(!memcmp(s, d, n) && !memcmp(s, d2, n));
			for (unsigned int p = 0; faults && p < 4; p++)
				fake_absent(dev, src + p * PAGE, false);
			op.op = SVIO_DSA_CRC;
			op.seed = k ? 0x1234 : 0;
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_EQUAL(res.crc, svio_crc32c(op.seed, s, n));
			op.op = SVIO_DSA_COPY_CRC;
			memset(d, 0, n);
			CU_ASSERT_EQUAL(run(&op, &res), 0);
			CU_ASSERT_EQUAL(res.crc, svio_crc32c(op.seed, s, n));
			CU_ASSERT_EQUAL(memcmp(s, d, n), 0);
		}
	}
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_NOOP }, NULL), 0);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_DRAIN }, NULL), 0);
	CU_ASSERT_TRUE(!faults || dev->touches > 50);
	finish();
}

static void test_native(void)
{
	all_operations(true, false);
}

static void test_identity(void)
{
	all_operations(false, false);
}

static void test_faults(void)
{
	all_operations(true, true);
}

/* Overlap in both directions, in pieces, with pages absent: as memmove(). */
static void test_overlap(void)
{
	uint8_t *buf, *want = malloc(8 * PAGE);

	begin(true, 11, 0);
	buf = fake_buf(8 * PAGE);
	for (int dist = -5000; dist <= 5000; dist += 499)
		for (int faults = 0; faults < 2; faults++) {
			uint8_t *s = buf + 2 * PAGE, *d = s + dist;
			struct svio_dsa_op op = { .op = SVIO_DSA_COPY, .src = s, .dst = d, .len = 3 * PAGE + 77 };

			noise(buf, 8 * PAGE, (unsigned int)dist);
			memcpy(want, buf, 8 * PAGE);
			memmove(want + 2 * PAGE + dist, want + 2 * PAGE, op.len);
			for (unsigned int p = 1; faults && p < 7; p++)
				fake_absent(dev, buf + p * PAGE, false);
			CU_ASSERT_EQUAL(run(&op, NULL), 0);
			CU_ASSERT_EQUAL(memcmp(buf, want, 8 * PAGE), 0);
			dev->num_absent = 0;
		}
	finish();
	free(want);
}

static void test_nothing(void)
{
	struct svio_dsa_stats stats;
	struct svio_dsa_result res;
	uint8_t *src, *dst;

	begin(true, 0, 0);
	src = fake_buf(4 * PAGE);
	dst = fake_buf(4 * PAGE);
	fake_absent(dev, dst + PAGE, false);
	fake_absent(dev, dst + 2 * PAGE, true);
	noise(src, 4 * PAGE, 1);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = src, .dst = dst + 100, .len = 3 * PAGE }, &res), -EFAULT);
	CU_ASSERT_EQUAL(res.fault_addr, (uintptr_t)dst + 2 * PAGE);
	CU_ASSERT_EQUAL(res.bytes, 2 * PAGE - 100);
	CU_ASSERT_EQUAL(memcmp(src, dst + 100, 2 * PAGE - 100), 0);
	CU_ASSERT_EQUAL(dst[2 * PAGE], 0);
	svio_dsa_get_stats(dsa, &stats);
	CU_ASSERT_EQUAL(stats.page_faults, 1);
	/* A device that stops at the same place for ever. */
	dev->num_absent = 0;
	dev->stubborn = true;
	dev->touches = 0;
	fake_absent(dev, src, false);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_CRC, .src = src, .len = 64 }, &res), -EFAULT);
	CU_ASSERT_TRUE(dev->touches > 4 && dev->touches < 40);
	dev->stubborn = false;
	/* One that names a page which is none of the operation's: not touched. */
	dev->num_absent = 0;
	dev->touches = 0;
	dev->force = DSA_ST_PAGE_FAULT;
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_CRC, .src = src, .len = 64 }, &res), -EFAULT);
	CU_ASSERT_EQUAL(dev->touches, 0);
	dev->force = 0;
	finish();
}

/* Records that make no sense end the operation with -EIO, and statuses of the device come through. */
static void test_hostile(void)
{
	static const struct {
		uint8_t status, result;
		uint32_t bytes;
		enum svio_dsa_opcode op;
		int want;
	} cases[] = {
		{ DSA_ST_PAGE_FAULT, 0, 64, SVIO_DSA_COPY, -EIO },	   { DSA_ST_PAGE_FAULT, 0, UINT32_MAX, SVIO_DSA_COPY, -EIO },
		{ DSA_ST_PAGE_FAULT, 1, 8, SVIO_DSA_FILL, -EIO },	   { DSA_ST_PAGE_FAULT, 7, 8, SVIO_DSA_COPY, -EIO },
		{ DSA_ST_SUCCESS, 1, 64, SVIO_DSA_COMPARE, -EIO },	   { DSA_ST_SUCCESS, 9, 0, SVIO_DSA_COMPARE, -EIO },
		{ DSA_ST_BAD_OP, 0, 0, SVIO_DSA_COPY, DSA_ST_BAD_OP },	   { DSA_ST_HW_ERROR, 0, 5, SVIO_DSA_CRC, DSA_ST_HW_ERROR },
		{ DSA_ST_BATCH_FAIL, 0, 0, SVIO_DSA_CRC, DSA_ST_BATCH_FAIL }, { 0x7f, 0, 0, SVIO_DSA_FILL, 0x7f },
		{ DSA_ST_PAGE_FAULT, 0, 0, SVIO_DSA_NOOP, -EIO },
	};
	uint8_t *buf;

	begin(true, 0, 0);
	buf = fake_buf(PAGE);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		struct svio_dsa_op op = { .op = cases[i].op, .src = buf, .src2 = buf + 64, .dst = buf + 128, .len = 64 };

		dev->force = cases[i].status;
		dev->force_result = cases[i].result;
		dev->force_bytes = cases[i].bytes;
		CU_ASSERT_EQUAL(run(&op, NULL), cases[i].want);
		CU_ASSERT_NOT_EQUAL(svio_dsa_status_text(cases[i].want)[0], '\0');
	}
	dev->force = 0;
	finish();
}

static void test_arguments(void)
{
	uint8_t *buf, outside[64];
	struct seen s = { 0 };
	uint32_t depth;

	begin(false, 0, 0);
	buf = fake_buf(2 * PAGE);
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 64, 0, cb, &s), -EINVAL);
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, outside, 64, cb, &s), -EFAULT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "registered memory"));
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, outside, buf, 64, cb, &s), -EFAULT);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = (enum svio_dsa_opcode)7, .src = buf, .len = 1 }, NULL), -ENOTSUP);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = (enum svio_dsa_opcode)200, .src = buf, .len = 1 }, NULL), -ENOTSUP);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_NOOP, .flags = 16 }, NULL), -EINVAL);
	CU_ASSERT_EQUAL(run(&(struct svio_dsa_op){ .op = SVIO_DSA_DUALCAST, .src = buf, .dst = buf + 64, .dst2 = buf + 128, .len = 8 }, NULL),
			-EINVAL);
	CU_ASSERT_EQUAL(svio_dsa_inflight(wq), 0);
	/* So many, and no more; then in any order of completion. */
	depth = svio_dsa_depth(wq);
	CU_ASSERT_EQUAL(depth, 64);
	for (int round = 0; round < 5; round++) {
		dev->reverse = round & 1;
		dev->stop = true;
		s.calls = 0;
		for (uint32_t i = 0; i < depth; i++)
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + PAGE, 64, cb, &s), 0);
		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + PAGE, 64, cb, &s), -EAGAIN);
		CU_ASSERT_EQUAL(svio_dsa_inflight(wq), depth);
		CU_ASSERT_EQUAL(svio_dsa_poll(wq, 0), 0);
		dev->stop = false;
		fake_run(dev);
		CU_ASSERT_EQUAL(svio_dsa_poll(wq, 10), 10);
		CU_ASSERT_EQUAL(svio_dsa_poll(wq, 0), depth - 10);
		CU_ASSERT_EQUAL(s.calls, depth);
	}
	finish();
}

static void test_drain(void)
{
	struct seen copy = { 0 }, drain = { 0 };
	uint8_t *buf;

	begin(true, 11, 0);
	buf = fake_buf(8 * PAGE);
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4 * PAGE, 3 * PAGE, cb, &copy), 0);
	CU_ASSERT_EQUAL(svio_dsa_submit(wq, &(struct svio_dsa_op){ .op = SVIO_DSA_DRAIN }, cb, &drain), 0);
	/* The device is through with both after a round; the copy has pieces left. */
	for (int i = 0; i < 100 && !drain.calls; i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
		CU_ASSERT_TRUE(drain.calls <= copy.calls);
	}
	CU_ASSERT_EQUAL(drain.calls, 1);
	finish();
}

static void test_batch(void)
{
	struct svio_dsa_op ops[16];
	struct svio_dsa_result results[16];
	struct seen s = { 0 };
	uint8_t *src, *dst;

	begin(true, 12, 16);
	src = fake_buf(32 * PAGE);
	dst = fake_buf(32 * PAGE);
	for (uint32_t n = 1; n <= 16; n += 5)
		for (int faults = 0; faults < 3; faults++) {
			noise(src, 32 * PAGE, n);
			memset(dst, 0, 32 * PAGE);
			for (uint32_t i = 0; i < n; i++) {
				ops[i] = (struct svio_dsa_op){ .op = i % 3 == 2 ? SVIO_DSA_COPY_CRC : SVIO_DSA_COPY, .src = src + i * PAGE,
							       .dst = dst + 2 * i * PAGE + 9, .len = i % 2 ? 100 + i : PAGE + i };
				if (faults && i % 2 == 0)
					fake_absent(dev, dst + 2 * i * PAGE, false);
			}
			if (faults == 2 && n > 1)
				fake_absent(dev, dst + 2 * (n - 1) * PAGE, true);
			s.calls = 0;
			CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, n, results, cb, &s), 0);
			for (int i = 0; i < 100 && !s.calls; i++) {
				fake_run(dev);
				svio_dsa_poll(wq, 0);
			}
			CU_ASSERT_EQUAL_FATAL(s.calls, 1);
			for (uint32_t i = 0; i < n; i++) {
				bool lost = faults == 2 && n > 1 && i == n - 1;

				CU_ASSERT_EQUAL(results[i].status, lost ? -EFAULT : 0);
				CU_ASSERT_TRUE(lost || !memcmp(ops[i].src, ops[i].dst, ops[i].len));
				CU_ASSERT_TRUE(lost || ops[i].op == SVIO_DSA_COPY || results[i].crc == svio_crc32c(0, ops[i].src, ops[i].len));
			}
			CU_ASSERT_EQUAL(s.res.status, faults == 2 && n > 1 ? -EFAULT : 0);
			CU_ASSERT_EQUAL(s.res.bytes, faults == 2 && n > 1 ? n - 1 : n);
			dev->num_absent = 0;
		}
	/* A fence behind what failed: not begun. */
	for (uint32_t i = 0; i < 3; i++)
		ops[i] = (struct svio_dsa_op){ .op = SVIO_DSA_COPY, .flags = i == 1 ? SVIO_DSA_FENCE : 0, .src = src, .dst = dst + i * PAGE,
					       .len = 64 };
	memset(dst, 0xee, 3 * PAGE);
	fake_absent(dev, dst, true);
	s.calls = 0;
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, 3, NULL, cb, &s), 0);
	for (int i = 0; i < 100 && !s.calls; i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
	}
	CU_ASSERT_EQUAL(s.res.status, -EFAULT);
	CU_ASSERT_EQUAL(dst[PAGE], 0xee);
	dev->num_absent = 0;
	/* What is refused is not begun. */
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, 0, NULL, cb, &s), -EINVAL);
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, 17, NULL, cb, &s), -EINVAL);
	ops[2].op = SVIO_DSA_DRAIN;
	CU_ASSERT_EQUAL(svio_dsa_batch(wq, ops, 3, NULL, cb, &s), -EINVAL);
	CU_ASSERT_EQUAL(svio_dsa_inflight(wq), 0);
	finish();
}

static const struct unit_test tests[] = {
	{ "all operations, native", test_native },
	{ "all operations, identity: addresses are translated", test_identity },
	{ "all operations, pages absent", test_faults },
	{ "overlapping copies are memmove", test_overlap },
	{ "a pointer to nothing", test_nothing },
	{ "records that make no sense", test_hostile },
	{ "arguments, a full queue, any order", test_arguments },
	{ "a drain waits for pieces", test_drain },
	{ "batches", test_batch },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/io", tests);
}
