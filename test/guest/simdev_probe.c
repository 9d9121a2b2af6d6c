/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel/svio_simdev through VFIO, by nothing but its registers: what it does, and whether it notices what it
 * is there to notice.
 *
 * 	simdev_probe type1 BDF	addresses are IOVAs that VFIO's type1 mapped
 * 	simdev_probe sva BDF	bound to svio-vfio-pci: addresses are this process's, by PASID
 * 	simdev_probe gone BDF	unplugged under load by debugfs
 *
 * Prints "ok - …" or "not ok - …" a check. The process must be alone with the device.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../../drivers/dsa/dsa_spec.h"
#include "../../kernel/uapi/svio_vfio.h"

#define PAGE	4096ul
#define WQ_SIZE 32u
#define DEBUGFS "/sys/kernel/debug/svio_simdev/"

static int failures;

static void __attribute__((format(printf, 2, 3))) check(bool good, const char *fmt, ...)
{
	va_list ap;

	printf("%s - simdev: ", good ? "ok" : "not ok");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	failures += !good;
}

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *fmt, ...)
{
	va_list ap;

	printf("not ok - simdev: ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(": %s\n", strerror(errno));
	exit(1);
}

/* ---- debugfs --------------------------------------------------------------------------------- */

static void inject(const char *file, unsigned long value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), DEBUGFS "%s", file);
	f = fopen(path, "w");
	if (!f || fprintf(f, "%lu", value) < 0 || fclose(f))
		die("%s", path);
}

static long stat_of(const char *name)
{
	FILE *f = fopen(DEBUGFS "stats", "r");
	char key[64];
	long value;

	if (!f)
		die(DEBUGFS "stats");
	while (fscanf(f, "%63s %ld", key, &value) == 2)
		if (!strcmp(key, name)) {
			fclose(f);
			return value;
		}
	errno = ENOENT;
	die("counter %s", name);
}

/* ---- the device through VFIO ----------------------------------------------------------------- */

struct wq {
	unsigned int n, slot;
	volatile uint8_t *portal;
};

static int container, group, device;
static volatile uint8_t *regs, *portals;
static struct wq wq[2];
static uint32_t wqcfg_stride;
static uint64_t offsets;

static uint32_t rd32(uint32_t at)
{
	return *(volatile uint32_t *)(regs + at);
}

static uint64_t rd64(uint32_t at)
{
	return *(volatile uint64_t *)(regs + at);
}

static void wr32(uint32_t at, uint32_t v)
{
	*(volatile uint32_t *)(regs + at) = v;
}

static void wr64(uint32_t at, uint64_t v)
{
	*(volatile uint64_t *)(regs + at) = v;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static volatile uint8_t *map_bar(uint32_t index, size_t *size)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };
	void *p;

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		die("region %u", index);
	p = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)info.offset);
	if (p == MAP_FAILED)
		die("mmap of region %u", index);
	madvise(p, info.size, MADV_DONTFORK);
	*size = info.size;
	return p;
}

static void config16(uint32_t at, uint16_t clear, uint16_t set)
{
	struct vfio_region_info info = { .argsz = sizeof(info),
					 .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint16_t v;

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info) ||
	    pread(device, &v, 2, (off_t)(info.offset + at)) != 2)
		die("config space");
	v = (uint16_t)((v & ~clear) | set);
	if (pwrite(device, &v, 2, (off_t)(info.offset + at)) != 2)
		die("config space");
}

#define COMMAND 4
#define MASTER	4
#define MEMORY	2

static void open_device(const char *bdf)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char path[128], link[PATH_MAX];
	size_t size;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		die("%s", path);
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	group = open(path, O_RDWR | O_CLOEXEC);
	if (container < 0 || group < 0)
		die("%s", path);
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		die("group is not viable");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("type1");
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (device < 0)
		die("device");
	config16(COMMAND, 0, MASTER | MEMORY);
	regs = map_bar(DSA_BAR_REGS, &size);
	portals = map_bar(DSA_BAR_PORTALS, &size);
	offsets = rd64(DSA_REG_OFFSETS);
	wqcfg_stride = DSA_WQCAP_WQCFG_BYTES(rd64(DSA_REG_WQCAP));
}

/* A command's status; dsa_spec.h says why CMDSTS is written. */
static uint32_t command(uint32_t cmd, uint32_t operand)
{
	uint64_t end = now_ms() + 20000;

	wr32(DSA_REG_CMDSTS, DSA_CMDSTS_ACTIVE);
	wr32(DSA_REG_CMD, DSA_CMD(cmd, operand));
	while (rd32(DSA_REG_CMDSTS) & DSA_CMDSTS_ACTIVE) {
		if (now_ms() > end)
			return ~0u;
		usleep(100);
	}
	return rd32(DSA_REG_CMDSTS);
}

static uint32_t wqcfg(unsigned int n, uint32_t at)
{
	return DSA_OFFSETS_WQCFG(offsets) + n * wqcfg_stride + at;
}

/* Two WQs with an engine each. */
static bool enable_device(void)
{
	for (unsigned int i = 0; i < 2; i++) {
		uint32_t grp = DSA_OFFSETS_GRPCFG(offsets) + i * DSA_GRPCFG_STRIDE;

		wr64(grp + DSA_GRPCFG_WQS, 1ull << i);
		wr64(grp + DSA_GRPCFG_ENGINES, 1ull << i);
		wr32(wqcfg(i, DSA_WQCFG_SIZE), WQ_SIZE);
	}
	return command(DSA_CMD_ENABLE_DEVICE, 0) == DSA_CMD_OK;
}

