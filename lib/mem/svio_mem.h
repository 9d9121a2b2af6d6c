/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio mem: memory that devices may reach, on DPDK's EAL.
 *
 * svio_mem_start() starts EAL small (unless the application runs it already). DMA memory is one arena per NUMA node, made
 * when it is first asked for: a memfd mapped at a fixed virtual address (hugepages where there are any; said in the log
 * where not), bound to the node, handed to EAL as an external heap. svio_mem_alloc(), rte_malloc_socket() on
 * svio_mem_socket(), mempools and mbufs all live in it. One file descriptor shares an arena with a vfio-user server, and a
 * migrated process finds its pointers unchanged.
 *
 * Memory that comes and goes (arena growth, external registration) is announced to listeners; room ioas is one, and maps
 * it into each I/O address space.
 *
 * Order: svio_mem_start() → alloc/free/reserve → svio_mem_stop(). Registration and listeners work with and without it.
 *
 * Threads: alloc and free from any thread; everything that grows, registers, starts or stops takes the lock of this room.
 * Stop only when no other thread allocates.
 *
 * fork: children get none of this memory (MADV_DONTFORK); a child that touches it dies by SIGSEGV. fork and exec is fine.
 *
 * EAL cannot start twice in one process, so it stays when svio_mem_stop() has returned the arenas, and the next
 * svio_mem_start() uses it. Its log lines go to svio's log (unless the application gave EAL a stream of its own); only
 * when rte_eal_init() itself fails does EAL write to stderr past us.
 */
#ifndef SVIO_MEM_H
#define SVIO_MEM_H

#include "svio_base.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Node n's arena starts at BASE + n * NODE_STRIDE. 32 TiB is far from where Linux puts programs, libraries, heaps and stacks
 * on x86-64 and arm64 (48-bit addresses), fits the 46 bits that server IOMMUs have at least, and is also free under
 * AddressSanitizer and valgrind. ThreadSanitizer wants opts.base = 256 GiB.
 */
#define SVIO_MEM_BASE	     UINT64_C(0x200000000000)
#define SVIO_MEM_NODE_STRIDE UINT64_C(0x010000000000) /* 1 TiB */

enum svio_mem_huge {
	SVIO_MEM_HUGE_AUTO,   /* 2 MiB pages if enough are free when the arena is made, else 4 KiB pages and a warning */
	SVIO_MEM_HUGE_NEVER,  /* 4 KiB pages */
	SVIO_MEM_HUGE_ALWAYS, /* 2 MiB pages; -ENOMEM, explained, when there are too few */
	SVIO_MEM_HUGE_1G,     /* 1 GiB pages, likewise */
};

struct svio_mem_opts {
	size_t size;	    /* sizeof(struct svio_mem_opts) of the caller */
	uint64_t bytes;	    /* initial size of each arena used; 0 = 64 MiB */
	uint64_t max_bytes; /* it grows up to this, at most 1 TiB; 0 = 64 GiB or bytes, whichever is more */
	enum svio_mem_huge huge;
	const char *lcores; /* EAL's -l list, such as "0-1": EAL pins the caller to the first. NULL = one lcore on the
			     * caller's CPU, and the caller is not left pinned */
	const char *const *eal_args; /* further EAL arguments, NULL-terminated, or NULL */
	uint64_t base;	    /* where the arenas lie; 0 = SVIO_MEM_BASE. A multiple of 1 GiB */
};

/*
 * Start, and make the arena of the caller's node. opts may be NULL. Started already: one more reference, opts are not
 * looked at, 0. Errors are explained: -ENOMEM too little memory or too few hugepages, -EADDRINUSE something else is
 * mapped where an arena belongs, -EINVAL, or what EAL says.
 */
int svio_mem_start(const struct svio_mem_opts *opts);
/*
 * Drop one reference; the last one returns the arenas to the kernel. An arena with allocations left in it stays, with a
 * warning, and is used again by the next start. Registered memory stays registered.
 */
void svio_mem_stop(void);

struct svio_mem_stats {
	uint64_t arena_bytes, used_bytes, external_bytes;
	uint64_t page_size; /* of the arenas (the smallest, if they differ): 4096, 2 MiB or 1 GiB */
	unsigned int arenas, external_regions;
};
void svio_mem_get_stats(struct svio_mem_stats *stats);

/*
 * Allocate zeroed memory near `numa_node` (-1 = the caller's; a node without memory for this process is replaced by one that
 * has some). align is a power of two up to 1 GiB, 0 = cache line. The arena grows when it must, by at least 64 MiB and
 * half of what it has. NULL when there is none left: svio_last_error() says which limit. svio_mem_free(NULL) does nothing.
 */
void *svio_mem_alloc(size_t len, size_t align, int numa_node);
void svio_mem_free(void *ptr);

/*
 * EAL socket id of a node's arena, for rte_malloc_socket(), rte_mempool_create() and friends; negative errno when there is
 * none. Those calls do not grow the arena: svio_mem_reserve() first.
 */
int svio_mem_socket(int numa_node);
/* Grow the node's arena until `len` bytes (1 … 1 TiB) are free in one piece. */
int svio_mem_reserve(size_t len, int numa_node);

/*
 * Make the caller's own memory reachable: [ptr, ptr + len), page aligned, mapped, any page size. It is announced to the
 * listeners; if one of them fails, the others are undone and its error returned. fd/fd_offset name the file behind it, for
 * vfio-user peers that shall map it, or -1; the fd stays the caller's and open until unregistered. While registered, the
 * memory is MADV_DONTFORK; afterwards MADV_DOFORK.
 * -EEXIST overlaps memory already known, -EFAULT not mapped throughout, -EINVAL not page aligned.
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

/*
 * Told at once of everything there is, then of every change, with the room's lock held: a listener must not allocate,
 * register or add listeners itself. When added() fails for one of the regions there are, the others are undone, the
 * listener is not added, and its error is returned.
 */
int svio_mem_listener_add(struct svio_mem_listener *listener);
void svio_mem_listener_remove(struct svio_mem_listener *listener); /* removed() is called for what is there */

#ifdef __cplusplus
}
#endif
#endif
