/* SPDX-License-Identifier: BSD-3-Clause */
/* Bind and unbind against a model of the kernel's driver core, with every write failing once. */
#include "fakesys.h"

#define ADDR "0000:01:00.0"
#define RECORD "/run/svio/prev-driver/" ADDR

static pid_t group_user;

int __wrap_svio__write_text(const char *path, const char *text);
int __wrap_svio__write_text(const char *path, const char *text)
{
	return fake_kernel_write(path, text);
}

pid_t __wrap_svio__vfio_group_user(int group);
pid_t __wrap_svio__vfio_group_user(int group)
{
	CU_ASSERT_EQUAL(group, 7);
	return group_user;
}

static struct fake_device nvme = { ADDR, NULL, 0x1b36, 0x0010, 0x010802, 7, "nvme" };

static struct svio_pci_addr begin(const struct fake_device *d)
{
	fake_begin();
	fake_add(d);
	fake_driver("vfio-pci");
	snprintf(fake_kernel.native, sizeof(fake_kernel.native), "nvme");
	group_user = 0;
	return fake_addr(d->addr);
}

/* A disk of the function with a filesystem mounted. */
static void mount_disk(void)
{
	fake_file("259:0\n", "/sys/devices/pci0000:00/" ADDR "/nvme/nvme0/nvme0n1/dev");
	fake_link("/sys/devices/pci0000:00/" ADDR "/nvme/nvme0/nvme0n1", "/sys/class/block/nvme0n1");
	fake_file("30 1 259:0 / /mnt rw - ext4 /dev/nvme0n1 rw\n", "/proc/self/mountinfo");
}

static void test_there_and_back(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "vfio-pci");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "vfio-pci");
	CU_ASSERT_TRUE(fake_exists(RECORD));
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "");
	CU_ASSERT_FALSE(fake_exists(RECORD));
	fake_end();
}

static void test_unbound_before(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr;

	d.driver = NULL;
	addr = begin(&d);
	fake_driver("nvme");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "vfio-pci");
	/* It had none, so it gets none, although a driver would match. */
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "");
	fake_end();
}

static void test_override_before(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr;

	d.driver = "pci-stub";
	addr = begin(&d);
	fake_driver("nvme");
	fake_file("pci-stub\n", "/sys/bus/pci/devices/" ADDR "/driver_override");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "pci-stub");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "pci-stub");
	fake_end();
}

static void test_nothing_to_do(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "nvme", 0), 0);
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	CU_ASSERT_FALSE(fake_exists("/run/svio"));
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	fake_end();
}

static void test_first_record_stays(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	fake_driver("uio_pci_generic");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "uio_pci_generic", 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "uio_pci_generic");
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	fake_end();
}

static void test_bad_records(void)
{
	static const char *const records[] = {
		"ffff 0010 e1000e -\n", /* of another device that sat there */
		"1b36 0010 ../../../evil -\n",
		"1b36 0010 e1000e ../x\n",
		"1b36 0010\n",
		"",
	};
	struct svio_pci_addr addr;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(records); i++) {
		addr = begin(&nvme);
		fake_driver("e1000e");
		CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
		fake_file(records[i], RECORD);
		/* Without a record of it, the kernel finds the driver. */
		CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
		CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
		CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "");
		fake_end();
	}
}

static void test_foreign_vfio(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr;

	/* Bound by somebody else, as driverctl does. */
	d.driver = "vfio-pci";
	addr = begin(&d);
	fake_driver("nvme");
	fake_file("vfio-pci\n", "/sys/bus/pci/devices/" ADDR "/driver_override");
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	fake_end();
}

static void test_refused(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	snprintf(fake_kernel.refuses, sizeof(fake_kernel.refuses), "vfio-pci");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "vfio-pci does not accept it"));
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "");
	CU_ASSERT_FALSE(fake_exists(RECORD));
	/* And on the way back: it stays with vfio-pci, and the way back stays known. */
	fake_kernel.refuses[0] = '\0';
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	snprintf(fake_kernel.refuses, sizeof(fake_kernel.refuses), "nvme");
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "nvme does not take it back"));
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "vfio-pci");
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "vfio-pci");
	CU_ASSERT_TRUE(fake_exists(RECORD));
	fake_kernel.refuses[0] = '\0';
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	fake_end();
}

/* When neither the new driver nor the old one takes it, both facts are said. */
static void test_refused_twice(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	snprintf(fake_kernel.refuses, sizeof(fake_kernel.refuses), "vfio-pci");
	fake_kernel.native[0] = '\0';
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "left without its driver nvme"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "vfio-pci does not accept it"));
	CU_ASSERT_STRING_EQUAL(fake_override(ADDR), "");
	fake_end();
}

static void test_modprobe(void)
{
	struct svio_pci_addr addr = begin(&nvme);
	char script[256];

	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "svio_vfio_pci", 0), -ENOENT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "modprobe svio_vfio_pci"));
	snprintf(script, sizeof(script), "#!/bin/sh\necho talk; echo talk >&2\n"
		 "[ \"$2\" = svio_vfio_pci ] && mkdir -p %s/sys/bus/pci/drivers/$2\n", fake_root);
	fake_file(script, "/sbin/modprobe");
	FAKE_PATH(path, "/sbin/modprobe");
	CU_ASSERT_EQUAL(chmod(path, 0755), 0);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "other_vfio_pci", 0), -ENOENT);
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "svio_vfio_pci", 0), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "svio_vfio_pci");
	fake_end();
}

