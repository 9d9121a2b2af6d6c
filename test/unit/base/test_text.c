/* SPDX-License-Identifier: BSD-3-Clause */
#include "svio_base.h"
#include "unit.h"

static void test_sizes(void)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t bytes;
	} rows[] = {
		{ "0", 0, 0 }, { "512", 0, 512 }, { "0x1000", 0, 4096 }, { "4k", 0, 4096 },
		{ "4K", 0, 4096 }, { "4KiB", 0, 4096 }, { "4kb", 0, 4096 }, { "7B", 0, 7 },
		{ "2G", 0, UINT64_C(2) << 30 }, { "16777215T", 0, UINT64_C(16777215) << 40 },
		{ "16777216T", -ERANGE, 0 }, { "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 }, { "", -EINVAL, 0 }, { "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 }, { " 1", -EINVAL, 0 }, { "1 ", -EINVAL, 0 }, { "k", -EINVAL, 0 },
		{ "4kk", -EINVAL, 0 }, { "4ki", -EINVAL, 0 }, { "0x", -EINVAL, 0 }, { "1.5G", -EINVAL, 0 },
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(rows); i++) {
		uint64_t v = 42;

		CU_ASSERT_EQUAL(svio_parse_size(rows[i].text, &v), rows[i].rc);
		CU_ASSERT_EQUAL(v, rows[i].rc ? 42 : rows[i].bytes);
	}
}

static void test_u64(void)
{
	uint64_t v = 42;

	CU_ASSERT_EQUAL(svio_parse_u64("255", 255, &v), 0);
	CU_ASSERT_EQUAL(v, 255);
	CU_ASSERT_EQUAL(svio_parse_u64("0xff", 255, &v), 0);
	CU_ASSERT_EQUAL(svio_parse_u64("256", 255, &v), -ERANGE);
	CU_ASSERT_EQUAL(svio_parse_u64("12x", 255, &v), -EINVAL);
	CU_ASSERT_EQUAL(svio_parse_u64("4k", UINT64_MAX, &v), -EINVAL);
	CU_ASSERT_EQUAL(v, 255);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "sizes", test_sizes },
		{ "numbers with a bound", test_u64 },
		{ NULL, NULL },
	};

	return unit_run("base/text", tests);
}
