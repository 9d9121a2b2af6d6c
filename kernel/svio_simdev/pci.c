// SPDX-License-Identifier: GPL-2.0
/*
 * The simulated function on the bus: config space, its root bus, its interrupts.
 *
 * It is a root complex integrated endpoint, as DSA is: no port above it, so nothing but itself to emulate
 * (PCIe 6.0, 1.3.2.3). The PCI core reads and writes config space under a raw spinlock with interrupts off,
 * so nothing here sleeps; a function level reset is begun here and carried out by the poller, while config
 * reads return all ones as a function does that is not ready (PCIe 6.0, 6.6.2).
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/msi.h>
#include <linux/platform_device.h>
#include <linux/unaligned.h>

#include "simdev.h"

#define CAP_EXP		0x40u
#define CAP_MSIX	0x80u
#define CAP_ATS		0x100u
#define CAP_PRI		0x120u
#define CAP_PASID	0x140u

static u16 cfg16(struct sim_dev *sd, unsigned int at)
{
	return READ_ONCE(*(u16 *)(sd->cfg + at));
}

bool sim_pci_master(struct sim_dev *sd)
{
	return (cfg16(sd, PCI_COMMAND) & PCI_COMMAND_MASTER) && !READ_ONCE(sd->gone);
}

bool sim_pci_pasid_on(struct sim_dev *sd)
{
	return cfg16(sd, CAP_PASID + PCI_PASID_CTRL) & PCI_PASID_CTRL_ENABLE;
}

bool sim_pci_pri_on(struct sim_dev *sd)
{
	return sd->has_pri && (cfg16(sd, CAP_PRI + PCI_PRI_CTRL) & PCI_PRI_CTRL_ENABLE);
}

bool sim_pci_ats_on(struct sim_dev *sd)
{
	return sd->has_ats && (cfg16(sd, CAP_ATS + PCI_ATS_CTRL) & PCI_ATS_CTRL_ENABLE);
}

/* A page request was answered "response failure". */
void sim_pci_pri_failed(struct sim_dev *sd)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	sd->cfg[CAP_PRI + PCI_PRI_STATUS] |= PCI_PRI_STATUS_RF;
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
}

/*
 * pci_enable_pri() is not exported. The PCI core restores these registers after a reset, if it is told that
 * they are in use.
 */
int sim_pci_set_pri(struct pci_dev *pdev, bool on)
{
	if (!pdev->pri_cap)
		return -EINVAL;
	if (on) {
		pci_write_config_dword(pdev, pdev->pri_cap + PCI_PRI_ALLOC_REQ, SIM_ENGINES);
		pdev->pri_reqs_alloc = SIM_ENGINES;
	}
	pci_write_config_word(pdev, pdev->pri_cap + PCI_PRI_CTRL, on ? PCI_PRI_CTRL_ENABLE : 0);
	pdev->pri_enabled = on;
	return 0;
}

/* ---- registers ------------------------------------------------------------------------------- */

static void set16(struct sim_dev *sd, unsigned int at, u16 value, u16 writable)
{
	put_unaligned_le16(value, sd->cfg + at);
	put_unaligned_le16(writable, sd->cfg_rw + at);
}

static void set32(struct sim_dev *sd, unsigned int at, u32 value, u32 writable)
{
	put_unaligned_le32(value, sd->cfg + at);
	put_unaligned_le32(writable, sd->cfg_rw + at);
}

