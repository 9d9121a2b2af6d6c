/* SPDX-License-Identifier: BSD-3-Clause */
/* Making and judging verify blocks. */
#include <string.h>
#include "verify.h"

#define CRC_OFFSET offsetof(struct verify_header, crc)

/* The payload's first word, from place and version (the finaliser of Stafford's Mix13, public knowledge). */
static uint64_t pattern_start(uint64_t run, uint64_t lba, uint64_t seq)
{
	uint64_t x = run ^ (lba * UINT64_C(0x9e3779b97f4a7c15)) ^ (seq << 32 | seq >> 32);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint32_t block_crc(const uint8_t *block, uint32_t size)
{
	static const uint8_t zero[4];
	uint32_t crc = svio_crc32c(0, block, CRC_OFFSET);

	crc = svio_crc32c(crc, zero, sizeof(zero));
	return svio_crc32c(crc, block + sizeof(struct verify_header),
			   size - sizeof(struct verify_header));
}

void verify_fill(const struct verify_run *run, void *buf, uint64_t lba, uint32_t nlb, uint64_t seq)
{
	uint8_t *block = buf;

	for (uint32_t i = 0; i < nlb; i++, lba++, block += run->lba_size) {
		struct verify_header *h = (struct verify_header *)(void *)block;
		uint64_t word = pattern_start(run->run, lba, seq);

		h->magic = svio_cpu_to_le64(VERIFY_MAGIC);
		h->lba = svio_cpu_to_le64(lba);
		h->run = svio_cpu_to_le64(run->run);
		h->seq = svio_cpu_to_le64(seq);
		h->nsid = svio_cpu_to_le32(run->nsid);
		for (uint32_t o = sizeof(*h); o < run->lba_size; o += 8) {
			svio_le64 le = svio_cpu_to_le64(word);

			memcpy(block + o, &le, sizeof(le));
			/* Knuth's MMIX generator (TAOCP vol. 2, §3.3.4): one multiply-add per word. */
			word = word * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		}
		h->crc = svio_cpu_to_le32(block_crc(block, run->lba_size));
	}
}

enum verify_result verify_check(const struct verify_run *run, const void *buf, uint64_t lba,
				uint64_t min, uint64_t max, uint64_t *seq)
{
	const struct verify_header *h = buf;
	uint64_t found = 0;
	bool ours;

	if (seq)
		*seq = 0;
	if (svio_le64_to_cpu(h->magic) != VERIFY_MAGIC)
		return min ? VERIFY_BAD_MAGIC : VERIFY_UNKNOWN;
	/* The checksum first: nothing in a corrupted header means anything. */
	if (svio_le32_to_cpu(h->crc) != block_crc(buf, run->lba_size))
		return VERIFY_BAD_CRC;
	found = svio_le64_to_cpu(h->seq);
	if (seq)
		*seq = found;
	ours = svio_le64_to_cpu(h->run) == run->run && svio_le32_to_cpu(h->nsid) == run->nsid;
	if (svio_le64_to_cpu(h->lba) != lba)
		return VERIFY_BAD_LBA;
	if (!ours)
		return min ? VERIFY_BAD_RUN : VERIFY_FOREIGN;
	if (found < min)
		return VERIFY_STALE;
	return found > max ? VERIFY_FUTURE : VERIFY_OK;
}

static const char *const result_texts[VERIFY_RESULTS][2] = {
	[VERIFY_OK] = { "ok", "sound" },
	[VERIFY_FOREIGN] = { "foreign", "sound block of another run" },
	[VERIFY_UNKNOWN] = { "unknown", "not a verify block" },
	[VERIFY_BAD_MAGIC] = { "bad_magic", "no verify block where one was written" },
	[VERIFY_BAD_CRC] = { "bad_crc", "checksum wrong (torn or corrupted)" },
	[VERIFY_BAD_LBA] = { "bad_lba", "block of another address" },
	[VERIFY_BAD_RUN] = { "bad_run", "block of another run (write lost)" },
	[VERIFY_STALE] = { "stale", "old version (write lost)" },
	[VERIFY_FUTURE] = { "future", "version not written yet" },
};

const char *verify_result_name(enum verify_result result)
{
	return result_texts[result][0];
}

const char *verify_result_text(enum verify_result result)
{
	return result_texts[result][1];
}
