/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bringing the controller up, at open and after everything that may happen to it, and the queue pairs with it.
 *
 * The controller's part, nvme_advance(), is a machine of small steps, each a few register accesses, taken by whoever comes
 * by with the lock: any queue pair's poll, a synchronous command, svio_nvme_reset(). Nobody waits in it.
 *
 *	RUNNING --freeze--> SUSPENDED: ACCESS → (PRE_OFF) → OFF → ON → IDENTIFY → QUEUES → (DBBUF) --> RUNNING
 *
 * freeze points the `word` of every queue pair to an alarm, so that its next poll comes here. ACCESS waits, looking at most
 * once in a millisecond, until BARs are back and registers answer. OFF is where the old generation dies: when CSTS.RDY
 * is 0 the controller has stopped, what it completed is in memory (a register read pushes its writes before it, PCIe 5.0
 * §2.4.1) and nothing will follow.
 *
 * A queue pair's part, nvme_poll_slow(), runs in its own thread only, so that a thread that does not poll holds up
 * nobody: its queue stays dead, and its requests are where they were.
 *
 *	LIVE → PARKED	doorbells lead to a dummy word; new requests go into the ledger alone
 *	settle		once its generation is dead: take the completions that the device had posted; then, by policy, fail
 *			what remains of before the parking, or keep it; what had timed out, fails
 *	CQ → SQ		create both queues again, by admin commands that later polls find completed
 *	LIVE		write the entries of the whole ledger again, in the order of submission, and ring once
 *
 * Exactly once: a completion is taken from a live queue, or in settle from a dead one, where it stays what it is; it
 * frees the ledger's entry, and only entries in the ledger are failed or written again. Between parking and death no
 * completion is taken, so that none is lost to a queue that is about to be created again.
 *
 * HELD, after OFF, is where svio_nvme_quiesce() wants it (migrate.c): stopped, queues settled, until svio_nvme_unquiesce().
 *
 * The end, NVME_GONE: unplugged, or given up. Then the device cannot write to memory any more (it is not there, or was stopped,
 * or bus mastering was turned off), what it had completed is taken, and the rest completes with -ENODEV.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "nvme_priv.h"

#define PCI_VENDOR_ID	    0x00 /* PCIe 5.0 §7.5.1.1 */
#define PCI_COMMAND	    0x04
#define PCI_COMMAND_MEMORY  0x0002u
#define PCI_COMMAND_MASTER  0x0004u
#define LOST_LIMIT	    (2000 * NVME_MS) /* registers all ones with decoding on: longer than any reset */
#define REVIVE		    (SVIO_EV_REVOKED | SVIO_EV_RESET | SVIO_EV_ERR)

/* ---- freeze, faults, the end ------------------------------------------------------------------------- */

