/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio migrate: a running process hands over its memory, its devices and its own state to another process.
 *
 * What moves. *Areas*: memory that lies at the same virtual address in both processes (svio_migrate_area_create(),
 * svio_migrate_alloc()), registered with room mem, so that devices reach it and pointers into it stay true. *Parts*: everything
 * else, as callbacks: an application, a device. Memory of EAL (rte_malloc, mempools, svio_mem_alloc()) does not move, since its
 * heap's bookkeeping belongs to one process: buffers that requests in flight point to belong into an area.
 *
 *	both sides:	svio_migrate_create() → svio_migrate_add_part()… (in the same order, with the same names)
 *	source:		svio_migrate_add_area()… → svio_migrate_send()		0: the target runs; else this side runs on
 *	target:		svio_migrate_receive()					0: this side runs; else nothing has happened
 *
 * The course. Before the first byte of memory the target compares the two sides' *records* (svio_migrate_put_*()) and refuses
 * with every field that differs. Memory is copied while the source works (pre-copy), again and again what it has written
 * meanwhile, until the rest can be sent within max_downtime; then parts quiesce, the rest and the parts' states follow, and
 * the hand-over decides:
 *
 *	source				target
 *	PREPARE		  ->		loads every part; may set devices up, must not let them touch what is shared
 *			  <-	READY	(or ABORT, with the reason)
 *	COMMIT		  ->		*** the target may run ***
 *			  <-	CONFIRM	sent before resume()
 *	discards		resumes
 *
 * Exactly one side runs. The source runs until it quiesces and again after any failure before COMMIT; the target never runs
 * without COMMIT, and COMMIT is never taken back. So a connection or a target lost before COMMIT was sent leaves the source, and
 * a source lost after COMMIT arrived leaves the target. (A source lost before that is lost as it would have been without a
 * migration: the target has no right to run, since the source might have gone on.) What remains is the source that has sent COMMIT
 * and does not hear CONFIRM. It stays stopped until one of these tells:
 *
 *	1. a lease (opts.lease): a file that both sides can lock. Whoever runs holds flock(2) on it. The source writes into it what
 *	   it offers and unlocks it just before COMMIT; the target runs only if it can lock it and finds its own session offered,
 *	   and writes that it took it. The source that hears nothing locks it again: free and still offered: take it back, run;
 *	   locked: the target runs; free but taken: the target has run and died, and what we have is out of date: end.
 *	2. a unix socket whose other end is the target itself (SO_PEERCRED names the process that said HELLO): the target writes
 *	   CONFIRM before it runs, and what was written to a unix socket arrives even if the writer dies. So end of file without
 *	   CONFIRM says that the target has not run and, its socket being closed, will not.
 *	3. asking (opts.reconnect): a new connection with QUERY and the session's number. A target that has not seen COMMIT
 *	   buries the session for good before it answers NO; one that has answers YES. An answer of a stranger (UNKNOWN) is none.
 *
 * If none answers within opts.uncertain_ms, svio_migrate_send() returns -EREMOTEIO with the source still quiesced: only somebody who
 * can look at the target may decide (svio_migrate_decide()).
 *
 * The stream. Frames with a length, a sequence number, and a CRC-32C that also covers numbers which both sides drew for this
 * session, so that a damaged, reordered or recorded frame is noticed; it is no protection against forgery: use a unix socket with
 * permissions, or a tunnel (ssh). Any pair of descriptors will do. Everything received is bounded and checked. Pages go out from where they
 * lie, each with a CRC-32C of its own: one that is written to meanwhile, or damaged, is sent again; none may be left at PREPARE.
 *
 * On one machine, over a unix socket whose other end is the target itself, areas' pages do not go through the stream: the target gets
 * their memfds, to read only, and reads what the source names. Such pages have no checksum.
 *
 * Threads: one thread calls, and callbacks run in it. Threads of the application work on during the pre-copy.
 */
#ifndef SVIO_MIGRATE_H
#define SVIO_MIGRATE_H

#include "svio_ioas.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_MIGRATE_STREAM_VERSION 3u
#define SVIO_MIGRATE_ADDRESS UINT64_C(0x300000000000) /* of the first area: beyond room mem's arenas, within 46 bits */

/* ---- areas ------------------------------------------------------------------------------------------- */

struct svio_migrate_area;

