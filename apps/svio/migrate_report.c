/* SPDX-License-Identifier: BSD-3-Clause */
/* What a migration tells. The process that moves makes the JSON; whoever asked for it prints. */
#include <inttypes.h>
#include <string.h>
#include "control.h"
#include "migrate_report.h"

/* Pages in so many ns as bytes per second. */
static uint64_t rate(uint64_t pages, uint64_t ns)
{
	return ns ? (uint64_t)((double)(pages * 4096) * 1e9 / (double)ns) : 0;
}

static void put_rounds(struct json_object *obj, const struct svio_migrate_report *r)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < r->rounds && i < SVIO_MIGRATE_MAX_ROUNDS; i++) {
		const struct svio_migrate_round *k = &r->round[i];
		struct json_object *one = json_object_new_object();

		cli_json_u64(one, "pages", k->pages);
		cli_json_u64(one, "zero_pages", k->zero_pages);
		cli_json_u64(one, "wire_bytes", k->wire_bytes);
		cli_json_u64(one, "us", k->ns / 1000);
		cli_json_u64(one, "dirty_pages", k->dirty_pages);
		cli_json_u64(one, "dirty_rate", rate(k->dirty_pages, k->ns));
		cli_json_u64(one, "bandwidth", rate(k->pages, k->ns));
		cli_json_u64(one, "expected_downtime_us", k->expected_ns / 1000);
		cli_json_bool(one, "stopped", r->copy_ns && i + 1 == r->rounds); /* stop-and-copy */
		json_object_array_add(list, one);
	}
	json_object_object_add(obj, "rounds", list);
}

static void put_differences(struct json_object *obj, const struct svio_migrate_report *r)
{
	struct json_object *list = json_object_new_array();

	for (uint32_t i = 0; i < r->differences; i++) {
		const struct svio_migrate_difference *d = &r->difference[i];
		struct json_object *one = json_object_new_object();

		cli_json_str(one, "field", d->name);
		cli_json_str(one, "source", d->source);
		cli_json_str(one, "target", d->target);
		cli_json_str(one, "hint", d->hint);
		json_object_array_add(list, one);
	}
	json_object_object_add(obj, "differences", list);
}

struct json_object *migrate_report_json(const struct svio_migrate_report *r, bool ok, const char *why)
{
	struct json_object *obj = json_object_new_object();
	uint64_t parts = r->quiesce_ns + r->copy_ns + r->load_ns;

	cli_json_bool(obj, "ok", ok);
	cli_json_str(obj, "error", why && *why ? why : NULL);
	cli_json_str(obj, "phase", svio_migrate_phase_text(r->phase));
	cli_json_str(obj, "tracker", r->tracker);
	cli_json_u64(obj, "area_bytes", r->area_bytes);
	cli_json_u64(obj, "wire_bytes", r->wire_bytes);
	cli_json_u64(obj, "shared_bytes", r->shared_bytes);
	cli_json_u64(obj, "torn_pages", r->torn_pages);
	cli_json_u64(obj, "pages", r->pages);
	cli_json_u64(obj, "zero_pages", r->zero_pages);
	cli_json_u64(obj, "state_bytes", r->state_bytes);
	cli_json_u64(obj, "total_us", r->total_ns / 1000);
	cli_json_u64(obj, "downtime_us", r->downtime_ns / 1000);
	cli_json_u64(obj, "quiesce_us", r->quiesce_ns / 1000);
	cli_json_u64(obj, "copy_us", r->copy_ns / 1000);
	cli_json_u64(obj, "load_us", r->load_ns / 1000);
	cli_json_u64(obj, "hand_over_us", parts < r->downtime_ns ? (r->downtime_ns - parts) / 1000 : 0);
	cli_json_u64(obj, "dirty_rate", r->dirty_rate);
	cli_json_u64(obj, "bandwidth", r->bandwidth);
	cli_json_u64(obj, "throttle", r->throttle);
	put_rounds(obj, r);
	put_differences(obj, r);
	return obj;
}

