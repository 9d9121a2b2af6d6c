/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The general path of the NVMe model: one command as a sequence of steps, each of which may have to wait for a DMA message of a
 * client that shares no memory. svio__nm_req_run() goes on until it must wait; the kit's completion callback, or the next poll, takes it further.
 *
 *	FETCH → DECODE → [LIST …] → [DATA_IN] → EXEC → [DATA_OUT] → [STALL] → POST → CQE → free
 */
#include <stdlib.h>
#include "nvme_model.h"

#define FAIL(sc) (uint16_t)(NVME_STATUS_MAKE(NVME_SCT_GENERIC, sc) | NVME_STATUS_DNR)

struct nm_req *svio__nm_req_get(struct nm *m, struct nm_sq *sq)
{
	for (uint32_t i = 0; i < NM_REQS; i++) {
		struct nm_req *r = &m->req[i];

		if (r->step != NM_FREE || r->dma_busy)
			continue;
		r->sq = sq;
		r->dma.buf = NULL; /* NM_FETCH tells by it whether the command was read: one cancelled while it was must not look so */
		r->dw0 = 0;
		r->status = 0;
		r->no_irq = false;
		r->len = r->moved = r->nsegs = r->cur = 0;
		m->live_reqs++;
		return r;
	}
	return NULL;
}

static void req_free(struct nm *m, struct nm_req *r)
{
	r->step = NM_FREE;
	m->live_reqs--;
}

void svio__nm_req_drop(struct nm *m, struct nm_req *r)
{
	if (r->step == NM_FREE)
		return;
	if (r->dma_busy) {
		svio_vdev_dma_cancel(m->dev, &r->dma);
		r->dma_busy = false;
	}
	req_free(m, r);
}

void svio__nm_req_complete(struct nm *m, struct nm_req *r, uint16_t status)
{
	r->status = status;
	if (status)
		m->errors++;
	r->step = NM_POST;
	svio__nm_req_run(m, r);
}

/* ---- DMA ------------------------------------------------------------------------------------------- */

static void dma_done(struct svio_vdev *dev, struct svio_vdev_dma *dma, int err)
{
	struct nm_req *r = dma->ctx;
	struct nm *m = svio_vdev_priv(dev);

	r->dma_busy = false;
	if (r->step == NM_FREE)
		return;
	if (err == -ECANCELED) { /* the memory, the device or the client has gone: nobody waits for this */
		req_free(m, r);
	} else if (err && (r->step == NM_FETCH || r->step == NM_CQE)) {
		/* A queue that cannot be reached: controller fatal status (NVMe 1.4 §3.1.6). */
		m->csts |= NVME_CSTS_CFS;
		req_free(m, r);
	} else if (err) {
		svio__nm_req_complete(m, r, FAIL(NVME_SC_DATA_TRANSFER));
	} else {
		svio__nm_req_run(m, r);
	}
}

/* True: done. False: it goes on in dma_done(), or failed and the request is completed or gone. */
static bool dma(struct nm *m, struct nm_req *r, uint64_t iova, void *buf, uint32_t len, enum svio_vdev_access access)
{
	int err;

	r->dma = (struct svio_vdev_dma){ .iova = iova, .buf = buf, .len = len, .access = access, .done = dma_done, .ctx = r };
	r->dma_busy = true;
	err = svio_vdev_dma_start(m->dev, &r->dma);
	if (err == -EINPROGRESS)
		return false;
	r->dma_busy = false;
	if (!err)
		return true;
	dma_done(m->dev, &r->dma, err == -ECANCELED ? -EIO : err);
	return false;
}

/* ---- where the data is ------------------------------------------------------------------------------ */

static uint16_t add_seg(struct nm_req *r, uint64_t iova, uint32_t len)
{
	if (r->nsegs == NM_MAX_SEGS)
		return FAIL(NVME_SC_SGL_COUNT);
	r->seg[r->nsegs++] = (struct nm_seg){ iova, len };
	r->moved += len;
	return 0;
}

