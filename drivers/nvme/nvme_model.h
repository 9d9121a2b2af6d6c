/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internals of the NVMe device model: a controller of NVM Express 1.4 for the device kit (lib/vdev).
 *
 *	nvme_model.c		description, registers, poll, reset, state
 *	nvme_model_io.c		the fast path: shared memory, one pass, no allocation, no system call
 *	nvme_model_req.c	the general path: any client, any command, step by step
 *	nvme_model_admin.c	admin commands
 *	nvme_model_store.c	what namespaces keep their blocks in
 *	nvme_model_sync.c	a thread that flushes files, so that nothing else waits for a disk
 *	nvme_model_inject.c	faults on request
 *
 * All of it but that thread runs in the server's. Memory of the host is reached by svio_vdev_dma_ptr() when it is shared (pointers are used
 * until poll() returns, or until quiesce() where they are kept), else by svio_vdev_dma_start(). What is read from the host is
 * copied once and then checked: the host may change it at any time.
 */
#ifndef NVME_MODEL_H
#define NVME_MODEL_H

#include "nvme_spec.h"
#include "svio_vdev.h"

/* No vendor gave us an id. 1234 is not assigned, and known from other emulated devices (QEMU's edu). */
#define NM_VENDOR	0x1234
#define NM_DEVICE	0x5356

#define NM_PAGE		4096u
#define NM_DSTRD	4u /* doorbells 64 bytes apart: the host's and our loads and stores of one do not disturb the next */
#define NM_MAX_NS	16u
#define NM_MAX_QUEUES	1024u /* I/O queue pairs; MSI-X has at most 2048 vectors */
#define NM_MAX_ENTRIES	4096u
#define NM_MDTS		8u /* largest transfer 2^8 pages: 1 MiB */
#define NM_MAX_XFER	((uint32_t)NM_PAGE << NM_MDTS)
#define NM_MAX_SEGS	(NM_MAX_XFER / NM_PAGE + 1)
#define NM_REQS		64u /* requests on the general path at once */
#define NM_AERL		4u
#define NM_BATCH	32u /* commands of one queue before the next has its turn */
#define NM_WORK		(64u << 10) /* bytes that take as long as a small command, or ten */

/* Completion status that is not one: the command is still under way, or must take the general path. */
#define NM_PENDING 0xffffu

struct nm_store {
	uint8_t *mem; /* the whole namespace, mapped; NULL with O_DIRECT */
	uint64_t bytes;
	int fd;		/* file, or -1 */
	bool is_file, readonly;
};

struct nm_ns {
	struct nm_store store;
	uint64_t blocks;
	uint32_t lba_shift;
	uint8_t nguid[16], uuid[16], eui64[8];
};

struct nm_cq {
	_Alignas(SVIO_CACHELINE) struct nvme_cqe *ring; /* NULL: not (yet) a pointer; see nm_cq_ring() */
	const uint32_t *head_db;
	uint32_t *eventidx; /* as of nm_sq; the host rings when its head passes this value */
	uint32_t size, tail, head; /* head: as last read from the doorbell */
	uint16_t phase;		   /* of the entries that we write now */
	uint16_t vector;
	bool ien, used, irq_wanted;
	uint32_t sqs; /* submission queues that complete here */
	uint64_t iova;
	uint32_t intx_head; /* when the pin was last looked at */
};

struct nm_sq {
	_Alignas(SVIO_CACHELINE) const struct nvme_cmd *ring; /* NULL: not (yet) a pointer */
	const uint32_t *tail_db;
	struct nm_cq *cq;
	uint32_t size, head;
	uint16_t id, cqid;
	bool used, bad; /* bad: the host stored an impossible doorbell value */
	uint32_t *eventidx; /* Doorbell Buffer Config: where we tell from when on to ring; NULL = off */
	uint64_t iova;
};

enum nm_step {
	NM_FREE,
	NM_FETCH,    /* the command is being read */
	NM_DECODE,
	NM_LIST,     /* PRP list or SGL segment is being read */
	NM_DATA_IN,  /* from the host */
	NM_EXEC,
	NM_DATA_OUT, /* to the host */
	NM_STALL,    /* fault injection: not before `due` */
	NM_SYNC,     /* until the file is flushed: `ticket` */
	NM_HELD,     /* fault injection, or an asynchronous event request: until something happens */
	NM_POST,     /* waiting for room in the completion queue */
	NM_CQE,	     /* the completion is being written */
};

struct nm_seg {
	uint64_t iova;
	uint32_t len;
};

/* One command on the general path. */
struct nm_req {
	enum nm_step step;
	struct svio_vdev_dma dma;
	bool dma_busy;
	struct nm_sq *sq;
	struct nvme_cmd cmd;
	struct nvme_cqe cqe;
	uint32_t dw0;
	uint16_t status;
	bool no_irq;
	bool list_sgl, list_last; /* of the list being read */
	uint64_t due, ticket;
	uint32_t len, moved;  /* bytes of data; of them found in segments, then transferred */
	uint32_t nsegs, cur;
	uint64_t list_iova;
	uint32_t list_bytes;
	uint8_t *buf; /* NM_MAX_XFER bytes, allocated with the first use */
	struct nm_seg seg[NM_MAX_SEGS];
	_Alignas(16) uint8_t list[NM_PAGE];
};

enum nm_fault_kind { NM_FAULT_STATUS, NM_FAULT_DROP, NM_FAULT_NOIRQ, NM_FAULT_STALL };

