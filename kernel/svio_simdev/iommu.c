// SPDX-License-Identifier: GPL-2.0
/*
 * The simulated IOMMU: domains, the PASID table, page requests to the kernel and responses to the device.
 *
 * It serves one function, which a bus notifier claims for it before the IOMMU core asks who does: so it
 * stands beside whatever IOMMU the machine has, which never sees the function.
 */
#include <linux/pci-ats.h>
#include <linux/platform_device.h>
#include <linux/property.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "simdev.h"

#define NEW_ATTACH	(LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)) /* attach_dev and set_dev_pasid are told the old domain */

static struct sim_domain *to_sim(struct iommu_domain *domain)
{
	return container_of(domain, struct sim_domain, domain);
}

static void domain_release(struct kref *ref)
{
	struct sim_domain *dom = container_of(ref, struct sim_domain, ref);

	xa_destroy(&dom->table);
	if (dom->mm)
		mmdrop(dom->mm);
	kfree(dom);
}

void sim_domain_put(struct sim_domain *dom)
{
	kref_put(&dom->ref, domain_release);
}

/* ---- attaching ------------------------------------------------------------------------------- */

static int attach_rid(struct sim_dev *sd, struct sim_domain *dom)
{
	spin_lock(&sd->lock);
	sd->rid = dom;
	sd->attach_seq++;
	sim_atc_flush_pasid(sd, IOMMU_NO_PASID);
	spin_unlock(&sd->lock);
	return 0;
}

/*
 * The entry of pasid, which is old (NULL: none), becomes dom; NULL takes it away, which cannot fail. An entry that
 * is not the one that the caller means to replace stays, with -EBUSY. Once this returns without one, the device reaches
 * nothing by this PASID any more and no page request of it is under way: each access is made under
 * sim_dev.lock from the translation cache, which is empty now; each page request is reported under prq_lock,
 * while the PASID is in the table; and those reported before have been through the kernel's queue.
 */
int sim_domain_set_pasid(struct sim_domain *dom, struct device *dev, ioasid_t pasid, struct sim_domain *old)
{
	struct sim_dev *sd = dev_iommu_priv_get(dev);
	struct sim_domain *was;
	int rc = 0;

	if (sim_pci_is_twin(dev)) {
		if (dom)
			sim_count(sd, twin_pasids);
		return 0;
	}
	if (dom)
		rc = xa_reserve(&sd->pasids, pasid, GFP_KERNEL);
	if (rc)
		return rc;
	mutex_lock(&sd->prq_lock);
	spin_lock(&sd->lock);
	was = xa_load(&sd->pasids, pasid);
	if (dom && was != old) {
		spin_unlock(&sd->lock);
		mutex_unlock(&sd->prq_lock);
		if (!was)
			xa_release(&sd->pasids, pasid);
		return -EBUSY;
	}
	if (dom)
		xa_store(&sd->pasids, pasid, dom, GFP_ATOMIC); /* reserved: allocates nothing */
	else
		xa_erase(&sd->pasids, pasid);
	sd->attach_seq++;
	sim_atc_flush_pasid(sd, pasid);
	for (unsigned int i = 0; i < SIM_ENGINES; i++) {
		struct sim_engine *eng = &sd->engine[i];

		if (eng->prq.waiting && eng->prq.pasid == pasid && was)
			eng->prq.gone = true;
		if (eng->busy_pasid == pasid && !dom)
			sim_count(sd, detach_in_flight);
	}
	spin_unlock(&sd->lock);
	mutex_unlock(&sd->prq_lock);
	wake_up_all(&sd->prq_wait);
	if (was && sd->iopf)
		iopf_queue_flush_dev(dev);
	return 0;
}

/* What the core says was attached before; blocked is what we keep no entry for. */
#if NEW_ATTACH
#define OLD , struct iommu_domain *old
#define WAS (old && old->type != IOMMU_DOMAIN_BLOCKED ? to_sim(old) : NULL)
#else
#define OLD
#define WAS NULL /* replacing came later */
#endif