static void cfg_default(struct sim_dev *sd)
{
	u16 vendor = sd->denylisted ? DSA_VENDOR_INTEL : DSA_SIM_VENDOR;
	u16 device = sd->denylisted ? DSA_DEVICE_SPR : DSA_SIM_DEVICE;
	unsigned int last = 0;

	memset(sd->cfg, 0, sizeof(sd->cfg));
	memset(sd->cfg_rw, 0, sizeof(sd->cfg_rw));
	memset(sd->cfg_w1c, 0, sizeof(sd->cfg_w1c));
	set16(sd, PCI_VENDOR_ID, vendor, 0);
	set16(sd, PCI_DEVICE_ID, device, 0);
	set16(sd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	set16(sd, PCI_STATUS, PCI_STATUS_CAP_LIST, 0);
	set32(sd, PCI_CLASS_REVISION, DSA_CLASS << 8, 0);
	set32(sd, PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_MEM_TYPE_64, ~(SIM_BAR0_SIZE - 1));
	set32(sd, PCI_BASE_ADDRESS_1, 0, ~0u);
	set32(sd, PCI_BASE_ADDRESS_2, PCI_BASE_ADDRESS_MEM_TYPE_64, ~(SIM_BAR2_SIZE - 1));
	set32(sd, PCI_BASE_ADDRESS_3, 0, ~0u);
	set16(sd, PCI_SUBSYSTEM_VENDOR_ID, DSA_SIM_VENDOR, 0);
	set16(sd, PCI_SUBSYSTEM_ID, DSA_SIM_SUBSYS_KERNEL, 0);
	sd->cfg[PCI_CAPABILITY_LIST] = CAP_EXP;

	set16(sd, CAP_EXP, PCI_CAP_ID_EXP | CAP_MSIX << 8, 0);
	set16(sd, CAP_EXP + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4, 0);
	set32(sd, CAP_EXP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER, 0);
	set16(sd, CAP_EXP + PCI_EXP_DEVCTL, 0, 0x7fff); /* not the FLR bit, which reads as 0 */
	set32(sd, CAP_EXP + PCI_EXP_DEVCAP2, PCI_EXP_DEVCAP2_EE_PREFIX | 1u << 22, 0); /* one prefix: PASID */
	set16(sd, CAP_EXP + PCI_EXP_DEVCTL2, 0, 0xffff);

	set16(sd, CAP_MSIX, PCI_CAP_ID_MSIX, 0);
	set16(sd, CAP_MSIX + PCI_MSIX_FLAGS, SIM_VECTORS - 1, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	set32(sd, CAP_MSIX + PCI_MSIX_TABLE, SIM_MSIX_TABLE | DSA_BAR_REGS, 0);
	set32(sd, CAP_MSIX + PCI_MSIX_PBA, SIM_MSIX_PBA | DSA_BAR_REGS, 0);

	/* Extended capabilities begin at 0x100, whichever is there; each points to the next. */
#define EXT(at, id) do { \
		if (last) \
			set32(sd, last, get_unaligned_le32(sd->cfg + last) | (u32)(at) << 20, 0); \
		set32(sd, at, (id) | 1 << 16, 0); \
		last = (at); \
	} while (0)
	if (sd->has_ats) {
		EXT(CAP_ATS, PCI_EXT_CAP_ID_ATS);
		set16(sd, CAP_ATS + PCI_ATS_CAP, PCI_ATS_CAP_PAGE_ALIGNED, 0);
		set16(sd, CAP_ATS + PCI_ATS_CTRL, 0, PCI_ATS_CTRL_ENABLE | 0x1f);
	} else {
		EXT(CAP_ATS, 0); /* the null capability */
	}
	if (sd->has_pri) {
		EXT(CAP_PRI, PCI_EXT_CAP_ID_PRI);
		set16(sd, CAP_PRI + PCI_PRI_CTRL, 0, PCI_PRI_CTRL_ENABLE);
		set16(sd, CAP_PRI + PCI_PRI_STATUS, PCI_PRI_STATUS_STOPPED | PCI_PRI_STATUS_PASID, 0);
		sd->cfg_w1c[CAP_PRI + PCI_PRI_STATUS] = PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI;
		set32(sd, CAP_PRI + PCI_PRI_MAX_REQ, SIM_ENGINES, 0);
		set32(sd, CAP_PRI + PCI_PRI_ALLOC_REQ, 0, ~0u);
	}
	if (sd->pasid_bits) {
		EXT(CAP_PASID, PCI_EXT_CAP_ID_PASID);
		set16(sd, CAP_PASID + PCI_PASID_CAP, sd->pasid_bits << 8, 0);
		set16(sd, CAP_PASID + PCI_PASID_CTRL, 0, PCI_PASID_CTRL_ENABLE);
	}
#undef EXT
}

/*
 * The twin: a function of its own slot that has PASIDs, so that the kernel would give it those of its group, and
 * nothing else: no BARs, no interrupts, no DMA.
 */
static void twin_default(struct sim_dev *sd)
{
	memset(sd->twin, 0, sizeof(sd->twin));
	memset(sd->twin_rw, 0, sizeof(sd->twin_rw));
	put_unaligned_le16(DSA_SIM_VENDOR, sd->twin + PCI_VENDOR_ID);
	put_unaligned_le16(DSA_SIM_DEVICE_TWIN, sd->twin + PCI_DEVICE_ID);
	put_unaligned_le16(PCI_COMMAND_MASTER, sd->twin_rw + PCI_COMMAND);
	put_unaligned_le16(PCI_STATUS_CAP_LIST, sd->twin + PCI_STATUS);
	put_unaligned_le16(PCI_CLASS_SYSTEM_OTHER, sd->twin + PCI_CLASS_DEVICE);
	put_unaligned_le16(DSA_SIM_VENDOR, sd->twin + PCI_SUBSYSTEM_VENDOR_ID);
	put_unaligned_le16(DSA_SIM_SUBSYS_KERNEL, sd->twin + PCI_SUBSYSTEM_ID);
	sd->twin[PCI_CAPABILITY_LIST] = CAP_EXP;
	put_unaligned_le16(PCI_CAP_ID_EXP, sd->twin + CAP_EXP);
	put_unaligned_le16(2 | PCI_EXP_TYPE_RC_END << 4, sd->twin + CAP_EXP + PCI_EXP_FLAGS);
	put_unaligned_le32(PCI_EXP_DEVCAP_RBER, sd->twin + CAP_EXP + PCI_EXP_DEVCAP);
	put_unaligned_le32(PCI_EXP_DEVCAP2_EE_PREFIX | 1u << 22, sd->twin + CAP_EXP + PCI_EXP_DEVCAP2);
	if (!sd->pasid_bits)
		return;
	put_unaligned_le32(PCI_EXT_CAP_ID_PASID | 1 << 16, sd->twin + PCI_CFG_SPACE_SIZE);
	put_unaligned_le16(sd->pasid_bits << 8, sd->twin + PCI_CFG_SPACE_SIZE + PCI_PASID_CAP);
	put_unaligned_le16(PCI_PASID_CTRL_ENABLE, sd->twin_rw + PCI_CFG_SPACE_SIZE + PCI_PASID_CTRL);
}

bool sim_pci_is_twin(struct device *dev)
{
	return to_pci_dev(dev)->devfn == SIM_TWIN;
}

static u8 __iomem *bar_memory(struct sim_dev *sd, unsigned int reg, u64 size, u64 *where)
{
	u64 addr = get_unaligned_le64(sd->cfg + reg) & ~0xfull;

	*where = addr;
	if (addr < sd->window.start || addr > sd->window.end || size - 1 > sd->window.end - addr)
		return NULL;
	return (u8 __iomem *)sd->mem + (addr - sd->window.start);
}

/*
 * After a write that may have changed where the BARs are, or whether they are. Memory that did not hold our
 * registers gets their defaults at once: the CPU may read them next.
 */
static void decode_update(struct sim_dev *sd)
{
	u8 __iomem *regs = NULL, *portals = NULL;
	u64 where, unused;

	if ((cfg16(sd, PCI_COMMAND) & PCI_COMMAND_MEMORY) && !sd->gone) {
		regs = bar_memory(sd, PCI_BASE_ADDRESS_0, SIM_BAR0_SIZE, &where);
		portals = bar_memory(sd, PCI_BASE_ADDRESS_2, SIM_BAR2_SIZE, &unused);
		if (regs && where != sd->published) {
			sim_regs_default(sd, regs);
			sd->published = where;
		}
	}
	WRITE_ONCE(sd->portals, regs ? portals : NULL);
	WRITE_ONCE(sd->regs, regs);
}

static void flr_begin(struct sim_dev *sd)
{
	cfg_default(sd);
	decode_update(sd);
	sd->published = 0;
	WRITE_ONCE(sd->abandon, true);
	WRITE_ONCE(sd->flr, true);
}

/* The poller's word that the reset is complete. */
void sim_pci_reset_done(struct sim_dev *sd)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	WRITE_ONCE(sd->abandon, READ_ONCE(sd->gone));
	WRITE_ONCE(sd->flr, false);
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
}

