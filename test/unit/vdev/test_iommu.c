/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The software IOMMU: PASIDs against a plain model of them, page tables against a plain model of what they say, hostile tables,
 * missing invalidations, page requests. Bonds to other processes are test_bond.c.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "dsa.h"
#include "probe.h"

#define RW    (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)
#define PAGE  4096u
#define RAM   0x40000000ull /* IOVA of the client's memory, its "guest physical" address */
#define PAGES 1024u

#define P  1ull
#define W  2ull
#define U  4ull
#define A  0x20ull
#define D  0x40ull
#define PS 0x80ull
#define NX (1ull << 63)

static uint64_t rnd_state = 88172645463325252ull;

static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state;
}

/* ---- a client with tables in its memory ------------------------------------------------------------- */

struct guest {
	struct td td;
	uint64_t *ram; /* PAGES pages at IOVA RAM */
	int fd;
	uint32_t used; /* pages given out, from the front */
	uint64_t root; /* IOVA */
	uint32_t pasid;
};

static uint64_t *at(struct guest *g, uint64_t iova)
{
	return g->ram + (iova - RAM) / 8;
}

static uint64_t page_new(struct guest *g)
{
	CU_ASSERT_FATAL(g->used < PAGES);
	return RAM + PAGE * g->used++;
}

/* The entry of addr at the level (0 = page table); tables above are made on the way. */
static uint64_t *entry(struct guest *g, uint64_t addr, int level)
{
	uint64_t table = g->root;

	for (int l = 3;; l--) {
		uint64_t *e = at(g, table) + ((addr >> (12 + 9 * l)) & 511);

		if (l == level)
			return e;
		if (!(*e & P))
			*e = page_new(g) | P | W | U;
		table = *e & 0x000ffffffffff000ull;
	}
}

static int bind_tables(struct guest *g, struct svio_pgtable_bind b, uint32_t *pasid)
{
	int err;

	b.format = b.format ? b.format : SVIO_PGTABLE_X86_64_4;
	b.addr_bits = b.addr_bits ? b.addr_bits : 46;
	err = td_feature_set(&g->td, SVIO_VFIO_FEATURE_PGTABLE_BIND, &b, sizeof(b));
	*pasid = b.pasid;
	return err;
}

static void guest_start(struct guest *g, const char *spec)
{
	memset(g, 0, sizeof(*g));
	td_start(&g->td, spec);
	g->fd = tc_memfd(PAGES * PAGE, F_SEAL_SHRINK, (void **)&g->ram);
	CU_ASSERT_EQUAL_FATAL(tc_map(&g->td.tc, RAM, PAGES * PAGE, 0, RW, g->fd), 0);
	g->root = page_new(g);
	CU_ASSERT_EQUAL_FATAL(bind_tables(g, (struct svio_pgtable_bind){ .root = g->root, .domain = 5 }, &g->pasid), 0);
}

static void guest_stop(struct guest *g)
{
	td_stop(&g->td);
	munmap(g->ram, PAGES * PAGE);
	close(g->fd);
}

static int access_as(struct guest *g, uint32_t pasid, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access)
{
	struct svio_vdev_dma t = { .iova = addr, .buf = buf, .len = len, .access = access };
	struct svio_vdev_as *as = svio_vdev_as_pasid(g->td.tc.dev, pasid);

	CU_ASSERT_PTR_NOT_NULL_FATAL(as);
	return svio_vdev_as_start(as, &t);
}

static int get(struct guest *g, uint64_t addr, void *buf, uint32_t len)
{
	return access_as(g, g->pasid, addr, buf, len, SVIO_VDEV_READ);
}

static int put(struct guest *g, uint64_t addr, void *buf, uint32_t len)
{
	return access_as(g, g->pasid, addr, buf, len, SVIO_VDEV_WRITE);
}

static struct svio_vdev_iommu_stats stats(struct guest *g)
{
	struct svio_vdev_iommu_stats s;

	svio_vdev_iommu_get_stats(g->td.tc.dev, &s);
	return s;
}

static int invalidate(struct guest *g, struct svio_invalidate v)
{
	return td_feature_set(&g->td, SVIO_VFIO_FEATURE_INVALIDATE, &v, sizeof(v));
}

/* ---- PASIDs ------------------------------------------------------------------------------------------ */

