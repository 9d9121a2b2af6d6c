/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio base: what every room stands on, with no knowledge of devices.
 *
 * - Errors: functions return 0 or a negative errno. A function that fails for a reason a user can meet
 *   also leaves a sentence (object, cause, remedy) for the calling thread: svio_fail() records it,
 *   svio_last_error() reads it.
 * - Log: one sink for the process, chosen by the application. The default writes warnings and errors
 *   to stderr. The library never writes to stdout and never ends the process.
 * - Bitmaps, a log-linear histogram, CRC-32C, clocks, sizes in text, wire endianness.
 *
 * Threads: everything here may be called from any thread; bitmaps and histograms are the caller's to
 * protect, except the calls named _atomic.
 */
#ifndef SVIO_BASE_H
#define SVIO_BASE_H

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#ifndef __cplusplus
#include <stdatomic.h>
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#define SVIO_STATIC_ASSERT static_assert
#define SVIO_ALIGNAS	   alignas
#define SVIO_ATOMIC(type)  type /* C++ reaches such fields by our inline functions only */
#else
#define SVIO_STATIC_ASSERT _Static_assert
#define SVIO_ALIGNAS	   _Alignas
#define SVIO_ATOMIC(type)  _Atomic type
#endif

/* ---- compiler ---------------------------------------------------------------------------------- */

#define SVIO_CACHELINE	       64
#define svio_likely(x)	       __builtin_expect(!!(x), 1)
#define svio_unlikely(x)       __builtin_expect(!!(x), 0)
#define SVIO_ARRAY_SIZE(a)     (sizeof(a) / sizeof((a)[0]))
#define SVIO_ALIGN_UP(x, a)    (((x) + ((a) - 1)) & ~((__typeof__(x))(a) - 1))
#define SVIO_ALIGN_DOWN(x, a)  ((x) & ~((__typeof__(x))(a) - 1))
#define SVIO_MIN(a, b)	       ((a) < (b) ? (a) : (b))
#define SVIO_MAX(a, b)	       ((a) > (b) ? (a) : (b))
#define svio_container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define SVIO_PRINTF(f, a)      __attribute__((format(printf, f, a)))

/* Version of the library that is running, "major.minor.patch". Static string. */
const char *svio_version(void);

/* ---- errors ------------------------------------------------------------------------------------ */

/*
 * Record a sentence for svio_last_error() of this thread and return -|err|, so that a failing function
 * reads `return svio_fail(ENODEV, "%s: no such device; run: svio list", name);`. errno is preserved.
 * The text is cut at SVIO_ERROR_MAX bytes. Not async-signal-safe.
 */
#define SVIO_ERROR_MAX 512
int svio_fail(int err, const char *fmt, ...) SVIO_PRINTF(2, 3);

/* Put "prefix: " before the sentence already recorded, and return err unchanged. For callers that know more. */
int svio_fail_prefix(int err, const char *fmt, ...) SVIO_PRINTF(2, 3);

/*
 * The sentence of this thread's last failure, or "" if there is none. Owned by the library, valid until the
 * next failing svio call of this thread. A success does not clear it.
 */
const char *svio_last_error(void);
void svio_clear_error(void);

/* ---- log --------------------------------------------------------------------------------------- */

enum svio_log_level { SVIO_LOG_ERR, SVIO_LOG_WARN, SVIO_LOG_INFO, SVIO_LOG_DEBUG };

/* Receives one line, without a newline. May be called from any thread, also concurrently. */
typedef void (*svio_log_fn)(void *ctx, enum svio_log_level level, const char *line);

/* Log lines of `level` and above to fn (NULL: stderr). Call it before other threads use the library. */
void svio_log_set(enum svio_log_level level, svio_log_fn fn, void *ctx);
bool svio_log_enabled(enum svio_log_level level);

/* One line to the log; errno is preserved. Not on hot paths and not in signal handlers. */
void svio_log(enum svio_log_level level, const char *fmt, ...) SVIO_PRINTF(2, 3);
#define svio_log_err(...)   svio_log(SVIO_LOG_ERR, __VA_ARGS__)
#define svio_log_warn(...)  svio_log(SVIO_LOG_WARN, __VA_ARGS__)
#define svio_log_info(...)  svio_log(SVIO_LOG_INFO, __VA_ARGS__)
#define svio_log_debug(...)                                                                        \
	do {                                                                                       \
		if (svio_log_enabled(SVIO_LOG_DEBUG))                                              \
			svio_log(SVIO_LOG_DEBUG, __VA_ARGS__);                                     \
	} while (0)

/* ---- bitmap: little-endian order of 64-bit words, as the kernel's dirty bitmaps are --------------- */

#define SVIO_BITMAP_WORDS(nbits) (((nbits) + 63) / 64)

