/* SPDX-License-Identifier: BSD-3-Clause */
/* The edu model against QEMU's documentation of the device. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client.h"

#define RW (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)

static void wait_dma(struct tc *tc)
{
	for (int i = 0; i < 1000 && (tc_r32(tc, 0x98) & 1); i++)
		;
	CU_ASSERT_EQUAL(tc_r32(tc, 0x98) & 1, 0);
}

static void dma(struct tc *tc, uint64_t src, uint64_t dst, uint64_t n, uint64_t cmd)
{
	tc_w64(tc, 0x80, src);
	tc_w64(tc, 0x88, dst);
	tc_w64(tc, 0x90, n);
	tc_w64(tc, 0x98, cmd);
	wait_dma(tc);
}

static void test_registers(void)
{
	uint64_t v64 = 0;
	struct tc tc;

	tc_start(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0, 4), 0x11e81234);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 0x010000edu);
	tc_w32(&tc, 4, 0x12345678);
	CU_ASSERT_EQUAL(tc_r32(&tc, 4), ~0x12345678u);
	tc_w32(&tc, 8, 10);
	while (tc_r32(&tc, 0x20) & 1)
		;
	CU_ASSERT_EQUAL(tc_r32(&tc, 8), 3628800);
	tc_w32(&tc, 8, 0);
	tc_rounds(&tc, 2);
	CU_ASSERT_EQUAL(tc_r32(&tc, 8), 1);
	tc_w32(&tc, 8, UINT32_MAX); /* must not take 2^32 steps */
	tc_rounds(&tc, 2);
	CU_ASSERT_EQUAL(tc_r32(&tc, 8), 0);
	/* widths: 4 below 0x80; anything else reads as ones and writes nothing */
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0, &v64, 8), 0);
	CU_ASSERT_EQUAL(v64, UINT64_MAX);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 4, &v64, 1), 0);
	CU_ASSERT_EQUAL(v64 & 0xff, 0xff);
	tc_w64(&tc, 0x80, 0x1122334455667788);
	CU_ASSERT_EQUAL(tc_read(&tc, 0, 0x80, &v64, 8), 0);
	CU_ASSERT_EQUAL(v64, 0x1122334455667788);
	tc_stop(&tc);
}

static void test_interrupts(void)
{
	int pin = tc_eventfd(), msi = tc_eventfd();
	struct tc tc;

	tc_start(&tc, "edu", 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 0, 0, 1, &pin, 1), 0);
	tc_w32(&tc, 0x60, 0x30);
	CU_ASSERT_EQUAL(tc_signalled(pin), 1);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x24), 0x30);
	tc_w32(&tc, 0x64, 0x10);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_UNMASK, 0, 0, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(pin), 1); /* 0x20 is still there */
	tc_w32(&tc, 0x64, 0x20);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_UNMASK, 0, 0, 1, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_signalled(pin), 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_NONE | SVIO_VFU_IRQ_ACTION_TRIGGER, 0, 0, 0, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 1, 0, 1, &msi, 1), 0);
	tc_w32(&tc, 0x20, 0x80);
	tc_w32(&tc, 8, 4);
	tc_rounds(&tc, 3);
	CU_ASSERT_EQUAL(tc_signalled(msi), 1);
	CU_ASSERT_EQUAL(tc_signalled(pin), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x24), 1);
	close(pin);
	close(msi);
	tc_stop(&tc);
}

static void dma_both_ways(struct tc *tc, uint8_t *mem, uint64_t iova)
{
	int msi = tc_eventfd();

	tc_master(tc);
	CU_ASSERT_EQUAL(tc_irqs(tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 1, 0, 1, &msi, 1), 0);
	for (int i = 0; i < 4096; i++)
		mem[i] = (uint8_t)(i * 7);
	dma(tc, iova, 0x40000, 4096, 1);
	CU_ASSERT_EQUAL(tc_signalled(msi), 0);
	dma(tc, 0x40000 + 100, iova + 5000, 200, 7);
	CU_ASSERT_EQUAL(memcmp(mem + 5000, mem + 100, 200), 0);
	CU_ASSERT_EQUAL(mem[5200], 0);
	CU_ASSERT_EQUAL(tc_signalled(msi), 1);
	CU_ASSERT_EQUAL(tc_r32(tc, 0x24), 0x100);
	tc_w32(tc, 0x64, 0x100);
	/* outside of its buffer, and not mapped: ends, nothing is moved */
	dma(tc, 0x40000 + 4000, iova + 5000, 200, 3);
	dma(tc, UINT64_MAX, iova, 200, 3);
	dma(tc, 0x40000, iova + 0x800000, 16, 3);
	CU_ASSERT_EQUAL(memcmp(mem + 5000, mem + 100, 200), 0);
	close(msi);
}

