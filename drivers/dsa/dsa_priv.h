/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside the DSA driver.
 *
 * What is shared. `struct svio_dsa` is guarded by its lock; poll only tries it, and nobody waits for the device while holding it, except
 * for the hook of an orderly reset. A queue is one thread's alone, but for `word`, which whoever suspends the device points to `alarm`, so
 * that the queue's next poll comes into the slow path.
 *
 * Generations. `gen` counts the times that the device was enabled, `dead` is the last generation that has certainly stopped. A queue
 * remembers the generation in which it was enabled. Between losing the device and its death nothing of a queue is failed or sent
 * again: the device may still write. Only its own thread enables a queue again, since the portal's slots are counted from
 * there: a thread that has not noticed anything stores into a queue that is disabled, which takes nothing.
 */
#ifndef DSA_PRIV_H
#define DSA_PRIV_H

#ifndef SVIO_DRIVER_DSA
#error "dsa_priv.h is private to drivers/dsa"
#endif

#include <pthread.h>
#include "dsa_spec.h"
#include "svio_dsa.h"
#include "svio_dsa_migrate.h"

#define DSA_MS		UINT64_C(1000000)
#define DSA_RETRY	DSA_MS /* between looks at a device that is away */
#define DSA_MAX_WQS	64u
#define DSA_REG_DEAD	UINT32_MAX
#define DSA_MAX_STRIKES 5u
#define DSA_MAX_RETRIES 16u /* page faults in a row without progress */
#define DSA_PIECE	(UINT64_C(64) << 20) /* of a longer operation: so that one does not keep an engine for seconds, and hangs are told from lengths */
#define DSA_CR_STRIDE	64u /* a line each: the device writes one while we poll the next */

enum dsa_state { DSA_RUNNING, DSA_SUSPENDED, DSA_GONE };

enum dsa_step { /* of a suspended device */
	DSA_STEP_ACCESS, /* until BARs are back and registers answer */
	DSA_STEP_STOP,	 /* RESET DEVICE is under way */
	DSA_STEP_ENABLE, /* ENABLE DEVICE is under way */
	DSA_STEP_HELD,	 /* stopped, and stays so: svio_dsa_quiesce() */
};

/*
 * The device's one command register. A result is written to where its owner wants it, by anybody who comes by with the lock, so that
 * a thread that does not poll keeps the register from nobody.
 */
#define DSA_CMD_PENDING INT32_MIN
struct dsa_command {
	int *result; /* NULL: the register is free. Else DSA_CMD_PENDING, until 0, a positive enum dsa_cmd_err, or -errno */
	uint64_t deadline;
};

struct dsa_stats {
	_Atomic uint64_t resets, revocations, requeued, canceled, timeouts, page_faults, device_errors;
};

struct svio_dsa {
	_Alignas(SVIO_CACHELINE) _Atomic uint32_t alarm; /* always 1 */
	_Atomic int state;				 /* enum dsa_state; written with the lock held */

	_Alignas(SVIO_CACHELINE) struct svio_device *dev;
	char name[64];
	struct svio_dsa_opts opts;
	struct svio_bar *regs;	  /* NULL: by region access */
	struct svio_bar *portals;
	bool model; /* plain stores, not MOVDIR64B */
	uint32_t version, grpcfg, wqcfg, wqcfg_bytes;
	uint64_t gencap, wqcap, grpcap, engcap, opcap;
	uint32_t wqs, wq_size, groups; /* as configured */
	uint64_t max_xfer;
	uint32_t max_batch;

	pthread_mutex_t lock;
	enum dsa_step step;
	struct dsa_command cmd;
	int cmd_result, nobodys_result;
	uint64_t gen, dead;
	uint64_t next_try, lost_since, busy_since, last_fault;
	_Atomic uint64_t next_watch; /* queues look at it without the lock */
	uint32_t strikes;
	int step_err; /* why the last attempt failed */
	bool leaving;	/* the host wants the device back */
	bool quiesced;	/* between prepare and done of a device reset */
	bool hold;	/* go no further than STOP */
	bool opened, hooked;
	struct svio_dsa_wq *wq[DSA_MAX_WQS];
	struct svio_device_hook hook;
	/* Dirty tracking of identity bonds (dsa_dirty.c). */
	pthread_mutex_t log_lock; /* dirty, and which queues are tracked; inside the lock above, if both */
	struct svio_ioas_log log; /* added while there are log_users */
	struct svio_ioas *log_ioas;
	uint32_t log_users;
	uint8_t *dirty; /* NULL: not tracked */
	struct dsa_stats stats;
};

/* ---- queues -------------------------------------------------------------------------------------------- */

#define DSA_OP_FREE 0xffu

