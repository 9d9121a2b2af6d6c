/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVM Express as wire: controller registers, queue entries, commands, Identify and log structures, status codes.
 *
 * From NVM Express Base Specification revision 1.4 ("1.4 §…"); where 2.0 moved a thing, its place in the 2.0 base or NVM Command
 * Set specification follows ("2.0 §…", "NVM 1.0 §…"). Shared by the driver and the device model, so that both sides speak
 * from one table. Types are little-endian wire types of room base; every structure states its size, and offsets where a slip
 * would go unnoticed.
 */
#ifndef NVME_SPEC_H
#define NVME_SPEC_H

#include "svio_base.h"

/* ---- controller registers, BAR0 (1.4 §3.1; 2.0 transport PCIe §3.1) -------------------------------- */

#define NVME_REG_CAP	0x00 /* 64 bits: capabilities */
#define NVME_REG_VS	0x08 /* version */
#define NVME_REG_INTMS	0x0c /* interrupt mask set (pin and MSI only) */
#define NVME_REG_INTMC	0x10 /* interrupt mask clear */
#define NVME_REG_CC	0x14 /* configuration */
#define NVME_REG_CSTS	0x1c /* status */
#define NVME_REG_NSSR	0x20 /* subsystem reset */
#define NVME_REG_AQA	0x24 /* admin queue attributes */
#define NVME_REG_ASQ	0x28 /* 64 bits: admin submission queue base */
#define NVME_REG_ACQ	0x30 /* 64 bits: admin completion queue base */
#define NVME_REG_CMBLOC 0x38 /* controller memory buffer location */
#define NVME_REG_CMBSZ	0x3c /* controller memory buffer size */
#define NVME_REG_DBS	0x1000 /* doorbells (1.4 §3.1.24, §3.1.25) */

/* Everything ones: the function does not answer (PCIe 5.0 §2.3.2). No valid CSTS or VS looks like that. */
#define NVME_REG_DEAD UINT32_MAX

/* CAP (1.4 §3.1.1), from the 64-bit value. */
#define NVME_CAP_MQES(cap)   ((uint32_t)((cap) & 0xffff))	     /* largest queue - 1 */
#define NVME_CAP_CQR(cap)    ((uint32_t)(((cap) >> 16) & 1))	     /* queues must be contiguous */
#define NVME_CAP_AMS(cap)    ((uint32_t)(((cap) >> 17) & 3))
#define NVME_CAP_TO(cap)     ((uint32_t)(((cap) >> 24) & 0xff))	     /* worst time of CSTS.RDY, in 500 ms */
#define NVME_CAP_DSTRD(cap)  ((uint32_t)(((cap) >> 32) & 0xf))	     /* doorbell stride 4 << n bytes */
#define NVME_CAP_NSSRS(cap)  ((uint32_t)(((cap) >> 36) & 1))
#define NVME_CAP_CSS(cap)    ((uint32_t)(((cap) >> 37) & 0xff))	     /* command sets, bit 0 NVM, bit 6 CC.CSS=110b, bit 7 none */
#define NVME_CAP_MPSMIN(cap) ((uint32_t)(((cap) >> 48) & 0xf))	     /* page 4096 << n */
#define NVME_CAP_MPSMAX(cap) ((uint32_t)(((cap) >> 52) & 0xf))

#define NVME_CAP_MQES_SHIFT   0
#define NVME_CAP_CQR_BIT      (UINT64_C(1) << 16)
#define NVME_CAP_TO_SHIFT     24
#define NVME_CAP_DSTRD_SHIFT  32
#define NVME_CAP_NSSRS_BIT    (UINT64_C(1) << 36)
#define NVME_CAP_CSS_SHIFT    37
#define NVME_CAP_CSS_NVM      0x01u
#define NVME_CAP_CSS_ADMIN    0x80u /* no I/O command set: admin only */
#define NVME_CAP_MPSMIN_SHIFT 48
#define NVME_CAP_MPSMAX_SHIFT 52

