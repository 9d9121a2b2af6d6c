/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside of room vdev. Everything here belongs to the server's thread unless a comment says
 * otherwise.
 */
#ifndef VDEV_PRIV_H
#define VDEV_PRIV_H

#ifndef SVIO_ROOM_VDEV
#error "vdev_priv.h belongs to room vdev"
#endif

#include <signal.h>
#include "svio_vdev.h"
#include "svio_vfio_user.h"

#define VD_PAGE		4096u
#define VD_CFG_SIZE	4096u
#define VD_NUM_BARS	6
#define VD_MAX_MSIX	2048
#define VD_MAX_MSI	32
#define VD_MAX_FDS	253u	   /* SCM_MAX_FD of Linux */
#define VD_MAX_XFER	(1u << 20) /* max_data_xfer_size that we offer */
#define VD_MAX_PAYLOAD	(VD_MAX_XFER + 64u)
#define VD_PARK_NS	UINT64_C(4000000000) /* QEMU gives up after 5 s */
#define VD_DMA_NS	UINT64_C(5000000000)
#define VD_INTX_NS	UINT64_C(10000000) /* see put_off() in irq.c */

/* ---- messages ------------------------------------------------------------------------------- */

struct vd_msg {
	struct vd_msg *next;
	struct svio_vfu_hdr hdr;
	uint32_t len;	/* payload bytes */
	uint32_t stage; /* of a handler that was parked */
	uint32_t nfds;
	int *fds; /* -1 = taken by the handler; the rest is closed with the message */
	_Alignas(8) uint8_t data[];
};

/* What a handler answers: two pieces and at most one descriptor. */
struct vd_reply {
	_Alignas(8) uint8_t head[64];
	size_t head_len;
	void *data; /* malloc()ed, freed by the sender; may be NULL */
	size_t data_len;
	int fd; /* borrowed for the length of the device's life, -1 none */
	bool close_after;
};

struct vd_tx {
	struct vd_tx *next;
	size_t len, pos;
	int fd; /* borrowed, goes with the first byte */
	uint8_t data[];
};

struct vd_conn {
	int fd; /* -1: no client */
	bool versioned;
	bool dead;	/* to be closed */
	bool draining;	/* closing: DMA is being stopped */
	uint32_t max_xfer, max_fds;
	struct ucred cred;
	bool has_cred;
	/* Message being received: its header, then its payload. */
	uint8_t rx_hdr[sizeof(struct svio_vfu_hdr)];
	uint32_t rx_got;
	struct vd_msg *rx;
	int *rx_fds;
	uint32_t rx_nfds;
	/* Complete requests in order; the first may be parked. */
	struct vd_msg *q_head, **q_tail;
	size_t q_bytes;
	uint32_t q_count;
	bool parked;
	uint64_t park_deadline;
	/* What the socket did not take yet. */
	struct vd_tx *tx_head, **tx_tail;
	size_t tx_bytes;
};

/* ---- BARs ----------------------------------------------------------------------------------- */

struct vd_bar {
	uint64_t size;
	uint32_t flags;
	unsigned int num_areas;
	struct svio_vdev_area areas[SVIO_VDEV_MAX_AREAS];
	uint8_t *mem;	   /* [0, mem_size) of the BAR; fixed for the device's life */
	uint64_t mem_size; /* end of the last area, page aligned; 0 = no memory */
	int fd;		   /* memfd behind mem, -1 when not offered */
	bool zapped;	   /* mem is private, the memfd is empty */
	int guard;	   /* slot of the SIGBUS guard, -1 none */
};

/* ---- interrupts ----------------------------------------------------------------------------- */

struct vd_irqs {
	struct {
		uint32_t count;
		int *fds;
		bool enabled;
	} idx[SVIO_VFU_NUM_IRQS];
	int resample; /* INTx unmask eventfd, -1 none */
	bool level;   /* of the INTx pin */
	bool intx_masked;
	bool intx_told;	   /* signalled, and the pin has been high ever since */
	uint64_t intx_due; /* svio_now_ns() of the signal that an unmask put off, 0 none */
	uint64_t pending[VD_MAX_MSIX / 64];
	uint64_t soft_mask[VD_MAX_MSIX / 64]; /* SET_IRQS MASK */
	uint8_t *table;			      /* MSI-X table, 16 bytes a vector, little endian */
	unsigned int table_bar, pba_bar;
	uint32_t table_off, pba_off;
};

/* ---- DMA ------------------------------------------------------------------------------------ */

/* A mapped view of a client's file, shared by all DMA mappings of it. */
struct vd_file {
	struct vd_file *next;
	uint64_t dev, ino;
	int fd;
	bool writable, mapped;
	uint64_t off, len; /* of the view in the file */
	uint8_t *base;
	uint32_t refs;
	int guard;
};

struct vd_map {
	uint64_t iova, last;
	uint32_t prot; /* SVIO_VFU_DMA_F_READ, WRITE */
	struct vd_file *file; /* NULL: by messages */
	uint64_t off;	      /* of iova in the file */
};

#define VD_DMA_CACHE 512
#define VD_DMA_SLOTS 256

