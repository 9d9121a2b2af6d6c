/* SPDX-License-Identifier: BSD-3-Clause */
/* See fake.h. Everything is static memory, so that the machine has no part in the heap that is compared. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "fake.h"
#include "svio_pci.h"

#define REGION_OFFSET(i) ((uint64_t)(i) << 40)
#define BAR0_SIZE	 0x4000u
#define BAR4_SIZE	 0x800u /* less than a page: not mappable */
#define CONFIG_SIZE	 4096u
#define MSIX_CAP	 0x40
#define MAX_FDS		 1024
#define MAX_CONTAINERS	 8
#define MAX_GROUPS	 4

const char *const fake_names[FAKE_DEVICES] = { "0000:01:00.0", "0000:01:00.1", "0000:02:00.0",
					       "0000:02:10.0" };
static const int group_numbers[MAX_GROUPS] = { 7, 8, 9, 10 };

struct fake fake;

struct container {
	bool used, iommu, dirty;
	int groups;
	struct {
		uint64_t iova, size;
	} maps[FAKE_MAPS];
};

struct group {
	bool open;
	struct container *container;
};

static struct container containers[MAX_CONTAINERS];
static struct group groups[MAX_GROUPS];

/* What a descriptor of the process is in the machine. */
static struct {
	enum { NOTHING, CONTAINER, GROUP, DEVICE } what;
	int index;
} fds[MAX_FDS];

int __real_open64(const char *path, int flags, ...);
int __real_close(int fd);
int __wrap_close(int fd);
ssize_t __real_pread64(int fd, void *buf, size_t n, off_t off);
ssize_t __real_pwrite64(int fd, const void *buf, size_t n, off_t off);
int __wrap_svio_pci_get(const struct svio_pci_addr *addr, struct svio_pci_info *info);
int __wrap_svio_pci_group_explain(int group);

static int fake_open(const char *path, int flags, mode_t mode);
static int fake_ioctl(int fd, unsigned long request, void *arg);
static ssize_t fake_pread(int fd, void *buf, size_t n, off_t off);
static ssize_t fake_pwrite(int fd, const void *buf, size_t n, off_t off);

static int fail(int err)
{
	errno = err;
	return -1;
}

static struct group *group_of(int number)
{
	for (int i = 0; i < MAX_GROUPS; i++)
		if (group_numbers[i] == number)
			return &groups[i];
	return NULL;
}

static void put16(int i, unsigned int off, uint16_t v)
{
	if (__real_pwrite64(fake.dev[i].backing, &v, 2, (off_t)(REGION_OFFSET(7) + off)) != 2)
		abort();
}

static void put32(int i, unsigned int off, uint32_t v)
{
	put16(i, off, (uint16_t)v);
	put16(i, off + 2, (uint16_t)(v >> 16));
}

uint16_t fake_command(int i)
{
	uint16_t v;

	if (__real_pread64(fake.dev[i].backing, &v, 2, (off_t)(REGION_OFFSET(7) + PCI_COMMAND)) !=
	    2)
		abort();
	return v;
}

/* PCI state after a reset or a first open: Linux enables decoding and leaves mastering off. */
static void function_init(int i)
{
	struct fake_device *d = &fake.dev[i];

	put16(i, PCI_COMMAND, d->is_vf ? 0 : PCI_COMMAND_MEMORY);
	for (int x = 0; x < 5; x++) {
		for (int v = 0; v < FAKE_VECTORS; v++)
			d->fds[x][v] = -1;
		d->armed[x] = 0;
	}
}