static void test_rules(void)
{
	struct {
		struct svio_sva_bind b;
		uint32_t more[4];
	} longer = { .b = { .bond_fd = 0 } };
	struct svio_sva_unbind u = { .max = UINT32_MAX };
	struct svio_pgtable_info tables;
	struct svio_sva_info info;
	struct guest g;
	uint32_t pasid;

	guest_start(&g, "dsa,quota=3");
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_SVA_INFO | SVIO_VFU_FEATURE_GET, NULL, 0, 8 + sizeof(info)), 0);
	memcpy(&info, g.td.tc.data + 8, sizeof(info));
	CU_ASSERT_EQUAL(info.flags, SVIO_SVA_INFO_NATIVE | SVIO_SVA_INFO_PRI | SVIO_SVA_INFO_ATS | SVIO_SVA_INFO_RANGE |
					    SVIO_SVA_INFO_SIMULATED);
	CU_ASSERT(info.pasid_bits == 20 && info.quota == 3 && info.bonds == 0 && info.reason == SVIO_SVA_OK && !info.error);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_SVA_BIND | SVIO_VFU_FEATURE_SET | SVIO_VFU_FEATURE_PROBE, NULL, 0, 8), 0);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_SVA_BIND | SVIO_VFU_FEATURE_GET, NULL, 0, 64), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_PGTABLE_BIND | SVIO_VFU_FEATURE_GET, NULL, 0, 8 + sizeof(tables)), 0);
	memcpy(&tables, g.td.tc.data + 8, sizeof(tables));
	CU_ASSERT(tables.flags == SVIO_PGTABLE_NX && tables.formats == 1u << SVIO_PGTABLE_X86_64_4 && tables.max_addr_bits == 52 &&
		  tables.min_addr_bits == 32 && tables.granularities == 7 && tables.page_requests == 64);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, 0x5317 | SVIO_VFU_FEATURE_GET, NULL, 0, 64), -ENOTTY);
	/* short, longer by zeroes, longer by something, unknown flags, reserved, no room for the answer */
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer.b, sizeof(longer.b) - 1), -EINVAL);
	longer.more[3] = 1;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer, sizeof(longer)), -E2BIG);
	longer.more[3] = 0;
	longer.b.flags = 1;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer, sizeof(longer)), -EINVAL);
	longer.b.flags = 0;
	longer.b.reserved = 1;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer, sizeof(longer)), -EINVAL);
	longer.b.reserved = 0;
	longer.b.min = 2;
	longer.b.max = 1;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer, sizeof(longer)), -EINVAL);
	longer.b.min = longer.b.max = 0;
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_SVA_BIND | SVIO_VFU_FEATURE_SET, &longer.b, sizeof(longer.b), 8), -EINVAL);
	CU_ASSERT_EQUAL(stats(&g).binds, 1); /* the tables: nothing of all that was done */
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, SVIO_VFIO_FEATURE_SVA_BIND | SVIO_VFU_FEATURE_SET, &longer, sizeof(longer), 8 + sizeof(longer)), 0);
	memcpy(&longer.b, g.td.tc.data + 8, sizeof(longer.b));
	CU_ASSERT_EQUAL(td_bind(&g.td), longer.b.pasid); /* counts up, the same PASID */
	CU_ASSERT_EQUAL(stats(&g).binds, 2);
	longer.b = (struct svio_sva_bind){ .min = longer.b.pasid + 1, .max = UINT32_MAX };
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_BIND, &longer.b, sizeof(longer.b)), -ERANGE);
	/* tables: parameters; quota; a range that is full or does not exist */
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root + 8 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .format = 2 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .addr_bits = 53 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = 1ull << 46, .addr_bits = 46 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .flags = 2 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .domain = 65536 }, &pasid), -EINVAL);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .min = 1 << 20, .max = 1 << 21 }, &pasid), -ENOSPC);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .min = g.pasid, .max = g.pasid }, &pasid), -ENOSPC);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .min = 77, .max = 77 }, &pasid), 0);
	CU_ASSERT_EQUAL(pasid, 77);
	CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root }, &pasid), -EDQUOT);
	/* unbind: all; again: nothing */
	u.min = 5;
	u.max = 4;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), -EINVAL);
	u.min = 0;
	u.max = UINT32_MAX;
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
	CU_ASSERT_EQUAL(u.released, 3);
	CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(g.td.tc.dev, 77));
	CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
	CU_ASSERT_EQUAL(u.released, 0);
	guest_stop(&g);
}

