/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Room ioas on real VFIO, inside the lab's guest. Run by t_ioas.sh, which prepares the machine for each case:
 *
 *	ioas_probe two DEV DEV		two devices, one address space
 *	ioas_probe entries DEV		with vfio_iommu_type1.dma_entry_limit=8
 *	ioas_probe memlock DEV		as an ordinary user with a small RLIMIT_MEMLOCK
 *	ioas_probe enough DEV		the same with a sufficient one
 *	ioas_probe overlap DEV
 *	ioas_probe models DEV DEV	two vfio-user devices in one address space: each has a domain of its own
 *	ioas_probe aperture DEV		under an IOMMU of 39 bits
 *	ioas_probe numa			memory of two nodes
 *
 * Prints "ok - …" and "not ok - …" lines, and exits with 1 if there was one of the latter. Each case runs twice in the process,
 * and counts descriptors, DMA memory locked, and mappings of DMA memory before and after.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "svio_ioas.h"

#define MIB (UINT64_C(1) << 20)
#define RW  (SVIO_DMA_READ | SVIO_DMA_WRITE)

static int failed;

static void check(bool good, const char *fmt, ...) SVIO_PRINTF(2, 3);
static void check(bool good, const char *fmt, ...)
{
	va_list ap;

	printf(good ? "ok - " : "not ok - ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	failed |= !good;
}

/* An error as it should be, with the words that a user needs. */
static void check_error(const char *what, int got, int want, const char *words)
{
	const char *said = svio_last_error();

	check(got == want && strstr(said, words), "%s is %d", what, want);
	printf("#  %d: %s\n", got, said);
}

/* ---- what must be as before ----------------------------------------------------------------------------- */

struct residue {
	int fds, maps;
	long locked, pinned; /* KiB */
};

static struct residue residue(void)
{
	struct residue r = { 0, 0, -1, -1 };
	DIR *d = opendir("/proc/self/fd");
	char line[512];
	FILE *f;

	while (d && readdir(d))
		r.fds++;
	if (d)
		closedir(d);
	f = fopen("/proc/self/status", "re");
	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "VmLck: %ld", &r.locked);
		sscanf(line, "VmPin: %ld", &r.pinned);
	}
	if (f)
		fclose(f);
	f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		r.maps += strstr(line, "svio-node") != NULL || strstr(line, "vfio") != NULL;
	if (f)
		fclose(f);
	return r;
}

static struct svio_device *open_device(const char *name)
{
	struct svio_device *dev = NULL;
	int rc = svio_device_open(name, NULL, &dev);

	if (rc) {
		check(false, "%s opens: %s", name, svio_last_error());
		exit(1);
	}
	return dev;
}

static struct svio_ioas *make(uint32_t flags)
{
	const struct svio_ioas_opts opts = { .size = sizeof(opts), .flags = flags };
	struct svio_ioas *ioas = NULL;

	if (svio_ioas_create(&opts, &ioas)) {
		check(false, "an address space is made: %s", svio_last_error());
		exit(1);
	}
	return ioas;
}

static uint8_t *pages(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED) {
		check(false, "%zu bytes of memory", len);
		exit(1);
	}
	return p;
}

static void gone(struct svio_ioas *ioas, struct svio_device *dev)
{
	int rc = dev ? svio_ioas_detach(ioas, dev) : 0;

	rc = rc ? rc : svio_ioas_destroy(ioas);
	check(rc == 0, "detached and destroyed");
	svio_device_close(dev);
}

/* ---- cases ---------------------------------------------------------------------------------------------- */

static void two(char **names)
{
	struct svio_device *a = open_device(names[0]), *b = open_device(names[1]);
	struct svio_ioas *ioas = make(0);
	struct svio_ioas_stats s;
	long locked;
	void *p, *q;

	check(svio_ioas_attach(ioas, a) == 0, "the first device is attached");
	locked = residue().locked;
	check(locked >= 65536, "its 64 MiB are locked: %ld KiB", locked);
	check(svio_ioas_attach(ioas, b) == 0, "the second device is attached");
	check(residue().locked == locked, "nothing is locked twice: %ld KiB", residue().locked);
	check(svio_device_domain(a) == svio_device_domain(b), "both are in one container");
	svio_ioas_get_stats(ioas, &s);
	check(s.devices == 2 && s.domains == 1, "%" PRIu64 " devices, %" PRIu64 " domains", s.devices, s.domains);
	p = svio_mem_alloc(4096, 0, -1);
	check(p && svio_ioas_iova(ioas, p) == (uintptr_t)p && s.identity, "IOVA = VA");
	q = svio_mem_alloc(80 * MIB, 0, -1);
	check(q && svio_ioas_iova_range(ioas, q, 80 * MIB) == (uintptr_t)q, "memory that the arena grew by is mapped");
	check(residue().locked >= locked + 80 * 1024, "and locked: %ld KiB", residue().locked);
	svio_mem_free(p);
	svio_mem_free(q);
	check(svio_ioas_detach(ioas, b) == 0, "the second is detached");
	check(svio_device_domain(a) != svio_device_domain(b), "and out of the container");
	svio_device_close(b);
	gone(ioas, a);
}

