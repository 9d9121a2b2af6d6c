/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The hand-over, under everything that can happen to it: source and target are processes, between them this test, which forwards
 * frames and spoils one; and each side, directly connected, is killed at each of its reads and writes, with pages in the stream and
 * with memory that is shared. Whatever happens, at most one side runs; one does
 * unless the source itself was killed before its last word, or nobody can know (and then the source says so).
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#define AREA_BYTES  (UINT64_C(2) << 20)
#define TIMEOUT_MS  150
#define FRAME_TYPE  4  /* offset of the type in a frame's header */
#define FRAME_LEN   12 /* of the length */
#define FRAME_HDR   24
#define CASE_LIMIT  20 /* seconds */
#define STILL	    400 /* a page that is never written to again */

enum action { NOTHING, CUT, CORRUPT, TWICE, TRUNCATE, STALL, KILL_SOURCE, KILL_TARGET, ACTIONS };
enum resolve { DIRECT, ASK, LEASE };

/* What all processes of a case see. */
struct shared {
	_Atomic int source_runs, target_runs, violations, committed, resolved;
	_Atomic int source_rc, source_done, target_done;
	_Atomic unsigned int frames; /* that passed */
	_Atomic unsigned int pages;  /* of them, with pages */
	_Atomic uint32_t io_calls;   /* of the side that counts them */
	_Atomic uint64_t shared_bytes;
	char why[256];
};
static struct shared *sh;

static char dir[64], t_path[96], p_path[96], lease_path[96];
static uint32_t kill_at; /* this process dies at so many calls; 0 never */
static bool count_io, no_share;

ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __real_writev(int fd, const struct iovec *piece, int num);
ssize_t __real_readv(int fd, const struct iovec *piece, int num);
ssize_t __wrap_readv(int fd, const struct iovec *piece, int num);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_writev(int fd, const struct iovec *piece, int num);
ssize_t __real_pread64(int fd, void *buf, size_t len, off_t at);
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t at);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);

static void count_call(void)
{
	if (!count_io)
		return;
	if (atomic_fetch_add(&sh->io_calls, 1) + 1 == kill_at)
		raise(SIGKILL);
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	count_call();
	return __real_read(fd, buf, len);
}

ssize_t __wrap_readv(int fd, const struct iovec *piece, int num)
{
	count_call();
	return __real_readv(fd, piece, num);
}

ssize_t __wrap_writev(int fd, const struct iovec *piece, int num)
{
	count_call();
	return __real_writev(fd, piece, num);
}

ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t at)
{
	count_call();
	return __real_pread64(fd, buf, len, at);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	count_call();
	return __real_sendmsg(fd, msg, flags);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	count_call();
	return __real_recvmsg(fd, msg, flags);
}

/* ---- the application: a page of numbers that depend on each other, and one of zeroes ------------------------ */

struct app {
	struct svio_migrate *m;
	uint64_t value;
	struct svio_migrate_part part;
	unsigned int rounds;
};

static void scribble(uint8_t *base, uint64_t value)
{
	for (uint64_t page = 0; page < 40; page++)
		for (uint64_t i = 0; i < MG_PAGE / 8; i++) {
			uint64_t word = page % 5 == 3 ? 0 : (value + page) * UINT64_C(0x9e3779b97f4a7c15) + i;

			memcpy(base + page * 3 * MG_PAGE + i * 8, &word, 8);
		}
}

static void scribble_once(uint8_t *base)
{
	memset(base + STILL * MG_PAGE, 0x5c, MG_PAGE);
}

static int describe(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	(void)ctx;
	(void)source;
	return svio_migrate_fact_text(mine, "application", "test", "");
}

static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct app *a = ctx;

	/* What was sent is out of date at once: the last copy must win. */
	a->value++;
	scribble(svio_migrate_area_base(svio_migrate_find_area(a->m, "a")), a->value);
	return svio_migrate_put_u64(out, a->rounds++);
}

static int load_precopy(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	(void)ctx;
	(void)version;
	svio_migrate_get_u64(in);
	return 0;
}

