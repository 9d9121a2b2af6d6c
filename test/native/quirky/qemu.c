/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The ways of QEMU's vfio-user-pci, from VERSION to power-off: a reply no longer than its request, maps in a row without waiting and
 * without descriptors, region info in two steps, configuration space read whole, BARs sized and cleared, interrupts
 * armed one by one, posted writes where nothing is mapped, and with a virtual IOMMU a mapping for every page and unmaps of everything
 * at once. What QEMU itself does with our models is test/interop/t_qemu.sh.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "cases.h"

#define VERSION_BYTES 214u
#define RAM_IOVA      UINT64_C(0x100000)
#define RAM_BYTES     (16u << 20)
#define ROM_IOVA      UINT64_C(0xc0000)
#define ROM_BYTES     (128u << 10)
#define BAR_PAGE_IOVA UINT64_C(0xfebf1000)
#define QUEUES	      4u
#define ENTRIES	      32u

#define TRIGGER_FD   (SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER)
#define TRIGGER_NONE (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_TRIGGER)
#define MASK_NONE    (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_MASK)
#define UNMASK_NONE  (SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_UNMASK)
#define UNMASK_FD    (SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_UNMASK)

static const char proposal[] =
	"{\"capabilities\": {\"pgsizes\": 4096, \"max_msg_fds\": 16, \"max_dma_maps\": 65535, \"max_data_xfer_size\": 1048576, "
	"\"migration\": {\"max_bitmap_size\": 268435456, \"pgsize\": 4096}, \"write_multiple\": true}}";
_Static_assert(sizeof(struct svio_vfu_hdr) + sizeof(struct svio_vfu_version) + sizeof(proposal) == VERSION_BYTES, "as it was measured");

static int event_fd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC); /* blocking, as QEMU's may be */

	qk_need(fd >= 0, "an eventfd");
	return fd;
}

/* ---- the start ----------------------------------------------------------------------------------------- */

/* A limit in the reply; `absent` when it is not there. */
static long long number(const char *json, const char *key, long long absent)
{
	char quoted[64];
	const char *at;
	long long v;

	snprintf(quoted, sizeof(quoted), "\"%s\"", key);
	at = strstr(json, quoted);
	return at && sscanf(at + strlen(quoted), " : %lld", &v) == 1 ? v : absent;
}

/* Every key of the reply is one that we proposed. */
static bool subset(const char *json)
{
	const char *at = json;

	while ((at = strchr(at, '"')) != NULL) {
		const char *end = strchr(at + 1, '"');
		char key[64];

		if (!end || (size_t)(end - at) + 2 > sizeof(key))
			return false;
		memcpy(key, at, (size_t)(end - at) + 1);
		key[end - at + 1] = '\0';
		if (!strstr(proposal, key))
			return false;
		at = end + 1;
	}
	return true;
}

static void version(struct qk *k, const char *who)
{
	struct svio_vfu_version v;
	const char *json = "{}";
	int err = qk_version(k, 0, proposal);

	qk_need(err == 0 && k->len >= sizeof(v), "VERSION: %d", err);
	memcpy(&v, k->data, sizeof(v));
	if (k->len > sizeof(v)) {
		json = (const char *)k->data + sizeof(v);
		qk_need(k->data[k->len - 1] == '\0', "the text ends with a NUL");
	}
	qk_check(k->hdr.size <= VERSION_BYTES && v.major == 0 && v.minor == 0, "%s: VERSION 0.0: the reply is 0.0, and its %u bytes fit in 214", who,
		 k->hdr.size);
	qk_check(subset(json) && !strstr(json, "write_multiple") && number(json, "max_msg_fds", 1) <= 16 && number(json, "max_data_xfer_size", 1) <= 64 << 20 &&
		 number(json, "pgsizes", 4096) % 4096 == 0 && number(json, "max_dma_maps", 1) <= 65535,
		 "%s: its capabilities are among those proposed, within QEMU's limits, and without write_multiple", who);
}

