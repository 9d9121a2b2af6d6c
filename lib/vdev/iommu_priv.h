/* SPDX-License-Identifier: BSD-3-Clause */
/* The software IOMMU, inside. Everything belongs to the server's thread. */
#ifndef VDEV_IOMMU_PRIV_H
#define VDEV_IOMMU_PRIV_H

#ifndef SVIO_ROOM_VDEV
#error "iommu_priv.h belongs to room vdev"
#endif

#include "vdev_priv.h"
#include "svio_vdev_iommu.h"

#define VD_TLB_SETS	1024u
#define VD_PRI_MAX	512u /* page request groups have 9 bits (PCIe §10.4.1) */
#define VD_UNBIND_NS	UINT64_C(3000000000)

struct vd_process {
	pid_t pid;
	bool self; /* a device in the client's own process */
	int pidfd; /* -1 where self */
	int mem;   /* /proc/PID/mem: holds the address space, not the process; -1 where self */
};

struct vd_table {
	uint64_t root;
	uint64_t reserved; /* bits 51:M */
	bool nx;
	uint32_t domain;
};

struct vd_space {
	struct svio_vdev_as as; /* first */
	uint32_t pasid;
	uint32_t id; /* of this binding, never 0, not used again: what the IOTLB knows it by */
	uint32_t count; /* SVA_BIND calls */
	bool is_process;
	bool closing; /* being unbound: every access fails */
	union {
		struct vd_process process;
		struct vd_table table;
	};
};

struct vd_tlb_entry {
	uint64_t page;	/* address >> 12 */
	uint64_t gpa;	/* of that page */
	uint32_t id;	/* of the space; 0 = empty */
	uint32_t domain;
	bool writable;	/* and dirty is set in the entry */
};

enum vd_pri_state { VD_PRI_FREE, VD_PRI_NEW, VD_PRI_TOLD, VD_PRI_DONE };

struct vd_pri {
	uint64_t addr;
	uint64_t order;
	uint32_t pasid;
	enum vd_pri_state state;
	enum svio_vdev_access access;
	int result;
};

struct vd_iommu {
	struct vd_space **spaces; /* sorted by pasid */
	uint32_t num, room, quota;
	uint32_t max_pasid;
	uint32_t next;	  /* where the search for a free PASID begins: old ones come back late */
	uint32_t last_id;
	bool check, stale_said;
	uint32_t pri_max;
	uint64_t pri_order;
	uint64_t unbind_deadline; /* 0: none is waiting for the model */
	struct svio_vdev_iommu_stats stats;
	struct vd_pri pri[VD_PRI_MAX];
	struct vd_tlb_entry tlb[VD_TLB_SETS];
};

static inline struct vd_space *vd_space_of(struct svio_vdev_as *as)
{
	return (struct vd_space *)(void *)as;
}

/* Note a fault and return err. */
int svio__vd_fault(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, enum svio_vdev_fault_reason reason, int err);

/* iommu_process.c */
int svio__vd_process_open(struct svio_vdev *dev, struct vd_process *p);
void svio__vd_process_close(struct vd_process *p);
int svio__vd_process_rw(struct vd_space *s, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access);
int svio__vd_process_copy(struct vd_space *s, uint64_t dst, uint64_t src, uint32_t len);
int svio__vd_process_record(struct vd_space *s, uint64_t addr, const void *record, uint32_t len);

/* iommu_table.c */
int svio__vd_table_rw(struct vd_space *s, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access);
/* IOVA of the second stage for addr, good up to the end of its 4 KiB page; through the IOTLB. */
int svio__vd_table_translate(struct vd_space *s, uint64_t addr, enum svio_vdev_access access, uint64_t *iova);
void *svio__vd_table_ptr(struct vd_space *s, uint64_t addr, uint64_t len, enum svio_vdev_access access);

/* iommu_pri.c */
void svio__vd_pri_drop(struct svio_vdev *dev, uint32_t first, uint32_t last); /* of PASIDs in [first, last]: -ECANCELED */
int svio__vd_pri_read(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
		      struct vd_reply *r);
int svio__vd_pri_respond(struct svio_vdev *dev, const uint8_t *data, uint32_t len);

/*
 * The fixed structure at the front of a feature's data, by the rules of kernel/uapi/svio_vfio.h: -EINVAL when it is short, -E2BIG when
 * something that we do not know follows.
 */
int svio__vd_take(void *to, size_t size, const uint8_t *data, uint32_t len);

#endif
