/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hot path: submission entries written in place, completions taken by phase.
 *
 * A queue of n entries has n - 1 command ids or fewer, so that neither ring can overflow and nobody
 * counts. An id is an index into the ledger; free ids lie on a stack, so that the warmest is used
 * next. The entry is written with whole 64-bit words and never read back.
 */
#if defined(__GNUC__) && !defined(__clang__)
/* Two words of a ledger put together in a vector register cost more than two stores. */
#pragma GCC optimize("no-tree-slp-vectorize")
#endif
#include "nvme_priv.h"

/* ---- doorbells ------------------------------------------------------------------------------- */

/*
 * Doorbell Buffer Config (1.4 §5.7): the controller reads the shadow by itself while it is busy and
 * asks, by EventIdx, for a real doorbell when it stops. Our store to the shadow must be visible
 * before we read EventIdx, or both sides go to sleep: the one reordering that x86 does, so a full
 * fence. Doorbells that cannot be mapped (db NULL) come here too, with or without shadows (eventidx
 * NULL).
 */
static __attribute__((noinline)) void ring_shadow(struct svio_nvme_qp *qp, uint32_t is_cq,
						  volatile uint32_t *shadow,
						  const volatile uint32_t *eventidx,
						  volatile uint32_t *db, uint32_t old, uint32_t new)
{
	svio_mmio_write32(shadow, new);
	nvme_full_fence();
	/*
	 * Has the controller's mark been passed by this move from old to new, in 16-bit arithmetic?
	 */
	if (eventidx && (uint16_t)(new - svio_mmio_read32(eventidx) - 1) >= (uint16_t)(new - old))
		return;
	if (db)
		svio_mmio_write32(db, new);
	else
		nvme_doorbell(qp->nvme, 2 * qp->qid + is_cq, new);
}

static __attribute__((noinline)) void ring_sq_shadow(struct svio_nvme_qp *qp)
{
	ring_shadow(qp, 0, qp->sq_shadow, qp->sq_eventidx, qp->sq_db, (uint32_t)qp->rung & qp->mask,
		    (uint32_t)qp->seq & qp->mask);
	qp->rung = qp->seq;
}

static inline __attribute__((always_inline)) void ring_sq(struct svio_nvme_qp *qp)
{
	svio_dma_wmb();
	if (svio_unlikely(qp->shadow_mode))
		ring_sq_shadow(qp);
	else
		svio_mmio_write32(qp->sq_db, (uint32_t)qp->seq & qp->mask);
}

void svio_nvme_ring(struct svio_nvme_qp *qp)
{
	/* Any later request that was not held back has rung for all. */
	if (qp->held != qp->seq)
		return;
	qp->held = UINT64_MAX;
	ring_sq(qp);
}

static inline __attribute__((always_inline)) void ring_cq(struct svio_nvme_qp *qp,
							  const struct nvme_cqe *cqe)
{
	uint32_t head = (uint32_t)(cqe - qp->cq);

	if (svio_unlikely(qp->cq_shadow != NULL))
		ring_shadow(qp, 1, qp->cq_shadow, qp->cq_eventidx, qp->cq_db, qp->cq_rung, head);
	else
		svio_mmio_write32(qp->cq_db, head);
	qp->cq_rung = head;
}

/* ---- submission ------------------------------------------------------------------------------ */

/* What is not the rule at the end of a submission; nothing has been told to the controller yet. */
static __attribute__((noinline)) int committed(struct svio_nvme_qp *qp, uint32_t flags)
{
	struct nvme_cmd *sqe = &qp->sq[(uint32_t)(qp->seq - 1) & qp->mask];
	struct nvme_req *req =
		&qp->reqs[nvme_free_ids(qp)[qp->free_idx - 1]]; /* taken, but still there */

	if (flags & ~(SVIO_NVME_MORE | SVIO_NVME_FUA |
		      qp->shadow_mode)) { /* undone: the id is still on the stack */
		req->op = NVME_REQ_FREE;
		qp->free_idx--;
		qp->seq--;
		return -EINVAL;
	}
	if (flags & SVIO_NVME_FUA) {
		req->flags |= NVME_REQ_FUA;
		sqe->cdw12 = svio_cpu_to_le32((req->nlb - 1) | NVME_RW_FUA);
	}
	if (flags & SVIO_NVME_MORE)
		qp->held = qp->seq;
	else
		ring_sq(qp);
	return 0;
}

