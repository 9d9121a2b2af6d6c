/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio vfio: a device, however it is reached.
 *
 * A `struct svio_device` is one PCI function that this process owns. Its name says how it is reached:
 *
 *	0000:01:00.0		Linux VFIO (group and type1 container; cdev and iommufd when the kernel has them)
 *	user:/path.sock		a vfio-user server
 *	sim:nvme,size=1G	a vfio-user server in a thread of this process (a simulated device)
 *
 * Everything above this room is blind to the difference. The operations are VFIO's own; their meaning and numbers are
 * those of <linux/vfio.h>, which this header follows.
 *
 *	svio_device_open()	own it; nothing is mapped, bus mastering is off
 *	svio_ioas_attach()	(room ioas) choose the address space of its DMA
 *	svio_bar_map()		(room mmio) guarded BAR mappings
 *	svio_device_set_master(dev, true)
 *	... svio_device_events() in the poll loop; svio_device_irq_*() for interrupts ...
 *	svio_device_close()	bus mastering off, everything returned
 *
 * Events. One word per device, alone on a read-mostly cache line, collects what happens behind the driver's back:
 * a revoked BAR, a reset, an error interrupt, the host's request to give the device back, a dead peer. A poll loop
 * reads it with one load and acts when it is not zero. A watcher thread of this room (started with the first device
 * that has such sources, gone with the last) translates the ERR and REQ eventfds into bits.
 *
 * Orderly reset. svio_device_reset() runs the hooks that rooms and drivers registered: stop (drivers quiesce, pollers
 * pause, peer-to-peer mappings go, BARs are withdrawn), reset, configuration space restored, interrupts armed again, and the
 * hooks once more in reverse order.
 *
 * Threads. A device may be used by several threads; calls that change it (close, irq_*, reset, set_master, set_memory,
 * set_domain, config_write of the command register) are serialised by the caller per device. Region and configuration
 * access and svio_device_events()/event_set() are free-threaded; different devices are independent, and open may be
 * called from several threads at once.
 *
 * fork. A child inherits the descriptors but neither the watcher nor the device: DMA memory and BARs are not in it. The
 * one call it may make on an inherited device is svio_device_close(), which releases the child's copies and touches
 * nothing else; until it does (or calls exec, which closes them), the kernel counts the device as in use.
 *
 * Errors. Functions return 0 or -errno; -ENODEV means that the device is gone for good, -EIO from region access that
 * memory decoding is off.
 */
#ifndef SVIO_VFIO_H
#define SVIO_VFIO_H

#include "svio_base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_device;
struct svio_dma_domain;

/* ---- open and close ------------------------------------------------------------------------------ */

struct svio_device_opts {
	size_t size;		 /* sizeof(struct svio_device_opts) of the caller */
	const char *vf_token;	 /* UUID shared by a PF's owner with its VFs, or NULL (Linux vfio: VF token) */
	uint32_t msg_timeout_ms; /* vfio-user: a connection not taken, or a request unanswered, that long means -ENODEV; 0 = 5000 */
	uint32_t flags;		 /* enum svio_device_open_flags */
};

enum svio_device_open_flags {
	SVIO_DEVICE_NO_WATCH = 1u << 0, /* no watcher: ERR and REQ are the caller's to watch */
	SVIO_DEVICE_NO_RESET = 1u << 1, /* do not reset the function at open (kernel VFIO does it, if it can, whatever we say) */
};

/*
 * Open a device by name. opts may be NULL. On success *devp owns it, memory decoding is on and bus mastering off; on
 * failure *devp is NULL and nothing is left behind. A function is open once per process (its interrupts, its reset and its
 * command register have one owner): share the struct svio_device.
 * -EINVAL bad name or options, -ENODEV no such device, -EPERM not bound to vfio-pci or the group is not viable (explained
 * device by device), -EBUSY this or another process owns it (named), -EACCES no permission on /dev/vfio, wrong or missing
 * VF token, -EOPNOTSUPP no IOMMU, VFIO not loaded, or transport not built, -EPROTO a reply that makes no sense; each with
 * its remedy in svio_last_error().
 */
