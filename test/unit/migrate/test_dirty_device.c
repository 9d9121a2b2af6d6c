/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Logs of devices and of IOMMUs, over SIMULATED devices under a real ioas: a log of one range or several that cannot be widened, one that
 * fails, one that only starts; a type1 bitmap, at unmap too.
 */
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "svio_dirty.h"
#include "unit.h"

#define PAGE  4096u
#define PAGES 64u

struct svio_dma_domain {
	int refs;
	svio_dma_unmapped_fn unmapped;
	bool coarse;		/* says that everything is written */
	uint64_t written;	/* pages from `base` on */
	uint64_t base;
	unsigned int gets;
};

struct svio_device {
	struct svio_device_hot hot;
	const char *name;
	enum svio_transport transport;
	struct svio_dma_domain domain;
	bool has_log, started, refuse_all, no_report;
	int fail_reports;
	unsigned int starts, stops, num_ranges;
	struct vfio_device_feature_dma_logging_range ranges[8];
	uint64_t written; /* logged pages from `base` on */
	uint64_t base;
};

static struct svio_device dev;
static struct svio_ioas *ioas;
static uint8_t *mem;
static uint64_t iova;

/* ---- room vfio ------------------------------------------------------------------------------------------- */

const char *__wrap_svio_device_name(const struct svio_device *d);
void __wrap_svio_device_get_info(const struct svio_device *d, struct svio_device_info *info);
struct svio_dma_domain *__wrap_svio_device_domain(struct svio_device *d);
void __wrap_svio_dma_domain_get(struct svio_dma_domain *domain);
void __wrap_svio_dma_domain_put(struct svio_dma_domain *domain);
int __wrap_svio_device_set_domain(struct svio_device *d, struct svio_dma_domain *domain);
int __wrap_svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info);
int __wrap_svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map);
int __wrap_svio_dma_unmap(struct svio_dma_domain *domain, uint64_t at, uint64_t len);
int __wrap_svio_dma_dirty_start(struct svio_dma_domain *domain, svio_dma_unmapped_fn fn);
void __wrap_svio_dma_dirty_stop(struct svio_dma_domain *domain);
int __wrap_svio_dma_dirty_get(struct svio_dma_domain *domain, uint64_t at, uint64_t len, uint64_t page, uint64_t *bits);
int __wrap_svio_device_feature(struct svio_device *d, enum svio_feature_op op, uint16_t feature, void *data, size_t size);

const char *__wrap_svio_device_name(const struct svio_device *d)
{
	return d->name;
}

void __wrap_svio_device_get_info(const struct svio_device *d, struct svio_device_info *info)
{
	*info = (struct svio_device_info){ .transport = d->transport, .iommu_group = 1 };
}

struct svio_dma_domain *__wrap_svio_device_domain(struct svio_device *d)
{
	return &d->domain;
}

void __wrap_svio_dma_domain_get(struct svio_dma_domain *domain)
{
	domain->refs++;
}

void __wrap_svio_dma_domain_put(struct svio_dma_domain *domain)
{
	domain->refs--;
}

int __wrap_svio_device_set_domain(struct svio_device *d, struct svio_dma_domain *domain)
{
	(void)d;
	(void)domain;
	return -EXDEV;
}

int __wrap_svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info)
{
	(void)domain;
	*info = (struct svio_dma_info){ .pgsizes = ~UINT64_C(0xfff), .max_mappings = UINT64_MAX, .num_ranges = 1 };
	info->ranges[0].last = (UINT64_C(1) << 48) - 1;
	return 0;
}

int __wrap_svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map)
{
	(void)domain;
	(void)map;
	return 0;
}

static void domain_bits(struct svio_dma_domain *domain, uint64_t at, uint64_t len, uint64_t *bits)
{
	for (uint64_t i = 0; i < len / PAGE; i++) {
		uint64_t page = (at - domain->base) / PAGE + i;

		if (domain->coarse || (page < 64 && domain->written >> page & 1))
			svio_bitmap_set(bits, i);
		if (page < 64)
			domain->written &= ~(UINT64_C(1) << page);
	}
}

