/* SPDX-License-Identifier: BSD-3-Clause */
/* Rounds of pages, and when to stop them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "migrate_priv.h"

#define ZERO_RUNS   4096u
#define PACE_SLICE_NS UINT64_C(50000000)
#define FEW	    64u	 /* pages: to send them is less than all the rest of the stop */
#define MANY	    4096u /* pages, from which a speed can be told */
#define NO_PROGRESS 8u	 /* rounds in a row that did not reduce what is left */
#define BANDWIDTH_GUESS UINT64_C(100000000) /* until something was sent */
#define THROTTLE_STEP 20u
#define THROTTLE_MAX  95u

struct sender {
	struct mg_move *x;
	struct svio_migrate_round *round;
	uint32_t area;
	const uint8_t *base;
	/* A frame of pages, or of runs alone: shared, the target reads them itself. */
	bool shared;
	uint32_t count, runs, full;
	struct mg_run *run;
	uint64_t first, length; /* the run that grows */
	struct iovec piece[MG_FRAME_PAGES];
	svio_le32 sum[MG_FRAME_PAGES];
	/* A frame of zeroes. */
	uint32_t zero_runs;
	struct mg_run *zero_run;
	uint64_t zero_first, zero_count;
	bool paced, fresh; /* fresh: what is not sent is zero over there */
};

/* In slices: whoever has enough does not wait for the bandwidth. */
static int pace(struct mg_move *x)
{
	uint64_t bytes = x->stream.tx_bytes + x->shared_bytes - x->pace_bytes;
	uint64_t due = x->pace_from + (uint64_t)((double)bytes * 1e9 / (double)SVIO_MAX(x->opts.max_bandwidth, 1u));

	while (x->opts.max_bandwidth) {
		uint64_t now = svio_now_ns(), left = due > now ? SVIO_MIN(due - now, PACE_SLICE_NS) : 0;
		struct timespec ts = { .tv_nsec = (long)left };

		if (x->stream.stop && x->stream.stop(x->stream.ctx))
			return svio_fail(ECANCELED, "the migration was cancelled");
		if (!left)
			break;
		nanosleep(&ts, NULL);
	}
	return 0;
}

static struct mg_run run_of(const struct sender *s, uint64_t first, uint64_t count)
{
	return (struct mg_run){ svio_cpu_to_le32(s->area), svio_cpu_to_le32(count), svio_cpu_to_le64(first) };
}

static void end_run(struct sender *s)
{
	if (!s->length)
		return;
	if (!s->shared)
		s->piece[s->runs] = (struct iovec){ (uint8_t *)(uintptr_t)s->base + s->first * MG_PAGE, s->length * MG_PAGE };
	s->run[s->runs++] = run_of(s, s->first, s->length);
	s->length = 0;
}

static int flush_pages(struct sender *s)
{
	int rc;

	end_run(s);
	if (!s->count)
		return 0;
	if (s->shared)
		rc = svio__mg_share_pages(s->x, s->run, s->runs, s->count);
	else
		rc = svio__mg_tx_pages(&s->x->stream, s->run, s->runs, s->sum, s->count, s->piece);
	s->round->pages += s->count;
	s->x->pages += s->count;
	s->count = 0;
	s->runs = 0;
	if (rc == 0 && s->paced)
		rc = pace(s->x);
	return rc;
}

/* What is in the frame of pages goes first. */
static int flush_zeroes(struct sender *s)
{
	int rc = 0;

	if (s->zero_runs) {
		rc = flush_pages(s);
		if (rc == 0)
			rc = svio__mg_tx(&s->x->stream, MG_ZERO, s->zero_run, s->zero_runs * sizeof(*s->zero_run), NULL, 0);
	}
	s->zero_runs = 0;
	return rc;
}

static int end_zero_run(struct sender *s)
{
	if (!s->zero_count)
		return 0;
	if (!s->fresh)
		s->zero_run[s->zero_runs++] = run_of(s, s->zero_first, s->zero_count);
	s->zero_count = 0;
	return s->zero_runs == ZERO_RUNS ? flush_zeroes(s) : 0;
}

static bool is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, MG_PAGE - 1) == 0;
}

/* The checksum reads three places of a page at once, which the processor does not foresee: half the time is saved (bench_move). */
static void prefetch(const uint8_t *page)
{
	for (size_t at = 0; at < MG_PAGE; at += 64)
		__builtin_prefetch(page + at);
}

