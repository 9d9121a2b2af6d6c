/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The DSA model's descriptors: taken from portals, done by engines, completed.
 *
 * An operation goes through its range in slices: read the operands, compute, write, advance. Where all of a slice is shared memory it
 * is done in place; else it goes by the engine's buffers, and may have to wait for messages. A slice that faults is tried again within
 * single pages, so that all before the faulting page is done and the fault's address is exact. Nothing is kept between
 * calls but numbers, so that memory, PASIDs and bonds may change in between.
 */
#include <string.h>
#include "dsa_model.h"

#define PAGE 4096u

#define FLAGS_COMMON (DSA_FLAG_BLOCK_ON_FAULT | DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST | DSA_FLAG_INT_REQUEST)
#define FLAGS_WRITE  (DSA_FLAG_CACHE | DSA_FLAG_STRICT_ORDER | DSA_FLAG_DST_STEER)

/* What operations take: fields that they do not use are reserved. */
static const struct op_info {
	bool known, src, dst, size;
	uint8_t specific; /* bytes of op_specific */
	uint32_t flags;
} ops[] = {
	[DSA_OP_NOOP] = { .known = true },
	[DSA_OP_BATCH] = { .known = true, .src = true, .size = true },
	[DSA_OP_DRAIN] = { .known = true },
	[DSA_OP_MEMMOVE] = { true, true, true, true, 0, FLAGS_WRITE },
	[DSA_OP_FILL] = { true, true, true, true, 0, FLAGS_WRITE },
	[DSA_OP_COMPARE] = { true, true, true, true, 1, DSA_FLAG_CHECK_RESULT },
	[DSA_OP_COMPARE_PATTERN] = { true, true, true, true, 1, DSA_FLAG_CHECK_RESULT },
	[DSA_OP_DUALCAST] = { true, true, true, true, 8, FLAGS_WRITE },
	[DSA_OP_CRC] = { true, true, false, true, 16, DSA_FLAG_CRC_SEED_MEM },
	[DSA_OP_COPY_CRC] = { true, true, true, true, 16, FLAGS_WRITE | DSA_FLAG_CRC_SEED_MEM },
};

static uint32_t op_of(const struct dsa_desc *d)
{
	return DSA_DESC_OP_OF(svio_le32_to_cpu(d->op_flags));
}

static uint32_t flags_of(const struct dsa_desc *d)
{
	return DSA_DESC_FLAGS_OF(svio_le32_to_cpu(d->op_flags));
}

static uint32_t mode_of(const struct dm *dm, const struct dm_task *t)
{
	return dm->wq[t->wq].cfg[DSA_WQCFG_MODE / 4];
}

/* The address space of the WQ; NULL: its PASID is bound to nothing. Looked up anew each time. */
static struct svio_vdev_as *space(struct svio_vdev *dev, const struct dm *dm, const struct dm_task *t)
{
	uint32_t mode = mode_of(dm, t);

	return mode & DSA_WQCFG_PASID_EN ? svio_vdev_as_pasid(dev, DSA_WQCFG_PASID_OF(mode)) : svio_vdev_as0(dev);
}

/* ---- access -------------------------------------------------------------------------------------------------- */

static void xfer_done(struct svio_vdev *dev, struct svio_vdev_dma *dma, int err)
{
	struct dm_task *t = dma->ctx;

	(void)dev;
	t->io = DM_IO_DONE;
	t->io_err = err;
}

/* Asked again and again until it is not -EINPROGRESS. */
static int xfer(struct svio_vdev *dev, const struct dm *dm, struct dm_task *t, uint64_t addr, void *buf, uint32_t len,
		enum svio_vdev_access access)
{
	struct svio_vdev_as *as;
	int err;

	if (t->io == DM_IO_BUSY)
		return -EINPROGRESS;
	if (t->io == DM_IO_DONE) {
		t->io = DM_IO_NONE;
		return t->io_err == -ECANCELED ? -EFAULT : t->io_err; /* unmapped meanwhile */
	}
	as = space(dev, dm, t);
	if (!as)
		return -EIO;
	t->dma = (struct svio_vdev_dma){
		.iova = addr,
		.buf = buf,
		.len = len,
		.access = access,
		.done = xfer_done,
		.ctx = t,
	};
	err = svio_vdev_as_start(as, &t->dma);
	if (err == -EINPROGRESS)
		t->io = DM_IO_BUSY;
	return err;
}