enum dsa_req_flags {
	DSA_REQ_CACHE = 1u << 0,
	DSA_REQ_FENCE = 1u << 1,
	DSA_REQ_BACKWARD = 1u << 2, /* pieces are taken from the end */
	DSA_REQ_SERIAL = 1u << 3,   /* a batch whose members go one by one now */
	DSA_REQ_ENDED = 1u << 4,    /* a batch's member that has its result */
};

/*
 * One operation: what it was, and how far it is. [lo, hi) has not been sent yet, [clo, chi) is the piece in flight; offsets from the
 * beginning. Addresses are what the device sees.
 */
struct dsa_req {
	svio_dsa_cb cb;
	void *ctx;
	uint64_t src, dst, third; /* third: src2, dst2 or pattern */
	uint64_t lo, hi, clo, chi;
	uint64_t len, seq;
	uint32_t crc;
	uint32_t stamp; /* ms of the first tick after it was sent or last went on; 0: none since */
	uint8_t op, flags;
	uint16_t retries;
	uint16_t count, at, failed; /* batch: members; the one in flight when SERIAL; those that failed */
	int status;			 /* member that has ended */
	struct svio_dsa_result *results; /* batch: the caller's, or NULL. Member: its own, inside the caller's array, or NULL */
};
_Static_assert(sizeof(struct dsa_req) <= 2 * SVIO_CACHELINE, "two lines");

enum dsa_wq_state {
	DSA_WQ_LIVE,
	DSA_WQ_PARKED,	 /* the portal is a dummy; operations are held */
	DSA_WQ_ENABLING, /* ENABLE WQ is under way */
	DSA_WQ_DEAD,	 /* after DSA_GONE, or on its way out: nothing is taken */
};

struct svio_dsa_wq {
	/* Polling. */
	_Alignas(SVIO_CACHELINE) _Atomic(const _Atomic uint32_t *) word; /* device events, or dsa->alarm */
	uint64_t inflight; /* bit n: operation n waits for its record */
	uint64_t held;	   /* bit n: a drain that waits for older operations */
	uint8_t *crs;	   /* record n at n * DSA_CR_STRIDE */
	uint32_t countdown, countdown_from;
	_Atomic uint8_t special; /* operations up to this number are looked at twice: DSA_SPECIAL, or all of them while tracking */
	/* Submitting. */
	_Alignas(SVIO_CACHELINE) uint8_t *portal;
	uint64_t free; /* bit n: operation n is free */
	uint64_t max_xfer, ops, seq;
	uint32_t slot; /* of the portal, counted */
	uint32_t pasid, desc_flags, cache; /* cache: SVIO_DSA_CACHE where the device knows it */
	bool model, native;
	struct svio_sva_bond *bond;
	uint32_t depth;
	bool progressed; /* a record was found since the last tick */
	/* Seldom. */
	_Alignas(SVIO_CACHELINE) struct svio_dsa *dsa;
	enum dsa_wq_state state;
	bool settled; /* parked, and the dead generation's remains are dealt with */
	bool block;
	uint32_t index, max_batch, max_xfer_shift;
	uint64_t gen, park_seq, tick_ns;
	uint32_t now_ms, progress_ms; /* at the last tick; at the last one that found progress */
	uint64_t late; /* bit n: operation n has timed out */
	uint64_t kept; /* bit n: operation n has been settled: it is to be sent again */
	uint64_t known; /* bit n: parked, and what operation n does next has not been sent: any operation can be, from there */
	int enable_err, cmd_result;
	bool created, in_log;
	uint8_t *dirty; /* where to mark, once tracking has ever begun */
	uint8_t *mem; /* records, lists and their records; DMA memory, or the process's own in a native bond */
	size_t mem_len;
	struct dsa_desc *lists;		 /* batch of operation n: lists + n * max_batch */
	struct dsa_completion *batch_crs; /* likewise */
	struct dsa_req *members;	 /* likewise */
	uint8_t *dummy;			 /* a portal that leads nowhere */
	struct dsa_req reqs[DSA_PORTAL_SLOTS];
};

#define DSA_SPECIAL	DSA_OP_DRAIN /* NOOP, BATCH, DRAIN: what has no memory, or records of its own */
#define DSA_SPECIAL_ALL 0xffu
_Static_assert(DSA_OP_NOOP < DSA_SPECIAL && DSA_OP_BATCH < DSA_SPECIAL && DSA_OP_MEMMOVE > DSA_SPECIAL, "order of operations");

