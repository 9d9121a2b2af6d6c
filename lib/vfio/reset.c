/* SPDX-License-Identifier: BSD-3-Clause */
/* Orderly function reset, and orderly loss and return of memory decoding. */
#include <string.h>
#include <time.h>
#include "vfio_priv.h"

/*
 * The kernel only tries its locks (pci_try_reset_function): contention is -EAGAIN and passes. The wait between attempts is how
 * long another owner of a kernel lock may take; there is nothing to wait for that would tell.
 */
int svio__reset_retry(int (*fire)(struct svio_device *dev, void *ctx), struct svio_device *dev,
		      void *ctx)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	uint64_t end = svio_now_ns() + SVIO__RESET_TRY_NS;
	int err;

	for (;;) {
		err = fire(dev, ctx);
		if (err != -EAGAIN || svio_now_ns() >= end)
			return err;
		nanosleep(&pause, NULL);
	}
}

int svio__reset_restore(struct svio_device *dev)
{
	int err = svio__config_restore(dev);

	if (!err)
		err = svio__irqs_rearm(dev);
	if (err)
		return svio_fail_prefix(err, "%s: after the reset", dev->name);
	svio_device_event_set(dev, SVIO_EV_RESET);
	return 0;
}

static int fire_function(struct svio_device *dev, void *ctx)
{
	(void)ctx;
	return dev->ops->reset(dev);
}

static int function_reset(struct svio_device *dev)
{
	int err = svio__reset_retry(fire_function, dev, NULL);

	if (err == -ENODEV)
		return svio__gone(dev, "the device is gone");
	if (err)
		return svio_fail(err, "%s: reset: %s", dev->name,
				 err == -EAGAIN ? "the kernel's locks stayed taken for 200 ms"
						: strerror(-err));
	return svio__reset_restore(dev);
}

static bool decoding(const struct svio_device *dev)
{
	return dev->info.is_vf || dev->command & PCI_COMMAND_MEMORY;
}

int svio_device_reset(struct svio_device *dev)
{
	int err;

	if (!dev->info.can_reset || !dev->ops->reset)
		return svio_fail(
			ENOTTY,
			"%s: the function cannot be reset alone; try a hot reset of its bus or slot",
			dev->name);
	pthread_mutex_lock(&dev->lock);
	svio__hooks_prepare(dev);
	err = function_reset(dev);
	/* Reset while decoding is off: the hooks go on when svio_device_set_memory() turns it on. */
	if (decoding(dev) || err == -ENODEV)
		svio__hooks_done(dev, err);
	pthread_mutex_unlock(&dev->lock);
	return err;
}

int svio_device_set_memory(struct svio_device *dev, bool on)
{
	uint16_t value = on ? PCI_COMMAND_MEMORY : 0;
	int err;

	if (dev->info.is_vf)
		return svio_fail(
			EOPNOTSUPP,
			"%s: a virtual function has no memory enable bit; that of its physical function rules",
			dev->name);
	pthread_mutex_lock(&dev->lock);
	if (!on)
		svio__hooks_prepare(dev);
	err = svio__config_command(dev, PCI_COMMAND_MEMORY, value);
	if (!err)
		dev->command = (uint16_t)((dev->command & ~PCI_COMMAND_MEMORY) | value);
	/* On: go on. Off that failed: nothing has changed, so go on as well. */
	if (on || err)
		svio__hooks_done(dev, err);
	pthread_mutex_unlock(&dev->lock);
	return err;
}