static struct sim_dev *of_bus(struct pci_bus *bus)
{
	return container_of((struct pci_sysdata *)bus->sysdata, struct sim_dev, sysdata);
}

/* Under cfg_lock. */
static void twin_write(struct sim_dev *sd, int where, int size, u32 val)
{
	for (int i = 0; i < size && where + i < sizeof(sd->twin); i++) {
		u8 rw = sd->twin_rw[where + i];

		sd->twin[where + i] = (sd->twin[where + i] & ~rw) | (val >> (8 * i) & rw);
	}
}

static bool no_such(const struct sim_dev *sd, unsigned int devfn)
{
	return devfn && !(devfn == SIM_TWIN && sd->has_twin);
}

static int cfg_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *val)
{
	struct sim_dev *sd = of_bus(bus);
	const u8 *cfg = devfn ? sd->twin : sd->cfg;
	unsigned long flags;
	u8 bytes[4] = { };

	*val = ~0u;
	if (no_such(sd, devfn))
		return PCIBIOS_DEVICE_NOT_FOUND;
	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	if (!sd->gone && (devfn || !sd->flr) && where + size <= sizeof(sd->cfg)) {
		memcpy(bytes, cfg + where, size);
		for (int i = 0; i < size && !devfn; i++)
			if (where + i == CAP_EXP + PCI_EXP_DEVSTA && atomic_read(&sd->in_flight))
				bytes[i] |= PCI_EXP_DEVSTA_TRPND;
		*val = get_unaligned_le32(bytes);
	}
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
	return PCIBIOS_SUCCESSFUL;
}

