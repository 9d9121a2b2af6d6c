/* SPDX-License-Identifier: BSD-3-Clause */
/* Copying between a namespace and a stream at queue depth. */
#include <inttypes.h>
#include <stdlib.h>
#include "cmd_nvme_copy.h"

#define PROGRESS_NS UINT64_C(200000000)

struct copy_chunk {
	void *buf;
	uint64_t lba;
	uint32_t nlb;
	int status;
	bool done;
};

/* ---- options --------------------------------------------------------------------------------------- */

static const struct argp_option options[] = {
	{ "lba", 'l', "N", 0, "First block (0)", 0 },
	{ "nsid", 'n', "N", 0, "Namespace (the first active one)", 0 },
	{ "qd", 'q', "N", 0, "Requests in flight (16)", 0 },
	{ "bs", 'b', "SIZE", 0, "Bytes of one request, up to 1M (128k)", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct copy_args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		args->qd = COPY_DEFAULT_QD;
		args->bs = COPY_DEFAULT_BS;
		state->child_inputs[0] = &args->common;
		return 0;
	case 'l':
		args->lba = nvme_arg_u64(state, "--lba", arg, 0, UINT64_MAX);
		return 0;
	case 'n':
		args->nsid = (uint32_t)nvme_arg_u64(state, "--nsid", arg, 1, UINT32_MAX - 1);
		return 0;
	case 'q':
		args->qd = (uint32_t)nvme_arg_u64(state, "--qd", arg, 1, COPY_MAX_QD);
		return 0;
	case 'b':
		args->bs = (uint32_t)nvme_arg_size(state, "--bs", arg, 512, COPY_MAX_BS);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 0)
			argp_error(state, "one device at a time");
		args->device = arg;
		return 0;
	case ARGP_KEY_END:
		if (!args->device)
			argp_error(state, "which device? 'svio list' shows them");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
const struct argp copy_argp = { .options = options, .parser = parse, .children = children };

/* ---- open and close -------------------------------------------------------------------------------- */

int copy_open(struct copy *c, const struct copy_args *args)
{
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts) };
	struct svio_nvme_info info;
	uint32_t bs = args->bs;
	size_t chunk_size;
	int rc;

	*c = (struct copy){ .args = args };
	rc = nvme_mem_start((uint64_t)args->qd * args->bs, args->qd);
	if (rc)
		return rc;
	rc = nvme_session_open(&c->session, args->device, NULL);
	if (rc)
		return rc;
	rc = nvme_session_ns(&c->session, args->nsid, &c->ns);
	if (rc)
		return rc;
	svio_nvme_get_info(c->session.nvme, &info);
	bs = SVIO_MIN(bs, info.max_transfer);
	if (bs < c->ns.lba_size || bs % c->ns.lba_size)
		return svio_fail(EINVAL,
				 "%s: --bs %" PRIu32 " is no multiple of the block size, %" PRIu32,
				 args->device, bs, c->ns.lba_size);
	c->chunk_blocks = bs / c->ns.lba_size;
	c->qd = SVIO_MIN(args->qd, info.max_queue_depth - 1);
	opts.depth = c->qd + 1;
	opts.max_transfer = bs;
	rc = svio_nvme_qp_create(c->session.nvme, &opts, &c->qp);
	if (rc)
		return rc;
	c->chunks = calloc(c->qd, sizeof(*c->chunks));
	if (!c->chunks)
		return -ENOMEM;
	chunk_size = SVIO_ALIGN_UP((size_t)bs, (size_t)4096);
	for (uint32_t i = 0; i < c->qd; i++) {
		c->chunks[i].buf = svio_mem_alloc(chunk_size, 4096, -1);
		if (!c->chunks[i].buf)
			return -ENOMEM;
	}
	c->start_ns = svio_now_ns();
	return 0;
}

