/* SPDX-License-Identifier: GPL-2.0-only */
/* Mappings of BARs whose page faults wait for a reset without holding mmap_lock. */
#ifndef SVIO_BAR_H
#define SVIO_BAR_H

struct vfio_device;
struct vfio_pci_core_device;
struct vm_area_struct;

/* Once, after vfio_pci_core_init_dev(). */
void svio_bar_init(struct vfio_pci_core_device *core);

/* vfio_device_ops::mmap */
int svio_bar_mmap(struct vfio_device *vdev, struct vm_area_struct *vma);

#endif