static void alarm_all(struct svio_nvme *nvme)
{
	for (struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
		atomic_store_explicit(&qp->word, &nvme->alarm, memory_order_release);
}

void nvme_freeze(struct svio_nvme *nvme, enum nvme_why why)
{
	static const char *const texts[] = {
		[NVME_WHY_OPEN] = "open",
		[NVME_WHY_USER] = "reset asked for",
		[NVME_WHY_EVENT] = "BAR withdrawn or function reset",
		[NVME_WHY_FAULT] = "fault",
		[NVME_WHY_DEVICE] = "device reset under way",
	};

	if (nvme_get_state(nvme) == NVME_GONE)
		return;
	if (nvme_get_state(nvme) == NVME_RUNNING) {
		atomic_store_explicit(&nvme->state, NVME_SUSPENDED, memory_order_release);
		alarm_all(nvme);
		svio_log_info("%s: suspended: %s", nvme->name, texts[why]);
	}
	nvme->admin.live = false;
	nvme->step = NVME_STEP_ACCESS;
	nvme->next_try = 0;
	nvme->lost_since = 0;
}

void nvme_set_gone(struct svio_nvme *nvme, bool unplugged)
{
	if (nvme_get_state(nvme) == NVME_GONE)
		return;
	/* What still answers must be kept from memory that is about to be the user's again. */
	if (!unplugged && nvme->epoch > nvme->dead_epoch && svio_device_set_master(nvme->dev, false))
		svio_log_warn("%s: could not turn bus mastering off: %s", nvme->name, svio_last_error());
	nvme->dead_epoch = nvme->epoch;
	nvme_admin_abandon(nvme, nvme->slot);
	nvme->slot = -1;
	nvme_admin_stop(nvme);
	nvme->step = NVME_STEP_NONE;
	atomic_store_explicit(&nvme->state, NVME_GONE, memory_order_release);
	alarm_all(nvme);
}

/* One more fault in a short time: is there any point in going on? */
static bool strike(struct svio_nvme *nvme)
{
	uint64_t now = svio_now_ns();
	uint64_t forget = NVME_STRIKE_FORGET + (nvme->opts.admin_timeout_ms + 2 * nvme->ready_ms) * NVME_MS;

	if (now - nvme->last_fault > forget)
		nvme->strikes = 0;
	nvme->last_fault = now;
	return ++nvme->strikes < NVME_MAX_STRIKES;
}

static void fault(struct svio_nvme *nvme, const char *text)
{
	bool retry = strike(nvme);

	svio_log_err("%s: %s; %s", nvme->name, text, retry ? "resetting the controller" : "giving the controller up");
	if (retry)
		nvme_freeze(nvme, NVME_WHY_FAULT);
	else
		nvme_set_gone(nvme, false);
}

/* This attempt has failed, as svio_last_error() says. At open its caller ends; later it is tried again, a few times. */
static void attempt_failed(struct svio_nvme *nvme, int err)
{
	nvme_admin_abandon(nvme, nvme->slot);
	nvme->slot = -1;
	nvme->admin.live = false;
	nvme->step_err = err;
	if (!nvme->opened) {
		nvme->step = NVME_STEP_NONE;
		return;
	}
	if (err == -ENODEV || !strike(nvme)) {
		svio_log_err("%s; giving the controller up", svio_last_error());
		nvme_set_gone(nvme, false);
		return;
	}
	svio_log_warn("%s; trying again", svio_last_error());
	nvme->step = NVME_STEP_ACCESS;
	nvme->next_try = svio_now_ns() + 100 * NVME_MS;
}

void nvme_fault(struct svio_nvme *nvme, int err, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (nvme_get_state(nvme) == NVME_RUNNING)
		fault(nvme, text);
	else
		attempt_failed(nvme, svio_fail(err, "%s: %s", nvme->name, text));
}

void nvme_qp_fault(struct svio_nvme_qp *qp, const char *fmt, ...)
{
	struct svio_nvme *nvme = qp->nvme;
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&nvme->lock);
	/* Of a generation that is already suspended: nothing new. */
	if (nvme_get_state(nvme) == NVME_RUNNING && qp->epoch == nvme->epoch)
		fault(nvme, text);
	pthread_mutex_unlock(&nvme->lock);
}

/* ---- the controller ------------------------------------------------------------------------------------ */

/*
 * CSTS reads all ones. Withdrawn BARs have raised an event, and the next look waits for them; decoding may be off behind our back;
 * else the function does not answer, and after a while it is taken to be gone.
 */
static void registers_lost(struct svio_nvme *nvme, uint64_t now)
{
	uint32_t vendor = 0xffff, command = 0;
	int r;

	nvme->step = NVME_STEP_ACCESS;
	nvme->next_try = now + NVME_RETRY;
	if (svio_device_events(nvme->dev) & (SVIO_EV_REVOKED | SVIO_EV_GONE))
		return;
	r = svio_device_config_read(nvme->dev, PCI_VENDOR_ID, 2, &vendor);
	if (r == 0)
		r = svio_device_config_read(nvme->dev, PCI_COMMAND, 2, &command);
	if (r == 0 && vendor != 0xffff && !(command & PCI_COMMAND_MEMORY)) {
		struct svio_device_info info;

		svio_device_get_info(nvme->dev, &info);
		if (!info.is_vf) { /* whose bit means nothing (PCIe 5.0 §9.3.4.1.3) */
			nvme->lost_since = 0;
			return;
		}
	}
	if (!nvme->lost_since)
		nvme->lost_since = now;
	if (r != -ENODEV && nvme->opened && now - nvme->lost_since < LOST_LIMIT)
		return;
	nvme_set_gone(nvme, false);
	nvme->step_err = svio_fail(ENODEV, "%s: its registers read all ones: the device is gone or powered down", nvme->name);
	if (nvme->opened)
		svio_log_err("%s", svio_last_error());
}

