/* SPDX-License-Identifier: BSD-3-Clause */
/* Admin commands of the NVMe model: NVMe 1.4 §5. Section numbers below are of that revision. */
#include <stdio.h>
#include "nvme_model.h"

#define FAIL(sc)     (uint16_t)(NVME_STATUS_MAKE(NVME_SCT_GENERIC, sc) | NVME_STATUS_DNR)
#define FAIL_CMD(sc) (uint16_t)(NVME_STATUS_MAKE(NVME_SCT_COMMAND, sc) | NVME_STATUS_DNR)

static uint32_t dw(svio_le32 v)
{
	return svio_le32_to_cpu(v);
}

static uint32_t log_bytes(const struct nvme_cmd *cmd)
{
	/* NUMD, 0's based dwords: lower half in CDW10, upper in CDW11 (§5.14). */
	uint64_t n = ((uint64_t)(dw(cmd->cdw11) & 0xffff) << 16 | dw(cmd->cdw10) >> 16) + 1;

	return n * 4 > NM_MAX_XFER ? 0 : (uint32_t)(n * 4);
}

uint16_t svio__nm_admin_data(const struct nvme_cmd *cmd, uint32_t *len, bool *to_host)
{
	*len = 0;
	*to_host = false;
	switch (cmd->opcode) {
	case NVME_ADM_IDENTIFY:
		*len = NVME_IDENTIFY_SIZE;
		*to_host = true;
		return 0;
	case NVME_ADM_GET_LOG_PAGE:
		*len = log_bytes(cmd);
		*to_host = true;
		return *len ? 0 : FAIL(NVME_SC_INVALID_FIELD);
	case NVME_ADM_SET_FEATURES:
	case NVME_ADM_GET_FEATURES:
		if ((dw(cmd->cdw10) & 0xff) == NVME_FEAT_TIMESTAMP) {
			*len = 8;
			*to_host = cmd->opcode == NVME_ADM_GET_FEATURES;
		}
		return 0;
	default:
		return 0;
	}
}

/* ---- Identify (§5.15) -------------------------------------------------------------------------------- */

/* ASCII, padded with blanks. */
static void pad(char *to, size_t size, const char *text)
{
	size_t n = strlen(text);

	memset(to, ' ', size);
	memcpy(to, text, SVIO_MIN(n, size));
}

static void identify_ctrl(const struct nm *m, struct nvme_id_ctrl *id)
{
	char serial[21];

	/* All of its second half, where a file's inode number is: two files on one file system are two controllers. */
	snprintf(serial, sizeof(serial), "SVIO%02x%02x%02x%02x%02x%02x%02x%02x", m->ns[0].nguid[8], m->ns[0].nguid[9],
		 m->ns[0].nguid[10], m->ns[0].nguid[11], m->ns[0].nguid[12], m->ns[0].nguid[13], m->ns[0].nguid[14],
		 m->ns[0].nguid[15]);
	id->vid = svio_cpu_to_le16(NM_VENDOR);
	id->ssvid = svio_cpu_to_le16(NM_VENDOR);
	pad(id->sn, sizeof(id->sn), serial);
	pad(id->mn, sizeof(id->mn), "svio simulated NVMe controller");
	pad(id->fr, sizeof(id->fr), svio_version());
	id->mdts = NM_MDTS;
	id->ver = svio_cpu_to_le32(NVME_VS(1, 4, 0));
	id->oaes = svio_cpu_to_le32(0);
	id->cntrltype = 1; /* I/O controller */
	id->oacs = svio_cpu_to_le16(m->offer_dbbuf ? NVME_OACS_DBBUF : 0);
	id->acl = 3;
	id->aerl = NM_AERL - 1;
	id->frmw = 0x03; /* one slot, read only */
	id->elpe = 0;
	id->wctemp = svio_cpu_to_le16(343);
	id->cctemp = svio_cpu_to_le16(353);
	id->sqes = NVME_SQE_SHIFT << 4 | NVME_SQE_SHIFT;
	id->cqes = NVME_CQE_SHIFT << 4 | NVME_CQE_SHIFT;
	id->nn = svio_cpu_to_le32(m->nns);
	id->oncs = svio_cpu_to_le16(NVME_ONCS_COMPARE | NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES);
	id->vwc = m->volatile_cache ? NVME_VWC_PRESENT | 3u << 1 : 0; /* flush of all namespaces is understood */
	id->sgls = svio_cpu_to_le32(NVME_SGLS_NO_ALIGN);
	snprintf(id->subnqn, sizeof(id->subnqn), "nqn.2014-08.org.nvmexpress:uuid:"
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 m->ns[0].uuid[0], m->ns[0].uuid[1], m->ns[0].uuid[2], m->ns[0].uuid[3], m->ns[0].uuid[4], m->ns[0].uuid[5],
		 m->ns[0].uuid[6], m->ns[0].uuid[7], m->ns[0].uuid[8], m->ns[0].uuid[9], m->ns[0].uuid[10], m->ns[0].uuid[11],
		 m->ns[0].uuid[12], m->ns[0].uuid[13], m->ns[0].uuid[14], m->ns[0].uuid[15]);
	id->psd[0].mp = svio_cpu_to_le16(100);
}

