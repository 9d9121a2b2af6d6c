/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile vfio-user server: our client opens a device, uses it and closes it, and each of its requests is answered from the
 * input.
 *
 * The client sends with sendmsg(), which is replaced here (ld --wrap): the answer is put into the client's socket before
 * the request's sender goes on, so that no thread is needed on this side and nothing is waited for. What
 * cannot be a whole message is followed by the end of the stream.
 *
 * Input: a byte that says what the client does, then for each request a byte `how` and what it asks for; when the input
 * ends, the server becomes honest.
 */
#include <linux/pci_regs.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "fuzz.h"
#include "user_conn.h"

#define BAR_SIZE 0x8000u
#define ROUNDS	 256u /* requests answered; then the server goes */

int svio__sim_start(const char *spec, int *fd, void **sim);
void svio__sim_stop(void *sim);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);

static struct {
	struct fz_in in;
	int client, server;
	bool ended;
	unsigned int requests;
	uint8_t config[256];
} srv;
static uint8_t ram[2 * 4096 + 2 * 4096]; /* a canary page on both sides */

/* ---- the server -------------------------------------------------------------------------------------- */

/* What an honest server would say: payload, and a descriptor or -1. */
static size_t honest(uint16_t cmd, const uint8_t *ask, size_t len, uint8_t *reply, int *fd)
{
	*fd = -1;
	memset(reply, 0, 64);
	memcpy(reply, ask, SVIO_MIN(len, (size_t)64));
	switch (cmd) {
	case SVIO_VFU_VERSION:
		memcpy(reply, &(struct svio_vfu_version){ 0, 1 }, 4);
		strcpy((char *)reply + 4, "{\"capabilities\":{\"max_msg_fds\":4,\"max_data_xfer_size\":65536}}");
		return 4 + strlen((char *)reply + 4) + 1;
	case SVIO_VFU_GET_INFO:
		memcpy(reply, &(struct svio_vfu_device_info){ 16, 3, 9, 5 }, 16);
		return 16;
	case SVIO_VFU_GET_REGION_INFO: {
		struct svio_vfu_region_info *r = (void *)reply;
		struct {
			struct svio_vfu_cap_sparse head;
			struct svio_vfu_sparse_area area;
		} cap = { { { 1, 1, 0 }, 1, 0 }, { 0x1000, 0x2000 } };
		uint32_t room = r->argsz;

		r->argsz = 32;
		r->flags = SVIO_VFU_REGION_F_READ | SVIO_VFU_REGION_F_WRITE;
		r->offset = 0;
		r->size = r->index == SVIO_VFU_REGION_CONFIG ? 256 : r->index == 0 ? BAR_SIZE : 0;
		r->cap_offset = 0;
		if (r->index != 0)
			return 32;
		r->flags |= SVIO_VFU_REGION_F_MMAP;
		r->argsz = 32 + sizeof(cap);
		if (room < r->argsz)
			return 32;
		r->flags |= SVIO_VFU_REGION_F_CAPS;
		r->cap_offset = 32;
		memcpy(reply + 32, &cap, sizeof(cap));
		*fd = memfd_create("bar", MFD_CLOEXEC);
		FZ_CHECK(*fd >= 0 && ftruncate(*fd, BAR_SIZE) == 0);
		return 32 + sizeof(cap);
	}
	case SVIO_VFU_GET_IRQ_INFO: {
		struct svio_vfu_irq_info *i = (void *)reply;

		i->flags = SVIO_VFU_IRQ_F_EVENTFD | SVIO_VFU_IRQ_F_MASKABLE;
		i->count = i->index == SVIO_VFU_IRQ_MSIX ? 4 : 1;
		return 16;
	}
	case SVIO_VFU_REGION_READ: {
		struct svio_vfu_region_rw rw;

		memcpy(&rw, ask, sizeof(rw));
		for (uint32_t i = 0; i < rw.count; i++)
			reply[sizeof(rw) + i] = rw.region == SVIO_VFU_REGION_CONFIG ? srv.config[(rw.offset + i) & 255] : (uint8_t)i;
		return sizeof(rw) + rw.count;
	}
	case SVIO_VFU_REGION_WRITE:
		return sizeof(struct svio_vfu_region_rw);
	case SVIO_VFU_DMA_UNMAP:
		return sizeof(struct svio_vfu_dma_unmap);
	case SVIO_VFU_DEVICE_FEATURE: {
		struct svio_vfu_feature f;

		memcpy(&f, ask, sizeof(f));
		memset(reply + sizeof(f), 0, 64);
		return sizeof(f) + ((f.flags & SVIO_VFU_FEATURE_MASK) == SVIO_VFU_FEATURE_MIGRATION ? 8 : len - sizeof(f));
	}
	default:
		return 0;
	}
}