static void enable(struct svio_nvme *nvme, uint64_t now)
{
	uint32_t command;

	/* A reset behind our back may have cleared it. */
	if (svio_device_config_read(nvme->dev, PCI_COMMAND, 2, &command) || !(command & PCI_COMMAND_MASTER)) {
		int r = svio_device_set_master(nvme->dev, true);

		if (r) {
			attempt_failed(nvme, r);
			return;
		}
	}
	nvme->use_shadow = false;
	nvme_admin_start(nvme);
	nvme->epoch++;
	/* 1.4 §7.6.1: after the admin queue attributes, CC with the arbitration, page size, command set, and EN. */
	nvme_write32(nvme, NVME_REG_CC,
		     (nvme->page_shift - 12) << NVME_CC_MPS_SHIFT | NVME_SQE_SHIFT << NVME_CC_IOSQES_SHIFT |
			     NVME_CQE_SHIFT << NVME_CC_IOCQES_SHIFT | NVME_CC_EN);
	nvme->step = NVME_STEP_ON;
	nvme->deadline = now + nvme->ready_ms * NVME_MS;
}

/* The old generation is dead. */
static void stopped(struct svio_nvme *nvme, uint64_t now)
{
	nvme->dead_epoch = nvme->epoch;
	nvme_admin_abandon(nvme, nvme->slot);
	nvme->slot = -1;
	nvme_admin_stop(nvme);
	if (nvme->leaving) {
		svio_log_info("%s: stopped, as the host wants the device back", nvme->name);
		nvme_set_gone(nvme, true);
		return;
	}
	if (nvme->hold) {
		nvme->step = NVME_STEP_HELD;
		return;
	}
	enable(nvme, now);
}

static void disable(struct svio_nvme *nvme, uint64_t now)
{
	uint32_t cc = nvme_read32(nvme, NVME_REG_CC);

	if (cc == NVME_REG_DEAD) {
		registers_lost(nvme, now);
		return;
	}
	nvme_write32(nvme, NVME_REG_CC, cc & ~(NVME_CC_EN | NVME_CC_SHN_MASK));
	nvme->step = NVME_STEP_OFF;
	nvme->deadline = now + nvme->ready_ms * NVME_MS;
}

static void step_access(struct svio_nvme *nvme, uint64_t now)
{
	uint32_t csts, cc;

	if (now < nvme->next_try)
		return;
	if (svio_device_events(nvme->dev) & SVIO_EV_REVOKED) {
		int r = svio_bar_restore(nvme->dev);

		if (r == -ENODEV) {
			nvme->step_err = r;
			nvme_set_gone(nvme, true);
			return;
		}
		if (r && nvme->leaving) { /* it cannot be stopped by its registers: stop its access to memory */
			nvme_set_gone(nvme, false);
			return;
		}
		if (r) {
			nvme->next_try = now + NVME_RETRY;
			return;
		}
	}
	/* Before the registers are read: what happens from here on raises them again. */
	svio_device_event_clear(nvme->dev, SVIO_EV_RESET | SVIO_EV_ERR);
	csts = nvme_read32(nvme, NVME_REG_CSTS);
	cc = nvme_read32(nvme, NVME_REG_CC);
	if (csts == NVME_REG_DEAD || cc == NVME_REG_DEAD) {
		registers_lost(nvme, now);
		return;
	}
	nvme->lost_since = 0;
	nvme->step_err = 0;
	if ((cc & NVME_CC_EN) && !(csts & (NVME_CSTS_RDY | NVME_CSTS_CFS))) {
		/* Becoming ready: clearing EN is undefined until it is (1.4 §3.1.5). */
		nvme->step = NVME_STEP_PRE_OFF;
		nvme->deadline = now + nvme->ready_ms * NVME_MS;
		return;
	}
	disable(nvme, now);
}

