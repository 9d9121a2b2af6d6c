/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine moves: frozen, written down, and made again from that in another process. Requests, buffers and the book lie in an area
 * and arrive by themselves, at the same addresses; everything else is written here. A state is a stranger's until it was checked.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "perf_priv.h"

#define PAGE UINT64_C(4096)

/* ---- freezing ---------------------------------------------------------------------------------------- */

int perf_freeze(struct perf *perf)
{
	if (atomic_load(&perf->stop))
		return svio_fail(EBUSY, "the run is about to end");
	atomic_store(&perf->frozen, true);
	atomic_store(&perf->stop, true); /* callbacks that still come park their requests */
	perf_wake(perf);
	perf_threads_end(perf);
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		const struct perf_queue *q = &perf->queues[i];

		if (q->failed || q->gone || q->readback)
			return svio_fail(EBUSY, "queue %" PRIu32 " %s", i + 1,
					 q->readback ? "is reading back" : "has failed: there is nothing sound to be moved");
	}
	return 0;
}

int perf_thaw(struct perf *perf)
{
	atomic_store(&perf->frozen, false);
	for (uint32_t i = 0; i < perf->config.queues; i++)
		perf->queues[i].ended = false;
	return perf_threads_start(perf);
}

/* ---- what a request is called -------------------------------------------------------------------------- */

/* Queue, number and tag: the tag is the callback context's low bits, and finds out completions that come twice. */
static int cookie_save(void *app, svio_nvme_cb cb, void *ctx, uint64_t *cookie)
{
	const struct perf *perf = app;
	uint8_t tag = (uintptr_t)ctx & PERF_TAG_MASK;
	const struct perf_req *req = (void *)((char *)ctx - tag);

	(void)cb; /* there is one */
	*cookie = (uint64_t)(req->queue - perf->queues) << 40 | (uint64_t)(req - req->queue->reqs) << 8 | tag;
	return 0;
}

static bool moves(void *app, const void *ptr, uint64_t len)
{
	const struct perf *perf = app;

	return svio_migrate_allocated(perf->config.area, ptr, len);
}

static int cookie_load(void *app, uint64_t cookie, svio_nvme_cb *cb, void **ctx)
{
	const struct perf *perf = app;
	uint64_t queue = cookie >> 40, i = (cookie >> 8) & UINT32_MAX;
	struct perf_req *req = queue < perf->config.queues && i < perf->config.qd ? &perf->queues[queue].reqs[i] : NULL;

	if (!req || !req->in_flight || req->tag != (cookie & 0xff))
		return svio_fail(EINVAL, "the ledger names request %" PRIu64 ", which is not in flight", i);
	*cb = perf_completed;
	*ctx = (char *)req + req->tag;
	return 0;
}

static struct svio_nvme_move move_of(struct perf *perf)
{
	return (struct svio_nvme_move){ .save = cookie_save, .moves = moves, .load = cookie_load, .app = perf };
}

/* ---- out ---------------------------------------------------------------------------------------------------- */

static void put_ptr(struct svio_migrate_buf *out, const void *p)
{
	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)p);
}

/* Most buckets are empty. */
static void put_hist(struct svio_migrate_buf *out, const struct svio_hist *h)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < SVIO_HIST_BUCKETS; i++)
		used += h->bucket[i] != 0;
	svio_migrate_put_u64(out, h->count);
	svio_migrate_put_u64(out, h->sum);
	svio_migrate_put_u64(out, h->min);
	svio_migrate_put_u64(out, h->max);
	svio_migrate_put_u32(out, used);
	for (uint32_t i = 0; i < SVIO_HIST_BUCKETS; i++)
		if (h->bucket[i]) {
			svio_migrate_put_u32(out, i);
			svio_migrate_put_u64(out, h->bucket[i]);
		}
}

static void put_config(struct svio_migrate_buf *out, const struct perf *perf)
{
	const struct perf_config *c = &perf->config;
	const uint64_t words[] = { c->rw,      c->bs,	  c->offset,	  c->qd,	c->queues,
				   c->batch,   c->read_pct, c->lba,	  c->blocks,	c->seed,
				   c->verify,  c->interrupts, c->drain_ms, perf->slots, perf->media };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(words); i++)
		svio_migrate_put_u64(out, words[i]);
	put_ptr(out, perf->book);
	put_ptr(out, perf->written);
}

