/* SPDX-License-Identifier: BSD-3-Clause */
/* See fake.h. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "fake.h"
#include "svio_migrate.h"
#include "unit.h"

uint64_t fake_now = 1000000000;
bool fake_threads;
uint32_t fake_haste = 1;
bool fake_idle;
char fake_log_last[512];
unsigned int fake_log_errors;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct svio_device *the_device;

void fake_lock(void)
{
	if (fake_threads)
		pthread_mutex_lock(&lock);
}

void fake_unlock(void)
{
	if (fake_threads)
		pthread_mutex_unlock(&lock);
}

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t __wrap_svio_now_ns(void);
uint64_t __real_svio_now_ns(void);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *rem);
int __real_nanosleep(const struct timespec *ts, struct timespec *rem);

uint64_t __wrap_svio_now_ns(void)
{
	if (the_device && !fake_idle)
		fake_run(the_device);
	if (fake_threads)
		return __real_svio_now_ns();
	return fake_now += 1000;
}

int __wrap_nanosleep(const struct timespec *ts, struct timespec *rem)
{
	if (fake_threads)
		return __real_nanosleep(ts, rem);
	fake_now += ((uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec) * fake_haste;
	return 0;
}

/* ---- memory and address space ---------------------------------------------------------------- */

struct svio_ioas {
	struct svio_ioas_hot hot;
};

static struct svio_ioas the_ioas;
static uint8_t *arena;
/* Something that no driver may do. FAKE_BAD=1 in the environment stops there. */
#define BAD(d) ((d)->bad_cmd++, getenv("FAKE_BAD") ? abort() : (void)0)
#define UNIT   4096u
static uint32_t
	used[FAKE_ARENA /
	     UNIT]; /* length in units at the start of an allocation; 1 << 31 | x inside one */
#define INSIDE (1u << 31)

static void arena_init(void)
{
	if (arena)
		return;
	/* On 64 KiB, for controllers with large pages. */
	arena = mmap(NULL, FAKE_ARENA + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	if (arena == MAP_FAILED)
		abort();
	arena = (uint8_t *)SVIO_ALIGN_UP((uintptr_t)arena, (uintptr_t)65536);
	the_ioas.hot.near[0] = (struct svio_ioas_hot_range){
		.va = (uint64_t)(uintptr_t)arena,
		.len = FAKE_ARENA,
		.delta = FAKE_DELTA,
	};
	atomic_init(&the_ioas.hot.range, &the_ioas.hot.near[0]);
}

struct svio_ioas *fake_ioas(void)
{
	arena_init();
	return &the_ioas;
}

uint64_t svio_ioas_lookup(const struct svio_ioas *ioas, uint64_t va, uint64_t len)
{
	(void)ioas;
	(void)va;
	(void)len;
	return SVIO_IOVA_BAD;
}

void *svio_ioas_va(struct svio_ioas *ioas, uint64_t iova, uint64_t len)
{
	uint64_t off = iova - FAKE_DELTA - (uint64_t)(uintptr_t)arena;

	(void)ioas;
	return off < FAKE_ARENA && len <= FAKE_ARENA - off ? arena + off : NULL;
}

struct svio_ioas_log *fake_log;

void svio_ioas_log_add(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	(void)ioas;
	fake_log = log;
}

void svio_ioas_log_remove(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	(void)ioas;
	if (fake_log == log)
		fake_log = NULL;
}

uint8_t *fake_dirty_table(void)
{
	static uint8_t marks[FAKE_ARENA >> SVIO_DIRTY_SHIFT];

	arena_init();
	memset(marks, 0, sizeof(marks));
	/* Indexed by the page of the address; valgrind has no room for one that covers all of them. */
	return (uint8_t *)((uintptr_t)marks - ((uintptr_t)arena >> SVIO_DIRTY_SHIFT));
}

void *fake_alloc(size_t len)
{
	return svio_mem_alloc(len, 4096, -1);
}

/* The fail-nth sweep makes malloc fail; here it decides whether this allocation does. */
void *svio_mem_alloc(size_t len, size_t align, int numa_node)
{
	uint32_t units = (uint32_t)((len + UNIT - 1) / UNIT),
		 step = align > UNIT ? (uint32_t)(align / UNIT) : 1, i, j;
	void *probe;

	(void)numa_node;
	arena_init();
	probe = malloc(16);
	if (!probe) {
		svio_fail(ENOMEM, "no memory");
		return NULL;
	}
	free(probe);
	fake_lock();
	for (i = 0; i + units <= SVIO_ARRAY_SIZE(used); i += step) {
		for (j = 0; j < units && !used[i + j]; j++)
			;
		if (j == units)
			break;
	}
	if (i + units > SVIO_ARRAY_SIZE(used)) {
		fake_unlock();
		svio_fail(ENOMEM, "the arena is full");
		return NULL;
	}
	used[i] = units;
	for (j = 1; j < units; j++)
		used[i + j] = INSIDE;
	fake_unlock();
	memset(arena + (size_t)i * UNIT, 0, (size_t)units * UNIT);
	return arena + (size_t)i * UNIT;
}

void svio_mem_free(void *ptr)
{
	uint32_t i, n;

	if (!ptr)
		return;
	fake_lock();
	i = (uint32_t)(((uint8_t *)ptr - arena) / UNIT);
	n = used[i];
	if (n == 0 || n >= INSIDE)
		abort();
	memset((uint8_t *)ptr, 0xdb, (size_t)n * UNIT);
	while (n--)
		used[i++] = 0;
	fake_unlock();
}

size_t fake_mem_out(void)
{
	size_t n = 0;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(used); i++)
		n += used[i] != 0;
	return n * UNIT;
}

