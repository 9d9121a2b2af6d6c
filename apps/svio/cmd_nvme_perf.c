/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme perf: the run, from the first device to the last. */
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "cmd_nvme.h"
#include "perf_replug.h"
#include "perf_report.h"
#include "perf_run.h"
#include "perf_signature.h"

#define SECOND	 UINT64_C(1000000000)
#define TICK	 (SECOND / 20)
#define MOVE_TICK (SECOND / 200) /* whoever wants to move it shall not wait */
#define RETRY_MS 200


/* ---- before the first write ------------------------------------------------------------------------ */

static void one_done(void *ctx, int status)
{
	*(int *)ctx = status;
}

static int read_sync(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, void *buf,
		     uint32_t nlb)
{
	int status = 1 << 30, pending = status;
	int rc = svio_nvme_read(qp, ns, buf, 0, nlb, 0, one_done, &status);

	if (rc)
		return svio_fail(-rc, "cannot read the first blocks: %s",
				 svio_nvme_status_text(rc));
	while (status == pending)
		svio_nvme_poll(qp, 0);
	if (status)
		return svio_fail(EIO, "cannot read the first blocks: %s",
				 svio_nvme_status_text(status));
	return 0;
}

/* Refuse to write over something that people would miss. */
static int check_signature(struct perf_run *r)
{
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 2 };
	uint64_t bytes = SVIO_MIN((uint64_t)PERF_SIGNATURE_BYTES, r->ns.blocks << r->ns.lba_shift);
	uint32_t len = (uint32_t)SVIO_MIN(bytes, (uint64_t)r->info.max_transfer);
	struct svio_nvme_qp *qp;
	const char *what;
	void *buf;
	int rc;

	if (!perf_writes(r->args.config.rw) || r->args.force)
		return 0;
	rc = svio_nvme_qp_create(r->session.nvme, &opts, &qp);
	if (rc)
		return rc;
	buf = svio_mem_alloc(PERF_SIGNATURE_BYTES, 4096, -1);
	rc = buf ? read_sync(qp, &r->ns, buf, len >> r->ns.lba_shift) : -ENOMEM;
	what = rc ? NULL : perf_signature(buf, len, r->ns.lba_size);
	svio_nvme_qp_destroy(qp);
	svio_mem_free(buf);
	if (what)
		rc = svio_fail(EEXIST,
			       "%s: namespace %" PRIu32
			       " holds %s, which --rw %s would destroy; use --force if "
			       "that is meant",
			       r->device, r->ns.nsid, what, perf_rw_name(r->args.config.rw));
	return rc;
}

int perf_run_open(struct perf_run *r)
{
	struct svio_nvme_opts opts = { .size = sizeof(opts),
				       .policy = r->args.policy,
				       .max_queues = r->args.config.queues + 1,
				       .area = r->driver_area };
	int rc = nvme_session_open(&r->session, r->device, &opts);

	if (rc)
		return rc;
	svio_nvme_get_info(r->session.nvme, &r->info);
	rc = nvme_session_ns(&r->session, r->args.nsid, &r->ns);
	if (!rc)
		rc = check_signature(r);
	if (rc) {
		char why[SVIO_ERROR_MAX];

		snprintf(why, sizeof(why), "%s", svio_last_error());
		nvme_session_close(&r->session);
		return why[0] ? svio_fail(rc, "%s", why) : rc;
	}
	r->out.lba_size = r->ns.lba_size;
	r->out.nsid = r->ns.nsid;
	return 0;
}

static void close_session(struct perf_run *r)
{
	struct svio_nvme_stats s;

	if (!r->session.nvme)
		return;
	svio_nvme_get_stats(r->session.nvme, &s);
	r->out.stats.resets += s.resets;
	r->out.stats.revocations += s.revocations;
	r->out.stats.requeued += s.requeued;
	r->out.stats.failed += s.failed;
	r->out.stats.aborts += s.aborts;
	r->out.stats.timeouts += s.timeouts;
	nvme_session_close(&r->session);
}

/* ---- while it runs --------------------------------------------------------------------------------- */

