/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NVMe 1.4 controller as a model for the device kit: description, registers, doorbells, interrupts, reset and saved state.
 * Section numbers are those of NVM Express Base Specification 1.4.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include "nvme_model.h"
#include "nvme_model_copy.h"
#include "svio_nvme_model.h"

/* ---- doorbells --------------------------------------------------------------------------------------- */

static size_t db_offset(uint32_t qid, bool cq)
{
	return (size_t)(2 * qid + cq) << (2 + NM_DSTRD);
}

/* Where each queue's doorbells are: in the BAR, or in the host's memory after Doorbell Buffer Config (never for the admin queue). */
void svio__nm_doorbells_rebind(struct nm *m)
{
	m->shadow = m->eventidx = NULL;
	if (m->dbbuf) {
		m->shadow = svio_vdev_dma_ptr(m->dev, m->shadow_iova, NM_PAGE, SVIO_VDEV_READ);
		m->eventidx = svio_vdev_dma_ptr(m->dev, m->eventidx_iova, NM_PAGE, SVIO_VDEV_WRITE);
		if (!m->shadow || !m->eventidx)
			m->shadow = m->eventidx = NULL;
	}
	for (uint32_t q = 0; q <= m->queues; q++) {
		uint8_t *base = q && m->shadow ? m->shadow : m->doorbells;

		m->sq[q].tail_db = (const uint32_t *)(void *)(base + db_offset(q, false));
		m->cq[q].head_db = (const uint32_t *)(void *)(base + db_offset(q, true));
		m->sq[q].eventidx = q && m->eventidx ? (uint32_t *)(void *)(m->eventidx + db_offset(q, false)) : NULL;
		m->cq[q].eventidx = q && m->eventidx ? (uint32_t *)(void *)(m->eventidx + db_offset(q, true)) : NULL;
	}
}

/*
 * The host's head, and a ring of the doorbell when it moves on. In its memory (§5.7) it would move unseen while the server sleeps, and also
 * on QEMU with INTx, which takes an access to the BAR for the end of the interrupt and keeps its pin up until one comes.
 */
