/* SPDX-License-Identifier: BSD-3-Clause */
/* svio migrate: listen, send, check. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd_nvme.h"
#include "dsa_move.h"
#include "migrate_report.h"
#include "perf_move.h"

/* ---- listen ------------------------------------------------------------------------------------------ */

enum {
	KEY_DEVICE = 256,
	KEY_ADDR,
	KEY_LEASE,
	KEY_MAX_BYTES,
	KEY_TIMEOUT,
	KEY_ONCE,
	KEY_CONTROL,
	KEY_PID,
	KEY_DOWNTIME,
	KEY_BANDWIDTH,
	KEY_ROUNDS,
	KEY_COMPRESS,
	KEY_THROTTLE,
	KEY_NO_SHARE,
	KEY_UNCERTAIN,
	KEY_SVG,
	KEY_BY,
};

struct listen_args {
	struct cli_common common;
	struct move_listen listen;
};

static const struct argp_option listen_options[] = {
	{ "device", KEY_DEVICE, "DEVICE", 0, "The device to go on with; an NVMe controller must reach the same namespace", 0 },
	{ "addr", KEY_ADDR, "ADDRESS", 0, "unix:PATH, tcp:HOST:PORT or stdio (a pipe: ssh)", 0 },
	{ "lease", KEY_LEASE, "FILE", 0, "A file that both sides can lock, which says who runs", 0 },
	{ "control", KEY_CONTROL, "PATH", 0, "Control socket of the process once it runs here", 0 },
	{ "max-memory", KEY_MAX_BYTES, "SIZE", 0, "Take no more than this (all that is available)", 0 },
	{ "timeout", KEY_TIMEOUT, "MS", 0, "The source is silent for so long: lost (10000)", 0 },
	{ "by", KEY_BY, "WAY", 0, "How the device's side moves, as at the source: 'driver' (default) or 'state'", 0 },
	{ "once", KEY_ONCE, NULL, 0, "End after a session that failed", 0 },
	{ 0 },
};

