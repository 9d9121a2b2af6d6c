/* SPDX-License-Identifier: BSD-3-Clause */
/* DMA domains, whatever they are made of: references, what they can map, and errors with a remedy. */
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "user_conn.h"

/* Linux keeps one bit per page of the CPU (vfio_iommu_type1.c), which is the smallest that x86 has. */
#define DIRTY_PAGE UINT64_C(4096)

struct svio_dma_domain *svio__domain_new(const struct svio__transport_ops *ops)
{
	struct svio_dma_domain *domain = calloc(1, sizeof(*domain));

	if (!domain)
		return NULL;
	domain->ops = ops;
	domain->fd = -1;
	atomic_init(&domain->refs, 1);
	return domain;
}

struct svio_dma_domain *svio_device_domain(struct svio_device *dev)
{
	return dev->domain;
}

void svio_dma_domain_get(struct svio_dma_domain *domain)
{
	atomic_fetch_add_explicit(&domain->refs, 1, memory_order_relaxed);
}

void svio_dma_domain_put(struct svio_dma_domain *domain)
{
	if (domain && atomic_fetch_sub_explicit(&domain->refs, 1, memory_order_acq_rel) == 1)
		domain->ops->domain_free(domain);
}

int svio_device_set_domain(struct svio_device *dev, struct svio_dma_domain *domain)
{
	if (domain == dev->domain)
		return 0;
	if (!dev->ops->set_domain || (domain && domain->ops != dev->ops))
		return svio_fail(
			EXDEV,
			"%s: cannot share the address space of a device that is reached differently",
			dev->name);
	return dev->ops->set_domain(dev, domain);
}

/* ---- what can be mapped ----------------------------------------------------------------------------- */

