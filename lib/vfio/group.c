/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Linux VFIO by groups: /dev/vfio/N, a container, and a device descriptor.
 *
 * The kernel lets one open descriptor of a group exist in the whole system, so functions of one group that this process opens
 * share it: groups are counted here. They share the container as well, since a container holds whole groups; moving one
 * function to another domain moves its neighbours, which is refused while they are in use.
 *
 * Order, from <linux/vfio.h>: container open, group open and viable, SET_CONTAINER, SET_IOMMU (first group),
 * GET_DEVICE_FD. Back: device closed, UNSET_CONTAINER, group closed, container closed.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "vfio_priv.h"

struct group {
	struct group *next;
	int number, fd;
	uint32_t users;
	struct svio_dma_domain *domain; /* a reference */
	struct svio_device *devices;
};

static struct group *groups;
static pthread_mutex_t group_lock = PTHREAD_MUTEX_INITIALIZER;

static void group_path(char *buf, size_t size, int number)
{
	snprintf(buf, size, "/dev/vfio/%d", number);
}

static int group_open_fd(int number)
{
	char path[32];
	int fd;

	group_path(path, sizeof(path), number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Put the group into the container, and bind the IOMMU when it is the first one there. */
static int group_attach(struct group *g, struct svio_dma_domain *domain, const char *who)
{
	int err;

	if (ioctl(g->fd, VFIO_GROUP_SET_CONTAINER, &domain->fd) < 0) {
		err = errno;
		/* With an IOMMU already in the container the kernel tries to join its domain here. */
		if (domain->groups && (err == EINVAL || err == ENODEV))
			return svio_fail(
				EXDEV,
				"%s: IOMMU group %d cannot share an address space with the devices already "
				"in it",
				who, g->number);
		if (err == EPERM)
			return svio_fail(
				err,
				"%s: the kernel refuses IOMMU group %d to VFIO: it is not isolated",
				who, g->number);
		return svio_fail(err, "%s: IOMMU group %d cannot join a container: %s", who,
				 g->number, strerror(err));
	}
	if (domain->groups == 0) {
		err = svio__container_set_iommu(domain, who);
		if (err) {
			ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER);
			return err;
		}
	}
	domain->groups++;
	svio_dma_domain_get(domain);
	g->domain = domain;
	return 0;
}

/* The kernel has let go of the group (UNSET_CONTAINER succeeded, or its descriptor is closed). */
static void group_detached(struct group *g)
{
	struct svio_dma_domain *domain = g->domain;

	g->domain = NULL;
	if (--domain->groups == 0)
		domain->mappings = 0;
	svio_dma_domain_put(domain);
}

static int group_viable(struct group *g, const struct svio_pci_info *pci)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int err;

	if (ioctl(g->fd, VFIO_GROUP_GET_STATUS, &status) < 0) {
		err = errno;
		return svio_fail(err, "%s: status of IOMMU group %d: %s", pci->name, g->number,
				 strerror(err));
	}
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return svio__explain_viability(pci);
	return 0;
}

static int group_get(const struct svio_pci_info *pci, struct group **gp)
{
	struct svio_dma_domain *domain = NULL;
	struct group *g;
	int err;

	for (g = groups; g; g = g->next) {
		if (g->number == pci->iommu_group) {
			g->users++;
			*gp = g;
			return 0;
		}
	}
	/* Before the group, so that a machine without VFIO hears of that first. */
	err = svio__container_new(&domain);
	if (err)
		return err;
	g = calloc(1, sizeof(*g));
	if (!g) {
		err = svio_fail(ENOMEM, "%s: out of memory", pci->name);
		goto put_domain;
	}
	g->number = pci->iommu_group;
	g->users = 1;
	g->fd = group_open_fd(g->number);
	if (g->fd < 0) {
		err = svio__explain_group(-g->fd, pci);
		goto free_group;
	}
	err = group_viable(g, pci);
	if (err)
		goto close_group;
	err = group_attach(g, domain, pci->name);
	if (err)
		goto close_group;
	svio_dma_domain_put(domain); /* the group holds it now */
	g->next = groups;
	groups = g;
	*gp = g;
	return 0;

close_group:
	close(g->fd);
free_group:
	free(g);
put_domain:
	svio_dma_domain_put(domain);
	return err;
}