static int attach(struct device *dev, struct sim_domain *dom)
{
	/* The twin does no DMA. */
	return sim_pci_is_twin(dev) ? 0 : attach_rid(dev_iommu_priv_get(dev), dom);
}

static int paging_attach(struct iommu_domain *domain, struct device *dev OLD)
{
	return attach(dev, to_sim(domain));
}

static int paging_set_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid OLD)
{
	return sim_domain_set_pasid(to_sim(domain), dev, pasid, WAS);
}

static struct sim_domain identity, blocked;

static int identity_attach(struct iommu_domain *domain, struct device *dev OLD)
{
	return attach(dev, &identity);
}

static int blocked_attach(struct iommu_domain *domain, struct device *dev OLD)
{
	return attach(dev, NULL);
}

#if NEW_ATTACH
static int blocked_set_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid OLD)
{
	return sim_domain_set_pasid(NULL, dev, pasid, WAS);
}
#else
static void remove_pasid(struct device *dev, ioasid_t pasid, struct iommu_domain *domain)
{
	sim_domain_set_pasid(NULL, dev, pasid, WAS);
}
#endif

static struct sim_domain identity = {
	.domain = {
		.type = IOMMU_DOMAIN_IDENTITY,
		.ops = &(const struct iommu_domain_ops){ .attach_dev = identity_attach },
	},
	.ref = KREF_INIT(1),
};

static struct sim_domain blocked = {
	.domain = {
		.type = IOMMU_DOMAIN_BLOCKED,
		.ops = &(const struct iommu_domain_ops){
			.attach_dev = blocked_attach,
#if NEW_ATTACH
			.set_dev_pasid = blocked_set_pasid,
#endif
		},
	},
	.ref = KREF_INIT(1),
};

/* ---- paging domains -------------------------------------------------------------------------- */

static int paging_map(struct iommu_domain *domain, unsigned long iova, phys_addr_t paddr, size_t pgsize, size_t pgcount,
		      int prot, gfp_t gfp, size_t *mapped)
{
	struct sim_domain *dom = to_sim(domain);
	bool write = prot & IOMMU_WRITE;

	for (size_t i = 0; i < pgcount; i++) {
		unsigned long vpn = (iova >> PAGE_SHIFT) + i;
		void *was = xa_load(&dom->table, vpn);

		if (was && was != SIM_PTE_GONE)
			return -EEXIST;
		was = xa_store(&dom->table, vpn, SIM_PTE((paddr >> PAGE_SHIFT) + i, write), gfp);
		if (xa_is_err(was))
			return xa_err(was);
		*mapped += PAGE_SIZE;
	}
	return 0;
}

/*
 * Until iotlb_sync the device may go on by what it has cached; so the table remembers that there was
 * something.
 */
static size_t paging_unmap(struct iommu_domain *domain, unsigned long iova, size_t pgsize, size_t pgcount,
			   struct iommu_iotlb_gather *gather)
{
	struct sim_domain *dom = to_sim(domain);
	size_t done;

	for (done = 0; done < pgcount; done++) {
		unsigned long vpn = (iova >> PAGE_SHIFT) + done;
		void *was = xa_load(&dom->table, vpn);

		if (!was || was == SIM_PTE_GONE)
			break;
		xa_store(&dom->table, vpn, SIM_PTE_GONE, GFP_ATOMIC); /* replaces an entry: allocates nothing */
	}
	if (done)
		iommu_iotlb_gather_add_range(gather, iova, done * PAGE_SIZE);
	return done * PAGE_SIZE;
}

static void paging_sync_range(struct sim_domain *dom, u64 start, u64 last)
{
	unsigned long vpn;
	void *e;

	spin_lock(&dom->sd->lock);
	dom->seq++;
	sim_atc_invalidate(dom->sd, dom, start, last, true);
	spin_unlock(&dom->sd->lock);
	xa_for_each_range(&dom->table, vpn, e, start >> PAGE_SHIFT, last >> PAGE_SHIFT)
		if (e == SIM_PTE_GONE)
			xa_cmpxchg(&dom->table, vpn, e, NULL, GFP_ATOMIC);
}

