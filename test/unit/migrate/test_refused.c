/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Moves that are refused, given up or stopped: the target has no memory, no addresses, or cannot load; the pre-copy does not converge,
 * unless the source is slowed down; the user has enough. The source works on, says why, and moves another time. What is written
 * between two rounds is exactly so much (precopy() writes it), so nothing here depends on the machine's speed but in one direction.
 */
#include <malloc.h>
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

#define AREA_BYTES (UINT64_C(8) << 20)
#define NEVER	   UINT32_MAX

struct app {
	struct svio_migrate *m;
	struct svio_migrate_part part;
	uint64_t pages;	     /* written in each round, when nobody slows it down */
	unsigned int percent, most; /* throttled */
	unsigned int quiesced, resumed, discarded, cancelled, saved;
	uint32_t rounds, stop_at;
	int load_rc;
	bool running;
};

static struct svio_migrate_area *area_of(const struct app *a)
{
	return svio_migrate_find_area(a->m, "a");
}

/* The same pages in every round, with other numbers. */
static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct app *a = ctx;
	uint8_t *base = svio_migrate_area_base(area_of(a));

	(void)out;
	a->rounds++;
	for (uint64_t i = 0; i < a->pages * (100 - a->percent) / 100; i++)
		memcpy(base + i * MG_PAGE, &a->rounds, sizeof(a->rounds));
	return 0;
}

static int quiesce(void *ctx)
{
	struct app *a = ctx;

	a->quiesced++;
	a->running = false;
	return 0;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	struct app *a = ctx;

	a->saved++;
	return svio_migrate_put_u32(out, a->rounds);
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct app *a = ctx;
	uint32_t rounds = svio_migrate_get_u32(in), last;

	(void)version;
	if (a->load_rc)
		return svio_fail(-a->load_rc, "out of memory for what the state describes: allow more");
	memcpy(&last, svio_migrate_area_base(area_of(a)), sizeof(last));
	return last == rounds ? 0 : svio_fail(EIO, "the memory is of round %u, the state of %u", last, rounds);
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct app *a = ctx;

	(void)side;
	a->resumed++;
	a->running = true;
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	(void)side;
	((struct app *)ctx)->discarded++;
}

static void cancel(void *ctx, enum svio_migrate_side side)
{
	(void)side;
	((struct app *)ctx)->cancelled++;
}

static void throttle(void *ctx, unsigned int percent)
{
	struct app *a = ctx;

	a->percent = percent;
	a->most = SVIO_MAX(a->most, percent);
}

static void app_init(struct app *a, bool source)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = "a", .bytes = AREA_BYTES };
	struct svio_migrate_area *area;

	memset(a, 0, sizeof(*a));
	a->part = (struct svio_migrate_part){ .name = "app", .version = 1, .precopy = precopy, .quiesce = quiesce, .save = save, .load = load,
					      .resume = resume, .discard = discard, .cancel = cancel, .throttle = throttle, .ctx = a };
	a->running = source;
	a->stop_at = NEVER;
	if (svio_migrate_create(&a->m))
		abort();
	svio_migrate_add_part(a->m, &a->part);
	if (source && (svio_migrate_area_create(&opts, &area) || svio_migrate_add_area(a->m, area)))
		abort();
	/* No page of zeroes alone: those cost nothing. */
	for (uint64_t off = 8; source && off < AREA_BYTES; off += MG_PAGE)
		memcpy((uint8_t *)svio_migrate_area_base(area) + off, &off, sizeof(off));
}

/* ---- the target's troubles --------------------------------------------------------------------------------- */

enum trouble { NONE, TAKEN, TAKEN_LATE, SMALL, LIMITED, TIGHT, NO_LOAD };

/* In the middle of it: the record was compared, and fitted. */
static int take_addresses(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	(void)ctx;
	(void)mine;
	(void)source;
	return mmap((void *)(uintptr_t)(SVIO_MIGRATE_ADDRESS + MG_HUGE), 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		    0) == MAP_FAILED ? svio_fail(errno, "mmap: %m") : 0;
}