static void maps_in_a_row(struct qk *k, const char *who, int fd)
{
	struct svio_vfu_dma_map m[3] = {
		{ .argsz = sizeof(m[0]), .flags = QK_MAP_RW, .iova = RAM_IOVA, .size = RAM_BYTES },
		{ .argsz = sizeof(m[0]), .flags = SVIO_VFU_DMA_F_READ, .iova = ROM_IOVA, .size = ROM_BYTES },
		{ .argsz = sizeof(m[0]), .flags = QK_MAP_RW, .iova = BAR_PAGE_IOVA, .size = QN_PAGE },
	};
	uint16_t id[3];
	bool good = true;

	for (unsigned int i = 0; i < 3; i++)
		id[i] = qk_send(k, SVIO_VFU_DMA_MAP, 0, &m[i], sizeof(m[i]), &fd, i == 0 && fd >= 0);
	for (unsigned int i = 0; i < 3; i++)
		good &= qk_reply(k, id[i], SVIO_VFU_DMA_MAP) == 0;
	qk_check(good, "%s: three maps in a row, of RAM, a ROM and the device's own BAR, are answered in order", who);
}

static bool two_steps(struct qk *k, uint32_t index, struct svio_vfu_region_info *info)
{
	struct svio_vfu_region_info first;
	int fd;

	qk_need(qk_region_info(k, index, sizeof(first), sizeof(first), &first, &fd) == 0, "region %u", index);
	*info = first;
	if (first.argsz <= sizeof(first))
		return fd < 0;
	if (fd >= 0 || k->len != sizeof(first) || first.flags & SVIO_VFU_REGION_F_CAPS)
		return false;
	qk_need(qk_region_info(k, index, sizeof(first), first.argsz, info, &fd) == 0, "region %u again", index);
	if (fd >= 0)
		close(fd);
	return fd >= 0 && info->flags & SVIO_VFU_REGION_F_CAPS && info->size == first.size && k->len == first.argsz;
}

/* BARs: what their registers say, when they are sized, and when they are cleared. */
static bool bars_hold(struct qk *k, const struct svio_vfu_region_info *regions)
{
	for (uint32_t i = 0; i < 6; i++) {
		uint64_t at = PCI_BASE_ADDRESS_0 + 4 * i, size = regions[i].size, mask;
		uint32_t was = qk_config(k, at, 4), type = was & 0xf, low, high = UINT32_MAX;

		if (!size)
			continue;
		if (size & (size - 1))
			return false;
		qk_config_set(k, at, 4, UINT32_MAX);
		low = qk_config(k, at, 4);
		if (type & PCI_BASE_ADDRESS_MEM_TYPE_64) {
			qk_config_set(k, at + 4, 4, UINT32_MAX);
			high = qk_config(k, at + 4, 4);
		}
		mask = (uint64_t)high << 32 | (low & ~0xfu);
		if ((low & 0xf) != type || ~mask + 1 != size)
			return false;
		qk_config_set(k, at, 4, 0);
		if (qk_config(k, at, 4) != type)
			return false;
		if (type & PCI_BASE_ADDRESS_MEM_TYPE_64) {
			qk_config_set(k, at + 4, 4, 0);
			i++;
		}
	}
	return true;
}

