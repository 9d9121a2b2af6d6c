/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration space: a type 0 header and capabilities (PCIe = PCI Express Base Specification
 * 5.0), with a mask of the bits that clients may write and one of the bits that a written 1 clears.
 */
#include <string.h>
#include <linux/pci_regs.h>
#include "vdev_priv.h"

/* Bytes of the capability structures. */
#define LEN_PM	       8u    /* PCIe §7.5.2 */
#define LEN_PCIE       0x3cu /* PCIe §7.5.3, version 2 */
#define LEN_MSI64      0x10u /* PCIe §7.7.1, 64-bit: 14 bytes and padding */
#define LEN_MSI64_MASK 0x18u
#define LEN_MSIX       12u /* PCIe §7.7.2 */
#define LEN_AF	       6u
#define LEN_PASID      8u  /* PCIe §7.8.8 */
#define LEN_PRI	       16u /* PCIe §10.5.2 */
#define LEN_ATS	       8u  /* PCIe §10.5.1 */

static uint32_t get(const uint8_t *p, unsigned int width)
{
	uint32_t v = 0;

	for (unsigned int i = 0; i < width; i++)
		v |= (uint32_t)p[i] << (8 * i);
	return v;
}

static void put(uint8_t *p, unsigned int width, uint32_t v)
{
	for (unsigned int i = 0; i < width; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static bool in_config(uint32_t off, unsigned int width)
{
	return (width == 1 || width == 2 || width == 4) && off <= VD_CFG_SIZE - width;
}

uint32_t svio_vdev_config_get(const struct svio_vdev *dev, uint32_t off, unsigned int width)
{
	return in_config(off, width) ? get(dev->cfg + off, width) : UINT32_MAX;
}

void svio_vdev_config_set(struct svio_vdev *dev, uint32_t off, unsigned int width, uint32_t value)
{
	if (in_config(off, width))
		put(dev->cfg + off, width, value);
}

void svio_vdev_config_wmask(struct svio_vdev *dev, uint32_t off, unsigned int width, uint32_t mask)
{
	if (in_config(off, width))
		put(dev->wmask + off, width, mask);
}

void svio__vd_cfg_init(struct svio_vdev *dev)
{
	dev->cfg_size = 256;
	dev->cap_next = 0x40;
	dev->ecap_next = 0x100;
	/* PCIe §7.5.1.1.3 command: memory space, bus master, parity, SERR#, interrupt disable */
	svio_vdev_config_wmask(dev, PCI_COMMAND, 2,
			       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
				       PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	/* PCIe §7.5.1.1.4 status: the error bits are cleared by writing 1 */
	put(dev->w1c + PCI_STATUS, 2, 0xf900);
	svio_vdev_config_wmask(dev, PCI_CACHE_LINE_SIZE, 1, 0xff);
	svio_vdev_config_wmask(dev, PCI_INTERRUPT_LINE, 1, 0xff);
}

/*
 * As after power-on and firmware: memory decoding on, bus mastering off (what vfio-pci leaves at
 * open).
 */
void svio__vd_cfg_power_on(struct svio_vdev *dev)
{
	memcpy(dev->cfg, dev->cfg0, sizeof(dev->cfg));
	if (!(dev->flags & SVIO_VDEV_VF))
		svio_vdev_config_set(dev, PCI_COMMAND, 2,
				     svio_vdev_config_get(dev, PCI_COMMAND, 2) |
					     PCI_COMMAND_MEMORY);
	svio__vd_cfg_apply(dev);
}

void svio_vdev_set_ids(struct svio_vdev *dev, const struct svio_vdev_ids *ids)
{
	svio_vdev_config_set(dev, PCI_VENDOR_ID, 2, ids->vendor);
	svio_vdev_config_set(dev, PCI_DEVICE_ID, 2, ids->device);
	svio_vdev_config_set(dev, PCI_CLASS_REVISION, 4, ids->class_code << 8 | ids->revision);
	svio_vdev_config_set(dev, PCI_SUBSYSTEM_VENDOR_ID, 2, ids->subsys_vendor);
	svio_vdev_config_set(dev, PCI_SUBSYSTEM_ID, 2, ids->subsys);
	svio_vdev_config_set(dev, PCI_INTERRUPT_PIN, 1, ids->int_pin <= 4 ? ids->int_pin : 0);
	dev->irq.idx[SVIO_VFU_IRQ_INTX].count = ids->int_pin && ids->int_pin <= 4;
}

/* ---- capabilities --------------------------------------------------------------------------- */

static bool cap_fits(const struct svio_vdev *dev, uint16_t len)
{
	return dev->in_init && len >= 2 && dev->cap_next + SVIO_ALIGN_UP(len, 4) <= 0x100;
}

int svio_vdev_cap_raw(struct svio_vdev *dev, uint8_t id, uint16_t len)
{
	uint16_t off = dev->cap_next;

	if (!cap_fits(dev, len))
		return svio_fail(ENOSPC, "%s: no room for capability %#x of %u bytes below 0x100",
				 dev->model->name, id, len);
	dev->cfg[off] = id;
	dev->cfg[dev->cap_last ? dev->cap_last + 1u : (unsigned int)PCI_CAPABILITY_LIST] =
		(uint8_t)off;
	dev->cfg[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	dev->cap_last = off;
	dev->cap_next = (uint16_t)(off + SVIO_ALIGN_UP(len, 4));
	return off;
}

/* One capability of a kind: *where says where it is. */
static int cap_once(struct svio_vdev *dev, uint8_t id, uint16_t len, uint16_t *where)
{
	int off;

	if (*where)
		return svio_fail(EEXIST, "%s: capability %#x is there already", dev->model->name,
				 id);
	off = svio_vdev_cap_raw(dev, id, len);
	if (off > 0)
		*where = (uint16_t)off;
	return off;
}

int svio_vdev_cap_pm(struct svio_vdev *dev)
{
	int off = cap_once(dev, PCI_CAP_ID_PM, LEN_PM, &dev->cap_pm);

	if (off < 0)
		return off;
	svio_vdev_config_set(dev, off + PCI_PM_PMC, 2, 3); /* PCI PM 1.2; no D1, D2, PME# */
	svio_vdev_config_set(dev, off + PCI_PM_CTRL, 2, PCI_PM_CTRL_NO_SOFT_RESET);
	svio_vdev_config_wmask(dev, off + PCI_PM_CTRL, 2, PCI_PM_CTRL_STATE_MASK);
	return off;
}

int svio_vdev_cap_pcie(struct svio_vdev *dev, uint32_t flags)
{
	bool rciep = flags & SVIO_VDEV_PCIE_RCIEP;
	int off = cap_once(dev, PCI_CAP_ID_EXP, LEN_PCIE, &dev->cap_pcie);

	if (off < 0)
		return off;
	dev->cfg_size = VD_CFG_SIZE;
	svio_vdev_config_set(dev, off + PCI_EXP_FLAGS, 2,
			     2u | (rciep ? PCI_EXP_TYPE_RC_END << 4 : 0));
	svio_vdev_config_set(dev, off + PCI_EXP_DEVCAP, 4,
			     PCI_EXP_DEVCAP_RBER |
				     (flags & SVIO_VDEV_PCIE_FLR ? PCI_EXP_DEVCAP_FLR : 0));
	/*
	 * §7.5.3.4: relaxed ordering and no-snoop on, 512-byte read requests; Initiate FLR reads as
	 * 0
	 */
	svio_vdev_config_set(dev, off + PCI_EXP_DEVCTL, 2, 0x2810);
	svio_vdev_config_wmask(dev, off + PCI_EXP_DEVCTL, 2, 0x78ff);
	put(dev->w1c + off + PCI_EXP_DEVSTA, 2, 0x000f);
	if (!rciep) { /* a link of one lane at 2.5 GT/s; root complex endpoints have none */
		svio_vdev_config_set(dev, off + PCI_EXP_LNKCAP, 4, 0x11);
		svio_vdev_config_set(dev, off + PCI_EXP_LNKSTA, 2, 0x11);
		svio_vdev_config_wmask(dev, off + PCI_EXP_LNKCTL, 2, 0x00c3);
	}
	if (flags &
	    SVIO_VDEV_PCIE_E2E_TLP) /* §7.5.3.15: End-End TLP Prefix Supported, one of them */
		svio_vdev_config_set(dev, off + PCI_EXP_DEVCAP2, 4, 1u << 21 | 1u << 22);
	return off;
}

int svio_vdev_cap_msi(struct svio_vdev *dev, unsigned int vectors, bool maskable)
{
	uint32_t mmc = (uint32_t)__builtin_ctz(vectors ? vectors : 1);
	int off;

	if (!vectors || vectors > VD_MAX_MSI || (vectors & (vectors - 1)))
		return svio_fail(EINVAL, "%s: %u MSI vectors; 1, 2, 4, 8, 16 or 32 are possible",
				 dev->model->name, vectors);
	off = cap_once(dev, PCI_CAP_ID_MSI, maskable ? LEN_MSI64_MASK : LEN_MSI64, &dev->cap_msi);
	if (off < 0)
		return off;
	svio_vdev_config_set(dev, off + PCI_MSI_FLAGS, 2,
			     PCI_MSI_FLAGS_64BIT | mmc << 1 |
				     (maskable ? PCI_MSI_FLAGS_MASKBIT : 0));
	svio_vdev_config_wmask(dev, off + PCI_MSI_FLAGS, 2,
			       PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	svio_vdev_config_wmask(dev, off + PCI_MSI_ADDRESS_LO, 4, 0xfffffffc);
	svio_vdev_config_wmask(dev, off + PCI_MSI_ADDRESS_HI, 4, 0xffffffff);
	svio_vdev_config_wmask(dev, off + PCI_MSI_DATA_64, 2, 0xffff);
	if (maskable)
		svio_vdev_config_wmask(dev, off + PCI_MSI_MASK_64, 4,
				       vectors == 32 ? UINT32_MAX : (1u << vectors) - 1);
	dev->irq.idx[SVIO_VFU_IRQ_MSI].count = vectors;
	return off;
}

int svio_vdev_cap_msix(struct svio_vdev *dev, unsigned int vectors, unsigned int table_bar,
		       uint32_t table_off, unsigned int pba_bar, uint32_t pba_off)
{
	int off;

	if (!vectors || vectors > VD_MAX_MSIX || table_bar >= VD_NUM_BARS ||
	    pba_bar >= VD_NUM_BARS || (table_off | pba_off) & 7)
		return svio_fail(EINVAL, "%s: MSI-X: 1 to 2048 vectors, BARs 0 to 5, offsets of 8",
				 dev->model->name);
	off = cap_once(dev, PCI_CAP_ID_MSIX, LEN_MSIX, &dev->cap_msix);
	if (off < 0)
		return off;
	svio_vdev_config_set(dev, off + PCI_MSIX_FLAGS, 2, vectors - 1);
	svio_vdev_config_wmask(dev, off + PCI_MSIX_FLAGS, 2,
			       PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	svio_vdev_config_set(dev, off + PCI_MSIX_TABLE, 4, table_off | table_bar);
	svio_vdev_config_set(dev, off + PCI_MSIX_PBA, 4, pba_off | pba_bar);
	dev->irq.idx[SVIO_VFU_IRQ_MSIX].count = vectors;
	dev->irq.table_bar = table_bar;
	dev->irq.table_off = table_off;
	dev->irq.pba_bar = pba_bar;
	dev->irq.pba_off = pba_off;
	return off;
}

int svio_vdev_cap_af(struct svio_vdev *dev)
{
	int off = cap_once(dev, PCI_CAP_ID_AF, LEN_AF, &dev->cap_af);

	if (off < 0)
		return off;
	svio_vdev_config_set(dev, off + PCI_AF_LENGTH, 1, LEN_AF);
	svio_vdev_config_set(dev, off + PCI_AF_CAP, 1, PCI_AF_CAP_TP | PCI_AF_CAP_FLR);
	return off;
}

int svio_vdev_cap_vendor(struct svio_vdev *dev, const void *body, uint8_t len)
{
	int off;

	if (len > 0xff - 3)
		return svio_fail(EINVAL, "%s: vendor capability of %u bytes", dev->model->name,
				 len);
	off = svio_vdev_cap_raw(dev, PCI_CAP_ID_VNDR, (uint16_t)(3 + len));
	if (off < 0)
		return off;
	dev->cfg[off + 2] = (uint8_t)(3 + len);
	memcpy(dev->cfg + off + 3, body, len);
	return off;
}

int svio_vdev_ecap_raw(struct svio_vdev *dev, uint16_t id, uint8_t version, uint16_t len)
{
	uint16_t off = dev->ecap_next;

	if (!dev->cap_pcie)
		return svio_fail(EINVAL,
				 "%s: extended capabilities need svio_vdev_cap_pcie() first",
				 dev->model->name);
	if (!dev->in_init || len < 4 || len > VD_CFG_SIZE ||
	    off + SVIO_ALIGN_UP(len, 4) > (int)VD_CFG_SIZE)
		return svio_fail(ENOSPC, "%s: no room for extended capability %#x of %u bytes",
				 dev->model->name, id, len);
	/* §7.6.3: id, version, offset of the next */
	svio_vdev_config_set(dev, off, 4, id | (uint32_t)(version & 15) << 16);
	if (dev->ecap_last)
		svio_vdev_config_set(dev, dev->ecap_last + 2u, 2,
				     (svio_vdev_config_get(dev, dev->ecap_last + 2u, 2) & 15) |
					     (uint32_t)off << 4);
	dev->ecap_last = off;
	dev->ecap_next = (uint16_t)(off + SVIO_ALIGN_UP(len, 4));
	return off;
}

int svio_vdev_ecap_pasid(struct svio_vdev *dev, unsigned int width, bool exec, bool priv)
{
	uint32_t modes = (exec ? PCI_PASID_CAP_EXEC : 0) | (priv ? PCI_PASID_CAP_PRIV : 0);
	int off;

	if (!width || width > 20)
		return svio_fail(EINVAL, "%s: PASID width %u; 1 to 20", dev->model->name, width);
	off = svio_vdev_ecap_raw(dev, PCI_EXT_CAP_ID_PASID, 1, LEN_PASID);
	if (off < 0)
		return off;
	svio_vdev_config_set(dev, off + PCI_PASID_CAP, 2, modes | width << 8);
	/* The enables of modes sit at the positions of their capabilities. */
	svio_vdev_config_wmask(dev, off + PCI_PASID_CTRL, 2, PCI_PASID_CTRL_ENABLE | modes);
	dev->ecap_pasid = (uint16_t)off;
	return off;
}

int svio_vdev_ecap_pri(struct svio_vdev *dev, uint32_t capacity)
{
	int off = svio_vdev_ecap_raw(dev, PCI_EXT_CAP_ID_PRI, 1, LEN_PRI);

	if (off < 0)
		return off;
	svio_vdev_config_wmask(dev, off + PCI_PRI_CTRL, 2, PCI_PRI_CTRL_ENABLE);
	svio_vdev_config_set(dev, off + PCI_PRI_STATUS, 2, PCI_PRI_STATUS_STOPPED);
	put(dev->w1c + off + PCI_PRI_STATUS, 2, PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
	svio_vdev_config_set(dev, off + PCI_PRI_MAX_REQ, 4, capacity);
	svio_vdev_config_wmask(dev, off + PCI_PRI_ALLOC_REQ, 4, UINT32_MAX);
	dev->ecap_pri = (uint16_t)off;
	return off;
}

int svio_vdev_ecap_ats(struct svio_vdev *dev, unsigned int queue_depth)
{
	int off;

	if (!queue_depth || queue_depth > 32)
		return svio_fail(EINVAL, "%s: ATS invalidate queue depth %u; 1 to 32",
				 dev->model->name, queue_depth);
	off = svio_vdev_ecap_raw(dev, PCI_EXT_CAP_ID_ATS, 1, LEN_ATS);
	if (off < 0)
		return off;
	/* A depth of 32 is written as 0; requests are always page aligned. */
	svio_vdev_config_set(dev, off + PCI_ATS_CAP, 2, (queue_depth & 31) | 1u << 5);
	svio_vdev_config_wmask(dev, off + PCI_ATS_CTRL, 2, PCI_ATS_CTRL_ENABLE | 0x1f);
	dev->ecap_ats = (uint16_t)off;
	return off;
}

/* ---- writes by clients ---------------------------------------------------------------------- */

static bool touches(uint32_t off, uint32_t len, uint32_t reg, uint32_t width)
{
	return off < reg + width && reg < off + len;
}

void svio__vd_cfg_apply(struct svio_vdev *dev)
{
	uint32_t cmd = svio_vdev_config_get(dev, PCI_COMMAND, 2);
	bool d0 = !dev->cap_pm || !(svio_vdev_config_get(dev, dev->cap_pm + PCI_PM_CTRL, 2) &
				    PCI_PM_CTRL_STATE_MASK);
	bool mem = d0 && ((dev->flags & SVIO_VDEV_VF) || (cmd & PCI_COMMAND_MEMORY));
	bool master = d0 && (cmd & PCI_COMMAND_MASTER);

	if (master != dev->bus_master) {
		dev->bus_master = master;
		svio__vd_dma_flush(dev);
	}
	if (mem != dev->mem_on) {
		dev->mem_on = mem;
		svio__vd_bars_update(dev);
	}
}

void svio__vd_cfg_write(struct svio_vdev *dev, uint32_t off, const uint8_t *data, uint32_t len)
{
	uint32_t pm = dev->cap_pm + PCI_PM_CTRL,
		 old_pm = dev->cap_pm ? svio_vdev_config_get(dev, pm, 2) : 0;
	uint32_t flr = dev->cap_pcie + PCI_EXP_DEVCTL + 1u, af = dev->cap_af + PCI_AF_CTRL;

	for (uint32_t i = 0; i < len; i++) {
		uint32_t at = off + i;

		dev->cfg[at] =
			(uint8_t)((dev->cfg[at] & ~dev->wmask[at]) | (data[i] & dev->wmask[at]));
		dev->cfg[at] &= (uint8_t) ~(data[i] & dev->w1c[at]);
	}
	/* PCI PM §3.2.4: a write of a state that is not supported (D1, D2) is discarded. */
	if (dev->cap_pm && touches(off, len, pm, 1)) {
		uint32_t state = svio_vdev_config_get(dev, pm, 2) & PCI_PM_CTRL_STATE_MASK;

		if (state == 1 || state == 2)
			svio_vdev_config_set(dev, pm, 2, old_pm);
	}
	/*
	 * Initiate FLR is bit 15 of Device Control (§7.5.3.4), bit 0 of AF Control; both read as 0.
	 */
	if (dev->cap_pcie && touches(off, len, flr, 1) && (data[flr - off] & 0x80) &&
	    (svio_vdev_config_get(dev, dev->cap_pcie + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR))
		dev->flr_due = true;
	if (dev->cap_af && touches(off, len, af, 1) && (data[af - off] & PCI_AF_CTRL_FLR))
		dev->flr_due = true;
	svio__vd_cfg_apply(dev);
	svio__vd_irq_flush(dev); /* masks and Interrupt Disable may have changed */
	if (dev->model->config_written)
		dev->model->config_written(dev, off, len);
}

bool svio_vdev_mem_enabled(const struct svio_vdev *dev)
{
	return dev->mem_on && !dev->in_reset;
}

bool svio_vdev_bus_master(const struct svio_vdev *dev)
{
	return dev->bus_master;
}
