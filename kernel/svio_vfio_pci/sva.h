/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bonds between a PCI function and the address spaces of the processes that use it
 * (uapi/svio_vfio.h).
 *
 * A struct svio_sva belongs to each function bound to the driver. It outlives the function while
 * bond files are open. What is said of locks here is why the code is as it is:
 *
 * - VFIO resets a function with vfio_pci_core's memory_lock held for writing, and waits in it for
 *   the IOMMU group's mutex (since 7.3). Unbinding holds that mutex and waits for page requests,
 *   which wait for mmap_lock; binding takes mmap_lock inside the IOMMU core's SVA lock, which
 *   unbinding takes too. So nobody may wait for memory_lock with mmap_lock held. Page faults in
 *   BARs would: bar.c has them let go of mmap_lock first.
 * - Resets that the user of the function asks for are seen coming all the same, and bonds end
 *   before VFIO takes its lock (svio_sva_block()). Others are announced under it: they leave the
 *   unbinding to a work item, and wait for a bounded time (svio_sva_reset_prepare()), since kernels
 *   without the means of bar.c keep the old order of locks.
 * - svio_sva::lock guards the table and is taken under memory_lock: nothing that takes mmap_lock is
 *   called with it held.
 */
#ifndef SVIO_SVA_H
#define SVIO_SVA_H

#include <linux/types.h>

struct pci_dev;
struct svio_sva;

int svio_sva_init(void);
void svio_sva_exit(void);

struct svio_sva *svio_sva_create(struct pci_dev *pdev);
void svio_sva_destroy(struct svio_sva *sva);

/* First open and last close of the function; every bond has ended when svio_sva_close() returns. */
void svio_sva_open(struct svio_sva *sva);
void svio_sva_close(struct svio_sva *sva);

/* The function was unplugged: end every bond now, and make no more. */
void svio_sva_gone(struct svio_sva *sva);

/*
 * Around a reset that is to come, with none of VFIO's locks held: every bond has ended, and none is
 * made before svio_sva_unblock(). -ERESTARTSYS: killed. *master: what svio_sva_unblock() puts back.
 */
int svio_sva_block(struct svio_sva *sva, bool *master);
void svio_sva_unblock(struct svio_sva *sva, bool master);

/* In a reset, whoever asked for it. Called with the device locked. */
void svio_sva_reset_prepare(struct svio_sva *sva);
void svio_sva_reset_done(struct svio_sva *sva);

/* Whether a bond exists or is being made. */
bool svio_sva_in_use(struct svio_sva *sva);

/* The three features, with the arguments of vfio_device_ops::device_feature. */
int svio_sva_feature_info(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz);
int svio_sva_feature_bind(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz);
int svio_sva_feature_unbind(struct svio_sva *sva, u32 flags, void __user *arg, size_t argsz);

#endif
