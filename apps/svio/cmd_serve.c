/* SPDX-License-Identifier: BSD-3-Clause */
/* svio serve: device models in a process of their own, for any vfio-user client. No EAL, no root, no kernel module. */
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "cli.h"
#include "svio_link.h"

#define MAX_DEVICES 64

struct served {
	char *spec; /* "nvme,size=1G": grows with the options */
	const char *socket;
	uint32_t flags, files;
	bool have_namespaces;
	struct svio_vdev *dev;
};

struct args {
	struct cli_common common;
	struct served device[MAX_DEVICES];
	unsigned int devices;
	bool list, interrupt;
	int cpu; /* -1: wherever the scheduler likes */
};

enum long_key {
	KEY_SIZE = 256,
	KEY_FILE,
	KEY_QUEUES,
	KEY_NAMESPACES,
	KEY_INJECT,
	KEY_NO_MMAP,
	KEY_RESET_ON_CLOSE,
	KEY_CPU,
	KEY_INTERRUPT,
	KEY_LIST,
};

static const struct argp_option options[] = {
	{ NULL, 0, NULL, 0, "About the MODEL before them:", 1 },
	{ "socket", 's', "PATH", 0, "Listen here; the file is made with mode 0600 and removed at the end", 1 },
	{ "size", KEY_SIZE, "SIZE", 0, "Bytes of each namespace (256M, or all of FILE)", 1 },
	{ "file", KEY_FILE, "FILE", 0, "Keep the blocks in FILE; given again, of the next namespace", 1 },
	{ "queues", KEY_QUEUES, "N", 0, "I/O queue pairs", 1 },
	{ "namespaces", KEY_NAMESPACES, "N", 0, "Namespaces", 1 },
	{ "inject", KEY_INJECT, "RULES", 0, "Faults, for tests of drivers; svio(1) has the rules", 1 },
	{ "no-mmap", KEY_NO_MMAP, NULL, 0, "Offer no BAR for mapping: every access is a message", 1 },
	{ "reset-on-close", KEY_RESET_ON_CLOSE, NULL, 0,
	  "Reset the device when its client goes; without it the next client finds its state", 1 },
	{ NULL, 0, NULL, 0, "About the process:", 2 },
	{ "cpu", KEY_CPU, "N", 0, "Run on this CPU", 2 },
	{ "interrupt", KEY_INTERRUPT, NULL, 0,
	  "Sleep until a message comes, instead of polling; doorbells become messages", 2 },
	{ "list", KEY_LIST, NULL, 0, "Show the models and their options, and exit", 2 },
	{ 0 },
};

/* ---- the command line ------------------------------------------------------------------------------ */

static struct served *device_of(const struct argp_state *state, struct args *args, const char *option)
{
	if (!args->devices)
		argp_error(state, "--%s is about the MODEL before it; name one first", option);
	return &args->device[args->devices - 1];
}

/* Append ",key=value": what models and the kit then check. */
static void add_option(const struct argp_state *state, struct args *args, const char *option, const char *key,
		       const char *value)
{
	struct served *d = device_of(state, args, option);
	char *longer;

	if (strchr(value, ','))
		argp_error(state, "--%s %s: a comma separates the options of a model and cannot be in one", option,
			   value);
	if (asprintf(&longer, "%s,%s=%s", d->spec, key, value) < 0)
		argp_failure(state, CLI_FAILED, ENOMEM, "--%s", option);
	free(d->spec);
	d->spec = longer;
}

static void add_file(const struct argp_state *state, struct args *args, const char *path)
{
	struct served *d = device_of(state, args, "file");
	char key[16];

	if (!*path)
		argp_error(state, "--file: which file?");
	d->files++;
	if (d->files == 1)
		strcpy(key, "file");
	else
		snprintf(key, sizeof(key), "file%" PRIu32, d->files);
	add_option(state, args, "file", key, path);
}

static void add_device(const struct argp_state *state, struct args *args, const char *model)
{
	struct served *d;

	if (args->devices == MAX_DEVICES)
		argp_error(state, "more than %d devices; start another server for the rest", MAX_DEVICES);
	d = &args->device[args->devices++];
	d->spec = strdup(model);
	if (!d->spec)
		argp_failure(state, CLI_FAILED, ENOMEM, "%s", model);
}

