/* SPDX-License-Identifier: BSD-3-Clause */
/* Framing, negotiation, description, and what hostile clients send. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "client.h"
#include "probe.h"

static const char qemu_json[] =
	"{\"capabilities\": {\"pgsizes\": 4096, \"max_msg_fds\": 16, \"max_dma_maps\": 65535, \"max_data_xfer_size\": 1048576, "
	"\"migration\": {\"max_bitmap_size\": 268435456, \"pgsize\": 4096}, \"write_multiple\": true}}";

static void test_version_qemu(void)
{
	struct tc tc;

	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(sizeof(qemu_json) + 4 + 16, 214);
	CU_ASSERT_EQUAL(tc_version(&tc, qemu_json), 0);
	CU_ASSERT(tc.hdr.size <= 214);
	CU_ASSERT_EQUAL(tc.data[tc.len - 1], 0);
	CU_ASSERT_PTR_NOT_NULL(strstr((char *)tc.data + 4, "\"max_msg_fds\":16"));
	CU_ASSERT_PTR_NOT_NULL(strstr((char *)tc.data + 4, "\"max_data_xfer_size\":1048576"));
	/* only what was proposed, and nothing that we do not do */
	CU_ASSERT_PTR_NULL(strstr((char *)tc.data + 4, "write_multiple"));
	CU_ASSERT_PTR_NULL(strstr((char *)tc.data + 4, "twin_socket"));
	/* once only */
	CU_ASSERT_EQUAL(tc_version(&tc, qemu_json), -EINVAL);
	tc_stop(&tc);
}

static void test_version_plain(void)
{
	struct svio_vfu_version v = { .major = 0, .minor = 9 };
	struct tc tc;

	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_VERSION, &v, sizeof(v)), 0);
	CU_ASSERT_EQUAL(tc.len, 4); /* no JSON to a client that sent none */
	memcpy(&v, tc.data, sizeof(v));
	CU_ASSERT_EQUAL(v.minor, 1);
	tc_stop(&tc);
	tc_start_raw(&tc, "edu", 0);
	v.minor = 0;
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_VERSION, &v, sizeof(v)), 0);
	memcpy(&v, tc.data, sizeof(v));
	CU_ASSERT_EQUAL(v.minor, 0);
	tc_stop(&tc);
	/* a short request gets a reply that fits */
	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_version(&tc, "{}"), 0);
	CU_ASSERT_EQUAL(tc.len, 4 + 3); /* "{}" */
	tc_stop(&tc);
}

static void test_version_bad(void)
{
	static const char *const bad[] = {
		"", "x", "[]", "{\"capabilities\":3}", "{\"capabilities\":{\"max_msg_fds\":\"no\"}}",
		"{\"capabilities\":{\"max_msg_fds\":-1}}", "{\"capabilities\":{\"max_data_xfer_size\":0}}",
		"{\"capabilities\":", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}}}}}}",
	};
	struct svio_vfu_version v = { .major = 1 };
	uint8_t unterminated[] = { 0, 0, 0, 0, '{', '}' };
	struct tc tc;

	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(bad); i++) {
		tc_start_raw(&tc, "edu", 0);
		CU_ASSERT_EQUAL(tc_version(&tc, bad[i]), -EINVAL);
		CU_ASSERT(tc_closed(&tc));
		tc_stop(&tc);
	}
	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_VERSION, &v, sizeof(v)), -EINVAL);
	CU_ASSERT(tc_closed(&tc));
	tc_stop(&tc);
	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_VERSION, unterminated, sizeof(unterminated)), -EINVAL);
	tc_stop(&tc);
	/* anything before VERSION ends it */
	tc_start_raw(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), -EPROTO);
	CU_ASSERT(tc_closed(&tc));
	tc_stop(&tc);
}

