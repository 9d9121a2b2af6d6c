/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Shared virtual addressing on a device owned through VFIO: the process binds its own address space to a PASID, and
 * the device then takes the process's plain pointers.
 *
 * Three features of VFIO_DEVICE_FEATURE (linux/vfio.h), with indexes of our own. They are served by
 * kernel/svio_vfio_pci for real functions, and over vfio-user's DEVICE_FEATURE message by the device kit
 * (lib/vdev); lib/sva is their client. VFIO_DEVICE_FEATURE_PROBE tells whether a device has them; a device without
 * answers -ENOTTY or -EINVAL.
 *
 * Rules, for all of them (they are what the review of the 2020 PASID series asked for):
 * - argsz must cover the structure; what is longer is ignored if it is zero, and refused with -E2BIG otherwise.
 *   Structures grow at their end only, and a new meaning needs a new flag.
 * - Unknown flags and non-zero reserved fields are refused with -EINVAL.
 * - A call that fails leaves nothing behind.
 * - Unbinding cannot fail. It costs O(bonds in the range), also for [0, UINT_MAX].
 * - A caller sees and releases only bonds of its own address space (kernel) or its own connection (kit).
 * - Everything is released at the latest when the process ends, or the last file of the device is closed.
 */
#ifndef _UAPI_SVIO_VFIO_H
#define _UAPI_SVIO_VFIO_H

#include <linux/types.h>

#define SVIO_VFIO_FEATURE_SVA_INFO	0x5310
#define SVIO_VFIO_FEATURE_SVA_BIND	0x5311
#define SVIO_VFIO_FEATURE_SVA_UNBIND	0x5312
#define SVIO_VFIO_FEATURE_PGTABLE_BIND	0x5313
#define SVIO_VFIO_FEATURE_INVALIDATE	0x5314
#define SVIO_VFIO_FEATURE_PAGE_REQUESTS	0x5315
#define SVIO_VFIO_FEATURE_PAGE_RESPOND	0x5316
/* 0x5317 to 0x531f are kept. */

/* Why there is no native mode; SVIO_SVA_OK when there is. */
#define SVIO_SVA_OK			0
#define SVIO_SVA_NO_KERNEL		1 /* the kernel refuses SVA on this machine (x86 before 6.19: CVE-2025-71202) */
#define SVIO_SVA_NO_IOMMU		2 /* no IOMMU, or one without PASIDs (VT-d: scalable mode is off) */
#define SVIO_SVA_NO_PASID		3 /* the function has no PASID capability */
#define SVIO_SVA_NO_PRI			4 /* the function cannot ask for pages, and its IOMMU needs it to */
#define SVIO_SVA_NO_ATS			5 /* the function has no ATS, or it is not trusted with it */
#define SVIO_SVA_SHARED_GROUP		6 /* several functions in the IOMMU group: all of them would get the PASID */
#define SVIO_SVA_DENYLIST		7 /* vfio-pci's denylist names the function (Intel DSA, QAT …); the administrator may opt in */
#define SVIO_SVA_REFUSED		8 /* the IOMMU refused a trial bind; `error` says how */

/* GET. Leaves nothing bound. */
struct svio_sva_info {
	__u32 flags;
#define SVIO_SVA_INFO_NATIVE	(1 << 0) /* SVA_BIND works */
#define SVIO_SVA_INFO_PRI	(1 << 1) /* the device resolves page faults; without it memory must be resident */
#define SVIO_SVA_INFO_ATS	(1 << 2)
#define SVIO_SVA_INFO_EXEC	(1 << 3) /* the device may ask for execute permission */
#define SVIO_SVA_INFO_RANGE	(1 << 4) /* SVA_BIND chooses within [min, max]; without it, it checks only */
#define SVIO_SVA_INFO_SIMULATED	(1 << 5) /* not hardware */
	__u32 pasid_bits;	/* width of the device's PASIDs, 0 to 20 */
	__u32 quota;		/* most bonds of one user of the device at a time */
	__u32 bonds;		/* bonds that the caller has now */
	__u32 reason;		/* SVIO_SVA_* above */
	__s32 error;		/* -errno with SVIO_SVA_REFUSED and SVIO_SVA_NO_KERNEL, otherwise 0 */
	__u32 reserved[2];	/* zero */
};

/*
 * SET. Bind the calling process's address space; over vfio-user, that of the socket's peer as it connected
 * (SO_PEERCRED). Binding again counts up and gives the same PASID.
 *
 * bond_fd: on the kernel a file of its own for each call, close-on-exec; closing it is another way to unbind, and the
 * bond ends with its last copy even when the device's file was handed on to another process. poll(2) on it says
 * POLLHUP when the bond has ended in another way: SVA_UNBIND, a reset of the function, its last close, the end of the
 * process. Bind again after a reset; the PASID is the same as long as the process lives. -1 over vfio-user, where
 * the connection is the lifetime.
 *
 * -EOPNOTSUPP no native mode (SVA_INFO says why), -EDQUOT quota, -ERANGE the PASID of this process lies outside
 * [min, max], -ENOSPC no PASID left in it, -EBUSY the device is being reset or asleep, or the process uses LAM, -EPERM
 * the peer is not allowed to read this process's memory, -EINTR a signal came (kernel: ask again), -ENODEV the device
 * is gone.
 */
