/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside the dirty set. Everything here is called with the lock of dirty.c held, unless a line says otherwise.
 *
 *	dirty.c		sets: start, sync, stop; what a source found goes to every set that wants it
 *	dirty_as.c	an ioas as sets see it: mappings, devices, and by what each device is covered
 *	dirty_device.c	the device's own log
 *	dirty_cpu.c	which way to watch the CPU; two ways:
 *	dirty_uffd.c	asynchronous write protection and PAGEMAP_SCAN
 *	dirty_soft.c	soft-dirty bits, read while all threads stand still
 *	dirty_freeze.c	all threads stand still
 *	dirty_table.c	the table in which drivers mark
 *
 * Locks: that of start and stop → an ioas's → ours → what drivers and devices take. Callbacks of room ioas come with the
 * ioas's lock; we never call into an ioas with ours.
 */
#ifndef SVIO_DIRTY_PRIV_H
#define SVIO_DIRTY_PRIV_H

#ifndef SVIO_ROOM_MIGRATE
#error "dirty_priv.h is internal to room migrate"
#endif

#include "svio_dirty.h"

/* A range of virtual addresses. */
struct dirty_span {
	uint64_t va, len;
};

/* Written: [va, va + len). */
typedef void (*dirty_emit)(void *ctx, uint64_t va, uint64_t len);

/* dirty.c; without the lock, of course */
void svio__dirty_lock(void);
void svio__dirty_unlock(void);

/* ---- dirty_table.c ---------------------------------------------------------------------------------------- */

/* Address space for the table, and messages of vfio-user servers marked in it. -ENOMEM, explained. */
int svio__dirty_table_get(void);
void svio__dirty_table_put(void);
uint8_t *svio__dirty_table(void);
/* Report and clear the marks of the span. */
void svio__dirty_table_collect(const struct dirty_span *span, dirty_emit emit, void *ctx);

/* ---- dirty_as.c ------------------------------------------------------------------------------------------- */

/* A mapping. */
struct dirty_seg {
	uint64_t va, iova, len;
	bool writable; /* by devices */
};

struct dirty_segs {
	struct dirty_seg *v; /* sorted, disjoint */
	size_t n, cap;
};

/* What a device's log covers. */
struct dirty_ranges {
	bool all;
	struct dirty_span *v; /* of IOVAs, sorted */
	size_t n;
};

/* A domain whose bitmap is on. */
struct dirty_dom {
	struct svio_dma_domain *dma; /* one reference */
	unsigned int users;
	struct dirty_dom *next;
};

struct dirty_dev {
	struct svio_device *dev;
	struct svio_ioas_log *log; /* its driver's, or NULL */
	struct dirty_dom *dom;	   /* with IOMMU active */
	uint32_t refused;	   /* enum svio_dirty_source: tried, and not to be had */
	uint32_t active;
	struct dirty_ranges ranges; /* with DEVICE active */
	char why[128];		   /* the last refusal */
	struct dirty_dev *next;
};

/* An ioas that sets use. */
struct dirty_as {
	struct svio_ioas *ioas;
	struct svio_ioas_watch watch;
	unsigned int users;
	struct dirty_segs by_va, by_iova;
	bool lost; /* no memory to follow its mappings: everything counts as written */
	struct dirty_dev *devs;
	struct dirty_log_node {
		struct svio_ioas_log *log;
		struct dirty_log_node *next;
	} *logs;
	uint64_t rearmed;
	struct dirty_as *next;
};

/*
 * One more user; the first makes it, and the caller then calls svio_ioas_watch_add(&as->watch) without our lock, which fills it in.
 * NULL: no memory.
 */
struct dirty_as *svio__dirty_as_get(struct svio_ioas *ioas, bool *fresh);
/* One user less. With the last one its sources are off; the caller removes the watch without our lock, and then frees it. */
bool svio__dirty_as_put(struct dirty_as *as);
void svio__dirty_as_free(struct dirty_as *as);

/* Index of the first mapping that ends behind the address. */
size_t svio__dirty_find_va(const struct dirty_as *as, uint64_t va);
size_t svio__dirty_find_iova(const struct dirty_as *as, uint64_t iova);