int svio_device_open(const char *name, const struct svio_device_opts *opts, struct svio_device **devp);

/*
 * Close: bus mastering off, interrupts released, domain reference dropped. BARs must have been unmapped and hooks removed.
 * Cannot fail; dev may be NULL. When this was the last function in its domain, the kernel drops the domain's mappings.
 */
void svio_device_close(struct svio_device *dev);

enum svio_transport { SVIO_TRANSPORT_GROUP, SVIO_TRANSPORT_CDEV, SVIO_TRANSPORT_USER };

struct svio_device_info {
	enum svio_transport transport;
	uint32_t num_regions, num_irqs; /* VFIO_PCI_NUM_REGIONS/IRQS or more */
	bool can_reset;
	bool is_vf;	/* a VF has no memory enable bit of its own (PCIe 5.0 §9.3.4.1.3) */
	uint16_t vendor, device;
	uint32_t class_code;
	uint8_t revision;
	int numa_node;	 /* -1 unknown */
	int iommu_group; /* -1 not kernel VFIO */
	int server_pid;	 /* of the process that listens on a vfio-user socket (SO_PEERCRED); 0: none, this one, or not known */
	uint32_t pci_quirks; /* enum svio_pci_quirk */
};

const char *svio_device_name(const struct svio_device *dev);
void svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info);

/* ---- events -------------------------------------------------------------------------------------- */

enum svio_device_event {
	SVIO_EV_REVOKED = 1u << 0, /* a BAR mapping was withdrawn; reads give all ones until it is restored */
	SVIO_EV_RESET = 1u << 1,   /* the function was reset since the driver last looked: re-initialise */
	SVIO_EV_ERR = 1u << 2,	   /* uncorrectable error (VFIO_PCI_ERR_IRQ_INDEX) */
	SVIO_EV_REQ = 1u << 3,	   /* the host wants the device back (VFIO_PCI_REQ_IRQ_INDEX): finish and close */
	SVIO_EV_GONE = 1u << 4,	   /* unplugged, or the vfio-user server died: nothing will come back */
	SVIO_EV_QUIESCE = 1u << 5, /* an orderly reset is under way: submit nothing */
};

/*
 * First member of struct svio_device, exposed so that a poll loop reads its events with one load and no call.
 * Writers are rare: the SIGBUS handler, the watcher thread, and reset.
 */
struct svio_device_hot {
	SVIO_ALIGNAS(SVIO_CACHELINE) SVIO_ATOMIC(uint32_t) events;
	uint32_t reserved[15];
};
SVIO_STATIC_ASSERT(sizeof(struct svio_device_hot) == SVIO_CACHELINE, "one cache line, shared with nothing");

/* Pending enum svio_device_event bits. Any thread; relaxed, since what follows takes the slow path anyway. */
static inline uint32_t svio_device_events(const struct svio_device *dev)
{
	return __atomic_load_n((const uint32_t *)(const void *)dev, __ATOMIC_RELAXED); /* events is its first word */
}

/* Raise or withdraw events. Any thread; set is async-signal-safe. */
static inline void svio_device_event_set(struct svio_device *dev, uint32_t events)
{
	__atomic_fetch_or((uint32_t *)(void *)dev, events, __ATOMIC_SEQ_CST);
}

static inline void svio_device_event_clear(struct svio_device *dev, uint32_t events)
{
	__atomic_fetch_and((uint32_t *)(void *)dev, ~events, __ATOMIC_SEQ_CST);
}

/* ---- regions --------------------------------------------------------------------------------------- */

/* Region indexes are VFIO_PCI_*_REGION_INDEX: 0-5 BARs, 6 ROM, 7 configuration space, 8 VGA. */
#define SVIO_REGION_CONFIG 7
#define SVIO_MAX_SPARSE	   64

struct svio_region_info {
	uint64_t size;	/* bytes, exact: never rounded up to pages */
	uint32_t flags; /* enum svio_region_flags */
	uint32_t num_areas;
	struct svio_sparse_area {
		uint64_t offset, size;
	} areas[SVIO_MAX_SPARSE]; /* what may be mapped; one area covering the region when there is no sparse capability */
};

