/* SPDX-License-Identifier: BSD-3-Clause */
/* The DMA map, translation, and transfers with and without shared memory. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "client.h"
#include "probe.h"

#define RW (SVIO_VFU_DMA_F_READ | SVIO_VFU_DMA_F_WRITE)
#define P  UINT64_C(0x1000)

static int done_err, done_count;

static void done(struct svio_vdev *dev, struct svio_vdev_dma *dma, int err)
{
	(void)dev;
	(void)dma;
	done_err = err;
	done_count++;
}

static int transfer(struct tc *tc, struct svio_vdev_dma *d, uint64_t iova, void *buf, uint32_t len,
		    enum svio_vdev_access access)
{
	*d = (struct svio_vdev_dma){ .iova = iova, .buf = buf, .len = len, .access = access, .done = done };
	done_count = 0;
	return svio_vdev_dma_start(tc->dev, d);
}

static void test_translate(void)
{
	uint8_t *mem;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	fd = tc_memfd(16 * P, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x100000, 8 * P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x108000, 4 * P, 12 * P, SVIO_VFU_DMA_F_READ, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, UINT64_MAX - P + 1, P, 0, RW, fd), 0); /* ends at 2^64 */
	mem[5] = 42;
	mem[12 * P + 7] = 43;
	/* no bus master: no DMA */
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x100005, 1, SVIO_VDEV_READ));
	tc_master(&tc);
	for (int i = 0; i < 3; i++) { /* slow path, then hits */
		uint8_t *p = svio_vdev_dma_ptr(tc.dev, 0x100005, 1, SVIO_VDEV_READ);

		CU_ASSERT_PTR_NOT_NULL_FATAL(p);
		CU_ASSERT_EQUAL(*p, 42);
		p = svio_vdev_dma_ptr(tc.dev, 0x108007, P, SVIO_VDEV_READ);
		CU_ASSERT_PTR_NOT_NULL_FATAL(p);
		CU_ASSERT_EQUAL(*p, 43);
		CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, UINT64_MAX, 1, SVIO_VDEV_WRITE));
		/* protection, ends, holes, overflow */
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x108007, 1, SVIO_VDEV_WRITE));
		CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, 0x107fff, 1, SVIO_VDEV_READ));
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x107fff, 2, SVIO_VDEV_READ)); /* two mappings */
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x10c000, 1, SVIO_VDEV_READ));
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0xfffff, 1, SVIO_VDEV_READ));
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x100000, UINT64_MAX, SVIO_VDEV_READ));
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, UINT64_MAX, 2, SVIO_VDEV_READ));
	}
	/* a cached hit must not outlive bus mastering, nor the mapping */
	tc_cfg_set(&tc, 4, 2, 2);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x100005, 1, SVIO_VDEV_READ));
	tc_master(&tc);
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, 0x100005, 1, SVIO_VDEV_READ));
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0x100000, 8 * P), 0);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x100005, 1, SVIO_VDEV_READ));
	munmap(mem, 16 * P);
	close(fd);
	tc_stop(&tc);
}

