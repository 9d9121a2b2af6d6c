/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One function per vfio-user command. Each checks its request's length against its structure, then
 * values; it returns 0 with the reply filled in, -errno for an error reply, or -EINPROGRESS to be
 * called again later (the model's DMA has to end first).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <json-c/json.h>
#include "vdev_priv.h"

/* QEMU's buffer for the reply is as long as its request; it desynchronises on a longer one. */
#define MAX_VERSION_REPLY 214u

static int reply_head(struct vd_reply *r, const void *data, size_t len)
{
	memcpy(r->head, data, len);
	r->head_len = len;
	return 0;
}

/* ---- version -------------------------------------------------------------------------------- */

struct caps {
	bool fds, xfer, maps, pgsizes;
	int64_t max_fds, max_xfer;
};

static int number(struct json_object *caps, const char *key, int64_t min, int64_t *value,
		  bool *present)
{
	struct json_object *v;

	*present = json_object_object_get_ex(caps, key, &v);
	if (!*present)
		return 0;
	if (!json_object_is_type(v, json_type_int))
		return -EINVAL;
	*value = json_object_get_int64(v);
	return *value < min ? -EINVAL : 0;
}

static int parse_caps(const char *text, size_t len, struct caps *c)
{
	struct json_tokener *tok;
	struct json_object *root, *caps;
	int64_t ignored;
	int err = -EINVAL;

	if (!len || text[len - 1] != '\0' || memchr(text, 0, len) != text + len - 1)
		return -EINVAL;
	if (len > INT32_MAX)
		return -EINVAL;
	tok = json_tokener_new_ex(8);
	if (!tok)
		return -ENOMEM;
	root = json_tokener_parse_ex(tok, text, (int)len);
	if (root && json_tokener_get_error(tok) == json_tokener_success &&
	    json_object_is_type(root, json_type_object)) {
		err = 0;
		if (json_object_object_get_ex(root, "capabilities", &caps)) {
			if (!json_object_is_type(caps, json_type_object))
				err = -EINVAL;
			if (!err)
				err = number(caps, "max_msg_fds", 0, &c->max_fds, &c->fds);
			if (!err)
				err = number(caps, "max_data_xfer_size", 1, &c->max_xfer, &c->xfer);
			if (!err)
				err = number(caps, "max_dma_maps", 1, &ignored, &c->maps);
			if (!err)
				err = number(caps, "pgsizes", 1, &ignored, &c->pgsizes);
		}
	}
	json_object_put(root);
	json_tokener_free(tok);
	return err;
}

/* Capabilities of ours, of those that the client named. 0 bytes when they would not fit. */
static size_t write_caps(const struct caps *c, uint32_t max_fds, size_t room, char *text,
			 size_t size)
{
	size_t n = 0;

	n += (size_t)snprintf(text + n, size - n, "{\"capabilities\":{");
	if (c->fds)
		n += (size_t)snprintf(text + n, size - n, "\"max_msg_fds\":%u,", max_fds);
	if (c->xfer)
		n += (size_t)snprintf(text + n, size - n, "\"max_data_xfer_size\":%u,",
				      VD_MAX_XFER);
	if (c->maps)
		n += (size_t)snprintf(text + n, size - n, "\"max_dma_maps\":%d,",
				      SVIO_VFU_DEF_MAX_DMA_MAPS);
	if (c->pgsizes)
		n += (size_t)snprintf(text + n, size - n, "\"pgsizes\":%d,", SVIO_VFU_DEF_PGSIZES);
	if (text[n - 1] == ',')
		n--;
	n += (size_t)snprintf(text + n, size - n, "}}");
	if (n + 1 > room)
		n = (size_t)snprintf(text, size, "{}");
	return n + 1 <= room ? n + 1 : 0;
}

static int do_version(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct vd_conn *c = &dev->conn;
	struct svio_vfu_version v;
	struct caps caps = { 0 };
	char text[256];
	size_t n, room;
	int err;

	if (c->versioned)
		return -EINVAL;
	r->close_after = true; /* cleared when we agree */
	if (m->len < sizeof(v))
		return -EINVAL;
	memcpy(&v, m->data, sizeof(v));
	if (v.major != SVIO_VFU_MAJOR)
		return -EINVAL;
	c->max_fds = SVIO_VFU_DEF_MSG_FDS;
	c->max_xfer = SVIO_VFU_DEF_MAX_XFER;
	if (m->len > sizeof(v)) { /* SPDK's client sends no JSON */
		err = parse_caps((const char *)m->data + sizeof(v), m->len - sizeof(v), &caps);
		if (err)
			return err;
		if (caps.fds)
			c->max_fds = (uint32_t)SVIO_MIN(caps.max_fds, (int64_t)VD_MAX_FDS);
		if (caps.xfer)
			c->max_xfer = (uint32_t)SVIO_MIN(caps.max_xfer, (int64_t)VD_MAX_XFER);
	}
	v.minor = SVIO_MIN(v.minor, (uint16_t)SVIO_VFU_MINOR);
	reply_head(r, &v, sizeof(v));
	room = SVIO_MIN(m->len, MAX_VERSION_REPLY - (uint32_t)sizeof(struct svio_vfu_hdr)) -
	       sizeof(v);
	n = m->len > sizeof(v)
		    ? write_caps(&caps, SVIO_MAX(c->max_fds, 1u), room, text, sizeof(text))
		    : 0;
	if (n) {
		r->data = malloc(n);
		if (!r->data)
			return -ENOMEM;
		memcpy(r->data, text, n);
		r->data_len = n;
	}
	r->close_after = false;
	c->versioned = true;
	if (dev->model->connection)
		dev->model->connection(dev, true);
	return 0;
}

/* ---- DMA map -------------------------------------------------------------------------------- */

static int do_dma_map(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_dma_map req;
	int fd = -1, err;

	(void)r;
	if (m->len < sizeof(req) || m->nfds > 1)
		return -EINVAL;
	memcpy(&req, m->data, sizeof(req));
	if (req.argsz < sizeof(req))
		return -EINVAL;
	if (m->nfds)
		fd = m->fds[0];
	err = svio__vd_dma_map(dev, &req, &fd);
	if (m->nfds)
		m->fds[0] = fd; /* -1 when it was kept */
	return err;
}

static int do_dma_unmap(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_dma_unmap req;
	int err;

	if (m->len < sizeof(req))
		return -EINVAL;
	memcpy(&req, m->data, sizeof(req));
	if (req.argsz < sizeof(req) || req.flags)
		return -EINVAL;
	err = svio__vd_dma_unmap(dev, req.iova, req.size);
	if (!err)
		reply_head(r, &req, sizeof(req));
	return err;
}

/* ---- what the device is --------------------------------------------------------------------- */

static int do_get_info(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_device_info info;

	(void)dev;
	if (m->len < sizeof(info))
		return -EINVAL;
	memcpy(&info, m->data, sizeof(info));
	if (info.argsz < sizeof(info))
		return -EINVAL;
	info.argsz = sizeof(info);
	info.flags = SVIO_VFU_DEV_F_PCI | SVIO_VFU_DEV_F_RESET;
	info.num_regions = SVIO_VFU_NUM_REGIONS;
	info.num_irqs = SVIO_VFU_NUM_IRQS;
	return reply_head(r, &info, sizeof(info));
}

/* SPDK's request is 4,064 bytes of which only the structure counts. */
static int do_region_info(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_region_info info;
	const struct vd_bar *bar = NULL;
	uint32_t argsz, need = sizeof(info), index;

	if (m->len < sizeof(info))
		return -EINVAL;
	memcpy(&info, m->data, sizeof(info));
	argsz = info.argsz;
	index = info.index;
	if (argsz < sizeof(info) || index >= SVIO_VFU_NUM_REGIONS)
		return -EINVAL;
	info = (struct svio_vfu_region_info){ .index = index };
	if (index == SVIO_VFU_REGION_CONFIG)
		info.size = dev->cfg_size;
	else if (index < VD_NUM_BARS)
		bar = &dev->bar[index];
	if (bar)
		info.size = bar->size;
	if (info.size)
		info.flags = SVIO_VFU_REGION_F_READ | SVIO_VFU_REGION_F_WRITE;
	if (bar && bar->fd >= 0) {
		info.flags |= SVIO_VFU_REGION_F_MMAP;
		need += (uint32_t)(sizeof(struct svio_vfu_cap_sparse) +
				   bar->num_areas * sizeof(struct svio_vfu_sparse_area));
		if (argsz >= need) {
			struct svio_vfu_cap_sparse *cap = calloc(1, need - sizeof(info));

			if (!cap)
				return -ENOMEM;
			cap->hdr.id = SVIO_VFU_CAP_SPARSE_MMAP;
			cap->hdr.version = 1;
			cap->num_areas = bar->num_areas;
			for (unsigned int i = 0; i < bar->num_areas; i++) {
				cap->areas[i].offset = bar->areas[i].offset;
				cap->areas[i].size = bar->areas[i].size;
			}
			info.flags |= SVIO_VFU_REGION_F_CAPS;
			info.cap_offset = sizeof(info);
			r->data = cap;
			r->data_len = need - sizeof(info);
			r->fd = bar->fd;
		}
	}
	info.argsz = need;
	return reply_head(r, &info, sizeof(info));
}

static int do_region_io_fds(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_region_io_fds io;

	(void)dev;
	if (m->len < sizeof(io))
		return -EINVAL;
	memcpy(&io, m->data, sizeof(io));
	if (io.argsz < sizeof(io) || io.flags || io.count || io.index >= SVIO_VFU_NUM_REGIONS)
		return -EINVAL;
	io.argsz = sizeof(io); /* none: doorbells are shared memory */
	return reply_head(r, &io, sizeof(io));
}

static int do_irq_info(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_irq_info info;

	if (m->len < sizeof(info))
		return -EINVAL;
	memcpy(&info, m->data, sizeof(info));
	if (info.argsz < sizeof(info) || info.index >= SVIO_VFU_NUM_IRQS)
		return -EINVAL;
	info.argsz = sizeof(info);
	info.flags = svio__vd_irq_flags(dev, info.index);
	info.count = dev->irq.idx[info.index].count;
	return reply_head(r, &info, sizeof(info));
}

static int do_set_irqs(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_irq_set set;

	(void)r;
	if (m->len < sizeof(set))
		return -EINVAL;
	memcpy(&set, m->data, sizeof(set));
	if ((set.flags & SVIO_VFU_IRQ_DATA_BOOL) && m->len - sizeof(set) < set.count)
		return -EINVAL;
	return svio__vd_irq_set(dev, &set, m->data + sizeof(set), m->fds, m->nfds);
}

/* ---- access --------------------------------------------------------------------------------- */

static int do_region_read(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_region_rw rw;
	int err;

	if (m->len < sizeof(rw))
		return -EINVAL;
	memcpy(&rw, m->data, sizeof(rw));
	if (!rw.count || rw.count > dev->conn.max_xfer)
		return -EINVAL;
	reply_head(r, &rw, sizeof(rw));
	dev->stats.region_reads++;
	if (rw.count <= sizeof(r->head) - sizeof(rw)) {
		err = svio__vd_region_read(dev, rw.region, rw.offset, r->head + sizeof(rw),
					   rw.count);
		r->head_len += rw.count;
		return err;
	}
	r->data = calloc(1, rw.count);
	if (!r->data)
		return -ENOMEM;
	r->data_len = rw.count;
	return svio__vd_region_read(dev, rw.region, rw.offset, r->data, rw.count);
}

/* A write to configuration space may have begun a function level reset. */
static int finish_flr(struct svio_vdev *dev)
{
	return dev->flr_due ? svio__vd_reset(dev, SVIO_VDEV_RESET_FLR) : 0;
}

static int do_region_write(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_region_rw rw;
	int err;

	if (m->len < sizeof(rw))
		return -EINVAL;
	memcpy(&rw, m->data, sizeof(rw));
	if (rw.count > m->len - sizeof(rw))
		return -EINVAL;
	if (m->stage == 0) {
		m->stage = 1; /* once, even if the reset that it begins takes several rounds */
		dev->stats.region_writes++;
		err = svio__vd_region_write(dev, rw.region, rw.offset, m->data + sizeof(rw),
					    rw.count);
		if (err)
			return err;
	}
	err = finish_flr(dev);
	return err ? err : reply_head(r, &rw, sizeof(rw));
}

static int do_write_multi(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_write_multi multi;
	struct svio_vfu_write_multi_entry e;
	int err;

	if (m->len < sizeof(multi))
		return -EINVAL;
	memcpy(&multi, m->data, sizeof(multi));
	if (!multi.count || multi.count > (m->len - sizeof(multi)) / sizeof(e))
		return -EINVAL;
	for (uint64_t i = 0; i < multi.count; i++) { /* all of them or none */
		memcpy(&e, m->data + sizeof(multi) + i * sizeof(e), sizeof(e));
		if (!e.count || e.count > sizeof(e.data))
			return -EINVAL;
	}
	/* stage counts the writes that are done. */
	while (m->stage < multi.count) {
		err = finish_flr(dev);
		if (err)
			return err;
		memcpy(&e, m->data + sizeof(multi) + m->stage * sizeof(e), sizeof(e));
		m->stage++;
		dev->stats.region_writes++;
		err = svio__vd_region_write(dev, e.region, e.offset, e.data, e.count);
		if (err)
			return err;
	}
	err = finish_flr(dev);
	return err ? err : reply_head(r, &multi, sizeof(multi));
}

static int do_reset(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	(void)m;
	(void)r;
	return svio__vd_reset(dev, SVIO_VDEV_RESET_MESSAGE);
}

/* ---- migration data ------------------------------------------------------------------------- */

static int do_mig_read(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_mig_data d;
	size_t got = 0;
	int err;

	if (m->len < sizeof(d))
		return -EINVAL;
	memcpy(&d, m->data, sizeof(d));
	if (d.argsz < sizeof(d) || d.size > d.argsz - sizeof(d) || d.size > VD_MAX_XFER)
		return -EINVAL;
	r->data = malloc(d.size ? d.size : 1);
	if (!r->data)
		return -ENOMEM;
	err = svio__vd_mig_read(dev, r->data, d.size, &got);
	if (err)
		return err;
	r->data_len = got;
	d.size = (uint32_t)got;
	d.argsz = (uint32_t)(sizeof(d) + got);
	return reply_head(r, &d, sizeof(d));
}

static int do_mig_write(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	struct svio_vfu_mig_data d;

	(void)r;
	if (m->len < sizeof(d))
		return -EINVAL;
	memcpy(&d, m->data, sizeof(d));
	if (d.size > m->len - sizeof(d))
		return -EINVAL;
	return svio__vd_mig_write(dev, m->data + sizeof(d), d.size);
}

/* ---- dispatch ------------------------------------------------------------------------------- */

typedef int (*handler)(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r);

static const handler handlers[SVIO_VFU_CMD_MAX + 1] = {
	[SVIO_VFU_VERSION] = do_version,
	[SVIO_VFU_DMA_MAP] = do_dma_map,
	[SVIO_VFU_DMA_UNMAP] = do_dma_unmap,
	[SVIO_VFU_GET_INFO] = do_get_info,
	[SVIO_VFU_GET_REGION_INFO] = do_region_info,
	[SVIO_VFU_GET_REGION_IO_FDS] = do_region_io_fds,
	[SVIO_VFU_GET_IRQ_INFO] = do_irq_info,
	[SVIO_VFU_SET_IRQS] = do_set_irqs,
	[SVIO_VFU_REGION_READ] = do_region_read,
	[SVIO_VFU_REGION_WRITE] = do_region_write,
	[SVIO_VFU_DEVICE_RESET] = do_reset,
	/* DIRTY_PAGES is gone from the specification: device features replace it. */
	[SVIO_VFU_REGION_WRITE_MULTI] = do_write_multi,
	[SVIO_VFU_DEVICE_FEATURE] = svio__vd_feature,
	[SVIO_VFU_MIG_DATA_READ] = do_mig_read,
	[SVIO_VFU_MIG_DATA_WRITE] = do_mig_write,
};

int svio__vd_handle(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	if (!dev->conn.versioned && m->hdr.cmd != SVIO_VFU_VERSION) {
		r->close_after = true;
		return -EPROTO;
	}
	if (m->hdr.cmd == SVIO_VFU_DIRTY_PAGES)
		return -EINVAL;
	if (m->hdr.cmd > SVIO_VFU_CMD_MAX || !handlers[m->hdr.cmd])
		return -EOPNOTSUPP;
	return handlers[m->hdr.cmd](dev, m, r);
}
