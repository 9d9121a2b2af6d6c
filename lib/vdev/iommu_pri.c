/* SPDX-License-Identifier: BSD-3-Clause */
/* Page requests and responses (PCIe §10.4): asked by the model, read and answered by the client. */
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include "iommu_priv.h"
#include "svio_vfio.h"

static bool enabled(const struct svio_vdev *dev)
{
	return dev->ecap_pri && (svio_vdev_config_get(dev, dev->ecap_pri + PCI_PRI_CTRL, 2) & PCI_PRI_CTRL_ENABLE);
}

int svio_vdev_page_request(struct svio_vdev_as *as, uint64_t addr, enum svio_vdev_access access, uint32_t *request)
{
	struct svio_vdev *dev = as->dev;
	struct vd_iommu *mmu = dev->iommu;

	if (as == svio_vdev_as0(dev) || vd_space_of(as)->is_process || vd_space_of(as)->closing || !enabled(dev))
		return -EFAULT;
	for (uint32_t i = 0; i < mmu->pri_max; i++) {
		struct vd_pri *q = &mmu->pri[i];

		if (q->state != VD_PRI_FREE)
			continue;
		*q = (struct vd_pri){
			.addr = addr & ~(uint64_t)(VD_PAGE - 1),
			.order = mmu->pri_order++,
			.pasid = vd_space_of(as)->pasid,
			.state = VD_PRI_NEW,
			.access = access,
		};
		mmu->stats.page_requests++;
		*request = i;
		return 0;
	}
	return -EAGAIN;
}

int svio_vdev_page_result(struct svio_vdev *dev, uint32_t request)
{
	struct vd_pri *q = &dev->iommu->pri[request];

	if (q->state != VD_PRI_DONE)
		return q->state == VD_PRI_FREE ? -ECANCELED : -EINPROGRESS;
	q->state = VD_PRI_FREE;
	return q->result;
}

void svio_vdev_page_drop(struct svio_vdev *dev, uint32_t request)
{
	dev->iommu->pri[request].state = VD_PRI_FREE;
}

void svio__vd_pri_drop(struct svio_vdev *dev, uint32_t first, uint32_t last)
{
	for (uint32_t i = 0; i < dev->iommu->pri_max; i++) {
		struct vd_pri *q = &dev->iommu->pri[i];

		if ((q->state != VD_PRI_NEW && q->state != VD_PRI_TOLD) || q->pasid < first || q->pasid > last)
			continue;
		q->state = VD_PRI_DONE;
		q->result = -ECANCELED;
	}
}

static struct vd_pri *oldest_new(struct vd_iommu *mmu)
{
	struct vd_pri *best = NULL;

	for (uint32_t i = 0; i < mmu->pri_max; i++)
		if (mmu->pri[i].state == VD_PRI_NEW && (!best || mmu->pri[i].order < best->order))
			best = &mmu->pri[i];
	return best;
}

int svio__vd_pri_read(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
		      struct vd_reply *r)
{
	struct vd_iommu *mmu = dev->iommu;
	struct svio_page_requests head;
	struct svio_page_request *list;
	uint32_t room;
	int err;

	err = svio__vd_take(&head, sizeof(head), data, len);
	if (err)
		return err;
	if (head.flags || req->argsz < sizeof(*req) + sizeof(head))
		return -EINVAL;
	room = (uint32_t)((req->argsz - sizeof(*req) - sizeof(head)) / sizeof(*list));
	room = SVIO_MIN(SVIO_MIN(room, head.count), mmu->pri_max);
	list = calloc(room + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (head.count = 0; head.count < room; head.count++) {
		struct vd_pri *q = oldest_new(mmu);

		if (!q)
			break;
		q->state = VD_PRI_TOLD;
		list[head.count] = (struct svio_page_request){
			.pasid = q->pasid,
			.group = (uint32_t)(q - mmu->pri),
			.flags = SVIO_PAGE_LAST | (q->access == SVIO_VDEV_WRITE ? SVIO_PAGE_WRITE : SVIO_PAGE_READ),
			.addr = q->addr,
		};
	}
	return svio__vd_answer(req, r, &head, sizeof(head), list, head.count * sizeof(*list));
}

int svio__vd_pri_respond(struct svio_vdev *dev, const uint8_t *data, uint32_t len)
{
	struct svio_page_respond resp;
	struct vd_pri *q;
	int err;

	err = svio__vd_take(&resp, sizeof(resp), data, len);
	if (err)
		return err;
	if (resp.flags ||
	    (resp.code != SVIO_PAGE_SUCCESS && resp.code != SVIO_PAGE_INVALID && resp.code != SVIO_PAGE_FAILURE))
		return -EINVAL;
	if (resp.group >= dev->iommu->pri_max)
		return -ENOENT;
	q = &dev->iommu->pri[resp.group];
	if (q->state != VD_PRI_TOLD || q->pasid != resp.pasid)
		return -ENOENT;
	q->state = VD_PRI_DONE;
	q->result = resp.code == SVIO_PAGE_SUCCESS ? 0 : resp.code == SVIO_PAGE_INVALID ? -EFAULT : -EIO;
	dev->iommu->stats.page_responses++;
	return 0;
}
