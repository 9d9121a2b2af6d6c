/* SPDX-License-Identifier: BSD-3-Clause */
/* See rate.h. */
#include <time.h>
#include "rate.h"
#include "svio_base.h"

#define NAP_NS	    50000
#define CATCH_UP_NS UINT64_C(1000000)
/* Timeouts and resets are noticed where it is done, which must not be too seldom. */
#define GAP_MAX_NS UINT64_C(100000000)

void rate_begin(struct rate *r, uint64_t count)
{
	*r = (struct rate){ .since_ns = svio_now_ns(), .count = count };
}

uint64_t rate_share(struct rate *r, uint64_t count, unsigned int percent)
{
	uint64_t ns = svio_now_ns() - r->since_ns;

	if (!percent)
		return 0;
	if (!r->full)
		r->full = 1 + (uint64_t)((double)(count - r->count) * 1e9 / (double)SVIO_MAX(ns, UINT64_C(1)));
	return 1 + r->full * (100 - SVIO_MIN(percent, 99u)) / 100;
}

uint64_t rate_gap(uint64_t per_second, uint32_t sharers)
{
	if (!per_second)
		return 0;
	return SVIO_MAX(SVIO_MIN(sharers * UINT64_C(1000000000) / per_second, GAP_MAX_NS), UINT64_C(1));
}

uint64_t rate_turns(uint64_t *due, uint64_t gap)
{
	uint64_t now = svio_now_ns();

	if (now < *due)
		return 0;
	*due = SVIO_MAX(*due, now - CATCH_UP_NS);
	return 1 + (now - *due) / gap;
}

void rate_nap(void)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };

	nanosleep(&nap, NULL);
}
