/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio vdev: the software IOMMU. Address spaces beside the one of requests without PASID, one for each PASID.
 *
 * Objects. A model that uses PASIDs calls svio_vdev_iommu_enable() in its init(). From then on the client may, by the features
 * of kernel/uapi/svio_vfio.h,
 *
 *	bind its process (SVA_BIND): the PASID's addresses are the pointers of the process that connected the socket
 *	    (SO_PEERCRED), and of no other. Its pages are reached by process_vm_readv(2) and process_vm_writev(2): the kernel
 *	    resolves what is swapped out, never touched, or shared after fork(), and what must not be accessed gives a fault. Never by
 *	    pointers, even where the client has mapped the same memory for DMA: where in the process that memory lies can change without
 *	    us hearing of it, and a store would come after the munmap() or mprotect() that forbade it.
 *	bind page tables (PGTABLE_BIND): x86-64 tables in shared memory, walked by the kit, translations cached in an IOTLB that
 *	    the client invalidates. What is not present may be asked for by a page request, which the client answers.
 *
 * A model finds the space of a PASID by svio_vdev_as_pasid(), each time it is called by the kit: a space may go away
 * between calls, never within one. Through it svio_vdev_as_start() copies, svio_vdev_as_ptr() gives pointers where that is
 * possible (page tables; never processes), svio_vdev_as_mark() marks what was written through them. The space of requests without
 * PASID, svio_vdev_as0(), is served by the same calls.
 *
 * Before a PASID goes away the model is asked quiesce(SVIO_VDEV_Q_PASID, first, count): it ends what it does for these, in whatever way
 * its device defines (accesses already fail), and answers 0. A model that goes on answering -EAGAIN is not waited for
 * longer than 3 s: unbinding cannot fail.
 *
 * Bonds live until unbound or the connection ends. They survive reset and FLR, as an IOMMU's tables survive a function's reset. They
 * do not migrate: the client binds on the target before it lets the device run, asking for the same PASIDs by min and max.
 *
 * A process bond ends by itself, in that every access faults for good, when the process ends or calls exec(): its address space is
 * held open through /proc/PID/mem, which tells both, and whose id cannot be used again. Only a process of the server's own user can be
 * bound, and the kernel must allow ptrace(2) access to it: Yama's ptrace_scope 1 asks of the client
 * prctl(PR_SET_PTRACER, the server's pid), which lib/sva does while there is a bond.
 *
 * A page of a process that is served by that process itself, by userfaultfd(2) or a FUSE file, holds up the server until it is served: a server
 * for clients that do not trust each other serves one of them.
 *
 * Dirty log. Writes through page tables are logged under the IOVA of the second stage, and so are changed flags of the
 * tables. Writes into a process go through its own page tables, where trackers of CPU writes (soft-dirty, userfaultfd) see them.
 *
 * Threads: the server's thread.
 *
 * Specifications: SDM = Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3 (chapter 4, "Paging"); VT-d = Intel
 * Virtualization Technology for Directed I/O 4.0; PCIe = PCI Express Base Specification 5.0.
 */
#ifndef SVIO_VDEV_IOMMU_H
#define SVIO_VDEV_IOMMU_H

#include "svio_vdev.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_VDEV_QUOTA 1000u /* default of svio_vdev_iommu_enable() */

/*
 * In init(), after svio_vdev_ecap_pasid() and, for page requests, svio_vdev_ecap_pri(): the device's DMA obeys PASIDs. The
 * capabilities are enabled, as an operating system's IOMMU driver does before VFIO hands a function out. quota: most PASIDs
 * bound at once, 0 = SVIO_VDEV_QUOTA. -EINVAL without the PASID capability, -ENOMEM.
 */
int svio_vdev_iommu_enable(struct svio_vdev *dev, uint32_t quota);

/* The space of a PASID, or NULL: nothing is bound to it, or the PASID capability is disabled. Valid until the model returns to the kit. */
struct svio_vdev_as *svio_vdev_as_pasid(struct svio_vdev *dev, uint32_t pasid);

/*
 * As svio_vdev_dma_start(), for any space. Only spaces without PASID answer -EINPROGRESS. For others, 0 done; -EFAULT a page
 * fault: a page is not there, or not for this access, and a page request may help; -EIO translation is impossible: malformed tables,
 * tables or pages outside of shared memory, the process is gone; -EPERM bus mastering is off. A transfer that failed may have moved bytes
 * before the one that it failed at.
 */
int svio_vdev_as_start(struct svio_vdev_as *as, struct svio_vdev_dma *t);

/*
 * Quicker ways, for process bonds only: 0 done, -EOPNOTSUPP not this way, and svio_vdev_as_start() will do it or say why not.
 * copy: from src to dst, in a process that is the server's own, ranges that do not overlap. record: `len` bytes of which the first is
 * seen last, as a poller of completion records needs it.
 */
int svio_vdev_as_copy(struct svio_vdev_as *as, uint64_t dst, uint64_t src, uint32_t len);
int svio_vdev_as_record(struct svio_vdev_as *as, uint64_t addr, const void *record, uint32_t len);

/* The device has written [addr, addr + len) through a pointer of svio_vdev_as_ptr(). */
static inline void svio_vdev_as_mark(struct svio_vdev_as *as, uint64_t addr, uint64_t len)
{
	if (svio_unlikely(svio_vdev_as0(as->dev)->dirty))
		svio_vdev_as_mark_slow(as, addr, len);
}

/* ---- page requests (PCIe §10.4) -------------------------------------------------------------------- */

/*
 * Ask for the page of addr. 0: *request is to be looked at by svio_vdev_page_result() from poll(). -EFAULT: it cannot help (a process,
 * whose faults are final; the space without PASID; PRI is disabled). -EAGAIN: as many requests as the capability allows are
 * under way; try again from poll().
 */
int svio_vdev_page_request(struct svio_vdev_as *as, uint64_t addr, enum svio_vdev_access access, uint32_t *request);
/*
 * -EINPROGRESS: no response yet. 0: success, access again. -EFAULT: invalid request, -EIO: response failure, -ECANCELED: reset, unbound or
 * client gone. Any answer but -EINPROGRESS frees the request.
 */
int svio_vdev_page_result(struct svio_vdev *dev, uint32_t request);
/* Forget a request: its response, if it still comes, is refused. */
void svio_vdev_page_drop(struct svio_vdev *dev, uint32_t request);

/* ---- looking inside -------------------------------------------------------------------------------- */

enum svio_vdev_fault_reason {
	SVIO_VDEV_FAULT_NONE,
	SVIO_VDEV_FAULT_NOT_PRESENT,	/* page fault */
	SVIO_VDEV_FAULT_RIGHTS,		/* page fault: read-only, or not for user mode */
	SVIO_VDEV_FAULT_RESERVED,	/* a reserved bit is set in an entry (SDM §4.7) */
	SVIO_VDEV_FAULT_CANONICAL,	/* bits 63:48 of the address differ from bit 47 */
	SVIO_VDEV_FAULT_TABLE,		/* a table lies outside of shared memory, or cannot be written for its flags */
	SVIO_VDEV_FAULT_SECOND_STAGE,	/* the page lies outside of shared memory, or may not be accessed so */
	SVIO_VDEV_FAULT_STALE,		/* svio_vdev_iommu_check(): the IOTLB said otherwise than the tables */
	SVIO_VDEV_FAULT_PROCESS,	/* memory of the process: not there, or not with these rights */
	SVIO_VDEV_FAULT_GONE,		/* the process has ended, called exec(), or may not be accessed any more */
	SVIO_VDEV_FAULT_RACE,		/* entries changed under the walk again and again */
};

struct svio_vdev_iommu_stats {
	uint64_t binds, unbinds;
	uint64_t tlb_hits, walks, invalidations;
	uint64_t stale; /* translations that should have been invalidated, found by svio_vdev_iommu_check() */
	uint64_t page_requests, page_responses;
	uint64_t faults;
	/* The last fault. */
	enum svio_vdev_fault_reason reason;
	enum svio_vdev_access access;
	uint32_t pasid;
	uint64_t addr;
};
void svio_vdev_iommu_get_stats(const struct svio_vdev *dev, struct svio_vdev_iommu_stats *stats);

/*
 * Compare every cached translation, each time it is used, with the tables: what differs, because an invalidation is missing, is
 * counted, said in the log once, and refused with -EIO. Off at first; a walk for each access. For tests of what maintains tables.
 */
void svio_vdev_iommu_check(struct svio_vdev *dev, bool on);

#ifdef __cplusplus
}
#endif
#endif
