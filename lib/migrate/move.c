/* SPDX-License-Identifier: BSD-3-Clause */
/* What both sides share: the object, its parts and areas, the first words. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_priv.h"

#define DEFAULT_DOWNTIME_MS 300
#define DEFAULT_ROUNDS	    30
#define DEFAULT_TIMEOUT_MS  10000
#define RECORD_MAX	    (512u << 10)

const char *svio_migrate_phase_text(enum svio_migrate_phase phase)
{
	static const char *const texts[] = {
		[SVIO_MIGRATE_NEGOTIATING] = "negotiating", [SVIO_MIGRATE_PRECOPY] = "pre-copy",
		[SVIO_MIGRATE_STOPPED] = "stop-and-copy",   [SVIO_MIGRATE_UNCERTAIN] = "uncertain",
		[SVIO_MIGRATE_DONE] = "done",		    [SVIO_MIGRATE_FAILED] = "failed",
	};

	return phase <= SVIO_MIGRATE_FAILED ? texts[phase] : "?";
}

int svio_migrate_create(struct svio_migrate **mp)
{
	*mp = calloc(1, sizeof(**mp));
	if (!*mp)
		return svio_fail(ENOMEM, "out of memory for a migration");
	(*mp)->lease_fd = -1;
	return 0;
}

void svio__mg_drop_areas(struct svio_migrate *m)
{
	while (m->areas) {
		struct svio_migrate_area *a = m->areas;

		m->areas = a->next;
		svio_migrate_area_destroy(a);
	}
}

void svio_migrate_destroy(struct svio_migrate *m)
{
	if (!m)
		return;
	svio__mg_drop_areas(m);
	if (m->lease_fd >= 0)
		close(m->lease_fd);
	free(m);
}

void svio_migrate_add_part(struct svio_migrate *m, struct svio_migrate_part *part)
{
	struct svio_migrate_part **p;

	for (p = &m->parts; *p; p = &(*p)->next)
		;
	part->next = NULL;
	*p = part;
}

int svio_migrate_add_area(struct svio_migrate *m, struct svio_migrate_area *area)
{
	struct svio_migrate_area **p;
	unsigned int n = 0;

	for (p = &m->areas; *p; p = &(*p)->next, n++)
		if (strcmp((*p)->name, area->name) == 0)
			return svio_fail(EEXIST, "there is an area %s already", area->name);
	if (n == MG_MAX_AREAS)
		return svio_fail(ENOSPC, "more than %d areas", MG_MAX_AREAS);
	area->next = NULL;
	*p = area;
	return 0;
}

struct svio_migrate_area *svio_migrate_find_area(const struct svio_migrate *m, const char *name)
{
	struct svio_migrate_area *a;

	for (a = m->areas; a && strcmp(a->name, name) != 0; a = a->next)
		;
	return a;
}

int svio_migrate_add_ioas(struct svio_migrate *m, struct svio_ioas *ioas)
{
	if (m->num_ioas == MG_MAX_IOAS)
		return svio_fail(ENOSPC, "more than %d address spaces", MG_MAX_IOAS);
	m->ioas[m->num_ioas++] = ioas;
	return 0;
}

void svio_migrate_remove_ioas(struct svio_migrate *m, struct svio_ioas *ioas)
{
	for (uint32_t i = 0; i < m->num_ioas; i++)
		if (m->ioas[i] == ioas) {
			m->ioas[i] = m->ioas[--m->num_ioas];
			return;
		}
}

struct svio_migrate_part *svio__mg_part(const struct svio_migrate *m, uint32_t index)
{
	struct svio_migrate_part *p;

	for (p = m->parts; p && index; p = p->next)
		index--;
	return p;
}

struct svio_migrate_area *svio__mg_area(const struct svio_migrate *m, uint32_t index)
{
	struct svio_migrate_area *a;

	for (a = m->areas; a && index; a = a->next)
		index--;
	return a;
}

void svio__mg_cancel(struct svio_migrate *m, enum svio_migrate_side side)
{
	for (struct svio_migrate_part *p = m->parts; p; p = p->next)
		if (p->cancel)
			p->cancel(p->ctx, side);
}

/* ---- one move ---------------------------------------------------------------------------------------- */

