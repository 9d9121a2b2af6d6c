/* SPDX-License-Identifier: BSD-3-Clause */
#include <time.h>
#include "svio_base.h"

uint64_t svio_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#if !defined(__aarch64__)
#define LEAST_NS UINT64_C(10000000) /* 10 ms: better than one in a thousand */

static uint64_t start_ns, start_cycles;

/* So that nobody waits later: who asks first may be in a hurry, as a process that moves is. */
static __attribute__((constructor)) void note_start(void)
{
	start_ns = svio_now_ns();
	start_cycles = svio_cycles();
}
#endif

static uint64_t measure_hz(void)
{
#if defined(__aarch64__)
	uint64_t hz;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz)); /* Arm ARM D11: the counter's frequency */
	return hz;
#else
	/* A TSC's rate is not architecturally readable everywhere: compare it with the kernel's clock, since the process began. */
	uint64_t ns, cycles;

	do {
		ns = svio_now_ns() - start_ns;
		cycles = svio_cycles() - start_cycles;
	} while (ns < LEAST_NS);
	return (uint64_t)((double)cycles * 1e9 / (double)ns);
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
