/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One connection to a vfio-user server: requests out, replies matched by id, and the server's own requests (DMA_READ, DMA_WRITE)
 * answered, by one reader thread.
 *
 * Any thread may have requests under way; they are pipelined. The server is a stranger: sizes, ids, descriptors and addresses are
 * checked, and the first lie ends the connection. A connection ends once and for all; what waits then gets -ENODEV
 * (or -EPROTO where the reply itself was the lie), and the device's SVIO_EV_GONE is raised.
 */
#ifndef SVIO_VFIO_USER_CONN_H
#define SVIO_VFIO_USER_CONN_H

#include "vfio_priv.h"
#include "svio_vfio_user.h"

#define SVIO__USER_MAX_FDS  16u	       /* of one message, both ways */
#define SVIO__USER_MAX_XFER (1u << 20) /* bytes of data in one message, both ways */

struct svio__user_conn;

/* A request, and what becomes of it. The caller's memory until svio__user_wait() returned. */
struct svio__user_req {
	uint16_t cmd;
	const void *head; /* fixed part of the payload */
	size_t head_len;
	const void *data; /* and what follows it, or NULL */
	size_t data_len;
	const int *fds;
	uint32_t num_fds;

	void *reply; /* payload of the reply goes here, up to reply_cap bytes; more is a protocol error */
	size_t reply_cap;
	size_t reply_len; /* how much came */
	int reply_fd;	  /* the first descriptor that came, the caller's; -1 = none */
	bool want_fd;	  /* otherwise descriptors are a protocol error */

	/* private */
	struct svio__user_req *next;
	uint16_t id;
	bool done;
	int err;
	uint64_t deadline_ns;
};

/*
 * Take over a connected stream socket, also on failure. Starts the reader. name is for messages;
 * the version is negotiated before this returns.
 */
int svio__user_conn_new(int fd, const char *name, uint32_t timeout_ms, struct svio__user_conn **connp);
/* From now on GONE is raised on dev; NULL: on nobody. */
void svio__user_conn_set_device(struct svio__user_conn *conn, struct svio_device *dev);
/* End the connection and the reader. What others still hold answers -ENODEV. forked: in a child of the owner, which has no reader. */
void svio__user_conn_disconnect(struct svio__user_conn *conn, bool forked);
void svio__user_conn_get(struct svio__user_conn *conn);
void svio__user_conn_put(struct svio__user_conn *conn);

/* Bytes of data and descriptors that the server takes in one message; and how many DMA mappings. */
uint32_t svio__user_max_xfer(const struct svio__user_conn *conn);
uint32_t svio__user_max_fds(const struct svio__user_conn *conn);
uint64_t svio__user_max_maps(const struct svio__user_conn *conn);
bool svio__user_dead(struct svio__user_conn *conn);

/* Send; -errno when it could not be sent (do not wait then). */
int svio__user_send(struct svio__user_conn *conn, struct svio__user_req *req);
/* The reply: 0 or the server's error as -errno; explained when the connection broke. */
int svio__user_wait(struct svio__user_conn *conn, struct svio__user_req *req);
/* Both. */
int svio__user_call(struct svio__user_conn *conn, struct svio__user_req *req);

/* svio_dma_on_message_write(). */
typedef void (*svio__message_written_fn)(void *ptr, size_t len);
extern _Atomic(svio__message_written_fn) svio__message_written;

/* Memory that the server may ask for by message. -ENOMEM, -EEXIST. */
int svio__user_mem_add(struct svio__user_conn *conn, const struct svio_dma_map *map);
/* When it returns, no copy is under way. */
void svio__user_mem_del(struct svio__user_conn *conn, uint64_t iova, uint64_t len);

#endif
