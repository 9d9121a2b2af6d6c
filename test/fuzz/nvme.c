/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile driver of the NVMe model: registers, doorbells, queues, commands, and memory that changes under the device.
 *
 * Input: two configuration bytes (does the client share its memory, which faults are injected, is the controller started before),
 * then steps. Client memory is a file of which parts are mapped for the device: the target checks that nothing else is
 * written, nothing at all while bus mastering is off, and that messages ask for mapped memory only. Endless work
 * is found by libFuzzer's -timeout.
 */
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include "kit.h"
#include "nvme_spec.h"

#define PAGE	 4096u
#define RAM	 24u /* pages that the device may read and write */
#define RAM_IOVA UINT64_C(0x100000)
#define RO_IOVA	 UINT64_C(0x200000) /* one page that it may only read */
#define HIGH	 UINT64_C(0xfffffffffffff000) /* the last page of the address space */
/* The file: a canary, RAM, a canary, the read-only page, a canary, the high page. */
#define FILE_PAGES (RAM + 5)
#define RO_PAGE	   (RAM + 2)
#define HIGH_PAGE  (RAM + 4)
#define ENTRIES	   16u
#define QUEUES	   3u

static int file;
static uint8_t *mem;

static struct driver {
	struct fz_kit k;
	bool shared;	/* memory by descriptor, not by messages */
	bool ram_mapped, msix;
	uint32_t tail[QUEUES + 1];
	uint16_t cid;
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

/* ---- mapping, and messages for memory that is not shared ------------------------------------------------------ */

static void map(uint64_t iova, uint32_t pages, uint32_t first, uint32_t prot)
{
	struct svio_vfu_dma_map req = { .argsz = sizeof(req), .flags = prot, .iova = iova, .size = (uint64_t)pages * PAGE,
					.offset = drv.shared ? (uint64_t)first * PAGE : 0 };
	int fd = drv.shared ? fcntl(file, F_DUPFD_CLOEXEC, 0) : -1;

	FZ_CHECK(svio__vd_dma_map(drv.k.dev, &req, &fd) == 0);
	if (fd >= 0) /* the file was mapped already */
		close(fd);
}

static uint8_t *at_iova(uint64_t iova, uint64_t len, bool write)
{
	if (iova >= RAM_IOVA && iova - RAM_IOVA < RAM * PAGE && len <= RAM * PAGE - (iova - RAM_IOVA) && drv.ram_mapped)
		return ram(0) + (iova - RAM_IOVA);
	if (iova >= RO_IOVA && iova - RO_IOVA < PAGE && len <= PAGE - (iova - RO_IOVA) && !write)
		return mem + RO_PAGE * PAGE + (iova - RO_IOVA);
	if (iova >= HIGH && len - 1 <= UINT64_MAX - iova)
		return mem + HIGH_PAGE * PAGE + (iova - HIGH);
	return NULL;
}

/* Answer, or take and drop, what the device asks for. how: 0 honest, 1 refuse, 2 half of it, 3 nothing comes back. */
static bool serve(unsigned int how)
{
	struct svio_vfu_hdr h;
	struct svio_vfu_dma_rw rw;
	struct fz_msg m;
	static uint8_t reply[sizeof(h) + sizeof(rw) + VD_MAX_XFER];
	uint8_t *p;
	bool wr;

	if (!fz_recv(&drv.k, &m))
		return false;
	if ((m.hdr.flags & SVIO_VFU_TYPE_MASK) != SVIO_VFU_COMMAND)
		return true;
	wr = m.hdr.cmd == SVIO_VFU_DMA_WRITE;
	FZ_CHECK(wr || m.hdr.cmd == SVIO_VFU_DMA_READ);
	FZ_CHECK(m.len >= sizeof(rw));
	memcpy(&rw, m.data, sizeof(rw));
	FZ_CHECK(!drv.shared && rw.count && m.len == sizeof(rw) + (wr ? rw.count : 0));
	if (how == 3)
		return true;
	p = at_iova(rw.iova, rw.count, wr);
	FZ_CHECK(p); /* mapped, with that access */
	h = (struct svio_vfu_hdr){ .id = m.hdr.id, .cmd = m.hdr.cmd, .flags = SVIO_VFU_REPLY, .size = sizeof(h) };
	if (how == 1) {
		h.flags |= SVIO_VFU_ERROR;
		h.error = 5;
	} else {
		if (how == 2)
			rw.count = (rw.count + 1) / 2;
		if (wr)
			memcpy(p, m.data + sizeof(rw), rw.count);
		else
			memcpy(reply + sizeof(h) + sizeof(rw), p, rw.count);
		memcpy(reply + sizeof(h), &rw, sizeof(rw));
		h.size += (uint32_t)(sizeof(rw) + (wr ? 0 : rw.count));
	}
	memcpy(reply, &h, sizeof(h));
	fz_send(&drv.k, reply, h.size, NULL, 0);
	return true;
}

static void work(unsigned int rounds)
{
	for (unsigned int i = 0; i < rounds; i++) {
		fz_kit_turn(&drv.k, 1);
		if (!drv.shared) {
			bool any = false;

			while (serve(0))
				any = true;
			if (!any)
				break;
		}
	}
}

/* ---- the driver ----------------------------------------------------------------------------------------------- */

static void reg(uint64_t off, uint64_t v, unsigned int width)
{
	svio__vd_region_write(drv.k.dev, 0, off, (uint8_t *)&v, width);
}

static void ring(uint32_t qid, bool cq, uint32_t v)
{
	reg(cq ? NVME_DB_CQ(qid, 4) : NVME_DB_SQ(qid, 4), v, 4);
}

/* Queue q has its submission entries in RAM page 2q, its completions in page 2q + 1. */
static uint64_t sq_iova(uint32_t q)
{
	return RAM_IOVA + 2 * q * PAGE;
}

static void submit(uint32_t q, const struct nvme_cmd *cmd, bool now)
{
	memcpy(ram(2 * q) + drv.tail[q] * sizeof(*cmd), cmd, sizeof(*cmd));
	drv.tail[q] = (drv.tail[q] + 1) % ENTRIES;
	if (now)
		ring(q, false, drv.tail[q]);
}

static void enable(void)
{
	reg(NVME_REG_CC, 0, 4);
	memset(drv.tail, 0, sizeof(drv.tail));
	memset(ram(0), 0, 2 * PAGE);
	reg(NVME_REG_AQA, NVME_AQA(ENTRIES, ENTRIES), 4);
	reg(NVME_REG_ASQ, sq_iova(0), 8);
	reg(NVME_REG_ACQ, sq_iova(0) + PAGE, 8);
	reg(NVME_REG_CC, NVME_CC_EN | 6u << NVME_CC_IOSQES_SHIFT | 4u << NVME_CC_IOCQES_SHIFT, 4);
}

static void create_pair(uint32_t q, bool sq_only)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_CREATE_CQ, .cid = svio_cpu_to_le16(0x100),
				.prp1 = svio_cpu_to_le64(sq_iova(q) + PAGE),
				.cdw10 = svio_cpu_to_le32((ENTRIES - 1) << 16 | q),
				.cdw11 = svio_cpu_to_le32(3 | (drv.msix ? q << 16 : 0)) };

	if (!sq_only)
		submit(0, &cmd, true);
	cmd.cdw11 = svio_cpu_to_le32(1 | q << 16);
	cmd.opcode = NVME_ADM_CREATE_SQ;
	cmd.prp1 = svio_cpu_to_le64(sq_iova(q));
	submit(0, &cmd, true);
	drv.tail[q] = 0;
}

