/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Setting the device up, at open and after everything that may happen to it.
 *
 *	RUNNING --freeze--> SUSPENDED: ACCESS → STOP → ENABLE --> RUNNING
 *
 * A machine of small steps, taken by whoever comes by with the lock. ACCESS waits until BARs are back and registers answer. STOP sends RESET
 * DEVICE, which abandons every descriptor; when it has completed nothing of the old generation writes to memory any more, and
 * what had completed is in its records; where the device is held (dsa_migrate.c), it stays so. ENABLE writes the configuration and
 * enables the device. Queues follow in their own threads (dsa_wq.c).
 */
#include <stdio.h>
#include <time.h>
#include "dsa_priv.h"

#define PCI_VENDOR_ID	   0x00 /* PCIe 5.0 §7.5.1.1 */
#define PCI_COMMAND	   0x04
#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define LOST_LIMIT	   (2000 * DSA_MS) /* registers all ones with decoding on: longer than any reset */
#define WATCH_EVERY	   (100 * DSA_MS)
#define REVIVE		   (SVIO_EV_REVOKED | SVIO_EV_RESET | SVIO_EV_ERR)

void dsa_nap(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = (long)ns };

	nanosleep(&ts, NULL);
}

/* ---- commands ------------------------------------------------------------------------------------------ */

void dsa_cmd_service(struct svio_dsa *dsa, uint64_t now)
{
	struct dsa_command *c = &dsa->cmd;
	uint32_t sts;

	if (!c->result)
		return;
	sts = dsa_read32(dsa, DSA_REG_CMDSTS);
	if (sts == DSA_REG_DEAD) {
		*c->result = -ENODEV;
	} else if (sts & DSA_CMDSTS_ACTIVE) {
		if (now < c->deadline)
			return;
		*c->result = -ETIMEDOUT;
	} else {
		*c->result = (int)DSA_CMDSTS_ERR(sts);
	}
	c->result = NULL;
}

bool dsa_cmd_start(struct svio_dsa *dsa, int *result, enum dsa_cmd cmd, uint32_t operand)
{
	uint64_t now = svio_now_ns();

	dsa_cmd_service(dsa, now);
	if (dsa->cmd.result)
		return false;
	*result = DSA_CMD_PENDING;
	dsa->cmd = (struct dsa_command){ .result = result, .deadline = now + dsa->opts.cmd_timeout_ms * DSA_MS };
	/* First ACTIVE, for devices that see stores later (dsa_spec.h, Commands). */
	dsa_write32(dsa, DSA_REG_CMDSTS, DSA_CMDSTS_ACTIVE);
	dsa_write32(dsa, DSA_REG_CMD, DSA_CMD(cmd, operand));
	return true;
}

/* Whatever was under way is void: the device is stopped as a whole. */
static void cmd_abandon(struct svio_dsa *dsa)
{
	if (dsa->cmd.result)
		*dsa->cmd.result = -ECANCELED;
	dsa->cmd.result = NULL;
}

/* ---- freeze, faults, the end --------------------------------------------------------------------------- */

static void alarm_all(struct svio_dsa *dsa)
{
	for (uint32_t i = 0; i < dsa->wqs; i++)
		if (dsa->wq[i])
			atomic_store_explicit(&dsa->wq[i]->word, &dsa->alarm, memory_order_release);
}

void dsa_freeze(struct svio_dsa *dsa, const char *why)
{
	if (dsa_get_state(dsa) == DSA_GONE)
		return;
	if (dsa_get_state(dsa) == DSA_RUNNING) {
		atomic_store_explicit(&dsa->state, DSA_SUSPENDED, memory_order_release);
		alarm_all(dsa);
		svio_log_info("%s: suspended: %s", dsa->name, why);
	}
	cmd_abandon(dsa);
	dsa->step = DSA_STEP_ACCESS;
	dsa->next_try = 0;
	dsa->lost_since = 0;
}

void dsa_set_gone(struct svio_dsa *dsa, bool unplugged)
{
	if (dsa_get_state(dsa) == DSA_GONE)
		return;
	/* What still answers must be kept from memory that is about to be the user's again. */
	if (!unplugged && dsa->gen > dsa->dead && svio_device_set_master(dsa->dev, false))
		svio_log_warn("%s: could not turn bus mastering off: %s", dsa->name, svio_last_error());
	dsa->dead = dsa->gen;
	cmd_abandon(dsa);
	atomic_store_explicit(&dsa->state, DSA_GONE, memory_order_release);
	alarm_all(dsa);
}

