/* SPDX-License-Identifier: BSD-3-Clause */
/* Does something that people would miss live here? What the first bytes of a disk say. */
#ifndef SVIO_PERF_SIGNATURE_H
#define SVIO_PERF_SIGNATURE_H

#include <stddef.h>
#include <stdint.h>

/* All signatures looked for lie within so many bytes. */
#define PERF_SIGNATURE_BYTES (128u << 10)

/*
 * "an ext2/3/4 file system", or NULL when nothing known begins in data[0 … len). sector: the block size, which tells where a GPT
 * is. Static string.
 */
const char *perf_signature(const void *data, size_t len, uint32_t sector);

#endif
