/* SPDX-License-Identifier: BSD-3-Clause */
/* DMA domains: what can be mapped, mappings and their errors, devices moving between containers. */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include "fake.h"
#include "unit.h"
#include "vfio_priv.h"

static struct svio_device *a, *b, *c;
static char memory[8192] __attribute__((aligned(4096)));

static void start(void)
{
	fake_start();
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[0], NULL, &a), 0);
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[1], NULL, &b), 0);
	CU_ASSERT_EQUAL_FATAL(svio_device_open(fake_names[2], NULL, &c), 0);
}

static void stop(void)
{
	svio_device_close(a);
	svio_device_close(b);
	svio_device_close(c);
	CU_ASSERT_TRUE(fake_idle());
	fake_stop();
}

static int map(struct svio_dma_domain *d, uint64_t iova, uint64_t len)
{
	const struct svio_dma_map m = {
		.iova = iova, .vaddr = memory, .len = len, .prot = SVIO_DMA_READ, .fd = -1
	};

	return svio_dma_map(d, &m);
}

static void test_info(void)
{
	struct svio_dma_info info;

	start();
	CU_ASSERT_EQUAL(svio_dma_info(svio_device_domain(a), &info), 0);
	CU_ASSERT_EQUAL(info.pgsizes, 0x40201000);
	CU_ASSERT_EQUAL(info.max_mappings, 65535);
	CU_ASSERT_TRUE(info.dirty_tracking);
	CU_ASSERT_EQUAL(info.dirty_pgsizes, 4096);
	CU_ASSERT_EQUAL(info.dirty_max_bitmap, 1 << 28);
	CU_ASSERT_EQUAL(info.num_ranges, 2);
	CU_ASSERT_EQUAL(info.ranges[0].start, 0);
	CU_ASSERT_EQUAL(info.ranges[0].last, 0xfedfffff);
	CU_ASSERT_EQUAL(info.ranges[1].last, (UINT64_C(1) << 48) - 1);
	fake.missing_iova_cap =
		true; /* an old kernel: the MSI window is left out, the aperture is small */
	CU_ASSERT_EQUAL(svio_dma_info(svio_device_domain(a), &info), 0);
	CU_ASSERT_EQUAL(info.num_ranges, 2);
	CU_ASSERT_EQUAL(info.ranges[1].start, 0xfef00000);
	CU_ASSERT_EQUAL(info.ranges[1].last, (UINT64_C(1) << 39) - 1);
	CU_ASSERT_EQUAL(info.max_mappings, UINT64_MAX);
	CU_ASSERT_FALSE(info.dirty_tracking);
	stop();
}

static struct vfio_iommu_type1_info_cap_iova_range *iova_cap(struct vfio_iommu_type1_info *info)
{
	return (void *)((char *)info + info->cap_offset);
}

static void many(struct vfio_iommu_type1_info *info, uint32_t room)
{
	if (room > sizeof(*info))
		iova_cap(info)->nr_iovas = UINT32_MAX;
}

static void inverted(struct vfio_iommu_type1_info *info, uint32_t room)
{
	if (room > sizeof(*info))
		iova_cap(info)->iova_ranges[0].start = UINT64_MAX;
}

static void overlapping(struct vfio_iommu_type1_info *info, uint32_t room)
{
	if (room > sizeof(*info))
		iova_cap(info)->iova_ranges[0].start = 0;
}

static void looping(struct vfio_iommu_type1_info *info, uint32_t room)
{
	if (room > sizeof(*info))
		iova_cap(info)->header.next = info->cap_offset;
}

static void cut_off(struct vfio_iommu_type1_info *info, uint32_t room)
{
	if (room > sizeof(*info))
		iova_cap(info)->header.next =
			info->argsz - 8; /* a migration capability of 8 bytes */
}

static void test_hostile(void)
{
	static void (*const spoil[])(struct vfio_iommu_type1_info *,
				     uint32_t) = { many, inverted, overlapping, looping };
	struct svio_dma_info info;

	start();
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(spoil); i++) {
		fake.spoil_iommu = spoil[i];
		CU_ASSERT_EQUAL(svio_dma_info(svio_device_domain(a), &info), -EPROTO);
		CU_ASSERT_EQUAL(info.num_ranges, 0);
	}
	fake.spoil_iommu = cut_off;
	CU_ASSERT_EQUAL(svio_dma_info(svio_device_domain(a), &info),
			0); /* what lies there is no header we know */
	fake.spoil_iommu = NULL;
	stop();
}

