/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pages that the target reads from the source's memory: when, what arrives, and what becomes of descriptors that are not what they
 * should be. Source and target are processes, directly connected; test_engine.c kills them.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#define AREA_BYTES (UINT64_C(32) << 20) /* more than two frames name */
#define AREAS	   3u

static const char *const names[AREAS] = { "a", "b", "c" };
static char path[64];

struct app {
	struct svio_migrate *m;
	struct svio_migrate_part part;
	uint32_t rounds;
};

/* Every third page is zero, and every page says where it belongs. */
static uint64_t word(uint32_t area, uint64_t page, uint32_t round)
{
	return page % 3 == 1 ? 0 : (area + 1) * UINT64_C(0x9e3779b97f4a7c15) + page * 1000 + (page % 7 == 0 ? round : 0);
}

static void fill(const struct app *a)
{
	for (uint32_t n = 0; n < AREAS; n++) {
		uint8_t *base = svio_migrate_area_base(svio_migrate_find_area(a->m, names[n]));

		for (uint64_t page = 0; page < AREA_BYTES / MG_PAGE; page++) {
			uint64_t w = word(n, page, a->rounds);

			memcpy(base + page * MG_PAGE + page % 511 * 8, &w, sizeof(w));
		}
	}
}

static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct app *a = ctx;

	(void)out;
	a->rounds++;
	fill(a);
	return 0;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	return svio_migrate_put_u32(out, ((struct app *)ctx)->rounds);
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct app *a = ctx;

	(void)version;
	a->rounds = svio_migrate_get_u32(in);
	for (uint32_t n = 0; n < AREAS; n++) {
		const uint8_t *base = svio_migrate_area_base(svio_migrate_find_area(a->m, names[n]));

		for (uint64_t page = 0; page < AREA_BYTES / MG_PAGE; page++) {
			uint64_t w;

			memcpy(&w, base + page * MG_PAGE + page % 511 * 8, sizeof(w));
			if (w != word(n, page, a->rounds))
				return svio_fail(EIO, "area %u, page %u is not what it should be", n, (unsigned int)page);
		}
	}
	return 0;
}

static void app_init(struct app *a)
{
	memset(a, 0, sizeof(*a));
	a->part = (struct svio_migrate_part){ .name = "app", .version = 1, .precopy = precopy, .save = save, .load = load, .ctx = a };
	if (svio_migrate_create(&a->m))
		_exit(9);
	svio_migrate_add_part(a->m, &a->part);
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* A limit that leaves so many. */
static rlim_t limit_of(unsigned int left)
{
	int fd = 0;

	for (; left; fd++)
		left -= fcntl(fd, F_GETFD) < 0;
	return (rlim_t)fd;
}

/* Listens, and says so by a byte; 0: it was all right. It gets `nofile` more descriptors, 0: any number. */
static int target_main(int ready, unsigned int nofile)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts) };
	static struct svio_migrate_report report;
	unsigned int before;
	char address[96];
	struct app app;
	int listen_fd, fd, rc;

	app_init(&app);
	snprintf(address, sizeof(address), "unix:%s", path);
	if (svio_migrate_listen(address, &listen_fd) || write(ready, "r", 1) != 1)
		return 8;
	fd = accept(listen_fd, NULL, NULL);
	if (nofile) {
		struct rlimit lim = { limit_of(nofile), limit_of(nofile) };

		if (setrlimit(RLIMIT_NOFILE, &lim))
			return 7;
	}
	before = open_fds();
	rc = svio_migrate_receive(app.m, fd, fd, &opts, &report);
	if (rc)
		fprintf(stderr, "target: %s\n", svio_last_error());
	svio_migrate_destroy(app.m);
	return rc ? 6 : open_fds() != before ? 5 : 0;
}

