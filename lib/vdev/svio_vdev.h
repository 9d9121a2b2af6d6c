/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio vdev: the device kit. Device models in user space, offered to any vfio-user client.
 *
 * How to write a model. A model is one file: its registers, its doorbells, a poll(), and
 * save()/load(). The kit does everything that is not the device: sockets and messages,
 * configuration space, BAR memory, interrupts, DMA, the dirty log, and the migration protocol.
 * drivers/edu/edu_model.c is the worked example.
 *
 *	static int foo_init(struct svio_vdev *dev, struct svio_vdev_args *args)
 *	{
 *		struct foo *foo = svio_vdev_priv(dev);			// zeroed, model->priv_size bytes
 *
 *		svio_vdev_set_ids(dev, &(struct svio_vdev_ids){ .vendor = ..., .class_code = 0x010802 });
 *		svio_vdev_add_bar(dev, 0, 0x4000, SVIO_VDEV_BAR_64, &doorbell_page, 1);
 *		svio_vdev_cap_pcie(dev, SVIO_VDEV_PCIE_FLR);
 *		svio_vdev_cap_msix(dev, 16, 0, 0x2000, 0, 0x3000);
 *		foo->doorbell = svio_vdev_bar_mem(dev, 0);		// same pointer for the device's life
 *		return svio_vdev_arg_u64(args, "queues", 16, 1, 64, &foo->queues);
 *	}
 *	const struct svio_vdev_model svio_foo_model = { .name = "foo", .init = foo_init, .poll = foo_poll, ... };
 *
 * - Registers outside of shared areas are *trapped*: each access arrives as reg_read()/reg_write(),
 *   naturally aligned, of 1, 2, 4 or 8 bytes, in the order in which the client made them.
 * - *Shared areas* of a BAR (doorbells) are plain memory that the client maps: poll() reads them
 *   with ordinary loads (__atomic, acquire). Clients that do not map them reach the same memory by
 *   messages, so that the model has one path. Read each word once and validate what you read: the
 *   client may change it at any time.
 * - DMA to shared client memory: svio_vdev_dma_ptr() gives a pointer, in a handful of instructions;
 *   after writing through it, svio_vdev_dma_mark(). Some clients share no memory:
 *   svio_vdev_dma_start() works with every client and may complete later. A model must use a
 *   pointer only until it returns to the kit, unless it has a quiesce().
 * - Interrupts: svio_vdev_irq_raise(dev, vector) for MSI and MSI-X, svio_vdev_intx_set(dev, level)
 *   for INTx.
 * - quiesce() is asked before memory is unmapped, and before reset, stop and disconnection: a model
 *   that holds DMA pointers or requests in flight answers 0 when none is left in the range, or
 *   -EAGAIN to be polled and asked again. Models whose DMA ends before they return need none.
 *
 * Objects and order of calls, for who runs devices:
 *
 *	svio_vdev_model_register(&svio_foo_model)	once per model
 *	svio_vdev_create("foo,queues=4", flags, &dev)
 *	svio_vdev_server_create(&opts, &srv)
 *	svio_vdev_server_listen(srv, dev, "/run/foo.sock") or svio_vdev_server_attach(srv, dev, fd)
 *	svio_vdev_server_run(srv)			in this thread, until svio_vdev_server_stop() (signal safe)
 *	svio_vdev_server_destroy(srv), svio_vdev_destroy(dev)
 *
 * or svio_vdev_sim_start("foo,queues=4", &fd, &sim): all of it in a thread, fd is the client's end.
 *
 * State. A new device is as after power-on and firmware: memory decoding on, bus mastering off (as
 * vfio-pci leaves a function at open). RESET and FLR reset the model; configuration that software
 * wrote (command, BARs) is kept, as Linux VFIO's reset does by saving and restoring it. While
 * decoding is off, the function is in D3hot or a reset runs, shared areas have no memory behind
 * them: the client's mappings raise SIGBUS, region messages give EIO; contents are kept for the
 * model. Without bus mastering there is no DMA. After a client has gone, its memory and eventfds
 * are released and the device state is kept, or reset with SVIO_VDEV_RESET_ON_CLOSE; then the next
 * client may connect. A second client at the same time is refused (its first request is answered
 * with EBUSY, then its connection is closed).
 *
 * Threads. A device and its server belong to the thread that runs the server; models are called in
 * it and call the kit from it. Exceptions are named (svio_vdev_kick(), svio_vdev_server_stop()).
 * Nothing here starts EAL.
 *
 * Untrusted peer. The client is a stranger: every length, index, descriptor and address is checked.
 * Memory of clients may vanish (truncated file): only sealed files are mapped, unless
 * svio_vdev_sigbus_guard() is on or the client is trusted; others are read and written by
 * pread/pwrite.
 *
 * Specifications: PCIe = PCI Express Base Specification 5.0; PCI PM = PCI Bus Power Management
 * Interface 1.2; vfio-user = QEMU docs/interop/vfio-user (the wire format is svio_vfio_user.h);
 * VFIO = <linux/vfio.h>.
 */