struct svio_migrate_area_opts {
	size_t size;	  /* sizeof(struct svio_migrate_area_opts) of the caller */
	const char *name; /* finds it again in the target; at most 31 bytes, no two alike in a process that moves */
	uint64_t base;	  /* its address; 0 = SVIO_MIGRATE_ADDRESS. A multiple of 2 MiB */
	uint64_t bytes;	  /* rounded up to 2 MiB, at most 1 TiB */
};

/*
 * A sealed memfd at `base`, allocated at once, kept from children, registered with room mem, zeroed. -EADDRINUSE something else lies
 * there, -ENOMEM too little memory; explained.
 */
int svio_migrate_area_create(const struct svio_migrate_area_opts *opts, struct svio_migrate_area **areap);
/* NULL is fine. DMA to it has ended. */
void svio_migrate_area_destroy(struct svio_migrate_area *area);
void *svio_migrate_area_base(const struct svio_migrate_area *area);
uint64_t svio_migrate_area_bytes(const struct svio_migrate_area *area);
/*
 * Zeroed memory; align is a power of two up to 2 MiB, 0 = cache line. First fit, O(blocks): for setting up. NULL, explained, when
 * there is none. Any thread. The list of blocks is no part of the area, and moves with it.
 */
void *svio_migrate_alloc(struct svio_migrate_area *area, uint64_t len, uint64_t align);
void svio_migrate_free(struct svio_migrate_area *area, void *ptr); /* NULL is fine */
/* Does [ptr, ptr + len) lie in one allocated block? For pointers that came from elsewhere. */
bool svio_migrate_allocated(struct svio_migrate_area *area, const void *ptr, uint64_t len);

/* ---- what parts write and read --------------------------------------------------------------------- */

struct svio_migrate_buf;

/* Little-endian. A failed put is remembered, and the engine finds it: results need not be looked at one by one. */
int svio_migrate_put(struct svio_migrate_buf *buf, const void *data, size_t len);
int svio_migrate_put_u32(struct svio_migrate_buf *buf, uint32_t value);
int svio_migrate_put_u64(struct svio_migrate_buf *buf, uint64_t value);
/* A length and bytes. */
int svio_migrate_put_text(struct svio_migrate_buf *buf, const char *text);

/* A reader. Past the end everything reads as zero and `bad` is set; load() must look at it before it believes. */
struct svio_migrate_in {
	const uint8_t *at;
	size_t left;
	bool bad;
};
const void *svio_migrate_get(struct svio_migrate_in *in, size_t len); /* NULL past the end */
uint32_t svio_migrate_get_u32(struct svio_migrate_in *in);
uint64_t svio_migrate_get_u64(struct svio_migrate_in *in);
int svio_migrate_get_text(struct svio_migrate_in *in, char *text, size_t size); /* -EINVAL: does not fit */

/* ---- records: what must fit -------------------------------------------------------------------------- */

struct svio_migrate_record;

enum svio_migrate_rule {
	SVIO_MIGRATE_SAME,     /* equal */
	SVIO_MIGRATE_AT_LEAST, /* the target's number is not smaller */
	SVIO_MIGRATE_BITS,     /* every bit of the source is set in the target */
};
#define SVIO_MIGRATE_NAME_MAX  64
#define SVIO_MIGRATE_VALUE_MAX 160
#define SVIO_MIGRATE_HINT_MAX  200

/* name as "nvme.namespace.blocks"; hint: what the user can do when it does not fit. The source's rule and hint count. */
int svio_migrate_fact_u64(struct svio_migrate_record *rec, const char *name, enum svio_migrate_rule rule, uint64_t value,
			  const char *hint);
int svio_migrate_fact_text(struct svio_migrate_record *rec, const char *name, const char *value, const char *hint);
/* What the other side says; false when it says nothing. */
bool svio_migrate_fact_find_text(const struct svio_migrate_record *rec, const char *name, char *value, size_t size);
bool svio_migrate_fact_find_u64(const struct svio_migrate_record *rec, const char *name, uint64_t *value);

struct svio_migrate_difference {
	char name[SVIO_MIGRATE_NAME_MAX];
	char source[SVIO_MIGRATE_VALUE_MAX], target[SVIO_MIGRATE_VALUE_MAX];
	char hint[SVIO_MIGRATE_HINT_MAX];
};

/* ---- parts ------------------------------------------------------------------------------------------- */

enum svio_migrate_side { SVIO_MIGRATE_SOURCE, SVIO_MIGRATE_TARGET };