struct svio_sva_bind {
	__u32 flags;		/* zero */
	__u32 min, max;		/* PASIDs that will do; 0, 0 means any */
	__u32 pasid;		/* out */
	__s32 bond_fd;		/* out */
	__u32 reserved;		/* zero */
};

/*
 * SET. Release all bonds of the caller with PASIDs in [min, max], each with its whole count, after the device has
 * stopped using them. Never fails for a well-formed call.
 */
struct svio_sva_unbind {
	__u32 flags;		/* zero */
	__u32 min, max;
	__u32 released;		/* out: bonds released */
};

/*
 * Page tables of the caller's own making, bound to a PASID: what a virtual machine does with the tables of its guest's
 * processes. The device kit (lib/vdev) offers them; the kernel offers them through iommufd's nested tables instead.
 *
 * Addresses in the tables and the address of the first one are IOVAs of requests without PASID (the second stage). The
 * device sets accessed and dirty flags in them by atomic operations. A caller that takes away rights or a mapping
 * invalidates; what was not present is not cached.
 */

/* SET. Unbinding is SVIO_VFIO_FEATURE_SVA_UNBIND, and the quota counts both kinds. */
struct svio_pgtable_bind {
	__u32 flags;
#define SVIO_PGTABLE_NX		(1 << 0) /* bit 63 of an entry forbids execution (IA32_EFER.NXE); without it the bit is reserved */
	__u32 min, max;		/* PASIDs that will do; 0, 0 means any */
	__u32 pasid;		/* out */
	__u32 format;
#define SVIO_PGTABLE_X86_64_4	1 /* 4-level paging, Intel SDM volume 3 §4.5 */
	__u32 addr_bits;	/* physical address width, 32 to 52: bits from there to 51 are reserved */
	__u32 domain;		/* of the caller's choice, 0 to 65535: several PASIDs may be invalidated as one */
	__u32 reserved;		/* zero */
	__u64 root;		/* of the PML4 table, 4096-byte aligned */
};

/* GET of SVIO_VFIO_FEATURE_PGTABLE_BIND: which tables can be bound, and what goes with them. */
struct svio_pgtable_info {
	__u32 flags;		/* SVIO_PGTABLE_* flags that svio_pgtable_bind takes */
	__u32 formats;		/* bit n: format n */
	__u32 min_addr_bits, max_addr_bits;
	__u32 granularities;	/* bit n: SVIO_INVALIDATE_* n */
	__u32 page_requests;	/* most that wait for a response at a time; 0: the device asks for no pages */
	__u32 reserved[2];	/* zero */
};

/* SET. After it returned, the device uses no translation of the range that it had cached before. */
struct svio_invalidate {
	__u32 flags;		/* zero */
	__u32 granularity;
#define SVIO_INVALIDATE_DOMAIN	0 /* all PASIDs of `domain` */
#define SVIO_INVALIDATE_PASID	1 /* all of `pasid` */
#define SVIO_INVALIDATE_ADDR	2 /* [addr, addr + size) of `pasid` */
	__u32 domain;		/* 0 where it is not asked for, as the fields below */
	__u32 pasid;
	__u64 addr, size;
};

/* A page that the device waits for. Requests of process bonds never come here: the kernel resolves them. */
struct svio_page_request {
	__u32 pasid;
	__u32 group;		/* to be given back in the response */
	__u32 flags;
#define SVIO_PAGE_READ		(1 << 0)
#define SVIO_PAGE_WRITE		(1 << 1)
#define SVIO_PAGE_LAST		(1 << 2) /* last of its group: a response is expected (always set by the kit) */
	__u32 reserved;
	__u64 addr;		/* page aligned */
};

/* GET. Takes requests out of the queue, oldest first. The reply ends after `count` of them. */
struct svio_page_requests {
	__u32 flags;		/* zero */
	__u32 count;		/* in: most that the caller wants; out: those that follow */
	struct svio_page_request requests[];
};

/* SET. -ENOENT: no such request is waiting for a response; it was answered, or the device was reset or the PASID unbound. */
struct svio_page_respond {
	__u32 flags;		/* zero */
	__u32 pasid;
	__u32 group;
	__u32 code;		/* PCI Express Base Specification 5.0 §10.4.2.1 */
#define SVIO_PAGE_SUCCESS	0 /* there now; the device tries again */
#define SVIO_PAGE_INVALID	1 /* there is no such page, or not with these rights */
#define SVIO_PAGE_FAILURE	15
};

#endif
