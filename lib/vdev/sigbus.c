/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A server that survives its clients: a load or store to memory that a client has truncated raises
 * SIGBUS. The handler finds the mapping in a table that only atomic operations touch, puts a page
 * of private zeroes there and marks the device, whose connection is then closed. It takes no lock,
 * calls only mmap(), and leaves other faults to the handler before it.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include "vdev_priv.h"

#define SLOTS 4096

static struct slot {
	_Atomic uintptr_t start; /* 0 = free, 1 = being written */
	uintptr_t end, page;
	volatile sig_atomic_t *vanished;
} slots[SLOTS];
static _Atomic int used; /* highest slot ever used + 1 */
static _Atomic bool on;
static struct sigaction previous;

static bool replace(uintptr_t addr)
{
	int n = atomic_load_explicit(&used, memory_order_acquire);

	for (int i = 0; i < n; i++) {
		struct slot *s = &slots[i];
		uintptr_t start = atomic_load_explicit(&s->start, memory_order_acquire);
		uintptr_t page;

		if (start <= 1 || addr < start || addr >= s->end)
			continue;
		page = start + (addr - start) / s->page * s->page;
		if (mmap((void *)page, s->page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			return false;
		*s->vanished = 1;
		return true;
	}
	return false;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code == BUS_ADRERR && replace((uintptr_t)info->si_addr)) {
		errno = saved;
		return;
	}
	errno = saved;
	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(sig, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(sig);
	} else {
		/* Die of it as without us: the fault happens again on return. */
		signal(sig, SIG_DFL);
	}
}

int svio_vdev_sigbus_guard(void)
{
	struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

	if (atomic_load(&on))
		return 0;
	sa.sa_sigaction = handler;
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, &previous))
		return -errno;
	atomic_store(&on, true);
	return 0;
}

bool svio__vd_guard_on(void)
{
	return atomic_load_explicit(&on, memory_order_relaxed);
}

int svio__vd_guard_add(void *start, size_t len, size_t page, volatile sig_atomic_t *vanished)
{
	if (!svio__vd_guard_on())
		return -1;
	for (int i = 0; i < SLOTS; i++) {
		struct slot *s = &slots[i];
		uintptr_t expect = 0;
		int n;

		if (!atomic_compare_exchange_strong(&s->start, &expect, 1))
			continue;
		s->end = (uintptr_t)start + len;
		s->page = page;
		s->vanished = vanished;
		n = atomic_load(&used);
		while (n <= i && !atomic_compare_exchange_weak(&used, &n, i + 1))
			;
		atomic_store_explicit(&s->start, (uintptr_t)start, memory_order_release);
		return i;
	}
	return -1;
}

void svio__vd_guard_del(int slot)
{
	if (slot >= 0)
		atomic_store_explicit(&slots[slot].start, 0, memory_order_release);
}
