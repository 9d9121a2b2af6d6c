/* SPDX-License-Identifier: BSD-3-Clause */
/* The watcher thread: one per process, started and joined by need, and safe against removal under fire. */
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "unit.h"
#include "vfio_priv.h"

/* Watcher threads of this process. ThreadSanitizer has a thread of its own, so the name counts. */
static int threads(void)
{
	char path[300], name[32];
	struct dirent *e;
	int n = 0;
	DIR *d = opendir("/proc/self/task");

	while (d && (e = readdir(d))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
		f = fopen(path, "re");
		n += f && fgets(name, sizeof(name), f) && strcmp(name, "svio-watch\n") == 0;
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	return n;
}

/* A thread that has been joined is still listed for a moment: the kernel wakes who joins it before it takes it away. */
static void wait_threads(int n)
{
	while (threads() != n)
		sched_yield();
}

static struct svio_device *device(void)
{
	struct svio_device *dev = aligned_alloc(SVIO_CACHELINE, sizeof(*dev));

	memset(dev, 0, sizeof(*dev));
	strcpy(dev->name, "test");
	return dev;
}

static struct svio__watch watch(struct svio_device *dev, uint32_t event)
{
	return (struct svio__watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
				     .event = event,
				     .drain = true,
				     .dev = dev };
}

static void fire(int fd)
{
	uint64_t one = 1;

	CU_ASSERT_EQUAL(write(fd, &one, sizeof(one)), sizeof(one));
}

/* The watcher has its own time; what is waited for is a state, without end: the test's timeout is the limit. */
static void wait_events(struct svio_device *dev, uint32_t events)
{
	while ((svio_device_events(dev) & events) != events)
		sched_yield();
}

static void test_life(void)
{
	struct svio_device *dev = device();
	struct svio__watch err, req;
	int before = threads(), fds = unit_count_fds();

	err = watch(dev, SVIO_EV_ERR);
	req = watch(dev, SVIO_EV_REQ);
	CU_ASSERT_EQUAL(svio__watch_add(&err), 0);
	CU_ASSERT_EQUAL(threads(), before + 1);
	CU_ASSERT_EQUAL(svio__watch_add(&req), 0);
	CU_ASSERT_EQUAL(threads(), before + 1);
	CU_ASSERT_EQUAL(svio_device_events(dev), 0);
	fire(err.fd);
	wait_events(dev, SVIO_EV_ERR);
	CU_ASSERT_EQUAL(svio_device_events(dev), SVIO_EV_ERR);
	fire(req.fd);
	wait_events(dev, SVIO_EV_ERR | SVIO_EV_REQ);
	/* It was taken out of the eventfd, and comes again. */
	svio_device_event_clear(dev, SVIO_EV_ERR);
	fire(err.fd);
	wait_events(dev, SVIO_EV_ERR);
	svio__watch_del(&err);
	svio__watch_del(&err);
	CU_ASSERT_EQUAL(threads(), before + 1);
	svio__watch_del(&req);
	wait_threads(before);
	close(err.fd);
	close(req.fd);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	free(dev);
}

static void test_hangup(void)
{
	struct svio_device *dev = device();
	struct svio__watch w;
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	w = (struct svio__watch){ .fd = sv[0], .event = SVIO_EV_GONE, .dev = dev };
	CU_ASSERT_EQUAL(svio__watch_add(&w), 0);
	CU_ASSERT_EQUAL(write(sv[1], "x", 1), 1); /* data is the transport's to read */
	close(sv[1]);
	wait_events(dev, SVIO_EV_GONE);
	CU_ASSERT_EQUAL(read(sv[0], &(char){ 0 }, 1), 1);
	svio__watch_del(&w);
	wait_threads(0);
	close(sv[0]);
	free(dev);
}

static void test_signals(void)
{
	struct svio_device *dev = device();
	struct svio__watch w = watch(dev, SVIO_EV_ERR);
	unsigned long long blocked = 0;
	char path[300], line[128];
	struct dirent *e;
	int found = 0;
	DIR *d;

	CU_ASSERT_EQUAL(svio__watch_add(&w), 0);
	d = opendir("/proc/self/task");
	while (d && (e = readdir(d))) {
		FILE *f;
		bool ours = false;

		snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f)) {
			ours |= strcmp(line, "Name:\tsvio-watch\n") == 0;
			if (ours && sscanf(line, "SigBlk: %llx", &blocked) == 1)
				found++;
		}
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	CU_ASSERT_EQUAL(found, 1);
	/* Every one that a thread can block. */
	for (int s = 1; s <= SIGRTMAX; s++)
		if (s != SIGKILL && s != SIGSTOP && (s < 32 || s >= SIGRTMIN))
			CU_ASSERT_TRUE(blocked >> (s - 1) & 1);
	svio__watch_del(&w);
	close(w.fd);
	free(dev);
}

/* Removal while events are being delivered: nothing is raised on a device that is gone (ASan, TSan). */
struct storm {
	int fd;
	atomic_bool stop;
};

static void *storm_main(void *arg)
{
	struct storm *s = arg;
	uint64_t one = 1;

	while (!s->stop)
		if (write(s->fd, &one, sizeof(one)) < 0)
			sched_yield();
	return NULL;
}

static void test_removal(void)
{
	for (int i = 0; i < 200; i++) {
		struct svio_device *dev = device();
		struct svio__watch w = watch(dev, SVIO_EV_ERR);
		struct storm s = { .fd = w.fd };
		pthread_t t;

		CU_ASSERT_EQUAL_FATAL(svio__watch_add(&w), 0);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, storm_main, &s), 0);
		wait_events(dev, SVIO_EV_ERR);
		svio__watch_del(&w);
		free(dev);
		s.stop = true;
		pthread_join(t, NULL);
		close(w.fd);
	}
}

/* A child that removes its copies does not disturb the parent, whose epoll instance it shares. */
static void test_fork(void)
{
	struct svio_device *dev = device();
	struct svio__watch w = watch(dev, SVIO_EV_ERR);
	int status = 1;
	pid_t pid;

	CU_ASSERT_EQUAL(svio__watch_add(&w), 0);
	pid = fork();
	if (pid == 0) {
		svio__watch_del(&w);
		if (w.id)
			_exit(2);
		close(w.fd);
#ifndef __SANITIZE_THREAD__ /* which supports no thread in a child of a process with threads */
		/* A watcher of its own. */
		w = watch(dev, SVIO_EV_REQ);
		if (svio__watch_add(&w))
			_exit(3);
		fire(w.fd);
		wait_events(dev, SVIO_EV_REQ);
		svio__watch_del(&w);
#endif
		_exit(0);
	}
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_EQUAL(svio_device_events(dev), 0);
	fire(w.fd);
	wait_events(dev, SVIO_EV_ERR);
	svio__watch_del(&w);
	close(w.fd);
	free(dev);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "starts with the first watch, raises bits, is joined with the last", test_life },
		{ "a peer that hangs up", test_hangup },
		{ "blocks all signals", test_signals },
		{ "removal under fire", test_removal },
		{ "a forked child leaves the parent's watcher alone", test_fork },
		{ NULL, NULL },
	};

	return unit_run("vfio/watch", tests);
}