/*
 * Callbacks may be NULL. 0 or -errno, explained. Parts quiesce in the reverse order of their registration (an application comes after
 * its devices) and do everything else in the order of registration.
 */
struct svio_migrate_part {
	const char *name; /* at most 31 bytes */
	uint32_t version; /* of what save() writes; load() is offered this or less */
	/* Facts about this side. `source` is the other side's record in the target, NULL in the source. */
	int (*describe)(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source);
	/* Source, while it works: what is worth sending ahead. Called once in every round; nothing put is nothing sent. */
	int (*precopy)(void *ctx, struct svio_migrate_buf *out);
	int (*load_precopy)(void *ctx, uint32_t version, struct svio_migrate_in *in);
	/* Source: afterwards nobody writes to areas: no thread, no device; and the state does not change until resume(). */
	int (*quiesce)(void *ctx);
	int (*save)(void *ctx, struct svio_migrate_buf *out);
	/* Target: areas are complete. Must leave nothing behind when it fails. Nothing that others can see may happen yet. */
	int (*load)(void *ctx, uint32_t version, struct svio_migrate_in *in);
	/* Source: the migration failed: undo quiesce(), also a failed one. Target: it is ours now. What fails here is the part's own. */
	void (*resume)(void *ctx, enum svio_migrate_side side);
	/* Source: the target runs: let go, touch nothing shared. Target: it does not become ours: undo load(). */
	void (*discard)(void *ctx, enum svio_migrate_side side);
	/* After all of that, when it came to nothing: what precopy() or load_precopy() have begun ends. */
	void (*cancel)(void *ctx, enum svio_migrate_side side);
	/* Source: slow down by so many percent (0 = not any more); with opts.throttle. */
	void (*throttle)(void *ctx, unsigned int percent);
	void *ctx;
	struct svio_migrate_part *next; /* private while registered */
};

struct svio_migrate;

int svio_migrate_create(struct svio_migrate **mp);
/* Parts are the caller's; areas received and not taken out are destroyed. NULL is fine. */
void svio_migrate_destroy(struct svio_migrate *m);
void svio_migrate_add_part(struct svio_migrate *m, struct svio_migrate_part *part);
/* The area is m's from now on: destroyed with it. -EEXIST another one of that name. */
int svio_migrate_add_area(struct svio_migrate *m, struct svio_migrate_area *area);
/* Devices attached to it write to areas: where to ask what they wrote. It must live while m does, or until removed. */
int svio_migrate_add_ioas(struct svio_migrate *m, struct svio_ioas *ioas);
void svio_migrate_remove_ioas(struct svio_migrate *m, struct svio_ioas *ioas);
struct svio_migrate_area *svio_migrate_find_area(const struct svio_migrate *m, const char *name);

/* ---- a device that has migration state of its own ------------------------------------------------------ */

/*
 * A part that moves a device by VFIO migration v2 (svio_device_mig_*): ahead, as far as the device can, and the rest in
 * stop-and-copy. Its driver's memory must be in areas (the state names its addresses), and its driver's part comes after this one: it
 * stops using the device first, and loads when the device is whole. A source's device is reset when the target runs; a target's,
 * when it came to nothing.
 *
 * -ENOTTY the device has no migration state: re-instatement by its driver is the other way. The device must be there as long as this.
 */
struct svio_migrate_device;
int svio_migrate_device_create(struct svio_device *dev, const char *name, struct svio_migrate_device **devp);
struct svio_migrate_part *svio_migrate_device_part(struct svio_migrate_device *dev);
void svio_migrate_device_destroy(struct svio_migrate_device *dev); /* NULL is fine */

/* ---- moving ------------------------------------------------------------------------------------------ */

enum svio_migrate_phase {
	SVIO_MIGRATE_NEGOTIATING,
	SVIO_MIGRATE_PRECOPY,
	SVIO_MIGRATE_STOPPED,	/* stop-and-copy */
	SVIO_MIGRATE_UNCERTAIN, /* COMMIT was sent, and the connection was lost */
	SVIO_MIGRATE_DONE,
	SVIO_MIGRATE_FAILED,
};
const char *svio_migrate_phase_text(enum svio_migrate_phase phase);

