/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An ioas as sets see it. Room ioas tells of mappings, devices and drivers' logs, under its lock and then ours, so that between two
 * calls of ours nothing changes, and a device that we ask cannot be detached.
 *
 * Coverage of a device changes when a driver comes or goes, or when a source fails. From a source that knows nothing of what was
 * before, nothing can be learnt about it: so everything that the device can write is handed out once to the sets that relied
 * on something else until then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dirty_priv.h"

static struct dirty_as *spaces;
static struct dirty_dom *doms;

/* ---- mappings ---------------------------------------------------------------------------------------- */

static size_t find(const struct dirty_segs *s, uint64_t addr, bool by_iova)
{
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		uint64_t start = by_iova ? s->v[mid].iova : s->v[mid].va;

		/* Last bytes, since a range of IOVAs may end at 2^64 - 1. */
		if (start + (s->v[mid].len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

size_t svio__dirty_find_va(const struct dirty_as *as, uint64_t va)
{
	return find(&as->by_va, va, false);
}

size_t svio__dirty_find_iova(const struct dirty_as *as, uint64_t iova)
{
	return find(&as->by_iova, iova, true);
}

static bool insert(struct dirty_segs *s, const struct dirty_seg *seg, bool by_iova)
{
	size_t at = find(s, by_iova ? seg->iova : seg->va, by_iova);

	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 16;
		struct dirty_seg *v = reallocarray(s->v, cap, sizeof(*v));

		if (!v)
			return false;
		s->v = v;
		s->cap = cap;
	}
	memmove(&s->v[at + 1], &s->v[at], (s->n - at) * sizeof(*s->v));
	s->v[at] = *seg;
	s->n++;
	return true;
}

static void erase(struct dirty_segs *s, const struct dirty_seg *seg, bool by_iova)
{
	size_t at = find(s, by_iova ? seg->iova : seg->va, by_iova);

	if (at == s->n || s->v[at].va != seg->va || s->v[at].iova != seg->iova)
		return; /* there was no memory for it */
	s->n--;
	memmove(&s->v[at], &s->v[at + 1], (s->n - at) * sizeof(*s->v));
}

/* ---- one source of one device -------------------------------------------------------------------------- */

struct found {
	struct dirty_as *as;
	const struct dirty_dev *dev;
	uint32_t source;
};

static void found_iova(void *ctx, uint64_t iova, uint64_t len)
{
	const struct found *f = ctx;

	svio__dirty_written(f->as, f->dev, f->source, iova, len);
}

/* Everything that the device can write, to the sets for which `source` answers. */
static void all_written(struct dirty_as *as, const struct dirty_dev *d, uint32_t source)
{
	for (size_t i = 0; i < as->by_iova.n; i++)
		if (as->by_iova.v[i].writable)
			svio__dirty_written(as, d, source, as->by_iova.v[i].iova, as->by_iova.v[i].len);
}

static void refuse(struct dirty_as *as, struct dirty_dev *d, uint32_t source)
{
	all_written(as, d, source);
	d->refused |= source;
	snprintf(d->why, sizeof(d->why), "%s", svio_last_error());
	svio_log_info("%s: no dirty log: %s", svio_device_name(d->dev), d->why);
}

/* [iova, iova + len) from the device's log. -errno: it does not answer any more. */
static int ask_device(struct dirty_as *as, struct dirty_dev *d, uint64_t iova, uint64_t len)
{
	struct found f = { as, d, SVIO_DIRTY_DEVICE };

	return svio__dirty_device_report(d->dev, iova, len, found_iova, &f);
}

static void domain_unmapped(struct svio_dma_domain *dma, uint64_t iova, uint64_t len, const uint64_t *bitmap, uint64_t page);

static int dom_start(struct dirty_dev *d)
{
	struct svio_dma_domain *dma = svio_device_domain(d->dev);
	struct dirty_dom *dom;
	int rc;

	for (dom = doms; dom && dom->dma != dma; dom = dom->next)
		;
	if (!dom) {
		dom = calloc(1, sizeof(*dom));
		if (!dom)
			return svio_fail(ENOMEM, "%s: no memory for its IOMMU's dirty bitmap", svio_device_name(d->dev));
		dom->dma = dma;
		rc = svio_dma_dirty_start(dma, domain_unmapped);
		if (rc) {
			free(dom);
			return rc;
		}
		svio_dma_domain_get(dma);
		dom->next = doms;
		doms = dom;
	}
	dom->users++;
	d->dom = dom;
	return 0;
}

static void dom_stop(struct dirty_dev *d)
{
	struct dirty_dom *dom = d->dom, **p;

	d->dom = NULL;
	if (--dom->users)
		return;
	for (p = &doms; *p != dom; p = &(*p)->next)
		;
	*p = dom->next;
	svio_dma_dirty_stop(dom->dma);
	svio_dma_domain_put(dom->dma);
	free(dom);
}

static int source_on(struct dirty_as *as, struct dirty_dev *d, uint32_t source)
{
	int rc = 0;

	switch (source) {
	case SVIO_DIRTY_DEVICE:
		rc = svio__dirty_device_start(d->dev, &as->by_iova, &d->ranges);
		break;
	case SVIO_DIRTY_DRIVER:
		d->log->set(d->log->ctx, svio__dirty_table());
		break;
	default:
		rc = dom_start(d);
		break;
	}
	if (rc == 0)
		d->active |= source;
	return rc;
}

static void source_off(struct dirty_dev *d, uint32_t source)
{
	d->active &= ~source;
	switch (source) {
	case SVIO_DIRTY_DEVICE:
		svio__dirty_device_stop(d->dev, &d->ranges);
		break;
	case SVIO_DIRTY_DRIVER:
		d->log->set(d->log->ctx, NULL);
		break;
	default:
		dom_stop(d);
		break;
	}
}

/* ---- coverage ---------------------------------------------------------------------------------------- */

uint32_t svio__dirty_choose(const struct dirty_dev *d, uint32_t sources)
{
	static const uint32_t order[] = { SVIO_DIRTY_DEVICE, SVIO_DIRTY_DRIVER, SVIO_DIRTY_IOMMU };

	sources &= ~d->refused;
	if (!d->log)
		sources &= ~(uint32_t)SVIO_DIRTY_DRIVER;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(order); i++)
		if (sources & order[i])
			return order[i];
	return 0;
}

static void cover(struct dirty_as *as, struct dirty_dev *d)
{
	uint32_t wanted, missing;

	while ((missing = (wanted = svio__dirty_wanted(as, d)) & ~d->active)) {
		uint32_t source = missing & -missing;

		if (source_on(as, d, source))
			refuse(as, d, source);
	}
	for (uint32_t off = d->active & ~wanted; off; off &= off - 1)
		source_off(d, off & -off);
}

void svio__dirty_as_cover(struct dirty_as *as)
{
	for (struct dirty_dev *d = as->devs; d; d = d->next)
		cover(as, d);
}

/* The log failed: nothing is known of what was written since it was asked last. Try once more, else without. */
static void device_failed(struct dirty_as *as, struct dirty_dev *d)
{
	svio_log_warn("%s: its dirty log failed: %s", svio_device_name(d->dev), svio_last_error());
	all_written(as, d, SVIO_DIRTY_DEVICE);
	source_off(d, SVIO_DIRTY_DEVICE);
	as->rearmed++;
	if (source_on(as, d, SVIO_DIRTY_DEVICE)) {
		refuse(as, d, SVIO_DIRTY_DEVICE);
		cover(as, d);
	} else if (ask_device(as, d, as->by_iova.n ? as->by_iova.v[0].iova : 0, SVIO_DIRTY_PAGE)) {
		source_off(d, SVIO_DIRTY_DEVICE);
		refuse(as, d, SVIO_DIRTY_DEVICE);
		cover(as, d);
	}
}

/* The log of one range: neighbouring mappings in one question. */
static int collect_device(struct dirty_as *as, struct dirty_dev *d, uint64_t iova, uint64_t len)
{
	uint64_t last = iova + (len - 1), start = 0, end = 0;
	int rc = 0;

	for (size_t i = svio__dirty_find_iova(as, iova); rc == 0 && i < as->by_iova.n && as->by_iova.v[i].iova <= last; i++) {
		const struct dirty_seg *s = &as->by_iova.v[i];
		uint64_t a = SVIO_MAX(s->iova, iova), b = SVIO_MIN(s->iova + (s->len - 1), last) + 1;

		if (!s->writable)
			continue;
		if (start != end && end == a) {
			end = b;
			continue;
		}
		if (start != end)
			rc = ask_device(as, d, start, end - start);
		start = a;
		end = b;
	}
	return rc || start == end ? rc : ask_device(as, d, start, end - start);
}

static void dom_written(const struct dirty_dom *dom, uint64_t iova, uint64_t len, const uint64_t *bitmap, uint64_t page)
{
	for (struct dirty_as *as = spaces; as; as = as->next)
		for (const struct dirty_dev *d = as->devs; d; d = d->next) {
			struct found f = { as, d, SVIO_DIRTY_IOMMU };

			if (d->dom != dom)
				continue;
			if (bitmap)
				svio__dirty_runs(bitmap, len / page, iova, page, found_iova, &f);
			else
				found_iova(&f, iova, len);
		}
}

/* In svio_dma_unmap(), with the lock of that ioas. */
static void domain_unmapped(struct svio_dma_domain *dma, uint64_t iova, uint64_t len, const uint64_t *bitmap, uint64_t page)
{
	svio__dirty_lock();
	for (const struct dirty_dom *dom = doms; dom; dom = dom->next)
		if (dom->dma == dma)
			dom_written(dom, iova, len, bitmap, page);
	svio__dirty_unlock();
}

/* Whole mappings: Linux answers for nothing less. */
static void collect_dom(struct dirty_as *as, struct dirty_dom *dom, uint64_t iova, uint64_t len)
{
	uint64_t last = iova + (len - 1);

	for (size_t i = svio__dirty_find_iova(as, iova); i < as->by_iova.n && as->by_iova.v[i].iova <= last; i++) {
		const struct dirty_seg *s = &as->by_iova.v[i];
		uint64_t *bits;

		if (!s->writable)
			continue;
		bits = calloc(SVIO_BITMAP_WORDS(s->len / SVIO_DIRTY_PAGE), sizeof(*bits));
		if (bits && svio_dma_dirty_get(dom->dma, s->iova, s->len, SVIO_DIRTY_PAGE, bits) == 0)
			dom_written(dom, s->iova, s->len, bits, SVIO_DIRTY_PAGE);
		else
			dom_written(dom, s->iova, s->len, NULL, 0);
		free(bits);
	}
}

/* The first of those who share it asks. */
static bool asks_dom(const struct dirty_as *as, const struct dirty_dev *d)
{
	const struct dirty_dev *first = as->devs;

	while (first->dom != d->dom)
		first = first->next;
	return d->dom && first == d;
}

void svio__dirty_as_collect(struct dirty_as *as, uint64_t iova, uint64_t len)
{
	uint64_t last = iova + (len - 1);

	for (struct dirty_dev *d = as->devs; d; d = d->next) {
		if ((d->active & SVIO_DIRTY_DEVICE) && collect_device(as, d, iova, len))
			device_failed(as, d);
		if (asks_dom(as, d))
			collect_dom(as, d->dom, iova, len);
		for (size_t i = svio__dirty_find_iova(as, iova); i < as->by_iova.n && as->by_iova.v[i].iova <= last; i++)
			if (as->by_iova.v[i].writable)
				svio__dirty_written(as, d, 0, as->by_iova.v[i].iova, as->by_iova.v[i].len);
	}
}

void svio__dirty_as_touch(struct dirty_as *as)
{
	for (const struct dirty_dev *d = as->devs; d; d = d->next)
		if ((d->active & SVIO_DIRTY_DRIVER) && d->log->touch)
			d->log->touch(d->log->ctx, svio__dirty_table());
}

/* ---- what room ioas tells ------------------------------------------------------------------------------- */

static void extend(struct dirty_as *as, struct dirty_dev *d, const struct dirty_seg *seg)
{
	if (!(d->active & SVIO_DIRTY_DEVICE) || svio__dirty_device_covers(&d->ranges, seg->iova, seg->len))
		return;
	/*
	 * There is no widening: stop and start. What it had logged is lost with the stop, and what it writes in between was
	 * never logged.
	 */
	all_written(as, d, SVIO_DIRTY_DEVICE);
	source_off(d, SVIO_DIRTY_DEVICE);
	as->rearmed++;
	if (source_on(as, d, SVIO_DIRTY_DEVICE)) {
		refuse(as, d, SVIO_DIRTY_DEVICE);
		cover(as, d);
	}
}

static void on_mapping(void *ctx, const struct svio_ioas_map *map)
{
	struct dirty_as *as = ctx;
	const struct dirty_seg seg = { map->va, map->iova, map->len, map->prot & SVIO_DMA_WRITE };

	svio__dirty_lock();
	if (!insert(&as->by_va, &seg, false) || !insert(&as->by_iova, &seg, true))
		as->lost = true;
	for (struct dirty_dev *d = as->devs; d; d = d->next)
		extend(as, d, &seg);
	svio__dirty_mapped(as, &seg);
	svio__dirty_unlock();
}

static void on_unmapped(void *ctx, const struct svio_ioas_map *map)
{
	struct dirty_as *as = ctx;
	const struct dirty_seg seg = { map->va, map->iova, map->len, map->prot & SVIO_DMA_WRITE };

	svio__dirty_lock();
	for (struct dirty_dev *d = as->devs; d; d = d->next) {
		/* A server may have dropped its log of it together with the mapping, and it could write until then. */
		if ((d->active & SVIO_DIRTY_DEVICE) && seg.writable && ask_device(as, d, seg.iova, seg.len))
			svio__dirty_written(as, d, SVIO_DIRTY_DEVICE, seg.iova, seg.len);
		if (seg.writable)
			svio__dirty_written(as, d, 0, seg.iova, seg.len);
	}
	svio__dirty_unmapping(as, &seg);
	erase(&as->by_va, &seg, false);
	erase(&as->by_iova, &seg, true);
	svio__dirty_unlock();
}

static void on_attached(void *ctx, struct svio_device *dev)
{
	struct dirty_as *as = ctx;
	struct dirty_dev *d = calloc(1, sizeof(*d));

	svio__dirty_lock();
	if (!d) {
		as->lost = true;
	} else {
		d->dev = dev;
		for (const struct dirty_log_node *n = as->logs; n; n = n->next)
			if (n->log->dev == dev)
				d->log = n->log;
		d->next = as->devs;
		as->devs = d;
		cover(as, d);
	}
	svio__dirty_unlock();
}

static void dev_free(struct dirty_dev *d)
{
	for (uint32_t off = d->active; off; off &= off - 1)
		source_off(d, off & -off);
	free(d);
}

static void on_detaching(void *ctx, struct svio_device *dev)
{
	struct dirty_as *as = ctx;
	struct dirty_dev **p, *d;

	svio__dirty_lock();
	for (p = &as->devs; *p && (*p)->dev != dev; p = &(*p)->next)
		;
	d = *p;
	if (d) {
		for (size_t i = 0; (d->active & SVIO_DIRTY_DEVICE) && i < as->by_iova.n; i++)
			if (as->by_iova.v[i].writable &&
			    ask_device(as, d, as->by_iova.v[i].iova, as->by_iova.v[i].len)) {
				all_written(as, d, SVIO_DIRTY_DEVICE);
				break;
			}
		if (d->active & SVIO_DIRTY_IOMMU)
			all_written(as, d, SVIO_DIRTY_IOMMU);
		if ((d->active & SVIO_DIRTY_DRIVER) && d->log->touch)
			d->log->touch(d->log->ctx, svio__dirty_table());
		all_written(as, d, 0);
		*p = d->next;
		dev_free(d);
	}
	svio__dirty_unlock();
}

static void on_log_added(void *ctx, struct svio_ioas_log *log)
{
	struct dirty_as *as = ctx;
	struct dirty_log_node *n = calloc(1, sizeof(*n));

	svio__dirty_lock();
	if (n) {
		n->log = log;
		n->next = as->logs;
		as->logs = n;
	}
	for (struct dirty_dev *d = as->devs; n && d; d = d->next)
		if (d->dev == log->dev && !d->log) {
			all_written(as, d, 0);
			all_written(as, d, SVIO_DIRTY_IOMMU);
			d->log = log;
			cover(as, d);
		}
	svio__dirty_unlock();
}

static void on_log_removed(void *ctx, struct svio_ioas_log *log)
{
	struct dirty_as *as = ctx;
	struct dirty_log_node **p, *n;

	svio__dirty_lock();
	for (p = &as->logs; *p && (*p)->log != log; p = &(*p)->next)
		;
	n = *p;
	if (n) {
		*p = n->next;
		free(n);
	}
	for (struct dirty_dev *d = as->devs; d; d = d->next)
		if (d->log == log) {
			/* Its device has stopped; what it marked is in the table, rings are not. */
			if (d->active & SVIO_DIRTY_DRIVER) {
				if (log->touch)
					log->touch(log->ctx, svio__dirty_table());
				source_off(d, SVIO_DIRTY_DRIVER);
			}
			d->log = NULL;
			cover(as, d);
		}
	svio__dirty_unlock();
}

/* ---- life ------------------------------------------------------------------------------------------------- */

struct dirty_as *svio__dirty_as_get(struct svio_ioas *ioas, bool *fresh)
{
	struct dirty_as *as;

	for (as = spaces; as && as->ioas != ioas; as = as->next)
		;
	*fresh = !as;
	if (!as) {
		as = calloc(1, sizeof(*as));
		if (!as)
			return NULL;
		as->ioas = ioas;
		as->watch = (struct svio_ioas_watch){
			.mapping = on_mapping, .unmapped = on_unmapped, .attached = on_attached, .detaching = on_detaching,
			.log_added = on_log_added, .log_removed = on_log_removed, .ctx = as,
		};
		as->next = spaces;
		spaces = as;
	}
	as->users++;
	return as;
}

bool svio__dirty_as_put(struct dirty_as *as)
{
	struct dirty_as **p;

	if (--as->users)
		return false;
	for (struct dirty_dev *d; (d = as->devs);) {
		as->devs = d->next;
		dev_free(d);
	}
	for (p = &spaces; *p != as; p = &(*p)->next)
		;
	*p = as->next;
	return true;
}

void svio__dirty_as_free(struct dirty_as *as)
{
	for (struct dirty_dev *d; (d = as->devs);) { /* came between put and the end of the watch */
		as->devs = d->next;
		free(d);
	}
	for (struct dirty_log_node *n; (n = as->logs);) {
		as->logs = n->next;
		free(n);
	}
	free(as->by_va.v);
	free(as->by_iova.v);
	free(as);
}
