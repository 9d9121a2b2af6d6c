/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that `svio nvme perf --ballast` takes along when it moves: an area full of numbered pages, a share of which is written
 * again each second by a thread, at random. What arrived is checked at the end.
 */
#ifndef SVIO_PERF_BALLAST_H
#define SVIO_PERF_BALLAST_H

#include "svio_migrate.h"

struct perf_ballast;

struct perf_ballast_result {
	uint64_t bytes, written; /* pages, since the beginning */
	uint64_t wrong;		 /* pages that are not what was written last */
};

/* Registers its part; without perf_ballast_create() it takes nothing along, and takes what comes. 0 or -errno. */
int perf_ballast_new(struct svio_migrate *m, struct perf_ballast **ballastp);
/* The area, filled, and the thread. percent a second: 0 to 100. */
int perf_ballast_create(struct perf_ballast *b, uint64_t bytes, uint32_t percent);
/* Ends the thread and looks at every page. result->bytes is 0 when there is none. */
void perf_ballast_check(struct perf_ballast *b, struct perf_ballast_result *result);
/* Before the areas go. NULL is fine. */
void perf_ballast_free(struct perf_ballast *b);

#endif
