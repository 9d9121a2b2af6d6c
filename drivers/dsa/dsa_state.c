/* SPDX-License-Identifier: BSD-3-Clause */
/* What the driver knows of a device that moves by its own state: the shape of queues, positions in portals, operations under way. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "dsa_ledger.h"

void svio_dsa_state_quiesce(struct svio_dsa *dsa)
{
	for (uint32_t i = 0; i < dsa->wqs; i++)
		for (uint64_t m = dsa->wq[i] ? dsa->wq[i]->inflight : 0; m; m &= m - 1)
			dsa_mark(dsa->wq[i], (uint32_t)__builtin_ctzll(m));
}

/* ---- out ---------------------------------------------------------------------------------------------------------- */

static int save_wq(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_buf *out)
{
	uint32_t ids[DSA_PORTAL_SLOTS], n = dsa_in_order(wq, wq->inflight | wq->held, UINT64_MAX, ids);
	int rc = 0;

	if (wq->state != DSA_WQ_LIVE || wq->gen != wq->dsa->gen)
		return svio_fail(EAGAIN, "%s: queue %u is not live", wq->dsa->name, wq->index);
	if (!dsa_ledger_identical(wq))
		return svio_fail(EOPNOTSUPP, "%s: IOVAs are not addresses: what is in flight cannot be found again by the device's state",
				 wq->dsa->name);
	svio_migrate_put_u32(out, wq->index);
	svio_migrate_put_u32(out, wq->native);
	svio_migrate_put_u32(out, wq->pasid);
	svio_migrate_put_u32(out, wq->max_batch);
	svio_migrate_put_u64(out, wq->max_xfer);
	svio_migrate_put_u32(out, wq->block);
	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)wq->mem);
	svio_migrate_put_u32(out, wq->slot);
	svio_migrate_put_u64(out, wq->held);
	svio_migrate_put_u32(out, n);
	for (uint32_t i = 0; i < n && rc == 0; i++)
		rc = dsa_ledger_save(wq, ids[i], move, out);
	return rc;
}

int svio_dsa_state_save(struct svio_dsa *dsa, struct svio_dsa_wq *const *wqs, uint32_t count, const struct svio_dsa_move *move,
			struct svio_migrate_buf *out)
{
	uint32_t all = 0;
	int rc = 0;

	if (!dsa->opts.area)
		return svio_fail(EINVAL, "%s: its records lie in no area (opts.area)", dsa->name);
	pthread_mutex_lock(&dsa->lock);
	for (uint32_t i = 0; i < dsa->wqs; i++)
		all += dsa->wq[i] != NULL;
	if (dsa_get_state(dsa) != DSA_RUNNING || dsa->cmd.result)
		rc = svio_fail(EAGAIN, "%s: is being reset, or a queue enabled", dsa->name);
	else if (all != count)
		rc = svio_fail(EINVAL, "%s: has %u queues, and %u are to move", dsa->name, all, count);
	svio_migrate_put_u32(out, dsa->wqs);
	svio_migrate_put_u32(out, dsa->wq_size);
	svio_migrate_put_u32(out, count);
	for (uint32_t i = 0; i < count && rc == 0; i++)
		rc = save_wq(wqs[i], move, out);
	pthread_mutex_unlock(&dsa->lock);
	return rc;
}

/* ---- in ------------------------------------------------------------------------------------------------------------ */

static int load_ledger(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_in *in)
{
	uint64_t held = svio_migrate_get_u64(in);
	uint32_t n = svio_migrate_get_u32(in), id;
	int rc = in->bad || n > wq->depth ? -EINVAL : 0;

	while (n-- && rc == 0)
		rc = dsa_ledger_load(wq, move, in, &id);
	for (uint64_t m = held; m && rc == 0; m &= m - 1)
		if (!(wq->inflight >> __builtin_ctzll(m) & 1) || wq->reqs[__builtin_ctzll(m)].op != DSA_OP_DRAIN)
			rc = -EINVAL;
	if (rc == -EINVAL)
		return svio_fail(EINVAL, "%s: an operation in the ledger that makes no sense", wq->dsa->name);
	if (rc == 0) {
		wq->held = held;
		wq->inflight &= ~held;
	}
	return rc;
}

