/* SPDX-License-Identifier: BSD-3-Clause */
/* Opening: what is asked of the controller, and each way in which it may refuse, explained and without residue. */
#include <stdio.h>
#include <string.h>
#include "fake.h"
#include "unit.h"

/* Open must fail with err, say `words`, and leave the device stopped and nothing allocated. */
static void expect(struct svio_device *dev, int err, const char *words)
{
	size_t before = fake_mem_out();
	struct svio_nvme *nvme = (void *)dev;
	int r = svio_nvme_open(dev, fake_ioas(), NULL, &nvme);

	CU_ASSERT_EQUAL(r, err);
	CU_ASSERT_PTR_NULL(nvme);
	if (!strstr(svio_last_error(), words)) {
		CU_FAIL("wrong explanation");
		printf("  said: %s\n", svio_last_error());
	}
	CU_ASSERT_EQUAL(fake_mem_out(), before);
	CU_ASSERT_TRUE(!dev->master || !(dev->csts & NVME_CSTS_RDY));
	dev->bad_dma = 0;
	fake_free(dev);
}

static void test_good(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme_info info;
	struct svio_nvme_ns ns;
	struct svio_nvme *nvme = fake_open(dev, NULL);
	uint32_t nsids[4], count = 4;

	CU_ASSERT_EQUAL(dev->cc & NVME_CC_EN, 1);
	CU_ASSERT_TRUE(dev->master);
	CU_ASSERT_TRUE(svio_nvme_ready(nvme));
	fake_run(dev);
	CU_ASSERT_EQUAL(dev->num_aers, 4);
	svio_nvme_get_info(nvme, &info);
	CU_ASSERT_STRING_EQUAL(info.serial, "FAKE1");
	CU_ASSERT_STRING_EQUAL(info.model, "Fake controller");
	CU_ASSERT_EQUAL(info.max_queues, FAKE_QUEUES);
	CU_ASSERT_EQUAL(info.max_queue_depth, 1024);
	CU_ASSERT_EQUAL(info.max_transfer, 2u << 20);
	CU_ASSERT_TRUE(info.sgl && info.dsm && info.write_zeroes && !info.shadow_doorbells);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	CU_ASSERT_EQUAL(ns.blocks, FAKE_BLOCKS);
	CU_ASSERT_EQUAL(ns.lba_size, 512);
	CU_ASSERT_EQUAL(ns.lba_shift, 9);
	CU_ASSERT_EQUAL(ns.uuid[3], 0x5a);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 2, &ns), -ENOENT); /* allocated, inactive */
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 7, &ns), -ENOENT);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 0, &ns), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_ns_list(nvme, nsids, &count), 0);
	CU_ASSERT_EQUAL(count, 1);
	CU_ASSERT_EQUAL(nsids[0], 1);
	svio_nvme_close(nvme);
	CU_ASSERT_EQUAL(dev->shutdowns, 1);
	CU_ASSERT_EQUAL(dev->cc & NVME_CC_EN, 0);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

/* Found enabled, as a killed process leaves it: disabled first, and no DMA to the old queues. */
static void test_found_enabled(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme *nvme = fake_open(dev, NULL);
	struct svio_nvme *second;

	second = fake_open(dev, NULL);
	CU_ASSERT_EQUAL(dev->enables, 2);
	svio_nvme_close(second);
	svio_device_event_set(dev, SVIO_EV_GONE); /* the first must not touch it any more */
	svio_nvme_close(nvme);
	dev->hook = NULL;
	fake_free(dev);
}

static void test_slow(void)
{
	struct svio_device *dev = fake_new();

	dev->ready_after = 50;
	svio_nvme_close(fake_open(dev, NULL));
	fake_free(dev);
}

static void test_unmapped_registers(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme *nvme;

	dev->no_regs_mapping = true;
	nvme = fake_open(dev, NULL);
	CU_ASSERT_TRUE(svio_nvme_ready(nvme));
	svio_nvme_qp_destroy(fake_qp(nvme, 16));
	svio_nvme_close(nvme);
	fake_free(dev);
}