/* Random calls; a bitmap says what must come of them. */
static void test_pasids(void)
{
	static bool bound[65];
	struct guest g;
	unsigned int num = 0, denied = 0, full = 0;

	guest_start(&g, "dsa,quota=40");
	memset(bound, 0, sizeof(bound));
	CU_ASSERT_FATAL(g.pasid < 65);
	bound[g.pasid] = true;
	num = 1;
	for (int i = 0; i < 4000; i++) {
		uint32_t lo = (uint32_t)(rnd() % 66), hi = lo + (uint32_t)(rnd() % (66 - lo)), pasid;

		if (rnd() % 5) {
			struct svio_pgtable_bind b = { .root = g.root, .min = lo, .max = hi };
			bool room = false;
			int err, want;

			if (rnd() % 4 == 0)
				b.min = b.max = lo = hi = 1 + (uint32_t)(rnd() % 64); /* one only */
			if (hi > 64)
				b.max = hi = 64;
			if (lo > hi || hi == 0)
				continue;
			for (uint32_t p = SVIO_MAX(lo, 1u); p <= hi; p++)
				room |= !bound[p];
			want = num == 40 ? -EDQUOT : room ? 0 : -ENOSPC;
			err = bind_tables(&g, b, &pasid);
			CU_ASSERT_EQUAL_FATAL(err, want);
			denied += err == -EDQUOT;
			full += err == -ENOSPC;
			if (err)
				continue;
			CU_ASSERT_FATAL(pasid >= lo && pasid <= hi && pasid && !bound[pasid]);
			bound[pasid] = true;
			num++;
		} else {
			struct svio_sva_unbind u = { .min = lo, .max = rnd() % 8 ? SVIO_MIN(hi, lo + 8) : UINT32_MAX };
			uint32_t want = 0;

			for (uint32_t p = lo; p <= SVIO_MIN(u.max, 64u); p++) {
				want += bound[p];
				bound[p] = false;
			}
			CU_ASSERT_EQUAL_FATAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
			CU_ASSERT_EQUAL_FATAL(u.released, want);
			num -= want;
		}
		for (uint32_t p = 0; p < 65; p++)
			CU_ASSERT_EQUAL_FATAL(svio_vdev_as_pasid(g.td.tc.dev, p) != NULL, bound[p]);
	}
	CU_ASSERT(denied > 10 && full > 10);
	guest_stop(&g);
}

static void unbind_all_but(struct tc *tc, unsigned int hold)
{
	struct svio_pgtable_bind b = { .format = SVIO_PGTABLE_X86_64_4, .addr_bits = 40, .min = 9, .max = 9 };
	struct svio_sva_unbind u = { .min = 5, .max = 10 };
	struct probe *p = svio_vdev_priv(tc->dev);
	uint8_t m[64];
	struct svio_vfu_feature f = { .argsz = sizeof(f) + sizeof(u), .flags = SVIO_VFIO_FEATURE_SVA_UNBIND | SVIO_VFU_FEATURE_SET };

	CU_ASSERT_EQUAL(tc_feature(tc, SVIO_VFIO_FEATURE_PGTABLE_BIND | SVIO_VFU_FEATURE_SET, &b, sizeof(b), 8 + sizeof(b)), 0);
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_as_pasid(tc->dev, 9));
	p->hold = hold;
	memcpy(m, &f, sizeof(f));
	memcpy(m + sizeof(f), &u, sizeof(u));
	tc_send(tc, SVIO_VFU_DEVICE_FEATURE, 0, m, sizeof(f) + sizeof(u), NULL, 0);
	tc_rounds(tc, 20);
	CU_ASSERT(p->asked && p->why == SVIO_VDEV_Q_PASID && p->q_iova == 5 && p->q_len == 6);
	CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(tc->dev, 9)); /* from the first moment, whether the model has let go or not */
}

/* The model is waited for, but not for ever: unbinding cannot fail. */
static void test_stubborn(void)
{
	struct svio_sva_unbind u;
	struct probe *p;
	uint64_t since;
	struct tc tc;

	tc_start(&tc, "probe,iommu", 0);
	p = svio_vdev_priv(tc.dev);
	unbind_all_but(&tc, 1000);
	CU_ASSERT(p->hold > 0);
	while (p->hold)
		tc_rounds(&tc, 1);
	CU_ASSERT_FATAL(tc_recv(&tc));
	CU_ASSERT_EQUAL(tc.hdr.flags & SVIO_VFU_ERROR, 0);
	memcpy(&u, tc.data + 8, sizeof(u));
	CU_ASSERT_EQUAL(u.released, 1);
	since = svio_now_ns();
	unbind_all_but(&tc, INT32_MAX);
	while (svio_now_ns() - since < 2500000000u)
		tc_rounds(&tc, 1000);
	CU_ASSERT(p->hold > 0);
	while (svio_now_ns() - since < 3500000000u)
		tc_rounds(&tc, 1000);
	CU_ASSERT_FATAL(tc_recv(&tc));
	CU_ASSERT_EQUAL(tc.hdr.flags & SVIO_VFU_ERROR, 0);
	memcpy(&u, tc.data + 8, sizeof(u));
	CU_ASSERT_EQUAL(u.released, 1);
	p->hold = 0;
	tc_stop(&tc);
}