void dm_kill(struct svio_vdev *dev, struct dm_task *t)
{
	if (t->io == DM_IO_BUSY)
		svio_vdev_dma_cancel(dev, &t->dma);
	if (t->waiting)
		svio_vdev_page_drop(dev, t->request);
	t->io = DM_IO_NONE;
	t->waiting = false;
	t->phase = DM_IDLE;
}

bool dm_task_between(const struct dm_task *t)
{
	return t->phase == DM_IDLE || (t->io == DM_IO_NONE && t->stage == 0);
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

static void finish(struct dm_task *t, uint32_t status, uint64_t addr)
{
	t->cr.status = (uint8_t)status;
	t->cr.fault_addr = svio_cpu_to_le64(addr);
	t->stage = 0;
	t->careful = false;
	t->phase = DM_RECORD;
}

/* Partial: how far it came is in the record. */
static void finish_partial(struct dm_task *t, uint32_t status, uint64_t addr, bool backward)
{
	t->cr.bytes = svio_cpu_to_le32(t->pos);
	t->cr.result = backward ? DSA_RESULT_BACKWARD : DSA_RESULT_FORWARD;
	if (op_of(&t->d) == DSA_OP_CRC || op_of(&t->d) == DSA_OP_COPY_CRC)
		t->cr.crc = svio_cpu_to_le64(t->crc);
	finish(t, status, addr);
}

static void finish_batch(struct dm_task *t, uint32_t status, uint64_t addr)
{
	t->in_batch = false;
	t->d = t->top;
	memset(&t->cr, 0, sizeof(t->cr));
	t->cr.descs = svio_cpu_to_le32(t->index);
	finish(t, status, addr);
}

static void finish_where(struct dm_task *t, uint32_t status, uint64_t addr, bool backward)
{
	if (t->phase == DM_LIST)
		finish_batch(t, DSA_STATUS(status) == DSA_ST_TRANSLATION ? status : (status & DSA_STATUS_WRITE) | DSA_ST_BATCH_PAGE_FAULT,
			     addr);
	else
		finish_partial(t, status, addr, backward);
}

/* Ask for the page, if the descriptor may wait for it. 0: asked, -EAGAIN: ask again, anything else: there is no waiting. */
static int ask(struct svio_vdev *dev, const struct dm *dm, struct dm_task *t, const struct dsa_desc *d, uint64_t addr,
	       enum svio_vdev_access access)
{
	struct svio_vdev_as *as = space(dev, dm, t);
	int err = -EFAULT;

	if (!(flags_of(d) & DSA_FLAG_BLOCK_ON_FAULT))
		return -EPERM;
	if (as)
		err = svio_vdev_page_request(as, addr, access, &t->request);
	t->waiting = !err;
	t->fault_addr = addr;
	t->fault_write = access == SVIO_VDEV_WRITE;
	return err;
}

/* An access did not work, or not yet. True: go on, in whatever phase is now; false: wait. */
static bool failed(struct svio_vdev *dev, struct dm *dm, struct dm_task *t, int err, uint64_t addr,
		   enum svio_vdev_access access, bool backward)
{
	uint32_t status = DSA_ST_TRANSLATION;

	if (err == -EINPROGRESS)
		return false;
	if (err == -EFAULT) {
		err = ask(dev, dm, t, t->phase == DM_LIST ? &t->top : &t->d, addr, access);
		if (!err || err == -EAGAIN)
			return false;
		status = (access == SVIO_VDEV_WRITE ? DSA_STATUS_WRITE : 0) |
			 (err == -EPERM ? DSA_ST_PAGE_FAULT : DSA_ST_PAGE_FAULT_IR);
	}
	finish_where(t, status, addr, backward);
	return true;
}

static void interrupt(struct svio_vdev *dev, struct dm_task *t)
{
	if (flags_of(&t->d) & DSA_FLAG_INT_REQUEST)
		svio_vdev_irq_raise(dev, svio_le16_to_cpu(t->d.int_handle));
}

/* The descriptor is through; what comes next? */
static void next(struct svio_vdev *dev, struct dm_task *t)
{
	interrupt(dev, t);
	t->stage = 0;
	if (!t->in_batch) {
		t->phase = DM_IDLE;
		return;
	}
	t->failed |= t->cr.status != DSA_ST_SUCCESS;
	t->phase = DM_LIST;
	if (++t->index == svio_le32_to_cpu(t->top.count))
		finish_batch(t, t->failed ? DSA_ST_BATCH_FAIL : DSA_ST_SUCCESS, 0);
}

/* ---- completion record ------------------------------------------------------------------------------------------- */

/* Where it can be done at once. */
static bool record_at_once(struct svio_vdev *dev, const struct dm *dm, struct dm_task *t, uint64_t addr)
{
	struct svio_vdev_as *as = space(dev, dm, t);
	uint8_t *p = as ? svio_vdev_as_ptr(as, addr, sizeof(t->cr), SVIO_VDEV_WRITE) : NULL;
	uint64_t first;

	if (!p)
		return as && !svio_vdev_as_record(as, addr, &t->cr, sizeof(t->cr));
	memcpy(&first, &t->cr, sizeof(first));
	memcpy(p + 8, (uint8_t *)&t->cr + 8, sizeof(t->cr) - 8);
	svio_vdev_as_mark(as, addr, sizeof(t->cr));
	__atomic_store_n((uint64_t *)(void *)p, first, __ATOMIC_RELEASE);
	return true;
}

/* The record cannot be written: the error goes to SWERROR, and the descriptor is through. */
static bool record_failed(struct svio_vdev *dev, struct dm *dm, struct dm_task *t, int err, uint64_t addr)
{
	if (err == -EINPROGRESS)
		return false;
	if (err == -EFAULT) {
		err = ask(dev, dm, t, &t->d, addr, SVIO_VDEV_WRITE);
		if (!err || err == -EAGAIN)
			return false;
	}
	dm_swerr(dev, t, DSA_ST_CR_FAULT, addr);
	next(dev, t);
	return true;
}

static bool do_record(struct svio_vdev *dev, struct dm *dm, struct dm_task *t)
{
	uint32_t flags = flags_of(&t->d);
	uint64_t addr = svio_le64_to_cpu(t->d.cr_addr);
	int err;

	if (!(flags & DSA_FLAG_CR_VALID) || addr % DSA_CR_ALIGN) {
		if (DSA_STATUS(t->cr.status) != DSA_ST_SUCCESS)
			dm_swerr(dev, t, DSA_STATUS(t->cr.status), svio_le64_to_cpu(t->cr.fault_addr));
		next(dev, t);
		return true;
	}
	if (!(flags & DSA_FLAG_CR_REQUEST) && t->cr.status == DSA_ST_SUCCESS) {
		next(dev, t);
		return true;
	}
	if (t->phase == DM_RECORD) {
		if (t->io == DM_IO_NONE && record_at_once(dev, dm, t, addr)) {
			next(dev, t);
			return true;
		}
		err = xfer(dev, dm, t, addr + 1, (uint8_t *)&t->cr + 1, sizeof(t->cr) - 1, SVIO_VDEV_WRITE);
		if (err)
			return record_failed(dev, dm, t, err, addr);
		t->phase = DM_STATUS;
	}
	err = xfer(dev, dm, t, addr, &t->cr.status, 1, SVIO_VDEV_WRITE);
	if (err)
		return record_failed(dev, dm, t, err, addr);
	next(dev, t);
	return true;
}

/* ---- validity ---------------------------------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static bool overlap(uint64_t a, uint64_t b, uint32_t size)
{
	return a < b ? b - a < size : a - b < size;
}

static bool bad_handle(const struct dm *dm, const struct dm_task *t)
{
	uint32_t handle = svio_le16_to_cpu(t->d.int_handle), mode = mode_of(dm, t), perm;

	if (!handle || handle >= DM_VECTORS)
		return true;
	perm = dm->msixperm[handle];
	if (!(perm & DSA_MSIXPERM_PASID_EN) != !(mode & DSA_WQCFG_PASID_EN))
		return true;
	return (perm & DSA_MSIXPERM_PASID_EN) && perm >> DSA_MSIXPERM_PASID_LSB != DSA_WQCFG_PASID_OF(mode);
}

static enum dsa_status check_ranges(const struct dm_task *t, uint32_t op)
{
	uint64_t src = svio_le64_to_cpu(t->d.src), dst = svio_le64_to_cpu(t->d.dst), dst2 = svio_le64_to_cpu(t->d.dst2);
	uint32_t size = svio_le32_to_cpu(t->d.size);

	if (op == DSA_OP_DUALCAST) {
		if ((dst ^ dst2) & 0xfff)
			return DSA_ST_DUALCAST_BITS;
		if (overlap(src, dst, size) || overlap(src, dst2, size) || overlap(dst, dst2, size))
			return DSA_ST_OVERLAP;
	}
	return op == DSA_OP_COPY_CRC && overlap(src, dst, size) ? DSA_ST_OVERLAP : DSA_ST_SUCCESS;
}

static enum dsa_status check(const struct dm *dm, struct dm_task *t)
{
	const struct dsa_desc *d = &t->d;
	uint32_t op = op_of(d), flags = flags_of(d), limits = dm->wq[t->wq].cfg[DSA_WQCFG_LIMITS / 4], allowed, n;
	const struct op_info *info = op < SVIO_ARRAY_SIZE(ops) ? &ops[op] : NULL;
	bool from_memory = flags & DSA_FLAG_CRC_SEED_MEM;

	if (!info || !info->known || (t->in_batch && (op == DSA_OP_BATCH || op == DSA_OP_DRAIN)))
		return DSA_ST_BAD_OP;
	if ((flags & DSA_FLAG_CR_VALID) && svio_le64_to_cpu(d->cr_addr) % DSA_CR_ALIGN)
		return DSA_ST_CR_ALIGN;
	allowed = FLAGS_COMMON | info->flags | (t->in_batch ? DSA_FLAG_FENCE : 0);
	if (!(mode_of(dm, t) & DSA_WQCFG_BLOCK_ON_FAULT))
		allowed &= ~DSA_FLAG_BLOCK_ON_FAULT;
	if (!(flags & DSA_FLAG_CR_VALID)) /* a record, and a result to be checked, need a place */
		allowed &= ~(DSA_FLAG_CR_REQUEST);
	if (flags & ~allowed) {
		t->cr.bad_flags = svio_cpu_to_le32(flags & ~allowed);
		return DSA_ST_BAD_FLAGS;
	}
	if (svio_le16_to_cpu(d->reserved) || (!info->src && svio_le64_to_cpu(d->src)) ||
	    (!info->dst && svio_le64_to_cpu(d->dst)) || (!info->size && svio_le32_to_cpu(d->size)) ||
	    !all_zero(d->op_specific + info->specific, sizeof(d->op_specific) - info->specific) ||
	    ((op == DSA_OP_CRC || op == DSA_OP_COPY_CRC) &&
	     (svio_le32_to_cpu(d->crc_reserved) ||
	      (from_memory ? svio_le32_to_cpu(d->seed) != 0 : svio_le64_to_cpu(d->seed_addr) != 0))))
		return DSA_ST_BAD_RESERVED;
	if ((flags & DSA_FLAG_INT_REQUEST) && bad_handle(dm, t))
		return DSA_ST_BAD_INT_HANDLE;
	n = svio_le32_to_cpu(d->size);
	if (op == DSA_OP_BATCH) {
		if (n < 2 || n > 1u << DSA_WQCFG_MAX_BATCH_OF(limits))
			return DSA_ST_BAD_COUNT;
		return svio_le64_to_cpu(d->desc_list) % sizeof(*d) ? DSA_ST_LIST_ALIGN : DSA_ST_SUCCESS;
	}
	if (!info->size)
		return DSA_ST_SUCCESS;
	if (!n || n > UINT64_C(1) << DSA_WQCFG_MAX_XFER_OF(limits))
		return DSA_ST_BAD_SIZE;
	return check_ranges(t, op);
}

