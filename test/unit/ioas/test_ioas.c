/* SPDX-License-Identifier: BSD-3-Clause */
/* Room ioas on simulated domains (fake.h): what is mapped where, what is refused and with which words. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fake.h"

#define RW (SVIO_DMA_READ | SVIO_DMA_WRITE)
#define SAYS(text) CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), text))

static uint64_t U(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void test_identity(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	struct svio_ioas_stats s;
	struct fake_dev a;
	uint8_t *m = addresses(8 * MIB, 2 * MIB);
	uint64_t iova = 0;

	fake_init(&a, "a", 48);
	/* Before the first device there is no IOVA … */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4 * MIB, RW, 7, 8192, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), SVIO_IOVA_BAD);
	/* … unless one is asked for. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4 * MIB, 4096, SVIO_DMA_READ, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova, U(m + 4 * MIB));
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 4 * MIB), iova);

	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), -EALREADY);
	CU_ASSERT_EQUAL(a.own.num_maps, 2);
	CU_ASSERT_EQUAL(fake_find(&a, m)->iova, U(m));
	CU_ASSERT_EQUAL(fake_find(&a, m)->prot, RW);
	CU_ASSERT_EQUAL(fake_find(&a, m)->fd, 7);
	CU_ASSERT_EQUAL(fake_find(&a, m)->fd_offset, 8192);
	CU_ASSERT_EQUAL(fake_find(&a, m + 4 * MIB)->prot, SVIO_DMA_READ);

	/* Bounds, to the byte. */
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), U(m));
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 4 * MIB - 1), U(m + 4 * MIB - 1));
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m - 1), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m, 4 * MIB), U(m));
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m, 0), U(m));
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 1, 4 * MIB), SVIO_IOVA_BAD); /* into the neighbour */
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m, UINT64_MAX), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 4 * MIB, 4096), iova);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 4 * MIB, 4097), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 4 * MIB + 4095, 2), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, NULL), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, (void *)UINTPTR_MAX), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, (void *)(U(m) + (UINT64_C(1) << 48))), SVIO_IOVA_BAD);

	svio_ioas_get_stats(ioas, &s);
	CU_ASSERT_EQUAL(s.mappings, 2);
	CU_ASSERT_EQUAL(s.mapped_bytes, 4 * MIB + 4096);
	CU_ASSERT_EQUAL(s.devices, 1);
	CU_ASSERT_EQUAL(s.domains, 1);
	CU_ASSERT_EQUAL(s.entries_left, 65533);
	CU_ASSERT(s.identity);

	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), -EBUSY);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), -ENOENT);
	CU_ASSERT(fake_is_clean(&a));
	/* The IOVA stays valid for the device that comes next. */
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), U(m));
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(NULL), 0);
	munmap(m, 8 * MIB);
}

static void test_refusals(void)
{
	struct svio_ioas_opts o = { .size = 1 };
	struct svio_ioas *ioas;
	struct fake_dev a;
	uint8_t *m = addresses(16 * MIB, 2 * MIB);

	CU_ASSERT_EQUAL(svio_ioas_create(&o, &ioas), -EINVAL);
	o = (struct svio_ioas_opts){ .size = sizeof(o), .flags = 1u << 9 };
	CU_ASSERT_EQUAL(svio_ioas_create(&o, &ioas), -EINVAL);

	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	fake_init(&a, "a", 48);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 1, 4096, RW, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4095, RW, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 0, RW, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, 0, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, 8, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, 3, 77, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, (void *)UINT64_C(0xfffffffff000), 8192, RW, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, (void *)UINT64_C(0xfffffffffffff000), 8192, RW, -1, 0, NULL), -EINVAL);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);

	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4 * MIB, 4 * MIB, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4 * MIB, 4 * MIB, RW, -1, 0, NULL), -EEXIST);
	SAYS("overlaps");
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 16 * MIB, RW, -1, 0, NULL), -EEXIST);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4 * MIB + 4096, RW, -1, 0, NULL), -EEXIST);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8 * MIB - 4096, 8192, RW, -1, 0, NULL), -EEXIST);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 5 * MIB, 4096, RW, -1, 0, NULL), -EEXIST);
	CU_ASSERT_EQUAL(a.own.num_maps, 1);

	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 4 * MIB, 2 * MIB), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 6 * MIB, 2 * MIB), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 16 * MIB), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 4096), -ENOENT);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 6 * MIB), U(m + 6 * MIB));
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 4 * MIB, 4 * MIB), 0);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 4 * MIB, 4 * MIB), -ENOENT);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 6 * MIB), SVIO_IOVA_BAD);

	/* Not mapped in the process: the device's side is undone. */
	munmap(m + 4 * MIB, 4096);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 8 * MIB, RW, -1, 0, NULL), -EFAULT);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), SVIO_IOVA_BAD);

	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, 4 * MIB);
	munmap(m + 4 * MIB + 4096, 12 * MIB - 4096);
}

