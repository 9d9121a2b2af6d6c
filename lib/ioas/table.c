/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtual address → IOVA, for any number of readers without a lock and one writer at a time.
 *
 * A radix tree over 48 bits of address, built like a page table: four levels of 512, leaves of 1 GiB, 2 MiB and 4 KiB. A leaf
 * points to its mapping, so that the reader knows the bounds. Inner nodes stay until the ioas is destroyed; mappings are
 * type-stable (see struct ioas_mapping). Every load that a reader follows is an acquire that pairs with the
 * release by which the writer published it.
 *
 * In front of the tree stands the hot range: the reader loads one pointer to three words that never change again. A change
 * of the hot range publishes another pointer; an old one may still be in a reader's register, so its words are not
 * reused for other values until the ioas is gone. There are 64 of them, found again by value; an application that goes
 * through more different largest mappings than that loses the hot range and keeps the tree.
 */
#include <stdlib.h>
#include "ioas_priv.h"

#define LEAF	  ((uintptr_t)1)
#define TOP_LEVEL 3

static const struct svio_ioas_hot_range hot_none = { .va = 0, .len = 0, .delta = 0 };

static unsigned int level_shift(unsigned int level)
{
	return 12 + 9 * level;
}

void svio__ioas_table_init(struct svio_ioas *ioas)
{
	atomic_store_explicit(&ioas->hot.range, &hot_none, memory_order_relaxed);
}

static void node_free(struct ioas_node *node, unsigned int level)
{
	for (unsigned int i = 0; i < IOAS_SLOTS; i++) {
		uintptr_t e = atomic_load_explicit(&node->slot[i], memory_order_relaxed);

		if (e && !(e & LEAF) && level) {
			node_free((struct ioas_node *)e, level - 1);
			free((struct ioas_node *)e);
		}
	}
}

void svio__ioas_table_free(struct svio_ioas *ioas)
{
	node_free(&ioas->root, TOP_LEVEL);
}

static int node_prepare(struct ioas_node *node, unsigned int level, uint64_t start, uint64_t end)
{
	uint64_t size = UINT64_C(1) << level_shift(level);

	for (uint64_t at = SVIO_ALIGN_DOWN(start, size); at < end; at += size) {
		_Atomic uintptr_t *slot = &node->slot[(at >> level_shift(level)) % IOAS_SLOTS];
		uintptr_t e = atomic_load_explicit(slot, memory_order_relaxed);
		bool whole = at >= start && at + size <= end;
		int rc;

		if (!e) {
			if (level == 0 || (whole && level < TOP_LEVEL))
				continue; /* a leaf goes here */
			e = (uintptr_t)calloc(1, sizeof(struct ioas_node));
			if (!e)
				return svio_fail(ENOMEM, "no memory for the translation table");
			atomic_store_explicit(slot, e, memory_order_release);
		}
		rc = node_prepare((struct ioas_node *)e, level - 1, SVIO_MAX(start, at), SVIO_MIN(end, at + size));
		if (rc)
			return rc;
	}
	return 0;
}

int svio__ioas_table_prepare(struct svio_ioas *ioas, uint64_t va, uint64_t len)
{
	return node_prepare(&ioas->root, TOP_LEVEL, va, va + len);
}

/* Leaves of [start, end) become `leaf`. A slot that has a node below it is filled below, also where a larger leaf would fit. */
static void node_fill(struct ioas_node *node, unsigned int level, uint64_t start, uint64_t end, uintptr_t leaf)
{
	uint64_t size = UINT64_C(1) << level_shift(level);

	for (uint64_t at = SVIO_ALIGN_DOWN(start, size); at < end; at += size) {
		_Atomic uintptr_t *slot = &node->slot[(at >> level_shift(level)) % IOAS_SLOTS];
		uintptr_t e = atomic_load_explicit(slot, memory_order_relaxed);

		if (e && !(e & LEAF))
			node_fill((struct ioas_node *)e, level - 1, SVIO_MAX(start, at), SVIO_MIN(end, at + size), leaf);
		else
			atomic_store_explicit(slot, leaf, memory_order_release);
	}
}