static void put_queue(struct svio_migrate_buf *out, const struct perf_queue *q, uint64_t now, uint64_t hz)
{
	const struct perf_config *c = &q->perf->config;
	const uint64_t words[] = { q->rng[0],	  q->rng[1],	   q->cursor, q->inflight,	q->errors,    q->submitted, q->doubled,
				   q->lost,	  q->written_count, q->readback_slots, q->run.run, q->parked_count };

	put_ptr(out, q->reqs);
	put_ptr(out, q->buffers);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(words); i++)
		svio_migrate_put_u64(out, words[i]);
	for (int i = 0; i < PERF_OPS; i++) {
		svio_migrate_put_u64(out, q->ops[i]);
		put_hist(out, &q->latency[i]);
	}
	for (int i = 0; i < VERIFY_RESULTS; i++)
		svio_migrate_put_u64(out, q->verified[i]);
	for (int i = 0; i < PERF_STATUSES; i++) {
		svio_migrate_put_u32(out, (uint32_t)q->status[i].status);
		svio_migrate_put_u64(out, q->status[i].count);
	}
	svio_migrate_put_u32(out, q->complaints);
	for (uint32_t i = 0; i < q->complaints; i++) {
		svio_migrate_put_u64(out, q->complaint[i].lba);
		svio_migrate_put_u64(out, q->complaint[i].seq);
		svio_migrate_put_u64(out, q->complaint[i].min);
		svio_migrate_put_u64(out, q->complaint[i].max);
		svio_migrate_put_u32(out, q->complaint[i].result);
	}
	for (uint32_t i = 0; i < q->parked_count; i++)
		svio_migrate_put_u32(out, (uint32_t)(q->parked[i] - q->reqs));
	/* How long each has been under way, in nanoseconds: cycles are another machine's. */
	for (uint32_t i = 0; i < c->qd; i++)
		svio_migrate_put_u64(out, q->reqs[i].in_flight ?
						  (uint64_t)((double)(now - q->reqs[i].start) * 1e9 / (double)hz) : 0);
}

static int save_queues(struct perf *perf, const struct svio_nvme_move *move, struct svio_migrate_buf *out)
{
	int rc = 0;

	for (uint32_t i = 0; i < perf->config.queues && rc == 0; i++) {
		uint32_t count = 0;

		rc = svio_nvme_qp_save(perf->queues[i].qp, move, out, &count);
		if (rc == 0 && count != perf->queues[i].inflight)
			rc = svio_fail(EIO, "queue %" PRIu32 ": %" PRIu32 " requests in flight, and %" PRIu32 " in the driver's ledger", i + 1,
				       perf->queues[i].inflight, count);
	}
	return rc;
}

int perf_save(struct perf *perf, enum perf_way way, struct svio_nvme *nvme, struct svio_migrate_buf *out)
{
	struct svio_nvme_move move = move_of(perf);
	struct svio_nvme_qp *qps[PERF_MAX_QUEUES];
	uint64_t now = svio_cycles(), hz = svio_cycles_hz();

	put_config(out, perf);
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		put_queue(out, &perf->queues[i], now, hz);
		qps[i] = perf->queues[i].qp;
	}
	if (way == PERF_BY_DRIVER)
		return save_queues(perf, &move, out);
	return svio_nvme_state_save(nvme, qps, perf->config.queues, &move, out);
}

/* ---- in -------------------------------------------------------------------------------------------------------- */

/* A pointer to `len` bytes of a block of the area, aligned; or, for zero, NULL. */
static int get_block(struct svio_migrate_in *in, struct svio_migrate_area *area, uint64_t len, uint64_t align, void **pp)
{
	uint64_t p = svio_migrate_get_u64(in);

	*pp = (void *)(uintptr_t)p;
	if (in->bad || (p && (p % align || !svio_migrate_allocated(area, *pp, len))))
		return svio_fail(EINVAL, "a state with a pointer out of its area");
	return 0;
}

