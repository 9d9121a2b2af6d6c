/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's log for dirty tracking (svio_ioas.h), of queues in identity bonds: what an operation writes is marked when its record is
 * taken, whatever the record says; records and batches' records whenever somebody collects. Writes of a native bond go by the
 * process's page tables, where the CPU's writes are seen too (svio_dirty.h).
 *
 * Every record is compared with `special`, tracked or not (dsa_io.c). The table is stored first: who sees the one sees the other.
 */
#include "dsa_priv.h"

static void track(struct svio_dsa_wq *wq, uint8_t *table)
{
	if (wq->native)
		return;
	if (table)
		__atomic_store_n(&wq->dirty, table, __ATOMIC_RELAXED);
	atomic_store_explicit(&wq->special, table ? DSA_SPECIAL_ALL : DSA_SPECIAL, memory_order_release);
}

static void log_set(void *ctx, uint8_t *table)
{
	struct svio_dsa *dsa = ctx;

	pthread_mutex_lock(&dsa->log_lock);
	dsa->dirty = table;
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i])
			track(dsa->wq[i], table);
	pthread_mutex_unlock(&dsa->log_lock);
}

/* What the device writes beside data. Lists are the CPU's. */
static void mark_records(const struct svio_dsa_wq *wq, uint8_t *table)
{
	svio_dirty_mark(table, wq->crs, (size_t)wq->depth * DSA_CR_STRIDE);
	svio_dirty_mark(table, wq->batch_crs, (size_t)wq->depth * wq->max_batch * sizeof(*wq->batch_crs));
}

static void log_touch(void *ctx, uint8_t *table)
{
	struct svio_dsa *dsa = ctx;

	pthread_mutex_lock(&dsa->log_lock);
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i] && !dsa->wq[i]->native)
			mark_records(dsa->wq[i], table);
	pthread_mutex_unlock(&dsa->log_lock);
}

int dsa_log_join(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	bool first = false;
	int err = 0;

	if (wq->native)
		return 0;
	pthread_mutex_lock(&dsa->log_lock);
	if (dsa->log_users && dsa->log_ioas != wq->bond->ioas) {
		err = svio_fail(EINVAL, "%s: its queues work in another ioas already", dsa->name);
	} else {
		first = dsa->log_users++ == 0;
		dsa->log_ioas = wq->bond->ioas;
		wq->in_log = true;
		track(wq, dsa->dirty);
	}
	pthread_mutex_unlock(&dsa->log_lock);
	/* Not with the lock held: the ioas calls back. */
	if (first) {
		dsa->log = (struct svio_ioas_log){ .dev = dsa->dev, .set = log_set, .touch = log_touch, .ctx = dsa };
		svio_ioas_log_add(dsa->log_ioas, &dsa->log);
	}
	return err;
}

/* The queue has stopped. */
void dsa_log_leave(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	bool last;

	if (!wq->in_log)
		return;
	pthread_mutex_lock(&dsa->log_lock);
	/* Its last records; nobody will ask for them again. */
	if (dsa->dirty)
		mark_records(wq, dsa->dirty);
	wq->in_log = false;
	last = --dsa->log_users == 0;
	pthread_mutex_unlock(&dsa->log_lock);
	if (last)
		svio_ioas_log_remove(dsa->log_ioas, &dsa->log);
}

/* ---- marking ------------------------------------------------------------------------------------------------- */

static void mark_range(const struct svio_dsa_wq *wq, uint8_t *table, uint64_t addr, uint64_t len)
{
	const struct svio_ioas_hot_range *hot = svio_ioas_hot_range(wq->bond->ioas);
	uint64_t va = addr - hot->delta;
	const void *ptr = va - hot->va < hot->len && len <= hot->len - (va - hot->va) ? (const void *)(uintptr_t)va :
											svio_ioas_va(wq->bond->ioas, addr, len);

	if (ptr && len)
		svio_dirty_mark(table, ptr, len);
}

static void mark_piece(const struct svio_dsa_wq *wq, uint8_t *table, const struct dsa_req *req)
{
	uint32_t touches = dsa_touches(req->op);

	if (touches & DSA_WRITES)
		mark_range(wq, table, req->dst + req->clo, req->chi - req->clo);
	if (touches & DSA_WRITES2)
		mark_range(wq, table, req->third + req->clo, req->chi - req->clo);
}

void dsa_mark(const struct svio_dsa_wq *wq, uint32_t id)
{
	const struct dsa_req *req = &wq->reqs[id], *member = wq->members + (size_t)id * wq->max_batch;
	uint8_t *table;

	if (svio_likely(atomic_load_explicit(&wq->special, memory_order_acquire) != DSA_SPECIAL_ALL))
		return;
	table = __atomic_load_n(&wq->dirty, __ATOMIC_RELAXED);
	if (req->op != DSA_OP_BATCH) {
		mark_piece(wq, table, req);
		return;
	}
	if (req->flags & DSA_REQ_SERIAL) {
		if (req->at < req->count)
			mark_piece(wq, table, &member[req->at]);
		return;
	}
	for (uint32_t i = 0; i < req->count; i++)
		mark_piece(wq, table, &member[i]);
}
