/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * IOMMU groups: the smallest set of functions that the IOMMU can tell apart from the rest. User space owns a group
 * as a whole or not at all.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pci_priv.h"

/* PCIe 5.0 §7.5.3.2: Device/Port Type, bits 7:4 of the PCI Express Capabilities register */
#define PCIE_CAP_ID	 0x10
#define PCIE_FLAGS	 2
#define TYPE_ROOT_PORT	 4
#define TYPE_DOWNSTREAM	 6
#define TYPE_TO_PCI	 7
#define TYPE_FROM_PCI	 8
#define TYPE_RC_ENDPOINT 9
/* §7.7.8: ACS extended capability; control register at 6: Source Validation, Request Redirect, Completion Redirect,
 * Upstream Forwarding are what Linux wants (drivers/iommu/iommu.c, REQ_ACS_FLAGS). */
#define ACS_CAP_ID	 0x000d
#define ACS_CTRL	 6
#define ACS_WANTED	 (1u << 0 | 1u << 2 | 1u << 3 | 1u << 4)
#define HEADER_TYPE	 0x0e
#define HEADER_MULTI	 0x80

bool svio__driver_is_vfio(const char *name)
{
	/* vfio-pci, mlx5_vfio_pci, hisi-acc-vfio-pci, svio_vfio_pci ... */
	return strstr(name, "vfio") != NULL;
}

/*
 * Drivers that leave DMA ownership alone (driver_managed_dma in Linux since 5.19; drivers/pci/pci-stub.c,
 * drivers/pci/pcie/portdrv.c). Before 5.19 any driver of a bridge was allowed; the stricter rule serves both.
 */
static bool driver_allowed(const struct svio_pci_info *info)
{
	return !info->has_driver || svio__driver_is_vfio(info->driver) ||
	       strcmp(info->driver, "pci-stub") == 0 || strcmp(info->driver, "pcieport") == 0;
}

int svio_pci_group_explain(int group)
{
	struct svio_pci_info *list;
	char text[SVIO_ERROR_MAX];
	size_t count, used = 0, bad = 0;
	int rc = svio_pci_group_devices(group, &list, &count);

	if (rc)
		return rc;
	text[0] = '\0';
	for (size_t i = 0; i < count; i++) {
		int n;

		if (driver_allowed(&list[i]))
			continue;
		bad++;
		/* vfio-pci takes no bridges; without a driver a bridge is fine. */
		n = list[i].is_bridge ?
			    snprintf(text + used, sizeof(text) - used,
				     "%sthe bridge %s is bound to %s "
				     "(run: echo %s > /sys/bus/pci/drivers/%s/unbind)",
				     used ? ", " : "", list[i].name, list[i].driver, list[i].name,
				     list[i].driver) :
			    snprintf(text + used, sizeof(text) - used,
				     "%s%s is bound to %s (run: svio bind %s)", used ? ", " : "",
				     list[i].name, list[i].driver, list[i].name);
		if (n > 0)
			used = SVIO_MIN(used + (size_t)n, sizeof(text) - 1);
	}
	free(list);
	if (bad == 0)
		return 0;
	return svio_fail(EPERM, "IOMMU group %d is not viable: %s", group, text);
}

/* ---- why functions share a group --------------------------------------------------------------------- */

struct isolation {
	bool known; /* the capability could be read; without privilege it cannot */
	bool acs, multifunction, pcie;
	unsigned int type;
};

static struct isolation read_isolation(const struct svio_pci_addr *addr)
{
	struct isolation iso = { 0 };
	uint8_t cfg[4096];
	uint16_t acs;
	uint8_t pcie;
	size_t got;

	if (svio_pci_config_read(addr, cfg, sizeof(cfg), &got) || got < 256)
		return iso;
	iso.known = true;
	iso.multifunction = cfg[HEADER_TYPE] & HEADER_MULTI;
	pcie = svio_pci_find_cap(cfg, got, PCIE_CAP_ID, 0);
	if (pcie && (size_t)pcie + PCIE_FLAGS < got) {
		iso.pcie = true;
		iso.type = cfg[pcie + PCIE_FLAGS] >> 4;
	}
	acs = svio_pci_find_ext_cap(cfg, got, ACS_CAP_ID, 0);
	if (acs && (size_t)acs + ACS_CTRL + 1 < got)
		iso.acs = (cfg[acs + ACS_CTRL] & ACS_WANTED) == ACS_WANTED;
	return iso;
}

/* The bridge above: the directory of a function is inside that of its bridge. */
static int read_parent(const struct svio_pci_addr *addr, struct svio_pci_addr *parent)
{
	char path[PATH_MAX], real[PATH_MAX], *slash;
	int rc = svio__device_path(path, addr, "");

	if (rc)
		return rc;
	if (!realpath(path, real))
		return -errno;
	slash = strrchr(real, '/');
	if (!slash || slash == real)
		return -ENOENT;
	*slash = '\0';
	slash = strrchr(real, '/');
	return slash && svio_pci_parse_addr(slash + 1, parent) == 0 ? 0 : -ENOENT;
}

static bool same_slot(const struct svio_pci_addr *a, const struct svio_pci_addr *b)
{
	return a->domain == b->domain && a->bus == b->bus && a->dev == b->dev;
}

/* The first reason found for one member, or false. */
static bool explain_member(const struct svio_pci_info *list, size_t count, size_t i, char *text, size_t len)
{
	struct svio_pci_addr at = list[i].addr, up;
	char name[SVIO_PCI_ADDR_STRLEN];
	struct isolation iso = read_isolation(&at);

	if (!iso.known) {
		snprintf(text, len, "why they share it can only be read by root");
		return true;
	}
	for (size_t j = 0; j < count; j++) {
		if (j == i || !same_slot(&list[j].addr, &at) || iso.acs || !iso.multifunction)
			continue;
		snprintf(text, len,
			 iso.pcie && iso.type == TYPE_RC_ENDPOINT ?
				 "%s and %s are root-complex endpoints of one device without ACS "
				 "(Linux treats Intel's as isolated since 5.8, others not)" :
				 "%s and %s are functions of one device without ACS between them",
			 list[i].name, list[j].name);
		return true;
	}
	/* Upwards, as Linux's pci_device_group() does: a bridge that does not isolate joins what is below. */
	for (int depth = 0; depth < 32 && read_parent(&at, &up) == 0; depth++, at = up) {
		iso = read_isolation(&up);
		if (!iso.known)
			return false;
		svio_pci_format_addr(&up, name);
		if (!iso.pcie || iso.type == TYPE_TO_PCI || iso.type == TYPE_FROM_PCI) {
			snprintf(text, len, "the bridge %s to conventional PCI hides which of them asks", name);
			return true;
		}
		if ((iso.type == TYPE_ROOT_PORT || iso.type == TYPE_DOWNSTREAM) && !iso.acs) {
			snprintf(text, len,
				 "the port %s above them has no ACS, or it is not enabled; "
				 "use a slot below another root port", name);
			return true;
		}
	}
	return false;
}

int svio_pci_group_note(int group, char *text, size_t len)
{
	struct svio_pci_info *list;
	size_t count, i;
	int rc = svio_pci_group_devices(group, &list, &count);

	text[0] = '\0';
	if (rc)
		return rc;
	for (i = 0; count > 1 && i < count; i++)
		if (!list[i].is_bridge && explain_member(list, count, i, text, len))
			break;
	if (count > 1 && text[0] == '\0')
		snprintf(text, len, "the kernel found no isolation between them");
	free(list);
	return 0;
}
