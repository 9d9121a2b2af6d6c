/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The PASID table: who is bound to what, quota, ranges, and the features that the client does it by (kernel/uapi/svio_vfio.h).
 *
 * The table is an array sorted by PASID, so that a range is found by binary search and released at the cost of what is in it.
 */
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include "iommu_priv.h"
#include "svio_vfio.h"

int svio__vd_fault(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, enum svio_vdev_fault_reason reason, int err)
{
	struct svio_vdev_iommu_stats *st = &s->as.dev->iommu->stats;

	st->faults++;
	st->reason = reason;
	st->access = access;
	st->pasid = s->pasid;
	st->addr = addr;
	return err;
}

int svio__vd_take(void *to, size_t size, const uint8_t *data, uint32_t len)
{
	if (len < size)
		return -EINVAL;
	for (size_t i = size; i < len; i++)
		if (data[i])
			return -E2BIG;
	memcpy(to, data, size);
	return 0;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static void enable_cap(struct svio_vdev *dev, uint32_t at, uint32_t bit)
{
	svio_vdev_config_set(dev, at, 2, svio_vdev_config_get(dev, at, 2) | bit);
}

int svio_vdev_iommu_enable(struct svio_vdev *dev, uint32_t quota)
{
	struct vd_iommu *mmu;

	if (!dev->in_init || !dev->ecap_pasid)
		return svio_fail(EINVAL, "%s: the IOMMU's PASIDs need the PASID capability, in init()", dev->model->name);
	if (dev->iommu)
		return svio_fail(EEXIST, "%s: svio_vdev_iommu_enable() twice", dev->model->name);
	mmu = calloc(1, sizeof(*mmu));
	if (!mmu)
		return -ENOMEM;
	mmu->quota = quota ? quota : SVIO_VDEV_QUOTA;
	mmu->max_pasid = (1u << ((svio_vdev_config_get(dev, dev->ecap_pasid + PCI_PASID_CAP, 2) >> 8) & 0x1f)) - 1;
	mmu->next = 1;
	enable_cap(dev, dev->ecap_pasid + PCI_PASID_CTRL, PCI_PASID_CTRL_ENABLE);
	if (dev->ecap_ats)
		enable_cap(dev, dev->ecap_ats + PCI_ATS_CTRL, PCI_ATS_CTRL_ENABLE);
	if (dev->ecap_pri) {
		mmu->pri_max = SVIO_MIN(svio_vdev_config_get(dev, dev->ecap_pri + PCI_PRI_MAX_REQ, 4), VD_PRI_MAX);
		svio_vdev_config_set(dev, dev->ecap_pri + PCI_PRI_ALLOC_REQ, 4, mmu->pri_max);
		enable_cap(dev, dev->ecap_pri + PCI_PRI_CTRL, PCI_PRI_CTRL_ENABLE);
		svio_vdev_config_set(dev, dev->ecap_pri + PCI_PRI_STATUS, 2, PCI_PRI_STATUS_PASID);
	}
	dev->iommu = mmu;
	return 0;
}

/* What the IOTLB has of it is found by its id alone, and no other space gets that. */
static void space_free(struct vd_space *s)
{
	if (s->is_process)
		svio__vd_process_close(&s->process);
	free(s);
}

void svio__vd_iommu_fini(struct svio_vdev *dev)
{
	if (!dev->iommu)
		return;
	for (uint32_t i = 0; i < dev->iommu->num; i++)
		space_free(dev->iommu->spaces[i]);
	free(dev->iommu->spaces);
	free(dev->iommu);
	dev->iommu = NULL;
}

void svio__vd_iommu_reset(struct svio_vdev *dev)
{
	if (dev->iommu)
		svio__vd_pri_drop(dev, 0, UINT32_MAX);
}

void svio__vd_iommu_disconnect(struct svio_vdev *dev)
{
	struct vd_iommu *mmu = dev->iommu;

	if (!mmu)
		return;
	svio__vd_pri_drop(dev, 0, UINT32_MAX);
	for (uint32_t i = 0; i < mmu->num; i++)
		space_free(mmu->spaces[i]);
	mmu->stats.unbinds += mmu->num;
	mmu->num = 0;
	mmu->unbind_deadline = 0;
}

/* ---- the table --------------------------------------------------------------------------------------- */

/* Index of the first space with a PASID of at least `pasid`. */
static uint32_t lower(const struct vd_iommu *mmu, uint32_t pasid)
{
	uint32_t lo = 0, hi = mmu->num;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (mmu->spaces[mid]->pasid < pasid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The first free PASID in [lo, hi], or 0. */
static uint32_t free_in(const struct vd_iommu *mmu, uint32_t lo, uint32_t hi)
{
	for (uint32_t i = lower(mmu, lo); i < mmu->num && mmu->spaces[i]->pasid == lo; i++) {
		if (lo == hi)
			return 0;
		lo++;
	}
	return lo <= hi ? lo : 0;
}

/* A PASID in [min, max] that is free, or 0. PASID 0 is not given out. */
static uint32_t choose(const struct vd_iommu *mmu, uint32_t min, uint32_t max)
{
	uint32_t lo = SVIO_MAX(min, 1u), hi = SVIO_MIN(max, mmu->max_pasid), pasid = 0;

	if (lo > hi)
		return 0;
	if (mmu->next > lo && mmu->next <= hi)
		pasid = free_in(mmu, mmu->next, hi);
	return pasid ? pasid : free_in(mmu, lo, hi);
}

/* Make room for one more, so that inserting cannot fail. */
static int reserve(struct vd_iommu *mmu)
{
	uint32_t room = mmu->room ? mmu->room * 2 : 16;
	struct vd_space **spaces;

	if (mmu->num < mmu->room)
		return 0;
	spaces = realloc(mmu->spaces, room * sizeof(*spaces));
	if (!spaces)
		return -ENOMEM;
	mmu->spaces = spaces;
	mmu->room = room;
	return 0;
}

/* A new space with a PASID in [min, max], not in the table yet. */
static int space_new(struct svio_vdev *dev, uint32_t min, uint32_t max, struct vd_space **sp)
{
	struct vd_iommu *mmu = dev->iommu;
	struct vd_space *s;
	uint32_t pasid;
	int err;

	if (mmu->num >= mmu->quota)
		return svio_fail(EDQUOT, "%s: %u PASIDs are bound, as many as the quota allows", dev->model->name, mmu->num);
	pasid = choose(mmu, min, max);
	if (!pasid)
		return svio_fail(ENOSPC, "%s: no free PASID in [%u, %u]; the device has 1 to %u", dev->model->name, min, max,
				 mmu->max_pasid);
	err = reserve(mmu);
	if (err)
		return err;
	s = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*s), (size_t)SVIO_CACHELINE));
	if (!s)
		return -ENOMEM;
	memset(s, 0, sizeof(*s));
	s->as.dev = dev;
	s->pasid = pasid;
	s->id = ++mmu->last_id ? mmu->last_id : ++mmu->last_id;
	s->count = 1;
	*sp = s;
	return 0;
}

