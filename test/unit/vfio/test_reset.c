/* SPDX-License-Identifier: BSD-3-Clause */
/* Reset, hot reset, and memory decoding off and on: hooks, their order, and what is restored. */
#include <string.h>
#include <sys/eventfd.h>
#include "fake.h"
#include "unit.h"
#include "vfio_priv.h"

static struct svio_device *dev;
static char trace[128];
static int last_err;

struct named {
	struct svio_device_hook hook;
	char name;
};

static void prepare(void *ctx, struct svio_device *d)
{
	struct named *n = ctx;

	CU_ASSERT_TRUE(svio_device_events(d) & SVIO_EV_QUIESCE);
	strncat(trace, &n->name, 1);
}

static void done(void *ctx, struct svio_device *d, int err)
{
	struct named *n = ctx;
	char lower = (char)(n->name + 'a' - 'A');

	CU_ASSERT_TRUE(svio_device_events(d) & SVIO_EV_QUIESCE);
	last_err = err;
	strncat(trace, &lower, 1);
}

static struct named hooks[] = {
	{ { .stage = SVIO_HOOK_MMIO }, 'M' }, { { .stage = SVIO_HOOK_DRIVER }, 'D' },
	{ { .stage = SVIO_HOOK_IOAS }, 'I' }, { { .stage = SVIO_HOOK_DRIVER }, 'E' },
	{ { .stage = SVIO_HOOK_POLL }, 'P' },
};

static void hooks_add(struct svio_device *d)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(hooks); i++) {
		hooks[i].hook.prepare = prepare;
		hooks[i].hook.done = done;
		hooks[i].hook.ctx = &hooks[i];
		svio_device_hook_add(d, &hooks[i].hook);
	}
}

static void hooks_remove(struct svio_device *d)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(hooks); i++)
		svio_device_hook_remove(d, &hooks[i].hook);
}

static void traced(const char *expected)
{
	CU_ASSERT_STRING_EQUAL(trace, expected);
	trace[0] = '\0';
}

static void start(const char *name)
{
	fake_start();
	trace[0] = '\0';
	CU_ASSERT_EQUAL_FATAL(svio_device_open(name, NULL, &dev), 0);
	hooks_add(dev);
}

static void stop(void)
{
	hooks_remove(dev);
	svio_device_close(dev);
	CU_ASSERT_TRUE(fake_idle());
	fake_stop();
}

static void test_reset(void)
{
	int efd[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) };

	start(fake_names[0]);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_MSIX, 0, 2, efd), 0);
	fake.reset_eagain = 3;
	CU_ASSERT_EQUAL(svio_device_reset(dev), 0);
	CU_ASSERT_EQUAL(fake.dev[0].resets, 1);
	traced("DEPIMmiped");
	CU_ASSERT_EQUAL(last_err, 0);
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_RESET);
	/* The machine forgot all of it; it is there again, with the same descriptors. */
	CU_ASSERT_EQUAL(fake_command(0), 6);
	CU_ASSERT_EQUAL(fake.dev[0].fds[SVIO_IRQ_MSIX][1], efd[1]);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_ERR], 1);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_REQ], 1);
	stop();
	close(efd[0]);
	close(efd[1]);
}

static void test_reset_fails(void)
{
	start(fake_names[0]);
	fake.reset_eagain = -1;
	CU_ASSERT_EQUAL(svio_device_reset(dev), -EAGAIN);
	traced("DEPIMmiped");
	CU_ASSERT_EQUAL(last_err, -EAGAIN);
	CU_ASSERT_EQUAL(svio_device_events(dev), 0);
	fake.reset_eagain = 0;
	fake.bus_gone = true;
	CU_ASSERT_EQUAL(svio_device_reset(dev), -ENODEV);
	traced("DEPIMmiped");
	CU_ASSERT_EQUAL(last_err, -ENODEV);
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_GONE);
	fake.bus_gone = false;
	stop();
	fake_start();
	fake.no_reset = true;
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[0], NULL, &dev), 0);
	CU_ASSERT_EQUAL(svio_device_reset(dev), -ENOTTY);
	svio_device_close(dev);
	fake_stop();
}