enum svio_region_flags {
	SVIO_REGION_READ = 1u << 0,
	SVIO_REGION_WRITE = 1u << 1,
	SVIO_REGION_MMAP = 1u << 2,
};

/*
 * The areas are page aligned, within the region, and exclude the pages of the MSI-X table: the table can be read and written
 * through region access (the kernel mediates it) but never mapped writable by accident.
 */
int svio_device_region_info(struct svio_device *dev, uint32_t region, struct svio_region_info *info);

/*
 * Read or write exactly len bytes; naturally aligned accesses of 1, 2, 4 and 8 bytes reach the device as such (8 as two of 4 on
 * Linux before 6.10). -EINVAL outside the region, -EIO decoding off or a device error, -ENODEV gone.
 */
int svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off, void *buf, size_t len);
int svio_device_region_write(struct svio_device *dev, uint32_t region, uint64_t off, const void *buf, size_t len);

/*
 * A raw mapping of [off, off + len) of a region, page aligned and inside one area. `fixed` is NULL or an address to replace
 * (MAP_FIXED). For room mmio; drivers use svio_bar_map(). -EINVAL when the range cannot be mapped.
 */
int svio_device_region_mmap(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, int prot,
			    void *fixed, void **addr);

/*
 * Configuration space, little-endian values converted; width 1, 2 or 4. The memory and master enable bits written to the command
 * register here are kept over a reset.
 */
int svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t *value);
int svio_device_config_write(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t value);

/*
 * Set or clear Bus Master Enable (PCI command register bit 2); VFIO leaves it off at open. Setting it sets memory decoding too,
 * except between svio_device_set_memory(false) and (true).
 */
int svio_device_set_master(struct svio_device *dev, bool on);

/* ---- interrupts ------------------------------------------------------------------------------------ */

/* Indexes are VFIO_PCI_*_IRQ_INDEX. */
enum svio_irq_index { SVIO_IRQ_INTX, SVIO_IRQ_MSI, SVIO_IRQ_MSIX, SVIO_IRQ_ERR, SVIO_IRQ_REQ };

struct svio_irq_info {
	uint32_t count;
	bool eventfd, maskable, automasked, noresize;
};

int svio_device_irq_info(struct svio_device *dev, uint32_t index, struct svio_irq_info *info);

/*
 * Signal `count` eventfds (-1 = leave that vector without) from vector `start` on. Calling it again for the same index
 * replaces those vectors and leaves the others; where the kernel cannot add vectors (irq_info.noresize), all of them are off
 * for a moment. The eventfds are the caller's and stay open until svio_device_irq_disable() or close: they are armed again by
 * themselves after a reset.
 * -EINVAL beyond irq_info.count, -ENOSPC the platform has fewer vectors, -EBUSY another of INTx, MSI and MSI-X is enabled,
 * or ERR/REQ of a device that was opened without SVIO_DEVICE_NO_WATCH, -EOPNOTSUPP for INTx of a device whose INTx is
 * broken (svio_pci_quirk).
 */
int svio_device_irq_enable(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count, const int *eventfds);
int svio_device_irq_disable(struct svio_device *dev, uint32_t index);
/* INTx is masked by the kernel when it fires: unmask after serving the device. -EOPNOTSUPP where irq_info.maskable is false. */
int svio_device_irq_mask(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count);
int svio_device_irq_unmask(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count);
/* Fire the eventfds from software (loop-back test). */
int svio_device_irq_trigger(struct svio_device *dev, uint32_t index, uint32_t start, uint32_t count);

/* ---- features: VFIO_DEVICE_FEATURE ------------------------------------------------------------------ */

enum svio_feature_op { SVIO_FEATURE_PROBE, SVIO_FEATURE_GET, SVIO_FEATURE_SET };

/* data/size: the feature's payload behind the 8-byte header, in and out. -ENOTTY when the device does not have it. */
int svio_device_feature(struct svio_device *dev, enum svio_feature_op op, uint16_t feature, void *data, size_t size);

/* ---- the device's own migration state: <linux/vfio.h>, migration v2 ------------------------------------ */

