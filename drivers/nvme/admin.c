/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The admin queue: one for all threads, under the controller's lock. A command occupies a slot,
 * whose number is its command id; nobody waits while holding the lock. Asynchronous events (1.4
 * §5.2) are kept outstanding here, and served.
 */
#include <string.h>
#include "nvme_priv.h"

#define AER_LOG_LIMIT 16u /* a device that floods us with events shall not flood the log */

/* Zero and program both queues. The controller is stopped. */
void nvme_admin_start(struct svio_nvme *nvme)
{
	struct nvme_admin *a = &nvme->admin;

	memset(a->sq, 0, NVME_ADMIN_ENTRIES * sizeof(*a->sq));
	memset(a->cq, 0, NVME_ADMIN_ENTRIES * sizeof(*a->cq));
	a->tail = 0;
	a->head = 0;
	a->phase = 1;
	nvme_write32(nvme, NVME_REG_AQA, NVME_AQA(NVME_ADMIN_ENTRIES, NVME_ADMIN_ENTRIES));
	nvme_write64(nvme, NVME_REG_ASQ, a->sq_iova);
	nvme_write64(nvme, NVME_REG_ACQ, a->cq_iova);
}

static void slot_free(struct nvme_admin *a, struct nvme_slot *slot)
{
	slot->state = NVME_SLOT_FREE;
	a->busy--;
}

/* Nothing under way will complete any more. Waiters learn -ECANCELED. */
void nvme_admin_stop(struct svio_nvme *nvme)
{
	struct nvme_admin *a = &nvme->admin;

	a->live = false;
	for (unsigned int i = 0; i < NVME_ADMIN_SLOTS; i++) {
		struct nvme_slot *slot = &a->slots[i];

		if (slot->state != NVME_SLOT_BUSY)
			continue;
		if (slot->kind == NVME_SLOT_WAITED) {
			slot->state = NVME_SLOT_DONE;
			slot->err = -ECANCELED;
		} else {
			slot_free(a, slot);
		}
	}
	nvme->aers = 0;
	nvme->aborts_out = 0;
}

/* Its waiter has lost interest. */
void nvme_admin_abandon(struct svio_nvme *nvme, int slot)
{
	struct nvme_admin *a = &nvme->admin;

	if (slot < 0)
		return;
	if (a->slots[slot].state == NVME_SLOT_DONE)
		slot_free(a, &a->slots[slot]);
	else if (a->slots[slot].state == NVME_SLOT_BUSY)
		a->slots[slot].kind = NVME_SLOT_ORPHAN;
}

static void admin_doorbell(struct svio_nvme *nvme, unsigned int which, uint32_t value)
{
	if (nvme->use_shadow) {
		/* 1.4 §5.7: the shadow is kept for the admin queue too, beside the doorbell */
		volatile uint8_t *shadow = nvme_page(nvme, NVME_PAGE_SHADOW);

		svio_mmio_write32(shadow + ((uint64_t)which << (2 + nvme->dstrd)), value);
		nvme_full_fence();
	}
	nvme_doorbell(nvme, which, value);
}

/* The slot, or -EAGAIN when there is none free or the queue does not run. */
int nvme_admin_submit(struct svio_nvme *nvme, struct nvme_cmd *cmd, enum nvme_slot_kind kind,
		      uint32_t timeout_ms)
{
	struct nvme_admin *a = &nvme->admin;
	struct nvme_slot *slot;
	int i;

	if (!a->live)
		return -EAGAIN;
	for (i = 0; i < (int)NVME_ADMIN_SLOTS; i++)
		if (a->slots[i].state == NVME_SLOT_FREE)
			break;
	if (i == (int)NVME_ADMIN_SLOTS)
		return -EAGAIN;
	slot = &a->slots[i];
	*slot = (struct nvme_slot){
		.state = NVME_SLOT_BUSY,
		.kind = (uint8_t)kind,
		.opcode = cmd->opcode,
		.deadline = timeout_ms ? svio_now_ns() + timeout_ms * NVME_MS : UINT64_MAX,
	};
	a->busy++;
	cmd->cid = svio_cpu_to_le16(i);
	/*
	 * At most NVME_ADMIN_SLOTS are under way, one less than the ring holds: it cannot overflow.
	 */
	a->sq[a->tail] = *cmd;
	a->tail = (a->tail + 1) % NVME_ADMIN_ENTRIES;
	svio_dma_wmb();
	admin_doorbell(nvme, 0, a->tail);
	return i;
}

