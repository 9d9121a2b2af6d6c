/* SPDX-License-Identifier: BSD-3-Clause */
/* See dsa_work.h. */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"
#include "dsa_work.h"
#include "rate.h"

#define WINDOW	  65536u /* numbers between the oldest in flight and the next */
#define PAGE	  UINT64_C(4096)
#define SHIFT_MAX UINT64_C(3000) /* of a copy onto itself */
#define MARGIN	  UINT64_C(64) /* bytes beside an operation's that are checked, too */
#define TAG_MASK  ((uintptr_t)(SVIO_CACHELINE - 1))
#define BUFFERS	  3u

/* ---- what lies in the area ------------------------------------------------------------------------------------ */

struct work_req {
	_Alignas(SVIO_CACHELINE) uint64_t seq;
	uint64_t busy; /* 0 or 1 */
	struct svio_dsa_result results[DSA_WORK_BATCH]; /* of a batch */
};

struct shared {
	struct dsa_work_config config;
	uint64_t next, low; /* next number; all below `low` have completed */
	uint64_t completed, verified, wrong, first_wrong, errors, doubled;
	int64_t first_error;
	uint64_t kinds[DSA_WORK_KINDS];
	uint64_t done[WINDOW / 64]; /* ring: number n at bit n % WINDOW */
	struct work_req reqs[];	    /* queues × depth; then buffers */
};

struct dsa_work {
	struct shared *s;
	uint8_t *buffers, *expected; /* expected: BUFFERS of our own */
	struct svio_migrate_area *area;
	struct svio_dsa_wq *wqs[DSA_WORK_QUEUES];
	uint64_t stride;
	pthread_t thread;
	bool running, yield;
	_Atomic bool stop, finish, failed, forgotten;
	_Atomic uint64_t gap; /* ns between two operations; 0: no limit */
	uint64_t due;	      /* ns; when the next one may begin, if there is a limit */
};

static const char *const kind_names[DSA_WORK_KINDS] = {
	[DSA_WORK_COPY] = "copy",
	[DSA_WORK_OVERLAP] = "overlapping_copy",
	[DSA_WORK_FILL] = "fill",
	[DSA_WORK_COMPARE] = "compare",
	[DSA_WORK_COMPARE_PATTERN] = "compare_pattern",
	[DSA_WORK_DUALCAST] = "dualcast",
	[DSA_WORK_CRC] = "crc",
	[DSA_WORK_COPY_CRC] = "copy_crc",
	[DSA_WORK_BATCHES] = "batch",
	[DSA_WORK_DRAIN] = "drain",
};

const char *dsa_work_kind_name(enum dsa_work_kind kind)
{
	return kind_names[kind];
}

static uint64_t stride_of(const struct dsa_work_config *c)
{
	return SVIO_ALIGN_UP(c->max_len + 3 * PAGE, PAGE);
}

static uint64_t header_bytes(const struct dsa_work_config *c)
{
	return SVIO_ALIGN_UP(sizeof(struct shared) + (uint64_t)c->queues * c->depth * sizeof(struct work_req), PAGE);
}

static uint64_t all_bytes(const struct dsa_work_config *c)
{
	return header_bytes(c) + (uint64_t)c->queues * c->depth * BUFFERS * stride_of(c);
}

uint64_t dsa_work_area_bytes(const struct dsa_work_config *c)
{
	return all_bytes(c) + PAGE;
}

/* ---- what follows from a number ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

struct plan {
	enum dsa_work_kind kind;
	uint64_t len, off; /* in each buffer: MARGIN … PAGE, and room for a shift on both sides */
	int64_t shift;
	uint64_t pattern, flip; /* flip: the byte that differs; len: none does */
	uint64_t key;
};

static struct plan plan_of(const struct dsa_work_config *c, uint64_t seq)
{
	uint64_t a = mix(c->seed ^ mix(seq)), b = mix(a), d = mix(b);
	struct plan p = { .kind = (enum dsa_work_kind)(a % DSA_WORK_KINDS), .key = a };
	uint64_t most = c->max_len;

