/* SPDX-License-Identifier: BSD-3-Clause */
/* svio doctor: the devices that svio could drive, and shared virtual addressing. */
#include <dirent.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include "doctor.h"
#include "pcidev.h"
#include "svio_sva.h"

/* ---- candidates -------------------------------------------------------------------------------------- */

/* Worth a finding of its own: what svio has a driver for, and what somebody has given to VFIO. */
static bool is_candidate(const struct svio_pci_info *info, const struct pcidev_ability *ability)
{
	return ability->driver && (strcmp(ability->driver, "generic") != 0 || pcidev_on_vfio(info));
}

static void report_candidate(struct doctor *doc, const struct svio_pci_info *info,
			     const struct pcidev_ability *ability)
{
	struct doctor_finding *f;

	switch (ability->use) {
	case PCIDEV_READY:
		doctor_add(doc, "device", DOCTOR_OK, "%s (%s) is ready on %s, group %d", info->name,
			   ability->driver, info->driver, info->iommu_group);
		return;
	case PCIDEV_BINDABLE:
		f = doctor_add(doc, "device", DOCTOR_OK, "%s (%s) can be used; it is %s%s now", info->name,
			       ability->driver, info->has_driver ? "bound to " : "unbound",
			       info->driver);
		doctor_remedy(f, "%s", ability->why + strlen("run: "));
		return;
	default:
		/* The sentence says what is in the way and what to run. */
		doctor_add(doc, "device", DOCTOR_WARN, "%s%s%s",
			   strncmp(ability->why, info->name, strlen(info->name)) ? info->name : "",
			   strncmp(ability->why, info->name, strlen(info->name)) ? ": " : "", ability->why);
	}
}

void doctor_devices(struct doctor *doc)
{
	struct pcidev_ability ability;
	struct svio_pci_info *list;
	size_t count, candidates = 0;

	if (svio_pci_scan(&list, &count)) {
		doctor_add(doc, "device", DOCTOR_FAIL, "%s", svio_last_error());
		return;
	}
	for (size_t i = 0; i < count; i++) {
		pcidev_ability(&list[i], &ability);
		if (!is_candidate(&list[i], &ability))
			continue;
		candidates++;
		report_candidate(doc, &list[i], &ability);
	}
	free(list);
	if (candidates == 0)
		doctor_add(doc, "device", DOCTOR_WARN, "no NVMe controller, and nothing is bound to VFIO "
			   "(svio list shows what else there is)");
}

/* ---- SVA --------------------------------------------------------------------------------------------- */

/*
 * Native SVA needs the kernel, the IOMMU, the device, and svio's VFIO variant driver, which binds on Linux 6.19 and later. On
 * x86, kernels before 6.18.7 and 6.19 refuse iommu_sva_bind_device() (the IOMMU could cache freed kernel page tables,
 * CVE-2025-71202); the cure is there from those versions on.
 */
static bool kernel_binds(char *why, size_t len)
{
	unsigned int major = 0, minor = 0, patch = 0;
	struct utsname uts;
	bool refused = false;

	uname(&uts);
	if (sscanf(uts.release, "%u.%u.%u", &major, &minor, &patch) >= 2 &&
	    (major > 6 || (major == 6 && minor >= 19)))
		return true;
#if defined(__x86_64__)
	refused = major < 6 || minor < 18 || patch < 7;
#endif
	if (refused)
		snprintf(why, len, "Linux %s on x86 refuses to bind processes (CVE-2025-71202)", uts.release);
	else
		snprintf(why, len, "svio's VFIO variant driver needs Linux 6.19 or later, this is %s", uts.release);
	return false;
}

/* VT-d Extended Capability Register (Intel VT-d specification §11.4.3): PASID bit 40, scalable mode bit 43. */
#define ECAP_PASID (UINT64_C(1) << 40)
#define ECAP_SMTS  (UINT64_C(1) << 43)

/* 1 yes, 0 no, -1 there is no VT-d unit that would say */
static int vtd_has_pasid(void)
{
	struct dirent *entry;
	DIR *d = opendir("/sys/class/iommu");
	char path[400], text[32];
	int has = -1;

	while (d && (entry = readdir(d)) != NULL && has != 1) {
		uint64_t ecap;

		snprintf(path, sizeof(path), "/sys/class/iommu/%s/intel-iommu/ecap", entry->d_name);
		if (!doctor_read_line(path, text, sizeof(text)))
			continue;
		ecap = strtoull(text, NULL, 16);
		has = (ecap & (ECAP_PASID | ECAP_SMTS)) == (ECAP_PASID | ECAP_SMTS);
	}
	if (d)
		closedir(d);
	return has;
}

