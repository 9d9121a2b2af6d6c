/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Peer-to-peer: another device's BAR as a target of DMA.
 *
 * The IOMMU keeps translating to a BAR that is disabled or being reset (vfio_iommu_type1.c pins no page of it and watches
 * nothing), and a device that then writes to it gets errors or, after the BAR moved, hits something else. So the
 * mapping goes before, and comes back after: by the reset hooks of the BAR's device, and by svio_ioas_sync_bar() when
 * the BAR was lost behind our back. The addresses stay reserved meanwhile; translation says SVIO_IOVA_BAD.
 */
#include <inttypes.h>
#include <stdlib.h>
#include "ioas_priv.h"

static void withdraw(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	if (m->withdrawn)
		return;
	m->withdrawn = true;
	if (m->iova == SVIO_IOVA_BAD)
		return;
	svio__ioas_table_clear(ioas, m);
	svio__ioas_dma_unmap(ioas, m);
}

static int put_back(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	int rc;

	if (!m->withdrawn)
		return 0;
	if (m->iova != SVIO_IOVA_BAD) {
		rc = svio__ioas_dma_map(ioas, m, m->iova);
		if (rc)
			return rc;
	}
	m->withdrawn = false;
	if (m->iova != SVIO_IOVA_BAD)
		svio__ioas_table_set(ioas, m);
	return 0;
}

static void bar_prepare(void *ctx, struct svio_device *dev)
{
	struct ioas_bar *b = ctx;

	(void)dev;
	pthread_mutex_lock(&b->ioas->lock);
	withdraw(b->ioas, b->mapping);
	pthread_mutex_unlock(&b->ioas->lock);
}

static void bar_done(void *ctx, struct svio_device *dev, int err)
{
	struct ioas_bar *b = ctx;
	int rc = 0;

	if (err == -ENODEV)
		return;
	pthread_mutex_lock(&b->ioas->lock);
	/* Room mmio came before us in this direction. A BAR that is still away: decoding was left off. */
	if (!svio_bar_revoked(b->bar))
		rc = put_back(b->ioas, b->mapping);
	pthread_mutex_unlock(&b->ioas->lock);
	if (rc)
		svio_log_err("%s: BAR %u cannot be mapped for peer-to-peer again: %s", svio_device_name(dev), b->bar->region,
			     svio_last_error());
}

static struct ioas_bar *find_bar(struct svio_ioas *ioas, const struct svio_bar *bar)
{
	struct ioas_bar *b;

	for (b = ioas->bars; b && b->bar != bar; b = b->next)
		;
	return b;
}

int svio_ioas_map_bar(struct svio_ioas *ioas, struct svio_bar *bar, uint64_t *iova)
{
	uint64_t start = SVIO_ALIGN_DOWN((uint64_t)(uintptr_t)bar->addr, IOAS_PAGE);
	uint64_t end = SVIO_ALIGN_UP((uint64_t)(uintptr_t)bar->addr + bar->len, IOAS_PAGE);
	const struct ioas_request req = {
		.va = start, .len = end - start, .kind = IOAS_BAR,
		.prot = SVIO_DMA_READ | SVIO_DMA_WRITE, .fd = -1, .want_iova = iova != NULL,
	};
	struct ioas_bar *b = calloc(1, sizeof(*b));
	int rc;

	if (!b)
		return svio_fail(ENOMEM, "%s: no memory to map BAR %u", svio_device_name(bar->dev), bar->region);
	pthread_mutex_lock(&ioas->lock);
	if (svio_bar_revoked(bar))
		rc = svio_fail(EAGAIN, "%s: BAR %u is revoked: svio_bar_restore() it first", svio_device_name(bar->dev), bar->region);
	else
		rc = svio__ioas_add(ioas, &req, &b->mapping);
	if (rc == 0) {
		if (iova)
			*iova = b->mapping->iova + ((uintptr_t)bar->addr - start);
		b->ioas = ioas;
		b->bar = bar;
		b->hook = (struct svio_device_hook){
			.stage = SVIO_HOOK_IOAS, .prepare = bar_prepare, .done = bar_done, .ctx = b,
		};
		b->next = ioas->bars;
		ioas->bars = b;
	}
	pthread_mutex_unlock(&ioas->lock);
	if (rc) {
		free(b);
		return rc;
	}
	/* Without our lock: hooks run under the device's lock and take ours. */
	svio_device_hook_add(bar->dev, &b->hook);
	return 0;
}

int svio_ioas_unmap_bar(struct svio_ioas *ioas, struct svio_bar *bar)
{
	struct ioas_bar *b, **bp;

	pthread_mutex_lock(&ioas->lock);
	b = find_bar(ioas, bar);
	pthread_mutex_unlock(&ioas->lock);
	if (!b)
		return svio_fail(ENOENT, "%s: BAR %u is not mapped in this address space", svio_device_name(bar->dev), bar->region);
	svio_device_hook_remove(bar->dev, &b->hook);
	pthread_mutex_lock(&ioas->lock);
	svio__ioas_remove(ioas, b->mapping);
	for (bp = &ioas->bars; *bp != b; bp = &(*bp)->next)
		;
	*bp = b->next;
	pthread_mutex_unlock(&ioas->lock);
	free(b);
	return 0;
}

int svio_ioas_sync_bar(struct svio_ioas *ioas, struct svio_bar *bar)
{
	struct ioas_bar *b;
	int rc = 0;

	pthread_mutex_lock(&ioas->lock);
	b = find_bar(ioas, bar);
	if (!b)
		rc = svio_fail(ENOENT, "%s: BAR %u is not mapped in this address space", svio_device_name(bar->dev), bar->region);
	else if (svio_bar_revoked(bar))
		withdraw(ioas, b->mapping);
	else
		rc = put_back(ioas, b->mapping);
	pthread_mutex_unlock(&ioas->lock);
	return rc;
}
