/* SPDX-License-Identifier: BSD-3-Clause */
/* How fast a load is, and a share of that: how a process that moves is slowed down. */
#ifndef SVIO_RATE_H
#define SVIO_RATE_H

#include <stdint.h>

/* Measured from rate_begin() until it is needed for the first time. */
struct rate {
	uint64_t since_ns, count, full; /* full: per second, once known */
};
/* count: what has been done so far, ever. */
void rate_begin(struct rate *r, uint64_t count);
/* Per second, when it is slowed down by so many percent; 0 = percent is 0: no limit. */
uint64_t rate_share(struct rate *r, uint64_t count, unsigned int percent);

/* ns between two of one of `sharers` that do so many per second together; 0 = no limit. At most 100 ms. */
uint64_t rate_gap(uint64_t per_second, uint32_t sharers);
/*
 * How many may be done now; 0: none yet. *due: when the next one may be, advanced by the caller by `gap` for each that was done. Time that was
 * lost to others is made up for, but only so much of it.
 */
uint64_t rate_turns(uint64_t *due, uint64_t gap);
/* When there are none. */
void rate_nap(void);

#endif