/* What the client leaves behind goes with it. */
static void test_disconnect(void)
{
	int fds = unit_count_fds(), maps = unit_count_maps();
	struct guest g;
	uint32_t pasid;

	for (int i = 0; i < 3; i++) {
		guest_start(&g, "dsa");
		td_bind(&g.td);
		for (int k = 0; k < 100; k++)
			CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root }, &pasid), 0);
		tc_close(&g.td.tc);
		tc_rounds(&g.td.tc, 2000);
		CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(g.td.tc.dev, pasid));
		CU_ASSERT_EQUAL(stats(&g).unbinds, 102);
		guest_stop(&g);
	}
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT(unit_count_maps() <= maps + 4); /* the allocator's own */
}

/* ---- tables -------------------------------------------------------------------------------------------- */

static void test_walk(void)
{
	uint64_t va = 0x00007f1234567000ull, page, *pte, v = 0;
	struct guest g;

	guest_start(&g, "dsa");
	pte = entry(&g, va, 0);
	page = page_new(&g);
	at(&g, page)[3] = 0x1122334455667788ull;
	CU_ASSERT_EQUAL(get(&g, va + 24, &v, 8), -EFAULT);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_NOT_PRESENT);
	CU_ASSERT(stats(&g).addr == va + 24 && stats(&g).pasid == g.pasid && stats(&g).access == SVIO_VDEV_READ);
	CU_ASSERT_EQUAL(*entry(&g, va, 1) & A, 0); /* a path that leads nowhere was not used */
	*pte = page | P | U;
	CU_ASSERT_EQUAL(get(&g, va + 24, &v, 8), 0); /* what is not there is not cached */
	CU_ASSERT_EQUAL(v, 0x1122334455667788ull);
	for (int level = 3; level >= 0; level--)
		CU_ASSERT_EQUAL(*entry(&g, va, level) & (A | D), A);
	/* rights: of every level */
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), -EFAULT);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_RIGHTS);
	*pte |= W; /* more rights need no invalidation */
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), 0);
	CU_ASSERT_EQUAL(at(&g, page)[0], v);
	CU_ASSERT_EQUAL(*pte & (A | D), A | D);
	CU_ASSERT_EQUAL(*entry(&g, va, 1) & D, 0);
	for (int level = 3; level >= 0; level--) {
		for (unsigned int k = 0; k < 2; k++) {
			uint64_t right = k ? U : W;

			*entry(&g, va, level) &= ~right;
			CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = SVIO_INVALIDATE_PASID, .pasid = g.pasid }), 0);
			CU_ASSERT_EQUAL(put(&g, va, &v, 8), -EFAULT);
			CU_ASSERT_EQUAL(get(&g, va, &v, 8), right == U ? -EFAULT : 0);
			*entry(&g, va, level) |= right;
		}
	}
	/* NX matters only as a reserved bit: bound without it */
	*pte |= NX;
	invalidate(&g, (struct svio_invalidate){ .granularity = SVIO_INVALIDATE_DOMAIN, .domain = 5 });
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_RESERVED);
	{
		uint32_t nx;

		CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .flags = SVIO_PGTABLE_NX }, &nx), 0);
		CU_ASSERT_EQUAL(access_as(&g, nx, va, &v, 8, SVIO_VDEV_READ), 0);
	}
	/* not canonical; bus mastering off */
	CU_ASSERT_EQUAL(get(&g, 0x0000800000000000ull, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_CANONICAL);
	CU_ASSERT_EQUAL(get(&g, va | 0xffff000000000000ull, &v, 8), -EIO);
	*pte &= ~NX;
	tc_cfg_set(&g.td.tc, 4, 2, 2);
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), -EPERM);
	guest_stop(&g);
}

