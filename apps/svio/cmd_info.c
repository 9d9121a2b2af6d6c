/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio info DEV: everything known about one device. A function on VFIO (and a user: or sim: device) is opened, which
 * neither resets it nor lets it do DMA; of another, sysfs tells what it can. The report is built as JSON, and the text is
 * printed from that.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "caps.h"
#include "pcidev.h"
#include "svio_sva.h"

struct args {
	struct cli_device device;
	const char *vf_token;
};

static const struct argp_option options[] = {
	{ "vf-token", 't', "UUID", 0, "Secret shared with the owner of the physical function", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->device;
		return 0;
	case 't':
		args->vf_token = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &cli_device_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "DEV",
	.doc = "Show one device: regions, interrupts, capabilities, reset, IOMMU group, DMA ranges.\v"
	       "DEV is a PCI address (0000:01:00.0), user:SOCKET or sim:MODEL. A function that is not bound to VFIO "
	       "is described from sysfs, and what that cannot tell is named.",
	.children = children,
};

/* ---- through the open device ------------------------------------------------------------------------- */

static const char *region_name(uint32_t index, char *buf, size_t len)
{
	if (index < 6)
		snprintf(buf, len, "BAR %u", index);
	else if (index == 6)
		snprintf(buf, len, "ROM");
	else if (index == SVIO_REGION_CONFIG)
		snprintf(buf, len, "config");
	else if (index == 8)
		snprintf(buf, len, "VGA");
	else
		snprintf(buf, len, "region %u", index);
	return buf;
}

static struct json_object *report_regions(struct svio_device *dev, uint32_t count)
{
	struct svio_region_info *info = cli_alloc(sizeof(*info));
	struct json_object *list = json_object_new_array();
	char name[32];

	for (uint32_t i = 0; i < count; i++) {
		struct json_object *o, *areas;

		if (svio_device_region_info(dev, i, info) || info->size == 0)
			continue;
		o = json_object_new_object();
		areas = json_object_new_array();
		cli_json_int(o, "index", i);
		cli_json_str(o, "name", region_name(i, name, sizeof(name)));
		cli_json_u64(o, "size", info->size);
		cli_json_bool(o, "read", info->flags & SVIO_REGION_READ);
		cli_json_bool(o, "write", info->flags & SVIO_REGION_WRITE);
		cli_json_bool(o, "mmap", info->flags & SVIO_REGION_MMAP);
		for (uint32_t a = 0; a < info->num_areas && a < SVIO_MAX_SPARSE; a++) {
			struct json_object *area = json_object_new_object();

			cli_json_hex(area, "offset", info->areas[a].offset, 1);
			cli_json_u64(area, "size", info->areas[a].size);
			json_object_array_add(areas, area);
		}
		json_object_object_add(o, "mmap_areas", areas);
		json_object_array_add(list, o);
	}
	free(info);
	return list;
}

static struct json_object *report_irqs(struct svio_device *dev, uint32_t count)
{
	static const char *const names[] = { "INTx", "MSI", "MSI-X", "error", "request" };
	struct json_object *list = json_object_new_array();
	struct svio_irq_info info;

	for (uint32_t i = 0; i < count; i++) {
		struct json_object *o;

		if (svio_device_irq_info(dev, i, &info) || info.count == 0)
			continue;
		o = json_object_new_object();
		cli_json_int(o, "index", i);
		cli_json_str(o, "name", i < SVIO_ARRAY_SIZE(names) ? names[i] : NULL);
		cli_json_int(o, "count", info.count);
		cli_json_bool(o, "eventfd", info.eventfd);
		cli_json_bool(o, "maskable", info.maskable);
		cli_json_bool(o, "automasked", info.automasked);
		cli_json_bool(o, "noresize", info.noresize);
		json_object_array_add(list, o);
	}
	return list;
}

static struct json_object *report_dma(struct svio_device *dev)
{
	struct svio_dma_info *info = cli_alloc(sizeof(*info));
	struct json_object *o = json_object_new_object(), *ranges = json_object_new_array();
	int rc = svio_dma_info(svio_device_domain(dev), info);

	if (rc) {
		cli_json_str(o, "error", svio_last_error());
		json_object_put(ranges);
		free(info);
		return o;
	}
	cli_json_hex(o, "page_sizes", info->pgsizes, 1);
	json_object_object_add(o, "mappings_left", info->max_mappings == UINT64_MAX ?
				       NULL : json_object_new_uint64(info->max_mappings));
	cli_json_bool(o, "memlock", info->accounts_memlock);
	cli_json_bool(o, "dirty_tracking", info->dirty_tracking);
	for (uint32_t i = 0; i < info->num_ranges && i < SVIO_DMA_MAX_RANGES; i++) {
		struct json_object *range = json_object_new_object();

		cli_json_hex(range, "first", info->ranges[i].start, 1);
		cli_json_hex(range, "last", info->ranges[i].last, 1);
		json_object_array_add(ranges, range);
	}
	json_object_object_add(o, "iova_ranges", ranges);
	free(info);
	return o;
}

/* Configuration space as the device gives it, up to the first part that cannot be read. */
static size_t read_config(struct svio_device *dev, uint8_t *cfg, size_t max)
{
	struct svio_region_info *info = cli_alloc(sizeof(*info));
	size_t size = 0, got = 0;

	if (svio_device_region_info(dev, SVIO_REGION_CONFIG, info) == 0)
		size = (size_t)SVIO_MIN(info->size, (uint64_t)max);
	free(info);
	while (got + 4 <= size && svio_device_region_read(dev, SVIO_REGION_CONFIG, got, cfg + got, 4) == 0)
		got += 4;
	return got;
}

/* Which mode of shared virtual addressing a bind would give, and why not a better one. */
static struct json_object *report_sva(struct svio_device *dev)
{
	struct json_object *o = json_object_new_object();
	struct svio_sva_report r;

	if (svio_sva_get_report(dev, &r)) {
		cli_json_str(o, "error", svio_last_error());
		return o;
	}
	cli_json_str(o, "mode", svio_sva_mode_text(r.mode));
	cli_json_str(o, "why", r.why);
	if (!r.has_info)
		return o;
	cli_json_int(o, "pasid_bits", r.info.pasid_bits);
	cli_json_int(o, "quota", r.info.quota);
	cli_json_bool(o, "page_requests", r.info.flags & SVIO_SVA_INFO_PRI);
	cli_json_bool(o, "ats", r.info.flags & SVIO_SVA_INFO_ATS);
	cli_json_bool(o, "simulated", r.info.flags & SVIO_SVA_INFO_SIMULATED);
	return o;
}

static void report_open(struct json_object *doc, struct svio_device *dev, bool pci)
{
	static const char *const transports[] = {
		[SVIO_TRANSPORT_GROUP] = "vfio group",
		[SVIO_TRANSPORT_CDEV] = "vfio cdev",
		[SVIO_TRANSPORT_USER] = "vfio-user",
	};
	struct svio_device_info info;
	uint8_t cfg[4096];
	size_t len;

	svio_device_get_info(dev, &info);
	cli_json_str(doc, "transport", transports[info.transport]);
	cli_json_bool(doc, "can_reset", info.can_reset);
	if (!pci) {
		cli_json_hex(doc, "vendor_id", info.vendor, 4);
		cli_json_hex(doc, "device_id", info.device, 4);
		cli_json_hex(doc, "class_code", info.class_code, 6);
		cli_json_str(doc, "class", pcidev_class_name(info.class_code));
		cli_json_int(doc, "revision", info.revision);
	}
	json_object_object_add(doc, "regions", report_regions(dev, info.num_regions));
	json_object_object_add(doc, "irqs", report_irqs(dev, info.num_irqs));
	json_object_object_add(doc, "dma", report_dma(dev));
	json_object_object_add(doc, "sva", report_sva(dev));
	len = read_config(dev, cfg, sizeof(cfg));
	json_object_object_add(doc, "capabilities", caps_decode(cfg, len));
}

/* ---- through sysfs ----------------------------------------------------------------------------------- */

static void add_missing(struct json_object *doc, const char *fmt, ...) SVIO_PRINTF(2, 3);
static void add_missing(struct json_object *doc, const char *fmt, ...)
{
	struct json_object *list;
	char text[SVIO_ERROR_MAX + 64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!json_object_object_get_ex(doc, "missing", &list)) {
		list = json_object_new_array();
		json_object_object_add(doc, "missing", list);
	}
	json_object_array_add(list, json_object_new_string(text));
}

static struct json_object *report_bars(const struct svio_pci_info *info)
{
	struct json_object *list = json_object_new_array();
	char name[32];

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(info->bar); i++) {
		struct json_object *o;

		if (info->bar[i].size == 0)
			continue;
		o = json_object_new_object();
		cli_json_int(o, "index", (int64_t)i);
		cli_json_str(o, "name", region_name((uint32_t)i, name, sizeof(name)));
		cli_json_u64(o, "size", info->bar[i].size);
		cli_json_hex(o, "bus_address", info->bar[i].start, 1);
		/* <linux/ioport.h>: IORESOURCE_IO 0x100, MEM 0x200, PREFETCH 0x2000, MEM_64 0x100000 */
		cli_json_bool(o, "io", info->bar[i].flags & 0x100);
		cli_json_bool(o, "prefetchable", info->bar[i].flags & 0x2000);
		cli_json_bool(o, "64bit", info->bar[i].flags & 0x100000);
		json_object_array_add(list, o);
	}
	return list;
}

