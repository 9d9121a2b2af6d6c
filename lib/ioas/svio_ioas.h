/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio ioas: I/O address spaces: which memory devices reach, and at which IOVA.
 *
 * An ioas spans all devices attached to it: a mapping is made on every one of them or on none. By default IOVA = VA, where
 * the aperture and the reserved ranges of every IOMMU allow it; otherwise the IOVA comes from an allocator over what they
 * have in common, congruent to the virtual address modulo 2 MiB and 1 GiB where the mapping contains such a page.
 *
 *	svio_ioas_create() → svio_ioas_attach(device)… → [memory of room mem appears by itself] →
 *	svio_ioas_iova(ptr) in descriptors → svio_ioas_detach() → svio_ioas_destroy()
 *
 * IOVAs are chosen when the first device is attached, since only then it is known what can be mapped; until then translation
 * says SVIO_IOVA_BAD (unless svio_ioas_map() was asked for an IOVA). Once chosen, an IOVA does not change while its
 * mapping lives, also when devices come and go.
 *
 * Devices that can share an I/O page table do (one VFIO container for all of them); the others get a mapping each.
 *
 * Threads: translation is lock-free from any thread, at any time. Everything else takes the ioas's lock.
 *
 * Limits are known before they are met: RLIMIT_MEMLOCK and the kernel's dma_entry_limit are checked and the error names the
 * limit needed. Overlap is -EEXIST, partial unmap -EINVAL. A failed map leaves no device with half of it.
 *
 * Sources: <linux/vfio.h> (VFIO_IOMMU_*, type1 v2), Linux drivers/vfio/vfio_iommu_type1.c.
 */
#ifndef SVIO_IOAS_H
#define SVIO_IOAS_H

#include "svio_mem.h"
#include "svio_mmio.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_IOVA_BAD UINT64_MAX

enum svio_ioas_flags {
	SVIO_IOAS_NO_AUTO = 1u << 0,  /* do not map the memory of room mem by itself */
	SVIO_IOAS_NO_IDENTITY = 1u << 1, /* always allocate IOVAs */
};

struct svio_ioas_opts {
	size_t size; /* sizeof(struct svio_ioas_opts) of the caller */
	uint32_t flags;
};

struct svio_ioas;

int svio_ioas_create(const struct svio_ioas_opts *opts, struct svio_ioas **ioasp);
/* -EBUSY while devices are attached. NULL is fine. */
int svio_ioas_destroy(struct svio_ioas *ioas);

/*
 * Attach: everything mapped becomes reachable by the device, or the call fails and nothing is. IOVAs already given out stay
 * valid: if the device's IOMMU cannot map one of them, -ENOSPC names it. Attach before mapping BARs or enabling interrupts.
 * -EALREADY attached to this ioas; -ENOSPC also: dma_entry_limit; -ENOMEM RLIMIT_MEMLOCK; or as svio_device_set_domain() and
 * svio_dma_map().
 */
int svio_ioas_attach(struct svio_ioas *ioas, struct svio_device *dev);
/*
 * The device's DMA must have stopped (bus mastering off or reset). With the last device of a domain, the domain's mappings
 * go. A device that shares its domain with others leaves it now if it has no BARs and interrupts, else when it is closed.
 * -ENOENT not attached.
 */
int svio_ioas_detach(struct svio_ioas *ioas, struct svio_device *dev);

/*
 * Map [ptr, ptr + len), page aligned, for prot (enum svio_dma_prot). *iova (may be NULL) is where. fd/fd_offset as
 * svio_mem_register(), -1 when unknown. The memory becomes MADV_DONTFORK and stays so after unmap, since another ioas may have
 * it. -EEXIST overlaps a mapping, -EINVAL not page aligned or above 48 bits, -EFAULT not mapped in the process,
 * -ENOSPC no IOVA or no DMA mapping left, -ENOMEM RLIMIT_MEMLOCK.
 */
int svio_ioas_map(struct svio_ioas *ioas, void *ptr, size_t len, uint32_t prot, int fd, uint64_t fd_offset, uint64_t *iova);
/* Exactly one earlier mapping, by its address and length. -EINVAL part or more of it, or memory of room mem; -ENOENT nothing there. */
int svio_ioas_unmap(struct svio_ioas *ioas, void *ptr, size_t len);

