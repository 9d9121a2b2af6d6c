/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Signatures of file systems, partition tables and volume managers, each at the place its own documentation gives:
 * Linux Documentation/filesystems/ (ext4 super.rst, xfs, btrfs on-disk format), UEFI 2.10 §5.2-5.3 (MBR, GPT), Microsoft
 * FAT specification 1.03, LUKS2 on-disk format, LVM2 label, md superblock 1.x, swap header of util-linux's mkswap(8).
 */
#include <stdbool.h>
#include <string.h>
#include "perf_signature.h"

static const struct signature {
	uint32_t offset;
	uint8_t len;
	const char *bytes, *name;
} signatures[] = {
	{ 1024 + 0x38, 2, "\x53\xef", "an ext2/3/4 file system" },
	{ 0, 4, "XFSB", "an XFS file system" },
	{ 0x10040, 8, "_BHRfS_M", "a btrfs file system" },
	{ 3, 8, "NTFS    ", "an NTFS file system" },
	{ 3, 8, "EXFAT   ", "an exFAT file system" },
	{ 54, 3, "FAT", "a FAT file system" }, /* FAT12, FAT16 */
	{ 82, 5, "FAT32", "a FAT file system" },
	{ 1024, 4, "\x10\x20\xf5\xf2", "an F2FS file system" },
	{ 0, 4, "hsqs", "a squashfs file system" },
	{ 1024, 4, "\xe2\xe1\xf5\xe0", "an EROFS file system" },
	{ 0x8001, 5, "CD001", "an ISO 9660 file system" },
	{ 4096 + 24, 16, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
	  "a bcachefs file system or bcache device" },
	{ 0, 6, "LUKS\xba\xbe", "a LUKS encrypted volume" },
	{ 4096, 4, "\xfc\x4e\x2b\xa9", "an md RAID member" },
	{ 0, 4, "\xfc\x4e\x2b\xa9", "an md RAID member" },
	{ 4096 - 10, 10, "SWAPSPACE2", "swap space" },
	{ 65536 - 10, 10, "SWAPSPACE2", "swap space" },
};

static bool has(const uint8_t *data, size_t len, size_t offset, const void *bytes, size_t n)
{
	return offset <= len && n <= len - offset && memcmp(data + offset, bytes, n) == 0;
}

/* UEFI 2.10 §5.2.1: a boot signature, and at least one partition record of a known form. */
static bool is_mbr(const uint8_t *data, size_t len)
{
	if (!has(data, len, 510, "\x55\xaa", 2))
		return false;
	for (size_t o = 446; o < 510; o += 16) {
		bool sane_flag = data[o] == 0 || data[o] == 0x80;
		bool used = data[o + 4] != 0 && memcmp(data + o + 12, "\0\0\0\0", 4) != 0;

		if (sane_flag && used)
			return true;
	}
	return false;
}

const char *perf_signature(const void *data, size_t len, uint32_t sector)
{
	/* The GPT first: a disk that has one also has a protective MBR. */
	if (has(data, len, sector, "EFI PART", 8))
		return "a GPT partition table";
	for (size_t i = 0; i < sizeof(signatures) / sizeof(signatures[0]); i++)
		if (has(data, len, signatures[i].offset, signatures[i].bytes, signatures[i].len))
			return signatures[i].name;
	/* The label may be in any of the first four sectors of 512 bytes. */
	for (size_t o = 0; o < 4 * 512; o += 512)
		if (has(data, len, o, "LABELONE", 8))
			return "an LVM physical volume";
	if (is_mbr(data, len))
		return "an MBR partition table";
	return NULL;
}
