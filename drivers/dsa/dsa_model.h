/* SPDX-License-Identifier: BSD-3-Clause */
/* The DSA model, inside: dsa_model.c has registers and commands, dsa_model_op.c descriptors, dsa_model_state.c saved state. */
#ifndef DSA_MODEL_H
#define DSA_MODEL_H

#include "dsa_spec.h"
#include "svio_vdev_iommu.h"

#define DM_WQS		16u
#define DM_GROUPS	8u
#define DM_ENGINES	8u
#define DM_TOTAL_MAX	256u /* WQ entries of all WQs */
#define DM_VECTORS	17u  /* 0: errors and commands; the rest completions */
#define DM_WQCFG_WORDS	8u
#define DM_SLICE	65536u /* bytes of an operation before the next engine has its turn */

#define DM_GRPCFG	0x400u
#define DM_WQCFG	0x800u
#define DM_MSIXPERM	0xe00u
#define DM_MSIX_TABLE	0x2000u
#define DM_MSIX_PBA	0x3000u
#define DM_BAR_REGS	0x4000u

struct dm_wq {
	uint32_t cfg[DM_WQCFG_WORDS];
	uint32_t state; /* DSA_WQ_* */
	uint32_t slot;	/* of its portal, looked at next */
	uint64_t taken; /* descriptors taken from the portal, ever; the queue has the last `count` of them */
	uint64_t target; /* of a command that drains: descriptors before this one */
	uint32_t head, count;
	struct dsa_desc *queue; /* ring of DM_TOTAL_MAX */
};

enum dm_phase {
	DM_IDLE,
	DM_LIST,  /* read a descriptor of the batch */
	DM_CHECK, /* is it valid? */
	DM_SEED,  /* CRC: the seed is in memory */
	DM_OP,
	DM_RECORD, /* completion record: all but the status */
	DM_STATUS, /* and the status */
};

enum dm_io { DM_IO_NONE, DM_IO_BUSY, DM_IO_DONE };

/* What one engine does. */
struct dm_task {
	enum dm_phase phase;
	uint32_t wq;
	uint64_t seq; /* of the descriptor in the WQ */
	struct dsa_desc top; /* as submitted */
	struct dsa_desc d;   /* being done: the same, or one of the batch */
	bool in_batch, failed; /* failed: one of the batch did not succeed */
	uint32_t index;	       /* in the batch */
	uint32_t pos;	       /* bytes done */
	uint32_t crc;
	struct dsa_completion cr;
	/* From here on of the slice, not saved. */
	unsigned int stage; /* operands done */
	bool careful;	    /* a slice that stays within pages, to find the one that faults */
	bool waiting;	    /* for a page */
	uint32_t request;
	uint64_t fault_addr; /* what it waits for */
	bool fault_write;
	enum dm_io io;
	int io_err;
	struct svio_vdev_dma dma;
	uint8_t *buf[2]; /* DM_SLICE bytes each */
	uint64_t free_at; /* ns: when the next descriptor may begin (dm.slow_us) */
};

struct dm {
	uint32_t wqs, groups, engines, total; /* options */
	uint32_t max_xfer, max_batch; /* log2 */
	bool bof;
	uint32_t slow_us; /* option: of a descriptor, at least */
	uint32_t ecap_pasid;
	uint32_t state; /* DSA_GENSTS_* */
	uint32_t gencfg, genctrl, intcause, cmd, cmdsts;
	uint64_t swerr[4];
	uint64_t grp_wqs[DM_GROUPS], grp_engines[DM_GROUPS];
	uint32_t grp_flags[DM_GROUPS];
	uint32_t msixperm[DM_VECTORS];
	uint32_t rr[DM_GROUPS], served[DM_GROUPS]; /* WQ whose turn it is, and how much it has had of it */
	bool stopping;
	struct dm_wq wq[DM_WQS];
	struct dm_task task[DM_ENGINES];
};

/* dsa_model.c */
struct dsa_desc *dm_slot(struct svio_vdev *dev, unsigned int wq, unsigned int slot);
void dm_swerr(struct svio_vdev *dev, const struct dm_task *t, enum dsa_status status, uint64_t addr);

/* dsa_model_op.c */
unsigned int dm_take(struct svio_vdev *dev, struct dm *dm); /* from the portals */
unsigned int dm_run(struct svio_vdev *dev, struct dm *dm);  /* a turn for each engine */
void dm_kill(struct svio_vdev *dev, struct dm_task *t);
bool dm_task_between(const struct dm_task *t); /* at a point that can be saved */
bool dm_wq_done(const struct dm *dm, unsigned int wq, uint64_t target); /* all descriptors before target are complete */
uint64_t dm_wq_target(struct svio_vdev *dev, const struct dm *dm, unsigned int wq); /* behind all that were submitted */
void dm_wq_forget(struct svio_vdev *dev, struct dm *dm, unsigned int wq); /* its descriptors: queued, running, in the portal */

/* dsa_model_state.c */
int dm_save(struct svio_vdev *dev, struct svio_vdev_buf *out);
int dm_load(struct svio_vdev *dev, uint32_t version, const void *data, size_t len);

#endif
