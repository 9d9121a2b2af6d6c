/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's own structures. Who touches what:
 *
 *   struct svio_nvme_qp   one thread, its user's, without a lock. Others write two fields only:
 *                         `word` (atomic pointer), and, holding the controller's lock, `next`.
 *   struct svio_nvme      `state` and `stats` are atomic; everything below `lock` belongs to its
 *                         holder. The lock is held for bounded work only: register accesses, never
 *                         a wait. Polls only try it.
 *   I/O queue memory      written by the device; by us before the queue is created and after it
 *                         is dead.
 *
 * Generations. Each write of CC.EN = 1 begins a generation: nvme->epoch. When CC.EN = 0 was
 * confirmed by CSTS.RDY = 0, or the function was reset, or it is unplugged, nothing of that
 * generation or before will write to memory any more: nvme->dead_epoch. A queue pair belongs to the
 * generation in which it was created on the controller (qp->epoch). It is dead, and its completion
 * queue final, when qp->epoch <= nvme->dead_epoch. recover.c builds everything on that.
 */
#ifndef NVME_PRIV_H
#define NVME_PRIV_H

#ifndef SVIO_DRIVER_NVME
#error "nvme_priv.h is the driver's own: include svio_nvme.h"
#endif

#include <pthread.h>
#include "nvme_spec.h"
#include "svio_nvme.h"

#define NVME_ADMIN_ENTRIES 32u
#define NVME_ADMIN_SLOTS   (NVME_ADMIN_ENTRIES - 1)
#define NVME_MAX_AERS	   4u
#define NVME_MAX_QID	   1023u
#define NVME_MAX_TRANSFER \
	(32u << 20) /* 65536 blocks of 512 bytes: then the length alone bounds NLB too */
#define NVME_MIN_DEPTH	   2u
#define NVME_MS		   UINT64_C(1000000) /* in nanoseconds */
#define NVME_MAX_STRIKES   5u		     /* faults in a row before the controller is given up */
#define NVME_STRIKE_FORGET (10000 * NVME_MS)
#define NVME_RETRY	   (1 * NVME_MS) /* between looks at a device that is away */

/* ---- admin queue (admin.c) ------------------------------------------------------------------- */

enum nvme_slot_state { NVME_SLOT_FREE, NVME_SLOT_BUSY, NVME_SLOT_DONE };

enum nvme_slot_kind {
	NVME_SLOT_WAITED, /* somebody will call nvme_admin_result() */
	NVME_SLOT_ORPHAN, /* nobody will: free on completion */
	NVME_SLOT_AER,
	NVME_SLOT_AER_LOG,
	NVME_SLOT_ABORT,
};

struct nvme_slot {
	uint8_t state, kind, opcode;
	uint16_t status; /* status code as SVIO_NVME_SC() */
	int err;	 /* -errno: the command never completed */
	uint32_t dw0;
	uint64_t deadline; /* ns; UINT64_MAX for events, which may take for ever */
};

struct nvme_admin {
	struct nvme_cmd *sq;
	struct nvme_cqe *cq;
	uint64_t sq_iova, cq_iova;
	volatile void *sq_db, *cq_db; /* mapped, or NULL: by region access */
	uint32_t tail, head, phase;
	uint32_t busy; /* slots in use */
	bool live;     /* enabled: commands may be sent */
	struct nvme_slot slots[NVME_ADMIN_SLOTS];
};

/* ---- controller ------------------------------------------------------------------------------ */

enum nvme_state {
	NVME_RUNNING,
	NVME_SUSPENDED, /* queues are void; waiting for the device or initialising it */
	NVME_GONE,	/* for good; nothing touches the hardware any more */
};