static int quiesce(void *ctx)
{
	(void)ctx;
	atomic_store(&sh->source_runs, 0);
	return 0;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	return svio_migrate_put_u64(out, ((struct app *)ctx)->value);
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct app *a = ctx;
	struct svio_migrate_area *area = svio_migrate_find_area(a->m, "a");
	uint64_t value = svio_migrate_get_u64(in);
	uint8_t *want = calloc(1, AREA_BYTES);
	int rc = 0;

	(void)version;
	scribble(want, value);
	scribble_once(want);
	if (!area || memcmp(want, svio_migrate_area_base(area), AREA_BYTES) != 0) {
		atomic_fetch_add(&sh->violations, 1);
		snprintf(sh->why, sizeof(sh->why), "the target's memory differs");
		rc = -EIO;
	}
	free(want);
	return rc;
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	_Atomic int *mine = side == SVIO_MIGRATE_SOURCE ? &sh->source_runs : &sh->target_runs;
	_Atomic int *theirs = side == SVIO_MIGRATE_SOURCE ? &sh->target_runs : &sh->source_runs;

	(void)ctx;
	if (atomic_fetch_add(mine, 1) || atomic_load(theirs)) {
		atomic_fetch_add(&sh->violations, 1);
		snprintf(sh->why, sizeof(sh->why), "both run");
	}
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	(void)ctx;
	if (side == SVIO_MIGRATE_SOURCE && atomic_load(&sh->source_runs))
		atomic_fetch_add(&sh->violations, 1);
}

static void app_init(struct app *a)
{
	memset(a, 0, sizeof(*a));
	a->part = (struct svio_migrate_part){ .name = "app", .version = 3, .describe = describe, .precopy = precopy,
					      .load_precopy = load_precopy, .quiesce = quiesce, .save = save, .load = load,
					      .resume = resume, .discard = discard, .ctx = a };
	if (svio_migrate_create(&a->m))
		_exit(9);
	svio_migrate_add_part(a->m, &a->part);
}

/* ---- the two processes --------------------------------------------------------------------------------------- */

static int ask_again(void *ctx, int *fd)
{
	char address[128];

	(void)ctx;
	snprintf(address, sizeof(address), "unix:%s", t_path);
	return svio_migrate_connect(address, fd);
}

static void source_main(enum resolve how, bool compress)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = TIMEOUT_MS, .compress = compress, .uncertain_ms = 3000,
					  .no_share = no_share };
	static struct svio_migrate_report report;
	struct svio_migrate_area_opts area = { .size = sizeof(area), .name = "a", .bytes = AREA_BYTES };
	struct svio_migrate_area *a;
	char address[128];
	struct app app;
	int fd, rc;

	signal(SIGPIPE, SIG_IGN);
	app_init(&app);
	if (svio_migrate_area_create(&area, &a) || svio_migrate_add_area(app.m, a))
		_exit(8);
	if (!svio_migrate_alloc(a, 4096, 4096) || !svio_migrate_alloc(a, 100, 0))
		_exit(8);
	scribble(svio_migrate_area_base(a), app.value);
	scribble_once(svio_migrate_area_base(a));
	opts.reconnect = how == ASK ? ask_again : NULL;
	opts.lease = how == LEASE ? lease_path : NULL;
	snprintf(address, sizeof(address), "unix:%s", how == DIRECT ? t_path : p_path);
	if (svio_migrate_connect(address, &fd))
		_exit(7);
	atomic_store(&sh->source_runs, 1);
	count_io = kill_at != 0;
	rc = svio_migrate_send(app.m, fd, fd, &opts, &report);
	atomic_store(&sh->shared_bytes, report.shared_bytes);
	atomic_store(&sh->source_rc, rc);
	if (rc && !sh->why[0])
		snprintf(sh->why, sizeof(sh->why), "source: %s", svio_last_error());
	atomic_store(&sh->source_done, 1);
	for (;;)
		pause();
}

static void target_main(enum resolve how)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = TIMEOUT_MS };
	char address[128];
	struct app app;
	int listen_fd, fd;

	signal(SIGPIPE, SIG_IGN);
	app_init(&app);
	snprintf(address, sizeof(address), "unix:%s", t_path);
	if (svio_migrate_listen(address, &listen_fd))
		_exit(7);
	opts.listen_fd = listen_fd;
	opts.lease = how == LEASE ? lease_path : NULL;
	fd = accept(listen_fd, NULL, NULL);
	count_io = kill_at != 0;
	(void)svio_migrate_receive(app.m, fd, fd, &opts, NULL);
	atomic_store(&sh->target_done, 1);
	count_io = false;
	close(fd);
	for (;;) {
		fd = accept(listen_fd, NULL, NULL);
		svio_migrate_answer(app.m, fd, fd);
		close(fd);
	}
}

static pid_t start(bool source, enum resolve how, bool compress, uint32_t die_at)
{
	pid_t pid = fork();

	if (pid == 0) {
		kill_at = die_at;
		if (source)
			source_main(how, compress);
		else
			target_main(how);
		_exit(0);
	}
	return pid;
}