static void test_map_rules(void)
{
	int fd = tc_memfd(16 * P, F_SEAL_SHRINK, NULL), null = open("/dev/null", O_RDWR | O_CLOEXEC), pipes[2], before;
	int ro, two[2];
	struct svio_vfu_dma_map m = { .argsz = 32, .flags = RW, .iova = 0x9000000, .size = P };
	char path[64];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	CU_ASSERT_EQUAL(pipe2(pipes, O_CLOEXEC), 0);
	before = unit_count_fds();
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 0, 0, RW, fd), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, UINT64_MAX - P + 2, P, 0, RW, fd), -EINVAL); /* wraps */
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 16 * P, RW, fd), -EINVAL);		  /* beyond the end */
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 2 * P, 15 * P, RW, fd), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, UINT64_MAX - P + 1, RW, fd), -EINVAL); /* offset + size wraps */
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW | 0x10, fd), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW | SVIO_VFU_DMA_F_MMAP, -1), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW | SVIO_VFU_DMA_F_FILE_IO, -1), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, null), -EINVAL); /* no regular files */
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, pipes[0]), -EINVAL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, ro), -EACCES);
	two[0] = two[1] = fd;
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_DMA_MAP, &m, sizeof(m), two, 2), -EINVAL);
	m.argsz = 31;
	CU_ASSERT_EQUAL(tc_call_fds(&tc, SVIO_VFU_DMA_MAP, &m, sizeof(m), two, 1), -EINVAL);
	CU_ASSERT_EQUAL(unit_count_fds(), before);

	CU_ASSERT_EQUAL(tc_map(&tc, 4 * P, 4 * P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 4 * P, 4 * P, 0, RW, fd), -EEXIST);
	CU_ASSERT_EQUAL(tc_map(&tc, 3 * P, 2 * P, 0, RW, fd), -EEXIST);
	CU_ASSERT_EQUAL(tc_map(&tc, 7 * P, 2 * P, 0, RW, fd), -EEXIST);
	CU_ASSERT_EQUAL(tc_map(&tc, 5 * P, P, 0, RW, fd), -EEXIST);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, 16 * P, 0, RW, fd), -EEXIST);
	CU_ASSERT_EQUAL(tc_map(&tc, 3 * P, P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 8 * P, P, 0, SVIO_VFU_DMA_F_READ, ro), 0); /* deduplicated onto the writable one */
	CU_ASSERT_EQUAL(tc_map(&tc, 0xc0000, 0x40000, 0, SVIO_VFU_DMA_F_READ, -1), 0); /* a BIOS: no descriptor */
	CU_ASSERT_EQUAL(unit_count_fds(), before + 1);
	/* unmap: what is contained goes, what would be cut stops it, nothing is fine */
	CU_ASSERT_EQUAL(tc_unmap(&tc, 4 * P, 2 * P), -EINVAL);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 3 * P, 2 * P), -EINVAL);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 5 * P, 2 * P), -EINVAL);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, 0), -EINVAL);
	CU_ASSERT_EQUAL(tc_unmap(&tc, P, UINT64_MAX), -EINVAL); /* wraps */
	CU_ASSERT_EQUAL(tc_unmap(&tc, 100 * P, P), 0);
	CU_ASSERT_EQUAL(tc_unmap(&tc, P, UINT64_MAX - P + 1), 0); /* to the end of the space */
	CU_ASSERT_EQUAL(unit_count_fds(), before);
	CU_ASSERT_EQUAL(tc_map(&tc, 4 * P, 4 * P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 4 * P, 4 * P), 0);
	close(fd);
	close(ro);
	close(null);
	close(pipes[0]);
	close(pipes[1]);
	tc_stop(&tc);
}

/* What a virtual IOMMU does: a descriptor with every page. */
static void test_many(void)
{
	int fd, before, maps;
	uint8_t *mem;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	fd = tc_memfd(1024 * P, F_SEAL_SHRINK, (void **)&mem);
	before = unit_count_fds();
	maps = tc_count_memfds();
	for (uint64_t i = 0; i < 1024; i++) {
		mem[i * P] = (uint8_t)i;
		CU_ASSERT_EQUAL(tc_map(&tc, (i * 7 % 1024) * 2 * P, P, (i * 7 % 1024) * P, RW, fd), 0);
	}
	CU_ASSERT_EQUAL(unit_count_fds(), before + 1);
	CU_ASSERT_EQUAL(tc_count_memfds(), maps + 1);
	for (uint64_t i = 0; i < 1024; i++) {
		uint8_t *p = svio_vdev_dma_ptr(tc.dev, i * 2 * P, P, SVIO_VDEV_WRITE);

		CU_ASSERT_PTR_NOT_NULL_FATAL(p);
		CU_ASSERT_EQUAL(*p, (uint8_t)i);
		CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, i * 2 * P + P, 1, SVIO_VDEV_READ));
	}
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, 43 * 2 * P), 0); /* 43 at once */
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 42 * 2 * P, 1, SVIO_VDEV_READ));
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, 43 * 2 * P, 1, SVIO_VDEV_READ));
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, UINT64_C(1) << 63), 0);
	CU_ASSERT_EQUAL(unit_count_fds(), before);
	CU_ASSERT_EQUAL(tc_count_memfds(), maps);
	munmap(mem, 1024 * P);
	close(fd);
	tc_stop(&tc);
}

