/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sleeping and waking. epoll_wait is wrapped to know that the loop is about to sleep, and to make
 * the worst case happen: work that comes exactly between the last look and the sleep.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "poll_priv.h"
#include "unit.h"

static void (*before_sleep)(void);
static _Atomic uint64_t sleeps;

int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout);
int __real_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout);

int __wrap_epoll_wait(int fd, struct epoll_event *ev, int max, int timeout)
{
	if (before_sleep)
		before_sleep();
	atomic_fetch_add(&sleeps, 1);
	return __real_epoll_wait(fd, ev, max, timeout);
}

static struct svio_loop *loop;

/* A device with a queue of work and an interrupt that fires only while armed, once. */
struct src {
	struct svio_poller poller;
	_Atomic uint64_t work;
	_Atomic uint64_t done;
	_Atomic bool armed;
	_Atomic int arms, disarms;
	int arm_ret;
	uint64_t until; /* stop the loop when so much is done */
};

static int src_poll(void *ctx)
{
	struct src *s = ctx;
	uint64_t n = atomic_exchange(&s->work, 0);

	if (n && atomic_fetch_add(&s->done, n) + n >= s->until)
		svio_loop_stop(loop);
	return n != 0;
}

static int src_arm(void *ctx)
{
	struct src *s = ctx;

	if (s->arm_ret < 0)
		return s->arm_ret;
	atomic_store(&s->armed, true);
	if (atomic_load(&s->work)) {
		atomic_store(&s->armed, false);
		return 1;
	}
	atomic_fetch_add(&s->arms, 1);
	return 0;
}

static void src_disarm(void *ctx)
{
	struct src *s = ctx;

	atomic_store(&s->armed, false);
	atomic_fetch_add(&s->disarms, 1);
}

static void src_put(struct src *s)
{
	const uint64_t one = 1;

	atomic_fetch_add(&s->work, 1);
	if (atomic_exchange(&s->armed, false) && write(s->poller.irq_fd, &one, sizeof(one)) < 0)
		abort();
}

static void src_init(struct src *s, uint64_t until)
{
	memset(s, 0, sizeof(*s));
	s->until = until;
	s->poller = (struct svio_poller){
		.name = "src",
		.poll = src_poll,
		.ctx = s,
		.irq_fd = eventfd(0, EFD_CLOEXEC),
		.arm = src_arm,
		.disarm = src_disarm,
	};
	if (svio_poller_add(loop, &s->poller) != 0)
		abort();
}

static void src_fini(struct src *s)
{
	svio_poller_remove(loop, &s->poller);
	close(s->poller.irq_fd);
}

static void begin(uint32_t idle_rounds)
{
	struct svio_loop_opts o = { .size = sizeof(o), .idle_rounds = idle_rounds };

	before_sleep = NULL;
	atomic_store(&sleeps, 0);
	if (svio_loop_create(&o, &loop) != 0)
		abort();
}

static void *run(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)svio_loop_run(loop);
}

static void wait_asleep(void)
{
	while (!atomic_load(&loop->sleeping) || atomic_load(&sleeps) == 0)
		sched_yield();
}

/* It sleeps after idle_rounds empty rounds and not before, and makes no round while it sleeps. */
static void test_wake(void)
{
	struct svio_loop_stats a, b;
	struct src s;
	pthread_t t;

	begin(50);
	src_init(&s, 1);
	pthread_create(&t, NULL, run, NULL);
	wait_asleep();
	svio_loop_get_stats(loop, &a);
	CU_ASSERT_EQUAL(a.sleeps, 1);
	CU_ASSERT_EQUAL(a.rounds, 50);
	CU_ASSERT_EQUAL(a.wakeups, 0);
	src_put(&s);
	pthread_join(t, NULL);
	svio_loop_get_stats(loop, &b);
	CU_ASSERT_EQUAL(b.wakeups, 1);
	CU_ASSERT_EQUAL(b.rounds, 51);
	CU_ASSERT_EQUAL(b.busy_rounds, 1);
	CU_ASSERT_EQUAL(atomic_load(&s.done), 1);
	CU_ASSERT_EQUAL(atomic_load(&s.arms), 1);
	CU_ASSERT_EQUAL(atomic_load(&s.disarms), 1);
	src_fini(&s);
	svio_loop_destroy(loop);
}