enum nvme_step { /* of bringing the controller up, recover.c */
		 NVME_STEP_NONE,
		 NVME_STEP_ACCESS,  /* wait until its registers can be read */
		 NVME_STEP_PRE_OFF, /* CC.EN is set but RDY is not yet: wait before clearing it */
		 NVME_STEP_OFF,	    /* CC.EN cleared: wait for RDY = 0 */
		 NVME_STEP_HELD,    /* RDY is 0 and stays so: svio_nvme_quiesce() */
		 NVME_STEP_ON,	    /* CC.EN set: wait for RDY = 1 */
		 NVME_STEP_IDENTIFY,
		 NVME_STEP_QUEUES,
		 NVME_STEP_DBBUF,
};

enum nvme_why { NVME_WHY_OPEN, NVME_WHY_USER, NVME_WHY_EVENT, NVME_WHY_FAULT, NVME_WHY_DEVICE };

struct nvme_stats {
	_Atomic uint64_t resets, revocations, requeued, failed, aborts, timeouts;
};

struct svio_nvme {
	struct svio_device *dev;
	struct svio_ioas *ioas;
	char name[64];
	struct svio_nvme_opts opts;
	_Atomic uint32_t state;
	_Atomic uint32_t
		alarm; /* always 1: what a queue pair's `word` points to when it must look up */
	struct nvme_stats stats;

	/* Set at open, constant from then on. */
	struct svio_bar *regs;	   /* registers, maybe with doorbells; NULL: by region access */
	struct svio_bar *dbs;	   /* doorbells when they are mapped apart; else NULL */
	volatile uint8_t *db_base; /* address of offset 0x1000; NULL: doorbells by region access */
	uint64_t db_len;
	uint64_t cap;
	uint32_t vs, dstrd, page_shift, ready_ms, reg_max_qid;
	bool sgl, use_shadow;
	uint8_t *dma; /* NVME_PAGES_* pages of 1 << page_shift */
	uint64_t dma_iova;

	pthread_mutex_t
		identify_lock; /* the data page of synchronous commands; taken before lock */
	pthread_mutex_t lock;
	enum nvme_step step;
	bool leaving;  /* the host wants the device back: stop and end */
	bool quiesced; /* between prepare and done of a device reset */
	bool hold;     /* stop it and leave it so */
	uint64_t deadline, next_try, lost_since, last_fault;
	uint32_t strikes;
	int step_err; /* why the last attempt failed */
	int slot;     /* of the step under way */
	uint64_t epoch, dead_epoch;
	struct nvme_admin admin;
	struct nvme_id_ctrl id; /* a copy: the device cannot change it under us */
	bool identified;
	uint32_t granted; /* I/O queue pairs */
	uint32_t aers, aborts_out, aer_count;
	struct svio_nvme_qp *qps; /* changed with log_lock too */
	uint64_t qid_used[SVIO_BITMAP_WORDS(NVME_MAX_QID + 1)];
	int *irq_fds; /* one per vector, or NULL while no queue uses interrupts */
	uint32_t irq_count;
	struct svio_device_hook hook;
	bool hooked, opened;

	struct svio_ioas_log log;
	pthread_mutex_t log_lock; /* under the ioas's lock; nothing is taken with it */
	uint8_t *dirty;		  /* NULL: not tracked */
};

enum { /* pages of nvme->dma */
       NVME_PAGE_SQ,
       NVME_PAGE_CQ,
       NVME_PAGE_IDENTIFY, /* for synchronous commands */
       NVME_PAGE_INIT,	   /* for the initialisation's own Identify */
       NVME_PAGE_LOG,
       NVME_PAGE_SHADOW,
       NVME_PAGE_EVENTIDX,
       NVME_PAGES
};

/* ---- queue pair ------------------------------------------------------------------------------ */

/*
 * The ledger: what a request was, enough to write its submission entry again. op == NVME_REQ_FREE:
 * not in flight.
 */
enum nvme_req_op {
	NVME_REQ_READ,	/* buf */
	NVME_REQ_WRITE, /* buf */
	NVME_REQ_READV, /* dptr, list memory */
	NVME_REQ_WRITEV,
	NVME_REQ_FLUSH,
	NVME_REQ_ZEROES,
	NVME_REQ_DSM, /* list memory, nlb ranges */
	NVME_REQ_FREE = 0xff,
};