static int load_wq(struct svio_dsa *dsa, struct svio_sva_bond *bond, const struct svio_dsa_move *move, struct svio_migrate_in *in,
		   struct svio_dsa_wq **wqp)
{
	struct svio_dsa_wq_opts opts = { .size = sizeof(opts) };
	uint32_t index = svio_migrate_get_u32(in), native = svio_migrate_get_u32(in), pasid = svio_migrate_get_u32(in), slot;
	uint64_t max_xfer;
	struct svio_dsa_wq *wq;
	void *mem;
	int rc;

	opts.max_batch = svio_migrate_get_u32(in);
	max_xfer = svio_migrate_get_u64(in);
	opts.block_on_fault = svio_migrate_get_u32(in) & 1;
	mem = (void *)(uintptr_t)svio_migrate_get_u64(in);
	slot = svio_migrate_get_u32(in);
	if (in->bad || index >= dsa->wqs || dsa->wq[index] || native > 1 || !opts.max_batch || opts.max_batch > dsa->max_batch || !mem ||
	    (uintptr_t)mem % 4096)
		return svio_fail(EINVAL, "%s: the state of a queue that cannot be", dsa->name);
	if (native != (bond->mode == SVIO_SVA_NATIVE) || (native && pasid != bond->pasid))
		return svio_fail(EINVAL, "%s: the state is of a queue with PASID %u, and this process is bound %s", dsa->name, pasid,
				 bond->mode == SVIO_SVA_NATIVE ? "with another one" : "without one");
	rc = dsa_wq_new(dsa, bond, &opts, mem, &wq);
	if (rc)
		return rc;
	*wqp = wq;
	/* Nobody else knows of the device yet. */
	dsa->wq[wq->index] = NULL;
	wq->index = index;
	dsa->wq[index] = wq;
	wq->slot = slot;
	if (max_xfer != wq->max_xfer)
		return svio_fail(EINVAL, "%s: the state is of a device with transfers of %" PRIu64 " bytes", dsa->name, max_xfer);
	rc = load_ledger(wq, move, in);
	if (rc)
		return rc;
	if (!dsa_ledger_identical(wq))
		return svio_fail(EOPNOTSUPP, "%s: IOVAs are not addresses here", dsa->name);
	wq->gen = dsa->gen;
	wq->portal = dsa_portal(dsa, index);
	wq->created = true;
	wq->state = DSA_WQ_LIVE;
	atomic_store_explicit(&wq->word, dsa_device_word(dsa), memory_order_release);
	return 0;
}

int svio_dsa_state_load(struct svio_device *dev, struct svio_sva_bond *bond, const struct svio_dsa_opts *user,
			const struct svio_dsa_move *move, struct svio_migrate_in *in, struct svio_dsa **dsap, struct svio_dsa_wq **wqs,
			uint32_t count)
{
	struct svio_dsa_opts opts = { 0 };
	struct svio_dsa *dsa;
	int rc;

	*dsap = NULL;
	memset(wqs, 0, count * sizeof(struct svio_dsa_wq *));
	if (user)
		memcpy(&opts, user, SVIO_MIN(user->size, sizeof(opts)));
	opts.size = sizeof(opts);
	if (!opts.area)
		return svio_fail(EINVAL, "%s: opts.area is where the state lies", svio_device_name(dev));
	opts.wqs = svio_migrate_get_u32(in);
	opts.wq_size = svio_migrate_get_u32(in);
	if (svio_migrate_get_u32(in) != count || in->bad || !opts.wqs || !opts.wq_size || opts.wq_size > DSA_PORTAL_SLOTS)
		return svio_fail(EINVAL, "%s: the state of another number of queues", svio_device_name(dev));
	rc = dsa_begin(dev, &opts, &dsa);
	if (rc)
		return rc;
	dsa->gen = 1;
	dsa->step = DSA_STEP_ACCESS;
	for (uint32_t i = 0; i < count && rc == 0; i++)
		rc = load_wq(dsa, bond, move, in, &wqs[i]);
	/* The state has it on; whoever restores the function after a reset must know. */
	if (rc == 0)
		rc = svio_device_set_master(dev, true);
	if (rc) {
		for (uint32_t i = 0; i < count; i++) {
			if (wqs[i]) {
				wqs[i]->mem = NULL; /* the area's still */
				dsa_wq_free(wqs[i]);
			}
			wqs[i] = NULL;
		}
		dsa_teardown(dsa, true);
		return rc;
	}
	dsa->opened = true;
	atomic_store_explicit(&dsa->state, DSA_RUNNING, memory_order_release);
	dsa_hook(dsa);
	*dsap = dsa;
	return 0;
}
