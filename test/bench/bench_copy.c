/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a copy alone costs: random blocks of 256 MiB of memory, in huge pages where the kernel gives them, into 32 buffers
 * that stay in the cache, as a device model on memory does. Prints nanoseconds a block. A yardstick for test/bench/vfio_user:
 * no device in software can be faster than this.
 *
 *	bench_copy BLOCK_SIZE
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES	(UINT64_C(256) << 20)
#define BUFFERS 32u
#define ROUNDS	5

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t random_block(uint64_t blocks)
{
	static uint64_t x = UINT64_C(88172645463325252); /* xorshift64 (Marsaglia, 2003) */

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x % blocks;
}

int main(int argc, char **argv)
{
	uint64_t size = argc == 2 ? strtoull(argv[1], NULL, 0) : 0, count, best = UINT64_MAX;
	uint8_t *memory, *buffers;

	if (size < 512 || size > (1u << 20) || size % 512) {
		fprintf(stderr, "usage: bench_copy BLOCK_SIZE (512 to 1048576, a multiple of 512)\n");
		return 2;
	}
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	buffers = aligned_alloc(4096, (BUFFERS * size + 4095) & ~UINT64_C(4095));
	if (memory == MAP_FAILED || !buffers) {
		fprintf(stderr, "bench_copy: not enough memory\n");
		return 1;
	}
	madvise(memory, BYTES, MADV_HUGEPAGE);
	memset(memory, 1, BYTES);
	memset(buffers, 0, BUFFERS * size);
	count = BYTES / size;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t start = now_ns(), took;

		for (uint64_t i = 0; i < count; i++) {
			memcpy(buffers + i % BUFFERS * size, memory + random_block(count) * size, size);
			__asm__ volatile("" ::"r"(buffers) : "memory");
		}
		took = now_ns() - start;
		if (took < best)
			best = took;
	}
	printf("%.1f\n", (double)best / (double)count);
	return 0;
}
