/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices and their domains: a mapping is on every domain, or on none. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "ioas_priv.h"

static int domain_map(struct ioas_domain *d, const struct ioas_mapping *m, uint64_t iova)
{
	const struct svio_dma_map map = {
		.iova = iova,
		.vaddr = (void *)(uintptr_t)ioas_va(m),
		.len = ioas_len(m),
		.prot = m->prot,
		.fd = m->fd,
		.fd_offset = m->fd_offset,
	};
	int rc = svio_dma_map(d->dma, &map);

	if (rc)
		return svio_fail_prefix(rc, "%s: cannot map 0x%" PRIx64 "+0x%" PRIx64 " at IOVA 0x%" PRIx64, d->name, ioas_va(m),
					map.len, iova);
	if (d->left != UINT64_MAX && d->left)
		d->left--;
	return 0;
}

static void domain_unmap(struct ioas_domain *d, const struct ioas_mapping *m, uint64_t iova)
{
	int rc = svio_dma_unmap(d->dma, iova, ioas_len(m));

	/* A dead vfio-user server reaches nothing any more; anything else is a bug that must not go unseen. */
	if (rc && rc != -ENODEV)
		svio_log_err("%s: cannot unmap IOVA 0x%" PRIx64 "+0x%" PRIx64 ": error %d", d->name, iova, ioas_len(m), -rc);
	if (d->left != UINT64_MAX)
		d->left++;
}

/* Do pinned pages of this mapping count? Those of a BAR are no memory. */
static uint64_t locked_bytes(const struct ioas_domain *d, const struct ioas_mapping *m)
{
	return d->info.accounts_memlock && m->kind != IOAS_BAR ? ioas_len(m) : 0;
}

int svio__ioas_dma_map(struct svio_ioas *ioas, struct ioas_mapping *m, uint64_t iova)
{
	uint64_t locked = 0;
	int rc;

	for (struct ioas_domain *d = ioas->domains; d; d = d->next) {
		rc = svio__ioas_limit_entries(d, 1);
		if (rc)
			return rc;
		locked += locked_bytes(d, m);
	}
	rc = ioas->domains ? svio__ioas_limit_memlock(ioas->domains->name, locked) : 0;
	if (rc)
		return rc;
	for (struct ioas_domain *d = ioas->domains; d; d = d->next) {
		rc = domain_map(d, m, iova);
		if (rc) {
			for (struct ioas_domain *u = ioas->domains; u != d; u = u->next)
				domain_unmap(u, m, iova);
			return rc;
		}
	}
	return 0;
}

void svio__ioas_dma_unmap(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	for (struct ioas_domain *d = ioas->domains; d; d = d->next)
		domain_unmap(d, m, m->iova);
}

/* The domain's answer is the kernel's or a peer's: used only after a look. */
static int domain_info(struct ioas_domain *d)
{
	struct svio_dma_info info = { 0 };
	int rc = svio_dma_info(d->dma, &info);

	if (rc)
		return svio_fail_prefix(rc, "%s: its IOMMU does not say what it can map", d->name);
	if (info.num_ranges == 0 || info.num_ranges > SVIO_DMA_MAX_RANGES || info.pgsizes == 0)
		return svio_fail(EPROTO, "%s: its IOMMU reports %u usable IOVA ranges and page sizes 0x%" PRIx64, d->name,
				 info.num_ranges, info.pgsizes);
	d->info = info;
	d->left = d->info.max_mappings;
	return 0;
}

/* Take back what domain_fill() did for the first n mappings by address. */
static void domain_drain(struct svio_ioas *ioas, struct ioas_domain *d, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct ioas_mapping *m = ioas->by_va.v[i];

		if (!m->withdrawn)
			domain_unmap(d, m, m->iova);
	}
}