/* PRP1 and PRP2 (NVMe 1.4 §4.3). Sets list_bytes when a list must be read. */
static uint16_t map_prps(struct nm_req *r)
{
	uint64_t prp1 = svio_le64_to_cpu(r->cmd.prp1), prp2 = svio_le64_to_cpu(r->cmd.prp2);
	uint32_t first = NM_PAGE - (uint32_t)(prp1 & (NM_PAGE - 1)), rest;
	uint16_t st;

	if (prp1 & 3)
		return FAIL(NVME_SC_PRP_OFFSET);
	st = add_seg(r, prp1, SVIO_MIN(first, r->len));
	rest = r->len - r->moved;
	if (st || !rest)
		return st;
	if (rest <= NM_PAGE)
		return prp2 & (NM_PAGE - 1) ? FAIL(NVME_SC_PRP_OFFSET) : add_seg(r, prp2, rest);
	if (prp2 & 7)
		return FAIL(NVME_SC_PRP_OFFSET);
	r->list_sgl = false;
	r->list_iova = prp2;
	r->list_bytes = SVIO_MIN((rest + NM_PAGE - 1) / NM_PAGE * 8, NM_PAGE - (uint32_t)(prp2 & (NM_PAGE - 1)));
	return 0;
}

static uint16_t take_prp_list(struct nm_req *r)
{
	uint32_t n = r->list_bytes / 8, pages = (r->len - r->moved + NM_PAGE - 1) / NM_PAGE;
	bool chained = pages > n;

	r->list_bytes = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t prp;
		uint16_t st;

		memcpy(&prp, r->list + i * 8, 8);
		prp = le64toh(prp);
		if (chained && i == n - 1) {
			uint32_t left = pages - (n - 1);

			if (prp & 7)
				return FAIL(NVME_SC_PRP_OFFSET);
			/* A list page that holds only a pointer makes no progress: a loop of such would never end. */
			if (n == 1 && (prp & (NM_PAGE - 1)) == NM_PAGE - 8)
				return FAIL(NVME_SC_PRP_OFFSET);
			r->list_iova = prp;
			r->list_bytes = SVIO_MIN(left * 8, NM_PAGE - (uint32_t)(prp & (NM_PAGE - 1)));
			return 0;
		}
		if (prp & (NM_PAGE - 1))
			return FAIL(NVME_SC_PRP_OFFSET);
		st = add_seg(r, prp, SVIO_MIN(r->len - r->moved, NM_PAGE));
		if (st)
			return st;
	}
	return 0;
}

/* One SGL descriptor (NVMe 1.4 §4.4). Sets list_bytes for a segment. */
static uint16_t take_sgl(struct nm_req *r, const struct nvme_sgl *d, bool last_in_segment)
{
	uint32_t len = svio_le32_to_cpu(d->len);
	uint64_t addr = svio_le64_to_cpu(d->addr);

	if (d->type & 0x0f) /* sub type 0: an address */
		return FAIL(NVME_SC_SGL_TYPE);
	switch (d->type) {
	case NVME_SGL_DATA:
		if (len > r->len - r->moved)
			return FAIL(NVME_SC_SGL_DATA_LEN);
		return len ? add_seg(r, addr, len) : 0;
	case NVME_SGL_SEGMENT:
	case NVME_SGL_LAST:
		if (!last_in_segment || r->list_last)
			return FAIL(NVME_SC_SGL_SEGMENT);
		if (len == 0 || len % sizeof(*d) || len > NM_PAGE)
			return FAIL(NVME_SC_SGL_SEGMENT);
		r->list_sgl = true;
		r->list_last = d->type == NVME_SGL_LAST;
		r->list_iova = addr;
		r->list_bytes = len;
		return 0;
	default:
		return FAIL(NVME_SC_SGL_TYPE);
	}
}

