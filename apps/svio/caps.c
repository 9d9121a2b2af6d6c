/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Each decoder reads the registers of one capability. Register layouts: PCI Express Base 5.0, section given at each;
 * offsets by the names of <linux/pci_regs.h>.
 */
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <string.h>
#include "caps.h"
#include "svio_pci.h"

/* A copy of configuration space; reads beyond it give 0, as a register that says nothing. */
struct cfg {
	const uint8_t *bytes;
	size_t len;
};

static uint8_t get8(const struct cfg *c, size_t off)
{
	return off < c->len ? c->bytes[off] : 0;
}

static uint16_t get16(const struct cfg *c, size_t off)
{
	return (uint16_t)(get8(c, off) | get8(c, off + 1) << 8);
}

static uint32_t get32(const struct cfg *c, size_t off)
{
	return get16(c, off) | (uint32_t)get16(c, off + 2) << 16;
}

/* §7.5.2 */
static void decode_pm(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t pmc = get16(c, off + PCI_PM_PMC), csr = get16(c, off + PCI_PM_CTRL);
	static const char *const states[] = { "D0", "D1", "D2", "D3hot" };

	cli_json_int(o, "version", pmc & PCI_PM_CAP_VER_MASK);
	cli_json_str(o, "state", states[csr & PCI_PM_CTRL_STATE_MASK]);
	cli_json_bool(o, "soft_reset", !(csr & PCI_PM_CTRL_NO_SOFT_RESET));
}

/* §7.7.1 */
static void decode_msi(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t flags = get16(c, off + PCI_MSI_FLAGS);

	cli_json_bool(o, "enabled", flags & PCI_MSI_FLAGS_ENABLE);
	cli_json_int(o, "vectors", 1 << ((flags & PCI_MSI_FLAGS_QMASK) >> 1));
	cli_json_bool(o, "64bit", flags & PCI_MSI_FLAGS_64BIT);
	cli_json_bool(o, "maskable", flags & PCI_MSI_FLAGS_MASKBIT);
}

/* §7.7.2 */
static void decode_msix(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t flags = get16(c, off + PCI_MSIX_FLAGS);
	uint32_t table = get32(c, off + PCI_MSIX_TABLE), pba = get32(c, off + PCI_MSIX_PBA);

	cli_json_bool(o, "enabled", flags & PCI_MSIX_FLAGS_ENABLE);
	cli_json_int(o, "vectors", (flags & PCI_MSIX_FLAGS_QSIZE) + 1);
	cli_json_int(o, "table_bar", table & PCI_MSIX_TABLE_BIR);
	cli_json_hex(o, "table_offset", table & PCI_MSIX_TABLE_OFFSET, 1);
	cli_json_int(o, "pba_bar", pba & PCI_MSIX_PBA_BIR);
	cli_json_hex(o, "pba_offset", pba & PCI_MSIX_PBA_OFFSET, 1);
}

/* §7.5.3 */
static void decode_pcie(const struct cfg *c, size_t off, struct json_object *o)
{
	static const char *const types[16] = {
		[PCI_EXP_TYPE_ENDPOINT] = "endpoint",
		[PCI_EXP_TYPE_LEG_END] = "legacy endpoint",
		[PCI_EXP_TYPE_ROOT_PORT] = "root port",
		[PCI_EXP_TYPE_UPSTREAM] = "upstream port",
		[PCI_EXP_TYPE_DOWNSTREAM] = "downstream port",
		[PCI_EXP_TYPE_PCI_BRIDGE] = "bridge to PCI",
		[PCI_EXP_TYPE_PCIE_BRIDGE] = "bridge from PCI",
		[PCI_EXP_TYPE_RC_END] = "root complex integrated endpoint",
		[PCI_EXP_TYPE_RC_EC] = "root complex event collector",
	};
	static const char *const speeds[16] = { NULL, "2.5 GT/s", "5 GT/s", "8 GT/s", "16 GT/s", "32 GT/s",
						"64 GT/s" };
	uint16_t flags = get16(c, off + PCI_EXP_FLAGS), lnksta = get16(c, off + PCI_EXP_LNKSTA);
	uint32_t devcap = get32(c, off + PCI_EXP_DEVCAP), lnkcap = get32(c, off + PCI_EXP_LNKCAP);
	uint16_t devctl = get16(c, off + PCI_EXP_DEVCTL);

	cli_json_int(o, "version", flags & PCI_EXP_FLAGS_VERS);
	cli_json_str(o, "type", types[(flags & PCI_EXP_FLAGS_TYPE) >> 4]);
	cli_json_int(o, "max_payload", 128 << ((devctl & PCI_EXP_DEVCTL_PAYLOAD) >> 5));
	cli_json_int(o, "max_payload_supported", 128 << (devcap & PCI_EXP_DEVCAP_PAYLOAD));
	cli_json_int(o, "max_read_request", 128 << ((devctl & PCI_EXP_DEVCTL_READRQ) >> 12));
	cli_json_bool(o, "flr", devcap & PCI_EXP_DEVCAP_FLR);
	/* A function inside the root complex has no link. */
	if (lnkcap == 0)
		return;
	cli_json_str(o, "link_speed", speeds[lnksta & PCI_EXP_LNKSTA_CLS]);
	cli_json_int(o, "link_width", (lnksta & PCI_EXP_LNKSTA_NLW) >> 4);
	cli_json_str(o, "link_speed_max", speeds[lnkcap & PCI_EXP_LNKCAP_SLS]);
	cli_json_int(o, "link_width_max", (lnkcap & PCI_EXP_LNKCAP_MLW) >> 4);
}