static void test_info(void)
{
	struct svio_vfu_device_info info = { .argsz = sizeof(info) };
	struct svio_vfu_irq_info irq = { .argsz = sizeof(irq) };
	struct svio_vfu_region_io_fds io = { .argsz = sizeof(io) };
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_INFO, &info, sizeof(info)), 0);
	memcpy(&info, tc.data, sizeof(info));
	CU_ASSERT_EQUAL(tc.len, sizeof(info));
	CU_ASSERT_EQUAL(info.flags, SVIO_VFU_DEV_F_PCI | SVIO_VFU_DEV_F_RESET);
	CU_ASSERT_EQUAL(info.num_regions, 9);
	CU_ASSERT_EQUAL(info.num_irqs, 5);
	for (uint32_t i = 0; i < 5; i++) {
		static const uint32_t count[] = { 1, 8, PROBE_VECTORS, 1, 1 };
		static const uint32_t flags[] = { 7, 9, 1, 9, 9 };

		irq = (struct svio_vfu_irq_info){ .argsz = sizeof(irq), .index = i };
		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_IRQ_INFO, &irq, sizeof(irq)), 0);
		memcpy(&irq, tc.data, sizeof(irq));
		CU_ASSERT_EQUAL(irq.count, count[i]);
		CU_ASSERT_EQUAL(irq.flags, flags[i]);
	}
	irq.index = 5;
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_IRQ_INFO, &irq, sizeof(irq)), -EINVAL);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_REGION_IO_FDS, &io, sizeof(io)), 0);
	memcpy(&io, tc.data, sizeof(io));
	CU_ASSERT_EQUAL(io.count, 0);
	tc_stop(&tc);
}

static void test_region_info(void)
{
	struct svio_vfu_region_info info;
	struct svio_vfu_cap_sparse cap;
	struct svio_vfu_sparse_area area;
	uint8_t big[4064] = { 0 };
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	/* too little room: the fixed part says how much, without capabilities and descriptor */
	info = (struct svio_vfu_region_info){ .argsz = sizeof(info), .index = 0 };
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_REGION_INFO, &info, sizeof(info)), 0);
	CU_ASSERT_EQUAL(tc.len, sizeof(info));
	CU_ASSERT_EQUAL(tc.nfds, 0);
	memcpy(&info, tc.data, sizeof(info));
	CU_ASSERT_EQUAL(info.argsz, 64);
	CU_ASSERT_EQUAL(info.flags, 7);
	CU_ASSERT_EQUAL(info.size, 0x4000);
	/* again, as told; SPDK's request is 4,064 bytes long */
	info = (struct svio_vfu_region_info){ .argsz = 64, .index = 0 };
	memcpy(big, &info, sizeof(info));
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_GET_REGION_INFO, big, sizeof(big)), 0);
	CU_ASSERT_EQUAL_FATAL(tc.len, 64);
	CU_ASSERT_EQUAL_FATAL(tc.nfds, 1);
	close(tc.fds[0]);
	memcpy(&info, tc.data, sizeof(info));
	memcpy(&cap, tc.data + info.cap_offset, sizeof(cap));
	memcpy(&area, tc.data + info.cap_offset + sizeof(cap), sizeof(area));
	CU_ASSERT_EQUAL(info.flags, 15);
	CU_ASSERT_EQUAL(info.cap_offset, 32);
	CU_ASSERT_EQUAL(cap.hdr.id, 1);
	CU_ASSERT_EQUAL(cap.hdr.version, 1);
	CU_ASSERT_EQUAL(cap.hdr.next, 0);
	CU_ASSERT_EQUAL(cap.num_areas, 1);
	CU_ASSERT(area.offset == 0x1000 && area.size == 0x1000);

	CU_ASSERT_EQUAL(tc_region_info(&tc, 7, &info, &fd), 0);
	CU_ASSERT(info.size == 4096 && info.flags == 3 && fd == -1);
	CU_ASSERT_EQUAL(tc_region_info(&tc, 1, &info, &fd), 0);
	CU_ASSERT(info.size == 0 && info.flags == 0);
	CU_ASSERT_EQUAL(tc_region_info(&tc, 8, &info, &fd), 0);
	CU_ASSERT_EQUAL(tc_region_info(&tc, 9, &info, &fd), -EINVAL);
	tc_stop(&tc);

	tc_start(&tc, "probe", SVIO_VDEV_NO_MMAP);
	CU_ASSERT_EQUAL(tc_region_info(&tc, 0, &info, &fd), 0);
	CU_ASSERT(info.flags == 3 && fd == -1);
	tc_stop(&tc);
	tc_start(&tc, "edu", 0); /* without PCI Express: 256 bytes */
	CU_ASSERT_EQUAL(tc_region_info(&tc, 7, &info, &fd), 0);
	CU_ASSERT_EQUAL(info.size, 256);
	tc_stop(&tc);
}