/* Which source answers for a device to a set that may use `sources`; 0: none. */
uint32_t svio__dirty_choose(const struct dirty_dev *d, uint32_t sources);
/* Switch sources on and off as the sets that there are need them. */
void svio__dirty_as_cover(struct dirty_as *as);
/* Ask every log and bitmap about [iova, iova + len), which need not be mapped. */
void svio__dirty_as_collect(struct dirty_as *as, uint64_t iova, uint64_t len);
/* Drivers: mark what completions do not tell. */
void svio__dirty_as_touch(struct dirty_as *as);

/* ---- dirty.c: where sources put what they found ------------------------------------------------------------ */

/* The sources that some set of this ioas wants for the device. */
uint32_t svio__dirty_wanted(const struct dirty_as *as, const struct dirty_dev *d);
/* To the sets for which `source` (0: none) answers for the device. */
void svio__dirty_written(struct dirty_as *as, const struct dirty_dev *d, uint32_t source, uint64_t iova, uint64_t len);
/* A mapping has come: to sets of IOVAs. A mapping goes: everything that only its addresses lead to. */
void svio__dirty_mapped(struct dirty_as *as, const struct dirty_seg *seg);
void svio__dirty_unmapping(struct dirty_as *as, const struct dirty_seg *seg);

/* ---- dirty_device.c --------------------------------------------------------------------------------------- */

/* -ENOTTY and others, explained. ranges is filled in, its array on the heap. */
int svio__dirty_device_start(struct svio_device *dev, const struct dirty_segs *by_iova, struct dirty_ranges *ranges);
void svio__dirty_device_stop(struct svio_device *dev, struct dirty_ranges *ranges);
/* emit is given IOVAs. */
int svio__dirty_device_report(struct svio_device *dev, uint64_t iova, uint64_t len, dirty_emit emit, void *ctx);
bool svio__dirty_device_covers(const struct dirty_ranges *ranges, uint64_t iova, uint64_t len);

/* Runs of set bits: emit(start + i * page, …). */
void svio__dirty_runs(const uint64_t *bits, uint64_t nbits, uint64_t start, uint64_t page, dirty_emit emit, void *ctx);

/* ---- dirty_cpu.c ------------------------------------------------------------------------------------------ */

struct dirty_cpu {
	enum svio_dirty_cpu kind;
	/* 0, -EOPNOTSUPP (explained), or what fails. */
	int (*open)(void);
	void (*close)(void);
	/*
	 * Report and clear what was written in the spans; memory that is not watched yet is, and reported whole. *unseen: bytes that
	 * cannot be watched and are reported whole. A failure half-way loses nothing that was not emitted. last: what costs time only so
	 * that there can be a next look may be left out; that one then reports at least what it should.
	 */
	int (*collect)(const struct dirty_span *spans, size_t n, bool last, dirty_emit emit, void *ctx, uint64_t *unseen);
	/* These will not be asked for again. */
	void (*forget)(const struct dirty_span *span);
	/* Clearing is for the whole process: collect() must be given all that anybody watches. */
	bool global;
};

extern const struct dirty_cpu svio__dirty_uffd;
extern const struct dirty_cpu svio__dirty_soft;

/* Opened at the first call, closed with the last put. -EOPNOTSUPP, explained, when there is none. */
int svio__dirty_cpu_get(const struct dirty_cpu **cpup);
void svio__dirty_cpu_put(void);

/* Run fn while all other threads of the process are stopped; see dirty_freeze.c for what it may do. 0, what fn said, or why not, explained. */
int svio__dirty_freeze(int (*fn)(void *ctx), void *ctx);

/* One line of /proc/self/maps. */
struct dirty_vma {
	uint64_t start, end;
	char perms[5];
};
/* Call fn for each mapping that overlaps [start, end), in order. 0 or -errno; fn returns non-zero to end it. */
int svio__dirty_each_vma(uint64_t start, uint64_t end, int (*fn)(void *ctx, const struct dirty_vma *vma), void *ctx);

#endif
