/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Migration of a device: VFIO's state machine (<linux/vfio.h>, enum vfio_device_mig_state;
 * vfio-user [Direct State Transitions]) and the stream.
 *
 * Stream, little endian: a header that names the model, then sections { type, version, length, data
 * }, the last of which holds the CRC-32C of everything before it. Sections of PRE_COPY are handed
 * to the model as they arrive; the rest is held, bounded, and applied when RESUMING is left and the
 * stream was complete and whole.
 */
#include <stdlib.h>
#include <string.h>
#include <linux/pci_regs.h>
#include "vdev_priv.h"

#define MAGIC	 UINT64_C(0x3156454456495653) /* "SVIVDEV1" */
#define OVERHEAD (256u << 10)		      /* configuration, interrupts, section headers */

enum section_type {
	SEC_CONFIG = 1,
	SEC_BAR = 2,
	SEC_IRQ = 3,
	SEC_MODEL = 4,
	SEC_PRECOPY = 5,
	SEC_END = 0xffff
};

struct stream_hdr {
	svio_le64 magic;
	char model[32]; /* NUL padded */
} __attribute__((packed));
_Static_assert(sizeof(struct stream_hdr) == 40, "wire");

struct section_hdr {
	svio_le32 type, version;
	svio_le64 len;
} __attribute__((packed));
_Static_assert(sizeof(struct section_hdr) == 16, "wire");

struct bar_page { /* one page that is not all zeroes */
	svio_le32 bar, reserved;
	svio_le64 offset;
	uint8_t data[VD_PAGE];
} __attribute__((packed));

struct irq_state { /* the MSI-X table follows */
	svio_le32 level, vectors;
	svio_le64 pending[VD_MAX_MSIX / 64];
} __attribute__((packed));

static size_t state_max(const struct svio_vdev *dev)
{
	return dev->model->state_max ? dev->model->state_max : 1u << 20;
}

/* Bound on what a stream may make us hold. */
static size_t stream_max(const struct svio_vdev *dev)
{
	size_t max = state_max(dev) + OVERHEAD;

	for (unsigned int i = 0; i < VD_NUM_BARS; i++)
		for (unsigned int a = 0; a < dev->bar[i].num_areas; a++)
			max += dev->bar[i].areas[a].size / VD_PAGE *
			       (sizeof(struct bar_page) + sizeof(struct section_hdr));
	return max;
}

/* ---- buffer --------------------------------------------------------------------------------- */

int svio_vdev_buf_put(struct svio_vdev_buf *buf, const void *data, size_t len)
{
	if (buf->err)
		return buf->err;
	if (len > buf->max || buf->len > buf->max - len)
		return buf->err = -ENOSPC;
	if (len > buf->room - buf->len) {
		size_t room = SVIO_MAX(SVIO_MAX(buf->room * 2, buf->len + len), (size_t)4096);
		uint8_t *p = realloc(buf->data, room);

		if (!p)
			return buf->err = -ENOMEM;
		buf->data = p;
		buf->room = room;
	}
	if (len)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	return 0;
}

static void session_end(struct svio_vdev *dev)
{
	free(dev->mig.buf.data);
	memset(&dev->mig.buf, 0, sizeof(dev->mig.buf));
	dev->mig.pos = dev->mig.parse = 0;
	dev->mig.crc = 0;
	dev->mig.precopy_due = dev->mig.have_hdr = dev->mig.have_end = false;
}

/* ---- saving --------------------------------------------------------------------------------- */

static void put_section(struct svio_vdev_buf *buf, uint32_t type, uint32_t version,
			const void *data, size_t len)
{
	struct section_hdr h = { .type = svio_cpu_to_le32(type),
				 .version = svio_cpu_to_le32(version),
				 .len = svio_cpu_to_le64(len) };

	svio_vdev_buf_put(buf, &h, sizeof(h));
	svio_vdev_buf_put(buf, data, len);
}

/*
 * A section that the model writes, at most state_max bytes; an empty one is taken back when
 * `optional`.
 */
