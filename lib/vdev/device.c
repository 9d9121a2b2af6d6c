/* SPDX-License-Identifier: BSD-3-Clause */
/* A device: created from its model, reset, destroyed. */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "vdev_priv.h"
#include "args.h"

/* 0, or -EINVAL when the MSI-X structures are not where a client can find them. */
static int check_msix(const struct svio_vdev *dev)
{
	const struct vd_irqs *irq = &dev->irq;
	uint32_t n = irq->idx[SVIO_VFU_IRQ_MSIX].count;
	uint64_t table = n * 16ull, pba = (n + 63) / 64 * 8ull;

	if (!n)
		return 0;
	if (irq->table_off + table > dev->bar[irq->table_bar].size ||
	    irq->pba_off + pba > dev->bar[irq->pba_bar].size ||
	    svio__vd_bar_in_area(&dev->bar[irq->table_bar], irq->table_off, table) ||
	    svio__vd_bar_in_area(&dev->bar[irq->pba_bar], irq->pba_off, pba))
		return svio_fail(EINVAL,
				 "%s: MSI-X table or PBA outside of its BAR or in a shared area",
				 dev->model->name);
	if (irq->table_bar == irq->pba_bar && irq->table_off < irq->pba_off + pba &&
	    irq->pba_off < irq->table_off + table)
		return svio_fail(EINVAL, "%s: MSI-X table and PBA overlap", dev->model->name);
	return 0;
}

static void release(struct svio_vdev *dev)
{
	svio__vd_irq_fini(dev);
	svio__vd_bars_fini(dev);
	svio__vd_iommu_fini(dev);
	if (dev->kick_fd >= 0)
		close(dev->kick_fd);
	free(dev->priv);
	free(dev);
}

static const struct svio_vdev_model *find_model(const char *name)
{
	const struct svio_vdev_model *model = svio_vdev_model_find(name);
	char known[256] = "";
	size_t len = 0;

	if (model)
		return model;
	for (unsigned int i = 0; (model = svio_vdev_model_at(i)) && len < sizeof(known) - 1; i++) {
		size_t n = strlen(model->name);

		if (len + n + 2 > sizeof(known))
			break;
		known[len++] = ' ';
		memcpy(known + len, model->name, n + 1);
		len += n;
	}
	svio_fail(ENOENT, "no device model \"%s\"; there are:%s", name, len ? known : " none");
	return NULL;
}

int svio_vdev_create(const char *spec, uint32_t flags, struct svio_vdev **devp)
{
	const struct svio_vdev_model *model;
	struct svio_vdev_args args;
	struct svio_vdev *dev;
	int err;

	err = svio__vd_args_parse(spec, &args);
	if (err)
		return err;
	model = find_model(args.model);
	if (!model) {
		svio__vd_args_free(&args);
		return -ENOENT;
	}
	err = -ENOMEM;
	dev = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*dev), (size_t)SVIO_CACHELINE));
	if (!dev)
		goto out_args;
	memset(dev, 0, sizeof(*dev));
	dev->as0.dev = dev;
	dev->model = model;
	dev->flags = flags;
	dev->kick_fd = dev->epfd = -1;
	dev->irq.resample = -1;
	dev->mig.state = SVIO_VFU_STATE_RUNNING;
	for (unsigned int i = 0; i < VD_NUM_BARS; i++)
		dev->bar[i].fd = dev->bar[i].guard = -1;
	svio__vd_conn_init(dev);
	svio__vd_cfg_init(dev);
	dev->priv =
		aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(SVIO_MAX(model->priv_size, (size_t)1),
							    (size_t)SVIO_CACHELINE));
	if (!dev->priv)
		goto out_dev;
	memset(dev->priv, 0, model->priv_size);
	dev->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dev->kick_fd < 0) {
		err = -errno;
		goto out_dev;
	}
	dev->in_init = true;
	err = model->init(dev, &args);
	dev->in_init = false;
	if (err)
		goto out_dev;
	err = svio__vd_args_unused(&args, model->help);
	if (!err)
		err = check_msix(dev);
	if (!err)
		err = svio__vd_irq_init(dev);
	if (err) {
		if (model->fini)
			model->fini(dev);
		goto out_dev;
	}
	svio__vd_args_free(&args);
	memcpy(dev->cfg0, dev->cfg, sizeof(dev->cfg0));
	svio__vd_cfg_power_on(dev);
	*devp = dev;
	return 0;
