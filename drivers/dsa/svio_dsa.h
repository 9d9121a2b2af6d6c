/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio dsa: a poll-mode driver for Intel's Data Streaming Accelerator (DSA architecture specification, order number 341204).
 *
 * A `struct svio_dsa` is one device. A `struct svio_dsa_wq` is one dedicated work queue with its portal, used by one thread at a
 * time; it works in the address space of the bond that it was created with (room sva): plain pointers of any memory in a native
 * bond, registered memory in an identity bond. The calls are the same.
 *
 *	svio_device_open() → [svio_ioas_attach()] → svio_sva_bind() → svio_dsa_open() → svio_dsa_wq_create() →
 *	svio_dsa_copy()/…/svio_dsa_submit() → svio_dsa_poll() in the loop, which runs the callbacks →
 *	svio_dsa_wq_destroy() → svio_dsa_close() → svio_sva_unbind() → svio_device_close()
 *
 * The hot path. Submitting writes one descriptor to the portal: MOVDIR64B on hardware; on models, known by their PCI ids, eight
 * plain stores of which the last is a release. Polling looks at one line per operation in flight. No lock, no allocation, no system call.
 *
 * Lengths. An operation may be as long as memory: what exceeds the device's largest transfer is sent piece by piece. Overlapping
 * copies come out as memmove() would do them.
 *
 * Page faults. Without block-on-fault, or where the device cannot ask for pages, it stops at a page that is not there and says
 * how far it got. The driver makes the page present (svio_sva_touch(): no signal can come of it) and sends the rest, up to 16
 * times in a row without progress. A pointer to nothing ends the operation with -EFAULT and the address; what lay before it is done.
 *
 * When the device goes away under a running loop (a BAR withdrawn, a reset, a fault), svio_dsa_poll() returns 0 until it is back,
 * without waiting: the device is reset and set up again in small steps, one a poll of any of its queues, and each queue
 * enables itself at its own next polls. Operations in flight complete with -ECANCELED, or are sent again
 * (SVIO_DSA_REQUEUE), in both cases not before the device has certainly stopped. Under SVIO_DSA_REQUEUE a copy between
 * overlapping ranges is canceled all the same: how far it got is not known, and its source may be overwritten. (The rule in full:
 * svio_dsa_migrate.h.) Operations submitted meanwhile
 * are sent when the device is back. After SVIO_EV_GONE or SVIO_EV_REQ everything completes with -ENODEV. Every operation
 * completes exactly once.
 */
#ifndef SVIO_DSA_H
#define SVIO_DSA_H

#include "svio_poll.h"
#include "svio_sva.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_dsa;
struct svio_dsa_wq;
struct svio_migrate_area;

/* ---- the device ------------------------------------------------------------------------------------ */

enum svio_dsa_policy { SVIO_DSA_FAIL, SVIO_DSA_REQUEUE };

struct svio_dsa_opts {
	size_t size;		     /* sizeof(struct svio_dsa_opts) of the caller */
	uint32_t wqs;		     /* work queues to set up; 0 = 1; at most the device's and its engines' worth of groups */
	uint32_t wq_size;	     /* entries of each; 0 = as many as there are for it; at most 64 are used */
	enum svio_dsa_policy policy; /* of operations in flight when the device goes away */
	/*
	 * The device hangs, and is reset, when a piece (64 MiB at most) of an operation is older than this and its queue has completed
	 * nothing for as long; or older than eight times this. 0 = 10000.
	 */
	uint32_t timeout_ms;
	uint32_t cmd_timeout_ms;     /* of the device's commands (enable, reset); 0 = 5000 */
	/* Completion records and lists lie in this area, so that they can move with the device's own state (svio_dsa_migrate.h);
	 * NULL: anywhere. */
	struct svio_migrate_area *area;
};

/* Is that pair of PCI ids a device of this driver: hardware, or one of our models? */
bool svio_dsa_supports(uint16_t vendor, uint16_t device);

/*
 * Reset the device, and set up groups, engines and queues. The device's bus mastering is on afterwards. opts may be NULL.
 * -ENODEV no DSA, or its registers read all ones; -ENOTSUP hardware and a CPU without MOVDIR64B, or no dedicated queues; -EPROTO
 * capabilities that make no sense; -EIO it refused a command (named); -ETIMEDOUT; each explained.
 */
