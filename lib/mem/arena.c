/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One NUMA node's DMA memory: addresses reserved once, a sealed memfd behind them, grown chunk by chunk.
 *
 * A chunk is made in an order in which every shortage is an error code and none is a signal: file grown, mapped, bound to
 * the node, allocated (fallocate; a hugepage that is missing would be SIGBUS at first touch), touched, announced to the
 * listeners (devices map it), and last given to EAL, so that nothing is allocated from memory that a device cannot reach.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <numa.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include "meminfo.h"
#include "mem_priv.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define HUGE_2M (UINT64_C(2) << 20)
#define HUGE_1G (UINT64_C(1) << 30)

/* ---- hugepages ----------------------------------------------------------------------------------------- */

static const char *page_name(uint64_t page_size)
{
	return page_size == HUGE_1G ? "1 GiB" : page_size == HUGE_2M ? "2 MiB" : "4 KiB";
}

static int read_u64(const char *path, uint64_t *value)
{
	FILE *f = fopen(path, "re");
	int n;

	if (!f)
		return -errno;
	n = fscanf(f, "%" SCNu64, value);
	fclose(f);
	return n == 1 ? 0 : -EIO;
}

/* Hugepages of that size free on the node, not counting those promised to others (which the kernel counts globally). */
static uint64_t huge_free(int node, uint64_t page_size)
{
	char path[128];
	uint64_t on_node, all, reserved;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/free_hugepages", page_size >> 10);
	if (read_u64(path, &all))
		return 0;
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/resv_hugepages", page_size >> 10);
	if (read_u64(path, &reserved))
		reserved = 0;
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages/hugepages-%" PRIu64 "kB/free_hugepages", node,
		 page_size >> 10);
	if (read_u64(path, &on_node))
		on_node = all; /* a kernel without NUMA */
	all = all > reserved ? all - reserved : 0;
	return SVIO_MIN(all, on_node);
}

static int fail_huge(int node, uint64_t page_size, uint64_t bytes)
{
	return svio_fail(ENOMEM,
			 "node %d has %" PRIu64 " free hugepages of %s, %" PRIu64 " are needed: run: hugeadm --pool-pages-min %s:+%" PRIu64
			 ", or start with 4 KiB pages (SVIO_MEM_HUGE_NEVER)",
			 node, huge_free(node, page_size), page_name(page_size), bytes / page_size,
			 page_size == HUGE_1G ? "1G" : "2M", bytes / page_size);
}

/* The page size for an arena that starts with `bytes`. */
static int choose_pages(const struct svio_mem_opts *opts, int node, uint64_t bytes, uint64_t *page_size)
{
	uint64_t want = opts->huge == SVIO_MEM_HUGE_1G ? HUGE_1G : HUGE_2M;

	*page_size = MEM_PAGE;
	if (opts->huge == SVIO_MEM_HUGE_NEVER)
		return 0;
	bytes = SVIO_ALIGN_UP(bytes, want);
	if (huge_free(node, want) >= bytes / want) {
		*page_size = want;
		return 0;
	}
	if (opts->huge != SVIO_MEM_HUGE_AUTO)
		return fail_huge(node, want, bytes);
	svio_log_warn("node %d has %" PRIu64 " free hugepages of 2 MiB, %" PRIu64
		      " are needed: using 4 KiB pages, which cost IOMMU and CPU TLB misses (more: hugeadm --pool-pages-min 2M:+%" PRIu64 ")",
		      node, huge_free(node, want), bytes / want, bytes / want);
	return 0;
}

/* ---- addresses ----------------------------------------------------------------------------------------- */

/* The line of /proc/self/maps that is in the way of [start, start + len), without its newline. */
static void who_is_there(uint64_t start, uint64_t len, char *line, size_t size)
{
	FILE *f = fopen("/proc/self/maps", "re");
	uint64_t lo, hi;

	while (f && fgets(line, (int)size, f))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &lo, &hi) == 2 && lo < start + len && start < hi) {
			line[strcspn(line, "\n")] = '\0';
			fclose(f);
			return;
		}
	snprintf(line, size, "something the kernel reserves");
	if (f)
		fclose(f);
}

