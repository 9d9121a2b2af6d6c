/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The fast path of the NVMe model: queues, PRPs and data in shared memory. A command is taken from the ring, its blocks are copied between the
 * store and the host's pages, and its completion is stored, all in one pass over plain pointers. What does not fit (memory
 * that is not shared, SGL segments, other commands, injected faults, O_DIRECT) goes to nvme_model_req.c.
 */
#include "nvme_model.h"
#include "nvme_model_copy.h"

#define GENERAL UINT16_C(0xffff) /* NM_PENDING: take the general path */
_Static_assert(GENERAL == NM_PENDING, "one value");

uint16_t svio__nm_io_check(const struct nm *m, const struct nvme_cmd *cmd, const struct nm_ns **nsp, uint64_t *off, uint32_t *len)
{
	uint32_t nsid = svio_le32_to_cpu(cmd->nsid), nlb = (svio_le32_to_cpu(cmd->cdw12) & 0xffff) + 1;
	uint64_t lba = svio_le32_to_cpu(cmd->cdw10) | (uint64_t)svio_le32_to_cpu(cmd->cdw11) << 32;
	const struct nm_ns *ns;

	if (svio_unlikely(nsid - 1 >= m->nns))
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_NS) | NVME_STATUS_DNR;
	ns = &m->ns[nsid - 1];
	if (svio_unlikely(lba >= ns->blocks || nlb > ns->blocks - lba))
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_LBA_RANGE) | NVME_STATUS_DNR;
	if (svio_unlikely((uint64_t)nlb << ns->lba_shift > NM_MAX_XFER))
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD) | NVME_STATUS_DNR;
	*nsp = ns;
	*off = lba << ns->lba_shift;
	*len = nlb << ns->lba_shift;
	return 0;
}

/* One piece of host memory. False: not shared, or not mapped for that. */
static inline bool copy(struct nm *m, uint64_t iova, uint8_t *store, uint32_t len, bool read, const struct nm_ahead *a)
{
	void *host = svio_vdev_dma_ptr(m->dev, iova, len, read ? SVIO_VDEV_WRITE : SVIO_VDEV_READ);

	if (svio_unlikely(!host))
		return false;
	if (read) {
		nm_copy(host, store, len, a, m->movsb);
		svio_vdev_dma_mark(m->dev, iova, len);
	} else {
		nm_copy(store, host, len, a, m->movsb);
	}
	return true;
}

/* The rest of the data behind prp1, from a PRP list (NVMe 1.4 §4.3): the last entry of a full list page points to the next. */
static uint16_t copy_list(struct nm *m, uint64_t list, uint8_t *store, uint32_t len, bool read)
{
	while (len) {
		uint32_t slots = (NM_PAGE - (uint32_t)(list & (NM_PAGE - 1))) / 8;
		uint32_t pages = (len + NM_PAGE - 1) / NM_PAGE, n = SVIO_MIN(pages, slots);
		const uint64_t *entry;

		if (list & 7)
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_PRP_OFFSET) | NVME_STATUS_DNR;
		entry = svio_vdev_dma_ptr(m->dev, list, (uint64_t)n * 8, SVIO_VDEV_READ);
		if (!entry)
			return GENERAL;
		if (pages > slots)
			n--; /* the last one is a pointer */
		for (uint32_t i = 0; i < n; i++) {
			uint64_t prp = le64toh(__atomic_load_n(&entry[i], __ATOMIC_RELAXED));
			uint32_t part = SVIO_MIN(len, NM_PAGE);

			if (prp & (NM_PAGE - 1))
				return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_PRP_OFFSET) | NVME_STATUS_DNR;
			struct nm_ahead a = { store + part, SVIO_MIN((len - part) / SVIO_CACHELINE, NM_AHEAD) };

			if (!copy(m, prp, store, part, read, &a))
				return GENERAL;
			store += part;
			len -= part;
		}
		if (len) {
			list = le64toh(__atomic_load_n(&entry[n], __ATOMIC_RELAXED));
			/* A list page that holds only a pointer makes no progress: a loop of such would never end. */
			if (n == 0 && (list & (NM_PAGE - 1)) == NM_PAGE - 8)
				return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_PRP_OFFSET) | NVME_STATUS_DNR;
		}
	}
	return 0;
}

