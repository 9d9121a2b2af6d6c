/* SPDX-License-Identifier: BSD-3-Clause */
/* Functions and groups as sysfs shows them, on a machine in a temporary directory. */
#include <sys/inotify.h>
#include "fakesys.h"

static const struct fake_device nvme = { "0000:01:00.0", "pci0000:00/0000:00:01.0", 0x1b36, 0x0010, 0x010802, 7,
					 "nvme" };
static const struct fake_device port = { "0000:00:01.0", NULL, 0x1b36, 0x000c, 0x060400, 7, "pcieport" };

static void test_get(void)
{
	struct svio_pci_addr addr = fake_addr("0000:01:00.0");
	struct svio_pci_info info;

	fake_begin();
	fake_add(&port);
	fake_add(&nvme);
	fake_file("1\n", "/sys/bus/pci/devices/0000:01:00.0/numa_node");
	fake_file("0x02\n", "/sys/bus/pci/devices/0000:01:00.0/revision");
	fake_file("0x1af4\n", "/sys/bus/pci/devices/0000:01:00.0/subsystem_vendor");
	fake_file("0x1100\n", "/sys/bus/pci/devices/0000:01:00.0/subsystem_device");
	fake_file("vfio-pci\n", "/sys/bus/pci/devices/0000:01:00.0/driver_override");
	fake_file("16\n", "/sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs");
	fake_link("/sys/devices/pci0000:00/0000:01:10.0", "/sys/bus/pci/devices/0000:01:00.0/virtfn0");
	fake_link("/sys/devices/pci0000:00/0000:01:10.1", "/sys/bus/pci/devices/0000:01:00.0/virtfn1");
	fake_file("0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n"
		  "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		  "0x0000000000000000 0xffffffffffffffff 0x0000000000140204\n"
		  "0x0000000000002000 0x0000000000000fff 0x0000000000000101\n"
		  "garbage\n"
		  "0x00000000aa000000 0x00000000aa003fff 0x0000000000140204\n",
		  "/sys/bus/pci/devices/0000:01:00.0/resource");
	CU_ASSERT_EQUAL_FATAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_STRING_EQUAL(info.name, "0000:01:00.0");
	CU_ASSERT_EQUAL(info.vendor, 0x1b36);
	CU_ASSERT_EQUAL(info.device, 0x0010);
	CU_ASSERT_EQUAL(info.subvendor, 0x1af4);
	CU_ASSERT_EQUAL(info.subdevice, 0x1100);
	CU_ASSERT_EQUAL(info.class_code, 0x010802);
	CU_ASSERT_EQUAL(info.revision, 2);
	CU_ASSERT_EQUAL(info.numa_node, 1);
	CU_ASSERT_EQUAL(info.iommu_group, 7);
	CU_ASSERT_TRUE(info.has_driver);
	CU_ASSERT_STRING_EQUAL(info.driver, "nvme");
	CU_ASSERT_STRING_EQUAL(info.driver_override, "");
	CU_ASSERT_EQUAL(svio_pci_get_override(&info), 0);
	CU_ASSERT_STRING_EQUAL(info.driver_override, "vfio-pci");
	CU_ASSERT_EQUAL(info.sriov_totalvfs, 16);
	CU_ASSERT_EQUAL(info.sriov_numvfs, 2);
	CU_ASSERT_FALSE(info.is_vf);
	CU_ASSERT_FALSE(info.is_bridge);
	CU_ASSERT_EQUAL(info.bar[0].start, 0xfe000000);
	CU_ASSERT_EQUAL(info.bar[0].size, 0x4000);
	CU_ASSERT_EQUAL(info.bar[1].size, 0);
	CU_ASSERT_EQUAL(info.bar[3].size, 0); /* ends before it starts */
	CU_ASSERT_EQUAL(info.bar[5].size, 0); /* behind a line that is none */
	addr = fake_addr("0000:00:01.0");
	CU_ASSERT_EQUAL_FATAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_TRUE(info.is_bridge);
	CU_ASSERT_EQUAL(svio_pci_get_override(&info), 0); /* "(null)" */
	CU_ASSERT_STRING_EQUAL(info.driver_override, "");
	CU_ASSERT_EQUAL(info.numa_node, -1);
	fake_end();
}

