/* SPDX-License-Identifier: BSD-3-Clause */
/* The dirty log is exact: every page written since the last report, and no other. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client.h"

#define RW (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)
#define P  UINT64_C(0x1000)

static int start(struct tc *tc, uint64_t page, const struct svio_vfu_dma_log_range *r, uint32_t n)
{
	uint8_t m[4096];
	struct svio_vfu_dma_log_start s = { .page_size = page, .num_ranges = n };

	memcpy(m, &s, sizeof(s));
	if (n)
		memcpy(m + sizeof(s), r, n * sizeof(*r));
	return tc_feature(tc, SVIO_VFU_FEATURE_DMA_LOGGING_START | SVIO_VFU_FEATURE_SET, m, sizeof(s) + n * sizeof(*r), 4096);
}

static int stop(struct tc *tc)
{
	return tc_feature(tc, SVIO_VFU_FEATURE_DMA_LOGGING_STOP | SVIO_VFU_FEATURE_SET, NULL, 0, 8);
}

/* Bits of the report, words of them in `map`. */
static int report(struct tc *tc, uint64_t iova, uint64_t len, uint64_t page, uint64_t *map, size_t words)
{
	struct svio_vfu_dma_log_report r = { .iova = iova, .length = len, .page_size = page };
	int err = tc_feature(tc, SVIO_VFU_FEATURE_DMA_LOGGING_REPORT | SVIO_VFU_FEATURE_GET, &r, sizeof(r),
			     (uint32_t)(32 + words * 8));

	if (err)
		return err;
	CU_ASSERT_EQUAL_FATAL(tc->len, 32 + words * 8);
	memcpy(map, tc->data + 32, words * 8);
	return 0;
}

static void test_exact(void)
{
	uint64_t map[40], want[40];
	struct svio_vfu_feature f;
	unsigned int seed = 1;
	uint8_t *mem;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	fd = tc_memfd(2560 * P, F_SEAL_SHRINK, (void **)&mem);
	/* across a boundary of the log's chunks (128 MiB) */
	CU_ASSERT_EQUAL(tc_map(&tc, 0x8000000 - 1000 * P, 2560 * P, 0, RW, fd), 0);
	svio_vdev_dma_mark(tc.dev, 0x8000000, P); /* off: nothing */
	CU_ASSERT_EQUAL(report(&tc, 0, P, P, map, 1), -EINVAL);
	CU_ASSERT_EQUAL(start(&tc, P, NULL, 0), 0);
	memcpy(&f, tc.data, sizeof(f));
	CU_ASSERT_EQUAL(f.argsz, 24);
	CU_ASSERT_EQUAL(start(&tc, P, NULL, 0), -EBUSY);
	for (int round = 0; round < 20; round++) {
		memset(want, 0, sizeof(want));
		for (int i = 0; i < 40; i++) {
			uint64_t off = (uint64_t)rand_r(&seed) % (2560 * P - 20000), len = (uint64_t)rand_r(&seed) % 20000;
			uint8_t *p = svio_vdev_dma_ptr(tc.dev, 0x8000000 - 1000 * P + off, len, SVIO_VDEV_WRITE);

			CU_ASSERT_PTR_NOT_NULL_FATAL(p);
			if (len)
				p[0] = p[len - 1] = 1;
			svio_vdev_dma_mark(tc.dev, 0x8000000 - 1000 * P + off, len);
			for (uint64_t pg = off / P; len && pg <= (off + len - 1) / P; pg++)
				svio_bitmap_set(want, pg);
		}
		CU_ASSERT_EQUAL(report(&tc, 0x8000000 - 1000 * P, 2560 * P, P, map, 40), 0);
		CU_ASSERT_EQUAL(memcmp(map, want, sizeof(map)), 0);
	}
	/* reported once */
	CU_ASSERT_EQUAL(report(&tc, 0x8000000 - 1000 * P, 2560 * P, P, map, 40), 0);
	CU_ASSERT_EQUAL(svio_bitmap_weight(map, 2560), 0);
	CU_ASSERT_EQUAL(stop(&tc), 0);
	CU_ASSERT_EQUAL(report(&tc, 0, P, P, map, 1), -EINVAL);
	munmap(mem, 2560 * P);
	close(fd);
	tc_stop(&tc);
}

