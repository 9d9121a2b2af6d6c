/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One client's connection: framing, the queue of requests, replies, and the orderly close.
 *
 * The socket is never waited for. Whatever arrives is read: answers to our DMA messages are
 * dispatched at once, requests are queued (bounded) and handled in order. A request that has to
 * wait for the model's DMA is parked at the head of the queue, and the model goes on being polled.
 * A reply is one sendmsg(); what the socket does not take is kept, and no further request is
 * handled until it is gone. Anything wrong with framing ends the connection: after a desync nothing
 * can be trusted.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "rights.h"
#include "vdev_priv.h"

#define MAX_QUEUED_BYTES (8u << 20)
#define MAX_QUEUED	 1024u
#define MAX_TX_BYTES	 (256u << 20)
#define HANDLE_BATCH	 64u

static void close_fds(int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(fds);
}

void svio__vd_msg_free(struct vd_msg *m)
{
	close_fds(m->fds, m->nfds);
	free(m);
}

void svio__vd_conn_init(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;

	memset(c, 0, sizeof(*c));
	c->fd = -1;
	c->q_tail = &c->q_head;
	c->tx_tail = &c->tx_head;
	c->max_xfer = SVIO_VFU_DEF_MAX_XFER;
	c->max_fds = SVIO_VFU_DEF_MSG_FDS;
}

void svio__vd_conn_open(struct svio_vdev *dev, int fd)
{
	socklen_t len = sizeof(dev->conn.cred);

	svio__vd_conn_init(dev);
	dev->vanished = 0;
	dev->conn.fd = fd;
	dev->conn.has_cred = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &dev->conn.cred, &len) == 0;
	dev->stats.connects++;
}

static void broken(struct svio_vdev *dev, const char *what)
{
	if (!dev->conn.dead)
		svio_log_warn("%s: %s; the connection is closed", dev->model->name, what);
	dev->conn.dead = true;
	dev->stats.protocol_errors++;
}

/* ---- receiving ------------------------------------------------------------------------------ */

/*
 * Add the descriptors of one recvmsg() to the message being received. False on overflow or
 * truncation.
 */
static bool take_fds(struct vd_conn *c, struct msghdr *mh)
{
	int fds[VD_MAX_FDS], *all = NULL;
	uint32_t n = 0;
	bool good = svio__rights_take(mh, fds, VD_MAX_FDS, &n);

	if (!n)
		return good;
	if (good && c->rx_nfds + n <= VD_MAX_FDS)
		all = realloc(c->rx_fds, (c->rx_nfds + n) * sizeof(int));
	if (!all) {
		while (n)
			close(fds[--n]);
		return false;
	}
	memcpy(all + c->rx_nfds, fds, n * sizeof(int));
	c->rx_fds = all;
	c->rx_nfds += n;
	return true;
}

/* Bytes received, 0 nothing there now or the connection has ended (then dead is set). */
static size_t receive(struct svio_vdev *dev, void *buf, size_t len)
{
	struct vd_conn *c = &dev->conn;
	SVIO__RIGHTS(VD_MAX_FDS) control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n;

	do
		n = recvmsg(c->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			c->dead = true;
		return 0;
	}
	if (mh.msg_controllen && !take_fds(c, &mh)) {
		broken(dev,
		       "a message with too many descriptors, or no room for them in this process");
		return 0;
	}
	if (n == 0)
		c->dead = true;
	return (size_t)n;
}

static struct vd_msg *new_msg(struct vd_conn *c, const struct svio_vfu_hdr *hdr)
{
	uint32_t len = hdr->size - (uint32_t)sizeof(*hdr);
	struct vd_msg *m = malloc(sizeof(*m) + len);

	if (!m)
		return NULL;
	memset(m, 0, sizeof(*m));
	m->hdr = *hdr;
	m->len = len;
	/* Descriptors come with the first bytes of a message, that is, with its header. */
	m->fds = c->rx_fds;
	m->nfds = c->rx_nfds;
	c->rx_fds = NULL;
	c->rx_nfds = 0;
	return m;
}

static void enqueue(struct svio_vdev *dev, struct vd_msg *m)
{
	struct vd_conn *c = &dev->conn;

	if ((m->hdr.flags & SVIO_VFU_TYPE_MASK) == SVIO_VFU_REPLY) {
		svio__vd_dma_reply(dev, m);
		svio__vd_msg_free(m);
		return;
	}
	*c->q_tail = m;
	c->q_tail = &m->next;
	c->q_count++;
	c->q_bytes += m->len;
}

