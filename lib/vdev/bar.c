/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * BAR memory, and access to regions by message.
 *
 * The shared areas of a BAR are pages of a memfd that the client maps. Withdrawing them (decoding
 * off, D3hot, reset) truncates the file to nothing: every mapping of every holder then raises
 * SIGBUS. The model's own view keeps its address: it becomes private memory with the same contents
 * first, and the file's pages again, refilled from there, afterwards.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "vdev_priv.h"

bool svio__vd_bar_in_area(const struct vd_bar *bar, uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < bar->num_areas; i++)
		if (off < bar->areas[i].offset + bar->areas[i].size &&
		    bar->areas[i].offset < off + len)
			return true;
	return false;
}

static int make_memory(struct svio_vdev *dev, struct vd_bar *bar, unsigned int index)
{
	char name[64] = "svio-bar";
	bool shared = !(dev->flags & SVIO_VDEV_NO_MMAP);
	int fd = -1;
	void *p;

	if (shared) {
		name[8] = (char)('0' + index);
		name[9] = '\0';
		/* Without MFD_ALLOW_SEALING nobody can seal it: truncating must stay possible. */
		fd = memfd_create(name, MFD_CLOEXEC);
		if (fd < 0)
			return -errno;
		if (ftruncate(fd, (off_t)bar->mem_size)) {
			int err = -errno;

			close(fd);
			return err;
		}
	}
	p = mmap(NULL, bar->mem_size, PROT_READ | PROT_WRITE,
		 shared ? MAP_SHARED | MAP_NORESERVE : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 fd, 0);
	if (p == MAP_FAILED) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return err;
	}
	bar->mem = p;
	bar->fd = fd;
	bar->guard = fd >= 0 ? svio__vd_guard_add(p, bar->mem_size, VD_PAGE, &dev->vanished) : -1;
	return 0;
}

int svio_vdev_add_bar(struct svio_vdev *dev, unsigned int index, uint64_t size, uint32_t flags,
		      const struct svio_vdev_area *areas, unsigned int num_areas)
{
	struct vd_bar *bar = &dev->bar[index < VD_NUM_BARS ? index : 0];
	bool wide = flags & SVIO_VDEV_BAR_64;
	uint64_t mask = ~(size - 1), end = 0;
	int err;

	if (!dev->in_init || index + wide >= VD_NUM_BARS || size < 16 || (size & (size - 1)) ||
	    size > (wide ? UINT64_C(1) << 62 : UINT64_C(1) << 31) ||
	    num_areas > SVIO_VDEV_MAX_AREAS)
		return svio_fail(
			EINVAL,
			"%s: BAR%u of %#llx bytes: sizes are powers of two from 16, indexes 0 to 5 (64-bit: 0 to 4)",
			dev->model->name, index, (unsigned long long)size);
	/*
	 * The upper half of a 64-bit BAR has no size of its own, but its writable bits tell that it
	 * is taken.
	 */
	if (bar->size || (wide && bar[1].size) || dev->wmask[0x10 + 4 * index + 3] ||
	    (wide && dev->wmask[0x10 + 4 * index + 7]))
		return svio_fail(EEXIST, "%s: BAR%u is taken", dev->model->name, index);
	for (unsigned int i = 0; i < num_areas; i++) {
		const struct svio_vdev_area *a = &areas[i];

		if (!a->size || ((a->offset | a->size) & (VD_PAGE - 1)) || a->size > size ||
		    a->offset > size - a->size || svio__vd_bar_in_area(bar, a->offset, a->size)) {
			memset(bar->areas, 0, sizeof(bar->areas));
			bar->num_areas = 0;
			return svio_fail(
				EINVAL,
				"%s: BAR%u: shared areas are whole pages inside of it and do not overlap",
				dev->model->name, index);
		}
		bar->areas[bar->num_areas++] = *a;
		end = SVIO_MAX(end, a->offset + a->size);
	}
	bar->mem_size = end;
	if (end) {
		err = make_memory(dev, bar, index);
		if (err) {
			bar->num_areas = 0;
			bar->mem_size = 0;
			return svio_fail(err, "%s: no memory for the shared areas of BAR%u",
					 dev->model->name, index);
		}
	}
	bar->size = size;
	bar->flags = flags;
	/*
	 * PCIe §7.5.1.2.1: bits 2:1 = 10b 64-bit, bit 3 prefetchable; address bits below the size
	 * read as 0
	 */
	svio_vdev_config_set(dev, 0x10 + 4 * index, 4,
			     (wide ? 4u : 0) | (flags & SVIO_VDEV_BAR_PREFETCH ? 8u : 0));
	svio_vdev_config_wmask(dev, 0x10 + 4 * index, 4, (uint32_t)mask & ~15u);
	if (wide)
		svio_vdev_config_wmask(dev, 0x14 + 4 * index, 4, (uint32_t)(mask >> 32));
	return 0;
}

