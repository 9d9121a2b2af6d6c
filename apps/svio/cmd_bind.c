/* SPDX-License-Identifier: BSD-3-Clause */
/* svio bind, svio unbind: give a function to a driver, and back. */
#include <string.h>
#include "pcidev.h"

struct args {
	struct cli_common common;
	const char *driver;
	bool force;
	char **devices;
	int num_devices;
};

static const struct argp_option bind_options[] = {
	{ "driver", 'd', "NAME", 0, "The driver to bind to (default: vfio-pci)", 0 },
	{ "force", 'f', NULL, 0, "Also when the system is using the device. Data may be lost.", 0 },
	{ 0 },
};

static const struct argp_option unbind_options[] = {
	{ "force", 'f', NULL, 0, "Also when a process has the device open: wait until it gives it up", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->common;
		return 0;
	case 'd':
		args->driver = arg;
		return 0;
	case 'f':
		args->force = true;
		return 0;
	case ARGP_KEY_ARGS:
		args->devices = state->argv + state->next;
		args->num_devices = state->argc - state->next;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "which device?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp bind_argp = {
	.options = bind_options,
	.parser = parse,
	.args_doc = "DEV...",
	.doc = "Give PCI functions to vfio-pci, so that user space can drive them.\v"
	       "The driver that each had is remembered until the next boot; svio unbind puts it back.",
	.children = children,
};

static const struct argp unbind_argp = {
	.options = unbind_options,
	.parser = parse,
	.args_doc = "DEV...",
	.doc = "Give PCI functions back to the driver that svio bind took them from.",
	.children = children,
};

/* Say what changed, from what sysfs says afterwards. */
static void report(const struct args *args, const struct svio_pci_info *before, struct json_object *list)
{
	struct svio_pci_info after;
	struct json_object *obj;

	if (svio_pci_get(&before->addr, &after))
		after = *before;
	if (args->common.json) {
		obj = json_object_new_object();
		cli_json_str(obj, "address", before->name);
		cli_json_str(obj, "previous_driver", before->has_driver ? before->driver : NULL);
		cli_json_str(obj, "driver", after.has_driver ? after.driver : NULL);
		cli_json_bool(obj, "changed", strcmp(before->driver, after.driver) != 0);
		json_object_array_add(list, obj);
	} else if (strcmp(before->driver, after.driver) == 0) {
		printf("%s: %s%s, as before\n", before->name, after.has_driver ? "bound to " : "no driver",
		       after.driver);
	} else {
		printf("%s: %s -> %s\n", before->name, before->has_driver ? before->driver : "no driver",
		       after.has_driver ? after.driver : "no driver");
	}
}

static int run(const struct argp *argp, int argc, char **argv, bool bind)
{
	struct args args = { .driver = "vfio-pci" };
	struct json_object *list = json_object_new_array();
	int exit_code = CLI_OK;

	cli_parse(argp, argc, argv, &args);
	for (int i = 0; i < args.num_devices; i++) {
		uint32_t flags = args.force ? SVIO_PCI_BIND_FORCE : 0;
		struct svio_pci_info before;
		struct svio_pci_addr addr;
		int rc;

		if (!pcidev_parse(args.devices[i], &addr)) {
			exit_code = CLI_USAGE;
			break;
		}
		rc = svio_pci_get(&addr, &before);
		if (!rc)
			rc = bind ? svio_pci_bind(&addr, args.driver, flags) : svio_pci_unbind(&addr, flags);
		if (rc) {
			exit_code = cli_fail(rc);
			break;
		}
		report(&args, &before, list);
	}
	/* What was done before the failure is reported too. */
	if (args.common.json && cli_json_print(list) != CLI_OK)
		exit_code = CLI_FAILED;
	else if (!args.common.json)
		json_object_put(list);
	return exit_code;
}

int cmd_bind(int argc, char **argv)
{
	return run(&bind_argp, argc, argv, true);
}

int cmd_unbind(int argc, char **argv)
{
	return run(&unbind_argp, argc, argv, false);
}
