/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Work for a DMA engine that proves itself, in a process that may move: operations of all kinds, numbered in the order of their
 * submission, each with everything that follows from its number: what it is, what is in its memory before, and what must be there
 * afterwards, bytes beside it included.
 *
 * Exactly once: a completion of an operation that is not in flight counts as `doubled`; a number below the next one that has neither
 * completed nor is in flight, as `lost`.
 *
 * Everything that moves lies in an area, at the same addresses on both sides. One thread polls and submits; the functions below are for
 * another one, while that one does not run, unless said otherwise.
 */
#ifndef SVIO_DSA_WORK_H
#define SVIO_DSA_WORK_H

#include "svio_dsa_migrate.h"

#define DSA_WORK_QUEUES 8u
#define DSA_WORK_DEPTH	64u
#define DSA_WORK_MAX	(UINT64_C(8) << 20)
#define DSA_WORK_BATCH	4u /* operations of a batch */

enum dsa_work_kind {
	DSA_WORK_COPY,
	DSA_WORK_OVERLAP, /* copy onto itself, shifted */
	DSA_WORK_FILL,
	DSA_WORK_COMPARE,
	DSA_WORK_COMPARE_PATTERN,
	DSA_WORK_DUALCAST,
	DSA_WORK_CRC,
	DSA_WORK_COPY_CRC,
	DSA_WORK_BATCHES, /* copy, CRC, copy of the copy behind a fence, overlapping copy of the source behind another */
	DSA_WORK_DRAIN,
	DSA_WORK_KINDS
};
const char *dsa_work_kind_name(enum dsa_work_kind kind);

struct dsa_work_config {
	uint32_t queues, depth; /* of each queue */
	uint64_t max_len;	/* bytes of an operation, from 1 on */
	uint64_t seed;
	uint32_t verify; /* 0 or 1 */
};

struct dsa_work_result {
	uint64_t submitted, completed, verified, wrong, errors, doubled, lost, inflight;
	uint64_t kinds[DSA_WORK_KINDS];	/* completed */
	uint64_t first_wrong; /* number, when there is one */
	int first_error;      /* status */
};

struct dsa_work;

uint64_t dsa_work_area_bytes(const struct dsa_work_config *config);
/* A new one in the area. Queues are the caller's: config->queues of them. */
int dsa_work_create(const struct dsa_work_config *config, struct svio_migrate_area *area, struct dsa_work **workp);
/* One that came: *in has where it lies. Everything is checked. */
int dsa_work_load(struct svio_migrate_area *area, struct svio_migrate_in *in, struct dsa_work **workp);
int dsa_work_save(const struct dsa_work *work, struct svio_migrate_buf *out);
/* Frees nothing of the area. NULL is fine. */
void dsa_work_destroy(struct dsa_work *work);
const struct dsa_work_config *dsa_work_get_config(const struct dsa_work *work);
void dsa_work_set_queues(struct dsa_work *work, struct svio_dsa_wq *const *wqs);
struct svio_dsa_move dsa_work_move(struct dsa_work *work);

/* yield: to a model that waits for this CPU. */
int dsa_work_start(struct dsa_work *work, bool yield);
/* End the thread; what is in flight stays so. */
void dsa_work_stop(struct dsa_work *work);
/* Submit nothing more, wait for what is in flight, and end. */
void dsa_work_finish(struct dsa_work *work);
/* At most so many operations a second from now on; 0 = as many as there can be. Any thread. */
void dsa_work_limit(struct dsa_work *work, uint64_t per_second);
/* So far. Any thread. */
uint64_t dsa_work_completed(const struct dsa_work *work);
/* Any time: something went wrong, and nothing more is submitted. */
bool dsa_work_failed(const struct dsa_work *work);
/* Completions that still come are nobody's: it goes on elsewhere. */
void dsa_work_forget(struct dsa_work *work);
void dsa_work_get_result(const struct dsa_work *work, struct dsa_work_result *result);

#endif