void *svio_vdev_bar_mem(struct svio_vdev *dev, unsigned int index)
{
	return index < VD_NUM_BARS ? dev->bar[index].mem : NULL;
}

uint64_t svio_vdev_bar_size(const struct svio_vdev *dev, unsigned int index)
{
	return index < VD_NUM_BARS ? dev->bar[index].size : 0;
}

void svio__vd_bars_fini(struct svio_vdev *dev)
{
	for (unsigned int i = 0; i < VD_NUM_BARS; i++) {
		struct vd_bar *bar = &dev->bar[i];

		svio__vd_guard_del(bar->guard);
		if (bar->mem)
			munmap(bar->mem, bar->mem_size);
		if (bar->fd >= 0)
			close(bar->fd);
	}
}

/* ---- withdraw and restore ------------------------------------------------------------------- */

/*
 * What the client stored before its mapping went must not be lost: a doorbell that hardware would have seen. Copying first and truncating
 * then would lose what lands in between. So the pages themselves are kept: splice() puts references to them into a
 * pipe; when ftruncate() returns nobody can store to them any more, and only then are they read. The pipe's pages are bounded
 * (pipe(7)); pages that do not fit are copied before, with that window.
 */
struct kept {
	int pipe[2];
	size_t pages; /* references that the pipe takes */
};

static void keep_open(struct kept *k, size_t bytes)
{
	int size;

	k->pages = 0;
	if (pipe2(k->pipe, O_CLOEXEC | O_NONBLOCK)) {
		k->pipe[0] = k->pipe[1] = -1;
		return;
	}
	size = fcntl(k->pipe[1], F_SETPIPE_SZ, (int)SVIO_MIN(bytes, (size_t)1 << 20));
	if (size < 0)
		size = fcntl(k->pipe[1], F_GETPIPE_SZ);
	k->pages = size > 0 ? (size_t)size / VD_PAGE : 0;
}

static void keep_close(struct kept *k)
{
	if (k->pipe[0] >= 0) {
		close(k->pipe[0]);
		close(k->pipe[1]);
	}
}

/* Contents of one page: true, a reference to it is in the pipe; false, copied now. */
static bool keep_page(struct kept *k, int fd, off_t at, uint8_t *copy)
{
	loff_t off = at;

	if (k->pages && splice(fd, &off, k->pipe[1], NULL, VD_PAGE, SPLICE_F_NONBLOCK) == (ssize_t)VD_PAGE) {
		k->pages--;
		return true;
	}
	k->pages = 0; /* a part of a page in the pipe would put the rest out of step */
	if (pread(fd, copy + at, VD_PAGE, at) < 0)
		svio_log_err("a page of a BAR cannot be read: %s", strerror(errno));
	return false;
}