/*
 * Map another device's BAR for peer-to-peer DMA, readable and writable. It is withdrawn while the BAR's device is reset or its
 * decoding is switched off in an orderly way (translation says SVIO_IOVA_BAD meanwhile), comes back at the same IOVA, and is gone with
 * unmap. -EAGAIN the BAR is revoked now. Unmap before svio_bar_unmap().
 */
int svio_ioas_map_bar(struct svio_ioas *ioas, struct svio_bar *bar, uint64_t *iova);
int svio_ioas_unmap_bar(struct svio_ioas *ioas, struct svio_bar *bar);
/*
 * Withdraw the mapping if the BAR is revoked, put it back if it is not. Call it when the BAR's device shows SVIO_EV_REVOKED, and again
 * after svio_bar_restore(): nobody else notices a BAR that went without a reset of ours.
 */
int svio_ioas_sync_bar(struct svio_ioas *ioas, struct svio_bar *bar);

/* ---- translation ----------------------------------------------------------------------------------- */

/*
 * First member of struct svio_ioas, exposed for inlining: the largest mapping, tested first; everything else is found in a
 * radix table of the room. The three words of a range never change once `range` has pointed to them, so one load of the
 * pointer gives a consistent set, whatever writers do meanwhile. The first two ranges of an ioas, mostly the only ones, lie on
 * the same cache line.
 */
struct svio_ioas_hot_range {
	uint64_t va, len; /* [va, va + len) → + delta */
	uint64_t delta;
};

typedef const struct svio_ioas_hot_range *svio_ioas_hot_ptr;

struct svio_ioas_hot {
	SVIO_ALIGNAS(SVIO_CACHELINE) SVIO_ATOMIC(svio_ioas_hot_ptr) range; /* never NULL */
	struct svio_ioas_hot_range near[2];
	uint64_t reserved;
};
SVIO_STATIC_ASSERT(sizeof(struct svio_ioas_hot) == SVIO_CACHELINE, "one line for a translation");

/* The table behind svio_ioas_iova(). Lock-free. */
uint64_t svio_ioas_lookup(const struct svio_ioas *ioas, uint64_t va, uint64_t len);

static inline const struct svio_ioas_hot_range *svio_ioas_hot_range(const struct svio_ioas *ioas)
{
	return __atomic_load_n((const svio_ioas_hot_ptr *)(const void *)ioas, __ATOMIC_ACQUIRE); /* its first word */
}

/*
 * IOVA of [ptr, ptr + len), or SVIO_IOVA_BAD when it does not lie wholly in one mapping (len 0 counts as 1). Within one mapping,
 * IOVAs are contiguous. O(1), lock-free, no system call. The caller keeps the mapping alive while it uses the result.
 */
static inline uint64_t svio_ioas_iova_range(const struct svio_ioas *ioas, const void *ptr, uint64_t len)
{
	const struct svio_ioas_hot_range *hot = svio_ioas_hot_range(ioas);
	uint64_t va = (uint64_t)(uintptr_t)ptr, off = va - hot->va;

	if (svio_likely(off < hot->len && len <= hot->len - off))
		return va + hot->delta;
	return svio_ioas_lookup(ioas, va, len);
}

/* IOVA of one byte: the same with len 1, which needs one compare less. */
static inline uint64_t svio_ioas_iova(const struct svio_ioas *ioas, const void *ptr)
{
	const struct svio_ioas_hot_range *hot = svio_ioas_hot_range(ioas);
	uint64_t va = (uint64_t)(uintptr_t)ptr;

	if (svio_likely(va - hot->va < hot->len))
		return va + hot->delta;
	return svio_ioas_lookup(ioas, va, 1);
}

/* ---- dirty tracking: what a driver marks ---------------------------------------------------------------- */

