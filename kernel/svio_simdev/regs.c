// SPDX-License-Identifier: GPL-2.0
/*
 * The registers and portals: memory in the window of the BARs, which this one thread polls.
 *
 * Registers that software only reads are memory all the same; what it stores there stays until the poller
 * publishes the register again. Write-one-to-clear registers: what differs from what was published last has
 * been written.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/sched.h>

#include "simdev.h"

static const u8 ops[] = {
	DSA_OP_NOOP, DSA_OP_BATCH, DSA_OP_DRAIN, DSA_OP_MEMMOVE, DSA_OP_FILL, DSA_OP_COMPARE, DSA_OP_COMPARE_PATTERN,
	DSA_OP_DUALCAST, DSA_OP_CRC, DSA_OP_COPY_CRC,
};

/* All registers as after a reset. May be called with interrupts off. */
void sim_regs_default(struct sim_dev *sd, u8 __iomem *regs)
{
	u64 opcap[DSA_OPCAP_WORDS] = { };

	memset_io(regs, 0, SIM_BAR0_SIZE);
	writel(DSA_VERSION_1, regs + DSA_REG_VERSION);
	writeq(DSA_GENCAP_BLOCK_ON_FAULT | DSA_GENCAP_OVERLAP_COPY | DSA_GENCAP_CMD_CAP | DSA_GENCAP_CONFIG |
	       (u64)SIM_MAX_XFER_SHIFT << DSA_GENCAP_MAX_XFER_LSB | (u64)SIM_MAX_BATCH_SHIFT << DSA_GENCAP_MAX_BATCH_LSB,
	       regs + DSA_REG_GENCAP);
	writeq((u64)SIM_WQ_ENTRIES << DSA_WQCAP_TOTAL_LSB | (u64)SIM_WQS << DSA_WQCAP_WQS_LSB |
	       (u64)ilog2(SIM_WQCFG_STRIDE / 32) << DSA_WQCAP_WQCFG_LSB | DSA_WQCAP_DEDICATED | DSA_WQCAP_PRIORITY |
	       DSA_WQCAP_OCCUPANCY, regs + DSA_REG_WQCAP);
	writeq(SIM_GROUPS, regs + DSA_REG_GRPCAP);
	writeq(SIM_ENGINES, regs + DSA_REG_ENGCAP);
	for (unsigned int i = 0; i < ARRAY_SIZE(ops); i++)
		opcap[ops[i] / 64] |= 1ull << (ops[i] % 64);
	for (unsigned int i = 0; i < DSA_OPCAP_WORDS; i++)
		writeq(opcap[i], regs + DSA_REG_OPCAP + 8 * i);
	writeq(SIM_GRPCFG / DSA_OFFSETS_UNIT | (u64)(SIM_WQCFG / DSA_OFFSETS_UNIT) << 16 |
	       (u64)(SIM_MSIXPERM / DSA_OFFSETS_UNIT) << 32, regs + DSA_REG_OFFSETS);
	writel(GENMASK(DSA_CMD_RELEASE_INT_HANDLE, DSA_CMD_ENABLE_DEVICE), regs + DSA_REG_CMDCAP);
	for (unsigned int i = 0; i < SIM_VECTORS; i++)
		writel(PCI_MSIX_ENTRY_CTRL_MASKBIT,
		       regs + SIM_MSIX_TABLE + i * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL);
}

/*
 * Everything but the interrupt table as after a reset: the device reset command and the function level reset.
 * Engines have let go of all descriptors.
 */
void sim_device_reset(struct sim_dev *sd)
{
	u8 __iomem *regs = sd->now;
	u64 none[4] = { };

	for (unsigned int i = 0; i < SIM_WQS; i++) {
		sd->wq[i].state = DSA_WQ_DISABLED;
		sd->wq[i].shown = 0;
		sd->wq[i].group = -1;
	}
	for (unsigned int i = 0; i < SIM_ENGINES; i++)
		WRITE_ONCE(sd->engine[i].group, -1);
	sd->gensts = DSA_GENSTS_DISABLED;
	sd->intcause = 0;
	memcpy(sd->swerr, none, sizeof(none));
	spin_lock(&sd->swerr_lock);
	memcpy(sd->swerr_new, none, sizeof(none));
	spin_unlock(&sd->swerr_lock);
	if (!regs)
		return;
	memset_io(regs + DSA_REG_GENCFG, 0, DSA_REG_CMD - DSA_REG_GENCFG);
	memset_io(regs + DSA_REG_SWERR, 0, SIM_MSIXPERM + SIM_VECTORS * DSA_MSIXPERM_STRIDE - DSA_REG_SWERR);
}

