/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio doctor, inside: a check looks at one thing of the machine and reports findings. The checks are in the
 * doctor_*.c files; cmd_doctor.c runs them and prints.
 */
#ifndef SVIO_DOCTOR_H
#define SVIO_DOCTOR_H

#include "cli.h"

enum doctor_status {
	DOCTOR_OK,
	DOCTOR_WARN, /* svio works, but less well, or not for everybody */
	DOCTOR_FAIL, /* kernel VFIO cannot be used until this is remedied */
};

struct doctor_finding {
	const char *check;
	enum doctor_status status;
	char seen[640];
	char remedy[512]; /* a command or what to change; "" when there is nothing to do */
	char done[256];	  /* what --fix did; "" nothing */
};

struct doctor {
	bool fix; /* --fix: a check may apply its remedy if that is safe, and then looks again */
	struct doctor_finding *findings;
	size_t count, capacity;
};

/* Add a finding and return it; the pointer is good until the next one is added. */
struct doctor_finding *doctor_add(struct doctor *doc, const char *check, enum doctor_status status,
				  const char *fmt, ...) SVIO_PRINTF(4, 5);
void doctor_remedy(struct doctor_finding *finding, const char *fmt, ...) SVIO_PRINTF(2, 3);
void doctor_done(struct doctor_finding *finding, const char *fmt, ...) SVIO_PRINTF(2, 3);

/* The checks. */
void doctor_iommu(struct doctor *doc);	     /* the IOMMU, its groups, interrupt remapping */
void doctor_modules(struct doctor *doc);     /* VFIO's modules */
void doctor_permissions(struct doctor *doc); /* /dev/vfio for this user, RLIMIT_MEMLOCK */
void doctor_hugepages(struct doctor *doc);   /* free pages by size and node */
void doctor_devices(struct doctor *doc);     /* candidates and their groups */
void doctor_sva(struct doctor *doc);	     /* native SVA, and why not */

/* Files as the checks need them. */
bool doctor_read_line(const char *path, char *buf, size_t len); /* first line; false when it cannot be read */
bool doctor_read_u64(const char *path, uint64_t *value);
/* Does a file contain the word? */
bool doctor_file_has(const char *path, const char *word);
size_t doctor_count_entries(const char *dir); /* without "." and ".." */
/* A module (name with '_'): loaded or built in; if not, can modprobe find it? */
bool doctor_module_present(const char *name);
bool doctor_module_loadable(const char *name);
bool doctor_modprobe(const char *name); /* run it; true when it succeeded */

#endif