/* Which machine, and since when: a process id means nothing elsewhere. */
uint64_t svio__mg_boot_id(void)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	char text[64] = "";
	size_t n = 0;

	if (f) {
		n = fread(text, 1, sizeof(text), f);
		fclose(f);
	}
	return n ? (uint64_t)svio_crc32c(0, text, n) << 32 | svio_crc32c(UINT32_MAX, text, n) : 0;
}

int svio__mg_move_init(struct mg_move *x, struct svio_migrate *m, int in, int out, const struct svio_migrate_opts *opts,
		       struct svio_migrate_report *report)
{
	int rc;

	memset(x, 0, sizeof(*x));
	x->m = m;
	x->report = report;
	memset(report, 0, sizeof(*report));
	if (opts)
		memcpy(&x->opts, opts, SVIO_MIN(opts->size, sizeof(x->opts)));
	if (!x->opts.max_downtime_ms)
		x->opts.max_downtime_ms = DEFAULT_DOWNTIME_MS;
	if (!x->opts.max_rounds)
		x->opts.max_rounds = DEFAULT_ROUNDS;
	x->opts.max_rounds = SVIO_MIN(x->opts.max_rounds, (uint32_t)SVIO_MIGRATE_MAX_ROUNDS - 2);
	if (!x->opts.io_timeout_ms)
		x->opts.io_timeout_ms = DEFAULT_TIMEOUT_MS;
	if (x->opts.listen_fd == 0)
		x->opts.listen_fd = -1;
	x->started = svio_now_ns();
	for (uint32_t i = 0; i < MG_MAX_PARTS; i++)
		x->state[i].max = MG_MAX_STATE;
	rc = svio__mg_stream_init(&x->stream, in, out, x->opts.io_timeout_ms);
	if (rc)
		return rc;
	x->stream.stop = x->opts.stop;
	x->stream.ctx = x->opts.ctx;
	if (getrandom(x->session, sizeof(x->session), 0) != sizeof(x->session) ||
	    getrandom(x->nonce, sizeof(x->nonce), 0) != sizeof(x->nonce))
		return svio_fail(EIO, "no random numbers: %m");
	return 0;
}

void svio__mg_move_fini(struct mg_move *x)
{
	x->report->wire_bytes += x->stream.tx_bytes;
	x->report->total_ns = svio_now_ns() - x->started;
	x->report->pages = x->pages;
	x->report->shared_bytes = x->shared_bytes;
	x->report->state_bytes = x->state_bytes;
	memcpy(x->report->session, x->session, sizeof(x->session));
	for (uint32_t i = 0; i < MG_MAX_PARTS; i++)
		svio__mg_buf_free(&x->state[i]);
	svio__mg_share_end(x);
	svio__mg_stream_fini(&x->stream);
}

void svio__mg_phase(struct mg_move *x, enum svio_migrate_phase phase)
{
	x->report->phase = phase;
	x->report->total_ns = svio_now_ns() - x->started;
	if (x->opts.progress)
		x->opts.progress(x->opts.ctx, x->report);
}

/* ---- the first words ----------------------------------------------------------------------------------- */

/* version, flags, process, machine, and sixteen random bytes: the source's are the session's number, the target's its answer. */
int svio__mg_hello_put(struct mg_move *x, uint32_t flags)
{
	const uint8_t *id = flags & MG_HELLO_TARGET ? x->nonce : x->session;
	struct svio_migrate_buf b = { .max = 256 };
	int rc;

	svio_migrate_put_u32(&b, SVIO_MIGRATE_STREAM_VERSION);
	svio_migrate_put_u32(&b, flags | MG_HELLO_ZSTD | MG_HELLO_SHARE);
	svio_migrate_put_u32(&b, (uint32_t)getpid());
	svio_migrate_put_u64(&b, svio__mg_boot_id());
	rc = svio_migrate_put(&b, id, MG_SESSION);
	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_HELLO, b.data, b.len, NULL, 0);
	svio__mg_buf_free(&b);
	return rc;
}

int svio__mg_hello_get(struct mg_move *x, struct svio_migrate_in *in, uint32_t *flags, uint8_t id[MG_SESSION])
{
	uint32_t version = svio_migrate_get_u32(in);
	const void *p;

	if (version != SVIO_MIGRATE_STREAM_VERSION)
		return svio_fail(EPROTONOSUPPORT, "the other side speaks stream version %u, this one %u: install the same svio",
				 version, SVIO_MIGRATE_STREAM_VERSION);
	*flags = svio_migrate_get_u32(in);
	x->peer_pid = svio_migrate_get_u32(in);
	x->peer_boot = svio_migrate_get_u64(in);
	p = svio_migrate_get(in, MG_SESSION);
	if (!p || in->left)
		return svio_fail(EPROTO, "a HELLO of another length");
	memcpy(id, p, MG_SESSION);
	x->peer_compress = *flags & MG_HELLO_ZSTD;
	x->peer_share = *flags & MG_HELLO_SHARE;
	return 0;
}

