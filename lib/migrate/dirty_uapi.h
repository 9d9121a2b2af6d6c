/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Kernel interfaces that the headers of Linux 6.1 lack, written down from Documentation/admin-guide/mm/pagemap.rst and
 * userfaultfd.rst of Linux 6.7. Whether the running kernel has them is found out by calling them.
 */
#ifndef SVIO_DIRTY_UAPI_H
#define SVIO_DIRTY_UAPI_H

#ifndef SVIO_ROOM_MIGRATE
#error "dirty_uapi.h is internal to room migrate"
#endif

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* UFFDIO_API features: markers for pages that are not there yet; faults resolved by the kernel itself. */
#define DIRTY_UFFD_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)
#define DIRTY_UFFD_WP_UNPOPULATED     (UINT64_C(1) << 13)
#define DIRTY_UFFD_WP_ASYNC	      (UINT64_C(1) << 15)
/* Flag of userfaultfd(2): faults of user mode only, for which no privilege is asked. */
#define DIRTY_UFFD_USER_MODE_ONLY     1

/* PAGEMAP_SCAN on /proc/self/pagemap. */
struct dirty_scan_region {
	uint64_t start, end, categories;
};

struct dirty_scan {
	uint64_t size, flags;
	uint64_t start, end;
	uint64_t walk_end; /* out: where it stopped */
	uint64_t vec, vec_len;
	uint64_t max_pages;
	uint64_t inverted, mask, anyof, wanted; /* categories */
};
_Static_assert(sizeof(struct dirty_scan) == 96, "struct pm_scan_arg");

#define DIRTY_PAGEMAP_SCAN _IOWR('f', 16, struct dirty_scan)

enum { /* flags */
       DIRTY_SCAN_WP_MATCHING = 1 << 0,
};
enum { /* categories */
       DIRTY_SCAN_WPALLOWED = 1 << 0, /* in memory registered with an asynchronous userfaultfd */
       DIRTY_SCAN_WRITTEN = 1 << 1,
       DIRTY_SCAN_PRESENT = 1 << 3,
       DIRTY_SCAN_SWAPPED = 1 << 4,
};

#endif