void fake_start(void)
{
	memset(&fake, 0, sizeof(fake));
	memset(containers, 0, sizeof(containers));
	memset(groups, 0, sizeof(groups));
	memset(fds, 0, sizeof(fds));
	failnth_hooks = (struct failnth_hooks){
		.open = fake_open,
		.ioctl = fake_ioctl,
		.pread = fake_pread,
		.pwrite = fake_pwrite,
	};
	fake.msix_table = 0x2000; /* BAR 0 */
	for (int i = 0; i < FAKE_DEVICES; i++) {
		struct fake_device *d = &fake.dev[i];

		d->group = i < 2 ? 7 : 6 + i;
		d->is_vf = i == 3;
		d->backing = memfd_create("fake-device", MFD_CLOEXEC);
		if (d->backing < 0 || ftruncate(d->backing, (off_t)REGION_OFFSET(9)) != 0)
			abort();
		put16(i, PCI_VENDOR_ID, 0x8086);
		put16(i, PCI_DEVICE_ID, (uint16_t)(0x1000 + i));
		put32(i, PCI_CLASS_REVISION, 0x01080203);
		put16(i, PCI_STATUS, PCI_STATUS_CAP_LIST);
		put16(i, PCI_CAPABILITY_LIST, MSIX_CAP);
		put16(i, MSIX_CAP, PCI_CAP_ID_MSIX);
		put16(i, MSIX_CAP + PCI_MSIX_FLAGS, FAKE_VECTORS - 1);
		put32(i, MSIX_CAP + PCI_MSIX_TABLE, fake.msix_table);
		function_init(i);
	}
}

void fake_stop(void)
{
	for (int i = 0; i < FAKE_DEVICES; i++)
		__real_close(fake.dev[i].backing);
	memset(&failnth_hooks, 0, sizeof(failnth_hooks));
}

bool fake_idle(void)
{
	for (int i = 0; i < MAX_FDS; i++)
		if (fds[i].what != NOTHING)
			return false;
	for (int i = 0; i < MAX_GROUPS; i++)
		if (groups[i].open || groups[i].container)
			return false;
	for (int i = 0; i < FAKE_DEVICES; i++)
		if (fake.dev[i].opens || fake_command(i) & PCI_COMMAND_MASTER)
			return false;
	return fake_containers() == 0;
}

int fake_containers(void)
{
	int n = 0;

	for (int i = 0; i < MAX_CONTAINERS; i++)
		n += containers[i].used;
	return n;
}

uint64_t fake_mappings(void)
{
	uint64_t n = 0;

	for (int i = 0; i < MAX_CONTAINERS; i++)
		for (int m = 0; m < FAKE_MAPS; m++)
			n += containers[i].maps[m].size != 0;
	return n;
}

/* ---- descriptors ------------------------------------------------------------------------------------ */

static int new_fd(int what, int index, int fd)
{
	if (fd < 0 || fd >= MAX_FDS)
		abort();
	fds[fd].what = what;
	fds[fd].index = index;
	return fd;
}

static int fake_open(const char *path, int flags, mode_t mode)
{
	int number;

	if (strcmp(path, "/dev/vfio/vfio") == 0) {
		int i = 0;

		if (fake.no_vfio)
			return fail(ENOENT);
		if (fake.no_permission)
			return fail(EACCES);
		while (containers[i].used)
			i++;
		memset(&containers[i], 0, sizeof(containers[i]));
		containers[i].used = true;
		return new_fd(CONTAINER, i, __real_open64("/dev/null", O_RDWR | O_CLOEXEC));
	}
	if (sscanf(path, "/dev/vfio/%d", &number) == 1) {
		struct group *g = group_of(number);

		if (!g)
			return fail(ENOENT);
		if (g->open || fake.busy)
			return fail(EBUSY);
		g->open = true;
		return new_fd(GROUP, (int)(g - groups),
			      __real_open64("/dev/null", O_RDWR | O_CLOEXEC));
	}
	return __real_open64(path, flags, mode);
}

static int group_users(const struct group *g)
{
	int n = 0;

	for (int i = 0; i < FAKE_DEVICES; i++)
		if (group_of(fake.dev[i].group) == g)
			n += fake.dev[i].opens;
	return n;
}

static void leave_container(struct group *g)
{
	struct container *c = g->container;

	g->container = NULL;
	if (c && --c->groups == 0) {
		c->iommu = false;
		memset(c->maps, 0, sizeof(c->maps));
	}
}