	/*
	 * What overlaps must end before a device may be stopped (svio_dsa_migrate.h, rule 4): seven of eight stretches are without, so that most moves
	 * find nothing to wait for, and much in flight.
	 */
	if (seq >> 8 & 7 && (p.kind == DSA_WORK_OVERLAP || p.kind == DSA_WORK_BATCHES))
		p.kind = seq & 1 ? DSA_WORK_COPY : DSA_WORK_DUALCAST;
	/* Mostly short, so that all kinds are at it at a time; sometimes as long as it gets. */
	if (b & 3)
		most = SVIO_MIN(most, UINT64_C(8192));
	p.len = 1 + (b >> 8) % most;
	p.off = PAGE + (d & 7 ? d >> 8 & 63 : 0);
	p.shift = 1 + (int64_t)((d >> 16) % SVIO_MIN(SHIFT_MAX, SVIO_MAX(p.len / 2, UINT64_C(1))));
	if (d & 128)
		p.shift = -p.shift;
	p.pattern = mix(d);
	p.flip = d & 64 ? (d >> 20) % p.len : p.len;
	return p;
}

/* [off - margin - shift, off + len + shift + margin): all that an operation could reach, and more. */
static uint64_t span_from(const struct plan *p)
{
	return p->off - SHIFT_MAX - MARGIN;
}

static uint64_t span_to(const struct plan *p)
{
	return p->off + p->len + SHIFT_MAX + MARGIN;
}

static void generate(uint8_t *buf, const struct plan *p, uint32_t which)
{
	uint64_t key = mix(p->key + which), x = key;
	uint64_t at = span_from(p) & ~UINT64_C(7), to = SVIO_ALIGN_UP(span_to(p), UINT64_C(8));

	for (; at < to; at += 8) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		*(uint64_t *)(void *)(buf + at) = x ^ x >> 29;
	}
}

static void fill(uint8_t *to, uint64_t pattern, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		to[i] = ((const uint8_t *)&pattern)[i % 8];
}

/* Memory as it is before the operation. */
static void before(const struct plan *p, uint8_t *const buf[BUFFERS])
{
	for (uint32_t i = 0; i < BUFFERS; i++)
		generate(buf[i], p, i);
	if (p->kind == DSA_WORK_COMPARE)
		memcpy(buf[1] + p->off, buf[0] + p->off, p->len);
	if (p->kind == DSA_WORK_COMPARE_PATTERN)
		fill(buf[0] + p->off, p->pattern, p->len);
	if ((p->kind == DSA_WORK_COMPARE || p->kind == DSA_WORK_COMPARE_PATTERN) && p->flip < p->len)
		buf[0][p->off + p->flip] ^= 0x40;
}

struct outcome {
	bool differs;
	uint64_t bytes;
	uint32_t crc;
};

/* And after it, by the CPU. */
static void after(const struct plan *p, uint8_t *const buf[BUFFERS], struct outcome *o)
{
	uint8_t *a = buf[0] + p->off, *b = buf[1] + p->off, *c = buf[2] + p->off;

	*o = (struct outcome){ .bytes = p->len };
	switch (p->kind) {
	case DSA_WORK_COPY:
		memcpy(b, a, p->len);
		break;
	case DSA_WORK_OVERLAP:
		memmove(a + p->shift, a, p->len);
		break;
	case DSA_WORK_FILL:
		fill(b, p->pattern, p->len);
		break;
	case DSA_WORK_COMPARE:
	case DSA_WORK_COMPARE_PATTERN:
		o->differs = p->flip < p->len;
		o->bytes = p->flip;
		break;
	case DSA_WORK_DUALCAST:
		memcpy(b, a, p->len);
		memcpy(c, a, p->len);
		break;
	case DSA_WORK_COPY_CRC:
		memcpy(b, a, p->len);
		/* fall through */
	case DSA_WORK_CRC:
		o->crc = svio_crc32c((uint32_t)p->pattern, a, p->len);
		break;
	case DSA_WORK_BATCHES:
		memcpy(b, a, p->len);
		memcpy(c, b, p->len);
		o->crc = svio_crc32c((uint32_t)p->pattern, a, p->len);
		o->bytes = DSA_WORK_BATCH;
		memmove(a + p->shift, a, p->len);
		break;
	default:
		o->bytes = 0;
		break;
	}
}