static void paging_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	if (gather->start <= gather->end)
		paging_sync_range(to_sim(domain), gather->start, gather->end);
}

static void paging_flush_all(struct iommu_domain *domain)
{
	paging_sync_range(to_sim(domain), 0, ULONG_MAX);
}

static phys_addr_t paging_iova_to_phys(struct iommu_domain *domain, dma_addr_t iova)
{
	void *e = xa_load(&to_sim(domain)->table, iova >> PAGE_SHIFT);

	return e && e != SIM_PTE_GONE ? (SIM_PTE_PFN(e) << PAGE_SHIFT) + offset_in_page(iova) : 0;
}

static bool paging_coherent(struct iommu_domain *domain)
{
	return true;
}

static void paging_free(struct iommu_domain *domain)
{
	sim_domain_put(to_sim(domain));
}

static const struct iommu_domain_ops paging_ops = {
	.attach_dev = paging_attach,
	.set_dev_pasid = paging_set_pasid,
	.map_pages = paging_map,
	.unmap_pages = paging_unmap,
	.iotlb_sync = paging_sync,
	.flush_iotlb_all = paging_flush_all,
	.iova_to_phys = paging_iova_to_phys,
	.enforce_cache_coherency = paging_coherent,
	.free = paging_free,
};

static struct iommu_domain *alloc_paging(struct device *dev)
{
	struct sim_domain *dom = kzalloc(sizeof(*dom), GFP_KERNEL);

	if (!dom)
		return ERR_PTR(-ENOMEM);
	kref_init(&dom->ref);
	xa_init(&dom->table);
	dom->sd = dev_iommu_priv_get(dev);
	dom->domain.ops = &paging_ops;
	dom->domain.pgsize_bitmap = SZ_4K;
	dom->domain.geometry.aperture_end = (1ull << 48) - 1;
	dom->domain.geometry.force_aperture = true;
	return &dom->domain;
}

#if NEW_ATTACH
static struct iommu_domain *alloc_paging_flags(struct device *dev, u32 flags, const struct iommu_user_data *user_data)
{
	if (user_data || (flags & ~IOMMU_HWPT_ALLOC_PASID))
		return ERR_PTR(-EOPNOTSUPP);
	return alloc_paging(dev);
}
#endif

/* ---- for tests: the PASID table asked as the core would not ask it ---------------------------- */

/* Attaches an empty domain to a PASID as if it were free: -EBUSY where it is in use. */
int sim_pasid_reattach(struct sim_dev *sd, u32 pasid)
{
	struct iommu_domain *empty;
	int rc = -ENODEV;

	mutex_lock(&sd->plug_lock);
	if (sd->plugged && sd->dev) {
		empty = alloc_paging(sd->dev);
		rc = PTR_ERR_OR_ZERO(empty);
		if (!rc) {
			rc = sim_domain_set_pasid(to_sim(empty), sd->dev, pasid, NULL);
			if (!rc)
				sim_domain_set_pasid(NULL, sd->dev, pasid, to_sim(empty));
			paging_free(empty);
		}
	}
	mutex_unlock(&sd->plug_lock);
	return rc;
}

static int swap_out(struct sim_dev *sd, u32 pasid)
{
	struct iommu_domain *empty;
	struct sim_domain *was;
	int rc;

	if (sd->empty)
		return -EBUSY;
	if (!sd->plugged || !sd->dev)
		return -ENODEV;
	empty = alloc_paging(sd->dev);
	if (IS_ERR(empty))
		return PTR_ERR(empty);
	spin_lock(&sd->lock);
	was = xa_load(&sd->pasids, pasid);
	if (was)
		kref_get(&was->ref);
	spin_unlock(&sd->lock);
	rc = was ? sim_domain_set_pasid(to_sim(empty), sd->dev, pasid, was) : -ENOENT;
	if (rc) {
		paging_free(empty);
		if (was)
			sim_domain_put(was);
		return rc;
	}
	sd->swapped = was;
	sd->swapped_pasid = pasid;
	sd->empty = to_sim(empty);
	return 0;
}