static void test_dma(void)
{
	static uint8_t ram[16384];
	uint8_t *mem;
	struct tc tc;
	int fd;

	/* shared memory */
	tc_start(&tc, "edu", 0);
	fd = tc_memfd(16384, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x100000, 16384, 0, RW, fd), 0);
	dma_both_ways(&tc, mem, 0x100000);
	munmap(mem, 16384);
	close(fd);
	tc_stop(&tc);
	/* messages */
	tc_start(&tc, "edu", 0);
	tc.auto_dma = true;
	tc.ram = ram;
	tc.ram_len = sizeof(ram);
	tc.ram_iova = 0x100000;
	CU_ASSERT_EQUAL(tc_map(&tc, 0x100000, 16384, 0, RW, -1), 0);
	dma_both_ways(&tc, ram, 0x100000);
	CU_ASSERT_EQUAL(tc.dma_seen, 2);
	tc_stop(&tc);
	/* the mask: 28 bits by default, all on request */
	tc_start(&tc, "edu,dma_mask=0xffffffffffffffff", 0);
	fd = tc_memfd(16384, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x7f0000100000, 16384, 0, RW, fd), 0);
	dma_both_ways(&tc, mem, 0x7f0000100000);
	munmap(mem, 16384);
	close(fd);
	tc_stop(&tc);
	tc_start(&tc, "edu", 0);
	fd = tc_memfd(16384, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x100000, 16384, 0, RW, fd), 0);
	dma_both_ways(&tc, mem, 0xf0100000);
	munmap(mem, 16384);
	close(fd);
	tc_stop(&tc);
}

static void test_dirty(void)
{
	struct svio_vfu_dma_log_start s = { .page_size = 4096 };
	struct svio_vfu_dma_log_report r = { .iova = 0x100000, .length = 16 * 4096, .page_size = 4096 };
	uint64_t bits;
	struct tc tc;
	int fd;

	tc_start(&tc, "edu", 0);
	tc_master(&tc);
	fd = tc_memfd(16 * 4096, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x100000, 16 * 4096, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_feature(&tc, 6 | SVIO_VFU_FEATURE_SET, &s, sizeof(s), 64), 0);
	dma(&tc, 0x100000, 0x40000, 4096, 1);		     /* a read dirties nothing */
	dma(&tc, 0x40000, 0x100000 + 5 * 4096 - 8, 16, 3); /* a write across two pages */
	CU_ASSERT_EQUAL(tc_feature(&tc, 8 | SVIO_VFU_FEATURE_GET, &r, sizeof(r), 64), 0);
	CU_ASSERT_EQUAL_FATAL(tc.len, 40);
	memcpy(&bits, tc.data + 32, 8);
	CU_ASSERT_EQUAL(bits, 3u << 4);
	close(fd);
	tc_stop(&tc);
}

/* Stop in the middle: a transfer by message ends first, one that has not begun moves along. */
static void test_migrate(void)
{
	static uint8_t stream[65536], ram[4096];
	struct svio_vfu_mig_data d = { .argsz = sizeof(d) + 60000, .size = 60000 };
	uint32_t n;
	struct tc tc;

	tc_start(&tc, "edu,map", 0);
	tc_master(&tc);
	tc.auto_dma = true;
	tc.ram = ram;
	tc.ram_len = sizeof(ram);
	memset(ram, 0xab, sizeof(ram));
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 4096, 0, RW, -1), 0);
	tc_w32(&tc, 4, 1);
	tc_w32(&tc, 0x60, 8);
	tc_w64(&tc, 0x80, 0);
	tc_w64(&tc, 0x88, 0x40000);
	tc_w64(&tc, 0x90, 4096);
	tc_w64(&tc, 0x98, 1);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, SVIO_VFU_STATE_STOP_COPY), 0);
	CU_ASSERT_EQUAL(tc.dma_seen, 1);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_MIG_DATA_READ, &d, sizeof(d)), 0);
	memcpy(&d, tc.data, sizeof(d));
	n = d.size;
	CU_ASSERT(n < 60000);
	memcpy(stream + sizeof(d), tc.data + sizeof(d), n);
	tc_stop(&tc);

	tc_start(&tc, "edu,map", 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, SVIO_VFU_STATE_RESUMING), 0);
	memcpy(stream, &d, sizeof(d));
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_MIG_DATA_WRITE, stream, sizeof(d) + n), 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, SVIO_VFU_STATE_RUNNING), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 4), ~1u);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x24), 8);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x40000 + 4092), 0xabababab);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x98), 0);
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "registers", test_registers },
	{ "interrupts: pin and MSI", test_interrupts },
	{ "DMA: shared memory, messages, address mask, errors", test_dma },
	{ "its writes are in the dirty log, its reads are not", test_dirty },
	{ "migration", test_migrate },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/edu", tests);
}