enum nvme_req_flags {
	NVME_REQ_FUA = 1u << 1,	     /* as SVIO_NVME_FUA */
	NVME_REQ_SGL = 1u << 2,	     /* dptr is an SGL descriptor */
	NVME_REQ_TIMEDOUT = 1u << 3, /* an abort was asked for */
	NVME_REQ_BAD = 1u << 4,	     /* could not be written again */
};

struct nvme_req {
	svio_nvme_cb cb;
	void *ctx;
	union {
		const void *buf;
		uint64_t dptr[2];
	};
	uint64_t lba;
	uint64_t seq;  /* order of submission */
	uint32_t nsid; /* this pair as in struct svio_nvme_ns */
	uint32_t lba_size;
	uint32_t nlb;
	uint8_t op, flags;
	uint16_t aborted; /* when NVME_REQ_TIMEDOUT was set, in units of 8 ms */
};
_Static_assert(sizeof(struct nvme_req) == SVIO_CACHELINE, "a request's ledger is one line");
_Static_assert(offsetof(struct nvme_req, lba_size) == offsetof(struct nvme_req, nsid) + 4,
	       "a pair");
_Static_assert(offsetof(struct svio_nvme_ns, lba_size) == offsetof(struct svio_nvme_ns, nsid) + 4,
	       "a pair");

#define NVME_SAMPLES 16u

#define NVME_SHADOW \
	0x80000000u /* beside enum svio_nvme_io_flags: a doorbell is more than a store */

enum nvme_qp_state {
	NVME_QP_LIVE,	/* exists on the controller */
	NVME_QP_PARKED, /* doorbells lead nowhere; requests are held */
	NVME_QP_CQ,	/* Create I/O Completion Queue is under way */
	NVME_QP_SQ,	/* Create I/O Submission Queue is under way */
	NVME_QP_DEAD,	/* after NVME_GONE, everything completed */
};

struct svio_nvme_qp {
	/* Completing: what an empty poll reads, then what a completion needs. */
	_Alignas(SVIO_CACHELINE) _Atomic(const _Atomic uint32_t *)
		word;		    /* device events, or nvme->alarm */
	const struct nvme_cqe *cqe; /* the next entry */
	uint32_t stale;		    /* phase tag of an entry not yet written */
	uint32_t countdown;	    /* polls until the clock is looked at */
	const struct nvme_cqe *cq, *cq_end;
	volatile uint32_t *cq_db;
	uint32_t sqid_bits; /* qid << 16, as in the third dword of a completion */
	uint32_t cid_limit; /* nreq, or 0 while what is read is tracked: then no completion is plain */
	uint32_t entries; /* of each ring, a power of two */
	uint32_t cq_rung; /* completion head last told */

	/* Submitting. */
	_Alignas(SVIO_CACHELINE) const struct svio_ioas *ioas;
	struct nvme_cmd *sq;
	volatile uint32_t *sq_db;
	uint64_t
		/* requests submitted since the queue was created; the ring's tail is seq & mask */
		seq;
	uint64_t held;	  /* seq after the last request held back by SVIO_NVME_MORE */
	int64_t free_idx; /* into nvme_free_ids(): minus the number of free ids */
	uint32_t mask;
	uint32_t shadow_mode; /* NVME_SHADOW when doorbells have shadows or are messages, else 0 */

	/* Both, but rarer. */
	_Alignas(SVIO_CACHELINE) uint64_t rung; /* seq told by the shadow doorbell */
	uint8_t *lists; /* list memory of request cid: lists + (cid << list_shift) */
	uint64_t lists_iova;
	uint32_t max_transfer, page_size;
	uint32_t list_shift;
	uint32_t nreq;
	/*
	 * Doorbell Buffer Config: shadow and EventIdx of both doorbells, NULL when not used.
	 * Doorbells that cannot be mapped (sq_db, cq_db NULL) take the same way; without Doorbell
	 * Buffer Config the shadow is dummy_db then, and there is no EventIdx.
	 */
	volatile uint32_t *sq_shadow, *cq_shadow;
	const volatile uint32_t *sq_eventidx;

