/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio dirty: which pages were written since the last look, by the CPU and by devices, in one bitmap.
 *
 * A dirty set watches one range: of the process (virtual addresses) or of an I/O address space (IOVAs). It collects from sources:
 *
 *	CPU	what this process's page tables say: stores of its threads, writes by the kernel on its behalf (read(2),
 *		process_vm_writev(2)), and DMA under SVA, which walks the same tables.
 *	DRIVER	what a poll-mode driver of ours saw completed, marked in the completion path (svio_dirty_mark(), room ioas).
 *	DEVICE	the log that the device keeps itself (VFIO DMA_LOGGING; every model of the device kit has it).
 *	IOMMU	the kernel's type1 bitmap (VFIO_IOMMU_DIRTY_PAGES).
 *
 * Every attached device is covered by one of DEVICE, DRIVER and IOMMU, in this order of preference; where none of them can be had,
 * all pages that are mapped writable for the device count as written, at every sync. So the answer may be too large, and
 * svio_dirty_get_info() says for whom and why; it is never too small:
 *
 *	a page written at time t, after svio_dirty_start() returned, is in the answer of the first sync that begins after t, or
 *	(DRIVER) after the completion of that request was polled; writes while a sync runs are in its answer or in the next.
 *
 *	svio_dirty_start() → copy everything → (svio_dirty_sync() → copy what it names)… → svio_dirty_stop()
 *
 * Exactness of each source, in pages of 4 KiB unless said otherwise:
 *
 *	CPU	WP_ASYNC (Linux 6.7+, userfaultfd asynchronous write protection and PAGEMAP_SCAN): exact for memory in pages of 4 KiB; a
 *		write into a huge page (THP, hugetlbfs) marks all of it. Memory newly mapped into the range is reported whole once.
 *		SOFT_DIRTY (before): the same, but hugetlbfs memory, shared pages that are not resident, and private memory that
 *		is pinned for DMA by kernel VFIO are reported at every sync. All threads stand still while the kernel's bits are read and cleared (see dirty_soft.c).
 *		Not seen by either: what others write through mappings of their own (a vfio-user server: that is what DEVICE is for),
 *		write(2) and hole punching on the file behind a mapping, direct I/O (O_DIRECT, io_uring registered buffers) that was
 *		started before a sync and lands behind it.
 *	DRIVER	exact for the data of requests, whatever their status. A request still in flight at a sync is reported after
 *		its completion. Rings and other pages that the device may write at any time are reported at every sync.
 *	DEVICE	as exact as the device; ours: to the page written.
 *	IOMMU	coarse: Linux reports all pages of all mappings, at every sync, unless the device's driver pins pages itself.
 *
 * What comes and goes. Memory mapped into or unmapped from a watched ioas, and devices attached or detached, are followed: the log of a
 * device covers a new mapping before the device can reach it, and what it had written to memory that is unmapped is kept for
 * the next sync. Where a device's log cannot be widened without a gap, what the device could write meanwhile is
 * reported as written, once.
 *
 * Sharing. Any number of sets may be active, overlapping or not: what one sync collects is kept for the others.
 *
 * Threads: all calls from any thread. Calls of this header exclude each other; a sync keeps nobody from writing memory or from
 * polling a driver. Not in a callback of room ioas or mem.
 *
 * fork: a set is the parent's; a child must not use it.
 *
 * Sources: Linux Documentation/admin-guide/mm/{pagemap,userfaultfd,soft-dirty}.rst; <linux/vfio.h>; vfio-user [Device features].
 */
#ifndef SVIO_DIRTY_H
#define SVIO_DIRTY_H

#include "svio_ioas.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_dirty;

enum svio_dirty_source {
	SVIO_DIRTY_CPU = 1u << 0,
	SVIO_DIRTY_DRIVER = 1u << 1,
	SVIO_DIRTY_DEVICE = 1u << 2,
	SVIO_DIRTY_IOMMU = 1u << 3,
	SVIO_DIRTY_ALL_SOURCES = (1u << 4) - 1,
};

enum svio_dirty_space {
	SVIO_DIRTY_VA,	 /* addresses are those of this process */
	SVIO_DIRTY_IOVA, /* addresses are those of the one ioas given */
};