static void identify_ns(const struct nm_ns *ns, struct nvme_id_ns *id)
{
	id->nsze = id->ncap = id->nuse = svio_cpu_to_le64(ns->blocks);
	id->dlfeat = 1; /* deallocated blocks read as zeroes */
	id->nsattr = ns->store.readonly; /* bit 0: write protected */
	memcpy(id->nguid, ns->nguid, sizeof(id->nguid));
	memcpy(id->eui64, ns->eui64, sizeof(id->eui64));
	id->lbaf[0].lbads = (uint8_t)ns->lba_shift;
}

static void put_desc(uint8_t **at, uint8_t type, const void *value, uint8_t len)
{
	struct nvme_ns_desc d = { .nidt = type, .nidl = len };

	memcpy(*at, &d, sizeof(d));
	memcpy(*at + sizeof(d), value, len);
	*at += sizeof(d) + len;
}

static uint16_t identify(const struct nm *m, struct nm_req *r)
{
	uint32_t cns = dw(r->cmd.cdw10) & 0xff, nsid = dw(r->cmd.nsid);
	const struct nm_ns *ns = nsid - 1 < m->nns ? &m->ns[nsid - 1] : NULL;
	uint8_t *at = r->buf;

	memset(r->buf, 0, NVME_IDENTIFY_SIZE);
	switch (cns) {
	case NVME_CNS_NS:
		if (nsid == NVME_NSID_ALL) { /* capabilities common to all */
			((struct nvme_id_ns *)(void *)r->buf)->lbaf[0].lbads = (uint8_t)m->ns[0].lba_shift;
			return 0;
		}
		if (nsid == 0 || nsid > m->nns)
			return FAIL(NVME_SC_INVALID_NS);
		identify_ns(ns, (void *)r->buf);
		return 0;
	case NVME_CNS_CTRL:
		identify_ctrl(m, (void *)r->buf);
		return 0;
	case NVME_CNS_NS_LIST:
		if (nsid >= NVME_NSID_ALL - 1)
			return FAIL(NVME_SC_INVALID_NS);
		for (uint32_t id = nsid + 1, n = 0; id <= m->nns && n < NVME_NS_LIST_MAX; id++, n++) {
			svio_le32 v = svio_cpu_to_le32(id);

			memcpy(r->buf + n * 4, &v, 4);
		}
		return 0;
	case NVME_CNS_NS_DESCS:
		if (!ns)
			return FAIL(NVME_SC_INVALID_NS);
		put_desc(&at, NVME_NIDT_EUI64, ns->eui64, sizeof(ns->eui64));
		put_desc(&at, NVME_NIDT_NGUID, ns->nguid, sizeof(ns->nguid));
		put_desc(&at, NVME_NIDT_UUID, ns->uuid, sizeof(ns->uuid));
		return 0;
	case NVME_CNS_CTRL_LIST:
		return 0; /* controller 0 would be greater than nothing: an empty list */
	default:
		return FAIL(NVME_SC_INVALID_FIELD);
	}
}

/* ---- logs (§5.14) ----------------------------------------------------------------------------------- */

static void put128(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, 8);
}

