/* SPDX-License-Identifier: BSD-3-Clause */
/* Verify blocks: every way in which a block can be wrong is told apart; the book's rules hold. */
#include <stdlib.h>
#include <string.h>
#include "unit.h"
#include "verify.h"

#define NLB 3

static const struct verify_run run = { .run = 0x1122334455667788, .nsid = 1, .lba_size = 512 };
static _Alignas(8) uint8_t buf[NLB * 4096 + 8];

static enum verify_result check(const void *block, uint64_t lba, uint64_t min, uint64_t max)
{
	return verify_check(&run, block, lba, min, max, NULL);
}

static void test_sound(void)
{
	uint64_t seq = 0;

	verify_fill(&run, buf, 1000, NLB, 7);
	for (uint32_t i = 0; i < NLB; i++) {
		CU_ASSERT_EQUAL(verify_check(&run, buf + 512 * i, 1000 + i, 7, 7, &seq), VERIFY_OK);
		CU_ASSERT_EQUAL(seq, 7);
	}
	/* Blocks of one request differ beyond their headers, too. */
	CU_ASSERT_NOT_EQUAL(memcmp(buf + 40, buf + 512 + 40, 64), 0);
}

static void test_layout(void)
{
	/* On the medium: magic, LBA, run and version, little-endian. */
	static const uint8_t expected[32] = { 's',  'v',  'i',	'o',  'B',  'L',  'K',	'1',
					      0x04, 0x03, 0x02, 0x01, 0,    0,	  0,	0,
					      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
					      9,    0,	  0,	0,    0,    0,	  0,	0 };

	verify_fill(&run, buf, 0x01020304, 1, 9);
	CU_ASSERT_EQUAL(memcmp(buf, expected, sizeof(expected)), 0);
}