static void check(const struct argp_state *state, struct args *args)
{
	if (args->list) {
		if (args->devices)
			argp_error(state, "--list takes no MODEL");
		return;
	}
	if (!args->devices)
		argp_error(state, "which model? 'svio serve --list' shows them");
	for (unsigned int i = 0; i < args->devices; i++) {
		struct served *d = &args->device[i];
		char count[16];

		if (!d->socket)
			argp_error(state, "%s: where? --socket PATH", d->spec);
		for (unsigned int j = 0; j < i; j++)
			if (strcmp(args->device[j].socket, d->socket) == 0)
				argp_error(state, "--socket %s is given twice", d->socket);
		if (d->files > 1 && !d->have_namespaces) {
			unsigned int all = args->devices;

			snprintf(count, sizeof(count), "%" PRIu32, d->files);
			args->devices = i + 1; /* add_option() is about the last one */
			add_option(state, args, "file", "namespaces", count);
			args->devices = all;
		}
		if (args->interrupt)
			d->flags |= SVIO_VDEV_NO_MMAP | SVIO_VDEV_SLEEPS;
	}
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;
	uint64_t n;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->common;
		return 0;
	case ARGP_KEY_ARG:
		add_device(state, args, arg);
		return 0;
	case 's':
		if (device_of(state, args, "socket")->socket)
			argp_error(state, "--socket %s: %s has one already; name the MODEL first", arg,
				   device_of(state, args, "socket")->spec);
		device_of(state, args, "socket")->socket = arg;
		return 0;
	case KEY_SIZE:
		add_option(state, args, "size", "size", arg);
		return 0;
	case KEY_FILE:
		add_file(state, args, arg);
		return 0;
	case KEY_QUEUES:
		add_option(state, args, "queues", "queues", arg);
		return 0;
	case KEY_NAMESPACES:
		device_of(state, args, "namespaces")->have_namespaces = true;
		add_option(state, args, "namespaces", "namespaces", arg);
		return 0;
	case KEY_INJECT:
		add_option(state, args, "inject", "inject", arg);
		return 0;
	case KEY_NO_MMAP:
		device_of(state, args, "no-mmap")->flags |= SVIO_VDEV_NO_MMAP;
		return 0;
	case KEY_RESET_ON_CLOSE:
		device_of(state, args, "reset-on-close")->flags |= SVIO_VDEV_RESET_ON_CLOSE;
		return 0;
	case KEY_CPU:
		if (svio_parse_u64(arg, CPU_SETSIZE - 1, &n))
			argp_error(state, "--cpu %s: no CPU number", arg);
		args->cpu = (int)n;
		return 0;
	case KEY_INTERRUPT:
		args->interrupt = true;
		return 0;
	case KEY_LIST:
		args->list = true;
		return 0;
	case ARGP_KEY_END:
		check(state, args);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "MODEL[,KEY=VALUE...] --socket PATH [OPTION...] [MODEL... --socket PATH ...]",
	.doc = "Serve simulated devices to vfio-user clients: svio (user:PATH), QEMU (vfio-user-pci), SPDK.\v"
	       "\"serving MODEL at PATH\" is printed for each device once clients can connect. SIGINT and SIGTERM end the "
	       "server in order: DMA stops, clients are disconnected, sockets removed, statistics printed.\n\n"
	       "A polling server uses all of a CPU while a client is connected, and none otherwise.",
	.children = children,
};

/* ---- the models ------------------------------------------------------------------------------------ */

static int list_models(bool json)
{
	struct json_object *all = json_object_new_array();
	const struct svio_vdev_model *model;

	for (unsigned int i = 0; (model = svio_vdev_model_at(i)); i++) {
		struct json_object *obj = json_object_new_object();

		cli_json_str(obj, "model", model->name);
		cli_json_str(obj, "options", model->help);
		cli_json_bool(obj, "migration", model->save && model->load);
		json_object_array_add(all, obj);
		if (!json)
			printf("%-6s %s\n", model->name, model->help ? model->help : "(no options)");
	}
	if (json)
		return cli_json_print(all);
	json_object_put(all);
	return CLI_OK;
}

/* ---- serving --------------------------------------------------------------------------------------- */

static struct svio_vdev_server *server; /* for the signal handler */

static void on_signal(int sig)
{
	(void)sig;
	svio_vdev_server_stop(server);
}

/* Not cli_catch_signals(): timeout(1) and job control send a signal twice, and the second would leave the sockets behind. */
static void catch_signals(struct svio_vdev_server *srv)
{
	struct sigaction sa = { .sa_handler = on_signal };

	server = srv;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	/* Whoever read our output may be gone; sockets still have to be removed. */
	signal(SIGPIPE, SIG_IGN);
}

/* While the server that the handler stops is taken apart. */
static void ignore_signals(void)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
}

static int pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return CLI_OK;
	CPU_ZERO(&set);
	CPU_SET((unsigned int)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return cli_error("--cpu %d: %s", cpu,
				 errno == EINVAL ? "this process may not run there; see: taskset -p $$" :
						   strerror(errno));
	return CLI_OK;
}