/* As many as the protocol's default lets a client have, and no more. */
static void test_max_maps(void)
{
	uint32_t n = 0;
	struct tc tc;
	int err = 0;

	tc_start(&tc, "probe", 0);
	while (n <= SVIO_VFU_DEF_MAX_DMA_MAPS && !err) {
		err = tc_map(&tc, n * 2 * P, P, 0, RW, -1);
		n += !err;
	}
	CU_ASSERT_EQUAL(err, -ENOSPC);
	CU_ASSERT_EQUAL(n, SVIO_VFU_DEF_MAX_DMA_MAPS);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, P), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, P, P, 0, RW, -1), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, -1), -ENOSPC);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, UINT64_C(1) << 63), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, -1), 0);
	tc_stop(&tc);
}

/*
 * Without F_SEAL_SHRINK: not mapped, but read and written, and its truncation is an error and
 * nothing else.
 */
static void test_unsealed(void)
{
	uint8_t buf[8192], *mem;
	struct svio_vdev_dma d;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	fd = tc_memfd(4 * P, 0, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x10000, 4 * P, 0, RW, fd), 0);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x10000, 1, SVIO_VDEV_READ));
	memset(mem + 100, 3, 8192);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x10000 + 100, buf, 8192, SVIO_VDEV_READ), 0);
	CU_ASSERT(buf[0] == 3 && buf[8191] == 3);
	memset(buf, 9, sizeof(buf));
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x10000, buf, 10, SVIO_VDEV_WRITE), 0);
	CU_ASSERT(mem[9] == 9 && mem[10] == 0);
	CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x10000, buf, 10, SVIO_VDEV_READ), -EIO);
	CU_ASSERT_EQUAL(done_count, 0);
	munmap(mem, 4 * P);
	close(fd);
	tc_stop(&tc);
	/* the same file of a trusted client is mapped */
	tc_start(&tc, "probe", SVIO_VDEV_TRUST_CLIENT);
	tc_master(&tc);
	fd = tc_memfd(P, 0, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, fd), 0);
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, 0, P, SVIO_VDEV_WRITE));
	/* explicit file I/O wins */
	CU_ASSERT_EQUAL(tc_map(&tc, P, P, 0, RW | SVIO_VFU_DMA_F_FILE_IO, fd), 0);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, P, P, SVIO_VDEV_WRITE));
	close(fd);
	tc_stop(&tc);
}

static void test_transfer_shared(void)
{
	uint8_t buf[3 * 4096], *mem;
	struct svio_vdev_dma d;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	fd = tc_memfd(4 * P, F_SEAL_SHRINK, (void **)&mem);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 2 * P, RW, fd), 0); /* adjacent mappings of scattered pages */
	CU_ASSERT_EQUAL(tc_map(&tc, P, P, 0, RW, fd), 0);
	CU_ASSERT_EQUAL(tc_map(&tc, 2 * P, P, 3 * P, SVIO_VFU_DMA_F_READ, fd), 0);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0, buf, 4, SVIO_VDEV_READ), -EPERM);
	tc_master(&tc);
	mem[2 * P] = 1;
	mem[0] = 2;
	mem[3 * P] = 3;
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0, buf, 3 * 4096, SVIO_VDEV_READ), 0);
	CU_ASSERT(buf[0] == 1 && buf[P] == 2 && buf[2 * P] == 3);
	memset(buf, 8, sizeof(buf));
	CU_ASSERT_EQUAL(transfer(&tc, &d, P - 2, buf, 4, SVIO_VDEV_WRITE), 0);
	CU_ASSERT(mem[3 * P - 1] == 8 && mem[1] == 8 && mem[2] == 0);
	/* into the read-only page: nothing moves at all */
	CU_ASSERT_EQUAL(transfer(&tc, &d, 2 * P - 4, buf, 8, SVIO_VDEV_WRITE), -EFAULT);
	CU_ASSERT_EQUAL(mem[P - 1], 0);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 3 * P - 1, buf, 2, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(transfer(&tc, &d, UINT64_MAX, buf, 2, SVIO_VDEV_READ), -EFAULT);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0, buf, 0, SVIO_VDEV_READ), 0);
	munmap(mem, 4 * P);
	close(fd);
	tc_stop(&tc);
}