/* The MSI-X structures lie in BARs that there are; vectors, or 0. */
static uint32_t msix(struct qk *k, const struct svio_vfu_region_info *regions, uint32_t *cap)
{
	uint32_t table, pba, vectors;

	*cap = qk_capability(k, PCI_CAP_ID_MSIX);
	if (!*cap)
		return 0;
	vectors = (qk_config(k, *cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1;
	table = qk_config(k, *cap + PCI_MSIX_TABLE, 4);
	pba = qk_config(k, *cap + PCI_MSIX_PBA, 4);
	if ((table & 7) > 5 || (pba & 7) > 5 || (table & ~7u) + vectors * 16 > regions[table & 7].size ||
	    (pba & ~7u) + (vectors + 63) / 64 * 8 > regions[pba & 7].size)
		return 0;
	return vectors;
}

static uint32_t realize(struct qk *k, const char *who, int fd, uint32_t *msix_cap)
{
	struct svio_vfu_device_info dev = { .argsz = sizeof(dev) };
	struct svio_vfu_region_info regions[9];
	struct svio_vfu_irq_info irq;
	uint8_t config[4096];
	bool good = true;
	uint32_t vectors;

	version(k, who);
	maps_in_a_row(k, who, fd);
	qk_need(qk_call(k, SVIO_VFU_GET_INFO, &dev, sizeof(dev), NULL, 0) == 0 && k->len == sizeof(dev), "device info");
	memcpy(&dev, k->data, sizeof(dev));
	qk_check(dev.flags & SVIO_VFU_DEV_F_PCI && dev.num_regions >= 8 && dev.num_irqs >= 3, "%s: a PCI device, 8 regions and 3 interrupts at least",
		 who);
	memset(regions, 0, sizeof(regions));
	for (uint32_t i = 0; i <= 7; i++)
		if (i != SVIO_VFU_REGION_ROM)
			good &= two_steps(k, i, &regions[i]);
	qk_check(good, "%s: region info with argsz 32 is the structure alone, and tells what to ask for", who);
	good = qk_irq_info(k, SVIO_VFU_IRQ_ERR, &irq) == 0;
	qk_check(good && (regions[7].size == 256 || regions[7].size == 4096) &&
		 qk_read(k, SVIO_VFU_REGION_CONFIG, 0, config, (uint32_t)regions[7].size) == 0 && config[PCI_INTERRUPT_PIN] <= 4,
		 "%s: configuration space is 256 or 4096 bytes, and is read in one piece", who);
	qk_config_set(k, PCI_ROM_ADDRESS, 4, PCI_ROM_ADDRESS_MASK);
	good = qk_config(k, PCI_ROM_ADDRESS, 4) == 0;
	qk_check(good && bars_hold(k, regions), "%s: BARs are powers of two, say so when they are sized, and keep their type bits", who);
	vectors = msix(k, regions, msix_cap);
	qk_check(vectors && qk_irq_info(k, SVIO_VFU_IRQ_MSIX, &irq) == 0 && irq.count == vectors && irq.flags & SVIO_VFU_IRQ_F_EVENTFD,
		 "%s: MSI-X: table and pending bits in declared BARs, %u vectors by both accounts", who, vectors);
	return vectors;
}

/* PAM registers move pieces of memory in and out: 32 maps and 23 unmaps in a boot. */
static void churn(struct qk *k, const char *who, int fd)
{
	const uint64_t base = UINT64_C(0x40000000), piece = 16u << 10;
	bool good = true;

	for (uint32_t i = 0; i < 29; i++)
		good &= qk_map(k, base + i * piece, piece, fd >= 0 ? i * piece : 0, i & 1 ? QK_MAP_RW : SVIO_VFU_DMA_F_READ, i & 2 ? fd : -1) == 0;
	for (uint32_t i = 0; i < 23; i++)
		good &= qk_unmap(k, base + (i * 5 % 29) * piece, piece, -1) == 0;
	good &= qk_unmap(k, base, 29 * piece, -1) == 0; /* what is left of them */
	qk_check(good, "%s: maps and unmaps as at boot", who);
}

/* ---- interrupts ------------------------------------------------------------------------------------------ */

/* Wait until it is signalled, serving DMA messages. */
static bool signalled(struct qk *k, int efd)
{
	uint64_t since = qk_now(), count;

	for (;;) {
		struct pollfd p[2] = { { .fd = efd, .events = POLLIN }, { .fd = k->sock, .events = POLLIN } };

		if (poll(p, 2, 1000) > 0 && p[0].revents)
			return read(efd, &count, sizeof(count)) == sizeof(count);
		if (p[1].revents)
			qk_serve(k, 0);
		if (qk_late(since))
			return false;
	}
}

static void submit_admin(struct qn *n)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_GET_FEATURES, .cdw10 = svio_cpu_to_le32(NVME_FEAT_TEMPERATURE) };

	qn_submit(&n->admin, &cmd);
	qn_ring(n, &n->admin);
}