static void submit_step(struct svio_nvme *nvme, struct nvme_cmd *cmd, enum nvme_step step)
{
	nvme->slot = nvme_admin_submit(nvme, cmd, NVME_SLOT_WAITED, nvme->opts.admin_timeout_ms);
	nvme->step = step;
}

static void finish(struct svio_nvme *nvme)
{
	nvme->step = NVME_STEP_NONE;
	nvme_aer_start(nvme);
	if (nvme->opened) {
		nvme_count(&nvme->stats.resets, 1);
		svio_log_info("%s: running again", nvme->name);
	}
	atomic_store_explicit(&nvme->state, NVME_RUNNING, memory_order_release);
}

static void clear_shadow(struct svio_nvme *nvme, uint32_t qid)
{
	size_t off = (size_t)(2 * qid) << (2 + nvme->dstrd), len = (size_t)8 << nvme->dstrd;

	memset(nvme_page(nvme, NVME_PAGE_SHADOW) + off, 0, len);
	memset(nvme_page(nvme, NVME_PAGE_EVENTIDX) + off, 0, len);
}

static void step_dbbuf(struct svio_nvme *nvme)
{
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_DBBUF_CONFIG,
		.prp1 = svio_cpu_to_le64(nvme_page_iova(nvme, NVME_PAGE_SHADOW)),
		.prp2 = svio_cpu_to_le64(nvme_page_iova(nvme, NVME_PAGE_EVENTIDX)),
	};

	if (nvme->opts.no_shadow_doorbells || !(svio_le16_to_cpu(nvme->id.oacs) & NVME_OACS_DBBUF)) {
		finish(nvme);
		return;
	}
	/* The admin queue's; each queue pair clears its own before it creates its queues, since until then its thread may
	 * still ring those of the generation before. */
	clear_shadow(nvme, 0);
	submit_step(nvme, &cmd, NVME_STEP_DBBUF);
}

static void step_queues(struct svio_nvme *nvme)
{
	uint32_t ask = SVIO_MIN(nvme->opts.max_queues, nvme->reg_max_qid);
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_SET_FEATURES,
		.cdw10 = svio_cpu_to_le32(NVME_FEAT_NUM_QUEUES),
		.cdw11 = svio_cpu_to_le32((ask - 1) << 16 | (ask - 1)),
	};

	submit_step(nvme, &cmd, NVME_STEP_QUEUES);
}

/* The command of this step has completed. */
static void step_result(struct svio_nvme *nvme)
{
	uint32_t dw0 = 0, ask = SVIO_MIN(nvme->opts.max_queues, nvme->reg_max_qid), shadow_qids;
	int status, r = 0;

	if (nvme_admin_result(nvme, nvme->slot, &status, &dw0))
		return;
	nvme->slot = -1;
	switch (nvme->step) {
	case NVME_STEP_IDENTIFY:
		r = nvme_admin_explain(nvme, "Identify Controller", status);
		if (r == 0)
			r = nvme_adopt_identity(nvme, (const void *)nvme_page(nvme, NVME_PAGE_INIT));
		if (r == 0)
			step_queues(nvme);
		break;
	case NVME_STEP_QUEUES:
		r = nvme_admin_explain(nvme, "Set Features, Number of Queues", status);
		/* Both counts are 0's based; a controller may grant more than was asked for. */
		nvme->granted = SVIO_MIN(SVIO_MIN((dw0 & 0xffff) + 1, (dw0 >> 16) + 1), ask);
		if (r == 0)
			step_dbbuf(nvme);
		break;
	case NVME_STEP_DBBUF:
		if (status) {
			svio_log_warn("%s: no shadow doorbells: %s", nvme->name, svio_nvme_status_text(status));
		} else {
			nvme->use_shadow = true;
			/* One page each (1.4 §5.7): queues beyond it would have no shadow. */
			shadow_qids = (1u << nvme->page_shift) / (8u << nvme->dstrd);
			nvme->granted = SVIO_MIN(nvme->granted, shadow_qids - 1);
		}
		finish(nvme);
		break;
	default:
		break;
	}
	if (r)
		attempt_failed(nvme, r);
}