static void test_sizes(void)
{
	uint64_t map[8];
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	fd = tc_memfd(64 * P, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 64 * P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(start(&tc, P, NULL, 0), 0);
	/* reported coarser */
	svio_vdev_dma_mark(tc.dev, 17 * P + 5, 1);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, 16 * P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 1u << 1);
	/* reported finer than logged: replicated */
	svio_vdev_dma_mark(tc.dev, 2 * P, 1);
	CU_ASSERT_EQUAL(report(&tc, 0, 4 * P, P / 4, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 0xf00);
	/* a page cut by the range is reported and stays dirty */
	svio_vdev_dma_mark(tc.dev, 3 * P, P);
	CU_ASSERT_EQUAL(report(&tc, 3 * P + P / 2, P, P / 2, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 1);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 1u << 3);
	/* part of the range leaves the rest dirty */
	svio_vdev_dma_mark(tc.dev, 0, 64 * P);
	CU_ASSERT_EQUAL(report(&tc, 10 * P, 20 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], (1u << 20) - 1);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], ~(((UINT64_C(1) << 20) - 1) << 10));
	/* too little room for the answer: told so, and nothing is lost */
	svio_vdev_dma_mark(tc.dev, 5 * P, 1);
	{
		struct svio_vfu_dma_log_report r = { .iova = 0, .length = 64 * P, .page_size = P };
		struct svio_vfu_feature f;

		CU_ASSERT_EQUAL(tc_feature(&tc, SVIO_VFU_FEATURE_DMA_LOGGING_REPORT | SVIO_VFU_FEATURE_GET, &r, sizeof(r), 39), 0);
		memcpy(&f, tc.data, sizeof(f));
		CU_ASSERT(tc.len == 8 && f.argsz == 40);
	}
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 1u << 5);
	close(fd);
	tc_stop(&tc);
	/* a coarser log */
	tc_start(&tc, "probe", 0);
	fd = tc_memfd(64 * P, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(start(&tc, 4 * P, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 64 * P, 0, RW, fd), 0); /* mapped while logging */
	svio_vdev_dma_mark(tc.dev, 5 * P, 1);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 0xf0);
	close(fd);
	tc_stop(&tc);
}

static void test_ranges(void)
{
	struct svio_vfu_dma_log_range r[2] = { { 10 * P, 5 * P }, { 40 * P, P } };
	uint64_t map[4];
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	fd = tc_memfd(64 * P, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 64 * P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(start(&tc, P, r, 2), 0);
	CU_ASSERT_EQUAL(tc.len, 8 + 16 + 32);
	svio_vdev_dma_mark(tc.dev, 0, 64 * P);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], UINT64_C(0x1f) << 10 | UINT64_C(1) << 40);
	/* writes to nowhere */
	svio_vdev_dma_mark(tc.dev, UINT64_C(1) << 50, P);
	svio_vdev_dma_mark(tc.dev, UINT64_MAX, 2);
	CU_ASSERT_EQUAL(report(&tc, 0, 64 * P, P, map, 1), 0);
	CU_ASSERT_EQUAL(map[0], 0);
	close(fd);
	tc_stop(&tc);
}