static void test_map(void)
{
	struct svio_dma_domain *d;
	struct rlimit old, low = { 1 << 20, 1 << 20 };

	start();
	d = svio_device_domain(a);
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), 0);
	CU_ASSERT_EQUAL(map(d, 0, 8192), -EEXIST);
	CU_ASSERT_EQUAL(map(d, 0x2001, 4096), -EINVAL);
	CU_ASSERT_EQUAL(map(d, 0x2000, 0), -EINVAL);
	CU_ASSERT_EQUAL(map(d, UINT64_MAX - 4095, 8192), -EINVAL);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x1000, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x9000, 4096), -ENOENT);
	CU_ASSERT_EQUAL(map(d, 0x4000, 8192), 0);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x4000, 4096), -EINVAL);
	CU_ASSERT_EQUAL(fake_mappings(), 2);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x4000, 8192), 0);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x1000, 4096), 0);
	CU_ASSERT_EQUAL(fake_mappings(), 0);
	for (uint64_t i = 0; i < FAKE_MAPS; i++)
		CU_ASSERT_EQUAL(map(d, i << 20, 4096), 0);
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), -ENOSPC);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "dma_entry_limit"));
	for (uint64_t i = 0; i < FAKE_MAPS; i++)
		CU_ASSERT_EQUAL(svio_dma_unmap(d, i << 20, 4096), 0);
	fake.map_errno = EFAULT;
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), -EFAULT);
	fake.map_errno = ENOMEM;
	getrlimit(RLIMIT_MEMLOCK, &old);
	low.rlim_max = old.rlim_max;
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_MEMLOCK, &low), 0);
	CU_ASSERT_EQUAL(map(d, 0x1000, 2 << 20), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "RLIMIT_MEMLOCK is 1024 KiB"));
	CU_ASSERT_PTR_NOT_NULL(
		strstr(svio_last_error(), "2048 KiB are needed; run: ulimit -l 2048"));
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096),
			-ENOMEM); /* within the limit: it was something else */
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "out of memory"));
	setrlimit(RLIMIT_MEMLOCK, &old);
	stop();
}

static void test_share(void)
{
	struct svio_dma_domain *d;
	struct svio_dma_info info;

	start();
	d = svio_device_domain(c);
	svio_dma_domain_get(d);
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), 0);
	/* a and b are one group and move together. Master, decoding and notifiers survive. */
	CU_ASSERT_EQUAL(svio_device_set_master(b, true), 0);
	CU_ASSERT_EQUAL(svio_device_set_domain(a, d), 0);
	CU_ASSERT_PTR_EQUAL(svio_device_domain(a), d);
	CU_ASSERT_PTR_EQUAL(svio_device_domain(b), d);
	CU_ASSERT_EQUAL(fake_containers(), 1);
	CU_ASSERT_EQUAL(fake_mappings(), 1);
	CU_ASSERT_EQUAL(fake_command(0), 2);
	CU_ASSERT_EQUAL(fake_command(1), 6);
	CU_ASSERT_EQUAL(fake.dev[0].armed[SVIO_IRQ_REQ], 1);
	CU_ASSERT_EQUAL(svio_device_set_domain(b, d), 0);
	/* Another device keeps the mappings: c may leave. */
	CU_ASSERT_EQUAL(svio_device_set_domain(c, NULL), 0);
	CU_ASSERT_PTR_NOT_EQUAL(svio_device_domain(c), d);
	CU_ASSERT_EQUAL(fake_mappings(), 1);
	/* a's group may not: it is the last. */
	CU_ASSERT_EQUAL(svio_device_set_domain(a, NULL), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "unmap them first"));
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x1000, 4096), 0);
	CU_ASSERT_EQUAL(svio_device_set_domain(a, NULL), 0);
	CU_ASSERT_EQUAL(fake_containers(), 3); /* d lives by our reference, without a device */
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), -EINVAL);
	CU_ASSERT_EQUAL(svio_dma_info(d, &info), -EINVAL);
	/* And takes devices again. */
	CU_ASSERT_EQUAL(svio_device_set_domain(c, d), 0);
	CU_ASSERT_EQUAL(map(d, 0x1000, 4096), 0);
	svio_dma_domain_put(d);
	stop();
}

