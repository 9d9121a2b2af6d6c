/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dirty log (VFIO DMA_LOGGING): which pages the device has written through shared memory or
 * file I/O. What it writes by DMA_WRITE messages the client sees, and tracks, itself.
 *
 * One bit a page, in chunks of 4 KiB found by hash. Chunks for everything mapped are made when
 * logging starts and when a mapping is added, so that marking allocates nothing; a bit is set
 * atomically, since a model may mark from threads of its own.
 */
#include <stdlib.h>
#include <string.h>
#include "vdev_priv.h"

#define MAX_RANGES  4096u
#define MAX_CHUNKS  (1u << 18) /* 1 GiB of bitmap, 32 TiB at 4 KiB pages */
#define CHUNK_PAGES (UINT64_C(1) << VD_CHUNK_SHIFT)

static uint32_t hash(uint64_t key)
{
	return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

static struct vd_chunk *find(const struct vd_dirty *d, uint64_t key)
{
	for (uint32_t i = hash(key) & d->mask;; i = (i + 1) & d->mask) {
		if (!d->table[i] || d->table[i]->key == key)
			return d->table[i];
	}
}

static void insert(struct vd_chunk **table, uint32_t mask, struct vd_chunk *c)
{
	uint32_t i = hash(c->key) & mask;

	while (table[i])
		i = (i + 1) & mask;
	table[i] = c;
}

static int reserve(struct vd_dirty *d, uint64_t more)
{
	uint64_t need = d->num + more, size = (uint64_t)d->mask + 1;
	struct vd_chunk **table;

	if (need > MAX_CHUNKS)
		return -ENOSPC;
	if (need * 2 <= size)
		return 0;
	while (need * 2 > size)
		size *= 2;
	table = calloc(size, sizeof(struct vd_chunk *));
	if (!table)
		return -ENOMEM;
	for (uint32_t i = 0; i <= d->mask; i++)
		if (d->table[i])
			insert(table, (uint32_t)size - 1, d->table[i]);
	free(d->table);
	d->table = table;
	d->mask = (uint32_t)size - 1;
	return 0;
}

static int cover(struct vd_dirty *d, uint64_t iova, uint64_t last)
{
	uint64_t from = iova >> d->shift >> VD_CHUNK_SHIFT, to = last >> d->shift >> VD_CHUNK_SHIFT;
	int err;

	if (to - from >= MAX_CHUNKS)
		return -ENOSPC;
	err = reserve(d, to - from + 1);
	if (err)
		return err;
	for (uint64_t key = from; key <= to; key++) {
		struct vd_chunk *c;

		if (find(d, key))
			continue;
		c = calloc(1, sizeof(*c));
		if (!c)
			return -ENOMEM;
		c->key = key;
		insert(d->table, d->mask, c);
		d->num++;
	}
	return 0;
}

/* The parts of [iova, last] that are logged. */
static int cover_logged(struct vd_dirty *d, uint64_t iova, uint64_t last)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < d->num_ranges; i++) {
		uint64_t a = SVIO_MAX(iova, d->ranges[i].iova),
			 b = SVIO_MIN(last, d->ranges[i].last);

		if (a <= b)
			err = cover(d, a, b);
	}
	return err;
}

int svio__vd_dirty_cover(struct svio_vdev *dev, uint64_t iova, uint64_t last)
{
	return cover_logged(dev->as0.dirty, iova, last);
}

static void release(struct vd_dirty *d)
{
	for (uint32_t i = 0; d->table && i <= d->mask; i++)
		free(d->table[i]);
	free(d->table);
	free(d->ranges);
	free(d);
}

/*
 * start->num_ranges ranges follow the structure: the caller has checked the length. The page size
 * chosen is written back.
 */
int svio__vd_dirty_start(struct svio_vdev *dev, struct svio_vfu_dma_log_start *start)
{
	uint64_t page = start->page_size;
	struct vd_dirty *d;
	int err = 0;

	if (dev->as0.dirty)
		return -EBUSY;
	if (start->num_ranges > MAX_RANGES)
		return -E2BIG;
	if (page < VD_PAGE || page > UINT64_C(1) << 30 || (page & (page - 1)))
		page = VD_PAGE;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->shift = (unsigned int)__builtin_ctzll(page);
	d->mask = 63;
	d->table = calloc(64, sizeof(struct vd_chunk *));
	d->num_ranges = start->num_ranges ? start->num_ranges : 1;
	d->ranges = calloc(d->num_ranges, sizeof(*d->ranges));
	if (!d->table || !d->ranges) {
		release(d);
		return -ENOMEM;
	}
	if (!start->num_ranges)
		d->ranges[0].last = UINT64_MAX;
	for (uint32_t i = 0; i < start->num_ranges; i++) {
		struct svio_vfu_dma_log_range r = start->ranges[i];

		d->ranges[i].iova = r.iova;
		d->ranges[i].last = r.iova + r.length - 1;
		if (!r.length || d->ranges[i].last < r.iova)
			err = -EINVAL;
	}
	for (uint32_t i = 0; !err && i < dev->dma.num; i++)
		if (dev->dma.maps[i]->file)
			err = cover_logged(d, dev->dma.maps[i]->iova, dev->dma.maps[i]->last);
	if (err) {
		release(d);
		return err;
	}
	start->page_size = page;
	dev->as0.dirty = d;
	return 0;
}