int __wrap_close(int fd)
{
	if (fd >= 0 && fd < MAX_FDS && fds[fd].what != NOTHING) {
		int i = fds[fd].index;

		switch (fds[fd].what) {
		case CONTAINER:
			containers[i].used = false;
			break;
		case GROUP:
			/* The kernel refuses nothing here: the group stays held by its open devices. */
			if (group_users(&groups[i]))
				abort();
			leave_container(&groups[i]);
			groups[i].open = false;
			break;
		case DEVICE:
			fake.master_at_close += (fake_command(i) & PCI_COMMAND_MASTER) != 0;
			if (--fake.dev[i].opens == 0 && !fake.bars_mapped)
				function_init(i);
			break;
		default:
			break;
		}
		fds[fd].what = NOTHING;
	}
	return __real_close(fd);
}

/* ---- ioctls of a container ---------------------------------------------------------------------------- */

struct iommu_reply {
	struct vfio_iommu_type1_info info;
	struct {
		struct vfio_iommu_type1_info_cap_iova_range head;
		struct vfio_iova_range ranges[2];
	} iova;
	struct vfio_iommu_type1_info_cap_migration mig;
	struct vfio_iommu_type1_info_dma_avail avail;
};

static int iommu_info(struct vfio_iommu_type1_info *info)
{
	struct iommu_reply r = {
		.info = { .argsz = sizeof(r),
			  .flags = VFIO_IOMMU_INFO_PGSIZES,
			  .iova_pgsizes = 0x40201000 },
		.iova.head = { .header = { VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1,
					   offsetof(struct iommu_reply, mig) },
			       .nr_iovas = 2 },
		.iova.ranges = { { 0xfef00000, (1ull << 48) - 1 },
				 { 0, 0xfedfffff } }, /* not sorted */
		.mig = { .header = { VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1,
				     offsetof(struct iommu_reply, avail) },
			 .pgsize_bitmap = 4096,
			 .max_dirty_bitmap_size = 1 << 28 },
		.avail = { .header = { VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, 0 }, .avail = 65535 },
	};
	uint32_t room = info->argsz;

	if (fake.missing_iova_cap) {
		r.info.argsz = sizeof(r.info);
		memcpy(info, &r.info, sizeof(r.info));
	} else if (room < sizeof(r)) {
		memcpy(info, &r.info, sizeof(r.info)); /* argsz says what is needed */
	} else {
		r.info.flags |= VFIO_IOMMU_INFO_CAPS;
		r.info.cap_offset = offsetof(struct iommu_reply, iova);
		memcpy(info, &r, sizeof(r));
	}
	if (fake.spoil_iommu)
		fake.spoil_iommu(info, room);
	return 0;
}

static int dma_map(struct container *c, const struct vfio_iommu_type1_dma_map *req)
{
	int free_slot = -1;

	if (fake.map_errno)
		return fail(fake.map_errno);
	if (req->iova % 4096 || req->size % 4096 || req->vaddr % 4096)
		return fail(EINVAL);
	for (int m = 0; m < FAKE_MAPS; m++) {
		if (!c->maps[m].size)
			free_slot = m;
		else if (req->iova < c->maps[m].iova + c->maps[m].size &&
			 c->maps[m].iova < req->iova + req->size)
			return fail(EEXIST);
	}
	if (free_slot < 0)
		return fail(ENOSPC);
	c->maps[free_slot].iova = req->iova;
	c->maps[free_slot].size = req->size;
	return 0;
}

/* As Linux: one size of pages, whole words, and all bits set of every mapping (vfio_iommu_type1.c). */
static int all_dirty(uint64_t size, const struct vfio_bitmap *bitmap)
{
	uint64_t bytes = (size / 4096 + 63) / 64 * 8;

	if (bitmap->pgsize != 4096 || !size || size % 4096 || bitmap->size < bytes)
		return fail(EINVAL);
	memset(bitmap->data, 0xff, size / 4096 / 8);
	for (uint64_t i = size / 4096 / 8 * 8; i < size / 4096; i++)
		((uint8_t *)bitmap->data)[i / 8] |= (uint8_t)(1u << i % 8);
	return 0;
}

