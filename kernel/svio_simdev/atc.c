// SPDX-License-Identifier: GPL-2.0
/*
 * The function's address translation cache, and its accesses to memory (PCIe 6.0, chapter 10).
 *
 * Each access is made by a cached translation, under sim_dev.lock, and moves at most a page: an invalidation
 * takes the lock, so when it returns no access by the old translation is under way, which is what an
 * Invalidate Completion says. What is not cached is asked of the IOMMU; what the IOMMU has not, of the kernel
 * by a page request.
 */
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/page_ref.h>
#include <linux/sched.h>

#include "simdev.h"

void sim_atc_init(struct sim_dev *sd)
{
	spin_lock_init(&sd->lock);
	xa_init(&sd->pasids);
	init_waitqueue_head(&sd->prq_wait);
}

static struct sim_atc_entry *set_of(struct sim_dev *sd, u32 pasid, u64 vpn)
{
	return sd->atc[hash_64(vpn ^ (u64)pasid << 44, ilog2(SIM_ATC_SETS))];
}

struct sim_atc_entry *sim_atc_find(struct sim_dev *sd, u32 pasid, u64 vpn)
{
	struct sim_atc_entry *set = set_of(sd, pasid, vpn);

	for (unsigned int i = 0; i < SIM_ATC_WAYS; i++)
		if (set[i].dom && set[i].pasid == pasid && set[i].vpn == vpn)
			return &set[i];
	return NULL;
}

void sim_atc_drop(struct sim_atc_entry *e)
{
	if (e->held)
		put_page(e->page);
	e->dom = NULL;
}

/* e of sd, one after the other */
#define for_each_entry(sd, e) \
	for (e = &(sd)->atc[0][0]; e < &(sd)->atc[0][0] + SIM_ATC_SETS * SIM_ATC_WAYS; e++)

static bool covers(const struct sim_atc_entry *e, const struct sim_domain *dom, u64 start, u64 last)
{
	return e->dom == dom && e->vpn >= start >> PAGE_SHIFT && e->vpn <= last >> PAGE_SHIFT;
}

void sim_atc_invalidate(struct sim_dev *sd, struct sim_domain *dom, u64 start, u64 last, bool may_lose)
{
	struct sim_atc_entry *e;

	lockdep_assert_held(&sd->lock);
	for_each_entry(sd, e) {
		if (!covers(e, dom, start, last))
			continue;
		if (may_lose && sim_take(&sd->inject.drop_invalidations)) {
			sim_count(sd, atc_lost);
			continue;
		}
		sim_count(sd, atc_invalidated);
		sim_atc_drop(e);
	}
}

void sim_atc_mark_due(struct sim_dev *sd, struct sim_domain *dom, u64 start, u64 last)
{
	struct sim_atc_entry *e;

	lockdep_assert_held(&sd->lock);
	for_each_entry(sd, e)
		if (covers(e, dom, start, last))
			e->due = true;
}

void sim_atc_flush_pasid(struct sim_dev *sd, u32 pasid)
{
	struct sim_atc_entry *e;

	lockdep_assert_held(&sd->lock);
	for_each_entry(sd, e)
		if (e->dom && e->pasid == pasid)
			sim_atc_drop(e);
}

void sim_atc_flush_all(struct sim_dev *sd)
{
	struct sim_atc_entry *e;

	spin_lock(&sd->lock);
	for_each_entry(sd, e)
		if (e->dom)
			sim_atc_drop(e);
	spin_unlock(&sd->lock);
}

void sim_stale(struct sim_dev *sd, const struct sim_atc_entry *e)
{
	sim_count(sd, stale_uses);
	WARN(READ_ONCE(sd->warn), "svio_simdev: stale translation used: PASID %u, address %#llx%s: an invalidation was missed\n",
	     e->pasid, e->vpn << PAGE_SHIFT, e->write ? ", writable" : "");
}

