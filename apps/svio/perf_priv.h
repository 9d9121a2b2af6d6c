/* SPDX-License-Identifier: BSD-3-Clause */
/* Inside the engine: a queue and its requests, shared by perf.c (life) and perf_queue.c (the loop). */
#ifndef SVIO_PERF_PRIV_H
#define SVIO_PERF_PRIV_H

#include <pthread.h>
#include <semaphore.h>
#include "perf.h"

/* Requests are cache lines, so the low bits of their address are free for the submission's tag. */
#define PERF_TAG_MASK ((uintptr_t)(SVIO_CACHELINE - 1))

struct perf_req {
	_Alignas(SVIO_CACHELINE) struct perf_queue *queue;
	void *buf;
	uint64_t start; /* cycles */
	uint64_t lba;
	uint64_t seq;	/* verify: version being written */
	struct verify_slot *slot;
	uint8_t tag;
	uint8_t op; /* enum perf_op */
	bool in_flight;
};
_Static_assert(sizeof(struct perf_req) == SVIO_CACHELINE, "one line per request");

struct perf_queue {
	/* What every request touches. */
	_Alignas(SVIO_CACHELINE) struct svio_nvme_qp *qp;
	struct perf *perf;
	uint64_t rng[2];
	uint64_t base_lba;   /* of slot 0 of this queue's part */
	uint64_t slots;	     /* in it */
	uint64_t cursor;     /* sequential access, and the read-back */
	uint64_t read_limit; /* a 32-bit random number below it means: read */
	uint32_t nlb;	     /* blocks of a request */
	uint32_t batch;
	uint32_t inflight;
	uint32_t parked_count;
	bool sequential, verify, readback;
	bool gone, failed;

	/* Counters: written by the queue's thread, sampled by others. */
	_Alignas(SVIO_CACHELINE) uint64_t ops[PERF_OPS];
	uint64_t errors, submitted, doubled, lost;

	struct svio_nvme_ns ns;
	struct perf_req *reqs;
	struct perf_req **parked; /* not in flight: nothing to do for them now */
	void *buffers;

	/* --verify */
	struct verify_run run;
	struct verify_slot *book;    /* this queue's part */
	uint32_t *written;	     /* places of the part that hold something, in the order of their first write */
	uint64_t written_count;
	uint64_t readback_slots;
	uint64_t verified[VERIFY_RESULTS];
	struct perf_complaint complaint[PERF_COMPLAINTS];
	uint32_t complaints;

	/* The slow side. */
	struct perf_status status[PERF_STATUSES];
	uint64_t deadline; /* ns; end of the drain, once it has begun */
	uint64_t due;	   /* ns; perf_limit(): when the next completion may be taken */
	bool ended;
	int error;
	char error_text[SVIO_ERROR_MAX];
	struct svio_poller poller;  /* ours, in the loop */
	struct svio_poller irq;	    /* the driver's, for its interrupt */
	struct svio_hist latency[PERF_OPS];
};

struct perf_thread {
	pthread_t id;
	struct perf *perf;
	struct svio_loop *loop;
	int cpu; /* -1 any */
	bool started;
	_Atomic bool running;
};

struct perf {
	_Alignas(SVIO_CACHELINE) _Atomic bool stop; /* read-mostly, as is this: */
	_Atomic bool frozen; /* end at once, with requests in flight */
	_Atomic uint64_t gap; /* ns between two completions of a queue; 0: no limit */
	_Alignas(SVIO_CACHELINE) struct perf_config config;
	struct svio_nvme_ns ns;
	struct svio_device *dev; /* while attached */
	struct perf_queue *queues;
	struct perf_thread *threads;
	uint32_t nthreads;
	bool attached, range_cut;
	uint64_t slots; /* of the whole range */
	uint64_t media;	/* different ones seen */
	struct verify_slot *book;
	uint32_t *written;
	sem_t ended; /* posted by every thread that ends */
};

/* ---- perf.c: for perf_state.c ------------------------------------------------------------------------ */

uint64_t perf_buffer_stride(const struct perf_config *c);
int perf_check_config(const struct perf_config *c, const struct svio_nvme_ns *ns, uint64_t *slots);
/* Engine and queues, zeroed, without what may lie in an area; threads described. */
int perf_new(const struct perf_config *config, const struct svio_nvme_ns *ns, uint64_t slots, struct perf **perfp);
int perf_threads_start(struct perf *perf);
void perf_threads_end(struct perf *perf);

/* ---- perf_queue.c ---------------------------------------------------------------------------------- */

/* Make the queue ready for a phase: everything idle, all requests parked. */
void perf_queue_begin(struct perf_queue *q, enum perf_phase phase);
/* Point the queue's addresses at part `part` of `parts` (all of the range when nothing forbids sharing it). */
void perf_queue_place(struct perf_queue *q, uint32_t part);
/* One look at the queue, as a poller: the completions found; -ESHUTDOWN when it has ended. */
int perf_queue_poll(void *ctx);
/* Every request's callback; ctx is the request's address plus its tag. */
void perf_completed(void *ctx, int status);

#endif
