/* SPDX-License-Identifier: BSD-3-Clause */
/* PRP and SGL building against an oracle that describes a transfer page by page, as 1.4 §4.3 words it. */
#include <stdlib.h>
#include <string.h>
#include "nvme_priv.h"
#include "unit.h"

#define MAX_PAGES 9000u

static uint64_t rng = 1;

static uint32_t rnd(uint32_t n)
{
	rng = rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(rng >> 33) % n;
}

/* The pages that a controller would visit, read back from PRP1, PRP2 and the list. Returns their number, or -1. */
static int walk(const struct nvme_prp *p, uint64_t prp2, uint64_t len, uint64_t *pages)
{
	uint64_t ps = p->page_size, first = ps - (p->prp1 & (ps - 1)), left, word = 0;
	int n = 0;

	pages[n++] = p->prp1;
	if (len <= first)
		return prp2 == 0 ? n : -1;
	left = len - first;
	if (left <= ps) {
		pages[n++] = prp2;
		return n;
	}
	if (prp2 != p->list_iova)
		return -1;
	while (left) {
		uint64_t e;

		if (word >= p->list_words)
			return -1;
		e = le64toh(p->list[word]);
		if (word % (ps / 8) == ps / 8 - 1 && left > ps) {
			if (e != p->list_iova + (word + 1) * 8)
				return -1;
			word++;
			continue;
		}
		pages[n++] = e;
		word++;
		left -= SVIO_MIN(left, ps);
	}
	return n;
}

static void check(uint32_t ps, uint64_t iova, uint64_t len, void *list, uint64_t *pages)
{
	uint32_t bytes = nvme_prp_list_bytes(len, ps);
	struct nvme_prp p;
	uint64_t page = iova & ~(uint64_t)(ps - 1);
	int n, want = (int)(((iova & (ps - 1)) + len + ps - 1) / ps);

	memset(list, 0xee, bytes + 64);
	nvme_prp_begin(&p, list, 0x7000000, bytes, ps);
	CU_ASSERT_EQUAL_FATAL(nvme_prp_add(&p, iova, len), 0);
	n = walk(&p, nvme_prp_end(&p), len, pages);
	CU_ASSERT_EQUAL_FATAL(n, want);
	for (int i = 0; i < n; i++)
		if (pages[i] != (i == 0 ? iova : page + (uint64_t)i * ps))
			CU_FAIL_FATAL("wrong page");
	/* Nothing beyond what the list was sized for. */
	for (uint32_t i = 0; i < 64; i++)
		CU_ASSERT_EQUAL_FATAL(((uint8_t *)list)[bytes + i], 0xee);
}

static void test_boundaries(void)
{
	static const uint64_t lens[] = { 4, 512, 4092, 4096, 4100, 8188, 8192, 8196, 12288, 65536, 511u << 12, 512u << 12,
					 513u << 12, 514u << 12, 1023u << 12, 1024u << 12, 1025u << 12, 32u << 20 };
	static const uint64_t offs[] = { 0, 4, 512, 2048, 4088, 4092 };
	void *list = malloc(1 << 20);
	uint64_t *pages = malloc(MAX_PAGES * sizeof(*pages));

	for (size_t l = 0; l < SVIO_ARRAY_SIZE(lens); l++)
		for (size_t o = 0; o < SVIO_ARRAY_SIZE(offs); o++)
			for (uint64_t d = 0; d < 9; d += 4) /* around each */
				check(4096, 0x123000 + offs[o], lens[l] + d, list, pages);
	free(list);
	free(pages);
}

/* Every length up to three list pages, one page size at a time, every alignment class. */
static void test_property(void)
{
	void *list = malloc(1 << 20);
	uint64_t *pages = malloc(MAX_PAGES * sizeof(*pages));

	for (int i = 0; i < 20000; i++) {
		uint32_t ps = 4096u << rnd(3);
		uint64_t len = 4 + (uint64_t)rnd(1200 * 4096 / 4) * 4;

		check(ps, 0x100000000 + (uint64_t)rnd(1 << 20) * 4, len, list, pages);
	}
	free(list);
	free(pages);
}