static const uint64_t no_delta;

/*
 * The compiler shall take this value as it is from here on, instead of an expression of which it
 * keeps the parts in registers.
 */
#define OPAQUE(x) __asm__("" : "+r"(x))

/*
 * nlb as the wire has it, 0's based; 0 for commands without. Not shared with an earlier nlb - 1,
 * which would hold a register.
 */
static inline __attribute__((always_inline)) uint64_t wire_nlb(uint64_t nlb, bool has_nlb)
{
	uint64_t v;

	if (!has_nlb)
		return 0;
#if defined(__x86_64__)
	__asm__("lea -1(%1), %0" : "=r"(v) : "r"(nlb));
#else
	v = nlb - 1;
#endif
	return v;
}

/* Take an id: false when there was none (free_idx is 1 then). */
static inline __attribute__((always_inline)) bool take_id(struct svio_nvme_qp *qp)
{
#if defined(__x86_64__)
	bool none;

	/* The sum's own flags; the compiler would test the sum once more. */
	__asm__("addq $1, %0" : "+m"(qp->free_idx), "=@ccg"(none));
	return !none;
#else
	return ++qp->free_idx <= 0;
#endif
}

/*
 * The compiler shall not mix what is before with what is after: fewer values live at once, and no
 * register to save.
 */
static inline __attribute__((always_inline)) void in_order_here(void)
{
	__asm__ volatile("" ::: "memory");
}

/*
 * Write the next entry and the ledger of the id that the caller took from the stack, and tell the
 * controller. The order of the lines is that in which values die, and what comes on the stack is
 * fetched from there last: both spare registers, and the saving of registers. CDW2-3, MPTR and
 * CDW14-15 are zero in every command of this driver: prepare_rings() wrote them once.
 *
 * opcode has the flags of CDW0 in bits 8-15, op those of the ledger.
 */
static inline __attribute__((always_inline)) int
submit(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, uint32_t opcode, uint32_t op,
       uint64_t ledger_dptr0, uint64_t base, const uint64_t *delta, uint64_t dptr1,
       uint64_t cdw10_11, bool has_nlb, uint64_t lba, uint64_t nlb, uint32_t flags,
       const volatile svio_nvme_cb *cb, void *const volatile *ctx)
{
	struct nvme_cmd *sqe = &qp->sq[(uint32_t)qp->seq & qp->mask];
	uint64_t *w = (uint64_t *)(void *)sqe, cid, pair, seq, what;
	struct nvme_req *req;

	in_order_here();
	w[5] = htole64(cdw10_11);
	w[3] = htole64(base + *delta);
	w[4] = htole64(dptr1);
	w[6] = htole64(wire_nlb(nlb, has_nlb));
	*(uint32_t *)(void *)sqe = htole32(opcode); /* and over its upper half: */
	in_order_here();
	cid = nvme_free_ids(qp)[qp->free_idx - 1];
	sqe->cid = svio_cpu_to_le16(cid);
	OPAQUE(cid);
	req = &qp->reqs[cid];
	__builtin_memcpy(
		&pair, &ns->nsid,
		8); /* and lba_size, above it on the little-endian machines that we are for */
	sqe->nsid = svio_cpu_to_le32((uint32_t)pair);
	req->dptr[0] = ledger_dptr0;
	req->lba = lba;
	what = nlb | (uint64_t)op << 32; /* and flags */
	__builtin_memcpy(&req->nlb, &what, 8);
	seq = qp->seq;
	req->seq = seq;
	qp->seq = ++seq;
	__builtin_memcpy(&req->nsid, &pair, 8);
	req->cb = *cb;
	req->ctx = *ctx;
	flags |= qp->shadow_mode;
	if (svio_unlikely(flags)) {
		int done = 0;

		if (svio_unlikely(flags != SVIO_NVME_MORE))
			return committed(qp, flags);
		qp->held = seq;
		OPAQUE(done); /* a return of its own rather than a jump to the other one */
		return done;
	}
	svio_dma_wmb();
	svio_mmio_write32(qp->sq_db, (uint32_t)seq & qp->mask);
	return 0;
}