/* The address behind an IOVA, if the device may go there. */
static void *dma(struct svio_device *dev, uint64_t iova, size_t len)
{
	uint64_t off = iova - FAKE_DELTA - (uint64_t)(uintptr_t)arena;

	if (!dev->master || off >= FAKE_ARENA || len > FAKE_ARENA - off || len == 0)
		goto bad;
	for (uint64_t u = off / UNIT; u <= (off + len - 1) / UNIT; u++)
		if (!used[u])
			goto bad;
	return arena + off;
bad:
	dev->bad_dma++;
	return NULL;
}

/* ---- registers ------------------------------------------------------------------------------- */

static void put32(struct svio_device *dev, uint32_t reg, uint32_t v)
{
	svio_mmio_write32(dev->bar + reg, v);
}

static uint32_t get32(struct svio_device *dev, uint32_t reg)
{
	return svio_mmio_read32(dev->bar + reg);
}

/* The BAR shows what the controller is. Doorbells show what was last accepted. */
static void show(struct svio_device *dev)
{
	if (dev->revoked || dev->gone || dev->dead_regs) {
		memset(dev->bar, 0xff, FAKE_BAR_LEN);
		return;
	}
	put32(dev, NVME_REG_CAP, (uint32_t)dev->cap);
	put32(dev, NVME_REG_CAP + 4, (uint32_t)(dev->cap >> 32));
	put32(dev, NVME_REG_VS, dev->vs);
	put32(dev, NVME_REG_CC, dev->cc);
	put32(dev, NVME_REG_CSTS, dev->csts);
}

static void show_doorbells(struct svio_device *dev)
{
	uint32_t dstrd = NVME_CAP_DSTRD(dev->cap);

	memset(dev->bar + NVME_REG_DBS, 0, FAKE_BAR_LEN - NVME_REG_DBS);
	for (uint32_t q = 0; q <= FAKE_QUEUES; q++) {
		put32(dev, (uint32_t)NVME_DB_SQ(q, dstrd), dev->sq[q].tail);
		put32(dev, (uint32_t)NVME_DB_CQ(q, dstrd), dev->cq[q].head);
	}
}

/* Controller reset (1.4 §7.3.2): queues are gone; nothing under way completes. */
static void controller_off(struct svio_device *dev)
{
	memset(dev->sq, 0, sizeof(dev->sq));
	memset(dev->cq, 0, sizeof(dev->cq));
	dev->num_cmds = 0;
	dev->num_aers = 0;
	dev->shadow = 0;
	dev->eventidx = 0;
	dev->csts = 0;
	dev->enabling = false;
	if (!dev->revoked && !dev->gone)
		show_doorbells(dev);
}

static void enable(struct svio_device *dev)
{
	dev->aqa = get32(dev, NVME_REG_AQA);
	dev->asq = get32(dev, NVME_REG_ASQ) | (uint64_t)get32(dev, NVME_REG_ASQ + 4) << 32;
	dev->acq = get32(dev, NVME_REG_ACQ) | (uint64_t)get32(dev, NVME_REG_ACQ + 4) << 32;
	dev->sq[0] = (struct fake_queue){ .exists = true,
					  .base = dev->asq,
					  .entries = NVME_AQA_ASQS(dev->aqa) + 1 };
	dev->cq[0] = (struct fake_queue){
		.exists = true, .base = dev->acq, .entries = NVME_AQA_ACQS(dev->aqa) + 1, .phase = 1
	};
	dev->csts |= NVME_CSTS_RDY;
	dev->enabling = false;
	show_doorbells(dev);
}

static void look_at_cc(struct svio_device *dev)
{
	uint32_t cc = get32(dev, NVME_REG_CC), old = dev->cc;

	dev->cc = cc;
	if ((cc & NVME_CC_SHN_MASK) && !(old & NVME_CC_SHN_MASK)) {
		dev->shutdowns++;
		dev->csts = (dev->csts & ~NVME_CSTS_SHST_MASK) | NVME_CSTS_SHST_DONE;
	}
	if (!(cc & NVME_CC_EN) && ((old & NVME_CC_EN) || (dev->csts & NVME_CSTS_RDY))) {
		if (!dev->never_off)
			controller_off(dev);
	}
	if ((cc & NVME_CC_EN) && !(old & NVME_CC_EN)) {
		dev->enables++;
		dev->enabling = true;
		dev->enable_wait = dev->ready_after;
		if (dev->cfs_on_enable)
			dev->csts |= NVME_CSTS_CFS;
		/* 1.4 §3.1.5: the entry sizes and page size must be right before EN. */
		if (((cc & NVME_CC_IOSQES_MASK) >> NVME_CC_IOSQES_SHIFT) != 6 ||
		    ((cc & NVME_CC_IOCQES_MASK) >> NVME_CC_IOCQES_SHIFT) != 4 ||
		    ((cc & NVME_CC_MPS_MASK) >> NVME_CC_MPS_SHIFT) < NVME_CAP_MPSMIN(dev->cap))
			dev->csts |= NVME_CSTS_CFS;
	}
	if (dev->enabling && !dev->never_ready && !(dev->csts & NVME_CSTS_CFS)) {
		if (dev->enable_wait == 0)
			enable(dev);
		else
			dev->enable_wait--;
	}
}