static uint32_t enable_wq(unsigned int n, uint32_t mode)
{
	wr32(wqcfg(n, DSA_WQCFG_MODE), mode | DSA_WQCFG_DEDICATED | DSA_WQCFG_PRIORITY(1));
	wr32(wqcfg(n, DSA_WQCFG_LIMITS), DSA_WQCFG_MAX_XFER(31) | DSA_WQCFG_MAX_BATCH(10));
	wq[n] = (struct wq){ .n = n, .portal = portals + n * DSA_PORTAL_STRIDE };
	return command(DSA_CMD_ENABLE_WQ, n);
}

static void submit(struct wq *q, const struct dsa_desc *d)
{
	volatile uint64_t *slot =
		(volatile uint64_t *)(q->portal + (q->slot++ % DSA_PORTAL_SLOTS) * 64);
	uint64_t words[8];

	memcpy(words, d, 64);
	for (int i = 1; i < 8; i++)
		slot[i] = words[i];
	atomic_thread_fence(memory_order_release);
	slot[0] = words[0];
}

/* Submits, and waits until the device has taken it. */
static void submit_taken(struct wq *q, const struct dsa_desc *d)
{
	long before = stat_of("descriptors");
	uint64_t end = now_ms() + 10000;

	submit(q, d);
	while (stat_of("descriptors") == before && now_ms() < end)
		usleep(1000);
}

static uint8_t status_of(const struct dsa_completion *cr)
{
	return __atomic_load_n(&cr->status, __ATOMIC_ACQUIRE);
}

static uint8_t wait_cr(const struct dsa_completion *cr)
{
	uint64_t end = now_ms() + 20000;
	uint8_t s;

	while (!(s = status_of(cr)) && now_ms() < end)
		usleep(50);
	return s;
}

/* A descriptor for q with its record at cr, whose address for the device is cr_addr. */
static struct dsa_desc desc(uint32_t op, uint32_t flags, uint64_t cr_addr, uint64_t src,
			    uint64_t dst, uint32_t size)
{
	struct dsa_desc d;

	memset(&d, 0, sizeof(d));
	d.op_flags = DSA_DESC_OP(op, flags | DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST);
	d.cr_addr = cr_addr;
	d.src = src;
	d.dst = dst;
	d.size = size;
	return d;
}

static uint8_t run(struct wq *q, const struct dsa_desc *d, struct dsa_completion *cr)
{
	memset(cr, 0, sizeof(*cr));
	submit(q, d);
	return wait_cr(cr);
}

