/* SPDX-License-Identifier: BSD-3-Clause */
/* Pages in the stream, each with its sum: what changes on its way is named at the end of the round, sent again, and forgotten then. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#define AREA_PAGES 1024u

/* Both ends in this process: `x` receives into its only area what lies in `from`. */
struct ends {
	int fd[2];
	struct mg_stream out;
	struct mg_move *x;
	struct svio_migrate *m;
	struct svio_migrate_area *area;
	struct svio_migrate_report report;
	uint8_t *from;
	svio_le32 sum[MG_FRAME_PAGES];
};

static void open_ends(struct ends *e, bool packed)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = "a", .bytes = AREA_PAGES * MG_PAGE };

	memset(e, 0, sizeof(*e));
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e->fd), 0);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_create(&e->m), 0);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_area_create(&opts, &e->area), 0);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_add_area(e->m, e->area), 0);
	e->area->dirty = calloc(SVIO_BITMAP_WORDS(AREA_PAGES), sizeof(uint64_t));
	e->x = calloc(1, sizeof(*e->x));
	e->from = aligned_alloc(MG_PAGE, AREA_PAGES * MG_PAGE);
	CU_ASSERT_FATAL(e->area->dirty && e->x && e->from);
	for (uint32_t i = 0; i < AREA_PAGES * MG_PAGE; i++)
		e->from[i] = (uint8_t)(i / MG_PAGE + i % 251);
	e->x->m = e->m;
	e->x->report = &e->report;
	CU_ASSERT_EQUAL_FATAL(svio__mg_stream_init(&e->out, e->fd[0], e->fd[0], 5000), 0);
	CU_ASSERT_EQUAL_FATAL(svio__mg_stream_init(&e->x->stream, e->fd[1], e->fd[1], 5000), 0);
	e->out.compress = packed;
	e->x->stream.place = svio__mg_place_pages;
	e->x->stream.place_ctx = e->x;
}

static void close_ends(struct ends *e)
{
	svio__mg_stream_fini(&e->out);
	svio__mg_stream_fini(&e->x->stream);
	svio_migrate_destroy(e->m);
	free(e->x);
	free(e->from);
	close(e->fd[0]);
	close(e->fd[1]);
}

static struct mg_run run(uint64_t first, uint32_t count)
{
	return (struct mg_run){ 0, svio_cpu_to_le32(count), svio_cpu_to_le64(first) };
}

/* Runs of this process's `from`, with right sums but for those of `bad`, a bit for each page of the area. It fits a socket's buffer. */
static int send_runs(struct ends *e, const struct mg_run *runs, uint32_t num, const uint64_t *bad)
{
	struct iovec piece[MG_FRAME_PAGES];
	uint32_t pages = 0;

	for (uint32_t i = 0; i < num; i++) {
		uint64_t first = svio_le64_to_cpu(runs[i].first), count = svio_le32_to_cpu(runs[i].count);

		piece[i] = (struct iovec){ e->from + first * MG_PAGE, count * MG_PAGE };
		for (uint64_t page = first; page < first + count; page++)
			e->sum[pages++] = svio_cpu_to_le32(svio_crc32c(0, e->from + page * MG_PAGE, MG_PAGE) ^
							   (bad && svio_bitmap_test(bad, page) ? 1u : 0u));
	}
	return svio__mg_tx_pages(&e->out, runs, num, e->sum, pages, piece);
}

static int take(struct ends *e)
{
	struct svio_migrate_in in;
	enum mg_frame type;
	int rc = svio__mg_rx(&e->x->stream, &type, &in);

	if (rc)
		return rc;
	CU_ASSERT(type == MG_PAGES || type == MG_ZERO);
	return type == MG_PAGES ? svio__mg_take_pages(e->x, &in) : svio__mg_take_zeroes(e->x, &in);
}

static bool arrived(const struct ends *e, uint64_t first, uint64_t count)
{
	return memcmp((uint8_t *)svio_migrate_area_base(e->area) + first * MG_PAGE, e->from + first * MG_PAGE, count * MG_PAGE) == 0;
}

/* What the target would say; it is left in in->at. */
static void round_ok(struct ends *e, struct svio_migrate_in *in)
{
	CU_ASSERT_EQUAL(svio__mg_round_ok(e->x), 0);
	CU_ASSERT_EQUAL(svio__mg_expect(&e->out, MG_ROUND_OK, in), 0);
}

