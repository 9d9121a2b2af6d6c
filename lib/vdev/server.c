/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The loop. Polled mode: every device's poll() every round; sockets are looked at (one epoll_wait)
 * after so many rounds, or things done in them, or 100 us, and more often while messages come. Interrupt mode: epoll_wait
 * sleeps. In both, the server sleeps while no device has a client.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "vdev_priv.h"

#define MAX_EVENTS     64
#define MAX_REFUSED    4
#define BUSY_ROUNDS    16u   /* between looks at sockets while messages come */
#define LOOK_HZ	       10000 /* looks a second, at least */
#define REFUSE_NS      UINT64_C(1000000000)
#define INTERRUPT_SPIN 1000 /* polls after a wake-up before sockets are looked at again */

struct vd_port {
	struct vd_port *next;
	struct svio_vdev *dev;
	struct vd_source src;
	int listen_fd; /* -1: one attached socket */
	char *path;
	dev_t st_dev; /* of the socket file that we made */
	ino_t st_ino;
	bool gone; /* attached socket closed */
};

struct refused {
	struct vd_source src;
	int fd;
	uint64_t deadline;
};

struct svio_vdev_server {
	int epfd, stop_fd;
	_Atomic bool stop;
	bool interrupt;
	uint32_t max_rounds, interval, countdown;
	uint64_t look_cycles, last_look;
	struct vd_port *ports;
	struct refused refused[MAX_REFUSED];
	struct vd_source src_stop;
};

static int watch(int epfd, int fd, struct vd_source *src)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = src };

	return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static void unwatch(int epfd, int fd)
{
	epoll_ctl(epfd, EPOLL_CTL_DEL, fd, NULL);
}

void svio__vd_server_resample(struct svio_vdev *dev, int old_fd, int new_fd)
{
	if (dev->epfd < 0)
		return;
	if (old_fd >= 0)
		unwatch(dev->epfd, old_fd);
	if (new_fd >= 0 && watch(dev->epfd, new_fd, &dev->src_resample))
		svio_log_err("%s: cannot watch the INTx unmask eventfd", dev->model->name);
}

/* ---- create --------------------------------------------------------------------------------- */

int svio_vdev_server_create(const struct svio_vdev_server_opts *opts,
			    struct svio_vdev_server **srvp)
{
	struct svio_vdev_server *srv;
	int err;

	if (opts && opts->size != sizeof(*opts))
		return svio_fail(EINVAL, "svio_vdev_server_opts of another version of the library");
	srv = calloc(1, sizeof(*srv));
	if (!srv)
		return -ENOMEM;
	for (unsigned int i = 0; i < MAX_REFUSED; i++) {
		srv->refused[i].fd = -1;
		srv->refused[i].src = (struct vd_source){ VD_SRC_REFUSED, &srv->refused[i] };
	}
	srv->interrupt = opts && opts->interrupt;
	srv->max_rounds = opts && opts->socket_rounds ? opts->socket_rounds : 1000;
	srv->interval = srv->countdown = 1;
	srv->look_cycles = svio_cycles_hz() / LOOK_HZ;
	srv->src_stop = (struct vd_source){ VD_SRC_STOP, srv };
	srv->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	srv->epfd = epoll_create1(EPOLL_CLOEXEC);
	err = srv->stop_fd < 0 || srv->epfd < 0 ? -errno
						: watch(srv->epfd, srv->stop_fd, &srv->src_stop);
	if (err) {
		svio_vdev_server_destroy(srv);
		return svio_fail(err, "cannot create a device server: %s", strerror(-err));
	}
	*srvp = srv;
	return 0;
}

static int add_port(struct svio_vdev_server *srv, struct svio_vdev *dev, struct vd_port **portp)
{
	struct vd_port *port, **tail = &srv->ports;
	int err;

	if (dev->srv)
		return svio_fail(EBUSY, "%s: the device is served already", dev->model->name);
	for (unsigned int i = 0; srv->interrupt && i < VD_NUM_BARS; i++)
		if (dev->bar[i].fd >= 0)
			return svio_fail(
				EINVAL,
				"%s: stores to shared doorbells cannot wake a server in interrupt mode; create the device with SVIO_VDEV_NO_MMAP",
				dev->model->name);
	port = calloc(1, sizeof(*port));
	if (!port)
		return -ENOMEM;
	dev->src_conn = (struct vd_source){ VD_SRC_CONN, dev };
	dev->src_kick = (struct vd_source){ VD_SRC_KICK, dev };
	dev->src_resample = (struct vd_source){ VD_SRC_RESAMPLE, dev };
	err = watch(srv->epfd, dev->kick_fd, &dev->src_kick);
	if (err) {
		free(port);
		return err;
	}
	port->dev = dev;
	port->listen_fd = -1;
	port->src = (struct vd_source){ VD_SRC_LISTEN, port };
	dev->srv = srv;
	dev->epfd = srv->epfd;
	while (*tail)
		tail = &(*tail)->next;
	*tail = port;
	*portp = port;
	return 0;
}