static int put_model(struct svio_vdev *dev, uint32_t type,
		     int (*fn)(struct svio_vdev *, struct svio_vdev_buf *), bool optional)
{
	struct svio_vdev_buf *buf = &dev->mig.buf;
	size_t start = buf->len, body = start + sizeof(struct section_hdr), max = buf->max;
	svio_le64 len;
	int err;

	put_section(buf, type, dev->model->state_version, NULL, 0);
	buf->max = SVIO_MIN(max, body + state_max(dev));
	err = fn(dev, buf);
	buf->max = max;
	if (err || buf->err)
		return err ? err : buf->err;
	if (optional && buf->len == body) {
		buf->len = start;
		return 0;
	}
	len = svio_cpu_to_le64(buf->len - body);
	memcpy(buf->data + start + offsetof(struct section_hdr, len), &len, sizeof(len));
	return 0;
}

static int session_start_save(struct svio_vdev *dev)
{
	struct stream_hdr h = { .magic = svio_cpu_to_le64(MAGIC) };

	session_end(dev);
	dev->mig.buf.max = SIZE_MAX; /* our own words; each part is bounded */
	strncpy(h.model, dev->model->name, sizeof(h.model) - 1);
	return svio_vdev_buf_put(&dev->mig.buf, &h, sizeof(h));
}

static void put_bars(struct svio_vdev *dev)
{
	static const uint8_t zero[VD_PAGE];

	for (uint32_t i = 0; i < VD_NUM_BARS; i++) {
		for (unsigned int a = 0; a < dev->bar[i].num_areas; a++) {
			const struct svio_vdev_area *area = &dev->bar[i].areas[a];

			for (uint64_t off = area->offset; off < area->offset + area->size;
			     off += VD_PAGE) {
				struct bar_page p = { .bar = svio_cpu_to_le32(i),
						      .offset = svio_cpu_to_le64(off) };

				memcpy(p.data, dev->bar[i].mem + off, VD_PAGE);
				if (memcmp(p.data, zero, VD_PAGE) != 0)
					put_section(&dev->mig.buf, SEC_BAR, 1, &p, sizeof(p));
			}
		}
	}
}

static void put_irq(struct svio_vdev *dev)
{
	uint32_t n = dev->irq.idx[SVIO_VFU_IRQ_MSIX].count;
	struct irq_state s = { .level = svio_cpu_to_le32(dev->irq.level),
			       .vectors = svio_cpu_to_le32(n) };
	struct section_hdr h = { .type = svio_cpu_to_le32(SEC_IRQ),
				 .version = svio_cpu_to_le32(1),
				 .len = svio_cpu_to_le64(sizeof(s) + n * 16ull) };

	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(dev->irq.pending); i++)
		s.pending[i] = svio_cpu_to_le64(dev->irq.pending[i]);
	svio_vdev_buf_put(&dev->mig.buf, &h, sizeof(h));
	svio_vdev_buf_put(&dev->mig.buf, &s, sizeof(s));
	svio_vdev_buf_put(&dev->mig.buf, dev->irq.table, n * (size_t)16);
}

/*
 * Everything that only a stopped device can say, and the end. On failure the buffer is as before.
 */
static int put_final(struct svio_vdev *dev)
{
	struct svio_vdev_buf *buf = &dev->mig.buf;
	size_t before = buf->len;
	svio_le32 crc;
	int err;

	put_section(buf, SEC_CONFIG, 1, dev->cfg, dev->cfg_size);
	put_bars(dev);
	put_irq(dev);
	err = buf->err ? buf->err : put_model(dev, SEC_MODEL, dev->model->save, false);
	if (!err) {
		crc = svio_cpu_to_le32(svio_crc32c(dev->mig.crc, buf->data, buf->len));
		put_section(buf, SEC_END, 1, &crc, sizeof(crc));
		err = buf->err;
	}
	if (err) {
		buf->len = before;
		buf->err = 0;
	}
	return err;
}

int svio__vd_mig_read(struct svio_vdev *dev, void *data, size_t len, size_t *got)
{
	struct vd_mig *mig = &dev->mig;
	size_t have;
	int err;

	if (mig->state != SVIO_VFU_STATE_STOP_COPY && mig->state != SVIO_VFU_STATE_PRE_COPY)
		return -EINVAL;
	if (mig->state == SVIO_VFU_STATE_PRE_COPY && mig->pos == mig->buf.len) {
		/* All of it was read: what is gone only lives on in the checksum. */
		mig->crc = svio_crc32c(mig->crc, mig->buf.data, mig->buf.len);
		mig->buf.len = mig->pos = 0;
		if (mig->precopy_due && dev->model->precopy) {
			err = put_model(dev, SEC_PRECOPY, dev->model->precopy, true);
			if (err) {
				mig->buf.len = 0;
				mig->buf.err = 0;
				return err;
			}
		}
		mig->precopy_due = false;
	}
	have = mig->buf.len - mig->pos;
	*got = SVIO_MIN(have, len);
	if (*got)
		memcpy(data, mig->buf.data + mig->pos, *got);
	mig->pos += *got;
	if (*got < len)
		mig->precopy_due = true; /* the reader saw the end, for now */
	return 0;
}