static void group_put(struct group *g, bool forked)
{
	struct group **pp;

	if (--g->users)
		return;
	for (pp = &groups; *pp != g; pp = &(*pp)->next)
		;
	*pp = g->next;
	/* A child shares the descriptors: it must not take the group out of its parent's container. */
	if (!forked)
		ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER);
	close(g->fd);
	group_detached(g);
	free(g);
}

static int device_fd(struct group *g, const char *name, const char *token)
{
	char text[SVIO_PCI_ADDR_STRLEN + sizeof(" vf_token=") + SVIO__TOKEN_LEN];
	int fd;

	if (token[0])
		snprintf(text, sizeof(text), "%s vf_token=%s", name, token);
	else
		snprintf(text, sizeof(text), "%s", name);
	fd = ioctl(g->fd, VFIO_GROUP_GET_DEVICE_FD, text);
	return fd < 0 ? -errno : fd;
}

static int group_open(struct svio_device *dev, const struct svio_device_opts *opts)
{
	struct svio_pci_info pci;
	struct group *g = NULL;
	int err;

	(void)opts;
	err = svio_pci_parse_addr(dev->name, &dev->addr);
	if (err)
		return svio_fail(
			EINVAL,
			"%s: not a device name; expected a PCI address such as 0000:01:00.0 (see: svio list), "
			"user:SOCKET or sim:MODEL",
			dev->name);
	err = svio_pci_get(&dev->addr, &pci);
	if (err)
		return err;
	memcpy(dev->name, pci.name, sizeof(pci.name));
	dev->info.numa_node = pci.numa_node;
	dev->info.iommu_group = pci.iommu_group;
	dev->info.is_vf = pci.is_vf;
	if (pci.iommu_group < 0)
		return svio__explain_no_iommu(&pci);

	pthread_mutex_lock(&group_lock);
	err = group_get(&pci, &g);
	if (err)
		goto unlock;
	for (struct svio_device *d = g->devices; d; d = d->group_next) {
		if (strcmp(d->name, dev->name) == 0) {
			err = svio_fail(
				EBUSY,
				"%s: already open in this process; share its struct svio_device, or close "
				"it first",
				dev->name);
			goto put;
		}
	}
	dev->fd = device_fd(g, dev->name, dev->vf_token);
	if (dev->fd < 0) {
		err = svio__explain_device(-dev->fd, &pci, dev->vf_token);
		goto put;
	}
	dev->priv = g;
	dev->domain = g->domain;
	dev->group_next = g->devices;
	g->devices = dev;
	pthread_mutex_unlock(&group_lock);
	return 0;
put:
	group_put(g, false);
unlock:
	pthread_mutex_unlock(&group_lock);
	return err;
}

static void group_close(struct svio_device *dev, bool forked)
{
	struct group *g = dev->priv;
	struct svio_device **pp;

	/* In a forked child the lock may be held by a thread that does not exist here; the child has one thread. */
	if (!forked)
		pthread_mutex_lock(&group_lock);
	if (dev->fd >= 0)
		close(dev->fd);
	dev->fd = -1;
	for (pp = &g->devices; *pp != dev; pp = &(*pp)->group_next)
		;
	*pp = dev->group_next;
	group_put(g, forked);
	if (!forked)
		pthread_mutex_unlock(&group_lock);
}

/* ---- moving to another container ------------------------------------------------------------------- */

static void devices_close(struct group *g)
{
	for (struct svio_device *d = g->devices; d; d = d->group_next) {
		if (d->fd >= 0)
			close(d->fd);
		d->fd = -1;
	}
}

