/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames: what is sent arrives; every bit of one matters; silence, ends, the user's stop; versions of HELLO. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#define HDR 24
#define SHORT_MS 50

/* Two streams over one pair of sockets; a is ours, b the other side's. */
struct pair {
	int fd[2];
	struct mg_stream a, b;
};

static void open_pair(struct pair *p)
{
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->fd), 0);
	CU_ASSERT_EQUAL_FATAL(svio__mg_stream_init(&p->a, p->fd[0], p->fd[0], 5000), 0);
	CU_ASSERT_EQUAL_FATAL(svio__mg_stream_init(&p->b, p->fd[1], p->fd[1], 5000), 0);
}

static void close_pair(struct pair *p)
{
	svio__mg_stream_fini(&p->a);
	svio__mg_stream_fini(&p->b);
	close(p->fd[0]);
	if (p->fd[1] >= 0)
		close(p->fd[1]);
}

static void test_frames(void)
{
	int fds = unit_count_fds();
	struct svio_migrate_in in;
	uint8_t data[9000];
	struct pair p;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i / 64);
	for (int packed = 0; packed < 2; packed++) {
		open_pair(&p);
		p.a.compress = packed;
		p.a.key = p.b.key = 77;
		CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_ROUND, NULL, 0, NULL, 0), 0);
		CU_ASSERT_EQUAL(svio__mg_expect(&p.b, MG_ROUND, &in), 0);
		CU_ASSERT_EQUAL(in.left, 0);
		CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_STATE, data, 8, data + 8, sizeof(data) - 8), 0);
		CU_ASSERT_EQUAL(p.a.tx_bytes < sizeof(data), packed);
		CU_ASSERT_EQUAL(svio__mg_expect(&p.b, MG_STATE, &in), 0);
		CU_ASSERT_EQUAL_FATAL(in.left, sizeof(data));
		CU_ASSERT_EQUAL(memcmp(in.at, data, sizeof(data)), 0);
		CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_ROUND, NULL, 0, NULL, 0), 0);
		CU_ASSERT_EQUAL(svio__mg_expect(&p.b, MG_COMMIT, &in), -EPROTO);
		CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_STATE, data, 8, data, MG_PAYLOAD_MAX - 7), -E2BIG);
		close_pair(&p);
	}
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

/* As the other side would get it with `spoil` done to it. */
static int receive_spoiled(const uint8_t *frame, size_t len, size_t at, uint8_t bits)
{
	enum mg_frame type;
	struct svio_migrate_in in;
	uint8_t copy[256];
	struct pair p;
	int rc;

	open_pair(&p);
	p.b.timeout_ms = SHORT_MS;
	p.b.key = 5;
	memcpy(copy, frame, len);
	copy[at] ^= bits;
	CU_ASSERT_EQUAL(write(p.fd[0], copy, len), (ssize_t)len);
	rc = svio__mg_rx(&p.b, &type, &in);
	close_pair(&p);
	return rc;
}

static void test_every_bit(void)
{
	static const char text[] = "a few bytes of payload";
	uint8_t frame[256];
	struct pair p;
	size_t len;

	open_pair(&p);
	p.a.key = 5;
	CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_STATE, NULL, 0, text, sizeof(text)), 0);
	len = (size_t)read(p.fd[1], frame, sizeof(frame));
	CU_ASSERT_EQUAL_FATAL(len, HDR + sizeof(text));
	close_pair(&p);
	CU_ASSERT_EQUAL(receive_spoiled(frame, len, 0, 0), 0);
	for (size_t at = 0; at < len; at++)
		for (int bit = 0; bit < 8; bit++) {
			int rc = receive_spoiled(frame, len, at, (uint8_t)(1 << bit));

			/* A length that is larger waits for what does not come. */
			if (rc != -EBADMSG && !(rc == -ETIMEDOUT && at >= 12 && at < 20)) {
				CU_FAIL("a damaged frame is believed");
				fprintf(stderr, "byte %zu bit %d: %d\n", at, bit, rc);
			}
		}
}

/* Of another session, a second time, one left out. */
static void test_order(void)
{
	struct svio_migrate_in in;
	enum mg_frame type;
	uint8_t frame[2][HDR];
	struct pair p;

	open_pair(&p);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_ROUND, NULL, 0, NULL, 0), 0);
		CU_ASSERT_EQUAL(read(p.fd[1], frame[i], HDR), HDR);
	}
	CU_ASSERT_EQUAL(write(p.fd[0], frame[0], HDR), HDR);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), 0);
	CU_ASSERT_EQUAL(write(p.fd[0], frame[0], HDR), HDR);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -EBADMSG);
	close_pair(&p);
	open_pair(&p);
	CU_ASSERT_EQUAL(write(p.fd[0], frame[1], HDR), HDR);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -EBADMSG);
	close_pair(&p);
	open_pair(&p);
	p.b.key = 1;
	CU_ASSERT_EQUAL(write(p.fd[0], frame[0], HDR), HDR);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -EBADMSG);
	close_pair(&p);
}

static bool enough(void *ctx)
{
	return ++*(int *)ctx > 2;
}

