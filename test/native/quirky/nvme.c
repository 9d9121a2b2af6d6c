/* SPDX-License-Identifier: BSD-3-Clause */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "nvme.h"

/* ---- memory and registers ---------------------------------------------------------------------------- */

void qn_init(struct qn *n, struct qk *k, void *mem, uint64_t iova, uint64_t len, int bar_fd, uint64_t off)
{
	memset(n, 0, sizeof(*n));
	n->k = k;
	n->mem = mem;
	n->iova = iova;
	n->len = len;
	n->admin_irq = -1;
	if (bar_fd >= 0) {
		void *p = mmap(NULL, QN_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, bar_fd, (off_t)off);

		qk_need(p != MAP_FAILED, "the doorbells can be mapped");
		n->dbs = p;
	}
}

void qn_fini(struct qn *n)
{
	if (n->dbs)
		munmap((void *)(uintptr_t)n->dbs, QN_PAGE);
	n->dbs = NULL;
}

void *qn_alloc(struct qn *n, uint64_t len, uint64_t *iova)
{
	uint8_t *p = n->mem + n->used;

	len = (len + QN_PAGE - 1) / QN_PAGE * QN_PAGE;
	qk_need(len <= n->len - n->used, "memory for the test");
	*iova = n->iova + n->used;
	n->used += len;
	memset(p, 0, len);
	return p;
}

uint32_t qn_reg(struct qn *n, uint32_t reg)
{
	uint32_t v = 0;

	qk_need(qk_read(n->k, 0, reg, &v, 4) == 0, "register %#x is read", reg);
	return v;
}

void qn_reg_set(struct qn *n, uint32_t reg, uint32_t value)
{
	if (n->posted)
		qk_post(n->k, 0, reg, &value, 4);
	else
		qk_need(qk_write(n->k, 0, reg, &value, 4) == 0, "register %#x is written", reg);
}

static bool wait_ready(struct qn *n, uint32_t want)
{
	uint64_t since = qk_now();
	uint32_t csts;

	do {
		csts = qn_reg(n, NVME_REG_CSTS);
		if ((csts & NVME_CSTS_RDY) == want)
			return true;
	} while (!(csts & NVME_CSTS_CFS) && !qk_late(since));
	return false;
}

static void queue_init(struct qn *n, struct qn_queue *q, uint16_t id, uint32_t sq_entries, uint32_t cq_entries)
{
	/* A queue that is created anew keeps its memory. */
	if (!q->sq) {
		memset(q, 0, sizeof(*q));
		q->sq = qn_alloc(n, sq_entries * sizeof(struct nvme_cmd), &q->sq_iova);
		q->cq = qn_alloc(n, cq_entries * sizeof(struct nvme_cqe), &q->cq_iova);
		q->entries = sq_entries;
		q->cq_entries = cq_entries;
	}
	qk_need(q->entries == sq_entries && q->cq_entries == cq_entries, "a queue of the size that it had");
	memset((void *)(uintptr_t)q->cq, 0, cq_entries * sizeof(struct nvme_cqe));
	q->id = id;
	q->phase = NVME_CQE_PHASE;
	q->tail = q->head = q->rung = 0;
}

void qn_disable(struct qn *n)
{
	qn_reg_set(n, NVME_REG_CC, 0);
	qk_need(wait_ready(n, 0), "the controller stops");
	n->shadow = n->eventidx = NULL;
}

