/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A machine in a temporary directory: /sys, /proc, /run and /sbin as room pci reads them, and a model of the kernel's
 * driver core (Linux drivers/base/bus.c, drivers/pci/pci-driver.c) that answers the writes to driver_override, unbind,
 * drivers_probe and bind. Tests link with --wrap=svio__write_text, which ends up in fake_kernel_write().
 */
#ifndef FAKESYS_H
#define FAKESYS_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "pci_priv.h"
#include "unit.h"

static char fake_root[64];

/* What the model of the kernel knows beyond the files. */
static struct {
	char native[64];  /* driver that matches functions without driver_override; "" none */
	char refuses[64]; /* driver whose probe fails */
	int fail_nth;	  /* the write of that number (from 1) fails with -EIO; 0 none */
	int writes;	  /* writes so far */
} fake_kernel;

#define FAKE_PATH(buf, ...)                                                                        \
	char buf[PATH_MAX];                                                                        \
	CU_ASSERT_FATAL(svio__path(buf, __VA_ARGS__) == 0)

static inline void fake_mkdir_of(const char *path)
{
	char dir[PATH_MAX], *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	for (slash = strchr(dir + strlen(fake_root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(dir, 0755);
		*slash = '/';
	}
}

static inline void fake_write(const char *path, const void *data, size_t len)
{
	FILE *f;

	fake_mkdir_of(path);
	f = fopen(path, "we");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	CU_ASSERT_FATAL(fwrite(data, 1, len, f) == len && fclose(f) == 0);
}

/* A file below the root with the formatted text. */
#define fake_file(text, ...)                                                                       \
	do {                                                                                       \
		FAKE_PATH(p_, __VA_ARGS__);                                                        \
		fake_write(p_, text, strlen(text));                                                \
	} while (0)

#define fake_dir(...)                                                                              \
	do {                                                                                       \
		FAKE_PATH(p_, __VA_ARGS__);                                                        \
		fake_mkdir_of(p_);                                                                 \
		mkdir(p_, 0755);                                                                   \
	} while (0)

/* A link at the formatted path to an existing path below the root. */
#define fake_link(target, ...)                                                                     \
	do {                                                                                       \
		FAKE_PATH(p_, __VA_ARGS__);                                                        \
		FAKE_PATH(t_, "%s", target);                                                       \
		fake_mkdir_of(p_);                                                                 \
		CU_ASSERT_FATAL(symlink(t_, p_) == 0);                                             \
	} while (0)

static inline void fake_driver(const char *name)
{
	fake_dir("/sys/bus/pci/drivers/%s", name);
}

static inline void fake_begin(void)
{
	snprintf(fake_root, sizeof(fake_root), "/tmp/svio-pci-XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(fake_root));
	svio__pci_set_root(fake_root);
	memset(&fake_kernel, 0, sizeof(fake_kernel));
	fake_dir("/sys/bus/pci/devices");
	fake_dir("/sys/class/block");
	fake_dir("/sys/class/net");
	fake_dir("/run");
	fake_file("", "/sys/bus/pci/drivers_probe");
	fake_file("", "/proc/self/mountinfo");
	fake_file("Filename\tType\tSize\tUsed\tPriority\n", "/proc/swaps");
	svio_clear_error();
}

static inline int fake_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void fake_end(void)
{
	nftw(fake_root, fake_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	svio__pci_set_root("");
}

struct fake_device {
	const char *addr;
	const char *above; /* directory below /sys/devices, as "pci0000:00/0000:00:01.0"; NULL = pci0000:00 */
	unsigned int vendor, device, class_code;
	int group;	    /* -1 none */
	const char *driver; /* NULL none */
};

static inline struct svio_pci_addr fake_addr(const char *text)
{
	struct svio_pci_addr addr;

	CU_ASSERT_FATAL(svio_pci_parse_addr(text, &addr) == 0);
	return addr;
}

static inline void fake_add(const struct fake_device *d)
{
	char dir[256], text[32];

	snprintf(dir, sizeof(dir), "/sys/devices/%s/%s", d->above ? d->above : "pci0000:00", d->addr);
	snprintf(text, sizeof(text), "0x%04x\n", d->vendor);
	fake_file(text, "%s/vendor", dir);
	snprintf(text, sizeof(text), "0x%04x\n", d->device);
	fake_file(text, "%s/device", dir);
	snprintf(text, sizeof(text), "0x%06x\n", d->class_code);
	fake_file(text, "%s/class", dir);
	fake_file("(null)\n", "%s/driver_override", dir);
	fake_file("-1\n", "%s/numa_node", dir);
	fake_link(dir, "/sys/bus/pci/devices/%s", d->addr);
	if (d->group >= 0) {
		snprintf(text, sizeof(text), "%d", d->group);
		fake_link(dir, "/sys/kernel/iommu_groups/%s/devices/%s", text, d->addr);
		snprintf(dir, sizeof(dir), "/sys/kernel/iommu_groups/%s", text);
		fake_link(dir, "/sys/bus/pci/devices/%s/iommu_group", d->addr);
	}
	if (d->driver) {
		fake_driver(d->driver);
		snprintf(dir, sizeof(dir), "/sys/bus/pci/drivers/%s", d->driver);
		fake_link(dir, "/sys/bus/pci/devices/%s/driver", d->addr);
	}
}

/* "" when unbound. Static text. */
static inline const char *fake_bound(const char *addr)
{
	static char name[64];
	FAKE_PATH(path, "/sys/bus/pci/devices/%s/driver", addr);

	if (svio__read_link_name(path, name, sizeof(name)))
		name[0] = '\0';
	return name;
}

static inline const char *fake_override(const char *addr)
{
	static char text[64];
	FAKE_PATH(path, "/sys/bus/pci/devices/%s/driver_override", addr);

	if (svio__read_text(path, text, sizeof(text)) || strcmp(text, "(null)") == 0)
		text[0] = '\0';
	return text;
}

static inline bool fake_exists(const char *file)
{
	FAKE_PATH(path, "%s", file);

	return access(path, F_OK) == 0;
}

/* ---- the driver core --------------------------------------------------------------------------------- */

static inline bool fake_matches(const char *addr, const char *driver)
{
	const char *override = fake_override(addr);

	return strcmp(driver, override[0] ? override : fake_kernel.native) == 0;
}

static inline int fake_attach(const char *addr, const char *driver)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s", driver);
	if (!fake_exists(path) || fake_bound(addr)[0] || strcmp(driver, fake_kernel.refuses) == 0)
		return -ENODEV;
	fake_link(path, "/sys/bus/pci/devices/%s/driver", addr);
	return 0;
}

static inline int fake_kernel_write(const char *path, const char *text)
{
	const char *file = path + strlen(fake_root);
	char first[64], second[64];

	if (++fake_kernel.writes == fake_kernel.fail_nth)
		return -EIO;
	if (sscanf(file, "/sys/bus/pci/devices/%63[^/]/%63s", first, second) == 2 &&
	    strcmp(second, "driver_override") == 0) {
		char line[80];

		snprintf(line, sizeof(line), "%s\n", strcmp(text, "\n") == 0 ? "(null)" : text);
		fake_write(path, line, strlen(line));
		return 0;
	}
	if (sscanf(file, "/sys/bus/pci/devices/%63[^/]/%63s", first, second) == 2 &&
	    strcmp(second, "driver/unbind") == 0) {
		FAKE_PATH(link, "/sys/bus/pci/devices/%s/driver", first);

		CU_ASSERT_STRING_EQUAL(text, first);
		return unlink(link) ? -ENOENT : 0;
	}
	if (strcmp(file, "/sys/bus/pci/drivers_probe") == 0) {
		const char *override = fake_override(text);

		/* The core tries what matches and reports nothing useful. */
		fake_attach(text, override[0] ? override : fake_kernel.native);
		return 0;
	}
	if (sscanf(file, "/sys/bus/pci/drivers/%63[^/]/%63s", first, second) == 2 && strcmp(second, "bind") == 0)
		return fake_matches(text, first) ? fake_attach(text, first) : -ENODEV;
	CU_FAIL("a write that the kernel has no file for");
	return -ENOENT;
}

#endif