static void move(bool no_share, unsigned int nofile, struct svio_migrate_report *report)
{
	/* Much is written in each round, and it says nothing about this how long a machine takes for it. */
	struct svio_migrate_opts opts = { .size = sizeof(opts), .no_share = no_share, .max_downtime_ms = 3600000 };
	unsigned int before;
	int pipes[2], status, fd, rc;
	char address[96], byte;
	struct app app;
	pid_t pid;

	unlink(path);
	CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
	pid = fork();
	if (pid == 0)
		_exit(target_main(pipes[1], nofile));
	CU_ASSERT_EQUAL_FATAL(read(pipes[0], &byte, 1), 1);
	app_init(&app);
	for (uint32_t n = 0; n < AREAS; n++) {
		struct svio_migrate_area_opts area = { .size = sizeof(area), .name = names[n], .bytes = AREA_BYTES,
						       .base = SVIO_MIGRATE_ADDRESS + n * UINT64_C(0x100000000) };
		struct svio_migrate_area *a;

		CU_ASSERT_EQUAL_FATAL(svio_migrate_area_create(&area, &a), 0);
		CU_ASSERT_EQUAL_FATAL(svio_migrate_add_area(app.m, a), 0);
	}
	fill(&app);
	snprintf(address, sizeof(address), "unix:%s", path);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_connect(address, &fd), 0);
	before = open_fds();
	rc = svio_migrate_send(app.m, fd, fd, &opts, report);
	if (rc)
		fprintf(stderr, "source: %s\n", svio_last_error());
	CU_ASSERT_EQUAL(rc, 0);
	CU_ASSERT_EQUAL(open_fds(), before);
	close(fd);
	waitpid(pid, &status, 0);
	CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	svio_migrate_destroy(app.m);
	close(pipes[0]);
	close(pipes[1]);
}

static struct svio_migrate_report report;

static void test_shared(void)
{
	move(false, 0, &report);
	/* All that is not zero, in every round, and next to nothing in the stream. */
	CU_ASSERT_EQUAL(report.shared_bytes, (report.pages - report.zero_pages) * MG_PAGE);
	CU_ASSERT(report.shared_bytes >= AREAS * AREA_BYTES / 3 * 2);
	CU_ASSERT(report.wire_bytes < AREAS * AREA_BYTES / 16);
	CU_ASSERT(report.rounds >= 2);
}

static void test_stream(void)
{
	move(true, 0, &report);
	CU_ASSERT_EQUAL(report.shared_bytes, 0);
	CU_ASSERT(report.wire_bytes >= AREAS * AREA_BYTES / 3 * 2);
}

/* Room for the areas and two of the three descriptors. */
static void test_declined(void)
{
	move(false, AREAS + AREAS - 1, &report);
	CU_ASSERT_EQUAL(report.shared_bytes, 0);
	CU_ASSERT(report.wire_bytes >= AREAS * AREA_BYTES / 3 * 2);
}

static void test_fits(void)
{
	int fd = memfd_create("t", MFD_CLOEXEC | MFD_ALLOW_SEALING), pipes[2];
	char file[] = "/tmp/svio-share.XXXXXX";

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, 8192), 0);
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 8192)); /* it could shrink */
	CU_ASSERT_EQUAL_FATAL(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 8192));
	CU_ASSERT_EQUAL_FATAL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	CU_ASSERT_TRUE(svio__mg_share_fits(fd, 8192));
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 4096));
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 12288));
	close(fd);
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 8192));
	CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
	CU_ASSERT_FALSE(svio__mg_share_fits(pipes[0], 0)); /* reading it would wait */
	close(pipes[0]);
	close(pipes[1]);
	fd = mkstemp(file);
	unlink(file);
	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, 8192), 0);
	CU_ASSERT_FALSE(svio__mg_share_fits(fd, 8192)); /* no seals */
	close(fd);
}

/* A target is told of one area, and gets so many descriptors, or frames that belong elsewhere. */
struct hostile {
	uint32_t areas;
	int fds;
	bool right, twice, unasked, beyond;
	int want; /* of the target */
};

