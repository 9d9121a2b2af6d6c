/* SPDX-License-Identifier: BSD-3-Clause */
/* The loop: choose an address, submit, complete, check, again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "perf_priv.h"
#include "rate.h"

/* Slots tried for a random request before it waits for another one's end. */
#define MAX_PROBES 8

/* One writer; readers sample without a lock. */
#define COUNT(counter) __atomic_store_n(&(counter), (counter) + 1, __ATOMIC_RELAXED)

static bool stopping(const struct perf_queue *q)
{
	return atomic_load_explicit(&q->perf->stop, memory_order_relaxed);
}

/* xoroshiro128+ (Blackman and Vigna, 2018): two words of state, no multiplication. */
static inline uint64_t next_random(struct perf_queue *q)
{
	uint64_t a = q->rng[0], b = q->rng[1], sum = a + b;

	b ^= a;
	q->rng[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
	q->rng[1] = b << 37 | b >> 27;
	return sum;
}

/* Uniform in [0, n) without a division: the high half of a product. */
static inline uint64_t scale(uint64_t random, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)random * n) >> 64);
}

/* ---- choosing -------------------------------------------------------------------------------------- */

static inline void take(struct perf_queue *q, struct perf_req *req, uint64_t slot)
{
	req->lba = q->base_lba + slot * q->nlb;
}

static bool begin(struct perf_queue *q, struct perf_req *req, uint64_t slot)
{
	struct verify_slot *s = &q->book[slot];

	if (req->op == PERF_OP_READ ? !verify_read_begin(s) : !verify_write_begin(s, &req->seq))
		return false;
	req->slot = s;
	take(q, req, slot);
	return true;
}

/* With --verify a slot must be free; and reads of a mixed load go where there is something to be checked. */
static bool choose_verified(struct perf_queue *q, struct perf_req *req)
{
	bool known = req->op == PERF_OP_READ && q->written;
	uint64_t n = known ? q->written_count : q->slots, i;

	if (q->sequential) {
		if (!begin(q, req, q->cursor))
			return false;
		q->cursor = q->cursor + 1 == q->slots ? 0 : q->cursor + 1;
		return true;
	}
	if (n == 0) { /* nothing written yet: write */
		req->op = PERF_OP_WRITE;
		known = false;
		n = q->slots;
	}
	i = scale(next_random(q), n);
	for (uint32_t probe = 0; probe < MAX_PROBES && probe < n; probe++) {
		if (begin(q, req, known ? q->written[i] : i))
			return true;
		i = i + 1 == n ? 0 : i + 1;
	}
	return false;
}

static bool choose_readback(struct perf_queue *q, struct perf_req *req)
{
	while (q->cursor < q->slots && q->book[q->cursor].attempted == 0)
		q->cursor++;
	if (q->cursor == q->slots)
		return false;
	req->op = PERF_OP_READ;
	return begin(q, req, q->cursor++);
}

static inline bool choose(struct perf_queue *q, struct perf_req *req)
{
	if (svio_unlikely(q->readback))
		return choose_readback(q, req);
	/* The sum's high bits are its better ones. */
	req->op = next_random(q) >> 32 < q->read_limit ? PERF_OP_READ : PERF_OP_WRITE;
	if (q->verify)
		return choose_verified(q, req);
	if (q->sequential) {
		take(q, req, q->cursor);
		q->cursor = q->cursor + 1 == q->slots ? 0 : q->cursor + 1;
	} else {
		take(q, req, scale(next_random(q), q->slots));
	}
	return true;
}

/* ---- submitting ------------------------------------------------------------------------------------ */

static void submit_failed(struct perf_queue *q, struct perf_req *req, int rc)
{
	req->in_flight = false;
	if (q->verify && req->op == PERF_OP_READ)
		verify_read_end(req->slot);
	else if (q->verify)
		verify_write_cancel(req->slot);
	/* In order: this place is still to be done. */
	if (q->readback)
		q->cursor--;
	else if (q->sequential)
		q->cursor = (q->cursor ? q->cursor : q->slots) - 1;
	if (rc == -EAGAIN)
		return;
	if (rc == -ENODEV) {
		q->gone = true;
		return;
	}
	q->failed = true;
	q->error = rc;
	snprintf(q->error_text, sizeof(q->error_text),
		 "cannot submit a request for LBA %" PRIu64 ": %s", req->lba,
		 svio_nvme_status_text(rc));
}