static uint64_t get_max(struct svio_migrate_in *in, uint64_t max)
{
	uint64_t v = svio_migrate_get_u64(in);

	if (v > max)
		in->bad = true;
	return in->bad ? 0 : v;
}

static void get_hist(struct svio_migrate_in *in, struct svio_hist *h)
{
	uint32_t used;

	h->count = svio_migrate_get_u64(in);
	h->sum = svio_migrate_get_u64(in);
	h->min = svio_migrate_get_u64(in);
	h->max = svio_migrate_get_u64(in);
	used = svio_migrate_get_u32(in);
	if (used > SVIO_HIST_BUCKETS)
		in->bad = true;
	while (used-- && !in->bad) {
		uint32_t i = svio_migrate_get_u32(in);
		uint64_t n = svio_migrate_get_u64(in);

		if (i < SVIO_HIST_BUCKETS)
			h->bucket[i] = n;
		else
			in->bad = true;
	}
}

static int get_config(struct svio_migrate_in *in, struct perf_config *c, uint64_t *slots, uint64_t *media)
{
	c->rw = (enum perf_rw)get_max(in, PERF_RW_KINDS - 1);
	c->bs = (uint32_t)get_max(in, PERF_MAX_BS);
	c->offset = (uint32_t)get_max(in, PAGE - 4);
	c->qd = (uint32_t)get_max(in, PERF_MAX_QD);
	c->queues = (uint32_t)get_max(in, PERF_MAX_QUEUES);
	c->batch = (uint32_t)get_max(in, PERF_MAX_QD);
	c->read_pct = (uint32_t)get_max(in, 100);
	c->lba = svio_migrate_get_u64(in);
	c->blocks = svio_migrate_get_u64(in);
	c->seed = svio_migrate_get_u64(in);
	c->verify = get_max(in, 1);
	c->interrupts = get_max(in, 1);
	c->drain_ms = (uint32_t)get_max(in, UINT32_MAX);
	*slots = svio_migrate_get_u64(in);
	*media = svio_migrate_get_u64(in);
	if (in->bad || !c->bs || !c->qd || !c->queues)
		return svio_fail(EINVAL, "a state of `svio nvme perf` that makes no sense");
	return 0;
}

/* What the requests say of themselves came with the pages, and is believed no more than the rest. */
static int check_requests(struct perf_queue *q, struct svio_migrate_in *in)
{
	const struct perf_config *c = &q->perf->config;
	uint64_t stride = perf_buffer_stride(c), now = svio_cycles(), hz = svio_cycles_hz();
	uint32_t in_flight = 0;

	for (uint32_t i = 0; i < c->qd; i++) {
		struct perf_req *req = &q->reqs[i];
		uint64_t ns = svio_migrate_get_u64(in), slot = q->book ? (uint64_t)(req->slot - q->book) : 0;
		uint8_t raw;

		memcpy(&raw, &req->in_flight, 1);
		if (raw > 1 || req->op >= PERF_OPS || req->tag > PERF_TAG_MASK ||
		    req->buf != (uint8_t *)q->buffers + i * stride + c->offset)
			return svio_fail(EINVAL, "request %" PRIu32 " makes no sense", i);
		req->queue = q;
		if (!raw)
			continue;
		in_flight++;
		req->start = now - (uint64_t)((double)ns * (double)hz / 1e9);
		if (q->book && (slot >= q->slots || req->slot != &q->book[slot] || req->lba != q->base_lba + slot * q->nlb))
			return svio_fail(EINVAL, "request %" PRIu32 " is of a place that there is not", i);
	}
	return in_flight == q->inflight ? 0 : svio_fail(EINVAL, "%" PRIu32 " requests say that they are in flight, of %" PRIu32, in_flight,
							q->inflight);
}

static int get_parked(struct perf_queue *q, struct svio_migrate_in *in)
{
	uint32_t qd = q->perf->config.qd;
	uint64_t *seen = calloc(SVIO_BITMAP_WORDS(qd), sizeof(*seen));

	if (!seen)
		return svio_fail(ENOMEM, "out of memory");
	for (uint32_t i = 0; i < q->parked_count; i++) {
		uint32_t n = svio_migrate_get_u32(in);

		if (in->bad || n >= qd || svio_bitmap_test(seen, n) || q->reqs[n].in_flight) {
			free(seen);
			return svio_fail(EINVAL, "a list of waiting requests that makes no sense");
		}
		svio_bitmap_set(seen, n);
		q->parked[i] = &q->reqs[n];
	}
	free(seen);
	return 0;
}