bool svio__mg_is_direct(const struct mg_move *x)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int domain = 0;
	socklen_t dlen = sizeof(domain);

	return x->stream.in == x->stream.out && x->peer_boot && x->peer_boot == svio__mg_boot_id() &&
	       getsockopt(x->stream.in, SOL_SOCKET, SO_DOMAIN, &domain, &dlen) == 0 && domain == AF_UNIX &&
	       getsockopt(x->stream.in, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid > 0 &&
	       (uint32_t)cred.pid == x->peer_pid;
}

/* From now on only frames of this session are whole. */
void svio__mg_key(struct mg_move *x)
{
	x->stream.key = svio_crc32c(svio_crc32c(0, x->session, MG_SESSION), x->nonce, MG_SESSION);
}

/* ---- what must fit --------------------------------------------------------------------------------------- */

#define AREA_FACT "area."

static int describe_area(struct svio_migrate_record *mine, const char *fact, const char *value)
{
	return svio_migrate_fact_text(mine, fact, value, "start the process that is to receive it anew, or with other addresses: what lies "
				      "there is in its /proc/PID/maps");
}

/* Where memory lies. The source says where; the target repeats what it has room for. */
static int describe_memory(struct mg_move *x, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	static const char *const hint = "free memory there, or allow the process that receives more of it (--max-memory, cgroup, ulimit -v)";
	char name[SVIO_MIGRATE_NAME_MAX], text[SVIO_MIGRATE_VALUE_MAX];
	uint64_t bytes = 0, base;
	int rc = 0;

	for (struct svio_migrate_area *a = source ? NULL : x->m->areas; rc == 0 && a; a = a->next) {
		bytes += a->bytes;
		snprintf(name, sizeof(name), AREA_FACT "%s", a->name);
		snprintf(text, sizeof(text), "0x%" PRIx64 "+0x%" PRIx64, (uint64_t)(uintptr_t)a->base, a->bytes);
		rc = describe_area(mine, name, text);
	}
	if (source)
		bytes = SVIO_MIN(svio__mg_available(), x->opts.max_bytes ? x->opts.max_bytes : UINT64_MAX);
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "memory", SVIO_MIGRATE_AT_LEAST, bytes, hint);
	for (size_t i = 0; rc == 0 && source && i < source->count; i++) {
		const struct mg_fact *f = &source->facts[i];

		if (!f->is_text || strncmp(f->name, AREA_FACT, strlen(AREA_FACT)) != 0)
			continue;
		if (sscanf(f->text, "0x%" SCNx64 "+0x%" SCNx64, &base, &bytes) != 2 || base % MG_HUGE || bytes % MG_HUGE || !bytes)
			return svio_fail(EPROTO, "%s: no place", f->name);
		rc = describe_area(mine, f->name, svio__mg_is_free(base, bytes) ? f->text : "something else is mapped there");
	}
	return rc;
}

/* What every process says, then what its parts say. */
int svio__mg_describe(struct mg_move *x, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	static const uint16_t endian = 1;
	int rc;

	rc = svio_migrate_fact_text(mine, "byte order", *(const uint8_t *)&endian ? "little" : "big",
				    "pointers and states move as they are: use a machine of the same kind");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "page size", SVIO_MIGRATE_SAME, (uint64_t)sysconf(_SC_PAGESIZE),
					   "boot a kernel with the same page size");
	if (rc == 0)
		rc = describe_memory(x, mine, source);
	for (struct svio_migrate_part *p = x->m->parts; rc == 0 && p; p = p->next) {
		char name[SVIO_MIGRATE_NAME_MAX];

		snprintf(name, sizeof(name), "%s.version", p->name);
		rc = svio_migrate_fact_u64(mine, name, SVIO_MIGRATE_AT_LEAST, p->version, "install the newer svio on the target");
		if (rc == 0 && p->describe)
			rc = p->describe(p->ctx, mine, source);
	}
	return rc;
}
