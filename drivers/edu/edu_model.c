/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The edu device (QEMU documentation, "EDU device") as a device model: the example of how to write
 * one.
 *
 * Options: dma_mask=N  the addresses it can reach, as QEMU's own option (default 28 bits)
 *	    map		clients may map its 4 KiB buffer, at BAR0 + 0x40000, which QEMU's device does not offer
 */
#include <string.h>
#include "edu_spec.h"
#include "svio_edu_model.h"

struct edu {
	uint32_t live, fact, status, irq_status;
	uint64_t src, dst, cnt, cmd;
	uint64_t dma_mask;
	uint8_t *buf; /* EDU_BUF_SIZE bytes: `own`, or the shared area */
	bool in_flight;
	struct svio_vdev_dma dma;
	uint8_t own[EDU_BUF_SIZE];
};

/* What save() writes, version 1; the buffer follows. */
struct edu_state {
	svio_le32 live, fact, status, irq_status;
	svio_le64 src, dst, cnt, cmd;
} __attribute__((packed));
_Static_assert(sizeof(struct edu_state) == 48, "saved state");

/* ---- interrupts ----------------------------------------------------------------------------- */

static void irq_raise(struct svio_vdev *dev, struct edu *edu, uint32_t bits)
{
	edu->irq_status |= bits;
	if (!edu->irq_status)
		return;
	if (svio_vdev_irq_mode(dev) == SVIO_VDEV_IRQ_MSI)
		svio_vdev_irq_raise(dev, 0);
	else
		svio_vdev_intx_set(dev, true);
}

static void irq_ack(struct svio_vdev *dev, struct edu *edu, uint32_t bits)
{
	edu->irq_status &= ~bits;
	if (edu->irq_status && svio_vdev_irq_mode(dev) != SVIO_VDEV_IRQ_INTX)
		return;
	svio_vdev_intx_set(dev, false);
	if (edu->irq_status)
		svio_vdev_intx_set(dev, true); /* served in part: the rest is news */
}

/* ---- DMA ------------------------------------------------------------------------------------ */

static void dma_done(struct svio_vdev *dev, struct svio_vdev_dma *dma, int err)
{
	struct edu *edu = svio_vdev_priv(dev);

	(void)dma;
	edu->in_flight = false;
	if (err == -ECANCELED)
		return; /* unmapped, reset or disconnected: those who cancelled know */
	/* The device has no error bit: a transfer that failed just ends. */
	edu->cmd &= ~(uint64_t)EDU_DMA_START;
	if (edu->cmd & EDU_DMA_IRQ)
		irq_raise(dev, edu, EDU_IRQ_DMA);
}

static void dma_start(struct svio_vdev *dev, struct edu *edu)
{
	bool to_ram = edu->cmd & EDU_DMA_TO_RAM;
	uint64_t inside = to_ram ? edu->src : edu->dst;
	int err = -EFAULT;

	if (inside >= EDU_BUF && inside - EDU_BUF <= EDU_BUF_SIZE &&
	    edu->cnt <= EDU_BUF_SIZE - (inside - EDU_BUF)) {
		edu->dma = (struct svio_vdev_dma){
			.iova = (to_ram ? edu->dst : edu->src) & edu->dma_mask,
			.buf = edu->buf + (inside - EDU_BUF),
			.len = (uint32_t)edu->cnt,
			.access = to_ram ? SVIO_VDEV_WRITE : SVIO_VDEV_READ,
			.done = dma_done,
		};
		edu->in_flight = true;
		err = svio_vdev_dma_start(dev, &edu->dma);
	}
	if (err != -EINPROGRESS)
		dma_done(dev, &edu->dma, err);
}

/* ---- registers ------------------------------------------------------------------------------ */

static bool width_ok(uint64_t off, unsigned int width)
{
	return width == 4 || (width == 8 && off >= EDU_REG_WIDE);
}

