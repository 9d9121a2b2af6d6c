/* SPDX-License-Identifier: BSD-3-Clause */
/* For the rooms that take much memory at once: too much wakes the OOM killer instead of failing. */
#ifndef SVIO_MEMINFO_H
#define SVIO_MEMINFO_H

#include <stdint.h>

/* Bytes that the machine can give without swapping (proc(5), MemAvailable); UINT64_MAX: it does not say. Any thread. */
uint64_t svio__mem_available(void);

#endif