static int dirty_pages(struct container *c, struct vfio_iommu_type1_dirty_bitmap *req)
{
	const struct vfio_iommu_type1_dirty_bitmap_get *get = (const void *)req->data;
	bool covers = false;

	if (req->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START || req->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP) {
		if (fake.no_dirty)
			return fail(ENOTTY);
		c->dirty = req->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
		return 0;
	}
	if (req->flags != VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP || req->argsz < sizeof(*req) + sizeof(*get) || !c->dirty)
		return fail(EINVAL);
	for (int m = 0; m < FAKE_MAPS; m++)
		covers |= c->maps[m].size && c->maps[m].iova == get->iova && c->maps[m].size == get->size;
	return covers ? all_dirty(get->size, &get->bitmap) : fail(EINVAL);
}

static int dma_unmap(struct container *c, struct vfio_iommu_type1_dma_unmap *req)
{
	uint64_t end = req->iova + req->size, done = 0;

	if (req->flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) {
		if (!c->dirty || req->argsz < sizeof(*req) + sizeof(struct vfio_bitmap))
			return fail(EINVAL);
		if (all_dirty(req->size, (const void *)req->data))
			return -1;
	}

	for (int m = 0; m < FAKE_MAPS; m++) {
		uint64_t a = c->maps[m].iova, b = a + c->maps[m].size;

		if (a != b && ((a < req->iova && req->iova < b) || (a < end && end < b)))
			return fail(EINVAL);
	}
	for (int m = 0; m < FAKE_MAPS; m++) {
		if (c->maps[m].size && c->maps[m].iova >= req->iova && c->maps[m].iova < end) {
			done += c->maps[m].size;
			c->maps[m].size = 0;
		}
	}
	req->size = done;
	return 0;
}

static int container_ioctl(struct container *c, unsigned long request, void *arg)
{
	switch (request) {
	case VFIO_GET_API_VERSION:
		return VFIO_API_VERSION;
	case VFIO_CHECK_EXTENSION:
		return (unsigned long)arg == VFIO_TYPE1v2_IOMMU && !fake.no_type1;
	case VFIO_SET_IOMMU:
		if (!c->groups || c->iommu)
			return fail(EINVAL);
		if (fake.unsafe_interrupts)
			return fail(EPERM);
		c->iommu = true;
		return 0;
	default:
		break;
	}
	if (!c->iommu)
		return fail(EINVAL);
	switch (request) {
	case VFIO_IOMMU_GET_INFO:
		return iommu_info(arg);
	case VFIO_IOMMU_MAP_DMA:
		return dma_map(c, arg);
	case VFIO_IOMMU_UNMAP_DMA:
		return dma_unmap(c, arg);
	case VFIO_IOMMU_DIRTY_PAGES:
		return dirty_pages(c, arg);
	default:
		return fail(ENOTTY);
	}
}

/* ---- of a group ---------------------------------------------------------------------------------------- */

static int get_device(struct group *g, const char *name)
{
	const char *token = strstr(name, " vf_token=");
	size_t len = token ? (size_t)(token - name) : strlen(name);

	if (!g->container || !g->container->iommu)
		return fail(EINVAL);
	if (fake.get_device_errno)
		return fail(fake.get_device_errno);
	for (int i = 0; i < FAKE_DEVICES; i++) {
		if (strlen(fake_names[i]) != len || strncmp(fake_names[i], name, len) != 0 ||
		    group_of(fake.dev[i].group) != g)
			continue;
		if (!fake.dev[i].is_vf && token)
			return fail(EINVAL);
		if (fake.dev[i].is_vf && fake.vf_token &&
		    (!token || strcmp(token + 10, fake.vf_token) != 0))
			return fail(EACCES);
		put32(i, MSIX_CAP + PCI_MSIX_TABLE, fake.msix_table);
		if (!fake.dev[i].opens++)
			function_init(i);
		return new_fd(DEVICE, i, fcntl(fake.dev[i].backing, F_DUPFD_CLOEXEC, 3));
	}
	return fail(ENODEV);
}

