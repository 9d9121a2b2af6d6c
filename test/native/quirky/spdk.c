/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ways of SPDK's client: VERSION without JSON, all messages with id 0, GET_REGION_INFO of 4,064 bytes, memory from files that are
 * not sealed, DMA_UNMAP with a descriptor, doorbells mapped at BAR0 + 0x1000, no interrupts. Its own library cannot
 * answer DMA messages; we do when `shared` is false.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "cases.h"

#define PIECES	   4u
#define PIECE	   (2u << 20) /* SPDK maps its hugepages one by one */
#define IOVA	   UINT64_C(0x200000000000)
#define SPDK_ARGSZ 4064u
#define QUEUES	   4u
#define ENTRIES	   32u

int ram_fd(uint64_t len, unsigned int seals, void **p)
{
	int fd = memfd_create(RAM_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	qk_need(fd >= 0 && ftruncate(fd, (off_t)len) == 0 && (!seals || fcntl(fd, F_ADD_SEALS, seals) == 0), "a file for memory");
	*p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	qk_need(*p != MAP_FAILED, "memory");
	return fd;
}

bool let_go(const struct qk *k)
{
	uint64_t since = qk_now();

	while (qk_server_maps(k, RAM_NAME)) {
		if (qk_late(since))
			return false;
		sched_yield();
	}
	return true;
}

int doorbell_area(struct qk *k, uint64_t *off)
{
	struct svio_vfu_region_info info;
	struct svio_vfu_cap_sparse cap;
	struct svio_vfu_sparse_area area;
	int fd;

	qk_need(qk_region_info(k, SVIO_VFU_REGION_BAR0, SPDK_ARGSZ, SPDK_ARGSZ, &info, &fd) == 0, "BAR0");
	if (fd < 0) {
		qk_need(!(info.flags & (SVIO_VFU_REGION_F_MMAP | SVIO_VFU_REGION_F_CAPS)), "no descriptor, no promise");
		return -1;
	}
	qk_need(info.flags & SVIO_VFU_REGION_F_CAPS && info.flags & SVIO_VFU_REGION_F_MMAP && info.cap_offset + sizeof(cap) + sizeof(area) <= k->len,
		"an area is described");
	memcpy(&cap, k->data + info.cap_offset, sizeof(cap));
	memcpy(&area, k->data + info.cap_offset + sizeof(cap), sizeof(area));
	qk_need(cap.hdr.id == SVIO_VFU_CAP_SPARSE_MMAP && cap.hdr.version == 1 && cap.hdr.next == 0 && cap.num_areas == 1, "one area");
	qk_need(area.offset == NVME_REG_DBS && area.size == QN_PAGE, "it is the doorbells: %#llx + %#llx", (unsigned long long)area.offset,
		(unsigned long long)area.size);
	*off = info.offset + area.offset;
	return fd;
}

static void describe(struct qk *k, const char *who, int *bar_fd, uint64_t *bar_off)
{
	struct svio_vfu_device_info dev = { .argsz = sizeof(dev) };
	struct svio_vfu_region_info info;
	bool good = true;
	int fd;

	qk_check(qk_version(k, 1, NULL) == 0 && k->len == sizeof(struct svio_vfu_version) && k->nfds == 0 &&
		 ((struct svio_vfu_version *)(void *)k->data)->major == 0 && ((struct svio_vfu_version *)(void *)k->data)->minor <= 1,
		 "%s: VERSION without JSON is answered without, by 0.0 or 0.1", who);
	qk_need(qk_call(k, SVIO_VFU_GET_INFO, &dev, sizeof(dev), NULL, 0) == 0 && k->len == sizeof(dev), "device info");
	memcpy(&dev, k->data, sizeof(dev));
	qk_need(dev.flags & SVIO_VFU_DEV_F_PCI && dev.num_regions >= 8, "a PCI device");
	*bar_fd = doorbell_area(k, bar_off);
	for (uint32_t i = 1; i < dev.num_regions; i++) {
		good &= qk_region_info(k, i, SPDK_ARGSZ, SPDK_ARGSZ, &info, &fd) == 0 && fd < 0 && info.index == i;
		good &= i != SVIO_VFU_REGION_CONFIG || info.size >= 256;
	}
	qk_check(good && *bar_fd >= 0, "%s: GET_REGION_INFO of 4,064 bytes: BAR0 has one area, 0x1000 + 0x1000, and one descriptor", who);
}

static void map_all(struct qk *k, int fd, bool map)
{
	for (uint32_t i = 0; i < PIECES; i++) {
		int err = map ? qk_map(k, IOVA + i * PIECE, PIECE, fd >= 0 ? i * PIECE : 0, QK_MAP_RW, fd) :
				qk_unmap(k, IOVA + i * PIECE, PIECE, fd);

		qk_need(err == 0, "memory is %smapped: %d", map ? "" : "un", err);
	}
}

static const char *drive(struct qn *n, unsigned int queues)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_SET_FEATURES, .cdw10 = svio_cpu_to_le32(NVME_FEAT_NUM_QUEUES),
				.cdw11 = svio_cpu_to_le32((queues - 1) << 16 | (queues - 1)) };
	const char *bad;
	uint64_t before;
	uint32_t dw0;

	if (!qn_enable(n))
		return "the controller is not enabled";
	qn_identify(n);
	if (n->id.mn[0] == '\0' || !n->blocks || n->block != 512)
		return "identify data make no sense";
	if (qn_admin(n, &cmd, &dw0) || (dw0 & 0xffff) < queues - 1 || dw0 >> 16 < queues - 1)
		return "queues are not granted";
	for (unsigned int i = 0; i < queues; i++)
		qn_create(n, i, ENTRIES, ENTRIES, 0);
	before = n->k->requests;
	bad = qn_work(n, queues, ENTRIES - 1);
	if (!bad && n->dbs && n->k->requests != before)
		return "the doorbells are mapped, and yet there were messages";
	return bad;
}

