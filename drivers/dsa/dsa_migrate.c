/* SPDX-License-Identifier: BSD-3-Clause */
/* Re-instatement: the device stopped and held, the ledger saved, loaded and sent again. Rules: svio_dsa_migrate.h. */
#include <inttypes.h>
#include <string.h>
#include "dsa_ledger.h"

/* ---- held ---------------------------------------------------------------------------------------------------- */

static void poll_all(struct svio_dsa *dsa)
{
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i])
			svio_dsa_poll(dsa->wq[i], 0);
}

/* Is something with the device that must not be interrupted (rule 4)? Of parked queues: what `known` has is not with it. */
static bool must_end(const struct svio_dsa *dsa)
{
	for (uint32_t i = 0; i < dsa->wqs; i++) {
		const struct svio_dsa_wq *wq = dsa->wq[i];

		for (uint64_t m = wq ? wq->inflight & ~wq->known : 0; m; m &= m - 1) {
			uint32_t id = (uint32_t)__builtin_ctzll(m);

			if (wq->reqs[id].seq < wq->park_seq && !dsa_repeatable(wq, id))
				return true;
		}
	}
	return false;
}

static bool is_held(struct svio_dsa *dsa)
{
	bool held;

	pthread_mutex_lock(&dsa->lock);
	dsa_advance(dsa, svio_now_ns());
	held = dsa_get_state(dsa) == DSA_SUSPENDED && dsa->step == DSA_STEP_HELD;
	for (uint32_t i = 0; i < dsa->wqs; i++)
		held &= !dsa->wq[i] || (dsa->wq[i]->settled && dsa->wq[i]->state != DSA_WQ_LIVE);
	pthread_mutex_unlock(&dsa->lock);
	return held;
}

/* Poll until `done`, or failing that for so long. */
static bool wait_until(struct svio_dsa *dsa, bool (*done)(struct svio_dsa *dsa), uint64_t limit_ns)
{
	uint64_t end = svio_now_ns() + limit_ns, nap = 5000;

	while (!done(dsa)) {
		poll_all(dsa);
		if (dsa_get_state(dsa) == DSA_GONE || svio_now_ns() > end)
			return done(dsa);
		dsa_nap(nap);
		nap = SVIO_MIN(nap * 2, DSA_MS);
	}
	return true;
}

/* Lost meanwhile: there is nothing to wait for. */
static bool may_stop(struct svio_dsa *dsa)
{
	return dsa_get_state(dsa) != DSA_RUNNING || !must_end(dsa);
}

void svio_dsa_unquiesce(struct svio_dsa *dsa)
{
	pthread_mutex_lock(&dsa->lock);
	if (dsa->hold) {
		dsa->hold = false;
		dsa_freeze(dsa, "let go");
	}
	pthread_mutex_unlock(&dsa->lock);
}

int svio_dsa_quiesce(struct svio_dsa *dsa)
{
	pthread_mutex_lock(&dsa->lock);
	dsa->hold = true;
	pthread_mutex_unlock(&dsa->lock);
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i] && dsa->wq[i]->state == DSA_WQ_LIVE)
			dsa_park(dsa->wq[i]);
	if (!wait_until(dsa, may_stop, dsa->opts.timeout_ms * DSA_MS)) {
		svio_dsa_unquiesce(dsa);
		return svio_fail(ETIMEDOUT, "%s: does not end a copy between overlapping ranges, which cannot be repeated elsewhere", dsa->name);
	}
	pthread_mutex_lock(&dsa->lock);
	if (dsa_get_state(dsa) == DSA_RUNNING)
		dsa_freeze(dsa, "held, to move");
	pthread_mutex_unlock(&dsa->lock);
	if (wait_until(dsa, is_held, 4 * dsa->opts.cmd_timeout_ms * DSA_MS))
		return 0;
	svio_dsa_unquiesce(dsa);
	if (dsa_get_state(dsa) == DSA_GONE)
		return svio_fail(ENODEV, "%s: the device is gone", dsa->name);
	return svio_fail(ETIMEDOUT, "%s: the device does not stop%s; operations that it may still carry out cannot move", dsa->name,
			 svio_device_events(dsa->dev) & SVIO_EV_REVOKED ? " (its BAR is withdrawn)" : "");
}

/* ---- the ledger of a queue ----------------------------------------------------------------------------------- */

int svio_dsa_wq_save(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_buf *out, uint32_t *count)
{
	uint32_t ids[DSA_PORTAL_SLOTS], n;
	int rc = 0;

	if (!wq->settled || wq->state == DSA_WQ_LIVE || wq->state == DSA_WQ_DEAD)
		return svio_fail(EBUSY, "%s: queue %u is not held: svio_dsa_quiesce() first", wq->dsa->name, wq->index);
	/* A drain that is held has its record, and is sent behind its elders once more. */
	n = dsa_in_order(wq, wq->inflight | wq->held, UINT64_MAX, ids);
	svio_migrate_put_u32(out, wq->depth);
	svio_migrate_put_u32(out, wq->max_batch);
	svio_migrate_put_u64(out, wq->max_xfer);
	svio_migrate_put_u32(out, n);
	for (uint32_t i = 0; i < n && rc == 0; i++)
		rc = dsa_ledger_save(wq, ids[i], move, out);
	if (count)
		*count = n;
	return rc;
}