/* CC (1.4 §3.1.5) */
#define NVME_CC_EN	     (1u << 0)
#define NVME_CC_CSS_SHIFT    4 /* 3 bits: 0 = NVM command set */
#define NVME_CC_CSS_MASK     (7u << 4)
#define NVME_CC_MPS_SHIFT    7 /* 4 bits */
#define NVME_CC_MPS_MASK     (0xfu << 7)
#define NVME_CC_AMS_MASK     (7u << 11)
#define NVME_CC_SHN_MASK     (3u << 14)
#define NVME_CC_SHN_NORMAL   (1u << 14)
#define NVME_CC_SHN_ABRUPT   (2u << 14)
#define NVME_CC_IOSQES_SHIFT 16 /* 4 bits: log2 of the entry size, 6 */
#define NVME_CC_IOSQES_MASK  (0xfu << 16)
#define NVME_CC_IOCQES_SHIFT 20 /* 4 bits: 4 */
#define NVME_CC_IOCQES_MASK  (0xfu << 20)

/* CSTS (1.4 §3.1.6) */
#define NVME_CSTS_RDY	     (1u << 0)
#define NVME_CSTS_CFS	     (1u << 1) /* controller fatal status */
#define NVME_CSTS_SHST_MASK  (3u << 2)
#define NVME_CSTS_SHST_BUSY  (1u << 2) /* shutdown processing occurring */
#define NVME_CSTS_SHST_DONE  (2u << 2) /* shutdown processing complete */
#define NVME_CSTS_NSSRO	     (1u << 4)
#define NVME_CSTS_PP	     (1u << 5)

/* AQA (1.4 §3.1.8): sizes are 0's based, at most 4096 entries. */
#define NVME_AQA(sq_entries, cq_entries) ((((cq_entries) - 1u) << 16) | ((sq_entries) - 1u))
#define NVME_AQA_ASQS(aqa)		 ((aqa) & 0xfffu)
#define NVME_AQA_ACQS(aqa)		 (((aqa) >> 16) & 0xfffu)
#define NVME_ADMIN_MAX_ENTRIES		 4096u

#define NVME_VS(major, minor, tertiary) ((uint32_t)(major) << 16 | (uint32_t)(minor) << 8 | (uint32_t)(tertiary))

/* Doorbell offsets: submission tail of qid, completion head of qid (1.4 §3.1.24, §3.1.25). */
#define NVME_DB_SQ(qid, dstrd) (NVME_REG_DBS + ((uint64_t)(2 * (qid)) << (2 + (dstrd))))
#define NVME_DB_CQ(qid, dstrd) (NVME_REG_DBS + ((uint64_t)(2 * (qid) + 1) << (2 + (dstrd))))

/* ---- queue entries ---------------------------------------------------------------------------------- */

#define NVME_SQE_SHIFT 6
#define NVME_CQE_SHIFT 4

/* SGL descriptor (1.4 §4.4; 2.0 §4.1.2): the type is in the upper half of the last byte. */
struct nvme_sgl {
	svio_le64 addr;
	svio_le32 len;
	uint8_t rsvd[3];
	uint8_t type;
};
_Static_assert(sizeof(struct nvme_sgl) == 16, "1.4 §4.4");

#define NVME_SGL_DATA	   0x00 /* data block */
#define NVME_SGL_BITBUCKET 0x10
#define NVME_SGL_SEGMENT   0x20
#define NVME_SGL_LAST	   0x30 /* last segment */

