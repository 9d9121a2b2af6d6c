/* SPDX-License-Identifier: BSD-3-Clause */
/* The source. svio_migrate.h has the protocol and its argument. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_priv.h"

#define STATE_PIECE (UINT32_C(512) << 10)
#define ASK_EVERY_MS 200
#define LAYOUT_MAX   (UINT32_C(64) << 20)
#define ALLOCATED_MS (UINT64_C(64) << 10) /* bytes that the target has allocated and mapped in a millisecond, at least */

/* ---- before anything moves ------------------------------------------------------------------------------- */

static int hello(struct mg_move *x)
{
	struct svio_migrate_in in;
	uint32_t flags;
	int rc;

	rc = svio__mg_hello_put(x, x->opts.check_only ? MG_HELLO_CHECK : 0);
	if (rc == 0)
		rc = svio__mg_expect(&x->stream, MG_HELLO, &in);
	if (rc == 0)
		rc = svio__mg_hello_get(x, &in, &flags, x->nonce);
	if (rc == 0)
		svio__mg_key(x);
	return rc;
}

/* In pieces, if it is long: the last one is shorter than the others. */
static int send_long(struct mg_move *x, enum mg_frame type, const struct svio_migrate_buf *b)
{
	size_t at = 0, n;
	int rc;

	do {
		n = SVIO_MIN(b->len - at, (size_t)STATE_PIECE);
		rc = svio__mg_tx(&x->stream, type, NULL, 0, b->data + at, n);
		at += n;
	} while (rc == 0 && n == STATE_PIECE);
	return rc;
}

static int get_verdict(struct mg_move *x)
{
	struct svio_migrate_report *r = x->report;
	struct svio_migrate_in in;
	uint32_t all;
	int rc = svio__mg_expect(&x->stream, MG_VERDICT, &in);

	if (rc)
		return rc;
	all = svio_migrate_get_u32(&in);
	r->differences = svio_migrate_get_u32(&in);
	if (r->differences > SVIO_ARRAY_SIZE(r->difference) || r->differences > all) {
		r->differences = 0;
		return svio_fail(EPROTO, "a VERDICT of another form");
	}
	for (uint32_t i = 0; i < r->differences; i++) {
		struct svio_migrate_difference *d = &r->difference[i];

		svio_migrate_get_text(&in, d->name, sizeof(d->name));
		svio_migrate_get_text(&in, d->source, sizeof(d->source));
		svio_migrate_get_text(&in, d->target, sizeof(d->target));
		svio_migrate_get_text(&in, d->hint, sizeof(d->hint));
	}
	if (in.bad)
		return svio_fail(EPROTO, "a VERDICT of another length");
	if (r->differences)
		return svio_fail(EPERM, "the target does not fit: %s: %s here, %s there%s%s%s", r->difference[0].name,
				 r->difference[0].source, r->difference[0].target, r->difference[0].hint[0] ? ": " : "",
				 r->difference[0].hint, all > 1 ? " (and more)" : "");
	return 0;
}

static int compare(struct mg_move *x)
{
	struct svio_migrate_buf b = { .max = LAYOUT_MAX };
	struct svio_migrate_record rec = { 0 };
	int rc;

	rc = svio__mg_describe(x, &rec, NULL);
	if (rc == 0)
		rc = svio__mg_record_put(&rec, &b);
	if (rc == 0)
		rc = send_long(x, MG_RECORD, &b);
	if (rc == 0)
		rc = get_verdict(x);
	svio__mg_buf_free(&b);
	svio__mg_record_free(&rec);
	return rc;
}

static int layout(struct mg_move *x)
{
	struct svio_migrate_buf b = { .max = LAYOUT_MAX };
	struct svio_migrate_in in;
	uint32_t n = 0;
	int rc = 0;

	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next) {
		uint64_t pages = a->bytes / MG_PAGE;

		n++;
		x->report->area_bytes += a->bytes;
		free(a->dirty);
		a->dirty = calloc(SVIO_BITMAP_WORDS(pages), sizeof(uint64_t));
		if (!a->dirty)
			return svio_fail(ENOMEM, "area %s: out of memory for a bitmap", a->name);
		svio_bitmap_set_range(a->dirty, 0, pages);
	}
	svio_migrate_put_u32(&b, n);
	for (struct svio_migrate_area *a = x->m->areas; rc == 0 && a; a = a->next)
		rc = svio__mg_area_put(a, &b);
	if (rc == 0)
		rc = send_long(x, MG_LAYOUT, &b);
	/* Not silence, but work. */
	if (x->stream.timeout_ms)
		x->stream.timeout_ms = (uint32_t)SVIO_MIN(x->opts.io_timeout_ms + x->report->area_bytes / ALLOCATED_MS, (uint64_t)INT32_MAX);
	if (rc == 0)
		rc = svio__mg_expect(&x->stream, MG_LAYOUT_OK, &in);
	x->stream.timeout_ms = x->opts.io_timeout_ms;
	svio__mg_buf_free(&b);
	return rc;
}