/* ---- resuming ------------------------------------------------------------------------------- */

static void drop_bytes(struct svio_vdev_buf *buf, size_t at, size_t n)
{
	memmove(buf->data + at, buf->data + at + n, buf->len - at - n);
	buf->len -= n;
}

/* Look at what has arrived. 0 = fine so far. */
static int consume(struct svio_vdev *dev)
{
	struct vd_mig *mig = &dev->mig;
	struct svio_vdev_buf *buf = &mig->buf;

	if (!mig->have_hdr) {
		struct stream_hdr h;

		if (buf->len < sizeof(h))
			return 0;
		memcpy(&h, buf->data, sizeof(h));
		if (svio_le64_to_cpu(h.magic) != MAGIC ||
		    memchr(h.model, 0, sizeof(h.model)) == NULL)
			return svio_fail(EINVAL, "%s: not a device state", dev->model->name);
		if (strcmp(h.model, dev->model->name) != 0)
			return svio_fail(EINVAL, "the state of a %s cannot be loaded into a %s",
					 h.model, dev->model->name);
		mig->crc = svio_crc32c(0, buf->data, sizeof(h));
		drop_bytes(buf, 0, sizeof(h));
		mig->have_hdr = true;
	}
	while (buf->len - mig->parse >= sizeof(struct section_hdr)) {
		struct section_hdr h;
		uint64_t len, total;
		uint32_t type;

		if (mig->have_end)
			return svio_fail(EINVAL, "%s: device state goes on behind its end",
					 dev->model->name);
		memcpy(&h, buf->data + mig->parse, sizeof(h));
		type = svio_le32_to_cpu(h.type);
		len = svio_le64_to_cpu(h.len);
		if (len > stream_max(dev) || (type == SEC_END && len != 4))
			return svio_fail(EINVAL, "%s: device state with a section of %llu bytes",
					 dev->model->name, (unsigned long long)len);
		total = sizeof(h) + len;
		if (buf->len - mig->parse < total)
			break;
		if (type == SEC_END) {
			svio_le32 crc;

			memcpy(&crc, buf->data + mig->parse + sizeof(h), sizeof(crc));
			if (svio_le32_to_cpu(crc) != mig->crc)
				return svio_fail(EINVAL, "%s: device state damaged (CRC-32C)",
						 dev->model->name);
			mig->have_end = true;
			drop_bytes(buf, mig->parse, total);
			if (buf->len != mig->parse)
				return svio_fail(EINVAL, "%s: device state goes on behind its end",
						 dev->model->name);
			return 0;
		}
		mig->crc = svio_crc32c(mig->crc, buf->data + mig->parse, total);
		if (type == SEC_PRECOPY) {
			int err = 0;

			if (svio_le32_to_cpu(h.version) > dev->model->state_version)
				return -EINVAL;
			if (dev->model->load_precopy)
				err = dev->model->load_precopy(dev, svio_le32_to_cpu(h.version),
							       buf->data + mig->parse + sizeof(h),
							       len);
			if (err)
				return err;
			drop_bytes(buf, mig->parse, total);
		} else {
			mig->parse += total;
		}
	}
	if (mig->have_end && buf->len != mig->parse)
		return -EINVAL;
	return 0;
}

int svio__vd_mig_write(struct svio_vdev *dev, const void *data, size_t len)
{
	struct svio_vdev_buf *buf = &dev->mig.buf;
	int err;

	if (dev->mig.state != SVIO_VFU_STATE_RESUMING)
		return -EINVAL;
	err = svio_vdev_buf_put(buf, data, len);
	if (!err) {
		err = consume(dev);
		if (err)
			buf->err = err; /* sticky: the state cannot become valid any more */
	}
	return err;
}

