/* SPDX-License-Identifier: BSD-3-Clause */
/* The result of `svio nvme perf`, as text and as JSON. */
#include <inttypes.h>
#include <string.h>
#include "perf_report.h"

#define MIB 1048576.0

static const double percents[] = { 50, 90, 99, 99.9, 99.99 };

static uint64_t cycles_to_ns(uint64_t cycles)
{
	return (uint64_t)((double)cycles * 1e9 / (double)svio_cycles_hz());
}

static uint64_t mean(const struct svio_hist *h)
{
	return h->count ? h->sum / h->count : 0;
}

char *perf_second_text(const struct perf_second *s, uint32_t bs, char *buf, size_t size)
{
	double reads = (double)s->ops[PERF_OP_READ] / s->seconds;
	double writes = (double)s->ops[PERF_OP_WRITE] / s->seconds;

	snprintf(buf, size,
		 "%6.1f s  %10.0f IOPS  %8.1f MiB/s  read %.0f  write %.0f  failed %" PRIu64, s->at,
		 reads + writes, (reads + writes) * bs / MIB, reads, writes, s->failed);
	return buf;
}

/* Failures that the options asked for: the device was taken away on purpose. */
static bool expected_status(const struct perf_outcome *o, int status)
{
	return (status == -ECANCELED && (o->args->disturbs || o->replugs || o->moves)) ||
	       (status == -ENODEV && o->replugs);
}

const char *perf_verdict(const struct perf_outcome *o)
{
	const struct perf_result *r = &o->result;

	if (r->doubled)
		return "requests completed twice";
	if (r->lost)
		return "requests were lost";
	if (r->verify_errors)
		return "blocks are not what was written";
	if (o->ballast.wrong)
		return "memory that moved along is not what was written";
	if (o->error)
		return o->error_text[0] ? o->error_text : strerror(-o->error);
	if (r->submitted != r->completed_ok + r->completed_err)
		return "not every request completed";
	if (o->readback_done && r->readback_slots != r->slots_written)
		return "not everything that was written could be read back";
	for (int i = 0; i < PERF_STATUSES && r->status[i].count; i++)
		if (!expected_status(o, r->status[i].status))
			return "requests failed";
	for (uint32_t i = 0; i < o->args->disturbs; i++)
		if (o->args->disturb[i].failed)
			return "the load did not go on after a disturbance";
	return NULL;
}

/* ---- text ------------------------------------------------------------------------------------------ */

static void print_latency(const char *what, const struct svio_hist *h, double seconds, uint32_t bs)
{
	double iops = (double)h->count / seconds;

	if (!h->count)
		return;
	printf("  %-6s %10.0f IOPS  %8.1f MiB/s  latency us: mean %.1f  min %.1f", what, iops,
	       iops * bs / MIB, (double)cycles_to_ns(mean(h)) / 1e3,
	       (double)cycles_to_ns(h->min) / 1e3);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(percents); i++)
		printf("  %g%% %.1f", percents[i],
		       (double)cycles_to_ns(svio_hist_percentile(h, percents[i])) / 1e3);
	printf("  max %.1f\n", (double)cycles_to_ns(h->max) / 1e3);
}

static const char *status_text(int status)
{
	return status ? svio_nvme_status_text(status) : "others";
}

static void print_complaints(const struct perf_result *r)
{
	for (uint32_t i = 0; i < r->complaints; i++) {
		const struct perf_complaint *c = &r->complaint[i];

		printf("    LBA %" PRIu64 ": %s; version %" PRIu64 " found, %" PRIu64 " to %" PRIu64
		       " expected\n",
		       c->lba, verify_result_text(c->result), c->seq, c->min, c->max);
	}
}

static void print_verified(const struct perf_outcome *o)
{
	const struct perf_result *r = &o->result;

	printf("  verified: %" PRIu64 " blocks sound", r->verified[VERIFY_OK]);
	if (r->verified[VERIFY_FOREIGN])
		printf(", %" PRIu64 " sound of earlier runs", r->verified[VERIFY_FOREIGN]);
	if (r->verified[VERIFY_UNKNOWN])
		printf(", %" PRIu64 " that no run has written", r->verified[VERIFY_UNKNOWN]);
	printf(", %" PRIu64 " WRONG\n", r->verify_errors);
	print_complaints(r);
	if (perf_writes(o->args->config.rw) && o->readback_done)
		printf("  read back: %" PRIu64 " of %" PRIu64 " places written\n",
		       r->readback_slots, r->slots_written);
	else if (perf_writes(o->args->config.rw))
		printf("  read back: not done\n");
	if (r->range_cut)
		printf("  range: cut to %" PRIu64 " blocks from LBA %" PRIu64
		       " for the memory of its book\n",
		       r->blocks, r->lba);
}