/* A descriptor has come: is it valid, and what is to be done first? */
static void do_check(const struct dm *dm, struct dm_task *t)
{
	enum dsa_status st;

	t->pos = 0;
	t->stage = 0;
	t->careful = false;
	memset(&t->cr, 0, sizeof(t->cr));
	if (t->in_batch && t->failed && (flags_of(&t->d) & DSA_FLAG_FENCE)) {
		finish_batch(t, DSA_ST_BATCH_FAIL, 0);
		return;
	}
	st = check(dm, t);
	if (st != DSA_ST_SUCCESS) {
		finish(t, st, 0);
		return;
	}
	switch (op_of(&t->d)) {
	case DSA_OP_NOOP:
	case DSA_OP_DRAIN: /* all before it were complete when it was taken from the queue */
		finish(t, DSA_ST_SUCCESS, 0);
		break;
	case DSA_OP_BATCH:
		t->in_batch = true;
		t->failed = false;
		t->index = 0;
		t->phase = DM_LIST;
		break;
	case DSA_OP_CRC:
	case DSA_OP_COPY_CRC:
		t->crc = svio_le32_to_cpu(t->d.seed);
		t->phase = flags_of(&t->d) & DSA_FLAG_CRC_SEED_MEM ? DM_SEED : DM_OP;
		break;
	default:
		t->phase = DM_OP;
	}
}

