/* SPDX-License-Identifier: BSD-3-Clause */
/* The way back: restore, its refusals, and the reset hook. */
#include "fake_dev.h"

static void test_restore(void)
{
	struct svio_bar *bar, *second;
	struct fake f;
	void *addr;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 2, 0, 0, 0, &second), 0);
	addr = bar->addr;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0); /* nothing to do */
	for (uint32_t i = 0; i < 10; i++) {
		fake_off(&f);
		CU_ASSERT_EQUAL(fake_load(bar, 0x14), UINT32_MAX);
		fake_store(bar, 0x14, 0); /* stays in the shadow page */
		CU_ASSERT_EQUAL(fake_load(bar, 0x14),
				0); /* and is read back there, as documented */
		if (i % 2)
			CU_ASSERT_EQUAL(fake_load(second, 0), UINT32_MAX);
		CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -EAGAIN);
		CU_ASSERT_TRUE(svio_bar_revoked(bar));
		CU_ASSERT_TRUE(fake_revoked_event(&f));
		f.fill = 0x10000000 * (i + 1);
		fake_on(&f);
		CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
		CU_ASSERT_FALSE(svio_bar_revoked(bar));
		CU_ASSERT_FALSE(svio_bar_revoked(second));
		CU_ASSERT_FALSE(fake_revoked_event(&f));
		CU_ASSERT_PTR_EQUAL(bar->addr, addr);
		for (size_t off = 0; off < FAKE_BAR_LEN; off += FAKE_PAGE)
			CU_ASSERT_EQUAL(fake_load(bar, off + 0x14), fake_reg(&f, off + 0x14));
	}
	/* Stores reach the device again. */
	fake_store(bar, 8, 0xfeedf00d);
	CU_ASSERT_EQUAL(f.fill + 8 == 0xfeedf00d, false);
	{
		uint32_t v = 0;

		CU_ASSERT_EQUAL(pread(f.fd, &v, 4, 8), 4);
		CU_ASSERT_EQUAL(v, 0xfeedf00d);
	}
	svio_bar_unmap(bar);
	svio_bar_unmap(second);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0); /* a device without BARs */
	fake_fini(&f);
}

static void test_refusals(void)
{
	struct svio_bar *bar;
	struct fake f;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	fake_off(&f);
	(void)fake_load(bar, 0);
	fake_on(&f);

	/* D3hot: the bit is set, the region does not answer */
	f.asleep = true;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -EAGAIN);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "low-power"));
	CU_ASSERT_TRUE(fake_revoked_event(&f));
	f.asleep = false;

	/* the configuration space of what is gone */
	f.config_gone = true;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -ENODEV);
	f.config_gone = false;
	svio_device_event_set(fake_dev(&f), SVIO_EV_GONE);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -ENODEV);
	CU_ASSERT_EQUAL(fake_load(bar, 4), UINT32_MAX);
	svio_device_event_clear(fake_dev(&f), SVIO_EV_GONE);

	/* a VF has no memory-enable bit */
	f.command = 0;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -EAGAIN);
	f.is_vf = true;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	CU_ASSERT_EQUAL(fake_load(bar, 4), fake_reg(&f, 4));
	svio_bar_unmap(bar);
	fake_fini(&f);
}

/* The mapping cannot be made: no hole stays where the BAR was, and the next try may succeed. */
static void test_mmap_fails(void)
{
	struct svio_bar *bar, *big;
	struct fake f;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 2, 8 * FAKE_PAGE, 0, 0, &big), 0);
	fake_off(&f);
	(void)fake_load(bar, 0);
	(void)fake_load(big, 0);
	fake_on(&f);
	f.no_mmap = true;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "fake: restoring region"));
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && svio_bar_revoked(big) && fake_revoked_event(&f));
	for (size_t off = 0; off < FAKE_BAR_LEN; off += FAKE_PAGE) {
		CU_ASSERT_EQUAL(fake_load(bar, off), UINT32_MAX);
		CU_ASSERT_EQUAL(fake_load(big, off), UINT32_MAX);
	}
	f.no_mmap = false;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	CU_ASSERT_EQUAL(fake_load(bar, 0), fake_reg(&f, 0));
	CU_ASSERT_EQUAL(fake_load(big, 0x8000), fake_reg(&f, FAKE_BAR_LEN + 0x10000));
	svio_bar_unmap(bar);
	svio_bar_unmap(big);
	fake_fini(&f);
}

/* Decoding goes off between restore's mmap and its touch. */
static void test_off_meanwhile(void)
{
	struct svio_bar *bar;
	struct fake f;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	fake_off(&f);
	(void)fake_load(bar, 0);
	fake_on(&f);
	f.off_in_mmap = true;
	f.mmaps = 0;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), -EAGAIN);
	CU_ASSERT_EQUAL(f.mmaps, 1);
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && fake_revoked_event(&f));
	fake_on(&f);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	CU_ASSERT_EQUAL(fake_load(bar, 0), fake_reg(&f, 0));
	svio_bar_unmap(bar);
	fake_fini(&f);
}

static void *load_page_1(void *arg)
{
	return (void *)(uintptr_t)fake_load(arg, FAKE_PAGE);
}

/*
 * A handler on another thread is about to put its shadow page in when restore maps the device. It
 * does so afterwards; restore waits for it, sees it, and begins again: when it returns 0, what went
 * before is over.
 */
