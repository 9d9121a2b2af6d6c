/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile source of a migration: any stream into RESUMING, then the device runs.
 *
 * Input: a byte that chooses model and form, then
 *	raw	the bytes of the stream, in pieces
 *	framed	sections { type, version, 16-bit length, data }, to which the target adds the header, lengths and the checksum
 *	patched	changes { section, offset, byte } of what the same device saved, with the checksum corrected
 * A stream that is refused leaves ERROR, out of which only a reset leads; one that is taken leaves a device that runs, with
 * its identity.
 */
#include <linux/pci_regs.h>
#include <sys/mman.h>
#include "kit.h"

#define HDR_LEN 40u /* of the stream, see lib/vdev/migrate.c */
#define SEC_LEN 16u

static const char *const names[] = { "edu", "nvme", "probe" };
static char specs[3][160];
static struct {
	uint8_t *data;
	size_t len;
} saved[3];
static int backing;

static void save(unsigned int which)
{
	static uint8_t piece[65536];
	struct svio_vdev *dev;
	uint8_t cmd = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	size_t got;

	FZ_CHECK(svio_vdev_create(specs[which], 0, &dev) == 0);
	svio__vd_region_write(dev, SVIO_VFU_REGION_CONFIG, PCI_COMMAND, &cmd, 1);
	if (which == 1) { /* an enabled controller */
		uint32_t aqa = 0x000f000f, cc = 1 | 6 << 16 | 4 << 20;
		uint64_t asq = 0x10000, acq = 0x11000;

		svio__vd_region_write(dev, 0, 0x24, (uint8_t *)&aqa, 4);
		svio__vd_region_write(dev, 0, 0x28, (uint8_t *)&asq, 8);
		svio__vd_region_write(dev, 0, 0x30, (uint8_t *)&acq, 8);
		svio__vd_region_write(dev, 0, 0x14, (uint8_t *)&cc, 4);
	}
	FZ_CHECK(svio__vd_mig_set(dev, SVIO_VFU_STATE_STOP_COPY) == 0);
	do {
		FZ_CHECK(svio__vd_mig_read(dev, piece, sizeof(piece), &got) == 0);
		saved[which].data = realloc(saved[which].data, saved[which].len + got);
		memcpy(saved[which].data + saved[which].len, piece, got);
		saved[which].len += got;
	} while (got == sizeof(piece));
	FZ_CHECK(svio__vd_reset(dev, SVIO_VDEV_RESET_MESSAGE) == 0); /* ends the session */
	svio_vdev_destroy(dev);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fz_kit_init();
	backing = fz_memfd(64 << 10, false);
	snprintf(specs[0], sizeof(specs[0]), "edu,map");
	snprintf(specs[1], sizeof(specs[1]),
		 "nvme,queues=2,entries=8,file=/proc/self/fd/%d,shared,dbbuf,nguid=000102030405060708090a0b0c0d0e0f", backing);
	snprintf(specs[2], sizeof(specs[2]), "probe");
	for (unsigned int i = 0; i < 3; i++)
		save(i);
	return 0;
}

static void put(uint8_t **at, uint64_t v, unsigned int bytes)
{
	memcpy(*at, &v, bytes);
	*at += bytes;
}

/* Behind what was assembled: the section that ends it, with the right checksum. */
static size_t seal(uint8_t *stream, size_t len)
{
	uint8_t *at = stream + len;
	uint32_t crc = svio_crc32c(0, stream, len);

	put(&at, 0xffff, 4);
	put(&at, 1, 4);
	put(&at, 4, 8);
	put(&at, crc, 4);
	return len + SEC_LEN + 4;
}

static size_t framed(unsigned int which, struct fz_in *in, uint8_t *stream, size_t room)
{
	uint8_t *at = stream;

	put(&at, UINT64_C(0x3156454456495653), 8);
	memset(at, 0, 32);
	strcpy((char *)at, names[which]);
	at += 32;
	while (in->left && room - (size_t)(at - stream) > 70000) {
		size_t len, lie = 0;
		uint8_t type = fz_u8(in);

		put(&at, type & 15, 4);
		put(&at, type & 16 ? fz_u8(in) : which == 2 && (type & 15) > 3 ? 3 : 1, 4);
		len = fz_u16(in);
		if (type & 32)
			lie = fz_u64(in);
		put(&at, lie ? lie : len, 8);
		fz_bytes(in, at, len);
		at += len;
	}
	return seal(stream, (size_t)(at - stream));
}

static size_t patched(unsigned int which, struct fz_in *in, uint8_t *stream)
{
	size_t len = saved[which].len - SEC_LEN - 4, starts[32], n = 0;
	uint64_t bytes;

	memcpy(stream, saved[which].data, len);
	for (size_t at = HDR_LEN; at < len && n < 32; at += SEC_LEN + bytes) {
		starts[n++] = at;
		memcpy(&bytes, stream + at + 8, 8);
	}
	while (in->left) {
		size_t at = starts[fz_u8(in) % n] + fz_u16(in);
		uint8_t byte = fz_u8(in);

		if (at < len)
			stream[at] = byte;
	}
	return seal(stream, len);
}