/* Advanced Features, PCI "Conventional Advanced Capabilities" ECN */
static void decode_af(const struct cfg *c, size_t off, struct json_object *o)
{
	cli_json_bool(o, "flr", get8(c, off + PCI_AF_CAP) & PCI_AF_CAP_FLR);
}

/* §9.3.3 */
static void decode_sriov(const struct cfg *c, size_t off, struct json_object *o)
{
	cli_json_bool(o, "enabled", get16(c, off + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE);
	cli_json_int(o, "total_vfs", get16(c, off + PCI_SRIOV_TOTAL_VF));
	cli_json_int(o, "num_vfs", get16(c, off + PCI_SRIOV_NUM_VF));
	cli_json_int(o, "vf_offset", get16(c, off + PCI_SRIOV_VF_OFFSET));
	cli_json_int(o, "vf_stride", get16(c, off + PCI_SRIOV_VF_STRIDE));
	cli_json_hex(o, "vf_device_id", get16(c, off + PCI_SRIOV_VF_DID), 4);
}

/* §10.5.1 */
static void decode_ats(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t cap = get16(c, off + PCI_ATS_CAP), depth = cap & 0x1f;

	cli_json_bool(o, "enabled", get16(c, off + PCI_ATS_CTRL) & PCI_ATS_CTRL_ENABLE);
	/* 0 means 32 (§10.5.1.2). */
	cli_json_int(o, "queue_depth", depth ? depth : 32);
}

/* §10.5.2 */
static void decode_pri(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t status = get16(c, off + PCI_PRI_STATUS);

	cli_json_bool(o, "enabled", get16(c, off + PCI_PRI_CTRL) & PCI_PRI_CTRL_ENABLE);
	cli_json_bool(o, "stopped", status & PCI_PRI_STATUS_STOPPED);
	cli_json_bool(o, "response_needs_pasid", status & PCI_PRI_STATUS_PASID);
	cli_json_int(o, "outstanding_max", get32(c, off + PCI_PRI_MAX_REQ));
}

/* §7.8.8 */
static void decode_pasid(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t cap = get16(c, off + PCI_PASID_CAP);

	cli_json_bool(o, "enabled", get16(c, off + PCI_PASID_CTRL) & PCI_PASID_CTRL_ENABLE);
	cli_json_int(o, "width", cap >> 8 & 0x1f);
	cli_json_bool(o, "execute", cap & PCI_PASID_CAP_EXEC);
	cli_json_bool(o, "privileged", cap & PCI_PASID_CAP_PRIV);
}

/* §7.7.8 */
static void decode_acs(const struct cfg *c, size_t off, struct json_object *o)
{
	uint16_t ctrl = get16(c, off + PCI_ACS_CTRL);

	cli_json_bool(o, "source_validation", ctrl & PCI_ACS_SV);
	cli_json_bool(o, "request_redirect", ctrl & PCI_ACS_RR);
	cli_json_bool(o, "completion_redirect", ctrl & PCI_ACS_CR);
	cli_json_bool(o, "upstream_forwarding", ctrl & PCI_ACS_UF);
}

struct kind {
	uint16_t id;
	const char *name;
	void (*decode)(const struct cfg *c, size_t off, struct json_object *o); /* or NULL */
};

static const struct kind kinds[] = {
	{ PCI_CAP_ID_PM, "power management", decode_pm },
	{ PCI_CAP_ID_AGP, "AGP", NULL },
	{ PCI_CAP_ID_VPD, "vital product data", NULL },
	{ PCI_CAP_ID_MSI, "MSI", decode_msi },
	{ PCI_CAP_ID_PCIX, "PCI-X", NULL },
	{ PCI_CAP_ID_VNDR, "vendor specific", NULL },
	{ PCI_CAP_ID_SSVID, "bridge subsystem IDs", NULL },
	{ PCI_CAP_ID_EXP, "PCI Express", decode_pcie },
	{ PCI_CAP_ID_MSIX, "MSI-X", decode_msix },
	{ PCI_CAP_ID_SATA, "SATA", NULL },
	{ PCI_CAP_ID_AF, "advanced features", decode_af },
	{ PCI_CAP_ID_EA, "enhanced allocation", NULL },
};

static const struct kind ext_kinds[] = {
	{ PCI_EXT_CAP_ID_ERR, "advanced error reporting", NULL },
	{ PCI_EXT_CAP_ID_VC, "virtual channel", NULL },
	{ PCI_EXT_CAP_ID_DSN, "device serial number", NULL },
	{ PCI_EXT_CAP_ID_VNDR, "vendor specific", NULL },
	{ PCI_EXT_CAP_ID_ACS, "ACS", decode_acs },
	{ PCI_EXT_CAP_ID_ARI, "ARI", NULL },
	{ PCI_EXT_CAP_ID_ATS, "ATS", decode_ats },
	{ PCI_EXT_CAP_ID_SRIOV, "SR-IOV", decode_sriov },
	{ PCI_EXT_CAP_ID_PRI, "PRI", decode_pri },
	{ PCI_EXT_CAP_ID_REBAR, "resizable BAR", NULL },
	{ PCI_EXT_CAP_ID_TPH, "TPH", NULL },
	{ PCI_EXT_CAP_ID_LTR, "latency tolerance reporting", NULL },
	{ PCI_EXT_CAP_ID_SECPCI, "secondary PCI Express", NULL },
	{ PCI_EXT_CAP_ID_PASID, "PASID", decode_pasid },
	{ PCI_EXT_CAP_ID_DPC, "DPC", NULL },
	{ PCI_EXT_CAP_ID_L1SS, "L1 PM substates", NULL },
	{ PCI_EXT_CAP_ID_PTM, "precision time measurement", NULL },
};

static void add_cap(struct json_object *list, const struct cfg *c, const struct kind *table, size_t n,
		    bool extended, uint16_t id, size_t off)
{
	struct json_object *o = json_object_new_object();
	const struct kind *kind = NULL;

	for (size_t i = 0; i < n && !kind; i++)
		if (table[i].id == id)
			kind = &table[i];
	cli_json_hex(o, "id", id, extended ? 4 : 2);
	cli_json_bool(o, "extended", extended);
	cli_json_hex(o, "offset", off, 1);
	cli_json_str(o, "name", kind ? kind->name : NULL);
	if (kind && kind->decode)
		kind->decode(c, off, o);
	json_object_array_add(list, o);
}

struct json_object *caps_decode(const uint8_t *cfg, size_t len)
{
	struct json_object *list = json_object_new_array();
	struct cfg c = { cfg, len };
	uint16_t ext = 0;
	uint8_t off = 0;

	while ((off = svio_pci_next_cap(cfg, len, off)) != 0)
		add_cap(list, &c, kinds, SVIO_ARRAY_SIZE(kinds), false, get8(&c, off), off);
	while ((ext = svio_pci_next_ext_cap(cfg, len, ext)) != 0)
		add_cap(list, &c, ext_kinds, SVIO_ARRAY_SIZE(ext_kinds), true, get16(&c, ext), ext);
	return list;
}

void caps_print(struct json_object *caps, FILE *out)
{
	for (size_t i = 0; i < json_object_array_length(caps); i++) {
		struct json_object *o = json_object_array_get_idx(caps, i), *name, *v;
		const char *separator = ": ";

		json_object_object_get_ex(o, "name", &name);
		json_object_object_get_ex(o, "offset", &v);
		fprintf(out, "  %5s  %s", json_object_get_string(v),
			name ? json_object_get_string(name) : "capability ");
		if (!name) {
			json_object_object_get_ex(o, "id", &v);
			fputs(json_object_get_string(v), out);
		}
		json_object_object_foreach(o, key, value) {
			if (!strcmp(key, "id") || !strcmp(key, "extended") || !strcmp(key, "offset") ||
			    !strcmp(key, "name") || !value)
				continue;
			if (json_object_is_type(value, json_type_boolean))
				fprintf(out, "%s%s%s", separator, key,
					json_object_get_boolean(value) ? "+" : "-");
			else
				fprintf(out, "%s%s %s", separator, key, json_object_get_string(value));
			separator = ", ";
		}
		fputc('\n', out);
	}
}
