/* SPDX-License-Identifier: BSD-3-Clause */
/* What the driver knows of a controller that moves by its own state: counters, positions in rings, commands under way. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "nvme_ledger.h"

/* ---- out ---------------------------------------------------------------------------------------------- */

static int save_admin(struct svio_nvme *nvme, struct svio_migrate_buf *out)
{
	const struct nvme_admin *a = &nvme->admin;

	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)nvme->dma);
	svio_migrate_put_u32(out, nvme->page_shift);
	svio_migrate_put_u32(out, nvme->granted);
	svio_migrate_put_u32(out, nvme->use_shadow);
	svio_migrate_put_u32(out, nvme->aers);
	svio_migrate_put_u32(out, nvme->aborts_out);
	svio_migrate_put_u32(out, nvme->aer_count);
	svio_migrate_put_u32(out, a->tail);
	svio_migrate_put_u32(out, a->head);
	svio_migrate_put_u32(out, a->phase);
	for (unsigned int i = 0; i < NVME_ADMIN_SLOTS; i++) {
		const struct nvme_slot *s = &a->slots[i];

		/* Somebody waits for it: a reset or a creation is under way. */
		if (s->state != NVME_SLOT_FREE && s->kind == NVME_SLOT_WAITED)
			return svio_fail(EAGAIN, "%s: an admin command is under way", nvme->name);
		svio_migrate_put_u32(out, s->state | (uint32_t)s->kind << 8 | (uint32_t)s->opcode << 16);
	}
	return svio_migrate_put(out, &nvme->id, sizeof(nvme->id));
}

static int save_qp(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_buf *out)
{
	uint32_t n = svio_nvme_inflight(qp);
	int rc = 0;

	if (qp->state != NVME_QP_LIVE || qp->epoch != qp->nvme->epoch)
		return svio_fail(EAGAIN, "%s: queue %u is not live", qp->nvme->name, qp->qid);
	if (qp->irq_fd >= 0)
		return svio_fail(EOPNOTSUPP, "%s: queue %u has an interrupt, which does not move with the controller's state", qp->nvme->name,
				 qp->qid);
	svio_migrate_put_u32(out, qp->qid);
	svio_migrate_put_u32(out, qp->entries);
	svio_migrate_put_u32(out, qp->nreq);
	svio_migrate_put_u32(out, qp->max_transfer);
	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)qp->dma);
	svio_migrate_put_u64(out, qp->seq);
	svio_migrate_put_u64(out, qp->held);
	svio_migrate_put_u64(out, qp->rung);
	svio_migrate_put_u32(out, (uint32_t)(qp->cqe - qp->cq));
	svio_migrate_put_u32(out, qp->stale);
	svio_migrate_put_u32(out, qp->cq_rung);
	svio_migrate_put_u32(out, n);
	for (uint32_t cid = 0; cid < qp->nreq && rc == 0; cid++)
		if (qp->reqs[cid].op != NVME_REQ_FREE) {
			svio_migrate_put_u64(out, qp->reqs[cid].seq);
			rc = nvme_ledger_save(qp, cid, move, out);
		}
	return rc;
}

int svio_nvme_state_save(struct svio_nvme *nvme, struct svio_nvme_qp *const *qps, uint32_t count, const struct svio_nvme_move *move,
			 struct svio_migrate_buf *out)
{
	uint32_t all = 0;
	int rc;

