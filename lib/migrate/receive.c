/* SPDX-License-Identifier: BSD-3-Clause */
/* The target. Everything that comes is a stranger's. */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_priv.h"

#define LONG_MAX_BYTES (UINT32_C(64) << 20) /* of a record or a layout, in pieces */
#define LONG_PIECE     (UINT32_C(512) << 10)

/* ---- questions about a session ----------------------------------------------------------------------------- */

static int answer_query(struct mg_move *x, enum mg_fate fate)
{
	svio_le32 wire = svio_cpu_to_le32(fate);
	int rc = svio__mg_hello_put(x, MG_HELLO_TARGET);

	if (rc)
		return rc;
	svio__mg_key(x);
	return svio__mg_tx(&x->stream, MG_ANSWER, &wire, sizeof(wire), NULL, 0);
}

static enum mg_fate fate_of(const struct svio_migrate *m, const uint8_t session[MG_SESSION])
{
	return memcmp(m->session, session, MG_SESSION) == 0 ? m->fate : MG_UNKNOWN;
}

static void refuse(struct mg_move *x, int err, const char *why)
{
	struct svio_migrate_buf b = { .max = 4096 };

	x->stream.timeout_ms = SVIO_MIN(x->stream.timeout_ms, 1000u);
	x->stream.stop = NULL;
	x->stream.extra_fd = -1;
	svio_migrate_put_u32(&b, (uint32_t)err);
	svio_migrate_put_text(&b, why);
	if (!b.err)
		(void)svio__mg_tx(&x->stream, MG_ABORT, b.data, b.len, NULL, 0);
	svio__mg_buf_free(&b);
}

/* One connection, one question. With `pending`, a session that is being received, which a question about it ends. */
static void one_question(struct svio_migrate *m, int in, int out, uint32_t timeout_ms, bool *pending)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = timeout_ms };
	struct svio_migrate_report ignored;
	uint8_t session[MG_SESSION];
	struct svio_migrate_in data;
	struct mg_move *x = malloc(sizeof(*x));
	uint32_t flags;

	if (!x)
		return;
	if (svio__mg_move_init(x, m, in, out, &opts, &ignored) == 0 && svio__mg_expect(&x->stream, MG_HELLO, &data) == 0 &&
	    svio__mg_hello_get(x, &data, &flags, session) == 0) {
		memcpy(x->session, session, sizeof(session));
		if (!(flags & MG_HELLO_QUERY)) {
			refuse(x, EBUSY, "this process is busy with another one");
		} else {
			if (pending && *pending && memcmp(m->session, session, MG_SESSION) == 0) {
				*pending = false; /* before it is said */
				m->fate = MG_BURIED;
			}
			(void)answer_query(x, fate_of(m, session));
		}
	}
	svio__mg_move_fini(x);
	free(x);
}

void svio_migrate_answer(struct svio_migrate *m, int in, int out)
{
	one_question(m, in, out, 2000, NULL);
}

/* ---- what fits ------------------------------------------------------------------------------------------------ */

/* Pieces until one that is not full. */
static int get_long(struct mg_move *x, enum mg_frame type, struct svio_migrate_buf *b)
{
	struct svio_migrate_in in;
	size_t n;
	int rc;

	b->max = LONG_MAX_BYTES;
	do {
		rc = svio__mg_expect(&x->stream, type, &in);
		if (rc)
			return rc;
		n = in.left;
		if (n > LONG_PIECE)
			return svio_fail(EPROTO, "%s in pieces that are too large", svio__mg_frame_name(type));
		rc = svio_migrate_put(b, in.at, n);
	} while (rc == 0 && n == LONG_PIECE);
	return rc;
}

static int send_verdict(struct mg_move *x, uint32_t all)
{
	struct svio_migrate_report *r = x->report;
	struct svio_migrate_buf b = { .max = MG_PAYLOAD_MAX };
	int rc;

	svio_migrate_put_u32(&b, all);
	svio_migrate_put_u32(&b, r->differences);
	for (uint32_t i = 0; i < r->differences; i++) {
		const struct svio_migrate_difference *d = &r->difference[i];

		svio_migrate_put_text(&b, d->name);
		svio_migrate_put_text(&b, d->source);
		svio_migrate_put_text(&b, d->target);
		svio_migrate_put_text(&b, d->hint);
	}
	rc = b.err ? b.err : svio__mg_tx(&x->stream, MG_VERDICT, b.data, b.len, NULL, 0);
	svio__mg_buf_free(&b);
	if (rc == 0 && all)
		rc = svio_fail(EPERM, "the source does not fit: %s: %s there, %s here", r->difference[0].name,
			       r->difference[0].source, r->difference[0].target);
	return rc;
}