/* *moved: bytes, or 0. */
static inline uint16_t rw(struct nm *m, const struct nvme_cmd *cmd, bool read, const struct nm_ahead *a, uint32_t *moved)
{
	const struct nm_ns *ns;
	uint64_t off, prp1, prp2;
	uint32_t len, first;
	uint8_t *store;
	uint16_t status = svio__nm_io_check(m, cmd, &ns, &off, &len);

	if (svio_unlikely(status))
		return status;
	if (svio_unlikely(!ns->store.mem || (!read && ns->store.readonly) || cmd->flags))
		return GENERAL;
	if (!read && svio_unlikely(svio_le32_to_cpu(cmd->cdw12) & NVME_RW_FUA) && ns->store.is_file)
		return GENERAL;
	store = ns->store.mem + off;
	prp1 = svio_le64_to_cpu(cmd->prp1);
	first = NM_PAGE - (uint32_t)(prp1 & (NM_PAGE - 1));
	if (svio_unlikely(prp1 & 3))
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_PRP_OFFSET) | NVME_STATUS_DNR;
	if (first > len)
		first = len;
	if (!copy(m, prp1, store, first, read, a))
		return GENERAL;
	if (first < len) {
		prp2 = svio_le64_to_cpu(cmd->prp2);
		if (len - first > NM_PAGE) {
			status = copy_list(m, prp2, store + first, len - first, read);
		} else if (prp2 & (NM_PAGE - 1)) {
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_PRP_OFFSET) | NVME_STATUS_DNR;
		} else if (!copy(m, prp2, store + first, len - first, read, a)) {
			return GENERAL;
		}
		/* A read that goes on by the general path copies again from the start, which changes nothing; so does a write. */
	}
	*moved = len;
	if (read) {
		m->host_reads++;
		m->sectors_read += len >> 9;
	} else {
		m->host_writes++;
		m->sectors_written += len >> 9;
	}
	return status;
}

/* The blocks of a command that will have its turn soon, the first of them. A hint: the host may still change the command. */
static inline struct nm_ahead blocks_of(const struct nm *m, const struct nvme_cmd *cmd)
{
	uint32_t nsid = svio_le32_to_cpu(cmd->nsid), nlb = (svio_le32_to_cpu(cmd->cdw12) & 0xffff) + 1;
	uint64_t lba = svio_le32_to_cpu(cmd->cdw10) | (uint64_t)svio_le32_to_cpu(cmd->cdw11) << 32;
	const struct nm_ns *ns;
	uint64_t len;

	if (cmd->opcode != NVME_IO_READ || nsid - 1 >= m->nns)
		return (struct nm_ahead){ NULL, 0 };
	ns = &m->ns[nsid - 1];
	if (!ns->store.mem || lba >= ns->blocks || nlb > ns->blocks - lba)
		return (struct nm_ahead){ NULL, 0 };
	len = (uint64_t)nlb << ns->lba_shift;
	return (struct nm_ahead){ ns->store.mem + (lba << ns->lba_shift), SVIO_MIN(len / SVIO_CACHELINE, NM_AHEAD) };
}

/*
 * Completions that wait to be posted together, at most a cache line of them. The host looks at that line all the time: each store to it
 * fetches the line back from the host's cache, and the next block's stores wait behind it. Only of small commands, and only while so many
 * more are there that the host need not be told to keep us busy: else it would wait for us, and then we for it.
 */
#define PLENTY (2 * CQES_PER_LINE)
#define CQES_PER_LINE (SVIO_CACHELINE / sizeof(struct nvme_cqe))
struct posts {
	uint64_t hi[CQES_PER_LINE];
	uint32_t n;
};

/* Into the ring, of which the model has a pointer, before cq->tail. */
static inline void flush(struct nm_cq *cq, struct posts *w)
{
	struct nvme_cqe *e;

	if (!w->n)
		return;
	e = &cq->ring[(cq->tail ? cq->tail : cq->size) - w->n];
	for (uint32_t i = 0; i < w->n; i++, e++) {
		/* The phase tag is in the second half: it must not be seen before the first, nor before the data. */
		__atomic_store_n((uint64_t *)(void *)e, 0, __ATOMIC_RELAXED);
		__atomic_store_n((uint64_t *)(void *)e + 1, w->hi[i], __ATOMIC_RELEASE);
	}
	w->n = 0;
}

/* There is room. */
static inline void post(struct nm_cq *cq, const struct nm_sq *sq, uint16_t cid, uint16_t status, bool wait, struct posts *w)
{
	w->hi[w->n++] = htole64((uint64_t)sq->head | (uint64_t)sq->id << 16 | (uint64_t)cid << 32 |
				(uint64_t)(uint16_t)(status | cq->phase) << 48);
	if (++cq->tail == cq->size) {
		cq->tail = 0;
		cq->phase ^= NVME_CQE_PHASE;
		wait = false;
	}
	if (!wait || cq->tail % CQES_PER_LINE == 0)
		flush(cq, w);
}

static inline uint32_t next_in(const struct nm_sq *sq, uint32_t at)
{
	return at + 1 == sq->size ? 0 : at + 1;
}

static inline uint32_t waiting(const struct nm_sq *sq, uint32_t tail)
{
	return tail >= sq->head ? tail - sq->head : tail + sq->size - sq->head;
}

