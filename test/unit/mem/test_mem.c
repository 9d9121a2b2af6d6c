/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Room mem on a real EAL and real memory. EAL starts once per process, so the tests share it and the table's order matters
 * only for the first two. Every call by which arenas get their resources can be made to fail: see fail_at.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include "svio_mem.h"
#include "unit.h"

#define MIB (UINT64_C(1) << 20)

/* ---- calls made to fail ------------------------------------------------------------------------------- */

static int fail_at;   /* the how-manyeth wrapped call from now fails; 0 = none */
static int calls;     /* wrapped calls since fail_at was set */
static bool fail_hit; /* it did */
static char fail_name[32];

static bool fails(const char *name)
{
	calls++;
	if (fail_at && calls == fail_at) {
		fail_hit = true;
		snprintf(fail_name, sizeof(fail_name), "%s", name);
		return true;
	}
	return false;
}

static void fail_nth(int n)
{
	fail_at = n;
	calls = 0;
	fail_hit = false;
}

void *__real_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int __real_ftruncate64(int fd, off_t len);
int __wrap_ftruncate64(int fd, off_t len);
int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);
int __real_madvise(void *addr, size_t len, int advice);
int __wrap_madvise(void *addr, size_t len, int advice);
int __real_memfd_create(const char *name, unsigned int flags);
int __wrap_memfd_create(const char *name, unsigned int flags);
int __real_fcntl64(int fd, int cmd, int arg);
int __wrap_fcntl64(int fd, int cmd, int arg);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
int __real_rte_malloc_heap_create(const char *name);
int __wrap_rte_malloc_heap_create(const char *name);
int __real_rte_malloc_heap_memory_add(const char *name, void *va, size_t len, rte_iova_t iovas[], unsigned int n, size_t page);
int __wrap_rte_malloc_heap_memory_add(const char *name, void *va, size_t len, rte_iova_t iovas[], unsigned int n, size_t page);

void *__wrap_mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	/* Withdrawing a mapping (PROT_NONE over it) is clean-up: it cannot run out of anything. */
	if (!(prot == PROT_NONE && (flags & MAP_FIXED)) && fails("mmap")) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap64(addr, len, prot, flags, fd, off);
}

int __wrap_ftruncate64(int fd, off_t len)
{
	return fails("ftruncate") ? (errno = EFBIG, -1) : __real_ftruncate64(fd, len);
}

int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	return mode == 0 && fails("fallocate") ? (errno = ENOSPC, -1) : __real_fallocate64(fd, mode, off, len);
}

int __wrap_madvise(void *addr, size_t len, int advice)
{
	return advice != MADV_DOFORK && fails("madvise") ? (errno = ENOMEM, -1) : __real_madvise(addr, len, advice);
}

int __wrap_memfd_create(const char *name, unsigned int flags)
{
	return fails("memfd_create") ? (errno = EMFILE, -1) : __real_memfd_create(name, flags);
}

int __wrap_fcntl64(int fd, int cmd, int arg)
{
	return fails("fcntl") ? (errno = EPERM, -1) : __real_fcntl64(fd, cmd, arg);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails("calloc") ? (errno = ENOMEM, (void *)NULL) : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	return fails("reallocarray") ? (errno = ENOMEM, (void *)NULL) : __real_reallocarray(p, n, size);
}

int __wrap_rte_malloc_heap_create(const char *name)
{
	return fails("rte_malloc_heap_create") ? (rte_errno = ENOSPC, -1) : __real_rte_malloc_heap_create(name);
}

int __wrap_rte_malloc_heap_memory_add(const char *name, void *va, size_t len, rte_iova_t iovas[], unsigned int n, size_t page)
{
	return fails("rte_malloc_heap_memory_add") ? (rte_errno = ENOSPC, -1)
						   : __real_rte_malloc_heap_memory_add(name, va, len, iovas, n, page);
}

/* ---- helpers ------------------------------------------------------------------------------------------ */

static const struct svio_mem_opts small = { .size = sizeof(small), .bytes = 64 * MIB, .huge = SVIO_MEM_HUGE_NEVER };

