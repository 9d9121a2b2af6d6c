/* SPDX-License-Identifier: BSD-3-Clause */
/* Descriptors over a unix socket: all arrive, those that are too many are closed, what the kernel cuts off is told. */
#include <fcntl.h>
#include <sys/resource.h>
#include "rights.h"
#include "unit.h"

#define MANY 8u

static int socks[2], out[MANY];

static void begin(void)
{
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	for (uint32_t i = 0; i < MANY; i++) {
		out[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		CU_ASSERT_FATAL(out[i] >= 0);
	}
}

static void end(void)
{
	for (uint32_t i = 0; i < MANY; i++)
		close(out[i]);
	close(socks[0]);
	close(socks[1]);
}

static void send_some(const int *fds, uint32_t num)
{
	SVIO__RIGHTS(MANY) control;
	struct iovec byte = { "x", 1 };
	struct msghdr msg = { .msg_iov = &byte, .msg_iovlen = 1 };

	svio__rights_put(&msg, &control, fds, num);
	CU_ASSERT_EQUAL_FATAL(sendmsg(socks[0], &msg, MSG_NOSIGNAL), 1);
}

static bool take_some(int *fds, uint32_t max, uint32_t *num)
{
	SVIO__RIGHTS(MANY) control;
	char data;
	struct iovec byte = { &data, 1 };
	struct msghdr msg = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };

	CU_ASSERT_EQUAL_FATAL(recvmsg(socks[1], &msg, MSG_CMSG_CLOEXEC), 1);
	return svio__rights_take(&msg, fds, max, num);
}

static void test_all(void)
{
	int in[2 * MANY], before = unit_count_fds();
	uint32_t n = 0;

	begin();
	/* One behind the other, odd numbers too: cmsg(3) pads. */
	for (uint32_t i = 1; i <= 3; i++)
		send_some(out, i);
	for (uint32_t i = 1; i <= 3; i++)
		CU_ASSERT(take_some(in, 2 * MANY, &n));
	CU_ASSERT_EQUAL(n, 6);
	for (uint32_t i = 0; i < n; i++) {
		CU_ASSERT(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
		close(in[i]);
	}
	CU_ASSERT(write(socks[0], "x", 1) == 1 && take_some(in, 2 * MANY, &n));
	CU_ASSERT_EQUAL(n, 6);
	end();
	CU_ASSERT_EQUAL(unit_count_fds(), before);
}

static void test_too_many(void)
{
	int in[MANY], before = unit_count_fds();
	uint32_t n = 0;

	begin();
	send_some(out, MANY);
	CU_ASSERT(!take_some(in, 3, &n));
	CU_ASSERT_EQUAL(n, 3);
	CU_ASSERT_EQUAL(unit_count_fds(), before + 2 + (int)MANY + 3);
	while (n)
		close(in[--n]);
	end();
}

/* The process has no room for them: getrlimit(2). */
static void test_cut_off(void)
{
	struct rlimit old, less;
	int in[MANY], highest;
	uint32_t n = 0;

	begin();
	send_some(out, MANY);
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &old), 0);
	highest = dup(socks[0]);
	less = old;
	less.rlim_cur = (rlim_t)highest + 3; /* this one's and two more */
	close(highest);
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &less), 0);
	CU_ASSERT(!take_some(in, MANY, &n));
	CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &old), 0);
	CU_ASSERT_EQUAL(n, 3);
	while (n)
		close(in[--n]);
	end();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "all of them, behind those that are there", test_all },
		{ "more than there is room for", test_too_many },
		{ "more than the process may have", test_cut_off },
		{ NULL, NULL },
	};

	return unit_run("base/rights", tests);
}
