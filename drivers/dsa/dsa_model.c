/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The Data Streaming Accelerator (dsa_spec.h) as a device model: registers, configuration, commands.
 *
 * Options: wqs=N groups=N engines=N	8, 4, 4 by default; at most 16, 8, 8
 *	    size=N	WQ entries to share among the WQs, default 128
 *	    max_xfer=SIZE	largest transfer, a power of two, default 2 GiB
 *	    max_batch=N	largest batch, a power of two, default 1024
 *	    nobof	block-on-fault is not offered
 *	    slow=N	an engine takes N microseconds for a descriptor, at least: for tests that need some in flight
 *	    nopasid	no PASID, ATS and PRI capabilities: IOVAs only
 *	    pages=N	page requests under way at most, default 64
 *	    quota=N	PASIDs bound at a time at most, default 1000
 *
 * It differs from hardware in this: dedicated WQs only; an engine does one descriptor at a time, a batch in order; traffic classes,
 * read buffers and cache control are accepted and mean nothing; no readback, no event log, no performance counters.
 */
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include "dsa_model.h"
#include "svio_dsa_model.h"

#define OPCAP                                                                                                              \
	((1ull << DSA_OP_NOOP) | (1ull << DSA_OP_BATCH) | (1ull << DSA_OP_DRAIN) | (1ull << DSA_OP_MEMMOVE) |              \
	 (1ull << DSA_OP_FILL) | (1ull << DSA_OP_COMPARE) | (1ull << DSA_OP_COMPARE_PATTERN) | (1ull << DSA_OP_DUALCAST) | \
	 (1ull << DSA_OP_CRC) | (1ull << DSA_OP_COPY_CRC))

struct dsa_desc *dm_slot(struct svio_vdev *dev, unsigned int wq, unsigned int slot)
{
	uint8_t *portal = (uint8_t *)svio_vdev_bar_mem(dev, DSA_BAR_PORTALS) + wq * DSA_PORTAL_STRIDE;

	return (struct dsa_desc *)(void *)(portal + slot * sizeof(struct dsa_desc));
}

static void zero_portal(struct svio_vdev *dev, unsigned int wq)
{
	for (unsigned int i = 0; i < DSA_PORTAL_SLOTS; i++)
		__atomic_store_n((uint64_t *)(void *)dm_slot(dev, wq, i), 0, __ATOMIC_RELAXED);
}

static void cause(struct svio_vdev *dev, struct dm *dm, uint32_t bit)
{
	dm->intcause |= bit;
	svio_vdev_irq_raise(dev, 0);
}

void dm_swerr(struct svio_vdev *dev, const struct dm_task *t, enum dsa_status status, uint64_t addr)
{
	struct dm *dm = svio_vdev_priv(dev);
	uint32_t pasid = DSA_WQCFG_PASID_OF(dm->wq[t->wq].cfg[DSA_WQCFG_MODE / 4]);

	if (dm->swerr[0] & DSA_SWERR_VALID) {
		dm->swerr[0] |= DSA_SWERR_OVERFLOW;
		return;
	}
	dm->swerr[0] = DSA_SWERR_VALID | DSA_SWERR_DESC | DSA_SWERR_WQ_VALID | (t->in_batch ? DSA_SWERR_BATCH : 0) |
		       (uint64_t)status << DSA_SWERR_ERROR_LSB | (uint64_t)t->wq << DSA_SWERR_WQ_LSB |
		       (uint64_t)DSA_DESC_OP_OF(svio_le32_to_cpu(t->d.op_flags)) << DSA_SWERR_OP_LSB |
		       (uint64_t)pasid << DSA_SWERR_PASID_LSB | (status == DSA_ST_CR_FAULT ? DSA_SWERR_WRITE : 0);
	dm->swerr[1] = (t->in_batch ? t->index : 0) | (uint64_t)svio_le32_to_cpu(t->cr.bad_flags) << 32;
	dm->swerr[2] = addr;
	dm->swerr[3] = 0;
	if (dm->genctrl & DSA_GENCTRL_SWERR_INT)
		cause(dev, dm, DSA_INTCAUSE_SWERR);
}

