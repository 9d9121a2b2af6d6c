/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages in the stream. The source sends them from where they are, while others may write to them: it sums a page up, and what the kernel
 * copies a moment later may be something else. The target looks, tells at the end of the round which pages do not fit their sums, and the
 * source sends them again, as it does with what the dirty set finds. In the last round nothing writes, and a sum that does not fit is damage.
 * That saves a copy of everything.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "migrate_priv.h"

#define AGAIN_MAX (MG_PAYLOAD_MAX / sizeof(struct mg_run) / 2) /* of one ROUND_OK; others are named by the next */

uint8_t *svio__mg_place(struct mg_move *x, const struct mg_run *run, uint64_t *bytes)
{
	struct svio_migrate_area *a = svio__mg_area(x->m, svio_le32_to_cpu(run->area));
	uint64_t count = svio_le32_to_cpu(run->count), first = svio_le64_to_cpu(run->first), n;

	if (!a || count == 0)
		return NULL;
	n = a->bytes / MG_PAGE;
	if (first >= n || count > n - first)
		return NULL;
	*bytes = count * MG_PAGE;
	return a->base + first * MG_PAGE;
}

/* ---- the target -------------------------------------------------------------------------------------------- */

int svio__mg_place_pages(void *ctx, const struct mg_pages_head *head, const struct mg_run *run, struct iovec *piece, int *num)
{
	uint32_t runs = svio_le32_to_cpu(head->runs);
	uint64_t left = svio_le32_to_cpu(head->pages) * MG_PAGE;

	if (runs == 0 || runs > MG_FRAME_PAGES)
		return svio_fail(EPROTO, "pages in %u pieces", runs);
	for (uint32_t i = 0; i < runs; i++) {
		uint64_t bytes = 0;
		uint8_t *to = svio__mg_place(ctx, &run[i], &bytes);

		if (!to || bytes > left)
			return svio_fail(EPROTO, "pages that belong nowhere");
		piece[i] = (struct iovec){ to, bytes };
		left -= bytes;
	}
	*num = (int)runs;
	return left ? svio_fail(EPROTO, "more pages than places for them") : 0;
}

/* A page that has come: does it fit its sum? */
static void mark(struct mg_move *x, struct svio_migrate_area *a, uint64_t page, bool wrong)
{
	if (svio_bitmap_test(a->dirty, page) == wrong)
		return;
	if (wrong)
		svio_bitmap_set(a->dirty, page);
	else
		svio_bitmap_clear(a->dirty, page);
	x->wrong_pages += wrong ? 1 : UINT64_MAX;
}

static void mark_run(struct mg_move *x, const struct mg_run *run, const uint64_t *wrong, uint32_t at)
{
	struct svio_migrate_area *a = svio__mg_area(x->m, svio_le32_to_cpu(run->area));

	for (uint64_t i = 0; i < svio_le32_to_cpu(run->count); i++)
		mark(x, a, svio_le64_to_cpu(run->first) + i, wrong && svio_bitmap_test(wrong, at + i));
}

static bool any(const uint64_t *wrong)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < MG_FRAME_PAGES / 64; i++)
		sum |= wrong[i];
	return sum != 0;
}

/* Behind the runs and the sums, because the frame was packed. */
static int unpack_pages(struct mg_move *x, const struct mg_pages_head *head, const struct mg_run *run, const svio_le32 *sum,
			struct svio_migrate_in *in)
{
	struct iovec piece[MG_FRAME_PAGES];
	uint32_t page = 0;
	int num, rc;

	if (in->left != svio_le32_to_cpu(head->pages) * MG_PAGE)
		return svio_fail(EPROTO, "%u pages in %zu bytes", svio_le32_to_cpu(head->pages), in->left);
	rc = svio__mg_place_pages(x, head, run, piece, &num);
	if (rc)
		return rc;
	memset(x->stream.wrong, 0, sizeof(x->stream.wrong));
	for (int i = 0; i < num; i++)
		for (uint64_t at = 0; at < piece[i].iov_len; at += MG_PAGE, page++) {
			const void *from = svio_migrate_get(in, MG_PAGE);

			memcpy((uint8_t *)piece[i].iov_base + at, from, MG_PAGE);
			if (svio_crc32c(0, from, MG_PAGE) != svio_le32_to_cpu(sum[page]))
				svio_bitmap_set(x->stream.wrong, page);
		}
	return 0;
}