int perf_report_text(const struct perf_outcome *o)
{
	const struct perf_config *c = &o->args->config;
	const struct perf_result *r = &o->result;
	static struct svio_hist all;
	char bs[CLI_SIZE_LEN];

	printf("%s namespace %" PRIu32 ": %s", o->last_device, o->nsid, perf_rw_name(c->rw));
	if (c->rw == PERF_RANDRW)
		printf(" (%" PRIu32 " %% reads)", c->read_pct);
	printf(", %s, %" PRIu32 " queue%s of depth %" PRIu32 " on %" PRIu32 " thread%s, %.2f s\n",
	       cli_size(c->bs, bs), c->queues, c->queues == 1 ? "" : "s", c->qd, r->threads,
	       r->threads == 1 ? "" : "s", o->seconds);
	print_latency("read", &r->latency[PERF_OP_READ], o->seconds, c->bs);
	print_latency("write", &r->latency[PERF_OP_WRITE], o->seconds, c->bs);
	if (r->latency[PERF_OP_READ].count && r->latency[PERF_OP_WRITE].count) {
		memset(&all, 0, sizeof(all));
		svio_hist_merge(&all, &r->latency[PERF_OP_READ]);
		svio_hist_merge(&all, &r->latency[PERF_OP_WRITE]);
		print_latency("both", &all, o->seconds, c->bs);
	}
	printf("  requests: %" PRIu64 " submitted, %" PRIu64 " completed well, %" PRIu64
	       " with an error, %" PRIu64 " lost, %" PRIu64 " twice\n",
	       r->submitted, r->completed_ok, r->completed_err, r->lost, r->doubled);
	for (int i = 0; i < PERF_STATUSES && r->status[i].count; i++)
		printf("    %" PRIu64 ": %s\n", r->status[i].count,
		       status_text(r->status[i].status));
	if (c->verify)
		print_verified(o);
	if (o->stats.revocations || o->stats.resets || o->lost_devices)
		printf("  survived: %" PRIu64 " revocations (%" PRIu64 " faults absorbed), %" PRIu64
		       " resets, %" PRIu64 " requests submitted again; %" PRIu32
		       " devices gone, %" PRIu32 " found again\n",
		       o->stats.revocations, o->faults, o->stats.resets, o->stats.requeued,
		       o->lost_devices, o->replugs);
	if (o->moves)
		printf("  moved: %" PRIu32 " times from process to process; %" PRIu64 " requests submitted again\n", o->moves,
		       o->stats.requeued);
	for (uint32_t i = 0; i < o->args->disturbs; i++) {
		const struct perf_disturb_spec *s = &o->args->disturb[i];

		printf("  disturbed (%s): %" PRIu32 " of %" PRIu32 " done, %" PRIu32
		       " noticed by the driver, %" PRIu32 " without recovery\n",
		       perf_disturb_name(s->kind), s->done, s->count, s->noticed, s->failed);
	}
	return CLI_OK;
}

/* ---- JSON ------------------------------------------------------------------------------------------ */

static void add_double(struct json_object *obj, const char *key, double value)
{
	json_object_object_add(obj, key, json_object_new_double(value));
}

static struct json_object *latency_json(const struct svio_hist *h, double seconds, uint32_t bs)
{
	struct json_object *obj = json_object_new_object(), *ns = json_object_new_object();
	double iops = (double)h->count / seconds;

	cli_json_u64(obj, "count", h->count);
	add_double(obj, "iops", iops);
	add_double(obj, "mib_per_second", iops * bs / MIB);
	cli_json_u64(ns, "min", cycles_to_ns(h->min));
	cli_json_u64(ns, "mean", cycles_to_ns(mean(h)));
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(percents); i++) {
		char key[16];

		snprintf(key, sizeof(key), "p%g", percents[i]);
		cli_json_u64(ns, key, cycles_to_ns(svio_hist_percentile(h, percents[i])));
	}
	cli_json_u64(ns, "max", cycles_to_ns(h->max));
	json_object_object_add(obj, "latency_ns", ns);
	return obj;
}

static struct json_object *series_json(const struct perf_outcome *o)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < o->series_count; i++) {
		const struct perf_second *s = &o->series[i];
		struct json_object *row = json_object_new_object();

		add_double(row, "at", s->at);
		add_double(row, "seconds", s->seconds);
		cli_json_u64(row, "reads", s->ops[PERF_OP_READ]);
		cli_json_u64(row, "writes", s->ops[PERF_OP_WRITE]);
		cli_json_u64(row, "failed", s->failed);
		json_object_array_add(list, row);
	}
	return list;
}

static struct json_object *statuses_json(const struct perf_result *r)
{
	struct json_object *list = json_object_new_array();

	for (int i = 0; i < PERF_STATUSES && r->status[i].count; i++) {
		struct json_object *row = json_object_new_object();

		cli_json_int(row, "status", r->status[i].status);
		cli_json_str(row, "text", status_text(r->status[i].status));
		cli_json_u64(row, "count", r->status[i].count);
		json_object_array_add(list, row);
	}
	return list;
}

static struct json_object *verify_json(const struct perf_outcome *o)
{
	struct json_object *obj = json_object_new_object(), *list = json_object_new_array();
	const struct perf_result *r = &o->result;

