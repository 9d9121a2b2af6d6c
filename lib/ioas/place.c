/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which IOVA a mapping gets: its virtual address where every IOMMU can map that and nobody has it, else the first place
 * that fits, congruent to the virtual address modulo the largest superpage that the mapping contains.
 */
#include <inttypes.h>
#include <stdio.h>
#include "ioas_priv.h"

/* Devices and their firmware take 0 for "no address". */
#define FIRST_IOVA UINT64_C(0x10000)

/* Where IOVAs come from before a device says what it can map: 39 bits, without the x86 interrupt window. */
static const struct ioas_domain nowhere = {
	.info = {
		.pgsizes = IOAS_PAGE,
		.num_ranges = 2,
		.ranges = { { FIRST_IOVA, 0xfedfffff }, { UINT64_C(1) << 32, (UINT64_C(1) << 39) - 1 } },
	},
};

static uint64_t min_page(const struct ioas_domain *d)
{
	return d->info.pgsizes ? d->info.pgsizes & -d->info.pgsizes : IOAS_PAGE;
}

/* The first address >= x that is congruent to va modulo align, or SVIO_IOVA_BAD. */
static uint64_t congruent_up(uint64_t x, uint64_t va, uint64_t align)
{
	uint64_t up = x + ((va - x) & (align - 1));

	return up < x ? SVIO_IOVA_BAD : up;
}

/* The first congruent address >= from at which the domain can map len bytes. */
static uint64_t next_in_domain(const struct ioas_domain *d, uint64_t from, uint64_t va, uint64_t len, uint64_t align)
{
	for (uint32_t i = 0; i < d->info.num_ranges; i++) {
		const struct svio_iova_range *r = &d->info.ranges[i];
		uint64_t at = congruent_up(SVIO_MAX(from, r->start), va, align);

		if (at != SVIO_IOVA_BAD && at <= r->last && r->last - at >= len - 1)
			return at;
	}
	return SVIO_IOVA_BAD;
}

static uint64_t next_unused(const struct svio_ioas *ioas, uint64_t from, uint64_t va, uint64_t len, uint64_t align)
{
	size_t i = svio__ioas_index_find_iova(&ioas->by_iova, from);

	for (; i < ioas->by_iova.n; i++) {
		const struct ioas_mapping *m = ioas->by_iova.v[i];

		if (m->iova > from && m->iova - from >= len)
			break;
		/* Nothing lies behind a mapping that ends at 2^64. */
		if (m->iova + ioas_len(m) < m->iova)
			return SVIO_IOVA_BAD;
		from = congruent_up(m->iova + ioas_len(m), va, align);
		if (from == SVIO_IOVA_BAD)
			break;
	}
	return from;
}

/* Let every constraint push the candidate up until none of them does. */
static uint64_t first_fit(const struct svio_ioas *ioas, const struct ioas_domain *joining, uint64_t from, uint64_t va,
			  uint64_t len, uint64_t align)
{
	uint64_t at = congruent_up(from, va, align), before;

	do {
		before = at;
		for (const struct ioas_domain *d = ioas->domains; d && at != SVIO_IOVA_BAD; d = d->next)
			at = next_in_domain(d, at, va, len, align);
		if (joining && at != SVIO_IOVA_BAD)
			at = next_in_domain(joining, at, va, len, align);
		if (at != SVIO_IOVA_BAD)
			at = next_unused(ioas, at, va, len, align);
	} while (at != before && at != SVIO_IOVA_BAD);
	return at;
}

int svio__ioas_fits(const struct ioas_domain *d, uint64_t va, uint64_t iova, uint64_t len)
{
	uint64_t page = min_page(d);
	char ranges[160] = "";
	size_t used = 0;

	if ((va | iova | len) % page)
		return svio_fail(EINVAL, "%s: memory 0x%" PRIx64 "+0x%" PRIx64 " at IOVA 0x%" PRIx64
				 " is not made of the IOMMU's pages of %" PRIu64 " bytes", d->name, va, len, iova, page);
	if (next_in_domain(d, iova, va, len, page) == iova)
		return 0;
	for (uint32_t i = 0; i < d->info.num_ranges && used < sizeof(ranges) - 48; i++)
		used += (size_t)snprintf(ranges + used, sizeof(ranges) - used, " 0x%" PRIx64 "-0x%" PRIx64,
					 d->info.ranges[i].start, d->info.ranges[i].last);
	return svio_fail(ENOSPC, "%s: its IOMMU cannot map 0x%" PRIx64 "+0x%" PRIx64 " at IOVA 0x%" PRIx64
			 ", it can map%s: attach the device with the narrowest IOMMU first, before IOVAs are given out",
			 d->name, va, len, iova, ranges);
}

int svio__ioas_place(const struct svio_ioas *ioas, const struct ioas_domain *joining, uint64_t va, uint64_t len,
		     uint64_t *iova)
{
	static const uint64_t super[] = { IOAS_1G, IOAS_2M };
	const struct ioas_domain *d = joining ? joining : ioas->domains ? ioas->domains : NULL;
	uint64_t page = d ? min_page(d) : IOAS_PAGE;

	for (const struct ioas_domain *o = ioas->domains; o; o = o->next)
		page = SVIO_MAX(page, min_page(o));
	if ((va | len) % page)
		return svio_fail(EINVAL, "memory 0x%" PRIx64 "+0x%" PRIx64 " is not made of the IOMMU's pages of %" PRIu64 " bytes",
				 va, len, page);

	if (!(ioas->flags & SVIO_IOAS_NO_IDENTITY) && first_fit(ioas, joining, va, va, len, page) == va) {
		*iova = va;
		return 0;
	}
	if (!d)
		joining = &nowhere;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(super); i++) {
		/* Only if there is such a page in it. */
		if (congruent_up(va, 0, super[i]) + super[i] > va + len)
			continue;
		*iova = first_fit(ioas, joining, FIRST_IOVA, va, len, super[i]);
		if (*iova != SVIO_IOVA_BAD)
			return 0;
	}
	*iova = first_fit(ioas, joining, FIRST_IOVA, va, len, page);
	if (*iova != SVIO_IOVA_BAD)
		return 0;
	return svio_fail(ENOSPC, "no IOVA left for %" PRIu64 " KiB: %zu mappings fill what the IOMMU can map: unmap some",
			 len >> 10, ioas->by_iova.n);
}
