/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside the engine.
 *
 *	memory.c	how much of it, and of addresses, there still is
 *	area.c		memory at a fixed address, and the list of its blocks
 *	buf.c		what parts write and read
 *	record.c	facts, and their comparison
 *	stream.c	frames over descriptors
 *	pages.c		pages in it, with a sum each
 *	share.c		pages that need not go through it
 *	address.c	sockets
 *	lease.c		the file that decides
 *	device.c	the part of a device with migration state
 *	move.c		what both sides share: the object, parts, hello
 *	precopy.c	rounds of pages
 *	send.c		the source
 *	receive.c	the target
 */
#ifndef SVIO_MIGRATE_PRIV_H
#define SVIO_MIGRATE_PRIV_H

#ifndef SVIO_ROOM_MIGRATE
#error "migrate_priv.h is internal to room migrate"
#endif

#include <pthread.h>
#include <sys/time.h>
#include <sys/uio.h>
#include "svio_dirty.h"
#include "svio_migrate.h"

#define MG_PAGE	     UINT64_C(4096)
#define MG_HUGE	     (UINT64_C(2) << 20)
#define MG_NAME	     32
#define MG_SESSION   16
#define MG_MAX_AREAS 64
#define MG_MAX_PARTS 64
#define MG_MAX_IOAS  16
#define MG_MAX_STATE (UINT64_C(1) << 30) /* bytes of one part's state */
#define MG_MAX_FACTS 256

/* ---- buf.c ------------------------------------------------------------------------------------------- */

struct svio_migrate_buf {
	uint8_t *data;
	size_t len, room, max;
	int err;
};
void svio__mg_buf_free(struct svio_migrate_buf *buf);

/* ---- memory.c ---------------------------------------------------------------------------------------- */

uint64_t svio__mg_available(void); /* bytes; UINT64_MAX: cannot be told */
bool svio__mg_is_free(uint64_t base, uint64_t bytes);

/* ---- area.c ------------------------------------------------------------------------------------------ */

struct mg_block {
	uint64_t off, len;
};

struct svio_migrate_area {
	char name[MG_NAME];
	uint8_t *base;
	uint64_t bytes;
	int fd;
	bool registered;
	pthread_mutex_t lock;
	struct mg_block *blocks; /* sorted */
	size_t num_blocks, cap_blocks;
	struct svio_migrate_area *next;
	/* while it moves: a bit for each page. Source: to be sent; target: what came last has another sum */
	uint64_t *dirty;
	struct svio_dirty *set;
};
int svio__mg_area_put(struct svio_migrate_area *area, struct svio_migrate_buf *out);
/* An area as the source describes it, with its blocks. `room`: bytes that may still be allocated. */
int svio__mg_area_get(struct svio_migrate_in *in, uint64_t *room, struct svio_migrate_area **areap);

/* ---- record.c ---------------------------------------------------------------------------------------- */

struct mg_fact {
	char name[SVIO_MIGRATE_NAME_MAX], text[SVIO_MIGRATE_VALUE_MAX], hint[SVIO_MIGRATE_HINT_MAX];
	uint64_t num;
	uint8_t rule;
	bool is_text;
};

struct svio_migrate_record {
	size_t count, room;
	struct mg_fact *facts;
};
void svio__mg_record_free(struct svio_migrate_record *rec);
int svio__mg_record_put(const struct svio_migrate_record *rec, struct svio_migrate_buf *out);
int svio__mg_record_get(struct svio_migrate_record *rec, struct svio_migrate_in *in);
/* Up to max differences; returns how many there are in all. */
uint32_t svio__mg_record_compare(const struct svio_migrate_record *source, const struct svio_migrate_record *target,
				 struct svio_migrate_difference *diff, uint32_t max);

/* ---- stream.c ---------------------------------------------------------------------------------------- */

enum mg_frame {
	MG_HELLO = 1, /* both: who, version, session */
	MG_RECORD,    /* → facts */
	MG_VERDICT,   /* ← differences; none: it fits */
	MG_LAYOUT,    /* → areas and their blocks */
	MG_LAYOUT_OK, /* ← */
	MG_PAGES,     /* → runs of pages, sums, and the pages */
	MG_ZERO,      /* → area, runs of pages */
	MG_AHEAD,     /* → part, its pre-copy data */
	MG_ROUND,     /* → end of a round */
	MG_ROUND_OK,  /* ← all of it has been put in place, but these runs, which came with another sum */
	MG_STATE,     /* → part, offset, a piece of its state */
	MG_PREPARE,   /* → how many pages and state bytes there were */
	MG_READY,     /* ← */
	MG_COMMIT,    /* → */
	MG_CONFIRM,   /* ← */
	MG_ABORT,     /* both: why */
	MG_ANSWER,    /* ← */
	MG_BYE,	      /* → that was all: check only */
	MG_SHARE,     /* → how many areas; then a byte with their descriptors */
	MG_SHARE_OK,  /* ← 1: they will be read; 0: send the pages */
	MG_HERE,      /* → runs of pages, to be read from there */
	MG_HERE_OK,   /* ← they were read */
	MG_FRAMES
};

