/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio dsa: moving the user of a DSA device to another device, in another process or machine, at the same addresses.
 *
 * Two ways. *Re-instatement*, for devices without migration state, which are all that one can buy: nothing of the device moves. The
 * driver on the source stops it and saves its ledger, the operations that had not completed; the driver on the target has a device of
 * its own, set up alike, and sends them again.
 *
 *	source:	svio_dsa_quiesce() → svio_dsa_wq_save() of each queue → the target runs: destroy and close as ever
 *							       or: svio_dsa_unquiesce() → goes on, as after a reset
 *	target:	svio_sva_bind(), svio_dsa_open(), svio_dsa_wq_create() alike → svio_dsa_wq_load() → it runs: svio_dsa_wq_replay()
 *
 * *Its own state*, further down. Both in the callbacks of the application's part (svio_migrate.h): quiesce, save, load, resume.
 *
 * Pointers. The ledger has virtual addresses. They are true in the target since the memory moved to the same ones; what the device
 * is told for them is asked of the target's bond: the pointer itself, or an IOVA. The target's PASID is another one. It stands in the
 * configuration of the queue and in descriptors, both of which the target's driver writes anew.
 *
 * Which operations may be sent again? Of one in flight nobody knows how much was carried out. The rules:
 *
 *  1. The source's device has stopped for certain before anything is saved (RESET DEVICE has completed; DSA specification, chapter 9,
 *     Device commands), so no descriptor of the source can write later than one of the target. A device that does not stop makes
 *     quiesce fail, and the migration with it. What has a completion record by then counts as completed.
 *  2. Fill, compare, compare pattern, CRC, no-op and drain: always. They read nothing that they write; a CRC begins again with the seed
 *     of its piece, which is in the ledger.
 *  3. Copy, copy with CRC and dualcast: if the piece in flight does not write what it reads. Its source is then as it was, since it belongs
 *     to the driver until the callback, and a second time writes the same. The piece counts, not the operation: what the device was
 *     given at once (64 MiB at most), less what a completion record has told.
 *  4. A copy whose piece overlaps its source (memmove): never from an unknown point; what it has already moved would be moved
 *     once more. quiesce waits for it before it stops the device, until it has completed, or its record tells that it stopped at a page
 *     and where: from there it is sent again like any other. The rest of such an operation that is longer than a piece is not begun on the source.
 *     Only if the device is lost meanwhile does it end with -ECANCELED, as it would have without a migration.
 *  5. Batches: by the rules for their operations. Those that have records are not repeated; the others go one by one, in order, fences
 *     respected: what follows a fence is not begun if something before it failed.
 *  6. Order: what was submitted first is sent first. Drains complete behind everything that was submitted before them.
 *  7. Memory of operations, and the array of a batch's results, moves (svio_dsa_move.moves()); an operation elsewhere makes save fail.
 *     That includes memory which a native bond reached by chance, such as a stack.
 *  8. Under SVIO_DSA_FAIL every operation in flight completes with -ECANCELED before anything is saved, and nothing is sent again. What has
 *     passed its timeout completes with -ETIMEDOUT.
 *
 * Two operations in flight that touch the same memory, one of them writing, without a fence or a drain between them are undefined on
 * this device with or without a migration (chapter 3, Ordering).
 */
#ifndef SVIO_DSA_MIGRATE_H
#define SVIO_DSA_MIGRATE_H

#include "svio_dsa.h"
#include "svio_migrate.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Take no more descriptors to the device, wait for what rule 4 says (as long as svio_dsa_opts.timeout_ms), stop the device, take what it
 * had completed (callbacks run here; what they submit is kept), and hold it. No other thread polls or submits, from before this call until
 * svio_dsa_unquiesce(). -ETIMEDOUT it does not end an operation, or does not stop; -ENODEV it is gone: nothing is held then.
 */
int svio_dsa_quiesce(struct svio_dsa *dsa);
/* Let it go on: the next polls set it up and send again what is in flight. Does nothing when not held. */
void svio_dsa_unquiesce(struct svio_dsa *dsa);

