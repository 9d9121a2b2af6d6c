/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ledger on its way. An operation is written as: its number, callback, and a body; a batch: and where it is, its results, and a body for
 * each member. Addresses are those of the process.
 */
#include <inttypes.h>
#include <string.h>
#include "dsa_ledger.h"

#define FLAGS_OP    ((uint32_t)(DSA_REQ_CACHE | DSA_REQ_BACKWARD))
#define FLAGS_BATCH ((uint32_t)DSA_REQ_SERIAL)
#define FLAGS_MEMBER (FLAGS_OP | DSA_REQ_FENCE | DSA_REQ_ENDED)

/* ---- addresses -------------------------------------------------------------------------------------------------- */

/* Which of the three a body has: bit 0 src, 1 dst, 2 third. */
static uint32_t addresses(uint32_t op)
{
	uint32_t touches = dsa_touches(op);

	return (touches & DSA_READS ? 1 : 0) | (touches & DSA_WRITES ? 2 : 0) | (touches & (DSA_READS2 | DSA_WRITES2) ? 4 : 0);
}

static uint64_t *address(struct dsa_req *req, uint32_t i)
{
	return i == 0 ? &req->src : i == 1 ? &req->dst : &req->third;
}

/* What the device is told → where it is for us. 0: nowhere, any more. */
static uint64_t to_va(const struct svio_dsa_wq *wq, uint64_t addr, uint64_t len)
{
	return wq->native ? addr : (uint64_t)(uintptr_t)svio_ioas_va(wq->bond->ioas, addr, len);
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

static int put_body(struct svio_dsa_wq *wq, const struct dsa_req *from, const struct svio_dsa_move *move, struct svio_migrate_buf *out)
{
	struct dsa_req req = *from;
	bool ended = req.flags & DSA_REQ_ENDED;

	for (uint32_t i = 0; i < 3; i++) {
		uint64_t *a = address(&req, i);

		if (!(addresses(req.op) >> i & 1)) {
			if (i < 2) /* never set */
				*a = 0;
			continue;
		}
		*a = to_va(wq, *a, req.len);
		/* What has ended is a number and nothing else. */
		if (ended || (*a && move->moves(move->app, (const void *)(uintptr_t)*a, req.len)))
			continue;
		return svio_fail(EFAULT, "%s: operation %#x in flight has %" PRIu64 " bytes at 0x%" PRIx64
				 ", which are in no area that moves: svio_migrate_alloc() them", wq->dsa->name, req.op, req.len, *a);
	}
	svio_migrate_put_u32(out, (uint32_t)req.op | (uint32_t)req.flags << 8 | (uint32_t)req.retries << 16);
	svio_migrate_put_u64(out, req.src);
	svio_migrate_put_u64(out, req.dst);
	svio_migrate_put_u64(out, req.third);
	svio_migrate_put_u64(out, req.lo);
	svio_migrate_put_u64(out, req.hi);
	svio_migrate_put_u64(out, req.clo);
	svio_migrate_put_u64(out, req.chi);
	svio_migrate_put_u64(out, req.len);
	svio_migrate_put_u32(out, req.crc);
	return svio_migrate_put_u32(out, (uint32_t)req.status);
}

int dsa_ledger_save(struct svio_dsa_wq *wq, uint32_t id, const struct svio_dsa_move *move, struct svio_migrate_buf *out)
{
	const struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;
	uint64_t cookie = 0;
	int rc = move->save(move->app, req->cb, req->ctx, &cookie);

	if (rc)
		return rc;
	svio_migrate_put_u32(out, id);
	svio_migrate_put_u64(out, cookie);
	if (req->op != DSA_OP_BATCH) {
		svio_migrate_put_u32(out, 0);
		return put_body(wq, req, move, out);
	}
	if (req->results && !move->moves(move->app, req->results, req->count * sizeof(*req->results)))
		return svio_fail(EFAULT, "%s: the results of a batch in flight, at %p, are in no area that moves: svio_migrate_alloc() them",
				 wq->dsa->name, (void *)req->results);
	svio_migrate_put_u32(out, (uint32_t)req->count | (uint32_t)(req->flags & FLAGS_BATCH) << 16);
	svio_migrate_put_u32(out, (uint32_t)req->at | (uint32_t)req->failed << 16);
	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)req->results);
	for (uint32_t i = 0; i < req->count && rc == 0; i++)
		rc = put_body(wq, &member[i], move, out);
	return rc;
}

/* ---- in ------------------------------------------------------------------------------------------------------------ */

/* [lo, hi) and the piece lie in the operation, apart from each other. */
static bool ranges_possible(const struct svio_dsa_wq *wq, const struct dsa_req *req)
{
	if (!dsa_touches(req->op))
		return !req->len && !req->lo && !req->hi && !req->clo && !req->chi;
	/* Of one that has ended the piece is what it ended in: nothing, as a rule. */
	if (req->lo > req->hi || req->hi > req->len || req->clo > req->chi || req->chi > req->len || !req->len)
		return false;
	if (!(req->flags & DSA_REQ_ENDED) && (req->clo == req->chi || req->chi - req->clo > wq->max_xfer))
		return false;
	return req->lo == req->hi || req->chi <= req->lo || req->clo >= req->hi;
}

static bool direction_right(const struct dsa_req *req)
{
	bool backward = req->op == DSA_OP_MEMMOVE && dsa_overlaps(req->src, req->dst, req->len) && req->dst > req->src;

	return backward == !!(req->flags & DSA_REQ_BACKWARD);
}

