/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The wire format of vfio-user: what room vfio (client) and room vdev (server) say to each other
 * and to QEMU, SPDK and libvfio-user. From the specification that QEMU ships
 * (docs/interop/vfio-user, version 0.x); sections are named in brackets. A stream socket, messages
 * back to back, host byte order [Protocol Specification], no padding but what is written here.
 * Payloads reuse the layouts of <linux/vfio.h>; they are declared again because the wire's differ
 * from the ioctl's in places and must not change with a kernel header.
 *
 * Facts that are not in the specification (peers' limits, timeouts, quirks) stand at the code that
 * observes them.
 */
#ifndef SVIO_VFIO_USER_H
#define SVIO_VFIO_USER_H

#include <stdint.h>

#define SVIO_VFU_PACKED __attribute__((packed))
#ifdef __cplusplus
#define SVIO_VFU_ASSERT static_assert
#else
#define SVIO_VFU_ASSERT _Static_assert
#endif
#define SVIO_VFU_SIZE(type, bytes) \
	SVIO_VFU_ASSERT(sizeof(struct type) == (bytes), #type " is " #bytes " bytes on the wire")

#define SVIO_VFU_MAJOR 0
#define SVIO_VFU_MINOR 1 /* newest minor we speak; QEMU 11 says 0, SPDK says 1 */

/* Defaults of the version negotiation when a side does not say [Version]. */
#define SVIO_VFU_DEF_MSG_FDS	   1
#define SVIO_VFU_DEF_MAX_XFER	   1048576
#define SVIO_VFU_DEF_MAX_DMA_MAPS  65535
#define SVIO_VFU_DEF_PGSIZES	   4096

/* [Commands] */
enum svio_vfu_cmd {
	SVIO_VFU_VERSION = 1,
	SVIO_VFU_DMA_MAP = 2,
	SVIO_VFU_DMA_UNMAP = 3,
	SVIO_VFU_GET_INFO = 4,
	SVIO_VFU_GET_REGION_INFO = 5,
	SVIO_VFU_GET_REGION_IO_FDS = 6,
	SVIO_VFU_GET_IRQ_INFO = 7,
	SVIO_VFU_SET_IRQS = 8,
	SVIO_VFU_REGION_READ = 9,
	SVIO_VFU_REGION_WRITE = 10,
	SVIO_VFU_DMA_READ = 11,	 /* server to client */
	SVIO_VFU_DMA_WRITE = 12, /* server to client */
	SVIO_VFU_DEVICE_RESET = 13,
	SVIO_VFU_DIRTY_PAGES = 14, /* gone from the specification; old clients may send it */
	SVIO_VFU_REGION_WRITE_MULTI = 15,
	SVIO_VFU_DEVICE_FEATURE = 16,
	SVIO_VFU_MIG_DATA_READ = 17,
	SVIO_VFU_MIG_DATA_WRITE = 18,
	SVIO_VFU_CMD_MAX = 18,
};

/* [Header] */
struct svio_vfu_hdr {
	uint16_t id;  /* the sender's, echoed in the reply, not necessarily unique */
	uint16_t cmd;
	uint32_t size; /* of the whole message, this header included */
	uint32_t flags;
	uint32_t error; /* positive errno of an error reply, may be 0 */
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_hdr, 16);

#define SVIO_VFU_TYPE_MASK 0xfu
#define SVIO_VFU_COMMAND   0x0u
#define SVIO_VFU_REPLY	   0x1u
#define SVIO_VFU_NO_REPLY  (1u << 4)
#define SVIO_VFU_ERROR	   (1u << 5)

/* [Version]; JSON text with its terminating NUL may follow. */
struct svio_vfu_version {
	uint16_t major, minor;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_version, 4);

/* [DMA map]; no reply payload; at most one descriptor. */
struct svio_vfu_dma_map {
	uint32_t argsz, flags;
	uint64_t offset, iova, size;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_map, 32);
#define SVIO_VFU_DMA_F_READ    (1u << 0)
#define SVIO_VFU_DMA_F_WRITE   (1u << 1)
#define SVIO_VFU_DMA_F_MMAP    (1u << 2) /* access mode: mmap */
#define SVIO_VFU_DMA_F_FILE_IO (1u << 3) /* access mode: pread, pwrite */

/* [DMA unmap]; the reply repeats it. */
struct svio_vfu_dma_unmap {
	uint32_t argsz, flags;
	uint64_t iova, size;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_unmap, 24);

/* [Device get info]; struct vfio_device_info without its later fields. */
struct svio_vfu_device_info {
	uint32_t argsz, flags, num_regions, num_irqs;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_device_info, 16);
#define SVIO_VFU_DEV_F_RESET (1u << 0)
#define SVIO_VFU_DEV_F_PCI   (1u << 1)

/* Region and interrupt indexes are those of vfio-pci. */
#define SVIO_VFU_REGION_BAR0	0
#define SVIO_VFU_REGION_ROM	6
#define SVIO_VFU_REGION_CONFIG	7
#define SVIO_VFU_REGION_VGA	8
#define SVIO_VFU_NUM_REGIONS	9
#define SVIO_VFU_IRQ_INTX	0
#define SVIO_VFU_IRQ_MSI	1
#define SVIO_VFU_IRQ_MSIX	2
#define SVIO_VFU_IRQ_ERR	3
#define SVIO_VFU_IRQ_REQ	4
#define SVIO_VFU_NUM_IRQS	5

/*
 * [Device get region info]; capabilities may follow in the reply, offsets from the start of this
 * structure.
 */
struct svio_vfu_region_info {
	uint32_t argsz, flags, index, cap_offset;
	uint64_t size, offset; /* offset: base for mmap of the descriptor in the reply */
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_region_info, 32);
#define SVIO_VFU_REGION_F_READ	(1u << 0)
#define SVIO_VFU_REGION_F_WRITE (1u << 1)
#define SVIO_VFU_REGION_F_MMAP	(1u << 2)
#define SVIO_VFU_REGION_F_CAPS	(1u << 3)

/* [VFIO region capabilities] */
struct svio_vfu_cap_hdr {
	uint16_t id, version;
	uint32_t next; /* from the start of the region info structure; 0 = last */
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_cap_hdr, 8);
#define SVIO_VFU_CAP_SPARSE_MMAP 1
#define SVIO_VFU_CAP_TYPE	 2

struct svio_vfu_sparse_area {
	uint64_t offset, size;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_sparse_area, 16);

struct svio_vfu_cap_sparse {
	struct svio_vfu_cap_hdr hdr;
	uint32_t num_areas, reserved;
	struct svio_vfu_sparse_area areas[];
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_cap_sparse, 16);

/* [Device get region IO fds]; `count` entries follow in the reply. */
struct svio_vfu_region_io_fds {
	uint32_t argsz, flags, index, count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_region_io_fds, 16);

/* [Device get irq info] */
struct svio_vfu_irq_info {
	uint32_t argsz, flags, index, count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_irq_info, 16);
#define SVIO_VFU_IRQ_F_EVENTFD	  (1u << 0)
#define SVIO_VFU_IRQ_F_MASKABLE	  (1u << 1)
#define SVIO_VFU_IRQ_F_AUTOMASKED (1u << 2)
#define SVIO_VFU_IRQ_F_NORESIZE	  (1u << 3)

/*
 * [Device set irqs]; DATA_BOOL: count bytes follow; DATA_EVENTFD: count descriptors, or none to
 * de-assign.
 */
struct svio_vfu_irq_set {
	uint32_t argsz, flags, index, start, count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_irq_set, 20);
#define SVIO_VFU_IRQ_DATA_NONE	    (1u << 0)
#define SVIO_VFU_IRQ_DATA_BOOL	    (1u << 1)
#define SVIO_VFU_IRQ_DATA_EVENTFD   (1u << 2)
#define SVIO_VFU_IRQ_ACTION_MASK    (1u << 3)
#define SVIO_VFU_IRQ_ACTION_UNMASK  (1u << 4)
#define SVIO_VFU_IRQ_ACTION_TRIGGER (1u << 5)

/* [Region read], [Region write]; data follows in the read's reply and in the write's request. */
struct svio_vfu_region_rw {
	uint64_t offset;
	uint32_t region, count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_region_rw, 16);

/* [DMA read], [DMA write]; count is 64 bits wide here, unlike in region access. */
struct svio_vfu_dma_rw {
	uint64_t iova, count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_rw, 16);

/* [Region write multi]; request: the count, then so many entries; reply: the count. */
struct svio_vfu_write_multi {
	uint64_t count;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_write_multi, 8);

struct svio_vfu_write_multi_entry {
	uint64_t offset;
	uint32_t region, count; /* count <= 8 */
	uint8_t data[8];
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_write_multi_entry, 24);

/* [Device feature]; the feature's data follows. */
struct svio_vfu_feature {
	uint32_t argsz, flags;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_feature, 8);
#define SVIO_VFU_FEATURE_MASK  0xffffu
#define SVIO_VFU_FEATURE_GET   (1u << 16)
#define SVIO_VFU_FEATURE_SET   (1u << 17)
#define SVIO_VFU_FEATURE_PROBE (1u << 18)

#define SVIO_VFU_FEATURE_MIGRATION	    1
#define SVIO_VFU_FEATURE_MIG_DEVICE_STATE   2
#define SVIO_VFU_FEATURE_DMA_LOGGING_START  6
#define SVIO_VFU_FEATURE_DMA_LOGGING_STOP   7
#define SVIO_VFU_FEATURE_DMA_LOGGING_REPORT 8

struct svio_vfu_migration {
	uint64_t flags;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_migration, 8);
#define SVIO_VFU_MIG_STOP_COPY (1u << 0)
#define SVIO_VFU_MIG_P2P       (1u << 1)
#define SVIO_VFU_MIG_PRE_COPY  (1u << 2)

enum svio_vfu_mig_state {
	SVIO_VFU_STATE_ERROR = 0,
	SVIO_VFU_STATE_STOP = 1,
	SVIO_VFU_STATE_RUNNING = 2,
	SVIO_VFU_STATE_STOP_COPY = 3,
	SVIO_VFU_STATE_RESUMING = 4,
	SVIO_VFU_STATE_RUNNING_P2P = 5, /* not used in vfio-user */
	SVIO_VFU_STATE_PRE_COPY = 6,
	SVIO_VFU_STATE_PRE_COPY_P2P = 7, /* not used in vfio-user */
};

struct svio_vfu_mig_state_data {
	uint32_t device_state;
	uint32_t data_fd; /* unused; the stream goes through MIG_DATA_READ and MIG_DATA_WRITE */
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_mig_state_data, 8);

struct svio_vfu_dma_log_range {
	uint64_t iova, length;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_log_range, 16);

/* DMA_LOGGING_START; the ranges follow, none = everything. */
struct svio_vfu_dma_log_start {
	uint64_t page_size;
	uint32_t num_ranges, reserved;
	struct svio_vfu_dma_log_range ranges[];
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_log_start, 16);

/*
 * DMA_LOGGING_REPORT; in the reply a bitmap of 64-bit words follows, bit n = page n from iova on.
 */
struct svio_vfu_dma_log_report {
	uint64_t iova, length, page_size;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_dma_log_report, 24);

/*
 * [Mig data read], [Mig data write]; the data follows. A read shorter than asked for is the end,
 * for now.
 */
struct svio_vfu_mig_data {
	uint32_t argsz, size;
} SVIO_VFU_PACKED;
SVIO_VFU_SIZE(svio_vfu_mig_data, 8);

#endif