static void test_share_refused(void)
{
	struct svio_dma_domain *d, *own;
	int efd = eventfd(0, EFD_CLOEXEC);
	uint32_t v;

	start();
	d = svio_device_domain(c);
	own = svio_device_domain(a);
	CU_ASSERT_EQUAL(svio_device_irq_enable(b, SVIO_IRQ_MSIX, 0, 1, &efd), 0);
	CU_ASSERT_EQUAL(svio_device_set_domain(a, d), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "0000:01:00.1"));
	CU_ASSERT_EQUAL(svio_device_irq_disable(b, SVIO_IRQ_MSIX), 0);
	fake.bars_mapped = true;
	CU_ASSERT_EQUAL(svio_device_set_domain(a, d), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "BARs"));
	fake.bars_mapped = false;
	fake.incompatible = true;
	CU_ASSERT_EQUAL(svio_device_set_domain(a, d), -EXDEV);
	fake.incompatible = false;
	/* After each of them it works where it was. */
	CU_ASSERT_PTR_EQUAL(svio_device_domain(a), own);
	CU_ASSERT_EQUAL(svio_device_region_read(a, 0, 0, &v, 4), 0);
	CU_ASSERT_EQUAL(map(own, 0x1000, 4096), 0);
	CU_ASSERT_EQUAL(svio_dma_unmap(own, 0x1000, 4096), 0);
	CU_ASSERT_EQUAL(svio_device_events(a), 0);
	/* The way back is cut off as well: the devices are lost, and say so. */
	fake.get_device_errno = EIO;
	CU_ASSERT_EQUAL(svio_device_set_domain(a, d), -EIO);
	fake.get_device_errno = 0;
	CU_ASSERT_EQUAL(svio_device_events(a), SVIO_EV_GONE);
	CU_ASSERT_EQUAL(svio_device_events(b), SVIO_EV_GONE);
	CU_ASSERT_EQUAL(svio_device_region_read(a, 0, 0, &v, 4), -ENODEV);
	CU_ASSERT_EQUAL(svio_device_reset(a), -ENODEV);
	stop();
	close(efd);
}

static unsigned int told;
static uint64_t told_iova, told_len, told_word;

static void unmapped(struct svio_dma_domain *d, uint64_t iova, uint64_t len, const uint64_t *bitmap, uint64_t page)
{
	CU_ASSERT_PTR_EQUAL(d, svio_device_domain(a));
	CU_ASSERT_EQUAL(page, 4096);
	told++;
	told_iova = iova;
	told_len = len;
	told_word = bitmap ? *bitmap : 0;
}

static void test_dirty(void)
{
	struct svio_dma_domain *d;
	uint64_t word = 0;

	start();
	d = svio_device_domain(a);
	told = 0;
	CU_ASSERT_EQUAL(map(d, 0x10000, 8192), 0);
	CU_ASSERT_EQUAL(map(d, 0x20000, 4096), 0);
	CU_ASSERT_NOT_EQUAL(svio_dma_dirty_get(d, 0x10000, 8192, 4096, &word), 0); /* not on */
	fake.no_dirty = true;
	CU_ASSERT_EQUAL(svio_dma_dirty_start(d, unmapped), -ENOTTY);
	fake.no_dirty = false;
	CU_ASSERT_EQUAL(svio_dma_dirty_start(d, unmapped), 0);
	CU_ASSERT_EQUAL(svio_dma_dirty_get(d, 0x10000, 8192, 4096, &word), 0);
	CU_ASSERT_EQUAL(word, 3);
	CU_ASSERT_EQUAL(svio_dma_dirty_get(d, 0x10000, 4096, 4096, &word), -EINVAL); /* part of a mapping */
	CU_ASSERT_EQUAL(svio_dma_dirty_get(d, 0x10000, 8192, 3000, &word), -EINVAL);
	CU_ASSERT_EQUAL(svio_dma_dirty_get(d, 0x10000, 0, 4096, &word), -EINVAL);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x30000, 4096), -ENOENT);
	CU_ASSERT_EQUAL(told, 0); /* nothing was there */
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x10000, 8192), 0);
	CU_ASSERT_TRUE(told == 1 && told_iova == 0x10000 && told_len == 8192 && told_word == 3);
	svio_dma_dirty_stop(d);
	CU_ASSERT_EQUAL(svio_dma_unmap(d, 0x20000, 4096), 0);
	CU_ASSERT_EQUAL(told, 1);
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "dirty bitmap, and bits of what is unmapped", test_dirty },
		{ "what the IOMMU can do", test_info },
		{ "hostile IOMMU replies are refused", test_hostile },
		{ "map and unmap, and every refusal explained", test_map },
		{ "devices share a domain and leave it", test_share },
		{ "a refused move leaves the device working where it was", test_share_refused },
		{ NULL, NULL },
	};

	return unit_run("vfio/domain", tests);
}
