/* SPDX-License-Identifier: BSD-3-Clause */
/* How fast something may be. */
#include "rate.h"
#include "svio_base.h"
#include "unit.h"

#define SECOND UINT64_C(1000000000)

static void test_share(void)
{
	struct rate r;
	uint64_t half;

	rate_begin(&r, 1000);
	CU_ASSERT_EQUAL(rate_share(&r, 1000, 0), 0);
	/* As if it had begun two seconds ago. */
	r.since_ns = svio_now_ns() - 2 * SECOND;
	half = rate_share(&r, 1000 + 2000000, 50);
	CU_ASSERT_TRUE(half > 0 && half <= 500001);
	/* What it is measured by is what it did before: not what it does since. */
	CU_ASSERT_EQUAL(rate_share(&r, 1000 + 2000000, 50), half);
	CU_ASSERT_TRUE(rate_share(&r, 1000 + 2000000, 95) < half / 8);
	CU_ASSERT_TRUE(rate_share(&r, 1000 + 2000000, 100) > 0);
	CU_ASSERT_EQUAL(rate_share(&r, 1000 + 2000000, 0), 0);
	/* One that did nothing at all goes on. */
	rate_begin(&r, 7);
	CU_ASSERT_TRUE(rate_share(&r, 7, 95) > 0);
}

static void test_gap(void)
{
	CU_ASSERT_EQUAL(rate_gap(0, 4), 0);
	CU_ASSERT_EQUAL(rate_gap(1000, 1), 1000000);
	CU_ASSERT_EQUAL(rate_gap(1000, 4), 4000000);
	/* Never so long that a reset would not be noticed, and never "no limit". */
	CU_ASSERT_EQUAL(rate_gap(1, 1), SECOND / 10);
	CU_ASSERT_EQUAL(rate_gap(UINT64_MAX, 1), 1);
}

static void test_turns(void)
{
	uint64_t gap = 20000, due = svio_now_ns() + 3600 * SECOND, start, done = 0, late, n;

	CU_ASSERT_EQUAL(rate_turns(&due, gap), 0);
	/* An hour that was lost is not made up for. */
	due = svio_now_ns() - 3600 * SECOND;
	n = rate_turns(&due, gap);
	CU_ASSERT_TRUE(n >= 1 && n <= 1 + 1000000 / gap);
	CU_ASSERT_TRUE(due >= svio_now_ns() - SECOND);
	/* As many as there is time for, and no more, but for what may be made up for. */
	due = start = svio_now_ns();
	while (svio_now_ns() < start + SECOND / 20) {
		n = rate_turns(&due, gap);
		if (!n)
			rate_nap();
		done += n;
		due += n * gap;
	}
	late = svio_now_ns() - start;
	CU_ASSERT_TRUE(done > 0);
	CU_ASSERT_TRUE(done <= 1 + (late + 1000000) / gap);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a share of what it was", test_share },
		{ "the time between two", test_gap },
		{ "turns", test_turns },
		{ NULL, NULL },
	};

	return unit_run("apps/rate", tests);
}