	/* Seldom. */
	_Alignas(SVIO_CACHELINE) const volatile uint32_t *cq_eventidx;
	uint8_t *dirty; /* where to mark, once tracking has ever begun */
	struct svio_nvme *nvme;
	struct svio_nvme_qp *next;
	enum nvme_qp_state state;
	bool settled; /* parked, and the dead queue's remains are dealt with */
	/*
	 * after NVME_GONE: nothing is taken any more; `left` counts what is still to be completed
	 */
	bool closed;
	bool in_list;
	bool has_cq, has_sq; /* on the controller, in generation epoch */
	bool sgl;
	uint16_t oncs;
	uint32_t qid, left;
	int slot;	/* of the creation under way, or -1 */
	int create_err; /* the controller refused to create the queues: status */
	uint64_t epoch, park_seq;
	uint64_t tick_ns, watch_ns, admin_ns;
	uint32_t countdown_from;
	uint32_t num_samples; /* ever taken since seq began */
	struct {
		uint64_t ns, seq; /* at ns, seq requests had been submitted */
	} samples[NVME_SAMPLES];
	uint32_t dummy_db; /* where doorbells of a parked queue go */
	uint64_t sq_iova, cq_iova;
	uint64_t *order; /* scratch of nreq words, for sorting */
	void *dma;	 /* DMA memory of both rings and the lists */
	int irq_fd, epoll_fd, timer_fd;
	uint32_t vector;

	void *block; /* the allocation that this structure lies in */
	/*
	 * The stack of free ids lies before this structure and the ledger here, so that neither
	 * address costs a load.
	 */
	_Alignas(SVIO_CACHELINE) struct nvme_req reqs[];
};

/*
 * Free ids, a stack that grows away from the queue pair: ids[free_idx] … ids[-1]. The next to take
 * is ids[free_idx]; none is free when free_idx is 0.
 */
static inline uint16_t *nvme_free_ids(struct svio_nvme_qp *qp)
{
	return (uint16_t *)(void *)qp;
}
_Static_assert(offsetof(struct svio_nvme_qp, ioas) == SVIO_CACHELINE, "completing: one line");
_Static_assert(offsetof(struct svio_nvme_qp, rung) == 2 * SVIO_CACHELINE, "submitting: one line");
_Static_assert(offsetof(struct svio_nvme_qp, cq_eventidx) == 3 * SVIO_CACHELINE, "both: one line");

/* ctrl.c */
int nvme_begin(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts, struct svio_nvme **nvmep);
void nvme_hook(struct svio_nvme *nvme);
void nvme_teardown(struct svio_nvme *nvme, bool stopped);
void *nvme_dma_alloc(struct svio_nvme *nvme, size_t len, size_t align);
void nvme_dma_free(struct svio_nvme *nvme, void *ptr);
int nvme_place_dma(struct svio_nvme *nvme, uint8_t *dma);
uint32_t nvme_read32(struct svio_nvme *nvme, uint32_t reg);
void nvme_write32(struct svio_nvme *nvme, uint32_t reg, uint32_t v);
void nvme_write64(struct svio_nvme *nvme, uint32_t reg, uint64_t v);
void nvme_doorbell(struct svio_nvme *nvme, uint32_t which, uint32_t value);
static inline uint8_t *nvme_page(struct svio_nvme *nvme, unsigned int page)
{
	return nvme->dma + ((size_t)page << nvme->page_shift);
}
static inline uint64_t nvme_page_iova(struct svio_nvme *nvme, unsigned int page)
{
	return nvme->dma_iova + ((uint64_t)page << nvme->page_shift);
}
static inline enum nvme_state nvme_get_state(const struct svio_nvme *nvme)
{
	return (enum nvme_state)atomic_load_explicit(&nvme->state, memory_order_acquire);
}
static inline const _Atomic uint32_t *nvme_device_word(const struct svio_nvme *nvme)
{
	return &((const struct svio_device_hot *)(const void *)nvme->dev)->events;
}
static inline void nvme_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}
void nvme_nap(uint64_t ns);
/*
 * Stores before become visible before loads after: the one order that x86 does not keep (Intel SDM
 * vol. 3A §8.2.3.4).
 */
