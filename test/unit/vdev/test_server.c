/* SPDX-License-Identifier: BSD-3-Clause */
/* Sockets, clients that come and go, several devices, interrupt mode. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <fcntl.h>
#include <unistd.h>
#include "client.h"
#include "probe.h"

#define RW (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)

extern const struct svio_vdev_model svio_edu_model;
static char dir[] = "/tmp/svio-vdev-XXXXXX", path[64], path2[64];

static void setup(void)
{
	if (!path[0]) {
		CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
		snprintf(path, sizeof(path), "%s/a", dir);
		snprintf(path2, sizeof(path2), "%s/b", dir);
	}
	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&probe_model), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&svio_edu_model), 0);
}

static int dial(const char *to)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, to);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void serve(const char *spec, uint32_t flags, struct svio_vdev_server **srv, struct svio_vdev **dev)
{
	struct svio_vdev_server_opts opts = { .size = sizeof(opts), .socket_rounds = 1 };

	setup();
	CU_ASSERT_EQUAL_FATAL(svio_vdev_create(spec, flags, dev), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_create(&opts, srv), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_listen(*srv, *dev, path), 0);
}

static void test_socket(void)
{
	struct svio_vdev_server *srv, *other;
	struct svio_vdev *dev, *dev2;
	struct stat st;
	mode_t mask;
	int fd;

	setup();
	mask = umask(0);
	serve("probe", 0, &srv, &dev);
	umask(mask);
	CU_ASSERT_EQUAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
	/* a live server is not pushed aside */
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_create(NULL, &other), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_create("probe", 0, &dev2), 0);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(other, dev2, path), -EADDRINUSE);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(other, dev, path2), -EBUSY); /* served already */
	/* a file that is no socket is left alone */
	fd = open(path2, O_CREAT | O_WRONLY, 0600);
	close(fd);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(other, dev2, path2), -EEXIST);
	CU_ASSERT_EQUAL(access(path2, F_OK), 0);
	unlink(path2);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(other, dev2, ""), -ENAMETOOLONG);
	/* somebody else's socket under our name is not removed */
	unlink(path);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(other, dev2, path), 0);
	svio_vdev_server_destroy(srv);
	CU_ASSERT_EQUAL(access(path, F_OK), 0);
	svio_vdev_server_destroy(other);
	CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
	svio_vdev_destroy(dev);
	svio_vdev_destroy(dev2);
	/* a stale socket is replaced */
	{
		struct sockaddr_un a = { .sun_family = AF_UNIX };

		strcpy(a.sun_path, path);
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		CU_ASSERT_EQUAL(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
		close(fd);
	}
	serve("probe", 0, &srv, &dev);
	svio_vdev_server_destroy(srv);
	svio_vdev_destroy(dev);
}

static void test_second_client(void)
{
	struct svio_vdev_server *srv;
	struct svio_vdev *dev;
	struct svio_vdev_stats st;
	struct ucred cred;
	struct tc a, b;

	serve("probe", 0, &srv, &dev);
	tc_use(&a, srv, dial(path));
	CU_ASSERT_EQUAL(svio_vdev_peer(dev, &cred), -ENOTCONN);
	CU_ASSERT_EQUAL(tc_version(&a, NULL), 0);
	CU_ASSERT_EQUAL(svio_vdev_peer(dev, &cred), 0);
	CU_ASSERT_EQUAL(cred.pid, getpid());
	tc_use(&b, srv, dial(path));
	CU_ASSERT_EQUAL(tc_version(&b, NULL), -EBUSY);
	CU_ASSERT(tc_closed(&b));
	tc_close(&b);
	svio_vdev_get_stats(dev, &st);
	CU_ASSERT_EQUAL(st.refused, 1);
	/* the first has not noticed */
	CU_ASSERT_EQUAL(tc_r32(&a, 0x14), 0);
	tc_close(&a);
	/* one after the other, without a pause */
	tc_use(&b, srv, dial(path));
	CU_ASSERT_EQUAL(tc_version(&b, NULL), 0);
	tc_close(&b);
	tc_rounds(&b, 20);
	svio_vdev_server_destroy(srv);
	svio_vdev_destroy(dev);
}