static uint16_t take_sgl_list(struct nm_req *r)
{
	uint32_t n = r->list_bytes / (uint32_t)sizeof(struct nvme_sgl), before = r->nsegs;

	r->list_bytes = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct nvme_sgl d;
		uint16_t st;

		memcpy(&d, r->list + i * sizeof(d), sizeof(d));
		st = take_sgl(r, &d, i == n - 1);
		if (st)
			return st;
	}
	/* Segments without data blocks could be chained for ever. */
	return r->list_bytes && r->nsegs == before ? FAIL(NVME_SC_SGL_SEGMENT) : 0;
}

static uint16_t map_data(struct nm_req *r)
{
	r->list_bytes = 0;
	r->list_last = false;
	switch (r->cmd.flags & NVME_CMD_PSDT_MASK) {
	case NVME_CMD_PSDT_PRP:
		return map_prps(r);
	case NVME_CMD_PSDT_SGL:
		return take_sgl(r, &r->cmd.sgl, true);
	default:
		return FAIL(NVME_SC_INVALID_FIELD);
	}
}

/* ---- what it does ----------------------------------------------------------------------------------- */

/* How much data the command moves, and which way. */
static uint16_t data_of(const struct nm *m, const struct nm_req *r, uint32_t *len, bool *to_host)
{
	const struct nm_ns *ns;
	uint64_t off;

	*len = 0;
	*to_host = false;
	if (r->sq->id == 0)
		return svio__nm_admin_data(&r->cmd, len, to_host);
	switch (r->cmd.opcode) {
	case NVME_IO_READ:
		*to_host = true;
		return svio__nm_io_check(m, &r->cmd, &ns, &off, len);
	case NVME_IO_WRITE:
	case NVME_IO_COMPARE:
		return svio__nm_io_check(m, &r->cmd, &ns, &off, len);
	case NVME_IO_DSM:
		*len = ((svio_le32_to_cpu(r->cmd.cdw10) & 0xff) + 1) * (uint32_t)sizeof(struct nvme_dsm_range);
		return 0;
	default:
		return 0;
	}
}

static uint16_t store_error(int err)
{
	if (!err)
		return 0;
	if (err == -EROFS)
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_NS_WRITE_PROTECTED) | NVME_STATUS_DNR;
	if (err == -ENOSPC)
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_CAPACITY);
	return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INTERNAL);
}

static struct nm_ns *ns_of(struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t nsid = svio_le32_to_cpu(cmd->nsid);

	return nsid - 1 < m->nns ? &m->ns[nsid - 1] : NULL;
}

/* Namespaces that a command names, by bit. */
static uint32_t ns_bits(struct nm *m, const struct nvme_cmd *cmd)
{
	const struct nm_ns *ns = ns_of(m, cmd);

	if (svio_le32_to_cpu(cmd->nsid) == NVME_NSID_ALL)
		return UINT32_MAX;
	return ns ? UINT32_C(1) << (ns - m->ns) : 0;
}

static uint16_t flush(struct nm *m, struct nm_req *r)
{
	uint32_t namespaces = ns_bits(m, &r->cmd);
	int err;

	if (!namespaces)
		return FAIL(NVME_SC_INVALID_NS);
	err = svio__nm_sync_ask(m, namespaces, &r->ticket);
	return err ? store_error(err) : r->ticket ? NM_PENDING : 0;
}

static uint16_t deallocate(struct nm *m, struct nm_req *r)
{
	uint32_t n = (svio_le32_to_cpu(r->cmd.cdw10) & 0xff) + 1;
	struct nm_ns *ns = ns_of(m, &r->cmd);

	if (!ns)
		return FAIL(NVME_SC_INVALID_NS);
	if (!(svio_le32_to_cpu(r->cmd.cdw11) & NVME_DSM_AD))
		return 0; /* the other attributes are hints */
	for (uint32_t i = 0; i < n; i++) {
		struct nvme_dsm_range d;
		uint64_t lba, nlb;
		int err;

		memcpy(&d, r->buf + i * sizeof(d), sizeof(d));
		lba = svio_le64_to_cpu(d.slba);
		nlb = svio_le32_to_cpu(d.nlb);
		if (lba > ns->blocks || nlb > ns->blocks - lba)
			return FAIL(NVME_SC_LBA_RANGE);
		err = svio__nm_store_zero(&ns->store, lba << ns->lba_shift, nlb << ns->lba_shift, true);
		if (err)
			return store_error(err);
	}
	return 0;
}