static void test_get_vf(void)
{
	static const struct fake_device pf = { "0000:02:00.0", NULL, 0x8086, 0x1563, 0x020000, -1, NULL };
	static const struct fake_device vf = { "0000:02:10.0", NULL, 0x8086, 0x10ca, 0x020000, -1, NULL };
	struct svio_pci_addr addr = fake_addr("0000:02:10.0");
	struct svio_pci_info info;

	fake_begin();
	fake_add(&pf);
	fake_add(&vf);
	fake_link("/sys/devices/pci0000:00/0000:02:00.0", "/sys/bus/pci/devices/0000:02:10.0/physfn");
	CU_ASSERT_EQUAL_FATAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_TRUE(info.is_vf);
	CU_ASSERT_EQUAL(info.physfn.bus, 2);
	CU_ASSERT_EQUAL(info.physfn.dev, 0);
	CU_ASSERT_EQUAL(info.iommu_group, -1);
	CU_ASSERT_FALSE(info.has_driver);
	addr = info.physfn;
	CU_ASSERT_EQUAL_FATAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_FALSE(info.is_vf);
	CU_ASSERT_EQUAL(info.quirks, SVIO_PCI_QUIRK_BROKEN_INTX);
	fake_end();
}

static void test_get_bad(void)
{
	struct svio_pci_addr addr = fake_addr("0000:01:00.0");
	struct svio_pci_info info;

	fake_begin();
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "0000:01:00.0"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "svio list"));
	fake_add(&nvme);
	fake_file("0x1ffff\n", "/sys/bus/pci/devices/0000:01:00.0/vendor");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), -ERANGE);
	fake_file("nonsense\n", "/sys/bus/pci/devices/0000:01:00.0/vendor");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), -EINVAL);
	fake_file("", "/sys/bus/pci/devices/0000:01:00.0/vendor");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), -EINVAL);
	fake_file("0x1b36\n", "/sys/bus/pci/devices/0000:01:00.0/vendor");
	/* What need not be there counts as absent when it makes no sense. */
	fake_file("99999999999999999999\n", "/sys/bus/pci/devices/0000:01:00.0/numa_node");
	fake_file("-5\n", "/sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_EQUAL(info.numa_node, -1);
	CU_ASSERT_EQUAL(info.sriov_totalvfs, 0);
	fake_file("70000\n", "/sys/bus/pci/devices/0000:01:00.0/numa_node");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_EQUAL(info.numa_node, -1);
	fake_file("-7\n", "/sys/bus/pci/devices/0000:01:00.0/numa_node");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_EQUAL(info.numa_node, -1);
	/* A name that does not fit is no name, not half of one. */
	fake_file("a-driver-name-of-more-than-thirty-one-letters\n",
		  "/sys/bus/pci/devices/0000:01:00.0/driver_override");
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), 0);
	memset(info.driver_override, 'x', sizeof(info.driver_override) - 1);
	CU_ASSERT_EQUAL(svio_pci_get_override(&info), -EOVERFLOW);
	CU_ASSERT_STRING_EQUAL(info.driver_override, "");
	fake_end();
}

static void test_scan(void)
{
	static const struct fake_device vmd = { "10000:00:00.0", NULL, 0x8086, 0x0001, 0x010802, -1, NULL };
	struct svio_pci_info *list;
	int fds = unit_count_fds();
	size_t count;

	fake_begin();
	CU_ASSERT_EQUAL(svio_pci_scan(&list, &count), 0);
	CU_ASSERT_EQUAL(count, 0);
	free(list);
	fake_add(&vmd);
	fake_add(&nvme);
	fake_add(&port);
	/* One that is just being removed: its link leads nowhere. */
	fake_link("/sys/devices/pci0000:00/0000:00:09.0", "/sys/bus/pci/devices/0000:00:09.0");
	CU_ASSERT_EQUAL_FATAL(svio_pci_scan(&list, &count), 0);
	CU_ASSERT_EQUAL_FATAL(count, 3);
	CU_ASSERT_STRING_EQUAL(list[0].name, "0000:00:01.0");
	CU_ASSERT_STRING_EQUAL(list[1].name, "0000:01:00.0");
	CU_ASSERT_STRING_EQUAL(list[2].name, "10000:00:00.0");
	free(list);
	fake_end();
	/* No sysfs at all. */
	svio__pci_set_root("/nonexistent");
	CU_ASSERT_EQUAL(svio_pci_scan(&list, &count), -ENOENT);
	CU_ASSERT_PTR_NULL(list);
	svio__pci_set_root("");
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

/*
 * Linux takes the device's lock to show driver_override (pci-sysfs.c) and sriov_numvfs (iov.c), and holds it while the
 * device is removed, which waits for the process that has it open. A list of devices must not hang in there.
 */
static void test_scan_waits_for_nobody(void)
{
	static const char *const locked[] = { "driver_override", "sriov_numvfs" };
	struct svio_pci_addr addr = fake_addr("0000:01:00.0");
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	struct svio_pci_info *list, info;
	struct inotify_event event;
	char path[PATH_MAX];
	size_t count;

	fake_begin();
	fake_add(&nvme);
	fake_file("16\n", "/sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs");
	fake_file("2\n", "/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs");
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(locked); i++) {
		CU_ASSERT_EQUAL_FATAL(svio__path(path, "/sys/bus/pci/devices/0000:01:00.0/%s", locked[i]), 0);
		CU_ASSERT_FATAL(inotify_add_watch(watch, path, IN_OPEN) >= 0);
	}
	CU_ASSERT_EQUAL_FATAL(svio_pci_scan(&list, &count), 0);
	CU_ASSERT_EQUAL(count, 1);
	free(list);
	CU_ASSERT_EQUAL_FATAL(svio_pci_group_devices(7, &list, &count), 0);
	CU_ASSERT_EQUAL(count, 1);
	free(list);
	CU_ASSERT_EQUAL(svio_pci_get(&addr, &info), 0);
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), -EPERM);
	CU_ASSERT_EQUAL(read(watch, &event, sizeof(event)), -1);
	CU_ASSERT_EQUAL(errno, EAGAIN);
	/* The watch works: who asks for it opens it. */
	CU_ASSERT_EQUAL(svio_pci_get_override(&info), 0);
	CU_ASSERT_EQUAL(read(watch, &event, sizeof(event)), (ssize_t)sizeof(event));
	close(watch);
	fake_end();
}