static void test_bad(void)
{
	struct svio_vfu_dma_log_range r[1] = { { UINT64_MAX, 2 } };
	struct svio_vfu_dma_log_start s = { .page_size = P, .num_ranges = 2 };
	uint64_t map[8];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(start(&tc, P, r, 1), -EINVAL);
	r[0].iova = 0;
	r[0].length = 0;
	CU_ASSERT_EQUAL(start(&tc, P, r, 1), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&tc, SVIO_VFU_FEATURE_DMA_LOGGING_START | SVIO_VFU_FEATURE_SET, &s, sizeof(s), 4096), -EINVAL);
	s.num_ranges = UINT32_MAX;
	CU_ASSERT_EQUAL(tc_feature(&tc, SVIO_VFU_FEATURE_DMA_LOGGING_START | SVIO_VFU_FEATURE_SET, &s, sizeof(s), 4096), -EINVAL);
	CU_ASSERT_EQUAL(start(&tc, 12345, NULL, 0), 0); /* a hint that cannot be: the device chooses */
	memcpy(&s, tc.data + 8, sizeof(s));
	CU_ASSERT_EQUAL(s.page_size, P);
	CU_ASSERT_EQUAL(report(&tc, 0, 0, P, map, 1), -EINVAL);
	CU_ASSERT_EQUAL(report(&tc, 0, P, 0, map, 1), -EINVAL);
	CU_ASSERT_EQUAL(report(&tc, 0, P, 3, map, 1), -EINVAL);
	CU_ASSERT_EQUAL(report(&tc, UINT64_MAX, P, P, map, 1), -EINVAL);
	CU_ASSERT_EQUAL(report(&tc, 0, UINT64_MAX, P, map, 1), -E2BIG);
	CU_ASSERT_EQUAL(report(&tc, 0, UINT64_MAX, UINT64_C(1) << 63, map, 1), 0);
	/* 8 bytes of body: the structure is missing ([L]'s heap overread) */
	CU_ASSERT_EQUAL(tc_feature(&tc, SVIO_VFU_FEATURE_DMA_LOGGING_REPORT | SVIO_VFU_FEATURE_GET, NULL, 0, 4096), -EINVAL);
	/* probing, both methods at once, unknown features and flags */
	CU_ASSERT_EQUAL(tc_feature(&tc, 6 | SVIO_VFU_FEATURE_PROBE | SVIO_VFU_FEATURE_SET, NULL, 0, 8), 0);
	CU_ASSERT_EQUAL(tc_feature(&tc, 6 | SVIO_VFU_FEATURE_PROBE | SVIO_VFU_FEATURE_GET, NULL, 0, 8), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&tc, 2 | SVIO_VFU_FEATURE_PROBE | SVIO_VFU_FEATURE_GET | SVIO_VFU_FEATURE_SET, NULL, 0, 8), 0);
	CU_ASSERT_EQUAL(tc_feature(&tc, 2 | SVIO_VFU_FEATURE_GET | SVIO_VFU_FEATURE_SET, NULL, 0, 8), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&tc, 2, NULL, 0, 8), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&tc, 3 | SVIO_VFU_FEATURE_GET, NULL, 0, 8), -ENOTTY);
	CU_ASSERT_EQUAL(tc_feature(&tc, 6 | SVIO_VFU_FEATURE_SET | 1u << 19, NULL, 0, 8), -EINVAL);
	CU_ASSERT_EQUAL(tc_feature(&tc, 6 | SVIO_VFU_FEATURE_PROBE, NULL, 0, 7), -EINVAL);
	tc_stop(&tc);
	/* absurdly large sparse files are refused, not tracked */
	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(start(&tc, P, NULL, 0), 0);
	{
		int fd = tc_memfd(UINT64_C(1) << 46, F_SEAL_SHRINK, NULL);

		CU_ASSERT_NOT_EQUAL(tc_map(&tc, 0, UINT64_C(1) << 46, 0, RW, fd), 0);
		CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, fd), 0);
		close(fd);
	}
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "reports are exact against a reference over random writes", test_exact },
	{ "page sizes: coarser, finer, cut pages, argsz", test_sizes },
	{ "only the logged ranges", test_ranges },
	{ "requests that cannot be; PROBE", test_bad },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/dirty", tests);
}
