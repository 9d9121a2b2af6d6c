/* SPDX-License-Identifier: BSD-3-Clause */
/* Every wrapped call of the room fails in turn; after each, nothing is left and the next run works. */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include "fake.h"
#include "unit.h"
#include "vfio_priv.h"

static char memory[4096] __attribute__((aligned(4096)));
static int efds[4];

/* What a failing call must do: say something, and something of its own. */
static int explained(int err)
{
	if (err < 0)
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
	return err;
}

#define TRY(x)                      \
	do {                        \
		svio_clear_error(); \
		err = explained(x); \
		if (err)            \
			goto out;   \
	} while (0)

static int scenario_open(void *ctx)
{
	struct svio_device *dev;
	int err;

	(void)ctx;
	svio_clear_error();
	err = explained(svio_device_open(fake_names[0], NULL, &dev));
	if (!err)
		svio_device_close(dev);
	else
		CU_ASSERT_PTR_NULL(dev);
	CU_ASSERT_TRUE(fake_idle());
	return err;
}

static int scenario_use(void *ctx)
{
	struct svio_device *a = NULL, *b = NULL;
	struct svio_dma_domain *d = NULL;
	struct svio_dma_info info;
	struct svio_dma_map m = {
		.iova = 4096, .vaddr = memory, .len = 4096, .prot = SVIO_DMA_READ, .fd = -1
	};
	uint8_t token[16] = { 0 };
	void *p = NULL;
	uint32_t v;
	int err;

	(void)ctx;
	TRY(svio_device_open(fake_names[0], NULL, &a));
	TRY(svio_device_open(fake_names[2], NULL, &b));
	TRY(svio_device_set_domain(b, svio_device_domain(a)));
	d = svio_device_domain(a);
	svio_dma_domain_get(d);
	TRY(svio_dma_info(d, &info));
	TRY(svio_dma_map(d, &m));
	TRY(svio_device_region_mmap(a, 0, 0, 4096, PROT_READ, NULL, &p));
	TRY(svio_device_region_read(a, 0, 8, &v, 4));
	TRY(svio_device_region_write(a, 0, 8, &v, 4));
	TRY(svio_device_set_master(a, true));
	TRY(svio_device_irq_enable(a, SVIO_IRQ_MSIX, 0, 2, efds));
	TRY(svio_device_irq_enable(a, SVIO_IRQ_MSIX, 2, 2, efds + 2));
	TRY(svio_device_irq_trigger(a, SVIO_IRQ_MSIX, 3, 1));
	TRY(svio_device_reset(a));
	TRY(svio_device_hot_reset(b));
	TRY(svio_device_set_memory(a, false));
	TRY(svio_device_set_memory(a, true));
	TRY(svio_device_feature(a, SVIO_FEATURE_GET, 0, token, sizeof(token)));
	TRY(svio_device_irq_disable(a, SVIO_IRQ_MSIX));
	TRY(svio_dma_unmap(d, 4096, 4096));
	TRY(svio_device_set_domain(b, NULL));
out:
	if (p)
		munmap(p, 4096);
	svio_device_close(b);
	svio_device_close(a);
	svio_dma_domain_put(d);
	/* Mastering may stay on here: the write that clears it may be the call that fails. The kernel's last close does it. */
	CU_ASSERT_TRUE(fake_idle());
	return err;
}

static void test_open(void)
{
	unsigned int n;

	fake_start();
	n = failnth_sweep(scenario_open, NULL);
	printf(" %u faults ", n);
	CU_ASSERT(n > 30);
	fake_stop();
}

static void test_use(void)
{
	unsigned int n;

	fake_start();
	fake.sparse = 2;
	for (int i = 0; i < 4; i++)
		efds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	n = failnth_sweep(scenario_use, NULL);
	printf(" %u faults ", n);
	CU_ASSERT(n > 100);
	for (int i = 0; i < 4; i++)
		close(efds[i]);
	fake_stop();
}

/* The same with errors that the library reacts to. */
static void test_errnos(void)
{
	static const int errnos[] = { EAGAIN, ENODEV, EINVAL, ENOSPC, EBUSY, EPERM, ENOMEM, EINTR };

	fake_start();
	for (int i = 0; i < 4; i++)
		efds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(errnos); i++) {
		failnth_ioctl_errno = errnos[i];
		failnth_sweep(scenario_use, NULL);
	}
	for (int i = 0; i < 4; i++)
		close(efds[i]);
	fake_stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "open and close", test_open },
		{ "a life of two devices", test_use },
		{ "a life of two devices, other errors", test_errnos },
		{ NULL, NULL },
	};

	return unit_run("vfio/failnth", tests);
}
