/* SPDX-License-Identifier: BSD-3-Clause */
/* The edu driver: see svio_edu.h. Register names are those of edu_spec.h, from QEMU's documentation of the device. */
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "edu_spec.h"
#include "svio_edu.h"

#define WAIT_NS UINT64_C(1000000000)

struct svio_edu {
	struct svio_device *dev;
	struct svio_ioas *ioas;
	struct svio_bar *bar; /* NULL: registers are reached by region access */
	uint64_t dma_mask;
	int irq_fd; /* -1: polled */
	uint32_t irq_index;
	struct svio_ioas_log log;
	uint8_t *_Atomic dirty; /* where to mark what the device wrote, or NULL */
};

/* ---- registers: 4 bytes below EDU_REG_WIDE, 8 bytes for the DMA engine --------------------------------- */

static uint32_t rd(struct svio_edu *edu, uint32_t reg)
{
	svio_le32 v = svio_cpu_to_le32(UINT32_MAX);

	if (edu->bar)
		return svio_mmio_read32((char *)edu->bar->addr + reg);
	/* A failed read looks as on the bus: all ones. */
	if (svio_device_region_read(edu->dev, 0, reg, &v, sizeof(v)))
		return UINT32_MAX;
	return svio_le32_to_cpu(v);
}

static void wr(struct svio_edu *edu, uint32_t reg, uint32_t value)
{
	svio_le32 v = svio_cpu_to_le32(value);

	if (edu->bar)
		svio_mmio_write32((char *)edu->bar->addr + reg, value);
	else if (svio_device_region_write(edu->dev, 0, reg, &v, sizeof(v)))
		svio_log_debug("%s: register %#x: %s", svio_device_name(edu->dev), reg, svio_last_error());
}

static void wr64(struct svio_edu *edu, uint32_t reg, uint64_t value)
{
	svio_le64 v = svio_cpu_to_le64(value);

	if (edu->bar)
		svio_mmio_write64((char *)edu->bar->addr + reg, value);
	else if (svio_device_region_write(edu->dev, 0, reg, &v, sizeof(v)))
		svio_log_debug("%s: register %#x: %s", svio_device_name(edu->dev), reg, svio_last_error());
}

/* ---- waiting --------------------------------------------------------------------------------------- */

/* Until `bits` of `reg` are clear. With an interrupt: sleep until it comes, then acknowledge it. */
static int wait_clear(struct svio_edu *edu, uint32_t reg, uint32_t bits, const char *what)
{
	uint64_t end = svio_now_ns() + WAIT_NS, now;

	for (;;) {
		uint32_t v = rd(edu, reg), raised;

		if (v == UINT32_MAX)
			return svio_fail(ENODEV, "%s: %s: registers read all ones: the device is away", svio_device_name(edu->dev),
					 what);
		if (!(v & bits)) {
			raised = edu->irq_fd >= 0 ? rd(edu, EDU_REG_IRQ_STATUS) : 0;
			if (raised && raised != UINT32_MAX)
				wr(edu, EDU_REG_IRQ_ACK, raised);
			return 0;
		}
		now = svio_now_ns();
		if (now >= end)
			return svio_fail(ETIMEDOUT, "%s: %s has not ended within a second", svio_device_name(edu->dev), what);
		if (edu->irq_fd >= 0) {
			struct pollfd p = { .fd = edu->irq_fd, .events = POLLIN };
			uint64_t count;

			if (poll(&p, 1, (int)((end - now) / 1000000) + 1) > 0 &&
			    read(edu->irq_fd, &count, sizeof(count)) == sizeof(count)) {
				raised = rd(edu, EDU_REG_IRQ_STATUS);
				if (raised != UINT32_MAX)
					wr(edu, EDU_REG_IRQ_ACK, raised);
				if (edu->irq_index == SVIO_IRQ_INTX) /* the kernel masked it when it fired */
					svio_device_irq_unmask(edu->dev, SVIO_IRQ_INTX, 0, 1);
			}
		}
	}
}

/* ---- open and close ---------------------------------------------------------------------------------- */

static int irq_open(struct svio_edu *edu)
{
	struct svio_irq_info info;
	int err;

	edu->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (edu->irq_fd < 0)
		return svio_fail(errno, "%s: no eventfd", svio_device_name(edu->dev));
	edu->irq_index = svio_device_irq_info(edu->dev, SVIO_IRQ_MSI, &info) == 0 && info.count ? SVIO_IRQ_MSI : SVIO_IRQ_INTX;
	err = svio_device_irq_enable(edu->dev, edu->irq_index, 0, 1, &edu->irq_fd);
	if (err) {
		close(edu->irq_fd);
		edu->irq_fd = -1;
	}
	return err;
}

static void log_set(void *ctx, uint8_t *table)
{
	struct svio_edu *edu = ctx;

	atomic_store_explicit(&edu->dirty, table, memory_order_release);
}