#define SVIO_DIRTY_PAGE 4096u

struct svio_dirty_opts {
	size_t size;		       /* sizeof(struct svio_dirty_opts) of the caller */
	enum svio_dirty_space space;
	uint64_t addr, len;	       /* the range, whole pages of page_size; at most 16 TiB */
	uint64_t page_size;	       /* of one bit: a power of two from 4096 to 1 GiB; 0 = 4096 */
	struct svio_ioas *const *ioas; /* whose devices count; must live until stop */
	uint32_t num_ioas;	       /* VA: 0 or more (0: no device is covered); IOVA: 1 */
	uint32_t sources;	       /* enum svio_dirty_source that may be used; 0 = all */
};

/*
 * Begin. Nothing counts as written yet. With CPU among the sources, the range of the process (IOVA: the memory mapped there) is write
 * protected; the first store to a page afterwards costs about a microsecond, and page tables are made for all of it (1/512 of the range).
 * -EINVAL wrong options; -ENOMEM; -EOPNOTSUPP CPU was asked for, by its bit, and this kernel has neither way; explained. With sources = 0 a missing CPU source is not an error: see cpu in
 * svio_dirty_info, and do not take such a set for complete.
 */
int svio_dirty_start(const struct svio_dirty_opts *opts, struct svio_dirty **setp);

/*
 * What was written since start or since the last sync that covered it, of [addr, addr + len), whole pages inside the set's range. Bit i of
 * bitmap (room for len / page_size bits) is page addr + i * page_size. Bits are added: what was set stays set, so that a
 * caller who could not send a page keeps its bit. *pages (may be NULL): bits that this call reported.
 *
 * Reported pages count as clean from then on; on failure nothing is lost: the next sync reports it. -EINVAL the range; -ENOMEM;
 * -EIO the kernel refuses to answer. A device that stops answering is not a failure: from then on, what it can write is
 * reported as written.
 */
int svio_dirty_sync(struct svio_dirty *set, uint64_t addr, uint64_t len, uint64_t *bitmap, uint64_t *pages);

/*
 * The same, when nothing will be asked afterwards, as in a process that was stopped to be copied. Memory need not be write protected again, which
 * is most of a sync's time where other threads of the process run (test/bench/bench_dirty). A sync that comes nevertheless, of this set or
 * another of the same memory, reports what it should, and perhaps what this one has reported.
 */
int svio_dirty_last(struct svio_dirty *set, uint64_t addr, uint64_t len, uint64_t *bitmap, uint64_t *pages);

/* End; NULL is fine. What has not been fetched is forgotten. */
void svio_dirty_stop(struct svio_dirty *set);

/* ---- what the answer is worth ---------------------------------------------------------------------- */

enum svio_dirty_cpu {
	SVIO_DIRTY_CPU_OFF,	   /* not asked for, or not to be had: writes of the process are not reported */
	SVIO_DIRTY_CPU_WP_ASYNC,   /* userfaultfd and PAGEMAP_SCAN */
	SVIO_DIRTY_CPU_SOFT_DIRTY,
};

struct svio_dirty_info {
	enum svio_dirty_cpu cpu;
	bool exact; /* everything asked for is exact as said above; false: at least one of the next lines applies */
	uint32_t devices; /* attached to the set's address spaces */
	uint32_t by_device, by_driver, by_iommu; /* how many of them are covered by what */
	uint32_t uncovered; /* devices for which all that they can write is reported */
	uint64_t coarse_bytes; /* memory that the last sync reported without knowing, in the range */
	uint64_t unseen_bytes; /* memory of the process in the range whose writes by the CPU cannot be watched; reported at every sync */
	uint64_t rearmed; /* times that a device's log had to be stopped and started to widen it */
	char why[160]; /* why it is not exact: the first reason, with the device's name; "" */
};
void svio_dirty_get_info(struct svio_dirty *set, struct svio_dirty_info *info);

/* Which way to watch the CPU this kernel offers, and why not a better one (may be NULL): text of this thread, "" for WP_ASYNC. */
enum svio_dirty_cpu svio_dirty_cpu_probe(const char **why);

#ifdef __cplusplus
}
#endif
#endif
