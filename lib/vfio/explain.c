/* SPDX-License-Identifier: BSD-3-Clause */
/* Kernel VFIO says -EPERM, -EBUSY, -EINVAL. These functions say why, and what to do. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "vfio_priv.h"

static bool is_vfio_driver(const struct svio_pci_info *pci)
{
	return pci->has_driver && strstr(pci->driver, "vfio") != NULL;
}

static int explain_unbound(const struct svio_pci_info *pci)
{
	if (pci->quirks & SVIO_PCI_QUIRK_VFIO_DENYLIST)
		return svio_fail(
			EACCES,
			"%s: vfio-pci refuses this device (%04x:%04x, INTEL-SA-01084); to allow it: "
			"modprobe -r vfio-pci && modprobe vfio-pci disable_denylist=1, then: svio bind %s",
			pci->name, pci->vendor, pci->device, pci->name);
	if (pci->has_driver)
		return svio_fail(EPERM,
				 "%s: bound to driver %s, not to vfio-pci; run: svio bind %s",
				 pci->name, pci->driver, pci->name);
	return svio_fail(EPERM, "%s: bound to no driver; run: svio bind %s", pci->name, pci->name);
}

int svio__explain_no_iommu(const struct svio_pci_info *pci)
{
	return svio_fail(
		EOPNOTSUPP,
		"%s: in no IOMMU group; enable the IOMMU in the firmware and on the kernel command line "
		"(intel_iommu=on; AMD: on by default) and boot again",
		pci->name);
}

int svio__explain_container(int err)
{
	switch (err) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return svio_fail(EOPNOTSUPP,
				 "/dev/vfio/vfio: VFIO is not loaded; run: modprobe vfio-pci");
	case EACCES:
	case EPERM:
		return svio_fail(EACCES,
				 "/dev/vfio/vfio: no permission; install the udev rule of svio "
				 "(config/udev), or as root run: chmod 0666 /dev/vfio/vfio");
	default:
		return svio_fail(err, "/dev/vfio/vfio: %s", strerror(err));
	}
}

/* A pid from the name of a directory in /proc, or 0. */
static pid_t proc_pid(const char *name)
{
	char *end;
	long pid = strtol(name, &end, 10);

	return *end == '\0' && pid > 0 ? (pid_t)pid : 0;
}

static bool process_has(pid_t pid, const char *path)
{
	char dir[32], target[64];
	struct dirent *e;
	bool found = false;
	ssize_t n;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	d = opendir(dir);
	if (!d)
		return false;
	while (!found && (e = readdir(d))) {
		n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		found = strcmp(target, path) == 0;
	}
	closedir(d);
	return found;
}

pid_t svio__who_has(const char *path)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	if (!d)
		return 0;
	while (!found && (e = readdir(d))) {
		pid_t pid = proc_pid(e->d_name);

		if (pid && pid != getpid() && process_has(pid, path))
			found = pid;
	}
	closedir(d);
	return found;
}

int svio__explain_group(int err, const struct svio_pci_info *pci)
{
	char path[32], who[48] = "another process";
	pid_t pid;

	snprintf(path, sizeof(path), "/dev/vfio/%d", pci->iommu_group);
	switch (err) {
	case ENOENT:
		if (!is_vfio_driver(pci))
			return explain_unbound(pci);
		return svio_fail(
			EPERM,
			"%s: bound to %s but %s does not exist; in a container, pass /dev/vfio through, "
			"otherwise check dmesg",
			pci->name, pci->driver, path);
	case EBUSY:
		pid = svio__who_has(path);
		if (pid)
			snprintf(who, sizeof(who), "process %d", (int)pid);
		return svio_fail(EBUSY, "%s: IOMMU group %d is in use by %s; end it first",
				 pci->name, pci->iommu_group, who);
	case EACCES:
		return svio_fail(
			EACCES,
			"%s: no permission on %s; install the udev rule of svio (config/udev), or as root "
			"run: chown %u %s",
			pci->name, path, (unsigned int)geteuid(), path);
	case EPERM:
		return svio_fail(EPERM,
				 "%s: the kernel lets only CAP_SYS_RAWIO open %s; run as root",
				 pci->name, path);
	default:
		return svio_fail(err, "%s: %s: %s", pci->name, path, strerror(err));
	}
}

int svio__explain_viability(const struct svio_pci_info *pci)
{
	int err = svio_pci_group_explain(pci->iommu_group);

	if (err)
		return svio_fail_prefix(-EPERM, "%s", pci->name);
	/* Somebody bound or released a device between the kernel's answer and ours. */
	return svio_fail(EPERM, "%s: IOMMU group %d was not viable a moment ago; try again",
			 pci->name, pci->iommu_group);
}

int svio__explain_device(int err, const struct svio_pci_info *pci, const char *vf_token)
{
	switch (err) {
	case EACCES:
		if (vf_token[0])
			return svio_fail(
				EACCES,
				"%s: wrong VF token: pass the UUID that the owner of the physical function set",
				pci->name);
		return svio_fail(
			EACCES,
			"%s: needs a VF token, because its physical function is owned by user space as well; "
			"pass the UUID that the owner of the physical function set (vf_token)",
			pci->name);
	case EINVAL:
		if (vf_token[0])
			return svio_fail(
				EINVAL,
				"%s: a VF token was given, but this function takes none: it is no SR-IOV "
				"function, or its physical function is not bound to vfio-pci",
				pci->name);
		break;
	case ENODEV:
		if (!is_vfio_driver(pci))
			return explain_unbound(pci);
		return svio_fail(ENODEV, "%s: gone from IOMMU group %d", pci->name,
				 pci->iommu_group);
	default:
		break;
	}
	return svio_fail(err, "%s: VFIO cannot open the device: %s; see dmesg", pci->name,
			 strerror(err));
}

/* VmLck of this process in bytes: what the kernel counts against RLIMIT_MEMLOCK. */
static uint64_t locked_now(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/self/status", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmLck: %llu kB", &kib) == 1)
			break;
	fclose(f);
	return (uint64_t)kib << 10;
}

int svio__explain_memlock(uint64_t len)
{
	struct rlimit limit;
	uint64_t locked = locked_now(), need;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
	    locked + len <= limit.rlim_cur)
		return svio_fail(ENOMEM, "cannot map %llu KiB for DMA: the kernel is out of memory",
				 (unsigned long long)(len >> 10));
	need = (locked + len + 1023) >> 10;
	return svio_fail(
		ENOMEM,
		"cannot map %llu KiB for DMA: RLIMIT_MEMLOCK is %llu KiB, %llu KiB are locked, %llu KiB are "
		"needed; run: ulimit -l %llu (systemd: LimitMEMLOCK=%lluK)",
		(unsigned long long)(len >> 10), (unsigned long long)(limit.rlim_cur >> 10),
		(unsigned long long)(locked >> 10), (unsigned long long)need,
		(unsigned long long)need, (unsigned long long)need);
}
