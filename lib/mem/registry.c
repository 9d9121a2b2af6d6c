/* SPDX-License-Identifier: BSD-3-Clause */
/* What memory is known, sorted by address, and the listeners that are told of it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "mem_priv.h"

static struct svio_mem_region *regions;
static size_t num_regions, cap_regions;
static struct svio_mem_listener *listeners;

/* Index of the first region that ends behind addr. */
static size_t region_find(uintptr_t addr)
{
	size_t lo = 0, hi = num_regions;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if ((uintptr_t)regions[mid].addr + regions[mid].len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* 0, or -EEXIST, explained, when something in [addr, addr + len) is known already. */
static int region_free(const void *addr, size_t len)
{
	size_t at = region_find((uintptr_t)addr);

	if (at == num_regions || (uintptr_t)regions[at].addr >= (uintptr_t)addr + len)
		return 0;
	return svio_fail(EEXIST, "memory %p+0x%zx overlaps %p+0x%zx, which is %s already: unregister that first", addr, len,
			 regions[at].addr, regions[at].len, regions[at].external ? "registered" : "svio's own");
}

int svio__mem_region_add(const struct svio_mem_region *region)
{
	size_t at = region_find((uintptr_t)region->addr);
	struct svio_mem_listener *l, *undo;
	int rc = region_free(region->addr, region->len);

	if (rc)
		return rc;
	if (num_regions == cap_regions) {
		size_t cap = cap_regions ? 2 * cap_regions : 16;
		struct svio_mem_region *grown = reallocarray(regions, cap, sizeof(*grown));

		if (!grown)
			return svio_fail(ENOMEM, "no memory for a list of %zu regions", cap);
		regions = grown;
		cap_regions = cap;
	}

	for (l = listeners; l; l = l->next) {
		rc = l->added(l->ctx, region);
		if (rc) {
			for (undo = listeners; undo != l; undo = undo->next)
				undo->removed(undo->ctx, region);
			return rc < 0 ? rc : -rc;
		}
	}
	memmove(&regions[at + 1], &regions[at], (num_regions - at) * sizeof(*regions));
	regions[at] = *region;
	num_regions++;
	return 0;
}

int svio__mem_region_remove(void *addr, size_t len, bool external)
{
	size_t at = region_find((uintptr_t)addr);
	struct svio_mem_region region;

	if (at == num_regions || regions[at].addr != addr || regions[at].len != len || regions[at].external != external)
		return svio_fail(ENOENT, "memory %p+0x%zx is not registered as such: unregister exactly what was registered", addr,
				 len);
	region = regions[at];
	num_regions--;
	memmove(&regions[at], &regions[at + 1], (num_regions - at) * sizeof(*regions));
	for (struct svio_mem_listener *l = listeners; l; l = l->next)
		l->removed(l->ctx, &region);
	if (num_regions == 0) {
		free(regions);
		regions = NULL;
		cap_regions = 0;
	}
	return 0;
}

void svio__mem_region_count(uint64_t *external_bytes, unsigned int *external_regions)
{
	*external_bytes = 0;
	*external_regions = 0;
	for (size_t i = 0; i < num_regions; i++)
		if (regions[i].external) {
			*external_bytes += regions[i].len;
			++*external_regions;
		}
}

/* ---- public: registration ---------------------------------------------------------------------------- */

int svio_mem_register(void *ptr, size_t len, int fd, uint64_t fd_offset)
{
	struct svio_mem_region region = {
		.addr = ptr, .len = len, .fd = fd, .fd_offset = fd_offset,
		.page_size = MEM_PAGE, .numa_node = -1, .external = true,
	};
	int rc;

	if (!ptr || len == 0 || (uintptr_t)ptr % MEM_PAGE || len % MEM_PAGE || (uintptr_t)ptr + len < (uintptr_t)ptr ||
	    fd < -1 || (fd >= 0 && fd_offset % MEM_PAGE))
		return svio_fail(EINVAL, "memory %p+0x%zx: address, length and file offset must be multiples of 4096, and not 0", ptr,
				 len);

	svio__mem_lock();
	if (svio__mem_in_arena(ptr, len)) {
		rc = svio_fail(EEXIST, "memory %p+0x%zx belongs to an svio arena: it is registered by itself", ptr, len);
		goto out;
	}
	rc = region_free(ptr, len);
	if (rc)
		goto out;
	/*
	 * Pinned pages and copy-on-write do not go together: after a fork(), a write by the parent would move its page away
	 * from the one that the device has. So children do not get it. This also finds out whether all of it is mapped.
	 */
	if (madvise(ptr, len, MADV_DONTFORK)) {
		rc = svio_fail(errno == ENOMEM ? EFAULT : errno,
			       "memory %p+0x%zx is not mapped throughout: map it before registering it", ptr, len);
		madvise(ptr, len, MADV_DOFORK);
		goto out;
	}
	rc = svio__mem_region_add(&region);
	if (rc)
		madvise(ptr, len, MADV_DOFORK);
out:
	svio__mem_unlock();
	return rc;
}

int svio_mem_unregister(void *ptr, size_t len)
{
	int rc;

	svio__mem_lock();
	rc = svio__mem_region_remove(ptr, len, true);
	if (rc == 0)
		madvise(ptr, len, MADV_DOFORK);
	svio__mem_unlock();
	return rc;
}

/* ---- public: listeners ------------------------------------------------------------------------------- */

int svio_mem_listener_add(struct svio_mem_listener *listener)
{
	int rc = 0;

	svio__mem_lock();
	for (size_t i = 0; i < num_regions; i++) {
		rc = listener->added(listener->ctx, &regions[i]);
		if (rc) {
			while (i-- > 0)
				listener->removed(listener->ctx, &regions[i]);
			rc = rc < 0 ? rc : -rc;
			break;
		}
	}
	if (rc == 0) {
		listener->next = listeners;
		listeners = listener;
	}
	svio__mem_unlock();
	return rc;
}

void svio_mem_listener_remove(struct svio_mem_listener *listener)
{
	struct svio_mem_listener **p;

	svio__mem_lock();
	for (p = &listeners; *p && *p != listener; p = &(*p)->next)
		;
	if (*p) {
		*p = listener->next;
		listener->next = NULL;
		for (size_t i = num_regions; i-- > 0;)
			listener->removed(listener->ctx, &regions[i]);
	}
	svio__mem_unlock();
}
