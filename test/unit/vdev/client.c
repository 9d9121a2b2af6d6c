/* SPDX-License-Identifier: BSD-3-Clause */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "client.h"
#include "probe.h"

#define TURNS 20000u

extern const struct svio_vdev_model svio_edu_model;

void tc_use(struct tc *tc, struct svio_vdev_server *srv, int fd)
{
	memset(tc, 0, sizeof(*tc));
	tc->srv = srv;
	tc->fd = fd;
	tc->next_id = 7;
	tc->data = malloc(TC_MAX);
	CU_ASSERT_PTR_NOT_NULL_FATAL(tc->data);
}

void tc_start_raw(struct tc *tc, const char *spec, uint32_t flags)
{
	struct svio_vdev_server_opts opts = { .size = sizeof(opts), .socket_rounds = 1 };
	struct svio_vdev_server *srv;
	struct svio_vdev *dev;
	int pair[2];

	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&svio_edu_model), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_model_register(&probe_model), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_create(spec, flags, &dev), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_create(&opts, &srv), 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	CU_ASSERT_EQUAL_FATAL(svio_vdev_server_attach(srv, dev, pair[1]), 0);
	tc_use(tc, srv, pair[0]);
	tc->dev = dev;
}

void tc_start(struct tc *tc, const char *spec, uint32_t flags)
{
	tc_start_raw(tc, spec, flags);
	CU_ASSERT_EQUAL_FATAL(tc_version(tc, "{\"capabilities\":{\"max_msg_fds\":16}}"), 0);
}

void tc_close(struct tc *tc)
{
	if (tc->fd >= 0)
		close(tc->fd);
	tc->fd = -1;
	free(tc->data);
	tc->data = NULL;
}

void tc_stop(struct tc *tc)
{
	tc_close(tc);
	svio_vdev_server_destroy(tc->srv);
	svio_vdev_destroy(tc->dev);
}

void tc_send_raw(struct tc *tc, const void *bytes, size_t len, const int *fds, unsigned int nfds)
{
	char control[CMSG_SPACE(300 * sizeof(int))] = { 0 };
	size_t pos = 0;

	for (unsigned int turn = 0; pos < len && turn < TURNS; turn++) {
		struct iovec iov = { .iov_base = (char *)(uintptr_t)bytes + pos, .iov_len = len - pos };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (nfds && pos == 0) {
			struct cmsghdr *cm;

			mh.msg_control = control;
			mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
			cm = CMSG_FIRSTHDR(&mh);
			cm->cmsg_level = SOL_SOCKET;
			cm->cmsg_type = SCM_RIGHTS;
			cm->cmsg_len = CMSG_LEN(nfds * sizeof(int));
			memcpy(CMSG_DATA(cm), fds, nfds * sizeof(int));
		}
		n = sendmsg(tc->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			return;
		if (n > 0)
			pos += (size_t)n;
		else
			svio_vdev_server_poll(tc->srv);
	}
}

uint16_t tc_send(struct tc *tc, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds,
		 unsigned int nfds)
{
	struct svio_vfu_hdr h = { .id = tc->next_id++, .cmd = cmd, .size = (uint32_t)(sizeof(h) + len), .flags = flags };
	uint8_t *m = malloc(sizeof(h) + len);

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	memcpy(m, &h, sizeof(h));
	if (len)
		memcpy(m + sizeof(h), payload, len);
	tc_send_raw(tc, m, sizeof(h) + len, fds, nfds);
	free(m);
	return h.id;
}

void tc_rounds(struct tc *tc, unsigned int rounds)
{
	while (rounds--)
		svio_vdev_server_poll(tc->srv);
}

/* Exactly len bytes; false when they do not come. */
static bool get(struct tc *tc, void *buf, size_t len)
{
	char control[CMSG_SPACE(8 * sizeof(int))];
	size_t pos = 0;

	for (unsigned int turn = 0; pos < len && turn < TURNS; turn++) {
		struct iovec iov = { .iov_base = (char *)buf + pos, .iov_len = len - pos };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				     .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(tc->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		struct cmsghdr *cm;

		if (n == 0)
			return false;
		if (n < 0) {
			if (errno != EAGAIN)
				return false;
			svio_vdev_server_poll(tc->srv);
			continue;
		}
		for (cm = CMSG_FIRSTHDR(&mh); cm; cm = CMSG_NXTHDR(&mh, cm)) {
			unsigned int k = (unsigned int)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));

			memcpy(tc->fds, CMSG_DATA(cm), k * sizeof(int));
			tc->nfds = k;
		}
		pos += (size_t)n;
	}
	return pos == len;
}

