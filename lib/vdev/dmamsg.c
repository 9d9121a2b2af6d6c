/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transfers that work with every client. Shared memory is copied at once, files are read and
 * written at once; memory without a descriptor goes by DMA_READ and DMA_WRITE messages, which are
 * never waited for: QEMU serves them under the lock that it holds while it waits for our replies.
 *
 * A transfer walks over mappings and message sizes part by part, one message at a time; many
 * transfers are in flight at once. A message's id is its slot and a generation, so that the late
 * answer to a cancelled transfer matches nothing. What was cancelled may still reach the client's
 * memory until the client has read our next reply: the stream keeps the order, so the client sees
 * such a write before it sees that its unmap is done.
 */
#include <string.h>
#include <unistd.h>
#include "vdev_priv.h"

#define PART_MAX (128u << 10) /* bytes by one message: keeps the socket's buffer from filling up */

static void link_in(struct vd_dma *d, struct svio_vdev_dma *t)
{
	t->kit.next = NULL;
	t->kit.prev = d->tail;
	if (d->tail)
		d->tail->kit.next = t;
	else
		d->head = t;
	d->tail = t;
	d->inflight++;
}

static void link_out(struct vd_dma *d, struct svio_vdev_dma *t)
{
	if (t->kit.prev)
		t->kit.prev->kit.next = t->kit.next;
	else
		d->head = t->kit.next;
	if (t->kit.next)
		t->kit.next->kit.prev = t->kit.prev;
	else
		d->tail = t->kit.prev;
	d->inflight--;
	if (t->kit.slot >= 0) {
		d->slot[t->kit.slot] = NULL;
		d->gen[t->kit.slot]++;
	} else {
		d->waiting--;
	}
	t->kit.slot = -1;
}

/* One part by memory or file. */
static int do_part(struct svio_vdev *dev, struct vd_map *m, struct svio_vdev_dma *t, uint64_t iova,
		   uint32_t len)
{
	uint64_t off = m->off + (iova - m->iova);
	uint8_t *buf = (uint8_t *)t->buf + t->kit.pos;

	if (m->file->mapped) {
		uint8_t *p = m->file->base + (off - m->file->off);

		if (t->access == SVIO_VDEV_WRITE)
			memcpy(p, buf, len);
		else
			memcpy(buf, p, len);
	} else {
		for (uint32_t done = 0; done < len;) {
			ssize_t n = t->access == SVIO_VDEV_WRITE
					    ? pwrite(m->file->fd, buf + done, len - done,
						     (off_t)(off + done))
					    : pread(m->file->fd, buf + done, len - done,
						    (off_t)(off + done));

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return -EIO; /* truncated behind our back, or an I/O error */
			done += (uint32_t)n;
		}
	}
	if (t->access == SVIO_VDEV_WRITE)
		svio_vdev_dma_mark(dev, iova, len);
	return 0;
}

static int send_part(struct svio_vdev *dev, struct svio_vdev_dma *t, uint64_t iova, uint32_t len)
{
	bool wr = t->access == SVIO_VDEV_WRITE;
	struct svio_vfu_dma_rw rw = { .iova = iova, .count = len };
	struct svio_vfu_hdr hdr = {
		.id = (uint16_t)((unsigned int)t->kit.slot | (unsigned int)dev->dma.gen[t->kit.slot]
								     << 8),
		.cmd = wr ? SVIO_VFU_DMA_WRITE : SVIO_VFU_DMA_READ,
		.flags = SVIO_VFU_COMMAND,
	};

	t->kit.part = len;
	t->kit.deadline = svio_now_ns() + VD_DMA_NS;
	dev->stats.dma_msgs++;
	return svio__vd_conn_send(dev, &hdr, &rw, sizeof(rw),
				  wr ? (uint8_t *)t->buf + t->kit.pos : NULL, wr ? len : 0, -1);
}

/*
 * Go as far as possible. 0 done, -EINPROGRESS a message is on its way or no slot is free, or an
 * error.
 */
static int advance(struct svio_vdev *dev, struct svio_vdev_dma *t)
{
	uint32_t need = t->access == SVIO_VDEV_WRITE ? SVIO_VFU_DMA_F_WRITE : SVIO_VFU_DMA_F_READ;

	if (!dev->bus_master) /* switched off with a transfer under way */
		return -EPERM;
	while (t->kit.pos < t->len) {
		uint64_t iova = t->iova + t->kit.pos;
		struct vd_map *m = svio__vd_dma_find(dev, iova);
		uint32_t len = t->len - t->kit.pos;
		int err;

		if (!m || !(m->prot & need))
			return -EFAULT;
		if (len - 1 > m->last - iova)
			len = (uint32_t)(m->last - iova + 1);
		if (!m->file) {
			len = SVIO_MIN(len, SVIO_MIN(PART_MAX, dev->conn.max_xfer));
			if (t->kit.slot < 0)
				return -EINPROGRESS;
			err = send_part(dev, t, iova, len);
			return err ? err : -EINPROGRESS;
		}
		err = do_part(dev, m, t, iova, len);
		if (err)
			return err;
		t->kit.pos += len;
	}
	return 0;
}

