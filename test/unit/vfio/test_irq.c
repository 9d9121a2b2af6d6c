/* SPDX-License-Identifier: BSD-3-Clause */
/* Interrupts: which vectors are armed, what is refused, and what stands after a failure. */
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include "fake.h"
#include "unit.h"
#include "vfio_priv.h"

#define X SVIO_IRQ_MSIX

static struct svio_device *dev;
static int efd[FAKE_VECTORS];

static void start(uint32_t flags)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .flags = flags };

	fake_start();
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[0], &opts, &dev), 0);
	for (int i = 0; i < FAKE_VECTORS; i++)
		efd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void stop(void)
{
	svio_device_close(dev);
	for (int i = 0; i < FAKE_VECTORS; i++) {
		CU_ASSERT_EQUAL(fcntl(efd[i], F_GETFD), FD_CLOEXEC); /* still the caller's */
		close(efd[i]);
	}
	CU_ASSERT_TRUE(fake_idle());
	fake_stop();
}

static uint64_t count(int i)
{
	uint64_t n = 0;

	return read(efd[i], &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void test_msix(void)
{
	struct svio_irq_info info;

	start(0);
	CU_ASSERT_EQUAL(svio_device_irq_info(dev, X, &info), 0);
	CU_ASSERT_EQUAL(info.count, FAKE_VECTORS);
	CU_ASSERT_TRUE(info.eventfd && info.noresize && !info.maskable);
	CU_ASSERT_EQUAL(svio_device_irq_info(dev, 5, &info), -EINVAL);

	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 4, efd), 0);
	CU_ASSERT_EQUAL(fake.dev[0].armed[X], 4);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, X, 1, 2), 0);
	CU_ASSERT_EQUAL(count(0), 0);
	CU_ASSERT_EQUAL(count(1), 1);
	CU_ASSERT_EQUAL(count(2), 1);
	CU_ASSERT_EQUAL(count(3), 0);
	/* One of them anew, the others stay. */
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 1, 1, &efd[9]), 0);
	CU_ASSERT_EQUAL(fake.dev[0].fds[X][1], efd[9]);
	CU_ASSERT_EQUAL(fake.dev[0].fds[X][0], efd[0]);
	/* More than there were: this kernel cannot add, so all are set up again. */
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 6, 1, &efd[6]), 0);
	CU_ASSERT_EQUAL(fake.dev[0].armed[X], 7);
	CU_ASSERT_EQUAL(fake.dev[0].fds[X][1], efd[9]);
	CU_ASSERT_EQUAL(fake.dev[0].fds[X][4], -1);
	CU_ASSERT_EQUAL(fake.dev[0].fds[X][6], efd[6]);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, X, 6, 1), 0);
	CU_ASSERT_EQUAL(count(6), 1);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, X, 7, 1), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_disable(dev, X), 0);
	CU_ASSERT_EQUAL(svio_device_irq_disable(dev, X), 0);
	CU_ASSERT_EQUAL(fake.dev[0].armed[X], 0);
	CU_ASSERT_EQUAL(svio_device_irq_disable(dev, 5), -EINVAL);
	stop();
}

static void test_resize(void)
{
	start(0);
	svio_device_close(dev);
	fake.msi_resize = true;
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[0], NULL, &dev), 0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 2, efd), 0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 2, 2, efd + 2), 0);
	CU_ASSERT_EQUAL(fake.dev[0].armed[X], 4);
	CU_ASSERT_EQUAL(fake.dev[0].arms[X], 2); /* added, not set up again */
	stop();
}

static void test_refusals(void)
{
	start(0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, FAKE_VECTORS + 1, efd), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, FAKE_VECTORS, 1, efd), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 1, UINT32_MAX, efd), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 0, efd), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, 5, 0, 1, efd), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, X, 0, 1), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_ERR, 0, 1, efd), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "NO_WATCH"));
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_MSI, 0, 2, efd), 0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 2, efd), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "MSI is enabled"));
	CU_ASSERT_EQUAL(svio_device_irq_mask(dev, SVIO_IRQ_MSI, 0, 1), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(svio_device_irq_disable(dev, SVIO_IRQ_MSI), 0);
	/* The platform has fewer vectors than the device. */
	fake.vectors_available = 3;
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 4, efd), -ENOSPC);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 3, efd), 0);
	/* A failed extension leaves what there was. */
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 3, 1, efd + 3), -ENOSPC);
	CU_ASSERT_EQUAL(fake.dev[0].armed[X], 3);
	CU_ASSERT_EQUAL(svio_device_irq_trigger(dev, X, 2, 1), 0);
	CU_ASSERT_EQUAL(count(2), 1);
	stop();
}

static void test_intx(void)
{
	start(SVIO_DEVICE_NO_WATCH);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_ERR, 0, 1, efd), 0);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_INTX, 0, 1, efd), 0);
	CU_ASSERT_EQUAL(svio_device_irq_mask(dev, SVIO_IRQ_INTX, 0, 1), 0);
	CU_ASSERT_EQUAL(svio_device_irq_unmask(dev, SVIO_IRQ_INTX, 0, 1), 0);
	CU_ASSERT_EQUAL(svio_device_irq_disable(dev, SVIO_IRQ_INTX), 0);
	dev->info.pci_quirks = SVIO_PCI_QUIRK_BROKEN_INTX;
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, SVIO_IRQ_INTX, 0, 1, efd), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(svio_device_irq_enable(dev, X, 0, 1, efd), 0);
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "MSI-X: set up, replaced, extended, fired, off", test_msix },
		{ "vectors are added where the kernel can", test_resize },
		{ "refusals leave things as they were", test_refusals },
		{ "INTx: mask, unmask, and the broken ones", test_intx },
		{ NULL, NULL },
	};

	return unit_run("vfio/irq", tests);
}
