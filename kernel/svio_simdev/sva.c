// SPDX-License-Identifier: GPL-2.0
/*
 * SVA domains: the device walks a process's page table, and is told when to forget what it has read there.
 *
 * A walk is get_user_pages without a fault: it sees what the CPU's walk would see, sets the accessed and
 * dirty state, and takes a reference to the page, which the translation cache keeps for as long as it keeps
 * the entry. A real IOMMU takes none; here it makes a missed invalidation harmless to the kernel, so that it
 * can be counted instead. It is no pin: fork shares the page copy-on-write, and reclaim takes it, as the
 * invalidations that they send drop it.
 *
 * Two notifiers see an address space. `tlb` is the IOMMU: told of each TLB flush, it empties the cache.
 * `watch` is the detector, independent of it: told of each range that changes, it marks what is cached there
 * as due for a comparison with the page table before its next use (sim_sva_verify).
 */
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "simdev.h"

static long walk_locked(struct mm_struct *mm, u64 addr, bool write, struct page **page)
{
	return get_user_pages_remote(mm, addr & PAGE_MASK, 1, FOLL_NOFAULT | (write ? FOLL_WRITE : 0), page, NULL);
}

/* The page at addr, with a reference; -EFAULT where the table has none that permits it. */
int sim_sva_walk(struct sim_domain *dom, u64 addr, bool write, struct page **page)
{
	struct mm_struct *mm = dom->mm;
	long n;

	if (READ_ONCE(dom->dead) || !mmget_not_zero(mm))
		return -EFAULT;
	mmap_read_lock(mm);
	n = walk_locked(mm, addr, write, page);
	mmap_read_unlock(mm);
	mmput_async(mm); /* an engine must not be the one to tear an address space down */
	return n == 1 ? 0 : -EFAULT;
}

/*
 * A cached translation whose range has changed is about to be used. Is it still what the page table says?
 *
 * If not, it may be that the flush is still to come: the device may use the old page until then. The kernel
 * flushes at the end of an mmu_gather (mm_tlb_flush_pending tells), under the mmap lock for writing (fork),
 * or within the range's notification (reclaim, copy-on-write). With the mmap lock held for reading, no gather
 * under way and no range changing, before and after the walk, the flush is past: whoever changed the page
 * table may have given the page to somebody else.
 */
void sim_sva_verify(struct sim_dev *sd, const struct sim_atc_entry *seen)
{
	struct sim_domain *dom = seen->dom;
	struct mm_struct *mm = dom->mm;
	struct page *page = NULL;
	struct sim_atc_entry *e;
	unsigned long seq;
	bool quiet, same;

	if (!mmget_not_zero(mm))
		return; /* its end drops all entries */
	mmap_read_lock(mm);
	spin_lock(&sd->lock);
	seq = dom->seq;
	quiet = !dom->changing;
	spin_unlock(&sd->lock);
	if (quiet && !mm_tlb_flush_pending(mm)) {
		sim_count(sd, stale_checks);
		same = walk_locked(mm, seen->vpn << PAGE_SHIFT, seen->write, &page) == 1 && page == seen->page;
		spin_lock(&sd->lock);
		e = sim_atc_find(sd, seen->pasid, seen->vpn);
		if (e && e->dom == dom && e->page == seen->page && e->write == seen->write && dom->seq == seq) {
			if (same) {
				e->due = false;
			} else if (!mm_tlb_flush_pending(mm)) {
				sim_stale(sd, e);
				sim_atc_drop(e);
			}
		}
		spin_unlock(&sd->lock);
		if (page)
			put_page(page);
	}
	mmap_read_unlock(mm);
	mmput_async(mm);
}

/* ---- the IOMMU's notifier -------------------------------------------------------------------- */

/*
 * May be called under page table locks. On return the device has finished what it was doing by the old
 * translations.
 */
static void tlb_invalidate(struct mmu_notifier *mn, struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct sim_domain *dom = container_of(mn, struct sim_domain, tlb);

	spin_lock(&dom->sd->lock);
	dom->seq++;
	sim_atc_invalidate(dom->sd, dom, start, end == ULONG_MAX ? end : end - 1, true);
	spin_unlock(&dom->sd->lock);
}

