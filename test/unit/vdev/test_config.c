/* SPDX-License-Identifier: BSD-3-Clause */
/* Configuration space and capabilities as a client sees them. */
#include <string.h>
#include <linux/pci_regs.h>
#include "client.h"
#include "probe.h"

static unsigned int find_cap(struct tc *tc, uint8_t id)
{
	unsigned int off = tc_cfg(tc, PCI_CAPABILITY_LIST, 1), n = 0;

	while (off && n++ < 48) {
		if (tc_cfg(tc, off, 1) == id)
			return off;
		off = tc_cfg(tc, off + 1, 1);
	}
	return 0;
}

static unsigned int find_ecap(struct tc *tc, uint16_t id)
{
	unsigned int off = 0x100, n = 0;

	while (off && n++ < 100) {
		uint32_t h = tc_cfg(tc, off, 4);

		if ((h & 0xffff) == id)
			return off;
		off = h >> 20;
	}
	return 0;
}

static void test_header(void)
{
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0, 4), 0x00101b36);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 8, 4), 0x01080202);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x3d, 1), 1);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2), PCI_COMMAND_MEMORY); /* as vfio-pci leaves it at open */
	CU_ASSERT_EQUAL(tc_cfg(&tc, 6, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	/* read-only stays, reserved bits of the command register stay 0 */
	tc_cfg_set(&tc, 0, 4, 0xdeadbeef);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0, 4), 0x00101b36);
	tc_cfg_set(&tc, 4, 2, 0xffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2), 0x0546);
	/* BAR sizing; type bits survive (QEMU reads them here) */
	tc_cfg_set(&tc, 0x10, 4, 0xffffffff);
	tc_cfg_set(&tc, 0x14, 4, 0xffffffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x10, 4), 0xffffc004);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x14, 4), 0xffffffff);
	tc_cfg_set(&tc, 0x10, 4, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x10, 4), 4);
	tc_cfg_set(&tc, 0x18, 4, 0xffffffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x18, 4), 0);
	CU_ASSERT(((struct probe *)svio_vdev_priv(tc.dev))->cfg_writes > 0);
	tc_stop(&tc);
}

static void test_caps(void)
{
	unsigned int off;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	off = find_cap(&tc, PCI_CAP_ID_PM);
	CU_ASSERT_EQUAL(off, 0x40);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), 3);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 4, 2), PCI_PM_CTRL_NO_SOFT_RESET);

	off = find_cap(&tc, PCI_CAP_ID_MSI);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), 0x0186); /* 64-bit, maskable, 8 vectors */
	tc_cfg_set(&tc, off + 2, 2, 0xffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), 0x01f7);
	tc_cfg_set(&tc, off + 0x10, 4, 0xffffffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 0x10, 4), 0xff);

	off = find_cap(&tc, PCI_CAP_ID_MSIX);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), PROBE_VECTORS - 1);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 4, 4), 0x2000);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 8, 4), 0x3000);
	tc_cfg_set(&tc, off + 2, 2, 0xffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), 0xc000 | (PROBE_VECTORS - 1));

	off = find_cap(&tc, PCI_CAP_ID_VNDR);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 1), 8);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 3, 1), 's');
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 7, 1), '!');

	off = find_cap(&tc, PCI_CAP_ID_EXP);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 2, 2), 2);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 4, 4) & PCI_EXP_DEVCAP_FLR, PCI_EXP_DEVCAP_FLR);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 0x24, 4) & (1u << 21), 1u << 21);
	tc_stop(&tc);
}

static void test_ecaps(void)
{
	unsigned int off;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	off = find_ecap(&tc, PCI_EXT_CAP_ID_PASID);
	CU_ASSERT_EQUAL(off, 0x100);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off, 4) & 0xfffff, 0x1001b);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 4, 2), 20u << 8 | PCI_PASID_CAP_PRIV);
	tc_cfg_set(&tc, off + 6, 2, 0xffff); /* execute is not supported: its enable stays 0 */
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 6, 2), PCI_PASID_CTRL_ENABLE | PCI_PASID_CTRL_PRIV);
	off = find_ecap(&tc, PCI_EXT_CAP_ID_PRI);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 6, 2), PCI_PRI_STATUS_STOPPED);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 8, 4), 512);
	off = find_ecap(&tc, PCI_EXT_CAP_ID_ATS);
	CU_ASSERT_NOT_EQUAL_FATAL(off, 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 4, 2), 0x20); /* depth 32 is written as 0; page aligned */
	tc_cfg_set(&tc, off + 6, 2, 0xffff);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + 6, 2), 0x801f);
	tc_stop(&tc);
}

