/* SPDX-License-Identifier: BSD-3-Clause */
/* Faults that are not ours, and our handler's place among others. */
#include <setjmp.h>
#include <sys/ptrace.h>
#include <ucontext.h>
#include "fake_dev.h"

static struct fake dev;
static struct svio_bar *bar;

/* A foreign mapping behind the end of its file. */
static char *foreign_page(void)
{
	int fd = memfd_create("foreign", MFD_CLOEXEC);
	void *p;

	if (fd < 0)
		abort();
	p = mmap(NULL, FAKE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		abort();
	return p;
}

static void touch(const char *p)
{
	(void)*(const volatile char *)p;
}

static void dev_setup(void)
{
	fake_init(&dev);
	if (svio_bar_map(fake_dev(&dev), 0, 0, 0, 0, &bar) != 0)
		abort();
}

static void dev_teardown(void)
{
	svio_bar_unmap(bar);
	fake_fini(&dev);
}

/* The guard works: withdraw, absorb, restore. */
static bool guard_works(void)
{
	uint64_t faults = svio_bar_fault_count();
	bool ok;

	fake_off(&dev);
	ok = fake_load(bar, 12) == UINT32_MAX && svio_bar_fault_count() == faults + 1;
	fake_on(&dev);
	return svio_bar_restore(fake_dev(&dev)) == 0 && ok &&
	       fake_load(bar, 12) == fake_reg(&dev, 12);
}

/* ---- previous handlers ----------------------------------------------------------------------- */

static volatile sig_atomic_t calls, call_sig, call_code, call_errno;
static void *volatile call_addr;
static volatile sig_atomic_t bus_blocked, usr1_blocked, usr2_blocked, hup_blocked;
static char *page;

static void record(int sig)
{
	sigset_t set;

	calls++;
	call_sig = sig;
	call_errno = errno;
	sigprocmask(SIG_SETMASK, NULL, &set);
	bus_blocked = sigismember(&set, SIGBUS);
	usr1_blocked = sigismember(&set, SIGUSR1);
	usr2_blocked = sigismember(&set, SIGUSR2);
	hup_blocked = sigismember(&set, SIGHUP);
}

/* Repairs what it was called for, so that the access goes on. */
static void repair(void)
{
	if (page)
		mmap(page, FAKE_PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void on_info(int sig, siginfo_t *info, void *uc)
{
	(void)uc;
	call_code = info->si_code;
	call_addr = info->si_addr;
	record(sig);
	repair();
}

static void on_plain(int sig)
{
	record(sig);
	repair();
}

static void install(void *fn, int flags, int masked)
{
	struct sigaction sa = { .sa_flags = flags };

	if (flags & SA_SIGINFO)
		sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))fn;
	else
		sa.sa_handler = (void (*)(int))fn;
	sigemptyset(&sa.sa_mask);
	if (masked)
		sigaddset(&sa.sa_mask, masked);
	sigaction(SIGBUS, &sa, NULL);
	calls = 0;
}

static bool is_handler(void *fn)
{
	return (void *)fake_current_action().sa_handler == fn;
}

static void test_siginfo(void)
{
	install((void *)on_info, SA_SIGINFO, SIGUSR1);
	dev_setup();
	CU_ASSERT_FALSE(is_handler((void *)on_info));
	page = foreign_page();
	errno = 33;
	touch(page + 123);
	CU_ASSERT_EQUAL(errno, 33);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_EQUAL(call_sig, SIGBUS);
	CU_ASSERT_EQUAL(call_code, BUS_ADRERR);
	CU_ASSERT_PTR_EQUAL(call_addr, page + 123);
#ifndef __SANITIZE_THREAD__ /* which changes errno around handlers */
	CU_ASSERT_EQUAL(call_errno, 33);
#endif
	/* As the kernel would have run it: its sa_mask, SIGBUS, and nothing else. */
	CU_ASSERT_EQUAL(bus_blocked, 1);
	CU_ASSERT_EQUAL(usr1_blocked, 1);
	CU_ASSERT_EQUAL(usr2_blocked, 0);
	/* It is not asked about BARs. */
	CU_ASSERT_TRUE(guard_works());
	CU_ASSERT_EQUAL(calls, 1);
	munmap(page, FAKE_PAGE);
	dev_teardown();
	CU_ASSERT_TRUE(is_handler((void *)on_info));
	signal(SIGBUS, SIG_DFL);
}

static void test_plain(void)
{
	sigset_t hup, saved, after;

	install((void *)on_plain, SA_NODEFER, SIGUSR2);
	dev_setup();
	page = foreign_page();
	sigemptyset(&hup);
	sigaddset(&hup, SIGHUP);
	sigprocmask(SIG_BLOCK, &hup, &saved);
	touch(page);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_EQUAL(bus_blocked, 0); /* SA_NODEFER */
	CU_ASSERT_EQUAL(usr1_blocked, 0);
	CU_ASSERT_EQUAL(usr2_blocked, 1);
	CU_ASSERT_EQUAL(hup_blocked, 1); /* of the interrupted code */
	sigprocmask(SIG_SETMASK, &saved, &after);
	CU_ASSERT_EQUAL(sigismember(&after, SIGHUP), 1);
	CU_ASSERT_EQUAL(sigismember(&after, SIGUSR2), 0);
	munmap(page, FAKE_PAGE);
	dev_teardown();
	CU_ASSERT_TRUE(is_handler((void *)on_plain));
	signal(SIGBUS, SIG_DFL);
}

/* Sent signals go the same way; SA_SIGINFO shows the sender. */
static void test_sent(void)
{
	union sigval v = { .sival_int = 5 };

	install((void *)on_info, SA_SIGINFO, 0);
	dev_setup();
	page = NULL;
	kill(getpid(), SIGBUS);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_EQUAL(call_code, SI_USER);
	sigqueue(getpid(), SIGBUS, v);
	CU_ASSERT_EQUAL(calls, 2);
	CU_ASSERT_EQUAL(call_code, SI_QUEUE);
	CU_ASSERT_FALSE(svio_bar_revoked(bar));
	dev_teardown();
	signal(SIGBUS, SIG_DFL);
}

static sigjmp_buf jump;

static void on_jump(int sig)
{
	record(sig);
	siglongjmp(jump, 1);
}

static void test_siglongjmp(void)
{
	volatile int jumps = 0;

	install((void *)on_jump, 0, 0);
	dev_setup();
	page = foreign_page();
	for (int i = 0; i < 100; i++) {
		if (sigsetjmp(jump, 1) == 0)
			touch(page);
		else
			jumps++;
	}
	CU_ASSERT_EQUAL(jumps, 100);
	CU_ASSERT_TRUE(guard_works());
	/* Unmapping waits for handlers at work: none was lost by the jumps. */
	dev_teardown();
	munmap(page, FAKE_PAGE);
	signal(SIGBUS, SIG_DFL);
}

/* A thread whose stack is not usable for signals: SA_ONSTACK. */
static char altstack[64 * 1024];
static void *volatile handler_sp;

static void on_stack(int sig)
{
	char here;

	handler_sp = &here;
	record(sig);
	repair();
}

static void test_altstack(void)
{
	stack_t ss = { .ss_sp = altstack, .ss_size = sizeof(altstack) }, old;

	install((void *)on_stack, SA_ONSTACK, 0);
	dev_setup();
	CU_ASSERT_TRUE(fake_current_action().sa_flags & SA_ONSTACK);
	sigaltstack(&ss, &old);
	CU_ASSERT_TRUE(guard_works());
	page = foreign_page();
	touch(page);
	CU_ASSERT_EQUAL(calls, 1);
	CU_ASSERT_TRUE((char *)handler_sp >= altstack &&
		       (char *)handler_sp < altstack + sizeof(altstack));
	sigaltstack(&old, NULL);
	munmap(page, FAKE_PAGE);
	dev_teardown();
	signal(SIGBUS, SIG_DFL);
}

/* Its one signal, and then the default action; our handler stays. */
static bool child_resethand(void)
{
	install((void *)on_plain, (int)SA_RESETHAND, 0);
	dev_setup();
	page = foreign_page();
	touch(page);
	if (calls != 1 || !guard_works())
		return false;
	page = foreign_page();
	touch(page); /* kills */
	return true;
}

static bool child_resethand_removed(void)
{
	install((void *)on_plain, (int)SA_RESETHAND, 0);
	dev_setup();
	page = NULL;
	raise(SIGBUS);
	dev_teardown();
	return calls == 1 && is_handler((void *)SIG_DFL);
}

static void test_resethand(void)
{
	int status = fake_in_child(child_resethand);

	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	status = fake_in_child(child_resethand_removed);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- death ----------------------------------------------------------------------------------- */

static bool child_dfl_fault(void)
{
	dev_setup();
	if (!guard_works())
		return false;
	touch(foreign_page());
	return true;
}

static bool child_dfl_kill(void)
{
	dev_setup();
	kill(getpid(), SIGBUS);
	return true;
}

static bool child_dfl_queue(void)
{
	union sigval v = { .sival_ptr = NULL };

	dev_setup();
	sigqueue(getpid(), SIGBUS, v);
	return true;
}

/* A fault on the BAR's address that is not a fault: someone sends a siginfo that names it. */
static bool child_dfl_forged(void)
{
	siginfo_t info;

	dev_setup();
	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = SI_QUEUE;
	info.si_addr = bar->addr;
	__real_syscall(SYS_rt_sigqueueinfo, (long)getpid(), (long)SIGBUS, (long)(uintptr_t)&info,
		       0L, 0L, 0L);
	return true;
}

static bool child_ign_fault(void)
{
	signal(SIGBUS, SIG_IGN);
	dev_setup();
	touch(foreign_page());
	return true;
}

static bool child_ign_kill(void)
{
	signal(SIGBUS, SIG_IGN);
	dev_setup();
	kill(getpid(), SIGBUS);
	return guard_works();
}

static void test_death(void)
{
	bool (*const deadly[])(void) = { child_dfl_fault, child_dfl_kill, child_dfl_queue,
					 child_dfl_forged, child_ign_fault };
	int status;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(deadly); i++) {
		status = fake_in_child(deadly[i]);
		CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	}
	status = fake_in_child(child_ign_kill);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/*
 * What a debugger or a core dump sees at the end: the true code and address. The parent traces the
 * child to its death.
 */
static void test_death_is_true(void)
{
	char *where = foreign_page();
	siginfo_t info = { 0 };
	int status, stops = 0;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		dev_setup();
		touch(where + 321);
		_exit(3);
	}
	CU_ASSERT_TRUE_FATAL(pid > 0);
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		if (WSTOPSIG(status) == SIGBUS) {
			ptrace(PTRACE_GETSIGINFO, pid, NULL, &info);
			stops++;
		}
		ptrace(PTRACE_CONT, pid, NULL, (void *)(uintptr_t)WSTOPSIG(status));
	}
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	CU_ASSERT_EQUAL(stops, 2); /* to our handler, and to the default action */
	CU_ASSERT_EQUAL(info.si_code, BUS_ADRERR);
	CU_ASSERT_PTR_EQUAL(info.si_addr, where + 321);
	munmap(where, FAKE_PAGE);
}

