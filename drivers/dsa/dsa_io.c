/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hot path: descriptors into the portal, completion records out of memory; and what follows from a record that does not say
 * that everything is done.
 *
 * An operation has a number, 0 to 63, which is a bit in the masks of the queue and names its completion record. So many operations as
 * the portal has slots at most, so that the slot written next is free without anybody looking (dsa_spec.h, portals of models).
 */
#include <sched.h>
#include <string.h>
#include "dsa_priv.h"

/* ---- the portal ------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
__attribute__((noinline)) static void store_movdir64b(void *portal, const struct dsa_desc *d)
{
	/*
	 * Weakly ordered: what the device will read (records cleared, lists, data) must be visible first. In bytes, for assemblers that
	 * do not know it: MOVDIR64B rax, [rdx] (Intel SDM vol. 2, 66 0F 38 F8 /r).
	 */
	__asm__ volatile("sfence; .byte 0x66, 0x0f, 0x38, 0xf8, 0x02" ::"a"(portal), "d"(d) : "memory");
}
#else
static void store_movdir64b(void *portal, const struct dsa_desc *d)
{
	(void)portal; /* svio_dsa_open() does not come so far */
	(void)d;
}
#endif

static inline void portal_store(struct svio_dsa_wq *wq, const struct dsa_desc *d)
{
	uint64_t *slot = (uint64_t *)(void *)(wq->portal + (size_t)(wq->slot++ % DSA_PORTAL_SLOTS) * sizeof(*d));
	uint64_t words[8];

	if (svio_unlikely(!wq->model)) {
		store_movdir64b(slot, d);
		return;
	}
	memcpy(words, d, sizeof(words));
	for (int i = 1; i < 8; i++)
		__atomic_store_n(&slot[i], words[i], __ATOMIC_RELAXED);
	__atomic_store_n(&slot[0], words[0], __ATOMIC_RELEASE);
}

/* ---- descriptors ----------------------------------------------------------------------------------------- */

/* The pattern as it lies in memory, beginning with its byte off % 8. */
static inline uint64_t rotate(uint64_t pattern, uint64_t off)
{
	unsigned int bits = (unsigned int)(off % 8) * 8;

	pattern = le64toh(pattern);
	return bits ? pattern >> bits | pattern << (64 - bits) : pattern;
}

static inline void build(const struct svio_dsa_wq *wq, const struct dsa_req *req, uint64_t cr_addr, struct dsa_desc *d)
{
	uint32_t flags = wq->desc_flags | (req->flags & DSA_REQ_CACHE ? DSA_FLAG_CACHE : 0) |
			 (req->flags & DSA_REQ_FENCE ? DSA_FLAG_FENCE : 0);

	memset(d, 0, sizeof(*d));
	d->pasid = htole32(wq->pasid);
	d->cr_addr = htole64(cr_addr);
	switch (req->op) {
	case DSA_OP_NOOP:
	case DSA_OP_DRAIN:
		/* Nothing that could fault. */
		flags &= ~DSA_FLAG_BLOCK_ON_FAULT;
		break;
	case DSA_OP_FILL:
		d->pattern = htole64(rotate(req->third, req->clo));
		d->dst = htole64(req->dst + req->clo);
		break;
	case DSA_OP_COMPARE:
		d->src = htole64(req->src + req->clo);
		d->src2 = htole64(req->third + req->clo);
		break;
	case DSA_OP_COMPARE_PATTERN:
		d->src = htole64(req->src + req->clo);
		d->cmp_pattern = htole64(rotate(req->third, req->clo));
		break;
	case DSA_OP_DUALCAST:
		d->src = htole64(req->src + req->clo);
		d->dst = htole64(req->dst + req->clo);
		d->dst2 = htole64(req->third + req->clo);
		break;
	case DSA_OP_COPY_CRC:
		d->dst = htole64(req->dst + req->clo);
		/* fall through */
	case DSA_OP_CRC:
		d->src = htole64(req->src + req->clo);
		d->seed = htole32(req->crc);
		break;
	default: /* DSA_OP_MEMMOVE */
		d->src = htole64(req->src + req->clo);
		d->dst = htole64(req->dst + req->clo);
		break;
	}
	d->size = htole32((uint32_t)(req->chi - req->clo));
	d->op_flags = htole32(DSA_DESC_OP(req->op, flags));
}