static int compare(struct mg_move *x)
{
	struct svio_migrate_record source = { 0 }, mine = { 0 };
	struct svio_migrate_buf b = { 0 };
	struct svio_migrate_in in;
	uint32_t all;
	int rc = get_long(x, MG_RECORD, &b);

	in = (struct svio_migrate_in){ .at = b.data, .left = b.len };
	if (rc == 0)
		rc = svio__mg_record_get(&source, &in);
	if (rc == 0)
		rc = svio__mg_describe(x, &mine, &source);
	if (rc == 0) {
		all = svio__mg_record_compare(&source, &mine, x->report->difference, SVIO_ARRAY_SIZE(x->report->difference));
		x->report->differences = SVIO_MIN(all, (uint32_t)SVIO_ARRAY_SIZE(x->report->difference));
		rc = send_verdict(x, all);
	}
	svio__mg_record_free(&source);
	svio__mg_record_free(&mine);
	svio__mg_buf_free(&b);
	return rc;
}

static int hello(struct mg_move *x)
{
	uint8_t session[MG_SESSION];
	struct svio_migrate_in in;
	uint32_t flags;
	int rc;

	rc = svio__mg_expect(&x->stream, MG_HELLO, &in);
	if (rc == 0)
		rc = svio__mg_hello_get(x, &in, &flags, session);
	if (rc)
		return rc;
	memcpy(x->session, session, MG_SESSION);
	if (flags & MG_HELLO_QUERY) {
		rc = answer_query(x, fate_of(x->m, session));
		return rc ? rc : svio_fail(ECANCELED, "the source asked what became of a session");
	}
	x->opts.check_only = flags & MG_HELLO_CHECK;
	rc = svio__mg_hello_put(x, MG_HELLO_TARGET);
	if (rc)
		return rc;
	svio__mg_key(x);
	if (!x->opts.check_only) {
		memcpy(x->m->session, session, MG_SESSION);
		x->m->fate = MG_UNKNOWN;
	}
	return 0;
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static uint64_t memory_available(const struct mg_move *x)
{
	return x->opts.max_bytes ? x->opts.max_bytes : UINT64_MAX;
}

static int layout(struct mg_move *x)
{
	struct svio_migrate_buf b = { 0 };
	struct svio_migrate_in in;
	uint64_t room = memory_available(x);
	uint32_t n;
	int rc = get_long(x, MG_LAYOUT, &b);

	in = (struct svio_migrate_in){ .at = b.data, .left = b.len };
	n = svio_migrate_get_u32(&in);
	if (rc == 0 && (in.bad || n > MG_MAX_AREAS))
		rc = svio_fail(EPROTO, "a LAYOUT of %u areas", n);
	while (rc == 0 && n--) {
		struct svio_migrate_area *a;

		rc = svio__mg_area_get(&in, &room, &a);
		if (rc)
			break;
		a->dirty = calloc(SVIO_BITMAP_WORDS(a->bytes / MG_PAGE), sizeof(uint64_t));
		rc = a->dirty ? svio_migrate_add_area(x->m, a) : svio_fail(ENOMEM, "area %s: out of memory for a bitmap", a->name);
		if (rc)
			svio_migrate_area_destroy(a);
		else
			x->report->area_bytes += a->bytes;
	}
	svio__mg_buf_free(&b);
	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_LAYOUT_OK, NULL, 0, NULL, 0);
	return rc;
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

static int which_part(struct mg_move *x, struct svio_migrate_in *in, struct svio_migrate_part **p, uint32_t *index,
		      uint32_t *version)
{
	*index = svio_migrate_get_u32(in);
	*version = svio_migrate_get_u32(in);
	*p = in->bad ? NULL : svio__mg_part(x->m, *index);
	if (!*p || *index >= MG_MAX_PARTS)
		return svio_fail(EPROTO, "the state of a part that there is not");
	if (*version > (*p)->version)
		return svio_fail(EPROTONOSUPPORT, "%s: a state of version %u, this side knows %u", (*p)->name, *version, (*p)->version);
	return 0;
}

static int take_ahead(struct mg_move *x, struct svio_migrate_in *in)
{
	struct svio_migrate_part *p;
	uint32_t index, version;
	int rc = which_part(x, in, &p, &index, &version);

	if (rc || !p->load_precopy)
		return rc;
	return p->load_precopy(p->ctx, version, in);
}

static int take_state(struct mg_move *x, struct svio_migrate_in *in)
{
	struct svio_migrate_part *p;
	uint32_t index, version;
	int rc = which_part(x, in, &p, &index, &version);

	if (rc)
		return rc;
	x->state_version[index] = version;
	x->state_bytes += in->left;
	if (x->state_bytes > MG_MAX_STATE)
		return svio_fail(E2BIG, "states of more than %" PRIu64 " bytes", MG_MAX_STATE);
	return svio_migrate_put(&x->state[index], in->at, in->left);
}

static int load_parts(struct mg_move *x)
{
	int rc = 0;

	for (struct svio_migrate_part *p = x->m->parts; rc == 0 && p; p = p->next) {
		struct svio_migrate_in in = { .at = x->state[x->loaded].data, .left = x->state[x->loaded].len };

		if (p->load)
			rc = p->load(p->ctx, x->state_version[x->loaded], &in);
		if (rc)
			break; /* nothing of it was left behind */
		x->loaded++;
		if (p->load && (in.bad || in.left))
			rc = svio_fail(EPROTO, "%s: a state of another length", p->name);
	}
	return rc;
}

static void discard(struct mg_move *x)
{
	while (x->loaded) {
		struct svio_migrate_part *p = svio__mg_part(x->m, --x->loaded);

		if (p->discard)
			p->discard(p->ctx, SVIO_MIGRATE_TARGET);
	}
}

/* ---- the course --------------------------------------------------------------------------------------------------- */

static int check_sums(struct mg_move *x, struct svio_migrate_in *in)
{
	uint64_t pages = svio_migrate_get_u64(in), bytes = svio_migrate_get_u64(in);

	if (in->bad || in->left || pages != x->pages || bytes != x->state_bytes)
		return svio_fail(EPROTO, "%" PRIu64 " pages and %" PRIu64 " bytes of state came, and %" PRIu64 " and %" PRIu64 " were sent",
				 x->pages, x->state_bytes, pages, bytes);
	/* The last copy of them is of a time when nothing writes any more. */
	if (x->wrong_pages)
		return svio_fail(EBADMSG, "%" PRIu64 " pages came damaged, or were written to after everything had stopped", x->wrong_pages);
	return 0;
}

/* Until PREPARE. */
static int take_all(struct mg_move *x)
{
	struct svio_migrate_in in;
	enum mg_frame type;
	int rc;

	svio__mg_phase(x, SVIO_MIGRATE_PRECOPY);
	x->stream.place = svio__mg_place_pages;
	x->stream.place_ctx = x;
	for (;;) {
		rc = svio__mg_rx(&x->stream, &type, &in);
		if (rc)
			return rc;
		switch (type) {
		case MG_PAGES:
			rc = svio__mg_take_pages(x, &in);
			break;
		case MG_ZERO:
			rc = svio__mg_take_zeroes(x, &in);
			break;
		case MG_SHARE:
			rc = svio__mg_share_take(x, &in);
			break;
		case MG_HERE:
			rc = svio__mg_share_read(x, &in);
			break;
		case MG_AHEAD:
			rc = take_ahead(x, &in);
			break;
		case MG_ROUND:
			x->report->rounds++;
			rc = svio__mg_round_ok(x);
			break;
		case MG_STATE:
			rc = take_state(x, &in);
			break;
		case MG_PREPARE:
			/* While the source holds its memory too: whoever lets go of it last takes the time to free it. */
			svio__mg_share_end(x);
			return check_sums(x, &in);
		default:
			return svio_fail(EPROTO, "%s came in the middle of memory", svio__mg_frame_name(type));
		}
		if (rc)
			return rc;
	}
}

/* COMMIT; meanwhile the source may have lost us and ask on another connection. */
static int wait_for_commit(struct mg_move *x)
{
	struct svio_migrate_in in;
	bool pending = true;
	int rc;

	x->stream.extra_fd = x->opts.listen_fd;
	while ((rc = svio__mg_expect(&x->stream, MG_COMMIT, &in)) == -EINTR) {
		int fd = accept(x->opts.listen_fd, NULL, NULL);

		if (fd < 0)
			continue;
		one_question(x->m, fd, fd, 2000, &pending);
		close(fd);
		if (!pending)
			return svio_fail(ECONNRESET, "the source lost this connection and was told to go on");
	}
	x->stream.extra_fd = -1;
	return rc;
}

static int receive(struct mg_move *x)
{
	struct svio_migrate_in in;
	int rc = hello(x);

	if (rc == 0)
		rc = compare(x);
	if (rc == 0 && x->opts.check_only) {
		rc = svio__mg_expect(&x->stream, MG_BYE, &in);
		return rc ? rc : svio_fail(ECANCELED, "the source only wanted to know whether it fits");
	}
	if (rc == 0)
		rc = layout(x);
	if (rc == 0)
		rc = take_all(x);
	if (rc)
		return rc;
	svio__mg_phase(x, SVIO_MIGRATE_STOPPED);
	rc = load_parts(x);
	/* The last moment: what is READY may be committed before anybody is asked again. */
	if (rc == 0 && x->opts.stop && x->opts.stop(x->opts.ctx))
		rc = svio_fail(ECANCELED, "the migration was cancelled");
	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_READY, NULL, 0, NULL, 0);
	if (rc == 0)
		rc = wait_for_commit(x);
	if (rc == 0 && x->opts.lease)
		rc = svio__mg_lease_take(x->opts.lease, x->session, &x->m->lease_fd);
	return rc;
}

