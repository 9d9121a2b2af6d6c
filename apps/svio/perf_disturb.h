/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fault injection for tests: a thread that takes the device away from under a running load, again and again, and sees
 * whether the load goes on.
 *
 * Each disturbance is held until the driver has noticed it (or HOLD_MS went by: a controller that needs no doorbell
 * store notices nothing), then undone, and counted as done when requests complete again. One after which none does
 * within RECOVER_MS is counted as failed.
 */
#ifndef SVIO_PERF_DISTURB_H
#define SVIO_PERF_DISTURB_H

#include "perf.h"

enum perf_disturb_kind {
	PERF_DISTURB_DECODE,	 /* memory decoding off and on, through configuration space */
	PERF_DISTURB_RESET,	 /* svio_device_reset() from this thread */
	PERF_DISTURB_CONTROLLER, /* svio_nvme_reset() from this thread */
};

struct perf_disturb_spec {
	enum perf_disturb_kind kind;
	uint32_t count;
	/* Results, added to. */
	uint32_t done, noticed, failed;
};

const char *perf_disturb_name(enum perf_disturb_kind kind);

struct perf_disturber;

/*
 * Start the thread: what specs[] still lack of their counts, in turns, spread evenly over period_ns. The specs are written by the
 * thread until perf_disturb_stop().
 */
int perf_disturb_start(struct perf_disturb_spec *specs, uint32_t count, struct svio_device *dev, struct svio_nvme *nvme,
		       const struct perf *perf, uint64_t period_ns, struct perf_disturber **dp);
/* Has it done everything? Any thread. */
bool perf_disturb_finished(const struct perf_disturber *d);
/* Ends the thread, with decoding on. NULL is fine. */
void perf_disturb_stop(struct perf_disturber *d);

/* Where VFIO's device mappings of this process begin ("7f0000000000 7f0000004000"): a string to be freed, or NULL. */
char *perf_device_mappings(void);

#endif
