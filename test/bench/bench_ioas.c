/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Cost of svio_ioas_iova(): in the hot range, and in the radix table with leaves of 1 GiB, 2 MiB and 4 KiB.
 *
 *	bench_ioas [--only hot|radix|radix2m|radix1g] [--count N]
 *
 * Prints nanoseconds for each translation. The loop itself is measured too ("loop": the same addresses, not translated) and
 * not subtracted. No device is needed: a mapping whose IOVA is asked for is in the table at once. For instruction counts:
 *
 *	valgrind --tool=callgrind --toggle-collect=bench_hot bench_ioas --only hot --count 1000000
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "svio_ioas.h"

#define KIB UINT64_C(1024)
#define GIB (UINT64_C(1) << 30)
#define RW  (SVIO_DMA_READ | SVIO_DMA_WRITE)

/* Addresses walk the range by an odd number of lines, so that no cache learns a short cycle: 6 instructions for every range. */
static inline uint64_t step(uint64_t at, uint64_t len)
{
	at += 64 * 607;
	return at < len ? at : at - len;
}

uint64_t bench_loop(const struct svio_ioas *ioas, const uint8_t *base, uint64_t len, uint64_t count);
uint64_t bench_hot(const struct svio_ioas *ioas, const uint8_t *base, uint64_t len, uint64_t count);

/* Not static and not inlined: callgrind finds them by name. */
__attribute__((noinline)) uint64_t bench_loop(const struct svio_ioas *ioas, const uint8_t *base, uint64_t len, uint64_t count)
{
	uint64_t sum = 0, at = 0;

	(void)ioas;
	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *p = base + at;

		__asm__ volatile("" : "+r"(p));
		sum += (uintptr_t)p;
		at = step(at, len);
	}
	return sum;
}

__attribute__((noinline)) uint64_t bench_hot(const struct svio_ioas *ioas, const uint8_t *base, uint64_t len, uint64_t count)
{
	uint64_t sum = 0, at = 0;

	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *p = base + at;

		__asm__ volatile("" : "+r"(p));
		sum += svio_ioas_iova(ioas, p);
		at = step(at, len);
	}
	return sum;
}

static void *addresses(uint64_t len)
{
	void *p = mmap(NULL, len + GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		fprintf(stderr, "bench_ioas: cannot reserve %" PRIu64 " bytes of addresses: %m\n", len);
		exit(1);
	}
	return (void *)SVIO_ALIGN_UP((uintptr_t)p, (uintptr_t)GIB);
}

int main(int argc, char **argv)
{
	const struct svio_ioas_opts opts = { .size = sizeof(opts), .flags = SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY };
	struct {
		const char *name;
		uint64_t len;
		uint8_t *base;
	} range[] = {
		{ "hot", 8 * GIB, NULL }, { "radix", 1020 * KIB, NULL }, { "radix2m", GIB / 2, NULL }, { "radix1g", 2 * GIB, NULL },
	};
	const char *only = NULL;
	uint64_t count = 100000000, iova, start, ns, sum = 0;
	struct svio_ioas *ioas;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--only") && i + 1 < argc) {
			only = argv[++i];
		} else if (!strcmp(argv[i], "--count") && i + 1 < argc && !svio_parse_u64(argv[i + 1], UINT64_MAX, &count) && count) {
			i++;
		} else {
			fprintf(stderr, "usage: bench_ioas [--only hot|radix|radix2m|radix1g] [--count N]\n");
			return 2;
		}
	}
	if (svio_ioas_create(&opts, &ioas))
		goto fail;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(range); i++) {
		range[i].base = addresses(range[i].len);
		if (svio_ioas_map(ioas, range[i].base, range[i].len, RW, -1, 0, &iova))
			goto fail;
		/* The right thing is measured. */
		if (svio_ioas_iova(ioas, range[i].base + range[i].len - 1) != iova + range[i].len - 1 ||
		    svio_ioas_iova(ioas, range[i].base + range[i].len) != SVIO_IOVA_BAD) {
			fprintf(stderr, "bench_ioas: wrong translation\n");
			return 1;
		}
	}
	if (!only) {
		start = svio_now_ns();
		sum += bench_loop(ioas, range[0].base, range[0].len, count);
		ns = svio_now_ns() - start;
		printf("%-8s %8.2f ns\n", "loop", (double)ns / (double)count);
	}
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(range); i++) {
		if (only && strcmp(only, range[i].name))
			continue;
		start = svio_now_ns();
		sum += bench_hot(ioas, range[i].base, range[i].len, count);
		ns = svio_now_ns() - start;
		printf("%-8s %8.2f ns\n", range[i].name, (double)ns / (double)count);
	}
	__asm__ volatile("" : : "r"(sum));
	svio_ioas_destroy(ioas);
	return 0;
fail:
	fprintf(stderr, "bench_ioas: %s\n", svio_last_error());
	return 1;
}
