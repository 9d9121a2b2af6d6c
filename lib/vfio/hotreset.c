/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hot reset: a whole bus or slot. VFIO_DEVICE_GET_PCI_HOT_RESET_INFO names the functions that go with it,
 * VFIO_DEVICE_PCI_HOT_RESET wants to see a descriptor of each of their groups as proof that they are ours.
 */
#include <stdlib.h>
#include <string.h>
#include "vfio_priv.h"

/* One at a time: it takes the locks of several devices. */
static pthread_mutex_t hot_lock = PTHREAD_MUTEX_INITIALIZER;

struct affected {
	const struct svio__hot_reset *hr;
	struct svio_device **devs;
	uint32_t num, room;
};

static void collect(void *ctx, struct svio_device *dev)
{
	struct affected *a = ctx;

	if (dev->ops->transport == SVIO_TRANSPORT_USER)
		return;
	for (uint32_t i = 0; i < a->hr->num_devices; i++) {
		const struct vfio_pci_dependent_device *d = &a->hr->devices[i];

		if (dev->addr.domain == d->segment && dev->addr.bus == d->bus &&
		    (dev->addr.dev << 3 | dev->addr.fn) == d->devfn && a->num < a->room) {
			a->devs[a->num++] = dev;
			return;
		}
	}
}

static int fire_hot(struct svio_device *dev, void *ctx)
{
	return dev->ops->hot_reset_fire(dev, ctx);
}

/*
 * Did the kernel refuse before it touched anything? Other errors (-ENOTTY of a bridge whose link does not come up again in time)
 * come after the bus was reset.
 */
static bool untouched(int err)
{
	return err == -EAGAIN || err == -EBUSY || err == -EINVAL || err == -EPERM || err == -ENOMEM;
}

static int explain_fire(struct svio_device *dev, int err)
{
	switch (err) {
	case 0:
		return 0;
	case -EAGAIN:
		return svio_fail(
			err, "%s: hot reset: the kernel's locks stayed taken for 200 ms; try again",
			dev->name);
	case -EINVAL:
	case -EPERM:
	case -EBUSY:
		return svio_fail(
			EBUSY,
			"%s: the kernel refuses the hot reset: a function on the bus is neither ours nor unbound; "
			"see: svio list",
			dev->name);
	default:
		return svio_fail(err, "%s: hot reset: %s; see dmesg", dev->name, strerror(-err));
	}
}

static int reset_all(struct svio_device *dev, struct svio__hot_reset *hr, struct affected *a)
{
	int err, each, first = 0;
	bool touched;

	for (uint32_t i = 0; i < a->num; i++) {
		pthread_mutex_lock(&a->devs[i]->lock);
		svio__hooks_prepare(a->devs[i]);
	}
	err = svio__reset_retry(fire_hot, dev, hr);
	touched = !untouched(err);
	for (uint32_t i = a->num; i-- > 0;) {
		each = touched ? svio__reset_restore(a->devs[i]) : 0;
		if (each && !first)
			first = each;
		each = err ? err : each;
		if (a->devs[i]->info.is_vf || a->devs[i]->command & PCI_COMMAND_MEMORY ||
		    each == -ENODEV)
			svio__hooks_done(a->devs[i], each);
		pthread_mutex_unlock(&a->devs[i]->lock);
	}
	return err ? explain_fire(dev, err) : first;
}

int svio_device_hot_reset(struct svio_device *dev)
{
	struct affected a = { 0 };
	struct svio__hot_reset hr;
	int err;

	if (!dev->ops->hot_reset_begin)
		return svio_fail(ENOTTY, "%s: no hot reset by this transport", dev->name);
	pthread_mutex_lock(&hot_lock);
	err = dev->ops->hot_reset_begin(dev, &hr);
	if (err)
		goto unlock;
	a.hr = &hr;
	a.room = hr.num_devices ? hr.num_devices : 1;
	a.devs = calloc(a.room, sizeof(struct svio_device *));
	if (!a.devs) {
		err = svio_fail(ENOMEM, "%s: out of memory for a hot reset", dev->name);
		goto end;
	}
	svio__devices_each(collect, &a);
	err = reset_all(dev, &hr, &a);
	free(a.devs);
end:
	dev->ops->hot_reset_end(&hr);
unlock:
	pthread_mutex_unlock(&hot_lock);
	return err;
}
