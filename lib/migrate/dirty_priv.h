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
 *	dirty_table.c	the table in which drivers mark
 *
 * Locks: ioas → ours → what drivers and devices take. Callbacks of room ioas come with the ioas's lock; we never call into
 * an ioas with ours.
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

/* ---- dirty_cpu.c ------------------------------------------------------------------------------------------ */

struct dirty_cpu {
	enum svio_dirty_cpu kind;
	/* 0, -EOPNOTSUPP (explained), or what fails. */
	int (*open)(void);
	void (*close)(void);
	/*
	 * Report and clear what was written in the spans; memory that is not watched yet is, and reported whole. *unseen: bytes that
	 * cannot be watched and are reported whole. A failure half-way loses nothing that was not emitted.
	 */
	int (*collect)(const struct dirty_span *spans, size_t n, dirty_emit emit, void *ctx, uint64_t *unseen);
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

/* One line of /proc/self/maps. */
struct dirty_vma {
	uint64_t start, end;
	char perms[5];
};
/* Call fn for each mapping that overlaps [start, end), in order. 0 or -errno; fn returns non-zero to end it. */
int svio__dirty_each_vma(uint64_t start, uint64_t end, int (*fn)(void *ctx, const struct dirty_vma *vma), void *ctx);

#endif
