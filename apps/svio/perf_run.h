/* SPDX-License-Identifier: BSD-3-Clause */
/* One run of `svio nvme perf`: begun here (cmd_nvme_perf.c), or received from another process (perf_move.c). */
#ifndef SVIO_PERF_RUN_H
#define SVIO_PERF_RUN_H

#include "cmd_nvme.h"
#include "perf_move.h"
#include "perf_replug.h"
#include "perf_report.h"

struct perf_run {
	struct perf_args args;
	struct perf_outcome out;
	struct nvme_session session;
	struct svio_nvme_ns ns;
	struct svio_nvme_info info;
	struct perf *perf;
	struct perf_disturber *disturber;
	struct svio_migrate_area *driver_area; /* the driver's queues lie here; NULL: anywhere. perf_move's */
	struct perf_move *move; /* NULL: it cannot move */
	char device[PERF_REPLUG_NAME];
	uint64_t ran_ns;  /* of --time, used up */
	uint64_t ran_now; /* the same, as of now */
	size_t series_capacity;
	bool ready_printed;
	bool received; /* its threads run already */
	bool finish;   /* whoever may move it wants it to end well, now */
};

/* Controller and namespace, looked at before anything is written. */
int perf_run_open(struct perf_run *r);
/* The rest of a run that was received, and perf_run_end(). */
int perf_run_received(struct perf_run *r);
/* Report and release everything. Exit code. */
int perf_run_end(struct perf_run *r);

#endif