/* ---- stop-and-copy --------------------------------------------------------------------------------------- */

/* From the last to the first: `depth` parts were asked, also when the last of them failed. */
static int quiesce(struct mg_move *x, uint32_t *depth)
{
	uint32_t n = 0;
	int rc = 0;

	for (struct svio_migrate_part *p = x->m->parts; p; p = p->next)
		n++;
	*depth = 0;
	while (rc == 0 && *depth < n) {
		struct svio_migrate_part *p = svio__mg_part(x->m, n - 1 - *depth);

		++*depth;
		if (p->quiesce)
			rc = p->quiesce(p->ctx);
	}
	x->report->quiesce_ns = svio_now_ns() - x->stopped_at;
	return rc;
}

/* Undo it, in the order of registration. */
static void resume(struct svio_migrate *m, uint32_t depth)
{
	uint32_t n = 0, index = 0;

	for (struct svio_migrate_part *p = m->parts; p; p = p->next)
		n++;
	for (struct svio_migrate_part *p = m->parts; p; p = p->next, index++)
		if (index + SVIO_MIN(depth, n) >= n && p->resume)
			p->resume(p->ctx, SVIO_MIGRATE_SOURCE);
}

static void discard(struct svio_migrate *m)
{
	for (struct svio_migrate_part *p = m->parts; p; p = p->next)
		if (p->discard)
			p->discard(p->ctx, SVIO_MIGRATE_SOURCE);
}

static int send_states(struct mg_move *x)
{
	uint32_t index = 0;
	int rc = 0;

	for (struct svio_migrate_part *p = x->m->parts; rc == 0 && p; p = p->next, index++) {
		struct svio_migrate_buf b = { .max = MG_MAX_STATE };
		size_t at = 0, n;

		if (p->save)
			rc = p->save(p->ctx, &b);
		if (rc == 0)
			rc = b.err;
		x->state_bytes += b.len;
		for (; rc == 0 && at < b.len; at += n) {
			svio_le32 head[2] = { svio_cpu_to_le32(index), svio_cpu_to_le32(p->version) };

			n = SVIO_MIN(b.len - at, (size_t)STATE_PIECE);
			rc = svio__mg_tx(&x->stream, MG_STATE, head, sizeof(head), b.data + at, n);
		}
		svio__mg_buf_free(&b);
	}
	return rc;
}

static int stop_and_copy(struct mg_move *x)
{
	struct svio_migrate_round *r = &x->report->round[x->report->rounds];
	svio_le64 sums[2];
	struct svio_migrate_in in;
	uint64_t start = svio_now_ns(), dirty;
	int rc;

	*r = (struct svio_migrate_round){ 0 };
	rc = svio__mg_track_sync(x, true, &dirty);
	if (rc == 0)
		rc = svio__mg_send_dirty(x, r, false);
	if (rc == 0)
		rc = send_states(x);
	x->report->rounds++;
	sums[0] = svio_cpu_to_le64(x->pages - x->report->zero_pages);
	sums[1] = svio_cpu_to_le64(x->state_bytes);
	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_PREPARE, sums, sizeof(sums), NULL, 0);
	x->report->copy_ns = svio_now_ns() - start;
	start = svio_now_ns();
	if (rc == 0)
		rc = svio__mg_expect(&x->stream, MG_READY, &in);
	x->report->load_ns = svio_now_ns() - start;
	/* The last moment; waiting asked only as often as there was something to wait for. */
	if (rc == 0 && x->opts.stop && x->opts.stop(x->opts.ctx))
		rc = svio_fail(ECANCELED, "the migration was cancelled");
	return rc;
}