	if (!nvme->opts.area)
		return svio_fail(EINVAL, "%s: its queues lie in no area (opts.area)", nvme->name);
	pthread_mutex_lock(&nvme->lock);
	for (const struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
		all++;
	if (nvme_get_state(nvme) != NVME_RUNNING || nvme->step != NVME_STEP_NONE)
		rc = svio_fail(EAGAIN, "%s: is being reset", nvme->name);
	else if (all != count)
		rc = svio_fail(EINVAL, "%s: has %u queue pairs, and %u are to move", nvme->name, all, count);
	else
		rc = save_admin(nvme, out);
	svio_migrate_put_u32(out, count);
	for (uint32_t i = 0; i < count && rc == 0; i++)
		rc = save_qp(qps[i], move, out);
	pthread_mutex_unlock(&nvme->lock);
	return rc;
}

/* ---- in ------------------------------------------------------------------------------------------------- */

static int load_admin(struct svio_nvme *nvme, struct svio_migrate_in *in)
{
	struct nvme_admin *a = &nvme->admin;
	void *dma = (void *)(uintptr_t)svio_migrate_get_u64(in);
	const void *id;

	if (svio_migrate_get_u32(in) != nvme->page_shift)
		return svio_fail(EINVAL, "%s: has pages of another size than the source's controller", nvme->name);
	nvme->granted = svio_migrate_get_u32(in);
	nvme->use_shadow = svio_migrate_get_u32(in) & 1;
	nvme->aers = svio_migrate_get_u32(in);
	nvme->aborts_out = svio_migrate_get_u32(in);
	nvme->aer_count = svio_migrate_get_u32(in);
	a->tail = svio_migrate_get_u32(in);
	a->head = svio_migrate_get_u32(in);
	a->phase = svio_migrate_get_u32(in);
	for (unsigned int i = 0; i < NVME_ADMIN_SLOTS; i++) {
		uint32_t what = svio_migrate_get_u32(in);
		struct nvme_slot *s = &a->slots[i];

		*s = (struct nvme_slot){ .state = (uint8_t)what, .kind = (uint8_t)(what >> 8), .opcode = (uint8_t)(what >> 16) };
		if (s->state > NVME_SLOT_BUSY || s->kind == NVME_SLOT_WAITED ? s->state != NVME_SLOT_FREE : s->kind > NVME_SLOT_ABORT)
			return svio_fail(EINVAL, "%s: a state of the admin queue that cannot be", nvme->name);
		a->busy += s->state == NVME_SLOT_BUSY;
		s->deadline = s->kind == NVME_SLOT_AER ? UINT64_MAX : svio_now_ns() + nvme->opts.admin_timeout_ms * NVME_MS;
	}
	id = svio_migrate_get(in, sizeof(nvme->id));
	if (!id || a->tail >= NVME_ADMIN_ENTRIES || a->head >= NVME_ADMIN_ENTRIES || a->phase > 1 || nvme->granted == 0 ||
	    nvme->granted > nvme->reg_max_qid || nvme->aers > NVME_ADMIN_SLOTS || nvme->aborts_out > NVME_ADMIN_SLOTS)
		return svio_fail(EINVAL, "%s: a state of the admin queue that cannot be", nvme->name);
	if (!svio_migrate_allocated(nvme->opts.area, dma, (uint64_t)NVME_PAGES << nvme->page_shift))
		return svio_fail(EINVAL, "%s: admin queues outside of their area", nvme->name);
	memcpy(&nvme->id, id, sizeof(nvme->id));
	nvme->identified = true;
	nvme->sgl = !nvme->opts.no_sgl && (svio_le32_to_cpu(nvme->id.sgls) & 3);
	return nvme_place_dma(nvme, dma);
}

static int load_ledger(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_in *in)
{
	struct nvme_ledger_from from = { .nreq = qp->nreq, .max_transfer = qp->max_transfer, .page_size = qp->page_size,
					 .list_shift = qp->list_shift, .lists_iova = qp->lists_iova };
	uint32_t n = svio_migrate_get_u32(in);
	uint64_t seq = qp->seq;
	int rc = n > qp->nreq ? -EINVAL : 0;

	while (n-- && rc == 0) {
		uint64_t s = svio_migrate_get_u64(in);
		uint32_t cid = 0;

		/* The record begins with the id. */
		if (in->left >= 4) {
			memcpy(&cid, in->at, sizeof(cid));
			cid = le32toh(cid);
		}
		rc = s >= seq ? -EINVAL : nvme_ledger_load(qp, &from, move, in);
		if (rc == 0)
			qp->reqs[cid].seq = s;
	}
	qp->seq = seq;
	nvme_count_free(qp);
	return rc == -EINVAL ? svio_fail(EINVAL, "%s: a ledger that cannot be", qp->nvme->name) : rc;
}

static int load_qp(struct svio_nvme *nvme, const struct svio_nvme_move *move, struct svio_migrate_in *in, struct svio_nvme_qp **qpp)
{
	struct nvme_qp_shape shape;
	struct svio_nvme_qp *qp;
	uint32_t at;
	int rc;

	shape.qid = svio_migrate_get_u32(in);
	shape.entries = svio_migrate_get_u32(in);
	shape.nreq = svio_migrate_get_u32(in);
	shape.max_transfer = svio_migrate_get_u32(in);
	shape.dma = (void *)(uintptr_t)svio_migrate_get_u64(in);
	rc = in->bad ? svio_fail(EINVAL, "%s: the state of a queue that is not whole", nvme->name) : nvme_qp_adopt(nvme, &shape, &qp);
	if (rc)
		return rc;
	*qpp = qp;
	qp->seq = svio_migrate_get_u64(in);
	qp->held = svio_migrate_get_u64(in);
	qp->rung = svio_migrate_get_u64(in);
	at = svio_migrate_get_u32(in);
	qp->stale = svio_migrate_get_u32(in) & 1;
	qp->cq_rung = svio_migrate_get_u32(in);
	if (in->bad || at >= qp->entries || qp->cq_rung >= qp->entries || qp->rung > qp->seq)
		return svio_fail(EINVAL, "%s: positions in queue %u that cannot be", nvme->name, qp->qid);
	qp->cqe = qp->cq + at;
	rc = load_ledger(qp, move, in);
	if (rc)
		return rc;
	nvme_connect_doorbells(qp);
	qp->has_cq = true;
	qp->has_sq = true;
	qp->epoch = nvme->epoch;
	qp->settled = true;
	qp->state = NVME_QP_LIVE;
	nvme_qp_link(qp);
	atomic_store_explicit(&qp->word, nvme_device_word(nvme), memory_order_release);
	return 0;
}

int svio_nvme_state_load(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts,
			 const struct svio_nvme_move *move, struct svio_migrate_in *in, struct svio_nvme **nvmep,
			 struct svio_nvme_qp **qps, uint32_t count)
{
	struct svio_nvme *nvme;
	int rc;

