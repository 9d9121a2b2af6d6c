/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What processes that move have in common, whatever their device: a control socket over which the source is told to, the listener
 * at the target. Parts and areas are their own.
 */
#ifndef SVIO_MOVE_PEER_H
#define SVIO_MOVE_PEER_H

#include "control.h"
#include "svio_migrate.h"

struct move_peer {
	const char *name;	  /* of the device */
	struct svio_device **dev; /* *dev NULL: none at present */
	/* The source is told: 0: a move begins; n: the pre-copy's round n has ended. May be NULL. */
	void (*round)(void *ctx, uint32_t round);
	void *ctx;
	struct svio_migrate *m;
	struct svio_migrate_report report;
	char path[CONTROL_PATH], address[256], lease[256];
	int listen_fd;	/* control */
	int session_fd; /* the target's: for a source that asks again */
	int client;	/* of the command under way, or -1 */
	struct control_in *in; /* what has come from there */
	bool cancelled; /* … and does not want it any more */
	bool finish;	/* whoever may move it wants it to end well, now */
};

int move_peer_init(struct move_peer *move, const char *name, struct svio_device **dev);
/* The part of the device's own migration state, called `part`. */
int move_peer_device(const struct move_peer *move, const char *part, struct svio_migrate_device **devp);
void move_peer_end(struct move_peer *move);
/* A control socket at `path`, or where a process of ours has it. */
int move_peer_control(struct move_peer *move, const char *path);
/* Commands that came: carried out here, threads of the process working on. */
void move_peer_poll(struct move_peer *move);
/* The last word of a process that has moved away. Exit code. */
int move_peer_report(const struct move_peer *move, bool json);

/* `svio migrate listen` */
struct move_listen {
	const char *device, *address, *lease, *control;
	uint64_t max_bytes;
	uint32_t timeout_ms;
	bool json, once, by_state;
};
/*
 * Wait for a process and take it over. again(ctx): can another session be listened to after one that failed? True: it runs here, and has a
 * control socket of its own; false: *exit_code.
 */
bool move_peer_listen(struct move_peer *move, const struct move_listen *args, const char *device, bool (*again)(void *ctx), void *ctx,
		      int *exit_code);
/* The address is nobody's any more. */
void move_peer_unlisten(const struct move_listen *args);

#endif
