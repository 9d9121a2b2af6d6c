/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio pci: PCI functions as sysfs shows them: enumerate, IOMMU groups, bind, capabilities, quirks.
 *
 * Nothing here opens a device. Everything is read from sysfs at the time of the call; there is no cache and no
 * state, so every function may be called from any thread. What changes a function (bind, unbind) needs root, and two
 * such calls on the same function at the same time are the caller's to avoid.
 *
 *	svio_pci_scan()			what is there
 *	svio_pci_get()			one function
 *	svio_pci_group_explain()	may user space own this group, and if not, which device is in the way
 *	svio_pci_in_use()		would the system miss it
 *	svio_pci_bind()			give the function to vfio-pci (driver_override), remembering its driver
 *	svio_pci_unbind()		give it back
 *	svio_pci_config_read()		configuration space, then svio_pci_find_cap() in that copy
 *
 * Everything that sysfs, /proc and configuration space say is bounds-checked; numbers out of range count as absent.
 *
 * Sources: Linux Documentation/ABI/testing/sysfs-bus-pci; PCI Express Base 5.0 §7.5 (configuration space),
 * §7.5.3 (PCIe capability), §7.6 (extended capabilities), §9 (SR-IOV).
 */
#ifndef SVIO_PCI_H
#define SVIO_PCI_H

#include "svio_base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_PCI_ADDR_STRLEN 24 /* bytes for a formatted address with its NUL */

struct svio_pci_addr {
	uint32_t domain;
	uint8_t bus, dev, fn;
};

enum svio_pci_quirk {
	/* The INTx status/disable bits lie: no INTx for this device, use MSI-X or polling. */
	SVIO_PCI_QUIRK_BROKEN_INTX = 1u << 0,
	/* vfio-pci refuses this device unless loaded with disable_denylist=1 (INTEL-SA-01084). */
	SVIO_PCI_QUIRK_VFIO_DENYLIST = 1u << 1,
};

struct svio_pci_bar {
	uint64_t start;	/* bus address; 0 when unassigned */
	uint64_t size;	/* bytes; 0 when the BAR does not exist */
	uint64_t flags; /* the kernel's resource flags */
};

struct svio_pci_info {
	struct svio_pci_addr addr;
	char name[SVIO_PCI_ADDR_STRLEN]; /* "0000:01:00.0" */
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* base class, subclass, interface: 0x010802 is an NVMe controller */
	uint8_t revision;
	int numa_node;	 /* -1: the platform does not say */
	int iommu_group; /* -1: no IOMMU */
	bool is_vf;	 /* an SR-IOV virtual function */
	bool is_bridge;	 /* PCI-to-PCI, CardBus or semi-transparent bridge, by its class */
	bool has_driver;
	char driver[32];	  /* "" when unbound */
	char driver_override[32]; /* "" until svio_pci_get_override(), and when unset */
	struct svio_pci_addr physfn; /* valid when is_vf */
	unsigned int sriov_totalvfs, sriov_numvfs;
	uint32_t quirks; /* enum svio_pci_quirk */
	struct svio_pci_bar bar[6];
};

/* "0000:01:00.0" or "01:00.0" (domain 0), hexadecimal, nothing before or behind it. 0, or -EINVAL. */
int svio_pci_parse_addr(const char *text, struct svio_pci_addr *addr);
/* Writes the full form, NUL-terminated; buf holds at least SVIO_PCI_ADDR_STRLEN bytes. Returns buf. */
char *svio_pci_format_addr(const struct svio_pci_addr *addr, char *buf);

/* Fill *info. -ENODEV (explained) when there is no such function. */
int svio_pci_get(const struct svio_pci_addr *addr, struct svio_pci_info *info);

/*
 * Fill info->driver_override. Apart, because the kernel holds the device's lock over reading it (Linux
 * drivers/pci/pci-sysfs.c): while the function is being bound, unbound or removed, and that can wait for a
 * process which holds it open through VFIO, this call waits in the kernel, and no signal ends it. 0 or -errno; "" then.
 */
int svio_pci_get_override(struct svio_pci_info *info);

/*
 * All functions, sorted by address. *list is the caller's, to be released with free(). Neither this nor svio_pci_get()
 * reads anything for which the kernel takes a device's lock (driver_override, sriov_numvfs), so they never wait for one
 * that is being removed.
 */
int svio_pci_scan(struct svio_pci_info **list, size_t *count);

/* The members of an IOMMU group, as svio_pci_scan(). -ENOENT (explained) when there is no such group. */
int svio_pci_group_devices(int group, struct svio_pci_info **list, size_t *count);

