/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio nvme: a poll-mode driver for NVMe controllers (NVM Express Base 1.4 / 2.0, NVM Command Set 1.0).
 *
 * A `struct svio_nvme` is one controller on one device. A `struct svio_nvme_qp` is one I/O queue pair, used by one thread at a
 * time and sharing nothing with the others. Requests carry a callback; the caller keeps their buffers until it runs.
 *
 *	svio_device_open() → svio_ioas_attach() → svio_nvme_open() → svio_nvme_ns_get() → svio_nvme_qp_create()… →
 *	svio_nvme_read()/write()/… → svio_nvme_poll() in the loop, which runs the callbacks →
 *	svio_nvme_qp_destroy() → svio_nvme_close() → svio_device_close()
 *
 * The hot path. svio_nvme_read() writes the submission entry in place and, unless SVIO_NVME_MORE holds it back, stores the doorbell;
 * svio_nvme_poll() looks at one cache line. No lock, no allocation, no system call. Buffers are plain memory of the ioas.
 *
 * When the device goes away under a running loop. svio_nvme_poll() sees the device's event word. Until the device is back it
 * returns 0, without spinning and without waiting: BARs are looked at once in a millisecond, and the controller is initialised in
 * small steps, one for each poll of any of its queue pairs. Each queue pair creates its own queues again at its own next polls, so
 * that a thread that does not poll holds up nobody; its requests are kept until it does. Requests in flight are kept
 * (SVIO_NVME_REQUEUE: submitted again, in their original order) or completed with -ECANCELED (SVIO_NVME_FAIL), in both cases not
 * before the controller has certainly stopped, since it may write to their buffers until then; what it had completed by then counts
 * as completed. Requests submitted while the device is away are accepted as long as there is room, and sent when it is back,
 * under both policies. Every request completes exactly once. After SVIO_EV_GONE or SVIO_EV_REQ everything completes with
 * -ENODEV and further submissions return -ENODEV; on SVIO_EV_REQ the controller is stopped first. The same happens when the
 * controller was reset five times in a row for faults (timeouts, completions that make no sense) that came back at once.
 * A requeued write may have reached the medium twice with the same data; what a caller must not have repeated
 * (a write racing its own other writes to the same blocks) wants SVIO_NVME_FAIL.
 *
 * An orderly svio_device_reset() runs our hook first: the controller is disabled, then reset by the device room, and
 * initialised again by the next polls.
 *
 * Status of a completion: 0; or a positive NVMe status (SVIO_NVME_SC(sct, sc)) as the controller reported it; or a negative errno
 * from us: -ENODEV the device is gone, -ECANCELED aborted by reset or close, -ETIMEDOUT aborted after the timeout, -EFAULT the
 * buffer was no longer mapped when the request had to be submitted again.
 */
#ifndef SVIO_NVME_H
#define SVIO_NVME_H

#include "svio_ioas.h"
#include "svio_poll.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_nvme;
struct svio_nvme_qp;
struct svio_migrate_area;

typedef void (*svio_nvme_cb)(void *ctx, int status);

/* A positive status: status code type in bits 8-10, status code in bits 0-7 (NVMe 1.4 §4.6.1). */
#define SVIO_NVME_SC(sct, sc) ((int)(((sct) << 8) | (sc)))
/* "generic: invalid field in command", or strerror() of a negative status. Static string. */
const char *svio_nvme_status_text(int status);

enum svio_nvme_policy { SVIO_NVME_REQUEUE, SVIO_NVME_FAIL };

struct svio_nvme_opts {
	size_t size;		     /* sizeof(struct svio_nvme_opts) of the caller */
	enum svio_nvme_policy policy; /* of requests in flight over a reset or a revoked BAR */
	uint32_t admin_timeout_ms;   /* 0 = 10000, at least CAP.TO for enabling */
	uint32_t io_timeout_ms;	     /* an I/O older than this (by up to an eighth more) is aborted, then the controller reset; 0 = 30000 */
	uint32_t max_queues;	     /* I/O queue pairs to ask for; 0 = 64, at most 1023 */
	bool no_shadow_doorbells;    /* do not use Doorbell Buffer Config where offered (NVMe 1.4 §5.7) */
	bool no_sgl;
	/* The driver's queues and lists lie in this area, so that they can move with the device's own state (svio_nvme_migrate.h);
	 * NULL: room mem. It must live as long as the controller. */
	struct svio_migrate_area *area;
};