/* Where memory of the queue is for the device. Known to be reachable since the queue was created. */
static inline uint64_t device_addr(const struct svio_dsa_wq *wq, const void *ptr)
{
	return wq->native ? (uint64_t)(uintptr_t)ptr : svio_ioas_iova(wq->bond->ioas, ptr);
}

static void send_batch(struct svio_dsa_wq *wq, uint32_t id)
{
	struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;
	struct dsa_completion *crs = wq->batch_crs + (size_t)id * wq->max_batch, *cr = dsa_cr(wq, id);
	struct dsa_desc *list = wq->lists + (size_t)id * wq->max_batch, d;

	for (uint32_t i = 0; i < req->count; i++) {
		crs[i].status = DSA_ST_NONE;
		build(wq, &member[i], device_addr(wq, &crs[i]), &list[i]);
	}
	memset(&d, 0, sizeof(d));
	d.pasid = htole32(wq->pasid);
	d.op_flags = htole32(DSA_DESC_OP(DSA_OP_BATCH, wq->desc_flags & ~DSA_FLAG_BLOCK_ON_FAULT));
	d.cr_addr = htole64(device_addr(wq, cr));
	d.desc_list = htole64(device_addr(wq, list));
	d.count = htole32(req->count);
	portal_store(wq, &d);
}

/* What comes next of operation id: its first piece, another, or a batch. Its record is cleared; the release store publishes that. */
void dsa_send(struct svio_dsa_wq *wq, uint32_t id)
{
	const struct dsa_req *req = &wq->reqs[id];
	struct dsa_completion *cr = dsa_cr(wq, id);
	struct dsa_desc d;

	__atomic_store_n(&cr->status, DSA_ST_NONE, __ATOMIC_RELAXED);
	if (svio_unlikely(req->op == DSA_OP_BATCH)) {
		if (!(req->flags & DSA_REQ_SERIAL)) {
			send_batch(wq, id);
			return;
		}
		/* A fence has done its work by the order in which members are sent, and means nothing outside of a batch. */
		req = wq->members + (size_t)id * wq->max_batch + req->at;
		build(wq, req, device_addr(wq, cr), &d);
		d.op_flags &= ~htole32(DSA_FLAG_FENCE);
	} else {
		build(wq, req, device_addr(wq, cr), &d);
	}
	portal_store(wq, &d);
}

/* ---- pieces ------------------------------------------------------------------------------------------------ */

/* Take the next piece from what has not been sent. */
static inline void next_piece(struct dsa_req *req, uint64_t max)
{
	uint64_t n = SVIO_MIN(max, req->hi - req->lo);

	if (svio_unlikely(req->flags & DSA_REQ_BACKWARD)) {
		req->chi = req->hi;
		req->clo = req->hi -= n;
	} else {
		req->clo = req->lo;
		req->chi = req->lo += n;
	}
}

static uint64_t bytes_done(const struct dsa_req *req)
{
	return req->len - (req->hi - req->lo) - (req->chi - req->clo);
}

static void fill_result(const struct dsa_req *req, int status, struct svio_dsa_result *res)
{
	*res = (struct svio_dsa_result){ .status = status, .crc = req->crc, .bytes = bytes_done(req) };
}

/* ---- completion records ------------------------------------------------------------------------------------ */

enum verdict { ENDED, GOES_ON, WAITS };

struct operand {
	uint64_t addr;
	bool write;
};

uint32_t dsa_touches(uint32_t op)
{
	switch (op) {
	case DSA_OP_MEMMOVE:
	case DSA_OP_COPY_CRC:
		return DSA_READS | DSA_WRITES;
	case DSA_OP_FILL:
		return DSA_WRITES;
	case DSA_OP_COMPARE:
		return DSA_READS | DSA_READS2;
	case DSA_OP_COMPARE_PATTERN:
	case DSA_OP_CRC:
		return DSA_READS;
	case DSA_OP_DUALCAST:
		return DSA_READS | DSA_WRITES | DSA_WRITES2;
	default:
		return 0;
	}
}