static struct sim_domain *domain_of(struct sim_dev *sd, u32 pasid)
{
	return pasid == IOMMU_NO_PASID ? sd->rid : xa_load(&sd->pasids, pasid);
}

/* Does the table of a paging domain still say what is cached? Between unmap and iotlb_sync it need not. */
static bool paging_agrees(const struct sim_atc_entry *e)
{
	void *pte;

	if (e->dom->domain.type == IOMMU_DOMAIN_SVA || e->dom->domain.type == IOMMU_DOMAIN_IDENTITY)
		return true;
	pte = xa_load(&e->dom->table, e->vpn);
	return pte == SIM_PTE_GONE ||
	       (pte && pfn_to_page(SIM_PTE_PFN(pte)) == e->page && (SIM_PTE_WRITE(pte) || !e->write));
}

/*
 * Asks the IOMMU. 0: cached now; -EFAULT: no such page, or not so; -EAGAIN: ask again; -EXDEV: nothing at all
 * by this PASID.
 */
static int translate(struct sim_dev *sd, u32 pasid, u64 addr, bool write)
{
	u64 vpn = addr >> PAGE_SHIFT;
	struct sim_atc_entry *set, *e;
	unsigned long seq, attach_seq;
	struct page *page = NULL;
	struct sim_domain *dom;
	bool held = false;
	int rc = -EFAULT;
	void *pte;

	spin_lock(&sd->lock);
	dom = domain_of(sd, pasid);
	if (dom) {
		kref_get(&dom->ref);
		seq = dom->seq;
		attach_seq = sd->attach_seq;
	}
	spin_unlock(&sd->lock);
	if (!dom)
		return -EXDEV;

	if (dom->domain.type == IOMMU_DOMAIN_SVA) {
		rc = sim_sva_walk(dom, addr, write, &page);
		held = !rc;
	} else if (dom->domain.type == IOMMU_DOMAIN_IDENTITY) {
		if (page_is_ram(vpn)) {
			page = pfn_to_page(vpn);
			write = true;
			rc = 0;
		}
	} else {
		pte = xa_load(&dom->table, vpn);
		if (pte && pte != SIM_PTE_GONE && (SIM_PTE_WRITE(pte) || !write) && page_is_ram(SIM_PTE_PFN(pte))) {
			page = pfn_to_page(SIM_PTE_PFN(pte));
			write = SIM_PTE_WRITE(pte);
			held = folio_try_get(page_folio(page));
			rc = 0;
		}
	}
	if (rc)
		goto out;

	spin_lock(&sd->lock);
	if (sd->attach_seq != attach_seq || dom->seq != seq) {
		sim_count(sd, atc_raced);
		rc = -EAGAIN;
	} else {
		e = sim_atc_find(sd, pasid, vpn); /* for reading only, or by another engine */
		set = set_of(sd, pasid, vpn);
		for (unsigned int i = 0; !e && i < SIM_ATC_WAYS; i++)
			if (!set[i].dom)
				e = &set[i];
		if (!e)
			e = &set[sd->victim++ % SIM_ATC_WAYS];
		if (e->dom)
			sim_atc_drop(e);
		*e = (struct sim_atc_entry){
			.dom = dom, .vpn = vpn, .pasid = pasid, .write = write, .held = held, .page = page
		};
		held = false;
		sim_count(sd, atc_fills);
	}
	spin_unlock(&sd->lock);
	if (held)
		put_page(page);
out:
	sim_domain_put(dom);
	return rc;
}

static void move(const struct sim_atc_entry *e, u64 addr, u8 *buf, size_t len, enum sim_how how)
{
	u8 *page = kmap_local_page(e->page), *p = page + offset_in_page(addr);

	switch (how) {
	case SIM_READ:
		memcpy(buf, p, len);
		break;
	case SIM_WRITE:
		memcpy(p, buf, len);
		break;
	case SIM_WRITE_RECORD: /* the first eight bytes last: whoever sees the status sees the rest */
		memcpy(p + 8, buf + 8, len - 8);
		smp_store_release((u64 *)p, *(u64 *)buf);
		break;
	}
	kunmap_local(page);
}