static void test_large(void)
{
	uint64_t va2m = 0xffff900000000000ull + 5 * (2ull << 20), va1g = 0x40000000ull, v = 0;
	struct guest g;

	guest_start(&g, "dsa");
	g.used = 512; /* the second 2 MiB are data */
	*entry(&g, va2m, 1) = (RAM + (2ull << 20)) | P | W | U | PS | 0x1000; /* bit 12: PAT */
	at(&g, RAM + (2ull << 20) + 0x1ff000)[511] = 77;
	CU_ASSERT_EQUAL(get(&g, va2m + 0x1ffff8, &v, 8), 0);
	CU_ASSERT_EQUAL(v, 77);
	v = 78;
	CU_ASSERT_EQUAL(put(&g, va2m + 0x1ffff8, &v, 8), 0);
	CU_ASSERT_EQUAL(at(&g, RAM + (2ull << 20) + 0x1ff000)[511], 78);
	CU_ASSERT_EQUAL(*entry(&g, va2m, 1) & (A | D), A | D);
	*entry(&g, va1g, 2) = RAM | P | W | U | PS; /* RAM is 1 GiB aligned */
	at(&g, RAM + 0x3ff000)[0] = 99;
	CU_ASSERT_EQUAL(get(&g, va1g + 0x3ff000, &v, 8), 0);
	CU_ASSERT_EQUAL(v, 99);
	CU_ASSERT_EQUAL(get(&g, va1g + 0x400000, &v, 8), -EIO); /* behind the client's memory */
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_SECOND_STAGE);
	/* reserved bits of large entries, and PS in a PML4 entry */
	*entry(&g, va1g, 2) |= 1ull << 29;
	CU_ASSERT_EQUAL(get(&g, va1g + 0x3fe000, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_RESERVED);
	*entry(&g, va2m, 1) |= 1ull << 20;
	CU_ASSERT_EQUAL(get(&g, va2m, &v, 8), -EIO);
	*entry(&g, va2m, 1) &= ~(1ull << 20);
	CU_ASSERT_EQUAL(get(&g, va2m, &v, 8), 0);
	*entry(&g, va2m, 3) |= PS;
	CU_ASSERT_EQUAL(get(&g, va2m + 0x5000, &v, 8), -EIO);
	*entry(&g, va2m, 3) &= ~PS;
	*entry(&g, va2m, 1) |= 1ull << 46; /* address width 46 */
	CU_ASSERT_EQUAL(get(&g, va2m + 0x5000, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_RESERVED);
	guest_stop(&g);
}

/* Random tables against a list of what they say; every change is followed by the narrowest invalidation that is due, or a wider one. */
#define VPAGES 96u

static uint64_t vpage(unsigned int i)
{
	/* three clusters, so that upper levels are shared and not shared; neighbours, so that accesses cross */
	static const uint64_t base[] = { 0x0000000000400000ull, 0x00007fffffff0000ull - 16 * PAGE, 0xffffc00000000000ull };

	return base[i / 32] + (i % 32) * (uint64_t)PAGE;
}

static void test_random(void)
{
	struct {
		uint64_t page; /* IOVA; 0 = not present */
		bool w, u;
	} model[VPAGES] = { 0 };
	static uint8_t buf[3 * PAGE], want[3 * PAGE];
	struct svio_vdev_iommu_stats s;
	unsigned int ok = 0, faults = 0;
	struct guest g;

	guest_start(&g, "dsa");
	svio_vdev_iommu_check(g.td.tc.dev, true);
	for (unsigned int i = 0; i < VPAGES; i++)
		entry(&g, vpage(i), 0); /* all tables */
	for (int round = 0; round < 20000; round++) {
		unsigned int i = (unsigned int)(rnd() % VPAGES);

		if (rnd() % 4 == 0) {
			struct svio_invalidate v = { .granularity = (uint32_t)(rnd() % 3) };
			bool was = model[i].page;

			model[i].page = rnd() % 4 ? RAM + PAGE * (512 + rnd() % 256) : 0;
			model[i].w = rnd() % 4;
			model[i].u = rnd() % 8;
			*entry(&g, vpage(i), 0) = model[i].page ? model[i].page | P | (model[i].w ? W : 0) | (model[i].u ? U : 0) :
								  rnd() & ~P;
			if (v.granularity == SVIO_INVALIDATE_DOMAIN)
				v.domain = 5;
			else
				v.pasid = g.pasid;
			if (v.granularity == SVIO_INVALIDATE_ADDR) {
				v.addr = vpage(i) + rnd() % PAGE;
				v.size = 1;
			}
			if (was) /* nothing is cached of what was not there */
				CU_ASSERT_EQUAL_FATAL(invalidate(&g, v), 0);
			continue;
		}
		/* one access, of up to three pages, inside of the cluster */
		{
			uint32_t off = (uint32_t)(rnd() % PAGE), len = (uint32_t)(rnd() % (2 * PAGE)) + 1, done = 0;
			enum svio_vdev_access access = rnd() % 2 ? SVIO_VDEV_READ : SVIO_VDEV_WRITE;
			int expect = 0, err;

			len = SVIO_MIN(len, (32 - i % 32) * PAGE - off);
			for (uint32_t k = 0; k < len; k++)
				buf[k] = (uint8_t)rnd();
			memcpy(want, buf, len);
			while (done < len && !expect) {
				unsigned int p = i + (off + done) / PAGE;
				uint32_t in = (off + done) % PAGE, n = SVIO_MIN(len - done, PAGE - in);

				if (!model[p].page || !model[p].u || (access == SVIO_VDEV_WRITE && !model[p].w))
					expect = -EFAULT;
				else if (access == SVIO_VDEV_READ)
					memcpy(want + done, (uint8_t *)at(&g, model[p].page) + in, n);
				if (!expect)
					done += n;
			}
			err = access_as(&g, g.pasid, vpage(i) + off, buf, len, access);
			CU_ASSERT_EQUAL_FATAL(err, expect);
			if (err)
				faults++;
			else
				ok++;
			if (access == SVIO_VDEV_READ) {
				CU_ASSERT_EQUAL_FATAL(memcmp(buf, want, done), 0);
				continue;
			}
			/* Two pages of the range may be the same one: only the last piece is sure to be seen. */
			if (!err) {
				unsigned int p = i + (off + len - 1) / PAGE;
				uint32_t in = (off + len - 1) % PAGE, n = SVIO_MIN(in + 1, len);

				CU_ASSERT_EQUAL_FATAL(memcmp((uint8_t *)at(&g, model[p].page) + in + 1 - n, want + len - n, n), 0);
				CU_ASSERT_EQUAL_FATAL(*entry(&g, vpage(p), 0) & (A | D), A | D);
			}
		}
	}
	s = stats(&g);
	CU_ASSERT_EQUAL(s.stale, 0);
	CU_ASSERT(ok > 1000 && faults > 1000 && s.tlb_hits > 500 && s.invalidations > 1000);
	guest_stop(&g);
}

/* Without the invalidation: the old page is used, and checking finds it. */
static void test_stale(void)
{
	uint64_t va = 0x555500000000ull, one, two, v = 0;
	struct guest g;

	guest_start(&g, "dsa");
	one = page_new(&g);
	two = page_new(&g);
	at(&g, one)[0] = 1;
	at(&g, two)[0] = 2;
	*entry(&g, va, 0) = one | P | W | U;
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), 0);
	*entry(&g, va, 0) = two | P | W | U;
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), 0);
	CU_ASSERT_EQUAL(v, 1);
	CU_ASSERT_EQUAL(stats(&g).stale, 0);
	svio_vdev_iommu_check(g.td.tc.dev, true);
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).stale, 1);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_STALE);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 2, .pasid = g.pasid, .addr = va + PAGE, .size = PAGE }), 0);
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), -EIO); /* that was the page behind it */
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 2, .pasid = g.pasid + 1, .addr = va, .size = PAGE }), 0);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .domain = 6 }), 0);
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), -EIO); /* and that another PASID, another domain */
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 2, .pasid = g.pasid, .addr = 0, .size = UINT64_MAX }), 0);
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), 0);
	CU_ASSERT_EQUAL(v, 2);
	/* rights taken away */
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), 0);
	*entry(&g, va, 0) &= ~W;
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).stale, 4);
	/* a PASID bound anew starts with nothing cached */
	{
		struct svio_sva_unbind u = { .min = g.pasid, .max = g.pasid };
		uint32_t pasid;

		CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
		CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = g.root, .min = g.pasid, .max = g.pasid }, &pasid), 0);
		CU_ASSERT_EQUAL(put(&g, va, &v, 8), -EFAULT);
		CU_ASSERT_EQUAL(get(&g, va, &v, 8), 0);
	}
	/* parameters */
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 3 }), -EINVAL);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .flags = 1 }), -EINVAL);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .domain = 5, .pasid = 1 }), -EINVAL);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 2, .pasid = g.pasid }), -EINVAL);
	CU_ASSERT_EQUAL(invalidate(&g, (struct svio_invalidate){ .granularity = 2, .pasid = g.pasid, .addr = PAGE, .size = UINT64_MAX }), -EINVAL);
	guest_stop(&g);
}