/* ---- write one to clear ---------------------------------------------------------------------- */

/*
 * *shown is what the register held; the bits in set come on. What software has stored meanwhile clears. A
 * store of what the register holds could not be seen: so it holds one reserved bit more, which software does
 * not write.
 */
static void w1c(u32 __iomem *reg, u32 *shown, u32 set)
{
	u32 now = *shown, mem = readl(reg);

	for (;;) {
		u32 was;

		if (mem != *shown)
			now &= ~mem;
		now |= set;
		now = now & ~DSA_INTCAUSE_POLLED ? now | DSA_INTCAUSE_POLLED : 0;
		was = cmpxchg((__force u32 *)reg, mem, now);
		if (was == mem)
			break;
		mem = was;
	}
	*shown = now;
}

/* The poller's: why vector 0 is sent. */
void sim_int_cause(struct sim_dev *sd, u32 bits)
{
	w1c((u32 __iomem *)(sd->now + DSA_REG_INTCAUSE), &sd->intcause, bits);
	sim_raise(sd, 0);
}

/* From an engine: an error that has no completion record to go to. */
void sim_swerr_add(struct sim_dev *sd, const u64 *swerr)
{
	sim_count(sd, swerrors);
	spin_lock(&sd->swerr_lock);
	if (sd->swerr_new[0] & DSA_SWERR_VALID)
		sd->swerr_new[0] |= DSA_SWERR_OVERFLOW;
	else
		memcpy(sd->swerr_new, swerr, sizeof(sd->swerr_new));
	spin_unlock(&sd->swerr_lock);
}

/* Publishes what engines have reported; true if there was something to do. */
bool sim_swerr_poll(struct sim_dev *sd, u8 __iomem *regs)
{
	u64 was = sd->swerr[0], mem = readq(regs + DSA_REG_SWERR), new[4];
	u32 ctrl;

	if (mem != was) /* written */
		sd->swerr[0] &= ~(mem & (DSA_SWERR_VALID | DSA_SWERR_OVERFLOW));
	spin_lock(&sd->swerr_lock);
	memcpy(new, sd->swerr_new, sizeof(new));
	memset(sd->swerr_new, 0, sizeof(sd->swerr_new));
	spin_unlock(&sd->swerr_lock);
	if (new[0] & DSA_SWERR_VALID) {
		if (sd->swerr[0] & DSA_SWERR_VALID)
			sd->swerr[0] |= DSA_SWERR_OVERFLOW;
		else
			memcpy(sd->swerr, new, sizeof(new));
	}
	if (mem == was && sd->swerr[0] == was)
		return false;
	for (unsigned int i = 1; i < 4; i++)
		writeq(sd->swerr[i], regs + DSA_REG_SWERR + 8 * i);
	writeq(sd->swerr[0], regs + DSA_REG_SWERR);
	ctrl = readl(regs + DSA_REG_GENCTRL);
	if (!(was & DSA_SWERR_VALID) && (sd->swerr[0] & DSA_SWERR_VALID) && (ctrl & DSA_GENCTRL_SWERR_INT))
		sim_int_cause(sd, DSA_INTCAUSE_SWERR);
	return true;
}

/* ---- work queues ------------------------------------------------------------------------------------------ */

/* Publishes state and occupancy of WQ n. */
void sim_wq_show(struct sim_dev *sd, unsigned int n)
{
	struct sim_wq *wq = &sd->wq[n];
	u32 word = wq->state << DSA_WQCFG_STATE_LSB | READ_ONCE(wq->num);

	if (word == wq->shown)
		return;
	wq->shown = word;
	writel(word, sd->now + SIM_WQCFG + n * SIM_WQCFG_STRIDE + DSA_WQCFG_STATE);
}

