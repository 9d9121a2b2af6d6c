/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside room ioas. Everything here is called with the ioas's lock held, unless a line says otherwise.
 *
 *	ioas.c		create, destroy, map, unmap, what room mem announces
 *	attach.c	devices and their domains; one mapping made on every domain or on none
 *	place.c		which IOVA a mapping gets
 *	limits.c	dma_entry_limit and RLIMIT_MEMLOCK, before they are met
 *	table.c		virtual address → IOVA for readers without a lock
 *	bar.c		peer-to-peer: another device's BAR
 *	watch.c		who is told of all this: dirty tracking
 */
#ifndef SVIO_IOAS_PRIV_H
#define SVIO_IOAS_PRIV_H

#ifndef SVIO_ROOM_IOAS
#error "ioas_priv.h is internal to room ioas"
#endif

#include <pthread.h>
#include "svio_ioas.h"

#define IOAS_PAGE    UINT64_C(4096)
#define IOAS_2M	     (UINT64_C(2) << 20)
#define IOAS_1G	     (UINT64_C(1) << 30)
#define IOAS_VA_BITS 48
#define IOAS_HOTS    62 /* with the two in the hot line, 64 different hot mappings in the life of an ioas */

enum ioas_kind {
	IOAS_USER, /* svio_ioas_map() */
	IOAS_MEM,  /* room mem announced it */
	IOAS_BAR,  /* svio_ioas_map_bar() */
};

/*
 * One mapping. Readers without a lock come here through a leaf of the table, so the memory is type-stable: a mapping that is gone
 * goes to a free list and is freed with the ioas. The first four words are all that readers look at.
 *
 * Why a reader cannot be deceived by reuse: before a mapping is reused its leaves were cleared, so a reader who still
 * holds it found the leaf before that moment. If it now sees seq odd or changed, its address was unmapped at some
 * moment during the lookup, and "not mapped" is a correct answer for that moment. If it sees the new mapping whole, it
 * tests its address against the new bounds, and both outcomes are correct for this moment.
 */
struct ioas_mapping {
	_Atomic uint64_t seq; /* odd while the next three words change */
	_Atomic uint64_t va, len;
	_Atomic uint64_t delta; /* iova - va */

	/* Below: under the lock. */
	uint64_t iova; /* SVIO_IOVA_BAD: none yet, because no device has been attached */
	enum ioas_kind kind;
	uint32_t prot;
	int fd;
	uint64_t fd_offset;
	bool withdrawn; /* a BAR that is revoked: keeps its addresses, is reachable by nobody */
	struct ioas_mapping *next_free;
	struct ioas_mapping *next_all;
};

static inline uint64_t ioas_va(const struct ioas_mapping *m)
{
	return atomic_load_explicit(&m->va, memory_order_relaxed);
}

static inline uint64_t ioas_len(const struct ioas_mapping *m)
{
	return atomic_load_explicit(&m->len, memory_order_relaxed);
}

struct ioas_domain {
	struct svio_dma_domain *dma; /* one reference */
	struct svio_dma_info info;
	uint64_t left; /* entries still to be had */
	unsigned int users;
	char name[64]; /* of the device that brought it, for messages */
	bool peer;     /* a vfio-user server's: its limits are not the kernel's */
	struct ioas_domain *next;
};

struct ioas_device {
	struct svio_device *dev;
	struct ioas_domain *domain;
	struct ioas_device *next;
};

struct ioas_bar {
	struct svio_ioas *ioas;
	struct svio_bar *bar;
	struct ioas_mapping *mapping;
	struct svio_device_hook hook;
	struct ioas_bar *next;
};

/* Sorted pointers to mappings. */
struct ioas_index {
	struct ioas_mapping **v;
	size_t n, cap;
};

#define IOAS_SLOTS 512

struct ioas_node {
	_Atomic uintptr_t slot[IOAS_SLOTS]; /* 0, a struct ioas_node, or a struct ioas_mapping | IOAS_LEAF */
};

struct svio_ioas {
	struct svio_ioas_hot hot; /* first: the inline functions of svio_ioas.h look here */
	struct ioas_node root;	  /* a slot is 512 GiB */
	struct svio_ioas_hot_range hots[IOAS_HOTS];
	unsigned int num_hots; /* of hot.near and hots together */
	struct ioas_mapping *hot_mapping;