int nvme_admin_result(struct svio_nvme *nvme, int slot, int *status, uint32_t *dw0)
{
	struct nvme_admin *a = &nvme->admin;
	struct nvme_slot *s = &a->slots[slot];

	if (s->state == NVME_SLOT_BUSY)
		return 1;
	*status = s->err ? s->err : s->status;
	if (dw0)
		*dw0 = s->dw0;
	slot_free(a, s);
	return 0;
}

static int aer_submit(struct svio_nvme *nvme)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_ASYNC_EVENT };
	int slot = nvme_admin_submit(nvme, &cmd, NVME_SLOT_AER, 0);

	if (slot >= 0)
		nvme->aers++;
	return slot;
}

/* Choose what we want to be told, and ask for it. */
void nvme_aer_start(struct svio_nvme *nvme)
{
	uint32_t want = SVIO_MIN((uint32_t)nvme->id.aerl + 1, NVME_MAX_AERS);
	uint32_t oaes = svio_le32_to_cpu(nvme->id.oaes);
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_SET_FEATURES,
		.cdw10 = svio_cpu_to_le32(NVME_FEAT_ASYNC_EVENT),
		.cdw11 = svio_cpu_to_le32(0x1fu |
					  (oaes & (NVME_OAES_NS_ATTR | NVME_OAES_FW_ACTIVE))),
	};

	/* A controller that refuses still sends its mandatory events. */
	nvme_admin_submit(nvme, &cmd, NVME_SLOT_ORPHAN, nvme->opts.admin_timeout_ms);
	while (nvme->aers < want)
		if (aer_submit(nvme) < 0)
			break;
}

static void aer_event(struct svio_nvme *nvme, uint32_t dw0)
{
	static const char *const types[8] = { "error",	  "health",   "notice",		 "reserved",
					      "reserved", "reserved", "I/O command set", "vendor" };
	uint32_t log = NVME_AER_LOG(dw0), bytes;
	struct nvme_cmd cmd = { .opcode = NVME_ADM_GET_LOG_PAGE };
	/*
	 * A queue pair that has not heard of the reset yet rang the doorbell of its former queue:
	 * recover.c.
	 */
	bool expected = nvme->epoch > 1 && NVME_AER_TYPE(dw0) == NVME_AER_ERROR &&
			NVME_AER_INFO(dw0) == NVME_AER_BAD_DOORBELL;

	if (expected)
		svio_log_debug("%s: a doorbell was rung over the reset", nvme->name);
	else if (nvme->aer_count++ < AER_LOG_LIMIT)
		svio_log_warn("%s: asynchronous event: %s, information 0x%02x, log page 0x%02x",
			      nvme->name, types[NVME_AER_TYPE(dw0)], NVME_AER_INFO(dw0), log);
	/*
	 * Reading its log page clears the event (1.4 §5.2); only then is the next of that type
	 * sent.
	 */
	bytes = log == NVME_LOG_ERROR ? 64 : log == NVME_LOG_CHANGED_NS ? 4096 : 512;
	cmd.nsid = svio_cpu_to_le32(NVME_NSID_ALL);
	cmd.prp1 = svio_cpu_to_le64(nvme_page_iova(nvme, NVME_PAGE_LOG));
	cmd.cdw10 = svio_cpu_to_le32(NVME_LOG_CDW10(log, bytes));
	if (nvme_admin_submit(nvme, &cmd, NVME_SLOT_AER_LOG, nvme->opts.admin_timeout_ms) < 0)
		aer_submit(nvme);
}

static void slot_done(struct svio_nvme *nvme, struct nvme_slot *slot)
{
	struct nvme_admin *a = &nvme->admin;
	enum nvme_slot_kind kind = slot->kind;
	uint32_t dw0 = slot->dw0;
	uint16_t status = slot->status;

	if (kind == NVME_SLOT_WAITED) {
		slot->state = NVME_SLOT_DONE;
		return;
	}
	slot_free(a, slot);
	switch (kind) {
	case NVME_SLOT_AER:
		nvme->aers--;
		if (status == 0)
			aer_event(nvme, dw0);
		/* else: over the controller's limit (1.4 §5.2): it takes fewer than it said */
		break;
	case NVME_SLOT_AER_LOG:
		aer_submit(nvme);
		break;
	case NVME_SLOT_ABORT:
		nvme->aborts_out--;
		break;
	default:
		break;
	}
}

