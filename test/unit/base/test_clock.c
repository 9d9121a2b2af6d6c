/* SPDX-License-Identifier: BSD-3-Clause */
#include "svio_base.h"
#include "unit.h"

/* Both clocks go on while nobody runs us, so a busy machine changes nothing but the two readings' distance: the worst of it is known. */
static void test_rate(void)
{
	uint64_t hz = svio_cycles_hz(), n0 = svio_now_ns(), c0 = svio_cycles(), n1, n2, c1, off = UINT64_MAX;
	double expected, found;

	do {
		n1 = svio_now_ns();
		c1 = svio_cycles();
		n2 = svio_now_ns();
		off = n2 - n1;
	} while (n1 - n0 < 100000000 || off > 100000); /* a reading that was interrupted says nothing */
	expected = (double)(n1 - n0) * (double)hz / 1e9;
	found = (double)(c1 - c0);
	CU_ASSERT(found > expected * 0.95 && found < expected * 1.05);
	CU_ASSERT_EQUAL(svio_cycles_hz(), hz);
}

static void test_forward(void)
{
	uint64_t ns = svio_now_ns(), cycles = svio_cycles();

	for (int i = 0; i < 1000; i++) {
		uint64_t n = svio_now_ns(), c = svio_cycles();

		CU_ASSERT(n >= ns);
		CU_ASSERT(c >= cycles);
		ns = n;
		cycles = c;
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "the counter's rate agrees with the clock", test_rate },
		{ "neither goes backwards", test_forward },
		{ NULL, NULL },
	};

	return unit_run("base/clock", tests);
}
