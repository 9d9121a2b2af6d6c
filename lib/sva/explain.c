/* SPDX-License-Identifier: BSD-3-Clause */
/* The device's own account of its SVA, in words. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "ptracer.h"
#include "sva_priv.h"

const char *svio_sva_mode_text(enum svio_sva_mode mode)
{
	static const char *const texts[] = {
		[SVIO_SVA_DEAD] = "none",
		[SVIO_SVA_NATIVE] = "native",
		[SVIO_SVA_MIRROR] = "mirror",
		[SVIO_SVA_IDENTITY] = "identity",
	};

	return (unsigned int)mode < SVIO_ARRAY_SIZE(texts) ? texts[mode] : "unknown";
}

static void no_feature(struct svio_device *dev, char *buf, size_t len)
{
	struct svio_device_info info;

	svio_device_get_info(dev, &info);
	if (info.transport == SVIO_TRANSPORT_USER)
		snprintf(buf, len, "the vfio-user server has no SVA for this device");
	else
		snprintf(buf, len, "the kernel driver that it is bound to has no SVA; run: svio bind --driver svio-vfio-pci %s",
			 svio_device_name(dev));
}

int svio__sva_let_in(struct svio_device *dev, pid_t *tracer)
{
	struct svio_device_info info;
	int err;

	*tracer = 0;
	svio_device_get_info(dev, &info);
	if (info.transport != SVIO_TRANSPORT_USER)
		return 0;
	if (!info.server_pid)
		return -ESRCH;
	err = svio__ptracer_allow(info.server_pid);
	if (!err)
		*tracer = info.server_pid;
	return err;
}

void svio__sva_explain_access(int tracer_err, char *buf, size_t len)
{
	int scope = svio__ptracer_scope();

	if (scope > 1)
		snprintf(buf, len, "kernel.yama.ptrace_scope is %d, so no unprivileged process reaches another's memory; %s", scope,
			 scope == 2 ? "give the server CAP_SYS_PTRACE, or run: sysctl kernel.yama.ptrace_scope=1" :
				      "boot without it, or use registered memory");
	else if (scope == 1 && tracer_err == -EBUSY)
		snprintf(buf, len, "this process has let the server of another device reach its memory, and "
			 "kernel.yama.ptrace_scope=1 allows one server at a time; serve both from one process, or run: "
			 "sysctl kernel.yama.ptrace_scope=0");
	else if (scope == 1 && tracer_err)
		snprintf(buf, len, "the server's process cannot be let in (%s), which kernel.yama.ptrace_scope=1 asks for; if it runs "
			 "in a container, run both in the same, or: sysctl kernel.yama.ptrace_scope=0", strerror(-tracer_err));
	else
		snprintf(buf, len, "the device's process may not reach this one's memory; run both as the same user%s",
			 scope == 1 ? " (kernel.yama.ptrace_scope=1 is not the reason: the server has been let in)" : "");
}

static bool access_refused(struct svio_device *dev, const struct svio_sva_info *info)
{
	struct svio_device_info device;

	svio_device_get_info(dev, &device);
	return device.transport == SVIO_TRANSPORT_USER && info->reason == SVIO_SVA_REFUSED &&
	       (info->error == -EPERM || info->error == -EACCES);
}

void svio__sva_explain(struct svio_device *dev, const struct svio_sva_info *info, int err, int tracer_err, char *buf, size_t len)
{
	static const char *const reasons[] = {
		[SVIO_SVA_OK] = "no reason is given",
		[SVIO_SVA_NO_KERNEL] = "this kernel refuses SVA (x86 before 6.19: CVE-2025-71202); boot Linux 6.19 or later",
		[SVIO_SVA_NO_IOMMU] = "no IOMMU, or one without PASIDs; VT-d needs intel_iommu=on,sm_on, AMD amd_iommu=pgtbl_v2",
		[SVIO_SVA_NO_PASID] = "the function has no PASID capability",
		[SVIO_SVA_NO_PRI] = "the function cannot ask for pages (PRI), and its IOMMU needs that",
		[SVIO_SVA_NO_ATS] = "the function has no ATS, or is not trusted with it (an untrusted or external port)",
		[SVIO_SVA_SHARED_GROUP] = "several functions share its IOMMU group, and all of them would get the PASID; "
					  "run: svio info DEV, which says why they share it",
		[SVIO_SVA_DENYLIST] = "vfio-pci's denylist names the function; an administrator who trusts its users may load "
				      "svio_vfio_pci with disable_denylist=1",
	};

	if (err == -ENOTTY || err == -EINVAL)
		no_feature(dev, buf, len);
	else if (err)
		snprintf(buf, len, "it did not say what SVA it has: %s", strerror(-err));
	else if (access_refused(dev, info))
		svio__sva_explain_access(tracer_err, buf, len);
	else if (info->reason == SVIO_SVA_REFUSED)
		snprintf(buf, len, "the IOMMU refused a trial bind: %s%s", strerror(info->error < 0 ? -info->error : info->error),
			 info->error == -EINVAL ? "; on AMD, boot with amd_iommu=pgtbl_v2" : "");
	else if (info->reason < SVIO_ARRAY_SIZE(reasons))
		snprintf(buf, len, "%s", reasons[info->reason]);
	else
		snprintf(buf, len, "for reason %" PRIu32 ", which is newer than this library", info->reason);
}

static void explain_native(const struct svio_sva_info *info, char *buf, size_t len)
{
	snprintf(buf, len, "%sprocess page tables by PASID (%" PRIu32 " bits, %" PRIu32 " of %" PRIu32 " bonds used); %s",
		 info->flags & SVIO_SVA_INFO_SIMULATED ? "simulated device: " : "", info->pasid_bits, info->bonds, info->quota,
		 info->flags & SVIO_SVA_INFO_PRI ? "page faults resolve by PRI" :
						   "no page requests: what is not resident stops a descriptor, and the driver goes on from there");
}

int svio_sva_get_report(struct svio_device *dev, struct svio_sva_report *report)
{
	int err, tracer_err;
	pid_t tracer;

	memset(report, 0, sizeof(*report));
	/* The answer depends on it. */
	tracer_err = svio__sva_let_in(dev, &tracer);
	err = svio_device_feature(dev, SVIO_FEATURE_GET, SVIO_VFIO_FEATURE_SVA_INFO, &report->info, sizeof(report->info));
	if (tracer)
		svio__ptracer_revoke(tracer);
	if (err == -ENODEV)
		return err;
	report->has_info = err == 0;
	if (err)
		memset(&report->info, 0, sizeof(report->info));
	/* A width that PASIDs cannot have (PCIe 5.0 §7.8.8) is not believed. */
	if (report->info.pasid_bits > 20)
		report->info.pasid_bits = 20;
	if (report->info.flags & SVIO_SVA_INFO_NATIVE) {
		report->mode = SVIO_SVA_NATIVE;
		explain_native(&report->info, report->why, sizeof(report->why));
		return 0;
	}
	report->mode = SVIO_SVA_IDENTITY;
	svio__sva_explain(dev, &report->info, err, tracer_err, report->why, sizeof(report->why));
	return 0;
}
