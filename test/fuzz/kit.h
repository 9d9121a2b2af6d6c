/* SPDX-License-Identifier: BSD-3-Clause */
/* A device of the kit behind a socketpair, driven in the fuzzer's own thread. */
#ifndef SVIO_FUZZ_KIT_H
#define SVIO_FUZZ_KIT_H

#include "fuzz.h"
#include "vdev_priv.h"

struct fz_kit {
	struct svio_vdev *dev;
	struct svio_vdev_server *srv;
	int fd; /* the client's end */
	uint16_t next_id;
	bool over; /* the server has closed the connection */
};

/* What the server sent: a header and payload, descriptors closed already. */
struct fz_msg {
	struct svio_vfu_hdr hdr;
	uint32_t len;
	uint8_t *data; /* until the next fz_recv() */
};

/* Models known: dsa, edu, nvme, probe. Failing is a failed check. */
void fz_kit_init(void);
void fz_kit_open(struct fz_kit *k, const char *spec, uint32_t flags);
void fz_kit_version(struct fz_kit *k, const char *json);
void fz_kit_turn(struct fz_kit *k, unsigned int rounds);
/* Disconnect, let the server see it, destroy everything. */
void fz_kit_close(struct fz_kit *k);

/* A stream of bytes with descriptors at its front. Takes turns with the server when the socket is full. */
void fz_send(struct fz_kit *k, const void *bytes, size_t len, const int *fds, unsigned int nfds);
void fz_send_msg(struct fz_kit *k, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds,
		 unsigned int nfds);
/* A device feature of `len` bytes, its answer of at most `room` put into data; false when it was refused. */
bool fz_feature(struct fz_kit *k, uint32_t flags, void *data, uint32_t len, uint32_t room);
/* One whole message of the server's, or false. Checks what a client may rely on: whole messages of possible size. */
bool fz_recv(struct fz_kit *k, struct fz_msg *m);

/* A memfd of so many bytes; sealed against shrinking or not. */
int fz_memfd(size_t size, bool sealed);

#endif
