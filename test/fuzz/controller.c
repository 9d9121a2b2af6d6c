/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile NVMe controller: registers, Identify data, completion entries, events, and memory of the queues that it scribbles over. The
 * driver runs on the unit tests' controller of memory (test/unit/nvme/fake.c, simulated) in virtual time.
 *
 * What must hold: every call returns; each request completes exactly once, with a status that svio_nvme.h names; all memory comes
 * back; buffers that were not given to the device are not touched. Whether the data are right is for honest controllers.
 *
 * Input: 8 bytes of the capabilities register and what else is settled before the driver is opened, then steps: a byte says which, its
 * arguments follow. At the end the controller is pulled, or left as bad as it is.
 */
#include "fuzz.h"
#include "fake.h"

#define REQUESTS 64u
#define QPS	 2u
#define BUF	 (64u << 10)
#define STEPS	 256u

static struct fz_in in;
static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qps[QPS];
static struct svio_nvme_ns ns;
static uint8_t *buf;
static struct {
	bool busy;
	uint64_t submitted, completed;
} reqs[REQUESTS];

static void done(void *ctx, int status)
{
	size_t i = (size_t)(uintptr_t)ctx;

	FZ_CHECK(i < REQUESTS && reqs[i].busy);
	FZ_CHECK(status >= 0 ? status <= 0x7ff :
			       status == -ENODEV || status == -ECANCELED || status == -ETIMEDOUT || status == -EFAULT);
	reqs[i].busy = false;
	reqs[i].completed++;
}

/* ---- lies -------------------------------------------------------------------------------------------- */

/* Some bytes of Identify data become others. */
static void tamper(void *page, const struct nvme_cmd *cmd)
{
	unsigned int n = fz_u8(&in) & 15;

	(void)cmd;
	while (n-- && in.left) {
		uint16_t at = fz_u16(&in);

		((uint8_t *)page)[at & 4095] = fz_u8(&in);
	}
}

/* Bytes of a queue's memory, wherever the controller has it. */
static void scribble(bool completion)
{
	uint32_t q = fz_u8(&in) % (FAKE_QUEUES + 1);
	struct fake_queue *queue = completion ? &dev->cq[q] : &dev->sq[q];
	size_t entry = completion ? sizeof(struct nvme_cqe) : sizeof(struct nvme_cmd), len = (fz_u8(&in) & 31) + 1u;
	uint64_t at = fz_u16(&in);
	uint8_t *p;

	if (!queue->exists || !dev->master)
		return;
	at %= queue->entries * entry;
	len = SVIO_MIN(len, queue->entries * entry - at);
	p = svio_ioas_va(fake_ioas(), queue->base + at, len);
	if (p)
		fz_bytes(&in, p, len);
}

/* An entry where the driver looks next: right but for what the input says. */
static void post_at_tail(void)
{
	uint32_t q = fz_u8(&in) % (FAKE_QUEUES + 1);
	uint8_t how = fz_u8(&in);
	uint16_t cid = how & 1 ? fz_u16(&in) : fz_u8(&in) & 31, sqid = how & 2 ? fz_u16(&in) : (uint16_t)q;
	uint16_t sqhd = how & 4 ? fz_u16(&in) : (uint16_t)dev->sq[q].head, status = how & 8 ? (uint16_t)(fz_u16(&in) & ~1u) : 0;

	if (dev->cq[q].exists && dev->master)
		fake_post(dev, q, cid, sqid, sqhd, status);
}

/* What the controller of memory has room for: doorbells of 9 queues in 8 KiB; and no more than 2 s to wait for. */
static uint64_t possible(uint64_t cap)
{
	uint64_t dstrd = SVIO_MIN(NVME_CAP_DSTRD(cap), 6u), to = SVIO_MIN(NVME_CAP_TO(cap), 4u);

	cap &= ~((uint64_t)0xf << NVME_CAP_DSTRD_SHIFT | (uint64_t)0xff << NVME_CAP_TO_SHIFT);
	return cap | dstrd << NVME_CAP_DSTRD_SHIFT | to << NVME_CAP_TO_SHIFT;
}

