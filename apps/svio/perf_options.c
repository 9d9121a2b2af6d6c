/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `svio nvme perf`. */
#include <stdlib.h>
#include <string.h>
#include "cmd_nvme.h"
#include "perf_options.h"

#define DEFAULT_BS	       4096
#define DEFAULT_QD	       32
#define DEFAULT_SECONDS	       10
#define DEFAULT_REPLUG_TIMEOUT 60
/* Longer than the driver's own time limit for a request and the reset that follows it. */
#define DRAIN_MS 60000

static const char *const rw_names[PERF_RW_KINDS] = {
	[PERF_RANDREAD] = "randread", [PERF_RANDWRITE] = "randwrite", [PERF_READ] = "read",
	[PERF_WRITE] = "write",	      [PERF_RANDRW] = "randrw",
};

static const char *const disturb_names[] = {
	[PERF_DISTURB_DECODE] = "decode",
	[PERF_DISTURB_RESET] = "reset",
	[PERF_DISTURB_CONTROLLER] = "controller",
};

const char *perf_rw_name(enum perf_rw rw)
{
	return rw < PERF_RW_KINDS ? rw_names[rw] : NULL;
}

bool perf_writes(enum perf_rw rw)
{
	return rw != PERF_READ && rw != PERF_RANDREAD;
}

int perf_parse_way(const char *text, enum perf_way *way)
{
	if (strcmp(text, "driver") != 0 && strcmp(text, "state") != 0)
		return -EINVAL;
	*way = strcmp(text, "state") == 0 ? PERF_BY_STATE : PERF_BY_DRIVER;
	return 0;
}

int perf_parse_rw(const char *text, enum perf_rw *rw)
{
	for (int i = 0; i < PERF_RW_KINDS; i++)
		if (strcmp(text, rw_names[i]) == 0) {
			*rw = (enum perf_rw)i;
			return 0;
		}
	return -EINVAL;
}

/* "HEAD:TAIL" → a copy of HEAD (the caller's) and TAIL. */
static int split(const char *text, char **head, const char **tail)
{
	const char *colon = strchr(text, ':');

	if (!colon)
		return -EINVAL;
	*head = strndup(text, (size_t)(colon - text));
	*tail = colon + 1;
	return *head ? 0 : -ENOMEM;
}

int perf_parse_range(const char *text, uint64_t *lba, uint64_t *blocks)
{
	const char *tail;
	char *head;
	int rc = split(text, &head, &tail);

	if (rc)
		return rc;
	rc = svio_parse_u64(head, UINT64_MAX, lba);
	if (!rc)
		rc = svio_parse_u64(tail, UINT64_MAX, blocks);
	if (!rc && *blocks == 0)
		rc = -EINVAL;
	free(head);
	return rc;
}

int perf_parse_disturb(const char *text, struct perf_disturb_spec *spec)
{
	uint64_t count = 0;
	const char *tail;
	char *head;
	int rc = split(text, &head, &tail);

	if (rc)
		return rc;
	rc = svio_parse_u64(tail, 1000000, &count);
	if (!rc && count == 0)
		rc = -EINVAL;
	if (!rc) {
		rc = -EINVAL;
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(disturb_names); i++)
			if (strcmp(head, disturb_names[i]) == 0) {
				*spec = (struct perf_disturb_spec){
					.kind = (enum perf_disturb_kind)i, .count = (uint32_t)count
				};
				rc = 0;
			}
	}
	free(head);
	return rc;
}

int perf_parse_ballast(const char *text, uint64_t *bytes, uint32_t *percent)
{
	uint64_t share = 1;
	const char *tail;
	char *head = NULL;
	int rc;

	if (!strchr(text, ':')) {
		rc = svio_parse_size(text, bytes);
	} else {
		rc = split(text, &head, &tail);
		if (!rc)
			rc = svio_parse_size(head, bytes);
		if (!rc)
			rc = svio_parse_u64(tail, 100, &share);
	}
	if (!rc && *bytes == 0)
		rc = -EINVAL;
	*percent = (uint32_t)share;
	free(head);
	return rc;
}

const char *perf_disturb_name(enum perf_disturb_kind kind)
{
	return disturb_names[kind];
}

/* ---- argp ------------------------------------------------------------------------------------------ */