int __wrap_svio_dma_unmap(struct svio_dma_domain *domain, uint64_t at, uint64_t len)
{
	uint64_t bits[4] = { 0 };

	if (domain->unmapped) {
		domain_bits(domain, at, len, bits);
		domain->unmapped(domain, at, len, bits, PAGE);
	}
	return 0;
}

int __wrap_svio_dma_dirty_start(struct svio_dma_domain *domain, svio_dma_unmapped_fn fn)
{
	domain->unmapped = fn;
	return 0;
}

void __wrap_svio_dma_dirty_stop(struct svio_dma_domain *domain)
{
	CU_ASSERT_PTR_NOT_NULL(domain->unmapped);
	domain->unmapped = NULL;
}

int __wrap_svio_dma_dirty_get(struct svio_dma_domain *domain, uint64_t at, uint64_t len, uint64_t page, uint64_t *bits)
{
	CU_ASSERT_EQUAL(page, PAGE);
	domain->gets++;
	domain_bits(domain, at, len, bits);
	return 0;
}

static int start_log(const struct vfio_device_feature_dma_logging_control *c)
{
	if (dev.started)
		return svio_fail(EBUSY, "simulated: logs already");
	if (c->num_ranges == 0 && (dev.transport != SVIO_TRANSPORT_USER || dev.refuse_all))
		return svio_fail(EINVAL, "simulated: no range");
	CU_ASSERT_TRUE_FATAL(c->num_ranges <= SVIO_ARRAY_SIZE(dev.ranges));
	if (c->num_ranges)
		memcpy(dev.ranges, (const void *)(uintptr_t)c->ranges, c->num_ranges * sizeof(dev.ranges[0]));
	dev.num_ranges = c->num_ranges;
	dev.started = true;
	dev.starts++;
	return 0;
}

static bool logs(uint64_t at)
{
	for (unsigned int i = 0; i < dev.num_ranges; i++)
		if (at - dev.ranges[i].iova < dev.ranges[i].length)
			return true;
	return dev.started && dev.num_ranges == 0;
}

int __wrap_svio_device_feature(struct svio_device *d, enum svio_feature_op op, uint16_t feature, void *data, size_t size)
{
	struct vfio_device_feature_dma_logging_report r;

	if (!d->has_log)
		return svio_fail(ENOTTY, "simulated: no log");
	if (op == SVIO_FEATURE_PROBE)
		return 0;
	if (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_START) {
		CU_ASSERT_EQUAL(size, sizeof(struct vfio_device_feature_dma_logging_control));
		return start_log(data);
	}
	if (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP) {
		d->stops++;
		d->started = false;
		d->written = 0;
		return 0;
	}
	memcpy(&r, data, sizeof(r));
	if (!d->started || d->no_report || d->fail_reports) {
		d->fail_reports -= d->fail_reports > 0;
		return svio_fail(d->no_report ? EOPNOTSUPP : EIO, "simulated: no report");
	}
	for (uint64_t i = 0; i < r.length / PAGE; i++) {
		uint64_t page = (r.iova - d->base) / PAGE + i;

		if (page < 64 && d->written >> page & 1) {
			svio_bitmap_set((uint64_t *)(uintptr_t)r.bitmap, i);
			d->written &= ~(UINT64_C(1) << page);
		}
	}
	return 0;
}

/* The device writes a page: its log knows if it covers it, its domain always. */
static void dma(uint64_t page)
{
	if (dev.started && logs(iova + page * PAGE))
		dev.written |= UINT64_C(1) << page;
	dev.domain.written |= UINT64_C(1) << page;
}

/* ---- set up ------------------------------------------------------------------------------------------------ */

static struct svio_dirty *set;

static void map(uint64_t first, uint64_t pages)
{
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, mem + first * PAGE, pages * PAGE, SVIO_DMA_READ | SVIO_DMA_WRITE, -1, 0, NULL), 0);
}

static void unmap(uint64_t first, uint64_t pages)
{
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, mem + first * PAGE, pages * PAGE), 0);
}