static int cfg_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 val)
{
	struct sim_dev *sd = of_bus(bus);
	bool pri_was, wake = false;
	unsigned long flags;

	if (no_such(sd, devfn))
		return PCIBIOS_DEVICE_NOT_FOUND;
	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	if (devfn) {
		twin_write(sd, where, size, val);
		goto out;
	}
	if (sd->gone || sd->flr || where + size > sizeof(sd->cfg))
		goto out;
	pri_was = sim_pci_pri_on(sd);
	for (int i = 0; i < size; i++) {
		u8 b = val >> (8 * i), rw = sd->cfg_rw[where + i];

		sd->cfg[where + i] = (sd->cfg[where + i] & ~rw) | (b & rw);
		sd->cfg[where + i] &= ~(b & sd->cfg_w1c[where + i]);
	}
	/* Whoever clears bus mastering may rely on Transactions Pending from here on: see sim_access(). */
	smp_mb();
	if (where <= PCI_BASE_ADDRESS_3 + 3)
		decode_update(sd);
	if (sd->has_pri && pri_was != sim_pci_pri_on(sd)) {
		sd->cfg[CAP_PRI + PCI_PRI_STATUS + 1] &= ~(PCI_PRI_STATUS_STOPPED >> 8);
		sd->cfg[CAP_PRI + PCI_PRI_STATUS + 1] |= pri_was ? PCI_PRI_STATUS_STOPPED >> 8 : 0;
	}
	if (where <= CAP_EXP + PCI_EXP_DEVCTL + 1 && where + size > CAP_EXP + PCI_EXP_DEVCTL + 1 &&
	    (val >> (8 * (CAP_EXP + PCI_EXP_DEVCTL + 1 - where)) & (PCI_EXP_DEVCTL_BCR_FLR >> 8))) {
		flr_begin(sd);
		wake = true;
	}
out:
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
	if (wake) /* the poller sleeps with a timeout of its own; waits inside engines do not */
		irq_work_queue(&sd->flr_work);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops sim_pci_ops = {
	.read = cfg_read,
	.write = cfg_write,
};

/* Out of the PCI core's raw spinlock. */
static void flr_wake(struct irq_work *work)
{
	struct sim_dev *sd = container_of(work, struct sim_dev, flr_work);

	wake_up_all(&sd->prq_wait);
	wake_up_all(&sd->work_wait);
}

void sim_pci_init(struct sim_dev *sd)
{
	raw_spin_lock_init(&sd->cfg_lock);
	mutex_init(&sd->irq_lock);
	init_irq_work(&sd->flr_work, flr_wake);
	cfg_default(sd);
}

/* ---- the bus --------------------------------------------------------------------------------- */

/* Beyond 16 bits: firmware tables, the IOMMUs' among them, cannot mean it. */
static int domain_get(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	return pci_bus_find_emul_domain_nr(0, 0x10000, INT_MAX);
#else
	int nr = 0x10000;

	while (pci_find_bus(nr, 0))
		nr++;
	return nr;
#endif
}

static void domain_put(int nr)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	pci_bus_release_emul_domain_nr(nr);
#endif
}

