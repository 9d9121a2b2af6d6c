/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vfio-user transport against a server in the test, which answers as the protocol says, or lies in one chosen way at one
 * chosen command. Whatever it does, every call returns in time, with an error of those that the header states, and nothing is left.
 *
 * The device is opened as "sim:"; the test stands in for the device kit with svio__sim_start().
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include "user_conn.h"
#include "unit.h"

int svio__sim_start(const char *spec, int *fd, void **sim);
void svio__sim_stop(void *sim);

#define BAR_SIZE   (64u << 10)
#define TIMEOUT_MS 150

enum lie {
	HONEST,
	CLOSE,	       /* instead of an answer */
	SILENT,	       /* no answer at all */
	SIZE_TINY,     /* header says less than a header */
	SIZE_HUGE,     /* 2 GiB */
	SIZE_LONG,     /* more than was asked for, and it comes */
	SHORT,	       /* fixed part cut */
	WRONG_ID,
	WRONG_CMD,
	WRONG_TYPE,
	EXTRA_FD,      /* a descriptor nobody asked for */
	TWO_FDS,
	ERROR_ZERO,    /* refused with errno 0 */
	ERROR_LARGE,   /* refused with errno 2^31 */
	ERROR_EINVAL,
	HALF,	       /* half a header, then nothing */
	COMMAND,       /* a command that servers do not send */
	LIES
};

static struct {
	enum lie lie;
	uint16_t at; /* command */
	uint8_t config[256];
	int bar_fd;
	uint8_t *bar;
	uint32_t max_fds, max_maps;
	bool reverse;	  /* answer region reads in pairs, second first */
	unsigned int irq_messages, irq_fds, requests;
	struct svio_vfu_dma_map map;
	int map_fds;
} srv;

struct sim {
	pthread_t thread;
	int fd;
};

/* ---- the server ------------------------------------------------------------------------------------- */

static bool get(int fd, void *buf, size_t len, int *fds, int *nfds)
{
	size_t got = 0;

	while (got < len) {
		char control[CMSG_SPACE(16 * sizeof(int))] __attribute__((aligned(8)));
		struct iovec iov = { (char *)buf + got, len - got };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				      .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

		if (n <= 0)
			return false;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			memcpy(fds + *nfds, CMSG_DATA(c), count * sizeof(int));
			*nfds += (int)count;
		}
		got += (size_t)n;
	}
	return true;
}

