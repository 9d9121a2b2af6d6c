/* SPDX-License-Identifier: BSD-3-Clause */
/* The wrappers, the count, and the comparison of before and after. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include "failnth.h"
#include "unit.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define SWEEP_MAX 10000 /* a scenario with more points than that does not end */

struct failnth_hooks failnth_hooks;
int failnth_ioctl_errno = EIO;

static atomic_uint countdown;
static _Atomic(const char *) where = "";
static _Thread_local unsigned int paused;

void failnth_arm(unsigned int n)
{
	where = "";
	countdown = n;
}

bool failnth_disarm(void)
{
	countdown = 0;
	return failnth_where()[0] != '\0';
}

const char *failnth_where(void)
{
	return where;
}

void failnth_pause(void)
{
	paused++;
}

void failnth_resume(void)
{
	paused--;
}

bool failnth_point(const char *call)
{
	unsigned int n = countdown;

	if (paused)
		return false;
	while (n && !atomic_compare_exchange_weak(&countdown, &n, n - 1))
		;
	if (n != 1)
		return false;
	where = call;
	return true;
}

/* ---- the wrappers ------------------------------------------------------------------------------------ */

/*
 * __real_X is only there in programs that wrap X, and only then is __wrap_X called: hence the weak references. The casts
 * of the type system are the linker's: mmap64 and mmap are one function here.
 */
#define WEAK __attribute__((weak))

#define FAIL(call, err, result)            \
	do {                               \
		if (failnth_point(call)) { \
			errno = (err);     \
			return (result);   \
		}                          \
	} while (0)

#define WRAP(type, name, params, args, err, bad) \
	type __real_##name params WEAK;          \
	type __wrap_##name params WEAK;          \
	type __wrap_##name params                \
	{                                        \
		FAIL(#name, err, bad);           \
		return __real_##name args;       \
	}

#define WRAP_HOOK(type, name, hook, params, args, err, bad)                               \
	type __real_##name params WEAK;                                                   \
	type __wrap_##name params WEAK;                                                   \
	type __wrap_##name params                                                         \
	{                                                                                 \
		FAIL(#name, err, bad);                                                    \
		return failnth_hooks.hook ? failnth_hooks.hook args : __real_##name args; \
	}

WRAP(void *, malloc, (size_t n), (n), ENOMEM, NULL)
WRAP(void *, calloc, (size_t n, size_t m), (n, m), ENOMEM, NULL)
WRAP(void *, realloc, (void *p, size_t n), (p, n), ENOMEM, NULL)
WRAP(void *, aligned_alloc, (size_t a, size_t n), (a, n), ENOMEM, NULL)
WRAP(int, eventfd, (unsigned int v, int f), (v, f), EMFILE, -1)
WRAP(int, timerfd_create, (int c, int f), (c, f), EMFILE, -1)
WRAP(int, memfd_create, (const char *n, unsigned int f), (n, f), EMFILE, -1)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), ENOSPC, -1)
WRAP(int, ftruncate64, (int fd, off_t n), (fd, n), ENOSPC, -1)
WRAP(int, epoll_create1, (int f), (f), EMFILE, -1)
WRAP(int, epoll_ctl, (int e, int op, int fd, struct epoll_event *ev), (e, op, fd, ev), ENOMEM, -1)
WRAP(int, socket, (int d, int t, int p), (d, t, p), EMFILE, -1)
WRAP(int, socketpair, (int d, int t, int p, int *sv), (d, t, p, sv), EMFILE, -1)
WRAP_HOOK(void *, mmap, mmap, (void *a, size_t n, int p, int f, int fd, off_t o),
	  (a, n, p, f, fd, o), ENOMEM, MAP_FAILED)
WRAP_HOOK(void *, mmap64, mmap, (void *a, size_t n, int p, int f, int fd, off_t o),
	  (a, n, p, f, fd, o), ENOMEM, MAP_FAILED)
WRAP_HOOK(ssize_t, pread, pread, (int fd, void *b, size_t n, off_t o), (fd, b, n, o), EIO, -1)
WRAP_HOOK(ssize_t, pread64, pread, (int fd, void *b, size_t n, off_t o), (fd, b, n, o), EIO, -1)
WRAP_HOOK(ssize_t, pwrite, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), EIO,
	  -1)
WRAP_HOOK(ssize_t, pwrite64, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), EIO,
	  -1)

/* These return the error number. */
int __real_posix_memalign(void **p, size_t a, size_t n) WEAK;
int __wrap_posix_memalign(void **p, size_t a, size_t n) WEAK;
int __wrap_posix_memalign(void **p, size_t a, size_t n)
{
	if (failnth_point("posix_memalign"))
		return ENOMEM;
	return __real_posix_memalign(p, a, n);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *),
			  void *arg) WEAK;
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *),
			  void *arg) WEAK;
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	if (failnth_point("pthread_create"))
		return EAGAIN;
	return __real_pthread_create(t, a, fn, arg);
}