/* ---- submitting ---------------------------------------------------------------------------------------------------- */

static void buffers_of(const struct dsa_work *w, const struct work_req *req, uint8_t *buf[BUFFERS])
{
	uint64_t i = (uint64_t)(req - w->s->reqs);

	for (uint32_t k = 0; k < BUFFERS; k++)
		buf[k] = w->buffers + (i * BUFFERS + k) * w->stride;
}

static void done_cb(void *ctx, const struct svio_dsa_result *res);

static void fail(struct dsa_work *w, int status)
{
	w->s->errors++;
	if (!w->s->first_error)
		w->s->first_error = status;
	atomic_store(&w->failed, true);
}

/* There is one engine in a process that moves; its completions come as requests, which know nothing of it. */
static struct dsa_work *the_work;

static int submit_batch(struct svio_dsa_wq *wq, struct work_req *req, const struct plan *p, uint8_t *const buf[BUFFERS], void *ctx)
{
	uint8_t *a = buf[0] + p->off, *b = buf[1] + p->off, *c = buf[2] + p->off;
	const struct svio_dsa_op ops[DSA_WORK_BATCH] = {
		{ .op = SVIO_DSA_COPY, .src = a, .dst = b, .len = p->len },
		{ .op = SVIO_DSA_CRC, .src = a, .len = p->len, .seed = (uint32_t)p->pattern },
		{ .op = SVIO_DSA_COPY, .flags = SVIO_DSA_FENCE, .src = b, .dst = c, .len = p->len },
		{ .op = SVIO_DSA_COPY, .flags = SVIO_DSA_FENCE, .src = a, .dst = a + p->shift, .len = p->len },
	};

	memset(req->results, 0, sizeof(req->results));
	return svio_dsa_batch(wq, ops, DSA_WORK_BATCH, req->results, done_cb, ctx);
}

static int submit_one(struct svio_dsa_wq *wq, const struct plan *p, uint8_t *const buf[BUFFERS], void *ctx)
{
	static const enum svio_dsa_opcode codes[] = {
		[DSA_WORK_COPY] = SVIO_DSA_COPY,	 [DSA_WORK_OVERLAP] = SVIO_DSA_COPY,
		[DSA_WORK_FILL] = SVIO_DSA_FILL,	 [DSA_WORK_COMPARE] = SVIO_DSA_COMPARE,
		[DSA_WORK_COMPARE_PATTERN] = SVIO_DSA_COMPARE_PATTERN, [DSA_WORK_DUALCAST] = SVIO_DSA_DUALCAST,
		[DSA_WORK_CRC] = SVIO_DSA_CRC,		 [DSA_WORK_COPY_CRC] = SVIO_DSA_COPY_CRC,
		[DSA_WORK_DRAIN] = SVIO_DSA_DRAIN,
	};
	struct svio_dsa_op op = { .op = codes[p->kind], .src = buf[0] + p->off, .src2 = buf[1] + p->off, .dst = buf[1] + p->off,
				  .dst2 = buf[2] + p->off, .len = p->len, .pattern = p->pattern, .seed = (uint32_t)p->pattern };

	if (p->kind == DSA_WORK_OVERLAP)
		op.dst = buf[0] + p->off + p->shift;
	return svio_dsa_submit(wq, &op, done_cb, ctx);
}

static void submit(struct dsa_work *w, uint32_t queue, struct work_req *req)
{
	struct shared *s = w->s;
	struct plan p = plan_of(&s->config, s->next);
	uint8_t *buf[BUFFERS];
	void *ctx = (char *)req + (s->next & TAG_MASK);
	int rc;

	buffers_of(w, req, buf);
	before(&p, buf);
	req->seq = s->next;
	req->busy = 1;
	s->done[s->next % WINDOW / 64] &= ~(UINT64_C(1) << s->next % 64);
	rc = p.kind == DSA_WORK_BATCHES ? submit_batch(w->wqs[queue], req, &p, buf, ctx) : submit_one(w->wqs[queue], &p, buf, ctx);
	if (rc == 0) {
		s->next++;
		return;
	}
	req->busy = 0;
	if (rc != -EAGAIN)
		fail(w, rc);
}

