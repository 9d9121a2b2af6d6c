/* SPDX-License-Identifier: BSD-3-Clause */
/* Bitmaps in 64-bit words: whole words wherever the range allows. */
#include "svio_base.h"

/* Bits [lo, hi) of one word, hi in 1 … 64. */
static uint64_t word_mask(unsigned int lo, unsigned int hi)
{
	return (~UINT64_C(0) << lo) & (~UINT64_C(0) >> (64 - hi));
}

/* Calls for each word that [start, start + n) touches, with the mask of the touched bits. */
#define FOR_EACH_MASK(start, n, word, mask)                                                        \
	for (uint64_t pos_ = (start), end_ = (start) + (n), word, mask; pos_ < end_ &&             \
	     (word = pos_ / 64,                                                                    \
	      mask = word_mask((unsigned int)(pos_ % 64),                                          \
			       (unsigned int)SVIO_MIN(end_ - word * 64, UINT64_C(64))), 1);        \
	     pos_ = (word + 1) * 64)

void svio_bitmap_set_range(uint64_t *map, uint64_t start, uint64_t n)
{
	FOR_EACH_MASK(start, n, w, mask)
		map[w] |= mask;
}

void svio_bitmap_clear_range(uint64_t *map, uint64_t start, uint64_t n)
{
	FOR_EACH_MASK(start, n, w, mask)
		map[w] &= ~mask;
}

void svio_bitmap_or(uint64_t *dst, const uint64_t *src, uint64_t nbits)
{
	FOR_EACH_MASK(UINT64_C(0), nbits, w, mask)
		dst[w] |= src[w] & mask;
}

uint64_t svio_bitmap_weight(const uint64_t *map, uint64_t nbits)
{
	uint64_t n = 0;

	FOR_EACH_MASK(UINT64_C(0), nbits, w, mask)
		n += (uint64_t)__builtin_popcountll(map[w] & mask);
	return n;
}

static uint64_t next_bit(const uint64_t *map, uint64_t nbits, uint64_t from, uint64_t invert)
{
	if (from >= nbits)
		return nbits;
	FOR_EACH_MASK(from, nbits - from, w, mask) {
		uint64_t v = (map[w] ^ invert) & mask;

		if (v)
			return w * 64 + (uint64_t)__builtin_ctzll(v);
	}
	return nbits;
}

uint64_t svio_bitmap_next_set(const uint64_t *map, uint64_t nbits, uint64_t from)
{
	return next_bit(map, nbits, from, 0);
}

uint64_t svio_bitmap_next_clear(const uint64_t *map, uint64_t nbits, uint64_t from)
{
	return next_bit(map, nbits, from, ~UINT64_C(0));
}