static void test_memory(void)
{
	uint32_t v;

	start(fake_names[0]);
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(svio_device_set_memory(dev, false), 0);
	traced("DEPIM");
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_QUIESCE);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0, &v, 4), -EIO);
	CU_ASSERT_EQUAL(svio_device_set_memory(dev, false), 0);
	traced("");
	/* Mastering does not bring decoding back by the way. */
	CU_ASSERT_EQUAL(svio_device_set_master(dev, true), 0);
	CU_ASSERT_EQUAL(fake_command(0), 4);
	/* A reset meanwhile: still off, and the hooks wait. */
	CU_ASSERT_EQUAL(svio_device_reset(dev), 0);
	CU_ASSERT_EQUAL(fake_command(0), 4);
	traced("");
	CU_ASSERT_EQUAL(svio_device_set_memory(dev, true), 0);
	traced("miped");
	CU_ASSERT_EQUAL(last_err, 0);
	CU_ASSERT_EQUAL(fake_command(0), 6);
	CU_ASSERT_EQUAL(svio_device_region_read(dev, 0, 0, &v, 4), 0);
	CU_ASSERT_EQUAL(svio_device_set_memory(dev, true), 0);
	traced("");
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_RESET);
	/* Hooks that were removed do not run. */
	svio_device_hook_remove(dev, &hooks[1].hook);
	svio_device_hook_remove(dev, &hooks[1].hook);
	CU_ASSERT_EQUAL(svio_device_reset(dev), 0);
	traced("EPIMmipe");
	stop();
}

static void test_hot(void)
{
	struct svio_device *b;

	start(fake_names[1]);
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[0], NULL, &b), 0);
	CU_ASSERT_EQUAL(svio_device_set_master(b, true), 0);
	fake.reset_eagain = 2;
	CU_ASSERT_EQUAL(svio_device_hot_reset(b), 0);
	CU_ASSERT_EQUAL(fake.hot_resets, 1);
	CU_ASSERT_EQUAL(fake.hot_fds, 1); /* both functions are in one group */
	traced("DEPIMmiped");		  /* those of the neighbour */
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_RESET);
	CU_ASSERT_EQUAL(svio_device_events(b), SVIO_EV_RESET);
	CU_ASSERT_EQUAL(fake_command(0), 6);
	CU_ASSERT_EQUAL(fake.dev[1].armed[SVIO_IRQ_REQ], 1);
	svio_device_close(b);
	stop();
}

static void test_hot_others(void)
{
	int fds;

	start(fake_names[2]);
	fds = unit_count_fds();
	/* Group 9 is on the bus as well; nobody has it, so it is opened for the moment. */
	CU_ASSERT_EQUAL(svio_device_hot_reset(dev), 0);
	CU_ASSERT_EQUAL(fake.hot_fds, 2);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	traced("DEPIMmiped");
	/* Somebody has it. */
	fake.busy = true;
	CU_ASSERT_EQUAL(svio_device_hot_reset(dev), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "0000:02:10.0"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "group 9 belongs to another process"));
	fake.busy = false;
	/* VFIO does not have it. */
	fake.foreign_hot = true;
	CU_ASSERT_EQUAL(svio_device_hot_reset(dev), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "run: svio bind 0000:03:00.0"));
	fake.foreign_hot = false;
	traced(""); /* refused before anything was stopped */
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	fake.reset_eagain = -1;
	CU_ASSERT_EQUAL(svio_device_hot_reset(dev), -EAGAIN);
	traced("DEPIMmiped");
	CU_ASSERT_EQUAL(last_err, -EAGAIN);
	fake.reset_eagain = 0;
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "reset: hooks in order, command register and interrupts restored", test_reset },
		{ "a reset that fails, and a device that does not come back", test_reset_fails },
		{ "memory decoding off and on", test_memory },
		{ "hot reset reaches the neighbour", test_hot },
		{ "hot reset and the groups of others", test_hot_others },
		{ NULL, NULL },
	};

	return unit_run("vfio/reset", tests);
}
