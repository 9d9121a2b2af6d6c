/* SPDX-License-Identifier: BSD-3-Clause */
/* Is the system using a function: mounts, swap, holders, interfaces. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include "fakesys.h"

#define ADDR  "0000:01:00.0"
#define BELOW "/sys/devices/pci0000:00/" ADDR

static const char *claimed; /* block device that the kernel holds */
static struct ifaddrs *addresses;

bool __wrap_svio__block_claimed(const char *name);
bool __wrap_svio__block_claimed(const char *name)
{
	return claimed && strcmp(name, claimed) == 0;
}

int __wrap_getifaddrs(struct ifaddrs **list);
int __wrap_getifaddrs(struct ifaddrs **list)
{
	*list = addresses;
	return 0;
}

void __wrap_freeifaddrs(struct ifaddrs *list);
void __wrap_freeifaddrs(struct ifaddrs *list)
{
	CU_ASSERT_PTR_EQUAL(list, addresses);
}

static struct svio_pci_addr begin(void)
{
	static const struct fake_device nvme = { ADDR, NULL, 0x1b36, 0x0010, 0x010802, 7, "nvme" };

	claimed = NULL;
	addresses = NULL;
	fake_begin();
	fake_add(&nvme);
	return fake_addr(ADDR);
}

/* A disk below the function, with one partition. */
static void add_disk(void)
{
	fake_file("259:0\n", BELOW "/nvme/nvme0/nvme0n1/dev");
	fake_file("259:1\n", BELOW "/nvme/nvme0/nvme0n1/nvme0n1p1/dev");
	fake_link(BELOW "/nvme/nvme0/nvme0n1", "/sys/class/block/nvme0n1");
	fake_link(BELOW "/nvme/nvme0/nvme0n1/nvme0n1p1", "/sys/class/block/nvme0n1p1");
}

static void check_busy(const struct svio_pci_addr *addr, const char *because)
{
	svio_clear_error();
	CU_ASSERT_EQUAL(svio_pci_in_use(addr), -EBUSY);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), ADDR " is in use"));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), because));
}

static void test_unused(void)
{
	struct svio_pci_addr addr = begin();
	int fds = unit_count_fds();

	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	add_disk();
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	/* The root disk is another function's, and its name and number only resemble ours. */
	fake_file("259:10\n", "/sys/devices/pci0000:00/0000:01:00.01/nvme/nvme1/nvme1n1/dev");
	fake_link("/sys/devices/pci0000:00/0000:01:00.01/nvme/nvme1/nvme1n1", "/sys/class/block/nvme1n1");
	fake_file("1 0 259:10 / / rw - ext4 /dev/nvme1n1 rw\n"
		  "2 1 0:21 / /proc rw,nosuid shared:5 master:2 - proc proc rw\n"
		  "3 1 259:11 /nvme0n1 /259:0 rw - ext4 /dev/nvme0n1p11 rw\n"
		  "4\n\n5 1 259:0\n",
		  "/proc/self/mountinfo");
	fake_file("Filename\tType\n/dev/nvme1n1p2 partition 1 0 -2\n/swapfile file 1 0 -3\n", "/proc/swaps");
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	addr.bus = 8;
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), -ENODEV);
	fake_end();
}

static void test_mounted(void)
{
	struct svio_pci_addr addr = begin();

	add_disk();
	fake_file("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
		  "30 1 259:0 / /data rw,relatime shared:1 - ext4 /dev/root rw\n", "/proc/self/mountinfo");
	check_busy(&addr, "/dev/nvme0n1 is mounted on /data; run: umount /data");
	fake_file("30 1 259:1 / /part rw - xfs /dev/root rw\n", "/proc/self/mountinfo");
	check_busy(&addr, "/dev/nvme0n1p1 is mounted on /part");
	/* btrfs has a number of its own. */
	fake_file("30 1 0:44 /sub /btr rw shared:1 master:7 - btrfs /dev/nvme0n1p1 rw\n", "/proc/self/mountinfo");
	check_busy(&addr, "/dev/nvme0n1p1 is mounted on /btr");
	fake_end();
}