uint64_t svio_ioas_lookup(const struct svio_ioas *ioas, uint64_t va, uint64_t len)
{
	const struct ioas_node *node = &ioas->root;
	const struct ioas_mapping *m;
	uint64_t seq, off, m_len, delta;
	uintptr_t e;

	if (va >> IOAS_VA_BITS)
		return SVIO_IOVA_BAD;
	e = atomic_load_explicit(&node->slot[va >> level_shift(3)], memory_order_acquire); /* never a leaf */
	if (!e)
		return SVIO_IOVA_BAD;
	node = (const struct ioas_node *)e;
	e = atomic_load_explicit(&node->slot[va >> level_shift(2) & (IOAS_SLOTS - 1)], memory_order_acquire);
	if (e && !(e & LEAF)) {
		node = (const struct ioas_node *)e;
		e = atomic_load_explicit(&node->slot[va >> level_shift(1) & (IOAS_SLOTS - 1)], memory_order_acquire);
		if (e && !(e & LEAF)) {
			node = (const struct ioas_node *)e;
			e = atomic_load_explicit(&node->slot[va >> level_shift(0) & (IOAS_SLOTS - 1)], memory_order_acquire);
		}
	}
	if (!e)
		return SVIO_IOVA_BAD;
	m = (const struct ioas_mapping *)(e - LEAF);

	/* Acquire loads keep their order, so the second look at seq comes last. */
	seq = atomic_load_explicit(&m->seq, memory_order_acquire);
	off = va - atomic_load_explicit(&m->va, memory_order_acquire);
	m_len = atomic_load_explicit(&m->len, memory_order_acquire);
	delta = atomic_load_explicit(&m->delta, memory_order_acquire);
	if (seq % 2 || atomic_load_explicit(&m->seq, memory_order_relaxed) != seq)
		return SVIO_IOVA_BAD;
	if (off >= m_len || len > m_len - off)
		return SVIO_IOVA_BAD;
	return va + delta;
}

void svio__ioas_mapping_write(struct ioas_mapping *m, uint64_t va, uint64_t len, uint64_t delta)
{
	uint64_t seq = atomic_load_explicit(&m->seq, memory_order_relaxed);

	/* Release stores: whoever sees one of the new words also sees that seq has moved on. */
	atomic_store_explicit(&m->seq, seq + 1, memory_order_relaxed);
	atomic_store_explicit(&m->va, va, memory_order_release);
	atomic_store_explicit(&m->len, len, memory_order_release);
	atomic_store_explicit(&m->delta, delta, memory_order_release);
	atomic_store_explicit(&m->seq, seq + 2, memory_order_release);
}

/* ---- the hot range --------------------------------------------------------------------------------------- */

static struct svio_ioas_hot_range *hot_slot(struct svio_ioas *ioas, unsigned int i)
{
	return i < SVIO_ARRAY_SIZE(ioas->hot.near) ? &ioas->hot.near[i] : &ioas->hots[i - SVIO_ARRAY_SIZE(ioas->hot.near)];
}

static void hot_publish(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	const struct svio_ioas_hot_range *range = &hot_none;
	struct svio_ioas_hot_range want;

	if (m) {
		want = (struct svio_ioas_hot_range){ ioas_va(m), ioas_len(m), m->iova - ioas_va(m) };
		for (unsigned int i = 0; i < ioas->num_hots && range == &hot_none; i++) {
			const struct svio_ioas_hot_range *h = hot_slot(ioas, i);

			if (h->va == want.va && h->len == want.len && h->delta == want.delta)
				range = h;
		}
		if (range == &hot_none && ioas->num_hots < IOAS_HOTS + SVIO_ARRAY_SIZE(ioas->hot.near)) {
			struct svio_ioas_hot_range *h = hot_slot(ioas, ioas->num_hots++);

			*h = want;
			range = h;
		}
	}
	ioas->hot_mapping = range == &hot_none ? NULL : m;
	atomic_store_explicit(&ioas->hot.range, range, memory_order_release);
}

void svio__ioas_table_set(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	uint64_t va = ioas_va(m), len = ioas_len(m);

	node_fill(&ioas->root, TOP_LEVEL, va, va + len, (uintptr_t)m | LEAF);
	/* Twice as large, so that growing step by step does not use up the 64. */
	if (!ioas->hot_mapping || len / 2 >= ioas_len(ioas->hot_mapping))
		hot_publish(ioas, m);
}

void svio__ioas_table_clear(struct svio_ioas *ioas, struct ioas_mapping *m)
{
	uint64_t va = ioas_va(m), len = ioas_len(m);
	struct ioas_mapping *largest = NULL;

	node_fill(&ioas->root, TOP_LEVEL, va, va + len, 0);
	if (ioas->hot_mapping != m)
		return;
	for (size_t i = 0; i < ioas->by_iova.n; i++) {
		struct ioas_mapping *o = ioas->by_iova.v[i];

		if (o != m && !o->withdrawn && (!largest || ioas_len(o) > ioas_len(largest)))
			largest = o;
	}
	hot_publish(ioas, largest);
}
