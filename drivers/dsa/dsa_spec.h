/* SPDX-License-Identifier: GPL-2.0 OR BSD-3-Clause */
/*
 * Intel Data Streaming Accelerator as wire: registers, work queue and group configuration, descriptors, completion records.
 *
 * From "Intel Data Streaming Accelerator Architecture Specification", order number 341204: chapter 3 is how the device works,
 * chapter 8 "Descriptor Formats", chapter 9 "Register Descriptions". Numbers below the chapter moved between its revisions 1.0 and
 * 2.0, so entries are cited by the specification's own title ("DSA, GENCAP"). Layouts, operations and
 * status codes agree with Linux's linux/idxd.h, command errors with its drivers/dma/idxd/registers.h; the CRC flags, and that the seed is
 * inverted before and the result after, with how Intel's own test suite (idxd-config, accel-config) computes what it expects. The
 * subset is what drivers/dsa uses: no IAX, no DIF, no delta records, no event log, no interrupt message storage.
 *
 * Shared by the driver (drivers/dsa), the device model (dsa_model.c) and the kernel's simulated device (kernel/svio_simdev); so
 * it needs nothing but <linux/types.h>. Fields are little-endian; 64-bit registers may be read as one or as two halves,
 * 32-bit registers (DSA_CMD, DSA_CMDSTS, GENCFG … and each word of WQCFG) are written as 32 bits.
 *
 *
 * Portals of models: a convention of svio.
 *
 * The device takes a descriptor as one 64-byte write (MOVDIR64B, ENQCMD) at any 64-byte aligned offset of a portal: bits 11:6 of the
 * address mean nothing to it (DSA ch. 3, work queue portals), and a portal is never read. A model has memory there, and sees
 * stores one by one. So that one driver serves both:
 *
 * 1. A portal page is DSA_PORTAL_SLOTS slots of 64 bytes. One thread writes to it, and writes its n-th descriptor, counted from
 *    the last enabling of the WQ, to slot n % DSA_PORTAL_SLOTS. The WQ is a dedicated one.
 * 2. It stores bytes 8 to 63 first, then bytes 0 to 7 (PASID, flags, opcode) as one 8-byte store with release order. Those eight
 *    bytes are never all zero; all drivers of ours ask for a completion record, so the flags are not. One MOVDIR64B instead
 *    is right too, with an SFENCE before it.
 * 3. The model looks at the next slot's first 8 bytes with acquire order. Not zero: it copies the slot, then zeroes those 8
 *    bytes, which frees the slot, before any of the descriptor's effects, its completion record included, can be seen. It does
 *    so in the order of slots.
 * 4. The writer has at most min(WQ size, DSA_PORTAL_SLOTS) descriptors not yet completed. Then the slot that it writes next is
 *    always free: of the DSA_PORTAL_SLOTS before, one at least has completed, so all up to that one were taken. Nobody has to
 *    read a portal.
 * 5. Enabling a WQ zeroes its slots and begins at slot 0. Disabling or resetting it forgets what has not been taken.
 * 6. Of a WQ's four pages, models serve the first (DSA_PORTAL_MSIX_UNLIMITED). Stores to the other three have no effect.
 */
#ifndef DSA_SPEC_H
#define DSA_SPEC_H

#include <linux/types.h>

/* ---- the function (DSA, PCI Configuration Registers) -------------------------------------------------------------- */

#define DSA_VENDOR_INTEL	0x8086
#define DSA_DEVICE_SPR		0x0b25 /* Sapphire Rapids; on vfio-pci's denylist (INTEL-SA-01084) */
#define DSA_DEVICE_GNRD		0x11fb /* Granite Rapids-D */
#define DSA_DEVICE_DMR		0x1212 /* Diamond Rapids */
#define DSA_CLASS		0x088000 /* base system peripheral, other */

/* Ids of what is not hardware: the device kit's model and the kernel's simulated device. No driver but ours knows them. */
#define DSA_SIM_VENDOR		0x1234
#define DSA_SIM_DEVICE		0xd5a0
#define DSA_SIM_DEVICE_TWIN	0xd5a1 /* kernel/svio_simdev: a neighbour in the function's IOMMU group; not a DSA */
#define DSA_SIM_SUBSYS_KIT	0x0001 /* drivers/dsa/dsa_model.c */
#define DSA_SIM_SUBSYS_KERNEL	0x0002 /* kernel/svio_simdev */