static inline void svio_bitmap_set(uint64_t *map, uint64_t bit)
{
	map[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void svio_bitmap_clear(uint64_t *map, uint64_t bit)
{
	map[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

static inline bool svio_bitmap_test(const uint64_t *map, uint64_t bit)
{
	return (map[bit / 64] >> (bit % 64)) & 1;
}

/* Set one bit with a relaxed atomic OR: several threads may mark the same words. */
static inline void svio_bitmap_set_atomic(uint64_t *map, uint64_t bit)
{
	__atomic_fetch_or(&map[bit / 64], UINT64_C(1) << (bit % 64), __ATOMIC_RELAXED);
}

/* Ranges are in bits: [start, start + n). */
void svio_bitmap_set_range(uint64_t *map, uint64_t start, uint64_t n);
void svio_bitmap_clear_range(uint64_t *map, uint64_t start, uint64_t n);
/* dst |= src over nbits. */
void svio_bitmap_or(uint64_t *dst, const uint64_t *src, uint64_t nbits);
/* Number of set bits in [0, nbits). */
uint64_t svio_bitmap_weight(const uint64_t *map, uint64_t nbits);
/* First set (clear) bit at or after `from`, or nbits if there is none. */
uint64_t svio_bitmap_next_set(const uint64_t *map, uint64_t nbits, uint64_t from);
uint64_t svio_bitmap_next_clear(const uint64_t *map, uint64_t nbits, uint64_t from);

/* ---- CRC-32C (Castagnoli, RFC 3720 appendix B.4; reflected, initial value and final xor all ones) -- */

/* CRC of `len` bytes, continuing `crc`, which is 0 for the first piece. */
uint32_t svio_crc32c(uint32_t crc, const void *buf, size_t len);

/* ---- clocks ------------------------------------------------------------------------------------ */

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t svio_now_ns(void);

/* CPU cycle counter (TSC on x86-64, CNTVCT_EL0 on arm64), not serialising. */
static inline uint64_t svio_cycles(void)
{
#if defined(__x86_64__)
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
#elif defined(__aarch64__)
	uint64_t v;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
	return v;
#else
#error "svio supports x86-64 and arm64"
#endif
}

/*
 * Ticks of svio_cycles() per second; measured once against CLOCK_MONOTONIC where the CPU does not say: the first call takes 10 ms, so
 * who will be in a hurry later makes it early.
 */
uint64_t svio_cycles_hz(void);

/* ---- histogram: log-linear, 64 sub-buckets per power of two (error below 1.6 %) -------------------- */

#define SVIO_HIST_SUB	  64
#define SVIO_HIST_BUCKETS ((64 - 6 + 1) * SVIO_HIST_SUB)

/* Zero-initialise. Values are of one unit chosen by the caller. One writer at a time. */
struct svio_hist {
	uint64_t count, sum, min, max;
	uint64_t bucket[SVIO_HIST_BUCKETS];
};

static inline unsigned int svio_hist_index(uint64_t v)
{
	unsigned int msb;

	if (v < SVIO_HIST_SUB)
		return (unsigned int)v;
	msb = 63 - (unsigned int)__builtin_clzll(v);
	/* The 6 bits below the leading one select the sub-bucket; powers from 2^6 on have 64 each. */
	return (msb - 5) * SVIO_HIST_SUB + (unsigned int)((v >> (msb - 6)) & (SVIO_HIST_SUB - 1));
}

static inline void svio_hist_add(struct svio_hist *h, uint64_t v)
{
	if (h->count == 0 || v < h->min)
		h->min = v;
	if (v > h->max)
		h->max = v;
	h->count++;
	h->sum += v;
	h->bucket[svio_hist_index(v)]++;
}

/* dst += src */
void svio_hist_merge(struct svio_hist *dst, const struct svio_hist *src);
/* Upper bound of the bucket below which `percent` (0 … 100) of the values lie, at most h->max; 0 when empty. */
uint64_t svio_hist_percentile(const struct svio_hist *h, double percent);

/* ---- text -------------------------------------------------------------------------------------- */

/*
 * "4096", "4k", "1M", "2GiB", "0x1000" → bytes; k/M/G/T are powers of 1024, upper or lower case, with an optional
 * "iB" or "B". 0, or -EINVAL for anything else (signs, blanks, trailing text), or -ERANGE above 2^64-1.
 */
int svio_parse_size(const char *text, uint64_t *bytes);

/* Decimal or 0x hexadecimal in [0, max]. 0, -EINVAL or -ERANGE. */
int svio_parse_u64(const char *text, uint64_t max, uint64_t *value);

/* ---- endianness: wire types that cannot be used without conversion under sparse -------------------- */

#ifdef __CHECKER__
#define SVIO_BITWISE __attribute__((bitwise))
#define SVIO_FORCE   __attribute__((force))
#else
#define SVIO_BITWISE
#define SVIO_FORCE
#endif
typedef uint16_t SVIO_BITWISE svio_le16;
typedef uint32_t SVIO_BITWISE svio_le32;
typedef uint64_t SVIO_BITWISE svio_le64;

#define svio_cpu_to_le16(v) ((svio_le16 SVIO_FORCE)htole16((uint16_t)(v)))
#define svio_cpu_to_le32(v) ((svio_le32 SVIO_FORCE)htole32((uint32_t)(v)))
#define svio_cpu_to_le64(v) ((svio_le64 SVIO_FORCE)htole64((uint64_t)(v)))
#define svio_le16_to_cpu(v) le16toh((uint16_t SVIO_FORCE)(v))
#define svio_le32_to_cpu(v) le32toh((uint32_t SVIO_FORCE)(v))
#define svio_le64_to_cpu(v) le64toh((uint64_t SVIO_FORCE)(v))

#ifdef __cplusplus
}
#endif
#endif
