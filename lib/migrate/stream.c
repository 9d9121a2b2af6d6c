/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames over any two descriptors. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include "migrate_priv.h"

#define MAGIC	   UINT32_C(0x464d5653) /* "SVMF" in memory */
#define FRAME_ZSTD 1u
#define SLICE_MS   50 /* between questions whether the user has enough */
#define PACK_MIN   512u

struct frame_hdr {
	svio_le32 magic;
	uint8_t type, flags;
	svio_le16 reserved;
	svio_le32 seq;
	svio_le32 len;	   /* bytes that follow */
	svio_le32 raw_len; /* of the payload, when it is packed: len is shorter */
	svio_le32 crc;	   /* of this header with crc zero, and what follows */
} __attribute__((packed));
_Static_assert(sizeof(struct frame_hdr) == 24, "wire");

static const char *const names[MG_FRAMES] = {
	[MG_HELLO] = "HELLO",	  [MG_RECORD] = "RECORD",   [MG_VERDICT] = "VERDICT",	  [MG_LAYOUT] = "LAYOUT",
	[MG_LAYOUT_OK] = "LAYOUT_OK", [MG_PAGES] = "PAGES", [MG_ZERO] = "ZERO",		  [MG_AHEAD] = "AHEAD",
	[MG_ROUND] = "ROUND",	  [MG_ROUND_OK] = "ROUND_OK", [MG_STATE] = "STATE",	  [MG_PREPARE] = "PREPARE",
	[MG_READY] = "READY",	  [MG_COMMIT] = "COMMIT",   [MG_CONFIRM] = "CONFIRM",	  [MG_ABORT] = "ABORT",
	[MG_ANSWER] = "ANSWER",   [MG_BYE] = "BYE",
};

const char *svio__mg_frame_name(unsigned int type)
{
	return type < MG_FRAMES && names[type] ? names[type] : "unknown frame";
}

static int nonblocking(int fd, int *before)
{
	*before = fcntl(fd, F_GETFL);
	if (*before < 0 || fcntl(fd, F_SETFL, *before | O_NONBLOCK) < 0)
		return svio_fail(errno, "descriptor %d: %m", fd);
	return 0;
}

int svio__mg_stream_init(struct mg_stream *s, int in, int out, uint32_t timeout_ms)
{
	int rc;

	memset(s, 0, sizeof(*s));
	s->in = in;
	s->out = out;
	s->in_flags = s->out_flags = -1;
	s->extra_fd = -1;
	s->timeout_ms = timeout_ms;
	rc = nonblocking(in, &s->in_flags);
	if (rc)
		return rc;
	rc = nonblocking(out, &s->out_flags);
	if (rc)
		return rc;
	s->tx = malloc(sizeof(struct frame_hdr) + ZSTD_COMPRESSBOUND(MG_PAYLOAD_MAX));
	s->rx = malloc(MG_PAYLOAD_MAX);
	s->plain = malloc(MG_PAYLOAD_MAX);
	if (!s->tx || !s->rx || !s->plain)
		return svio_fail(ENOMEM, "out of memory for the stream's buffers");
	return 0;
}

void svio__mg_stream_fini(struct mg_stream *s)
{
	if (s->out_flags >= 0)
		fcntl(s->out, F_SETFL, s->out_flags);
	if (s->in_flags >= 0)
		fcntl(s->in, F_SETFL, s->in == s->out ? s->in_flags & ~O_NONBLOCK : s->in_flags);
	ZSTD_freeCCtx(s->cctx);
	ZSTD_freeDCtx(s->dctx);
	free(s->tx);
	free(s->rx);
	free(s->plain);
	memset(s, 0, sizeof(*s));
}

/* Until fd can be used. `silence` counts from the last byte that moved. */
static int wait_for(struct mg_stream *s, int fd, short events, uint64_t silence)
{
	struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = s->extra_fd, .events = POLLIN } };

	for (;;) {
		uint64_t waited = (svio_now_ns() - silence) / 1000000;
		int n;

		if (s->stop && s->stop(s->ctx))
			return svio_fail(ECANCELED, "the migration was cancelled");
		if (s->timeout_ms && waited >= s->timeout_ms)
			return svio_fail(ETIMEDOUT, "the other side was silent for %u ms", s->timeout_ms);
		n = poll(p, 2, SLICE_MS);
		if (n < 0 && errno != EINTR)
			return svio_fail(errno, "poll: %m");
		if (n > 0 && p[0].revents)
			return 0;
		if (n > 0 && s->extra_fd >= 0 && p[1].revents)
			return -EINTR;
	}
}

static int write_all(struct mg_stream *s, const uint8_t *p, size_t len)
{
	uint64_t moved = svio_now_ns();

	while (len) {
		ssize_t n = write(s->out, p, len);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			moved = svio_now_ns();
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return svio_fail(errno == EPIPE ? ECONNRESET : errno, "the connection is lost: %m");
		if (n < 0 && errno == EAGAIN) {
			int rc = wait_for(s, s->out, POLLOUT, moved);

			if (rc && rc != -EINTR)
				return rc;
		}
	}
	return 0;
}

static int read_all(struct mg_stream *s, uint8_t *p, size_t len, bool may_break)
{
	uint64_t moved = svio_now_ns();

	while (len) {
		ssize_t n = read(s->in, p, len);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			moved = svio_now_ns();
			may_break = false;
			continue;
		}
		if (n == 0)
			return svio_fail(ECONNRESET, "the connection was closed");
		if (errno != EAGAIN && errno != EINTR)
			return svio_fail(errno == EPIPE ? ECONNRESET : errno, "the connection is lost: %m");
		if (errno == EAGAIN) {
			int rc = wait_for(s, s->in, POLLIN, moved);

			if (rc && (rc != -EINTR || may_break))
				return rc;
		}
	}
	return 0;
}

