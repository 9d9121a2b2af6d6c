/* SPDX-License-Identifier: BSD-3-Clause */
/* INTx, MSI, MSI-X by eventfd: arming, masks, pending bits, and the ways in which clients do it. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "client.h"
#include "probe.h"

#define TRIGGER_FD   (SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER)
#define TRIGGER_NONE (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_TRIGGER)
#define UNMASK_NONE  (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_UNMASK)
#define MASK_NONE    (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_MASK)
#define UNMASK_FD    (SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_UNMASK)

enum { INTX, MSI, MSIX, ERR, REQ };

static void raise_msg(struct tc *tc, uint32_t vector)
{
	tc_w32(tc, 0x08, vector);
}

static void pin(struct tc *tc, uint32_t level)
{
	tc_w32(tc, 0x0c, level);
}

static uint64_t pba(struct tc *tc, unsigned int word)
{
	uint64_t v;

	CU_ASSERT_EQUAL(tc_read(tc, 0, 0x3000 + word * 8, &v, 8), 0);
	return v;
}

static void test_msix(void)
{
	int fd[3] = { tc_eventfd(), tc_eventfd(), tc_eventfd() };
	struct tc tc;

	tc_start(&tc, "probe", 0);
	raise_msg(&tc, 3); /* not enabled: nothing, also not later */
	CU_ASSERT_EQUAL(pba(&tc, 0), 0);
	/* QEMU's first step: one vector, no descriptor */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 0, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(svio_vdev_irq_mode(tc.dev), SVIO_VDEV_IRQ_MSIX);
	/* then vectors anywhere */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 97, 3, fd, 3), 0);
	raise_msg(&tc, 98);
	CU_ASSERT_EQUAL(tc_signalled(fd[0]), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd[1]), 1);
	CU_ASSERT_EQUAL(tc_signalled(fd[2]), 0);
	/* a vector without descriptor pends and is delivered when one comes */
	raise_msg(&tc, 70);
	CU_ASSERT_EQUAL(pba(&tc, 1), 1u << 6);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 70, 1, fd, 1), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd[0]), 1);
	CU_ASSERT_EQUAL(pba(&tc, 1), 0);
	/* de-assign */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 70, 1, NULL, 0), 0);
	raise_msg(&tc, 70);
	CU_ASSERT_EQUAL(tc_signalled(fd[0]), 0);
	/* loop-back */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_NONE, MSIX, 98, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd[1]), 1);
	/* beyond the table: ignored; disable: silence, and nothing pends */
	raise_msg(&tc, PROBE_VECTORS);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_NONE, MSIX, 0, 0, NULL, 0), 0);
	CU_ASSERT_EQUAL(svio_vdev_irq_mode(tc.dev), SVIO_VDEV_IRQ_INTX);
	raise_msg(&tc, 98);
	CU_ASSERT_EQUAL(tc_signalled(fd[1]), 0);
	CU_ASSERT(pba(&tc, 0) == 0 && pba(&tc, 1) == 0);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
	tc_stop(&tc);
}

static void test_msix_masks(void)
{
	int fd = tc_eventfd();
	unsigned int cap = 0x60; /* behind PM (8) and MSI (0x18) */
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL_FATAL(tc_cfg(&tc, cap, 1), PCI_CAP_ID_MSIX);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x2000 + 5 * 16 + 12), 1); /* masked after reset (PCIe 7.7.2.9) */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 5, 1, &fd, 1), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x2000 + 5 * 16 + 12), 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, cap + 2, 2) & PCI_MSIX_FLAGS_ENABLE, PCI_MSIX_FLAGS_ENABLE);
	/* a client that writes the table */
	tc_w32(&tc, 0x2000 + 5 * 16, 0xfee00000);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x2000 + 5 * 16), 0xfee00000);
	tc_w32(&tc, 0x2000 + 5 * 16 + 12, 0xffffffff);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x2000 + 5 * 16 + 12), 1);
	raise_msg(&tc, 5);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT_EQUAL(pba(&tc, 0), 1u << 5);
	tc_w32(&tc, 0x2000 + 5 * 16 + 12, 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	CU_ASSERT_EQUAL(pba(&tc, 0), 0);
	/* function mask; two raises are one message */
	tc_cfg_set(&tc, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	raise_msg(&tc, 5);
	raise_msg(&tc, 5);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	tc_cfg_set(&tc, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	/* SET_IRQS masks */
	CU_ASSERT_EQUAL(tc_irqs(&tc, MASK_NONE, MSIX, 0, 10, NULL, 0), 0);
	raise_msg(&tc, 5);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_NONE, MSIX, 5, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	/* the PBA is read-only */
	tc_w32(&tc, 0x3000, 0xffffffff);
	CU_ASSERT_EQUAL(pba(&tc, 0), 0);
	/* a reset forgets what pends */
	tc_cfg_set(&tc, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	raise_msg(&tc, 5);
	CU_ASSERT_EQUAL(pba(&tc, 0), 1u << 5);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(pba(&tc, 0), 0);
	close(fd);
	tc_stop(&tc);
}

static void test_msi(void)
{
	int fd[8];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (int i = 0; i < 8; i++)
		fd[i] = tc_eventfd();
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSI, 0, 8, fd, 8), 0);
	CU_ASSERT_EQUAL(svio_vdev_irq_mode(tc.dev), SVIO_VDEV_IRQ_MSI);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x48 + 2, 2) & 1, 1);
	raise_msg(&tc, 7);
	CU_ASSERT_EQUAL(tc_signalled(fd[7]), 1);
	tc_cfg_set(&tc, 0x48 + 0x10, 4, 1u << 2);
	raise_msg(&tc, 2);
	CU_ASSERT_EQUAL(tc_signalled(fd[2]), 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x48 + 0x14, 4), 1u << 2);
	tc_cfg_set(&tc, 0x48 + 0x10, 4, 0);
	CU_ASSERT_EQUAL(tc_signalled(fd[2]), 1);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x48 + 0x14, 4), 0);
	for (int i = 0; i < 8; i++)
		close(fd[i]);
	tc_stop(&tc);
}