/* The exit code: 0 it runs, 1 it does not and left nothing behind. */
static void target_main(int fd, enum trouble trouble)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = 20000 };
	unsigned long pages = 0;
	struct rlimit lim;
	struct app a;
	FILE *f;
	int rc, fds;

	app_init(&a, false);
	if (trouble == TAKEN && take_addresses(NULL, NULL, NULL))
		_exit(3);
	if (trouble == TAKEN_LATE)
		a.part.describe = take_addresses;
	if (trouble == SMALL)
		opts.max_bytes = AREA_BYTES / 2;
	if (trouble == NO_LOAD)
		a.load_rc = -ENOMEM;
	malloc_trim(0);
	f = fopen("/proc/self/statm", "re");
	if (!f || fscanf(f, "%lu", &pages) != 1)
		_exit(4);
	fclose(f);
	lim.rlim_cur = lim.rlim_max = pages * MG_PAGE + AREA_BYTES - MG_HUGE;
	if (trouble == TIGHT) /* not even for frames */
		lim.rlim_cur = lim.rlim_max = pages * MG_PAGE + MG_PAYLOAD_MAX / 2;
	if ((trouble == LIMITED || trouble == TIGHT) && setrlimit(RLIMIT_AS, &lim))
		_exit(5);
	fds = unit_count_fds();
	rc = svio_migrate_receive(a.m, fd, fd, &opts, NULL);
	if (rc == 0)
		_exit(a.running ? 0 : 6);
	if (svio_migrate_find_area(a.m, "a") || !svio__mg_is_free(SVIO_MIGRATE_ADDRESS, MG_HUGE) || a.running || a.resumed || a.saved)
		_exit(7);
	_exit(unit_count_fds() == fds ? 1 : 8);
}

/* One move of `a`, with a new target. */
static int move(struct app *a, enum trouble trouble, struct svio_migrate_opts *opts, struct svio_migrate_report *report, int *status)
{
	int fd[2], rc;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		abort();
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		/* Another process starts without the source's memory. */
		svio__mg_drop_areas(a->m);
		close(fd[0]);
		target_main(fd[1], trouble);
	}
	close(fd[1]);
	opts->size = sizeof(*opts);
	opts->io_timeout_ms = 20000;
	rc = svio_migrate_send(a->m, fd[0], fd[0], opts, report);
	close(fd[0]);
	waitpid(pid, status, 0);
	*status = WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
	return rc;
}

static void must_move(struct app *a)
{
	struct svio_migrate_opts opts = { 0 };
	struct svio_migrate_report report;
	int status;

	a->pages = 10;
	opts.max_downtime_ms = 20000;
	CU_ASSERT_EQUAL(move(a, NONE, &opts, &report, &status), 0);
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_EQUAL(report.phase, SVIO_MIGRATE_DONE);
	CU_ASSERT_FALSE(a->running);
	CU_ASSERT_EQUAL(a->discarded, 1);
}