static void remove_port(struct svio_vdev_server *srv, struct vd_port *port)
{
	struct vd_port **link = &srv->ports;
	struct stat st;

	while (*link != port)
		link = &(*link)->next;
	*link = port->next;
	if (port->listen_fd >= 0)
		close(port->listen_fd);
	/* Remove the name only while it is the socket that we made. */
	if (port->path && lstat(port->path, &st) == 0 && st.st_dev == port->st_dev &&
	    st.st_ino == port->st_ino)
		unlink(port->path);
	unwatch(srv->epfd, port->dev->kick_fd);
	port->dev->srv = NULL;
	port->dev->epfd = -1;
	free(port->path);
	free(port);
}

/* 0 when the name is free now: there was nothing, or a socket that nobody listens on. */
static int clear_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, err;

	if (lstat(addr->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return svio_fail(EEXIST,
				 "%s exists and is no socket; choose another path or remove it",
				 addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	err = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) ? -errno : 0;
	close(fd);
	if (err != -ECONNREFUSED)
		return svio_fail(EADDRINUSE,
				 "%s: another server listens there; stop it or choose another path",
				 addr->sun_path);
	return unlink(addr->sun_path) && errno != ENOENT ? -errno : 0;
}

static int make_socket(const char *path, int *fdp)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, err;

	if (!path[0] || strlen(path) >= sizeof(addr.sun_path))
		return svio_fail(ENAMETOOLONG, "%s: socket paths have 1 to %zu bytes", path,
				 sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	err = clear_stale(&addr);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/*
	 * Linux gives the new file the mode of the socket's inode less the umask: it is 0600 from
	 * the first moment.
	 */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		err = -errno;
		close(fd);
		return svio_fail(err, "%s: cannot create the socket: %s", path, strerror(-err));
	}
	if (listen(fd, 4)) {
		err = -errno;
		unlink(path);
		close(fd);
		return err;
	}
	*fdp = fd;
	return 0;
}

int svio_vdev_server_listen(struct svio_vdev_server *srv, struct svio_vdev *dev, const char *path)
{
	struct vd_port *port;
	struct stat st;
	int fd = -1, err;

	err = add_port(srv, dev, &port);
	if (err)
		return err;
	err = make_socket(path, &fd);
	if (err) {
		remove_port(srv, port);
		return err;
	}
	port->listen_fd = fd;
	port->path = strdup(path);
	if (lstat(path, &st) == 0) {
		port->st_dev = st.st_dev;
		port->st_ino = st.st_ino;
	}
	err = port->path ? watch(srv->epfd, fd, &port->src) : -ENOMEM;
	if (err) {
		if (!port->path)
			unlink(path);
		remove_port(srv, port);
	}
	return err;
}

static int open_conn(struct svio_vdev_server *srv, struct svio_vdev *dev, int fd)
{
	int err = watch(srv->epfd, fd, &dev->src_conn);

	if (err)
		return err;
	svio__vd_conn_open(dev, fd);
	return 0;
}

int svio_vdev_server_attach(struct svio_vdev_server *srv, struct svio_vdev *dev, int fd)
{
	struct vd_port *port;
	int err;

	err = add_port(srv, dev, &port);
	if (!err) {
		err = open_conn(srv, dev, fd);
		if (err)
			remove_port(srv, port);
	}
	if (err)
		close(fd);
	return err;
}

/* ---- connections ---------------------------------------------------------------------------- */

/* A second client gets its answer when its first request is here, so that it can be matched. */
static void refuse(struct svio_vdev_server *srv, struct svio_vdev *dev, int fd)
{
	dev->stats.refused++;
	svio_log_warn("%s: a second client was refused", dev->model->name);
	for (unsigned int i = 0; i < MAX_REFUSED; i++) {
		struct refused *r = &srv->refused[i];

		if (r->fd >= 0)
			continue;
		if (watch(srv->epfd, fd, &r->src))
			break;
		r->fd = fd;
		r->deadline = svio_now_ns() + REFUSE_NS;
		return;
	}
	close(fd);
}