/* vfio-user: no container, nothing locked; whoever serves the device has what is mapped, in the same place. */
static void models(char **names)
{
	struct svio_device *a = open_device(names[0]), *b = open_device(names[1]);
	struct svio_ioas *ioas = make(0);
	struct svio_dma_map again = { .len = 4096, .prot = RW, .fd = -1 };
	struct svio_ioas_stats s;
	uint8_t *p, *q, *m = pages(8192);

	check(svio_ioas_attach(ioas, a) == 0, "the first device is attached");
	p = svio_mem_alloc(4096, 4096, -1);
	check(p && svio_ioas_iova(ioas, p) == (uintptr_t)p, "IOVA = VA");
	check(svio_ioas_map(ioas, m, 4096, RW, -1, 0, NULL) == 0, "memory without a descriptor is mapped");
	check(svio_ioas_attach(ioas, b) == 0, "the second device is attached");
	svio_ioas_get_stats(ioas, &s);
	check(s.devices == 2 && s.domains == 2 && s.identity, "%" PRIu64 " devices, %" PRIu64 " domains", s.devices, s.domains);
	q = svio_mem_alloc(80 * MIB, 0, -1);
	check(q && svio_ioas_iova_range(ioas, q, 80 * MIB) == (uintptr_t)q, "memory that the arena grew by is mapped");
	/* Each connection has it in its own book, of what its server was told. */
	for (int i = 0; i < 3; i++) {
		again.vaddr = m + 4096;
		again.iova = i == 0 ? (uintptr_t)p : i == 1 ? (uintptr_t)q : (uintptr_t)m;
		check(svio_dma_map(svio_device_domain(a), &again) == -EEXIST && svio_dma_map(svio_device_domain(b), &again) == -EEXIST,
		      "it is there on both: %d", i);
	}
	check(svio_ioas_detach(ioas, a) == 0, "the first is detached");
	again.iova = (uintptr_t)m;
	check(svio_dma_map(svio_device_domain(a), &again) == 0 && svio_dma_unmap(svio_device_domain(a), again.iova, 4096) == 0,
	      "nothing is left in it");
	check(svio_dma_map(svio_device_domain(b), &again) == -EEXIST, "the second has it still");
	svio_device_close(a);
	svio_mem_free(p);
	svio_mem_free(q);
	gone(ioas, b);
	munmap(m, 8192);
}

static void entries(char **names)
{
	struct svio_device *a = open_device(names[0]);
	struct svio_ioas *ioas = make(SVIO_IOAS_NO_AUTO);
	struct svio_ioas_stats s;
	uint8_t *m = pages(64 * 8192);
	int n = 0, rc;

	check(svio_ioas_attach(ioas, a) == 0, "attached");
	svio_ioas_get_stats(ioas, &s);
	check(s.entries_left == 8, "%" PRIu64 " mappings may be made", s.entries_left);
	while ((rc = svio_ioas_map(ioas, m + n * 8192, 4096, RW, -1, 0, NULL)) == 0 && n < 63)
		n++;
	check_error("one too many", rc, -ENOSPC, "parameters/dma_entry_limit");
	check(n == 8, "after %d", n);
	check(svio_ioas_iova(ioas, m + n * 8192) == SVIO_IOVA_BAD, "it is not half there");
	check(svio_ioas_unmap(ioas, m, 4096) == 0, "one is unmapped");
	check(svio_ioas_map(ioas, m + n * 8192, 4096, RW, -1, 0, NULL) == 0, "and makes room for another");
	gone(ioas, a);

	/* Too many for a device that comes later. */
	a = open_device(names[0]);
	ioas = make(SVIO_IOAS_NO_AUTO);
	for (n = 0; n < 9; n++)
		rc = svio_ioas_map(ioas, m + n * 8192, 4096, RW, -1, 0, NULL);
	check_error("attach with nine", svio_ioas_attach(ioas, a), -ENOSPC, "9 DMA mappings are needed, 8 are left");
	check(residue().locked == 0, "nothing is locked");
	check(svio_ioas_unmap(ioas, m, 4096) == 0 && svio_ioas_attach(ioas, a) == 0, "with eight it attaches");
	gone(ioas, a);
	munmap(m, 64 * 8192);
}

