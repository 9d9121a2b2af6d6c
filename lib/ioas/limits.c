/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The two limits that users of DMA memory meet, looked at before the kernel is asked, because its answer is only an errno.
 *
 * Linux drivers/vfio/vfio_iommu_type1.c: a container may have dma_entry_limit (module parameter, read when the container
 * is opened) mappings; pinned pages are added to the process's locked_vm (VmLck in /proc/self/status), which must not
 * exceed RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK (then svio_dma_info.accounts_memlock is false). Each container
 * counts for itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include "ioas_priv.h"

int svio__ioas_limit_entries(struct ioas_domain *d, uint64_t entries)
{
	struct svio_dma_info info;

	if (entries <= d->left)
		return 0;
	/* Somebody else may have given some back in a shared domain. */
	if (svio_dma_info(d->dma, &info) == 0)
		d->left = info.max_mappings;
	if (entries <= d->left)
		return 0;
	if (d->peer)
		return svio_fail(ENOSPC, "%s: %" PRIu64 " DMA mappings are needed, %" PRIu64
				 " are left of the server's max_dma_maps: register fewer and larger regions", d->name, entries, d->left);
	return svio_fail(ENOSPC, "%s: %" PRIu64 " DMA mappings are needed, %" PRIu64
			 " are left of the kernel's dma_entry_limit: register fewer and larger regions, or, as root: echo %" PRIu64
			 " > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, and open the device again",
			 d->name, entries, d->left, SVIO_MAX(UINT64_C(65535), 2 * entries));
}

int svio__ioas_limit_memlock(const char *name, uint64_t bytes)
{
	uint64_t kib, locked = 0, pinned = 0, have, need;
	struct rlimit rl;
	char line[256];
	FILE *f;

	if (bytes == 0 || getrlimit(RLIMIT_MEMLOCK, &rl) || rl.rlim_cur == RLIM_INFINITY)
		return 0;
	f = fopen("/proc/self/status", "re");
	if (!f)
		return 0; /* the kernel will say */
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "VmLck: %" SCNu64, &kib) == 1)
			locked = kib;
		else if (sscanf(line, "VmPin: %" SCNu64, &kib) == 1)
			pinned = kib;
	}
	fclose(f);
	have = (uint64_t)rl.rlim_cur >> 10;
	need = locked + ((bytes + 1023) >> 10);
	if (need <= have)
		return 0;
	return svio_fail(ENOMEM, "%s: %" PRIu64 " KiB of DMA memory would be locked (now %" PRIu64 ", pinned otherwise %" PRIu64
			 "), RLIMIT_MEMLOCK is %" PRIu64 " KiB: raise it to %" PRIu64
			 " KiB or more: ulimit -l %" PRIu64 ", memlock in /etc/security/limits.conf, or LimitMEMLOCK= of the service",
			 name, need, locked, pinned, have, need, need);
}
