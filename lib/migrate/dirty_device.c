/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The log that a device keeps (VFIO_DEVICE_FEATURE_DMA_LOGGING_*, <linux/vfio.h>; over vfio-user the same, where zero ranges mean the whole
 * address space). It is asked for everything at once where that is possible, so that it never needs to be widened; else
 * for what is mapped.
 */
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include "dirty_priv.h"

#define REPORT_PAGES (UINT64_C(1) << 20) /* of one request: 4 GiB */

void svio__dirty_runs(const uint64_t *bits, uint64_t nbits, uint64_t start, uint64_t page, dirty_emit emit, void *ctx)
{
	uint64_t a = svio_bitmap_next_set(bits, nbits, 0), b;

	for (; a < nbits; a = svio_bitmap_next_set(bits, nbits, b)) {
		b = svio_bitmap_next_clear(bits, nbits, a);
		emit(ctx, start + a * page, (b - a) * page);
	}
}

static int log_start(struct svio_device *dev, const struct dirty_span *v, size_t n)
{
	struct vfio_device_feature_dma_logging_range *ranges = NULL;
	struct vfio_device_feature_dma_logging_control c = { .page_size = SVIO_DIRTY_PAGE, .num_ranges = (uint32_t)n };
	int rc;

	if (n > UINT32_MAX)
		return svio_fail(E2BIG, "%s: %zu ranges are too many to log", svio_device_name(dev), n);
	if (n) {
		ranges = calloc(n, sizeof(*ranges));
		if (!ranges)
			return svio_fail(ENOMEM, "%s: no memory for %zu ranges to log", svio_device_name(dev), n);
		for (size_t i = 0; i < n; i++)
			ranges[i] = (struct vfio_device_feature_dma_logging_range){ .iova = v[i].va, .length = v[i].len };
		c.ranges = (uintptr_t)ranges;
	}
	rc = svio_device_feature(dev, SVIO_FEATURE_SET, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &c, sizeof(c));
	free(ranges);
	return rc;
}

/* Neighbouring mappings are one range. */
static int merge(const struct dirty_segs *by_iova, struct dirty_ranges *r)
{
	r->v = calloc(by_iova->n + 1, sizeof(*r->v));
	if (!r->v)
		return svio_fail(ENOMEM, "no memory for %zu ranges to log", by_iova->n);
	r->n = 0;
	for (size_t i = 0; i < by_iova->n; i++) {
		const struct dirty_seg *s = &by_iova->v[i];

		if (r->n && r->v[r->n - 1].va + r->v[r->n - 1].len == s->iova)
			r->v[r->n - 1].len += s->len;
		else
			r->v[r->n++] = (struct dirty_span){ s->iova, s->len };
	}
	return 0;
}

int svio__dirty_device_start(struct svio_device *dev, const struct dirty_segs *by_iova, struct dirty_ranges *ranges)
{
	struct svio_device_info info;
	int rc;

	*ranges = (struct dirty_ranges){ 0 };
	rc = svio_device_feature(dev, SVIO_FEATURE_PROBE, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, NULL, 0);
	if (rc)
		return rc;
	svio_device_get_info(dev, &info);
	if (info.transport == SVIO_TRANSPORT_USER && log_start(dev, NULL, 0) == 0) {
		ranges->all = true;
		return 0;
	}
	rc = merge(by_iova, ranges);
	if (rc == 0 && ranges->n == 0)
		rc = svio_fail(ENOTTY, "%s: its log takes no range that is not mapped yet", svio_device_name(dev));
	if (rc == 0)
		rc = log_start(dev, ranges->v, ranges->n);
	if (rc) {
		free(ranges->v);
		ranges->v = NULL;
	}
	return rc;
}

void svio__dirty_device_stop(struct svio_device *dev, struct dirty_ranges *ranges)
{
	int rc = svio_device_feature(dev, SVIO_FEATURE_SET, VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0);

	if (rc && rc != -ENODEV)
		svio_log_warn("%s; its log goes on until it is closed", svio_last_error());
	free(ranges->v);
	*ranges = (struct dirty_ranges){ 0 };
}

bool svio__dirty_device_covers(const struct dirty_ranges *ranges, uint64_t iova, uint64_t len)
{
	for (size_t i = 0; i < ranges->n; i++)
		if (iova >= ranges->v[i].va && iova - ranges->v[i].va <= ranges->v[i].len &&
		    len <= ranges->v[i].len - (iova - ranges->v[i].va))
			return true;
	return ranges->all;
}

int svio__dirty_device_report(struct svio_device *dev, uint64_t iova, uint64_t len, dirty_emit emit, void *ctx)
{
	static uint64_t bits[REPORT_PAGES / 64]; /* under the lock */
	uint64_t end = iova + len;

	while (iova < end) {
		struct vfio_device_feature_dma_logging_report r = {
			.iova = iova,
			.length = SVIO_MIN(end - iova, REPORT_PAGES * SVIO_DIRTY_PAGE),
			.page_size = SVIO_DIRTY_PAGE,
			.bitmap = (uintptr_t)bits,
		};
		uint64_t pages = r.length / SVIO_DIRTY_PAGE;
		int rc;

		memset(bits, 0, SVIO_BITMAP_WORDS(pages) * sizeof(bits[0]));
		rc = svio_device_feature(dev, SVIO_FEATURE_GET, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &r, sizeof(r));
		/* Also after a failure: what was reported is cleared in the device. */
		svio__dirty_runs(bits, pages, iova, SVIO_DIRTY_PAGE, emit, ctx);
		if (rc)
			return rc;
		iova += r.length;
	}
	return 0;
}
