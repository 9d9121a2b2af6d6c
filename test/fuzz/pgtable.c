/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Hostile page tables: entries that loop, set reserved bits, point at themselves, at memory that may only be read, at nothing, and change
 * while the device uses them. Accesses go through the software IOMMU; small ones are held against a walker of this file's own.
 *
 * Input: three configuration bytes (address width, NX, check), then steps. Client memory is a file of which parts are mapped for the
 * device: nothing else may be written.
 */
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include "iommu_priv.h"
#include "kit.h"
#include "svio_vfio.h"

#define PAGE	 4096u
#define RAM	 12u /* pages that the device may read and write */
#define RAM_IOVA UINT64_C(0x200000) /* where a large page may begin */
#define RO_IOVA	 UINT64_C(0x300000) /* one page that it may only read */
/* The file: a canary, RAM, a canary, the read-only page, a canary. */
#define FILE_PAGES (RAM + 4)
#define RO_PAGE	   (RAM + 2)

#define P  UINT64_C(1)
#define W  UINT64_C(2)
#define U  UINT64_C(4)
#define PS UINT64_C(0x80)
#define NX (UINT64_C(1) << 63)

static int file;
static uint8_t *mem;

static struct client {
	struct fz_kit k;
	uint32_t pasid, bits;
	uint64_t root;
	bool nx, bound;
} c;

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

static void canaries(bool set)
{
	static const uint32_t pages[] = { 0, RAM + 1, RO_PAGE, RAM + 3 };
	static uint8_t want[PAGE];

	memset(want, 0x5b, sizeof(want)); /* as an entry: present, writable, not for users */
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(pages); i++) {
		if (set)
			memset(mem + pages[i] * PAGE, 0x5b, PAGE);
		else
			FZ_CHECK(memcmp(mem + pages[i] * PAGE, want, PAGE) == 0);
	}
}

static void map(uint64_t iova, uint32_t pages, uint32_t first, uint32_t prot)
{
	struct svio_vfu_dma_map req = { .argsz = sizeof(req), .flags = prot, .iova = iova, .size = (uint64_t)pages * PAGE,
					.offset = (uint64_t)first * PAGE };
	int fd = fcntl(file, F_DUPFD_CLOEXEC, 0);

	FZ_CHECK(svio__vd_dma_map(c.k.dev, &req, &fd) == 0);
	if (fd >= 0)
		close(fd);
}

static void bind_tables(uint64_t root)
{
	struct svio_pgtable_bind b = { .format = SVIO_PGTABLE_X86_64_4, .addr_bits = c.bits, .root = root, .domain = 1,
				       .flags = c.nx ? SVIO_PGTABLE_NX : 0 };

	c.bound = fz_feature(&c.k, SVIO_VFIO_FEATURE_PGTABLE_BIND | SVIO_VFU_FEATURE_SET, &b, sizeof(b), sizeof(b));
	FZ_CHECK(c.bound == (!(root & (PAGE - 1)) && !(root >> c.bits)));
	c.pasid = b.pasid;
	c.root = root;
}

/* ---- what the tables say ---------------------------------------------------------------------------------------- */

static uint8_t *at_iova(uint64_t iova, uint64_t len, bool write)
{
	struct vd_map *m = svio__vd_dma_find(c.k.dev, iova);

	if (!m || m->last - iova < len - 1 || (write && !(m->prot & SVIO_VFU_DMA_F_WRITE)))
		return NULL;
	return mem + m->off + (iova - m->iova);
}

/* By the manual's text, not by the code's way: 0 and the IOVA, or the error that an access must give. */
static int reference(uint64_t va, bool write, uint64_t *iova, bool *flags_missing)
{
	uint64_t table = c.root, top = va >> 47, e, size;
	bool w = true, u = true;

	*flags_missing = false;
	if (top != 0 && top != 0x1ffff)
		return -EIO;
	for (unsigned int shift = 39;; shift -= 9) {
		uint8_t *p = at_iova(table + ((va >> shift) % 512) * 8, 8, false);
		bool leaf;

		if (!p)
			return -EIO;
		memcpy(&e, p, 8);
		if (!(e & P))
			return -EFAULT;
		leaf = shift == 12 || (shift < 39 && (e & PS));
		for (unsigned int bit = c.bits; bit < 52; bit++)
			if (e >> bit & 1)
				return -EIO;
		if ((e & NX) && !c.nx)
			return -EIO;
		if (shift == 39 && (e & PS))
			return -EIO;
		for (unsigned int bit = 13; leaf && bit < shift; bit++)
			if (e >> bit & 1)
				return -EIO;
		w &= (e & W) != 0;
		u &= (e & U) != 0;
		if (!(e & 0x20) || (leaf && write && !(e & 0x40)))
			*flags_missing |= !at_iova(table + ((va >> shift) % 512) * 8, 8, true);
		table = e & UINT64_C(0x000ffffffffff000);
		if (!leaf)
			continue;
		size = UINT64_C(1) << shift;
		*iova = (table & ~(size - 1)) | (va & (size - 1));
		return u && (w || !write) ? 0 : -EFAULT;
	}
}