#define DSA_BAR_REGS		0 /* registers below */
#define DSA_BAR_PORTALS		2

/* Portals of WQ n: DSA_PORTAL_PAGES pages from n * DSA_PORTAL_STRIDE on (DSA ch. 3, work queue portals). */
#define DSA_PORTAL_SIZE		4096u
#define DSA_PORTAL_PAGES	4u
#define DSA_PORTAL_STRIDE	(DSA_PORTAL_SIZE * DSA_PORTAL_PAGES)
#define DSA_PORTAL_MSIX_UNLIMITED 0u /* completion interrupts by MSI-X; the limited ones obey a shared WQ's threshold */
#define DSA_PORTAL_MSIX_LIMITED	1u
#define DSA_PORTAL_IMS_UNLIMITED 2u
#define DSA_PORTAL_IMS_LIMITED	3u
#define DSA_PORTAL_SLOTS	64u

/* ---- registers, BAR 0 ----------------------------------------------------------------------------------------------- */

#define DSA_REG_VERSION		0x00 /* 32 bits */
#define DSA_VERSION_MAJOR(v)	(((v) >> 8) & 0xff)
#define DSA_VERSION_MINOR(v)	((v) & 0xff)
#define DSA_VERSION_1		0x100u
#define DSA_VERSION_2		0x200u

#define DSA_REG_GENCAP		0x10 /* 64 bits: general capabilities */
#define DSA_GENCAP_BLOCK_ON_FAULT (1ull << 0) /* WQs may be configured to wait for pages */
#define DSA_GENCAP_OVERLAP_COPY	(1ull << 1) /* memmove of overlapping ranges */
#define DSA_GENCAP_CACHE_MEM	(1ull << 2) /* cache control for memory operands */
#define DSA_GENCAP_CACHE_FLUSH	(1ull << 3)
#define DSA_GENCAP_CMD_CAP	(1ull << 4) /* DSA_REG_CMDCAP tells the commands; without it the first 13 exist */
#define DSA_GENCAP_DST_READBACK	(1ull << 8)
#define DSA_GENCAP_DRAIN_READBACK (1ull << 9)
#define DSA_GENCAP_MAX_XFER(v)	(1ull << (((v) >> 16) & 0x1f)) /* bytes of a transfer */
#define DSA_GENCAP_MAX_BATCH(v)	(1u << (((v) >> 21) & 0xf)) /* descriptors of a batch */
#define DSA_GENCAP_MAX_XFER_LSB	16
#define DSA_GENCAP_MAX_BATCH_LSB 21
#define DSA_GENCAP_CONFIG	(1ull << 31) /* WQCFG, GRPCFG … can be written */

#define DSA_REG_WQCAP		0x20 /* 64 bits: work queue capabilities */
#define DSA_WQCAP_TOTAL(v)	((__u32)((v) & 0xffff)) /* entries to share among the WQs */
#define DSA_WQCAP_WQS(v)	((__u32)(((v) >> 16) & 0xff))
#define DSA_WQCAP_WQCFG_BYTES(v) (32u << (((v) >> 24) & 0xf)) /* stride of the WQCFG table */
#define DSA_WQCAP_TOTAL_LSB	0
#define DSA_WQCAP_WQS_LSB	16
#define DSA_WQCAP_WQCFG_LSB	24
#define DSA_WQCAP_SHARED	(1ull << 48)
#define DSA_WQCAP_DEDICATED	(1ull << 49)
#define DSA_WQCAP_ATS_CONTROL	(1ull << 50) /* WQCFG may switch ATS off */
#define DSA_WQCAP_PRIORITY	(1ull << 51)
#define DSA_WQCAP_OCCUPANCY	(1ull << 52) /* WQCFG word 6 tells the occupancy */
#define DSA_WQCAP_OCCUPANCY_INT	(1ull << 53)
#define DSA_WQCAP_OP_CONFIG	(1ull << 54) /* operations may be allowed by WQ: words 8 to 15 of WQCFG */
#define DSA_WQCAP_PRS_CONTROL	(1ull << 55) /* WQCFG may switch page requests off */