static void answer_refused(struct refused *r)
{
	struct svio_vfu_hdr h;
	ssize_t n = recv(r->fd, &h, sizeof(h), MSG_DONTWAIT);

	if (n == (ssize_t)sizeof(h)) {
		h.size = sizeof(h);
		h.flags = SVIO_VFU_REPLY | SVIO_VFU_ERROR;
		h.error = EBUSY;
		n = send(r->fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	/*
	 * Closing with unread data would reset the connection before the answer is read: take what
	 * is there.
	 */
	while (n > 0) {
		char rest[512];

		n = recv(r->fd, rest, sizeof(rest), MSG_DONTWAIT);
	}
	close(r->fd);
	r->fd = -1;
}

static void accept_clients(struct svio_vdev_server *srv, struct vd_port *port)
{
	struct svio_vdev *dev = port->dev;

	for (;;) {
		int fd;

		if (dev->conn.fd >= 0) {
			struct pollfd p = { .fd = dev->conn.fd, .events = POLLRDHUP };

			/* The client before is on its way out: the next one waits for its turn. */
			if (dev->conn.draining || dev->conn.dead || poll(&p, 1, 0) > 0)
				return;
		}
		fd = accept4(port->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		if (dev->conn.fd >= 0)
			refuse(srv, dev, fd);
		else if (open_conn(srv, dev, fd))
			close(fd);
	}
}

static void close_conn(struct svio_vdev_server *srv, struct vd_port *port)
{
	struct vd_conn *c = &port->dev->conn;

	if (!c->draining)
		unwatch(srv->epfd, c->fd);
	if (svio__vd_conn_close(port->dev) && port->listen_fd < 0)
		port->gone = true;
}

/* Look at all descriptors. Returns the number of events, or -errno. */
static int look(struct svio_vdev_server *srv, int timeout_ms)
{
	struct epoll_event ev[MAX_EVENTS];
	bool listening = false;
	uint64_t now;
	int n, done = 0;

	n = epoll_wait(srv->epfd, ev, MAX_EVENTS, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		struct vd_source *src = ev[i].data.ptr;
		uint64_t count;

		switch (src->kind) {
		case VD_SRC_LISTEN:
			listening = true; /* after the connections: one may just have ended */
			break;
		case VD_SRC_KICK:
			if (read(((struct svio_vdev *)src->owner)->kick_fd, &count, sizeof(count)) >
			    0)
				done++;
			break;
		case VD_SRC_RESAMPLE:
			svio__vd_irq_resample(src->owner);
			done++;
			break;
		case VD_SRC_REFUSED:
			answer_refused(src->owner);
			break;
		case VD_SRC_CONN:
		case VD_SRC_STOP:
			break;
		}
	}
	now = svio_now_ns();
	for (struct vd_port *p = srv->ports; p; p = p->next) {
		struct svio_vdev *dev = p->dev;

		if (dev->conn.fd < 0)
			continue;
		dev->stats.socket_checks++;
		if (!dev->conn.draining) {
			bool event = dev->conn.q_head || dev->conn.tx_head || dev->vanished;

			for (int i = 0; i < n && !event; i++)
				event = ev[i].data.ptr == &dev->src_conn;
			if (event)
				done += svio__vd_conn_service(dev);
			if (dev->dma.inflight)
				svio__vd_dma_tick(dev, now);
			if (dev->irq.intx_due)
				svio__vd_irq_tick(dev, now);
		}
		if (dev->conn.dead)
			close_conn(srv, p);
	}
	for (struct vd_port *p = srv->ports; p && listening; p = p->next)
		if (p->listen_fd >= 0)
			accept_clients(srv, p);
	for (unsigned int i = 0; i < MAX_REFUSED; i++) {
		if (srv->refused[i].fd >= 0 && now > srv->refused[i].deadline) {
			close(srv->refused[i].fd);
			srv->refused[i].fd = -1;
		}
	}
	return done;
}

/* ---- the rounds ----------------------------------------------------------------------------- */

static unsigned int poll_devices(struct svio_vdev_server *srv)
{
	unsigned int done = 0;

	for (struct vd_port *p = srv->ports; p; p = p->next) {
		struct svio_vdev *dev = p->dev;

		if (dev->conn.fd < 0 || !dev->conn.versioned)
			continue;
		dev->stats.rounds++;
		if (dev->model->poll && svio__vd_running(dev))
			done += dev->model->poll(dev);
	}
	return done;
}

static bool any_client(const struct svio_vdev_server *srv)
{
	for (const struct vd_port *p = srv->ports; p; p = p->next)
		if (p->dev->conn.fd >= 0)
			return true;
	return false;
}

/* Nothing left to wait for: only attached sockets, all closed. */
static bool finished(const struct svio_vdev_server *srv)
{
	bool any = false;

	for (const struct vd_port *p = srv->ports; p; p = p->next) {
		if (!p->gone)
			return false;
		any = true;
	}
	return any;
}

int svio_vdev_server_poll(struct svio_vdev_server *srv)
{
	uint32_t before = srv->countdown, work = 1 + poll_devices(srv);
	int n;

	/* Work counts as rounds: a model under load must not put off clients that wait for an answer. */
	if (work < before) {
		srv->countdown = before - work;
		if (before / 64 == srv->countdown / 64 || svio_cycles() - srv->last_look < srv->look_cycles)
			return 0;
	}
	n = look(srv, 0);
	if (n < 0)
		return n;
	srv->interval = n ? SVIO_MIN(BUSY_ROUNDS, srv->max_rounds)
			  : SVIO_MIN(srv->interval * 2, srv->max_rounds);
	srv->countdown = srv->interval;
	srv->last_look = svio_cycles();
	return atomic_load_explicit(&srv->stop, memory_order_relaxed) || finished(srv) ? -ESHUTDOWN
										       : 0;
}

/* How long interrupt mode may sleep, in ms; -1 = until something happens. */
static int sleep_ms(const struct svio_vdev_server *srv)
{
	uint64_t now = 0;
	int ms = -1;

	for (const struct vd_port *p = srv->ports; p; p = p->next) {
		const struct svio_vdev *dev = p->dev;
		int mine = -1;

		if (dev->conn.fd < 0)
			continue;
		if (dev->conn.draining || dev->conn.q_head || dev->conn.tx_head) {
			mine = 1;
		} else if (dev->kick_at) {
			now = now ? now : svio_now_ns();
			mine = dev->kick_at <= now
				       ? 0
				       : (int)SVIO_MIN((dev->kick_at - now) / 1000000 + 1, 100000u);
		} else if (dev->dma.inflight) {
			mine = 100;
		}
		if (mine >= 0 && (ms < 0 || mine < ms))
			ms = mine;
	}
	for (unsigned int i = 0; i < MAX_REFUSED; i++)
		if (srv->refused[i].fd >= 0 && (ms < 0 || ms > 100))
			ms = 100;
	return ms;
}

static int run_interrupt(struct svio_vdev_server *srv)
{
	bool more = false;

	while (!atomic_load(&srv->stop) && !finished(srv)) {
		uint64_t now;
		int n = look(srv, more ? 0 : sleep_ms(srv));

		if (n < 0)
			return n;
		now = svio_now_ns();
		for (struct vd_port *p = srv->ports; p; p = p->next)
			if (p->dev->kick_at && p->dev->kick_at <= now)
				p->dev->kick_at = 0;
		more = true;
		for (int i = 0; i < INTERRUPT_SPIN && more; i++)
			more = poll_devices(srv) != 0;
	}
	return 0;
}

int svio_vdev_server_run(struct svio_vdev_server *srv)
{
	int err;

	if (srv->interrupt)
		return run_interrupt(srv);
	while (!atomic_load_explicit(&srv->stop, memory_order_relaxed) && !finished(srv)) {
		if (!any_client(srv)) {
			err = look(srv, sleep_ms(srv));
			srv->interval = srv->countdown = 1;
		} else {
			err = svio_vdev_server_poll(srv);
		}
		if (err == -ESHUTDOWN)
			break;
		if (err < 0)
			return err;
	}
	return 0;
}

void svio_vdev_server_stop(struct svio_vdev_server *srv)
{
	uint64_t one = 1;
	int saved = errno;

	atomic_store(&srv->stop, true);
	if (write(srv->stop_fd, &one, sizeof(one)) < 0)
		errno = saved; /* full: it is awake */
}

void svio_vdev_server_destroy(struct svio_vdev_server *srv)
{
	uint64_t warn;

	if (!srv)
		return;
	while (srv->ports) {
		struct vd_port *p = srv->ports;

		/*
		 * Memory cannot be unmapped under the model's DMA; a model whose DMA never ends is
		 * a bug worth hearing of.
		 */
		warn = svio_now_ns() + UINT64_C(10000000000);
		while (p->dev->conn.fd >= 0) {
			close_conn(srv, p);
			if (p->dev->conn.fd >= 0 && p->dev->model->poll)
				p->dev->model->poll(p->dev);
			if (svio_now_ns() > warn) {
				svio_log_err("%s: DMA does not end", p->dev->model->name);
				warn = svio_now_ns() + UINT64_C(10000000000);
			}
		}
		remove_port(srv, p);
	}
	for (unsigned int i = 0; i < MAX_REFUSED; i++)
		if (srv->refused[i].fd >= 0)
			close(srv->refused[i].fd);
	if (srv->epfd >= 0)
		close(srv->epfd);
	if (srv->stop_fd >= 0)
		close(srv->stop_fd);
	free(srv);
}
