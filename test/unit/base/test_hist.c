/* SPDX-License-Identifier: BSD-3-Clause */
/* The histogram against sorted samples: percentiles within one sub-bucket (1/64) of the truth. */
#include <stdlib.h>
#include <string.h>
#include "svio_base.h"
#include "unit.h"

#define SAMPLES 20000

static struct svio_hist hist, other;
static uint64_t sample[SAMPLES];

static int cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void test_percentiles(void)
{
	static const double percents[] = { 0, 1, 50, 90, 99, 99.9, 99.99, 100 };

	srandom(2);
	memset(&hist, 0, sizeof(hist));
	for (int i = 0; i < SAMPLES; i++) {
		/* spread over many powers of two */
		sample[i] = (uint64_t)random() >> (random() % 31);
		svio_hist_add(&hist, sample[i]);
	}
	qsort(sample, SAMPLES, sizeof(sample[0]), cmp);
	CU_ASSERT_EQUAL(hist.min, sample[0]);
	CU_ASSERT_EQUAL(hist.max, sample[SAMPLES - 1]);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(percents); i++) {
		size_t rank = (size_t)(percents[i] / 100 * SAMPLES + 0.999999);
		uint64_t truth = sample[rank ? rank - 1 : 0];
		uint64_t got = svio_hist_percentile(&hist, percents[i]);

		CU_ASSERT_TRUE(got >= truth);
		CU_ASSERT_TRUE(got <= truth + truth / 64 + 1);
	}
}

static void test_every_index(void)
{
	unsigned int last = 0;

	/* Indexes never go back as values grow, and never leave the table. */
	for (unsigned int shift = 0; shift < 64; shift++) {
		for (uint64_t low = 0; low < 3; low++) {
			uint64_t v = (UINT64_C(1) << shift) + low * ((UINT64_C(1) << shift) / 4);
			unsigned int i = svio_hist_index(v);

			CU_ASSERT_TRUE(i >= last || low == 0);
			CU_ASSERT_TRUE(i < SVIO_HIST_BUCKETS);
			last = i;
		}
	}
	CU_ASSERT_EQUAL(svio_hist_index(UINT64_MAX), SVIO_HIST_BUCKETS - 1);
}

static void test_merge(void)
{
	memset(&hist, 0, sizeof(hist));
	memset(&other, 0, sizeof(other));
	CU_ASSERT_EQUAL(svio_hist_percentile(&hist, 50), 0);
	svio_hist_add(&other, 10);
	svio_hist_merge(&hist, &other);
	CU_ASSERT_EQUAL(hist.min, 10);
	svio_hist_add(&hist, 3);
	svio_hist_add(&other, 2000);
	svio_hist_merge(&hist, &other);
	CU_ASSERT_EQUAL(hist.count, 4);
	CU_ASSERT_EQUAL(hist.sum, 3 + 10 + 10 + 2000);
	CU_ASSERT_EQUAL(hist.min, 3);
	CU_ASSERT_EQUAL(hist.max, 2000);
	CU_ASSERT_EQUAL(svio_hist_percentile(&hist, 50), 10);
	CU_ASSERT_EQUAL(svio_hist_percentile(&hist, 100), 2000);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "percentiles agree with sorted samples", test_percentiles },
		{ "bucket indexes are monotonic and bounded", test_every_index },
		{ "merge", test_merge },
		{ NULL, NULL },
	};

	return unit_run("base/hist", tests);
}
