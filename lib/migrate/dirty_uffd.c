/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asynchronous write protection (Linux 6.7, Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst): memory registered with a
 * userfaultfd in this mode is write protected page by page; at the first store the kernel takes the protection away and
 * goes on. PAGEMAP_SCAN reports the pages without protection and protects them again in one step under the page table
 * lock, so that a store is either reported or faults again.
 *
 * No privilege is asked for. The kernel's own writes (read(2), process_vm_writev(2)) and those of devices that walk the
 * process's page tables take the same way. Pages that are not there yet carry a marker in the page table, so that reading
 * them does not count.
 *
 * Memory that is not registered is found by a scan of its own, which costs nothing where there is none: what was mapped since
 * the last look, or moved by mremap(2), which loses its registration. It is registered now and reported whole.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "dirty_priv.h"
#include "dirty_uapi.h"

#define REGIONS	  2048
#define PAGE	  UINT64_C(4096)
#define PROBE_LEN (UINT64_C(4) << 20)

static int uffd = -1, pagemap = -1;
/* Does WRITTEN hold for a page that is not there and has no marker, as after MADV_DONTNEED? If not, a scan more is needed. */
static bool none_is_written;
static struct dirty_scan_region regions[REGIONS];

struct scan_kind {
	uint64_t flags, inverted, mask;
};

static const struct scan_kind scan_unregistered = {
	.inverted = DIRTY_SCAN_WPALLOWED, .mask = DIRTY_SCAN_WPALLOWED,
};
static const struct scan_kind scan_written = {
	.flags = DIRTY_SCAN_WP_MATCHING, .mask = DIRTY_SCAN_WPALLOWED | DIRTY_SCAN_WRITTEN,
};
/* The same without protecting again, which interrupts the other CPUs of the process once for each 2 MiB. */
static const struct scan_kind scan_written_last = {
	.mask = DIRTY_SCAN_WPALLOWED | DIRTY_SCAN_WRITTEN,
};
static const struct scan_kind scan_none = {
	.flags = DIRTY_SCAN_WP_MATCHING, .inverted = DIRTY_SCAN_PRESENT | DIRTY_SCAN_SWAPPED,
	.mask = DIRTY_SCAN_WPALLOWED | DIRTY_SCAN_PRESENT | DIRTY_SCAN_SWAPPED,
};

/*
 * fn for each region that matches. It may register memory: the walk goes on behind what was reported. Pages are protected again
 * as they are reported, so whatever the kernel handed over is emitted before an error counts.
 */
static int scan(const struct scan_kind *kind, uint64_t va, uint64_t end, dirty_emit fn, void *ctx)
{
	struct dirty_scan s = {
		.size = sizeof(s), .flags = kind->flags, .start = va, .end = end, .vec = (uintptr_t)regions, .vec_len = REGIONS,
		.inverted = kind->inverted, .mask = kind->mask, .wanted = DIRTY_SCAN_WPALLOWED | DIRTY_SCAN_WRITTEN,
	};

	while (s.start < end) {
		int n = ioctl(pagemap, DIRTY_PAGEMAP_SCAN, &s);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return svio_fail(EIO, "PAGEMAP_SCAN of 0x%" PRIx64 "-0x%" PRIx64 ": %s", s.start, end, strerror(errno));
		for (int i = 0; i < n; i++)
			fn(ctx, regions[i].start, regions[i].end - regions[i].start);
		if (s.walk_end <= s.start)
			return svio_fail(EIO, "PAGEMAP_SCAN makes no progress at 0x%" PRIx64, s.start);
		s.start = s.walk_end;
	}
	return 0;
}

/* ---- open and close ---------------------------------------------------------------------------------- */

static void count(void *ctx, uint64_t va, uint64_t len)
{
	(void)va;
	*(uint64_t *)ctx += len;
}

