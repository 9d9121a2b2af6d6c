/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The watcher: one thread per process that waits for what happens behind a driver's back and raises event bits.
 *
 * It starts with the first watched descriptor and is joined with the last. All signals are blocked in it. It is told to end through an
 * eventfd and never cancelled. The thread knows watches by number, not by address, and looks them up under the lock: an event
 * that epoll had already reported for a watch that is gone finds nothing.
 *
 * fork: the thread is not in the child, but the epoll instance is the same one. The child therefore changes nothing in it;
 * svio__watch_del() there only forgets.
 */
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include "vfio_priv.h"

static pthread_mutex_t life_lock =
	PTHREAD_MUTEX_INITIALIZER; /* start and stop; taken before watch_lock */
static pthread_mutex_t watch_lock =
	PTHREAD_MUTEX_INITIALIZER; /* the fields below; the thread takes it */
static struct svio__watch *watches;
static uint64_t last_id;
static int epoll_fd = -1, wake_fd = -1;
static pid_t watcher_pid;
static pthread_t watcher;

static void deliver(uint64_t id)
{
	uint64_t count;

	for (struct svio__watch *w = watches; w; w = w->next) {
		if (w->id != id)
			continue;
		/* Non-blocking: an event reported twice finds it empty, and then nothing has happened. */
		if (w->drain && read(w->fd, &count, sizeof(count)) != sizeof(count))
			return;
		svio_device_event_set(w->dev, w->event);
		svio_log_info("%s: %s", w->dev->name,
			      w->event == SVIO_EV_ERR	? "uncorrectable error reported"
			      : w->event == SVIO_EV_REQ ? "the host asks for the device back"
							: "the peer is gone");
		return;
	}
}

static void *watcher_main(void *arg)
{
	int ep = *(int *)arg;
	struct epoll_event ev[16];
	bool stop = false;

	while (!stop) {
		int n = epoll_wait(ep, ev, SVIO_ARRAY_SIZE(ev), -1);

		pthread_mutex_lock(&watch_lock);
		for (int i = 0; i < n; i++) {
			if (ev[i].data.u64 == 0)
				stop = true;
			else
				deliver(ev[i].data.u64);
		}
		pthread_mutex_unlock(&watch_lock);
	}
	return NULL;
}

static void close_fds(void)
{
	close(epoll_fd);
	close(wake_fd);
	epoll_fd = wake_fd = -1;
	watcher_pid = 0;
}

static int watcher_start(void)
{
	struct epoll_event ev = { .events = EPOLLIN };
	sigset_t all, old;
	int err;

	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		return svio_fail(errno, "watcher: epoll: %s", strerror(errno));
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (wake_fd < 0) {
		err = svio_fail(errno, "watcher: eventfd: %s", strerror(errno));
		close(epoll_fd);
		epoll_fd = -1;
		return err;
	}
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &ev) < 0) {
		err = svio_fail(errno, "watcher: epoll: %s", strerror(errno));
		close_fds();
		return err;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&watcher, NULL, watcher_main, &epoll_fd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		err = svio_fail(err, "watcher: thread: %s", strerror(err));
		close_fds();
		return err;
	}
	pthread_setname_np(watcher, "svio-watch");
	watcher_pid = getpid();
	return 0;
}

static void watcher_stop(void)
{
	const uint64_t one = 1;

	/* An eventfd of ours that nobody else writes: it has room. */
	if (write(wake_fd, &one, sizeof(one)) == sizeof(one))
		pthread_join(watcher, NULL);
	close_fds();
}

static void unlink_watch(struct svio__watch *w)
{
	struct svio__watch **pp;

	for (pp = &watches; *pp && *pp != w; pp = &(*pp)->next)
		;
	if (*pp)
		*pp = w->next;
	w->id = 0;
}

/* In a child that inherited a watcher: forget it. The child has one thread. */
static void forget_after_fork(void)
{
	if (!watcher_pid || watcher_pid == getpid())
		return;
	close_fds();
	watches = NULL;
	pthread_mutex_init(&life_lock, NULL);
	pthread_mutex_init(&watch_lock, NULL);
}

int svio__watch_add(struct svio__watch *w)
{
	struct epoll_event ev = { .events = w->drain ? EPOLLIN : EPOLLRDHUP | EPOLLONESHOT };
	int err = 0;

	forget_after_fork();
	pthread_mutex_lock(&life_lock);
	if (!watcher_pid) {
		err = watcher_start();
		if (err)
			goto unlock;
	}
	pthread_mutex_lock(&watch_lock);
	w->id = ++last_id;
	w->next = watches;
	watches = w;
	pthread_mutex_unlock(&watch_lock);
	ev.data.u64 = w->id;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0) {
		err = svio_fail(errno, "watcher: epoll: %s", strerror(errno));
		pthread_mutex_lock(&watch_lock);
		unlink_watch(w);
		pthread_mutex_unlock(&watch_lock);
		if (!watches)
			watcher_stop();
	}
unlock:
	pthread_mutex_unlock(&life_lock);
	return err;
}

void svio__watch_del(struct svio__watch *w)
{
	if (!w->id)
		return;
	if (watcher_pid != getpid()) {
		forget_after_fork();
		w->id = 0;
		return;
	}
	pthread_mutex_lock(&life_lock);
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	pthread_mutex_lock(&watch_lock);
	unlink_watch(w);
	pthread_mutex_unlock(&watch_lock);
	if (!watches)
		watcher_stop();
	pthread_mutex_unlock(&life_lock);
}