/* The pin, with QEMU's end of interrupt after the handler's last access, and with KVM's unmask by eventfd. */
static void intx(struct qn *n, const char *who)
{
	int pin = event_fd(), resample = event_fd(), err_fd = event_fd();
	const uint64_t one = 1;
	struct qk *k = n->k;
	bool good;

	good = qk_irqs(k, TRIGGER_FD, SVIO_VFU_IRQ_INTX, 0, 1, &pin, 1) == 0;
	good &= qk_irqs(k, TRIGGER_FD, SVIO_VFU_IRQ_ERR, 0, 1, &err_fd, 1) == 0;
	qk_need(good && qn_enable(n), "the controller is enabled with INTx");
	for (unsigned int i = 0; i < 20 && good; i++) {
		submit_admin(n);
		good &= signalled(k, pin);
		qn_wait(n, &n->admin);
		good &= qk_irqs(k, UNMASK_NONE, SVIO_VFU_IRQ_INTX, 0, 1, NULL, 0) == 0;
	}
	qk_check(good, "%s: INTx: a signal, the handler, NONE|UNMASK, and the next signal, 20 times", who);
	good = qk_irqs(k, MASK_NONE, SVIO_VFU_IRQ_INTX, 0, 1, NULL, 0) == 0 && qk_irqs(k, UNMASK_NONE, SVIO_VFU_IRQ_INTX, 0, 1, NULL, 0) == 0 &&
	       qk_irqs(k, UNMASK_FD, SVIO_VFU_IRQ_INTX, 0, 1, &resample, 1) == 0;
	submit_admin(n);
	good &= signalled(k, pin);
	/* The handler has not looked: the pin is still up when the unmask comes, by eventfd. */
	good &= write(resample, &one, sizeof(one)) == sizeof(one) && signalled(k, pin);
	qn_wait(n, &n->admin);
	good &= write(resample, &one, sizeof(one)) == sizeof(one);
	submit_admin(n);
	good &= signalled(k, pin);
	qn_wait(n, &n->admin);
	qk_check(good, "%s: INTx: MASK, UNMASK and an unmask eventfd; the pin is signalled again while it is up", who);
	good = qk_irqs(k, TRIGGER_NONE, SVIO_VFU_IRQ_INTX, 0, 0, NULL, 0) == 0;
	qn_disable(n);
	qk_need(good, "INTx is switched off");
	close(pin);
	close(resample);
	close(err_fd);
}

static void arm_msix(struct qn *n, const char *who, uint32_t cap, int *vec, unsigned int count)
{
	bool good = qk_irqs(n->k, TRIGGER_FD, SVIO_VFU_IRQ_MSIX, 0, 1, NULL, 0) == 0;
	int dev_null = open("/dev/null", O_RDWR | O_CLOEXEC), err;

	qk_config_set(n->k, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int i = 0; i < count; i++) {
		vec[i] = event_fd();
		good &= qk_irqs(n->k, TRIGGER_FD, SVIO_VFU_IRQ_MSIX, i, 1, &vec[i], 1) == 0;
	}
	qk_check(good, "%s: MSI-X: switched on without a descriptor, then armed vector by vector", who);
	err = qk_irqs(n->k, TRIGGER_FD, SVIO_VFU_IRQ_MSIX, count, 1, &dev_null, 1);
	qk_check(err < 0, "%s: what is no eventfd is refused", who);
	close(dev_null);
}

static bool interrupts_come(struct qn *n, const int *vec)
{
	uint64_t iova, full = UINT64_MAX - 1;
	uint8_t *page = qn_alloc(n, QN_PAGE, &iova);
	bool good = true;

	(void)page;
	for (unsigned int i = 0; i < 3 * QUEUES && good; i++) {
		struct qn_queue *q = &n->io[i % QUEUES];
		struct nvme_cmd cmd;

		/* The last round finds them full: nobody reads, and nobody must wait for it. */
		if (i >= 2 * QUEUES)
			good &= write(vec[q->vector], &full, sizeof(full)) == sizeof(full);
		qn_rw_cmd(n, &cmd, false, i, iova, 512, NULL, 0);
		qn_submit(q, &cmd);
		qn_ring(n, q);
		if (i < 2 * QUEUES)
			good &= signalled(n->k, vec[q->vector]) && qn_ready(q, 0);
		qn_wait(n, q);
	}
	return good;
}

/* ---- while DMA is under way ---------------------------------------------------------------------------- */