#define DSA_REG_GRPCAP		0x30 /* 64 bits: group capabilities */
#define DSA_GRPCAP_GROUPS(v)	((__u32)((v) & 0xff))
#define DSA_GRPCAP_READ_BUFFERS(v) ((__u32)(((v) >> 8) & 0xff)) /* to share among the groups */
#define DSA_GRPCAP_READ_BUFFERS_LSB 8
#define DSA_GRPCAP_RDBUF_CONTROL (1ull << 16) /* GRPFLAGS: buffers reserved and allowed */
#define DSA_GRPCAP_RDBUF_LIMIT	(1ull << 17) /* GENCFG: a global limit */

#define DSA_REG_ENGCAP		0x38 /* 64 bits: engine capabilities */
#define DSA_ENGCAP_ENGINES(v)	((__u32)((v) & 0xff))

#define DSA_REG_OPCAP		0x40 /* 256 bits: bit n = operation n (enum dsa_op) */
#define DSA_OPCAP_WORDS		4

#define DSA_REG_OFFSETS		0x60 /* 128 bits: where the tables begin, in units of 0x100 bytes; first 64 bits: */
#define DSA_OFFSETS_GRPCFG(v)	((__u32)((v) & 0xffff) * 0x100u)
#define DSA_OFFSETS_WQCFG(v)	((__u32)(((v) >> 16) & 0xffff) * 0x100u)
#define DSA_OFFSETS_MSIXPERM(v)	((__u32)(((v) >> 32) & 0xffff) * 0x100u)
#define DSA_OFFSETS_IMS(v)	((__u32)(((v) >> 48) & 0xffff) * 0x100u)
#define DSA_OFFSETS_UNIT	0x100u

#define DSA_REG_GENCFG		0x80 /* 32 bits: general configuration; writable while the device is disabled */
#define DSA_GENCFG_RDBUF_LIMIT(v) ((v) & 0xff)

#define DSA_REG_GENCTRL		0x88 /* 32 bits: general control */
#define DSA_GENCTRL_SWERR_INT	(1u << 0) /* vector 0 when SWERROR becomes valid */
#define DSA_GENCTRL_HALT_INT	(1u << 1)

#define DSA_REG_GENSTS		0x90 /* 32 bits: general status */
#define DSA_GENSTS_STATE(v)	((v) & 3)
#define DSA_GENSTS_DISABLED	0u
#define DSA_GENSTS_ENABLED	1u
#define DSA_GENSTS_DRAIN	2u /* a command to disable is under way */
#define DSA_GENSTS_HALT		3u
#define DSA_GENSTS_RESET(v)	(((v) >> 2) & 3) /* in the halt state, what brings the device back */
#define DSA_GENSTS_RESET_CMD	0u
#define DSA_GENSTS_RESET_FLR	1u
#define DSA_GENSTS_RESET_WARM	2u
#define DSA_GENSTS_RESET_COLD	3u

#define DSA_REG_INTCAUSE	0x98 /* 32 bits: why vector 0 was sent; write ones to clear */
#define DSA_INTCAUSE_SWERR	(1u << 0)
#define DSA_INTCAUSE_CMD	(1u << 1) /* command completed */
#define DSA_INTCAUSE_OCCUPANCY	(1u << 2)
#define DSA_INTCAUSE_PERFMON	(1u << 3)
#define DSA_INTCAUSE_HALT	(1u << 4)
#define DSA_INTCAUSE_POLLED	(1u << 31) /* kernel/svio_simdev, see CMD */

/*
 * Commands (DSA, CMD and CMDSTS). One at a time: write when CMDSTS.active is clear, then read CMDSTS until it is clear again.
 * Drain and abort of everything wait for descriptors; a descriptor blocked by a fault delays them until the fault is answered.
 *
 * The registers of kernel/svio_simdev are memory that it polls: it sees a store some microseconds later. So that a driver does not
 * take the status of the command before for that of its own, it writes DSA_CMDSTS_ACTIVE to CMDSTS, then the command to CMD, then
 * reads CMDSTS until ACTIVE is clear. CMDSTS is read-only elsewhere (hardware and the kit drop the store), so one driver serves
 * all. Likewise what is written to INTCAUSE and SWERR clears the bits a moment later, not at once; and what is written must differ
 * from what is there: a driver writes causes without the reserved bit DSA_INTCAUSE_POLLED, which is there with any of them.
 */
