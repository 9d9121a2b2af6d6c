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

/* ---- faults ------------------------------------------------------------------------------------------------ */

static uint8_t *pages(size_t n)
{
	uint8_t *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_FATAL(p != MAP_FAILED);
	return p;
}

static void expect_fault(const struct dsa_completion *cr, uint8_t st, uint8_t status, const uint8_t *page, uint32_t bytes)
{
	uint64_t at = svio_le64_to_cpu(cr->fault_addr);

	CU_ASSERT_EQUAL(st, status);
	CU_ASSERT(at >= (uintptr_t)page && at < (uintptr_t)page + PAGE);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->bytes), bytes);
}

/* By PASID: what is not there ends an operation exactly before it, and what came before is done. */
static void test_partial(void)
{
	struct dsa_completion *cr = aligned_alloc(PAGE, PAGE);
	uint8_t *a = pages(40), *b = pages(40), *want = pages(40), st;
	const uint32_t off = 1000, size = 30 * PAGE; /* several slices */
	uint32_t crc, left;
	struct dsa_desc d;
	struct td td;

	td_start(&td, "dsa");
	td_up(&td, td_bind(&td), 0);
	randomise(a, 40 * PAGE);
	munmap(a + 20 * PAGE, PAGE);
	/* source */
	d = td_desc(DSA_OP_MEMMOVE, 0, a + off, b + 5, size, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT, a + 20 * PAGE, 20 * PAGE - off);
	CU_ASSERT_EQUAL(cr->result, DSA_RESULT_FORWARD);
	CU_ASSERT_EQUAL(memcmp(b + 5, a + off, 20 * PAGE - off), 0);
	CU_ASSERT_EQUAL(memcmp(b + 5 + 20 * PAGE - off, want, 10 * PAGE), 0); /* zeroes still */
	/* CRC: in two parts what it is in one */
	d = td_desc(DSA_OP_CRC, 0, a + off, NULL, size, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT, a + 20 * PAGE, 20 * PAGE - off);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(cr->crc), svio_crc32c(0, a + off, 20 * PAGE - off));
	crc = (uint32_t)svio_le64_to_cpu(cr->crc);
	CU_ASSERT_FATAL(mmap(a + 20 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	d = td_desc(DSA_OP_CRC, 0, a + 20 * PAGE, NULL, size - (20 * PAGE - off), cr);
	d.seed = svio_cpu_to_le32(crc);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(cr->crc), svio_crc32c(0, a + off, size));
	/* destination, read-only; by FILL, whose pattern goes on where it stopped */
	memset(b, 0, 40 * PAGE);
	mprotect(b + 10 * PAGE, PAGE, PROT_READ);
	d = td_desc(DSA_OP_FILL, 0, NULL, b + 3, size, cr);
	d.pattern = svio_cpu_to_le64(0x0807060504030201ull);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE, b + 10 * PAGE, 10 * PAGE - 3);
	for (uint32_t i = 0; i < 10 * PAGE - 3; i++)
		want[i] = (uint8_t)(i % 8 + 1);
	CU_ASSERT_EQUAL(memcmp(b + 3, want, 10 * PAGE - 3), 0);
	CU_ASSERT_EQUAL(b[10 * PAGE], 0);
	mprotect(b + 10 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	/* COMPARE stops at the fault, all before being equal; a difference before the fault comes first */
	memcpy(b, a, 40 * PAGE);
	munmap(b + 30 * PAGE, PAGE);
	d = td_desc(DSA_OP_COMPARE, 0, a, b, 35 * PAGE, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT, b + 30 * PAGE, 30 * PAGE);
	CU_ASSERT_EQUAL(cr->result, DSA_RESULT_EQUAL);
	b[30 * PAGE - 1] ^= 1;
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(cr->result, DSA_RESULT_DIFFERENT);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->bytes), 30 * PAGE - 1);
	/* backwards: overlapping, towards higher addresses */
	memcpy(want, a, 40 * PAGE);
	munmap(a + 5 * PAGE, PAGE);
	d = td_desc(DSA_OP_MEMMOVE, 0, a + 100, a + 900, size, cr);
	st = td_do(&td, &d, cr);
	left = 6 * PAGE - 100; /* up to the end of the hole, from the front */
	expect_fault(cr, st, DSA_ST_PAGE_FAULT, a + 5 * PAGE, size - left);
	CU_ASSERT_EQUAL(cr->result, DSA_RESULT_BACKWARD);
	CU_ASSERT_EQUAL(memcmp(a + 900 + left, want + 100 + left, size - left), 0);
	CU_ASSERT_EQUAL(memcmp(a, want, 5 * PAGE), 0);
	/* a pointer to nothing */
	d = td_desc(DSA_OP_MEMMOVE, 0, NULL, b, 8, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_PAGE_FAULT);
	td_stop(&td);
	munmap(a, 40 * PAGE);
	munmap(b, 40 * PAGE);
	munmap(want, 40 * PAGE);
	free(cr);
}

/* By IOVA the same, where a mapping ends; and with bus mastering off nothing moves. */
static void test_partial_iova(void)
{
	struct dsa_completion *cr;
	uint8_t *mem, st;
	struct dsa_desc d;
	struct td td;
	int fd;

	td_start(&td, "dsa");
	fd = tc_memfd(1 << 20, F_SEAL_SHRINK, (void **)&mem);
	cr = (void *)mem;
	CU_ASSERT_EQUAL(tc_map(&td.tc, (uintptr_t)mem, 40 * PAGE, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&td.tc, (uintptr_t)mem + 40 * PAGE, PAGE, 40 * PAGE, SVIO_VFU_DMA_F_READ, fd), 0);
	td_up(&td, 0, 0);
	randomise(mem + PAGE, 20 * PAGE);
	d = td_desc(DSA_OP_MEMMOVE, 0, mem + PAGE + 1, mem + 25 * PAGE, 18 * PAGE, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE, mem + 40 * PAGE, 15 * PAGE);
	CU_ASSERT_EQUAL(memcmp(mem + 25 * PAGE, mem + PAGE + 1, 15 * PAGE), 0);
	d = td_desc(DSA_OP_CRC, 0, mem + 39 * PAGE, NULL, 3 * PAGE, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_PAGE_FAULT, mem + 41 * PAGE, 2 * PAGE);
	tc_cfg_set(&td.tc, 4, 2, 2);
	memset(cr, 0, sizeof(*cr));
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 100);
	CU_ASSERT_EQUAL(cr->status, 0);
	CU_ASSERT_EQUAL(DSA_SWERR_ERROR((uint64_t)tc_r32(&td.tc, DSA_REG_SWERR)), DSA_ST_CR_FAULT);
	td_stop(&td);
	munmap(mem, 1 << 20);
	close(fd);
}