/* ---- between them ----------------------------------------------------------------------------------------------- */

struct pipe_end {
	int from, to;
	uint8_t *buf;
	size_t len;
};

struct fault {
	enum action action;
	unsigned int frame; /* counted in both directions */
	bool pages;	    /* counts only those with pages */
};

/* A process that was waited for is 0 from then on: its number may be somebody else's. */
static void kill_now(pid_t *pid)
{
	if (!*pid)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}

static bool is_dead(pid_t *pid)
{
	if (*pid && waitpid(*pid, NULL, WNOHANG) != 0)
		*pid = 0;
	return !*pid;
}

static void write_out(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

/* One whole frame in p->buf. False: nothing passes any more. */
static bool pass_frame(struct pipe_end *p, size_t len, const struct fault *f, pid_t *source, pid_t *target)
{
	bool pages = p->buf[FRAME_TYPE] == MG_PAGES;
	unsigned int of_all = atomic_fetch_add(&sh->frames, 1) + 1, of_pages = atomic_fetch_add(&sh->pages, pages) + 1;
	bool here = f->pages ? pages && of_pages == f->frame : of_all == f->frame;

	if (p->buf[FRAME_TYPE] == MG_COMMIT && !(here && (f->action == CUT || f->action == STALL)))
		atomic_store(&sh->committed, 1);
	if (!here)
		goto pass;
	switch (f->action) {
	case CUT:
	case STALL:
		return false;
	case CORRUPT:
		p->buf[len - 1] ^= 0x10;
		break;
	case TWICE:
		write_out(p->to, p->buf, len);
		break;
	case TRUNCATE:
		write_out(p->to, p->buf, len - 1);
		return false;
	case KILL_SOURCE:
		kill_now(source);
		break;
	case KILL_TARGET:
		kill_now(target);
		break;
	default:
		break;
	}
pass:
	write_out(p->to, p->buf, len);
	return true;
}

/* What has come, frame by frame. False: end. */
static bool forward(struct pipe_end *p, const struct fault *f, pid_t *source, pid_t *target)
{
	ssize_t n = __real_read(p->from, p->buf + p->len, (2u << 20) - p->len);

	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN);
	p->len += (size_t)n;
	while (p->len >= FRAME_HDR) {
		uint32_t len;

		memcpy(&len, p->buf + FRAME_LEN, 4);
		len = le32toh(len) + FRAME_HDR;
		if (p->len < len)
			break;
		if (!pass_frame(p, len, f, source, target))
			return false;
		p->len -= len;
		memmove(p->buf, p->buf + len, p->len);
	}
	return true;
}

static int connect_to(const char *path)
{
	char address[128];
	int fd = -1;

	snprintf(address, sizeof(address), "unix:%s", path);
	for (int i = 0; i < 2000 && svio_migrate_connect(address, &fd); i++)
		usleep(1000); /* until the other process listens */
	return fd;
}

/* Forward until both ends are closed, or the source has come to an end. */
static void between(int s_fd, int t_fd, const struct fault *f, pid_t *source, pid_t *target)
{
	struct pipe_end st = { s_fd, t_fd, malloc(2u << 20), 0 }, ts = { t_fd, s_fd, malloc(2u << 20), 0 };
	uint64_t end = svio_now_ns() + CASE_LIMIT * UINT64_C(1000000000);
	bool open = true;

	while (open && svio_now_ns() < end && !atomic_load(&sh->source_done)) {
		struct pollfd p[2] = { { .fd = s_fd, .events = POLLIN }, { .fd = t_fd, .events = POLLIN } };

		poll(p, 2, 20);
		if (p[0].revents)
			open = forward(&st, f, source, target);
		if (open && p[1].revents)
			open = forward(&ts, f, source, target);
	}
	/* A stall keeps the connection open while nothing passes. */
	while (f->action == STALL && svio_now_ns() < end && !atomic_load(&sh->source_done) && !is_dead(source))
		usleep(2000);
	close(s_fd);
	close(t_fd);
	free(st.buf);
	free(ts.buf);
}

/* ---- one case ------------------------------------------------------------------------------------------------------ */

static void prepare(void)
{
	memset(sh, 0, sizeof(*sh));
	unlink(t_path);
	unlink(p_path);
	unlink(lease_path);
}

static void wait_source(pid_t *source)
{
	uint64_t end = svio_now_ns() + CASE_LIMIT * UINT64_C(1000000000);

	while (svio_now_ns() < end && !atomic_load(&sh->source_done) && !is_dead(source))
		usleep(500);
}

