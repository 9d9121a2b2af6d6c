/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Waiting for a device after one has gone.
 *
 *	perf_replug_begin()	while the old device is still held: from here on its leaving is not missed
 *	... the device is closed, so that the host can have it ...
 *	perf_replug_wait()	a name that can be opened
 *	perf_replug_end()
 *
 * Nothing is bound before the device is closed: while it is being removed, the kernel holds its lock until VFIO's last
 * user has gone, and driver_override would wait for that lock (Linux 6.1 drivers/pci/pci-sysfs.c).
 *
 * For PCI devices the kernel's uevents (a netlink socket) say when to look, and sysfs what is there; a look now and then besides
 * covers machines that do not let us listen. A device that was there at the first look counts only after it has
 * been away, or if it came since perf_replug_begin(). Other names (user:, sim:) have nothing to watch: they are found at once, and opening them tells.
 */
#ifndef SVIO_PERF_REPLUG_H
#define SVIO_PERF_REPLUG_H

#include "svio_pci.h"

#define PERF_REPLUG_NAME 128

struct perf_replug {
	char name[PERF_REPLUG_NAME]; /* what is waited for; "any": any NVMe controller */
	bool pci, any, bind;
	bool looked; /* seen[] is filled */
	int netlink; /* -1 none */
	struct perf_replug_seen {
		struct svio_pci_addr addr;
		bool there; /* since the first look, without a break */
		bool bound; /* to vfio-pci since then, without a break */
	} *seen;
	size_t count;
};

/* name: as svio_device_open(), or "any". bind: give an unbound device to vfio-pci. */
int perf_replug_begin(struct perf_replug *r, const char *name, bool bind);
void perf_replug_end(struct perf_replug *r);

/*
 * Wait until until_ns (svio_now_ns()). 0: found[PERF_REPLUG_NAME] may be opened (which may still fail for a moment). -ETIMEDOUT, explained: nothing came, or it
 * came bound to another driver. -EINTR when interrupted() returns true.
 */
int perf_replug_wait(struct perf_replug *r, uint64_t until_ns, bool (*interrupted)(void), char *found);

/*
 * One uevent ("remove@/devices/…/0000:01:00.0"): the address of a PCI function that it removes or adds. For
 * perf_replug_wait() and tests.
 */
bool perf_replug_changed(const char *uevent, size_t len, struct svio_pci_addr *addr);

#endif