static void note_second(struct perf_run *r, const struct perf_sample *now, struct perf_sample *before,
			uint64_t at_ns, uint64_t length_ns)
{
	struct perf_second s = { .at = (double)at_ns / 1e9,
				 .seconds = (double)length_ns / 1e9,
				 .failed = now->failed - before->failed };
	char text[160];

	for (int op = 0; op < PERF_OPS; op++)
		s.ops[op] = now->ops[op] - before->ops[op];
	*before = *now;
	perf_second_text(&s, r->args.config.bs, text, sizeof(text));
	if (!r->args.log_series) {
		cli_progress("%s", text);
		return;
	}
	if (!r->args.common.json) {
		puts(text);
		fflush(stdout);
		return;
	}
	cli_progress("%s", text);
	if (r->out.series_count == r->series_capacity) {
		size_t capacity = r->series_capacity ? 2 * r->series_capacity : 64;
		struct perf_second *grown = reallocarray(r->out.series, capacity, sizeof(*grown));

		if (!grown)
			return; /* a second less in the list */
		r->out.series = grown;
		r->series_capacity = capacity;
	}
	r->out.series[r->out.series_count++] = s;
}

static uint64_t completions(const struct perf_sample *s)
{
	return s->ops[PERF_OP_READ] + s->ops[PERF_OP_WRITE];
}

/* Sleepers are told of what raises no interrupt of the controller. */
static void watch_device(struct perf_run *r)
{
	if (r->args.config.interrupts && svio_device_events(r->session.dev))
		perf_wake(r->perf);
}

/* Watch the load until its time is over, it ends by itself, or the user has enough. */
static void watch(struct perf_run *r)
{
	uint64_t start = svio_now_ns(), second = start, end;
	uint64_t left = r->args.seconds * SECOND;
	struct perf_sample before, first, now;

	left = left > r->ran_ns ? left - r->ran_ns : 0;
	end = start + SVIO_MAX(left, SECOND); /* on a new device: at least so long */
	perf_sample(r->perf, &first);
	before = first;
	while (perf_running(r->perf) && !perf_gone(r->perf)) {
		uint64_t t;

		perf_wait(r->perf, svio_now_ns() + (r->move ? MOVE_TICK : TICK));
		if (r->move) {
			r->ran_now = r->ran_ns + svio_now_ns() - start;
			perf_move_poll(r->move);
			if (perf_move_gone(r->move))
				return;
		}
		t = svio_now_ns();
		perf_sample(r->perf, &now);
		watch_device(r);
		if (r->args.print_ready && !r->ready_printed &&
		    completions(&now) > completions(&first)) {
			fprintf(stderr, "%s\n", r->args.print_ready);
			r->ready_printed = true;
		}
		if (t - second >= SECOND) {
			note_second(r, &now, &before, r->ran_ns + t - start, t - second);
			second = t;
		}
		if (cli_interrupted()) {
			r->out.interrupted = true;
			break;
		}
		if (r->finish)
			break;
		/* Disturbances that were asked for are carried out, also when they take longer. */
		if (t >= end && completions(&now) >= r->args.min_ios &&
		    (!r->disturber || perf_disturb_finished(r->disturber)))
			break;
	}
	perf_stop(r->perf);
	/* What remains after the last full second belongs to the series too. */
	perf_sample(r->perf, &now);
	end = svio_now_ns();
	if (end - second > TICK)
		note_second(r, &now, &before, r->ran_ns + end - start, end - second);
	r->ran_ns += end - start;
}

static int run_once(struct perf_run *r)
{
	int rc;

	if (!r->out.mappings_before)
		r->out.mappings_before = perf_device_mappings();
	/* One that was received runs already. */
	rc = r->received ? 0 : perf_start(r->perf, PERF_RUN);
	r->received = false;
	if (rc)
		return rc;
	if (r->args.disturbs) {
		rc = perf_disturb_start(r->args.disturb, r->args.disturbs, r->session.dev,
					r->session.nvme, r->perf, r->args.seconds * SECOND,
					&r->disturber);
		if (rc) {
			perf_stop(r->perf);
			perf_join(r->perf);
			return rc;
		}
	}
	watch(r);
	if (r->move && perf_move_gone(r->move))
		return 0;
	/* Before the join: with decoding off nothing would complete. */
	perf_disturb_stop(r->disturber);
	r->disturber = NULL;
	rc = perf_join(r->perf);
	free(r->out.mappings_after);
	r->out.mappings_after = perf_device_mappings();
	return rc;
}