static unsigned int operands(const struct dsa_req *req, struct operand *op)
{
	uint32_t touches = dsa_touches(req->op);
	unsigned int n = 0;

	if (touches & DSA_READS)
		op[n++] = (struct operand){ req->src, false };
	if (touches & DSA_READS2)
		op[n++] = (struct operand){ req->third, false };
	if (touches & DSA_WRITES)
		op[n++] = (struct operand){ req->dst, true };
	if (touches & DSA_WRITES2)
		op[n++] = (struct operand){ req->third, true };
	return n;
}

/* Make present what the device missed, and what follows it in the same operand, so that not every page is a stop. */
static int touch(const struct dsa_req *req, uint64_t fault, bool write)
{
	uint64_t page = fault & ~(uint64_t)(DSA_PORTAL_SIZE - 1);
	struct operand op[4];
	unsigned int n = operands(req, op);

	for (unsigned int i = 0; i < n; i++) {
		uint64_t from = op[i].addr + req->clo, to = op[i].addr + req->chi;

		if (op[i].write != write || page >= to || page + DSA_PORTAL_SIZE <= from)
			continue;
		from = SVIO_MAX(from, page);
		return svio_sva_touch((const void *)(uintptr_t)from, to - from, write);
	}
	return svio_fail(EFAULT, "a page fault at %#llx, which the operation does not touch", (unsigned long long)fault);
}

/* The device stopped at a page. Everything of the record was checked against the piece. */
static enum verdict page_fault(struct svio_dsa_wq *wq, struct dsa_req *req, const struct dsa_completion *cr, uint32_t done,
			       struct svio_dsa_result *res)
{
	uint64_t fault = le64toh(cr->fault_addr);

	if (req->op == DSA_OP_MEMMOVE && cr->result == DSA_RESULT_BACKWARD)
		req->chi -= done;
	else
		req->clo += done;
	if (req->op == DSA_OP_CRC || req->op == DSA_OP_COPY_CRC)
		req->crc = (uint32_t)le64toh(cr->crc);
	req->retries = done ? 0 : (uint16_t)(req->retries + 1);
	/* Pinned memory does not fault: the mapping was taken away under the operation. */
	if (!wq->native || req->retries > DSA_MAX_RETRIES || touch(req, fault, cr->status & DSA_STATUS_WRITE)) {
		fill_result(req, -EFAULT, res);
		res->fault_addr = fault;
		return ENDED;
	}
	dsa_count(&wq->dsa->stats.page_faults, 1);
	return GOES_ON;
}

/* The piece is done; is the operation? */
static inline enum verdict piece_done(struct svio_dsa_wq *wq, struct dsa_req *req, const struct dsa_completion *cr,
				      struct svio_dsa_result *res)
{
	if (req->op == DSA_OP_CRC || req->op == DSA_OP_COPY_CRC)
		req->crc = (uint32_t)le64toh(cr->crc);
	req->clo = req->chi = 0;
	req->retries = 0;
	if (svio_unlikely(req->hi > req->lo)) {
		next_piece(req, wq->max_xfer);
		return GOES_ON;
	}
	fill_result(req, 0, res);
	return ENDED;
}

static enum verdict nonsense(struct svio_dsa_wq *wq, const struct dsa_req *req, const struct dsa_completion *cr,
			     struct svio_dsa_result *res)
{
	svio_log_err("%s: queue %u: operation %#x: a completion record that makes no sense: status %#x, result %u, %u bytes",
		     wq->dsa->name, wq->index, req->op, cr->status, cr->result, le32toh(cr->bytes));
	fill_result(req, -EIO, res);
	return ENDED;
}

/* *cr is our copy: the device cannot change it any more. Its status is not DSA_ST_NONE. */
static enum verdict evaluate(struct svio_dsa_wq *wq, struct dsa_req *req, const struct dsa_completion *cr, struct svio_dsa_result *res)
{
	uint32_t done = le32toh(cr->bytes), size = (uint32_t)(req->chi - req->clo);
	bool compares = req->op == DSA_OP_COMPARE || req->op == DSA_OP_COMPARE_PATTERN;

