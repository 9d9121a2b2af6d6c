/* SPDX-License-Identifier: BSD-3-Clause */
/* PCI functions as the subcommands show them: names for people, and what svio can do with each. */
#ifndef SVIO_PCIDEV_H
#define SVIO_PCIDEV_H

#include "cli.h"
#include "svio_pci.h"

/* Names from the pci.ids database, or numbers where it is missing. Main thread; the texts stay valid. */
const char *pcidev_class_name(uint32_t class_code);
const char *pcidev_device_name(uint16_t vendor, uint16_t device);

enum pcidev_use {
	PCIDEV_READY,	 /* bound to VFIO, group viable */
	PCIDEV_BINDABLE, /* after svio bind */
	PCIDEV_BLOCKED,	 /* something is in the way, which can be removed */
	PCIDEV_NEVER,	 /* a bridge, for instance */
};

struct pcidev_ability {
	enum pcidev_use use;
	const char *driver; /* svio's driver for it: "nvme", "dsa", or "generic" (register access, DMA, interrupts); NULL if none */
	char why[SVIO_ERROR_MAX]; /* what is in the way, or what to do next; "" when ready */
};

void pcidev_ability(const struct svio_pci_info *info, struct pcidev_ability *ability);

/* Bridges, memory and system functions: what `svio list` leaves out without --all. */
bool pcidev_is_system(const struct svio_pci_info *info);

/* An address from the command line, or a sentence on stderr and false. */
bool pcidev_parse(const char *text, struct svio_pci_addr *addr);

bool pcidev_on_vfio(const struct svio_pci_info *info);

/* What both list and info report about a function. */
struct json_object *pcidev_json(const struct svio_pci_info *info, const struct pcidev_ability *ability);

#endif