	for (int v = 0; v < VERIFY_RESULTS; v++)
		cli_json_u64(obj, verify_result_name((enum verify_result)v), r->verified[v]);
	for (uint32_t i = 0; i < r->complaints; i++) {
		struct json_object *row = json_object_new_object();

		cli_json_u64(row, "lba", r->complaint[i].lba);
		cli_json_str(row, "result", verify_result_name(r->complaint[i].result));
		cli_json_u64(row, "version", r->complaint[i].seq);
		cli_json_u64(row, "expected_min", r->complaint[i].min);
		cli_json_u64(row, "expected_max", r->complaint[i].max);
		json_object_array_add(list, row);
	}
	json_object_object_add(obj, "first_errors", list);
	cli_json_hex(obj, "run", r->run, 16);
	cli_json_u64(obj, "places_written", r->slots_written);
	cli_json_u64(obj, "places_read_back", r->readback_slots);
	cli_json_bool(obj, "read_back", o->readback_done);
	cli_json_bool(obj, "range_cut", r->range_cut);
	return obj;
}

static struct json_object *disturb_json(const struct perf_args *args)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < args->disturbs; i++) {
		struct json_object *row = json_object_new_object();

		cli_json_str(row, "kind", perf_disturb_name(args->disturb[i].kind));
		cli_json_u64(row, "count", args->disturb[i].count);
		cli_json_u64(row, "done", args->disturb[i].done);
		cli_json_u64(row, "noticed", args->disturb[i].noticed);
		cli_json_u64(row, "failed", args->disturb[i].failed);
		json_object_array_add(list, row);
	}
	return list;
}

int perf_report_json(const struct perf_outcome *o)
{
	const struct perf_config *c = &o->args->config;
	const struct perf_result *r = &o->result;
	struct json_object *doc = json_object_new_object();
	const char *verdict = perf_verdict(o);

	cli_json_str(doc, "device", o->args->device);
	cli_json_str(doc, "last_device", o->last_device);
	cli_json_u64(doc, "nsid", o->nsid);
	cli_json_u64(doc, "lba_size", o->lba_size);
	cli_json_str(doc, "rw", perf_rw_name(c->rw));
	cli_json_u64(doc, "bs", c->bs);
	cli_json_u64(doc, "offset", c->offset);
	cli_json_u64(doc, "qd", c->qd);
	cli_json_u64(doc, "queues", c->queues);
	cli_json_u64(doc, "threads", r->threads);
	cli_json_u64(doc, "mix", c->read_pct);
	cli_json_u64(doc, "seed", c->seed);
	cli_json_bool(doc, "interrupt", c->interrupts);
	cli_json_str(doc, "policy", o->args->policy == SVIO_NVME_FAIL ? "fail" : "requeue");
	cli_json_u64(doc, "range_lba", r->lba);
	cli_json_u64(doc, "range_blocks", r->blocks);
	add_double(doc, "seconds", o->seconds);
	json_object_object_add(doc, "read",
			       latency_json(&r->latency[PERF_OP_READ], o->seconds, c->bs));
	json_object_object_add(doc, "write",
			       latency_json(&r->latency[PERF_OP_WRITE], o->seconds, c->bs));
	if (o->ballast.bytes) {
		struct json_object *ballast = json_object_new_object();

		cli_json_u64(ballast, "bytes", o->ballast.bytes);
		cli_json_u64(ballast, "written_pages", o->ballast.written);
		cli_json_u64(ballast, "wrong_pages", o->ballast.wrong);
		json_object_object_add(doc, "ballast", ballast);
	}
	cli_json_u64(doc, "submitted", r->submitted);
	cli_json_u64(doc, "completed_ok", r->completed_ok);
	cli_json_u64(doc, "completed_err", r->completed_err);
	json_object_object_add(doc, "errors", statuses_json(r));
	cli_json_u64(doc, "lost", r->lost);
	cli_json_u64(doc, "double", r->doubled);
	cli_json_u64(doc, "verify_errors", r->verify_errors);
	if (c->verify)
		json_object_object_add(doc, "verify", verify_json(o));
	cli_json_u64(doc, "revocations", o->stats.revocations);
	cli_json_u64(doc, "resets", o->stats.resets);
	cli_json_u64(doc, "requeued", o->stats.requeued);
	cli_json_u64(doc, "aborts", o->stats.aborts);
	cli_json_u64(doc, "timeouts", o->stats.timeouts);
	cli_json_u64(doc, "faults_absorbed", o->faults);
	cli_json_u64(doc, "devices_gone", o->lost_devices);
	cli_json_u64(doc, "replugs", o->replugs);
	cli_json_u64(doc, "moves", o->moves);
	json_object_object_add(doc, "disturb", disturb_json(o->args));
	cli_json_str(doc, "mappings_before", o->mappings_before);
	cli_json_str(doc, "mappings_after", o->mappings_after);
	if (o->args->log_series)
		json_object_object_add(doc, "series", series_json(o));
	cli_json_bool(doc, "interrupted", o->interrupted);
	cli_json_bool(doc, "ok", verdict == NULL);
	cli_json_str(doc, "failure", verdict);
	return cli_json_print(doc);
}
