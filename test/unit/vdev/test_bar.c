/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared BAR memory that can be withdrawn: a true SIGBUS while decoding is off. */
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "client.h"
#include "probe.h"

static sigjmp_buf out;

static void on_sigbus(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

/* Reads *p; false when that raised SIGBUS. */
static bool can_read(const volatile uint32_t *p, uint32_t *v)
{
	struct sigaction sa = { .sa_handler = on_sigbus }, old;
	bool good = false;

	sigaction(SIGBUS, &sa, &old);
	if (sigsetjmp(out, 1) == 0) {
		*v = *p;
		good = true;
	}
	sigaction(SIGBUS, &old, NULL);
	return good;
}

static volatile uint32_t *map_doorbell(struct tc *tc, int *fd)
{
	struct svio_vfu_region_info info;
	void *p;

	CU_ASSERT_EQUAL_FATAL(tc_region_info(tc, 0, &info, fd), 0);
	CU_ASSERT_FATAL(*fd >= 0);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, (off_t)(info.offset + 0x1000));
	CU_ASSERT_FATAL(p != MAP_FAILED);
	return p;
}

static void test_shared(void)
{
	volatile uint32_t *db;
	struct probe *p;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	db = map_doorbell(&tc, &fd);
	*db = 1234;
	tc_rounds(&tc, 1);
	CU_ASSERT_EQUAL(p->doorbell_seen, 1234);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x1000), 1234); /* one memory, whichever way */
	tc_w32(&tc, 0x1004, 99);
	CU_ASSERT_EQUAL(db[1], 99);
	munmap((void *)(uintptr_t)db, 4096);
	close(fd);
	tc_stop(&tc);
}

static void decode_off_on(struct tc *tc, uint64_t reg, uint32_t off_value, uint32_t on_value)
{
	struct probe *p = svio_vdev_priv(tc->dev);
	uint8_t *view = svio_vdev_bar_mem(tc->dev, 0);
	volatile uint32_t *db;
	uint32_t v = 0;
	int fd;

	db = map_doorbell(tc, &fd);
	*db = 77;
	CU_ASSERT(can_read(db, &v) && v == 77);
	tc_cfg_set(tc, reg, 2, off_value);
	CU_ASSERT_FALSE(svio_vdev_mem_enabled(tc->dev));
	CU_ASSERT_FALSE(can_read(db, &v));
	CU_ASSERT_EQUAL(tc_read(tc, 0, 0x1000, &v, 4), -EIO);
	CU_ASSERT_EQUAL(tc_read(tc, 0, 0, &v, 4), -EIO);
	CU_ASSERT_EQUAL(tc_write(tc, 0, 0, &v, 4), -EIO);
	/* configuration space goes on, and so does the model, which sees its memory as it was */
	CU_ASSERT_EQUAL(tc_cfg(tc, 0, 2), 0x1b36);
	tc_rounds(tc, 10);
	CU_ASSERT_EQUAL(p->doorbell_seen, 77);
	CU_ASSERT_PTR_EQUAL(svio_vdev_bar_mem(tc->dev, 0), view);
	view[0x1008] = 5; /* the device's own write while nobody can look */
	tc_cfg_set(tc, reg, 2, on_value);
	CU_ASSERT(can_read(db, &v) && v == 77);
	CU_ASSERT_EQUAL(db[2], 5);
	*db = 78;
	tc_rounds(tc, 2);
	CU_ASSERT_EQUAL(p->doorbell_seen, 78);
	CU_ASSERT_EQUAL(tc_r32(tc, 0x1000), 78);
	munmap((void *)(uintptr_t)db, 4096);
	close(fd);
}

static void test_mem_off(void)
{
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (int i = 0; i < 3; i++)
		decode_off_on(&tc, PCI_COMMAND, 0, PCI_COMMAND_MEMORY);
	tc_stop(&tc);
}

static void test_d3(void)
{
	struct tc tc;

	tc_start(&tc, "probe", 0);
	decode_off_on(&tc, 0x44, 3, 0);
	tc_cfg_set(&tc, 0x44, 2, 1); /* D1 is not supported: discarded */
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x44, 2) & 3, 0);
	tc_stop(&tc);
}

static void test_vf(void)
{
	struct tc tc;

	tc_start(&tc, "probe", SVIO_VDEV_VF);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2) & PCI_COMMAND_MEMORY, 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 0); /* works all the same */
	tc_stop(&tc);
}

/* While a reset waits for the model's DMA, the BAR is away; afterwards it is back, zeroed. */
static void test_reset(void)
{
	volatile uint32_t *db;
	struct probe *p;
	uint32_t v = 0;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	db = map_doorbell(&tc, &fd);
	*db = 5;
	p->hold = 1000000;
	tc_send(&tc, SVIO_VFU_DEVICE_RESET, 0, NULL, 0, NULL, 0);
	tc_rounds(&tc, 20);
	CU_ASSERT_EQUAL(p->resets, 0);
	CU_ASSERT_FALSE(can_read(db, &v));
	p->hold = 0;
	CU_ASSERT(tc_recv(&tc));
	CU_ASSERT_EQUAL(tc.hdr.flags, SVIO_VFU_REPLY);
	CU_ASSERT_EQUAL(p->resets, 1);
	CU_ASSERT(can_read(db, &v) && v == 0);
	munmap((void *)(uintptr_t)db, 4096);
	close(fd);
	tc_stop(&tc);
}

/* A client that truncates our file must not take us down. */
static void test_hostile_truncate(void)
{
	volatile uint32_t *db;
	struct tc tc;
	int fd;

	CU_ASSERT_EQUAL_FATAL(svio_vdev_sigbus_guard(), 0);
	tc_start(&tc, "probe", 0);
	db = map_doorbell(&tc, &fd);
	CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
	tc_rounds(&tc, 10); /* poll() reads the page */
	CU_ASSERT(tc_closed(&tc));
	munmap((void *)(uintptr_t)db, 4096);
	close(fd);
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "a shared doorbell page is one memory for client, messages and model", test_shared },
	{ "memory decoding off: SIGBUS in mappings, EIO by message; contents survive", test_mem_off },
	{ "D3hot does the same", test_d3 },
	{ "a virtual function has no enable bit", test_vf },
	{ "a reset withdraws the BAR until it is done", test_reset },
	{ "with the guard, truncating our file costs the client its connection", test_hostile_truncate },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/bar", tests);
}
