/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme write: a file into blocks of a namespace. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd_nvme_copy.h"

struct write_args {
	struct copy_args copy;
	const char *in;
	bool flush, pad;
};

static const struct argp_option options[] = {
	{ "in", 'i', "FILE", 0, "Where from; - for standard input", 0 },
	{ "flush", 'f', NULL, 0, "Flush the controller's write cache at the end", 0 },
	{ "pad", 'p', NULL, 0, "Fill the last block with zeroes when the input ends within it", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct write_args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->copy;
		return 0;
	case 'i':
		args->in = arg;
		return 0;
	case 'f':
		args->flush = true;
		return 0;
	case 'p':
		args->pad = true;
		return 0;
	case ARGP_KEY_END:
		if (!args->in)
			argp_error(state, "where from? --in FILE, or --in -");
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
	.doc = "Copy a file to blocks of a namespace, overwriting what is there.\v"
	       "Input that is no whole number of blocks is refused unless --pad is given; of a "
	       "regular file that is known, and nothing written, beforehand.",
	.children = children,
};

struct input {
	const struct write_args *args;
	const struct copy *copy;
	const char *name;
	int fd;
	bool ended;
	uint64_t taken; /* blocks */
};

static int partial_block(const struct input *in, uint64_t rest)
{
	return svio_fail(EINVAL,
			 "%s: ends %" PRIu64 " bytes into a block of %" PRIu32
			 "; use --pad to fill it with zeroes",
			 in->name, rest, in->copy->ns.lba_size);
}

/* Everything that can be known before the first block is overwritten. */
static int input_open(struct input *in)
{
	uint32_t lba_size = in->copy->ns.lba_size;
	struct stat st;
	uint64_t size;

	if (strcmp(in->name, "-") == 0)
		in->fd = STDIN_FILENO;
	else
		in->fd = open(in->name, O_RDONLY | O_CLOEXEC);
	if (in->fd < 0 || fstat(in->fd, &st))
		return svio_fail(errno, "%s: %s", in->name, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return svio_fail(EISDIR, "%s: %s", in->name, strerror(EISDIR));
	if (!S_ISREG(st.st_mode))
		return copy_check_range(in->copy, 1);
	size = (uint64_t)st.st_size;
	if (size == 0)
		return svio_fail(EINVAL, "%s: is empty", in->name);
	if (size % lba_size && !in->args->pad)
		return partial_block(in, size % lba_size);
	return copy_check_range(in->copy, (size + lba_size - 1) / lba_size);
}

static int input_read(void *ctx, void *buf, uint32_t max, uint32_t *nlb)
{
	struct input *in = ctx;
	uint32_t lba_size = in->copy->ns.lba_size;
	size_t want = (size_t)max * lba_size, have = 0, rest;

	*nlb = 0;
	while (!in->ended && have < want) {
		ssize_t n = read(in->fd, (char *)buf + have, want - have);

		if (n < 0 && errno == EINTR && !cli_interrupted())
			continue;
		if (n < 0)
			return svio_fail(errno, "%s: %s", in->name, strerror(errno));
		in->ended = n == 0;
		have += (size_t)n;
	}
	rest = have % lba_size;
	if (rest && !in->args->pad)
		return partial_block(in, rest);
	if (rest) {
		memset((char *)buf + have, 0, lba_size - rest);
		have += lba_size - rest;
	}
	*nlb = (uint32_t)(have / lba_size);
	in->taken += *nlb;
	return in->taken ? copy_check_range(in->copy, in->taken) : 0;
}

static int run(struct copy *c, const struct write_args *args)
{
	struct input in = { .args = args, .copy = c, .name = args->in, .fd = -1 };
	struct stat st;
	int rc;

	rc = copy_open(c, &args->copy);
	if (rc)
		return rc;
	rc = input_open(&in);
	if (!rc) {
		if (fstat(in.fd, &st) == 0 && S_ISREG(st.st_mode))
			c->total_blocks =
				((uint64_t)st.st_size + c->ns.lba_size - 1) / c->ns.lba_size;
		rc = copy_write(c, input_read, &in);
	}
	if (!rc && args->flush)
		rc = copy_flush(c);
	if (in.fd > STDIN_FILENO)
		close(in.fd);
	return rc;
}

int cmd_nvme_write(int argc, char **argv)
{
	struct write_args args = { 0 };
	struct copy c;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	cli_catch_signals();
	rc = run(&c, &args);
	cli_progress_end();
	if (rc) {
		rc = cli_fail(rc);
		if (c.done_blocks)
			cli_error("%" PRIu64 " blocks had been written before", c.done_blocks);
	} else {
		rc = copy_report(&c, "wrote");
	}
	copy_close(&c);
	return rc;
}
