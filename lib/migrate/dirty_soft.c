/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Soft-dirty bits (Linux Documentation/admin-guide/mm/soft-dirty.rst), for kernels before 6.7. /proc/self/pagemap has one bit a page, and
 * writing 4 to /proc/self/clear_refs clears them all: for the whole process, and not in one step with reading. A store
 * between the two would be lost, so all threads stand still meanwhile (dirty_freeze.c).
 *
 * What the bits do not tell, is answered for safety:
 *	- hugetlbfs has none that can be cleared: such memory is reported every time;
 *	- a page of a shared mapping that is not in the page table may have been written and thrown out of it: reported;
 *	- private pages that are pinned for DMA keep their bit (Linux fs/proc/task_mmu.c, pte_is_pinned()): so they are reported
 *	  every time;
 *	- a page of a private mapping that was there at the last look and is not now was dropped (MADV_DONTNEED), which
 *	  changes what is read there: reported once.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "dirty_priv.h"

#define PAGE	  UINT64_C(4096)
#define SOFT	  (UINT64_C(1) << 55) /* pagemap.rst */
#define SWAPPED	  (UINT64_C(1) << 62)
#define PRESENT	  (UINT64_C(1) << 63)
#define RESIDENTS (UINT64_C(1) << (48 - 12 - 3)) /* bytes: a bit a page of 48 bits of address */

static int pagemap = -1, clear_refs = -1;
static uint64_t *resident; /* at the last look */

/* One look at all spans; what the child finds, in memory that it shares. */
struct look {
	const struct dirty_span *spans;
	size_t n;
	uint64_t *soft, *there; /* bitmaps of all spans, one behind the other, each in whole words */
};

static size_t words_of(const struct dirty_span *span)
{
	return SVIO_BITMAP_WORDS(span->len / PAGE);
}

/* While everybody else stands still: system calls only. */
static int look(void *ctx)
{
	const struct look *l = ctx;
	uint64_t entries[512];
	size_t word = 0;

	for (size_t i = 0; i < l->n; i++) {
		uint64_t first = l->spans[i].va / PAGE, pages = l->spans[i].len / PAGE;

		for (uint64_t at = 0; at < pages;) {
			uint64_t want = SVIO_MIN(pages - at, (uint64_t)SVIO_ARRAY_SIZE(entries));
			long got = syscall(SYS_pread64, pagemap, entries, want * 8, (first + at) * 8);

			if (got < 8)
				return got < 0 ? -errno : -EIO;
			for (uint64_t k = 0; k < (uint64_t)got / 8; k++, at++) {
				if (entries[k] & SOFT)
					svio_bitmap_set(l->soft + word, at);
				if (entries[k] & (PRESENT | SWAPPED))
					svio_bitmap_set(l->there + word, at);
			}
		}
		word += words_of(&l->spans[i]);
	}
	return syscall(SYS_write, clear_refs, "4", 1) == 1 ? 0 : -errno;
}

static int nothing(void *ctx)
{
	(void)ctx;
	return 0;
}

static void soft_close(void)
{
	if (pagemap >= 0)
		close(pagemap);
	if (clear_refs >= 0)
		close(clear_refs);
	pagemap = clear_refs = -1;
	if (resident)
		munmap(resident, RESIDENTS);
	resident = NULL;
}

/* Does this kernel keep the bits? A page that was just written has one. */
static bool has_bits(void)
{
	volatile char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t entry = 0;

	if (p == MAP_FAILED)
		return false;
	*p = 1;
	if (pread(pagemap, &entry, sizeof(entry), (off_t)((uintptr_t)p / PAGE * 8)) != sizeof(entry))
		entry = 0;
	munmap((void *)(uintptr_t)p, PAGE);
	return entry & SOFT;
}

