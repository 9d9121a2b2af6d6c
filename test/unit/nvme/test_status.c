/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>
#include "nvme_spec.h"
#include "svio_nvme.h"
#include "unit.h"

static void test_known(void)
{
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(0), "generic: success");
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(SVIO_NVME_SC(0, 2)), "generic: invalid field in command");
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(SVIO_NVME_SC(0, 0x80)), "generic: LBA out of range");
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(SVIO_NVME_SC(1, 0x80)), "command: conflicting attributes");
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(SVIO_NVME_SC(2, 0x81)), "media: unrecovered read error");
}

/* Every value, whatever a device or a caller makes up, has a text. */
static void test_every(void)
{
	for (int s = -5000; s < 0x900; s++) {
		const char *t = svio_nvme_status_text(s);

		CU_ASSERT_FATAL(t != NULL && t[0] != '\0');
	}
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(SVIO_NVME_SC(7, 1)), "vendor specific status code");
	CU_ASSERT_STRING_EQUAL(svio_nvme_status_text(-ENODEV), "the device is gone");
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_nvme_status_text(-EIO), "/output error"));
}

/* The status field of a completion and the code that users see (1.4 §4.6.1). */
static void test_fields(void)
{
	uint16_t st = NVME_STATUS_MAKE(NVME_SCT_MEDIA, NVME_SC_READ_ERROR);

	CU_ASSERT_EQUAL(NVME_STATUS_SCT(st), NVME_SCT_MEDIA);
	CU_ASSERT_EQUAL(NVME_STATUS_SC(st), NVME_SC_READ_ERROR);
	CU_ASSERT_EQUAL((int)NVME_STATUS_CODE(st | NVME_CQE_PHASE | NVME_STATUS_DNR), SVIO_NVME_SC(2, 0x81));
}

static const struct unit_test tests[] = {
	{ "codes of each type have the specification's words", test_known },
	{ "every status has a text", test_every },
	{ "status field and status code", test_fields },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/status", tests);
}
