/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts as eventfds: <linux/vfio.h>, VFIO_DEVICE_SET_IRQS.
 *
 * What is enabled is remembered, with the caller's descriptors, so that it can be armed again after a reset. The kernel
 * sets up one of INTx, MSI and MSI-X at a time.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include "vfio_priv.h"

static const char *const index_names[] = { "INTx", "MSI", "MSI-X", "ERR", "REQ" };

static const char *irq_name(uint32_t index)
{
	return index < SVIO_ARRAY_SIZE(index_names) ? index_names[index] : "interrupt";
}

int svio__irqs_load(struct svio_device *dev)
{
	uint32_t n = dev->info.num_irqs;

	dev->irqs = calloc(n ? n : 1, sizeof(*dev->irqs));
	if (!dev->irqs)
		return svio_fail(ENOMEM, "%s: out of memory for %u interrupt types", dev->name, n);
	for (uint32_t i = 0; i < n; i++) {
		struct vfio_irq_info raw = { .argsz = sizeof(raw), .index = i };
		int err = dev->ops->irq_info(dev, &raw);

		/* vfio-pci: no ERR without PCI Express. */
		if (err == -EINVAL)
			continue;
		if (err)
			return svio_fail(err, "%s: %s: %s", dev->name, irq_name(i), strerror(-err));
		dev->irqs[i].info = (struct svio_irq_info){
			.count = SVIO_MIN(raw.count, (uint32_t)SVIO__MAX_VECTORS),
			.eventfd = raw.flags & VFIO_IRQ_INFO_EVENTFD,
			.maskable = raw.flags & VFIO_IRQ_INFO_MASKABLE,
			.automasked = raw.flags & VFIO_IRQ_INFO_AUTOMASKED,
			.noresize = raw.flags & VFIO_IRQ_INFO_NORESIZE,
		};
	}
	return 0;
}

int svio_device_irq_info(struct svio_device *dev, uint32_t index, struct svio_irq_info *info)
{
	if (index >= dev->info.num_irqs)
		return svio_fail(EINVAL, "%s: no interrupt index %u", dev->name, index);
	*info = dev->irqs[index].info;
	return 0;
}

/* ---- arming ----------------------------------------------------------------------------------------- */

static int arm(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count,
	       const int *fds)
{
	int ret = dev->ops->irq_set(dev, index,
				    VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, start,
				    count, fds);

	/* vfio-pci returns how many vectors could be had when there are fewer. */
	if (ret > 0)
		return svio_fail(ENOSPC, "%s: the platform has %d %s vectors for it, not %u",
				 dev->name, ret, irq_name(index), start + count);
	if (ret == -ENODEV)
		return svio__gone(dev, "the device is gone");
	if (ret)
		return svio_fail(ret, "%s: %s vectors %u to %u cannot be enabled: %s", dev->name,
				 irq_name(index), start, start + count - 1, strerror(-ret));
	return 0;
}

static int disarm(struct svio_device *dev, uint32_t index)
{
	return dev->ops->irq_set(dev, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
				 0, 0, NULL);
}

static bool owned_by_watcher(const struct svio_device *dev, uint32_t index)
{
	return (dev->err.armed && index == dev->err.index) ||
	       (dev->req.armed && index == dev->req.index);
}

static int check_range(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count)
{
	uint32_t have = index < dev->info.num_irqs ? dev->irqs[index].info.count : 0;

	if (!count || start >= have || count > have - start)
		return svio_fail(EINVAL, "%s: has %u %s vectors; %u from %u on were asked for",
				 dev->name, have, irq_name(index), count, start);
	return 0;
}

