/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile driver of the DSA model: registers, commands, descriptors and raw bytes in portals, page tables and memory that change
 * under the device, stops and migrations in the middle.
 *
 * Input: a configuration byte, then steps. WQ 0 works by IOVA, WQ 1 by a PASID whose tables lie in the client's memory. That memory is a
 * file of which parts are mapped: nothing else may be written, and nothing at all while bus mastering is off.
 */
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include "dsa_spec.h"
#include "iommu_priv.h"
#include "kit.h"
#include "svio_vfio.h"

#define PAGE	 4096u
#define RAM	 24u /* pages that the device may read and write; the first four are tables */
#define RAM_IOVA UINT64_C(0x100000)
#define RO_IOVA	 UINT64_C(0x200000) /* one page that it may only read */
/* The file: a canary, RAM, a canary, the read-only page, a canary. */
#define FILE_PAGES (RAM + 4)
#define RO_PAGE	   (RAM + 2)
#define GRPCFG	   0x400u
#define WQCFG	   0x800u

static int file;
static uint8_t *mem;

static struct driver {
	struct fz_kit k;
	bool ram_mapped;
	uint32_t pasid;
	unsigned int slot[2];
} drv;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fz_kit_init();
	file = fz_memfd(FILE_PAGES * PAGE, true);
	mem = mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	FZ_CHECK(mem != MAP_FAILED);
	return 0;
}

static uint8_t *ram(uint32_t page)
{
	return mem + (1 + page) * PAGE;
}

static void canaries(bool set)
{
	static const uint32_t pages[] = { 0, RAM + 1, RO_PAGE, RAM + 3 };
	static uint8_t want[PAGE];

	memset(want, 0x5a, sizeof(want));
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(pages); i++) {
		if (set)
			memset(mem + pages[i] * PAGE, 0x5a, PAGE);
		else
			FZ_CHECK(memcmp(mem + pages[i] * PAGE, want, PAGE) == 0);
	}
}

static void map(uint64_t iova, uint32_t pages, uint32_t first, uint32_t prot)
{
	struct svio_vfu_dma_map req = { .argsz = sizeof(req), .flags = prot, .iova = iova, .size = (uint64_t)pages * PAGE,
					.offset = (uint64_t)first * PAGE };
	int fd = fcntl(file, F_DUPFD_CLOEXEC, 0);

	FZ_CHECK(svio__vd_dma_map(drv.k.dev, &req, &fd) == 0);
	if (fd >= 0)
		close(fd);
}

