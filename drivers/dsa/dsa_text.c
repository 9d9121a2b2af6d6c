/* SPDX-License-Identifier: BSD-3-Clause */
/* Codes in words. */
#include <string.h>
#include "dsa_priv.h"

const char *svio_dsa_status_text(int status)
{
	static const char *const texts[] = {
		[0] = "success",
		[DSA_ST_SUCCESS] = "success",
		[DSA_ST_SUCCESS_FALSE] = "success, not the expected result",
		[DSA_ST_PAGE_FAULT] = "stopped at a page fault",
		[DSA_ST_PAGE_FAULT_IR] = "a page request was refused",
		[DSA_ST_BATCH_FAIL] = "an operation of the batch failed",
		[DSA_ST_BATCH_PAGE_FAULT] = "page fault in the batch's list",
		[DSA_ST_BAD_OP] = "unknown or forbidden operation",
		[DSA_ST_BAD_FLAGS] = "invalid flags",
		[DSA_ST_BAD_RESERVED] = "a reserved field is not zero",
		[DSA_ST_BAD_SIZE] = "invalid size",
		[DSA_ST_BAD_COUNT] = "invalid number of operations in a batch",
		[DSA_ST_OVERLAP] = "ranges overlap that must not",
		[DSA_ST_DUALCAST_BITS] = "dualcast destinations differ in bits 11:0",
		[DSA_ST_LIST_ALIGN] = "the batch's list is not aligned",
		[DSA_ST_BAD_INT_HANDLE] = "invalid interrupt handle",
		[DSA_ST_CR_FAULT] = "the completion record cannot be written",
		[DSA_ST_CR_ALIGN] = "the completion record is not aligned",
		[DSA_ST_ADDR_ALIGN] = "an address is not aligned",
		[DSA_ST_BAD_PRIV] = "invalid privilege",
		[DSA_ST_TRAFFIC_CLASS] = "invalid traffic class",
		[DSA_ST_READBACK_FAULT] = "page fault of a readback",
		[DSA_ST_HW_ERROR] = "hardware error",
		[DSA_ST_HW_ERROR_READBACK] = "hardware error of a readback",
		[DSA_ST_TRANSLATION] = "address translation failed (PASID, bus mastering or IOMMU)",
	};

	switch (status) {
	case -EFAULT:
		return "page fault at an address where there is nothing";
	case -ECANCELED:
		return "canceled: the device was reset, or the queue destroyed";
	case -ENODEV:
		return "the device is gone";
	case -ETIMEDOUT:
		return "the device hung";
	default:
		break;
	}
	if (status < 0)
		return strerror(-status);
	if ((size_t)status < SVIO_ARRAY_SIZE(texts) && texts[status])
		return texts[status];
	return "unknown completion status";
}

const char *dsa_cmd_text(int err)
{
	static const struct {
		int err;
		const char *text;
	} texts[] = {
		{ -ETIMEDOUT, "it does not answer" },
		{ -ENODEV, "registers read all ones" },
		{ -ECANCELED, "given up" },
		{ DSA_CMD_BAD_COMMAND, "the device does not know the command" },
		{ DSA_CMD_BAD_WQ, "no such work queue" },
		{ DSA_CMD_HW_ERROR, "hardware error" },
		{ DSA_CMD_DEV_NOT_DISABLED, "the device is not disabled" },
		{ DSA_CMD_DEV_CONFIG, "the configuration is wrong" },
		{ DSA_CMD_NO_BUS_MASTER, "bus mastering is off" },
		{ DSA_CMD_BAD_PASID_CAP, "PASID, ATS and PRI enables do not fit together" },
		{ DSA_CMD_WQ_SIZES, "the queues' sizes exceed the device's entries" },
		{ DSA_CMD_GRP_WQ_TWICE, "a queue or engine in two groups" },
		{ DSA_CMD_GRP_NO_ENGINE, "a group without engine or queue" },
		{ DSA_CMD_GRP_RDBUF, "read buffers do not fit" },
		{ DSA_CMD_GRP_RDBUF_TOTAL, "read buffers exceed the device's" },
		{ DSA_CMD_DEV_NOT_ENABLED, "the device is not enabled" },
		{ DSA_CMD_WQ_NOT_DISABLED, "the queue is not disabled" },
		{ DSA_CMD_WQ_SIZE_ZERO, "the queue has no entries, or is in no group" },
		{ DSA_CMD_WQ_PRIORITY_ZERO, "the queue has priority 0" },
		{ DSA_CMD_WQ_MODE, "the queue's mode is not supported" },
		{ DSA_CMD_WQ_BLOCK_ON_FAULT, "block-on-fault is not supported" },
		{ DSA_CMD_WQ_PASID, "the function's PASID capability is not enabled as the queue needs it; with VFIO, the kernel driver "
				    "enables it (svio_vfio_pci)" },
		{ DSA_CMD_WQ_MAX_BATCH, "the queue's largest batch is beyond the device's" },
		{ DSA_CMD_WQ_MAX_XFER, "the queue's largest transfer is beyond the device's" },
		{ DSA_CMD_DIS_DEV_NOT_ENABLED, "the device is not enabled" },
		{ DSA_CMD_WQ_NOT_ENABLED, "the queue is not enabled" },
	};

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(texts); i++)
		if (texts[i].err == err)
			return texts[i].text;
	return "unknown error of a command";
}