static void test_allocator(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	struct svio_ioas_stats s;
	struct fake_dev a, b;
	uint8_t *m = addresses(4 * GIB, GIB), *late = addresses(4096, 4096);
	uint64_t iova, other;

	/* 39 bits of aperture, and memory far above: waiting mappings are placed when the device comes. */
	fake_init(&a, "narrow", 39);
	CU_ASSERT(U(m) >> 39 != 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 12 * KIB, 64 * KIB, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 2 * MIB + 20 * KIB, 6 * MIB, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	iova = svio_ioas_iova(ioas, m + 12 * KIB);
	CU_ASSERT(iova >= 0x10000 && iova >> 39 == 0);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 12 * KIB + 5, 64 * KIB - 5), iova + 5);
	/* A superpage is in it: congruent modulo 2 MiB. */
	other = svio_ioas_iova(ioas, m + 2 * MIB + 20 * KIB);
	CU_ASSERT_NOT_EQUAL(other, SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(other % (2 * MIB), 20 * KIB);
	/* 1 GiB pages likewise. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + GIB - 8 * KIB, 2 * GIB, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova % GIB, GIB - 8 * KIB);
	svio_ioas_get_stats(ioas, &s);
	CU_ASSERT(!s.identity);

	/* A wider device joins; a narrower one cannot, and is told which mapping is in its way. */
	fake_init(&b, "wide", 48);
	b.lonely = true;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), 0);
	CU_ASSERT_EQUAL(b.own.num_maps, 3);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&b)), 0);
	fake_init(&b, "30-bit", 30);
	b.own.info.num_ranges = 1;
	b.own.info.ranges[0] = (struct svio_iova_range){ 0, GIB - 1 };
	b.lonely = true;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), -ENOSPC);
	SAYS("30-bit: its IOMMU cannot map");
	CU_ASSERT(fake_is_clean(&b));
	/* What is mapped later is placed where all can map it. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, late, 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT(iova >> 39 == 0);

	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* Identity can be switched off, and a range that is full says so. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY);
	fake_init(&a, "tiny", 48);
	a.own.info.num_ranges = 1;
	a.own.info.ranges[0] = (struct svio_iova_range){ 0, 0x12fff };
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova, 0x10000);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova, 0x11000);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 8192, RW, -1, 0, &iova), -ENOSPC);
	SAYS("no IOVA left");
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova, 0x10000);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* An IOVA given out early is kept, or the attach fails. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, &iova), 0);
	fake_init(&a, "narrow", 39);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), -ENOSPC);
	CU_ASSERT(fake_is_clean(&a));
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), iova);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* An attach that failed has settled nothing: the next device still chooses. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL), 0);
	fake_init(&b, "wide", 48);
	b.own.info.max_mappings = 0;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), -ENOSPC);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m), SVIO_IOVA_BAD);
	fake_init(&a, "narrow", 39);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT(svio_ioas_iova(ioas, m) >> 39 == 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* A space that ends at 2^64 is walked to its end and no further. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY);
	fake_init(&a, "last page", 64);
	a.own.info.num_ranges = 1;
	a.own.info.ranges[0] = (struct svio_iova_range){ UINT64_MAX - 4095, UINT64_MAX };
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(iova, UINT64_MAX - 4095);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 4096, RW, -1, 0, &iova), -ENOSPC);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* An IOMMU of 64 KiB pages. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	fake_init(&a, "64k pages", 48);
	a.own.info.pgsizes = 64 * KIB;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, &iova), -EINVAL);
	SAYS("pages of 65536");
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 64 * KIB, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);

	/* A kernel or a peer that answers nonsense. */
	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	fake_init(&a, "a", 48);
	a.own.info.num_ranges = SVIO_DMA_MAX_RANGES + 1;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), -EPROTO);
	a.own.info.num_ranges = 0;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), -EPROTO);
	CU_ASSERT(fake_is_clean(&a));
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, 4 * GIB);
	munmap(late, 4096);
}