/* The first line of an attribute of the function, or false. */
static bool read_attribute(const struct svio_pci_info *info, const char *file, char *buf, size_t len)
{
	char path[128];
	FILE *f;
	bool read;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", info->name, file);
	f = fopen(path, "re");
	if (!f)
		return false;
	read = fgets(buf, (int)len, f) != NULL;
	fclose(f);
	if (read)
		buf[strcspn(buf, "\n")] = '\0';
	return read;
}

static struct json_object *report_group(const struct svio_pci_info *info)
{
	struct json_object *o = json_object_new_object(), *members = json_object_new_array();
	struct svio_pci_info *list;
	char note[256];
	size_t count;
	int viable;

	cli_json_int(o, "number", info->iommu_group);
	if (svio_pci_group_devices(info->iommu_group, &list, &count) == 0) {
		for (size_t i = 0; i < count; i++) {
			struct json_object *m = json_object_new_object();

			cli_json_str(m, "address", list[i].name);
			cli_json_str(m, "driver", list[i].has_driver ? list[i].driver : NULL);
			json_object_array_add(members, m);
		}
		free(list);
	}
	json_object_object_add(o, "members", members);
	viable = svio_pci_group_explain(info->iommu_group);
	cli_json_bool(o, "viable", viable == 0);
	cli_json_str(o, "not_viable_because", viable ? svio_last_error() : NULL);
	if (svio_pci_group_note(info->iommu_group, note, sizeof(note)) == 0 && note[0])
		cli_json_str(o, "shared_because", note);
	return o;
}