static void pump_until_done(struct tc *tc)
{
	/* A request of ours forces the client's side to read, and so to answer DMA messages. */
	for (int i = 0; i < 200 && !done_count; i++)
		tc_r32(tc, 0);
}

static void test_messages(void)
{
	static uint8_t ram[1 << 20], buf[600000];
	struct svio_vdev_dma d;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	tc.auto_dma = true;
	tc.ram = ram;
	tc.ram_len = sizeof(ram);
	tc.ram_iova = 0x40000000;
	CU_ASSERT_EQUAL(tc_map(&tc, 0x40000000, 1 << 20, 0, RW, -1), 0);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x40000000, 1, SVIO_VDEV_READ));
	for (size_t i = 0; i < sizeof(ram); i++)
		ram[i] = (uint8_t)(i * 31 >> 3);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x40000005, buf, sizeof(buf), SVIO_VDEV_READ), -EINPROGRESS);
	CU_ASSERT_EQUAL(done_count, 0);
	pump_until_done(&tc);
	CU_ASSERT_EQUAL(done_count, 1);
	CU_ASSERT_EQUAL(done_err, 0);
	CU_ASSERT_EQUAL(memcmp(buf, ram + 5, sizeof(buf)), 0);
	CU_ASSERT(tc.dma_seen >= 5); /* in parts */
	memset(buf, 0x5a, sizeof(buf));
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x40000009, buf, sizeof(buf), SVIO_VDEV_WRITE), -EINPROGRESS);
	pump_until_done(&tc);
	CU_ASSERT_EQUAL(done_err, 0);
	CU_ASSERT_EQUAL(memcmp(buf, ram + 9, sizeof(buf)), 0);
	CU_ASSERT_NOT_EQUAL(ram[8], 0x5a);
	/* refused by the client */
	tc.ram_len = 0x1000;
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0x40002000, buf, 16, SVIO_VDEV_READ), -EINPROGRESS);
	pump_until_done(&tc);
	CU_ASSERT_EQUAL(done_err, -EFAULT);
	tc_stop(&tc);
}

/* Requests are answered while a DMA message is open: QEMU serves both under one lock. */
static void test_no_deadlock(void)
{
	struct svio_vdev_dma d;
	uint8_t buf[64];
	struct tc tc;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, -1), 0);
	CU_ASSERT_EQUAL(transfer(&tc, &d, 0, buf, 64, SVIO_VDEV_READ), -EINPROGRESS);
	CU_ASSERT(tc_recv(&tc));
	CU_ASSERT_EQUAL(tc.hdr.cmd, SVIO_VFU_DMA_READ);
	CU_ASSERT_EQUAL(tc.hdr.flags, SVIO_VFU_COMMAND);
	CU_ASSERT_EQUAL(tc.len, 16);
	tc_w32(&tc, 0, 3); /* we have not answered */
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 3);
	/* unmapping cancels it, before the reply */
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, P), 0);
	CU_ASSERT_EQUAL(done_count, 1);
	CU_ASSERT_EQUAL(done_err, -ECANCELED);
	tc_stop(&tc);
}

static void reply_dma(struct tc *tc, uint16_t id, uint16_t cmd, uint64_t iova, uint64_t count, size_t data)
{
	struct {
		struct svio_vfu_hdr h;
		struct svio_vfu_dma_rw rw;
		uint8_t d[256];
	} __attribute__((packed)) m = { .h = { .id = id, .cmd = cmd, .flags = SVIO_VFU_REPLY } };

	m.h.size = (uint32_t)(sizeof(m.h) + sizeof(m.rw) + data);
	m.rw.iova = iova;
	m.rw.count = count;
	memset(m.d, 0x77, sizeof(m.d));
	tc_send_raw(tc, &m, m.h.size, NULL, 0);
	tc_rounds(tc, 10);
}