static error_t parse_listen(int key, char *arg, struct argp_state *state)
{
	struct listen_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->common;
		return 0;
	case KEY_DEVICE:
		a->listen.device = arg;
		return 0;
	case KEY_ADDR:
		a->listen.address = arg;
		return 0;
	case KEY_LEASE:
		a->listen.lease = arg;
		return 0;
	case KEY_CONTROL:
		a->listen.control = arg;
		return 0;
	case KEY_MAX_BYTES:
		a->listen.max_bytes = nvme_arg_size(state, "--max-memory", arg, 1, UINT64_MAX);
		return 0;
	case KEY_TIMEOUT:
		a->listen.timeout_ms = (uint32_t)nvme_arg_u64(state, "--timeout", arg, 1, 86400000);
		return 0;
	case KEY_BY:
		if (strcmp(arg, "driver") != 0 && strcmp(arg, "state") != 0)
			argp_error(state, "--by %s: must be driver or state", arg);
		a->listen.by_state = strcmp(arg, "state") == 0;
		return 0;
	case KEY_ONCE:
		a->listen.once = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: unexpected", arg);
		return 0;
	case ARGP_KEY_END:
		if (!a->listen.device || !a->listen.address)
			argp_error(state, "--device and --addr are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };

static int cmd_listen(int argc, char **argv)
{
	static const struct argp argp = {
		.options = listen_options, .parser = parse_listen, .args_doc = "", .children = children,
		.doc = "Wait for a process that moves here, and be it.\v"
		       "The process goes on with its work, at the same addresses, on DEVICE; its report is printed here when it ends. "
		       "Whoever can reach ADDRESS can make this process take over: a unix socket (mode 0600), or ssh:\n\n"
		       "  svio migrate send --pid PID --addr stdio  with both ends of: ssh HOST svio migrate listen --addr stdio ...",
	};
	struct listen_args a = { 0 };

	cli_parse(&argp, argc, argv, &a);
	a.listen.json = a.common.json;
	return dsa_move_is_dsa(a.listen.device) ? dsa_move_listen(&a.listen) : perf_move_listen(&a.listen);
}

/* ---- send and check -------------------------------------------------------------------------------------- */

#define MAX_TARGETS 32

struct send_args {
	struct cli_common common;
	const char *address, *control, *lease, *svg;
	long pid;
	uint64_t downtime, bandwidth, rounds, timeout, uncertain;
	bool compress, throttle, no_share;
	const char *target[MAX_TARGETS]; /* check */
	unsigned int targets;
};

static const struct argp_option send_options[] = {
	{ "pid", KEY_PID, "PID", 0, "The process to move", 1 },
	{ "control", KEY_CONTROL, "PATH", 0, "… by its control socket", 1 },
	{ "addr", KEY_ADDR, "ADDRESS", 0, "Where svio migrate listen is: unix:PATH, tcp:HOST:PORT, or stdio", 1 },
	{ "lease", KEY_LEASE, "FILE", 0, "A file that both sides can lock, which says who runs", 1 },
	{ "max-downtime", KEY_DOWNTIME, "MS", 0, "Stop the process when the rest takes no longer (300)", 2 },
	{ "max-bandwidth", KEY_BANDWIDTH, "SIZE", 0, "Bytes per second of the pre-copy (no limit)", 2 },
	{ "max-rounds", KEY_ROUNDS, "N", 0, "Give up when it has not converged by then (30)", 2 },
	{ "throttle", KEY_THROTTLE, NULL, 0, "Slow the process down when it does not converge", 2 },
	{ "compress", KEY_COMPRESS, NULL, 0, "zstd", 2 },
	{ "no-share", KEY_NO_SHARE, NULL, 0, "Send pages through the connection also on one machine, where the target could read them", 2 },
	{ "timeout", KEY_TIMEOUT, "MS", 0, "The target is silent for so long: lost (10000)", 2 },
	{ "uncertain", KEY_UNCERTAIN, "MS", 0, "Ask for so long who runs, if the connection is lost in the hand-over (for ever)", 2 },
	{ "svg", KEY_SVG, "FILE", 0, "Draw the rounds", 3 },
	{ 0 },
};

static error_t parse_send(int key, char *arg, struct argp_state *state)
{
	struct send_args *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->common;
		return 0;
	case KEY_PID:
		a->pid = (long)nvme_arg_u64(state, "--pid", arg, 1, INT32_MAX);
		return 0;
	case KEY_CONTROL:
		a->control = arg;
		return 0;
	case KEY_ADDR:
		a->address = arg;
		return 0;
	case KEY_LEASE:
		a->lease = arg;
		return 0;
	case KEY_DOWNTIME:
		a->downtime = nvme_arg_u64(state, "--max-downtime", arg, 1, 3600000);
		return 0;
	case KEY_BANDWIDTH:
		a->bandwidth = nvme_arg_size(state, "--max-bandwidth", arg, 1, UINT64_MAX);
		return 0;
	case KEY_ROUNDS:
		a->rounds = nvme_arg_u64(state, "--max-rounds", arg, 1, SVIO_MIGRATE_MAX_ROUNDS - 2);
		return 0;
	case KEY_TIMEOUT:
		a->timeout = nvme_arg_u64(state, "--timeout", arg, 1, 86400000);
		return 0;
	case KEY_UNCERTAIN:
		a->uncertain = nvme_arg_u64(state, "--uncertain", arg, 1, 86400000);
		return 0;
	case KEY_COMPRESS:
		a->compress = true;
		return 0;
	case KEY_THROTTLE:
		a->throttle = true;
		return 0;
	case KEY_NO_SHARE:
		a->no_share = true;
		return 0;
	case KEY_SVG:
		a->svg = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "%s: unexpected", arg);
		return 0;
	case ARGP_KEY_END:
		if (!a->pid == !a->control)
			argp_error(state, "which process? --pid or --control");
		if (!a->address)
			argp_error(state, "where to? --addr");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

#define CANCEL_MS 60000 /* to hear how it ended */

static void show_progress(struct json_object *progress)
{
	char text[160];

	migrate_progress_text(progress, text, sizeof(text));
	if (isatty(STDERR_FILENO))
		cli_progress("%s", text);
	else
		fprintf(stderr, "svio: %s\n", text);
}

/* The next line. Ctrl-C cancels the move, of which the process then tells; a second one ends this command alone. */
static int next_line(int fd, struct control_in *in, bool *cancelled, struct json_object **line)
{
	struct json_object *cancel;
	int rc = -ECANCELED;

	if (*cancelled || !cli_interrupted())
		rc = control_receive(fd, in, *cancelled ? CANCEL_MS : 0, line, NULL, NULL);
	if (rc != -ECANCELED)
		return rc;
	cli_progress_end();
	fprintf(stderr, "svio: interrupted: asking the process to stay\n");
	cancel = json_object_new_object();
	cli_json_str(cancel, "command", "cancel");
	rc = control_send(fd, cancel, NULL, 0);
	json_object_put(cancel);
	*cancelled = true;
	return rc ? rc : control_receive(fd, in, CANCEL_MS, line, NULL, NULL);
}

/* The command goes out, progress comes in, and at last the report. NULL: said why. */
static struct json_object *ask(const struct send_args *a, const char *what, const char *address)
{
	struct control_in *in = cli_alloc(sizeof(*in));
	struct json_object *cmd = json_object_new_object(), *line = NULL, *inner;
	int fds[2] = { STDIN_FILENO, STDOUT_FILENO }, fd = -1, rc;
	bool stdio = strcmp(address, "stdio") == 0, cancelled = false;
	char path[CONTROL_PATH];

	cli_json_str(cmd, "command", what);
	cli_json_str(cmd, "address", address);
	if (a->lease)
		cli_json_str(cmd, "lease", a->lease);
	cli_json_u64(cmd, "max_downtime_ms", a->downtime);
	cli_json_u64(cmd, "max_bandwidth", a->bandwidth);
	cli_json_u64(cmd, "max_rounds", a->rounds);
	cli_json_u64(cmd, "timeout_ms", a->timeout);
	cli_json_u64(cmd, "uncertain_ms", a->uncertain);
	cli_json_bool(cmd, "compress", a->compress);
	cli_json_bool(cmd, "throttle", a->throttle);
	cli_json_bool(cmd, "no_share", a->no_share);
	rc = a->control ? 0 : control_path(a->pid, false, path);
	if (rc == 0)
		rc = control_connect(a->control ? a->control : path, &fd);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		rc = svio_fail(-rc, "%s: no process listens there; is it started with --migratable, by this user?",
			       a->control ? a->control : path);
	if (rc == 0)
		rc = control_send(fd, cmd, fds, stdio ? 2 : 0);
	while (rc == 0) {
		rc = next_line(fd, in, &cancelled, &line);
		if (rc || !json_object_object_get_ex(line, "progress", &inner))
			break;
		show_progress(inner);
		json_object_put(line);
		line = NULL;
	}
	cli_progress_end();
	if (rc == -ECONNRESET)
		rc = svio_fail(ECONNRESET, "the process ended in the middle of it");
	if (rc)
		cli_fail(rc);
	if (fd >= 0)
		close(fd);
	json_object_put(cmd);
	free(in);
	return line;
}

static int cmd_send(int argc, char **argv)
{
	static const struct argp argp = {
		.options = send_options, .parser = parse_send, .args_doc = "", .children = children,
		.doc = "Move a process that was started with --migratable.\v"
		       "It works on while its memory is copied, stops for some milliseconds, and goes on there. If anything fails before the "
		       "target has confirmed, it goes on here.",
	};
	struct send_args a = { 0 };
	struct json_object *report;
	const char *why;
	FILE *out;
	int rc = CLI_OK;

	cli_parse(&argp, argc, argv, &a);
	cli_catch_signals();
	report = ask(&a, "send", a.address);
	if (!report)
		return CLI_FAILED;
	/* With stdio, standard output is the stream. */
	out = strcmp(a.address, "stdio") == 0 ? stderr : stdout;
	why = control_text(report, "error");
	if (!control_bool(report, "ok"))
		rc = cli_error("not moved: %s", why ? why : "?");
	if (a.svg && migrate_report_svg(report, a.svg))
		rc = CLI_FAILED;
	if (a.common.json) {
		fprintf(out, "%s\n", json_object_to_json_string_ext(report, JSON_C_TO_STRING_PRETTY));
	} else {
		if (rc == CLI_OK)
			fprintf(out, "moved to %s\n", a.address);
		migrate_report_text(report, out);
	}
	json_object_put(report);
	return rc;
}

static error_t parse_check(int key, char *arg, struct argp_state *state)
{
	struct send_args *a = state->input;
	uint64_t pid;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->common;
		return 0;
	case KEY_TIMEOUT:
		a->timeout = nvme_arg_u64(state, "--timeout", arg, 1, 86400000);
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0 && strchr(arg, '/'))
			a->control = arg;
		else if (state->arg_num == 0 && svio_parse_u64(arg, INT32_MAX, &pid) == 0 && pid)
			a->pid = (long)pid;
		else if (state->arg_num == 0)
			argp_error(state, "%s: must be a process id or the path of a control socket", arg);
		else if (a->targets == MAX_TARGETS)
			argp_error(state, "at most %d targets", MAX_TARGETS);
		else
			a->target[a->targets++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->targets)
			argp_error(state, "SOURCE and at least one TARGET");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int cmd_check(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "timeout", KEY_TIMEOUT, "MS", 0, "A target is silent for so long: it does not fit (10000)", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = options, .parser = parse_check, .args_doc = "SOURCE TARGET...", .children = children,
		.doc = "Could the process SOURCE (its id, or the path of its control socket) move to TARGET (unix:PATH or tcp:HOST:PORT)?\v"
		       "Nothing is moved. Each field that does not fit is named, with both values and what would help. The exit code is 0 if "
		       "every target fits.",
	};
	struct json_object *all = json_object_new_array();
	struct send_args a = { 0 };
	int rc = CLI_OK;

	cli_parse(&argp, argc, argv, &a);
	cli_catch_signals();
	for (unsigned int i = 0; i < a.targets; i++) {
		struct json_object *report = ask(&a, "check", a.target[i]);
		const char *why = report ? control_text(report, "error") : NULL;
		bool ok = report && control_bool(report, "ok");

		if (!ok)
			rc = CLI_FAILED;
		if (!a.common.json) {
			printf("%s: %s%s\n", a.target[i], ok ? "fits" : "does not fit: ", ok ? "" : why ? why : "no answer");
			if (report)
				migrate_report_text(report, stdout);
		}
		if (!report) { /* said why on stderr */
			report = json_object_new_object();
			cli_json_bool(report, "ok", false);
			cli_json_str(report, "error", "no answer");
		}
		cli_json_str(report, "target", a.target[i]);
		json_object_array_add(all, report);
	}
	if (a.common.json)
		return cli_json_print(all) ? CLI_FAILED : rc;
	json_object_put(all);
	return rc;
}

static const struct cli_command commands[] = {
	{ "listen", "wait for a process to move here, and go on as it", cmd_listen },
	{ "send", "move a process that was started with --migratable", cmd_send },
	{ "check", "would it fit there? moves nothing", cmd_check },
	{ NULL, NULL, NULL },
};

int cmd_migrate(int argc, char **argv)
{
	return cli_dispatch("svio migrate", "Move a running process to another process, controller or machine.", commands, argc, argv);
}