#ifndef SVIO_VDEV_H
#define SVIO_VDEV_H

#include <string.h>
#include <sys/socket.h>
#include "svio_base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_vdev;
struct svio_vdev_args;
struct svio_vdev_buf;
struct svio_vdev_server;

/* ---- the model ------------------------------------------------------------------------------ */

enum svio_vdev_quiesce {
	SVIO_VDEV_Q_UNMAP,	/* [iova, iova + len) goes away */
	SVIO_VDEV_Q_RESET,	/* everything; requests may be dropped */
	SVIO_VDEV_Q_STOP,	/* migration STOP: no DMA and no state change from now on; requests must survive */
	SVIO_VDEV_Q_PASID,	/* PASIDs [iova, iova + len) go away (svio_vdev_iommu.h): end what is done for them */
	SVIO_VDEV_Q_DISCONNECT, /* everything: the client is gone; requests may be dropped */
};

enum svio_vdev_reset {
	SVIO_VDEV_RESET_MESSAGE, /* VFIO_USER_DEVICE_RESET */
	SVIO_VDEV_RESET_FLR,	 /* Initiate Function Level Reset (PCIe §6.6.2) */
	SVIO_VDEV_RESET_CLOSE,	 /* the client went away and the device is configured so */
};

struct svio_vdev_model {
	const char *name;	 /* "nvme": what `sim:` and `svio serve` call it */
	const char *help;	 /* its options in one line, or NULL */
	size_t priv_size;	 /* model state, zeroed at create; svio_vdev_priv() */
	uint32_t max_access;	 /* widest trapped access in bytes, 4 or 8; 0 = 8. Wider ones are split, low half first */
	uint32_t state_version;	 /* of save(); load() is only offered states of versions <= this */
	size_t state_max;	 /* bound on the bytes of save(); 0 = 1 MiB */

	/*
	 * Describe the function (ids, BARs, capabilities) and parse options. Options that init()
	 * does not ask for are refused by the kit. 0 or -errno with svio_fail(); fini() is called
	 * only after success. May be NULL: fini.
	 */
	int (*init)(struct svio_vdev *dev, struct svio_vdev_args *args);
	void (*fini)(struct svio_vdev *dev);

	/*
	 * Trapped register access: width 1, 2, 4 or 8, naturally aligned, inside the BAR, outside
	 * of shared areas and of the MSI-X structures (the kit's). Values in CPU order. A negative
	 * errno becomes an error reply. Must not wait: what takes time is started here and finished
	 * in poll().
	 */
	int (*reg_read)(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t *value);
	int (*reg_write)(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t value);

	/*
	 * Make progress; called every round in polled mode, after every message and kick in
	 * interrupt mode (until it returns 0). Not called while stopped (migration) or without a
	 * client. Returns the number of things done, 0 = idle.
	 */
	unsigned int (*poll)(struct svio_vdev *dev);

	/* Optional: configuration space [off, off + len) was written; the kit has applied it. */
	void (*config_written)(struct svio_vdev *dev, uint32_t off, uint32_t len);

	/*
	 * Back to the state after power-on. Shared areas have been zeroed; no DMA is in flight
	 * (quiesce() came first).
	 */
	void (*reset)(struct svio_vdev *dev, enum svio_vdev_reset why);