/* Submission queue entry (1.4 §4.2; 2.0 §3.3.3.1). */
struct nvme_cmd {
	uint8_t opcode;
	uint8_t flags; /* FUSE in bits 0-1, PSDT in bits 6-7 */
	svio_le16 cid;
	svio_le32 nsid;
	svio_le32 cdw2, cdw3;
	svio_le64 mptr;
	union {
		struct {
			svio_le64 prp1, prp2;
		};
		struct nvme_sgl sgl;
	};
	svio_le32 cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
_Static_assert(sizeof(struct nvme_cmd) == 64, "1.4 §4.2");
_Static_assert(offsetof(struct nvme_cmd, mptr) == 16, "CDW4");
_Static_assert(offsetof(struct nvme_cmd, prp1) == 24, "CDW6");
_Static_assert(offsetof(struct nvme_cmd, cdw10) == 40, "CDW10");

#define NVME_CMD_PSDT_PRP 0x00
#define NVME_CMD_PSDT_SGL 0x40 /* metadata, if any, is one contiguous buffer */
#define NVME_CMD_PSDT_MASK 0xc0
#define NVME_CMD_FUSE_MASK 0x03

/* Completion queue entry (1.4 §4.6; 2.0 §3.3.3.2). */
struct nvme_cqe {
	svio_le32 dw0; /* command specific */
	svio_le32 dw1;
	svio_le16 sqhd; /* where the controller is in the submission queue */
	svio_le16 sqid;
	svio_le16 cid;
	svio_le16 status; /* phase tag in bit 0, status field above */
};
_Static_assert(sizeof(struct nvme_cqe) == 16, "1.4 §4.6");
_Static_assert(offsetof(struct nvme_cqe, status) == 14, "1.4 §4.6");

/* Status, as in bits 15-0 of cqe.status (1.4 §4.6.1). */
#define NVME_CQE_PHASE	    0x0001u
#define NVME_STATUS_SC(st)  (((uint32_t)(st) >> 1) & 0xffu)
#define NVME_STATUS_SCT(st) (((uint32_t)(st) >> 9) & 0x7u)
#define NVME_STATUS_CRD(st) (((uint32_t)(st) >> 12) & 0x3u)
#define NVME_STATUS_MORE    0x4000u
#define NVME_STATUS_DNR	    0x8000u
/* Status code type and status code together: bits 8-10 and 0-7. */
#define NVME_STATUS_CODE(st) (((uint32_t)(st) >> 1) & 0x7ffu)
/* And back, for a device: without the phase. */
#define NVME_STATUS_MAKE(sct, sc) ((uint16_t)((((uint32_t)(sct) & 7u) << 9) | (((uint32_t)(sc) & 0xffu) << 1)))

enum nvme_sct { /* status code types, 1.4 §4.6.1.1 */
	NVME_SCT_GENERIC = 0,
	NVME_SCT_COMMAND = 1,
	NVME_SCT_MEDIA = 2,
	NVME_SCT_PATH = 3,
	NVME_SCT_VENDOR = 7,
};

enum nvme_sc_generic { /* 1.4 §4.6.1.2.1, figures 127 and 128 */
	NVME_SC_SUCCESS = 0x00,
	NVME_SC_INVALID_OPCODE = 0x01,
	NVME_SC_INVALID_FIELD = 0x02,
	NVME_SC_CID_CONFLICT = 0x03,
	NVME_SC_DATA_TRANSFER = 0x04,
	NVME_SC_POWER_LOSS = 0x05,
	NVME_SC_INTERNAL = 0x06,
	NVME_SC_ABORT_REQUESTED = 0x07,
	NVME_SC_ABORT_SQ_DELETED = 0x08,
	NVME_SC_FUSED_FAILED = 0x09,
	NVME_SC_FUSED_MISSING = 0x0a,
	NVME_SC_INVALID_NS = 0x0b,
	NVME_SC_SEQUENCE = 0x0c,
	NVME_SC_SGL_SEGMENT = 0x0d,
	NVME_SC_SGL_COUNT = 0x0e,
	NVME_SC_SGL_DATA_LEN = 0x0f,
	NVME_SC_SGL_MD_LEN = 0x10,
	NVME_SC_SGL_TYPE = 0x11,
	NVME_SC_CMB_USE = 0x12,
	NVME_SC_PRP_OFFSET = 0x13,
	NVME_SC_ATOMIC_WRITE = 0x14,
	NVME_SC_OPERATION_DENIED = 0x15,
	NVME_SC_SGL_OFFSET = 0x16,
	NVME_SC_HOST_ID = 0x18,
	NVME_SC_KEEP_ALIVE_EXPIRED = 0x19,
	NVME_SC_KEEP_ALIVE_INVALID = 0x1a,
	NVME_SC_PREEMPT_ABORT = 0x1b,
	NVME_SC_SANITIZE_FAILED = 0x1c,
	NVME_SC_SANITIZE_BUSY = 0x1d,
	NVME_SC_SGL_GRANULARITY = 0x1e,
	NVME_SC_CMB_QUEUE = 0x1f,
	NVME_SC_NS_WRITE_PROTECTED = 0x20,
	NVME_SC_INTERRUPTED = 0x21,
	NVME_SC_TRANSIENT = 0x22,
	NVME_SC_LBA_RANGE = 0x80,
	NVME_SC_CAPACITY = 0x81,
	NVME_SC_NS_NOT_READY = 0x82,
	NVME_SC_RESERVATION = 0x83,
	NVME_SC_FORMAT_BUSY = 0x84,
};

enum nvme_sc_command { /* 1.4 §4.6.1.2.2, figures 129 and 130 */
	NVME_SC_CQ_INVALID = 0x00,
	NVME_SC_QID_INVALID = 0x01,
	NVME_SC_QSIZE_INVALID = 0x02,
	NVME_SC_ABORT_LIMIT = 0x03,
	NVME_SC_AER_LIMIT = 0x05,
	NVME_SC_FW_SLOT = 0x06,
	NVME_SC_FW_IMAGE = 0x07,
	NVME_SC_INTERRUPT_VECTOR = 0x08,
	NVME_SC_LOG_PAGE = 0x09,
	NVME_SC_FORMAT = 0x0a,
	NVME_SC_FW_NEEDS_RESET = 0x0b,
	NVME_SC_QUEUE_DELETION = 0x0c,
	NVME_SC_FEATURE_NOT_SAVEABLE = 0x0d,
	NVME_SC_FEATURE_NOT_CHANGEABLE = 0x0e,
	NVME_SC_FEATURE_NOT_NS = 0x0f,
	NVME_SC_FW_NEEDS_SUBSYSTEM_RESET = 0x10,
	NVME_SC_OVERLAPPING_RANGE = 0x14,
	NVME_SC_NS_CAPACITY = 0x15,
	NVME_SC_NS_ID_UNAVAILABLE = 0x16,
	NVME_SC_NS_ATTACHED = 0x18,
	NVME_SC_NS_PRIVATE = 0x19,
	NVME_SC_NS_NOT_ATTACHED = 0x1a,
	NVME_SC_THIN_PROVISIONING = 0x1b,
	NVME_SC_CONTROLLER_LIST = 0x1c,
	NVME_SC_SELF_TEST_BUSY = 0x1d,
	NVME_SC_CONTROLLER_ID = 0x1f,
	NVME_SC_CONFLICTING_ATTRIBUTES = 0x80,
	NVME_SC_PROTECTION_INFO = 0x81,
	NVME_SC_READ_ONLY_RANGE = 0x82,
};

enum nvme_sc_media { /* 1.4 §4.6.1.2.3 */
	NVME_SC_WRITE_FAULT = 0x80,
	NVME_SC_READ_ERROR = 0x81,
	NVME_SC_GUARD = 0x82,
	NVME_SC_APPTAG = 0x83,
	NVME_SC_REFTAG = 0x84,
	NVME_SC_COMPARE = 0x85,
	NVME_SC_ACCESS_DENIED = 0x86,
	NVME_SC_UNWRITTEN = 0x87,
};

/* ---- admin commands (1.4 §5; 2.0 §5) ------------------------------------------------------------------ */

enum nvme_admin_opcode {
	NVME_ADM_DELETE_SQ = 0x00,   /* §5.6 */
	NVME_ADM_CREATE_SQ = 0x01,   /* §5.4 */
	NVME_ADM_GET_LOG_PAGE = 0x02, /* §5.14 */
	NVME_ADM_DELETE_CQ = 0x04,   /* §5.5 */
	NVME_ADM_CREATE_CQ = 0x05,   /* §5.3 */
	NVME_ADM_IDENTIFY = 0x06,    /* §5.15 */
	NVME_ADM_ABORT = 0x08,	     /* §5.1 */
	NVME_ADM_SET_FEATURES = 0x09, /* §5.21 */
	NVME_ADM_GET_FEATURES = 0x0a, /* §5.13 */
	NVME_ADM_ASYNC_EVENT = 0x0c, /* §5.2 */
	NVME_ADM_NS_MGMT = 0x0d,
	NVME_ADM_FW_COMMIT = 0x10,
	NVME_ADM_FW_DOWNLOAD = 0x11,
	NVME_ADM_SELF_TEST = 0x14,
	NVME_ADM_NS_ATTACH = 0x15,
	NVME_ADM_KEEP_ALIVE = 0x18,
	NVME_ADM_DBBUF_CONFIG = 0x7c, /* §5.7 Doorbell Buffer Config: PRP1 shadow doorbells, PRP2 EventIdx */
	NVME_ADM_FORMAT = 0x80,
	NVME_ADM_SECURITY_SEND = 0x81,
	NVME_ADM_SECURITY_RECV = 0x82,
	NVME_ADM_SANITIZE = 0x84,
};

/* Create I/O Completion Queue (§5.3): CDW10 QSIZE (0's based) << 16 | QID; CDW11 IV << 16 | IEN << 1 | PC. */
/* Create I/O Submission Queue (§5.4): CDW10 likewise; CDW11 CQID << 16 | QPRIO << 1 | PC. */
#define NVME_QUEUE_CDW10(qid, entries) ((uint32_t)((entries) - 1) << 16 | (uint32_t)(qid))
#define NVME_QUEUE_PC		       (1u << 0)
#define NVME_CQ_IEN		       (1u << 1)
#define NVME_CQ_CDW11(vector, ien)     ((uint32_t)(vector) << 16 | ((ien) ? NVME_CQ_IEN : 0) | NVME_QUEUE_PC)
#define NVME_SQ_CDW11(cqid)	       ((uint32_t)(cqid) << 16 | NVME_QUEUE_PC)

/* Abort (§5.1): CDW10 CID << 16 | SQID; completion DW0 bit 0 set: not aborted. */
#define NVME_ABORT_CDW10(sqid, cid) ((uint32_t)(cid) << 16 | (uint32_t)(sqid))

/* Identify (§5.15): CDW10 CNTID << 16 | CNS. */
enum nvme_cns {
	NVME_CNS_NS = 0x00,
	NVME_CNS_CTRL = 0x01,
	NVME_CNS_NS_LIST = 0x02, /* active namespaces greater than NSID */
	NVME_CNS_NS_DESCS = 0x03, /* namespace identification descriptors */
	NVME_CNS_CTRL_LIST = 0x13,
};

/* Features (§5.21.1). */
enum nvme_feature {
	NVME_FEAT_ARBITRATION = 0x01,
	NVME_FEAT_POWER = 0x02,
	NVME_FEAT_TEMPERATURE = 0x04,
	NVME_FEAT_ERROR_RECOVERY = 0x05,
	NVME_FEAT_WRITE_CACHE = 0x06,
	NVME_FEAT_NUM_QUEUES = 0x07, /* CDW11 NCQR << 16 | NSQR, 0's based; DW0 what was allocated */
	NVME_FEAT_IRQ_COALESCING = 0x08,
	NVME_FEAT_IRQ_VECTOR = 0x09,
	NVME_FEAT_WRITE_ATOMICITY = 0x0a,
	NVME_FEAT_ASYNC_EVENT = 0x0b, /* CDW11: bits 0-7 SMART warnings, 8 namespace attributes, 9 firmware activation */
	NVME_FEAT_TIMESTAMP = 0x0e,
};

#define NVME_AEC_SMART	    0xffu
#define NVME_AEC_NS_ATTR    (1u << 8)
#define NVME_AEC_FW_ACTIVE  (1u << 9)
#define NVME_OAES_NS_ATTR   (1u << 8)
#define NVME_OAES_FW_ACTIVE (1u << 9)

/* Asynchronous event completion DW0 (§5.2.1): type bits 0-2, information bits 8-15, log page bits 16-23. */
#define NVME_AER_TYPE(dw0) ((dw0) & 7u)
#define NVME_AER_INFO(dw0) (((dw0) >> 8) & 0xffu)
#define NVME_AER_LOG(dw0)  (((dw0) >> 16) & 0xffu)
#define NVME_AER_MAKE(type, info, log) ((uint32_t)(type) | (uint32_t)(info) << 8 | (uint32_t)(log) << 16)
enum nvme_aer_type { NVME_AER_ERROR = 0, NVME_AER_SMART = 1, NVME_AER_NOTICE = 2, NVME_AER_IO = 6, NVME_AER_VENDOR = 7 };
enum nvme_aer_error { NVME_AER_BAD_DOORBELL = 0, NVME_AER_BAD_DOORBELL_VALUE = 1, NVME_AER_DIAGNOSTIC = 2,
	NVME_AER_PERSISTENT = 3, NVME_AER_TRANSIENT = 4, NVME_AER_FW_IMAGE = 5 };
enum nvme_aer_notice { NVME_AER_NS_ATTR = 0, NVME_AER_FW_ACTIVATION = 1, NVME_AER_TELEMETRY = 2 };

/* Get Log Page (§5.14): CDW10 NUMDL << 16 | RAE << 15 | LSP << 8 | LID; NUMD is 0's based, in dwords. */
enum nvme_log_page {
	NVME_LOG_ERROR = 0x01,	      /* 64-byte entries */
	NVME_LOG_SMART = 0x02,	      /* 512 bytes */
	NVME_LOG_FW_SLOT = 0x03,      /* 512 bytes */
	NVME_LOG_CHANGED_NS = 0x04,   /* 4096 bytes */
	NVME_LOG_EFFECTS = 0x05,      /* 4096 bytes */
};
#define NVME_LOG_CDW10(lid, bytes) ((uint32_t)(((bytes) / 4 - 1) & 0xffff) << 16 | (uint32_t)(lid))
#define NVME_LOG_RAE		   (1u << 15)

/* ---- NVM commands (1.4 §6; NVM 1.0 §3) ---------------------------------------------------------------- */

enum nvme_io_opcode {
	NVME_IO_FLUSH = 0x00,
	NVME_IO_WRITE = 0x01,
	NVME_IO_READ = 0x02,
	NVME_IO_WRITE_UNCORRECTABLE = 0x04,
	NVME_IO_COMPARE = 0x05,
	NVME_IO_WRITE_ZEROES = 0x08,
	NVME_IO_DSM = 0x09,
	NVME_IO_VERIFY = 0x0c,
};

/* Read, Write, Write Zeroes: CDW10-11 starting LBA, CDW12 NLB (0's based) with these in the upper half (§6.9, §6.15, §6.16). */
#define NVME_RW_FUA	(1u << 30)
#define NVME_RW_LR	(1u << 31)
#define NVME_WZ_DEAC	(1u << 25)
#define NVME_RW_NLB_MAX 65536u

/* Dataset Management (§6.7): CDW10 number of ranges, 0's based; CDW11 bit 2 deallocate. */
struct nvme_dsm_range {
	svio_le32 attributes;
	svio_le32 nlb;
	svio_le64 slba;
};
_Static_assert(sizeof(struct nvme_dsm_range) == 16, "1.4 §6.7");
#define NVME_DSM_IDR	    (1u << 0)
#define NVME_DSM_IDW	    (1u << 1)
#define NVME_DSM_AD	    (1u << 2)
#define NVME_DSM_MAX_RANGES 256u

/* ---- Identify (1.4 §5.15.2; 2.0 §5.17.2) --------------------------------------------------------------- */

#define NVME_IDENTIFY_SIZE 4096u

struct nvme_power_state {
	svio_le16 mp; /* maximum power */
	uint8_t rsvd2;
	uint8_t flags;
	svio_le32 enlat, exlat; /* microseconds */
	uint8_t rrt, rrl, rwt, rwl;
	uint8_t rsvd16[16];
};
_Static_assert(sizeof(struct nvme_power_state) == 32, "1.4 figure 248");

/* Identify Controller, CNS 01h (1.4 figure 247). Strings are ASCII, padded with blanks, without a NUL. */
struct nvme_id_ctrl {
	svio_le16 vid, ssvid;
	char sn[20];
	char mn[40];
	char fr[8];
	uint8_t rab;
	uint8_t ieee[3];
	uint8_t cmic;
	uint8_t mdts; /* largest transfer 2^n minimum pages (CAP.MPSMIN); 0 = no limit */
	svio_le16 cntlid;
	svio_le32 ver;
	svio_le32 rtd3r, rtd3e; /* microseconds; rtd3e bounds the shutdown */
	svio_le32 oaes;
	svio_le32 ctratt;
	svio_le16 rrls;
	uint8_t rsvd102[9];
	uint8_t cntrltype;
	uint8_t fguid[16];
	svio_le16 crdt1, crdt2, crdt3;
	uint8_t rsvd134[106];
	uint8_t nvmsr_mi[16]; /* NVMe-MI */
	svio_le16 oacs;
	uint8_t acl;  /* concurrent aborts, 0's based */
	uint8_t aerl; /* outstanding asynchronous event requests, 0's based */
	uint8_t frmw;
	uint8_t lpa;
	uint8_t elpe;
	uint8_t npss;
	uint8_t avscc;
	uint8_t apsta;
	svio_le16 wctemp, cctemp;
	svio_le16 mtfa;
	svio_le32 hmpre, hmmin;
	uint8_t tnvmcap[16], unvmcap[16];
	svio_le32 rpmbs;
	svio_le16 edstt;
	uint8_t dsto;
	uint8_t fwug;
	svio_le16 kas;
	svio_le16 hctma;
	svio_le16 mntmt, mxtmt;
	svio_le32 sanicap;
	svio_le32 hmminds;
	svio_le16 hmmaxd;
	svio_le16 nsetidmax;
	svio_le16 endgidmax;
	uint8_t anatt, anacap;
	svio_le32 anagrpmax, nanagrpid;
	svio_le32 pels;
	uint8_t rsvd356[156];
	uint8_t sqes; /* bits 0-3 required, 4-7 maximum, log2 */
	uint8_t cqes;
	svio_le16 maxcmd;
	svio_le32 nn; /* number of namespaces */
	svio_le16 oncs;
	svio_le16 fuses;
	uint8_t fna;
	uint8_t vwc; /* bit 0: a volatile write cache is present */
	svio_le16 awun, awupf;
	uint8_t nvscc;
	uint8_t nwpc;
	svio_le16 acwu;
	uint8_t rsvd534[2];
	svio_le32 sgls;
	svio_le32 mnan;
	uint8_t rsvd544[224];
	char subnqn[256];
	uint8_t rsvd1024[768];
	uint8_t fabrics[256];
	struct nvme_power_state psd[32];
	uint8_t vs[1024];
};
_Static_assert(sizeof(struct nvme_id_ctrl) == NVME_IDENTIFY_SIZE, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, mdts) == 77, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, ver) == 80, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, oaes) == 92, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, cntrltype) == 111, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, oacs) == 256, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, wctemp) == 266, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, tnvmcap) == 280, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, kas) == 320, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, sanicap) == 328, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, pels) == 352, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, sqes) == 512, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, nn) == 516, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, oncs) == 520, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, vwc) == 525, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, sgls) == 536, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, subnqn) == 768, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, psd) == 2048, "1.4 figure 247");
_Static_assert(offsetof(struct nvme_id_ctrl, vs) == 3072, "1.4 figure 247");

