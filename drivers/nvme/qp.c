/* SPDX-License-Identifier: BSD-3-Clause */
/* Queue pairs: creation and destruction. */
#include <stdlib.h>
#include <string.h>
#include "nvme_priv.h"
#include "svio_migrate.h"

#define DEFAULT_DEPTH	     256u
#define DEFAULT_MAX_TRANSFER (1u << 20)
#define AWAY_PATIENCE	     (50 * NVME_MS) /* for a controller whose registers are withdrawn */

static uint32_t ceil_log2(uint64_t v)
{
	return v <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(v - 1);
}

/* Rings are powers of two, so that an index is a mask: the depth rounded up, or down where the controller has no more. */
static void choose_depth(const struct svio_nvme_qp_opts *opts, const struct svio_nvme_info *info, uint32_t *entries,
			 uint32_t *nreq)
{
	uint32_t depth = opts->depth ? opts->depth : DEFAULT_DEPTH, most = info->max_queue_depth;

	depth = SVIO_MAX(SVIO_MIN(depth, most), NVME_MIN_DEPTH);
	*entries = UINT32_C(1) << ceil_log2(depth);
	while (*entries > most)
		*entries /= 2;
	*nreq = SVIO_MIN(depth, *entries) - 1;
}

static void choose_transfer(struct svio_nvme_qp *qp, const struct svio_nvme_qp_opts *opts, const struct svio_nvme_info *info)
{
	uint32_t transfer = opts->max_transfer ? opts->max_transfer : DEFAULT_MAX_TRANSFER;

	qp->page_size = UINT32_C(1) << qp->nvme->page_shift;
	/* Never less than a page, on which the hot path counts. */
	qp->max_transfer = SVIO_MAX(SVIO_MIN(transfer, info->max_transfer), qp->page_size);
	qp->list_shift = ceil_log2(nvme_prp_list_bytes(qp->max_transfer, qp->page_size));
}

static size_t ring_len(const struct svio_nvme_qp *qp, unsigned int shift)
{
	return SVIO_ALIGN_UP((size_t)qp->entries << shift, (size_t)qp->page_size);
}

size_t nvme_qp_dma_len(const struct svio_nvme_qp *qp)
{
	return ring_len(qp, NVME_SQE_SHIFT) + ring_len(qp, NVME_CQE_SHIFT) + ((size_t)qp->nreq << qp->list_shift);
}

/* Memory that the device reaches, and nothing else: what it could scribble on is its own. */
static int place_dma(struct svio_nvme_qp *qp, uint8_t *dma)
{
	size_t sq = ring_len(qp, NVME_SQE_SHIFT), cq = ring_len(qp, NVME_CQE_SHIFT), len = nvme_qp_dma_len(qp);
	uint64_t iova = svio_ioas_iova_range(qp->nvme->ioas, dma, len);

	qp->dma = dma;
	if (iova == SVIO_IOVA_BAD || (iova & (qp->page_size - 1)))
		return svio_fail(EFAULT, "%s: the queues' memory is not mapped in one piece in this ioas", qp->nvme->name);
	qp->sq = (void *)dma;
	qp->sq_iova = iova;
	qp->cq = (void *)(dma + sq);
	qp->cq_end = qp->cq + qp->entries;
	qp->cq_iova = iova + sq;
	qp->lists = dma + sq + cq;
	qp->lists_iova = iova + sq + cq;
	return 0;
}

static int alloc_dma(struct svio_nvme_qp *qp)
{
	uint8_t *dma = nvme_dma_alloc(qp->nvme, nvme_qp_dma_len(qp), qp->page_size);

	return dma ? place_dma(qp, dma) : svio_fail_prefix(-ENOMEM, "%s: queue pair of %u entries", qp->nvme->name, qp->entries);
}