/* 32 pages mapped, and a set of 64. */
static void begin(enum svio_transport transport, bool has_log, uint32_t sources)
{
	const struct svio_ioas_opts opts = { .size = sizeof(opts), .flags = SVIO_IOAS_NO_AUTO };
	struct svio_dirty_opts o = { .size = sizeof(o), .ioas = &ioas, .num_ioas = 1, .len = PAGES * PAGE, .sources = sources };

	dev = (struct svio_device){ .name = "simulated", .transport = transport, .has_log = has_log, .domain.refs = 1 };
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	iova = (uintptr_t)mem;
	dev.base = dev.domain.base = iova;
	CU_ASSERT_EQUAL_FATAL(svio_ioas_create(&opts, &ioas), 0);
	CU_ASSERT_EQUAL_FATAL(svio_ioas_attach(ioas, &dev), 0);
	map(0, 32);
	o.addr = (uintptr_t)mem;
	CU_ASSERT_EQUAL_FATAL(svio_dirty_start(&o, &set), 0);
}

static void end(void)
{
	svio_dirty_stop(set);
	CU_ASSERT_FALSE(dev.started);
	CU_ASSERT_PTR_NULL(dev.domain.unmapped);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, &dev), 0);
	CU_ASSERT_EQUAL(dev.domain.refs, 1);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(mem, PAGES * PAGE);
}

static uint64_t sync_(void)
{
	uint64_t word = 0, pages;

	CU_ASSERT_EQUAL(svio_dirty_sync(set, (uintptr_t)mem, PAGES * PAGE, &word, &pages), 0);
	CU_ASSERT_EQUAL(pages, (uint64_t)__builtin_popcountll(word));
	return word;
}

static struct svio_dirty_info info(void)
{
	struct svio_dirty_info i;

	svio_dirty_get_info(set, &i);
	return i;
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

/* A vfio-user server logs all there is from the start. */
static void test_all(void)
{
	begin(SVIO_TRANSPORT_USER, true, SVIO_DIRTY_DEVICE);
	CU_ASSERT_EQUAL(dev.num_ranges, 0);
	dma(3);
	map(40, 4);
	dma(41);
	CU_ASSERT_EQUAL(sync_(), UINT64_C(1) << 3 | UINT64_C(1) << 41);
	CU_ASSERT_EQUAL(sync_(), 0);
	dma(42);
	unmap(40, 4);
	CU_ASSERT_EQUAL(sync_(), UINT64_C(1) << 42);
	CU_ASSERT_EQUAL(dev.starts, 1);
	CU_ASSERT_TRUE(info().exact && info().by_device == 1 && info().rearmed == 0);
	end();
}

/* A log of ranges cannot be widened: stopped and started, and what it could write meanwhile is reported, once. */
static void test_ranges(void)
{
	begin(SVIO_TRANSPORT_GROUP, true, SVIO_DIRTY_DEVICE);
	CU_ASSERT_EQUAL(dev.num_ranges, 1);
	CU_ASSERT_EQUAL(dev.ranges[0].iova, iova);
	CU_ASSERT_EQUAL(dev.ranges[0].length, 32 * PAGE);
	dma(5);
	map(40, 4);
	CU_ASSERT_EQUAL(dev.num_ranges, 2);
	dma(41);
	CU_ASSERT_TRUE((sync_() & (UINT32_MAX | UINT64_C(1) << 41)) == (UINT32_MAX | UINT64_C(1) << 41));
	CU_ASSERT_EQUAL(info().rearmed, 1);
	CU_ASSERT_EQUAL(sync_(), 0);
	dma(2);
	dma(43);
	CU_ASSERT_EQUAL(sync_(), UINT64_C(1) << 2 | UINT64_C(1) << 43);
	/* Neighbours are one range. */
	map(44, 4);
	CU_ASSERT_EQUAL(dev.num_ranges, 2);
	CU_ASSERT_EQUAL(dev.ranges[1].length, 8 * PAGE);
	sync_();
	/* A smaller one is covered by what was there. */
	unmap(44, 4);
	CU_ASSERT_EQUAL(dev.starts, 3);
	map(44, 4);
	CU_ASSERT_EQUAL(dev.starts, 3);
	end();
	CU_ASSERT_EQUAL(dev.stops, 3);
}

static void test_failing(void)
{
	begin(SVIO_TRANSPORT_USER, true, SVIO_DIRTY_DEVICE);
	dma(1);
	dev.fail_reports = 1;
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX); /* all that is mapped */
	CU_ASSERT_EQUAL(dev.starts, 2);
	dma(2);
	CU_ASSERT_EQUAL(sync_(), 1u << 2); /* it was started again */
	CU_ASSERT_TRUE(info().exact);
	dev.no_report = true; /* as Linux without IOMMUFD_DRIVER: it starts, and never reports */
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX);
	CU_ASSERT_FALSE(dev.started);
	CU_ASSERT_TRUE(!info().exact && info().uncovered == 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(info().why, "simulated"));
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX); /* from now on always */
	CU_ASSERT_EQUAL(info().coarse_bytes, 32 * PAGE);
	end();
}

