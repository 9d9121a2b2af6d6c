/* SPDX-License-Identifier: BSD-3-Clause */
/* `svio nvme perf` moves: the part, the control socket at the source, the listener at the target. */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_report.h"
#include "perf_ballast.h"
#include "perf_run.h"

#define AREA	    "perf"
#define DRIVER_AREA "nvme"
#define DRIVER_BYTES (UINT64_C(8) << 20) /* admin queue, rings */
#define REQUEST_BYTES UINT64_C(4096)	 /* list memory of a request */
#define FIRST_LINE_MS 2000
#define CHECK_POLL_MS 200

struct perf_move {
	struct perf_run *run;
	struct svio_migrate *m;
	struct svio_migrate_part part;
	struct svio_migrate_device *device; /* by its own state */
	struct perf_ahead ahead;	    /* target, by the driver: queue pairs that wait for their requests */
	bool told;			    /* source: what they are like */
	struct svio_migrate_part room; /* is made for it */
	struct perf_ballast *ballast;
	struct svio_migrate_report report;
	char path[CONTROL_PATH], address[256], lease[256];
	int listen_fd;	/* control */
	int session_fd; /* the target's: for a source that asks again */
	int client;	/* of the command under way, or -1 */
	bool gone, json;
	uint64_t started;
};

/* ---- the part -------------------------------------------------------------------------------------------- */

static int describe(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	const struct perf_config *c = &r->args.config;
	struct svio_nvme_needs needs = { .queues = c->queues, .depth = c->qd + 1, .max_transfer = c->bs };
	int rc = svio_migrate_fact_text(mine, "application", "svio nvme perf", "the other side is another program");

	if (rc == 0)
		rc = svio_migrate_fact_text(mine, "way", r->args.way == PERF_BY_STATE ? "state" : "driver",
					    "give both sides the same --by");
	return rc ? rc : svio_nvme_describe(r->session.nvme, &needs, &r->ns, mine, source);
}

/*
 * By the controller's own state: the driver with which the target looked at its controller lets go of it before the controller
 * becomes another one. A part that is told so, before the device's.
 */
static int tell(void *ctx, struct svio_migrate_buf *out)
{
	(void)ctx;
	return svio_migrate_put_u32(out, 0);
}

static int let_go(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;

	(void)version;
	(void)svio_migrate_get_u32(in);
	svio_nvme_close(r->session.nvme);
	r->session.nvme = NULL;
	return 0;
}

/*
 * By the driver: commands to the target's controller take longer than anything else at the end. So its queue pairs are made
 * while the source works. Empty, they touch nothing that is shared.
 */
static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct perf_move *move = ctx;
	const struct perf_config *c = &move->run->args.config;

	if (move->told || move->run->args.way == PERF_BY_STATE)
		return 0;
	svio_migrate_put_u32(out, c->queues);
	svio_migrate_put_u32(out, c->qd);
	svio_migrate_put_u32(out, c->bs);
	move->told = true;
	return svio_migrate_put_u32(out, c->interrupts);
}

static int load_precopy(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_move *move = ctx;
	struct perf_run *r = move->run;
	struct perf_config c = { 0 };
	uint32_t interrupts;
	int rc;

	(void)version;
	c.queues = svio_migrate_get_u32(in);
	c.qd = svio_migrate_get_u32(in);
	c.bs = svio_migrate_get_u32(in);
	interrupts = svio_migrate_get_u32(in);
	c.interrupts = interrupts;
	if (in->bad || move->ahead.queues || !r->session.nvme || r->args.way == PERF_BY_STATE || c.queues == 0 || c.qd == 0 || c.bs == 0 ||
	    c.queues > PERF_MAX_QUEUES || c.qd > PERF_MAX_QD || c.bs > PERF_MAX_BS || interrupts > 1)
		return svio_fail(EINVAL, "queues that make no sense");
	rc = perf_prepare(&c, r->session.dev, r->session.nvme, move->ahead.qps);
	if (rc)
		return rc;
	move->ahead.queues = c.queues;
	move->ahead.qd = c.qd;
	move->ahead.bs = c.bs;
	move->ahead.interrupts = c.interrupts;
	return 0;
}