/* The structure between its stack of free ids and its ledger: nvme_priv.h. Not in memory that the device reaches. */
static struct svio_nvme_qp *alloc_qp(uint32_t nreq)
{
	size_t ids = SVIO_ALIGN_UP(nreq * sizeof(uint16_t), (size_t)SVIO_CACHELINE);
	size_t len = ids + sizeof(struct svio_nvme_qp) + nreq * sizeof(struct nvme_req);
	struct svio_nvme_qp *qp;
	void *block;

	if (posix_memalign(&block, SVIO_CACHELINE, len))
		return NULL;
	memset(block, 0, len);
	qp = (void *)((uint8_t *)block + ids);
	qp->block = block;
	qp->nreq = nreq;
	qp->cid_limit = nreq;
	for (uint32_t i = 0; i < nreq; i++) {
		qp->reqs[i].op = NVME_REQ_FREE;
		nvme_free_ids(qp)[-(int64_t)nreq + i] = (uint16_t)i;
	}
	qp->free_idx = -(int64_t)nreq;
	return qp;
}

static int alloc_order(struct svio_nvme_qp *qp)
{
	qp->order = calloc(qp->nreq, sizeof(*qp->order));
	return qp->order ? 0 : svio_fail(ENOMEM, "%s: out of memory for %u requests", qp->nvme->name, qp->nreq);
}

static int take_qid(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	uint64_t qid;

	pthread_mutex_lock(&nvme->lock);
	qid = svio_bitmap_next_clear(nvme->qid_used, nvme->granted + 1, 1);
	if (qid <= nvme->granted) {
		svio_bitmap_set(nvme->qid_used, qid);
		qp->qid = (uint32_t)qid;
	}
	pthread_mutex_unlock(&nvme->lock);
	if (!qp->qid)
		return svio_fail(ENOSPC, "%s: all %u I/O queue pairs are in use", nvme->name, nvme->granted);
	qp->sqid_bits = qp->qid << 16;
	return 0;
}

void nvme_qp_release(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;

	nvme_qp_irq_destroy(qp);
	if (qp->qid) {
		pthread_mutex_lock(&nvme->lock);
		svio_bitmap_clear(nvme->qid_used, qp->qid);
		pthread_mutex_unlock(&nvme->lock);
	}
	nvme_dma_free(nvme, qp->dma);
	free(qp->order);
	free(qp->block);
}

/* ---- stop: no DMA to the queue's memory any more ------------------------------------------------------ */

/* The creation that is under way, if any, comes to an end. */
static void end_creation(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	int status = 1;

	for (;;) {
		pthread_mutex_lock(&nvme->lock);
		nvme_advance(nvme, svio_now_ns());
		if (qp->slot < 0) {
			pthread_mutex_unlock(&nvme->lock);
			return;
		}
		if (nvme_admin_result(nvme, qp->slot, &status, NULL) == 0) {
			qp->slot = -1;
			/* Whether a command that timed out was carried out is unknown. */
			if (status == 0 || status == -ETIMEDOUT) {
				qp->has_cq = true;
				qp->has_sq |= qp->state == NVME_QP_SQ;
			}
		}
		pthread_mutex_unlock(&nvme->lock);
		if (qp->slot >= 0)
			nvme_nap(20000);
	}
}