/* Everything there is onto a new domain. */
static int domain_fill(struct svio_ioas *ioas, struct ioas_domain *d)
{
	uint64_t entries = 0, locked = 0;
	size_t i;
	int rc;

	for (i = 0; i < ioas->by_va.n; i++) {
		const struct ioas_mapping *m = ioas->by_va.v[i];

		rc = svio__ioas_fits(d, ioas_va(m), m->iova, ioas_len(m));
		if (rc)
			return rc;
		if (m->withdrawn)
			continue;
		entries++;
		locked += locked_bytes(d, m);
	}
	rc = svio__ioas_limit_entries(d, entries);
	if (rc == 0)
		rc = svio__ioas_limit_memlock(d->name, locked);
	if (rc)
		return rc;
	for (i = 0; i < ioas->by_va.n; i++) {
		const struct ioas_mapping *m = ioas->by_va.v[i];

		rc = m->withdrawn ? 0 : domain_map(d, m, m->iova);
		if (rc) {
			domain_drain(ioas, d, i);
			return rc;
		}
	}
	return 0;
}

/* IOVAs for all mappings that have waited for the first device. Marks them in waited[]. */
static int settle_all(struct svio_ioas *ioas, const struct ioas_domain *d, bool *waited)
{
	for (size_t i = 0; i < ioas->by_va.n; i++) {
		struct ioas_mapping *m = ioas->by_va.v[i];
		uint64_t iova;
		int rc;

		if (m->iova != SVIO_IOVA_BAD)
			continue;
		rc = svio__ioas_place(ioas, d, ioas_va(m), ioas_len(m), &iova);
		if (rc)
			return svio_fail_prefix(rc, "%s", d->name);
		svio__ioas_settle(ioas, m, iova);
		svio__ioas_tell_mapping(ioas, m, iova);
		waited[i] = true;
	}
	return 0;
}

/* A domain of its own for the device. */
static int domain_new(struct svio_ioas *ioas, struct svio_device *dev, struct ioas_domain **dp)
{
	struct ioas_domain *d = calloc(1, sizeof(*d));
	bool *waited = calloc(ioas->by_va.n + 1, sizeof(*waited));
	struct svio_device_info what;
	int rc;

	if (!d || !waited) {
		rc = svio_fail(ENOMEM, "%s: no memory for its domain", svio_device_name(dev));
		goto fail;
	}
	svio_device_get_info(dev, &what);
	d->peer = what.transport == SVIO_TRANSPORT_USER;
	snprintf(d->name, sizeof(d->name), "%s", svio_device_name(dev));
	d->dma = svio_device_domain(dev);
	rc = domain_info(d);
	if (rc)
		goto fail;
	rc = settle_all(ioas, d, waited);
	if (rc == 0)
		rc = domain_fill(ioas, d);
	if (rc) {
		for (size_t i = 0; i < ioas->by_va.n; i++)
			if (waited[i]) {
				svio__ioas_tell_unmapped(ioas, ioas->by_va.v[i], ioas->by_va.v[i]->iova);
				svio__ioas_unsettle(ioas, ioas->by_va.v[i]);
			}
		goto fail;
	}
	free(waited);
	svio_dma_domain_get(d->dma);
	d->next = ioas->domains;
	ioas->domains = d;
	*dp = d;
	return 0;
fail:
	free(waited);
	free(d);
	return rc;
}

/*
 * A domain that is there takes the device: that one, else NULL and the device keeps its own. What keeps them apart is not an
 * error: another transport (-EXDEV), mapped BARs or enabled interrupts (-EBUSY), or a mapping in a range that this
 * device reserves (-EINVAL), which domain_fill() names.
 */
