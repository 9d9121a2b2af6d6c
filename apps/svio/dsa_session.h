/* SPDX-License-Identifier: BSD-3-Clause */
/* What the commands of a DMA engine share: a device with a bond and a queue, and argument values. */
#ifndef SVIO_DSA_SESSION_H
#define SVIO_DSA_SESSION_H

#include "cli.h"
#include "svio_dsa.h"

struct dsa_session {
	struct svio_device *dev;
	struct svio_ioas *ioas; /* NULL: native, and nobody asked for registered memory */
	struct svio_sva_bond *bond;
	struct svio_sva_report report;
	struct svio_dsa *dsa;
	struct svio_dsa_info info;
	struct svio_dsa_wq *wq;
	bool mem, attached;
};

/*
 * Open `name`, bind this process, native if that works, and create a queue. registered: bytes of room mem that the command needs in
 * any mode, 0: none, and EAL is not started in a native bond. wqs: queues to set up. 0 or -errno, explained; nothing is left on failure.
 */
int dsa_session_open(struct dsa_session *s, const char *name, uint64_t registered, uint32_t wqs);
/*
 * The same for a process that may move: room mem for its areas, no driver and no queue yet; an ioas only if the bond needs it, so that
 * a native one is seen to need none.
 */
int dsa_session_movable(struct dsa_session *s, const char *name);
void dsa_session_close(struct dsa_session *s);

/*
 * Arguments without options of their own: so many words as `asked` has questions ("which device?"; it ends with NULL). An argp names
 * dsa_parse_words and dsa_children, and its input begins with this.
 */
#define DSA_WORDS 3
struct dsa_words {
	struct cli_common common;
	const char *const *asked;
	const char *word[DSA_WORDS];
};
error_t dsa_parse_words(int key, char *arg, struct argp_state *state);
extern const struct argp_child dsa_children[];

/* What every report says of the session. */
void dsa_session_json(const struct dsa_session *s, struct json_object *doc);

/* svio_dsa_poll(), which leaves the CPU to a simulated device when there was nothing. */
void dsa_poll(const struct dsa_session *s, struct svio_dsa_wq *wq);

/*
 * Run `op` over [0, op->len) of pointers that the bond reaches, in pieces of at most `piece` bytes of which so many are in flight as fit,
 * with progress; res: bytes, and the CRC when op is one (then piece by piece). 0, or an error explained. -EINTR on a signal.
 */
int dsa_stream(struct dsa_session *s, const struct svio_dsa_op *op, uint64_t piece, struct svio_dsa_result *res);

/* A file of `len` bytes to be written by the device, mapped, under a name of its own until dsa_out_keep(). */
struct dsa_out {
	char *temp;
	const char *name;
	int fd;
	void *map;
	uint64_t len;
};
int dsa_out_open(struct dsa_out *out, const char *name, uint64_t len, mode_t mode);
int dsa_out_keep(struct dsa_out *out);
void dsa_out_drop(struct dsa_out *out);

/* A regular file mapped for reading, and for the device's reads. *map is NULL when it is empty. */
int dsa_in_open(const char *name, void **map, uint64_t *len, mode_t *mode);

#endif
