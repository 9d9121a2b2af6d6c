/* SPDX-License-Identifier: BSD-3-Clause */
/* Sets of the process alone: what its own stores, and the kernel's for it, are reported as. Skipped where the kernel has no way. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "svio_dirty.h"
#include "unit.h"

#define PAGE  4096u
#define PAGES 1024u
#define LEN   (PAGES * PAGE)

static uint64_t bits[SVIO_BITMAP_WORDS(PAGES)];

static bool can(void)
{
	const char *why;

	if (svio_dirty_cpu_probe(&why) == SVIO_DIRTY_CPU_WP_ASYNC)
		return true;
	printf("(skipped: %s) ", why);
	return false;
}

static struct svio_dirty *begin(void *p, size_t len, uint64_t page_size)
{
	const struct svio_dirty_opts opts = {
		.size = sizeof(opts), .addr = (uintptr_t)p, .len = len, .page_size = page_size, .sources = SVIO_DIRTY_CPU,
	};
	struct svio_dirty *set = NULL;

	CU_ASSERT_EQUAL_FATAL(svio_dirty_start(&opts, &set), 0);
	return set;
}

static uint64_t sync_(struct svio_dirty *set, void *p, size_t len)
{
	uint64_t pages = 12345;

	memset(bits, 0, sizeof(bits));
	CU_ASSERT_EQUAL(svio_dirty_sync(set, (uintptr_t)p, len, bits, &pages), 0);
	return pages;
}

static bool is(uint64_t page)
{
	return svio_bitmap_test(bits, page);
}

static void one_kind(uint8_t *p)
{
	struct svio_dirty *set;
	struct svio_dirty_info info;
	uint64_t sum = 0;
	struct iovec local = { .iov_base = &sum, .iov_len = 8 }, remote = { .iov_base = p + 40 * PAGE, .iov_len = 8 };
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	CU_ASSERT_PTR_NOT_EQUAL_FATAL(p, MAP_FAILED);
	madvise(p, LEN, MADV_NOHUGEPAGE);
	memset(p, 1, LEN / 2); /* the other half is not there yet */
	set = begin(p, LEN, 0);
	svio_dirty_get_info(set, &info);
	CU_ASSERT_TRUE(info.exact);
	CU_ASSERT_EQUAL(info.cpu, SVIO_DIRTY_CPU_WP_ASYNC);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	/* Reading is not writing, also of what is not there. */
	for (uint32_t i = 0; i < PAGES; i++)
		sum += *(volatile uint8_t *)(p + i * PAGE);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	p[0] = 2;
	p[PAGE * 7 + 4095] = 2;
	p[PAGE * 600] = 2;
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 3);
	CU_ASSERT_TRUE(is(0) && is(7) && is(600));
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	/* The kernel's writes for us. */
	CU_ASSERT_EQUAL(read(fd, p + 20 * PAGE, 2 * PAGE), 2 * PAGE);
	CU_ASSERT_EQUAL(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 8);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 3);
	CU_ASSERT_TRUE(is(20) && is(21) && is(40));
	/* A part of the range: the rest is kept. */
	p[PAGE * 3] = 3;
	p[PAGE * 900] = 3;
	CU_ASSERT_EQUAL(sync_(set, p, 16 * PAGE), 1);
	CU_ASSERT_TRUE(is(3));
	CU_ASSERT_EQUAL(sync_(set, p + 512 * PAGE, 512 * PAGE), 1);
	CU_ASSERT_TRUE(is(900 - 512));
	svio_dirty_stop(set);
	p[0] = 4; /* nobody looks any more */
	close(fd);
	munmap(p, LEN);
}

