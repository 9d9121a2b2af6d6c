/* SPDX-License-Identifier: GPL-2.0 */
/*
 * svio_simdev: a simulated PCIe function behind a simulated IOMMU. For tests only; nothing here is hardware.
 *
 * Who runs what:
 * 	the poller (regs.c, cmd.c)	one thread; sees stores to the registers and portals, runs commands, queues descriptors
 * 	engines (engine.c, ops.c)	a thread each; execute descriptors, by DMA through the address translation cache
 * 	the translation cache (atc.c)	the device's: filled by the IOMMU's answers, emptied by its invalidations
 * 	the IOMMU (iommu.c, sva.c)	called by the kernel's IOMMU core: domains, PASID table, page requests and responses
 * 	the bus (pci.c)			config space, interrupts
 *
 * Locks, outermost first: prq_lock (mutex: a page request is reported, or its PASID is being detached), lock
 * (spinlock: the translation cache, the PASID table, page request slots), cfg_lock (raw: config space).
 * queue_lock (spinlock: work queues) and irq_lock (mutex) nest in nothing and nothing nests in them.
 */
#ifndef SVIO_SIMDEV_H
#define SVIO_SIMDEV_H

#include <linux/atomic.h>
#include <linux/iommu.h>
#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "dsa_spec.h"

#define SIM_WQS			4u
#define SIM_GROUPS		4u
#define SIM_ENGINES		4u
#define SIM_WQ_ENTRIES		128u
#define SIM_MAX_XFER_SHIFT	31u
#define SIM_MAX_BATCH_SHIFT	10u
#define SIM_VECTORS		9u
#define SIM_TWIN		PCI_DEVFN(1, 0)

#define SIM_BAR0_SIZE		SZ_64K
#define SIM_BAR2_SIZE		(SIM_WQS * DSA_PORTAL_STRIDE)
#define SIM_GRPCFG		0x400u
#define SIM_WQCFG		0x800u
#define SIM_WQCFG_STRIDE	64u
#define SIM_MSIXPERM		0xc00u
#define SIM_MSIX_TABLE		0x2000u
#define SIM_MSIX_PBA		0x3000u

#define SIM_ATC_SETS		64u
#define SIM_ATC_WAYS		4u

/* Counters, shown by name in debugfs. */
#define SIM_STATS(X) \
	X(descriptors)		/* taken from portals and batches */ \
	X(completed)		/* with success */ \
	X(failed)		/* with any other status */ \
	X(abandoned)		/* by abort, reset or unplug */ \
	X(wq_overflow)		/* stored to a portal beyond the WQ's size: the driver's mistake */ \
	X(bytes)		/* read and written by operations */ \
	X(commands) \
	X(resets)		/* function level resets */ \
	X(interrupts) \
	X(swerrors) \
	X(atc_hits) \
	X(atc_fills) \
	X(atc_raced)		/* an answer overtaken by an invalidation, asked for again */ \
	X(atc_invalidated)	/* cached translations dropped on request */ \
	X(atc_lost)		/* those that stayed, because drop_invalidations says so */ \
	X(stale_checks)		/* cached translations compared with the page table after a change */ \
	X(stale_uses)		/* and found wrong: an invalidation was missed */ \
	X(page_requests) \
	X(pr_success) \
	X(pr_invalid) \
	X(pr_failure) \
	X(pr_dropped)		/* responses thrown away, because drop_responses says so */ \
	X(pr_late)		/* responses that nobody waited for any more */ \
	X(dma_blocked)		/* accesses refused: no such PASID, blocked */ \
	X(dma_no_master)	/* accesses refused: bus mastering is off */ \
	X(dma_faults)		/* accesses without a translation, page requests aside */ \
	X(detach_in_flight)	/* PASIDs taken away while descriptors that use them were being executed */ \
	X(twin_pasids)		/* PASIDs that the twin was given too, because it shares the group */