static void insert(struct vd_iommu *mmu, struct vd_space *s)
{
	uint32_t at = lower(mmu, s->pasid);

	memmove(&mmu->spaces[at + 1], &mmu->spaces[at], (mmu->num - at) * sizeof(*mmu->spaces));
	mmu->spaces[at] = s;
	mmu->num++;
	mmu->next = s->pasid == mmu->max_pasid ? 1 : s->pasid + 1;
	mmu->stats.binds++;
}

struct svio_vdev_as *svio_vdev_as_pasid(struct svio_vdev *dev, uint32_t pasid)
{
	struct vd_iommu *mmu = dev->iommu;
	uint32_t i;

	if (!mmu || !(svio_vdev_config_get(dev, dev->ecap_pasid + PCI_PASID_CTRL, 2) & PCI_PASID_CTRL_ENABLE))
		return NULL;
	i = lower(mmu, pasid);
	return i < mmu->num && mmu->spaces[i]->pasid == pasid && !mmu->spaces[i]->closing ? &mmu->spaces[i]->as : NULL;
}

/* ---- access ------------------------------------------------------------------------------------------ */

int svio_vdev_as_start(struct svio_vdev_as *as, struct svio_vdev_dma *t)
{
	struct svio_vdev *dev = as->dev;
	struct vd_space *s = vd_space_of(as);

	if (as == svio_vdev_as0(dev))
		return svio_vdev_dma_start(dev, t);
	if (!svio_vdev_connected(dev) || dev->conn.draining || dev->conn.dead)
		return -ENOTCONN;
	if (!dev->bus_master)
		return -EPERM;
	if (s->is_process)
		return svio__vd_process_rw(s, t->iova, t->buf, t->len, t->access);
	return svio__vd_table_rw(s, t->iova, t->buf, t->len, t->access);
}