/* ---- queues ---------------------------------------------------------------------------------- */

static uint32_t page_size(const struct svio_device *dev)
{
	return 4096u << ((dev->cc & NVME_CC_MPS_MASK) >> NVME_CC_MPS_SHIFT);
}

static void post(struct svio_device *dev, uint32_t cqid, struct nvme_cqe cqe, uint16_t status)
{
	struct fake_queue *cq = &dev->cq[cqid];
	struct nvme_cqe *slot;
	uint64_t upper;

	if (!cq->exists)
		return;
	slot = dma(dev, cq->base + (uint64_t)cq->tail * sizeof(cqe), sizeof(cqe));
	if (!slot)
		return;
	slot->dw0 = cqe.dw0;
	slot->dw1 = cqe.dw1;
	cqe.status = svio_cpu_to_le16((uint32_t)status | cq->phase);
	memcpy(&upper, &cqe.sqhd, sizeof(upper));
	__atomic_store_n((uint64_t *)(void *)&slot->sqhd, upper, __ATOMIC_RELEASE);
	if (++cq->tail == cq->entries) {
		cq->tail = 0;
		cq->phase ^= 1;
	}
	dev->posted++;
	if (cq->ien && cq->vector < dev->irq_count && dev->irq_fds[cq->vector] >= 0)
		if (write(dev->irq_fds[cq->vector], &(uint64_t){ 1 }, 8) != 8)
			BAD(dev);
}

void fake_post(struct svio_device *dev, uint32_t qid, uint16_t cid, uint16_t sqid, uint16_t sqhd,
	       uint16_t status)
{
	post(dev, qid,
	     (struct nvme_cqe){ .cid = svio_cpu_to_le16(cid),
				.sqid = svio_cpu_to_le16(sqid),
				.sqhd = svio_cpu_to_le16(sqhd) },
	     status);
}

static void answer(struct svio_device *dev, uint32_t qid, uint16_t cid, uint16_t status,
		   uint32_t dw0)
{
	post(dev, qid ? dev->sq[qid].cqid : 0,
	     (struct nvme_cqe){ .cid = cid,
				.sqid = svio_cpu_to_le16(qid),
				.sqhd = svio_cpu_to_le16(dev->sq[qid].head),
				.dw0 = svio_cpu_to_le32(dw0) },
	     status);
}

/* ---- data ------------------------------------------------------------------------------------ */

static bool copy(struct svio_device *dev, uint64_t iova, uint64_t len, uint8_t **pos,
		 uint64_t *left, bool to_host)
{
	uint64_t n = SVIO_MIN(len, *left);
	void *p;

	if (n == 0)
		return true;
	p = dma(dev, iova, n);
	if (!p)
		return false;
	if (to_host)
		memcpy(p, *pos, n);
	else
		memcpy(*pos, p, n);
	*pos += n;
	*left -= n;
	return true;
}

/* 1.4 §4.3, entry by entry. */
static bool prp_transfer(struct svio_device *dev, const struct nvme_cmd *cmd, uint8_t *pos,
			 uint64_t left, bool to_host)
{
	uint64_t ps = page_size(dev), prp1 = svio_le64_to_cpu(cmd->prp1),
		 prp2 = svio_le64_to_cpu(cmd->prp2), list;

	if ((prp1 & 3) || !copy(dev, prp1, ps - (prp1 & (ps - 1)), &pos, &left, to_host))
		return false;
	if (left == 0)
		return prp2 == 0; /* this driver leaves it zero */
	if (left <= ps)
		return !(prp2 & (ps - 1)) && copy(dev, prp2, ps, &pos, &left, to_host);
	if (prp2 & 7)
		return false;
	for (list = prp2; left; list += 8) {
		const uint64_t *e = dma(dev, list, 8);

		if (!e)
			return false;
		if ((list & (ps - 1)) == ps - 8 &&
		    left > ps) { /* the last entry of a list page leads on */
			list = le64toh(*e) - 8;
			if ((list + 8) & (ps - 1))
				return false;
			continue;
		}
		if ((le64toh(*e) & (ps - 1)) || !copy(dev, le64toh(*e), ps, &pos, &left, to_host))
			return false;
	}
	return true;
}

static bool sgl_transfer(struct svio_device *dev, const struct nvme_cmd *cmd, uint8_t *pos,
			 uint64_t left, bool to_host)
{
	struct nvme_sgl d = cmd->sgl;
	uint64_t addr, n;

	if (d.type == NVME_SGL_DATA)
		return svio_le32_to_cpu(d.len) == left &&
		       copy(dev, svio_le64_to_cpu(d.addr), left, &pos, &left, to_host);
	if (d.type != NVME_SGL_LAST || svio_le32_to_cpu(d.len) % 16)
		return false;
	addr = svio_le64_to_cpu(d.addr);
	for (n = svio_le32_to_cpu(d.len) / 16; n; n--, addr += 16) {
		const struct nvme_sgl *e = dma(dev, addr, 16);

		if (!e || e->type != NVME_SGL_DATA || svio_le32_to_cpu(e->len) > left ||
		    !copy(dev, svio_le64_to_cpu(e->addr), svio_le32_to_cpu(e->len), &pos, &left,
			  to_host))
			return false;
	}
	return left == 0;
}