#define DSA_REG_CMD		0xa0 /* 32 bits */
#define DSA_CMD(cmd, operand)	((__u32)(cmd) << 20 | (__u32)(operand))
#define DSA_CMD_CODE(v)		(((v) >> 20) & 0x1f)
#define DSA_CMD_OPERAND(v)	((v) & 0xfffff)
#define DSA_CMD_INT		(1u << 31) /* vector 0 and INTCAUSE_CMD on completion */
enum dsa_cmd {
	DSA_CMD_ENABLE_DEVICE = 1,
	DSA_CMD_DISABLE_DEVICE = 2,	/* drains first */
	DSA_CMD_DRAIN_ALL = 3,
	DSA_CMD_ABORT_ALL = 4,
	DSA_CMD_RESET_DEVICE = 5,	/* all registers to their defaults; drains nothing: descriptors are abandoned */
	DSA_CMD_ENABLE_WQ = 6,		/* operand: the WQ's number */
	DSA_CMD_DISABLE_WQ = 7,		/* this and the next three: DSA_CMD_WQ_OPERAND; drains first */
	DSA_CMD_DRAIN_WQ = 8,
	DSA_CMD_ABORT_WQ = 9,
	DSA_CMD_RESET_WQ = 10,		/* abandons its descriptors, disables it, and its WQCFG is 0 but for the size */
	DSA_CMD_DRAIN_PASID = 11,	/* operand: PASID */
	DSA_CMD_ABORT_PASID = 12,
	DSA_CMD_REQUEST_INT_HANDLE = 13, /* operand: MSI-X vector; CMDSTS.result is the handle */
	DSA_CMD_RELEASE_INT_HANDLE = 14,
};
/* WQs are named by a bit in bits 15:0, of the sixteen that bits 19:16 choose. */
#define DSA_CMD_WQ_OPERAND(wq)	(1u << ((wq) & 15) | ((__u32)(wq) >> 4) << 16)

#define DSA_REG_CMDSTS		0xa8 /* 32 bits */
#define DSA_CMDSTS_ERR(v)	((v) & 0xff) /* enum dsa_cmd_err */
#define DSA_CMDSTS_RESULT(v)	(((v) >> 8) & 0xffff)
#define DSA_CMDSTS_RESULT_LSB	8
#define DSA_CMDSTS_ACTIVE	(1u << 31)
enum dsa_cmd_err {
	DSA_CMD_OK = 0,
	DSA_CMD_BAD_COMMAND = 0x01,
	DSA_CMD_BAD_WQ = 0x02,
	DSA_CMD_HW_ERROR = 0x03,
	/* enable device */
	DSA_CMD_DEV_NOT_DISABLED = 0x10,
	DSA_CMD_DEV_CONFIG = 0x11,	/* unspecified error in the configuration */
	DSA_CMD_NO_BUS_MASTER = 0x12,	/* PCI command register: bus mastering is off */
	DSA_CMD_BAD_PASID_CAP = 0x13,	/* PASID, ATS and PRI enables do not fit together */
	DSA_CMD_WQ_SIZES = 0x14,	/* WQ sizes exceed the total, or a WQ of size 0 is in a group */
	DSA_CMD_GRP_WQ_TWICE = 0x15,	/* a WQ or an engine in two groups, or one that does not exist */
	DSA_CMD_GRP_NO_ENGINE = 0x16,	/* a group has WQs and no engine, or engines and no WQ */
	DSA_CMD_GRP_RDBUF = 0x17,	/* read buffer limits do not fit */
	DSA_CMD_GRP_RDBUF_TOTAL = 0x18,
	/* enable WQ */
	DSA_CMD_DEV_NOT_ENABLED = 0x20,
	DSA_CMD_WQ_NOT_DISABLED = 0x21,
	DSA_CMD_WQ_SIZE_ZERO = 0x22,	/* size 0, or the WQ is in no group */
	DSA_CMD_WQ_PRIORITY_ZERO = 0x23,
	DSA_CMD_WQ_MODE = 0x24,		/* dedicated and shared: not supported, or PASID missing for a shared one */
	DSA_CMD_WQ_BLOCK_ON_FAULT = 0x25, /* asked for, and not supported */
	DSA_CMD_WQ_PASID = 0x26,	/* PASID enable differs from the function's PASID capability in a way that cannot work */
	DSA_CMD_WQ_MAX_BATCH = 0x27,
	DSA_CMD_WQ_MAX_XFER = 0x28,
	/* disable device; disable, drain, abort, reset WQ */
	DSA_CMD_DIS_DEV_NOT_ENABLED = 0x31,
	DSA_CMD_WQ_NOT_ENABLED = 0x32,
	/* interrupt handles */
	DSA_CMD_BAD_INT_INDEX = 0x41,
	DSA_CMD_NO_INT_HANDLE = 0x42,
};

