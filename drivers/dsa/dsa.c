/* SPDX-License-Identifier: BSD-3-Clause */
/* The device: registers, capabilities, configuration, opening and closing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "dsa_priv.h"

#define MAX_BATCH 1024u /* of a device; queues take memory for what they are asked for */

/* ---- registers ------------------------------------------------------------------------------------------ */

/* Mapped, as far as the mapping goes (the MSI-X table may lie between the tables), else by region access. */
static void *mapped(const struct svio_dsa *dsa, uint32_t reg, uint32_t len)
{
	return dsa->regs && (size_t)reg + len <= dsa->regs->len ? (uint8_t *)dsa->regs->addr + reg : NULL;
}

uint32_t dsa_read32(struct svio_dsa *dsa, uint32_t reg)
{
	void *p = mapped(dsa, reg, 4);
	svio_le32 v;

	if (p)
		return svio_mmio_read32(p);
	if (svio_device_region_read(dsa->dev, DSA_BAR_REGS, reg, &v, sizeof(v)))
		return DSA_REG_DEAD;
	return svio_le32_to_cpu(v);
}

void dsa_write32(struct svio_dsa *dsa, uint32_t reg, uint32_t v)
{
	void *p = mapped(dsa, reg, 4);
	svio_le32 le = svio_cpu_to_le32(v);

	if (p)
		svio_mmio_write32(p, v);
	else /* a failure shows at the next read */
		svio_device_region_write(dsa->dev, DSA_BAR_REGS, reg, &le, sizeof(le));
}

uint64_t dsa_read64(struct svio_dsa *dsa, uint32_t reg)
{
	uint64_t lo = dsa_read32(dsa, reg);

	return lo | (uint64_t)dsa_read32(dsa, reg + 4) << 32;
}

void dsa_write64(struct svio_dsa *dsa, uint32_t reg, uint64_t v)
{
	void *p = mapped(dsa, reg, 8);
	svio_le64 le = svio_cpu_to_le64(v);

	if (p)
		svio_mmio_write64(p, v);
	else
		svio_device_region_write(dsa->dev, DSA_BAR_REGS, reg, &le, sizeof(le));
}

/* ---- what it is ------------------------------------------------------------------------------------------ */

static bool cpu_has_movdir64b(void)
{
#if defined(__x86_64__)
	unsigned int a, b, c = 0, d;

	/* Intel SDM vol. 2, CPUID leaf 7: ECX bit 28. */
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c & 1u << 28;
#else
	return false;
#endif
}

static bool is_model(uint16_t vendor, uint16_t device)
{
	return vendor == DSA_SIM_VENDOR && device == DSA_SIM_DEVICE;
}

bool svio_dsa_supports(uint16_t vendor, uint16_t device)
{
	return is_model(vendor, device) || (vendor == DSA_VENDOR_INTEL && (device == DSA_DEVICE_SPR || device == DSA_DEVICE_GNRD ||
									   device == DSA_DEVICE_DMR));
}

static int identify(struct svio_dsa *dsa)
{
	struct svio_device_info info;

	svio_device_get_info(dsa->dev, &info);
	dsa->model = is_model(info.vendor, info.device);
	if (!svio_dsa_supports(info.vendor, info.device))
		return svio_fail(ENODEV, "%s: no Data Streaming Accelerator (%04x:%04x)", dsa->name, info.vendor, info.device);
	if (!dsa->model && !cpu_has_movdir64b())
		return svio_fail(ENOTSUP, "%s: this CPU has no MOVDIR64B, which the device takes descriptors by", dsa->name);
	return 0;
}