	switch (DSA_STATUS(cr->status)) {
	case DSA_ST_SUCCESS:
	case DSA_ST_SUCCESS_FALSE:
		if (svio_likely(!compares || cr->result == DSA_RESULT_EQUAL))
			return piece_done(wq, req, cr, res);
		if (cr->result != DSA_RESULT_DIFFERENT || done >= size)
			return nonsense(wq, req, cr, res);
		req->clo += done;
		fill_result(req, 0, res);
		res->differs = true;
		return ENDED;
	case DSA_ST_PAGE_FAULT:
	case DSA_ST_PAGE_FAULT_IR:
		/* A piece done to its end has not stopped at a page. */
		if (done >= size || (cr->result && (req->op != DSA_OP_MEMMOVE || cr->result != DSA_RESULT_BACKWARD)))
			return nonsense(wq, req, cr, res);
		return page_fault(wq, req, cr, done, res);
	default:
		fill_result(req, DSA_STATUS(cr->status), res);
		res->fault_addr = le64toh(cr->fault_addr);
		return ENDED;
	}
}

/* ---- batches ----------------------------------------------------------------------------------------------- */

static void member_ended(struct dsa_req *batch, struct dsa_req *member, const struct svio_dsa_result *res)
{
	member->flags |= DSA_REQ_ENDED;
	if (res->status)
		batch->failed++;
	if (member->results)
		*member->results = *res;
	member->status = res->status;
}

/* The batch's own record is there: see what its members have come to; the rest goes one by one. */
static void batch_stopped(struct svio_dsa_wq *wq, uint32_t id)
{
	struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;
	const struct dsa_completion *crs = wq->batch_crs + (size_t)id * wq->max_batch;

	for (uint32_t i = 0; i < req->count; i++) {
		struct svio_dsa_result res;
		struct dsa_completion cr;
		uint8_t status = __atomic_load_n(&crs[i].status, __ATOMIC_ACQUIRE);

		if (member[i].flags & DSA_REQ_ENDED || status == DSA_ST_NONE)
			continue;
		cr = crs[i];
		cr.status = status;
		if (evaluate(wq, &member[i], &cr, &res) == ENDED)
			member_ended(req, &member[i], &res);
	}
	req->flags |= DSA_REQ_SERIAL;
	req->at = 0;
}

/* To the next member that is to be sent, past those that a fence holds back for good. False: there is none. */
static bool batch_seek(struct svio_dsa_wq *wq, uint32_t id)
{
	struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;

	for (; req->at < req->count; req->at++) {
		struct dsa_req *m = &member[req->at];
		struct svio_dsa_result res;

		if (m->flags & DSA_REQ_ENDED)
			continue;
		if (!(m->flags & DSA_REQ_FENCE && req->failed))
			return true;
		fill_result(m, -ECANCELED, &res);
		member_ended(req, m, &res);
	}
	return false;
}

/* The next member, or the end of the batch. */
static enum verdict batch_next(struct svio_dsa_wq *wq, uint32_t id, struct svio_dsa_result *res)
{
	const struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;

	if (batch_seek(wq, id))
		return GOES_ON;
	*res = (struct svio_dsa_result){ .bytes = (uint64_t)req->count - req->failed };
	for (uint32_t i = req->count; i-- > 0;)
		if (member[i].status)
			res->status = member[i].status;
	return ENDED;
}

static enum verdict batch_record(struct svio_dsa_wq *wq, uint32_t id, const struct dsa_completion *cr, struct svio_dsa_result *res)
{
	struct dsa_req *req = &wq->reqs[id];

	if (req->flags & DSA_REQ_SERIAL) {
		struct dsa_req *m = wq->members + (size_t)id * wq->max_batch + req->at;

		if (evaluate(wq, m, cr, res) == GOES_ON)
			return GOES_ON;
		member_ended(req, m, res);
		req->at++;
		return batch_next(wq, id, res);
	}
	switch (DSA_STATUS(cr->status)) {
	case DSA_ST_SUCCESS:
	case DSA_ST_BATCH_FAIL:
	case DSA_ST_BATCH_PAGE_FAULT:
	case DSA_ST_PAGE_FAULT_IR:
		batch_stopped(wq, id);
		return batch_next(wq, id, res);
	default: /* the batch as such was refused: no member was begun */
		*res = (struct svio_dsa_result){ .status = DSA_STATUS(cr->status) };
		for (uint32_t i = 0; req->results && i < req->count; i++)
			req->results[i] = *res;
		return ENDED;
	}
}