/* Ranges of IOVA that the IOMMU keeps for itself: "first last type" per line (sysfs-kernel-iommu_groups). */
static struct json_object *report_reserved(int group)
{
	struct json_object *list = json_object_new_array();
	char path[96], line[128], type[32];
	uint64_t first, last;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/reserved_regions", group);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		struct json_object *o;

		if (sscanf(line, "%" SCNx64 " %" SCNx64 " %31s", &first, &last, type) != 3)
			continue;
		o = json_object_new_object();
		cli_json_hex(o, "first", first, 1);
		cli_json_hex(o, "last", last, 1);
		cli_json_str(o, "type", type);
		json_object_array_add(list, o);
	}
	if (f)
		fclose(f);
	return list;
}

static void report_sysfs(struct json_object *doc, const struct svio_pci_info *info, bool opened)
{
	uint8_t cfg[4096];
	char text[64];
	size_t got;

	json_object_object_add(doc, "bars", report_bars(info));
	cli_json_str(doc, "reset_methods",
		     read_attribute(info, "reset_method", text, sizeof(text)) ? text : NULL);
	if (info->iommu_group >= 0) {
		json_object_object_add(doc, "group", report_group(info));
		json_object_object_add(doc, "reserved_iova", report_reserved(info->iommu_group));
	}
	if (opened)
		return;
	if (svio_pci_config_read(&info->addr, cfg, sizeof(cfg), &got)) {
		add_missing(doc, "capabilities: %s", svio_last_error());
		return;
	}
	json_object_object_add(doc, "capabilities", caps_decode(cfg, got));
	if (got < 256)
		add_missing(doc, "capabilities: the kernel shows them to root only; run: sudo svio info %s",
			    info->name);
}

/* ---- text -------------------------------------------------------------------------------------------- */

static struct json_object *member(struct json_object *o, const char *key)
{
	struct json_object *v;

	return o && json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v = member(o, key);

	return v ? json_object_get_string(v) : "-";
}

static bool flag_of(struct json_object *o, const char *key)
{
	return json_object_get_boolean(member(o, key));
}

static size_t length_of(struct json_object *list)
{
	return list ? json_object_array_length(list) : 0;
}