/* ---- descriptors that are not valid ---------------------------------------------------------------------------- */

static void test_invalid(void)
{
	struct dsa_completion *cr = aligned_alloc(PAGE, PAGE);
	uint8_t *mem = pages(4);
	uint32_t err;
	struct dsa_desc d;
	struct td td;
	const uint32_t bad_ops[] = { 7, 8, 0x0a, 0x12, 0x20, 0xff };

	td_start(&td, "dsa,max_xfer=64k");
	td_config(&td, 0, 64, 0);
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(16) | DSA_WQCFG_MAX_BATCH(4));
	tc_w32(&td.tc, TD_WQCFG + DSA_WQCFG_MODE, DSA_WQCFG_DEDICATED | DSA_WQCFG_PRIORITY(1) | DSA_WQCFG_PASID_EN |
						  DSA_WQCFG_PASID(td_bind(&td)));
	CU_ASSERT_EQUAL_FATAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0) | td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), 0);
	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(bad_ops); i++) {
		d = td_desc(bad_ops[i], 0, mem, mem + PAGE, 8, cr);
		CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_OP);
	}
	d = td_desc(DSA_OP_MEMMOVE, DSA_FLAG_BLOCK_ON_FAULT | DSA_FLAG_CHECK_RESULT, mem, mem + PAGE, 8, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_FLAGS); /* the WQ does not allow it */
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->bad_flags), DSA_FLAG_BLOCK_ON_FAULT | DSA_FLAG_CHECK_RESULT);
	d = td_desc(DSA_OP_NOOP, DSA_FLAG_FENCE, NULL, NULL, 0, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_FLAGS); /* in a batch only */
	d = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 1, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_RESERVED);
	d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + PAGE, 8, cr);
	d.op_specific[23] = 1;
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_RESERVED);
	d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + PAGE, 0, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_SIZE);
	d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + PAGE, 65537, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_SIZE);
	d = td_desc(DSA_OP_MEMMOVE, DSA_FLAG_INT_REQUEST, mem, mem + PAGE, 8, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_INT_HANDLE);
	d = td_desc(DSA_OP_BATCH, 0, mem, NULL, 1, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_COUNT);
	d = td_desc(DSA_OP_BATCH, 0, mem, NULL, 17, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_COUNT);
	d = td_desc(DSA_OP_BATCH, 0, mem + 32, NULL, 2, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_LIST_ALIGN);
	/* no place for the record: SWERROR; only the first is kept */
	d = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 0, (void *)((uint8_t *)cr + 8));
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 50);
	err = tc_r32(&td.tc, DSA_REG_SWERR);
	CU_ASSERT(err & DSA_SWERR_VALID);
	CU_ASSERT_EQUAL(DSA_SWERR_ERROR((uint64_t)err), DSA_ST_CR_ALIGN);
	d = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 0, NULL);
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 50);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_SWERR), err | DSA_SWERR_OVERFLOW);
	tc_w32(&td.tc, DSA_REG_SWERR, DSA_SWERR_VALID | DSA_SWERR_OVERFLOW);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_SWERR), 0);
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 50);
	CU_ASSERT_EQUAL(DSA_SWERR_ERROR((uint64_t)tc_r32(&td.tc, DSA_REG_SWERR)), DSA_ST_CR_FAULT);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_SWERR + 16), 0); /* the address */
	/* and the WQ goes on */
	d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + PAGE, 8, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	td_stop(&td);
	munmap(mem, 4 * PAGE);
	free(cr);
}

/* ---- batches, drains, interrupts --------------------------------------------------------------------------------- */

static void test_batch(void)
{
	struct dsa_desc *list = (void *)pages(2), d;
	struct dsa_completion *cr = (void *)pages(1); /* cr[0] the batch's, cr[1 + i] theirs */
	uint8_t *mem = pages(64), st;
	struct td td;

	td_start(&td, "dsa");
	td_up(&td, td_bind(&td), 0);
	randomise(mem, 16 * PAGE);
	for (unsigned int i = 0; i < 16; i++)
		list[i] = td_desc(DSA_OP_MEMMOVE, 0, mem + i * PAGE, mem + (16 + i) * PAGE, PAGE, &cr[1 + i]);
	d = td_desc(DSA_OP_BATCH, 0, list, NULL, 16, cr);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->descs), 16);
	CU_ASSERT_EQUAL(memcmp(mem, mem + 16 * PAGE, 16 * PAGE), 0);
	for (unsigned int i = 0; i < 16; i++)
		CU_ASSERT_EQUAL(cr[1 + i].status, DSA_ST_SUCCESS);
	/* one fails: the others are done; a fence behind it stops the rest */
	memset(cr, 0, PAGE);
	memset(mem + 16 * PAGE, 0, 16 * PAGE);
	list[5].size = 0;
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BATCH_FAIL);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->descs), 16);
	CU_ASSERT_EQUAL(cr[6].status, DSA_ST_BAD_SIZE);
	CU_ASSERT_EQUAL(cr[16].status, DSA_ST_SUCCESS);
	memset(cr, 0, PAGE);
	list[9].op_flags |= svio_cpu_to_le32(DSA_FLAG_FENCE);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BATCH_FAIL);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->descs), 9);
	CU_ASSERT_EQUAL(cr[9].status, DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(cr[10].status, 0);
	/* a false comparison stops at a fence too; a fence after success does nothing */
	memset(cr, 0, PAGE);
	list[5] = td_desc(DSA_OP_COMPARE, DSA_FLAG_CHECK_RESULT, mem, mem + 16 * PAGE, PAGE, &cr[6]);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	memset(cr, 0, PAGE);
	list[5].expected = DSA_RESULT_DIFFERENT;
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BATCH_FAIL);
	CU_ASSERT_EQUAL(cr[6].status, DSA_ST_SUCCESS_FALSE);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(cr->descs), 9);
	/* not in a batch */
	memset(cr, 0, PAGE);
	list[5] = td_desc(DSA_OP_BATCH, 0, list, NULL, 2, &cr[6]);
	list[6] = td_desc(DSA_OP_DRAIN, 0, NULL, NULL, 0, &cr[7]);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BATCH_FAIL);
	CU_ASSERT_EQUAL(cr[6].status, DSA_ST_BAD_OP);
	CU_ASSERT_EQUAL(cr[7].status, DSA_ST_BAD_OP);
	/* the list runs into nothing */
	memset(cr, 0, PAGE);
	munmap((uint8_t *)list + PAGE, PAGE);
	for (unsigned int i = 0; i < 2; i++)
		list[62 + i] = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 0, &cr[1 + i]);
	d = td_desc(DSA_OP_BATCH, 0, &list[62], NULL, 4, cr);
	st = td_do(&td, &d, cr);
	expect_fault(cr, st, DSA_ST_BATCH_PAGE_FAULT, (uint8_t *)list + PAGE, 2);
	CU_ASSERT_EQUAL(cr[2].status, DSA_ST_SUCCESS);
	td_stop(&td);
	munmap(list, PAGE);
	munmap(cr, PAGE);
	munmap(mem, 64 * PAGE);
}