void copy_close(struct copy *c)
{
	cli_progress_end();
	/* Requests in flight end with the queue pair; only then are their buffers free. */
	svio_nvme_qp_destroy(c->qp);
	if (c->chunks)
		for (uint32_t i = 0; i < c->qd; i++)
			svio_mem_free(c->chunks[i].buf);
	free(c->chunks);
	nvme_session_close(&c->session);
	nvme_mem_stop();
}

int copy_check_range(const struct copy *c, uint64_t n)
{
	uint64_t lba = c->args->lba;

	if (lba < c->ns.blocks && n <= c->ns.blocks - lba)
		return 0;
	return svio_fail(ERANGE,
			 "%s: %" PRIu64 " blocks from LBA %" PRIu64
			 " reach beyond namespace %" PRIu32 ", which has %" PRIu64
			 " blocks of %" PRIu32 " bytes",
			 c->args->device, n, lba, c->ns.nsid, c->ns.blocks, c->ns.lba_size);
}

/* ---- the pipeline ---------------------------------------------------------------------------------- */

static void chunk_done(void *ctx, int status)
{
	struct copy_chunk *chunk = ctx;

	chunk->status = status;
	chunk->done = true;
}

static int chunk_result(const struct copy *c, const struct copy_chunk *chunk, const char *verb)
{
	if (chunk->status == 0)
		return 0;
	return svio_fail(chunk->status < 0 ? -chunk->status : EIO,
			 "%s: cannot %s blocks %" PRIu64 " to %" PRIu64 " of namespace %" PRIu32
			 ": %s",
			 c->args->device, verb, chunk->lba, chunk->lba + chunk->nlb - 1, c->ns.nsid,
			 svio_nvme_status_text(chunk->status));
}

static int submit_failed(const struct copy *c, const struct copy_chunk *chunk, int rc)
{
	return svio_fail(-rc, "%s: cannot submit blocks %" PRIu64 " to %" PRIu64 ": %s",
			 c->args->device, chunk->lba, chunk->lba + chunk->nlb - 1,
			 svio_nvme_status_text(rc));
}

static void show_progress(struct copy *c)
{
	uint64_t now = svio_now_ns(), bytes = c->done_blocks << c->ns.lba_shift;
	char done[CLI_SIZE_LEN], rate[CLI_SIZE_LEN];
	double seconds = (double)(now - c->start_ns) / 1e9;

	if (now - c->shown_ns < PROGRESS_NS)
		return;
	c->shown_ns = now;
	cli_size(bytes, done);
	cli_size((uint64_t)((double)bytes / seconds) & ~UINT64_C(0x3ff), rate);
	if (c->total_blocks)
		cli_progress("%s, %.0f %%, %s/s", done,
			     100.0 * (double)c->done_blocks / (double)c->total_blocks, rate);
	else
		cli_progress("%s, %s/s", done, rate);
}

static int check_interrupt(void)
{
	return cli_interrupted() ? svio_fail(EINTR, "interrupted") : 0;
}

int copy_read(struct copy *c, uint64_t n, int (*sink)(void *ctx, const void *buf, size_t len),
	      void *ctx)
{
	uint64_t issued = 0, taken = 0, next = 0,
		 count = (n + c->chunk_blocks - 1) / c->chunk_blocks;
	int rc;

	c->total_blocks = n;
	while (taken < count) {
		rc = check_interrupt();
		if (rc)
			return rc;
		while (issued < count && issued - taken < c->qd) {
			struct copy_chunk *chunk = &c->chunks[issued % c->qd];

			chunk->lba = c->args->lba + next;
			chunk->nlb = (uint32_t)SVIO_MIN(n - next, (uint64_t)c->chunk_blocks);
			chunk->done = false;
			rc = svio_nvme_read(c->qp, &c->ns, chunk->buf, chunk->lba, chunk->nlb,
					    SVIO_NVME_MORE, chunk_done, chunk);
			if (rc == -EAGAIN)
				break;
			if (rc)
				return submit_failed(c, chunk, rc);
			next += chunk->nlb;
			issued++;
		}
		svio_nvme_ring(c->qp);
		svio_nvme_poll(c->qp, 0);
		for (; taken < issued && c->chunks[taken % c->qd].done; taken++) {
			struct copy_chunk *chunk = &c->chunks[taken % c->qd];

			rc = chunk_result(c, chunk, "read");
			if (!rc)
				rc = sink(ctx, chunk->buf, (size_t)chunk->nlb << c->ns.lba_shift);
			if (rc)
				return rc;
			c->done_blocks += chunk->nlb;
		}
		show_progress(c);
	}
	return 0;
}