static uint16_t exec_io(struct nm *m, struct nm_req *r)
{
	const struct nvme_cmd *cmd = &r->cmd;
	const struct nm_ns *ns;
	uint16_t status;
	uint64_t off;
	uint32_t len;

	switch (cmd->opcode) {
	case NVME_IO_FLUSH:
		return flush(m, r);
	case NVME_IO_READ:
	case NVME_IO_WRITE:
		status = svio__nm_io_check(m, cmd, &ns, &off, &len);
		if (status)
			return status;
		if (cmd->opcode == NVME_IO_READ) {
			m->host_reads++;
			m->sectors_read += len >> 9;
		} else {
			m->host_writes++;
			m->sectors_written += len >> 9;
		}
		status = store_error(svio__nm_store_rw((struct nm_store *)(uintptr_t)&ns->store, cmd->opcode == NVME_IO_WRITE, off,
						 r->buf, len));
		if (!status && cmd->opcode == NVME_IO_WRITE && svio_le32_to_cpu(cmd->cdw12) & NVME_RW_FUA)
			status = flush(m, r);
		return status;
	case NVME_IO_COMPARE: {
		uint8_t *have;

		status = svio__nm_io_check(m, cmd, &ns, &off, &len);
		if (status)
			return status;
		have = aligned_alloc(NM_PAGE, NM_MAX_XFER);
		if (!have)
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INTERNAL);
		status = store_error(svio__nm_store_rw((struct nm_store *)(uintptr_t)&ns->store, false, off, have, len));
		if (!status && memcmp(have, r->buf, len) != 0)
			status = NVME_STATUS_MAKE(NVME_SCT_MEDIA, NVME_SC_COMPARE) | NVME_STATUS_DNR;
		free(have);
		return status;
	}
	case NVME_IO_WRITE_ZEROES: {
		/* No data moves, so MDTS does not bound it: up to 65536 blocks (NVMe 1.4 §6.16). */
		struct nm_ns *z = ns_of(m, cmd);
		uint64_t lba = svio_le32_to_cpu(cmd->cdw10) | (uint64_t)svio_le32_to_cpu(cmd->cdw11) << 32;
		uint64_t nlb = (svio_le32_to_cpu(cmd->cdw12) & 0xffff) + 1;

		if (!z)
			return FAIL(NVME_SC_INVALID_NS);
		if (lba >= z->blocks || nlb > z->blocks - lba)
			return FAIL(NVME_SC_LBA_RANGE);
		return store_error(svio__nm_store_zero(&z->store, lba << z->lba_shift, nlb << z->lba_shift,
						 svio_le32_to_cpu(cmd->cdw12) & NVME_WZ_DEAC));
	}
	case NVME_IO_DSM:
		return deallocate(m, r);
	default:
		return FAIL(NVME_SC_INVALID_OPCODE);
	}
}

/* ---- the steps -------------------------------------------------------------------------------------- */

static uint16_t decode(struct nm *m, struct nm_req *r, bool *to_host)
{
	uint16_t status;

	if (r->cmd.flags & NVME_CMD_FUSE_MASK)
		return FAIL(NVME_SC_INVALID_FIELD); /* FUSES is 0 */
	/* Admin commands use PRPs (NVMe 1.4 §4.2, PSDT). */
	if (r->sq->id == 0 && r->cmd.flags & NVME_CMD_PSDT_MASK)
		return FAIL(NVME_SC_INVALID_FIELD);
	status = data_of(m, r, &r->len, to_host);
	if (status || !r->len)
		return status;
	if (!r->buf)
		r->buf = aligned_alloc(NM_PAGE, NM_MAX_XFER); /* O_DIRECT wants the alignment */
	if (!r->buf)
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INTERNAL);
	return map_data(r);
}