static unsigned int log_lines[4];

static void count_log(void *ctx, enum svio_log_level level, const char *line)
{
	(void)ctx;
	(void)line;
	log_lines[level]++;
}

/*
 * Mappings where arenas belong: none is left after a stop. (All mappings of the process would say less: sanitizers and malloc()
 * make some of their own.)
 */
static int count_arena_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long long start;
	char line[512];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += sscanf(line, "%llx-", &start) == 1 && start >= SVIO_MEM_BASE &&
		     start < SVIO_MEM_BASE + 16 * SVIO_MEM_NODE_STRIDE;
	if (f)
		fclose(f);
	return n;
}

static bool all_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	while (len && *b == 0) {
		b++;
		len--;
	}
	return len == 0;
}

/* Exit status of fn(arg) in a child, or 1000 + the signal that killed it. */
static int in_child(int (*fn)(void *), void *arg)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(fn(arg));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int touch(void *p)
{
	/* A sanitizer's handler would turn the death into an exit status of its own. */
	signal(SIGSEGV, SIG_DFL);
	return *(volatile uint8_t *)p;
}

struct probe {
	struct svio_mem_listener l;
	int added, removed;
	uint64_t bytes;
	int fail_with; /* what the next added() returns */
	struct svio_mem_region last;
};

static int probe_added(void *ctx, const struct svio_mem_region *region)
{
	struct probe *p = ctx;

	if (p->fail_with)
		return svio_fail(p->fail_with, "the probe says no");
	p->added++;
	p->bytes += region->len;
	p->last = *region;
	return 0;
}

static void probe_removed(void *ctx, const struct svio_mem_region *region)
{
	struct probe *p = ctx;

	p->removed++;
	p->bytes -= region->len;
}

static void probe_init(struct probe *p)
{
	*p = (struct probe){ .l = { .added = probe_added, .removed = probe_removed, .ctx = p } };
}

/* ---- tests -------------------------------------------------------------------------------------------- */

static int start_as_nobody(void *arg)
{
	uint8_t *p;

	(void)arg;
	if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
		return 2;
	if (svio_mem_start(&small)) {
		fprintf(stderr, "as nobody: %s\n", svio_last_error());
		return 3;
	}
	p = svio_mem_alloc(1 << 20, 0, -1);
	if (!p || !all_zero(p, 1 << 20))
		return 4;
	svio_mem_free(p);
	svio_mem_stop();
	return 0;
}

static void test_unprivileged(void)
{
	CU_ASSERT_EQUAL(in_child(start_as_nobody, NULL), 0);
}

static int start_quietly(void *arg)
{
	int *pipefd = arg;

	dup2(pipefd[1], 1);
	dup2(pipefd[1], 2);
	close(pipefd[0]);
	svio_log_set(SVIO_LOG_DEBUG, count_log, NULL);
	if (svio_mem_start(&small))
		return 2;
	svio_mem_stop();
	fflush(NULL);
	/* EAL did speak, through us. */
	return log_lines[SVIO_LOG_DEBUG] > 0 ? 0 : 3;
}

static void test_quiet(void)
{
	char text[256];
	int pipefd[2];
	ssize_t n;

	CU_ASSERT_EQUAL_FATAL(pipe(pipefd), 0);
	CU_ASSERT_EQUAL(in_child(start_quietly, pipefd), 0);
	close(pipefd[1]);
	n = read(pipefd[0], text, sizeof(text) - 1);
	CU_ASSERT_EQUAL(n, 0);
	if (n > 0)
		fprintf(stderr, "EAL wrote: %.*s\n", (int)n, text);
	close(pipefd[0]);
}