static uint16_t execute(struct svio_device *dev, const struct nvme_cmd *cmd)
{
	uint64_t lba = svio_le32_to_cpu(cmd->cdw10) | (uint64_t)svio_le32_to_cpu(cmd->cdw11) << 32;
	uint32_t nlb = (svio_le32_to_cpu(cmd->cdw12) & 0xffff) + 1;
	bool sgl = (cmd->flags & NVME_CMD_PSDT_MASK) == NVME_CMD_PSDT_SGL, ok;
	const struct nvme_dsm_range *ranges;

	if (svio_le32_to_cpu(cmd->nsid) != 1)
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_NS);
	switch (cmd->opcode) {
	case NVME_IO_READ:
	case NVME_IO_WRITE:
		if (lba >= FAKE_BLOCKS || nlb > FAKE_BLOCKS - lba)
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_LBA_RANGE);
		ok = (sgl ? sgl_transfer : prp_transfer)(dev, cmd, dev->store + lba * FAKE_LBA,
							 (uint64_t)nlb * FAKE_LBA,
							 cmd->opcode == NVME_IO_READ);
		if (!ok)
			BAD(dev);
		return ok ? 0 : NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_DATA_TRANSFER);
	case NVME_IO_WRITE_ZEROES:
		if (lba >= FAKE_BLOCKS || nlb > FAKE_BLOCKS - lba)
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_LBA_RANGE);
		memset(dev->store + lba * FAKE_LBA, 0, (size_t)nlb * FAKE_LBA);
		return 0;
	case NVME_IO_DSM:
		ranges = dma(dev, svio_le64_to_cpu(cmd->prp1),
			     ((svio_le32_to_cpu(cmd->cdw10) & 0xff) + 1) * sizeof(*ranges));
		if (!ranges || !(svio_le32_to_cpu(cmd->cdw11) & NVME_DSM_AD))
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD);
		for (uint32_t i = 0; i <= (svio_le32_to_cpu(cmd->cdw10) & 0xff); i++)
			memset(dev->store + svio_le64_to_cpu(ranges[i].slba) * FAKE_LBA, 0,
			       (size_t)svio_le32_to_cpu(ranges[i].nlb) * FAKE_LBA);
		return 0;
	case NVME_IO_FLUSH:
		return 0;
	default:
		BAD(dev);
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_OPCODE);
	}
}

static void forget(struct svio_device *dev, uint32_t n)
{
	memmove(&dev->cmds[n], &dev->cmds[n + 1], (dev->num_cmds - n - 1) * sizeof(dev->cmds[0]));
	dev->num_cmds--;
}

void fake_execute(struct svio_device *dev, uint32_t n)
{
	(void)execute(dev, &dev->cmds[n].cmd);
	forget(dev, n);
}

/*
 * A controller waits while the completion queue is full (1.4 §4.1.2), as far as it has been told.
 */
static bool cq_room(struct svio_device *dev, uint32_t cqid)
{
	struct fake_queue *cq = &dev->cq[cqid];

	if (!dev->revoked && !dev->gone && !dev->shadow)
		cq->head = get32(dev, (uint32_t)NVME_DB_CQ(cqid, NVME_CAP_DSTRD(dev->cap)));
	return !cq->exists || (cq->tail + 1) % cq->entries != cq->head;
}

void fake_complete(struct svio_device *dev, uint32_t n, uint16_t status)
{
	struct fake_cmd c = dev->cmds[n];

	if (!cq_room(dev, dev->sq[c.sqid].cqid))
		return;
	if (status == 0)
		status = execute(dev, &c.cmd);
	forget(dev, n);
	answer(dev, c.sqid, c.cmd.cid, status, 0);
}

void fake_complete_all(struct svio_device *dev)
{
	uint32_t left;

	fake_run(dev);
	do {
		left = dev->num_cmds;
		for (uint32_t i = 0;
		     i < dev->num_cmds;) { /* in order; those of a full queue stay */
			uint32_t before = dev->num_cmds;

			fake_complete(dev, i, 0);
			i += dev->num_cmds == before;
		}
	} while (dev->num_cmds && dev->num_cmds < left);
}

/* ---- admin commands -------------------------------------------------------------------------- */

