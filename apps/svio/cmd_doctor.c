/* SPDX-License-Identifier: BSD-3-Clause */
/* svio doctor: is this machine ready, and what to do about what is not. */
#include <stdlib.h>
#include <string.h>
#include "doctor.h"

static const char *const status_names[] = { "ok", "warn", "fail" };

struct args {
	struct cli_common common;
	bool fix;
};

static const struct argp_option options[] = {
	{ "fix", 'f', NULL, 0, "Apply the remedies that are safe: load VFIO's modules, reserve hugepages", 0 },
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
	case 'f':
		args->fix = true;
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
	.doc = "Check what svio needs of this machine; for each thing missing, print the exact remedy.\v"
	       "Exit status 1 when something is missing without which no device can be driven through kernel "
	       "VFIO. Nothing is changed without --fix.",
	.children = children,
};

struct doctor_finding *doctor_add(struct doctor *doc, const char *check, enum doctor_status status,
				  const char *fmt, ...)
{
	struct doctor_finding *finding;
	va_list ap;

	if (doc->count == doc->capacity) {
		size_t capacity = doc->capacity ? doc->capacity * 2 : 16;
		void *grown = reallocarray(doc->findings, capacity, sizeof(*doc->findings));

		if (!grown) {
			cli_error("out of memory");
			exit(CLI_FAILED);
		}
		doc->findings = grown;
		doc->capacity = capacity;
	}
	finding = &doc->findings[doc->count++];
	memset(finding, 0, sizeof(*finding));
	finding->check = check;
	finding->status = status;
	va_start(ap, fmt);
	vsnprintf(finding->seen, sizeof(finding->seen), fmt, ap);
	va_end(ap);
	return finding;
}

void doctor_remedy(struct doctor_finding *finding, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(finding->remedy, sizeof(finding->remedy), fmt, ap);
	va_end(ap);
}

void doctor_done(struct doctor_finding *finding, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(finding->done, sizeof(finding->done), fmt, ap);
	va_end(ap);
}

static void print_text(const struct doctor *doc)
{
	size_t counts[3] = { 0 };

	for (size_t i = 0; i < doc->count; i++) {
		const struct doctor_finding *f = &doc->findings[i];

		counts[f->status]++;
		printf("%-4s  %-12s %s\n", status_names[f->status], f->check, f->seen);
		if (f->done[0])
			printf("      %-12s fixed: %s\n", "", f->done);
		if (f->remedy[0])
			printf("      %-12s do: %s\n", "", f->remedy);
	}
	printf("%zu ok, %zu warnings, %zu failures%s\n", counts[DOCTOR_OK], counts[DOCTOR_WARN],
	       counts[DOCTOR_FAIL], counts[DOCTOR_FAIL] ? "" : ": svio can drive devices through kernel VFIO here");
}

static int print_json(const struct doctor *doc, bool failed)
{
	struct json_object *root = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < doc->count; i++) {
		const struct doctor_finding *f = &doc->findings[i];
		struct json_object *o = json_object_new_object();

		cli_json_str(o, "check", f->check);
		cli_json_str(o, "status", status_names[f->status]);
		cli_json_str(o, "seen", f->seen);
		cli_json_str(o, "remedy", f->remedy[0] ? f->remedy : NULL);
		cli_json_str(o, "fixed", f->done[0] ? f->done : NULL);
		json_object_array_add(list, o);
	}
	cli_json_bool(root, "ready", !failed);
	json_object_object_add(root, "findings", list);
	return cli_json_print(root);
}

int cmd_doctor(int argc, char **argv)
{
	static void (*const checks[])(struct doctor *doc) = {
		doctor_iommu, doctor_modules, doctor_permissions, doctor_hugepages, doctor_devices, doctor_sva,
	};
	struct args args = { 0 };
	struct doctor doc = { 0 };
	bool failed = false;
	int rc = CLI_OK;

	cli_parse(&argp, argc, argv, &args);
	doc.fix = args.fix;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(checks); i++)
		checks[i](&doc);
	for (size_t i = 0; i < doc.count; i++)
		failed |= doc.findings[i].status == DOCTOR_FAIL;
	if (args.common.json)
		rc = print_json(&doc, failed);
	else
		print_text(&doc);
	free(doc.findings);
	return rc ? rc : failed ? CLI_FAILED : CLI_OK;
}