/* dsa.c */
uint32_t dsa_read32(struct svio_dsa *dsa, uint32_t reg);
void dsa_write32(struct svio_dsa *dsa, uint32_t reg, uint32_t v);
uint64_t dsa_read64(struct svio_dsa *dsa, uint32_t reg);
void dsa_write64(struct svio_dsa *dsa, uint32_t reg, uint64_t v);
void dsa_configure(struct svio_dsa *dsa); /* the device is disabled: groups, engines, sizes */
void dsa_nap(uint64_t ns);
/* A device looked at, and nothing changed: dsa_teardown(), or dsa_hook() and go on. */
int dsa_begin(struct svio_device *dev, const struct svio_dsa_opts *opts, struct svio_dsa **dsap);
void dsa_hook(struct svio_dsa *dsa);
void dsa_teardown(struct svio_dsa *dsa, bool stopped);
static inline enum dsa_state dsa_get_state(const struct svio_dsa *dsa)
{
	return (enum dsa_state)atomic_load_explicit(&dsa->state, memory_order_acquire);
}
static inline const _Atomic uint32_t *dsa_device_word(const struct svio_dsa *dsa)
{
	return &((const struct svio_device_hot *)(const void *)dsa->dev)->events;
}
static inline void dsa_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}
static inline uint8_t *dsa_portal(const struct svio_dsa *dsa, uint32_t wq)
{
	return (uint8_t *)dsa->portals->addr + (size_t)wq * DSA_PORTAL_STRIDE + DSA_PORTAL_MSIX_UNLIMITED * DSA_PORTAL_SIZE;
}
const char *dsa_cmd_text(int err);

/* dsa_recover.c: all but dsa_wq_fault() with the lock held */
bool dsa_cmd_start(struct svio_dsa *dsa, int *result, enum dsa_cmd cmd, uint32_t operand); /* false: the register is taken */
void dsa_cmd_service(struct svio_dsa *dsa, uint64_t now);
void dsa_freeze(struct svio_dsa *dsa, const char *why);
void dsa_set_gone(struct svio_dsa *dsa, bool unplugged);
void dsa_advance(struct svio_dsa *dsa, uint64_t now);
void dsa_wq_fault(struct svio_dsa_wq *wq, const char *what);
void dsa_hook_prepare(void *ctx, struct svio_device *dev);
void dsa_hook_done(void *ctx, struct svio_device *dev, int err);

/* dsa_wq.c */
uint32_t dsa_poll_slow(struct svio_dsa_wq *wq, uint32_t max);
/* In memory alone: known to the device's object, parked. mem: where it lay before, in opts.area; NULL: new. */
int dsa_wq_new(struct svio_dsa *dsa, struct svio_sva_bond *bond, const struct svio_dsa_wq_opts *opts, void *mem, struct svio_dsa_wq **wqp);
void dsa_wq_free(struct svio_dsa_wq *wq);
void dsa_park(struct svio_dsa_wq *wq); /* of a live one: nothing more reaches the portal */
void dsa_resend(struct svio_dsa_wq *wq);
size_t dsa_wq_mem_len(const struct svio_dsa_wq *wq);
/* Operations of `mask` submitted before `before`, oldest first. Their number. */
uint32_t dsa_in_order(const struct svio_dsa_wq *wq, uint64_t mask, uint64_t before, uint32_t ids[DSA_PORTAL_SLOTS]);

/* dsa_dirty.c */
int dsa_log_join(struct svio_dsa_wq *wq);
void dsa_log_leave(struct svio_dsa_wq *wq);
/* What the device may have written for operation id since it was sent. */
void dsa_mark(const struct svio_dsa_wq *wq, uint32_t id);

/* dsa_io.c */
uint32_t dsa_reap(struct svio_dsa_wq *wq, uint32_t max);
uint32_t dsa_release_held(struct svio_dsa_wq *wq, uint32_t max);
void dsa_send(struct svio_dsa_wq *wq, uint32_t id);
/* End operation id; what it has done so far is kept in its result. */
void dsa_complete(struct svio_dsa_wq *wq, uint32_t id, int status);
/* The generation that operation id was sent in is dead, its record is not there: can the rest be sent again? Makes it so; of a batch, what can. */
bool dsa_rewind(struct svio_dsa_wq *wq, uint32_t id);
/* Does operation id end well if what the device has of it is begun again, without anybody knowing how far it was? */
bool dsa_repeatable(const struct svio_dsa_wq *wq, uint32_t id);
/* Is it one of those that this driver sends, with an address in `third`? What is read, what is written. */
#define DSA_READS  (1u << 0) /* src */
#define DSA_READS2 (1u << 1) /* third */
#define DSA_WRITES (1u << 2) /* dst */
#define DSA_WRITES2 (1u << 3) /* third */
uint32_t dsa_touches(uint32_t op);
static inline bool dsa_overlaps(uint64_t a, uint64_t b, uint64_t len)
{
	return a - b < len || b - a < len;
}
static inline struct dsa_completion *dsa_cr(const struct svio_dsa_wq *wq, uint32_t id)
{
	return (struct dsa_completion *)(void *)(wq->crs + (size_t)id * DSA_CR_STRIDE);
}

#endif