/* ---- installation ---------------------------------------------------------------------------- */

static void test_install_remove(void)
{
	struct svio_bar *second;

	dev_setup();
	CU_ASSERT_FALSE(is_handler((void *)SIG_DFL));
	CU_ASSERT_EQUAL(svio_bar_map(fake_dev(&dev), 2, 0, 0, 0, &second), 0);
	svio_bar_unmap(second);
	CU_ASSERT_FALSE(is_handler((void *)SIG_DFL));
	dev_teardown();
	CU_ASSERT_TRUE(is_handler((void *)SIG_DFL));
	for (int i = 0; i < 100; i++) { /* levels are given back */
		dev_setup();
		dev_teardown();
	}
	CU_ASSERT_TRUE(is_handler((void *)SIG_DFL));
}

/* A sent SIGBUS that was ignored interrupted no system call; ours must not, either. */
static void test_restart(void)
{
	signal(SIGBUS, SIG_IGN);
	dev_setup();
	CU_ASSERT_TRUE(fake_current_action().sa_flags & SA_RESTART);
	dev_teardown();
	install((void *)on_plain, 0, 0);
	dev_setup();
	CU_ASSERT_FALSE(fake_current_action().sa_flags & SA_RESTART);
	dev_teardown();
	signal(SIGBUS, SIG_DFL);
}

