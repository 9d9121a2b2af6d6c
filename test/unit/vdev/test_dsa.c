/* SPDX-License-Identifier: BSD-3-Clause */
/* The DSA model: commands, operations, faults, by IOVA and by PASID; batches, interrupts, saved state. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "dsa.h"

#define RW   (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)
#define PAGE 4096u

static uint64_t rnd_state = 88172645463325252ull;

static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state;
}

static void randomise(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)rnd();
}

/* ---- configuration and commands --------------------------------------------------------------------- */

static void test_commands(void)
{
	struct td td;

	td_start(&td, "dsa,wqs=4,engines=2,groups=4,size=100");
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_VERSION), DSA_VERSION_1);
	CU_ASSERT_EQUAL(DSA_WQCAP_WQS((uint64_t)tc_r32(&td.tc, DSA_REG_WQCAP)), 4);
	CU_ASSERT_EQUAL(DSA_WQCAP_TOTAL((uint64_t)tc_r32(&td.tc, DSA_REG_WQCAP)), 100);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_OFFSETS) & 0xffff, TD_GRPCFG / 0x100);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_OFFSETS) >> 16, TD_WQCFG / 0x100);
	CU_ASSERT_EQUAL(td_cmd(&td, 31, 0), DSA_CMD_BAD_COMMAND);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_DEV_NOT_ENABLED);
	/* groups */
	td_config(&td, 0, 64, 0);
	tc_w32(&td.tc, TD_GRPCFG + DSA_GRPCFG_ENGINES, 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_GRP_NO_ENGINE);
	tc_w32(&td.tc, TD_GRPCFG + DSA_GRPCFG_ENGINES, 8); /* there are two */
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_GRP_WQ_TWICE);
	td_config(&td, 0, 64, 0);
	td_config(&td, 1, 64, 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_WQ_SIZES); /* 128 of 100 */
	td_config(&td, 1, 0, 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_WQ_SIZES); /* of size 0, in a group */
	td_config(&td, 1, 36, 0);
	tc_cfg_set(&td.tc, 4, 2, 2); /* bus mastering off */
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_NO_BUS_MASTER);
	tc_master(&td.tc);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), 0);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_GENSTS), DSA_GENSTS_ENABLED);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0), DSA_CMD_DEV_NOT_DISABLED);
	/* WQs */
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 4), DSA_CMD_BAD_WQ);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 2), DSA_CMD_WQ_SIZE_ZERO);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_MODE, DSA_WQCFG_DEDICATED);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_WQ_PRIORITY_ZERO);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_MODE, DSA_WQCFG_PRIORITY(1));
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_WQ_MODE);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_MODE, DSA_WQCFG_PRIORITY(1) | DSA_WQCFG_DEDICATED);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(31) | DSA_WQCFG_MAX_BATCH(11));
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_WQ_MAX_BATCH);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(31) | DSA_WQCFG_MAX_BATCH(10));
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), 0);
	CU_ASSERT_EQUAL(DSA_WQCFG_STATE_OF(tc_r32(&td.tc, TD_WQCFG + DSA_WQCFG_STATE)), DSA_WQ_ENABLED);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_WQ_NOT_DISABLED);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_LIMITS, 0); /* locked while enabled */
	CU_ASSERT_EQUAL(tc_r32(&td.tc, TD_WQCFG + DSA_WQCFG_LIMITS), DSA_WQCFG_MAX_XFER(31) | DSA_WQCFG_MAX_BATCH(10));
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(1)), DSA_CMD_WQ_NOT_ENABLED);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_DRAIN_WQ, DSA_CMD_WQ_OPERAND(17)), DSA_CMD_BAD_WQ);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0)), 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_RESET_WQ, DSA_CMD_WQ_OPERAND(0)), 0);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, TD_WQCFG + DSA_WQCFG_MODE), 0);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, TD_WQCFG + DSA_WQCFG_SIZE), 64);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_DISABLE_DEVICE, 0), 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_DISABLE_DEVICE, 0), DSA_CMD_DIS_DEV_NOT_ENABLED);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_RESET_DEVICE, 0), 0);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, TD_GRPCFG), 0);
	td_stop(&td);
}

/* ---- operations ------------------------------------------------------------------------------------------ */

