/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The DMA map: what the client has declared, and how its memory is reached.
 *
 * Mappings are disjoint and sorted. A file is mapped once, whole, and shared by all mappings of it
 * (with a virtual IOMMU a client sends a descriptor with every 4 KiB page). Translation: the last
 * hit (inline), then a direct-mapped cache by page, then binary search. All of it belongs to the
 * server's thread; the table changes only after the model's quiesce().
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>
#include "vdev_priv.h"

static uint32_t prot_of(enum svio_vdev_access access)
{
	return access == SVIO_VDEV_WRITE ? SVIO_VFU_DMA_F_WRITE : SVIO_VFU_DMA_F_READ;
}

/* Index of the first mapping that ends at or after iova. */
static uint32_t lower(const struct vd_dma *dma, uint64_t iova)
{
	uint32_t lo = 0, hi = dma->num;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (dma->maps[mid]->last < iova)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct vd_map *svio__vd_dma_find(struct svio_vdev *dev, uint64_t iova)
{
	struct vd_map **slot = &dev->dma.cache[(iova / VD_PAGE) % VD_DMA_CACHE], *m = *slot;
	uint32_t i;

	if (m && iova >= m->iova && iova <= m->last)
		return m;
	i = lower(&dev->dma, iova);
	if (i == dev->dma.num || dev->dma.maps[i]->iova > iova)
		return NULL;
	*slot = dev->dma.maps[i];
	return dev->dma.maps[i];
}

void *svio_vdev_as_ptr_slow(struct svio_vdev_as *as, uint64_t iova, uint64_t len,
			    enum svio_vdev_access access)
{
	struct svio_vdev_hit *h = &as->hit[access];
	struct vd_map *m;

	if (as != svio_vdev_as0(as->dev))
		return svio__vd_space_ptr(as, iova, len, access);
	if (!as->dev->bus_master)
		return NULL;
	m = svio__vd_dma_find(as->dev, iova);
	if (!m || !m->file || !m->file->mapped || !(m->prot & prot_of(access)) ||
	    (len && len - 1 > m->last - iova))
		return NULL;
	h->iova = m->iova;
	h->len = m->last - m->iova + 1; /* cannot wrap: a mapped file has less than 2^63 bytes */
	h->ptr = m->file->base + (m->off - m->file->off);
	return h->ptr + (iova - m->iova);
}

void svio__vd_dma_flush(struct svio_vdev *dev)
{
	memset(dev->as0.hit, 0, sizeof(dev->as0.hit));
	memset(dev->dma.cache, 0, sizeof(dev->dma.cache));
}

/* ---- files ---------------------------------------------------------------------------------- */

static void file_put(struct svio_vdev *dev, struct vd_file *f)
{
	struct vd_file **link = &dev->dma.files;

	if (!f || --f->refs)
		return;
	while (*link != f)
		link = &(*link)->next;
	*link = f->next;
	svio__vd_guard_del(f->guard);
	if (f->mapped)
		munmap(f->base, f->len);
	close(f->fd);
	free(f);
}

/*
 * May we map it? Its holder must not be able to shrink it under us (SIGBUS), unless that is taken
 * care of.
 */
static bool may_map(const struct svio_vdev *dev, int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return (seals >= 0 && (seals & F_SEAL_SHRINK)) || (dev->flags & SVIO_VDEV_TRUST_CLIENT) ||
	       svio__vd_guard_on();
}

static int map_file(struct svio_vdev *dev, struct vd_file *f, uint64_t size, uint64_t off,
		    uint64_t len, size_t page)
{
	int prot = PROT_READ | (f->writable ? PROT_WRITE : 0);
	void *p;

	f->off = 0;
	f->len = size;
	p = mmap(NULL, f->len, prot, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
	if (p == MAP_FAILED) { /* larger than our address space: this piece of it */
		f->off = off / page * page;
		f->len = SVIO_MIN((off + len + page - 1) / page * page, size) - f->off;
		p = mmap(NULL, f->len, prot, MAP_SHARED | MAP_NORESERVE, f->fd, (off_t)f->off);
	}
	if (p == MAP_FAILED)
		return -errno;
	madvise(p, f->len, MADV_DONTFORK);
	madvise(p, f->len, MADV_DONTDUMP);
	f->base = p;
	f->mapped = true;
	f->guard = svio__vd_guard_add(p, f->len, page, &dev->vanished);
	return 0;
}

/*
 * Find or make the file behind *fd for [off, off + len). Takes *fd (sets it to -1) when it keeps
 * it.
 */
static int file_get(struct svio_vdev *dev, const struct svio_vfu_dma_map *req, int *fd,
		    struct vd_file **filep)
{
	bool want_map =
		!(req->flags & SVIO_VFU_DMA_F_FILE_IO) || (req->flags & SVIO_VFU_DMA_F_MMAP);
	uint64_t size, page;
	struct vd_file *f;
	struct statfs fs;
	struct stat st;
	int fl, err;

	fl = fcntl(*fd, F_GETFL);
	if (fl < 0 || (fl & O_PATH) || fstat(*fd, &st) || !S_ISREG(st.st_mode))
		return -EINVAL;
	size = (uint64_t)st.st_size;
	if (req->offset > size || req->size > size - req->offset)
		return -EINVAL; /* beyond the end of the file */
	if ((fl & O_ACCMODE) == O_WRONLY)
		return -EACCES;
	if ((req->flags & SVIO_VFU_DMA_F_WRITE) && (fl & O_ACCMODE) != O_RDWR)
		return -EACCES;
	page = VD_PAGE;
	if (fstatfs(*fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		page = (uint64_t)fs.f_bsize;
	if (want_map && !may_map(dev, *fd)) {
		if (page != VD_PAGE) /* huge pages can only be mapped */
			return -EPERM;
		want_map = false;
	}
	for (f = dev->dma.files; f; f = f->next) {
		if (f->dev != st.st_dev || f->ino != st.st_ino || f->mapped != want_map)
			continue;
		if ((req->flags & SVIO_VFU_DMA_F_WRITE) && !f->writable)
			continue;
		if (f->mapped &&
		    (req->offset < f->off || req->offset + req->size > f->off + f->len))
			continue; /* it has grown since */
		f->refs++;
		*filep = f;
		return 0;
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	f->fd = *fd;
	f->writable = (fl & O_ACCMODE) == O_RDWR;
	f->guard = -1;
	if (want_map) {
		err = map_file(dev, f, size, req->offset, req->size, page);
		if (err) {
			free(f);
			return err;
		}
	}
	*fd = -1;
	f->refs = 1;
	f->next = dev->dma.files;
	dev->dma.files = f;
	*filep = f;
	return 0;
}

/* ---- map and unmap -------------------------------------------------------------------------- */

int svio__vd_dma_map(struct svio_vdev *dev, const struct svio_vfu_dma_map *req, int *fd)
{
	const uint32_t known = SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE | SVIO_VFU_DMA_F_MMAP |
			       SVIO_VFU_DMA_F_FILE_IO;
	uint64_t last = req->iova + req->size - 1;
	struct vd_dma *dma = &dev->dma;
	struct vd_map *m;
	uint32_t at;
	int err;

	if (!req->size || last < req->iova || (req->flags & ~known))
		return -EINVAL;
	if (*fd < 0 && (req->flags & (SVIO_VFU_DMA_F_MMAP | SVIO_VFU_DMA_F_FILE_IO)))
		return -EINVAL;
	at = lower(dma, req->iova);
	if (at < dma->num && dma->maps[at]->iova <= last)
		return -EEXIST;
	if (dma->num >= SVIO_VFU_DEF_MAX_DMA_MAPS)
		return -ENOSPC;
	if (dma->num == dma->room) {
		uint32_t room = dma->room ? dma->room * 2 : 64;
		struct vd_map **maps = realloc(dma->maps, room * sizeof(struct vd_map *));

		if (!maps)
			return -ENOMEM;
		dma->maps = maps;
		dma->room = room;
	}
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->iova = req->iova;
	m->last = last;
	m->prot = req->flags & (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	m->off = req->offset;
	if (*fd >= 0) {
		err = file_get(dev, req, fd, &m->file);
		if (!err && dev->as0.dirty) {
			err = svio__vd_dirty_cover(dev, m->iova, m->last);
			if (err)
				file_put(dev, m->file);
		}
		if (err) {
			free(m);
			return err;
		}
	}
	memmove(&dma->maps[at + 1], &dma->maps[at], (dma->num - at) * sizeof(struct vd_map *));
	dma->maps[at] = m;
	dma->num++;
	dev->stats.dma_maps++;
	return 0;
}

static void drop(struct svio_vdev *dev, uint32_t from, uint32_t to)
{
	struct vd_dma *dma = &dev->dma;

	if (from == to)
		return;
	svio__vd_dma_flush(dev);
	for (uint32_t i = from; i < to; i++) {
		file_put(dev, dma->maps[i]->file);
		free(dma->maps[i]);
	}
	memmove(&dma->maps[from], &dma->maps[to], (dma->num - to) * sizeof(struct vd_map *));
	dma->num -= to - from;
	dev->stats.dma_unmaps += to - from;
}

/*
 * Remove every mapping inside of the range. The specification wants an exact match, but QEMU unmaps
 * ranges that hold many mappings or none when a guest switches its IOMMU off. A range that cuts a
 * mapping is refused before anything is removed.
 */
int svio__vd_dma_unmap(struct svio_vdev *dev, uint64_t iova, uint64_t size)
{
	struct vd_dma *dma = &dev->dma;
	uint64_t last = iova + size - 1;
	uint32_t from, to;

	if (!size || last < iova)
		return -EINVAL;
	from = lower(dma, iova);
	for (to = from; to < dma->num && dma->maps[to]->iova <= last; to++)
		if (dma->maps[to]->iova < iova || dma->maps[to]->last > last)
			return -EINVAL;
	if (from == to)
		return 0;
	svio__vd_dma_cancel_range(dev, iova, last, -ECANCELED);
	if (svio__vd_quiesce(dev, SVIO_VDEV_Q_UNMAP, iova, size))
		return -EINPROGRESS;
	svio__vd_dma_cancel_range(dev, iova, last, -ECANCELED);
	drop(dev, from, to);
	return 0;
}

void svio__vd_dma_unmap_all(struct svio_vdev *dev)
{
	drop(dev, 0, dev->dma.num);
	svio__vd_dma_flush(dev);
	free(dev->dma.maps);
	dev->dma.maps = NULL;
	dev->dma.room = 0;
}
