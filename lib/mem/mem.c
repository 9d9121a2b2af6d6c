/* SPDX-License-Identifier: BSD-3-Clause */
/* Start, stop, allocate: the table of arenas and the room's lock. */
#include <inttypes.h>
#include <numa.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <rte_malloc.h>
#include "mem_priv.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int references;
static struct svio_mem_opts config;
/* Published with release, so that svio_mem_alloc() finds its arena without the lock. */
static struct mem_arena *_Atomic arenas[MEM_MAX_NODES];

void svio__mem_lock(void)
{
	pthread_mutex_lock(&lock);
}

void svio__mem_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

bool svio__mem_in_arena(const void *addr, size_t len)
{
	for (int i = 0; i < MEM_MAX_NODES; i++) {
		const struct mem_arena *a = atomic_load_explicit(&arenas[i], memory_order_relaxed);

		if (a && (uintptr_t)addr < (uintptr_t)a->base + a->max && (uintptr_t)a->base < (uintptr_t)addr + len)
			return true;
	}
	return false;
}

/* A node that this process may have memory of: the one asked for, else the caller's, else the first. */
static int resolve_node(int node)
{
	struct bitmask *allowed;
	unsigned int cpu, here;
	int n;

	if (numa_available() < 0)
		return 0;
	if (node < 0)
		node = getcpu(&cpu, &here) == 0 ? (int)here : 0;
	allowed = numa_get_mems_allowed();
	if (!allowed)
		return node < MEM_MAX_NODES ? node : 0;
	if (node >= MEM_MAX_NODES || !numa_bitmask_isbitset(allowed, (unsigned int)node)) {
		for (n = 0; n < MEM_MAX_NODES; n++)
			if (numa_bitmask_isbitset(allowed, (unsigned int)n))
				break;
		svio_log_debug("node %d has no memory for this process, using node %d", node, n);
		node = n < MEM_MAX_NODES ? n : 0;
	}
	numa_bitmask_free(allowed);
	return node;
}

/* The arena of a node, made when it is not there yet. */
static int get_arena(int numa_node, struct mem_arena **arenap)
{
	int node = -1, rc = 0;
	struct mem_arena *a = NULL;

	/* The common case makes no system call. */
	if (numa_node >= 0 && numa_node < MEM_MAX_NODES)
		a = atomic_load_explicit(&arenas[numa_node], memory_order_acquire);
	if (!a) {
		node = resolve_node(numa_node);
		a = atomic_load_explicit(&arenas[node], memory_order_acquire);
	}
	if (!a) {
		svio__mem_lock();
		a = atomic_load_explicit(&arenas[node], memory_order_relaxed);
		if (!references)
			rc = svio_fail(EINVAL, "DMA memory is not started: call svio_mem_start() first");
		else if (!a)
			rc = svio__mem_arena_create(&config, node, &a);
		if (rc == 0)
			atomic_store_explicit(&arenas[node], a, memory_order_release);
		svio__mem_unlock();
	}
	*arenap = a;
	return rc;
}

int svio_mem_start(const struct svio_mem_opts *opts)
{
	struct svio_mem_opts o = { 0 };
	struct mem_arena *a;
	int rc = 0;

	if (opts) {
		if (opts->size < offsetof(struct svio_mem_opts, max_bytes))
			return svio_fail(EINVAL, "opts.size is %zu: set it to sizeof(struct svio_mem_opts)", opts->size);
		memcpy(&o, opts, SVIO_MIN(opts->size, sizeof(o)));
	}
	if (!o.bytes)
		o.bytes = MEM_MIN_CHUNK;
	if (!o.max_bytes)
		o.max_bytes = SVIO_MAX(o.bytes, UINT64_C(64) << 30);
	if (!o.base)
		o.base = SVIO_MEM_BASE;
	if (o.bytes > o.max_bytes || o.max_bytes > SVIO_MEM_NODE_STRIDE)
		return svio_fail(EINVAL, "opts.bytes %" PRIu64 " and opts.max_bytes %" PRIu64
				 ": the first must not exceed the second, which must not exceed %" PRIu64,
				 o.bytes, o.max_bytes, SVIO_MEM_NODE_STRIDE);
	if (o.base % (UINT64_C(1) << 30))
		return svio_fail(EINVAL, "opts.base 0x%" PRIx64 " is not a multiple of 1 GiB", o.base);
	if ((unsigned int)o.huge > SVIO_MEM_HUGE_1G)
		return svio_fail(EINVAL, "opts.huge %d is not an enum svio_mem_huge", (int)o.huge);

	svio__mem_lock();
	if (references) {
		references++;
		svio__mem_unlock();
		return 0;
	}
	rc = svio__mem_eal_start(&o);
	if (rc == 0) {
		config = o;
		config.lcores = NULL; /* the caller's strings; EAL has its own */
		config.eal_args = NULL;
		references = 1;
	}
	svio__mem_unlock();
	if (rc)
		return rc;

	/* Shortages and taken addresses shall be found at start, not at the first allocation. */
	rc = get_arena(-1, &a);
	if (rc) {
		svio__mem_lock();
		references--;
		svio__mem_unlock();
	}
	return rc;
}

