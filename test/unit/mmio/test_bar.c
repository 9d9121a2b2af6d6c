/* SPDX-License-Identifier: BSD-3-Clause */
/* Mapping, withdrawal under loads and stores, what the user sees. */
#include "fake_dev.h"

static void test_map(void)
{
	struct svio_bar *bar;
	struct fake f;
	int fds, maps;

	fake_init(&f);
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0); /* the table stays */
	svio_bar_unmap(bar);
	fds = unit_count_fds();
	maps = unit_count_maps();

	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0x1008, 0x10, 0, &bar), 0);
	CU_ASSERT_EQUAL(bar->len, 0x10);
	CU_ASSERT_EQUAL(bar->offset, 0x1008);
	CU_ASSERT_EQUAL(bar->region, 0);
	CU_ASSERT_PTR_EQUAL(bar->dev, fake_dev(&f));
	CU_ASSERT_EQUAL(fake_load(bar, 0), fake_reg(&f, 0x1008));
	CU_ASSERT_FALSE(svio_bar_revoked(bar));
	CU_ASSERT_EQUAL(f.hooks, 1);
	svio_bar_unmap(bar);
	svio_bar_unmap(NULL);
	CU_ASSERT_EQUAL(f.hooks, 0);

	/* len 0 ends with the area that holds off, not with the region */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 2, 0x1000, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL(bar->len, 3 * FAKE_PAGE);
	CU_ASSERT_EQUAL(fake_load(bar, 0), fake_reg(&f, FAKE_BAR_LEN + 0x1000));
	svio_bar_unmap(bar);
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 2, 0x9000, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL(bar->len, FAKE_BIG_LEN - 0x9000);
	svio_bar_unmap(bar);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(unit_count_maps(), maps);
	fake_fini(&f);
}

static void test_map_errors(void)
{
	struct svio_bar *bar = (void *)1;
	struct sigaction before = fake_current_action(), after;
	struct fake f;
	int fds, maps;

	fake_init(&f);
	fds = unit_count_fds();
	maps = unit_count_maps();
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 1, 0, 0, 0, &bar), -EINVAL); /* not mappable */
	CU_ASSERT_PTR_NULL(bar);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "region 1 cannot be mapped"));
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 9, 0, 0, 0, &bar), -EINVAL); /* no such region */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, FAKE_BAR_LEN, 0, 0, &bar),
			-EINVAL); /* behind the end */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 8, FAKE_BAR_LEN, 0, &bar),
			-EINVAL); /* beyond it */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 8, SIZE_MAX, 0, &bar),
			-EINVAL); /* overflow */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 2, 0x5000, 4, 0, &bar),
			-EINVAL); /* between two areas */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 2, 0x3000, 0x2000, 0, &bar),
			-EINVAL); /* across the gap */
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 1u << 31, &bar),
			-EINVAL); /* unknown flag */
	f.no_mmap = true;
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), -ENOMEM);
	CU_ASSERT_EQUAL(f.hooks, 0);
	after = fake_current_action();
	CU_ASSERT_TRUE(before.sa_handler == after.sa_handler);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(unit_count_maps(), maps);
	fake_fini(&f);
}

#define CHECK_WIDTH(bits)                                                                      \
	do {                                                                                   \
		uint##bits##_t ones_ = (uint##bits##_t) ~UINT64_C(0);                          \
		volatile void *p_;                                                             \
		fake_init(&f);                                                                 \
		faults = svio_bar_fault_count();                                               \
		CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);        \
		CU_ASSERT_FALSE(fake_revoked_event(&f));                                       \
		fake_off(&f);                                                                  \
		/* a load */                                                                   \
		p_ = (char *)bar->addr + 0x1018;                                               \
		errno = 77;                                                                    \
		CU_ASSERT_EQUAL(svio_mmio_read##bits(p_), ones_);                              \
		CU_ASSERT_EQUAL(errno, 77);                                                    \
		CU_ASSERT_TRUE(svio_bar_revoked(bar));                                         \
		CU_ASSERT_TRUE(fake_revoked_event(&f));                                        \
		CU_ASSERT_EQUAL(svio_bar_fault_count(), faults + 1);                           \
		/* a store, to another page, absorbed by itself */                             \
		svio_mmio_write##bits((char *)bar->addr + 0x3020, 0x12);                       \
		CU_ASSERT_EQUAL(svio_bar_fault_count(), faults + 2);                           \
		CU_ASSERT_EQUAL(svio_mmio_read##bits((char *)bar->addr + 0x3028), ones_);      \
		/* it reached nothing: no other page shows it, the next shadow page neither */ \
		CU_ASSERT_EQUAL(svio_mmio_read##bits((char *)bar->addr + 0x4020), ones_);      \
		CU_ASSERT_EQUAL(svio_bar_fault_count(), faults + 3);                           \
		svio_bar_unmap(bar);                                                           \
		fake_fini(&f);                                                                 \
	} while (0)

static void test_widths(void)
{
	struct svio_bar *bar;
	struct fake f;
	uint64_t faults;

	CHECK_WIDTH(8);
	CHECK_WIDTH(16);
	CHECK_WIDTH(32);
	CHECK_WIDTH(64);
}

static void test_other_pages(void)
{
	struct svio_bar *bar, *other;
	struct fake f, g;

	fake_init(&f);
	fake_init(&g);
	g.fill = 0x77000000;
	fake_on(&g);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&g), 0, 0, 0, 0, &other), 0);
	/* Half of the file goes: the other half, and the other device, are as they were. */
	CU_ASSERT_EQUAL(ftruncate(f.fd, FAKE_BAR_LEN / 2), 0);
	CU_ASSERT_EQUAL(fake_load(bar, FAKE_BAR_LEN / 2), UINT32_MAX);
	CU_ASSERT_EQUAL(fake_load(bar, FAKE_BAR_LEN / 2 - 4), fake_reg(&f, FAKE_BAR_LEN / 2 - 4));
	CU_ASSERT_EQUAL(fake_load(other, FAKE_BAR_LEN / 2), fake_reg(&g, FAKE_BAR_LEN / 2));
	CU_ASSERT_TRUE(svio_bar_revoked(bar));
	CU_ASSERT_FALSE(svio_bar_revoked(other));
	CU_ASSERT_FALSE(fake_revoked_event(&g));
	svio_bar_unmap(bar);
	CU_ASSERT_FALSE(fake_revoked_event(&f)); /* nothing is left that could be revoked */
	svio_bar_unmap(other);
	fake_fini(&f);
	fake_fini(&g);
}