#define DSA_REG_CMDCAP		0xb0 /* 32 bits: bit n = command n; valid with GENCAP_CMD_CAP */

/*
 * Errors of descriptors that have no completion record, or whose record could not be written (DSA, SWERROR): 256 bits; cleared
 * by writing DSA_SWERR_VALID | DSA_SWERR_OVERFLOW to the first word. First 64 bits:
 */
#define DSA_REG_SWERR		0xc0
#define DSA_SWERR_VALID		(1ull << 0)
#define DSA_SWERR_OVERFLOW	(1ull << 1)
#define DSA_SWERR_DESC		(1ull << 2) /* the descriptor's fields are valid */
#define DSA_SWERR_WQ_VALID	(1ull << 3)
#define DSA_SWERR_BATCH		(1ull << 4) /* it was in a batch: index in the second word */
#define DSA_SWERR_WRITE		(1ull << 5) /* the fault was a write */
#define DSA_SWERR_ERROR(v)	((__u32)(((v) >> 8) & 0xff)) /* enum dsa_status */
#define DSA_SWERR_WQ(v)		((__u32)(((v) >> 16) & 0xff))
#define DSA_SWERR_OP(v)		((__u32)(((v) >> 32) & 0xff))
#define DSA_SWERR_PASID(v)	((__u32)(((v) >> 40) & 0xfffff))
#define DSA_SWERR_ERROR_LSB	8
#define DSA_SWERR_WQ_LSB	16
#define DSA_SWERR_OP_LSB	32
#define DSA_SWERR_PASID_LSB	40
#define DSA_SWERR1_BATCH_INDEX(v) ((__u32)((v) & 0xffff)) /* second 64 bits */
#define DSA_SWERR1_BAD_FLAGS(v)	((__u32)((v) >> 32))
/* third 64 bits: the fault address */

/* MSI-X permissions (DSA, MSIXPERM table): 8 bytes a vector, from OFFSETS.MSIXPERM on; first 32 bits: */
#define DSA_MSIXPERM_STRIDE	8u
#define DSA_MSIXPERM_PASID_EN	(1u << 3)
#define DSA_MSIXPERM_PASID_LSB	12

/* ---- groups (DSA, GRPCFG) ------------------------------------------------------------------------------------------- */

/* Entry n at OFFSETS.GRPCFG + n * DSA_GRPCFG_STRIDE; writable while the device is disabled. */
#define DSA_GRPCFG_STRIDE	64u
#define DSA_GRPCFG_WQS		0u  /* 4 × 64 bits: WQs of the group */
#define DSA_GRPCFG_ENGINES	32u /* 64 bits: engines of the group */
#define DSA_GRPCFG_FLAGS	40u /* 64 bits (32 in version 1) */
#define DSA_GRPFLAGS_TC_A(tc)	((__u32)(tc) & 7) /* traffic classes; 0 and 1 on hardware */
#define DSA_GRPFLAGS_TC_B(tc)	(((__u32)(tc) & 7) << 3)
#define DSA_GRPFLAGS_RDBUF_LIMIT (1u << 7) /* obey GENCFG's limit */
#define DSA_GRPFLAGS_RDBUF_RESERVED(n) (((__u32)(n) & 0xff) << 8)
#define DSA_GRPFLAGS_RDBUF_ALLOWED(n) (((__u32)(n) & 0xff) << 20) /* 0 is not valid where RDBUF_CONTROL exists */