/* It may change while we look at it, or until it is sent: then it is found written at the end of the round, and is sent again. */
static int send_page(struct sender *s, uint64_t page)
{
	const uint8_t *from = s->base + page * MG_PAGE;
	int rc;

	if (is_zero(from)) {
		s->round->zero_pages++;
		s->round->pages++;
		s->x->pages++;
		s->x->report->zero_pages++;
		if (s->zero_count && page == s->zero_first + s->zero_count) {
			s->zero_count++;
			return 0;
		}
		rc = end_zero_run(s);
		s->zero_first = page;
		s->zero_count = 1;
		return rc;
	}
	if (!s->shared)
		s->sum[s->count] = svio_cpu_to_le32(svio_crc32c(0, from, MG_PAGE));
	if (s->length && page != s->first + s->length)
		end_run(s);
	if (!s->length)
		s->first = page;
	s->length++;
	s->count++;
	return s->count == s->full ? flush_pages(s) : 0;
}

static int send_area(struct sender *s, struct svio_migrate_area *a)
{
	uint64_t n = a->bytes / MG_PAGE, next;
	int rc = 0;

	s->base = a->base;
	for (uint64_t page = svio_bitmap_next_set(a->dirty, n, 0); rc == 0 && page < n; page = next) {
		svio_bitmap_clear(a->dirty, page);
		next = svio_bitmap_next_set(a->dirty, n, page + 1);
		if (next < n && !s->shared)
			prefetch(a->base + next * MG_PAGE);
		rc = send_page(s, page);
	}
	/* Runs are of one area, frames of several. */
	end_run(s);
	return rc ? rc : end_zero_run(s);
}

int svio__mg_send_dirty(struct mg_move *x, struct svio_migrate_round *round, bool paced)
{
	struct sender s = { .x = x, .round = round, .paced = paced, .fresh = x->report->rounds == 0, .shared = x->shared };
	uint64_t start = svio_now_ns(), bytes = x->stream.tx_bytes;
	int rc = 0;

	x->pace_from = start;
	x->pace_bytes = bytes + x->shared_bytes;
	s.full = x->shared ? MG_HERE_PAGES : MG_FRAME_PAGES;
	s.run = malloc(s.full * sizeof(*s.run));
	s.zero_run = malloc(ZERO_RUNS * sizeof(*s.zero_run));
	if (!s.run || !s.zero_run)
		rc = svio_fail(ENOMEM, "out of memory for a list of pages");
	for (struct svio_migrate_area *a = x->m->areas; rc == 0 && a; a = a->next, s.area++)
		rc = send_area(&s, a);
	if (rc == 0)
		rc = flush_pages(&s);
	if (rc == 0)
		rc = flush_zeroes(&s);
	if (rc == 0)
		rc = svio__mg_share_wait(x);
	free(s.run);
	free(s.zero_run);
	round->ns = svio_now_ns() - start;
	round->wire_bytes = x->stream.tx_bytes - bytes;
	return rc;
}

/* ---- rounds -------------------------------------------------------------------------------------------- */

static int send_ahead(struct mg_move *x)
{
	uint32_t index = 0;
	int rc = 0;

	for (struct svio_migrate_part *p = x->m->parts; rc == 0 && p; p = p->next, index++) {
		struct svio_migrate_buf b = { .max = MG_PAYLOAD_MAX - 16 };
		svio_le32 head[2] = { svio_cpu_to_le32(index), svio_cpu_to_le32(p->version) };

		if (!p->precopy)
			continue;
		rc = p->precopy(p->ctx, &b);
		if (rc == 0)
			rc = b.err;
		if (rc == 0 && b.len)
			rc = svio__mg_tx(&x->stream, MG_AHEAD, head, sizeof(head), b.data, b.len);
		svio__mg_buf_free(&b);
	}
	return rc;
}

static void throttle(struct mg_move *x, uint32_t percent)
{
	for (struct svio_migrate_part *p = x->m->parts; p; p = p->next)
		if (p->throttle)
			p->throttle(p->ctx, percent);
}

