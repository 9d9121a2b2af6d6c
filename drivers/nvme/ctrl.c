/* SPDX-License-Identifier: BSD-3-Clause */
/* The controller: registers, opening and closing. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "nvme_priv.h"
#include "svio_migrate.h"

#define PCI_CLASS_NVME	   0x010802u
#define SHUTDOWN_MIN_MS	   5000u /* 1.4 §7.6.2 leaves it to RTD3E, which older controllers do not report */
#define MAX_PAGE_SHIFT	   16u

/* A pause between looks at a register that the controller changes in its own time. */
void nvme_nap(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = (long)ns };

	nanosleep(&ts, NULL);
}

/*
 * Registers are read through the guarded mapping, or by region access where the transport does not map them (a vfio-user
 * server may map the doorbells alone). A device that does not answer reads as all ones both ways.
 */
uint32_t nvme_read32(struct svio_nvme *nvme, uint32_t reg)
{
	svio_le32 v;

	if (nvme->regs)
		return svio_mmio_read32((const uint8_t *)nvme->regs->addr + reg);
	if (svio_device_region_read(nvme->dev, 0, reg, &v, sizeof(v)))
		return NVME_REG_DEAD;
	return svio_le32_to_cpu(v);
}

void nvme_write32(struct svio_nvme *nvme, uint32_t reg, uint32_t v)
{
	svio_le32 le = svio_cpu_to_le32(v);

	if (nvme->regs)
		svio_mmio_write32((uint8_t *)nvme->regs->addr + reg, v);
	else /* a failure shows at the next read */
		svio_device_region_write(nvme->dev, 0, reg, &le, sizeof(le));
}

/* Doorbell number `which`, counted from offset 0x1000: submission tail of queue n is 2n, completion head 2n + 1. */
void nvme_doorbell(struct svio_nvme *nvme, uint32_t which, uint32_t value)
{
	uint64_t off = (uint64_t)which << (2 + nvme->dstrd);
	svio_le32 le = svio_cpu_to_le32(value);

	if (nvme->db_base)
		svio_mmio_write32(nvme->db_base + off, value);
	else /* a failure shows as one of the device, or in time */
		svio_device_region_write(nvme->dev, 0, NVME_REG_DBS + off, &le, sizeof(le));
}

/* In two halves: 1.4 §3.1 allows it everywhere, and not every controller takes 64-bit accesses. */
void nvme_write64(struct svio_nvme *nvme, uint32_t reg, uint64_t v)
{
	nvme_write32(nvme, reg, (uint32_t)v);
	nvme_write32(nvme, reg + 4, (uint32_t)(v >> 32));
}

static uint64_t read64(struct svio_nvme *nvme, uint32_t reg)
{
	uint64_t lo = nvme_read32(nvme, reg);

	return lo | (uint64_t)nvme_read32(nvme, reg + 4) << 32;
}

/* ---- open -------------------------------------------------------------------------------------------- */

/*
 * Registers and doorbells mapped together, doorbells alone (a vfio-user server), or nothing: a server that sleeps until a message
 * comes maps none, and each doorbell is a message, unless it is kept in memory (Doorbell Buffer Config).
 */