/* ---- completing ------------------------------------------------------------------------------------------------------ */

static bool right(struct dsa_work *w, const struct work_req *req, const struct plan *p, const struct svio_dsa_result *res)
{
	uint64_t from = span_from(p), len = span_to(p) - from;
	uint8_t *have[BUFFERS], *want[BUFFERS];
	struct outcome o;
	uint32_t crc = p->kind == DSA_WORK_BATCHES ? req->results[1].crc : res->crc;

	for (uint32_t i = 0; i < BUFFERS; i++)
		want[i] = w->expected + i * w->stride;
	buffers_of(w, req, have);
	before(p, want);
	after(p, want, &o);
	for (uint32_t i = 0; i < BUFFERS; i++)
		if (memcmp(have[i] + from, want[i] + from, len))
			return false;
	if (p->kind == DSA_WORK_BATCHES)
		for (uint32_t i = 0; i < DSA_WORK_BATCH; i++)
			if (req->results[i].status || req->results[i].bytes != p->len)
				return false;
	return res->differs == o.differs && res->bytes == o.bytes && (!o.crc || crc == o.crc);
}

static void done_cb(void *ctx, const struct svio_dsa_result *res)
{
	uintptr_t tag = (uintptr_t)ctx & TAG_MASK;
	struct work_req *req = (void *)((char *)ctx - tag);
	struct dsa_work *w = the_work;
	struct shared *s;
	struct plan p;

	if (!w || atomic_load(&w->forgotten))
		return;
	s = w->s;
	if (!req->busy || (req->seq & TAG_MASK) != tag || s->done[req->seq % WINDOW / 64] >> req->seq % 64 & 1) {
		s->doubled++;
		return;
	}
	p = plan_of(&s->config, req->seq);
	req->busy = 0;
	__atomic_store_n(&s->completed, s->completed + 1, __ATOMIC_RELAXED); /* one writer; dsa_work_completed() */
	s->kinds[p.kind]++;
	if (res->status) {
		fail(w, res->status);
	} else if (s->config.verify) {
		s->verified++;
		if (!right(w, req, &p, res)) {
			if (!s->wrong++)
				s->first_wrong = req->seq;
			atomic_store(&w->failed, true);
		}
	}
	s->done[req->seq % WINDOW / 64] |= UINT64_C(1) << req->seq % 64;
	while (s->low < s->next && s->done[s->low % WINDOW / 64] >> s->low % 64 & 1)
		s->low++;
}

/* ---- the thread ------------------------------------------------------------------------------------------------------- */

static uint64_t feed(struct dsa_work *w, uint32_t queue, uint64_t most)
{
	const struct dsa_work_config *c = &w->s->config;
	struct work_req *req = w->s->reqs + (size_t)queue * c->depth;
	uint64_t begun = 0;

	if (svio_dsa_inflight(w->wqs[queue]) >= c->depth)
		return 0;
	for (uint32_t i = 0; i < c->depth && begun < most; i++, req++)
		if (!req->busy && w->s->next - w->s->low < WINDOW && !atomic_load_explicit(&w->failed, memory_order_relaxed)) {
			submit(w, queue, req);
			begun++;
		}
	return begun;
}

static bool any_in_flight(const struct dsa_work *w)
{
	for (uint32_t q = 0; q < w->s->config.queues; q++)
		if (svio_dsa_inflight(w->wqs[q]))
			return true;
	return false;
}

static void *work_thread(void *ctx)
{
	struct dsa_work *w = ctx;

	while (!atomic_load_explicit(&w->stop, memory_order_acquire)) {
		bool finish = atomic_load_explicit(&w->finish, memory_order_acquire);
		uint64_t gap = atomic_load_explicit(&w->gap, memory_order_relaxed), begun = 0, n = 0;
		uint64_t most = gap ? rate_turns(&w->due, gap) : UINT64_MAX;

		for (uint32_t q = 0; q < w->s->config.queues; q++) {
			n += svio_dsa_poll(w->wqs[q], 0);
			if (!finish)
				begun += feed(w, q, most - begun);
		}
		if (finish && !any_in_flight(w))
			break;
		w->due += gap * begun;
		if (!most)
			rate_nap();
		else if (!n && !begun && w->yield)
			sched_yield();
	}
	return NULL;
}