static int read_back(struct perf_run *r)
{
	struct perf_sample before, now;
	int rc;

	perf_sample(r->perf, &before);
	rc = perf_start(r->perf, PERF_READBACK);
	if (rc)
		return rc;
	while (perf_running(r->perf) && !cli_interrupted()) {
		perf_wait(r->perf, svio_now_ns() + SECOND / 4);
		watch_device(r);
		perf_sample(r->perf, &now);
		cli_progress("reading back: %" PRIu64 " requests",
			     completions(&now) - completions(&before));
	}
	if (cli_interrupted()) {
		r->out.interrupted = true;
		perf_stop(r->perf);
	}
	rc = perf_join(r->perf);
	r->out.readback_done = rc == 0 && !r->out.interrupted;
	return rc;
}

/* ---- when the device has gone ---------------------------------------------------------------------- */

static const char *gone_reason(const struct svio_device *dev)
{
	return svio_device_events(dev) & SVIO_EV_REQ ? "the host wants it back"
						     : "unplugged, or its server died";
}

/* Is this the namespace that we knew? Only something that no other namespace has can tell. */
static bool same_namespace(const struct svio_nvme_info *a, const struct svio_nvme_ns *na,
			   const struct svio_nvme_info *b, const struct svio_nvme_ns *nb)
{
	return na->nsid == nb->nsid && na->blocks == nb->blocks && na->lba_size == nb->lba_size &&
	       memcmp(na->uuid, nb->uuid, sizeof(na->uuid)) == 0 &&
	       memcmp(na->nguid, nb->nguid, sizeof(na->nguid)) == 0 &&
	       memcmp(na->eui64, nb->eui64, sizeof(na->eui64)) == 0 && a->serial[0] &&
	       strcmp(a->serial, b->serial) == 0 && strcmp(a->model, b->model) == 0;
}

static int open_again(struct perf_run *r, struct perf_replug *replug, uint64_t until)
{
	for (;;) {
		int rc = perf_replug_wait(replug, until, cli_interrupted, r->device);

		if (rc)
			return rc;
		rc = perf_run_open(r);
		/* A device that has just come may go again, or its group not be ready. Other errors will not pass. */
		if (rc == 0 || rc == -EEXIST || rc == -EINVAL || cli_interrupted() ||
		    svio_now_ns() >= until)
			return rc;
		poll(NULL, 0, RETRY_MS);
	}
}

static int replug(struct perf_run *r)
{
	const char *wanted = r->args.replug_name ? r->args.replug_name : r->device;
	uint64_t until = svio_now_ns() + r->args.replug_timeout * SECOND;
	struct svio_nvme_info old_info = r->info;
	struct svio_nvme_ns old_ns = r->ns;
	struct perf_replug p;
	bool same;
	int rc;

	rc = perf_replug_begin(&p, wanted, r->args.bind);
	if (rc)
		return rc;
	perf_detach(r->perf);
	if (r->move)
		perf_move_device(r->move, false);
	close_session(r);
	cli_progress_end();
	fprintf(stderr, "svio: waiting for %s (up to %" PRIu32 " s)\n",
		p.any ? "an NVMe controller" : p.name, r->args.replug_timeout);
	rc = open_again(r, &p, until);
	perf_replug_end(&p);
	if (rc == 0 && r->move)
		rc = perf_move_device(r->move, true);
	if (rc)
		return rc;
	same = same_namespace(&old_info, &old_ns, &r->info, &r->ns);
	fprintf(stderr, "svio: %s: %s; going on\n", r->device,
		same ? "the same namespace is back" : "a new namespace");
	r->out.replugs++;
	return perf_attach(r->perf, r->session.dev, r->session.nvme, &r->ns, same);
}

/* ---- the whole ------------------------------------------------------------------------------------- */