static bool do_list(struct svio_vdev *dev, struct dm *dm, struct dm_task *t)
{
	uint64_t addr = svio_le64_to_cpu(t->top.desc_list) + t->index * sizeof(struct dsa_desc);
	int err = xfer(dev, dm, t, addr, t->buf[0], sizeof(struct dsa_desc), SVIO_VDEV_READ);

	if (err)
		return failed(dev, dm, t, err, addr, SVIO_VDEV_READ, false);
	memcpy(&t->d, t->buf[0], sizeof(t->d));
	t->phase = DM_CHECK;
	return true;
}

static bool do_seed(struct svio_vdev *dev, struct dm *dm, struct dm_task *t)
{
	uint64_t addr = svio_le64_to_cpu(t->d.seed_addr);
	int err = xfer(dev, dm, t, addr, t->buf[0], 4, SVIO_VDEV_READ);
	svio_le32 seed;

	if (err)
		return failed(dev, dm, t, err, addr, SVIO_VDEV_READ, false);
	memcpy(&seed, t->buf[0], sizeof(seed));
	t->crc = svio_le32_to_cpu(seed);
	t->phase = DM_OP;
	return true;
}

/* ---- operations on ranges ------------------------------------------------------------------------------------------ */

struct operands {
	uint64_t addr[3]; /* of the slice; those read come first */
	unsigned int reads, all;
	uint32_t len;
	bool backward;
	uint8_t *ptr[3];
};

