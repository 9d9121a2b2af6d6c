/* SPDX-License-Identifier: BSD-3-Clause */
#include <sys/mman.h>
#include <sys/socket.h>
#include "kit.h"
#include "probe.h"
#include "svio_dsa_model.h"
#include "svio_edu_model.h"
#include "svio_nvme_model.h"

#define MAX_REPLY (4u << 20)

static uint8_t buffer[MAX_REPLY];

void fz_kit_init(void)
{
	svio_log_set(SVIO_LOG_ERR, fz_no_log, NULL);
	FZ_CHECK(svio_vdev_model_register(&svio_dsa_model) == 0);
	FZ_CHECK(svio_vdev_model_register(&svio_edu_model) == 0);
	FZ_CHECK(svio_vdev_model_register(&svio_nvme_model) == 0);
	FZ_CHECK(svio_vdev_model_register(&probe_model) == 0);
}

void fz_kit_open(struct fz_kit *k, const char *spec, uint32_t flags)
{
	struct svio_vdev_server_opts opts = { .size = sizeof(opts), .socket_rounds = 1 };
	int pair[2];

	memset(k, 0, sizeof(*k));
	FZ_CHECK(svio_vdev_create(spec, flags, &k->dev) == 0);
	FZ_CHECK(svio_vdev_server_create(&opts, &k->srv) == 0);
	FZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	FZ_CHECK(svio_vdev_server_attach(k->srv, k->dev, pair[1]) == 0);
	k->fd = pair[0];
}

void fz_kit_turn(struct fz_kit *k, unsigned int rounds)
{
	while (rounds--)
		if (svio_vdev_server_poll(k->srv) == -ESHUTDOWN)
			k->over = true;
}

void fz_kit_close(struct fz_kit *k)
{
	close(k->fd);
	svio_vdev_server_destroy(k->srv);
	svio_vdev_destroy(k->dev);
}

static void drain(struct fz_kit *k)
{
	struct fz_msg m;

	while (fz_recv(k, &m))
		;
}

void fz_send(struct fz_kit *k, const void *bytes, size_t len, const int *fds, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(32 * sizeof(int))];
	} control = { 0 };
	const uint8_t *p = bytes;
	unsigned int stuck = 0;

	while (len && !k->over && stuck < 8) {
		struct iovec iov = { (void *)(uintptr_t)p, len };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (nfds) {
			struct cmsghdr *c;

			mh.msg_control = control.bytes;
			mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
			c = CMSG_FIRSTHDR(&mh);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
			memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
		}
		n = sendmsg(k->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			p += n;
			len -= (size_t)n;
			nfds = 0;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
			k->over = true;
			return;
		}
		stuck++; /* a server that waits (for the model's DMA) reads no more at some point */
		fz_kit_turn(k, 2);
		drain(k);
	}
}

void fz_send_msg(struct fz_kit *k, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds,
		 unsigned int nfds)
{
	struct svio_vfu_hdr h = { .id = k->next_id++, .cmd = cmd, .size = (uint32_t)(sizeof(h) + len), .flags = flags };
	static uint8_t whole[sizeof(h) + (2u << 20)];

	FZ_CHECK(len <= sizeof(whole) - sizeof(h));
	memcpy(whole, &h, sizeof(h));
	if (len)
		memcpy(whole + sizeof(h), payload, len);
	fz_send(k, whole, sizeof(h) + len, fds, nfds);
}

static bool get(struct fz_kit *k, uint8_t *to, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control;
	unsigned int waits = 0;

	while (len) {
		struct iovec iov = { to, len };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
				     .msg_controllen = sizeof(control.bytes) };
		ssize_t n = recvmsg(k->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n <= 0) {
			/* The rest of a message that did not fit into the socket's buffer. */
			if (to == buffer || n == 0 || k->over || waits++ == 64)
				return false;
			fz_kit_turn(k, 1);
			continue;
		}
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			FZ_CHECK(c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS);
			for (size_t i = 0; i < count; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				close(fd);
			}
		}
		to += n;
		len -= (size_t)n;
	}
	return true;
}

bool fz_recv(struct fz_kit *k, struct fz_msg *m)
{
	if (!get(k, buffer, sizeof(m->hdr)))
		return false;
	memcpy(&m->hdr, buffer, sizeof(m->hdr));
	FZ_CHECK(m->hdr.size >= sizeof(m->hdr) && m->hdr.size <= MAX_REPLY);
	FZ_CHECK((m->hdr.flags & SVIO_VFU_TYPE_MASK) <= SVIO_VFU_REPLY);
	m->len = m->hdr.size - (uint32_t)sizeof(m->hdr);
	FZ_CHECK(!(m->hdr.flags & SVIO_VFU_ERROR) || m->len == 0);
	m->data = buffer + sizeof(m->hdr);
	return get(k, m->data, m->len);
}

void fz_kit_version(struct fz_kit *k, const char *json)
{
	struct svio_vfu_version v = { SVIO_VFU_MAJOR, SVIO_VFU_MINOR };
	uint8_t payload[256];
	size_t len = json ? strlen(json) + 1 : 0;

	memcpy(payload, &v, sizeof(v));
	if (len)
		memcpy(payload + sizeof(v), json, len);
	fz_send_msg(k, SVIO_VFU_VERSION, SVIO_VFU_COMMAND, payload, sizeof(v) + len, NULL, 0);
	fz_kit_turn(k, 1);
	FZ_CHECK(svio_vdev_connected(k->dev));
	drain(k);
}

int fz_memfd(size_t size, bool sealed)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	FZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	FZ_CHECK(!sealed || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

bool fz_feature(struct fz_kit *k, uint32_t flags, void *data, uint32_t len, uint32_t room)
{
	struct svio_vfu_feature f = { .argsz = (uint32_t)sizeof(f) + room, .flags = flags };
	struct fz_msg r;
	uint8_t m[512];

	FZ_CHECK(len <= sizeof(m) - sizeof(f));
	memcpy(m, &f, sizeof(f));
	memcpy(m + sizeof(f), data, len);
	fz_send_msg(k, SVIO_VFU_DEVICE_FEATURE, 0, m, sizeof(f) + len, NULL, 0);
	fz_kit_turn(k, 4);
	if (!fz_recv(k, &r) || (r.hdr.flags & SVIO_VFU_ERROR))
		return false;
	FZ_CHECK(r.len >= sizeof(f) && r.len <= sizeof(f) + room);
	memcpy(data, r.data + sizeof(f), r.len - sizeof(f));
	return true;
}