static void test_devices(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	struct svio_ioas_stats s;
	struct fake_dev a, b, c, d;
	uint8_t *m = addresses(64 * KIB, 4096);

	fake_init(&a, "a", 48);
	fake_init(&b, "b", 48);
	fake_init(&c, "c", 48);
	fake_init(&d, "d", 48);
	c.lonely = true;
	d.busy = true;
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), 0); /* joins a's domain */
	CU_ASSERT_PTR_EQUAL(b.domain, &a.own);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&c)), 0); /* cannot */
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&d)), 0); /* could, if it had no BARs */
	CU_ASSERT_PTR_EQUAL(d.domain, &d.own);
	svio_ioas_get_stats(ioas, &s);
	CU_ASSERT_EQUAL(s.devices, 4);
	CU_ASSERT_EQUAL(s.domains, 3);
	CU_ASSERT_EQUAL(a.own.num_maps, 1);
	CU_ASSERT_EQUAL(c.own.num_maps, 1);
	CU_ASSERT_EQUAL(d.own.num_maps, 1);

	/* Once, so that nothing is left to allocate. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 8192, 4096), 0);
	/* One device fails: none of the others keeps the mapping. Domains are asked d, c, a: fail each. */
	for (int n = 1; n <= 3; n++) {
		fail_nth(n);
		CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, NULL), -EIO);
		CU_ASSERT(fail_hit);
		fail_nth(0);
		SAYS("simulated failure");
		CU_ASSERT_EQUAL(a.own.num_maps + c.own.num_maps + d.own.num_maps, 3);
		CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 8192), SVIO_IOVA_BAD);
	}
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(a.own.num_maps + c.own.num_maps + d.own.num_maps, 6);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 8192, 4096), 0);

	/* The first leaves, the one that joined it stays served. */
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&b)), 0);
	CU_ASSERT(fake_is_clean(&b));
	CU_ASSERT_EQUAL(a.own.num_maps, 1);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&c)), 0);
	CU_ASSERT(fake_is_clean(&c));
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&d)), 0);
	CU_ASSERT(fake_is_clean(&d));

	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), 0);
	CU_ASSERT_PTR_EQUAL(b.domain, &a.own);

	/* Two functions of one group move together: while one stays attached, the other is not moved out. */
	b.group = a.group;
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&b)), 0);
	CU_ASSERT_PTR_EQUAL(b.domain, &a.own);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);
	CU_ASSERT_EQUAL(a.own.refs, 2); /* a's and b's; not ours */
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, 64 * KIB);
}

/* A vfio-user server's limit is its own: no kernel parameter helps. */
static void test_peer_limit(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	uint8_t *m = addresses(MIB, 4096);
	struct fake_dev a;

	fake_init(&a, "a", 48);
	a.peer = true;
	a.own.info.max_mappings = 1;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 4096, RW, -1, 0, NULL), -ENOSPC);
	SAYS("a: 1 DMA mappings are needed, 0 are left of the server's max_dma_maps");
	CU_ASSERT_PTR_NULL(strstr(svio_last_error(), "/sys/"));
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	a.own.info.max_mappings = 0;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), -ENOSPC);
	SAYS("max_dma_maps");
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, MIB);
}