/* One step, if it can be taken now. */
void nvme_advance(struct svio_nvme *nvme, uint64_t now)
{
	uint32_t events = svio_device_events(nvme->dev), csts;
	struct nvme_cmd cmd;

	if (nvme_get_state(nvme) == NVME_GONE)
		return;
	if (events & SVIO_EV_GONE) {
		svio_log_err("%s: the device is gone", nvme->name);
		nvme_set_gone(nvme, true);
		return;
	}
	if ((events & SVIO_EV_REQ) && !nvme->leaving) {
		nvme->leaving = true;
		nvme_freeze(nvme, NVME_WHY_EVENT);
	}
	if ((events & REVIVE) && nvme->step != NVME_STEP_ACCESS) {
		if (events & SVIO_EV_REVOKED)
			nvme_count(&nvme->stats.revocations, 1);
		nvme_freeze(nvme, NVME_WHY_EVENT);
	}
	if ((events & SVIO_EV_QUIESCE) || nvme->quiesced) {
		if (nvme->step != NVME_STEP_ACCESS)
			nvme_freeze(nvme, NVME_WHY_DEVICE);
		return;
	}

	switch (nvme->step) {
	case NVME_STEP_NONE:
		nvme_admin_poll(nvme, now);
		return;
	case NVME_STEP_ACCESS:
		step_access(nvme, now);
		return;
	case NVME_STEP_HELD:
		return;
	case NVME_STEP_IDENTIFY:
	case NVME_STEP_QUEUES:
	case NVME_STEP_DBBUF:
		nvme_admin_poll(nvme, now);
		if (nvme->slot >= 0 && nvme->step >= NVME_STEP_IDENTIFY)
			step_result(nvme);
		return;
	default:
		break;
	}

	csts = nvme_read32(nvme, NVME_REG_CSTS);
	if (csts == NVME_REG_DEAD) {
		registers_lost(nvme, now);
		return;
	}
	switch (nvme->step) {
	case NVME_STEP_PRE_OFF:
		if ((csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) || now > nvme->deadline)
			disable(nvme, now);
		break;
	case NVME_STEP_OFF:
		if (!(csts & NVME_CSTS_RDY))
			stopped(nvme, now);
		else if (now > nvme->deadline)
			attempt_failed(nvme, svio_fail(ETIMEDOUT, "%s: still ready %u ms after it was disabled (CSTS 0x%x)",
						       nvme->name, nvme->ready_ms, csts));
		break;
	case NVME_STEP_ON:
		if (csts & NVME_CSTS_CFS) {
			attempt_failed(nvme, svio_fail(EIO, "%s: controller fatal status while it was enabled (CSTS 0x%x)",
						       nvme->name, csts));
		} else if (csts & NVME_CSTS_RDY) {
			nvme->admin.live = true;
			nvme_identify_cmd(&cmd, NVME_CNS_CTRL, 0, nvme_page_iova(nvme, NVME_PAGE_INIT));
			submit_step(nvme, &cmd, NVME_STEP_IDENTIFY);
		} else if (now > nvme->deadline) {
			attempt_failed(nvme, svio_fail(ETIMEDOUT, "%s: not ready %u ms after it was enabled (CAP.TO %u, "
						       "CSTS 0x%x)", nvme->name, nvme->ready_ms, NVME_CAP_TO(nvme->cap), csts));
		}
		break;
	default:
		break;
	}
}

/* ---- hooks of an orderly device reset ----------------------------------------------------------------- */

/* Stop the controller, so that the reset meets a quiet device; one that does not stop is stopped by the reset. */
void nvme_hook_prepare(void *ctx, struct svio_device *dev)
{
	struct svio_nvme *nvme = ctx;
	uint64_t end = svio_now_ns() + SVIO_MIN(nvme->ready_ms, 500u) * NVME_MS;
	uint32_t cc, csts;

	(void)dev;
	pthread_mutex_lock(&nvme->lock);
	nvme_freeze(nvme, NVME_WHY_DEVICE);
	nvme->quiesced = true;
	cc = nvme_get_state(nvme) == NVME_GONE ? NVME_REG_DEAD : nvme_read32(nvme, NVME_REG_CC);
	if (cc != NVME_REG_DEAD && (cc & NVME_CC_EN))
		nvme_write32(nvme, NVME_REG_CC, cc & ~(NVME_CC_EN | NVME_CC_SHN_MASK));
	pthread_mutex_unlock(&nvme->lock);
	if (cc == NVME_REG_DEAD || !(cc & NVME_CC_EN))
		return;
	while (svio_now_ns() < end) {
		csts = nvme_read32(nvme, NVME_REG_CSTS);
		if (csts == NVME_REG_DEAD || !(csts & NVME_CSTS_RDY))
			break;
		nvme_nap(100000);
	}
}