/* Give the request something to do, or park it. `now`: cycles, read a moment ago. */
static inline void next(struct perf_queue *q, struct perf_req *req, uint64_t now)
{
	void *ctx;
	int rc;

	if (svio_unlikely(stopping(q) || q->gone || q->failed) || svio_unlikely(!choose(q, req)))
		goto park;
	if (q->verify) {
		if (req->op == PERF_OP_WRITE)
			verify_fill(&q->run, req->buf, req->lba, q->nlb, req->seq);
		now = svio_cycles(); /* making blocks is not the controller's latency */
	}
	req->start = now;
	req->tag = (req->tag + 1) & PERF_TAG_MASK;
	req->in_flight = true;
	ctx = (char *)req + req->tag;
	if (req->op == PERF_OP_READ)
		rc = svio_nvme_read(q->qp, &q->ns, req->buf, req->lba, q->nlb, SVIO_NVME_MORE,
				    perf_completed, ctx);
	else
		rc = svio_nvme_write(q->qp, &q->ns, req->buf, req->lba, q->nlb, SVIO_NVME_MORE,
				     perf_completed, ctx);
	if (svio_likely(rc == 0)) {
		q->inflight++;
		COUNT(q->submitted);
		return;
	}
	submit_failed(q, req, rc);
park:
	q->parked[q->parked_count++] = req;
}

/* ---- completing ------------------------------------------------------------------------------------ */

static void check_blocks(struct perf_queue *q, const struct perf_req *req)
{
	const struct verify_slot *s = req->slot;
	const uint8_t *block = req->buf;

	for (uint32_t i = 0; i < q->nlb; i++, block += q->run.lba_size) {
		uint64_t seq;
		enum verify_result r = verify_check(&q->run, block, req->lba + i, s->confirmed,
						    s->attempted, &seq);

		q->verified[r]++;
		if (verify_is_error(r) && q->complaints < PERF_COMPLAINTS)
			q->complaint[q->complaints++] =
				(struct perf_complaint){ .lba = req->lba + i,
							 .seq = seq,
							 .min = s->confirmed,
							 .max = s->attempted,
							 .result = r };
	}
}

static void complete_verified(struct perf_queue *q, struct perf_req *req, bool ok)
{
	if (req->op == PERF_OP_READ) {
		if (ok) {
			check_blocks(q, req);
			q->readback_slots += q->readback;
		}
		verify_read_end(req->slot);
		return;
	}
	/* Also after a failed write: its place may hold any part of it, and is worth reading. */
	if (q->written && req->slot->attempted == 1)
		q->written[q->written_count++] = (uint32_t)(req->slot - q->book);
	verify_write_end(req->slot, ok);
}

static void count_error(struct perf_queue *q, int status)
{
	struct perf_status *last = &q->status[PERF_STATUSES - 1];

	COUNT(q->errors);
	if (status == -ENODEV)
		q->gone = true;
	for (struct perf_status *s = q->status; s < last; s++) {
		if (s->count && s->status != status)
			continue;
		s->status = status;
		s->count++;
		return;
	}
	last->count++;
}

void perf_completed(void *ctx, int status)
{
	uint8_t tag = (uintptr_t)ctx & PERF_TAG_MASK;
	struct perf_req *req = (void *)((char *)ctx - tag);
	struct perf_queue *q = req->queue;
	uint64_t now = svio_cycles();

	if (svio_unlikely(!req->in_flight || req->tag != tag)) {
		COUNT(q->doubled);
		return;
	}
	req->in_flight = false;
	q->inflight--;
	if (q->verify)
		complete_verified(q, req, status == 0);
	if (svio_likely(status == 0)) {
		if (svio_likely(!q->readback))
			svio_hist_add(&q->latency[req->op], now - req->start);
		COUNT(q->ops[req->op]);
	} else {
		count_error(q, status);
	}
	next(q, req, now);
}