static struct resource sim_bus_numbers = {
	.name = "svio_simdev", .start = 0, .end = 0, .flags = IORESOURCE_BUS | IORESOURCE_PCI_FIXED,
};

int sim_pci_plug(struct sim_dev *sd)
{
	u64 bar2 = sd->window.start + SIM_BAR0_SIZE;
	LIST_HEAD(resources);
	unsigned long flags;
	int nr = domain_get();

	if (nr < 0)
		return nr;
	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	sd->gone = false;
	cfg_default(sd);
	twin_default(sd);
	/*
	 * As firmware would: the kernel assigns no BARs in what its memory map calls reserved, but takes them
	 * as it finds them.
	 */
	put_unaligned_le32(lower_32_bits(sd->window.start) | PCI_BASE_ADDRESS_MEM_TYPE_64, sd->cfg + PCI_BASE_ADDRESS_0);
	put_unaligned_le32(upper_32_bits(sd->window.start), sd->cfg + PCI_BASE_ADDRESS_1);
	put_unaligned_le32(lower_32_bits(bar2) | PCI_BASE_ADDRESS_MEM_TYPE_64, sd->cfg + PCI_BASE_ADDRESS_2);
	put_unaligned_le32(upper_32_bits(bar2), sd->cfg + PCI_BASE_ADDRESS_3);
	sd->published = 0;
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
	WRITE_ONCE(sd->abandon, false);
	memset(&sd->sysdata, 0, sizeof(sd->sysdata));
	sd->sysdata.domain = nr;
	sd->sysdata.node = NUMA_NO_NODE;
	pci_add_resource(&resources, &sim_bus_numbers);
	pci_add_resource(&resources, &sd->window);
	sd->bus = pci_create_root_bus(&sd->parent->dev, 0, &sim_pci_ops, &sd->sysdata, &resources);
	if (!sd->bus) {
		pci_free_resource_list(&resources);
		domain_put(nr);
		return -ENODEV;
	}
	pci_lock_rescan_remove();
	pci_scan_child_bus(sd->bus);
	pci_bus_claim_resources(sd->bus);
	pci_bus_add_devices(sd->bus);
	pci_unlock_rescan_remove();
	mutex_lock(&sd->irq_lock);
	sd->irq_dev = pci_get_slot(sd->bus, 0);
	mutex_unlock(&sd->irq_lock);
	if (!sd->irq_dev) {
		sim_pci_unplug(sd, false);
		return -ENODEV;
	}
	return 0;
}