static void test_swap(void)
{
	struct svio_pci_addr addr = begin();

	add_disk();
	fake_file("Filename\tType\n/dev/nvme0n1p1                 partition 1 0 -2\n", "/proc/swaps");
	check_busy(&addr, "swapoff /dev/nvme0n1p1");
	fake_end();
}

static void test_holder(void)
{
	struct svio_pci_addr addr = begin();

	add_disk();
	fake_dir("/sys/class/block/nvme0n1/holders");
	fake_dir("/sys/class/block/nvme0n1p1/holders");
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	fake_dir("/sys/class/block/nvme0n1p1/holders/dm-3");
	check_busy(&addr, "dm-3 is built on /dev/nvme0n1p1");
	fake_end();
}

static void test_claimed(void)
{
	struct svio_pci_addr addr = begin();

	add_disk();
	claimed = "sda";
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	claimed = "nvme0n1p1";
	check_busy(&addr, "the kernel holds /dev/nvme0n1p1");
	fake_end();
}

static void test_multipath(void)
{
	struct svio_pci_addr addr = begin();
	static const char subsystem[] = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0";

	fake_dir(BELOW "/nvme/nvme0");
	fake_file("259:0\n", "%s/nvme0n1/dev", subsystem);
	fake_file("259:1\n", "%s/nvme0n1/nvme0n1p1/dev", subsystem);
	fake_link("/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "/sys/class/block/nvme0n1");
	fake_link("/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p1",
		  "/sys/class/block/nvme0n1p1");
	fake_file("30 1 259:1 / /mp rw - ext4 /dev/nvme0n1p1 rw\n", "/proc/self/mountinfo");
	/* A subsystem of other controllers is not ours. */
	fake_dir("/sys/devices/pci0000:00/0000:05:00.0/nvme/nvme7");
	fake_link("/sys/devices/pci0000:00/0000:05:00.0/nvme/nvme7", "%s/nvme7", subsystem);
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	fake_link(BELOW "/nvme/nvme0", "%s/nvme0", subsystem);
	check_busy(&addr, "/dev/nvme0n1p1 is mounted on /mp");
	fake_end();
}

static void test_net(void)
{
	struct svio_pci_addr addr = begin();
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	char name[] = "eth0", other[] = "eth1";
	struct ifaddrs list[2] = {
		{ .ifa_next = &list[1], .ifa_name = other, .ifa_flags = IFF_UP, .ifa_addr = (struct sockaddr *)&v4 },
		{ .ifa_name = name, .ifa_flags = IFF_UP, .ifa_addr = NULL },
	};

	/* As virtio-net has it: not directly below the function. */
	fake_dir(BELOW "/virtio0/net/eth0");
	fake_link(BELOW "/virtio0/net/eth0", "/sys/class/net/eth0");
	addresses = list;
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	list[1].ifa_addr = (struct sockaddr *)&v4;
	check_busy(&addr, "ip link set eth0 down");
	list[1].ifa_flags = 0;
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	list[1].ifa_flags = IFF_UP;
	list[1].ifa_addr = (struct sockaddr *)&v6;
	inet_pton(AF_INET6, "fe80::1", &v6.sin6_addr);
	CU_ASSERT_EQUAL(svio_pci_in_use(&addr), 0);
	inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr);
	check_busy(&addr, "eth0 is up");
	list[1].ifa_flags = 0;
	fake_dir(BELOW "/virtio0/net/eth0/upper_vlan5");
	check_busy(&addr, "upper_vlan5");
	fake_end();
}

static const struct unit_test tests[] = {
	{ "not in use, among devices that are", test_unused },
	{ "mounted: by number, partition, and source", test_mounted },
	{ "swap", test_swap },
	{ "a device built on it", test_holder },
	{ "held by the kernel for another reason", test_claimed },
	{ "an NVMe multipath disk", test_multipath },
	{ "a network interface", test_net },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("pci/inuse", tests);
}