static int domain_join(struct svio_ioas *ioas, struct svio_device *dev, struct ioas_domain **dp)
{
	const struct svio_dma_domain *own = svio_device_domain(dev);
	struct ioas_domain *d;
	int rc;

	*dp = NULL;
	for (d = ioas->domains; d; d = d->next)
		if (d->dma == own) {
			*dp = d;
			return 0;
		}
	for (d = ioas->domains; d; d = d->next) {
		rc = svio_device_set_domain(dev, d->dma);
		if (rc == 0) {
			*dp = d;
			return 0;
		}
		if (rc != -EXDEV && rc != -EBUSY && rc != -EINVAL)
			return rc;
		if (rc != -EXDEV)
			svio_log_info("%s does not share the I/O page table of %s: %s", svio_device_name(dev), d->name,
				      svio_last_error());
	}
	return 0;
}

/* Leave a domain that others stay in. The whole IOMMU group moves, so not while one of its functions is attached here. */
static void domain_leave(struct svio_ioas *ioas, struct svio_device *dev, const struct ioas_domain *d)
{
	struct svio_device_info mine, other;

	svio_device_get_info(dev, &mine);
	for (const struct ioas_device *a = ioas->devices; a; a = a->next) {
		svio_device_get_info(a->dev, &other);
		if (a->domain == d && a->dev != dev && other.iommu_group == mine.iommu_group)
			return;
	}
	/* Refused while BARs or interrupts are in use; then it leaves when it is closed. */
	if (svio_device_set_domain(dev, NULL))
		svio_log_info("%s stays in the I/O page table of %s until it is closed: %s", svio_device_name(dev), d->name,
			      svio_last_error());
}

int svio_ioas_attach(struct svio_ioas *ioas, struct svio_device *dev)
{
	struct ioas_device *a = calloc(1, sizeof(*a));
	struct ioas_domain *d;
	bool moved;
	int rc;

	if (!a)
		return svio_fail(ENOMEM, "%s: no memory to attach it", svio_device_name(dev));
	pthread_mutex_lock(&ioas->lock);
	for (struct ioas_device *o = ioas->devices; o; o = o->next)
		if (o->dev == dev) {
			rc = svio_fail(EALREADY, "%s is attached to this address space already", svio_device_name(dev));
			goto fail;
		}
	if (!svio_device_domain(dev)) {
		rc = svio_fail(EOPNOTSUPP, "%s has no DMA domain", svio_device_name(dev));
		goto fail;
	}
	rc = domain_join(ioas, dev, &d);
	if (rc)
		goto fail;
	moved = d != NULL;
	/* When it has joined, what it reserves is reserved for all. */
	rc = moved ? domain_info(d) : domain_new(ioas, dev, &d);
	if (rc) {
		if (moved)
			domain_leave(ioas, dev, d);
		goto fail;
	}
	d->users++;
	a->dev = dev;
	a->domain = d;
	a->next = ioas->devices;
	ioas->devices = a;
	ioas->settled = true;
	svio__ioas_tell_attached(ioas, dev);
	pthread_mutex_unlock(&ioas->lock);
	return 0;
fail:
	pthread_mutex_unlock(&ioas->lock);
	free(a);
	return rc;
}

int svio_ioas_detach(struct svio_ioas *ioas, struct svio_device *dev)
{
	struct ioas_device **ap, *a;
	struct ioas_domain **dp, *d;

	pthread_mutex_lock(&ioas->lock);
	for (ap = &ioas->devices; *ap && (*ap)->dev != dev; ap = &(*ap)->next)
		;
	a = *ap;
	if (!a) {
		pthread_mutex_unlock(&ioas->lock);
		return svio_fail(ENOENT, "%s is not attached to this address space", svio_device_name(dev));
	}
	svio__ioas_tell_detaching(ioas, dev);
	*ap = a->next;
	d = a->domain;
	if (--d->users) {
		domain_leave(ioas, dev, d);
	} else {
		domain_drain(ioas, d, ioas->by_va.n);
		for (dp = &ioas->domains; *dp != d; dp = &(*dp)->next)
			;
		*dp = d->next;
		svio_dma_domain_put(d->dma);
		free(d);
	}
	pthread_mutex_unlock(&ioas->lock);
	free(a);
	return 0;
}