static void test_kinds(void)
{
	int fd = memfd_create("shared", MFD_CLOEXEC);

	if (!can())
		return;
	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, LEN), 0);
	one_kind(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	one_kind(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	one_kind(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	one_kind(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	close(fd);
}

/* Mappings that change under a set: dropped, replaced, moved, given access. */
static void test_changes(void)
{
	uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *q;
	struct svio_dirty *set;

	if (!can())
		return;
	madvise(p, LEN, MADV_NOHUGEPAGE);
	memset(p, 1, LEN);
	CU_ASSERT_EQUAL(mprotect(p + 1000 * PAGE, 8 * PAGE, PROT_NONE), 0);
	set = begin(p, LEN, 0);
	CU_ASSERT_EQUAL(madvise(p + 10 * PAGE, 5 * PAGE, MADV_DONTNEED), 0);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 5);
	CU_ASSERT_TRUE(is(10) && is(14) && !is(15));
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	/* A hole, and something else in its place, written before anybody looked. */
	munmap(p + 100 * PAGE, 10 * PAGE);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	q = mmap(p + 102 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	q[0] = 1;
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 4);
	CU_ASSERT_TRUE(is(102) && is(105) && !is(101) && !is(106));
	q[PAGE] = 1;
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 1);
	CU_ASSERT_TRUE(is(103));
	/* Moved within the range: its new place is new. */
	q = mremap(p + 200 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 300 * PAGE);
	CU_ASSERT_PTR_EQUAL(q, p + 300 * PAGE);
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 2);
	CU_ASSERT_TRUE(is(300) && is(301));
	/* Writable only now. */
	CU_ASSERT_EQUAL(mprotect(p + 1000 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE), 0);
	p[1001 * PAGE] = 7;
	sync_(set, p, LEN);
	CU_ASSERT_TRUE(is(1001));
	CU_ASSERT_EQUAL(sync_(set, p, LEN), 0);
	svio_dirty_stop(set);
	munmap(p, LEN);
}

/* Two sets over the same memory, of different pages: one's sync takes nothing from the other. */
static void test_two(void)
{
	uint8_t *p = mmap(NULL, LEN + LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_dirty *a, *b;

	if (!can())
		return;
	p = (uint8_t *)SVIO_ALIGN_UP((uintptr_t)p, (uintptr_t)65536);
	madvise(p, LEN, MADV_NOHUGEPAGE);
	memset(p, 1, LEN);
	a = begin(p, LEN, 0);
	p[5 * PAGE] = 1;
	b = begin(p, LEN, 65536);
	CU_ASSERT_EQUAL(sync_(b, p, LEN), 0); /* it began later */
	p[17 * PAGE] = 1;
	p[18 * PAGE] = 1;
	CU_ASSERT_EQUAL(sync_(b, p, LEN), 1);
	CU_ASSERT_TRUE(is(1)); /* 16 pages each */
	CU_ASSERT_EQUAL(sync_(a, p, LEN), 3);
	CU_ASSERT_TRUE(is(5) && is(17) && is(18));
	svio_dirty_stop(a);
	p[100 * PAGE] = 1;
	CU_ASSERT_EQUAL(sync_(b, p, LEN), 1);
	svio_dirty_stop(b);
	svio_dirty_stop(NULL);
}

/* The last look names what a sync would, and takes nothing from those that come all the same. */
static void test_last(void)
{
	uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_dirty *a, *b;
	uint64_t pages = 0;

	if (!can())
		return;
	madvise(p, LEN, MADV_NOHUGEPAGE);
	memset(p, 1, LEN);
	a = begin(p, LEN, 0);
	b = begin(p, LEN, 0);
	p[3 * PAGE] = 2;
	CU_ASSERT_EQUAL(sync_(b, p, LEN), 1); /* kept for a */
	p[700 * PAGE] = 2;
	CU_ASSERT_EQUAL(madvise(p + 40 * PAGE, 2 * PAGE, MADV_DONTNEED), 0);
	CU_ASSERT_PTR_EQUAL(mmap(p + 80 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), p + 80 * PAGE);
	memset(bits, 0, sizeof(bits));
	svio_bitmap_set(bits, 1000); /* bits are added */
	CU_ASSERT_EQUAL(svio_dirty_last(a, (uintptr_t)p, LEN, bits, &pages), 0);
	CU_ASSERT_EQUAL(pages, 5);
	CU_ASSERT_EQUAL(svio_bitmap_weight(bits, PAGES), 6);
	CU_ASSERT_TRUE(is(3) && is(700) && is(40) && is(41) && is(80) && is(1000));
	p[9 * PAGE] = 2;
	p[700 * PAGE] = 3;
	CU_ASSERT_TRUE(sync_(a, p, LEN) >= 2);
	CU_ASSERT_TRUE(is(9) && is(700) && !is(8));
	CU_ASSERT_TRUE(sync_(b, p, LEN) >= 5);
	CU_ASSERT_TRUE(is(9) && is(700) && is(40) && is(41) && is(80) && !is(8));
	CU_ASSERT_EQUAL(sync_(a, p, LEN), 0); /* watched again */
	p[9 * PAGE] = 4;
	CU_ASSERT_EQUAL(sync_(a, p, LEN), 1);
	CU_ASSERT_EQUAL(svio_dirty_last(a, (uintptr_t)p + 1, LEN, bits, &pages), -EINVAL);
	svio_dirty_stop(a);
	svio_dirty_stop(b);
	munmap(p, LEN);
}

/* hugetlbfs: a store marks its huge page, all of it, and no other. */
static void test_huge(void)
{
	const size_t huge = 2 << 20, len = 2 * huge;
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	uint8_t *p = MAP_FAILED;
	struct svio_dirty *set;

	if (fd >= 0 && ftruncate(fd, (off_t)len) == 0)
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || !can()) {
		printf("(skipped: no hugepages) ");
		goto out;
	}
	memset(p, 1, len);
	set = begin(p, len, 0);
	CU_ASSERT_EQUAL(sync_(set, p, len), 0);
	p[huge + 12345] = 2;
	CU_ASSERT_EQUAL(sync_(set, p, len), 512);
	CU_ASSERT_TRUE(is(512) && is(1023) && !is(511));
	CU_ASSERT_EQUAL(sync_(set, p, len), 0);
	svio_dirty_stop(set);
	set = begin(p, len, huge);
	p[0] = 3;
	CU_ASSERT_EQUAL(sync_(set, p, len), 1);
	CU_ASSERT_TRUE(is(0));
	svio_dirty_stop(set);
	munmap(p, len);
out:
	if (fd >= 0)
		close(fd);
}