static uint32_t crc32c(uint32_t seed, const uint8_t *p, size_t n)
{
	uint32_t crc = ~seed;

	while (n--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static uint32_t rnd_state = 1;

static uint32_t rnd(void)
{
	rnd_state = rnd_state * 1664525u + 1013904223u;
	return rnd_state >> 8;
}

static void *pages(size_t n)
{
	void *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("memory");
	return p;
}

/* ---- every operation; base is the address of mem for the device, with room for 64 KiB -------- */

static bool fits(const char *what, uint8_t got, uint8_t want)
{
	if (got != want)
		printf("# %s: status %#x instead of %#x\n", what, got, want);
	return got == want;
}

static void operations(struct wq *q, uint8_t *mem, uint64_t base, struct dsa_completion *cr,
		       uint64_t cr_addr, const char *how)
{
	uint64_t src = base, dst = base + 0x4000, dst2 = base + 0x8000;
	struct dsa_desc d, *list = (struct dsa_desc *)(mem + 0xc000);
	struct dsa_completion *crs = (struct dsa_completion *)(mem + 0xe000);
	uint8_t keep[0x4000];
	bool good = true;

	for (uint32_t i = 0; i < 0x4000; i++)
		mem[i] = (uint8_t)rnd();
	for (int i = 0; i < 100 && good; i++) {
		uint32_t from = rnd() % 0x1000, to = rnd() % 0x1000, n = 1 + rnd() % 0x2fff;

		memset(mem + 0x4000, 0xee, 0x4000);
		d = desc(DSA_OP_MEMMOVE, 0, cr_addr, src + from, dst + to, n);
		good = fits("memmove", run(q, &d, cr), DSA_ST_SUCCESS) &&
		       !memcmp(mem + 0x4000 + to, mem + from, n) && mem[0x4000 + to + n] == 0xee &&
		       (!to || mem[0x4000 + to - 1] == 0xee);
	}
	check(good, "%s: memmove, 100 random ranges, byte for byte and nothing beside them", how);

	good = true;
	for (int i = 0; i < 50 && good; i++) {
		uint32_t from = rnd() % 0x1800, to = rnd() % 0x1800, n = 1 + rnd() % 0x27ff;

		memcpy(keep, mem, sizeof(keep));
		memmove(keep + to, keep + from, n);
		d = desc(DSA_OP_MEMMOVE, 0, cr_addr, src + from, src + to, n);
		good = fits("overlap", run(q, &d, cr), DSA_ST_SUCCESS) &&
		       !memcmp(keep, mem, sizeof(keep));
	}
	check(good, "%s: memmove of overlapping ranges, in both directions", how);

	memset(mem + 0x4000, 0, 0x4000);
	d = desc(DSA_OP_FILL, 0, cr_addr, 0x0706050403020100ull, dst + 5, 0x1003);
	good = fits("fill", run(q, &d, cr), DSA_ST_SUCCESS);
	for (uint32_t i = 0; i < 0x1003; i++)
		good &= mem[0x4005 + i] == i % 8;
	check(good && !mem[0x4004] && !mem[0x4005 + 0x1003], "%s: fill", how);

	d = desc(DSA_OP_COMPARE_PATTERN, 0, cr_addr, dst + 5, 0x0706050403020100ull, 0x1003);
	good = fits("compare pattern", run(q, &d, cr), DSA_ST_SUCCESS) &&
	       cr->result == DSA_RESULT_EQUAL;
	mem[0x4005 + 0x1001] ^= 1;
	good &= fits("compare pattern", run(q, &d, cr), DSA_ST_SUCCESS) &&
		cr->result == DSA_RESULT_DIFFERENT && cr->bytes == 0x1001;
	check(good, "%s: compare pattern, and where it differs", how);

	memcpy(mem + 0x4000, mem, 0x3000);
	d = desc(DSA_OP_COMPARE, 0, cr_addr, src, dst, 0x3000);
	good = fits("compare", run(q, &d, cr), DSA_ST_SUCCESS) && cr->result == DSA_RESULT_EQUAL;
	mem[0x4000 + 0x2345] ^= 1;
	good &= fits("compare", run(q, &d, cr), DSA_ST_SUCCESS) &&
		cr->result == DSA_RESULT_DIFFERENT && cr->bytes == 0x2345;
	d = desc(DSA_OP_COMPARE, DSA_FLAG_CHECK_RESULT, cr_addr, src, dst, 0x3000);
	good &= fits("compare, checked", run(q, &d, cr), DSA_ST_SUCCESS_FALSE);
	check(good, "%s: compare", how);

	d = desc(DSA_OP_CRC, 0, cr_addr, src + 3, 0, 0x2fff);
	d.seed = 0x1234;
	good = fits("crc", run(q, &d, cr), DSA_ST_SUCCESS) &&
	       cr->crc == crc32c(0x1234, mem + 3, 0x2fff);
	d = desc(DSA_OP_COPY_CRC, 0, cr_addr, src, dst, 0x2001);
	memset(mem + 0x4000, 0, 0x4000);
	good &= fits("copy crc", run(q, &d, cr), DSA_ST_SUCCESS) &&
		cr->crc == crc32c(0, mem, 0x2001) && !memcmp(mem, mem + 0x4000, 0x2001);
	check(good, "%s: CRC-32C, and with a copy", how);

	memset(mem + 0x4000, 0, 0x8000);
	d = desc(DSA_OP_DUALCAST, 0, cr_addr, src, dst, 0x1801);
	d.dst2 = dst2;
	good = fits("dualcast", run(q, &d, cr), DSA_ST_SUCCESS) &&
	       !memcmp(mem, mem + 0x4000, 0x1801) && !memcmp(mem, mem + 0x8000, 0x1801);
	d.dst2 = dst2 + 1;
	good &= fits("dualcast", run(q, &d, cr), DSA_ST_DUALCAST_BITS);
	check(good, "%s: dualcast", how);

	memset(crs, 0, 16 * sizeof(*crs));
	memset(mem + 0x4000, 0, 0x4000);
	for (uint32_t i = 0; i < 16; i++)
		list[i] = desc(DSA_OP_MEMMOVE, 0, base + 0xe000 + i * sizeof(*crs), src + i * 100,
			       dst + i * 100, 100);
	d = desc(DSA_OP_BATCH, 0, cr_addr, base + 0xc000, 0, 16);
	good = fits("batch", run(q, &d, cr), DSA_ST_SUCCESS) && cr->descs == 16 &&
	       !memcmp(mem, mem + 0x4000, 1600);
	for (int i = 0; i < 16; i++)
		good &= crs[i].status == DSA_ST_SUCCESS;
	list[3].op_flags = DSA_DESC_OP(0x7f, DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST);
	list[5].op_flags |= DSA_FLAG_FENCE;
	memset(crs, 0, 16 * sizeof(*crs));
	good &= fits("batch", run(q, &d, cr), DSA_ST_BATCH_FAIL) && cr->descs == 5 &&
		crs[3].status == DSA_ST_BAD_OP && crs[4].status == DSA_ST_SUCCESS && !crs[5].status;
	check(good, "%s: batch; one that fails, and a fence behind it", how);

	d = desc(DSA_OP_NOOP, 0, cr_addr, 0, 0, 0);
	good = fits("no-op", run(q, &d, cr), DSA_ST_SUCCESS);
	d = desc(DSA_OP_MEMMOVE, 0, cr_addr, src, dst, 0);
	good &= fits("size 0", run(q, &d, cr), DSA_ST_BAD_SIZE);
	d = desc(DSA_OP_MEMMOVE, 1u << 12, cr_addr, src, dst, 1);
	good &= fits("flag", run(q, &d, cr), DSA_ST_BAD_FLAGS) && cr->bad_flags == 1u << 12;
	d = desc(0x55, 0, cr_addr, src, dst, 1);
	good &= fits("operation", run(q, &d, cr), DSA_ST_BAD_OP);
	d = desc(DSA_OP_DRAIN, 0, cr_addr, 0, 0, 0);
	good &= fits("drain", run(q, &d, cr), DSA_ST_SUCCESS);
	check(good, "%s: no-op, drain, and what is not allowed", how);

	memset(crs, 0, WQ_SIZE * sizeof(*crs));
	good = true;
	for (uint32_t i = 0; i < 1000; i++) {
		struct dsa_completion *c = &crs[i % WQ_SIZE];

		if (i >= WQ_SIZE)
			good &= fits("many", wait_cr(c), DSA_ST_SUCCESS);
		memset(c, 0, sizeof(*c));
		d = desc(DSA_OP_MEMMOVE, 0, base + 0xe000 + i % WQ_SIZE * sizeof(*c),
			 src + i % WQ_SIZE * 64, dst + i % WQ_SIZE * 64, 64);
		submit(q, &d);
	}
	for (uint32_t i = 0; i < WQ_SIZE; i++)
		good &= fits("many", wait_cr(&crs[i]), DSA_ST_SUCCESS);
	check(good && !stat_of("wq_overflow"), "%s: 1000 descriptors, %u in flight, none lost", how,
	      WQ_SIZE);
}

/* ---- through type1 --------------------------------------------------------------------------- */

static void dma_map(void *p, uint64_t iova, size_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map m = { .argsz = sizeof(m),
					      .flags = flags,
					      .vaddr = (uintptr_t)p,
					      .iova = iova,
					      .size = size };

	if (ioctl(container, VFIO_IOMMU_MAP_DMA, &m))
		die("map");
}

static void dma_unmap(uint64_t iova, size_t size)
{
	struct vfio_iommu_type1_dma_unmap u = { .argsz = sizeof(u), .iova = iova, .size = size };

	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &u))
		die("unmap");
}

