/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames over any two descriptors. */
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include "migrate_priv.h"
#include "rights.h"

#define MAGIC	   UINT32_C(0x464d5653) /* "SVMF" in memory */
#define FRAME_ZSTD 1u
#define SLICE_MS   50 /* between questions whether the user has enough */
#define PACK_MIN   512u
#define FRONT	   4096u /* in a buffer, before the payload: a header, and what comes before pages */
#define PAGES_MAX  (MG_FRAME_PAGES * 4096u)
#define RUNS_MAX   (sizeof(struct mg_pages_head) + MG_FRAME_PAGES * (sizeof(struct mg_run) + sizeof(svio_le32)))

struct frame_hdr {
	svio_le32 magic;
	uint8_t type, flags;
	svio_le16 reserved;
	svio_le32 seq;
	svio_le32 len;	   /* bytes that follow */
	svio_le32 raw_len; /* of the payload, when it is packed: len is shorter */
	svio_le32 crc;	   /* of this header with crc zero, and what follows; of pages that are not packed: up to their sums */
} __attribute__((packed));
_Static_assert(sizeof(struct frame_hdr) == 24, "wire");
_Static_assert(sizeof(struct frame_hdr) + RUNS_MAX <= FRONT, "what comes before the pages fits");
_Static_assert(RUNS_MAX + PAGES_MAX <= MG_PAYLOAD_MAX, "a frame takes so many pages");

static const char *const names[MG_FRAMES] = {
	[MG_HELLO] = "HELLO",	  [MG_RECORD] = "RECORD",   [MG_VERDICT] = "VERDICT",	  [MG_LAYOUT] = "LAYOUT",
	[MG_LAYOUT_OK] = "LAYOUT_OK", [MG_PAGES] = "PAGES", [MG_ZERO] = "ZERO",		  [MG_AHEAD] = "AHEAD",
	[MG_ROUND] = "ROUND",	  [MG_ROUND_OK] = "ROUND_OK", [MG_STATE] = "STATE",	  [MG_PREPARE] = "PREPARE",
	[MG_READY] = "READY",	  [MG_COMMIT] = "COMMIT",   [MG_CONFIRM] = "CONFIRM",	  [MG_ABORT] = "ABORT",
	[MG_ANSWER] = "ANSWER",   [MG_BYE] = "BYE",	  [MG_SHARE] = "SHARE",
	[MG_SHARE_OK] = "SHARE_OK", [MG_HERE] = "HERE",	  [MG_HERE_OK] = "HERE_OK",
};

const char *svio__mg_frame_name(unsigned int type)
{
	return type < MG_FRAMES && names[type] ? names[type] : "unknown frame";
}

/*
 * No call may last longer than SLICE_MS. Sockets have a time limit for that: a sender who sleeps in poll(2) is woken when three quarters
 * of its buffer are empty, one who sleeps in write(2) as soon as there is room. Others are asked, and waited for.
 */
static int limit(int fd, int option, int *flags, struct timeval *before)
{
	const struct timeval slice = { .tv_usec = SLICE_MS * 1000 };
	socklen_t len = sizeof(*before);
	int now;

	*flags = fcntl(fd, F_GETFL);
	if (*flags < 0)
		return svio_fail(errno, "descriptor %d: %m", fd);
	if (getsockopt(fd, SOL_SOCKET, option, before, &len) == 0 && setsockopt(fd, SOL_SOCKET, option, &slice, sizeof(slice)) == 0) {
		now = *flags & ~O_NONBLOCK;
	} else {
		before->tv_sec = -1;
		now = *flags | O_NONBLOCK;
	}
	if (fcntl(fd, F_SETFL, now) < 0)
		return svio_fail(errno, "descriptor %d: %m", fd);
	return 0;
}