static void registers(void)
{
	uint8_t how = fz_u8(&in);

	if (how & 1)
		dev->csts = fz_u32(&in);
	if (how & 2)
		dev->dead_regs = how & 4;
	if (how & 8)
		dev->cap = possible(dev->cap ^ fz_u64(&in));
	if (how & 16)
		dev->vs = fz_u32(&in);
	if (how & 32)
		dev->never_ready = how & 64;
	if (how & 128)
		dev->never_off = how & 64;
	fake_run(dev);
}

static void admin_lies(void)
{
	uint8_t how = fz_u8(&in);

	dev->fail_opcode = how & 1 ? fz_u8(&in) & 0x0f : -1;
	dev->fail_status = (uint16_t)(fz_u8(&in) << 1);
	dev->mute_opcode = how & 2 ? fz_u8(&in) & 0x0f : -1;
	dev->grant = how & 4 ? fz_u32(&in) : 0;
	dev->refuse_abort = how & 8;
	dev->lose_io = how & 16;
}

/* ---- the driver's user --------------------------------------------------------------------------------- */

static void submit(uint8_t what)
{
	struct svio_nvme_qp *qp = qps[what & 1];
	uint64_t lba = fz_u16(&in);
	uint32_t nlb = (fz_u8(&in) & 127) + 1u, off = (uint32_t)(fz_u8(&in) & 63) * 4, i;
	struct svio_nvme_iov iov[2];
	size_t bytes;
	void *ctx;
	int rc;

	for (i = 0; i < REQUESTS && reqs[i].busy; i++)
		;
	if (!qp || i == REQUESTS)
		return;
	ctx = (void *)(uintptr_t)i;
	/* Within the buffer, whatever the namespace says a block is. */
	nlb = SVIO_MAX(1u, SVIO_MIN(nlb, (BUF - 256) / SVIO_MAX(ns.lba_size, 1u)));
	if (!ns.lba_size || (uint64_t)nlb * ns.lba_size > BUF - 256)
		return;
	reqs[i].busy = true; /* a callback from inside of the call would be a mistake: it is counted */
	switch (what >> 1 & 3) {
	case 0:
		rc = svio_nvme_read(qp, &ns, buf + off, lba, nlb, what & 8 ? SVIO_NVME_MORE : 0, done, ctx);
		break;
	case 1:
		rc = svio_nvme_write(qp, &ns, buf + off, lba, nlb, what & 8 ? SVIO_NVME_FUA : 0, done, ctx);
		break;
	case 2:
		bytes = (size_t)nlb * ns.lba_size;
		iov[0] = (struct svio_nvme_iov){ buf, SVIO_MIN(bytes, (size_t)4096) };
		iov[1] = (struct svio_nvme_iov){ buf + 8192, SVIO_MIN(bytes - iov[0].len, (size_t)BUF - 8192) };
		rc = svio_nvme_readv(qp, &ns, iov, iov[1].len ? 2 : 1, lba, nlb, 0, done, ctx);
		break;
	default:
		rc = svio_nvme_flush(qp, &ns, done, ctx);
		break;
	}
	FZ_CHECK(rc <= 0);
	if (rc)
		reqs[i].busy = false;
	else
		reqs[i].submitted++;
}

static void step(void)
{
	uint8_t op = fz_u8(&in);
	struct svio_nvme_ns other;
	uint32_t ids[8], count = 8;

	switch (op & 15) {
	case 0:
	case 1:
		submit(fz_u8(&in));
		break;
	case 2:
		for (unsigned int q = 0; q < QPS; q++)
			if (qps[q])
				svio_nvme_poll(qps[q], op >> 4);
		break;
	case 3:
		if (dev->num_cmds)
			fake_complete(dev, fz_u8(&in) % dev->num_cmds, (uint16_t)(fz_u16(&in) & ~1u));
		break;
	case 4:
	case 5:
		post_at_tail();
		break;
	case 6:
		scribble(true);
		break;
	case 7:
		scribble(false);
		break;
	case 8:
		registers();
		break;
	case 9:
		fake_aer(dev, fz_u32(&in));
		break;
	case 10:
		fake_now += (uint64_t)fz_u16(&in) << (op >> 4);
		break;
	case 11:
		admin_lies();
		break;
	case 12:
		if (op & 16)
			fake_revoke(dev);
		else
			fake_function_reset(dev, op & 32 && dev->hook);
		fake_decode(dev, true);
		break;
	case 13:
		svio_nvme_reset(nvme);
		break;
	case 14:
		if (svio_nvme_ns_get(nvme, fz_u8(&in) & 3, &other) == 0) {
			FZ_CHECK(other.lba_size >= 512 && other.lba_size == 1u << other.lba_shift && other.blocks &&
				 other.blocks <= UINT64_MAX >> other.lba_shift);
			if (op & 16)
				ns = other;
		}
		svio_nvme_ns_list(nvme, ids, &count);
		break;
	default:
		fake_run(dev);
		if (dev->shadow && dev->master) {
			uint8_t *p = svio_ioas_va(fake_ioas(), dev->eventidx + (fz_u8(&in) & 63) * 4u, 4);

			if (p)
				fz_bytes(&in, p, 4);
		}
	}
}