static uint32_t checksum(const struct mg_stream *s, struct frame_hdr h, const void *data, size_t len)
{
	h.crc = 0;
	return svio_crc32c(svio_crc32c(s->key, &h, sizeof(h)), data, len);
}

static size_t pack(struct mg_stream *s, uint8_t *to, size_t room, const uint8_t *from, size_t len)
{
	size_t n;

	if (!s->cctx)
		s->cctx = ZSTD_createCCtx();
	if (!s->cctx)
		return len;
	n = ZSTD_compressCCtx(s->cctx, to, room, from, len, 1);
	return ZSTD_isError(n) ? len : n;
}

int svio__mg_tx(struct mg_stream *s, enum mg_frame type, const void *head, size_t head_len, const void *data, size_t len)
{
	struct frame_hdr h = { .magic = svio_cpu_to_le32(MAGIC), .type = (uint8_t)type, .seq = svio_cpu_to_le32(s->tx_seq) };
	size_t raw = head_len + len, wire = raw;
	uint8_t *body = s->tx + sizeof(h);

	if (head_len > MG_PAYLOAD_MAX || len > MG_PAYLOAD_MAX - head_len)
		return svio_fail(E2BIG, "a frame of %zu bytes", raw);
	if (s->compress && raw >= PACK_MIN) {
		memcpy(s->plain, head, head_len);
		memcpy(s->plain + head_len, data, len);
		wire = pack(s, body, ZSTD_COMPRESSBOUND(MG_PAYLOAD_MAX), s->plain, raw);
		if (wire < raw)
			h.flags = FRAME_ZSTD;
		else
			memcpy(body, s->plain, raw);
		wire = SVIO_MIN(wire, raw);
	} else {
		if (head_len)
			memcpy(body, head, head_len);
		if (len)
			memcpy(body + head_len, data, len);
	}
	h.len = svio_cpu_to_le32(wire);
	h.raw_len = svio_cpu_to_le32(raw);
	h.crc = svio_cpu_to_le32(checksum(s, h, body, wire));
	memcpy(s->tx, &h, sizeof(h));
	s->tx_seq++;
	s->tx_frames++;
	s->tx_bytes += sizeof(h) + wire;
	return write_all(s, s->tx, sizeof(h) + wire);
}

static int unpack(struct mg_stream *s, size_t len, size_t raw)
{
	size_t n;

	if (!s->dctx)
		s->dctx = ZSTD_createDCtx();
	if (!s->dctx)
		return svio_fail(ENOMEM, "out of memory for zstd");
	n = ZSTD_decompressDCtx(s->dctx, s->plain, raw, s->rx, len);
	if (ZSTD_isError(n) || n != raw)
		return svio_fail(EBADMSG, "a packed frame does not unpack");
	return 0;
}

/* The other side's last words. */
static int aborted(struct svio_migrate_in *in)
{
	char text[SVIO_ERROR_MAX / 2];
	uint32_t err = svio_migrate_get_u32(in);

	if (svio_migrate_get_text(in, text, sizeof(text)))
		return svio_fail(ECONNABORTED, "the other side gave up");
	/* No terminal is to be steered by a stranger. */
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	return svio_fail(ECONNABORTED, "the other side gave up: %s (%s)", text, err && err < 200 ? strerror((int)err) : "?");
}

int svio__mg_rx(struct mg_stream *s, enum mg_frame *type, struct svio_migrate_in *in)
{
	uint32_t len, raw;
	struct frame_hdr h;
	uint8_t buf[sizeof(h)];
	int rc;

	rc = read_all(s, buf, sizeof(buf), true);
	if (rc)
		return rc;
	memcpy(&h, buf, sizeof(h));
	len = svio_le32_to_cpu(h.len);
	raw = svio_le32_to_cpu(h.raw_len);
	if (svio_le32_to_cpu(h.magic) != MAGIC)
		return svio_fail(EBADMSG, "this is no svio migration stream, or it is damaged");
	if (len > MG_PAYLOAD_MAX || raw > MG_PAYLOAD_MAX || h.flags > FRAME_ZSTD || (h.flags ? len >= raw : len != raw) ||
	    h.type == 0 || h.type >= MG_FRAMES)
		return svio_fail(EBADMSG, "damaged frame header");
	rc = read_all(s, s->rx, len, false);
	if (rc)
		return rc;
	if (checksum(s, h, s->rx, len) != svio_le32_to_cpu(h.crc) || svio_le32_to_cpu(h.seq) != s->rx_seq)
		return svio_fail(EBADMSG, "%s frame %u is damaged, repeated, or of another session", svio__mg_frame_name(h.type),
				 s->rx_seq);
	s->rx_seq++;
	*in = (struct svio_migrate_in){ .at = s->rx, .left = len };
	if (h.flags & FRAME_ZSTD) {
		rc = unpack(s, len, raw);
		if (rc)
			return rc;
		*in = (struct svio_migrate_in){ .at = s->plain, .left = raw };
	}
	*type = (enum mg_frame)h.type;
	return *type == MG_ABORT ? aborted(in) : 0;
}

int svio__mg_expect(struct mg_stream *s, enum mg_frame type, struct svio_migrate_in *in)
{
	enum mg_frame got;
	int rc = svio__mg_rx(s, &got, in);

	if (rc)
		return rc;
	if (got != type)
		return svio_fail(EPROTO, "%s came where %s belongs", svio__mg_frame_name(got), svio__mg_frame_name(type));
	return 0;
}