static void test_readonly(void)
{
	struct svio_bar *bar;
	struct fake f;
	char line[256], *perms = NULL;
	FILE *maps;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(
		svio_bar_map(fake_dev(&f), 0, 0, FAKE_PAGE, SVIO_BAR_READONLY | SVIO_BAR_WC, &bar),
		0);
	fake_off(&f);
	CU_ASSERT_EQUAL(fake_load(bar, 0), UINT32_MAX);
	/* The shadow page is no more writable than the BAR was. */
	maps = fopen("/proc/self/maps", "re");
	CU_ASSERT_PTR_NOT_NULL_FATAL(maps);
	while (!perms && fgets(line, sizeof(line), maps))
		if (strtoull(line, NULL, 16) == (uintptr_t)bar->addr)
			perms = strchr(line, ' ') + 1;
	fclose(maps);
	CU_ASSERT_PTR_NOT_NULL_FATAL(perms);
	CU_ASSERT_EQUAL(strncmp(perms, "r--p", 4), 0);
	svio_bar_unmap(bar);
	fake_fini(&f);
}

/* Decoding is off already when the BAR is mapped: the touch is absorbed, the driver is told. */
static void test_map_while_off(void)
{
	struct svio_bar *bar;
	sigset_t bus, saved;
	struct fake f;
	uint64_t faults = svio_bar_fault_count();

	fake_init(&f);
	fake_off(&f);
	/*
	 * A blocked SIGBUS kills when it is synchronous; mapping does not depend on the caller's
	 * mask, and keeps it.
	 */
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	pthread_sigmask(SIG_BLOCK, &bus, &saved);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	pthread_sigmask(SIG_SETMASK, &saved, &bus);
	CU_ASSERT_EQUAL(sigismember(&bus, SIGBUS), 1);
	CU_ASSERT_TRUE(svio_bar_revoked(bar));
	CU_ASSERT_TRUE(fake_revoked_event(&f));
	CU_ASSERT_EQUAL(svio_bar_fault_count(),
			faults + 1); /* it stopped touching after the first */
	svio_bar_unmap(bar);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, SVIO_BAR_NO_PRETOUCH, &bar), 0);
	CU_ASSERT_FALSE(svio_bar_revoked(bar));
	svio_bar_unmap(bar);
	fake_fini(&f);
}

static void test_table_full(void)
{
	static struct svio_bar *bars[GUARD_SLOTS];
	struct svio_bar *more = (void *)1;
	struct fake f;
	int i, fds;

	fake_init(&f);
	fds = unit_count_fds();
	for (i = 0; i < GUARD_SLOTS; i++)
		if (svio_bar_map(fake_dev(&f), 0, 0, FAKE_PAGE, 0, &bars[i]) != 0)
			break;
	CU_ASSERT_EQUAL_FATAL(i, GUARD_SLOTS);
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0, FAKE_PAGE, 0, &more), -ENOSPC);
	CU_ASSERT_PTR_NULL(more);
	svio_bar_unmap(bars[5]);
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&f), 0, 0, FAKE_PAGE, 0, &bars[5]), 0);
	fake_off(&f);
	/* The last slot is found, too. */
	CU_ASSERT_EQUAL(fake_load(bars[GUARD_SLOTS - 1], 8), UINT32_MAX);
	CU_ASSERT_EQUAL(fake_load(bars[5], 8), UINT32_MAX);
	CU_ASSERT_FALSE(svio_bar_revoked(bars[6]));
	for (i = 0; i < GUARD_SLOTS; i++)
		svio_bar_unmap(bars[i]);
	CU_ASSERT_EQUAL(f.hooks, 0);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	fake_fini(&f);
}

