/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table in which drivers mark: one byte per 4 KiB of the process's 48 bits of address space, 64 GiB of addresses of which only
 * the pages that are written take memory. Bytes, because several threads may mark neighbours: a plain store each, no
 * lock, no bit lost. There is one for the process, so that marking needs no look-up.
 *
 * It is never unmapped once it is there: a completion that is under way may still mark when tracking has ended.
 */
#include <string.h>
#include <sys/mman.h>
#include "dirty_priv.h"

#define TABLE_LEN (UINT64_C(1) << (48 - SVIO_DIRTY_SHIFT))

static uint8_t *_Atomic table;
static unsigned int users;

uint8_t *svio__dirty_table(void)
{
	return atomic_load_explicit(&table, memory_order_acquire);
}

/* In the thread of a vfio-user connection. */
static void message_written(void *ptr, size_t len)
{
	svio_dirty_mark(svio__dirty_table(), ptr, len);
}

int svio__dirty_table_get(void)
{
	if (!svio__dirty_table()) {
		void *p = mmap(NULL, TABLE_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (p == MAP_FAILED)
			return svio_fail(errno, "no %llu GiB of address space for the table of what drivers write (%s): raise RLIMIT_AS, "
						"and leave vm.overcommit_memory at 0 or 1", (unsigned long long)(TABLE_LEN >> 30),
					 strerror(errno));
		madvise(p, TABLE_LEN, MADV_DONTFORK);
		madvise(p, TABLE_LEN, MADV_DONTDUMP);
		atomic_store_explicit(&table, p, memory_order_release);
	}
	if (users++ == 0)
		svio_dma_on_message_write(message_written);
	return 0;
}

void svio__dirty_table_put(void)
{
	if (--users)
		return;
	svio_dma_on_message_write(NULL);
	madvise(svio__dirty_table(), TABLE_LEN, MADV_DONTNEED);
}

void svio__dirty_table_collect(const struct dirty_span *span, dirty_emit emit, void *ctx)
{
	uint64_t page = span->va >> SVIO_DIRTY_SHIFT, end = (span->va + span->len - 1) >> SVIO_DIRTY_SHIFT, from = 0, run = 0;
	uint8_t *t = svio__dirty_table();

	if (!t)
		return;
	for (end++; page < end; page++) {
		/* Nearly all of it is zero: eight at a time. */
		while (page % 8 == 0 && page + 8 <= end && !__atomic_load_n((uint64_t *)(void *)(t + page), __ATOMIC_RELAXED))
			page += 8;
		if (page >= end)
			break;
		if (!__atomic_load_n(&t[page], __ATOMIC_RELAXED))
			continue;
		/* What is marked from here on is found next time. */
		__atomic_exchange_n(&t[page], 0, __ATOMIC_ACQ_REL);
		if (run && from + run == page) {
			run++;
			continue;
		}
		if (run)
			emit(ctx, from << SVIO_DIRTY_SHIFT, run << SVIO_DIRTY_SHIFT);
		from = page;
		run = 1;
	}
	if (run)
		emit(ctx, from << SVIO_DIRTY_SHIFT, run << SVIO_DIRTY_SHIFT);
}
