/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio mmio: BAR mappings that may vanish under a running poll loop.
 *
 * svio_bar_map() gives a plain pointer to device memory, guarded: when the device's memory decoding
 * goes off, the function is reset, powered down or unplugged, Linux withdraws the mapping and the
 * next load or store raises SIGBUS. The guard's handler finds the *address* among our mappings,
 * puts a private page that reads all ones under it, marks the BAR revoked, raises SVIO_EV_REVOKED
 * on the device, and returns; the access is repeated there. Nothing is killed and nothing spins.
 *
 *	svio_bar_map() → loads and stores → SVIO_EV_REVOKED seen at the next poll →
 *	the driver holds its requests → svio_bar_restore() returns 0 →
 *	the driver re-initialises → goes on with the same pointers
 *
 * Shadow pages. Loads of any width give all ones, as from a bus where nobody answers (PCIe 5.0
 * §2.3.2); a page changes from device to shadow in one step, so that no load sees half of each.
 * Stores reach no device; they stay in the process's private copy of that page until it is
 * restored, so a load *after a store to the same bytes* gives what was stored and not all ones.
 * Look at svio_device_events(), or at a register that is only read, to know whether the device is
 * there. What was stored while a BAR was revoked is lost: only the driver knows what it means,
 * hence it re-initialises.
 *
 * Orderly reset. Around svio_device_reset(), svio_device_hot_reset() and svio_device_set_memory()
 * (stage SVIO_HOOK_MMIO) all BARs of the device are withdrawn before the function is touched, and
 * restored after it if it answers. Until then svio_bar_restore() gives -EAGAIN. After SVIO_EV_GONE
 * the shadow pages stay until svio_bar_unmap().
 *
 * The signal handler is installed with the first BAR of the process, with SA_ONSTACK and all
 * signals blocked for its few system calls, and taken out with the last. What is not ours goes
 * where it would have gone without us: to the handler that was installed before (SA_SIGINFO or not,
 * with its sa_mask, SA_NODEFER and SA_RESETHAND; it runs on the alternate stack if the thread has
 * one), or, when there was none, it kills the process with the true si_code and si_addr. SIG_IGN
 * ignores sent signals only; the kernel lets no fault be ignored. If a shadow page cannot be had
 * (the process is at vm.max_map_count), the whole BAR is replaced, which needs no additional
 * mapping; if that fails as well, the fault is passed on.
 *
 * An application that installs a SIGBUS handler after the first BAR: the guard then works only
 * through it, if it calls what it replaced; every svio_bar_map() and svio_bar_restore() looks, and
 * puts the guard in front of it (up to seven times). At the last unmap the guard leaves if it is in
 * front; if it is not, it stays where it is and passes everything on.
 *
 * Threads that access BARs must not block SIGBUS: Linux kills on a fault whose signal is blocked.
 * System calls that are given a BAR pointer (write(fd, bar->addr, n)) fail with EFAULT when it is
 * withdrawn; they raise no signal and no event.
 *
 * fork: BARs do not exist in a child (MADV_DONTFORK), an access there is SIGSEGV; the child
 * inherits the handler with an empty table.
 *
 * Threads: mapping, unmapping and restoring one device are serialised by the caller; not from hooks
 * of that device, except svio_bar_restore(). Loads and stores, and faults on them, come from any
 * thread at any time, until unmap is called. A fault that a thread met before a restore, and whose
 * signal it handles after it, withdraws that page once more; it is reported as a revocation like
 * any other, and restored like any other.
 *
 * Sources: Linux drivers/vfio/pci/vfio_pci_core.c (zap on memory disable, D3hot, reset; SIGBUS on
 * fault; -EIO from read/write; PTEs filled on first access; pgprot_noncached).
 */
#ifndef SVIO_MMIO_H
#define SVIO_MMIO_H

#include "svio_vfio.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A guarded mapping. Fields are read-only to users; addr is valid, at this value, from map to
 * unmap.
 */
struct svio_bar {
	void *addr;
	size_t len;
	uint64_t offset; /* into the region */
	uint32_t region;
	struct svio_device *dev;
};

enum svio_bar_flags {
	SVIO_BAR_READONLY = 1u << 0,
	/*
	 * Write-combining where the transport can. Linux vfio-pci maps every BAR uncached: then so
	 * is this one, and the log says it.
	 */
	SVIO_BAR_WC = 1u << 1,
	/*
	 * Reading the first word of a page has side effects on this device: neither map nor restore
	 * reads it.
	 */
	SVIO_BAR_NO_PRETOUCH = 1u << 2,
};

/*
 * Map [off, off + len) bytes of a region, len 0 = to the end of the mappable area that holds off.
 * off and len need not be page aligned as long as the pages are mappable. Pages are touched once (a
 * 4-byte load each), so that the poll loop meets no page fault; if decoding is off, the call
 * succeeds and the BAR is revoked from the beginning. On success *barp is the caller's until
 * svio_bar_unmap(); on failure it is NULL and nothing is left behind. -EINVAL not mappable (use
 * svio_device_region_read/write), -ENOSPC there are 1024 mappings, -ENOMEM, or as mmap().
 */
int svio_bar_map(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, uint32_t flags,
		 struct svio_bar **barp);

/* Unmap; no thread may use the pointer any more. bar may be NULL. */
void svio_bar_unmap(struct svio_bar *bar);

/*
 * Has some page of this BAR been withdrawn since it was mapped or last restored? One load. Any
 * thread.
 */
bool svio_bar_revoked(const struct svio_bar *bar);

/*
 * Put every revoked BAR of the device back at its address, and touch it. 0: all are back and
 * SVIO_EV_REVOKED is clear. The event stays, or is raised again, if a BAR is withdrawn meanwhile;
 * none is lost.
 * -EAGAIN: memory decoding is off, the function sleeps (D3hot), or an orderly reset has not ended:
 * try again later; -ENODEV: the device is gone; others as from configuration access or mmap().
 * After a failure BARs that could not be restored still have shadow pages. Decoding is looked up in
 * the command register (not on a VF) and by one 4-byte region read at the start of a revoked BAR
 * (not with SVIO_BAR_NO_PRETOUCH). A few system calls; not for every poll.
 */
int svio_bar_restore(struct svio_device *dev);

/* For tests and statistics: faults absorbed since the process started. Any thread. */
uint64_t svio_bar_fault_count(void);

/* ---- accessors: one load or store of that width, little-endian registers --------------------- */

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
 * Order stores to memory before a later doorbell store. x86-64: stores are not reordered with
 * stores to uncached memory (Intel SDM vol. 3A §9.2), so only the compiler must be stopped; arm64:
 * dmb oshst.
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