static int edu_read(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width,
		    uint64_t *value)
{
	struct edu *edu = svio_vdev_priv(dev);

	(void)bar;
	*value = UINT64_MAX;
	if (!width_ok(off, width))
		return 0;
	switch (off) {
	case EDU_REG_ID:
		*value = EDU_ID;
		break;
	case EDU_REG_LIVE:
		*value = edu->live;
		break;
	case EDU_REG_FACT:
		*value = edu->fact;
		break;
	case EDU_REG_STATUS:
		*value = edu->status;
		break;
	case EDU_REG_IRQ_STATUS:
		*value = edu->irq_status;
		break;
	case EDU_REG_DMA_SRC:
		*value = edu->src;
		break;
	case EDU_REG_DMA_DST:
		*value = edu->dst;
		break;
	case EDU_REG_DMA_CNT:
		*value = edu->cnt;
		break;
	case EDU_REG_DMA_CMD:
		*value = edu->cmd;
		break;
	}
	return 0;
}

static int edu_write(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width,
		     uint64_t value)
{
	struct edu *edu = svio_vdev_priv(dev);
	bool dma_idle = !(edu->cmd & EDU_DMA_START);

	(void)bar;
	if (!width_ok(off, width))
		return 0;
	switch (off) {
	case EDU_REG_LIVE:
		edu->live = ~(uint32_t)value;
		break;
	case EDU_REG_FACT:
		if (!(edu->status & EDU_STATUS_BUSY)) {
			edu->fact = (uint32_t)value;
			edu->status |= EDU_STATUS_BUSY; /* the rest in poll() */
		}
		break;
	case EDU_REG_STATUS:
		edu->status = (edu->status & ~(uint32_t)EDU_STATUS_IRQ) |
			      ((uint32_t)value & EDU_STATUS_IRQ);
		break;
	case EDU_REG_IRQ_RAISE:
		irq_raise(dev, edu, (uint32_t)value);
		break;
	case EDU_REG_IRQ_ACK:
		irq_ack(dev, edu, (uint32_t)value);
		break;
	case EDU_REG_DMA_SRC:
		edu->src = dma_idle ? value : edu->src;
		break;
	case EDU_REG_DMA_DST:
		edu->dst = dma_idle ? value : edu->dst;
		break;
	case EDU_REG_DMA_CNT:
		edu->cnt = dma_idle ? value : edu->cnt;
		break;
	case EDU_REG_DMA_CMD:
		if (dma_idle && (value & EDU_DMA_START))
			edu->cmd = value & (EDU_DMA_START | EDU_DMA_TO_RAM | EDU_DMA_IRQ);
		break;
	}
	return 0;
}

