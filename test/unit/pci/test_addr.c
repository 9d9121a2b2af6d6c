/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses and quirks. */
#include <string.h>
#include "svio_pci.h"
#include "unit.h"

static void test_parse(void)
{
	static const struct {
		const char *text;
		struct svio_pci_addr addr;
		const char *full;
	} good[] = {
		{ "0000:01:00.0", { 0, 1, 0, 0 }, "0000:01:00.0" },
		{ "01:00.0", { 0, 1, 0, 0 }, "0000:01:00.0" },
		{ "1:1f.7", { 0, 1, 0x1f, 7 }, "0000:01:1f.7" },
		{ "10000:E1:0A.3", { 0x10000, 0xe1, 0x0a, 3 }, "10000:e1:0a.3" },
		{ "ffffffff:ff:1f.7", { 0xffffffff, 0xff, 0x1f, 7 }, "ffffffff:ff:1f.7" },
	};
	char buf[SVIO_PCI_ADDR_STRLEN];
	struct svio_pci_addr addr;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(good); i++) {
		memset(&addr, 0xa5, sizeof(addr));
		CU_ASSERT_EQUAL(svio_pci_parse_addr(good[i].text, &addr), 0);
		CU_ASSERT_EQUAL(addr.domain, good[i].addr.domain);
		CU_ASSERT_EQUAL(addr.bus, good[i].addr.bus);
		CU_ASSERT_EQUAL(addr.dev, good[i].addr.dev);
		CU_ASSERT_EQUAL(addr.fn, good[i].addr.fn);
		CU_ASSERT_STRING_EQUAL(svio_pci_format_addr(&addr, buf), good[i].full);
	}
}

static void test_parse_bad(void)
{
	static const char *const bad[] = {
		"",	       "0",	      "01:00",	    "01:00.",	      "01:00.8",       "01:20.0",
		"001:00.0",    "0000:01:00.0 ", " 01:00.0",  "0000:01:00.0/..", "x000:01:00.0", "0000::00.0",
		":01:00.0",    "0000:01:00.10", "123456789:01:00.0", "0000:01:00:0", "-1:00.0",    "0000:0x1:00.0",
	};
	struct svio_pci_addr addr = { 7, 7, 7, 7 };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(bad); i++)
		CU_ASSERT_EQUAL(svio_pci_parse_addr(bad[i], &addr), -EINVAL);
	CU_ASSERT_EQUAL(addr.domain, 7);
	CU_ASSERT_EQUAL(addr.fn, 7);
}

static void test_quirks(void)
{
	static const uint16_t nointx[] = { 0x1563, 0x1572, 0x1574, 0x1580, 0x1581, 0x1583, 0x1589, 0x158b,
					   0x37d0, 0x37d1, 0x37d2 };
	static const uint16_t none[] = { 0x1562, 0x1564, 0x1571, 0x1573, 0x1575, 0x157f, 0x1582, 0x158c, 0x37cf,
					 0x37d3, 0x10c9, 0x0b24, 0x0cff };
	static const uint16_t denied[] = { 0x0435, 0x0443, 0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0b25, 0x0cfe };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(nointx); i++)
		CU_ASSERT_EQUAL(svio_pci_quirks(0x8086, nointx[i]), SVIO_PCI_QUIRK_BROKEN_INTX);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(denied); i++)
		CU_ASSERT_EQUAL(svio_pci_quirks(0x8086, denied[i]), SVIO_PCI_QUIRK_VFIO_DENYLIST);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(none); i++)
		CU_ASSERT_EQUAL(svio_pci_quirks(0x8086, none[i]), 0);
	/* The same device number of another vendor is another device. */
	CU_ASSERT_EQUAL(svio_pci_quirks(0x15b3, 0x1563), 0);
}

static const struct unit_test tests[] = {
	{ "addresses are read and written in full", test_parse },
	{ "anything else is refused and leaves the result alone", test_parse_bad },
	{ "quirks hit exactly the devices listed", test_quirks },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("pci/addr", tests);
}