static int check_capabilities(struct svio_dsa *dsa)
{
	struct svio_region_info *region = malloc(sizeof(*region));
	uint64_t offsets, end, size;
	uint32_t wqs;
	int r;

	if (!region)
		return svio_fail(ENOMEM, "%s: out of memory", dsa->name);
	r = svio_device_region_info(dsa->dev, DSA_BAR_REGS, region);
	size = region->size;
	free(region);
	if (r)
		return r;
	dsa->version = dsa_read32(dsa, DSA_REG_VERSION);
	dsa->gencap = dsa_read64(dsa, DSA_REG_GENCAP);
	dsa->wqcap = dsa_read64(dsa, DSA_REG_WQCAP);
	dsa->grpcap = dsa_read64(dsa, DSA_REG_GRPCAP);
	dsa->engcap = dsa_read64(dsa, DSA_REG_ENGCAP);
	dsa->opcap = dsa_read64(dsa, DSA_REG_OPCAP); /* the first 64 hold all that this driver knows */
	if (dsa->version == DSA_REG_DEAD || dsa->gencap == UINT64_MAX)
		return svio_fail(ENODEV, "%s: its registers read all ones: the device is gone, powered down, or its memory decoding is off",
				 dsa->name);
	if (DSA_VERSION_MAJOR(dsa->version) < 1 || DSA_VERSION_MAJOR(dsa->version) > 3)
		return svio_fail(ENOTSUP, "%s: DSA version %#x", dsa->name, dsa->version);
	if (!(dsa->gencap & DSA_GENCAP_CONFIG))
		return svio_fail(ENOTSUP, "%s: its configuration is fixed by the platform (GENCAP)", dsa->name);
	if (!(dsa->wqcap & DSA_WQCAP_DEDICATED))
		return svio_fail(ENOTSUP, "%s: no dedicated work queues (WQCAP)", dsa->name);
	wqs = DSA_WQCAP_WQS(dsa->wqcap);
	if (!wqs || !DSA_WQCAP_TOTAL(dsa->wqcap) || !DSA_GRPCAP_GROUPS(dsa->grpcap) || !DSA_ENGCAP_ENGINES(dsa->engcap))
		return svio_fail(EPROTO, "%s: no queues, entries, groups or engines", dsa->name);
	offsets = dsa_read64(dsa, DSA_REG_OFFSETS);
	dsa->grpcfg = DSA_OFFSETS_GRPCFG(offsets);
	dsa->wqcfg = DSA_OFFSETS_WQCFG(offsets);
	dsa->wqcfg_bytes = DSA_WQCAP_WQCFG_BYTES(dsa->wqcap);
	end = SVIO_MAX((uint64_t)dsa->grpcfg + (uint64_t)DSA_GRPCAP_GROUPS(dsa->grpcap) * DSA_GRPCFG_STRIDE,
		       (uint64_t)dsa->wqcfg + (uint64_t)wqs * dsa->wqcfg_bytes);
	if (dsa->grpcfg < DSA_REG_SWERR + 32 || dsa->wqcfg < DSA_REG_SWERR + 32 || end > size)
		return svio_fail(EPROTO, "%s: its tables lie outside of its registers", dsa->name);
	dsa->max_xfer = DSA_GENCAP_MAX_XFER(dsa->gencap);
	dsa->max_batch = SVIO_MIN(DSA_GENCAP_MAX_BATCH(dsa->gencap), MAX_BATCH);
	return 0;
}

static int choose(struct svio_dsa *dsa)
{
	uint32_t have = SVIO_MIN(DSA_WQCAP_WQS(dsa->wqcap), DSA_MAX_WQS), total = DSA_WQCAP_TOTAL(dsa->wqcap), want = dsa->opts.wqs;

	want = want ? want : 1;
	if (want > have || want > total)
		return svio_fail(EINVAL, "%s: %u queues asked for; it has %u with %u entries", dsa->name, want, have, total);
	dsa->wqs = want;
	dsa->wq_size = dsa->opts.wq_size ? dsa->opts.wq_size : total / want;
	if (dsa->wq_size > total / want)
		return svio_fail(EINVAL, "%s: %u queues of %u entries; it has %u entries", dsa->name, want, dsa->wq_size, total);
	dsa->wq_size = SVIO_MIN(dsa->wq_size, DSA_PORTAL_SLOTS);
	return 0;
}

/* One group of all engines and our queues: whichever engine is free takes what is next. */
void dsa_configure(struct svio_dsa *dsa)
{
	uint32_t groups = DSA_GRPCAP_GROUPS(dsa->grpcap), engines = SVIO_MIN(DSA_ENGCAP_ENGINES(dsa->engcap), 64u);
	uint64_t all_engines = engines == 64 ? UINT64_MAX : (UINT64_C(1) << engines) - 1;
	uint64_t our_wqs = dsa->wqs == 64 ? UINT64_MAX : (UINT64_C(1) << dsa->wqs) - 1;
	uint32_t flags = DSA_GRPFLAGS_TC_A(1) | DSA_GRPFLAGS_TC_B(1);

	if (dsa->grpcap & DSA_GRPCAP_RDBUF_CONTROL)
		flags |= DSA_GRPFLAGS_RDBUF_ALLOWED(DSA_GRPCAP_READ_BUFFERS(dsa->grpcap));
	dsa_write32(dsa, DSA_REG_GENCFG, 0);
	for (uint32_t g = 0; g < groups; g++) {
		uint32_t reg = dsa->grpcfg + g * DSA_GRPCFG_STRIDE;

		for (uint32_t i = 0; i < 4; i++)
			dsa_write64(dsa, reg + DSA_GRPCFG_WQS + 8 * i, g == 0 && i == 0 ? our_wqs : 0);
		dsa_write64(dsa, reg + DSA_GRPCFG_ENGINES, g == 0 ? all_engines : 0);
		dsa_write32(dsa, reg + DSA_GRPCFG_FLAGS, g == 0 ? flags : 0);
	}
	for (uint32_t i = 0; i < DSA_WQCAP_WQS(dsa->wqcap); i++)
		dsa_write32(dsa, dsa->wqcfg + i * dsa->wqcfg_bytes + DSA_WQCFG_SIZE, i < dsa->wqs ? dsa->wq_size : 0);
}