static void answer_dma(struct tc *tc)
{
	struct svio_vfu_dma_rw rw;
	struct svio_vfu_hdr h = { .id = tc->hdr.id, .cmd = tc->hdr.cmd, .flags = SVIO_VFU_REPLY };
	bool rd = tc->hdr.cmd == SVIO_VFU_DMA_READ;
	uint8_t *m;
	size_t n;

	tc->dma_seen++;
	memcpy(&rw, tc->data, sizeof(rw));
	CU_ASSERT_EQUAL(tc->len, sizeof(rw) + (rd ? 0 : rw.count));
	n = sizeof(h) + sizeof(rw) + (rd ? rw.count : 0);
	m = malloc(n);
	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	h.size = (uint32_t)n;
	memcpy(m + sizeof(h), &rw, sizeof(rw));
	if (rw.iova < tc->ram_iova || rw.iova - tc->ram_iova > tc->ram_len - rw.count) {
		h.flags |= SVIO_VFU_ERROR;
		h.error = EFAULT;
		h.size = sizeof(h);
	} else if (rd) {
		memcpy(m + sizeof(h) + sizeof(rw), tc->ram + (rw.iova - tc->ram_iova), rw.count);
	} else {
		memcpy(tc->ram + (rw.iova - tc->ram_iova), tc->data + sizeof(rw), rw.count);
	}
	memcpy(m, &h, sizeof(h));
	tc_send_raw(tc, m, h.size, NULL, 0);
	free(m);
}

bool tc_recv(struct tc *tc)
{
	for (;;) {
		tc->nfds = 0;
		tc->len = 0;
		if (!get(tc, &tc->hdr, sizeof(tc->hdr)))
			return false;
		CU_ASSERT_FATAL(tc->hdr.size >= sizeof(tc->hdr) && tc->hdr.size <= TC_MAX);
		tc->len = tc->hdr.size - (uint32_t)sizeof(tc->hdr);
		if (!get(tc, tc->data, tc->len))
			return false;
		if (!tc->auto_dma || (tc->hdr.flags & SVIO_VFU_TYPE_MASK) == SVIO_VFU_REPLY)
			return true;
		answer_dma(tc);
	}
}

bool tc_closed(struct tc *tc)
{
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		char c;
		ssize_t n = recv(tc->fd, &c, 1, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return true;
		if (n > 0)
			return false;
		svio_vdev_server_poll(tc->srv);
	}
	return false;
}

int tc_call_fds(struct tc *tc, uint16_t cmd, const void *payload, size_t len, const int *fds, unsigned int nfds)
{
	uint16_t id = tc_send(tc, cmd, 0, payload, len, fds, nfds);

	if (!tc_recv(tc))
		return -ENODATA;
	CU_ASSERT_EQUAL(tc->hdr.id, id);
	CU_ASSERT_EQUAL(tc->hdr.cmd, cmd);
	CU_ASSERT_EQUAL(tc->hdr.flags & SVIO_VFU_TYPE_MASK, SVIO_VFU_REPLY);
	if (tc->hdr.flags & SVIO_VFU_ERROR) {
		CU_ASSERT_EQUAL(tc->len, 0);
		CU_ASSERT_EQUAL(tc->nfds, 0);
		CU_ASSERT_NOT_EQUAL(tc->hdr.error, 0);
		return -(int)tc->hdr.error;
	}
	return 0;
}

int tc_call(struct tc *tc, uint16_t cmd, const void *payload, size_t len)
{
	return tc_call_fds(tc, cmd, payload, len, NULL, 0);
}

int tc_version(struct tc *tc, const char *json)
{
	struct svio_vfu_version v = { .major = 0, .minor = 1 };
	uint8_t m[1024];
	size_t n = sizeof(v);

	memcpy(m, &v, sizeof(v));
	if (json) {
		memcpy(m + n, json, strlen(json) + 1);
		n += strlen(json) + 1;
	}
	return tc_call(tc, SVIO_VFU_VERSION, m, n);
}

int tc_read(struct tc *tc, uint32_t region, uint64_t off, void *buf, uint32_t len)
{
	struct svio_vfu_region_rw rw = { .offset = off, .region = region, .count = len };
	int err = tc_call(tc, SVIO_VFU_REGION_READ, &rw, sizeof(rw));

	if (err)
		return err;
	CU_ASSERT_EQUAL_FATAL(tc->len, sizeof(rw) + len);
	CU_ASSERT_EQUAL(memcmp(tc->data, &rw, sizeof(rw)), 0);
	memcpy(buf, tc->data + sizeof(rw), len);
	return 0;
}

int tc_write(struct tc *tc, uint32_t region, uint64_t off, const void *buf, uint32_t len)
{
	struct svio_vfu_region_rw rw = { .offset = off, .region = region, .count = len };
	uint8_t *m = malloc(sizeof(rw) + len);
	int err;

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	memcpy(m, &rw, sizeof(rw));
	memcpy(m + sizeof(rw), buf, len);
	err = tc_call(tc, SVIO_VFU_REGION_WRITE, m, sizeof(rw) + len);
	free(m);
	return err;
}

uint32_t tc_cfg(struct tc *tc, uint64_t off, unsigned int width)
{
	uint32_t v = 0;

	CU_ASSERT_EQUAL(tc_read(tc, SVIO_VFU_REGION_CONFIG, off, &v, width), 0);
	return v;
}

void tc_cfg_set(struct tc *tc, uint64_t off, unsigned int width, uint32_t value)
{
	CU_ASSERT_EQUAL(tc_write(tc, SVIO_VFU_REGION_CONFIG, off, &value, width), 0);
}

