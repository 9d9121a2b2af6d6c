/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the fuzz targets share: an input that is taken apart from its front (what is missing reads as zero, so that every
 * string of bytes is an input), and checks whose failure the fuzzer and the replay in suite `unit` see as a crash.
 */
#ifndef SVIO_FUZZ_H
#define SVIO_FUZZ_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "svio_base.h"

/* libFuzzer's entry points. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define FZ_CHECK(cond)                                                                                                 \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: does not hold: %s (%s)\n", __FILE__, __LINE__, #cond, svio_last_error()); \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

struct fz_in {
	const uint8_t *p;
	size_t left;
};

static inline uint64_t fz_take(struct fz_in *in, size_t bytes)
{
	uint64_t v = 0;
	size_t n = SVIO_MIN(bytes, in->left);

	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)in->p[i] << (8 * i);
	in->p += n;
	in->left -= n;
	return v;
}

static inline uint8_t fz_u8(struct fz_in *in)
{
	return (uint8_t)fz_take(in, 1);
}

static inline uint16_t fz_u16(struct fz_in *in)
{
	return (uint16_t)fz_take(in, 2);
}

static inline uint32_t fz_u32(struct fz_in *in)
{
	return (uint32_t)fz_take(in, 4);
}

static inline uint64_t fz_u64(struct fz_in *in)
{
	return fz_take(in, 8);
}

/* Up to len bytes; returns how many there were, the rest is zeroed. */
static inline size_t fz_bytes(struct fz_in *in, void *to, size_t len)
{
	size_t n = SVIO_MIN(len, in->left);

	if (n)
		memcpy(to, in->p, n);
	if (len > n)
		memset((uint8_t *)to + n, 0, len - n);
	in->p += n;
	in->left -= n;
	return n;
}

static inline void fz_no_log(void *ctx, enum svio_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

/*
 * The lowest free descriptor: the same before and after an input, or the code under test has lost one. For targets whose
 * descriptors all belong to one thread.
 */
static inline int fz_next_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	FZ_CHECK(fd >= 0);
	close(fd);
	return fd;
}

#endif