/* ---- open and close ---------------------------------------------------------------------------------------- */

static int bring_up(struct svio_dsa *dsa)
{
	uint64_t end = svio_now_ns() + 4 * dsa->opts.cmd_timeout_ms * DSA_MS, nap = 20000;

	for (;;) {
		int err;

		pthread_mutex_lock(&dsa->lock);
		dsa_advance(dsa, svio_now_ns());
		err = dsa->step_err;
		pthread_mutex_unlock(&dsa->lock);
		if (dsa_get_state(dsa) == DSA_RUNNING)
			return 0;
		if (err)
			return err;
		if (dsa_get_state(dsa) == DSA_GONE)
			return svio_fail(ENODEV, "%s: the device is gone", dsa->name);
		if (svio_now_ns() > end)
			return svio_fail(ETIMEDOUT, "%s: it did not come up%s", dsa->name,
					 svio_device_events(dsa->dev) & SVIO_EV_REVOKED ? ": memory decoding is off" : "");
		dsa_nap(nap);
		nap = SVIO_MIN(nap * 2, DSA_MS);
	}
}

void dsa_teardown(struct svio_dsa *dsa, bool stopped)
{
	if (dsa->hooked)
		svio_device_hook_remove(dsa->dev, &dsa->hook);
	/* Memory goes back to others now: a device that was not stopped must not reach it. */
	if (!stopped && svio_device_set_master(dsa->dev, false))
		svio_log_warn("%s: could not turn bus mastering off: %s", dsa->name, svio_last_error());
	svio_bar_unmap(dsa->portals);
	svio_bar_unmap(dsa->regs);
	pthread_mutex_destroy(&dsa->log_lock);
	pthread_mutex_destroy(&dsa->lock);
	free(dsa);
}

static int map(struct svio_dsa *dsa)
{
	int r = svio_bar_map(dsa->dev, DSA_BAR_REGS, 0, 0, 0, &dsa->regs);

	if (r == -EINVAL) /* registers that are trapped: a message each */
		dsa->regs = NULL;
	else if (r)
		return r;
	r = check_capabilities(dsa);
	if (!r)
		r = choose(dsa);
	if (r)
		return r;
	/* A portal is only written: reading it has no meaning. */
	r = svio_bar_map(dsa->dev, DSA_BAR_PORTALS, 0, (size_t)dsa->wqs * DSA_PORTAL_STRIDE, SVIO_BAR_NO_PRETOUCH, &dsa->portals);
	if (r == -EINVAL)
		return svio_fail(ENOTSUP, "%s: its portals cannot be mapped, and descriptors take no other way; start the server without "
				 "--no-mmap and --interrupt", dsa->name);
	return r;
}

int dsa_begin(struct svio_device *dev, const struct svio_dsa_opts *opts, struct svio_dsa **dsap)
{
	struct svio_dsa *dsa;
	int r;

	*dsap = NULL;
	if (posix_memalign((void **)&dsa, SVIO_CACHELINE, sizeof(*dsa)))
		return svio_fail(ENOMEM, "%s: out of memory", svio_device_name(dev));
	memset(dsa, 0, sizeof(*dsa));
	dsa->dev = dev;
	strncpy(dsa->name, svio_device_name(dev), sizeof(dsa->name) - 1);
	if (opts)
		memcpy(&dsa->opts, opts, SVIO_MIN(opts->size, sizeof(dsa->opts)));
	if (!dsa->opts.timeout_ms)
		dsa->opts.timeout_ms = 10000;
	if (!dsa->opts.cmd_timeout_ms)
		dsa->opts.cmd_timeout_ms = 5000;
	pthread_mutex_init(&dsa->lock, NULL);
	pthread_mutex_init(&dsa->log_lock, NULL);
	atomic_init(&dsa->alarm, 1);
	atomic_init(&dsa->state, DSA_SUSPENDED);
	dsa->step = DSA_STEP_ACCESS;
	dsa->hook = (struct svio_device_hook){ .stage = SVIO_HOOK_DRIVER, .prepare = dsa_hook_prepare, .done = dsa_hook_done, .ctx = dsa };
	r = identify(dsa);
	if (!r)
		r = map(dsa);
	if (r) {
		dsa_teardown(dsa, true);
		return r;
	}
	*dsap = dsa;
	return 0;
}

