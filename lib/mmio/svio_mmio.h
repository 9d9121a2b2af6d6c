/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio mmio: BAR mappings that may vanish under a running poll loop.
 *
 * svio_bar_map() gives a plain pointer to device memory, guarded: when the device's memory decoding goes off, the
 * function is reset, powered down or unplugged, Linux withdraws the mapping and the next load or store raises SIGBUS. The guard's
 * handler finds the *address* among our mappings, puts a private page that reads all ones under it (stores reach nothing), marks the
 * BAR revoked, raises SVIO_EV_REVOKED on the device, and returns. Nothing is killed and nothing spins.
 *
 * When decoding is back, svio_bar_restore() puts the device memory back at the same address. Faults that are not ours go to the
 * handler that was installed before, or kill the process as they would have.
 *
 *	svio_bar_map() → loads and stores → SVIO_EV_REVOKED seen at the next poll → the driver holds its requests →
 *	svio_bar_restore() returns 0 → the driver re-initialises → goes on with the same pointers
 *
 * Threads: mapping, unmapping and restoring one device are serialised by the caller; loads and stores, and faults on them, come from
 * any thread at any time.
 *
 * Sources: Linux drivers/vfio/pci/vfio_pci_core.c (zap on memory disable, D3hot, reset; SIGBUS on fault; -EIO from
 * read/write); PCIe 5.0 §2.3.2 (all ones on an unsuccessful completion).
 */
#ifndef SVIO_MMIO_H
#define SVIO_MMIO_H

#include "svio_vfio.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A guarded mapping. Fields are read-only to users; addr is valid, at this value, from map to unmap. */
struct svio_bar {
	void *addr;
	size_t len;
	uint64_t offset; /* into the region */
	uint32_t region;
	struct svio_device *dev;
};

enum svio_bar_flags {
	SVIO_BAR_READONLY = 1u << 0,
	SVIO_BAR_WC = 1u << 1,	      /* write-combining where the kernel can; otherwise uncached, and said in the log */
	SVIO_BAR_NO_PRETOUCH = 1u << 2, /* reading the first word of each page has side effects on this device */
};

/*
 * Map [off, off + len) of a region, len 0 = to the end of the mappable area that holds off. off and len need not be page
 * aligned as long as the pages are mappable. Pages are touched once, so that the poll loop meets no page fault.
 * MADV_DONTFORK. Installs the SIGBUS handler with the first BAR of the process.
 * -EINVAL not mappable (use svio_device_region_read/write), -ENOSPC too many mappings, or as mmap().
 */
int svio_bar_map(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, uint32_t flags,
		 struct svio_bar **barp);

/* Unmap. bar may be NULL. Removes the SIGBUS handler with the last BAR, if it is still the installed one. */
void svio_bar_unmap(struct svio_bar *bar);

/* Has this BAR been withdrawn since it was mapped or last restored? One load. */
bool svio_bar_revoked(const struct svio_bar *bar);

/*
 * Put every revoked BAR of the device back at its address. 0: all are back and SVIO_EV_REVOKED is clear (raised again if
 * decoding went off meanwhile); -EAGAIN: memory decoding is still off; -ENODEV: the device is gone.
 */
int svio_bar_restore(struct svio_device *dev);

/* For tests and statistics: faults absorbed since the process started. */
uint64_t svio_bar_fault_count(void);

/* ---- accessors: one load or store of that width, little-endian registers ---------------------------- */

static inline uint8_t svio_mmio_read8(const volatile void *p)
{
	return *(const volatile uint8_t *)p;
}

static inline uint16_t svio_mmio_read16(const volatile void *p)
{
	return le16toh(*(const volatile uint16_t *)p);
}

static inline uint32_t svio_mmio_read32(const volatile void *p)
{
	return le32toh(*(const volatile uint32_t *)p);
}

static inline uint64_t svio_mmio_read64(const volatile void *p)
{
	return le64toh(*(const volatile uint64_t *)p);
}

static inline void svio_mmio_write8(volatile void *p, uint8_t v)
{
	*(volatile uint8_t *)p = v;
}

static inline void svio_mmio_write16(volatile void *p, uint16_t v)
{
	*(volatile uint16_t *)p = htole16(v);
}

static inline void svio_mmio_write32(volatile void *p, uint32_t v)
{
	*(volatile uint32_t *)p = htole32(v);
}

static inline void svio_mmio_write64(volatile void *p, uint64_t v)
{
	*(volatile uint64_t *)p = htole64(v);
}

/*
 * Order stores to memory before a later doorbell store. x86-64: stores are not reordered with stores to uncached memory (Intel SDM
 * vol. 3A §9.2), so only the compiler must be stopped; arm64: dmb oshst.
 */
static inline void svio_dma_wmb(void)
{
#if defined(__aarch64__)
	__asm__ volatile("dmb oshst" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

/* Order the load of a completion's valid bit before loads of what the device wrote with it. */
static inline void svio_dma_rmb(void)
{
#if defined(__aarch64__)
	__asm__ volatile("dmb oshld" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

#ifdef __cplusplus
}
#endif
#endif
