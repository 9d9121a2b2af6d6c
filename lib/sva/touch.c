/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making pages present. A load or store would do it too, and would kill the process where there is nothing; a write through
 * /proc/self/mem or process_vm_writev() would have to write what is there, and race with who else writes it. madvise(2)
 * MADV_POPULATE_* (Linux 5.14) faults pages in as an access would, and reports instead of raising a signal.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "sva_priv.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

static int fault(const void *ptr, bool write)
{
	return svio_fail(EFAULT, "no memory that may be %s at %p", write ? "written" : "read", ptr);
}

/* Through the kernel, which reports. For writing there is no such way that does not race with others. */
static int read_byte(uint64_t at)
{
	uint8_t byte;
	struct iovec to = { &byte, 1 }, from = { (void *)(uintptr_t)at, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? 0 : fault((void *)(uintptr_t)at, false);
}

int svio_sva_touch(const void *ptr, uint64_t len, bool write)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), va = (uint64_t)(uintptr_t)ptr, start, end;

	len = SVIO_MIN(len ? len : 1, SVIO_SVA_TOUCH_MAX);
	/* The top page of the address space is nobody's, so rounding up cannot wrap below it. */
	if (len > UINT64_MAX - 2 * page - va || va > UINT64_MAX - 2 * page)
		return fault(ptr, write);
	start = SVIO_ALIGN_DOWN(va, page);
	end = SVIO_ALIGN_UP(va + len, page);
	while (madvise((void *)(uintptr_t)start, end - start, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		/* The range may lead into nothing; what counts is where the device stopped. */
		if (end - start > page) {
			end = start + page;
			continue;
		}
		/* Permissions, device memory, which has no pages to make present, or a kernel before 5.14. */
		if (errno == EINVAL)
			return write ? fault(ptr, true) : read_byte(start);
		/* Nothing mapped there, or no memory for it. */
		if (errno == ENOMEM && read_byte(start) == 0)
			return svio_fail(ENOMEM, "no memory for the page at %p", ptr);
		return fault(ptr, write);
	}
	return 0;
}