/* Linux counts pinned pages against RLIMIT_MEMLOCK unless the task has CAP_IPC_LOCK (vfio_iommu_type1.c). */
static bool have_ipc_lock(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { 0 };

	if (syscall(SYS_capget, &h, d) != 0)
		return false;
	return d[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

static int range_cmp(const void *a, const void *b)
{
	const struct svio_iova_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int parse_ranges(struct svio_dma_info *info, const void *reply, size_t cap, size_t room)
{
	struct vfio_iommu_type1_info_cap_iova_range head;
	struct vfio_iova_range r;
	size_t n;

	if (room < sizeof(head))
		return svio_fail(EPROTO, "IOVA range capability is cut off");
	memcpy(&head, (const char *)reply + cap, sizeof(head));
	if (head.nr_iovas > (room - sizeof(head)) / sizeof(r))
		return svio_fail(EPROTO, "IOVA range capability claims %u ranges in %zu bytes",
				 head.nr_iovas, room);
	n = head.nr_iovas;
	if (n > SVIO_DMA_MAX_RANGES) {
		/* A subset is safe: what is left out is not used. */
		svio_log_warn("the IOMMU reports %zu IOVA ranges; the first %d are used", n,
			      SVIO_DMA_MAX_RANGES);
		n = SVIO_DMA_MAX_RANGES;
	}
	for (size_t i = 0; i < n; i++) {
		memcpy(&r, (const char *)reply + cap + sizeof(head) + i * sizeof(r), sizeof(r));
		if (r.start > r.end)
			return svio_fail(EPROTO, "IOVA range %#llx-%#llx is upside down",
					 (unsigned long long)r.start, (unsigned long long)r.end);
		info->ranges[i] = (struct svio_iova_range){ r.start, r.end };
	}
	qsort(info->ranges, n, sizeof(info->ranges[0]), range_cmp);
	for (size_t i = 1; i < n; i++)
		if (info->ranges[i].start <= info->ranges[i - 1].last)
			return svio_fail(EPROTO, "IOVA ranges overlap at %#llx",
					 (unsigned long long)info->ranges[i].start);
	info->num_ranges = (uint32_t)n;
	return 0;
}

/* Read a capability of fixed size into *out. 0, -ENOENT, -EPROTO. */
static int fixed_cap(const void *reply, size_t len, uint32_t first, uint16_t id, void *out,
		     size_t size)
{
	size_t cap, room;
	int err = svio__chain_find(reply, len, sizeof(struct vfio_iommu_type1_info), first, id,
				   &cap, &room);

	if (err)
		return err;
	if (room < size)
		return svio_fail(EPROTO, "IOMMU capability %u is cut off", id);
	memcpy(out, (const char *)reply + cap, size);
	return 0;
}

static int parse_info(struct svio_dma_info *info, const struct vfio_iommu_type1_info *reply,
		      size_t len)
{
	struct vfio_iommu_type1_info_cap_migration mig;
	struct vfio_iommu_type1_info_dma_avail avail;
	uint32_t first = reply->flags & VFIO_IOMMU_INFO_CAPS ? reply->cap_offset : 0;
	size_t cap, room;
	int err;

	info->pgsizes = reply->flags & VFIO_IOMMU_INFO_PGSIZES ? reply->iova_pgsizes
							       : (uint64_t)sysconf(_SC_PAGESIZE);
	err = svio__chain_find(reply, len, sizeof(*reply), first,
			       VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, &cap, &room);
	if (!err) {
		err = parse_ranges(info, reply, cap, room);
	} else if (err == -ENOENT) {
		/*
		 * Linux before 5.4 does not say. The smallest aperture of VT-d is 39 bits; the MSI window
		 * (Intel SDM vol. 3A §11.11.1) is never translated.
		 */
		info->num_ranges = 2;
		info->ranges[0] = (struct svio_iova_range){ 0, 0xfedfffff };
		info->ranges[1] = (struct svio_iova_range){ 0xfef00000, (UINT64_C(1) << 39) - 1 };
		err = 0;
	}
	if (err)
		return err;
	err = fixed_cap(reply, len, first, VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, &mig, sizeof(mig));
	if (!err) {
		info->dirty_tracking = true;
		info->dirty_pgsizes = mig.pgsize_bitmap;
		info->dirty_max_bitmap = mig.max_dirty_bitmap_size;
	} else if (err != -ENOENT) {
		return err;
	}
	info->max_mappings = UINT64_MAX;
	err = fixed_cap(reply, len, first, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &avail, sizeof(avail));
	if (!err)
		info->max_mappings = avail.avail;
	else if (err != -ENOENT)
		return err;
	return 0;
}

static int call_info(void *ctx, void *reply)
{
	struct svio_dma_domain *domain = ctx;

	return domain->ops->domain_info(domain, reply);
}

int svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info)
{
	const struct svio__reply_call rc = { .call = call_info, .ctx = domain };
	void *reply;
	size_t len;
	int err;

	memset(info, 0, sizeof(*info));
	err = svio__reply(&rc, sizeof(struct vfio_iommu_type1_info), &reply, &len);
	if (err == -EPROTO)
		return err;
	if (err)
		return svio_fail(err, "DMA domain: no information: %s%s", strerror(-err),
				 err == -EINVAL || err == -ENODEV ? " (no device is attached to it)"
								  : "");
	err = parse_info(info, reply, len);
	free(reply);
	if (err)
		memset(info, 0, sizeof(*info));
	else
		info->accounts_memlock = domain->locks_memory && !have_ipc_lock();
	return err;
}

/* ---- map and unmap ---------------------------------------------------------------------------------- */

static int explain_map(struct svio_dma_domain *domain, const struct svio_dma_map *map, int err)
{
	unsigned long long iova = map->iova, len = map->len;

	switch (-err) {
	case EEXIST:
		return svio_fail(err, "IOVA %#llx, %llu bytes: overlaps an existing mapping", iova,
				 len);
	case ENOSPC:
		if (!domain->locks_memory)
			return svio_fail(err, "IOVA %#llx: the server takes no more DMA mappings; map larger pieces", iova);
		return svio_fail(
			err,
			"IOVA %#llx: the kernel's limit of DMA mappings is reached; map larger pieces, or "
			"raise it: modprobe vfio_iommu_type1 dma_entry_limit=N, now: "
			"/sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
			iova);
	case ENOMEM:
		if (domain->locks_memory)
			return svio__explain_memlock(len);
		return svio_fail(err, "IOVA %#llx, %llu bytes: out of memory", iova, len);
	case EFAULT:
		return svio_fail(
			err,
			"address %p, %llu bytes: not all of it is mapped in this process with the access asked "
			"for",
			map->vaddr, len);
	case EINVAL:
		return svio_fail(
			err,
			"IOVA %#llx, %llu bytes at %p: not page aligned, or outside what the IOMMU can map",
			iova, len, map->vaddr);
	case ENODEV:
		return svio_fail(err, "DMA domain: no device is attached to it");
	default:
		return svio_fail(err, "IOVA %#llx, %llu bytes: %s", iova, len, strerror(-err));
	}
}

int svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map)
{
	int err;

	if (!map->len || !map->prot || map->prot & ~(uint32_t)(SVIO_DMA_READ | SVIO_DMA_WRITE) ||
	    map->iova + (map->len - 1) < map->iova)
		return svio_fail(EINVAL, "IOVA %#llx, %llu bytes, protection %#x: invalid",
				 (unsigned long long)map->iova, (unsigned long long)map->len,
				 map->prot);
	err = domain->ops->domain_map(domain, map);
	if (err)
		return explain_map(domain, map, err);
	domain->mappings++;
	return 0;
}

/* With the dirty bitmap on, what is unmapped hands over its bits: afterwards nobody could ask for them. */
static int unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t *unmapped)
{
	svio_dma_unmapped_fn fn = atomic_load_explicit(&domain->unmapped, memory_order_acquire);
	uint64_t *bitmap = NULL;
	int err = -EOPNOTSUPP;

	if (!fn)
		return domain->ops->domain_unmap(domain, iova, len, unmapped);
	if (len % DIRTY_PAGE == 0)
		bitmap = calloc(SVIO_BITMAP_WORDS(len / DIRTY_PAGE), sizeof(*bitmap));
	if (bitmap)
		err = domain->ops->domain_unmap_dirty(domain, iova, len, DIRTY_PAGE, bitmap, unmapped);
	if (err) { /* switched off meanwhile, or no memory for bits: whatever lies there may have been written */
		free(bitmap);
		bitmap = NULL;
		err = domain->ops->domain_unmap(domain, iova, len, unmapped);
	}
	if (!err && *unmapped)
		fn(domain, iova, len, bitmap, DIRTY_PAGE);
	free(bitmap);
	return err;
}