struct nm_fault {
	enum nm_fault_kind kind;
	uint16_t status;   /* for NM_FAULT_STATUS, without the phase */
	uint32_t stall_us; /* for NM_FAULT_STALL */
	bool admin, io;
	int opcode;	       /* -1 any */
	uint64_t every, left;  /* each `every`th match, `left` times more (UINT64_MAX: always) */
	uint64_t skip;	       /* matches before the first */
	uint64_t seen;
};

struct nm {
	struct svio_vdev *dev;
	uint8_t *doorbells; /* BAR0 + 0x1000 */
	uint32_t db_bytes;
	uint32_t queues, entries; /* I/O queue pairs, entries of a queue at most */
	uint32_t nns;
	struct nm_ns ns[NM_MAX_NS];

	/* registers */
	uint32_t cc, csts, aqa, intmask;
	uint64_t asq, acq;

	struct nm_sq *sq; /* queues + 1 of each */
	struct nm_cq *cq;
	uint16_t *active; /* ids of the I/O submission queues that exist, so that a poll looks at no others */
	uint32_t nactive;
	uint32_t live_reqs;
	struct nm_req *req; /* NM_REQS of them */
	bool parked;	   /* requests wait for a time, or for room to complete */
	bool stopping;	   /* migration: take nothing new */
	bool movsb;	   /* nvme_model_copy.h */
	bool no_master;	   /* bus mastering is off: nothing of the host is touched */
	bool intx;	   /* the level that we gave the pin */

	uint8_t *shadow, *eventidx; /* Doorbell Buffer Config; pointers while the memory is there */
	uint64_t shadow_iova, eventidx_iova;
	bool dbbuf; /* configured */
	bool offer_dbbuf, sleeps; /* sleeps: the server waits for messages, so the host must ring */

	uint32_t granted_sq, granted_cq;
	uint32_t feat_aec;
	uint32_t feat_misc[16]; /* features that are stored and reported, by id */
	bool volatile_cache;
	struct nm_req *aer[NM_AERL];
	uint32_t naer;
	uint32_t pending_event; /* AER completion DW0 that found no request, or 0 */

	struct nm_fault fault[8];
	uint32_t nfaults;

	uint64_t host_reads, host_writes, sectors_read, sectors_written, errors;

	struct nm_sync *sync; /* NULL until there is something to flush */
	uint64_t synced, shutdown_ticket;
	int sync_err[NM_MAX_NS]; /* of flushes that have ended, not yet told to anybody */
};

/* nvme_model.c */
void svio__nm_cq_publish(struct nm *m, struct nm_cq *cq); /* after completions: interrupt */
void svio__nm_event(struct nm *m, uint8_t type, uint8_t info, uint8_t log);
static inline uint32_t nm_db_load(const uint32_t *db)
{
	return __atomic_load_n(db, __ATOMIC_ACQUIRE);
}

/* Room for one more completion? Reads the host's doorbell only when our copy says no. */
bool svio__nm_cq_room_slow(struct nm *m, struct nm_cq *cq);
static inline bool nm_cq_room(struct nm *m, struct nm_cq *cq)
{
	uint32_t next = cq->tail + 1 == cq->size ? 0 : cq->tail + 1;

	return svio_likely(next != cq->head) || svio__nm_cq_room_slow(m, cq);
}
void svio__nm_sq_stop(struct nm *m, struct nm_sq *sq, uint16_t status); /* requests of a queue that goes */
void svio__nm_doorbells_rebind(struct nm *m);

/* nvme_model_io.c */
unsigned int svio__nm_sq_poll(struct nm *m, struct nm_sq *sq);
/* Read or write of one command; NM_PENDING when it must take the general path. */
uint16_t svio__nm_io_check(const struct nm *m, const struct nvme_cmd *cmd, const struct nm_ns **nsp, uint64_t *off, uint32_t *len);

/* nvme_model_req.c */
struct nm_req *svio__nm_req_get(struct nm *m, struct nm_sq *sq);
void svio__nm_req_run(struct nm *m, struct nm_req *r);
void svio__nm_req_complete(struct nm *m, struct nm_req *r, uint16_t status);
unsigned int svio__nm_reqs_poll(struct nm *m);
void svio__nm_req_drop(struct nm *m, struct nm_req *r); /* without a completion */

/* nvme_model_admin.c: fills r->dw0, perhaps r->buf; status, or NM_PENDING when it completes later. */
uint16_t svio__nm_admin_exec(struct nm *m, struct nm_req *r);
/* Bytes that the command moves and which way; 0 none. */
uint16_t svio__nm_admin_data(const struct nvme_cmd *cmd, uint32_t *len, bool *to_host);

/* nvme_model_store.c */
int svio__nm_store_open(struct nm_store *st, const char *path, uint64_t bytes, bool direct, bool readonly, bool shared);
void svio__nm_store_close(struct nm_store *st);
int svio__nm_store_rw(struct nm_store *st, bool write, uint64_t off, void *buf, uint32_t len);
int svio__nm_store_zero(struct nm_store *st, uint64_t off, uint64_t len, bool discard);
int svio__nm_store_flush(struct nm_store *st);

/* nvme_model_sync.c */
/* Flush namespaces (by bit). *ticket 0: done, with that result; else when m->synced has come so far, its errors in m->sync_err. */
int svio__nm_sync_ask(struct nm *m, uint32_t namespaces, uint64_t *ticket);
/* Update m->synced and m->sync_err. */
void svio__nm_sync_look(struct nm *m);
void svio__nm_sync_end(struct nm *m);

/* nvme_model_inject.c */
int svio__nm_inject_parse(struct nm *m, const char *text);
const struct nm_fault *svio__nm_inject_match(struct nm *m, bool admin, uint8_t opcode);

#endif