/*
 * One access by a cached translation; 0, -ENOENT: there is none, -ESTALE: look again, -EPERM: no bus
 * mastering.
 *
 * in_flight goes up before bus mastering is looked at. So whoever clears bus mastering and then finds no
 * transactions pending knows that there will be none.
 */
static int try_access(struct sim_dev *sd, u32 pasid, u64 addr, u8 *buf, size_t len, enum sim_how how, bool *verified)
{
	bool write = how != SIM_READ;
	struct sim_atc_entry *e, seen;
	int rc = -ENOENT;

	atomic_inc(&sd->in_flight);
	smp_mb__after_atomic();
	if (!sim_pci_master(sd)) {
		atomic_dec(&sd->in_flight);
		return -EPERM;
	}
	spin_lock(&sd->lock);
	e = sim_atc_find(sd, pasid, addr >> PAGE_SHIFT);
	if (e && (!write || e->write)) {
		if (!paging_agrees(e)) {
			sim_stale(sd, e);
			sim_atc_drop(e);
		} else if (e->due && !*verified) {
			rc = -ESTALE;
			seen = *e;
			kref_get(&seen.dom->ref);
		} else {
			move(e, addr, buf, len, how);
			sim_count(sd, atc_hits);
			rc = 0;
			if (!sim_pci_ats_on(sd)) /* translated for this access alone */
				sim_atc_drop(e);
		}
	}
	spin_unlock(&sd->lock);
	smp_mb__before_atomic();
	atomic_dec(&sd->in_flight);
	if (rc == -ESTALE) {
		sim_sva_verify(sd, &seen);
		sim_domain_put(seen.dom);
		*verified = true;
	}
	return rc;
}

/* ---- page requests ---------------------------------------------------------------------------------------- */

/* By the kernel, once for each request, from any thread. */
void sim_page_response(struct sim_dev *sd, u32 pasid, u32 grpid, int code)
{
	spin_lock(&sd->lock);
	for (unsigned int i = 0; i < SIM_ENGINES; i++) {
		struct sim_prq *prq = &sd->engine[i].prq;

		if (!prq->waiting || prq->answered || prq->pasid != pasid || prq->grpid != grpid)
			continue;
		if (sim_take(&sd->inject.drop_responses)) {
			sim_count(sd, pr_dropped);
			goto out;
		}
		if (sim_take(&sd->inject.deny_responses))
			code = IOMMU_PAGE_RESP_INVALID;
		if (sim_take(&sd->inject.fail_responses))
			code = IOMMU_PAGE_RESP_FAILURE;
		prq->code = code;
		prq->answered = true;
		goto out;
	}
	sim_count(sd, pr_late);
out:
	spin_unlock(&sd->lock);
	wake_up_all(&sd->prq_wait);
}

static bool prq_over(struct sim_req *rq)
{
	struct sim_prq *prq = &rq->eng->prq;
	bool over;

	spin_lock(&rq->sd->lock);
	over = prq->answered || prq->gone;
	spin_unlock(&rq->sd->lock);
	return over || sim_cancelled(rq, true);
}