/* The same transfer in random pieces cut at page boundaries gives the same pages. */
static void test_pieces(void)
{
	void *list = malloc(1 << 20);
	uint64_t *pages = malloc(MAX_PAGES * sizeof(*pages)), *want = malloc(MAX_PAGES * sizeof(*pages));

	for (int round = 0; round < 5000; round++) {
		uint32_t pieces = 1 + rnd(20);
		struct nvme_prp p;
		uint64_t len = 0;
		int n = 0, got;

		nvme_prp_begin(&p, list, 0x9000000, nvme_prp_list_bytes(20 * 40 * 4096, 4096), 4096);
		for (uint32_t i = 0; i < pieces; i++) {
			uint64_t base = (uint64_t)(1 + rnd(1 << 20)) << 12, plen = (uint64_t)(1 + rnd(40)) << 12;

			if (i == 0 && rnd(2)) { /* the first may begin inside a page */
				uint64_t cut = (uint64_t)rnd(1023) * 4 + 4;

				base += cut;
				plen -= cut;
			}
			if (i == pieces - 1 && rnd(2) && plen > 4096)
				plen -= (uint64_t)rnd(1023) * 4; /* and the last may end in one */
			CU_ASSERT_EQUAL_FATAL(nvme_prp_add(&p, base, plen), 0);
			for (uint64_t a = base; a < base + plen; a = (a & ~UINT64_C(4095)) + 4096)
				want[n++] = a;
			len += plen;
		}
		got = walk(&p, nvme_prp_end(&p), len, pages);
		CU_ASSERT_EQUAL_FATAL(got, n);
		CU_ASSERT_EQUAL_FATAL(memcmp(pages, want, (size_t)n * sizeof(*want)), 0);
	}
	free(list);
	free(pages);
	free(want);
}

static void test_refused(void)
{
	uint64_t list[512];
	struct nvme_prp p;

	nvme_prp_begin(&p, list, 0x1000, sizeof(list), 4096);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x2002, 512), -EINVAL); /* not a dword */
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x2000, 0), -EINVAL);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x2000, 512), 0);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x3000, 512), -EINVAL); /* after an end inside a page */
	nvme_prp_begin(&p, list, 0x1000, sizeof(list), 4096);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x2000, 4096), 0);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x3200, 512), -EINVAL); /* a later start inside a page */
	nvme_prp_begin(&p, list, 0x1000, sizeof(list), 4096);
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x2000, 513 * 4096), 0); /* exactly a full list */
	CU_ASSERT_EQUAL(nvme_prp_add(&p, 0x400000, 4096), -EINVAL); /* and one more: no second page */
}

static void test_sgl(void)
{
	struct nvme_sgl list[4], d;
	struct nvme_sgl_build s;

	nvme_sgl_begin(&s, list, 0x5000, sizeof(list));
	CU_ASSERT_EQUAL(nvme_sgl_add(&s, 0x1234, 100), 0);
	d = nvme_sgl_end(&s);
	CU_ASSERT_EQUAL(d.type, NVME_SGL_DATA);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(d.addr), 0x1234);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(d.len), 100);
	for (int i = 0; i < 3; i++)
		CU_ASSERT_EQUAL(nvme_sgl_add(&s, 0x1000, 8), 0);
	CU_ASSERT_EQUAL(nvme_sgl_add(&s, 0x1000, 8), -EINVAL);
	d = nvme_sgl_end(&s);
	CU_ASSERT_EQUAL(d.type, NVME_SGL_LAST);
	CU_ASSERT_EQUAL(svio_le64_to_cpu(d.addr), 0x5000);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(d.len), 64);
	nvme_sgl_begin(&s, list, 0x5000, sizeof(list));
	CU_ASSERT_EQUAL(nvme_sgl_add(&s, 0x1000, 0), -EINVAL);
	CU_ASSERT_EQUAL(nvme_sgl_add(&s, 0x1000, UINT64_C(1) << 32), -EINVAL);
}

static const struct unit_test tests[] = {
	{ "PRP: lengths and alignments around every boundary", test_boundaries },
	{ "PRP: random transfers equal the oracle", test_property },
	{ "PRP: pieces equal the whole", test_pieces },
	{ "PRP: what cannot be said is refused", test_refused },
	{ "SGL: one descriptor, a segment, limits", test_sgl },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/prp", tests);
}
