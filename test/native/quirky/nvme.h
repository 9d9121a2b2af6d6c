/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A small NVMe driver over wire.h, for tests: registers by region messages, doorbells by stores into the mapped page or by messages, or
 * by shadows (Doorbell Buffer Config), queues and data in memory that the test has mapped for the device. Interrupts are used only
 * as far as the test asks for them. NVM Express 1.4 throughout.
 */
#ifndef QUIRKY_NVME_H
#define QUIRKY_NVME_H

#include "nvme_spec.h"
#include "wire.h"

#define QN_PAGE	  4096u
#define QN_QUEUES 4u

struct qn_queue {
	uint16_t id, phase, cid;
	uint32_t entries, cq_entries, tail, head, rung;
	volatile struct nvme_cmd *sq;
	volatile struct nvme_cqe *cq;
	uint64_t sq_iova, cq_iova;
	uint32_t vector; /* 0 without interrupts */
};

struct qn {
	struct qk *k;
	uint8_t *mem; /* the device sees it at iova */
	uint64_t iova, len, used;
	volatile uint8_t *dbs; /* BAR0 from 0x1000 on; NULL: by messages */
	bool posted;	       /* those need no answer */
	volatile uint8_t *shadow, *eventidx; /* after qn_shadow() */
	uint64_t rung, unrung;	       /* with shadows: doorbells that the controller asked for, and others */
	uint32_t stride, mqes;
	struct qn_queue admin, io[QN_QUEUES];
	struct nvme_id_ctrl id;
	uint64_t blocks;
	uint32_t block, max_xfer;
	int admin_irq; /* eventfd that admin completions signal; -1 */
};

/* Take BAR0's doorbells and the memory; nothing is sent. fd: of BAR0, mapped from `off` on, or -1. */
void qn_init(struct qn *n, struct qk *k, void *mem, uint64_t iova, uint64_t len, int bar_fd, uint64_t off);
void qn_fini(struct qn *n);
/* Page-aligned, zeroed, never given back. */
void *qn_alloc(struct qn *n, uint64_t len, uint64_t *iova);

uint32_t qn_reg(struct qn *n, uint32_t reg);
void qn_reg_set(struct qn *n, uint32_t reg, uint32_t value);
/* CC.EN = 0, queues, CC.EN = 1; false: it does not become ready. */
bool qn_enable(struct qn *n);
void qn_disable(struct qn *n);
/* Status without the phase. */
uint16_t qn_admin(struct qn *n, struct nvme_cmd *cmd, uint32_t *dw0);
/* Controller and first namespace. */
void qn_identify(struct qn *n);
/* vector 0: without interrupts. */
void qn_create(struct qn *n, unsigned int index, uint32_t sq_entries, uint32_t cq_entries, uint32_t vector);
void qn_delete(struct qn *n, unsigned int index);
/* Doorbell Buffer Config with these two pages; status. */
uint16_t qn_shadow(struct qn *n, void *pages, uint64_t iova);

/* Write an entry; qn_ring() tells of it. */
void qn_submit(struct qn_queue *q, struct nvme_cmd *cmd);
void qn_ring(struct qn *n, struct qn_queue *q);
/* The completion `ahead` places behind the next is there; so many at once are given back by qn_free(). */
bool qn_ready(const struct qn_queue *q, uint32_t ahead);
void qn_free(struct qn *n, struct qn_queue *q, uint32_t count);
/* Wait for one, serving DMA messages; take it and free its slot. */
struct nvme_cqe qn_wait(struct qn *n, struct qn_queue *q);

/* Read or write `len` bytes at iova, contiguous there; list: a page's iova and pointer for PRPs, one per command under way. */
void qn_rw_cmd(struct qn *n, struct nvme_cmd *cmd, bool write, uint64_t lba, uint64_t iova, uint32_t len, uint64_t *list, uint64_t list_iova);

/*
 * The work: written, read back and compared, with what lies around the buffers. Sizes of one block to the largest transfer, PRPs of
 * each form, all queues one by one, then all queues at once as deep as they are. The first thing that is wrong, or NULL.
 */
const char *qn_work(struct qn *n, unsigned int queues, uint32_t depth);

#endif