struct vd_dma {
	struct vd_map **maps; /* sorted by iova, disjoint */
	uint32_t num, room;
	struct vd_file *files;
	struct vd_map *cache[VD_DMA_CACHE]; /* by IOVA page; emptied at every change */
	/* Transfers by message. */
	struct svio_vdev_dma *slot[VD_DMA_SLOTS];
	uint8_t gen[VD_DMA_SLOTS];
	struct svio_vdev_dma *head, *tail; /* all transfers in flight, oldest first */
	uint32_t inflight, waiting;	   /* waiting: without a slot */
};

/* ---- dirty log ------------------------------------------------------------------------------ */

#define VD_CHUNK_SHIFT 15 /* pages in a chunk */
struct vd_chunk {
	uint64_t key; /* page number >> VD_CHUNK_SHIFT */
	uint64_t bits[(1u << VD_CHUNK_SHIFT) / 64];
};

struct vd_dirty {
	unsigned int shift; /* page size */
	uint32_t num_ranges;
	struct vd_range {
		uint64_t iova, last;
	} *ranges;
	struct vd_chunk **table; /* open addressing, at most half full */
	uint32_t mask, num;
};

/* ---- migration ------------------------------------------------------------------------------ */

struct svio_vdev_buf {
	uint8_t *data;
	size_t len, room, max;
	int err;
};

struct vd_mig {
	uint32_t state; /* enum svio_vfu_mig_state */
	bool stopping;	/* quiesce(STOP) was asked and is not yet done */
	struct svio_vdev_buf buf; /* saving: what is to be read; resuming: sections not yet applied */
	size_t pos;		  /* saving: read so far */
	uint32_t crc;		  /* of the stream up to the start of buf (saving) or up to `parse` (resuming) */
	bool precopy_due;	  /* saving: ask the model again at the next read */
	bool have_hdr, have_end;  /* resuming */
	size_t parse;		  /* resuming: sections before this are complete and held */
};

/* ---- the device ----------------------------------------------------------------------------- */

struct vd_iommu; /* iommu_priv.h */

struct vd_source { /* what an epoll event points to */
	enum vd_source_kind { VD_SRC_STOP, VD_SRC_LISTEN, VD_SRC_CONN, VD_SRC_KICK, VD_SRC_RESAMPLE, VD_SRC_REFUSED } kind;
	void *owner;
};

struct svio_vdev {
	struct svio_vdev_as as0; /* first: see svio_vdev_as0() */
	const struct svio_vdev_model *model;
	void *priv;
	uint32_t flags;
	bool in_init, in_reset, bus_master, mem_on, flr_due;
	volatile sig_atomic_t vanished; /* set by the SIGBUS guard */

	/* configuration space */
	uint8_t cfg[VD_CFG_SIZE], wmask[VD_CFG_SIZE], w1c[VD_CFG_SIZE], cfg0[VD_CFG_SIZE];
	uint32_t cfg_size;
	uint16_t cap_next, cap_last, ecap_next, ecap_last;
	uint16_t cap_pm, cap_pcie, cap_msi, cap_msix, cap_af;
	uint16_t ecap_pasid, ecap_pri, ecap_ats;

	struct vd_bar bar[VD_NUM_BARS];
	struct vd_irqs irq;
	struct vd_dma dma;
	struct vd_mig mig;
	struct vd_conn conn;
	struct vd_iommu *iommu; /* NULL: no PASIDs */
	struct svio_vdev_stats stats;

	struct svio_vdev_server *srv;
	int epfd; /* the server's, -1 */
	int kick_fd;
	uint64_t kick_at; /* svio_now_ns() of the next poll() in interrupt mode, 0 none */
	struct vd_source src_conn, src_kick, src_resample;
};

/* device.c */
bool svio__vd_running(const struct svio_vdev *dev);
int svio__vd_quiesce(struct svio_vdev *dev, enum svio_vdev_quiesce why, uint64_t iova, uint64_t len);
int svio__vd_reset(struct svio_vdev *dev, enum svio_vdev_reset why); /* -EINPROGRESS: again later */

/* config.c */
void svio__vd_cfg_init(struct svio_vdev *dev);
void svio__vd_cfg_power_on(struct svio_vdev *dev);
void svio__vd_cfg_write(struct svio_vdev *dev, uint32_t off, const uint8_t *data, uint32_t len);
void svio__vd_cfg_apply(struct svio_vdev *dev); /* make mem_on, bus_master follow the registers */

/* bar.c */
void svio__vd_bars_fini(struct svio_vdev *dev);
void svio__vd_bars_update(struct svio_vdev *dev); /* map or withdraw, as mem_on and in_reset say */
void svio__vd_bars_zero(struct svio_vdev *dev);
bool svio__vd_bar_in_area(const struct vd_bar *bar, uint64_t off, uint64_t len);
int svio__vd_region_read(struct svio_vdev *dev, uint32_t region, uint64_t off, uint8_t *buf, uint32_t len);
int svio__vd_region_write(struct svio_vdev *dev, uint32_t region, uint64_t off, const uint8_t *buf, uint32_t len);