/* [base, base + max) without access and without memory, so that nobody else's mmap() lands in it. */
static int reserve(struct mem_arena *arena, uint64_t base)
{
	void *want = (void *)(uintptr_t)base, *p;
	char line[256];

	p = mmap(want, arena->max, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p == MAP_FAILED && errno != EEXIST)
		return svio_fail(errno, "cannot reserve %" PRIu64 " MiB of addresses at 0x%" PRIx64
				 " for node %d: %m: lower max_bytes or raise ulimit -v", arena->max >> 20, base, arena->node);
	/* Linux before 4.17 takes MAP_FIXED_NOREPLACE for a hint. */
	if (p != MAP_FAILED && p != want)
		munmap(p, arena->max);
	if (p != want) {
		who_is_there(base, arena->max, line, sizeof(line));
		return svio_fail(EADDRINUSE, "node %d's memory belongs at 0x%" PRIx64 "+0x%" PRIx64
				 ", but there is: %s: start svio earlier, or with another opts.base", arena->node, base, arena->max, line);
	}
	arena->base = p;
	return 0;
}

static int open_memfd(struct mem_arena *arena)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	char name[32];

	if (arena->page_size != MEM_PAGE)
		flags |= MFD_HUGETLB | (arena->page_size == HUGE_1G ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	snprintf(name, sizeof(name), "svio-node%d", arena->node);
	arena->fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (arena->fd < 0 && errno == EINVAL)
		arena->fd = memfd_create(name, flags);
	if (arena->fd < 0)
		return svio_fail(errno, "cannot create a memfd of %s pages for node %d: %m%s", page_name(arena->page_size), arena->node,
				 errno == EMFILE ? ": raise ulimit -n" : "");
	/*
	 * A vfio-user server that maps this file must not die because the client truncates it; a server that knows its
	 * trade demands F_SEAL_SHRINK. F_SEAL_SEAL keeps the other side from forbidding us to grow.
	 */
	if (fcntl(arena->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL))
		return svio_fail(errno, "cannot seal the memfd of node %d: %m", arena->node);
	return 0;
}

/* ---- chunks -------------------------------------------------------------------------------------------- */

/* Too large a chunk of ordinary memory would wake the OOM killer instead of failing. */
static int enough_memory(const struct mem_arena *arena, uint64_t len)
{
	uint64_t left = svio__mem_available();

	if (len <= left)
		return 0;
	return svio_fail(ENOMEM, "node %d's memory needs %" PRIu64 " MiB more, %" PRIu64
			 " MiB are available in this machine: free some, or lower opts.bytes", arena->node, len >> 20, left >> 20);
}

static void bind_to_node(const struct mem_arena *arena, void *addr, uint64_t len)
{
	unsigned long mask[MEM_MAX_NODES / (8 * sizeof(unsigned long))] = { 0 };

	if (numa_available() < 0 || numa_max_node() == 0)
		return;
	mask[(size_t)arena->node / (8 * sizeof(*mask))] = 1ul << ((size_t)arena->node % (8 * sizeof(*mask)));
	/* The kernel counts one bit less than maxnode. */
	if (mbind(addr, len, MPOL_BIND, mask, MEM_MAX_NODES + 1, 0))
		svio_log_warn("cannot bind memory to node %d: %m (in a container, allow mbind): it may be far from its devices",
			      arena->node);
}

