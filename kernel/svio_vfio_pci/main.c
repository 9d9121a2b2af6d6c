// SPDX-License-Identifier: GPL-2.0-only
/*
 * svio-vfio-pci: vfio-pci, and beside it shared virtual addressing. Everything that VFIO does for a
 * PCI function is done by vfio_pci_core; this file adds the three features of uapi/svio_vfio.h and
 * sees to it that no bond is left where the function is reset, put to sleep or given back.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include "svio_vfio.h"
#include "bar.h"
#include "sva.h"

static bool disable_denylist;
module_param(disable_denylist, bool, 0444);
MODULE_PARM_DESC(disable_denylist,
		 "Take devices on vfio-pci's denylist too: their users can exploit errata of theirs (default: no)");

static bool enable_sriov;
#ifdef CONFIG_PCI_IOV
module_param(enable_sriov, bool, 0644);
MODULE_PARM_DESC(enable_sriov, "Let sriov_numvfs of a function owned by user space be written (default: no)");
#endif

#ifdef SVIO_HAVE_DEVICE_SWITCHES
/*
 * Before these were a device's own they were set for all VFIO PCI drivers, by vfio-pci's
 * parameters.
 */
static bool nointxmask;
module_param(nointxmask, bool, 0644);
MODULE_PARM_DESC(nointxmask, "Mask INTx at the interrupt controller, not at the device (default: no)");

static bool disable_idle_d3;
module_param(disable_idle_d3, bool, 0644);
MODULE_PARM_DESC(disable_idle_d3, "Leave unused devices in D0 (default: no)");
#endif

struct svio_vfio_device {
	struct vfio_pci_core_device core;
	struct svio_sva *sva;
	u8 af_cap; /* Advanced Features; looked up while the function is awake */
};

static struct svio_vfio_device *to_svio(struct vfio_device *vdev)
{
	return container_of(vdev, struct svio_vfio_device, core.vdev);
}

static struct svio_vfio_device *svio_of(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	return container_of(core, struct svio_vfio_device, core);
}

/* ---- the device ---- */

static int svio_init(struct vfio_device *vdev)
{
	struct svio_vfio_device *svio = to_svio(vdev);
	int ret;

	svio->sva = svio_sva_create(to_pci_dev(vdev->dev));
	if (!svio->sva)
		return -ENOMEM;

#ifdef SVIO_HAVE_DEVICE_SWITCHES
	svio->core.nointxmask = nointxmask;
	svio->core.disable_idle_d3 = disable_idle_d3;
#endif
	ret = vfio_pci_core_init_dev(vdev);
	if (ret) {
		svio_sva_destroy(svio->sva);
		return ret;
	}
	svio_bar_init(&svio->core);
	return 0;
}

static void svio_release(struct vfio_device *vdev)
{
	struct svio_vfio_device *svio = to_svio(vdev);

	vfio_pci_core_release_dev(vdev);
	svio_sva_destroy(svio->sva);
}

static int svio_open_device(struct vfio_device *vdev)
{
	struct svio_vfio_device *svio = to_svio(vdev);
	int ret;

	ret = vfio_pci_core_enable(&svio->core);
	if (ret)
		return ret;

	svio->af_cap = pci_find_capability(svio->core.pdev, PCI_CAP_ID_AF);
	vfio_pci_core_finish_enable(&svio->core);
	svio_sva_open(svio->sva);
	return 0;
}

static void svio_close_device(struct vfio_device *vdev)
{
	/*
	 * The group gives its DMA ownership back when this returns, and the IOMMU core does not
	 * take it while a PASID is attached. The function is reset in vfio_pci_core_close_device().
	 */
	svio_sva_close(to_svio(vdev)->sva);
	vfio_pci_core_close_device(vdev);
}

static int svio_device_feature(struct vfio_device *vdev, u32 flags, void __user *arg, size_t argsz)
{
	struct svio_vfio_device *svio = to_svio(vdev);

	switch (flags & VFIO_DEVICE_FEATURE_MASK) {
	case SVIO_VFIO_FEATURE_SVA_INFO:
		return svio_sva_feature_info(svio->sva, flags, arg, argsz);
	case SVIO_VFIO_FEATURE_SVA_BIND:
		/* A sleeping function does not answer the IOMMU's invalidations. */
		if (!(flags & VFIO_DEVICE_FEATURE_PROBE) &&
		    (svio->core.pm_runtime_engaged ||
		     READ_ONCE(svio->core.pdev->current_state) != PCI_D0))
			return -EBUSY;
		return svio_sva_feature_bind(svio->sva, flags, arg, argsz);
	case SVIO_VFIO_FEATURE_SVA_UNBIND:
		return svio_sva_feature_unbind(svio->sva, flags, arg, argsz);
	case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
	case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
		if (!(flags & VFIO_DEVICE_FEATURE_PROBE) && svio_sva_in_use(svio->sva))
			return -EBUSY;
		break;
	}
	return vfio_pci_core_ioctl_feature(vdev, flags, arg, argsz);
}