/* irq.c */
int svio__vd_irq_init(struct svio_vdev *dev);
void svio__vd_irq_fini(struct svio_vdev *dev);
void svio__vd_irq_release(struct svio_vdev *dev); /* close the client's eventfds */
void svio__vd_irq_reset(struct svio_vdev *dev);	  /* nothing pending, pin low */
void svio__vd_irq_flush(struct svio_vdev *dev);	  /* deliver what has become deliverable */
int svio__vd_irq_set(struct svio_vdev *dev, const struct svio_vfu_irq_set *set, const uint8_t *bools, int *fds,
		     uint32_t nfds);
void svio__vd_irq_show_enabled(struct svio_vdev *dev, uint32_t index);
void svio__vd_irq_resample(struct svio_vdev *dev);
void svio__vd_irq_tick(struct svio_vdev *dev, uint64_t now); /* while intx_due is set */
uint32_t svio__vd_irq_flags(const struct svio_vdev *dev, uint32_t index);
bool svio__vd_msix_access(struct svio_vdev *dev, unsigned int bar, uint64_t off, unsigned int width, uint64_t *value,
			  bool write);

/* dma.c */
int svio__vd_dma_map(struct svio_vdev *dev, const struct svio_vfu_dma_map *req, int *fd);
int svio__vd_dma_unmap(struct svio_vdev *dev, uint64_t iova, uint64_t size); /* -EINPROGRESS */
void svio__vd_dma_unmap_all(struct svio_vdev *dev);
void svio__vd_dma_flush(struct svio_vdev *dev); /* forget cached translations */
struct vd_map *svio__vd_dma_find(struct svio_vdev *dev, uint64_t iova);

/* dmamsg.c */
void svio__vd_dma_reply(struct svio_vdev *dev, struct vd_msg *m);
void svio__vd_dma_cancel_range(struct svio_vdev *dev, uint64_t iova, uint64_t last, int err);
void svio__vd_dma_tick(struct svio_vdev *dev, uint64_t now);

/* dirty.c */
int svio__vd_dirty_start(struct svio_vdev *dev, struct svio_vfu_dma_log_start *start);
void svio__vd_dirty_stop(struct svio_vdev *dev);
int svio__vd_dirty_cover(struct svio_vdev *dev, uint64_t iova, uint64_t last);
int svio__vd_dirty_report(struct svio_vdev *dev, const struct svio_vfu_dma_log_report *req, uint64_t *bitmap);

/* migrate.c */
int svio__vd_mig_set(struct svio_vdev *dev, uint32_t state); /* -EINPROGRESS */
void svio__vd_mig_abort(struct svio_vdev *dev); /* give up a stop that does not come */
void svio__vd_mig_reset(struct svio_vdev *dev);
int svio__vd_mig_read(struct svio_vdev *dev, void *data, size_t len, size_t *got);
int svio__vd_mig_write(struct svio_vdev *dev, const void *data, size_t len);

/* iommu.c */
void svio__vd_iommu_fini(struct svio_vdev *dev);
void svio__vd_iommu_reset(struct svio_vdev *dev);
void svio__vd_iommu_disconnect(struct svio_vdev *dev);
uint32_t svio__vd_iommu_feature_ops(const struct svio_vdev *dev, uint32_t index); /* SVIO_VFU_FEATURE_GET, _SET */
int svio__vd_iommu_feature(struct svio_vdev *dev, const struct svio_vfu_feature *req, const uint8_t *data, uint32_t len,
			   struct vd_reply *r);
void *svio__vd_space_ptr(struct svio_vdev_as *as, uint64_t addr, uint64_t len, enum svio_vdev_access access);
void svio__vd_space_mark(struct svio_vdev_as *as, uint64_t addr, uint64_t len);

/* feature.c */
/* Append a feature's data to the reply; `more` is malloc()ed and taken. argsz becomes what all of it takes. */
int svio__vd_answer(const struct svio_vfu_feature *req, struct vd_reply *r, const void *data, size_t len, void *more,
		    size_t more_len);
int svio__vd_feature(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r);

/* proto.c: handle one request; -EINPROGRESS parks it. */
int svio__vd_handle(struct svio_vdev *dev, struct vd_msg *m, struct vd_reply *r);

/* conn.c */
void svio__vd_conn_init(struct svio_vdev *dev);
void svio__vd_conn_open(struct svio_vdev *dev, int fd);
bool svio__vd_conn_service(struct svio_vdev *dev); /* receive, handle, send; true = something was done */
bool svio__vd_conn_close(struct svio_vdev *dev);   /* true when closed, false while DMA drains */
int svio__vd_conn_send(struct svio_vdev *dev, const struct svio_vfu_hdr *hdr, const void *a, size_t alen,
		       const void *b, size_t blen, int fd);
void svio__vd_msg_free(struct vd_msg *m);

/* server.c */
void svio__vd_server_resample(struct svio_vdev *dev, int old_fd, int new_fd);

/* sigbus.c: slots of the guard; -1 when it is off or full. */
bool svio__vd_guard_on(void);
int svio__vd_guard_add(void *start, size_t len, size_t page, volatile sig_atomic_t *vanished);
void svio__vd_guard_del(int slot);

#endif