/*
 * Initialise the controller. The device must be attached to ioas. opts may be NULL.
 * -ENODEV CSTS reads all ones, -EIO controller fatal status, -ETIMEDOUT not ready in CAP.TO, each explained.
 */
int svio_nvme_open(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_nvme_opts *opts,
		   struct svio_nvme **nvmep);
/*
 * Orderly: shutdown notification (CC.SHN), controller disabled. Queue pairs must be destroyed. NULL is fine. A controller that
 * cannot be stopped by its registers loses bus mastering before its memory is freed; one that is gone is not touched.
 */
void svio_nvme_close(struct svio_nvme *nvme);

struct svio_nvme_info {
	char serial[21], model[41], firmware[9], subnqn[257];
	uint16_t vendor, cntlid;
	uint32_t version;	  /* VS register: major << 16 | minor << 8 | tertiary */
	uint32_t num_namespaces;  /* Identify Controller NN */
	uint32_t max_transfer;	  /* bytes of one request, from MDTS and our PRP lists */
	uint32_t max_queues;	  /* granted I/O queue pairs */
	uint32_t max_queue_depth; /* CAP.MQES + 1 */
	bool volatile_write_cache, sgl, shadow_doorbells, write_zeroes, dsm;
	uint16_t oacs, oncs;
};
void svio_nvme_get_info(struct svio_nvme *nvme, struct svio_nvme_info *info);

struct svio_nvme_ns {
	uint32_t nsid;
	uint32_t lba_size;  /* bytes of data in a block */
	uint32_t lba_shift; /* log2(lba_size) */
	uint32_t metadata_size;
	uint64_t blocks;
	uint8_t eui64[8], nguid[16], uuid[16]; /* zero when the controller has none */
};
/* Identify one namespace. -ENOENT when it is not active. */
int svio_nvme_ns_get(struct svio_nvme *nvme, uint32_t nsid, struct svio_nvme_ns *ns);
/* Active namespace ids, ascending; *count in: capacity, out: how many there are. */
int svio_nvme_ns_list(struct svio_nvme *nvme, uint32_t *nsids, uint32_t *count);

/* Raw Identify data (4096 bytes) for tools: CNS and NSID as in NVMe 1.4 §5.15. Synchronous. */
int svio_nvme_identify(struct svio_nvme *nvme, uint8_t cns, uint32_t nsid, void *buf);

/* Reset the controller in order (CC.EN 1 → 0 → 1, queues again), policy applied. From any thread; queue pairs take part at their next poll. */
int svio_nvme_reset(struct svio_nvme *nvme);

/* ---- queue pairs ----------------------------------------------------------------------------------- */

struct svio_nvme_qp_opts {
	size_t size;	   /* sizeof(struct svio_nvme_qp_opts) of the caller */
	uint32_t depth;	   /* up to depth - 1 requests are in flight; 0 = 256; clamped to the controller's and a power of two then */
	/* Bytes of the largest request; sizes the PRP lists (8 bytes for each page of each request). At least a page, at most the
	 * controller's and 32 MiB; 0 = the controller's, at most 1 MiB. */
	uint32_t max_transfer;
	bool interrupts;   /* give the completion queue an MSI-X vector and an eventfd, for svio_nvme_qp_poller() */
};

/* Collective with nothing: other queue pairs may run meanwhile. -ENOSPC when the controller grants no more queues. */
int svio_nvme_qp_create(struct svio_nvme *nvme, const struct svio_nvme_qp_opts *opts, struct svio_nvme_qp **qpp);
/*
 * The queues are deleted on the controller before their memory is freed (or the controller is reset, or loses bus mastering, when
 * it does not do it or cannot be reached). Requests still in flight complete: as the controller says, or with -ECANCELED; what their
 * callbacks submit is canceled too. In the thread that polls it, or after that thread has stopped. NULL is fine.
 */