/* Whatever it was (a reset, decoding off and on again, or nothing), the machine finds the controller as it is. */
void nvme_hook_done(void *ctx, struct svio_device *dev, int err)
{
	struct svio_nvme *nvme = ctx;

	(void)dev;
	pthread_mutex_lock(&nvme->lock);
	nvme->quiesced = false;
	if (err == -ENODEV)
		nvme_set_gone(nvme, true);
	else
		nvme_freeze(nvme, NVME_WHY_DEVICE);
	pthread_mutex_unlock(&nvme->lock);
}

/* ---- a queue pair ---------------------------------------------------------------------------------------- */

void nvme_qp_park(struct svio_nvme_qp *qp)
{
	qp->state = NVME_QP_PARKED;
	qp->settled = false;
	qp->park_seq = qp->seq;
	qp->sq_db = &qp->dummy_db;
	qp->cq_db = &qp->dummy_db;
	qp->sq_shadow = NULL;
	qp->cq_shadow = NULL;
	qp->shadow_mode = 0;
}

/* Fresh rings, and where its doorbells will be. Its generation is dead: nobody else looks at them. */
static void prepare_rings(struct svio_nvme_qp *qp)
{
	memset((void *)(uintptr_t)qp->cq, 0, qp->entries * sizeof(*qp->cq));
	memset(qp->sq, 0, qp->entries * sizeof(*qp->sq));
	qp->cqe = qp->cq;
	qp->stale = 0; /* the controller's first round writes phase 1 (1.4 §4.6) */
	qp->cq_rung = 0;
	if (qp->nvme->use_shadow)
		clear_shadow(qp->nvme, qp->qid);
}

void nvme_connect_doorbells(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	size_t sq = (size_t)(2 * qp->qid) << (2 + nvme->dstrd), cq = (size_t)(2 * qp->qid + 1) << (2 + nvme->dstrd);

	if (nvme->db_base) {
		qp->sq_db = (volatile uint32_t *)(volatile void *)(nvme->db_base + sq);
		qp->cq_db = (volatile uint32_t *)(volatile void *)(nvme->db_base + cq);
	} else {
		qp->sq_db = NULL;
		qp->cq_db = NULL;
		qp->sq_shadow = &qp->dummy_db;
		qp->cq_shadow = &qp->dummy_db;
		qp->sq_eventidx = NULL;
		qp->cq_eventidx = NULL;
		qp->shadow_mode = NVME_SHADOW;
	}
	if (nvme->use_shadow) {
		uint8_t *shadow = nvme_page(nvme, NVME_PAGE_SHADOW), *eventidx = nvme_page(nvme, NVME_PAGE_EVENTIDX);

		qp->sq_shadow = (void *)(shadow + sq);
		qp->cq_shadow = (void *)(shadow + cq);
		qp->sq_eventidx = (void *)(eventidx + sq);
		qp->cq_eventidx = (void *)(eventidx + cq);
		qp->shadow_mode = NVME_SHADOW;
	}
}

static int create_cq(struct svio_nvme_qp *qp)
{
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_CREATE_CQ,
		.prp1 = svio_cpu_to_le64(qp->cq_iova),
		.cdw10 = svio_cpu_to_le32(NVME_QUEUE_CDW10(qp->qid, qp->entries)),
		.cdw11 = svio_cpu_to_le32(NVME_CQ_CDW11(qp->vector, qp->irq_fd >= 0)),
	};

	return nvme_admin_submit(qp->nvme, &cmd, NVME_SLOT_WAITED, qp->nvme->opts.admin_timeout_ms);
}