/* ---- steps -------------------------------------------------------------------------------------------------------- */

static uint64_t address(struct fz_in *in)
{
	uint8_t how = fz_u8(in);
	uint64_t va = 0;

	if (how == 0xff)
		return fz_u64(in);
	for (unsigned int level = 0; level < 4; level++) /* indexes 0 to 3: tables are mostly empty */
		va |= (uint64_t)(how >> (2 * level) & 3) << (12 + 9 * level);
	return va | (fz_u16(in) & (PAGE - 1));
}

static void set_entry(struct fz_in *in)
{
	uint8_t where = fz_u8(in), kind = fz_u8(in);
	uint64_t *e = (uint64_t *)(void *)(mem + (1 + where % RAM) * PAGE) + (kind >> 4 & 3), v;

	switch (kind & 15) {
	case 0:
		v = fz_u64(in);
		break;
	case 1:
		v = RO_IOVA | P | U | (kind & 0x40 ? W : 0);
		break;
	case 2:
		v = (RAM_IOVA - PAGE) | P | U | W; /* a canary's place, which is not mapped */
		break;
	case 3:
		v = P | U | W | PS | (uint64_t)fz_u16(in) << 12; /* large, perhaps misaligned */
		break;
	case 4:
		v = (RAM_IOVA + fz_u8(in) % RAM * PAGE) | P | U | W | UINT64_C(1) << (fz_u8(in) % 64);
		break;
	default:
		v = (RAM_IOVA + (fz_u8(in) % RAM) * PAGE) | (fz_u8(in) | 5);
	}
	__atomic_store_n(e, v, __ATOMIC_RELAXED);
}

static void access_small(uint64_t va, bool write, uint64_t v)
{
	struct svio_vdev_as *as = svio_vdev_as_pasid(c.k.dev, c.pasid);
	struct svio_vdev_dma t = { .iova = va, .len = 1, .buf = &v, .access = write ? SVIO_VDEV_WRITE : SVIO_VDEV_READ };
	uint64_t iova = 0, stale = c.k.dev->iommu->stats.stale;
	bool flags_missing;
	uint8_t *p, was = 0;
	int want, err;

	if (!as)
		return;
	want = reference(va, write, &iova, &flags_missing);
	p = want ? NULL : at_iova(iova, 1, write);
	if (!want && !p)
		want = -EIO;
	if (p)
		was = *p;
	err = svio_vdev_as_start(as, &t);
	/* What was cached may differ from what the tables say by now: checking finds it. A flag that cannot be set is an error
	 * unless it need not be, because the translation is cached. */
	if (c.k.dev->iommu->stats.stale != stale) {
		FZ_CHECK(err == -EIO);
		return;
	}
	if (flags_missing && err == -EIO)
		return;
	FZ_CHECK(err == want);
	if (!err && !write)
		FZ_CHECK((uint8_t)v == was || flags_missing || (was ^ (uint8_t)v) == 0x20 || (was ^ (uint8_t)v) == 0x40 ||
			 (was ^ (uint8_t)v) == 0x60); /* it was an entry whose flags the walk has set */
	if (!err && write)
		FZ_CHECK(*p == *(uint8_t *)t.buf);
}

static void access_large(uint64_t va, bool write, uint32_t len)
{
	static uint8_t buf[5 * PAGE];
	struct svio_vdev_as *as = svio_vdev_as_pasid(c.k.dev, c.pasid);
	struct svio_vdev_dma t = { .iova = va, .len = SVIO_MIN(len, (uint32_t)sizeof(buf)), .buf = buf,
				   .access = write ? SVIO_VDEV_WRITE : SVIO_VDEV_READ };
	int err;

	if (!as)
		return;
	memset(buf, (int)len, sizeof(buf));
	err = svio_vdev_as_start(as, &t);
	FZ_CHECK(err == 0 || err == -EFAULT || err == -EIO);
	if (svio_vdev_as_ptr(as, va, len % PAGE, t.access) && write)
		svio_vdev_as_mark(as, va, len % PAGE);
}