static bool strike(struct svio_dsa *dsa)
{
	uint64_t now = svio_now_ns();

	if (now - dsa->last_fault > (3 * dsa->opts.cmd_timeout_ms + dsa->opts.timeout_ms) * DSA_MS)
		dsa->strikes = 0;
	dsa->last_fault = now;
	return ++dsa->strikes < DSA_MAX_STRIKES;
}

static void fault(struct svio_dsa *dsa, const char *text)
{
	bool retry = strike(dsa);

	svio_log_err("%s: %s; %s", dsa->name, text, retry ? "resetting the device" : "giving the device up");
	if (retry)
		dsa_freeze(dsa, text);
	else
		dsa_set_gone(dsa, false);
}

void dsa_wq_fault(struct svio_dsa_wq *wq, const char *what)
{
	struct svio_dsa *dsa = wq->dsa;

	pthread_mutex_lock(&dsa->lock);
	/* Of a generation that is already suspended: nothing new. */
	if (dsa_get_state(dsa) == DSA_RUNNING && wq->gen == dsa->gen)
		fault(dsa, what);
	pthread_mutex_unlock(&dsa->lock);
}

/* This attempt has failed, as svio_last_error() says. At open its caller ends; later it is tried again, a few times. */
static void attempt_failed(struct svio_dsa *dsa, int err)
{
	cmd_abandon(dsa);
	dsa->step_err = err;
	dsa->step = DSA_STEP_ACCESS;
	if (!dsa->opened)
		return;
	if (err == -ENODEV || !strike(dsa)) {
		svio_log_err("%s; giving the device up", svio_last_error());
		dsa_set_gone(dsa, false);
		return;
	}
	svio_log_warn("%s; trying again", svio_last_error());
	dsa->next_try = svio_now_ns() + 100 * DSA_MS;
}

/* ---- the device ----------------------------------------------------------------------------------------- */

/* Registers read all ones. Withdrawn BARs have raised an event; decoding may be off behind our back; else it is gone, after a while. */
static void registers_lost(struct svio_dsa *dsa, uint64_t now)
{
	uint32_t vendor = 0xffff, command = 0;
	int r;

	cmd_abandon(dsa);
	dsa->step = DSA_STEP_ACCESS;
	dsa->next_try = now + DSA_RETRY;
	if (svio_device_events(dsa->dev) & (SVIO_EV_REVOKED | SVIO_EV_GONE))
		return;
	r = svio_device_config_read(dsa->dev, PCI_VENDOR_ID, 2, &vendor);
	if (!r)
		r = svio_device_config_read(dsa->dev, PCI_COMMAND, 2, &command);
	if (!r && vendor != 0xffff && !(command & PCI_COMMAND_MEMORY)) {
		dsa->lost_since = 0;
		return;
	}
	if (!dsa->lost_since)
		dsa->lost_since = now;
	if (r != -ENODEV && dsa->opened && now - dsa->lost_since < LOST_LIMIT)
		return;
	dsa_set_gone(dsa, false);
	dsa->step_err = svio_fail(ENODEV, "%s: its registers read all ones: the device is gone or powered down", dsa->name);
	if (dsa->opened)
		svio_log_err("%s", svio_last_error());
}

static void step_access(struct svio_dsa *dsa, uint64_t now)
{
	if (svio_device_events(dsa->dev) & SVIO_EV_REVOKED) {
		int r = svio_bar_restore(dsa->dev);

		if (r == -ENODEV) {
			dsa->step_err = r;
			dsa_set_gone(dsa, true);
			return;
		}
		if (r && dsa->leaving) { /* it cannot be stopped by its registers: stop its access to memory */
			dsa_set_gone(dsa, false);
			return;
		}
		if (r) {
			dsa->next_try = now + DSA_RETRY;
			return;
		}
	}
	/* Before the registers are read: what happens from here on raises them again. */
	svio_device_event_clear(dsa->dev, SVIO_EV_RESET | SVIO_EV_ERR);
	if (dsa_read32(dsa, DSA_REG_GENSTS) == DSA_REG_DEAD) {
		registers_lost(dsa, now);
		return;
	}
	dsa->lost_since = 0;
	dsa->step_err = 0;
	/* A command that we have given up may still be under way; no other is taken meanwhile. */
	if (dsa_read32(dsa, DSA_REG_CMDSTS) & DSA_CMDSTS_ACTIVE) {
		if (!dsa->busy_since)
			dsa->busy_since = now;
		if (now - dsa->busy_since < dsa->opts.cmd_timeout_ms * DSA_MS)
			return;
		dsa->step_err = svio_fail(ETIMEDOUT, "%s: it does not end a command; it is given up", dsa->name);
		svio_log_err("%s", svio_last_error());
		dsa_set_gone(dsa, false);
		return;
	}
	dsa->busy_since = 0;
	if (dsa_cmd_start(dsa, &dsa->cmd_result, DSA_CMD_RESET_DEVICE, 0))
		dsa->step = DSA_STEP_STOP;
}