static void map_ram(void)
{
	map(RAM_IOVA, RAM, 1, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	drv.ram_mapped = true;
}

static void reg(uint32_t off, uint32_t v)
{
	v = htole32(v);
	svio__vd_region_write(drv.k.dev, DSA_BAR_REGS, off, (const uint8_t *)&v, 4);
}

static uint32_t reg_get(uint32_t off)
{
	uint32_t v = 0;

	svio__vd_region_read(drv.k.dev, DSA_BAR_REGS, off, (uint8_t *)&v, 4);
	return le32toh(v);
}

static void master(bool on)
{
	uint16_t cmd = htole16(PCI_COMMAND_MEMORY | (on ? PCI_COMMAND_MASTER : 0));

	svio__vd_cfg_write(drv.k.dev, PCI_COMMAND, (const uint8_t *)&cmd, 2);
}

/* Tables for the addresses 0 … RAM pages; the last four are not there. */
static void tables(void)
{
	uint64_t *pt = (uint64_t *)(void *)ram(3);

	for (uint32_t i = 0; i < 3; i++)
		*(uint64_t *)(void *)ram(i) = (RAM_IOVA + (i + 1) * PAGE) | 7;
	for (uint32_t i = 0; i < RAM - 4; i++)
		pt[i] = (RAM_IOVA + i * PAGE) | 7;
}

static void setup(bool bof)
{
	for (uint32_t i = 0; i < 2; i++) {
		reg(WQCFG + i * 32 + DSA_WQCFG_SIZE, 8 + i);
		reg(WQCFG + i * 32 + DSA_WQCFG_MODE, DSA_WQCFG_DEDICATED | DSA_WQCFG_PRIORITY(1 + i) |
						     (bof ? DSA_WQCFG_BLOCK_ON_FAULT : 0) |
						     (i ? DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(drv.pasid) : 0));
		reg(WQCFG + i * 32 + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(20) | DSA_WQCFG_MAX_BATCH(5));
	}
	reg(GRPCFG + DSA_GRPCFG_WQS, 3);
	reg(GRPCFG + DSA_GRPCFG_ENGINES, 3);
	reg(DSA_REG_CMD, DSA_CMD(DSA_CMD_ENABLE_DEVICE, 0));
	reg(DSA_REG_CMD, DSA_CMD(DSA_CMD_ENABLE_WQ, 0));
	reg(DSA_REG_CMD, DSA_CMD(DSA_CMD_ENABLE_WQ, 1));
	drv.slot[0] = drv.slot[1] = 0;
}

static void submit(unsigned int wq, const struct dsa_desc *d)
{
	uint8_t *slot = (uint8_t *)svio_vdev_bar_mem(drv.k.dev, DSA_BAR_PORTALS) + wq * DSA_PORTAL_STRIDE + drv.slot[wq] * 64;

	drv.slot[wq] = (drv.slot[wq] + 1) % DSA_PORTAL_SLOTS;
	memcpy(slot, d, sizeof(*d));
}

/* ---- steps ---------------------------------------------------------------------------------------------------------- */

static uint64_t address(struct fz_in *in)
{
	uint8_t kind = fz_u8(in);
	uint64_t page = fz_u8(in) % RAM, off = fz_u16(in) & (PAGE - 1);

	off &= kind & 0x40 ? ~UINT64_C(63) : ~UINT64_C(0); /* aligned, for records and lists */
	switch (kind & 7) {
	case 0:
		return RO_IOVA + off;
	case 1:
		return RAM_IOVA - PAGE + off; /* not mapped */
	case 2:
		return RAM_IOVA + RAM * PAGE + off;
	case 3:
		return fz_u64(in);
	case 4:
	case 5:
		return page * PAGE + off; /* by PASID */
	default:
		return RAM_IOVA + page * PAGE + off;
	}
}

static void descriptor(struct fz_in *in, struct dsa_desc *d)
{
	static const uint8_t op[] = { DSA_OP_NOOP, DSA_OP_BATCH, DSA_OP_DRAIN, DSA_OP_MEMMOVE, DSA_OP_FILL, DSA_OP_COMPARE,
				      DSA_OP_COMPARE_PATTERN, DSA_OP_DUALCAST, DSA_OP_CRC, DSA_OP_COPY_CRC };
	uint8_t how = fz_u8(in);
	uint32_t flags = fz_u8(in), size = fz_u16(in);

	memset(d, 0, sizeof(*d));
	flags = how & 0x10 ? flags | (uint32_t)fz_u16(in) << 8 : (flags & 0x92) | DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST;
	d->op_flags = svio_cpu_to_le32(DSA_DESC_OP((how & 15) < SVIO_ARRAY_SIZE(op) ? op[how & 15] : fz_u8(in), flags & 0xffffff));
	d->cr_addr = svio_cpu_to_le64(address(in));
	if ((how & 15) != 0 && (how & 15) != 2) {
		d->src = svio_cpu_to_le64(address(in));
		d->size = svio_cpu_to_le32(size << (how & 0x20 ? 4 : 0));
	}
	if ((how & 15) > 2 && (how & 15) != 8)
		d->dst = svio_cpu_to_le64(address(in));
	if ((how & 15) == 7 || (how & 0x40))
		d->dst2 = svio_cpu_to_le64((svio_le64_to_cpu(d->dst) & 0xfff) | (address(in) & ~UINT64_C(0xfff)));
	if ((how & 15) == 1)
		d->size = svio_cpu_to_le32(size & 31);
	if (how & 0x80)
		d->int_handle = svio_cpu_to_le16(fz_u16(in));
}

static void page_requests(struct fz_in *in)
{
	struct {
		struct svio_page_requests head;
		struct svio_page_request list[4];
	} q = { .head = { .count = 4 } };

	if (!fz_feature(&drv.k, SVIO_VFIO_FEATURE_PAGE_REQUESTS | SVIO_VFU_FEATURE_GET, &q, sizeof(q.head), sizeof(q)))
		return;
	FZ_CHECK(q.head.count <= 4);
	for (uint32_t i = 0; i < q.head.count; i++) {
		struct svio_page_respond r = { .pasid = q.list[i].pasid, .group = q.list[i].group, .code = fz_u8(in) % 2 };

		if (q.list[i].addr < RAM * PAGE && r.code == 0)
			((uint64_t *)(void *)ram(3))[q.list[i].addr / PAGE] = (RAM_IOVA + q.list[i].addr) | 7;
		FZ_CHECK(fz_feature(&drv.k, SVIO_VFIO_FEATURE_PAGE_RESPOND | SVIO_VFU_FEATURE_SET, &r, sizeof(r), sizeof(r)));
	}
}

/* Stop, save, load into itself what was saved, perhaps damaged; run on. */
static void migrate(struct fz_in *in)
{
	static uint8_t stream[1 << 20];
	struct svio_vdev *dev = drv.k.dev;
	bool damage = fz_u8(in) & 1;
	size_t len = 0, got;

	for (int i = 0; i < 1000 && svio__vd_mig_set(dev, SVIO_VFU_STATE_STOP_COPY) == -EINPROGRESS; i++)
		fz_kit_turn(&drv.k, 1);
	if (dev->mig.state != SVIO_VFU_STATE_STOP_COPY)
		return;
	do {
		FZ_CHECK(svio__vd_mig_read(dev, stream + len, sizeof(stream) - len, &got) == 0);
		len += got;
	} while (got);
	if (damage && len)
		stream[fz_u32(in) % len] ^= (uint8_t)(1 + fz_u8(in) % 255);
	FZ_CHECK(svio__vd_mig_set(dev, SVIO_VFU_STATE_RESUMING) == 0);
	if (svio__vd_mig_write(dev, stream, len) == 0 && svio__vd_mig_set(dev, SVIO_VFU_STATE_RUNNING) == 0)
		return;
	FZ_CHECK(damage);
	svio__vd_mig_set(dev, SVIO_VFU_STATE_RUNNING);
	FZ_CHECK(svio__vd_reset(dev, SVIO_VDEV_RESET_MESSAGE) == 0);
	drv.slot[0] = drv.slot[1] = 0;
	master(true);
	setup(true);
}

/* What the model's own load() refuses or survives, without the checksum of the stream before it. */
static void load_raw(struct fz_in *in)
{
	static uint8_t state[1 << 16];
	struct svio_vdev_buf buf = { .data = state, .room = sizeof(state), .max = sizeof(state) };
	struct svio_vdev *dev = drv.k.dev;
	unsigned int n = fz_u8(in) & 7;

	if (svio__vd_quiesce(dev, SVIO_VDEV_Q_STOP, 0, UINT64_MAX) == 0 && dev->model->save(dev, &buf) == 0) {
		for (unsigned int i = 0; i < n; i++) {
			uint16_t at = fz_u16(in);

			state[at % buf.len] = fz_u8(in);
		}
		dev->model->load(dev, 1, state, fz_u8(in) == 1 ? buf.len - 1 : buf.len);
	}
	dev->model->resume(dev);
}

static void no_master(void)
{
	static uint8_t before[FILE_PAGES * PAGE];

	master(false);
	memcpy(before, mem, sizeof(before));
	fz_kit_turn(&drv.k, 30);
	FZ_CHECK(memcmp(before, mem, sizeof(before)) == 0);
	master(true);
}

static void step(struct fz_in *in)
{
	uint8_t op = fz_u8(in);
	struct dsa_desc d;

	switch (op & 15) {
	case 0:
		reg((fz_u16(in) & 0xfff) & ~3u, fz_u32(in));
		break;
	case 1:
		fz_bytes(in, &d, sizeof(d));
		submit(op >> 4 & 1, &d);
		break;
	case 2: /* a place in memory that a batch may list */
		descriptor(in, &d);
		memcpy(ram(4 + fz_u8(in) % 4) + (fz_u8(in) & 63) * 64, &d, sizeof(d));
		break;
	case 3:
		fz_kit_turn(&drv.k, op >> 4);
		break;
	case 4:
		reg(DSA_REG_CMD, DSA_CMD(fz_u8(in) & 15, op & 16 ? fz_u32(in) : fz_u8(in) & 3));
		if (op & 32)
			setup(op & 64);
		break;
	case 5:
		no_master();
		break;
	case 6:
		if (drv.ram_mapped)
			drv.ram_mapped = svio__vd_dma_unmap(drv.k.dev, RAM_IOVA, RAM * PAGE) != 0;
		else
			map_ram();
		break;
	case 7:
		if (op & 16)
			FZ_CHECK(svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_FLR) == 0);
		tables();
		setup(op & 32);
		break;
	case 8:
		if (op & 16)
			migrate(in);
		else
			load_raw(in);
		break;
	case 9:
		page_requests(in);
		break;
	case 10:
		((uint64_t *)(void *)ram(fz_u8(in) & 3))[fz_u8(in)] = op & 16 ? fz_u64(in) : 0;
		break;
	default:
		descriptor(in, &d);
		submit(op >> 4 & 1, &d);
		fz_kit_turn(&drv.k, op >> 5);
	}
	if (drv.k.dev->mig.state == SVIO_VFU_STATE_ERROR)
		FZ_CHECK(svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_MESSAGE) == 0);
}