static void test_reconnect(void)
{
	for (int reset = 0; reset < 2; reset++) {
		struct svio_vdev_server *srv;
		struct svio_vdev *dev;
		struct tc tc;

		serve("probe", reset ? SVIO_VDEV_RESET_ON_CLOSE : 0, &srv, &dev);
		tc_use(&tc, srv, dial(path));
		CU_ASSERT_EQUAL(tc_version(&tc, NULL), 0);
		tc_cfg_set(&tc, 4, 2, 6);
		tc_w32(&tc, 0, 88);
		CU_ASSERT_EQUAL(tc_mig_set(&tc, 6), 0);
		tc_close(&tc);
		tc_rounds(&tc, 20);
		CU_ASSERT_FALSE(svio_vdev_connected(dev));
		tc_use(&tc, srv, dial(path));
		CU_ASSERT_EQUAL(tc_version(&tc, NULL), 0);
		CU_ASSERT_EQUAL(tc_r32(&tc, 0), reset ? 0 : 88);
		CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2), reset ? 2 : 6);
		CU_ASSERT_EQUAL(tc_mig_get(&tc), 2);
		CU_ASSERT_EQUAL(((struct probe *)svio_vdev_priv(dev))->last_reset, reset ? SVIO_VDEV_RESET_CLOSE : 0);
		tc_close(&tc);
		svio_vdev_server_destroy(srv);
		svio_vdev_destroy(dev);
	}
}

/* A client with everything open, which vanishes in turns of 1,000. */
static void test_thousand(void)
{
	struct svio_vdev_server *srv;
	struct svio_vdev *dev;
	struct svio_vdev_stats st;
	static struct svio_vdev_dma d; /* in flight when its client goes */
	static uint8_t dma_buf[8];
	int fds = 0, maps = 0, efd[4], mfd;

	serve("probe", 0, &srv, &dev);
	mfd = tc_memfd(1 << 20, F_SEAL_SHRINK, NULL);
	for (int i = 0; i < 4; i++)
		efd[i] = tc_eventfd();
	for (int i = 0; i < 1000; i++) {
		struct svio_vfu_region_info info;
		struct tc tc;
		int bar;

		if (i == 10) { /* allocators have settled, and the client before is gone for good */
			tc_rounds(&(struct tc){ .srv = srv }, 20);
			fds = unit_count_fds();
			maps = tc_count_memfds();
		}
		tc_use(&tc, srv, dial(path));
		CU_ASSERT_EQUAL_FATAL(tc_version(&tc, "{}"), 0);
		tc_master(&tc);
		CU_ASSERT_EQUAL(tc_map(&tc, 0, 1 << 20, 0, RW, mfd), 0);
		CU_ASSERT_EQUAL(tc_map(&tc, 0x900000, 4096, 0, RW, -1), 0);
		CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 2, 0, 4, efd, 4), 0);
		CU_ASSERT_EQUAL(tc_region_info(&tc, 0, &info, &bar), 0);
		close(bar);
		d = (struct svio_vdev_dma){ .iova = 0x900000, .buf = dma_buf, .len = 8 };
		CU_ASSERT_EQUAL(svio_vdev_dma_start(dev, &d), -EINPROGRESS);
		if (i % 3 == 0) { /* half a message, with a descriptor, is left behind */
			uint8_t half[20] = { 1, 0, 2, 0, 48 };

			tc_send_raw(&tc, half, sizeof(half), efd, 1);
			tc_rounds(&tc, 3);
		}
		tc_close(&tc);
	}
	{
		struct tc tc = { .srv = srv };

		tc_rounds(&tc, 20);
	}
	svio_vdev_get_stats(dev, &st);
	CU_ASSERT_EQUAL(st.connects, 1000);
	CU_ASSERT_EQUAL(st.disconnects, 1000);
	CU_ASSERT_EQUAL(st.refused, 0);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(tc_count_memfds(), maps);
	for (int i = 0; i < 4; i++)
		close(efd[i]);
	close(mfd);
	svio_vdev_server_destroy(srv);
	svio_vdev_destroy(dev);
}