/* The function answers no more, and the poller brings down what it is at. Under cfg_lock. */
static void end(struct sim_dev *sd)
{
	sd->gone = true;
	decode_update(sd);
	WRITE_ONCE(sd->abandon, true);
	WRITE_ONCE(sd->flr, true);
}

/* Waits, as the PCI core does, until the driver has let go of the device. */
void sim_pci_unplug(struct sim_dev *sd, bool surprise)
{
	int nr = sd->sysdata.domain;
	unsigned long flags;
	struct pci_dev *pdev;

	if (surprise) {
		raw_spin_lock_irqsave(&sd->cfg_lock, flags);
		end(sd);
		raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
		memset_io(sd->mem, 0xff, resource_size(&sd->window));
	}
	pci_lock_rescan_remove();
	pci_stop_root_bus(sd->bus);
	/* The driver has let go: its interrupts are gone. */
	mutex_lock(&sd->irq_lock);
	pdev = sd->irq_dev;
	sd->irq_dev = NULL;
	mutex_unlock(&sd->irq_lock);
	pci_dev_put(pdev);
	pci_remove_root_bus(sd->bus);
	pci_unlock_rescan_remove();
	sd->bus = NULL;
	domain_put(nr);
	/* What user space left in the registers goes as well. */
	raw_spin_lock_irqsave(&sd->cfg_lock, flags);
	end(sd);
	raw_spin_unlock_irqrestore(&sd->cfg_lock, flags);
	while (READ_ONCE(sd->flr)) /* the poller's threads outlive the bus */
		usleep_range(100, 200);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static bool masked(struct sim_dev *sd, u8 __iomem *regs, unsigned int vector)
{
	return (cfg16(sd, CAP_MSIX + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_MASKALL) ||
	       (readl(regs + SIM_MSIX_TABLE + vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL) &
		PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/*
 * The message itself is not sent, since the window of interrupt addresses is not memory that software can
 * write to: the interrupt that Linux has set up for this vector is injected. May sleep.
 */
void sim_raise(struct sim_dev *sd, unsigned int vector)
{
	u8 __iomem *regs = READ_ONCE(sd->regs);
	int irq;

	if (vector >= SIM_VECTORS || !regs || !sim_pci_master(sd) ||
	    !(cfg16(sd, CAP_MSIX + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_ENABLE))
		return;
	mutex_lock(&sd->irq_lock);
	if (masked(sd, regs, vector)) {
		__set_bit(vector, &sd->irq_pending);
		writeq(sd->irq_pending, regs + SIM_MSIX_PBA);
	} else if (sd->irq_dev) {
		irq = sd->irq_dev->msix_enabled ? pci_irq_vector(sd->irq_dev, vector) : -EINVAL;
		if (irq > 0 && !irq_inject_interrupt(irq))
			sim_count(sd, interrupts);
	}
	mutex_unlock(&sd->irq_lock);
}

/* The poller's: what was masked when it was raised, and is not now. */
void sim_irq_poll(struct sim_dev *sd)
{
	u8 __iomem *regs = READ_ONCE(sd->regs);
	unsigned long pending = READ_ONCE(sd->irq_pending);
	unsigned int vector;

	if (!pending || !regs)
		return;
	for_each_set_bit(vector, &pending, SIM_VECTORS) {
		if (masked(sd, regs, vector))
			continue;
		mutex_lock(&sd->irq_lock);
		__clear_bit(vector, &sd->irq_pending);
		writeq(sd->irq_pending, regs + SIM_MSIX_PBA);
		mutex_unlock(&sd->irq_lock);
		sim_raise(sd, vector);
	}
}
