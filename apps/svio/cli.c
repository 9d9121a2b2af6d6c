/* SPDX-License-Identifier: BSD-3-Clause */
/* Finding and running commands, options, errors, signals and progress. */
#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli.h"

/* ---- commands -------------------------------------------------------------------------------------- */

static void print_help(FILE *out, const char *prefix, const char *about,
		       const struct cli_command *table)
{
	fprintf(out, "Usage: %s COMMAND [OPTION...]\n%s\n\nCommands:\n", prefix, about);
	if (!table->name)
		fputs("  (this build has none)\n", out);
	for (; table->name; table++)
		fprintf(out, "  %-10s %s\n", table->name, table->help);
	fprintf(out,
		"\n'%s COMMAND --help' explains one of them. 'svio --version' prints the version.\n",
		prefix);
}

static const struct cli_command *find_command(const struct cli_command *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

/* Levenshtein distance, of words so short that one row of the matrix fits. */
#define WORD_MAX 31
static size_t distance(const char *a, const char *b)
{
	size_t row[WORD_MAX + 1], la = strlen(a), lb = strlen(b);

	if (la > WORD_MAX || lb > WORD_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = SVIO_MIN(SVIO_MIN(row[j], row[j - 1]) + 1, change);
		}
	}
	return row[lb];
}

static int unknown_command(const char *prefix, const struct cli_command *table, const char *name)
{
	const char *nearest = NULL;
	size_t best = 3; /* further away than two letters is no typing error */

	for (; table->name; table++) {
		size_t d = distance(name, table->name);

		if (d < best) {
			best = d;
			nearest = table->name;
		}
	}
	if (nearest)
		cli_error("'%s %s' is no command; did you mean '%s %s'?", prefix, name, prefix,
			  nearest);
	else
		cli_error("'%s %s' is no command; run: %s help", prefix, name, prefix);
	return CLI_USAGE;
}

static int run_command(const char *prefix, const struct cli_command *cmd, int argc, char **argv)
{
	static char full[128];
	char name[sizeof(full)];

	/*
	 * argp takes the name in its messages from argv[0]: static, since argv outlives this call. A nested table's prefix is
	 * the name that its parent made here, so it is put together elsewhere first.
	 */
	snprintf(name, sizeof(name), "%s %s", prefix, cmd->name);
	memcpy(full, name, sizeof(full));
	argv[0] = full;
	return cmd->run(argc, argv);
}

int cli_dispatch(const char *prefix, const char *about, const struct cli_command *table, int argc,
		 char **argv)
{
	const struct cli_command *cmd;
	const char *name = argc > 1 ? argv[1] : NULL;
	char help_option[] = "--help";
	char *help_argv[] = { NULL, help_option, NULL };

	if (!name) {
		print_help(stderr, prefix, about, table);
		return CLI_USAGE;
	}
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		printf("svio %s\n", svio_version());
		return CLI_OK;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
	    (strcmp(name, "help") == 0 && argc == 2)) {
		print_help(stdout, prefix, about, table);
		return CLI_OK;
	}
	if (strcmp(name, "help") == 0) {
		cmd = find_command(table, argv[2]);
		if (!cmd)
			return unknown_command(prefix, table, argv[2]);
		/* "help nvme read" asks the inner table. */
		if (argc > 3) {
			argv[2] = argv[1];
			return run_command(prefix, cmd, argc - 1, argv + 1);
		}
		return run_command(prefix, cmd, 2, help_argv);
	}
	if (name[0] == '-') {
		cli_error("unknown option '%s'; run: %s help", name, prefix);
		return CLI_USAGE;
	}
	cmd = find_command(table, name);
	if (!cmd)
		return unknown_command(prefix, table, name);
	return run_command(prefix, cmd, argc - 1, argv + 1);
}

/* ---- options --------------------------------------------------------------------------------------- */

static const struct argp_option common_options[] = {
	{ "json", 'j', NULL, 0, "Report as one JSON document", -1 },
	{ "verbose", 'v', NULL, 0, "Log what the library does to standard error", -1 },
	{ 0 },
};

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
	struct cli_common *common = state->input;

	(void)arg;
	switch (key) {
	case 'j':
		common->json = true;
		return 0;
	case 'v':
		svio_log_set(SVIO_LOG_DEBUG, NULL, NULL);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cli_common_argp = { .options = common_options, .parser = parse_common };

static error_t parse_device(int key, char *arg, struct argp_state *state)
{
	struct cli_device *device = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &device->common;
		return 0;
	case ARGP_KEY_ARG:
		if (device->name)
			argp_error(state, "one device at a time");
		device->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!device->name)
			argp_error(state, "which device? 'svio list' shows them");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child device_children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
const struct argp cli_device_argp = { .parser = parse_device, .children = device_children };

void cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
	/* argp exits by itself on --help (0) and on wrong usage (argp_err_exit_status). */
	error_t rc = argp_parse(argp, argc, argv, 0, NULL, input);

	if (rc) {
		cli_fail(-rc);
		exit(rc == EINVAL ? CLI_USAGE : CLI_FAILED);
	}
}

/* ---- errors ---------------------------------------------------------------------------------------- */

int cli_error(const char *fmt, ...)
{
	va_list ap;

	fputs("svio: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return CLI_FAILED;
}

int cli_fail(int err)
{
	const char *why = svio_last_error();

	return cli_error("%s", why[0] ? why : strerror(err < 0 ? -err : err));
}

void *cli_alloc(size_t size)
{
	void *ptr = calloc(1, size);

	if (!ptr) {
		cli_error("out of memory");
		exit(CLI_FAILED);
	}
	return ptr;
}

/* ---- signals and progress -------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

void cli_catch_signals(void)
{
	/* No SA_RESTART: whoever sleeps in a system call shall look at the flag. */
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

bool cli_interrupted(void)
{
	return interrupted;
}

static bool progress_shown;

void cli_progress(const char *fmt, ...)
{
	va_list ap;

	if (!isatty(STDERR_FILENO))
		return;
	fputs("\r\033[K", stderr); /* ECMA-48 EL: erase to the end of the line */
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fflush(stderr);
	progress_shown = true;
}

void cli_progress_end(void)
{
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = false;
}
