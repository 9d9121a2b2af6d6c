// SPDX-License-Identifier: GPL-2.0
/*
 * Operations (DSA chapter 8): checks, execution page by page, completion records.
 */
#include <linux/crc32.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "simdev.h"

/* Where crc32c() is a module of its own, over the crypto API, what is beneath it is built in. */
#ifdef SIM_HAVE_CRC32C_LE
#define crc32c(crc, p, len) __crc32c_le(crc, p, len)
#endif

#define FLAGS_COMMON	(DSA_FLAG_BLOCK_ON_FAULT | DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST | DSA_FLAG_INT_REQUEST)
#define FLAGS_WRITE	(DSA_FLAG_CACHE | DSA_FLAG_STRICT_ORDER | DSA_FLAG_DST_STEER)

static u32 op_of(const struct dsa_desc *d)
{
	return DSA_DESC_OP_OF(le32_to_cpu(d->op_flags));
}

static u32 flags_of(const struct dsa_desc *d)
{
	return DSA_DESC_FLAGS_OF(le32_to_cpu(d->op_flags));
}

static size_t chunk(u64 addr, u64 left)
{
	return min_t(u64, left, PAGE_SIZE - offset_in_page(addr));
}

static bool overlap(u64 a, u64 b, u64 len)
{
	return a < b ? b - a < len : a - b < len;
}

/* ---- operations; 0 is success, otherwise enum dsa_status or -ECANCELED. rq->bytes: done so far ---- */

static int do_move(struct sim_req *rq, u64 src, u64 dst, u64 dst2, bool dual, u32 size, u32 *crc)
{
	bool back = !dual && !crc && dst > src && dst - src < size;
	u32 done = 0;
	int rc = 0;

	while (done < size && !rc) {
		u32 left = size - done, n;
		u64 at; /* of this step, from the start */

		if (back) {
			/*
			 * down to the start of the page in which the last byte left lies, of whichever range
			 */
			u64 s = offset_in_page(src + left - 1) + 1, d = offset_in_page(dst + left - 1) + 1;

			n = min3((u64)left, s, d);
			at = left - n;
		} else {
			n = min(chunk(src + done, left), chunk(dst + done, left));
			at = done;
		}
		rc = sim_pause(rq);
		if (!rc)
			rc = sim_rw(rq, src + at, rq->eng->buf[0], n, SIM_READ);
		if (!rc)
			rc = sim_rw(rq, dst + at, rq->eng->buf[0], n, SIM_WRITE);
		if (!rc && dual)
			rc = sim_rw(rq, dst2 + at, rq->eng->buf[0], n, SIM_WRITE);
		if (rc)
			break;
		if (crc)
			*crc = crc32c(*crc, rq->eng->buf[0], n);
		done += n;
	}
	rq->bytes = done;
	rq->result = rc && back ? DSA_RESULT_BACKWARD : DSA_RESULT_FORWARD;
	return rc;
}

static int do_fill(struct sim_req *rq, u64 pattern, u64 dst, u32 size)
{
	u8 *buf = rq->eng->buf[0], bytes[8];
	u32 done = 0;
	int rc = 0;

	memcpy(bytes, &pattern, sizeof(bytes));
	while (done < size) {
		u32 n = chunk(dst + done, size - done);

		for (u32 i = 0; i < n; i++)
			buf[i] = bytes[(done + i) % 8];
		rc = sim_pause(rq);
		if (!rc)
			rc = sim_rw(rq, dst + done, buf, n, SIM_WRITE);
		if (rc)
			break;
		done += n;
	}
	rq->bytes = done;
	return rc;
}

/* against: another range, or a pattern */
static int do_compare(struct sim_req *rq, u64 src, bool range, u64 against, u32 size)
{
	u8 *a = rq->eng->buf[0], *b = rq->eng->buf[1], bytes[8];
	u32 done = 0;
	int rc = 0;

	memcpy(bytes, &against, sizeof(bytes));
	while (done < size) {
		u32 n = chunk(src + done, size - done), i;

		if (range)
			n = min_t(u32, n, chunk(against + done, size - done));
		rc = sim_pause(rq);
		if (!rc)
			rc = sim_rw(rq, src + done, a, n, SIM_READ);
		if (!rc && range)
			rc = sim_rw(rq, against + done, b, n, SIM_READ);
		if (rc)
			break;
		for (i = 0; !range && i < n; i++)
			b[i] = bytes[(done + i) % 8];
		for (i = 0; i < n && a[i] == b[i]; i++)
			;
		done += i;
		if (i < n) {
			rq->result = DSA_RESULT_DIFFERENT;
			break;
		}
	}
	rq->bytes = rc || rq->result ? done : 0;
	return rc;
}

