/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices: pauses that nest, and orderly resets that hold pollers. Simulated: the device, its lock
 * and its list of hooks.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "poll_priv.h"
#include "unit.h"

struct fake {
	struct svio_device_hot hot;
	pthread_mutex_t lock; /* as room vfio's: held around hooks and in hook_add/remove */
	struct svio_device_hook *hooks;
	_Atomic bool quiet;  /* between prepare and done */
	_Atomic int waiting; /* threads that want the lock to add or remove a hook */
	_Atomic bool stall;  /* hook_add returns when a reset is under way */
};

static struct svio_loop *loop;

static struct svio_device *dev_of(struct fake *f)
{
	return (struct svio_device *)(void *)f;
}

static void fake_init(struct fake *f)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->lock, NULL);
}

void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook);
void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook);

void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct fake *f = (struct fake *)(void *)dev;

	atomic_fetch_add(&f->waiting, 1);
	pthread_mutex_lock(&f->lock);
	atomic_fetch_sub(&f->waiting, 1);
	hook->next = f->hooks;
	f->hooks = hook;
	pthread_mutex_unlock(&f->lock);
	while (atomic_load(&f->stall))
		if (atomic_load(&f->quiet))
			atomic_store(&f->stall, false);
		else
			sched_yield();
}

void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct fake *f = (struct fake *)(void *)dev;
	struct svio_device_hook **p = &f->hooks;

	atomic_fetch_add(&f->waiting, 1);
	pthread_mutex_lock(&f->lock);
	atomic_fetch_sub(&f->waiting, 1);
	while (*p && *p != hook)
		p = &(*p)->next;
	if (!*p)
		abort();
	*p = hook->next;
	pthread_mutex_unlock(&f->lock);
}

static void prepare_locked(struct fake *f)
{
	svio_device_event_set(dev_of(f), SVIO_EV_QUIESCE);
	for (struct svio_device_hook *h = f->hooks; h; h = h->next) {
		CU_ASSERT_EQUAL(h->stage, SVIO_HOOK_POLL);
		h->prepare(h->ctx, dev_of(f));
	}
	atomic_store(&f->quiet, true);
}

static void done_locked(struct fake *f)
{
	atomic_store(&f->quiet, false);
	for (struct svio_device_hook *h = f->hooks; h; h = h->next)
		h->done(h->ctx, dev_of(f), 0);
	svio_device_event_clear(dev_of(f), SVIO_EV_QUIESCE);
}

/* ---- pollers --------------------------------------------------------------------------------- */

struct p {
	struct svio_poller poller;
	_Atomic uint64_t polls;
	struct fake *f;
	void (*act)(struct p *p);
};

static int poll_p(void *ctx)
{
	struct p *p = ctx;

	/* What a reset promises. */
	if (p->f && atomic_load(&p->f->quiet))
		abort();
	atomic_fetch_add(&p->polls, 1);
	if (p->act)
		p->act(p);
	if (p->f && atomic_load(&p->f->quiet))
		abort();
	return 0;
}

static void init_p(struct p *p, struct fake *f)
{
	memset(p, 0, sizeof(*p));
	p->f = f;
	p->poller = (struct svio_poller){
		.name = "p",
		.poll = poll_p,
		.ctx = p,
		.irq_fd = -1,
		.dev = f ? dev_of(f) : NULL,
	};
}

static bool ran(struct p *p)
{
	uint64_t before = atomic_load(&p->polls);

	CU_ASSERT_EQUAL(svio_loop_once(loop), 0);
	return atomic_load(&p->polls) != before;
}

