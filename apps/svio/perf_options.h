/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `svio nvme perf`. */
#ifndef SVIO_PERF_OPTIONS_H
#define SVIO_PERF_OPTIONS_H

#include "cli.h"
#include "perf.h"
#include "perf_disturb.h"

#define PERF_MAX_DISTURB 4

struct perf_args {
	struct cli_common common;
	const char *device;
	struct perf_config config;
	uint32_t nsid, seconds;
	uint64_t min_ios;
	enum svio_nvme_policy policy;
	bool force, log_series, have_rw;
	const char *print_ready;
	/* What is done to the device while it works. */
	struct perf_disturb_spec disturb[PERF_MAX_DISTURB];
	uint32_t disturbs;
	/* What is done when it has gone. */
	bool wait_replug, bind;
	const char *replug_name; /* NULL: the same name */
	uint32_t replug_timeout; /* seconds */
	bool migratable;
	const char *control; /* its socket; NULL: named after the process */
	enum perf_way way;   /* how it moves */
	uint64_t ballast;    /* bytes that move along */
	uint32_t ballast_percent; /* written again each second */
};

/* As cli_parse(): does not return on --help or wrong usage. */
void perf_parse(int argc, char **argv, struct perf_args *args);

/* "randread" … ; NULL beyond. */
const char *perf_rw_name(enum perf_rw rw);
bool perf_writes(enum perf_rw rw);

/* "driver", "state". 0 or -EINVAL. */
int perf_parse_way(const char *text, enum perf_way *way);

/* The parts, for tests. 0 or -EINVAL. */
int perf_parse_rw(const char *text, enum perf_rw *rw);
int perf_parse_range(const char *text, uint64_t *lba, uint64_t *blocks); /* LBA:BLOCKS */
int perf_parse_disturb(const char *text, struct perf_disturb_spec *spec); /* KIND:N */
int perf_parse_ballast(const char *text, uint64_t *bytes, uint32_t *percent); /* SIZE or SIZE:PERCENT */

#endif