static void test_ends(void)
{
	struct svio_migrate_buf b = { .max = 100 };
	struct svio_migrate_in in;
	enum mg_frame type;
	struct pair p;
	int asked = 0, other[2];

	/* Silence; then the user; then another descriptor. */
	open_pair(&p);
	p.b.timeout_ms = SHORT_MS;
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "silent for 50 ms"));
	p.b.timeout_ms = 60000;
	p.b.stop = enough;
	p.b.ctx = &asked;
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -ECANCELED);
	CU_ASSERT_EQUAL(asked, 3);
	p.b.stop = NULL;
	CU_ASSERT_EQUAL_FATAL(pipe2(other, O_CLOEXEC), 0);
	p.b.extra_fd = other[0];
	CU_ASSERT_EQUAL(write(other[1], "x", 1), 1);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -EINTR);
	p.b.extra_fd = -1;
	close(other[0]);
	close(other[1]);
	/* The other side's words, without what steers terminals. */
	svio_migrate_put_u32(&b, ENOSPC);
	svio_migrate_put_text(&b, "no\x1broom");
	CU_ASSERT_EQUAL(svio__mg_tx(&p.a, MG_ABORT, b.data, b.len, NULL, 0), 0);
	svio__mg_buf_free(&b);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -ECONNABORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "no room (No space left on device)"));
	/* The end, in the middle of a header and before it. */
	CU_ASSERT_EQUAL(write(p.fd[0], "SVMF", 4), 4);
	shutdown(p.fd[0], SHUT_WR);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -ECONNRESET);
	CU_ASSERT_EQUAL(svio__mg_rx(&p.b, &type, &in), -ECONNRESET);
	/* Nobody reads what is written: at last there is no room. */
	p.b.timeout_ms = SHORT_MS;
	for (int i = 0, rc = 0; i < 100 && rc == 0; i++) {
		static uint8_t much[256 << 10];

		rc = svio__mg_tx(&p.b, MG_STATE, NULL, 0, much, sizeof(much));
		CU_ASSERT_TRUE(rc == 0 || rc == -ETIMEDOUT);
		CU_ASSERT_TRUE(i < 99);
	}
	close_pair(&p);
}

/* Descriptors are as they were, and may be two. */
static void test_descriptors(void)
{
	int in[2], out[2], before;
	struct mg_stream s;

	CU_ASSERT_EQUAL_FATAL(pipe2(in, O_CLOEXEC), 0);
	CU_ASSERT_EQUAL_FATAL(pipe2(out, O_CLOEXEC), 0);
	before = fcntl(in[0], F_GETFL);
	CU_ASSERT_EQUAL(svio__mg_stream_init(&s, in[0], out[1], 100), 0);
	CU_ASSERT_TRUE(fcntl(in[0], F_GETFL) & O_NONBLOCK);
	svio__mg_stream_fini(&s);
	CU_ASSERT_EQUAL(fcntl(in[0], F_GETFL), before);
	CU_ASSERT_EQUAL(svio__mg_stream_init(&s, -1, out[1], 100), -EBADF);
	svio__mg_stream_fini(&s);
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
	}
}

/* ---- HELLO --------------------------------------------------------------------------------------------------- */

static int hello(uint32_t version, size_t id_len, size_t extra)
{
	struct svio_migrate_buf b = { .max = 100 };
	uint8_t id[MG_SESSION] = { 9 }, got[MG_SESSION] = { 0 };
	struct mg_move *x = calloc(1, sizeof(*x));
	struct svio_migrate_in in;
	uint32_t flags = 0;
	int rc;

	svio_migrate_put_u32(&b, version);
	svio_migrate_put_u32(&b, MG_HELLO_CHECK);
	svio_migrate_put_u32(&b, 1234);
	svio_migrate_put_u64(&b, 5678);
	svio_migrate_put(&b, id, id_len);
	svio_migrate_put(&b, id, extra);
	in = (struct svio_migrate_in){ .at = b.data, .left = b.len };
	rc = svio__mg_hello_get(x, &in, &flags, got);
	if (rc == 0) {
		CU_ASSERT_EQUAL(flags, MG_HELLO_CHECK);
		CU_ASSERT_EQUAL(x->peer_pid, 1234);
		CU_ASSERT_EQUAL(x->peer_boot, 5678);
		CU_ASSERT_EQUAL(memcmp(id, got, MG_SESSION), 0);
	}
	svio__mg_buf_free(&b);
	free(x);
	return rc;
}

static void test_hello(void)
{
	CU_ASSERT_EQUAL(hello(SVIO_MIGRATE_STREAM_VERSION, MG_SESSION, 0), 0);
	CU_ASSERT_EQUAL(hello(SVIO_MIGRATE_STREAM_VERSION, MG_SESSION - 1, 0), -EPROTO);
	CU_ASSERT_EQUAL(hello(SVIO_MIGRATE_STREAM_VERSION, MG_SESSION, 1), -EPROTO);
	CU_ASSERT_EQUAL(hello(SVIO_MIGRATE_STREAM_VERSION + 1, MG_SESSION, 0), -EPROTONOSUPPORT);
	/* Both versions, and what helps. */
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "stream version 4, this one 3: install the same svio"));
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "what is sent arrives, packed and not", test_frames },
		{ "every bit of a frame matters", test_every_bit },
		{ "repeated, left out, of another session", test_order },
		{ "silence, the user, another descriptor, the other side's words, the end, no room", test_ends },
		{ "descriptors are as they were", test_descriptors },
		{ "HELLO: another version, another length", test_hello },
		{ NULL, NULL },
	};

	return unit_run("migrate/stream", tests);
}