static struct sigaction theirs_prev;

/* An application's handler that passes on to the one it replaced, as good manners want. */
static void on_theirs(int sig, siginfo_t *info, void *uc)
{
	calls++;
	if (calls > 100)
		abort();
	if (theirs_prev.sa_flags & SA_SIGINFO)
		theirs_prev.sa_sigaction(sig, info, uc);
}

static void install_theirs(void)
{
	struct sigaction sa = { .sa_flags = SA_SIGINFO };

	sa.sa_sigaction = on_theirs;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGBUS, &sa, &theirs_prev);
	calls = 0;
}

static bool child_replaced(void)
{
	struct svio_bar *second;
	bool ok;

	dev_setup();
	install_theirs();
	/* Theirs passes on: the guard still works, through it. */
	fake_off(&dev);
	ok = fake_load(bar, 0) == UINT32_MAX && calls == 1;
	fake_on(&dev);
	/* Restoring puts the guard on top again. */
	ok = ok && svio_bar_restore(fake_dev(&dev)) == 0 && !is_handler((void *)on_theirs);
	calls = 0;
	ok = ok && guard_works() && calls == 0;
	/* So does mapping, after another replacement. */
	ok = ok && svio_bar_map(fake_dev(&dev), 2, 0, 0, 0, &second) == 0;
	svio_bar_unmap(second);
	/* The last unmap takes out our upper handler, and leaves theirs. */
	dev_teardown();
	ok = ok && is_handler((void *)on_theirs);
	/* And again, with the lower one still remembered by theirs. */
	for (int i = 0; i < 20; i++) {
		dev_setup();
		ok = ok && guard_works();
		dev_teardown();
	}
	return ok && is_handler((void *)on_theirs);
}

