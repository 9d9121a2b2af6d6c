/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Page tables of the client's: x86-64 4-level paging (SDM §4.5), and the IOTLB before it.
 *
 * The tables are the client's memory and change under us: every entry is read once, checked, and only then are accessed and dirty
 * flags set in what was read, by compare-and-exchange; an entry that changed meanwhile starts the walk anew. Nothing is
 * followed further than four levels, so tables that contain themselves end like any others. Requests are those of user mode: all
 * entries of a path must have U/S set, and R/W for a write (SDM §4.6.1; VT-d §3.6 applies the same rules to first-stage tables).
 */
#include <string.h>
#include "iommu_priv.h"

#define E_PRESENT  (UINT64_C(1) << 0)
#define E_WRITE	   (UINT64_C(1) << 1)
#define E_USER	   (UINT64_C(1) << 2)
#define E_ACCESSED (UINT64_C(1) << 5)
#define E_DIRTY	   (UINT64_C(1) << 6)
#define E_LARGE	   (UINT64_C(1) << 7) /* in a page directory pointer table or a page directory; PAT in a page table */
#define E_NX	   (UINT64_C(1) << 63)
#define E_ADDR	   UINT64_C(0x000ffffffffff000)
#define LEVELS	   4
#define RETRIES	   16

struct walk {
	uint64_t entry[LEVELS], at[LEVELS]; /* what was read, and its IOVA */
	int n;
	uint64_t iova;
	bool writable;
};

/* Bits that must be 0 in an entry of the level (3 = PML4 … 0 = page table): SDM tables 4-15 to 4-20. */
static uint64_t reserved_bits(const struct vd_table *t, int level, uint64_t e)
{
	uint64_t bits = t->reserved | (t->nx ? 0 : E_NX);

	if (level == 3)
		bits |= E_LARGE;
	else if (level > 0 && (e & E_LARGE)) /* 1 GiB: bits 29:13; 2 MiB: bits 20:13; bit 12 is PAT */
		bits |= ((UINT64_C(1) << (12 + 9 * level)) - 1) & ~UINT64_C(0x1fff);
	return bits;
}

/* Read the path to addr, and change nothing. 0, or a fault. */
static int read_path(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, struct walk *w)
{
	struct svio_vdev_as *as0 = svio_vdev_as0(s->as.dev);
	uint64_t table = s->table.root, rights = E_WRITE | E_USER;

	w->n = 0;
	if (((int64_t)(addr << 16) >> 16) != (int64_t)addr)
		return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_CANONICAL, -EIO);
	for (int level = 3;; level--) {
		unsigned int shift = 12 + 9 * (unsigned int)level;
		uint64_t at = table + ((addr >> shift) & 511) * 8, e, *p;

		p = svio_vdev_as_ptr(as0, at, 8, SVIO_VDEV_READ);
		if (!p)
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_TABLE, -EIO);
		e = le64toh(__atomic_load_n(p, __ATOMIC_ACQUIRE));
		w->entry[w->n] = e;
		w->at[w->n++] = at;
		if (!(e & E_PRESENT))
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_NOT_PRESENT, -EFAULT);
		if (e & reserved_bits(&s->table, level, e))
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_RESERVED, -EIO);
		rights &= e;
		if (level == 0 || (level < 3 && (e & E_LARGE))) {
			uint64_t inside = (UINT64_C(1) << shift) - 1;

			w->iova = (e & E_ADDR & ~inside) | (addr & inside);
			break;
		}
		table = e & E_ADDR;
	}
	w->writable = rights & E_WRITE;
	if (!(rights & E_USER) || (access == SVIO_VDEV_WRITE && !w->writable))
		return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_RIGHTS, -EFAULT);
	return 0;
}

/* Set accessed flags, and dirty for a write (SDM §4.8). -EAGAIN: an entry has changed. */
static int set_flags(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, const struct walk *w)
{
	struct svio_vdev *dev = s->as.dev;

	for (int i = 0; i < w->n; i++) {
		uint64_t want = E_ACCESSED, old = htole64(w->entry[i]), *p;

		if (i == w->n - 1 && access == SVIO_VDEV_WRITE)
			want |= E_DIRTY;
		if ((w->entry[i] & want) == want)
			continue;
		p = svio_vdev_as_ptr(svio_vdev_as0(dev), w->at[i], 8, SVIO_VDEV_WRITE);
		if (!p)
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_TABLE, -EIO);
		if (!__atomic_compare_exchange_n(p, &old, htole64(w->entry[i] | want), false, __ATOMIC_ACQ_REL,
						 __ATOMIC_RELAXED))
			return -EAGAIN;
		svio_vdev_dma_mark(dev, w->at[i], 8);
	}
	return 0;
}