static void test_pause(void)
{
	struct fake f, g;
	struct p a, b, c, late;

	fake_init(&f);
	fake_init(&g);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&a, &f);
	init_p(&b, &g);
	init_p(&c, NULL);
	init_p(&late, &f);
	svio_loop_pause(loop, dev_of(&f)); /* has no pollers: nothing to hold */
	svio_loop_resume(loop, dev_of(&f));
	svio_loop_resume(loop, dev_of(&f));
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &b.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &c.poller), 0);
	CU_ASSERT_TRUE(ran(&a));
	svio_loop_pause(loop, dev_of(&f));
	svio_loop_pause(loop, dev_of(&f));
	CU_ASSERT_FALSE(ran(&a));
	CU_ASSERT_TRUE(ran(&b) && ran(&c));
	/* One that comes later is held as well. */
	CU_ASSERT_EQUAL(svio_poller_add(loop, &late.poller), 0);
	CU_ASSERT_FALSE(ran(&late));
	svio_loop_resume(loop, dev_of(&f));
	CU_ASSERT_FALSE(ran(&a));
	/* A reset in between changes nothing. */
	pthread_mutex_lock(&f.lock);
	prepare_locked(&f);
	CU_ASSERT_FALSE(ran(&a));
	done_locked(&f);
	pthread_mutex_unlock(&f.lock);
	CU_ASSERT_FALSE(ran(&a));
	svio_loop_resume(loop, dev_of(&f));
	CU_ASSERT_TRUE(ran(&a) && ran(&late));
	/* And the other way round: a pause that ends within a reset. */
	svio_loop_pause(loop, dev_of(&f));
	pthread_mutex_lock(&f.lock);
	prepare_locked(&f);
	svio_loop_resume(loop, dev_of(&f));
	CU_ASSERT_FALSE(ran(&a));
	done_locked(&f);
	pthread_mutex_unlock(&f.lock);
	CU_ASSERT_TRUE(ran(&a));
	/* One hook per device and loop, gone with the last poller. */
	CU_ASSERT_PTR_NOT_NULL(f.hooks);
	CU_ASSERT_PTR_NULL(f.hooks->next);
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &a.poller), 0);
	CU_ASSERT_PTR_NOT_NULL(f.hooks);
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &late.poller), 0);
	CU_ASSERT_PTR_NULL(f.hooks);
	svio_loop_destroy(loop);
	CU_ASSERT_PTR_NULL(g.hooks);
}

/* Decoding is off in the orderly way: no lock is held, QUIESCE is set, and a poller comes. */
static void test_add_while_quiet(void)
{
	struct fake f;
	struct p a;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&a, &f);
	prepare_locked(&f);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	CU_ASSERT_FALSE(ran(&a));
	done_locked(&f);
	CU_ASSERT_TRUE(ran(&a));
	svio_loop_destroy(loop);
}

/* ---- a running loop -------------------------------------------------------------------------- */

static void *run(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)svio_loop_run(loop);
}

static void wait_polls(struct p *p, uint64_t n)
{
	uint64_t until = atomic_load(&p->polls) + n;

	while (atomic_load(&p->polls) < until)
		sched_yield();
}

static void test_resets(void)
{
	struct fake f;
	struct p a, b;
	pthread_t t;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&a, &f);
	init_p(&b, NULL);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &b.poller), 0);
	pthread_create(&t, NULL, run, NULL);
	for (int i = 0; i < 300; i++) {
		uint64_t polls;

		pthread_mutex_lock(&f.lock);
		prepare_locked(&f);
		polls = atomic_load(&a.polls);
		/* The loop goes on with the others; poll_p() aborts if it does not hold a. */
		wait_polls(&b, 3);
		CU_ASSERT_EQUAL(atomic_load(&a.polls), polls);
		done_locked(&f);
		pthread_mutex_unlock(&f.lock);
		wait_polls(&a, 1);
	}
	svio_loop_stop(loop);
	pthread_join(t, NULL);
	svio_loop_destroy(loop);
	CU_ASSERT_PTR_NULL(f.hooks);
}

/* A poller that resets its own device. */
static void act_reset(struct p *p)
{
	p->act = NULL;
	pthread_mutex_lock(&p->f->lock);
	prepare_locked(p->f);
	done_locked(p->f);
	pthread_mutex_unlock(&p->f->lock);
}

static void test_own_reset(void)
{
	struct fake f;
	struct p a, b;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&a, &f);
	init_p(&b, &f);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &b.poller), 0);
	a.act = act_reset;
	CU_ASSERT_EQUAL(svio_loop_once(loop), 0);
	CU_ASSERT_EQUAL(atomic_load(&a.polls), 1);
	CU_ASSERT_EQUAL(atomic_load(&b.polls), 0); /* not in the round of the reset */
	CU_ASSERT_TRUE(ran(&a) && ran(&b));
	svio_loop_destroy(loop);
}