/* ---- the hand-over ----------------------------------------------------------------------------------------- */

enum answer { NOBODY_KNOWS, NOT_YET, IT_RUNS, IT_DOES_NOT, IT_DIED };

static enum answer ask_lease(struct mg_move *x)
{
	enum mg_lease lease;
	int rc = svio__mg_lease_ask(x->m->lease_fd, x->session, &lease);

	if (rc)
		return rc == -EAGAIN ? NOT_YET : NOBODY_KNOWS;
	return lease == MG_LEASE_OURS ? IT_DOES_NOT : lease == MG_LEASE_THEIRS ? IT_RUNS : IT_DIED;
}

/* A new connection, one question. */
static enum answer ask_target(struct mg_move *x)
{
	struct svio_migrate_report ignored;
	enum answer answer = NOT_YET;
	struct svio_migrate_opts opts = x->opts;
	struct svio_migrate_in in;
	struct mg_move q;
	uint32_t flags, fate;
	int fd;

	if (!x->opts.reconnect)
		return NOBODY_KNOWS;
	if (x->opts.reconnect(x->opts.ctx, &fd))
		return NOT_YET;
	opts.io_timeout_ms = 2000;
	opts.stop = NULL;
	if (svio__mg_move_init(&q, x->m, fd, fd, &opts, &ignored) == 0) {
		memcpy(q.session, x->session, sizeof(q.session));
		if (svio__mg_hello_put(&q, MG_HELLO_QUERY) == 0 && svio__mg_expect(&q.stream, MG_HELLO, &in) == 0 &&
		    svio__mg_hello_get(&q, &in, &flags, q.nonce) == 0) {
			svio__mg_key(&q);
			if (svio__mg_expect(&q.stream, MG_ANSWER, &in) == 0) {
				fate = svio_migrate_get_u32(&in);
				if (!in.bad)
					answer = fate == MG_RUNS ? IT_RUNS : fate == MG_BURIED ? IT_DOES_NOT : NOT_YET;
			}
		}
	}
	svio__mg_move_fini(&q);
	close(fd);
	return answer;
}

static int settle(struct mg_move *x)
{
	uint64_t start = svio_now_ns();
	enum answer a;

	svio__mg_phase(x, SVIO_MIGRATE_UNCERTAIN);
	for (;;) {
		a = x->m->lease_fd >= 0 ? ask_lease(x) : ask_target(x);
		if (a != NOT_YET && a != NOBODY_KNOWS)
			break;
		if (a == NOBODY_KNOWS && !x->opts.uncertain_ms)
			break;
		if (x->opts.uncertain_ms && svio_now_ns() - start > x->opts.uncertain_ms * UINT64_C(1000000))
			break;
		poll(NULL, 0, ASK_EVERY_MS);
	}
	switch (a) {
	case IT_RUNS:
		return 0;
	case IT_DOES_NOT:
		return svio_fail(ECONNRESET, "the connection was lost during the hand-over; the target has not taken over");
	case IT_DIED:
		return svio_fail(EOWNERDEAD, "the target had taken over, and died");
	default:
		return svio_fail(EREMOTEIO, "the connection was lost during the hand-over, and the target does not answer: nobody knows "
				 "whether it runs; the source stays stopped");
	}
}