static void check_identity(const struct svio_vdev *dev, const uint8_t *ref)
{
	uint32_t power = dev->cap_pm ? svio_vdev_config_get(dev, dev->cap_pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK : 0;

	FZ_CHECK(power == 0 || power == 3); /* the states that the device has */
	for (uint32_t i = 0; i < VD_CFG_SIZE; i++) {
		uint8_t fixed = (uint8_t)~(dev->wmask[i] | dev->w1c[i]);

		if (i == PCI_STATUS)
			fixed &= (uint8_t)~PCI_STATUS_INTERRUPT;
		/* MSI's pending bits are read-only and alive, where there are any. */
		if (dev->cap_msi && dev->cfg[dev->cap_msi + PCI_MSI_FLAGS + 1] & (PCI_MSI_FLAGS_MASKBIT >> 8) &&
		    i >= dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 && i < dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 + 4)
			continue;
		FZ_CHECK(((dev->cfg[i] ^ ref[i]) & fixed) == 0);
	}
}

/* What a device is good for after the migration: registers, polls, a doorbell or two. */
static void use(struct fz_kit *k, uint8_t seed)
{
	struct svio_vdev *dev = k->dev;
	uint8_t buf[64];
	struct fz_msg m;

	for (unsigned int i = 0; i < 4; i++) {
		uint32_t tail = (seed >> i) & 7;

		for (uint64_t off = 0; off < 0x40; off += 8)
			svio__vd_region_read(dev, 0, off, buf, 8);
		svio__vd_region_write(dev, 0, 0x1000 + 64 * i, (uint8_t *)&tail, 4);
		fz_kit_turn(k, 2);
		while (fz_recv(k, &m))
			;
		svio_vdev_irq_raise(dev, i);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t stream[1u << 20];
	struct fz_in in = { data, size };
	uint8_t conf = fz_u8(&in), seed = fz_u8(&in), ref[VD_CFG_SIZE];
	unsigned int which = conf % 3;
	int before = fz_next_fd(), fd, err = 0;
	size_t len, pos = 0, piece;
	bool honest = false;
	struct svio_vfu_dma_map map = { .argsz = sizeof(map), .flags = SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE, .iova = 0x10000,
					.size = 64 << 10 };
	struct fz_kit k;

	fz_kit_open(&k, specs[which], 0);
	fz_kit_version(&k, NULL);
	memcpy(ref, k.dev->cfg, sizeof(ref));
	fd = seed & 0x80 ? -1 : fz_memfd(64 << 10, true);
	FZ_CHECK(svio__vd_dma_map(k.dev, &map, &fd) == 0);
	FZ_CHECK(svio__vd_mig_set(k.dev, SVIO_VFU_STATE_RESUMING) == 0);
	switch (conf / 3 % 4) {
	case 0:
		len = fz_bytes(&in, stream, SVIO_MIN(in.left, sizeof(stream)));
		break;
	case 1:
		len = framed(which, &in, stream, sizeof(stream));
		break;
	default:
		honest = in.left == 0;
		len = patched(which, &in, stream);
	}
	piece = conf & 0x40 ? 7 : 65536;
	while (pos < len) {
		size_t n = SVIO_MIN(piece, len - pos);

		if (svio__vd_mig_write(k.dev, stream + pos, n))
			err = -EINVAL;
		pos += n;
	}
	if (svio__vd_mig_set(k.dev, SVIO_VFU_STATE_RUNNING)) {
		FZ_CHECK(!honest); /* what the same device saved */
		FZ_CHECK(k.dev->mig.state == SVIO_VFU_STATE_ERROR);
		FZ_CHECK(svio__vd_mig_set(k.dev, SVIO_VFU_STATE_RUNNING) == -EINVAL);
		FZ_CHECK(svio__vd_mig_write(k.dev, stream, 1) == -EINVAL);
		FZ_CHECK(!svio__vd_running(k.dev));
		fz_kit_turn(&k, 1);
		FZ_CHECK(svio__vd_reset(k.dev, SVIO_VDEV_RESET_MESSAGE) == 0);
	} else {
		FZ_CHECK(!err); /* a stream that was refused on its way cannot be taken in the end */
	}
	FZ_CHECK(k.dev->mig.state == SVIO_VFU_STATE_RUNNING);
	check_identity(k.dev, ref);
	use(&k, seed);
	FZ_CHECK(svio__vd_reset(k.dev, SVIO_VDEV_RESET_MESSAGE) == 0);
	check_identity(k.dev, ref);
	use(&k, seed);
	fz_kit_close(&k);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
