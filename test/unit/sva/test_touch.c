/* SPDX-License-Identifier: BSD-3-Clause */
/* Making pages present, and finding that there are none, without a signal. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "svio_sva.h"
#include "unit.h"

#define PAGE 4096u

static uint8_t *map(size_t len, int prot)
{
	uint8_t *p = mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CU_ASSERT_PTR_NOT_EQUAL_FATAL(p, MAP_FAILED);
	return p;
}

static bool resident(void *p)
{
	unsigned char vec = 0;

	return mincore(p, PAGE, &vec) == 0 && vec & 1;
}

static void test_present(void)
{
	uint8_t *p = map(4 * PAGE, PROT_READ | PROT_WRITE);

	CU_ASSERT_FALSE(resident(p));
	CU_ASSERT_EQUAL(svio_sva_touch(p + 100, PAGE, true), 0);
	CU_ASSERT_TRUE(resident(p) && resident(p + PAGE));
	CU_ASSERT_FALSE(resident(p + 2 * PAGE));
	/* Contents stay. */
	memset(p, 0x5a, 2 * PAGE);
	CU_ASSERT_EQUAL(svio_sva_touch(p, 2 * PAGE, true), 0);
	CU_ASSERT_EQUAL(svio_sva_touch(p, 0, false), 0);
	CU_ASSERT_TRUE(p[0] == 0x5a && p[2 * PAGE - 1] == 0x5a);
	munmap(p, 4 * PAGE);
}

static void test_nothing(void)
{
	uint8_t *p = map(4 * PAGE, PROT_READ | PROT_WRITE);

	munmap(p + PAGE, PAGE);
	mprotect(p + 2 * PAGE, PAGE, PROT_READ);
	mprotect(p + 3 * PAGE, PAGE, PROT_NONE);
	CU_ASSERT_EQUAL(svio_sva_touch(NULL, 8, false), -EFAULT);
	CU_ASSERT_EQUAL(svio_sva_touch(p + PAGE, 1, false), -EFAULT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "no memory"));
	CU_ASSERT_EQUAL(svio_sva_touch(p + PAGE, 1, true), -EFAULT);
	/* Where the device stopped counts; what comes later is found later. */
	CU_ASSERT_EQUAL(svio_sva_touch(p, 2 * PAGE, true), 0);
	CU_ASSERT_TRUE(resident(p));
	CU_ASSERT_EQUAL(svio_sva_touch(p + 2 * PAGE, 2 * PAGE, false), 0);
	CU_ASSERT_EQUAL(svio_sva_touch(p + 2 * PAGE, 1, true), -EFAULT);
	CU_ASSERT_EQUAL(svio_sva_touch(p + 3 * PAGE, 1, false), -EFAULT);
	/* The ends of the address space. */
	CU_ASSERT_EQUAL(svio_sva_touch((void *)UINTPTR_MAX, 1, false), -EFAULT);
	CU_ASSERT_EQUAL(svio_sva_touch((void *)(UINTPTR_MAX - 3 * PAGE), UINT64_MAX, true), -EFAULT);
	CU_ASSERT_EQUAL(svio_sva_touch((void *)((uintptr_t)1 << 62), PAGE, false), -EFAULT); /* not canonical */
	munmap(p, 4 * PAGE);
}

static void test_file_end(void)
{
	int fd = memfd_create("touch", MFD_CLOEXEC);
	uint8_t *p;

	CU_ASSERT_EQUAL_FATAL(ftruncate(fd, PAGE), 0);
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CU_ASSERT_PTR_NOT_EQUAL_FATAL(p, MAP_FAILED);
	CU_ASSERT_EQUAL(svio_sva_touch(p, 2 * PAGE, true), 0); /* the first page */
	CU_ASSERT_EQUAL(svio_sva_touch(p + PAGE, 1, true), -EFAULT);
	CU_ASSERT_EQUAL(svio_sva_touch(p + PAGE, 1, false), -EFAULT);
	munmap(p, 2 * PAGE);
	close(fd);
}

static const struct unit_test tests[] = {
	{ "what is touched is there, and unchanged", test_present },
	{ "nothing, read-only, inaccessible", test_nothing },
	{ "beyond the end of a file", test_file_end },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("sva/touch", tests);
}