static struct svio_bar *inherited;

static bool child_touches(void)
{
	return fake_load(inherited, 0) != 0;
}

/* The child maps a file of its own where the parent's BAR is, and that file shrinks: not ours. */
static bool child_foreign(void)
{
	int fd = memfd_create("foreign", MFD_CLOEXEC);

	if (fd < 0 || mmap(inherited->addr, FAKE_PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) ==
			      MAP_FAILED)
		return true;
	return fake_load(inherited, 0) != 0;
}

/* The child unmaps the parent's BAR (nothing of its own goes), then uses one of its own. */
static bool child_own(void)
{
	struct svio_bar *bar;
	struct fake f;
	char *mine;
	bool ok;

	mine = mmap(inherited->addr, FAKE_PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	mine[0] = 1;
	svio_bar_unmap(inherited);
	mine[0] = 2;
	fake_init(&f);
	if (svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar) != 0)
		return false;
	fake_off(&f);
	ok = fake_load(bar, 16) == UINT32_MAX && svio_bar_revoked(bar);
	fake_on(&f);
	ok = ok && svio_bar_restore(fake_dev(&f)) == 0 && fake_load(bar, 16) == fake_reg(&f, 16);
	svio_bar_unmap(bar);
	return ok;
}

static void test_fork(void)
{
	struct fake f;
	int status;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &inherited), 0);
	/* MADV_DONTFORK: there is nothing at that address in a child, shadow pages neither. */
	signal(SIGSEGV, SIG_DFL);
	status = fake_in_child(child_touches);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	fake_off(&f);
	CU_ASSERT_EQUAL(fake_load(inherited, 0), UINT32_MAX);
	status = fake_in_child(child_touches);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	status = fake_in_child(child_foreign);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	status = fake_in_child(child_own);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The parent has seen none of that. */
	CU_ASSERT_EQUAL(fake_load(inherited, 4), UINT32_MAX);
	fake_on(&f);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	status = fake_in_child(child_touches);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	svio_bar_unmap(inherited);
	fake_fini(&f);
}

/* The process is at vm.max_map_count: a page of its own is not to be had, the whole BAR is. */
static void test_no_vma(void)
{
	struct svio_bar *bar, *big;
	struct fake f;

	fake_init(&f);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar), 0);
	CU_ASSERT_EQUAL_FATAL(svio_bar_map(fake_dev(&f), 2, 8 * FAKE_PAGE, 0, 0, &big), 0);
	fake_off(&f);
	atomic_store(&fake_mmap_failures, 1);
	CU_ASSERT_EQUAL(fake_load(bar, 0x2000), UINT32_MAX);
	CU_ASSERT_EQUAL(fake_load(bar, 0x3000), UINT32_MAX);
	CU_ASSERT_TRUE(svio_bar_revoked(bar));
	atomic_store(&fake_mmap_failures, 1);
	CU_ASSERT_EQUAL(fake_load(big, 0x12000), UINT32_MAX);
	CU_ASSERT_TRUE(svio_bar_revoked(big));
	CU_ASSERT_EQUAL(atomic_load(&fake_mmap_failures), 0);
	fake_on(&f);
	CU_ASSERT_EQUAL(svio_bar_restore(fake_dev(&f)), 0);
	CU_ASSERT_EQUAL(fake_load(bar, 0x3000), fake_reg(&f, 0x3000));
	CU_ASSERT_EQUAL(fake_load(big, 0x12000), fake_reg(&f, FAKE_BAR_LEN + 0x1a000));
	svio_bar_unmap(bar);
	svio_bar_unmap(big);
	fake_fini(&f);
}

/* Neither is to be had: it dies as a foreign fault does, and does not spin. */
static bool child_no_mmap(void)
{
	struct svio_bar *bar;
	struct fake f;

	fake_init(&f);
	if (svio_bar_map(fake_dev(&f), 0, 0, 0, 0, &bar) != 0)
		return false;
	fake_off(&f);
	atomic_store(&fake_mmap_failures, 1000000000);
	return fake_load(bar, 0) == UINT32_MAX;
}

static void test_no_mmap(void)
{
	int status = fake_in_child(child_no_mmap);

	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static const struct unit_test tests[] = {
	{ "map: ranges, areas, nothing left behind", test_map },
	{ "map: errors leave nothing behind", test_map_errors },
	{ "loads and stores of each width are absorbed", test_widths },
	{ "other pages and other devices are unaffected", test_other_pages },
	{ "a read-only BAR has read-only shadow pages", test_readonly },
	{ "mapping while decoding is off", test_map_while_off },
	{ "the table is full", test_table_full },
	{ "fork", test_fork },
	{ "no VMA left", test_no_vma },
	{ "no mmap at all", test_no_mmap },
	{ NULL, NULL },
};

int main(void)
{
	signal(SIGBUS, SIG_DFL); /* a sanitizer may have put its own there */
	return unit_run("mmio/bar", tests);
}