static int load_config(struct svio_vdev *dev, const uint8_t *data, uint64_t len)
{
	bool msi_pending = dev->cap_msi && (svio_vdev_config_get(dev, dev->cap_msi + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_MASKBIT);

	if (len != dev->cfg_size)
		return svio_fail(EINVAL, "%s: configuration space of %llu bytes instead of %u",
				 dev->model->name, (unsigned long long)len, dev->cfg_size);
	for (uint32_t i = 0; i < dev->cfg_size; i++) {
		uint8_t fixed = (uint8_t) ~(dev->wmask[i] | dev->w1c[i]);

		/* Read-only but alive: Interrupt Status, and MSI's pending bits where there are any. */
		if (i == PCI_STATUS)
			fixed &= (uint8_t)~PCI_STATUS_INTERRUPT;
		if (msi_pending && i >= dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 &&
		    i < dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 + 4)
			continue;
		if ((data[i] ^ dev->cfg[i]) & fixed)
			return svio_fail(
				EINVAL,
				"%s: the saved device differs at configuration offset %#x: %#x instead of %#x",
				dev->model->name, i, data[i], dev->cfg[i]);
	}
	if (dev->cap_pm) {
		uint8_t state = data[dev->cap_pm + PCI_PM_CTRL] & PCI_PM_CTRL_STATE_MASK;

		if (state == 1 || state == 2)
			return svio_fail(EINVAL, "%s: the saved device is in D%u, which this one does not have",
					 dev->model->name, state);
	}
	memcpy(dev->cfg, data, len);
	/* Whether messages are on is this side's client's word. */
	svio__vd_irq_show_enabled(dev, SVIO_VFU_IRQ_MSI);
	svio__vd_irq_show_enabled(dev, SVIO_VFU_IRQ_MSIX);
	svio__vd_cfg_apply(dev);
	return 0;
}

static int load_bar(struct svio_vdev *dev, const uint8_t *data, uint64_t len)
{
	struct bar_page p;
	uint64_t off;
	uint32_t bar;

	if (len != sizeof(p))
		return -EINVAL;
	memcpy(&p, data, sizeof(p));
	bar = svio_le32_to_cpu(p.bar);
	off = svio_le64_to_cpu(p.offset);
	if (bar >= VD_NUM_BARS || (off & (VD_PAGE - 1)) || off >= dev->bar[bar].mem_size ||
	    !svio__vd_bar_in_area(&dev->bar[bar], off, VD_PAGE))
		return svio_fail(EINVAL, "%s: the saved device has other shared areas",
				 dev->model->name);
	memcpy(dev->bar[bar].mem + off, p.data, VD_PAGE);
	return 0;
}

static int load_irq(struct svio_vdev *dev, const uint8_t *data, uint64_t len)
{
	struct vd_irqs *irq = &dev->irq;
	uint32_t n = irq->idx[SVIO_VFU_IRQ_MSIX].count;
	struct irq_state s;

	if (len != sizeof(s) + n * 16ull)
		return -EINVAL;
	memcpy(&s, data, sizeof(s));
	if (svio_le32_to_cpu(s.vectors) != n || svio_le32_to_cpu(s.level) > 1)
		return -EINVAL;
	irq->level = svio_le32_to_cpu(s.level);
	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(irq->pending); i++)
		irq->pending[i] = svio_le64_to_cpu(s.pending[i]);
	if (n)
		memcpy(irq->table, data + sizeof(s), n * (size_t)16);
	for (uint32_t v = 0; v < n; v++)
		irq->table[v * 16 + 12] = irq->idx[SVIO_VFU_IRQ_MSIX].fds[v] < 0;
	return 0;
}

static int apply(struct svio_vdev *dev)
{
	const uint8_t *p = dev->mig.buf.data;
	bool config = false, irq = false, model = false;
	size_t left = dev->mig.parse;
	int err = 0;

	if (dev->mig.buf.err || !dev->mig.have_end)
		return svio_fail(EINVAL, "%s: device state is not complete", dev->model->name);
	svio__vd_bars_zero(dev);
	while (left && !err) { /* consume() has checked that the sections tile the buffer */
		struct section_hdr h;
		const uint8_t *data = p + sizeof(h);
		uint32_t version;
		uint64_t len;

		memcpy(&h, p, sizeof(h));
		len = svio_le64_to_cpu(h.len);
		version = svio_le32_to_cpu(h.version);
		p += sizeof(h) + len;
		left -= sizeof(h) + len;
		switch (svio_le32_to_cpu(h.type)) {
		case SEC_CONFIG:
			err = version != 1 || config ? -EINVAL : load_config(dev, data, len);
			config = true;
			break;
		case SEC_BAR:
			err = version != 1 || !config ? -EINVAL : load_bar(dev, data, len);
			break;
		case SEC_IRQ:
			err = version != 1 || !config || irq ? -EINVAL : load_irq(dev, data, len);
			irq = true;
			break;
		case SEC_MODEL:
			if (!irq || model || version > dev->model->state_version ||
			    len > state_max(dev))
				err = svio_fail(
					EINVAL, "%s: state of version %u, this model knows %u",
					dev->model->name, version, dev->model->state_version);
			else
				err = dev->model->load(dev, version, data, len);
			model = true;
			break;
		default:
			err = -EINVAL;
		}
	}
	return err ? err : model ? 0 : -EINVAL;
}