static struct src *racer;

static void put_before_sleep(void)
{
	src_put(racer);
}

/*
 * Work arrives after everything was looked at: armed, so the interrupt fires, so the sleep ends.
 * Every time.
 */
static void test_no_lost_wakeup(void)
{
	struct svio_loop_stats st;
	struct src s, quiet;

	begin(1);
	src_init(&quiet, UINT64_MAX);
	src_init(&s, 1000);
	racer = &s;
	before_sleep = put_before_sleep;
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0); /* would hang: alarm() */
	CU_ASSERT_EQUAL(atomic_load(&s.done), 1000);
	svio_loop_get_stats(loop, &st);
	CU_ASSERT_EQUAL(st.sleeps, 1000);
	CU_ASSERT_EQUAL(atomic_load(&quiet.arms), atomic_load(&quiet.disarms));
	src_fini(&s);
	src_fini(&quiet);
	svio_loop_destroy(loop);
}

static void stop_before_sleep(void)
{
	svio_loop_stop(loop);
}

static void test_stop_before_sleep(void)
{
	struct src s;

	begin(1);
	src_init(&s, UINT64_MAX);
	before_sleep = stop_before_sleep;
	for (int i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	CU_ASSERT_EQUAL(atomic_load(&sleeps), 100);
	src_fini(&s);
	svio_loop_destroy(loop);
}

/* Armed too late: arm() says so, the loop does not sleep, and what was armed before is disarmed. */
static int arm_finds_work(void *ctx)
{
	struct src *s = ctx;

	atomic_fetch_add(&s->work, 1);
	return 1;
}

static void test_arm_refuses(void)
{
	struct svio_loop_stats st;
	struct src first, s;

	begin(2);
	src_init(&first, UINT64_MAX);
	src_init(&s, 20);
	s.poller.arm = arm_finds_work;
	CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
	svio_loop_get_stats(loop, &st);
	CU_ASSERT_EQUAL(st.sleeps, 0);
	CU_ASSERT_EQUAL(atomic_load(&s.disarms), 0);
	CU_ASSERT_EQUAL(atomic_load(&first.arms), 20);
	CU_ASSERT_EQUAL(atomic_load(&first.disarms), 20);
	src_fini(&s);
	src_fini(&first);
	svio_loop_destroy(loop);
}

/* Who cannot sleep keeps the loop polling: arm() fails, no interrupt, or idle_rounds 0. */
static int countdown;

static int poll_countdown(void *ctx)
{
	(void)ctx;
	if (--countdown == 0)
		svio_loop_stop(loop);
	return 0;
}

static void test_never_sleeps(void)
{
	struct svio_poller busy = { .name = "busy", .poll = poll_countdown, .irq_fd = -1 };
	struct svio_loop_stats st;
	struct src s;

	for (int i = 0; i < 3; i++) {
		begin(i == 2 ? 0 : 3);
		src_init(&s, UINT64_MAX);
		s.arm_ret = i == 0 ? -EIO : 0;
		busy.irq_fd = i == 1 ? -1 : s.poller.irq_fd;
		countdown = 100;
		CU_ASSERT_EQUAL(svio_poller_add(loop, &busy), 0);
		CU_ASSERT_EQUAL(svio_loop_run(loop), 0);
		svio_loop_get_stats(loop, &st);
		CU_ASSERT_EQUAL(st.rounds, 100);
		CU_ASSERT_EQUAL(st.sleeps, 0);
		src_fini(&s);
		svio_loop_destroy(loop);
	}
}

/*
 * Two pollers on one eventfd, without arm(): one wake-up serves both; one leaves, the other is
 * still woken.
 */
static void test_shared_fd(void)
{
	const uint64_t one = 1;
	struct src a, b;
	pthread_t t;
	int fd;

	begin(1);
	src_init(&a, UINT64_MAX);
	fd = a.poller.irq_fd;
	svio_poller_remove(loop, &a.poller);
	a.poller.arm = NULL;
	a.poller.disarm = NULL;
	b = a;
	b.poller.ctx = &b;
	b.until = 2;
	CU_ASSERT_EQUAL(svio_poller_add(loop, &a.poller), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &b.poller), 0);
	pthread_create(&t, NULL, run, NULL);
	wait_asleep();
	atomic_store(&a.work, 1);
	atomic_store(&b.work, 1);
	CU_ASSERT_EQUAL(write(fd, &one, sizeof(one)), 8);
	while (atomic_load(&a.done) + atomic_load(&b.done) < 2)
		sched_yield();
	CU_ASSERT_EQUAL(svio_poller_remove(loop, &a.poller), 0);
	atomic_store(&b.work, 1);
	CU_ASSERT_EQUAL(write(fd, &one, sizeof(one)), 8);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(atomic_load(&b.done), 2);
	svio_poller_remove(loop, &b.poller);
	close(fd);
	svio_loop_destroy(loop);
}