static int victim(int fd)
{
	struct mg_stream *s;
	struct svio_migrate *m;
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = 5000 };
	struct svio_migrate_area_opts area = { .size = sizeof(area), .name = "a", .bytes = MG_HUGE };
	struct mg_move *x = calloc(1, sizeof(*x));
	struct svio_migrate_area *a;
	struct svio_migrate_in in;
	unsigned int before;
	enum mg_frame type;
	int rc;

	if (!x || svio_migrate_create(&m) || svio_migrate_area_create(&area, &a) || svio_migrate_add_area(m, a) ||
	    svio__mg_move_init(x, m, fd, fd, &opts, &report))
		return 250;
	before = open_fds();
	s = &x->stream;
	do {
		rc = svio__mg_rx(s, &type, &in);
		if (rc == 0)
			rc = type == MG_SHARE ? svio__mg_share_take(x, &in) : type == MG_HERE ? svio__mg_share_read(x, &in) : -EBADMSG;
	} while (rc == 0);
	svio__mg_move_fini(x);
	return open_fds() == before ? -rc : 251;
}

static void be_hostile(int fd, const struct hostile *h)
{
	int fds[4] = { -1, -1, -1, -1 };
	svio_le32 count = svio_cpu_to_le32(h->areas);
	struct mg_run run = { 0, svio_cpu_to_le32(h->beyond ? 513 : 512), 0 };
	struct svio_migrate_in in;
	struct mg_stream s;

	CU_ASSERT_EQUAL_FATAL(svio__mg_stream_init(&s, fd, fd, 5000), 0);
	for (int i = 0; i < h->fds; i++) {
		fds[i] = memfd_create("h", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		CU_ASSERT_EQUAL_FATAL(ftruncate(fds[i], (off_t)MG_HUGE), 0);
		if (h->right)
			CU_ASSERT_EQUAL_FATAL(fcntl(fds[i], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	}
	for (int i = 0; i < (h->unasked ? 0 : h->twice ? 2 : 1); i++) {
		CU_ASSERT_EQUAL(svio__mg_tx(&s, MG_SHARE, &count, sizeof(count), NULL, 0), 0);
		CU_ASSERT_EQUAL(h->fds ? svio__mg_tx_fds(&s, fds, h->fds) : (int)(write(fd, "", 1) - 1), 0);
		if (i == 0)
			CU_ASSERT_EQUAL(svio__mg_expect(&s, MG_SHARE_OK, &in), 0);
	}
	CU_ASSERT_EQUAL(svio__mg_tx(&s, MG_HERE, &run, sizeof(run), NULL, 0), 0);
	svio__mg_stream_fini(&s);
	for (int i = 0; i < h->fds; i++)
		close(fds[i]);
}

static void test_hostile(void)
{
	static const struct hostile cases[] = {
		{ .areas = 1, .fds = 1, .right = true, .want = ECONNRESET }, /* a good one: until the end of the stream */
		{ .areas = 1, .fds = 1, .right = true, .beyond = true, .want = EPROTO },
		{ .areas = 1, .fds = 1, .right = true, .twice = true, .want = EPROTO },
		{ .areas = 1, .fds = 1, .right = false, .want = EPROTO }, /* declined, and then used */
		{ .areas = 1, .fds = 0, .want = EPROTO },
		{ .areas = 2, .fds = 2, .right = true, .want = EPROTO },
		{ .areas = 1, .fds = 3, .right = true, .want = EPROTO },
		{ .areas = 0, .fds = 0, .want = EPROTO },
		{ .unasked = true, .want = EPROTO },
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		int pair[2], status;
		pid_t pid;

		CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		pid = fork();
		if (pid == 0) {
			close(pair[0]);
			_exit(victim(pair[1]));
		}
		close(pair[1]);
		be_hostile(pair[0], &cases[i]);
		close(pair[0]);
		waitpid(pid, &status, 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != cases[i].want) {
			fprintf(stderr, "case %zu: status %d\n", i, status);
			CU_FAIL("another end");
		}
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "directly connected: the target reads the pages itself", test_shared },
		{ "the same by the stream", test_stream },
		{ "a target that is short of descriptors declines, and gets them by the stream", test_declined },
		{ "what a descriptor must be", test_fits },
		{ "descriptors that are missing, too many, of another kind, unasked for", test_hostile },
		{ NULL, NULL },
	};
	int rc;

	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof(path), "/tmp/svio-share.%ld", (long)getpid());
	rc = unit_run("migrate/share", tests);
	unlink(path);
	return rc;
}
