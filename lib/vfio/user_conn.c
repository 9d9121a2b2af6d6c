/* SPDX-License-Identifier: BSD-3-Clause */
/* A connection to a vfio-user server; see user_conn.h. Section names in brackets are the protocol specification's. */
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include "rights.h"
#include "user_conn.h"

/* Room for the largest reply: a region read of the most that we ask for, or a capability chain. */
#define MAX_PAYLOAD (SVIO__USER_MAX_XFER + 4096)

struct mem {
	uint64_t iova, len;
	uint8_t *ptr;
	uint32_t prot;
};

struct svio__user_conn {
	int fd;
	char name[SVIO__NAME_MAX]; /* for messages; the connection may outlive the device */
	pid_t owner;
	uint32_t timeout_ms, max_xfer, max_fds;
	uint64_t max_maps;
	pthread_t reader;
	bool have_reader;
	_Atomic uint32_t refs;

	pthread_mutex_t send_lock; /* one message at a time on the socket */

	pthread_mutex_t lock; /* what follows; never taken before send_lock is given up */
	pthread_cond_t cond;  /* a request is done */
	struct svio__user_req *pending;
	uint16_t next_id;
	bool dead, closing;
	char why[160]; /* it died */
	struct svio_device *dev;

	pthread_mutex_t mem_lock; /* held over copies, so that svio__user_mem_del() waits for them */
	struct mem *mem; /* sorted, disjoint */
	size_t num_mem, cap_mem;
	void *scratch; /* the reader's: data of DMA messages */
};

/* ---- life and death --------------------------------------------------------------------------------- */

/* The first reason counts. Wakes everybody who waits; the reader ends by itself, since the socket is shut down. */
static void conn_die(struct svio__user_conn *conn, const char *why)
{
	pthread_mutex_lock(&conn->lock);
	if (!conn->dead) {
		conn->dead = true;
		snprintf(conn->why, sizeof(conn->why), "%s", why);
		shutdown(conn->fd, SHUT_RDWR);
		if (conn->dev && !conn->closing) {
			svio_log_warn("%s: %s", conn->name, why);
			svio_device_event_set(conn->dev, SVIO_EV_GONE);
		}
	}
	pthread_mutex_unlock(&conn->lock);
}

bool svio__user_dead(struct svio__user_conn *conn)
{
	bool dead;

	pthread_mutex_lock(&conn->lock);
	dead = conn->dead;
	pthread_mutex_unlock(&conn->lock);
	return dead;
}

static int fail_dead(struct svio__user_conn *conn)
{
	char why[sizeof(conn->why)];

	pthread_mutex_lock(&conn->lock);
	memcpy(why, conn->why, sizeof(why));
	pthread_mutex_unlock(&conn->lock);
	return svio_fail(ENODEV, "%s: %s; open the device again once the server runs", conn->name, why);
}

void svio__user_conn_set_device(struct svio__user_conn *conn, struct svio_device *dev)
{
	pthread_mutex_lock(&conn->lock);
	conn->dev = dev;
	if (dev && conn->dead)
		svio_device_event_set(dev, SVIO_EV_GONE);
	pthread_mutex_unlock(&conn->lock);
}

void svio__user_conn_get(struct svio__user_conn *conn)
{
	atomic_fetch_add_explicit(&conn->refs, 1, memory_order_relaxed);
}

static void conn_free(struct svio__user_conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	pthread_mutex_destroy(&conn->send_lock);
	pthread_mutex_destroy(&conn->lock);
	pthread_mutex_destroy(&conn->mem_lock);
	pthread_cond_destroy(&conn->cond);
	free(conn->mem);
	free(conn->scratch);
	free(conn);
}

void svio__user_conn_put(struct svio__user_conn *conn)
{
	if (conn && atomic_fetch_sub_explicit(&conn->refs, 1, memory_order_acq_rel) == 1)
		conn_free(conn);
}

void svio__user_conn_disconnect(struct svio__user_conn *conn, bool forked)
{
	if (forked) {
		/* The socket is shared with the parent: shutting it down would end the parent's connection. */
		close(conn->fd);
		conn->fd = -1;
		conn->dead = true;
		return;
	}
	pthread_mutex_lock(&conn->lock);
	conn->closing = true;
	conn->dev = NULL;
	pthread_mutex_unlock(&conn->lock);
	conn_die(conn, "closed");
	if (conn->have_reader)
		pthread_join(conn->reader, NULL);
	conn->have_reader = false;
}