/* Changes wake the sleeper. */
static void test_change_wakes(void)
{
	struct src s, more;
	pthread_t t;

	begin(1);
	src_init(&s, UINT64_MAX);
	pthread_create(&t, NULL, run, NULL);
	for (int i = 0; i < 200; i++) {
		wait_asleep();
		src_init(&more, UINT64_MAX); /* would hang if it did not */
		if (i % 2)
			wait_asleep();
		src_put(&more);
		while (atomic_load(&more.done) == 0)
			sched_yield();
		src_fini(&more);
		CU_ASSERT_EQUAL(atomic_load(&more.arms), atomic_load(&more.disarms));
	}
	src_fini(&s); /* the last one: the run ends */
	pthread_join(t, NULL);
	svio_loop_destroy(loop);
}

/*
 * A change that comes between the last look at `attention` and `sleeping`: from another thread,
 * while arm() runs.
 */
static struct src late;

static void *add_late(void *arg)
{
	(void)arg;
	src_init(&late, 1);
	return NULL;
}

static pthread_t adder;
static _Atomic bool adding;

static int arm_and_change(void *ctx)
{
	(void)ctx;
	if (!atomic_load(&adding)) {
		pthread_create(&adder, NULL, add_late, NULL);
		while (!(atomic_load(&loop->attention) & ATTN_CHANGE))
			sched_yield();
		atomic_store(&adding, true);
	}
	return 0;
}

static void test_change_before_sleep(void)
{
	struct src s;
	pthread_t t;

	begin(1);
	src_init(&s, UINT64_MAX);
	s.poller.arm = arm_and_change;
	pthread_create(&t, NULL, run, NULL);
	while (!atomic_load(&adding))
		sched_yield();
	pthread_join(adder, NULL); /* would hang: the loop asleep, the adder waiting for it */
	svio_loop_stop(loop);
	pthread_join(t, NULL);
	src_fini(&s);
	src_fini(&late);
	svio_loop_destroy(loop);
}

/* A producer as fast as it can, without a look at the loop: nothing is left lying. */
static void test_storm(void)
{
	struct src a, b;
	pthread_t t;

	begin(1);
	src_init(&a, UINT64_MAX);
	src_init(&b, UINT64_MAX);
	pthread_create(&t, NULL, run, NULL);
	for (int i = 0; i < 20000; i++) {
		struct src *s = i % 2 ? &a : &b;

		src_put(s);
		/* Now and then wait until it is asleep again, or as good as. */
		if (i % 16 == 0)
			while (atomic_load(&a.work) || atomic_load(&b.work))
				sched_yield();
	}
	while (atomic_load(&a.done) + atomic_load(&b.done) < 20000)
		sched_yield();
	svio_loop_stop(loop);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(atomic_load(&a.done), 10000);
	CU_ASSERT_EQUAL(atomic_load(&b.done), 10000);
	src_fini(&a);
	src_fini(&b);
	svio_loop_destroy(loop);
}

static const struct unit_test tests[] = {
	{ "sleeps when idle, wakes for work", test_wake },
	{ "work between the last look and the sleep", test_no_lost_wakeup },
	{ "stop between the last look and the sleep", test_stop_before_sleep },
	{ "arm() finds work", test_arm_refuses },
	{ "who cannot sleep keeps the loop polling", test_never_sleeps },
	{ "pollers that share an eventfd", test_shared_fd },
	{ "changes wake the loop", test_change_wakes },
	{ "a change between the last look and the sleep", test_change_before_sleep },
	{ "storm", test_storm },
	{ NULL, NULL },
};

int main(void)
{
	alarm(110);
	return unit_run("poll/sleep", tests);
}