/* Two engines on one WQ: a drain is last all the same. A WQ smaller than what is submitted loses nothing. */
static void test_drain(void)
{
	struct dsa_completion *cr = (void *)pages(1);
	uint8_t *mem = pages(2048);
	struct dsa_desc d;
	struct td td;

	td_start(&td, "dsa");
	td_config(&td, 0, 4, DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(td_bind(&td)));
	tc_w32(&td.tc, TD_GRPCFG + DSA_GRPCFG_ENGINES, 3);
	CU_ASSERT_EQUAL_FATAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0) | td_cmd(&td, DSA_CMD_ENABLE_WQ, 0), 0);
	randomise(mem, 4 * PAGE);
	for (unsigned int round = 0; round < 5; round++) {
		memset(cr, 0, PAGE);
		for (unsigned int i = 0; i < 20; i++) {
			d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + 1024 * PAGE, i % 2 ? 8 : (100 + 97 * i % 800) * PAGE, &cr[i]);
			td_submit(&td, 0, &d);
		}
		d = td_desc(DSA_OP_DRAIN, 0, NULL, NULL, 0, &cr[20]);
		td_submit(&td, 0, &d);
		CU_ASSERT_EQUAL(td_wait(&td, &cr[20]), DSA_ST_SUCCESS);
		for (unsigned int i = 0; i < 20; i++)
			CU_ASSERT_EQUAL(cr[i].status, DSA_ST_SUCCESS);
	}
	td_stop(&td);
	munmap(cr, PAGE);
	munmap(mem, 2048 * PAGE);
}

static void test_interrupts(void)
{
	struct dsa_completion *cr = (void *)pages(1);
	int efd[3] = { tc_eventfd(), tc_eventfd(), tc_eventfd() };
	struct dsa_desc d;
	uint32_t pasid;
	struct td td;

	td_start(&td, "dsa");
	pasid = td_bind(&td);
	CU_ASSERT_EQUAL(tc_irqs(&td.tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 2, 0, 3, efd, 3), 0);
	td_up(&td, pasid, 0);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_REQUEST_INT_HANDLE, 0), DSA_CMD_BAD_INT_INDEX);
	CU_ASSERT_EQUAL(td_cmd(&td, DSA_CMD_REQUEST_INT_HANDLE, 2), 0);
	CU_ASSERT_EQUAL(DSA_CMDSTS_RESULT(tc_r32(&td.tc, DSA_REG_CMDSTS)), 2);
	d = td_desc(DSA_OP_NOOP, DSA_FLAG_INT_REQUEST, NULL, NULL, 0, cr);
	d.int_handle = svio_cpu_to_le16(2);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_INT_HANDLE); /* MSIXPERM names no PASID */
	tc_w32(&td.tc, (uint32_t)DSA_OFFSETS_MSIXPERM((uint64_t)tc_r32(&td.tc, DSA_REG_OFFSETS + 4) << 32) + 2 * DSA_MSIXPERM_STRIDE,
	       DSA_MSIXPERM_PASID_EN | (pasid + 1) << DSA_MSIXPERM_PASID_LSB);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_BAD_INT_HANDLE); /* another one's */
	tc_w32(&td.tc, (uint32_t)DSA_OFFSETS_MSIXPERM((uint64_t)tc_r32(&td.tc, DSA_REG_OFFSETS + 4) << 32) + 2 * DSA_MSIXPERM_STRIDE,
	       DSA_MSIXPERM_PASID_EN | pasid << DSA_MSIXPERM_PASID_LSB);
	tc_signalled(efd[2]);
	CU_ASSERT_EQUAL(td_do(&td, &d, cr), DSA_ST_SUCCESS);
	tc_rounds(&td.tc, 2);
	CU_ASSERT_EQUAL(tc_signalled(efd[2]), 1);
	/* commands, errors */
	CU_ASSERT_EQUAL(tc_signalled(efd[0]), 0);
	tc_w32(&td.tc, DSA_REG_CMD, DSA_CMD(DSA_CMD_DRAIN_ALL, 0) | DSA_CMD_INT);
	tc_rounds(&td.tc, 20);
	CU_ASSERT_EQUAL(tc_signalled(efd[0]), 1);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_INTCAUSE), DSA_INTCAUSE_CMD);
	tc_w32(&td.tc, DSA_REG_INTCAUSE, DSA_INTCAUSE_CMD);
	tc_w32(&td.tc, DSA_REG_GENCTRL, DSA_GENCTRL_SWERR_INT);
	d = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 0, NULL);
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 50);
	CU_ASSERT_EQUAL(tc_r32(&td.tc, DSA_REG_INTCAUSE), DSA_INTCAUSE_SWERR);
	CU_ASSERT_EQUAL(tc_signalled(efd[0]), 1);
	td_stop(&td);
	for (int i = 0; i < 3; i++)
		close(efd[i]);
	munmap(cr, PAGE);
}

/* ---- in slices; stopped in the middle ------------------------------------------------------------------------------ */

#define BIG (32u << 20)

struct big {
	struct td td;
	uint8_t *src, *dst;
	struct dsa_completion *cr;
	struct dsa_desc d;
};

