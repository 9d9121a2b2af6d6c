/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio nvme: moving a controller's user to another controller that reaches the same namespaces (re-instatement).
 *
 * For controllers without migration state of their own, which are nearly all. Nothing of the controller moves: the driver on the
 * source stops it and saves its ledger, the requests that had not completed; the driver on the target has a controller of its
 * own, set up alike, and sends them again.
 *
 *	source:	svio_nvme_quiesce() → svio_nvme_qp_save() of each queue pair → the target runs: destroy and close as ever
 *							       or: svio_nvme_unquiesce() → goes on, as after a reset
 *	target:	svio_nvme_open(), svio_nvme_qp_create() alike → svio_nvme_qp_load() → it runs: svio_nvme_qp_replay()
 *
 * in the callbacks of the application's part (svio_migrate.h): quiesce, save, load, resume.
 *
 * When is it safe to send a request again? It was submitted, and no completion of it was seen. The rules:
 *
 *  1. The source's controller has stopped for certain before anything is saved: CSTS.RDY = 0 after CC.EN = 0 (NVMe 1.4 §3.1.5,
 *     §7.3.2), so no command of the source can be carried out later than one of the target. A controller that does not
 *     stop makes quiesce fail, and the migration with it. What it had completed by then counts as completed.
 *  2. The target's namespace is the source's: the same NGUID, UUID or EUI64, of which at least one is not zero, the same size and the
 *     same block size. A namespace without any of them cannot be known again, and does not move.
 *  3. Reads and Flush: always. A second time does no harm.
 *  4. Writes, Write Zeroes, Deallocate: a second time writes the same data to the same blocks, since the buffers moved unchanged (they
 *     belong to the driver until the callback). That is the same as once, if nobody else wrote to these blocks in
 *     between. Of the same process nobody did, unless it had two writes to the same block in flight at once, which
 *     NVMe leaves undefined anyhow (1.4 §6.8), or another host writes there. Whoever does that says SVIO_NVME_FAIL, here as over a reset: then
 *     every request in flight completes with -ECANCELED before anything is saved, and nothing is sent again.
 *  5. Buffers lie in memory that moves (svio_migrate_allocated()), at the same address; lists of scattered requests are re-based.
 *     A request with a buffer elsewhere makes save fail.
 *  6. What had passed its timeout completes with -ETIMEDOUT before anything is saved.
 *
 * The order of submission is kept. Data in a volatile write cache of the source's controller: a shared namespace has to show completed
 * writes to every controller of its subsystem, cached or not; nothing is flushed here.
 */
#ifndef SVIO_NVME_MIGRATE_H
#define SVIO_NVME_MIGRATE_H

#include "svio_migrate.h"
#include "svio_nvme.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Stop the controller, take what it had completed (callbacks run here; what they submit is kept), and hold it. No other thread polls,
 * from before this call until svio_nvme_unquiesce(). -ETIMEDOUT it does not stop, -ENODEV it is gone: nothing is held then.
 */
int svio_nvme_quiesce(struct svio_nvme *nvme);
/* Let it go on: the next polls initialise it and send again what is in flight. Does nothing when not held. */
void svio_nvme_unquiesce(struct svio_nvme *nvme);

/* How the ledger's callbacks become numbers, and callbacks again. */
struct svio_nvme_move {
	/* Source. A number for this request; 0 and *cookie, or -errno. */
	int (*save)(void *app, svio_nvme_cb cb, void *ctx, uint64_t *cookie);
	/* Source. Does this memory move? */
	bool (*moves)(void *app, const void *ptr, uint64_t len);
	/* Target. 0, cb and ctx; or -errno, explained: a number that was not given out. */
	int (*load)(void *app, uint64_t cookie, svio_nvme_cb *cb, void **ctx);
	void *app;
};

/* The controller is held. The ledger, oldest first. -EFAULT rule 5. *count (may be NULL): requests in flight. */
int svio_nvme_qp_save(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_buf *out, uint32_t *count);
/*
 * Into a queue pair without requests, of the same depth or more. Nothing is sent yet, and nobody may poll. Everything read is checked.
 * -EINVAL it does not fit, explained; the queue pair is as before then.
 */
int svio_nvme_qp_load(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_in *in);
/* Send what was loaded. Then poll. */
void svio_nvme_qp_replay(struct svio_nvme_qp *qp);

/* ---- the other way: the controller moves by its own state ------------------------------------------------- */

/*
 * A controller with migration state (svio_migrate_device_create(); the models of the device kit) moves as it is: queues, requests that
 * it has begun, doorbells. Then the driver's queues lie in an area (svio_nvme_opts.area), nothing is stopped or sent again, and these
 * two move what the driver knows. Both while the device is stopped (STOP_COPY; after its load), with no thread polling.
 * qps: all queue pairs, in an order that means something to the caller; without interrupts (-EOPNOTSUPP). Requests need the same as in
 * svio_nvme_qp_save(). A controller that is being reset cannot move like this: -EAGAIN.
 */
int svio_nvme_state_save(struct svio_nvme *nvme, struct svio_nvme_qp *const *qps, uint32_t count, const struct svio_nvme_move *move,
			 struct svio_migrate_buf *out);
/* opts.area: where it lies now. Nothing read is believed; on failure nothing is left but the device as it is. */
int svio_nvme_state_load(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts,
			 const struct svio_nvme_move *move, struct svio_migrate_in *in, struct svio_nvme **nvmep,
			 struct svio_nvme_qp **qps, uint32_t count);

/* What of requests in flight over a reset, from now on. Before or after queue pairs are created; not while the controller is away. */
void svio_nvme_set_policy(struct svio_nvme *nvme, enum svio_nvme_policy policy);

/* What a queue pair's user needs of the target. */
struct svio_nvme_needs {
	uint32_t queues, depth, max_transfer; /* depth: as in svio_nvme_qp_opts */
};
/*
 * Facts about the controller and one namespace. In the target, `source` is the other side's record, and of the controller's
 * namespaces the one that the source uses is described: *ns is it; -ENOENT is not returned: what is missing makes the records differ.
 */
int svio_nvme_describe(struct svio_nvme *nvme, const struct svio_nvme_needs *needs, struct svio_nvme_ns *ns,
		       struct svio_migrate_record *mine, const struct svio_migrate_record *source);

#ifdef __cplusplus
}
#endif
#endif
