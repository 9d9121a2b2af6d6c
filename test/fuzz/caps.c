/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains from a hostile device: capability lists in configuration space, and what follows the fixed part of VFIO's replies.
 *
 * Input: a byte that chooses, then configuration space, a reply, or a device's answers to region info.
 */
#include <fcntl.h>
#include "fuzz.h"
#include "vfio_priv.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	svio_log_set(SVIO_LOG_ERR, fz_no_log, NULL);
	return 0;
}

/* ---- configuration space ------------------------------------------------------------------------------ */

static void config_lists(struct fz_in *in)
{
	size_t len = in->left;
	uint8_t *cfg = malloc(len ? len : 1), off = 0; /* of its exact size, for the sanitizer */
	uint16_t ext = 0;
	unsigned int n = 0;

	fz_bytes(in, cfg, len);
	while ((off = svio_pci_next_cap(cfg, len, off)) != 0) {
		FZ_CHECK(off >= 0x40 && off + 2u <= len && off % 4 == 0);
		FZ_CHECK(++n <= 48); /* (256 - 64) / 4 places */
		FZ_CHECK(svio_pci_find_cap(cfg, len, cfg[off], 0) != 0);
	}
	n = 0;
	while ((ext = svio_pci_next_ext_cap(cfg, len, ext)) != 0) {
		FZ_CHECK(ext >= 0x100 && ext + 4u <= len && ext % 4 == 0);
		FZ_CHECK(++n <= 960);
		FZ_CHECK(n > 64 || svio_pci_find_ext_cap(cfg, len, (uint16_t)(cfg[ext] | cfg[ext + 1] << 8), 0) != 0);
	}
	for (unsigned int id = 0; id < 256; id += 5) {
		off = svio_pci_find_cap(cfg, len, (uint8_t)id, (uint8_t)(id * 3));
		FZ_CHECK(!off || (off + 2u <= len && cfg[off] == id));
		ext = svio_pci_find_ext_cap(cfg, len, (uint16_t)id, (uint16_t)(id * 16));
		FZ_CHECK(!ext || ext + 4u <= len);
	}
	free(cfg);
}

/* ---- a chain behind a reply ----------------------------------------------------------------------------- */

static void reply_chain(struct fz_in *in)
{
	uint32_t first = fz_u32(in);
	uint16_t id = fz_u16(in);
	size_t fixed = fz_u8(in), len = in->left, cap = 0, room = 0;
	uint8_t *reply = malloc(len ? len : 1);
	int err;

	fz_bytes(in, reply, len);
	err = svio__chain_find(reply, len, fixed, first, id, &cap, &room);
	FZ_CHECK(err == 0 || err == -ENOENT || err == -EPROTO);
	if (!err) {
		struct vfio_info_cap_header h;

		FZ_CHECK(cap >= fixed && cap < len && room == len - cap && room >= sizeof(h));
		memcpy(&h, reply + cap, sizeof(h));
		FZ_CHECK(h.id == id);
	}
	free(reply);
}

/* ---- region info: a transport that answers from the input ---------------------------------------------------- */

static struct fz_in *answers;
static uint8_t config[256];

static int fake_region_info(struct svio_device *dev, struct vfio_region_info *info)
{
	uint32_t room = info->argsz, index = info->index;
	uint8_t how = fz_u8(answers);
	size_t tail;

	(void)dev;
	if (how == 0xff)
		return -EINVAL;
	if (how == 0xfe)
		return -EIO;
	/* Sizes that say something, and now and then any. */
	info->flags = how & 15;
	info->size = how & 16 ? fz_u64(answers) : (uint64_t)fz_u16(answers) << 9;
	info->offset = how & 32 ? fz_u64(answers) : (uint64_t)index << 40;
	info->cap_offset = how & 64 ? fz_u32(answers) : sizeof(*info);
	info->argsz = how & 128 ? fz_u32(answers) : (uint32_t)sizeof(*info) + fz_u8(answers) * 8u;
	tail = SVIO_MIN(room, info->argsz);
	tail = tail > sizeof(*info) ? tail - sizeof(*info) : 0;
	fz_bytes(answers, (uint8_t *)info + sizeof(*info), tail);
	return 0;
}