/* One command, once: 0, a positive status, or -errno when a reset came between or the controller is away. */
static int command(struct svio_nvme *nvme, uint8_t opcode, uint32_t qid)
{
	struct nvme_cmd cmd = { .opcode = opcode, .cdw10 = svio_cpu_to_le32(qid) };
	int slot = -1, status = -ECANCELED, r = 1;
	uint64_t nap = 5000;

	for (;;) {
		pthread_mutex_lock(&nvme->lock);
		nvme_advance(nvme, svio_now_ns());
		if (slot < 0 && nvme_get_state(nvme) == NVME_RUNNING)
			slot = nvme_admin_submit(nvme, &cmd, NVME_SLOT_WAITED, nvme->opts.admin_timeout_ms);
		else if (slot < 0)
			r = 0;
		else
			r = nvme_admin_result(nvme, slot, &status, NULL);
		if (r && nvme_get_state(nvme) != NVME_RUNNING) { /* a reset voids the queue anyway */
			nvme_admin_abandon(nvme, slot);
			r = 0;
		}
		pthread_mutex_unlock(&nvme->lock);
		if (r == 0)
			return status;
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

static bool is_dead(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	bool dead;

	pthread_mutex_lock(&nvme->lock);
	nvme_advance(nvme, svio_now_ns());
	dead = nvme_get_state(nvme) == NVME_GONE || qp->epoch <= nvme->dead_epoch || (!qp->has_cq && !qp->has_sq);
	pthread_mutex_unlock(&nvme->lock);
	return dead;
}

/*
 * Delete the queues, submission first (1.4 §5.5, §5.6). A controller that does not do it is reset; one that cannot be reached
 * loses bus mastering, which the next initialisation gives back after it has stopped the old generation.
 */
static void stop(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	uint64_t start, limit;

	end_creation(qp);
	if (!is_dead(qp) && (!qp->has_sq || command(nvme, NVME_ADM_DELETE_SQ, qp->qid) == 0)) {
		qp->has_sq = false;
		if (command(nvme, NVME_ADM_DELETE_CQ, qp->qid) == 0)
			qp->has_cq = false;
	}
	if (is_dead(qp))
		return;
	pthread_mutex_lock(&nvme->lock);
	if (nvme_get_state(nvme) == NVME_RUNNING)
		nvme_freeze(nvme, NVME_WHY_FAULT);
	pthread_mutex_unlock(&nvme->lock);
	start = svio_now_ns();
	limit = 3 * nvme->ready_ms * NVME_MS;
	while (!is_dead(qp)) {
		uint64_t waited = svio_now_ns() - start;

		if (waited > limit || (waited > AWAY_PATIENCE && (svio_device_events(nvme->dev) &
								   (SVIO_EV_REVOKED | SVIO_EV_QUIESCE)))) {
			if (svio_device_set_master(nvme->dev, false))
				svio_log_err("%s: queue %u could not be stopped: %s", nvme->name, qp->qid,
					     svio_last_error());
			return;
		}
		nvme_nap(200000);
	}
}

void svio_nvme_qp_destroy(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme;

	if (!qp)
		return;
	nvme = qp->nvme;
	/* From here on callbacks that submit reach the ledger only, and are canceled with the rest. */
	if (qp->state == NVME_QP_LIVE)
		nvme_qp_park(qp);
	stop(qp);
	while (qp->state != NVME_QP_DEAD)
		nvme_qp_end(qp, 0, -ECANCELED);
	pthread_mutex_lock(&nvme->lock);
	nvme_qp_unlink(qp);
	pthread_mutex_unlock(&nvme->lock);
	nvme_qp_release(qp);
}

/* ---- create ----------------------------------------------------------------------------------------- */

/* Drive the same steps that a recovery takes, and join the others when the queues are there. */
static int create(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	uint64_t end = svio_now_ns() + 2 * (nvme->opts.admin_timeout_ms + nvme->ready_ms) * NVME_MS, nap = 5000;

	for (;;) {
		enum nvme_state state;
		bool live;

		pthread_mutex_lock(&nvme->lock);
		nvme_advance(nvme, svio_now_ns());
		nvme_qp_step(qp);
		live = qp->state == NVME_QP_LIVE;
		if (live) {
			nvme_qp_link(qp);
		}
		state = nvme_get_state(nvme);
		pthread_mutex_unlock(&nvme->lock);
		if (live)
			return 0;
		if (state == NVME_GONE)
			return svio_fail(ENODEV, "%s: the device is gone", nvme->name);
		if (qp->create_err)
			return nvme_admin_explain(nvme, "creating an I/O queue pair", qp->create_err);
		if (svio_now_ns() > end)
			return svio_fail(ETIMEDOUT, "%s: queue %u was not created in time%s", nvme->name, qp->qid,
					 svio_nvme_ready(nvme) ? "" : " (the device is away)");
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

static int new_qp(struct svio_nvme *nvme, const struct svio_nvme_qp_opts *o, const struct svio_nvme_info *info, uint32_t entries,
		  uint32_t nreq, struct svio_nvme_qp **qpp)
{
	struct svio_nvme_qp *qp = alloc_qp(nreq);

	*qpp = qp;
	if (!qp)
		return svio_fail(ENOMEM, "%s: out of memory for %u requests", nvme->name, nreq);
	qp->entries = entries;
	qp->mask = entries - 1;
	qp->oncs = info->oncs;
	qp->sgl = info->sgl;
	qp->nvme = nvme;
	qp->ioas = nvme->ioas;
	qp->slot = -1;
	qp->irq_fd = -1;
	qp->epoll_fd = -1;
	qp->timer_fd = -1;
	atomic_init(&qp->word, &nvme->alarm);
	choose_transfer(qp, o, info);
	qp->countdown_from = 16;
	qp->countdown = 16;
	qp->tick_ns = svio_now_ns();
	return 0;
}

int nvme_qp_adopt(struct svio_nvme *nvme, const struct nvme_qp_shape *shape, struct svio_nvme_qp **qpp)
{
	struct svio_nvme_qp_opts o = { .size = sizeof(o), .max_transfer = shape->max_transfer };
	struct svio_nvme_info info;
	struct svio_nvme_qp *qp;
	int r;

	*qpp = NULL;
	svio_nvme_get_info(nvme, &info);
	if (shape->entries < NVME_MIN_DEPTH || shape->entries > info.max_queue_depth || (shape->entries & (shape->entries - 1)) ||
	    shape->nreq == 0 || shape->nreq >= shape->entries || shape->qid == 0 || shape->qid > nvme->granted ||
	    shape->max_transfer > info.max_transfer || svio_bitmap_test(nvme->qid_used, shape->qid))
		return svio_fail(EINVAL, "%s: the state of a queue that cannot be", nvme->name);
	r = new_qp(nvme, &o, &info, shape->entries, shape->nreq, &qp);
	if (r)
		return r;
	if (!svio_migrate_allocated(nvme->opts.area, shape->dma, nvme_qp_dma_len(qp)))
		r = svio_fail(EINVAL, "%s: the state of a queue outside of its area", nvme->name);
	if (r == 0)
		r = place_dma(qp, shape->dma);
	if (r == 0)
		r = alloc_order(qp);
	if (r) {
		qp->dma = NULL;
		nvme_qp_release(qp);
		return r;
	}
	svio_bitmap_set(nvme->qid_used, shape->qid);
	qp->qid = shape->qid;
	qp->sqid_bits = qp->qid << 16;
	*qpp = qp;
	return 0;
}

int svio_nvme_qp_create(struct svio_nvme *nvme, const struct svio_nvme_qp_opts *opts, struct svio_nvme_qp **qpp)
{
	struct svio_nvme_qp_opts o = { 0 };
	struct svio_nvme_info info;
	struct svio_nvme_qp *qp;
	uint32_t entries, nreq;
	int r;

	*qpp = NULL;
	if (opts)
		memcpy(&o, opts, SVIO_MIN(opts->size, sizeof(o)));
	svio_nvme_get_info(nvme, &info);
	choose_depth(&o, &info, &entries, &nreq);
	r = new_qp(nvme, &o, &info, entries, nreq, &qp);
	if (r)
		return r;
	r = take_qid(qp);
	if (r == 0)
		r = alloc_dma(qp);
	if (r == 0)
		r = alloc_order(qp);
	if (r == 0 && o.interrupts)
		r = nvme_qp_irq_create(qp);
	if (r) {
		nvme_qp_release(qp);
		return r;
	}
	/* Not on the controller yet, and nothing in it: as if it had been parked and settled. */
	nvme_qp_park(qp);
	qp->settled = true;
	r = create(qp);
	if (r) {
		stop(qp);
		nvme_qp_release(qp);
		return r;
	}
	*qpp = qp;
	return 0;
}