/* Addresses that say something. */
static uint64_t address(struct fz_in *in)
{
	uint8_t page = fz_u8(in), off = fz_u8(in);
	uint64_t base = RAM_IOVA + (uint64_t)page * PAGE;

	if (page >= 0xf8)
		base = page == 0xff ? UINT64_MAX - 0xfff : page == 0xfe ? RO_IOVA : page == 0xfd ? HIGH - PAGE : page == 0xfc ? 0 :
		       RAM_IOVA - PAGE;
	else if (page > RAM + 1)
		base = RAM_IOVA + (uint64_t)(page % RAM) * PAGE;
	return base + (off == 0xff ? 4088 : off == 0xfe ? 4095 : off == 0xfd ? 2 : off * 16u);
}

static void command(struct fz_in *in)
{
	uint8_t q = fz_u8(in), flags;
	struct nvme_cmd cmd = { 0 };

	cmd.opcode = fz_u8(in);
	flags = fz_u8(in);
	cmd.flags = flags & (NVME_CMD_PSDT_MASK | NVME_CMD_FUSE_MASK);
	cmd.cid = svio_cpu_to_le16(flags & 4 ? fz_u8(in) : drv.cid++);
	cmd.nsid = svio_cpu_to_le32(flags & 8 ? fz_u32(in) : (flags >> 4 & 1u) + 1);
	cmd.prp1 = svio_cpu_to_le64(address(in));
	if (flags & NVME_CMD_PSDT_MASK) {
		cmd.prp2 = svio_cpu_to_le64((uint64_t)fz_u16(in) << (flags & 32 ? 4 : 0) | (uint64_t)fz_u8(in) << 56);
	} else {
		cmd.prp2 = svio_cpu_to_le64(address(in));
	}
	cmd.cdw10 = svio_cpu_to_le32(fz_u32(in));
	cmd.cdw11 = svio_cpu_to_le32(fz_u16(in) | (flags & 32 ? (uint32_t)fz_u16(in) << 16 : 0));
	cmd.cdw12 = svio_cpu_to_le32(fz_u16(in) | (flags & 32 ? (uint32_t)fz_u16(in) << 16 : 0));
	submit((q & 0x7f) % (QUEUES + 1), &cmd, !(q & 0x80));
}

