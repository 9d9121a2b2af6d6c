// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page faults in BARs.
 *
 * vfio_pci_core's fault handler waits for memory_lock with mmap_lock held. A reset holds
 * memory_lock and, since Linux 7.3, waits for the IOMMU group's mutex in it; an unbinding holds
 * that and waits for the function's page requests; and a page request waits for mmap_lock of the
 * process that is bound. With a bond, that is a circle of three threads. Here it is cut: a fault
 * that finds memory_lock taken lets go of mmap_lock before it waits.
 *
 * Kernels whose vfio_pci_core does not export the rest of its handler keep that handler. Of those
 * none has native mode on x86 (sva.c).
 */
#include <linux/file.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include "bar.h"

#ifdef SVIO_HAVE_VMF_INSERT_PFN

/*
 * What lockdep learns of other drivers' memory_lock, that it is waited for under mmap_lock, does
 * not hold for ours.
 */
static struct lock_class_key svio_memory_lock_key;

/* Which region, and where in it, a mapping's pages are. */
#define BAR_SHIFT (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT)

static unsigned int bar_index(struct vm_area_struct *vma)
{
	return vma->vm_pgoff >> BAR_SHIFT;
}

/* After vfio_pci_core_mmap(): the mapping lies in a BAR. */
static unsigned long bar_pfn(struct vm_area_struct *vma, struct pci_dev *pdev, unsigned long addr)
{
	unsigned long pgoff = vma->vm_pgoff & ((1UL << BAR_SHIFT) - 1);

	return (pci_resource_start(pdev, bar_index(vma)) >> PAGE_SHIFT) + pgoff +
	       ((addr - vma->vm_start) >> PAGE_SHIFT);
}

/* False: memory_lock is taken. */
static bool bar_try(struct vm_fault *vmf, unsigned int order, vm_fault_t *ret)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vfio_pci_core_device *core = vma->vm_private_data;
	unsigned long addr = vmf->address & ~((PAGE_SIZE << order) - 1);
	unsigned long pfn = bar_pfn(vma, core->pdev, addr);

	*ret = VM_FAULT_FALLBACK;
	if (!is_aligned_for_order(vma, addr, pfn, order))
		return true;
	if (!down_read_trylock(&core->memory_lock))
		return false;
	*ret = vfio_pci_vmf_insert_pfn(core, vmf, pfn, order);
	up_read(&core->memory_lock);
	return true;
}

static vm_fault_t bar_fault(struct vm_fault *vmf)
{
	struct vfio_pci_core_device *core = vmf->vma->vm_private_data;
	struct file *file;
	vm_fault_t ret;

	if (bar_try(vmf, 0, &ret))
		return ret;
	/* The second time, or for somebody who does not repeat: the access itself is repeated. */
	if (!fault_flag_allow_retry_first(vmf->flags))
		return VM_FAULT_NOPAGE;
	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	/*
	 * Without mmap_lock the mapping may go, and with it its file, which keeps the device. The
	 * core calls ->fault with mmap_lock, never with the mapping's own lock.
	 */
	file = get_file(vmf->vma->vm_file);
	mmap_read_unlock(vmf->vma->vm_mm);
	if (!down_read_killable(&core->memory_lock))
		up_read(&core->memory_lock);
	fput(file);
	return VM_FAULT_RETRY;
}

#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
/* May be called with the mapping's lock alone, so it leaves waiting to bar_fault(). */
static vm_fault_t bar_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	vm_fault_t ret;

	return bar_try(vmf, order, &ret) ? ret : VM_FAULT_FALLBACK;
}
#endif

static const struct vm_operations_struct bar_ops = {
	.fault = bar_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = bar_huge_fault,
#endif
};

void svio_bar_init(struct vfio_pci_core_device *core)
{
	lockdep_set_class_and_name(&core->memory_lock, &svio_memory_lock_key, "svio memory_lock");
}

int svio_bar_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	int ret = vfio_pci_core_mmap(vdev, vma);

	if (!ret && bar_index(vma) <= VFIO_PCI_BAR5_REGION_INDEX)
		vma->vm_ops = &bar_ops;
	return ret;
}

#else

void svio_bar_init(struct vfio_pci_core_device *core)
{
}

int svio_bar_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	return vfio_pci_core_mmap(vdev, vma);
}

#endif