/* The answer, IOMMU_PAGE_RESP_*; -EXDEV: the PASID is gone; -ECANCELED. */
static int page_request(struct sim_req *rq, u64 addr, bool write)
{
	struct sim_prq *prq = &rq->eng->prq;
	struct iopf_fault evt = {
		.fault.type = IOMMU_FAULT_PAGE_REQ,
		.fault.prm = {
			.flags = IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE |
				 IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
			.pasid = rq->pasid,
			.perm = write ? IOMMU_FAULT_PERM_WRITE : IOMMU_FAULT_PERM_READ,
			.addr = addr & PAGE_MASK,
		},
	};
	struct sim_dev *sd = rq->sd;
	bool attached;
	int rc;

	mutex_lock(&sd->prq_lock);
	spin_lock(&sd->lock);
	attached = sd->dev && xa_load(&sd->pasids, rq->pasid);
	if (attached) {
		evt.fault.prm.grpid = sd->next_grpid++ & 0x1ff;
		*prq = (struct sim_prq){ .waiting = true, .pasid = rq->pasid, .grpid = evt.fault.prm.grpid };
	}
	spin_unlock(&sd->lock);
	if (attached) {
		sim_count(sd, page_requests);
		iommu_report_device_fault(sd->dev, &evt); /* answers itself if it cannot be handled */
	}
	mutex_unlock(&sd->prq_lock);
	if (!attached)
		return -EXDEV;
	wait_event_idle(sd->prq_wait, prq_over(rq));
	spin_lock(&sd->lock);
	rc = prq->answered ? prq->code : prq->gone ? -EXDEV : -ECANCELED;
	prq->waiting = false;
	spin_unlock(&sd->lock);
	if (rc < 0)
		return rc;
	if (rc == IOMMU_PAGE_RESP_SUCCESS)
		sim_count(sd, pr_success);
	else if (rc == IOMMU_PAGE_RESP_INVALID)
		sim_count(sd, pr_invalid);
	else
		sim_count(sd, pr_failure);
	if (rc == IOMMU_PAGE_RESP_FAILURE)
		sim_pci_pri_failed(sd);
	if (sim_delay(rq, READ_ONCE(sd->inject.response_delay_us)))
		return -ECANCELED;
	return rc;
}

/* Nothing by this PASID. A function that may not master the bus does not ask at all, and this is no answer to it. */
static int blocked(struct sim_dev *sd)
{
	if (sim_pci_master(sd))
		sim_count(sd, dma_blocked);
	else
		sim_count(sd, dma_no_master);
	return DSA_ST_TRANSLATION;
}

/* Brings addr into the cache. 0, enum dsa_status, or -ECANCELED. */
static int resolve(struct sim_req *rq, u64 addr, bool write)
{
	struct sim_dev *sd = rq->sd;

	rq->fault_addr = addr;
	rq->fault_write = write;
	/*
	 * Answered with success and still not there, again and again: a range that cannot be walked, or is
	 * being evicted.
	 */
	for (unsigned int answers = 0; answers < 64; cond_resched()) {
		int rc;

		if (sim_cancelled(rq, false))
			return -ECANCELED;
		rc = translate(sd, rq->pasid, addr, write);
		if (rc == -EAGAIN)
			continue;
		if (rc == -EXDEV)
			return blocked(sd);
		if (!rc)
			return 0;
		if (!rq->block || rq->pasid == IOMMU_NO_PASID || !sim_pci_pri_on(sd) || !sim_pci_ats_on(sd)) {
			sim_count(sd, dma_faults);
			return DSA_ST_PAGE_FAULT;
		}
		rc = page_request(rq, addr, write);
		if (rc == -ECANCELED)
			return rc;
		if (rc == -EXDEV)
			return blocked(sd);
		if (rc != IOMMU_PAGE_RESP_SUCCESS)
			return DSA_ST_PAGE_FAULT_IR;
		answers++;
	}
	sim_count(sd, dma_faults);
	return DSA_ST_PAGE_FAULT_IR;
}

/* An access within one page. 0, enum dsa_status, or -ECANCELED. */
int sim_rw(struct sim_req *rq, u64 addr, void *buf, size_t len, enum sim_how how)
{
	bool verified = false;

	for (;;) {
		int rc = try_access(rq->sd, rq->pasid, addr, buf, len, how, &verified);

		if (!rc)
			return 0;
		if (rc == -EPERM) {
			sim_count(rq->sd, dma_no_master);
			rq->fault_addr = addr;
			rq->fault_write = how != SIM_READ;
			return DSA_ST_TRANSLATION;
		}
		if (rc == -ESTALE)
			continue;
		rc = resolve(rq, addr, how != SIM_READ);
		if (rc)
			return rc;
		verified = false;
	}
}