static void put(int fd, struct svio_vfu_hdr *hdr, const void *body, size_t len, const int *fds, size_t nfds)
{
	char control[CMSG_SPACE(4 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov[2] = { { hdr, sizeof(*hdr) }, { (void *)(uintptr_t)body, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		return; /* the client has given up on us, which is what several lies are for */
}

/* false: end the connection. */
static bool answer(int fd, struct svio_vfu_hdr *req, const void *body, size_t len, int region_fd)
{
	struct svio_vfu_hdr hdr = { .id = req->id, .cmd = req->cmd, .flags = SVIO_VFU_REPLY };
	int fds[2], nfds = 0;
	char big[8192] = { 0 };

	if (region_fd >= 0)
		fds[nfds++] = region_fd;
	if (len)
		memcpy(big, body, len);
	hdr.size = (uint32_t)(sizeof(hdr) + len);
	if (srv.lie != HONEST && srv.at == req->cmd) {
		switch (srv.lie) {
		case CLOSE:
			return false;
		case SILENT:
			return true;
		case SIZE_TINY:
			hdr.size = 8;
			break;
		case SIZE_HUGE:
			hdr.size = 1u << 31;
			break;
		case SIZE_LONG:
			len = len + 5000 <= sizeof(big) ? len + 5000 : sizeof(big);
			hdr.size = (uint32_t)(sizeof(hdr) + len);
			break;
		case SHORT:
			len = len > 3 ? 3 : 0;
			hdr.size = (uint32_t)(sizeof(hdr) + len);
			break;
		case WRONG_ID:
			hdr.id ^= 0x5555;
			break;
		case WRONG_CMD:
			hdr.cmd = hdr.cmd == 1 ? 2 : 1;
			break;
		case WRONG_TYPE:
			hdr.flags = 7;
			break;
		case EXTRA_FD:
			fds[0] = srv.bar_fd;
			nfds = 1;
			break;
		case TWO_FDS:
			fds[0] = fds[1] = srv.bar_fd;
			nfds = 2;
			break;
		case ERROR_ZERO:
		case ERROR_LARGE:
		case ERROR_EINVAL:
			hdr.flags |= SVIO_VFU_ERROR;
			hdr.error = srv.lie == ERROR_ZERO ? 0 : srv.lie == ERROR_LARGE ? 1u << 31 : EINVAL;
			len = 0;
			nfds = 0;
			hdr.size = sizeof(hdr);
			break;
		case HALF:
			return write(fd, &hdr, 8) == 8;
		case COMMAND:
			hdr.flags = SVIO_VFU_COMMAND;
			hdr.cmd = SVIO_VFU_DEVICE_RESET;
			break;
		default:
			break;
		}
	}
	put(fd, &hdr, big, len, fds, (size_t)nfds);
	return true;
}

static bool serve_region_info(int fd, struct svio_vfu_hdr *hdr, const struct svio_vfu_region_info *ask)
{
	struct {
		struct svio_vfu_region_info info;
		struct svio_vfu_cap_sparse sparse;
		struct svio_vfu_sparse_area area;
	} r = { .info = *ask };
	bool bar = ask->index == 0, room = ask->argsz >= sizeof(r);

	r.info.argsz = sizeof(r.info);
	r.info.cap_offset = 0;
	r.info.size = bar ? BAR_SIZE : ask->index == SVIO_VFU_REGION_CONFIG ? sizeof(srv.config) : 0;
	r.info.flags = r.info.size ? SVIO_VFU_REGION_F_READ | SVIO_VFU_REGION_F_WRITE : 0;
	r.info.offset = 0;
	if (bar) {
		r.info.argsz = sizeof(r);
		r.info.flags |= SVIO_VFU_REGION_F_MMAP;
		if (room) {
			r.info.flags |= SVIO_VFU_REGION_F_CAPS;
			r.info.cap_offset = sizeof(r.info);
			r.sparse.hdr.id = SVIO_VFU_CAP_SPARSE_MMAP;
			r.sparse.hdr.version = 1;
			r.sparse.num_areas = 1;
			r.area = (struct svio_vfu_sparse_area){ 0x1000, 0x2000 };
		}
	}
	return answer(fd, hdr, &r, bar && room ? sizeof(r) : sizeof(r.info), bar && room ? srv.bar_fd : -1);
}

static bool serve_read(int fd, struct svio_vfu_hdr *hdr, const struct svio_vfu_region_rw *rw)
{
	char reply[sizeof(*rw) + 4096];
	const uint8_t *from = rw->region == 0 ? srv.bar : srv.config;

	memcpy(reply, rw, sizeof(*rw));
	memcpy(reply + sizeof(*rw), from + rw->offset, rw->count);
	return answer(fd, hdr, reply, sizeof(*rw) + rw->count, -1);
}

static bool serve_one(int fd);
static void *serve_once(void *arg)
{
	serve_one((int)(intptr_t)arg);
	return NULL;
}

static bool serve_one(int fd)
{
	static struct svio_vfu_hdr held;
	static struct svio_vfu_region_rw held_rw;
	static bool holding;
	char body[8192];
	struct svio_vfu_hdr hdr;
	int fds[32], nfds = 0;
	bool on = true;

	if (!get(fd, &hdr, sizeof(hdr), fds, &nfds) || hdr.size < sizeof(hdr) || hdr.size - sizeof(hdr) > sizeof(body) ||
	    !get(fd, body, hdr.size - sizeof(hdr), fds, &nfds))
		on = false;
	srv.requests++;
	switch (on ? hdr.cmd : 0) {
	case 0:
		holding = false;
		break;
	case SVIO_VFU_VERSION: {
		char v[128] = { 0 };
		struct svio_vfu_version ver = { 0, 0 };
		int n = snprintf(v + sizeof(ver), sizeof(v) - sizeof(ver),
				 "{\"capabilities\":{\"max_msg_fds\":%u,\"max_data_xfer_size\":4096,\"max_dma_maps\":%u}}", srv.max_fds,
				 srv.max_maps);

		memcpy(v, &ver, sizeof(ver));
		on = answer(fd, &hdr, v, sizeof(ver) + (size_t)n + 1, -1);
		break;
	}
	case SVIO_VFU_GET_INFO: {
		struct svio_vfu_device_info i = { sizeof(i), SVIO_VFU_DEV_F_PCI | SVIO_VFU_DEV_F_RESET, 9, 5 };

		on = answer(fd, &hdr, &i, sizeof(i), -1);
		break;
	}
	case SVIO_VFU_GET_REGION_INFO:
		on = serve_region_info(fd, &hdr, (void *)body);
		break;
	case SVIO_VFU_GET_IRQ_INFO: {
		struct svio_vfu_irq_info i;

		memcpy(&i, body, sizeof(i));
		i.flags = SVIO_VFU_IRQ_F_EVENTFD;
		i.count = i.index == SVIO_VFU_IRQ_MSIX ? 8 : i.index >= SVIO_VFU_IRQ_ERR ? 1 : 0;
		on = answer(fd, &hdr, &i, sizeof(i), -1);
		break;
	}
	case SVIO_VFU_SET_IRQS:
		srv.irq_messages++;
		srv.irq_fds += (unsigned int)nfds;
		on = answer(fd, &hdr, NULL, 0, -1);
		break;
	case SVIO_VFU_REGION_READ:
		if (srv.reverse && !holding) {
			held = hdr;
			memcpy(&held_rw, body, sizeof(held_rw));
			holding = true;
			break;
		}
		on = serve_read(fd, &hdr, (void *)body);
		if (holding) {
			holding = false;
			on = on && serve_read(fd, &held, &held_rw);
		}
		break;
	case SVIO_VFU_REGION_WRITE: {
		struct svio_vfu_region_rw rw;

		memcpy(&rw, body, sizeof(rw));
		memcpy((rw.region == 0 ? srv.bar : srv.config) + rw.offset, body + sizeof(rw), rw.count);
		on = answer(fd, &hdr, &rw, sizeof(rw), -1);
		break;
	}
	case SVIO_VFU_DMA_MAP:
		memcpy(&srv.map, body, sizeof(srv.map));
		srv.map_fds = nfds;
		on = answer(fd, &hdr, NULL, 0, -1);
		break;
	case SVIO_VFU_DMA_UNMAP:
		on = answer(fd, &hdr, body, sizeof(struct svio_vfu_dma_unmap), -1);
		break;
	case SVIO_VFU_DEVICE_FEATURE:
		on = answer(fd, &hdr, body, hdr.size - sizeof(hdr), -1);
		break;
	default:
		on = answer(fd, &hdr, NULL, 0, -1);
	}
	for (int i = 0; i < nfds; i++)
		close(fds[i]);
	return on;
}

static void *server_main(void *arg)
{
	struct sim *sim = arg;

	while (serve_one(sim->fd))
		;
	shutdown(sim->fd, SHUT_RDWR);
	return NULL;
}

int svio__sim_start(const char *spec, int *fd, void **simp)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	int pair[2];

	(void)spec;
	if (!sim || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -ENOMEM;
	*fd = pair[0];
	sim->fd = pair[1];
	if (pthread_create(&sim->thread, NULL, server_main, sim) != 0)
		return -EAGAIN;
	*simp = sim;
	return 0;
}

void svio__sim_stop(void *arg)
{
	struct sim *sim = arg;

	shutdown(sim->fd, SHUT_RDWR);
	pthread_join(sim->thread, NULL);
	close(sim->fd);
	free(sim);
}

static void server_reset(enum lie lie, uint16_t at)
{
	uint8_t *bar = srv.bar;
	int bar_fd = srv.bar_fd;

	memset(&srv, 0, sizeof(srv));
	srv.bar = bar;
	srv.bar_fd = bar_fd;
	srv.lie = lie;
	srv.at = at;
	srv.max_fds = 3;
	srv.max_maps = 65535;
	srv.config[0] = 0x34; /* vendor 1234, device 5678 */
	srv.config[1] = 0x12;
	srv.config[2] = 0x78;
	srv.config[3] = 0x56;
	for (uint32_t i = 0; i < BAR_SIZE; i++)
		bar[i] = (uint8_t)(i ^ (i >> 8));
}

/* ---- tests ------------------------------------------------------------------------------------------ */

static const struct svio_device_opts opts = { .size = sizeof(opts), .msg_timeout_ms = TIMEOUT_MS };

/* Use everything once. Returns the first error; every call must return whatever happened before. */
static int use_all(void)
{
	int first = 0, rc, efd[8];
	struct svio_device *dev;
	struct svio_region_info info;
	uint8_t buf[10000];
	uint64_t feature[4] = { 1, 2, 3, 4 };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_dma_map map = { .iova = 0x10000, .vaddr = page, .len = 4096,
				    .prot = SVIO_DMA_READ | SVIO_DMA_WRITE, .fd = srv.bar_fd };
	void *addr;

#define STEP(call)                                                                                 \
	do {                                                                                       \
		rc = (call);                                                                       \
		if (rc && !first)                                                                  \
			first = rc;                                                                \
	} while (0)
	rc = svio_device_open("sim:scripted", &opts, &dev);
	if (rc) {
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
		munmap(page, 4096);
		return rc;
	}
	for (int i = 0; i < 8; i++)
		efd[i] = i == 4 ? -1 : eventfd(0, EFD_CLOEXEC);
	STEP(svio_device_region_info(dev, 0, &info));
	STEP(svio_device_region_read(dev, 0, 16, buf, sizeof(buf)));
	if (!first)
		for (uint32_t i = 0; i < sizeof(buf); i++)
			CU_ASSERT_EQUAL_FATAL(buf[i], (uint8_t)((i + 16) ^ ((i + 16) >> 8)));
	STEP(svio_device_region_write(dev, 0, 32, "abc", 3));
	rc = svio_device_region_mmap(dev, 0, 0x1000, 0x1000, PROT_READ | PROT_WRITE, NULL, &addr);
	if (!rc) {
		CU_ASSERT_EQUAL(memcmp((char *)addr, srv.bar + 0x1000, 0x1000), 0);
		munmap(addr, 0x1000);
	} else if (!first) {
		first = rc;
	}
	STEP(svio_device_irq_enable(dev, SVIO_IRQ_MSIX, 0, 8, efd));
	STEP(svio_dma_map(svio_device_domain(dev), &map));
	STEP(svio_device_feature(dev, SVIO_FEATURE_GET, 99, feature, sizeof(feature)));
	STEP(svio_device_reset(dev));
	STEP(svio_dma_unmap(svio_device_domain(dev), map.iova, map.len));
	STEP(svio_device_irq_disable(dev, SVIO_IRQ_MSIX));
	/* Unmapping succeeds where the connection is what ended; then the device says that it is gone. */
	if (!first && svio_device_events(dev) & SVIO_EV_GONE)
		first = -ENODEV;
	if (first == -ENODEV)
		CU_ASSERT_TRUE(svio_device_events(dev) & SVIO_EV_GONE);
	svio_device_close(dev);
	for (int i = 0; i < 8; i++)
		if (efd[i] >= 0)
			close(efd[i]);
	munmap(page, 4096);
	return first;
}

static void test_honest(void)
{
	server_reset(HONEST, 0);
	CU_ASSERT_EQUAL(use_all(), 0);
	CU_ASSERT_EQUAL(memcmp(srv.bar + 32, "abc", 3), 0);
	CU_ASSERT_EQUAL(srv.map.iova, 0x10000);
	CU_ASSERT_EQUAL(srv.map.flags, SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE);
	CU_ASSERT_EQUAL(srv.map_fds, 1);
	/* 7 eventfds, at most 3 a message and none across the hole, once at enable and again after the reset. */
	CU_ASSERT_TRUE(srv.irq_fds >= 14);
}

static void test_every_lie_at_every_command(void)
{
	static const uint16_t commands[] = {
		SVIO_VFU_VERSION,     SVIO_VFU_GET_INFO,     SVIO_VFU_GET_REGION_INFO, SVIO_VFU_GET_IRQ_INFO,
		SVIO_VFU_SET_IRQS,    SVIO_VFU_REGION_READ,  SVIO_VFU_REGION_WRITE,    SVIO_VFU_DMA_MAP,
		SVIO_VFU_DMA_UNMAP,   SVIO_VFU_DEVICE_RESET, SVIO_VFU_DEVICE_FEATURE,
	};
	int fds, maps;

	server_reset(HONEST, 0);
	CU_ASSERT_EQUAL(use_all(), 0); /* whatever a library loads once is there now */
	fds = unit_count_fds();
	maps = unit_count_maps();
	for (size_t c = 0; c < SVIO_ARRAY_SIZE(commands); c++) {
		for (enum lie lie = CLOSE; lie < LIES; lie++) {
			uint64_t start = svio_now_ns();
			int rc;

			server_reset(lie, commands[c]);
			rc = use_all();
			/*
			 * What a lie may do: end the connection, or make one call fail. Empty replies have nothing to cut, and a
			 * region's descriptor is asked for, so that one alone is no lie there.
			 */
			if (!(lie == SHORT && (commands[c] == SVIO_VFU_SET_IRQS || commands[c] == SVIO_VFU_DMA_MAP ||
					       commands[c] == SVIO_VFU_DEVICE_RESET ||
					       commands[c] == SVIO_VFU_DMA_UNMAP)) &&
			    !(lie == EXTRA_FD && commands[c] == SVIO_VFU_GET_REGION_INFO) &&
			    !(lie == SIZE_LONG && commands[c] == SVIO_VFU_GET_REGION_INFO)) {
				if (rc >= 0)
					printf("\n    lie %d at command %u went unnoticed\n", lie, commands[c]);
				CU_ASSERT_TRUE(rc < 0);
			}
			/* One timeout a lie; what follows a broken connection fails at once. */
			CU_ASSERT_TRUE(svio_now_ns() - start < UINT64_C(20000000) * TIMEOUT_MS);
			if (unit_count_fds() != fds)
				printf("\n    lie %d at command %u leaks a descriptor\n", lie, commands[c]);
			CU_ASSERT_EQUAL_FATAL(unit_count_fds(), fds);
		}
	}
	/* Thread stacks and heap arenas come and go with malloc's own policy: a leak would grow with each of 176 rounds. */
#ifndef __SANITIZE_THREAD__ /* whose shadow memory grows by mappings of its own */
	CU_ASSERT_TRUE(unit_count_maps() < maps + 40);
#else
	(void)maps;
#endif
}

static void *reads(void *arg)
{
	struct svio_device *dev = arg;
	uintptr_t bad = 0;

	for (uint32_t i = 0; i < 500; i++) {
		uint32_t off = (i * 52u + (uint32_t)(uintptr_t)&bad % 4096u) % (BAR_SIZE - 8) & ~3u;
		uint32_t v = 0;

		if (svio_device_region_read(dev, 0, off, &v, 4) || memcmp(&v, srv.bar + off, 4) != 0)
			bad++;
	}
	return (void *)bad;
}

/* Two threads with requests under way at once, and a server that answers the later one first. */
static void test_pipelined_out_of_order(void)
{
	struct svio_device *dev;
	pthread_t t[2];
	void *bad;

	server_reset(HONEST, 0);
	CU_ASSERT_EQUAL_FATAL(svio_device_open("sim:scripted", &opts, &dev), 0);
	__atomic_store_n(&srv.reverse, true, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, reads, dev), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &bad);
		CU_ASSERT_PTR_NULL(bad);
	}
	__atomic_store_n(&srv.reverse, false, __ATOMIC_SEQ_CST);
	svio_device_close(dev);
}

/* ---- DMA messages: this test is the server ------------------------------------------------------------- */

static int dma_fd;

static void dma_call(bool write, uint64_t iova, uint64_t count, const void *data, struct svio_vfu_hdr *reply, void *out)
{
	struct svio_vfu_dma_rw rw = { iova, count };
	char body[sizeof(rw) + 4096];
	struct svio_vfu_hdr hdr = { .id = 77, .cmd = write ? SVIO_VFU_DMA_WRITE : SVIO_VFU_DMA_READ };
	int fds[16], nfds = 0;

	memcpy(body, &rw, sizeof(rw));
	if (write)
		memcpy(body + sizeof(rw), data, count);
	hdr.size = (uint32_t)(sizeof(hdr) + sizeof(rw) + (write ? count : 0));
	put(dma_fd, &hdr, body, hdr.size - sizeof(hdr), NULL, 0);
	CU_ASSERT_TRUE_FATAL(get(dma_fd, reply, sizeof(*reply), fds, &nfds));
	CU_ASSERT_EQUAL(reply->id, 77);
	CU_ASSERT_TRUE_FATAL(reply->size - sizeof(*reply) <= sizeof(body));
	CU_ASSERT_TRUE_FATAL(get(dma_fd, body, reply->size - sizeof(*reply), fds, &nfds));
	if (out && reply->size > sizeof(*reply) + sizeof(rw))
		memcpy(out, body + sizeof(rw), reply->size - sizeof(*reply) - sizeof(rw));
}

static void test_dma_messages(void)
{
	uint8_t memory[8192], got[4096];
	struct svio_dma_map map = { .iova = 0x100000, .vaddr = memory, .len = 8192, .prot = SVIO_DMA_READ, .fd = -1 };
	struct svio_vfu_hdr reply;
	struct svio__user_conn *conn;
	struct sim sim;
	int pair[2];

	server_reset(HONEST, 0);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	dma_fd = sim.fd = pair[1];
	/* The version is negotiated by the server thread, one request; then the socket is ours. */
	CU_ASSERT_EQUAL_FATAL(pthread_create(&sim.thread, NULL, serve_once, (void *)(intptr_t)sim.fd), 0);
	CU_ASSERT_EQUAL_FATAL(svio__user_conn_new(pair[0], "test", TIMEOUT_MS, &conn), 0);
	pthread_join(sim.thread, NULL);

	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (uint8_t)(i * 3);
	CU_ASSERT_EQUAL(svio__user_mem_add(conn, &map), 0);
	CU_ASSERT_EQUAL(svio__user_mem_add(conn, &map), -EEXIST);
	dma_call(false, 0x100010, 4096, NULL, &reply, got);
	CU_ASSERT_EQUAL(reply.flags, SVIO_VFU_REPLY);
	CU_ASSERT_EQUAL(memcmp(got, memory + 16, 4096), 0);
	/* Not writable, not mapped, over the end, wrapping round. */
	dma_call(true, 0x100000, 8, "12345678", &reply, NULL);
	CU_ASSERT_EQUAL(reply.error, EFAULT);
	dma_call(false, 0x200000, 8, NULL, &reply, NULL);
	CU_ASSERT_EQUAL(reply.error, EFAULT);
	dma_call(false, 0x101ffc, 8, NULL, &reply, NULL);
	CU_ASSERT_EQUAL(reply.error, EFAULT);
	dma_call(false, UINT64_MAX - 3, 8, NULL, &reply, NULL);
	CU_ASSERT_EQUAL(reply.error, EFAULT);
	svio__user_mem_del(conn, map.iova, map.len);
	dma_call(false, 0x100010, 8, NULL, &reply, NULL);
	CU_ASSERT_EQUAL(reply.error, EFAULT);
	map.prot = SVIO_DMA_WRITE;
	CU_ASSERT_EQUAL(svio__user_mem_add(conn, &map), 0);
	dma_call(true, 0x100020, 8, "12345678", &reply, NULL);
	CU_ASSERT_EQUAL(reply.flags, SVIO_VFU_REPLY);
	CU_ASSERT_EQUAL(memcmp(memory + 32, "12345678", 8), 0);
	CU_ASSERT_EQUAL(memory[40], 120);
	/* More than a message may carry ends the connection. */
	CU_ASSERT_FALSE(svio__user_dead(conn));
	put(dma_fd, &(struct svio_vfu_hdr){ .cmd = SVIO_VFU_DMA_READ, .size = sizeof(struct svio_vfu_hdr) + 16 },
	    &(struct svio_vfu_dma_rw){ 0x100000, UINT64_C(1) << 40 }, 16, NULL, 0);
	CU_ASSERT_EQUAL(recv(dma_fd, got, 1, 0), 0);
	CU_ASSERT_TRUE(svio__user_dead(conn));
	svio__user_conn_disconnect(conn, false);
	svio__user_conn_put(conn);
	close(sim.fd);
}

/* What a server takes is known before it refuses, and given back; pieces in any order. */
static void test_max_maps(void)
{
	static const unsigned int order[] = { 4, 1, 3, 0, 2 };
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_dma_info *info = malloc(sizeof(*info));
	struct svio_dma_domain *domain;
	struct svio_device *dev;

	server_reset(HONEST, 0);
	srv.max_maps = SVIO_ARRAY_SIZE(order);
	CU_ASSERT_EQUAL_FATAL(svio_device_open("sim:scripted", &opts, &dev), 0);
	domain = svio_device_domain(dev);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(order); i++) {
			struct svio_dma_map map = { .iova = order[i] * 4096u, .vaddr = page, .len = 4096, .prot = SVIO_DMA_READ, .fd = -1 };

			CU_ASSERT_EQUAL(svio_dma_info(domain, info), 0);
			CU_ASSERT_EQUAL(info->max_mappings, SVIO_ARRAY_SIZE(order) - i);
			CU_ASSERT_EQUAL(svio_dma_map(domain, &map), 0);
			CU_ASSERT_EQUAL(svio_dma_map(domain, &map), i + 1 < SVIO_ARRAY_SIZE(order) ? -EEXIST : -ENOSPC);
		}
		CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "the server takes no more"));
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(order); i++)
			CU_ASSERT_EQUAL(svio_dma_unmap(domain, i * 4096, 4096), 0);
	}
	svio_device_close(dev);
	free(info);
	munmap(page, 4096);
}