/* ---- work queues (DSA, WQCFG) ---------------------------------------------------------------------------------------- */

/* Entry n at OFFSETS.WQCFG + n * DSA_WQCAP_WQCFG_BYTES(wqcap); words of 32 bits; writable while the WQ is disabled,
 * the size only while the device is. */
#define DSA_WQCFG_SIZE		0u  /* bits 15:0: entries */
#define DSA_WQCFG_THRESHOLD	4u  /* bits 15:0: of shared WQs */
#define DSA_WQCFG_MODE		8u
#define DSA_WQCFG_DEDICATED	(1u << 0)
#define DSA_WQCFG_BLOCK_ON_FAULT (1u << 1) /* allows the descriptors' flag */
#define DSA_WQCFG_ATS_DISABLE	(1u << 2)
#define DSA_WQCFG_PRS_DISABLE	(1u << 3)
#define DSA_WQCFG_PRIORITY(n)	(((__u32)(n) & 0xf) << 4) /* 1 to 15 */
#define DSA_WQCFG_PRIORITY_OF(v) (((v) >> 4) & 0xf)
#define DSA_WQCFG_PASID(n)	(((__u32)(n) & 0xfffff) << 8)
#define DSA_WQCFG_PASID_OF(v)	(((v) >> 8) & 0xfffff)
#define DSA_WQCFG_PASID_EN	(1u << 28) /* without it requests carry no PASID: addresses are IOVAs of the function */
#define DSA_WQCFG_PRIV		(1u << 29)
#define DSA_WQCFG_LIMITS	12u
#define DSA_WQCFG_MAX_XFER(sh)	((__u32)(sh) & 0x1f) /* log2 of bytes, at most the device's */
#define DSA_WQCFG_MAX_BATCH(sh)	(((__u32)(sh) & 0xf) << 5) /* log2 of descriptors */
#define DSA_WQCFG_MAX_XFER_OF(v) ((v) & 0x1f)
#define DSA_WQCFG_MAX_BATCH_OF(v) (((v) >> 5) & 0xf)
#define DSA_WQCFG_OCCUPANCY_INT	16u
#define DSA_WQCFG_OCCUPANCY_LIMIT 20u
#define DSA_WQCFG_STATE		24u /* read only */
#define DSA_WQCFG_OCCUPANCY(v)	((v) & 0xffff)
#define DSA_WQCFG_STATE_OF(v)	(((v) >> 30) & 3)
#define DSA_WQCFG_STATE_LSB	30
#define DSA_WQ_DISABLED		0u
#define DSA_WQ_ENABLED		1u
#define DSA_WQ_BUSY		2u  /* a command to disable it is under way */
#define DSA_WQCFG_OPS		32u /* 8 words with WQCAP_OP_CONFIG: bit n = operation n is allowed */

/* ---- descriptors (DSA ch. 8) ------------------------------------------------------------------------------------------ */

enum dsa_op {
	DSA_OP_NOOP = 0x00,
	DSA_OP_BATCH = 0x01,
	DSA_OP_DRAIN = 0x02,
	DSA_OP_MEMMOVE = 0x03,
	DSA_OP_FILL = 0x04,
	DSA_OP_COMPARE = 0x05,
	DSA_OP_COMPARE_PATTERN = 0x06,
	DSA_OP_DUALCAST = 0x09,
	DSA_OP_CRC = 0x10,
	DSA_OP_COPY_CRC = 0x11,
};

/* Flags common to all operations. */
#define DSA_FLAG_FENCE		(1u << 0) /* in a batch: begin when all before it have completed; stop the batch if one failed */
#define DSA_FLAG_BLOCK_ON_FAULT	(1u << 1) /* wait for pages; without it a fault ends the operation. The WQ must allow it */
#define DSA_FLAG_CR_VALID	(1u << 2) /* the completion record's address is valid */
#define DSA_FLAG_CR_REQUEST	(1u << 3) /* write it in any case, not only on errors */
#define DSA_FLAG_INT_REQUEST	(1u << 4) /* interrupt by int_handle */
#define DSA_FLAG_CHECK_RESULT	(1u << 7) /* compare: a result other than `expected` is DSA_ST_SUCCESS_FALSE */
#define DSA_FLAG_CACHE		(1u << 8) /* leave the destination in the cache */
#define DSA_FLAG_STRICT_ORDER	(1u << 13)
#define DSA_FLAG_DST_READBACK	(1u << 14)
#define DSA_FLAG_DST_STEER	(1u << 15)
/* Flags of one operation (bits 23:16). */
#define DSA_FLAG_CRC_SEED_MEM	(1u << 16) /* CRC: the seed is read from seed_addr, not taken from `seed` */
#define DSA_FLAG_CRC_RAW	(1u << 17) /* CRC: neither seed nor result are inverted and reflected */
#define DSA_FLAG_CRC_NO_REFLECT	(1u << 18) /* CRC: data bits are taken most significant first */

