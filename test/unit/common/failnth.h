/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fail-nth: every fallible call of a scenario fails in turn, and after each failure nothing may be left behind.
 *
 * A test program wraps the calls it wants to fail with the linker, in its row of unit_tests:
 *
 *	unit_tests += [['subject', ['malloc', 'calloc', 'open64', 'ioctl', 'eventfd'], []]]
 *
 * (open, mmap, pread and pwrite are open64, mmap64, pread64 and pwrite64 to the linker, since meson builds with
 * _FILE_OFFSET_BITS=64; wrap both spellings when in doubt.) The wrappers are here, for any subset of:
 *
 *	malloc calloc realloc aligned_alloc posix_memalign open open64 openat openat64 ioctl mmap mmap64 pread pread64
 *	pwrite pwrite64 eventfd timerfd_create memfd_create ftruncate ftruncate64 epoll_create1 epoll_ctl socket socketpair
 *	pthread_create
 *
 * A wrapper is weak, so that a test which needs one of its own defines it, and asks failnth_point() in it. A wrapper
 * first fails if it is its turn, then calls the hook that the test installed (a fake kernel), else the real function.
 *
 *	static int scenario(void *ctx) { open ... use ... close; return what failed, or 0 }
 *	unsigned int n = failnth_sweep(scenario, ctx);
 *
 * failnth_sweep() runs it twice without a fault (what libraries keep for good is there then), and again with the first,
 * the second, the third ... call failing, until a run meets no fault. It asserts (CUnit) that the first and the last run return
 * 0, and that descriptors, mappings and heap are the same after each run as before. Mappings are not compared under
 * sanitizers, which make their own; the heap is compared exactly when it can be: under AddressSanitizer, or with
 * GLIBC_TUNABLES=glibc.malloc.tcache_count=0, which the meson tests set.
 */
#ifndef FAILNTH_H
#define FAILNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Run the sweep; returns how many faults were injected (0 is asserted not to be). */
unsigned int failnth_sweep(int (*scenario)(void *ctx), void *ctx);

/* The same by hand: the n-th point from here on fails, once. n = 0: none. */
void failnth_arm(unsigned int n);
/* Stop injecting; did the fault happen, and in which call ("" when not)? */
bool failnth_disarm(void);
const char *failnth_where(void);

/* In a wrapper: is it this call's turn to fail? Counts the call. Never in code between pause and resume (of this thread). */
bool failnth_point(const char *call);
void failnth_pause(void);
void failnth_resume(void);

/* What stands behind the wrappers when it is not the real function. NULL: the real function. */
struct failnth_hooks {
	int (*open)(const char *path, int flags, mode_t mode);
	int (*ioctl)(int fd, unsigned long request, void *arg);
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
	ssize_t (*pread)(int fd, void *buf, size_t len, off_t off);
	ssize_t (*pwrite)(int fd, const void *buf, size_t len, off_t off);
};
extern struct failnth_hooks failnth_hooks;

/* errno of an ioctl that is made to fail; EIO unless the test says otherwise. */
extern int failnth_ioctl_errno;

#endif
