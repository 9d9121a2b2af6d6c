/* SPDX-License-Identifier: BSD-3-Clause */
/* svio doctor: the IOMMU, VFIO's modules, permissions and limits, hugepages. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <linux/capability.h>
#include <unistd.h>
#include "doctor.h"

/* ---- IOMMU ------------------------------------------------------------------------------------------- */

#define GROUPS "/sys/kernel/iommu_groups"

static void iommu_missing(struct doctor *doc)
{
	bool intel = doctor_file_has("/proc/cpuinfo", "GenuineIntel");
	bool amd = doctor_file_has("/proc/cpuinfo", "AuthenticAMD");
	bool virtual = doctor_file_has("/proc/cpuinfo", "hypervisor");
	bool asked = doctor_file_has("/proc/cmdline", "intel_iommu=on");
	bool refused = doctor_file_has("/proc/cmdline", "iommu=off");
	struct doctor_finding *f;

	f = doctor_add(doc, "iommu", DOCTOR_FAIL, "no IOMMU groups (%s CPU%s; the kernel command line %s)",
		       intel ? "Intel" : amd ? "AMD" : "other", virtual ? ", in a virtual machine" : "",
		       refused ? "has iommu=off" : asked ? "has intel_iommu=on" : "has no intel_iommu=on");
	if (refused)
		doctor_remedy(f, "take iommu=off from GRUB_CMDLINE_LINUX in /etc/default/grub; update-grub; reboot");
	else if (intel && !asked)
		doctor_remedy(f, "add intel_iommu=on to GRUB_CMDLINE_LINUX in /etc/default/grub; update-grub; reboot%s",
			      virtual ? " (and give the machine one: QEMU -device intel-iommu,intremap=on)" :
					" (and enable VT-d in the firmware)");
	else if (virtual)
		doctor_remedy(f, "give the virtual machine an IOMMU (QEMU: -device intel-iommu,intremap=on)");
	else
		doctor_remedy(f, "enable %s in the firmware setup", intel ? "VT-d" : amd ? "AMD-Vi (IOMMU)" : "the IOMMU");
}

/* Names of /sys/class/iommu: dmar0, ivhd0, smmu3.0x... */
static void iommu_names(char *buf, size_t len)
{
	struct dirent *entry;
	DIR *d = opendir("/sys/class/iommu");
	size_t used = 0;

	buf[0] = '\0';
	while (d && (entry = readdir(d)) != NULL && used < len - 1)
		if (entry->d_name[0] != '.')
			used += (size_t)snprintf(buf + used, len - used, "%s%s", used ? " " : "", entry->d_name);
	if (d)
		closedir(d);
}