static int get_queue(struct perf_queue *q, struct svio_migrate_in *in)
{
	struct perf *perf = q->perf;
	const struct perf_config *c = &perf->config;
	void *reqs, *buffers;
	int rc;

	rc = get_block(in, c->area, c->qd * sizeof(*q->reqs), SVIO_CACHELINE, &reqs);
	if (rc == 0)
		rc = get_block(in, c->area, perf_buffer_stride(c) * c->qd, PAGE, &buffers);
	if (rc)
		return rc;
	if (!reqs || !buffers)
		return svio_fail(EINVAL, "a state without requests");
	q->reqs = reqs;
	q->buffers = buffers;
	perf_queue_place(q, (uint32_t)(q - perf->queues));
	if (perf->written)
		q->written = perf->written + (q->book - perf->book);
	q->rng[0] = svio_migrate_get_u64(in);
	q->rng[1] = svio_migrate_get_u64(in);
	q->cursor = get_max(in, q->slots - 1);
	q->inflight = (uint32_t)get_max(in, c->qd);
	q->errors = svio_migrate_get_u64(in);
	q->submitted = svio_migrate_get_u64(in);
	q->doubled = svio_migrate_get_u64(in);
	q->lost = svio_migrate_get_u64(in);
	q->written_count = get_max(in, q->written ? q->slots : 0);
	q->readback_slots = svio_migrate_get_u64(in);
	q->run = (struct verify_run){ .run = svio_migrate_get_u64(in), .nsid = perf->ns.nsid, .lba_size = perf->ns.lba_size };
	q->parked_count = (uint32_t)get_max(in, c->qd);
	for (int i = 0; i < PERF_OPS; i++) {
		q->ops[i] = svio_migrate_get_u64(in);
		get_hist(in, &q->latency[i]);
	}
	for (int i = 0; i < VERIFY_RESULTS; i++)
		q->verified[i] = svio_migrate_get_u64(in);
	for (int i = 0; i < PERF_STATUSES; i++) {
		q->status[i].status = (int)svio_migrate_get_u32(in);
		q->status[i].count = svio_migrate_get_u64(in);
	}
	q->complaints = svio_migrate_get_u32(in);
	if (q->complaints > PERF_COMPLAINTS) {
		q->complaints = 0;
		in->bad = true;
	}
	for (uint32_t i = 0; i < q->complaints; i++) {
		q->complaint[i].lba = svio_migrate_get_u64(in);
		q->complaint[i].seq = svio_migrate_get_u64(in);
		q->complaint[i].min = svio_migrate_get_u64(in);
		q->complaint[i].max = svio_migrate_get_u64(in);
		q->complaint[i].result = (enum verify_result)svio_migrate_get_u32(in);
		if (q->complaint[i].result >= VERIFY_RESULTS)
			in->bad = true;
	}
	if (in->bad || q->inflight + q->parked_count != c->qd)
		return svio_fail(EINVAL, "a state of a queue that is not whole");
	for (uint64_t i = 0; i < q->written_count; i++)
		if (q->written[i] >= q->slots)
			return svio_fail(EINVAL, "a list of written places that makes no sense");
	rc = get_parked(q, in);
	return rc ? rc : check_requests(q, in);
}

void perf_forget(struct perf *perf)
{
	if (!perf)
		return;
	perf_detach(perf); /* callbacks run */
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		perf->queues[i].reqs = NULL;
		perf->queues[i].buffers = NULL;
	}
	perf->book = NULL;
	perf->written = NULL;
	perf_destroy(perf);
}