static int do_crc(struct sim_req *rq, u64 src, u32 size, u32 *crc)
{
	u32 done = 0;
	int rc = 0;

	while (done < size) {
		u32 n = chunk(src + done, size - done);

		rc = sim_pause(rq);
		if (!rc)
			rc = sim_rw(rq, src + done, rq->eng->buf[0], n, SIM_READ);
		if (rc)
			break;
		*crc = crc32c(*crc, rq->eng->buf[0], n);
		done += n;
	}
	rq->bytes = done;
	return rc;
}

/* All that is older in its WQ has completed. */
static bool oldest(struct sim_req *rq)
{
	bool yes;

	spin_lock(&rq->sd->queue_lock);
	yes = list_first_entry(&rq->wq->live, struct sim_desc, node) == rq->desc;
	spin_unlock(&rq->sd->queue_lock);
	return yes;
}

static int do_drain(struct sim_req *rq)
{
	wait_event_idle(rq->sd->work_wait, oldest(rq) || sim_cancelled(rq, false));
	return sim_cancelled(rq, false) ? -ECANCELED : 0;
}

static int do_batch(struct sim_req *rq)
{
	u32 count = le32_to_cpu(rq->d.count);
	u64 list = le64_to_cpu(rq->d.desc_list);
	bool failed = false;
	int rc = 0;
	u32 i;

	for (i = 0; i < count; i++) {
		struct sim_req one = {
			.eng = rq->eng, .sd = rq->sd, .wq = rq->wq, .desc = rq->desc, .pasid = rq->pasid, .batch_index = i,
		};

		rc = sim_rw(rq, list + i * sizeof(one.d), &one.d, sizeof(one.d), SIM_READ);
		if (rc) {
			rq->bytes = i;
			return rc < 0 || rc == DSA_ST_TRANSLATION ? rc : DSA_ST_BATCH_PAGE_FAULT;
		}
		/* In order, one after the other: a fence has nothing to wait for. */
		if ((flags_of(&one.d) & DSA_FLAG_FENCE) && failed)
			break;
		sim_count(rq->sd, descriptors);
		rc = sim_execute(&one);
		if (rc >= 0)
			rc = sim_complete(&one, rc);
		if (rc < 0)
			return rc;
		failed |= rc != DSA_ST_SUCCESS;
	}
	rq->bytes = i;
	return failed ? DSA_ST_BATCH_FAIL : 0;
}

/* ---- checks ----------------------------------------------------------------------------------------------- */

/* What an operation uses of a descriptor: all else is reserved. own: bytes of op_specific. */
#define SRC	1
#define DST	2
#define SIZE	4
static const struct op_info {
	u8 uses, own;
	u32 flags;
} op_infos[] = {
	[DSA_OP_NOOP] = { 0 },
	[DSA_OP_BATCH] = { SRC | SIZE },
	[DSA_OP_DRAIN] = { 0 },
	[DSA_OP_MEMMOVE] = { SRC | DST | SIZE, 0, FLAGS_WRITE },
	[DSA_OP_FILL] = { SRC | DST | SIZE, 0, FLAGS_WRITE },
	[DSA_OP_COMPARE] = { SRC | DST | SIZE, 1, DSA_FLAG_CHECK_RESULT },
	[DSA_OP_COMPARE_PATTERN] = { SRC | DST | SIZE, 1, DSA_FLAG_CHECK_RESULT },
	[DSA_OP_DUALCAST] = { SRC | DST | SIZE, sizeof(__le64), FLAGS_WRITE },
	[DSA_OP_CRC] = { SRC | SIZE, 2 * sizeof(__le64), DSA_FLAG_CRC_SEED_MEM },
	[DSA_OP_COPY_CRC] = { SRC | DST | SIZE, 2 * sizeof(__le64), DSA_FLAG_CRC_SEED_MEM | FLAGS_WRITE },
};

static const struct op_info *info_of(u32 op)
{
	if (op >= ARRAY_SIZE(op_infos) || (!op_infos[op].uses && op != DSA_OP_NOOP && op != DSA_OP_DRAIN))
		return NULL;
	return &op_infos[op];
}

static bool reserved_used(const struct dsa_desc *d, const struct op_info *info)
{
	if (d->reserved || (!(info->uses & SRC) && d->src) || (!(info->uses & DST) && d->dst) ||
	    (!(info->uses & SIZE) && d->size))
		return true;
	if (memchr_inv(d->op_specific + info->own, 0, sizeof(d->op_specific) - info->own))
		return true;
	if (info->own != 2 * sizeof(__le64)) /* no CRC */
		return false;
	return d->crc_reserved || (flags_of(d) & DSA_FLAG_CRC_SEED_MEM ? !!d->seed : !!d->seed_addr);
}