static void test_bad_opts(void)
{
	struct svio_mem_opts o = small;
	void *taken;

	CU_ASSERT_PTR_NULL(svio_mem_alloc(64, 0, -1));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "svio_mem_start"));
	CU_ASSERT_EQUAL(svio_mem_socket(0), -EINVAL);

	o.size = 4;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -EINVAL);
	o = small;
	o.max_bytes = o.bytes - 1;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -EINVAL);
	o = small;
	o.base = 4096;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -EINVAL);
	o = small;
	o.huge = (enum svio_mem_huge)9;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -EINVAL);
	o = small;
	o.bytes = UINT64_C(1) << 40;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -ENOMEM); /* more than any machine that runs this test */
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "are available"));

	/* Something in the way is named. */
	taken = mmap((void *)(uintptr_t)(SVIO_MEM_BASE + MIB), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		     0);
	CU_ASSERT_NOT_EQUAL_FATAL(taken, MAP_FAILED);
	CU_ASSERT_EQUAL(svio_mem_start(&small), -EADDRINUSE);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "200000100000-200000101000 r--p"));
	munmap(taken, 4096);
	CU_ASSERT_PTR_NULL(svio_mem_alloc(64, 0, -1));
}

static void test_alloc(void)
{
	struct svio_mem_stats s;
	int fds = unit_count_fds(), maps = count_arena_maps();
	uint8_t *p, *q;

	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&small), 0);
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.arenas, 1);
	CU_ASSERT_EQUAL(s.arena_bytes, 64 * MIB);
	CU_ASSERT_EQUAL(s.page_size, 4096);
	CU_ASSERT_EQUAL(s.used_bytes, 0);

	p = svio_mem_alloc(100, 0, -1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	CU_ASSERT_EQUAL((uintptr_t)p % SVIO_CACHELINE, 0);
	CU_ASSERT((uintptr_t)p >= SVIO_MEM_BASE);
	q = svio_mem_alloc(3 * MIB, 2 * MIB, -1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(q);
	CU_ASSERT_EQUAL((uintptr_t)q % (2 * MIB), 0);
	CU_ASSERT(all_zero(q, 3 * MIB));
	svio_mem_get_stats(&s);
	CU_ASSERT(s.used_bytes >= 3 * MIB + 100);
	/* What was used before comes back as zeros. */
	memset(q, 0xff, 3 * MIB);
	svio_mem_free(q);
	q = svio_mem_alloc(5 * MIB, 4096, -1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(q);
	CU_ASSERT(all_zero(q, 5 * MIB));
	svio_mem_free(q);

	CU_ASSERT_PTR_NULL(svio_mem_alloc(0, 0, -1));
	CU_ASSERT_PTR_NULL(svio_mem_alloc(64, 48, -1));
	CU_ASSERT_PTR_NULL(svio_mem_alloc(SIZE_MAX, 0, -1));
	svio_mem_free(NULL);
	/* Nodes that are not there are replaced. */
	q = svio_mem_alloc(64, 0, 63);
	CU_ASSERT_PTR_NOT_NULL(q);
	svio_mem_free(q);
	q = svio_mem_alloc(64, 0, 100000);
	CU_ASSERT_PTR_NOT_NULL(q);
	svio_mem_free(q);

	/* EAL's own calls work on the arena. */
	q = rte_malloc_socket("test", 4096, 4096, svio_mem_socket(-1));
	CU_ASSERT_PTR_NOT_NULL(q);
	CU_ASSERT((uintptr_t)q >= SVIO_MEM_BASE && (uintptr_t)q < SVIO_MEM_BASE + SVIO_MEM_NODE_STRIDE);
	rte_free(q);

	CU_ASSERT_EQUAL(in_child(touch, p), 1000 + SIGSEGV);
	svio_mem_free(p);

	/* Two starts, two stops. */
	CU_ASSERT_EQUAL(svio_mem_start(NULL), 0);
	svio_mem_stop();
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.arenas, 1);
	svio_mem_stop();
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.arenas, 0);
	svio_mem_stop(); /* one too many is harmless */
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(count_arena_maps(), maps);
}

