/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A VFIO kernel in the test process: containers, groups and PCI functions behind open(), ioctl() and close(), with the rules of
 * Linux (drivers/vfio) that the library depends on:
 *
 *	- one open descriptor per group in the system; viable or not; no device without a container, no UNSET_CONTAINER
 *	  while a device is open
 *	- the IOMMU comes with a container's first group and goes, with all mappings, with its last
 *	- vfio-pci: mastering off at open, BAR access -EIO while decoding is off, one of INTx/MSI/MSI-X at a time
 *	- a device's last close resets it
 *
 * This is a simulation. What real Linux does is tested in the lab (test/guest/t_vfio.sh).
 *
 * Regions are one sparse memfd per function at the offsets of vfio-pci (index << 40), so that mmap, pread and pwrite are real.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/vfio.h>
#include "failnth.h"

#define FAKE_DEVICES 4
#define FAKE_VECTORS 16
#define FAKE_MAPS    8

/* 0000:01:00.0 and .1 in group 7, 0000:02:00.0 in group 8, 0000:02:10.0 (a VF) in group 9. */
extern const char *const fake_names[FAKE_DEVICES];

struct fake_device {
	int group;
	bool is_vf;
	int backing; /* the memfd */
	int opens;
	int resets;
	int fds[5][FAKE_VECTORS]; /* armed eventfds, -1 none */
	uint32_t armed[5];	  /* vectors set up per index */
	int arms[5];		  /* SET_IRQS with eventfds so far */
};

struct fake {
	struct fake_device dev[FAKE_DEVICES];
	/* what is wrong with this machine */
	bool no_vfio, no_permission, no_type1, not_viable, busy, unsafe_interrupts;
	bool incompatible; /* a second group does not fit into a container */
	bool bars_mapped;  /* a mapping keeps devices from being released */
	bool bus_gone;	   /* configuration space reads all ones */
	bool no_reset;
	bool msi_resize;	 /* vectors can be added (Linux since 6.5) */
	bool no_dirty;		 /* VFIO_IOMMU_DIRTY_PAGES is not there */
	bool missing_iova_cap;	 /* IOMMU information without capabilities */
	int vectors_available;	 /* 0: enough */
	int reset_eagain;	 /* so many resets answer -EAGAIN first; -1: all */
	int get_device_errno;	 /* of GET_DEVICE_FD */
	int set_container_errno; /* of the next SET_CONTAINER, once */
	int map_errno;
	bool foreign_hot;     /* a hot reset also reaches group 99 */
	const char *vf_token; /* that the VF wants */
	uint32_t msix_table;  /* table offset/BIR register */
	uint32_t sparse;      /* so many areas in BAR 0's sparse capability; 0: none */
	/* Rewrite the region reply of BAR 0: `room` bytes of which `argsz` are announced. */
	void (*spoil_region)(struct vfio_region_info *info, uint32_t room);
	void (*spoil_iommu)(struct vfio_iommu_type1_info *info, uint32_t room);
	/* what happened */
	int master_at_close; /* devices closed while they could still master the bus */
	int hot_resets;
	uint32_t hot_fds;
};
extern struct fake fake;

/* A fresh machine, the hooks installed. */
void fake_start(void);
/* Nothing of the machine is in use: no group, container or device open, no mapping. */
bool fake_idle(void);
void fake_stop(void);

uint16_t fake_command(int i);
uint64_t fake_mappings(void);
int fake_containers(void);

/* The calls that a test with this machine wraps are listed in meson.build. */

#endif