static int start(struct args *args, struct svio_vdev_server *srv)
{
	for (unsigned int i = 0; i < args->devices; i++) {
		struct served *d = &args->device[i];
		int err = svio_vdev_create(d->spec, d->flags, &d->dev);

		if (!err)
			err = svio_vdev_server_listen(srv, d->dev, d->socket);
		if (err)
			return cli_fail(err);
	}
	for (unsigned int i = 0; i < args->devices; i++)
		fprintf(args->common.json ? stderr : stdout, "serving %s at %s\n",
			svio_vdev_name(args->device[i].dev), args->device[i].socket);
	fflush(stdout);
	return CLI_OK;
}

static const struct {
	const char *name;
	size_t offset;
} counters[] = {
	{ "connects", offsetof(struct svio_vdev_stats, connects) },
	{ "refused", offsetof(struct svio_vdev_stats, refused) },
	{ "disconnects", offsetof(struct svio_vdev_stats, disconnects) },
	{ "messages", offsetof(struct svio_vdev_stats, messages) },
	{ "region_reads", offsetof(struct svio_vdev_stats, region_reads) },
	{ "region_writes", offsetof(struct svio_vdev_stats, region_writes) },
	{ "dma_maps", offsetof(struct svio_vdev_stats, dma_maps) },
	{ "dma_unmaps", offsetof(struct svio_vdev_stats, dma_unmaps) },
	{ "dma_messages", offsetof(struct svio_vdev_stats, dma_msgs) },
	{ "interrupts", offsetof(struct svio_vdev_stats, irqs) },
	{ "protocol_errors", offsetof(struct svio_vdev_stats, protocol_errors) },
	{ "rounds", offsetof(struct svio_vdev_stats, rounds) },
	{ "socket_checks", offsetof(struct svio_vdev_stats, socket_checks) },
};

static int report(const struct args *args)
{
	struct json_object *all = args->common.json ? json_object_new_array() : NULL;

	for (unsigned int i = 0; i < args->devices; i++) {
		const struct served *d = &args->device[i];
		struct json_object *obj = all ? json_object_new_object() : NULL;
		struct svio_vdev_stats st;

		svio_vdev_get_stats(d->dev, &st);
		if (all) {
			cli_json_str(obj, "model", svio_vdev_name(d->dev));
			cli_json_str(obj, "socket", d->socket);
			json_object_array_add(all, obj);
		} else {
			printf("served %s at %s:", svio_vdev_name(d->dev), d->socket);
		}
		for (size_t k = 0; k < SVIO_ARRAY_SIZE(counters); k++) {
			uint64_t v;

			memcpy(&v, (const char *)&st + counters[k].offset, sizeof(v));
			if (all)
				cli_json_u64(obj, counters[k].name, v);
			else
				printf("%s %s %" PRIu64, k ? "," : "", counters[k].name, v);
		}
		if (!all)
			putchar('\n');
	}
	return all ? cli_json_print(all) : CLI_OK;
}

static int serve(struct args *args)
{
	struct svio_vdev_server_opts opts = { .size = sizeof(opts), .interrupt = args->interrupt };
	struct svio_vdev_server *srv = NULL;
	int rc, err;

	rc = pin(args->cpu);
	if (rc)
		return rc;
	/* Clients are strangers: one that truncates memory that it shares must not end the others' devices. */
	err = svio_vdev_sigbus_guard();
	if (!err)
		err = svio_vdev_server_create(&opts, &srv);
	if (err)
		return cli_fail(err);
	catch_signals(srv);
	rc = start(args, srv);
	if (!rc) {
		err = svio_vdev_server_run(srv);
		if (err)
			rc = cli_fail(err);
	}
	ignore_signals();
	svio_vdev_server_destroy(srv);
	/* Its last numbers are those after the clients have gone. */
	if (!rc)
		rc = report(args);
	for (unsigned int i = 0; i < args->devices; i++)
		svio_vdev_destroy(args->device[i].dev);
	return rc;
}

int cmd_serve(int argc, char **argv)
{
	struct args args = { .cpu = -1 };
	error_t bad;
	int rc;

	/* In order, unlike cli_parse(): an option is about the model before it. */
	bad = argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &args);
	if (bad)
		return cli_fail(-bad);
	rc = svio_models_register();
	if (rc)
		return cli_fail(rc);
	rc = args.list ? list_models(args.common.json) : serve(&args);
	for (unsigned int i = 0; i < args.devices; i++)
		free(args.device[i].spec);
	return rc;
}
