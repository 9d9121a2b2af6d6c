/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Process bonds to another process: a child connects, binds, and then does what it is told, while the device in this process
 * accesses its memory.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "dsa.h"

#define PAGE 4096u
#define LEN  (16 * PAGE)

/* Shared between the two: the child's words. */
struct talk {
	int bind_err;
	uint32_t pasid;
	uint64_t addr; /* LEN bytes of the child's own, private memory */
};

struct peer {
	pid_t pid;
	int order[2], answer[2]; /* pipes */
	struct svio_vdev *dev;
	struct svio_vdev_server *srv;
	char path[64];
	struct talk t;
};

/* ---- the child: no CUnit, plain blocking calls --------------------------------------------------------- */

static int request(int sock, uint16_t cmd, const void *payload, size_t len, void *reply, size_t room)
{
	struct svio_vfu_hdr h = { .id = 1, .cmd = cmd, .size = (uint32_t)(sizeof(h) + len) };
	uint8_t m[512];

	memcpy(m, &h, sizeof(h));
	memcpy(m + sizeof(h), payload, len);
	if (send(sock, m, h.size, MSG_NOSIGNAL) != (ssize_t)h.size || recv(sock, &h, sizeof(h), MSG_WAITALL) != sizeof(h))
		return -EPIPE;
	len = h.size - sizeof(h);
	if (len > sizeof(m) || (len && recv(sock, m, len, MSG_WAITALL) != (ssize_t)len))
		return -EPROTO;
	if (h.flags & SVIO_VFU_ERROR)
		return -(int)h.error;
	memcpy(reply, m, SVIO_MIN(len, room));
	return 0;
}

static int child_bind(int sock, uint32_t *pasid)
{
	struct {
		struct svio_vfu_feature f;
		struct svio_sva_bind b;
	} m = { .f = { .argsz = sizeof(m), .flags = SVIO_VFIO_FEATURE_SVA_BIND | SVIO_VFU_FEATURE_SET } };
	int err = request(sock, SVIO_VFU_DEVICE_FEATURE, &m, sizeof(m), &m, sizeof(m));

	*pasid = m.b.pasid;
	return err;
}

static int child_unbind(int sock)
{
	struct {
		struct svio_vfu_feature f;
		struct svio_sva_unbind u;
	} m = { .f = { .argsz = sizeof(m), .flags = SVIO_VFIO_FEATURE_SVA_UNBIND | SVIO_VFU_FEATURE_SET }, .u = { .max = UINT32_MAX } };
	int err = request(sock, SVIO_VFU_DEVICE_FEATURE, &m, sizeof(m), &m, sizeof(m));

	return err ? err : (int)m.u.released;
}

static void child_say(struct peer *p, const struct talk *t)
{
	if (write(p->answer[1], t, sizeof(*t)) != (ssize_t)sizeof(*t))
		_exit(9);
}

/* Orders: 'm' unmap the 2nd page; 'r' make the 3rd read-only; 'n' the 4th inaccessible; 'x' exec; 'q' end; 'f' fork a child that
 * writes into the 5th page, then wait for it; 'c' copy of the 6th page's first word into the answer; 'k' keep the socket in a
 * grandchild and end; 'u' unbind; 'b' bind. */