static void end(void)
{
	if (!srv.ended)
		shutdown(srv.server, SHUT_RDWR);
	srv.ended = true;
}

static void put(const void *bytes, size_t len, const int *fds, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(24 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)bytes, len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (srv.ended || !len)
		return;
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
	if (__real_sendmsg(srv.server, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
		end();
}

/* Something that the client did not ask for, before the answer. */
static void intrude(uint8_t kind)
{
	struct {
		struct svio_vfu_hdr h;
		struct svio_vfu_dma_rw rw;
		uint8_t data[512];
	} m = { .h = { .id = 7, .flags = kind & 16 ? SVIO_VFU_NO_REPLY : 0 } };

	m.h.cmd = kind & 1 ? SVIO_VFU_DMA_READ : SVIO_VFU_DMA_WRITE;
	if (kind & 8)
		m.h.cmd = fz_u8(&srv.in);
	m.rw.iova = kind & 2 ? fz_u64(&srv.in) : 0x10000u + fz_u16(&srv.in);
	m.rw.count = kind & 4 ? fz_u64(&srv.in) : fz_u16(&srv.in) & 511;
	memset(m.data, 0xee, sizeof(m.data));
	m.h.size = (uint32_t)(sizeof(m.h) + sizeof(m.rw));
	if (m.h.cmd == SVIO_VFU_DMA_WRITE)
		m.h.size += (uint32_t)SVIO_MIN(m.rw.count, sizeof(m.data));
	put(&m, m.h.size, NULL, 0);
	if (kind & 32) /* cut short */
		end();
}

static void answer(const struct svio_vfu_hdr *req, const uint8_t *ask, size_t asked)
{
	static uint8_t message[sizeof(struct svio_vfu_hdr) + (2u << 20)];
	struct svio_vfu_hdr h = { .id = req->id, .cmd = req->cmd, .flags = SVIO_VFU_REPLY };
	uint8_t *reply = message + sizeof(h), how = fz_u8(&srv.in), kind;
	int fds[20], fd;
	size_t len = honest(req->cmd, ask, asked, reply, &fd);
	unsigned int nfds = 0;
	bool whole = true;

	if (fd >= 0)
		fds[nfds++] = fd;
	switch (how & 7) {
	case 1: { /* honest but for some bytes */
		unsigned int n = fz_u8(&srv.in) & 15;

		while (n-- && len) {
			uint32_t at = fz_u8(&srv.in);

			reply[at % len] = fz_u8(&srv.in);
		}
		break;
	}
	case 2: /* something else */
		len = fz_u16(&srv.in);
		fz_bytes(&srv.in, reply, len);
		break;
	case 3: /* longer or shorter */
		len = how & 0x40 ? len + fz_u8(&srv.in) : SVIO_MIN(len, (size_t)fz_u8(&srv.in));
		break;
	case 4: /* the header lies */
		kind = fz_u8(&srv.in);
		if (kind & 1)
			h.id ^= fz_u8(&srv.in);
		if (kind & 2)
			h.cmd ^= fz_u8(&srv.in);
		if (kind & 4)
			h.flags = fz_u32(&srv.in);
		if (kind & 8)
			h.error = fz_u32(&srv.in);
		if (kind & 16) {
			h.size = fz_u32(&srv.in);
			whole = false;
		}
		if (kind & 32)
			len = 0;
		break;
	case 5: /* an error */
		h.flags |= SVIO_VFU_ERROR;
		h.error = fz_u8(&srv.in);
		if (!(how & 0x40))
			len = 0;
		break;
	case 6: /* descriptors nobody asked for, or other ones */
		kind = fz_u8(&srv.in);
		for (unsigned int i = 0; i < (kind & 15) && nfds < SVIO_ARRAY_SIZE(fds); i++)
			fds[nfds++] = kind & 16 ? eventfd(0, EFD_CLOEXEC) : memfd_create("x", MFD_CLOEXEC);
		break;
	case 7:
		intrude(fz_u8(&srv.in));
		break;
	}
	if (!h.size || whole)
		h.size = (uint32_t)(sizeof(h) + len);
	memcpy(message, &h, sizeof(h));
	if (how & 0x80 && nfds < SVIO_ARRAY_SIZE(fds)) { /* the end, before it or in its middle */
		put(message, fz_u8(&srv.in) % (sizeof(h) + len), fds, nfds);
		end();
	} else {
		put(message, sizeof(h) + len, fds, nfds);
	}
	if (!whole)
		end();
	for (unsigned int i = 0; i < nfds; i++)
		close(fds[i]);
}

/* Under the connection's send_lock: one message at a time, though from two threads. */
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static uint8_t request[2u << 20];
	struct svio_vfu_hdr h;
	size_t len = 0;

	FZ_CHECK(fd == srv.client);
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		FZ_CHECK(len + msg->msg_iov[i].iov_len <= sizeof(request));
		if (msg->msg_iov[i].iov_len)
			memcpy(request + len, msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
		len += msg->msg_iov[i].iov_len;
	}
	FZ_CHECK(len >= sizeof(h));
	memcpy(&h, request, sizeof(h));
	FZ_CHECK(h.size == len);
	if (srv.ended) {
		errno = EPIPE;
		return -1;
	}
	if ((h.flags & SVIO_VFU_TYPE_MASK) == SVIO_VFU_REPLY) { /* to our DMA request */
		FZ_CHECK(len <= sizeof(h) + sizeof(struct svio_vfu_dma_rw) + SVIO__USER_MAX_XFER);
		for (size_t i = sizeof(h) + sizeof(struct svio_vfu_dma_rw); i < len; i++)
			FZ_CHECK(request[i] != 0x5a); /* the canaries are not mapped */
		return (ssize_t)len;
	}
	(void)flags;
	if (++srv.requests > ROUNDS)
		end();
	else
		answer(&h, request + sizeof(h), len - sizeof(h));
	return (ssize_t)len;
}

int svio__sim_start(const char *spec, int *fd, void **sim)
{
	int pair[2], size = 8 << 20;

	(void)spec;
	FZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	*fd = srv.client = pair[0];
	srv.server = pair[1];
	*sim = &srv;
	return 0;
}

void svio__sim_stop(void *sim)
{
	(void)sim;
	close(srv.server);
}

/* ---- the client ---------------------------------------------------------------------------------------- */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	svio_log_set(SVIO_LOG_ERR, fz_no_log, NULL);
	return 0;
}

