/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internals of room vfio.
 *
 * The room has two halves. Above stands what is true of every device (device, region, config, irq, reset, watch,
 * feature, domain); below it one table of operations per transport, whose operations are VFIO's own. The upper half
 * validates everything that comes from below: a transport hands replies through unparsed.
 *
 *	svio_device_*  ->  struct svio__transport_ops  ->  group.c + kdev.c + container.c	Linux VFIO, type1
 *							   user.c				vfio-user
 *
 * Locks, in the order in which they are taken:
 *	hot_lock (hotreset.c)	one hot reset at a time
 *	dev->lock		hooks, and everything that runs them
 *	registry lock (device.c)	the list of open devices
 *	group lock (group.c)	groups, and which container each is in
 *	watch locks (watch.c)
 */
#ifndef SVIO_VFIO_PRIV_H
#define SVIO_VFIO_PRIV_H

#ifndef SVIO_ROOM_VFIO
#error "vfio_priv.h belongs to room vfio; include svio_vfio.h"
#endif

#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <unistd.h>
#include "svio_pci.h"
#include "svio_vfio.h"

#define SVIO__NAME_MAX	   256	       /* "user:" and a socket path (108), or "sim:" and options */
#define SVIO__TOKEN_LEN	   36	       /* a UUID in text */
#define SVIO__MAX_REGIONS  64	       /* more than any VFIO driver has; what lies beyond is ignored */
#define SVIO__MAX_IRQS	   16	       /* index types, not vectors */
#define SVIO__MAX_VECTORS  2048	       /* of one MSI-X function: PCIe 5.0 §7.7.2.2 */
#define SVIO__REPLY_MAX	   (64u << 10) /* bytes of a variable-length reply */
#define SVIO__FEATURE_MAX  (16u << 20) /* bytes of a feature's payload: a dirty log report carries a pointer */
#define SVIO__RESET_TRY_NS UINT64_C(200000000)

struct svio__hot_reset;

/*
 * What a transport provides. All return 0 or -errno, with a sentence (svio_fail) where the transport knows more than
 * the caller can say. Replies are raw: lengths, offsets and counts in them are checked above. An operation that a
 * transport does not have is NULL and counts as -ENOTTY.
 */
struct svio__transport_ops {
	enum svio_transport transport;

	/*
	 * Fill dev->domain, dev->priv, dev->name in its canonical form, and what is known from elsewhere in dev->info
	 * (iommu_group, numa_node, is_vf). Undo everything on failure.
	 */
	int (*open)(struct svio_device *dev, const struct svio_device_opts *opts);
	/* Cannot fail. forked: this process is a child of the owner: release memory and descriptors, touch no device. */
	void (*close)(struct svio_device *dev, bool forked);

	int (*info)(struct svio_device *dev, struct vfio_device_info *info);
	/* info->argsz bytes are writable; a larger argsz in the reply asks for another call. */
	int (*region_info)(struct svio_device *dev, struct vfio_region_info *info);
	/* Bytes moved, which may be fewer than len. offset is that of region_info. */
	ssize_t (*region_read)(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, void *buf,
			       size_t len);
	ssize_t (*region_write)(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos,
				const void *buf, size_t len);
	/* flags: MAP_SHARED and perhaps MAP_FIXED. */
	int (*region_mmap)(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, size_t len,
			   int prot, int flags, void *where, void **addr);

	int (*irq_info)(struct svio_device *dev, struct vfio_irq_info *info);
	/* flags: VFIO_IRQ_SET_*. fds: `count` of them with DATA_EVENTFD, else NULL. > 0: so many vectors could be had. */
	int (*irq_set)(struct svio_device *dev, uint32_t index, uint32_t flags, uint32_t start, uint32_t count,
		       const int *fds);

	int (*reset)(struct svio_device *dev);
	/* Which functions does it reset, and may we? Then do it. end releases what begin filled in. */
	int (*hot_reset_begin)(struct svio_device *dev, struct svio__hot_reset *hr);
	int (*hot_reset_fire)(struct svio_device *dev, struct svio__hot_reset *hr);
	void (*hot_reset_end)(struct svio__hot_reset *hr);

	int (*feature)(struct svio_device *dev, struct vfio_device_feature *feature);
	/* The migration stream, where it is no file: both or neither. */
	int (*mig_read)(struct svio_device *dev, void *buf, size_t len, size_t *got);
	int (*mig_write)(struct svio_device *dev, const void *buf, size_t len);

	/* Move dev (and what must move with it) into domain, or into a new one of its own when NULL. */
	int (*set_domain)(struct svio_device *dev, struct svio_dma_domain *domain);
	/* The last reference is gone. */
	void (*domain_free)(struct svio_dma_domain *domain);
	/* A reply of info->argsz bytes at most, as region_info. */
	int (*domain_info)(struct svio_dma_domain *domain, struct vfio_iommu_type1_info *info);
	int (*domain_map)(struct svio_dma_domain *domain, const struct svio_dma_map *map);
	int (*domain_unmap)(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t *unmapped);
	/* Dirty bitmap; all three or none. unmap_dirty fills in bits of what it unmaps. */
	int (*domain_dirty_set)(struct svio_dma_domain *domain, bool on);
	int (*domain_dirty_get)(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
				uint64_t *bitmap);
	int (*domain_unmap_dirty)(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
				  uint64_t *bitmap, uint64_t *unmapped);
};

