/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration space and the registers that hang on it: any sequence of accesses, on a device that has one of every capability.
 * After each step: what is read-only has not changed, what is live follows the registers, nothing is written outside.
 */
#include <linux/pci_regs.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include "kit.h"
#include "probe.h"

#define DOORBELL 0x1000u /* the shared page of the probe model's BAR0 */

static uint64_t doorbell; /* what its first word must be */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fz_kit_init();
	return 0;
}

/* What of configuration space must stay as it was, and what must not become 1; by words, since it is looked at after every step. */
static struct {
	uint64_t ref[VD_CFG_SIZE / 8], fixed[VD_CFG_SIZE / 8], low[VD_CFG_SIZE / 8];
} expected;

static bool is_msi_pending(const struct svio_vdev *dev, uint32_t at)
{
	return dev->cap_msi && at >= dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 &&
	       at < dev->cap_msi + (uint32_t)PCI_MSI_PENDING_64 + 4;
}

static void expect(const struct svio_vdev *dev)
{
	uint8_t *fixed = (uint8_t *)expected.fixed, *low = (uint8_t *)expected.low;

	memcpy(expected.ref, dev->cfg, sizeof(expected.ref));
	for (uint32_t i = 0; i < VD_CFG_SIZE; i++) {
		fixed[i] = (uint8_t)~(dev->wmask[i] | dev->w1c[i]);
		low[i] = dev->w1c[i]; /* nobody sets what a written 1 clears */
		/* The kit's own: Interrupt Status, MSI's pending bits. */
		if (i == PCI_STATUS)
			fixed[i] &= (uint8_t)~PCI_STATUS_INTERRUPT;
		if (is_msi_pending(dev, i))
			fixed[i] = 0;
	}
}