static void sums(bool packed)
{
	const struct mg_run runs[] = { run(3, 4), run(100, 1), run(1000, 24) };
	uint64_t bad[SVIO_BITMAP_WORDS(AREA_PAGES)] = { 0 };
	struct svio_migrate_in in;
	struct mg_run named[4], zero;
	struct ends e;

	open_ends(&e, packed);
	/* As they were sent: nothing to say. */
	CU_ASSERT_EQUAL(send_runs(&e, runs, 3, NULL), 0);
	CU_ASSERT_EQUAL(take(&e), 0);
	CU_ASSERT(arrived(&e, 3, 4) && arrived(&e, 100, 1) && arrived(&e, 1000, 24));
	CU_ASSERT_EQUAL(e.x->pages, 29);
	CU_ASSERT_EQUAL(e.x->wrong_pages, 0);
	round_ok(&e, &in);
	CU_ASSERT_EQUAL(in.left, 0);
	/* The last of a run, a run, and two in the middle, as if written after they were summed. Twice: each counts once. */
	svio_bitmap_set(bad, 6);
	svio_bitmap_set(bad, 100);
	svio_bitmap_set_range(bad, 1010, 2);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(send_runs(&e, runs, 3, bad), 0);
		CU_ASSERT_EQUAL(take(&e), 0);
		CU_ASSERT_EQUAL(e.x->wrong_pages, 4);
	}
	round_ok(&e, &in);
	CU_ASSERT_EQUAL_FATAL(in.left, 3 * sizeof(named[0]));
	memcpy(named, in.at, in.left);
	for (int i = 0; i < 3; i++) {
		const struct mg_run want[] = { run(6, 1), run(100, 1), run(1010, 2) };

		CU_ASSERT_EQUAL(memcmp(&named[i], &want[i], sizeof(want[i])), 0);
	}
	/* What the source makes of it. */
	memset(e.area->dirty, 0, AREA_PAGES / 8);
	CU_ASSERT_EQUAL(svio__mg_again(e.x, &in), 0);
	CU_ASSERT_EQUAL(e.report.torn_pages, 4);
	CU_ASSERT_EQUAL(memcmp(e.area->dirty, bad, AREA_PAGES / 8), 0);
	/* Sent again, or zero meanwhile. */
	zero = run(90, 20);
	CU_ASSERT_EQUAL(send_runs(&e, named, 1, NULL), 0);
	CU_ASSERT_EQUAL(take(&e), 0);
	CU_ASSERT_EQUAL(e.x->wrong_pages, 3);
	CU_ASSERT_EQUAL(svio__mg_tx(&e.out, MG_ZERO, &zero, sizeof(zero), NULL, 0), 0);
	CU_ASSERT_EQUAL(take(&e), 0);
	CU_ASSERT_EQUAL(e.x->wrong_pages, 2);
	CU_ASSERT_EQUAL(send_runs(&e, runs + 2, 1, NULL), 0);
	CU_ASSERT_EQUAL(take(&e), 0);
	CU_ASSERT_EQUAL(e.x->wrong_pages, 0);
	CU_ASSERT_EQUAL(svio_bitmap_weight(e.area->dirty, AREA_PAGES), 0);
	close_ends(&e);
}

static void test_sums(void)
{
	sums(false);
	sums(true);
}

/* Every frame that is so long, and its neighbours. */
static void test_sizes(void)
{
	struct ends e;

	open_ends(&e, false);
	for (uint32_t n = 1; n <= 48; n++) {
		const struct mg_run one = run(n * 7, n), many[] = { run(700, 1), run(702, n) };

		CU_ASSERT_EQUAL(send_runs(&e, &one, 1, NULL), 0);
		CU_ASSERT_EQUAL(take(&e), 0);
		CU_ASSERT_EQUAL(send_runs(&e, many, 2, NULL), 0);
		CU_ASSERT_EQUAL(take(&e), 0);
		CU_ASSERT(arrived(&e, n * 7, n) && arrived(&e, 702, n));
	}
	CU_ASSERT_EQUAL(e.x->wrong_pages, 0);
	close_ends(&e);
}

/* With a checksum that is right: of a form that can be sent as any other, or of none. */
static int send_bad(struct ends *e, const struct mg_run *run, uint32_t runs, uint32_t pages, size_t more)
{
	const struct mg_pages_head head = { svio_cpu_to_le32(runs), svio_cpu_to_le32(pages) };
	uint8_t data[2 * (sizeof(*run) + sizeof(svio_le32) + MG_PAGE) + 1] = { 0 };
	struct iovec piece[2];

	if (runs <= 2 && pages <= 2 && !more) {
		for (uint32_t i = 0; i < runs; i++)
			piece[i] = (struct iovec){ e->from, pages * MG_PAGE / runs };
		return svio__mg_tx_pages(&e->out, run, runs, e->sum, pages, piece);
	}
	runs = SVIO_MIN(runs, 2u);
	pages = SVIO_MIN(pages, 2u);
	memcpy(data, run, runs * sizeof(*run));
	return svio__mg_tx(&e->out, MG_PAGES, &head, sizeof(head), data,
			   runs * sizeof(*run) + pages * (sizeof(svio_le32) + MG_PAGE) + more);
}

