/* SPDX-License-Identifier: BSD-3-Clause */
/* Room pci, inside: where the files are, and how they are read and written. */
#ifndef SVIO_PCI_PRIV_H
#define SVIO_PCI_PRIV_H

#ifndef SVIO_ROOM_PCI
#error "pci_priv.h is for room pci; others include svio_pci.h"
#endif

#include <limits.h>
#include "svio_pci.h"

/*
 * A directory that stands in for "/": every path of this room (/sys, /proc, /run, /dev, /sbin/modprobe) is looked up
 * below it. "" by default. For tests; not thread-safe; the text is the caller's and must stay.
 */
void svio__pci_set_root(const char *root);

/* root + formatted path into buf (PATH_MAX bytes). 0 or -ENAMETOOLONG. */
int svio__path(char *buf, const char *fmt, ...) SVIO_PRINTF(2, 3);

/* First line of a file, without its newline, NUL-terminated. 0 or -errno; a line longer than buf is -EOVERFLOW. */
int svio__read_text(const char *path, char *buf, size_t len);
/* A file with one number, decimal or with 0x. 0 or -errno. */
int svio__read_number(const char *path, int64_t *value);
/* Write text to an existing file in one write(), as sysfs wants it. 0 or -errno. */
int svio__write_text(const char *path, const char *text);
/* Last component of what a symbolic link names. 0 or -errno. */
int svio__read_link_name(const char *path, char *buf, size_t len);

/* Path of /sys/bus/pci/devices/<addr>/<file>; file may be "". */
int svio__device_path(char *buf, const struct svio_pci_addr *addr, const char *file);

/* A driver name that may become part of a path: letters, digits, '-' and '_'. */
bool svio__driver_name_ok(const char *name);
/* Is it a driver that hands devices to user space through VFIO? Variant drivers carry "vfio" in their names. */
bool svio__driver_is_vfio(const char *name);

/* Run modprobe; 0, or -ENOENT when it is not there or did not succeed. */
int svio__modprobe(const char *module);

/* Does the kernel hold the block device (a mount in any namespace, swap, md, dm ...)? Asked by an exclusive open. */
bool svio__block_claimed(const char *name);

/* Process that has /dev/vfio/<group> open: its pid, 0 when there is none, -1 when there is one that we cannot name. */
pid_t svio__vfio_group_user(int group);

#endif
