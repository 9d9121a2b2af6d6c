/* SPDX-License-Identifier: BSD-3-Clause */
/* svio list: PCI functions and what svio can do with each. */
#include <stdlib.h>
#include <string.h>
#include "pcidev.h"

struct args {
	struct cli_common common;
	bool all;
};

static const struct argp_option options[] = {
	{ "all", 'a', NULL, 0, "Also bridges, memory controllers and system peripherals", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->common;
		return 0;
	case 'a':
		args->all = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_usage(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_common_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "List PCI functions: driver, IOMMU group, NUMA node, and what svio can do with each.\v"
	       "USE names svio's driver for the function: 'nvme', or 'generic' (registers, DMA, interrupts). "
	       "STATE says whether it can be opened now: 'ready', 'bindable' (svio bind), 'blocked' or 'never', "
	       "and the line below what is in the way.",
	.children = children,
};

static void add_row(struct cli_table *table, const struct svio_pci_info *info,
		    const struct pcidev_ability *ability)
{
	static const char *const states[] = { "ready", "bindable", "blocked", "never" };
	char id[16], group[16] = "-", node[16] = "-", class[64];

	snprintf(id, sizeof(id), "%04x:%04x", info->vendor, info->device);
	if (info->iommu_group >= 0)
		snprintf(group, sizeof(group), "%d", info->iommu_group);
	if (info->numa_node >= 0)
		snprintf(node, sizeof(node), "%d", info->numa_node);
	snprintf(class, sizeof(class), "%.28s", pcidev_class_name(info->class_code));
	cli_table_row(table, (const char *const[]){
		info->name, id, info->has_driver ? info->driver : NULL, group, node,
		ability->driver, states[ability->use], class,
		pcidev_device_name(info->vendor, info->device) });
}

/* What is in the way of each, and once for all that lack the same thing. */
static void print_notes(const struct svio_pci_info *list, const struct pcidev_ability *abilities,
			size_t count, bool all)
{
	size_t groupless = 0;

	for (size_t i = 0; i < count; i++) {
		const char *why = abilities[i].why, *name = list[i].name;

		if ((!all && pcidev_is_system(&list[i])) || abilities[i].use != PCIDEV_BLOCKED)
			continue;
		if (list[i].iommu_group < 0)
			groupless++;
		else if (strncmp(why, name, strlen(name)) == 0) /* the library's sentence names it */
			printf("%s\n", why);
		else
			printf("%s: %s\n", name, why);
	}
	if (groupless)
		printf("%zu blocked: no IOMMU group, so no VFIO; run: svio doctor\n", groupless);
}

static void print_table(const struct svio_pci_info *list, const struct pcidev_ability *abilities,
			size_t count, bool all)
{
	static const char *const headings[] = { "DEVICE", "ID", "DRIVER", ">GROUP", ">NODE", "USE", "STATE",
						"CLASS", "NAME" };
	struct cli_table *table = cli_table_new(headings, SVIO_ARRAY_SIZE(headings));
	size_t hidden = 0;

	for (size_t i = 0; i < count; i++) {
		if (!all && pcidev_is_system(&list[i]))
			hidden++;
		else
			add_row(table, &list[i], &abilities[i]);
	}
	cli_table_print(table, stdout);
	cli_table_free(table);
	print_notes(list, abilities, count, all);
	if (hidden)
		printf("(%zu bridge%s and system functions not shown; --all shows them)\n", hidden,
		       hidden == 1 ? "" : "s");
}

int cmd_list(int argc, char **argv)
{
	struct pcidev_ability *abilities;
	struct args args = { 0 };
	struct svio_pci_info *list;
	struct json_object *doc;
	size_t count;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	rc = svio_pci_scan(&list, &count);
	if (rc)
		return cli_fail(rc);
	abilities = cli_alloc((count + 1) * sizeof(*abilities));
	for (size_t i = 0; i < count; i++)
		pcidev_ability(&list[i], &abilities[i]);
	rc = CLI_OK;
	if (args.common.json) {
		doc = json_object_new_array();
		for (size_t i = 0; i < count; i++)
			if (args.all || !pcidev_is_system(&list[i]))
				json_object_array_add(doc, pcidev_json(&list[i], &abilities[i]));
		rc = cli_json_print(doc);
	} else {
		print_table(list, abilities, count, args.all);
	}
	free(abilities);
	free(list);
	return rc;
}
