/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vfio-user client written for tests, apart from lib/vfio: it speaks the wire as it is told to, in the ways of other clients, and
 * takes nothing for granted. One thread. What must hold for a test to go on ends the program when it does not; everything waited
 * for has a limit.
 */
#ifndef QUIRKY_WIRE_H
#define QUIRKY_WIRE_H

#include <sys/types.h>
#include "svio_base.h"
#include "svio_vfio_user.h"

#define QK_MAX	   (2u << 20) /* bytes of a message */
#define QK_FDS	   16u
#define QK_RAMS	   4u
#define QK_LIMIT_S 40u

#define QK_MAP_RW   (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)
#define QK_REPLY_ID 0

struct qk_ram { /* for the server's DMA_READ and DMA_WRITE */
	uint64_t iova, len;
	uint8_t *ptr;
};

struct qk {
	int sock;
	pid_t server; /* SO_PEERCRED */
	bool split;   /* header and payload are sent apart: the payload when the header has been read */
	bool no_ids;  /* every message has the id 0, as SPDK's have */
	bool hold;    /* leave DMA messages unanswered, in `held` */
	uint16_t next_id;
	/* The last message. Its descriptors are ours to close. */
	struct svio_vfu_hdr hdr;
	uint8_t *data;
	uint32_t len;
	int fds[QK_FDS];
	unsigned int nfds;

	struct qk_ram ram[QK_RAMS];
	unsigned int nram;
	struct {
		struct svio_vfu_hdr hdr;
		struct svio_vfu_dma_rw rw;
	} held[64];
	unsigned int nheld;
	uint64_t requests, dma_reads, dma_writes; /* messages */
};

/* One line of the test's output. */
void qk_check(bool good, const char *fmt, ...) SVIO_PRINTF(2, 3);
/* "not ok", and the end, when it does not hold. */
void qk_need(bool good, const char *fmt, ...) SVIO_PRINTF(2, 3);
int qk_failures(void);
/* CLOCK_MONOTONIC, seconds; qk_late(): more than the limit since then. */
uint64_t qk_now(void);
bool qk_late(uint64_t since);

void qk_connect(struct qk *k, const char *path);
void qk_close(struct qk *k);

uint16_t qk_send(struct qk *k, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds, unsigned int nfds);
/* The next message, whole: header by one recvmsg(), payload by one read() as far as a socket buffer holds it. */
void qk_recv(struct qk *k);
/* Wait up to `ms` for messages from the server and answer its DMA requests. True when there was one. */
bool qk_serve(struct qk *k, int ms);
/* Answer what was held. */
void qk_release(struct qk *k);
/* Until the reply to `id`, which must be to `cmd`: 0 or -errno. DMA requests in between are served. */
int qk_reply(struct qk *k, uint16_t id, uint16_t cmd);
int qk_call(struct qk *k, uint16_t cmd, const void *payload, size_t len, const int *fds, unsigned int nfds);
/* False: the connection goes on. True: the server has ended it. */
bool qk_ended(struct qk *k);

int qk_version(struct qk *k, uint16_t minor, const char *json);
/* `size` bytes of request, of which argsz is the same; what the reply has beyond the structure stays in k->data. fd: -1 or ours. */
int qk_region_info(struct qk *k, uint32_t index, uint32_t size, uint32_t argsz, struct svio_vfu_region_info *info, int *fd);
int qk_irq_info(struct qk *k, uint32_t index, struct svio_vfu_irq_info *info);
int qk_irqs(struct qk *k, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int *fds, unsigned int nfds);
int qk_read(struct qk *k, uint32_t region, uint64_t off, void *buf, uint32_t len);
int qk_write(struct qk *k, uint32_t region, uint64_t off, const void *buf, uint32_t len);
void qk_post(struct qk *k, uint32_t region, uint64_t off, const void *buf, uint32_t len); /* NO_REPLY */
uint32_t qk_config(struct qk *k, uint64_t off, uint32_t width);
void qk_config_set(struct qk *k, uint64_t off, uint32_t width, uint32_t value);
/* Standard capability; 0 when there is none. */
uint32_t qk_capability(struct qk *k, uint8_t id);
int qk_map(struct qk *k, uint64_t iova, uint64_t size, uint64_t off, uint32_t flags, int fd);
/* fd: -1, or one that comes along for no reason. */
int qk_unmap(struct qk *k, uint64_t iova, uint64_t size, int fd);

/* The server's own descriptors, and how many of its mappings have `name` in them. */
unsigned int qk_server_fds(const struct qk *k);
bool qk_server_has_fds(const struct qk *k, unsigned int n); /* soon */
unsigned int qk_server_maps(const struct qk *k, const char *name);

#endif