static void test_bad_replies(void)
{
	struct svio_vdev_dma d;
	uint8_t buf[64];
	uint16_t id;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, -1), 0);
	for (int kind = 0; kind < 6; kind++) {
		CU_ASSERT_EQUAL(transfer(&tc, &d, 16, buf, 64, SVIO_VDEV_READ), -EINPROGRESS);
		CU_ASSERT_FATAL(tc_recv(&tc));
		id = tc.hdr.id;
		if (kind == 0) /* more than asked for */
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, 16, 65, 65);
		else if (kind == 1) /* another address */
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, 17, 64, 64);
		else if (kind == 2) /* data missing */
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, 16, 64, 63);
		else if (kind == 3)
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, 16, 0, 0);
		else if (kind == 4)
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, 16, UINT64_MAX, 64);
		else
			reply_dma(&tc, id, SVIO_VFU_DMA_READ, UINT64_MAX, UINT64_MAX, 0);
		CU_ASSERT_EQUAL(done_count, 1);
		CU_ASSERT_EQUAL(done_err, -EIO);
	}
	/* an answer with another id or command matches nothing */
	CU_ASSERT_EQUAL(transfer(&tc, &d, 16, buf, 64, SVIO_VDEV_READ), -EINPROGRESS);
	CU_ASSERT_FATAL(tc_recv(&tc));
	id = tc.hdr.id;
	reply_dma(&tc, (uint16_t)(id ^ 1), SVIO_VFU_DMA_READ, 16, 64, 64);
	reply_dma(&tc, (uint16_t)(id ^ 0x8000), SVIO_VFU_DMA_READ, 16, 64, 64);
	reply_dma(&tc, id, SVIO_VFU_DMA_WRITE, 16, 64, 0);
	CU_ASSERT_EQUAL(done_count, 0);
	/* short transfers go on from there */
	reply_dma(&tc, id, SVIO_VFU_DMA_READ, 16, 24, 24);
	CU_ASSERT_EQUAL(done_count, 0);
	CU_ASSERT_FATAL(tc_recv(&tc));
	reply_dma(&tc, tc.hdr.id, SVIO_VFU_DMA_READ, 40, 40, 40);
	CU_ASSERT_EQUAL(done_count, 1);
	CU_ASSERT_EQUAL(done_err, 0);
	CU_ASSERT(buf[0] == 0x77 && buf[63] == 0x77);
	/* cancelled by the model: the late answer is ignored */
	memset(buf, 0, sizeof(buf));
	CU_ASSERT_EQUAL(transfer(&tc, &d, 16, buf, 64, SVIO_VDEV_READ), -EINPROGRESS);
	svio_vdev_dma_cancel(tc.dev, &d);
	CU_ASSERT_FATAL(tc_recv(&tc));
	reply_dma(&tc, tc.hdr.id, SVIO_VFU_DMA_READ, 16, 64, 64);
	CU_ASSERT_EQUAL(done_count, 0);
	CU_ASSERT_EQUAL(buf[0], 0);
	tc_stop(&tc);
}

/* More transfers than slots: all finish; on disconnect all are cancelled. */
static void test_many_messages(void)
{
	static struct svio_vdev_dma d[700];
	static uint8_t bufs[700][16], ram[4096];
	struct tc tc;

	for (int round = 0; round < 2; round++) {
		tc_start(&tc, "probe", 0);
		tc_master(&tc);
		CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, -1), 0);
		memset(ram, 0x21, sizeof(ram));
		memset(bufs, 0, sizeof(bufs));
		for (int i = 0; i < 700; i++) {
			d[i] = (struct svio_vdev_dma){ .iova = (uint64_t)i, .buf = bufs[i], .len = 16, .done = done };
			CU_ASSERT_EQUAL(svio_vdev_dma_start(tc.dev, &d[i]), -EINPROGRESS);
		}
		done_count = 0;
		if (round == 0) {
			tc.auto_dma = true;
			tc.ram = ram;
			tc.ram_len = sizeof(ram);
			for (int i = 0; i < 50 && done_count < 700; i++)
				tc_r32(&tc, 0);
			CU_ASSERT_EQUAL(done_err, 0);
			for (int i = 0; i < 700; i++)
				CU_ASSERT_EQUAL(bufs[i][15], 0x21);
		} else {
			tc_close(&tc);
			tc_rounds(&tc, 20);
			CU_ASSERT_EQUAL(done_err, -ECANCELED);
		}
		CU_ASSERT_EQUAL(done_count, 700);
		tc_stop(&tc);
	}
}