#define MG_PAYLOAD_MAX (1u << 20)
#define MG_FRAME_PAGES 128u /* in one frame: measured over TCP, with 64 to 192 (test/bench/migrate) */
#define MG_HERE_PAGES  4096u /* named by one frame */

/* A piece of an area: in ZERO, HERE and ROUND_OK frames, and before the pages in PAGES frames. */
struct mg_run {
	svio_le32 area, count;
	svio_le64 first;
};
/* PAGES: this, runs, a CRC-32C of each page, pages. */
struct mg_pages_head {
	svio_le32 runs, pages;
};
_Static_assert(sizeof(struct mg_run) == 16 && sizeof(struct mg_pages_head) == 8, "wire");

struct mg_stream {
	int in, out;
	/* As they were; a time limit of less than 0: no socket. */
	int in_flags, out_flags;
	struct timeval in_limit, out_limit;
	uint32_t timeout_ms;
	uint32_t tx_seq, rx_seq;
	uint32_t key; /* of the session, in every checksum once both have said hello */
	bool compress;
	uint64_t tx_bytes, tx_frames;
	uint8_t *room, *tx, *rx, *plain; /* tx: in room, a page's multiple, with space before it */
	/* Target: where the pages of a frame go, -errno explained if its head is not sound. NULL: no pages are expected. */
	int (*place)(void *x, const struct mg_pages_head *head, const struct mg_run *run, struct iovec *piece, int *num);
	void *place_ctx;
	bool placed;			   /* the frame that came last: its pages are there */
	uint64_t wrong[MG_FRAME_PAGES / 64]; /* … but these are not what their sums are of */
	void *cctx, *dctx;
	bool (*stop)(void *ctx);
	void *ctx;
	int extra_fd; /* readable: recv() returns -EINTR; -1 none */
};
int svio__mg_stream_init(struct mg_stream *s, int in, int out, uint32_t timeout_ms);
void svio__mg_stream_fini(struct mg_stream *s);
/*
 * Up to MG_FRAME_PAGES, from where they are. The frame's checksum covers their sums; a page that changes after it was summed arrives as it
 * is then, and does not fit its sum.
 */
int svio__mg_tx_pages(struct mg_stream *s, const struct mg_run *run, uint32_t runs, const svio_le32 *sum, uint32_t pages,
		      const struct iovec *piece);
/* Any other. */
int svio__mg_tx(struct mg_stream *s, enum mg_frame type, const void *head, size_t head_len, const void *data, size_t len);
/*
 * The next frame; *in points to its payload until the next call (of pages that were put in place: to what is before them). 0;
 * -ECONNRESET end of stream, -ETIMEDOUT silence, -EBADMSG damaged, -ECONNABORTED the other side gave up (explained with its words),
 * -ECANCELED stop(), -EINTR extra_fd.
 */
int svio__mg_rx(struct mg_stream *s, enum mg_frame *type, struct svio_migrate_in *in);
/* … which must be this one. */
int svio__mg_expect(struct mg_stream *s, enum mg_frame type, struct svio_migrate_in *in);
/*
 * Descriptors, with a byte of their own between two frames; over a unix socket. What arrives may be fewer: *num of them, the receiver's to
 * close, also after an error.
 */
int svio__mg_tx_fds(struct mg_stream *s, const int *fds, uint32_t num);
int svio__mg_rx_fds(struct mg_stream *s, int *fds, uint32_t max, uint32_t *num);
const char *svio__mg_frame_name(unsigned int type);

/* ---- lease.c ----------------------------------------------------------------------------------------- */

enum mg_lease { MG_LEASE_OURS, MG_LEASE_THEIRS, MG_LEASE_TAKEN };
/* We run: hold it. *fd is -1 or the one already held. */
int svio__mg_lease_hold(const char *path, int *fd);
int svio__mg_lease_offer(int fd, const uint8_t session[MG_SESSION]); /* and unlock */
int svio__mg_lease_take(const char *path, const uint8_t session[MG_SESSION], int *fd);
/* -EAGAIN: cannot be told at the moment. */
int svio__mg_lease_ask(int fd, const uint8_t session[MG_SESSION], enum mg_lease *answer); /* OURS: locked, no longer offered */

/* ---- move.c ------------------------------------------------------------------------------------------ */

enum mg_fate { MG_UNKNOWN, MG_BURIED, MG_RUNS };