/* Out of line, so that what it executes can be counted without the empty looks (test/bench/vfio_user --instructions). */
static __attribute__((noinline)) unsigned int sq_work(struct nm *m, struct nm_sq *sq, uint32_t tail)
{
	struct nm_cq *cq = sq->cq;
	unsigned int done = 0;
	uint32_t first_cqe;
	struct posts w = { .n = 0 };
	bool posted = false;

	if (svio_unlikely(tail >= sq->size)) {
		/* NVMe 1.4 §3.1.24, figure 147: invalid doorbell write value; the queue is of no use any more. */
		if (!sq->bad)
			svio__nm_event(m, NVME_AER_ERROR, NVME_AER_BAD_DOORBELL_VALUE, NVME_LOG_ERROR);
		sq->bad = true;
		return 0;
	}
	if (svio_unlikely(!sq->ring))
		sq->ring = svio_vdev_dma_ptr(m->dev, sq->iova, (uint64_t)sq->size * sizeof(struct nvme_cmd), SVIO_VDEV_READ);
	if (svio_unlikely(!cq->ring))
		cq->ring = svio_vdev_dma_ptr(m->dev, cq->iova, (uint64_t)cq->size * sizeof(struct nvme_cqe), SVIO_VDEV_WRITE);
	first_cqe = cq->tail;
	while (sq->head != tail && done < NM_BATCH) {
		struct nm_ahead a = { NULL, 0 };
		struct nvme_cmd cmd;
		struct nm_req *r;
		uint16_t status = GENERAL;
		uint32_t moved = 0;

		if (svio_unlikely(!nm_cq_room(m, cq)))
			break;
		if (svio_unlikely(!sq->ring || !cq->ring || sq->id == 0)) {
			r = svio__nm_req_get(m, sq);
			if (!r)
				break;
			r->step = NM_FETCH;
			r->dma.iova = sq->iova + (uint64_t)sq->head * sizeof(cmd);
			sq->head = next_in(sq, sq->head);
			svio__nm_req_run(m, r);
			done++;
			continue;
		}
		cmd = sq->ring[sq->head]; /* once: the host may change it under us */
		__asm__ volatile("" ::: "memory");
		if (!done) { /* nobody has asked for the first one's blocks */
			a = blocks_of(m, &cmd);
			for (size_t i = 0; i < NM_LEAD && i < a.lines; i++)
				__builtin_prefetch(a.p + i * SVIO_CACHELINE);
			a.lines = 0;
		}
		sq->head = next_in(sq, sq->head);
		if (sq->head == tail) { /* more may have come, whose blocks can be asked for */
			uint32_t now = nm_db_load(sq->tail_db);

			if (svio_likely(now < sq->size))
				tail = now;
		}
		if (sq->head != tail) {
			uint32_t after = next_in(sq, sq->head);

			a = blocks_of(m, &sq->ring[sq->head]);
			if (after != tail)
				__builtin_prefetch(&sq->ring[after]);
		}
		if (svio_likely(!m->nfaults)) {
			if (cmd.opcode == NVME_IO_READ)
				status = rw(m, &cmd, true, &a, &moved);
			else if (cmd.opcode == NVME_IO_WRITE)
				status = rw(m, &cmd, false, &a, &moved);
		}
		if (svio_likely(status != GENERAL)) {
			post(cq, sq, svio_le16_to_cpu(cmd.cid), status, moved <= NM_PAGE && waiting(sq, tail) >= PLENTY, &w);
			posted = true;
			done += 1 + moved / NM_WORK;
			continue;
		}
		flush(cq, &w); /* what follows posts by itself */
		r = svio__nm_req_get(m, sq);
		if (!r) { /* all busy: this command waits in the ring */
			sq->head = sq->head == 0 ? sq->size - 1 : sq->head - 1;
			break;
		}
		r->cmd = cmd;
		r->step = NM_DECODE;
		svio__nm_req_run(m, r);
		done += 1 + r->len / NM_WORK;
	}
	if (posted) {
		flush(cq, &w);
		if (cq->ring) {
			/* The dirty log is of pages: once per batch, twice when the ring has wrapped. */
			if (cq->tail > first_cqe) {
				svio_vdev_dma_mark(m->dev, cq->iova + first_cqe * sizeof(struct nvme_cqe),
						   (cq->tail - first_cqe) * sizeof(struct nvme_cqe));
			} else {
				svio_vdev_dma_mark(m->dev, cq->iova, (uint64_t)cq->size * sizeof(struct nvme_cqe));
			}
		}
		svio__nm_cq_publish(m, cq);
	}
	if (sq->eventidx && done && !m->sleeps) {
		/*
		 * The host rings when its tail passes this value (NVMe 1.4 §7.13). One behind what we have seen, it never does: we
		 * look by ourselves.
		 */
		__atomic_store_n(sq->eventidx, htole32((tail - 1) & 0xffff), __ATOMIC_RELEASE);
	}
	return done;
}

unsigned int svio__nm_sq_poll(struct nm *m, struct nm_sq *sq)
{
	uint32_t tail = nm_db_load(sq->tail_db);

	if (svio_likely(tail == sq->head)) {
		/*
		 * The next entry's line comes over at the same time as the doorbell's, not after it: the host has written both, and
		 * either is a journey from its cache to ours.
		 */
		if (svio_likely(sq->ring != NULL))
			__builtin_prefetch(&sq->ring[sq->head]);
		if (svio_likely(!sq->eventidx || !m->sleeps))
			return 0;
		/* Before we sleep: ask for the doorbell, then look once more, since the host may have looked just before. */
		__atomic_store_n(sq->eventidx, htole32(tail), __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		tail = nm_db_load(sq->tail_db);
		if (tail == sq->head)
			return 0;
	}
	return sq_work(m, sq, tail);
}