static void withdraw(struct svio_vdev *dev, struct vd_bar *bar)
{
	size_t npages = bar->mem_size / VD_PAGE;
	off_t data = 0, hole;
	uint64_t *in_pipe;
	uint8_t *copy;
	struct kept k;

	copy = mmap(NULL, bar->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	in_pipe = calloc(SVIO_BITMAP_WORDS(npages), sizeof(*in_pipe));
	if (copy == MAP_FAILED || !in_pipe) {
		if (copy != MAP_FAILED)
			munmap(copy, bar->mem_size);
		free(in_pipe);
		svio_log_err("%s: cannot withdraw a BAR: %s; the client's mappings stay", dev->model->name,
			     strerror(ENOMEM));
		return;
	}
	keep_open(&k, bar->mem_size);
	/* Only pages that were ever touched. By calls and not by loads, since the client may truncate the file too. */
	while ((data = lseek(bar->fd, data, SEEK_DATA)) >= 0 && data < (off_t)bar->mem_size) {
		hole = lseek(bar->fd, data, SEEK_HOLE);
		if (hole <= data)
			break;
		for (hole = SVIO_MIN(hole, (off_t)bar->mem_size); data < hole; data += (off_t)VD_PAGE)
			if (keep_page(&k, bar->fd, data, copy))
				svio_bitmap_set(in_pipe, (uint64_t)data / VD_PAGE);
	}
	if (ftruncate(bar->fd, 0))
		svio_log_err("%s: cannot withdraw a BAR: %s", dev->model->name, strerror(errno));
	for (uint64_t p = 0; (p = svio_bitmap_next_set(in_pipe, npages, p)) < npages; p++)
		if (read(k.pipe[0], copy + p * VD_PAGE, VD_PAGE) != (ssize_t)VD_PAGE)
			svio_log_err("%s: a page of a BAR is lost: %s", dev->model->name, strerror(errno));
	keep_close(&k);
	free(in_pipe);
	if (mremap(copy, bar->mem_size, bar->mem_size, MREMAP_MAYMOVE | MREMAP_FIXED, bar->mem) == MAP_FAILED) {
		/* The pages that the model looks at are gone; the guard of this process would give zeroes. Give it the contents. */
		if (ftruncate(bar->fd, (off_t)bar->mem_size) == 0)
			memcpy(bar->mem, copy, bar->mem_size);
		munmap(copy, bar->mem_size);
		svio_log_err("%s: cannot withdraw a BAR: %s; the client's mappings stay", dev->model->name,
			     strerror(errno));
		return;
	}
	bar->zapped = true;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void restore(struct svio_vdev *dev, struct vd_bar *bar)
{
	if (ftruncate(bar->fd, (off_t)bar->mem_size))
		goto fail;
	for (unsigned int i = 0; i < bar->num_areas; i++) {
		for (uint64_t off = bar->areas[i].offset;
		     off < bar->areas[i].offset + bar->areas[i].size; off += VD_PAGE)
			if (!all_zero(bar->mem + off, VD_PAGE) &&
			    pwrite(bar->fd, bar->mem + off, VD_PAGE, (off_t)off) != VD_PAGE)
				goto fail;
	}
	if (mmap(bar->mem, bar->mem_size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, bar->fd, 0) == MAP_FAILED)
		goto fail;
	bar->zapped = false;
	return;
fail:
	svio_log_err("%s: cannot restore a BAR: %s", dev->model->name, strerror(errno));
	if (ftruncate(bar->fd, 0))
		svio_log_err("%s: nor withdraw it", dev->model->name);
}

void svio__vd_bars_update(struct svio_vdev *dev)
{
	bool on = svio_vdev_mem_enabled(dev);

	for (unsigned int i = 0; i < VD_NUM_BARS; i++) {
		struct vd_bar *bar = &dev->bar[i];

		if (bar->fd < 0)
			continue;
		if (on && bar->zapped)
			restore(dev, bar);
		else if (!on && !bar->zapped)
			withdraw(dev, bar);
	}
}

void svio__vd_bars_zero(struct svio_vdev *dev)
{
	for (unsigned int i = 0; i < VD_NUM_BARS; i++)
		for (unsigned int a = 0; a < dev->bar[i].num_areas; a++) {
			uint8_t *p = dev->bar[i].mem + dev->bar[i].areas[a].offset;

			for (uint64_t off = 0; off < dev->bar[i].areas[a].size; off += VD_PAGE)
				if (!all_zero(p + off, VD_PAGE))
					memset(p + off, 0, VD_PAGE);
		}
}

/* ---- region access by message --------------------------------------------------------------- */

/* The widest naturally aligned piece at off, at most `max` and `left` bytes. */
static unsigned int piece(uint64_t off, uint32_t left, uint32_t max)
{
	unsigned int w = 8;

	while (w > 1 && (w > max || w > left || (off & (w - 1))))
		w /= 2;
	return w;
}

static uint64_t load(const uint8_t *p, unsigned int w)
{
	switch (w) {
	case 1:
		return __atomic_load_n(p, __ATOMIC_ACQUIRE);
	case 2:
		return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
	case 4:
		return __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_ACQUIRE);
	default:
		return __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_ACQUIRE);
	}
}