enum sim_stat {
#define X(name) SIM_##name,
	SIM_STATS(X)
#undef X
	SIM_STAT_NUM
};

/* Set by debugfs; counts go down by one each time they act. */
struct sim_inject {
	atomic_t drop_invalidations;
	atomic_t drop_responses;
	atomic_t deny_responses;	/* answered "invalid request" */
	atomic_t fail_responses;	/* answered "response failure" */
	atomic_t fail_descriptors;
	u32 fail_status;		/* enum dsa_status for those */
	u32 response_delay_us;
	u32 descriptor_delay_us;
	bool stall;			/* engines stand still, also in the middle of an operation */
};

struct sim_dev;

struct sim_domain {
	struct iommu_domain domain;
	struct kref ref;
	struct sim_dev *sd;
	/* paging: page number → SIM_PTE, or SIM_PTE_GONE between unmap and iotlb_sync */
	struct xarray table;
	/* SVA */
	struct mmu_notifier tlb;	/* the IOMMU's: what the translation cache must forget */
	struct mmu_notifier watch;	/* the detector's: what has changed, whether or not anybody was told to forget it */
	struct mm_struct *mm;
	bool dead;			/* the address space ends */
	unsigned int changing;		/* ranges being changed now */
	unsigned long seq;		/* of invalidations and changes; sim_dev.lock */
};

#define SIM_PTE(pfn, write)	xa_mk_value((pfn) << 1 | (write))
#define SIM_PTE_PFN(e)		(xa_to_value(e) >> 1)
#define SIM_PTE_WRITE(e)	(xa_to_value(e) & 1)
#define SIM_PTE_GONE		xa_mk_value(0)	/* page frame 0 is never mapped */

struct sim_atc_entry {
	struct sim_domain *dom;		/* NULL: empty */
	u64 vpn;
	u32 pasid;
	bool write;
	bool held;			/* a reference to the page is held: a stale use must not corrupt the kernel */
	bool due;			/* the range has changed since: compare before the next use */
	struct page *page;
};

struct sim_desc {
	struct list_head node;
	struct dsa_desc d;
	u64 seq;
	bool running;
};

struct sim_wq {
	/* poller's */
	unsigned int state;		/* DSA_WQ_* */
	unsigned int slot;
	u32 shown;			/* the state word as published */
	/* fixed while enabled */
	u32 size, pasid, max_batch, priority;
	u64 max_xfer;
	bool pasid_en, block_on_fault;
	int group;
	/* queue_lock */
	struct list_head live;		/* queued and running descriptors, oldest first */
	unsigned int num;		/* of them */
	unsigned int queued;		/* of them, those that no engine has taken: what the WQ's size limits */
	u64 seq;			/* of the next descriptor */
	u64 abort_below;		/* descriptors below are abandoned when they next look */
	u64 reset_below;		/* the same, and they wait for nothing */
};

/* A page request that waits for its response; sim_dev.lock. */
struct sim_prq {
	bool waiting, answered, gone;
	u16 grpid;
	u32 pasid;
	int code;
};

struct sim_engine {
	struct sim_dev *sd;
	unsigned int num;
	int group;			/* -1: none */
	struct task_struct *task;
	struct sim_prq prq;
	unsigned int next_wq;
	u32 busy_pasid;			/* sim_dev.lock; SIM_IDLE: executes nothing */
	u8 *buf[2];			/* a page each */
};
#define SIM_IDLE		U32_MAX

struct sim_cmd {
	bool active;
	u32 code, operand, err, result;
	bool interrupt;
	unsigned long wqs;		/* that must drain */
	u64 below[SIM_WQS];
};

struct sim_dev {
	struct platform_device *parent;
	u32 pasid_bits;
	bool has_pri, has_ats;
	bool has_twin;			/* a second function, without registers, shares the IOMMU group */
	bool denylisted;		/* the function carries the IDs of Intel DSA */