static int protect(uint64_t va, uint64_t len)
{
	struct uffdio_writeprotect wp = { .range = { va, len }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

static int enrol(uint64_t va, uint64_t len)
{
	struct uffdio_register reg = { .range = { va, len }, .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* See none_is_written. Memory of our own, nothing in it. */
static int probe_none(void)
{
	static const struct scan_kind look = { .mask = DIRTY_SCAN_WPALLOWED | DIRTY_SCAN_WRITTEN };
	void *p = mmap(NULL, PROBE_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t va = (uintptr_t)p, found = 0;
	int rc;

	if (p == MAP_FAILED)
		return svio_fail(ENOMEM, "no address space to try the kernel's write protection");
	rc = enrol(va, PROBE_LEN);
	if (rc == 0)
		rc = scan(&look, va, va + PROBE_LEN, count, &found);
	munmap(p, PROBE_LEN);
	none_is_written = found == PROBE_LEN;
	return rc ? svio_fail(EOPNOTSUPP, "PAGEMAP_SCAN does not work here: %s", strerror(-rc)) : 0;
}

static void uffd_close(void)
{
	if (uffd >= 0)
		close(uffd); /* takes every protection away */
	if (pagemap >= 0)
		close(pagemap);
	uffd = pagemap = -1;
}

static int uffd_open(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = DIRTY_UFFD_WP_ASYNC | DIRTY_UFFD_WP_UNPOPULATED | DIRTY_UFFD_WP_HUGETLBFS_SHMEM,
	};
	int rc;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | DIRTY_UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		return svio_fail(EOPNOTSUPP, "userfaultfd: %s%s", strerror(errno),
				 errno == EPERM ? " (a seccomp filter? Linux asks for no privilege)" : "");
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		rc = svio_fail(EOPNOTSUPP, "/proc/self/pagemap: %s", strerror(errno));
	else if (ioctl(uffd, UFFDIO_API, &api))
		rc = svio_fail(EOPNOTSUPP, "this kernel has no asynchronous write protection; Linux 6.7 or newer has");
	else
		rc = probe_none();
	if (rc)
		uffd_close();
	return rc;
}

/* ---- collect ------------------------------------------------------------------------------------------ */

struct enrolment {
	uint64_t va, end; /* not registered */
	dirty_emit emit;
	void *ctx;
	uint64_t *unseen;
};

static int enrol_vma(void *ctx, const struct dirty_vma *vma)
{
	struct enrolment *e = ctx;
	uint64_t va = SVIO_MAX(e->va, vma->start), end = SVIO_MIN(e->end, vma->end);
	int rc;

	/* Nobody reaches it; when it gets access later, it is found again. */
	if (strncmp(vma->perms, "---", 3) == 0)
		return 0;
	rc = enrol(va, end - va);
	if (rc == 0)
		rc = protect(va, end - va);
	if (rc == -ENOENT || rc == -EINVAL) /* it changes under us: the next look will find what it became */
		rc = 0;
	/* A shared mapping that can never be writable (-EPERM) is not written through. */
	if (rc && !(rc == -EPERM && vma->perms[1] != 'w'))
		*e->unseen += end - va;
	if (rc != -EPERM || vma->perms[1] == 'w')
		e->emit(e->ctx, va, end - va);
	return 0;
}

static void unregistered(void *ctx, uint64_t va, uint64_t len)
{
	struct enrolment *e = ctx;

	/* Neighbouring regions are told one by one where pages differ: one look for all. */
	if (e->end != va) {
		if (e->va != e->end)
			svio__dirty_each_vma(e->va, e->end, enrol_vma, e);
		e->va = va;
	}
	e->end = va + len;
}

static int uffd_collect(const struct dirty_span *spans, size_t n, bool last, dirty_emit emit, void *ctx, uint64_t *unseen)
{
	int rc = 0;

	*unseen = 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		uint64_t va = spans[i].va, end = va + spans[i].len;
		struct enrolment e = { .va = va, .end = va, .emit = emit, .ctx = ctx, .unseen = unseen };

		rc = scan(&scan_unregistered, va, end, unregistered, &e);
		if (e.va != e.end)
			svio__dirty_each_vma(e.va, e.end, enrol_vma, &e);
		if (rc == 0)
			rc = scan(last ? &scan_written_last : &scan_written, va, end, emit, ctx);
		if (rc == 0 && !none_is_written)
			rc = scan(&scan_none, va, end, emit, ctx);
	}
	return rc;
}

static void uffd_forget(const struct dirty_span *span)
{
	struct uffdio_range range = { span->va, span->len };

	/* Parts may be gone by now; what stays protected costs one fault a page, and nothing else. */
	ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

const struct dirty_cpu svio__dirty_uffd = {
	.kind = SVIO_DIRTY_CPU_WP_ASYNC,
	.open = uffd_open,
	.close = uffd_close,
	.collect = uffd_collect,
	.forget = uffd_forget,
};