static void print_regions(struct json_object *doc)
{
	struct json_object *list = member(doc, "regions"), *bars = member(doc, "bars");
	char size[CLI_SIZE_LEN];

	if (length_of(bars))
		printf("BARs\n");
	for (size_t i = 0; i < length_of(bars); i++) {
		struct json_object *o = json_object_array_get_idx(bars, i);

		printf("  %-7s %10s at %s%s%s%s\n", text_of(o, "name"),
		       cli_size(json_object_get_uint64(member(o, "size")), size), text_of(o, "bus_address"),
		       flag_of(o, "io") ? ", I/O ports" : ", memory", flag_of(o, "64bit") ? ", 64 bit" : "",
		       flag_of(o, "prefetchable") ? ", prefetchable" : "");
	}
	if (length_of(list))
		printf("Regions (VFIO)\n");
	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i), *areas = member(o, "mmap_areas");

		printf("  %-7s %10s %s%s%s", text_of(o, "name"),
		       cli_size(json_object_get_uint64(member(o, "size")), size), flag_of(o, "read") ? "r" : "-",
		       flag_of(o, "write") ? "w" : "-", flag_of(o, "mmap") ? "m" : "-");
		for (size_t a = 0; a < length_of(areas); a++) {
			struct json_object *area = json_object_array_get_idx(areas, a);

			printf("%s%s at %s", a ? ", " : "  maps ",
			       cli_size(json_object_get_uint64(member(area, "size")), size),
			       text_of(area, "offset"));
		}
		putchar('\n');
	}
}

static void print_irqs(struct json_object *doc)
{
	struct json_object *list = member(doc, "irqs");

	if (length_of(list))
		printf("Interrupts (VFIO)\n");
	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		printf("  %-7s %s%s%s%s\n", text_of(o, "name"), text_of(o, "count"),
		       flag_of(o, "maskable") ? ", maskable" : "",
		       flag_of(o, "automasked") ? ", masked when it fires" : "",
		       flag_of(o, "noresize") ? ", fixed number while enabled" : "");
	}
}

static void print_group(struct json_object *doc)
{
	struct json_object *group = member(doc, "group"), *members = member(group, "members");

	if (!group)
		return;
	printf("IOMMU group %s: %s\n", text_of(group, "number"), flag_of(group, "viable") ? "viable" : "not viable");
	for (size_t i = 0; i < length_of(members); i++) {
		struct json_object *o = json_object_array_get_idx(members, i);

		printf("  %s  %s\n", text_of(o, "address"), text_of(o, "driver"));
	}
	if (!flag_of(group, "viable"))
		printf("  %s\n", text_of(group, "not_viable_because"));
	if (member(group, "shared_because"))
		printf("  shared because %s\n", text_of(group, "shared_because"));
}