int svio_dma_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len)
{
	uint64_t unmapped = 0;
	int err;

	if (!len || iova + (len - 1) < iova)
		return svio_fail(EINVAL, "IOVA %#llx, %llu bytes: invalid",
				 (unsigned long long)iova, (unsigned long long)len);
	err = unmap(domain, iova, len, &unmapped);
	if (err)
		return svio_fail(err, "IOVA %#llx, %llu bytes: cannot be unmapped: %s",
				 (unsigned long long)iova, (unsigned long long)len,
				 err == -EINVAL ? "it is part of a larger mapping"
						: strerror(-err));
	if (!unmapped)
		return svio_fail(ENOENT, "IOVA %#llx, %llu bytes: nothing is mapped there",
				 (unsigned long long)iova, (unsigned long long)len);
	if (domain->mappings)
		domain->mappings--;
	if (unmapped != len)
		return svio_fail(
			EINVAL,
			"IOVA %#llx: %llu bytes were mapped there, not %llu; they are unmapped",
			(unsigned long long)iova, (unsigned long long)unmapped,
			(unsigned long long)len);
	return 0;
}

/* ---- what devices wrote ------------------------------------------------------------------------------ */

int svio_dma_dirty_start(struct svio_dma_domain *domain, svio_dma_unmapped_fn fn)
{
	struct svio_dma_info info;
	int err;

	if (!domain->ops->domain_dirty_set)
		return svio_fail(EOPNOTSUPP, "DMA domain: no dirty bitmap by this transport");
	err = svio_dma_info(domain, &info);
	if (err)
		return err;
	if (!info.dirty_tracking || !(info.dirty_pgsizes & DIRTY_PAGE))
		return svio_fail(EOPNOTSUPP, "DMA domain: the kernel keeps no dirty bitmap of 4 KiB pages");
	/* First: what is unmapped from here on is asked for its bits, and counts as written where that is too early. */
	atomic_store_explicit(&domain->unmapped, fn, memory_order_release);
	err = domain->ops->domain_dirty_set(domain, true);
	if (!err)
		return 0;
	atomic_store_explicit(&domain->unmapped, NULL, memory_order_release);
	return svio_fail(err, "DMA domain: the dirty bitmap cannot be switched on: %s", strerror(-err));
}

void svio_dma_dirty_stop(struct svio_dma_domain *domain)
{
	atomic_store_explicit(&domain->unmapped, NULL, memory_order_release);
	domain->ops->domain_dirty_set(domain, false);
}

int svio_dma_dirty_get(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size, uint64_t *bitmap)
{
	int err;

	if (!domain->ops->domain_dirty_get)
		return svio_fail(EOPNOTSUPP, "DMA domain: no dirty bitmap by this transport");
	if (!len || !page_size || page_size & (page_size - 1) || (iova | len) & (page_size - 1) || iova + (len - 1) < iova)
		return svio_fail(EINVAL, "IOVA %#llx, %llu bytes: not made of pages of %llu bytes", (unsigned long long)iova,
				 (unsigned long long)len, (unsigned long long)page_size);
	err = domain->ops->domain_dirty_get(domain, iova, len, page_size, bitmap);
	if (err)
		return svio_fail(err, "IOVA %#llx, %llu bytes: no dirty bitmap: %s", (unsigned long long)iova,
				 (unsigned long long)len, strerror(-err));
	return 0;
}

void svio_dma_on_message_write(void (*fn)(void *ptr, size_t len))
{
	atomic_store_explicit(&svio__message_written, fn, memory_order_release);
}