/* ---- polling ------------------------------------------------------------------------------------------------ */

static inline void finish(struct svio_dsa_wq *wq, uint32_t id, const struct svio_dsa_result *res)
{
	struct dsa_req *req = &wq->reqs[id];
	svio_dsa_cb cb = req->cb;
	void *ctx = req->ctx;
	uint64_t bit = UINT64_C(1) << id;

	req->op = DSA_OP_FREE;
	wq->inflight &= ~bit;
	wq->held &= ~bit;
	wq->free |= bit;
	cb(ctx, res); /* may submit, and be given this very id */
}

static bool older_go_on(const struct svio_dsa_wq *wq, uint64_t seq, uint64_t self)
{
	for (uint64_t m = wq->inflight & ~self; m; m &= m - 1)
		if (wq->reqs[__builtin_ctzll(m)].seq < seq)
			return true;
	return false;
}

/* Drains that the device has completed, whose elders went on after a page fault or with their next piece. */
uint32_t dsa_release_held(struct svio_dsa_wq *wq, uint32_t max)
{
	uint32_t n = 0;

	for (uint64_t m = wq->held; m && n < max; m &= m - 1) {
		uint32_t id = (uint32_t)__builtin_ctzll(m);
		struct svio_dsa_result res = { 0 };

		/* A callback may have released it and begun something else under this number. */
		if (!(wq->held >> id & 1) || older_go_on(wq, wq->reqs[id].seq, UINT64_C(1) << id))
			continue;
		finish(wq, id, &res);
		n++;
	}
	return n;
}

/* What is not simply evaluated; while tracking, everything. */
static enum verdict special_record(struct svio_dsa_wq *wq, uint32_t id, const struct dsa_completion *cr, struct svio_dsa_result *res)
{
	struct dsa_req *req = &wq->reqs[id];

	dsa_mark(wq, id);
	if (req->op == DSA_OP_BATCH)
		return batch_record(wq, id, cr, res);
	if (req->op != DSA_OP_DRAIN || DSA_STATUS(cr->status) != DSA_ST_SUCCESS || !older_go_on(wq, req->seq, UINT64_C(1) << id))
		return evaluate(wq, req, cr, res);
	wq->inflight &= ~(UINT64_C(1) << id);
	wq->held |= UINT64_C(1) << id;
	return WAITS;
}

/* Operation id has a record: 1 if its callback ran. */
static inline uint32_t reap_one(struct svio_dsa_wq *wq, uint32_t id, uint8_t status)
{
	struct dsa_req *req = &wq->reqs[id];
	struct dsa_completion cr = *dsa_cr(wq, id);
	struct svio_dsa_result res;
	enum verdict verdict;

	cr.status = status;
	wq->progressed = true;
	/* Read with every record, after it: who starts tracking has stored it before (dsa_dirty.c). */
	if (svio_unlikely(req->op <= atomic_load_explicit(&wq->special, memory_order_relaxed)))
		verdict = special_record(wq, id, &cr, &res);
	else
		verdict = evaluate(wq, req, &cr, &res);
	if (svio_unlikely(verdict != ENDED)) {
		if (verdict == WAITS)
			return 0;
		req->stamp = 0;
		dsa_send(wq, id);
		if (wq->portal == wq->dummy)
			wq->known |= UINT64_C(1) << id;
		return 0;
	}
	finish(wq, id, &res);
	return 1;
}

uint32_t dsa_reap(struct svio_dsa_wq *wq, uint32_t max)
{
	uint32_t n = 0;

	/* A snapshot: what callbacks submit is for the next poll. */
	for (uint64_t m = wq->inflight; m && n < max; m &= m - 1) {
		uint32_t id = (uint32_t)__builtin_ctzll(m);
		uint8_t status = __atomic_load_n(&dsa_cr(wq, id)->status, __ATOMIC_ACQUIRE);

		if (status != DSA_ST_NONE && wq->inflight >> id & 1)
			n += reap_one(wq, id, status);
	}
	if (svio_unlikely(wq->held))
		n += dsa_release_held(wq, max - n);
	return n;
}

