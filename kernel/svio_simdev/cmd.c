// SPDX-License-Identifier: GPL-2.0
/*
 * Commands (DSA, CMD and CMDSTS). The poller's. One at a time; those that drain are completed by polling,
 * while portals go on being served.
 */
#include <linux/io.h>

#include "simdev.h"

static void finish(struct sim_dev *sd)
{
	struct sim_cmd *cmd = &sd->cmd;
	u8 __iomem *regs = sd->now;

	cmd->active = false;
	sim_count(sd, commands);
	/*
	 * What the command has changed, and what the descriptors have left that it waited for, is there
	 * before its status.
	 */
	sim_swerr_poll(sd, regs);
	writel(sd->gensts, regs + DSA_REG_GENSTS);
	for (unsigned int n = 0; n < SIM_WQS; n++)
		sim_wq_show(sd, n);
	writel(cmd->err | cmd->result << DSA_CMDSTS_RESULT_LSB, regs + DSA_REG_CMDSTS);
	if (cmd->interrupt)
		sim_int_cause(sd, DSA_INTCAUSE_CMD);
}

/* ---- enabling --------------------------------------------------------------------------------------------- */

static u32 wqcfg(struct sim_dev *sd, unsigned int n, unsigned int at)
{
	return readl(sd->now + SIM_WQCFG + n * SIM_WQCFG_STRIDE + at);
}

static u32 enable_device(struct sim_dev *sd)
{
	u64 wqs[SIM_GROUPS], engines[SIM_GROUPS], all_wqs = 0, all_engines = 0;
	u32 total = 0;

	if (sd->gensts != DSA_GENSTS_DISABLED)
		return DSA_CMD_DEV_NOT_DISABLED;
	if (!sim_pci_master(sd))
		return DSA_CMD_NO_BUS_MASTER;
	if (sim_pci_pri_on(sd) && !sim_pci_ats_on(sd))
		return DSA_CMD_BAD_PASID_CAP;
	for (unsigned int g = 0; g < SIM_GROUPS; g++) {
		u8 __iomem *cfg = sd->now + SIM_GRPCFG + g * DSA_GRPCFG_STRIDE;

		wqs[g] = readq(cfg + DSA_GRPCFG_WQS);
		engines[g] = readq(cfg + DSA_GRPCFG_ENGINES);
		for (unsigned int i = 1; i < 4; i++)
			if (readq(cfg + DSA_GRPCFG_WQS + 8 * i))
				return DSA_CMD_GRP_WQ_TWICE;
		if (wqs[g] >> SIM_WQS || engines[g] >> SIM_ENGINES || (wqs[g] & all_wqs) || (engines[g] & all_engines))
			return DSA_CMD_GRP_WQ_TWICE;
		if (!wqs[g] != !engines[g])
			return DSA_CMD_GRP_NO_ENGINE;
		all_wqs |= wqs[g];
		all_engines |= engines[g];
	}
	for (unsigned int n = 0; n < SIM_WQS; n++) {
		u32 size = wqcfg(sd, n, DSA_WQCFG_SIZE) & 0xffff;

		total += size;
		if ((all_wqs >> n & 1) && !size)
			return DSA_CMD_WQ_SIZES;
	}
	if (total > SIM_WQ_ENTRIES)
		return DSA_CMD_WQ_SIZES;
	for (unsigned int n = 0; n < SIM_WQS; n++) {
		sd->wq[n].size = wqcfg(sd, n, DSA_WQCFG_SIZE) & 0xffff;
		sd->wq[n].group = -1;
		for (unsigned int g = 0; g < SIM_GROUPS; g++)
			if (wqs[g] >> n & 1)
				WRITE_ONCE(sd->wq[n].group, g);
	}
	for (unsigned int e = 0; e < SIM_ENGINES; e++) {
		int group = -1;

		for (unsigned int g = 0; g < SIM_GROUPS; g++)
			if (engines[g] >> e & 1)
				group = g;
		WRITE_ONCE(sd->engine[e].group, group);
	}
	sd->gensts = DSA_GENSTS_ENABLED;
	return DSA_CMD_OK;
}

