/* SPDX-License-Identifier: BSD-3-Clause */
/* Capability lists, honest and otherwise. Buffers are allocated to the byte, so that ASan sees a read beyond. */
#include <stdlib.h>
#include <string.h>
#include "svio_pci.h"
#include "unit.h"

static uint8_t *new_cfg(size_t len)
{
	uint8_t *cfg = calloc(1, len);

	CU_ASSERT_PTR_NOT_NULL_FATAL(cfg);
	if (len > 6)
		cfg[6] = 0x10; /* status: capability list */
	return cfg;
}

static void put_cap(uint8_t *cfg, uint8_t off, uint8_t id, uint8_t next)
{
	cfg[off] = id;
	cfg[off + 1] = next;
}

static void put_ext(uint8_t *cfg, uint16_t off, uint16_t id, uint16_t next)
{
	uint32_t header = id | 1u << 16 | (uint32_t)next << 20;

	for (int i = 0; i < 4; i++)
		cfg[off + i] = (uint8_t)(header >> 8 * i);
}

static void test_list(void)
{
	uint8_t *cfg = new_cfg(256);

	cfg[0x34] = 0x40;
	put_cap(cfg, 0x40, 0x01, 0x50);
	put_cap(cfg, 0x50, 0x09, 0x60);
	put_cap(cfg, 0x60, 0x11, 0x71); /* the low bits of a pointer are to be masked */
	put_cap(cfg, 0x70, 0x09, 0x00);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x01, 0), 0x40);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x11, 0), 0x60);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x09, 0), 0x50);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x09, 0x50), 0x70);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x09, 0x70), 0);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x05, 0), 0);
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0), 0x40);
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0x70), 0);
	/* Nothing follows an offset that is not in the list. */
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0x44), 0);
	cfg[6] = 0;
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x01, 0), 0);
	free(cfg);
}

static void test_null_cap(void)
{
	uint8_t *cfg = new_cfg(256);

	cfg[0x34] = 0x40;
	put_cap(cfg, 0x40, 0x00, 0x50);
	put_cap(cfg, 0x50, 0x05, 0x58);
	put_cap(cfg, 0x58, 0x00, 0x60);
	put_cap(cfg, 0x60, 0x10, 0x00);
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0), 0x50);
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0x50), 0x60);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x10, 0), 0x60);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x00, 0), 0);
	free(cfg);
}

static void test_loops(void)
{
	uint8_t *cfg = new_cfg(256), off = 0;
	int visits = 0;

	cfg[0x34] = 0x40;
	put_cap(cfg, 0x40, 0x09, 0x50);
	put_cap(cfg, 0x50, 0x09, 0x60);
	put_cap(cfg, 0x60, 0x09, 0x50); /* back into the middle */
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 256, 0x10, 0), 0);
	while ((off = svio_pci_find_cap(cfg, 256, 0x09, off)) != 0 && visits < 100)
		visits++;
	CU_ASSERT_EQUAL(visits, 3);
	put_cap(cfg, 0x40, 0x00, 0x40); /* a NULL capability that names itself */
	CU_ASSERT_EQUAL(svio_pci_next_cap(cfg, 256, 0), 0);
	free(cfg);
}

static void test_truncated(void)
{
	uint8_t *cfg;

	/* Shorter than the header: nothing may be read. */
	for (size_t len = 0; len <= 0x40; len++) {
		cfg = new_cfg(len ? len : 1);
		if (len > 0x34)
			cfg[0x34] = 0x40;
		CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, len, 0x01, 0), 0);
		CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, len, 0x01, 0), 0);
		free(cfg);
	}
	/* A capability whose second byte is missing is not one. */
	cfg = new_cfg(0x41);
	cfg[0x34] = 0x40;
	cfg[0x40] = 0x01;
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 0x41, 0x01, 0), 0);
	free(cfg);
	/* A pointer into the header, beyond the buffer, or to a device that is gone. */
	cfg = new_cfg(128);
	cfg[0x34] = 0x3c;
	cfg[0x3c] = 0x01;
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 128, 0x01, 0), 0);
	cfg[0x34] = 0x80;
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 128, 0x01, 0), 0);
	cfg[0x34] = 0x40;
	put_cap(cfg, 0x40, 0xff, 0x50);
	put_cap(cfg, 0x50, 0x01, 0x00);
	CU_ASSERT_EQUAL(svio_pci_find_cap(cfg, 128, 0x01, 0), 0);
	free(cfg);
}