static void operands(const struct dm_task *t, struct operands *o)
{
	uint64_t src = svio_le64_to_cpu(t->d.src), dst = svio_le64_to_cpu(t->d.dst), off;
	uint32_t size = svio_le32_to_cpu(t->d.size), op = op_of(&t->d);

	*o = (struct operands){ .len = SVIO_MIN(size - t->pos, DM_SLICE) };
	o->addr[o->all++] = op == DSA_OP_FILL ? dst : src;
	if (op == DSA_OP_COMPARE || op == DSA_OP_MEMMOVE || op == DSA_OP_COPY_CRC || op == DSA_OP_DUALCAST)
		o->addr[o->all++] = dst;
	if (op == DSA_OP_DUALCAST)
		o->addr[o->all++] = svio_le64_to_cpu(t->d.dst2);
	o->reads = op == DSA_OP_FILL ? 0 : op == DSA_OP_COMPARE ? 2 : 1;
	o->backward = op == DSA_OP_MEMMOVE && dst > src && dst - src < size;
	for (unsigned int i = 0; i < o->all && t->careful; i++) {
		uint64_t start = o->addr[i] + t->pos, end = o->addr[i] + size - t->pos;
		uint32_t room = o->backward ? (uint32_t)((end - 1) % PAGE) + 1 : PAGE - (uint32_t)(start % PAGE);

		o->len = SVIO_MIN(o->len, room);
	}
	off = o->backward ? size - t->pos - o->len : t->pos;
	for (unsigned int i = 0; i < o->all; i++)
		o->addr[i] += off;
}