static void test_access(void)
{
	struct svio_vfu_region_rw rw;
	uint8_t buf[0x4000];
	struct probe *p;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	tc_w32(&tc, 0, 0xcafe);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 0xcafe);
	/* wider than the model wants: split, low half first */
	memset(p->accesses, 0, sizeof(p->accesses));
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x20, buf, 8), 0);
	CU_ASSERT_EQUAL(p->accesses[4], 2);
	/* unaligned: natural pieces, 1 + 2 + 4 + 1 */
	memset(p->accesses, 0, sizeof(p->accesses));
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x21, buf, 8), 0);
	CU_ASSERT(p->accesses[1] == 2 && p->accesses[2] == 1 && p->accesses[4] == 1);
	/* the model's error is the reply's */
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x10, buf, 4), -ENXIO);
	CU_ASSERT_EQUAL(tc_write(&tc, 0, 0x10, buf, 4), -ENXIO);
	/* bounds */
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x4000, buf, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x3fff, buf, 2), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, UINT64_MAX, buf, 2), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0, buf, 0), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 1, 0, buf, 4), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 6, 0, buf, 4), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 99, 0, buf, 4), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 7, 4095, buf, 2), -EINVAL);
	CU_ASSERT_EQUAL(tc_read(&tc, 7, 0, buf, 4096), 0);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x1000, buf, 0x1000), 0);
	rw = (struct svio_vfu_region_rw){ .count = (1u << 20) + 1 };
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_READ, &rw, sizeof(rw)), -EINVAL);
	rw.count = UINT32_MAX;
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_READ, &rw, sizeof(rw)), -EINVAL);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_WRITE, &rw, sizeof(rw)), -EINVAL);
	tc_stop(&tc);
}

static void test_posted_and_pipelined(void)
{
	struct {
		struct svio_vfu_region_rw rw;
		uint32_t v;
	} __attribute__((packed)) w = { .rw = { .offset = 0, .region = 0, .count = 4 } };
	struct svio_vfu_region_rw r = { .offset = 0, .region = 0, .count = 4 };
	uint16_t first;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	/* posted writes, also failing ones, get no reply; order is kept */
	for (uint32_t i = 1; i <= 300; i++) {
		w.v = i;
		tc_send(&tc, SVIO_VFU_REGION_WRITE, SVIO_VFU_NO_REPLY, &w, sizeof(w), NULL, 0);
	}
	w.rw.region = 5;
	tc_send(&tc, SVIO_VFU_REGION_WRITE, SVIO_VFU_NO_REPLY, &w, sizeof(w), NULL, 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 300);
	/* pipelined requests are answered in order */
	first = tc.next_id;
	for (unsigned int i = 0; i < 200; i++)
		tc_send(&tc, SVIO_VFU_REGION_READ, 0, &r, sizeof(r), NULL, 0);
	for (unsigned int i = 0; i < 200; i++) {
		CU_ASSERT_FATAL(tc_recv(&tc));
		CU_ASSERT_EQUAL(tc.hdr.id, (uint16_t)(first + i));
	}
	/* a posted write as last words is still done */
	w.rw.region = 0;
	w.v = 77;
	tc_send(&tc, SVIO_VFU_REGION_WRITE, SVIO_VFU_NO_REPLY, &w, sizeof(w), NULL, 0);
	close(tc.fd);
	tc.fd = -1;
	tc_rounds(&tc, 50);
	CU_ASSERT_EQUAL(((struct probe *)svio_vdev_priv(tc.dev))->scratch, 77);
	CU_ASSERT_FALSE(((struct probe *)svio_vdev_priv(tc.dev))->connected);
	tc_stop(&tc);
}

