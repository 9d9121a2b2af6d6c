/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio sva: shared virtual addressing: a device works on this process's own pointers.
 *
 * A `struct svio_sva_bond` ties the address space of the calling process to a device that it owns. Descriptors then carry
 * bond->pasid and plain pointers. How far plain goes is the bond's mode, and it is always said:
 *
 *	native		The IOMMU walks the process's page tables, chosen by the PASID. Any memory will do: heap, stack, mapped
 *			files. What is not there yet faults in, by the device's page requests where it has them (PRI). Needs
 *			svio's VFIO variant driver on Linux 6.19 or later, or the device kit (sim:, user:).
 *	identity	Registered memory only (svio_mem_alloc(), svio_mem_register(), svio_ioas_map()), pinned, usually at IOVA =
 *			VA, and no PASID. Works on any VFIO. Other memory is refused, never copied wrongly.
 *	mirror		Reserved: page tables mirrored under a PASID, for kernels that cannot share them.
 *
 *	svio_device_open() → svio_ioas_attach() → svio_sva_bind() → svio_sva_addr() for each pointer of a descriptor →
 *	[the device has stopped using it] → svio_sva_unbind() → svio_device_close()
 *
 * One bond a process, device and mode: binding again counts up and returns the same bond, and the last unbind ends it. A process
 * has one PASID on all devices of one IOMMU; several devices give several bonds.
 *
 * Order. Unbind after the device's work with this PASID has stopped (the queue that carries the PASID is disabled), and before
 * svio_device_close(). A reset of the function ends native bonds on the kernel (not in the device kit), whoever asked for it: the driver
 * calls svio_sva_renew() when the device is set up again, before it programs the PASID.
 *
 * fork. A child has no bond: its copy of the address space is another one, which no PASID names. In the child bond->mode reads
 * SVIO_SVA_DEAD, translation gives SVIO_IOVA_BAD, binding is for the child's own devices, and svio_sva_unbind() releases the child's
 * copies without touching the parent's bond. exec: the bond's descriptor is close-on-exec, and the address space that it named is gone.
 * Exit, kill: kernel and kit release everything.
 *
 * Limits that no library can hide. PASIDs separate devices, not the processes that share one: who can write a device's queues can
 * write any PASID that the device has. Native bonds need userfaultfd-free memory: the kernel answers a device's page request in
 * a userfaultfd range with failure. A process with LAM enabled cannot be bound (-EBUSY).
 *
 * Threads: bind and unbind take the room's lock; translation and checks are free-threaded and lock-free.
 *
 * Sources: kernel/uapi/svio_vfio.h; Linux drivers/iommu/iommu-sva.c; madvise(2).
 */
#ifndef SVIO_SVA_H
#define SVIO_SVA_H

#include "svio_ioas.h"
#include "uapi/svio_vfio.h"