static int group_ioctl(struct group *g, unsigned long request, void *arg)
{
	struct vfio_group_status *status = arg;
	struct container *c;
	int fd, err;

	switch (request) {
	case VFIO_GROUP_GET_STATUS:
		status->flags = fake.not_viable ? 0 : VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		fd = *(int *)arg;
		if (g->container || fd < 0 || fd >= MAX_FDS || fds[fd].what != CONTAINER)
			return fail(EINVAL);
		err = fake.set_container_errno;
		fake.set_container_errno = 0;
		if (err)
			return fail(err);
		c = &containers[fds[fd].index];
		if (c->groups && fake.incompatible)
			return fail(EINVAL);
		c->groups++;
		g->container = c;
		return 0;
	case VFIO_GROUP_UNSET_CONTAINER:
		if (!g->container)
			return fail(EINVAL);
		if (group_users(g) || fake.bars_mapped)
			return fail(EBUSY);
		leave_container(g);
		return 0;
	case VFIO_GROUP_GET_DEVICE_FD:
		return get_device(g, arg);
	default:
		return fail(ENOTTY);
	}
}

/* ---- of a device ----------------------------------------------------------------------------------------- */

static const uint64_t region_sizes[9] = { BAR0_SIZE, 0, 0, 0, BAR4_SIZE, 0, 0, CONFIG_SIZE, 0 };

static int region_info(struct vfio_region_info *info)
{
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_sparse_mmap head;
		struct vfio_region_sparse_mmap_area areas[80];
	} r = { .info.index = info->index };
	uint32_t room = info->argsz, need = sizeof(r.info), i = info->index;

	if (i >= 8)
		return fail(EINVAL);
	r.info.size = region_sizes[i];
	r.info.offset = REGION_OFFSET(i);
	if (r.info.size)
		r.info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (i == 0 || i == 4)
		r.info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
	if (i == 0 && fake.sparse) {
		r.info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		r.head.header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
		r.head.header.version = 1;
		r.head.nr_areas = fake.sparse;
		/* Backwards, and each a page, with a hole at page 1 when there are few. */
		for (uint32_t a = 0; a < fake.sparse && a < SVIO_ARRAY_SIZE(r.areas); a++) {
			r.areas[a].offset = (uint64_t)((fake.sparse - 1 - a) * 2 % 4) * 4096;
			r.areas[a].size = 4096;
		}
		need = (uint32_t)(offsetof(__typeof__(r), areas) +
				  fake.sparse * sizeof(r.areas[0]));
		if (room >= need)
			r.info.cap_offset = sizeof(r.info);
	}
	r.info.argsz = need;
	memcpy(info, &r, SVIO_MIN(room, need));
	if (i == 0 && fake.spoil_region)
		fake.spoil_region(info, room);
	return 0;
}

static int irq_info(struct vfio_irq_info *info)
{
	static const uint32_t counts[5] = { 1, 4, FAKE_VECTORS, 1, 1 };

	if (info->index >= 5)
		return fail(EINVAL);
	info->count = counts[info->index];
	info->flags = VFIO_IRQ_INFO_EVENTFD;
	if (info->index == VFIO_PCI_INTX_IRQ_INDEX)
		info->flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
	else if (!fake.msi_resize)
		info->flags |= VFIO_IRQ_INFO_NORESIZE;
	return 0;
}