/* The kernel resets a function when its last descriptor is closed; what we had set on it is set again. */
static int devices_reopen(struct group *g)
{
	int err, first = 0;

	for (struct svio_device *d = g->devices; d; d = d->group_next) {
		d->domain = g->domain;
		d->fd = device_fd(g, d->name, d->vf_token);
		if (d->fd < 0) {
			err = svio_fail(-d->fd,
					"%s: cannot be opened again in another address space: %s",
					d->name, strerror(-d->fd));
			d->fd = -1;
		} else {
			err = svio__config_restore(d);
			if (!err)
				err = svio__irqs_rearm(d);
		}
		if (err && !first)
			first = err;
	}
	return first;
}

static int move_allowed(struct group *g, const struct svio_device *dev)
{
	if (g->domain->mappings && g->domain->groups == 1)
		return svio_fail(
			EBUSY,
			"%s: %llu DMA mappings would be lost with the address space; unmap them first",
			dev->name, (unsigned long long)g->domain->mappings);
	for (struct svio_device *d = g->devices; d; d = d->group_next)
		if (svio__irqs_in_use(d))
			return svio_fail(
				EBUSY,
				"%s: %s (IOMMU group %d) has interrupts enabled; attach address spaces before "
				"svio_device_irq_enable()",
				dev->name, d->name, g->number);
	return 0;
}

/* Back where it was. What cannot be brought back is gone, and its owner learns it by event. */
static void move_undo(struct group *g, struct svio_dma_domain *old)
{
	int err = 0;

	if (!g->domain)
		err = group_attach(g, old, "address space");
	if (!err)
		devices_reopen(g);
	for (struct svio_device *d = g->devices; d; d = d->group_next)
		if (d->fd < 0)
			svio__gone(d, "lost while it was moved between address spaces");
}

static int group_set_domain(struct svio_device *dev, struct svio_dma_domain *domain)
{
	struct svio_dma_domain *fresh = NULL, *old;
	struct group *g = dev->priv;
	int err;

	pthread_mutex_lock(&group_lock);
	if (domain == g->domain) {
		err = 0;
		goto unlock;
	}
	err = move_allowed(g, dev);
	if (err)
		goto unlock;
	if (!domain) {
		err = svio__container_new(&fresh);
		if (err)
			goto unlock;
		domain = fresh;
	}
	old = g->domain;
	svio_dma_domain_get(old);

	devices_close(g);
	if (ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER) < 0) {
		err = errno;
		/* A mapped BAR keeps the device's file open, and with it the group in its container. */
		devices_reopen(g);
		err = svio_fail(
			err,
			err == EBUSY
				? "%s: BARs of IOMMU group %d are mapped; attach address spaces before "
				  "svio_bar_map()"
				: "%s: IOMMU group %d cannot leave its address space",
			dev->name, g->number);
		goto put_old;
	}
	group_detached(g);
	err = group_attach(g, domain, dev->name);
	if (!err) {
		err = devices_reopen(g);
		if (err) {
			devices_close(g);
			if (ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER) == 0)
				group_detached(g);
		}
	}
	if (err)
		move_undo(g, old);
put_old:
	svio_dma_domain_put(old);
	if (fresh)
		svio_dma_domain_put(fresh);
unlock:
	pthread_mutex_unlock(&group_lock);
	return err;
}

/* ---- hot reset -------------------------------------------------------------------------------------- */