/* ---- configuration is checked when it is enabled -------------------------------------------------------------- */

static enum dsa_cmd_err check_groups(const struct dm *dm)
{
	uint64_t wqs = 0, engines = 0;
	uint32_t total = 0;

	for (unsigned int g = 0; g < dm->groups; g++) {
		if ((dm->grp_wqs[g] & wqs) || dm->grp_wqs[g] >> dm->wqs || (dm->grp_engines[g] & engines) ||
		    dm->grp_engines[g] >> dm->engines)
			return DSA_CMD_GRP_WQ_TWICE;
		if (!dm->grp_wqs[g] != !dm->grp_engines[g])
			return DSA_CMD_GRP_NO_ENGINE;
		wqs |= dm->grp_wqs[g];
		engines |= dm->grp_engines[g];
	}
	for (unsigned int i = 0; i < dm->wqs; i++) {
		uint32_t size = dm->wq[i].cfg[0] & 0xffff;

		total += size;
		if (!size && (wqs >> i & 1))
			return DSA_CMD_WQ_SIZES;
	}
	return total > dm->total ? DSA_CMD_WQ_SIZES : DSA_CMD_OK;
}

static bool in_group(const struct dm *dm, unsigned int wq)
{
	for (unsigned int g = 0; g < dm->groups; g++)
		if (dm->grp_wqs[g] >> wq & 1)
			return true;
	return false;
}

static enum dsa_cmd_err check_wq(const struct svio_vdev *dev, const struct dm *dm, unsigned int i)
{
	const struct dm_wq *wq = &dm->wq[i];
	uint32_t mode = wq->cfg[DSA_WQCFG_MODE / 4], limits = wq->cfg[DSA_WQCFG_LIMITS / 4];

