/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A driver of memory behind drivers/nvme's contract, for tests of what uses it: a disk in RAM whose requests complete
 * out of order, and which can be told to misbehave in each way that perf claims to detect. SIMULATED: it says
 * nothing about the real driver.
 *
 * Faults count requests per queue pair: N means every Nth; 0 never.
 */
#ifndef FAKE_NVME_H
#define FAKE_NVME_H

#include "svio_nvme.h"

#define FAKE_LBA_SIZE 512u
#define FAKE_BLOCKS   16384u /* 8 MiB */

struct fake_faults {
	uint32_t lose;		/* never completes */
	uint32_t twice;		/* completes, and some time later completes again */
	uint32_t fail;		/* completes with fail_status, without effect */
	int fail_status;
	uint32_t torn;		/* a write that fails and leaves its first block only */
	uint32_t drop_write;	/* completes well, and wrote nothing */
	uint32_t misplace;	/* a write that goes one request further */
	uint32_t flip;		/* a read whose data have one bit wrong */
	uint32_t busy;		/* submission says -EAGAIN */
	uint32_t gone_after;	/* from so many submissions on (all queues): the device is gone */
	uint32_t refuse_after;	/* … submission says -EFAULT */
};

extern struct fake_faults fake_faults;
extern struct svio_nvme_ns fake_ns;
extern uint8_t fake_disk[FAKE_LBA_SIZE * FAKE_BLOCKS];
extern struct svio_device *const fake_device;
extern struct svio_nvme *const fake_nvme;

/* Back to a sound, empty disk. */
void fake_reset(void);
/* Most requests ever in flight on one queue pair, and queue pairs that exist. */
uint32_t fake_max_inflight(void);
uint32_t fake_queue_pairs(void);
/* Two requests on overlapping blocks, one of them a write, were in flight at once. */
bool fake_overlapped(void);
/* Requests whose buffer did not begin `offset` bytes into a page. */
void fake_expect_offset(uint32_t offset);
uint32_t fake_wrong_offsets(void);

#endif
