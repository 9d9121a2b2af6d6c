/* SPDX-License-Identifier: BSD-3-Clause */
/* Identify (1.4 §5.15): the controller, its namespaces, and raw data for tools. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "nvme_priv.h"

void nvme_identify_cmd(struct nvme_cmd *cmd, uint8_t cns, uint32_t nsid, uint64_t iova)
{
	*cmd = (struct nvme_cmd){
		.opcode = NVME_ADM_IDENTIFY,
		.nsid = svio_cpu_to_le32(nsid),
		.prp1 = svio_cpu_to_le64(iova),
		.cdw10 = svio_cpu_to_le32(cns),
	};
}

/*
 * Keep what Identify Controller said. After a reset it must be the same controller, or the requests that we hold would go to
 * somebody else's data.
 */
int nvme_adopt_identity(struct svio_nvme *nvme, const struct nvme_id_ctrl *id)
{
	uint32_t sgls = svio_le32_to_cpu(id->sgls) & NVME_SGLS_MASK;

	if (nvme->identified && (memcmp(nvme->id.sn, id->sn, sizeof(id->sn)) ||
				 memcmp(nvme->id.mn, id->mn, sizeof(id->mn))))
		return svio_fail(ENODEV, "%s: another controller answers (serial number or model changed)",
				 nvme->name);
	/* 1.4 figure 247, SQES and CQES: the required sizes are 64 and 16 bytes for the NVM command set. */
	if ((id->sqes & 0xf) > NVME_SQE_SHIFT || (id->sqes >> 4) < NVME_SQE_SHIFT || (id->cqes & 0xf) > NVME_CQE_SHIFT ||
	    (id->cqes >> 4) < NVME_CQE_SHIFT)
		return svio_fail(ENOTSUP, "%s: no queue entries of 64 and 16 bytes (SQES 0x%02x, CQES 0x%02x)",
				 nvme->name, id->sqes, id->cqes);
	nvme->id = *id;
	nvme->identified = true;
	nvme->sgl = !nvme->opts.no_sgl && (sgls == NVME_SGLS_NO_ALIGN || sgls == NVME_SGLS_DWORD);
	return 0;
}

