/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme identify: what a controller and its namespaces say of themselves. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd_nvme.h"

#define IDENTIFY_SIZE  4096 /* NVMe 1.4 §5.15.2 */
#define CNS_NAMESPACE  0x00
#define CNS_CONTROLLER 0x01
#define MAX_LISTED     1024 /* identifiers in one list, NVMe 1.4 §5.15.2.3 */
#define NSID_BROADCAST UINT32_C(0xffffffff)

struct identify_args {
	struct cli_device device;
	const char *raw;
	uint32_t nsid;
};

static const struct argp_option options[] = {
	{ "nsid", 'n', "N", 0, "Only this namespace", 0 },
	{ "raw", 'r', "FILE", 0,
	  "Write the 4096 bytes of Identify data to FILE (- for standard output): the controller's, or "
	  "with --nsid the namespace's",
	  0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct identify_args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->device;
		return 0;
	case 'n':
		args->nsid = (uint32_t)nvme_arg_u64(state, "--nsid", arg, 1, NSID_BROADCAST - 1);
		return 0;
	case 'r':
		args->raw = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_device_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "DEVICE",
	.doc = "Show an NVMe controller and its namespaces.\v"
	       "DEVICE is a PCI address (0000:01:00.0, bound to vfio-pci: see 'svio bind') or "
	       "user:/path.sock. The controller is taken over, initialised and left disabled.",
	.children = children,
};

static bool is_zero(const uint8_t *bytes, size_t n)
{
	while (n)
		if (bytes[--n])
			return false;
	return true;
}

static const char *hex(char *out, const uint8_t *bytes, size_t n)
{
	if (is_zero(bytes, n))
		return NULL;
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", bytes[i]);
	return out;
}

/* RFC 4122 §3: 8-4-4-4-12. */
static const char *uuid_text(char *out, const uint8_t *u)
{
	if (is_zero(u, 16))
		return NULL;
	sprintf(out, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
		u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
		u[14], u[15]);
	return out;
}

/* What a device says goes to a terminal: nothing but printable ASCII. */
static void clean(char *text)
{
	for (; *text; text++)
		if (*text < 0x20 || *text > 0x7e)
			*text = '?';
}

static struct json_object *ns_json(const struct svio_nvme_ns *ns)
{
	struct json_object *obj = json_object_new_object();
	char text[40];

	cli_json_u64(obj, "nsid", ns->nsid);
	cli_json_u64(obj, "blocks", ns->blocks);
	cli_json_u64(obj, "lba_size", ns->lba_size);
	cli_json_u64(obj, "metadata_size", ns->metadata_size);
	cli_json_u64(obj, "bytes", ns->blocks << ns->lba_shift);
	cli_json_str(obj, "eui64", hex(text, ns->eui64, sizeof(ns->eui64)));
	cli_json_str(obj, "nguid", hex(text, ns->nguid, sizeof(ns->nguid)));
	cli_json_str(obj, "uuid", uuid_text(text, ns->uuid));
	return obj;
}

static void version_text(char *out, size_t size, uint32_t vs)
{
	snprintf(out, size, "%u.%u.%u", vs >> 16, vs >> 8 & 0xff, vs & 0xff);
}

static int report_json(const struct identify_args *args, const struct svio_nvme_info *info,
		       const struct svio_nvme_ns *ns, uint32_t count)
{
	struct json_object *doc = json_object_new_object(), *list = json_object_new_array();
	char version[24];

	version_text(version, sizeof(version), info->version);
	cli_json_str(doc, "device", args->device.name);
	cli_json_str(doc, "model", info->model);
	cli_json_str(doc, "serial", info->serial);
	cli_json_str(doc, "firmware", info->firmware);
	cli_json_str(doc, "subnqn", info->subnqn);
	cli_json_hex(doc, "vendor", info->vendor, 4);
	cli_json_u64(doc, "controller_id", info->cntlid);
	cli_json_str(doc, "version", version);
	cli_json_u64(doc, "max_transfer", info->max_transfer);
	cli_json_u64(doc, "max_queues", info->max_queues);
	cli_json_u64(doc, "max_queue_depth", info->max_queue_depth);
	cli_json_u64(doc, "num_namespaces", info->num_namespaces);
	cli_json_bool(doc, "volatile_write_cache", info->volatile_write_cache);
	cli_json_bool(doc, "sgl", info->sgl);
	cli_json_bool(doc, "shadow_doorbells", info->shadow_doorbells);
	cli_json_bool(doc, "write_zeroes", info->write_zeroes);
	cli_json_bool(doc, "dataset_management", info->dsm);
	cli_json_hex(doc, "oacs", info->oacs, 4);
	cli_json_hex(doc, "oncs", info->oncs, 4);
	for (uint32_t i = 0; i < count; i++)
		json_object_array_add(list, ns_json(&ns[i]));
	json_object_object_add(doc, "namespaces", list);
	return cli_json_print(doc);
}

static int report_text(const struct identify_args *args, const struct svio_nvme_info *info,
		       const struct svio_nvme_ns *ns, uint32_t count)
{
	static const char *const headings[] = { "namespace", ">blocks", ">block size", ">capacity",
						"identifier" };
	struct cli_table *table;
	char version[24], size[CLI_SIZE_LEN];

	version_text(version, sizeof(version), info->version);
	printf("%s: %s\n", args->device.name, info->model);
	printf("  serial            %s\n", info->serial);
	printf("  firmware          %s\n", info->firmware);
	printf("  NVMe version      %s\n", version);
	printf("  subsystem         %s\n", info->subnqn);
	printf("  vendor            0x%04x, controller id %u\n", info->vendor, info->cntlid);
	printf("  largest transfer  %s\n", cli_size(info->max_transfer, size));
	printf("  I/O queues        %u, up to %u entries\n", info->max_queues,
	       info->max_queue_depth);
	printf("  offers           %s%s%s%s%s\n", info->volatile_write_cache ? " write-cache" : "",
	       info->sgl ? " sgl" : "", info->shadow_doorbells ? " shadow-doorbells" : "",
	       info->write_zeroes ? " write-zeroes" : "", info->dsm ? " deallocate" : "");
	table = cli_table_new(headings, SVIO_ARRAY_SIZE(headings));
	for (uint32_t i = 0; i < count; i++) {
		char id[16], blocks[24], lba[32], text[40];
		const char *name = uuid_text(text, ns[i].uuid);

		if (!name)
			name = hex(text, ns[i].nguid, sizeof(ns[i].nguid));
		if (!name)
			name = hex(text, ns[i].eui64, sizeof(ns[i].eui64));
		snprintf(id, sizeof(id), "%" PRIu32, ns[i].nsid);
		snprintf(blocks, sizeof(blocks), "%" PRIu64, ns[i].blocks);
		if (ns[i].metadata_size)
			snprintf(lba, sizeof(lba), "%" PRIu32 "+%" PRIu32, ns[i].lba_size,
				 ns[i].metadata_size);
		else
			snprintf(lba, sizeof(lba), "%" PRIu32, ns[i].lba_size);
		cli_table_row(table,
			      (const char *[]){ id, blocks, lba,
						cli_size(ns[i].blocks << ns[i].lba_shift, size),
						name });
	}
	cli_table_print(table, stdout);
	cli_table_free(table);
	return CLI_OK;
}

static int write_raw(struct nvme_session *s, const struct identify_args *args)
{
	uint8_t *data = cli_alloc(IDENTIFY_SIZE);
	bool to_stdout = strcmp(args->raw, "-") == 0;
	FILE *out;
	int rc;

	rc = svio_nvme_identify(s->nvme, args->nsid ? CNS_NAMESPACE : CNS_CONTROLLER, args->nsid,
				data);
	if (rc) {
		rc = cli_fail(rc);
		goto out;
	}
	out = to_stdout ? stdout : fopen(args->raw, "we");
	if (!out) {
		rc = cli_error("%s: %s", args->raw, strerror(errno));
		goto out;
	}
	rc = fwrite(data, IDENTIFY_SIZE, 1, out) == 1 ? CLI_OK : CLI_FAILED;
	if ((to_stdout ? fflush(out) : fclose(out)) || rc) {
		rc = cli_error("%s: %s", args->raw, strerror(errno));
		if (!to_stdout)
			unlink(args->raw);
	}
out:
	free(data);
	return rc;
}

static int identify(struct nvme_session *s, const struct identify_args *args)
{
	struct svio_nvme_info info;
	struct svio_nvme_ns *ns;
	uint32_t *ids, count = MAX_LISTED, n = 0;
	int rc = 0;

	if (args->raw) {
		rc = write_raw(s, args);
		/* Standard output belongs to the data then. */
		if (rc || strcmp(args->raw, "-") == 0)
			return rc;
	}
	svio_nvme_get_info(s->nvme, &info);
	clean(info.model);
	clean(info.serial);
	clean(info.firmware);
	clean(info.subnqn);
	ids = cli_alloc(MAX_LISTED * sizeof(*ids));
	ids[0] = args->nsid;
	if (args->nsid)
		count = 1;
	else
		rc = svio_nvme_ns_list(s->nvme, ids, &count);
	if (!args->nsid && rc) {
		free(ids);
		return cli_fail(rc);
	}
	count = SVIO_MIN(count, (uint32_t)MAX_LISTED);
	ns = cli_alloc((count + 1) * sizeof(*ns));
	for (uint32_t i = 0; i < count; i++) {
		rc = svio_nvme_ns_get(s->nvme, ids[i], &ns[n]);
		if (rc == 0)
			n++;
		else if (rc != -ENOENT ||
			 args->nsid) /* a listed one may have been detached meanwhile */
			break;
	}
	if (rc && (rc != -ENOENT || args->nsid))
		rc = cli_fail(rc);
	else
		rc = args->device.common.json ? report_json(args, &info, ns, n)
				       : report_text(args, &info, ns, n);
	free(ns);
	free(ids);
	return rc;
}

int cmd_nvme_identify(int argc, char **argv)
{
	struct identify_args args = { 0 };
	struct nvme_session s;
	int rc;

	cli_parse(&argp, argc, argv, &args);
	rc = nvme_mem_start(0, 0);
	if (rc)
		return cli_fail(rc);
	rc = nvme_session_open(&s, args.device.name, NULL);
	if (rc) {
		rc = cli_fail(rc);
	} else {
		rc = identify(&s, &args);
		nvme_session_close(&s);
	}
	nvme_mem_stop();
	return rc;
}