/* Pointers to all of the slice, or false. */
static bool in_place(struct svio_vdev *dev, const struct dm *dm, const struct dm_task *t, struct operands *o)
{
	struct svio_vdev_as *as = space(dev, dm, t);

	for (unsigned int i = 0; i < o->all; i++) {
		o->ptr[i] = as ? svio_vdev_as_ptr(as, o->addr[i], o->len, i < o->reads ? SVIO_VDEV_READ : SVIO_VDEV_WRITE) : NULL;
		if (!o->ptr[i])
			return false;
	}
	return true;
}

/* A copy that the kit does in one step, where it can. */
static bool in_one(struct svio_vdev *dev, const struct dm *dm, const struct dm_task *t, const struct operands *o)
{
	struct svio_vdev_as *as = space(dev, dm, t);

	return as && !svio_vdev_as_copy(as, o->addr[1], o->addr[0], o->len);
}

static void fill(const struct dm_task *t, uint8_t *p, uint32_t len)
{
	uint8_t pattern[8];
	uint64_t word = 0;

	if (op_of(&t->d) == DSA_OP_FILL)
		memcpy(pattern, &t->d.pattern, 8);
	else
		memcpy(pattern, &t->d.cmp_pattern, 8);
	for (uint32_t i = 0; i < 8; i++)
		((uint8_t *)&word)[i] = pattern[(t->pos + i) % 8];
	for (; len >= 8; p += 8, len -= 8)
		memcpy(p, &word, 8);
	memcpy(p, &word, len);
}