static int map_registers(struct svio_nvme *nvme)
{
	struct svio_region_info info;
	struct svio_bar *bar;
	int r;

	r = svio_bar_map(nvme->dev, 0, 0, 0, 0, &bar);
	if (r == 0) {
		nvme->regs = bar;
		if (bar->len > NVME_REG_DBS) {
			nvme->db_base = (volatile uint8_t *)bar->addr + NVME_REG_DBS;
			nvme->db_len = bar->len - NVME_REG_DBS;
			return 0;
		}
	} else if (r != -EINVAL) {
		return r;
	}
	r = svio_device_region_info(nvme->dev, 0, &info);
	if (r)
		return r;
	if (!(info.flags & SVIO_REGION_MMAP) || info.num_areas == 0) {
		if (info.size <= NVME_REG_DBS)
			return svio_fail(EPROTO, "%s: BAR 0 has %llu bytes: no room for doorbells", nvme->name,
					 (unsigned long long)info.size);
		nvme->db_len = info.size - NVME_REG_DBS;
		svio_log_info("%s: BAR 0 cannot be mapped; doorbells are messages", nvme->name);
		return 0;
	}
	r = svio_bar_map(nvme->dev, 0, NVME_REG_DBS, 0, 0, &nvme->dbs);
	if (r)
		return svio_fail_prefix(r, "%s: the doorbells cannot be mapped", nvme->name);
	nvme->db_base = nvme->dbs->addr;
	nvme->db_len = nvme->dbs->len;
	return 0;
}

/* What the controller is able to (1.4 §3.1.1), before anything is written to it. */
static int check_capabilities(struct svio_nvme *nvme)
{
	uint32_t csts = nvme_read32(nvme, NVME_REG_CSTS), css, pairs;

	nvme->cap = read64(nvme, NVME_REG_CAP);
	nvme->vs = nvme_read32(nvme, NVME_REG_VS);
	if (csts == NVME_REG_DEAD || nvme->cap == UINT64_MAX || nvme->vs == NVME_REG_DEAD)
		return svio_fail(ENODEV, "%s: its registers read all ones: the device is gone, powered down, or its "
				 "memory decoding is off", nvme->name);
	css = NVME_CAP_CSS(nvme->cap);
	if (css && !(css & NVME_CAP_CSS_NVM))
		return svio_fail(ENOTSUP, "%s: no NVM command set (CAP.CSS 0x%02x): an administrative controller, or "
				 "one of another command set", nvme->name, css);
	if (NVME_CAP_MPSMIN(nvme->cap) > NVME_CAP_MPSMAX(nvme->cap))
		return svio_fail(EPROTO, "%s: CAP.MPSMIN is above CAP.MPSMAX", nvme->name);
	nvme->page_shift = 12 + NVME_CAP_MPSMIN(nvme->cap);
	if (nvme->page_shift > MAX_PAGE_SHIFT)
		return svio_fail(ENOTSUP, "%s: its smallest memory page is %u KiB; at most %u KiB are supported",
				 nvme->name, 1u << (nvme->page_shift - 10), 1u << (MAX_PAGE_SHIFT - 10));
	if (NVME_CAP_MQES(nvme->cap) < 1)
		return svio_fail(EPROTO, "%s: queues of one entry (CAP.MQES 0)", nvme->name);
	nvme->dstrd = NVME_CAP_DSTRD(nvme->cap);
	pairs = (uint32_t)SVIO_MIN(nvme->db_len / ((uint64_t)8 << nvme->dstrd), NVME_MAX_QID + 1);
	if (pairs < 2)
		return svio_fail(EPROTO, "%s: no room for I/O doorbells in %llu bytes at stride %u", nvme->name,
				 (unsigned long long)nvme->db_len, 4u << nvme->dstrd);
	nvme->reg_max_qid = pairs - 1;
	nvme->ready_ms = SVIO_MAX(NVME_CAP_TO(nvme->cap) * 500, 1000u);
	return 0;
}

void *nvme_dma_alloc(struct svio_nvme *nvme, size_t len, size_t align)
{
	struct svio_device_info info;

	if (nvme->opts.area)
		return svio_migrate_alloc(nvme->opts.area, len, align);
	svio_device_get_info(nvme->dev, &info);
	return svio_mem_alloc(len, align, info.numa_node);
}

void nvme_dma_free(struct svio_nvme *nvme, void *ptr)
{
	if (nvme->opts.area)
		svio_migrate_free(nvme->opts.area, ptr);
	else
		svio_mem_free(ptr);
}