static inline void nvme_full_fence(void)
{
#if defined(__x86_64__)
	__asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");
#else
	atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* admin.c: all but nvme_admin_sync() with the lock held. */
void nvme_admin_stop(
	struct svio_nvme *nvme); /* the controller is stopped: end what was under way */
void nvme_admin_start(
	struct svio_nvme
		*nvme); /* program and zero the queues; the controller is about to be enabled */
void nvme_admin_abandon(struct svio_nvme *nvme, int slot);
int nvme_admin_submit(struct svio_nvme *nvme, struct nvme_cmd *cmd, enum nvme_slot_kind kind,
		      uint32_t timeout_ms);
/*
 * 1 = still under way; otherwise the slot is free, *status is 0, a positive NVMe status or -errno.
 */
int nvme_admin_result(struct svio_nvme *nvme, int slot, int *status, uint32_t *dw0);
void nvme_admin_poll(struct svio_nvme *nvme, uint64_t now);
int nvme_admin_sync(struct svio_nvme *nvme, struct nvme_cmd *cmd, uint32_t *dw0);
void nvme_aer_start(struct svio_nvme *nvme);
/* -EIO for a positive status, explained; negative ones pass. */
int nvme_admin_explain(struct svio_nvme *nvme, const char *what, int status);

/* identify.c */
void nvme_identify_cmd(struct nvme_cmd *cmd, uint8_t cns, uint32_t nsid, uint64_t iova);
int nvme_adopt_identity(struct svio_nvme *nvme, const struct nvme_id_ctrl *id); /* lock held */

/* prp.c */
struct nvme_prp {
	uint64_t *list; /* little-endian on the wire */
	uint64_t list_iova;
	uint32_t list_words; /* capacity */
	uint32_t page_size;
	uint32_t pages; /* described so far */
	uint32_t pos;	/* words of the list in use */
	uint64_t prp1;
	bool closed; /* the last piece ended inside a page: nothing may follow */
};
void nvme_prp_begin(struct nvme_prp *p, void *list, uint64_t list_iova, uint32_t list_bytes,
		    uint32_t page_size);
int nvme_prp_add(struct nvme_prp *p, uint64_t iova, uint64_t len);
uint64_t nvme_prp_end(const struct nvme_prp *p); /* PRP2 */
uint32_t nvme_prp_list_bytes(uint64_t max_transfer, uint32_t page_size);

struct nvme_sgl_build {
	struct nvme_sgl *list;
	uint64_t list_iova;
	uint32_t capacity, count;
};
void nvme_sgl_begin(struct nvme_sgl_build *s, void *list, uint64_t list_iova, uint32_t list_bytes);
int nvme_sgl_add(struct nvme_sgl_build *s, uint64_t iova, uint64_t len);
struct nvme_sgl nvme_sgl_end(const struct nvme_sgl_build *s);

/* io.c */
uint32_t nvme_reap(struct svio_nvme_qp *qp, uint32_t max);
uint32_t nvme_reap_dead(struct svio_nvme_qp *qp, uint32_t max);
bool nvme_cqe_ready(const struct svio_nvme_qp *qp);
void nvme_complete(struct svio_nvme_qp *qp, uint32_t cid, int status);
int nvme_rebuild(struct svio_nvme_qp *qp, uint32_t cid, struct nvme_cmd *sqe);

/* dirty.c */
void nvme_log_open(struct svio_nvme *nvme);
void nvme_log_close(struct svio_nvme *nvme);
void nvme_qp_link(struct svio_nvme_qp *qp); /* these two: nvme->lock held */
void nvme_qp_unlink(struct svio_nvme_qp *qp);
/* Once the limit was seen to be 0: the table that was stored before it. No instruction on x86, where loads are in order. */
static inline __attribute__((always_inline)) uint8_t *nvme_dirty_table(const struct svio_nvme_qp *qp)
{
#ifndef __SANITIZE_THREAD__ /* there the limit itself is an acquire */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
	return qp->dirty;
}
/* The device has written, or may have, what the request reads. */
void nvme_mark_scattered(const struct svio_nvme_qp *qp, const struct nvme_req *req);
static inline __attribute__((always_inline)) void nvme_mark(const struct svio_nvme_qp *qp,
							    const struct nvme_req *req)
{
	if (svio_likely(req->op == NVME_REQ_READ))
		svio_dirty_mark(nvme_dirty_table(qp), req->buf, (size_t)req->nlb * req->lba_size);
	else if (req->op == NVME_REQ_READV)
		nvme_mark_scattered(qp, req);
}
/* Written by whoever starts tracking, read with every completion. */
static inline __attribute__((always_inline)) uint32_t nvme_cid_limit(const struct svio_nvme_qp *qp)
{
#ifdef __SANITIZE_THREAD__
	return __atomic_load_n(&qp->cid_limit, __ATOMIC_ACQUIRE);
#else
	return qp->cid_limit; /* as an operand of the compare, which GCC does not make of an atomic load */
#endif
}

/* qp.c */
struct nvme_qp_shape {
	uint32_t qid, entries, nreq, max_transfer;
	void *dma; /* rings and lists, there already */
};
/* A queue pair that exists on the controller, in memory that exists; not yet in the list. */
int nvme_qp_adopt(struct svio_nvme *nvme, const struct nvme_qp_shape *shape, struct svio_nvme_qp **qpp);
void nvme_qp_release(struct svio_nvme_qp *qp);
size_t nvme_qp_dma_len(const struct svio_nvme_qp *qp);

/* recover.c */
void nvme_connect_doorbells(struct svio_nvme_qp *qp);
uint32_t nvme_poll_slow(struct svio_nvme_qp *qp, uint32_t max);
void nvme_freeze(struct svio_nvme *nvme, enum nvme_why why); /* lock held */
/*
 * The controller misbehaves: reset it, or give it up when that does not help. fault: lock held;
 * qp_fault: not.
 */
void nvme_fault(struct svio_nvme *nvme, int err, const char *fmt, ...) SVIO_PRINTF(3, 4);
void nvme_qp_fault(struct svio_nvme_qp *qp, const char *fmt, ...) SVIO_PRINTF(2, 3);
void nvme_advance(struct svio_nvme *nvme, uint64_t now);    /* lock held */
void nvme_set_gone(struct svio_nvme *nvme, bool unplugged); /* lock held */
void nvme_qp_step(struct svio_nvme_qp *qp);		    /* lock held */
void nvme_qp_park(struct svio_nvme_qp *qp);
uint32_t nvme_qp_resubmit(struct svio_nvme_qp *qp);
uint32_t nvme_qp_end(struct svio_nvme_qp *qp, uint32_t max, int status);
void nvme_hook_prepare(void *ctx, struct svio_device *dev);
void nvme_hook_done(void *ctx, struct svio_device *dev, int err);

/* timeout.c */
void nvme_tick(struct svio_nvme_qp *qp);

/* irq.c */
void nvme_irq_release(struct svio_nvme *nvme);
int nvme_qp_irq_create(struct svio_nvme_qp *qp);
void nvme_qp_irq_destroy(struct svio_nvme_qp *qp);

#endif