/* True when a message is complete. */
static bool receive_one(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;
	uint32_t fixed = sizeof(c->rx_hdr);

	if (!c->rx) {
		struct svio_vfu_hdr hdr;

		c->rx_got += (uint32_t)receive(dev, c->rx_hdr + c->rx_got, fixed - c->rx_got);
		if (c->rx_got < fixed || c->dead)
			return false;
		memcpy(&hdr, c->rx_hdr, sizeof(hdr));
		if (hdr.size < fixed || hdr.size - fixed > VD_MAX_PAYLOAD) {
			broken(dev, "a message of impossible size");
			return false;
		}
		if ((hdr.flags & SVIO_VFU_TYPE_MASK) > SVIO_VFU_REPLY) {
			broken(dev, "a message that is neither command nor reply");
			return false;
		}
		c->rx = new_msg(c, &hdr);
		if (!c->rx) {
			broken(dev, "out of memory for a message");
			return false;
		}
		c->rx_got = 0;
	}
	while (c->rx_got < c->rx->len) {
		size_t n = receive(dev, c->rx->data + c->rx_got, c->rx->len - c->rx_got);

		if (!n || c->dead)
			return false;
		c->rx_got += (uint32_t)n;
	}
	if (c->rx_nfds) { /* with a later byte of the payload: nobody does that; do not keep them for the next message */
		broken(dev, "descriptors in the middle of a message");
		return false;
	}
	enqueue(dev, c->rx);
	c->rx = NULL;
	c->rx_got = 0;
	return true;
}

/* ---- sending -------------------------------------------------------------------------------- */

static ssize_t transmit(int sock, struct iovec *iov, size_t n, int fd)
{
	SVIO__RIGHTS(1) control;
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n };
	ssize_t sent;

	if (fd >= 0)
		svio__rights_put(&mh, &control, &fd, 1);
	do
		sent = sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	return sent;
}

static bool flush(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;
	bool any = false;

	while (c->tx_head) {
		struct vd_tx *t = c->tx_head;
		struct iovec iov = { .iov_base = t->data + t->pos, .iov_len = t->len - t->pos };
		ssize_t n = transmit(c->fd, &iov, 1, t->pos ? -1 : t->fd);

		if (n < 0) {
			c->dead = true;
			return any;
		}
		if (n == 0)
			return any;
		any = true;
		t->pos += (size_t)n;
		if (t->pos < t->len)
			return any;
		c->tx_head = t->next;
		if (!c->tx_head)
			c->tx_tail = &c->tx_head;
		c->tx_bytes -= t->len;
		free(t);
	}
	return any;
}

int svio__vd_conn_send(struct svio_vdev *dev, const struct svio_vfu_hdr *hdr, const void *a,
		       size_t alen, const void *b, size_t blen, int fd)
{
	struct vd_conn *c = &dev->conn;
	struct svio_vfu_hdr h = *hdr;
	struct iovec iov[3] = {
		{ .iov_base = &h, .iov_len = sizeof(h) },
		{ .iov_base = (void *)(uintptr_t)a, .iov_len = alen },
		{ .iov_base = (void *)(uintptr_t)b, .iov_len = blen },
	};
	size_t total = sizeof(h) + alen + blen, pos;
	struct vd_tx *t;
	ssize_t n = 0;

	if (c->fd < 0 || c->dead || c->draining)
		return -ENOTCONN;
	h.size = (uint32_t)total;
	if (!c->tx_head) {
		n = transmit(c->fd, iov, 3, fd);
		if (n < 0) {
			c->dead = true;
			return (int)n;
		}
		if ((size_t)n == total)
			return 0;
	}
	/* Keep all of it; pos tells how much has gone. */
	t = c->tx_bytes + total > MAX_TX_BYTES ? NULL : malloc(sizeof(*t) + total);
	if (!t) {
		broken(dev, "a client that does not read");
		return -ENOBUFS;
	}
	pos = 0;
	for (unsigned int i = 0; i < 3; i++) {
		if (iov[i].iov_len)
			memcpy(t->data + pos, iov[i].iov_base, iov[i].iov_len);
		pos += iov[i].iov_len;
	}
	t->next = NULL;
	t->len = total;
	t->pos = (size_t)n;
	t->fd = fd;
	*c->tx_tail = t;
	c->tx_tail = &t->next;
	c->tx_bytes += total;
	return 0;
}

/* ---- handling ------------------------------------------------------------------------------- */

static void reply(struct svio_vdev *dev, const struct vd_msg *m, struct vd_reply *r, int err)
{
	struct svio_vfu_hdr h = { .id = m->hdr.id, .cmd = m->hdr.cmd, .flags = SVIO_VFU_REPLY };

	if (!(m->hdr.flags & SVIO_VFU_NO_REPLY)) {
		if (err) {
			h.flags |= SVIO_VFU_ERROR;
			h.error = (uint32_t)-err;
			svio__vd_conn_send(dev, &h, NULL, 0, NULL, 0, -1);
		} else {
			svio__vd_conn_send(dev, &h, r->head, r->head_len, r->data, r->data_len,
					   r->fd);
		}
	}
	if (r->close_after)
		dev->conn.dead = true;
}