/*
 * A driver that knows which memory its device wrote, because it sees requests complete, offers a log (svio_dirty.h of room migrate collects
 * it). While tracking is off, that costs the driver nothing; how, is its own art: choose another completion function in
 * set(), or let a test that is made anyway fail while tracking (drivers/nvme/io.c).
 *
 * In set() the driver gets the table in which svio_dirty_mark() marks, or NULL: off. The table stays valid for ever, so nothing need be
 * waited for: a thread may still mark for a while after off. On: every completion whose entry is looked at after set() returned must
 * be marked before the user is told of it, whatever its status, for the device may have written a part. A completion that
 * is being taken just then was written before tracking began, and does not matter.
 *
 * touch(), may be NULL: called at each collection: mark what the device may have written without a completion: rings, event words.
 *
 * Both are called with the locks of the ioas and of the dirty set held: take none that you hold while you map memory, allocate DMA memory,
 * or attach a device.
 */
struct svio_ioas_log {
	struct svio_device *dev; /* whose writes it covers, all of them */
	void (*set)(void *ctx, uint8_t *table);
	void (*touch)(void *ctx, uint8_t *table);
	void *ctx;
	struct svio_ioas_log *next; /* private while added */
};

/* The caller's memory until removed. Add it before the device's first DMA; remove it after the last. remove() calls set(NULL) if it was on. */
void svio_ioas_log_add(struct svio_ioas *ioas, struct svio_ioas_log *log);
void svio_ioas_log_remove(struct svio_ioas *ioas, struct svio_ioas_log *log);

#define SVIO_DIRTY_SHIFT 12 /* one byte of the table per 4 KiB of the process's (48-bit) address space */

/* The device has written [ptr, ptr + len), len not 0. Any thread, any context; a plain store per page. */
static inline void svio_dirty_mark(uint8_t *table, const void *ptr, size_t len)
{
	uint64_t page = (uint64_t)(uintptr_t)ptr >> SVIO_DIRTY_SHIFT;
	uint64_t last = ((uint64_t)(uintptr_t)ptr + len - 1) >> SVIO_DIRTY_SHIFT;

	__atomic_store_n(&table[page], 1, __ATOMIC_RELAXED);
	while (svio_unlikely(page != last))
		__atomic_store_n(&table[++page], 1, __ATOMIC_RELAXED);
}

/* ---- dirty tracking: what a tracker watches --------------------------------------------------------------- */

struct svio_ioas_map {
	uint64_t va, len, iova;
	uint32_t prot; /* enum svio_dma_prot */
};

/*
 * Told at once of everything there is, then of every change, with the ioas's lock held: no call into this ioas or room mem from there.
 * BARs mapped for peer-to-peer are no memory and not told of. All members are needed.
 */
struct svio_ioas_watch {
	void (*mapping)(void *ctx, const struct svio_ioas_map *map);  /* no device reaches it yet, except at add */
	void (*unmapped)(void *ctx, const struct svio_ioas_map *map); /* no device reaches it any more */
	void (*attached)(void *ctx, struct svio_device *dev);	      /* its DMA has not begun, except at add */
	void (*detaching)(void *ctx, struct svio_device *dev);	      /* its DMA has ended */
	void (*log_added)(void *ctx, struct svio_ioas_log *log);
	void (*log_removed)(void *ctx, struct svio_ioas_log *log);
	void *ctx;
	struct svio_ioas_watch *next; /* private while added */
};
void svio_ioas_watch_add(struct svio_ioas *ioas, struct svio_ioas_watch *watch);
void svio_ioas_watch_remove(struct svio_ioas *ioas, struct svio_ioas_watch *watch); /* calls nothing */

/*
 * The opposite: where IOVA [iova, iova + len) lies in this process, or NULL when it is not wholly in one mapping. Takes the lock: not for
 * hot paths.
 */
void *svio_ioas_va(struct svio_ioas *ioas, uint64_t iova, uint64_t len);

struct svio_ioas_stats {
	uint64_t mapped_bytes, mappings, devices, domains;
	uint64_t entries_left;	/* of the scarcest domain; UINT64_MAX when unlimited */
	bool identity;		/* every mapping that has an IOVA has IOVA = VA */
};
void svio_ioas_get_stats(struct svio_ioas *ioas, struct svio_ioas_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