static void requests(struct fz_in *in)
{
	struct {
		struct svio_page_requests head;
		struct svio_page_request list[4];
	} q = { .head = { .count = 4 } };
	struct svio_vdev_as *as = svio_vdev_as_pasid(c.k.dev, c.pasid);
	struct svio_page_respond r = { .code = fz_u8(in) & 15 };
	uint32_t id;

	if (!as || svio_vdev_page_request(as, fz_u64(in), SVIO_VDEV_WRITE, &id))
		return;
	FZ_CHECK(fz_feature(&c.k, SVIO_VFIO_FEATURE_PAGE_REQUESTS | SVIO_VFU_FEATURE_GET, &q, sizeof(q.head), sizeof(q)));
	FZ_CHECK(q.head.count == 1 && q.list[0].pasid == c.pasid);
	r.group = q.list[0].group + (fz_u8(in) & 1);
	r.pasid = c.pasid;
	fz_feature(&c.k, SVIO_VFIO_FEATURE_PAGE_RESPOND | SVIO_VFU_FEATURE_SET, &r, sizeof(r), sizeof(r));
	if (svio_vdev_page_result(c.k.dev, id) == -EINPROGRESS)
		svio_vdev_page_drop(c.k.dev, id);
}

static void step(struct fz_in *in)
{
	struct svio_invalidate v = { .granularity = 2, .pasid = c.pasid };
	struct svio_sva_unbind u = { .max = UINT32_MAX };
	uint8_t op = fz_u8(in);
	uint64_t va;

	switch (op & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
		set_entry(in);
		break;
	case 5:
		va = address(in);
		access_large(va, op & 16, fz_u16(in));
		break;
	case 6:
		v.addr = address(in);
		v.size = (uint64_t)fz_u8(in) << (fz_u8(in) & 63);
		fz_feature(&c.k, SVIO_VFIO_FEATURE_INVALIDATE | SVIO_VFU_FEATURE_SET, &v, sizeof(v), sizeof(v));
		break;
	case 7:
		v = (struct svio_invalidate){ .domain = 1 };
		fz_feature(&c.k, SVIO_VFIO_FEATURE_INVALIDATE | SVIO_VFU_FEATURE_SET, &v, sizeof(v), sizeof(v));
		break;
	case 8: /* the tables' memory goes, comes back, perhaps read-only */
		FZ_CHECK(svio__vd_dma_unmap(c.k.dev, RAM_IOVA, RAM * PAGE) == 0);
		if (!(op & 32))
			map(RAM_IOVA, RAM, 1, SVIO_VFU_DMA_F_READ | (op & 16 ? SVIO_VFU_DMA_F_WRITE : 0));
		break;
	case 9:
		requests(in);
		break;
	case 10:
		FZ_CHECK(fz_feature(&c.k, SVIO_VFIO_FEATURE_SVA_UNBIND | SVIO_VFU_FEATURE_SET, &u, sizeof(u), sizeof(u)));
		FZ_CHECK(u.released == c.bound);
		bind_tables(op & 16 ? fz_u64(in) : RAM_IOVA + (fz_u8(in) % (RAM + 1)) * PAGE);
		break;
	default:
		va = address(in);
		access_small(va, op & 16, fz_u8(in));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svio_vfu_dma_log_start log = { .page_size = PAGE };
	struct fz_in in = { data, size };
	int before = fz_next_fd();
	unsigned int steps = 0;
	uint16_t cmd = htole16(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);

	memset(&c, 0, sizeof(c));
	memset(mem, 0, FILE_PAGES * PAGE);
	canaries(true);
	c.bits = 32 + fz_u8(&in) % 21;
	c.nx = fz_u8(&in) & 1;
	fz_kit_open(&c.k, "dsa,pages=2", 0);
	fz_kit_version(&c.k, NULL);
	svio_vdev_iommu_check(c.k.dev, true);
	if (fz_u8(&in) & 1)
		FZ_CHECK(svio__vd_dirty_start(c.k.dev, &log) == 0);
	map(RAM_IOVA, RAM, 1, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	map(RO_IOVA, 1, RO_PAGE, SVIO_VFU_DMA_F_READ);
	svio__vd_cfg_write(c.k.dev, PCI_COMMAND, (const uint8_t *)&cmd, 2);
	bind_tables(RAM_IOVA);
	while (in.left && steps++ < 256)
		step(&in);
	canaries(false);
	fz_kit_close(&c.k);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
