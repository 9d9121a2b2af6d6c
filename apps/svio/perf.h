/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine behind `svio nvme perf`: keeps queues full, counts, measures, and proves what was written.
 *
 *	perf_create() → perf_attach(controller) → perf_start(PERF_RUN) → perf_wait()/perf_sample()… → perf_stop() →
 *	perf_join() → [perf_start(PERF_READBACK) → perf_wait()… → perf_join()] → perf_get_result() → perf_detach() →
 *	perf_destroy()
 *
 * A device that goes away ends the run by itself: all requests complete with -ENODEV, perf_running() becomes false,
 * perf_gone() says why. perf_detach(), another perf_attach() and the same engine goes on with its counters and its book.
 *
 * A request is submitted again from its own completion callback, held back from the doorbell until the poll's end: one
 * doorbell per batch, one reading of the cycle counter per request, no lock and no system call.
 *
 * Exactly once. Every submission has a tag in the low bits of its callback's context. A completion for a request that
 * is not in flight, or of an earlier submission, is counted as `doubled`; what has not completed when the drain
 * time is over is counted as `lost`.
 *
 * Threads: everything here is called by one thread, except perf_sample(), perf_running() and perf_gone().
 */
#ifndef SVIO_PERF_H
#define SVIO_PERF_H

#include <sched.h>
#include "svio_nvme.h"
#include "svio_nvme_migrate.h"
#include "verify.h"

struct perf;

enum perf_rw { PERF_RANDREAD, PERF_RANDWRITE, PERF_READ, PERF_WRITE, PERF_RANDRW, PERF_RW_KINDS };
enum perf_op { PERF_OP_READ, PERF_OP_WRITE, PERF_OPS };

#define PERF_MAX_QUEUES 256
#define PERF_MAX_QD	65535
#define PERF_MAX_BS	(1u << 20)
/* Slots of the book; the range under --verify is cut to as many requests. */
#define PERF_MAX_SLOTS	(UINT64_C(1) << 22)

struct perf_config {
	enum perf_rw rw;
	uint32_t bs;	   /* bytes of a request: a multiple of the block size */
	uint32_t offset;   /* of the buffers into their page: a multiple of 4, below 4096 */
	uint32_t qd;	   /* requests in flight, of each queue */
	uint32_t queues;
	uint32_t batch;	   /* completions per poll, and so requests per doorbell; 0 = all there are */
	uint32_t read_pct; /* PERF_RANDRW: reads of a hundred requests */
	uint64_t lba;	   /* the range under test, in blocks of the namespace */
	uint64_t blocks;   /* 0 = to the end */
	uint64_t seed;	   /* of the access pattern: the same seed, the same addresses */
	bool verify;
	bool interrupts;   /* sleep when idle, instead of polling on */
	uint32_t drain_ms; /* how long requests may take to complete after the stop */
	struct svio_migrate_area *area; /* where buffers, requests and the book lie, so that they can move; NULL: anywhere */
	cpu_set_t cpus;	   /* one thread each, as many as there are queues; empty = one thread, anywhere */
};

/*
 * Allocate queues, buffers (room mem must be started) and, with verify, the book. *config is copied. Fails explained when
 * the numbers do not fit the namespace.
 */
int perf_create(const struct perf_config *config, const struct svio_nvme_ns *ns, struct perf **perfp);
void perf_destroy(struct perf *perf);

/* Bytes of DMA memory that perf_create() will allocate. */
uint64_t perf_memory(const struct perf_config *config);

/* Bytes of an area that holds all that perf_create() will allocate there. */
uint64_t perf_area_bytes(const struct perf_config *config, const struct svio_nvme_ns *ns);

/* ---- moving (perf_state.c) -------------------------------------------------------------------------- */

/*
 * In the middle of PERF_RUN: end the threads where they are, requests in flight and all. 0; or -errno, explained: it was about to end
 * or had failed (perf_thaw() all the same).
 */
int perf_freeze(struct perf *perf);
/* The threads again. */
int perf_thaw(struct perf *perf);
/* How the controller's side moves: the driver sets up another controller, or the controller's own state does. */
enum perf_way { PERF_BY_DRIVER, PERF_BY_STATE };
/* The frozen engine and its queue pairs, which are held (svio_nvme_quiesce()), or whose device is stopped. */
int perf_save(struct perf *perf, enum perf_way way, struct svio_nvme *nvme, struct svio_migrate_buf *out);
/*
 * The engine out of what was saved, frozen; what the area holds belongs to it. *nvme: the controller to create queue pairs on, or (by
 * state) NULL, and it is made, with opts. Nothing is believed. Then perf_replay() (by driver), perf_thaw().
 */