static ssize_t fake_region_read(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, void *buf, size_t len)
{
	(void)dev;
	(void)offset;
	FZ_CHECK(region == SVIO_REGION_CONFIG && pos < sizeof(config));
	len = SVIO_MIN(len, sizeof(config) - pos);
	memcpy(buf, config + pos, len);
	return (ssize_t)len;
}

static void check_areas(const struct svio_region_info *info)
{
	uint64_t end = 0;

	FZ_CHECK(info->num_areas <= SVIO_MAX_SPARSE);
	for (uint32_t i = 0; i < info->num_areas; i++) {
		const struct svio_sparse_area *a = &info->areas[i];

		FZ_CHECK(a->size && !((a->offset | a->size) & 4095));
		FZ_CHECK(i == 0 || a->offset > end); /* sorted; what touches is one */
		FZ_CHECK(a->offset <= info->size && a->size <= info->size - a->offset);
		end = a->offset + a->size;
	}
}

static void regions(struct fz_in *in)
{
	static const struct svio__transport_ops ops = { .region_info = fake_region_info, .region_read = fake_region_read };
	struct svio_device *dev = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*dev), (size_t)SVIO_CACHELINE));
	uint32_t table_at = fz_u32(in), table_n = fz_u16(in) & 0x7ff;
	int err;

	memset(dev, 0, sizeof(*dev));
	memset(config, 0, sizeof(config));
	config[PCI_STATUS] = PCI_STATUS_CAP_LIST;
	config[PCI_CAPABILITY_LIST] = (uint8_t)(fz_u8(in) & 0xfc);
	config[config[PCI_CAPABILITY_LIST]] = PCI_CAP_ID_MSIX;
	if (config[PCI_CAPABILITY_LIST] >= 0x40 && config[PCI_CAPABILITY_LIST] <= 0xf4) {
		config[config[PCI_CAPABILITY_LIST] + PCI_MSIX_FLAGS] = (uint8_t)table_n;
		config[config[PCI_CAPABILITY_LIST] + PCI_MSIX_FLAGS + 1] = (uint8_t)(table_n >> 8);
		memcpy(config + config[PCI_CAPABILITY_LIST] + PCI_MSIX_TABLE, &table_at, 4);
	}
	strcpy(dev->name, "fuzz");
	dev->ops = &ops;
	dev->owner = getpid();
	dev->info.num_regions = 9;
	pthread_mutex_init(&dev->lock, NULL);
	answers = in;
	err = svio__regions_load(dev);
	if (!err) {
		for (uint32_t i = 0; i < 9; i++)
			check_areas(&dev->regions[i].info);
		err = svio__regions_hide_msix(dev);
		for (uint32_t i = 0; i < 9; i++)
			check_areas(&dev->regions[i].info);
		if (!err && config[PCI_CAPABILITY_LIST] >= 0x40 && config[PCI_CAPABILITY_LIST] <= 0xf4) {
			const struct svio_region_info *r = &dev->regions[table_at & 7].info;
			uint64_t from = table_at & ~7u, to = from + (table_n + 1) * 16;

			for (uint32_t i = 0; i < r->num_areas; i++)
				FZ_CHECK(r->areas[i].offset + r->areas[i].size <= from || r->areas[i].offset >= to);
		}
	}
	pthread_mutex_destroy(&dev->lock);
	free(dev->regions);
	free(dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fz_in in = { data, size };

	switch (fz_u8(&in) % 3) {
	case 0:
		config_lists(&in);
		break;
	case 1:
		reply_chain(&in);
		break;
	default:
		regions(&in);
	}
	return 0;
}