static int create_sq(struct svio_nvme_qp *qp)
{
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_CREATE_SQ,
		.prp1 = svio_cpu_to_le64(qp->sq_iova),
		.cdw10 = svio_cpu_to_le32(NVME_QUEUE_CDW10(qp->qid, qp->entries)),
		.cdw11 = svio_cpu_to_le32(NVME_SQ_CDW11(qp->qid)),
	};

	return nvme_admin_submit(qp->nvme, &cmd, NVME_SLOT_WAITED, qp->nvme->opts.admin_timeout_ms);
}

/* The controller does not want the queues. At creation that is the caller's error; later the controller is at fault. */
static void create_failed(struct svio_nvme_qp *qp, int status)
{
	qp->state = NVME_QP_PARKED;
	if (status == -ECANCELED || status == -ETIMEDOUT) /* a reset came between; from the start again */
		return;
	qp->create_err = status;
	if (qp->in_list)
		nvme_fault(qp->nvme, EIO, "queue %u cannot be created again: %s", qp->qid, svio_nvme_status_text(status));
}

/* One step of a settled queue pair towards being live. The controller runs. */
void nvme_qp_step(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	int status = 0;

	if (qp->slot >= 0) {
		if (nvme_admin_result(nvme, qp->slot, &status, NULL))
			return;
		qp->slot = -1;
		if (status) {
			create_failed(qp, status);
			return;
		}
		if (qp->state == NVME_QP_CQ)
			qp->has_cq = true;
		else
			qp->has_sq = true;
	}
	if (nvme_get_state(nvme) != NVME_RUNNING)
		return;
	if (qp->state != NVME_QP_PARKED && qp->epoch != nvme->epoch)
		qp->state = NVME_QP_PARKED; /* what it had created is void */
	switch (qp->state) {
	case NVME_QP_PARKED:
		if (qp->epoch > nvme->dead_epoch)
			return;
		if (qp->qid > nvme->granted) {
			nvme_fault(nvme, EIO, "queue %u is no longer granted", qp->qid);
			return;
		}
		prepare_rings(qp);
		qp->has_cq = false;
		qp->has_sq = false;
		qp->slot = create_cq(qp);
		if (qp->slot < 0)
			return;
		qp->epoch = nvme->epoch;
		qp->state = NVME_QP_CQ;
		return;
	case NVME_QP_CQ:
		if (!qp->has_cq)
			return;
		qp->slot = create_sq(qp);
		if (qp->slot >= 0)
			qp->state = NVME_QP_SQ;
		return;
	case NVME_QP_SQ:
		if (!qp->has_sq)
			return;
		nvme_connect_doorbells(qp);
		qp->state = NVME_QP_LIVE;
		atomic_store_explicit(&qp->word, nvme_device_word(nvme), memory_order_release);
		return;
	default:
		return;
	}
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Ids in flight with seq before `before`, oldest first, in the low 16 bits of qp->order[]. Their number. */
static uint32_t in_order(struct svio_nvme_qp *qp, uint64_t before)
{
	uint32_t n = 0;

	for (uint32_t cid = 0; cid < qp->nreq; cid++)
		if (qp->reqs[cid].op != NVME_REQ_FREE && qp->reqs[cid].seq < before)
			qp->order[n++] = qp->reqs[cid].seq << 16 | cid;
	qsort(qp->order, n, sizeof(*qp->order), compare_u64);
	return n;
}

/* The queue is dead: take its completions, then see to what remains. At most max callbacks; settled when there are none left. */
static uint32_t settle(struct svio_nvme_qp *qp, uint32_t max)
{
	struct svio_nvme *nvme = qp->nvme;
	uint32_t n = nvme_reap_dead(qp, max), count, kept = 0;

	if (max == 0)
		max = UINT32_MAX;
	if (n >= max)
		return n;
	/* Callbacks may submit: those are after park_seq, and their ids were free, so that the list stays true. */
	count = in_order(qp, qp->park_seq);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t cid = (uint32_t)qp->order[i] & 0xffff;
		bool timed_out = qp->reqs[cid].flags & NVME_REQ_TIMEDOUT;

		if (!timed_out && nvme->opts.policy != SVIO_NVME_FAIL) {
			kept++;
			continue;
		}
		if (n >= max)
			return n;
		nvme_count(&nvme->stats.failed, 1);
		nvme_complete(qp, cid, timed_out ? -ETIMEDOUT : -ECANCELED);
		n++;
	}
	nvme_count(&nvme->stats.requeued, kept);
	qp->settled = true;
	return n;
}