/* Functions with a PASID capability; *hidden when configuration space could not be read so far. */
static size_t count_pasid(bool *hidden)
{
	struct svio_pci_info *list;
	size_t count, n = 0, got;
	uint8_t cfg[4096];

	*hidden = false;
	if (svio_pci_scan(&list, &count))
		return 0;
	for (size_t i = 0; i < count; i++) {
		if (svio_pci_config_read(&list[i].addr, cfg, sizeof(cfg), &got))
			continue;
		*hidden |= got < 256;
		n += svio_pci_find_ext_cap(cfg, got, PCI_EXT_CAP_ID_PASID, 0) != 0;
	}
	free(list);
	return n;
}

/* Does it have PASIDs, as far as this user may see? */
static bool has_pasid(const struct svio_pci_info *info)
{
	uint8_t cfg[4096];
	size_t got;

	return svio_pci_config_read(&info->addr, cfg, sizeof(cfg), &got) == 0 &&
	       svio_pci_find_ext_cap(cfg, got, PCI_EXT_CAP_ID_PASID, 0) != 0;
}

/* The word of each device that is ready: what a bind would give, and why not more. One that somebody drives is left alone. */
static void report_modes(struct doctor *doc)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .flags = SVIO_DEVICE_NO_WATCH | SVIO_DEVICE_NO_RESET };
	struct svio_sva_report report;
	struct svio_pci_info *list;
	struct svio_device *dev;
	size_t count;

	if (svio_pci_scan(&list, &count))
		return;
	for (size_t i = 0; i < count; i++) {
		if (!pcidev_on_vfio(&list[i]) || (!has_pasid(&list[i]) && strcmp(list[i].driver, "svio-vfio-pci") != 0) ||
		    svio_device_open(list[i].name, &opts, &dev))
			continue;
		if (svio_sva_get_report(dev, &report) == 0)
			doctor_add(doc, "sva", report.mode == SVIO_SVA_NATIVE ? DOCTOR_OK : DOCTOR_WARN, "%s: %s%s: %s", list[i].name,
				   svio_sva_mode_text(report.mode),
				   report.mode == SVIO_SVA_NATIVE ? "" : " (registered memory only), not native", report.why);
		svio_device_close(dev);
	}
	free(list);
}

static void report_system(struct doctor *doc)
{
	static const char instead[] = "native SVA is not available (svio then uses registered memory, IOVA = VA)";
	struct doctor_finding *f;
	bool hidden;
	size_t capable;
	char why[200];

	if (!kernel_binds(why, sizeof(why))) {
		f = doctor_add(doc, "sva", DOCTOR_WARN, "%s: %s", instead, why);
		doctor_remedy(f, "boot Linux 6.19 or later (Debian: the backports kernel)");
		return;
	}
	if (vtd_has_pasid() == 0) {
		f = doctor_add(doc, "sva", DOCTOR_WARN, "%s: the IOMMU has no PASIDs or no scalable mode", instead);
		doctor_remedy(f, "intel_iommu=on,sm_on on the kernel command line, if the hardware has it");
		return;
	}
	capable = count_pasid(&hidden);
	if (capable == 0) {
		f = doctor_add(doc, "sva", DOCTOR_WARN, "%s: %s", instead,
			       hidden ? "whether a device has PASIDs is only visible to root" :
					"no PCI function has a PASID capability");
		if (hidden)
			doctor_remedy(f, "sudo svio doctor");
		return;
	}
	if (!doctor_module_present("svio_vfio_pci")) {
		f = doctor_add(doc, "sva", DOCTOR_WARN, "%s: %zu functions have PASIDs, but svio's VFIO variant driver "
			       "is not loaded", instead, capable);
		doctor_remedy(f, doctor_module_loadable("svio_vfio_pci") ?
				      "modprobe svio_vfio_pci; svio bind --driver svio-vfio-pci DEV" :
				      "install the kernel module svio_vfio_pci (folder kernel/)");
		return;
	}
	doctor_add(doc, "sva", DOCTOR_OK, "native SVA is possible: %zu functions have PASIDs, and svio_vfio_pci is "
		   "loaded", capable);
}

void doctor_sva(struct doctor *doc)
{
	report_system(doc);
	report_modes(doc);
}
