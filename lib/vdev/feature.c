/* SPDX-License-Identifier: BSD-3-Clause */
/* VFIO_USER_DEVICE_FEATURE: migration, the dirty log and, in iommu.c, PASIDs ([Device Features]; <linux/vfio.h>). */
#include <stdlib.h>
#include <string.h>
#include "vdev_priv.h"

#define MAX_BITMAP (32u << 20) /* bytes of a dirty report */

static uint32_t supported(const struct svio_vdev *dev, uint32_t index)
{
	switch (index) {
	case SVIO_VFU_FEATURE_MIGRATION:
		return dev->model->save && dev->model->load ? SVIO_VFU_FEATURE_GET : 0;
	case SVIO_VFU_FEATURE_MIG_DEVICE_STATE:
		return dev->model->save && dev->model->load
			       ? SVIO_VFU_FEATURE_GET | SVIO_VFU_FEATURE_SET
			       : 0;
	case SVIO_VFU_FEATURE_DMA_LOGGING_START:
	case SVIO_VFU_FEATURE_DMA_LOGGING_STOP:
		return SVIO_VFU_FEATURE_SET;
	case SVIO_VFU_FEATURE_DMA_LOGGING_REPORT:
		return SVIO_VFU_FEATURE_GET;
	default:
		return svio__vd_iommu_feature_ops(dev, index);
	}
}

int svio__vd_answer(const struct svio_vfu_feature *req, struct vd_reply *r, const void *data, size_t len, void *more,
		    size_t more_len)
{
	struct svio_vfu_feature f = { .flags = req->flags };

	f.argsz = (uint32_t)(sizeof(f) + len + more_len);
	memcpy(r->head, &f, sizeof(f));
	r->head_len = sizeof(f);
	if (f.argsz > req->argsz) { /* [Message sizes]: the client asks again with more room */
		free(more);
		return 0;
	}
	if (len)
		memcpy(r->head + sizeof(f), data, len);
	r->head_len += len;
	r->data = more;
	r->data_len = more_len;
	return 0;
}

static int logging_start(struct svio_vdev *dev, const struct svio_vfu_feature *req, uint8_t *data,
			 uint32_t len, struct vd_reply *r)
{
	struct svio_vfu_dma_log_start *s = (void *)data;
	size_t ranges;
	void *copy = NULL;
	int err;

	if (len < sizeof(*s))
		return -EINVAL;
	ranges = (size_t)s->num_ranges * sizeof(struct svio_vfu_dma_log_range);
	if (len - sizeof(*s) < ranges)
		return -EINVAL;
	if (ranges) {
		copy = malloc(ranges);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, s->ranges, ranges);
	}
	err = svio__vd_dirty_start(dev, s);
	if (err) {
		free(copy);
		return err;
	}
	return svio__vd_answer(req, r, s, sizeof(*s), copy, ranges);
}

static int logging_report(struct svio_vdev *dev, const struct svio_vfu_feature *req,
			  const uint8_t *data, uint32_t len, struct vd_reply *r)
{
	struct svio_vfu_dma_log_report q;
	uint64_t *bitmap, pages;
	size_t bytes;
	int err;

	if (len < sizeof(q))
		return -EINVAL;
	memcpy(&q, data, sizeof(q));
	if (!q.length || !q.page_size || (q.page_size & (q.page_size - 1)) ||
	    q.iova + q.length - 1 < q.iova || !dev->as0.dirty)
		return -EINVAL;
	pages = (q.length - 1) / q.page_size + 1;
	if (pages > MAX_BITMAP * UINT64_C(8))
		return -E2BIG;
	bytes = (size_t)(SVIO_BITMAP_WORDS(pages) * 8);
	/* Reporting clears: do not, if the client has no room for it. */
	if (req->argsz < sizeof(*req) + sizeof(q) + bytes)
		return svio__vd_answer(req, r, &q, sizeof(q), NULL, bytes);
	bitmap = calloc(1, bytes);
	if (!bitmap)
		return -ENOMEM;
	err = svio__vd_dirty_report(dev, &q, bitmap);
	if (err) {
		free(bitmap);
		return err;
	}
	return svio__vd_answer(req, r, &q, sizeof(q), bitmap, bytes);
}

static int mig_state(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data,
		     uint32_t len, struct vd_reply *r)
{
	struct svio_vfu_mig_state_data s = { .data_fd = UINT32_MAX };
	int err;

	if (req->flags & SVIO_VFU_FEATURE_SET) {
		if (len < sizeof(s))
			return -EINVAL;
		memcpy(&s, data, sizeof(s));
		err = svio__vd_mig_set(dev, s.device_state);
		if (err)
			return err;
	}
	s.device_state = dev->mig.state;
	s.data_fd = UINT32_MAX;
	return svio__vd_answer(req, r, &s, sizeof(s), NULL, 0);
}

int svio__vd_feature(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r)
{
	const uint32_t ops = SVIO_VFU_FEATURE_GET | SVIO_VFU_FEATURE_SET;
	struct svio_vfu_migration mig = { .flags = SVIO_VFU_MIG_STOP_COPY | SVIO_VFU_MIG_PRE_COPY };
	uint8_t *data = m->data + sizeof(struct svio_vfu_feature);
	struct svio_vfu_feature req;
	uint32_t len, index, can;

	if (m->len < sizeof(req))
		return -EINVAL;
	memcpy(&req, m->data, sizeof(req));
	len = m->len - (uint32_t)sizeof(req);
	index = req.flags & SVIO_VFU_FEATURE_MASK;
	if (req.argsz < sizeof(req) ||
	    (req.flags & ~(SVIO_VFU_FEATURE_MASK | ops | SVIO_VFU_FEATURE_PROBE)))
		return -EINVAL;
	can = supported(dev, index);
	if (!can)
		return -ENOTTY;
	if ((req.flags & ops) & ~can)
		return -EINVAL;
	if (req.flags & SVIO_VFU_FEATURE_PROBE) {
		memcpy(r->head, &req, sizeof(req));
		r->head_len = sizeof(req);
		return 0;
	}
	if ((req.flags & ops) == 0 || (req.flags & ops) == ops)
		return -EINVAL;
	switch (index) {
	case SVIO_VFU_FEATURE_MIGRATION:
		return svio__vd_answer(&req, r, &mig, sizeof(mig), NULL, 0);
	case SVIO_VFU_FEATURE_MIG_DEVICE_STATE:
		return mig_state(dev, &req, data, len, r);
	case SVIO_VFU_FEATURE_DMA_LOGGING_START:
		return logging_start(dev, &req, data, len, r);
	case SVIO_VFU_FEATURE_DMA_LOGGING_STOP:
		svio__vd_dirty_stop(dev);
		return svio__vd_answer(&req, r, NULL, 0, NULL, 0);
	case SVIO_VFU_FEATURE_DMA_LOGGING_REPORT:
		return logging_report(dev, &req, data, len, r);
	default:
		return svio__vd_iommu_feature(dev, &req, data, len, r);
	}
}