/* ---- sending ---------------------------------------------------------------------------------------- */

/* Header and payload in one sendmsg(): some servers read a message with a single recv(). */
static int send_message(struct svio__user_conn *conn, const struct svio_vfu_hdr *hdr, const void *head,
			size_t head_len, const void *data, size_t data_len, const int *fds, uint32_t num_fds)
{
	SVIO__RIGHTS(SVIO__USER_MAX_FDS) control;
	struct iovec iov[3] = {
		{ (void *)(uintptr_t)hdr, sizeof(*hdr) },
		{ (void *)(uintptr_t)head, head_len },
		{ (void *)(uintptr_t)data, data_len },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
	size_t left = sizeof(*hdr) + head_len + data_len;
	int err = 0;

	if (num_fds)
		svio__rights_put(&msg, &control, fds, num_fds);
	pthread_mutex_lock(&conn->send_lock);
	while (left) {
		ssize_t n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err = n < 0 ? -errno : -EPIPE;
			break;
		}
		left -= (size_t)n;
		msg.msg_control = NULL; /* descriptors go with the first byte */
		msg.msg_controllen = 0;
		while (n > 0) {
			size_t part = SVIO_MIN((size_t)n, msg.msg_iov->iov_len);

			msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + part;
			msg.msg_iov->iov_len -= part;
			n -= (ssize_t)part;
			if (msg.msg_iov->iov_len == 0 && msg.msg_iovlen > 1) {
				msg.msg_iov++;
				msg.msg_iovlen--;
			}
		}
	}
	pthread_mutex_unlock(&conn->send_lock);
	return err;
}

static void unlink_req(struct svio__user_conn *conn, struct svio__user_req *req)
{
	for (struct svio__user_req **p = &conn->pending; *p; p = &(*p)->next) {
		if (*p == req) {
			*p = req->next;
			return;
		}
	}
}

int svio__user_send(struct svio__user_conn *conn, struct svio__user_req *req)
{
	struct svio_vfu_hdr hdr = { .cmd = req->cmd };
	int err;

	if (req->num_fds > SVIO__USER_MAX_FDS || req->head_len + req->data_len > MAX_PAYLOAD)
		return svio_fail(EINVAL, "%s: request %u is too large", conn->name, req->cmd);
	if (conn->owner != getpid())
		return svio_fail(ENODEV, "%s: the connection belongs to another process (fork); open the device anew",
				 conn->name);
	hdr.size = (uint32_t)(sizeof(hdr) + req->head_len + req->data_len);
	hdr.flags = SVIO_VFU_COMMAND;
	req->reply_len = 0;
	req->reply_fd = -1;
	req->done = false;
	req->err = 0;
	req->deadline_ns = svio_now_ns() + (uint64_t)conn->timeout_ms * 1000000;

	pthread_mutex_lock(&conn->lock);
	if (conn->dead) {
		pthread_mutex_unlock(&conn->lock);
		return fail_dead(conn);
	}
	/* 2^16 requests are never under way at once: each has a waiting thread or a slot of a bounded batch. */
	req->id = hdr.id = conn->next_id++;
	req->next = conn->pending;
	conn->pending = req;
	pthread_mutex_unlock(&conn->lock);

	err = send_message(conn, &hdr, req->head, req->head_len, req->data, req->data_len, req->fds, req->num_fds);
	if (!err)
		return 0;
	conn_die(conn, err == -EAGAIN || err == -EWOULDBLOCK ? "the server does not read its socket" :
								"the server closed the connection");
	return svio__user_wait(conn, req); /* the reader takes it off the list */
}