static int soft_open(void)
{
	int rc = 0;

	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	clear_refs = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	resident = mmap(NULL, RESIDENTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (resident == MAP_FAILED) {
		resident = NULL;
		rc = svio_fail(ENOMEM, "no address space to watch memory by soft-dirty bits");
	} else if (pagemap < 0 || clear_refs < 0 || !has_bits()) {
		rc = svio_fail(EOPNOTSUPP, "this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
	} else {
		madvise(resident, RESIDENTS, MADV_DONTFORK);
		rc = svio__dirty_freeze(nothing, NULL);
		if (rc)
			rc = svio_fail_prefix(-EOPNOTSUPP, "soft-dirty bits");
	}
	if (rc)
		soft_close();
	return rc;
}

/* ---- what the bits mean depends on the mapping ---------------------------------------------------------- */

struct reading {
	const struct dirty_span *span;
	const uint64_t *soft, *there; /* of this span */
	dirty_emit emit;
	void *ctx;
	uint64_t *unseen;
};

static void read_vma(struct reading *r, uint64_t start, uint64_t end, bool shared, uint64_t page_size)
{
	uint64_t from = 0, run = 0;

	start = SVIO_MAX(start, r->span->va);
	end = SVIO_MIN(end, r->span->va + r->span->len);
	if (start >= end)
		return;
	if (page_size > PAGE) {
		*r->unseen += end - start;
		r->emit(r->ctx, start, end - start);
		return;
	}
	for (uint64_t va = start; va < end; va += PAGE) {
		uint64_t bit = (va - r->span->va) / PAGE;
		bool there = svio_bitmap_test(r->there, bit), was = svio_bitmap_test(resident, va / PAGE);

		if (!svio_bitmap_test(r->soft, bit) && (there || (!shared && !was)))
			continue;
		if (run && from + run == va) {
			run += PAGE;
			continue;
		}
		if (run)
			r->emit(r->ctx, from, run);
		from = va;
		run = PAGE;
	}
	if (run)
		r->emit(r->ctx, from, run);
}

/* smaps(5): as maps, and each mapping's page size. */
static int read_span(struct reading *r)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	uint64_t start = 0, end = 0, kib;
	char line[512], perms[5] = "";

	if (!f)
		return svio_fail(errno, "/proc/self/smaps: %s", strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, perms) == 3)
			continue;
		if (sscanf(line, "KernelPageSize: %" SCNu64, &kib) == 1 && strncmp(perms, "---", 3) != 0)
			read_vma(r, start, end, perms[3] == 's', kib << 10);
	}
	fclose(f);
	for (uint64_t bit = 0; bit < r->span->len / PAGE; bit++) {
		uint64_t page = r->span->va / PAGE + bit;

		if (svio_bitmap_test(r->there, bit))
			svio_bitmap_set(resident, page);
		else if (svio_bitmap_test(resident, page))
			svio_bitmap_clear(resident, page);
	}
	return 0;
}

static int soft_collect(const struct dirty_span *spans, size_t n, bool last, dirty_emit emit, void *ctx, uint64_t *unseen)
{
	struct look l = { .spans = spans, .n = n };
	size_t words = 0, word = 0;
	int rc;

	(void)last; /* to clear the bits is the smaller part */
	*unseen = 0;
	for (size_t i = 0; i < n; i++)
		words += words_of(&spans[i]);
	l.soft = calloc(words + 1, sizeof(uint64_t));
	l.there = calloc(words + 1, sizeof(uint64_t));
	if (!l.soft || !l.there) {
		rc = svio_fail(ENOMEM, "no memory for the soft-dirty bits of %zu words", words);
		goto out;
	}
	rc = svio__dirty_freeze(look, &l);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct reading r = { &spans[i], l.soft + word, l.there + word, emit, ctx, unseen };

		/* The bits are cleared by now: what cannot be told apart is all written. */
		if (read_span(&r))
			emit(ctx, spans[i].va, spans[i].len);
		word += words_of(&spans[i]);
	}
out:
	free(l.soft);
	free(l.there);
	return rc;
}

static void soft_forget(const struct dirty_span *span)
{
	(void)span; /* there is nothing to take back */
}

const struct dirty_cpu svio__dirty_soft = {
	.kind = SVIO_DIRTY_CPU_SOFT_DIRTY,
	.open = soft_open,
	.close = soft_close,
	.collect = soft_collect,
	.forget = soft_forget,
	.global = true,
};