static void interrupts(struct wq *q, struct dsa_completion *cr, uint64_t cr_addr)
{
	struct {
		struct vfio_irq_set set;
		int fd[3];
	} irq = {
		.set = { .argsz = sizeof(irq),
			 .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			 .index = VFIO_PCI_MSIX_IRQ_INDEX,
			 .count = 3 },
	};
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	struct dsa_desc d = desc(DSA_OP_NOOP, DSA_FLAG_INT_REQUEST, cr_addr, 0, 0, 0);
	struct pollfd p[3];
	uint64_t n;

	for (int i = 0; i < 3; i++) {
		irq.fd[i] = eventfd(0, EFD_NONBLOCK);
		p[i] = (struct pollfd){ .fd = irq.fd[i], .events = POLLIN };
	}
	check(ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &info) == 0 && info.count == 9,
	      "9 MSI-X vectors");
	if (ioctl(device, VFIO_DEVICE_SET_IRQS, &irq))
		die("MSI-X");
	check(command(DSA_CMD_REQUEST_INT_HANDLE, 2) == 2u << DSA_CMDSTS_RESULT_LSB,
	      "an interrupt handle for vector 2");
	d.int_handle = 2;
	run(q, &d, cr);
	check(poll(&p[2], 1, 5000) == 1 && read(irq.fd[2], &n, 8) == 8 && n == 1,
	      "vector 2 interrupts when the operation completes");
	check(poll(p, 2, 0) == 0, "and no other does");
	wr32(DSA_REG_CMDSTS, DSA_CMDSTS_ACTIVE);
	wr32(DSA_REG_CMD, DSA_CMD(DSA_CMD_DRAIN_ALL, 0) | DSA_CMD_INT);
	check(poll(p, 1, 5000) == 1 && (rd32(DSA_REG_INTCAUSE) & DSA_INTCAUSE_CMD),
	      "vector 0 interrupts when the command completes");
	wr32(DSA_REG_INTCAUSE, DSA_INTCAUSE_CMD);
	for (uint64_t end = now_ms() + 5000; rd32(DSA_REG_INTCAUSE) && now_ms() < end;)
		usleep(100);
	check(rd32(DSA_REG_INTCAUSE) == 0, "its cause is cleared by writing ones");
	irq.set.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
	irq.set.count = 0;
	irq.set.argsz = sizeof(irq.set);
	ioctl(device, VFIO_DEVICE_SET_IRQS, &irq);
}