static void config16(uint32_t off, uint16_t v)
{
	svio__vd_region_write(drv.k.dev, SVIO_VFU_REGION_CONFIG, off, (uint8_t *)&v, 2);
	if (drv.k.dev->flr_due)
		while (svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_FLR) == -EINPROGRESS)
			work(1);
}

/* Without bus mastering there is no DMA. */
static void without_master(void)
{
	static uint8_t before[RAM * PAGE];

	if (!drv.shared) /* what was asked for before may still come */
		while (serve(3))
			;
	config16(PCI_COMMAND, PCI_COMMAND_MEMORY);
	memcpy(before, ram(0), sizeof(before));
	for (uint32_t q = 0; q <= QUEUES; q++)
		ring(q, false, (drv.tail[q] + 1) % ENTRIES);
	fz_kit_turn(&drv.k, 4);
	FZ_CHECK(memcmp(before, ram(0), sizeof(before)) == 0);
	config16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void remap(void)
{
	int err;

	if (drv.ram_mapped) {
		unsigned int tries = 0;

		do {
			err = svio__vd_dma_unmap(drv.k.dev, RAM_IOVA, (uint64_t)RAM * PAGE);
			if (err == -EINPROGRESS)
				work(1);
		} while (err == -EINPROGRESS && tries++ < 100);
		FZ_CHECK(err == 0);
		if (!drv.shared)
			while (serve(3))
				;
		drv.ram_mapped = false;
	} else {
		map(RAM_IOVA, RAM, 1, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
		drv.ram_mapped = true;
	}
}

static void step(struct fz_in *in)
{
	uint8_t op = fz_u8(in), n;
	uint32_t page, off;

	switch (op & 15) {
	case 0:
	case 1:
	case 2:
		command(in);
		break;
	case 3: { /* an entry as it comes */
		struct nvme_cmd cmd;

		fz_bytes(in, &cmd, sizeof(cmd));
		submit(op >> 4 & 3, &cmd, true);
		break;
	}
	case 4: /* bytes into memory */
		page = fz_u8(in) % RAM;
		off = fz_u8(in) * 16u;
		n = fz_u8(in);
		fz_bytes(in, ram(page) + off, SVIO_MIN((uint32_t)n, PAGE - off));
		break;
	case 5: { /* addresses into memory: PRP lists; with bit 4 SGL descriptors */
		uint64_t entry[2];

		page = fz_u8(in) % RAM;
		off = fz_u8(in) * 16u + (op & 32 ? 8 : 0);
		for (n = fz_u8(in) & 31; n && off + 16 <= PAGE; n--) {
			entry[0] = address(in);
			entry[1] = op & 16 ? fz_u16(in) | (uint64_t)fz_u8(in) << 56 : 0;
			memcpy(ram(page) + off, entry, op & 16 ? 16 : 8);
			off += op & 16 ? 16 : 8;
		}
		if (n && off == PAGE - 8) { /* the last entry of a page */
			entry[0] = address(in);
			memcpy(ram(page) + off, entry, 8);
		}
		break;
	}
	case 6: /* the host takes its completions */
		off = fz_u8(in) % (QUEUES + 1);
		ring(off, true, op & 16 ? fz_u16(in) : fz_u8(in) % ENTRIES);
		break;
	case 7:
		reg(fz_u8(in) & 0x7c, op & 16 ? fz_u64(in) : fz_u32(in), op & 16 ? 8 : 4);
		break;
	case 8:
		ring(fz_u8(in) % (QUEUES + 2), op & 16, op & 32 ? fz_u32(in) : fz_u8(in));
		break;
	case 9:
		if (op & 16)
			enable();
		else
			create_pair(1 + (op >> 5) % QUEUES, op & 0x80);
		break;
	case 10:
		remap();
		break;
	case 11:
		if (op & 16)
			without_master();
		else
			config16(op & 32 ? PCI_COMMAND : drv.k.dev->cap_pm + PCI_PM_CTRL,
				 op & 32 ? PCI_COMMAND_MASTER | (fz_u8(in) & PCI_COMMAND_MEMORY) : fz_u8(in) & 3);
		break;
	case 12:
		if (op & 16)
			config16(drv.k.dev->cap_pcie + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR);
		else
			while (svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_MESSAGE) == -EINPROGRESS)
				work(1);
		break;
	case 13: /* one answer, perhaps a wrong one */
		fz_kit_turn(&drv.k, 1);
		if (!drv.shared)
			serve(op >> 4 & 3);
		break;
	case 14: { /* stop and go */
		unsigned int tries = 0;

		while (svio__vd_mig_set(drv.k.dev, SVIO_VFU_STATE_STOP) == -EINPROGRESS && tries++ < 200)
			work(1);
		if (drv.k.dev->mig.state != SVIO_VFU_STATE_STOP)
			svio__vd_mig_abort(drv.k.dev);
		else if (op & 16)
			fz_kit_turn(&drv.k, 2);
		svio__vd_mig_set(drv.k.dev, SVIO_VFU_STATE_RUNNING);
		break;
	}
	default:
		work(1 + (op >> 4));
	}
}

/* ---- what must hold in the end ---------------------------------------------------------------------------- */

/* However it was treated: a controller that is disabled and enabled again does the first command that it is given. */
static void recovers(bool by_reset)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_IDENTIFY, .cid = svio_cpu_to_le16(0x7777), .cdw10 = svio_cpu_to_le32(NVME_CNS_CTRL),
				.prp1 = svio_cpu_to_le64(RAM_IOVA + 12 * PAGE) };
	struct nvme_cqe *cqe = (void *)ram(1);
	uint32_t csts = 0;

	config16(drv.k.dev->cap_pm + PCI_PM_CTRL, 0);
	config16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	if (!drv.ram_mapped)
		remap();
	if (by_reset)
		while (svio__vd_reset(drv.k.dev, SVIO_VDEV_RESET_MESSAGE) == -EINPROGRESS)
			work(1);
	reg(NVME_REG_CC, 0, 4);
	if (!drv.shared) /* what was asked for before belongs to nobody now */
		while (serve(3))
			;
	enable();
	svio__vd_region_read(drv.k.dev, 0, NVME_REG_CSTS, (uint8_t *)&csts, 4);
	FZ_CHECK((csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) == NVME_CSTS_RDY);
	submit(0, &cmd, true);
	for (unsigned int i = 0; i < 10000 && !(svio_le16_to_cpu(cqe->status) & NVME_CQE_PHASE); i++)
		work(4);
	FZ_CHECK(svio_le16_to_cpu(cqe->status) == NVME_CQE_PHASE && svio_le16_to_cpu(cqe->cid) == 0x7777 && svio_le16_to_cpu(cqe->sqid) == 0);
	FZ_CHECK(ram(12)[0] == 0x34 && ram(12)[1] == 0x12); /* the vendor */
}

