/* SPDX-License-Identifier: BSD-3-Clause */
/* A VFIO device descriptor of Linux: the operations that group and cdev share. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "vfio_priv.h"

static int kdev_ioctl(struct svio_device *dev, unsigned long request, void *arg)
{
	int ret;

	if (dev->fd < 0)
		return -ENODEV;
	do
		ret = ioctl(dev->fd, request, arg);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : ret;
}

int svio__kdev_info(struct svio_device *dev, struct vfio_device_info *info)
{
	return kdev_ioctl(dev, VFIO_DEVICE_GET_INFO, info);
}

int svio__kdev_region_info(struct svio_device *dev, struct vfio_region_info *info)
{
	return kdev_ioctl(dev, VFIO_DEVICE_GET_REGION_INFO, info);
}

ssize_t svio__kdev_read(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos,
			void *buf, size_t len)
{
	ssize_t n;

	(void)region;
	if (dev->fd < 0)
		return -ENODEV;
	n = pread(dev->fd, buf, len, (off_t)(offset + pos));
	return n < 0 ? -errno : n;
}

ssize_t svio__kdev_write(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos,
			 const void *buf, size_t len)
{
	ssize_t n;

	(void)region;
	if (dev->fd < 0)
		return -ENODEV;
	n = pwrite(dev->fd, buf, len, (off_t)(offset + pos));
	return n < 0 ? -errno : n;
}

int svio__kdev_mmap(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos,
		    size_t len, int prot, int flags, void *where, void **addr)
{
	void *p;

	(void)region;
	if (dev->fd < 0)
		return -ENODEV;
	p = mmap(where, len, prot, flags, dev->fd, (off_t)(offset + pos));
	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

int svio__kdev_irq_info(struct svio_device *dev, struct vfio_irq_info *info)
{
	return kdev_ioctl(dev, VFIO_DEVICE_GET_IRQ_INFO, info);
}

int svio__kdev_irq_set(struct svio_device *dev, uint32_t index, uint32_t flags, uint32_t start,
		       uint32_t count, const int *fds)
{
	union {
		struct vfio_irq_set set;
		uint8_t room[sizeof(struct vfio_irq_set) + SVIO__MAX_VECTORS * sizeof(int32_t)];
	} u;
	size_t data = fds ? count * sizeof(int32_t) : 0;

	if (data > sizeof(u) - sizeof(u.set))
		return -EINVAL;
	u.set = (struct vfio_irq_set){
		.argsz = (uint32_t)(sizeof(u.set) + data),
		.flags = flags,
		.index = index,
		.start = start,
		.count = count,
	};
	if (data)
		memcpy(u.room + sizeof(u.set), fds, data);
	return kdev_ioctl(dev, VFIO_DEVICE_SET_IRQS, &u.set);
}

int svio__kdev_reset(struct svio_device *dev)
{
	return kdev_ioctl(dev, VFIO_DEVICE_RESET, NULL);
}

int svio__kdev_feature(struct svio_device *dev, struct vfio_device_feature *feature)
{
	return kdev_ioctl(dev, VFIO_DEVICE_FEATURE, feature);
}

/* The kernel answers -ENOSPC and the count when the table is too small, and the count may grow in between. */
int svio__kdev_hot_reset_info(struct svio_device *dev, struct svio__hot_reset *hr)
{
	uint32_t room = 0, max = SVIO__REPLY_MAX / sizeof(struct vfio_pci_dependent_device);
	struct vfio_pci_hot_reset_info *info;
	int err;

	for (;;) {
		size_t size = sizeof(*info) + room * sizeof(info->devices[0]);

		info = calloc(1, size);
		if (!info)
			return svio_fail(ENOMEM,
					 "%s: out of memory for %u functions of a hot reset",
					 dev->name, room);
		info->argsz = (uint32_t)size;
		err = kdev_ioctl(dev, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
		if (!err && info->count <= room)
			break;
		if ((err && err != -ENOSPC) || info->count <= room || info->count > max) {
			free(info);
			if (err && err != -ENOSPC)
				return svio_fail(err == -ENODEV ? -ENOTTY : err,
						 "%s: neither its slot nor its bus can be reset",
						 dev->name);
			return svio_fail(EPROTO,
					 "%s: the list of functions of a hot reset makes no sense",
					 dev->name);
		}
		room = info->count;
		free(info);
	}
	hr->num_devices = info->count;
	hr->devices = NULL;
	if (info->count) {
		hr->devices = calloc(info->count, sizeof(*hr->devices));
		if (!hr->devices) {
			free(info);
			return svio_fail(ENOMEM, "%s: out of memory for a hot reset", dev->name);
		}
		memcpy(hr->devices, info->devices, info->count * sizeof(*hr->devices));
	}
	free(info);
	return 0;
}

int svio__kdev_hot_reset_fire(struct svio_device *dev, struct svio__hot_reset *hr)
{
	size_t size = sizeof(struct vfio_pci_hot_reset) + hr->num_fds * sizeof(int32_t);
	struct vfio_pci_hot_reset *req = calloc(1, size);
	int err;

	if (!req)
		return svio_fail(ENOMEM, "%s: out of memory for a hot reset", dev->name);
	req->argsz = (uint32_t)size;
	req->count = hr->num_fds;
	if (hr->num_fds)
		memcpy(req->group_fds, hr->fds, hr->num_fds * sizeof(int32_t));
	err = kdev_ioctl(dev, VFIO_DEVICE_PCI_HOT_RESET, req);
	free(req);
	return err;
}