#define NVME_OACS_FORMAT  (1u << 1)
#define NVME_OACS_FW	  (1u << 2)
#define NVME_OACS_NS_MGMT (1u << 3)
#define NVME_OACS_DBBUF	  (1u << 8) /* Doorbell Buffer Config */

#define NVME_ONCS_COMPARE      (1u << 0)
#define NVME_ONCS_WRITE_UNC    (1u << 1)
#define NVME_ONCS_DSM	       (1u << 2)
#define NVME_ONCS_WRITE_ZEROES (1u << 3)
#define NVME_ONCS_VERIFY       (1u << 7)

#define NVME_VWC_PRESENT    (1u << 0)
#define NVME_SGLS_MASK	    3u /* 0 none, 1 any alignment, 2 dword alignment (1.4 figure 247, bytes 539:536) */
#define NVME_SGLS_NO_ALIGN  1u
#define NVME_SGLS_DWORD	    2u
#define NVME_LPA_CMD_EFFECTS (1u << 1)

/* LBA format (1.4 figure 246). */
struct nvme_lbaf {
	svio_le16 ms; /* metadata bytes per block */
	uint8_t lbads; /* log2 of the data bytes; less than 9 = not available */
	uint8_t rp;
};
_Static_assert(sizeof(struct nvme_lbaf) == 4, "1.4 figure 246");