static uint32_t first_difference(const uint8_t *a, const uint8_t *b, uint32_t len)
{
	uint32_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

/* The end of the slice: results, and the operation's end. */
static void commit(struct dm_task *t, const struct operands *o, const uint8_t *a, const uint8_t *b)
{
	uint32_t op = op_of(&t->d), size = svio_le32_to_cpu(t->d.size), at;
	bool compare = op == DSA_OP_COMPARE || op == DSA_OP_COMPARE_PATTERN;

	t->stage = 0;
	t->careful = false;
	if (op == DSA_OP_CRC || op == DSA_OP_COPY_CRC)
		t->crc = svio_crc32c(t->crc, a, o->len);
	if (compare && memcmp(a, b, o->len) != 0) {
		at = t->pos + first_difference(a, b, o->len);
		t->cr.result = DSA_RESULT_DIFFERENT;
		t->cr.bytes = svio_cpu_to_le32(at);
		t->pos = size;
	} else {
		t->pos += o->len;
	}
	if (t->pos < size)
		return;
	if (op == DSA_OP_CRC || op == DSA_OP_COPY_CRC)
		t->cr.crc = svio_cpu_to_le64(t->crc);
	if (compare && (flags_of(&t->d) & DSA_FLAG_CHECK_RESULT) && t->cr.result != t->d.expected)
		finish(t, DSA_ST_SUCCESS_FALSE, 0);
	else
		finish(t, DSA_ST_SUCCESS, 0);
}

static void do_in_place(struct svio_vdev *dev, const struct dm *dm, struct dm_task *t, const struct operands *o)
{
	const uint8_t *b = o->ptr[1];

	switch (op_of(&t->d)) {
	case DSA_OP_FILL:
		fill(t, o->ptr[0], o->len);
		break;
	case DSA_OP_COMPARE_PATTERN:
		fill(t, t->buf[1], o->len);
		b = t->buf[1];
		break;
	default:
		for (unsigned int i = o->reads; i < o->all; i++)
			memmove(o->ptr[i], o->ptr[0], o->len);
	}
	for (unsigned int i = o->reads; i < o->all; i++)
		svio_vdev_as_mark(space(dev, dm, t), o->addr[i], o->len);
	commit(t, o, o->ptr[0], b);
}

static bool do_slice(struct svio_vdev *dev, struct dm *dm, struct dm_task *t)
{
	uint32_t op = op_of(&t->d);
	struct operands o;

	operands(t, &o);
	if (t->stage == 0 && t->io == DM_IO_NONE && in_place(dev, dm, t, &o)) {
		do_in_place(dev, dm, t, &o);
		return true;
	}
	if (t->stage == 0 && t->io == DM_IO_NONE && op == DSA_OP_MEMMOVE && in_one(dev, dm, t, &o)) {
		commit(t, &o, t->buf[0], t->buf[1]); /* a copy does not look at them */
		return true;
	}
	for (; t->stage < o.all; t->stage++) {
		enum svio_vdev_access access = t->stage < o.reads ? SVIO_VDEV_READ : SVIO_VDEV_WRITE;
		uint64_t addr = o.addr[t->stage];
		int err;

		if (op == DSA_OP_FILL && t->io == DM_IO_NONE)
			fill(t, t->buf[0], o.len);
		/* What is written is what was read first, or the pattern. */
		err = xfer(dev, dm, t, addr, access == SVIO_VDEV_READ ? t->buf[t->stage] : t->buf[0], o.len, access);
		if (!err)
			continue;
		if (err == -EINPROGRESS)
			return false;
		t->stage = 0;
		if (addr % PAGE + o.len > PAGE) { /* where in it? */
			t->careful = true;
			return true;
		}
		return failed(dev, dm, t, err, addr, access, o.backward);
	}
	if (op == DSA_OP_COMPARE_PATTERN)
		fill(t, t->buf[1], o.len);
	commit(t, &o, t->buf[0], t->buf[1]);
	return true;
}

/* ---- queues and engines -------------------------------------------------------------------------------------------- */

static uint32_t wq_size(const struct dm_wq *wq)
{
	return wq->cfg[0] & 0xffff;
}

static bool slot_full(struct svio_vdev *dev, unsigned int wq, unsigned int slot)
{
	return __atomic_load_n((uint64_t *)(void *)dm_slot(dev, wq, slot), __ATOMIC_ACQUIRE) != 0;
}

unsigned int dm_take(struct svio_vdev *dev, struct dm *dm)
{
	unsigned int done = 0;

	for (unsigned int i = 0; i < dm->wqs; i++) {
		struct dm_wq *wq = &dm->wq[i];

		if (wq->state == DSA_WQ_DISABLED)
			continue;
		while (wq->count < wq_size(wq) && (wq->state == DSA_WQ_ENABLED || wq->taken < wq->target) &&
		       slot_full(dev, i, wq->slot)) {
			struct dsa_desc *slot = dm_slot(dev, i, wq->slot);

			/* Once; what the client stores there from now on is the client's mistake, not ours. */
			memcpy(&wq->queue[(wq->head + wq->count) % DM_TOTAL_MAX], slot, sizeof(*slot));
			__atomic_store_n((uint64_t *)(void *)slot, 0, __ATOMIC_RELEASE);
			wq->slot = (wq->slot + 1) % DSA_PORTAL_SLOTS;
			wq->count++;
			wq->taken++;
			done++;
		}
	}
	return done;
}

uint64_t dm_wq_target(struct svio_vdev *dev, const struct dm *dm, unsigned int i)
{
	const struct dm_wq *wq = &dm->wq[i];
	uint64_t n = 0;

	while (n < DSA_PORTAL_SLOTS && slot_full(dev, i, (unsigned int)(wq->slot + n) % DSA_PORTAL_SLOTS))
		n++;
	return wq->taken + n;
}

bool dm_wq_done(const struct dm *dm, unsigned int i, uint64_t target)
{
	const struct dm_wq *wq = &dm->wq[i];

	if (wq->taken < target || (wq->count && wq->taken - wq->count < target))
		return false;
	for (unsigned int e = 0; e < dm->engines; e++)
		if (dm->task[e].phase != DM_IDLE && dm->task[e].wq == i && dm->task[e].seq < target)
			return false;
	return true;
}

void dm_wq_forget(struct svio_vdev *dev, struct dm *dm, unsigned int i)
{
	struct dm_wq *wq = &dm->wq[i];

	for (unsigned int e = 0; e < dm->engines; e++)
		if (dm->task[e].phase != DM_IDLE && dm->task[e].wq == i)
			dm_kill(dev, &dm->task[e]);
	wq->head = wq->count = 0;
	for (unsigned int n = 0; wq->state != DSA_WQ_DISABLED && n < DSA_PORTAL_SLOTS && slot_full(dev, i, wq->slot); n++) {
		__atomic_store_n((uint64_t *)(void *)dm_slot(dev, i, wq->slot), 0, __ATOMIC_RELEASE);
		wq->slot = (wq->slot + 1) % DSA_PORTAL_SLOTS;
		wq->taken++;
	}
}

/* A drain waits until the WQ's descriptors before it are complete. */
static bool ready(const struct dm *dm, unsigned int i)
{
	const struct dm_wq *wq = &dm->wq[i];

	return wq->count && (op_of(&wq->queue[wq->head]) != DSA_OP_DRAIN || dm_wq_done(dm, i, wq->taken - wq->count));
}

/* The WQ of the group that an engine serves next: in turn, each for as many descriptors as its priority says. */
static int choose(struct dm *dm, unsigned int g)
{
	for (unsigned int n = 0; n <= dm->wqs; n++) {
		unsigned int i = dm->rr[g];

		if ((dm->grp_wqs[g] >> i & 1) && dm->served[g] < DSA_WQCFG_PRIORITY_OF(dm->wq[i].cfg[DSA_WQCFG_MODE / 4]) &&
		    ready(dm, i)) {
			dm->served[g]++;
			return (int)i;
		}
		dm->served[g] = 0;
		dm->rr[g] = (i + 1) % dm->wqs;
	}
	return -1;
}

static bool pick(struct dm *dm, unsigned int engine)
{
	struct dm_task *t = &dm->task[engine];
	struct dm_wq *wq;
	int i = -1;

	for (unsigned int g = 0; g < dm->groups && i < 0; g++)
		if (dm->grp_engines[g] >> engine & 1)
			i = choose(dm, g);
	if (i < 0)
		return false;
	wq = &dm->wq[i];
	t->wq = (uint32_t)i;
	t->seq = wq->taken - wq->count;
	t->top = t->d = wq->queue[wq->head];
	t->in_batch = t->failed = t->waiting = t->careful = false;
	t->index = t->pos = t->stage = 0;
	t->io = DM_IO_NONE;
	wq->head = (wq->head + 1) % DM_TOTAL_MAX;
	wq->count--;
	t->phase = DM_CHECK;
	return true;
}

/* As slow as the option wants it. True: it has a descriptor. */
static bool begin(struct dm *dm, unsigned int engine)
{
	struct dm_task *t = &dm->task[engine];
	uint64_t now = dm->slow_us ? svio_now_ns() : 0;

	if (now < t->free_at || !pick(dm, engine))
		return false;
	t->free_at = dm->slow_us ? now + dm->slow_us * UINT64_C(1000) : 0;
	return true;
}

/* False: it waits for something. */
static bool step(struct svio_vdev *dev, struct dm *dm, struct dm_task *t)
{
	int err;

	if (t->waiting) {
		err = svio_vdev_page_result(dev, t->request);
		if (err == -EINPROGRESS)
			return false;
		t->waiting = false;
		if (err && (t->phase == DM_RECORD || t->phase == DM_STATUS)) {
			dm_swerr(dev, t, DSA_ST_CR_FAULT, t->fault_addr);
			next(dev, t);
			return true;
		}
		if (err) {
			struct operands o = { .backward = false };

			if (t->phase == DM_OP)
				operands(t, &o);
			finish_where(t, DSA_ST_PAGE_FAULT_IR | (t->fault_write ? DSA_STATUS_WRITE : 0), t->fault_addr, o.backward);
			return true;
		}
	}
	switch (t->phase) {
	case DM_LIST:
		return do_list(dev, dm, t);
	case DM_CHECK:
		do_check(dm, t);
		return true;
	case DM_SEED:
		return do_seed(dev, dm, t);
	case DM_OP:
		return do_slice(dev, dm, t);
	default:
		return do_record(dev, dm, t);
	}
}

unsigned int dm_run(struct svio_vdev *dev, struct dm *dm)
{
	unsigned int done = 0;

	for (unsigned int e = 0; e < dm->engines; e++) {
		struct dm_task *t = &dm->task[e];

		/* So many steps, or one slice, in a turn. */
		for (unsigned int steps = 0; steps < 64; steps++) {
			bool slice = t->phase == DM_OP;

			if (dm->stopping ? dm_task_between(t) : t->phase == DM_IDLE && !begin(dm, e))
				break;
			if (!step(dev, dm, t))
				break;
			done++;
			if (slice && t->phase == DM_OP)
				break;
		}
	}
	return done;
}