/* QEMU serves DMA messages under the lock that it holds while it waits for our replies: a server that waits for memory must answer. */
static void deadlock(struct qn *n, const char *who)
{
	uint64_t iova, since = qk_now();
	uint8_t *page = qn_alloc(n, QN_PAGE, &iova);
	struct nvme_cmd cmd;
	struct nvme_cqe cqe;
	bool good;

	n->k->hold = true;
	memset(page, 0x77, QN_PAGE);
	qn_rw_cmd(n, &cmd, true, 9, iova, 4096, NULL, 0);
	qn_submit(&n->io[0], &cmd);
	qn_ring(n, &n->io[0]);
	while (!n->k->nheld && !qk_late(since))
		qk_serve(n->k, 100);
	good = n->k->nheld > 0 && qn_reg(n, NVME_REG_VS) == NVME_VS(1, 4, 0) && qk_config(n->k, PCI_VENDOR_ID, 2) != 0 &&
	       qk_irqs(n->k, UNMASK_NONE, SVIO_VFU_IRQ_INTX, 0, 1, NULL, 0) == 0 && n->k->nheld > 0;
	qk_release(n->k);
	cqe = qn_wait(n, &n->io[0]);
	qk_check(good && !(svio_le16_to_cpu(cqe.status) & ~NVME_CQE_PHASE), "%s: requests are answered while a DMA message is not", who);
}

/* ---- cases --------------------------------------------------------------------------------------------- */

void case_qemu(const char *path, bool shared)
{
	int fd, bar_fd, vec[QUEUES + 1];
	uint32_t cap, vectors;
	uint64_t bar_off = 0;
	const char *bad;
	char who[96];
	struct qn n;
	struct qk k;
	void *mem;

	qk_connect(&k, path);
	snprintf(who, sizeof(who), "QEMU's ways, %s", shared ? "memory shared" : "no memory shared");
	fd = ram_fd(RAM_BYTES, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW, &mem);
	if (!shared)
		k.ram[k.nram++] = (struct qk_ram){ RAM_IOVA, RAM_BYTES, mem };
	vectors = realize(&k, who, shared ? fd : -1, &cap);
	qk_need(vectors > QUEUES && qk_call(&k, SVIO_VFU_DEVICE_RESET, NULL, 0, NULL, 0) == 0 && k.len == 0, "RESET");
	churn(&k, who, shared ? fd : -1);
	qk_config_set(&k, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);

	bar_fd = doorbell_area(&k, &bar_off);
	qn_init(&n, &k, mem, RAM_IOVA, RAM_BYTES, bar_fd, bar_off);
	/* QEMU posts its writes to a BAR as long as no region of the device can be mapped. */
	n.posted = bar_fd < 0;
	intx(&n, who);
	arm_msix(&n, who, cap, vec, QUEUES + 1);
	qk_need(qn_enable(&n), "the controller is enabled");
	qn_identify(&n);
	for (unsigned int i = 0; i < QUEUES; i++)
		qn_create(&n, i, ENTRIES, ENTRIES, i + 1);
	qk_check(interrupts_come(&n, vec), "%s: MSI-X: each queue's own vector; full eventfds hold nobody up", who);
	bad = qn_work(&n, QUEUES, ENTRIES - 1);
	qk_check(!bad, "%s: %u queues%s, written, read and compared%s%s", who, QUEUES, n.posted ? ", doorbells as posted writes" : "", bad ? ": " : "",
		 bad ? bad : "");
	if (!shared)
		deadlock(&n, who);
	for (unsigned int i = 0; i < QUEUES; i++)
		qn_delete(&n, i);
	qn_disable(&n);
	for (unsigned int i = 0; i < QUEUES + 1; i++)
		close(vec[i]);
	if (bar_fd >= 0)
		close(bar_fd);
	qn_fini(&n);
	qk_close(&k);
	qk_check(let_go(&k), "%s: at the end the server lets go of the memory", who);
	munmap(mem, RAM_BYTES);
	close(fd);
}

/* ---- a virtual IOMMU ------------------------------------------------------------------------------------- */

#define PAGES 1361u /* as many as a boot with 1,016 I/Os made */

/* Page i of what the device sees lies anywhere in the file. */
static uint64_t scattered(uint32_t i)
{
	return (uint64_t)(i * 1031u % PAGES) * QN_PAGE;
}