bool qn_enable(struct qn *n)
{
	uint64_t cap;

	qk_need(qk_read(n->k, 0, NVME_REG_CAP, &cap, 8) == 0, "CAP is read");
	n->stride = 4u << NVME_CAP_DSTRD(cap);
	n->mqes = NVME_CAP_MQES(cap) + 1;
	qn_disable(n);
	queue_init(n, &n->admin, 0, 32, 32);
	qn_reg_set(n, NVME_REG_AQA, NVME_AQA(32, 32));
	qn_reg_set(n, NVME_REG_ASQ, (uint32_t)n->admin.sq_iova);
	qn_reg_set(n, NVME_REG_ASQ + 4, (uint32_t)(n->admin.sq_iova >> 32));
	qn_reg_set(n, NVME_REG_ACQ, (uint32_t)n->admin.cq_iova);
	qn_reg_set(n, NVME_REG_ACQ + 4, (uint32_t)(n->admin.cq_iova >> 32));
	qn_reg_set(n, NVME_REG_CC, NVME_CC_EN | NVME_SQE_SHIFT << NVME_CC_IOSQES_SHIFT | NVME_CQE_SHIFT << NVME_CC_IOCQES_SHIFT);
	return wait_ready(n, NVME_CSTS_RDY);
}

/* ---- queues -------------------------------------------------------------------------------------------- */

static void doorbell(struct qn *n, uint32_t off, uint32_t value)
{
	if (n->dbs)
		__atomic_store_n((volatile uint32_t *)(volatile void *)(n->dbs + off), value, __ATOMIC_RELEASE);
	else if (n->posted)
		qk_post(n->k, 0, NVME_REG_DBS + off, &value, 4);
	else
		qk_need(qk_write(n->k, 0, NVME_REG_DBS + off, &value, 4) == 0, "a doorbell is rung");
}

/* §7.13: the shadow, and the doorbell itself when the controller's mark is passed on the way from old to new. */
static void ring(struct qn *n, const struct qn_queue *q, uint32_t off, uint32_t old, uint32_t new)
{
	if (q->id && n->shadow) {
		uint32_t mark;

		__atomic_store_n((volatile uint32_t *)(volatile void *)(n->shadow + off), new, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		mark = __atomic_load_n((volatile uint32_t *)(volatile void *)(n->eventidx + off), __ATOMIC_SEQ_CST);
		if ((uint16_t)(new - mark - 1) >= (uint16_t)(new - old)) {
			n->unrung++;
			return;
		}
		n->rung++;
	}
	doorbell(n, off, new);
}

void qn_submit(struct qn_queue *q, struct nvme_cmd *cmd)
{
	cmd->cid = svio_cpu_to_le16(q->cid);
	q->cid++;
	q->sq[q->tail] = *cmd;
	q->tail = (q->tail + 1) % q->entries;
}

void qn_ring(struct qn *n, struct qn_queue *q)
{
	ring(n, q, 2 * q->id * n->stride, q->rung, q->tail);
	q->rung = q->tail;
}

bool qn_ready(const struct qn_queue *q, uint32_t ahead)
{
	uint32_t at = q->head + ahead;
	uint16_t phase = q->phase, status;

	if (at >= q->cq_entries) {
		at -= q->cq_entries;
		phase ^= NVME_CQE_PHASE;
	}
	status = __atomic_load_n((const volatile uint16_t *)(const volatile void *)&q->cq[at].status, __ATOMIC_ACQUIRE);
	return (le16toh(status) & NVME_CQE_PHASE) == phase;
}

void qn_free(struct qn *n, struct qn_queue *q, uint32_t count)
{
	uint32_t old = q->head;

	q->head += count;
	if (q->head >= q->cq_entries) {
		q->head -= q->cq_entries;
		q->phase ^= NVME_CQE_PHASE;
	}
	ring(n, q, (2 * q->id + 1u) * n->stride, old, q->head);
}

struct nvme_cqe qn_wait(struct qn *n, struct qn_queue *q)
{
	uint64_t since = qk_now();
	struct nvme_cqe cqe;

	while (!qn_ready(q, 0)) {
		qk_need(!qk_late(since), "a command of queue %u completes", q->id);
		if (n->k->nram)
			qk_serve(n->k, 100);
		else
			sched_yield();
	}
	cqe = q->cq[q->head];
	qk_need(svio_le16_to_cpu(cqe.sqid) == q->id, "a completion names its queue");
	qn_free(n, q, 1);
	return cqe;
}

uint16_t qn_admin(struct qn *n, struct nvme_cmd *cmd, uint32_t *dw0)
{
	uint16_t cid = n->admin.cid;
	struct nvme_cqe cqe;

	qn_submit(&n->admin, cmd);
	qn_ring(n, &n->admin);
	cqe = qn_wait(n, &n->admin);
	qk_need(svio_le16_to_cpu(cqe.cid) == cid, "an admin completion names its command");
	if (dw0)
		*dw0 = svio_le32_to_cpu(cqe.dw0);
	return svio_le16_to_cpu(cqe.status) & (uint16_t)~NVME_CQE_PHASE;
}

void qn_identify(struct qn *n)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_IDENTIFY, .cdw10 = svio_cpu_to_le32(NVME_CNS_CTRL) };
	struct nvme_id_ns ns;
	uint64_t iova;
	void *page = qn_alloc(n, QN_PAGE, &iova);

	cmd.prp1 = svio_cpu_to_le64(iova);
	qk_need(qn_admin(n, &cmd, NULL) == 0, "Identify Controller");
	memcpy(&n->id, page, sizeof(n->id));
	n->max_xfer = n->id.mdts ? QN_PAGE << n->id.mdts : 1u << 20;
	cmd.cdw10 = svio_cpu_to_le32(NVME_CNS_NS);
	cmd.nsid = svio_cpu_to_le32(1);
	qk_need(qn_admin(n, &cmd, NULL) == 0, "Identify Namespace");
	memcpy(&ns, page, sizeof(ns));
	n->blocks = svio_le64_to_cpu(ns.nsze);
	n->block = 1u << ns.lbaf[NVME_FLBAS_INDEX(ns.flbas)].lbads;
}