/* A copy of 32 MiB has begun and will take many rounds. */
static void big_start(struct big *b, uint32_t copies)
{
	td_start(&b->td, "dsa");
	b->src = pages(BIG / PAGE);
	b->dst = pages(BIG / PAGE);
	b->cr = (void *)pages(1);
	memset(b->src, 0xa5, BIG);
	td_up(&b->td, td_bind(&b->td), 0);
	for (uint32_t i = 0; i < copies; i++) {
		b->d = td_desc(DSA_OP_MEMMOVE, 0, b->src, b->dst, BIG, &b->cr[i]);
		td_submit(&b->td, 0, &b->d);
		if (i == 60)
			tc_rounds(&b->td.tc, 1); /* the portal is empty, the queue nearly full */
	}
	tc_rounds(&b->td.tc, 20);
	CU_ASSERT_EQUAL(b->cr->status, 0);
	CU_ASSERT_EQUAL(b->dst[0], 0xa5);
	CU_ASSERT_EQUAL(b->dst[BIG - 1], 0);
}

static void big_stop(struct big *b)
{
	td_stop(&b->td);
	munmap(b->src, BIG);
	munmap(b->dst, BIG);
	munmap(b->cr, PAGE);
}

/* Nothing is written from now on, and no record comes. */
static void big_quiet(struct big *b)
{
	memset(b->dst, 0, BIG);
	memset(b->cr, 0, PAGE);
	tc_rounds(&b->td.tc, 2000);
	CU_ASSERT(b->dst[0] == 0 && memcmp(b->dst, b->dst + 1, BIG - 1) == 0);
	CU_ASSERT_EQUAL(b->cr->status, 0);
}

static void test_slices(void)
{
	struct big b;
	uint32_t reads = 0;

	big_start(&b, 2);
	while (!b.cr[0].status && reads < 10000) { /* the server answers in between */
		CU_ASSERT_EQUAL_FATAL(tc_r32(&b.td.tc, DSA_REG_VERSION), DSA_VERSION_1);
		reads++;
	}
	CU_ASSERT(reads > 50);
	CU_ASSERT_EQUAL(b.cr[0].status, DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(memcmp(b.src, b.dst, BIG), 0);
	/* disable: the second one is finished first */
	CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0)), 0);
	CU_ASSERT_EQUAL(b.cr[1].status, DSA_ST_SUCCESS);
	td_submit(&b.td, 0, &b.d);
	big_quiet(&b);
	big_stop(&b);
}

static void test_abort(void)
{
	struct svio_sva_unbind u = { .max = UINT32_MAX };
	struct big b;

	big_start(&b, 3);
	CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_ABORT_WQ, DSA_CMD_WQ_OPERAND(0)), 0);
	big_quiet(&b);
	td_submit(&b.td, 0, &b.d); /* the portal goes on where it was */
	CU_ASSERT_EQUAL(td_wait(&b.td, &b.cr[2]), DSA_ST_SUCCESS);
	big_stop(&b);
	/* by PASID: another one's is nothing to wait for and nothing to abort */
	big_start(&b, 2);
	{
		uint32_t pasid = DSA_WQCFG_PASID_OF(tc_r32(&b.td.tc, TD_WQCFG + DSA_WQCFG_MODE));

		CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_DRAIN_PASID, pasid + 1), 0);
		CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_ABORT_PASID, pasid + 1), 0);
		CU_ASSERT_EQUAL(b.cr[0].status, 0);
		CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_DRAIN_PASID, pasid), 0);
		CU_ASSERT(b.cr[0].status == DSA_ST_SUCCESS && b.cr[1].status == DSA_ST_SUCCESS);
		memset(b.cr, 0, PAGE);
		td_submit(&b.td, 0, &b.d);
		tc_rounds(&b.td.tc, 20);
		CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_ABORT_PASID, pasid), 0);
	}
	big_quiet(&b);
	big_stop(&b);
	/* also what is still in the portal, the WQ being full */
	big_start(&b, 60 + 10);
	CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_ABORT_WQ, DSA_CMD_WQ_OPERAND(0)), 0);
	big_quiet(&b);
	td_submit(&b.td, 0, &b.d);
	CU_ASSERT_EQUAL(td_wait(&b.td, &b.cr[69]), DSA_ST_SUCCESS);
	big_stop(&b);
	big_start(&b, 3);
	CU_ASSERT_EQUAL(td_cmd(&b.td, DSA_CMD_RESET_DEVICE, 0), 0);
	big_quiet(&b);
	big_stop(&b);
	big_start(&b, 3);
	for (uint32_t cap = tc_cfg(&b.td.tc, 0x34, 1); cap; cap = tc_cfg(&b.td.tc, cap + 1, 1))
		if (tc_cfg(&b.td.tc, cap, 1) == 0x10) /* PCI Express: Initiate Function Level Reset */
			tc_cfg_set(&b.td.tc, cap + 8, 2, 0x8000);
	big_quiet(&b);
	CU_ASSERT_EQUAL(tc_r32(&b.td.tc, DSA_REG_GENSTS), DSA_GENSTS_DISABLED);
	big_stop(&b);
	big_start(&b, 3);
	CU_ASSERT_EQUAL(tc_call(&b.td.tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	big_quiet(&b);
	CU_ASSERT_EQUAL(tc_r32(&b.td.tc, DSA_REG_GENSTS), DSA_GENSTS_DISABLED);
	big_stop(&b);
	/* unbinding returns when the device has let go; what comes later has no place to go to */
	big_start(&b, 3);
	CU_ASSERT_EQUAL(td_feature_set(&b.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u)), 0);
	CU_ASSERT_EQUAL(u.released, 1);
	big_quiet(&b);
	td_submit(&b.td, 0, &b.d);
	big_quiet(&b);
	CU_ASSERT_EQUAL(DSA_SWERR_ERROR((uint64_t)tc_r32(&b.td.tc, DSA_REG_SWERR)), DSA_ST_CR_FAULT);
	big_stop(&b);
	/* the same PASID, bound anew at once: what was for the old bond does not reach the new one */
	big_start(&b, 3);
	{
		struct svio_sva_unbind all = { .max = UINT32_MAX };
		struct svio_sva_bind again = { .min = 1, .max = 1 };

		CU_ASSERT_EQUAL(td_feature_set(&b.td, SVIO_VFIO_FEATURE_SVA_UNBIND, &all, sizeof(all)), 0);
		CU_ASSERT_EQUAL(td_feature_set(&b.td, SVIO_VFIO_FEATURE_SVA_BIND, &again, sizeof(again)), 0);
		CU_ASSERT_EQUAL(again.pasid, DSA_WQCFG_PASID_OF(tc_r32(&b.td.tc, TD_WQCFG + DSA_WQCFG_MODE)));
	}
	big_quiet(&b);
	td_submit(&b.td, 0, &b.d);
	CU_ASSERT_EQUAL(td_wait(&b.td, &b.cr[2]), DSA_ST_SUCCESS);
	big_stop(&b);
	/* the client goes */
	big_start(&b, 3);
	tc_close(&b.td.tc);
	for (int i = 0; i < 1000 && svio_vdev_connected(b.td.tc.dev); i++)
		tc_rounds(&b.td.tc, 1);
	CU_ASSERT(!svio_vdev_connected(b.td.tc.dev));
	CU_ASSERT_EQUAL(b.dst[BIG - 1], 0); /* that was before the copy was through */
	big_quiet(&b);
	big_stop(&b);
}