/* Any single wrong bit is an error: in the magic, the checksum, the header, or the payload. */
static void test_every_bit(void)
{
	uint32_t missed = 0;

	verify_fill(&run, buf, 5, 1, 1);
	for (uint32_t bit = 0; bit < 512 * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		missed += !verify_is_error(check(buf, 5, 1, 1));
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	CU_ASSERT_EQUAL(missed, 0);
	CU_ASSERT_EQUAL(check(buf, 5, 1, 1), VERIFY_OK);
}

static void test_kinds(void)
{
	struct verify_run other = run;

	verify_fill(&run, buf, 50, 2, 4);
	CU_ASSERT_EQUAL(check(buf, 51, 4, 4), VERIFY_BAD_LBA);
	CU_ASSERT_EQUAL(check(buf + 512, 51, 5, 6), VERIFY_STALE);
	CU_ASSERT_EQUAL(check(buf, 50, 1, 3), VERIFY_FUTURE);
	CU_ASSERT_EQUAL(check(buf, 50, 3, 4), VERIFY_OK);
	CU_ASSERT_EQUAL(check(buf, 50, 4, 9), VERIFY_OK);
	other.run++;
	verify_fill(&other, buf, 50, 1, 4);
	CU_ASSERT_EQUAL(check(buf, 50, 1, 4), VERIFY_BAD_RUN);
	CU_ASSERT_EQUAL(check(buf, 50, 0, 4), VERIFY_FOREIGN);
	other = run;
	other.nsid++;
	verify_fill(&other, buf, 50, 1, 4);
	CU_ASSERT_EQUAL(check(buf, 50, 1, 4), VERIFY_BAD_RUN);
	memset(buf, 0, 512);
	CU_ASSERT_EQUAL(check(buf, 50, 1, 1), VERIFY_BAD_MAGIC);
	CU_ASSERT_EQUAL(check(buf, 50, 0, 1), VERIFY_UNKNOWN);
}

/* Half of one version and half of another is no block. */
static void test_torn(void)
{
	uint8_t old[512];

	verify_fill(&run, buf, 8, 1, 1);
	memcpy(old, buf, sizeof(old));
	verify_fill(&run, buf, 8, 1, 2);
	memcpy(buf + 256, old + 256, 256);
	CU_ASSERT_EQUAL(check(buf, 8, 1, 2), VERIFY_BAD_CRC);
	CU_ASSERT_EQUAL(check(buf, 8, 0, 2), VERIFY_BAD_CRC);
}

/* Buffers are dword aligned, and blocks may be larger. */
static void test_alignment_and_size(void)
{
	struct verify_run large = run;

	large.lba_size = 4096;
	verify_fill(&large, buf + 4, 70, 2, 3);
	CU_ASSERT_EQUAL(verify_check(&large, buf + 4, 70, 3, 3, NULL), VERIFY_OK);
	CU_ASSERT_EQUAL(verify_check(&large, buf + 4 + 4096, 71, 3, 3, NULL), VERIFY_OK);
	buf[4 + 4095] ^= 0x80;
	CU_ASSERT_EQUAL(verify_check(&large, buf + 4, 70, 3, 3, NULL), VERIFY_BAD_CRC);
}

static void test_exclusion(void)
{
	struct verify_slot slot = { 0 };
	uint64_t seq = 0;

	CU_ASSERT(verify_read_begin(&slot));
	CU_ASSERT(verify_read_begin(&slot));
	CU_ASSERT_FALSE(verify_write_begin(&slot, &seq));
	verify_read_end(&slot);
	CU_ASSERT_FALSE(verify_write_begin(&slot, &seq));
	verify_read_end(&slot);
	CU_ASSERT(verify_write_begin(&slot, &seq));
	CU_ASSERT_FALSE(verify_read_begin(&slot));
	CU_ASSERT_FALSE(verify_write_begin(&slot, &seq));
	verify_write_end(&slot, true);
	CU_ASSERT(verify_read_begin(&slot));
}

static void test_versions(void)
{
	struct verify_slot slot = { 0 };
	uint64_t seq;

	verify_write_begin(&slot, &seq);
	CU_ASSERT_EQUAL(seq, 1);
	verify_write_end(&slot, true);
	CU_ASSERT(slot.confirmed == 1 && slot.attempted == 1);
	/* Never submitted: nothing happened. */
	verify_write_begin(&slot, &seq);
	verify_write_cancel(&slot);
	CU_ASSERT(slot.confirmed == 1 && slot.attempted == 1 && slot.busy == 0);
	/* Failed: both versions may be there, until a write succeeds. */
	verify_write_begin(&slot, &seq);
	CU_ASSERT_EQUAL(seq, 2);
	verify_write_end(&slot, false);
	CU_ASSERT(slot.confirmed == 1 && slot.attempted == 2);
	verify_write_begin(&slot, &seq);
	CU_ASSERT_EQUAL(seq, 3);
	verify_write_end(&slot, true);
	CU_ASSERT(slot.confirmed == 3 && slot.attempted == 3);
}

static void test_names(void)
{
	for (int i = 0; i < VERIFY_RESULTS; i++) {
		CU_ASSERT_PTR_NOT_NULL(verify_result_name((enum verify_result)i));
		CU_ASSERT_PTR_NOT_NULL(verify_result_text((enum verify_result)i));
		for (int k = 0; k < i; k++)
			CU_ASSERT_STRING_NOT_EQUAL(verify_result_name((enum verify_result)i),
						   verify_result_name((enum verify_result)k));
	}
}

static const struct unit_test tests[] = {
	{ "blocks are what was written", test_sound },
	{ "layout on the medium", test_layout },
	{ "every wrong bit is noticed", test_every_bit },
	{ "each kind of wrong block has its name", test_kinds },
	{ "a torn block is corrupted", test_torn },
	{ "dword alignment, blocks of 4 KiB", test_alignment_and_size },
	{ "a write excludes, reads share", test_exclusion },
	{ "versions: confirmed, attempted, cancelled", test_versions },
	{ "results have distinct names", test_names },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/verify", tests);
}
