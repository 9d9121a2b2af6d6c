/* SPDX-License-Identifier: BSD-3-Clause */
/* Copies between the NVMe model's store and the host's pages: for the model's own poll only. */
#ifndef NVME_MODEL_COPY_H
#define NVME_MODEL_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif
#include "svio_base.h"

/* Sanitizers see only C: gcc tells of them by macros, clang by features. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NM_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NM_SANITIZED 1
#endif
#endif

/*
 * What comes after the present copy: the beginning of it is fetched meanwhile, and the processor's own prefetching, which ends
 * at each 4 KiB page, finds the rest by itself. Blocks lie all over a namespace that no cache holds, so that a copy that begins
 * with a miss waits for nothing but memory. To ask for a whole page is slower than for half of it, and so is asking before
 * the second half of the present copy: a sixth of all the time, measured on Zen 3.
 */
#define NM_LEAD	 8u  /* lines, of a block for which nobody has asked */
#define NM_AHEAD 32u /* lines at most */
struct nm_ahead {
	const uint8_t *p;
	size_t lines;
};

/*
 * Does "rep movsb" move a cold page as fast as the processor can? Enhanced REP MOVSB: CPUID leaf 7, EBX bit 9 (Intel SDM
 * volume 2A, CPUID; AMD APM volume 3, appendix E). Measured on Zen 3: a request at depth 1 takes 8 % less than with the C
 * library's memcpy().
 */
static inline bool nm_movsb_is_fast(void)
{
#if defined(__x86_64__) && !defined(NM_SANITIZED)
	unsigned int a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & UINT32_C(1) << 9;
#else
	return false;
#endif
}

/* Nothing is known of what comes next. */
static inline void nm_copy_alone(uint8_t *to, const uint8_t *from, size_t len, bool movsb)
{
#ifdef __x86_64__
	if (movsb) {
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
		return;
	}
#endif
	memcpy(to, from, len);
}

static inline void nm_copy_line(uint8_t *to, const uint8_t *from)
{
	typedef uint64_t part __attribute__((vector_size(16), aligned(1), may_alias));
	const part *f = (const part *)(const void *)from;
	part *t = (part *)(void *)to, v0 = f[0], v1 = f[1], v2 = f[2], v3 = f[3];

	t[0] = v0;
	t[1] = v1;
	t[2] = v2;
	t[3] = v3;
}

/* Whole lines at a time, the last ones each with one of what comes next. */
static inline void nm_copy(uint8_t *to, const uint8_t *from, size_t len, const struct nm_ahead *a,
			   bool movsb)
{
	size_t whole = len & ~(size_t)(SVIO_CACHELINE - 1),
	       with = SVIO_MIN(a->lines * SVIO_CACHELINE, whole), at = 0;

	if (!with) {
		nm_copy_alone(to, from, len, movsb);
		return;
	}
	for (; at < whole - with; at += SVIO_CACHELINE)
		nm_copy_line(to + at, from + at);
	for (; at < whole; at += SVIO_CACHELINE) {
		__builtin_prefetch(a->p + (at - (whole - with)));
		nm_copy_line(to + at, from + at);
	}
	if (at < len)
		memcpy(to + at, from + at, len - at);
}

#endif
