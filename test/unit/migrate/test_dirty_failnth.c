/* SPDX-License-Identifier: BSD-3-Clause */
/* Every allocation, mapping, open and ioctl of a dirty set fails in turn: nothing is left behind, and no written page is lost. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "failnth.h"
#include "svio_dirty.h"
#include "unit.h"

#define PAGE  4096u
#define PAGES 64u

static uint8_t *mem;

/* What was written must be there once a sync succeeds, however many failed before. */
static int must_name(struct svio_dirty *set, uint64_t want)
{
	uint64_t word = 0, more = 0;
	int rc = svio_dirty_sync(set, (uintptr_t)mem, PAGES * PAGE, &word, NULL), again = 0;

	/* One call fails in a run: the second try does not. */
	if (rc)
		again = svio_dirty_sync(set, (uintptr_t)mem, PAGES * PAGE, &more, NULL);
	CU_ASSERT_EQUAL(again, 0);
	CU_ASSERT_EQUAL((word | more) & want, want);
	return rc;
}

static int scenario(void *ctx)
{
	const struct svio_dirty_opts opts = {
		.size = sizeof(opts), .addr = (uintptr_t)mem, .len = PAGES * PAGE, .sources = SVIO_DIRTY_CPU,
	};
	struct svio_dirty *set;
	int rc = svio_dirty_start(&opts, &set), err;

	(void)ctx;
	if (rc)
		return rc;
	mem[5 * PAGE]++;
	rc = must_name(set, 1u << 5);
	mem[9 * PAGE]++;
	/* Something new in the range, written before anybody knows of it. */
	munmap(mem + 20 * PAGE, PAGE);
	failnth_pause();
	mem[20 * PAGE] = *(uint8_t *)mmap(mem + 20 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
					  0) + 1;
	failnth_resume();
	err = must_name(set, 1u << 9 | 1u << 20);
	svio_dirty_stop(set);
	return rc ? rc : err;
}

static void test_sweep(void)
{
	const char *why;

	if (svio_dirty_cpu_probe(&why) != SVIO_DIRTY_CPU_WP_ASYNC) {
		printf("(skipped: %s) ", why);
		return;
	}
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(mem, MAP_FAILED);
	madvise(mem, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(mem, 1, PAGES * PAGE);
	CU_ASSERT_TRUE(failnth_sweep(scenario, NULL) > 10);
	munmap(mem, PAGES * PAGE);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "start, sync and stop", test_sweep },
		{ NULL, NULL },
	};

	return unit_run("migrate/dirty_failnth", tests);
}