/* Nothing but a sound frame gets as far as memory. */
static void test_hostile(void)
{
	const struct {
		struct mg_run run[2];
		uint32_t runs, pages;
		size_t more; /* or, if huge, less: bytes of the frame */
	} bad[] = {
		{ { run(0, 1) }, 1, 2, 0 },				/* a page without a place */
		{ { run(0, 2) }, 1, 1, 0 },				/* a place without a page */
		{ { run(AREA_PAGES - 1, 2) }, 1, 2, 0 },		/* beyond the end */
		{ { run(UINT64_MAX, 1) }, 1, 1, 0 },
		{ { run(0, UINT32_MAX) }, 1, 1, 0 },
		{ { run(0, 1), { svio_cpu_to_le32(1), svio_cpu_to_le32(1), 0 } }, 2, 2, 0 }, /* of no area */
		{ { run(0, 0), run(0, 1) }, 2, 1, 0 },
		{ { run(0, 1) }, 0, 1, 0 },
		{ { run(0, 1) }, 1, 1, 1 },
		{ { run(0, 1) }, 1, 1, (size_t)-1 },
		{ { run(0, 1) }, UINT32_MAX, UINT32_MAX, 0 },
	};

	for (int packed = 0; packed < 2; packed++)
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(bad); i++) {
			struct ends e;

			open_ends(&e, packed);
			memset(svio_migrate_area_base(e.area), 0xa5, AREA_PAGES * MG_PAGE);
			CU_ASSERT_EQUAL(send_bad(&e, bad[i].run, bad[i].runs, bad[i].pages, bad[i].more), 0);
			CU_ASSERT_EQUAL(take(&e), -EPROTO);
			for (uint64_t at = 0; at < AREA_PAGES * MG_PAGE; at += 8)
				if (memcmp((uint8_t *)svio_migrate_area_base(e.area) + at, "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5", 8) != 0) {
					CU_FAIL("memory was written");
					break;
				}
			close_ends(&e);
		}
}

/* More than a frame has: a length that fits, and nothing is waited for. */
static void test_too_many(void)
{
	const struct {
		uint32_t runs, pages;
	} many[] = { { 1, MG_FRAME_PAGES + 1 }, { MG_FRAME_PAGES + 1, 1 }, { 2, 252 } };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(many); i++) {
		uint32_t len = (uint32_t)(8 + many[i].runs * sizeof(struct mg_run) + many[i].pages * (4 + MG_PAGE));
		const svio_le32 wire[] = { svio_cpu_to_le32(0x464d5653), svio_cpu_to_le32(MG_PAGES), 0, svio_cpu_to_le32(len),
					   svio_cpu_to_le32(len), 0, svio_cpu_to_le32(many[i].runs), svio_cpu_to_le32(many[i].pages) };
		struct ends e;

		open_ends(&e, false);
		CU_ASSERT_EQUAL(write(e.fd[0], wire, sizeof(wire)), sizeof(wire));
		CU_ASSERT_EQUAL(take(&e), -EPROTO);
		CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), " pieces"));
		close_ends(&e);
	}
}

/* Pages before anybody asked for any; a ROUND_OK of another form. */
static void test_elsewhere(void)
{
	const struct mg_run one = run(0, 1), none[] = { run(AREA_PAGES, 1), run(0, 0), { svio_cpu_to_le32(7), svio_cpu_to_le32(1), 0 } };
	struct svio_migrate_in in;
	struct ends e;

	open_ends(&e, false);
	e.x->stream.place = NULL;
	CU_ASSERT_EQUAL(send_runs(&e, &one, 1, NULL), 0);
	CU_ASSERT_EQUAL(svio__mg_expect(&e.x->stream, MG_HELLO, &in), -EPROTO);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(none); i++) {
		in = (struct svio_migrate_in){ .at = (const uint8_t *)&none[i], .left = sizeof(none[i]) };
		CU_ASSERT_EQUAL(svio__mg_again(e.x, &in), -EPROTO);
	}
	in = (struct svio_migrate_in){ .at = (const uint8_t *)&one, .left = sizeof(one) - 1 };
	CU_ASSERT_EQUAL(svio__mg_again(e.x, &in), -EPROTO);
	CU_ASSERT_EQUAL(svio_bitmap_weight(e.area->dirty, AREA_PAGES), 0);
	close_ends(&e);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a page that does not fit its sum is named, until it comes again, packed and not", test_sums },
		{ "frames of many sizes", test_sizes },
		{ "frames that lie", test_hostile },
		{ "too many in one", test_too_many },
		{ "where no pages belong", test_elsewhere },
		{ NULL, NULL },
	};

	return unit_run("migrate/pages", tests);
}