/*
 * A poller removes and adds another one of its device, in the loop's thread, while resets come from
 * this thread: both want the device's lock, and each waits for the other unless the loop counts as
 * stopped meanwhile.
 */
static struct p guest;
static _Atomic uint64_t changes;

static void act_change(struct p *p)
{
	int rc;

	(void)p;
	if (guest.poller.priv[PRIV_LOOP])
		rc = svio_poller_remove(loop, &guest.poller);
	else
		rc = svio_poller_add(loop, &guest.poller);
	if (rc != 0)
		abort();
	atomic_fetch_add(&changes, 1);
}

static void test_parked(void)
{
	struct fake f;
	uint64_t met = 0;
	struct p a;
	pthread_t t;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&guest, &f);
	init_p(&a, NULL);
	a.act = act_change;
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	pthread_create(&t, NULL, run, NULL);
	for (int i = 0; i < 500; i++) {
		uint64_t before;

		pthread_mutex_lock(&f.lock);
		/* Until it wants the lock, which it does in every second round at least. */
		while (atomic_load(&f.waiting) == 0)
			sched_yield();
		met++;
		before = atomic_load(&changes);
		prepare_locked(&f); /* would hang: alarm() */
		sched_yield();
		CU_ASSERT_EQUAL(atomic_load(&changes), before); /* it waits, and runs nothing */
		done_locked(&f);
		pthread_mutex_unlock(&f.lock);
		/* Also without the lock held beforehand, so that any moment is met. */
		pthread_mutex_lock(&f.lock);
		prepare_locked(&f);
		before = atomic_load(&guest.polls);
		sched_yield();
		CU_ASSERT_EQUAL(atomic_load(&guest.polls), before);
		done_locked(&f);
		pthread_mutex_unlock(&f.lock);
	}
	CU_ASSERT_EQUAL(met, 500);
	svio_loop_stop(loop);
	pthread_join(t, NULL);
	svio_loop_destroy(loop);
	CU_ASSERT_PTR_NULL(f.hooks);
}

/*
 * The reset comes when the loop's thread has had the lock and has not yet said so: it must wait all
 * the same.
 */
static _Atomic bool hit;

static void act_add_stalled(struct p *p)
{
	p->act = NULL;
	if (svio_poller_add(loop, &guest.poller) != 0)
		abort();
	if (atomic_load(&guest.f->quiet))
		abort();
	atomic_store(&hit, true);
}

static void test_parked_late(void)
{
	struct fake f;
	struct p a;
	pthread_t t;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	init_p(&guest, &f);
	init_p(&a, NULL);
	a.act = act_add_stalled;
	atomic_store(&f.stall, true);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	pthread_create(&t, NULL, run, NULL);
	for (bool there = false; !there;) { /* until hook_add has done its work, and stalls */
		pthread_mutex_lock(&f.lock);
		there = f.hooks != NULL;
		pthread_mutex_unlock(&f.lock);
	}
	pthread_mutex_lock(&f.lock);
	prepare_locked(&f);
	while (atomic_load(&f.stall))
		sched_yield();
	for (int i = 0; i < 2000; i++)
		sched_yield();
	CU_ASSERT_FALSE(atomic_load(&hit));
	done_locked(&f);
	pthread_mutex_unlock(&f.lock);
	while (!atomic_load(&hit))
		sched_yield();
	wait_polls(&guest, 1);
	svio_loop_stop(loop);
	pthread_join(t, NULL);
	svio_loop_destroy(loop);
}

static const struct unit_test tests[] = {
	{ "pause nests, with resets too", test_pause },
	{ "a poller added while its device is held", test_add_while_quiet },
	{ "resets hold the pollers of a running loop", test_resets },
	{ "a poller resets its own device", test_own_reset },
	{ "resets against changes in the loop's thread", test_parked },
	{ "a reset that just misses the lock", test_parked_late },
	{ NULL, NULL },
};

int main(void)
{
	alarm(110);
	return unit_run("poll/device", tests);
}