int svio_dsa_open(struct svio_device *dev, const struct svio_dsa_opts *opts, struct svio_dsa **dsap);
/* The device is reset, or loses bus mastering when it does not answer. Its queues must have been destroyed. NULL is fine. */
void svio_dsa_close(struct svio_dsa *dsa);

struct svio_dsa_info {
	uint32_t version; /* major << 8 | minor */
	uint64_t max_transfer; /* bytes of one descriptor; operations may be longer */
	uint32_t max_batch;
	uint32_t wqs, wq_size; /* set up by us: queues, and entries of each that are used */
	uint32_t engines, groups, total_entries; /* the device's */
	uint64_t ops;	     /* bit n: operation n of enum svio_dsa_opcode */
	bool block_on_fault; /* offered */
	bool overlap_copy;
	bool simulated; /* a model: not hardware */
};
void svio_dsa_get_info(const struct svio_dsa *dsa, struct svio_dsa_info *info);

/* ---- work queues ----------------------------------------------------------------------------------- */

struct svio_dsa_wq_opts {
	size_t size;	     /* sizeof(struct svio_dsa_wq_opts) of the caller */
	uint32_t max_batch;  /* operations of a batch; 0 = 32; clamped to the device's; sizes memory that is taken at once */
	bool block_on_fault; /* where offered: the device waits for pages, and so does what is queued behind */
};

/*
 * Enable a work queue for the address space of `bond`, which stays the caller's and bound until the queue is destroyed. opts may be
 * NULL. -ENOSPC all queues of svio_dsa_open() are taken; -ESRCH the bond belongs to the parent process; -EIO the device refused (named);
 * -ENODEV, -ETIMEDOUT, -ENOMEM.
 */
int svio_dsa_wq_create(struct svio_dsa *dsa, struct svio_sva_bond *bond, const struct svio_dsa_wq_opts *opts,
		       struct svio_dsa_wq **wqp);
/*
 * The queue is reset on the device before its memory is freed. Operations in flight complete: as the device says, or with
 * -ECANCELED. In the thread that polls it, or after that thread has stopped. NULL is fine.
 */
void svio_dsa_wq_destroy(struct svio_dsa_wq *wq);

/* ---- operations ------------------------------------------------------------------------------------- */

/* Numbers are the specification's (chapter 8, Operations). */
enum svio_dsa_opcode {
	SVIO_DSA_NOOP = 0x00,
	SVIO_DSA_DRAIN = 0x02,		 /* completes when all submitted before it to this queue have completed */
	SVIO_DSA_COPY = 0x03,		 /* src → dst, as memmove() */
	SVIO_DSA_FILL = 0x04,		 /* pattern, 8 bytes repeated from dst's first byte on → dst */
	SVIO_DSA_COMPARE = 0x05,	 /* src with src2 */
	SVIO_DSA_COMPARE_PATTERN = 0x06, /* src with pattern repeated */
	SVIO_DSA_DUALCAST = 0x09,	 /* src → dst and dst2, whose addresses agree in bits 11:0 */
	SVIO_DSA_CRC = 0x10,		 /* CRC-32C of src, continuing `seed` (0 for the first piece): as svio_crc32c() */
	SVIO_DSA_COPY_CRC = 0x11,	 /* both */
};

enum svio_dsa_op_flags {
	SVIO_DSA_CACHE = 1u << 0, /* leave the destination in the processor's cache, where the device can; a hint */
	SVIO_DSA_FENCE = 1u << 1, /* in a batch: begin when all before it have completed, and not at all (-ECANCELED) if one failed */
};

/* Only read while submitted. What an operation does not use is ignored. */
struct svio_dsa_op {
	enum svio_dsa_opcode op;
	uint32_t flags; /* enum svio_dsa_op_flags */
	const void *src, *src2;
	void *dst, *dst2;
	uint64_t len; /* bytes, from 1 on */
	uint64_t pattern; /* its bytes as they lie in memory */
	uint32_t seed;
};

struct svio_dsa_result {
	/*
	 * 0 done; positive: the device refused the descriptor, a DSA completion status; negative: -EFAULT nothing there (fault_addr),
	 * -ECANCELED the device went away or the queue was destroyed, -ENODEV it is gone, -ETIMEDOUT it hung, -EIO it answered nonsense.
	 */
	int status;
	bool differs;	     /* comparisons: not equal */
	uint32_t crc;	     /* CRC, and the seed to continue with */
	uint64_t bytes;	     /* done; comparisons: equal from the start (the offset of the difference); batch: operations done well */
	uint64_t fault_addr; /* -EFAULT: an address in the page */
};