static void test_write_multi(void)
{
	struct {
		uint64_t n;
		struct svio_vfu_write_multi_entry e[3];
	} __attribute__((packed)) m = { .n = 3 };
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (unsigned int i = 0; i < 3; i++) {
		m.e[i] = (struct svio_vfu_write_multi_entry){ .offset = i == 2 ? 0x1000 : 0, .region = 0, .count = 4 };
		m.e[i].data[0] = (uint8_t)(i + 1);
	}
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_WRITE_MULTI, &m, sizeof(m)), 0);
	CU_ASSERT_EQUAL(tc.len, 8);
	CU_ASSERT_EQUAL(tc.data[0], 3);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 2);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x1000), 3);
	m.n = 4; /* more than there are */
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_WRITE_MULTI, &m, sizeof(m)), -EINVAL);
	m.n = UINT64_MAX / 24 + 2;
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_WRITE_MULTI, &m, sizeof(m)), -EINVAL);
	m.n = 3;
	m.e[0].data[0] = 9;
	m.e[2].count = 9; /* one bad: none is done */
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_REGION_WRITE_MULTI, &m, sizeof(m)), -EINVAL);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 2);
	tc_stop(&tc);
}

/*
 * Every command with every body shorter than its structure, and with a body of zeroes and of ones.
 */
static void test_short_bodies(void)
{
	static const uint8_t fixed[21] = { [2] = 32, [3] = 24, [4] = 16, [5] = 32, [6] = 16, [7] = 16, [8] = 20, [9] = 16,
					   [10] = 16, [11] = 40, [12] = 40, [14] = 40, [15] = 32, [16] = 8, [17] = 8, [18] = 8,
					   [19] = 40, [20] = 40 };
	uint8_t body[4096];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (uint16_t cmd = 2; cmd <= 20; cmd++) {
		if (cmd == SVIO_VFU_DEVICE_RESET)
			continue;
		for (size_t len = 0; len < 64; len++) {
			int err;

			memset(body, len & 1 ? 0xff : 0, sizeof(body));
			err = tc_call(&tc, cmd, body, len);
			CU_ASSERT_NOT_EQUAL(err, -ENODATA);
			if (len < fixed[cmd])
				CU_ASSERT_NOT_EQUAL(err, 0);
		}
		memset(body, 0xff, sizeof(body));
		CU_ASSERT_NOT_EQUAL(tc_call(&tc, cmd, body, sizeof(body)), -ENODATA);
		memset(body, 0, sizeof(body));
		CU_ASSERT_NOT_EQUAL(tc_call(&tc, cmd, body, sizeof(body)), -ENODATA);
	}
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DIRTY_PAGES, body, 24), -EINVAL);
	CU_ASSERT_EQUAL(tc_call(&tc, 0, body, 24), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(tc_call(&tc, 0xffff, body, 24), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DMA_READ, body, 24), -EOPNOTSUPP);
	/* a reply to nothing is ignored */
	tc_send(&tc, SVIO_VFU_DMA_READ, SVIO_VFU_REPLY, body, 24, NULL, 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	tc_stop(&tc);
}