static void test_intx(void)
{
	int fd = tc_eventfd(), resample = tc_eventfd();
	uint64_t one = 1;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	pin(&tc, 1);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 6, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, INTX, 0, 1, &fd, 1), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1); /* it was high already */
	pin(&tc, 0);
	pin(&tc, 1);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0); /* masked since it fired */
	/* QEMU under TCG: NONE|UNMASK at every end of interrupt */
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_NONE, INTX, 0, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	pin(&tc, 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_NONE, INTX, 0, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 6, 2) & PCI_STATUS_INTERRUPT, 0);
	/* explicit mask */
	CU_ASSERT_EQUAL(tc_irqs(&tc, MASK_NONE, INTX, 0, 1, NULL, 0), 0);
	pin(&tc, 1);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	/* KVM: an eventfd that unmasks */
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_FD, INTX, 0, 1, &resample, 1), 0);
	CU_ASSERT_EQUAL(write(resample, &one, 8), 8);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT_EQUAL(write(resample, &one, 8), 8);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_FD, INTX, 0, 1, NULL, 0), 0);
	/* Interrupt Disable of the command register */
	pin(&tc, 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_NONE, INTX, 0, 1, NULL, 0), 0);
	tc_cfg_set(&tc, 4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	pin(&tc, 1);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	tc_cfg_set(&tc, 4, 2, PCI_COMMAND_MEMORY);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_NONE, INTX, 0, 0, NULL, 0), 0);
	close(fd);
	close(resample);
	tc_stop(&tc);
}

/*
 * A posted store to a doorbell and the unmask that follows it, both there before the server looks:
 * the level that the unmask sees is the one after the store.
 */
static void store_and_unmask(struct tc *tc, uint32_t doorbell)
{
	struct svio_vfu_region_rw rw = { .offset = 0x1000, .count = 4 };
	struct svio_vfu_irq_set set = { .argsz = sizeof(set), .flags = UNMASK_NONE, .index = INTX, .count = 1 };
	uint8_t m[sizeof(rw) + 4];

	memcpy(m, &rw, sizeof(rw));
	memcpy(m + sizeof(rw), &doorbell, 4);
	tc_send(tc, SVIO_VFU_REGION_WRITE, SVIO_VFU_NO_REPLY, m, sizeof(m), NULL, 0);
	CU_ASSERT_EQUAL(tc_call(tc, SVIO_VFU_SET_IRQS, &set, sizeof(set)), 0);
}

static bool signalled_within(struct tc *tc, int fd, uint64_t ms)
{
	uint64_t end = svio_now_ns() + ms * 1000000;
	bool got;

	do {
		tc_rounds(tc, 10);
		got = tc_signalled(fd);
	} while (!got && svio_now_ns() < end);
	return got;
}