	if (dm->state != DSA_GENSTS_ENABLED)
		return DSA_CMD_DEV_NOT_ENABLED;
	if (wq->state != DSA_WQ_DISABLED)
		return DSA_CMD_WQ_NOT_DISABLED;
	if (!(wq->cfg[0] & 0xffff) || !in_group(dm, i))
		return DSA_CMD_WQ_SIZE_ZERO;
	if (!DSA_WQCFG_PRIORITY_OF(mode))
		return DSA_CMD_WQ_PRIORITY_ZERO;
	if (!(mode & DSA_WQCFG_DEDICATED) || (mode & DSA_WQCFG_PRIV))
		return DSA_CMD_WQ_MODE;
	if ((mode & DSA_WQCFG_BLOCK_ON_FAULT) && !dm->bof)
		return DSA_CMD_WQ_BLOCK_ON_FAULT;
	if ((mode & DSA_WQCFG_PASID_EN) &&
	    (!dm->ecap_pasid || !(svio_vdev_config_get(dev, dm->ecap_pasid + PCI_PASID_CTRL, 2) & PCI_PASID_CTRL_ENABLE)))
		return DSA_CMD_WQ_PASID;
	if (DSA_WQCFG_MAX_BATCH_OF(limits) > dm->max_batch)
		return DSA_CMD_WQ_MAX_BATCH;
	if (DSA_WQCFG_MAX_XFER_OF(limits) > dm->max_xfer)
		return DSA_CMD_WQ_MAX_XFER;
	return DSA_CMD_OK;
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

/* The WQs that a command is for, as a mask; 0 = its operand is wrong. */
static uint32_t wqs_of(const struct dm *dm, uint32_t cmd)
{
	uint32_t operand = DSA_CMD_OPERAND(cmd), mask = 0;

	switch (DSA_CMD_CODE(cmd)) {
	case DSA_CMD_DISABLE_WQ:
	case DSA_CMD_DRAIN_WQ:
	case DSA_CMD_ABORT_WQ:
	case DSA_CMD_RESET_WQ:
		if (operand >> 16) /* WQs from 16 on */
			return 0;
		mask = operand & 0xffff;
		return mask >> dm->wqs ? 0 : mask;
	case DSA_CMD_DRAIN_PASID:
	case DSA_CMD_ABORT_PASID:
		for (unsigned int i = 0; i < dm->wqs; i++) {
			uint32_t mode = dm->wq[i].cfg[DSA_WQCFG_MODE / 4];

			if ((mode & DSA_WQCFG_PASID_EN) && DSA_WQCFG_PASID_OF(mode) == operand)
				mask |= 1u << i;
		}
		return mask;
	default:
		return (1u << dm->wqs) - 1;
	}
}

static void complete(struct svio_vdev *dev, struct dm *dm, enum dsa_cmd_err err, uint32_t result)
{
	dm->cmdsts = (uint32_t)err | result << DSA_CMDSTS_RESULT_LSB;
	if (dm->cmd & DSA_CMD_INT)
		cause(dev, dm, DSA_INTCAUSE_CMD);
}

static void disable_wq(struct svio_vdev *dev, struct dm *dm, unsigned int i)
{
	dm_wq_forget(dev, dm, i);
	dm->wq[i].state = DSA_WQ_DISABLED;
}

static void reset_wq(struct svio_vdev *dev, struct dm *dm, unsigned int i)
{
	uint32_t size = dm->wq[i].cfg[0];

	disable_wq(dev, dm, i);
	memset(dm->wq[i].cfg, 0, sizeof(dm->wq[i].cfg));
	dm->wq[i].cfg[0] = size;
}

static void reset_device(struct svio_vdev *dev, struct dm *dm)
{
	for (unsigned int i = 0; i < dm->wqs; i++) {
		disable_wq(dev, dm, i);
		memset(dm->wq[i].cfg, 0, sizeof(dm->wq[i].cfg));
	}
	dm->state = DSA_GENSTS_DISABLED;
	dm->gencfg = dm->genctrl = dm->intcause = 0;
	memset(dm->swerr, 0, sizeof(dm->swerr));
	memset(dm->grp_wqs, 0, sizeof(dm->grp_wqs));
	memset(dm->grp_engines, 0, sizeof(dm->grp_engines));
	memset(dm->grp_flags, 0, sizeof(dm->grp_flags));
	memset(dm->msixperm, 0, sizeof(dm->msixperm));
	memset(dm->rr, 0, sizeof(dm->rr));
	memset(dm->served, 0, sizeof(dm->served));
}

/* Commands that drain go on in poll(): this asks whether they are through, and ends them. */
static bool progress(struct svio_vdev *dev, struct dm *dm)
{
	uint32_t mask = wqs_of(dm, dm->cmd), code = DSA_CMD_CODE(dm->cmd);

	for (unsigned int i = 0; i < dm->wqs; i++)
		if ((mask >> i & 1) && dm->wq[i].state != DSA_WQ_DISABLED && !dm_wq_done(dm, i, dm->wq[i].target))
			return false;
	for (unsigned int i = 0; i < dm->wqs; i++)
		if ((mask >> i & 1) && (code == DSA_CMD_DISABLE_WQ || code == DSA_CMD_DISABLE_DEVICE))
			disable_wq(dev, dm, i);
	if (code == DSA_CMD_DISABLE_DEVICE)
		dm->state = DSA_GENSTS_DISABLED;
	complete(dev, dm, DSA_CMD_OK, 0);
	return true;
}

static void start_drain(struct svio_vdev *dev, struct dm *dm, uint32_t mask)
{
	uint32_t code = DSA_CMD_CODE(dm->cmd);
	bool disable = code == DSA_CMD_DISABLE_WQ || code == DSA_CMD_DISABLE_DEVICE;

	for (unsigned int i = 0; i < dm->wqs; i++) {
		if (!(mask >> i & 1) || dm->wq[i].state != DSA_WQ_ENABLED)
			continue;
		dm->wq[i].target = dm_wq_target(dev, dm, i);
		if (disable)
			dm->wq[i].state = DSA_WQ_BUSY;
	}
	if (code == DSA_CMD_DISABLE_DEVICE)
		dm->state = DSA_GENSTS_DRAIN;
	dm->cmdsts = DSA_CMDSTS_ACTIVE;
	progress(dev, dm);
}

static enum dsa_cmd_err check_wqs_enabled(const struct dm *dm, uint32_t mask)
{
	if (dm->state != DSA_GENSTS_ENABLED)
		return DSA_CMD_DIS_DEV_NOT_ENABLED;
	if (!mask)
		return DSA_CMD_BAD_WQ;
	for (unsigned int i = 0; i < dm->wqs; i++)
		if ((mask >> i & 1) && dm->wq[i].state != DSA_WQ_ENABLED)
			return DSA_CMD_WQ_NOT_ENABLED;
	return DSA_CMD_OK;
}

static void command(struct svio_vdev *dev, struct dm *dm, uint32_t cmd)
{
	uint32_t operand = DSA_CMD_OPERAND(cmd), mask, result = 0;
	enum dsa_cmd_err err = DSA_CMD_OK;

	if (dm->cmdsts & DSA_CMDSTS_ACTIVE)
		return;
	dm->cmd = cmd;
	mask = wqs_of(dm, cmd);
	switch (DSA_CMD_CODE(cmd)) {
	case DSA_CMD_ENABLE_DEVICE:
		if (dm->state != DSA_GENSTS_DISABLED)
			err = DSA_CMD_DEV_NOT_DISABLED;
		else if (!svio_vdev_bus_master(dev))
			err = DSA_CMD_NO_BUS_MASTER;
		else
			err = check_groups(dm);
		if (!err)
			dm->state = DSA_GENSTS_ENABLED;
		break;
	case DSA_CMD_ENABLE_WQ:
		err = operand >= dm->wqs ? DSA_CMD_BAD_WQ : check_wq(dev, dm, operand);
		if (!err) {
			zero_portal(dev, operand);
			dm->wq[operand].slot = 0;
			dm->wq[operand].state = DSA_WQ_ENABLED;
		}
		break;
	case DSA_CMD_DISABLE_DEVICE:
		if (dm->state != DSA_GENSTS_ENABLED) {
			err = DSA_CMD_DIS_DEV_NOT_ENABLED;
			break;
		}
		start_drain(dev, dm, mask);
		return;
	case DSA_CMD_DISABLE_WQ:
	case DSA_CMD_DRAIN_WQ:
		err = check_wqs_enabled(dm, mask);
		if (err)
			break;
		start_drain(dev, dm, mask);
		return;
	case DSA_CMD_DRAIN_ALL:
	case DSA_CMD_DRAIN_PASID:
		start_drain(dev, dm, mask);
		return;
	case DSA_CMD_ABORT_WQ:
		err = check_wqs_enabled(dm, mask);
		if (err)
			break;
		/* fall through */
	case DSA_CMD_ABORT_ALL:
	case DSA_CMD_ABORT_PASID:
		for (unsigned int i = 0; i < dm->wqs; i++)
			if (mask >> i & 1)
				dm_wq_forget(dev, dm, i);
		break;
	case DSA_CMD_RESET_WQ:
		if (!mask)
			err = DSA_CMD_BAD_WQ;
		for (unsigned int i = 0; i < dm->wqs; i++)
			if (mask >> i & 1)
				reset_wq(dev, dm, i);
		break;
	case DSA_CMD_RESET_DEVICE:
		reset_device(dev, dm);
		break;
	case DSA_CMD_REQUEST_INT_HANDLE:
		if ((operand & 0xffff) == 0 || (operand & 0xffff) >= DM_VECTORS || operand >> 16)
			err = DSA_CMD_BAD_INT_INDEX;
		result = operand & 0xffff;
		break;
	case DSA_CMD_RELEASE_INT_HANDLE:
		break;
	default:
		err = DSA_CMD_BAD_COMMAND;
	}
	complete(dev, dm, err, err ? 0 : result);
}

/* ---- registers: 32-bit words ----------------------------------------------------------------------------------- */

static uint32_t half(uint64_t v, uint64_t off)
{
	return (uint32_t)(off & 4 ? v >> 32 : v);
}

static void set_half(uint64_t *v, uint64_t off, uint32_t word)
{
	*v = off & 4 ? (*v & UINT32_MAX) | (uint64_t)word << 32 : (*v & ~(uint64_t)UINT32_MAX) | word;
}

static uint64_t capability(const struct dm *dm, uint64_t reg)
{
	switch (reg) {
	case DSA_REG_VERSION:
		return DSA_VERSION_1;
	case DSA_REG_GENCAP:
		return (dm->bof ? DSA_GENCAP_BLOCK_ON_FAULT : 0) | DSA_GENCAP_OVERLAP_COPY | DSA_GENCAP_CMD_CAP |
		       DSA_GENCAP_CONFIG | (uint64_t)dm->max_xfer << DSA_GENCAP_MAX_XFER_LSB |
		       (uint64_t)dm->max_batch << DSA_GENCAP_MAX_BATCH_LSB;
	case DSA_REG_WQCAP:
		return (uint64_t)dm->total << DSA_WQCAP_TOTAL_LSB | (uint64_t)dm->wqs << DSA_WQCAP_WQS_LSB |
		       DSA_WQCAP_DEDICATED | DSA_WQCAP_PRIORITY | DSA_WQCAP_OCCUPANCY;
	case DSA_REG_GRPCAP:
		return dm->groups;
	case DSA_REG_ENGCAP:
		return dm->engines;
	case DSA_REG_OPCAP:
		return OPCAP;
	case DSA_REG_OFFSETS:
		return DM_GRPCFG / DSA_OFFSETS_UNIT | DM_WQCFG / DSA_OFFSETS_UNIT << 16 |
		       (uint64_t)(DM_MSIXPERM / DSA_OFFSETS_UNIT) << 32;
	case DSA_REG_GENCFG:
		return dm->gencfg;
	case DSA_REG_GENCTRL:
		return dm->genctrl;
	case DSA_REG_GENSTS:
		return dm->state;
	case DSA_REG_INTCAUSE:
		return dm->intcause;
	case DSA_REG_CMDSTS:
		return dm->cmdsts;
	case DSA_REG_CMDCAP: /* commands 1 to 14 */
		return 0x7ffe;
	case DSA_REG_SWERR:
	case DSA_REG_SWERR + 8:
	case DSA_REG_SWERR + 16:
	case DSA_REG_SWERR + 24:
		return dm->swerr[(reg - DSA_REG_SWERR) / 8];
	default:
		return 0;
	}
}

static uint32_t read_wqcfg(const struct dm *dm, uint64_t off)
{
	const struct dm_wq *wq = &dm->wq[off / 32];
	uint32_t word = (uint32_t)(off % 32);

	return word == DSA_WQCFG_STATE ? wq->count | wq->state << DSA_WQCFG_STATE_LSB : wq->cfg[word / 4];
}

static uint32_t read_word(const struct dm *dm, uint64_t off)
{
	if (off < DM_GRPCFG)
		return half(capability(dm, off & ~7ull), off);
	if (off < DM_GRPCFG + dm->groups * DSA_GRPCFG_STRIDE) {
		uint64_t g = (off - DM_GRPCFG) / DSA_GRPCFG_STRIDE, at = (off - DM_GRPCFG) % DSA_GRPCFG_STRIDE & ~7ull;

		return half(at == DSA_GRPCFG_WQS ? dm->grp_wqs[g] : at == DSA_GRPCFG_ENGINES ? dm->grp_engines[g] :
			    at == DSA_GRPCFG_FLAGS ? dm->grp_flags[g] : 0, off);
	}
	if (off >= DM_WQCFG && off < DM_WQCFG + dm->wqs * 32)
		return read_wqcfg(dm, off - DM_WQCFG);
	if (off >= DM_MSIXPERM && off < DM_MSIXPERM + DM_VECTORS * DSA_MSIXPERM_STRIDE && !(off & 4))
		return dm->msixperm[(off - DM_MSIXPERM) / DSA_MSIXPERM_STRIDE];
	return 0;
}

static void write_register(struct svio_vdev *dev, struct dm *dm, uint64_t off, uint32_t v)
{
	switch (off) {
	case DSA_REG_GENCFG:
		if (dm->state == DSA_GENSTS_DISABLED)
			dm->gencfg = v & 0xff;
		break;
	case DSA_REG_GENCTRL:
		dm->genctrl = v & (DSA_GENCTRL_SWERR_INT | DSA_GENCTRL_HALT_INT);
		break;
	case DSA_REG_INTCAUSE:
		dm->intcause &= ~v;
		break;
	case DSA_REG_CMD:
		command(dev, dm, v);
		break;
	case DSA_REG_SWERR:
		if (v & DSA_SWERR_VALID)
			memset(dm->swerr, 0, sizeof(dm->swerr));
		else if (v & DSA_SWERR_OVERFLOW)
			dm->swerr[0] &= ~DSA_SWERR_OVERFLOW;
		break;
	}
}

static void write_word(struct svio_vdev *dev, struct dm *dm, uint64_t off, uint32_t v)
{
	if (off < DM_GRPCFG) {
		write_register(dev, dm, off, v);
	} else if (off < DM_GRPCFG + dm->groups * DSA_GRPCFG_STRIDE) {
		uint64_t g = (off - DM_GRPCFG) / DSA_GRPCFG_STRIDE, at = (off - DM_GRPCFG) % DSA_GRPCFG_STRIDE;

		if (dm->state != DSA_GENSTS_DISABLED)
			return;
		if ((at & ~7ull) == DSA_GRPCFG_WQS)
			set_half(&dm->grp_wqs[g], at, v);
		else if ((at & ~7ull) == DSA_GRPCFG_ENGINES)
			set_half(&dm->grp_engines[g], at, v);
		else if (at == DSA_GRPCFG_FLAGS)
			dm->grp_flags[g] = v;
	} else if (off >= DM_WQCFG && off < DM_WQCFG + dm->wqs * 32) {
		struct dm_wq *wq = &dm->wq[(off - DM_WQCFG) / 32];
		uint32_t word = (uint32_t)((off - DM_WQCFG) % 32);

		if (wq->state != DSA_WQ_DISABLED || word == DSA_WQCFG_STATE ||
		    (word == DSA_WQCFG_SIZE && dm->state != DSA_GENSTS_DISABLED))
			return;
		wq->cfg[word / 4] = word == DSA_WQCFG_SIZE ? v & 0xffff : v;
	} else if (off >= DM_MSIXPERM && off < DM_MSIXPERM + DM_VECTORS * DSA_MSIXPERM_STRIDE && !(off & 4)) {
		dm->msixperm[(off - DM_MSIXPERM) / DSA_MSIXPERM_STRIDE] = v;
	}
}

static int dm_read(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t *value)
{
	*value = bar == DSA_BAR_REGS ? read_word(svio_vdev_priv(dev), off & ~3ull) >> 8 * (off & 3) : 0;
	(void)width; /* the kit takes as many bytes as were asked for */
	return 0;
}

static int dm_write(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t value)
{
	if (bar == DSA_BAR_REGS && width == 4)
		write_word(dev, svio_vdev_priv(dev), off, (uint32_t)value);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static unsigned int dm_poll(struct svio_vdev *dev)
{
	struct dm *dm = svio_vdev_priv(dev);
	unsigned int done;

	if (dm->state == DSA_GENSTS_DISABLED)
		return 0;
	done = dm->stopping ? 0 : dm_take(dev, dm);
	done += dm_run(dev, dm);
	if ((dm->cmdsts & DSA_CMDSTS_ACTIVE) && !dm->stopping)
		done += progress(dev, dm);
	return done;
}

static int dm_quiesce(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len)
{
	struct dm *dm = svio_vdev_priv(dev);

	switch (why) {
	case SVIO_VDEV_Q_UNMAP: /* pointers are not kept, and the kit has cancelled its transfers: the rest will fault */
		return 0;
	case SVIO_VDEV_Q_PASID:
		for (unsigned int i = 0; i < dm->wqs; i++) {
			uint32_t mode = dm->wq[i].cfg[DSA_WQCFG_MODE / 4], pasid = DSA_WQCFG_PASID_OF(mode);

			if ((mode & DSA_WQCFG_PASID_EN) && pasid >= iova && pasid - iova < len)
				dm_wq_forget(dev, dm, i);
		}
		return 0;
	case SVIO_VDEV_Q_STOP:
		dm->stopping = true;
		for (unsigned int i = 0; i < dm->engines; i++)
			if (!dm_task_between(&dm->task[i]))
				return -EAGAIN;
		return 0;
	default:
		for (unsigned int i = 0; i < dm->wqs; i++)
			dm_wq_forget(dev, dm, i);
		return 0;
	}
}

static void dm_resume(struct svio_vdev *dev)
{
	((struct dm *)svio_vdev_priv(dev))->stopping = false;
}

static void dm_reset(struct svio_vdev *dev, enum svio_vdev_reset why)
{
	struct dm *dm = svio_vdev_priv(dev);

	(void)why;
	reset_device(dev, dm);
	dm->cmd = dm->cmdsts = 0;
	dm->stopping = false;
}

static void dm_fini(struct svio_vdev *dev)
{
	struct dm *dm = svio_vdev_priv(dev);

	for (unsigned int i = 0; i < DM_WQS; i++)
		free(dm->wq[i].queue);
	for (unsigned int i = 0; i < DM_ENGINES; i++)
		for (unsigned int b = 0; b < 2; b++)
			free(dm->task[i].buf[b]);
}

static int log2_of(const char *name, uint64_t v, uint32_t max, uint32_t *out)
{
	if (!v || (v & (v - 1)) || (uint32_t)__builtin_ctzll(v) > max)
		return svio_fail(EINVAL, "dsa: %s is a power of two up to %llu", name, 1ull << max);
	*out = (uint32_t)__builtin_ctzll(v);
	return 0;
}

static int arg32(struct svio_vdev_args *args, const char *key, uint64_t def, uint64_t min, uint64_t max, uint32_t *value)
{
	uint64_t v = 0;
	int err = svio_vdev_arg_u64(args, key, def, min, max, &v);

	*value = (uint32_t)v;
	return err;
}

static int options(struct dm *dm, struct svio_vdev_args *args, uint32_t *quota, uint32_t *pages, bool *nopasid)
{
	uint64_t xfer, batch;
	bool nobof;
	int err;

	if ((err = arg32(args, "wqs", 8, 1, DM_WQS, &dm->wqs)) || (err = arg32(args, "groups", 4, 1, DM_GROUPS, &dm->groups)) ||
	    (err = arg32(args, "engines", 4, 1, DM_ENGINES, &dm->engines)) ||
	    (err = arg32(args, "size", 128, 1, DM_TOTAL_MAX, &dm->total)) ||
	    (err = arg32(args, "slow", 0, 0, 1000000, &dm->slow_us)) ||
	    (err = arg32(args, "quota", SVIO_VDEV_QUOTA, 1, 1u << 20, quota)) || (err = arg32(args, "pages", 64, 1, 512, pages)) ||
	    (err = svio_vdev_arg_size(args, "max_xfer", 1ull << 31, &xfer)) ||
	    (err = svio_vdev_arg_u64(args, "max_batch", 1024, 2, 32768, &batch)) ||
	    (err = svio_vdev_arg_bool(args, "nobof", &nobof)) || (err = svio_vdev_arg_bool(args, "nopasid", nopasid)))
		return err;
	dm->bof = !nobof;
	err = log2_of("max_xfer", xfer, 31, &dm->max_xfer);
	return err ? err : log2_of("max_batch", batch, 15, &dm->max_batch);
}

static int memory(struct dm *dm)
{
	for (unsigned int i = 0; i < dm->wqs; i++) {
		dm->wq[i].queue = aligned_alloc(64, DM_TOTAL_MAX * sizeof(struct dsa_desc));
		if (!dm->wq[i].queue)
			return -ENOMEM;
	}
	for (unsigned int i = 0; i < dm->engines; i++) {
		for (unsigned int b = 0; b < 2; b++) {
			dm->task[i].buf[b] = malloc(DM_SLICE);
			if (!dm->task[i].buf[b])
				return -ENOMEM;
		}
	}
	return 0;
}

static int pasids(struct svio_vdev *dev, struct dm *dm, uint32_t quota, uint32_t pages)
{
	int off = svio_vdev_ecap_pasid(dev, 20, false, false);

	if (off < 0)
		return off;
	dm->ecap_pasid = (uint32_t)off;
	off = svio_vdev_ecap_ats(dev, 32);
	if (off >= 0)
		off = svio_vdev_ecap_pri(dev, pages);
	return off < 0 ? off : svio_vdev_iommu_enable(dev, quota);
}

static int dm_init(struct svio_vdev *dev, struct svio_vdev_args *args)
{
	static const struct svio_vdev_ids ids = {
		.vendor = DSA_SIM_VENDOR,
		.device = DSA_SIM_DEVICE,
		.subsys_vendor = DSA_SIM_VENDOR,
		.subsys = DSA_SIM_SUBSYS_KIT,
		.class_code = DSA_CLASS,
	};
	struct dm *dm = svio_vdev_priv(dev);
	struct svio_vdev_area portals = { .offset = 0 };
	uint32_t quota, pages;
	bool nopasid;
	int err;

	err = options(dm, args, &quota, &pages, &nopasid);
	if (err)
		return err;
	svio_vdev_set_ids(dev, &ids);
	for (portals.size = DSA_PORTAL_STRIDE; portals.size < dm->wqs * DSA_PORTAL_STRIDE;)
		portals.size *= 2;
	err = svio_vdev_add_bar(dev, DSA_BAR_REGS, DM_BAR_REGS, SVIO_VDEV_BAR_64, NULL, 0);
	if (!err)
		err = svio_vdev_add_bar(dev, DSA_BAR_PORTALS, portals.size, SVIO_VDEV_BAR_64, &portals, 1);
	if (!err)
		err = svio_vdev_cap_pcie(dev, SVIO_VDEV_PCIE_FLR | SVIO_VDEV_PCIE_RCIEP | SVIO_VDEV_PCIE_E2E_TLP);
	if (err >= 0)
		err = svio_vdev_cap_msix(dev, DM_VECTORS, DSA_BAR_REGS, DM_MSIX_TABLE, DSA_BAR_REGS, DM_MSIX_PBA);
	if (err >= 0)
		err = svio_vdev_cap_pm(dev);
	if (err >= 0 && !nopasid)
		err = pasids(dev, dm, quota, pages);
	if (err >= 0)
		err = memory(dm);
	if (err >= 0)
		return 0;
	dm_fini(dev);
	return err;
}

const struct svio_vdev_model svio_dsa_model = {
	.name = "dsa",
	.help = "wqs=N, groups=N, engines=N, size=N, max_xfer=SIZE, max_batch=N, nobof, nopasid, pages=N, quota=N, slow=US",
	.priv_size = sizeof(struct dm),
	.max_access = 4,
	.state_version = 1,
	.init = dm_init,
	.fini = dm_fini,
	.reg_read = dm_read,
	.reg_write = dm_write,
	.poll = dm_poll,
	.reset = dm_reset,
	.quiesce = dm_quiesce,
	.resume = dm_resume,
	.save = dm_save,
	.load = dm_load,
};