static uint16_t identify(struct svio_device *dev, const struct nvme_cmd *cmd)
{
	uint8_t *p = dma(dev, svio_le64_to_cpu(cmd->prp1), 4096);
	uint32_t nsid = svio_le32_to_cpu(cmd->nsid);

	if (!p)
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_DATA_TRANSFER);
	memset(p, 0, 4096);
	switch (svio_le32_to_cpu(cmd->cdw10) & 0xff) {
	case NVME_CNS_CTRL:
		memcpy(p, &dev->id, sizeof(dev->id));
		return 0;
	case NVME_CNS_NS:
		if (nsid == 0 || nsid > 2)
			return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_NS);
		if (nsid == 1) {
			struct nvme_id_ns *ns = (void *)p;

			ns->nsze = ns->ncap = svio_cpu_to_le64(FAKE_BLOCKS);
			ns->lbaf[0].lbads = (uint8_t)dev->lba_shift;
		}
		return 0;
	case NVME_CNS_NS_LIST:
		if (nsid < 1)
			((svio_le32 *)(void *)p)[0] = svio_cpu_to_le32(1);
		return 0;
	case NVME_CNS_NS_DESCS:
		p[0] = NVME_NIDT_UUID;
		p[1] = 16;
		memset(p + 4, 0x5a, 16);
		return 0;
	default:
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD);
	}
}

static uint16_t create_queue(struct svio_device *dev, const struct nvme_cmd *cmd, bool sq)
{
	uint32_t cdw10 = svio_le32_to_cpu(cmd->cdw10), cdw11 = svio_le32_to_cpu(cmd->cdw11);
	uint32_t qid = cdw10 & 0xffff, entries = (cdw10 >> 16) + 1;
	struct fake_queue *q = sq ? &dev->sq[qid] : &dev->cq[qid];

	if (qid == 0 || qid > FAKE_QUEUES || q->exists)
		return NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_QID_INVALID);
	if (entries < 2 || entries > NVME_CAP_MQES(dev->cap) + 1)
		return NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_QSIZE_INVALID);
	if (!(cdw11 & NVME_QUEUE_PC) || (svio_le64_to_cpu(cmd->prp1) & (page_size(dev) - 1)))
		return NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD);
	if (sq && !dev->cq[cdw11 >> 16].exists)
		return NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_CQ_INVALID);
	*q = (struct fake_queue){
		.exists = true,
		.base = svio_le64_to_cpu(cmd->prp1),
		.entries = entries,
		.cqid = cdw11 >> 16,
		.vector = cdw11 >> 16,
		.ien = !sq && (cdw11 & NVME_CQ_IEN),
		.phase = 1,
	};
	/* This one's alone: stores to the others may not have been looked at yet. */
	put32(dev,
	      (uint32_t)(sq ? NVME_DB_SQ(qid, NVME_CAP_DSTRD(dev->cap))
			    : NVME_DB_CQ(qid, NVME_CAP_DSTRD(dev->cap))),
	      0);
	return 0;
}

static uint16_t delete_queue(struct svio_device *dev, const struct nvme_cmd *cmd, bool sq)
{
	uint32_t qid = svio_le32_to_cpu(cmd->cdw10) & 0xffff;

	if (qid == 0 || qid > FAKE_QUEUES || !(sq ? dev->sq : dev->cq)[qid].exists)
		return NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_QID_INVALID);
	if (!sq && dev->sq[qid].exists)
		return NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_QUEUE_DELETION);
	for (uint32_t i = 0; sq && i < dev->num_cmds;) { /* 1.4 §5.6 */
		uint32_t before = dev->num_cmds;

		if (dev->cmds[i].sqid == qid)
			fake_complete(dev, i,
				      NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_ABORT_SQ_DELETED));
		i += dev->num_cmds == before; /* another queue's, or there is no room for it */
	}
	(sq ? dev->sq : dev->cq)[qid].exists = false;
	return 0;
}

static uint32_t abort_cmd(struct svio_device *dev, const struct nvme_cmd *cmd)
{
	uint32_t cdw10 = svio_le32_to_cpu(cmd->cdw10);

	dev->aborts++;
	for (uint32_t i = 0; !dev->refuse_abort && i < dev->num_cmds; i++) {
		if (dev->cmds[i].sqid == (cdw10 & 0xffff) &&
		    svio_le16_to_cpu(dev->cmds[i].cmd.cid) == cdw10 >> 16) {
			fake_complete(dev, i,
				      NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_ABORT_REQUESTED));
			return 0;
		}
	}
	return 1;
}

static void admin(struct svio_device *dev, const struct nvme_cmd *cmd)
{
	uint32_t dw0 = 0, cdw10 = svio_le32_to_cpu(cmd->cdw10), grant;
	uint16_t status = 0;

	if (cmd->opcode == dev->mute_opcode)
		return;
	if (cmd->opcode == dev->fail_opcode) {
		answer(dev, 0, cmd->cid, dev->fail_status, 0);
		return;
	}
	switch (cmd->opcode) {
	case NVME_ADM_IDENTIFY:
		status = identify(dev, cmd);
		if (!status && dev->tamper)
			dev->tamper(dma(dev, svio_le64_to_cpu(cmd->prp1), 4096), cmd);
		break;
	case NVME_ADM_SET_FEATURES:
		grant = dev->grant ? dev->grant : (FAKE_QUEUES - 1) << 16 | (FAKE_QUEUES - 1);
		if ((cdw10 & 0xff) == NVME_FEAT_NUM_QUEUES)
			dw0 = grant;
		break;
	case NVME_ADM_CREATE_CQ:
		status = create_queue(dev, cmd, false);
		break;
	case NVME_ADM_CREATE_SQ:
		status = create_queue(dev, cmd, true);
		break;
	case NVME_ADM_DELETE_SQ:
		status = delete_queue(dev, cmd, true);
		break;
	case NVME_ADM_DELETE_CQ:
		status = delete_queue(dev, cmd, false);
		break;
	case NVME_ADM_ABORT:
		dw0 = abort_cmd(dev, cmd);
		break;
	case NVME_ADM_GET_LOG_PAGE:
		dev->logs++;
		if (!dma(dev, svio_le64_to_cpu(cmd->prp1), ((cdw10 >> 16) + 1) * 4))
			status = NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_DATA_TRANSFER);
		break;
	case NVME_ADM_DBBUF_CONFIG:
		dev->shadow = svio_le64_to_cpu(cmd->prp1);
		dev->eventidx = svio_le64_to_cpu(cmd->prp2);
		dev->dbbuf++;
		break;
	case NVME_ADM_ASYNC_EVENT:
		if (dev->num_aers > dev->id.aerl)
			status = NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_AER_LIMIT);
		else {
			dev->aers[dev->num_aers++] = cmd->cid;
			return;
		}
		break;
	default:
		BAD(dev);
		status = NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_OPCODE);
		break;
	}
	answer(dev, 0, cmd->cid, status, dw0);
}