static void cancel(void *ctx, enum svio_migrate_side side)
{
	struct perf_move *move = ctx;

	(void)side;
	while (move->ahead.queues)
		svio_nvme_qp_destroy(move->ahead.qps[--move->ahead.queues]);
	move->told = false;
}

static int quiesce(void *ctx)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	int rc = perf_freeze(r->perf);

	return rc || r->args.way == PERF_BY_STATE ? rc : svio_nvme_quiesce(r->session.nvme);
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	const struct perf_args *a = &r->args;
	struct svio_nvme_stats s;

	svio_nvme_get_stats(r->session.nvme, &s);
	svio_migrate_put_u64(out, r->ran_now);
	svio_migrate_put_u32(out, a->seconds);
	svio_migrate_put_u64(out, a->min_ios);
	svio_migrate_put_u32(out, a->policy);
	svio_migrate_put_u32(out, a->force);
	svio_migrate_put_u32(out, r->out.moves + 1);
	svio_migrate_put_u64(out, r->out.stats.resets + s.resets);
	svio_migrate_put_u64(out, r->out.stats.revocations + s.revocations);
	svio_migrate_put_u64(out, r->out.stats.requeued + s.requeued);
	svio_migrate_put_u64(out, r->out.stats.failed + s.failed);
	svio_migrate_put_u64(out, r->out.stats.aborts + s.aborts);
	svio_migrate_put_u64(out, r->out.stats.timeouts + s.timeouts);
	return perf_save(r->perf, a->way, r->session.nvme, out);
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_move *move = ctx;
	struct perf_run *r = move->run;
	struct svio_nvme_opts opts = { .size = sizeof(opts), .max_queues = r->args.config.queues + 1 };
	struct perf_place place = { .area = svio_migrate_find_area(move->m, AREA), .dev = r->session.dev, .ioas = r->session.ioas,
				    .opts = &opts, .ns = &r->ns, .ahead = &move->ahead };
	uint32_t policy;
	int rc;

	(void)version;
	r->ran_ns = svio_migrate_get_u64(in);
	r->args.seconds = svio_migrate_get_u32(in);
	r->args.min_ios = svio_migrate_get_u64(in);
	policy = svio_migrate_get_u32(in);
	r->args.force = svio_migrate_get_u32(in);
	r->out.moves = svio_migrate_get_u32(in);
	r->out.stats.resets = svio_migrate_get_u64(in);
	r->out.stats.revocations = svio_migrate_get_u64(in);
	r->out.stats.requeued = svio_migrate_get_u64(in);
	r->out.stats.failed = svio_migrate_get_u64(in);
	r->out.stats.aborts = svio_migrate_get_u64(in);
	r->out.stats.timeouts = svio_migrate_get_u64(in);
	opts.area = svio_migrate_find_area(move->m, DRIVER_AREA);
	if (!place.area || !opts.area != (r->args.way != PERF_BY_STATE) || in->bad || policy > SVIO_NVME_FAIL)
		return svio_fail(EINVAL, "a state of `svio nvme perf` without its area, or not whole");
	r->args.policy = (enum svio_nvme_policy)policy;
	opts.policy = r->args.policy;
	if (r->session.nvme)
		svio_nvme_set_policy(r->session.nvme, r->args.policy);
	rc = perf_load(&place, in, &r->session.nvme, &r->perf);
	if (rc == 0) {
		r->driver_area = opts.area;
		r->args.config = *perf_get_config(r->perf);
		r->out.lba_size = r->ns.lba_size;
		r->out.nsid = r->ns.nsid;
	}
	return rc;
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	int rc;

	if (r->args.way == PERF_BY_STATE)
		; /* its device runs again, and that is all */
	else if (side == SVIO_MIGRATE_SOURCE)
		svio_nvme_unquiesce(r->session.nvme);
	else
		perf_replay(r->perf);
	rc = perf_thaw(r->perf);
	if (rc)
		cli_error("cannot start again: %s", svio_last_error());
	r->received = side == SVIO_MIGRATE_TARGET;
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	struct perf_move *move = ctx;

	if (side == SVIO_MIGRATE_SOURCE) {
		move->gone = true;
		return;
	}
	perf_forget(move->run->perf);
	move->run->perf = NULL;
}