	/*
	 * Optional, see above. iova and len for SVIO_VDEV_Q_UNMAP and _Q_PASID; otherwise 0 and UINT64_MAX. 0 or
	 * -EAGAIN.
	 */
	int (*quiesce)(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len);

	/* Optional: leave a migration stop; poll() follows. */
	void (*resume)(struct svio_vdev *dev);

	/*
	 * Optional: a client connected (true) or has gone (false, after DMA was stopped and memory
	 * unmapped).
	 */
	void (*connection)(struct svio_vdev *dev, bool connected);

	/*
	 * Migration; NULL = the device cannot migrate. The kit saves configuration space, shared
	 * areas and interrupt state; save() appends the model's own with svio_vdev_buf_put().
	 * load() gets exactly those bytes and their version, possibly from a hostile source: check
	 * everything, -EINVAL leaves the device in the ERROR state. Called while stopped. precopy()
	 * (optional) appends what is useful to send ahead while running; load_precopy() receives it
	 * before load(), piece by piece.
	 */
	int (*save)(struct svio_vdev *dev, struct svio_vdev_buf *out);
	int (*load)(struct svio_vdev *dev, uint32_t version, const void *data, size_t len);
	int (*precopy)(struct svio_vdev *dev, struct svio_vdev_buf *out);
	int (*load_precopy)(struct svio_vdev *dev, uint32_t version, const void *data, size_t len);
};

/*
 * Make a model known by name to svio_vdev_create(). The descriptor stays the caller's and must
 * outlive all devices. At most 32; -EEXIST for another model of the same name, 0 for the same one
 * again. Any thread.
 */
int svio_vdev_model_register(const struct svio_vdev_model *model);
/* The model, or NULL. `i` counts from 0 for listing. */
const struct svio_vdev_model *svio_vdev_model_find(const char *name);
const struct svio_vdev_model *svio_vdev_model_at(unsigned int i);

/* ---- devices -------------------------------------------------------------------------------- */

enum svio_vdev_flags {
	/*
	 * Reset the device when its client goes away; otherwise its state is kept for the next
	 * client.
	 */
	SVIO_VDEV_RESET_ON_CLOSE = 1u << 0,
	/*
	 * Do not offer shared areas for mapping: accesses are messages (needed by interrupt mode,
	 * useful for tests).
	 */
	SVIO_VDEV_NO_MMAP = 1u << 1,
	/* The client is this process or as trusted: map unsealed files too. */
	SVIO_VDEV_TRUST_CLIENT = 1u << 2,
	/* A virtual function: memory decoding has no enable bit of its own (PCIe §9.3.4.1.3). */
	SVIO_VDEV_VF = 1u << 3,
	/* The server will sleep (svio_vdev_server_opts.interrupt): no store to shared memory wakes it, so that a model which has the client
	 * ring doorbells in the client's own memory must ask for messages too. */
	SVIO_VDEV_SLEEPS = 1u << 4,
};

/*
 * Create a device from "model" or "model,key=value,flag,…". -ENOENT no such model (the known ones
 * are named), -EINVAL a bad or unknown option, or what the model's init() says; nothing is left
 * behind on failure.
 */
int svio_vdev_create(const char *spec, uint32_t flags, struct svio_vdev **devp);
/* The device must not be attached to a server. dev may be NULL. */
void svio_vdev_destroy(struct svio_vdev *dev);
const char *svio_vdev_name(const struct svio_vdev *dev); /* the model's name */
uint32_t svio_vdev_get_flags(const struct svio_vdev *dev);
/*
 * Credentials of the connected client at connect() (SO_PEERCRED; unix(7)). -ENOTCONN without a
 * client.
 */
int svio_vdev_peer(const struct svio_vdev *dev, struct ucred *cred);
/*
 * A second view of the connection's state for models: true between connection(true) and
 * connection(false).
 */
bool svio_vdev_connected(const struct svio_vdev *dev);

/*
 * Ask the loop to call poll() soon. Any thread, async-signal-safe; a system call, so not for hot
 * paths.
 */