static void check(struct svio_vdev *dev)
{
	uint32_t cmd = svio_vdev_config_get(dev, PCI_COMMAND, 2);
	uint32_t pm = svio_vdev_config_get(dev, dev->cap_pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK;
	bool mem = pm == 0 && ((dev->flags & SVIO_VDEV_VF) || (cmd & PCI_COMMAND_MEMORY));

	for (uint32_t i = 0; i < VD_CFG_SIZE / 8; i++) {
		uint64_t word;

		memcpy(&word, dev->cfg + 8 * i, sizeof(word));
		FZ_CHECK(((word ^ expected.ref[i]) & expected.fixed[i]) == 0);
		FZ_CHECK((word & ~expected.ref[i] & expected.low[i]) == 0);
	}
	FZ_CHECK(pm == 0 || pm == 3);
	FZ_CHECK(!(svio_vdev_config_get(dev, dev->cap_pcie + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_BCR_FLR));
	FZ_CHECK(!dev->in_reset && !dev->flr_due);
	FZ_CHECK(svio_vdev_mem_enabled(dev) == mem);
	FZ_CHECK(svio_vdev_bus_master(dev) == (pm == 0 && (cmd & PCI_COMMAND_MASTER)));
	for (unsigned int i = 0; i < VD_NUM_BARS; i++) {
		struct vd_bar *bar = &dev->bar[i];
		struct stat st;

		if (bar->fd < 0)
			continue;
		FZ_CHECK(bar->zapped == !mem);
		FZ_CHECK(fstat(bar->fd, &st) == 0 && st.st_size == (mem ? (off_t)bar->mem_size : 0));
	}
	/* Contents survive decoding being off; only a reset and stores change them. */
	FZ_CHECK(memcmp(dev->bar[0].mem + DOORBELL, &doorbell, sizeof(doorbell)) == 0);
}

static void finish_flr(struct svio_vdev *dev)
{
	if (!dev->flr_due)
		return;
	FZ_CHECK(svio__vd_reset(dev, SVIO_VDEV_RESET_FLR) == 0);
	doorbell = 0;
}

static void set_irqs(struct svio_vdev *dev, struct fz_in *in)
{
	uint8_t kind = fz_u8(in);
	struct svio_vfu_irq_set set = { .argsz = sizeof(set), .flags = fz_u8(in), .index = kind & 7, .start = fz_u8(in),
					.count = fz_u8(in) };
	unsigned int nfds = kind & 8 ? SVIO_MIN(set.count, 8u) : 0;
	uint8_t bools[256];
	int fds[8];

	fz_bytes(in, bools, kind & 16 ? 4 : 0);
	memset(bools + 4, kind, sizeof(bools) - 4);
	for (unsigned int i = 0; i < nfds; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
	svio__vd_irq_set(dev, &set, bools, fds, nfds);
	for (unsigned int i = 0; i < nfds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void bar_access(struct svio_vdev *dev, struct fz_in *in, bool write)
{
	static const uint32_t at[] = { 0, 8, 0xc, DOORBELL, 0x2000, 0x263c, 0x3000, 0x3ff8 };
	uint8_t where = fz_u8(in), len = fz_u8(in) & 31, buf[32];
	uint64_t off = at[where & 7] + (where >> 3), shared;
	int err;

	if (!write) {
		memset(buf, 0xa5, sizeof(buf));
		err = svio__vd_region_read(dev, 0, off, buf, len);
		FZ_CHECK(err == 0 || err == -EINVAL || err == -EIO || err == -ENXIO);
		FZ_CHECK(err || (svio_vdev_mem_enabled(dev) && off + len <= dev->bar[0].size));
		for (unsigned int i = len; i < sizeof(buf); i++)
			FZ_CHECK(buf[i] == 0xa5);
		return;
	}
	fz_bytes(in, buf, len);
	err = svio__vd_region_write(dev, 0, off, buf, len);
	FZ_CHECK(err <= 0);
	for (uint64_t i = 0; !err && i < len; i++) {
		if (off + i < DOORBELL || off + i >= DOORBELL + sizeof(doorbell))
			continue;
		memcpy(&shared, &doorbell, sizeof(shared));
		((uint8_t *)&shared)[off + i - DOORBELL] = buf[i];
		doorbell = shared;
	}
}

static void step(struct svio_vdev *dev, struct fz_in *in)
{
	uint8_t op = fz_u8(in), buf[64] = { 0 };
	uint32_t off, len;
	int err;

	switch (op & 15) {
	case 0:
	case 1:
	case 2: /* as clients write: 1, 2 or 4 bytes */
	case 3:
		off = fz_u16(in);
		off = op & 16 ? off % 0x100 : off % (VD_CFG_SIZE + 16);
		len = op & 3 ? (op & 3) == 3 ? 4 : (op & 3) : fz_u8(in) & 63;
		fz_bytes(in, buf, len);
		err = svio__vd_region_write(dev, SVIO_VFU_REGION_CONFIG, off, buf, len);
		FZ_CHECK((err == 0) == (len && off < dev->cfg_size && len <= dev->cfg_size - off));
		finish_flr(dev);
		break;
	case 4:
		off = fz_u16(in) % (VD_CFG_SIZE + 16);
		len = fz_u8(in) & 63;
		memset(buf, 0xa5, sizeof(buf));
		err = svio__vd_region_read(dev, SVIO_VFU_REGION_CONFIG, off, buf, len);
		FZ_CHECK((err == 0) == (len && off < dev->cfg_size && len <= dev->cfg_size - off));
		FZ_CHECK(err || memcmp(buf, dev->cfg + off, len) == 0);
		break;
	case 5:
		set_irqs(dev, in);
		break;
	case 6:
		svio_vdev_irq_raise(dev, fz_u8(in));
		break;
	case 7:
		svio_vdev_intx_set(dev, op & 16);
		break;
	case 8:
		FZ_CHECK(svio__vd_reset(dev, SVIO_VDEV_RESET_MESSAGE) == 0);
		doorbell = 0;
		break;
	case 9:
	case 10:
	case 11:
		bar_access(dev, in, true);
		break;
	case 12:
		bar_access(dev, in, false);
		break;
	case 13:
		FZ_CHECK(svio__vd_mig_set(dev, SVIO_VFU_STATE_STOP) == 0);
		if (op & 16)
			bar_access(dev, in, true);
		FZ_CHECK(svio__vd_mig_set(dev, SVIO_VFU_STATE_RUNNING) == 0);
		break;
	case 14: /* command register and power state, where most hangs on */
		buf[0] = fz_u8(in);
		svio__vd_region_write(dev, SVIO_VFU_REGION_CONFIG, op & 16 ? PCI_COMMAND : dev->cap_pm + PCI_PM_CTRL, buf, 1);
		break;
	default:
		svio_vdev_err_raise(dev);
		svio_vdev_req_raise(dev);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fz_in in = { data, size };
	uint8_t conf = fz_u8(&in);
	int before = fz_next_fd();
	struct svio_vdev *dev;
	unsigned int steps = 0;

	FZ_CHECK(svio_vdev_create("probe", (conf & 1 ? SVIO_VDEV_VF : 0) | (conf & 2 ? SVIO_VDEV_NO_MMAP : 0), &dev) == 0);
	expect(dev);
	doorbell = 0;
	check(dev);
	while (in.left && steps++ < 256) {
		step(dev, &in);
		check(dev);
	}
	svio_vdev_destroy(dev);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