void fake_aer(struct svio_device *dev, uint32_t dw0)
{
	if (dev->num_aers)
		answer(dev, 0, dev->aers[--dev->num_aers], 0, dw0);
}

/* ---- a step ---------------------------------------------------------------------------------- */

static void take_command(struct svio_device *dev, uint32_t qid, const struct nvme_cmd *cmd)
{
	struct fake_cmd c = { .cmd = *cmd, .sqid = (uint16_t)qid };

	dev->fetched++;
	if (dev->order_len < FAKE_MAX_CMDS) {
		dev->order_cids[dev->order_len] = svio_le16_to_cpu(cmd->cid);
		dev->order_lba[dev->order_len++] = svio_le32_to_cpu(cmd->cdw10);
	}
	for (uint32_t i = 0; i < dev->num_cmds; i++)
		if (dev->cmds[i].sqid == qid && dev->cmds[i].cmd.cid == cmd->cid)
			BAD(dev); /* one id twice */
	if (cmd->cdw2 || cmd->cdw3 || cmd->mptr || cmd->cdw13 || cmd->cdw14 || cmd->cdw15)
		BAD(dev);
	if (dev->lose_io)
		return;
	dev->cmds[dev->num_cmds++] = c;
	if (dev->auto_io)
		fake_complete(dev, dev->num_cmds - 1, 0);
}

static void fetch(struct svio_device *dev, uint32_t qid, uint32_t tail)
{
	struct fake_queue *sq = &dev->sq[qid];

	if (tail >= sq->entries) {
		BAD(dev);
		return;
	}
	sq->tail = tail;
	while (sq->exists && sq->head != sq->tail && dev->num_cmds < FAKE_MAX_CMDS) {
		const struct nvme_cmd *cmd = dma(dev, sq->base + (uint64_t)sq->head * 64, 64);

		sq->head = (sq->head + 1) % sq->entries;
		if (!cmd)
			continue;
		if (qid == 0)
			admin(dev, cmd);
		else
			take_command(dev, qid, cmd);
	}
}

static uint32_t *shadow_word(struct svio_device *dev, uint64_t base, uint32_t qid, bool cq)
{
	uint32_t stride = 4u << NVME_CAP_DSTRD(dev->cap);

	return dma(dev, base + (uint64_t)(2 * qid + cq) * stride, 4);
}

static void doorbells(struct svio_device *dev)
{
	uint32_t dstrd = NVME_CAP_DSTRD(dev->cap);

	for (uint32_t q = 0; q <= FAKE_QUEUES; q++) {
		uint32_t tail = get32(dev, (uint32_t)NVME_DB_SQ(q, dstrd)),
			 head = get32(dev, (uint32_t)NVME_DB_CQ(q, dstrd));

		if (q && dev->shadow && dev->sq[q].exists) {
			uint32_t *s = shadow_word(dev, dev->shadow, q, false),
				 *e = shadow_word(dev, dev->eventidx, q, false);
			uint32_t *cs = shadow_word(dev, dev->shadow, q, true);

			if (tail != dev->sq[q].tail)
				dev->db_stores++;
			if (s && e) {
				tail = __atomic_load_n(s, __ATOMIC_SEQ_CST);
				__atomic_store_n(e, tail, __ATOMIC_SEQ_CST);
			}
			if (cs)
				head = __atomic_load_n(cs, __ATOMIC_SEQ_CST);
		} else if (tail != dev->sq[q].tail) {
			dev->db_stores++;
		}
		if (dev->cq[q].exists && head != dev->cq[q].head) {
			if (head >= dev->cq[q].entries)
				BAD(dev);
			dev->cq[q].head = head;
		}
		if (dev->sq[q].exists && tail != dev->sq[q].tail)
			fetch(dev, q, tail);
	}
}