int dsa_work_start(struct dsa_work *w, bool yield)
{
	int rc;

	the_work = w;
	w->yield = yield;
	atomic_store(&w->stop, false);
	rc = pthread_create(&w->thread, NULL, work_thread, w);
	w->running = rc == 0;
	return rc ? svio_fail(rc, "no thread: %s", strerror(rc)) : 0;
}

static void end_thread(struct dsa_work *w)
{
	if (w->running)
		pthread_join(w->thread, NULL);
	w->running = false;
}

void dsa_work_stop(struct dsa_work *w)
{
	atomic_store_explicit(&w->stop, true, memory_order_release);
	end_thread(w);
}

void dsa_work_finish(struct dsa_work *w)
{
	atomic_store_explicit(&w->finish, true, memory_order_release);
	end_thread(w);
}

void dsa_work_limit(struct dsa_work *w, uint64_t per_second)
{
	atomic_store(&w->gap, rate_gap(per_second, 1));
}

uint64_t dsa_work_completed(const struct dsa_work *w)
{
	return __atomic_load_n(&w->s->completed, __ATOMIC_RELAXED);
}

bool dsa_work_failed(const struct dsa_work *w)
{
	return atomic_load(&w->failed);
}

void dsa_work_forget(struct dsa_work *w)
{
	atomic_store(&w->forgotten, true);
}

void dsa_work_get_result(const struct dsa_work *w, struct dsa_work_result *r)
{
	const struct shared *s = w->s;

	*r = (struct dsa_work_result){ .submitted = s->next, .completed = s->completed, .verified = s->verified, .wrong = s->wrong,
				       .errors = s->errors, .doubled = s->doubled, .first_wrong = s->first_wrong,
				       .first_error = (int)s->first_error };
	memcpy(r->kinds, s->kinds, sizeof(r->kinds));
	for (uint32_t i = 0; i < s->config.queues * s->config.depth; i++)
		r->inflight += s->reqs[i].busy;
	for (uint64_t n = s->low; n < s->next; n++)
		r->lost += !(s->done[n % WINDOW / 64] >> n % 64 & 1);
	r->lost -= SVIO_MIN(r->lost, r->inflight);
}

/* ---- made, and made again ------------------------------------------------------------------------------------------------ */

static bool config_possible(const struct dsa_work_config *c)
{
	return c->queues && c->queues <= DSA_WORK_QUEUES && c->depth && c->depth <= DSA_WORK_DEPTH && c->max_len &&
	       c->max_len <= DSA_WORK_MAX;
}

static int place(struct shared *s, const struct dsa_work_config *c, struct svio_migrate_area *area, struct dsa_work **workp)
{
	struct dsa_work *w = calloc(1, sizeof(*w));

	if (w)
		w->expected = malloc(BUFFERS * stride_of(c));
	if (!w || !w->expected) {
		free(w);
		return svio_fail(ENOMEM, "out of memory");
	}
	w->s = s;
	w->area = area;
	w->stride = stride_of(c);
	w->buffers = (uint8_t *)s + header_bytes(c);
	the_work = w;
	*workp = w;
	return 0;
}

int dsa_work_create(const struct dsa_work_config *config, struct svio_migrate_area *area, struct dsa_work **workp)
{
	struct shared *s;
	int rc;

	if (!config_possible(config))
		return svio_fail(EINVAL, "1 to %u queues of 1 to %u operations, of 1 to %" PRIu64 " bytes", DSA_WORK_QUEUES, DSA_WORK_DEPTH,
				 DSA_WORK_MAX);
	s = svio_migrate_alloc(area, all_bytes(config), PAGE);
	if (!s)
		return -ENOMEM;
	s->config = *config;
	rc = place(s, config, area, workp);
	if (rc)
		svio_migrate_free(area, s);
	return rc;
}

