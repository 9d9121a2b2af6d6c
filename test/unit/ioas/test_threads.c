/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Translation by three threads without a lock, while a fourth maps and unmaps. What stands must always be found; what comes and
 * goes is found rightly or not at all: never with the offset of another mapping. Run it under ThreadSanitizer too: slowed down,
 * it also meets the writer between two of a reader's loads, which at full speed it practically never does.
 */
#include "fake.h"

#define RW	(SVIO_DMA_READ | SVIO_DMA_WRITE)
#define READERS 3
#define ROUNDS	20000
#define SHAPES	6

/* Overlapping shapes, of which one at a time is mapped: the same descriptors and hot ranges are used for each in turn. */
static const struct {
	uint64_t off, len;
} shape[SHAPES] = {
	{ 16 * 1024 * 1024, 4096 },
	{ 16 * 1024 * 1024, 32 * 1024 * 1024 },
	{ 18 * 1024 * 1024, 8 * 1024 * 1024 },
	{ 16 * 1024 * 1024 + 4096, 64 * 1024 },
	{ 20 * 1024 * 1024 - 8192, 2 * 1024 * 1024 + 16384 },
	{ 24 * 1024 * 1024, 24 * 1024 * 1024 },
};

static struct svio_ioas *ioas;
static uint8_t *span;
static uint64_t stands_iova;
static uint64_t delta[SHAPES]; /* IOVA - address of each shape, as first seen; first fit finds the same place every time */
static atomic_bool stop;

static void *reader(void *arg)
{
	uint64_t x = 88172645463325252 + (uintptr_t)arg, hits = 0, wrong = 0;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint64_t off, len, got;
		bool known;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		off = x % (4 * MIB);
		wrong += svio_ioas_iova(ioas, span + off) != stands_iova + off;
		off = 16 * MIB + (x >> 8) % (33 * MIB) - MIB / 2;
		len = 1 + (x >> 40) % 5000;
		got = svio_ioas_iova_range(ioas, span + off, len);
		known = got == SVIO_IOVA_BAD;
		for (int i = 0; i < SHAPES; i++)
			known |= off >= shape[i].off && off + len <= shape[i].off + shape[i].len &&
				 got == (uint64_t)(uintptr_t)span + off + delta[i];
		wrong += !known;
		hits += got != SVIO_IOVA_BAD;
	}
	/* No luck on a busy machine is no error; a wrong answer is. */
	return (void *)(uintptr_t)(wrong ? UINT64_MAX : hits);
}

static void test_readers(void)
{
	struct fake_dev a;
	pthread_t t[READERS];
	uint64_t iova, moved = 0, hits = 0;
	void *ret;

	ioas = make_ioas(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY);
	span = addresses(64 * MIB, 2 * MIB);
	fake_init(&a, "a", 48);
	CU_ASSERT_EQUAL(svio_ioas_attach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, span, 4 * MIB, RW, -1, 0, &stands_iova), 0);
	for (int i = 0; i < SHAPES; i++) {
		CU_ASSERT_EQUAL(svio_ioas_map(ioas, span + shape[i].off, shape[i].len, RW, -1, 0, &iova), 0);
		delta[i] = iova - (uint64_t)(uintptr_t)(span + shape[i].off);
		CU_ASSERT_EQUAL(svio_ioas_unmap(ioas, span + shape[i].off, shape[i].len), 0);
	}
	/* Otherwise a mix of two shapes could not be told from one. */
	CU_ASSERT_NOT_EQUAL(delta[0], delta[3]);
	CU_ASSERT_NOT_EQUAL(delta[1], delta[2]);

	for (uintptr_t i = 0; i < READERS; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, reader, (void *)(i + 1)), 0);
	for (int r = 0; r < ROUNDS; r++) {
		int i = r % SHAPES;

		if (svio_ioas_map(ioas, span + shape[i].off, shape[i].len, RW, -1, 0, &iova))
			CU_FAIL("map");
		moved += iova != delta[i] + (uint64_t)(uintptr_t)(span + shape[i].off);
		if (svio_ioas_unmap(ioas, span + shape[i].off, shape[i].len))
			CU_FAIL("unmap");
	}
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++) {
		pthread_join(t[i], &ret);
		CU_ASSERT_NOT_EQUAL((uintptr_t)ret, (uintptr_t)UINT64_MAX);
		hits += (uintptr_t)ret;
	}
	CU_ASSERT_EQUAL(moved, 0);
	printf(" [%lu translations of what comes and goes]", (unsigned long)hits);
	CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&a)), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	CU_ASSERT(fake_is_clean(&a));
	munmap(span, 64 * MIB);
}

/*
 * The words of one mapping are changed under a reader's hands, as when it is reused, but as fast as a thread can: between
 * "2 MiB with one offset" and "1 MiB with another". An address in the second half is only ever in the first of them.
 */
static struct ioas_mapping *victim;

static void *rewriter(void *arg)
{
	uint64_t va = (uintptr_t)arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		svio__ioas_mapping_write(victim, va, MIB, 0x2000000000);
		svio__ioas_mapping_write(victim, va, 2 * MIB, 0x1000000000);
	}
	return NULL;
}

static void test_reuse(void)
{
	uint64_t va, got, hits = 0, misses = 0, wrong = 0;
	pthread_t t;

	ioas = make_ioas(SVIO_IOAS_NO_AUTO);
	span = addresses(2 * MIB, 2 * MIB);
	va = (uintptr_t)span;
	CU_ASSERT_EQUAL(svio_ioas_map(ioas, span, 2 * MIB, RW, -1, 0, &got), 0);
	victim = svio__ioas_find(ioas, va, 2 * MIB, IOAS_USER);
	CU_ASSERT_PTR_NOT_NULL_FATAL(victim);
	/* Half done is not mapped. */
	atomic_fetch_add(&victim->seq, 1);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, va, 1), SVIO_IOVA_BAD);
	atomic_fetch_add(&victim->seq, 1);
	CU_ASSERT_EQUAL(svio_ioas_lookup(ioas, va, 1), va);

	atomic_store(&stop, false);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, rewriter, span), 0);
	/* Until both were seen often enough: on a machine with one processor that takes a few time slices. */
	for (uint64_t i = 0; (hits < 100000 || misses < 100000) && i < UINT64_C(2000000000); i++) {
		got = svio_ioas_lookup(ioas, va + MIB + 123, 1);
		hits += got == va + MIB + 123 + 0x1000000000;
		misses += got == SVIO_IOVA_BAD;
		wrong += got == va + MIB + 123 + 0x2000000000;
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT(hits > 0 && misses > 0);
	svio__ioas_mapping_write(victim, va, 2 * MIB, 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	munmap(span, 2 * MIB);
}

static const struct unit_test tests[] = {
	{ "readers never see a torn or foreign translation", test_readers },
	{ "a mapping changed under a reader's hands", test_reuse },
	{ NULL, NULL }
};

int main(void)
{
	return unit_run("ioas/threads", tests);
}
