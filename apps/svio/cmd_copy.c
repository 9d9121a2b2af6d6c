/* SPDX-License-Identifier: BSD-3-Clause */
/* svio copy: a file to a file, from page cache to page cache by the device. */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "dsa_session.h"

#define PIECE (UINT64_C(4) << 20)

enum { DEVICE, FROM, TO };
static const char *const asked[] = { "which device?", "from which file?", "to which file?", NULL };
static const struct argp argp = {
	.parser = dsa_parse_words,
	.args_doc = "DEV FROM TO",
	.doc = "Copy the file FROM to TO by a DMA engine. TO appears when it is complete and not before.\v"
	       "With native SVA the device reads and writes the mapped files itself; without, they go through registered memory.",
	.children = dsa_children,
};

/* Without native SVA: in and out of memory that the device reaches. */
static int through_memory(struct dsa_session *s, const uint8_t *from, uint8_t *to, uint64_t len)
{
	uint8_t *a = svio_mem_alloc(PIECE, 4096, -1), *b = svio_mem_alloc(PIECE, 4096, -1);
	struct svio_dsa_result res;
	int rc = a && b ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < len && !rc; at += PIECE) {
		uint64_t n = SVIO_MIN(PIECE, len - at);

		memcpy(a, from + at, n);
		rc = dsa_stream(s, &(struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = a, .dst = b, .len = n }, PIECE, &res);
		if (!rc)
			memcpy(to + at, b, n);
	}
	svio_mem_free(a);
	svio_mem_free(b);
	return rc;
}

static int report(const struct dsa_words *args, const struct dsa_session *s, uint64_t len, uint64_t ns)
{
	double seconds = (double)ns / 1e9;
	char size[CLI_SIZE_LEN];
	struct json_object *doc;

	if (!args->common.json) {
		printf("%s: %s in %.3f s by %s, %s%s\n", args->word[TO], cli_size(len, size), seconds, svio_device_name(s->dev),
		       svio_sva_mode_text(s->bond->mode), s->info.simulated ? " (simulated device)" : "");
		return CLI_OK;
	}
	doc = json_object_new_object();
	dsa_session_json(s, doc);
	cli_json_str(doc, "from", args->word[FROM]);
	cli_json_str(doc, "to", args->word[TO]);
	cli_json_u64(doc, "bytes", len);
	json_object_object_add(doc, "seconds", json_object_new_double(seconds));
	return cli_json_print(doc);
}

static int copy(const struct dsa_words *args, struct dsa_session *s, void *from, uint64_t len, mode_t mode, uint64_t *ns)
{
	struct svio_dsa_result res;
	struct dsa_out out;
	uint64_t start;
	int rc = dsa_out_open(&out, args->word[TO], len, mode);

	if (rc)
		return rc;
	start = svio_now_ns();
	if (len && s->bond->mode == SVIO_SVA_NATIVE)
		rc = dsa_stream(s, &(struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = from, .dst = out.map, .len = len }, PIECE, &res);
	else if (len)
		rc = through_memory(s, from, out.map, len);
	*ns = svio_now_ns() - start;
	if (!rc)
		return dsa_out_keep(&out);
	dsa_out_drop(&out);
	return rc;
}

int cmd_copy(int argc, char **argv)
{
	struct dsa_words args = { .asked = asked };
	struct dsa_session s;
	uint64_t len = 0, ns = 0;
	mode_t mode = 0;
	void *from;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	cli_catch_signals();
	rc = dsa_in_open(args.word[FROM], &from, &len, &mode);
	if (rc)
		return cli_fail(rc);
	rc = dsa_session_open(&s, args.word[DEVICE], 0, 1);
	if (rc) {
		if (from)
			munmap(from, len);
		return cli_fail(rc);
	}
	rc = copy(&args, &s, from, len, mode, &ns);
	rc = rc ? cli_fail(rc) : report(&args, &s, len, ns);
	dsa_session_close(&s);
	if (from)
		munmap(from, len);
	return rc;
}