void svio_mem_stop(void)
{
	svio__mem_lock();
	if (references && --references == 0)
		for (int i = 0; i < MEM_MAX_NODES; i++) {
			struct mem_arena *a = atomic_load_explicit(&arenas[i], memory_order_relaxed);

			if (!a)
				continue;
			if (svio__mem_arena_destroy(a) == 0)
				atomic_store_explicit(&arenas[i], NULL, memory_order_release);
			else
				svio_log_warn("%s; it stays", svio_last_error());
		}
	svio__mem_unlock();
}

void svio_mem_get_stats(struct svio_mem_stats *stats)
{
	struct rte_malloc_socket_stats heap;

	memset(stats, 0, sizeof(*stats));
	svio__mem_lock();
	for (int i = 0; i < MEM_MAX_NODES; i++) {
		const struct mem_arena *a = atomic_load_explicit(&arenas[i], memory_order_relaxed);

		if (!a)
			continue;
		stats->arenas++;
		stats->arena_bytes += a->bytes;
		/* The smallest there is, when nodes differ. */
		if (!stats->page_size || a->page_size < stats->page_size)
			stats->page_size = a->page_size;
		if (rte_malloc_get_socket_stats(a->socket, &heap) == 0)
			stats->used_bytes += heap.heap_allocsz_bytes;
	}
	svio__mem_region_count(&stats->external_bytes, &stats->external_regions);
	svio__mem_unlock();
}

void *svio_mem_alloc(size_t len, size_t align, int numa_node)
{
	struct mem_arena *a;
	void *p;

	if (len == 0 || (align & (align - 1)) || align > UINT64_C(1) << 30 || len > SVIO_MEM_NODE_STRIDE) {
		svio_fail(EINVAL, "cannot allocate %zu bytes aligned to %zu: not 0, at most 1 TiB; the alignment a power of two, at most 1 GiB", len,
			  align);
		return NULL;
	}
	if (get_arena(numa_node, &a))
		return NULL;
	p = rte_zmalloc_socket("svio", len, (unsigned int)align, a->socket);
	if (svio_likely(p != NULL))
		return p;

	svio__mem_lock();
	/* Another thread may have grown it meanwhile. */
	p = rte_zmalloc_socket("svio", len, (unsigned int)align, a->socket);
	if (!p && svio__mem_arena_grow(a, len + align) == 0) {
		p = rte_zmalloc_socket("svio", len, (unsigned int)align, a->socket);
		if (!p)
			svio_fail(ENOMEM, "node %d's memory grew to %" PRIu64 " MiB and still has no room for %zu bytes", a->node,
				  a->bytes >> 20, len);
	}
	svio__mem_unlock();
	return p;
}

void svio_mem_free(void *ptr)
{
	rte_free(ptr);
}

int svio_mem_socket(int numa_node)
{
	struct mem_arena *a;
	int rc = get_arena(numa_node, &a);

	return rc ? rc : a->socket;
}

int svio_mem_reserve(size_t len, int numa_node)
{
	struct rte_malloc_socket_stats heap;
	struct mem_arena *a;
	int rc;

	if (len == 0 || len > SVIO_MEM_NODE_STRIDE)
		return svio_fail(EINVAL, "cannot reserve %zu bytes", len);
	rc = get_arena(numa_node, &a);
	if (rc)
		return rc;
	svio__mem_lock();
	if (rte_malloc_get_socket_stats(a->socket, &heap) || heap.greatest_free_size < len + MEM_HEAP_OVERHEAD)
		rc = svio__mem_arena_grow(a, len);
	svio__mem_unlock();
	return rc;
}