/* ---- the state machine ---------------------------------------------------------------------- */

enum {
	ST_STOP = SVIO_VFU_STATE_STOP,
	ST_RUN = SVIO_VFU_STATE_RUNNING,
	ST_COPY = SVIO_VFU_STATE_STOP_COPY,
	ST_RES = SVIO_VFU_STATE_RESUMING,
	ST_PRE = SVIO_VFU_STATE_PRE_COPY
};

/* The first step of the shortest path that has no saving state in its middle; 0 = there is none. */
static uint32_t next_state(uint32_t from, uint32_t to)
{
	switch (from) {
	case ST_RUN:
		return to == ST_PRE ? ST_PRE : ST_STOP;
	case ST_STOP:
		return to == ST_PRE ? ST_RUN : to;
	case ST_COPY:
		return to == ST_PRE ? 0 : ST_STOP;
	case ST_RES:
		return ST_STOP;
	case ST_PRE:
		return to == ST_COPY ? ST_COPY : ST_RUN;
	default:
		return 0; /* ERROR: only a reset leads out */
	}
}

static int stop(struct svio_vdev *dev)
{
	dev->mig.stopping = true;
	if (svio__vd_quiesce(dev, SVIO_VDEV_Q_STOP, 0, UINT64_MAX))
		return -EINPROGRESS;
	dev->mig.stopping = false;
	return 0;
}

static void start(struct svio_vdev *dev)
{
	if (dev->model->resume)
		dev->model->resume(dev);
	svio__vd_irq_flush(dev);
}

static int arc(struct svio_vdev *dev, uint32_t to)
{
	struct vd_mig *mig = &dev->mig;
	uint32_t from = mig->state;
	int err = 0;

	switch (from << 4 | to) {
	case ST_RUN << 4 | ST_STOP:
		err = stop(dev);
		break;
	case ST_PRE << 4 | ST_COPY:
		err = stop(dev);
		if (!err) {
			err = put_final(dev);
			if (err)
				start(dev);
		}
		break;
	case ST_STOP << 4 | ST_RUN:
		mig->state = to;
		start(dev);
		break;
	case ST_STOP << 4 | ST_COPY:
		err = session_start_save(dev);
		if (!err)
			err = put_final(dev);
		if (err)
			session_end(dev);
		break;
	case ST_RUN << 4 | ST_PRE:
		err = session_start_save(dev);
		mig->precopy_due = true;
		break;
	case ST_STOP << 4 | ST_RES:
		session_end(dev);
		mig->buf.max = stream_max(dev);
		break;
	case ST_RES << 4 | ST_STOP:
		err = apply(dev);
		session_end(dev);
		if (err) {
			mig->state = SVIO_VFU_STATE_ERROR;
			return err;
		}
		break;
	case ST_COPY << 4 | ST_STOP:
	case ST_PRE << 4 | ST_RUN:
		session_end(dev);
		break;
	default:
		return -EINVAL;
	}
	if (!err)
		mig->state = to;
	return err;
}

int svio__vd_mig_set(struct svio_vdev *dev, uint32_t state)
{
	if (state != ST_STOP && state != ST_RUN && state != ST_COPY && state != ST_RES &&
	    state != ST_PRE)
		return -EINVAL;
	if (dev->mig.state == SVIO_VFU_STATE_ERROR)
		return -EINVAL;
	while (dev->mig.state != state) {
		uint32_t next = next_state(dev->mig.state, state);
		int err = next ? arc(dev, next) : -EINVAL;

		if (err)
			return err;
	}
	return 0;
}

void svio__vd_mig_abort(struct svio_vdev *dev)
{
	if (!dev->mig.stopping)
		return;
	dev->mig.stopping = false;
	start(dev);
}

void svio__vd_mig_reset(struct svio_vdev *dev)
{
	session_end(dev);
	dev->mig.stopping = false;
	dev->mig.state = ST_RUN;
}