struct svio_migrate {
	struct svio_migrate_part *parts;
	struct svio_migrate_area *areas; /* in the order of adding */
	struct svio_ioas *ioas[MG_MAX_IOAS];
	uint32_t num_ioas;
	int lease_fd;
	/* The last session received, and what became of it. */
	uint8_t session[MG_SESSION];
	enum mg_fate fate;
};

struct mg_move {
	struct svio_migrate *m;
	struct svio_migrate_opts opts;
	struct svio_migrate_report *report;
	struct mg_stream stream;
	uint8_t session[MG_SESSION], nonce[MG_SESSION];
	uint32_t peer_pid;
	uint64_t peer_boot; /* of the machine: the same pid of another one is another process */
	bool peer_compress;
	bool peer_share;
	bool direct; /* the other end of our unix socket is the target itself */
	bool shared; /* pages are read by the target from memory that it was given */
	uint64_t shared_bytes; /* of these pages */
	uint32_t unanswered;   /* source: HERE frames */
	int there[MG_MAX_AREAS];	    /* target: the source's areas */
	uint32_t num_there;
	uint64_t wrong_pages;		    /* target: that came with another sum, and not again */
	uint64_t started, stopped_at;
	uint64_t pages, state_bytes; /* sent or received, in all */
	/* pre-copy */
	uint64_t pace_from, pace_bytes;
	/* target */
	struct svio_migrate_buf state[MG_MAX_PARTS];
	uint32_t state_version[MG_MAX_PARTS];
	uint32_t loaded; /* parts */
};
int svio__mg_move_init(struct mg_move *x, struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
		       struct svio_migrate_report *report);
void svio__mg_move_fini(struct mg_move *x);
void svio__mg_phase(struct mg_move *x, enum svio_migrate_phase phase);
int svio__mg_describe(struct mg_move *x, struct svio_migrate_record *mine, const struct svio_migrate_record *source);
int svio__mg_hello_put(struct mg_move *x, uint32_t flags);
int svio__mg_hello_get(struct mg_move *x, struct svio_migrate_in *in, uint32_t *flags, uint8_t id[MG_SESSION]);
#define MG_HELLO_ZSTD  1u
#define MG_HELLO_CHECK 2u
#define MG_HELLO_QUERY 4u
#define MG_HELLO_TARGET 8u
#define MG_HELLO_SHARE 16u
void svio__mg_key(struct mg_move *x);
/* Does the other end of a unix socket belong to the process that said HELLO? Then end of file is an answer, and memory can be shared. */
bool svio__mg_is_direct(const struct mg_move *x);
uint64_t svio__mg_boot_id(void);
struct svio_migrate_part *svio__mg_part(const struct svio_migrate *m, uint32_t index);
struct svio_migrate_area *svio__mg_area(const struct svio_migrate *m, uint32_t index);
void svio__mg_drop_areas(struct svio_migrate *m);
void svio__mg_cancel(struct svio_migrate *m, enum svio_migrate_side side);

/* ---- pages.c ----------------------------------------------------------------------------------------- */

/* The place of a run of pages, or NULL. */
uint8_t *svio__mg_place(struct mg_move *x, const struct mg_run *run, uint64_t *bytes);
/* Target. */
int svio__mg_place_pages(void *x, const struct mg_pages_head *head, const struct mg_run *run, struct iovec *piece, int *num);
int svio__mg_take_pages(struct mg_move *x, struct svio_migrate_in *in);
int svio__mg_take_zeroes(struct mg_move *x, struct svio_migrate_in *in);
int svio__mg_round_ok(struct mg_move *x);
/* Source: what ROUND_OK names is to be sent again. */
int svio__mg_again(struct mg_move *x, struct svio_migrate_in *in);

/* ---- share.c ----------------------------------------------------------------------------------------- */

int svio__mg_share_offer(struct mg_move *x); /* x->shared if it is taken */
int svio__mg_share_pages(struct mg_move *x, const struct mg_run *run, uint32_t runs, uint32_t pages);
int svio__mg_share_wait(struct mg_move *x); /* until all of them were read */
bool svio__mg_share_fits(int fd, uint64_t bytes);
int svio__mg_share_take(struct mg_move *x, struct svio_migrate_in *in);
int svio__mg_share_read(struct mg_move *x, struct svio_migrate_in *in);
void svio__mg_share_end(struct mg_move *x);

/* ---- precopy.c --------------------------------------------------------------------------------------- */

int svio__mg_track_start(struct mg_move *x);
int svio__mg_track_sync(struct mg_move *x, bool last, uint64_t *dirty_pages); /* adds to every area's dirty bits */
void svio__mg_track_stop(struct mg_move *x);
int svio__mg_precopy(struct mg_move *x);
/* Everything that is marked; bits are cleared as they are sent. */
int svio__mg_send_dirty(struct mg_move *x, struct svio_migrate_round *round, bool paced);

#endif
