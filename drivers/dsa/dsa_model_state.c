/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The DSA model's saved state: registers, WQs with what is queued, engines with what they do. Portals are shared memory, which the kit
 * saves. PASIDs are not bound on the target until its client does so.
 */
#include <string.h>
#include "dsa_model.h"

/* Version 1: the header, then for each WQ a struct and its queue, then for each engine a struct. */
struct st_head {
	svio_le32 wqs, groups, engines, total, max_xfer, max_batch, bof, state;
	svio_le32 gencfg, genctrl, intcause, cmd, cmdsts, reserved;
	svio_le64 swerr[4];
	svio_le64 grp_wqs[DM_GROUPS], grp_engines[DM_GROUPS];
	svio_le32 grp_flags[DM_GROUPS], rr[DM_GROUPS], served[DM_GROUPS];
	svio_le32 msixperm[DM_VECTORS];
} __attribute__((packed));
_Static_assert(sizeof(struct st_head) == 56 + 32 + 128 + 96 + 68, "saved state");

struct st_wq {
	svio_le32 cfg[DM_WQCFG_WORDS], state, slot, count, reserved;
	svio_le64 taken, target;
} __attribute__((packed));
_Static_assert(sizeof(struct st_wq) == 64, "saved state");

struct st_task {
	svio_le32 phase, wq, in_batch, failed, index, pos, crc, reserved;
	svio_le64 seq;
	uint8_t top[sizeof(struct dsa_desc)], d[sizeof(struct dsa_desc)], cr[sizeof(struct dsa_completion)];
} __attribute__((packed));
_Static_assert(sizeof(struct st_task) == 40 + 160, "saved state");

/* One list of the header's words for both directions. */
#define HEAD_WORDS(DO)                                                                                                     \
	DO(state) DO(gencfg) DO(genctrl) DO(intcause) DO(cmd) DO(cmdsts)

static void put_wq(const struct dm_wq *wq, struct svio_vdev_buf *out)
{
	struct st_wq s = {
		.state = svio_cpu_to_le32(wq->state),
		.slot = svio_cpu_to_le32(wq->slot),
		.count = svio_cpu_to_le32(wq->count),
		.taken = svio_cpu_to_le64(wq->taken),
		.target = svio_cpu_to_le64(wq->target),
	};

	for (unsigned int i = 0; i < DM_WQCFG_WORDS; i++)
		s.cfg[i] = svio_cpu_to_le32(wq->cfg[i]);
	svio_vdev_buf_put(out, &s, sizeof(s));
	for (uint32_t i = 0; i < wq->count; i++)
		svio_vdev_buf_put(out, &wq->queue[(wq->head + i) % DM_TOTAL_MAX], sizeof(struct dsa_desc));
}

int dm_save(struct svio_vdev *dev, struct svio_vdev_buf *out)
{
	const struct dm *dm = svio_vdev_priv(dev);
	struct st_head h = {
		.wqs = svio_cpu_to_le32(dm->wqs),
		.groups = svio_cpu_to_le32(dm->groups),
		.engines = svio_cpu_to_le32(dm->engines),
		.total = svio_cpu_to_le32(dm->total),
		.max_xfer = svio_cpu_to_le32(dm->max_xfer),
		.max_batch = svio_cpu_to_le32(dm->max_batch),
		.bof = svio_cpu_to_le32(dm->bof),
	};
	int err = 0;

#define PUT(field) h.field = svio_cpu_to_le32(dm->field);
	HEAD_WORDS(PUT)
#undef PUT
	for (unsigned int i = 0; i < 4; i++)
		h.swerr[i] = svio_cpu_to_le64(dm->swerr[i]);
	for (unsigned int g = 0; g < DM_GROUPS; g++) {
		h.grp_wqs[g] = svio_cpu_to_le64(dm->grp_wqs[g]);
		h.grp_engines[g] = svio_cpu_to_le64(dm->grp_engines[g]);
		h.grp_flags[g] = svio_cpu_to_le32(dm->grp_flags[g]);
		h.rr[g] = svio_cpu_to_le32(dm->rr[g]);
		h.served[g] = svio_cpu_to_le32(dm->served[g]);
	}
	for (unsigned int i = 0; i < DM_VECTORS; i++)
		h.msixperm[i] = svio_cpu_to_le32(dm->msixperm[i]);
	svio_vdev_buf_put(out, &h, sizeof(h));
	for (unsigned int i = 0; i < dm->wqs; i++)
		put_wq(&dm->wq[i], out);
	for (unsigned int i = 0; i < dm->engines; i++) {
		static const struct dm_task idle; /* nothing of what it did before goes along */
		const struct dm_task *t = dm->task[i].phase == DM_IDLE ? &idle : &dm->task[i];
		struct st_task s = {
			.phase = svio_cpu_to_le32(t->phase == DM_STATUS ? DM_RECORD : t->phase),
			.wq = svio_cpu_to_le32(t->wq),
			.in_batch = svio_cpu_to_le32(t->in_batch),
			.failed = svio_cpu_to_le32(t->failed),
			.index = svio_cpu_to_le32(t->index),
			.pos = svio_cpu_to_le32(t->pos),
			.crc = svio_cpu_to_le32(t->crc),
			.seq = svio_cpu_to_le64(t->seq),
		};

		memcpy(s.top, &t->top, sizeof(s.top));
		memcpy(s.d, &t->d, sizeof(s.d));
		memcpy(s.cr, &t->cr, sizeof(s.cr));
		err = svio_vdev_buf_put(out, &s, sizeof(s));
	}
	return err;
}

