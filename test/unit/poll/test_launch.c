/* SPDX-License-Identifier: BSD-3-Clause */
/* Loops on EAL lcores: two of them on whatever CPU this machine has. */
#include <sched.h>
#include <string.h>
#include <unistd.h>
#include <rte_eal.h>
#include <rte_lcore.h>
#include "poll_priv.h"
#include "unit.h"

static _Atomic uint64_t polls;
static _Atomic unsigned int seen_lcore;

static int poll_count(void *ctx)
{
	(void)ctx;
	atomic_store(&seen_lcore, rte_lcore_id());
	atomic_fetch_add(&polls, 1);
	return 0;
}

static void test_before_eal(void)
{
	struct svio_loop *loop;

	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	CU_ASSERT_EQUAL(svio_loop_launch(loop, 1), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "svio_mem_start"));
	CU_ASSERT_EQUAL(svio_loop_join(loop), -EINVAL);
	svio_loop_destroy(loop);
}

static void test_launch(void)
{
	char *argv[] = { "test",     "--no-huge", "--no-shconf", "--no-pci", "-m", "16",
			 "--lcores", "0@0,1@0",	  "--log-level", "error",    NULL };
	struct svio_poller p = { .name = "count", .poll = poll_count, .irq_fd = -1 };
	struct svio_loop *loop, *other;

	CU_ASSERT_TRUE_FATAL(rte_eal_init(SVIO_ARRAY_SIZE(argv) - 1, argv) >= 0);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &loop), 0);
	CU_ASSERT_EQUAL_FATAL(svio_loop_create(NULL, &other), 0);
	CU_ASSERT_EQUAL(svio_poller_add(loop, &p), 0);
	CU_ASSERT_EQUAL(svio_loop_launch(loop, rte_get_main_lcore()), -EINVAL);
	CU_ASSERT_EQUAL(svio_loop_launch(loop, 7), -EINVAL);
	CU_ASSERT_EQUAL(svio_loop_launch(loop, UINT32_MAX), -EINVAL);
	for (int i = 0; i < 3; i++) {
		uint64_t before = atomic_load(&polls);

		CU_ASSERT_EQUAL(svio_loop_launch(loop, 1), 0);
		CU_ASSERT_EQUAL(svio_loop_launch(loop, 1), -EBUSY);
		CU_ASSERT_EQUAL(svio_loop_launch(other, 1), -EBUSY);
		CU_ASSERT_EQUAL(svio_loop_join(other), -EINVAL);
		while (atomic_load(&polls) == before)
			sched_yield();
		CU_ASSERT_EQUAL(svio_loop_run(loop), -EBUSY);
		svio_loop_stop(loop);
		CU_ASSERT_EQUAL(svio_loop_join(loop), 0);
		CU_ASSERT_EQUAL(atomic_load(&seen_lcore), 1);
	}
	CU_ASSERT_EQUAL(svio_loop_join(loop), -EINVAL);
	svio_loop_destroy(other);
	svio_loop_destroy(loop);
	rte_eal_cleanup();
}

static const struct unit_test tests[] = {
	{ "without EAL", test_before_eal },
	{ "launch, stop, join, again", test_launch },
	{ NULL, NULL },
};

int main(void)
{
	alarm(110);
	return unit_run("poll/launch", tests);
}