uint32_t svio_dsa_poll(struct svio_dsa_wq *wq, uint32_t max)
{
	const _Atomic uint32_t *word = atomic_load_explicit(&wq->word, memory_order_acquire);

	if (max == 0)
		max = UINT32_MAX;
	if (svio_unlikely(--wq->countdown == 0 || atomic_load_explicit(word, memory_order_relaxed)))
		return dsa_poll_slow(wq, max);
	return dsa_reap(wq, max);
}

uint32_t svio_dsa_inflight(const struct svio_dsa_wq *wq)
{
	return (uint32_t)__builtin_popcountll(wq->inflight | wq->held);
}

uint32_t svio_dsa_depth(const struct svio_dsa_wq *wq)
{
	return wq->depth;
}

/* ---- trouble -------------------------------------------------------------------------------------------------- */

void dsa_complete(struct svio_dsa_wq *wq, uint32_t id, int status)
{
	struct dsa_req *req = &wq->reqs[id];
	struct svio_dsa_result res;

	dsa_mark(wq, id); /* a part may have been written */
	if (req->op == DSA_OP_BATCH) {
		struct dsa_req *member = wq->members + (size_t)id * wq->max_batch;

		if (!(req->flags & DSA_REQ_SERIAL))
			batch_stopped(wq, id);
		for (uint32_t i = 0; i < req->count; i++) {
			if (member[i].flags & DSA_REQ_ENDED)
				continue;
			fill_result(&member[i], status, &res);
			member_ended(req, &member[i], &res);
		}
		req->at = req->count;
		batch_next(wq, id, &res);
	} else {
		fill_result(req, status, &res);
	}
	finish(wq, id, &res);
}

/* The piece in flight: does writing it destroy what it is read from? Then a second time gives something else. */
static bool piece_repeatable(const struct dsa_req *req)
{
	uint32_t touches = dsa_touches(req->op);
	uint64_t len = req->chi - req->clo;

	if (!(touches & DSA_READS))
		return true;
	return !(touches & DSA_WRITES && dsa_overlaps(req->src, req->dst, len)) &&
	       !(touches & DSA_WRITES2 && dsa_overlaps(req->src, req->third, len));
}

bool dsa_repeatable(const struct svio_dsa_wq *wq, uint32_t id)
{
	const struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;

	if (req->op != DSA_OP_BATCH)
		return piece_repeatable(req);
	if (req->flags & DSA_REQ_SERIAL)
		return req->at >= req->count || piece_repeatable(&member[req->at]);
	for (uint32_t i = 0; i < req->count; i++)
		if (!(member[i].flags & DSA_REQ_ENDED) && !piece_repeatable(&member[i]))
			return false;
	return true;
}

bool dsa_rewind(struct svio_dsa_wq *wq, uint32_t id)
{
	struct dsa_req *req = &wq->reqs[id], *member;

	dsa_mark(wq, id);
	if (req->op != DSA_OP_BATCH)
		return piece_repeatable(req);
	member = wq->members + (size_t)id * wq->max_batch;
	/* Of a batch that was under way, any member may have been. */
	if (!(req->flags & DSA_REQ_SERIAL)) {
		batch_stopped(wq, id);
		for (uint32_t i = 0; i < req->count; i++) {
			struct svio_dsa_result res;

			if (member[i].flags & DSA_REQ_ENDED || piece_repeatable(&member[i]))
				continue;
			fill_result(&member[i], -ECANCELED, &res);
			member_ended(req, &member[i], &res);
		}
	} else if (req->at < req->count && !piece_repeatable(&member[req->at])) {
		struct svio_dsa_result res;

		fill_result(&member[req->at], -ECANCELED, &res);
		member_ended(req, &member[req->at], &res);
		req->at++;
	}
	return batch_seek(wq, id);
}

/* ---- submitting ----------------------------------------------------------------------------------------------- */