void doctor_iommu(struct doctor *doc)
{
	size_t groups = doctor_count_entries(GROUPS);
	struct doctor_finding *f;
	char names[128];

	if (groups == 0) {
		iommu_missing(doc);
		return;
	}
	iommu_names(names, sizeof(names));
	doctor_add(doc, "iommu", DOCTOR_OK, "%zu groups behind %s", groups, names[0] ? names : "an unnamed IOMMU");
#if defined(__x86_64__)
	/* type1 refuses devices whose interrupts are not remapped (vfio_iommu_type1.c); the interrupt chips then
	 * have "IR-" in their names. */
	if (doctor_file_has("/proc/interrupts", "IR-")) {
		doctor_add(doc, "intremap", DOCTOR_OK, "interrupts are remapped");
		return;
	}
	if (doctor_file_has("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y")) {
		doctor_add(doc, "intremap", DOCTOR_WARN, "interrupts are not remapped, and "
			   "allow_unsafe_interrupts is set: a device can forge interrupts");
		return;
	}
	f = doctor_add(doc, "intremap", DOCTOR_WARN, "no interrupt is remapped: VFIO may refuse devices");
	doctor_remedy(f, "enable interrupt remapping (x2APIC) in the firmware; or, if every device is trusted: "
		      "echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
#else
	(void)f;
#endif
}

/* ---- modules ----------------------------------------------------------------------------------------- */

static void check_module(struct doctor *doc, const char *name)
{
	struct doctor_finding *f;
	bool tried = false;

	if (!doctor_module_present(name) && doc->fix && doctor_module_loadable(name)) {
		tried = true;
		doctor_modprobe(name);
	}
	if (doctor_module_present(name)) {
		f = doctor_add(doc, "module", DOCTOR_OK, "%s is there", name);
		if (tried)
			doctor_done(f, "modprobe %s", name);
	} else if (doctor_module_loadable(name)) {
		/* svio bind loads vfio-pci; opening a device does not load type1 for an ordinary user. */
		f = doctor_add(doc, "module", DOCTOR_FAIL, "%s is not loaded%s", name,
			       tried ? "; modprobe failed" : "");
		doctor_remedy(f, "modprobe %s  (at every boot: install config/svio-modules.conf as "
			      "/etc/modules-load.d/svio.conf)", name);
	} else {
		f = doctor_add(doc, "module", DOCTOR_FAIL, "this kernel has no %s", name);
		doctor_remedy(f, "install the distribution's full kernel (Debian: apt install linux-image-amd64) "
			      "and boot it");
	}
}

void doctor_modules(struct doctor *doc)
{
	check_module(doc, "vfio");
	check_module(doc, "vfio_iommu_type1");
	check_module(doc, "vfio_pci");
}

/* ---- permissions and limits -------------------------------------------------------------------------- */

#define UDEV_REMEDY "install config/99-svio-vfio.rules in /etc/udev/rules.d; udevadm control --reload; " \
		    "udevadm trigger; groupadd -f vfio; usermod -aG vfio $USER; log in again"

static bool can_open(const char *path)
{
	return access(path, R_OK | W_OK) == 0;
}

/* The groups that are there are those of devices bound to VFIO. */
static void check_groups(struct doctor *doc)
{
	size_t total = 0, denied = 0;
	struct doctor_finding *f;
	struct dirent *entry;
	char path[300], first[300] = "";
	uint64_t number;
	DIR *d = opendir("/dev/vfio");

	while (d && (entry = readdir(d)) != NULL) {
		if (svio_parse_u64(entry->d_name, INT32_MAX, &number))
			continue;
		total++;
		snprintf(path, sizeof(path), "/dev/vfio/%s", entry->d_name);
		if (!can_open(path)) {
			if (!denied++)
				snprintf(first, sizeof(first), "%s", path);
		}
	}
	if (d)
		closedir(d);
	if (denied) {
		f = doctor_add(doc, "permissions", DOCTOR_FAIL, "%zu of %zu groups are closed to this user (%s)",
			       denied, total, first);
		doctor_remedy(f, UDEV_REMEDY);
	} else if (total) {
		doctor_add(doc, "permissions", DOCTOR_OK, "this user may open all %zu groups in /dev/vfio", total);
	}
}

static void check_container(struct doctor *doc)
{
	struct doctor_finding *f;

	if (access("/dev/vfio/vfio", F_OK)) {
		f = doctor_add(doc, "permissions", DOCTOR_FAIL, "there is no /dev/vfio/vfio");
		doctor_remedy(f, "modprobe vfio_iommu_type1 vfio-pci");
	} else if (!can_open("/dev/vfio/vfio")) {
		f = doctor_add(doc, "permissions", DOCTOR_FAIL, "this user may not open /dev/vfio/vfio");
		doctor_remedy(f, UDEV_REMEDY);
	} else {
		doctor_add(doc, "permissions", DOCTOR_OK, "this user may open /dev/vfio/vfio");
	}
}

static bool has_capability(unsigned int cap)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (syscall(SYS_capget, &header, data))
		return false;
	return data[cap / 32].effective >> cap % 32 & 1;
}

/* DMA memory is pinned, and pinned memory counts (vfio_iommu_type1.c, vfio_lock_acct). */
#define MEMLOCK_USEFUL (UINT64_C(256) << 20)

static void check_memlock(struct doctor *doc)
{
	struct doctor_finding *f;
	char size[CLI_SIZE_LEN];
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		return;
	if (limit.rlim_cur == RLIM_INFINITY) {
		doctor_add(doc, "memlock", DOCTOR_OK, "RLIMIT_MEMLOCK is unlimited");
	} else if (has_capability(CAP_IPC_LOCK)) {
		doctor_add(doc, "memlock", DOCTOR_OK, "RLIMIT_MEMLOCK is %s, and CAP_IPC_LOCK lifts it",
			   cli_size(limit.rlim_cur, size));
	} else {
		f = doctor_add(doc, "memlock", limit.rlim_cur < MEMLOCK_USEFUL ? DOCTOR_FAIL : DOCTOR_WARN,
			       "RLIMIT_MEMLOCK lets this user pin only %s for DMA", cli_size(limit.rlim_cur, size));
		doctor_remedy(f, "install config/svio-limits.conf in /etc/security/limits.d and log in again "
			      "(a service: LimitMEMLOCK=infinity)");
	}
}