static void test_limits(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	struct rlimit before, little;
	struct fake_dev a, b;
	uint8_t *m = addresses(MIB, 4096);

	fake_init(&a, "a", 48);
	a.own.info.max_mappings = 2;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, NULL), -ENOSPC);
	SAYS("a: 1 DMA mappings are needed, 0 are left of the kernel's dma_entry_limit");
	SAYS("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 8192, 4096, RW, -1, 0, NULL), 0);
	/* Others use the domain too: what was counted is looked up again before it is refused. */
	a.own.info.max_mappings = 3;
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL), 0);

	/* At attach: known before the first is mapped. */
	fake_init(&b, "b", 48);
	b.lonely = true;
	b.own.info.max_mappings = 2;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), -ENOSPC);
	SAYS("b: 3 DMA mappings are needed, 2 are left");
	CU_ASSERT(fake_is_clean(&b));

	getrlimit(RLIMIT_MEMLOCK, &before);
	little = (struct rlimit){ 512 * KIB, before.rlim_max };
	setrlimit(RLIMIT_MEMLOCK, &little);
	fake_init(&b, "b", 48);
	b.lonely = true;
	b.own.info.accounts_memlock = true;
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 64 * KIB, 600 * KIB, RW, -1, 0, NULL), -ENOSPC);
	a.own.info.max_mappings = 100;
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 64 * KIB, 600 * KIB, RW, -1, 0, NULL), 0); /* a's does not count */
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), -ENOMEM);
	SAYS("b: 612 KiB of DMA memory would be locked");
	SAYS("RLIMIT_MEMLOCK is 512 KiB: raise it to 612 KiB or more: ulimit -l 612");
	CU_ASSERT(fake_is_clean(&b));
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 64 * KIB, 600 * KIB), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 64 * KIB, 600 * KIB, RW, -1, 0, NULL), -ENOMEM);
	CU_ASSERT_EQUAL(a.own.num_maps, 3);
	CU_ASSERT_EQUAL(b.own.num_maps, 3);
	setrlimit(RLIMIT_MEMLOCK, &before);

	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&b)), 0);
	CU_ASSERT(fake_is_clean(&a) && fake_is_clean(&b));
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, MIB);
}

static int touch(void *p)
{
	signal(SIGSEGV, SIG_DFL);
	return *(volatile uint8_t *)p;
}