	pthread_mutex_t lock;
	uint32_t flags;
	bool settled; /* a device has been attached: every mapping has its IOVA, for good */
	struct ioas_index by_va, by_iova;
	struct ioas_mapping *free_mappings, *all_mappings;
	struct ioas_domain *domains;
	struct ioas_device *devices;
	struct ioas_bar *bars;
	struct svio_mem_listener listener;
	struct svio_ioas_watch *watches;
	struct svio_ioas_log *logs;
};
_Static_assert(offsetof(struct svio_ioas, hot) == 0, "svio_ioas_iova() finds it there");

/* ---- ioas.c ---------------------------------------------------------------------------------------------- */

struct ioas_request {
	uint64_t va, len;
	enum ioas_kind kind;
	uint32_t prot;
	int fd;
	uint64_t fd_offset;
	bool want_iova; /* now, also when no device is attached */
};

int svio__ioas_add(struct svio_ioas *ioas, const struct ioas_request *req, struct ioas_mapping **mp);
void svio__ioas_remove(struct svio_ioas *ioas, struct ioas_mapping *m);
/* Exactly [va, va + len) of that kind, or NULL. */
struct ioas_mapping *svio__ioas_find(struct svio_ioas *ioas, uint64_t va, uint64_t len, enum ioas_kind kind);

/* Index of the first mapping that ends behind addr. */
size_t svio__ioas_index_find_va(const struct ioas_index *ix, uint64_t va);
size_t svio__ioas_index_find_iova(const struct ioas_index *ix, uint64_t iova);
int svio__ioas_index_reserve(struct ioas_index *ix, size_t n);
void svio__ioas_index_insert(struct ioas_index *ix, size_t at, struct ioas_mapping *m);
void svio__ioas_index_remove(struct ioas_index *ix, size_t at);

/* Give a mapping its IOVA and show it to readers; the opposite. Neither fails: the table and the index have room. */
void svio__ioas_settle(struct svio_ioas *ioas, struct ioas_mapping *m, uint64_t iova);
void svio__ioas_unsettle(struct svio_ioas *ioas, struct ioas_mapping *m);

/* ---- attach.c -------------------------------------------------------------------------------------------- */

int svio__ioas_dma_map(struct svio_ioas *ioas, struct ioas_mapping *m, uint64_t iova);
void svio__ioas_dma_unmap(struct svio_ioas *ioas, struct ioas_mapping *m);

/* ---- watch.c --------------------------------------------------------------------------------------------- */

/* m has an IOVA. Before a domain maps it; after the last has unmapped it. */
void svio__ioas_tell_mapping(struct svio_ioas *ioas, const struct ioas_mapping *m, uint64_t iova);
void svio__ioas_tell_unmapped(struct svio_ioas *ioas, const struct ioas_mapping *m, uint64_t iova);
void svio__ioas_tell_attached(struct svio_ioas *ioas, struct svio_device *dev);
void svio__ioas_tell_detaching(struct svio_ioas *ioas, struct svio_device *dev);

/* ---- place.c --------------------------------------------------------------------------------------------- */

/* An IOVA that every domain, and `joining` (may be NULL), can map and nobody uses. */
int svio__ioas_place(const struct svio_ioas *ioas, const struct ioas_domain *joining, uint64_t va, uint64_t len,
		     uint64_t *iova);
/* Can the domain map [iova, iova + len)? Explained if not: -ENOSPC. */
int svio__ioas_fits(const struct ioas_domain *d, uint64_t va, uint64_t iova, uint64_t len);

/* ---- limits.c -------------------------------------------------------------------------------------------- */

/* May `entries` more mappings be made on the domain? */
int svio__ioas_limit_entries(struct ioas_domain *d, uint64_t entries);
/* May `bytes` more be pinned by this process? */
int svio__ioas_limit_memlock(const char *name, uint64_t bytes);

/* ---- table.c --------------------------------------------------------------------------------------------- */

void svio__ioas_table_init(struct svio_ioas *ioas);
void svio__ioas_table_free(struct svio_ioas *ioas);
/* All inner nodes that [va, va + len) needs. They stay until table_free(). */
int svio__ioas_table_prepare(struct svio_ioas *ioas, uint64_t va, uint64_t len);
void svio__ioas_table_set(struct svio_ioas *ioas, struct ioas_mapping *m);
void svio__ioas_table_clear(struct svio_ioas *ioas, struct ioas_mapping *m);
/* Change the words that readers look at. */
void svio__ioas_mapping_write(struct ioas_mapping *m, uint64_t va, uint64_t len, uint64_t delta);

#endif
