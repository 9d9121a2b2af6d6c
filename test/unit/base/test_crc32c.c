/* SPDX-License-Identifier: BSD-3-Clause */
/* Test vectors of RFC 3720 appendix B.4; and pieces give what the whole gives. */
#include <string.h>
#include "svio_base.h"
#include "unit.h"

static void test_vectors(void)
{
	uint8_t buf[32];

	memset(buf, 0, sizeof(buf));
	CU_ASSERT_EQUAL(svio_crc32c(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, sizeof(buf));
	CU_ASSERT_EQUAL(svio_crc32c(0, buf, 32), 0x62a8ab43);
	for (uint8_t i = 0; i < 32; i++)
		buf[i] = i;
	CU_ASSERT_EQUAL(svio_crc32c(0, buf, 32), 0x46dd794e);
	CU_ASSERT_EQUAL(svio_crc32c(0, "123456789", 9), 0xe3069283);
}

static void test_pieces(void)
{
	uint8_t buf[257];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7);
	for (size_t cut = 0; cut <= sizeof(buf); cut++)
		CU_ASSERT_EQUAL(svio_crc32c(svio_crc32c(0, buf, cut), buf + cut, sizeof(buf) - cut),
				svio_crc32c(0, buf, sizeof(buf)));
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "RFC 3720 vectors", test_vectors },
		{ "a CRC in pieces", test_pieces },
		{ NULL, NULL },
	};

	return unit_run("base/crc32c", tests);
}