static void unlimit(int fd, int option, int flags, const struct timeval *before)
{
	if (flags < 0)
		return;
	fcntl(fd, F_SETFL, flags);
	if (before->tv_sec >= 0)
		setsockopt(fd, SOL_SOCKET, option, before, sizeof(*before));
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
	rc = limit(in, SO_RCVTIMEO, &s->in_flags, &s->in_limit);
	if (rc)
		return rc;
	rc = limit(out, SO_SNDTIMEO, &s->out_flags, &s->out_limit);
	if (rc)
		return rc;
	s->room = aligned_alloc(FRONT, FRONT + SVIO_ALIGN_UP((size_t)ZSTD_COMPRESSBOUND(MG_PAYLOAD_MAX), FRONT));
	s->tx = s->room ? s->room + FRONT : NULL;
	s->rx = malloc(MG_PAYLOAD_MAX);
	s->plain = malloc(MG_PAYLOAD_MAX);
	if (!s->tx || !s->rx || !s->plain)
		return svio_fail(ENOMEM, "out of memory for the stream's buffers");
	return 0;
}

void svio__mg_stream_fini(struct mg_stream *s)
{
	unlimit(s->out, SO_SNDTIMEO, s->out_flags, &s->out_limit);
	unlimit(s->in, SO_RCVTIMEO, s->in_flags, &s->in_limit); /* last: in may be out, and what was found first counts */
	ZSTD_freeCCtx(s->cctx);
	ZSTD_freeDCtx(s->dctx);
	free(s->room);
	free(s->rx);
	free(s->plain);
	memset(s, 0, sizeof(*s));
}

/* Until fd can be used, or may be tried again. `silence` counts from the last byte that moved. */
static int wait_for(struct mg_stream *s, int fd, short events, uint64_t silence)
{
	struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = s->extra_fd, .events = POLLIN } };
	bool waits = (events == POLLIN ? s->in_limit : s->out_limit).tv_sec >= 0 && s->extra_fd < 0;

	for (;;) {
		uint64_t waited = (svio_now_ns() - silence) / 1000000;
		int n;

		if (s->stop && s->stop(s->ctx))
			return svio_fail(ECANCELED, "the migration was cancelled");
		if (s->timeout_ms && waited >= s->timeout_ms)
			return svio_fail(ETIMEDOUT, "the other side was silent for %u ms", s->timeout_ms);
		if (waits)
			return 0;
		n = poll(p, 2, SLICE_MS);
		if (n < 0 && errno != EINTR)
			return svio_fail(errno, "poll: %m");
		if (n > 0 && p[0].revents)
			return 0;
		if (n > 0 && s->extra_fd >= 0 && p[1].revents)
			return -EINTR;
	}
}

/* Uses up what `piece` points to. */
static int write_pieces(struct mg_stream *s, struct iovec *piece, int num)
{
	uint64_t moved = svio_now_ns();

	while (num) {
		ssize_t n = writev(s->out, piece, num);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return svio_fail(errno == EPIPE ? ECONNRESET : errno, "the connection is lost: %m");
		if (n < 0 && errno == EAGAIN) {
			int rc = wait_for(s, s->out, POLLOUT, moved);

			if (rc && rc != -EINTR)
				return rc;
		}
		if (n > 0)
			moved = svio_now_ns();
		while (n > 0) {
			size_t here = SVIO_MIN((size_t)n, piece->iov_len);

			piece->iov_base = (uint8_t *)piece->iov_base + here;
			piece->iov_len -= here;
			n -= (ssize_t)here;
			if (!piece->iov_len) {
				piece++;
				num--;
			}
		}
	}
	return 0;
}

static int read_all(struct mg_stream *s, uint8_t *p, size_t len, bool may_break)
{
	uint64_t moved = svio_now_ns();

	while (len) {
		ssize_t n = 0;
		int rc = s->extra_fd >= 0 ? wait_for(s, s->in, POLLIN, moved) : 0;

		if (rc && (rc != -EINTR || may_break))
			return rc;
		n = read(s->in, p, len);

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
			rc = wait_for(s, s->in, POLLIN, moved);
			if (rc && (rc != -EINTR || may_break))
				return rc;
		}
	}
	return 0;
}

