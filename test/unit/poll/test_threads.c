/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changes from other threads while the loop runs: after remove and pause the poller does not run,
 * its memory can go.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "poll_priv.h"
#include "unit.h"

#define THREADS 3
#define ROUNDS	150

static struct svio_loop *loop;
static _Atomic uint64_t base_polls;
static _Atomic uint32_t ready;

static int poll_base(void *ctx)
{
	(void)ctx;
	atomic_fetch_add_explicit(&base_polls, 1, memory_order_relaxed);
	return 0;
}

/* Plain memory on purpose: TSan shows whether remove() orders it. */
struct mine {
	struct svio_poller poller;
	uint64_t polls;
	bool dead;
};

static int poll_mine(void *ctx)
{
	struct mine *m = ctx;

	if (m->dead)
		abort();
	m->polls++;
	/* A third of them end by themselves. */
	return m->polls == 3 && m->poller.name[0] == 'f' ? -EIO : 0;
}

static void stopped_mine(void *ctx, int err)
{
	struct mine *m = ctx;

	if (err != -EIO || m->dead)
		abort();
	m->polls = 1000;
}

static void *run(void *arg)
{
	(void)arg;
	return (void *)(intptr_t)svio_loop_run(loop);
}

static void wait_polls(uint64_t n)
{
	uint64_t until = atomic_load(&base_polls) + n;

	while (atomic_load(&base_polls) < until)
		sched_yield();
}

static void *changer(void *arg)
{
	uintptr_t self = (uintptr_t)arg;

	atomic_fetch_add(&ready, 1);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct mine *m = calloc(1, sizeof(*m));
		int rc;

		if (!m)
			abort();
		m->poller = (struct svio_poller){
			.name = (i + self) % 3 ? "lasts" : "fails",
			.poll = poll_mine,
			.ctx = m,
			.irq_fd = -1,
			.stopped = stopped_mine,
		};
		if (svio_poller_add(loop, &m->poller) != 0)
			abort();
		wait_polls(i % 6);
		rc = svio_poller_remove(loop, &m->poller);
		if (rc != 0 && (rc != -ENOENT || m->polls != 1000))
			abort();
		m->dead = true;
		free(m);
	}
	return NULL;
}

static void test_changers(void)
{
	struct svio_poller base = { .name = "base", .poll = poll_base, .irq_fd = -1 };
	pthread_t runner, t[THREADS];
	void *rc;

	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &base), 0);
	pthread_create(&runner, NULL, run, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, changer, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	CU_ASSERT_EQUAL(loop->num_all, 1);
	svio_loop_stop(loop);
	pthread_join(runner, &rc);
	CU_ASSERT_PTR_NULL(rc);
	svio_loop_destroy(loop);
}

/*
 * The application's own loop: between the calls nobody owns the loop, and changes must not wait for
 * it.
 */
static void test_once(void)
{
	struct svio_poller base = { .name = "base", .poll = poll_base, .irq_fd = -1 };
	pthread_t t[THREADS];

	atomic_store(&ready, 0);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &base), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, changer, (void *)i);
	while (atomic_load(&ready) < THREADS)
		sched_yield();
	while (pthread_tryjoin_np(t[0], NULL) != 0) {
		svio_loop_once(loop);
		sched_yield();
	}
	for (int i = 1; i < THREADS; i++)
		while (pthread_tryjoin_np(t[i], NULL) != 0)
			svio_loop_once(loop);
	CU_ASSERT_EQUAL(loop->num_all, 1);
	svio_loop_destroy(loop);
}

/* Stops and starts under changes: whoever waits for a round is served by the end of the run. */
static _Atomic bool over;

static void *stopper(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		svio_loop_stop(loop);
		sched_yield();
	}
	return NULL;
}

static void test_restarts(void)
{
	struct svio_poller base = { .name = "base", .poll = poll_base, .irq_fd = -1 };
	pthread_t s, t[THREADS];
	bool joined[THREADS] = { false };
	int left = THREADS;

	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &base), 0);
	atomic_store(&over, false);
	pthread_create(&s, NULL, stopper, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, changer, (void *)i);
	while (left) {
		if (svio_loop_run(loop) != 0)
			abort();
		/*
		 * A stop may be pending: then the run makes no round, and the changers wait for
		 * rounds.
		 */
		svio_loop_once(loop);
		for (int i = 0; i < THREADS; i++)
			if (!joined[i] && pthread_tryjoin_np(t[i], NULL) == 0) {
				joined[i] = true;
				left--;
			}
	}
	atomic_store(&over, true);
	pthread_join(s, NULL);
	CU_ASSERT_EQUAL(loop->num_all, 1);
	svio_loop_destroy(loop);
}

/* A change that begins during the last round: the end of svio_loop_once() or _run() serves it. */
static pthread_t adder;
static bool begun;
static struct mine late;

static void *add_late(void *arg)
{
	(void)arg;
	if (svio_poller_add(loop, &late.poller) != 0)
		abort();
	return NULL;
}

static int poll_change(void *ctx)
{
	(void)ctx;
	if (!begun) {
		begun = true;
		pthread_create(&adder, NULL, add_late, NULL);
		while (!(atomic_load(&loop->attention) & ATTN_CHANGE))
			sched_yield();
		svio_loop_stop(loop);
	}
	return 0;
}

static void test_last_round(void)
{
	struct svio_poller base = { .name = "base", .poll = poll_change, .irq_fd = -1 };

	for (int i = 0; i < 2; i++) {
		late = (struct mine){
			.poller = { .name = "lasts", .poll = poll_mine, .ctx = &late, .irq_fd = -1 }
		};
		begun = false;
		CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
		CU_ASSERT_EQUAL(svio_poller_add(loop, &base), 0);
		if (i)
			svio_loop_run(loop);
		else
			svio_loop_once(loop);
		pthread_join(adder, NULL); /* would hang */
		svio_loop_once(loop);
		CU_ASSERT_EQUAL(late.polls, 1);
		svio_loop_destroy(loop);
	}
}

static const struct unit_test tests[] = {
	{ "add and remove while the loop runs", test_changers },
	{ "add and remove between single rounds", test_once },
	{ "add and remove while runs end and begin", test_restarts },
	{ "a change during the last round", test_last_round },
	{ NULL, NULL },
};

int main(void)
{
	alarm(110);
	return unit_run("poll/threads", tests);
}