void case_spdk(const char *path, bool split, bool shared)
{
	unsigned int fds;
	uint64_t bar_off = 0;
	const char *bad;
	int bar_fd, fd;
	char who[96];
	struct qn n;
	struct qk k;
	void *mem;

	snprintf(who, sizeof(who), "SPDK's ways%s%s", split ? ", header and payload apart" : "", shared ? "" : ", DMA by messages");
	qk_connect(&k, path);
	k.no_ids = true;
	k.split = split;
	describe(&k, who, &bar_fd, &bar_off);
	/* Bus master, and no INTx. */
	qk_config_set(&k, PCI_COMMAND, 2, qk_config(&k, PCI_COMMAND, 2) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);

	fd = ram_fd((uint64_t)PIECES * PIECE, 0, &mem);
	fds = qk_server_fds(&k);
	if (!shared)
		k.ram[k.nram++] = (struct qk_ram){ IOVA, (uint64_t)PIECES * PIECE, mem };
	map_all(&k, shared ? fd : -1, true);
	qn_init(&n, &k, mem, IOVA, (uint64_t)PIECES * PIECE, bar_fd, bar_off);
	close(bar_fd); /* the mapping holds it */
	bad = drive(&n, QUEUES);
	qk_check(!bad, "%s: identify, %u queues without interrupts, 512 bytes to 1 MiB written, read and compared%s%s", who, QUEUES,
		 bad ? ": " : "", bad ? bad : "");
	qk_check(shared ? k.dma_reads + k.dma_writes == 0 && qk_server_maps(&k, RAM_NAME) > 0 :
			  k.dma_reads > 1000 && k.dma_writes > 1000 && qk_server_maps(&k, RAM_NAME) == 0,
		 "%s: the device reached the memory %s", who, shared ? "through its file" : "by DMA_READ and DMA_WRITE alone");

	qn_disable(&n);
	map_all(&k, fd, false);
	qk_check(qk_server_has_fds(&k, fds) && qk_server_maps(&k, RAM_NAME) == 0,
		 "%s: DMA_UNMAP with a descriptor: neither it nor the memory is kept", who);
	map_all(&k, shared ? fd : -1, true);
	bad = drive(&n, 1);
	qk_check(!bad, "%s: mapped again, and enabled again%s%s", who, bad ? ": " : "", bad ? bad : "");
	/* Off and away, with all of it mapped and a queue full of work. */
	for (unsigned int i = 0; i < ENTRIES - 1; i++) {
		struct nvme_cmd cmd;

		qn_rw_cmd(&n, &cmd, false, i, n.iova, 4096, NULL, 0);
		qn_submit(&n.io[0], &cmd);
	}
	qn_ring(&n, &n.io[0]);
	qn_fini(&n);
	qk_close(&k);
	qk_check(let_go(&k), "%s: gone without a word, the server lets go of the memory", who);
	munmap(mem, (uint64_t)PIECES * PIECE);
	close(fd);
}

/* A file behind the namespace: a write with Force Unit Access is on it when it completes, a write without is not asked for. */
void case_fua(const char *path)
{
	const char *calls = getenv("SVIO_SLOW_SYNC");
	struct nvme_cmd cmd;
	uint64_t iova;
	struct stat st;
	struct qk k;
	struct qn n;
	void *mem;
	int fd;

	qk_connect(&k, path);
	qk_need(calls && qk_version(&k, 1, NULL) == 0, "VERSION, and where calls of fdatasync() are counted");
	qk_config_set(&k, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	fd = ram_fd(PIECE, 0, &mem);
	qk_need(qk_map(&k, IOVA, PIECE, 0, QK_MAP_RW, fd) == 0, "memory is mapped");
	qn_init(&n, &k, mem, IOVA, PIECE, -1, 0);
	qk_need(qn_enable(&n), "the controller is enabled");
	qn_identify(&n);
	qk_check(n.id.vwc & NVME_VWC_PRESENT, "a namespace in a file has a volatile cache");
	qn_create(&n, 0, ENTRIES, ENTRIES, 0);
	qn_alloc(&n, QN_PAGE, &iova);
	for (int fua = 0; fua < 2; fua++) {
		qn_rw_cmd(&n, &cmd, true, 5, iova, 512, NULL, 0);
		if (fua)
			cmd.cdw12 = svio_cpu_to_le32(svio_le32_to_cpu(cmd.cdw12) | NVME_RW_FUA);
		qn_submit(&n.io[0], &cmd);
		qn_ring(&n, &n.io[0]);
		qk_need(!(svio_le16_to_cpu(qn_wait(&n, &n.io[0]).status) & (uint16_t)~NVME_CQE_PHASE), "a write completes well");
		qk_check((stat(calls, &st) == 0) == fua, fua ? "a write with FUA is flushed when it completes" : "a write without is not");
	}
	qn_disable(&n);
	qk_close(&k);
	munmap(mem, PIECE);
	close(fd);
}