static uint16_t get_log(struct nm *m, struct nm_req *r)
{
	uint32_t len = r->len, lid = dw(r->cmd.cdw10) & 0xff;
	uint64_t off = dw(r->cmd.cdw12) | (uint64_t)dw(r->cmd.cdw13) << 32;
	uint8_t page[4096] = { 0 };
	size_t have;

	switch (lid) {
	case NVME_LOG_ERROR:
		have = sizeof(struct nvme_log_error);
		break;
	case NVME_LOG_SMART: {
		struct nvme_log_smart *s = (void *)page;

		have = sizeof(*s);
		s->temperature[0] = 300 & 0xff; /* Kelvin */
		s->temperature[1] = 300 >> 8;
		s->spare = 100;
		s->spare_threshold = 10;
		put128(s->data_read, (m->sectors_read + 999) / 1000);
		put128(s->data_written, (m->sectors_written + 999) / 1000);
		put128(s->host_reads, m->host_reads);
		put128(s->host_writes, m->host_writes);
		put128(s->error_entries, m->errors);
		break;
	}
	case NVME_LOG_FW_SLOT: {
		struct nvme_log_fw *f = (void *)page;

		have = sizeof(*f);
		f->afi = 1;
		pad(f->frs[0], sizeof(f->frs[0]), svio_version());
		break;
	}
	case NVME_LOG_CHANGED_NS:
		have = sizeof(page);
		break;
	default:
		return FAIL_CMD(NVME_SC_LOG_PAGE);
	}
	if (off > have || off & 3)
		return FAIL(NVME_SC_INVALID_FIELD);
	memset(r->buf, 0, len);
	memcpy(r->buf, page + off, SVIO_MIN((size_t)len, have - (size_t)off));
	if (lid == NVME_LOG_ERROR && !(dw(r->cmd.cdw10) & NVME_LOG_RAE))
		m->pending_event = 0; /* reading the log acknowledges the event */
	return 0;
}

/* ---- features (§5.13, §5.21) -------------------------------------------------------------------------- */

static uint16_t features(struct nm *m, struct nm_req *r, bool set)
{
	uint32_t fid = dw(r->cmd.cdw10) & 0xff, sel = (dw(r->cmd.cdw10) >> 8) & 7, v = dw(r->cmd.cdw11);

	if (set && dw(r->cmd.cdw10) >> 31)
		return FAIL_CMD(NVME_SC_FEATURE_NOT_SAVEABLE);
	if (!set && sel == 3) { /* supported capabilities: changeable or nothing */
		r->dw0 = fid == NVME_FEAT_NUM_QUEUES || fid == NVME_FEAT_WRITE_CACHE ? 4 : 0;
		if (r->len) /* of a feature with data: what the buffer held before is nobody's to see */
			memset(r->buf, 0, r->len);
		return 0;
	}
	switch (fid) {
	case NVME_FEAT_NUM_QUEUES:
		if (set) {
			if ((v & 0xffff) == 0xffff || v >> 16 == 0xffff)
				return FAIL(NVME_SC_INVALID_FIELD);
			if (m->nactive) /* only before the first I/O queue (§5.21.1.7) */
				return FAIL(NVME_SC_SEQUENCE);
			m->granted_sq = SVIO_MIN((v & 0xffff) + 1, m->queues);
			m->granted_cq = SVIO_MIN((v >> 16) + 1, m->queues);
		}
		r->dw0 = (m->granted_cq - 1) << 16 | (m->granted_sq - 1);
		return 0;
	case NVME_FEAT_ASYNC_EVENT:
		if (set)
			m->feat_aec = v;
		r->dw0 = m->feat_aec;
		return 0;
	case NVME_FEAT_WRITE_CACHE:
		if (!m->volatile_cache)
			return FAIL(NVME_SC_INVALID_FIELD);
		if (set && v & ~1u)
			return FAIL(NVME_SC_INVALID_FIELD);
		break;
	case NVME_FEAT_ARBITRATION:
	case NVME_FEAT_POWER:
	case NVME_FEAT_TEMPERATURE:
	case NVME_FEAT_ERROR_RECOVERY:
	case NVME_FEAT_IRQ_COALESCING:
	case NVME_FEAT_IRQ_VECTOR:
	case NVME_FEAT_WRITE_ATOMICITY:
		break;
	case NVME_FEAT_TIMESTAMP:
		if (set) {
			memcpy(&m->feat_misc[14], r->buf, 4);
			memcpy(&m->feat_misc[15], r->buf + 4, 4);
		} else {
			memcpy(r->buf, &m->feat_misc[14], 4);
			memcpy(r->buf + 4, &m->feat_misc[15], 4);
		}
		return 0;
	default:
		return FAIL(NVME_SC_INVALID_FIELD);
	}
	if (set)
		m->feat_misc[fid] = v;
	r->dw0 = m->feat_misc[fid];
	return 0;
}

/* ---- queues (§5.3 to §5.6) ----------------------------------------------------------------------------- */