/* Identify Namespace, CNS 00h (1.4 figure 245). */
struct nvme_id_ns {
	svio_le64 nsze, ncap, nuse; /* blocks */
	uint8_t nsfeat;
	uint8_t nlbaf; /* 0's based */
	uint8_t flbas; /* bits 0-3 the format in use; bit 4 metadata at the end of each block; bits 5-6 upper bits of it (2.0) */
	uint8_t mc;
	uint8_t dpc;
	uint8_t dps; /* bits 0-2: protection information type, 0 none */
	uint8_t nmic;
	uint8_t rescap;
	uint8_t fpi;
	uint8_t dlfeat;
	svio_le16 nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
	uint8_t nvmcap[16];
	svio_le16 npwg, npwa, npdg, npda, nows;
	uint8_t rsvd74[18];
	svio_le32 anagrpid;
	uint8_t rsvd96[3];
	uint8_t nsattr;
	svio_le16 nvmsetid;
	svio_le16 endgid;
	uint8_t nguid[16];
	uint8_t eui64[8];
	struct nvme_lbaf lbaf[64]; /* 16 in 1.4, 64 in 2.0 */
	uint8_t vs[3712];
};
_Static_assert(sizeof(struct nvme_id_ns) == NVME_IDENTIFY_SIZE, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, flbas) == 26, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, nvmcap) == 48, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, anagrpid) == 92, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, nguid) == 104, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, eui64) == 120, "1.4 figure 245");
_Static_assert(offsetof(struct nvme_id_ns, lbaf) == 128, "1.4 figure 245");