/*
 * May user space own the group? 0 when viable: every member is unbound, bound to a vfio driver, or to a driver that
 * leaves DMA to others (pcieport, pci-stub). Otherwise -EPERM, and svio_last_error() names each device in the way, its
 * driver, and the command that helps. Linux: drivers/iommu/iommu.c, iommu_group_claim_dma_owner, and the drivers that
 * set driver_managed_dma.
 */
int svio_pci_group_explain(int group);

/*
 * Why the members of a group share it, as a sentence in text (at most len bytes with its NUL): no ACS between functions
 * or at a port above them (PCIe 5.0 §6.12), a conventional PCI bridge, root-complex integrated endpoints. "" when the
 * group has one member. Capabilities beyond the first 64 bytes need root; the text says so. -ENOENT no such group.
 */
int svio_pci_group_note(int group, char *text, size_t len);

/*
 * Is the function in use by the running system? 0 when not. -EBUSY, explained, when a mounted filesystem, swap, or
 * device-mapper/md holder sits on a block device below it (partitions and NVMe multipath disks included), when the
 * kernel refuses an exclusive open of one (mounts in other namespaces; needs permission on the device node), or when a
 * network interface below it is part of another or is up with an address other than link-local. -ENODEV no such function.
 */
int svio_pci_in_use(const struct svio_pci_addr *addr);

enum svio_pci_bind_flags {
	/*
	 * Also when svio_pci_in_use(), or when a process has the function open through VFIO; then the kernel asks that
	 * process to give it up (the REQ event), and the call waits until it has.
	 */
	SVIO_PCI_BIND_FORCE = 1u << 0,
};

/*
 * Bind to `driver` ("vfio-pci" usually; loaded by modprobe if it is not there) through driver_override, and remember
 * the previous driver in /run/svio/prev-driver/<address>, so that svio_pci_unbind() restores it. Binding to the
 * driver it already has is a success. On failure the previous driver is bound again and the record is as before.
 *
 * -EBUSY in use, -ENODEV no such function, -ENOENT no such driver, -EACCES/-EPERM not root, -EPERM on vfio-pci's
 * denylist, -EOPNOTSUPP no IOMMU, -EINVAL a bridge or a bad name, -EIO the driver refused it; all explained. May take as
 * long as drivers take to let go and to probe.
 */
int svio_pci_bind(const struct svio_pci_addr *addr, const char *driver, uint32_t flags);

/*
 * Undo svio_pci_bind(): restore driver_override and give the function to the driver it had (none, if it had none). A
 * function that is VFIO's without a record of ours is given to whatever driver the kernel finds. A function that was
 * never bound by us and is not VFIO's is left alone, with success. On failure it is bound as it was. Errors as bind's.
 */
int svio_pci_unbind(const struct svio_pci_addr *addr, uint32_t flags);

/* ---- configuration space --------------------------------------------------------------------------- */

/*
 * Copy up to len bytes of configuration space (256, or 4096 with PCIe) into buf; *got is how many there were. The kernel
 * gives 64 to a process without CAP_SYS_ADMIN. 0, -ENODEV, -EACCES or what the read returned, explained.
 */
int svio_pci_config_read(const struct svio_pci_addr *addr, void *buf, size_t len, size_t *got);

/*
 * Capabilities in a copy of configuration space, of which len bytes are there. next: the offset of the capability that
 * follows the one at `after` (0: the first), or 0 at the end. find: the same, for one ID. A loop
 *
 *	for (off = 0; (off = svio_pci_find_cap(cfg, len, id, off)) != 0;)
 *
 * visits each at most once and ends, also when the list has a cycle or leads out of the buffer. ID 0 is the NULL capability
 * (PCIe 5.0 §7.9.22, §7.9.28; the kernel also hides extended capabilities that way): skipped, not an end. At a returned offset,
 * 2 bytes (extended: 4) lie within the buffer; whoever reads more of the capability checks that against len.
 */
uint8_t svio_pci_next_cap(const uint8_t *cfg, size_t len, uint8_t after);
uint8_t svio_pci_find_cap(const uint8_t *cfg, size_t len, uint8_t id, uint8_t after);
uint16_t svio_pci_next_ext_cap(const uint8_t *cfg, size_t len, uint16_t after);
uint16_t svio_pci_find_ext_cap(const uint8_t *cfg, size_t len, uint16_t id, uint16_t after);

/* Quirks of a vendor/device pair, enum svio_pci_quirk. */
uint32_t svio_pci_quirks(uint16_t vendor, uint16_t device);

#ifdef __cplusplus
}
#endif
#endif