/* COMMIT is here: it is ours, whether or not the source hears of it. */
static void take_over(struct mg_move *x)
{
	x->m->fate = MG_RUNS;
	x->stream.stop = NULL;
	if (svio__mg_tx(&x->stream, MG_CONFIRM, NULL, 0, NULL, 0))
		svio_log_warn("migration: the source did not hear that this side runs; it will ask, or has died");
	for (struct svio_migrate_part *p = x->m->parts; p; p = p->next)
		if (p->resume)
			p->resume(p->ctx, SVIO_MIGRATE_TARGET);
}

int svio_migrate_receive(struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
			 struct svio_migrate_report *report)
{
	char why[SVIO_ERROR_MAX / 2 - 1];
	struct svio_migrate_report *own = NULL;
	struct mg_move *x = malloc(sizeof(*x));
	bool only_asked;
	int rc;

	if (!report)
		report = own = malloc(sizeof(*own));
	if (!x || !report) {
		free(x);
		free(own);
		return svio_fail(ENOMEM, "out of memory for a migration");
	}
	if (m->areas) {
		free(x);
		free(own);
		return svio_fail(EINVAL, "a side that receives has no areas of its own: create them when nothing came");
	}
	rc = svio__mg_move_init(x, m, in, out, opts, report);
	if (rc == 0)
		rc = receive(x);
	only_asked = rc == -ECANCELED && report->phase == SVIO_MIGRATE_NEGOTIATING;
	if (rc == 0) {
		take_over(x);
		svio__mg_phase(x, SVIO_MIGRATE_DONE);
	} else {
		snprintf(why, sizeof(why), "%s", svio_last_error());
		/* Buried first, said then: the source may go on as soon as it hears it. */
		if (!only_asked && memcmp(m->session, x->session, MG_SESSION) == 0)
			m->fate = MG_BURIED;
		if (!only_asked && rc != -ECONNABORTED && rc != -ECONNRESET && rc != -EPERM)
			refuse(x, -rc, why);
		discard(x);
		svio__mg_cancel(m, SVIO_MIGRATE_TARGET);
		svio__mg_drop_areas(m);
		if (!only_asked)
			svio__mg_phase(x, SVIO_MIGRATE_FAILED);
		svio_fail(-rc, "%s", why);
	}
	svio__mg_move_fini(x);
	free(x);
	free(own);
	return rc;
}