static uint32_t head_told(const struct nm *m, struct nm_cq *cq)
{
	uint32_t head = nm_db_load(cq->head_db);

	if (cq->eventidx && (m->sleeps || svio_vdev_irq_mode(m->dev) == SVIO_VDEV_IRQ_INTX)) {
		__atomic_store_n(cq->eventidx, htole32(head), __ATOMIC_SEQ_CST);
		svio_vdev_dma_mark(m->dev, m->eventidx_iova, NM_PAGE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		head = nm_db_load(cq->head_db); /* the host may have looked just before */
	}
	return head;
}

bool svio__nm_cq_room_slow(struct nm *m, struct nm_cq *cq)
{
	uint32_t head = head_told(m, cq);

	if (head >= cq->size) {
		svio__nm_event(m, NVME_AER_ERROR, NVME_AER_BAD_DOORBELL_VALUE, NVME_LOG_ERROR);
		return false;
	}
	cq->head = head;
	return (cq->tail + 1 == cq->size ? 0 : cq->tail + 1) != head;
}

/* ---- interrupts and events ---------------------------------------------------------------------------- */

/* The pin is up while a queue with interrupts has completions that the host has not taken (§7.5.1). */
static void intx_update(struct nm *m)
{
	bool level = false, moved = false;

	if (svio_vdev_irq_mode(m->dev) == SVIO_VDEV_IRQ_INTX && m->csts & NVME_CSTS_RDY && !(m->intmask & 1)) {
		for (uint32_t q = 0; q <= m->queues; q++) {
			struct nm_cq *cq = &m->cq[q];
			uint32_t head;

			if (!cq->used || !cq->ien)
				continue;
			head = head_told(m, cq);
			level |= head != cq->tail;
			moved |= head != cq->intx_head;
			cq->intx_head = head;
		}
	}
	/* It goes on, with completions that the host has not been told of: the pin says so. */
	if (level && m->intx && moved) {
		svio_vdev_intx_set(m->dev, false);
		svio_vdev_intx_set(m->dev, true);
	}
	if (level != m->intx) {
		m->intx = level;
		svio_vdev_intx_set(m->dev, level);
	}
}

void svio__nm_cq_publish(struct nm *m, struct nm_cq *cq)
{
	if (svio_likely(!cq->ien))
		return;
	if (svio_vdev_irq_mode(m->dev) == SVIO_VDEV_IRQ_INTX)
		intx_update(m);
	else if (svio_vdev_irq_mode(m->dev) != SVIO_VDEV_IRQ_MSI || !(m->intmask >> (cq->vector & 31) & 1))
		svio_vdev_irq_raise(m->dev, cq->vector);
}

void svio__nm_event(struct nm *m, uint8_t type, uint8_t info, uint8_t log)
{
	uint32_t dw0 = NVME_AER_MAKE(type, info, log);
	struct nm_req *r;

	if (!m->naer) {
		m->pending_event = dw0;
		return;
	}
	r = m->aer[--m->naer];
	r->dw0 = dw0;
	svio__nm_req_complete(m, r, 0);
}

/* ---- controller state ------------------------------------------------------------------------------------ */

void svio__nm_sq_stop(struct nm *m, struct nm_sq *sq, uint16_t status)
{
	for (uint32_t i = 0; i < NM_REQS; i++) {
		struct nm_req *r = &m->req[i];

		if (r->step == NM_FREE || r->sq != sq)
			continue;
		if (r->dma_busy) {
			svio_vdev_dma_cancel(m->dev, &r->dma);
			r->dma_busy = false;
		}
		if (r->step == NM_CQE) /* its completion was on the way: it is lost with the memory that it was for */
			svio__nm_req_drop(m, r);
		else
			svio__nm_req_complete(m, r, status);
	}
}

/* CC.EN from 1 to 0, or a reset of the function: queues and features go, the admin queue's registers stay (§7.3.2). */
static void ctrl_clear(struct nm *m, bool all)
{
	for (uint32_t i = 0; i < NM_REQS; i++)
		svio__nm_req_drop(m, &m->req[i]);
	m->naer = 0;
	m->pending_event = 0;
	m->parked = false;
	m->nactive = 0;
	for (uint32_t q = 0; q <= m->queues; q++) {
		m->sq[q] = (struct nm_sq){ 0 };
		m->cq[q] = (struct nm_cq){ 0 };
	}
	m->dbbuf = false;
	svio__nm_doorbells_rebind(m);
	m->granted_sq = m->granted_cq = m->queues;
	m->feat_aec = 0;
	memset(m->feat_misc, 0, sizeof(m->feat_misc));
	m->feat_misc[NVME_FEAT_WRITE_CACHE] = m->volatile_cache;
	m->feat_misc[NVME_FEAT_TEMPERATURE] = 343;
	m->cc = 0;
	m->csts = 0;
	m->shutdown_ticket = 0;
	m->intmask = 0;
	if (all) {
		m->aqa = 0;
		m->asq = m->acq = 0;
	}
	intx_update(m);
}

static void ctrl_reset(struct nm *m, bool all)
{
	memset(m->doorbells, 0, m->db_bytes);
	ctrl_clear(m, all);
}

static void ctrl_enable(struct nm *m)
{
	uint32_t sqs = NVME_AQA_ASQS(m->aqa) + 1, cqs = NVME_AQA_ACQS(m->aqa) + 1;

	if (sqs < 2 || cqs < 2 || m->asq & (NM_PAGE - 1) || m->acq & (NM_PAGE - 1) ||
	    m->cc & (NVME_CC_CSS_MASK | NVME_CC_MPS_MASK | NVME_CC_AMS_MASK)) {
		m->csts |= NVME_CSTS_CFS; /* settings that CAP does not offer (§3.1.6) */
		return;
	}
	m->cq[0] = (struct nm_cq){ .size = cqs, .phase = NVME_CQE_PHASE, .ien = true, .used = true, .iova = m->acq };
	m->sq[0] = (struct nm_sq){ .cq = &m->cq[0], .size = sqs, .used = true, .iova = m->asq };
	svio__nm_doorbells_rebind(m);
	m->csts |= NVME_CSTS_RDY;
}

/* Shutdown notification: complete when the files are flushed (§3.1.6). The host asks until it is. */
static void shutdown_look(struct nm *m)
{
	if (!m->shutdown_ticket)
		return;
	svio__nm_sync_look(m);
	if (m->synced < m->shutdown_ticket)
		return;
	m->shutdown_ticket = 0;
	m->csts = (m->csts & ~NVME_CSTS_SHST_MASK) | NVME_CSTS_SHST_DONE;
}

static void write_cc(struct nm *m, uint32_t v)
{
	uint32_t old = m->cc;

	m->cc = v;
	if ((v ^ old) & NVME_CC_EN) {
		if (v & NVME_CC_EN)
			ctrl_enable(m);
		else
			ctrl_reset(m, false);
	}
	if (v & NVME_CC_SHN_MASK && !(old & NVME_CC_SHN_MASK)) {
		svio__nm_sync_ask(m, UINT32_MAX, &m->shutdown_ticket);
		m->csts = (m->csts & ~NVME_CSTS_SHST_MASK) | (m->shutdown_ticket ? NVME_CSTS_SHST_BUSY : NVME_CSTS_SHST_DONE);
	}
}

/* ---- registers (§3.1) ------------------------------------------------------------------------------------ */

static uint64_t cap(const struct nm *m)
{
	return (uint64_t)(m->entries - 1) << NVME_CAP_MQES_SHIFT | NVME_CAP_CQR_BIT |
	       UINT64_C(20) << NVME_CAP_TO_SHIFT | (uint64_t)NM_DSTRD << NVME_CAP_DSTRD_SHIFT |
	       (uint64_t)NVME_CAP_CSS_NVM << NVME_CAP_CSS_SHIFT;
}

static uint32_t read32(const struct nm *m, uint64_t off)
{
	switch (off) {
	case NVME_REG_CAP:
		return (uint32_t)cap(m);
	case NVME_REG_CAP + 4:
		return (uint32_t)(cap(m) >> 32);
	case NVME_REG_VS:
		return NVME_VS(1, 4, 0);
	case NVME_REG_INTMS:
	case NVME_REG_INTMC:
		return m->intmask;
	case NVME_REG_CC:
		return m->cc;
	case NVME_REG_CSTS:
		return m->csts;
	case NVME_REG_AQA:
		return m->aqa;
	case NVME_REG_ASQ:
		return (uint32_t)m->asq;
	case NVME_REG_ASQ + 4:
		return (uint32_t)(m->asq >> 32);
	case NVME_REG_ACQ:
		return (uint32_t)m->acq;
	case NVME_REG_ACQ + 4:
		return (uint32_t)(m->acq >> 32);
	default:
		return 0; /* reserved, or optional and absent: CMB, boot partitions, PMR, subsystem reset */
	}
}

static void write32(struct nm *m, uint64_t off, uint32_t v)
{
	switch (off) {
	case NVME_REG_INTMS:
		m->intmask |= v;
		intx_update(m);
		break;
	case NVME_REG_INTMC:
		m->intmask &= ~v;
		intx_update(m);
		break;
	case NVME_REG_CC:
		write_cc(m, v);
		break;
	case NVME_REG_AQA:
		m->aqa = v & 0x0fff0fffu;
		break;
	case NVME_REG_ASQ:
		m->asq = (m->asq & ~UINT64_C(0xffffffff)) | (v & ~(NM_PAGE - 1));
		break;
	case NVME_REG_ASQ + 4:
		m->asq = (m->asq & 0xffffffff) | (uint64_t)v << 32;
		break;
	case NVME_REG_ACQ:
		m->acq = (m->acq & ~UINT64_C(0xffffffff)) | (v & ~(NM_PAGE - 1));
		break;
	case NVME_REG_ACQ + 4:
		m->acq = (m->acq & 0xffffffff) | (uint64_t)v << 32;
		break;
	default:
		break; /* read-only and reserved */
	}
}

static int reg_read(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t *value)
{
	struct nm *m = svio_vdev_priv(dev);
	uint64_t word;

	shutdown_look(m);
	if (bar != 0 || off >= NVME_REG_DBS) {
		*value = 0;
		return 0;
	}
	if (width == 8) {
		*value = read32(m, off) | (uint64_t)read32(m, off + 4) << 32;
		return 0;
	}
	word = read32(m, off & ~UINT64_C(3));
	*value = word >> (off & 3) * 8 & (width == 4 ? UINT32_MAX : width == 2 ? 0xffff : 0xff);
	return 0;
}

static int reg_write(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t value)
{
	struct nm *m = svio_vdev_priv(dev);

	if (bar != 0 || off >= NVME_REG_DBS || width < 4)
		return 0; /* narrower stores are not defined (§3.1) */
	write32(m, off, (uint32_t)value);
	if (width == 8)
		write32(m, off + 4, (uint32_t)(value >> 32));
	return 0;
}

/* ---- the kit's calls ---------------------------------------------------------------------------------------- */

static unsigned int model_poll(struct svio_vdev *dev)
{
	struct nm *m = svio_vdev_priv(dev);
	unsigned int n = 0;

	if (svio_unlikely((m->csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) != NVME_CSTS_RDY || m->no_master))
		return 0;
	if (svio_likely(!m->stopping)) {
		/* A command may add and remove queues; the list is looked at again each time. */
		for (uint32_t i = 0; i < m->nactive; i++)
			n += svio__nm_sq_poll(m, &m->sq[m->active[i]]);
		n += svio__nm_sq_poll(m, &m->sq[0]);
	}
	if (svio_unlikely(m->parked))
		n += svio__nm_reqs_poll(m);
	if (svio_unlikely(m->intx))
		intx_update(m);
	return n;
}

static void model_reset(struct svio_vdev *dev, enum svio_vdev_reset why)
{
	struct nm *m = svio_vdev_priv(dev);

	(void)why;
	ctrl_reset(m, true);
	m->no_master = !svio_vdev_bus_master(dev);
	m->stopping = false; /* a reset leads out of a migration's stop too, without resume() */
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a <= b + (b_len - 1) && b <= a + (a_len - 1);
}

/* Pointers that are kept from poll to poll. */
static void forget_rings(struct nm *m)
{
	for (uint32_t q = 0; q <= m->queues; q++) {
		m->sq[q].ring = NULL;
		m->cq[q].ring = NULL;
	}
}

static int model_quiesce(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len)
{
	struct nm *m = svio_vdev_priv(dev);

	if (why == SVIO_VDEV_Q_STOP) {
		m->stopping = true;
		shutdown_look(m);
		if (m->shutdown_ticket)
			return -EAGAIN;
	}
	if (why == SVIO_VDEV_Q_RESET || why == SVIO_VDEV_Q_DISCONNECT) {
		for (uint32_t i = 0; i < NM_REQS; i++)
			svio__nm_req_drop(m, &m->req[i]);
		m->naer = 0;
		m->parked = false;
	}
	for (uint32_t i = 0; i < NM_REQS; i++) {
		const struct nm_req *r = &m->req[i];

		if (r->dma_busy && (why == SVIO_VDEV_Q_STOP || overlaps(r->dma.iova, r->dma.len, iova, len)))
			return -EAGAIN;
		/* Held commands (events, injected drops) stay; the others end by themselves. */
		if (why == SVIO_VDEV_Q_STOP && r->step != NM_FREE && r->step != NM_HELD)
			return -EAGAIN;
	}
	forget_rings(m);
	if (m->dbbuf && why != SVIO_VDEV_Q_STOP &&
	    (overlaps(m->shadow_iova, NM_PAGE, iova, len) || overlaps(m->eventidx_iova, NM_PAGE, iova, len))) {
		/* The doorbells move back into the BAR, with the values that the buffers had. */
		if (m->shadow && why == SVIO_VDEV_Q_UNMAP)
			memcpy(m->doorbells + db_offset(1, false), m->shadow + db_offset(1, false),
			       m->db_bytes - db_offset(1, false));
		m->dbbuf = false;
		svio__nm_doorbells_rebind(m);
	}
	return 0;
}

/* The rings are plain memory to us, kept from poll to poll: without bus mastering they must not be used (PCIe 5.0 §7.5.1.1.3). */
static void model_config_written(struct svio_vdev *dev, uint32_t off, uint32_t len)
{
	struct nm *m = svio_vdev_priv(dev);
	bool off_now = !svio_vdev_bus_master(dev);

	(void)off;
	(void)len;
	if (off_now && !m->no_master)
		forget_rings(m);
	m->no_master = off_now;
}

static void model_resume(struct svio_vdev *dev)
{
	struct nm *m = svio_vdev_priv(dev);

	m->stopping = false;
	m->no_master = !svio_vdev_bus_master(dev); /* what was loaded may say otherwise than what was written here */
	svio__nm_doorbells_rebind(m);
}

/* ---- saved state ------------------------------------------------------------------------------------------- */

struct saved_ns {
	uint8_t nguid[16];
	uint64_t blocks;
	uint32_t lba_shift, reserved;
};

struct saved_queue {
	uint64_t sq_iova, cq_iova;
	uint32_t sq_size, sq_head, cq_size, cq_tail;
	uint16_t cqid, vector, phase;
	uint8_t sq_used, cq_used, sq_bad, ien, reserved[6];
};

struct saved {
	uint32_t queues, nns, entries;
	uint32_t cc, csts, aqa, intmask;
	uint32_t granted_sq, granted_cq, feat_aec, feat_misc[16];
	uint32_t pending_event, naer, dbbuf, reserved;
	uint64_t asq, acq, shadow_iova, eventidx_iova;
	uint64_t host_reads, host_writes, sectors_read, sectors_written, errors;
	uint16_t aer_cid[NM_AERL];
};
_Static_assert(sizeof(struct saved_ns) == 32 && sizeof(struct saved_queue) == 48 && sizeof(struct saved) == 200,
	       "no padding in what is written");

static int model_save(struct svio_vdev *dev, struct svio_vdev_buf *out)
{
	const struct nm *m = svio_vdev_priv(dev);
	struct saved s = { .queues = m->queues, .nns = m->nns, .entries = m->entries, .cc = m->cc, .csts = m->csts,
			   .aqa = m->aqa, .intmask = m->intmask, .granted_sq = m->granted_sq, .granted_cq = m->granted_cq,
			   .feat_aec = m->feat_aec, .pending_event = m->pending_event, .naer = m->naer, .dbbuf = m->dbbuf,
			   .asq = m->asq, .acq = m->acq, .shadow_iova = m->shadow_iova, .eventidx_iova = m->eventidx_iova,
			   .host_reads = m->host_reads, .host_writes = m->host_writes, .sectors_read = m->sectors_read,
			   .sectors_written = m->sectors_written, .errors = m->errors };

	memcpy(s.feat_misc, m->feat_misc, sizeof(s.feat_misc));
	for (uint32_t i = 0; i < m->naer; i++)
		s.aer_cid[i] = svio_le16_to_cpu(m->aer[i]->cmd.cid);
	for (uint32_t i = 0; i < m->nns; i++)
		if (!m->ns[i].store.is_file)
			return svio_fail(EOPNOTSUPP, "nvme: namespace %u is in this process's memory and cannot move; "
					 "give it a file that both sides reach: file=PATH,shared", i + 1);
	svio_vdev_buf_put(out, &s, sizeof(s));
	for (uint32_t i = 0; i < m->nns; i++) {
		struct saved_ns ns = { .blocks = m->ns[i].blocks, .lba_shift = m->ns[i].lba_shift };

		memcpy(ns.nguid, m->ns[i].nguid, sizeof(ns.nguid));
		svio_vdev_buf_put(out, &ns, sizeof(ns));
	}
	for (uint32_t q = 0; q <= m->queues; q++) {
		const struct nm_sq *sq = &m->sq[q];
		const struct nm_cq *cq = &m->cq[q];
		struct saved_queue sv = { .sq_iova = sq->iova, .cq_iova = cq->iova, .sq_size = sq->size, .sq_head = sq->head,
					  .cq_size = cq->size, .cq_tail = cq->tail, .cqid = sq->cqid, .vector = cq->vector,
					  .phase = cq->phase, .sq_used = sq->used, .cq_used = cq->used, .sq_bad = sq->bad,
					  .ien = cq->ien };

		if (svio_vdev_buf_put(out, &sv, sizeof(sv)))
			return -ENOSPC;
	}
	return 0;
}

/* Nothing of it is believed: every index, size and address is checked as the commands that set them would. */
static int load_queue(struct nm *m, uint32_t q, const struct saved_queue *s)
{
	struct nm_sq *sq = &m->sq[q];
	struct nm_cq *cq = &m->cq[q];

	if (s->sq_used > 1 || s->cq_used > 1 || s->sq_bad > 1 || s->ien > 1)
		return -EINVAL;
	if (s->cq_used && (s->cq_size < 2 || s->cq_size > NM_MAX_ENTRIES || s->cq_tail >= s->cq_size ||
			   s->cq_iova & (NM_PAGE - 1) || s->phase > 1 || s->vector > m->queues))
		return -EINVAL;
	if (s->sq_used && (s->sq_size < 2 || s->sq_size > NM_MAX_ENTRIES || s->sq_head >= s->sq_size ||
			   s->sq_iova & (NM_PAGE - 1) || s->cqid > m->queues || (q == 0) != (s->cqid == 0)))
		return -EINVAL;
	*cq = (struct nm_cq){ .size = s->cq_size, .tail = s->cq_tail, .phase = s->phase, .vector = s->vector, .ien = s->ien,
			      .used = s->cq_used, .iova = s->cq_iova };
	*sq = (struct nm_sq){ .size = s->sq_size, .head = s->sq_head, .id = (uint16_t)q, .cqid = s->cqid, .used = s->sq_used,
			      .bad = s->sq_bad, .iova = s->sq_iova };
	return 0;
}

static int load_all(struct nm *m, const uint8_t *data, size_t len)
{
	struct saved s;
	int err;

	if (len < sizeof(s))
		return -EINVAL;
	memcpy(&s, data, sizeof(s));
	data += sizeof(s);
	if (s.queues != m->queues || s.nns != m->nns || s.entries != m->entries)
		return svio_fail(EINVAL, "nvme: the state is of a controller with queues=%u, %u namespaces and entries=%u; "
				 "this one has queues=%u, %u namespaces and entries=%u", s.queues, s.nns, s.entries, m->queues,
				 m->nns, m->entries);
	if (len != sizeof(s) + s.nns * sizeof(struct saved_ns) + (s.queues + 1) * sizeof(struct saved_queue))
		return -EINVAL;
	if (s.granted_sq - 1 >= m->queues || s.granted_cq - 1 >= m->queues || s.naer > NM_AERL || s.dbbuf > 1 ||
	    s.shadow_iova & (NM_PAGE - 1) || s.eventidx_iova & (NM_PAGE - 1))
		return -EINVAL;
	for (uint32_t i = 0; i < s.nns; i++, data += sizeof(struct saved_ns)) {
		struct saved_ns ns;

		memcpy(&ns, data, sizeof(ns));
		if (memcmp(ns.nguid, m->ns[i].nguid, 16) != 0 || ns.blocks != m->ns[i].blocks ||
		    ns.lba_shift != m->ns[i].lba_shift)
			return svio_fail(EINVAL, "nvme: namespace %u is another one than where the state comes from", i + 1);
	}
	/* The kit has loaded the doorbells, which are memory of the BAR. */
	ctrl_clear(m, true);
	for (uint32_t q = 0; q <= s.queues; q++, data += sizeof(struct saved_queue)) {
		struct saved_queue sv;

		memcpy(&sv, data, sizeof(sv));
		err = load_queue(m, q, &sv);
		if (err)
			return err;
	}
	if (s.csts & NVME_CSTS_RDY && (!m->sq[0].used || !m->cq[0].used))
		return -EINVAL;
	for (uint32_t q = 0; q <= s.queues; q++) {
		struct nm_sq *sq = &m->sq[q];

		if (!sq->used)
			continue;
		if (!m->cq[sq->cqid].used)
			return -EINVAL;
		sq->cq = &m->cq[sq->cqid];
		sq->cq->sqs++;
		if (q)
			m->active[m->nactive++] = (uint16_t)q;
	}
	m->cc = s.cc;
	m->csts = s.csts;
	m->aqa = s.aqa;
	m->asq = s.asq;
	m->acq = s.acq;
	m->intmask = s.intmask;
	m->granted_sq = s.granted_sq;
	m->granted_cq = s.granted_cq;
	m->feat_aec = s.feat_aec;
	memcpy(m->feat_misc, s.feat_misc, sizeof(m->feat_misc));
	m->pending_event = s.pending_event;
	m->host_reads = s.host_reads;
	m->host_writes = s.host_writes;
	m->sectors_read = s.sectors_read;
	m->sectors_written = s.sectors_written;
	m->errors = s.errors;
	m->shadow_iova = s.shadow_iova;
	m->eventidx_iova = s.eventidx_iova;
	m->dbbuf = s.dbbuf && m->offer_dbbuf;
	for (uint32_t i = 0; i < s.naer && m->sq[0].used; i++) {
		struct nm_req *r = svio__nm_req_get(m, &m->sq[0]);

		if (!r)
			return -EINVAL;
		memset(&r->cmd, 0, sizeof(r->cmd));
		r->cmd.opcode = NVME_ADM_ASYNC_EVENT;
		r->cmd.cid = svio_cpu_to_le16(s.aer_cid[i]);
		r->step = NM_HELD;
		m->aer[m->naer++] = r;
	}
	svio__nm_doorbells_rebind(m);
	return 0;
}

static int model_load(struct svio_vdev *dev, uint32_t version, const void *data, size_t len)
{
	struct nm *m = svio_vdev_priv(dev);
	int err;

	(void)version; /* there is one */
	err = load_all(m, data, len);
	if (err)
		ctrl_reset(m, true);
	return err;
}

/* ---- making one --------------------------------------------------------------------------------------------- */

/*
 * Names of a namespace that last (§4.3, NGUID and EUI64; RFC 9562 version 8 for the UUID). Of a file: made of its device and inode, so that
 * two servers on one file show one namespace. Of memory: random. `given`: 32 hexadecimal digits.
 */
static int name_ns(struct nm_ns *ns, const char *path, const char *given)
{
	struct stat st;

	if (given) {
		for (unsigned int i = 0; i < 16; i++) {
			unsigned int byte;
			char two[3] = { given[0], given[0] ? given[1] : 0, 0 };
			char end;

			if (sscanf(two, "%2x%c", &byte, &end) != 1 || !two[1])
				return svio_fail(EINVAL, "nguid= takes 32 hexadecimal digits");
			ns->nguid[i] = (uint8_t)byte;
			given += 2;
		}
		if (*given)
			return svio_fail(EINVAL, "nguid= takes 32 hexadecimal digits");
	} else if (path) {
		uint64_t ids[2];

		if (stat(path, &st) < 0)
			return -errno;
		ids[0] = (uint64_t)st.st_dev * UINT64_C(0x9e3779b97f4a7c15);
		ids[1] = (uint64_t)st.st_ino;
		memcpy(ns->nguid, ids, 16);
	} else if (getrandom(ns->nguid, 16, 0) != 16) {
		return svio_fail(EIO, "no random numbers for a namespace identifier");
	}
	memcpy(ns->uuid, ns->nguid, 16);
	ns->uuid[6] = (ns->uuid[6] & 0x0f) | 0x80;
	ns->uuid[8] = (ns->uuid[8] & 0x3f) | 0x80;
	memcpy(ns->eui64, ns->nguid + 8, 8);
	return 0;
}

static int make_ns(struct svio_vdev_args *args, struct nm *m, uint32_t i, uint64_t size, uint64_t lba, bool direct,
		   bool readonly, bool shared)
{
	struct nm_ns *ns = &m->ns[i];
	char key[16] = "file";
	const char *path;
	int err;

	if (i)
		snprintf(key, sizeof(key), "file%u", i + 1);
	path = svio_vdev_arg(args, key);
	if ((direct || readonly || shared) && !path)
		return svio_fail(EINVAL, "nvme: direct, ro and shared are for files; give %s=PATH", key);
	err = svio__nm_store_open(&ns->store, path, path ? (svio_vdev_arg(args, "size") ? size : 0) : size, direct, readonly, shared);
	if (err)
		return err;
	ns->lba_shift = (uint32_t)__builtin_ctzll(lba);
	ns->blocks = ns->store.bytes >> ns->lba_shift;
	if (!ns->blocks)
		return svio_fail(EINVAL, "nvme: namespace %u is smaller than a block of %llu bytes", i + 1,
				 (unsigned long long)lba);
	m->volatile_cache |= path && !readonly;
	return name_ns(ns, path, i == 0 ? svio_vdev_arg(args, "nguid") : NULL);
}

static void model_fini(struct svio_vdev *dev)
{
	struct nm *m = svio_vdev_priv(dev);

	svio__nm_sync_end(m);
	for (uint32_t i = 0; i < m->nns; i++)
		svio__nm_store_close(&m->ns[i].store);
	for (uint32_t i = 0; m->req && i < NM_REQS; i++)
		free(m->req[i].buf);
	free(m->req);
	free(m->sq);
	free(m->cq);
	free(m->active);
}

static uint64_t pow2(uint64_t v)
{
	uint64_t p = NM_PAGE;

	while (p < v)
		p *= 2;
	return p;
}

/* The best kind of interrupt that the function has; the lesser ones are always there too. */
static int parse_irq(const char *text, enum svio_vdev_irq_mode *best)
{
	static const char *const names[] = { [SVIO_VDEV_IRQ_INTX] = "intx", [SVIO_VDEV_IRQ_MSI] = "msi",
					     [SVIO_VDEV_IRQ_MSIX] = "msix" };

	for (unsigned int i = SVIO_VDEV_IRQ_INTX; i < SVIO_ARRAY_SIZE(names); i++) {
		if (!text || strcmp(text, names[i]) == 0) {
			*best = text ? (enum svio_vdev_irq_mode)i : SVIO_VDEV_IRQ_MSIX;
			return 0;
		}
	}
	return svio_fail(EINVAL, "nvme: irq=%s: the best kind of interrupt is intx, msi or msix", text);
}

static int describe(struct svio_vdev *dev, struct nm *m, enum svio_vdev_irq_mode irq)
{
	uint32_t vectors = m->queues + 1, table = SVIO_ALIGN_UP(vectors * 16, NM_PAGE);
	struct svio_vdev_area area = { NVME_REG_DBS, m->db_bytes };
	int err;

	svio_vdev_set_ids(dev, &(struct svio_vdev_ids){ .vendor = NM_VENDOR, .device = NM_DEVICE, .subsys_vendor = NM_VENDOR,
							.subsys = NM_DEVICE, .class_code = 0x010802, .int_pin = 1 });
	err = svio_vdev_add_bar(dev, 0, pow2(SVIO_MAX(NVME_REG_DBS + m->db_bytes, 4 * NM_PAGE)), SVIO_VDEV_BAR_64, &area, 1);
	if (!err)
		err = irq < SVIO_VDEV_IRQ_MSIX ? 0 : svio_vdev_add_bar(dev, 4, pow2(2 * (uint64_t)table), 0, NULL, 0);
	if (err)
		return err;
	/* Each returns an offset, or an error. */
	err = svio_vdev_cap_pm(dev);
	if (err >= 0)
		err = svio_vdev_cap_pcie(dev, SVIO_VDEV_PCIE_FLR);
	if (err >= 0 && irq >= SVIO_VDEV_IRQ_MSI)
		err = svio_vdev_cap_msi(dev, 1, true);
	if (err >= 0 && irq >= SVIO_VDEV_IRQ_MSIX)
		err = svio_vdev_cap_msix(dev, vectors, 4, 0, 4, table);
	return err < 0 ? err : 0;
}

static int model_init(struct svio_vdev *dev, struct svio_vdev_args *args)
{
	struct nm *m = svio_vdev_priv(dev);
	uint64_t queues, entries, nns, size, lba;
	enum svio_vdev_irq_mode irq = SVIO_VDEV_IRQ_MSIX;
	bool direct, readonly, shared;
	int err;

	m->dev = dev;
	m->movsb = nm_movsb_is_fast();
	err = svio_vdev_arg_u64(args, "queues", 31, 1, NM_MAX_QUEUES, &queues);
	if (!err)
		err = svio_vdev_arg_u64(args, "entries", 1024, 2, NM_MAX_ENTRIES, &entries);
	if (!err)
		err = svio_vdev_arg_u64(args, "namespaces", 1, 1, NM_MAX_NS, &nns);
	if (!err)
		err = svio_vdev_arg_size(args, "size", UINT64_C(256) << 20, &size);
	if (!err)
		err = svio_vdev_arg_u64(args, "lba", 512, 512, 4096, &lba);
	if (!err)
		err = svio_vdev_arg_bool(args, "direct", &direct);
	if (!err)
		err = svio_vdev_arg_bool(args, "ro", &readonly);
	if (!err)
		err = svio_vdev_arg_bool(args, "shared", &shared);
	if (!err)
		err = svio_vdev_arg_bool(args, "dbbuf", &m->offer_dbbuf);
	if (!err)
		err = svio_vdev_arg_bool(args, "sleeps", &m->sleeps);
	if (err)
		return err;
	if (lba != 512 && lba != 4096)
		return svio_fail(EINVAL, "nvme: lba=%llu: blocks have 512 or 4096 bytes", (unsigned long long)lba);
	err = parse_irq(svio_vdev_arg(args, "irq"), &irq);
	if (!err)
		err = svio__nm_inject_parse(m, svio_vdev_arg(args, "inject"));
	if (err)
		return err;
	m->queues = (uint32_t)queues;
	m->entries = (uint32_t)entries;
	m->db_bytes = SVIO_ALIGN_UP((uint32_t)db_offset(m->queues, true) + 4, NM_PAGE);
	m->sq = aligned_alloc(SVIO_CACHELINE, (queues + 1) * sizeof(*m->sq));
	m->cq = aligned_alloc(SVIO_CACHELINE, (queues + 1) * sizeof(*m->cq));
	m->active = calloc(queues, sizeof(*m->active));
	m->req = calloc(NM_REQS, sizeof(*m->req));
	if (!m->sq || !m->cq || !m->active || !m->req)
		err = svio_fail(ENOMEM, "nvme: out of memory for %u queues", m->queues);
	for (uint32_t i = 0; i < nns && !err; i++) {
		m->nns = i + 1;
		err = make_ns(args, m, i, size, lba, direct, readonly, shared);
	}
	/* Doorbells that the host cannot map are messages; in its memory they cost nothing (§5.7). */
	if (svio_vdev_get_flags(dev) & SVIO_VDEV_NO_MMAP)
		m->offer_dbbuf = true;
	if (svio_vdev_get_flags(dev) & SVIO_VDEV_SLEEPS)
		m->sleeps = true;
	if (!err)
		err = describe(dev, m, irq);
	if (err) {
		model_fini(dev);
		return err;
	}
	m->doorbells = (uint8_t *)svio_vdev_bar_mem(dev, 0) + NVME_REG_DBS;
	m->no_master = true; /* as after power-on */
	ctrl_reset(m, true);
	return 0;
}

const struct svio_vdev_model svio_nvme_model = {
	.name = "nvme",
	.help = "size=1G | file=PATH (file2=… for more), namespaces=N, lba=512|4096, queues=N, entries=N, direct, ro, shared, "
		"nguid=HEX, dbbuf, irq=msix|msi|intx, inject=RULES",
	.priv_size = sizeof(struct nm),
	.max_access = 8,
	.state_version = 1,
	.init = model_init,
	.fini = model_fini,
	.reg_read = reg_read,
	.reg_write = reg_write,
	.poll = model_poll,
	.config_written = model_config_written,
	.reset = model_reset,
	.quiesce = model_quiesce,
	.resume = model_resume,
	.save = model_save,
	.load = model_load,
};