static int place(const struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct dsa_req *req)
{
	for (uint32_t i = 0; i < 3; i++) {
		uint64_t *a = address(req, i);
		const void *ptr = (const void *)(uintptr_t)*a;

		if (!(addresses(req->op) >> i & 1))
			continue;
		if (!move->moves(move->app, ptr, req->len))
			return -EINVAL;
		*a = svio_sva_addr(wq->bond, ptr, req->len);
		if (*a == SVIO_IOVA_BAD)
			return -EINVAL;
	}
	if (req->op == DSA_OP_DUALCAST && (req->dst ^ req->third) & 0xfff)
		return -EINVAL;
	if (req->op == DSA_OP_MEMMOVE && dsa_overlaps(req->src, req->dst, req->len) && !(wq->dsa->gencap & DSA_GENCAP_OVERLAP_COPY))
		return -EINVAL;
	return 0;
}

static int get_body(const struct svio_dsa_wq *wq, const struct svio_dsa_move *move, uint32_t flags, struct svio_migrate_in *in,
		    struct dsa_req *req)
{
	uint32_t what = svio_migrate_get_u32(in);

	req->op = (uint8_t)what;
	req->flags = (uint8_t)(what >> 8);
	req->retries = (uint16_t)(what >> 16);
	req->src = svio_migrate_get_u64(in);
	req->dst = svio_migrate_get_u64(in);
	req->third = svio_migrate_get_u64(in);
	req->lo = svio_migrate_get_u64(in);
	req->hi = svio_migrate_get_u64(in);
	req->clo = svio_migrate_get_u64(in);
	req->chi = svio_migrate_get_u64(in);
	req->len = svio_migrate_get_u64(in);
	req->crc = svio_migrate_get_u32(in);
	req->status = (int)svio_migrate_get_u32(in);
	if (in->bad || req->op > 63 || req->op == DSA_OP_BATCH || !(wq->ops >> req->op & 1) || (req->flags & ~flags) ||
	    (!dsa_touches(req->op) && req->op != DSA_OP_NOOP && req->op != DSA_OP_DRAIN) || req->retries > DSA_MAX_RETRIES ||
	    !ranges_possible(wq, req) || (!(req->flags & DSA_REQ_ENDED) && req->status))
		return -EINVAL;
	if (!wq->cache) /* a hint, which this device does not take */
		req->flags &= (uint8_t)~DSA_REQ_CACHE;
	if (req->flags & DSA_REQ_ENDED)
		return 0;
	return place(wq, move, req) || !direction_right(req) ? -EINVAL : 0;
}

static int get_batch(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, uint32_t what, struct svio_migrate_in *in, uint32_t id,
		     struct dsa_req *req)
{
	struct dsa_req *member = wq->members + (size_t)id * wq->max_batch;
	uint32_t where = svio_migrate_get_u32(in), flags = what >> 16, failed = 0;
	int rc = 0;

	req->op = DSA_OP_BATCH;
	req->count = (uint16_t)what;
	req->flags = (uint8_t)flags;
	req->at = (uint16_t)where;
	req->failed = (uint16_t)(where >> 16);
	req->results = (struct svio_dsa_result *)(uintptr_t)svio_migrate_get_u64(in);
	if (in->bad || req->count > wq->max_batch || flags & ~FLAGS_BATCH || req->at >= req->count || req->failed > req->count ||
	    !(wq->ops >> DSA_OP_BATCH & 1) || ((uintptr_t)req->results & (_Alignof(struct svio_dsa_result) - 1)) ||
	    (req->results && !move->moves(move->app, req->results, req->count * sizeof(*req->results))))
		return -EINVAL;
	/* One alone is no batch, and before the batch's own record none of its members has ended. */
	if (!(flags & DSA_REQ_SERIAL) && (req->count < 2 || req->at || req->failed))
		return -EINVAL;
	for (uint32_t i = 0; i < req->count && rc == 0; i++) {
		member[i] = (struct dsa_req){ .results = req->results ? &req->results[i] : NULL };
		rc = get_body(wq, move, FLAGS_MEMBER, in, &member[i]);
		if (rc == 0 && member[i].op == DSA_OP_DRAIN)
			rc = -EINVAL;
		failed += rc == 0 && member[i].flags & DSA_REQ_ENDED && member[i].status;
	}
	if (rc == 0 && (failed != req->failed || (flags & DSA_REQ_SERIAL && member[req->at].flags & DSA_REQ_ENDED)))
		rc = -EINVAL;
	return rc;
}

int dsa_ledger_load(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_in *in, uint32_t *idp)
{
	uint32_t id = svio_migrate_get_u32(in), what;
	uint64_t cookie = svio_migrate_get_u64(in);
	struct dsa_req req = { 0 };
	int rc;

	what = svio_migrate_get_u32(in);
	if (in->bad || id >= wq->depth || !(wq->free >> id & 1))
		return -EINVAL;
	if (what)
		rc = get_batch(wq, move, what, in, id, &req);
	else
		rc = get_body(wq, move, FLAGS_OP, in, &req);
	if (rc == 0)
		rc = move->load(move->app, cookie, &req.cb, &req.ctx);
	if (rc)
		return rc;
	req.seq = wq->seq++;
	wq->reqs[id] = req;
	wq->free &= ~(UINT64_C(1) << id);
	wq->inflight |= UINT64_C(1) << id;
	*idp = id;
	return 0;
}

void dsa_ledger_clear(struct svio_dsa_wq *wq)
{
	for (uint64_t m = wq->inflight | wq->held; m; m &= m - 1)
		wq->reqs[__builtin_ctzll(m)].op = DSA_OP_FREE;
	wq->free |= wq->inflight | wq->held;
	wq->inflight = wq->held = wq->known = 0;
	wq->seq = 0;
}

bool dsa_ledger_identical(struct svio_dsa_wq *wq)
{
	struct svio_ioas_stats st;

	if (wq->native)
		return true;
	svio_ioas_get_stats(wq->bond->ioas, &st);
	return st.identity;
}