static int set_irqs(struct fake_device *d, const struct vfio_irq_set *set)
{
	const int32_t *efds = (const int32_t *)(const void *)set->data;
	uint32_t x = set->index, end = set->start + set->count;
	uint64_t one = 1;

	if (x >= 5)
		return fail(EINVAL);
	if (!(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER))
		return x == VFIO_PCI_INTX_IRQ_INDEX ? 0 : fail(ENOTTY);
	if (set->flags & VFIO_IRQ_SET_DATA_NONE) {
		if (!set->count) {
			for (int v = 0; v < FAKE_VECTORS; v++)
				d->fds[x][v] = -1;
			d->armed[x] = 0;
		}
		for (uint32_t v = set->start; v < end; v++)
			if (d->fds[x][v] >= 0 &&
			    write(d->fds[x][v], &one, sizeof(one)) != sizeof(one))
				abort();
		return 0;
	}
	if (set->argsz < sizeof(*set) + set->count * sizeof(int32_t))
		return fail(EINVAL);
	for (uint32_t o = 0; x < 3 && o < 3; o++)
		if (o != x && d->armed[o])
			return fail(EINVAL);
	if (d->armed[x] && end > d->armed[x] && !fake.msi_resize)
		return fail(EINVAL);
	if (fake.vectors_available && end > (uint32_t)fake.vectors_available)
		return fake.vectors_available;
	for (uint32_t v = set->start; v < end; v++) {
		if (efds[v - set->start] >= 0 && fcntl(efds[v - set->start], F_GETFD) < 0)
			return fail(EBADF);
		d->fds[x][v] = efds[v - set->start];
	}
	d->armed[x] = SVIO_MAX(d->armed[x], end);
	d->arms[x]++;
	return 0;
}

static int hot_info(int self, struct vfio_pci_hot_reset_info *info)
{
	/* The bus of the function: .0 and .1 of bus 1 in group 7; bus 2 holds 8 and 9. */
	struct vfio_pci_dependent_device list[3];
	uint32_t n = 0;

	for (int i = 0; i < FAKE_DEVICES; i++) {
		if ((i < 2) != (self < 2))
			continue;
		list[n++] = (struct vfio_pci_dependent_device){
			.group_id = (uint32_t)fake.dev[i].group,
			.bus = i < 2 ? 1 : 2,
			.devfn = i == 1	  ? 1
				 : i == 3 ? 0x80
					  : 0,
		};
	}
	if (fake.foreign_hot)
		list[n++] = (struct vfio_pci_dependent_device){ .group_id = 99, .bus = 3 };
	info->count = n;
	if (info->argsz < sizeof(*info) + n * sizeof(list[0]))
		return fail(ENOSPC);
	memcpy(info->devices, list, n * sizeof(list[0]));
	return 0;
}

static int hot_reset(int self, const struct vfio_pci_hot_reset *req)
{
	for (int i = 0; i < FAKE_DEVICES; i++) {
		bool shown = false;

		if ((i < 2) != (self < 2))
			continue;
		for (uint32_t f = 0; f < req->count; f++)
			shown |= fds[req->group_fds[f]].what == GROUP &&
				 &groups[fds[req->group_fds[f]].index] ==
					 group_of(fake.dev[i].group);
		if (!shown)
			return fail(EINVAL);
	}
	if (fake.reset_eagain) {
		if (fake.reset_eagain > 0)
			fake.reset_eagain--;
		return fail(EAGAIN);
	}
	for (int i = 0; i < FAKE_DEVICES; i++) {
		if ((i < 2) == (self < 2)) {
			function_init(i);
			fake.dev[i].resets++;
		}
	}
	fake.hot_resets++;
	fake.hot_fds = req->count;
	return 0;
}