static int move_new(struct perf_run *r, struct perf_move **movep)
{
	struct perf_move *move = cli_alloc(sizeof(*move));
	int rc;

	move->run = r;
	move->listen_fd = move->session_fd = move->client = -1;
	move->part = (struct svio_migrate_part){ .name = "nvme perf", .version = 1, .describe = describe, .precopy = precopy,
						 .load_precopy = load_precopy, .quiesce = quiesce, .save = save, .load = load,
						 .resume = resume, .discard = discard, .cancel = cancel, .ctx = move };
	rc = svio_migrate_create(&move->m);
	if (rc == 0)
		rc = svio_migrate_add_ioas(move->m, r->session.ioas);
	if (rc == 0)
		rc = perf_ballast_new(move->m, &move->ballast);
	if (rc == 0 && r->args.way == PERF_BY_STATE)
		rc = svio_migrate_device_create(r->session.dev, "nvme device", &move->device);
	if (rc == -ENOTTY)
		rc = svio_fail(ENOTTY, "%s: the controller has no migration state of its own; another can go on with its work: --by driver",
			       r->device);
	if (rc) {
		perf_ballast_free(move->ballast);
		svio_migrate_destroy(move->m);
		free(move);
		return rc;
	}
	/* The device before its driver: see svio_migrate_device_create(). */
	if (move->device) {
		move->room = (struct svio_migrate_part){ .name = "controller", .version = 1, .precopy = tell, .load_precopy = let_go,
							 .save = tell, .load = let_go, .ctx = move };
		svio_migrate_add_part(move->m, &move->room);
		svio_migrate_add_part(move->m, svio_migrate_device_part(move->device));
	}
	svio_migrate_add_part(move->m, &move->part);
	/* A peer that has gone is an error of write(), not the end of this process. */
	signal(SIGPIPE, SIG_IGN);
	*movep = move;
	return 0;
}

void perf_move_end(struct perf_move *move)
{
	if (!move)
		return;
	if (move->listen_fd >= 0) {
		close(move->listen_fd);
		unlink(move->path);
	}
	if (move->session_fd >= 0)
		close(move->session_fd);
	perf_ballast_free(move->ballast);
	svio_migrate_destroy(move->m);
	svio_migrate_device_destroy(move->device);
	free(move);
}

/* ---- the source -------------------------------------------------------------------------------------------- */

static int open_control(struct perf_move *move, const char *path)
{
	int rc;

	if (path && strlen(path) >= sizeof(move->path))
		return svio_fail(ENAMETOOLONG, "%s: too long for a socket", path);
	if (path)
		snprintf(move->path, sizeof(move->path), "%s", path);
	rc = path ? 0 : control_path((long)getpid(), true, move->path);
	if (rc == 0)
		rc = control_listen(move->path, &move->listen_fd);
	if (rc == 0)
		fprintf(stderr, "svio: can be moved: svio migrate send --pid %ld (%s)\n", (long)getpid(), move->path);
	return rc;
}

int perf_move_driver_area(struct perf_run *r)
{
	const struct perf_config *c = &r->args.config;
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = DRIVER_AREA, .base = SVIO_MIGRATE_ADDRESS + (UINT64_C(1) << 40) };

	if (r->args.way != PERF_BY_STATE)
		return 0;
	opts.bytes = DRIVER_BYTES + 2 * (uint64_t)c->qd * c->queues * REQUEST_BYTES;
	return svio_migrate_area_create(&opts, &r->driver_area);
}

