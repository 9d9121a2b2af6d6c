/* SPDX-License-Identifier: BSD-3-Clause */
/* Areas: where they may lie, what is in their way, blocks, the list of blocks from a stranger; and the lease. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#ifdef __SANITIZE_THREAD__ /* its shadow memory is at SVIO_MIGRATE_ADDRESS */
#define BASE (UINT64_C(320) << 30)
#else
#define BASE SVIO_MIGRATE_ADDRESS
#endif

static int create(uint64_t base, uint64_t bytes, const char *name, struct svio_migrate_area **area)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = name, .base = base, .bytes = bytes };

	return svio_migrate_area_create(&opts, area);
}

static void test_place(void)
{
	struct svio_migrate_area *a, *b;
	int fds = unit_count_fds(), maps = unit_count_maps();
	void *p;

	CU_ASSERT_EQUAL(create(BASE + 4096, MG_HUGE, "a", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(UINT64_C(1) << 47, MG_HUGE, "a", &a), -EINVAL);
	CU_ASSERT_EQUAL(create((UINT64_C(1) << 47) - MG_HUGE, 2 * MG_HUGE, "a", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(BASE, 0, "a", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(BASE, UINT64_MAX, "a", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(BASE, MG_HUGE, "", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(BASE, MG_HUGE, "a name of more than thirty-one bytes", &a), -EINVAL);
	CU_ASSERT_EQUAL(create(BASE, UINT64_C(1) << 40, "a", &a), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "memory.max"));
	CU_ASSERT_PTR_NULL(a);
	CU_ASSERT_EQUAL_FATAL(create(BASE, MG_HUGE + 1, "a", &a), 0);
	CU_ASSERT_EQUAL(svio_migrate_area_bytes(a), 2 * MG_HUGE);
	CU_ASSERT_EQUAL((uintptr_t)svio_migrate_area_base(a), BASE);
	/* Somebody else's, and one of ours: in the way, and as before afterwards. */
	CU_ASSERT_FALSE(svio__mg_is_free(BASE + MG_HUGE, MG_HUGE));
	CU_ASSERT_EQUAL(create(BASE + MG_HUGE, MG_HUGE, "b", &b), -EADDRINUSE);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "anew"));
	CU_ASSERT_TRUE(svio__mg_is_free(BASE + 2 * MG_HUGE, MG_HUGE));
	p = mmap((void *)(uintptr_t)(BASE + 3 * MG_HUGE), 4096, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CU_ASSERT_EQUAL_FATAL((uintptr_t)p, BASE + 3 * MG_HUGE);
	memset(p, 7, 4096);
	CU_ASSERT_EQUAL(create(BASE + 2 * MG_HUGE, 2 * MG_HUGE, "b", &b), -EADDRINUSE);
	CU_ASSERT_EQUAL(*(uint8_t *)p, 7);
	munmap(p, 4096);
	svio_migrate_area_destroy(a);
	svio_migrate_area_destroy(NULL);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(unit_count_maps(), maps);
}

/* In a process of its own: what is limited stays so. */
static void test_limit(void)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct svio_migrate_area *a;
		struct rlimit lim;
		unsigned long pages = 0;
		FILE *f = fopen("/proc/self/statm", "re");

		if (!f || fscanf(f, "%lu", &pages) != 1)
			_exit(2);
		fclose(f);
		lim.rlim_cur = lim.rlim_max = (pages + 3 * MG_HUGE / MG_PAGE) * MG_PAGE;
		if (setrlimit(RLIMIT_AS, &lim) || svio__mg_available() > 3 * MG_HUGE)
			_exit(3);
		if (create(BASE, 4 * MG_HUGE, "a", &a) != -ENOMEM || !strstr(svio_last_error(), "ulimit"))
			_exit(4);
		_exit(create(BASE, MG_HUGE, "a", &a) == 0 ? 0 : 5);
	}
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	CU_ASSERT_TRUE(WIFEXITED(status));
	CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
}

static void test_blocks(void)
{
	struct svio_migrate_area *a;
	uint8_t *p, *q, *r, *s;

	CU_ASSERT_EQUAL_FATAL(create(BASE, MG_HUGE, "a", &a), 0);
	p = svio_migrate_alloc(a, 100, 0);
	q = svio_migrate_alloc(a, 4096, 4096);
	r = svio_migrate_alloc(a, 64, 0);
	CU_ASSERT_EQUAL_FATAL((uintptr_t)p, BASE);
	CU_ASSERT_EQUAL((uintptr_t)q, BASE + 4096);
	CU_ASSERT_EQUAL((uintptr_t)r, BASE + 128); /* first fit: in the gap */
	CU_ASSERT_TRUE(svio_migrate_allocated(a, p, 128));
	CU_ASSERT_FALSE(svio_migrate_allocated(a, p, 129));
	CU_ASSERT_TRUE(svio_migrate_allocated(a, q + 4095, 1));
	CU_ASSERT_FALSE(svio_migrate_allocated(a, q + 4096, 1));
	CU_ASSERT_FALSE(svio_migrate_allocated(a, p - 1, 1));
	CU_ASSERT_FALSE(svio_migrate_allocated(a, q, UINT64_MAX));
	CU_ASSERT_FALSE(svio_migrate_allocated(a, NULL, 1));
	memset(q, 0xee, 4096);
	svio_migrate_free(a, q + 64); /* no block begins there */
	CU_ASSERT_TRUE(svio_migrate_allocated(a, q, 4096));
	svio_migrate_free(a, q);
	svio_migrate_free(a, q);
	svio_migrate_free(a, NULL);
	CU_ASSERT_FALSE(svio_migrate_allocated(a, q, 1));
	s = svio_migrate_alloc(a, 4096, 4096);
	CU_ASSERT_PTR_EQUAL(s, q);
	CU_ASSERT_EQUAL(s[0] | s[4095], 0);
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, 0, 0));
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, 64, 3));
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, 64, 2 * MG_HUGE));
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, UINT64_MAX, 0));
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, MG_HUGE - 4096, 0));
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "create it larger"));
	CU_ASSERT_PTR_NOT_NULL(svio_migrate_alloc(a, MG_HUGE - 8192, 0));
	CU_ASSERT_PTR_NULL(svio_migrate_alloc(a, 4096, 0));
	svio_migrate_area_destroy(a);
}