/* A process that may be accessed now, or NULL. */
static struct vd_space *process_of(struct svio_vdev_as *as)
{
	struct svio_vdev *dev = as->dev;

	return as != svio_vdev_as0(dev) && vd_space_of(as)->is_process && dev->bus_master && svio_vdev_connected(dev) &&
			       !dev->conn.draining && !dev->conn.dead ? vd_space_of(as) : NULL;
}

int svio_vdev_as_copy(struct svio_vdev_as *as, uint64_t dst, uint64_t src, uint32_t len)
{
	struct vd_space *s = process_of(as);

	return s ? svio__vd_process_copy(s, dst, src, len) : -EOPNOTSUPP;
}

int svio_vdev_as_record(struct svio_vdev_as *as, uint64_t addr, const void *record, uint32_t len)
{
	struct vd_space *s = process_of(as);

	return s ? svio__vd_process_record(s, addr, record, len) : -EOPNOTSUPP;
}

void *svio__vd_space_ptr(struct svio_vdev_as *as, uint64_t addr, uint64_t len, enum svio_vdev_access access)
{
	struct vd_space *s = vd_space_of(as);

	return s->is_process || !as->dev->bus_master ? NULL : svio__vd_table_ptr(s, addr, len, access);
}

/* Pages of a space written through pointers: logged where the second stage has them. */
void svio__vd_space_mark(struct svio_vdev_as *as, uint64_t addr, uint64_t len)
{
	struct vd_space *s = vd_space_of(as);
	uint64_t iova, n;

	for (; len && !s->is_process; addr += n, len -= n) {
		n = SVIO_MIN(len, VD_PAGE - (addr & (VD_PAGE - 1)));
		if (svio__vd_table_translate(s, addr, SVIO_VDEV_WRITE, &iova) == 0)
			svio_vdev_dma_mark(as->dev, iova, n);
	}
}

/* ---- features ---------------------------------------------------------------------------------------- */

static int sva_info(struct svio_vdev *dev, const struct svio_vfu_feature *req, struct vd_reply *r)
{
	struct vd_iommu *mmu = dev->iommu;
	struct svio_sva_info info = {
		.flags = SVIO_SVA_INFO_RANGE | SVIO_SVA_INFO_SIMULATED,
		.pasid_bits = (uint32_t)__builtin_popcount(mmu->max_pasid),
		.quota = mmu->quota,
	};
	struct vd_process p;
	int err;

	for (uint32_t i = 0; i < mmu->num; i++)
		info.bonds += mmu->spaces[i]->is_process;
	/* The kernel resolves faults of a process whether the device has page requests or not. */
	info.flags |= SVIO_SVA_INFO_PRI | (dev->ecap_ats ? SVIO_SVA_INFO_ATS : 0);
	err = svio__vd_process_open(dev, &p);
	if (err) {
		info.reason = SVIO_SVA_REFUSED;
		info.error = err;
	} else {
		svio__vd_process_close(&p);
		info.flags |= SVIO_SVA_INFO_NATIVE;
	}
	return svio__vd_answer(req, r, &info, sizeof(info), NULL, 0);
}

static int sva_bind(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
		    struct vd_reply *r)
{
	struct vd_iommu *mmu = dev->iommu;
	struct svio_sva_bind b;
	struct vd_space *s = NULL;
	int err;

	err = svio__vd_take(&b, sizeof(b), data, len);
	if (err)
		return err;
	if (b.flags || b.reserved || b.min > b.max || req->argsz < sizeof(*req) + sizeof(b))
		return -EINVAL;
	if (!b.min && !b.max)
		b.max = UINT32_MAX;
	for (uint32_t i = 0; i < mmu->num && !s; i++)
		if (mmu->spaces[i]->is_process)
			s = mmu->spaces[i];
	if (s && s->closing)
		return -EBUSY;
	if (s) { /* one process at this end, one PASID */
		if (s->pasid < b.min || s->pasid > b.max)
			return svio_fail(ERANGE, "%s: the process has PASID %u already", dev->model->name, s->pasid);
		if (s->count == UINT32_MAX)
			return -EDQUOT;
		s->count++;
	} else {
		err = space_new(dev, b.min, b.max, &s);
		if (err)
			return err;
		s->is_process = true;
		err = svio__vd_process_open(dev, &s->process);
		if (err) {
			free(s);
			return err;
		}
		insert(mmu, s);
	}
	b.pasid = s->pasid;
	b.bond_fd = -1;
	return svio__vd_answer(req, r, &b, sizeof(b), NULL, 0);
}

