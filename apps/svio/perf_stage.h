/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests: something happens at a point of a move, and not somewhere near it. SVIO_PERF_AT in the environment is a list of
 * STAGE:ACTION, separated by commas; each happens once, in the process that moves or is moved to.
 *
 *	STAGE	source	before, round1, round2, … (the end of that round), frozen (its threads have ended), held (its controller has
 *			stopped), saved, back (it goes on after a move that failed)
 *		target	loading, loaded, running
 *	ACTION	reset		the function
 *		controller	the controller
 *		off, on		memory decoding
 *		wait=PATH	PATH appears, and nothing goes on until it is removed: whatever shall happen happens elsewhere
 */
#ifndef SVIO_PERF_STAGE_H
#define SVIO_PERF_STAGE_H

struct perf_run;

void perf_stage(struct perf_run *r, const char *stage);

#endif