static void child(struct peer *p, uid_t uid)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct {
		struct svio_vfu_region_rw rw;
		uint8_t command[2];
	} master = { .rw = { .offset = 4, .region = SVIO_VFU_REGION_CONFIG, .count = 2 }, .command = { 6 } };
	struct svio_vfu_version v = { 0 };
	struct talk t = { 0 };
	volatile uint8_t *mem;
	int sock;
	char c;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (uid && setresuid(uid, uid, uid))
		_exit(8);
	mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(sa.sun_path, p->path);
	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(sock, (struct sockaddr *)&sa, sizeof(sa)) ||
	    request(sock, SVIO_VFU_VERSION, &v, sizeof(v), &v, sizeof(v)) ||
	    request(sock, SVIO_VFU_REGION_WRITE, &master, sizeof(master.rw) + 2, &master, sizeof(master)))
		_exit(7);
	t.addr = (uintptr_t)mem;
	mem[4 * PAGE] = 1; /* there before the fork */
	t.bind_err = child_bind(sock, &t.pasid);
	child_say(p, &t);
	while (read(p->order[0], &c, 1) == 1) {
		pid_t pid;

		switch (c) {
		case 'm':
			munmap((void *)(uintptr_t)(mem + PAGE), PAGE);
			break;
		case 'r':
			mem[2 * PAGE] = 1;
			mprotect((void *)(uintptr_t)(mem + 2 * PAGE), PAGE, PROT_READ);
			break;
		case 'n':
			mem[3 * PAGE] = 1;
			mprotect((void *)(uintptr_t)(mem + 3 * PAGE), PAGE, PROT_NONE);
			break;
		case 'x':
			execl("/bin/sleep", "sleep", "1000", (char *)NULL);
			_exit(6);
		case 'f':
			pid = fork();
			if (pid == 0) {
				/* Until told: the page is shared, and the device writes to the parent's. */
				while (read(p->order[0], &c, 1) == 1 && c != 'g')
					;
				t.addr = mem[4 * PAGE];
				child_say(p, &t);
				_exit(0);
			}
			child_say(p, &t);
			waitpid(pid, NULL, 0);
			continue; /* the grandchild has answered */
		case 'c':
			t.addr = *(volatile uint64_t *)(uintptr_t)(mem + 5 * PAGE);
			break;
		case 'u':
			t.bind_err = child_unbind(sock);
			break;
		case 'b':
			t.bind_err = child_bind(sock, &t.pasid);
			break;
		case 'k':
			if (fork() == 0)
				pause();
			_exit(0);
		default:
			_exit(0);
		}
		child_say(p, &t);
	}
	_exit(0);
}

/* ---- the device's side ---------------------------------------------------------------------------------- */

static void hear(struct peer *p)
{
	for (int i = 0; i < 500000; i++) {
		struct pollfd f = { .fd = p->answer[0], .events = POLLIN };

		svio_vdev_server_poll(p->srv);
		if (poll(&f, 1, 0) == 1) {
			CU_ASSERT_EQUAL_FATAL(read(p->answer[0], &p->t, sizeof(p->t)), (ssize_t)sizeof(p->t));
			return;
		}
	}
	CU_FAIL_FATAL("the child does not answer");
}

static void tell(struct peer *p, char c)
{
	CU_ASSERT_EQUAL(write(p->order[1], &c, 1), 1);
}

static void peer_start(struct peer *p, uid_t uid)
{
	struct svio_vdev_server_opts opts = { .size = sizeof(opts), .socket_rounds = 1 };

	memset(p, 0, sizeof(*p));
	snprintf(p->path, sizeof(p->path), "/tmp/svio-bond-%d.sock", (int)getpid());
	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&svio_dsa_model), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_create("dsa", 0, &p->dev), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_create(&opts, &p->srv), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_listen(p->srv, p->dev, p->path), 0);
	if (uid)
		CU_ASSERT_EQUAL_FATAL(chown(p->path, uid, (gid_t)-1), 0);
	CU_ASSERT_EQUAL_FATAL(pipe2(p->order, O_CLOEXEC), 0);
	CU_ASSERT_EQUAL_FATAL(pipe2(p->answer, O_CLOEXEC), 0);
	p->pid = fork();
	CU_ASSERT_FATAL(p->pid >= 0);
	if (p->pid == 0)
		child(p, uid);
	hear(p);
}

static void peer_stop(struct peer *p)
{
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
	for (unsigned int i = 0; i < 2; i++) {
		close(p->order[i]);
		close(p->answer[i]);
	}
	svio_vdev_server_destroy(p->srv);
	svio_vdev_destroy(p->dev);
}