#define ADDR_BITS_MIN 32u
#define ADDR_BITS_MAX 52u

static int pgtable_info(struct svio_vdev *dev, const struct svio_vfu_feature *req, struct vd_reply *r)
{
	struct svio_pgtable_info info = {
		.flags = SVIO_PGTABLE_NX,
		.formats = 1u << SVIO_PGTABLE_X86_64_4,
		.min_addr_bits = ADDR_BITS_MIN,
		.max_addr_bits = ADDR_BITS_MAX,
		.granularities = 1u << SVIO_INVALIDATE_DOMAIN | 1u << SVIO_INVALIDATE_PASID | 1u << SVIO_INVALIDATE_ADDR,
		.page_requests = dev->iommu->pri_max,
	};

	return svio__vd_answer(req, r, &info, sizeof(info), NULL, 0);
}

static int pgtable_bind(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
			struct vd_reply *r)
{
	struct svio_pgtable_bind b;
	struct vd_space *s;
	int err;

	err = svio__vd_take(&b, sizeof(b), data, len);
	if (err)
		return err;
	if ((b.flags & ~(uint32_t)SVIO_PGTABLE_NX) || b.reserved || b.min > b.max || b.format != SVIO_PGTABLE_X86_64_4 ||
	    b.addr_bits < ADDR_BITS_MIN || b.addr_bits > ADDR_BITS_MAX || b.domain > UINT16_MAX || (b.root & (VD_PAGE - 1)) || b.root >> b.addr_bits ||
	    req->argsz < sizeof(*req) + sizeof(b))
		return -EINVAL;
	if (!b.min && !b.max)
		b.max = UINT32_MAX;
	err = space_new(dev, b.min, b.max, &s);
	if (err)
		return err;
	s->table = (struct vd_table){
		.root = b.root,
		.reserved = ((UINT64_C(1) << 52) - 1) & ~((UINT64_C(1) << b.addr_bits) - 1),
		.nx = b.flags & SVIO_PGTABLE_NX,
		.domain = b.domain,
	};
	insert(dev->iommu, s);
	b.pasid = s->pasid;
	return svio__vd_answer(req, r, &b, sizeof(b), NULL, 0);
}

static int unbind(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
		  struct vd_reply *r)
{
	struct vd_iommu *mmu = dev->iommu;
	struct svio_sva_unbind u;
	uint32_t from, to;
	int err;

	err = svio__vd_take(&u, sizeof(u), data, len);
	if (err)
		return err;
	if (u.flags || u.min > u.max || req->argsz < sizeof(*req) + sizeof(u))
		return -EINVAL;
	from = lower(mmu, u.min);
	for (to = from; to < mmu->num && mmu->spaces[to]->pasid <= u.max; to++)
		mmu->spaces[to]->closing = true;
	u.released = to - from;
	if (from != to) {
		uint64_t now = svio_now_ns();

		svio__vd_pri_drop(dev, u.min, u.max);
		if (svio__vd_quiesce(dev, SVIO_VDEV_Q_PASID, u.min, (uint64_t)u.max - u.min + 1)) {
			if (!mmu->unbind_deadline)
				mmu->unbind_deadline = now + VD_UNBIND_NS;
			if (now < mmu->unbind_deadline)
				return -EINPROGRESS;
			svio_log_warn("%s: the device did not let go of PASIDs %u to %u; taken from it", dev->model->name, u.min,
				      u.max);
		}
		mmu->unbind_deadline = 0;
		for (uint32_t i = from; i < to; i++)
			space_free(mmu->spaces[i]);
		memmove(&mmu->spaces[from], &mmu->spaces[to], (mmu->num - to) * sizeof(*mmu->spaces));
		mmu->num -= u.released;
		mmu->stats.unbinds += u.released;
	}
	return svio__vd_answer(req, r, &u, sizeof(u), NULL, 0);
}