/* The old generation is dead. */
static void stopped(struct svio_dsa *dsa)
{
	uint32_t command = 0;
	int r;

	dsa->dead = dsa->gen;
	if (dsa->leaving) {
		svio_log_info("%s: stopped, as the host wants the device back", dsa->name);
		dsa_set_gone(dsa, true);
		return;
	}
	if (dsa->hold) {
		dsa->step = DSA_STEP_HELD;
		return;
	}
	/* A reset behind our back may have cleared it. */
	if (svio_device_config_read(dsa->dev, PCI_COMMAND, 2, &command) || !(command & PCI_COMMAND_MASTER)) {
		r = svio_device_set_master(dsa->dev, true);
		if (r) {
			attempt_failed(dsa, r);
			return;
		}
	}
	dsa_configure(dsa);
	if (dsa_cmd_start(dsa, &dsa->cmd_result, DSA_CMD_ENABLE_DEVICE, 0)) {
		dsa->step = DSA_STEP_ENABLE;
		dsa->gen++;
	}
}

/* What the device answered to a command of the machine: true when it is done and went well. */
static bool step_done(struct svio_dsa *dsa, uint64_t now, const char *what)
{
	int r;

	dsa_cmd_service(dsa, now);
	r = dsa->cmd_result;
	if (r == 0)
		return true;
	if (r == DSA_CMD_PENDING)
		return false;
	if (r == -ENODEV) {
		registers_lost(dsa, now);
	} else if (dsa->step == DSA_STEP_STOP) {
		/* What does not stop by command is kept from memory, and is no use any more. */
		svio_log_err("%s: %s: %s; giving the device up", dsa->name, what, dsa_cmd_text(r));
		dsa->step_err = svio_fail(EIO, "%s: %s: %s", dsa->name, what, dsa_cmd_text(r));
		dsa_set_gone(dsa, false);
	} else {
		attempt_failed(dsa, svio_fail(r == -ETIMEDOUT ? ETIMEDOUT : EIO, "%s: %s: %s", dsa->name, what, dsa_cmd_text(r)));
	}
	return false;
}

static void running(struct svio_dsa *dsa)
{
	if (dsa->opened) {
		dsa_count(&dsa->stats.resets, 1);
		svio_log_info("%s: running again", dsa->name);
	}
	atomic_store_explicit(&dsa->state, DSA_RUNNING, memory_order_release);
}

/* Is it alive, and what did it complain of? */
static void watch(struct svio_dsa *dsa, uint64_t now)
{
	uint32_t sts;
	uint64_t err;

	if (now < atomic_load_explicit(&dsa->next_watch, memory_order_relaxed))
		return;
	atomic_store_explicit(&dsa->next_watch, now + WATCH_EVERY, memory_order_relaxed);
	sts = dsa_read32(dsa, DSA_REG_GENSTS);
	if (sts == DSA_REG_DEAD) {
		/* Decoding went without a store of ours that noticed, or the device did. Step ACCESS finds out; no fault of the device yet. */
		dsa_freeze(dsa, "registers read all ones");
		return;
	}
	if (DSA_GENSTS_STATE(sts) != DSA_GENSTS_ENABLED) {
		fault(dsa, DSA_GENSTS_STATE(sts) == DSA_GENSTS_HALT ? "the device has halted" :
								       "not enabled any more: it was reset behind our back");
		return;
	}
	err = dsa_read64(dsa, DSA_REG_SWERR);
	if (err == UINT64_MAX || !(err & DSA_SWERR_VALID))
		return;
	svio_log_warn("%s: the device reports an error: %s (status %#x), queue %u, operation %#x, address %#llx", dsa->name,
		      svio_dsa_status_text((int)DSA_SWERR_ERROR(err)), DSA_SWERR_ERROR(err), DSA_SWERR_WQ(err), DSA_SWERR_OP(err),
		      (unsigned long long)dsa_read64(dsa, DSA_REG_SWERR + 16));
	dsa_count(&dsa->stats.device_errors, 1);
	dsa_write64(dsa, DSA_REG_SWERR, DSA_SWERR_VALID | DSA_SWERR_OVERFLOW);
}