#define WRITES (UINT64_C(1) << SVIO_DSA_COPY | UINT64_C(1) << SVIO_DSA_FILL | UINT64_C(1) << SVIO_DSA_DUALCAST | UINT64_C(1) << SVIO_DSA_COPY_CRC)

/* One of them is not reachable: leave the sentence that says which. */
static int explain_address(const struct svio_sva_bond *bond, const struct svio_dsa_op *op)
{
	const void *ptr[4];
	unsigned int n = 0;

	if (op->op != SVIO_DSA_FILL)
		ptr[n++] = op->src;
	if (op->op == SVIO_DSA_COMPARE)
		ptr[n++] = op->src2;
	if (op->op != SVIO_DSA_COMPARE && op->op != SVIO_DSA_COMPARE_PATTERN && op->op != SVIO_DSA_CRC)
		ptr[n++] = op->dst;
	if (op->op == SVIO_DSA_DUALCAST)
		ptr[n++] = op->dst2;
	for (unsigned int i = 0; i < n; i++) {
		int err = svio_sva_check(bond, ptr[i], op->len);

		if (err)
			return err == -ESRCH ? -ESRCH : -EFAULT;
	}
	return -EFAULT;
}

/* What the device shall see of op, checked. */
static inline int prepare(struct svio_dsa_wq *wq, const struct svio_dsa_op *op, struct dsa_req *req)
{
	const struct svio_sva_bond *bond = wq->bond;
	uint64_t bad = 0, len = op->len;

	if (svio_unlikely((unsigned int)op->op > 63 || !(wq->ops >> op->op & 1)))
		return svio_fail(ENOTSUP, "%s: operation %#x is none that the device has", wq->dsa->name, (unsigned int)op->op);
	if (svio_unlikely(op->flags & ~(uint32_t)(SVIO_DSA_CACHE | SVIO_DSA_FENCE)))
		return -EINVAL;
	req->op = (uint8_t)op->op;
	/* A hint about what is written; of an operation that writes nothing the device refuses it. */
	req->flags = op->flags & wq->cache && WRITES >> op->op & 1 ? DSA_REQ_CACHE : 0;
	req->retries = 0;
	req->status = 0;
	req->crc = op->seed;
	req->lo = 0;
	req->third = 0;
	switch (op->op) {
	case SVIO_DSA_NOOP:
	case SVIO_DSA_DRAIN:
		req->len = req->hi = req->clo = req->chi = 0;
		return 0;
	case SVIO_DSA_FILL:
		req->third = op->pattern;
		bad |= (req->dst = svio_sva_addr(bond, op->dst, len)) == SVIO_IOVA_BAD;
		break;
	case SVIO_DSA_COMPARE:
		bad |= (req->src = svio_sva_addr(bond, op->src, len)) == SVIO_IOVA_BAD;
		bad |= (req->third = svio_sva_addr(bond, op->src2, len)) == SVIO_IOVA_BAD;
		break;
	case SVIO_DSA_COMPARE_PATTERN:
		req->third = op->pattern;
		/* fall through */
	case SVIO_DSA_CRC:
		bad |= (req->src = svio_sva_addr(bond, op->src, len)) == SVIO_IOVA_BAD;
		break;
	case SVIO_DSA_DUALCAST:
		bad |= (req->third = svio_sva_addr(bond, op->dst2, len)) == SVIO_IOVA_BAD;
		/* fall through */
	default: /* COPY, COPY_CRC */
		bad |= (req->src = svio_sva_addr(bond, op->src, len)) == SVIO_IOVA_BAD;
		bad |= (req->dst = svio_sva_addr(bond, op->dst, len)) == SVIO_IOVA_BAD;
		break;
	}
	if (svio_unlikely(len == 0))
		return -EINVAL;
	if (svio_unlikely(bad))
		return explain_address(bond, op);
	if (op->op == SVIO_DSA_DUALCAST && svio_unlikely((req->dst ^ req->third) & 0xfff))
		return svio_fail(EINVAL, "%s: dualcast: the destinations differ in bits 11:0", wq->dsa->name);
	if (op->op == SVIO_DSA_COPY && svio_unlikely(dsa_overlaps(req->src, req->dst, len))) {
		if (!(wq->dsa->gencap & DSA_GENCAP_OVERLAP_COPY))
			return svio_fail(ENOTSUP, "%s: the device copies no overlapping ranges", wq->dsa->name);
		req->flags |= req->dst > req->src ? DSA_REQ_BACKWARD : 0;
	}
	req->len = req->hi = len;
	next_piece(req, wq->max_xfer);
	return 0;
}