	/* main.c: the window of physical memory in which the BARs lie */
	struct resource window;
	void __iomem *mem;
	struct work_struct plug_work;
	struct mutex plug_lock;
	unsigned int plug_wanted;	/* enum sim_plug */
	bool plugged;
	struct sim_domain *swapped, *empty; /* by debugfs: what swap_pasid took out, and put in its place */
	u32 swapped_pasid;

	/* pci.c */
	struct pci_sysdata sysdata;
	struct pci_bus *bus;
	raw_spinlock_t cfg_lock;
	u8 cfg[PCI_CFG_SPACE_EXP_SIZE];
	u8 cfg_rw[PCI_CFG_SPACE_EXP_SIZE];
	u8 cfg_w1c[PCI_CFG_SPACE_EXP_SIZE];
	u8 twin[PCI_CFG_SPACE_EXP_SIZE];
	u8 twin_rw[PCI_CFG_SPACE_EXP_SIZE];
	bool gone;			/* surprise removal: all ones */
	bool flr;			/* asked for; the poller clears it */
	struct irq_work flr_work;
	u8 __iomem *regs, *portals;	/* NULL while the function does not decode memory */
	u64 published;			/* BAR 0 address whose memory holds our registers */
	struct mutex irq_lock;
	struct pci_dev *irq_dev;
	unsigned long irq_pending;

	/* iommu.c */
	struct iommu_device iommu;
	struct fwnode_handle *fwnode;
	struct iopf_queue *iopf;
	struct device *dev;		/* the function, while the IOMMU has it */
	struct mutex prq_lock;

	/* atc.c */
	spinlock_t lock;
	struct sim_domain *rid;
	struct xarray pasids;		/* → struct sim_domain */
	unsigned long attach_seq;
	struct sim_atc_entry atc[SIM_ATC_SETS][SIM_ATC_WAYS];
	unsigned int victim;
	wait_queue_head_t prq_wait;
	unsigned int next_grpid;
	atomic_t in_flight;		/* accesses to memory now: the Transactions Pending bit */

	/* regs.c, cmd.c: the poller's */
	struct task_struct *poller;
	u8 __iomem *now, *now_portals;	/* regs and portals, as this round of the poller found them */
	u32 gensts, intcause;
	u64 swerr[4];
	struct sim_cmd cmd;

	/* engine.c */
	spinlock_t queue_lock;
	struct sim_wq wq[SIM_WQS];
	struct sim_engine engine[SIM_ENGINES];
	wait_queue_head_t work_wait;	/* engines: work, or the end of a stall */
	bool abandon;			/* reset or unplug: engines let go of everything */
	spinlock_t swerr_lock;
	u64 swerr_new[4];		/* from engines to the poller */

	struct sim_inject inject;
	bool warn;
	struct dentry *debugfs;
	atomic64_t stats[SIM_STAT_NUM];
};

#define sim_count(sd, name) atomic64_inc(&(sd)->stats[SIM_##name])
#define sim_add(sd, name, n) atomic64_add(n, &(sd)->stats[SIM_##name])

/* Takes one of a debugfs count. */
static inline bool sim_take(atomic_t *count)
{
	return atomic_dec_if_positive(count) >= 0;
}

/* A descriptor being executed, alone or in a batch. */
struct sim_req {
	struct sim_engine *eng;
	struct sim_dev *sd;
	struct sim_wq *wq;
	const struct sim_desc *desc;	/* as submitted */
	struct dsa_desc d;		/* executed: that, or one of its batch */
	int batch_index;		/* -1: not in a batch */
	u32 pasid;			/* IOMMU_NO_PASID: by requester id */
	bool block;			/* waits for pages */
	/* results */
	u8 result;
	u32 bytes, bad_flags;
	u64 crc, fault_addr;
	bool fault_write;
};

enum sim_how { SIM_READ, SIM_WRITE, SIM_WRITE_RECORD };
enum sim_plug { SIM_PLUG, SIM_UNPLUG, SIM_SURPRISE };