void svio_vdev_kick(struct svio_vdev *dev);
/*
 * Interrupt mode: call poll() no later than `ns` from now; the earliest of several wins. Without
 * effect in polled mode.
 */
void svio_vdev_kick_after(struct svio_vdev *dev, uint64_t ns);

struct svio_vdev_stats {
	uint64_t connects, refused, disconnects;
	uint64_t messages;	      /* requests handled */
	uint64_t region_reads, region_writes;
	uint64_t dma_maps, dma_unmaps;
	uint64_t dma_msgs;	      /* DMA_READ and DMA_WRITE sent */
	uint64_t irqs;		      /* eventfds signalled */
	uint64_t protocol_errors;     /* connections closed for broken framing */
	uint64_t rounds, socket_checks; /* polled mode */
};
void svio_vdev_get_stats(const struct svio_vdev *dev, struct svio_vdev_stats *stats);

/* ---- options, for init() -------------------------------------------------------------------- */

/*
 * Each marks the key as known. A key without a value has the value "". 0 (default applied when
 * absent) or -EINVAL/-ERANGE, explained.
 */
const char *svio_vdev_arg(struct svio_vdev_args *args, const char *key); /* NULL when absent; valid during init() */
int svio_vdev_arg_u64(struct svio_vdev_args *args, const char *key, uint64_t def, uint64_t min, uint64_t max,
		      uint64_t *value);
int svio_vdev_arg_size(struct svio_vdev_args *args, const char *key, uint64_t def, uint64_t *bytes);
int svio_vdev_arg_bool(struct svio_vdev_args *args, const char *key, bool *value); /* absent = false, "" = true, 0/1/no/yes */

/* ---- description, for init() ---------------------------------------------------------------- */

struct svio_vdev_ids {
	uint16_t vendor, device, subsys_vendor, subsys;
	uint32_t class_code; /* 24 bits: base class, sub-class, interface (PCIe §7.5.1.1.6) */
	uint8_t revision;
	uint8_t int_pin; /* 0 none, 1 INTA … 4 INTD; 1 gives the device an INTx */
};
void svio_vdev_set_ids(struct svio_vdev *dev, const struct svio_vdev_ids *ids);

enum svio_vdev_bar_flags {
	SVIO_VDEV_BAR_64 = 1u << 0,	  /* 64-bit: also takes the next index (PCIe §7.5.1.2.1) */
	SVIO_VDEV_BAR_PREFETCH = 1u << 1, /* prefetchable */
};
#define SVIO_VDEV_MAX_AREAS 4
struct svio_vdev_area {
	uint64_t offset, size; /* page aligned, inside the BAR */
};
/*
 * Add BAR `index` (0 … 5) of `size` bytes, a power of two of at least 16 (4096 with areas). Areas
 * are shared with the client. SPDK's client and older servers understand one area only. -EINVAL,
 * -EEXIST, -ENOMEM.
 */
int svio_vdev_add_bar(struct svio_vdev *dev, unsigned int index, uint64_t size, uint32_t flags,
		      const struct svio_vdev_area *areas, unsigned int num_areas);
/*
 * The memory behind the shared areas, addressed by offset in the BAR; NULL when the BAR has none.
 * Same pointer always, also while decoding is off. Other offsets in it are the model's to use or
 * leave.
 */
void *svio_vdev_bar_mem(struct svio_vdev *dev, unsigned int index);
uint64_t svio_vdev_bar_size(const struct svio_vdev *dev, unsigned int index);
/* Memory decoding works: command register and D0. */
bool svio_vdev_mem_enabled(const struct svio_vdev *dev);
bool svio_vdev_bus_master(const struct svio_vdev *dev);

/*
 * Capabilities, placed in the order of calls: standard ones from 0x40 up (PCIe §7.5.3 and others),
 * extended ones from 0x100 (PCIe §7.6.3). They return the offset or -ENOSPC/-EINVAL/-EEXIST.
 * Reserved and read-only bits are respected; the kit acts on writes (power state, FLR, MSI and
 * MSI-X enable and mask).
 */
