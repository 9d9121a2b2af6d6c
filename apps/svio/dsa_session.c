/* SPDX-License-Identifier: BSD-3-Clause */
/* A DMA engine from its name to readiness, and back; files as memory. */
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "dsa_session.h"

#define PROGRESS_NS UINT64_C(200000000)
#define IN_FLIGHT   8u

/* ---- words ------------------------------------------------------------------------------------------------- */

const struct argp_child dsa_children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };

error_t dsa_parse_words(int key, char *arg, struct argp_state *state)
{
	struct dsa_words *words = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &words->common;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == DSA_WORDS || !words->asked[state->arg_num])
			argp_error(state, "'%s' is one too many", arg);
		words->word[state->arg_num] = arg;
		return 0;
	case ARGP_KEY_END:
		if (words->asked[state->arg_num])
			argp_error(state, "%s", words->asked[state->arg_num]);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- the session ------------------------------------------------------------------------------------------ */

static int start_mem(struct dsa_session *s, uint64_t bytes)
{
	struct svio_mem_opts opts = { .size = sizeof(opts), .bytes = SVIO_ALIGN_UP(bytes + bytes / 16 + (UINT64_C(8) << 20), UINT64_C(2) << 20) };
	cpu_set_t cpus;
	bool known = sched_getaffinity(0, sizeof(cpus), &cpus) == 0;
	int rc;

#ifdef __SANITIZE_THREAD__ /* svio_mem.h: its shadow memory is where ours would be */
	opts.base = UINT64_C(256) << 30;
#endif
	rc = svio_mem_start(&opts);
	if (known) /* EAL ties the calling thread to one CPU */
		sched_setaffinity(0, sizeof(cpus), &cpus);
	if (rc)
		return rc;
	s->mem = true;
	return 0;
}

/* Registered memory becomes reachable by IOVA. */
static int attach(struct dsa_session *s)
{
	int rc = svio_ioas_create(NULL, &s->ioas);

	if (!rc)
		rc = svio_ioas_attach(s->ioas, s->dev);
	s->attached = rc == 0;
	return rc;
}

/* Closing what is half open may fail in its own way; the first reason is the one to tell. */
static int close_failed(struct dsa_session *s, int rc)
{
	char why[SVIO_ERROR_MAX];

	snprintf(why, sizeof(why), "%s", svio_last_error());
	dsa_session_close(s);
	return why[0] ? svio_fail(rc, "%s", why) : rc;
}

int dsa_session_open(struct dsa_session *s, const char *name, uint64_t registered, uint32_t wqs)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = wqs, .policy = SVIO_DSA_REQUEUE };
	int rc;

	*s = (struct dsa_session){ 0 };
	svio_clear_error();
	rc = svio_device_open(name, NULL, &s->dev);
	if (!rc)
		rc = svio_sva_get_report(s->dev, &s->report);
	if (!rc && (registered || s->report.mode != SVIO_SVA_NATIVE)) {
		rc = start_mem(s, registered);
		if (!rc)
			rc = attach(s);
	}
	if (!rc)
		rc = svio_sva_bind(s->dev, s->ioas, 0, &s->bond);
	if (!rc)
		rc = svio_dsa_open(s->dev, &opts, &s->dsa);
	if (!rc)
		rc = svio_dsa_wq_create(s->dsa, s->bond, NULL, &s->wq);
	if (!rc)
		svio_dsa_get_info(s->dsa, &s->info);
	return rc ? close_failed(s, rc) : 0;
}

int dsa_session_movable(struct dsa_session *s, const char *name)
{
	int rc;

	*s = (struct dsa_session){ 0 };
	svio_clear_error();
	rc = svio_device_open(name, NULL, &s->dev);
	if (!rc)
		rc = svio_sva_get_report(s->dev, &s->report);
	if (!rc)
		rc = start_mem(s, 0);
	if (!rc && s->report.mode != SVIO_SVA_NATIVE)
		rc = attach(s);
	if (!rc)
		rc = svio_sva_bind(s->dev, s->ioas, 0, &s->bond);
	return rc ? close_failed(s, rc) : 0;
}

void dsa_session_close(struct dsa_session *s)
{
	svio_dsa_wq_destroy(s->wq);
	svio_dsa_close(s->dsa);
	svio_sva_unbind(s->bond);
	if (s->attached) {
		svio_device_set_master(s->dev, false);
		svio_ioas_detach(s->ioas, s->dev);
	}
	svio_ioas_destroy(s->ioas);
	svio_device_close(s->dev);
	if (s->mem)
		svio_mem_stop();
	*s = (struct dsa_session){ 0 };
}

void dsa_session_json(const struct dsa_session *s, struct json_object *doc)
{
	cli_json_str(doc, "device", svio_device_name(s->dev));
	cli_json_bool(doc, "simulated", s->info.simulated);
	cli_json_str(doc, "mode", svio_sva_mode_text(s->bond->mode));
	cli_json_str(doc, "why", s->report.why);
}

/* ---- a long operation with progress ---------------------------------------------------------------------- */

struct stream {
	struct svio_dsa_result first_bad;
	uint64_t bytes;
	uint32_t crc, inflight;
};

static void piece_done(void *ctx, const struct svio_dsa_result *res)
{
	struct stream *st = ctx;

	st->inflight--;
	st->bytes += res->bytes;
	st->crc = res->crc;
	if (res->status && !st->first_bad.status)
		st->first_bad = *res;
}