struct svio_dma_domain {
	const struct svio__transport_ops *ops;
	_Atomic uint32_t refs;
	int fd;		   /* container */
	uint32_t groups;   /* attached to it; under the group lock */
	uint64_t mappings; /* made and not yet removed */
	_Atomic(svio_dma_unmapped_fn) unmapped; /* with the dirty bitmap on */
	bool locks_memory; /* mappings count against RLIMIT_MEMLOCK: kernel transports */
	void *priv;	   /* the transport's */
};

struct svio__region {
	uint64_t offset; /* in the transport's address of regions: the kernel's file offset */
	struct svio_region_info info;
};

struct svio__irq {
	struct svio_irq_info info;
	uint32_t num; /* vectors enabled, [0, num) */
	int *fds;     /* num of them */
};

/* A descriptor that the watcher thread turns into event bits of a device. */
struct svio__watch {
	struct svio__watch *next;
	uint64_t id; /* 0: not watched */
	int fd;
	uint32_t event; /* enum svio_device_event */
	bool drain;	/* an eventfd, to be read; otherwise reported once, when the peer hangs up */
	struct svio_device *dev;
};

/* An eventfd of ours on the ERR or REQ index. */
struct svio__notifier {
	uint32_t index;
	bool armed;
	struct svio__watch watch;
};

struct svio_device {
	struct svio_device_hot hot; /* first: svio_device_events() */
	char name[SVIO__NAME_MAX];
	char vf_token[SVIO__TOKEN_LEN + 1];
	const struct svio__transport_ops *ops;
	struct svio_dma_domain *domain; /* borrowed from the transport */
	void *priv;			/* the transport's */
	int fd;				/* kernel transports: the device, or -1 when it was lost */
	pid_t owner;
	uint32_t flags; /* enum svio_device_open_flags */
	uint32_t msg_timeout_ms;
	struct svio_device_info info;
	struct svio_pci_addr addr; /* kernel transports */
	uint16_t command;	   /* PCI_COMMAND_MEMORY and _MASTER as they must be */
	bool quiesced;		   /* prepare hooks have run, done hooks have not */
	bool opened;		   /* on the list of open devices */
	bool mig_open;		   /* mig_fd is a migration stream: migrate.c */
	int mig_fd;
	struct svio__region *regions;
	struct svio__irq *irqs;
	struct svio__notifier err, req;
	pthread_mutex_t lock;
	struct svio_device_hook *hooks[SVIO_HOOK_STAGES];
	struct svio_device *next;	/* list of open devices */
	struct svio_device *group_next; /* group.c: devices of one group */
};

static inline bool svio__forked(const struct svio_device *dev)
{
	return svio_unlikely(dev->owner != getpid());
}

/* ---- transport.c ----------------------------------------------------------------------------------- */

/* The transport that a name selects. */
const struct svio__transport_ops *svio__transport(const char *name);

extern const struct svio__transport_ops svio__group_ops;
extern const struct svio__transport_ops svio__user_ops; /* user: and sim: */

/* ---- chain.c: replies that the kernel or a server grows ------------------------------------------------ */

/*
 * Call `call` with a zeroed reply of `size` bytes, whose first word is argsz, and again with more while the reply asks for more,
 * up to SVIO__REPLY_MAX. prepare (may be NULL) fills in the request's fields. *reply is the caller's to free(); *len is how
 * much of it is valid.
 */
struct svio__reply_call {
	int (*call)(void *ctx, void *reply);
	void (*prepare)(void *ctx, void *reply);
	void *ctx;
};
int svio__reply(const struct svio__reply_call *rc, size_t size, void **reply, size_t *len);

/*
 * Find capability `id` in the chain that starts at offset `first` of reply[0, len), behind a fixed part of `fixed` bytes. *cap is
 * the offset of its header, *room the bytes from there to the end. 0, -ENOENT, or -EPROTO for a chain that leaves the
 * reply, points into the fixed part, or loops.
 */
int svio__chain_find(const void *reply, size_t len, size_t fixed, uint32_t first, uint16_t id, size_t *cap,
		     size_t *room);

/* ---- region.c -------------------------------------------------------------------------------------- */

int svio__regions_load(struct svio_device *dev);
/* Take the pages of the MSI-X table out of what may be mapped; after config space can be read. */
int svio__regions_hide_msix(struct svio_device *dev);
/* Remove [start, end) from the areas; exposed for the unit test. */
void svio__areas_cut(struct svio_region_info *info, uint64_t start, uint64_t end);

/* ---- config.c -------------------------------------------------------------------------------------- */

/* Identity and a known state of the command register: decoding on, mastering off. */
int svio__config_open(struct svio_device *dev);
/* Put back what a reset may have taken. */
int svio__config_restore(struct svio_device *dev);
void svio__config_close(struct svio_device *dev);
int svio__config_command(struct svio_device *dev, uint16_t bits, uint16_t value);