static int hot_reset_fd(struct svio_device *dev, const struct vfio_pci_dependent_device *d,
			bool *owned)
{
	struct svio_pci_addr addr = {
		.domain = d->segment,
		.bus = d->bus,
		.dev = d->devfn >> 3,
		.fn = d->devfn & 7,
	};
	char name[SVIO_PCI_ADDR_STRLEN], path[32], who[32] = "";
	pid_t pid;
	int fd;

	for (struct group *g = groups; g; g = g->next) {
		if ((uint32_t)g->number == d->group_id) {
			*owned = false;
			return g->fd;
		}
	}
	/* Nobody may have it: then it is ours to open for the moment, and the kernel lets us reset it. */
	*owned = true;
	fd = group_open_fd((int)d->group_id);
	if (fd >= 0)
		return fd;
	svio_pci_format_addr(&addr, name);
	group_path(path, sizeof(path), (int)d->group_id);
	pid = svio__who_has(path);
	if (pid)
		snprintf(who, sizeof(who), " (process %d)", (int)pid);
	if (fd == -EBUSY)
		return svio_fail(
			EBUSY,
			"%s: a hot reset also resets %s, whose IOMMU group %u belongs to another "
			"process%s; end that first",
			dev->name, name, d->group_id, who);
	return svio_fail(
		EBUSY,
		"%s: a hot reset also resets %s (IOMMU group %u), which VFIO does not own; "
		"run: svio bind %s",
		dev->name, name, d->group_id, name);
}

static void group_hot_reset_end(struct svio__hot_reset *hr)
{
	for (uint32_t i = hr->num_fds - hr->num_owned; i < hr->num_fds; i++)
		close(hr->fds[i]);
	free(hr->fds);
	free(hr->devices);
}

static int group_hot_reset_begin(struct svio_device *dev, struct svio__hot_reset *hr)
{
	bool owned;
	int err, fd;

	memset(hr, 0, sizeof(*hr));
	err = svio__kdev_hot_reset_info(dev, hr);
	if (err)
		return err;
	hr->fds = calloc(hr->num_devices ? hr->num_devices : 1, sizeof(*hr->fds));
	if (!hr->fds) {
		group_hot_reset_end(hr);
		return svio_fail(ENOMEM, "%s: out of memory for a hot reset", dev->name);
	}
	pthread_mutex_lock(&group_lock);
	/* Our groups first, then those opened for this: hot_reset_end() closes the tail. */
	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t i = 0; i < hr->num_devices; i++) {
			bool seen = false, ours = false;

			for (uint32_t j = 0; j < i; j++)
				seen |= hr->devices[j].group_id == hr->devices[i].group_id;
			for (struct group *g = groups; g; g = g->next)
				ours |= (uint32_t)g->number == hr->devices[i].group_id;
			if (seen || ours != (pass == 0))
				continue;
			fd = hot_reset_fd(dev, &hr->devices[i], &owned);
			if (fd < 0) {
				pthread_mutex_unlock(&group_lock);
				group_hot_reset_end(hr);
				return fd;
			}
			hr->fds[hr->num_fds++] = fd;
			hr->num_owned += owned;
		}
	}
	pthread_mutex_unlock(&group_lock);
	return 0;
}

const struct svio__transport_ops svio__group_ops = {
	.transport = SVIO_TRANSPORT_GROUP,
	.open = group_open,
	.close = group_close,
	.info = svio__kdev_info,
	.region_info = svio__kdev_region_info,
	.region_read = svio__kdev_read,
	.region_write = svio__kdev_write,
	.region_mmap = svio__kdev_mmap,
	.irq_info = svio__kdev_irq_info,
	.irq_set = svio__kdev_irq_set,
	.reset = svio__kdev_reset,
	.hot_reset_begin = group_hot_reset_begin,
	.hot_reset_fire = svio__kdev_hot_reset_fire,
	.hot_reset_end = group_hot_reset_end,
	.feature = svio__kdev_feature,
	.set_domain = group_set_domain,
	.domain_free = svio__container_free,
	.domain_info = svio__container_info,
	.domain_map = svio__container_map,
	.domain_unmap = svio__container_unmap,
	.domain_dirty_set = svio__container_dirty_set,
	.domain_dirty_get = svio__container_dirty_get,
	.domain_unmap_dirty = svio__container_unmap_dirty,
};