void fake_run(struct svio_device *dev)
{
	fake_lock();
	dev->steps++;
	if (dev->max_steps && dev->steps > dev->max_steps) {
		fprintf(stderr, "fake: the driver waits for ever\n");
		abort();
	}
	if (!dev->revoked && !dev->gone && !dev->dead_regs) {
		look_at_cc(dev);
		if (dev->csts & NVME_CSTS_RDY)
			doorbells(dev);
		for (uint32_t i = dev->auto_io ? dev->num_cmds : 0; i-- > 0;)
			fake_complete(dev, i, 0);
	}
	show(dev);
	fake_unlock();
}

/* ---- what the rest of the machine does ------------------------------------------------------- */

void fake_revoke(struct svio_device *dev)
{
	fake_run(dev); /* what was stored before is there */
	fake_lock();
	dev->revoked = true;
	dev->decoding = false;
	show(dev);
	fake_unlock();
	svio_device_event_set(dev, SVIO_EV_REVOKED);
}

void fake_decode(struct svio_device *dev, bool on)
{
	dev->decoding = on;
}

static void function_reset(struct svio_device *dev)
{
	dev->cc = 0;
	if (!dev->revoked) {
		show(dev);
		put32(dev, NVME_REG_CC, 0);
	}
	controller_off(dev);
	show(dev);
}

void fake_function_reset(struct svio_device *dev, bool hooks)
{
	if (hooks) {
		svio_device_event_set(dev, SVIO_EV_QUIESCE);
		dev->hook->prepare(dev->hook->ctx, dev);
	}
	fake_lock();
	function_reset(dev);
	fake_unlock();
	svio_device_event_set(dev, SVIO_EV_RESET);
	if (hooks) {
		dev->hook->done(dev->hook->ctx, dev, 0);
		svio_device_event_clear(dev, SVIO_EV_QUIESCE);
	}
}

void fake_unplug(struct svio_device *dev)
{
	fake_lock();
	dev->gone = true;
	controller_off(dev);
	show(dev);
	fake_unlock();
	svio_device_event_set(dev, SVIO_EV_REVOKED | SVIO_EV_GONE);
}

const char *svio_device_name(const struct svio_device *dev)
{
	(void)dev;
	return "fake";
}

void svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	*info = dev->info;
}

int svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off, void *buf,
			    size_t len)
{
	(void)region;
	fake_run(dev);
	if (dev->gone)
		return -ENODEV;
	if (dev->revoked)
		return -EIO;
	memcpy(buf, dev->bar + off, len);
	return 0;
}

int svio_device_region_write(struct svio_device *dev, uint32_t region, uint64_t off,
			     const void *buf, size_t len)
{
	(void)region;
	if (dev->revoked || dev->gone)
		return -EIO;
	dev->db_messages += off >= NVME_REG_DBS;
	memcpy(dev->bar + off, buf, len);
	fake_run(dev);
	return 0;
}

int svio_device_region_info(struct svio_device *dev, uint32_t region, struct svio_region_info *info)
{
	*info = (struct svio_region_info){ .size = region == 0 ? FAKE_BAR_LEN : 0,
					   .flags = SVIO_REGION_READ | SVIO_REGION_WRITE };
	if (dev->no_mapping)
		return 0;
	info->flags |= SVIO_REGION_MMAP;
	info->num_areas = 1;
	info->areas[0].offset = dev->no_regs_mapping ? NVME_REG_DBS : 0;
	info->areas[0].size = info->size - info->areas[0].offset;
	return 0;
}

int svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t *value)
{
	(void)width;
	if (dev->gone)
		return -ENODEV;
	*value = off == 0 ? 0x1b36u : (dev->decoding ? 2u : 0u) | (dev->master ? 4u : 0u);
	return 0;
}

int svio_device_set_master(struct svio_device *dev, bool on)
{
	if (dev->gone)
		return -ENODEV;
	fake_lock();
	dev->master = on;
	fake_unlock();
	return 0;
}

void svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	dev->hook = hook;
}

void svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	if (dev->hook == hook)
		dev->hook = NULL;
}

int svio_device_irq_info(struct svio_device *dev, uint32_t index, struct svio_irq_info *info)
{
	(void)dev;
	*info = (struct svio_irq_info){ .count = index == SVIO_IRQ_MSIX ? FAKE_QUEUES + 1 : 0,
					.eventfd = true };
	return 0;
}

int svio_device_irq_enable(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count,
			   const int *fds)
{
	(void)index;
	memcpy(dev->irq_fds + start, fds, count * sizeof(*fds));
	dev->irq_count = start + count;
	return 0;
}

int svio_device_irq_disable(struct svio_device *dev, uint32_t index)
{
	(void)index;
	dev->irq_count = 0;
	return 0;
}

int svio_bar_map(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, uint32_t flags,
		 struct svio_bar **barp)
{
	struct svio_bar *bar;

	(void)flags;
	*barp = NULL;
	fake_run(dev); /* what the test has changed shows */
	if (dev->no_mapping || (dev->no_regs_mapping && off < NVME_REG_DBS))
		return svio_fail(EINVAL, "not mappable");
	bar = calloc(1, sizeof(*bar));
	if (!bar)
		return svio_fail(ENOMEM, "no memory");
	*bar = (struct svio_bar){ .addr = dev->bar + off,
				  .len = len ? len : FAKE_BAR_LEN - off,
				  .offset = off,
				  .region = region,
				  .dev = dev };
	dev->bars++;
	*barp = bar;
	return 0;
}

