/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices: an orderly reset holds their pollers (stage SVIO_HOOK_POLL).
 *
 * A reset holds the device's lock and waits in hook_prepare() for the end of the loop's round. The
 * loop's own thread may at that moment be inside a poller that adds or removes one, or fails, and
 * wait for the device's lock to register or remove the hook: neither would go on. Therefore it says
 * that it is parked on that device, which is as good as the end of a round: it runs no poller until
 * it has had the lock. What is left is the moment after the lock and before it takes the word back,
 * in which a reset may believe it; so it looks, and waits until that reset is over.
 */
#include <stdlib.h>
#include "poll_priv.h"

static void hook_prepare(void *ctx, struct svio_device *dev)
{
	struct poll_dev *pd = ctx;
	struct svio_loop *loop = pd->loop;

	pthread_mutex_lock(&loop->lock);
	pd->held = true;
	pd->settled = true;
	if (poll_is_owner(loop))
		poll_blank_held(loop, pd);
	poll_changed_or_parked(loop, dev);
	pthread_mutex_unlock(&loop->lock);
}

static void hook_done(void *ctx, struct svio_device *dev, int err)
{
	struct poll_dev *pd = ctx;
	struct svio_loop *loop = pd->loop;

	/* Whatever became of it: only the pollers can tell their users. */
	(void)err;
	pthread_mutex_lock(&loop->lock);
	pd->held = false;
	pd->settled = true;
	/* Not parked elsewhere: the waiter below is woken by the same broadcast. */
	pthread_cond_broadcast(&loop->changed);
	poll_changed_or_parked(loop, dev);
	pthread_mutex_unlock(&loop->lock);
}

static bool park(struct poll_dev *pd)
{
	struct svio_loop *loop = pd->loop;

	if (!poll_is_owner(loop))
		return false;
	pthread_mutex_lock(&loop->lock);
	loop->parked = pd->dev;
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->lock);
	return true;
}

void poll_dev_hook(struct poll_dev *pd)
{
	struct svio_loop *loop = pd->loop;
	bool parked = park(pd);

	pd->hook.stage = SVIO_HOOK_POLL;
	pd->hook.prepare = hook_prepare;
	pd->hook.done = hook_done;
	pd->hook.ctx = pd;
	svio_device_hook_add(pd->dev, &pd->hook);

	pthread_mutex_lock(&loop->lock);
	if (!pd->settled) {
		/*
		 * Set now means set for long: a reset that begins from here on speaks through the
		 * hook.
		 */
		pd->held = svio_device_events(pd->dev) & SVIO_EV_QUIESCE;
		if (!pd->held)
			poll_changed(loop);
	} else if (parked) {
		while (pd->held)
			pthread_cond_wait(&loop->changed, &loop->lock);
	}
	if (parked)
		loop->parked = NULL;
	pthread_mutex_unlock(&loop->lock);
}

void poll_dev_unhook(struct poll_dev *pd)
{
	struct svio_loop *loop = pd->loop;
	bool parked = park(pd);

	/* A reset under way ends before this returns, and a later one does not know us. */
	svio_device_hook_remove(pd->dev, &pd->hook);
	if (parked) {
		pthread_mutex_lock(&loop->lock);
		loop->parked = NULL;
		pthread_mutex_unlock(&loop->lock);
	}
	free(pd);
}
