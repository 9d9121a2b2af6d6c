/* SPDX-License-Identifier: BSD-3-Clause */
/* The pipeline of read and write: in order and complete, whatever order requests complete in; errors end it. */
#include <string.h>
#include "cmd_nvme_copy.h"
#include "fake_nvme.h"
#include "unit.h"

static uint8_t image[sizeof(fake_disk)];
static size_t taken, fail_at;

static int sink(void *ctx, const void *buf, size_t len)
{
	(void)ctx;
	if (fail_at && taken + len > fail_at)
		return svio_fail(ENOSPC, "full");
	memcpy(image + taken, buf, len);
	taken += len;
	return 0;
}

static size_t source_len, given;

static int source(void *ctx, void *buf, uint32_t max, uint32_t *nlb)
{
	size_t n = SVIO_MIN((size_t)max * FAKE_LBA_SIZE, source_len - given);

	(void)ctx;
	if (fail_at && given >= fail_at)
		return svio_fail(EIO, "no more");
	memcpy(buf, image + given, n);
	given += n;
	*nlb = (uint32_t)(n / FAKE_LBA_SIZE);
	return 0;
}

static void pattern(uint8_t *data, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		data[i] = (uint8_t)(seed >> 24);
	}
}

static const struct copy_args defaults = { .device = "fake", .qd = 8, .bs = 4096 };

static void begin(struct copy *c, const struct copy_args *args)
{
	CU_ASSERT_EQUAL_FATAL(copy_open(c, args), 0);
	taken = given = fail_at = 0;
	memset(image, 0, sizeof(image));
}

static void end(struct copy *c)
{
	copy_close(c);
	CU_ASSERT_EQUAL(fake_queue_pairs(), 0);
}

static void test_read_all(void)
{
	static const uint32_t depths[] = { 1, 7, 64 };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(depths); i++) {
		struct copy_args args = defaults;
		struct copy c;

		fake_reset();
		pattern(fake_disk, sizeof(fake_disk), (uint32_t)i + 1);
		args.qd = depths[i];
		begin(&c, &args);
		CU_ASSERT_EQUAL(copy_read(&c, FAKE_BLOCKS, sink, NULL), 0);
		CU_ASSERT_EQUAL(taken, sizeof(fake_disk));
		CU_ASSERT_EQUAL(memcmp(image, fake_disk, sizeof(image)), 0);
		CU_ASSERT_EQUAL(c.done_blocks, FAKE_BLOCKS);
		CU_ASSERT_EQUAL(fake_max_inflight(), depths[i]);
		end(&c);
	}
}

/* A part, whose last request is short. */
static void test_read_part(void)
{
	struct copy_args args = defaults;
	struct copy c;

	fake_reset();
	pattern(fake_disk, sizeof(fake_disk), 9);
	args.lba = 77;
	begin(&c, &args);
	CU_ASSERT_EQUAL(copy_read(&c, 1003, sink, NULL), 0);
	CU_ASSERT_EQUAL(taken, 1003 * FAKE_LBA_SIZE);
	CU_ASSERT_EQUAL(memcmp(image, fake_disk + 77 * FAKE_LBA_SIZE, taken), 0);
	end(&c);
}

static void test_write(void)
{
	struct copy_args args = defaults;
	struct copy c;

	fake_reset();
	fake_faults.busy = 3;
	args.lba = 5;
	begin(&c, &args);
	source_len = 333 * FAKE_LBA_SIZE;
	pattern(image, source_len, 4);
	CU_ASSERT_EQUAL(copy_write(&c, source, NULL), 0);
	fake_faults.busy = 0;
	CU_ASSERT_EQUAL(copy_flush(&c), 0);
	CU_ASSERT_EQUAL(c.done_blocks, 333);
	CU_ASSERT_EQUAL(memcmp(fake_disk + 5 * FAKE_LBA_SIZE, image, source_len), 0);
	/* Not one byte before or behind. */
	for (size_t i = 0; i < 5 * FAKE_LBA_SIZE; i++)
		if (fake_disk[i])
			CU_FAIL("written before the range");
	for (size_t i = 338 * FAKE_LBA_SIZE; i < sizeof(fake_disk); i++)
		if (fake_disk[i])
			CU_FAIL("written behind the range");
	end(&c);
}

static void test_errors(void)
{
	struct copy c;

	fake_reset();
	fake_faults.fail = 50;
	fake_faults.fail_status = SVIO_NVME_SC(2, 0x81);
	begin(&c, &defaults);
	CU_ASSERT_EQUAL(copy_read(&c, FAKE_BLOCKS, sink, NULL), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "blocks 392 to 399"));
	CU_ASSERT_EQUAL(taken, 49 * 4096);
	end(&c);

	fake_reset();
	begin(&c, &defaults);
	fail_at = 20 * 4096;
	CU_ASSERT_EQUAL(copy_read(&c, FAKE_BLOCKS, sink, NULL), -ENOSPC);
	end(&c);

	fake_reset();
	fake_faults.gone_after = 20;
	begin(&c, &defaults);
	CU_ASSERT_EQUAL(copy_read(&c, FAKE_BLOCKS, sink, NULL), -ENODEV);
	end(&c);

	/* What the source gave before it failed is written. */
	fake_reset();
	begin(&c, &defaults);
	source_len = sizeof(image);
	fail_at = 10 * 4096;
	CU_ASSERT_EQUAL(copy_write(&c, source, NULL), -EIO);
	CU_ASSERT_EQUAL(c.done_blocks, 80);
	end(&c);
}

static void test_range(void)
{
	struct copy_args args = defaults;
	struct copy c;

	fake_reset();
	args.lba = FAKE_BLOCKS - 1;
	begin(&c, &args);
	CU_ASSERT_EQUAL(copy_check_range(&c, 1), 0);
	CU_ASSERT_EQUAL(copy_check_range(&c, 2), -ERANGE);
	end(&c);
	args.lba = UINT64_MAX;
	begin(&c, &args);
	CU_ASSERT_EQUAL(copy_check_range(&c, 1), -ERANGE);
	end(&c);
}

static void test_metadata(void)
{
	struct copy c;

	fake_reset();
	fake_ns.metadata_size = 8;
	CU_ASSERT_EQUAL(copy_open(&c, &defaults), -ENOTSUP);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "metadata"));
	end(&c);
}

static const struct unit_test tests[] = {
	{ "a whole namespace, at several depths", test_read_all },
	{ "a part with a short end", test_read_part },
	{ "write and flush, within the range", test_write },
	{ "errors of device, sink and source", test_errors },
	{ "ranges", test_range },
	{ "metadata is refused", test_metadata },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/nvme_copy", tests);
}