static int device_ioctl(int i, unsigned long request, void *arg)
{
	struct fake_device *d = &fake.dev[i];
	struct vfio_device_info *info = arg;
	struct vfio_device_feature *feature = arg;

	switch (request) {
	case VFIO_DEVICE_GET_INFO:
		info->flags = VFIO_DEVICE_FLAGS_PCI | (fake.no_reset ? 0 : VFIO_DEVICE_FLAGS_RESET);
		info->num_regions = 9;
		info->num_irqs = 5;
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return region_info(arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return irq_info(arg);
	case VFIO_DEVICE_SET_IRQS:
		return set_irqs(d, arg);
	case VFIO_DEVICE_RESET:
		if (fake.reset_eagain) {
			if (fake.reset_eagain > 0)
				fake.reset_eagain--;
			return fail(EAGAIN);
		}
		function_init(i);
		d->resets++;
		return 0;
	case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
		return hot_info(i, arg);
	case VFIO_DEVICE_PCI_HOT_RESET:
		return hot_reset(i, arg);
	case VFIO_DEVICE_FEATURE:
		if ((feature->flags & VFIO_DEVICE_FEATURE_MASK) != VFIO_DEVICE_FEATURE_PCI_VF_TOKEN)
			return fail(ENOTTY);
		if (feature->flags & VFIO_DEVICE_FEATURE_GET)
			memset(feature->data, 0x5a, feature->argsz - sizeof(*feature));
		return 0;
	default:
		return fail(ENOTTY);
	}
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	if (fd < 0 || fd >= MAX_FDS)
		return fail(EBADF);
	switch (fds[fd].what) {
	case CONTAINER:
		return container_ioctl(&containers[fds[fd].index], request, arg);
	case GROUP:
		return group_ioctl(&groups[fds[fd].index], request, arg);
	case DEVICE:
		return device_ioctl(fds[fd].index, request, arg);
	default:
		return fail(ENOTTY);
	}
}

/* ---- region access --------------------------------------------------------------------------------------- */

static bool bar_dead(int fd, off_t off)
{
	return fd >= 0 && fd < MAX_FDS && fds[fd].what == DEVICE &&
	       (uint64_t)off < REGION_OFFSET(7) && !fake.dev[fds[fd].index].is_vf &&
	       !(fake_command(fds[fd].index) & PCI_COMMAND_MEMORY);
}

static ssize_t fake_pread(int fd, void *buf, size_t n, off_t off)
{
	if (bar_dead(fd, off))
		return fail(EIO);
	if (fake.bus_gone && fd >= 0 && fd < MAX_FDS && fds[fd].what == DEVICE) {
		memset(buf, 0xff, n);
		return (ssize_t)n;
	}
	return __real_pread64(fd, buf, n, off);
}

static ssize_t fake_pwrite(int fd, const void *buf, size_t n, off_t off)
{
	uint16_t cmd;

	if (bar_dead(fd, off))
		return fail(EIO);
	if (fd >= 0 && fd < MAX_FDS && fds[fd].what == DEVICE &&
	    (uint64_t)off == REGION_OFFSET(7) + PCI_COMMAND && n == 2 &&
	    fake.dev[fds[fd].index].is_vf) {
		memcpy(&cmd, buf, 2);
		cmd &= (uint16_t)~PCI_COMMAND_MEMORY; /* hard-wired to 0 */
		return __real_pwrite64(fd, &cmd, 2, off);
	}
	return __real_pwrite64(fd, buf, n, off);
}

/* ---- sysfs ------------------------------------------------------------------------------------------------ */

int __wrap_svio_pci_get(const struct svio_pci_addr *addr, struct svio_pci_info *info)
{
	char name[SVIO_PCI_ADDR_STRLEN];

	svio_pci_format_addr(addr, name);
	memset(info, 0, sizeof(*info));
	for (int i = 0; i < FAKE_DEVICES; i++) {
		if (strcmp(name, fake_names[i]) != 0)
			continue;
		info->addr = *addr;
		strcpy(info->name, name);
		info->vendor = 0x8086;
		info->device = (uint16_t)(0x1000 + i);
		info->iommu_group = fake.dev[i].group;
		info->numa_node = 1;
		info->is_vf = fake.dev[i].is_vf;
		info->has_driver = true;
		strcpy(info->driver, "vfio-pci");
		return 0;
	}
	/* A function that VFIO does not have. */
	if (strcmp(name, "0000:09:00.0") == 0) {
		strcpy(info->name, name);
		info->iommu_group = 42;
		info->has_driver = true;
		strcpy(info->driver, "nvme");
		return 0;
	}
	if (strcmp(name, "0000:09:00.1") == 0) {
		strcpy(info->name, name);
		info->iommu_group = -1;
		return 0;
	}
	return svio_fail(ENODEV, "%s: no such device", name);
}

int __wrap_svio_pci_group_explain(int group)
{
	return svio_fail(
		EPERM,
		"group %d not viable: 0000:01:00.1 is bound to nvme; run: svio bind 0000:01:00.1",
		group);
}
