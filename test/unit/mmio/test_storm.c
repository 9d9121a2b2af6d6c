/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads load and store while decoding toggles and the BARs are restored, thousands of times. A
 * load gives the register or all ones, nothing else; nobody dies; when it is over, one restore
 * leaves no shadow page.
 */
#include <sched.h>
#include "fake_dev.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 300
#else
#define ROUNDS 1000
#endif
#define HAMMERS	  3
#define BIG_PAGES (FAKE_BIG_LEN / FAKE_PAGE - 8)

static struct fake dev;
static struct svio_bar *bar, *big;
static _Atomic bool stop;
static _Atomic uint64_t accesses, ones, wrong;

/* Pages 0-3 are read only; the stores go to pages 4-7, to a register of each thread's own. */
static void *hammer(void *arg)
{
	size_t self = (size_t)(uintptr_t)arg;
	uint64_t n = 0;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		size_t off = (n * 2654435761u) % (4 * FAKE_PAGE) & ~(size_t)3;
		uint32_t v = fake_load(bar, off);

		if (v == UINT32_MAX)
			atomic_fetch_add_explicit(&ones, 1, memory_order_relaxed);
		else if (v != fake_reg(&dev, off))
			atomic_fetch_add_explicit(&wrong, 1, memory_order_relaxed);
		fake_store(bar, (4 + n % 4) * FAKE_PAGE + 64 * (self + 1), (uint32_t)n);
		v = fake_load(big, (n * FAKE_PAGE) % (BIG_PAGES * FAKE_PAGE) + 8);
		if (v != UINT32_MAX &&
		    v != fake_reg(&dev, FAKE_BAR_LEN + 8 * FAKE_PAGE +
						(n * FAKE_PAGE) % (BIG_PAGES * FAKE_PAGE) + 8))
			atomic_fetch_add_explicit(&wrong, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&accesses, 1, memory_order_relaxed);
		/* More threads than cores: the one that toggles must get its turn. */
		if (++n % 16 == 0)
			sched_yield();
	}
	return NULL;
}

static void *restorer(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		int rc = svio_bar_restore(fake_dev(&dev));

		if (rc != 0 && rc != -EAGAIN)
			atomic_fetch_add(&wrong, 1);
		sched_yield();
	}
	return NULL;
}

/* Let the other threads meet what was just done: until they have made n accesses. */
static void let_run(uint64_t n)
{
	uint64_t until = atomic_load(&accesses) + n;

	while (atomic_load(&accesses) < until)
		sched_yield();
}

static void all_real(void)
{
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&dev)), 0);
	CU_ASSERT_FALSE(svio_bar_revoked(bar) || svio_bar_revoked(big) || fake_revoked_event(&dev));
	for (size_t p = 0; p < 8; p++)
		CU_ASSERT_EQUAL(fake_load(bar, p * FAKE_PAGE + 0x800),
				fake_reg(&dev, p * FAKE_PAGE + 0x800));
	for (size_t p = 0; p < BIG_PAGES; p++)
		CU_ASSERT_EQUAL(fake_load(big, p * FAKE_PAGE),
				fake_reg(&dev, FAKE_BAR_LEN + (8 + p) * FAKE_PAGE));
	/* Stores reach the file: these are mappings of it and not private pages. */
	fake_store(bar, 0x800, 0x11223344);
	{
		uint32_t v = 0;

		CU_ASSERT_EQUAL(pread(dev.fd, &v, 4, 0x800), 4);
		CU_ASSERT_EQUAL(v, 0x11223344);
	}
}