static void test_hostile(void)
{
	uint64_t v = 0, *root;
	struct guest g;

	guest_start(&g, "dsa");
	root = at(&g, g.root);
	/* A table that contains itself at all levels: the page is the table. */
	root[0] = g.root | P | W | U;
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), 0);
	CU_ASSERT_EQUAL(v & 0x000ffffffffff000ull, g.root);
	/* The device writes over the entry that led to it. */
	v = 0;
	CU_ASSERT_EQUAL(put(&g, 0, &v, 8), 0);
	CU_ASSERT_EQUAL(root[0], 0);
	invalidate(&g, (struct svio_invalidate){ .domain = 5 });
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), -EFAULT);
	/* Tables outside of the client's memory, at every level. */
	for (int level = 3; level > 0; level--) {
		memset(root, 0, PAGE);
		*entry(&g, 0, level) = 0x12345000ull | P | W | U;
		CU_ASSERT_EQUAL(get(&g, 0, &v, 8), -EIO);
		CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_TABLE);
	}
	memset(root, 0, PAGE);
	*entry(&g, 0, 0) = 0x12345000ull | P | W | U;
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_SECOND_STAGE);
	/* The root itself, and after the client has unmapped its memory. */
	{
		uint32_t pasid;

		CU_ASSERT_EQUAL(bind_tables(&g, (struct svio_pgtable_bind){ .root = 0x666000 }, &pasid), 0);
		CU_ASSERT_EQUAL(access_as(&g, pasid, 0, &v, 8, SVIO_VDEV_READ), -EIO);
	}
	*entry(&g, 0, 0) = page_new(&g) | P | W | U;
	invalidate(&g, (struct svio_invalidate){ .domain = 5 });
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), 0);
	CU_ASSERT_EQUAL(tc_unmap(&g.td.tc, RAM, PAGES * PAGE), 0);
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), -EIO);
	CU_ASSERT_EQUAL(get(&g, PAGE, &v, 8), -EIO);
	/* Tables that the device may not write: a path without its flags cannot be used, one with them can. */
	CU_ASSERT_EQUAL(tc_map(&g.td.tc, RAM, PAGES * PAGE, 0, SVIO_VFU_DMA_F_READ, g.fd), 0);
	invalidate(&g, (struct svio_invalidate){ .domain = 5 });
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), 0);
	*entry(&g, 0, 0) &= ~A;
	invalidate(&g, (struct svio_invalidate){ .domain = 5 });
	CU_ASSERT_EQUAL(get(&g, 0, &v, 8), -EIO);
	CU_ASSERT_EQUAL(stats(&g).reason, SVIO_VDEV_FAULT_TABLE);
	guest_stop(&g);
}