static void test_names(void)
{
	struct svio_device *dev;

	CU_ASSERT_EQUAL(svio_device_open("user:", NULL, &dev), -EINVAL);
	CU_ASSERT_EQUAL(svio_device_open("user:/nonexistent/socket", NULL, &dev), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "svio serve"));
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* A server that does not accept: connections up to its backlog are there at once, then connect() waits. */
static void test_full_backlog(void)
{
	const struct sigaction act = { .sa_handler = on_alarm }; /* without SA_RESTART */
	const struct itimerval often = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int listener, waiting[64], n = 0, fds;
	struct sigaction before;
	struct svio_device *dev;
	char name[128];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/svio-test-backlog.%d", (int)getpid());
	unlink(addr.sun_path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(listener, 1), 0);
	for (;;) {
		CU_ASSERT_FATAL(n < 64);
		waiting[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(waiting[n++], (struct sockaddr *)&addr, sizeof(addr)) < 0)
			break;
	}
	CU_ASSERT_EQUAL(errno, EAGAIN);
	fds = unit_count_fds();
	snprintf(name, sizeof(name), "user:%s", addr.sun_path);
	CU_ASSERT_EQUAL(svio_device_open(name, &opts, &dev), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "not taken the connection within"));
	/* Signals more often than the timeout do not put it off. */
	sigaction(SIGALRM, &act, &before);
	setitimer(ITIMER_REAL, &often, NULL);
	CU_ASSERT_EQUAL(svio_device_open(name, &opts, &dev), -ENODEV);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &before, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "not taken the connection within"));
	/* There is room, but nobody to take the first request. */
	close(waiting[0]);
	close(accept(listener, NULL, NULL));
	CU_ASSERT_EQUAL(svio_device_open(name, &opts, &dev), -ENODEV);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "did not answer request 1 within"));
	CU_ASSERT_EQUAL(unit_count_fds(), fds - 1);
	for (int i = 1; i < n; i++)
		close(waiting[i]);
	close(listener);
	unlink(addr.sun_path);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "an honest server", test_honest },
		{ "every lie at every command", test_every_lie_at_every_command },
		{ "pipelined requests answered out of order", test_pipelined_out_of_order },
		{ "DMA messages reach mapped memory and nothing else", test_dma_messages },
		{ "the server's limit of mappings is known, reported and given back", test_max_maps },
		{ "names that cannot be opened are explained", test_names },
		{ "a server that does not accept, or not answer, is given up in time", test_full_backlog },
		{ NULL, NULL },
	};

	srv.bar_fd = memfd_create("bar", MFD_CLOEXEC);
	if (srv.bar_fd < 0 || ftruncate(srv.bar_fd, BAR_SIZE) < 0)
		return 1;
	srv.bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, srv.bar_fd, 0);
	if (srv.bar == MAP_FAILED)
		return 1;
	svio_log_set(SVIO_LOG_ERR, NULL, NULL); /* broken connections are expected here */
	return unit_run("vfio/user", tests);
}