/* ---- pages on request ------------------------------------------------------------------------------------------------ */

#define RAM 0x100000ull

struct paged {
	struct td td;
	uint8_t *ram; /* 64 pages at IOVA RAM: 4 of tables, then data; addresses 0 … 2 MiB are translated by the table in page 3 */
	uint64_t *pt;
	int fd;
};

static void paged_start(struct paged *g)
{
	struct svio_pgtable_bind b = { .format = SVIO_PGTABLE_X86_64_4, .addr_bits = 40, .root = RAM };

	td_start(&g->td, "dsa");
	g->fd = tc_memfd(64 * PAGE, F_SEAL_SHRINK, (void **)&g->ram);
	CU_ASSERT_EQUAL(tc_map(&g->td.tc, RAM, 64 * PAGE, 0, RW, g->fd), 0);
	for (uint64_t i = 0; i < 3; i++)
		*(uint64_t *)(void *)(g->ram + i * PAGE) = (RAM + (i + 1) * PAGE) | 7;
	g->pt = (uint64_t *)(void *)(g->ram + 3 * PAGE);
	CU_ASSERT_EQUAL_FATAL(td_feature_set(&g->td, SVIO_VFIO_FEATURE_PGTABLE_BIND, &b, sizeof(b)), 0);
	td_up(&g->td, b.pasid, DSA_WQCFG_BLOCK_ON_FAULT);
}

/* Page of RAM for page i of the addresses. */
static void page_in(struct paged *g, unsigned int i, uint64_t ram_page, uint64_t rights)
{
	__atomic_store_n(&g->pt[i], (RAM + ram_page * PAGE) | 5 | rights, __ATOMIC_RELEASE);
}

/* The one request that is there, or false. */
static bool asked(struct paged *g, struct svio_page_request *r)
{
	struct svio_page_requests q = { .count = 8 };

	CU_ASSERT_EQUAL_FATAL(tc_feature(&g->td.tc, SVIO_VFIO_FEATURE_PAGE_REQUESTS | SVIO_VFU_FEATURE_GET, &q, sizeof(q), 512), 0);
	memcpy(&q, g->td.tc.data + 8, sizeof(q));
	if (q.count)
		memcpy(r, g->td.tc.data + 8 + sizeof(q), sizeof(*r));
	return q.count == 1;
}

static int answer(struct paged *g, const struct svio_page_request *r, uint32_t code)
{
	struct svio_page_respond resp = { .pasid = r->pasid, .group = r->group, .code = code };

	return td_feature_set(&g->td, SVIO_VFIO_FEATURE_PAGE_RESPOND, &resp, sizeof(resp));
}

static void test_paging(void)
{
	struct dsa_completion *cr;
	struct svio_page_request r;
	unsigned int served = 0;
	struct dsa_desc d;
	struct paged g;

	paged_start(&g);
	cr = (void *)(g.ram + 4 * PAGE);
	/* Nothing is there: each page comes when it is asked for; source 16…, destination 32…, record 0. */
	randomise(g.ram + 5 * PAGE, 8 * PAGE);
	d = td_desc(DSA_OP_MEMMOVE, DSA_FLAG_BLOCK_ON_FAULT, (void *)(16 * PAGE + 7ul), (void *)(32 * PAGE + 99ul), 6 * PAGE, NULL);
	td_submit(&g.td, 0, &d);
	for (int i = 0; i < 200 && !cr->status; i++) {
		uint64_t page;

		tc_rounds(&g.td.tc, 5);
		if (!asked(&g, &r))
			continue;
		page = r.addr / PAGE;
		CU_ASSERT_EQUAL(cr->status, 0);
		CU_ASSERT_EQUAL(r.flags, SVIO_PAGE_LAST | (page >= 16 && page < 32 ? SVIO_PAGE_READ : SVIO_PAGE_WRITE));
		CU_ASSERT_EQUAL(g.pt[page], 0);
		page_in(&g, (unsigned int)page, page == 0 ? 4 : page < 32 ? 5 + page - 16 : 20 + page - 32, page >= 16 && page < 32 ? 0 : 2);
		CU_ASSERT_EQUAL(answer(&g, &r, SVIO_PAGE_SUCCESS), 0);
		served++;
	}
	CU_ASSERT_EQUAL(cr->status, DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(served, 7 + 7 + 1);
	CU_ASSERT_EQUAL(memcmp(g.ram + 5 * PAGE + 7, g.ram + 20 * PAGE + 99, 6 * PAGE), 0);
	/* "Invalid": the operation ends there. A disable waits for the answer. */
	memset(cr, 0, sizeof(*cr));
	d = td_desc(DSA_OP_FILL, DSA_FLAG_BLOCK_ON_FAULT, NULL, (void *)(37 * PAGE + 0ul), 4 * PAGE, NULL);
	td_submit(&g.td, 0, &d);
	tc_rounds(&g.td.tc, 20);
	tc_w32(&g.td.tc, DSA_REG_CMD, DSA_CMD(DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0)));
	tc_rounds(&g.td.tc, 20);
	CU_ASSERT(tc_r32(&g.td.tc, DSA_REG_CMDSTS) & DSA_CMDSTS_ACTIVE);
	CU_ASSERT_FATAL(asked(&g, &r));
	CU_ASSERT_EQUAL(r.addr, 39 * PAGE);
	CU_ASSERT_EQUAL(answer(&g, &r, SVIO_PAGE_INVALID), 0);
	tc_rounds(&g.td.tc, 20);
	expect_fault(cr, cr->status, DSA_ST_PAGE_FAULT_IR | DSA_STATUS_WRITE, (uint8_t *)(39ul * PAGE), 2 * PAGE);
	CU_ASSERT_EQUAL(tc_r32(&g.td.tc, DSA_REG_CMDSTS), 0);
	/* Without the flag it does not ask. */
	CU_ASSERT_EQUAL(td_cmd(&g.td, DSA_CMD_ENABLE_WQ, 0), 0);
	g.td.next[0] = 0;
	memset(cr, 0, sizeof(*cr));
	d = td_desc(DSA_OP_FILL, 0, NULL, (void *)(37 * PAGE + 0ul), 4 * PAGE, NULL);
	td_submit(&g.td, 0, &d);
	CU_ASSERT_EQUAL(td_wait(&g.td, cr), DSA_ST_PAGE_FAULT | DSA_STATUS_WRITE);
	CU_ASSERT(!asked(&g, &r));
	/* Abandoned while it waits: the response finds nobody. */
	d.op_flags |= svio_cpu_to_le32(DSA_FLAG_BLOCK_ON_FAULT);
	td_submit(&g.td, 0, &d);
	tc_rounds(&g.td.tc, 20);
	CU_ASSERT_FATAL(asked(&g, &r));
	CU_ASSERT_EQUAL(td_cmd(&g.td, DSA_CMD_ABORT_ALL, 0), 0);
	CU_ASSERT_EQUAL(answer(&g, &r, SVIO_PAGE_SUCCESS), -ENOENT);
	/* Malformed tables are no page fault. */
	g.pt[40] = (1ull << 45) | 7;
	memset(cr, 0, sizeof(*cr));
	d = td_desc(DSA_OP_FILL, DSA_FLAG_BLOCK_ON_FAULT, NULL, (void *)(40 * PAGE + 0ul), 8, NULL);
	td_submit(&g.td, 0, &d);
	CU_ASSERT_EQUAL(td_wait(&g.td, cr), DSA_ST_TRANSLATION);
	td_stop(&g.td);
	munmap(g.ram, 64 * PAGE);
	close(g.fd);
	td_start(&g.td, "dsa,nobof");
	td_config(&g.td, 0, 64, DSA_WQCFG_BLOCK_ON_FAULT);
	CU_ASSERT_EQUAL(td_cmd(&g.td, DSA_CMD_ENABLE_DEVICE, 0), 0);
	CU_ASSERT_EQUAL(td_cmd(&g.td, DSA_CMD_ENABLE_WQ, 0), DSA_CMD_WQ_BLOCK_ON_FAULT);
	td_stop(&g.td);
}

