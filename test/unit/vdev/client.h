/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A raw vfio-user client for tests: sends exactly the bytes that it is told to, and takes turns
 * with the server (svio_vdev_server_poll()) until the answer is there.
 */
#ifndef VDEV_TEST_CLIENT_H
#define VDEV_TEST_CLIENT_H

#include "svio_vdev.h"
#include "svio_vfio_user.h"
#include "unit.h"

#define TC_MAX (2u << 20)

struct tc {
	struct svio_vdev *dev;
	struct svio_vdev_server *srv;
	int fd;
	uint16_t next_id;
	/* The last message received. */
	struct svio_vfu_hdr hdr;
	uint8_t *data; /* TC_MAX bytes */
	uint32_t len;
	int fds[8];
	unsigned int nfds;
	/* Memory without descriptors: DMA messages are answered from here when auto_dma is set. */
	bool auto_dma;
	uint64_t ram_iova;
	uint8_t *ram;
	size_t ram_len;
	unsigned int dma_seen;
};

/* Device and server over a socketpair, VERSION done. */
void tc_start(struct tc *tc, const char *spec, uint32_t flags);
/* The same, before VERSION. */
void tc_start_raw(struct tc *tc, const char *spec, uint32_t flags);
/* For a server that exists: a client on the connected socket fd. */
void tc_use(struct tc *tc, struct svio_vdev_server *srv, int fd);
void tc_stop(struct tc *tc);  /* everything */
void tc_close(struct tc *tc); /* the client's end only */

void tc_send_raw(struct tc *tc, const void *bytes, size_t len, const int *fds, unsigned int nfds);
uint16_t tc_send(struct tc *tc, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds,
		 unsigned int nfds);
/* Turns: `rounds` of the server. */
void tc_rounds(struct tc *tc, unsigned int rounds);
/*
 * The next message from the server into tc->hdr, data, fds; false when none comes or the connection
 * has ended.
 */
bool tc_recv(struct tc *tc);
/* The connection has ended, from the server's side. */
bool tc_closed(struct tc *tc);

/*
 * Request and reply: 0 or -errno of the reply; -ENODATA none came. Checks that id and command are
 * echoed.
 */
int tc_call_fds(struct tc *tc, uint16_t cmd, const void *payload, size_t len, const int *fds, unsigned int nfds);
int tc_call(struct tc *tc, uint16_t cmd, const void *payload, size_t len);
int tc_version(struct tc *tc, const char *json);

int tc_read(struct tc *tc, uint32_t region, uint64_t off, void *buf, uint32_t len);
int tc_write(struct tc *tc, uint32_t region, uint64_t off, const void *buf, uint32_t len);
uint32_t tc_cfg(struct tc *tc, uint64_t off, unsigned int width);
void tc_cfg_set(struct tc *tc, uint64_t off, unsigned int width, uint32_t value);
uint32_t tc_r32(struct tc *tc, uint64_t off); /* BAR0 */
void tc_w32(struct tc *tc, uint64_t off, uint32_t value);
void tc_w64(struct tc *tc, uint64_t off, uint64_t value);
void tc_master(struct tc *tc); /* memory and bus master on */

int tc_map(struct tc *tc, uint64_t iova, uint64_t size, uint64_t off, uint32_t flags, int fd);
int tc_unmap(struct tc *tc, uint64_t iova, uint64_t size);
int tc_irqs(struct tc *tc, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int *fds,
	    unsigned int nfds);
int tc_feature(struct tc *tc, uint32_t flags, const void *data, size_t len, uint32_t argsz);
/* Region info; the descriptor (or -1) is the caller's. */
int tc_region_info(struct tc *tc, uint32_t index, struct svio_vfu_region_info *info, int *fd);
int tc_mig_set(struct tc *tc, uint32_t state);
uint32_t tc_mig_get(struct tc *tc);

/* A sealed memfd, as QEMU's: returns the fd, *p its mapping. */
int tc_memfd(size_t size, unsigned int seals, void **p);
/*
 * Mappings of memfds in this process: what devices and clients share, without the allocators' own.
 */
int tc_count_memfds(void);
int tc_eventfd(void);
/* Value of an eventfd, 0 when it was not signalled. */
uint64_t tc_signalled(int efd);

#endif
