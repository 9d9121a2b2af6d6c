/* SPDX-License-Identifier: BSD-3-Clause */
/* Bitmaps against a plain array of bools, over random ranges and every word boundary. */
#include <stdlib.h>
#include <string.h>
#include "svio_base.h"
#include "unit.h"

#define BITS 500

static uint64_t map[SVIO_BITMAP_WORDS(BITS)];
static bool model[BITS];

static void compare(void)
{
	uint64_t weight = 0, next = 0, clear = 0;

	for (uint64_t i = 0; i < BITS; i++) {
		CU_ASSERT_EQUAL_FATAL(svio_bitmap_test(map, i), model[i]);
		weight += model[i];
	}
	CU_ASSERT_EQUAL(svio_bitmap_weight(map, BITS), weight);
	for (uint64_t i = 0; i < BITS; i++) {
		for (next = i; next < BITS && !model[next]; next++)
			;
		for (clear = i; clear < BITS && model[clear]; clear++)
			;
		CU_ASSERT_EQUAL_FATAL(svio_bitmap_next_set(map, BITS, i), next);
		CU_ASSERT_EQUAL_FATAL(svio_bitmap_next_clear(map, BITS, i), clear);
	}
}

static void test_ranges(void)
{
	srandom(1);
	memset(map, 0, sizeof(map));
	memset(model, 0, sizeof(model));
	compare();
	for (int round = 0; round < 400; round++) {
		uint64_t start = (uint64_t)random() % BITS;
		uint64_t n = (uint64_t)random() % (BITS - start + 1);
		bool set = random() & 1;

		if (set)
			svio_bitmap_set_range(map, start, n);
		else
			svio_bitmap_clear_range(map, start, n);
		for (uint64_t i = start; i < start + n; i++)
			model[i] = set;
		compare();
	}
}

static void test_single_bits(void)
{
	memset(map, 0, sizeof(map));
	memset(model, 0, sizeof(model));
	for (uint64_t i = 0; i < BITS; i += 7) {
		svio_bitmap_set(map, i);
		model[i] = true;
	}
	svio_bitmap_set_atomic(map, 63);
	svio_bitmap_set_atomic(map, 64);
	model[63] = model[64] = true;
	svio_bitmap_clear(map, 0);
	model[0] = false;
	compare();
}

static void test_or_stops_at_nbits(void)
{
	uint64_t a[2] = { 1, 0 }, b[2] = { UINT64_MAX, UINT64_MAX };

	svio_bitmap_or(a, b, 70);
	CU_ASSERT_EQUAL(a[0], UINT64_MAX);
	CU_ASSERT_EQUAL(a[1], 0x3f);
	CU_ASSERT_EQUAL(svio_bitmap_weight(b, 70), 70);
	CU_ASSERT_EQUAL(svio_bitmap_next_clear(b, 70, 3), 70);
	CU_ASSERT_EQUAL(svio_bitmap_next_set(a, 70, 70), 70);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "random ranges agree with an array of bools", test_ranges },
		{ "single bits", test_single_bits },
		{ "or, weight and search stop at nbits", test_or_stops_at_nbits },
		{ NULL, NULL },
	};

	return unit_run("base/bitmap", tests);
}
