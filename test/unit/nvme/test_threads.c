/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queue pairs in threads of their own, while others reset the controller, withdraw its BAR, and identify. For
 * ThreadSanitizer, too: the simulated device itself is hidden from it (tsan.supp), the driver's own state is not.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include "fake.h"
#include "unit.h"

#define THREADS 3
#define ROUNDS	4000u

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_ns ns;
static atomic_bool stop;
static atomic_bool troubled; /* every kind of trouble has been there once */
static atomic_uint working;

struct worker {
	pthread_t thread;
	uint64_t submitted, completed, errors;
	uint8_t *buf;
	struct svio_nvme_qp *qp;
};

static void cb(void *ctx, int status)
{
	struct worker *w = ctx;

	w->completed++;
	w->errors += status != 0;
}

/* However fast the machine is, there is work while there is trouble. */
static bool more(const struct worker *w)
{
	return w->submitted < ROUNDS || !atomic_load(&troubled);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	w->qp = fake_qp(nvme, 32);
	while (more(w) || w->completed < w->submitted) {
		while (more(w) &&
		       svio_nvme_read(w->qp, &ns, w->buf, w->submitted % FAKE_BLOCKS, 1, 0, cb, w) == 0)
			w->submitted++;
		if (svio_nvme_poll(w->qp, 0) == 0) {
			fake_run(dev);
			sched_yield();
		}
	}
	atomic_fetch_sub(&working, 1);
	svio_nvme_qp_destroy(w->qp);
	return NULL;
}

static void *trouble(void *arg)
{
	const struct timespec pause = { .tv_nsec = 2000000 };
	unsigned int n = 0;

	(void)arg;
	while (!atomic_load(&stop)) {
		struct svio_nvme_stats stats;
		struct svio_nvme_ns again;

		switch (n++ % 4) {
		case 0:
			(void)svio_nvme_reset(nvme);
			break;
		case 1:
			fake_revoke(dev);
			nanosleep(&pause, NULL);
			fake_lock();
			fake_decode(dev, true);
			fake_unlock();
			break;
		case 2:
			fake_function_reset(dev, false);
			break;
		default:
			(void)svio_nvme_ns_get(nvme, 1, &again);
			svio_nvme_get_stats(nvme, &stats);
			break;
		}
		if (n == 4)
			atomic_store(&troubled, true);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

static void test_threads(void)
{
	struct worker w[THREADS];
	struct svio_nvme_stats stats;
	pthread_t t;

	dev = fake_new();
	nvme = fake_open(dev, NULL);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	fake_threads = true;
	atomic_store(&working, THREADS);
	memset(w, 0, sizeof(w));
	for (int i = 0; i < THREADS; i++)
		w[i].buf = fake_alloc(4096);
	for (int i = 0; i < THREADS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, trouble, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	svio_nvme_get_stats(nvme, &stats);
	CU_ASSERT_TRUE(stats.resets > 0);
	for (int i = 0; i < THREADS; i++) {
		CU_ASSERT_TRUE(w[i].submitted >= ROUNDS);
		CU_ASSERT_EQUAL(w[i].completed, w[i].submitted);
		CU_ASSERT_EQUAL(w[i].errors, 0);
	}
	fake_decode(dev, true);
	svio_nvme_close(nvme);
	fake_threads = false;
	for (int i = 0; i < THREADS; i++)
		svio_mem_free(w[i].buf);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

static const struct unit_test tests[] = {
	{ "three threads, and trouble from a fourth", test_threads },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/threads", tests);
}