/* main.c */
extern struct sim_dev *sim_the;		/* there is one */

/* pci.c */
void sim_pci_init(struct sim_dev *sd);
int sim_pci_plug(struct sim_dev *sd);
void sim_pci_unplug(struct sim_dev *sd, bool surprise);
void sim_pci_reset_done(struct sim_dev *sd);
bool sim_pci_master(struct sim_dev *sd);
bool sim_pci_pasid_on(struct sim_dev *sd);
bool sim_pci_pri_on(struct sim_dev *sd);
bool sim_pci_ats_on(struct sim_dev *sd);
void sim_pci_pri_failed(struct sim_dev *sd);
int sim_pci_set_pri(struct pci_dev *pdev, bool on);
bool sim_pci_is_twin(struct device *dev);
void sim_raise(struct sim_dev *sd, unsigned int vector);
void sim_irq_poll(struct sim_dev *sd);

/* iommu.c */
int sim_iommu_init(struct sim_dev *sd);
void sim_iommu_exit(struct sim_dev *sd);
void sim_domain_put(struct sim_domain *dom);
int sim_domain_set_pasid(struct sim_domain *dom, struct device *dev, ioasid_t pasid, struct sim_domain *old);
int sim_pasid_reattach(struct sim_dev *sd, u32 pasid);
int sim_pasid_swap(struct sim_dev *sd, u32 pasid);

/* sva.c */
struct iommu_domain *sim_sva_alloc(struct device *dev, struct mm_struct *mm);
int sim_sva_walk(struct sim_domain *dom, u64 addr, bool write, struct page **page);
void sim_sva_verify(struct sim_dev *sd, const struct sim_atc_entry *seen);

/* atc.c */
void sim_atc_init(struct sim_dev *sd);
void sim_atc_invalidate(struct sim_dev *sd, struct sim_domain *dom, u64 start, u64 last, bool may_lose);
void sim_atc_mark_due(struct sim_dev *sd, struct sim_domain *dom, u64 start, u64 last);
void sim_atc_flush_pasid(struct sim_dev *sd, u32 pasid);
void sim_atc_flush_all(struct sim_dev *sd);
struct sim_atc_entry *sim_atc_find(struct sim_dev *sd, u32 pasid, u64 vpn);
void sim_atc_drop(struct sim_atc_entry *e);
void sim_stale(struct sim_dev *sd, const struct sim_atc_entry *e);
int sim_rw(struct sim_req *rq, u64 addr, void *buf, size_t len, enum sim_how how);
void sim_page_response(struct sim_dev *sd, u32 pasid, u32 grpid, int code);

/* regs.c */
int sim_poller(void *arg);
void sim_regs_default(struct sim_dev *sd, u8 __iomem *regs);
void sim_int_cause(struct sim_dev *sd, u32 bits);
void sim_swerr_add(struct sim_dev *sd, const u64 *swerr);
bool sim_swerr_poll(struct sim_dev *sd, u8 __iomem *regs);
void sim_wq_show(struct sim_dev *sd, unsigned int n);
void sim_device_reset(struct sim_dev *sd);

/* cmd.c */
void sim_cmd_start(struct sim_dev *sd, u32 value);
bool sim_cmd_poll(struct sim_dev *sd);

/* engine.c */
int sim_engine(void *arg);
void sim_submit(struct sim_dev *sd, struct sim_wq *wq, const struct dsa_desc *d);
void sim_abandon_queued(struct sim_dev *sd, struct sim_wq *wq, u64 below);
bool sim_cancelled(struct sim_req *rq, bool waiting);
int sim_pause(struct sim_req *rq);
int sim_delay(struct sim_req *rq, u32 us);

/* ops.c */
int sim_execute(struct sim_req *rq);
int sim_complete(struct sim_req *rq, int status);

/* debugfs.c */
void sim_debugfs_init(struct sim_dev *sd);
void sim_plug_request(struct sim_dev *sd, unsigned int what);

#endif
