/* SPDX-License-Identifier: BSD-3-Clause */
/* What sysfs says about one function, and which functions there are. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pci_priv.h"

/* A number that must be there and fit; `max` bounds it. */
static int read_attr(const struct svio_pci_addr *addr, const char *file, uint32_t max, uint32_t *value)
{
	char path[PATH_MAX];
	int64_t v;
	int rc = svio__device_path(path, addr, file);

	if (!rc)
		rc = svio__read_number(path, &v);
	if (rc)
		return rc;
	if (v < 0 || v > max)
		return -ERANGE;
	*value = (uint32_t)v;
	return 0;
}

/* An attribute that a kernel or a device may lack. */
static uint32_t read_optional(const struct svio_pci_addr *addr, const char *file)
{
	uint32_t v;

	return read_attr(addr, file, UINT16_MAX, &v) ? 0 : v;
}

/* "start end flags" per line, in hexadecimal (Documentation/ABI/testing/sysfs-bus-pci); the first six are BARs. */
static void read_bars(struct svio_pci_info *info)
{
	char path[PATH_MAX], line[96];
	FILE *f;

	if (svio__device_path(path, &info->addr, "resource"))
		return;
	f = fopen(path, "re");
	if (!f)
		return;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(info->bar) && fgets(line, sizeof(line), f); i++) {
		uint64_t start, end, flags;

		if (sscanf(line, "%" SCNx64 " %" SCNx64 " %" SCNx64, &start, &end, &flags) != 3)
			break;
		if (flags == 0 || end < start)
			continue;
		info->bar[i] = (struct svio_pci_bar){ .start = start, .size = end - start + 1,
						      .flags = flags };
	}
	fclose(f);
}

/* Identity and place: what must be there for the function to count as one. */
static int read_identity(struct svio_pci_info *info)
{
	uint32_t vendor, device, subvendor, subdevice, class_code, revision;
	int rc;

	if ((rc = read_attr(&info->addr, "vendor", UINT16_MAX, &vendor)) ||
	    (rc = read_attr(&info->addr, "device", UINT16_MAX, &device)) ||
	    (rc = read_attr(&info->addr, "class", 0xffffff, &class_code)))
		return rc;
	subvendor = read_optional(&info->addr, "subsystem_vendor");
	subdevice = read_optional(&info->addr, "subsystem_device");
	revision = read_optional(&info->addr, "revision");
	info->vendor = (uint16_t)vendor;
	info->device = (uint16_t)device;
	info->subvendor = (uint16_t)subvendor;
	info->subdevice = (uint16_t)subdevice;
	info->class_code = class_code;
	info->revision = (uint8_t)revision;
	info->quirks = svio_pci_quirks(info->vendor, info->device);
	/* PCI Code and ID Assignment Specification §1.7: PCI-to-PCI, CardBus, semi-transparent PCI-to-PCI. */
	info->is_bridge = class_code >> 8 == 0x0604 || class_code >> 8 == 0x0607 ||
			  class_code >> 8 == 0x0609;
	return 0;
}

static void read_driver(struct svio_pci_info *info)
{
	char path[PATH_MAX];

	if (!svio__device_path(path, &info->addr, "driver") &&
	    !svio__read_link_name(path, info->driver, sizeof(info->driver)))
		info->has_driver = true;
}

int svio_pci_get_override(struct svio_pci_info *info)
{
	char path[PATH_MAX], text[sizeof(info->driver_override)];
	int rc = svio__device_path(path, &info->addr, "driver_override");

	if (!rc)
		rc = svio__read_text(path, text, sizeof(text));
	if (!rc && strcmp(text, "(null)") != 0)
		memcpy(info->driver_override, text, sizeof(text));
	else
		info->driver_override[0] = '\0';
	return rc;
}

/* Virtual functions have links, which can be read without waiting; sriov_numvfs cannot, see svio_pci_scan(). */
static unsigned int count_vfs(const struct svio_pci_info *info)
{
	char path[PATH_MAX], text[32], file[24];
	unsigned int n = 0;

	for (; n < info->sriov_totalvfs; n++) {
		snprintf(file, sizeof(file), "virtfn%u", n);
		if (svio__device_path(path, &info->addr, file) || svio__read_link_name(path, text, sizeof(text)))
			break;
	}
	return n;
}

