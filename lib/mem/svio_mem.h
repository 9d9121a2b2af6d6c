/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio mem: memory that devices may reach, on DPDK's EAL.
 *
 * svio_mem_start() starts EAL small (unless the application runs it already) and reserves one arena per NUMA node: a memfd
 * mapped at a fixed virtual address (hugepages where there are any; said in the log where not), handed to EAL as an
 * external heap. svio_mem_alloc(), rte_malloc_socket() on svio_mem_socket(), mempools and mbufs all live in it. One file
 * descriptor shares an arena with a vfio-user server, one mapping covers it, and a migrated process finds its pointers
 * unchanged.
 *
 * Memory that comes and goes (arena growth, external registration) is announced to listeners; room ioas is one, and maps it
 * into each I/O address space.
 *
 * Order: svio_mem_start() → alloc/free/register → svio_mem_stop(). Threads: alloc and free from any thread; start, stop and
 * register are serialised by a lock of this room; never on the hot path.
 */
#ifndef SVIO_MEM_H
#define SVIO_MEM_H

#include "svio_base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_MEM_BASE UINT64_C(0x600000000000) /* node n's arena starts at BASE + n * NODE_STRIDE */
#define SVIO_MEM_NODE_STRIDE UINT64_C(0x010000000000) /* 1 TiB */

enum svio_mem_huge {
	SVIO_MEM_HUGE_AUTO, /* hugepages if enough are free, else 4 KiB pages with a log line that says so */
	SVIO_MEM_HUGE_NEVER,
	SVIO_MEM_HUGE_ALWAYS, /* -ENOMEM, explained, when there are too few */
};

struct svio_mem_opts {
	size_t size;	    /* sizeof(struct svio_mem_opts) of the caller */
	uint64_t bytes;	    /* initial size of each arena used; 0 = 64 MiB */
	uint64_t max_bytes; /* it grows up to this; 0 = 64 GiB */
	enum svio_mem_huge huge;
	const char *lcores; /* EAL's -l list, such as "0-1"; NULL = the CPU the caller runs on */
	const char *const *eal_args; /* further EAL arguments, NULL-terminated, or NULL */
};

/* Start. -EALREADY is a success when called twice (reference counted). opts may be NULL. Errors are explained. */
int svio_mem_start(const struct svio_mem_opts *opts);
/* Drop one reference; the last one returns the arenas. EAL is cleaned up if we started it (it cannot start twice in a process). */
void svio_mem_stop(void);

struct svio_mem_stats {
	uint64_t arena_bytes, used_bytes, external_bytes;
	uint64_t page_size; /* of the arenas: 4096, 2 MiB or 1 GiB */
	unsigned int arenas, external_regions;
};
void svio_mem_get_stats(struct svio_mem_stats *stats);

/*
 * Allocate zeroed memory near `numa_node` (-1 = the caller's). align is a power of two, 0 = cache line. The arena grows when
 * it must. NULL when there is none left: svio_last_error() says which limit. svio_mem_free(NULL) does nothing.
 */
void *svio_mem_alloc(size_t len, size_t align, int numa_node);
void svio_mem_free(void *ptr);

/* EAL socket id of a node's arena, for rte_malloc_socket(), rte_mempool_create() and friends; negative errno when there is none. */
int svio_mem_socket(int numa_node);

/*
 * Make the caller's own memory reachable: [ptr, ptr + len), page aligned, mapped, any page size. It is announced to the listeners; if
 * one of them fails, the others are undone and its error returned. fd/fd_offset name the file behind it, for vfio-user peers that
 * shall map it, or -1. Overlap with memory already known is -EEXIST.
 */
int svio_mem_register(void *ptr, size_t len, int fd, uint64_t fd_offset);
/* Exactly one registered range; -ENOENT otherwise. DMA to it has ended when this returns. */
int svio_mem_unregister(void *ptr, size_t len);

/* ---- listeners ------------------------------------------------------------------------------------- */

struct svio_mem_region {
	void *addr;
	size_t len;
	int fd; /* -1 when unknown */
	uint64_t fd_offset;
	uint64_t page_size;
	int numa_node; /* -1 unknown */
	bool external; /* registered by the user, not an arena's */
};

struct svio_mem_listener {
	int (*added)(void *ctx, const struct svio_mem_region *region); /* 0 or -errno, explained */
	void (*removed)(void *ctx, const struct svio_mem_region *region);
	void *ctx;
	struct svio_mem_listener *next; /* private while registered */
};

/* Told at once of everything there is, then of every change, with the room's lock held (no allocation or registration inside). */
int svio_mem_listener_add(struct svio_mem_listener *listener);
void svio_mem_listener_remove(struct svio_mem_listener *listener); /* removed() is called for what is there */

#ifdef __cplusplus
}
#endif
#endif