int perf_move_start(struct perf_run *r, struct perf_move **movep)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = AREA };
	struct svio_migrate_area *area;
	struct perf_move *move;
	int rc;

#ifdef __SANITIZE_THREAD__ /* its shadow memory is where ours would be: cmd_nvme_session.c */
	opts.base = UINT64_C(320) << 30;
#endif
	rc = move_new(r, &move);
	if (rc)
		return rc;
	opts.bytes = perf_area_bytes(&r->args.config, &r->ns);
	rc = r->driver_area ? svio_migrate_add_area(move->m, r->driver_area) : 0;
	if (rc == 0)
		rc = svio_migrate_area_create(&opts, &area);
	if (rc == 0)
		rc = svio_migrate_add_area(move->m, area);
	if (rc == 0 && r->args.ballast)
		rc = perf_ballast_create(move->ballast, r->args.ballast, r->args.ballast_percent);
	if (rc == 0)
		rc = open_control(move, r->args.control);
	if (rc) {
		perf_move_end(move);
		return rc;
	}
	r->args.config.area = area;
	*movep = move;
	return 0;
}

/* Tell whoever asked; if he has gone, that is no reason to stop. */
static void progress(void *ctx, const struct svio_migrate_report *report)
{
	struct perf_move *move = ctx;
	struct json_object *obj, *line;

	if (move->client < 0)
		return;
	line = json_object_new_object();
	obj = migrate_report_json(report, true, NULL);
	json_object_object_add(line, "progress", obj);
	if (control_send(move->client, line, NULL, 0)) {
		close(move->client);
		move->client = -1;
	}
	json_object_put(line);
}

/* Unplugged, or the host wants it back. While the engine is at work, and before anything came, nobody else looks. */
static bool device_lost(const struct perf_move *move)
{
	const struct svio_device *dev = move->run->session.dev;

	return dev && (svio_device_events(dev) & (SVIO_EV_REQ | SVIO_EV_GONE));
}

static int device_lost_error(const struct perf_move *move)
{
	return svio_fail(ENODEV, "%s: the device goes (unplugged, or the host wants it back)", move->run->device);
}

static bool stop(void *ctx)
{
	return cli_interrupted() || device_lost(ctx);
}

/* A device that goes when it has been stopped is needed no more. */
static bool stop_sending(void *ctx)
{
	const struct perf_move *move = ctx;

	return cli_interrupted() || (move->report.phase < SVIO_MIGRATE_STOPPED && device_lost(move));
}

static int reconnect(void *ctx, int *fd)
{
	const struct perf_move *move = ctx;

	return move->address[0] ? svio_migrate_connect(move->address, fd) : svio_fail(ENOTCONN, "no address to ask at");
}

static void send_away(struct perf_move *move, struct json_object *cmd, int in, int out, bool check_only)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .progress = progress, .stop = stop_sending, .ctx = move, .listen_fd = -1 };
	struct json_object *answer;
	const char *lease = control_text(cmd, "lease");
	int rc;

	opts.max_downtime_ms = (uint32_t)control_u64(cmd, "max_downtime_ms", 0);
	opts.max_rounds = (uint32_t)control_u64(cmd, "max_rounds", 0);
	opts.io_timeout_ms = (uint32_t)control_u64(cmd, "timeout_ms", 0);
	opts.uncertain_ms = (uint32_t)control_u64(cmd, "uncertain_ms", 0);
	opts.max_bandwidth = control_u64(cmd, "max_bandwidth", 0);
	opts.compress = control_bool(cmd, "compress");
	opts.throttle = control_bool(cmd, "throttle");
	opts.check_only = check_only;
	opts.reconnect = move->address[0] ? reconnect : NULL;
	if (lease) {
		snprintf(move->lease, sizeof(move->lease), "%s", lease);
		opts.lease = move->lease;
	}
	svio_clear_error();
	rc = svio_migrate_send(move->m, in, out, &opts, &move->report);
	if (rc == -ECANCELED && device_lost(move))
		rc = device_lost_error(move);
	if (rc == -EREMOTEIO)
		cli_error("%s; stopped until somebody decides", svio_last_error());
	answer = migrate_report_json(&move->report, rc == 0, rc ? svio_last_error() : NULL);
	if (move->client >= 0)
		control_send(move->client, answer, NULL, 0);
	json_object_put(answer);
}