/* Memory goes away only after the model has said that its DMA is over. */
static void test_quiesce(void)
{
	struct probe *p;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	tc_master(&tc);
	fd = tc_memfd(4 * P, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0x5000, 4 * P, 0, RW, fd), 0);
	p->watch_iova = 0x5000;
	p->hold = 5;
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0x5000, 4 * P), 0);
	CU_ASSERT_EQUAL(p->asked, 6);
	CU_ASSERT_EQUAL(p->mapped_at_quiesce, 6); /* valid each time it was asked */
	CU_ASSERT(p->why == SVIO_VDEV_Q_UNMAP && p->q_iova == 0x5000 && p->q_len == 4 * P);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x5000, 1, SVIO_VDEV_READ));
	/* disconnect likewise */
	CU_ASSERT_EQUAL(tc_map(&tc, 0x5000, 4 * P, 0, RW, fd), 0);
	p->mapped_at_quiesce = 0;
	p->hold = 100;
	tc_close(&tc);
	tc_rounds(&tc, 50);
	CU_ASSERT_EQUAL(p->why, SVIO_VDEV_Q_DISCONNECT);
	CU_ASSERT(p->connected);
	CU_ASSERT(p->mapped_at_quiesce > 10);
	CU_ASSERT_PTR_NOT_NULL(svio_vdev_dma_ptr(tc.dev, 0x5000, 1, SVIO_VDEV_READ));
	tc_rounds(&tc, 200);
	CU_ASSERT_FALSE(p->connected);
	CU_ASSERT_PTR_NULL(svio_vdev_dma_ptr(tc.dev, 0x5000, 1, SVIO_VDEV_READ));
	p->watch_iova = 0;
	close(fd);
	tc_stop(&tc);
}

/* Clients give up after 5 s (QEMU then aborts): a request that waits for DMA which does not end is answered before that. */
static void test_endless_dma(void)
{
	const struct svio_vfu_hdr reset = { .id = 9, .cmd = SVIO_VFU_DEVICE_RESET, .size = sizeof(reset) };
	uint64_t begin, end;
	struct probe *p;
	struct tc tc;
	int fd;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	fd = tc_memfd(P, F_SEAL_SHRINK, NULL);
	CU_ASSERT_EQUAL(tc_map(&tc, 0, P, 0, RW, fd), 0);
	p = svio_vdev_priv(tc.dev);
	p->hold = UINT32_MAX;
	tc_send_raw(&tc, &reset, sizeof(reset), NULL, 0);
	begin = svio_now_ns();
	end = begin + UINT64_C(60000000000);
	while (recv(tc.fd, &tc.hdr, sizeof(tc.hdr), MSG_DONTWAIT) < 0 && svio_now_ns() < end) {
		tc_rounds(&tc, 1);
		usleep(1000);
	}
	CU_ASSERT_EQUAL(tc.hdr.id, 9);
	CU_ASSERT_EQUAL(tc.hdr.error, ETIMEDOUT);
	CU_ASSERT(svio_now_ns() - begin >= UINT64_C(3000000000)); /* and not at once */
	p->hold = 0;
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_unmap(&tc, 0, P), 0);
	close(fd);
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "translation: hits, protection, ends, bus mastering, stale hits", test_translate },
	{ "map and unmap rules: overlap, overflow, files, protection", test_map_rules },
	{ "a thousand mappings of one file cost one descriptor and one mapping", test_many },
	{ "max_dma_maps", test_max_maps },
	{ "files that may shrink are not mapped", test_unsealed },
	{ "transfers over shared memory", test_transfer_shared },
	{ "transfers by message, in parts, and refused", test_messages },
	{ "requests are served while DMA messages are open; unmap cancels them", test_no_deadlock },
	{ "replies that do not fit; short ones; late ones", test_bad_replies },
	{ "more transfers than message slots; cancelled at disconnect", test_many_messages },
	{ "unmap and disconnect wait for the model's DMA", test_quiesce },
	{ "DMA that does not end costs an error, in time", test_endless_dma },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/dma", tests);
}
