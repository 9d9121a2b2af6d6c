/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mmio internals: the table that the signal handler reads, and the chain of signal handlers.
 *
 *	bar.c		objects, mapping, restoring, the reset hook: ordinary code, may lock and log
 *	guard.c		the table and the shadow pages: what the handler runs, and its counterpart
 *	chain.c		installing the handler, passing on what is not ours
 */
#ifndef SVIO_MMIO_PRIV_H
#define SVIO_MMIO_PRIV_H

#ifndef SVIO_ROOM_MMIO
#error "mmio_priv.h belongs to room mmio"
#endif

#include "svio_mmio.h"

#define GUARD_SLOTS 1024

enum guard_state { GUARD_FREE, GUARD_RESERVED, GUARD_LIVE };

/*
 * One mapping as the handler sees it. Written by map and unmap under the room's lock, read by the
 * handler without one: the handler announces itself in in_flight and looks again before it acts;
 * unmap makes the slot GUARD_FREE and waits for in_flight to reach zero before the address range
 * goes back to the system. The whole table is MADV_WIPEONFORK: a child has no BARs (they are
 * MADV_DONTFORK), and its table says so.
 */
struct guard_slot {
	_Alignas(SVIO_CACHELINE) _Atomic uint32_t state; /* enum guard_state */
	_Atomic uint32_t in_flight;			 /* handlers at work on this slot */
	_Atomic uint32_t revoked;			 /* some page may be a shadow */
	_Atomic int prot;
	_Atomic uintptr_t start, end; /* page aligned */
	struct svio_device *_Atomic dev;
};
_Static_assert(sizeof(struct guard_slot) == SVIO_CACHELINE, "one slot, one cache line");

/*
 * Under the room's lock. Open and close the shadow files; the table itself stays for the life of
 * the process.
 */
int guard_open(void);
void guard_close(void);
/* -ENOSPC when the table is full. */
int guard_reserve(struct guard_slot **slotp);
void guard_publish(struct guard_slot *slot, struct svio_device *dev, void *start, size_t len,
		   int prot);
/* After this no handler touches the slot or its range. */
void guard_release(struct guard_slot *slot);
/* Is [start, …) what this slot guards? False in a forked child, for a mapping of the parent. */
bool guard_owns(const struct guard_slot *slot, const void *start);
/* Until no handler is at work on the slot. Handlers are short and cannot be interrupted. */
void guard_quiesce(struct guard_slot *slot);
/* Take the whole range from the device and mark it revoked. 0 or -errno. */
int guard_withdraw(struct guard_slot *slot);
size_t guard_page_size(void);

/*
 * Async-signal-safe: put a shadow page under addr if it is ours. False: not ours, or it could not
 * be done.
 */
bool guard_absorb(uintptr_t addr);

/* Under the room's lock: make our handler the installed one (again), or give up our place. */
int chain_ensure(void);
void chain_remove(void);

#endif
