/* SPDX-License-Identifier: BSD-3-Clause */
/* Who is in the loop: changed from any thread, in force between two rounds. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include "poll_priv.h"

/* Tell the owner, and wait for it; without an owner it is done here. */
static void changed(struct svio_loop *loop, const struct svio_device *parked)
{
	uint64_t version = ++loop->version;

	atomic_fetch_or(&loop->attention, ATTN_CHANGE);
	if (poll_is_owner(loop))
		return;
	while (loop->applied < version) {
		if (atomic_load(&loop->owner) == 0) {
			poll_apply(loop);
			return;
		}
		if (parked && loop->parked == parked)
			return;
		if (atomic_load(&loop->sleeping))
			poll_wake(loop);
		pthread_cond_wait(&loop->changed, &loop->lock);
	}
}

void poll_changed(struct svio_loop *loop)
{
	changed(loop, NULL);
}

void poll_changed_or_parked(struct svio_loop *loop, const struct svio_device *dev)
{
	changed(loop, dev);
}

static uint32_t find(const struct svio_loop *loop, const struct svio_poller *poller)
{
	uint32_t i;

	for (i = 0; i < loop->num_all && loop->all[i] != poller; i++)
		;
	return i;
}

/* Room for one more in `all`, and in the slots that the next poll_apply() fills. */
static int reserve(struct svio_loop *loop)
{
	uint32_t cap = loop->cap_all ? 2 * loop->cap_all : 16;
	struct svio_poller **all, **who;
	struct poll_slot *slots;

	if (loop->num_all < loop->cap_all)
		return 0;
	slots = aligned_alloc(SVIO_CACHELINE, cap * sizeof(*slots));
	who = calloc(cap, sizeof(*who));
	all = calloc(cap, sizeof(*all));
	if (!slots || !who || !all) {
		free(slots);
		free(who);
		free(all);
		return svio_fail(ENOMEM, "poll loop: out of memory for %u pollers", cap);
	}
	if (loop->num_all)
		memcpy(all, loop->all, loop->num_all * sizeof(*all));
	free(loop->all);
	free(loop->spare_slots);
	free(loop->spare_who);
	loop->all = all;
	loop->spare_slots = slots;
	loop->spare_who = who;
	loop->cap_all = cap;
	return 0;
}

static bool fd_shared(const struct svio_loop *loop, int fd)
{
	for (uint32_t i = 0; i < loop->num_all; i++)
		if (loop->all[i]->irq_fd == fd)
			return true;
	return false;
}

/*
 * Edge-triggered: nobody has to read the eventfd, and one that fired while the loop was polling
 * wakes it once, for nothing, and not for ever. Pollers may share one (queues on one vector).
 */
static int watch(struct svio_loop *loop, const struct svio_poller *poller)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.fd = poller->irq_fd };

	if (poller->irq_fd < 0 || fd_shared(loop, poller->irq_fd))
		return 0;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, poller->irq_fd, &ev) != 0)
		return svio_fail(errno, "poller %s: its interrupt fd %d cannot be waited for: %s",
				 poller->name ? poller->name : "?", poller->irq_fd,
				 strerror(errno));
	return 0;
}

static struct poll_dev *find_dev(const struct svio_loop *loop, const struct svio_device *dev)
{
	struct poll_dev *pd;

	for (pd = loop->devs; pd && pd->dev != dev; pd = pd->next)
		;
	return pd;
}

static void unlink_dev(struct svio_loop *loop, struct poll_dev *pd)
{
	struct poll_dev **p = &loop->devs;

	while (*p != pd)
		p = &(*p)->next;
	*p = pd->next;
}

int svio_poller_add(struct svio_loop *loop, struct svio_poller *poller)
{
	struct poll_dev *pd = NULL;
	bool hook = false;
	int rc;

	if (!poller->poll)
		return svio_fail(EINVAL, "poller %s: no poll function",
				 poller->name ? poller->name : "?");
	pthread_mutex_lock(&loop->lock);
	if (find(loop, poller) < loop->num_all)
		rc = svio_fail(EEXIST, "poller %s: it is in this loop already",
			       poller->name ? poller->name : "?");
	else
		rc = reserve(loop);
	if (rc == 0 && poller->dev) {
		pd = find_dev(loop, poller->dev);
		if (!pd) {
			pd = calloc(1, sizeof(*pd));
			if (pd) {
				pd->loop = loop;
				pd->dev = poller->dev;
				pd->held = true; /* until poll_dev_hook() has looked */
				pd->next = loop->devs;
				loop->devs = pd;
				hook = true;
			} else {
				rc = svio_fail(ENOMEM, "poll loop: out of memory");
			}
		}
	}
	if (rc == 0)
		rc = watch(loop, poller);
	if (rc != 0) {
		if (hook) {
			unlink_dev(loop, pd);
			free(pd);
		}
		pthread_mutex_unlock(&loop->lock);
		return rc;
	}
	poller->priv[PRIV_LOOP] = loop;
	poller->priv[PRIV_DEV] = pd;
	if (pd)
		pd->pollers++;
	loop->all[loop->num_all++] = poller;
	poll_changed(loop);
	pthread_mutex_unlock(&loop->lock);
	/* Its pollers are held until the hook is in place, so that no reset can miss them. */
	if (hook)
		poll_dev_hook(pd);
	return 0;
}

bool poll_take_out(struct svio_loop *loop, struct svio_poller *poller, struct poll_dev **unhook)
{
	uint32_t i = find(loop, poller);
	struct poll_dev *pd;

	*unhook = NULL;
	if (i == loop->num_all)
		return false;
	memmove(&loop->all[i], &loop->all[i + 1], (loop->num_all - i - 1) * sizeof(loop->all[0]));
	loop->num_all--;
	if (poller->irq_fd >= 0 && !fd_shared(loop, poller->irq_fd))
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, poller->irq_fd, NULL);
	pd = poller->priv[PRIV_DEV];
	if (pd && --pd->pollers == 0) {
		unlink_dev(loop, pd);
		*unhook = pd;
	}
	if (poll_is_owner(loop))
		for (i = 0; i < loop->num_slots; i++)
			if (loop->who[i] == poller)
				poll_blank_slot(loop, i);
	poller->priv[PRIV_LOOP] = NULL;
	poller->priv[PRIV_DEV] = NULL;
	return true;
}

int svio_poller_remove(struct svio_loop *loop, struct svio_poller *poller)
{
	struct poll_dev *unhook;
	bool there;

	pthread_mutex_lock(&loop->lock);
	there = poll_take_out(loop, poller, &unhook);
	/*
	 * Also when it is not there: it may be failing right now, with its stopped() still running.
	 */
	poll_changed(loop);
	pthread_mutex_unlock(&loop->lock);
	if (unhook)
		poll_dev_unhook(unhook);
	return there ? 0 : -ENOENT;
}

void svio_loop_pause(struct svio_loop *loop, struct svio_device *dev)
{
	struct poll_dev *pd;

	pthread_mutex_lock(&loop->lock);
	pd = find_dev(loop, dev);
	if (pd) {
		pd->pauses++;
		if (poll_is_owner(loop))
			poll_blank_held(loop, pd);
		poll_changed(loop);
	}
	pthread_mutex_unlock(&loop->lock);
}

void svio_loop_resume(struct svio_loop *loop, struct svio_device *dev)
{
	struct poll_dev *pd;

	pthread_mutex_lock(&loop->lock);
	pd = find_dev(loop, dev);
	if (pd && pd->pauses) {
		pd->pauses--;
		poll_changed(loop);
	}
	pthread_mutex_unlock(&loop->lock);
}