struct perf_place {
	struct svio_migrate_area *area;
	struct svio_device *dev;
	struct svio_ioas *ioas;
	const struct svio_nvme_opts *opts;
	const struct svio_nvme_ns *ns;
	/* perf_prepare() for this configuration, or ahead is NULL. The queue pairs are taken when ahead->queues becomes 0. */
	struct perf_ahead *ahead;
};
/* What the target makes before it has to be fast. */
struct perf_ahead {
	uint32_t queues, qd, bs;
	bool interrupts;
	struct svio_nvme_qp *qps[PERF_MAX_QUEUES];
};
int perf_load(const struct perf_place *place, struct svio_migrate_in *in, struct svio_nvme **nvme, struct perf **perfp);
void perf_replay(struct perf *perf);
const struct perf_config *perf_get_config(const struct perf *perf);
/* As perf_destroy(), for one that was loaded and shall not run: what lies in the area is not touched. NULL is fine. */
void perf_forget(struct perf *perf);

/* ---- controllers ------------------------------------------------------------------------------------- */

/*
 * Create the queue pairs. On a second controller, same_medium says that its namespace holds what the first one's did: the book
 * stays. Otherwise it begins anew, and so does the run's number.
 */
int perf_attach(struct perf *perf, struct svio_device *dev, struct svio_nvme *nvme, const struct svio_nvme_ns *ns,
		bool same_medium);
/* The two halves of it: c->queues queue pairs for queues, qd, bs and interrupts of c; and they become the engine's. */
int perf_prepare(const struct perf_config *c, struct svio_device *dev, struct svio_nvme *nvme, struct svio_nvme_qp **qps);
int perf_adopt(struct perf *perf, struct svio_device *dev, struct svio_nvme_qp *const *qps, const struct svio_nvme_ns *ns,
	       bool same_medium);
/* Destroy the queue pairs. Not while running. Does nothing when not attached. */
void perf_detach(struct perf *perf);

/* PERF_READBACK reads and checks every slot that was written, each queue those of its neighbour. */
enum perf_phase { PERF_RUN, PERF_READBACK };
int perf_start(struct perf *perf, enum perf_phase phase);
/* Submit no more. The threads end when everything in flight has completed, or the drain time is over. */
void perf_stop(struct perf *perf);
/* Wait for the threads. 0; -ENODEV the device went away; or the error that ended the run, explained. */
int perf_join(struct perf *perf);

/* Sleep until `until_ns` (svio_now_ns()), a thread's end, or a signal. */
void perf_wait(struct perf *perf, uint64_t until_ns);
bool perf_running(const struct perf *perf);
bool perf_gone(const struct perf *perf);
/* Interrupt mode: make sleeping queues look at their device's events. */
void perf_wake(struct perf *perf);

/*
 * At most so many requests a second from now on, of all queues together; 0 = as many as there can be. A queue that has to wait does not
 * look at its completions meanwhile. Any thread.
 */
void perf_limit(struct perf *perf, uint64_t per_second);

/* What has been completed well so far, all queues. */
struct perf_sample {
	uint64_t ops[PERF_OPS];
	uint64_t failed;
};
void perf_sample(const struct perf *perf, struct perf_sample *sample);

#define PERF_STATUSES 16
#define PERF_COMPLAINTS 8

struct perf_complaint { /* a block that failed its check */
	uint64_t lba, seq, min, max;
	enum verify_result result;
};

struct perf_result {
	uint32_t bs;
	uint32_t threads;
	uint64_t lba, blocks; /* the range in fact used */
	bool range_cut;	      /* smaller than asked for, so that the book fits */
	uint64_t run;	      /* the run's number, as in the blocks */
	uint64_t submitted, completed_ok, completed_err, lost, doubled;
	struct perf_status {
		int status;
		uint64_t count;
	} status[PERF_STATUSES]; /* of failed requests; count 0 ends the list; the last row may collect the rest (status 0) */
	uint64_t verified[VERIFY_RESULTS]; /* blocks, of both phases */
	uint64_t verify_errors;
	uint64_t slots_written;		   /* requests' worth of different places written */
	uint64_t readback_slots;	   /* of them, read back in PERF_READBACK */
	uint32_t complaints;
	struct perf_complaint complaint[PERF_COMPLAINTS];
	struct svio_hist latency[PERF_OPS]; /* cycles of svio_cycles() */
};
void perf_get_result(const struct perf *perf, struct perf_result *result);

#endif