static void test_memory_appears(void)
{
	struct svio_ioas *early = NULL, *late = make_ioas(0);
	uint8_t *m = mmap(NULL, 64 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fake_dev a, b;
	int status;
	pid_t pid;

	CU_ASSERT_NOT_EQUAL_FATAL(m, MAP_FAILED);
	fake_init(&a, "a", 48);
	fake_init(&b, "b", 48);
	CU_ASSERT_EQUAL(svio_mem_register(m, 8192, -1, 0), 0);
	CU_ASSERT_EQUAL_FATAL(svio_ioas_create(NULL, &early), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(early, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_attach(late, DEV(&b)), 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(early, m), U(m));
	CU_ASSERT_EQUAL(svio_ioas_iova(late, m + 8191), U(m + 8191));
	CU_ASSERT_EQUAL(svio_mem_register(m + 16384, 4096, 5, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(early, m + 16384), U(m + 16384));
	CU_ASSERT_EQUAL(fake_find(&a, m + 16384)->fd, 5);
	CU_ASSERT_EQUAL(fake_find(&b, m + 16384)->fd_offset, 4096);
	/* Room mem's memory is room mem's to unmap. */
	CU_ASSERT_EQUAL(svio_ioas_unmap(early, m, 8192), -EINVAL);

	/* One address space refuses: the registration fails, and the other has it no more. */
	b.own.info.max_mappings = 2;
	CU_ASSERT_EQUAL(svio_mem_register(m + 32768, 4096, -1, 0), -ENOSPC);
	SAYS("b: ");
	CU_ASSERT_EQUAL(a.own.num_maps, 2);
	CU_ASSERT_EQUAL(svio_ioas_iova(early, m + 32768), SVIO_IOVA_BAD);

	/* fork: neither registered nor mapped memory reaches a child. */
	CU_ASSERT_EQUAL(svio_ioas_map(early, m + 49152, 4096, RW, -1, 0, NULL), 0);
	for (int i = 0; i < 2; i++) {
		fflush(NULL);
		pid = fork();
		if (pid == 0)
			_exit(touch(i ? m + 49152 : m));
		CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
		CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}

	CU_ASSERT_EQUAL(svio_mem_unregister(m, 8192), 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(early, m), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(b.own.num_maps, 1);
	CU_ASSERT_EQUAL(svio_ioas_detach(late, DEV(&b)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(late), 0);
	CU_ASSERT_EQUAL(svio_mem_unregister(m + 16384, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(early, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(early), 0);
	CU_ASSERT(fake_is_clean(&a) && fake_is_clean(&b));
	munmap(m, 64 * KIB);
}

static void run_hooks(struct fake_dev *d, bool prepare, int err)
{
	for (struct svio_device_hook *h = d->hooks; h; h = h->next) {
		CU_ASSERT_EQUAL(h->stage, SVIO_HOOK_IOAS);
		if (prepare)
			h->prepare(h->ctx, DEV(d));
		else
			h->done(h->ctx, DEV(d), err);
	}
}

static void test_bar(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	struct fake_dev a, b, owner;
	uint8_t *m = addresses(64 * KIB, 4096);
	struct svio_bar bar = { .addr = m + 4096 + 256, .len = 4096, .dev = DEV(&owner) };
	struct svio_bar nope = { .addr = m, .len = 4096, .dev = DEV(&owner) };
	uint64_t iova = 0;

	fake_init(&a, "a", 48);
	fake_init(&b, "b", 48);
	fake_init(&owner, "owner", 48);
	b.lonely = true;
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	bar_is_revoked = true;
	CU_ASSERT_EQUAL(svio_ioas_map_bar(ioas, &bar, &iova), -EAGAIN);
	bar_is_revoked = false;
	CU_ASSERT_PTR_NULL(owner.hooks);
	/* Whole pages are mapped; the IOVA is that of the first byte. */
	CU_ASSERT_EQUAL(svio_ioas_map_bar(ioas, &bar, &iova), 0);
	CU_ASSERT_EQUAL(iova, U(bar.addr));
	CU_ASSERT_EQUAL(fake_find(&a, m + 4096)->len, 8192);
	CU_ASSERT_EQUAL(svio_ioas_map_bar(ioas, &bar, &iova), -EEXIST);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, bar.addr, bar.len), iova);

	/* An orderly reset: away before, back after; a device attached meanwhile gets it with the others. */
	run_hooks(&owner, true, 0);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, bar.addr), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 4096, RW, -1, 0, NULL), -EEXIST); /* its addresses stay its own */
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&b)), 0);
	CU_ASSERT_EQUAL(b.own.num_maps, 0);
	run_hooks(&owner, false, 0);
	CU_ASSERT_EQUAL(a.own.num_maps, 1);
	CU_ASSERT_EQUAL(b.own.num_maps, 1);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, bar.addr), iova);
	/* Still away after the reset: it stays withdrawn. Gone for good: too. */
	run_hooks(&owner, true, 0);
	bar_is_revoked = true;
	run_hooks(&owner, false, 0);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);
	bar_is_revoked = false;
	run_hooks(&owner, false, -ENODEV);
	CU_ASSERT_EQUAL(a.own.num_maps, 0);
	/* Lost and found without a reset of ours. */
	CU_ASSERT_EQUAL(svio_ioas_sync_bar(ioas, &bar), 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, bar.addr), iova);
	bar_is_revoked = true;
	CU_ASSERT_EQUAL(svio_ioas_sync_bar(ioas, &bar), 0);
	CU_ASSERT_EQUAL(a.own.num_maps + b.own.num_maps, 0);
	bar_is_revoked = false;
	/* A device that refuses it now: the others do not get it back either, and the next attempt works. */
	fail_nth(2);
	CU_ASSERT_EQUAL(svio_ioas_sync_bar(ioas, &bar), -EIO);
	fail_nth(0);
	CU_ASSERT_EQUAL(a.own.num_maps + b.own.num_maps, 0);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, bar.addr), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_sync_bar(ioas, &bar), 0);
	CU_ASSERT_EQUAL(a.own.num_maps + b.own.num_maps, 2);

	CU_ASSERT_EQUAL(svio_ioas_sync_bar(ioas, &nope), -ENOENT);
	CU_ASSERT_EQUAL(svio_ioas_unmap_bar(ioas, &nope), -ENOENT);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 4096, 8192), -EINVAL);
	CU_ASSERT_EQUAL(svio_ioas_unmap_bar(ioas, &bar), 0);
	CU_ASSERT_EQUAL(a.own.num_maps + b.own.num_maps, 0);
	CU_ASSERT_PTR_NULL(owner.hooks);
	/* Destroyed with a BAR in it, withdrawn: nothing is left either. */
	CU_ASSERT_EQUAL(svio_ioas_map_bar(ioas, &bar, NULL), 0);
	run_hooks(&owner, true, 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&b)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	CU_ASSERT(fake_is_clean(&a) && fake_is_clean(&b) && fake_is_clean(&owner));
	munmap(m, 64 * KIB);
}