#define DSA_DESC_PASID(pasid)	((__u32)(pasid) & 0xfffff) /* dedicated WQs take the PASID from WQCFG and ignore this one */
#define DSA_DESC_PRIV		(1u << 31)
#define DSA_DESC_OP(op, flags)	((__u32)(op) << 24 | (__u32)(flags))
#define DSA_DESC_OP_OF(v)	((v) >> 24)
#define DSA_DESC_FLAGS_OF(v)	((v) & 0xffffff)

/*
 * What each operation takes; fields that it does not name are reserved and zero.
 *
 *	NOOP
 *	DRAIN		completes after all descriptors of the WQ submitted before it; not in a batch
 *	BATCH		desc_list (64-byte aligned), count from 2 to the WQ's maximum; no batch in a batch
 *	MEMMOVE		src, dst, size; ranges may overlap with GENCAP_OVERLAP_COPY
 *	FILL		pattern (8 bytes, repeated from dst's first byte on), dst, size
 *	COMPARE		src, src2, size, expected
 *	COMPARE_PATTERN	src, cmp_pattern (8 bytes, repeated), size, expected
 *	DUALCAST	src, dst, dst2, size; dst and dst2 agree in bits 11:0
 *	CRC		src, size, seed or seed_addr: CRC-32C (polynomial 0x11edc6f41, reflected). The seed is inverted before, the
 *			result after, so that seed 0 gives what crc32c(3) elsewhere gives, and a result is the seed that continues it
 *	COPY_CRC	CRC with dst
 */
struct dsa_desc {
	__le32 pasid;		/* DSA_DESC_PASID */
	__le32 op_flags;	/* DSA_DESC_OP */
	__le64 cr_addr;		/* completion record, DSA_CR_ALIGN aligned */
	union {
		__le64 src;
		__le64 desc_list;
		__le64 pattern;
		__le64 readback;
	};
	union {
		__le64 dst;
		__le64 src2;
		__le64 cmp_pattern;
		__le64 readback2;
	};
	union {
		__le32 size;	/* 1 to the WQ's maximum */
		__le32 count;
	};
	__le16 int_handle;
	__le16 reserved;
	union {
		__u8 op_specific[24];
		__u8 expected;	/* 0 equal, 1 not equal */
		__le64 dst2;
		struct {
			__le32 seed;
			__le32 crc_reserved;
			__le64 seed_addr;
		};
	};
} __attribute__((packed, aligned(64)));
_Static_assert(sizeof(struct dsa_desc) == 64, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, cr_addr) == 8, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, src) == 16, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, dst) == 24, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, size) == 32, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, int_handle) == 36, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, op_specific) == 40, "descriptor");
_Static_assert(__builtin_offsetof(struct dsa_desc, seed_addr) == 48, "descriptor");

/* ---- completion records (DSA ch. 8, Completion Record) ---------------------------------------------------------------- */

/*
 * The device writes the record in one piece; a model writes bytes 8 to 31 first and then bytes 0 to 7 with release order, so that a
 * poller that reads a status other than 0 (acquire) reads the rest whole. The driver zeroes the status before it submits.
 */
