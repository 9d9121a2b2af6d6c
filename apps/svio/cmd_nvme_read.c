/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme read: blocks of a namespace into a file. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd_nvme_copy.h"

struct read_args {
	struct copy_args copy;
	uint64_t blocks;
	bool all;
	const char *out;
};

static const struct argp_option options[] = {
	{ "blocks", 'c', "N", 0, "How many blocks; 'all' for everything from --lba to the end", 0 },
	{ "out", 'o', "FILE", 0, "Where to; - for standard output", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct read_args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->copy;
		return 0;
	case 'c':
		args->all = strcmp(arg, "all") == 0;
		if (!args->all)
			args->blocks = nvme_arg_u64(state, "--blocks", arg, 1, UINT64_MAX);
		return 0;
	case 'o':
		args->out = arg;
		return 0;
	case ARGP_KEY_END:
		if (!args->all && !args->blocks)
			argp_error(state, "how many? --blocks N, or --blocks all");
		if (!args->out)
			argp_error(state, "where to? --out FILE, or --out -");
		if (strcmp(args->out, "-") == 0 && args->copy.common.json)
			argp_error(state, "--json and --out - both want standard output");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &copy_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "DEVICE",
	.doc = "Copy blocks of a namespace to a file.\v"
	       "FILE appears when it is complete: until then the data are in a temporary file beside it, "
	       "which is removed when anything fails. A FILE that exists and is no regular file (a "
	       "pipe, a block device) is written in place.",
	.children = children,
};

/* Where the data go. A regular file is built under another name. */
struct output {
	const char *name;
	char *temporary; /* NULL: in place */
	int fd;
};

static int output_open(struct output *out, const char *name)
{
	struct stat st;
	mode_t mask;

	*out = (struct output){ .name = name, .fd = STDOUT_FILENO };
	if (strcmp(name, "-") == 0)
		return 0;
	if (stat(name, &st) == 0 && !S_ISREG(st.st_mode)) {
		out->fd = open(name, O_WRONLY | O_CLOEXEC);
		if (out->fd < 0)
			return svio_fail(errno, "%s: %s", name, strerror(errno));
		return 0;
	}
	if (asprintf(&out->temporary, "%s.XXXXXX", name) < 0) {
		out->temporary = NULL;
		return -ENOMEM;
	}
	out->fd = mkostemp(out->temporary, O_CLOEXEC);
	if (out->fd < 0) {
		int err = errno;

		free(out->temporary);
		out->temporary = NULL;
		return svio_fail(err, "%s: cannot create a file there: %s", name, strerror(err));
	}
	/* mkostemp() makes it 0600; the user expects what open() would have made. */
	mask = umask(0);
	umask(mask);
	fchmod(out->fd, 0666 & ~mask);
	return 0;
}

static int output_close(struct output *out, bool complete)
{
	int rc = 0;

	if (out->fd == STDOUT_FILENO)
		return 0;
	if (close(out->fd) && complete)
		rc = svio_fail(errno, "%s: %s", out->name, strerror(errno));
	if (out->temporary) {
		if (complete && !rc && rename(out->temporary, out->name))
			rc = svio_fail(errno, "%s: %s", out->name, strerror(errno));
		if (!complete || rc)
			unlink(out->temporary);
		free(out->temporary);
	}
	return rc;
}

static int output_write(void *ctx, const void *buf, size_t len)
{
	const struct output *out = ctx;
	const char *p = buf;

	while (len) {
		ssize_t n = write(out->fd, p, len);

		if (n < 0 && errno == EINTR && !cli_interrupted())
			continue;
		if (n < 0)
			return svio_fail(errno, "%s: %s", out->name, strerror(errno));
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int run(struct copy *c, const struct read_args *args)
{
	uint64_t n = args->blocks;
	struct output out;
	int rc, close_rc;

	rc = copy_open(c, &args->copy);
	if (rc)
		return rc;
	if (args->all) {
		rc = copy_check_range(c, 1);
		n = c->ns.blocks - args->copy.lba;
	} else {
		rc = copy_check_range(c, n);
	}
	if (rc)
		return rc;
	rc = output_open(&out, args->out);
	if (rc)
		return rc;
	rc = copy_read(c, n, output_write, &out);
	close_rc = output_close(&out, rc == 0);
	return rc ? rc : close_rc;
}

int cmd_nvme_read(int argc, char **argv)
{
	struct read_args args = { 0 };
	struct copy c;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	cli_catch_signals();
	rc = run(&c, &args);
	cli_progress_end();
	if (rc)
		rc = cli_fail(rc);
	else if (strcmp(args.out, "-") != 0)
		rc = copy_report(&c, "read");
	copy_close(&c);
	return rc;
}