static int walk(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, struct walk *w)
{
	int err = -EAGAIN;

	s->as.dev->iommu->stats.walks++;
	for (int i = 0; i < RETRIES && err == -EAGAIN; i++) {
		err = read_path(s, addr, access, w);
		if (!err)
			err = set_flags(s, addr, access, w);
	}
	return err == -EAGAIN ? svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_RACE, -EFAULT) : err;
}

/* ---- IOTLB: direct mapped, by 4 KiB page ------------------------------------------------------------ */

static struct vd_tlb_entry *tlb_slot(struct vd_iommu *mmu, uint32_t id, uint64_t page)
{
	return &mmu->tlb[(page ^ (page >> 10) ^ id * UINT64_C(0x9e3779b1)) % VD_TLB_SETS];
}

/* Is what the IOTLB says what the tables say? Asked only when checking is on. */
static bool tlb_true(struct vd_space *s, const struct vd_tlb_entry *e, uint64_t addr, enum svio_vdev_access access)
{
	struct svio_vdev_iommu_stats *st = &s->as.dev->iommu->stats;
	struct svio_vdev_iommu_stats before = *st;
	struct walk w;
	bool same = read_path(s, addr, access, &w) == 0 && (w.iova & ~(uint64_t)(VD_PAGE - 1)) == e->gpa;

	*st = before; /* a fault here is not the device's */
	return same;
}

int svio__vd_table_translate(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, uint64_t *iova)
{
	struct vd_iommu *mmu = s->as.dev->iommu;
	struct vd_tlb_entry *e = tlb_slot(mmu, s->id, addr / VD_PAGE);
	struct walk w;
	int err;

	if (e->id == s->id && e->page == addr / VD_PAGE && (access == SVIO_VDEV_READ || e->writable)) {
		mmu->stats.tlb_hits++;
		if (mmu->check && !tlb_true(s, e, addr, access)) {
			mmu->stats.stale++;
			if (!mmu->stale_said)
				svio_log_warn("%s: a translation of %#llx, PASID %u, was used after its tables had changed: an invalidation is missing",
					      s->as.dev->model->name, (unsigned long long)addr, s->pasid);
			mmu->stale_said = true;
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_STALE, -EIO);
		}
		*iova = e->gpa | (addr & (VD_PAGE - 1));
		return 0;
	}
	err = walk(s, addr, access, &w);
	if (err)
		return err;
	/* A later write must come back here for the dirty flag. */
	*e = (struct vd_tlb_entry){
		.page = addr / VD_PAGE,
		.gpa = w.iova & ~(uint64_t)(VD_PAGE - 1),
		.id = s->id,
		.domain = s->table.domain,
		.writable = w.writable && (access == SVIO_VDEV_WRITE || (w.entry[w.n - 1] & E_DIRTY)),
	};
	*iova = w.iova;
	return 0;
}

/* ---- access ------------------------------------------------------------------------------------------ */

void *svio__vd_table_ptr(struct vd_space *s, uint64_t addr, uint64_t len, enum svio_vdev_access access)
{
	uint64_t iova;

	if (len > VD_PAGE - (addr & (VD_PAGE - 1)) || svio__vd_table_translate(s, addr, access, &iova))
		return NULL;
	return svio_vdev_as_ptr(svio_vdev_as0(s->as.dev), iova, len, access);
}

int svio__vd_table_rw(struct vd_space *s, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access)
{
	struct svio_vdev *dev = s->as.dev;

	for (uint32_t done = 0, n; done < len; done += n) {
		uint64_t va = addr + done, iova;
		void *p;
		int err;

		n = (uint32_t)SVIO_MIN((uint64_t)(len - done), VD_PAGE - (va & (VD_PAGE - 1)));
		err = svio__vd_table_translate(s, va, access, &iova);
		if (err)
			return err;
		p = svio_vdev_as_ptr(svio_vdev_as0(dev), iova, n, access);
		if (!p)
			return svio__vd_fault(s, va, access, SVIO_VDEV_FAULT_SECOND_STAGE, -EIO);
		if (access == SVIO_VDEV_WRITE) {
			memcpy(p, (uint8_t *)buf + done, n);
			svio_vdev_dma_mark(dev, iova, n);
		} else {
			memcpy((uint8_t *)buf + done, p, n);
		}
	}
	return 0;
}