static void test_intx_lazy(void)
{
	int fd = tc_eventfd();
	struct probe *p;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	p->lazy_pin = true;
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, INTX, 0, 1, &fd, 1), 0);
	tc_w32(&tc, 0x1000, 1);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	store_and_unmask(&tc, 0);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	/* High again by the next store. */
	tc_w32(&tc, 0x1000, 1);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	/* High still at an unmask: told again, but not at once, and not when the level falls meanwhile. */
	store_and_unmask(&tc, 3);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT(signalled_within(&tc, fd, 10000));
	store_and_unmask(&tc, 5);
	tc_w32(&tc, 0x1000, 0);
	CU_ASSERT_FALSE(signalled_within(&tc, fd, 20));
	/* No delay for what is new. */
	tc_w32(&tc, 0x1000, 1);
	tc_rounds(&tc, 10);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	/* A descriptor that comes while a signal is put off gets it at once. */
	store_and_unmask(&tc, 7);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, INTX, 0, 1, &fd, 1), 0);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	close(fd);
	tc_stop(&tc);
}

static void test_err_req(void)
{
	int fd = tc_eventfd(), fd2 = tc_eventfd();
	struct tc tc;

	tc_start(&tc, "probe", 0);
	svio_vdev_err_raise(tc.dev); /* nobody listens */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, ERR, 0, 1, &fd, 1), 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, REQ, 0, 1, &fd2, 1), 0);
	svio_vdev_err_raise(tc.dev);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	CU_ASSERT_EQUAL(tc_signalled(fd2), 0);
	svio_vdev_req_raise(tc.dev);
	CU_ASSERT_EQUAL(tc_signalled(fd2), 1);
	close(fd);
	close(fd2);
	tc_stop(&tc);
}

static void test_bad(void)
{
	int fds[4] = { tc_eventfd(), tc_eventfd(), tc_eventfd(), open("/dev/null", O_WRONLY | O_CLOEXEC) }, before;
	uint64_t huge = UINT64_MAX - 1;
	struct {
		struct svio_vfu_irq_set s;
		uint8_t b[4];
	} m = { .s = { .argsz = 24, .flags = SVIO_VFU_IRQ_DATA_BOOL | SVIO_VFU_IRQ_ACTION_TRIGGER, .index = MSIX, .count = 4 },
		.b = { 1, 0, 1, 0 } };
	struct tc tc;

	tc_start(&tc, "probe", 0);
	before = unit_count_fds();
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, 5, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 0, PROBE_VECTORS + 1, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, PROBE_VECTORS, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, UINT32_MAX, 2, fds, 2), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 0, 3, fds, 2), -EINVAL); /* descriptors != count */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 0, 4, fds, 4), -EINVAL); /* the last is no eventfd */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD | SVIO_VFU_IRQ_DATA_NONE, MSIX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD | SVIO_VFU_IRQ_ACTION_MASK, MSIX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD, MSIX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD | 0x40, MSIX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, UNMASK_FD, MSIX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_MASK, INTX, 0, 1, fds, 1), -EINVAL);
	CU_ASSERT_EQUAL(unit_count_fds(), before);
	/* nothing of it was armed */
	CU_ASSERT_EQUAL(svio_vdev_irq_mode(tc.dev), SVIO_VDEV_IRQ_INTX);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_SET_IRQS, &m, sizeof(m.s) + 3), -EINVAL); /* fewer bytes than count */
	CU_ASSERT_EQUAL(tc_irqs(&tc, TRIGGER_FD, MSIX, 0, 3, fds, 3), 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_SET_IRQS, &m, sizeof(m)), 0);
	CU_ASSERT_EQUAL(tc_signalled(fds[0]), 1);
	CU_ASSERT_EQUAL(tc_signalled(fds[1]), 0);
	CU_ASSERT_EQUAL(tc_signalled(fds[2]), 1);
	/* a full counter does not block us */
	CU_ASSERT_EQUAL(write(fds[0], &huge, 8), 8);
	raise_msg(&tc, 0);
	CU_ASSERT_EQUAL(tc_signalled(fds[0]), UINT64_MAX - 1);
	/* they are the server's until the client goes */
	CU_ASSERT_EQUAL(unit_count_fds(), before + 3);
	tc_close(&tc);
	tc_rounds(&tc, 20);
	CU_ASSERT_EQUAL(unit_count_fds(), before - 2);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "MSI-X: QEMU's way of arming, pending vectors, loop-back, disable", test_msix },
	{ "MSI-X: table, function and SET_IRQS masks; pending bits", test_msix_masks },
	{ "MSI: vectors, masks, pending bits in configuration space", test_msi },
	{ "INTx: level, automatic mask, unmask, unmask eventfd, disable bit", test_intx },
	{ "INTx: a level that follows doorbells is right at an unmask", test_intx_lazy },
	{ "ERR and REQ", test_err_req },
	{ "SET_IRQS that cannot be; full and blocking eventfds", test_bad },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/irq", tests);
}
