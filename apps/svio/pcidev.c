/* SPDX-License-Identifier: BSD-3-Clause */
#include <pci/pci.h>
#include <stdlib.h>
#include <string.h>
#include "pcidev.h"
#include "svio_dsa.h"

#define CLASS_NVME 0x010802 /* PCI Code and ID Assignment §1.2: mass storage, NVM, NVMe I/O controller */

SVIO_PRINTF(1, 2) static void names_quiet(char *fmt, ...)
{
	(void)fmt;
}

/* libpci calls this only when it cannot go on, and expects no return. */
__attribute__((noreturn)) SVIO_PRINTF(1, 2) static void names_error(char *fmt, ...)
{
	(void)fmt;
	cli_error("libpci gave up (out of memory?)");
	exit(CLI_FAILED);
}

static struct pci_access *names(void)
{
	static struct pci_access *access;

	if (access)
		return access;
	/* Not pci_init(), which looks for hardware access: only the database of names is used. */
	access = pci_alloc();
	access->error = names_error;
	access->warning = names_quiet;
	access->debug = names_quiet;
	return access;
}

const char *pcidev_class_name(uint32_t class_code)
{
	/* PCI Code and ID Assignment §1.1, for machines without pci.ids */
	static const char *const base[] = {
		[0x01] = "Mass storage", [0x02] = "Network", [0x03] = "Display", [0x04] = "Multimedia",
		[0x05] = "Memory", [0x06] = "Bridge", [0x07] = "Communication", [0x08] = "System peripheral",
		[0x0b] = "Processor", [0x0c] = "Serial bus", [0x0d] = "Wireless", [0x10] = "Encryption",
		[0x12] = "Accelerator",
	};
	static char buf[128];
	const char *name;

	name = pci_lookup_name(names(), buf, sizeof(buf), PCI_LOOKUP_CLASS | PCI_LOOKUP_NO_NUMBERS,
			       class_code >> 8);
	if (name)
		return name;
	if (class_code == CLASS_NVME)
		return "NVMe controller";
	if (class_code >> 16 < SVIO_ARRAY_SIZE(base) && base[class_code >> 16])
		return base[class_code >> 16];
	snprintf(buf, sizeof(buf), "%04x", class_code >> 8);
	return buf;
}

const char *pcidev_device_name(uint16_t vendor, uint16_t device)
{
	static char buf[256];

	return pci_lookup_name(names(), buf, sizeof(buf), PCI_LOOKUP_VENDOR | PCI_LOOKUP_DEVICE, vendor,
			       device);
}

bool pcidev_on_vfio(const struct svio_pci_info *info)
{
	return strstr(info->driver, "vfio") != NULL;
}

bool pcidev_is_system(const struct svio_pci_info *info)
{
	uint32_t base = info->class_code >> 16;

	/* Memory controllers, bridges, system peripherals, and SMBus. */
	return base == 0x05 || base == 0x06 || base == 0x08 || info->class_code >> 8 == 0x0c05;
}

/* Keep the library's sentence. */
static void set_why(struct pcidev_ability *ability, enum pcidev_use use)
{
	ability->use = use;
	snprintf(ability->why, sizeof(ability->why), "%s", svio_last_error());
}

/* A group changes hands as a whole: the members that a kernel driver has go along. */
static void name_what_to_bind(const struct svio_pci_info *info, char *text, size_t len)
{
	struct svio_pci_info *list;
	size_t count, used = (size_t)snprintf(text, len, "run: svio bind %s", info->name);

	if (svio_pci_group_devices(info->iommu_group, &list, &count))
		return;
	for (size_t i = 0; i < count && used < len; i++)
		if (strcmp(list[i].name, info->name) != 0 && list[i].has_driver && !list[i].is_bridge &&
		    !pcidev_on_vfio(&list[i]) && strcmp(list[i].driver, "pci-stub") != 0)
			used += (size_t)snprintf(text + used, len - used, " %s", list[i].name);
	free(list);
}