struct svio_migrate_round {
	uint64_t pages, zero_pages; /* sent, and of them those of zeroes alone (8 bytes each) */
	uint64_t wire_bytes;
	uint64_t ns;
	uint64_t dirty_pages;	    /* found at its end */
	uint64_t expected_ns;	    /* downtime, if stopped now */
};
#define SVIO_MIGRATE_MAX_ROUNDS 64

struct svio_migrate_report {
	enum svio_migrate_phase phase;
	uint64_t area_bytes, wire_bytes, pages, zero_pages, state_bytes;
	uint64_t shared_bytes; /* of the pages: read by the target from this process's memory, not sent through the stream */
	uint64_t torn_pages;   /* that the target asked for again: written to while they were sent, or damaged on their way */
	uint64_t total_ns, downtime_ns; /* downtime: from quiesce() to CONFIRM, or to the end of resume() after a failure */
	uint64_t quiesce_ns, copy_ns, load_ns; /* of it: parts stop; the last pages and states are sent; the target loads, and answers */
	uint64_t dirty_rate, bandwidth; /* bytes per second, of the last round */
	uint32_t throttle; /* percent, at its most */
	uint32_t rounds;
	struct svio_migrate_round round[SVIO_MIGRATE_MAX_ROUNDS]; /* the last one: stop-and-copy */
	uint32_t differences;
	struct svio_migrate_difference difference[16];
	char tracker[80]; /* what told which pages were written */
	uint8_t session[16];
};

struct svio_migrate_opts {
	size_t size;		  /* sizeof(struct svio_migrate_opts) of the caller */
	uint32_t max_downtime_ms; /* 0 = 300. Stop when the rest is expected to take less */
	uint32_t max_rounds;	  /* 0 = 30; at most SVIO_MIGRATE_MAX_ROUNDS - 2. Then: give up, saying why */
	uint32_t io_timeout_ms;	  /* 0 = 10000: the other side is silent for so long: lost */
	uint32_t uncertain_ms;	  /* 0 = for ever; see above */
	uint64_t max_bandwidth;	  /* bytes per second of pre-copy; 0 = no limit */
	uint64_t max_bytes;	  /* target: of all areas together; 0 = what memory is available */
	bool compress;		  /* zstd, level 1 */
	bool throttle;		  /* slow the source down when it does not converge */
	bool no_share;		  /* source: send pages through the stream also where the target could read them */
	bool check_only;	  /* compare and end: 0 fits, -EPERM does not (report.difference) */
	const char *lease;	  /* path of the lease file, or NULL */
	int listen_fd;		  /* target: where the source would ask again, or -1; 0 counts as -1 */
	void (*progress)(void *ctx, const struct svio_migrate_report *report); /* after each round and phase */
	bool (*stop)(void *ctx);  /* the user has enough; not asked once COMMIT was sent */
	int (*reconnect)(void *ctx, int *fd);
	void *ctx;
};

/*
 * in and out may be the same descriptor; they stay the caller's. While this runs, sockets have time limits, and others are O_NONBLOCK.
 * opts and report may be NULL.
 * 0: the target runs, and the parts were discarded. Otherwise this side runs on as before (-ECANCELED stop(), -EPERM refused: see
 * report->difference, -ETIME it does not converge, or what broke), except -EREMOTEIO and -EOWNERDEAD:
 * -EREMOTEIO nobody knows; the parts are still quiesced; svio_migrate_decide(). -EOWNERDEAD the target had taken over, and died; the
 * parts were discarded.
 */
int svio_migrate_send(struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
		      struct svio_migrate_report *report);
/* After -EREMOTEIO: run here (resume) or not (discard). */
void svio_migrate_decide(struct svio_migrate *m, bool run_here);
/*
 * 0: this side runs; -ECANCELED with report->phase NEGOTIATING: the source only wanted to know, or to ask about another session; anything
 * else: nothing was taken over, and areas and loads are undone.
 */
int svio_migrate_receive(struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
			 struct svio_migrate_report *report);
/*
 * A side that runs, or has run a session, answers a question about it on a new connection: one question, at most io_timeout_ms.
 * Anything else that comes is told that nobody listens for it.
 */
void svio_migrate_answer(struct svio_migrate *m, int in, int out);

/* ---- addresses: "unix:PATH", "tcp:HOST:PORT" ----------------------------------------------------------- */

int svio_migrate_connect(const char *address, int *fd);
int svio_migrate_listen(const char *address, int *fd); /* an old socket file that nobody serves is replaced; mode 0600 */

#ifdef __cplusplus
}
#endif
#endif
