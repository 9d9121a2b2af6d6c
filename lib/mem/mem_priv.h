/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside room mem. Everything here is called with the room's lock held, unless a line says otherwise.
 *
 *	mem.c		the public calls, the lock, the table of arenas
 *	eal.c		EAL: started small, its log sent to ours
 *	arena.c		one NUMA node's memory: reserve addresses, grow, give back
 *	registry.c	what memory is known, and who is told of it
 */
#ifndef SVIO_MEM_PRIV_H
#define SVIO_MEM_PRIV_H

#ifndef SVIO_ROOM_MEM
#error "mem_priv.h is internal to room mem"
#endif

#include "svio_mem.h"

#define MEM_MAX_NODES  64
#define MEM_PAGE       UINT64_C(4096)
#define MEM_MIN_CHUNK  (UINT64_C(64) << 20)
/* More than EAL's heap adds to an allocation: a header, padding, and what is left over between two of them. */
#define MEM_HEAP_OVERHEAD 1024
/*
 * Each chunk takes one of EAL's memory segment lists, of which a process has RTE_MAX_MEMSEG_LISTS (128). Chunks grow by
 * half of what there is, so that 24 of them span 64 MiB to 700 GiB.
 */
#define MEM_MAX_CHUNKS 24

struct mem_chunk {
	uint64_t off, len; /* into the arena, and into its memfd */
};

struct mem_arena {
	int node;
	uint8_t *base;	   /* max bytes of addresses are reserved here */
	uint64_t max;	   /* most bytes it may have */
	uint64_t bytes;	   /* of memory mapped, from base on */
	uint64_t fd_bytes; /* size of the memfd: it is sealed against shrinking, so it may exceed bytes after an undone growth */
	uint64_t page_size;
	int fd;
	int socket; /* EAL's id of the heap */
	char heap[24];
	unsigned int num_chunks;
	struct mem_chunk chunks[MEM_MAX_CHUNKS];
};

/* Start EAL once per process, or find it running. */
int svio__mem_eal_start(const struct svio_mem_opts *opts);

/*
 * An arena of at least opts->bytes at base, announced to the listeners. 0 or -errno, explained; nothing is left of a failure.
 */
int svio__mem_arena_create(const struct svio_mem_opts *opts, int node, struct mem_arena **arenap);
/* One more chunk, in which `need` bytes can be allocated in one piece. */
int svio__mem_arena_grow(struct mem_arena *arena, uint64_t need);
/* Everything back to the kernel; -EBUSY when allocations are left (the arena stays as it is). */
int svio__mem_arena_destroy(struct mem_arena *arena);

/* Add to the sorted list and tell the listeners. -EEXIST on overlap. */
int svio__mem_region_add(const struct svio_mem_region *region);
/* Tell the listeners and forget; -ENOENT unless exactly one region matches. */
int svio__mem_region_remove(void *addr, size_t len, bool external);
void svio__mem_region_count(uint64_t *external_bytes, unsigned int *external_regions);

/* mem.c: is any part of [addr, addr + len) reserved for an arena? */
bool svio__mem_in_arena(const void *addr, size_t len);
void svio__mem_lock(void); /* takes the lock, of course without holding it */
void svio__mem_unlock(void);

#endif
