/* SPDX-License-Identifier: BSD-3-Clause */
#include "probe.h"
#include "svio_vdev_iommu.h"

static const struct svio_vdev_area area = { .offset = 0x1000, .size = 0x1000 };

static int init(struct svio_vdev *dev, struct svio_vdev_args *args)
{
	static const struct svio_vdev_ids ids = { .vendor = 0x1b36, .device = 0x0010, .class_code = 0x010802, .revision = 2,
						  .int_pin = 1 };
	bool failing, iommu;
	int err;

	err = svio_vdev_arg_bool(args, "fail", &failing);
	if (!err)
		err = svio_vdev_arg_bool(args, "iommu", &iommu);
	if (err)
		return err;
	if (failing)
		return svio_fail(EIO, "told to fail");
	svio_vdev_set_ids(dev, &ids);
	err = svio_vdev_add_bar(dev, 0, 0x4000, SVIO_VDEV_BAR_64, &area, 1);
	if (err)
		return err;
	if (svio_vdev_cap_pm(dev) < 0 || svio_vdev_cap_msi(dev, 8, true) < 0 ||
	    svio_vdev_cap_msix(dev, PROBE_VECTORS, 0, 0x2000, 0, 0x3000) < 0 || svio_vdev_cap_vendor(dev, "svio!", 5) < 0 ||
	    svio_vdev_cap_pcie(dev, SVIO_VDEV_PCIE_FLR | SVIO_VDEV_PCIE_E2E_TLP) < 0 || svio_vdev_cap_af(dev) < 0)
		return -ENOSPC;
	if (svio_vdev_ecap_pasid(dev, 20, false, true) < 0 || svio_vdev_ecap_pri(dev, 512) < 0 ||
	    svio_vdev_ecap_ats(dev, 32) < 0)
		return -ENOSPC;
	return iommu ? svio_vdev_iommu_enable(dev, 0) : 0;
}

static int reg_read(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t *value)
{
	struct probe *p = svio_vdev_priv(dev);

	(void)bar;
	p->last_width = width;
	if (width <= 8)
		p->accesses[width]++;
	switch (off) {
	case 0x00:
		*value = p->scratch;
		break;
	case 0x10:
		return -ENXIO;
	case 0x14:
		*value = p->resets;
		break;
	case 0x18:
		*value = p->last_reset;
		break;
	}
	return 0;
}

static int reg_write(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t value)
{
	struct probe *p = svio_vdev_priv(dev);

	(void)bar;
	p->last_width = width;
	p->accesses[width]++;
	switch (off) {
	case 0x00:
		p->scratch = (uint32_t)value;
		break;
	case 0x08:
		svio_vdev_irq_raise(dev, (unsigned int)value);
		break;
	case 0x0c:
		svio_vdev_intx_set(dev, value & 1);
		break;
	case 0x10:
		return -ENXIO;
	}
	return 0;
}

static unsigned int poll(struct svio_vdev *dev)
{
	struct probe *p = svio_vdev_priv(dev);
	uint32_t *doorbell = (uint32_t *)(void *)((uint8_t *)svio_vdev_bar_mem(dev, 0) + 0x1000);
	uint32_t v = __atomic_load_n(doorbell, __ATOMIC_ACQUIRE);

	p->polls++;
	if (p->lazy_pin)
		svio_vdev_intx_set(dev, v & 1);
	for (uint64_t end = p->work_ns ? svio_now_ns() + p->work_ns : 0; end && svio_now_ns() < end;)
		;
	if (v == p->doorbell_seen)
		return p->work;
	p->doorbell_seen = v;
	return 1 + p->work;
}

static int quiesce(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len)
{
	struct probe *p = svio_vdev_priv(dev);

	p->asked++;
	p->why = why;
	p->q_iova = iova;
	p->q_len = len;
	if (p->watch_iova && svio_vdev_dma_ptr(dev, p->watch_iova, 1, SVIO_VDEV_READ))
		p->mapped_at_quiesce++;
	if (p->hold) {
		p->hold--;
		return -EAGAIN;
	}
	return 0;
}

static void reset(struct svio_vdev *dev, enum svio_vdev_reset why)
{
	struct probe *p = svio_vdev_priv(dev);

	p->scratch = 0;
	p->resets++;
	p->last_reset = why;
}

static void connection(struct svio_vdev *dev, bool connected)
{
	((struct probe *)svio_vdev_priv(dev))->connected = connected;
}

static void resume(struct svio_vdev *dev)
{
	((struct probe *)svio_vdev_priv(dev))->resumed++;
}

static void config_written(struct svio_vdev *dev, uint32_t off, uint32_t len)
{
	(void)off;
	(void)len;
	((struct probe *)svio_vdev_priv(dev))->cfg_writes++;
}

static int save(struct svio_vdev *dev, struct svio_vdev_buf *out)
{
	struct probe *p = svio_vdev_priv(dev);
	svio_le32 v = svio_cpu_to_le32(p->scratch);

	return svio_vdev_buf_put(out, &v, sizeof(v));
}

static int load(struct svio_vdev *dev, uint32_t version, const void *data, size_t len)
{
	struct probe *p = svio_vdev_priv(dev);
	svio_le32 v;

	if (version != 3 || len != sizeof(v) || p->fail_load)
		return -EINVAL;
	memcpy(&v, data, sizeof(v));
	p->scratch = svio_le32_to_cpu(v);
	return 0;
}

/* Three pieces of 5,000 bytes, then nothing new. */
static int precopy(struct svio_vdev *dev, struct svio_vdev_buf *out)
{
	struct probe *p = svio_vdev_priv(dev);
	uint8_t piece[5000];

	if (p->precopies == 3)
		return 0;
	memset(piece, (int)++p->precopies, sizeof(piece));
	return svio_vdev_buf_put(out, piece, sizeof(piece));
}

static int load_precopy(struct svio_vdev *dev, uint32_t version, const void *data, size_t len)
{
	struct probe *p = svio_vdev_priv(dev);

	p->precopies_loaded++;
	return version == 3 && len == 5000 && *(const uint8_t *)data == p->precopies_loaded ? 0 : -EINVAL;
}

const struct svio_vdev_model probe_model = {
	.name = "probe",
	.help = "fail, iommu",
	.priv_size = sizeof(struct probe),
	.max_access = 4,
	.state_version = 3,
	.state_max = 64 << 10,
	.init = init,
	.reg_read = reg_read,
	.reg_write = reg_write,
	.poll = poll,
	.quiesce = quiesce,
	.reset = reset,
	.connection = connection,
	.resume = resume,
	.config_written = config_written,
	.save = save,
	.load = load,
	.precopy = precopy,
	.load_precopy = load_precopy,
};