static void memlock(char **names)
{
	struct svio_device *a = open_device(names[0]);
	struct svio_ioas *ioas = make(0);
	uint8_t *m;

	check(geteuid() != 0, "as user %d", (int)geteuid());
	check_error("attach", svio_ioas_attach(ioas, a), -ENOMEM, "RLIMIT_MEMLOCK is 1024 KiB: raise it to 65536 KiB or more: ulimit -l 65536");
	check(residue().locked == 0, "nothing is locked");
	gone(ioas, NULL);
	/* The same device, with what fits. */
	ioas = make(SVIO_IOAS_NO_AUTO);
	m = pages(2 * MIB);
	check(svio_ioas_attach(ioas, a) == 0, "without the arena it attaches");
	check(svio_ioas_map(ioas, m, 512 * 1024, RW, -1, 0, NULL) == 0, "512 KiB are mapped");
	check(residue().locked == 512, "%ld KiB are locked", residue().locked);
	check_error("1 MiB more", svio_ioas_map(ioas, m + MIB, MIB, RW, -1, 0, NULL), -ENOMEM, "ulimit -l 1536");
	check(residue().locked == 512, "%ld KiB are locked", residue().locked);
	gone(ioas, a);
	munmap(m, 2 * MIB);
}

static void enough(char **names)
{
	struct svio_device *a = open_device(names[0]);
	struct svio_ioas *ioas = make(0);
	void *p = svio_mem_alloc(4096, 0, -1);

	check(geteuid() != 0, "as user %d", (int)geteuid());
	check(svio_ioas_attach(ioas, a) == 0, "attached: %s", svio_last_error());
	check(p && svio_ioas_iova(ioas, p) == (uintptr_t)p, "IOVA = VA");
	/* The limit is in the way of growth: the allocation fails, and says why. */
	check(!svio_mem_alloc(200 * MIB, 0, -1), "200 MiB more are refused");
	check_error("the reason", -ENOMEM, -ENOMEM, "RLIMIT_MEMLOCK is 131072 KiB");
	check(residue().locked == 65536, "%ld KiB are locked", residue().locked);
	svio_mem_free(p);
	gone(ioas, a);
}

static void overlap(char **names)
{
	struct svio_device *a = open_device(names[0]);
	struct svio_ioas *ioas = make(0);
	const struct svio_dma_map again = { .vaddr = pages(4096), .len = 4096, .prot = RW, .fd = -1 };
	struct svio_dma_map map = again;
	uint8_t *m = pages(64 * 4096);
	uint64_t iova;

	check(svio_ioas_attach(ioas, a) == 0, "attached");
	check(svio_ioas_map(ioas, m + 16 * 4096, 32 * 4096, RW, -1, 0, &iova) == 0, "mapped");
	check_error("overlap at the left", svio_ioas_map(ioas, m, 17 * 4096, RW, -1, 0, NULL), -EEXIST, "overlaps");
	check_error("overlap at the right", svio_ioas_map(ioas, m + 47 * 4096, 4096, RW, -1, 0, NULL), -EEXIST, "overlaps");
	check_error("registered twice", svio_mem_register(m, 64 * 4096, -1, 0), -EEXIST, "overlaps");
	check_error("part unmapped", svio_ioas_unmap(ioas, m + 16 * 4096, 4096), -EINVAL, "exactly");
	/* The kernel agrees about what is there. */
	map.iova = iova + 31 * 4096;
	check(svio_dma_map(svio_device_domain(a), &map) == -EEXIST, "the last page is mapped in the IOMMU");
	map.iova = iova + 32 * 4096;
	check(svio_dma_map(svio_device_domain(a), &map) == 0, "the one behind it is free");
	check(svio_dma_unmap(svio_device_domain(a), map.iova, 4096) == 0, "and given back");
	check(svio_mem_register(m, 16 * 4096, -1, 0) == 0, "a neighbour is registered");
	check(svio_ioas_iova_range(ioas, m + 15 * 4096, 8192) == SVIO_IOVA_BAD, "a range over both is in neither");
	check(svio_mem_unregister(m, 16 * 4096) == 0, "and unregistered");
	check(svio_ioas_unmap(ioas, m + 16 * 4096, 32 * 4096) == 0, "unmapped");
	map.iova = iova;
	map.len = 4096;
	check(svio_dma_map(svio_device_domain(a), &map) == 0 && svio_dma_unmap(svio_device_domain(a), iova, 4096) == 0,
	      "nothing is left in the IOMMU");
	gone(ioas, a);
	munmap(m, 64 * 4096);
	munmap(again.vaddr, 4096);
}