/* Each operation on random ranges of `mem`, against what C does. Addresses are those of this process. */
static void all_operations(struct td *td, uint8_t *mem, size_t len, int rounds)
{
	uint8_t *want = malloc(len);
	struct dsa_completion *cr = (void *)mem;
	struct dsa_desc d;

	CU_ASSERT_PTR_NOT_NULL_FATAL(want);
	mem += PAGE;
	len -= PAGE;
	for (int i = 0; i < rounds; i++) {
		uint32_t size = (uint32_t)(rnd() % 4 ? rnd() % 300 : rnd() % (len / 4)) + 1, at;
		uint8_t *a = mem + rnd() % (len - size), *b = mem + rnd() % (len - size);
		uint64_t pattern = rnd();
		uint8_t p8[8];

		if (rnd() % 3 == 0) /* overlapping, a little apart */
			b = mem + SVIO_MIN((size_t)(a - mem) + rnd() % 16, len - size);
		if (i % 16 == 0)
			randomise(mem, len);
		memcpy(p8, &pattern, 8);
		memcpy(want, mem, len);
		switch (rnd() % 5) {
		case 0:
			memmove(want + (b - mem), want + (a - mem), size);
			d = td_desc(DSA_OP_MEMMOVE, 0, a, b, size, cr);
			CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
			break;
		case 1:
			for (uint32_t k = 0; k < size; k++)
				want[b - mem + k] = p8[k % 8];
			d = td_desc(DSA_OP_FILL, 0, NULL, b, size, cr);
			d.pattern = svio_cpu_to_le64(pattern);
			CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
			break;
		case 2:
			if (rnd() % 2) {
				memmove(mem + (b - mem), a, size);
				memcpy(want, mem, len);
			}
			for (at = 0; at < size && a[at] == b[at];)
				at++;
			d = td_desc(DSA_OP_COMPARE, DSA_FLAG_CHECK_RESULT, a, b, size, cr);
			CU_ASSERT_EQUAL(td_do(td, &d, cr), at == size ? DSA_ST_SUCCESS : DSA_ST_SUCCESS_FALSE);
			CU_ASSERT_EQUAL(cr->result, at != size);
			if (at != size)
				CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->bytes), at);
			break;
		case 3:
			for (uint32_t k = 0; k < size; k++)
				a[k] = p8[k % 8];
			at = (uint32_t)(rnd() % (2 * size));
			if (at < size)
				a[at] ^= 1;
			memcpy(want, mem, len);
			d = td_desc(DSA_OP_COMPARE_PATTERN, 0, a, NULL, size, cr);
			d.cmp_pattern = svio_cpu_to_le64(pattern);
			CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
			CU_ASSERT_EQUAL(cr->result, at < size);
			if (at < size)
				CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->bytes), at);
			break;
		case 4:
			d = td_desc(DSA_OP_CRC, 0, a, NULL, size, cr);
			d.seed = svio_cpu_to_le32((uint32_t)pattern);
			CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
			CU_ASSERT_EQUAL(svio_le64_to_cpu(cr->crc), svio_crc32c((uint32_t)pattern, a, size));
			break;
		}
		CU_ASSERT_EQUAL_FATAL(memcmp(mem, want, len), 0);
	}
	free(want);
}

static void dualcast_and_copy_crc(struct td *td, uint8_t *mem)
{
	struct dsa_completion *cr = (void *)mem;
	uint8_t *src = mem + PAGE, *dst = mem + 8 * PAGE + 100, *dst2 = mem + 16 * PAGE + 100, *seed = mem + 24 * PAGE;
	struct dsa_desc d = td_desc(DSA_OP_DUALCAST, 0, src, dst, 5000, cr);
	uint32_t s = 0x12345678;

	randomise(src, 5000);
	d.dst2 = svio_cpu_to_le64((uintptr_t)dst2);
	CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
	CU_ASSERT(memcmp(src, dst, 5000) == 0 && memcmp(src, dst2, 5000) == 0);
	d.dst2 = svio_cpu_to_le64((uintptr_t)dst2 + 1);
	CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_DUALCAST_BITS);
	d = td_desc(DSA_OP_COPY_CRC, DSA_FLAG_CRC_SEED_MEM, src, dst + 77, 5000, cr);
	memcpy(seed, &s, 4);
	d.seed_addr = svio_cpu_to_le64((uintptr_t)seed);
	CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(cr->crc), svio_crc32c(s, src, 5000));
	CU_ASSERT_EQUAL(memcmp(src, dst + 77, 5000), 0);
	d.dst = svio_cpu_to_le64((uintptr_t)src + 1);
	CU_ASSERT_EQUAL(td_do(td, &d, cr), DSA_ST_OVERLAP);
}

static void test_iova(void)
{
	uint8_t *mem;
	struct td td;
	int fd;

	td_start(&td, "dsa,nopasid");
	CU_ASSERT_EQUAL(tc_feature(&td.tc, SVIO_VFIO_FEATURE_SVA_INFO | SVIO_VFU_FEATURE_GET, NULL, 0, 64), -ENOTTY);
	fd = tc_memfd(1 << 20, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&td.tc, (uintptr_t)mem, 1 << 20, 0, RW, fd), 0);
	td_up(&td, 0, 0);
	all_operations(&td, mem, 1 << 20, 400);
	dualcast_and_copy_crc(&td, mem);
	td_stop(&td);
	munmap(mem, 1 << 20);
	close(fd);
}

/* A client without shared memory: all of it by messages. */
static void test_messages(void)
{
	static uint8_t ram[64 * 4096] __attribute__((aligned(4096)));
	struct td td;

	td_start(&td, "dsa");
	td.tc.auto_dma = true;
	td.tc.ram = ram;
	td.tc.ram_len = sizeof(ram);
	td.tc.ram_iova = (uintptr_t)ram;
	CU_ASSERT_EQUAL(tc_map(&td.tc, (uintptr_t)ram, sizeof(ram), 0, RW, -1), 0);
	td_up(&td, 0, 0);
	all_operations(&td, ram, sizeof(ram), 100);
	dualcast_and_copy_crc(&td, ram);
	CU_ASSERT(td.tc.dma_seen > 200);
	td_stop(&td);
}

static void test_pasid(void)
{
	uint8_t *mem = aligned_alloc(PAGE, 1 << 20);
	struct td td;

	td_start(&td, "dsa");
	td_up(&td, td_bind(&td), 0);
	all_operations(&td, mem, 1 << 20, 400);
	dualcast_and_copy_crc(&td, mem);
	td_stop(&td);
	free(mem);
}

static const struct unit_test tests[] = {
	{ "configuration is checked, commands end as specified", test_commands },
	{ "operations by IOVA, against C", test_iova },
	{ "operations by messages", test_messages },
	{ "operations by PASID on malloced memory", test_pasid },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/dsa", tests);
}