static void test_strides(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme *nvme;
	struct svio_nvme_qp *qp[3];

	dev->cap |= UINT64_C(3) << NVME_CAP_DSTRD_SHIFT;
	nvme = fake_open(dev, NULL);
	for (int i = 0; i < 3; i++)
		qp[i] = fake_qp(nvme, 8);
	CU_ASSERT_TRUE(dev->sq[3].exists);
	for (int i = 0; i < 3; i++)
		svio_nvme_qp_destroy(qp[i]);
	svio_nvme_close(nvme);
	fake_free(dev);
}

static void test_large_pages(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme *nvme;

	dev->cap |= UINT64_C(2) << NVME_CAP_MPSMIN_SHIFT; /* 16 KiB at least */
	nvme = fake_open(dev, NULL);
	CU_ASSERT_EQUAL((dev->cc & NVME_CC_MPS_MASK) >> NVME_CC_MPS_SHIFT, 2);
	svio_nvme_qp_destroy(fake_qp(nvme, 8));
	svio_nvme_close(nvme);
	fake_free(dev);
}

static void test_class(void)
{
	struct svio_device *dev = fake_new();

	dev->info.class_code = 0x020000;
	expect(dev, -ENODEV, "not an NVMe controller (class 020000");
}

static void test_dead(void)
{
	struct svio_device *dev = fake_new();

	dev->dead_regs = true;
	fake_run(dev);
	expect(dev, -ENODEV, "all ones");
}

static void test_css(void)
{
	struct svio_device *dev = fake_new();

	dev->cap = (dev->cap & ~(UINT64_C(0xff) << NVME_CAP_CSS_SHIFT)) | (uint64_t)NVME_CAP_CSS_ADMIN << NVME_CAP_CSS_SHIFT;
	fake_run(dev);
	expect(dev, -ENOTSUP, "no NVM command set");
}

static void test_pages(void)
{
	struct svio_device *dev = fake_new();

	dev->cap |= UINT64_C(5) << NVME_CAP_MPSMIN_SHIFT | UINT64_C(8) << NVME_CAP_MPSMAX_SHIFT;
	fake_run(dev);
	expect(dev, -ENOTSUP, "128 KiB");
}

static void test_fatal(void)
{
	struct svio_device *dev = fake_new();

	dev->cfs_on_enable = true;
	expect(dev, -EIO, "controller fatal status");
}

static void test_never_ready(void)
{
	struct svio_device *dev = fake_new();
	uint64_t start = fake_now;

	dev->never_ready = true;
	expect(dev, -ETIMEDOUT, "not ready 1000 ms after it was enabled (CAP.TO 2");
	CU_ASSERT_TRUE(fake_now - start >= UINT64_C(1000000000));
	CU_ASSERT_TRUE(fake_now - start < UINT64_C(3000000000));
}

static void test_never_off(void)
{
	struct svio_device *dev = fake_new();

	dev->cc = NVME_CC_EN;
	dev->csts = NVME_CSTS_RDY;
	dev->never_off = true;
	fake_run(dev);
	expect(dev, -ETIMEDOUT, "still ready 1000 ms after it was disabled");
}

static void test_identify_fails(void)
{
	struct svio_device *dev = fake_new();

	dev->fail_opcode = NVME_ADM_IDENTIFY;
	dev->fail_status = NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INTERNAL);
	expect(dev, -EIO, "Identify Controller failed: generic: internal error");
}

static void test_identify_mute(void)
{
	struct svio_device *dev = fake_new();

	dev->mute_opcode = NVME_ADM_IDENTIFY;
	expect(dev, -ETIMEDOUT, "admin command 0x06 was not answered");
}

static void test_queues_refused(void)
{
	struct svio_device *dev = fake_new();

	dev->fail_opcode = NVME_ADM_SET_FEATURES;
	dev->fail_status = NVME_STATUS_MAKE(NVME_SCT_GENERIC, NVME_SC_INVALID_FIELD);
	expect(dev, -EIO, "Number of Queues failed");
}