	*nvmep = NULL;
	memset(qps, 0, count * sizeof(*qps));
	if (!opts || !opts->area)
		return svio_fail(EINVAL, "%s: opts.area is where the state lies", svio_device_name(dev));
	rc = nvme_begin(dev, ioas, opts, &nvme);
	if (rc)
		return rc;
	/* Nobody else knows of it yet: no lock. */
	nvme->epoch = 1;
	nvme->step = NVME_STEP_NONE;
	rc = load_admin(nvme, in);
	if (rc == 0 && svio_migrate_get_u32(in) != count)
		rc = svio_fail(EINVAL, "%s: the state of another number of queues", nvme->name);
	for (uint32_t i = 0; i < count && rc == 0; i++)
		rc = load_qp(nvme, move, in, &qps[i]);
	/* The state has it on; whoever restores the function after a reset must know. */
	if (rc == 0)
		rc = svio_device_set_master(dev, true);
	if (rc) {
		for (uint32_t i = 0; i < count; i++) {
			if (qps[i] && qps[i]->in_list)
				nvme_qp_unlink(qps[i]);
			if (qps[i])
				nvme_qp_release(qps[i]);
			qps[i] = NULL;
		}
		nvme_teardown(nvme, true);
		return rc;
	}
	nvme->admin.live = true;
	nvme->opened = true;
	atomic_store_explicit(&nvme->state, NVME_RUNNING, memory_order_release);
	nvme_hook(nvme);
	*nvmep = nvme;
	return 0;
}