/* The address space ends: before its pages are freed, and without another word. */
static void tlb_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct sim_domain *dom = container_of(mn, struct sim_domain, tlb);

	spin_lock(&dom->sd->lock);
	WRITE_ONCE(dom->dead, true);
	dom->seq++;
	sim_atc_invalidate(dom->sd, dom, 0, ULONG_MAX, false);
	spin_unlock(&dom->sd->lock);
}

static void tlb_free(struct mmu_notifier *mn)
{
	sim_domain_put(container_of(mn, struct sim_domain, tlb));
}

static const struct mmu_notifier_ops tlb_ops = {
	.arch_invalidate_secondary_tlbs = tlb_invalidate,
	.release = tlb_release,
	.free_notifier = tlb_free,
};

/* ---- the detector's -------------------------------------------------------------------------- */

static int watch_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct sim_domain *dom = container_of(mn, struct sim_domain, watch);

	spin_lock(&dom->sd->lock);
	dom->seq++;
	dom->changing++;
	spin_unlock(&dom->sd->lock);
	return 0;
}

static void watch_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct sim_domain *dom = container_of(mn, struct sim_domain, watch);

	spin_lock(&dom->sd->lock);
	dom->seq++;
	dom->changing--;
	sim_atc_mark_due(dom->sd, dom, range->start, range->end - 1);
	spin_unlock(&dom->sd->lock);
}

static void watch_free(struct mmu_notifier *mn)
{
	sim_domain_put(container_of(mn, struct sim_domain, watch));
}

static const struct mmu_notifier_ops watch_ops = {
	.invalidate_range_start = watch_start,
	.invalidate_range_end = watch_end,
	.free_notifier = watch_free,
};

/* ---- domains ---------------------------------------------------------------------------------------------- */

/*
 * As VT-d has it: no SVA without ATS, and page requests enabled if the function has them. What the PCI core has
 * enabled counts, not the registers: at the end of a reset the core attaches again before it restores those.
 */
static bool sva_enabled(struct device *dev)
{
	struct sim_dev *sd = dev_iommu_priv_get(dev);
	struct pci_dev *pdev = to_pci_dev(dev);

	if (sim_pci_is_twin(dev))
		return pdev->pasid_enabled;
	return pdev->pasid_enabled && pdev->ats_enabled && (!sd->has_pri || (pdev->pri_enabled && sd->iopf));
}

static int sva_set_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
			 , struct iommu_domain *old
#endif
)
{
	struct sim_domain *was = NULL;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	if (old && old->type != IOMMU_DOMAIN_BLOCKED)
		was = container_of(old, struct sim_domain, domain);
#endif
	if (!sva_enabled(dev))
		return -EINVAL;
	return sim_domain_set_pasid(container_of(domain, struct sim_domain, domain), dev, pasid, was);
}

/* The references go when the notifiers are no longer being called. */
static void sva_free(struct iommu_domain *domain)
{
	struct sim_domain *dom = container_of(domain, struct sim_domain, domain);

	mmu_notifier_put(&dom->watch);
	mmu_notifier_put(&dom->tlb);
}

static const struct iommu_domain_ops sva_ops = {
	.set_dev_pasid = sva_set_pasid,
	.free = sva_free,
};

struct iommu_domain *sim_sva_alloc(struct device *dev, struct mm_struct *mm)
{
	struct sim_dev *sd = dev_iommu_priv_get(dev);
	struct sim_domain *dom;
	int rc;

	if (!sva_enabled(dev))
		return ERR_PTR(-EINVAL);
	dom = kzalloc(sizeof(*dom), GFP_KERNEL);
	if (!dom)
		return ERR_PTR(-ENOMEM);
	kref_init(&dom->ref);
	xa_init(&dom->table);
	dom->sd = sd;
	dom->domain.ops = &sva_ops;
	dom->domain.type = IOMMU_DOMAIN_SVA;
	mmgrab(mm);
	dom->mm = mm;
	dom->tlb.ops = &tlb_ops;
	dom->watch.ops = &watch_ops;
	rc = mmu_notifier_register(&dom->tlb, mm);
	if (rc) {
		sim_domain_put(dom);
		return ERR_PTR(rc);
	}
	kref_get(&dom->ref);
	rc = mmu_notifier_register(&dom->watch, mm);
	if (rc) {
		sim_domain_put(dom);
		mmu_notifier_put(&dom->tlb);
		return ERR_PTR(rc);
	}
	return &dom->domain;
}
