/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The SIGBUS handler's place among others.
 *
 * Kernel → our handler → (not ours) → whoever was installed before. When an application installs a
 * handler of its own after us, ours is either called by it or lost; so it is looked at whenever a
 * BAR is mapped or restored, and ours is put on top again. Were it the same function, "theirs calls
 * the previous one" would come back to us for ever; therefore each time we go on top we use another
 * function with a `previous` of its own, a level. Level 0 remains what theirs calls, and ends where
 * it always ended.
 *
 * Async-signal-safety of the handlers: guard_absorb() (see guard.c); sigaction() is on POSIX's
 * list; rt_sigprocmask, getpid, gettid, rt_tgsigqueueinfo and tgkill are raw system calls; the rest
 * is lock-free atomics on static memory.
 */
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include "mmio_priv.h"

#define CHAIN_LEVELS 8

/*
 * The kernel's signal set: glibc's sigset_t is longer, and what a signal frame holds behind these 8
 * bytes is not a mask.
 */
typedef uint64_t kernel_sigset;
#define SIGBUS_BIT (UINT64_C(1) << (SIGBUS - 1))

static struct chain_level {
	struct sigaction prev; /* for uninstalling; the handler reads the atomics */
	_Atomic uintptr_t handler;
	_Atomic int flags;
	_Atomic kernel_sigset mask;
	_Atomic uint32_t spent; /* SA_RESETHAND: it had its one signal */
} levels[CHAIN_LEVELS];
static int top = -1; /* highest level in use; room's lock */

/*
 * The default action, for certain. Returning would repeat a faulting access, but a fault may not
 * repeat (the truncated file has grown again), and then the process would go on without a guard. So
 * the same siginfo is also queued to this thread: SIGBUS is blocked while its handler runs, and
 * kills when it returns, at the faulting instruction and with the true si_code and si_addr
 * (rt_tgsigqueueinfo(2): a process may send itself any si_code).
 */
static void die(siginfo_t *info)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	long pid = syscall(SYS_getpid), tid = syscall(SYS_gettid);

	sigaction(SIGBUS, &dfl, NULL);
	if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, SIGBUS, info) != 0)
		syscall(SYS_tgkill, pid, tid, SIGBUS);
}

/*
 * Was it caused by what this thread did, and not sent? The kernel does not let such a signal be
 * ignored.
 */
static bool is_fault(const siginfo_t *info)
{
	return info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
}

/* Run what was installed before as the kernel would have run it. */
static void pass_on(struct chain_level *level, int sig, siginfo_t *info, void *ucontext)
{
	uintptr_t handler = atomic_load(&level->handler);
	int flags = atomic_load(&level->flags);
	kernel_sigset mask;

	if ((flags & (int)SA_RESETHAND) && handler != (uintptr_t)SIG_IGN &&
	    atomic_exchange(&level->spent, 1) != 0)
		handler = (uintptr_t)SIG_DFL;
	if (handler == (uintptr_t)SIG_IGN) {
		if (!is_fault(info))
			return;
		handler = (uintptr_t)SIG_DFL;
	}
	if (handler == (uintptr_t)SIG_DFL) {
		die(info);
		return;
	}
	/*
	 * We block everything; it is entitled to what was blocked before, its sa_mask, and SIGBUS
	 * unless SA_NODEFER.
	 */
	memcpy(&mask, &((ucontext_t *)ucontext)->uc_sigmask, sizeof(mask));
	mask |= atomic_load(&level->mask);
	if (!(flags & SA_NODEFER))
		mask |= SIGBUS_BIT;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask));
	if (flags & SA_SIGINFO)
		((void (*)(int, siginfo_t *, void *))handler)(sig, info, ucontext);
	else
		((void (*)(int))handler)(sig);
	/* The return from our handler restores the mask of the interrupted code. */
}

static void on_sigbus(struct chain_level *level, int sig, siginfo_t *info, void *ucontext)
{
	int saved = errno;
	bool absorbed = info->si_code > 0 && guard_absorb((uintptr_t)info->si_addr);

	errno = saved;
	if (!absorbed)
		pass_on(level, sig, info, ucontext);
}