static void test_late_handler(void)
{
	struct svio_bar *bar;
	struct fake f;
	pthread_t t;
	void *v;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	fake_off(&f);
	(void)fake_load(bar, 0);
	atomic_store(&fake_gate, 1);
	pthread_create(&t, NULL, load_page_1, bar);
	while (atomic_load(&fake_gate) != 2)
		sched_yield();
	fake_on(&f);
	f.open_in_mmap = true;
	f.mmaps = 0;
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	pthread_join(t, &v);
	CU_ASSERT_TRUE((uintptr_t)v == UINT32_MAX || (uintptr_t)v == fake_reg(&f, FAKE_PAGE));
	CU_ASSERT_EQUAL(f.mmaps, 2);
	CU_ASSERT_FALSE(svio_bar_revoked(bar) || fake_revoked_event(&f));
	CU_ASSERT_EQUAL(fake_load(bar, FAKE_PAGE), fake_reg(&f, FAKE_PAGE));
	svio_bar_unmap(bar);
	fake_fini(&f);
}

/* Registers with side effects are read by nobody but the driver. */
static void test_no_pretouch(void)
{
	struct svio_bar *bar;
	struct fake f;
	uint64_t faults;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, SVIO_BAR_NO_PRETOUCH, &bar), 0);
	fake_off(&f);
	(void)fake_load(bar, 0);
	faults = svio_bar_fault_count();
	f.command = 2; /* the fake's file is still truncated: a touch would fault */
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	CU_ASSERT_EQUAL(f.region_reads, 0);
	CU_ASSERT_EQUAL(svio_bar_fault_count(), faults);
	CU_ASSERT_EQUAL(fake_load(bar, 0),
			UINT32_MAX); /* what was overlooked is found by the first access */
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && fake_revoked_event(&f));
	svio_bar_unmap(bar);
	fake_fini(&f);
}

static void *restore_thread(void *arg)
{
	return (void *)(intptr_t)svio_bar_restore(arg);
}

static void test_hook(void)
{
	struct svio_bar *bar, *big;
	struct fake f;
	uint64_t faults;
	pthread_t t;
	void *rc;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 2, 8 * FAKE_PAGE, 0, 0, &big), 0);
	CU_ASSERT_PTR_NOT_NULL_FATAL(f.hook);
	CU_ASSERT_EQUAL(f.hooks, 1);
	CU_ASSERT_EQUAL(f.hook->stage, SVIO_HOOK_MMIO);

	/* The device answers, yet nobody reaches it. */
	faults = svio_bar_fault_count();
	f.hook->prepare(f.hook->ctx, fake_dev(&f));
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && svio_bar_revoked(big) && fake_revoked_event(&f));
	for (size_t off = 0; off < FAKE_BAR_LEN; off += FAKE_PAGE)
		CU_ASSERT_EQUAL(fake_load(bar, off), UINT32_MAX);
	CU_ASSERT_EQUAL(svio_bar_fault_count(), faults); /* a short BAR without a single signal */
	CU_ASSERT_EQUAL(fake_load(big, 0x10000), UINT32_MAX);
	fake_store(big, 0x11000, 0);
	CU_ASSERT_EQUAL(svio_bar_fault_count(), faults + 2);
	/* A driver on another thread cannot put it back under the reset. */
	pthread_create(&t, NULL, restore_thread, fake_dev(&f));
	pthread_join(t, &rc);
	CU_ASSERT_EQUAL((intptr_t)rc, -EAGAIN);
	CU_ASSERT_EQUAL(fake_load(bar, 0), UINT32_MAX);
	f.hook->done(f.hook->ctx, fake_dev(&f), 0);
	CU_ASSERT_FALSE(svio_bar_revoked(bar) || svio_bar_revoked(big) || fake_revoked_event(&f));
	CU_ASSERT_EQUAL(fake_load(bar, 4), fake_reg(&f, 4));
	CU_ASSERT_EQUAL(fake_load(big, 0x11000), fake_reg(&f, FAKE_BAR_LEN + 0x19000));

	/* The reset failed, the device is as it was. */
	f.hook->prepare(f.hook->ctx, fake_dev(&f));
	f.hook->done(f.hook->ctx, fake_dev(&f), -ENOTTY);
	CU_ASSERT_FALSE(svio_bar_revoked(bar));

	/* It ends with decoding off. */
	f.hook->prepare(f.hook->ctx, fake_dev(&f));
	fake_off(&f);
	f.hook->done(f.hook->ctx, fake_dev(&f), 0);
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && fake_revoked_event(&f));
	fake_on(&f);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);

	/* An end without a beginning: registered in between. */
	fake_off(&f);
	(void)fake_load(bar, 0);
	fake_on(&f);
	f.hook->done(f.hook->ctx, fake_dev(&f), 0);
	CU_ASSERT_FALSE(svio_bar_revoked(bar));
	CU_ASSERT_EQUAL(fake_load(bar, 4), fake_reg(&f, 4));

	/* Gone. */
	f.hook->prepare(f.hook->ctx, fake_dev(&f));
	f.hook->done(f.hook->ctx, fake_dev(&f), -ENODEV);
	CU_ASSERT_TRUE(svio_bar_revoked(bar) && fake_revoked_event(&f));
	CU_ASSERT_EQUAL(fake_load(bar, 4), UINT32_MAX);
	svio_bar_unmap(big);
	CU_ASSERT_EQUAL(f.hooks, 1);
	svio_bar_unmap(bar);
	CU_ASSERT_EQUAL(f.hooks, 0);
	fake_fini(&f);
}

static const struct unit_test tests[] = {
	{ "restore at the same address, ten times", test_restore },
	{ "refusals: off, asleep, gone; a VF", test_refusals },
	{ "the device's mmap fails", test_mmap_fails },
	{ "decoding goes off during restore", test_off_meanwhile },
	{ "a handler that restore overtakes", test_late_handler },
	{ "no pre-touch", test_no_pretouch },
	{ "reset hook", test_hook },
	{ NULL, NULL },
};

int main(void)
{
	signal(SIGBUS, SIG_DFL);
	return unit_run("mmio/restore", tests);
}
