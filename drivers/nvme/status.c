/* SPDX-License-Identifier: BSD-3-Clause */
/* Status codes in words (1.4 §4.6.1.2, figures 127 to 131). */
#include <string.h>
#include "nvme_priv.h"

struct text {
	uint16_t code;
	const char *text;
};

#define GEN(sc, t) { SVIO_NVME_SC(NVME_SCT_GENERIC, sc), "generic: " t }
#define CMD(sc, t) { SVIO_NVME_SC(NVME_SCT_COMMAND, sc), "command: " t }
#define MED(sc, t) { SVIO_NVME_SC(NVME_SCT_MEDIA, sc), "media: " t }

static const struct text texts[] = {
	GEN(NVME_SC_SUCCESS, "success"),
	GEN(NVME_SC_INVALID_OPCODE, "invalid opcode"),
	GEN(NVME_SC_INVALID_FIELD, "invalid field in command"),
	GEN(NVME_SC_CID_CONFLICT, "command id conflict"),
	GEN(NVME_SC_DATA_TRANSFER, "data transfer error"),
	GEN(NVME_SC_POWER_LOSS, "aborted, power loss"),
	GEN(NVME_SC_INTERNAL, "internal error"),
	GEN(NVME_SC_ABORT_REQUESTED, "abort requested"),
	GEN(NVME_SC_ABORT_SQ_DELETED, "aborted, queue deleted"),
	GEN(NVME_SC_FUSED_FAILED, "aborted, fused command failed"),
	GEN(NVME_SC_FUSED_MISSING, "aborted, fused command missing"),
	GEN(NVME_SC_INVALID_NS, "invalid namespace or format"),
	GEN(NVME_SC_SEQUENCE, "command sequence error"),
	GEN(NVME_SC_SGL_SEGMENT, "invalid SGL segment descriptor"),
	GEN(NVME_SC_SGL_COUNT, "invalid number of SGL descriptors"),
	GEN(NVME_SC_SGL_DATA_LEN, "data SGL length invalid"),
	GEN(NVME_SC_SGL_MD_LEN, "metadata SGL length invalid"),
	GEN(NVME_SC_SGL_TYPE, "SGL descriptor type invalid"),
	GEN(NVME_SC_CMB_USE, "invalid use of controller memory buffer"),
	GEN(NVME_SC_PRP_OFFSET, "PRP offset invalid"),
	GEN(NVME_SC_ATOMIC_WRITE, "atomic write unit exceeded"),
	GEN(NVME_SC_OPERATION_DENIED, "operation denied"),
	GEN(NVME_SC_SGL_OFFSET, "SGL offset invalid"),
	GEN(NVME_SC_HOST_ID, "host identifier inconsistent"),
	GEN(NVME_SC_KEEP_ALIVE_EXPIRED, "keep alive timer expired"),
	GEN(NVME_SC_KEEP_ALIVE_INVALID, "keep alive timeout invalid"),
	GEN(NVME_SC_PREEMPT_ABORT, "aborted, preempt and abort"),
	GEN(NVME_SC_SANITIZE_FAILED, "sanitize failed"),
	GEN(NVME_SC_SANITIZE_BUSY, "sanitize in progress"),
	GEN(NVME_SC_SGL_GRANULARITY, "SGL data block granularity invalid"),
	GEN(NVME_SC_CMB_QUEUE, "command not supported for queue in controller memory"),
	GEN(NVME_SC_NS_WRITE_PROTECTED, "namespace is write protected"),
	GEN(NVME_SC_INTERRUPTED, "command interrupted"),
	GEN(NVME_SC_TRANSIENT, "transient transport error"),
	GEN(NVME_SC_LBA_RANGE, "LBA out of range"),
	GEN(NVME_SC_CAPACITY, "capacity exceeded"),
	GEN(NVME_SC_NS_NOT_READY, "namespace not ready"),
	GEN(NVME_SC_RESERVATION, "reservation conflict"),
	GEN(NVME_SC_FORMAT_BUSY, "format in progress"),
	CMD(NVME_SC_CQ_INVALID, "completion queue invalid"),
	CMD(NVME_SC_QID_INVALID, "invalid queue identifier"),
	CMD(NVME_SC_QSIZE_INVALID, "invalid queue size"),
	CMD(NVME_SC_ABORT_LIMIT, "abort command limit exceeded"),
	CMD(NVME_SC_AER_LIMIT, "asynchronous event request limit exceeded"),
	CMD(NVME_SC_FW_SLOT, "invalid firmware slot"),
	CMD(NVME_SC_FW_IMAGE, "invalid firmware image"),
	CMD(NVME_SC_INTERRUPT_VECTOR, "invalid interrupt vector"),
	CMD(NVME_SC_LOG_PAGE, "invalid log page"),
	CMD(NVME_SC_FORMAT, "invalid format"),
	CMD(NVME_SC_FW_NEEDS_RESET, "firmware activation needs a reset"),
	CMD(NVME_SC_QUEUE_DELETION, "invalid queue deletion"),
	CMD(NVME_SC_FEATURE_NOT_SAVEABLE, "feature not saveable"),
	CMD(NVME_SC_FEATURE_NOT_CHANGEABLE, "feature not changeable"),
	CMD(NVME_SC_FEATURE_NOT_NS, "feature not namespace specific"),
	CMD(NVME_SC_FW_NEEDS_SUBSYSTEM_RESET, "firmware activation needs a subsystem reset"),
	CMD(NVME_SC_OVERLAPPING_RANGE, "overlapping range"),
	CMD(NVME_SC_NS_CAPACITY, "namespace insufficient capacity"),
	CMD(NVME_SC_NS_ID_UNAVAILABLE, "namespace identifier unavailable"),
	CMD(NVME_SC_NS_ATTACHED, "namespace already attached"),
	CMD(NVME_SC_NS_PRIVATE, "namespace is private"),
	CMD(NVME_SC_NS_NOT_ATTACHED, "namespace not attached"),
	CMD(NVME_SC_THIN_PROVISIONING, "thin provisioning not supported"),
	CMD(NVME_SC_CONTROLLER_LIST, "controller list invalid"),
	CMD(NVME_SC_SELF_TEST_BUSY, "device self-test in progress"),
	CMD(NVME_SC_CONTROLLER_ID, "invalid controller identifier"),
	CMD(NVME_SC_CONFLICTING_ATTRIBUTES, "conflicting attributes"),
	CMD(NVME_SC_PROTECTION_INFO, "invalid protection information"),
	CMD(NVME_SC_READ_ONLY_RANGE, "attempted write to read only range"),
	MED(NVME_SC_WRITE_FAULT, "write fault"),
	MED(NVME_SC_READ_ERROR, "unrecovered read error"),
	MED(NVME_SC_GUARD, "guard check error"),
	MED(NVME_SC_APPTAG, "application tag check error"),
	MED(NVME_SC_REFTAG, "reference tag check error"),
	MED(NVME_SC_COMPARE, "compare failure"),
	MED(NVME_SC_ACCESS_DENIED, "access denied"),
	MED(NVME_SC_UNWRITTEN, "deallocated or unwritten block"),
};

const char *svio_nvme_status_text(int status)
{
	static const char *const types[8] = {
		"generic: unknown status code",	 "command: unknown status code",
		"media: unknown status code",	 "path: unknown status code",
		"reserved status code type",	 "reserved status code type",
		"reserved status code type",	 "vendor specific status code",
	};

	switch (status) { /* those that we produce; strerror() may use a buffer */
	case -ENODEV:
		return "the device is gone";
	case -ECANCELED:
		return "canceled by reset or close";
	case -ETIMEDOUT:
		return "timed out";
	case -EFAULT:
		return "buffer no longer mapped";
	default:
		break;
	}
	if (status < 0) {
		const char *text = strerrordesc_np(-status);

		return text ? text : "unknown error";
	}
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(texts); i++)
		if (texts[i].code == status)
			return texts[i].text;
	return types[(status >> 8) & 7];
}