/* A target that has what it needs to run does so in its own time. */
static void wait_target(pid_t *target)
{
	for (int i = 0; i < 20 * TIMEOUT_MS && !atomic_load(&sh->target_done) && !is_dead(target); i++)
		usleep(1000);
}

static void complain(const char *what, const char *how, unsigned int at)
{
	char text[400];

	snprintf(text, sizeof(text), "%s (%s at %u): source %d rc %d, target %d, committed %d: %.150s", what, how, at,
		 atomic_load(&sh->source_runs), atomic_load(&sh->source_rc), atomic_load(&sh->target_runs), atomic_load(&sh->committed),
		 sh->why);
	fprintf(stderr, "%s\n", text);
	CU_FAIL(text);
}

/* Judge: `source_dead` before it could say anything. */
static void judge(enum resolve how, const char *name, unsigned int at, bool source_dead, bool target_dead)
{
	bool source = atomic_load(&sh->source_runs) && !source_dead, target = atomic_load(&sh->target_runs) && !target_dead;
	int rc = atomic_load(&sh->source_rc);

	if (atomic_load(&sh->violations))
		complain("violation", name, at);
	if (source && target)
		complain("both run", name, at);
	if (source_dead)
		return; /* before COMMIT the process is lost as it would have been; after it the target runs or was killed too */
	if (!atomic_load(&sh->source_done))
		complain("the source hangs", name, at);
	if (target_dead) {
		/* Nobody can know only if neither a lease nor the socket itself tells. */
		if (!source && !(how == ASK && rc == -EREMOTEIO) && rc != 0 && rc != -EOWNERDEAD)
			complain("nobody runs", name, at);
		if (source != (rc != 0 && rc != -EREMOTEIO && rc != -EOWNERDEAD))
			complain("the source says something else than it does", name, at);
		return;
	}
	if (!source && !target)
		complain("nobody runs", name, at);
	if (source != (rc != 0) || target != (rc == 0))
		complain("the source says something else than it does", name, at);
}

static unsigned int one_case(enum resolve how, struct fault f, const char *name, bool compress)
{
	pid_t source, target;
	int listen_fd, s_fd, t_fd;
	char address[128];

	prepare();
	snprintf(address, sizeof(address), "unix:%s", p_path);
	if (svio_migrate_listen(address, &listen_fd)) {
		CU_FAIL("cannot listen");
		return 0;
	}
	target = start(false, how, compress, 0);
	t_fd = connect_to(t_path);
	source = start(true, how, compress, 0);
	s_fd = accept(listen_fd, NULL, NULL);
	between(s_fd, t_fd, &f, &source, &target);
	close(listen_fd);
	wait_source(&source); /* also one that was to be killed at a frame that did not come this time */
	if (f.action == KILL_SOURCE || (f.action != KILL_TARGET && atomic_load(&sh->source_rc) == 0))
		wait_target(&target);
	judge(how, name, f.frame, f.action == KILL_SOURCE && f.frame <= atomic_load(&sh->frames),
	      f.action == KILL_TARGET && f.frame <= atomic_load(&sh->frames));
	kill_now(&source);
	kill_now(&target);
	return atomic_load(&sh->frames);
}

/* Killed at its n-th read or write; how many it made. */
static uint32_t one_kill(bool source_dies, uint32_t at)
{
	pid_t source, target;
	bool dead;

	prepare();
	target = start(false, DIRECT, false, source_dies ? 0 : at);
	for (int i = 0; i < 2000; i++) {
		struct stat st;

		if (stat(t_path, &st) == 0)
			break;
		usleep(1000);
	}
	usleep(2000);
	source = start(true, DIRECT, false, source_dies ? at : 0);
	wait_source(&source);
	if (source_dies || atomic_load(&sh->source_rc) == 0)
		wait_target(&target);
	dead = atomic_load(&sh->io_calls) >= at;
	judge(DIRECT, source_dies ? "source killed" : "target killed", at, source_dies && dead, !source_dies && dead);
	kill_now(&source);
	kill_now(&target);
	return atomic_load(&sh->io_calls);
}

/* ---- the tests --------------------------------------------------------------------------------------------------------- */

static const char *const names[ACTIONS] = {
	[NOTHING] = "nothing", [CUT] = "cut",	  [CORRUPT] = "corrupt",	  [TWICE] = "twice",
	[TRUNCATE] = "truncate", [STALL] = "stall", [KILL_SOURCE] = "kill source", [KILL_TARGET] = "kill target",
};