#ifdef __cplusplus
extern "C" {
#endif

enum svio_sva_mode {
	SVIO_SVA_DEAD,	   /* no bond: a child of the process that made it */
	SVIO_SVA_NATIVE,
	SVIO_SVA_MIRROR,   /* reserved */
	SVIO_SVA_IDENTITY,
};
/* "native", "identity"…: static string. */
const char *svio_sva_mode_text(enum svio_sva_mode mode);

#define SVIO_SVA_PASID_NONE UINT32_MAX

enum svio_sva_flags {
	SVIO_SVA_WANT_NATIVE = 1u << 0,	  /* native or an error: no falling back */
	SVIO_SVA_WANT_IDENTITY = 1u << 1, /* registered memory, even where native would work */
};

/*
 * A bond, read-only to users. It lies in memory that a child of the process finds zeroed (MADV_WIPEONFORK), so that the mode
 * is also the answer to whether there is a bond at all.
 */
struct svio_sva_bond {
	enum svio_sva_mode mode;
	uint32_t pasid;		      /* SVIO_SVA_PASID_NONE without one */
	struct svio_ioas *ioas;	      /* identity: what translates */
	uint32_t info_flags;	      /* native: SVIO_SVA_INFO_* of the device (page requests, ATS, simulated) */
	struct svio_device *dev;
};

/* Which mode, and why not a better one. */
struct svio_sva_report {
	enum svio_sva_mode mode;  /* that a bind without flags gives (of a bond: that it has) */
	bool has_info;		  /* the device answers SVA_INFO */
	struct svio_sva_info info; /* its answer, or zeroes */
	char why[256];		  /* native: what it rests on; else why it is not native, and the remedy. A sentence without its full stop */
};

/* Ask the device; binds nothing. 0, or -ENODEV when it is gone. */
int svio_sva_get_report(struct svio_device *dev, struct svio_sva_report *report);

/*
 * Bind the calling process to the device: native if that works, else identity. ioas: the address space that the device is
 * attached to; NULL when only native will do. flags: enum svio_sva_flags.
 *
 * Only a device that has no native mode leads to identity; a native mode that fails (no PASID left, quota) is an error, since
 * falling back would silently narrow what may be passed.
 *
 * -EINVAL flags, or identity without an ioas; -EOPNOTSUPP native was asked for and there is none (svio_last_error() says why and what
 * helps); -EDQUOT too many bonds, -ENOSPC no PASID, -ERANGE this process's PASID is too large for the device, -EBUSY the device is
 * being reset, or the process has LAM enabled, -EPERM the peer may not reach this process's memory, -ENODEV gone, -ENOMEM.
 */
int svio_sva_bind(struct svio_device *dev, struct svio_ioas *ioas, uint32_t flags, struct svio_sva_bond **bondp);

/*
 * The same, native or an error, and with this PASID: for a device whose state was moved here and names it. -ERANGE it is not to be had: taken,
 * more than the device's bits, or this process has another one; where PASIDs can be chosen, report.info.flags has SVIO_SVA_INFO_RANGE.
 */
int svio_sva_bind_pasid(struct svio_device *dev, uint32_t pasid, struct svio_sva_bond **bondp);

/*
 * Has the bond ended behind our back (a reset of the function), bind again; bond->pasid may be another one then, and what users hold of
 * the bond stays good. Call it while the device does not use the PASID. 0 the bond is alive; -EBUSY not yet, the reset goes on; -ESRCH after
 * fork; or as svio_sva_bind(). A few system calls; not for every poll.
 */
int svio_sva_renew(struct svio_sva_bond *bond);

/* Count down; the last one releases the PASID. Cannot fail. NULL is fine. */
void svio_sva_unbind(struct svio_sva_bond *bond);

/* The report as it was at bind. In a child: mode SVIO_SVA_DEAD. */
void svio_sva_bond_report(const struct svio_sva_bond *bond, struct svio_sva_report *report);

/*
 * What goes into a descriptor for [ptr, ptr + len): the pointer itself in a native bond, the IOVA of registered memory in an identity
 * bond; SVIO_IOVA_BAD for memory that is not registered, a range that wraps, and after fork. O(1), no system call.
 * That memory is registered says that the device reaches it; that a native pointer leads anywhere is for the device to find out.
 */
static inline uint64_t svio_sva_addr(const struct svio_sva_bond *bond, const void *ptr, uint64_t len)
{
	uint64_t va = (uint64_t)(uintptr_t)ptr;

	if (svio_likely(bond->mode == SVIO_SVA_NATIVE))
		return svio_likely(len <= UINT64_MAX - va) ? va : SVIO_IOVA_BAD;
	if (bond->mode == SVIO_SVA_IDENTITY)
		return svio_ioas_iova_range(bond->ioas, ptr, len);
	return SVIO_IOVA_BAD;
}

/* The same question, answered for people: 0, or -EFAULT explained (what is not registered, what to call), -ESRCH after fork. */
int svio_sva_check(const struct svio_sva_bond *bond, const void *ptr, uint64_t len);

/*
 * Have the pages of [ptr, ptr + len) present, for writing if `write`, without changing their contents and without dying of them:
 * what a driver does when a device stopped at a page fault, before it sends the rest. At most the first SVIO_SVA_TOUCH_MAX bytes.
 * -EFAULT there is nothing, or not for writing (a pointer to nothing, a guard page, a file's end); -ENOMEM there is no memory for it.
 */
#define SVIO_SVA_TOUCH_MAX (UINT64_C(2) << 20)
int svio_sva_touch(const void *ptr, uint64_t len, bool write);

#ifdef __cplusplus
}
#endif
#endif