void pcidev_ability(const struct svio_pci_info *info, struct pcidev_ability *ability)
{
	memset(ability, 0, sizeof(*ability));
	if (info->class_code >> 16 == 0x06) {
		ability->use = PCIDEV_NEVER;
		snprintf(ability->why, sizeof(ability->why), "a bridge");
		return;
	}
	ability->driver = info->class_code == CLASS_NVME ? "nvme" : svio_dsa_supports(info->vendor, info->device) ? "dsa" : "generic";
	if (info->iommu_group < 0) {
		ability->use = PCIDEV_BLOCKED;
		snprintf(ability->why, sizeof(ability->why), "no IOMMU group; run: svio doctor");
		return;
	}
	if (pcidev_on_vfio(info)) {
		if (svio_pci_group_explain(info->iommu_group))
			set_why(ability, PCIDEV_BLOCKED);
		else
			ability->use = PCIDEV_READY;
		return;
	}
	if (info->quirks & SVIO_PCI_QUIRK_VFIO_DENYLIST) {
		ability->use = PCIDEV_BLOCKED;
		snprintf(ability->why, sizeof(ability->why),
			 "on vfio-pci's denylist (a user of it can take the system down); svio-vfio-pci takes it if an "
			 "administrator loads it with disable_denylist=1");
		return;
	}
	if (info->has_driver && svio_pci_in_use(&info->addr)) {
		set_why(ability, PCIDEV_BLOCKED);
		return;
	}
	ability->use = PCIDEV_BINDABLE;
	name_what_to_bind(info, ability->why, sizeof(ability->why));
}

bool pcidev_parse(const char *text, struct svio_pci_addr *addr)
{
	if (svio_pci_parse_addr(text, addr) == 0)
		return true;
	cli_error("'%s' is no PCI address such as 0000:01:00.0; run: svio list", text);
	return false;
}

struct json_object *pcidev_json(const struct svio_pci_info *info, const struct pcidev_ability *ability)
{
	static const char *const uses[] = {
		[PCIDEV_READY] = "ready",
		[PCIDEV_BINDABLE] = "bindable",
		[PCIDEV_BLOCKED] = "blocked",
		[PCIDEV_NEVER] = "never",
	};
	struct json_object *obj = json_object_new_object(), *can = json_object_new_object();
	char physfn[SVIO_PCI_ADDR_STRLEN];

	cli_json_str(obj, "address", info->name);
	cli_json_hex(obj, "vendor_id", info->vendor, 4);
	cli_json_hex(obj, "device_id", info->device, 4);
	cli_json_hex(obj, "subsystem_vendor_id", info->subvendor, 4);
	cli_json_hex(obj, "subsystem_device_id", info->subdevice, 4);
	cli_json_int(obj, "revision", info->revision);
	cli_json_str(obj, "name", pcidev_device_name(info->vendor, info->device));
	cli_json_hex(obj, "class_code", info->class_code, 6);
	cli_json_str(obj, "class", pcidev_class_name(info->class_code));
	cli_json_str(obj, "driver", info->has_driver ? info->driver : NULL);
	json_object_object_add(obj, "iommu_group",
			       info->iommu_group < 0 ? NULL : json_object_new_int(info->iommu_group));
	json_object_object_add(obj, "numa_node",
			       info->numa_node < 0 ? NULL : json_object_new_int(info->numa_node));
	cli_json_str(obj, "physfn", info->is_vf ? svio_pci_format_addr(&info->physfn, physfn) : NULL);
	cli_json_int(obj, "sriov_totalvfs", info->sriov_totalvfs);
	cli_json_int(obj, "sriov_numvfs", info->sriov_numvfs);
	cli_json_bool(obj, "quirk_broken_intx", info->quirks & SVIO_PCI_QUIRK_BROKEN_INTX);
	cli_json_bool(obj, "quirk_vfio_denylist", info->quirks & SVIO_PCI_QUIRK_VFIO_DENYLIST);
	cli_json_str(can, "state", uses[ability->use]);
	cli_json_str(can, "driver", ability->driver);
	cli_json_str(can, "note", ability->why[0] ? ability->why : NULL);
	json_object_object_add(obj, "svio", can);
	return obj;
}