static void test_refused(void)
{
	static uint8_t mem[2 * PAGE] __attribute__((aligned(4096)));
	struct svio_dirty_opts good = { .size = sizeof(good), .addr = (uintptr_t)mem, .len = sizeof(mem), .sources = SVIO_DIRTY_CPU }, o;
	struct svio_dirty *set;
	uint64_t word = 0;
	int fds = unit_count_fds(), maps;

	CU_ASSERT_EQUAL(svio_dirty_start(NULL, &set), -EINVAL);
#define REFUSED(change)                                                        \
	do {                                                                   \
		o = good;                                                      \
		change;                                                        \
		CU_ASSERT_EQUAL(svio_dirty_start(&o, &set), -EINVAL);          \
	} while (0)
	REFUSED(o.size = 8);
	REFUSED(o.len = 0);
	REFUSED(o.len = 100);
	REFUSED(o.addr++);
	REFUSED(o.page_size = 5000);
	REFUSED(o.page_size = 512);
	REFUSED(o.page_size = UINT64_C(2) << 30);
	REFUSED(o.page_size = 1 << 21);
	REFUSED(o.sources = 1u << 9);
	REFUSED(o.space = (enum svio_dirty_space)7);
	REFUSED(o.space = SVIO_DIRTY_IOVA);
	REFUSED(o.num_ioas = 1);
	REFUSED(o.addr = UINT64_MAX - 4095);
	REFUSED(o.addr = UINT64_C(1) << 50);
	REFUSED(o.len = UINT64_C(32) << 40);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	if (!can())
		return;
	maps = unit_count_maps();
	CU_ASSERT_EQUAL_FATAL(svio_dirty_start(&good, &set), 0);
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr, 0, &word, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr - PAGE, PAGE, &word, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr + PAGE, 2 * PAGE, &word, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr + 1, PAGE, &word, NULL), -EINVAL);
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr, sizeof(mem), &word, NULL), 0);
	word = 0x10;
	mem[PAGE] = 1;
	CU_ASSERT_EQUAL(svio_dirty_sync(set, good.addr, sizeof(mem), &word, NULL), 0);
	CU_ASSERT_EQUAL(word, 0x12); /* bits are added */
	svio_dirty_stop(set);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(unit_count_maps(), maps);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "private, shared, of a file: written, read, written by the kernel", test_kinds },
		{ "mappings that are dropped, replaced, moved, or given access", test_changes },
		{ "two sets over the same memory", test_two },
		{ "the last look", test_last },
		{ "hugepages", test_huge },
		{ "what is refused; nothing is left behind", test_refused },
		{ NULL, NULL },
	};

	return unit_run("migrate/dirty_cpu", tests);
}
