/* SPDX-License-Identifier: BSD-3-Clause */
/* All threads stand still while a function runs, and go on as if nothing had been. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "dirty_priv.h"
#include "unit.h"

#define THREADS 4u

static _Atomic uint64_t counters[THREADS];
static _Atomic bool quit, over;
static _Atomic int signals;
static int event;

static void *count(void *arg)
{
	_Atomic uint64_t *counter = arg;

	while (!quit)
		++*counter;
	return NULL;
}

/* Threads that come and go all the time. */
static void *brief(void *arg)
{
	++*(_Atomic uint64_t *)arg;
	return NULL;
}

static void *spawn(void *arg)
{
	while (!quit) {
		pthread_t t;

		if (pthread_create(&t, NULL, brief, arg) == 0)
			pthread_join(t, NULL);
	}
	return NULL;
}

/* Sleeps in the kernel, with every signal blocked, as threads of this library do. */
static void *sleeper(void *arg)
{
	struct pollfd p = { .fd = event, .events = POLLIN };
	sigset_t all;
	int *result = arg;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	*result = poll(&p, 1, -1);
	return NULL;
}

static void *sleepless(void *arg)
{
	(void)arg;
	while (!over)
		++counters[1];
	return NULL;
}

struct seen {
	uint64_t before[THREADS], after[THREADS];
};

static int watch(void *ctx)
{
	struct seen *s = ctx;

	for (uint32_t i = 0; i < THREADS; i++)
		s->before[i] = counters[i];
	for (int k = 0; k < 200; k++)
		syscall(SYS_sched_yield);
	for (uint32_t i = 0; i < THREADS; i++)
		s->after[i] = counters[i];
	return 0;
}

static int fail(void *ctx)
{
	(void)ctx;
	return -ENXIO;
}

static void on_signal(int sig)
{
	(void)sig;
	signals++;
}

static void test_still(void)
{
	pthread_t t[THREADS], s;
	struct seen seen;
	int woken = -2;

	quit = false;
	event = eventfd(0, EFD_CLOEXEC);
	for (uint32_t i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, i < 2 ? spawn : count, &counters[i]), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&s, NULL, sleeper, &woken), 0);
	for (int round = 0; round < 120; round++) {
		uint64_t start = counters[THREADS - 1];

		int rc = svio__dirty_freeze(watch, &seen);

		CU_ASSERT_EQUAL(rc, 0);
		if (rc)
			printf("(%s) ", svio_last_error());
		for (uint32_t i = 0; i < THREADS; i++)
			CU_ASSERT_EQUAL(seen.before[i], seen.after[i]);
		/* And they go on. */
		while (counters[THREADS - 1] == start)
			sched_yield();
	}
	CU_ASSERT_EQUAL(svio__dirty_freeze(fail, NULL), -ENXIO);
	CU_ASSERT_EQUAL(woken, -2); /* its poll(2) was not ended by it */
	CU_ASSERT_EQUAL(eventfd_write(event, 1), 0);
	pthread_join(s, NULL);
	CU_ASSERT_EQUAL(woken, 1);
	quit = true;
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	close(event);
	CU_ASSERT_EQUAL(waitpid(-1, NULL, WNOHANG), -1); /* no child is left for the application to find */
	CU_ASSERT_EQUAL(errno, ECHILD);
}

struct sender {
	pthread_t to;
	int sent;
};

/* Real-time signals are queued, one by one: none may be lost, and always some are on their way. */
static void *send(void *arg)
{
	struct sender *s = arg;

	while (!quit) {
		if (s->sent - signals < 100 && pthread_kill(s->to, SIGRTMIN) == 0)
			s->sent++;
	}
	return NULL;
}

static void test_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal }, old;
	struct sender s = { 0 };
	pthread_t target, sender;
	struct seen seen;
	uint64_t end;

	quit = false;
	sigaction(SIGRTMIN, &sa, &old);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&target, NULL, sleepless, NULL), 0);
	s.to = target;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&sender, NULL, send, &s), 0);
	for (int round = 0; round < 120; round++) {
		int before = signals;

		CU_ASSERT_EQUAL(svio__dirty_freeze(watch, &seen), 0);
		end = svio_now_ns() + UINT64_C(20000000000);
		while (signals == before && svio_now_ns() < end)
			sched_yield();
		CU_ASSERT_NOT_EQUAL_FATAL(signals, before);
	}
	quit = true;
	pthread_join(sender, NULL);
	end = svio_now_ns() + UINT64_C(20000000000);
	while (signals < s.sent && svio_now_ns() < end)
		sched_yield();
	CU_ASSERT_EQUAL(signals, s.sent);
	over = true;
	pthread_join(target, NULL);
	sigaction(SIGRTMIN, &old, NULL);
}

static int nothing(void *ctx)
{
	(void)ctx;
	return 0;
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "threads stand still, those that sleep and those that come", test_still },
		{ "signals are neither lost nor doubled", test_signals },
		{ NULL, NULL },
	};

	if (svio__dirty_freeze(nothing, NULL) == -EOPNOTSUPP) {
		printf("skipped: %s\n", svio_last_error());
		return 0;
	}
	return unit_run("migrate/dirty_freeze", tests);
}