/*
 * A queue pair that is deleted with a full completion queue and commands under way (fault 6 holds them all): what is left of them
 * must not be written into memory that is the host's again.
 */
static void delete_full(void)
{
	struct nvme_cmd cmd = { .opcode = NVME_IO_FLUSH, .nsid = svio_cpu_to_le32(1) };

	for (unsigned int i = 0; i < 2 * ENTRIES - 8; i++) { /* 24 commands for 15 places */
		submit(1, &cmd, true);
		work(2);
	}
	cmd.opcode = NVME_ADM_DELETE_SQ;
	cmd.cdw10 = svio_cpu_to_le32(1);
	submit(0, &cmd, true);
	work(4);
	cmd.opcode = NVME_ADM_DELETE_CQ;
	submit(0, &cmd, true);
	work(4);
	FZ_CHECK(svio_le16_to_cpu(((struct nvme_cqe *)(void *)ram(1))[3].status) == NVME_CQE_PHASE); /* deleted */
	memset(ram(3), 0xcc, PAGE);
	ring(1, true, 8);
	work(4);
	for (uint32_t i = 0; i < PAGE; i++)
		FZ_CHECK(ram(3)[i] == 0xcc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const faults[] = { "",
					      ",inject=io:drop:every=3",
					      ",inject=admin:stall=1:every=2",
					      ",inject=read:sc=0x281:every=2+io:noirq",
					      ",inject=write:stall=1+flush:drop+io.0x08:sc=0x2",
					      ",inject=admin.0x05:sc=0x102:skip=1+io:stall=1",
					      ",inject=io:drop",
					      ",inject=admin.0x06:drop:times=1" };
	struct fz_in in = { data, size };
	uint8_t conf = fz_u8(&in), how = fz_u8(&in);
	int before = fz_next_fd();
	unsigned int steps = 0;
	char spec[160];

	memset(&drv, 0, sizeof(drv));
	memset(mem, 0, FILE_PAGES * PAGE);
	canaries(true);
	snprintf(spec, sizeof(spec), "nvme,queues=%u,entries=%u,size=%s,namespaces=2,lba=%u%s%s", QUEUES, ENTRIES,
		 how & 16 ? "2M" : "64K", how & 32 ? 4096 : 512, conf & 2 ? ",dbbuf" : "", faults[how & 7]);
	drv.shared = conf & 1;
	drv.msix = conf & 8;
	fz_kit_open(&drv.k, spec, 0);
	fz_kit_version(&drv.k, NULL);
	if (conf & 4) {
		struct svio_vfu_dma_log_start log = { .page_size = PAGE };

		FZ_CHECK(svio__vd_dirty_start(drv.k.dev, &log) == 0);
	}
	map(RAM_IOVA, RAM, 1, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	drv.ram_mapped = true;
	map(RO_IOVA, 1, RO_PAGE, SVIO_VFU_DMA_F_READ);
	map(HIGH, 1, HIGH_PAGE, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	config16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	if (conf & 24) { /* interrupts without eventfds stay pending */
		struct svio_vfu_irq_set set = { .argsz = sizeof(set), .count = 1,
						.index = conf & 8 ? SVIO_VFU_IRQ_MSIX : SVIO_VFU_IRQ_MSI,
						.flags = SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER };

		FZ_CHECK(svio__vd_irq_set(drv.k.dev, &set, NULL, NULL, 0) == 0);
	}
	if (!(conf & 0x80)) {
		enable();
		create_pair(1, false);
		work(8);
	}
	while (in.left && !drv.k.over && steps++ < 128) {
		step(&in);
		if (drv.shared && in.left == 0)
			fz_kit_turn(&drv.k, 1);
	}
	work(4);
	if (!drv.k.over && (how & 7) != 7) { /* fault 7 eats the first Identify */
		recovers(how & 64);
		if ((how & 7) == 6 && !drv.k.over) {
			create_pair(1, false);
			work(8);
			delete_full();
		}
	}
	canaries(false);
	fz_kit_close(&drv.k);
	canaries(false);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