/* Where the admin queues and the data pages lie; they are there. */
int nvme_place_dma(struct svio_nvme *nvme, uint8_t *dma)
{
	size_t len = (size_t)NVME_PAGES << nvme->page_shift;
	uint64_t iova;

	nvme->dma = dma;
	iova = svio_ioas_iova_range(nvme->ioas, nvme->dma, len);
	if (iova == SVIO_IOVA_BAD)
		return svio_fail(EFAULT, "%s: the memory of room mem is not mapped in this ioas", nvme->name);
	if (iova & (((uint64_t)1 << nvme->page_shift) - 1))
		return svio_fail(EFAULT, "%s: IOVA 0x%llx is not aligned to the controller's page", nvme->name,
				 (unsigned long long)iova);
	nvme->dma_iova = iova;
	nvme->admin.sq = (void *)nvme_page(nvme, NVME_PAGE_SQ);
	nvme->admin.cq = (void *)nvme_page(nvme, NVME_PAGE_CQ);
	nvme->admin.sq_iova = nvme_page_iova(nvme, NVME_PAGE_SQ);
	nvme->admin.cq_iova = nvme_page_iova(nvme, NVME_PAGE_CQ);
	return 0;
}

static int alloc_dma(struct svio_nvme *nvme)
{
	uint8_t *dma = nvme_dma_alloc(nvme, (size_t)NVME_PAGES << nvme->page_shift, (size_t)1 << nvme->page_shift);

	return dma ? nvme_place_dma(nvme, dma) : svio_fail_prefix(-ENOMEM, "%s: admin queues", nvme->name);
}

static void set_opts(struct svio_nvme *nvme, const struct svio_nvme_opts *opts)
{
	if (opts)
		memcpy(&nvme->opts, opts, SVIO_MIN(opts->size, sizeof(nvme->opts)));
	if (!nvme->opts.admin_timeout_ms)
		nvme->opts.admin_timeout_ms = 10000;
	if (!nvme->opts.io_timeout_ms)
		nvme->opts.io_timeout_ms = 30000;
	if (!nvme->opts.max_queues)
		nvme->opts.max_queues = 64;
}