static __attribute__((noinline, cold)) int no_id(struct svio_nvme_qp *qp)
{
	qp->free_idx = 0;
	return qp->closed ? -ENODEV : -EAGAIN;
}

static inline __attribute__((always_inline)) uint32_t top_cid(struct svio_nvme_qp *qp)
{
	return nvme_free_ids(qp)[qp->free_idx];
}

static __attribute__((noinline)) uint64_t prp2_of(struct svio_nvme_qp *qp, uint32_t cid,
						  uint64_t iova, uint64_t bytes)
{
	struct nvme_prp prp;

	nvme_prp_begin(&prp, qp->lists + ((size_t)cid << qp->list_shift),
		       qp->lists_iova + ((uint64_t)cid << qp->list_shift), 1u << qp->list_shift,
		       qp->page_size);
	/* Cannot fail: dword aligned, and lists are sized for max_transfer. */
	(void)nvme_prp_add(&prp, iova, bytes);
	return nvme_prp_end(&prp);
}

/* Any read or write. */
static inline __attribute__((always_inline)) int
rw(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const void *buf, uint64_t lba,
   uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx, uint32_t opcode, uint32_t op)
{
	uint64_t bytes = (uint64_t)nlb * ns->lba_size, iova, prp2 = 0, room;
	uint32_t cid;

	/*
	 * nlb 0 wraps around to the largest; max_transfer <= 32 MiB, which keeps nlb within 16
	 * bits.
	 */
	if (bytes - 1 >= qp->max_transfer || ((uintptr_t)buf & 3) ||
	    __builtin_sub_overflow(ns->blocks, lba, &room) || room < nlb)
		return -EINVAL;
	if (qp->free_idx >= 0)
		return no_id(qp);
	iova = svio_ioas_iova_range(qp->ioas, buf, bytes);
	if (iova == SVIO_IOVA_BAD)
		return -EFAULT;
	cid = top_cid(qp);
	if ((iova & (qp->page_size - 1)) + bytes > qp->page_size)
		prp2 = prp2_of(qp, cid, iova, bytes);
	qp->free_idx++;
	return submit(qp, ns, opcode, op, (uint64_t)(uintptr_t)buf, iova, &no_delta, prp2, lba,
		      true, lba, nlb, flags, &cb, &ctx);
}

static __attribute__((noinline)) int read_any(struct svio_nvme_qp *qp,
					      const struct svio_nvme_ns *ns, const void *buf,
					      uint64_t lba, uint32_t nlb, uint32_t flags,
					      svio_nvme_cb cb, void *ctx)
{
	return rw(qp, ns, buf, lba, nlb, flags, cb, ctx, NVME_IO_READ, NVME_REQ_READ);
}

static __attribute__((noinline)) int write_any(struct svio_nvme_qp *qp,
					       const struct svio_nvme_ns *ns, const void *buf,
					       uint64_t lba, uint32_t nlb, uint32_t flags,
					       svio_nvme_cb cb, void *ctx)
{
	return rw(qp, ns, buf, lba, nlb, flags, cb, ctx, NVME_IO_WRITE, NVME_REQ_WRITE);
}

/*
 * The common case, decided by compares alone: inside one 4 KiB page of the largest mapping, inside
 * the namespace, an id free. A mapping consists of whole 4 KiB pages, congruent to their IOVAs, and
 * a controller's page is no smaller: no second PRP and no second look at the mapping's end. nlb 0
 * makes `last` overflow or lie beyond every namespace. Everything else, and every error, is left to
 * the general function, which is entered by a jump. When true, an id is taken; when it was ids that
 * lacked, free_idx is 1, and the general function puts it right.
 */