static void test_flr(void)
{
	unsigned int off;
	struct probe *p;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	off = find_cap(&tc, PCI_CAP_ID_EXP);
	tc_master(&tc);
	tc_cfg_set(&tc, 0x14, 4, 0x12);
	tc_w32(&tc, 0, 5);
	tc_w32(&tc, 0x1000, 6);
	p->hold = 3; /* its DMA takes a while to end */
	tc_cfg_set(&tc, off + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR | 0x2810);
	CU_ASSERT_EQUAL(p->resets, 1);
	CU_ASSERT_EQUAL(p->last_reset, SVIO_VDEV_RESET_FLR);
	CU_ASSERT_EQUAL(p->why, SVIO_VDEV_Q_RESET);
	CU_ASSERT_EQUAL(p->asked, 4);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x1000), 0);
	/* reads back 0; what software configured is kept */
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + PCI_EXP_DEVCTL, 2), 0x2810);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2), 6);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x14, 4), 0x12);
	off = find_cap(&tc, PCI_CAP_ID_AF);
	tc_cfg_set(&tc, off + PCI_AF_CTRL, 1, 1);
	CU_ASSERT_EQUAL(p->resets, 2);
	CU_ASSERT_EQUAL(tc_cfg(&tc, off + PCI_AF_CTRL, 1), 0);
	/* and the message */
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(p->resets, 3);
	CU_ASSERT_EQUAL(p->last_reset, SVIO_VDEV_RESET_MESSAGE);
	tc_stop(&tc);
}

static int bad_init(struct svio_vdev *dev, struct svio_vdev_args *args)
{
	static const struct svio_vdev_area area = { 0x1000, 0x1000 }, off_page = { 0x800, 0x1000 }, beyond = { 0x4000, 0x1000 };
	bool msix;

	svio_vdev_arg_bool(args, "msix", &msix);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 0x3000, 0, NULL, 0), -EINVAL); /* no power of two */
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 8, 0, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 6, 0x1000, 0, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 5, 0x1000, SVIO_VDEV_BAR_64, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 0x4000, 0, &off_page, 1), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 0x4000, 0, &beyond, 1), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 0x4000, SVIO_VDEV_BAR_64, &area, 1), 0);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 0, 0x4000, 0, NULL, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 1, 0x4000, 0, NULL, 0), -EEXIST);
	CU_ASSERT_EQUAL(svio_vdev_add_bar(dev, 2, UINT64_C(1) << 32, 0, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_cap_msi(dev, 3, false), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_cap_msix(dev, 0, 0, 0, 0, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_cap_msix(dev, 2049, 0, 0, 0, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_ecap_ats(dev, 1), -EINVAL); /* before PCI Express */
	CU_ASSERT(svio_vdev_cap_pm(dev) > 0);
	CU_ASSERT_EQUAL(svio_vdev_cap_pm(dev), -EEXIST);
	CU_ASSERT_EQUAL(svio_vdev_cap_raw(dev, 0x15, 0xff), -ENOSPC);
	CU_ASSERT(svio_vdev_cap_pcie(dev, 0) > 0);
	CU_ASSERT_EQUAL(svio_vdev_ecap_pasid(dev, 21, true, true), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_ecap_ats(dev, 33), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_ecap_raw(dev, 1, 1, 0xf01), -ENOSPC);
	/* a table in the shared page: found out after init() */
	CU_ASSERT(svio_vdev_cap_msix(dev, 4, 0, msix ? 0x1000 : 0x2000, 0, msix ? 0x2000 : 0x2020) > 0);
	return 0;
}

static const struct svio_vdev_model bad_model = { .name = "bad", .init = bad_init };

static void test_bad_models(void)
{
	int fds = unit_count_fds();
	struct svio_vdev *dev;
	struct tc tc;

	CU_ASSERT_EQUAL(svio_vdev_model_register(&bad_model), 0);
	CU_ASSERT_EQUAL(svio_vdev_create("bad,msix", 0, &dev), -EINVAL); /* in the shared page */
	CU_ASSERT_EQUAL(svio_vdev_create("bad", 0, &dev), -EINVAL);	  /* overlapping the PBA */
	CU_ASSERT_EQUAL(svio_vdev_create("nosuch", 0, &dev), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "bad"));
	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(svio_vdev_create("probe,fail", 0, &dev), -EIO);
	CU_ASSERT_EQUAL(svio_vdev_create("probe,what=3", 0, &dev), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "what"));
	CU_ASSERT_EQUAL(svio_vdev_create("probe,fail=maybe", 0, &dev), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_create("probe,fail=no,fail=no", 0, &dev), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_create("probe,,", 0, &dev), -EINVAL);
	CU_ASSERT_EQUAL(svio_vdev_create("edu,dma_mask=x", 0, &dev), -EINVAL);
	tc_stop(&tc);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static const struct unit_test tests[] = {
	{ "header: identity, command register, BAR sizing", test_header },
	{ "capabilities: PM, MSI, MSI-X, vendor, PCI Express", test_caps },
	{ "extended capabilities: PASID, PRI, ATS", test_ecaps },
	{ "FLR by PCI Express and AF, and RESET: parked until DMA ends, configuration kept", test_flr },
	{ "descriptions that cannot be are refused and leave nothing behind", test_bad_models },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/config", tests);
}
