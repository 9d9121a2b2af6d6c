/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests: something happens at a point of a move, and not somewhere near it. SVIO_MOVE_AT in the environment is a list of
 * STAGE:ACTION, separated by commas; each happens once, in the process that moves or is moved to.
 *
 *	STAGE	source	before, round1, round2, … (the end of that round), frozen (its threads have ended), held (its controller has
 *			stopped; by the driver), saved, back (it goes on after a move that failed)
 *		target	loading, loaded, running
 *	ACTION	reset		the function
 *		controller	the controller (NVMe)
 *		off, on		memory decoding
 *		wait=PATH	PATH appears, and nothing goes on until it is removed: whatever shall happen happens elsewhere
 */
#ifndef SVIO_MOVE_STAGE_H
#define SVIO_MOVE_STAGE_H

struct svio_device;

/* controller: reset the controller that ctx is; NULL: there is no such thing. */
void move_stage(struct svio_device *dev, int (*controller)(void *ctx), void *ctx, const char *stage);

#endif