static void test_moves(void)
{
	for (int how = DIRECT + 1; how <= LEASE; how++)
		for (int compress = 0; compress < 2; compress++) {
			CU_ASSERT(one_case((enum resolve)how, (struct fault){ NOTHING, 0, false }, "nothing", compress) >= 12);
			CU_ASSERT_EQUAL(atomic_load(&sh->source_rc), 0);
			CU_ASSERT_EQUAL(atomic_load(&sh->target_runs), 1);
		}
}

/*
 * Its last byte belongs to a page that nobody writes to again: sent again it is only because the target asks for it. After the stop there
 * is nobody to be asked.
 */
static void test_damaged_page(void)
{
	unsigned int last;

	one_case(ASK, (struct fault){ NOTHING, 0, false }, "nothing", false);
	last = atomic_load(&sh->pages);
	CU_ASSERT_FATAL(last >= 2);
	for (int i = 0; i < 20 && (i == 0 || !atomic_load(&sh->target_runs)); i++)
		one_case(ASK, (struct fault){ CORRUPT, 1, true }, "a page damaged", false);
	CU_ASSERT_EQUAL(atomic_load(&sh->source_rc), 0);
	CU_ASSERT_EQUAL(atomic_load(&sh->target_runs), 1);
	for (int i = 0; i < 20 && (i == 0 || atomic_load(&sh->pages) != last); i++)
		one_case(ASK, (struct fault){ CORRUPT, last, true }, "a page damaged in the last round", false);
	CU_ASSERT_EQUAL(atomic_load(&sh->source_rc), -ECONNABORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(sh->why, "1 pages came damaged"));
	CU_ASSERT_EQUAL(atomic_load(&sh->source_runs), 1);
}

static void sweep(enum resolve how)
{
	unsigned int frames = one_case(how, (struct fault){ NOTHING, 0, false }, "nothing", false);

	CU_ASSERT_FATAL(frames >= 12 && frames < 200);
	for (int action = CUT; action < ACTIONS; action++)
		for (unsigned int at = 1; at <= frames; at++)
			one_case(how, (struct fault){ (enum action)action, at, false }, names[action], false);
}

static void test_sweep_ask(void)
{
	sweep(ASK);
}

static void test_sweep_lease(void)
{
	sweep(LEASE);
}

/* First undisturbed, which on a busy machine may take more than one attempt: TIMEOUT_MS is short. */
static void sweep_kills(bool source_dies, bool share)
{
	uint32_t calls = 0;

	no_share = !share;
	for (int i = 0; i < 20 && (i == 0 || atomic_load(&sh->source_rc)); i++)
		calls = one_kill(source_dies, UINT32_MAX);
	CU_ASSERT_EQUAL(atomic_load(&sh->source_rc), 0);
	CU_ASSERT_EQUAL(atomic_load(&sh->shared_bytes) != 0, share);
	CU_ASSERT_FATAL(calls >= 16);
	for (uint32_t at = 1; at <= calls; at++)
		one_kill(source_dies, at);
	no_share = false;
}

static void test_kill_target(void)
{
	sweep_kills(false, false);
}

static void test_kill_source(void)
{
	sweep_kills(true, false);
}

static void test_kill_target_shared(void)
{
	sweep_kills(false, true);
}

static void test_kill_source_shared(void)
{
	sweep_kills(true, true);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a move, by way of a lease and of questions, packed and not", test_moves },
		{ "a page damaged on its way: sent again while the source works, refused when it has stopped", test_damaged_page },
		{ "every frame cut, damaged, doubled, truncated, stalled; either side killed there: asking", test_sweep_ask },
		{ "the same with a lease", test_sweep_lease },
		{ "the target killed at each of its reads and writes", test_kill_target },
		{ "the source killed at each of its reads and writes", test_kill_source },
		{ "the target killed where it reads the source's memory, and around it", test_kill_target_shared },
		{ "the source killed while the target reads its memory, and around it", test_kill_source_shared },
		{ NULL, NULL },
	};
	int rc;

	signal(SIGPIPE, SIG_IGN);
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	snprintf(dir, sizeof(dir), "/tmp/svio-migrate.XXXXXX");
	if (sh == MAP_FAILED || !mkdtemp(dir))
		return 1;
	snprintf(t_path, sizeof(t_path), "%s/t", dir);
	snprintf(p_path, sizeof(p_path), "%s/p", dir);
	snprintf(lease_path, sizeof(lease_path), "%s/lease", dir);
	rc = unit_run("migrate/engine", tests);
	prepare();
	rmdir(dir);
	return rc;
}