#define NVME_FLBAS_INDEX(flbas)	 (((flbas) & 0xfu) | (((flbas) >> 1) & 0x30u))
#define NVME_FLBAS_EXTENDED	 0x10u
#define NVME_DPS_TYPE_MASK	 7u

/* Namespace identification descriptor, CNS 03h (1.4 figure 249). NIDL bytes follow; a zero NIDT ends the list. */
struct nvme_ns_desc {
	uint8_t nidt;
	uint8_t nidl;
	uint8_t rsvd[2];
};
_Static_assert(sizeof(struct nvme_ns_desc) == 4, "1.4 figure 249");
enum nvme_nidt { NVME_NIDT_EUI64 = 1, NVME_NIDT_NGUID = 2, NVME_NIDT_UUID = 3, NVME_NIDT_CSI = 4 };

#define NVME_NSID_ALL	 UINT32_C(0xffffffff)
#define NVME_NS_LIST_MAX 1024u

/* ---- log pages (1.4 §5.14.1) ----------------------------------------------------------------------------- */

struct nvme_log_error {
	svio_le64 count;
	svio_le16 sqid, cid, status, location;
	svio_le64 lba;
	svio_le32 nsid;
	uint8_t vs, trtype;
	uint8_t rsvd30[2];
	svio_le64 csinfo;
	svio_le16 ttsi;
	uint8_t rsvd42[22];
};
_Static_assert(sizeof(struct nvme_log_error) == 64, "1.4 figure 193");