enum long_key {
	KEY_MIX = 256,
	KEY_MIN_IOS,
	KEY_RANGE,
	KEY_SEED,
	KEY_BATCH,
	KEY_OFFSET,
	KEY_INTERRUPT,
	KEY_POLICY,
	KEY_FORCE,
	KEY_LOG_SERIES,
	KEY_PRINT_READY,
	KEY_DISTURB,
	KEY_WAIT_REPLUG,
	KEY_REPLUG_TIMEOUT,
	KEY_BIND,
	KEY_MIGRATABLE,
	KEY_BY,
	KEY_BALLAST,
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "The load:", 1 },
	{ "rw", 'w', "KIND", 0, "randread, randwrite, read, write (in order) or randrw", 1 },
	{ "bs", 'b', "SIZE", 0, "Bytes of a request, 512 to 1M (4k)", 1 },
	{ "qd", 'q', "N", 0, "Requests in flight on each queue (32)", 1 },
	{ "queues", 'Q', "N", 0, "Queue pairs; a thread for each while there are CPUs (1)", 1 },
	{ "time", 't', "S", 0, "Seconds (10)", 1 },
	{ "min-ios", KEY_MIN_IOS, "N", 0, "Go on beyond --time until N requests have completed (0)",
	  1 },
	{ "nsid", 'n', "N", 0, "Namespace (the first active one)", 1 },
	{ "mix", KEY_MIX, "PCT", 0, "randrw: reads of a hundred requests (50)", 1 },
	{ "range", KEY_RANGE, "LBA:BLOCKS", 0, "Only these blocks of the namespace", 1 },
	{ "seed", KEY_SEED, "N", 0, "Of the random addresses (1)", 1 },
	{ "offset", KEY_OFFSET, "N", 0,
	  "Begin the buffers N bytes into a page; a multiple of 4 (0)", 1 },
	{ "batch", KEY_BATCH, "N", 0,
	  "At most N completions per poll and requests per doorbell (0: all)", 1 },
	{ "interrupt", KEY_INTERRUPT, NULL, 0,
	  "Sleep on an interrupt when there is nothing to poll", 1 },
	{ "policy", KEY_POLICY, "KIND", 0,
	  "What becomes of requests in flight over a reset: requeue (default) or fail", 1 },
	{ NULL, 0, NULL, 0, "Proof:", 2 },
	{ "verify", 'V', NULL, 0,
	  "Write checksummed, numbered blocks; check all that is read, and at the end all "
	  "that was written",
	  2 },
	{ "force", KEY_FORCE, NULL, 0,
	  "Write also to a namespace that holds a file system or partition table", 2 },
	{ NULL, 0, NULL, 0, "Reports:", 3 },
	{ "log-series", KEY_LOG_SERIES, NULL, 0, "One line per second; with --json an array", 3 },
	{ "print-ready", KEY_PRINT_READY, "TEXT", 0,
	  "Print TEXT to standard error when requests complete", 3 },
	{ NULL, 0, NULL, 0, "Devices that go away:", 4 },
	{ "wait-replug", KEY_WAIT_REPLUG, "NAME", OPTION_ARG_OPTIONAL,
	  "When the device is gone, wait for NAME (the same device by default; 'any': any NVMe "
	  "controller that appears) and go on there",
	  4 },
	{ "replug-timeout", KEY_REPLUG_TIMEOUT, "S", 0, "Wait at most S seconds (60)", 4 },
	{ "bind", KEY_BIND, NULL, 0, "Bind the device that appears to vfio-pci", 4 },
	{ "migratable", KEY_MIGRATABLE, "PATH", OPTION_ARG_OPTIONAL,
	  "Be ready to move to another process and controller while at work: svio migrate. Control socket at PATH", 4 },
	{ "by", KEY_BY, "WAY", 0,
	  "How it moves: 'driver' sets up another controller and sends again what is in flight (default); 'state' moves the "
	  "controller's own state, which simulated ones have", 4 },
	{ "ballast", KEY_BALLAST, "SIZE[:PCT]", 0,
	  "With --migratable: take SIZE of memory along, of which PCT of a hundred (1) are written again each second; checked at the end", 4 },
	{ NULL, 0, NULL, 0, "Fault injection, for tests:", 5 },
	{ "disturb", KEY_DISTURB, "KIND:N", 0,
	  "N times over the run: 'decode' switches memory decoding off and on, 'reset' resets the "
	  "function, 'controller' resets the controller. May be given again",
	  5 },
	{ 0 },
};