enum svio_mig_flags { SVIO_MIG_CAN_STOP_COPY = 1u << 0, SVIO_MIG_CAN_P2P = 1u << 1, SVIO_MIG_CAN_PRE_COPY = 1u << 2 };

/* enum vfio_device_mig_state. From ERROR only svio_device_reset() leads, to RUNNING. */
enum svio_mig_state {
	SVIO_MIG_ERROR,
	SVIO_MIG_STOP,	    /* no DMA, no interrupt, no change of state */
	SVIO_MIG_RUNNING,
	SVIO_MIG_STOP_COPY, /* STOP, and its state can be read */
	SVIO_MIG_RESUMING,  /* STOP, and a state is written; leaving to STOP applies it */
	SVIO_MIG_RUNNING_P2P,
	SVIO_MIG_PRE_COPY,  /* RUNNING, and some of its state can be read ahead: the stream goes on in STOP_COPY */
	SVIO_MIG_PRE_COPY_P2P,
};

/* -ENOTTY: this device cannot. */
int svio_device_mig_flags(struct svio_device *dev, uint64_t *flags);
int svio_device_mig_get(struct svio_device *dev, enum svio_mig_state *state);
/* The device finds the way by itself. After a failure svio_device_mig_get() tells where it is. Not while it is reset. */
int svio_device_mig_set(struct svio_device *dev, enum svio_mig_state state);
/* *got 0: the end; in PRE_COPY, for now. */
int svio_device_mig_read(struct svio_device *dev, void *buf, size_t len, size_t *got);
int svio_device_mig_write(struct svio_device *dev, const void *buf, size_t len);

/* ---- reset ----------------------------------------------------------------------------------------- */

enum svio_hook_stage { /* prepare runs upwards, done runs downwards */
	SVIO_HOOK_DRIVER,
	SVIO_HOOK_POLL,
	SVIO_HOOK_IOAS,
	SVIO_HOOK_MMIO,
	SVIO_HOOK_STAGES
};

struct svio_device_hook {
	enum svio_hook_stage stage;
	/* The function is about to be reset or disabled. Cannot fail: what does not stop is stopped by the reset. */
	void (*prepare)(void *ctx, struct svio_device *dev);
	/* err = 0: reset and configuration restored; otherwise the device is as it was or gone (-ENODEV). */
	void (*done)(void *ctx, struct svio_device *dev, int err);
	void *ctx;
	struct svio_device_hook *next; /* private to the room while registered */
};

/*
 * Hooks are the caller's memory until removed; callers are serialised with reset by the device's lock, which is held while hooks
 * run: a hook may use the device, but not add or remove hooks or reset it. Within a stage, prepare runs in the order of
 * adding and done in the reverse order.
 */
void svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook);
void svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook);

/*
 * Orderly function reset (FLR or what VFIO_DEVICE_RESET finds), retried on -EAGAIN for up to 200 ms. Afterwards the command
 * register and the interrupts are as they were, and SVIO_EV_RESET is raised for the driver. -ENOTTY when the function
 * cannot be reset alone (try svio_device_hot_reset()); -ENODEV it did not come back.
 */
int svio_device_reset(struct svio_device *dev);

/*
 * Reset the bus or slot through all affected groups, which this process must own (or nobody: they are opened for the moment).
 * -EBUSY, explained, when others are affected; -EAGAIN under contention (the kernel only tries its locks); -ENOTTY
 * neither can be reset. Affected open devices of this process run their hooks too.
 */
int svio_device_hot_reset(struct svio_device *dev);

/*
 * Orderly disable/enable of memory decoding: false runs the prepare hooks, true the done hooks (with err 0; nothing was reset).
 * -EOPNOTSUPP for a VF, whose bit does not exist.
 */
int svio_device_set_memory(struct svio_device *dev, bool on);

/* ---- DMA domains ----------------------------------------------------------------------------------- */

/*
 * One I/O page table: a type1 container, an iommufd IOAS, or a vfio-user peer. A device has one from open on; devices on
 * kernel VFIO can share one. Reference counted. Room ioas decides what is mapped; applications use that room.
 * Calls on one domain are serialised by the caller.
 */