/* ---- the wire --------------------------------------------------------------------------------------------- */

static int take(const uint8_t *data, size_t len, uint64_t room, uint64_t *left, struct svio_migrate_area **a)
{
	struct svio_migrate_in in = { .at = data, .left = len };

	*left = room;
	return svio__mg_area_get(&in, left, a);
}

static void test_wire(void)
{
	struct svio_migrate_buf b = { .max = 4096 };
	int fds = unit_count_fds(), maps = unit_count_maps();
	struct svio_migrate_area *a, *copy;
	uint64_t left;
	void *p, *q;

	CU_ASSERT_EQUAL_FATAL(create(BASE, 2 * MG_HUGE, "area", &a), 0);
	p = svio_migrate_alloc(a, 100, 0);
	q = svio_migrate_alloc(a, 5000, 4096);
	CU_ASSERT_EQUAL(svio__mg_area_put(a, &b), 0);
	/* Where it still lies it cannot be put. */
	CU_ASSERT_EQUAL(take(b.data, b.len, UINT64_MAX, &left, &copy), -EADDRINUSE);
	CU_ASSERT_PTR_NULL(copy);
	svio_migrate_area_destroy(a);
	CU_ASSERT_EQUAL(take(b.data, b.len, 2 * MG_HUGE - 1, &left, &copy), -ENOMEM);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "--max-memory"));
	CU_ASSERT_EQUAL_FATAL(take(b.data, b.len, 3 * MG_HUGE, &left, &copy), 0);
	CU_ASSERT_EQUAL(left, MG_HUGE);
	CU_ASSERT_TRUE(svio_migrate_allocated(copy, p, 128));
	CU_ASSERT_TRUE(svio_migrate_allocated(copy, q, 5000));
	CU_ASSERT_FALSE(svio_migrate_allocated(copy, q, 8192));
	svio_migrate_area_destroy(copy);
	/* Cut anywhere: refused, and nothing stays. Blocks are the last thing, so this is after it was mapped, too. */
	for (size_t n = 0; n < b.len; n++) {
		uint8_t *cut = malloc(n ? n : 1);

		memcpy(cut, b.data, n);
		CU_ASSERT_EQUAL(take(cut, n, UINT64_MAX, &left, &copy), -EPROTO);
		CU_ASSERT_PTR_NULL(copy);
		free(cut);
	}
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(unit_count_maps(), maps);
	svio__mg_buf_free(&b);
}

static int take_made(const char *name, uint64_t base, uint64_t bytes, const uint64_t *blocks, uint32_t n)
{
	struct svio_migrate_buf b = { .max = 4096 };
	struct svio_migrate_area *a;
	uint64_t left;
	int rc;

	svio_migrate_put_text(&b, name);
	svio_migrate_put_u64(&b, base);
	svio_migrate_put_u64(&b, bytes);
	svio_migrate_put_u32(&b, n);
	for (uint32_t i = 0; i < 2 * SVIO_MIN(n, 3u); i++)
		svio_migrate_put_u64(&b, blocks[i]);
	rc = take(b.data, b.len, UINT64_C(1) << 30, &left, &a);
	CU_ASSERT_EQUAL(rc == 0, a != NULL);
	svio_migrate_area_destroy(a);
	svio__mg_buf_free(&b);
	return rc;
}