/* A vector that the permission table gives to the WQ's PASID, or to none if it has none. */
static bool bad_handle(struct sim_req *rq)
{
	u32 handle = le16_to_cpu(rq->d.int_handle), perm;
	u8 __iomem *regs = READ_ONCE(rq->sd->regs);

	if (!handle || handle >= SIM_VECTORS || !regs)
		return true;
	perm = readl(regs + SIM_MSIXPERM + handle * DSA_MSIXPERM_STRIDE);
	if (!(perm & DSA_MSIXPERM_PASID_EN) != (rq->pasid == IOMMU_NO_PASID))
		return true;
	return (perm & DSA_MSIXPERM_PASID_EN) && perm >> DSA_MSIXPERM_PASID_LSB != rq->pasid;
}

static int check(struct sim_req *rq)
{
	const struct dsa_desc *d = &rq->d;
	u32 op = op_of(d), flags = flags_of(d), size = le32_to_cpu(d->size), good;
	u64 src = le64_to_cpu(d->src), dst = le64_to_cpu(d->dst);
	const struct op_info *info = info_of(op);

	if (!info || (rq->batch_index >= 0 && (op == DSA_OP_BATCH || op == DSA_OP_DRAIN)))
		return DSA_ST_BAD_OP;
	if ((flags & DSA_FLAG_CR_VALID) && le64_to_cpu(d->cr_addr) % DSA_CR_ALIGN)
		return DSA_ST_CR_ALIGN;
	good = FLAGS_COMMON | info->flags | (rq->batch_index >= 0 ? DSA_FLAG_FENCE : 0);
	if (!rq->wq->block_on_fault)
		good &= ~DSA_FLAG_BLOCK_ON_FAULT;
	if (!(flags & DSA_FLAG_CR_VALID)) /* a record needs a place */
		good &= ~DSA_FLAG_CR_REQUEST;
	rq->bad_flags = flags & ~good;
	if (rq->bad_flags)
		return DSA_ST_BAD_FLAGS;
	if (reserved_used(d, info))
		return DSA_ST_BAD_RESERVED;
	if ((flags & DSA_FLAG_INT_REQUEST) && bad_handle(rq))
		return DSA_ST_BAD_INT_HANDLE;
	if (op == DSA_OP_NOOP || op == DSA_OP_DRAIN)
		return 0;
	if (op == DSA_OP_BATCH) {
		if (size < 2 || size > rq->wq->max_batch)
			return DSA_ST_BAD_COUNT;
		return src % sizeof(*d) ? DSA_ST_LIST_ALIGN : 0;
	}
	if (!size || size > rq->wq->max_xfer)
		return DSA_ST_BAD_SIZE;
	if (op == DSA_OP_COPY_CRC && overlap(src, dst, size))
		return DSA_ST_OVERLAP;
	if (op == DSA_OP_DUALCAST) {
		u64 dst2 = le64_to_cpu(d->dst2);

		if ((dst ^ dst2) & 0xfff)
			return DSA_ST_DUALCAST_BITS;
		if (overlap(src, dst, size) || overlap(src, dst2, size) || overlap(dst, dst2, size))
			return DSA_ST_OVERLAP;
	}
	return 0;
}