static inline __attribute__((always_inline)) bool is_simple(struct svio_nvme_qp *qp,
							    const struct svio_nvme_ns *ns,
							    uint64_t va, uint64_t lba, uint64_t nlb,
							    const struct svio_ioas_hot_range *hot)
{
	uint64_t last;

	if (svio_unlikely((va ^ (va + nlb * ns->lba_size - 1)) >> 12))
		return false;
	if (svio_unlikely(__builtin_add_overflow(lba, nlb - 1, &last)) ||
	    svio_unlikely(last >= ns->blocks))
		return false;
	if (svio_unlikely(va - hot->va >= hot->len))
		return false;
	if (svio_unlikely(va & 3))
		return false;
	return svio_likely(take_id(qp));
}

#define DEFINE_RW(name, buf_type, any, opcode, op)                                                \
	int name(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, buf_type buf,            \
		 uint64_t lba, uint32_t nlb, uint32_t flags, svio_nvme_cb volatile cb,            \
		 void *volatile ctx)                                                              \
	{                                                                                         \
		const struct svio_ioas_hot_range *hot = svio_ioas_hot_range(qp->ioas);            \
		uint64_t va = (uint64_t)(uintptr_t)buf, n = nlb;                                  \
                                                                                                  \
		if (is_simple(qp, ns, va, lba, n, hot))                                           \
			return submit(qp, ns, opcode, op, va, va, &hot->delta, 0, lba, true, lba, \
				      n, flags, &cb, &ctx);                                       \
		return any(qp, ns, buf, lba, nlb, flags, cb, ctx);                                \
	}

DEFINE_RW(svio_nvme_read, void *, read_any, NVME_IO_READ, NVME_REQ_READ)
DEFINE_RW(svio_nvme_write, const void *, write_any, NVME_IO_WRITE, NVME_REQ_WRITE)

/* ---- scattered buffers ----------------------------------------------------------------------- */

static int iov_prp(struct svio_nvme_qp *qp, uint32_t cid, const struct svio_nvme_iov *iov,
		   uint32_t niov, uint64_t *dptr)
{
	struct nvme_prp prp;

	nvme_prp_begin(&prp, qp->lists + ((size_t)cid << qp->list_shift),
		       qp->lists_iova + ((uint64_t)cid << qp->list_shift), 1u << qp->list_shift,
		       qp->page_size);
	for (uint32_t i = 0; i < niov; i++) {
		uint64_t iova = svio_ioas_iova_range(qp->ioas, iov[i].base, iov[i].len);

		if (iova == SVIO_IOVA_BAD)
			return -EFAULT;
		if (nvme_prp_add(&prp, iova, iov[i].len))
			return -EINVAL;
	}
	dptr[0] = prp.prp1;
	dptr[1] = nvme_prp_end(&prp);
	return 0;
}

static int iov_sgl(struct svio_nvme_qp *qp, uint32_t cid, const struct svio_nvme_iov *iov,
		   uint32_t niov, uint64_t *dptr)
{
	struct nvme_sgl_build sgl;
	struct nvme_sgl first;

	nvme_sgl_begin(&sgl, qp->lists + ((size_t)cid << qp->list_shift),
		       qp->lists_iova + ((uint64_t)cid << qp->list_shift), 1u << qp->list_shift);
	for (uint32_t i = 0; i < niov; i++) {
		uint64_t iova = svio_ioas_iova_range(qp->ioas, iov[i].base, iov[i].len);

		if (iova == SVIO_IOVA_BAD)
			return -EFAULT;
		/*
		 * Dword alignment is all that some controllers take (SGLS 10b), and no less than
		 * blocks need.
		 */
		if (((iova | iov[i].len) & 3) || nvme_sgl_add(&sgl, iova, iov[i].len))
			return -EINVAL;
	}
	first = nvme_sgl_end(&sgl);
	__builtin_memcpy(dptr, &first, sizeof(first));
	dptr[0] = le64toh(dptr[0]);
	dptr[1] = le64toh(dptr[1]);
	return 0;
}

