/* SPDX-License-Identifier: BSD-3-Clause */
/* The driver's log for dirty tracking: what reads bring is marked when they complete, whatever way and with whatever result. */
#include <string.h>
#include "fake.h"
#include "unit.h"

#define PAGE  4096u
#define PAGES 64u

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint8_t *mem, *table;
static int last_status;

static void done(void *ctx, int status)
{
	(void)ctx;
	last_status = status;
}

static void start(bool sgl)
{
	const struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 16 };

	dev = fake_new();
	if (sgl)
		dev->id.sgls = svio_cpu_to_le32(1);
	CU_ASSERT_EQUAL_FATAL(svio_nvme_open(dev, fake_ioas(), NULL, &nvme), 0);
	CU_ASSERT_EQUAL_FATAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	CU_ASSERT_EQUAL_FATAL(svio_nvme_qp_create(nvme, &opts, &qp), 0);
	mem = fake_alloc(PAGES * PAGE);
	table = fake_dirty_table();
	CU_ASSERT_PTR_NOT_NULL_FATAL(fake_log);
	CU_ASSERT_PTR_EQUAL(fake_log->dev, dev);
}

static void stop(void)
{
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	CU_ASSERT_PTR_NULL(fake_log);
	svio_mem_free(mem);
	fake_free(dev);
}

static void on(void)
{
	fake_log->set(fake_log->ctx, table);
}

static void off(void)
{
	fake_log->set(fake_log->ctx, NULL);
}

static void run(void)
{
	for (uint32_t i = 0; i < 100 && svio_nvme_inflight(qp); i++) {
		fake_run(dev);
		fake_complete_all(dev);
		(void)svio_nvme_poll(qp, 0);
	}
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
}

/* Marked pages of mem, as a bitmap; and unmarks them. */
static uint64_t marked(void)
{
	uint8_t *marks = table + ((uintptr_t)mem >> SVIO_DIRTY_SHIFT);
	uint64_t got = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		got |= (uint64_t)marks[i] << i;
	memset(marks, 0, PAGES);
	return got;
}

static void read_pages(size_t off, uint32_t bytes)
{
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem + off, 0, bytes / FAKE_LBA, 0, done, NULL), 0);
}

static void test_off(void)
{
	start(false);
	read_pages(0, PAGE);
	run();
	CU_ASSERT_EQUAL(marked(), 0);
	on();
	off();
	read_pages(0, PAGE);
	run();
	CU_ASSERT_EQUAL(marked(), 0);
	stop();
}

static void test_reads(void)
{
	start(false);
	read_pages(PAGE, PAGE); /* in flight when tracking begins */
	on();
	run();
	CU_ASSERT_EQUAL(marked(), 1u << 1);
	read_pages(0, PAGE);
	CU_ASSERT_EQUAL(marked(), 0); /* not before it completes */
	run();
	CU_ASSERT_EQUAL(marked(), 1u << 0);
	read_pages(3 * PAGE - 512, 1024);
	run();
	CU_ASSERT_EQUAL(marked(), 3u << 2);
	read_pages(8 * PAGE + 4, 5 * PAGE);
	read_pages(20 * PAGE, 512);
	run();
	CU_ASSERT_EQUAL(marked(), 0x3fu << 8 | 1u << 20);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, 0, 8, 0, done, NULL), 0);
	CU_ASSERT_EQUAL(svio_nvme_flush(qp, &ns, done, NULL), 0);
	run();
	CU_ASSERT_EQUAL(marked(), 0); /* nothing of ours is written by these */
	stop();
}

static void test_scattered(void)
{
	struct svio_nvme_iov iov[40], odd[3];

	for (int sgl = 0; sgl < 2; sgl++) {
		uint64_t want = 0;

		start(sgl);
		on();
		for (uint32_t i = 0; i < 20; i++) {
			iov[i] = (struct svio_nvme_iov){ mem + (size_t)(3 * i % 64) * PAGE, PAGE };
			want |= UINT64_C(1) << (3 * i % 64);
		}
		CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 20, 0, 20 * PAGE / FAKE_LBA, 0, done, NULL), 0);
		run();
		CU_ASSERT_EQUAL(marked(), want);
		CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 1, 0, PAGE / FAKE_LBA, 0, done, NULL), 0);
		CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, &iov[1], 2, 0, 2 * PAGE / FAKE_LBA, 0, done, NULL), 0);
		run();
		CU_ASSERT_EQUAL(marked(), 1u | 1u << 3 | 1u << 6);
		/* Pieces that PRPs cannot say. */
		odd[0] = (struct svio_nvme_iov){ mem + 512, 512 };
		odd[1] = (struct svio_nvme_iov){ mem + 9 * PAGE + 512, 512 };
		odd[2] = (struct svio_nvme_iov){ mem + 31 * PAGE - 512, 1024 };
		if (sgl) {
			CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, odd, 3, 0, 4, 0, done, NULL), 0);
			run();
			CU_ASSERT_EQUAL(marked(), 1u | 1u << 9 | 3u << 30);
		}
		stop();
	}
}

static void test_errors(void)
{
	start(false);
	on();
	dev->auto_io = false;
	/* A part may have been written before it failed. */
	read_pages(5 * PAGE, PAGE);
	fake_run(dev);
	fake_complete(dev, 0, NVME_SCT_MEDIA << 8 | 0x81 /* Unrecovered Read Error */);
	(void)svio_nvme_poll(qp, 0);
	CU_ASSERT_NOT_EQUAL(last_status, 0);
	CU_ASSERT_EQUAL(marked(), 1u << 5);
	/* What never completes, and ends with its queue. */
	read_pages(7 * PAGE, PAGE);
	last_status = 0x7777;
	svio_nvme_qp_destroy(qp);
	qp = NULL;
	CU_ASSERT_NOT_EQUAL(last_status, 0x7777);
	CU_ASSERT_EQUAL(marked(), 1u << 7);
	stop();
}

/* A queue pair that is created meanwhile is tracked too; rings are marked when asked. */
static void test_queues(void)
{
	struct svio_nvme_qp *first;
	size_t n = 0;

	start(false);
	on();
	first = qp;
	CU_ASSERT_EQUAL_FATAL(svio_nvme_qp_create(nvme, NULL, &qp), 0);
	read_pages(2 * PAGE, PAGE);
	run();
	CU_ASSERT_EQUAL(marked(), 1u << 2);
	table = fake_dirty_table();
	fake_log->touch(fake_log->ctx, table);
	CU_ASSERT_EQUAL(marked(), 0);
	for (size_t i = 0; i < FAKE_ARENA / PAGE; i++)
		n += table[(svio_ioas_hot_range(fake_ioas())->va >> SVIO_DIRTY_SHIFT) + i];
	CU_ASSERT_TRUE(n >= 7); /* two rings and five of the controller's pages */
	svio_nvme_qp_destroy(first);
	stop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "nothing is marked while tracking is off", test_off },
		{ "reads are marked at completion: pieces of pages, several pages, lists", test_reads },
		{ "scattered reads: PRP lists and SGLs", test_scattered },
		{ "failed and canceled reads are marked too", test_errors },
		{ "queues that come, and rings", test_queues },
		{ NULL, NULL },
	};

	return unit_run("nvme/dirty", tests);
}