static int invalidate(struct svio_vdev *dev, const uint8_t *data, uint32_t len)
{
	struct vd_iommu *mmu = dev->iommu;
	struct svio_invalidate v;
	uint64_t first = 0, last = UINT64_MAX;
	uint32_t at, id = 0;
	int err;

	err = svio__vd_take(&v, sizeof(v), data, len);
	if (err)
		return err;
	if (v.flags || v.granularity > SVIO_INVALIDATE_ADDR || (v.granularity == SVIO_INVALIDATE_DOMAIN && v.pasid) ||
	    (v.granularity != SVIO_INVALIDATE_DOMAIN && v.domain) ||
	    (v.granularity != SVIO_INVALIDATE_ADDR && (v.addr || v.size)))
		return -EINVAL;
	if (v.granularity == SVIO_INVALIDATE_ADDR) {
		if (!v.size || v.addr + v.size - 1 < v.addr)
			return -EINVAL;
		first = v.addr / VD_PAGE;
		last = (v.addr + v.size - 1) / VD_PAGE;
	}
	mmu->stats.invalidations++;
	if (v.granularity != SVIO_INVALIDATE_DOMAIN) {
		at = lower(mmu, v.pasid);
		if (at == mmu->num || mmu->spaces[at]->pasid != v.pasid)
			return 0; /* nothing bound, nothing cached */
		id = mmu->spaces[at]->id;
	}
	for (uint32_t i = 0; i < VD_TLB_SETS; i++) {
		struct vd_tlb_entry *e = &mmu->tlb[i];

		if (v.granularity == SVIO_INVALIDATE_DOMAIN ? e->domain == v.domain :
							      e->id == id && e->page >= first && e->page <= last)
			e->id = 0;
	}
	return 0;
}

uint32_t svio__vd_iommu_feature_ops(const struct svio_vdev *dev, uint32_t index)
{
	if (!dev->iommu)
		return 0;
	switch (index) {
	case SVIO_VFIO_FEATURE_SVA_INFO:
		return SVIO_VFU_FEATURE_GET;
	case SVIO_VFIO_FEATURE_PAGE_REQUESTS:
		return dev->ecap_pri ? SVIO_VFU_FEATURE_GET : 0;
	case SVIO_VFIO_FEATURE_PAGE_RESPOND:
		return dev->ecap_pri ? SVIO_VFU_FEATURE_SET : 0;
	case SVIO_VFIO_FEATURE_PGTABLE_BIND:
		return SVIO_VFU_FEATURE_GET | SVIO_VFU_FEATURE_SET;
	case SVIO_VFIO_FEATURE_SVA_BIND:
	case SVIO_VFIO_FEATURE_SVA_UNBIND:
	case SVIO_VFIO_FEATURE_INVALIDATE:
		return SVIO_VFU_FEATURE_SET;
	default:
		return 0;
	}
}

int svio__vd_iommu_feature(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
			   struct vd_reply *r)
{
	int err;

	switch (req->flags & SVIO_VFU_FEATURE_MASK) {
	case SVIO_VFIO_FEATURE_SVA_INFO:
		return sva_info(dev, req, r);
	case SVIO_VFIO_FEATURE_SVA_BIND:
		return sva_bind(dev, req, data, len, r);
	case SVIO_VFIO_FEATURE_SVA_UNBIND:
		return unbind(dev, req, data, len, r);
	case SVIO_VFIO_FEATURE_PGTABLE_BIND:
		return req->flags & SVIO_VFU_FEATURE_GET ? pgtable_info(dev, req, r) : pgtable_bind(dev, req, data, len, r);
	case SVIO_VFIO_FEATURE_PAGE_REQUESTS:
		return svio__vd_pri_read(dev, req, data, len, r);
	case SVIO_VFIO_FEATURE_PAGE_RESPOND:
		err = svio__vd_pri_respond(dev, data, len);
		break;
	default:
		err = invalidate(dev, data, len);
	}
	return err ? err : svio__vd_answer(req, r, NULL, 0, NULL, 0);
}

/* ---- looking inside ---------------------------------------------------------------------------------- */

void svio_vdev_iommu_get_stats(const struct svio_vdev *dev, struct svio_vdev_iommu_stats *stats)
{
	if (dev->iommu)
		*stats = dev->iommu->stats;
	else
		memset(stats, 0, sizeof(*stats));
}

void svio_vdev_iommu_check(struct svio_vdev *dev, bool on)
{
	if (dev->iommu)
		dev->iommu->check = on;
}