static int rwv(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns,
	       const struct svio_nvme_iov *iov, uint32_t niov, uint64_t lba, uint32_t nlb,
	       uint32_t flags, svio_nvme_cb cb, void *ctx, uint32_t opcode, uint32_t op)
{
	uint64_t bytes = (uint64_t)nlb * ns->lba_size, room, sum = 0;
	struct nvme_req *req;
	uint32_t cid;
	int r;

	if (bytes - 1 >= qp->max_transfer || __builtin_sub_overflow(ns->blocks, lba, &room) ||
	    room < nlb)
		return -EINVAL;
	for (uint32_t i = 0; i < niov; i++)
		if (iov[i].len == 0 || __builtin_add_overflow(sum, iov[i].len, &sum))
			return -EINVAL;
	if (sum != bytes)
		return -EINVAL;
	if (!qp->free_idx)
		return no_id(qp);
	cid = top_cid(qp);
	req = &qp->reqs[cid];
	r = iov_prp(qp, cid, iov, niov, req->dptr);
	if (r == -EINVAL && qp->sgl) {
		r = iov_sgl(qp, cid, iov, niov, req->dptr);
		op |= NVME_REQ_SGL << 8;
		opcode |= NVME_CMD_PSDT_SGL << 8;
	}
	if (r)
		return r;
	qp->free_idx++;
	return submit(qp, ns, opcode, op, req->dptr[0], req->dptr[0], &no_delta, req->dptr[1], lba,
		      true, lba, nlb, flags, &cb, &ctx);
}

int svio_nvme_readv(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns,
		    const struct svio_nvme_iov *iov, uint32_t niov, uint64_t lba, uint32_t nlb,
		    uint32_t flags, svio_nvme_cb cb, void *ctx)
{
	return rwv(qp, ns, iov, niov, lba, nlb, flags, cb, ctx, NVME_IO_READ, NVME_REQ_READV);
}

int svio_nvme_writev(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns,
		     const struct svio_nvme_iov *iov, uint32_t niov, uint64_t lba, uint32_t nlb,
		     uint32_t flags, svio_nvme_cb cb, void *ctx)
{
	return rwv(qp, ns, iov, niov, lba, nlb, flags, cb, ctx, NVME_IO_WRITE, NVME_REQ_WRITEV);
}

/* ---- commands without data, or with their own ------------------------------------------------ */

int svio_nvme_flush(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, svio_nvme_cb cb,
		    void *ctx)
{
	if (!qp->free_idx)
		return no_id(qp);
	qp->free_idx++;
	return submit(qp, ns, NVME_IO_FLUSH, NVME_REQ_FLUSH, 0, 0, &no_delta, 0, 0, false, 0, 0, 0,
		      &cb, &ctx);
}

int svio_nvme_write_zeroes(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, uint64_t lba,
			   uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx)
{
	uint64_t room;

	if (!(qp->oncs & NVME_ONCS_WRITE_ZEROES))
		return -EOPNOTSUPP;
	if (nlb - 1 >= NVME_RW_NLB_MAX || __builtin_sub_overflow(ns->blocks, lba, &room) ||
	    room < nlb)
		return -EINVAL;
	if (!qp->free_idx)
		return no_id(qp);
	qp->free_idx++;
	return submit(qp, ns, NVME_IO_WRITE_ZEROES, NVME_REQ_ZEROES, 0, 0, &no_delta, 0, lba, true,
		      lba, nlb, flags, &cb, &ctx);
}

