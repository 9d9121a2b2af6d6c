/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver against a simulated controller that misbehaves on request, with time limits short enough for a test:
 *
 *	fault_probe sc		status codes reach the callback
 *	fault_probe drop	a command is never answered: aborted, and the controller goes on
 *	fault_probe abort-lost	… and neither is the abort: the controller is reset, the command submitted again
 *	fault_probe stall	late, but within the limit: nothing is done about it
 *	fault_probe dead	nothing is ever answered any more: the driver gives up, everything completes
 *
 * Prints "ok - " and "not ok - " lines.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "svio_nvme.h"

#define REQUESTS 64
#define LIMIT_NS UINT64_C(60000000000)

static int failures;

static void check(bool good, const char *what)
{
	printf("%s - fault: %s%s%s\n", good ? "ok" : "not ok", what, good ? "" : "; last error: ", good ? "" : svio_last_error());
	fflush(stdout);
	failures += !good;
}

static struct {
	int status[REQUESTS], calls[REQUESTS];
	int total;
} seen;

static void done(void *ctx, int status)
{
	size_t i = (size_t)(uintptr_t)ctx;

	seen.status[i] = status;
	seen.calls[i]++;
	seen.total++;
}

#define NOT_YET (1 << 30)
static int write_status = NOT_YET;

static void written(void *ctx, int status)
{
	(void)ctx;
	write_status = status;
}

static int with_status(int status)
{
	int n = 0;

	for (size_t i = 0; i < REQUESTS; i++)
		n += seen.calls[i] == 1 && seen.status[i] == status;
	return n;
}

struct fault {
	const char *name, *inject;
	bool gone; /* the controller is given up in the end */
	void (*judge)(const struct svio_nvme_stats *s);
};

static void judge_sc(const struct svio_nvme_stats *s)
{
	check(with_status(SVIO_NVME_SC(2, 0x81)) == 3 && with_status(0) == REQUESTS - 3, "3 of 64 reads fail as the controller says");
	check(s->aborts == 0 && s->resets == 0, "nothing is aborted or reset for that");
}

static void judge_drop(const struct svio_nvme_stats *s)
{
	check(with_status(-ETIMEDOUT) == 2 && with_status(0) == REQUESTS - 2, "2 reads that are never answered end with -ETIMEDOUT");
	check(s->timeouts >= 2 && s->aborts >= 1 && s->resets == 0, "they were aborted, without a reset");
}

static void judge_abort_lost(const struct svio_nvme_stats *s)
{
	check(with_status(0) + with_status(-ETIMEDOUT) == REQUESTS && with_status(0) >= REQUESTS - 1,
	      "a read and its abort are lost: every read completes");
	check(s->resets >= 1, "the controller was reset");
}

static void judge_stall(const struct svio_nvme_stats *s)
{
	check(with_status(0) == REQUESTS, "late commands complete well");
	check(s->timeouts == 0 && s->aborts == 0 && s->resets == 0, "and nothing was done about them");
}

static void judge_dead(const struct svio_nvme_stats *s)
{
	check(with_status(-ENODEV) + with_status(-ETIMEDOUT) + with_status(-ECANCELED) == REQUESTS,
	      "every read ends with an error of ours");
	check(s->timeouts >= 1 && s->aborts >= 1 && s->resets == 0, "after aborts, and resets that led to nothing");
}

static const struct fault faults[] = {
	{ "sc", "read:sc=0x281:every=10:times=3", false, judge_sc },
	{ "drop", "read:drop:every=20:times=2", false, judge_drop },
	{ "abort-lost", "read:drop:skip=5:times=1+admin.0x08:drop:times=1", false, judge_abort_lost },
	{ "stall", "read:stall=100000:every=16", false, judge_stall },
	/* Abort, and Set Features, which each initialisation needs; those of the first pass. */
	{ "dead", "read:drop+admin.0x08:drop+admin.0x09:drop:skip=2", true, judge_dead },
};

static void run(const struct fault *f)
{
	const struct svio_nvme_opts opts = { .size = sizeof(opts), .io_timeout_ms = 2000, .admin_timeout_ms = 1000 };
	struct svio_device *dev = NULL;
	struct svio_ioas *ioas = NULL;
	struct svio_nvme *nvme = NULL;
	struct svio_nvme_qp *qp = NULL;
	struct svio_nvme_stats stats = { 0 };
	struct svio_nvme_ns ns;
	uint64_t end;
	char name[160];
	uint8_t *buf = NULL;
	int rc = 0, again;

	snprintf(name, sizeof(name), "sim:nvme,size=16M,inject=%s", f->inject);
	if (svio_mem_start(NULL) || svio_device_open(name, NULL, &dev) || svio_ioas_create(NULL, &ioas) ||
	    svio_ioas_attach(ioas, dev) || svio_nvme_open(dev, ioas, &opts, &nvme) || svio_nvme_ns_get(nvme, 1, &ns) ||
	    svio_nvme_qp_create(nvme, NULL, &qp) || !(buf = svio_mem_alloc(REQUESTS * 4096, 4096, -1))) {
		check(false, "open");
		goto out;
	}
	for (size_t i = 0; i < REQUESTS && !rc; i++)
		rc = svio_nvme_read(qp, &ns, buf + i * 4096, i * 8, 4096 >> ns.lba_shift, 0, done, (void *)(uintptr_t)i);
	check(rc == 0, "64 reads are taken");
	end = svio_now_ns() + LIMIT_NS;
	while (seen.total < REQUESTS && svio_now_ns() < end)
		svio_nvme_poll(qp, 0);
	for (size_t i = 0; i < REQUESTS; i++)
		rc |= seen.calls[i] != 1;
	check(rc == 0, "each completes exactly once");
	/* A reset is counted when it has ended, which may be after what it completed; not so after the next command. */
	again = svio_nvme_write(qp, &ns, buf, 0, 1, 0, written, NULL);
	while (!again && write_status == NOT_YET && svio_now_ns() < end)
		svio_nvme_poll(qp, 0);
	if (f->gone)
		check(again == -ENODEV || write_status == -ENODEV || write_status == -ETIMEDOUT, "the next command fails too");
	else
		check(!again && write_status == 0, "the next command completes well");
	check(svio_nvme_gone(nvme) == f->gone, f->gone ? "the controller was given up" : "the controller is in use");
	svio_nvme_get_stats(nvme, &stats);
	f->judge(&stats);
	printf("# timeouts %" PRIu64 ", aborts %" PRIu64 ", resets %" PRIu64 ", requeued %" PRIu64 "\n", stats.timeouts, stats.aborts,
	       stats.resets, stats.requeued);
out:
	svio_mem_free(buf);
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	if (ioas && dev)
		svio_ioas_detach(ioas, dev);
	svio_ioas_destroy(ioas);
	svio_device_close(dev);
	svio_mem_stop();
}

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < SVIO_ARRAY_SIZE(faults); i++) {
		if (strcmp(argv[1], faults[i].name) == 0) {
			run(&faults[i]);
			return failures != 0;
		}
	}
	fprintf(stderr, "usage: fault_probe sc|drop|abort-lost|stall|dead\n");
	return 2;
}
