/* SPDX-License-Identifier: BSD-3-Clause */
/* What the `svio nvme` commands share: a controller, opened and closed as a whole, and argument values. */
#ifndef SVIO_CMD_NVME_H
#define SVIO_CMD_NVME_H

#include "cli.h"
#include "svio_nvme.h"

int cmd_nvme_identify(int argc, char **argv);
int cmd_nvme_read(int argc, char **argv);
int cmd_nvme_write(int argc, char **argv);
int cmd_nvme_perf(int argc, char **argv);

/* ---- a controller ready for I/O -------------------------------------------------------------------- */

struct nvme_session {
	struct svio_device *dev;
	struct svio_ioas *ioas;
	struct svio_nvme *nvme;
	bool attached;
};

/*
 * Start room mem once per command, with arenas that can hold `bytes` of buffers and the driver's share of so many
 * requests in flight; nvme_mem_stop() at its end. Sessions come and go between them.
 */
int nvme_mem_start(uint64_t bytes, uint64_t requests);
void nvme_mem_stop(void);

/* Open the device called name, attach it to an address space of its own, initialise the controller. opts may be NULL.
 * 0 or -errno, explained; nothing is left open on failure. */
int nvme_session_open(struct nvme_session *s, const char *name, const struct svio_nvme_opts *opts);
/* Everything back, in reverse order. Queue pairs must have been destroyed. A session of zeroes is fine. */
void nvme_session_close(struct nvme_session *s);

/*
 * The namespace nsid, or with nsid 0 the first active one. -ENOTSUP, explained, when its blocks carry metadata, for which
 * these commands have no room.
 */
int nvme_session_ns(struct nvme_session *s, uint32_t nsid, struct svio_nvme_ns *ns);

/* ---- argument values ------------------------------------------------------------------------------- */

/* Parse `text` of option `name` in [min, max], or end with a usage error (argp_error does not return). */
uint64_t nvme_arg_u64(const struct argp_state *state, const char *name, const char *text, uint64_t min, uint64_t max);
uint64_t nvme_arg_size(const struct argp_state *state, const char *name, const char *text, uint64_t min, uint64_t max);

#endif
