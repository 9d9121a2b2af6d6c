/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Simulated devices and DMA domains under room ioas: the calls of room vfio that it makes, replaced with ld --wrap. A domain
 * keeps an exact list of what is mapped and refuses what Linux refuses (overlap, outside the ranges, no entry left, unmap of
 * anything but one mapping). Any call that can fail can be made to.
 *
 * Included by each test of this directory: everything is static.
 */
#ifndef FAKE_H
#define FAKE_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "ioas_priv.h"
#include "unit.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

#define FAKE_MAX_MAPS 256

struct fake_dev;

struct svio_dma_domain {
	int refs;
	const struct fake_dev *home; /* began with that device: of its transport */
	struct svio_dma_info info;
	struct svio_dma_map maps[FAKE_MAX_MAPS];
	unsigned int num_maps;
};

struct fake_dev {
	struct svio_device_hot hot;
	char name[32];
	int group;
	struct svio_dma_domain *domain;
	bool lonely; /* of a transport of its own: set_domain() says -EXDEV, for others to its domain too */
	bool busy;   /* … -EBUSY */
	bool peer;   /* a vfio-user server's */
	struct svio_device_hook *hooks;
	struct svio_dma_domain own; /* where it begins */
};

static struct svio_dma_domain fake_pool[16]; /* for devices whose own is still used by others; free when refs is 0 */

/* ---- calls made to fail ------------------------------------------------------------------------------- */

static int fail_at, fail_calls;
static bool fail_hit;

static bool fails(void)
{
	if (fail_at && ++fail_calls == fail_at)
		fail_hit = true;
	return fail_at && fail_calls == fail_at;
}

static inline void fail_nth(int n)
{
	fail_at = n;
	fail_calls = 0;
	fail_hit = false;
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? (errno = ENOMEM, (void *)NULL) : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	return fails() ? (errno = ENOMEM, (void *)NULL) : __real_reallocarray(p, n, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return fails() ? (errno = ENOMEM, (void *)NULL) : __real_aligned_alloc(align, size);
}

/* ---- room vfio ------------------------------------------------------------------------------------------ */

static inline struct fake_dev *fake(const struct svio_device *dev)
{
	return (struct fake_dev *)(uintptr_t)dev;
}

static inline struct svio_device *DEV(struct fake_dev *d)
{
	return (struct svio_device *)d;
}

/* IOVA ranges as on a PC with VT-d of that many bits: everything but the interrupt window. */
static inline void fake_init(struct fake_dev *d, const char *name, unsigned int bits)
{
	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->own.refs = 1;
	d->own.home = d;
	d->own.info = (struct svio_dma_info){
		.pgsizes = ~UINT64_C(0xfff), .max_mappings = 65535, .num_ranges = 2,
		.ranges = { { 0, 0xfedfffff }, { 0xfef00000, bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1 } },
	};
	d->domain = &d->own;
	d->group = -1 - (int)name[0];
}

const char *__wrap_svio_device_name(const struct svio_device *dev);
void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info);
struct svio_dma_domain *__wrap_svio_device_domain(struct svio_device *dev);
void __wrap_svio_dma_domain_get(struct svio_dma_domain *domain);
void __wrap_svio_dma_domain_put(struct svio_dma_domain *domain);
int __wrap_svio_device_set_domain(struct svio_device *dev, struct svio_dma_domain *domain);
int __wrap_svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info);
int __wrap_svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map);
int __wrap_svio_dma_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len);
void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook);
void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook);
bool __wrap_svio_bar_revoked(const struct svio_bar *bar);

const char *__wrap_svio_device_name(const struct svio_device *dev)
{
	return fake(dev)->name;
}

void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	*info = (struct svio_device_info){ .iommu_group = fake(dev)->group,
					   .transport = fake(dev)->peer ? SVIO_TRANSPORT_USER : SVIO_TRANSPORT_GROUP };
}

struct svio_dma_domain *__wrap_svio_device_domain(struct svio_device *dev)
{
	return fake(dev)->domain;
}

void __wrap_svio_dma_domain_get(struct svio_dma_domain *domain)
{
	domain->refs++;
}

void __wrap_svio_dma_domain_put(struct svio_dma_domain *domain)
{
	domain->refs--;
}