/* Take what has completed; find what is overdue. Bounded by one round of the queue. */
void nvme_admin_poll(struct svio_nvme *nvme, uint64_t now)
{
	struct nvme_admin *a = &nvme->admin;
	uint32_t n = 0;

	while (a->live && n < NVME_ADMIN_ENTRIES) {
		const volatile struct nvme_cqe *cqe = &a->cq[a->head];
		uint32_t status = svio_le16_to_cpu(cqe->status), cid;
		struct nvme_slot *slot;

		if ((status & NVME_CQE_PHASE) != a->phase)
			break;
		svio_dma_rmb();
		cid = svio_le16_to_cpu(cqe->cid);
		if (cid >= NVME_ADMIN_SLOTS || a->slots[cid].state != NVME_SLOT_BUSY ||
		    svio_le16_to_cpu(cqe->sqid) != 0) {
			nvme_fault(
				nvme, EPROTO,
				"admin completion of command %u of queue %u, which is not under way",
				cid, svio_le16_to_cpu(cqe->sqid));
			return;
		}
		slot = &a->slots[cid];
		slot->dw0 = svio_le32_to_cpu(cqe->dw0);
		slot->status = (uint16_t)NVME_STATUS_CODE(status);
		if (++a->head == NVME_ADMIN_ENTRIES) {
			a->head = 0;
			a->phase ^= 1;
		}
		n++;
		slot_done(nvme, slot);
	}
	if (n && a->live)
		admin_doorbell(nvme, 1, a->head);
	if (!a->live || !a->busy)
		return;
	for (unsigned int i = 0; i < NVME_ADMIN_SLOTS; i++) {
		struct nvme_slot *slot = &a->slots[i];

		if (slot->state != NVME_SLOT_BUSY || now < slot->deadline)
			continue;
		if (slot->kind == NVME_SLOT_WAITED) {
			/*
			 * Its id is not used again before the controller was stopped: freeze ends
			 * submissions.
			 */
			slot->state = NVME_SLOT_DONE;
			slot->err = -ETIMEDOUT;
		}
		nvme_fault(nvme, ETIMEDOUT, "admin command 0x%02x was not answered", slot->opcode);
		return;
	}
}

/*
 * Run one command that may be repeated, such as Identify, and wait for it, over resets. 0, a
 * positive NVMe status, or -errno (explained). Not with the lock held.
 */
int nvme_admin_sync(struct svio_nvme *nvme, struct nvme_cmd *cmd, uint32_t *dw0)
{
	uint64_t now = svio_now_ns(), end = now + nvme->opts.admin_timeout_ms * NVME_MS,
		 nap = 20000;
	int slot = -1, status = 0, r = 1;

	for (;;) {
		pthread_mutex_lock(&nvme->lock);
		now = svio_now_ns();
		nvme_advance(nvme, now);
		if (slot >= 0) {
			r = nvme_admin_result(nvme, slot, &status, dw0);
			if (r == 0) {
				slot = -1;
				if (status == -ECANCELED) /* a reset came between */
					r = 1;
			}
		}
		if (r && slot < 0 && nvme_get_state(nvme) == NVME_RUNNING)
			slot = nvme_admin_submit(nvme, cmd, NVME_SLOT_WAITED,
						 nvme->opts.admin_timeout_ms);
		if (r && nvme_get_state(nvme) == NVME_GONE) {
			nvme_admin_abandon(nvme, slot);
			pthread_mutex_unlock(&nvme->lock);
			return svio_fail(ENODEV, "%s: the device is gone", nvme->name);
		}
		if (r && now > end) {
			nvme_admin_abandon(nvme, slot);
			pthread_mutex_unlock(&nvme->lock);
			return svio_fail(ETIMEDOUT,
					 "%s: no answer to admin command 0x%02x in %u ms%s",
					 nvme->name, cmd->opcode, nvme->opts.admin_timeout_ms,
					 svio_nvme_ready(nvme) ? "" : " (the device is away)");
		}
		pthread_mutex_unlock(&nvme->lock);
		if (r == 0)
			return status;
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

int nvme_admin_explain(struct svio_nvme *nvme, const char *what, int status)
{
	if (status <= 0)
		return status;
	return svio_fail(EIO, "%s: %s failed: %s (status 0x%03x)", nvme->name, what,
			 svio_nvme_status_text(status), (unsigned int)status);
}