static int check_enable(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count)
{
	int err = check_range(dev, index, start, count);

	if (err)
		return err;
	if (!dev->irqs[index].info.eventfd)
		return svio_fail(EOPNOTSUPP, "%s: %s cannot signal eventfds", dev->name,
				 irq_name(index));
	if (owned_by_watcher(dev, index))
		return svio_fail(
			EBUSY,
			"%s: %s is watched by svio (SVIO_EV_%s); open with SVIO_DEVICE_NO_WATCH to have it",
			dev->name, irq_name(index), irq_name(index));
	if (index == SVIO_IRQ_INTX && dev->info.pci_quirks & SVIO_PCI_QUIRK_BROKEN_INTX)
		return svio_fail(
			EOPNOTSUPP,
			"%s: the INTx status of this device (%04x:%04x) cannot be trusted; use MSI-X or poll",
			dev->name, dev->info.vendor, dev->info.device);
	for (uint32_t i = SVIO_IRQ_INTX;
	     index <= SVIO_IRQ_MSIX && i <= SVIO_IRQ_MSIX && i < dev->info.num_irqs; i++)
		if (i != index && dev->irqs[i].num)
			return svio_fail(
				EBUSY,
				"%s: %s is enabled; svio_device_irq_disable() it before enabling %s",
				dev->name, irq_name(i), irq_name(index));
	return 0;
}

int svio_device_irq_enable(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count,
			   const int *eventfds)
{
	struct svio__irq *irq;
	uint32_t num;
	int *fds, err;

	err = check_enable(dev, index, start, count);
	if (err)
		return err;
	irq = &dev->irqs[index];
	num = SVIO_MAX(irq->num, start + count);
	fds = malloc(num * sizeof(*fds));
	if (!fds)
		return svio_fail(ENOMEM, "%s: out of memory for %u vectors", dev->name, num);
	for (uint32_t i = 0; i < num; i++)
		fds[i] = i < irq->num ? irq->fds[i] : -1;
	memcpy(fds + start, eventfds, count * sizeof(*fds));

	if (!irq->num || !irq->info.noresize || num == irq->num) {
		/* The first call sets the number of vectors and begins at 0; later ones touch only their own. */
		err = irq->num ? arm(dev, index, start, count, fds + start)
			       : arm(dev, index, 0, num, fds);
	} else {
		/* The kernel cannot add vectors to this one: all off, and on again, or back to what was there. */
		disarm(dev, index);
		err = arm(dev, index, 0, num, fds);
		if (err &&
		    dev->ops->irq_set(dev, index,
				      VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0,
				      irq->num, irq->fds) != 0) {
			svio_fail_prefix(err, "%s: interrupts are off now", dev->name);
			free(irq->fds);
			irq->fds = NULL;
			irq->num = 0;
		}
	}
	if (err) {
		free(fds);
		return err;
	}
	free(irq->fds);
	irq->fds = fds;
	irq->num = num;
	return 0;
}

int svio_device_irq_disable(struct svio_device *dev, uint32_t index)
{
	struct svio__irq *irq;
	int err;

	if (index >= dev->info.num_irqs)
		return svio_fail(EINVAL, "%s: no interrupt index %u", dev->name, index);
	irq = &dev->irqs[index];
	if (!irq->num)
		return 0;
	err = disarm(dev, index);
	if (err && err != -ENODEV)
		return svio_fail(err, "%s: %s cannot be disabled: %s", dev->name, irq_name(index),
				 strerror(-err));
	free(irq->fds);
	irq->fds = NULL;
	irq->num = 0;
	return 0;
}

static int action(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count,
		  uint32_t flag, const char *verb)
{
	int err = check_range(dev, index, start, count);

	if (err)
		return err;
	if (flag != VFIO_IRQ_SET_ACTION_TRIGGER && !dev->irqs[index].info.maskable)
		return svio_fail(EOPNOTSUPP, "%s: %s cannot be masked through VFIO", dev->name,
				 irq_name(index));
	if (dev->irqs[index].num < start + count && !owned_by_watcher(dev, index))
		return svio_fail(EINVAL, "%s: %s vector %u is not enabled", dev->name,
				 irq_name(index), start + count - 1);
	err = dev->ops->irq_set(dev, index, VFIO_IRQ_SET_DATA_NONE | flag, start, count, NULL);
	if (err)
		return svio_fail(err, "%s: %s vectors %u to %u: %s: %s", dev->name, irq_name(index),
				 start, start + count - 1, verb, strerror(-err));
	return 0;
}