/* Until its time is over, its device gone for good, or it has moved away. */
static int run_to_end(struct perf_run *r)
{
	int rc;

	for (;;) {
		rc = run_once(r);
		if (r->move && perf_move_gone(r->move))
			return 0;
		if (rc == 0 && r->args.config.verify && perf_writes(r->args.config.rw) &&
		    !r->out.interrupted)
			rc = read_back(r);
		if (rc != -ENODEV)
			return rc;
		r->out.lost_devices++;
		cli_progress_end();
		fprintf(stderr, "svio: %s: gone (%s)\n", r->device, gone_reason(r->session.dev));
		if (!r->args.wait_replug)
			return svio_fail(
				ENODEV,
				"%s: the device is gone; --wait-replug would wait for another",
				r->device);
		rc = replug(r);
		if (rc)
			return rc;
	}
}

static int run(struct perf_run *r)
{
	int rc;

	rc = r->args.migratable ? perf_move_driver_area(r) : 0;
	if (rc == 0)
		rc = perf_run_open(r);
	if (rc)
		return rc;
	sched_getaffinity(0, sizeof(r->args.config.cpus), &r->args.config.cpus);
	if (r->args.migratable) {
		rc = perf_move_start(r, &r->move);
		if (rc)
			return rc;
	}
	rc = perf_create(&r->args.config, &r->ns, &r->perf);
	if (rc)
		return svio_fail_prefix(rc, "%s", r->device);
	rc = perf_attach(r->perf, r->session.dev, r->session.nvme, &r->ns, false);
	if (rc)
		return rc;
	return run_to_end(r);
}

static int report(struct perf_run *r)
{
	struct perf_outcome *o = &r->out;
	const char *verdict;
	int rc;

	if (!r->perf) /* it never began */
		return cli_fail(o->error);
	if (r->move && perf_move_gone(r->move))
		return perf_move_report(r->move);
	if (o->error)
		snprintf(o->error_text, sizeof(o->error_text), "%s", svio_last_error());
	perf_get_result(r->perf, &o->result);
	if (r->move)
		perf_move_check(r->move, &o->ballast);
	o->args = &r->args;
	o->seconds = SVIO_MAX((double)r->ran_ns / 1e9, 1e-9);
	o->last_device = r->device;
	o->faults = svio_bar_fault_count();
	rc = r->args.common.json ? perf_report_json(o) : perf_report_text(o);
	verdict = perf_verdict(o);
	if (verdict)
		rc = cli_error("%s", verdict);
	if (o->interrupted && rc == CLI_OK)
		rc = cli_error("interrupted");
	return rc;
}

int perf_run_end(struct perf_run *r)
{
	int rc;

	cli_progress_end();
	/* Statistics are complete only when the controller is closed; results only when nothing can complete any more. */
	if (r->perf) {
		char why[SVIO_ERROR_MAX];

		snprintf(why, sizeof(why), "%s", svio_last_error());
		perf_detach(r->perf);
		close_session(r);
		if (why[0])
			svio_fail(-r->out.error, "%s", why);
		rc = report(r);
	} else {
		rc = report(r);
		close_session(r);
	}
	perf_destroy(r->perf);
	perf_move_end(r->move);
	nvme_mem_stop();
	free(r->out.mappings_before);
	free(r->out.mappings_after);
	free(r->out.series);
	free(r);
	return rc;
}

int perf_run_received(struct perf_run *r)
{
	svio_clear_error();
	r->out.error = run_to_end(r);
	return perf_run_end(r);
}

int cmd_nvme_perf(int argc, char **argv)
{
	struct perf_run *r = cli_alloc(sizeof(*r));
	int rc;

	perf_parse(argc, argv, &r->args);
	cli_catch_signals();
	snprintf(r->device, sizeof(r->device), "%s", r->args.device);
	rc = nvme_mem_start(perf_memory(&r->args.config) + PERF_SIGNATURE_BYTES,
			    (uint64_t)r->args.config.qd * r->args.config.queues);
	if (rc) {
		free(r);
		return cli_fail(rc);
	}
	svio_clear_error();
	r->out.error = run(r);
	return perf_run_end(r);
}
