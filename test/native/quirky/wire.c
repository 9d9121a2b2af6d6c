/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "wire.h"

static int failures;

/* ---- lines ------------------------------------------------------------------------------------------- */

static void line(bool good, const char *fmt, va_list ap)
{
	printf("%s - quirky: ", good ? "ok" : "not ok");
	vprintf(fmt, ap);
	putchar('\n');
	fflush(stdout);
	failures += !good;
}

void qk_check(bool good, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line(good, fmt, ap);
	va_end(ap);
}

void qk_need(bool good, const char *fmt, ...)
{
	va_list ap;

	if (good)
		return;
	va_start(ap, fmt);
	line(false, fmt, ap);
	va_end(ap);
	exit(1);
}

int qk_failures(void)
{
	return failures;
}

uint64_t qk_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec;
}

bool qk_late(uint64_t since)
{
	return qk_now() - since > QK_LIMIT_S;
}

/* ---- the socket -------------------------------------------------------------------------------------- */

void qk_connect(struct qk *k, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const struct timeval limit = { .tv_sec = QK_LIMIT_S };
	struct ucred cred;
	socklen_t len = sizeof(cred);

	memset(k, 0, sizeof(*k));
	k->next_id = 100;
	k->data = malloc(QK_MAX);
	k->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	qk_need(k->data && k->sock >= 0 && strlen(path) < sizeof(addr.sun_path), "a socket for %s", path);
	strcpy(addr.sun_path, path);
	qk_need(connect(k->sock, (struct sockaddr *)&addr, sizeof(addr)) == 0, "connect to %s: %s", path, strerror(errno));
	setsockopt(k->sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(k->sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	qk_need(getsockopt(k->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0, "the server's credentials");
	k->server = cred.pid;
}

void qk_close(struct qk *k)
{
	close(k->sock);
	free(k->data);
	k->sock = -1;
	k->data = NULL;
}

static void send_piece(struct qk *k, const void *bytes, size_t len, const int *fds, unsigned int nfds)
{
	char control[CMSG_SPACE(QK_FDS * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	size_t done = 0;

	while (done < len) {
		struct iovec iov = { (char *)(uintptr_t)bytes + done, len - done };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (nfds && !done) {
			struct cmsghdr *c;

			mh.msg_control = control;
			mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
			c = CMSG_FIRSTHDR(&mh);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
			memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
		}
		n = sendmsg(k->sock, &mh, MSG_NOSIGNAL);
		qk_need(n > 0, "the server takes a message: %s", strerror(errno));
		done += (size_t)n;
	}
}

/* Until the server has taken all that was sent. */
static void drained(struct qk *k)
{
	uint64_t since = qk_now();
	int unread = 1;

	while (ioctl(k->sock, SIOCOUTQ, &unread) == 0 && unread) {
		qk_need(!qk_late(since), "the server reads half of a message");
		sched_yield();
	}
}

static void send_message(struct qk *k, struct svio_vfu_hdr *hdr, const void *a, size_t alen, const void *b, size_t blen,
			 const int *fds, unsigned int nfds)
{
	size_t at = sizeof(*hdr);
	uint8_t *m = malloc(sizeof(*hdr) + alen + blen);

	qk_need(m != NULL, "memory");
	hdr->size = (uint32_t)(sizeof(*hdr) + alen + blen);
	memcpy(m, hdr, sizeof(*hdr));
	if (alen)
		memcpy(m + at, a, alen);
	if (blen)
		memcpy(m + at + alen, b, blen);
	/* Each costs the server's turn, and more on a busy machine: the first DMA messages are enough. */
	if (k->split && alen + blen && (hdr->flags == SVIO_VFU_COMMAND || k->dma_reads + k->dma_writes < 1000)) {
		send_piece(k, m, at, fds, nfds);
		drained(k);
		send_piece(k, m + at, alen + blen, NULL, 0);
	} else {
		send_piece(k, m, hdr->size, fds, nfds);
	}
	free(m);
}

uint16_t qk_send(struct qk *k, uint16_t cmd, uint32_t flags, const void *payload, size_t len, const int *fds, unsigned int nfds)
{
	struct svio_vfu_hdr hdr = { .id = k->no_ids ? QK_REPLY_ID : k->next_id++, .cmd = cmd, .flags = flags };

	k->requests++;
	send_message(k, &hdr, payload, len, NULL, 0, fds, nfds);
	return hdr.id;
}

static void take_fds(struct qk *k, struct msghdr *mh)
{
	qk_need(!(mh->msg_flags & (MSG_TRUNC | MSG_CTRUNC)), "all descriptors of a message arrive");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		unsigned int n = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		qk_need(k->nfds + n <= QK_FDS, "a message with few descriptors");
		memcpy(k->fds + k->nfds, CMSG_DATA(c), n * sizeof(int));
		k->nfds += n;
	}
}

void qk_recv(struct qk *k)
{
	char control[CMSG_SPACE(QK_FDS * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { &k->hdr, sizeof(k->hdr) };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(k->sock, &mh, MSG_CMSG_CLOEXEC);
	uint32_t got = 0;

	k->nfds = 0;
	qk_need(n == (ssize_t)sizeof(k->hdr), "a header comes whole: %zd bytes, %s", n, strerror(errno));
	take_fds(k, &mh);
	qk_need(k->hdr.size >= sizeof(k->hdr) && k->hdr.size <= QK_MAX, "a message of %u bytes", k->hdr.size);
	k->len = k->hdr.size - (uint32_t)sizeof(k->hdr);
	while (got < k->len) {
		n = read(k->sock, k->data + got, k->len - got);
		qk_need(n > 0, "a payload of %u bytes comes: %zd, %s", k->len, n, strerror(errno));
		/* SPDK's client reads a payload, which is a page at most with it, once. */
		qk_need(n == (ssize_t)k->len || k->len > 4096, "a payload of %u bytes comes at once, not %zd", k->len, n);
		got += (uint32_t)n;
	}
}

bool qk_ended(struct qk *k)
{
	struct pollfd p = { .fd = k->sock, .events = POLLIN };
	char c;

	return poll(&p, 1, (int)QK_LIMIT_S * 1000) == 1 && recv(k->sock, &c, 1, MSG_DONTWAIT) <= 0;
}

/* ---- DMA by message ---------------------------------------------------------------------------------- */

static uint8_t *ram_at(const struct qk *k, uint64_t iova, uint64_t len)
{
	for (unsigned int i = 0; i < k->nram; i++)
		if (iova >= k->ram[i].iova && len <= k->ram[i].len && iova - k->ram[i].iova <= k->ram[i].len - len)
			return k->ram[i].ptr + (iova - k->ram[i].iova);
	return NULL;
}

static void answer(struct qk *k, const struct svio_vfu_hdr *req, const struct svio_vfu_dma_rw *rw, const void *data)
{
	struct svio_vfu_hdr hdr = { .id = req->id, .cmd = req->cmd, .flags = SVIO_VFU_REPLY };
	uint8_t *p = ram_at(k, rw->iova, rw->count);
	bool reads = req->cmd == SVIO_VFU_DMA_READ;

	qk_need(p != NULL, "the server asks for memory that is mapped: %#llx + %llu", (unsigned long long)rw->iova,
		(unsigned long long)rw->count);
	if (reads)
		k->dma_reads++;
	else
		k->dma_writes++;
	if (!reads)
		memcpy(p, data, rw->count);
	send_message(k, &hdr, rw, sizeof(*rw), p, reads ? rw->count : 0, NULL, 0);
}

/* The message just received, when it is a request for memory. */
static bool dma_request(struct qk *k)
{
	struct svio_vfu_dma_rw rw;

	if ((k->hdr.flags & SVIO_VFU_TYPE_MASK) != SVIO_VFU_COMMAND)
		return false;
	qk_need(k->hdr.cmd == SVIO_VFU_DMA_READ || k->hdr.cmd == SVIO_VFU_DMA_WRITE, "the server asks for DMA only, not %u", k->hdr.cmd);
	qk_need(k->len >= sizeof(rw) && k->nfds == 0, "a DMA request is whole");
	memcpy(&rw, k->data, sizeof(rw));
	qk_need(rw.count <= SVIO_VFU_DEF_MAX_XFER && k->len == sizeof(rw) + (k->hdr.cmd == SVIO_VFU_DMA_WRITE ? rw.count : 0),
		"the size of a DMA request");
	if (k->hold) {
		qk_need(k->hdr.cmd == SVIO_VFU_DMA_READ && k->nheld < SVIO_ARRAY_SIZE(k->held), "few requests to be held");
		k->held[k->nheld].hdr = k->hdr;
		k->held[k->nheld++].rw = rw;
	} else {
		answer(k, &k->hdr, &rw, k->data + sizeof(rw));
	}
	return true;
}

bool qk_serve(struct qk *k, int ms)
{
	struct pollfd p = { .fd = k->sock, .events = POLLIN };

	if (poll(&p, 1, ms) <= 0)
		return false;
	qk_recv(k);
	qk_need(dma_request(k), "no reply without a request");
	return true;
}

void qk_release(struct qk *k)
{
	k->hold = false;
	for (unsigned int i = 0; i < k->nheld; i++)
		answer(k, &k->held[i].hdr, &k->held[i].rw, NULL);
	k->nheld = 0;
}

/* ---- requests ---------------------------------------------------------------------------------------- */

int qk_reply(struct qk *k, uint16_t id, uint16_t cmd)
{
	do
		qk_recv(k);
	while (dma_request(k));
	qk_need(k->hdr.id == id && k->hdr.cmd == cmd && (k->hdr.flags & SVIO_VFU_TYPE_MASK) == SVIO_VFU_REPLY,
		"the reply to %u (id %u), not %u (id %u)", cmd, id, k->hdr.cmd, k->hdr.id);
	if (!(k->hdr.flags & SVIO_VFU_ERROR))
		return 0;
	qk_need(k->len == 0 && k->nfds == 0 && k->hdr.error > 0 && k->hdr.error < 4096, "an error is a header alone");
	return -(int)k->hdr.error;
}

int qk_call(struct qk *k, uint16_t cmd, const void *payload, size_t len, const int *fds, unsigned int nfds)
{
	return qk_reply(k, qk_send(k, cmd, 0, payload, len, fds, nfds), cmd);
}

int qk_version(struct qk *k, uint16_t minor, const char *json)
{
	struct svio_vfu_version v = { .major = 0, .minor = minor };
	size_t text = json ? strlen(json) + 1 : 0;
	uint8_t m[1024];

	qk_need(text <= sizeof(m) - sizeof(v), "a short text");
	memcpy(m, &v, sizeof(v));
	if (json)
		memcpy(m + sizeof(v), json, text);
	return qk_call(k, SVIO_VFU_VERSION, m, sizeof(v) + text, NULL, 0);
}

int qk_region_info(struct qk *k, uint32_t index, uint32_t size, uint32_t argsz, struct svio_vfu_region_info *info, int *fd)
{
	uint8_t m[4096] = { 0 };
	int err;

	*info = (struct svio_vfu_region_info){ .argsz = argsz, .index = index };
	memcpy(m, info, sizeof(*info));
	err = qk_call(k, SVIO_VFU_GET_REGION_INFO, m, size, NULL, 0);
	*fd = -1;
	if (err)
		return err;
	qk_need(k->len >= sizeof(*info) && k->len <= argsz && k->nfds <= 1, "region info fits what was asked for");
	memcpy(info, k->data, sizeof(*info));
	if (k->nfds)
		*fd = k->fds[0];
	return 0;
}

int qk_irq_info(struct qk *k, uint32_t index, struct svio_vfu_irq_info *info)
{
	int err;

	*info = (struct svio_vfu_irq_info){ .argsz = sizeof(*info), .index = index };
	err = qk_call(k, SVIO_VFU_GET_IRQ_INFO, info, sizeof(*info), NULL, 0);
	if (!err) {
		qk_need(k->len == sizeof(*info), "interrupt info");
		memcpy(info, k->data, sizeof(*info));
	}
	return err;
}

int qk_irqs(struct qk *k, uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const int *fds, unsigned int nfds)
{
	struct svio_vfu_irq_set s = { .argsz = sizeof(s), .flags = flags, .index = index, .start = start, .count = count };

	return qk_call(k, SVIO_VFU_SET_IRQS, &s, sizeof(s), fds, nfds);
}

int qk_read(struct qk *k, uint32_t region, uint64_t off, void *buf, uint32_t len)
{
	struct svio_vfu_region_rw rw = { .offset = off, .region = region, .count = len };
	int err = qk_call(k, SVIO_VFU_REGION_READ, &rw, sizeof(rw), NULL, 0);

	if (!err) {
		qk_need(k->len == sizeof(rw) + len && memcmp(k->data, &rw, sizeof(rw)) == 0, "a region read is answered");
		memcpy(buf, k->data + sizeof(rw), len);
	}
	return err;
}

static uint16_t send_write(struct qk *k, uint32_t flags, uint32_t region, uint64_t off, const void *buf, uint32_t len)
{
	struct svio_vfu_region_rw rw = { .offset = off, .region = region, .count = len };
	uint8_t m[sizeof(rw) + 8];

	qk_need(len <= 8, "a store");
	memcpy(m, &rw, sizeof(rw));
	memcpy(m + sizeof(rw), buf, len);
	return qk_send(k, SVIO_VFU_REGION_WRITE, flags, m, sizeof(rw) + len, NULL, 0);
}

int qk_write(struct qk *k, uint32_t region, uint64_t off, const void *buf, uint32_t len)
{
	int err = qk_reply(k, send_write(k, 0, region, off, buf, len), SVIO_VFU_REGION_WRITE);

	qk_need(err || k->len == sizeof(struct svio_vfu_region_rw), "a region write is answered by 16 bytes");
	return err;
}

void qk_post(struct qk *k, uint32_t region, uint64_t off, const void *buf, uint32_t len)
{
	send_write(k, SVIO_VFU_NO_REPLY, region, off, buf, len);
}

uint32_t qk_config(struct qk *k, uint64_t off, uint32_t width)
{
	uint32_t v = 0;

	qk_need(qk_read(k, SVIO_VFU_REGION_CONFIG, off, &v, width) == 0, "configuration space is read");
	return v;
}

void qk_config_set(struct qk *k, uint64_t off, uint32_t width, uint32_t value)
{
	qk_need(qk_write(k, SVIO_VFU_REGION_CONFIG, off, &value, width) == 0, "configuration space is written");
}

uint32_t qk_capability(struct qk *k, uint8_t id)
{
	uint32_t at = qk_config(k, 0x34, 1), walked = 0;

	while (at && walked++ < 48) {
		if (qk_config(k, at, 1) == id)
			return at;
		at = qk_config(k, at + 1, 1);
	}
	return 0;
}

int qk_map(struct qk *k, uint64_t iova, uint64_t size, uint64_t off, uint32_t flags, int fd)
{
	struct svio_vfu_dma_map m = { .argsz = sizeof(m), .flags = flags, .offset = off, .iova = iova, .size = size };
	int err = qk_call(k, SVIO_VFU_DMA_MAP, &m, sizeof(m), &fd, fd >= 0);

	qk_need(err || k->len == 0, "a map is answered by a header");
	return err;
}

int qk_unmap(struct qk *k, uint64_t iova, uint64_t size, int fd)
{
	struct svio_vfu_dma_unmap u = { .argsz = sizeof(u), .iova = iova, .size = size };
	int err = qk_call(k, SVIO_VFU_DMA_UNMAP, &u, sizeof(u), &fd, fd >= 0);

	qk_need(err || (k->len == sizeof(u) && memcmp(k->data, &u, sizeof(u)) == 0), "an unmap is answered by itself");
	return err;
}

/* ---- the server's resources -------------------------------------------------------------------------- */

/* A reply may be here before the descriptor that came with its request is closed. */
bool qk_server_has_fds(const struct qk *k, unsigned int n)
{
	uint64_t since = qk_now();

	while (qk_server_fds(k) != n) {
		if (qk_late(since))
			return false;
		sched_yield();
	}
	return true;
}

unsigned int qk_server_fds(const struct qk *k)
{
	char path[64];
	unsigned int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", k->server);
	dir = opendir(path);
	qk_need(dir != NULL, "%s", path);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

unsigned int qk_server_maps(const struct qk *k, const char *name)
{
	char path[64], text[4096];
	unsigned int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", k->server);
	f = fopen(path, "re");
	qk_need(f != NULL, "%s", path);
	while (fgets(text, sizeof(text), f))
		n += strstr(text, name) != NULL;
	fclose(f);
	return n;
}