/* Variadic ones: the mode and the argument are read whether they were passed or not, as libc itself does. */
int __real_ioctl(int fd, unsigned long request, ...) WEAK;
int __wrap_ioctl(int fd, unsigned long request, ...) WEAK;
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	FAIL("ioctl", failnth_ioctl_errno, -1);
	return failnth_hooks.ioctl ? failnth_hooks.ioctl(fd, request, arg)
				   : __real_ioctl(fd, request, arg);
}

#define WRAP_OPEN(name)                                                           \
	int __real_##name(const char *path, int flags, ...) WEAK;                 \
	int __wrap_##name(const char *path, int flags, ...) WEAK;                 \
	int __wrap_##name(const char *path, int flags, ...)                       \
	{                                                                         \
		va_list ap;                                                       \
		mode_t mode;                                                      \
                                                                                  \
		va_start(ap, flags);                                              \
		mode = va_arg(ap, mode_t);                                        \
		va_end(ap);                                                       \
		FAIL(#name, EMFILE, -1);                                          \
		return failnth_hooks.open ? failnth_hooks.open(path, flags, mode) \
					  : __real_##name(path, flags, mode);     \
	}
WRAP_OPEN(open)
WRAP_OPEN(open64)

#define WRAP_OPENAT(name)                                                  \
	int __real_##name(int dir, const char *path, int flags, ...) WEAK; \
	int __wrap_##name(int dir, const char *path, int flags, ...) WEAK; \
	int __wrap_##name(int dir, const char *path, int flags, ...)       \
	{                                                                  \
		va_list ap;                                                \
		mode_t mode;                                               \
                                                                           \
		va_start(ap, flags);                                       \
		mode = va_arg(ap, mode_t);                                 \
		va_end(ap);                                                \
		FAIL(#name, EMFILE, -1);                                   \
		return __real_##name(dir, path, flags, mode);              \
	}
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)

/* ---- before and after -------------------------------------------------------------------------------- */

size_t __sanitizer_get_current_allocated_bytes(void) WEAK;

struct snapshot {
	int fds, maps;
	size_t heap;
};

static size_t heap_bytes(void)
{
	return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes()
						       : mallinfo2().uordblks;
}

/* Does the allocator account exactly? Not while freed chunks sit in a thread's cache. */
static bool heap_exact(void)
{
	size_t before = heap_bytes();
	void *volatile p = malloc(40);

	free(p);
	return heap_bytes() == before;
}

static struct snapshot snapshot(void)
{
	struct snapshot s;

	s.fds = unit_count_fds();
	s.maps = SANITIZED ? 0 : unit_count_maps();
	s.heap = heap_bytes();
	return s;
}

static void compare(unsigned int n, const struct snapshot *a, const struct snapshot *b, bool exact)
{
	char text[160];
	bool same = a->fds == b->fds && a->maps == b->maps && (!exact || a->heap == b->heap);

	if (!same) {
		snprintf(text, sizeof(text),
			 "fault %u in %s: descriptors %d to %d, mappings %d to %d, heap %zu to %zu",
			 n, failnth_where(), a->fds, b->fds, a->maps, b->maps, a->heap, b->heap);
		CU_assertImplementation(CU_FALSE, __LINE__, text, __FILE__, "failnth_sweep",
					CU_FALSE);
	}
}

unsigned int failnth_sweep(int (*scenario)(void *ctx), void *ctx)
{
	struct snapshot before, after;
	unsigned int n;
	bool exact, fired;
	int err;

	failnth_pause();
	exact = heap_exact();
	failnth_resume();
	if (!exact && !SANITIZED)
		CU_FAIL("the heap is not accounted exactly: set GLIBC_TUNABLES=glibc.malloc.tcache_count=0");
	for (int i = 0; i < 2; i++) {
		err = scenario(ctx);
		CU_ASSERT_EQUAL_FATAL(err, 0);
	}
	for (n = 1; n < SWEEP_MAX; n++) {
		failnth_pause();
		before = snapshot();
		failnth_resume();
		failnth_arm(n);
		err = scenario(ctx);
		fired = failnth_disarm();
		failnth_pause();
		after = snapshot();
		compare(n, &before, &after, exact);
		failnth_resume();
		if (!fired) {
			CU_ASSERT_EQUAL(err, 0);
			break;
		}
	}
	CU_ASSERT_TRUE(n > 1 && n < SWEEP_MAX);
	return n - 1;
}