static void store(uint8_t *p, unsigned int w, uint64_t v)
{
	switch (w) {
	case 1:
		__atomic_store_n(p, (uint8_t)v, __ATOMIC_RELEASE);
		break;
	case 2:
		__atomic_store_n((uint16_t *)(void *)p, (uint16_t)v, __ATOMIC_RELEASE);
		break;
	case 4:
		__atomic_store_n((uint32_t *)(void *)p, (uint32_t)v, __ATOMIC_RELEASE);
		break;
	default:
		__atomic_store_n((uint64_t *)(void *)p, v, __ATOMIC_RELEASE);
	}
}

static int access_piece(struct svio_vdev *dev, unsigned int index, uint64_t off, unsigned int w,
			uint64_t *v, bool write)
{
	struct vd_bar *bar = &dev->bar[index];
	int (*rd)(struct svio_vdev *, unsigned int, uint64_t, unsigned int, uint64_t *) =
		dev->model->reg_read;
	int (*wr)(struct svio_vdev *, unsigned int, uint64_t, unsigned int, uint64_t) =
		dev->model->reg_write;

	if (svio__vd_msix_access(dev, index, off, w, v, write))
		return 0;
	/*
	 * VFIO: in STOP a device does not change; the interrupt structures and configuration space
	 * stay usable.
	 */
	if (write && !svio__vd_running(dev))
		return -EBUSY;
	if (svio__vd_bar_in_area(bar, off, w)) {
		if (write)
			store(bar->mem + off, w, *v);
		else
			*v = load(bar->mem + off, w);
		return 0;
	}
	if (write)
		return wr ? wr(dev, index, off, w, *v) : 0;
	*v = 0;
	return rd ? rd(dev, index, off, w, v) : 0;
}

static int bar_access(struct svio_vdev *dev, unsigned int index, uint64_t off, uint8_t *buf,
		      uint32_t len, bool write)
{
	uint32_t max = dev->model->max_access ? dev->model->max_access : 8;

	while (len) {
		unsigned int w = piece(off, len, max);
		uint64_t v = 0;
		int err;

		/* PCI is little endian. */
		if (write) {
			for (unsigned int i = 0; i < w; i++)
				v |= (uint64_t)buf[i] << (8 * i);
		}
		err = access_piece(dev, index, off, w, &v, write);
		if (err)
			return err;
		if (!write) {
			for (unsigned int i = 0; i < w; i++)
				buf[i] = (uint8_t)(v >> (8 * i));
		}
		off += w;
		buf += w;
		len -= w;
	}
	return 0;
}

static int check(const struct svio_vdev *dev, uint32_t region, uint64_t off, uint32_t len)
{
	uint64_t size = 0;

	if (region == SVIO_VFU_REGION_CONFIG)
		size = dev->cfg_size;
	else if (region < VD_NUM_BARS)
		size = dev->bar[region].size;
	if (!len || off >= size || len > size - off)
		return -EINVAL;
	if (region < VD_NUM_BARS && !svio_vdev_mem_enabled(dev))
		return -EIO;
	return 0;
}

int svio__vd_region_read(struct svio_vdev *dev, uint32_t region, uint64_t off, uint8_t *buf,
			 uint32_t len)
{
	int err = check(dev, region, off, len);

	if (err)
		return err;
	if (region == SVIO_VFU_REGION_CONFIG) {
		memcpy(buf, dev->cfg + off, len);
		return 0;
	}
	return bar_access(dev, region, off, buf, len, false);
}

int svio__vd_region_write(struct svio_vdev *dev, uint32_t region, uint64_t off, const uint8_t *buf,
			  uint32_t len)
{
	int err = check(dev, region, off, len);

	if (err)
		return err;
	if (region == SVIO_VFU_REGION_CONFIG) {
		svio__vd_cfg_write(dev, (uint32_t)off, buf, len);
		return 0;
	}
	return bar_access(dev, region, off, (uint8_t *)(uintptr_t)buf, len, true);
}