void svio_bar_unmap(struct svio_bar *bar)
{
	if (bar)
		bar->dev->bars--;
	free(bar);
}

bool svio_bar_revoked(const struct svio_bar *bar)
{
	return bar->dev->revoked;
}

int svio_bar_restore(struct svio_device *dev)
{
	int r = 0;

	fake_lock();
	if (dev->gone) {
		r = -ENODEV;
	} else if (!dev->decoding) {
		r = -EAGAIN;
	} else {
		dev->revoked = false;
		show_doorbells(dev);
		show(dev);
		svio_device_event_clear(dev, SVIO_EV_REVOKED);
	}
	fake_unlock();
	return r;
}

/* ---- a device, and the usual openings -------------------------------------------------------- */

static void log_line(void *ctx, enum svio_log_level level, const char *line)
{
	(void)ctx;
	if (level != SVIO_LOG_ERR)
		return;
	fake_lock();
	fake_log_errors++;
	snprintf(fake_log_last, sizeof(fake_log_last), "%s", line);
	fake_unlock();
}

struct svio_device *fake_new(void)
{
	struct svio_device *dev =
		aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*dev), (size_t)SVIO_CACHELINE));

	if (!dev)
		abort();
	memset(dev, 0, sizeof(*dev));
	svio_log_set(getenv("FAKE_LOG") ? SVIO_LOG_DEBUG : SVIO_LOG_ERR,
		     getenv("FAKE_LOG") ? NULL : log_line, NULL);
	arena_init();
	dev->info = (struct svio_device_info){ .class_code = 0x010802,
					       .numa_node = -1,
					       .vendor = 0x1b36 };
	dev->cap = (uint64_t)(1023) | NVME_CAP_CQR_BIT | (uint64_t)2 << NVME_CAP_TO_SHIFT |
		   (uint64_t)NVME_CAP_CSS_NVM << NVME_CAP_CSS_SHIFT |
		   (uint64_t)4 << NVME_CAP_MPSMAX_SHIFT;
	dev->vs = NVME_VS(1, 4, 0);
	dev->lba_shift = 9;
	memset(dev->id.sn, ' ', sizeof(dev->id.sn));
	memcpy(dev->id.sn, "FAKE1", 5);
	memset(dev->id.mn, ' ', sizeof(dev->id.mn));
	memcpy(dev->id.mn, "Fake controller", 15);
	dev->id.sqes = 0x66;
	dev->id.cqes = 0x44;
	dev->id.aerl = 3;
	dev->id.acl = 3;
	dev->id.mdts = 9;
	dev->id.nn = svio_cpu_to_le32(2);
	dev->id.oncs = svio_cpu_to_le16(NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES);
	dev->id.sgls = svio_cpu_to_le32(NVME_SGLS_NO_ALIGN);
	dev->fail_opcode = -1;
	dev->mute_opcode = -1;
	dev->decoding = true;
	dev->auto_io = true;
	for (unsigned int i = 0; i <= FAKE_QUEUES; i++)
		dev->irq_fds[i] = -1;
	dev->bar = aligned_alloc(4096, FAKE_BAR_LEN);
	dev->store = calloc(FAKE_BLOCKS, FAKE_LBA);
	if (!dev->bar || !dev->store)
		abort();
	memset(dev->bar, 0, FAKE_BAR_LEN);
	show(dev);
	the_device = dev;
	return dev;
}

void fake_free(struct svio_device *dev)
{
	CU_ASSERT_EQUAL(dev->bad_dma, 0);
	CU_ASSERT_EQUAL(dev->bad_cmd, 0);
	CU_ASSERT_EQUAL(dev->bars, 0);
	CU_ASSERT_PTR_NULL(dev->hook);
	the_device = NULL;
	free(dev->bar);
	free(dev->store);
	free(dev);
}

struct svio_nvme *fake_open(struct svio_device *dev, const struct svio_nvme_opts *opts)
{
	struct svio_nvme *nvme = NULL;
	int r = svio_nvme_open(dev, fake_ioas(), opts, &nvme);

	CU_ASSERT_EQUAL(r, 0);
	if (r) {
		fprintf(stderr, "open: %s\n", svio_last_error());
		abort();
	}
	return nvme;
}

struct svio_nvme_qp *fake_qp(struct svio_nvme *nvme, uint32_t depth)
{
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = depth };
	struct svio_nvme_qp *qp = NULL;
	int r = svio_nvme_qp_create(nvme, &opts, &qp);

	CU_ASSERT_EQUAL(r, 0);
	if (r) {
		fprintf(stderr, "qp_create: %s\n", svio_last_error());
		abort();
	}
	return qp;
}

/* ---- areas: these tests have none ---------------------------------------------------------------------- */

void *svio_migrate_alloc(struct svio_migrate_area *area, uint64_t len, uint64_t align)
{
	(void)area;
	(void)len;
	(void)align;
	return NULL;
}

void svio_migrate_free(struct svio_migrate_area *area, void *ptr)
{
	(void)area;
	(void)ptr;
}

bool svio_migrate_allocated(struct svio_migrate_area *area, const void *ptr, uint64_t len)
{
	(void)area;
	(void)ptr;
	(void)len;
	return false;
}
