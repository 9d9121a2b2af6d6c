/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A DSA of plain memory, for the driver's tests: simulated, and scripted by the test. It stands in for the rooms below the
 * driver (device, BARs, memory, address space) and for time.
 *
 * Registers are reached by region access, and work at once. Descriptors are taken from the portal when the driver looks at the clock and when
 * the test calls fake_run(); they are executed in an order of the test's choice. Absent pages are a list: an access to one ends the operation
 * with a page fault, and the driver's touch (svio_sva_touch(), replaced here) makes it present, or not.
 *
 * In an identity bond IOVA = address + FAKE_DELTA, so that an address that was not translated is found (bad_dma).
 */
#ifndef FAKE_H
#define FAKE_H

#include "dsa_spec.h"
#include "svio_dsa.h"
#include "svio_dsa_migrate.h"

#define FAKE_DELTA UINT64_C(0x10000000000)
#define FAKE_WQS   4u
#define FAKE_PAGES 64u
#define FAKE_ARENA (8u << 20)
#define FAKE_TAKEN 256u

struct svio_device {
	struct svio_device_hot hot;
	struct svio_device *prev; /* the fake made before this one, and not freed */

	/* What the test sets before it opens the driver. */
	struct svio_device_info info;
	uint64_t gencap, wqcap, grpcap, engcap, opcap, offsets;
	uint32_t version, total;
	int fail_cmd; /* this command ends with fail_err, or -1 */
	uint32_t fail_err;
	int hang_cmd; /* this command never ends, or -1 */
	bool no_portals;
	bool reverse;  /* executes the youngest first */
	bool lose;     /* takes descriptors and forgets them */
	bool stop;     /* takes nothing */
	uint64_t stall_until; /* takes, and executes nothing before this time */
	bool half;     /* a reset meets every copy half done, forwards, without a record */
	bool stubborn; /* touching a page does not make it present */
	uint8_t force; /* every record gets this status, if not 0 */
	uint8_t force_result;
	uint32_t force_bytes;

	/* Its state. */
	uint32_t gensts, cmdsts;
	uint64_t swerr;
	uint32_t wqcfg[FAKE_WQS][16];
	uint64_t grpcfg[4][8];
	uint8_t *portals;
	uint32_t slot[FAKE_WQS];
	struct dsa_desc taken[FAKE_TAKEN];
	uint32_t num_taken;
	bool master, decoding, gone, revoked, bond_ended;
	int renew_err;
	struct svio_device_hook *hook;
	struct svio_ioas_log *log; /* the driver's, or NULL */

	/* Absent pages; nothing: what touching does not help with. */
	struct {
		uint64_t page;
		bool nothing, for_write;
	} absent[FAKE_PAGES];
	uint32_t num_absent;

	/* What happened. */
	uint64_t executed, bad_dma, bad_desc, touches, resets, enables, bars, overruns;
	uint8_t last_op;
};

extern uint64_t fake_now;
extern struct svio_ioas *const fake_ioas;

struct svio_device *fake_new(void);
void fake_free(struct svio_device *dev);
/* Another device with all of dev's state: registers, portals, descriptors. dev is reset. */
struct svio_device *fake_move(struct svio_device *dev);
void fake_run(struct svio_device *dev);
void fake_execute(struct svio_device *dev, uint32_t n); /* the n-th taken descriptor */
void fake_absent(struct svio_device *dev, const void *page, bool nothing);
void fake_revoke(struct svio_device *dev);
void fake_restore(struct svio_device *dev);
void fake_function_reset(struct svio_device *dev, bool hooks);
void fake_unplug(struct svio_device *dev);
size_t fake_mem_out(void);
uint8_t *fake_buf(size_t len); /* zeroed memory of the arena */
bool fake_in_arena(const void *ptr, uint64_t len);
uint8_t *fake_dirty_table(void); /* one byte a page of the arena, at svio_dirty_mark()'s index of it */

/* What a callback has seen: cb(struct seen *, …). */
struct seen {
	struct svio_dsa_result res;
	unsigned int calls;
};
void cb(void *ctx, const struct svio_dsa_result *res);

/* Bonds without room sva's bookkeeping. */
struct svio_sva_bond fake_bond(struct svio_device *dev, bool native);

#endif