/* Handle the oldest request. False when it stays parked. */
static bool handle_head(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;
	struct vd_msg *m = c->q_head;
	struct vd_reply r = { .fd = -1 };
	uint64_t now;
	int err;

	err = svio__vd_handle(dev, m, &r);
	if (err == -EINPROGRESS) {
		free(r.data);
		now = svio_now_ns();
		if (!c->parked) {
			c->parked = true;
			c->park_deadline = now + VD_PARK_NS;
		}
		if (now < c->park_deadline)
			return false;
		/*
		 * The client will not wait longer; the device stays as it is. A reset that was
		 * begun is finished by the next one.
		 */
		svio_log_warn("%s: DMA did not end in time for command %u", dev->model->name,
			      m->hdr.cmd);
		svio__vd_mig_abort(dev);
		r = (struct vd_reply){ .fd = -1 };
		err = -ETIMEDOUT;
	}
	c->parked = false;
	dev->stats.messages++;
	c->q_head = m->next;
	if (!c->q_head)
		c->q_tail = &c->q_head;
	c->q_count--;
	c->q_bytes -= m->len;
	reply(dev, m, &r, err);
	free(r.data);
	svio__vd_msg_free(m);
	return true;
}

bool svio__vd_conn_service(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;
	bool any = false;

	if (dev->vanished)
		broken(dev, "the client truncated memory that it had shared");
	if (c->dead)
		return true;
	any |= flush(dev);
	while (!c->dead && c->q_count < MAX_QUEUED && c->q_bytes < MAX_QUEUED_BYTES &&
	       receive_one(dev))
		any = true;
	/*
	 * What was asked before the end of the stream is still done: posted writes may be the last
	 * words.
	 */
	for (unsigned int i = 0; (i < HANDLE_BATCH || c->dead) && c->q_head && !c->tx_head; i++) {
		if (!handle_head(dev))
			break;
		any = true;
	}
	return any || c->dead;
}

/* ---- closing -------------------------------------------------------------------------------- */

bool svio__vd_conn_close(struct svio_vdev *dev)
{
	struct vd_conn *c = &dev->conn;
	bool was_versioned = c->versioned;

	if (!c->draining) {
		struct vd_msg *m;
		struct vd_tx *t;

		c->draining = true;
		while ((m = c->q_head)) {
			c->q_head = m->next;
			svio__vd_msg_free(m);
		}
		while ((t = c->tx_head)) {
			c->tx_head = t->next;
			free(t);
		}
		c->q_tail = &c->q_head;
		c->tx_tail = &c->tx_head;
		c->q_count = 0;
		c->q_bytes = 0;
		if (c->rx)
			svio__vd_msg_free(c->rx);
		c->rx = NULL;
		close_fds(c->rx_fds, c->rx_nfds);
		c->rx_fds = NULL;
		c->rx_nfds = 0;
	}
	/* DMA first, then memory, then interrupts. */
	svio__vd_dma_cancel_range(dev, 0, UINT64_MAX, -ECANCELED);
	if (svio__vd_quiesce(dev, SVIO_VDEV_Q_DISCONNECT, 0, UINT64_MAX))
		return false;
	svio__vd_dma_cancel_range(dev, 0, UINT64_MAX, -ECANCELED);
	/*
	 * A migration that nobody will finish, a failed one, and a reset cut short all end in a
	 * reset.
	 */
	svio__vd_mig_abort(dev);
	if (dev->mig.state == SVIO_VFU_STATE_PRE_COPY)
		svio__vd_mig_reset(dev); /* it was running all along */
	if (dev->mig.state != SVIO_VFU_STATE_RUNNING || dev->in_reset || dev->flr_due ||
	    (dev->flags & SVIO_VDEV_RESET_ON_CLOSE)) {
		enum svio_vdev_reset why = dev->flags & SVIO_VDEV_RESET_ON_CLOSE
						   ? SVIO_VDEV_RESET_CLOSE
						   : SVIO_VDEV_RESET_MESSAGE;

		if (svio__vd_reset(dev, why))
			return false;
	}
	svio__vd_dirty_stop(dev);
	svio__vd_iommu_disconnect(dev);
	svio__vd_dma_unmap_all(dev);
	svio__vd_irq_release(dev);
	close(c->fd);
	svio__vd_conn_init(dev);
	dev->stats.disconnects++;
	if (was_versioned && dev->model->connection)
		dev->model->connection(dev, false);
	return true;
}
