/* SPDX-License-Identifier: BSD-3-Clause */
/* `svio dsa perf --migratable`: work on a DMA engine, in a process that moves. */
#ifndef SVIO_DSA_MOVE_H
#define SVIO_DSA_MOVE_H

#include "dsa_work.h"
#include "move_peer.h"

struct dsa_move_args {
	const char *device, *control; /* control: path of its socket; NULL: where processes of ours have it */
	struct dsa_work_config work;
	uint64_t time_ms;
	bool by_state, json;
};
int dsa_move_run(const struct dsa_move_args *args);

/* `svio migrate listen` on such a device: wait for a run, and be it. Exit codes. */
bool dsa_move_is_dsa(const char *device);
int dsa_move_listen(const struct move_listen *args);

#endif