static u32 enable_wq(struct sim_dev *sd, u32 n)
{
	struct sim_wq *wq;
	u32 mode, limits;

	if (n >= SIM_WQS)
		return DSA_CMD_BAD_WQ;
	wq = &sd->wq[n];
	if (sd->gensts != DSA_GENSTS_ENABLED)
		return DSA_CMD_DEV_NOT_ENABLED;
	if (wq->state != DSA_WQ_DISABLED)
		return DSA_CMD_WQ_NOT_DISABLED;
	if (!wq->size || wq->group < 0)
		return DSA_CMD_WQ_SIZE_ZERO;
	mode = wqcfg(sd, n, DSA_WQCFG_MODE);
	limits = wqcfg(sd, n, DSA_WQCFG_LIMITS);
	if (!DSA_WQCFG_PRIORITY_OF(mode))
		return DSA_CMD_WQ_PRIORITY_ZERO;
	if (!(mode & DSA_WQCFG_DEDICATED))
		return DSA_CMD_WQ_MODE;
	if ((mode & DSA_WQCFG_PASID_EN) && !sim_pci_pasid_on(sd))
		return DSA_CMD_WQ_PASID;
	if (DSA_WQCFG_MAX_BATCH_OF(limits) > SIM_MAX_BATCH_SHIFT)
		return DSA_CMD_WQ_MAX_BATCH;
	if (DSA_WQCFG_MAX_XFER_OF(limits) > SIM_MAX_XFER_SHIFT)
		return DSA_CMD_WQ_MAX_XFER;
	wq->priority = DSA_WQCFG_PRIORITY_OF(mode);
	wq->block_on_fault = mode & DSA_WQCFG_BLOCK_ON_FAULT;
	wq->pasid_en = mode & DSA_WQCFG_PASID_EN;
	wq->pasid = DSA_WQCFG_PASID_OF(mode);
	wq->max_xfer = 1ull << DSA_WQCFG_MAX_XFER_OF(limits);
	wq->max_batch = 1u << DSA_WQCFG_MAX_BATCH_OF(limits);
	wq->slot = 0;
	if (sd->now_portals)
		memset_io(sd->now_portals + n * DSA_PORTAL_STRIDE, 0, DSA_PORTAL_STRIDE);
	wq->state = DSA_WQ_ENABLED;
	return DSA_CMD_OK;
}

/* ---- draining --------------------------------------------------------------------------------------------- */

/* WQs that are not disabled, of those in an operand or with a PASID. */
static u32 choose(struct sim_dev *sd, u32 code, u32 operand, unsigned long *wqs)
{
	*wqs = 0;
	switch (code) {
	case DSA_CMD_DRAIN_PASID:
	case DSA_CMD_ABORT_PASID:
		for (unsigned int n = 0; n < SIM_WQS; n++)
			if (sd->wq[n].state != DSA_WQ_DISABLED && sd->wq[n].pasid_en && sd->wq[n].pasid == operand)
				*wqs |= 1ul << n;
		return DSA_CMD_OK;
	case DSA_CMD_DISABLE_WQ:
	case DSA_CMD_DRAIN_WQ:
	case DSA_CMD_ABORT_WQ:
	case DSA_CMD_RESET_WQ:
		if (operand >> 16 || !(operand & 0xffff) || (operand & 0xffff) >> SIM_WQS)
			return DSA_CMD_BAD_WQ;
		*wqs = operand & 0xffff;
		for (unsigned int n = 0; n < SIM_WQS; n++)
			if ((*wqs >> n & 1) && sd->wq[n].state == DSA_WQ_DISABLED && code != DSA_CMD_RESET_WQ)
				return DSA_CMD_WQ_NOT_ENABLED;
		return DSA_CMD_OK;
	default:
		for (unsigned int n = 0; n < SIM_WQS; n++)
			if (sd->wq[n].state != DSA_WQ_DISABLED)
				*wqs |= 1ul << n;
		return DSA_CMD_OK;
	}
}

static bool drained(struct sim_dev *sd)
{
	bool yes = true;

	for (unsigned int n = 0; n < SIM_WQS && yes; n++) {
		struct sim_wq *wq = &sd->wq[n];

		if (!(sd->cmd.wqs >> n & 1))
			continue;
		spin_lock(&sd->queue_lock);
		if (!list_empty(&wq->live))
			yes = list_first_entry(&wq->live, struct sim_desc, node)->seq >= sd->cmd.below[n];
		spin_unlock(&sd->queue_lock);
	}
	return yes;
}

static void wq_defaults(struct sim_dev *sd, unsigned int n)
{
	sd->wq[n].shown = 0;
	memset_io(sd->now + SIM_WQCFG + n * SIM_WQCFG_STRIDE + 4, 0, SIM_WQCFG_STRIDE - 4); /* not the size */
}