void qn_create(struct qn *n, unsigned int index, uint32_t sq_entries, uint32_t cq_entries, uint32_t vector)
{
	struct qn_queue *q = &n->io[index];
	struct nvme_cmd cmd = { .opcode = NVME_ADM_CREATE_CQ };
	uint16_t id = (uint16_t)(index + 1);

	queue_init(n, q, id, sq_entries, cq_entries);
	q->vector = vector;
	if (n->shadow) {
		memset((void *)(uintptr_t)(n->shadow + 2 * id * n->stride), 0, 2 * n->stride);
		memset((void *)(uintptr_t)(n->eventidx + 2 * id * n->stride), 0, 2 * n->stride);
	}
	cmd.prp1 = svio_cpu_to_le64(q->cq_iova);
	cmd.cdw10 = svio_cpu_to_le32(NVME_QUEUE_CDW10(id, cq_entries));
	cmd.cdw11 = svio_cpu_to_le32(NVME_CQ_CDW11(vector, vector != 0));
	qk_need(qn_admin(n, &cmd, NULL) == 0, "Create I/O Completion Queue %u", id);
	cmd.opcode = NVME_ADM_CREATE_SQ;
	cmd.prp1 = svio_cpu_to_le64(q->sq_iova);
	cmd.cdw10 = svio_cpu_to_le32(NVME_QUEUE_CDW10(id, sq_entries));
	cmd.cdw11 = svio_cpu_to_le32(NVME_SQ_CDW11(id));
	qk_need(qn_admin(n, &cmd, NULL) == 0, "Create I/O Submission Queue %u", id);
}

void qn_delete(struct qn *n, unsigned int index)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_DELETE_SQ, .cdw10 = svio_cpu_to_le32(index + 1) };

	qk_need(qn_admin(n, &cmd, NULL) == 0, "Delete I/O Submission Queue");
	cmd.opcode = NVME_ADM_DELETE_CQ;
	qk_need(qn_admin(n, &cmd, NULL) == 0, "Delete I/O Completion Queue");
}