/* Drive the initialisation to its end. */
static int bring_up(struct svio_nvme *nvme)
{
	/* Three waits for CSTS.RDY and three admin commands; each has a limit of its own that comes first. */
	uint64_t end = svio_now_ns() + (3 * nvme->ready_ms + 4 * nvme->opts.admin_timeout_ms) * NVME_MS;
	uint64_t nap = 20000;
	int err = 0;

	for (;;) {
		pthread_mutex_lock(&nvme->lock);
		nvme_advance(nvme, svio_now_ns());
		err = nvme->step_err;
		pthread_mutex_unlock(&nvme->lock);
		if (nvme_get_state(nvme) == NVME_RUNNING)
			return 0;
		if (nvme_get_state(nvme) == NVME_GONE)
			return err ? err : svio_fail(ENODEV, "%s: the device is gone", nvme->name);
		if (err)
			return err;
		if (svio_now_ns() > end)
			return svio_fail(ETIMEDOUT, "%s: initialisation did not come to an end%s", nvme->name,
					 svio_device_events(nvme->dev) & SVIO_EV_REVOKED ? ": memory decoding is off" : "");
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

/* Stop the controller, or at least its access to memory, and release everything. */
void nvme_teardown(struct svio_nvme *nvme, bool stopped)
{
	if (nvme->hooked)
		svio_device_hook_remove(nvme->dev, &nvme->hook);
	/* Our memory goes back to others now: an enabled controller must not reach it. */
	if (!stopped && nvme->epoch > nvme->dead_epoch && svio_device_set_master(nvme->dev, false))
		svio_log_warn("%s: could not turn bus mastering off: %s", nvme->name, svio_last_error());
	nvme_log_close(nvme);
	nvme_irq_release(nvme);
	svio_bar_unmap(nvme->dbs);
	svio_bar_unmap(nvme->regs);
	nvme_dma_free(nvme, nvme->dma);
	pthread_mutex_destroy(&nvme->lock);
	pthread_mutex_destroy(&nvme->identify_lock);
	pthread_mutex_destroy(&nvme->log_lock);
	free(nvme);
}

/* Everything that does not touch the controller but to read what it is able to. */
int nvme_begin(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts, struct svio_nvme **nvmep)
{
	struct svio_device_info info;
	struct svio_nvme *nvme;
	int r;

	*nvmep = NULL;
	svio_device_get_info(dev, &info);
	if (info.class_code != PCI_CLASS_NVME)
		return svio_fail(ENODEV, "%s: not an NVMe controller (class %06x, NVMe is %06x)", svio_device_name(dev),
				 info.class_code, PCI_CLASS_NVME);
	nvme = calloc(1, sizeof(*nvme));
	if (!nvme)
		return svio_fail(ENOMEM, "%s: out of memory", svio_device_name(dev));
	nvme->dev = dev;
	nvme->ioas = ioas;
	strncpy(nvme->name, svio_device_name(dev), sizeof(nvme->name) - 1);
	set_opts(nvme, opts);
	pthread_mutex_init(&nvme->lock, NULL);
	pthread_mutex_init(&nvme->identify_lock, NULL);
	pthread_mutex_init(&nvme->log_lock, NULL);
	atomic_init(&nvme->alarm, 1);
	atomic_init(&nvme->state, NVME_SUSPENDED);
	nvme->slot = -1;

	r = map_registers(nvme);
	if (r == 0)
		r = check_capabilities(nvme);
	if (r) {
		nvme_teardown(nvme, true);
		return r;
	}
	*nvmep = nvme;
	return 0;
}

void nvme_hook(struct svio_nvme *nvme)
{
	nvme->hook = (struct svio_device_hook){
		.stage = SVIO_HOOK_DRIVER,
		.prepare = nvme_hook_prepare,
		.done = nvme_hook_done,
		.ctx = nvme,
	};
	svio_device_hook_add(nvme->dev, &nvme->hook);
	nvme->hooked = true;
	nvme_log_open(nvme);
}

int svio_nvme_open(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts,
		   struct svio_nvme **nvmep)
{
	struct svio_nvme *nvme;
	int r;

	*nvmep = NULL;
	r = nvme_begin(dev, ioas, opts, &nvme);
	if (r)
		return r;
	r = alloc_dma(nvme);
	if (r) {
		nvme_teardown(nvme, true);
		return r;
	}
	nvme_hook(nvme);
	nvme->step = NVME_STEP_ACCESS;
	r = bring_up(nvme);
	if (r) {
		nvme_teardown(nvme, false);
		return r;
	}
	nvme->opened = true;
	*nvmep = nvme;
	return 0;
}

/* ---- close ------------------------------------------------------------------------------------------- */

/* Wait until CSTS & mask is value. False when time is up or nobody answers. */
static bool wait_csts(struct svio_nvme *nvme, uint32_t mask, uint32_t value, uint64_t ms)
{
	uint64_t end = svio_now_ns() + ms * NVME_MS, nap = 20000;

	for (;;) {
		uint32_t csts = nvme_read32(nvme, NVME_REG_CSTS);

		if (csts == NVME_REG_DEAD)
			return false;
		if ((csts & mask) == value)
			return true;
		if (svio_now_ns() > end)
			return false;
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

/* 1.4 §7.6.2: shutdown notification, then disable. True when the controller has stopped for certain. */
static bool shutdown(struct svio_nvme *nvme)
{
	uint32_t cc = nvme_read32(nvme, NVME_REG_CC);
	uint32_t rtd3e = svio_le32_to_cpu(nvme->id.rtd3e) / 1000;

	if (cc == NVME_REG_DEAD)
		return false;
	if (cc & NVME_CC_EN) {
		nvme_write32(nvme, NVME_REG_CC, (cc & ~NVME_CC_SHN_MASK) | NVME_CC_SHN_NORMAL);
		if (!wait_csts(nvme, NVME_CSTS_SHST_MASK, NVME_CSTS_SHST_DONE,
			       SVIO_MIN(SVIO_MAX(rtd3e, SHUTDOWN_MIN_MS), 60000u)))
			svio_log_warn("%s: shutdown was not acknowledged", nvme->name);
	}
	nvme_write32(nvme, NVME_REG_CC, cc & ~(NVME_CC_EN | NVME_CC_SHN_MASK));
	return wait_csts(nvme, NVME_CSTS_RDY, 0, nvme->ready_ms);
}

void svio_nvme_close(struct svio_nvme *nvme)
{
	bool stopped;

	if (!nvme)
		return;
	if (nvme->qps)
		svio_log_err("%s: closed with queue pairs; destroy them first", nvme->name);
	pthread_mutex_lock(&nvme->lock);
	stopped = nvme_get_state(nvme) == NVME_GONE;
	/* From here on no event makes anybody touch the hardware. */
	atomic_store_explicit(&nvme->state, NVME_GONE, memory_order_release);
	nvme_admin_stop(nvme);
	pthread_mutex_unlock(&nvme->lock);
	/* Registers that are withdrawn read all ones: then nothing is written either. */
	if (!stopped && !(svio_device_events(nvme->dev) & (SVIO_EV_REVOKED | SVIO_EV_QUIESCE | SVIO_EV_GONE)))
		stopped = shutdown(nvme);
	nvme_teardown(nvme, stopped);
}

int svio_nvme_reset(struct svio_nvme *nvme)
{
	uint64_t end = svio_now_ns() + (3 * nvme->ready_ms + 4 * nvme->opts.admin_timeout_ms) * NVME_MS;
	uint64_t before, nap = 20000;

	pthread_mutex_lock(&nvme->lock);
	before = nvme->epoch;
	nvme_freeze(nvme, NVME_WHY_USER);
	pthread_mutex_unlock(&nvme->lock);
	for (;;) {
		bool again;

		pthread_mutex_lock(&nvme->lock);
		nvme_advance(nvme, svio_now_ns());
		again = nvme->epoch > before;
		pthread_mutex_unlock(&nvme->lock);
		if (nvme_get_state(nvme) == NVME_GONE)
			return svio_fail(ENODEV, "%s: the device is gone", nvme->name);
		if (nvme_get_state(nvme) == NVME_RUNNING && again)
			return 0;
		if (svio_now_ns() > end)
			return svio_fail(ETIMEDOUT, "%s: the reset did not come to an end; it goes on at the next poll",
					 nvme->name);
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
}

bool svio_nvme_ready(const struct svio_nvme *nvme)
{
	return nvme_get_state(nvme) == NVME_RUNNING &&
	       !(svio_device_events(nvme->dev) &
		 (SVIO_EV_REVOKED | SVIO_EV_RESET | SVIO_EV_GONE | SVIO_EV_REQ | SVIO_EV_QUIESCE));
}

bool svio_nvme_gone(const struct svio_nvme *nvme)
{
	return nvme_get_state(nvme) == NVME_GONE;
}

void svio_nvme_get_stats(struct svio_nvme *nvme, struct svio_nvme_stats *stats)
{
	const struct nvme_stats *s = &nvme->stats;

	*stats = (struct svio_nvme_stats){
		.resets = atomic_load_explicit(&s->resets, memory_order_relaxed),
		.revocations = atomic_load_explicit(&s->revocations, memory_order_relaxed),
		.requeued = atomic_load_explicit(&s->requeued, memory_order_relaxed),
		.failed = atomic_load_explicit(&s->failed, memory_order_relaxed),
		.aborts = atomic_load_explicit(&s->aborts, memory_order_relaxed),
		.timeouts = atomic_load_explicit(&s->timeouts, memory_order_relaxed),
	};
}