int svio__mg_tx_fds(struct mg_stream *s, const int *fds, uint32_t num)
{
	SVIO__RIGHTS(MG_MAX_AREAS) control;
	uint64_t moved = svio_now_ns();
	struct iovec byte = { "", 1 };
	struct msghdr msg = { .msg_iov = &byte, .msg_iovlen = 1 };

	svio__rights_put(&msg, &control, fds, num);
	for (;;) {
		ssize_t n = sendmsg(s->out, &msg, MSG_NOSIGNAL);
		int rc;

		if (n > 0)
			return 0;
		/* unix(7): too many on their way, of this user. It goes without them. */
		if (n < 0 && errno == ETOOMANYREFS && msg.msg_controllen) {
			msg.msg_control = NULL;
			msg.msg_controllen = 0;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return svio_fail(errno == EPIPE ? ECONNRESET : errno, "the connection is lost: %m");
		rc = n < 0 && errno == EAGAIN ? wait_for(s, s->out, POLLOUT, moved) : 0;
		if (rc && rc != -EINTR)
			return rc;
	}
}

int svio__mg_rx_fds(struct mg_stream *s, int *fds, uint32_t max, uint32_t *num)
{
	SVIO__RIGHTS(MG_MAX_AREAS) control;
	uint64_t moved = svio_now_ns();
	uint8_t data;
	struct iovec byte = { &data, 1 };

	*num = 0;
	for (;;) {
		struct msghdr msg = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
		ssize_t n = recvmsg(s->in, &msg, MSG_CMSG_CLOEXEC);
		int rc;

		if (n == 0)
			return svio_fail(ECONNRESET, "the connection was closed");
		if (n > 0) {
			(void)svio__rights_take(&msg, fds, max, num); /* fewer will do */
			return 0;
		}
		if (errno == ENOTSOCK)
			return svio_fail(EPROTO, "descriptors belong into a unix socket");
		if (errno != EAGAIN && errno != EINTR)
			return svio_fail(errno, "the connection is lost: %m");
		rc = errno == EAGAIN ? wait_for(s, s->in, POLLIN, moved) : 0;
		if (rc && rc != -EINTR)
			return rc;
	}
}

/* Pages that come in pieces of any length, compared with their sums, before they leave the cache. */
struct summer {
	const svio_le32 *sum;
	uint32_t page, at, crc;
	uint64_t *wrong;
};

static void sum_up(struct summer *t, const uint8_t *p, size_t len)
{
	while (len) {
		size_t here = SVIO_MIN(len, (size_t)MG_PAGE - t->at);

		t->crc = svio_crc32c(t->crc, p, here);
		t->at += (uint32_t)here;
		p += here;
		len -= here;
		if (t->at < MG_PAGE)
			continue;
		if (t->crc != svio_le32_to_cpu(t->sum[t->page]))
			svio_bitmap_set(t->wrong, t->page);
		t->page++;
		t->at = t->crc = 0;
	}
}

static int read_pieces(struct mg_stream *s, struct iovec *piece, int num, struct summer *t)
{
	uint64_t moved = svio_now_ns();

	while (num) {
		ssize_t n = readv(s->in, piece, num);

		if (n == 0)
			return svio_fail(ECONNRESET, "the connection was closed");
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return svio_fail(errno == EPIPE ? ECONNRESET : errno, "the connection is lost: %m");
		if (n < 0 && errno == EAGAIN) {
			int rc = wait_for(s, s->in, POLLIN, moved);

			if (rc && rc != -EINTR)
				return rc;
		}
		if (n > 0)
			moved = svio_now_ns();
		while (n > 0) {
			size_t here = SVIO_MIN((size_t)n, piece->iov_len);

			sum_up(t, piece->iov_base, here);
			piece->iov_base = (uint8_t *)piece->iov_base + here;
			piece->iov_len -= here;
			n -= (ssize_t)here;
			if (!piece->iov_len) {
				piece++;
				num--;
			}
		}
	}
	return 0;
}

static uint32_t header_checksum(const struct mg_stream *s, struct frame_hdr h)
{
	h.crc = 0;
	return svio_crc32c(s->key, &h, sizeof(h));
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

/* `covered`: how much of what follows the checksum is for. */
static struct frame_hdr header(struct mg_stream *s, enum mg_frame type, bool packed, const uint8_t *payload, size_t covered, size_t wire,
			       size_t raw)
{
	struct frame_hdr h = { .magic = svio_cpu_to_le32(MAGIC), .type = (uint8_t)type, .flags = packed ? FRAME_ZSTD : 0,
			       .seq = svio_cpu_to_le32(s->tx_seq), .len = svio_cpu_to_le32(wire), .raw_len = svio_cpu_to_le32(raw) };

	h.crc = svio_cpu_to_le32(svio_crc32c(header_checksum(s, h), payload, covered));
	s->tx_seq++;
	s->tx_frames++;
	s->tx_bytes += sizeof(h) + wire;
	return h;
}

static int send_whole(struct mg_stream *s, struct frame_hdr h, uint8_t *payload, size_t len)
{
	struct iovec one = { payload - sizeof(h), sizeof(h) + len };

	memcpy(payload - sizeof(h), &h, sizeof(h));
	return write_pieces(s, &one, 1);
}

/* `raw` bytes of s->plain. False: they do not get shorter. */
static bool send_packed(struct mg_stream *s, enum mg_frame type, size_t raw, int *rc)
{
	size_t wire = raw < PACK_MIN ? raw : pack(s, s->tx, ZSTD_COMPRESSBOUND(MG_PAYLOAD_MAX), s->plain, raw);

	if (wire >= raw)
		return false;
	*rc = send_whole(s, header(s, type, true, s->tx, wire, wire, raw), s->tx, wire);
	return true;
}

int svio__mg_tx(struct mg_stream *s, enum mg_frame type, const void *head, size_t head_len, const void *data, size_t len)
{
	uint8_t *payload = s->compress ? s->plain : s->tx;
	size_t raw = head_len + len;
	int rc;

	if (!s->tx)
		return svio_fail(ENOMEM, "no memory for what is to be said");
	if (head_len > MG_PAYLOAD_MAX || len > MG_PAYLOAD_MAX - head_len)
		return svio_fail(E2BIG, "a frame of %zu bytes", raw);
	if (head_len)
		memcpy(payload, head, head_len);
	if (len)
		memcpy(payload + head_len, data, len);
	if (s->compress && send_packed(s, type, raw, &rc))
		return rc;
	if (s->compress)
		memcpy(s->tx, payload, raw);
	return send_whole(s, header(s, type, false, s->tx, raw, raw, raw), s->tx, raw);
}

int svio__mg_tx_pages(struct mg_stream *s, const struct mg_run *run, uint32_t runs, const svio_le32 *sum, uint32_t pages,
		      const struct iovec *piece)
{
	const struct mg_pages_head head = { .runs = svio_cpu_to_le32(runs), .pages = svio_cpu_to_le32(pages) };
	size_t before = sizeof(head) + runs * sizeof(*run) + pages * sizeof(*sum), raw = before + pages * MG_PAGE;
	uint8_t *front = s->compress ? s->plain : s->tx, *at;
	struct iovec all[2 + MG_FRAME_PAGES];
	struct frame_hdr h;
	int rc;

	at = mempcpy(front, &head, sizeof(head));
	at = mempcpy(at, run, runs * sizeof(*run));
	at = mempcpy(at, sum, pages * sizeof(*sum));
	for (uint32_t i = 0; s->compress && i < runs; i++)
		at = mempcpy(at, piece[i].iov_base, piece[i].iov_len);
	if (s->compress && send_packed(s, MG_PAGES, raw, &rc))
		return rc;
	h = header(s, MG_PAGES, false, front, before, raw, raw);
	all[0] = (struct iovec){ &h, sizeof(h) };
	all[1] = (struct iovec){ front, before };
	memcpy(all + 2, piece, runs * sizeof(*piece));
	return write_pieces(s, all, 2 + (int)runs);
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

/* What comes before the pages of a frame: *got bytes in s->rx. */
static int read_front(struct mg_stream *s, size_t len, size_t *got)
{
	struct mg_pages_head head;
	uint32_t runs, pages;
	int rc;

	if (!s->place)
		return svio_fail(EPROTO, "pages where none belong");
	if (len < sizeof(head))
		return svio_fail(EPROTO, "pages that are too short");
	rc = read_all(s, s->rx, sizeof(head), false);
	if (rc)
		return rc;
	memcpy(&head, s->rx, sizeof(head));
	runs = svio_le32_to_cpu(head.runs);
	pages = svio_le32_to_cpu(head.pages);
	if (runs > MG_FRAME_PAGES || pages > MG_FRAME_PAGES)
		return svio_fail(EPROTO, "%u pages in %u pieces", pages, runs);
	*got = sizeof(head) + runs * sizeof(struct mg_run) + pages * sizeof(svio_le32);
	if (len != *got + pages * MG_PAGE)
		return svio_fail(EPROTO, "%u pages in a frame of %zu bytes", pages, len);
	return read_all(s, s->rx + sizeof(head), *got - sizeof(head), false);
}

/* The pages themselves, straight to where they belong. */
static int read_pages(struct mg_stream *s)
{
	const struct mg_pages_head *head = (const void *)s->rx;
	const struct mg_run *run = (const void *)(head + 1);
	struct summer t = { .sum = (const void *)(run + svio_le32_to_cpu(head->runs)), .wrong = s->wrong };
	struct iovec piece[MG_FRAME_PAGES];
	int rc, num;

	memset(s->wrong, 0, sizeof(s->wrong));
	rc = s->place(s->place_ctx, head, run, piece, &num);
	return rc ? rc : read_pieces(s, piece, num, &t);
}

int svio__mg_rx(struct mg_stream *s, enum mg_frame *type, struct svio_migrate_in *in)
{
	uint32_t len, raw, crc;
	struct frame_hdr h;
	size_t got;
	int rc;

	rc = read_all(s, (uint8_t *)&h, sizeof(h), true);
	if (rc)
		return rc;
	len = svio_le32_to_cpu(h.len);
	raw = svio_le32_to_cpu(h.raw_len);
	if (svio_le32_to_cpu(h.magic) != MAGIC)
		return svio_fail(EBADMSG, "this is no svio migration stream, or it is damaged");
	if (len > MG_PAYLOAD_MAX || raw > MG_PAYLOAD_MAX || h.flags > FRAME_ZSTD || (h.flags ? len >= raw : len != raw) ||
	    h.type == 0 || h.type >= MG_FRAMES)
		return svio_fail(EBADMSG, "damaged frame header");
	got = len;
	crc = header_checksum(s, h);
	s->placed = h.type == MG_PAGES && !h.flags;
	rc = s->placed ? read_front(s, len, &got) : read_all(s, s->rx, len, false);
	if (rc)
		return rc;
	crc = svio_crc32c(crc, s->rx, got);
	if (crc != svio_le32_to_cpu(h.crc) || svio_le32_to_cpu(h.seq) != s->rx_seq)
		return svio_fail(EBADMSG, "%s frame %u is damaged, repeated, or of another session", svio__mg_frame_name(h.type),
				 s->rx_seq);
	s->rx_seq++;
	rc = s->placed ? read_pages(s) : 0;
	if (rc)
		return rc;
	*in = (struct svio_migrate_in){ .at = s->rx, .left = got };
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