static void test_type1(void)
{
	begin(SVIO_TRANSPORT_GROUP, false, SVIO_DIRTY_DEVICE | SVIO_DIRTY_IOMMU);
	CU_ASSERT_TRUE(info().by_iommu == 1 && !info().exact);
	dma(7);
	CU_ASSERT_EQUAL(sync_(), 1u << 7); /* this one is exact, which nobody can rely on */
	map(40, 4);
	dma(41);
	unmap(40, 4);
	CU_ASSERT_EQUAL(sync_(), UINT64_C(1) << 41); /* with the unmap */
	dev.domain.coarse = true;
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX);
	CU_ASSERT_EQUAL(info().coarse_bytes, 32 * PAGE);
	dev.domain.gets = 0;
	sync_();
	CU_ASSERT_EQUAL(dev.domain.gets, 1);
	end();
}

/* No source was allowed for the device: everything, always; and nothing for sets that do not look at devices. */
static void test_none(void)
{
	begin(SVIO_TRANSPORT_USER, true, SVIO_DIRTY_DRIVER);
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX);
	CU_ASSERT_EQUAL(sync_(), UINT32_MAX);
	CU_ASSERT_EQUAL(dev.starts, 0);
	end();
}

/* Two sets of different sources on one device: each has its own, both complete. */
static void test_both(void)
{
	struct svio_dirty_opts o = { .size = sizeof(o), .ioas = &ioas, .num_ioas = 1, .space = SVIO_DIRTY_IOVA, .len = PAGES * PAGE,
				     .sources = SVIO_DIRTY_IOMMU };
	struct svio_dirty *other;
	uint64_t word = 0;

	begin(SVIO_TRANSPORT_USER, true, SVIO_DIRTY_DEVICE);
	o.addr = iova;
	CU_ASSERT_EQUAL_FATAL(svio_dirty_start(&o, &other), 0);
	dma(9);
	CU_ASSERT_EQUAL(sync_(), 1u << 9);
	CU_ASSERT_EQUAL(svio_dirty_sync(other, iova, PAGES * PAGE, &word, NULL), 0);
	CU_ASSERT_EQUAL(word, 1u << 9);
	/* Whoever looks at IOVAs has not seen what is mapped there now. */
	map(50, 2);
	word = 0;
	CU_ASSERT_EQUAL(svio_dirty_sync(other, iova, PAGES * PAGE, &word, NULL), 0);
	CU_ASSERT_EQUAL(word, UINT64_C(3) << 50);
	CU_ASSERT_EQUAL(sync_(), 0);
	svio_dirty_stop(other);
	CU_ASSERT_PTR_NULL(dev.domain.unmapped);
	CU_ASSERT_TRUE(dev.started);
	end();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a log of everything", test_all },
		{ "a log of ranges, widened", test_ranges },
		{ "a log that fails", test_failing },
		{ "type1's bitmap", test_type1 },
		{ "no source", test_none },
		{ "two sources for one device", test_both },
		{ NULL, NULL },
	};

	return unit_run("migrate/dirty_device", tests);
}
