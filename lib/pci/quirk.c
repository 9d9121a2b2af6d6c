/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices known to need special care. One row per range of device IDs, with its source. */
#include "svio_pci.h"

#define INTEL 0x8086

/*
 * Broken INTx: the Interrupt Status bit of the PCI status register (PCIe 5.0 §7.5.1.1.4) never gets set, so nobody
 * can tell whether a shared INTx line is this device's. Linux vfio-pci hides INTx of these devices altogether
 * (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_nointx). Devices that merely lack the Interrupt Disable bit
 * (drivers/pci/quirks.c, quirk_broken_intx_masking, beyond the 700 series) are not here: the kernel serves them
 * by masking at the interrupt controller, and their INTx works.
 *
 * Denylist: drivers/vfio/pci/vfio_pci.c, vfio_pci_dev_in_denylist.
 */
static const struct {
	uint16_t vendor, first, last;
	uint32_t quirks;
} table[] = {
	/* X550: Intel 333717 "X550 Specification Update", erratum 22; Linux 5.9 "Add Intel X550 to hidden INTx" */
	{ INTEL, 0x1563, 0x1563, SVIO_PCI_QUIRK_BROKEN_INTX },
	/* 700 series (X710, XL710, XXV710): vfio_pci_nointx and quirk_broken_intx_masking name the same IDs */
	{ INTEL, 0x1572, 0x1572, SVIO_PCI_QUIRK_BROKEN_INTX },
	{ INTEL, 0x1574, 0x1574, SVIO_PCI_QUIRK_BROKEN_INTX },
	{ INTEL, 0x1580, 0x1581, SVIO_PCI_QUIRK_BROKEN_INTX },
	{ INTEL, 0x1583, 0x158b, SVIO_PCI_QUIRK_BROKEN_INTX },
	/* X722, of the same series: as above */
	{ INTEL, 0x37d0, 0x37d2, SVIO_PCI_QUIRK_BROKEN_INTX },
	/* QAT DH895xCC, PF and VF: Linux 5.9 "Add QAT devices to denylist" (errata QATE-7495 and others) */
	{ INTEL, 0x0435, 0x0435, SVIO_PCI_QUIRK_VFIO_DENYLIST },
	{ INTEL, 0x0443, 0x0443, SVIO_PCI_QUIRK_VFIO_DENYLIST },
	/* QAT C3xxx, PF and VF: the same change */
	{ INTEL, 0x19e2, 0x19e3, SVIO_PCI_QUIRK_VFIO_DENYLIST },
	/* QAT C62x, PF and VF: the same change */
	{ INTEL, 0x37c8, 0x37c9, SVIO_PCI_QUIRK_VFIO_DENYLIST },
	/* DSA and IAX of Sapphire Rapids: INTEL-SA-01084 (2024), Linux 6.9 and stable kernels */
	{ INTEL, 0x0b25, 0x0b25, SVIO_PCI_QUIRK_VFIO_DENYLIST },
	{ INTEL, 0x0cfe, 0x0cfe, SVIO_PCI_QUIRK_VFIO_DENYLIST },
};

uint32_t svio_pci_quirks(uint16_t vendor, uint16_t device)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(table); i++)
		if (table[i].vendor == vendor && device >= table[i].first && device <= table[i].last)
			return table[i].quirks;
	return 0;
}
