/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device model for tests that has one of everything, and whose registers make the kit do things.
 *
 * BAR0, 64-bit, 16 KiB: 0x0000 registers, 0x1000 shared doorbell page, 0x2000 MSI-X table, 0x3000
 * PBA (100 vectors).
 *	0x00 RW scratch, 0x08 raise message N, 0x0c pin level, 0x10 returns error N for the next access
 *	0x14 number of resets, 0x18 why of the last one
 */
#ifndef VDEV_TEST_PROBE_H
#define VDEV_TEST_PROBE_H

#include "svio_vdev.h"

#define PROBE_VECTORS 100

struct probe {
	uint32_t scratch, resets, last_reset;
	unsigned int polls;
	uint32_t doorbell_seen; /* first word of the shared page, as poll() read it */
	/* quiesce(): answer -EAGAIN so often; what was asked last */
	unsigned int hold, asked;
	enum svio_vdev_quiesce why;
	uint64_t q_iova, q_len;
	unsigned int mapped_at_quiesce; /* the pointer was still valid when asked */
	bool connected;
	unsigned int resumed;
	unsigned int accesses[16];
	unsigned int last_width;
	uint32_t cfg_writes;
	unsigned int precopies, precopies_loaded;
	bool fail_load;
	uint64_t watch_iova; /* checked in quiesce() */
	unsigned int work;   /* poll() says that it has done so much, … */
	uint64_t work_ns;    /* … and takes so long */
	bool lazy_pin;	     /* poll() sets the pin's level: that of bit 0 of the doorbell */
};

extern const struct svio_vdev_model probe_model;

#endif