int __wrap_svio_device_set_domain(struct svio_device *dev, struct svio_dma_domain *domain)
{
	struct fake_dev *d = fake(dev);

	if (fails())
		return svio_fail(EIO, "simulated failure");
	if (d->lonely || (domain && domain->home != d && domain->home->lonely))
		return svio_fail(EXDEV, "simulated: another transport");
	if (d->busy)
		return svio_fail(EBUSY, "simulated: BARs are mapped");
	if (!domain && d->own.refs == 0) {
		domain = &d->own;
	} else if (!domain) {
		for (domain = fake_pool; domain->refs; domain++)
			if (domain == &fake_pool[SVIO_ARRAY_SIZE(fake_pool) - 1])
				abort();
		*domain = (struct svio_dma_domain){ .home = d, .info = d->own.info };
	}
	d->domain->refs--;
	d->domain = domain;
	domain->refs++;
	return 0;
}

static inline uint64_t fake_left(const struct svio_dma_domain *domain)
{
	return domain->info.max_mappings - domain->num_maps;
}

int __wrap_svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info)
{
	if (fails())
		return svio_fail(EIO, "simulated failure");
	*info = domain->info;
	info->max_mappings = fake_left(domain);
	return 0;
}

int __wrap_svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map)
{
	bool inside = false;

	if (fails())
		return svio_fail(EIO, "simulated failure");
	for (uint32_t i = 0; i < domain->info.num_ranges; i++)
		inside |= map->iova >= domain->info.ranges[i].start && map->iova + (map->len - 1) <= domain->info.ranges[i].last;
	if (!inside || map->iova + (map->len - 1) < map->iova || map->iova % 4096 || map->len % 4096 || !map->len)
		return svio_fail(EINVAL, "simulated: outside the ranges");
	for (unsigned int i = 0; i < domain->num_maps; i++)
		if (map->iova < domain->maps[i].iova + domain->maps[i].len && domain->maps[i].iova < map->iova + map->len)
			return svio_fail(EEXIST, "simulated: overlap");
	if (!fake_left(domain) || domain->num_maps == FAKE_MAX_MAPS)
		return svio_fail(ENOSPC, "simulated: no entry left");
	domain->maps[domain->num_maps++] = *map;
	return 0;
}

int __wrap_svio_dma_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len)
{
	for (unsigned int i = 0; i < domain->num_maps; i++)
		if (domain->maps[i].iova == iova && domain->maps[i].len == len) {
			domain->maps[i] = domain->maps[--domain->num_maps];
			return 0;
		}
	CU_FAIL("unmap of something that is not mapped");
	return svio_fail(ENOENT, "simulated: nothing there");
}

void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	hook->next = fake(dev)->hooks;
	fake(dev)->hooks = hook;
}

void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct svio_device_hook **p;

	for (p = &fake(dev)->hooks; *p && *p != hook; p = &(*p)->next)
		;
	CU_ASSERT_PTR_NOT_NULL(*p);
	if (*p)
		*p = hook->next;
}

static bool bar_is_revoked;

bool __wrap_svio_bar_revoked(const struct svio_bar *bar)
{
	(void)bar;
	return bar_is_revoked;
}

/* The mapping at that virtual address, or NULL. */
static inline const struct svio_dma_map *fake_find(const struct fake_dev *d, const void *va)
{
	for (unsigned int i = 0; i < d->domain->num_maps; i++)
		if (d->domain->maps[i].vaddr == va)
			return &d->domain->maps[i];
	return NULL;
}

/* Alone in its domain, nothing mapped, no hook: as it was made. */
static inline bool fake_is_clean(const struct fake_dev *d)
{
	return d->domain->refs == 1 && d->domain->num_maps == 0 && !d->hooks;
}

/* Addresses without memory: nothing here is accessed. `align` is a power of two. */
static inline uint8_t *addresses(uint64_t len, uint64_t align)
{
	uint8_t *p = mmap(NULL, len + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)SVIO_ALIGN_UP((uintptr_t)p, (uintptr_t)align);

	if (p == MAP_FAILED)
		abort();
	if (start > p)
		munmap(p, (size_t)(start - p));
	if (start + len < p + len + align)
		munmap(start + len, (size_t)(p + align - start));
	return start;
}

static inline struct svio_ioas *make_ioas(uint32_t flags)
{
	const struct svio_ioas_opts opts = { .size = sizeof(opts), .flags = flags };
	struct svio_ioas *ioas = NULL;

	CU_ASSERT_EQUAL_FATAL(svio_ioas_create(&opts, &ioas), 0);
	return ioas;
}

#endif