static int no_convergence(struct mg_move *x, const struct svio_migrate_round *r)
{
	return svio_fail(ETIME,
			 "the pre-copy does not converge: after %u rounds %" PRIu64 " KiB are left, which would stop the process for %" PRIu64
			 " ms, more than the %u ms allowed; it writes %" PRIu64 " MiB/s, and %" PRIu64
			 " MiB/s get across: allow a longer downtime, more bandwidth, or throttling",
			 x->report->rounds, r->dirty_pages * (MG_PAGE >> 10), r->expected_ns / 1000000, x->opts.max_downtime_ms,
			 x->report->dirty_rate >> 20, x->report->bandwidth >> 20);
}

/* A round of few pages, or of zeroes, says little about the speed: it is mostly the way there and back. */
static void estimate(struct svio_migrate_report *rep, const struct svio_migrate_round *r)
{
	uint64_t real = r->pages - r->zero_pages;
	uint64_t seen = (uint64_t)((double)(real * MG_PAGE) * 1e9 / (double)SVIO_MAX(r->ns, UINT64_C(1000)));

	if (real >= MANY || (real >= FEW && !rep->bandwidth))
		rep->bandwidth = seen;
	else if (real >= FEW)
		rep->bandwidth = SVIO_MAX(seen, rep->bandwidth / 2);
	else if (!rep->bandwidth)
		rep->bandwidth = BANDWIDTH_GUESS;
}

static int one_round(struct mg_move *x, struct svio_migrate_round *r)
{
	struct svio_migrate_in in;
	uint64_t start = svio_now_ns(), length, per_page;
	int rc;

	*r = (struct svio_migrate_round){ 0 };
	rc = svio__mg_send_dirty(x, r, true);
	if (rc == 0)
		rc = send_ahead(x);
	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_ROUND, NULL, 0, NULL, 0);
	if (rc == 0)
		rc = svio__mg_expect(&x->stream, MG_ROUND_OK, &in);
	if (rc == 0)
		rc = svio__mg_again(x, &in);
	r->ns = svio_now_ns() - start;
	if (rc == 0)
		rc = svio__mg_track_sync(x, false, &r->dirty_pages);
	if (rc)
		return rc;
	length = SVIO_MAX(svio_now_ns() - start, UINT64_C(1000));
	estimate(x->report, r);
	x->report->dirty_rate = (uint64_t)((double)(r->dirty_pages * MG_PAGE) * 1e9 / (double)length);
	per_page = x->report->bandwidth ? (uint64_t)(1e9 * (double)MG_PAGE / (double)x->report->bandwidth) : 0;
	r->expected_ns = r->dirty_pages * per_page;
	x->report->rounds++;
	svio__mg_phase(x, SVIO_MIGRATE_PRECOPY);
	return 0;
}

/*
 * Little enough is left to stop for it. But a round that left less than half of what it sent is worth another one, which is shorter, and
 * so is the stop after it.
 */
static bool is_time_to_stop(const struct mg_move *x, const struct svio_migrate_round *r)
{
	if (r->expected_ns > x->opts.max_downtime_ms * UINT64_C(1000000))
		return false;
	return r->dirty_pages <= FEW || r->dirty_pages > r->pages / 2 || x->report->rounds >= x->opts.max_rounds;
}

int svio__mg_precopy(struct mg_move *x)
{
	uint64_t best = UINT64_MAX;
	uint32_t idle = 0;
	int rc = 0;

	x->stream.compress = x->opts.compress && x->peer_compress;
	svio__mg_phase(x, SVIO_MIGRATE_PRECOPY);
	for (;;) {
		struct svio_migrate_round *r = &x->report->round[x->report->rounds];

		rc = one_round(x, r);
		if (rc || is_time_to_stop(x, r))
			break;
		idle = r->dirty_pages < best - best / 16 ? 0 : idle + 1;
		best = SVIO_MIN(best, r->dirty_pages);
		if (idle && x->opts.throttle && x->report->throttle < THROTTLE_MAX) {
			x->report->throttle = SVIO_MIN(x->report->throttle + THROTTLE_STEP, THROTTLE_MAX);
			throttle(x, x->report->throttle);
			idle = 0;
		}
		if (idle >= NO_PROGRESS || x->report->rounds >= x->opts.max_rounds) {
			rc = no_convergence(x, r);
			break;
		}
	}
	if (x->report->throttle)
		throttle(x, 0);
	return rc;
}
