/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All threads of this process stand still while a function runs.
 *
 * Who makes them stand still must not be one of them: a child that shares the address space and the descriptors (clone(2) with CLONE_VM and
 * CLONE_FILES, no copy of anything) seizes every thread by ptrace(2), runs the function, and lets go. Interrupted system calls
 * go on by themselves; no signal is sent. The thread that asked waits, and is stopped with the others.
 *
 * The child runs on a stack of its own, but with the thread-local storage of the waiting thread: so nothing but plain system calls, no
 * allocation, no locks, no cancellation points. Threads that come while others are being seized are found by looking again until
 * there is none.
 */
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "dirty_priv.h"
#include "ptracer.h"

#define MAX_THREADS 4096u
#define STACK	    (256u << 10)
#define PATIENCE_NS UINT64_C(2000000000) /* for a thread in the kernel to come to a place where it can stop */

struct frozen {
	pid_t tid;
	bool stopped, gone;
	int sig; /* was about to be delivered: goes with the release */
};

struct freeze {
	int tasks; /* /proc/self/task of the process, opened by it */
	int (*fn)(void *ctx);
	void *ctx;
	_Atomic bool go;
	int err;      /* -errno of freezing, or what fn said */
	uint32_t num;
	struct frozen threads[MAX_THREADS];
};

struct dirent64_head { /* getdents64(2) */
	uint64_t ino, off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

static long trace(int request, pid_t tid, long data)
{
	return syscall(SYS_ptrace, request, tid, 0, data);
}

/* A thread that has ended and is still listed: proc(5), stat, the letter behind the name in parentheses. */
static bool has_ended(const struct freeze *f, const char *tid)
{
	char path[32] = "", buf[256];
	const char *p = NULL;
	size_t n = strlen(tid);
	long fd, got;

	if (n > sizeof(path) - sizeof("/stat"))
		return false;
	memcpy(path, tid, n);
	memcpy(path + n, "/stat", sizeof("/stat"));
	fd = syscall(SYS_openat, f->tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ESRCH;
	got = syscall(SYS_read, fd, buf, sizeof(buf));
	if (got < 0 && errno == ESRCH)
		got = 0;
	syscall(SYS_close, fd);
	for (long i = 0; i + 2 < got; i++)
		if (buf[i] == ')')
			p = &buf[i];
	return got == 0 || (p && (p[2] == 'Z' || p[2] == 'X'));
}

static int seize(struct freeze *f, const char *name, pid_t tid)
{
	for (uint32_t i = 0; i < f->num; i++)
		if (f->threads[i].tid == tid)
			return 0;
	if (f->num == MAX_THREADS)
		return -E2BIG;
	if (trace(PTRACE_SEIZE, tid, 0)) {
		int err = errno;

		/* Who is just ending cannot be seized, and writes nothing any more. */
		return err == ESRCH || (err == EPERM && has_ended(f, name)) ? 0 : -err;
	}
	f->threads[f->num] = (struct frozen){ .tid = tid };
	f->num++;
	trace(PTRACE_INTERRUPT, tid, 0);
	return 1;
}

/* Seize who is not yet seized: how many, or -errno. */
static int seize_all(struct freeze *f)
{
	char buf[4096] __attribute__((aligned(8)));
	int fresh = 0, rc;
	long n;

	if (syscall(SYS_lseek, f->tasks, 0, SEEK_SET))
		return -errno;
	while ((n = syscall(SYS_getdents64, f->tasks, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64_head *d = (const void *)(buf + at);
			pid_t tid = 0;

			at += d->reclen;
			for (const char *p = d->name; *p >= '0' && *p <= '9'; p++)
				tid = tid * 10 + (*p - '0');
			rc = tid ? seize(f, d->name, tid) : 0;
			if (rc < 0)
				return rc;
			fresh += rc;
		}
	return n < 0 ? -errno : fresh;
}

static int wait_stopped(struct frozen *t, uint64_t end)
{
	const struct timespec nap = { .tv_nsec = 20000 };
	int status;
	long r;

	while (!t->stopped && !t->gone) {
		r = syscall(SYS_wait4, t->tid, &status, __WALL | WNOHANG, NULL);
		if (r < 0 && errno != EINTR) {
			t->gone = true;
		} else if (r == t->tid) {
			t->stopped = WIFSTOPPED(status);
			t->gone = !t->stopped;
			if (t->stopped && !(status >> 16)) /* no event: a signal is about to be delivered */
				t->sig = WSTOPSIG(status);
		} else {
			struct timespec now;

			syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
			if ((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec > end)
				return -ETIMEDOUT;
			syscall(SYS_nanosleep, &nap, NULL);
		}
	}
	return 0;
}

/* The child. */
static int freezer(void *arg)
{
	struct freeze *f = arg;
	struct timespec now;
	uint64_t end;
	int rc;

	while (!atomic_load_explicit(&f->go, memory_order_acquire))
		syscall(SYS_sched_yield);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	end = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec + PATIENCE_NS;
	do {
		rc = seize_all(f);
		for (uint32_t i = 0; rc > 0 && i < f->num; i++) {
			int r = wait_stopped(&f->threads[i], end);

			rc = r ? r : rc;
		}
	} while (rc > 0);
	if (rc == 0)
		rc = f->fn(f->ctx);
	for (uint32_t i = 0; i < f->num; i++) {
		struct frozen *t = &f->threads[i];

		/* Only who is stopped can be released; one that was given up on stops sooner or later. */
		while (!t->stopped && !t->gone && wait_stopped(t, UINT64_MAX))
			;
		if (t->stopped)
			trace(PTRACE_DETACH, t->tid, t->sig);
	}
	f->err = rc;
	syscall(SYS_exit, 0);
	return 0;
}

int svio__dirty_freeze(int (*fn)(void *ctx), void *ctx)
{
	const size_t len = SVIO_ALIGN_UP(sizeof(struct freeze), (size_t)4096);
	sigset_t all, old;
	struct freeze *f;
	int rc, status;
	pid_t pid;
	char *p;

#ifdef __SANITIZE_THREAD__
	/* It takes the child for a fork, and ends the process at the next thread that starts. */
	return svio_fail(EOPNOTSUPP, "under ThreadSanitizer the threads of a process cannot be stopped for a moment");
#endif
	p = mmap(NULL, len + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return svio_fail(ENOMEM, "no memory to stop the threads of this process");
	f = (void *)p;
	*f = (struct freeze){ .fn = fn, .ctx = ctx, .err = -EIO };
	f->tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->tasks < 0) {
		rc = svio_fail(errno, "/proc/self/task: %s", strerror(errno));
		munmap(p, len + STACK);
		return rc;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the child's too: it has our handlers, and no business with them */
	/* No exit signal: an application that waits for its children does not see this one. */
	pid = clone(freezer, p + len + STACK, CLONE_VM | CLONE_FILES | CLONE_FS, f);
	if (pid < 0) {
		rc = -errno;
	} else {
		svio__ptracer_borrow(pid); /* where Yama lets only ancestors trace */
		atomic_store_explicit(&f->go, true, memory_order_release);
		while (syscall(SYS_wait4, pid, &status, __WALL, NULL) < 0 && errno == EINTR)
			;
		svio__ptracer_return();
		rc = f->err;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(f->tasks);
	munmap(p, len + STACK);
	if (rc)
		return svio_fail(rc, "the threads of this process cannot be stopped for a moment: %s%s", strerror(-rc),
				 rc == -EPERM ? " (a debugger or strace is there, or ptrace is forbidden)" : "");
	return 0;
}