static void print_ranges(const char *title, struct json_object *list)
{
	if (!length_of(list))
		return;
	printf("%s\n", title);
	for (size_t i = 0; i < length_of(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		printf("  %s - %s%s%s\n", text_of(o, "first"), text_of(o, "last"),
		       member(o, "type") ? "  " : "", member(o, "type") ? text_of(o, "type") : "");
	}
}

static void print_dma(struct json_object *doc)
{
	struct json_object *dma = member(doc, "dma");

	if (!dma)
		return;
	if (member(dma, "error")) {
		printf("DMA: %s\n", text_of(dma, "error"));
		return;
	}
	printf("DMA: page sizes %s, %s mappings left%s%s\n", text_of(dma, "page_sizes"),
	       member(dma, "mappings_left") ? text_of(dma, "mappings_left") : "unlimited",
	       flag_of(dma, "memlock") ? ", counts against RLIMIT_MEMLOCK" : "",
	       flag_of(dma, "dirty_tracking") ? ", dirty tracking" : "");
	print_ranges("Usable IOVA", member(dma, "iova_ranges"));
}

static void print_sva(struct json_object *sva)
{
	if (!sva)
		return;
	if (member(sva, "error"))
		printf("SVA: %s\n", text_of(sva, "error"));
	else
		printf("SVA: %s%s: %s\n", text_of(sva, "mode"),
		       strcmp(text_of(sva, "mode"), "native") ? " (registered memory only), not native" : "", text_of(sva, "why"));
}

static void print_text(struct json_object *doc)
{
	struct json_object *pci = member(doc, "pci"), *missing = member(doc, "missing");
	struct json_object *id = pci ? pci : doc, *caps = member(doc, "capabilities");

	printf("%s  %s  [%s:%s]\n", text_of(doc, "device"), pci ? text_of(pci, "name") : text_of(doc, "transport"),
	       text_of(id, "vendor_id"), text_of(id, "device_id"));
	printf("Class %s (%s), revision %s\n", text_of(id, "class"), text_of(id, "class_code"),
	       text_of(id, "revision"));
	if (pci) {
		printf("Driver %s, NUMA node %s", text_of(pci, "driver"), text_of(pci, "numa_node"));
		if (member(pci, "physfn"))
			printf(", virtual function of %s", text_of(pci, "physfn"));
		putchar('\n');
		if (flag_of(pci, "quirk_broken_intx"))
			printf("Quirk: its INTx status bit does not work; svio uses MSI-X or polling, never INTx\n");
		if (flag_of(pci, "quirk_vfio_denylist"))
			printf("Quirk: on vfio-pci's denylist\n");
	}
	if (member(doc, "transport"))
		printf("Transport %s, %s\n", text_of(doc, "transport"),
		       flag_of(doc, "can_reset") ? "can be reset" : "no function reset");
	if (member(doc, "reset_methods"))
		printf("Reset methods: %s\n", text_of(doc, "reset_methods"));
	print_regions(doc);
	print_irqs(doc);
	if (length_of(caps)) {
		printf("Capabilities\n");
		caps_print(caps, stdout);
	}
	print_group(doc);
	print_dma(doc);
	print_sva(member(doc, "sva"));
	print_ranges("Reserved IOVA", member(doc, "reserved_iova"));
	for (size_t i = 0; i < length_of(missing); i++)
		printf("Not shown: %s\n", json_object_get_string(json_object_array_get_idx(missing, i)));
}

/* ---- the command ------------------------------------------------------------------------------------- */

static int open_quietly(const struct args *args, const char *name, struct svio_device **dev)
{
	struct svio_device_opts opts = {
		.size = sizeof(opts),
		.vf_token = args->vf_token,
		.flags = SVIO_DEVICE_NO_WATCH | SVIO_DEVICE_NO_RESET,
	};

	return svio_device_open(name, &opts, dev);
}

/* A PCI function: sysfs always, VFIO if it is there and lets us. */
static int info_pci(const struct args *args, const struct svio_pci_addr *addr, struct json_object *doc)
{
	struct pcidev_ability ability;
	struct svio_device *dev = NULL;
	struct json_object *pci;
	struct svio_pci_info info;
	int rc = svio_pci_get(addr, &info);

	if (rc)
		return rc;
	pcidev_ability(&info, &ability);
	pci = pcidev_json(&info, &ability);
	svio_pci_get_override(&info);
	cli_json_str(pci, "driver_override", info.driver_override[0] ? info.driver_override : NULL);
	json_object_object_add(doc, "pci", pci);
	if (!pcidev_on_vfio(&info))
		add_missing(doc, "VFIO regions, interrupts, DMA ranges and SVA: %s%s, not to vfio-pci%s%s",
			    info.has_driver ? "bound to " : "not bound", info.driver,
			    ability.why[0] ? "; " : "", ability.why);
	else if (open_quietly(args, info.name, &dev))
		add_missing(doc, "VFIO regions, interrupts, DMA ranges and SVA: %s", svio_last_error());
	if (dev)
		report_open(doc, dev, true);
	report_sysfs(doc, &info, dev != NULL);
	svio_device_close(dev);
	return 0;
}

static int info_other(const struct args *args, struct json_object *doc)
{
	struct svio_device *dev;
	int rc = open_quietly(args, args->device.name, &dev);

	if (rc)
		return rc;
	report_open(doc, dev, false);
	svio_device_close(dev);
	return 0;
}

int cmd_info(int argc, char **argv)
{
	struct json_object *doc = json_object_new_object();
	struct svio_pci_addr addr;
	char name[SVIO_PCI_ADDR_STRLEN];
	struct args args = { 0 };
	int rc;

	cli_parse(&argp, argc, argv, &args);
	if (svio_pci_parse_addr(args.device.name, &addr) == 0) {
		cli_json_str(doc, "device", svio_pci_format_addr(&addr, name));
		rc = info_pci(&args, &addr, doc);
	} else if (strchr(args.device.name, ':') && strchr("0123456789", args.device.name[0]) == NULL) {
		cli_json_str(doc, "device", args.device.name);
		rc = info_other(&args, doc);
	} else {
		cli_error("'%s' is no device: a PCI address (0000:01:00.0), user:SOCKET or sim:MODEL", args.device.name);
		json_object_put(doc);
		return CLI_USAGE;
	}
	if (rc) {
		json_object_put(doc);
		return cli_fail(rc);
	}
	if (args.device.common.json)
		return cli_json_print(doc);
	print_text(doc);
	json_object_put(doc);
	return CLI_OK;
}