static long svio_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct svio_vfio_device *svio = to_svio(vdev);
	bool master;
	long ret;

	if (cmd != VFIO_DEVICE_RESET || !svio->core.reset_works)
		return vfio_pci_core_ioctl(vdev, cmd, arg);

	ret = svio_sva_block(svio->sva, &master);
	if (ret)
		return ret;
	ret = vfio_pci_core_ioctl(vdev, cmd, arg);
	svio_sva_unblock(svio->sva, master);
	return ret;
}

/*
 * What a write of config space does that concerns bonds. The user may change the buffer before VFIO
 * reads it once more. Then a reset is met by svio_reset_prepare() alone, and a function that falls
 * asleep lets invalidations time out, as one does that hangs.
 */
enum svio_write { SVIO_WRITE_PLAIN, SVIO_WRITE_SLEEP, SVIO_WRITE_RESET };

/* Does the write set any of `bits` in the byte at `reg` of config space? */
static int svio_sets(const char __user *buf, size_t count, u64 offset, unsigned int reg, u8 bits)
{
	u8 value;

	if (reg < offset || reg - offset >= count)
		return 0;
	if (get_user(value, (const u8 __user *)buf + (reg - offset)))
		return -EFAULT;
	return (value & bits) != 0;
}

static int svio_write_kind(struct svio_vfio_device *svio, const char __user *buf, size_t count,
			   u64 offset)
{
	struct pci_dev *pdev = svio->core.pdev;
	int ret = 0;

	if (pdev->pm_cap)
		ret = svio_sets(buf, count, offset, pdev->pm_cap + PCI_PM_CTRL,
				PCI_PM_CTRL_STATE_MASK);
	if (ret)
		return ret < 0 ? ret : SVIO_WRITE_SLEEP;
	if (pci_is_pcie(pdev))
		ret = svio_sets(buf, count, offset, pci_pcie_cap(pdev) + PCI_EXP_DEVCTL + 1,
				PCI_EXP_DEVCTL_BCR_FLR >> 8);
	if (!ret && svio->af_cap)
		ret = svio_sets(buf, count, offset, svio->af_cap + PCI_AF_CTRL, PCI_AF_CTRL_FLR);
	if (ret)
		return ret < 0 ? ret : SVIO_WRITE_RESET;
	return SVIO_WRITE_PLAIN;
}

static ssize_t svio_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			  loff_t *ppos)
{
	struct svio_vfio_device *svio = to_svio(vdev);
	bool master;
	ssize_t ret;
	int kind;

	if (VFIO_PCI_OFFSET_TO_INDEX(*ppos) != VFIO_PCI_CONFIG_REGION_INDEX)
		return vfio_pci_core_write(vdev, buf, count, ppos);

	kind = svio_write_kind(svio, buf, count, *ppos & VFIO_PCI_OFFSET_MASK);
	if (kind < 0)
		return kind;
	if (kind == SVIO_WRITE_SLEEP && svio_sva_in_use(svio->sva))
		return -EBUSY;
	/* A reset also where nothing is bound: another thread may be about to. */
	if (kind != SVIO_WRITE_RESET)
		return vfio_pci_core_write(vdev, buf, count, ppos);

	ret = svio_sva_block(svio->sva, &master);
	if (ret)
		return ret;
	ret = vfio_pci_core_write(vdev, buf, count, ppos);
	svio_sva_unblock(svio->sva, master);
	return ret;
}

static const struct vfio_device_ops svio_ops = {
	.name = "svio-vfio-pci",
	.init = svio_init,
	.release = svio_release,
	.open_device = svio_open_device,
	.close_device = svio_close_device,
	.ioctl = svio_ioctl,
#ifdef SVIO_HAVE_GET_REGION_INFO_CAPS
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
#endif
	.device_feature = svio_device_feature,
	.read = vfio_pci_core_read,
	.write = svio_write,
	.mmap = svio_bar_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
#ifdef SVIO_HAVE_MATCH_TOKEN_UUID
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#endif
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
#ifdef SVIO_HAVE_PASID_ATTACH_IOAS
	.pasid_attach_ioas = vfio_iommufd_physical_pasid_attach_ioas,
	.pasid_detach_ioas = vfio_iommufd_physical_pasid_detach_ioas,
#endif
};