static void show(const struct stream *st, uint64_t total, uint64_t *shown)
{
	uint64_t now = svio_now_ns();
	char text[CLI_SIZE_LEN];

	if (now - *shown < PROGRESS_NS)
		return;
	*shown = now;
	cli_progress("%s, %.0f %%", cli_size(st->bytes, text), 100.0 * (double)st->bytes / (double)total);
}

void dsa_poll(const struct dsa_session *s, struct svio_dsa_wq *wq)
{
	/* A simulated device may be waiting for this very CPU. */
	if (svio_dsa_poll(wq, 0) == 0 && s->info.simulated)
		sched_yield();
}

int dsa_stream(struct dsa_session *s, const struct svio_dsa_op *op, uint64_t piece, struct svio_dsa_result *res)
{
	bool chained = op->op == SVIO_DSA_CRC || op->op == SVIO_DSA_COPY_CRC; /* each piece begins with the last one's CRC */
	uint32_t most = chained ? 1 : SVIO_MIN(IN_FLIGHT, svio_dsa_depth(s->wq));
	struct stream st = { .crc = op->seed };
	uint64_t at = 0, shown = svio_now_ns();
	int rc = 0;

	while ((at < op->len && !rc && !st.first_bad.status) || st.inflight) {
		if (cli_interrupted() && !rc)
			rc = svio_fail(EINTR, "interrupted");
		while (at < op->len && st.inflight < most && !rc && !st.first_bad.status) {
			struct svio_dsa_op next = *op;

			next.len = SVIO_MIN(piece, op->len - at);
			next.src = (const uint8_t *)op->src + at;
			next.dst = (uint8_t *)op->dst + at;
			next.seed = st.crc;
			rc = svio_dsa_submit(s->wq, &next, piece_done, &st);
			if (rc == -EAGAIN) {
				rc = 0;
				break;
			}
			if (rc)
				break;
			st.inflight++;
			at += next.len;
		}
		dsa_poll(s, s->wq);
		show(&st, op->len, &shown);
	}
	cli_progress_end();
	*res = (struct svio_dsa_result){ .bytes = st.bytes, .crc = st.crc };
	if (rc)
		return rc;
	if (st.first_bad.status == -EFAULT)
		return svio_fail(EFAULT, "%s: nothing is at %#" PRIx64 " any more (was the file made shorter?)", svio_device_name(s->dev),
				 st.first_bad.fault_addr);
	if (st.first_bad.status)
		return svio_fail(st.first_bad.status < 0 ? -st.first_bad.status : EIO, "%s: %s", svio_device_name(s->dev),
				 svio_dsa_status_text(st.first_bad.status));
	return 0;
}

/* ---- files -------------------------------------------------------------------------------------------------- */

int dsa_in_open(const char *name, void **map, uint64_t *len, mode_t *mode)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC), err = 0;
	struct stat st;

	*map = NULL;
	if (fd < 0 || fstat(fd, &st)) {
		err = svio_fail(errno, "%s: %s", name, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		err = svio_fail(EINVAL, "%s: no regular file, and only such can be mapped", name);
	} else {
		*len = (uint64_t)st.st_size;
		*mode = st.st_mode & 0777;
		if (*len) {
			*map = mmap(NULL, *len, PROT_READ, MAP_SHARED, fd, 0);
			if (*map == MAP_FAILED) {
				*map = NULL;
				err = svio_fail(errno, "%s: cannot be mapped: %s", name, strerror(errno));
			}
		}
	}
	if (fd >= 0)
		close(fd);
	return err;
}

int dsa_out_open(struct dsa_out *out, const char *name, uint64_t len, mode_t mode)
{
	int err;

	*out = (struct dsa_out){ .name = name, .fd = -1, .len = len };
	if (asprintf(&out->temp, "%s.XXXXXX", name) < 0) {
		out->temp = NULL;
		return svio_fail(ENOMEM, "out of memory");
	}
	out->fd = mkostemp(out->temp, O_CLOEXEC);
	if (out->fd < 0) {
		err = errno;
		free(out->temp);
		out->temp = NULL;
		return svio_fail(err, "%s: cannot be made: %s", name, strerror(err));
	}
	/* Blocks now: a full disk would be a SIGBUS, or a fault of the device, later. */
	err = len ? posix_fallocate(out->fd, 0, (off_t)len) : 0;
	if (err) {
		dsa_out_drop(out);
		return svio_fail(err, "%s: no room for %" PRIu64 " bytes: %s", name, len, strerror(err));
	}
	if (len) {
		out->map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, out->fd, 0);
		if (out->map == MAP_FAILED) {
			err = errno;
			out->map = NULL;
			dsa_out_drop(out);
			return svio_fail(err, "%s: cannot be mapped: %s", name, strerror(err));
		}
	}
	fchmod(out->fd, mode);
	return 0;
}

int dsa_out_keep(struct dsa_out *out)
{
	int err = 0;

	if (out->map && msync(out->map, out->len, MS_SYNC))
		err = errno;
	if (!err && rename(out->temp, out->name))
		err = errno;
	if (err) {
		dsa_out_drop(out);
		return svio_fail(err, "%s: %s", out->name, strerror(err));
	}
	free(out->temp);
	out->temp = NULL;
	dsa_out_drop(out);
	return 0;
}

void dsa_out_drop(struct dsa_out *out)
{
	if (out->map)
		munmap(out->map, out->len);
	if (out->fd >= 0)
		close(out->fd);
	if (out->temp)
		unlink(out->temp);
	free(out->temp);
	out->map = NULL;
	out->temp = NULL;
	out->fd = -1;
}
