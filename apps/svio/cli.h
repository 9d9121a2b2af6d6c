/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the subcommands of `svio` share.
 *
 * A subcommand is one function run(argc, argv) in a file cmd_<name>.c; argv[0] is "svio <name>", so that usage
 * messages read right. It parses its options with cli_parse() (argp), works, and returns an exit code.
 *
 * Conventions, which every subcommand keeps:
 *
 * - --json on everything that reports: one JSON document on stdout and nothing else there.
 * - Errors go to stderr as "svio: <sentence>"; cli_fail() prints the library's svio_last_error().
 * - Exit codes: CLI_OK 0, CLI_FAILED 1, CLI_USAGE 2 (argp exits with 2 by itself).
 * - Progress is shown on stderr, and only when that is a terminal: cli_progress().
 * - Long work looks at cli_interrupted() and ends in order.
 *
 * Everything here is for the main thread, except cli_interrupted().
 */
#ifndef SVIO_CLI_H
#define SVIO_CLI_H

#include <argp.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include "svio_base.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* ---- commands -------------------------------------------------------------------------------------- */

struct cli_command {
	const char *name;
	const char *help; /* one line */
	int (*run)(int argc, char **argv);
};

/*
 * Run the command of `table` (ended by a NULL name) that argv[1] names, as "<prefix> <name>". "help [CMD]", -h and
 * --help print the table or the command's own help. An unknown name is answered with the nearest one.
 */
int cli_dispatch(const char *prefix, const char *about, const struct cli_command *table, int argc, char **argv);

int cmd_bind(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_crc(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_dsa(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_nvme(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_unbind(int argc, char **argv);

/* ---- options --------------------------------------------------------------------------------------- */

/*
 * The options that every reporting command has. A command's argp names cli_common_argp as its first child and hands it
 * the struct in ARGP_KEY_INIT:
 *
 *	static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
 *	case ARGP_KEY_INIT: state->child_inputs[0] = &args->common; return 0;
 */
struct cli_common {
	bool json; /* --json */
};
extern const struct argp cli_common_argp; /* --json, -v/--verbose (debug log to stderr) */

/* The same for a command that takes one DEVICE and nothing else: exactly one argument, or a usage error. */
struct cli_device {
	struct cli_common common;
	const char *name;
};
extern const struct argp cli_device_argp;

/* argp_parse() with our conventions; does not return after --help or a usage error. `input` as in argp_parse(). */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/* ---- output ---------------------------------------------------------------------------------------- */

/* "svio: ..." on stderr; returns CLI_FAILED. */
int cli_error(const char *fmt, ...) SVIO_PRINTF(1, 2);

/* Print why a library call failed with `err` (negative errno): its sentence, or strerror(). Returns CLI_FAILED. */
int cli_fail(int err);

/*
 * A table: columns as wide as their widest cell, two blanks between. A heading that begins with '>' is
 * right-aligned. Cells are copied; NULL prints as "-".
 */
struct cli_table;
struct cli_table *cli_table_new(const char *const *headings, size_t columns);
void cli_table_row(struct cli_table *table, const char *const *cells);
void cli_table_print(const struct cli_table *table, FILE *out);
void cli_table_free(struct cli_table *table);

/* Bytes for people: "512 B", "4 KiB", "1.5 GiB". buf holds at least CLI_SIZE_LEN bytes. Returns buf. */
#define CLI_SIZE_LEN 32
char *cli_size(uint64_t bytes, char *buf);

/* Print the document, release it, and return CLI_OK, or CLI_FAILED when it cannot be written. */
int cli_json_print(struct json_object *doc);
/* obj[key] = value; a NULL text becomes null. */
void cli_json_str(struct json_object *obj, const char *key, const char *text);
void cli_json_int(struct json_object *obj, const char *key, int64_t value);
void cli_json_u64(struct json_object *obj, const char *key, uint64_t value);
void cli_json_bool(struct json_object *obj, const char *key, bool value);
/* A number as hexadecimal text with `digits` digits: "0x8086". */
void cli_json_hex(struct json_object *obj, const char *key, uint64_t value, int digits);

/* Allocation in a command that cannot go on without it: say so and exit. */
void *cli_alloc(size_t size);

/* ---- signals and progress -------------------------------------------------------------------------- */

/* Catch SIGINT and SIGTERM: the first sets the flag (system calls return EINTR), a second one kills as usual. */
void cli_catch_signals(void);
bool cli_interrupted(void); /* any thread */

/* One line on stderr that replaces the previous one; nothing when stderr is no terminal. */
void cli_progress(const char *fmt, ...) SVIO_PRINTF(1, 2);
void cli_progress_end(void); /* leave the terminal clean */

#endif