enum svio_vdev_pcie_flags {
	SVIO_VDEV_PCIE_FLR = 1u << 0,	/* Function Level Reset Capability */
	SVIO_VDEV_PCIE_RCIEP = 1u << 1, /* Root Complex Integrated Endpoint rather than Endpoint */
	SVIO_VDEV_PCIE_E2E_TLP = 1u << 2, /* End-End TLP Prefix Supported (needed for PASID) */
};
int svio_vdev_cap_pm(struct svio_vdev *dev);			  /* PCI PM §3.2; PCIe §7.5.2: D0 and D3hot, no soft reset */
int svio_vdev_cap_pcie(struct svio_vdev *dev, uint32_t flags);	  /* PCIe §7.5.3, version 2; configuration space becomes 4096 bytes */
int svio_vdev_cap_msi(struct svio_vdev *dev, unsigned int vectors, bool maskable); /* PCIe §7.7.1: 1,2,4 … 32 vectors, 64-bit */
/*
 * PCIe §7.7.2. 1 … 2048 vectors; table (16 bytes each) and PBA inside trapped parts of BARs, 8-byte
 * aligned. The kit serves both.
 */
int svio_vdev_cap_msix(struct svio_vdev *dev, unsigned int vectors, unsigned int table_bar, uint32_t table_off,
		       unsigned int pba_bar, uint32_t pba_off);
int svio_vdev_cap_af(struct svio_vdev *dev);			  /* Advanced Features: FLR for conventional PCI (PCI AF ECN) */
int svio_vdev_cap_vendor(struct svio_vdev *dev, const void *body, uint8_t len); /* PCIe §7.9.4; body after the 3-byte header */
int svio_vdev_ecap_pasid(struct svio_vdev *dev, unsigned int width, bool exec, bool priv); /* PCIe §7.8.8; width 1 … 20 */
int svio_vdev_ecap_pri(struct svio_vdev *dev, uint32_t capacity); /* PCIe §10.5.2: outstanding page request capacity */
int svio_vdev_ecap_ats(struct svio_vdev *dev, unsigned int queue_depth); /* PCIe §10.5.1; invalidate queue depth 1 … 32 */
/*
 * Anything else: room for `len` bytes including the header, zeroed, read-only; fill with
 * svio_vdev_config_set().
 */
int svio_vdev_cap_raw(struct svio_vdev *dev, uint8_t id, uint16_t len);
int svio_vdev_ecap_raw(struct svio_vdev *dev, uint16_t id, uint8_t version, uint16_t len);

/*
 * The model's own view of configuration space: width 1, 2 or 4. set ignores write protection; wmask
 * says which bits clients may write.
 */
uint32_t svio_vdev_config_get(const struct svio_vdev *dev, uint32_t off, unsigned int width);
void svio_vdev_config_set(struct svio_vdev *dev, uint32_t off, unsigned int width, uint32_t value);
void svio_vdev_config_wmask(struct svio_vdev *dev, uint32_t off, unsigned int width, uint32_t mask);

/* ---- DMA ------------------------------------------------------------------------------------ */

enum svio_vdev_access { SVIO_VDEV_READ, SVIO_VDEV_WRITE }; /* the device reads or writes client memory */

struct svio_vdev_hit {
	uint64_t iova, len; /* last mapping found; len 0 = none */
	uint8_t *ptr;
};

/*
 * An address space of the device. Every device has one, for requests without PASID; the
 * software IOMMU (svio_vdev_iommu.h) adds one per PASID. The first cache line is public for the inline translation and
 * dirty marking; it belongs to the server's thread.
 */
struct svio_vdev_as {
	struct svio_vdev_hit hit[2]; /* by enum svio_vdev_access */
	void *dirty;		/* dirty log, NULL while off */
	struct svio_vdev *dev;
} __attribute__((aligned(SVIO_CACHELINE)));
SVIO_STATIC_ASSERT(sizeof(struct svio_vdev_as) == SVIO_CACHELINE, "one cache line");

/* Space 0, requests without PASID: the first member of the device. */
static inline struct svio_vdev_as *svio_vdev_as0(struct svio_vdev *dev)
{
	return (struct svio_vdev_as *)(void *)dev;
}