/* ---- the driver ---- */

#ifdef SVIO_HAVE_DMABUF
static const struct vfio_pci_device_ops svio_pci_ops = {
	.get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys,
};
#endif

/* The devices that vfio-pci's denylist names (drivers/vfio/pci/vfio_pci.c): it is not exported. */
static const struct pci_device_id svio_denylist[] = {
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_C3XXX) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_C3XXX_VF) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_C62X) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_C62X_VF) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_DH895XCC) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_QAT_DH895XCC_VF) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_DSA_SPR0) },
	{ PCI_VDEVICE(INTEL, PCI_DEVICE_ID_INTEL_IAX_SPR0) },
	{}
};

static int svio_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct svio_vfio_device *svio;
	int ret;

	if (pci_match_id(svio_denylist, pdev)) {
		if (!disable_denylist) {
			pci_warn(pdev, "%04x:%04x is on vfio-pci's denylist; parameter disable_denylist=1 lets it in\n",
				 pdev->vendor, pdev->device);
			return -EINVAL;
		}
		pci_warn(pdev, "%04x:%04x is on vfio-pci's denylist, and let in\n", pdev->vendor,
			 pdev->device);
	}

	svio = vfio_alloc_device(svio_vfio_device, core.vdev, &pdev->dev, &svio_ops);
	if (IS_ERR(svio))
		return PTR_ERR(svio);

	dev_set_drvdata(&pdev->dev, &svio->core);
#ifdef SVIO_HAVE_DMABUF
	svio->core.pci_ops = &svio_pci_ops;
#endif
	ret = vfio_pci_core_register_device(&svio->core);
	if (ret)
		vfio_put_device(&svio->core.vdev);
	return ret;
}

static void svio_remove(struct pci_dev *pdev)
{
	struct svio_vfio_device *svio = svio_of(pdev);

	/*
	 * Whoever has the function open is asked to let go, and waited for; until then it is all
	 * his, if it is there at all.
	 */
	if (!pci_device_is_present(pdev))
		svio_sva_gone(svio->sva);
	vfio_pci_core_unregister_device(&svio->core);
	vfio_put_device(&svio->core.vdev);
}

static int svio_sriov_configure(struct pci_dev *pdev, int nr_virtfn)
{
	if (!enable_sriov)
		return -ENOENT;
	return vfio_pci_core_sriov_configure(&svio_of(pdev)->core, nr_virtfn);
}

static pci_ers_result_t svio_error_detected(struct pci_dev *pdev, pci_channel_state_t state)
{
	struct svio_vfio_device *svio = svio_of(pdev);

	/* What the PCI core does about a frozen link is a reset that does not announce itself. */
	if (state != pci_channel_io_normal) {
		svio_sva_reset_prepare(svio->sva);
		svio_sva_reset_done(svio->sva);
	}
	return vfio_pci_core_aer_err_detected(pdev, state);
}

/*
 * Every reset comes by here: VFIO's own, one through config space, a neighbour's hot reset, sysfs.
 */
static void svio_reset_prepare(struct pci_dev *pdev)
{
	svio_sva_reset_prepare(svio_of(pdev)->sva);
}

static void svio_reset_done(struct pci_dev *pdev)
{
	svio_sva_reset_done(svio_of(pdev)->sva);
}

static const struct pci_error_handlers svio_err_handlers = {
	.error_detected = svio_error_detected,
	.reset_prepare = svio_reset_prepare,
	.reset_done = svio_reset_done,
};

/*
 * Only what driver_override names. Not exported as aliases: among the drivers that take every
 * device, tools that choose by them should go on choosing vfio-pci.
 */
static const struct pci_device_id svio_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{}
};

static struct pci_driver svio_driver = {
	.name = "svio-vfio-pci",
	.id_table = svio_ids,
	.probe = svio_probe,
	.remove = svio_remove,
	.sriov_configure = svio_sriov_configure,
	.err_handler = &svio_err_handlers,
	.driver_managed_dma = true,
};

static int __init svio_module_init(void)
{
	int ret;

	ret = svio_sva_init();
	if (ret)
		return ret;

	ret = pci_register_driver(&svio_driver);
	if (ret)
		svio_sva_exit();
	return ret;
}
module_init(svio_module_init);

static void __exit svio_module_exit(void)
{
	pci_unregister_driver(&svio_driver);
	svio_sva_exit();
}
module_exit(svio_module_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("the svio authors");
MODULE_DESCRIPTION("VFIO PCI driver with shared virtual addressing");