/* ---- loading: every number is a stranger's ---------------------------------------------------------------------- */

static int load_head(struct dm *dm, const struct st_head *h)
{
	if (svio_le32_to_cpu(h->wqs) != dm->wqs || svio_le32_to_cpu(h->groups) != dm->groups ||
	    svio_le32_to_cpu(h->engines) != dm->engines || svio_le32_to_cpu(h->total) != dm->total ||
	    svio_le32_to_cpu(h->max_xfer) != dm->max_xfer || svio_le32_to_cpu(h->max_batch) != dm->max_batch ||
	    svio_le32_to_cpu(h->bof) != dm->bof)
		return svio_fail(EINVAL,
				 "dsa: the saved device has %u WQs, %u groups, %u engines, %u entries; give this one the same options",
				 svio_le32_to_cpu(h->wqs), svio_le32_to_cpu(h->groups), svio_le32_to_cpu(h->engines),
				 svio_le32_to_cpu(h->total));
#define GET(field) dm->field = svio_le32_to_cpu(h->field);
	HEAD_WORDS(GET)
#undef GET
	if (dm->state > DSA_GENSTS_HALT)
		return -EINVAL;
	for (unsigned int i = 0; i < 4; i++)
		dm->swerr[i] = svio_le64_to_cpu(h->swerr[i]);
	for (unsigned int g = 0; g < DM_GROUPS; g++) {
		dm->grp_wqs[g] = svio_le64_to_cpu(h->grp_wqs[g]);
		dm->grp_engines[g] = svio_le64_to_cpu(h->grp_engines[g]);
		dm->grp_flags[g] = svio_le32_to_cpu(h->grp_flags[g]);
		dm->rr[g] = svio_le32_to_cpu(h->rr[g]);
		dm->served[g] = svio_le32_to_cpu(h->served[g]);
		if (dm->rr[g] >= dm->wqs)
			return -EINVAL;
	}
	for (unsigned int i = 0; i < DM_VECTORS; i++)
		dm->msixperm[i] = svio_le32_to_cpu(h->msixperm[i]);
	return 0;
}

static int load_wq(struct dm *dm, struct dm_wq *wq, const uint8_t **p, size_t *left)
{
	struct st_wq s;
	size_t bytes;

	if (*left < sizeof(s))
		return -EINVAL;
	memcpy(&s, *p, sizeof(s));
	wq->state = svio_le32_to_cpu(s.state);
	wq->slot = svio_le32_to_cpu(s.slot);
	wq->count = svio_le32_to_cpu(s.count);
	wq->taken = svio_le64_to_cpu(s.taken);
	wq->target = svio_le64_to_cpu(s.target);
	wq->head = 0;
	for (unsigned int i = 0; i < DM_WQCFG_WORDS; i++)
		wq->cfg[i] = svio_le32_to_cpu(s.cfg[i]);
	bytes = wq->count * sizeof(struct dsa_desc);
	if (wq->state > DSA_WQ_BUSY || wq->slot >= DSA_PORTAL_SLOTS || wq->count > dm->total || wq->taken < wq->count ||
	    *left - sizeof(s) < bytes)
		return -EINVAL;
	/* What enabling has checked; of a disabled WQ software may have written anything. */
	if (wq->state != DSA_WQ_DISABLED &&
	    ((wq->cfg[0] & 0xffff) > dm->total || DSA_WQCFG_MAX_BATCH_OF(wq->cfg[DSA_WQCFG_LIMITS / 4]) > dm->max_batch ||
	     DSA_WQCFG_MAX_XFER_OF(wq->cfg[DSA_WQCFG_LIMITS / 4]) > dm->max_xfer))
		return -EINVAL;
	memcpy(wq->queue, *p + sizeof(s), bytes);
	*p += sizeof(s) + bytes;
	*left -= sizeof(s) + bytes;
	return 0;
}