/* enum dsa_status, or -ECANCELED. */
int sim_execute(struct sim_req *rq)
{
	const struct dsa_desc *d = &rq->d;
	u64 src = le64_to_cpu(d->src), dst = le64_to_cpu(d->dst);
	u32 size = le32_to_cpu(d->size), crc = 0;
	__le32 seed = d->seed;
	int rc;

	rq->block = (flags_of(d) & DSA_FLAG_BLOCK_ON_FAULT) && rq->wq->block_on_fault;
	if (sim_take(&rq->sd->inject.fail_descriptors))
		return READ_ONCE(rq->sd->inject.fail_status);
	rc = sim_pause(rq);
	if (!rc)
		rc = check(rq);
	if (rc)
		return rc;
	switch (op_of(d)) {
	case DSA_OP_NOOP:
		break;
	case DSA_OP_BATCH:
		rc = do_batch(rq);
		break;
	case DSA_OP_DRAIN:
		rc = do_drain(rq);
		break;
	case DSA_OP_MEMMOVE:
		rc = do_move(rq, src, dst, 0, false, size, NULL);
		break;
	case DSA_OP_DUALCAST:
		rc = do_move(rq, src, dst, le64_to_cpu(d->dst2), true, size, NULL);
		break;
	case DSA_OP_FILL:
		rc = do_fill(rq, src, dst, size);
		break;
	case DSA_OP_COMPARE:
	case DSA_OP_COMPARE_PATTERN:
		rc = do_compare(rq, src, op_of(d) == DSA_OP_COMPARE, dst, size);
		if (!rc && (flags_of(d) & DSA_FLAG_CHECK_RESULT) && rq->result != (d->expected & 1))
			rc = DSA_ST_SUCCESS_FALSE;
		break;
	case DSA_OP_CRC:
	case DSA_OP_COPY_CRC:
		if (flags_of(d) & DSA_FLAG_CRC_SEED_MEM) {
			u64 at = le64_to_cpu(d->seed_addr);

			if (at % sizeof(seed))
				return DSA_ST_ADDR_ALIGN;
			rc = sim_rw(rq, at, &seed, sizeof(seed), SIM_READ);
		}
		crc = ~le32_to_cpu(seed);
		if (!rc && op_of(d) == DSA_OP_CRC)
			rc = do_crc(rq, src, size, &crc);
		else if (!rc)
			rc = do_move(rq, src, dst, 0, false, size, &crc);
		rq->crc = (u32)~crc;
		break;
	}
	sim_add(rq->sd, bytes, op_of(d) == DSA_OP_BATCH ? 0 : rq->bytes);
	return rc ? rc : DSA_ST_SUCCESS;
}

/* ---- completion ------------------------------------------------------------------------------------------- */

static void software_error(struct sim_req *rq, u32 error)
{
	u64 swerr[4] = {
		DSA_SWERR_VALID | DSA_SWERR_DESC | DSA_SWERR_WQ_VALID | (rq->batch_index >= 0 ? DSA_SWERR_BATCH : 0) |
			(rq->fault_write ? DSA_SWERR_WRITE : 0) | (u64)error << DSA_SWERR_ERROR_LSB |
			(u64)(rq->wq - rq->sd->wq) << DSA_SWERR_WQ_LSB | (u64)op_of(&rq->d) << DSA_SWERR_OP_LSB |
			(u64)(rq->wq->pasid_en ? rq->pasid : 0) << DSA_SWERR_PASID_LSB,
		(rq->batch_index >= 0 ? rq->batch_index : 0) | (u64)rq->bad_flags << 32,
		rq->fault_addr,
	};

	sim_swerr_add(rq->sd, swerr);
}

static bool is_fault(int status)
{
	return status == DSA_ST_PAGE_FAULT || status == DSA_ST_PAGE_FAULT_IR || status == DSA_ST_BATCH_PAGE_FAULT;
}

/* Writes the completion record, interrupts. The status, or -ECANCELED. */
int sim_complete(struct sim_req *rq, int status)
{
	u32 flags = flags_of(&rq->d);
	u64 at = le64_to_cpu(rq->d.cr_addr);
	struct dsa_completion cr = {
		.status = status, .result = rq->result, .bytes = cpu_to_le32(rq->bytes),
	};
	int rc;

	if (sim_cancelled(rq, true))
		return -ECANCELED;
	if (status == DSA_ST_SUCCESS)
		sim_count(rq->sd, completed);
	else
		sim_count(rq->sd, failed);
	if (is_fault(status) || status == DSA_ST_TRANSLATION)
		cr.fault_addr = cpu_to_le64(rq->fault_addr & PAGE_MASK);
	if (is_fault(status) && rq->fault_write)
		cr.status |= DSA_STATUS_WRITE;
	if (status == DSA_ST_BAD_FLAGS)
		cr.bad_flags = cpu_to_le32(rq->bad_flags);
	else if (op_of(&rq->d) == DSA_OP_CRC || op_of(&rq->d) == DSA_OP_COPY_CRC)
		cr.crc = cpu_to_le64(rq->crc);

	if (!(flags & DSA_FLAG_CR_VALID)) {
		if (status != DSA_ST_SUCCESS)
			software_error(rq, status);
	} else if (at % DSA_CR_ALIGN) {
		software_error(rq, status);
	} else if (status != DSA_ST_SUCCESS || (flags & DSA_FLAG_CR_REQUEST)) {
		rc = sim_rw(rq, at, &cr, sizeof(cr), SIM_WRITE_RECORD);
		if (rc < 0)
			return rc;
		if (rc)
			software_error(rq, DSA_ST_CR_FAULT);
	}
	if ((flags & DSA_FLAG_INT_REQUEST) && status != DSA_ST_BAD_INT_HANDLE)
		sim_raise(rq->sd, le16_to_cpu(rq->d.int_handle));
	return status;
}