static void test_scan_many(void)
{
	struct svio_pci_info *list;
	char addr[SVIO_PCI_ADDR_STRLEN];
	size_t count;

	fake_begin();
	for (unsigned int i = 0; i < 100; i++) {
		struct fake_device d = nvme;

		snprintf(addr, sizeof(addr), "0000:%02x:00.0", 0xff - i);
		d.addr = addr;
		d.group = -1;
		fake_add(&d);
	}
	CU_ASSERT_EQUAL_FATAL(svio_pci_scan(&list, &count), 0);
	CU_ASSERT_EQUAL_FATAL(count, 100);
	for (size_t i = 1; i < count; i++)
		CU_ASSERT_TRUE(list[i - 1].addr.bus < list[i].addr.bus);
	free(list);
	fake_end();
}

static void test_group(void)
{
	static const struct fake_device stub = { "0000:01:00.1", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 7,
						 "pci-stub" };
	static const struct fake_device free_fn = { "0000:01:00.2", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 7,
						    NULL };
	static const struct fake_device variant = { "0000:01:00.3", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 7,
						    "mlx5_vfio_pci" };
	static const struct fake_device nic = { "0000:01:00.4", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 7,
						"e1000e" };
	static const struct fake_device bridge = { "0000:00:02.0", NULL, 1, 1, 0x060400, 7, "shpchp" };
	struct svio_pci_info *list;
	size_t count;

	fake_begin();
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), -ENOENT);
	CU_ASSERT_EQUAL(svio_pci_group_devices(7, &list, &count), -ENOENT);
	fake_add(&port);
	fake_add(&stub);
	fake_add(&free_fn);
	fake_add(&variant);
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), 0);
	fake_add(&nvme);
	fake_add(&nic);
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "group 7"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "0000:01:00.0 is bound to nvme (run: svio bind 0000:01:00.0)"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "0000:01:00.4 is bound to e1000e"));
	CU_ASSERT_PTR_NULL(strstr(svio_last_error(), "0000:01:00.1"));
	CU_ASSERT_PTR_NULL(strstr(svio_last_error(), "0000:00:01.0"));
	fake_add(&bridge);
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "drivers/shpchp/unbind"));
	CU_ASSERT_EQUAL_FATAL(svio_pci_group_devices(7, &list, &count), 0);
	CU_ASSERT_EQUAL(count, 7);
	free(list);
	fake_end();
}

/* A group with more in the way than a sentence holds. */
static void test_group_long(void)
{
	char addr[SVIO_PCI_ADDR_STRLEN];

	fake_begin();
	for (unsigned int i = 0; i < 64; i++) {
		struct fake_device d = nvme;

		snprintf(addr, sizeof(addr), "0000:%02x:00.0", i + 1);
		d.addr = addr;
		fake_add(&d);
	}
	CU_ASSERT_EQUAL(svio_pci_group_explain(7), -EPERM);
	CU_ASSERT_TRUE(strlen(svio_last_error()) < SVIO_ERROR_MAX);
	fake_end();
}