static void test_growth(void)
{
	struct svio_mem_opts o = small;
	struct svio_mem_stats s;
	struct probe probe;
	int fds = unit_count_fds(), maps = count_arena_maps(), seals;
	uint8_t *p[4], *big;
	uint8_t *shared;

	o.max_bytes = 512 * MIB;
	probe_init(&probe);
	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&o), 0);
	CU_ASSERT_EQUAL(svio_mem_listener_add(&probe.l), 0);
	CU_ASSERT_EQUAL(probe.added, 1);
	CU_ASSERT_EQUAL(probe.bytes, 64 * MIB);

	for (int i = 0; i < 4; i++) {
		p[i] = svio_mem_alloc(40 * MIB, 0, -1);
		CU_ASSERT_PTR_NOT_NULL_FATAL(p[i]);
		p[i][0] = p[i][40 * MIB - 1] = (uint8_t)i;
	}
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(probe.bytes, s.arena_bytes);
	CU_ASSERT(s.arena_bytes >= 4 * 64 * MIB);
	CU_ASSERT(probe.added >= 3);

	/* A chunk is where its region says it is in the file, and the file cannot be cut short. */
	shared = mmap(NULL, probe.last.len, PROT_READ, MAP_SHARED, probe.last.fd, (off_t)probe.last.fd_offset);
	CU_ASSERT_NOT_EQUAL_FATAL(shared, MAP_FAILED);
	CU_ASSERT(p[3] >= (uint8_t *)probe.last.addr && p[3] < (uint8_t *)probe.last.addr + probe.last.len);
	CU_ASSERT_EQUAL(shared[p[3] - (uint8_t *)probe.last.addr], 3);
	munmap(shared, probe.last.len);
	seals = fcntl(probe.last.fd, F_GET_SEALS, 0);
	CU_ASSERT_EQUAL(seals & (F_SEAL_SHRINK | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_SEAL);
	CU_ASSERT_EQUAL(ftruncate(probe.last.fd, 4096), -1);

	/* Grown memory does not reach children either. */
	CU_ASSERT_EQUAL(in_child(touch, p[3]), 1000 + SIGSEGV);

	/* A listener that refuses undoes the growth, and its sentence is what the caller reads. */
	probe.fail_with = ENOSPC;
	CU_ASSERT_PTR_NULL(svio_mem_alloc(60 * MIB, 0, -1));
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "the probe says no");
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(probe.bytes, s.arena_bytes);
	probe.fail_with = 0;
	/* … and the same addresses serve the next attempt, zeroed. */
	CU_ASSERT_EQUAL(svio_mem_reserve(60 * MIB, -1), 0);
	big = rte_malloc_socket("test", 60 * MIB, 0, svio_mem_socket(-1));
	CU_ASSERT_PTR_NOT_NULL_FATAL(big);
	CU_ASSERT(all_zero(big, 60 * MIB));
	CU_ASSERT_EQUAL(svio_mem_reserve(64, -1), 0);

	/* The limit is a sentence that names it. */
	CU_ASSERT_PTR_NULL(svio_mem_alloc(500 * MIB, 0, -1));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "max_bytes"));

	svio_mem_free(big);
	for (int i = 0; i < 4; i++)
		svio_mem_free(p[i]);
	svio_mem_stop();
	CU_ASSERT_EQUAL(probe.bytes, 0);
	CU_ASSERT_EQUAL(probe.added, probe.removed);
	svio_mem_listener_remove(&probe.l);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(count_arena_maps(), maps);
}

static void test_stop_with_leak(void)
{
	struct svio_mem_stats s;
	uint8_t *p;
	unsigned int warnings = log_lines[SVIO_LOG_WARN];

	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&small), 0);
	p = svio_mem_alloc(4096, 0, -1);
	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	svio_mem_stop();
	CU_ASSERT_EQUAL(log_lines[SVIO_LOG_WARN], warnings + 1);
	p[0] = 1; /* still there */
	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&small), 0);
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.arenas, 1);
	CU_ASSERT(s.used_bytes >= 4096);
	svio_mem_free(p);
	svio_mem_stop();
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.arenas, 0);
}

