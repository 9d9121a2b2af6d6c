/* SPDX-License-Identifier: BSD-3-Clause */
/* How much memory this process may still take, and whether a range of addresses is free: asked before anything is taken. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include "meminfo.h"
#include "migrate_priv.h"

#define CGROUP_ROOT "/sys/fs/cgroup" /* version 2: kernel's Documentation/admin-guide/cgroup-v2.rst */

/* The first number of a file; UINT64_MAX when there is none ("max", no such file). */
static uint64_t number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t n = UINT64_MAX;

	if (f && fscanf(f, "%" SCNu64, &n) != 1)
		n = UINT64_MAX;
	if (f)
		fclose(f);
	return n;
}

/* What a control group would give back before anything is killed: memory.stat. */
static uint64_t reclaimable(const char *group)
{
	char path[320], key[64];
	uint64_t n, sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), CGROUP_ROOT "%s/memory.stat", group);
	f = fopen(path, "re");
	while (f && fscanf(f, "%63s %" SCNu64, key, &n) == 2)
		if (strcmp(key, "inactive_file") == 0 || strcmp(key, "active_file") == 0 || strcmp(key, "slab_reclaimable") == 0)
			sum += n;
	if (f)
		fclose(f);
	return sum;
}

/* Of our control group and all above it. Beyond it the OOM killer comes, and no error. */
static uint64_t of_cgroup(void)
{
	char line[256] = "", path[320];
	uint64_t least = UINT64_MAX;
	FILE *f = fopen("/proc/self/cgroup", "re");
	char *group = NULL;

	while (f && !group && fgets(line, sizeof(line), f))
		if (strncmp(line, "0::/", 4) == 0)
			group = line + 3;
	if (f)
		fclose(f);
	if (!group)
		return UINT64_MAX;
	group[strcspn(group, "\n")] = '\0';
	for (char *slash; *group; *slash = '\0') {
		uint64_t max, used;

		snprintf(path, sizeof(path), CGROUP_ROOT "%s/memory.max", group);
		max = number_in(path);
		snprintf(path, sizeof(path), CGROUP_ROOT "%s/memory.current", group);
		used = number_in(path);
		if (max != UINT64_MAX && used != UINT64_MAX) {
			used -= SVIO_MIN(used, reclaimable(group));
			least = SVIO_MIN(least, max > used ? max - used : 0);
		}
		slash = strrchr(group, '/');
		if (!slash)
			break;
	}
	return least;
}

/* Of addresses: setrlimit(2). */
static uint64_t of_limit(void)
{
	uint64_t used = number_in("/proc/self/statm");
	struct rlimit lim;

	if (getrlimit(RLIMIT_AS, &lim) || lim.rlim_cur == RLIM_INFINITY || used == UINT64_MAX)
		return UINT64_MAX;
	used *= (uint64_t)sysconf(_SC_PAGESIZE);
	return lim.rlim_cur > used ? lim.rlim_cur - used : 0;
}

uint64_t svio__mg_available(void)
{
	return SVIO_MIN(SVIO_MIN(svio__mem_available(), of_cgroup()), of_limit());
}

bool svio__mg_is_free(uint64_t base, uint64_t bytes)
{
	void *want = (void *)(uintptr_t)base;
	void *p = mmap(want, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		return errno != EEXIST; /* what else fails has a reason of its own, and is told when it matters */
	munmap(p, bytes);
	return p == want; /* Linux before 4.17 takes it for a hint */
}