static void refuse(int client, const char *why)
{
	struct json_object *obj = json_object_new_object();

	cli_json_bool(obj, "ok", false);
	cli_json_str(obj, "error", why);
	control_send(client, obj, NULL, 0);
	json_object_put(obj);
}

static void command(struct perf_move *move, struct json_object *cmd, int *fds, unsigned int nfds)
{
	const char *what = control_text(cmd, "command"), *address = control_text(cmd, "address");
	bool check = what && strcmp(what, "check") == 0;
	int fd = -1, rc;

	if (what && strcmp(what, "finish") == 0) {
		struct json_object *obj = json_object_new_object();

		move->run->finish = true;
		cli_json_bool(obj, "ok", true);
		control_send(move->client, obj, NULL, 0);
		json_object_put(obj);
		return;
	}
	if (!what || (!check && strcmp(what, "send") != 0)) {
		refuse(move->client, "no such command");
		return;
	}
	move->address[0] = '\0';
	if (nfds == 2) {
		send_away(move, cmd, fds[0], fds[1], check);
		return;
	}
	if (!address || strlen(address) >= sizeof(move->address)) {
		refuse(move->client, "where to?");
		return;
	}
	rc = svio_migrate_connect(address, &fd);
	if (rc) {
		refuse(move->client, svio_last_error());
		return;
	}
	snprintf(move->address, sizeof(move->address), "%s", address);
	send_away(move, cmd, fd, fd, check);
	close(fd);
}

/* One that comes while nothing is under way. */
static void serve_client(struct perf_move *move)
{
	struct control_in *in = cli_alloc(sizeof(*in));
	struct json_object *cmd = NULL;
	int fds[2] = { -1, -1 };
	unsigned int nfds = 2;

	if (control_receive(move->client, in, FIRST_LINE_MS, &cmd, fds, &nfds))
		refuse(move->client, svio_last_error());
	else
		command(move, cmd, fds, nfds);
	for (unsigned int i = 0; i < nfds; i++)
		close(fds[i]);
	json_object_put(cmd);
	free(in);
}

void perf_move_poll(struct perf_move *move)
{
	int fd;

	if (move->session_fd >= 0) {
		fd = accept4(move->session_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			svio_migrate_answer(move->m, fd, fd);
			close(fd);
		}
	}
	if (move->listen_fd < 0)
		return;
	move->client = accept4(move->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (move->client < 0)
		return;
	serve_client(move);
	if (move->client >= 0)
		close(move->client);
	move->client = -1;
}

bool perf_move_gone(const struct perf_move *move)
{
	return move->gone;
}

void perf_move_check(const struct perf_move *move, struct perf_ballast_result *result)
{
	perf_ballast_check(move->ballast, result);
}

int perf_move_report(const struct perf_move *move)
{
	struct json_object *obj = migrate_report_json(&move->report, true, NULL);

	cli_json_bool(obj, "moved", true);
	cli_json_str(obj, "to", move->address[0] ? move->address : NULL);
	if (move->run->args.common.json)
		return cli_json_print(obj);
	printf("moved%s%s\n", move->address[0] ? " to " : "", move->address);
	migrate_report_text(obj, stdout);
	json_object_put(obj);
	return CLI_OK;
}

/* ---- the target ------------------------------------------------------------------------------------------------ */

static int wait_connection(const struct perf_move *move, int listen_fd)
{
	struct pollfd p = { .fd = listen_fd, .events = POLLIN };

	while (!cli_interrupted() && !device_lost(move))
		if (poll(&p, 1, CHECK_POLL_MS) > 0) {
			int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0)
				return fd;
		}
	return cli_interrupted() ? svio_fail(EINTR, "interrupted") : device_lost_error(move);
}