static void test_strangers(void)
{
	static const uint64_t good[] = { 0, 64, 64, 64, MG_HUGE - 64, 64 }, overlap[] = { 0, 128, 64, 64 }, back[] = { 128, 64, 0, 64 },
			      empty[] = { 0, 0 }, outside[] = { MG_HUGE, 64 }, beyond[] = { MG_HUGE - 64, 128 },
			      wraps[] = { 64, UINT64_MAX - 32 };

	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, good, 3), 0);
	CU_ASSERT_EQUAL(take_made("", BASE, MG_HUGE, good, 3), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", 0, MG_HUGE, good, 3), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE + 4096, MG_HUGE, good, 3), -EINVAL);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE + 4096, good, 3), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, 0, good, 3), -EINVAL);
	CU_ASSERT_EQUAL(take_made("a", BASE, UINT64_C(1) << 31, good, 3), -ENOMEM);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, good, UINT32_MAX), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, overlap, 2), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, back, 2), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, empty, 1), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, outside, 1), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, beyond, 1), -EPROTO);
	CU_ASSERT_EQUAL(take_made("a", BASE, MG_HUGE, wraps, 1), -EPROTO);
}

/* ---- the lease --------------------------------------------------------------------------------------------- */

static void test_lease(void)
{
	uint8_t mine[MG_SESSION] = { 1 }, other[MG_SESSION] = { 2 };
	int fd = -1, taken = -1, fds = unit_count_fds();
	char path[] = "/tmp/svio-lease.XXXXXX";
	enum mg_lease answer;
	struct lease_file {
		char bytes[40];
	} file;

	CU_ASSERT_FATAL((fd = mkstemp(path)) >= 0);
	close(fd);
	fd = -1;
	CU_ASSERT_EQUAL_FATAL(svio__mg_lease_hold(path, &fd), 0);
	CU_ASSERT_EQUAL(svio__mg_lease_hold(path, &fd), 0);
	CU_ASSERT_EQUAL(svio__mg_lease_hold(path, &taken), -EBUSY);
	CU_ASSERT_EQUAL(taken, -1);
	/* Not offered yet; to another session; to this one. */
	CU_ASSERT_EQUAL(svio__mg_lease_take(path, mine, &taken), -EBUSY);
	CU_ASSERT_EQUAL(svio__mg_lease_offer(fd, mine), 0);
	CU_ASSERT_EQUAL(svio__mg_lease_take(path, other, &taken), -EPERM);
	/* Nobody took it: back. Then it is nobody's to take. */
	CU_ASSERT_EQUAL(svio__mg_lease_ask(fd, mine, &answer), 0);
	CU_ASSERT_EQUAL(answer, MG_LEASE_OURS);
	CU_ASSERT_EQUAL(svio__mg_lease_take(path, mine, &taken), -EBUSY);
	/* Taken, and its owner runs; then he has died. */
	CU_ASSERT_EQUAL(svio__mg_lease_offer(fd, mine), 0);
	CU_ASSERT_EQUAL_FATAL(svio__mg_lease_take(path, mine, &taken), 0);
	CU_ASSERT_EQUAL(svio__mg_lease_ask(fd, mine, &answer), 0);
	CU_ASSERT_EQUAL(answer, MG_LEASE_THEIRS);
	CU_ASSERT_EQUAL(svio__mg_lease_ask(fd, other, &answer), -EAGAIN);
	close(taken);
	CU_ASSERT_EQUAL(svio__mg_lease_ask(fd, mine, &answer), 0);
	CU_ASSERT_EQUAL(answer, MG_LEASE_TAKEN);
	/* Damaged: no answer at all. */
	CU_ASSERT_EQUAL(pread(fd, &file, sizeof(file), 0), (ssize_t)sizeof(file));
	file.bytes[20] ^= 1;
	CU_ASSERT_EQUAL(pwrite(fd, &file, sizeof(file), 0), (ssize_t)sizeof(file));
	CU_ASSERT_EQUAL(svio__mg_lease_ask(fd, mine, &answer), -EBADMSG);
	close(fd);
	CU_ASSERT_EQUAL(svio__mg_lease_take(path, mine, &taken), -EBADMSG);
	unlink(path);
	taken = -1;
	CU_ASSERT_EQUAL(svio__mg_lease_hold("/nonexistent/lease", &taken), -ENOENT);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "where an area may lie, and what is in its way", test_place },
		{ "fewer addresses than it needs", test_limit },
		{ "blocks", test_blocks },
		{ "an area over the wire, cut at each byte", test_wire },
		{ "areas and blocks that make no sense", test_strangers },
		{ "the lease: held, offered, taken, taken back, damaged", test_lease },
		{ NULL, NULL },
	};

	return unit_run("migrate/area", tests);
}