/* A device that has seen all that works after a reset. */
static void recovers(void)
{
	struct dsa_completion *cr = (void *)ram(10);
	struct dsa_desc d = {
		.op_flags = svio_cpu_to_le32(DSA_DESC_OP(DSA_OP_MEMMOVE, DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST)),
		.cr_addr = svio_cpu_to_le64(RAM_IOVA + 10 * PAGE),
		.src = svio_cpu_to_le64(RAM_IOVA + 11 * PAGE + 1),
		.dst = svio_cpu_to_le64(RAM_IOVA + 13 * PAGE + 7),
		.size = svio_cpu_to_le32(PAGE),
	};

	FZ_CHECK(svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_MESSAGE) == 0);
	master(true);
	if (!drv.ram_mapped)
		map_ram();
	setup(false);
	FZ_CHECK(reg_get(DSA_REG_GENSTS) == DSA_GENSTS_ENABLED);
	memset(cr, 0, sizeof(*cr));
	memset(ram(11), 0x77, 2 * PAGE);
	submit(0, &d);
	for (unsigned int i = 0; i < 100 && !cr->status; i++)
		fz_kit_turn(&drv.k, 1);
	FZ_CHECK(cr->status == DSA_ST_SUCCESS);
	FZ_CHECK(memcmp(ram(11) + 1, ram(13) + 7, PAGE) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svio_pgtable_bind b = { .format = SVIO_PGTABLE_X86_64_4, .addr_bits = 40, .root = RAM_IOVA };
	struct svio_vfu_dma_log_start log = { .page_size = PAGE };
	struct fz_in in = { data, size };
	uint8_t conf = fz_u8(&in);
	int before = fz_next_fd();
	unsigned int steps = 0;

	memset(&drv, 0, sizeof(drv));
	memset(mem, 0, FILE_PAGES * PAGE);
	canaries(true);
	fz_kit_open(&drv.k, conf & 1 ? "dsa,wqs=2,groups=2,engines=2,size=17,pages=2" : "dsa,wqs=3,groups=1,engines=2,pages=1,quota=1", 0);
	fz_kit_version(&drv.k, NULL);
	if (conf & 2)
		FZ_CHECK(svio__vd_dirty_start(drv.k.dev, &log) == 0);
	map_ram();
	map(RO_IOVA, 1, RO_PAGE, SVIO_VFU_DMA_F_READ);
	master(true);
	FZ_CHECK(fz_feature(&drv.k, SVIO_VFIO_FEATURE_PGTABLE_BIND | SVIO_VFU_FEATURE_SET, &b, sizeof(b), sizeof(b)));
	drv.pasid = b.pasid;
	tables();
	setup(conf & 4);
	while (in.left && !drv.k.over && steps++ < 128)
		step(&in);
	fz_kit_turn(&drv.k, 20);
	canaries(false);
	recovers();
	canaries(false);
	fz_kit_close(&drv.k);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
