/* SPDX-License-Identifier: BSD-3-Clause */
/* Open and close, and the list of what this process has open. */
#include <stdlib.h>
#include <string.h>
#include "vfio_priv.h"

static struct svio_device *devices;
static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;

static void list_add(struct svio_device *dev)
{
	pthread_mutex_lock(&devices_lock);
	dev->next = devices;
	devices = dev;
	dev->opened = true;
	pthread_mutex_unlock(&devices_lock);
}

static void list_remove(struct svio_device *dev, bool forked)
{
	struct svio_device **pp;

	if (!forked)
		pthread_mutex_lock(&devices_lock);
	for (pp = &devices; *pp && *pp != dev; pp = &(*pp)->next)
		;
	if (*pp)
		*pp = dev->next;
	dev->opened = false;
	if (!forked)
		pthread_mutex_unlock(&devices_lock);
}

void svio__devices_each(void (*fn)(void *ctx, struct svio_device *dev), void *ctx)
{
	pthread_mutex_lock(&devices_lock);
	for (struct svio_device *d = devices; d; d = d->next)
		fn(ctx, d);
	pthread_mutex_unlock(&devices_lock);
}

int svio__gone(struct svio_device *dev, const char *what)
{
	svio_device_event_set(dev, SVIO_EV_GONE);
	return svio_fail(
		ENODEV,
		"%s: %s; close it and open the device again when it is back (see: svio list)",
		dev->name, what);
}

/* A UUID: 8-4-4-4-12 hexadecimal digits. What else might stand there would end up in the kernel's option string. */
static bool token_valid(const char *t)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	if (strlen(t) != SVIO__TOKEN_LEN)
		return false;
	for (size_t i = 0; i < SVIO__TOKEN_LEN; i++)
		if (form[i] == '-' ? t[i] != '-' : !strchr("0123456789abcdefABCDEF", t[i]))
			return false;
	return true;
}

/* The caller may have been built with a smaller struct, or with a larger one whose rest it left zero. */
static int opts_copy(struct svio_device_opts *to, const struct svio_device_opts *from)
{
	const uint32_t known = SVIO_DEVICE_NO_WATCH | SVIO_DEVICE_NO_RESET;

	memset(to, 0, sizeof(*to));
	if (!from)
		return 0;
	if (from->size < offsetof(struct svio_device_opts, vf_token))
		return svio_fail(EINVAL, "svio_device_opts.size is not set");
	for (size_t i = sizeof(*to); i < from->size; i++)
		if (((const char *)from)[i])
			return svio_fail(
				EINVAL,
				"svio_device_opts: an option this version does not know is set");
	memcpy(to, from, SVIO_MIN(from->size, sizeof(*to)));
	if (to->flags & ~known)
		return svio_fail(EINVAL, "svio_device_opts.flags: %#x unknown", to->flags & ~known);
	if (to->vf_token && !token_valid(to->vf_token))
		return svio_fail(
			EINVAL,
			"VF token \"%.40s\" is no UUID (xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)",
			to->vf_token);
	return 0;
}

static int device_info(struct svio_device *dev)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	int err = dev->ops->info(dev, &info);

	if (err)
		return svio_fail(err, "%s: VFIO device information: %s", dev->name, strerror(-err));
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI))
		return svio_fail(EOPNOTSUPP, "%s: not a PCI device (VFIO flags %#x)", dev->name,
				 info.flags);
	if (info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return svio_fail(
			EPROTO,
			"%s: claims %u regions; a PCI device has configuration space at index %d",
			dev->name, info.num_regions, VFIO_PCI_CONFIG_REGION_INDEX);
	dev->info.transport = dev->ops->transport;
	dev->info.num_regions = SVIO_MIN(info.num_regions, (uint32_t)SVIO__MAX_REGIONS);
	dev->info.num_irqs = SVIO_MIN(info.num_irqs, (uint32_t)SVIO__MAX_IRQS);
	dev->info.can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	return 0;
}

/* What a new owner needs: an untouched function. Where it cannot be reset alone, VFIO has done what could be done. */
static int first_reset(struct svio_device *dev)
{
	int err;

	if (dev->flags & SVIO_DEVICE_NO_RESET || !dev->info.can_reset ||
	    dev->ops->transport != SVIO_TRANSPORT_USER)
		return 0;
	err = dev->ops->reset ? dev->ops->reset(dev) : 0;
	return err ? svio_fail(err, "%s: reset at open: %s", dev->name, strerror(-err)) : 0;
}

static void device_free(struct svio_device *dev)
{
	pthread_mutex_destroy(&dev->lock);
	free(dev->regions);
	free(dev->irqs);
	free(dev);
}

int svio_device_open(const char *name, const struct svio_device_opts *user_opts,
		     struct svio_device **devp)
{
	const struct svio__transport_ops *ops;
	struct svio_device_opts opts;
	struct svio_device *dev;
	int err;

	*devp = NULL;
	if (!name || !name[0])
		return svio_fail(EINVAL, "no device name given");
	if (strlen(name) >= SVIO__NAME_MAX)
		return svio_fail(EINVAL, "%.40s...: device name longer than %d bytes", name,
				 SVIO__NAME_MAX - 1);
	err = opts_copy(&opts, user_opts);
	if (err)
		return err;
	ops = svio__transport(name);

	dev = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*dev), (size_t)SVIO_CACHELINE));
	if (!dev)
		return svio_fail(ENOMEM, "%s: out of memory", name);
	memset(dev, 0, sizeof(*dev));
	strcpy(dev->name, name);
	if (opts.vf_token)
		strcpy(dev->vf_token, opts.vf_token);
	dev->ops = ops;
	dev->fd = -1;
	dev->owner = getpid();
	dev->flags = opts.flags;
	dev->msg_timeout_ms = opts.msg_timeout_ms ? opts.msg_timeout_ms : 5000;
	dev->info.numa_node = -1;
	dev->info.iommu_group = -1;
	pthread_mutex_init(&dev->lock, NULL);

	err = ops->open(dev, &opts);
	if (err)
		goto free_dev;
	err = device_info(dev);
	if (err)
		goto close_dev;
	err = svio__regions_load(dev);
	if (err)
		goto close_dev;
	err = svio__irqs_load(dev);
	if (err)
		goto close_dev;
	err = first_reset(dev);
	if (err)
		goto close_dev;
	err = svio__config_open(dev);
	if (err)
		goto close_dev;
	err = svio__regions_hide_msix(dev);
	if (err)
		goto config_close;
	err = svio__notifiers_open(dev);
	if (err)
		goto config_close;
	list_add(dev);
	*devp = dev;
	return 0;

config_close:
	svio__config_close(dev);
close_dev:
	ops->close(dev, false);
free_dev:
	device_free(dev);
	return err;
}

void svio_device_close(struct svio_device *dev)
{
	bool forked;

	if (!dev)
		return;
	forked = svio__forked(dev);
	list_remove(dev, forked);
	svio__notifiers_close(dev);
	svio__irqs_close(dev);
	svio__mig_close(dev);
	if (!forked)
		svio__config_close(dev);
	dev->ops->close(dev, forked);
	device_free(dev);
}

const char *svio_device_name(const struct svio_device *dev)
{
	return dev->name;
}

void svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	*info = dev->info;
}