int copy_write(struct copy *c, int (*source)(void *ctx, void *buf, uint32_t max, uint32_t *nlb),
	       void *ctx)
{
	uint64_t issued = 0, taken = 0, next = 0;
	bool filled = false, end = false;
	int rc, source_rc = 0;

	while (!end || taken < issued) {
		rc = check_interrupt();
		if (rc)
			return rc;
		while (!end && issued - taken < c->qd) {
			struct copy_chunk *chunk = &c->chunks[issued % c->qd];

			if (!filled) {
				source_rc = source(ctx, chunk->buf, c->chunk_blocks, &chunk->nlb);
				if (source_rc || chunk->nlb == 0) {
					end = true;
					break;
				}
				filled = true;
				chunk->lba = c->args->lba + next;
				chunk->done = false;
			}
			rc = svio_nvme_write(c->qp, &c->ns, chunk->buf, chunk->lba, chunk->nlb,
					     SVIO_NVME_MORE, chunk_done, chunk);
			if (rc == -EAGAIN)
				break;
			if (rc)
				return submit_failed(c, chunk, rc);
			filled = false;
			next += chunk->nlb;
			issued++;
		}
		svio_nvme_ring(c->qp);
		svio_nvme_poll(c->qp, 0);
		for (; taken < issued && c->chunks[taken % c->qd].done; taken++) {
			rc = chunk_result(c, &c->chunks[taken % c->qd], "write");
			if (rc)
				return rc;
			c->done_blocks += c->chunks[taken % c->qd].nlb;
		}
		show_progress(c);
	}
	return source_rc;
}

int copy_flush(struct copy *c)
{
	struct copy_chunk *chunk = &c->chunks[0];
	int rc;

	chunk->done = false;
	rc = svio_nvme_flush(c->qp, &c->ns, chunk_done, chunk);
	if (rc)
		return svio_fail(-rc, "%s: cannot flush: %s", c->args->device,
				 svio_nvme_status_text(rc));
	while (!chunk->done) {
		rc = check_interrupt();
		if (rc)
			return rc;
		svio_nvme_poll(c->qp, 0);
	}
	if (chunk->status)
		return svio_fail(chunk->status < 0 ? -chunk->status : EIO, "%s: flush failed: %s",
				 c->args->device, svio_nvme_status_text(chunk->status));
	return 0;
}

int copy_report(const struct copy *c, const char *verb)
{
	uint64_t bytes = c->done_blocks << c->ns.lba_shift;
	double seconds = (double)(svio_now_ns() - c->start_ns) / 1e9;
	char size[CLI_SIZE_LEN];

	if (c->args->common.json) {
		struct json_object *doc = json_object_new_object();

		cli_json_str(doc, "device", c->args->device);
		cli_json_u64(doc, "nsid", c->ns.nsid);
		cli_json_u64(doc, "lba", c->args->lba);
		cli_json_u64(doc, "blocks", c->done_blocks);
		cli_json_u64(doc, "lba_size", c->ns.lba_size);
		cli_json_u64(doc, "bytes", bytes);
		json_object_object_add(doc, "seconds", json_object_new_double(seconds));
		return cli_json_print(doc);
	}
	printf("%s namespace %" PRIu32 ": %s %" PRIu64 " blocks from LBA %" PRIu64
	       ", %s in %.2f s (%.1f MiB/s)\n",
	       c->args->device, c->ns.nsid, verb, c->done_blocks, c->args->lba,
	       cli_size(bytes, size), seconds, (double)bytes / seconds / (1 << 20));
	return CLI_OK;
}
