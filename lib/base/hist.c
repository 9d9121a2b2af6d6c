/* SPDX-License-Identifier: BSD-3-Clause */
#include "svio_base.h"

/* Highest value that falls into bucket i: the inverse of svio_hist_index(). */
static uint64_t bucket_top(unsigned int i)
{
	unsigned int shift;
	uint64_t base;

	if (i < 2 * SVIO_HIST_SUB)
		return i; /* exact: one value a bucket */
	shift = i / SVIO_HIST_SUB - 1;
	base = (uint64_t)(SVIO_HIST_SUB + i % SVIO_HIST_SUB) << shift;
	return base + ((UINT64_C(1) << shift) - 1);
}

void svio_hist_merge(struct svio_hist *dst, const struct svio_hist *src)
{
	if (src->count == 0)
		return;
	if (dst->count == 0 || src->min < dst->min)
		dst->min = src->min;
	if (src->max > dst->max)
		dst->max = src->max;
	dst->count += src->count;
	dst->sum += src->sum;
	for (size_t i = 0; i < SVIO_HIST_BUCKETS; i++)
		dst->bucket[i] += src->bucket[i];
}

uint64_t svio_hist_percentile(const struct svio_hist *h, double percent)
{
	double want = (double)h->count * percent / 100.0;
	uint64_t seen = 0;

	if (h->count == 0)
		return 0;
	for (unsigned int i = 0; i < SVIO_HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > 0 && (double)seen >= want) {
			uint64_t top = bucket_top(i);

			return SVIO_MAX(SVIO_MIN(top, h->max), h->min);
		}
	}
	return h->max;
}