/* Operations in progress were checked when they were begun; this one may never have been. */
static bool task_possible(const struct dm *dm, const struct dm_task *t)
{
	uint32_t op = DSA_DESC_OP_OF(svio_le32_to_cpu(t->d.op_flags));

	if (t->phase > DM_RECORD || t->wq >= dm->wqs)
		return false;
	if (t->in_batch && t->index >= svio_le32_to_cpu(t->top.count))
		return false;
	if (t->phase == DM_LIST)
		return t->in_batch;
	if (t->phase == DM_OP || t->phase == DM_SEED)
		return (op == DSA_OP_MEMMOVE || op == DSA_OP_FILL || op == DSA_OP_COMPARE || op == DSA_OP_COMPARE_PATTERN ||
			op == DSA_OP_DUALCAST || op == DSA_OP_CRC || op == DSA_OP_COPY_CRC) &&
		       t->pos < svio_le32_to_cpu(t->d.size);
	return true;
}

static int load_task(const struct dm *dm, struct dm_task *t, const struct st_task *s)
{
	t->phase = svio_le32_to_cpu(s->phase);
	t->wq = svio_le32_to_cpu(s->wq);
	t->in_batch = svio_le32_to_cpu(s->in_batch);
	t->failed = svio_le32_to_cpu(s->failed);
	t->index = svio_le32_to_cpu(s->index);
	t->pos = svio_le32_to_cpu(s->pos);
	t->crc = svio_le32_to_cpu(s->crc);
	t->seq = svio_le64_to_cpu(s->seq);
	memcpy(&t->top, s->top, sizeof(t->top));
	memcpy(&t->d, s->d, sizeof(t->d));
	memcpy(&t->cr, s->cr, sizeof(t->cr));
	t->stage = 0;
	t->careful = t->waiting = false;
	t->io = DM_IO_NONE;
	return task_possible(dm, t) ? 0 : -EINVAL;
}

static int load(struct dm *dm, const uint8_t *p, size_t left)
{
	struct st_head h;
	int err;

	if (left < sizeof(h))
		return -EINVAL;
	memcpy(&h, p, sizeof(h));
	err = load_head(dm, &h);
	p += sizeof(h);
	left -= sizeof(h);
	for (unsigned int i = 0; i < dm->wqs && !err; i++)
		err = load_wq(dm, &dm->wq[i], &p, &left);
	if (!err && left != dm->engines * sizeof(struct st_task))
		err = -EINVAL;
	for (unsigned int i = 0; i < dm->engines && !err; i++) {
		struct st_task s;

		memcpy(&s, p + i * sizeof(s), sizeof(s));
		err = load_task(dm, &dm->task[i], &s);
	}
	return err;
}

int dm_load(struct svio_vdev *dev, uint32_t version, const void *data, size_t len)
{
	struct dm *dm = svio_vdev_priv(dev);
	int err;

	svio_clear_error();
	err = version == 1 ? load(dm, data, len) : -EINVAL;

	if (!err)
		return 0;
	/* Nothing half loaded may run: what is not reset is not used before a reset, but engines would be. */
	for (unsigned int i = 0; i < dm->engines; i++)
		dm->task[i].phase = DM_IDLE;
	for (unsigned int i = 0; i < dm->wqs; i++) {
		dm->wq[i].count = dm->wq[i].head = dm->wq[i].slot = 0;
		dm->wq[i].state = DSA_WQ_DISABLED;
	}
	memset(dm->rr, 0, sizeof(dm->rr));
	dm->state = DSA_GENSTS_DISABLED;
	return svio_last_error()[0] ? err : svio_fail(err, "dsa: damaged saved state (%zu bytes, version %u)", len, version);
}