/* What is written through tables, and the flags set in them, are in the dirty log by IOVA. */
static void test_dirty(void)
{
	struct svio_vfu_dma_log_start s = { .page_size = PAGE };
	struct svio_vfu_dma_log_report r = { .iova = RAM, .length = 64 * PAGE, .page_size = PAGE };
	uint64_t va = 0x7000, bits, page, v = 1;
	struct guest g;

	guest_start(&g, "dsa");
	*entry(&g, va, 0) = 0;
	page = page_new(&g);
	*entry(&g, va, 0) = page | P | W | U;
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, 6 | SVIO_VFU_FEATURE_SET, &s, sizeof(s), 64), 0);
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), 0);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, 8 | SVIO_VFU_FEATURE_GET, &r, sizeof(r), 64), 0);
	memcpy(&bits, g.td.tc.data + 32, 8);
	CU_ASSERT_EQUAL(g.used, 5); /* root, three tables, the page */
	CU_ASSERT_EQUAL(bits, 0x1f);
	CU_ASSERT_EQUAL(put(&g, va, &v, 8), 0); /* the flags are there now */
	CU_ASSERT_EQUAL(get(&g, va, &v, 8), 0);
	CU_ASSERT_EQUAL(tc_feature(&g.td.tc, 8 | SVIO_VFU_FEATURE_GET, &r, sizeof(r), 64), 0);
	memcpy(&bits, g.td.tc.data + 32, 8);
	CU_ASSERT_EQUAL(bits, 1ull << 4);
	guest_stop(&g);
}

/* ---- page requests --------------------------------------------------------------------------------------- */

static unsigned int read_requests(struct guest *g, struct svio_page_request *list, uint32_t room)
{
	struct svio_page_requests q = { .count = 100 };

	CU_ASSERT_EQUAL_FATAL(tc_feature(&g->td.tc, SVIO_VFIO_FEATURE_PAGE_REQUESTS | SVIO_VFU_FEATURE_GET, &q, sizeof(q),
					 (uint32_t)(8 + sizeof(q) + room * sizeof(*list))), 0);
	memcpy(&q, g->td.tc.data + 8, sizeof(q));
	CU_ASSERT_FATAL(q.count <= room && g->td.tc.len == 8 + sizeof(q) + q.count * sizeof(*list));
	memcpy(list, g->td.tc.data + 8 + sizeof(q), q.count * sizeof(*list));
	return q.count;
}

static int respond(struct guest *g, uint32_t pasid, uint32_t group, uint32_t code)
{
	struct svio_page_respond r = { .pasid = pasid, .group = group, .code = code };

	return td_feature_set(&g->td, SVIO_VFIO_FEATURE_PAGE_RESPOND, &r, sizeof(r));
}

