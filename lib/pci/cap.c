/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Capability lists in a copy of configuration space (PCIe 5.0 §7.5.1.1.11, §7.6.3).
 *
 * Each call walks from the head of the list and remembers where it has been, so that a list with a cycle ends, for
 * the caller's loop too: a position is returned at most once between the head and the end.
 */
#include <string.h>
#include "svio_pci.h"

#define STATUS		0x06 /* §7.5.1.1.4 */
#define STATUS_CAP_LIST (1u << 4)
#define CAP_POINTER	0x34 /* §7.5.1.1.11 */
#define CAP_FIRST	0x40 /* behind the header of type 0 and 1 */
#define CAP_SPACE	0x100
#define EXT_FIRST	0x100 /* §7.6.3 */
#define EXT_SPACE	0x1000

static uint16_t read16(const uint8_t *cfg, size_t off)
{
	return (uint16_t)(cfg[off] | cfg[off + 1] << 8);
}

static uint32_t read32(const uint8_t *cfg, size_t off)
{
	return read16(cfg, off) | (uint32_t)read16(cfg, off + 2) << 16;
}

uint8_t svio_pci_next_cap(const uint8_t *cfg, size_t len, uint8_t after)
{
	uint64_t seen = 0; /* one bit per dword of the 256 bytes */
	bool found = after == 0;
	size_t off;

	len = SVIO_MIN(len, (size_t)CAP_SPACE);
	if (len < CAP_FIRST || !(read16(cfg, STATUS) & STATUS_CAP_LIST))
		return 0;
	/* The two low bits of a pointer are reserved and to be masked. */
	for (off = cfg[CAP_POINTER] & 0xfcu; off >= CAP_FIRST && off + 2 <= len;
	     off = cfg[off + 1] & 0xfcu) {
		if (seen & UINT64_C(1) << (off / 4) || cfg[off] == 0xff)
			return 0;
		seen |= UINT64_C(1) << (off / 4);
		/* ID 0 is the NULL capability (§7.9.22): registers are there no more, the list goes on. */
		if (found && cfg[off] != 0)
			return (uint8_t)off;
		if (off == after)
			found = true;
	}
	return 0;
}

uint8_t svio_pci_find_cap(const uint8_t *cfg, size_t len, uint8_t id, uint8_t after)
{
	uint8_t off = after;

	while ((off = svio_pci_next_cap(cfg, len, off)) != 0)
		if (cfg[off] == id)
			return off;
	return 0;
}

uint16_t svio_pci_next_ext_cap(const uint8_t *cfg, size_t len, uint16_t after)
{
	uint64_t seen[SVIO_BITMAP_WORDS(EXT_SPACE / 4)];
	bool found = after == 0;
	uint32_t header;
	size_t off;

	memset(seen, 0, sizeof(seen));
	len = SVIO_MIN(len, (size_t)EXT_SPACE);
	for (off = EXT_FIRST; off >= EXT_FIRST && off + 4 <= len; off = header >> 20 & 0xffcu) {
		header = read32(cfg, off);
		/* All ones: the space does not exist, or the device is gone. */
		if (svio_bitmap_test(seen, off / 4) || header == UINT32_MAX)
			return 0;
		svio_bitmap_set(seen, off / 4);
		/* ID 0: NULL (§7.9.28), or one that the kernel hides from us; the list goes on behind it. */
		if (found && (header & 0xffff) != 0)
			return (uint16_t)off;
		if (off == after)
			found = true;
	}
	return 0;
}

uint16_t svio_pci_find_ext_cap(const uint8_t *cfg, size_t len, uint16_t id, uint16_t after)
{
	uint16_t off = after;

	while ((off = svio_pci_next_ext_cap(cfg, len, off)) != 0)
		if (read16(cfg, off) == id)
			return off;
	return 0;
}