static void test_table(void)
{
	struct svio_ioas *ioas = make_ioas(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY);
	uint8_t *m = addresses(4 * GIB, GIB);
	struct fake_dev a;
	uint64_t iova, i2;

	fake_init(&a, "a", 48);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	/* A 4 KiB leaf deep down, then a mapping whose large leaves must live beside and above the nodes it left. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + GIB + 2 * MIB, 4096, RW, -1, 0, NULL), 0);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + GIB + 2 * MIB, 4096), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 4096, 3 * GIB, RW, -1, 0, &iova), 0);
	for (uint64_t off = 0; off < 3 * GIB; off += 37 * MIB + 12345)
		if (svio_ioas_lookup(ioas, U(m) + 4096 + off, 3 * GIB - off) != iova + off)
			CU_FAIL("lookup differs");
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, U(m) + GIB + 2 * MIB + 4095, 1), iova + GIB + 2 * MIB - 1);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, U(m) + 4095, 1), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, U(m) + 4096 + 3 * GIB, 1), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, U(m) + 4096, 3 * GIB + 1), SVIO_IOVA_BAD);
	/* A neighbour: a range over both is in neither. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m, 4096, RW, -1, 0, &i2), 0);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, U(m) + 4095, 1), i2 + 4095);
	CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + 4095, 2), SVIO_IOVA_BAD);
	/* The hot range is the large one; it goes, the other serves. */
	CU_ASSERT_EQUAL(ioas->hot.range->len, 3 * GIB);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + 4096, 3 * GIB), 0);
	CU_ASSERT_EQUAL(ioas->hot.range->len, 4096);
	CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + 4096), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m, 4096), 0);
	CU_ASSERT_EQUAL(ioas->hot.range->len, 0);

	/* Many different largest mappings: the hot range gives up, translation does not. */
	for (uint64_t i = 0; i < 100; i++) {
		CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + i * 4096, (i + 1) * 4096, RW, -1, 0, &iova), 0);
		CU_ASSERT_EQUAL(svio_ioas_iova_range(ioas, m + i * 4096 + 1, (i + 1) * 4096 - 1), iova + 1);
		CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, m + i * 4096, (i + 1) * 4096), 0);
		CU_ASSERT_EQUAL(svio_ioas_iova(ioas, m + i * 4096), SVIO_IOVA_BAD);
	}
	CU_ASSERT_EQUAL(ioas->num_hots, 64);
	/* One that was hot before is hot again. */
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, m + 5 * 4096, 6 * 4096, RW, -1, 0, &iova), 0);
	CU_ASSERT_EQUAL(ioas->hot.range->va, U(m) + 5 * 4096);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(m, 4 * GIB);
}

