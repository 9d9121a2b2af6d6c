/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copying between a namespace and a stream at queue depth: what `svio nvme read` and `svio nvme write` share.
 *
 * The blocks are cut into chunks; up to `qd` of them are in flight, and the stream's side sees them in order whatever
 * order they complete in.
 */
#ifndef SVIO_CMD_NVME_COPY_H
#define SVIO_CMD_NVME_COPY_H

#include "cmd_nvme.h"

#define COPY_DEFAULT_QD 16
#define COPY_DEFAULT_BS (128u << 10)
#define COPY_MAX_QD	1024
#define COPY_MAX_BS	(1u << 20)

/* The options that both commands have: a child of their argp, given in child_inputs. */
struct copy_args {
	struct cli_common common;
	const char *device;
	uint64_t lba;
	uint32_t nsid, qd, bs;
};
extern const struct argp copy_argp;

struct copy {
	const struct copy_args *args;
	struct nvme_session session;
	struct svio_nvme_ns ns;
	struct svio_nvme_qp *qp;
	uint32_t qd;
	uint32_t chunk_blocks;
	struct copy_chunk *chunks; /* qd of them */
	uint64_t done_blocks;	   /* confirmed by the controller and, reading, by the stream */
	uint64_t total_blocks;	   /* for the progress; 0 unknown */
	uint64_t start_ns, shown_ns;
};

/* Open everything up to buffers and a queue pair; copy_close() in any case. 0 or -errno, explained. */
int copy_open(struct copy *c, const struct copy_args *args);
void copy_close(struct copy *c);

/* Blocks [lba, lba + n) lie in the namespace, or -ERANGE, explained. */
int copy_check_range(const struct copy *c, uint64_t n);

/*
 * Read n blocks; sink() gets them in order, len bytes at a time, and returns 0 or -errno, explained.
 */
int copy_read(struct copy *c, uint64_t n, int (*sink)(void *ctx, const void *buf, size_t len), void *ctx);

/*
 * Write until the source ends. source() puts up to max blocks into buf and stores how many in *nlb; 0 is the end. A failure of
 * source() ends the copy after what it gave before has been written.
 */
int copy_write(struct copy *c, int (*source)(void *ctx, void *buf, uint32_t max, uint32_t *nlb), void *ctx);

int copy_flush(struct copy *c);

/* The last line: how much, how fast. `verb` is past tense. */
int copy_report(const struct copy *c, const char *verb);

#endif