/* ---- migration -------------------------------------------------------------------------------------------------------- */

static size_t stream_out(struct td *td, uint8_t *stream, size_t room)
{
	size_t len = 0;

	for (;;) {
		struct svio_vfu_mig_data d = { .argsz = sizeof(d) + 65536, .size = 65536 };

		CU_ASSERT_EQUAL_FATAL(tc_call(&td->tc, SVIO_VFU_MIG_DATA_READ, &d, sizeof(d)), 0);
		memcpy(&d, td->tc.data, sizeof(d));
		CU_ASSERT_FATAL(len + d.size <= room);
		memcpy(stream + len, td->tc.data + sizeof(d), d.size);
		len += d.size;
		if (d.size < 65536)
			return len;
	}
}

static int stream_in(struct td *td, const uint8_t *stream, size_t len)
{
	int err = tc_mig_set(&td->tc, SVIO_VFU_STATE_RESUMING);

	for (size_t pos = 0; pos < len && !err;) {
		struct svio_vfu_mig_data d = { .size = (uint32_t)SVIO_MIN(len - pos, (size_t)60000) };
		uint8_t *m = malloc(sizeof(d) + d.size);

		d.argsz = (uint32_t)sizeof(d) + d.size;
		memcpy(m, &d, sizeof(d));
		memcpy(m + sizeof(d), stream + pos, d.size);
		err = tc_call(&td->tc, SVIO_VFU_MIG_DATA_WRITE, m, sizeof(d) + d.size);
		free(m);
		pos += d.size;
	}
	return err ? err : tc_mig_set(&td->tc, SVIO_VFU_STATE_RUNNING);
}