/* Runs once, in svio_dsa_poll() of that queue; `res` is valid during the call. It may submit, but not poll or destroy. */
typedef void (*svio_dsa_cb)(void *ctx, const struct svio_dsa_result *res);

/* "page fault at an address where there is nothing", or what a device's status means. Static string. */
const char *svio_dsa_status_text(int status);

/*
 * Start one operation. 0, and cb runs once later; or, with cb not run: -EAGAIN queue full (poll), -EINVAL length 0, unknown flags or
 * dualcast addresses, -ENOTSUP an operation that the device has not, -EFAULT memory that the bond does not reach (explained, see
 * svio_sva_check()), -ENODEV gone.
 */
int svio_dsa_submit(struct svio_dsa_wq *wq, const struct svio_dsa_op *op, svio_dsa_cb cb, void *ctx);

/*
 * A batch of n operations (1 … the queue's max_batch) as one entry of the queue; NOOP and the memory operations, no DRAIN. results, n of
 * them, may be NULL; they are the caller's until cb. cb gets the status of the first operation that failed. Operations that
 * stop at a page fault are finished one by one, in order. Errors as svio_dsa_submit(); nothing is begun then.
 */
int svio_dsa_batch(struct svio_dsa_wq *wq, const struct svio_dsa_op *ops, uint32_t n, struct svio_dsa_result *results,
		   svio_dsa_cb cb, void *ctx);

/* Submit one operation, as soon as there is room, and poll until it has completed; callbacks of others run meanwhile. Its status.
 * res may be NULL. */
int svio_dsa_run(struct svio_dsa_wq *wq, const struct svio_dsa_op *op, struct svio_dsa_result *res);

static inline int svio_dsa_copy(struct svio_dsa_wq *wq, void *dst, const void *src, uint64_t len, svio_dsa_cb cb, void *ctx)
{
	struct svio_dsa_op op = { SVIO_DSA_COPY, 0, src, NULL, dst, NULL, len, 0, 0 };

	return svio_dsa_submit(wq, &op, cb, ctx);
}

static inline int svio_dsa_fill(struct svio_dsa_wq *wq, void *dst, uint64_t pattern, uint64_t len, svio_dsa_cb cb, void *ctx)
{
	struct svio_dsa_op op = { SVIO_DSA_FILL, 0, NULL, NULL, dst, NULL, len, pattern, 0 };

	return svio_dsa_submit(wq, &op, cb, ctx);
}

static inline int svio_dsa_compare(struct svio_dsa_wq *wq, const void *a, const void *b, uint64_t len, svio_dsa_cb cb, void *ctx)
{
	struct svio_dsa_op op = { SVIO_DSA_COMPARE, 0, a, b, NULL, NULL, len, 0, 0 };

	return svio_dsa_submit(wq, &op, cb, ctx);
}

static inline int svio_dsa_crc(struct svio_dsa_wq *wq, uint32_t seed, const void *src, uint64_t len, svio_dsa_cb cb, void *ctx)
{
	struct svio_dsa_op op = { SVIO_DSA_CRC, 0, src, NULL, NULL, NULL, len, 0, seed };

	return svio_dsa_submit(wq, &op, cb, ctx);
}

/* Run the callbacks of up to max completions (0 = all there are). Their number. */
uint32_t svio_dsa_poll(struct svio_dsa_wq *wq, uint32_t max);
uint32_t svio_dsa_inflight(const struct svio_dsa_wq *wq);
/* Operations that fit at a time. */
uint32_t svio_dsa_depth(const struct svio_dsa_wq *wq);

/* Set up *poller (caller's memory) for room poll. It polls; completions raise no interrupts. */
void svio_dsa_wq_poller(struct svio_dsa_wq *wq, struct svio_poller *poller);

/* Reset the device in order, policy applied. Any thread; queues take part at their next poll. */
void svio_dsa_reset(struct svio_dsa *dsa);
bool svio_dsa_ready(const struct svio_dsa *dsa);
/* For good: unplugged, its server died, the host wants it back, or it was given up. */
bool svio_dsa_gone(const struct svio_dsa *dsa);

struct svio_dsa_stats {
	uint64_t resets, revocations, requeued, canceled, timeouts;
	uint64_t page_faults;	/* descriptors that stopped at a page, and went on */
	uint64_t device_errors; /* SWERROR of the device */
};
void svio_dsa_get_stats(const struct svio_dsa *dsa, struct svio_dsa_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