static void take_events(struct svio_dsa *dsa)
{
	uint32_t events = svio_device_events(dsa->dev);

	if (events & SVIO_EV_GONE) {
		svio_log_err("%s: unplugged, or its server died", dsa->name);
		dsa_set_gone(dsa, true);
		return;
	}
	if (events & SVIO_EV_REQ && !dsa->leaving) {
		dsa->leaving = true;
		dsa_freeze(dsa, "the host wants the device back");
	}
	if (dsa_get_state(dsa) == DSA_RUNNING && events & REVIVE) {
		if (events & SVIO_EV_REVOKED)
			dsa_count(&dsa->stats.revocations, 1);
		dsa_freeze(dsa, "BAR withdrawn, function reset or error");
	}
}

void dsa_advance(struct svio_dsa *dsa, uint64_t now)
{
	if (dsa_get_state(dsa) == DSA_GONE)
		return;
	take_events(dsa);
	if (dsa_get_state(dsa) == DSA_RUNNING) {
		dsa_cmd_service(dsa, now);
		watch(dsa, now);
	}
	if (dsa_get_state(dsa) != DSA_SUSPENDED || dsa->quiesced || svio_device_events(dsa->dev) & SVIO_EV_QUIESCE)
		return;
	/* Withdrawn again meanwhile, or reset: from the start. */
	if (dsa->step != DSA_STEP_ACCESS && svio_device_events(dsa->dev) & (SVIO_EV_REVOKED | SVIO_EV_RESET))
		dsa_freeze(dsa, "again");
	if (now < dsa->next_try)
		return;
	if (dsa->step == DSA_STEP_ACCESS)
		step_access(dsa, now);
	if (dsa_get_state(dsa) == DSA_SUSPENDED && dsa->step == DSA_STEP_STOP && step_done(dsa, now, "RESET DEVICE"))
		stopped(dsa);
	if (dsa_get_state(dsa) == DSA_SUSPENDED && dsa->step == DSA_STEP_ENABLE && step_done(dsa, now, "ENABLE DEVICE"))
		running(dsa);
}

void svio_dsa_reset(struct svio_dsa *dsa)
{
	pthread_mutex_lock(&dsa->lock);
	dsa_freeze(dsa, "reset asked for");
	pthread_mutex_unlock(&dsa->lock);
}

/* ---- orderly resets of the function ---------------------------------------------------------------------- */

/* Stop the device, so that the reset meets a quiet one; one that does not stop is stopped by the reset. */
void dsa_hook_prepare(void *ctx, struct svio_device *dev)
{
	struct svio_dsa *dsa = ctx;
	uint64_t end = svio_now_ns() + 500 * DSA_MS;
	bool began = false;

	(void)dev;
	pthread_mutex_lock(&dsa->lock);
	dsa_freeze(dsa, "device reset under way");
	dsa->quiesced = true;
	if (dsa_get_state(dsa) != DSA_GONE && dsa_read32(dsa, DSA_REG_GENSTS) != DSA_REG_DEAD)
		began = dsa_cmd_start(dsa, &dsa->cmd_result, DSA_CMD_RESET_DEVICE, 0);
	while (began && dsa->cmd_result == DSA_CMD_PENDING && svio_now_ns() < end) {
		dsa_nap(50000);
		dsa_cmd_service(dsa, svio_now_ns());
	}
	cmd_abandon(dsa);
	pthread_mutex_unlock(&dsa->lock);
}

/* Whatever it was (a reset, decoding off and on again, or nothing), the machine finds the device as it is. */
void dsa_hook_done(void *ctx, struct svio_device *dev, int err)
{
	struct svio_dsa *dsa = ctx;

	(void)dev;
	pthread_mutex_lock(&dsa->lock);
	dsa->quiesced = false;
	if (err == -ENODEV)
		dsa_set_gone(dsa, true);
	else
		dsa_freeze(dsa, "device reset done");
	pthread_mutex_unlock(&dsa->lock);
}