#define DSA_CR_ALIGN		32u
struct dsa_completion {
	__u8 status;		/* DSA_STATUS(), DSA_STATUS_WRITE */
	__u8 result;
	__u8 fault_info;	/* version 2; 0 in version 1 */
	__u8 reserved;
	union {
		__le32 bytes;	/* see DSA_ST_PAGE_FAULT */
		__le32 descs;	/* batch: descriptors completed */
	};
	__le64 fault_addr;	/* page faults: an address in the page */
	union {
		__u8 op_specific[16];
		__le32 bad_flags; /* DSA_ST_BAD_FLAGS: those that are not valid */
		__le64 crc;	/* bits 31:0 */
	};
} __attribute__((packed, aligned(32)));
_Static_assert(sizeof(struct dsa_completion) == 32, "completion record");
_Static_assert(__builtin_offsetof(struct dsa_completion, bytes) == 4, "completion record");
_Static_assert(__builtin_offsetof(struct dsa_completion, fault_addr) == 8, "completion record");
_Static_assert(__builtin_offsetof(struct dsa_completion, crc) == 16, "completion record");

#define DSA_STATUS(status)	((status) & 0x7f) /* enum dsa_status */
#define DSA_STATUS_WRITE	0x80 /* with page faults: the device wanted to write */

enum dsa_status {
	DSA_ST_NONE = 0x00, /* not completed */
	DSA_ST_SUCCESS = 0x01,
	DSA_ST_SUCCESS_FALSE = 0x02, /* DSA_FLAG_CHECK_RESULT, and the result is not the expected one */
	/*
	 * Partial completion because of a page fault: at fault_addr, without block-on-fault. What is done so far is told by
	 *
	 *	MEMMOVE		bytes; result 0: the first `bytes` are copied, continue behind them; result 1 (copied backwards, as
	 *			the ranges overlap so): the last `bytes` are copied, continue with size - bytes
	 *	FILL		bytes from dst on are written; where that is no multiple of 8, continue with the pattern rotated
	 *	DUALCAST	bytes of both destinations; more of one of them may be written
	 *	COMPARE, COMPARE_PATTERN  bytes from the start are equal; result 0
	 *	CRC, COPY_CRC	bytes; crc is the seed to continue with
	 */
	DSA_ST_PAGE_FAULT = 0x03,
	DSA_ST_PAGE_FAULT_IR = 0x04, /* the same, with block-on-fault: the page request was answered "invalid request" or "failure" */
	DSA_ST_BATCH_FAIL = 0x05, /* descriptors of the batch did not all complete with DSA_ST_SUCCESS; descs: those looked at */
	DSA_ST_BATCH_PAGE_FAULT = 0x06, /* fault in the descriptor list; descs are processed */
	DSA_ST_BAD_OP = 0x10, /* unknown, or not allowed here */
	DSA_ST_BAD_FLAGS = 0x11,
	DSA_ST_BAD_RESERVED = 0x12, /* a reserved field is not zero */
	DSA_ST_BAD_SIZE = 0x13, /* 0, or more than the WQ's maximum */
	DSA_ST_BAD_COUNT = 0x14, /* batch: less than 2, or more than the WQ's maximum */
	DSA_ST_OVERLAP = 0x16, /* ranges overlap that must not */
	DSA_ST_DUALCAST_BITS = 0x17, /* bits 11:0 of the destinations differ */
	DSA_ST_LIST_ALIGN = 0x18,
	DSA_ST_BAD_INT_HANDLE = 0x19,
	DSA_ST_CR_FAULT = 0x1a, /* SWERROR: the completion record could not be written */
	DSA_ST_CR_ALIGN = 0x1b,
	DSA_ST_ADDR_ALIGN = 0x1c,
	DSA_ST_BAD_PRIV = 0x1d,
	DSA_ST_TRAFFIC_CLASS = 0x1e,
	DSA_ST_READBACK_FAULT = 0x1f,
	DSA_ST_HW_ERROR = 0x20,
	DSA_ST_HW_ERROR_READBACK = 0x21,
	DSA_ST_TRANSLATION = 0x22, /* translation failed for another reason than a missing page: no bus mastering, no such PASID … */
};

/* Result of DSA_OP_COMPARE and DSA_OP_COMPARE_PATTERN: 0 equal, 1 not equal, and then `bytes` is the offset of the difference. */
#define DSA_RESULT_EQUAL	0
#define DSA_RESULT_DIFFERENT	1
/* Result of a partial DSA_OP_MEMMOVE */
#define DSA_RESULT_FORWARD	0
#define DSA_RESULT_BACKWARD	1

#endif