static void storm(bool second_restorer, bool hooks)
{
	pthread_t t[HAMMERS + 1];
	uint64_t faults = svio_bar_fault_count();
	int n = 0;

	atomic_store(&stop, false);
	atomic_store(&wrong, 0);
	atomic_store(&ones, 0);
	atomic_store(&accesses, 0);
	fake_init(&dev);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&dev), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&dev), 2, 8 * FAKE_PAGE, 0, 0, &big), 0);
	for (; n < HAMMERS; n++)
		pthread_create(&t[n], NULL, hammer, (void *)(uintptr_t)n);
	if (second_restorer)
		pthread_create(&t[n++], NULL, restorer, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		if (hooks)
			dev.hook->prepare(dev.hook->ctx, fake_dev(&dev));
		fake_off(&dev);
		let_run((uint64_t)i % 7);
		fake_on(&dev);
		if (hooks)
			dev.hook->done(dev.hook->ctx, fake_dev(&dev), 0);
		else
			svio_bar_restore(fake_dev(&dev));
		let_run((uint64_t)i % 5);
	}
	atomic_store(&stop, true);
	while (n > 0)
		pthread_join(t[--n], NULL);
	/* No revocation without its event, and no shadow page without both. */
	CU_ASSERT_TRUE(!(svio_bar_revoked(bar) || svio_bar_revoked(big)) ||
		       fake_revoked_event(&dev));
	if (!svio_bar_revoked(bar))
		CU_ASSERT_EQUAL(fake_load(bar, 0), fake_reg(&dev, 0));
	CU_ASSERT_EQUAL(atomic_load(&wrong), 0);
	CU_ASSERT_TRUE(atomic_load(&ones) > 0);
	/* Faults were met by the hammers, not only by our own touches. */
	CU_ASSERT_TRUE(svio_bar_fault_count() > faults + (hooks ? 0 : ROUNDS / 10));
	/*
	 * The last fake file's registers 4-7 hold what the hammers stored; a fresh one is read back
	 * whole.
	 */
	fake_off(&dev);
	(void)fake_load(bar, 0);
	(void)fake_load(big, 0);
	fake_on(&dev);
	all_real();
	svio_bar_unmap(bar);
	svio_bar_unmap(big);
	fake_fini(&dev);
}

static void test_storm(void)
{
	storm(false, false);
}

static void test_storm_restorers(void)
{
	storm(true, false);
}

static void test_storm_hooks(void)
{
	storm(true, true);
}

/*
 * BARs come and go in one thread while another one's faults: slots change under the handler's scan.
 */
static void *mapper(void *arg)
{
	struct fake mine;

	(void)arg;
	fake_init(&mine);
	while (!atomic_load(&stop)) {
		struct svio_bar *b[3];
		uint32_t page = 0;

		for (size_t i = 0; i < SVIO_ARRAY_SIZE(b); i++)
			if (svio_bar_map(fake_dev(&mine), 0, FAKE_PAGE * page++, FAKE_PAGE, 0,
					 &b[i]) != 0)
				abort();
		fake_off(&mine);
		if (fake_load(b[1], 0) != UINT32_MAX)
			atomic_fetch_add(&wrong, 1);
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(b); i++)
			svio_bar_unmap(b[i]);
		fake_on(&mine);
	}
	fake_fini(&mine);
	return NULL;
}

static void test_storm_map(void)
{
	pthread_t t;

	atomic_store(&stop, false);
	atomic_store(&wrong, 0);
	fake_init(&dev);
	pthread_create(&t, NULL, mapper, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&dev), 0, 0, 0, 0, &bar), 0);
		fake_off(&dev);
		if (fake_load(bar, 0x3000) != UINT32_MAX)
			atomic_fetch_add(&wrong, 1);
		fake_on(&dev);
		if (svio_bar_restore(fake_dev(&dev)) != 0 ||
		    fake_load(bar, 0x3000) != fake_reg(&dev, 0x3000))
			atomic_fetch_add(&wrong, 1);
		svio_bar_unmap(bar);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(atomic_load(&wrong), 0);
	CU_ASSERT_TRUE(fake_current_action().sa_handler == SIG_DFL);
	fake_fini(&dev);
}

static const struct unit_test tests[] = {
	{ "loads and stores while decoding toggles", test_storm },
	{ "the same with a second thread that restores", test_storm_restorers },
	{ "the same with orderly resets", test_storm_hooks },
	{ "mapping and unmapping while others fault", test_storm_map },
	{ NULL, NULL },
};

int main(void)
{
	signal(SIGBUS, SIG_DFL);
	alarm(110);
	return unit_run("mmio/storm", tests);
}