uint16_t qn_shadow(struct qn *n, void *pages, uint64_t iova)
{
	struct nvme_cmd cmd = { .opcode = NVME_ADM_DBBUF_CONFIG, .prp1 = svio_cpu_to_le64(iova), .prp2 = svio_cpu_to_le64(iova + QN_PAGE) };
	uint16_t status;

	memset(pages, 0, 2 * QN_PAGE);
	status = qn_admin(n, &cmd, NULL);
	if (!status) {
		n->shadow = pages;
		n->eventidx = n->shadow + QN_PAGE;
	}
	return status;
}

/* ---- reads and writes ------------------------------------------------------------------------------------ */

void qn_rw_cmd(struct qn *n, struct nvme_cmd *cmd, bool write, uint64_t lba, uint64_t iova, uint32_t len, uint64_t *list, uint64_t list_iova)
{
	uint32_t first = QN_PAGE - (uint32_t)(iova % QN_PAGE), rest = len > first ? len - first : 0;

	*cmd = (struct nvme_cmd){ .opcode = write ? NVME_IO_WRITE : NVME_IO_READ, .nsid = svio_cpu_to_le32(1) };
	cmd->prp1 = svio_cpu_to_le64(iova);
	if (rest > QN_PAGE) {
		uint32_t pages = (rest + QN_PAGE - 1) / QN_PAGE;

		qk_need(pages <= QN_PAGE / 8, "a list of one page");
		for (uint32_t i = 0; i < pages; i++)
			list[i] = htole64(iova + first + (uint64_t)i * QN_PAGE);
		cmd->prp2 = svio_cpu_to_le64(list_iova);
	} else if (rest) {
		cmd->prp2 = svio_cpu_to_le64(iova + first);
	}
	cmd->cdw10 = svio_cpu_to_le32((uint32_t)lba);
	cmd->cdw11 = svio_cpu_to_le32((uint32_t)(lba >> 32));
	cmd->cdw12 = svio_cpu_to_le32(len / n->block - 1);
}

static uint8_t pattern(uint64_t seed, uint64_t i)
{
	uint64_t v = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

	return (uint8_t)(v >> 56 ^ v >> 24);
}

static void fill(uint8_t *p, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		p[i] = pattern(seed, i);
}

static bool holds(const uint8_t *p, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i < len; i++)
		if (p[i] != pattern(seed, i))
			return false;
	return true;
}

static bool all(const uint8_t *p, uint32_t len, uint8_t v)
{
	for (uint32_t i = 0; i < len; i++)
		if (p[i] != v)
			return false;
	return true;
}

#define CANARY	0xc5
#define BIGGEST ((1u << 20) + 2 * QN_PAGE)

struct buffer { /* for one transfer */
	uint8_t *p;
	uint64_t iova;
	uint64_t *list;
	uint64_t list_iova;
};

static uint16_t transfer(struct qn *n, struct qn_queue *q, bool write, uint64_t lba, const struct buffer *b, uint32_t off, uint32_t len)
{
	struct nvme_cmd cmd;
	struct nvme_cqe cqe;
	uint16_t cid = q->cid;

	qn_rw_cmd(n, &cmd, write, lba, b->iova + off, len, b->list, b->list_iova);
	qn_submit(q, &cmd);
	qn_ring(n, q);
	cqe = qn_wait(n, q);
	qk_need(svio_le16_to_cpu(cqe.cid) == cid, "a completion names its command");
	return svio_le16_to_cpu(cqe.status) & (uint16_t)~NVME_CQE_PHASE;
}

/* Offset in its first page, and blocks of 512 bytes. */
static const struct {
	uint32_t off, len;
} shapes[] = {
	{ 0, 512 },	 /* one PRP */
	{ 2052, 512 },
	{ 0, 4096 },
	{ 3584, 1024 },	 /* two pages: PRP2 */
	{ 0, 8192 },
	{ 516, 8192 },	 /* three pages: a list */
	{ 0, 65536 },
	{ 4092, 66048 },
	{ 0, 1u << 20 }, /* the largest: 255 entries, or 256 */
	{ 4, 1u << 20 },
};