static int read_info(const struct svio_pci_addr *addr, struct svio_pci_info *info)
{
	char path[PATH_MAX], text[32];
	int64_t number;
	uint64_t group;
	int rc;

	memset(info, 0, sizeof(*info));
	info->addr = *addr;
	info->numa_node = -1;
	info->iommu_group = -1;
	svio_pci_format_addr(addr, info->name);
	rc = read_identity(info);
	if (rc)
		return rc;
	if (!svio__device_path(path, addr, "numa_node") && !svio__read_number(path, &number) &&
	    number >= 0 && number <= INT16_MAX)
		info->numa_node = (int)number;
	if (!svio__device_path(path, addr, "iommu_group") &&
	    !svio__read_link_name(path, text, sizeof(text)) &&
	    !svio_parse_u64(text, INT_MAX, &group))
		info->iommu_group = (int)group;
	if (!svio__device_path(path, addr, "physfn") &&
	    !svio__read_link_name(path, text, sizeof(text)) &&
	    !svio_pci_parse_addr(text, &info->physfn))
		info->is_vf = true;
	info->sriov_totalvfs = read_optional(addr, "sriov_totalvfs");
	info->sriov_numvfs = count_vfs(info);
	read_driver(info);
	read_bars(info);
	return 0;
}

int svio_pci_get(const struct svio_pci_addr *addr, struct svio_pci_info *info)
{
	char name[SVIO_PCI_ADDR_STRLEN];
	int rc = read_info(addr, info);

	if (rc == -ENOENT || rc == -ENODEV)
		return svio_fail(ENODEV, "%s: there is no such PCI function; run: svio list --all",
				 svio_pci_format_addr(addr, name));
	if (rc)
		return svio_fail(rc, "%s: cannot read it from sysfs: %s",
				 svio_pci_format_addr(addr, name), strerror(-rc));
	return 0;
}

static int compare_addr(const void *a, const void *b)
{
	const struct svio_pci_addr *x = &((const struct svio_pci_info *)a)->addr;
	const struct svio_pci_addr *y = &((const struct svio_pci_info *)b)->addr;
	uint64_t kx = (uint64_t)x->domain << 24 | (uint64_t)x->bus << 16 | (uint64_t)x->dev << 8 | x->fn;
	uint64_t ky = (uint64_t)y->domain << 24 | (uint64_t)y->bus << 16 | (uint64_t)y->dev << 8 | y->fn;

	return (kx > ky) - (kx < ky);
}

/* All functions that a directory names, sorted. One that vanishes while we look is left out. */
static int scan_dir(const char *path, struct svio_pci_info **list, size_t *count)
{
	struct svio_pci_info *found = NULL;
	size_t n = 0, capacity = 0;
	struct svio_pci_addr addr;
	struct dirent *entry;
	DIR *dir;
	int rc = 0;

	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir)) != NULL) {
		if (svio_pci_parse_addr(entry->d_name, &addr))
			continue;
		if (n == capacity) {
			size_t grown = capacity ? capacity * 2 : 32;
			void *p = reallocarray(found, grown, sizeof(*found));

			if (!p) {
				rc = -ENOMEM;
				break;
			}
			found = p;
			capacity = grown;
		}
		if (read_info(&addr, &found[n]) == 0)
			n++;
	}
	closedir(dir);
	if (rc) {
		free(found);
		return rc;
	}
	if (n)
		qsort(found, n, sizeof(*found), compare_addr);
	*list = found;
	*count = n;
	return 0;
}

int svio_pci_scan(struct svio_pci_info **list, size_t *count)
{
	char path[PATH_MAX];
	int rc = svio__path(path, "/sys/bus/pci/devices");

	*list = NULL;
	*count = 0;
	if (!rc)
		rc = scan_dir(path, list, count);
	if (rc)
		return svio_fail(rc, "cannot read %s: %s; is /sys mounted?", path, strerror(-rc));
	return 0;
}

int svio_pci_group_devices(int group, struct svio_pci_info **list, size_t *count)
{
	char path[PATH_MAX];
	int rc = svio__path(path, "/sys/kernel/iommu_groups/%d/devices", group);

	*list = NULL;
	*count = 0;
	if (!rc)
		rc = scan_dir(path, list, count);
	if (rc == -ENOENT)
		return svio_fail(ENOENT, "there is no IOMMU group %d; run: svio doctor", group);
	if (rc)
		return svio_fail(rc, "cannot read %s: %s", path, strerror(-rc));
	return 0;
}

int svio_pci_config_read(const struct svio_pci_addr *addr, void *buf, size_t len, size_t *got)
{
	char path[PATH_MAX], name[SVIO_PCI_ADDR_STRLEN];
	int fd, rc = svio__device_path(path, addr, "config");
	size_t done = 0;

	*got = 0;
	if (rc)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return svio_fail(errno == ENOENT ? ENODEV : errno,
				 "%s: cannot open its configuration space: %s",
				 svio_pci_format_addr(addr, name), strerror(errno));
	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)done);

		/* Without CAP_SYS_ADMIN the file ends after 64 bytes. */
		if (n == 0)
			break;
		if (n < 0) {
			rc = svio_fail(errno, "%s: cannot read its configuration space: %s",
				       svio_pci_format_addr(addr, name), strerror(errno));
			break;
		}
		done += (size_t)n;
	}
	close(fd);
	*got = done;
	return rc;
}