static void test_troubles(void)
{
	static const struct {
		enum trouble trouble;
		int rc;
		const char *says[2];
		const char *field;
		unsigned int quiesced;
	} cases[] = {
		{ TAKEN, -EPERM, { "area.a", "anew" }, "area.a", 0 },
		{ TAKEN_LATE, -ECONNABORTED, { "something else is mapped", "anew" }, NULL, 0 },
		{ SMALL, -EPERM, { "memory: 8388608 here, 4194304 there", "--max-memory" }, "memory", 0 },
		{ LIMITED, -EPERM, { "memory: 8388608 here", "ulimit" }, "memory", 0 },
#ifndef __SANITIZE_ADDRESS__ /* whose malloc() does not fail, but end the process */
		{ TIGHT, -ECONNRESET, { "connection", "" }, NULL, 0 },
#endif
		{ NO_LOAD, -ECONNABORTED, { "out of memory for what the state describes", "allow more" }, NULL, 1 },
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		struct svio_migrate_opts opts = { .max_downtime_ms = 20000 };
		struct svio_migrate_report report;
		struct app a;
		int status;

		app_init(&a, true);
		a.pages = 10;
		CU_ASSERT_EQUAL(move(&a, cases[i].trouble, &opts, &report, &status), cases[i].rc);
		if (status != 1 || !strstr(svio_last_error(), cases[i].says[0]) || !strstr(svio_last_error(), cases[i].says[1])) {
			fprintf(stderr, "case %zu: exit code %d: %s\n", i, status, svio_last_error());
			CU_FAIL("not what should be said, or something is left");
		}
		CU_ASSERT_EQUAL(report.phase, SVIO_MIGRATE_FAILED);
		CU_ASSERT_EQUAL(report.differences, cases[i].field ? 1 : 0);
		if (cases[i].field)
			CU_ASSERT_STRING_EQUAL(report.difference[0].name, cases[i].field);
		CU_ASSERT_TRUE(a.running);
		CU_ASSERT_EQUAL(a.quiesced, cases[i].quiesced);
		CU_ASSERT_EQUAL(a.resumed, cases[i].quiesced);
		CU_ASSERT_EQUAL(a.discarded, 0);
		CU_ASSERT_EQUAL(a.cancelled, 1);
		must_move(&a);
		svio_migrate_destroy(a.m);
	}
}

/* Asked beforehand, the same answers, and nothing but answers. */
static void test_check(void)
{
	struct svio_migrate_opts opts = { .check_only = true };
	struct svio_migrate_report report;
	struct app a;
	int status;

	app_init(&a, true);
	CU_ASSERT_EQUAL(move(&a, NONE, &opts, &report, &status), 0);
	CU_ASSERT_EQUAL(report.differences, 0);
	CU_ASSERT_EQUAL(move(&a, SMALL, &opts, &report, &status), -EPERM);
	CU_ASSERT_STRING_EQUAL(report.difference[0].name, "memory");
	CU_ASSERT_EQUAL(move(&a, TAKEN, &opts, &report, &status), -EPERM);
	CU_ASSERT_STRING_EQUAL(report.difference[0].name, "area.a");
	CU_ASSERT_EQUAL(a.rounds + a.quiesced + a.discarded, 0);
	CU_ASSERT_TRUE(a.running);
	must_move(&a);
	svio_migrate_destroy(a.m);
}

/* ---- convergence ---------------------------------------------------------------------------------------------- */

/* 1000 pages a round at 40 MB/s or less take 100 ms or more; 60 are allowed. */
static struct svio_migrate_opts narrow(bool throttled)
{
	return (struct svio_migrate_opts){ .max_downtime_ms = 60, .max_bandwidth = 40000000, .throttle = throttled };
}

static void test_never(void)
{
	struct svio_migrate_opts opts = narrow(false);
	struct svio_migrate_report report;
	const char *why;
	struct app a;
	int status;

	app_init(&a, true);
	a.pages = 1000;
	CU_ASSERT_EQUAL(move(&a, NONE, &opts, &report, &status), -ETIME);
	why = svio_last_error();
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "does not converge"));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "4000 KiB are left"));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "more than the 60 ms allowed"));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "MiB/s get across"));
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "throttling"));
	CU_ASSERT_EQUAL(status, 1);
	CU_ASSERT_EQUAL(report.phase, SVIO_MIGRATE_FAILED);
	CU_ASSERT_EQUAL(report.round[report.rounds - 1].dirty_pages, 1000);
	CU_ASSERT_TRUE(report.round[report.rounds - 1].expected_ns > UINT64_C(60000000));
	CU_ASSERT_EQUAL(report.throttle, 0);
	CU_ASSERT_EQUAL(report.downtime_ns, 0);
	CU_ASSERT_TRUE(a.running);
	CU_ASSERT_EQUAL(a.quiesced + a.most, 0);
	CU_ASSERT_EQUAL(a.cancelled, 1);
	must_move(&a);
	svio_migrate_destroy(a.m);
}

