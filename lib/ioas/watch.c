/* SPDX-License-Identifier: BSD-3-Clause */
/* Dirty tracking: the logs that drivers offer, and who is told of mappings, devices and logs. */
#include "ioas_priv.h"

static bool map_of(const struct ioas_mapping *m, uint64_t iova, struct svio_ioas_map *map)
{
	*map = (struct svio_ioas_map){ .va = ioas_va(m), .len = ioas_len(m), .iova = iova, .prot = m->prot };
	return m->kind != IOAS_BAR && iova != SVIO_IOVA_BAD;
}

void svio__ioas_tell_mapping(struct svio_ioas *ioas, const struct ioas_mapping *m, uint64_t iova)
{
	struct svio_ioas_map map;

	if (ioas->watches && map_of(m, iova, &map))
		for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
			w->mapping(w->ctx, &map);
}

void svio__ioas_tell_unmapped(struct svio_ioas *ioas, const struct ioas_mapping *m, uint64_t iova)
{
	struct svio_ioas_map map;

	if (ioas->watches && map_of(m, iova, &map))
		for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
			w->unmapped(w->ctx, &map);
}

void svio__ioas_tell_attached(struct svio_ioas *ioas, struct svio_device *dev)
{
	for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
		w->attached(w->ctx, dev);
}

void svio__ioas_tell_detaching(struct svio_ioas *ioas, struct svio_device *dev)
{
	for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
		w->detaching(w->ctx, dev);
}

void svio_ioas_log_add(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	pthread_mutex_lock(&ioas->lock);
	log->next = ioas->logs;
	ioas->logs = log;
	for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
		w->log_added(w->ctx, log);
	pthread_mutex_unlock(&ioas->lock);
}

void svio_ioas_log_remove(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	struct svio_ioas_log **p;

	pthread_mutex_lock(&ioas->lock);
	for (p = &ioas->logs; *p && *p != log; p = &(*p)->next)
		;
	if (*p) {
		*p = log->next;
		log->next = NULL;
		for (const struct svio_ioas_watch *w = ioas->watches; w; w = w->next)
			w->log_removed(w->ctx, log);
	}
	pthread_mutex_unlock(&ioas->lock);
}

void svio_ioas_watch_add(struct svio_ioas *ioas, struct svio_ioas_watch *watch)
{
	struct svio_ioas_map map;

	pthread_mutex_lock(&ioas->lock);
	watch->next = ioas->watches;
	ioas->watches = watch;
	for (size_t i = 0; i < ioas->by_va.n; i++)
		if (map_of(ioas->by_va.v[i], ioas->by_va.v[i]->iova, &map))
			watch->mapping(watch->ctx, &map);
	for (struct svio_ioas_log *l = ioas->logs; l; l = l->next)
		watch->log_added(watch->ctx, l);
	for (const struct ioas_device *d = ioas->devices; d; d = d->next)
		watch->attached(watch->ctx, d->dev);
	pthread_mutex_unlock(&ioas->lock);
}

void svio_ioas_watch_remove(struct svio_ioas *ioas, struct svio_ioas_watch *watch)
{
	struct svio_ioas_watch **p;

	pthread_mutex_lock(&ioas->lock);
	for (p = &ioas->watches; *p && *p != watch; p = &(*p)->next)
		;
	if (*p)
		*p = watch->next;
	pthread_mutex_unlock(&ioas->lock);
}