void *svio_vdev_as_ptr_slow(struct svio_vdev_as *as, uint64_t iova, uint64_t len, enum svio_vdev_access access);
void svio_vdev_as_mark_slow(struct svio_vdev_as *as, uint64_t iova, uint64_t len);

/*
 * Pointer to [iova, iova + len) of client memory, or NULL when it is not entirely inside one
 * mapping of shared memory that allows the access, or bus mastering is off (svio_vdev_dma_start()
 * then tells why, or works). Valid until the model returns to the kit, or as long as its quiesce()
 * says -EAGAIN. No lock, no system call.
 */
static inline void *svio_vdev_as_ptr(struct svio_vdev_as *as, uint64_t iova, uint64_t len, enum svio_vdev_access access)
{
	const struct svio_vdev_hit *h = &as->hit[access];
	uint64_t off = iova - h->iova;

	if (svio_likely(off < h->len && len <= h->len - off))
		return h->ptr + off;
	return svio_vdev_as_ptr_slow(as, iova, len, access);
}

static inline void *svio_vdev_dma_ptr(struct svio_vdev *dev, uint64_t iova, uint64_t len, enum svio_vdev_access access)
{
	return svio_vdev_as_ptr(svio_vdev_as0(dev), iova, len, access);
}

/*
 * The device has written [iova, iova + len): after each write through a pointer, before its
 * completion is announced. One load when the log is off. svio_vdev_dma_start() marks by itself.
 */
static inline void svio_vdev_dma_mark(struct svio_vdev *dev, uint64_t iova, uint64_t len)
{
	struct svio_vdev_as *as = svio_vdev_as0(dev);

	if (svio_unlikely(as->dirty))
		svio_vdev_as_mark_slow(as, iova, len);
}

/*
 * A copy between `buf` and client memory that works with every client: shared memory, file I/O, or
 * DMA_READ/DMA_WRITE messages. The structure and the buffer are the caller's and stay alive until
 * it is done. Initialise with zeroes.
 */
struct svio_vdev_dma {
	uint64_t iova;
	void *buf;
	uint32_t len;
	enum svio_vdev_access access;
	/*
	 * err 0, -EFAULT refused by the client, -ECANCELED (unmapped, reset, client gone),
	 * -ETIMEDOUT, -EIO. May start new ones.
	 */
	void (*done)(struct svio_vdev *dev, struct svio_vdev_dma *dma, int err);
	void *ctx; /* the model's */
	struct {   /* the kit's while it is in flight */
		struct svio_vdev_dma *next, *prev;
		uint32_t pos, part;
		int slot;
		uint64_t deadline;
	} kit;
};

/*
 * 0: finished already, done() is not called. -EINPROGRESS: done() will be called, from the server's
 * loop, never from within this function. -EFAULT: not mapped for that access, -EPERM: bus mastering
 * is off, -ENOTCONN, -EIO.
 */
int svio_vdev_dma_start(struct svio_vdev *dev, struct svio_vdev_dma *dma);
/* Forget a transfer in flight; done() is not called and the buffer is free on return. */
void svio_vdev_dma_cancel(struct svio_vdev *dev, struct svio_vdev_dma *dma);

/* ---- interrupts ----------------------------------------------------------------------------- */

enum svio_vdev_irq_mode { SVIO_VDEV_IRQ_NONE, SVIO_VDEV_IRQ_INTX, SVIO_VDEV_IRQ_MSI, SVIO_VDEV_IRQ_MSIX };

/* What the client has set up; INTX also means "nothing but a pin". */
enum svio_vdev_irq_mode svio_vdev_irq_mode(const struct svio_vdev *dev);
/*
 * Send MSI or MSI-X message `vector`. Masked (vector, function, or no eventfd): the pending bit is
 * set and the message is sent when unmasked (PCIe §6.1.4.5). Dropped when neither MSI nor MSI-X is
 * enabled. No system call without an eventfd.
 */