/* ---- one input ----------------------------------------------------------------------------------------- */

static void prepare(void)
{
	uint64_t cap = fz_u64(&in);
	uint8_t what = fz_u8(&in);

	dev->cap = possible(dev->cap ^ cap); /* the usual one with changes, so that most inputs get somewhere */
	dev->vs = what & 1 ? fz_u32(&in) : dev->vs;
	dev->no_mapping = what & 2;
	dev->no_regs_mapping = what & 4;
	if (what & 8)
		dev->id.oacs = svio_cpu_to_le16(NVME_OACS_DBBUF);
	dev->ready_after = what >> 4;
	dev->tamper = tamper;
	dev->max_steps = 4000000; /* waiting for ever ends here */
	dev->auto_io = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svio_nvme_opts opts = { .size = sizeof(opts), .admin_timeout_ms = 20, .io_timeout_ms = 50 };
	struct svio_nvme_qp_opts qopts = { .size = sizeof(qopts), .depth = 32, .max_transfer = BUF };
	size_t out = fake_mem_out();
	uint8_t *guard;
	uint8_t flags;

	in = (struct fz_in){ data, size };
	fake_now = 1000000000;
	fake_haste = 50; /* fewer steps until a time limit */
	dev = fake_new();
	memset(reqs, 0, sizeof(reqs));
	memset(qps, 0, sizeof(qps));
	ns = (struct svio_nvme_ns){ .nsid = 1, .lba_size = 512, .lba_shift = 9, .blocks = FAKE_BLOCKS };
	buf = fake_alloc(BUF);
	guard = fake_alloc(4096);
	memset(guard, 0x5a, 4096);
	prepare();
	flags = fz_u8(&in);
	opts.policy = flags & 1 ? SVIO_NVME_FAIL : SVIO_NVME_REQUEUE;
	opts.no_shadow_doorbells = flags & 2;
	opts.no_sgl = flags & 4;
	nvme = NULL;
	FZ_CHECK((svio_nvme_open(dev, fake_ioas(), &opts, &nvme) == 0) == (nvme != NULL));
	if (nvme) {
		struct svio_nvme_info info;

		svio_nvme_get_info(nvme, &info);
		FZ_CHECK(info.serial[sizeof(info.serial) - 1] == '\0' && info.model[sizeof(info.model) - 1] == '\0' &&
			 info.subnqn[sizeof(info.subnqn) - 1] == '\0' && info.max_queue_depth >= 2);
		for (unsigned int q = 0; q < QPS; q++)
			if (svio_nvme_qp_create(nvme, &qopts, &qps[q]))
				qps[q] = NULL;
		for (unsigned int n = 0; n < STEPS && in.left; n++)
			step();
		if (flags & 8)
			fake_unplug(dev);
		for (unsigned int q = 0; q < QPS; q++)
			svio_nvme_qp_destroy(qps[q]);
		for (unsigned int i = 0; i < REQUESTS; i++)
			FZ_CHECK(!reqs[i].busy && reqs[i].submitted == reqs[i].completed);
		svio_nvme_close(nvme);
	}
	for (unsigned int i = 0; i < 4096; i++)
		FZ_CHECK(guard[i] == 0x5a);
	svio_mem_free(guard);
	svio_mem_free(buf);
	FZ_CHECK(fake_mem_out() == out);
	/* It did what the driver did not ask for, and reached for memory that was gone: its own doing. */
	dev->bad_dma = dev->bad_cmd = 0;
	fake_free(dev);
	return 0;
}