int svio_nvme_deallocate(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns,
			 const struct svio_nvme_range *ranges, uint32_t count, svio_nvme_cb cb,
			 void *ctx)
{
	struct nvme_dsm_range *list;
	uint64_t room, list_iova;
	uint32_t cid;

	if (!(qp->oncs & NVME_ONCS_DSM))
		return -EOPNOTSUPP;
	if (count - 1 >= NVME_DSM_MAX_RANGES)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++)
		if (ranges[i].nlb == 0 ||
		    __builtin_sub_overflow(ns->blocks, ranges[i].lba, &room) ||
		    room < ranges[i].nlb)
			return -EINVAL;
	if (!qp->free_idx)
		return no_id(qp);
	cid = top_cid(qp);
	/* The request's list memory is a page or more: all 256 ranges fit into PRP1's page. */
	list = (void *)(qp->lists + ((size_t)cid << qp->list_shift));
	list_iova = qp->lists_iova + ((uint64_t)cid << qp->list_shift);
	for (uint32_t i = 0; i < count; i++)
		list[i] = (struct nvme_dsm_range){
			.nlb = svio_cpu_to_le32(ranges[i].nlb),
			.slba = svio_cpu_to_le64(ranges[i].lba),
		};
	qp->free_idx++;
	return submit(qp, ns, NVME_IO_DSM, NVME_REQ_DSM, 0, list_iova, &no_delta, 0,
		      (count - 1) | (uint64_t)NVME_DSM_AD << 32, false, 0, count, 0, &cb, &ctx);
}

/*
 * Write the entry of a request in flight once more, from the ledger. -EFAULT when its buffer is no
 * longer mapped.
 */
int nvme_rebuild(struct svio_nvme_qp *qp, uint32_t cid, struct nvme_cmd *sqe)
{
	static const uint8_t opcodes[] = {
		[NVME_REQ_READ] = NVME_IO_READ,	  [NVME_REQ_WRITE] = NVME_IO_WRITE,
		[NVME_REQ_READV] = NVME_IO_READ,  [NVME_REQ_WRITEV] = NVME_IO_WRITE,
		[NVME_REQ_FLUSH] = NVME_IO_FLUSH, [NVME_REQ_ZEROES] = NVME_IO_WRITE_ZEROES,
		[NVME_REQ_DSM] = NVME_IO_DSM,
	};
	const struct nvme_req *req = &qp->reqs[cid];
	uint64_t dptr0 = 0, dptr1 = 0, cdw10 = req->lba, cdw12 = 0, bytes;
	uint64_t rw_cdw12 = (req->nlb - 1) | (req->flags & NVME_REQ_FUA ? NVME_RW_FUA : 0);
	uint8_t flags = 0;

	switch (req->op) {
	case NVME_REQ_READ:
	case NVME_REQ_WRITE:
		bytes = (uint64_t)req->nlb * req->lba_size;
		dptr0 = svio_ioas_iova_range(qp->ioas, req->buf, bytes);
		if (dptr0 == SVIO_IOVA_BAD)
			return -EFAULT;
		if ((dptr0 & (qp->page_size - 1)) + bytes > qp->page_size)
			dptr1 = prp2_of(qp, cid, dptr0, bytes);
		cdw12 = rw_cdw12;
		break;
	case NVME_REQ_READV:
	case NVME_REQ_WRITEV:
		dptr0 = req->dptr[0];
		dptr1 = req->dptr[1];
		if (req->flags & NVME_REQ_SGL)
			flags = NVME_CMD_PSDT_SGL;
		cdw12 = rw_cdw12;
		break;
	case NVME_REQ_ZEROES:
		cdw12 = rw_cdw12;
		break;
	case NVME_REQ_DSM:
		dptr0 = qp->lists_iova + ((uint64_t)cid << qp->list_shift);
		cdw10 = (req->nlb - 1) | (uint64_t)NVME_DSM_AD << 32;
		break;
	default:
		break;
	}
	*sqe = (struct nvme_cmd){
		.opcode = opcodes[req->op],
		.flags = flags,
		.cid = svio_cpu_to_le16(cid),
		.nsid = svio_cpu_to_le32(req->nsid),
		.prp1 = svio_cpu_to_le64(dptr0),
		.prp2 = svio_cpu_to_le64(dptr1),
		.cdw10 = svio_cpu_to_le32((uint32_t)cdw10),
		.cdw11 = svio_cpu_to_le32((uint32_t)(cdw10 >> 32)),
		.cdw12 = svio_cpu_to_le32((uint32_t)cdw12),
	};
	return 0;
}