void svio__vd_dirty_stop(struct svio_vdev *dev)
{
	struct vd_dirty *d = dev->as0.dirty;

	dev->as0.dirty = NULL;
	if (d)
		release(d);
}

void svio_vdev_as_mark_slow(struct svio_vdev_as *as, uint64_t iova, uint64_t len)
{
	const struct vd_dirty *d = as->dirty;
	uint64_t page, end;

	if (as != svio_vdev_as0(as->dev)) {
		svio__vd_space_mark(as, iova, len);
		return;
	}
	if (!len || iova + len - 1 < iova)
		return;
	end = (iova + len - 1) >> d->shift;
	for (page = iova >> d->shift; page <= end; page++) {
		struct vd_chunk *c = find(d, page >> VD_CHUNK_SHIFT);
		uint64_t bit = page & (CHUNK_PAGES - 1);

		/* Most marks repeat: read before writing keeps the line shared. */
		if (c && !svio_bitmap_test(c->bits, bit))
			svio_bitmap_set_atomic(c->bits, bit);
	}
}

/* Set the bits of the report that [a, b] dirties, as far as it is logged. */
static void report_page(const struct vd_dirty *d, const struct svio_vfu_dma_log_report *req,
			unsigned int shift, uint64_t *bitmap, uint64_t a, uint64_t b)
{
	uint64_t last = req->iova + req->length - 1;

	a = SVIO_MAX(a, req->iova);
	b = SVIO_MIN(b, last);
	for (uint32_t i = 0; i < d->num_ranges; i++) {
		uint64_t x = SVIO_MAX(a, d->ranges[i].iova), y = SVIO_MIN(b, d->ranges[i].last);

		if (x > y)
			continue;
		x = (x - req->iova) >> shift;
		y = (y - req->iova) >> shift;
		svio_bitmap_set_range(bitmap, x, y - x + 1);
	}
}

/*
 * Bits of [iova, iova + length) and clear them. bitmap has room for length / page_size bits,
 * rounded up, and is zeroed. A page of the log that the range only touches in part is reported and
 * stays dirty.
 */
int svio__vd_dirty_report(struct svio_vdev *dev, const struct svio_vfu_dma_log_report *req,
			  uint64_t *bitmap)
{
	struct vd_dirty *d = dev->as0.dirty;
	uint64_t last = req->iova + req->length - 1;
	unsigned int shift = (unsigned int)__builtin_ctzll(req->page_size);
	bool ragged;

	if (!d)
		return -EINVAL;
	ragged = (req->iova | (last + 1)) & ((UINT64_C(1) << d->shift) - 1);
	for (uint32_t i = 0; i <= d->mask; i++) {
		struct vd_chunk *c = d->table[i];
		uint64_t first, pages_from = 0, pages_to = CHUNK_PAGES - 1;

		if (!c)
			continue;
		first = c->key << VD_CHUNK_SHIFT;
		if (first + CHUNK_PAGES - 1 < req->iova >> d->shift || first > last >> d->shift)
			continue;
		if (first < req->iova >> d->shift)
			pages_from = (req->iova >> d->shift) - first;
		if (first + CHUNK_PAGES - 1 > last >> d->shift)
			pages_to = (last >> d->shift) - first;
		for (uint64_t w = pages_from / 64; w <= pages_to / 64; w++) {
			uint64_t mask = UINT64_MAX, whole, got;

			if (w == pages_from / 64)
				mask &= UINT64_MAX << (pages_from % 64);
			if (w == pages_to / 64)
				mask &= UINT64_MAX >> (63 - pages_to % 64);
			if (!(__atomic_load_n(&c->bits[w], __ATOMIC_RELAXED) & mask))
				continue;
			/* Pages at the range's ends may stick out of it. */
			whole = mask;
			for (uint64_t b = 0; ragged && b < 64; b++) {
				uint64_t a = (first + w * 64 + b) << d->shift;

				if ((mask >> b & 1) &&
				    (a < req->iova || a + ((UINT64_C(1) << d->shift) - 1) > last))
					whole &= ~(UINT64_C(1) << b);
			}
			got = __atomic_fetch_and(&c->bits[w], ~whole, __ATOMIC_ACQ_REL) & mask;
			for (; got; got &= got - 1) {
				uint64_t a = (first + w * 64 + (uint64_t)__builtin_ctzll(got))
					     << d->shift;

				report_page(d, req, shift, bitmap, a,
					    a + ((UINT64_C(1) << d->shift) - 1));
			}
		}
	}
	return 0;
}
