/* SPDX-License-Identifier: BSD-3-Clause */
/* Hooks around a reset: what must stop before it and go on after it, by stage. */
#include "vfio_priv.h"

void svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct svio_device_hook **pp;

	pthread_mutex_lock(&dev->lock);
	for (pp = &dev->hooks[hook->stage]; *pp; pp = &(*pp)->next)
		;
	hook->next = NULL;
	*pp = hook;
	pthread_mutex_unlock(&dev->lock);
}

void svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct svio_device_hook **pp;

	pthread_mutex_lock(&dev->lock);
	for (pp = &dev->hooks[hook->stage]; *pp && *pp != hook; pp = &(*pp)->next)
		;
	if (*pp)
		*pp = hook->next;
	hook->next = NULL;
	pthread_mutex_unlock(&dev->lock);
}

/* Once, however many resets come before the done hooks run. */
void svio__hooks_prepare(struct svio_device *dev)
{
	if (dev->quiesced)
		return;
	dev->quiesced = true;
	svio_device_event_set(dev, SVIO_EV_QUIESCE);
	for (int s = 0; s < SVIO_HOOK_STAGES; s++)
		for (struct svio_device_hook *h = dev->hooks[s]; h; h = h->next)
			if (h->prepare)
				h->prepare(h->ctx, dev);
}

/* The last one added first, so that done mirrors prepare. Lists hold a handful. */
static void done_backwards(struct svio_device_hook *h, struct svio_device *dev, int err)
{
	if (!h)
		return;
	done_backwards(h->next, dev, err);
	if (h->done)
		h->done(h->ctx, dev, err);
}

void svio__hooks_done(struct svio_device *dev, int err)
{
	if (!dev->quiesced)
		return;
	for (int s = SVIO_HOOK_STAGES - 1; s >= 0; s--)
		done_backwards(dev->hooks[s], dev, err);
	dev->quiesced = false;
	svio_device_event_clear(dev, SVIO_EV_QUIESCE);
}