/* ---- completion ------------------------------------------------------------------------------ */

/* Give the id back and tell the user, in this order: the callback may use it again at once. */
void nvme_complete(struct svio_nvme_qp *qp, uint32_t cid, int status)
{
	struct nvme_req *req = &qp->reqs[cid];

	if (svio_unlikely(nvme_cid_limit(qp) != qp->nreq))
		nvme_mark(qp, req);
	req->op = NVME_REQ_FREE;
	if (qp->closed)
		qp->left--;
	else
		nvme_free_ids(qp)[--qp->free_idx] = (uint16_t)cid;
	req->cb(req->ctx, status);
}

/* An abort that we asked for is the user's timeout. */
static __attribute__((noinline, cold)) int error_of(const struct nvme_req *req, uint32_t status)
{
	if ((req->flags & NVME_REQ_TIMEDOUT) &&
	    status == SVIO_NVME_SC(NVME_SCT_GENERIC, NVME_SC_ABORT_REQUESTED))
		return -ETIMEDOUT;
	return (int)status;
}

static inline __attribute__((always_inline)) uint16_t cqe_half(const svio_le16 *field)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)field, __ATOMIC_RELAXED));
}

/* SQHD and SQID. */
static inline __attribute__((always_inline)) uint32_t cqe_sq(const struct nvme_cqe *cqe)
{
	return le32toh(
		__atomic_load_n((const uint32_t *)(const void *)&cqe->sqhd, __ATOMIC_RELAXED));
}

static inline __attribute__((always_inline)) uint64_t cqe_word(const struct nvme_cqe *cqe)
{
	/* SQHD, SQID, CID, status: one load, so that they belong together. */
	return le64toh(
		__atomic_load_n((const uint64_t *)(const void *)&cqe->sqhd, __ATOMIC_RELAXED));
}

static __attribute__((noinline, cold)) void bad_completion(struct svio_nvme_qp *qp,
							   const struct nvme_cqe *cqe)
{
	uint64_t w = cqe_word(cqe);

	nvme_qp_fault(
		qp,
		"queue %u: completion of command %u of queue %u at head %u, which is not under way",
		qp->qid, (uint32_t)(w >> 32) & 0xffff, (uint32_t)(w >> 16) & 0xffff,
		(uint32_t)w & 0xffff);
}

/* The status of a new entry that is not a plain success. */
static __attribute__((noinline, cold)) int odd_status(const struct svio_nvme_qp *qp,
						      const struct nvme_cqe *cqe)
{
	uint64_t w = cqe_word(cqe);
	uint32_t cid = (uint16_t)(w >> 32), status = (uint32_t)(w >> 49) & 0x7ff;

	return cid < qp->nreq ? error_of(&qp->reqs[cid], status) : (int)status;
}

