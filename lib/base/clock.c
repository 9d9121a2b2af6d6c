/* SPDX-License-Identifier: BSD-3-Clause */
#include <time.h>
#include "svio_base.h"

uint64_t svio_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t measure_hz(void)
{
#if defined(__aarch64__)
	uint64_t hz;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz)); /* Arm ARM D11: the counter's frequency */
	return hz;
#else
	/* A TSC's rate is not architecturally readable everywhere: compare it with the kernel's clock. */
	uint64_t t0 = svio_now_ns(), c0 = svio_cycles(), t1, c1;

	do {
		t1 = svio_now_ns();
		c1 = svio_cycles();
	} while (t1 - t0 < 10 * 1000 * 1000);
	return (uint64_t)((double)(c1 - c0) * 1e9 / (double)(t1 - t0));
#endif
}

uint64_t svio_cycles_hz(void)
{
	static _Atomic uint64_t hz; /* two threads may both measure; either result serves */
	uint64_t v = atomic_load_explicit(&hz, memory_order_relaxed);

	if (!v) {
		v = measure_hz();
		atomic_store_explicit(&hz, v, memory_order_relaxed);
	}
	return v;
}