/* If the PASID was detached meanwhile there is nothing to put back. */
static int swap_back(struct sim_dev *sd)
{
	int rc = -ENODEV;

	if (!sd->empty)
		return -ENOENT;
	if (sd->plugged && sd->dev)
		rc = sim_domain_set_pasid(sd->swapped, sd->dev, sd->swapped_pasid, sd->empty);
	sim_domain_put(sd->swapped);
	sim_domain_put(sd->empty);
	sd->swapped = sd->empty = NULL;
	return rc;
}

/* Replaces the domain of a PASID by one in which nothing is mapped; 0 puts it back. */
int sim_pasid_swap(struct sim_dev *sd, u32 pasid)
{
	int rc;

	mutex_lock(&sd->plug_lock);
	rc = pasid ? swap_out(sd, pasid) : swap_back(sd);
	mutex_unlock(&sd->plug_lock);
	return rc;
}

/* ---- the function ---------------------------------------------------------------------------- */

/*
 * Before the IOMMU core looks at a new device. What iommu_fwspec_init() does, which a notifier cannot call:
 * it is to be called with a lock of the core's that is not exported.
 */
static int claim(struct notifier_block *nb, unsigned long action, void *data)
{
	struct device *dev = data;
	struct iommu_fwspec *fwspec;
	struct dev_iommu *param;

	if (action != BUS_NOTIFY_ADD_DEVICE || !dev_is_pci(dev) || dev->iommu ||
	    to_pci_dev(dev)->bus->sysdata != &sim_the->sysdata)
		return NOTIFY_DONE;
	param = kzalloc(sizeof(*param), GFP_KERNEL);
	fwspec = kzalloc(sizeof(*fwspec) + sizeof(fwspec->ids[0]), GFP_KERNEL);
	if (!param || !fwspec) {
		kfree(param);
		kfree(fwspec);
		return NOTIFY_DONE; /* it has no IOMMU then: VFIO refuses it */
	}
	mutex_init(&param->lock);
	fwspec->iommu_fwnode = fwnode_handle_get(sim_the->fwnode);
	param->fwspec = fwspec;
	dev->iommu = param;
	return NOTIFY_OK;
}

static struct notifier_block claim_nb = {
	.notifier_call = claim,
	.priority = 10,
};

static struct iommu_device *probe_device(struct device *dev)
{
	struct sim_dev *sd = sim_the;
	struct pci_dev *pdev;

	if (!dev_is_pci(dev) || to_pci_dev(dev)->bus->sysdata != &sd->sysdata)
		return ERR_PTR(-ENODEV);
	pdev = to_pci_dev(dev);
	dev_iommu_priv_set(dev, sd);
	/* PASIDs before ATS: PCIe 6.0, 10.5.1.3. */
	if (pdev->pasid_cap && pci_enable_pasid(pdev, 0))
		pci_warn(pdev, "svio_simdev: cannot enable PASIDs\n");
	if (!sim_pci_is_twin(dev) && pci_ats_supported(pdev)) {
		sim_pci_set_pri(pdev, true);
		if (pci_enable_ats(pdev, PAGE_SHIFT))
			pci_warn(pdev, "svio_simdev: cannot enable ATS\n");
	}
	return &sd->iommu;
}

static void probe_finalize(struct device *dev)
{
	struct sim_dev *sd = dev_iommu_priv_get(dev);

	if (sim_pci_is_twin(dev))
		return;
	sd->iopf = iopf_queue_alloc("svio_simdev");
	if (sd->iopf && iopf_queue_add_device(sd->iopf, dev)) {
		iopf_queue_free(sd->iopf);
		sd->iopf = NULL;
	}
	sd->dev = dev;
}