static int rw(struct peer *p, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access)
{
	struct svio_vdev_dma t = { .iova = addr, .buf = buf, .len = len, .access = access };
	struct svio_vdev_as *as = svio_vdev_as_pasid(p->dev, p->t.pasid);

	return as ? svio_vdev_as_start(as, &t) : -ENOENT;
}

static enum svio_vdev_fault_reason reason(struct peer *p)
{
	struct svio_vdev_iommu_stats s;

	svio_vdev_iommu_get_stats(p->dev, &s);
	return s.reason;
}

static void test_access(void)
{
	static uint8_t buf[LEN], zero[LEN];
	uint64_t v = 0x1234567890abcdefull;
	struct peer p;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	/* never touched: read as zeroes, written */
	memset(buf, 0xff, sizeof(buf));
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + 8 * PAGE, buf, 8 * PAGE, SVIO_VDEV_READ), 0);
	CU_ASSERT_EQUAL(memcmp(buf, zero, 8 * PAGE), 0);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + 5 * PAGE, &v, 8, SVIO_VDEV_WRITE), 0);
	tell(&p, 'c');
	hear(&p);
	CU_ASSERT_EQUAL(p.t.addr, v);
	peer_stop(&p);
}

static void test_rights(void)
{
	static uint8_t buf[LEN];
	struct peer p;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr, buf, LEN, SVIO_VDEV_WRITE), 0);
	tell(&p, 'm');
	hear(&p);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + PAGE, buf, 1, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + PAGE, buf, 1, SVIO_VDEV_WRITE), -EFAULT);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr, buf, 2 * PAGE, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr, buf, PAGE, SVIO_VDEV_READ), 0);
	CU_ASSERT_EQUAL(reason(&p), SVIO_VDEV_FAULT_PROCESS);
	tell(&p, 'r');
	hear(&p);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + 2 * PAGE, buf, 8, SVIO_VDEV_READ), 0);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + 2 * PAGE, buf, 8, SVIO_VDEV_WRITE), -EFAULT);
	tell(&p, 'n');
	hear(&p);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr + 3 * PAGE, buf, 8, SVIO_VDEV_READ), -EFAULT);
	/* beyond user space, and around the end */
	CU_ASSERT_EQUAL(rw(&p, 0, buf, 8, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(rw(&p, 0xffff888000000000ull, buf, 8, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(rw(&p, UINT64_MAX - 3, buf, 8, SVIO_VDEV_READ), -EFAULT);
	peer_stop(&p);
}

/* After fork() a write of the device reaches the process that is bound, and not its child, which keeps the old page. */
static void test_fork(void)
{
	uint8_t two = 2, got = 0;
	uint64_t mem;
	struct peer p;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	mem = p.t.addr;
	tell(&p, 'f');
	hear(&p);
	CU_ASSERT_EQUAL(rw(&p, mem + 4 * PAGE, &two, 1, SVIO_VDEV_WRITE), 0);
	CU_ASSERT_EQUAL(rw(&p, mem + 4 * PAGE, &got, 1, SVIO_VDEV_READ), 0);
	CU_ASSERT_EQUAL(got, 2);
	tell(&p, 'g');
	hear(&p);
	CU_ASSERT_EQUAL(p.t.addr, 1);
	peer_stop(&p);
}

static int until_gone(struct peer *p, uint64_t addr)
{
	uint8_t byte;
	int err = 0;

	for (int i = 0; i < 500000 && err != -EIO && err != -ENOENT; i++)
		err = rw(p, addr, &byte, 1, SVIO_VDEV_READ);
	return err;
}

/* exec(): the same process id, the connection open (no close-on-exec), and another address space. */
static void test_exec(void)
{
	uint8_t byte = 1;
	struct peer p;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	tell(&p, 'x');
	CU_ASSERT_EQUAL(until_gone(&p, p.t.addr), -EIO);
	CU_ASSERT_EQUAL(reason(&p), SVIO_VDEV_FAULT_GONE);
	CU_ASSERT_EQUAL(kill(p.pid, 0), 0);
	CU_ASSERT(svio_vdev_connected(p.dev));
	CU_ASSERT_EQUAL(rw(&p, p.t.addr, &byte, 1, SVIO_VDEV_WRITE), -EIO); /* for good */
	peer_stop(&p);
}

/* The process ends, is waited for, and its id may be anybody's: the connection lives on in a grandchild. */
static void test_exit(void)
{
	struct peer p;
	siginfo_t si;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	tell(&p, 'k');
	CU_ASSERT_EQUAL(waitpid(p.pid, NULL, 0), p.pid);
	CU_ASSERT_EQUAL(until_gone(&p, p.t.addr), -EIO);
	CU_ASSERT(svio_vdev_connected(p.dev));
	/* the grandchild, which has come to us */
	CU_ASSERT_EQUAL(waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT), 0);
	for (int n = 0; n < 2; n++) {
		char path[64], line[256] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
		f = fopen(path, "r");
		if (f && fgets(line, sizeof(line), f) && atoi(line) > 0) {
			kill(atoi(line), SIGKILL);
			waitpid(atoi(line), NULL, 0);
		}
		if (f)
			fclose(f);
	}
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	p.pid = fork(); /* for peer_stop() */
	if (p.pid == 0)
		_exit(0);
	peer_stop(&p);
}

/* No descriptor left to hold the process by: the bind fails and leaves nothing; later it works. */
static void test_failure(void)
{
	struct rlimit old, none;
	uint32_t first;
	struct peer p;
	uint8_t byte;
	int fds;

	peer_start(&p, 0);
	CU_ASSERT_EQUAL_FATAL(p.t.bind_err, 0);
	first = p.t.pasid;
	tell(&p, 'u');
	hear(&p);
	CU_ASSERT_EQUAL(p.t.bind_err, 1); /* released */
	CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(p.dev, first));
	fds = unit_count_fds();
	CU_ASSERT_EQUAL(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (unsigned int room = 0; room < 2; room++) { /* neither, or only one of the two that it takes */
		int keep = room ? dup(0) : -1;

		none = old;
		none.rlim_cur = (rlim_t)dup(0); /* the lowest one that is free */
		close((int)none.rlim_cur);
		if (keep >= 0)
			close(keep);
		CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
		tell(&p, 'b');
		hear(&p);
		CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &old), 0);
		CU_ASSERT_EQUAL(p.t.bind_err, -EMFILE);
		CU_ASSERT_EQUAL(unit_count_fds(), fds);
		for (uint32_t pasid = 1; pasid < 10; pasid++)
			CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(p.dev, pasid));
	}
	tell(&p, 'b');
	hear(&p);
	CU_ASSERT_EQUAL(p.t.bind_err, 0);
	CU_ASSERT(p.t.pasid != first); /* old ones come back late */
	CU_ASSERT_EQUAL(unit_count_fds(), fds + 2);
	CU_ASSERT_EQUAL(rw(&p, p.t.addr, &byte, 1, SVIO_VDEV_READ), 0);
	peer_stop(&p);
}

/* A process of another user is refused, whoever we are. */
static void test_user(void)
{
	struct peer p;

	if (geteuid() != 0) {
		CU_PASS("needs root to become another user");
		return;
	}
	peer_start(&p, 65534);
	CU_ASSERT_EQUAL(p.t.bind_err, -EPERM);
	CU_ASSERT(strstr(svio_last_error(), "65534") != NULL);
	CU_ASSERT_PTR_NULL(svio_vdev_as_pasid(p.dev, 1));
	peer_stop(&p);
}

static const struct unit_test tests[] = {
	{ "memory never touched, read and written", test_access },
	{ "munmap, mprotect, addresses of nothing", test_rights },
	{ "copy on write after fork", test_fork },
	{ "exec ends the bond", test_exec },
	{ "exit ends the bond, the connection open elsewhere", test_exit },
	{ "a bind that fails half-way leaves nothing", test_failure },
	{ "another user's process", test_user },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/bond", tests);
}