/* ---- the poller ------------------------------------------------------------------------------------ */

/* Requests that found no free slot, no room in the queue, or are to be sent for the first time. */
static void unpark(struct perf_queue *q)
{
	uint64_t now = svio_cycles();

	while (q->parked_count) {
		uint32_t before = q->parked_count;

		next(q, q->parked[--q->parked_count], now);
		if (q->parked_count == before)
			return; /* it came back: so would the others */
		/* Making blocks takes long: let the controller begin. */
		if (q->verify)
			svio_nvme_ring(q->qp);
	}
}

/* Nothing was found. Is there a reason to end? */
static int look_for_end(struct perf_queue *q)
{
	bool done = q->readback && q->cursor == q->slots;
	uint64_t now;

	if (!done && !q->gone && !q->failed && !stopping(q))
		return 0;
	if (q->inflight == 0)
		return -ESHUTDOWN;
	now = svio_now_ns();
	if (q->deadline == 0)
		q->deadline = now + q->perf->config.drain_ms * UINT64_C(1000000);
	if (now < q->deadline)
		return 0;
	q->lost += q->inflight;
	return -ESHUTDOWN;
}

/* perf_limit(): wait until the queue may take a completion. How many it may take. */
static uint32_t wait_turn(struct perf_queue *q, uint64_t gap)
{
	uint64_t n;

	while (!(n = rate_turns(&q->due, gap)) && !stopping(q) && atomic_load_explicit(&q->perf->gap, memory_order_relaxed) == gap)
		rate_nap();
	return (uint32_t)SVIO_MIN(SVIO_MAX(n, UINT64_C(1)), q->batch ? (uint64_t)q->batch : UINT32_MAX);
}

int perf_queue_poll(void *ctx)
{
	struct perf_queue *q = ctx;
	uint32_t found;
	uint64_t gap;
	bool submitted;

	if (svio_unlikely(atomic_load_explicit(&q->perf->frozen, memory_order_relaxed)))
		return -ESHUTDOWN;
	gap = atomic_load_explicit(&q->perf->gap, memory_order_relaxed);
	if (svio_likely(!gap)) {
		found = svio_nvme_poll(q->qp, q->batch);
	} else {
		found = svio_nvme_poll(q->qp, wait_turn(q, gap));
		q->due += found * gap;
	}
	submitted = found > 0;
	if (svio_unlikely(q->parked_count)) {
		unpark(q);
		submitted = true;
	}
	if (submitted)
		svio_nvme_ring(q->qp);
	if (svio_likely(found))
		return (int)found;
	return look_for_end(q);
}

/* ---- phases ---------------------------------------------------------------------------------------- */

void perf_queue_place(struct perf_queue *q, uint32_t part)
{
	struct perf *perf = q->perf;
	uint32_t parts = perf->config.queues;
	uint64_t first = 0, last = perf->slots;

	/* Queues share the addresses only of random requests that nobody checks. */
	if (q->verify || q->sequential) {
		uint64_t each = perf->slots / parts, more = perf->slots % parts;

		first = part * each + SVIO_MIN(part, more);
		last = first + each + (part < more);
	}
	q->base_lba = perf->config.lba + first * q->nlb;
	q->slots = last - first;
	q->cursor = 0;
	if (q->verify)
		q->book = perf->book + first;
}

void perf_queue_begin(struct perf_queue *q, enum perf_phase phase)
{
	q->readback = phase == PERF_READBACK;
	q->inflight = 0;
	q->parked_count = 0;
	q->deadline = 0;
	q->gone = q->failed = q->ended = false;
	for (uint32_t i = 0; i < q->perf->config.qd; i++) {
		q->reqs[i].in_flight = false;
		q->parked[q->parked_count++] = &q->reqs[i];
	}
}