/* All segments from r->cur on, between r->buf and the host. */
static bool move(struct nm *m, struct nm_req *r, enum svio_vdev_access access)
{
	while (r->cur < r->nsegs) {
		const struct nm_seg *s = &r->seg[r->cur++];
		uint32_t at = r->moved;

		r->moved += s->len;
		if (!dma(m, r, s->iova, r->buf + at, s->len, access))
			return false;
	}
	return true;
}

static bool faulty(struct nm *m, struct nm_req *r)
{
	const struct nm_fault *f = m->nfaults ? svio__nm_inject_match(m, r->sq->id == 0, r->cmd.opcode) : NULL;

	if (!f)
		return false;
	switch (f->kind) {
	case NM_FAULT_STATUS:
		svio__nm_req_complete(m, r, f->status);
		return true;
	case NM_FAULT_DROP:
		r->step = NM_HELD;
		return true;
	case NM_FAULT_NOIRQ:
		r->no_irq = true;
		return false;
	case NM_FAULT_STALL:
		r->due = svio_now_ns() + (uint64_t)f->stall_us * 1000;
		svio_vdev_kick_after(m->dev, (uint64_t)f->stall_us * 1000);
		return false;
	}
	return false;
}

static void post(struct nm *m, struct nm_req *r)
{
	struct nm_cq *cq = r->sq->cq;
	uint32_t at = cq->tail;

	r->cqe = (struct nvme_cqe){ .dw0 = svio_cpu_to_le32(r->dw0),
				    .sqhd = svio_cpu_to_le16(r->sq->head),
				    .sqid = svio_cpu_to_le16(r->sq->id),
				    .cid = r->cmd.cid,
				    .status = svio_cpu_to_le16(r->status | cq->phase) };
	if (++cq->tail == cq->size) {
		cq->tail = 0;
		cq->phase ^= NVME_CQE_PHASE;
	}
	r->step = NM_CQE;
	if (!cq->ring)
		cq->ring = svio_vdev_dma_ptr(m->dev, cq->iova, (uint64_t)cq->size * sizeof(struct nvme_cqe), SVIO_VDEV_WRITE);
	if (cq->ring) {
		/* The second half carries the phase tag: it goes last, in one store. */
		uint64_t half[2];

		memcpy(half, &r->cqe, sizeof(half));
		__atomic_store_n((uint64_t *)(void *)&cq->ring[at], half[0], __ATOMIC_RELAXED);
		__atomic_store_n((uint64_t *)(void *)&cq->ring[at] + 1, half[1], __ATOMIC_RELEASE);
		svio_vdev_dma_mark(m->dev, cq->iova + at * sizeof(struct nvme_cqe), sizeof(struct nvme_cqe));
		svio__nm_req_run(m, r);
	} else if (dma(m, r, cq->iova + at * sizeof(struct nvme_cqe), &r->cqe, sizeof(r->cqe), SVIO_VDEV_WRITE)) {
		svio__nm_req_run(m, r);
	}
}