/*
 * A foreign fault: ours, theirs, ours below it, and the default action it found at first. No loop.
 */
static bool child_replaced_dies(void)
{
	dev_setup();
	install_theirs();
	if (svio_bar_restore(fake_dev(&dev)) != 0 || is_handler((void *)on_theirs))
		return false;
	touch(foreign_page());
	return true;
}

/* An application that puts handlers on top for ever: we give up in the end, without harm. */
static bool child_levels(void)
{
	struct sigaction sa = { .sa_handler = on_plain };

	dev_setup();
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	for (int i = 0; i < 20; i++) {
		sa.sa_handler = (i % 2) ? on_plain : on_stack;
		sigaction(SIGBUS, &sa, NULL);
		if (svio_bar_restore(fake_dev(&dev)) != 0)
			return false;
	}
	dev_teardown();
	return is_handler((void *)on_plain);
}

/* Theirs is taken out the way it came: ours is current again, and is recognised. */
static bool child_popped(void)
{
	dev_setup();
	install_theirs();
	sigaction(SIGBUS, &theirs_prev, NULL);
	if (!guard_works())
		return false;
	dev_teardown();
	return is_handler((void *)SIG_DFL);
}

static void test_replaced(void)
{
	int status = fake_in_child(child_replaced);

	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	status = fake_in_child(child_replaced_dies);
	CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	status = fake_in_child(child_levels);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	status = fake_in_child(child_popped);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static const struct unit_test tests[] = {
	{ "a SA_SIGINFO handler gets foreign faults", test_siginfo },
	{ "a plain handler gets foreign faults; SA_NODEFER", test_plain },
	{ "sent signals pass on", test_sent },
	{ "siglongjmp out of the previous handler", test_siglongjmp },
	{ "alternate stack", test_altstack },
	{ "SA_RESETHAND", test_resethand },
	{ "death by SIGBUS where there is no handler", test_death },
	{ "death shows the true code and address", test_death_is_true },
	{ "installed with the first BAR, removed with the last", test_install_remove },
	{ "SA_RESTART", test_restart },
	{ "replaced by the application", test_replaced },
	{ NULL, NULL },
};

int main(void)
{
	signal(SIGBUS, SIG_DFL);
	return unit_run("mmio/chain", tests);
}