static void honest_config(void)
{
	memset(srv.config, 0, sizeof(srv.config));
	memcpy(srv.config, (uint8_t[]){ 0x34, 0x12, 0x56, 0x53, 2, 0, PCI_STATUS_CAP_LIST, 0, 0, 2, 8, 1 }, 12);
	srv.config[PCI_CAPABILITY_LIST] = 0x40;
	srv.config[0x40] = PCI_CAP_ID_PM;
	srv.config[0x41] = 0x50;
	srv.config[0x50] = PCI_CAP_ID_MSIX;
	srv.config[0x52] = 3;
	srv.config[0x55] = 0x20; /* table at 0x2000 of BAR0: its page must not be mapped */
}

static void check_open(struct svio_device *dev)
{
	struct svio_device_info info;

	svio_device_get_info(dev, &info);
	FZ_CHECK(info.num_regions >= 8 && info.num_regions <= SVIO__MAX_REGIONS && info.num_irqs <= SVIO__MAX_IRQS);
	for (uint32_t i = 0; i < info.num_regions; i++) {
		struct svio_region_info r;
		uint64_t last = 0;

		FZ_CHECK(svio_device_region_info(dev, i, &r) == 0);
		FZ_CHECK(r.num_areas <= SVIO_MAX_SPARSE);
		for (uint32_t a = 0; a < r.num_areas; a++) {
			FZ_CHECK(r.areas[a].size && !((r.areas[a].offset | r.areas[a].size) & 4095));
			FZ_CHECK(r.areas[a].offset <= r.size && r.areas[a].size <= r.size - r.areas[a].offset);
			FZ_CHECK(!a || r.areas[a].offset > last);
			last = r.areas[a].offset + r.areas[a].size;
		}
	}
}