void case_viommu(const char *path)
{
	static const char who[] = "QEMU's virtual IOMMU";
	const uint64_t iova = UINT64_C(0x100000000) - PAGES / 2 * (uint64_t)QN_PAGE, half = UINT64_C(1) << 63;
	unsigned int fds, mapped;
	uint64_t bar_off = 0;
	const char *bad;
	int fd, bar_fd;
	bool good = true;
	struct qn n;
	struct qk k;
	void *all, *mem;

	_Static_assert(PAGES % 1031u != 0 && 1031u % PAGES != 0, "no page twice: 1361 is prime");
	qk_connect(&k, path);
	fd = ram_fd(PAGES * (uint64_t)QN_PAGE, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW, &all);
	munmap(all, PAGES * (uint64_t)QN_PAGE);
	mem = mmap(NULL, PAGES * (uint64_t)QN_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	qk_need(mem != MAP_FAILED, "room for memory");
	qk_need(qk_version(&k, 0, proposal) == 0, "VERSION");
	qk_config_set(&k, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	bar_fd = doorbell_area(&k, &bar_off);
	fds = qk_server_fds(&k);
	for (uint32_t i = 0; i < PAGES && good; i++) {
		void *at = (uint8_t *)mem + i * (uint64_t)QN_PAGE;

		qk_need(mmap(at, QN_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)scattered(i)) == at, "a page of memory");
		good &= qk_map(&k, iova + i * (uint64_t)QN_PAGE, QN_PAGE, scattered(i), QK_MAP_RW, fd) == 0;
	}
	mapped = qk_server_maps(&k, RAM_NAME);
	qk_check(good && qk_server_has_fds(&k, fds + 1) && mapped == 1, "%s: %u maps of a page, each with the descriptor: one is kept, and one mapping",
		 who, PAGES);
	qk_check(qk_map(&k, iova, QN_PAGE, 0, QK_MAP_RW, fd) == -EEXIST && qk_server_has_fds(&k, fds + 1), "%s: a map over another is refused", who);

	qn_init(&n, &k, mem, iova, PAGES * (uint64_t)QN_PAGE, bar_fd, bar_off);
	qk_need(qn_enable(&n), "the controller is enabled");
	qn_identify(&n);
	/* 128 entries are two pages that do not lie side by side. */
	for (unsigned int i = 0; i < QUEUES; i++)
		qn_create(&n, i, i & 1 ? 128 : ENTRIES, i & 2 ? 512 : ENTRIES, 0);
	bad = qn_work(&n, QUEUES, ENTRIES - 1);
	qk_check(!bad, "%s: queues and data in scattered pages, written, read and compared%s%s", who, bad ? ": " : "", bad ? bad : "");

	/* The guest switches its IOMMU off. */
	qk_check(qk_unmap(&k, iova + (PAGES - 43) * (uint64_t)QN_PAGE, 43 * QN_PAGE, -1) == 0 &&
		 qk_map(&k, iova + (PAGES - 43) * (uint64_t)QN_PAGE, 43 * QN_PAGE, 0, QK_MAP_RW, fd) == 0,
		 "%s: one unmap of 43 mappings", who);
	qk_check(qk_unmap(&k, UINT64_C(0x700000000000), 1u << 30, -1) == 0, "%s: an unmap of nothing", who);
	qk_check(qk_unmap(&k, half, half, -1) == 0, "%s: an unmap that ends at 2^64", who);
	qk_check(qk_unmap(&k, iova - 2048, 4096, -1) == -EINVAL && qk_unmap(&k, 0, 0, -1) == -EINVAL &&
		 qk_unmap(&k, UINT64_MAX - 4095, 8192, -1) == -EINVAL,
		 "%s: half of a mapping, nothing at all, and more than there is are refused", who);
	bad = qn_work(&n, 1, 3);
	qk_check(!bad, "%s: none of that was missed%s%s", who, bad ? ": " : "", bad ? bad : "");
	qk_check(qk_unmap(&k, 0, half, -1) == 0 && qk_server_has_fds(&k, fds) && qk_server_maps(&k, RAM_NAME) == 0,
		 "%s: one unmap of everything, under an enabled controller", who);
	qk_check(qn_reg(&n, NVME_REG_VS) == NVME_VS(1, 4, 0), "%s: and the server is there", who);
	if (bar_fd >= 0)
		close(bar_fd);
	qn_fini(&n);
	qk_close(&k);
	munmap(mem, PAGES * (uint64_t)QN_PAGE);
	close(fd);
}