static unsigned int edu_poll(struct svio_vdev *dev)
{
	struct edu *edu = svio_vdev_priv(dev);
	unsigned int done = 0;

	if (edu->status & EDU_STATUS_BUSY) {
		uint32_t n = edu->fact, product = 1;

		/* 34! and beyond are 0 modulo 2^32: a hostile n must not keep us here. */
		for (; n > 1 && product; n--)
			product *= n;
		edu->fact = product;
		edu->status &= ~(uint32_t)EDU_STATUS_BUSY;
		if (edu->status & EDU_STATUS_IRQ)
			irq_raise(dev, edu, EDU_IRQ_FACT);
		done++;
	}
	if ((edu->cmd & EDU_DMA_START) && !edu->in_flight) {
		dma_start(dev, edu);
		done++;
	}
	return done;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int edu_init(struct svio_vdev *dev, struct svio_vdev_args *args)
{
	static const struct svio_vdev_ids ids = {
		.vendor = EDU_VENDOR,
		.device = EDU_DEVICE,
		.subsys_vendor = 0x1af4, /* QEMU's default for devices without their own */
		.subsys = 0x1100,
		.class_code = EDU_CLASS,
		.revision = EDU_REVISION,
		.int_pin = 1,
	};
	static const struct svio_vdev_area area = { .offset = EDU_BUF, .size = EDU_BUF_SIZE };
	struct edu *edu = svio_vdev_priv(dev);
	bool map;
	int err;

	err = svio_vdev_arg_u64(args, "dma_mask", EDU_DMA_MASK, 0, UINT64_MAX, &edu->dma_mask);
	if (!err)
		err = svio_vdev_arg_bool(args, "map", &map);
	if (err)
		return err;
	svio_vdev_set_ids(dev, &ids);
	err = svio_vdev_add_bar(dev, 0, EDU_BAR_SIZE, 0, map ? &area : NULL, map);
	if (err)
		return err;
	edu->buf = map ? (uint8_t *)svio_vdev_bar_mem(dev, 0) + EDU_BUF : edu->own;
	err = svio_vdev_cap_msi(dev, 1, false);
	return err < 0 ? err : 0;
}

static void edu_reset(struct svio_vdev *dev, enum svio_vdev_reset why)
{
	struct edu *edu = svio_vdev_priv(dev);

	(void)why;
	edu->live = edu->fact = edu->status = edu->irq_status = 0;
	edu->src = edu->dst = edu->cnt = edu->cmd = 0;
	memset(edu->own, 0, sizeof(edu->own));
}

/* ---- migration ------------------------------------------------------------------------------ */

/*
 * The kit waits for a transfer in flight before it stops us; one that has not begun is begun again
 * by poll().
 */
static int edu_save(struct svio_vdev *dev, struct svio_vdev_buf *out)
{
	const struct edu *edu = svio_vdev_priv(dev);
	struct edu_state s = {
		.live = svio_cpu_to_le32(edu->live),
		.fact = svio_cpu_to_le32(edu->fact),
		.status = svio_cpu_to_le32(edu->status),
		.irq_status = svio_cpu_to_le32(edu->irq_status),
		.src = svio_cpu_to_le64(edu->src),
		.dst = svio_cpu_to_le64(edu->dst),
		.cnt = svio_cpu_to_le64(edu->cnt),
		.cmd = svio_cpu_to_le64(edu->cmd),
	};

	svio_vdev_buf_put(out, &s, sizeof(s));
	return svio_vdev_buf_put(out, edu->buf, EDU_BUF_SIZE);
}

static int edu_load(struct svio_vdev *dev, uint32_t version, const void *data, size_t len)
{
	struct edu *edu = svio_vdev_priv(dev);
	struct edu_state s;

	if (version != 1 || len != sizeof(s) + EDU_BUF_SIZE)
		return svio_fail(EINVAL, "edu: saved state of %zu bytes, version %u", len, version);
	memcpy(&s, data, sizeof(s));
	if ((svio_le32_to_cpu(s.status) & ~(EDU_STATUS_BUSY | EDU_STATUS_IRQ)) ||
	    (svio_le64_to_cpu(s.cmd) & ~(uint64_t)(EDU_DMA_START | EDU_DMA_TO_RAM | EDU_DMA_IRQ)))
		return svio_fail(EINVAL, "edu: saved state has unknown bits");
	edu->live = svio_le32_to_cpu(s.live);
	edu->fact = svio_le32_to_cpu(s.fact);
	edu->status = svio_le32_to_cpu(s.status);
	edu->irq_status = svio_le32_to_cpu(s.irq_status);
	edu->src = svio_le64_to_cpu(s.src);
	edu->dst = svio_le64_to_cpu(s.dst);
	edu->cnt = svio_le64_to_cpu(s.cnt);
	edu->cmd = svio_le64_to_cpu(s.cmd);
	memcpy(edu->buf, (const uint8_t *)data + sizeof(s), EDU_BUF_SIZE);
	return 0;
}

const struct svio_vdev_model svio_edu_model = {
	.name = "edu",
	.help = "dma_mask=N, map",
	.priv_size = sizeof(struct edu),
	.state_version = 1,
	.state_max = 8192,
	.init = edu_init,
	.reg_read = edu_read,
	.reg_write = edu_write,
	.poll = edu_poll,
	.reset = edu_reset,
	.save = edu_save,
	.load = edu_load,
};
