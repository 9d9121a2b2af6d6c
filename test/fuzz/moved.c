/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile source of a process that moves: any frames to the side that receives.
 *
 * Input: a byte that chooses how far the session has come in good order (raw bytes; HELLO; RECORD; LAYOUT), then frames
 * { type, flags, 16-bit length, payload }, to which the target adds header, number, length and checksum, unless told to spoil them;
 * pages are filled up to what their runs announce, with right sums or wrong ones. What both sides draw by lot is zero here.
 * The call returns, with an error or having taken over after COMMIT; nothing stays mapped, no descriptor is left.
 */
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include "fuzz.h"
#include "migrate_priv.h"

#define MAGIC	  UINT32_C(0x464d5653)
#define ROOM_MAX  (UINT64_C(4) << 20) /* of areas */
#define WIRE_MAX  (150u << 10)	      /* what a socket takes without a reader */
#define MAX_PAGES 8u

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned int flags);

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned int flags)
{
	(void)flags;
	memset(buf, 0, len);
	return (ssize_t)len;
}

static struct {
	uint8_t data[WIRE_MAX + (64u << 10)];
	size_t len;
	uint32_t seq, key;
} wire;

static void put32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, 4);
}

enum spoil { SPOIL_CRC = 1, SPOIL_SEQ = 2, SPOIL_LEN = 4, PACKED = 8, SPOIL_SUM = 16 };

/* `covered`: up to where the checksum counts. */
static void frame_of(uint8_t type, uint8_t spoil, const void *payload, size_t len, size_t covered)
{
	uint8_t *h = wire.data + wire.len;

	if (wire.len + 24 + len > WIRE_MAX)
		return;
	memset(h, 0, 24);
	put32(h, MAGIC);
	h[4] = type;
	h[5] = spoil & PACKED ? 1 : 0;
	put32(h + 8, wire.seq++ + (spoil & SPOIL_SEQ ? 1 : 0));
	put32(h + 12, (uint32_t)len + (spoil & SPOIL_LEN ? 7 : 0));
	put32(h + 16, (uint32_t)len + (spoil & PACKED ? 100 : 0));
	if (len)
		memcpy(h + 24, payload, len);
	put32(h + 20, svio_crc32c(wire.key, h, 24 + covered) ^ (spoil & SPOIL_CRC ? 1 : 0));
	wire.len += 24 + len;
}

static void frame(uint8_t type, uint8_t spoil, const void *payload, size_t len)
{
	frame_of(type, spoil, payload, len, len);
}

static void send_buf(uint8_t type, struct svio_migrate_buf *b)
{
	FZ_CHECK(!b->err);
	frame(type, 0, b->data, b->len);
	svio__mg_buf_free(b);
}

/* ---- the beginning of a good session ------------------------------------------------------------------- */

static void good_hello(void)
{
	static const uint8_t zero[2 * MG_SESSION];
	struct svio_migrate_buf b = { .max = 4096 };

	svio_migrate_put_u32(&b, SVIO_MIGRATE_STREAM_VERSION);
	svio_migrate_put_u32(&b, 0);
	svio_migrate_put_u32(&b, 1);
	svio_migrate_put_u64(&b, 0);
	svio_migrate_put(&b, zero, MG_SESSION);
	send_buf(MG_HELLO, &b);
	wire.key = svio_crc32c(0, zero, sizeof(zero));
}

static void good_record(struct svio_migrate *m)
{
	struct svio_migrate_buf b = { .max = 65536 };
	struct svio_migrate_record rec = { 0 };
	struct mg_move x = { .m = m };

	FZ_CHECK(svio__mg_describe(&x, &rec, NULL) == 0 && svio__mg_record_put(&rec, &b) == 0);
	send_buf(MG_RECORD, &b);
	svio__mg_record_free(&rec);
}

static void good_layout(void)
{
	struct svio_migrate_buf b = { .max = 4096 };

	svio_migrate_put_u32(&b, 1);
	svio_migrate_put_text(&b, "fuzz");
	svio_migrate_put_u64(&b, SVIO_MIGRATE_ADDRESS);
	svio_migrate_put_u64(&b, MG_HUGE);
	svio_migrate_put_u32(&b, 1);
	svio_migrate_put_u64(&b, 4096);
	svio_migrate_put_u64(&b, 4096);
	send_buf(MG_LAYOUT, &b);
}