void dsa_hook(struct svio_dsa *dsa)
{
	svio_device_hook_add(dsa->dev, &dsa->hook);
	dsa->hooked = true;
}

int svio_dsa_open(struct svio_device *dev, const struct svio_dsa_opts *opts, struct svio_dsa **dsap)
{
	char why[SVIO_ERROR_MAX];
	struct svio_dsa *dsa;
	int r;

	*dsap = NULL;
	r = dsa_begin(dev, opts, &dsa);
	if (r)
		return r;
	dsa_hook(dsa);
	r = bring_up(dsa);
	if (r) {
		snprintf(why, sizeof(why), "%s", svio_last_error());
		dsa_teardown(dsa, false);
		return svio_fail(-r, "%s", why);
	}
	dsa->opened = true;
	*dsap = dsa;
	return 0;
}

void svio_dsa_close(struct svio_dsa *dsa)
{
	uint64_t end;
	bool stopped;

	if (!dsa)
		return;
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i])
			svio_log_err("%s: closed with queue %u; destroy it first", dsa->name, i);
	pthread_mutex_lock(&dsa->lock);
	stopped = dsa_get_state(dsa) == DSA_GONE;
	end = svio_now_ns() + dsa->opts.cmd_timeout_ms * DSA_MS;
	/* Registers that are withdrawn read all ones: then nothing is written either. */
	if (!stopped && !(svio_device_events(dsa->dev) & (SVIO_EV_REVOKED | SVIO_EV_QUIESCE | SVIO_EV_GONE)) &&
	    dsa_cmd_start(dsa, &dsa->cmd_result, DSA_CMD_RESET_DEVICE, 0)) {
		while (dsa->cmd_result == DSA_CMD_PENDING && svio_now_ns() < end) {
			dsa_nap(20000);
			dsa_cmd_service(dsa, svio_now_ns());
		}
		stopped = dsa->cmd_result == 0;
	}
	/* From here on no event makes anybody touch the hardware. */
	atomic_store_explicit(&dsa->state, DSA_GONE, memory_order_release);
	pthread_mutex_unlock(&dsa->lock);
	dsa_teardown(dsa, stopped);
}

/* ---- what it tells ------------------------------------------------------------------------------------------ */

void svio_dsa_get_info(const struct svio_dsa *dsa, struct svio_dsa_info *info)
{
	*info = (struct svio_dsa_info){
		.version = dsa->version,
		.max_transfer = dsa->max_xfer,
		.max_batch = dsa->max_batch,
		.wqs = dsa->wqs,
		.wq_size = dsa->wq_size,
		.engines = DSA_ENGCAP_ENGINES(dsa->engcap),
		.groups = DSA_GRPCAP_GROUPS(dsa->grpcap),
		.total_entries = DSA_WQCAP_TOTAL(dsa->wqcap),
		.ops = dsa->opcap,
		.block_on_fault = dsa->gencap & DSA_GENCAP_BLOCK_ON_FAULT,
		.overlap_copy = dsa->gencap & DSA_GENCAP_OVERLAP_COPY,
		.simulated = dsa->model,
	};
}

bool svio_dsa_ready(const struct svio_dsa *dsa)
{
	return dsa_get_state(dsa) == DSA_RUNNING &&
	       !(svio_device_events(dsa->dev) & (SVIO_EV_REVOKED | SVIO_EV_RESET | SVIO_EV_GONE | SVIO_EV_REQ | SVIO_EV_QUIESCE));
}

bool svio_dsa_gone(const struct svio_dsa *dsa)
{
	return dsa_get_state(dsa) == DSA_GONE;
}

void svio_dsa_get_stats(const struct svio_dsa *dsa, struct svio_dsa_stats *stats)
{
	const struct dsa_stats *s = &dsa->stats;

	*stats = (struct svio_dsa_stats){
		.resets = atomic_load_explicit(&s->resets, memory_order_relaxed),
		.revocations = atomic_load_explicit(&s->revocations, memory_order_relaxed),
		.requeued = atomic_load_explicit(&s->requeued, memory_order_relaxed),
		.canceled = atomic_load_explicit(&s->canceled, memory_order_relaxed),
		.timeouts = atomic_load_explicit(&s->timeouts, memory_order_relaxed),
		.page_faults = atomic_load_explicit(&s->page_faults, memory_order_relaxed),
		.device_errors = atomic_load_explicit(&s->device_errors, memory_order_relaxed),
	};
}