out_dev:
	release(dev);
out_args:
	svio__vd_args_free(&args);
	return err == -ENOMEM ? svio_fail(ENOMEM, "%s: out of memory", spec) : err;
}

void svio_vdev_destroy(struct svio_vdev *dev)
{
	if (!dev)
		return;
	if (dev->model->fini)
		dev->model->fini(dev);
	release(dev);
}

const char *svio_vdev_name(const struct svio_vdev *dev)
{
	return dev->model->name;
}

uint32_t svio_vdev_get_flags(const struct svio_vdev *dev)
{
	return dev->flags;
}

void *svio_vdev_priv(struct svio_vdev *dev)
{
	return dev->priv;
}

bool svio_vdev_connected(const struct svio_vdev *dev)
{
	return dev->conn.fd >= 0 && dev->conn.versioned;
}

int svio_vdev_peer(const struct svio_vdev *dev, struct ucred *cred)
{
	if (!svio_vdev_connected(dev) || !dev->conn.has_cred)
		return -ENOTCONN;
	*cred = dev->conn.cred;
	return 0;
}

void svio_vdev_get_stats(const struct svio_vdev *dev, struct svio_vdev_stats *stats)
{
	*stats = dev->stats;
}

void svio_vdev_kick(struct svio_vdev *dev)
{
	uint64_t one = 1;
	int saved = errno;

	/* A full counter means that a kick is pending already. */
	if (write(dev->kick_fd, &one, sizeof(one)) < 0)
		errno = saved;
}

void svio_vdev_kick_after(struct svio_vdev *dev, uint64_t ns)
{
	uint64_t at = svio_now_ns() + ns;

	if (!dev->kick_at || at < dev->kick_at)
		dev->kick_at = at;
}

/* The device may change its state, do DMA and interrupt. */
bool svio__vd_running(const struct svio_vdev *dev)
{
	return dev->mig.state == SVIO_VFU_STATE_RUNNING ||
	       dev->mig.state == SVIO_VFU_STATE_PRE_COPY;
}

int svio__vd_quiesce(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len)
{
	if (dev->model->quiesce && dev->model->quiesce(dev, why, iova, len))
		return -EINPROGRESS;
	/* Transfers by message must survive a stop, so they have to end first. */
	if (why == SVIO_VDEV_Q_STOP && dev->dma.inflight)
		return -EINPROGRESS;
	return 0;
}

int svio__vd_reset(struct svio_vdev *dev, enum svio_vdev_reset why)
{
	dev->in_reset = true;
	svio__vd_bars_update(dev);
	svio__vd_dma_cancel_range(dev, 0, UINT64_MAX, -ECANCELED);
	if (svio__vd_quiesce(dev, SVIO_VDEV_Q_RESET, 0, UINT64_MAX))
		return -EINPROGRESS;
	svio__vd_dma_cancel_range(dev, 0, UINT64_MAX, -ECANCELED);
	svio__vd_mig_reset(dev);
	svio__vd_iommu_reset(dev);
	svio__vd_irq_reset(dev);
	svio__vd_bars_zero(dev);
	if (why == SVIO_VDEV_RESET_CLOSE)
		svio__vd_cfg_power_on(dev);
	if (dev->model->reset)
		dev->model->reset(dev, why);
	dev->in_reset = false;
	dev->flr_due = false;
	svio__vd_cfg_apply(dev);
	svio__vd_bars_update(dev);
	return 0;
}
