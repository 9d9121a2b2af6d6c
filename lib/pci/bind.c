/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Giving a function to another driver, and back.
 *
 * driver_override makes exactly one driver match exactly this function (Documentation/ABI/testing/sysfs-bus-pci): no other
 * device with the same ID is touched, as new_id would do. What was before is written to /run/svio/prev-driver/<address>,
 * which ends with the boot, as the binding does.
 */
#include <ctype.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "pci_priv.h"

extern char **environ;

/* What a function was before we bound it. The file names vendor and device too: another one may sit there now. */
struct record {
	char driver[32];   /* "" unbound */
	char override[32]; /* "" none */
};

bool svio__driver_name_ok(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len >= sizeof(((struct svio_pci_info *)NULL)->driver))
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && *name != '-' && *name != '_')
			return false;
	return true;
}

int svio__modprobe(const char *module)
{
	char path[PATH_MAX], program[] = "modprobe", quiet[] = "-q", name[64];
	char *argv[] = { program, quiet, name, NULL };
	posix_spawn_file_actions_t actions;
	int rc, status;
	pid_t pid;

	rc = svio__path(path, "/sbin/modprobe");
	if (rc)
		return rc;
	snprintf(name, sizeof(name), "%s", module);
	if (posix_spawn_file_actions_init(&actions))
		return -ENOMEM;
	/* The library prints nothing, and neither do its children. */
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	rc = posix_spawn(&pid, path, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (rc)
		return -ENOENT;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -ENOENT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ENOENT;
}

/* ---- the record -------------------------------------------------------------------------------------- */

static int record_path(char *path, const char *name)
{
	return svio__path(path, "/run/svio/prev-driver/%s", name);
}

static int make_record_dir(void)
{
	static const char *const dirs[] = { "/run/svio", "/run/svio/prev-driver" };
	char path[PATH_MAX];

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(dirs); i++) {
		int rc = svio__path(path, "%s", dirs[i]);

		if (rc)
			return rc;
		if (mkdir(path, 0755) && errno != EEXIST)
			return -errno;
	}
	return 0;
}

static bool is_name_or_none(const char *text)
{
	return text[0] == '\0' || svio__driver_name_ok(text);
}

/* "vendor device driver override", with "-" for none. -ENOENT, and *rec untouched, when there is none for this device. */
static int record_load(const struct svio_pci_info *info, struct record *rec)
{
	char path[PATH_MAX], text[128];
	unsigned int vendor, device;
	struct record r;
	int rc = record_path(path, info->name);

	if (!rc)
		rc = svio__read_text(path, text, sizeof(text));
	if (rc)
		return rc;
	if (sscanf(text, "%4x %4x %31s %31s", &vendor, &device, r.driver, r.override) != 4 ||
	    vendor != info->vendor || device != info->device)
		return -ENOENT;
	if (strcmp(r.driver, "-") == 0)
		r.driver[0] = '\0';
	if (strcmp(r.override, "-") == 0)
		r.override[0] = '\0';
	/* Names from a file become parts of paths. */
	if (!is_name_or_none(r.driver) || !is_name_or_none(r.override))
		return -ENOENT;
	*rec = r;
	return 0;
}

static int record_save(const struct svio_pci_info *info)
{
	char path[PATH_MAX];
	int rc = make_record_dir();
	FILE *f;

	if (!rc)
		rc = record_path(path, info->name);
	if (rc)
		return rc;
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "%04x %04x %s %s\n", info->vendor, info->device,
		info->has_driver ? info->driver : "-",
		info->driver_override[0] ? info->driver_override : "-");
	if (ferror(f))
		rc = -EIO;
	if (fclose(f) && !rc)
		rc = -errno;
	if (rc)
		unlink(path);
	return rc;
}