#define SVIO_DMA_MAX_RANGES 64

struct svio_dma_info {
	uint64_t pgsizes;	 /* bitmap of page sizes the IOMMU can map */
	uint64_t max_mappings;	 /* mappings still to be had (dma_avail); UINT64_MAX when unlimited or unknown */
	bool accounts_memlock;	 /* mappings count against RLIMIT_MEMLOCK of the process */
	bool dirty_tracking;	 /* VFIO_IOMMU_DIRTY_PAGES is there */
	uint64_t dirty_pgsizes, dirty_max_bitmap;
	uint32_t num_ranges;	 /* usable IOVA: the aperture without reserved ranges, sorted, inclusive ends */
	struct svio_iova_range {
		uint64_t start, last;
	} ranges[SVIO_DMA_MAX_RANGES];
};

enum svio_dma_prot { SVIO_DMA_READ = 1u << 0, SVIO_DMA_WRITE = 1u << 1 }; /* the device may … */

struct svio_dma_map {
	uint64_t iova;
	void *vaddr;
	uint64_t len;
	uint32_t prot; /* enum svio_dma_prot */
	int fd;	       /* file behind the memory, for vfio-user peers, or -1 */
	uint64_t fd_offset;
};

struct svio_dma_domain *svio_device_domain(struct svio_device *dev); /* borrowed */
void svio_dma_domain_get(struct svio_dma_domain *domain);
void svio_dma_domain_put(struct svio_dma_domain *domain);
/*
 * Move the device into `domain`, or into a new one of its own when NULL. On kernel VFIO the other open functions of its IOMMU
 * group move with it, and all of them are reset (the device is closed and opened again; what was set on it is set again).
 * -EBUSY while BARs are mapped or interrupts enabled in that group, or when the domain that it leaves would lose mappings
 * because no other group is in it; -EXDEV when that domain cannot be shared (the ioas then keeps several and maps into
 * each). After any failure the device is where it was.
 */
int svio_device_set_domain(struct svio_device *dev, struct svio_dma_domain *domain);
int svio_dma_info(struct svio_dma_domain *domain, struct svio_dma_info *info);
/* -EEXIST overlaps, -ENOSPC no mapping left (dma_entry_limit), -ENOMEM RLIMIT_MEMLOCK, -EINVAL outside the ranges. */
int svio_dma_map(struct svio_dma_domain *domain, const struct svio_dma_map *map);
/* Exactly what one svio_dma_map() mapped: -ENOENT nothing there, -EINVAL a different length. DMA to it has ended when it returns. */
int svio_dma_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len);

/* ---- what devices wrote ------------------------------------------------------------------------------ */

/*
 * Let the IOMMU's driver keep a bitmap of written pages (VFIO_IOMMU_DIRTY_PAGES). From then on every svio_dma_unmap() hands the bits of
 * what it unmaps to fn, one per page_size, or bitmap NULL when all of it must count as written; fn runs inside of that call.
 * These three may run beside map and unmap of the same domain, not beside each other. -EOPNOTSUPP a transport or kernel without.
 */
typedef void (*svio_dma_unmapped_fn)(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, const uint64_t *bitmap,
				     uint64_t page_size);
int svio_dma_dirty_start(struct svio_dma_domain *domain, svio_dma_unmapped_fn fn);
void svio_dma_dirty_stop(struct svio_dma_domain *domain);
/*
 * Bits of [iova, iova + len), which must be exactly one or more mappings, and clear them. bitmap is zeroed by the caller, bit 0 is iova; page_size
 * is one of svio_dma_info.dirty_pgsizes. Linux sets all bits of a domain in which a group has not limited itself to pinned pages.
 */
int svio_dma_dirty_get(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size, uint64_t *bitmap);

/*
 * A vfio-user server without a descriptor for memory writes it by messages (DMA_WRITE), which a thread of this process carries out: neither the
 * device's log nor an IOMMU knows of these. fn is told, in that thread, behind each; one for the process, NULL: nobody.
 * fn must not wait for anything.
 */
void svio_dma_on_message_write(void (*fn)(void *ptr, size_t len));

#ifdef __cplusplus
}
#endif
#endif