/* The whole range must be mapped for the access before anything moves. */
static int check(struct svio_vdev *dev, const struct svio_vdev_dma *t, bool *by_message)
{
	uint32_t need = t->access == SVIO_VDEV_WRITE ? SVIO_VFU_DMA_F_WRITE : SVIO_VFU_DMA_F_READ;
	uint64_t iova = t->iova, last = t->iova + t->len - 1;

	if (last < iova)
		return -EFAULT;
	*by_message = false;
	for (;;) {
		struct vd_map *m = svio__vd_dma_find(dev, iova);

		if (!m || !(m->prot & need))
			return -EFAULT;
		*by_message |= !m->file;
		if (m->last >= last)
			return 0;
		iova = m->last + 1;
	}
}

static int take_slot(struct vd_dma *d, struct svio_vdev_dma *t)
{
	for (int i = 0; i < VD_DMA_SLOTS; i++) {
		if (!d->slot[i]) {
			d->slot[i] = t;
			t->kit.slot = i;
			return 0;
		}
	}
	return -EAGAIN;
}

int svio_vdev_dma_start(struct svio_vdev *dev, struct svio_vdev_dma *t)
{
	bool by_message;
	int err;

	if (!svio_vdev_connected(dev) || dev->conn.draining || dev->conn.dead)
		return -ENOTCONN;
	if (!dev->bus_master)
		return -EPERM;
	if (!t->len)
		return 0;
	err = check(dev, t, &by_message);
	if (err)
		return err;
	t->kit.pos = 0;
	t->kit.slot = -1;
	t->kit.deadline = UINT64_MAX;
	if (!by_message)
		return advance(dev, t);
	dev->dma.waiting++;
	link_in(&dev->dma, t);
	if (take_slot(&dev->dma, t))
		return -EINPROGRESS;
	dev->dma.waiting--;
	err = advance(dev, t);
	if (err != -EINPROGRESS)
		link_out(&dev->dma, t);
	return err;
}

void svio_vdev_dma_cancel(struct svio_vdev *dev, struct svio_vdev_dma *t)
{
	for (struct svio_vdev_dma *i = dev->dma.head; i; i = i->kit.next) {
		if (i == t) {
			link_out(&dev->dma, t);
			return;
		}
	}
}

static void finish(struct svio_vdev *dev, struct svio_vdev_dma *t, int err)
{
	link_out(&dev->dma, t);
	if (t->done)
		t->done(dev, t, err);
}

/* Give free slots to those that wait, oldest first. */
static void serve_waiting(struct svio_vdev *dev)
{
	while (dev->dma.waiting) {
		struct svio_vdev_dma *t = dev->dma.head;
		int err;

		while (t && t->kit.slot >= 0)
			t = t->kit.next;
		if (!t || take_slot(&dev->dma, t))
			return;
		dev->dma.waiting--;
		err = advance(dev, t);
		if (err != -EINPROGRESS)
			finish(dev, t, err);
	}
}

void svio__vd_dma_reply(struct svio_vdev *dev, struct vd_msg *m)
{
	unsigned int slot = m->hdr.id % VD_DMA_SLOTS, gen = m->hdr.id >> 8;
	struct svio_vdev_dma *t = dev->dma.slot[slot];
	struct svio_vfu_dma_rw rw;
	int err;

	if (!t || dev->dma.gen[slot] != gen ||
	    m->hdr.cmd != (t->access == SVIO_VDEV_WRITE ? SVIO_VFU_DMA_WRITE : SVIO_VFU_DMA_READ))
		return; /* cancelled meanwhile, or nonsense */
	if (m->hdr.flags & SVIO_VFU_ERROR) {
		finish(dev, t, -EFAULT);
		serve_waiting(dev);
		return;
	}
	err = -EIO;
	if (m->len >= sizeof(rw)) {
		memcpy(&rw, m->data, sizeof(rw));
		/* Short transfers are the client's right; they move on by what came. */
		if (rw.iova == t->iova + t->kit.pos && rw.count && rw.count <= t->kit.part &&
		    m->len == sizeof(rw) + (t->access == SVIO_VDEV_READ ? rw.count : 0)) {
			if (t->access == SVIO_VDEV_READ)
				memcpy((uint8_t *)t->buf + t->kit.pos, m->data + sizeof(rw),
				       rw.count);
			t->kit.pos += (uint32_t)rw.count;
			dev->dma.gen[slot]++;
			err = advance(dev, t);
		}
	}
	if (err != -EINPROGRESS)
		finish(dev, t, err);
	serve_waiting(dev);
}

void svio__vd_dma_cancel_range(struct svio_vdev *dev, uint64_t iova, uint64_t last, int err)
{
	struct svio_vdev_dma *t = dev->dma.head;
	uint32_t left = dev->dma.inflight; /* what done() starts anew is not cancelled again */

	while (t && left) {
		if (t->iova <= last && t->iova + t->len - 1 >= iova) {
			finish(dev, t, err);
			left--;
			t = dev->dma.head; /* done() may have changed the list */
		} else {
			t = t->kit.next;
		}
	}
	serve_waiting(dev);
}

void svio__vd_dma_tick(struct svio_vdev *dev, uint64_t now)
{
	struct svio_vdev_dma *t = dev->dma.head;

	while (t) {
		if (t->kit.slot >= 0 && now >= t->kit.deadline) {
			finish(dev, t, -ETIMEDOUT);
			t = dev->dma.head;
		} else {
			t = t->kit.next;
		}
	}
	serve_waiting(dev);
}
