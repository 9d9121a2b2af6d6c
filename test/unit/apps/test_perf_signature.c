/* SPDX-License-Identifier: BSD-3-Clause */
/* Signatures, on first blocks made by hand; the lab's test_nvme has them from mkfs itself. */
#include <stdlib.h>
#include <string.h>
#include "perf_signature.h"
#include "unit.h"

static uint8_t disk[PERF_SIGNATURE_BYTES];

static const char *with(size_t offset, const void *bytes, size_t len, uint32_t sector)
{
	memset(disk, 0, sizeof(disk));
	memcpy(disk + offset, bytes, len);
	return perf_signature(disk, sizeof(disk), sector);
}

static void expect(const char *found, const char *word)
{
	CU_ASSERT_PTR_NOT_NULL_FATAL(found);
	if (!strstr(found, word))
		fprintf(stderr, "found '%s', not '%s'\n", found, word);
	CU_ASSERT_PTR_NOT_NULL(strstr(found, word));
}

static void test_known(void)
{
	expect(with(0x438, "\x53\xef", 2, 512), "ext");
	expect(with(0, "XFSB", 4, 512), "XFS");
	expect(with(0x10040, "_BHRfS_M", 8, 512), "btrfs");
	expect(with(54, "FAT16   ", 8, 512), "FAT");
	expect(with(82, "FAT32   ", 8, 512), "FAT");
	expect(with(3, "EXFAT   ", 8, 512), "exFAT");
	expect(with(0, "LUKS\xba\xbe", 6, 512), "LUKS");
	expect(with(512, "LABELONE", 8, 512), "LVM");
	expect(with(4096, "\xfc\x4e\x2b\xa9", 4, 512), "RAID");
	expect(with(4086, "SWAPSPACE2", 10, 512), "swap");
}

static void test_gpt(void)
{
	expect(with(512, "EFI PART", 8, 512), "GPT");
	expect(with(4096, "EFI PART", 8, 4096), "GPT");
	/* The protective MBR must not hide it. */
	with(512, "EFI PART", 8, 512);
	memcpy(disk + 510, "\x55\xaa", 2);
	disk[446 + 4] = 0xee;
	disk[446 + 12] = 1;
	expect(perf_signature(disk, sizeof(disk), 512), "GPT");
}

static void test_mbr(void)
{
	with(510, "\x55\xaa", 2, 512);
	/* A boot signature alone, as on a disk that was once formatted, is no partition. */
	CU_ASSERT_PTR_NULL(perf_signature(disk, sizeof(disk), 512));
	disk[462 + 4] = 0x83;
	disk[462 + 12] = 8;
	expect(perf_signature(disk, sizeof(disk), 512), "MBR");
	disk[462] = 0x55; /* no flag that a record can have */
	CU_ASSERT_PTR_NULL(perf_signature(disk, sizeof(disk), 512));
}

/* Short and empty data: nothing is found, and nothing read beyond (the sanitizers look). */
static void test_nothing(void)
{
	CU_ASSERT_PTR_NULL(with(0, "", 0, 512));
	for (size_t len = 0; len <= 2048; len += 97) {
		uint8_t *exact = calloc(1, len + 1);

		CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
		CU_ASSERT_PTR_NULL(perf_signature(exact, len, 512));
		free(exact);
	}
	with(0x438, "\x53\xef", 2, 512);
	CU_ASSERT_PTR_NULL(perf_signature(disk, 0x439, 512));
}

static const struct unit_test tests[] = {
	{ "file systems, volumes and swap", test_known },
	{ "GPT, in both block sizes, before its protective MBR", test_gpt },
	{ "MBR only with a partition", test_mbr },
	{ "nothing known, or not enough data", test_nothing },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/perf_signature", tests);
}
