/* SPDX-License-Identifier: BSD-3-Clause */
/* Rounds, sleeping and waking. */
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "poll_priv.h"

static int no_poll(void *ctx)
{
	(void)ctx;
	return 0;
}

/* A statistic of one writer: no locked instruction. */
static inline void count(_Atomic uint64_t *v)
{
	atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* ---- create and destroy ---------------------------------------------------------------------- */

int svio_loop_create(const struct svio_loop_opts *opts, struct svio_loop **loopp)
{
	struct svio_loop_opts o = { 0 };
	struct svio_loop *loop;
	struct epoll_event ev = { .events = EPOLLIN };
	int err;

	*loopp = NULL;
	if (opts)
		memcpy(&o, opts, SVIO_MIN(opts->size, sizeof(o)));
	loop = aligned_alloc(SVIO_CACHELINE, sizeof(*loop));
	if (!loop)
		return svio_fail(ENOMEM, "poll loop: out of memory");
	memset(loop, 0, sizeof(*loop));
	loop->idle_rounds = o.idle_rounds;
	loop->can_sleep = loop->empty = true;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ev.data.fd = loop->wake_fd;
	if (loop->wake_fd < 0 || loop->epoll_fd < 0 ||
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) != 0) {
		err = errno;
		if (loop->wake_fd >= 0)
			close(loop->wake_fd);
		if (loop->epoll_fd >= 0)
			close(loop->epoll_fd);
		free(loop);
		return svio_fail(err, "poll loop: eventfd or epoll: %s", strerror(err));
	}
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->changed, NULL);
	*loopp = loop;
	return 0;
}

void svio_loop_destroy(struct svio_loop *loop)
{
	if (!loop)
		return;
	while (loop->num_all)
		svio_poller_remove(loop, loop->all[loop->num_all - 1]);
	close(loop->epoll_fd);
	close(loop->wake_fd);
	free(loop->all);
	free(loop->slots);
	free(loop->who);
	free(loop->spare_slots);
	free(loop->spare_who);
	pthread_mutex_destroy(&loop->lock);
	pthread_cond_destroy(&loop->changed);
	free(loop);
}

/* ---- the slots ------------------------------------------------------------------------------- */

static bool is_held(const struct svio_poller *p)
{
	const struct poll_dev *pd = p->priv[PRIV_DEV];

	return pd && (pd->held || pd->pauses);
}

void poll_apply(struct svio_loop *loop)
{
	if (loop->spare_slots) {
		free(loop->slots);
		free(loop->who);
		loop->slots = loop->spare_slots;
		loop->who = loop->spare_who;
		loop->spare_slots = NULL;
		loop->spare_who = NULL;
	}
	loop->num_slots = 0;
	loop->can_sleep = true;
	loop->empty = loop->num_all == 0;
	loop->idle = 0;
	for (uint32_t i = 0; i < loop->num_all; i++) {
		struct svio_poller *p = loop->all[i];

		if (is_held(p))
			continue;
		loop->who[loop->num_slots] = p;
		loop->slots[loop->num_slots++] = (struct poll_slot){ p->poll, p->ctx };
		loop->can_sleep = loop->can_sleep && p->irq_fd >= 0;
	}
	atomic_fetch_and(&loop->attention, ~(uint32_t)ATTN_CHANGE);
	loop->applied = loop->version;
	pthread_cond_broadcast(&loop->changed);
}

void poll_blank_slot(struct svio_loop *loop, uint32_t i)
{
	loop->slots[i] = (struct poll_slot){ no_poll, NULL };
	loop->who[i] = NULL;
}