static void record_remove(const char *name)
{
	char path[PATH_MAX];

	if (!record_path(path, name))
		unlink(path);
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* "" clears it, which sysfs wants as an empty line. */
static int set_override(const struct svio_pci_info *info, const char *driver)
{
	char path[PATH_MAX];
	int rc = svio__device_path(path, &info->addr, "driver_override");

	return rc ? rc : svio__write_text(path, driver[0] ? driver : "\n");
}

static int release(const struct svio_pci_info *info)
{
	char path[PATH_MAX];
	int rc = svio__device_path(path, &info->addr, "driver/unbind");

	if (!rc)
		rc = svio__write_text(path, info->name);
	/* Nothing to release is what we want. */
	return rc == -ENOENT ? 0 : rc;
}

/* Let the kernel find a driver. Whether it did is read from sysfs afterwards: kernels differ in what they return. */
static void probe(const struct svio_pci_info *info)
{
	char path[PATH_MAX];

	if (!svio__path(path, "/sys/bus/pci/drivers_probe"))
		svio__write_text(path, info->name);
}

static bool is_bound_to(const struct svio_pci_info *info, const char *driver)
{
	char path[PATH_MAX], now[32] = "";
	int rc = svio__device_path(path, &info->addr, "driver");

	if (!rc)
		rc = svio__read_link_name(path, now, sizeof(now));
	/* No link: no driver. */
	return (rc == 0 || rc == -ENOENT) && strcmp(now, driver) == 0;
}

static bool driver_there(const char *driver)
{
	char path[PATH_MAX];

	return !svio__path(path, "/sys/bus/pci/drivers/%s", driver) && access(path, F_OK) == 0;
}

/* Bind to exactly `driver`, "" = leave it unbound, with `override` in force afterwards. */
static bool rebind(const struct svio_pci_info *info, const char *driver, const char *override)
{
	char path[PATH_MAX];

	if (driver[0] == '\0')
		return set_override(info, override) == 0 && is_bound_to(info, "");
	if (!driver_there(driver))
		svio__modprobe(driver);
	if (set_override(info, override))
		return false;
	/* With an override in force only its driver matches; ask the driver itself, then anybody. */
	if (!svio__path(path, "/sys/bus/pci/drivers/%s/bind", driver))
		svio__write_text(path, info->name);
	if (!is_bound_to(info, driver))
		probe(info);
	return is_bound_to(info, driver);
}

/* ---- checks ------------------------------------------------------------------------------------------ */

static bool module_flag(const char *module, const char *parameter)
{
	char path[PATH_MAX], text[8];

	return !svio__path(path, "/sys/module/%s/parameters/%s", module, parameter) &&
	       !svio__read_text(path, text, sizeof(text)) && (text[0] == 'Y' || text[0] == '1');
}

/* What vfio-pci, and ours on top of its core, will refuse, said before it does. */
static int check_vfio(const struct svio_pci_info *info, const char *driver)
{
	bool ours = strcmp(driver, "svio-vfio-pci") == 0;
	const char *module = ours ? "svio_vfio_pci" : "vfio_pci";

	if (info->is_bridge)
		return svio_fail(EINVAL, "%s is a bridge; %s does not take bridges", info->name, driver);
	if (info->quirks & SVIO_PCI_QUIRK_VFIO_DENYLIST && (ours || strcmp(driver, "vfio-pci") == 0) &&
	    !module_flag(module, "disable_denylist"))
		return svio_fail(EPERM, "%s (%04x:%04x) is on vfio-pci's denylist: a user of it can take the "
				 "system down; if that is acceptable, run: modprobe -r %s && "
				 "modprobe %s disable_denylist=1", info->name, info->vendor,
				 info->device, driver, driver);
	if (info->iommu_group < 0 && !module_flag("vfio", "enable_unsafe_noiommu_mode"))
		return svio_fail(EOPNOTSUPP, "%s has no IOMMU group: the IOMMU is off; put intel_iommu=on (Intel) or "
				 "iommu=on on the kernel command line and enable VT-d/AMD-Vi in the firmware; "
				 "run: svio doctor", info->name);
	return 0;
}

/* A function that a process has open through VFIO: unbinding would wait until that process lets go. */
static int check_vfio_user(const struct svio_pci_info *info)
{
	pid_t user;

	if (!svio__driver_is_vfio(info->driver) || info->iommu_group < 0)
		return 0;
	user = svio__vfio_group_user(info->iommu_group);
	if (user > 0)
		return svio_fail(EBUSY, "%s is in use: process %d has IOMMU group %d open; end it first",
				 info->name, (int)user, info->iommu_group);
	if (user < 0)
		return svio_fail(EBUSY, "%s is in use: a process has IOMMU group %d open; run: fuser -v /dev/vfio/%d",
				 info->name, info->iommu_group, info->iommu_group);
	return 0;
}

static int check_in_use(const struct svio_pci_info *info, uint32_t flags)
{
	int rc = 0;

	if (flags & SVIO_PCI_BIND_FORCE || !info->has_driver)
		return 0;
	rc = svio_pci_in_use(&info->addr);
	return rc ? rc : check_vfio_user(info);
}

static int step_failed(const struct svio_pci_info *info, const char *step, int rc)
{
	if (rc == -EACCES || rc == -EPERM)
		return svio_fail(rc, "%s: %s needs root", info->name, step);
	return svio_fail(rc, "%s: %s failed: %s", info->name, step, strerror(-rc));
}

/* ---- bind -------------------------------------------------------------------------------------------- */

/* Put back what was there when the call began, and say so if that fails too. */
static int undo(const struct svio_pci_info *info, int rc)
{
	if (is_bound_to(info, info->driver)) {
		set_override(info, info->driver_override);
		return rc;
	}
	release(info);
	if (!rebind(info, info->driver, info->driver_override))
		svio_fail_prefix(rc, "%s is left without its driver %s (run: dmesg)", info->name,
				 info->driver);
	return rc;
}

static int bind_steps(const struct svio_pci_info *info, const char *driver)
{
	int rc = set_override(info, driver);

	if (rc)
		return step_failed(info, "setting driver_override", rc);
	rc = release(info);
	if (rc)
		return undo(info, step_failed(info, "unbinding", rc));
	probe(info);
	if (!is_bound_to(info, driver))
		return undo(info, svio_fail(EIO, "%s: the driver %s does not accept it; run: dmesg | tail",
					    info->name, driver));
	return 0;
}

int svio_pci_bind(const struct svio_pci_addr *addr, const char *driver, uint32_t flags)
{
	struct svio_pci_info info;
	struct record before;
	bool recorded;
	int rc = svio_pci_get(addr, &info);

	if (rc)
		return rc;
	if (flags & ~(uint32_t)SVIO_PCI_BIND_FORCE)
		return svio_fail(EINVAL, "svio_pci_bind: unknown flags 0x%x", flags);
	svio_pci_get_override(&info); /* what cannot be read cannot be written either, which is explained there */
	if (!driver || !svio__driver_name_ok(driver))
		return svio_fail(EINVAL, "'%s' is no driver name", driver ? driver : "");
	if (info.has_driver && strcmp(info.driver, driver) == 0)
		return 0;
	if (svio__driver_is_vfio(driver) && (rc = check_vfio(&info, driver)))
		return rc;
	rc = check_in_use(&info, flags);
	if (rc)
		return rc;
	if (!driver_there(driver) && (svio__modprobe(driver) || !driver_there(driver)))
		return svio_fail(ENOENT, "there is no driver %s: modprobe does not find it or may not load it "
				 "(root?); run: modprobe %s", driver, driver);
	/* Binding twice in a row keeps the first record: unbind goes back to where the machine came from. */
	recorded = record_load(&info, &before) == 0;
	rc = recorded ? 0 : record_save(&info);
	if (rc)
		return step_failed(&info, "writing /run/svio/prev-driver", rc);
	rc = bind_steps(&info, driver);
	if (rc && !recorded)
		record_remove(info.name);
	return rc;
}

/* ---- unbind ------------------------------------------------------------------------------------------ */

int svio_pci_unbind(const struct svio_pci_addr *addr, uint32_t flags)
{
	struct record rec = { 0 };
	struct svio_pci_info info;
	bool recorded;
	int rc = svio_pci_get(addr, &info);

	if (rc)
		return rc;
	if (flags & ~(uint32_t)SVIO_PCI_BIND_FORCE)
		return svio_fail(EINVAL, "svio_pci_unbind: unknown flags 0x%x", flags);
	svio_pci_get_override(&info); /* what cannot be read cannot be written either, which is explained there */
	recorded = record_load(&info, &rec) == 0;
	/* Not ours, and not VFIO's: there is nothing to undo. */
	if (!recorded && info.driver_override[0] == '\0' && !svio__driver_is_vfio(info.driver))
		return 0;
	rc = check_in_use(&info, flags);
	if (rc)
		return rc;
	rc = set_override(&info, rec.override);
	if (rc)
		return step_failed(&info, "clearing driver_override", rc);
	rc = release(&info);
	if (rc)
		return undo(&info, step_failed(&info, "unbinding", rc));
	if (recorded && !rebind(&info, rec.driver, rec.override))
		return undo(&info, svio_fail(EIO, "%s: its previous driver %s does not take it back; run: dmesg | tail",
					     info.name, rec.driver));
	if (!recorded)
		probe(&info);
	record_remove(info.name);
	return 0;
}
