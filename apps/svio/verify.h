/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blocks that prove themselves, and the book of what must be where.
 *
 * A verify block is one logical block (512 bytes or more): a header that names its place and its version, a pattern
 * made from both, and a checksum over all of it. A block that was lost, torn, misplaced, mixed with another, or is an
 * old version of itself is told apart by its content alone. The unit is the logical block, since that is the unit a
 * controller writes atomically (NVMe 1.4 §6.4.1, AWUPF of 0): a larger write that died halfway is no error as long as
 * each block is the old or the new one.
 *
 * The book divides the range under test into slots of one request's size and knows for each which versions its blocks
 * may have: normally one; after a write that failed, any from the last confirmed to the last attempted. A write
 * excludes every other request from its slot, so that there is always a definite answer; reads may share one.
 *
 * A slot belongs to one thread at a time (perf gives each queue its own part of the book): no locks here.
 */
#ifndef SVIO_VERIFY_H
#define SVIO_VERIFY_H

#include "svio_base.h"

/* ---- one block ------------------------------------------------------------------------------------- */

#define VERIFY_MAGIC UINT64_C(0x314b4c426f697673) /* "svioBLK1" in memory */

/* Little-endian on the medium. Buffers are dword aligned (NVMe PRP entries, NVMe 1.4 §4.3), not more. */
struct verify_header {
	svio_le64 magic;
	svio_le64 lba;
	svio_le64 run; /* which run wrote it; no two runs have the same */
	svio_le64 seq; /* the version, from 1 */
	svio_le32 nsid;
	svio_le32 crc; /* CRC-32C of the whole block with this field zero */
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct verify_header) == 40, "on-medium layout");

/* What all blocks of a run share. */
struct verify_run {
	uint64_t run;
	uint32_t nsid;
	uint32_t lba_size; /* bytes; a multiple of 8, at least 64 */
};

/* Make `nlb` blocks from `lba` on in buf, all of version seq. */
void verify_fill(const struct verify_run *run, void *buf, uint64_t lba, uint32_t nlb, uint64_t seq);

enum verify_result {
	VERIFY_OK,	/* a block of this run, of a version that may be there */
	VERIFY_FOREIGN, /* a sound block of another run; only where this run has none yet */
	VERIFY_UNKNOWN, /* not one of ours: nothing can be said; only where this run has none yet */
	VERIFY_BAD_MAGIC, /* it should be ours and is not */
	VERIFY_BAD_CRC,	  /* torn or corrupted */
	VERIFY_BAD_LBA,	  /* a sound block of another place */
	VERIFY_BAD_RUN,	  /* a sound block of another run or namespace: our write was lost */
	VERIFY_STALE,	  /* an old version: a write was lost */
	VERIFY_FUTURE,	  /* a version that was not written yet */
	VERIFY_RESULTS
};

/* Short text for reports. Static string. */
const char *verify_result_text(enum verify_result result);
/* The results' names in JSON: "stale". Static string. */
const char *verify_result_name(enum verify_result result);

static inline bool verify_is_error(enum verify_result result)
{
	return result >= VERIFY_BAD_MAGIC;
}

/*
 * Judge one block read from `lba`. Versions min … max may be there; min 0 means that nothing of this run need be
 * there. *seq (may be NULL) is the version found, 0 when the block has none.
 */
enum verify_result verify_check(const struct verify_run *run, const void *buf, uint64_t lba, uint64_t min, uint64_t max,
				uint64_t *seq);

/* ---- the book -------------------------------------------------------------------------------------- */

#define VERIFY_WRITER UINT32_MAX

struct verify_slot {
	uint64_t confirmed; /* version of the last write that completed well; 0 none */
	uint64_t attempted; /* version of the last write submitted; confirmed <= attempted */
	uint32_t busy;	    /* readers, or VERIFY_WRITER */
};

static inline bool verify_read_begin(struct verify_slot *slot)
{
	if (slot->busy >= VERIFY_WRITER - 1)
		return false;
	slot->busy++;
	return true;
}

static inline void verify_read_end(struct verify_slot *slot)
{
	slot->busy--;
}

/* *seq is the version to write. */
static inline bool verify_write_begin(struct verify_slot *slot, uint64_t *seq)
{
	if (slot->busy)
		return false;
	slot->busy = VERIFY_WRITER;
	*seq = ++slot->attempted;
	return true;
}

/* The write was never submitted: as if it had not begun. */
static inline void verify_write_cancel(struct verify_slot *slot)
{
	slot->attempted--;
	slot->busy = 0;
}

/* ok: the medium has it. Otherwise it may have any part of it. */
static inline void verify_write_end(struct verify_slot *slot, bool ok)
{
	if (ok)
		slot->confirmed = slot->attempted;
	slot->busy = 0;
}

#endif