void doctor_permissions(struct doctor *doc)
{
	check_container(doc);
	check_groups(doc);
	check_memlock(doc);
}

/* ---- hugepages --------------------------------------------------------------------------------------- */

#define HUGE_2M	   2048		       /* kB, as sysfs names it */
#define HUGE_WANTED (UINT64_C(64) << 20) /* svio_mem_opts: the initial size of an arena */
#define HUGE_FIX    (UINT64_C(512) << 20)

struct huge {
	uint64_t free_bytes; /* of all sizes and nodes */
	char text[400];	     /* per size and node */
};

static void huge_add(struct huge *h, const char *node, const char *dir, const char *entry)
{
	char path[600], size[CLI_SIZE_LEN];
	uint64_t kb, total, free_pages;
	size_t used = strlen(h->text);

	if (sscanf(entry, "hugepages-%" SCNu64 "kB", &kb) != 1)
		return;
	snprintf(path, sizeof(path), "%s/%s/nr_hugepages", dir, entry);
	if (!doctor_read_u64(path, &total) || total == 0)
		return;
	snprintf(path, sizeof(path), "%s/%s/free_hugepages", dir, entry);
	if (!doctor_read_u64(path, &free_pages))
		return;
	h->free_bytes += free_pages * kb * 1024;
	snprintf(h->text + used, sizeof(h->text) - used, "%s%s %" PRIu64 " of %" PRIu64 " x %s free",
		 used ? ", " : "", node, free_pages, total, cli_size(kb * 1024, size));
}

static void huge_read_dir(struct huge *h, const char *node, const char *dir)
{
	struct dirent *entry;
	DIR *d = opendir(dir);

	while (d && (entry = readdir(d)) != NULL)
		huge_add(h, node, dir, entry->d_name);
	if (d)
		closedir(d);
}

static void huge_read(struct huge *h)
{
	struct dirent *entry;
	DIR *d = opendir("/sys/devices/system/node");
	char dir[400];
	bool any = false;

	memset(h, 0, sizeof(*h));
	while (d && (entry = readdir(d)) != NULL) {
		unsigned int node;

		if (sscanf(entry->d_name, "node%u", &node) != 1)
			continue;
		snprintf(dir, sizeof(dir), "/sys/devices/system/node/%s/hugepages", entry->d_name);
		huge_read_dir(h, entry->d_name, dir);
		any = true;
	}
	if (d)
		closedir(d);
	if (!any) /* a kernel without NUMA */
		huge_read_dir(h, "", "/sys/kernel/mm/hugepages");
}

/* Memory that could be had without pushing anything out, in bytes. */
static uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	uint64_t kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb * 1024;
}

/* At most an eighth of what is available, so that the machine does not notice. Pages asked for; 0 when not done. */
static uint64_t huge_reserve(void)
{
	static const char path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
	uint64_t now, more = SVIO_MIN(HUGE_FIX, memory_available() / 8) / (HUGE_2M * 1024), after;
	FILE *f;

	if (!doctor_read_u64(path, &now) || more == 0)
		return 0;
	f = fopen(path, "we");
	if (!f)
		return 0;
	fprintf(f, "%" PRIu64 "\n", now + more);
	fclose(f);
	return doctor_read_u64(path, &after) && after > now ? after - now : 0;
}

void doctor_hugepages(struct doctor *doc)
{
	struct doctor_finding *f;
	uint64_t reserved = 0;
	struct huge h;

	huge_read(&h);
	if (h.free_bytes < HUGE_WANTED && doc->fix) {
		reserved = huge_reserve();
		huge_read(&h);
	}
	if (h.free_bytes >= HUGE_WANTED) {
		f = doctor_add(doc, "hugepages", DOCTOR_OK, "%s", h.text);
	} else {
		f = doctor_add(doc, "hugepages", DOCTOR_WARN, "%s: too few, svio will use 4 KiB pages (it works; more "
			       "IOMMU and TLB misses)", h.text[0] ? h.text : "none reserved");
		doctor_remedy(f, "hugeadm --pool-pages-min 2MB:256  (at boot: hugepages=256 on the kernel command "
			      "line)");
	}
	if (reserved)
		doctor_done(f, "reserved %" PRIu64 " hugepages of 2 MiB", reserved);
}
