/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of guarded mappings and the shadow pages.
 *
 * Everything reachable from guard_absorb() runs inside a SIGBUS handler that may have interrupted
 * anything, malloc() and this file included. It uses: lock-free atomics; the raw system calls mmap
 * and madvise (neither is on POSIX's list of async-signal-safe functions; both are single system
 * calls without library state, and syscall() only sets errno, which the caller preserves);
 * svio_device_event_set(), one atomic OR. No lock, no log, no allocation, no TLS but errno.
 */
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "mmio_priv.h"

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_POINTER_LOCK_FREE == 2 &&
		       ATOMIC_LLONG_LOCK_FREE == 2,
	       "the handler needs lock-free atomics");

/*
 * Length of the all-ones file. A shadow page is mapped from the file offset that corresponds to its
 * place in the BAR, so that neighbouring shadow pages merge into one VMA: a withdrawn BAR costs at
 * most one VMA per SHADOW_LEN and not one per page of vm.max_map_count.
 */
#define SHADOW_LEN (64u << 10)

static struct guard_slot *table;	     /* set once, before the handler is installed */
static _Atomic uint32_t table_high;	     /* slots that were ever used: what the handler scans */
static _Atomic int shadow_fd = -1;	     /* SHADOW_LEN bytes of 0xff, sealed */
static _Atomic int empty_fd = -1;	     /* no bytes: touching a mapping of it raises SIGBUS */
static _Atomic size_t page_size, shadow_len; /* constant once set */
static _Atomic uint64_t faults;

uint64_t svio_bar_fault_count(void)
{
	return atomic_load_explicit(&faults, memory_order_relaxed);
}

size_t guard_page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- what the handler runs ------------------------------------------------------------------- */

static bool slot_covers(const struct guard_slot *slot, uintptr_t addr)
{
	return atomic_load(&slot->state) == GUARD_LIVE && addr >= atomic_load(&slot->start) &&
	       addr < atomic_load(&slot->end);
}

/* Replace [addr, addr + len) in one step: other threads see the old pages or the new ones. */
static int replace(uintptr_t addr, size_t len, int prot, int fd, size_t off)
{
	/* MAP_PRIVATE: a store gets a copy of its own and the file stays all ones. */
	long rc = syscall(SYS_mmap, addr, len, prot, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
			  off);

	if (rc == -1)
		return -errno;
	syscall(SYS_madvise, addr, len, MADV_DONTFORK);
	return 0;
}

/*
 * Put all ones under the whole slot if it is short, else the empty file, whose pages the handler
 * then shadows as they are touched. Replacing whole VMAs never adds one, so this works when the
 * process is at vm.max_map_count.
 */
static int replace_all(struct guard_slot *slot)
{
	uintptr_t start = atomic_load(&slot->start);
	size_t len = atomic_load(&slot->end) - start;
	int fd = atomic_load(len <= atomic_load(&shadow_len) ? &shadow_fd : &empty_fd);

	return replace(start, len, atomic_load(&slot->prot), fd, 0);
}

static int replace_page(struct guard_slot *slot, uintptr_t addr)
{
	size_t psz = atomic_load(&page_size);
	uintptr_t start = atomic_load(&slot->start), page = SVIO_ALIGN_DOWN(addr, psz);

	return replace(page, psz, atomic_load(&slot->prot), atomic_load(&shadow_fd),
		       (page - start) % atomic_load(&shadow_len));
}

/*
 * The order matters: first the page, then the flag, then the event. Restore clears the flag, maps
 * the device, and looks at the flag: a page that was put in after the mapping has its flag set
 * after the clearing. It clears the event only when it has found all flags clear, and looks at them
 * once more after it: an event that it cleared by mistake has its flag set before.
 */
static void mark_revoked(struct guard_slot *slot)
{
	atomic_store(&slot->revoked, 1);
	svio_device_event_set(atomic_load(&slot->dev), SVIO_EV_REVOKED);
}

static bool shadow(struct guard_slot *slot, uintptr_t addr)
{
	if (replace_page(slot, addr) != 0) {
		/* Most likely ENOMEM: splitting the VMA would exceed vm.max_map_count. */
		if (replace_all(slot) != 0)
			return false;
		if (atomic_load(&slot->end) - atomic_load(&slot->start) >
			    atomic_load(&shadow_len) &&
		    replace_page(slot, addr) != 0)
			return false;
	}
	mark_revoked(slot);
	atomic_fetch_add_explicit(&faults, 1, memory_order_relaxed);
	return true;
}