static void test_requests(void)
{
	struct svio_page_request list[8];
	struct svio_vdev_as *as;
	struct svio_vdev *dev;
	uint32_t q[5], process;
	struct guest g;

	guest_start(&g, "dsa,pages=4");
	dev = g.td.tc.dev;
	as = svio_vdev_as_pasid(dev, g.pasid);
	CU_ASSERT_EQUAL(read_requests(&g, list, 8), 0);
	for (unsigned int i = 0; i < 4; i++)
		CU_ASSERT_EQUAL(svio_vdev_page_request(as, 0x10000 * i + 123, i % 2 ? SVIO_VDEV_WRITE : SVIO_VDEV_READ, &q[i]), 0);
	CU_ASSERT_EQUAL(svio_vdev_page_request(as, 0, SVIO_VDEV_READ, &q[4]), -EAGAIN);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, q[0], 0), -ENOENT); /* nobody has told it of that one */
	CU_ASSERT_EQUAL(read_requests(&g, list, 3), 3);
	CU_ASSERT_EQUAL(list[0].addr, 0);
	CU_ASSERT_EQUAL(list[1].addr, 0x10000);
	CU_ASSERT_EQUAL(list[0].flags, SVIO_PAGE_LAST | SVIO_PAGE_READ);
	CU_ASSERT_EQUAL(list[1].flags, SVIO_PAGE_LAST | SVIO_PAGE_WRITE);
	CU_ASSERT_EQUAL(list[2].pasid, g.pasid);
	CU_ASSERT_EQUAL(read_requests(&g, list + 3, 3), 1);
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[0]), -EINPROGRESS);
	CU_ASSERT_EQUAL(respond(&g, g.pasid + 1, list[0].group, 0), -ENOENT);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, 500, 0), -ENOENT);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[0].group, 2), -EINVAL);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[1].group, SVIO_PAGE_INVALID), 0); /* in any order */
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[0].group, SVIO_PAGE_SUCCESS), 0);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[2].group, SVIO_PAGE_FAILURE), 0);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[0].group, SVIO_PAGE_SUCCESS), -ENOENT);
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[0]), 0);
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[1]), -EFAULT);
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[2]), -EIO);
	/* dropped by the device; cancelled by a reset, and by unbinding */
	svio_vdev_page_drop(dev, q[3]);
	CU_ASSERT_EQUAL(respond(&g, g.pasid, list[3].group, 0), -ENOENT);
	CU_ASSERT_EQUAL(svio_vdev_page_request(as, 0, SVIO_VDEV_READ, &q[0]), 0);
	CU_ASSERT_EQUAL(tc_call(&g.td.tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[0]), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_as_pasid(dev, g.pasid)); /* the bond survives the reset */
	CU_ASSERT_EQUAL(svio_vdev_page_request(as, 0, SVIO_VDEV_READ, &q[0]), 0);
	{
		struct svio_sva_unbind u = { .max = UINT32_MAX };

		CU_ASSERT_EQUAL(td_feature_set(&g.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
	}
	CU_ASSERT_EQUAL(svio_vdev_page_result(dev, q[0]), -ECANCELED);
	CU_ASSERT_EQUAL(read_requests(&g, list, 8), 0);
	/* a process's faults are final, and so are those without PASID */
	process = td_bind(&g.td);
	CU_ASSERT_EQUAL(svio_vdev_page_request(svio_vdev_as_pasid(dev, process), 0, SVIO_VDEV_READ, &q[0]), -EFAULT);
	CU_ASSERT_EQUAL(svio_vdev_page_request(svio_vdev_as0(dev), 0, SVIO_VDEV_READ, &q[0]), -EFAULT);
	guest_stop(&g);
}

static const struct unit_test tests[] = {
	{ "features: sizes, flags, ranges, quota; a failed call leaves nothing", test_rules },
	{ "PASIDs: random binds and releases against a bitmap", test_pasids },
	{ "a model that does not let go of a PASID", test_stubborn },
	{ "a client that goes leaves nothing", test_disconnect },
	{ "a walk: rights, accessed and dirty, NX, canonical addresses", test_walk },
	{ "large pages and reserved bits", test_large },
	{ "random tables, invalidations and accesses against a list", test_random },
	{ "a missing invalidation is found", test_stale },
	{ "hostile tables: loops, tables and pages outside of memory", test_hostile },
	{ "the dirty log has pages and tables", test_dirty },
	{ "page requests and responses", test_requests },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/iommu", tests);
}