/* Sessions until one is ours. 0, or an exit code through *rc. */
static bool receive_one(struct perf_move *move, const struct perf_listen *args, int listen_fd, int *exit_code)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .io_timeout_ms = args->timeout_ms, .max_bytes = args->max_bytes,
					  .lease = args->lease, .listen_fd = listen_fd, .stop = stop, .ctx = move };
	int in = STDIN_FILENO, out = STDOUT_FILENO, rc;

	for (;;) {
		if (listen_fd >= 0) {
			in = out = wait_connection(move, listen_fd);
			if (in < 0) {
				*exit_code = cli_fail(in);
				return false;
			}
		}
		svio_clear_error();
		rc = svio_migrate_receive(move->m, in, out, &opts, &move->report);
		if (listen_fd >= 0)
			close(in);
		if (rc == 0)
			return true;
		if (rc == -ECANCELED && move->report.phase == SVIO_MIGRATE_NEGOTIATING && !cli_interrupted()) {
			if (listen_fd < 0)
				return false;
			continue;
		}
		*exit_code = cli_fail(rc);
		/* One that was made room for is not there to be described again. */
		if (listen_fd < 0 || !move->run->session.nvme || args->once || cli_interrupted())
			return false;
	}
}

int perf_move_listen(const struct perf_listen *args)
{
	struct perf_run *r = cli_alloc(sizeof(*r));
	bool stdio = strcmp(args->address, "stdio") == 0;
	int rc, listen_fd = -1, exit_code = CLI_OK;

	cli_catch_signals();
	r->args.device = args->device;
	r->args.common.json = args->json;
	r->args.migratable = true;
	r->args.replug_timeout = 60;
	r->args.config.queues = 63; /* so many are asked for: more than a run will have */
	r->args.force = true;	    /* whether to write was decided at the source */
	r->args.way = args->by_state ? PERF_BY_STATE : PERF_BY_DRIVER;
	snprintf(r->device, sizeof(r->device), "%s", args->device);
	rc = nvme_mem_start(UINT64_C(32) << 20, 0);
	if (rc) {
		free(r);
		return cli_fail(rc);
	}
	svio_clear_error();
	rc = perf_run_open(r);
	if (rc == 0)
		rc = move_new(r, &r->move);
	if (rc == 0 && !stdio)
		rc = svio_migrate_listen(args->address, &listen_fd);
	if (rc) {
		r->out.error = rc;
		return perf_run_end(r);
	}
	fprintf(stderr, "svio: listening at %s for a process to take over on %s\n", args->address, r->device);
	if (!receive_one(r->move, args, listen_fd, &exit_code)) {
		if (listen_fd >= 0)
			close(listen_fd);
		if (!stdio && strncmp(args->address, "unix:", 5) == 0)
			unlink(args->address + 5);
		perf_move_end(r->move);
		nvme_session_close(&r->session);
		nvme_mem_stop();
		free(r);
		return exit_code;
	}
	if (listen_fd >= 0)
		fcntl(listen_fd, F_SETFL, O_NONBLOCK);
	r->move->session_fd = listen_fd;
	if (stdio) /* was the stream */
		dup2(STDERR_FILENO, STDOUT_FILENO);
	fprintf(stderr, "svio: took over: process %ld on %s\n", (long)getpid(), r->device);
	rc = open_control(r->move, args->control);
	if (rc)
		cli_error("it cannot move on from here: %s", svio_last_error());
	exit_code = perf_run_received(r);
	if (!stdio && strncmp(args->address, "unix:", 5) == 0)
		unlink(args->address + 5);
	return exit_code;
}
