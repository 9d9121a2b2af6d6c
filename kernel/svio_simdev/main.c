// SPDX-License-Identifier: GPL-2.0
/*
 * svio_simdev: loading, the window, plugging and unplugging. A test device: see simdev.h and README.md.
 */
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "simdev.h"

static bool i_know_this_is_a_test;
module_param(i_know_this_is_a_test, bool, 0444);
MODULE_PARM_DESC(i_know_this_is_a_test, "must be 1: this module simulates hardware and has no use beyond tests");

static unsigned long window;
module_param(window, ulong, 0444);
MODULE_PARM_DESC(window, "physical address of memory for the BARs, reserved on the kernel's command line by memmap=2M$ADDRESS");

static unsigned int pasid_bits = 16;
module_param(pasid_bits, uint, 0444);
MODULE_PARM_DESC(pasid_bits, "width of PASIDs, 1 to 20; 0: no PASID capability (default 16)");

static bool pri = true;
module_param(pri, bool, 0444);
MODULE_PARM_DESC(pri, "page requests (default y)");

static bool ats = true;
module_param(ats, bool, 0444);
MODULE_PARM_DESC(ats, "address translation services (default y); without it there are no page requests");

static bool twin;
module_param(twin, bool, 0444);
MODULE_PARM_DESC(twin, "a second simulated function, which does nothing, shares the function's IOMMU group (default n)");

static bool denylisted;
module_param(denylisted, bool, 0444);
MODULE_PARM_DESC(denylisted, "the simulated function carries Intel DSA's vendor and device IDs, which vfio-pci's denylist names (default n)");

/*
 * Half of what is reserved: a window of the same size would become the parent of the reservation, which would
 * then fill it.
 */
#define WINDOW_SIZE SZ_1M

struct sim_dev *sim_the;

/* ---- plugging -------------------------------------------------------------------------------- */

static void plug_work(struct work_struct *work)
{
	struct sim_dev *sd = container_of(work, struct sim_dev, plug_work);
	unsigned int wanted;
	int rc = 0;

	mutex_lock(&sd->plug_lock);
	wanted = READ_ONCE(sd->plug_wanted);
	if (wanted == SIM_PLUG && !sd->plugged)
		rc = sim_pci_plug(sd);
	else if (wanted != SIM_PLUG && sd->plugged)
		sim_pci_unplug(sd, wanted == SIM_SURPRISE);
	if (!rc)
		WRITE_ONCE(sd->plugged, wanted == SIM_PLUG);
	else
		pr_err("svio_simdev: cannot create the root bus: %d\n", rc);
	mutex_unlock(&sd->plug_lock);
}

/* Returns at once; unplugging takes until the driver lets go. */
void sim_plug_request(struct sim_dev *sd, unsigned int what)
{
	WRITE_ONCE(sd->plug_wanted, what);
	queue_work(system_unbound_wq, &sd->plug_work);
}

/* ---- loading --------------------------------------------------------------------------------- */