static void test_bad_framing(void)
{
	static const struct svio_vfu_hdr bad[] = {
		{ .id = 1, .cmd = 4, .size = 0 },
		{ .id = 1, .cmd = 4, .size = 15 },
		{ .id = 1, .cmd = 4, .size = UINT32_MAX },
		{ .id = 1, .cmd = 4, .size = (1u << 20) + 4096 },
		{ .id = 1, .cmd = 4, .size = 32, .flags = 2 },
	};
	struct tc tc;

	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(bad); i++) {
		struct svio_vdev_stats st;

		tc_start(&tc, "edu", 0);
		tc_send_raw(&tc, &bad[i], sizeof(bad[i]), NULL, 0);
		CU_ASSERT(tc_closed(&tc));
		svio_vdev_get_stats(tc.dev, &st);
		CU_ASSERT_EQUAL(st.protocol_errors, 1);
		tc_stop(&tc);
	}
}

/* Messages cut into single bytes, and several in one write. */
static void test_partial(void)
{
	struct {
		struct svio_vfu_hdr h;
		struct svio_vfu_region_rw rw;
	} __attribute__((packed)) m[3];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (unsigned int i = 0; i < 3; i++) {
		m[i].h = (struct svio_vfu_hdr){ .id = (uint16_t)i, .cmd = SVIO_VFU_REGION_READ, .size = sizeof(m[0]) };
		m[i].rw = (struct svio_vfu_region_rw){ .offset = 0x14, .region = 0, .count = 4 };
	}
	for (size_t i = 0; i < sizeof(m[0]); i++) {
		tc_send_raw(&tc, (uint8_t *)m + i, 1, NULL, 0);
		tc_rounds(&tc, 3);
	}
	CU_ASSERT(tc_recv(&tc));
	CU_ASSERT_EQUAL(tc.len, 20);
	tc_send_raw(&tc, m, sizeof(m), NULL, 0);
	for (unsigned int i = 0; i < 3; i++) {
		CU_ASSERT(tc_recv(&tc));
		CU_ASSERT_EQUAL(tc.hdr.id, i);
	}
	/* gone in the middle of a message */
	tc_send_raw(&tc, m, 20, NULL, 0);
	tc_rounds(&tc, 5);
	tc_close(&tc);
	tc_rounds(&tc, 20);
	CU_ASSERT_FALSE(svio_vdev_connected(tc.dev));
	tc_stop(&tc);
}

/* A client that sends requests and never reads: bounded, and served when it reads again. */
static void test_slow_reader(void)
{
	struct svio_vfu_region_rw rw = { .offset = 0x1000, .region = 0, .count = 0x1000 };
	unsigned int got = 0;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (unsigned int i = 0; i < 500; i++)
		tc_send(&tc, SVIO_VFU_REGION_READ, 0, &rw, sizeof(rw), NULL, 0);
	tc_rounds(&tc, 1000);
	while (got < 500 && tc_recv(&tc))
		got += tc.len == 0x1010;
	CU_ASSERT_EQUAL(got, 500);
	tc_stop(&tc);
}

/* Descriptors with commands that take none are closed; too many end the connection. */
static void test_unexpected_fds(void)
{
	struct svio_vfu_dma_unmap u = { .argsz = sizeof(u), .iova = 0, .size = 0x1000 };
	struct svio_vfu_hdr h = { .cmd = SVIO_VFU_DEVICE_RESET, .size = sizeof(h) };
	struct svio_vfu_region_rw rw = { .count = 4 };
	int fds[16], before;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (unsigned int i = 0; i < 16; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	before = unit_count_fds();
	/* SPDK sends one with DMA_UNMAP */
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_DMA_UNMAP, &u, sizeof(u), fds, 1), 0);
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0, fds, 16), 0);
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_REGION_READ, &rw, sizeof(rw), fds, 3), 0);
	CU_ASSERT_EQUAL(tc_call_fds(&tc, 99, NULL, 0, fds, 3), -EOPNOTSUPP);
	tc_send(&tc, SVIO_VFU_DMA_READ, SVIO_VFU_REPLY, NULL, 0, fds, 2);
	tc_rounds(&tc, 20);
	CU_ASSERT_EQUAL(unit_count_fds(), before);
	/* descriptors with the second half of a message */
	h.cmd = SVIO_VFU_REGION_READ;
	h.size = sizeof(h) + sizeof(rw);
	tc_send_raw(&tc, &h, sizeof(h), NULL, 0);
	tc_rounds(&tc, 5);
	tc_send_raw(&tc, &rw, sizeof(rw), fds, 2);
	CU_ASSERT(tc_closed(&tc));
	tc_close(&tc);
	CU_ASSERT_EQUAL(unit_count_fds(), before - 2); /* both ends of the connection */
	for (unsigned int i = 0; i < 16; i++)
		close(fds[i]);
	tc_stop(&tc);
}