void svio_nvme_qp_destroy(struct svio_nvme_qp *qp);

enum svio_nvme_io_flags {
	SVIO_NVME_MORE = 1u << 0, /* more follows: no doorbell yet; svio_nvme_ring() or a request without it rings */
	SVIO_NVME_FUA = 1u << 1,  /* force unit access (NVMe 1.4 §6.9, §6.15) */
};

/*
 * Read or write nlb blocks (1 … 65536) from lba on. buf: nlb * lba_size bytes of ioas memory, dword aligned. Returns 0, and cb runs
 * once in a later svio_nvme_poll() of this queue pair; or, with cb not run: -EAGAIN queue full, -EINVAL beyond the namespace or the largest
 * transfer, buf not dword aligned or unknown flags, -EFAULT buf is not wholly in one mapping of the ioas, -ENODEV gone. *ns is only read
 * during the call. cb must not be NULL.
 */
int svio_nvme_read(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, void *buf, uint64_t lba, uint32_t nlb,
		   uint32_t flags, svio_nvme_cb cb, void *ctx);
int svio_nvme_write(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const void *buf, uint64_t lba, uint32_t nlb,
		    uint32_t flags, svio_nvme_cb cb, void *ctx);

struct svio_nvme_iov {
	void *base;
	size_t len;
};
/* Scattered buffers. With PRPs all but the first base and all but the last end must lie on page boundaries (NVMe 1.4 §4.3), or
 * the controller must take SGLs; otherwise -EINVAL. The vector itself is not kept. */
int svio_nvme_readv(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const struct svio_nvme_iov *iov, uint32_t niov,
		    uint64_t lba, uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx);
int svio_nvme_writev(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const struct svio_nvme_iov *iov, uint32_t niov,
		     uint64_t lba, uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx);

int svio_nvme_flush(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, svio_nvme_cb cb, void *ctx);
int svio_nvme_write_zeroes(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, uint64_t lba, uint32_t nlb, uint32_t flags,
			   svio_nvme_cb cb, void *ctx);

struct svio_nvme_range {
	uint64_t lba;
	uint32_t nlb;
};
/* Dataset Management, deallocate, 1 … 256 ranges (NVMe 1.4 §6.7). */
int svio_nvme_deallocate(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const struct svio_nvme_range *ranges,
			 uint32_t count, svio_nvme_cb cb, void *ctx);

/* Tell the controller of everything held back by SVIO_NVME_MORE: one doorbell store, none when there is nothing. */
void svio_nvme_ring(struct svio_nvme_qp *qp);

/*
 * Run the callbacks of up to max completions (0 = all there are, at most one round of the queue). Their number. Callbacks may
 * submit and reset, but not poll or destroy. Tells the controller of what was taken once, at the end.
 */
uint32_t svio_nvme_poll(struct svio_nvme_qp *qp, uint32_t max);

uint32_t svio_nvme_inflight(const struct svio_nvme_qp *qp);

/* Set up *poller (caller's memory) for room poll: polls, arms the interrupt when idle (opts.interrupts). */
void svio_nvme_qp_poller(struct svio_nvme_qp *qp, struct svio_poller *poller);

/* What happened to the controller since it was opened. */
struct svio_nvme_stats {
	uint64_t resets, revocations, requeued, failed, aborts, timeouts;
};
void svio_nvme_get_stats(struct svio_nvme *nvme, struct svio_nvme_stats *stats);
/* Is the controller ready for I/O now? False while its device is away. */
bool svio_nvme_ready(const struct svio_nvme *nvme);
/* Is it gone for good (unplugged, or the host wants it back)? */
bool svio_nvme_gone(const struct svio_nvme *nvme);

#ifdef __cplusplus
}
#endif
#endif