/* True if a command was completed. */
bool sim_cmd_poll(struct sim_dev *sd)
{
	struct sim_cmd *cmd = &sd->cmd;

	if (!cmd->active || !drained(sd))
		return false;
	switch (cmd->code) {
	case DSA_CMD_DISABLE_DEVICE:
		for (unsigned int n = 0; n < SIM_WQS; n++)
			sd->wq[n].state = DSA_WQ_DISABLED;
		sd->gensts = DSA_GENSTS_DISABLED;
		break;
	case DSA_CMD_RESET_DEVICE:
		sim_device_reset(sd);
		break;
	case DSA_CMD_DISABLE_WQ:
	case DSA_CMD_RESET_WQ:
		for (unsigned int n = 0; n < SIM_WQS; n++) {
			if (!(cmd->wqs >> n & 1))
				continue;
			sd->wq[n].state = DSA_WQ_DISABLED;
			if (cmd->code == DSA_CMD_RESET_WQ)
				wq_defaults(sd, n);
		}
		break;
	}
	finish(sd);
	return true;
}

/* value: what was written to CMD. */
void sim_cmd_start(struct sim_dev *sd, u32 value)
{
	struct sim_cmd *cmd = &sd->cmd;
	bool stop = false, abort = false, reset = false;

	*cmd = (struct sim_cmd){
		.active = true, .code = DSA_CMD_CODE(value), .operand = DSA_CMD_OPERAND(value), .interrupt = value & DSA_CMD_INT,
	};
	writel(DSA_CMDSTS_ACTIVE, sd->now + DSA_REG_CMDSTS);
	switch (cmd->code) {
	case DSA_CMD_ENABLE_DEVICE:
		cmd->err = enable_device(sd);
		break;
	case DSA_CMD_ENABLE_WQ:
		cmd->err = enable_wq(sd, cmd->operand);
		break;
	case DSA_CMD_REQUEST_INT_HANDLE:
		/* Handles are the vectors' numbers; vector 0 is the device's own. */
		if (!(cmd->operand & 0xffff) || (cmd->operand & 0xffff) >= SIM_VECTORS)
			cmd->err = DSA_CMD_BAD_INT_INDEX;
		else
			cmd->result = cmd->operand & 0xffff;
		break;
	case DSA_CMD_RELEASE_INT_HANDLE:
		break;
	case DSA_CMD_DISABLE_DEVICE:
		if (sd->gensts != DSA_GENSTS_ENABLED)
			cmd->err = DSA_CMD_DIS_DEV_NOT_ENABLED;
		stop = true;
		break;
	case DSA_CMD_RESET_DEVICE:
		reset = stop = true;
		break;
	case DSA_CMD_DISABLE_WQ:
		stop = true;
		break;
	case DSA_CMD_RESET_WQ:
		reset = stop = true;
		break;
	case DSA_CMD_ABORT_ALL:
	case DSA_CMD_ABORT_WQ:
	case DSA_CMD_ABORT_PASID:
		abort = true;
		break;
	case DSA_CMD_DRAIN_ALL:
	case DSA_CMD_DRAIN_WQ:
	case DSA_CMD_DRAIN_PASID:
		break;
	default:
		cmd->err = DSA_CMD_BAD_COMMAND;
		break;
	}
	if (!cmd->err && cmd->code != DSA_CMD_ENABLE_DEVICE && cmd->code != DSA_CMD_ENABLE_WQ &&
	    cmd->code != DSA_CMD_REQUEST_INT_HANDLE && cmd->code != DSA_CMD_RELEASE_INT_HANDLE)
		cmd->err = choose(sd, cmd->code, cmd->operand, &cmd->wqs);
	if (cmd->err) {
		cmd->wqs = 0;
		finish(sd);
		return;
	}
	if (stop && cmd->code == DSA_CMD_DISABLE_DEVICE)
		sd->gensts = DSA_GENSTS_DRAIN;
	for (unsigned int n = 0; n < SIM_WQS; n++) {
		struct sim_wq *wq = &sd->wq[n];

		if (!(cmd->wqs >> n & 1))
			continue;
		if (stop)
			wq->state = DSA_WQ_BUSY;
		spin_lock(&sd->queue_lock);
		cmd->below[n] = wq->seq;
		if (abort || reset)
			wq->abort_below = wq->seq;
		if (reset)
			wq->reset_below = wq->seq;
		spin_unlock(&sd->queue_lock);
		if (abort || reset)
			sim_abandon_queued(sd, wq, wq->seq);
	}
	if (reset) {
		wake_up_all(&sd->prq_wait);
		wake_up_all(&sd->work_wait);
	}
}
