/* SPDX-License-Identifier: BSD-3-Clause */
/* What `svio nvme perf` tells: the line per second, and the result as text or JSON. */
#ifndef SVIO_PERF_REPORT_H
#define SVIO_PERF_REPORT_H

#include "perf_ballast.h"
#include "perf_options.h"

struct perf_second {
	double at;	/* seconds of running, at the end of the interval */
	double seconds; /* its length */
	uint64_t ops[PERF_OPS], failed;
};

struct perf_outcome {
	const struct perf_args *args;
	struct perf_result result;
	struct svio_nvme_stats stats; /* of all controllers used */
	uint64_t faults;	      /* accesses to vanished BARs absorbed */
	double seconds;		      /* running, without waits for a device */
	uint32_t lost_devices, replugs;
	uint32_t moves; /* from process to process */
	struct perf_ballast_result ballast;
	const char *last_device;
	char *mappings_before, *mappings_after; /* NULL unknown */
	bool readback_done, interrupted;
	int error; /* negative errno that ended it; 0 */
	char error_text[SVIO_ERROR_MAX];
	struct perf_second *series;
	size_t series_count;
	uint32_t lba_size, nsid;
};

/* One second, for people. Returns buf. */
char *perf_second_text(const struct perf_second *s, uint32_t bs, char *buf, size_t size);

/* Why the run counts as failed, or NULL. Static string, or the outcome's own. */
const char *perf_verdict(const struct perf_outcome *o);

int perf_report_text(const struct perf_outcome *o);
int perf_report_json(const struct perf_outcome *o);

#endif