static void chunk_unmap(struct mem_arena *arena, uint64_t off, uint64_t len)
{
	/* Over the mapping, so that the addresses stay ours at every moment. */
	if (mmap(arena->base + off, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		svio_log_err("cannot withdraw %" PRIu64 " MiB of node %d: %m", len >> 20, arena->node);
	if (off < arena->fd_bytes &&
	    fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len))
		svio_log_err("cannot return %" PRIu64 " MiB of node %d: %m", len >> 20, arena->node);
}

/* Memory behind [off, off + len) of the arena: all of it there when this returns 0, none otherwise. */
static int chunk_map(struct mem_arena *arena, uint64_t off, uint64_t len)
{
	void *addr = arena->base + off;
	bool huge = arena->page_size != MEM_PAGE;
	int rc;

	rc = huge ? 0 : enough_memory(arena, len);
	if (rc)
		return rc;
	if (off + len > arena->fd_bytes) {
		if (ftruncate(arena->fd, (off_t)(off + len)))
			return svio_fail(errno, "cannot grow the memfd of node %d to %" PRIu64 " MiB: %m", arena->node,
					 (off + len) >> 20);
		arena->fd_bytes = off + len;
	}
	if (mmap(addr, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, arena->fd, (off_t)off) == MAP_FAILED) {
		/* The old mapping may be gone already: the kernel removes it first. */
		rc = huge && errno == ENOMEM ? fail_huge(arena->node, arena->page_size, len)
					     : svio_fail(errno, "cannot map %" PRIu64 " MiB for node %d: %m", len >> 20, arena->node);
		goto fail;
	}
	bind_to_node(arena, addr, len);
	if (fallocate(arena->fd, 0, (off_t)off, (off_t)len)) {
		if (huge && (errno == ENOSPC || errno == ENOMEM))
			rc = fail_huge(arena->node, arena->page_size, len);
		else
			rc = svio_fail(errno == ENOSPC ? ENOMEM : errno,
				       "node %d has no %" PRIu64 " MiB of memory left: %m: free some, or raise the memory limit of its cgroup",
				       arena->node, len >> 20);
		goto fail;
	}
	if (madvise(addr, len, MADV_DONTFORK)) {
		rc = svio_fail(errno, "cannot keep node %d's memory from child processes: %m", arena->node);
		goto fail;
	}
	/* The pages exist; this only fills the page table, which an old kernel does at the first touch. */
	if (madvise(addr, len, MADV_POPULATE_WRITE) && errno != EINVAL) {
		rc = svio_fail(errno, "cannot populate %" PRIu64 " MiB of node %d: %m", len >> 20, arena->node);
		goto fail;
	}
	return 0;
fail:
	chunk_unmap(arena, off, len);
	return rc;
}

static struct svio_mem_region chunk_region(const struct mem_arena *arena, uint64_t off, uint64_t len)
{
	return (struct svio_mem_region){
		.addr = arena->base + off, .len = len, .fd = arena->fd, .fd_offset = off,
		.page_size = arena->page_size, .numa_node = arena->node, .external = false,
	};
}

/* EAL wants the IOVA of every page; ours are the addresses (EAL's users who ask for IOVAs get what identity ioas gives). */
static int heap_add(struct mem_arena *arena, uint64_t off, uint64_t len)
{
	size_t pages = len / arena->page_size;
	rte_iova_t *iovas = calloc(pages, sizeof(*iovas));
	int rc;

	if (!iovas)
		return svio_fail(ENOMEM, "no memory for a table of %zu pages", pages);
	for (size_t i = 0; i < pages; i++)
		iovas[i] = (uintptr_t)arena->base + off + i * arena->page_size;
	rc = rte_malloc_heap_memory_add(arena->heap, arena->base + off, len, iovas, (unsigned int)pages, arena->page_size);
	free(iovas);
	if (rc)
		return svio_fail(rte_errno, "EAL does not take %" PRIu64 " MiB for heap %s: %s%s", len >> 20, arena->heap,
				 rte_strerror(rte_errno),
				 rte_errno == ENOSPC ? ": its memory segment lists are used up: start with more opts.bytes" : "");
	return 0;
}

static int chunk_add(struct mem_arena *arena, uint64_t len)
{
	uint64_t off = arena->bytes;
	struct svio_mem_region region = chunk_region(arena, off, len);
	int rc;

	rc = chunk_map(arena, off, len);
	if (rc)
		return rc;
	rc = svio__mem_region_add(&region);
	if (rc)
		goto unmap;
	rc = heap_add(arena, off, len);
	if (rc)
		goto forget;
	arena->chunks[arena->num_chunks++] = (struct mem_chunk){ off, len };
	arena->bytes += len;
	return 0;
forget:
	svio__mem_region_remove(region.addr, region.len, false);
unmap:
	chunk_unmap(arena, off, len);
	return rc;
}

/* ---- arenas -------------------------------------------------------------------------------------------- */

int svio__mem_arena_grow(struct mem_arena *arena, uint64_t need)
{
	uint64_t unit = SVIO_MAX(arena->page_size, HUGE_2M), left = arena->max - arena->bytes;
	uint64_t least, best;
	int rc;

	if (need > arena->max)
		need = arena->max; /* fails below, without overflow */
	least = SVIO_ALIGN_UP(SVIO_MAX(need + MEM_HEAP_OVERHEAD, MEM_MIN_CHUNK), unit);
	best = SVIO_MIN(SVIO_MAX(least, SVIO_ALIGN_UP(arena->bytes / 2, unit)), left);
	if (least > left)
		least = SVIO_ALIGN_UP(need + MEM_HEAP_OVERHEAD, unit);
	if (least > left)
		return svio_fail(ENOSPC, "node %d's memory is at %" PRIu64 " of at most %" PRIu64 " MiB and %" PRIu64
				 " MiB more are needed in one piece: raise opts.max_bytes",
				 arena->node, arena->bytes >> 20, arena->max >> 20, least >> 20);
	if (arena->num_chunks == MEM_MAX_CHUNKS)
		return svio_fail(ENOSPC, "node %d's memory has grown %d times: start with more opts.bytes", arena->node,
				 MEM_MAX_CHUNKS);
	rc = chunk_add(arena, best);
	if (rc && best > least)
		rc = chunk_add(arena, least);
	if (rc == 0)
		svio_log_info("node %d: %" PRIu64 " MiB of DMA memory, %s pages", arena->node, arena->bytes >> 20,
			      page_name(arena->page_size));
	return rc;
}

int svio__mem_arena_create(const struct svio_mem_opts *opts, int node, struct mem_arena **arenap)
{
	uint64_t bytes = SVIO_ALIGN_UP(opts->bytes, HUGE_2M);
	struct mem_arena *arena = calloc(1, sizeof(*arena));
	int rc;

	if (!arena)
		return svio_fail(ENOMEM, "no memory for the arena of node %d", node);
	arena->node = node;
	arena->fd = -1;
	rc = choose_pages(opts, node, bytes, &arena->page_size);
	if (rc)
		goto fail;
	bytes = SVIO_ALIGN_UP(bytes, arena->page_size);
	arena->max = SVIO_ALIGN_UP(SVIO_MAX(opts->max_bytes, bytes), SVIO_MAX(arena->page_size, HUGE_2M));
	rc = reserve(arena, opts->base + (uint64_t)node * SVIO_MEM_NODE_STRIDE);
	if (rc)
		goto fail;
	rc = open_memfd(arena);
	if (rc)
		goto fail;
	snprintf(arena->heap, sizeof(arena->heap), "svio_node%d", node);
	if (rte_malloc_heap_create(arena->heap)) {
		rc = svio_fail(rte_errno, "EAL does not create heap %s: %s", arena->heap, rte_strerror(rte_errno));
		goto fail;
	}
	arena->socket = rte_malloc_heap_get_socket(arena->heap);
	rc = chunk_add(arena, bytes);
	if (rc) {
		rte_malloc_heap_destroy(arena->heap);
		goto fail;
	}
	svio_log_info("node %d: %" PRIu64 " MiB of DMA memory at %p, %s pages", node, bytes >> 20, (void *)arena->base,
		      page_name(arena->page_size));
	*arenap = arena;
	return 0;
fail:
	if (arena->fd >= 0)
		close(arena->fd);
	if (arena->base)
		munmap(arena->base, arena->max);
	free(arena);
	return rc;
}

int svio__mem_arena_destroy(struct mem_arena *arena)
{
	struct rte_malloc_socket_stats stats;

	if (rte_malloc_get_socket_stats(arena->socket, &stats) == 0 && stats.alloc_count)
		return svio_fail(EBUSY, "node %d's memory has %u allocations (%zu bytes) left: free them before svio_mem_stop()",
				 arena->node, stats.alloc_count, stats.heap_allocsz_bytes);

	while (arena->num_chunks) {
		const struct mem_chunk *c = &arena->chunks[arena->num_chunks - 1];
		void *addr = arena->base + c->off;

		/* Takes it off the heap first: from here on nothing is allocated in it. */
		if (rte_malloc_heap_memory_remove(arena->heap, addr, c->len))
			return svio_fail(rte_errno, "EAL keeps %" PRIu64 " MiB of heap %s: %s", c->len >> 20, arena->heap,
					 rte_strerror(rte_errno));
		svio__mem_region_remove(addr, c->len, false);
		chunk_unmap(arena, c->off, c->len);
		arena->bytes = c->off;
		arena->num_chunks--;
	}
	if (rte_malloc_heap_destroy(arena->heap))
		svio_log_warn("EAL keeps the empty heap %s: %s", arena->heap, rte_strerror(rte_errno));
	close(arena->fd);
	munmap(arena->base, arena->max);
	free(arena);
	return 0;
}