static const char *one_by_one(struct qn *n, unsigned int queues, struct buffer *b)
{
	uint64_t lba = 3, seed = 1;

	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(shapes); i++) {
		for (unsigned int q = 0; q < queues; q++) {
			uint32_t off = QN_PAGE + shapes[i].off, len = shapes[i].len;

			if (len > n->max_xfer)
				continue;
			fill(b->p + off, len, ++seed);
			if (transfer(n, &n->io[q], true, lba, b, off, len))
				return "a write fails";
			memset(b->p, CANARY, BIGGEST);
			if (transfer(n, &n->io[q], false, lba, b, off, len))
				return "a read fails";
			if (!holds(b->p + off, len, seed))
				return "what is read is not what was written";
			if (!all(b->p, off, CANARY) || !all(b->p + off + len, BIGGEST - off - len, CANARY))
				return "a read writes beside its buffer";
			lba += len / n->block;
		}
	}
	return NULL;
}

#define DEEP_LEN 12288u /* four pages with an offset: a list each */

static const char *all_at_once(struct qn *n, unsigned int queues, uint32_t depth, struct buffer *b, uint64_t seed, bool write)
{
	const uint64_t base = 20000;

	for (unsigned int q = 0; q < queues; q++) {
		for (uint32_t d = 0; d < depth; d++) {
			struct buffer *mine = &b[q * depth + d];
			uint64_t at = q * depth + d;
			struct nvme_cmd cmd;

			if (write)
				fill(mine->p + 100, DEEP_LEN, seed + at * 7919);
			else
				memset(mine->p, CANARY, DEEP_LEN + 2 * QN_PAGE);
			qn_rw_cmd(n, &cmd, write, base + at * (DEEP_LEN / n->block), mine->iova + 100, DEEP_LEN, mine->list, mine->list_iova);
			qn_submit(&n->io[q], &cmd);
		}
		qn_ring(n, &n->io[q]);
	}
	for (unsigned int q = 0; q < queues; q++)
		for (uint32_t d = 0; d < depth; d++)
			if (svio_le16_to_cpu(qn_wait(n, &n->io[q]).status) & (uint16_t)~NVME_CQE_PHASE)
				return "a command of many fails";
	for (uint64_t at = 0; !write && at < (uint64_t)queues * depth; at++) {
		if (!holds(b[at].p + 100, DEEP_LEN, seed + at * 7919))
			return "what many read is not what they wrote";
		if (!all(b[at].p, 100, CANARY) || !all(b[at].p + 100 + DEEP_LEN, QN_PAGE, CANARY))
			return "one of many writes beside its buffer";
	}
	return NULL;
}

const char *qn_work(struct qn *n, unsigned int queues, uint32_t depth)
{
	uint64_t keep = n->used;
	struct buffer big, deep[QN_QUEUES * 32];
	const char *bad = NULL;

	qk_need(queues <= QN_QUEUES && depth < 32, "the size of the work");
	big.p = qn_alloc(n, BIGGEST, &big.iova);
	big.list = qn_alloc(n, QN_PAGE, &big.list_iova);
	bad = one_by_one(n, queues, &big);
	for (unsigned int i = 0; i < queues * depth; i++) {
		deep[i].p = qn_alloc(n, DEEP_LEN + 2 * QN_PAGE, &deep[i].iova);
		deep[i].list = qn_alloc(n, QN_PAGE, &deep[i].list_iova);
	}
	for (unsigned int round = 0; round < (n->k->nram ? 2 : 8) && !bad; round++) { /* messages are slow */
		bad = all_at_once(n, queues, depth, deep, round * 1000003, true);
		if (!bad)
			bad = all_at_once(n, queues, depth, deep, round * 1000003, false);
	}
	n->used = keep;
	return bad;
}
