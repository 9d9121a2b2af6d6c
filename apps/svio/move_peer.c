/* SPDX-License-Identifier: BSD-3-Clause */
/* What processes that move have in common: the control socket at the source, the listener at the target. */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "migrate_report.h"
#include "move_peer.h"

#define FIRST_LINE_MS 2000
#define CHECK_POLL_MS 200
#define CANCEL_MS     100

int move_peer_init(struct move_peer *move, const char *name, struct svio_device **dev)
{
	*move = (struct move_peer){ .name = name, .dev = dev, .listen_fd = -1, .session_fd = -1, .client = -1 };
	/* A peer that has gone is an error of write(), not the end of this process. */
	signal(SIGPIPE, SIG_IGN);
	(void)svio_cycles_hz(); /* the first call takes 10 ms, which would count on both sides while nobody runs */
	return svio_migrate_create(&move->m);
}

int move_peer_device(const struct move_peer *move, const char *part, struct svio_migrate_device **devp)
{
	int rc = svio_migrate_device_create(*move->dev, part, devp);

	if (rc == -ENOTTY)
		rc = svio_fail(ENOTTY, "%s: the device has no migration state of its own; another can go on with its work: --by driver",
			       move->name);
	return rc;
}

void move_peer_end(struct move_peer *move)
{
	if (move->listen_fd >= 0) {
		close(move->listen_fd);
		unlink(move->path);
	}
	if (move->session_fd >= 0)
		close(move->session_fd);
	svio_migrate_destroy(move->m);
	move->m = NULL;
}

/* ---- the source -------------------------------------------------------------------------------------------- */

int move_peer_control(struct move_peer *move, const char *path)
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

/* Tell whoever asked; if he has gone, that is no reason to stop. */
static void progress(void *ctx, const struct svio_migrate_report *report)
{
	struct move_peer *move = ctx;
	struct json_object *obj, *line;

	if (move->round && report->phase == SVIO_MIGRATE_PRECOPY && report->rounds)
		move->round(move->ctx, report->rounds);
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
static bool device_lost(const struct move_peer *move)
{
	const struct svio_device *dev = *move->dev;

	return dev && (svio_device_events(dev) & (SVIO_EV_REQ | SVIO_EV_GONE));
}

static int device_lost_error(const struct move_peer *move)
{
	return svio_fail(ENODEV, "%s: the device goes (unplugged, or the host wants it back)", move->name);
}

static bool stop(void *ctx)
{
	return cli_interrupted() || device_lost(ctx);
}

/*
 * A device that goes when it has been stopped is needed no more. Whoever asked for it may think better of it; if he has just gone, that is
 * no reason to stop.
 */
static bool stop_sending(void *ctx)
{
	struct move_peer *move = ctx;
	struct pollfd p = { .fd = move->client, .events = POLLIN };
	struct json_object *cmd = NULL;
	const char *what;
	int rc;

	if (cli_interrupted() || move->cancelled || (move->report.phase < SVIO_MIGRATE_STOPPED && device_lost(move)))
		return true;
	if (move->client < 0 || poll(&p, 1, 0) <= 0)
		return false;
	rc = control_receive(move->client, move->in, CANCEL_MS, &cmd, NULL, NULL);
	what = rc ? NULL : control_text(cmd, "command");
	move->cancelled = what && strcmp(what, "cancel") == 0;
	json_object_put(cmd);
	if (rc && rc != -ETIMEDOUT) {
		close(move->client);
		move->client = -1;
	}
	return move->cancelled;
}

static int reconnect(void *ctx, int *fd)
{
	const struct move_peer *move = ctx;

	return move->address[0] ? svio_migrate_connect(move->address, fd) : svio_fail(ENOTCONN, "no address to ask at");
}

static void send_away(struct move_peer *move, struct json_object *cmd, int in, int out, bool check_only)
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
	opts.no_share = control_bool(cmd, "no_share");
	opts.check_only = check_only;
	opts.reconnect = move->address[0] ? reconnect : NULL;
	if (lease) {
		snprintf(move->lease, sizeof(move->lease), "%s", lease);
		opts.lease = move->lease;
	}
	move->cancelled = false;
	if (move->round && !check_only)
		move->round(move->ctx, 0);
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

static void command(struct move_peer *move, struct json_object *cmd, int *fds, unsigned int nfds)
{
	const char *what = control_text(cmd, "command"), *address = control_text(cmd, "address");
	bool check = what && strcmp(what, "check") == 0;
	int fd = -1, rc;

	if (what && strcmp(what, "finish") == 0) {
		struct json_object *obj = json_object_new_object();

		move->finish = true;
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
static void serve_client(struct move_peer *move)
{
	struct json_object *cmd = NULL;
	int fds[2] = { -1, -1 };
	unsigned int nfds = 2;

	move->in = cli_alloc(sizeof(*move->in));
	if (control_receive(move->client, move->in, FIRST_LINE_MS, &cmd, fds, &nfds))
		refuse(move->client, svio_last_error());
	else
		command(move, cmd, fds, nfds);
	for (unsigned int i = 0; i < nfds; i++)
		close(fds[i]);
	json_object_put(cmd);
	free(move->in);
	move->in = NULL;
}

void move_peer_poll(struct move_peer *move)
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

int move_peer_report(const struct move_peer *move, bool json)
{
	struct json_object *obj = migrate_report_json(&move->report, true, NULL);

	cli_json_bool(obj, "moved", true);
	cli_json_str(obj, "to", move->address[0] ? move->address : NULL);
	if (json)
		return cli_json_print(obj);
	printf("moved%s%s\n", move->address[0] ? " to " : "", move->address);
	migrate_report_text(obj, stdout);
	json_object_put(obj);
	return CLI_OK;
}

/* ---- the target ------------------------------------------------------------------------------------------------ */

static int wait_connection(const struct move_peer *move, int listen_fd)
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
static bool receive_one(struct move_peer *move, const struct move_listen *args, bool (*again)(void *ctx), void *ctx, int listen_fd,
			int *exit_code)
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
		if (listen_fd < 0 || !again(ctx) || args->once || cli_interrupted())
			return false;
	}
}

bool move_peer_listen(struct move_peer *move, const struct move_listen *args, const char *device, bool (*again)(void *ctx), void *ctx,
		      int *exit_code)
{
	bool stdio = strcmp(args->address, "stdio") == 0;
	int listen_fd = -1, rc;

	rc = stdio ? 0 : svio_migrate_listen(args->address, &listen_fd);
	if (rc) {
		*exit_code = cli_fail(rc);
		return false;
	}
	fprintf(stderr, "svio: listening at %s for a process to take over on %s\n", args->address, device);
	if (!receive_one(move, args, again, ctx, listen_fd, exit_code)) {
		if (listen_fd >= 0)
			close(listen_fd);
		move_peer_unlisten(args);
		return false;
	}
	if (listen_fd >= 0)
		fcntl(listen_fd, F_SETFL, O_NONBLOCK);
	move->session_fd = listen_fd;
	if (stdio) /* was the stream */
		dup2(STDERR_FILENO, STDOUT_FILENO);
	fprintf(stderr, "svio: took over: process %ld on %s\n", (long)getpid(), device);
	if (move_peer_control(move, args->control))
		cli_error("it cannot move on from here: %s", svio_last_error());
	return true;
}

void move_peer_unlisten(const struct move_listen *args)
{
	if (strncmp(args->address, "unix:", 5) == 0)
		unlink(args->address + 5);
}