struct nvme_log_smart {
	uint8_t critical_warning;
	uint8_t temperature[2]; /* Kelvin, little-endian, unaligned */
	uint8_t spare, spare_threshold, used;
	uint8_t egcw;
	uint8_t rsvd7[25];
	uint8_t data_read[16], data_written[16]; /* thousands of 512 bytes, 128-bit little-endian */
	uint8_t host_reads[16], host_writes[16];
	uint8_t busy_minutes[16], power_cycles[16], power_on_hours[16], unsafe_shutdowns[16];
	uint8_t media_errors[16], error_entries[16];
	svio_le32 warning_minutes, critical_minutes;
	svio_le16 sensor[8];
	svio_le32 tmt1_count, tmt2_count, tmt1_seconds, tmt2_seconds;
	uint8_t rsvd232[280];
};
_Static_assert(sizeof(struct nvme_log_smart) == 512, "1.4 figure 194");
_Static_assert(offsetof(struct nvme_log_smart, data_read) == 32, "1.4 figure 194");
_Static_assert(offsetof(struct nvme_log_smart, warning_minutes) == 192, "1.4 figure 194");

struct nvme_log_fw {
	uint8_t afi;
	uint8_t rsvd1[7];
	char frs[7][8];
	uint8_t rsvd64[448];
};
_Static_assert(sizeof(struct nvme_log_fw) == 512, "1.4 figure 195");

#endif