int svio__user_wait(struct svio__user_conn *conn, struct svio__user_req *req)
{
	bool late = false;
	int err;

	pthread_mutex_lock(&conn->lock);
	while (!req->done) {
		struct timespec until = { .tv_sec = (time_t)(req->deadline_ns / 1000000000),
					  .tv_nsec = (long)(req->deadline_ns % 1000000000) };

		if (late) {
			/* The reader owns the request until it says otherwise: it may be filling the reply. */
			pthread_cond_wait(&conn->cond, &conn->lock);
		} else if (pthread_cond_timedwait(&conn->cond, &conn->lock, &until) == ETIMEDOUT) {
			char why[96];

			late = true;
			if (req->done)
				break;
			snprintf(why, sizeof(why), "the server did not answer request %u within %u ms", req->cmd,
				 conn->timeout_ms);
			pthread_mutex_unlock(&conn->lock);
			conn_die(conn, why);
			pthread_mutex_lock(&conn->lock);
		}
	}
	err = req->err;
	pthread_mutex_unlock(&conn->lock);
	if (err == -ENODEV && svio__user_dead(conn))
		return fail_dead(conn);
	if (err == -EPROTO)
		return svio_fail(EPROTO, "%s: %s", conn->name, conn->why);
	return err;
}

int svio__user_call(struct svio__user_conn *conn, struct svio__user_req *req)
{
	int err = svio__user_send(conn, req);

	return err ? err : svio__user_wait(conn, req);
}

/* ---- receiving, in the reader thread ------------------------------------------------------------------ */

struct incoming {
	struct svio_vfu_hdr hdr;
	int fds[SVIO__USER_MAX_FDS];
	uint32_t num_fds;
	uint32_t left; /* payload bytes not yet read */
};

static void close_fds(struct incoming *in)
{
	for (uint32_t i = 0; i < in->num_fds; i++)
		close(in->fds[i]);
	in->num_fds = 0;
}