/* 0 the target runs; -EREMOTEIO, -EOWNERDEAD; anything else: it does not. */
static int hand_over(struct mg_move *x, const char *lease)
{
	struct svio_migrate_in in;
	bool direct = x->direct;
	int rc;

	if (lease) {
		rc = svio__mg_lease_offer(x->m->lease_fd, x->session);
		if (rc)
			return rc;
	}
	x->stream.stop = NULL;
	rc = svio__mg_tx(&x->stream, MG_COMMIT, NULL, 0, NULL, 0);
	if (rc == 0) {
		if (direct && !lease)
			x->stream.timeout_ms = x->opts.uncertain_ms; /* what has not come may come as long as the socket is open */
		rc = svio__mg_expect(&x->stream, MG_CONFIRM, &in);
		if (rc == 0)
			return 0;
		if (rc == -ECONNABORTED) {
			enum mg_lease answer;

			/* Said by the target itself. */
			if (lease && (svio__mg_lease_ask(x->m->lease_fd, x->session, &answer) || answer != MG_LEASE_OURS))
				return settle(x);
			return rc;
		}
		if (direct && !lease && rc == -ECONNRESET)
			return svio_fail(ECONNRESET, "the target ended before it took over");
		return settle(x);
	}
	/* The frame did not leave as a whole: nobody can have read it. */
	return lease ? settle(x) : rc;
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

static int prepare(struct mg_move *x)
{
	int rc = hello(x);

	if (rc == 0)
		rc = compare(x);
	if (rc || x->opts.check_only)
		return rc;
	x->direct = svio__mg_is_direct(x);
	rc = layout(x);
	if (rc == 0)
		rc = svio__mg_share_offer(x);
	if (rc == 0)
		rc = svio__mg_track_start(x);
	if (rc)
		return rc;
	return svio__mg_precopy(x);
}

static void say_why(struct mg_move *x, int rc, const char *why)
{
	struct svio_migrate_buf b = { .max = 4096 };

	x->stream.timeout_ms = SVIO_MIN(x->stream.timeout_ms, 1000u);
	x->stream.stop = NULL;
	svio_migrate_put_u32(&b, (uint32_t)-rc);
	svio_migrate_put_text(&b, why);
	if (!b.err)
		(void)svio__mg_tx(&x->stream, MG_ABORT, b.data, b.len, NULL, 0);
	svio__mg_buf_free(&b);
}

static int move(struct mg_move *x)
{
	char why[SVIO_ERROR_MAX / 2 - 1];
	uint32_t depth = 0;
	int rc;

	if (x->opts.lease && !x->opts.check_only) {
		rc = svio__mg_lease_hold(x->opts.lease, &x->m->lease_fd);
		if (rc)
			return rc;
	}
	rc = prepare(x);
	if (rc == 0 && x->opts.check_only)
		return svio__mg_tx(&x->stream, MG_BYE, NULL, 0, NULL, 0);
	if (rc == 0) {
		svio__mg_phase(x, SVIO_MIGRATE_STOPPED);
		x->stopped_at = svio_now_ns();
		rc = quiesce(x, &depth);
	}
	if (rc == 0)
		rc = stop_and_copy(x);
	if (rc == 0) {
		rc = hand_over(x, x->opts.lease);
		if (rc == 0 || rc == -EOWNERDEAD) {
			x->report->downtime_ns = svio_now_ns() - x->stopped_at;
			/* Slow for much memory: when nobody waits. */
			svio__mg_track_stop(x);
			discard(x->m);
			return rc;
		}
		if (rc == -EREMOTEIO) {
			svio__mg_track_stop(x);
			return rc;
		}
	} else {
		snprintf(why, sizeof(why), "%s", svio_last_error());
		if (rc != -ECONNABORTED && rc != -ECONNRESET && rc != -EPERM)
			say_why(x, rc, why);
		svio_fail(-rc, "%s", why);
	}
	snprintf(why, sizeof(why), "%s", svio_last_error());
	if (depth) {
		resume(x->m, depth);
		x->report->downtime_ns = svio_now_ns() - x->stopped_at;
	}
	svio__mg_track_stop(x);
	svio__mg_cancel(x->m, SVIO_MIGRATE_SOURCE);
	return svio_fail(-rc, "%s", why);
}

int svio_migrate_send(struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
		      struct svio_migrate_report *report)
{
	struct svio_migrate_report *own = NULL;
	struct mg_move *x = malloc(sizeof(*x));
	int rc;

	if (!report)
		report = own = malloc(sizeof(*own));
	if (!x || !report) {
		free(x);
		free(own);
		return svio_fail(ENOMEM, "out of memory for a migration");
	}
	rc = svio__mg_move_init(x, m, in, out, opts, report);
	if (rc == 0)
		rc = move(x);
	if (rc != -EREMOTEIO)
		svio__mg_phase(x, rc == 0 ? SVIO_MIGRATE_DONE : SVIO_MIGRATE_FAILED);
	svio__mg_move_fini(x);
	free(x);
	free(own);
	return rc;
}

void svio_migrate_decide(struct svio_migrate *m, bool run_here)
{
	if (run_here) {
		resume(m, UINT32_MAX);
		svio__mg_cancel(m, SVIO_MIGRATE_SOURCE);
	} else {
		discard(m);
	}
}