/* Queue pairs on a controller that is there, and in them what was in flight. */
static int load_queues(struct perf *perf, const struct perf_place *place, struct svio_nvme *nvme, struct svio_migrate_in *in)
{
	struct svio_nvme_move move = move_of(perf);
	struct perf_ahead *ahead = place->ahead;
	const struct perf_config *c = &perf->config;
	int rc;

	if (!ahead || !ahead->queues) {
		rc = perf_attach(perf, place->dev, nvme, place->ns, true);
	} else if (ahead->queues != c->queues || ahead->qd != c->qd || ahead->bs != c->bs || ahead->interrupts != c->interrupts) {
		rc = svio_fail(EINVAL, "a state for other queues than were announced");
	} else {
		rc = perf_adopt(perf, place->dev, ahead->qps, place->ns, true);
		if (rc == 0)
			ahead->queues = 0;
	}
	for (uint32_t i = 0; i < perf->config.queues && rc == 0; i++)
		rc = svio_nvme_qp_load(perf->queues[i].qp, &move, in);
	return rc;
}

/* A controller that came with its queue pairs. */
static int load_controller(struct perf *perf, const struct perf_place *place, struct svio_nvme **nvme, struct svio_migrate_in *in)
{
	struct svio_nvme_move move = move_of(perf);
	struct svio_nvme_qp *qps[PERF_MAX_QUEUES];
	int rc = svio_nvme_state_load(place->dev, place->ioas, place->opts, &move, in, nvme, qps, perf->config.queues);

	if (rc)
		return rc;
	perf->ns = *place->ns;
	perf->dev = place->dev;
	perf->attached = true;
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		perf->queues[i].qp = qps[i];
		perf->queues[i].ns = *place->ns;
	}
	return 0;
}

static int load_engine(struct perf *perf, struct svio_migrate_in *in)
{
	const struct perf_config *c = &perf->config;
	void *book, *written;
	int rc;

	rc = get_block(in, c->area, perf->slots * sizeof(*perf->book), SVIO_CACHELINE, &book);
	if (rc == 0)
		rc = get_block(in, c->area, perf->slots * sizeof(*perf->written), SVIO_CACHELINE, &written);
	if (rc == 0 && (!book != !c->verify || !written != !(c->verify && c->rw == PERF_RANDRW)))
		rc = svio_fail(EINVAL, "a state without its book");
	if (rc)
		return rc;
	perf->book = book;
	perf->written = written;
	for (uint32_t i = 0; i < c->queues && rc == 0; i++)
		rc = get_queue(&perf->queues[i], in);
	return rc;
}

int perf_load(const struct perf_place *place, struct svio_migrate_in *in, struct svio_nvme **nvme, struct perf **perfp)
{
	struct perf_config c = { .area = place->area };
	uint64_t slots = 0, asked = 0, media = 0;
	struct perf *perf;
	int rc;

	rc = get_config(in, &c, &slots, &media);
	if (rc == 0)
		rc = perf_check_config(&c, place->ns, &asked);
	if (rc == 0 && slots != (c.verify ? SVIO_MIN(asked, PERF_MAX_SLOTS) : asked))
		rc = svio_fail(EINVAL, "a state of another range");
	if (rc)
		return rc;
	sched_getaffinity(0, sizeof(c.cpus), &c.cpus);
	rc = perf_new(&c, place->ns, asked, &perf);
	if (rc)
		return rc;
	perf->media = media;
	rc = load_engine(perf, in);
	if (rc == 0)
		rc = *nvme ? load_queues(perf, place, *nvme, in) : load_controller(perf, place, nvme, in);
	for (uint32_t i = 0; i < c.queues && rc == 0; i++)
		if (svio_nvme_inflight(perf->queues[i].qp) != perf->queues[i].inflight)
			rc = svio_fail(EINVAL, "queue %" PRIu32 ": the ledger does not have what is in flight", i + 1);
	if (rc) {
		char why[SVIO_ERROR_MAX];

		snprintf(why, sizeof(why), "%s", svio_last_error());
		perf_forget(perf);
		return svio_fail(-rc, "%s", why);
	}
	atomic_store(&perf->frozen, true);
	*perfp = perf;
	return 0;
}

void perf_replay(struct perf *perf)
{
	for (uint32_t i = 0; i < perf->config.queues; i++)
		svio_nvme_qp_replay(perf->queues[i].qp);
}

const struct perf_config *perf_get_config(const struct perf *perf)
{
	return &perf->config;
}