/* Everything once, with the n-th call that can fail failing: an error, and nothing left of it, for every n. */
static int everything(struct fake_dev *a, struct fake_dev *b, struct fake_dev *c, uint8_t *m)
{
	struct svio_bar bar = { .addr = m + 2 * MIB, .len = 4096, .dev = DEV(c) };
	struct svio_ioas *ioas;
	bool att[3] = { false }, registered = false, late = false;
	int rc;

	rc = svio_mem_register(m, 4096, -1, 0);
	if (rc)
		return rc;
	registered = true;
	rc = svio_ioas_create(NULL, &ioas);
	if (rc)
		goto unregister;
	rc = svio_ioas_map(ioas, m + MIB, 4096, RW, -1, 0, NULL);
	if (!rc)
		att[0] = (rc = svio_ioas_attach(ioas, DEV(a))) == 0;
	if (!rc)
		att[1] = (rc = svio_ioas_attach(ioas, DEV(b))) == 0;
	if (!rc)
		att[2] = (rc = svio_ioas_attach(ioas, DEV(c))) == 0;
	if (!rc)
		rc = svio_ioas_map_bar(ioas, &bar, NULL);
	if (!rc)
		rc = svio_mem_register(m + 4 * MIB, 4 * MIB, -1, 0);
	late = !rc;
	for (int i = 0; i < 20 && !rc; i++)
		rc = svio_ioas_map(ioas, m + 16 * MIB + i * 8192, 4096, RW, -1, 0, NULL);
	fail_at = 0; /* the way back is not to fail */
	if (rc)
		CU_ASSERT(svio_last_error()[0] != '\0');
	if (late)
		CU_ASSERT_EQUAL(svio_mem_unregister(m + 4 * MIB, 4 * MIB), 0);
	if (att[2])
		CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(c)), 0);
	if (att[1])
		CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(b)), 0);
	if (att[0])
		CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
unregister:
	fail_at = 0;
	if (registered)
		CU_ASSERT_EQUAL(svio_mem_unregister(m, 4096), 0);
	return rc;
}

static void test_fail_nth(void)
{
	uint8_t *m = addresses(32 * MIB, 2 * MIB);
	struct fake_dev a, b, c;
	int n, rc = 0;

	for (n = 1; n < 500; n++) {
		fake_init(&a, "a", 48);
		fake_init(&b, "b", 48);
		fake_init(&c, "c", 48);
		c.lonely = true;
		svio_clear_error();
		fail_nth(n);
		rc = everything(&a, &b, &c, m);
		CU_ASSERT(fake_is_clean(&a));
		CU_ASSERT(fake_is_clean(&b));
		CU_ASSERT(fake_is_clean(&c));
		if (!fail_hit)
			break;
		if (rc == 0)
			printf(" [call %d may fail unseen]", n);
		CU_ASSERT_NOT_EQUAL(rc, 0);
	}
	CU_ASSERT_EQUAL(rc, 0);
	CU_ASSERT(n > 60);
	munmap(m, 32 * MIB);
}

static const struct unit_test tests[] = {
	{ "IOVA = VA, from the first device on, to the byte", test_identity },
	{ "overlap, partial unmap and bad arguments are refused and change nothing", test_refusals },
	{ "where identity does not fit, IOVAs are allocated, congruent to superpages", test_allocator },
	{ "devices share a domain or get their own; a failure unwinds all", test_devices },
	{ "dma_entry_limit and RLIMIT_MEMLOCK are known beforehand", test_limits },
	{ "so is a vfio-user server's limit", test_peer_limit },
	{ "memory of room mem appears and disappears by itself", test_memory_appears },
	{ "a BAR for peer-to-peer goes before a reset and comes back after", test_bar },
	{ "the table: leaves of all sizes, neighbours, the hot range", test_table },
	{ "every call that can fail does, and leaves nothing", test_fail_nth },
	{ NULL, NULL }
};

int main(void)
{
	return unit_run("ioas", tests);
}