void svio_vdev_irq_raise(struct svio_vdev *dev, unsigned int vector);
/*
 * Set the level of the INTx pin. VFIO masks it when it signals; an unmask with the level still high
 * signals again: at once by eventfd, or when the pin was low in between; else, by message, after 10 ms
 * (test/interop/README.md says why). So a model that has been served in part, and wants to be served
 * again, lowers the pin for a moment.
 */
void svio_vdev_intx_set(struct svio_vdev *dev, bool asserted);
/*
 * VFIO's ERR and REQ interrupts: an uncorrectable error; a request to the client to release the
 * device.
 */
void svio_vdev_err_raise(struct svio_vdev *dev);
void svio_vdev_req_raise(struct svio_vdev *dev);

/* ---- saved state ---------------------------------------------------------------------------- */

/*
 * Append to the saved state. -ENOSPC beyond model->state_max, -ENOMEM; sticky, so that save() may
 * check once, at the end.
 */
int svio_vdev_buf_put(struct svio_vdev_buf *buf, const void *data, size_t len);

/* ---- server --------------------------------------------------------------------------------- */

struct svio_vdev_server_opts {
	size_t size;		/* sizeof(struct svio_vdev_server_opts) */
	bool interrupt;		/* sleep in epoll instead of polling; devices need SVIO_VDEV_NO_MMAP */
	uint32_t socket_rounds; /* polled mode: look at idle sockets every so many rounds; 0 = 1000 */
};

/* opts may be NULL. */
int svio_vdev_server_create(const struct svio_vdev_server_opts *opts, struct svio_vdev_server **srvp);
/*
 * Serve dev on a new unix socket at path, mode 0600 from the first moment. A stale socket (nobody
 * listens) is replaced; -EADDRINUSE when a server is alive there; anything else than a socket is
 * left alone (-EEXIST). Removed by destroy() if it is still ours. dev must outlive the server or
 * its removal by destroy().
 */
int svio_vdev_server_listen(struct svio_vdev_server *srv, struct svio_vdev *dev, const char *path);
/* Serve dev on one connected stream socket, which the server owns from here on, also on failure. */
int svio_vdev_server_attach(struct svio_vdev_server *srv, struct svio_vdev *dev, int fd);
/*
 * Run in this thread until svio_vdev_server_stop(); 0 or -errno. Sleeps while no device has a
 * client. When only attached sockets were given and all have closed, it returns too.
 */
int svio_vdev_server_run(struct svio_vdev_server *srv);
/*
 * One round for callers with a loop of their own: polls devices, now and then looks at sockets;
 * never sleeps. 0 or -errno (-ESHUTDOWN as run() would return).
 */
int svio_vdev_server_poll(struct svio_vdev_server *srv);
/* Any thread, async-signal-safe. Sticky. */
void svio_vdev_server_stop(struct svio_vdev_server *srv);
/*
 * Disconnects clients in order (DMA first), closes and removes sockets. Devices stay the caller's.
 * srv may be NULL.
 */
void svio_vdev_server_destroy(struct svio_vdev_server *srv);

/*
 * Install a SIGBUS handler for this process that survives clients which truncate memory that we
 * have mapped: the page is replaced by private zeroes and the client is disconnected; other faults
 * go to the handler installed before. For processes that are servers (`svio serve`); with it,
 * unsealed files are mapped. Not removable. 0 or -errno. Once, before threads.
 */
int svio_vdev_sigbus_guard(void);

/* ---- a simulated device in this process ----------------------------------------------------- */

struct svio_vdev_sim;
/*
 * Create a device and serve it in a new thread over a socketpair; *client_fd is the client's end
 * and the caller's to close. Polled, with SVIO_VDEV_TRUST_CLIENT. `flags` of enum svio_vdev_flags
 * are added.
 */
int svio_vdev_sim_start(const char *spec, uint32_t flags, int *client_fd, struct svio_vdev_sim **simp);
/* Stop the thread, wait for it, destroy the device. */
void svio_vdev_sim_stop(struct svio_vdev_sim *sim);

/* The model's state: model->priv_size bytes, aligned to a cache line. */
void *svio_vdev_priv(struct svio_vdev *dev);

#ifdef __cplusplus
}
#endif
#endif