/*
 * Completions that found no room before their submission queue was deleted. They are lost with the completion queue, whose memory is
 * the host's again, and with a new queue of the same name, to which they do not belong.
 */
static void drop_leftovers(struct nm *m, const struct nm_sq *sq, const struct nm_cq *cq)
{
	for (uint32_t i = 0; i < NM_REQS; i++) {
		struct nm_req *r = &m->req[i];

		if (r->step != NM_FREE && (r->sq == sq || r->sq->cq == cq))
			svio__nm_req_drop(m, r);
	}
}

static uint16_t create_cq(struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t qid = dw(cmd->cdw10) & 0xffff, size = (dw(cmd->cdw10) >> 16) + 1, how = dw(cmd->cdw11);
	uint64_t iova = svio_le64_to_cpu(cmd->prp1);
	struct nm_cq *cq;

	if (qid == 0 || qid > m->granted_cq || m->cq[qid].used)
		return FAIL_CMD(NVME_SC_QID_INVALID);
	if (size < 2 || size > m->entries)
		return FAIL_CMD(NVME_SC_QSIZE_INVALID);
	if (!(how & NVME_QUEUE_PC) || (m->cc & NVME_CC_IOCQES_MASK) >> NVME_CC_IOCQES_SHIFT != NVME_CQE_SHIFT)
		return FAIL(NVME_SC_INVALID_FIELD);
	if (iova & (NM_PAGE - 1))
		return FAIL(NVME_SC_PRP_OFFSET);
	if (how >> 16 > m->queues || (how >> 16 && svio_vdev_irq_mode(m->dev) == SVIO_VDEV_IRQ_INTX))
		return FAIL_CMD(NVME_SC_INTERRUPT_VECTOR);
	cq = &m->cq[qid];
	*cq = (struct nm_cq){ .size = size, .phase = NVME_CQE_PHASE, .vector = (uint16_t)(how >> 16),
			      .ien = how & NVME_CQ_IEN, .used = true, .iova = iova };
	svio__nm_doorbells_rebind(m);
	__atomic_store_n((uint32_t *)(uintptr_t)cq->head_db, 0, __ATOMIC_RELEASE);
	return 0;
}

static uint16_t create_sq(struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t qid = dw(cmd->cdw10) & 0xffff, size = (dw(cmd->cdw10) >> 16) + 1, how = dw(cmd->cdw11), cqid = how >> 16;
	uint64_t iova = svio_le64_to_cpu(cmd->prp1);
	struct nm_sq *sq;

	if (qid == 0 || qid > m->granted_sq || m->sq[qid].used)
		return FAIL_CMD(NVME_SC_QID_INVALID);
	if (size < 2 || size > m->entries)
		return FAIL_CMD(NVME_SC_QSIZE_INVALID);
	if (cqid == 0 || cqid > m->granted_cq || !m->cq[cqid].used)
		return FAIL_CMD(NVME_SC_CQ_INVALID);
	if (!(how & NVME_QUEUE_PC) || (m->cc & NVME_CC_IOSQES_MASK) >> NVME_CC_IOSQES_SHIFT != NVME_SQE_SHIFT)
		return FAIL(NVME_SC_INVALID_FIELD);
	if (iova & (NM_PAGE - 1))
		return FAIL(NVME_SC_PRP_OFFSET);
	sq = &m->sq[qid];
	drop_leftovers(m, sq, NULL);
	*sq = (struct nm_sq){ .cq = &m->cq[cqid], .size = size, .id = (uint16_t)qid, .cqid = (uint16_t)cqid, .used = true,
			      .iova = iova };
	sq->cq->sqs++;
	m->active[m->nactive++] = (uint16_t)qid;
	svio__nm_doorbells_rebind(m);
	__atomic_store_n((uint32_t *)(uintptr_t)sq->tail_db, 0, __ATOMIC_RELEASE);
	return 0;
}

static uint16_t delete_sq(struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t qid = dw(cmd->cdw10) & 0xffff;
	struct nm_sq *sq;

	if (qid == 0 || qid > m->queues || !m->sq[qid].used)
		return FAIL_CMD(NVME_SC_QID_INVALID);
	sq = &m->sq[qid];
	/* What is under way completes as aborted before this command does (§5.6). */
	svio__nm_sq_stop(m, sq, NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_ABORT_SQ_DELETED));
	sq->used = false;
	sq->cq->sqs--;
	for (uint32_t i = 0; i < m->nactive; i++)
		if (m->active[i] == qid)
			m->active[i] = m->active[--m->nactive];
	return 0;
}

