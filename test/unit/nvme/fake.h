/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NVMe controller of plain memory, for the driver's tests: simulated, and scripted by the test.
 * It stands in for the rooms below the driver (device, BARs, address space, memory) and for time.
 *
 * Nothing runs by itself. The controller takes a step when the driver looks at the clock (every
 * loop of the driver that waits does) and when the test calls fake_run(). A step sees registers and
 * doorbells as the driver left them, does admin commands at once, and fetches I/O commands into a
 * list; fake_complete*() or `auto_io` executes and completes them.
 *
 * IOVA = address + FAKE_DELTA, so that an address that was not translated is found. DMA outside
 * memory that svio_mem_alloc() has given out, or while bus mastering is off, is counted in
 * `bad_dma` and not done.
 */
#ifndef FAKE_H
#define FAKE_H

#include "nvme_spec.h"
#include "svio_nvme.h"

/* The driver's log for dirty tracking, or NULL; and a table for it, which covers memory of svio_mem_alloc() and nothing else. */
extern struct svio_ioas_log *fake_log;
uint8_t *fake_dirty_table(void); /* zeroed; the same each time */

#define FAKE_DELTA    UINT64_C(0x10000000000)
#define FAKE_BLOCKS   4096u
#define FAKE_LBA      512u
#define FAKE_QUEUES   8u
#define FAKE_MAX_CMDS 4096u
#define FAKE_ARENA    (48u << 20)
#define FAKE_BAR_LEN  0x3000u

struct fake_queue {
	bool exists;
	uint64_t base;
	uint32_t entries, cqid, vector;
	uint32_t head, tail; /* sq: next to fetch, last doorbell; cq: last doorbell, next to post */
	uint32_t phase;
	bool ien;
};

struct fake_cmd {
	struct nvme_cmd cmd;
	uint16_t sqid;
};

struct svio_device {
	struct svio_device_hot hot;
	struct svio_device_info info;

	/* What the test sets before it opens the driver. */
	uint64_t cap;
	uint32_t vs;
	struct nvme_id_ctrl id;
	uint32_t lba_shift;
	uint32_t grant;	      /* I/O queues of Set Features, as in its DW0, or 0: all FAKE_QUEUES */
	uint32_t ready_after; /* steps from CC.EN to CSTS.RDY */
	bool never_ready, never_off, cfs_on_enable, no_regs_mapping, no_mapping, dead_regs;
	bool auto_io;	   /* complete I/O in the same step */
	bool lose_io;	   /* fetch I/O and forget it */
	bool refuse_abort; /* Abort completes without aborting */
	int fail_opcode;   /* admin opcode that fails with fail_status, or -1 */
	uint16_t fail_status;
	int mute_opcode;    /* admin opcode that is never answered, or -1 */
	void (*tamper)(void *page, const struct nvme_cmd *cmd); /* with Identify data, or NULL */
	uint64_t max_steps; /* a test that waits for ever fails instead; 0: no limit */

	/* The controller's state. */
	uint8_t *bar; /* what the driver sees */
	uint32_t cc, csts, aqa;
	uint64_t asq, acq;
	uint32_t enable_wait;
	bool enabling;
	struct fake_queue sq[FAKE_QUEUES + 1], cq[FAKE_QUEUES + 1];
	uint64_t shadow, eventidx; /* IOVAs, 0: none */
	struct fake_cmd cmds[FAKE_MAX_CMDS];
	uint32_t num_cmds;
	uint16_t aers[16];
	uint32_t num_aers;
	uint8_t *store; /* the namespace */
	bool master, revoked, gone, decoding;
	struct svio_device_hook *hook;
	int irq_fds[FAKE_QUEUES + 1];
	uint32_t irq_count;

	/* What happened. */
	uint64_t fetched, posted, bad_dma, bad_cmd, enables, shutdowns, bars, steps, db_stores,
		db_messages, aborts, dbbuf;
	uint64_t logs;
	uint16_t order_cids
		[FAKE_MAX_CMDS]; /* ids in the order of fetching, since order_len was cleared */
	uint64_t order_lba[FAKE_MAX_CMDS];
	uint32_t order_len;
};

struct svio_device *fake_new(void);
void fake_free(struct svio_device *dev);
struct svio_ioas *fake_ioas(void);

void fake_run(struct svio_device *dev);
/*
 * Execute and complete the n-th command of the list (data moved), with a status; keep the others.
 */
void fake_complete(struct svio_device *dev, uint32_t n, uint16_t status);
void fake_complete_all(struct svio_device *dev);
/* Execute, but post nothing: what a controller that dies between the two leaves. */
void fake_execute(struct svio_device *dev, uint32_t n);
/* Any completion at all, on queue qid. */
void fake_post(struct svio_device *dev, uint32_t qid, uint16_t cid, uint16_t sqid, uint16_t sqhd,
	       uint16_t status);
void fake_aer(struct svio_device *dev, uint32_t dw0);

/*
 * Withdraw the BAR (reads give all ones, stores reach nothing), let svio_bar_restore() succeed,
 * reset, unplug.
 */
void fake_revoke(struct svio_device *dev);
void fake_decode(struct svio_device *dev, bool on);
void fake_function_reset(struct svio_device *dev, bool hooks);
void fake_unplug(struct svio_device *dev);

/* Memory of the fake ioas, for buffers. Zeroed. */
void *fake_alloc(size_t len);
/* Bytes of svio_mem_alloc() still out. */
size_t fake_mem_out(void);

/* Virtual time. */
extern uint64_t fake_now;
extern uint32_t fake_haste; /* a nap is so many times as long as was asked for */
extern bool fake_threads; /* the device's lock is taken, time is real */
extern bool fake_idle;	  /* looking at the clock is no step: for measurements */
void fake_lock(void);
void fake_unlock(void);

/* A silent log, and what was logged last. */
extern char fake_log_last[512];
extern unsigned int fake_log_errors;

/* fake_new(), svio_nvme_open(), with asserts. */
struct svio_nvme *fake_open(struct svio_device *dev, const struct svio_nvme_opts *opts);
struct svio_nvme_qp *fake_qp(struct svio_nvme *nvme, uint32_t depth);

#endif