static inline __attribute__((always_inline)) uint32_t reap(struct svio_nvme_qp *qp, uint32_t max,
							   bool dead)
{
	const struct nvme_cqe *cqe = qp->cqe;
	uint32_t good =
		qp->stale ^
		1; /* the whole upper half-word of a new entry without an error: its phase */
	uint32_t left;

	if (max - 1 >= qp->entries) /* 0: all there are, once around */
		max = qp->entries;
	left = max;
	do {
		uint32_t differs = cqe_half(&cqe->status) ^ good, cid;
		struct nvme_req *req;
		int status = 0;

		if (differs) {
			if (svio_likely(differs & NVME_CQE_PHASE)) /* nothing new */
				break;
			status = odd_status(qp, cqe);
		}
		svio_dma_rmb();
		cid = cqe_half(&cqe->cid);
		/*
		 * What the device says is looked at before it is used: its queue and head in one
		 * compare, then the id. While reads are tracked no id passes: the test that is made
		 * anyway tells, so that tracking costs nothing when it is off.
		 */
		if (svio_unlikely(cqe_sq(cqe) - qp->sqid_bits >= qp->entries))
			goto bad;
		if (svio_unlikely(cid >= nvme_cid_limit(qp)))
			goto odd;
		req = &qp->reqs[cid];
		OPAQUE(req);
		if (svio_unlikely(req->op == NVME_REQ_FREE))
			goto bad;
done:
		req->op = NVME_REQ_FREE;
		nvme_free_ids(qp)[--qp->free_idx] = (uint16_t)cid;
		if (svio_unlikely(++cqe == qp->cq_end)) {
			cqe = qp->cq;
			good ^= 1;
		}
		req->cb(req->ctx, status);
		continue;
odd:
		if (svio_unlikely(cid >= qp->nreq))
			goto bad;
		req = &qp->reqs[cid];
		OPAQUE(req);
		if (svio_likely(req->op == NVME_REQ_READ)) {
			svio_dirty_mark(nvme_dirty_table(qp), req->buf, req->nlb * req->lba_size);
			goto done;
		}
		in_order_here(); /* look again, rather than hold it in a register for the rarer case */
		if (req->op == NVME_REQ_FREE)
			goto bad;
		if (svio_unlikely(++cqe == qp->cq_end)) {
			cqe = qp->cq;
			good ^= 1;
		}
		nvme_complete(qp, cid, status);
		continue;
bad:
		if (!dead)
			bad_completion(qp, cqe);
		break;
	} while (--left);
	max -= left;
	qp->cqe = cqe;
	qp->stale = good ^ 1;
	if (!dead && svio_likely(max))
		ring_cq(qp, cqe);
	return max;
}

uint32_t nvme_reap(struct svio_nvme_qp *qp, uint32_t max)
{
	return reap(qp, max, false);
}

/*
 * Of a queue whose controller is stopped: what it had completed before. No doorbell; ends at the
 * first that is not valid.
 */
uint32_t nvme_reap_dead(struct svio_nvme_qp *qp, uint32_t max)
{
	return reap(qp, max, true);
}

bool nvme_cqe_ready(const struct svio_nvme_qp *qp)
{
	return ((cqe_word(qp->cqe) >> 48) ^ qp->stale) & 1;
}

static __attribute__((noinline)) uint32_t poll_work(struct svio_nvme_qp *qp, uint32_t max)
{
	uint32_t n;

	if (svio_unlikely(atomic_load_explicit(
		    atomic_load_explicit(&qp->word, memory_order_relaxed), memory_order_relaxed)))
		return nvme_poll_slow(qp, max);
	n = reap(qp, max, false);
	if (svio_unlikely(--qp->countdown == 0))
		nvme_tick(qp);
	return n;
}

uint32_t svio_nvme_poll(struct svio_nvme_qp *qp, uint32_t max)
{
	const _Atomic uint32_t *word = atomic_load_explicit(&qp->word, memory_order_relaxed);
	/*
	 * Bit 0 differs when there is a new entry. The others are those of an old one and mostly
	 * zero; when not, poll_work() looks and finds nothing, which is cheaper than to mask them
	 * here.
	 */
	uint32_t todo = *((const volatile uint8_t *)&qp->cqe->status) ^ qp->stale;

	todo |= atomic_load_explicit(word, memory_order_relaxed);
	if (todo)
		return poll_work(qp, max);
	if (svio_unlikely(--qp->countdown == 0))
		return nvme_poll_slow(qp, max);
	/* It is zero; say so through the register that holds it. */
	__asm__("" : "+r"(todo));
	return todo;
}

uint32_t svio_nvme_inflight(const struct svio_nvme_qp *qp)
{
	return qp->closed ? qp->left : qp->nreq + (uint32_t)qp->free_idx;
}