static int window_init(struct sim_dev *sd)
{
	int rc;

	if (!window || window % SZ_64K) {
		pr_err("svio_simdev: window=ADDRESS is needed, a multiple of 64 KiB: boot with memmap=2M$ADDRESS and name it here\n");
		return -EINVAL;
	}
	if (region_intersects(window, WINDOW_SIZE, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("svio_simdev: window=%#lx is memory that the kernel uses: boot with memmap=2M$%#lx\n", window, window);
		return -EBUSY;
	}
	sd->window = (struct resource){
		.name = "svio_simdev", .start = window, .end = window + WINDOW_SIZE - 1, .flags = IORESOURCE_MEM,
	};
	rc = insert_resource(&iomem_resource, &sd->window);
	if (rc) {
		pr_err("svio_simdev: window=%#lx is in use: %d\n", window, rc);
		return rc;
	}
	if (sd->window.child) {
		pr_err("svio_simdev: window=%#lx is too small a reservation: boot with memmap=2M$%#lx\n", window, window);
		remove_resource(&sd->window);
		return -EBUSY;
	}
	sd->mem = ioremap(window, WINDOW_SIZE);
	if (!sd->mem) {
		remove_resource(&sd->window);
		return -ENOMEM;
	}
	return 0;
}

static void threads_stop(struct sim_dev *sd)
{
	if (!IS_ERR_OR_NULL(sd->poller))
		kthread_stop(sd->poller);
	for (unsigned int i = 0; i < SIM_ENGINES; i++) {
		struct sim_engine *eng = &sd->engine[i];

		if (!IS_ERR_OR_NULL(eng->task))
			kthread_stop(eng->task);
		kfree(eng->buf[0]);
		kfree(eng->buf[1]);
	}
}

static int threads_start(struct sim_dev *sd)
{
	spin_lock_init(&sd->queue_lock);
	spin_lock_init(&sd->swerr_lock);
	init_waitqueue_head(&sd->work_wait);
	for (unsigned int i = 0; i < SIM_WQS; i++) {
		INIT_LIST_HEAD(&sd->wq[i].live);
		sd->wq[i].group = -1;
	}
	for (unsigned int i = 0; i < SIM_ENGINES; i++) {
		struct sim_engine *eng = &sd->engine[i];

		eng->sd = sd;
		eng->num = i;
		eng->group = -1;
		eng->busy_pasid = SIM_IDLE;
		eng->buf[0] = kmalloc(PAGE_SIZE, GFP_KERNEL);
		eng->buf[1] = kmalloc(PAGE_SIZE, GFP_KERNEL);
		if (!eng->buf[0] || !eng->buf[1])
			goto fail;
		eng->task = kthread_run(sim_engine, eng, "svio_sim_eng/%u", i);
		if (IS_ERR(eng->task))
			goto fail;
	}
	sd->poller = kthread_run(sim_poller, sd, "svio_sim_poll");
	if (IS_ERR(sd->poller))
		goto fail;
	return 0;
fail:
	threads_stop(sd);
	return -ENOMEM;
}

static int __init sim_init(void)
{
	struct sim_dev *sd;
	int rc;

	if (!i_know_this_is_a_test) {
		pr_err("svio_simdev: not loaded: it simulates hardware, for tests; to load it: i_know_this_is_a_test=1\n");
		return -EPERM;
	}
	if (pasid_bits > 20)
		return -EINVAL;
	sd = kvzalloc(sizeof(*sd), GFP_KERNEL);
	if (!sd)
		return -ENOMEM;
	sd->pasid_bits = pasid_bits;
	sd->has_ats = ats;
	sd->has_pri = ats && pri;
	sd->has_twin = twin;
	sd->denylisted = denylisted;
	sd->warn = true;
	mutex_init(&sd->plug_lock);
	INIT_WORK(&sd->plug_work, plug_work);
	sim_atc_init(sd);
	sim_pci_init(sd);
	sim_the = sd;
	rc = window_init(sd);
	if (rc)
		goto no_window;
	sd->parent = platform_device_register_simple("svio_simdev", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(sd->parent)) {
		rc = PTR_ERR(sd->parent);
		goto no_parent;
	}
	rc = threads_start(sd);
	if (rc)
		goto no_threads;
	rc = sim_iommu_init(sd);
	if (rc)
		goto no_iommu;
	mutex_lock(&sd->plug_lock);
	rc = sim_pci_plug(sd);
	sd->plugged = !rc;
	mutex_unlock(&sd->plug_lock);
	if (rc)
		goto no_bus;
	sim_debugfs_init(sd);
	pr_warn("svio_simdev: a SIMULATED function%s is at %04x:00:00.0, behind a simulated IOMMU%s; for tests only\n",
		denylisted ? " with the IDs of Intel DSA" : "", sd->sysdata.domain, twin ? ", with a twin in its group" : "");
	return 0;

no_bus:
	sim_iommu_exit(sd);
no_iommu:
	threads_stop(sd);
no_threads:
	platform_device_unregister(sd->parent);
no_parent:
	iounmap(sd->mem);
	remove_resource(&sd->window);
no_window:
	kvfree(sd);
	return rc;
}

/* The IOMMU core holds the module while the function is plugged: unplug it first. */
static void __exit sim_exit(void)
{
	struct sim_dev *sd = sim_the;

	debugfs_remove(sd->debugfs);
	flush_work(&sd->plug_work);
	if (sd->plugged)
		sim_pci_unplug(sd, false);
	sim_pasid_swap(sd, 0); /* -ENOENT: nobody has left one */
	sim_iommu_exit(sd);
	threads_stop(sd);
	irq_work_sync(&sd->flr_work);
	sim_atc_flush_all(sd);
	xa_destroy(&sd->pasids);
	platform_device_unregister(sd->parent);
	iounmap(sd->mem);
	remove_resource(&sd->window);
	kvfree(sd);
}

module_init(sim_init);
module_exit(sim_exit);
MODULE_DESCRIPTION("SIMULATED DSA function with PASID, PRI and ATS behind a simulated IOMMU, for svio's tests");
MODULE_LICENSE("GPL");