void svio__nm_req_run(struct nm *m, struct nm_req *r)
{
	uint16_t status;
	bool to_host;

	switch (r->step) {
	case NM_FETCH:
		if (r->dma.buf != &r->cmd) { /* first time: it was told where the command is */
			if (!dma(m, r, r->dma.iova, &r->cmd, sizeof(r->cmd), SVIO_VDEV_READ))
				return;
		}
		r->dma.buf = NULL;
		r->step = NM_DECODE;
		/* fall through */
	case NM_DECODE:
		r->due = 0;
		if (faulty(m, r))
			return;
		status = decode(m, r, &to_host);
		if (status) {
			svio__nm_req_complete(m, r, status);
			return;
		}
		/* fall through */
	case NM_LIST:
		if (r->step == NM_LIST) {
			status = r->list_sgl ? take_sgl_list(r) : take_prp_list(r);
			if (status) {
				svio__nm_req_complete(m, r, status);
				return;
			}
		}
		while (r->list_bytes) {
			r->step = NM_LIST;
			if (!dma(m, r, r->list_iova, r->list, r->list_bytes, SVIO_VDEV_READ))
				return;
			status = r->list_sgl ? take_sgl_list(r) : take_prp_list(r);
			if (status) {
				svio__nm_req_complete(m, r, status);
				return;
			}
		}
		if (r->moved != r->len) { /* SGLs may describe less than the command moves */
			svio__nm_req_complete(m, r, FAIL(NVME_SC_SGL_DATA_LEN));
			return;
		}
		r->moved = r->cur = 0;
		r->step = NM_DATA_IN;
		/* fall through */
	case NM_DATA_IN:
		data_of(m, r, &r->len, &to_host);
		if (!to_host && !move(m, r, SVIO_VDEV_READ))
			return;
		r->step = NM_EXEC;
		/* fall through */
	case NM_EXEC:
		status = r->sq->id == 0 ? svio__nm_admin_exec(m, r) : exec_io(m, r);
		if (status == NM_PENDING) {
			r->step = r->ticket ? NM_SYNC : NM_HELD;
			if (r->ticket)
				m->parked = true; /* svio__nm_reqs_poll() looks */
			return;
		}
		if (r->step == NM_FREE) /* the command reset what it came from */
			return;
		data_of(m, r, &r->len, &to_host);
		if (status || !to_host) {
			r->nsegs = 0;
			if (status)
				m->errors++;
		}
		r->status = status;
		r->moved = r->cur = 0;
		r->step = NM_DATA_OUT;
		/* fall through */
	case NM_DATA_OUT:
		if (!move(m, r, SVIO_VDEV_WRITE))
			return;
		r->step = r->due ? NM_STALL : NM_POST;
		if (r->step == NM_STALL) {
			m->parked = true;
			return;
		}
		/* fall through */
	case NM_POST:
		if (!nm_cq_room(m, r->sq->cq)) {
			m->parked = true; /* svio__nm_reqs_poll() tries again */
			return;
		}
		post(m, r);
		return;
	case NM_CQE: {
		struct nm_cq *cq = r->sq->cq;
		bool irq = !r->no_irq;

		req_free(m, r);
		if (irq)
			svio__nm_cq_publish(m, cq);
		return;
	}
	case NM_SYNC:
	case NM_STALL:
	case NM_HELD:
	case NM_FREE:
		return;
	}
}

/* A flush that has ended. */
static uint16_t sync_status(struct nm *m, const struct nm_req *r)
{
	uint32_t namespaces = ns_bits(m, &r->cmd);
	uint16_t status = 0;

	for (uint32_t i = 0; i < m->nns && !status; i++)
		if (namespaces >> i & 1)
			status = store_error(m->sync_err[i]);
	m->errors += status != 0;
	return status;
}

unsigned int svio__nm_reqs_poll(struct nm *m)
{
	unsigned int done = 0;

	m->parked = false;
	svio__nm_sync_look(m);
	for (uint32_t i = 0; i < NM_REQS; i++) {
		struct nm_req *r = &m->req[i];

		if (r->dma_busy)
			continue;
		if (r->step == NM_SYNC) {
			if (r->ticket > m->synced) {
				m->parked = true;
				continue;
			}
			r->status = sync_status(m, r);
			r->step = r->due ? NM_STALL : NM_POST;
		}
		if (r->step == NM_STALL) {
			uint64_t now = svio_now_ns();

			if (now < r->due) {
				svio_vdev_kick_after(m->dev, r->due - now);
				m->parked = true;
				continue;
			}
			r->step = NM_POST;
		}
		if (r->step == NM_POST) {
			if (nm_cq_room(m, r->sq->cq)) {
				svio__nm_req_run(m, r);
				done++;
			} else {
				m->parked = true;
			}
		}
	}
	memset(m->sync_err, 0, sizeof(m->sync_err)); /* whoever waited for it was told */
	return done;
}