/* ---- irq.c ----------------------------------------------------------------------------------------- */

int svio__irqs_load(struct svio_device *dev);
/* Arm everything that is enabled once more, with the same eventfds. */
int svio__irqs_rearm(struct svio_device *dev);
void svio__irqs_close(struct svio_device *dev);
bool svio__irqs_in_use(const struct svio_device *dev);
/* ERR and REQ to the watcher. */
int svio__notifiers_open(struct svio_device *dev);
void svio__notifiers_close(struct svio_device *dev);

/* ---- watch.c --------------------------------------------------------------------------------------- */

/*
 * Watch w->fd, which stays the caller's, and raise w->event on w->dev. The first watch starts the thread. After
 * svio__watch_del() returned, the thread does not touch the device any more; the last one joins the thread.
 */
int svio__watch_add(struct svio__watch *w);
void svio__watch_del(struct svio__watch *w);

/* ---- hook.c, reset.c, hotreset.c ----------------------------------------------------------------------- */

void svio__hooks_prepare(struct svio_device *dev);
void svio__hooks_done(struct svio_device *dev, int err);
/* After a reset: is it still there, then configuration, interrupts, and the event. */
int svio__reset_restore(struct svio_device *dev);
/* fire() until it is neither -EAGAIN nor 200 ms late. */
int svio__reset_retry(int (*fire)(struct svio_device *dev, void *ctx), struct svio_device *dev, void *ctx);

/* The functions that a hot reset reaches, and the descriptors that show that they are ours. */
struct svio__hot_reset {
	struct vfio_pci_dependent_device *devices; /* on the heap */
	uint32_t num_devices;
	int32_t *fds;	   /* of the groups; num_fds of them, on the heap */
	uint32_t num_fds;
	uint32_t num_owned; /* of them, the last so many were opened for this reset */
};

/* ---- device.c -------------------------------------------------------------------------------------- */

/* Call fn for each open device of this process, under the registry lock. */
void svio__devices_each(void (*fn)(void *ctx, struct svio_device *dev), void *ctx);

/* The device can no longer be reached: raise SVIO_EV_GONE and explain. Returns -ENODEV. */
int svio__gone(struct svio_device *dev, const char *what);

/* ---- domain.c -------------------------------------------------------------------------------------- */

struct svio_dma_domain *svio__domain_new(const struct svio__transport_ops *ops);

/* ---- kdev.c: operations on a device descriptor, common to the kernel transports --------------------------- */

int svio__kdev_info(struct svio_device *dev, struct vfio_device_info *info);
int svio__kdev_region_info(struct svio_device *dev, struct vfio_region_info *info);
ssize_t svio__kdev_read(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, void *buf,
			size_t len);
ssize_t svio__kdev_write(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, const void *buf,
			 size_t len);
int svio__kdev_mmap(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, size_t len, int prot,
		    int flags, void *where, void **addr);
int svio__kdev_irq_info(struct svio_device *dev, struct vfio_irq_info *info);
int svio__kdev_irq_set(struct svio_device *dev, uint32_t index, uint32_t flags, uint32_t start, uint32_t count,
		       const int *fds);
int svio__kdev_reset(struct svio_device *dev);
int svio__kdev_feature(struct svio_device *dev, struct vfio_device_feature *feature);
int svio__kdev_hot_reset_info(struct svio_device *dev, struct svio__hot_reset *hr);
int svio__kdev_hot_reset_fire(struct svio_device *dev, struct svio__hot_reset *hr);

/* ---- container.c: a type1 v2 container as a domain -------------------------------------------------------- */

int svio__container_new(struct svio_dma_domain **domainp);
/* VFIO_SET_IOMMU, once the first group is in it. */
int svio__container_set_iommu(struct svio_dma_domain *domain, const char *who);
void svio__container_free(struct svio_dma_domain *domain);
int svio__container_info(struct svio_dma_domain *domain, struct vfio_iommu_type1_info *info);
int svio__container_map(struct svio_dma_domain *domain, const struct svio_dma_map *map);
int svio__container_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t *unmapped);
int svio__container_dirty_set(struct svio_dma_domain *domain, bool on);
int svio__container_dirty_get(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
			      uint64_t *bitmap);
int svio__container_unmap_dirty(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t page_size,
				uint64_t *bitmap, uint64_t *unmapped);

/* ---- explain.c: why not, and what to do ------------------------------------------------------------------ */

int svio__explain_container(int err);
int svio__explain_group(int err, const struct svio_pci_info *pci);
int svio__explain_viability(const struct svio_pci_info *pci);
int svio__explain_device(int err, const struct svio_pci_info *pci, const char *vf_token);
int svio__explain_no_iommu(const struct svio_pci_info *pci);
int svio__explain_memlock(uint64_t len);
/* A process other than ours that has `path` open, or 0 when there is none that we may see. */
pid_t svio__who_has(const char *path);

/* ---- migrate.c ------------------------------------------------------------------------------------- */

void svio__mig_close(struct svio_device *dev);

#endif