/* ---- the rest -------------------------------------------------------------------------------------------- */

static void any_frame(struct fz_in *in)
{
	static uint8_t payload[2048 + MAX_PAGES * 4096];
	uint8_t type = fz_u8(in) % (MG_FRAMES + 1), spoil = fz_u8(in);
	size_t len = fz_u16(in), covered;

	len = SVIO_MIN(len, (size_t)2048);
	fz_bytes(in, payload, len);
	covered = len;
	/* As many pages as its runs say, if that can be. */
	if (type == MG_PAGES && len >= 24) {
		uint32_t runs = payload[0] % 4, pages = 0, sum;

		payload[0] = (uint8_t)runs;
		memset(payload + 1, 0, 3);
		for (uint32_t i = 0; i < runs && 24 + i * 16 <= len; i++) {
			uint32_t count;

			memcpy(&count, payload + 12 + i * 16, 4);
			pages += SVIO_MIN(le32toh(count), MAX_PAGES + 1u);
		}
		if (runs && pages <= MAX_PAGES) {
			put32(payload + 4, pages);
			covered = 8 + runs * 16 + pages * 4;
			memset(payload + covered, 0x5a, sizeof(payload) - covered);
			sum = svio_crc32c(0, payload + covered, 4096);
			for (uint32_t i = 0; i < pages; i++)
				put32(payload + 8 + runs * 16 + i * 4, sum ^ (spoil & SPOIL_SUM && i % 2 == 0));
			len = covered + (size_t)pages * 4096;
		}
	}
	/* Mostly whole frames: two of eight values spoil something. */
	spoil = spoil & 0xc0 ? 0 : spoil & 0x0f;
	frame_of(type, spoil, payload, len, spoil & PACKED ? len : covered);
}

static struct {
	bool loaded, runs;
} app;

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	char text[16];

	(void)ctx;
	(void)version;
	if (svio_migrate_get_text(in, text, sizeof(text)) == 0)
		FZ_CHECK(strlen(text) < sizeof(text));
	svio_migrate_get_u64(in);
	if (in->bad)
		return -EINVAL;
	app.loaded = true;
	return 0;
}

static int load_precopy(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	(void)ctx;
	(void)version;
	return svio_migrate_get_u32(in) == 1 ? -EINVAL : 0;
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	(void)ctx;
	FZ_CHECK(side == SVIO_MIGRATE_TARGET && app.loaded);
	app.runs = true;
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	(void)ctx;
	FZ_CHECK(side == SVIO_MIGRATE_TARGET && app.loaded && !app.runs);
	app.loaded = false;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	svio_log_set(SVIO_LOG_ERR, fz_no_log, NULL);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = 1000, .max_bytes = ROOM_MAX, .listen_fd = -1 };
	struct svio_migrate_part part = { .name = "fuzz", .version = 2, .load = load, .load_precopy = load_precopy, .resume = resume,
					  .discard = discard };
	struct fz_in in = { data, size };
	uint8_t start = fz_u8(&in) % 4;
	struct svio_migrate *m;
	int fd[2], rc;

	memset(&app, 0, sizeof(app));
	memset(&wire, 0, sizeof(wire));
	FZ_CHECK(svio_migrate_create(&m) == 0);
	svio_migrate_add_part(m, &part);
	if (start == 0) {
		wire.len = SVIO_MIN(in.left, (size_t)WIRE_MAX);
		memcpy(wire.data, in.p, wire.len);
	} else {
		good_hello();
		if (start >= 2)
			good_record(m);
		if (start == 3)
			good_layout();
		while (in.left)
			any_frame(&in);
	}
	FZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
	FZ_CHECK(write(fd[0], wire.data, wire.len) == (ssize_t)wire.len);
	shutdown(fd[0], SHUT_WR);
	rc = svio_migrate_receive(m, fd[1], fd[1], &opts, NULL);
	FZ_CHECK((rc == 0) == app.runs);
	FZ_CHECK(rc == 0 || (!app.loaded && !m->areas && m->fate != MG_RUNS));
	close(fd[0]);
	close(fd[1]);
	svio_migrate_destroy(m);
	return 0;
}