/* Exactly len bytes. NULL, or why not. */
static const char *receive(struct svio__user_conn *conn, struct incoming *in, void *buf, size_t len)
{
	SVIO__RIGHTS(SVIO__USER_MAX_FDS) control;
	size_t got = 0;

	while (got < len) {
		struct iovec iov = { (char *)buf + got, len - got };
		struct msghdr msg = { .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = control.buf,
				      .msg_controllen = sizeof(control.buf) };
		ssize_t n = recvmsg(conn->fd, &msg, MSG_CMSG_CLOEXEC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return "the server closed the connection";
		if (!svio__rights_take(&msg, in->fds, SVIO__USER_MAX_FDS, &in->num_fds))
			return "protocol error: more descriptors than a message may carry";
		got += (size_t)n;
	}
	return NULL;
}

static const char *drain(struct svio__user_conn *conn, struct incoming *in)
{
	char sink[256];

	while (in->left) {
		size_t part = SVIO_MIN(in->left, sizeof(sink));
		const char *bad = receive(conn, in, sink, part);

		if (bad)
			return bad;
		in->left -= (uint32_t)part;
	}
	return NULL;
}

static const char *take_reply(struct svio__user_conn *conn, struct incoming *in)
{
	struct svio__user_req *req;
	const char *bad = NULL;
	int err = 0;

	pthread_mutex_lock(&conn->lock);
	for (req = conn->pending; req && req->id != in->hdr.id; req = req->next)
		;
	pthread_mutex_unlock(&conn->lock);
	if (!req)
		return "protocol error: a reply to no request";
	/* Only this thread completes requests, so it stays there until we do. */
	if (req->cmd != in->hdr.cmd) {
		bad = "protocol error: a reply to another command";
	} else if (in->hdr.flags & SVIO_VFU_ERROR) {
		/* An errno of 0 or beyond what Linux has is still a refusal [Header]. */
		err = in->hdr.error && in->hdr.error < 4096 ? -(int)in->hdr.error : -EIO;
		bad = drain(conn, in);
	} else if (in->left > req->reply_cap) {
		bad = "protocol error: a reply larger than the request allows";
	} else {
		req->reply_len = in->left;
		bad = receive(conn, in, req->reply, in->left);
		if (!bad)
			in->left = 0;
	}
	if (!bad && in->num_fds && (err || !req->want_fd || in->num_fds > 1))
		bad = "protocol error: descriptors that were not asked for";
	if (bad) {
		conn_die(conn, bad);
		err = strncmp(bad, "protocol", 8) == 0 ? -EPROTO : -ENODEV;
	} else if (in->num_fds) {
		req->reply_fd = in->fds[0];
		in->num_fds = 0;
	}
	pthread_mutex_lock(&conn->lock);
	unlink_req(conn, req);
	req->err = err;
	req->done = true;
	pthread_cond_broadcast(&conn->cond);
	pthread_mutex_unlock(&conn->lock);
	return bad;
}

_Atomic(svio__message_written_fn) svio__message_written;

static void write_memory(uint8_t *to, const void *from, size_t len)
{
	svio__message_written_fn fn;

	memcpy(to, from, len);
	fn = atomic_load_explicit(&svio__message_written, memory_order_acquire);
	if (fn && len)
		fn(to, len);
}

/* Index of the first piece of memory that ends at or behind iova. */
static size_t mem_at(const struct svio__user_conn *conn, uint64_t iova)
{
	size_t lo = 0, hi = conn->num_mem;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (conn->mem[mid].iova + (conn->mem[mid].len - 1) < iova)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* [DMA read], [DMA write]: the server reaches memory for which it has no descriptor. */
static const char *serve_dma(struct svio__user_conn *conn, struct incoming *in)
{
	struct svio_vfu_hdr reply = { .id = in->hdr.id, .cmd = in->hdr.cmd, .flags = SVIO_VFU_REPLY };
	bool is_read = in->hdr.cmd == SVIO_VFU_DMA_READ;
	uint32_t need = is_read ? SVIO_DMA_READ : SVIO_DMA_WRITE;
	struct svio_vfu_dma_rw rw;
	const char *bad;
	int err = EFAULT;
	size_t at;

	if (in->left < sizeof(rw))
		return "protocol error: a DMA request cut short";
	bad = receive(conn, in, &rw, sizeof(rw));
	if (bad)
		return bad;
	in->left -= (uint32_t)sizeof(rw);
	if (rw.count > SVIO__USER_MAX_XFER || in->left != (is_read ? 0 : rw.count))
		return "protocol error: the size of a DMA request";
	if (!is_read) {
		bad = receive(conn, in, conn->scratch, rw.count);
		if (bad)
			return bad;
		in->left = 0;
	}
	pthread_mutex_lock(&conn->mem_lock);
	at = mem_at(conn, rw.iova);
	if (at < conn->num_mem) {
		const struct mem *m = &conn->mem[at];
		uint64_t off = rw.iova - m->iova;

		if (off < m->len && rw.count <= m->len - off && m->prot & need) {
			if (is_read)
				memcpy(conn->scratch, m->ptr + off, rw.count);
			else
				write_memory(m->ptr + off, conn->scratch, rw.count);
			err = 0;
		}
	}
	pthread_mutex_unlock(&conn->mem_lock);
	if (in->hdr.flags & SVIO_VFU_NO_REPLY)
		return NULL;
	if (err) {
		reply.flags |= SVIO_VFU_ERROR;
		reply.error = (uint32_t)err;
		reply.size = sizeof(reply);
		err = send_message(conn, &reply, NULL, 0, NULL, 0, NULL, 0);
	} else {
		size_t data = is_read ? rw.count : 0;

		reply.size = (uint32_t)(sizeof(reply) + sizeof(rw) + data);
		err = send_message(conn, &reply, &rw, sizeof(rw), conn->scratch, data, NULL, 0);
	}
	return err ? "the server closed the connection" : NULL;
}

static const char *take_message(struct svio__user_conn *conn, struct incoming *in)
{
	const char *bad = receive(conn, in, &in->hdr, sizeof(in->hdr));

	if (bad)
		return bad;
	if (in->hdr.size < sizeof(in->hdr) || in->hdr.size - sizeof(in->hdr) > MAX_PAYLOAD)
		return "protocol error: the size of a message";
	in->left = in->hdr.size - (uint32_t)sizeof(in->hdr);
	switch (in->hdr.flags & SVIO_VFU_TYPE_MASK) {
	case SVIO_VFU_REPLY:
		return take_reply(conn, in);
	case SVIO_VFU_COMMAND:
		if (in->num_fds)
			return "protocol error: descriptors that were not asked for";
		if (in->hdr.cmd == SVIO_VFU_DMA_READ || in->hdr.cmd == SVIO_VFU_DMA_WRITE)
			return serve_dma(conn, in);
		return "protocol error: a command that servers do not send";
	default:
		return "protocol error: neither command nor reply";
	}
}

static void *reader_main(void *arg)
{
	struct svio__user_conn *conn = arg;
	const char *bad;

	do {
		struct incoming in = { .num_fds = 0 };

		bad = take_message(conn, &in);
		close_fds(&in);
	} while (!bad);
	conn_die(conn, bad);

	pthread_mutex_lock(&conn->lock);
	for (struct svio__user_req *req = conn->pending; req; req = req->next) {
		req->err = -ENODEV;
		req->done = true;
	}
	conn->pending = NULL;
	pthread_cond_broadcast(&conn->cond);
	pthread_mutex_unlock(&conn->lock);
	return NULL;
}

/* ---- memory for DMA messages -------------------------------------------------------------------------- */

int svio__user_mem_add(struct svio__user_conn *conn, const struct svio_dma_map *map)
{
	size_t at;
	int err = 0;

	pthread_mutex_lock(&conn->mem_lock);
	at = mem_at(conn, map->iova);
	if (at < conn->num_mem && conn->mem[at].iova <= map->iova + (map->len - 1))
		err = -EEXIST;
	if (!err && conn->num_mem == conn->cap_mem) {
		size_t cap = conn->cap_mem ? conn->cap_mem * 2 : 16;
		struct mem *mem = reallocarray(conn->mem, cap, sizeof(*mem));

		if (mem) {
			conn->mem = mem;
			conn->cap_mem = cap;
		} else {
			err = -ENOMEM;
		}
	}
	if (!err) {
		memmove(conn->mem + at + 1, conn->mem + at, (conn->num_mem - at) * sizeof(*conn->mem));
		conn->mem[at] = (struct mem){ map->iova, map->len, map->vaddr, map->prot };
		conn->num_mem++;
	}
	pthread_mutex_unlock(&conn->mem_lock);
	return err;
}

void svio__user_mem_del(struct svio__user_conn *conn, uint64_t iova, uint64_t len)
{
	size_t at;

	pthread_mutex_lock(&conn->mem_lock);
	at = mem_at(conn, iova);
	if (at < conn->num_mem && conn->mem[at].iova == iova && conn->mem[at].len == len)
		memmove(conn->mem + at, conn->mem + at + 1, (--conn->num_mem - at) * sizeof(*conn->mem));
	pthread_mutex_unlock(&conn->mem_lock);
}

/* ---- version ---------------------------------------------------------------------------------------- */

uint32_t svio__user_max_xfer(const struct svio__user_conn *conn)
{
	return conn->max_xfer;
}

uint32_t svio__user_max_fds(const struct svio__user_conn *conn)
{
	return conn->max_fds;
}

uint64_t svio__user_max_maps(const struct svio__user_conn *conn)
{
	return conn->max_maps;
}

/* A limit that the server states, kept within ours. */
static uint64_t limit(struct json_object *caps, const char *key, uint64_t absent, uint64_t ours)
{
	struct json_object *v;
	int64_t n;

	if (!caps || !json_object_object_get_ex(caps, key, &v) || !json_object_is_type(v, json_type_int))
		return absent;
	n = json_object_get_int64(v);
	return n < 0 ? 0 : SVIO_MIN((uint64_t)n, ours);
}

/*
 * [Version]. Capabilities are optional in the reply; what is not stated has its default. twin_socket, a second socket for the server's
 * own requests, is not proposed: it is for clients and servers that wait for a reply in the place where requests arrive.
 * Here a reader thread takes both as they come, and no server may offer what was not proposed.
 */
static int negotiate(struct svio__user_conn *conn)
{
	static const struct svio_vfu_version ours = { SVIO_VFU_MAJOR, SVIO_VFU_MINOR };
	char json[256], reply[4096 + 1];
	struct svio_vfu_version theirs;
	struct json_object *root = NULL, *caps = NULL;
	struct svio__user_req req = { .cmd = SVIO_VFU_VERSION,
				      .head = &ours,
				      .head_len = sizeof(ours),
				      .data = json,
				      .reply = reply,
				      .reply_cap = sizeof(reply) - 1 };
	int err;

	req.data_len = (size_t)snprintf(json, sizeof(json),
					"{\"capabilities\":{\"max_msg_fds\":%u,\"max_data_xfer_size\":%u,"
					"\"pgsizes\":4096,\"max_dma_maps\":65535,"
					"\"migration\":{\"pgsize\":4096,\"max_bitmap_size\":%u}}}",
					SVIO__USER_MAX_FDS, SVIO__USER_MAX_XFER, SVIO__USER_MAX_XFER) + 1;
	err = svio__user_call(conn, &req);
	if (err == -EBUSY)
		return svio_fail(EBUSY, "%s: the server has another client already; it serves one at a time",
				 conn->name);
	if (err)
		return err == -ENODEV || err == -EPROTO ? err :
		       svio_fail(err, "%s: the server refused the connection: %s", conn->name, strerror(-err));
	if (req.reply_len < sizeof(theirs))
		return svio_fail(EPROTO, "%s: the server's version reply is cut short", conn->name);
	memcpy(&theirs, reply, sizeof(theirs));
	if (theirs.major != SVIO_VFU_MAJOR || theirs.minor > SVIO_VFU_MINOR)
		return svio_fail(EPROTO, "%s: the server speaks vfio-user %u.%u, and we speak up to %u.%u",
				 conn->name, theirs.major, theirs.minor, SVIO_VFU_MAJOR, SVIO_VFU_MINOR);
	reply[req.reply_len] = '\0';
	if (req.reply_len > sizeof(theirs)) {
		root = json_tokener_parse(reply + sizeof(theirs));
		if (!root || !json_object_is_type(root, json_type_object)) {
			json_object_put(root);
			return svio_fail(EPROTO, "%s: the server's capabilities are not JSON", conn->name);
		}
		json_object_object_get_ex(root, "capabilities", &caps);
	}
	conn->max_fds = (uint32_t)limit(caps, "max_msg_fds", SVIO_VFU_DEF_MSG_FDS, SVIO__USER_MAX_FDS);
	conn->max_xfer = (uint32_t)limit(caps, "max_data_xfer_size", SVIO_VFU_DEF_MAX_XFER, SVIO__USER_MAX_XFER);
	conn->max_maps = limit(caps, "max_dma_maps", SVIO_VFU_DEF_MAX_DMA_MAPS, UINT32_MAX);
	json_object_put(root);
	if (conn->max_xfer < 4096)
		return svio_fail(EPROTO, "%s: the server takes %u bytes of data in a message; 4096 are needed",
				 conn->name, conn->max_xfer);
	return 0;
}

int svio__user_conn_new(int fd, const char *name, uint32_t timeout_ms, struct svio__user_conn **connp)
{
	struct timeval tv = { .tv_sec = timeout_ms / 1000, .tv_usec = (timeout_ms % 1000) * 1000 };
	struct svio__user_conn *conn = calloc(1, sizeof(*conn));
	pthread_condattr_t attr;
	sigset_t all, old;
	int err;

	if (!conn) {
		close(fd);
		return svio_fail(ENOMEM, "%s: out of memory for a connection", name);
	}
	conn->fd = fd;
	snprintf(conn->name, sizeof(conn->name), "%s", name);
	conn->owner = getpid();
	conn->timeout_ms = timeout_ms;
	atomic_init(&conn->refs, 1);
	pthread_mutex_init(&conn->send_lock, NULL);
	pthread_mutex_init(&conn->lock, NULL);
	pthread_mutex_init(&conn->mem_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&conn->cond, &attr);
	pthread_condattr_destroy(&attr);
	conn->scratch = malloc(SVIO__USER_MAX_XFER);
	if (!conn->scratch) {
		err = svio_fail(ENOMEM, "%s: out of memory for a connection", name);
		goto fail;
	}
	/* A server that stops reading must not hold us for ever. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));

	/* Signals are for the application's threads; faults are for who makes them. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&conn->reader, NULL, reader_main, conn);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		svio_fail(err, "%s: no thread for the connection: %s", name, strerror(-err));
		goto fail;
	}
	conn->have_reader = true;
	err = negotiate(conn);
	if (!err) {
		*connp = conn;
		return 0;
	}
fail:
	if (conn->have_reader)
		svio__user_conn_disconnect(conn, false);
	svio__user_conn_put(conn);
	return err;
}