static void release_device(struct device *dev)
{
	struct sim_dev *sd = dev_iommu_priv_get(dev);
	struct pci_dev *pdev = to_pci_dev(dev);

	if (sim_pci_is_twin(dev))
		goto caps;
	attach_rid(sd, NULL);
	mutex_lock(&sd->prq_lock); /* no page request from here on */
	sd->dev = NULL;
	mutex_unlock(&sd->prq_lock);
	if (sd->iopf) {
		iopf_queue_remove_device(sd->iopf, dev);
		iopf_queue_free(sd->iopf);
		sd->iopf = NULL;
	}
caps:
	if (pdev->ats_enabled)
		pci_disable_ats(pdev);
	sim_pci_set_pri(pdev, false);
	if (pdev->pasid_enabled)
		pci_disable_pasid(pdev);
}

/* The twin, which the bus finds second, joins the function's group. */
static struct iommu_group *device_group(struct device *dev)
{
	struct iommu_group *group = NULL;
	struct pci_dev *first;

	if (!sim_pci_is_twin(dev))
		return generic_device_group(dev);
	first = pci_get_slot(to_pci_dev(dev)->bus, 0);
	if (first)
		group = iommu_group_get(&first->dev);
	pci_dev_put(first);
	return group ?: ERR_PTR(-ENODEV);
}

static bool sim_capable(struct device *dev, enum iommu_cap cap)
{
	switch (cap) {
	case IOMMU_CAP_CACHE_COHERENCY:
	case IOMMU_CAP_ENFORCE_CACHE_COHERENCY:
		return true;
	default:
		return false;
	}
}

static int def_domain_type(struct device *dev)
{
	return IOMMU_DOMAIN_IDENTITY;
}

static void get_resv_regions(struct device *dev, struct list_head *head)
{
	struct iommu_resv_region *msi = iommu_alloc_resv_region(0xfee00000, SZ_1M, 0, IOMMU_RESV_MSI, GFP_KERNEL);

	if (msi)
		list_add_tail(&msi->list, head);
}

static void page_response(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *msg)
{
	sim_page_response(dev_iommu_priv_get(dev), msg->pasid, msg->grpid, msg->code);
}

static const struct iommu_ops sim_ops = {
	.capable = sim_capable,
	.domain_alloc_paging = alloc_paging,
#if NEW_ATTACH
	.domain_alloc_paging_flags = alloc_paging_flags,
#else
	.remove_dev_pasid = remove_pasid,
	.pgsize_bitmap = SZ_4K,
#endif
	.domain_alloc_sva = sim_sva_alloc,
	.probe_device = probe_device,
	.probe_finalize = probe_finalize,
	.release_device = release_device,
	.device_group = device_group,
	.get_resv_regions = get_resv_regions,
	.page_response = page_response,
	.def_domain_type = def_domain_type,
	.default_domain_ops = &paging_ops,
	.identity_domain = &identity.domain,
	.blocked_domain = &blocked.domain,
	.owner = THIS_MODULE,
};

int sim_iommu_init(struct sim_dev *sd)
{
	int rc;

	mutex_init(&sd->prq_lock);
	identity.sd = sd;
	blocked.sd = sd;
	sd->fwnode = fwnode_create_software_node(NULL, NULL);
	if (IS_ERR(sd->fwnode))
		return PTR_ERR(sd->fwnode);
	sd->iommu.fwnode = sd->fwnode;
	sd->iommu.max_pasids = 1u << 20;
	rc = iommu_device_sysfs_add(&sd->iommu, &sd->parent->dev, NULL, "svio-simdev-iommu");
	if (rc)
		goto no_sysfs;
	rc = iommu_device_register(&sd->iommu, &sim_ops, NULL);
	if (rc)
		goto no_iommu;
	rc = bus_register_notifier(&pci_bus_type, &claim_nb);
	if (!rc)
		return 0;
	iommu_device_unregister(&sd->iommu);
no_iommu:
	iommu_device_sysfs_remove(&sd->iommu);
no_sysfs:
	fwnode_remove_software_node(sd->fwnode);
	return rc;
}

void sim_iommu_exit(struct sim_dev *sd)
{
	bus_unregister_notifier(&pci_bus_type, &claim_nb);
	iommu_device_unregister(&sd->iommu);
	iommu_device_sysfs_remove(&sd->iommu);
	fwnode_remove_software_node(sd->fwnode);
	mmu_notifier_synchronize(); /* their last callbacks are our code */
}
