/* SPDX-License-Identifier: BSD-3-Clause */
/* What the test's clients have in common, and the cases. */
#ifndef QUIRKY_CASES_H
#define QUIRKY_CASES_H

#include "nvme.h"

#define RAM_NAME "quirky-ram" /* as /proc/PID/maps has it */

/* A memfd of that name and our mapping of it. */
int ram_fd(uint64_t len, unsigned int seals, void **p);
/* Wait until the server has no mapping of our memory. */
bool let_go(const struct qk *k);
/* BAR0 with 4,064 bytes of request: the doorbell page and its descriptor, or -1 when it has no area. */
int doorbell_area(struct qk *k, uint64_t *off);

void case_spdk(const char *path, bool split, bool shared);
void case_fua(const char *path);
void case_qemu(const char *path, bool shared);
void case_viommu(const char *path);
void case_sleep(const char *path);

#endif