static void test_two_devices(void)
{
	struct svio_vdev_server *srv;
	struct svio_vdev *dev, *edu;
	struct tc a, b;

	serve("probe", 0, &srv, &dev);
	CU_ASSERT_EQUAL(svio_vdev_create("edu", 0, &edu), 0);
	CU_ASSERT_EQUAL(svio_vdev_server_listen(srv, edu, path2), 0);
	tc_use(&a, srv, dial(path));
	tc_use(&b, srv, dial(path2));
	CU_ASSERT_EQUAL(tc_version(&b, NULL), 0);
	CU_ASSERT_EQUAL(tc_version(&a, NULL), 0);
	CU_ASSERT_EQUAL(tc_cfg(&a, 0, 2), 0x1b36);
	CU_ASSERT_EQUAL(tc_cfg(&b, 0, 2), 0x1234);
	tc_close(&a);
	tc_rounds(&b, 20);
	CU_ASSERT_EQUAL(tc_cfg(&b, 0, 2), 0x1234);
	tc_close(&b);
	svio_vdev_server_destroy(srv);
	svio_vdev_destroy(dev);
	svio_vdev_destroy(edu);
}

static void *runner(void *srv)
{
	return (void *)(intptr_t)svio_vdev_server_run(srv);
}

/* The real loop, sleeping, in a thread: answers, then stops at once. */
/* A model that has much to do in every round: requests are seen to after a round or two, not after a thousand. */
static void test_under_load(void)
{
	const struct svio_vdev_server_opts opts = { .size = sizeof(opts), .socket_rounds = 1000 };
	struct svio_vfu_device_info info = { .argsz = sizeof(info) };
	struct svio_vdev_server *srv;
	struct svio_vdev_stats st;
	struct svio_vdev *dev;
	struct probe *p;
	struct tc tc;
	uint64_t looks;
	int pair[2];
	unsigned int polls;

	setup();
	CU_ASSERT_EQUAL_FATAL(svio_vdev_create("probe", 0, &dev), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_create(&opts, &srv), 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_attach(srv, dev, pair[1]), 0);
	tc_use(&tc, srv, pair[0]);
	tc.dev = dev;
	CU_ASSERT_EQUAL(tc_version(&tc, NULL), 0);
	/* Quiet: it looks as seldom as it ever will, and has just looked. */
	tc_rounds(&tc, 20000);
	svio_vdev_get_stats(dev, &st);
	for (looks = st.socket_checks; looks == st.socket_checks; svio_vdev_get_stats(dev, &st))
		tc_rounds(&tc, 1);
	p = svio_vdev_priv(dev);
	p->work = 64;
	p->work_ns = 200000;
	tc_send(&tc, SVIO_VFU_GET_INFO, 0, &info, sizeof(info), NULL, 0);
	polls = p->polls;
	while (recv(tc.fd, tc.data, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && p->polls < polls + 1000)
		tc_rounds(&tc, 1);
	CU_ASSERT(p->polls - polls <= 3);
	tc_stop(&tc);
}

static void test_run(void)
{
	for (int interrupt = 0; interrupt < 2; interrupt++) {
		struct svio_vdev_server_opts opts = { .size = sizeof(opts), .interrupt = interrupt };
		struct svio_vfu_version v = { .minor = 1 };
		struct {
			struct svio_vfu_hdr h;
			struct svio_vfu_version v;
		} __attribute__((packed)) m = { .h = { .id = 3, .cmd = 1, .size = 20 }, .v = v };
		struct svio_vdev_server *srv;
		struct svio_vdev *dev;
		pthread_t t;
		void *ret;
		int fd;

		setup();
		if (interrupt) {
			struct svio_vdev *mapped;

			CU_ASSERT_EQUAL(svio_vdev_server_create(&opts, &srv), 0);
			CU_ASSERT_EQUAL(svio_vdev_create("probe", 0, &mapped), 0);
			CU_ASSERT_EQUAL(svio_vdev_server_listen(srv, mapped, path), -EINVAL);
			svio_vdev_server_destroy(srv);
			svio_vdev_destroy(mapped);
		}
		CU_ASSERT_EQUAL(svio_vdev_server_create(&opts, &srv), 0);
		CU_ASSERT_EQUAL(svio_vdev_create("edu", SVIO_VDEV_NO_MMAP, &dev), 0);
		CU_ASSERT_EQUAL(svio_vdev_server_listen(srv, dev, path), 0);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, runner, srv), 0);
		fd = dial(path);
		CU_ASSERT_FATAL(fd >= 0);
		CU_ASSERT_EQUAL(send(fd, &m, sizeof(m), 0), sizeof(m));
		CU_ASSERT_EQUAL(recv(fd, &m, sizeof(m), MSG_WAITALL), sizeof(m));
		CU_ASSERT_EQUAL(m.h.flags, SVIO_VFU_REPLY);
		/*
		 * a factorial: finished by poll() after the message, also when the loop sleeps in
		 * between
		 */
		{
			struct {
				struct svio_vfu_hdr h;
				struct svio_vfu_region_rw rw;
				uint32_t d;
			} __attribute__((packed)) w = { .h = { .id = 4, .cmd = SVIO_VFU_REGION_WRITE, .size = 36 },
							.rw = { .offset = 8, .count = 4 }, .d = 5 };

			CU_ASSERT_EQUAL(send(fd, &w, 36, 0), 36);
			CU_ASSERT_EQUAL(recv(fd, &w, 32, MSG_WAITALL), 32);
			do {
				w.h = (struct svio_vfu_hdr){ .id = 5, .cmd = SVIO_VFU_REGION_READ, .size = 32 };
				w.rw = (struct svio_vfu_region_rw){ .offset = 0x20, .count = 4 };
				CU_ASSERT_EQUAL(send(fd, &w, 32, 0), 32);
				CU_ASSERT_EQUAL_FATAL(recv(fd, &w, 36, MSG_WAITALL), 36);
			} while (w.d & 1);
			w.h = (struct svio_vfu_hdr){ .id = 5, .cmd = SVIO_VFU_REGION_READ, .size = 32 };
			w.rw = (struct svio_vfu_region_rw){ .offset = 8, .count = 4 };
			CU_ASSERT_EQUAL(send(fd, &w, 32, 0), 32);
			CU_ASSERT_EQUAL(recv(fd, &w, 36, MSG_WAITALL), 36);
			CU_ASSERT_EQUAL(w.d, 120);
		}
		svio_vdev_server_stop(srv);
		CU_ASSERT_EQUAL(pthread_join(t, &ret), 0);
		CU_ASSERT_EQUAL((intptr_t)ret, 0);
		svio_vdev_server_destroy(srv);
		CU_ASSERT_EQUAL(recv(fd, &m, 1, 0), 0); /* we hung up */
		svio_vdev_destroy(dev);
		close(fd);
	}
	rmdir(dir);
}

static const struct unit_test tests[] = {
	{ "the socket: mode, stale, live, foreign", test_socket },
	{ "a second client is refused, by an answer to its request", test_second_client },
	{ "reconnect: state kept, or reset as asked", test_reconnect },
	{ "1,000 clients that vanish leave nothing", test_thousand },
	{ "two devices in one server", test_two_devices },
	{ "a model under load does not put off its client", test_under_load },
	{ "run and stop, polled and by interrupt", test_run },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/server", tests);
}