/*
 * More than this process has room for: the kernel cuts them off (MSG_CTRUNC), and those that came are closed. What is kept
 * does not pass to programs that the server starts.
 */
static void test_descriptor_limits(void)
{
	struct svio_vfu_dma_map m = { .argsz = sizeof(m), .flags = 3, .iova = 0x100000, .size = 4096 };
	struct svio_vfu_hdr h = { .cmd = SVIO_VFU_DEVICE_RESET, .size = sizeof(h) };
	struct rlimit old, tight;
	int fds[250], fd, before, next;
	struct tc tc;

	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(fds); i++)
		fds[i] = i ? dup(fds[0]) : open("/dev/null", O_RDONLY | O_CLOEXEC);
	/* Two halves of a header with as many as a message can carry each. */
	tc_start(&tc, "probe", 0);
	before = unit_count_fds();
	tc_send_raw(&tc, &h, 8, fds, SVIO_ARRAY_SIZE(fds));
	tc_rounds(&tc, 5);
	tc_send_raw(&tc, (char *)&h + 8, sizeof(h) - 8, fds, SVIO_ARRAY_SIZE(fds));
	CU_ASSERT(tc_closed(&tc));
	CU_ASSERT_EQUAL(unit_count_fds(), before - 1); /* its end of the connection */
	tc_stop(&tc);
	/* Room for three. */
	tc_start(&tc, "probe", 0);
	before = unit_count_fds();
	next = dup(fds[0]);
	close(next);
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &old), 0);
	tight = (struct rlimit){ .rlim_cur = (rlim_t)next + 3, .rlim_max = old.rlim_max };
	CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_NOFILE, &tight), 0);
	tc_send_raw(&tc, &h, sizeof(h), fds, 10);
	CU_ASSERT(tc_closed(&tc));
	setrlimit(RLIMIT_NOFILE, &old);
	CU_ASSERT_EQUAL(unit_count_fds(), before - 1);
	tc_stop(&tc);
	/* One that is kept. */
	fd = tc_memfd(4096, F_SEAL_SHRINK, NULL);
	tc_start(&tc, "probe", 0);
	next = dup(fd);
	close(next);
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_DMA_MAP, &m, sizeof(m), &fd, 1), 0);
	CU_ASSERT_EQUAL(fcntl(next, F_GETFD), FD_CLOEXEC);
	tc_stop(&tc);
	close(fd);
	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

static const struct unit_test tests[] = {
	{ "VERSION as QEMU sends it: reply fits its buffer, caps are a subset", test_version_qemu },
	{ "VERSION without JSON and with a newer minor", test_version_plain },
	{ "VERSION: bad major, bad JSON, wrong order end the connection", test_version_bad },
	{ "device and interrupt info", test_info },
	{ "region info: argsz protocol, sparse capability, one descriptor", test_region_info },
	{ "region access: widths, splitting, errors, bounds", test_access },
	{ "posted and pipelined requests keep their order", test_posted_and_pipelined },
	{ "WRITE_MULTI: all or none of its form, in order", test_write_multi },
	{ "every command refuses short and absurd bodies", test_short_bodies },
	{ "impossible sizes and types close the connection", test_bad_framing },
	{ "partial and coalesced messages", test_partial },
	{ "a client that does not read stalls only itself", test_slow_reader },
	{ "unexpected descriptors are closed", test_unexpected_fds },
	{ "descriptors that do not fit end the connection; what is kept is not inherited", test_descriptor_limits },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/proto", tests);
}
