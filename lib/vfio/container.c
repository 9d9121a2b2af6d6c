/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A type1 container as a DMA domain.
 *
 * Version 2 of the type1 interface (VFIO_TYPE1v2_IOMMU): unmapping never splits a mapping. Linux binds the IOMMU to a container with
 * its first group and drops it, with every mapping, with its last: a container without groups can map nothing.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "vfio_priv.h"

#define CONTAINER_PATH "/dev/vfio/vfio"

int svio__container_new(struct svio_dma_domain **domainp)
{
	struct svio_dma_domain *domain;
	int version;

	domain = svio__domain_new(&svio__group_ops);
	if (!domain)
		return svio_fail(ENOMEM, "out of memory for a DMA domain");
	domain->locks_memory = true;
	domain->fd = open(CONTAINER_PATH, O_RDWR | O_CLOEXEC);
	if (domain->fd < 0) {
		int err = svio__explain_container(errno);

		free(domain);
		return err;
	}
	version = ioctl(domain->fd, VFIO_GET_API_VERSION);
	if (version != VFIO_API_VERSION) {
		svio__container_free(domain);
		return svio_fail(EOPNOTSUPP, CONTAINER_PATH ": VFIO API version %d, svio knows %d",
				 version, VFIO_API_VERSION);
	}
	if (ioctl(domain->fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0) {
		svio__container_free(domain);
		return svio_fail(EOPNOTSUPP, "the kernel offers no type1 v2 IOMMU to VFIO; "
					     "run: modprobe vfio_iommu_type1");
	}
	*domainp = domain;
	return 0;
}

int svio__container_set_iommu(struct svio_dma_domain *domain, const char *who)
{
	int err;

	if (ioctl(domain->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0)
		return 0;
	err = errno;
	switch (err) {
	case EPERM:
		return svio_fail(
			err,
			"%s: the kernel refuses DMA by user space because the platform does not isolate "
			"interrupts; enable interrupt remapping (VT-d: BIOS, intremap=on), or, accepting "
			"that a device can raise any interrupt, run: "
			"echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
			who);
	case ENOMEM:
		return svio_fail(err, "%s: no memory for an IOMMU domain", who);
	default:
		return svio_fail(err, "%s: the IOMMU cannot be used by VFIO: %s; see dmesg", who,
				 strerror(err));
	}
}

void svio__container_free(struct svio_dma_domain *domain)
{
	close(domain->fd);
	free(domain);
}

int svio__container_info(struct svio_dma_domain *domain, struct vfio_iommu_type1_info *info)
{
	return ioctl(domain->fd, VFIO_IOMMU_GET_INFO, info) < 0 ? -errno : 0;
}

int svio__container_map(struct svio_dma_domain *domain, const struct svio_dma_map *map)
{
	struct vfio_iommu_type1_dma_map req = {
		.argsz = sizeof(req),
		.flags = (map->prot & SVIO_DMA_READ ? VFIO_DMA_MAP_FLAG_READ : 0u) |
			 (map->prot & SVIO_DMA_WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0u),
		.vaddr = (uintptr_t)map->vaddr,
		.iova = map->iova,
		.size = map->len,
	};

	return ioctl(domain->fd, VFIO_IOMMU_MAP_DMA, &req) < 0 ? -errno : 0;
}

int svio__container_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len,
			  uint64_t *unmapped)
{
	struct vfio_iommu_type1_dma_unmap req = {
		.argsz = sizeof(req),
		.iova = iova,
		.size = len,
	};

	if (ioctl(domain->fd, VFIO_IOMMU_UNMAP_DMA, &req) < 0)
		return -errno;
	*unmapped = req.size;
	return 0;
}

/* ---- dirty bitmap: VFIO_IOMMU_DIRTY_PAGES, Linux 5.8 ------------------------------------------------------- */

int svio__container_dirty_set(struct svio_dma_domain *domain, bool on)
{
	struct vfio_iommu_type1_dirty_bitmap req = {
		.argsz = sizeof(req),
		.flags = on ? VFIO_IOMMU_DIRTY_PAGES_FLAG_START : VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
	};

	return ioctl(domain->fd, VFIO_IOMMU_DIRTY_PAGES, &req) < 0 ? -errno : 0;
}

static struct vfio_bitmap bitmap_of(uint64_t len, uint64_t page_size, uint64_t *bits)
{
	return (struct vfio_bitmap){
		.pgsize = page_size,
		.size = SVIO_BITMAP_WORDS(len / page_size) * sizeof(uint64_t), /* bytes, whole words */
		.data = (__u64 *)bits,
	};
}

int svio__container_dirty_get(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
			      uint64_t *bitmap)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap head;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} req = {
		.head = { .argsz = sizeof(req), .flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP },
		.get = { .iova = iova, .size = len, .bitmap = bitmap_of(len, page_size, bitmap) },
	};

	return ioctl(domain->fd, VFIO_IOMMU_DIRTY_PAGES, &req) < 0 ? -errno : 0;
}

int svio__container_unmap_dirty(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
				uint64_t *bitmap, uint64_t *unmapped)
{
	struct {
		struct vfio_iommu_type1_dma_unmap head;
		struct vfio_bitmap bitmap;
	} req = {
		.head = { .argsz = sizeof(req), .flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, .iova = iova, .size = len },
		.bitmap = bitmap_of(len, page_size, bitmap),
	};

	if (ioctl(domain->fd, VFIO_IOMMU_UNMAP_DMA, &req) < 0)
		return -errno;
	*unmapped = req.head.size;
	return 0;
}