uint32_t tc_r32(struct tc *tc, uint64_t off)
{
	uint32_t v = 0;

	CU_ASSERT_EQUAL(tc_read(tc, 0, off, &v, 4), 0);
	return v;
}

void tc_w32(struct tc *tc, uint64_t off, uint32_t value)
{
	CU_ASSERT_EQUAL(tc_write(tc, 0, off, &value, 4), 0);
}

void tc_w64(struct tc *tc, uint64_t off, uint64_t value)
{
	CU_ASSERT_EQUAL(tc_write(tc, 0, off, &value, 8), 0);
}

void tc_master(struct tc *tc)
{
	tc_cfg_set(tc, 4, 2, 6);
}

int tc_map(struct tc *tc, uint64_t iova, uint64_t size, uint64_t off, uint32_t flags, int fd)
{
	struct svio_vfu_dma_map m = { .argsz = sizeof(m), .flags = flags, .offset = off, .iova = iova, .size = size };

	return tc_call_fds(tc, SVIO_VFU_DMA_MAP, &m, sizeof(m), &fd, fd >= 0);
}

int tc_unmap(struct tc *tc, uint64_t iova, uint64_t size)
{
	struct svio_vfu_dma_unmap u = { .argsz = sizeof(u), .iova = iova, .size = size };
	int err = tc_call(tc, SVIO_VFU_DMA_UNMAP, &u, sizeof(u));

	if (!err) {
		CU_ASSERT_EQUAL(tc->len, sizeof(u));
		CU_ASSERT_EQUAL(memcmp(tc->data, &u, sizeof(u)), 0);
	}
	return err;
}

int tc_irqs(struct tc *tc, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int *fds,
	    unsigned int nfds)
{
	struct svio_vfu_irq_set s = { .argsz = sizeof(s), .flags = flags, .index = index, .start = start, .count = count };

	return tc_call_fds(tc, SVIO_VFU_SET_IRQS, &s, sizeof(s), fds, nfds);
}

int tc_feature(struct tc *tc, uint32_t flags, const void *data, size_t len, uint32_t argsz)
{
	uint8_t m[8192];
	struct svio_vfu_feature f = { .argsz = argsz, .flags = flags };

	CU_ASSERT_FATAL(len <= sizeof(m) - sizeof(f));
	memcpy(m, &f, sizeof(f));
	if (len)
		memcpy(m + sizeof(f), data, len);
	return tc_call(tc, SVIO_VFU_DEVICE_FEATURE, m, sizeof(f) + len);
}

int tc_region_info(struct tc *tc, uint32_t index, struct svio_vfu_region_info *info, int *fd)
{
	struct svio_vfu_region_info req = { .argsz = 4096, .index = index };
	int err = tc_call(tc, SVIO_VFU_GET_REGION_INFO, &req, sizeof(req));

	*fd = -1;
	if (err)
		return err;
	CU_ASSERT_FATAL(tc->len >= sizeof(*info));
	memcpy(info, tc->data, sizeof(*info));
	if (tc->nfds)
		*fd = tc->fds[0];
	return 0;
}

int tc_mig_set(struct tc *tc, uint32_t state)
{
	struct svio_vfu_mig_state_data s = { .device_state = state };
	int err = tc_feature(tc, SVIO_VFU_FEATURE_MIG_DEVICE_STATE | SVIO_VFU_FEATURE_SET, &s, sizeof(s), 16);

	if (!err) {
		CU_ASSERT_EQUAL(tc->len, 16);
		memcpy(&s, tc->data + 8, sizeof(s));
		CU_ASSERT_EQUAL(s.device_state, state);
	}
	return err;
}

uint32_t tc_mig_get(struct tc *tc)
{
	struct svio_vfu_mig_state_data s = { 0 };

	CU_ASSERT_EQUAL(tc_feature(tc, SVIO_VFU_FEATURE_MIG_DEVICE_STATE | SVIO_VFU_FEATURE_GET, NULL, 0, 16), 0);
	CU_ASSERT_EQUAL_FATAL(tc->len, 16);
	memcpy(&s, tc->data + 8, sizeof(s));
	return s.device_state;
}

int tc_memfd(size_t size, unsigned int seals, void **p)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)size), 0);
	if (seals)
		CU_ASSERT_EQUAL_FATAL(fcntl(fd, F_ADD_SEALS, seals), 0);
	if (p) {
		*p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		CU_ASSERT_FATAL(*p != MAP_FAILED);
	}
	return fd;
}

int tc_count_memfds(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	int n = 0;

	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:") != NULL;
	fclose(f);
	return n;
}

int tc_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC); /* blocking on purpose: the server has to cope */

	CU_ASSERT_FATAL(fd >= 0);
	return fd;
}

uint64_t tc_signalled(int efd)
{
	uint64_t v = 0;

	fcntl(efd, F_SETFL, fcntl(efd, F_GETFL) | O_NONBLOCK);
	return read(efd, &v, sizeof(v)) == (ssize_t)sizeof(v) ? v : 0;
}
