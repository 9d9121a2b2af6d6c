/* SPDX-License-Identifier: BSD-3-Clause */
/* Create, destroy, map, unmap; and the memory of room mem, which comes by itself. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "ioas_priv.h"

/* ---- sorted lists ---------------------------------------------------------------------------------------- */

size_t svio__ioas_index_find_va(const struct ioas_index *ix, uint64_t va)
{
	size_t lo = 0, hi = ix->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (ioas_va(ix->v[mid]) + ioas_len(ix->v[mid]) <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

size_t svio__ioas_index_find_iova(const struct ioas_index *ix, uint64_t iova)
{
	size_t lo = 0, hi = ix->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		/* Last bytes, since an IOVA range may end at 2^64 - 1. */
		if (ix->v[mid]->iova + (ioas_len(ix->v[mid]) - 1) < iova)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int svio__ioas_index_reserve(struct ioas_index *ix, size_t n)
{
	struct ioas_mapping **v;
	size_t cap = ix->cap ? ix->cap : 16;

	while (cap < n)
		cap *= 2;
	if (cap == ix->cap)
		return 0;
	v = reallocarray(ix->v, cap, sizeof(*v));
	if (!v)
		return svio_fail(ENOMEM, "no memory for a list of %zu mappings", cap);
	ix->v = v;
	ix->cap = cap;
	return 0;
}

void svio__ioas_index_insert(struct ioas_index *ix, size_t at, struct ioas_mapping *m)
{
	memmove(&ix->v[at + 1], &ix->v[at], (ix->n - at) * sizeof(struct ioas_mapping *));
	ix->v[at] = m;
	ix->n++;
}

void svio__ioas_index_remove(struct ioas_index *ix, size_t at)
{
	ix->n--;
	memmove(&ix->v[at], &ix->v[at + 1], (ix->n - at) * sizeof(struct ioas_mapping *));
}

/* ---- mappings -------------------------------------------------------------------------------------------- */

static struct ioas_mapping *mapping_get(struct svio_ioas *ioas)
{
	struct ioas_mapping *m = ioas->free_mappings;

	if (m) {
		ioas->free_mappings = m->next_free;
		return m;
	}
	m = calloc(1, sizeof(*m));
	if (m) {
		m->next_all = ioas->all_mappings;
		ioas->all_mappings = m;
	}
	return m;
}

static void mapping_put(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	m->next_free = ioas->free_mappings;
	ioas->free_mappings = m;
}

void svio__ioas_settle(struct svio_ioas *ioas, struct ioas_mapping *m, uint64_t iova)
{
	m->iova = iova;
	svio__ioas_index_insert(&ioas->by_iova, svio__ioas_index_find_iova(&ioas->by_iova, iova), m);
	svio__ioas_mapping_write(m, ioas_va(m), ioas_len(m), iova - ioas_va(m));
	if (!m->withdrawn)
		svio__ioas_table_set(ioas, m);
}

void svio__ioas_unsettle(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	if (!m->withdrawn)
		svio__ioas_table_clear(ioas, m);
	svio__ioas_index_remove(&ioas->by_iova, svio__ioas_index_find_iova(&ioas->by_iova, m->iova));
	m->iova = SVIO_IOVA_BAD;
}

int svio__ioas_add(struct svio_ioas *ioas, const struct ioas_request *req, struct ioas_mapping **mp)
{
	uint64_t iova = SVIO_IOVA_BAD;
	struct ioas_mapping *m;
	size_t at;
	int rc;

	if (req->len == 0 || (req->va | req->len) % IOAS_PAGE || req->va + req->len < req->va ||
	    (req->fd >= 0 && req->fd_offset % IOAS_PAGE))
		return svio_fail(EINVAL, "memory 0x%" PRIx64 "+0x%" PRIx64
				 ": address, length and file offset must be multiples of 4096, and not 0", req->va, req->len);
	if ((req->va + req->len - 1) >> IOAS_VA_BITS)
		return svio_fail(EINVAL, "memory 0x%" PRIx64 "+0x%" PRIx64 " is above %u bits of address", req->va, req->len,
				 IOAS_VA_BITS);
	if (req->prot == 0 || req->prot & ~(uint32_t)(SVIO_DMA_READ | SVIO_DMA_WRITE))
		return svio_fail(EINVAL, "prot 0x%x: SVIO_DMA_READ, SVIO_DMA_WRITE, or both", req->prot);

	at = svio__ioas_index_find_va(&ioas->by_va, req->va);
	if (at < ioas->by_va.n && ioas_va(ioas->by_va.v[at]) < req->va + req->len)
		return svio_fail(EEXIST, "memory 0x%" PRIx64 "+0x%" PRIx64 " overlaps 0x%" PRIx64 "+0x%" PRIx64
				 ", which is mapped already: unmap that first", req->va, req->len, ioas_va(ioas->by_va.v[at]),
				 ioas_len(ioas->by_va.v[at]));

	/* Whatever can run out does so before a device is asked, so that only devices need unwinding. */
	rc = svio__ioas_index_reserve(&ioas->by_va, ioas->by_va.n + 1);
	if (rc == 0)
		rc = svio__ioas_index_reserve(&ioas->by_iova, ioas->by_va.n + 1);
	if (rc == 0)
		rc = svio__ioas_table_prepare(ioas, req->va, req->len);
	if (rc == 0 && (ioas->settled || req->want_iova))
		rc = svio__ioas_place(ioas, NULL, req->va, req->len, &iova);
	if (rc)
		return rc;
	m = mapping_get(ioas);
	if (!m)
		return svio_fail(ENOMEM, "no memory for one more mapping");
	svio__ioas_mapping_write(m, req->va, req->len, iova - req->va);
	m->iova = SVIO_IOVA_BAD;
	m->kind = req->kind;
	m->prot = req->prot;
	m->fd = req->fd;
	m->fd_offset = req->fd_offset;
	m->withdrawn = false;

	svio__ioas_tell_mapping(ioas, m, iova);
	rc = svio__ioas_dma_map(ioas, m, iova);
	if (rc) {
		svio__ioas_tell_unmapped(ioas, m, iova);
		mapping_put(ioas, m);
		return rc;
	}
	svio__ioas_index_insert(&ioas->by_va, at, m);
	if (iova != SVIO_IOVA_BAD)
		svio__ioas_settle(ioas, m, iova);
	*mp = m;
	return 0;
}

void svio__ioas_remove(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	uint64_t iova = m->iova;

	/* Readers first: from here on nobody learns the IOVA. */
	if (iova != SVIO_IOVA_BAD) {
		svio__ioas_unsettle(ioas, m);
		m->iova = iova;
		if (!m->withdrawn)
			svio__ioas_dma_unmap(ioas, m);
		svio__ioas_tell_unmapped(ioas, m, iova);
	}
	svio__ioas_index_remove(&ioas->by_va, svio__ioas_index_find_va(&ioas->by_va, ioas_va(m)));
	mapping_put(ioas, m);
}

struct ioas_mapping *svio__ioas_find(struct svio_ioas *ioas, uint64_t va, uint64_t len, enum ioas_kind kind)
{
	size_t at = svio__ioas_index_find_va(&ioas->by_va, va);
	struct ioas_mapping *m = at < ioas->by_va.n ? ioas->by_va.v[at] : NULL;

	return m && ioas_va(m) == va && ioas_len(m) == len && m->kind == kind ? m : NULL;
}

int svio_ioas_map(struct svio_ioas *ioas, void *ptr, size_t len, uint32_t prot, int fd, uint64_t fd_offset, uint64_t *iova)
{
	const struct ioas_request req = {
		.va = (uintptr_t)ptr, .len = len, .kind = IOAS_USER, .prot = prot,
		.fd = fd, .fd_offset = fd_offset, .want_iova = iova != NULL,
	};
	struct ioas_mapping *m;
	int rc;

	pthread_mutex_lock(&ioas->lock);
	rc = svio__ioas_add(ioas, &req, &m);
	if (rc == 0 && madvise(ptr, len, MADV_DONTFORK)) {
		rc = svio_fail(errno == ENOMEM ? EFAULT : errno, "memory %p+0x%zx is not mapped throughout", ptr, len);
		madvise(ptr, len, MADV_DOFORK);
		svio__ioas_remove(ioas, m);
	}
	if (rc == 0 && iova)
		*iova = m->iova;
	pthread_mutex_unlock(&ioas->lock);
	return rc;
}

int svio_ioas_unmap(struct svio_ioas *ioas, void *ptr, size_t len)
{
	struct ioas_mapping *m;
	uint64_t va = (uintptr_t)ptr;
	size_t at;
	int rc = 0;

	pthread_mutex_lock(&ioas->lock);
	m = svio__ioas_find(ioas, va, len, IOAS_USER);
	at = svio__ioas_index_find_va(&ioas->by_va, va);
	if (m)
		svio__ioas_remove(ioas, m);
	else if (at < ioas->by_va.n && ioas_va(ioas->by_va.v[at]) < va + SVIO_MAX(len, (size_t)1))
		rc = svio_fail(EINVAL, "memory %p+0x%zx is not what svio_ioas_map() mapped (0x%" PRIx64 "+0x%" PRIx64
			       "): unmap exactly that", ptr, len, ioas_va(ioas->by_va.v[at]), ioas_len(ioas->by_va.v[at]));
	else
		rc = svio_fail(ENOENT, "memory %p+0x%zx is not mapped", ptr, len);
	pthread_mutex_unlock(&ioas->lock);
	return rc;
}

/* ---- memory of room mem ---------------------------------------------------------------------------------- */

static int mem_added(void *ctx, const struct svio_mem_region *region)
{
	struct svio_ioas *ioas = ctx;
	const struct ioas_request req = {
		.va = (uintptr_t)region->addr, .len = region->len, .kind = IOAS_MEM,
		.prot = SVIO_DMA_READ | SVIO_DMA_WRITE, .fd = region->fd, .fd_offset = region->fd_offset,
	};
	struct ioas_mapping *m;
	int rc;

	pthread_mutex_lock(&ioas->lock);
	rc = svio__ioas_add(ioas, &req, &m);
	pthread_mutex_unlock(&ioas->lock);
	return rc;
}

static void mem_removed(void *ctx, const struct svio_mem_region *region)
{
	struct svio_ioas *ioas = ctx;
	struct ioas_mapping *m;

	pthread_mutex_lock(&ioas->lock);
	m = svio__ioas_find(ioas, (uintptr_t)region->addr, region->len, IOAS_MEM);
	if (m)
		svio__ioas_remove(ioas, m);
	pthread_mutex_unlock(&ioas->lock);
}

/* ---- create and destroy ---------------------------------------------------------------------------------- */

static void ioas_free(struct svio_ioas *ioas)
{
	struct ioas_mapping *m;

	svio__ioas_table_free(ioas);
	while ((m = ioas->all_mappings)) {
		ioas->all_mappings = m->next_all;
		free(m);
	}
	free(ioas->by_va.v);
	free(ioas->by_iova.v);
	pthread_mutex_destroy(&ioas->lock);
	free(ioas);
}

int svio_ioas_create(const struct svio_ioas_opts *opts, struct svio_ioas **ioasp)
{
	struct svio_ioas *ioas;
	uint32_t flags = 0;
	int rc;

	if (opts) {
		if (opts->size < sizeof(*opts))
			return svio_fail(EINVAL, "opts.size is %zu: set it to sizeof(struct svio_ioas_opts)", opts->size);
		flags = opts->flags;
	}
	if (flags & ~(uint32_t)(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY))
		return svio_fail(EINVAL, "opts.flags 0x%x has bits that are not in enum svio_ioas_flags", flags);
	ioas = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*ioas), SVIO_CACHELINE));
	if (!ioas)
		return svio_fail(ENOMEM, "no memory for an I/O address space");
	memset(ioas, 0, sizeof(*ioas));
	svio__ioas_table_init(ioas);
	pthread_mutex_init(&ioas->lock, NULL);
	ioas->flags = flags;
	ioas->listener = (struct svio_mem_listener){ .added = mem_added, .removed = mem_removed, .ctx = ioas };
	if (!(flags & SVIO_IOAS_NO_AUTO)) {
		rc = svio_mem_listener_add(&ioas->listener);
		if (rc) {
			ioas_free(ioas);
			return rc;
		}
	}
	*ioasp = ioas;
	return 0;
}