static void test_busy(void)
{
	struct svio_pci_addr addr = begin(&nvme);

	mount_disk();
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "mounted on /mnt"));
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	CU_ASSERT_FALSE(fake_exists(RECORD));
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", SVIO_PCI_BIND_FORCE), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "vfio-pci");
	fake_end();
}

static void test_vfio_busy(void)
{
	struct svio_pci_addr addr = begin(&nvme);
	int writes;

	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	writes = fake_kernel.writes;
	group_user = 4711;
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "process 4711"));
	group_user = -1;
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "/dev/vfio/7"));
	CU_ASSERT_EQUAL(fake_kernel.writes, writes);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "vfio-pci");
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, SVIO_PCI_BIND_FORCE), 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
	fake_end();
}

static void test_never(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr = begin(&nvme);

	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "../vfio-pci", 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "", 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, NULL, 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "a-name-that-no-driver-in-the-kernel-has", 0), -EINVAL);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0x80), -EINVAL);
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0x80), -EINVAL);
	addr.bus = 9;
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -ENODEV);
	CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), -ENODEV);
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	fake_end();

	d.class_code = 0x060400;
	addr = begin(&d);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "bridge"));
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	fake_end();
}

static void test_no_iommu(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr;

	d.group = -1;
	addr = begin(&d);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EOPNOTSUPP);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "intel_iommu=on"));
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	fake_file("N\n", "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EOPNOTSUPP);
	fake_file("Y\n", "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	fake_end();
}

static void test_denylist(void)
{
	struct fake_device d = nvme;
	struct svio_pci_addr addr;

	d.vendor = 0x8086;
	d.device = 0x0b25;
	d.driver = "idxd";
	addr = begin(&d);
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "disable_denylist=1"));
	CU_ASSERT_EQUAL(fake_kernel.writes, 0);
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "idxd");
	/* Ours respects the list, with a parameter of its own; another variant driver may know better. */
	fake_driver("svio-vfio-pci");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "svio-vfio-pci", 0), -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "modprobe svio-vfio-pci disable_denylist=1"));
	CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "idxd");
	fake_driver("idxd_vfio_pci");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "idxd_vfio_pci", 0), 0);
	fake_file("Y\n", "/sys/module/svio_vfio_pci/parameters/disable_denylist");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "svio-vfio-pci", 0), 0);
	fake_file("Y\n", "/sys/module/vfio_pci/parameters/disable_denylist");
	CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
	fake_end();
}

/* Each write of a call fails once: the call fails and all is as before, or it succeeded all the same. */
static void sweep(bool unbind)
{
	int fds = unit_count_fds(), n = 0;
	bool failed_once = false, injected;

	do {
		struct svio_pci_addr addr = begin(&nvme);
		int rc;

		n++;
		if (unbind)
			CU_ASSERT_EQUAL_FATAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
		fake_kernel.writes = 0;
		fake_kernel.fail_nth = n;
		rc = unbind ? svio_pci_unbind(&addr, 0) : svio_pci_bind(&addr, "vfio-pci", 0);
		injected = fake_kernel.writes >= n;
		if (rc) {
			failed_once = true;
			CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), unbind ? "vfio-pci" : "nvme");
			CU_ASSERT_STRING_EQUAL(fake_override(ADDR), unbind ? "vfio-pci" : "");
			CU_ASSERT_EQUAL(fake_exists(RECORD), unbind);
			CU_ASSERT_TRUE(svio_last_error()[0] != '\0');
		} else {
			CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), unbind ? "nvme" : "vfio-pci");
			CU_ASSERT_EQUAL(fake_exists(RECORD), !unbind);
		}
		/* Whatever happened, the next call works. */
		fake_kernel.fail_nth = 0;
		CU_ASSERT_EQUAL(svio_pci_bind(&addr, "vfio-pci", 0), 0);
		CU_ASSERT_EQUAL(svio_pci_unbind(&addr, 0), 0);
		CU_ASSERT_STRING_EQUAL(fake_bound(ADDR), "nvme");
		fake_end();
	} while (injected && n < 20);
	CU_ASSERT_TRUE(n >= 3 && n < 20);
	CU_ASSERT_TRUE(failed_once);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static void test_sweep_bind(void)
{
	sweep(false);
}

static void test_sweep_unbind(void)
{
	sweep(true);
}

static const struct unit_test tests[] = {
	{ "bind, and unbind to the previous driver", test_there_and_back },
	{ "a function without a driver gets none back", test_unbound_before },
	{ "a driver_override of before comes back", test_override_before },
	{ "what is as wanted is left alone", test_nothing_to_do },
	{ "a second bind keeps the first record", test_first_record_stays },
	{ "records of other devices and odd names do not count", test_bad_records },
	{ "VFIO's function without a record goes to the kernel's choice", test_foreign_vfio },
	{ "a driver that refuses: back to the old one", test_refused },
	{ "both refuse: both are named", test_refused_twice },
	{ "a missing driver is loaded, or explained", test_modprobe },
	{ "a mounted filesystem forbids it, force does not ask", test_busy },
	{ "a process that has it open forbids unbinding", test_vfio_busy },
	{ "bad arguments, absent functions, bridges", test_never },
	{ "without an IOMMU there is no VFIO", test_no_iommu },
	{ "vfio-pci's denylist", test_denylist },
	{ "bind with each write failing leaves nothing behind", test_sweep_bind },
	{ "unbind with each write failing leaves nothing behind", test_sweep_unbind },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("pci/bind", tests);
}