int svio__mg_take_pages(struct mg_move *x, struct svio_migrate_in *in)
{
	const struct mg_pages_head *head = svio_migrate_get(in, sizeof(*head));
	uint32_t runs = head ? svio_le32_to_cpu(head->runs) : 0, pages = head ? svio_le32_to_cpu(head->pages) : 0, at = 0;
	const struct mg_run *run = NULL;
	const svio_le32 *sum = NULL;
	int rc = 0;

	if (runs <= MG_FRAME_PAGES && pages <= MG_FRAME_PAGES) {
		run = svio_migrate_get(in, runs * sizeof(*run));
		sum = svio_migrate_get(in, pages * sizeof(*sum));
	}
	if (!run || !sum)
		return svio_fail(EPROTO, "pages that belong nowhere");
	if (!x->stream.placed)
		rc = unpack_pages(x, head, run, sum, in);
	if (rc)
		return rc;
	x->pages += pages;
	if (!x->wrong_pages && !any(x->stream.wrong))
		return 0;
	for (uint32_t i = 0; i < runs; i++) {
		mark_run(x, &run[i], x->stream.wrong, at);
		at += svio_le32_to_cpu(run[i].count);
	}
	return 0;
}

int svio__mg_take_zeroes(struct mg_move *x, struct svio_migrate_in *in)
{
	while (in->left) {
		const struct mg_run *run = svio_migrate_get(in, sizeof(*run));
		uint64_t bytes = 0;
		uint8_t *to = run ? svio__mg_place(x, run, &bytes) : NULL;

		if (!to)
			return svio_fail(EPROTO, "zeroes that belong nowhere");
		memset(to, 0, bytes);
		if (x->wrong_pages)
			mark_run(x, run, NULL, 0);
		x->report->zero_pages += bytes / MG_PAGE;
	}
	return 0;
}

/* Runs of marked pages of one area; how many. */
static uint32_t list(const struct svio_migrate_area *a, uint32_t index, struct mg_run *run, uint32_t max)
{
	uint64_t n = a->bytes / MG_PAGE, first = svio_bitmap_next_set(a->dirty, n, 0), end;
	uint32_t runs = 0;

	for (; first < n && runs < max; first = svio_bitmap_next_set(a->dirty, n, end)) {
		end = svio_bitmap_next_clear(a->dirty, n, first);
		run[runs++] = (struct mg_run){ svio_cpu_to_le32(index), svio_cpu_to_le32(end - first), svio_cpu_to_le64(first) };
	}
	return runs;
}

int svio__mg_round_ok(struct mg_move *x)
{
	struct mg_run *run = NULL;
	uint32_t runs = 0, index = 0;
	int rc;

	if (x->wrong_pages) {
		run = malloc(AGAIN_MAX * sizeof(*run));
		if (!run)
			return svio_fail(ENOMEM, "out of memory for a list of pages");
		for (struct svio_migrate_area *a = x->m->areas; a; a = a->next)
			runs += list(a, index++, run + runs, AGAIN_MAX - runs);
	}
	rc = svio__mg_tx(&x->stream, MG_ROUND_OK, run, runs * sizeof(*run), NULL, 0);
	free(run);
	return rc;
}

/* ---- the source -------------------------------------------------------------------------------------------- */

int svio__mg_again(struct mg_move *x, struct svio_migrate_in *in)
{
	while (in->left) {
		const struct mg_run *run = svio_migrate_get(in, sizeof(*run));
		uint64_t bytes = 0;

		if (!run || !svio__mg_place(x, run, &bytes))
			return svio_fail(EPROTO, "the target wants pages that there are not");
		x->report->torn_pages += bytes / MG_PAGE;
		svio_bitmap_set_range(svio__mg_area(x->m, svio_le32_to_cpu(run->area))->dirty, svio_le64_to_cpu(run->first),
				      svio_le32_to_cpu(run->count));
	}
	return 0;
}