static uint16_t delete_cq(struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t qid = dw(cmd->cdw10) & 0xffff;

	if (qid == 0 || qid > m->queues || !m->cq[qid].used)
		return FAIL_CMD(NVME_SC_QID_INVALID);
	if (m->cq[qid].sqs)
		return FAIL_CMD(NVME_SC_QUEUE_DELETION);
	drop_leftovers(m, NULL, &m->cq[qid]);
	m->cq[qid].used = false;
	return 0;
}

/* ---- abort, events, doorbell buffers -------------------------------------------------------------------- */

static uint16_t abort_cmd(struct nm *m, struct nm_req *abort)
{
	uint32_t sqid = dw(abort->cmd.cdw10) & 0xffff;
	uint16_t cid = (uint16_t)(dw(abort->cmd.cdw10) >> 16);

	abort->dw0 = 1; /* not aborted, unless it is found below (§5.1) */
	for (uint32_t i = 0; i < NM_REQS; i++) {
		struct nm_req *r = &m->req[i];

		if ((r->step != NM_HELD && r->step != NM_STALL) || r == abort || r->dma_busy || r->sq->id != sqid ||
		    svio_le16_to_cpu(r->cmd.cid) != cid)
			continue;
		for (uint32_t a = 0; a < m->naer; a++)
			if (m->aer[a] == r)
				m->aer[a] = m->aer[--m->naer];
		abort->dw0 = 0;
		svio__nm_req_complete(m, r, NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_ABORT_REQUESTED));
		break;
	}
	return 0;
}

static uint16_t async_event(struct nm *m, struct nm_req *r)
{
	if (m->naer == NM_AERL)
		return FAIL_CMD(NVME_SC_AER_LIMIT);
	if (m->pending_event) {
		r->dw0 = m->pending_event;
		m->pending_event = 0;
		return 0;
	}
	m->aer[m->naer++] = r;
	return NM_PENDING;
}

/* §5.7. The buffers are laid out as the doorbells are, with their stride. */
static uint16_t dbbuf_config(struct nm *m, const struct nvme_cmd *cmd)
{
	uint64_t shadow = svio_le64_to_cpu(cmd->prp1), eventidx = svio_le64_to_cpu(cmd->prp2);

	if (!m->offer_dbbuf)
		return FAIL(NVME_SC_INVALID_OPCODE);
	if (shadow & (NM_PAGE - 1) || eventidx & (NM_PAGE - 1))
		return FAIL(NVME_SC_PRP_OFFSET);
	/* One page each is what the command can name. */
	if (m->db_bytes > NM_PAGE || !svio_vdev_dma_ptr(m->dev, shadow, NM_PAGE, SVIO_VDEV_READ) ||
	    !svio_vdev_dma_ptr(m->dev, eventidx, NM_PAGE, SVIO_VDEV_WRITE))
		return FAIL(NVME_SC_INVALID_FIELD); /* memory that we cannot see without asking is no doorbell */
	m->shadow_iova = shadow;
	m->eventidx_iova = eventidx;
	m->dbbuf = true;
	svio__nm_doorbells_rebind(m);
	return 0;
}

uint16_t svio__nm_admin_exec(struct nm *m, struct nm_req *r)
{
	switch (r->cmd.opcode) {
	case NVME_ADM_IDENTIFY:
		return identify(m, r);
	case NVME_ADM_GET_LOG_PAGE:
		return get_log(m, r);
	case NVME_ADM_SET_FEATURES:
		return features(m, r, true);
	case NVME_ADM_GET_FEATURES:
		return features(m, r, false);
	case NVME_ADM_CREATE_CQ:
		return create_cq(m, &r->cmd);
	case NVME_ADM_CREATE_SQ:
		return create_sq(m, &r->cmd);
	case NVME_ADM_DELETE_SQ:
		return delete_sq(m, &r->cmd);
	case NVME_ADM_DELETE_CQ:
		return delete_cq(m, &r->cmd);
	case NVME_ADM_ABORT:
		return abort_cmd(m, r);
	case NVME_ADM_ASYNC_EVENT:
		return async_event(m, r);
	case NVME_ADM_DBBUF_CONFIG:
		return dbbuf_config(m, &r->cmd);
	default:
		return FAIL(NVME_SC_INVALID_OPCODE);
	}
}