/* Configuration space with a PCIe capability of `type`; acs < 0: without ACS, else its control register. */
static void write_config(const char *addr, unsigned int type, bool multifunction, int acs, size_t len)
{
	uint8_t cfg[4096] = { 0 };

	cfg[0x06] = 0x10;
	cfg[0x0e] = multifunction ? 0x80 : 0;
	cfg[0x34] = 0x40;
	cfg[0x40] = 0x10;
	cfg[0x42] = (uint8_t)(type << 4 | 2);
	if (acs >= 0) {
		cfg[0x100] = 0x0d;
		cfg[0x102] = 0x01;
		cfg[0x106] = (uint8_t)acs;
	}
	FAKE_PATH(path, "/sys/bus/pci/devices/%s/config", addr);
	fake_write(path, cfg, len);
}

static void test_group_note(void)
{
	static const struct fake_device fn1 = { "0000:01:00.1", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 7, NULL };
	static const struct fake_device other = { "0000:02:00.0", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 8, NULL };
	static const struct fake_device below = { "0000:03:00.0", "pci0000:00/0000:00:01.0", 1, 1, 0x020000, 8, NULL };
	char text[256];

	fake_begin();
	CU_ASSERT_EQUAL(svio_pci_group_note(7, text, sizeof(text)), -ENOENT);
	fake_add(&nvme);
	/* Alone, it shares nothing. */
	CU_ASSERT_EQUAL(svio_pci_group_note(7, text, sizeof(text)), 0);
	CU_ASSERT_STRING_EQUAL(text, "");
	fake_add(&port);
	fake_add(&fn1);
	/* What an ordinary user sees: 64 bytes. */
	write_config("0000:01:00.0", 0, true, -1, 64);
	CU_ASSERT_EQUAL(svio_pci_group_note(7, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "root"));
	write_config("0000:01:00.0", 0, true, -1, 4096);
	write_config("0000:01:00.1", 0, true, -1, 4096);
	write_config("0000:00:01.0", 4, false, 0x1d, 4096);
	CU_ASSERT_EQUAL(svio_pci_group_note(7, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "functions of one device without ACS"));
	/* Root-complex integrated endpoints have no port above that could isolate them. */
	write_config("0000:01:00.0", 9, true, -1, 4096);
	CU_ASSERT_EQUAL(svio_pci_group_note(7, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "root-complex endpoints"));
	/* Two slots below one port: isolated when the port has ACS, and not when it is only partly on. */
	fake_add(&other);
	fake_add(&below);
	write_config("0000:02:00.0", 0, false, -1, 4096);
	write_config("0000:03:00.0", 0, false, -1, 4096);
	CU_ASSERT_EQUAL(svio_pci_group_note(8, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "no isolation"));
	write_config("0000:00:01.0", 4, false, 0x1c, 4096);
	CU_ASSERT_EQUAL(svio_pci_group_note(8, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "port 0000:00:01.0 above them has no ACS"));
	/* Conventional PCI carries no requester IDs that could be told apart, whatever ACS says. */
	write_config("0000:00:01.0", 7, false, 0x1d, 4096);
	CU_ASSERT_EQUAL(svio_pci_group_note(8, text, sizeof(text)), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(text, "bridge 0000:00:01.0 to conventional PCI"));
	fake_end();
}

static void test_config(void)
{
	struct svio_pci_addr addr = fake_addr("0000:01:00.0");
	uint8_t buf[4096];
	size_t got;

	fake_begin();
	CU_ASSERT_EQUAL(svio_pci_config_read(&addr, buf, sizeof(buf), &got), -ENODEV);
	CU_ASSERT_EQUAL(got, 0);
	fake_add(&nvme);
	write_config("0000:01:00.0", 0, false, -1, 64);
	CU_ASSERT_EQUAL(svio_pci_config_read(&addr, buf, sizeof(buf), &got), 0);
	CU_ASSERT_EQUAL(got, 64);
	CU_ASSERT_EQUAL(svio_pci_config_read(&addr, buf, 16, &got), 0);
	CU_ASSERT_EQUAL(got, 16);
	CU_ASSERT_EQUAL(buf[6], 0x10);
	fake_end();
}

static const struct unit_test tests[] = {
	{ "one function, every field", test_get },
	{ "a virtual function knows its physical one", test_get_vf },
	{ "values out of range are errors or absent", test_get_bad },
	{ "all functions, sorted, without what vanishes", test_scan },
	{ "listing opens nothing that waits for a device's lock", test_scan_waits_for_nobody },
	{ "more functions than the first allocation holds", test_scan_many },
	{ "a group is viable or every obstacle is named", test_group },
	{ "an explanation too long is cut", test_group_long },
	{ "why a group is shared", test_group_note },
	{ "configuration space as far as it is readable", test_config },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("pci/scan", tests);
}