static void test_register(void)
{
	size_t len = 16 * 4096;
	uint8_t *m = mmap(NULL, 4 * len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_mem_stats s;
	struct probe a, b;

	CU_ASSERT_NOT_EQUAL_FATAL(m, MAP_FAILED);
	probe_init(&a);
	probe_init(&b);
	CU_ASSERT_EQUAL(svio_mem_listener_add(&a.l), 0);
	CU_ASSERT_EQUAL(svio_mem_listener_add(&b.l), 0);

	CU_ASSERT_EQUAL(svio_mem_register(m + 1, len, -1, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_mem_register(m, len + 1, -1, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_mem_register(m, 0, -1, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_mem_register(NULL, len, -1, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_mem_register(m, len, 0, 5), -EINVAL);
	CU_ASSERT_EQUAL(svio_mem_register((void *)(UINTPTR_MAX - 4095), 8192, -1, 0), -EINVAL);

	CU_ASSERT_EQUAL(svio_mem_register(m + len, len, 3, 8192), 0);
	CU_ASSERT_EQUAL(a.added, 1);
	CU_ASSERT_EQUAL(b.added, 1);
	CU_ASSERT_PTR_EQUAL(a.last.addr, m + len);
	CU_ASSERT_EQUAL(a.last.fd, 3);
	CU_ASSERT_EQUAL(a.last.fd_offset, 8192);
	CU_ASSERT(a.last.external);
	/* Overlap in every way: same, inside, around, left edge, right edge. Neighbours do not overlap. */
	CU_ASSERT_EQUAL(svio_mem_register(m + len, len, -1, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_mem_register(m + len + 4096, 4096, -1, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_mem_register(m, 3 * len, -1, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_mem_register(m, len + 4096, -1, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_mem_register(m + 2 * len - 4096, len, -1, 0), -EEXIST);
	/* … and a refused one is left as it was. */
	CU_ASSERT_EQUAL(in_child(touch, m), 0);
	CU_ASSERT_EQUAL(in_child(touch, m + len), 1000 + SIGSEGV);
	CU_ASSERT_EQUAL(svio_mem_register(m, len, -1, 0), 0);
	CU_ASSERT_EQUAL(svio_mem_register(m + 2 * len, len, -1, 0), 0);
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.external_regions, 3);
	CU_ASSERT_EQUAL(s.external_bytes, 3 * len);

	/* A late listener hears of all; one that refuses is not added and is undone. */
	svio_mem_listener_remove(&b.l);
	CU_ASSERT_EQUAL(b.removed, 3);
	b.fail_with = EIO;
	CU_ASSERT_EQUAL(svio_mem_listener_add(&b.l), -EIO);
	CU_ASSERT_EQUAL(b.added, b.removed);
	b.fail_with = 0;
	CU_ASSERT_EQUAL(svio_mem_listener_add(&b.l), 0);
	CU_ASSERT_EQUAL(b.bytes, 3 * len);

	/* The listener asked last fails: the other one is undone, and the memory goes to children again. */
	a.fail_with = ENOMEM;
	CU_ASSERT_EQUAL(svio_mem_register(m + 3 * len, len, -1, 0), -ENOMEM);
	CU_ASSERT_EQUAL(b.bytes, 3 * len);
	CU_ASSERT_EQUAL(b.added, b.removed + 3);
	CU_ASSERT_EQUAL(in_child(touch, m + 3 * len), 0);
	a.fail_with = 0;

	CU_ASSERT_EQUAL(svio_mem_unregister(m, 2 * len), -ENOENT);
	CU_ASSERT_EQUAL(svio_mem_unregister(m + 4096, 4096), -ENOENT);
	CU_ASSERT_EQUAL(svio_mem_unregister(m + len, len), 0);
	CU_ASSERT_EQUAL(svio_mem_unregister(m + len, len), -ENOENT);
	CU_ASSERT_EQUAL(in_child(touch, m + len), 0);
	CU_ASSERT_EQUAL(svio_mem_unregister(m, len), 0);
	CU_ASSERT_EQUAL(svio_mem_unregister(m + 2 * len, len), 0);
	CU_ASSERT_EQUAL(a.bytes, 0);

	/* Not mapped throughout. */
	munmap(m + len, 4096);
	CU_ASSERT_EQUAL(svio_mem_register(m, 2 * len, -1, 0), -EFAULT);
	CU_ASSERT_EQUAL(in_child(touch, m), 0);

	svio_mem_listener_remove(&a.l);
	svio_mem_listener_remove(&b.l);
	svio_mem_listener_remove(&b.l); /* not there: nothing */
	munmap(m, len);
	munmap(m + len + 4096, 3 * len - 4096);

	/* An arena's addresses, used or not, are not for registration. */
	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&small), 0);
	CU_ASSERT_EQUAL(svio_mem_register((void *)(uintptr_t)(SVIO_MEM_BASE + 1024 * MIB), 4096, -1, 0), -EEXIST);
	svio_mem_stop();
}

/* Whatever fails first, second, …: start and growth give an explained error and leave nothing. */
static void test_fail_nth(void)
{
	int fds = unit_count_fds(), maps = count_arena_maps(), n, rc, injected = 0;
	struct svio_mem_stats s;
	struct probe probe;
	uint8_t *p, *first;

	probe_init(&probe);
	CU_ASSERT_EQUAL(svio_mem_listener_add(&probe.l), 0);
	for (n = 1; n < 100; n++) {
		svio_clear_error();
		fail_nth(n);
		rc = svio_mem_start(&small);
		fail_at = 0;
		if (!fail_hit)
			break;
		injected++;
		if (rc == 0) { /* memfd_create() is tried twice; anything else that succeeds is a lie */
			CU_ASSERT_STRING_EQUAL(fail_name, "none may");
			svio_mem_stop();
			continue;
		}
		CU_ASSERT(svio_last_error()[0] != '\0');
		svio_mem_get_stats(&s);
		CU_ASSERT_EQUAL(s.arenas, 0);
		CU_ASSERT_EQUAL(probe.bytes, 0);
		CU_ASSERT_EQUAL(unit_count_fds(), fds);
		CU_ASSERT_EQUAL(count_arena_maps(), maps);
	}
	CU_ASSERT(injected >= 10);
	CU_ASSERT_EQUAL_FATAL(rc, 0);

	first = svio_mem_alloc(1, 0, -1);
	maps = count_arena_maps();
	for (n = 1; n < 100; n++) {
		svio_clear_error();
		fail_nth(n);
		p = svio_mem_alloc(100 * MIB, 0, -1);
		fail_at = 0;
		if (!fail_hit)
			break;
		CU_ASSERT_PTR_NULL(p);
		CU_ASSERT(svio_last_error()[0] != '\0');
		svio_mem_get_stats(&s);
		CU_ASSERT_EQUAL(s.arena_bytes, 64 * MIB);
		CU_ASSERT_EQUAL(probe.bytes, 64 * MIB);
		CU_ASSERT_EQUAL(count_arena_maps(), maps);
	}
	CU_ASSERT(n > 5);
	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	CU_ASSERT(all_zero(p, 100 * MIB));
	svio_mem_free(p);
	svio_mem_free(first);
	svio_mem_stop();
	svio_mem_listener_remove(&probe.l);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static long read_long(const char *path)
{
	FILE *f = fopen(path, "re");
	long v = -1;

	if (f) {
		if (fscanf(f, "%ld", &v) != 1)
			v = -1;
		fclose(f);
	}
	return v;
}

/*
 * Hugepages belong to the whole machine, on which other tests run: this one reserves none. Where they are all its own, as in
 * the lab (test/guest/t_ioas.sh), SVIO_TEST_HUGEPAGES=1 says so.
 */
static void test_huge(void)
{
	static const char freep[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
	struct svio_mem_opts o = { .size = sizeof(o), .bytes = UINT64_C(256) << 30, .huge = SVIO_MEM_HUGE_ALWAYS };
	unsigned int warnings = log_lines[SVIO_LOG_WARN];
	long had = read_long(freep);
	struct svio_mem_stats s;
	uint8_t *p;

	CU_ASSERT_EQUAL(svio_mem_start(&o), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "131072 are needed: run: hugeadm --pool-pages-min 2M:+131072"));
	o.huge = SVIO_MEM_HUGE_1G;
	CU_ASSERT_EQUAL(svio_mem_start(&o), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "256 are needed: run: hugeadm --pool-pages-min 1G:+256"));

	o.bytes = 64 * MIB;
	o.max_bytes = 256 * MIB;
	o.huge = SVIO_MEM_HUGE_AUTO;
	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&o), 0);
	svio_mem_get_stats(&s);
	if (s.page_size == 4096) /* said aloud, in one line */
		CU_ASSERT_EQUAL(log_lines[SVIO_LOG_WARN], warnings + 1);
	svio_mem_stop();

	if (!getenv("SVIO_TEST_HUGEPAGES")) {
		printf(" [the use of hugepages is tested in the lab] ");
		return;
	}
	CU_ASSERT_FATAL(had >= 48 && had < 64);
	warnings = log_lines[SVIO_LOG_WARN];
	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&o), 0);
	CU_ASSERT_EQUAL(log_lines[SVIO_LOG_WARN], warnings);
	svio_mem_get_stats(&s);
	CU_ASSERT_EQUAL(s.page_size, 2 * MIB);
	CU_ASSERT_EQUAL(read_long(freep), had - 32);
	p = svio_mem_alloc(8 * MIB, 0, -1);
	CU_ASSERT_PTR_NOT_NULL(p);
	CU_ASSERT(p && all_zero(p, 8 * MIB));
	/* Too few pages for the growth: an error with a remedy, not a SIGBUS, and nothing kept. */
	CU_ASSERT_PTR_NULL(svio_mem_alloc(100 * MIB, 0, -1));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "hugeadm"));
	CU_ASSERT_EQUAL(read_long(freep), had - 32);
	svio_mem_free(p);
	svio_mem_stop();
	CU_ASSERT_EQUAL(read_long(freep), had);
}