int svio_device_irq_mask(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count)
{
	return action(dev, index, start, count, VFIO_IRQ_SET_ACTION_MASK, "mask");
}

int svio_device_irq_unmask(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count)
{
	return action(dev, index, start, count, VFIO_IRQ_SET_ACTION_UNMASK, "unmask");
}

int svio_device_irq_trigger(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count)
{
	return action(dev, index, start, count, VFIO_IRQ_SET_ACTION_TRIGGER, "trigger");
}

bool svio__irqs_in_use(const struct svio_device *dev)
{
	for (uint32_t i = 0; i < dev->info.num_irqs; i++)
		if (dev->irqs[i].num)
			return true;
	return false;
}

int svio__irqs_rearm(struct svio_device *dev)
{
	struct svio__notifier *const ours[] = { &dev->err, &dev->req };
	int err;

	for (uint32_t i = 0; i < dev->info.num_irqs; i++) {
		if (!dev->irqs[i].num)
			continue;
		err = arm(dev, i, 0, dev->irqs[i].num, dev->irqs[i].fds);
		if (err)
			return err;
	}
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(ours); i++) {
		if (!ours[i]->armed)
			continue;
		err = arm(dev, ours[i]->index, 0, 1, &ours[i]->watch.fd);
		if (err)
			return err;
	}
	return 0;
}

void svio__irqs_close(struct svio_device *dev)
{
	bool forked = svio__forked(dev);

	for (uint32_t i = 0; i < dev->info.num_irqs; i++) {
		if (dev->irqs[i].num && !forked)
			disarm(dev, i);
		free(dev->irqs[i].fds);
		dev->irqs[i].fds = NULL;
		dev->irqs[i].num = 0;
	}
}

/* ---- ERR and REQ ------------------------------------------------------------------------------------ */

static void notifier_close(struct svio_device *dev, struct svio__notifier *n)
{
	if (!n->armed)
		return;
	if (!svio__forked(dev))
		disarm(dev, n->index);
	svio__watch_del(&n->watch);
	close(n->watch.fd);
	n->armed = false;
}

static int notifier_open(struct svio_device *dev, struct svio__notifier *n, uint32_t index,
			 uint32_t event)
{
	int err;

	if (index >= dev->info.num_irqs || !dev->irqs[index].info.count ||
	    !dev->irqs[index].info.eventfd)
		return 0;
	n->index = index;
	n->watch = (struct svio__watch){ .event = event, .drain = true, .dev = dev };
	n->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->watch.fd < 0)
		return svio_fail(errno, "%s: eventfd: %s", dev->name, strerror(errno));
	err = svio__watch_add(&n->watch);
	if (err)
		goto close_fd;
	err = arm(dev, index, 0, 1, &n->watch.fd);
	if (err)
		goto del;
	n->armed = true;
	return 0;
del:
	svio__watch_del(&n->watch);
close_fd:
	close(n->watch.fd);
	return err;
}

int svio__notifiers_open(struct svio_device *dev)
{
	int err;

	if (dev->flags & SVIO_DEVICE_NO_WATCH)
		return 0;
	err = notifier_open(dev, &dev->err, SVIO_IRQ_ERR, SVIO_EV_ERR);
	if (err)
		return err;
	err = notifier_open(dev, &dev->req, SVIO_IRQ_REQ, SVIO_EV_REQ);
	if (err)
		notifier_close(dev, &dev->err);
	return err;
}

void svio__notifiers_close(struct svio_device *dev)
{
	notifier_close(dev, &dev->req);
	notifier_close(dev, &dev->err);
}