void poll_blank_held(struct svio_loop *loop, const struct poll_dev *pd)
{
	for (uint32_t i = 0; i < loop->num_slots; i++)
		if (loop->who[i] && loop->who[i]->priv[PRIV_DEV] == pd)
			poll_blank_slot(loop, i);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void __attribute__((cold, noinline))
poller_failed(struct svio_loop *loop, uint32_t i, int err)
{
	struct svio_poller *p = loop->who[i];
	void (*stopped)(void *ctx, int err);
	struct poll_dev *unhook = NULL;
	bool there;
	void *ctx;

	if (!p) /* it has removed itself, and its memory may be gone */
		return;
	pthread_mutex_lock(&loop->lock);
	stopped = p->stopped;
	ctx = p->ctx;
	there = poll_take_out(loop, p, &unhook);
	if (there)
		poll_changed(loop);
	pthread_mutex_unlock(&loop->lock);
	if (unhook)
		poll_dev_unhook(unhook);
	/* Not there: another thread is removing it, and waits for the end of this round. */
	if (there && stopped)
		stopped(ctx, err);
}

/* The slots do not move during a round: callbacks change `all`, and only blank slots. */
static inline int64_t round_over(struct svio_loop *loop)
{
	const uint32_t n = loop->num_slots;
	const struct poll_slot *s = loop->slots;
	int64_t found = 0;

	for (uint32_t i = 0; i < n; i++) {
		int rc = s[i].poll(s[i].ctx);

		if (svio_unlikely(rc < 0))
			poller_failed(loop, i, rc);
		else
			found += rc;
	}
	count(&loop->rounds);
	if (found)
		count(&loop->busy_rounds);
	return found;
}

static int enter(struct svio_loop *loop)
{
	uintptr_t nobody = 0;

	if (!atomic_compare_exchange_strong(&loop->owner, &nobody, poll_self()))
		return svio_fail(EBUSY, "poll loop: it is already running");
	return 0;
}

static void apply_now(struct svio_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	poll_apply(loop);
	pthread_mutex_unlock(&loop->lock);
}

static void leave(struct svio_loop *loop)
{
	atomic_store(&loop->owner, 0);
	if (!(atomic_load(&loop->attention) & ATTN_CHANGE))
		return;
	/* Somebody may wait for the round that there will not be. */
	pthread_mutex_lock(&loop->lock);
	if (atomic_load(&loop->owner) == 0)
		poll_apply(loop);
	pthread_mutex_unlock(&loop->lock);
}

int svio_loop_once(struct svio_loop *loop)
{
	int64_t found;
	int rc = enter(loop);

	if (rc != 0)
		return rc;
	if (svio_unlikely(atomic_load(&loop->attention) & ATTN_CHANGE))
		apply_now(loop);
	found = round_over(loop);
	leave(loop);
	return found > INT_MAX ? INT_MAX : (int)found;
}

/* ---- sleeping -------------------------------------------------------------------------------- */

void poll_wake(struct svio_loop *loop)
{
	const uint64_t one = 1;
	int saved = errno;

	/* It fails only when the counter is full, and then the loop is awake. */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		errno = saved;
}

static void wait_for_events(struct svio_loop *loop)
{
	struct epoll_event ev[16];
	uint64_t v;
	int n;

	/*
	 * Seen by others before we look at `attention`; they set it before they look at `sleeping`.
	 * So either we see it and do not sleep, or they see us and write to wake_fd.
	 */
	atomic_store(&loop->sleeping, true);
	if (atomic_load(&loop->attention) == 0) {
		count(&loop->sleeps);
		n = epoll_wait(loop->epoll_fd, ev, SVIO_ARRAY_SIZE(ev), -1);
		if (n > 0)
			count(&loop->wakeups);
		for (int i = 0; i < n; i++)
			if (ev[i].data.fd == loop->wake_fd &&
			    read(loop->wake_fd, &v, sizeof(v)) < 0)
				continue;
	}
	atomic_store(&loop->sleeping, false);
}

/* Arm all, sleep unless work came in meanwhile, disarm. */
static void __attribute__((cold, noinline)) doze(struct svio_loop *loop)
{
	uint32_t armed;
	bool idle = true;

	for (armed = 0; armed < loop->num_slots; armed++) {
		struct svio_poller *p = loop->who[armed];

		if (p && p->arm && p->arm(p->ctx) != 0) {
			idle = false;
			break;
		}
	}
	if (idle)
		wait_for_events(loop);
	while (armed-- > 0) {
		struct svio_poller *p = loop->who[armed];

		if (p && p->disarm)
			p->disarm(p->ctx);
	}
	loop->idle = 0;
}

int svio_loop_run(struct svio_loop *loop)
{
	sigset_t bus, saved;
	int rc = enter(loop);

	if (rc != 0)
		return rc;
	/* Pollers touch BARs: the guard of room mmio needs SIGBUS to be deliverable. */
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &bus, &saved);
	apply_now(loop);
	for (;;) {
		uint32_t attn = atomic_load_explicit(&loop->attention, memory_order_acquire);

		if (svio_unlikely(attn)) {
			if (attn & ATTN_CHANGE)
				apply_now(loop);
			if (attn & ATTN_STOP)
				break;
		}
		if (svio_unlikely(loop->empty))
			break;
		if (round_over(loop) > 0)
			loop->idle = 0;
		else if (loop->idle_rounds && loop->can_sleep && ++loop->idle >= loop->idle_rounds)
			doze(loop);
	}
	atomic_fetch_and(&loop->attention, ~(uint32_t)ATTN_STOP);
	leave(loop);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	return 0;
}

void svio_loop_stop(struct svio_loop *loop)
{
	atomic_fetch_or(&loop->attention, ATTN_STOP);
	poll_wake(loop);
}

void svio_loop_get_stats(const struct svio_loop *loop, struct svio_loop_stats *stats)
{
	stats->rounds = atomic_load_explicit(&loop->rounds, memory_order_relaxed);
	stats->busy_rounds = atomic_load_explicit(&loop->busy_rounds, memory_order_relaxed);
	stats->sleeps = atomic_load_explicit(&loop->sleeps, memory_order_relaxed);
	stats->wakeups = atomic_load_explicit(&loop->wakeups, memory_order_relaxed);
}
