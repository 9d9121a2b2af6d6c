/* SPDX-License-Identifier: BSD-3-Clause */
/* svio crc: CRC-32C of a file, read by the device from the page cache. */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "dsa_session.h"

#define PIECE (UINT64_C(4) << 20)

enum { DEVICE, INPUT };
static const char *const asked[] = { "which device?", "which file?", NULL };
static const struct argp argp = {
	.parser = dsa_parse_words,
	.args_doc = "DEV FILE",
	.doc = "Compute the CRC-32C (Castagnoli) of FILE by a DMA engine.\v"
	       "With native SVA the device reads the mapped file itself; without, the file goes through registered memory.",
	.children = dsa_children,
};

/* Without native SVA: piece by piece through memory that the device reaches. */
static int through_memory(struct dsa_session *s, const uint8_t *map, uint64_t len, uint32_t *crc)
{
	uint8_t *buf = svio_mem_alloc(PIECE, 4096, -1);
	struct svio_dsa_result res = { 0 };
	int rc = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < len && !rc; at += PIECE) {
		struct svio_dsa_op op = { .op = SVIO_DSA_CRC, .src = buf, .len = SVIO_MIN(PIECE, len - at), .seed = res.crc };

		memcpy(buf, map + at, op.len);
		rc = dsa_stream(s, &op, PIECE, &res);
	}
	svio_mem_free(buf);
	*crc = res.crc;
	return rc;
}

static int report(const struct dsa_words *args, const struct dsa_session *s, uint64_t len, uint32_t crc, uint64_t ns)
{
	struct json_object *doc;

	if (!args->common.json) {
		printf("%08" PRIx32 "  %s\n", crc, args->word[INPUT]);
		return CLI_OK;
	}
	doc = json_object_new_object();
	dsa_session_json(s, doc);
	cli_json_str(doc, "file", args->word[INPUT]);
	cli_json_u64(doc, "bytes", len);
	cli_json_hex(doc, "crc32c", crc, 8);
	json_object_object_add(doc, "seconds", json_object_new_double((double)ns / 1e9));
	return cli_json_print(doc);
}

int cmd_crc(int argc, char **argv)
{
	struct dsa_words args = { .asked = asked };
	struct dsa_session s;
	struct svio_dsa_result res = { 0 };
	uint64_t len = 0, start;
	mode_t mode;
	void *map;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	cli_catch_signals();
	rc = dsa_in_open(args.word[INPUT], &map, &len, &mode);
	if (rc)
		return cli_fail(rc);
	rc = dsa_session_open(&s, args.word[DEVICE], 0, 1);
	if (rc) {
		if (map)
			munmap(map, len);
		return cli_fail(rc);
	}
	start = svio_now_ns();
	if (len && s.bond->mode == SVIO_SVA_NATIVE)
		rc = dsa_stream(&s, &(struct svio_dsa_op){ .op = SVIO_DSA_CRC, .src = map, .len = len }, PIECE, &res);
	else if (len)
		rc = through_memory(&s, map, len, &res.crc);
	rc = rc ? cli_fail(rc) : report(&args, &s, len, res.crc, svio_now_ns() - start);
	dsa_session_close(&s);
	if (map)
		munmap(map, len);
	return rc;
}