static void try_map(struct svio_device *dev)
{
	struct svio_region_info r;
	void *p;

	for (uint32_t i = 0; i < 6; i++) {
		if (svio_device_region_info(dev, i, &r) || !r.num_areas || r.areas[0].size > (1u << 20))
			continue;
		if (svio_device_region_mmap(dev, i, r.areas[0].offset, r.areas[0].size, PROT_READ, NULL, &p) == 0)
			munmap(p, r.areas[0].size);
	}
}

static void use(struct svio_device *dev, uint8_t what)
{
	struct svio_dma_domain *domain = svio_device_domain(dev);
	struct svio_dma_map map = { .iova = 0x10000, .vaddr = ram + 4096, .len = 2 * 4096, .prot = SVIO_DMA_READ | SVIO_DMA_WRITE,
				    .fd = -1 };
	struct svio_dma_info *dma = malloc(sizeof(*dma));
	uint8_t buf[600], feature[64] = { 0 };
	bool mapped;
	uint32_t v;
	int fds[4];

	check_open(dev);
	mapped = svio_dma_map(domain, &map) == 0;
	svio_dma_info(domain, dma);
	free(dma);
	memset(buf, 0xa5, sizeof(buf));
	svio_device_region_read(dev, 0, 0, buf, what & 1 ? 512 : 8);
	for (size_t i = what & 1 ? 512 : 8; i < sizeof(buf); i++)
		FZ_CHECK(buf[i] == 0xa5);
	svio_device_region_write(dev, 0, 8, buf, what & 2 ? 512 : 4);
	svio_device_config_read(dev, 0, 4, &v);
	svio_device_set_master(dev, true);
	if (what & 4) {
		for (unsigned int i = 0; i < 4; i++)
			fds[i] = eventfd(0, EFD_CLOEXEC);
		svio_device_irq_enable(dev, SVIO_IRQ_MSIX, 0, 4, fds);
		svio_device_irq_mask(dev, SVIO_IRQ_MSIX, 0, 1);
		svio_device_irq_disable(dev, SVIO_IRQ_MSIX);
		for (unsigned int i = 0; i < 4; i++)
			close(fds[i]);
	}
	if (what & 8)
		svio_device_feature(dev, SVIO_FEATURE_GET, VFIO_DEVICE_FEATURE_MIGRATION, feature, 8);
	if (what & 16) {
		uint64_t bitmap[2] = { 0 };
		struct vfio_device_feature_dma_logging_control c = { .page_size = 4096 };
		struct vfio_device_feature_dma_logging_report r = { .iova = 0x10000, .length = 65 * 4096, .page_size = 4096,
								    .bitmap = (uintptr_t)bitmap };

		svio_device_feature(dev, SVIO_FEATURE_SET, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &c, sizeof(c));
		svio_device_feature(dev, SVIO_FEATURE_GET, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &r, sizeof(r));
	}
	if (what & 32)
		try_map(dev);
	if (what & 64)
		svio_device_reset(dev);
	if (mapped)
		svio_dma_unmap(domain, map.iova, map.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .msg_timeout_ms = 1000 };
	struct svio_device *dev = NULL;
	int before = fz_next_fd(), err;
	uint8_t what;

	memset(&srv, 0, sizeof(srv));
	srv.in = (struct fz_in){ data, size };
	what = fz_u8(&srv.in);
	opts.flags = what & 0x80 ? SVIO_DEVICE_NO_WATCH : 0;
	honest_config();
	memset(ram, 0x5a, sizeof(ram));
	memset(ram + 4096, 0, 2 * 4096);
	err = svio_device_open("sim:fuzz", &opts, &dev);
	FZ_CHECK((err == 0) == (dev != NULL));
	FZ_CHECK(err <= 0);
	if (dev)
		use(dev, what);
	svio_device_close(dev);
	for (size_t i = 0; i < 4096; i++)
		FZ_CHECK(ram[i] == 0x5a && ram[3 * 4096 + i] == 0x5a);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