static void test_throttled(void)
{
	struct svio_migrate_opts opts = narrow(true);
	struct svio_migrate_report report;
	struct app a;
	int status;

	app_init(&a, true);
	a.pages = 1000;
	CU_ASSERT_EQUAL(move(&a, NONE, &opts, &report, &status), 0);
	CU_ASSERT_EQUAL(status, 0);
	/* More than was needed on a machine of any speed is 95; less than 40 % cannot be. */
	CU_ASSERT_TRUE(a.most >= 40 && a.most <= 95);
	CU_ASSERT_EQUAL(report.throttle, a.most);
	CU_ASSERT_EQUAL(a.percent, 0); /* and at full speed again before it stopped */
	CU_ASSERT_EQUAL(report.round[report.rounds - 2].dirty_pages, 1000 * (100 - a.most) / 100);
	CU_ASSERT_TRUE(report.round[report.rounds - 2].expected_ns <= UINT64_C(60000000));
	svio_migrate_destroy(a.m);
}

/* Nor does throttling help when the last of it is too much: then as before, at full speed. */
static void test_hopeless(void)
{
	struct svio_migrate_opts opts = { .max_downtime_ms = 1, .max_bandwidth = 40000000, .throttle = true, .max_rounds = 20 };
	struct svio_migrate_report report;
	struct app a;
	int status;

	app_init(&a, true);
	a.pages = 1000; /* 50 are left, 5 ms */
	CU_ASSERT_EQUAL(move(&a, NONE, &opts, &report, &status), -ETIME);
	CU_ASSERT_EQUAL(a.most, 95);
	CU_ASSERT_EQUAL(report.throttle, 95);
	CU_ASSERT_EQUAL(a.percent, 0);
	CU_ASSERT_TRUE(a.running);
	CU_ASSERT_EQUAL(a.quiesced, 0);
	must_move(&a);
	svio_migrate_destroy(a.m);
}

/* ---- the user has enough ------------------------------------------------------------------------------------------ */

static bool stop(void *ctx)
{
	const struct app *a = ctx;

	return a->rounds >= a->stop_at || (a->stop_at == 1000 && a->saved);
}

static void test_stopped(void)
{
	/* Before the first round; after some; when everything was saved (1000). */
	static const uint32_t when[] = { 0, 2, 1000 };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(when); i++) {
		struct svio_migrate_opts opts = narrow(false);
		struct svio_migrate_report report;
		struct app a;
		int status;

		app_init(&a, true);
		a.pages = when[i] == 1000 ? 10 : 1000;
		a.stop_at = when[i];
		opts.stop = stop;
		opts.ctx = &a;
		CU_ASSERT_EQUAL(move(&a, NONE, &opts, &report, &status), -ECANCELED);
		CU_ASSERT_EQUAL(status, 1);
		CU_ASSERT_TRUE(a.running);
		CU_ASSERT_EQUAL(a.quiesced, when[i] == 1000);
		CU_ASSERT_EQUAL(a.resumed, when[i] == 1000);
		CU_ASSERT_EQUAL(a.discarded, 0);
		CU_ASSERT_EQUAL(report.phase, SVIO_MIGRATE_FAILED);
		must_move(&a);
		svio_migrate_destroy(a.m);
	}
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a target without addresses, memory, or that cannot load", test_troubles },
		{ "the same, asked beforehand", test_check },
		{ "what does not converge is given up, with the rates", test_never },
		{ "the same, slowed down, moves", test_throttled },
		{ "too much even when slowed down", test_hopeless },
		{ "the user stops it at each stage", test_stopped },
		{ NULL, NULL },
	};

	/* What is large is mapped, and not kept when it is freed: limits are about all of it. */
	mallopt(M_MMAP_THRESHOLD, 64 << 10);
	signal(SIGPIPE, SIG_IGN);
	return unit_run("migrate/refused", tests);
}