int svio_ioas_destroy(struct svio_ioas *ioas)
{
	int rc = 0;

	if (!ioas)
		return 0;
	pthread_mutex_lock(&ioas->lock);
	if (ioas->devices)
		rc = svio_fail(EBUSY, "%s is attached to this address space: detach it first", svio_device_name(ioas->devices->dev));
	pthread_mutex_unlock(&ioas->lock);
	if (rc)
		return rc;
	while (ioas->bars)
		svio_ioas_unmap_bar(ioas, ioas->bars->bar);
	if (!(ioas->flags & SVIO_IOAS_NO_AUTO))
		svio_mem_listener_remove(&ioas->listener);
	ioas_free(ioas);
	return 0;
}

void *svio_ioas_va(struct svio_ioas *ioas, uint64_t iova, uint64_t len)
{
	void *ptr = NULL;
	size_t at;

	pthread_mutex_lock(&ioas->lock);
	at = svio__ioas_index_find_iova(&ioas->by_iova, iova);
	if (at < ioas->by_iova.n) {
		const struct ioas_mapping *m = ioas->by_iova.v[at];
		uint64_t off = iova - m->iova;

		if (iova >= m->iova && off < ioas_len(m) && len <= ioas_len(m) - off)
			ptr = (void *)(uintptr_t)(ioas_va(m) + off);
	}
	pthread_mutex_unlock(&ioas->lock);
	return ptr;
}

void svio_ioas_get_stats(struct svio_ioas *ioas, struct svio_ioas_stats *stats)
{
	*stats = (struct svio_ioas_stats){ .entries_left = UINT64_MAX, .identity = true };
	pthread_mutex_lock(&ioas->lock);
	stats->mappings = ioas->by_va.n;
	for (size_t i = 0; i < ioas->by_va.n; i++) {
		const struct ioas_mapping *m = ioas->by_va.v[i];

		stats->mapped_bytes += ioas_len(m);
		if (m->iova != SVIO_IOVA_BAD && m->iova != ioas_va(m))
			stats->identity = false;
	}
	for (const struct ioas_device *a = ioas->devices; a; a = a->next)
		stats->devices++;
	for (const struct ioas_domain *d = ioas->domains; d; d = d->next) {
		stats->domains++;
		stats->entries_left = SVIO_MIN(stats->entries_left, d->left);
	}
	pthread_mutex_unlock(&ioas->lock);
}