void dsa_work_destroy(struct dsa_work *w)
{
	if (!w)
		return;
	if (the_work == w)
		the_work = NULL;
	free(w->expected);
	free(w);
}

const struct dsa_work_config *dsa_work_get_config(const struct dsa_work *w)
{
	return &w->s->config;
}

void dsa_work_set_queues(struct dsa_work *w, struct svio_dsa_wq *const *wqs)
{
	memcpy(w->wqs, wqs, w->s->config.queues * sizeof(struct svio_dsa_wq *));
}

int dsa_work_save(const struct dsa_work *w, struct svio_migrate_buf *out)
{
	return svio_migrate_put_u64(out, (uint64_t)(uintptr_t)w->s);
}

/* What the memory says of itself came over the wire, too. */
static int check(const struct shared *s)
{
	uint64_t busy = 0, open = 0;

	if (s->low > s->next || s->next - s->low > WINDOW || s->config.verify > 1)
		return svio_fail(EINVAL, "numbers of operations that make no sense");
	for (uint32_t i = 0; i < s->config.queues * s->config.depth; i++) {
		const struct work_req *req = &s->reqs[i];

		busy += req->busy;
		if (req->busy > 1 || (req->busy && (req->seq < s->low || req->seq >= s->next || s->done[req->seq % WINDOW / 64] >> req->seq % 64 & 1)))
			return svio_fail(EINVAL, "operation %" PRIu32 " makes no sense", i);
	}
	for (uint64_t n = s->low; n < s->next; n++)
		open += !(s->done[n % WINDOW / 64] >> n % 64 & 1);
	return busy == open ? 0 : svio_fail(EINVAL, "%" PRIu64 " operations in flight, and %" PRIu64 " that have not completed", busy, open);
}

int dsa_work_load(struct svio_migrate_area *area, struct svio_migrate_in *in, struct dsa_work **workp)
{
	struct shared *s = (void *)(uintptr_t)svio_migrate_get_u64(in);
	struct dsa_work_config c;
	int rc;

	if (in->bad || (uintptr_t)s % PAGE || !svio_migrate_allocated(area, s, sizeof(*s)))
		return svio_fail(EINVAL, "a state outside of its area");
	c = s->config;
	if (!config_possible(&c) || !svio_migrate_allocated(area, s, all_bytes(&c)))
		return svio_fail(EINVAL, "a state that makes no sense");
	rc = check(s);
	return rc ? rc : place(s, &c, area, workp);
}

/* ---- what operations are called ---------------------------------------------------------------------------------------- */

static int cookie_save(void *app, svio_dsa_cb cb, void *ctx, uint64_t *cookie)
{
	const struct dsa_work *w = app;
	uintptr_t tag = (uintptr_t)ctx & TAG_MASK;
	const struct work_req *req = (void *)((char *)ctx - tag);

	(void)cb; /* there is one */
	*cookie = (uint64_t)(req - w->s->reqs) << 8 | tag;
	return 0;
}

static bool cookie_moves(void *app, const void *ptr, uint64_t len)
{
	const struct dsa_work *w = app;

	return svio_migrate_allocated(w->area, ptr, len);
}

static int cookie_load(void *app, uint64_t cookie, svio_dsa_cb *cb, void **ctx)
{
	const struct dsa_work *w = app;
	const struct dsa_work_config *c = &w->s->config;
	struct work_req *req = cookie >> 8 < (uint64_t)c->queues * c->depth ? &w->s->reqs[cookie >> 8] : NULL;

	if (!req || !req->busy || (req->seq & TAG_MASK) != (cookie & 0xff))
		return svio_fail(EINVAL, "the ledger names operation %" PRIu64 ", which is not in flight", cookie >> 8);
	*cb = done_cb;
	*ctx = (char *)req + (cookie & 0xff);
	return 0;
}

struct svio_dsa_move dsa_work_move(struct dsa_work *w)
{
	return (struct svio_dsa_move){ .save = cookie_save, .moves = cookie_moves, .load = cookie_load, .app = w };
}