int svio_edu_open(struct svio_device *dev, struct svio_ioas *ioas, uint32_t flags, struct svio_edu **edup)
{
	struct svio_edu *edu = calloc(1, sizeof(*edu));
	int err;

	if (!edu)
		return svio_fail(ENOMEM, "%s: out of memory", svio_device_name(dev));
	edu->dev = dev;
	edu->ioas = ioas;
	edu->dma_mask = EDU_DMA_MASK;
	edu->irq_fd = -1;
	err = svio_bar_map(dev, 0, 0, 4096, 0, &edu->bar);
	if (err == -EINVAL) /* a server that traps its registers: slower, and the same device */
		edu->bar = NULL;
	else if (err)
		goto fail;
	if ((rd(edu, EDU_REG_ID) & 0xffff) != (EDU_ID & 0xffff)) {
		err = svio_fail(ENODEV, "%s: not an edu device: its identification register reads %#x",
				svio_device_name(dev), rd(edu, EDU_REG_ID));
		goto fail;
	}
	edu->log = (struct svio_ioas_log){ .dev = dev, .set = log_set, .ctx = edu };
	svio_ioas_log_add(ioas, &edu->log);
	err = svio_device_set_master(dev, true);
	if (!err && flags & SVIO_EDU_INTERRUPT)
		err = irq_open(edu);
	if (err) {
		svio_device_set_master(dev, false);
		svio_ioas_log_remove(ioas, &edu->log);
		goto fail;
	}
	*edup = edu;
	return 0;
fail:
	svio_bar_unmap(edu->bar);
	free(edu);
	return err;
}

void svio_edu_close(struct svio_edu *edu)
{
	if (!edu)
		return;
	if (edu->irq_fd >= 0) {
		svio_device_irq_disable(edu->dev, edu->irq_index);
		close(edu->irq_fd);
	}
	svio_device_set_master(edu->dev, false);
	svio_ioas_log_remove(edu->ioas, &edu->log);
	svio_bar_unmap(edu->bar);
	free(edu);
}

void svio_edu_set_dma_mask(struct svio_edu *edu, uint64_t mask)
{
	edu->dma_mask = mask;
}

uint16_t svio_edu_version(struct svio_edu *edu)
{
	uint32_t id = rd(edu, EDU_REG_ID); /* 0xRRrr00ed: major, minor */

	return (uint16_t)(id >> 16);
}

/* ---- work -------------------------------------------------------------------------------------------- */

int svio_edu_factorial(struct svio_edu *edu, uint32_t n, uint32_t *result)
{
	int err;

	wr(edu, EDU_REG_STATUS, edu->irq_fd >= 0 ? EDU_STATUS_IRQ : 0);
	wr(edu, EDU_REG_FACT, n);
	err = wait_clear(edu, EDU_REG_STATUS, EDU_STATUS_BUSY, "factorial");
	if (!err)
		*result = rd(edu, EDU_REG_FACT);
	return err;
}

static int dma(struct svio_edu *edu, const void *ptr, uint32_t off, uint32_t len, bool to_ram)
{
	uint64_t iova = svio_ioas_iova_range(edu->ioas, ptr, len);

	if (!len || off >= SVIO_EDU_BUF || len > SVIO_EDU_BUF - off)
		return svio_fail(EINVAL, "%s: bytes %u to %u are outside the buffer of %u", svio_device_name(edu->dev), off,
				 off + len, SVIO_EDU_BUF);
	if (iova == SVIO_IOVA_BAD)
		return svio_fail(EFAULT, "%s: %u bytes at %p are not mapped for DMA", svio_device_name(edu->dev), len, ptr);
	if ((iova | (iova + len - 1)) & ~edu->dma_mask)
		return svio_fail(ERANGE, "%s: IOVA %#llx is beyond the device's dma_mask %#llx; run QEMU with -device edu,dma_mask=…",
				 svio_device_name(edu->dev), (unsigned long long)iova, (unsigned long long)edu->dma_mask);
	wr64(edu, EDU_REG_DMA_SRC, to_ram ? EDU_BUF + off : iova);
	wr64(edu, EDU_REG_DMA_DST, to_ram ? iova : EDU_BUF + off);
	wr64(edu, EDU_REG_DMA_CNT, len);
	svio_dma_wmb();
	wr64(edu, EDU_REG_DMA_CMD, EDU_DMA_START | (to_ram ? EDU_DMA_TO_RAM : 0) | (edu->irq_fd >= 0 ? EDU_DMA_IRQ : 0));
	return wait_clear(edu, EDU_REG_DMA_CMD, EDU_DMA_START, "DMA");
}

int svio_edu_copy_in(struct svio_edu *edu, uint32_t off, const void *ptr, uint32_t len)
{
	return dma(edu, ptr, off, len, false);
}

int svio_edu_copy_out(struct svio_edu *edu, void *ptr, uint32_t off, uint32_t len)
{
	int err = dma(edu, ptr, off, len, true);
	uint8_t *dirty;

	svio_dma_rmb();
	/* Also when it failed: a part may have been written. Looked at behind the wait, so that tracking that began meanwhile counts. */
	dirty = atomic_load_explicit(&edu->dirty, memory_order_acquire);
	if (dirty && len)
		svio_dirty_mark(dirty, ptr, len);
	return err;
}