/* Stopped in the middle of copies, a batch and what is not yet taken from the portal; another device finishes all of it. */
static void test_migrate(void)
{
	static uint8_t stream[1 << 20];
	const uint32_t size = 3 << 20;
	struct dsa_completion *cr;
	struct dsa_desc d, *list;
	uint8_t *mem, *src, *dst;
	struct td a, b;
	size_t len;
	int fd;

	td_start(&a, "dsa");
	fd = tc_memfd(16 << 20, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&a.tc, (uintptr_t)mem, 16 << 20, 0, RW, fd), 0);
	cr = (void *)mem;
	list = (void *)(mem + PAGE);
	src = mem + (1 << 20);
	dst = mem + (8 << 20);
	randomise(src, size);
	td_config(&a, 0, 4, 0);
	CU_ASSERT_EQUAL_FATAL(td_cmd(&a, DSA_CMD_ENABLE_DEVICE, 0) | td_cmd(&a, DSA_CMD_ENABLE_WQ, 0), 0);
	d = td_desc(DSA_OP_MEMMOVE, 0, src, dst, size, &cr[0]);
	td_submit(&a, 0, &d);
	list[0] = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 1, &cr[4]); /* invalid: the batch is to know to its end */
	list[1] = td_desc(DSA_OP_COPY_CRC, 0, dst, dst + size, size, &cr[2]);
	list[2] = td_desc(DSA_OP_CRC, 0, src, NULL, size, &cr[3]);
	d = td_desc(DSA_OP_BATCH, 0, list, NULL, 3, &cr[1]);
	td_submit(&a, 0, &d);
	for (unsigned int i = 5; i < 24; i++) {
		d = td_desc(DSA_OP_NOOP, 0, NULL, NULL, 0, &cr[i]);
		td_submit(&a, 0, &d);
	}
	for (unsigned int moves = 0; moves < 12; moves++) {
		tc_rounds(&a.tc, 17);
		CU_ASSERT_EQUAL_FATAL(tc_mig_set(&a.tc, SVIO_VFU_STATE_STOP_COPY), 0);
		len = stream_out(&a, stream, sizeof(stream));
		td_stop(&a);
		td_start(&b, "dsa");
		CU_ASSERT_EQUAL(tc_map(&b.tc, (uintptr_t)mem, 16 << 20, 0, RW, fd), 0);
		CU_ASSERT_EQUAL_FATAL(stream_in(&b, stream, len), 0);
		a = b;
	}
	CU_ASSERT_EQUAL(cr[3].status, DSA_ST_SUCCESS); /* 3 × 48 slices in 12 × 17 rounds: it went on where it was */
	CU_ASSERT_EQUAL(td_wait(&a, &cr[23]), DSA_ST_SUCCESS);
	for (unsigned int i = 0; i < 24; i++)
		CU_ASSERT_EQUAL(cr[i].status, i == 1 ? DSA_ST_BATCH_FAIL : i == 4 ? DSA_ST_BAD_RESERVED : DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(memcmp(src, dst, size), 0);
	CU_ASSERT_EQUAL(memcmp(src, dst + size, size), 0);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(cr[2].crc), svio_crc32c(0, src, size));
	CU_ASSERT_EQUAL(svio_le64_to_cpu(cr[3].crc), svio_crc32c(0, src, size));
	/* and it takes new work where the portal was */
	a.next[0] = 21;
	d = td_desc(DSA_OP_CRC, 0, src, NULL, 100, cr);
	CU_ASSERT_EQUAL(td_do(&a, &d, cr), DSA_ST_SUCCESS);
	td_stop(&a);
	/* a configuration that could not be enabled moves along all the same */
	td_start(&a, "dsa");
	tc_w32(&a.tc, TD_WQCFG + 3 * 32 + DSA_WQCFG_SIZE, 0xffff);
	tc_w32(&a.tc, TD_WQCFG + 3 * 32 + DSA_WQCFG_LIMITS, 0xffffffff);
	CU_ASSERT_EQUAL_FATAL(tc_mig_set(&a.tc, SVIO_VFU_STATE_STOP_COPY), 0);
	len = stream_out(&a, stream, sizeof(stream));
	td_stop(&a);
	td_start(&a, "dsa");
	CU_ASSERT_EQUAL_FATAL(stream_in(&a, stream, len), 0);
	CU_ASSERT_EQUAL(tc_r32(&a.tc, TD_WQCFG + 3 * 32 + DSA_WQCFG_SIZE), 0xffff);
	CU_ASSERT_EQUAL(tc_r32(&a.tc, TD_WQCFG + 3 * 32 + DSA_WQCFG_LIMITS), 0xffffffff);
	td_stop(&a);
	/* other options are refused, and said */
	td_start(&b, "dsa,wqs=3");
	CU_ASSERT_EQUAL(stream_in(&b, stream, len), -EINVAL);
	CU_ASSERT(strstr(svio_last_error(), "8 WQs") != NULL);
	CU_ASSERT_EQUAL(tc_call(&b.tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	td_stop(&b);
	munmap(mem, 16 << 20);
	close(fd);
}

/* By PASID: the client binds on the target, to the same PASID, before it lets the device run. Without that, nothing is reached. */
static void test_migrate_pasid(void)
{
	static uint8_t stream[1 << 18];
	uint32_t pasid;
	struct big b;
	size_t len;

	big_start(&b, 3);
	pasid = DSA_WQCFG_PASID_OF(tc_r32(&b.td.tc, TD_WQCFG + DSA_WQCFG_MODE));
	for (unsigned int hop = 0; hop < 4; hop++) {
		struct svio_sva_bind again = { .min = pasid, .max = pasid };

		CU_ASSERT_EQUAL_FATAL(tc_mig_set(&b.td.tc, SVIO_VFU_STATE_STOP_COPY), 0);
		len = stream_out(&b.td, stream, sizeof(stream));
		td_stop(&b.td);
		td_start(&b.td, "dsa");
		if (hop < 3)
			CU_ASSERT_EQUAL(td_feature_set(&b.td, SVIO_VFIO_FEATURE_SVA_BIND, &again, sizeof(again)), 0);
		CU_ASSERT_EQUAL_FATAL(stream_in(&b.td, stream, len), 0);
		tc_rounds(&b.td.tc, 40);
	}
	CU_ASSERT_EQUAL(b.cr[0].status, 0); /* 20 + 3 × 40 of its 512 slices */
	big_quiet(&b);
	CU_ASSERT(tc_r32(&b.td.tc, DSA_REG_SWERR) & DSA_SWERR_VALID);
	big_stop(&b);
	/* and to its end */
	big_start(&b, 1);
	CU_ASSERT_EQUAL_FATAL(tc_mig_set(&b.td.tc, SVIO_VFU_STATE_STOP_COPY), 0);
	len = stream_out(&b.td, stream, sizeof(stream));
	td_stop(&b.td);
	td_start(&b.td, "dsa");
	CU_ASSERT_EQUAL(td_bind(&b.td), pasid);
	CU_ASSERT_EQUAL_FATAL(stream_in(&b.td, stream, len), 0);
	CU_ASSERT_EQUAL(td_wait(&b.td, b.cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(memcmp(b.src, b.dst, BIG), 0);
	big_stop(&b);
}

/* A client that maps no BAR, as one of a server that sleeps: a descriptor is one message. */
static void test_portal_messages(void)
{
	struct dsa_completion *cr = (void *)pages(1);
	uint8_t *mem = pages(2);
	struct dsa_desc d;
	struct td td;

	memset(&td, 0, sizeof(td));
	tc_start(&td.tc, "dsa", SVIO_VDEV_NO_MMAP);
	tc_master(&td.tc);
	td_up(&td, td_bind(&td), 0);
	randomise(mem, PAGE);
	for (unsigned int i = 0; i < 200; i++) {
		memset(cr, 0, sizeof(*cr));
		d = td_desc(DSA_OP_MEMMOVE, 0, mem + i, mem + PAGE, 100 + i, cr);
		CU_ASSERT_EQUAL(tc_write(&td.tc, DSA_BAR_PORTALS, i % DSA_PORTAL_SLOTS * sizeof(d), &d, sizeof(d)), 0);
		CU_ASSERT_EQUAL(td_wait(&td, cr), DSA_ST_SUCCESS);
		CU_ASSERT_EQUAL(memcmp(mem + i, mem + PAGE, 100 + i), 0);
	}
	tc_stop(&td.tc);
	munmap(cr, PAGE);
	munmap(mem, 2 * PAGE);
}

/* By messages, overlapping: a slice that is written is not read again on the other side, where it would be the wrong bytes. */
static void test_migrate_messages(void)
{
	static uint8_t ram[80 * 4096] __attribute__((aligned(4096))), want[60 * 4096], stream[1 << 18];
	struct dsa_completion *cr = (void *)ram;
	uint8_t *mem = ram + PAGE;
	struct dsa_desc d;
	struct td td;
	size_t len;

	memset(ram, 0, sizeof(ram));
	randomise(mem, 60 * PAGE);
	memcpy(want, mem, 60 * PAGE);
	for (unsigned int hop = 0; hop < 40; hop++) {
		td_start(&td, "dsa");
		td.tc.auto_dma = true;
		td.tc.ram = ram;
		td.tc.ram_len = sizeof(ram);
		td.tc.ram_iova = 0x100000;
		CU_ASSERT_EQUAL(tc_map(&td.tc, 0x100000, sizeof(ram), 0, RW, -1), 0);
		if (hop == 0) {
			td_up(&td, 0, 0);
			d = td_desc(DSA_OP_MEMMOVE, 0, (void *)(0x100000ul + PAGE + 64), (void *)(0x100000ul + PAGE), 59 * PAGE,
				    (void *)0x100000ul);
			td_submit(&td, 0, &d);
		} else {
			CU_ASSERT_EQUAL_FATAL(stream_in(&td, stream, len), 0);
		}
		for (unsigned int i = 0; i < hop % 5; i++)
			tc_r32(&td.tc, DSA_REG_VERSION);
		CU_ASSERT_EQUAL_FATAL(tc_mig_set(&td.tc, SVIO_VFU_STATE_STOP_COPY), 0);
		len = stream_out(&td, stream, sizeof(stream));
		td_stop(&td);
	}
	CU_ASSERT_EQUAL(cr->status, DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(memcmp(mem, want + 64, 59 * PAGE), 0);
}

/* The source is unmapped while a message asks for it: a page fault, and nothing made up is written. */
static void test_unmap_messages(void)
{
	static uint8_t ram[16 * 4096];
	struct dsa_completion *cr = (void *)ram;
	struct dsa_desc d;
	struct td td;

	memset(ram, 0x11, sizeof(ram));
	memset(cr, 0, sizeof(*cr));
	td_start(&td, "dsa");
	td.tc.ram = ram;
	td.tc.ram_len = sizeof(ram);
	td.tc.ram_iova = 0x100000;
	CU_ASSERT_EQUAL(tc_map(&td.tc, 0x100000, 8 * PAGE, 0, RW, -1), 0);
	CU_ASSERT_EQUAL(tc_map(&td.tc, 0x100000 + 8 * PAGE, 8 * PAGE, 0, RW, -1), 0);
	td_up(&td, 0, 0);
	d = td_desc(DSA_OP_MEMMOVE, 0, (void *)(0x100000ul + 9 * PAGE), (void *)(0x100000ul + PAGE), PAGE, (void *)0x100000ul);
	td_submit(&td, 0, &d);
	tc_rounds(&td.tc, 5); /* the question is out, and is not answered */
	{
		struct svio_vfu_dma_unmap u = { .argsz = sizeof(u), .iova = 0x100000 + 8 * PAGE, .size = 8 * PAGE };

		tc_send(&td.tc, SVIO_VFU_DMA_UNMAP, 0, &u, sizeof(u), NULL, 0);
		tc_rounds(&td.tc, 5);
	}
	td.tc.auto_dma = true;
	while (tc_recv(&td.tc) && td.tc.hdr.cmd != SVIO_VFU_DMA_UNMAP)
		;
	CU_ASSERT_EQUAL(td_wait(&td, cr), DSA_ST_PAGE_FAULT);
	for (uint32_t i = 0; i < PAGE; i++)
		CU_ASSERT_EQUAL_FATAL(ram[PAGE + i], 0x11);
	td_stop(&td);
}

/* Two WQs of two groups, in two spaces, at once. */
static void test_two(void)
{
	struct dsa_completion *cr = (void *)pages(1), *cr1;
	uint8_t *mem = pages(600), *shared;
	struct dsa_desc d;
	struct td td;
	int fd;

	td_start(&td, "dsa");
	fd = tc_memfd(1 << 20, F_SEAL_SHRINK, (void **)&shared);
	CU_ASSERT_EQUAL(tc_map(&td.tc, 0x10000, 1 << 20, 0, RW, fd), 0);
	cr1 = (void *)shared;
	td_config(&td, 0, 64, DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(td_bind(&td)));
	td_config(&td, 1, 64, 0);
	CU_ASSERT_EQUAL_FATAL(td_cmd(&td, DSA_CMD_ENABLE_DEVICE, 0) | td_cmd(&td, DSA_CMD_ENABLE_WQ, 0) |
			      td_cmd(&td, DSA_CMD_ENABLE_WQ, 1), 0);
	randomise(mem, 300 * PAGE);
	randomise(shared + PAGE, 100 * PAGE);
	d = td_desc(DSA_OP_MEMMOVE, 0, mem, mem + 300 * PAGE, 300 * PAGE, cr);
	td_submit(&td, 0, &d);
	d = td_desc(DSA_OP_MEMMOVE, 0, (void *)(0x10000ul + PAGE), (void *)(0x10000ul + 110 * PAGE), 100 * PAGE, (void *)0x10000ul);
	td_submit(&td, 1, &d);
	CU_ASSERT_EQUAL(td_wait(&td, cr1), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(td_wait(&td, cr), DSA_ST_SUCCESS);
	CU_ASSERT_EQUAL(memcmp(mem, mem + 300 * PAGE, 300 * PAGE), 0);
	CU_ASSERT_EQUAL(memcmp(shared + PAGE, shared + 110 * PAGE, 100 * PAGE), 0);
	td_stop(&td);
	munmap(cr, PAGE);
	munmap(mem, 600 * PAGE);
	munmap(shared, 1 << 20);
	close(fd);
}

static const struct unit_test tests[] = {
	{ "configuration is checked, commands end as specified", test_commands },
	{ "operations by IOVA, against C", test_iova },
	{ "operations by messages", test_messages },
	{ "operations by PASID on malloced memory", test_pasid },
	{ "page faults by PASID: partial, and exactly so", test_partial },
	{ "page faults by IOVA; bus mastering off", test_partial_iova },
	{ "descriptors that are not valid; SWERROR", test_invalid },
	{ "batches and fences", test_batch },
	{ "drain, with two engines and a small WQ", test_drain },
	{ "interrupts", test_interrupts },
	{ "two WQs, two address spaces", test_two },
	{ "long operations leave the server free; disable finishes them", test_slices },
	{ "abort, reset, unbind, disconnect in the middle: nothing is written afterwards", test_abort },
	{ "block-on-fault: pages on request", test_paging },
	{ "migration in the middle of everything, twelve times", test_migrate },
	{ "migration by PASID: bound anew on the target, or not", test_migrate_pasid },
	{ "descriptors by messages", test_portal_messages },
	{ "migration between the messages of a copy", test_migrate_messages },
	{ "unmapping between the messages of a copy", test_unmap_messages },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/dsa", tests);
}