static void test_ext(void)
{
	uint8_t *cfg = new_cfg(4096);

	put_ext(cfg, 0x100, 0x0001, 0x140);
	put_ext(cfg, 0x140, 0x0000, 0x180); /* hidden: the kernel leaves ID 0 and the pointer */
	put_ext(cfg, 0x180, 0x001b, 0x200);
	put_ext(cfg, 0x200, 0x000b, 0xffc);
	put_ext(cfg, 0xffc, 0x000b, 0x000);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x0001, 0), 0x100);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x001b, 0), 0x180);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x000b, 0), 0x200);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x000b, 0x200), 0xffc);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x000b, 0xffc), 0);
	CU_ASSERT_EQUAL(svio_pci_next_ext_cap(cfg, 4096, 0x100), 0x180);
	/* Only 256 bytes of it: there is no extended space. */
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 256, 0x0001, 0), 0);
	/* The header at 0xffc is cut. */
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4094, 0x000b, 0x200), 0);
	/* Into the first 256 bytes. */
	put_ext(cfg, 0x100, 0x0001, 0x040);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x001b, 0), 0);
	memset(cfg, 0xff, 4096);
	CU_ASSERT_EQUAL(svio_pci_next_ext_cap(cfg, 4096, 0), 0);
	free(cfg);
}

static void test_ext_loops(void)
{
	uint8_t *cfg = new_cfg(4096);
	uint16_t off = 0;
	int visits = 0;

	put_ext(cfg, 0x100, 0x000b, 0x200);
	put_ext(cfg, 0x200, 0x000b, 0x100);
	while ((off = svio_pci_find_ext_cap(cfg, 4096, 0x000b, off)) != 0 && visits < 10000)
		visits++;
	CU_ASSERT_EQUAL(visits, 2);
	CU_ASSERT_EQUAL(svio_pci_find_ext_cap(cfg, 4096, 0x0010, 0), 0);
	free(cfg);
}

/* Whatever the bytes: the walk ends, no position comes twice, and all lie inside. */
static void test_garbage(void)
{
	uint32_t seed = 12345;
	int longest = 0;

	for (int round = 0; round < 2000; round++) {
		size_t len = 1 + seed % 4096;
		uint8_t *cfg = new_cfg(len), seen[4096] = { 0 };
		uint16_t off = 0;
		int visits = 0;

		for (size_t i = 0; i < len; i++) {
			seed = seed * 1664525 + 1013904223;
			cfg[i] = (uint8_t)(seed >> 24);
		}
		if (len > 6)
			cfg[6] |= 0x10;
		while ((off = svio_pci_next_cap(cfg, len, (uint8_t)off)) != 0 && visits++ < 64) {
			CU_ASSERT_TRUE(off >= 0x40 && off + 2u <= len && !seen[off]);
			seen[off] = 1;
		}
		longest = SVIO_MAX(longest, visits);
		CU_ASSERT_TRUE(visits <= 48);
		for (off = 0, visits = 0; (off = svio_pci_next_ext_cap(cfg, len, off)) != 0 && visits++ < 2000;) {
			CU_ASSERT_TRUE(off >= 0x100 && off + 4u <= len && !seen[off]);
			seen[off] = 1;
		}
		CU_ASSERT_TRUE(visits <= 960);
		free(cfg);
	}
	/* The rounds did walk. */
	CU_ASSERT_TRUE(longest > 3);
}

static const struct unit_test tests[] = {
	{ "a list is walked, per ID and in whole", test_list },
	{ "the NULL capability is skipped", test_null_cap },
	{ "a list with a cycle ends, for the caller's loop too", test_loops },
	{ "nothing is read beyond the buffer", test_truncated },
	{ "extended capabilities", test_ext },
	{ "an extended list with a cycle ends", test_ext_loops },
	{ "random bytes do no harm", test_garbage },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("pci/cap", tests);
}
