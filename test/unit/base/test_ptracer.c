/* SPDX-License-Identifier: BSD-3-Clause */
/* Yama is SIMULATED: its setting, and the kernel's one place for a tracer. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ptracer.h"
#include "svio_base.h"
#include "unit.h"

#define DEAD 4000

static char scope[4];
static long place = -1; /* who is let in; 0: nobody */
static unsigned int calls;

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
int __wrap_prctl(int option, ...);

FILE *__wrap_fopen(const char *path, const char *mode)
{
	if (strcmp(path, "/proc/sys/kernel/yama/ptrace_scope"))
		return __real_fopen(path, mode);
	if (!scope[0]) {
		errno = ENOENT;
		return NULL;
	}
	return fmemopen(scope, strlen(scope), "r");
}

FILE *__wrap_fopen64(const char *path, const char *mode)
{
	return __wrap_fopen(path, mode);
}

int __wrap_prctl(int option, ...)
{
	va_list args;
	long pid;

	va_start(args, option);
	pid = va_arg(args, int);
	va_end(args);
	calls++;
	if (option != PR_SET_PTRACER || pid == DEAD || !scope[0]) {
		errno = EINVAL;
		return -1;
	}
	place = pid;
	return 0;
}

static void set_scope(const char *text)
{
	snprintf(scope, sizeof(scope), "%s", text);
	calls = 0;
}

static void test_scopes(void)
{
	static const char *const idle[] = { "", "0\n", "2\n", "3\n", "?" };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(idle); i++) {
		set_scope(idle[i]);
		CU_ASSERT_EQUAL(svio__ptracer_scope(), i == 2 ? 2 : i == 3 ? 3 : 0);
		CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
		svio__ptracer_revoke(7);
		CU_ASSERT_EQUAL(calls, 0);
	}
}

static void test_counted(void)
{
	set_scope("1\n");
	CU_ASSERT_EQUAL(svio__ptracer_allow(DEAD), -ESRCH);
	CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
	CU_ASSERT_EQUAL(place, 7);
	CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
	CU_ASSERT_EQUAL(svio__ptracer_allow(8), -EBUSY);
	svio__ptracer_revoke(8);
	svio__ptracer_revoke(7);
	CU_ASSERT_EQUAL(place, 7);
	svio__ptracer_revoke(7);
	CU_ASSERT_EQUAL(place, 0);
	CU_ASSERT_EQUAL(svio__ptracer_allow(8), 0);
	CU_ASSERT_EQUAL(place, 8);
	svio__ptracer_revoke(8);
	CU_ASSERT_EQUAL(place, 0);
}

static void test_borrowed(void)
{
	set_scope("1\n");
	CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
	svio__ptracer_borrow(9);
	CU_ASSERT_EQUAL(place, 9);
	svio__ptracer_return();
	CU_ASSERT_EQUAL(place, 7);
	svio__ptracer_borrow(9);
	svio__ptracer_revoke(7);
	CU_ASSERT_EQUAL(place, 9);
	svio__ptracer_return();
	CU_ASSERT_EQUAL(place, 0);
	svio__ptracer_borrow(9);
	CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
	CU_ASSERT_EQUAL(place, 9);
	svio__ptracer_return();
	CU_ASSERT_EQUAL(place, 7);
	svio__ptracer_revoke(7);
	CU_ASSERT_EQUAL(place, 0);
}

/* A child has named nobody: it may name another, and its parent's count is not its own. */
static void test_fork(void)
{
	int status;
	pid_t pid;

	set_scope("1\n");
	CU_ASSERT_EQUAL(svio__ptracer_allow(7), 0);
	pid = fork();
	if (pid == 0) {
		place = 0;
		svio__ptracer_revoke(7);
		_exit(place != 0 || calls != 1 || svio__ptracer_allow(8) || place != 8);
	}
	CU_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	svio__ptracer_revoke(7);
	CU_ASSERT_EQUAL(place, 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "Yama's settings", test_scopes },
		{ "one at a time, counted", test_counted },
		{ "lent for a moment", test_borrowed },
		{ "fork", test_fork },
		{ NULL, NULL },
	};

	return unit_run("base/ptracer", tests);
}