#define LEVEL_HANDLER(n)                                                    \
	static void on_sigbus_##n(int sig, siginfo_t *info, void *ucontext) \
	{                                                                   \
		on_sigbus(&levels[n], sig, info, ucontext);                 \
	}
LEVEL_HANDLER(0)
LEVEL_HANDLER(1)
LEVEL_HANDLER(2)
LEVEL_HANDLER(3)
LEVEL_HANDLER(4)
LEVEL_HANDLER(5)
LEVEL_HANDLER(6)
LEVEL_HANDLER(7)

static void (*const handlers[CHAIN_LEVELS])(int, siginfo_t *, void *) = {
	on_sigbus_0, on_sigbus_1, on_sigbus_2, on_sigbus_3,
	on_sigbus_4, on_sigbus_5, on_sigbus_6, on_sigbus_7,
};

/* The level whose handler this is, or -1. */
static int level_of(const struct sigaction *sa)
{
	for (int i = 0; i < CHAIN_LEVELS; i++)
		if ((sa->sa_flags & SA_SIGINFO) && sa->sa_sigaction == handlers[i])
			return i;
	return -1;
}

static void remember(struct chain_level *level, const struct sigaction *prev)
{
	kernel_sigset mask;

	level->prev = *prev;
	memcpy(&mask, &prev->sa_mask, sizeof(mask));
	atomic_store(&level->handler, (prev->sa_flags & SA_SIGINFO) ? (uintptr_t)prev->sa_sigaction
								    : (uintptr_t)prev->sa_handler);
	atomic_store(&level->flags, prev->sa_flags);
	atomic_store(&level->mask, mask);
	atomic_store(&level->spent, 0);
}

int chain_ensure(void)
{
	struct sigaction cur, ours, old;
	int n;

	if (sigaction(SIGBUS, NULL, &cur) != 0)
		return svio_fail(errno, "sigaction(SIGBUS): %s", strerror(errno));
	n = level_of(&cur);
	if (n >= 0) {
		top = n;
		return 0;
	}
	n = top + 1;
	if (n == CHAIN_LEVELS) {
		svio_log_warn("the SIGBUS handler was replaced %d times after BARs had been "
			      "mapped: leaving it; access to a withdrawn BAR may now kill",
			      CHAIN_LEVELS);
		return 0;
	}
	if (top >= 0)
		svio_log_info("the SIGBUS handler was replaced after BARs had been mapped: "
			      "putting the guard before it");
	memset(&ours, 0, sizeof(ours));
	ours.sa_sigaction = handlers[n];
	/*
	 * Nothing may interrupt the handler: guard_quiesce() waits for it, and a siglongjmp() out
	 * of it would lose it.
	 */
	sigfillset(&ours.sa_mask);
	/*
	 * A sent SIGBUS interrupts system calls as it did before; one that is ignored interrupts
	 * none.
	 */
	ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
	if (cur.sa_handler == SIG_DFL || cur.sa_handler == SIG_IGN || (cur.sa_flags & SA_RESTART))
		ours.sa_flags |= SA_RESTART;
	remember(&levels[n], &cur);
	if (sigaction(SIGBUS, &ours, &old) != 0)
		return svio_fail(errno, "sigaction(SIGBUS): %s", strerror(errno));
	/* Another thread changed it in between: what we replaced is what comes after us. */
	if (old.sa_handler != cur.sa_handler)
		remember(&levels[n], &old);
	top = n;
	return 0;
}

void chain_remove(void)
{
	struct sigaction cur, dfl = { .sa_handler = SIG_DFL };

	if (top < 0 || sigaction(SIGBUS, NULL, &cur) != 0 || level_of(&cur) < 0)
		return;
	top = level_of(&cur);
	sigaction(SIGBUS, atomic_load(&levels[top].spent) ? &dfl : &levels[top].prev, NULL);
	top--;
}