int svio_dsa_wq_load(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_in *in)
{
	const char *name = wq->dsa->name;
	uint32_t depth, max_batch, n, id;
	uint64_t max_xfer;
	int rc = 0;

	depth = svio_migrate_get_u32(in);
	max_batch = svio_migrate_get_u32(in);
	max_xfer = svio_migrate_get_u64(in);
	n = svio_migrate_get_u32(in);
	if (in->bad || n > depth || depth > DSA_PORTAL_SLOTS)
		return svio_fail(EINVAL, "%s: a ledger that is not whole", name);
	if (svio_dsa_inflight(wq) || wq->seq)
		return svio_fail(EBUSY, "%s: queue %u was in use already", name, wq->index);
	if (depth > wq->depth || max_batch > wq->max_batch || max_xfer > wq->max_xfer)
		return svio_fail(EINVAL, "%s: a queue of %u operations, batches of %u and pieces of %" PRIu64
				 " bytes does not fit into one of %u, %u and %" PRIu64, name, depth, max_batch, max_xfer, wq->depth,
				 wq->max_batch, wq->max_xfer);
	while (n-- && rc == 0) {
		rc = dsa_ledger_load(wq, move, in, &id);
		if (rc == 0)
			__atomic_store_n(&dsa_cr(wq, id)->status, DSA_ST_NONE, __ATOMIC_RELAXED);
	}
	if (rc) {
		dsa_ledger_clear(wq);
		return rc == -EINVAL ? svio_fail(EINVAL, "%s: an operation in the ledger that makes no sense", name) : rc;
	}
	wq->known = wq->inflight;
	return 0;
}

void svio_dsa_wq_replay(struct svio_dsa_wq *wq)
{
	/* When the device was reset meanwhile, its return sends them. */
	if (wq->state == DSA_WQ_LIVE && wq->inflight)
		dsa_resend(wq);
}

/* ---- what must fit ------------------------------------------------------------------------------------------------ */

/* What this driver sends; a device may have more. */
#define OUR_OPS                                                                                                            \
	(UINT64_C(1) << DSA_OP_NOOP | UINT64_C(1) << DSA_OP_BATCH | UINT64_C(1) << DSA_OP_DRAIN | UINT64_C(1) << DSA_OP_MEMMOVE | \
	 UINT64_C(1) << DSA_OP_FILL | UINT64_C(1) << DSA_OP_COMPARE | UINT64_C(1) << DSA_OP_COMPARE_PATTERN |                  \
	 UINT64_C(1) << DSA_OP_DUALCAST | UINT64_C(1) << DSA_OP_CRC | UINT64_C(1) << DSA_OP_COPY_CRC)

static int describe_bond(const struct svio_sva_bond *bond, const struct svio_dsa_needs *needs, struct svio_migrate_record *mine,
			 bool target)
{
	struct svio_sva_report report;
	int rc;

	rc = svio_migrate_fact_u64(mine, "dsa.native", needs->by_state ? SVIO_MIGRATE_SAME : SVIO_MIGRATE_AT_LEAST,
				   bond->mode == SVIO_SVA_NATIVE,
				   "the device there reaches registered memory only: svio info says what native SVA needs");
	if (rc || !needs->by_state || bond->mode != SVIO_SVA_NATIVE)
		return rc;
	/* Will the target get the PASID that the state names? */
	if (svio_sva_get_report(bond->dev, &report))
		memset(&report, 0, sizeof(report));
	return svio_migrate_fact_u64(mine, "dsa.pasid_choice", SVIO_MIGRATE_AT_LEAST,
				     !target || report.info.flags & SVIO_SVA_INFO_RANGE,
				     "PASIDs cannot be chosen there: move by the driver (--by driver)");
}

int svio_dsa_describe(struct svio_dsa *dsa, const struct svio_sva_bond *bond, const struct svio_dsa_needs *needs,
		      struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	static const char *const choose = "choose a device with more of them, or use fewer";
	uint64_t max_xfer = SVIO_MIN(dsa->max_xfer, DSA_PIECE);
	int rc;

	rc = svio_migrate_fact_u64(mine, "dsa.operations", SVIO_MIGRATE_BITS, dsa->opcap & OUR_OPS,
				   "the device there lacks operations (OPCAP) that this one has");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "dsa.queues", SVIO_MIGRATE_AT_LEAST, source ? dsa->wqs : needs->wqs, choose);
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "dsa.queue_depth", SVIO_MIGRATE_AT_LEAST, source ? dsa->wq_size : needs->depth, choose);
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "dsa.batch", SVIO_MIGRATE_AT_LEAST, source ? dsa->max_batch : needs->max_batch,
					   "choose a device that takes larger batches, or send smaller ones");
	/* Pieces in flight are as large as the source's device takes. */
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "dsa.max_transfer", SVIO_MIGRATE_AT_LEAST, max_xfer,
					   "choose a device that takes as large transfers");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "dsa.overlapping_copies", SVIO_MIGRATE_AT_LEAST, !!(dsa->gencap & DSA_GENCAP_OVERLAP_COPY),
					   "the device there copies no overlapping ranges");
	return rc ? rc : describe_bond(bond, needs, mine, source != NULL);
}