static void test_entry_sizes(void)
{
	struct svio_device *dev = fake_new();

	dev->id.sqes = 0x77;
	expect(dev, -ENOTSUP, "SQES 0x77");
}

/* Counts that a controller makes up: never more than it was asked for, never more than doorbells. */
static void test_grants(void)
{
	static const struct {
		uint32_t dw0, want;
	} rows[] = { { 0x00000000u + (1u << 16), 1 }, { 0xffffffffu, 5 }, { 3u << 16 | 1, 2 }, { 2u << 16 | 2, 3 } };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(rows); i++) {
		struct svio_nvme_opts opts = { .size = sizeof(opts), .max_queues = 5 };
		struct svio_device *dev = fake_new();
		struct svio_nvme_info info;
		struct svio_nvme *nvme;

		dev->grant = rows[i].dw0;
		nvme = fake_open(dev, &opts);
		svio_nvme_get_info(nvme, &info);
		CU_ASSERT_EQUAL(info.max_queues, rows[i].want);
		svio_nvme_close(nvme);
		fake_free(dev);
	}
}

/* Queue creation: refusals and limits. */
static void test_qp(void)
{
	struct svio_device *dev = fake_new();
	struct svio_nvme *nvme = fake_open(dev, NULL);
	struct svio_nvme_qp *qp[FAKE_QUEUES], *extra;
	size_t before = fake_mem_out();

	for (unsigned int i = 0; i < FAKE_QUEUES; i++)
		qp[i] = fake_qp(nvme, 1u << i);
	CU_ASSERT_EQUAL(svio_nvme_qp_create(nvme, NULL, &extra), -ENOSPC);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "all 8 I/O queue pairs are in use"));
	CU_ASSERT_EQUAL(dev->sq[8].entries, 128);
	CU_ASSERT_EQUAL(dev->sq[1].entries, 2);
	svio_nvme_qp_destroy(qp[3]);
	CU_ASSERT_FALSE(dev->sq[4].exists || dev->cq[4].exists);
	qp[3] = fake_qp(nvme, 100000);
	CU_ASSERT_EQUAL(dev->sq[4].entries, 1024); /* CAP.MQES */
	for (unsigned int i = 0; i < FAKE_QUEUES; i++)
		svio_nvme_qp_destroy(qp[i]);
	CU_ASSERT_EQUAL(fake_mem_out(), before);

	dev->fail_opcode = NVME_ADM_CREATE_SQ;
	dev->fail_status = NVME_STATUS_MAKE(NVME_SCT_COMMAND, NVME_SC_QSIZE_INVALID);
	CU_ASSERT_EQUAL(svio_nvme_qp_create(nvme, NULL, &extra), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "invalid queue size"));
	CU_ASSERT_FALSE(dev->cq[1].exists);
	CU_ASSERT_EQUAL(fake_mem_out(), before);
	dev->fail_opcode = -1;
	svio_nvme_qp_destroy(fake_qp(nvme, 0));
	svio_nvme_close(nvme);
	fake_free(dev);
}

static const struct unit_test tests[] = {
	{ "a good controller: registers, identify, namespaces, close", test_good },
	{ "a controller found enabled is stopped first", test_found_enabled },
	{ "a controller that takes its time", test_slow },
	{ "registers by region access, doorbells mapped", test_unmapped_registers },
	{ "doorbell stride", test_strides },
	{ "pages of 16 KiB", test_large_pages },
	{ "not NVMe", test_class },
	{ "registers all ones", test_dead },
	{ "no NVM command set", test_css },
	{ "pages too large", test_pages },
	{ "controller fatal status", test_fatal },
	{ "never ready", test_never_ready },
	{ "never off", test_never_off },
	{ "Identify fails", test_identify_fails },
	{ "Identify is not answered", test_identify_mute },
	{ "number of queues refused", test_queues_refused },
	{ "queue entries of other sizes", test_entry_sizes },
	{ "what the controller grants is bounded", test_grants },
	{ "queue pairs: depths, limits, refusal", test_qp },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/init", tests);
}