static inline int take_id(struct svio_dsa_wq *wq, uint32_t *id)
{
	if (svio_unlikely(wq->state == DSA_WQ_DEAD))
		return -ENODEV;
	if (svio_unlikely(!wq->free))
		return -EAGAIN;
	*id = (uint32_t)__builtin_ctzll(wq->free);
	return 0;
}

static inline void begin(struct svio_dsa_wq *wq, uint32_t id, svio_dsa_cb cb, void *ctx)
{
	struct dsa_req *req = &wq->reqs[id];
	uint64_t bit = UINT64_C(1) << id;

	req->cb = cb;
	req->ctx = ctx;
	req->seq = wq->seq++;
	req->stamp = 0;
	wq->free &= ~bit;
	wq->inflight |= bit;
	dsa_send(wq, id);
}

int svio_dsa_submit(struct svio_dsa_wq *wq, const struct svio_dsa_op *op, svio_dsa_cb cb, void *ctx)
{
	uint32_t id;
	int err = take_id(wq, &id);

	if (svio_likely(!err))
		err = prepare(wq, op, &wq->reqs[id]);
	if (svio_unlikely(err)) {
		if (err != -EAGAIN && err != -ENODEV)
			wq->reqs[id].op = DSA_OP_FREE;
		return err;
	}
	begin(wq, id, cb, ctx);
	return 0;
}

int svio_dsa_batch(struct svio_dsa_wq *wq, const struct svio_dsa_op *ops, uint32_t n, struct svio_dsa_result *results, svio_dsa_cb cb,
		   void *ctx)
{
	struct dsa_req *req, *member;
	uint32_t id;
	int err = take_id(wq, &id);

	if (err)
		return err;
	if (n == 0 || n > wq->max_batch)
		return svio_fail(EINVAL, "%s: a batch of %u operations; the queue takes 1 to %u", wq->dsa->name, n, wq->max_batch);
	req = &wq->reqs[id];
	member = wq->members + (size_t)id * wq->max_batch;
	for (uint32_t i = 0; i < n; i++) {
		err = ops[i].op == SVIO_DSA_DRAIN ? -EINVAL : prepare(wq, &ops[i], &member[i]);
		if (err)
			return err;
		if (ops[i].flags & SVIO_DSA_FENCE)
			member[i].flags |= DSA_REQ_FENCE;
		member[i].results = results ? &results[i] : NULL;
	}
	/* One alone is no batch (DSA ch. 8: at least two). */
	*req = (struct dsa_req){ .op = DSA_OP_BATCH, .count = (uint16_t)n, .results = results,
				 .flags = n == 1 ? DSA_REQ_SERIAL : 0 };
	begin(wq, id, cb, ctx);
	return 0;
}

struct run {
	struct svio_dsa_result res;
	bool done;
};

static void run_done(void *ctx, const struct svio_dsa_result *res)
{
	struct run *run = ctx;

	run->res = *res;
	run->done = true;
}

/* A model's thread or process may be waiting for this very CPU; hardware is not. */
static void wait_a_little(struct svio_dsa_wq *wq)
{
	if (svio_dsa_poll(wq, 0) == 0 && wq->model)
		sched_yield();
}

int svio_dsa_run(struct svio_dsa_wq *wq, const struct svio_dsa_op *op, struct svio_dsa_result *res)
{
	struct run run = { 0 };
	int err;

	while ((err = svio_dsa_submit(wq, op, run_done, &run)) == -EAGAIN)
		wait_a_little(wq);
	if (err) {
		run.res.status = err;
	} else {
		while (!run.done)
			wait_a_little(wq);
	}
	if (res)
		*res = run.res;
	return run.res.status;
}