/* A blank-padded field as text; what is not printable becomes '?'. */
static void id_text(char *to, const char *from, size_t len)
{
	while (len && (from[len - 1] == ' ' || from[len - 1] == '\0'))
		len--;
	for (size_t i = 0; i < len; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[len] = '\0';
}

/* Bytes of one request: MDTS is a power of two of the smallest page size (1.4 figure 247, byte 77). */
static uint32_t max_transfer(const struct svio_nvme *nvme)
{
	uint32_t shift = 12 + NVME_CAP_MPSMIN(nvme->cap) + nvme->id.mdts;

	if (nvme->id.mdts == 0 || shift >= 25)
		return NVME_MAX_TRANSFER;
	return SVIO_MIN(UINT32_C(1) << shift, NVME_MAX_TRANSFER);
}

void svio_nvme_get_info(struct svio_nvme *nvme, struct svio_nvme_info *info)
{
	const struct nvme_id_ctrl *id = &nvme->id;

	memset(info, 0, sizeof(*info));
	pthread_mutex_lock(&nvme->lock);
	id_text(info->serial, id->sn, sizeof(id->sn));
	id_text(info->model, id->mn, sizeof(id->mn));
	id_text(info->firmware, id->fr, sizeof(id->fr));
	id_text(info->subnqn, id->subnqn, strnlen(id->subnqn, sizeof(id->subnqn)));
	info->vendor = svio_le16_to_cpu(id->vid);
	info->cntlid = svio_le16_to_cpu(id->cntlid);
	info->version = nvme->vs;
	info->num_namespaces = svio_le32_to_cpu(id->nn);
	info->max_transfer = max_transfer(nvme);
	info->max_queues = nvme->granted;
	info->max_queue_depth = NVME_CAP_MQES(nvme->cap) + 1;
	info->volatile_write_cache = id->vwc & NVME_VWC_PRESENT;
	info->sgl = nvme->sgl;
	info->shadow_doorbells = nvme->use_shadow;
	info->oacs = svio_le16_to_cpu(id->oacs);
	info->oncs = svio_le16_to_cpu(id->oncs);
	info->write_zeroes = info->oncs & NVME_ONCS_WRITE_ZEROES;
	info->dsm = info->oncs & NVME_ONCS_DSM;
	pthread_mutex_unlock(&nvme->lock);
}

/* 0, a positive NVMe status, or -errno. */
static int identify(struct svio_nvme *nvme, uint8_t cns, uint32_t nsid, void *buf)
{
	struct nvme_cmd cmd;
	int r;

	pthread_mutex_lock(&nvme->identify_lock);
	memset(nvme_page(nvme, NVME_PAGE_IDENTIFY), 0, NVME_IDENTIFY_SIZE);
	nvme_identify_cmd(&cmd, cns, nsid, nvme_page_iova(nvme, NVME_PAGE_IDENTIFY));
	r = nvme_admin_sync(nvme, &cmd, NULL);
	if (r == 0)
		memcpy(buf, nvme_page(nvme, NVME_PAGE_IDENTIFY), NVME_IDENTIFY_SIZE);
	pthread_mutex_unlock(&nvme->identify_lock);
	return r;
}

int svio_nvme_identify(struct svio_nvme *nvme, uint8_t cns, uint32_t nsid, void *buf)
{
	return nvme_admin_explain(nvme, "Identify", identify(nvme, cns, nsid, buf));
}

/* The list of CNS 03h; the lengths are the device's, so every step is checked. */
static void parse_descs(const uint8_t *list, struct svio_nvme_ns *ns)
{
	size_t off = 0;

	while (off + sizeof(struct nvme_ns_desc) <= NVME_IDENTIFY_SIZE) {
		const struct nvme_ns_desc *d = (const void *)(list + off);
		const uint8_t *value = list + off + sizeof(*d);

		if (d->nidt == 0 || d->nidl == 0 || d->nidl > NVME_IDENTIFY_SIZE - off - sizeof(*d))
			break;
		if (d->nidt == NVME_NIDT_UUID && d->nidl == sizeof(ns->uuid))
			memcpy(ns->uuid, value, sizeof(ns->uuid));
		else if (d->nidt == NVME_NIDT_NGUID && d->nidl == sizeof(ns->nguid))
			memcpy(ns->nguid, value, sizeof(ns->nguid));
		else if (d->nidt == NVME_NIDT_EUI64 && d->nidl == sizeof(ns->eui64))
			memcpy(ns->eui64, value, sizeof(ns->eui64));
		off += sizeof(*d) + d->nidl;
	}
}

static int parse_ns(struct svio_nvme *nvme, uint32_t nsid, const struct nvme_id_ns *id, struct svio_nvme_ns *ns)
{
	uint32_t format = NVME_FLBAS_INDEX(id->flbas);
	const struct nvme_lbaf *lbaf;

	if (svio_le64_to_cpu(id->ncap) == 0) /* all zero: inactive (1.4 §5.15.2.1) */
		return svio_fail(ENOENT, "%s: namespace %u is not active", nvme->name, nsid);
	if (format > id->nlbaf)
		return svio_fail(EPROTO, "%s: namespace %u uses LBA format %u of %u", nvme->name, nsid, format,
				 id->nlbaf + 1);
	lbaf = &id->lbaf[format];
	if (lbaf->lbads < 9 || lbaf->lbads > 16)
		return svio_fail(ENOTSUP, "%s: namespace %u has blocks of 2^%u bytes", nvme->name, nsid, lbaf->lbads);
	ns->nsid = nsid;
	ns->lba_shift = lbaf->lbads;
	ns->lba_size = UINT32_C(1) << lbaf->lbads;
	ns->metadata_size = svio_le16_to_cpu(lbaf->ms);
	if (ns->metadata_size && ((id->flbas & NVME_FLBAS_EXTENDED) || (id->dps & NVME_DPS_TYPE_MASK)))
		return svio_fail(ENOTSUP, "%s: namespace %u keeps %u bytes of metadata in each block; format it without",
				 nvme->name, nsid, ns->metadata_size);
	ns->blocks = svio_le64_to_cpu(id->nsze);
	if (ns->blocks == 0 || ns->blocks > UINT64_MAX >> ns->lba_shift) /* its users count in bytes */
		return svio_fail(EPROTO, "%s: namespace %u says that it has %" PRIu64 " blocks of %u bytes", nvme->name, nsid,
				 ns->blocks, ns->lba_size);
	memcpy(ns->eui64, id->eui64, sizeof(ns->eui64));
	memcpy(ns->nguid, id->nguid, sizeof(ns->nguid));
	return 0;
}

int svio_nvme_ns_get(struct svio_nvme *nvme, uint32_t nsid, struct svio_nvme_ns *ns)
{
	union {
		struct nvme_id_ns ns;
		uint8_t descs[NVME_IDENTIFY_SIZE];
	} *id;
	int r;

	memset(ns, 0, sizeof(*ns));
	if (nsid == 0 || nsid == NVME_NSID_ALL)
		return svio_fail(EINVAL, "%s: %u is no namespace id", nvme->name, nsid);
	id = malloc(sizeof(*id));
	if (!id)
		return svio_fail(ENOMEM, "%s: out of memory", nvme->name);
	r = identify(nvme, NVME_CNS_NS, nsid, id);
	if (r == SVIO_NVME_SC(NVME_SCT_GENERIC, NVME_SC_INVALID_NS))
		r = svio_fail(ENOENT, "%s: there is no namespace %u", nvme->name, nsid);
	else
		r = nvme_admin_explain(nvme, "Identify Namespace", r);
	if (r == 0)
		r = parse_ns(nvme, nsid, &id->ns, ns);
	/* Mandatory from 1.3 on; older controllers refuse, which costs nothing. */
	if (r == 0 && nvme->vs >= NVME_VS(1, 3, 0) && identify(nvme, NVME_CNS_NS_DESCS, nsid, id) == 0)
		parse_descs(id->descs, ns);
	free(id);
	return r;
}

int svio_nvme_ns_list(struct svio_nvme *nvme, uint32_t *nsids, uint32_t *count)
{
	uint32_t capacity = *count, n = 0, last = 0;
	svio_le32 *list = malloc(NVME_IDENTIFY_SIZE);
	int r = 0;

	*count = 0;
	if (!list)
		return svio_fail(ENOMEM, "%s: out of memory", nvme->name);
	for (;;) {
		uint32_t i;

		r = nvme_admin_explain(nvme, "Identify Active Namespace List",
				       identify(nvme, NVME_CNS_NS_LIST, last, list));
		if (r)
			break;
		for (i = 0; i < NVME_NS_LIST_MAX; i++) {
			uint32_t nsid = svio_le32_to_cpu(list[i]);

			if (nsid == 0)
				break;
			if (nsid <= last || nsid == NVME_NSID_ALL) { /* must ascend (1.4 §5.15.2.2): else no end */
				r = svio_fail(EPROTO, "%s: the namespace list is not ascending", nvme->name);
				break;
			}
			last = nsid;
			if (n < capacity)
				nsids[n] = nsid;
			n++;
		}
		if (r || i < NVME_NS_LIST_MAX)
			break;
	}
	free(list);
	if (r == 0)
		*count = n;
	return r;
}