static void type1(const char *bdf)
{
	const uint64_t iova = 0x100000000ull, cr_iova = 0x200000000ull, ro = 0x300000000ull;
	uint8_t *mem = pages(16), *more = pages(2);
	struct dsa_completion *cr = pages(1);
	struct dsa_desc d;
	uint64_t gencap;
	uint32_t err;
	long stale;

	open_device(bdf);
	gencap = rd64(DSA_REG_GENCAP);
	check((gencap & DSA_GENCAP_BLOCK_ON_FAULT) && DSA_GENCAP_MAX_XFER(gencap) == 1ull << 31 &&
		      DSA_WQCAP_WQS(rd64(DSA_REG_WQCAP)) == 4 &&
		      DSA_ENGCAP_ENGINES(rd64(DSA_REG_ENGCAP)) == 4,
	      "capability registers");
	dma_map(mem, iova, 16 * PAGE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	dma_map(cr, cr_iova, PAGE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	dma_map(more, ro, 2 * PAGE, VFIO_DMA_MAP_FLAG_READ);

	check(command(DSA_CMD_ENABLE_WQ, 0) == DSA_CMD_DEV_NOT_ENABLED,
	      "a WQ of a disabled device is refused");
	config16(COMMAND, MASTER, 0);
	check(!enable_device() && DSA_CMDSTS_ERR(rd32(DSA_REG_CMDSTS)) == DSA_CMD_NO_BUS_MASTER,
	      "no device without bus mastering");
	config16(COMMAND, 0, MASTER);
	check(enable_device() && DSA_GENSTS_STATE(rd32(DSA_REG_GENSTS)) == DSA_GENSTS_ENABLED,
	      "device enabled");
	check(command(DSA_CMD_ENABLE_WQ, 3) == DSA_CMD_WQ_SIZE_ZERO,
	      "a WQ without a size is refused");
	err = enable_wq(0, DSA_WQCFG_BLOCK_ON_FAULT);
	check(err == DSA_CMD_OK &&
		      DSA_WQCFG_STATE_OF(rd32(wqcfg(0, DSA_WQCFG_STATE))) == DSA_WQ_ENABLED,
	      "WQ enabled");

	operations(&wq[0], mem, iova, cr, cr_iova, "type1");
	interrupts(&wq[0], cr, cr_iova);

	d = desc(DSA_OP_MEMMOVE, 0, cr_iova, iova, ro + 100, 64);
	check(run(&wq[0], &d, cr) == (DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE) && cr->fault_addr == ro,
	      "a write to a read-only mapping faults");
	d = desc(DSA_OP_MEMMOVE, 0, cr_iova, ro, iova, PAGE + 64);
	check(run(&wq[0], &d, cr) == DSA_ST_SUCCESS, "a read of it does not");
	dma_unmap(ro, 2 * PAGE);
	check(run(&wq[0], &d, cr) == DSA_ST_PAGE_FAULT && cr->fault_addr == ro && cr->bytes == 0,
	      "what is unmapped faults");
	check(stat_of("stale_uses") == 0 && stat_of("atc_invalidated") > 0,
	      "VFIO's unmap has emptied the translation cache");

	inject("warn", 0);
	dma_map(more, ro, 2 * PAGE, VFIO_DMA_MAP_FLAG_READ);
	run(&wq[0], &d, cr);
	inject("drop_invalidations", 2);
	dma_unmap(ro, 2 * PAGE);
	inject("drop_invalidations", 0);
	stale = stat_of("stale_uses");
	check(run(&wq[0], &d, cr) == DSA_ST_PAGE_FAULT && stat_of("stale_uses") == stale + 1 &&
		      stat_of("atc_lost") == 2,
	      "an invalidation that got lost is detected");
	inject("warn", 1);

	config16(COMMAND, MASTER, 0);
	d = desc(DSA_OP_NOOP, 0, cr_iova, 0, 0, 0);
	memset(cr, 0, sizeof(*cr));
	submit(&wq[0], &d);
	check(command(DSA_CMD_DRAIN_ALL, 0) == DSA_CMD_OK && !status_of(cr) &&
		      stat_of("dma_no_master") > 0,
	      "without bus mastering nothing is written");
	config16(COMMAND, 0, MASTER);
	check((rd64(DSA_REG_SWERR) & DSA_SWERR_VALID) &&
		      DSA_SWERR_ERROR(rd64(DSA_REG_SWERR)) == DSA_ST_CR_FAULT,
	      "and the software error register says so");

	inject("stall", 1);
	d = desc(DSA_OP_MEMMOVE, 0, cr_iova, iova, iova + 0x4000, 64);
	memset(cr, 0, sizeof(*cr));
	submit_taken(&wq[0], &d);
	check(ioctl(device, VFIO_DEVICE_RESET) == 0,
	      "function level reset with a descriptor under way");
	inject("stall", 0);
	check(stat_of("resets") > 0 && !status_of(cr) &&
		      DSA_GENSTS_STATE(rd32(DSA_REG_GENSTS)) == DSA_GENSTS_DISABLED &&
		      !rd32(wqcfg(0, DSA_WQCFG_SIZE)),
	      "the device is as after power-on, the descriptor is gone");
	config16(COMMAND, 0, MASTER | MEMORY);
	check(enable_device() && enable_wq(0, 0) == DSA_CMD_OK &&
		      run(&wq[0], &d, cr) == DSA_ST_SUCCESS,
	      "and works again");

	inject("fail_status", DSA_ST_HW_ERROR);
	inject("fail_descriptors", 1);
	check(run(&wq[0], &d, cr) == DSA_ST_HW_ERROR && run(&wq[0], &d, cr) == DSA_ST_SUCCESS,
	      "an injected error, once");
	check(command(DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0)) == DSA_CMD_OK &&
		      DSA_WQCFG_STATE_OF(rd32(wqcfg(0, DSA_WQCFG_STATE))) == DSA_WQ_DISABLED,
	      "WQ disabled");
	check(command(DSA_CMD_DISABLE_DEVICE, 0) == DSA_CMD_OK &&
		      DSA_GENSTS_STATE(rd32(DSA_REG_GENSTS)) == DSA_GENSTS_DISABLED,
	      "device disabled");
	check(command(0x1f, 0) == DSA_CMD_BAD_COMMAND, "a command that there is not");
}

/* ---- through svio-vfio-pci ------------------------------------------------------------------- */

static int feature(uint32_t which, uint32_t how, void *data, size_t size)
{
	struct vfio_device_feature *f = malloc(sizeof(*f) + size);
	int rc;

	if (!f)
		die("memory");
	f->argsz = (uint32_t)(sizeof(*f) + size);
	f->flags = which | how;
	memcpy(f->data, data, size);
	rc = ioctl(device, VFIO_DEVICE_FEATURE, f) < 0 ? -errno : 0;
	memcpy(data, f->data, size);
	free(f);
	return rc;
}

static int sva_bind(struct svio_sva_bind *bond)
{
	memset(bond, 0, sizeof(*bond));
	return feature(SVIO_VFIO_FEATURE_SVA_BIND, VFIO_DEVICE_FEATURE_SET, bond, sizeof(*bond));
}

static int sva_unbind(void)
{
	struct svio_sva_unbind all = { .max = UINT32_MAX };
	int rc = feature(SVIO_VFIO_FEATURE_SVA_UNBIND, VFIO_DEVICE_FEATURE_SET, &all, sizeof(all));

	return rc ? rc : (int)all.released;
}

static uint64_t va(const void *p)
{
	return (uintptr_t)p;
}

#define BOF DSA_FLAG_BLOCK_ON_FAULT

/*
 * Device copies that go on in another thread, of the same pages again and again, until it is told to stop. They wait for
 * pages: without, a record whose page fork has just write-protected would be lost.
 */
struct copier {
	struct wq *q;
	struct dsa_completion *cr;
	uint8_t *src, *dst;
	uint32_t size;
	atomic_bool stop;
	atomic_ulong copies, faults, others;
};

static void *copy_on(void *arg)
{
	struct copier *c = arg;

	while (!c->stop) {
		struct dsa_desc d =
			desc(DSA_OP_MEMMOVE, BOF, va(c->cr), va(c->src), va(c->dst), c->size);
		uint8_t s = run(c->q, &d, c->cr);

		if (s == DSA_ST_SUCCESS)
			c->copies++;
		else if (DSA_STATUS(s) == DSA_ST_PAGE_FAULT_IR) /* while it was read-only */
			c->faults++;
		else
			c->others++;
	}
	return NULL;
}

static void churn(struct wq *q, struct dsa_completion *cr)
{
	struct copier c = { .q = q, .cr = cr, .src = pages(8), .dst = pages(8), .size = 8 * PAGE };
	long checks = stat_of("stale_checks");
	uint64_t end;
	pthread_t t;
	int rounds = 0;

	if (pthread_create(&t, NULL, copy_on, &c))
		die("thread");
	for (end = now_ms() + 4000; now_ms() < end; rounds++) {
		memset(c.src, rounds, 8 * PAGE);
		memset(c.dst, 0, 8 * PAGE);
		switch (rounds % 5) {
		case 0:
			madvise(c.dst, 8 * PAGE, MADV_DONTNEED);
			break;
		case 1:
			mprotect(c.dst, 8 * PAGE, PROT_READ);
			mprotect(c.dst, 8 * PAGE, PROT_READ | PROT_WRITE);
			break;
		case 2:
			madvise(c.src, 8 * PAGE, MADV_PAGEOUT);
			break;
		case 3: {
			pid_t child = fork(); /* write-protects both, for a moment */

			if (!child)
				_exit(0);
			waitpid(child, NULL, 0);
			break;
		}
		case 4:
			mmap(c.dst, 4 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			break;
		}
	}
	c.stop = true;
	pthread_join(t, NULL);
	printf("# churn: %d changes, %lu copies, %lu faults, %ld comparisons\n", rounds, c.copies,
	       c.faults, stat_of("stale_checks") - checks);
	check(c.copies > 10 && !c.others && rounds > 20,
	      "page tables changed under DMA: it goes on, or faults, and nothing else");
	check(stat_of("stale_uses") == 0, "and no translation was used that was no longer true");
}

/* Twelve pages that nobody has touched; what faults is not there afterwards. */
static void faults(struct wq *q, struct dsa_completion *cr)
{
	uint8_t *a = pages(4), *b = pages(4), *c = pages(4);
	struct dsa_desc d;
	uint8_t s;

	memset(a, 0x5a, 2 * PAGE);
	d = desc(DSA_OP_MEMMOVE, 0, va(cr), va(a), va(b) + 100, 2 * PAGE);
	s = run(q, &d, cr);
	check(s == (DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE) && cr->bytes == 0 &&
		      cr->fault_addr == va(b),
	      "without block-on-fault a page that is not there ends the operation");
	b[100] = 0;
	s = run(q, &d, cr);
	check(s == (DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE) && cr->bytes == PAGE - 100 &&
		      cr->fault_addr == va(b) + PAGE,
	      "partly done: it tells how far");
	d = desc(DSA_OP_MEMMOVE, BOF, va(cr), va(a), va(b) + 100, 2 * PAGE);
	s = run(q, &d, cr);
	check(s == DSA_ST_SUCCESS && !memcmp(a, b + 100, 2 * PAGE),
	      "with it the page is faulted in by a page request");

	mprotect(c, PAGE, PROT_READ);
	d = desc(DSA_OP_FILL, BOF, va(cr), 0, va(c), 64);
	check(run(q, &d, cr) == (DSA_ST_PAGE_FAULT_IR | DSA_STATUS_WRITE),
	      "a write to read-only memory is answered \"invalid request\"");
	munmap(c, PAGE);
	check(run(q, &d, cr) == (DSA_ST_PAGE_FAULT_IR | DSA_STATUS_WRITE),
	      "and to nothing as well");
	d = desc(DSA_OP_MEMMOVE, BOF, va(cr), 0xffff800000000000ull, va(a), 64);
	check(run(q, &d, cr) == DSA_ST_PAGE_FAULT_IR,
	      "the kernel's addresses are not the process's");

	inject("deny_responses", 1);
	d = desc(DSA_OP_FILL, BOF, va(cr), 0, va(c) + PAGE, 64);
	check(run(q, &d, cr) == (DSA_ST_PAGE_FAULT_IR | DSA_STATUS_WRITE), "an injected refusal");
	check(run(q, &d, cr) == DSA_ST_SUCCESS, "once");
	inject("response_delay_us", 200000);
	d = desc(DSA_OP_FILL, BOF, va(cr), 0, va(c) + 2 * PAGE, 64);
	uint64_t start = now_ms();
	check(run(q, &d, cr) == DSA_ST_SUCCESS && now_ms() - start >= 150,
	      "a late response is waited for");
	inject("response_delay_us", 0);
}

static void copy_on_write(struct wq *q, struct dsa_completion *cr)
{
	uint8_t *a = pages(1), *b = pages(1);
	int go[2], done[2];
	struct dsa_desc d = desc(DSA_OP_FILL, BOF, va(cr), 0x2222222222222222ull, va(a), PAGE);
	char byte = 0;
	bool same = true;
	int status;
	pid_t child;

	memset(a, 0x11, PAGE);
	memset(b, 0, PAGE);
	run(q, &d, cr); /* the translation is cached, writable */
	memset(a, 0x11, PAGE);
	if (pipe(go) || pipe(done))
		die("pipe");
	child = fork();
	if (!child) {
		if (read(go[0], &byte, 1) != 1)
			_exit(2);
		for (size_t i = 0; i < PAGE; i++)
			same &= a[i] == 0x11;
		_exit(!same);
	}
	check(run(q, &d, cr) == DSA_ST_SUCCESS,
	      "fork, then the device writes to a page that is shared now");
	if (write(go[1], &byte, 1) != 1 || waitpid(child, &status, 0) != child)
		die("child");
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child sees what was there");
	for (size_t i = 0; i < PAGE; i++)
		same &= a[i] == 0x22;
	check(same, "the parent what the device wrote");
}

static void unmapped_during_dma(struct wq *q, struct dsa_completion *cr)
{
	const uint32_t size = 512 * PAGE;
	uint8_t *src = pages(512), *dst = pages(512);
	struct dsa_desc d = desc(DSA_OP_MEMMOVE, 0, va(cr), va(src), va(dst), size);
	bool clean = true;
	uint8_t s, *again;

	memset(src, 0x77, size);
	memset(dst, 0x11, size);
	memset(cr, 0, sizeof(*cr));
	submit(q, &d);
	while (((volatile uint8_t *)dst)[100 * PAGE] != 0x77) /* it has come that far */
		;
	munmap(dst, size);
	again = mmap(dst, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	s = wait_cr(cr);
	check(s == (DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE),
	      "munmap under a copy ends it with a fault (%#x at %u)", s, cr->bytes);
	for (uint32_t i = 0; again != MAP_FAILED && i < size; i += PAGE)
		clean &= again[i] == 0;
	check(again == dst && clean, "and nothing is written after munmap has returned");
}

static void detector(struct wq *q, struct dsa_completion *cr)
{
	uint8_t *a = pages(1), *b = pages(1);
	struct dsa_desc d = desc(DSA_OP_MEMMOVE, BOF, va(cr), va(a), va(b), 64);
	long stale = stat_of("stale_uses");

	memset(a, 1, PAGE);
	run(q, &d, cr);
	inject("warn", 0);
	inject("drop_invalidations", 1000);
	madvise(b, PAGE, MADV_DONTNEED);
	inject("drop_invalidations", 0);
	check(run(q, &d, cr) == DSA_ST_SUCCESS && stat_of("stale_uses") > stale &&
		      stat_of("atc_lost") > 0,
	      "an invalidation that got lost is detected");
	check(b[0] == 1, "and the write goes where it belongs");
	inject("warn", 1);
}

/*
 * A process of its own, with a bond and a WQ of its own: both work at once, each sees its own memory at the
 * same address.
 */
static void second_process(struct dsa_completion *cr, uint32_t pasid)
{
	uint8_t *mine = pages(2);
	struct dsa_desc d;
	int go[2], ready[2];
	char byte = 0;
	int status;
	pid_t child;

	if (pipe(go) || pipe(ready))
		die("pipe");
	child = fork();
	if (!child) {
		struct svio_sva_bind bond;
		size_t size;
		bool good;

		close(ready[0]);
		close(go[1]);
		regs = map_bar(DSA_BAR_REGS, &size); /* its own: the parent's are not inherited */
		portals = map_bar(DSA_BAR_PORTALS, &size);

		good = !sva_bind(&bond) && bond.pasid != pasid;
		good = good && enable_wq(1, DSA_WQCFG_BLOCK_ON_FAULT | DSA_WQCFG_PASID_EN |
						    DSA_WQCFG_PASID(bond.pasid)) == DSA_CMD_OK;
		d = desc(DSA_OP_FILL, BOF, va(cr), 0xccccccccccccccccull, va(mine), 2 * PAGE);
		good = good && run(&wq[1], &d, cr) == DSA_ST_SUCCESS && mine[0] == 0xcc;
		if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(2);
		good = good && mine[PAGE] == 0xcc;
		_exit(!good); /* bound, its WQ enabled */
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &byte, 1) != 1)
		die("child");
	d = desc(DSA_OP_FILL, BOF, va(cr), 0xddddddddddddddddull, va(mine), 2 * PAGE);
	check(run(&wq[0], &d, cr) == DSA_ST_SUCCESS && mine[0] == 0xdd,
	      "two processes, two PASIDs, two WQs: the first's memory");
	if (write(go[1], &byte, 1) != 1 || waitpid(child, &status, 0) != child)
		die("child");
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "and the second's");
	check(run(&wq[0], &d, cr) == DSA_ST_SUCCESS,
	      "the first works on when the second has ended");
}

static int try_inject(const char *file, unsigned long value)
{
	char path[128], text[32];
	int fd, rc, len = snprintf(text, sizeof(text), "%lu", value);

	snprintf(path, sizeof(path), DEBUGFS "%s", file);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		die("%s", path);
	rc = write(fd, text, (size_t)len) == len ? 0 : -errno;
	close(fd);
	return rc;
}

/* The IOMMU's own answer to what the core does not ask of it: another domain for a PASID that has one. */
static void attached_twice(struct wq *q, struct dsa_completion *cr, uint32_t pasid)
{
	uint8_t *a = pages(2);
	struct dsa_desc d = desc(DSA_OP_FILL, BOF, va(cr), 0x1111111111111111ull, va(a), 64);
	long stale = stat_of("stale_uses");

	check(run(q, &d, cr) == DSA_ST_SUCCESS && a[0] == 0x11, "the PASID is in use");
	check(try_inject("reattach_pasid", pasid) == -EBUSY, "attaching it as if it were free is refused");
	d.pattern = 0x2222222222222222ull;
	check(run(q, &d, cr) == DSA_ST_SUCCESS && a[0] == 0x22, "and changes nothing");
	check(try_inject("reattach_pasid", pasid + 1) == 0, "while a free one takes it");
	check(try_inject("swap_pasid", pasid + 1) == -ENOENT, "and gives it back");

	/* Its completion record cannot be written either. */
	d.pattern = 0x3333333333333333ull;
	check(try_inject("swap_pasid", pasid) == 0 && try_inject("swap_pasid", pasid) == -EBUSY,
	      "replaced by an empty domain");
	memset(cr, 0, sizeof(*cr));
	submit_taken(q, &d);
	check(command(DSA_CMD_DRAIN_ALL, 0) == DSA_CMD_OK && !status_of(cr) && a[0] == 0x22,
	      "the device has forgotten what it had cached of the old one");
	check(try_inject("swap_pasid", 0) == 0 && try_inject("swap_pasid", 0) == -ENOENT, "and put back");
	check(run(q, &d, cr) == DSA_ST_SUCCESS && a[0] == 0x33 && stat_of("stale_uses") == stale,
	      "it works as before");
}

static void lost_response(struct wq *q, struct dsa_completion *cr)
{
	uint8_t *a = pages(1);
	struct dsa_desc d = desc(DSA_OP_FILL, BOF, va(cr), 0, va(a), 64);
	struct svio_sva_bind bond;

	inject("drop_responses", 1);
	memset(cr, 0, sizeof(*cr));
	submit(q, &d);
	for (uint64_t end = now_ms() + 10000; !stat_of("pr_dropped") && now_ms() < end;)
		usleep(1000);
	check(!status_of(cr), "a page response that got lost: the device waits");
	check(ioctl(device, VFIO_DEVICE_RESET) == 0 && !status_of(cr),
	      "a function level reset ends that");
	config16(COMMAND, 0, MASTER | MEMORY);
	sva_unbind();
	check(!sva_bind(&bond) && enable_device() &&
		      enable_wq(0, DSA_WQCFG_BLOCK_ON_FAULT | DSA_WQCFG_PASID_EN |
					   DSA_WQCFG_PASID(bond.pasid)) == DSA_CMD_OK &&
		      run(q, &d, cr) == DSA_ST_SUCCESS,
	      "bound again it works again");
}

static void sva(const char *bdf)
{
	struct dsa_completion *cr = pages(1);
	struct svio_sva_info info = { 0 };
	struct svio_sva_bind bond;
	uint8_t *mem = pages(16);
	struct dsa_desc d;
	int rc;

	open_device(bdf);
	rc = feature(SVIO_VFIO_FEATURE_SVA_INFO, VFIO_DEVICE_FEATURE_GET, &info, sizeof(info));
	check(!rc && (info.flags & SVIO_SVA_INFO_NATIVE) && (info.flags & SVIO_SVA_INFO_PRI) &&
		      (info.flags & SVIO_SVA_INFO_ATS) && info.pasid_bits == 16,
	      "native SVA with PRI and ATS, 16 bits of PASID (%d, flags %#x, reason %u, error %d)",
	      rc, info.flags, info.reason, info.error);
	rc = sva_bind(&bond);
	check(!rc && bond.pasid, "bound, PASID %u (%d)", bond.pasid, rc);
	if (rc)
		return;
	memset(cr, 0, PAGE);
	check(enable_device() && enable_wq(0, DSA_WQCFG_BLOCK_ON_FAULT | DSA_WQCFG_PASID_EN |
						      DSA_WQCFG_PASID(bond.pasid)) == DSA_CMD_OK,
	      "WQ with the PASID");
	operations(&wq[0], mem, va(mem), cr, va(cr), "SVA");
	faults(&wq[0], cr);
	copy_on_write(&wq[0], cr);
	unmapped_during_dma(&wq[0], cr);
	churn(&wq[0], cr);
	second_process(cr, bond.pasid);
	attached_twice(&wq[0], cr, bond.pasid);
	detector(&wq[0], cr);
	lost_response(&wq[0], cr);

	check(command(DSA_CMD_DISABLE_DEVICE, 0) == DSA_CMD_OK, "device disabled");
	check(sva_unbind() > 0, "unbound");
	check(enable_device() && enable_wq(0, DSA_WQCFG_BLOCK_ON_FAULT | DSA_WQCFG_PASID_EN |
						      DSA_WQCFG_PASID(bond.pasid)) == DSA_CMD_OK,
	      "WQ with a stale PASID");
	d = desc(DSA_OP_FILL, BOF, va(cr), 0, va(mem), 64);
	memset(cr, 0, sizeof(*cr));
	submit(&wq[0], &d);
	check(command(DSA_CMD_DRAIN_ALL, 0) == DSA_CMD_OK && !status_of(cr) &&
		      stat_of("dma_blocked") > 0 &&
		      DSA_SWERR_ERROR(rd64(DSA_REG_SWERR)) == DSA_ST_CR_FAULT,
	      "which reaches nothing");
}

/* ---- unplugged under load -------------------------------------------------------------------- */

static void gone(const char *bdf)
{
	const uint64_t iova = 0x100000000ull;
	uint8_t *mem = pages(3);
	struct dsa_completion *cr = (struct dsa_completion *)(mem + 2 * PAGE);
	struct dsa_desc d = desc(DSA_OP_MEMMOVE, 0, iova + 2 * PAGE, iova, iova + PAGE, PAGE);

	long abandoned;

	open_device(bdf);
	dma_map(mem, iova, 3 * PAGE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	check(enable_device() && enable_wq(0, 0) == DSA_CMD_OK &&
		      run(&wq[0], &d, cr) == DSA_ST_SUCCESS,
	      "works");
	memset(cr, 0, sizeof(*cr));
	inject("stall", 1);
	submit_taken(&wq[0], &d);
	abandoned = stat_of("abandoned");
	inject("unplug", 2);
	for (uint64_t end = now_ms() + 10000; stat_of("abandoned") == abandoned && now_ms() < end;)
		usleep(1000);
	inject("stall", 0);
	check(stat_of("abandoned") == abandoned + 1 && !status_of(cr),
	      "it vanishes with a descriptor under way, which is gone");
	check(rd32(DSA_REG_VERSION) == ~0u, "its registers read all ones");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(argv[1], "type1"))
		type1(argv[2]);
	else if (argc == 3 && !strcmp(argv[1], "sva"))
		sva(argv[2]);
	else if (argc == 3 && !strcmp(argv[1], "gone"))
		gone(argv[2]);
	else
		return 2;
	return failures != 0;
}