/* Takes what has been stored to the portal of WQ n; dsa_spec.h has the convention. */
static bool portal_poll(struct sim_dev *sd, unsigned int n)
{
	u8 __iomem *portals = sd->now_portals, *slot;
	struct sim_wq *wq = &sd->wq[n];
	struct dsa_desc d;
	bool any = false;
	u64 first;

	while (portals && wq->state == DSA_WQ_ENABLED) {
		slot = portals + n * DSA_PORTAL_STRIDE + DSA_PORTAL_MSIX_UNLIMITED * DSA_PORTAL_SIZE +
		       wq->slot % DSA_PORTAL_SLOTS * sizeof(d);
		first = readq(slot);
		if (!first)
			break;
		rmb();
		memcpy_fromio(&d, slot, sizeof(d));
		memcpy(&d, &first, sizeof(first));
		writeq(0, slot);
		wmb(); /* before any effect of the descriptor */
		wq->slot++;
		any = true;
		sim_submit(sd, wq, &d);
	}
	return any;
}

static bool regs_poll(struct sim_dev *sd, u8 __iomem *regs)
{
	u32 cmd = readl(regs + DSA_REG_CMD), word;
	bool any = false;

	/* What was stored to a portal before the command is stored has been seen before the command acts. */
	rmb();
	for (unsigned int n = 0; n < SIM_WQS; n++)
		any |= portal_poll(sd, n);
	if (cmd && !sd->cmd.active) {
		writel(0, regs + DSA_REG_CMD);
		sim_cmd_start(sd, cmd);
		any = true;
	}
	any |= sim_cmd_poll(sd);
	word = readl(regs + DSA_REG_INTCAUSE);
	if (word != sd->intcause)
		w1c((u32 __iomem *)(regs + DSA_REG_INTCAUSE), &sd->intcause, 0);
	any |= sim_swerr_poll(sd, regs);
	if (readl(regs + DSA_REG_GENSTS) != sd->gensts)
		writel(sd->gensts, regs + DSA_REG_GENSTS);
	for (unsigned int n = 0; n < SIM_WQS; n++)
		sim_wq_show(sd, n);
	return any;
}

/* ---- the poller ------------------------------------------------------------------------------------------- */

/* A function level reset, or what an unplugged function leaves. */
static void reset(struct sim_dev *sd)
{
	sd->cmd.active = false;
	sd->now = READ_ONCE(sd->regs);
	for (unsigned int i = 0; i < SIM_WQS; i++) {
		struct sim_wq *wq = &sd->wq[i];

		wq->state = DSA_WQ_BUSY;
		sim_abandon_queued(sd, wq, U64_MAX);
		while (READ_ONCE(wq->num)) { /* sd->abandon is set: whatever they do, engines look at it soon */
			wake_up_all(&sd->prq_wait);
			wake_up_all(&sd->work_wait);
			usleep_range(50, 100);
		}
	}
	sim_device_reset(sd);
	sim_atc_flush_all(sd);
	mutex_lock(&sd->irq_lock);
	sd->irq_pending = 0;
	mutex_unlock(&sd->irq_lock);
	sim_count(sd, resets);
	sim_pci_reset_done(sd);
}

int sim_poller(void *arg)
{
	struct sim_dev *sd = arg;
	unsigned int idle = 0;

	while (!kthread_should_stop()) {
		if (READ_ONCE(sd->flr)) {
			reset(sd);
			continue;
		}
		sim_irq_poll(sd);
		/*
		 * Software may switch memory decoding off meanwhile: then what this round stores is not
		 * looked at, but it is our memory.
		 */
		sd->now = READ_ONCE(sd->regs);
		sd->now_portals = READ_ONCE(sd->portals);
		if (sd->now && regs_poll(sd, sd->now)) {
			idle = 0;
			cond_resched();
			continue;
		}
		/* A driver at work is answered at once; one that rests costs little. */
		idle++;
		if (idle < 200)
			cond_resched();
		else if (idle < 2000)
			usleep_range(20, 50);
		else
			usleep_range(200, 500);
	}
	return 0;
}