static void aperture(char **names)
{
	struct svio_device *a = open_device(names[0]);
	struct svio_ioas *ioas = make(0);
	struct svio_ioas_stats s;
	struct svio_dma_map map = { .prot = RW, .fd = -1, .len = 4096, .iova = UINT64_C(1) << 39 };
	uint8_t *m = pages(4 * MIB), *p = svio_mem_alloc(4 * MIB, 2 * MIB, -1);
	uint64_t iova;

	check((uintptr_t)p >> 39, "memory is at %p, above 39 bits", (void *)p);
	check(svio_ioas_attach(ioas, a) == 0, "it attaches all the same: %s", svio_last_error());
	iova = svio_ioas_iova_range(ioas, p, 4 * MIB);
	check(iova >> 39 == 0, "with an IOVA below: 0x%" PRIx64, iova);
	check(iova % (2 * MIB) == (uintptr_t)p % (2 * MIB), "congruent modulo 2 MiB");
	svio_ioas_get_stats(ioas, &s);
	check(!s.identity, "and the statistics say it");
	map.vaddr = m;
	check(svio_dma_map(svio_device_domain(a), &map) == -EINVAL, "the kernel refuses bit 39");
	svio_mem_free(p);
	gone(ioas, a);

	/* An IOVA that was given out cannot move. */
	a = open_device(names[0]);
	ioas = make(SVIO_IOAS_NO_AUTO);
	check(svio_ioas_map(ioas, m, 4 * MIB, RW, -1, 0, &iova) == 0 && iova == (uintptr_t)m, "IOVA = VA is given out early");
	check_error("attach", svio_ioas_attach(ioas, a), -ENOSPC, "its IOMMU cannot map");
	check(residue().locked == 0, "nothing is locked");
	check(svio_ioas_unmap(ioas, m, 4 * MIB) == 0 && svio_ioas_attach(ioas, a) == 0, "without it, it attaches");
	gone(ioas, a);
	munmap(m, 4 * MIB);
}

static void numa(char **names)
{
	struct svio_mem_stats s;

	(void)names;
	for (int node = 0; node < 2; node++) {
		uint8_t *p = svio_mem_alloc(MIB, 0, node);
		int at = -1;

		check(p != NULL, "memory of node %d", node);
		check(p && (uintptr_t)p >= SVIO_MEM_BASE + (uint64_t)node * SVIO_MEM_NODE_STRIDE &&
			      (uintptr_t)p < SVIO_MEM_BASE + (uint64_t)(node + 1) * SVIO_MEM_NODE_STRIDE, "in its arena: %p", (void *)p);
		if (!p || get_mempolicy(&at, NULL, 0, p, MPOL_F_NODE | MPOL_F_ADDR))
			at = -errno;
		check(at == node, "and on node %d", at);
		svio_mem_free(p);
	}
	svio_mem_get_stats(&s);
	check(s.arenas == 2, "%u arenas", s.arenas);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int devices;
		void (*run)(char **names);
	} cases[] = {
		{ "two", 2, two }, { "models", 2, models }, { "entries", 1, entries }, { "memlock", 1, memlock }, { "enough", 1, enough },
		{ "overlap", 1, overlap }, { "aperture", 1, aperture }, { "numa", 0, numa },
	};
	const struct svio_mem_opts opts = { .size = sizeof(opts), .huge = SVIO_MEM_HUGE_NEVER };
	struct residue before, after;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		if (argc != 2 + cases[i].devices || strcmp(argv[1], cases[i].name))
			continue;
		/* Once for EAL, which stays. */
		if (svio_mem_start(&opts)) {
			check(false, "memory: %s", svio_last_error());
			return 1;
		}
		svio_mem_stop();
		for (int round = 1; round <= 2; round++) {
			before = residue();
			if (svio_mem_start(&opts)) {
				check(false, "memory: %s", svio_last_error());
				return 1;
			}
			cases[i].run(argv + 2);
			svio_mem_stop();
			after = residue();
			check(before.fds == after.fds && before.maps == after.maps && before.locked == after.locked &&
				      before.pinned == after.pinned,
			      "%s, round %d, leaves nothing: %d fds, %d maps, %ld KiB locked, %ld KiB pinned", argv[1], round, after.fds,
			      after.maps, after.locked, after.pinned);
		}
		return failed;
	}
	fprintf(stderr, "usage: ioas_probe two|models|entries|memlock|enough|overlap|aperture|numa [DEVICE]...\n");
	return 2;
}