/* The controller has the queues again: everything in the ledger, in its order. Callbacks run for what cannot be sent. */
uint32_t nvme_qp_resubmit(struct svio_nvme_qp *qp)
{
	uint32_t count = in_order(qp, UINT64_MAX), bad = 0;

	qp->seq = 0;
	qp->rung = 0;
	qp->num_samples = 0; /* their time starts again */
	for (uint32_t i = 0; i < count; i++) {
		uint32_t cid = (uint32_t)qp->order[i] & 0xffff;
		struct nvme_req *req = &qp->reqs[cid];

		if (nvme_rebuild(qp, cid, &qp->sq[qp->seq & qp->mask])) {
			qp->order[bad++] = cid; /* bad <= i: already read */
			continue;
		}
		req->seq = qp->seq++;
	}
	qp->held = qp->seq;
	if (qp->seq)
		svio_nvme_ring(qp);
	for (uint32_t i = 0; i < bad; i++) {
		nvme_count(&qp->nvme->stats.failed, 1);
		nvme_complete(qp, (uint32_t)qp->order[i], -EFAULT);
	}
	return bad;
}

/* After the end, or before the queue pair is freed: everything completes, nothing more is taken. */
uint32_t nvme_qp_end(struct svio_nvme_qp *qp, uint32_t max, int status)
{
	uint32_t n = 0, count;

	if (!qp->closed) {
		n = nvme_reap_dead(qp, max);
		if (max && n >= max)
			return n;
		qp->left = svio_nvme_inflight(qp);
		qp->closed = true;
		qp->free_idx = 0;
	}
	if (max == 0)
		max = UINT32_MAX;
	count = in_order(qp, UINT64_MAX);
	for (uint32_t i = 0; i < count && n < max; i++, n++) {
		nvme_count(&qp->nvme->stats.failed, 1);
		nvme_complete(qp, (uint32_t)qp->order[i] & 0xffff, status);
	}
	if (qp->left == 0)
		qp->state = NVME_QP_DEAD;
	return n;
}

/* An event is pending, the queue pair is alarmed, or it is time to look at the clock. */
uint32_t nvme_poll_slow(struct svio_nvme_qp *qp, uint32_t max)
{
	struct svio_nvme *nvme = qp->nvme;
	bool was_live = qp->state == NVME_QP_LIVE, dead, gone;
	uint32_t n;

	if (qp->state == NVME_QP_DEAD)
		return 0;
	if (!atomic_load_explicit(atomic_load_explicit(&qp->word, memory_order_acquire), memory_order_relaxed)) {
		n = nvme_reap(qp, max);
		nvme_tick(qp);
		return n;
	}
	/* Somebody else is at it. */
	if (pthread_mutex_trylock(&nvme->lock))
		return 0;
	nvme_advance(nvme, svio_now_ns());
	gone = nvme_get_state(nvme) == NVME_GONE;
	if (was_live && qp->epoch == nvme->epoch && nvme_get_state(nvme) == NVME_RUNNING) {
		/* Not for us, or over already. */
		atomic_store_explicit(&qp->word, nvme_device_word(nvme), memory_order_release);
		pthread_mutex_unlock(&nvme->lock);
		n = nvme_reap(qp, max);
		if (--qp->countdown == 0)
			nvme_tick(qp);
		return n;
	}
	if (was_live) {
		nvme_qp_park(qp);
		was_live = false;
	}
	dead = qp->epoch <= nvme->dead_epoch;
	if (!gone && qp->settled)
		nvme_qp_step(qp);
	pthread_mutex_unlock(&nvme->lock);

	if (gone)
		return nvme_qp_end(qp, max, -ENODEV);
	if (!qp->settled)
		return dead ? settle(qp, max) : 0;
	return qp->state == NVME_QP_LIVE ? nvme_qp_resubmit(qp) : 0;
}