bool guard_absorb(uintptr_t addr)
{
	uint32_t n = atomic_load(&table_high);
	bool done = false;

	for (uint32_t i = 0; i < n && !done; i++) {
		struct guard_slot *slot = &table[i];

		if (!slot_covers(slot, addr))
			continue;
		atomic_fetch_add(&slot->in_flight, 1);
		/* Again, now that guard_release() waits for us. */
		if (slot_covers(slot, addr))
			done = shadow(slot, addr);
		atomic_fetch_sub(&slot->in_flight, 1);
	}
	return done;
}

/* ---- the other side: ordinary code, under the room's lock ------------------------------------ */

static int sealed_memfd(const char *name, size_t len)
{
	static const unsigned char ones[4096] = { [0 ... 4095] = 0xff };
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

	if (fd < 0)
		return svio_fail(errno, "memfd_create(%s) for the pages behind withdrawn BARs: %s",
				 name, strerror(errno));
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, ones, SVIO_MIN(sizeof(ones), len - done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			goto fail;
		done += (size_t)n;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
		goto fail;
	return fd;
fail:
	err = errno ? errno : EIO;
	close(fd);
	return svio_fail(err,
			 "writing %zu bytes to memfd %s for the pages behind withdrawn BARs: %s",
			 len, name, strerror(err));
}

int guard_open(void)
{
	size_t len = SVIO_ALIGN_UP(GUARD_SLOTS * sizeof(struct guard_slot), guard_page_size());
	int fd;

	if (atomic_load(&shadow_fd) >= 0)
		return 0;
	if (!table) {
		void *p =
			mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED || madvise(p, len, MADV_WIPEONFORK) != 0) {
			int err = errno;

			if (p != MAP_FAILED)
				munmap(p, len);
			return svio_fail(err, "table of guarded BARs (%zu bytes): %s", len,
					 strerror(err));
		}
		table = p;
	}
	atomic_store(&page_size, guard_page_size());
	atomic_store(&shadow_len, SVIO_MAX((size_t)SHADOW_LEN, guard_page_size()));
	fd = sealed_memfd("svio-shadow", atomic_load(&shadow_len));
	if (fd < 0)
		return fd;
	atomic_store(&shadow_fd, fd);
	fd = sealed_memfd("svio-empty", 0);
	if (fd < 0) {
		guard_close();
		return fd;
	}
	atomic_store(&empty_fd, fd);
	return 0;
}

void guard_close(void)
{
	int fd = atomic_exchange(&shadow_fd, -1);

	if (fd >= 0)
		close(fd);
	fd = atomic_exchange(&empty_fd, -1);
	if (fd >= 0)
		close(fd);
}

int guard_reserve(struct guard_slot **slotp)
{
	for (uint32_t i = 0; i < GUARD_SLOTS; i++) {
		if (atomic_load(&table[i].state) != GUARD_FREE)
			continue;
		atomic_store(&table[i].state, GUARD_RESERVED);
		if (i >= atomic_load(&table_high))
			atomic_store(&table_high, i + 1);
		*slotp = &table[i];
		return 0;
	}
	return svio_fail(ENOSPC, "%u BARs are mapped in this process, the most there can be",
			 GUARD_SLOTS);
}

void guard_publish(struct guard_slot *slot, struct svio_device *dev, void *start, size_t len,
		   int prot)
{
	atomic_store(&slot->dev, dev);
	atomic_store(&slot->prot, prot);
	atomic_store(&slot->revoked, 0);
	atomic_store(&slot->start, (uintptr_t)start);
	atomic_store(&slot->end, (uintptr_t)start + len);
	atomic_store(&slot->state, GUARD_LIVE);
}

void guard_quiesce(struct guard_slot *slot)
{
	while (atomic_load(&slot->in_flight) != 0)
		sched_yield();
}

void guard_release(struct guard_slot *slot)
{
	atomic_store(&slot->state, GUARD_RESERVED);
	guard_quiesce(slot);
	atomic_store(&slot->start, 0);
	atomic_store(&slot->end, 0);
	atomic_store(&slot->state, GUARD_FREE);
}

bool guard_owns(const struct guard_slot *slot, const void *start)
{
	return atomic_load(&slot->state) == GUARD_LIVE &&
	       atomic_load(&slot->start) == (uintptr_t)start;
}

int guard_withdraw(struct guard_slot *slot)
{
	int rc = replace_all(slot);

	mark_revoked(slot);
	return rc;
}