static struct json_object *member(struct json_object *obj, const char *key, size_t i)
{
	struct json_object *list;

	return json_object_object_get_ex(obj, key, &list) && json_object_is_type(list, json_type_array) ?
		       json_object_array_get_idx(list, i) : NULL;
}

static size_t rounds(struct json_object *obj)
{
	size_t n = 0;

	while (member(obj, "rounds", n))
		n++;
	return n;
}

char *migrate_progress_text(struct json_object *obj, char *buf, size_t size)
{
	struct json_object *last = member(obj, "rounds", rounds(obj) - 1);
	const char *phase = control_text(obj, "phase");
	char rate[CLI_SIZE_LEN], left[CLI_SIZE_LEN];

	if (last)
		snprintf(buf, size, "%s: round %zu, %s left, written at %s/s, %" PRIu64 ".%" PRIu64 " ms of downtime expected",
			 phase ? phase : "?", rounds(obj), cli_size(control_u64(last, "dirty_pages", 0) * 4096, left),
			 cli_size(control_u64(obj, "dirty_rate", 0), rate), control_u64(last, "expected_downtime_us", 0) / 1000,
			 control_u64(last, "expected_downtime_us", 0) % 1000 / 100);
	else
		snprintf(buf, size, "%s", phase ? phase : "?");
	return buf;
}

static double ms(struct json_object *obj, const char *key)
{
	return (double)control_u64(obj, key, 0) / 1000;
}

void migrate_report_text(struct json_object *obj, FILE *out)
{
	char a[CLI_SIZE_LEN], w[CLI_SIZE_LEN], s[CLI_SIZE_LEN];
	uint64_t shared = control_u64(obj, "shared_bytes", 0);
	struct json_object *d;

	for (size_t i = 0; (d = member(obj, "differences", i)); i++) {
		const char *hint = control_text(d, "hint");

		fprintf(out, "  does not fit: %s: %s at the source, %s at the target%s%s\n", control_text(d, "field"),
			control_text(d, "source"), control_text(d, "target"), hint && *hint ? ": " : "", hint ? hint : "");
	}
	if (!rounds(obj))
		return;
	fprintf(out, "  memory: %s in areas, %" PRIu64 " pages sent (%" PRIu64 " of zeroes), %s on the wire, states %s\n",
		cli_size(control_u64(obj, "area_bytes", 0), a), control_u64(obj, "pages", 0), control_u64(obj, "zero_pages", 0),
		cli_size(control_u64(obj, "wire_bytes", 0), w), cli_size(control_u64(obj, "state_bytes", 0), s));
	if (shared)
		fprintf(out, "  %s of it read by the target from this process's memory: both are on one machine\n", cli_size(shared, s));
	if (control_u64(obj, "torn_pages", 0))
		fprintf(out, "  %" PRIu64 " pages were written to while they were sent, and sent again\n", control_u64(obj, "torn_pages", 0));
	fprintf(out, "  written pages told by: %s\n", control_text(obj, "tracker"));
	fprintf(out, "  rounds: %zu in %.1f ms\n", rounds(obj), ms(obj, "total_us"));
	fprintf(out, "  written by the process: %s/s; sent: %s/s", cli_size(control_u64(obj, "dirty_rate", 0), a),
		cli_size(control_u64(obj, "bandwidth", 0), w));
	if (control_u64(obj, "throttle", 0))
		fprintf(out, "; slowed down by up to %" PRIu64 " %%", control_u64(obj, "throttle", 0));
	fprintf(out, "\n  downtime: %.2f ms (stop %.2f, send the rest %.2f, load at the target %.2f, hand-over %.2f)\n",
		ms(obj, "downtime_us"), ms(obj, "quiesce_us"), ms(obj, "copy_us"), ms(obj, "load_us"), ms(obj, "hand_over_us"));
}