static void *hammer(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;
	uint8_t *held[32] = { 0 };
	size_t len[32] = { 0 };
	uintptr_t errors = 0;

	for (int i = 0; i < 500; i++) {
		unsigned int k = (unsigned int)rand_r(&seed) % 32;

		if (held[k]) {
			/* Nobody else wrote into it. */
			errors += held[k][0] != (uint8_t)k || held[k][len[k] - 1] != (uint8_t)k;
			svio_mem_free(held[k]);
			held[k] = NULL;
			continue;
		}
		len[k] = 1 + (size_t)rand_r(&seed) % (2 * MIB);
		held[k] = svio_mem_alloc(len[k], 0, -1);
		if (!held[k]) {
			errors++;
			continue;
		}
		errors += held[k][0] != 0 || held[k][len[k] - 1] != 0;
		held[k][0] = held[k][len[k] - 1] = (uint8_t)k;
	}
	for (int k = 0; k < 32; k++)
		svio_mem_free(held[k]);
	return (void *)errors;
}

/* Threads that are not EAL's allocate while the arena grows under them. */
static void test_threads(void)
{
	pthread_t t[4];
	void *errors;

	CU_ASSERT_EQUAL_FATAL(svio_mem_start(&small), 0);
	for (uintptr_t i = 0; i < 4; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, hammer, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &errors);
		CU_ASSERT_PTR_NULL(errors);
	}
	svio_mem_stop();
}

static const struct unit_test tests[] = {
	{ "starts as an unprivileged user", test_unprivileged },
	{ "EAL writes nothing to stdout or stderr", test_quiet },
	{ "bad options, no memory and a taken address are explained", test_bad_opts },
	{ "allocations are zeroed, aligned, in the arena, not in children", test_alloc },
	{ "the arena grows, tells its listeners, and is undone when one refuses", test_growth },
	{ "an arena with allocations left survives stop and start", test_stop_with_leak },
	{ "external memory is registered exactly and kept from children", test_register },
	{ "every call that can fail does, and leaves nothing", test_fail_nth },
	{ "hugepages are used when there are enough", test_huge },
	{ "threads allocate while the arena grows", test_threads },
	{ NULL, NULL }
};

/* In the lab, where the rest has nothing to add and emulation is slow. */
static const struct unit_test huge_tests[] = {
	{ "hugepages are used when there are enough", test_huge },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_WARN, count_log, NULL);
	return unit_run("mem", getenv("SVIO_TEST_HUGEPAGES") ? huge_tests : tests);
}
