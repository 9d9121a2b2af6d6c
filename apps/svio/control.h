/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control socket of a process that can move: a line of JSON to it, lines of JSON from it, the last of which has "ok". Descriptors
 * may come with the first line ("stdio"). Commands: send, check (cmd_migrate.c), finish (end well, now); cancel,
 * while a send or check is under way. Only its owner may connect (mode 0600, in a directory of 0700).
 */
#ifndef SVIO_CONTROL_H
#define SVIO_CONTROL_H

#include "cli.h"

#define CONTROL_PATH 108
#define CONTROL_LINE (256u << 10)

/* Where a process of ours has its socket: $XDG_RUNTIME_DIR/svio/PID.sock or /tmp/svio-UID/PID.sock. make: create the directory. */
int control_path(long pid, bool make, char path[CONTROL_PATH]);
/* Listen there, or at `path`; *fd is non-blocking. */
int control_listen(const char *path, int *fd);
int control_connect(const char *path, int *fd);

/* One object as a line; with fds, if nfds. */
int control_send(int fd, struct json_object *obj, const int *fds, unsigned int nfds);
/*
 * The next line, within timeout_ms (0 = for ever). *nfds in: room, out: how many came. -ECONNRESET end, -ETIMEDOUT, -EPROTO no JSON
 * object. `rest` keeps what came behind the line: zero-initialised, CONTROL_LINE bytes.
 */
struct control_in {
	size_t len;
	char data[CONTROL_LINE];
};
int control_receive(int fd, struct control_in *rest, uint32_t timeout_ms, struct json_object **obj, int *fds, unsigned int *nfds);

/* Members, with defaults. */
const char *control_text(struct json_object *obj, const char *key);
uint64_t control_u64(struct json_object *obj, const char *key, uint64_t def);
bool control_bool(struct json_object *obj, const char *key);

#endif