/* How the ledger's callbacks become numbers, and callbacks again. */
struct svio_dsa_move {
	/* Source. A number for this operation; 0 and *cookie, or -errno. */
	int (*save)(void *app, svio_dsa_cb cb, void *ctx, uint64_t *cookie);
	/* Both sides. Is this memory that moves? len may be 0 for operations without memory: not asked then. */
	bool (*moves)(void *app, const void *ptr, uint64_t len);
	/* Target. 0, cb and ctx; or -errno, explained: a number that was not given out. */
	int (*load)(void *app, uint64_t cookie, svio_dsa_cb *cb, void **ctx);
	void *app;
};

/* The device is held. The ledger, oldest first. -EFAULT rule 7. *count (may be NULL): operations in flight. */
int svio_dsa_wq_save(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_buf *out, uint32_t *count);
/*
 * Into a queue without operations, with room for as many, as large batches and pieces as the source's had in flight. Nothing is sent
 * yet, and nobody may poll. Everything read is checked. -EINVAL it does not fit or makes no sense, explained; the queue is as before then.
 */
int svio_dsa_wq_load(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_in *in);
/* Send what was loaded. Then poll. */
void svio_dsa_wq_replay(struct svio_dsa_wq *wq);

/* ---- the other way: the device moves by its own state ------------------------------------------------------ */

/*
 * A device with migration state (svio_migrate_device_create(); the models of the device kit) moves as it is: configuration, portals,
 * descriptors that it has begun, at whatever byte. Nothing is stopped or sent again, and every operation may move, overlapping or not. The
 * driver's records lie in an area then (svio_dsa_opts.area), and these calls move what the driver knows.
 *
 * The PASID is part of that state: it stands in the configuration of queues that are enabled, which nobody can change. So the target
 * binds with the source's (svio_sva_bind_pasid()), before it loads; where that PASID cannot be had, re-instatement is the way.
 *
 *	source:	threads stop polling → svio_dsa_state_quiesce() → [the device's part stops it] → svio_dsa_state_save()
 *	target:	[the device's part loads it] → svio_sva_bind_pasid() → svio_dsa_state_load() → [it runs] → poll
 */

/* From here on until the device is stopped, whatever is in flight counts as written (dirty tracking): a part of it will have been. */
void svio_dsa_state_quiesce(struct svio_dsa *dsa);
/*
 * The device is stopped (STOP_COPY), and no thread polls. wqs: all queues, in an order that means something to the caller. -EAGAIN the
 * device is being reset; -EOPNOTSUPP IOVAs of an identity bond that are not addresses; -EFAULT rule 7; -EINVAL no area.
 */
int svio_dsa_state_save(struct svio_dsa *dsa, struct svio_dsa_wq *const *wqs, uint32_t count, const struct svio_dsa_move *move,
			struct svio_migrate_buf *out);
/*
 * The device was loaded, and does not run yet. opts.area: where the records lie now; opts.wqs and wq_size are the state's. The bond has the
 * mode and the PASID of the source's. Nothing read is believed; on failure nothing is left but the device as it is.
 */
int svio_dsa_state_load(struct svio_device *dev, struct svio_sva_bond *bond, const struct svio_dsa_opts *opts,
			const struct svio_dsa_move *move, struct svio_migrate_in *in, struct svio_dsa **dsap, struct svio_dsa_wq **wqs,
			uint32_t count);

/* ---- what must fit ---------------------------------------------------------------------------------------------- */

/* What a device's user needs of the target. */
struct svio_dsa_needs {
	uint32_t wqs, depth, max_batch; /* queues, operations of each at a time, operations of a batch */
	bool by_state;
};
/*
 * Facts about the device and the bond. In the target, `source` is the other side's record, and what the device has is said instead of
 * what is needed.
 */
int svio_dsa_describe(struct svio_dsa *dsa, const struct svio_sva_bond *bond, const struct svio_dsa_needs *needs,
		      struct svio_migrate_record *mine, const struct svio_migrate_record *source);

#ifdef __cplusplus
}
#endif
#endif