static void check(const struct argp_state *state, const struct perf_args *args)
{
	const struct perf_config *c = &args->config;

	if (!args->device)
		argp_error(state, "which device? 'svio list' shows them");
	if (!args->have_rw)
		argp_error(state, "what load? --rw randread|randwrite|read|write|randrw");
	if (c->bs % 512)
		argp_error(state, "--bs %u: no multiple of 512", c->bs);
	if (c->offset % 4)
		argp_error(state, "--offset %u: no multiple of 4", c->offset);
	if (args->way == PERF_BY_STATE && c->interrupts)
		argp_error(state, "--by state does not move interrupts: leave --interrupt away");
	if (args->migratable && args->disturbs)
		argp_error(state, "--migratable and --disturb: one at a time");
	if (args->ballast && !args->migratable)
		argp_error(state, "--ballast is about --migratable");
	if (args->migratable && args->way == PERF_BY_STATE && args->wait_replug)
		argp_error(state, "--by state and --wait-replug: one at a time; --by driver goes with it");
	if (args->bind && !args->wait_replug)
		argp_error(state,
			   "--bind is about --wait-replug; bind this device with: svio bind %s",
			   args->device);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct perf_args *args = state->input;
	struct perf_config *c = &args->config;

	switch (key) {
	case ARGP_KEY_INIT:
		c->bs = DEFAULT_BS;
		c->qd = DEFAULT_QD;
		c->queues = 1;
		c->read_pct = 50;
		c->seed = 1;
		c->drain_ms = DRAIN_MS;
		args->seconds = DEFAULT_SECONDS;
		args->replug_timeout = DEFAULT_REPLUG_TIMEOUT;
		state->child_inputs[0] = &args->common;
		return 0;
	case 'w':
		if (perf_parse_rw(arg, &c->rw))
			argp_error(state,
				   "--rw %s: must be randread, randwrite, read, write or randrw",
				   arg);
		args->have_rw = true;
		return 0;
	case 'b':
		c->bs = (uint32_t)nvme_arg_size(state, "--bs", arg, 512, PERF_MAX_BS);
		return 0;
	case 'q':
		c->qd = (uint32_t)nvme_arg_u64(state, "--qd", arg, 1, PERF_MAX_QD);
		return 0;
	case 'Q':
		c->queues = (uint32_t)nvme_arg_u64(state, "--queues", arg, 1, PERF_MAX_QUEUES);
		return 0;
	case 't':
		args->seconds = (uint32_t)nvme_arg_u64(state, "--time", arg, 1, 365 * 86400);
		return 0;
	case KEY_MIN_IOS:
		args->min_ios = nvme_arg_u64(state, "--min-ios", arg, 0, UINT64_MAX);
		return 0;
	case 'n':
		args->nsid = (uint32_t)nvme_arg_u64(state, "--nsid", arg, 1, UINT32_MAX - 1);
		return 0;
	case 'V':
		c->verify = true;
		return 0;
	case KEY_MIX:
		c->read_pct = (uint32_t)nvme_arg_u64(state, "--mix", arg, 0, 100);
		return 0;
	case KEY_RANGE:
		if (perf_parse_range(arg, &c->lba, &c->blocks))
			argp_error(state, "--range %s: must be LBA:BLOCKS", arg);
		return 0;
	case KEY_SEED:
		c->seed = nvme_arg_u64(state, "--seed", arg, 0, UINT64_MAX);
		return 0;
	case KEY_BATCH:
		c->batch = (uint32_t)nvme_arg_u64(state, "--batch", arg, 0, PERF_MAX_QD);
		return 0;
	case KEY_OFFSET:
		c->offset = (uint32_t)nvme_arg_size(state, "--offset", arg, 0, 4092);
		return 0;
	case KEY_INTERRUPT:
		c->interrupts = true;
		return 0;
	case KEY_POLICY:
		if (strcmp(arg, "requeue") == 0)
			args->policy = SVIO_NVME_REQUEUE;
		else if (strcmp(arg, "fail") == 0)
			args->policy = SVIO_NVME_FAIL;
		else
			argp_error(state, "--policy %s: must be requeue or fail", arg);
		return 0;
	case KEY_FORCE:
		args->force = true;
		return 0;
	case KEY_LOG_SERIES:
		args->log_series = true;
		return 0;
	case KEY_PRINT_READY:
		args->print_ready = arg;
		return 0;
	case KEY_DISTURB:
		if (args->disturbs == PERF_MAX_DISTURB)
			argp_error(state, "--disturb at most %d times", PERF_MAX_DISTURB);
		if (perf_parse_disturb(arg, &args->disturb[args->disturbs++]))
			argp_error(state, "--disturb %s: must be decode:N, reset:N or controller:N",
				   arg);
		return 0;
	case KEY_WAIT_REPLUG:
		args->wait_replug = true;
		args->replug_name = arg;
		return 0;
	case KEY_REPLUG_TIMEOUT:
		args->replug_timeout =
			(uint32_t)nvme_arg_u64(state, "--replug-timeout", arg, 1, 86400);
		return 0;
	case KEY_BIND:
		args->bind = true;
		return 0;
	case KEY_BY:
		if (perf_parse_way(arg, &args->way))
			argp_error(state, "--by %s: must be driver or state", arg);
		return 0;
	case KEY_BALLAST:
		if (perf_parse_ballast(arg, &args->ballast, &args->ballast_percent))
			argp_error(state, "--ballast %s: must be SIZE or SIZE:PCT", arg);
		return 0;
	case KEY_MIGRATABLE:
		args->migratable = true;
		args->control = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 0)
			argp_error(state, "one device at a time");
		args->device = arg;
		return 0;
	case ARGP_KEY_END:
		check(state, args);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "DEVICE",
	.doc = "Measure an NVMe namespace, and prove that it keeps what is written.\v"
	       "The kinds that write DESTROY the data in the namespace (in --range, if given).\n\n"
	       "Fails when a request fails, is lost, or completes twice, when a block is not what was "
	       "written, or when the device goes away and does not come back.",
	.children = children,
};

void perf_parse(int argc, char **argv, struct perf_args *args)
{
	*args = (struct perf_args){ 0 };
	cli_parse(&argp, argc, argv, args);
}
