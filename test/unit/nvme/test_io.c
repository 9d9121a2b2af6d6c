/* SPDX-License-Identifier: BSD-3-Clause */
/* I/O over the fake controller: what reaches it, what comes back, what is refused. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fake.h"
#include "unit.h"

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint8_t *mem; /* 8 MiB of the ioas */

struct done {
	int calls, status;
};

static void cb(void *ctx, int status)
{
	struct done *d = ctx;

	d->calls++;
	d->status = status;
}

static void up(uint32_t depth)
{
	if (!dev)
		dev = fake_new();
	nvme = fake_open(dev, NULL);
	qp = fake_qp(nvme, depth);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	mem = fake_alloc(8 << 20);
}

static void down(void)
{
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	svio_mem_free(mem);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
	dev = NULL;
}

static uint32_t poll_all(void)
{
	uint32_t n = 0;

	fake_run(dev);
	for (int i = 0; i < 4; i++) {
		n += svio_nvme_poll(qp, 0);
		fake_run(dev);
	}
	return n;
}

static void pattern(uint8_t *p, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i += 4) {
		uint32_t v = (uint32_t)i * 2654435761u + seed;

		memcpy(p + i, &v, 4);
	}
}

/* Every length and alignment, written and read back by the controller's own walk of the PRPs. */
static void test_sizes(void)
{
	static const uint32_t nlbs[] = { 1, 2, 7, 8, 9, 15, 16, 17, 64, 255, 256, 1023, 1024, 1025, 2048 };
	static const uint32_t offs[] = { 0, 4, 512, 1024, 3584, 4092 };
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 4, .max_transfer = 2u << 20 };

	up(16);
	svio_nvme_qp_destroy(qp);
	CU_ASSERT_EQUAL(svio_nvme_qp_create(nvme, &opts, &qp), 0);
	for (size_t n = 0; n < SVIO_ARRAY_SIZE(nlbs); n++) {
		for (size_t o = 0; o < SVIO_ARRAY_SIZE(offs); o++) {
			size_t len = (size_t)nlbs[n] * 512;
			uint8_t *w = mem + offs[o], *r = mem + (4 << 20) + offs[SVIO_ARRAY_SIZE(offs) - 1 - o];
			struct done dw = { 0 }, dr = { 0 };

			pattern(w, len, (uint32_t)(n * 16 + o));
			memset(r, 0, len + 4);
			CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, w, 100 + n, nlbs[n], 0, cb, &dw), 0);
			CU_ASSERT_EQUAL(poll_all(), 1);
			CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, r, 100 + n, nlbs[n], 0, cb, &dr), 0);
			CU_ASSERT_EQUAL(poll_all(), 1);
			CU_ASSERT_TRUE(dw.calls == 1 && dw.status == 0 && dr.calls == 1 && dr.status == 0);
			CU_ASSERT_EQUAL(memcmp(w, r, len), 0);
			CU_ASSERT_EQUAL(memcmp(dev->store + (100 + n) * 512, w, len), 0);
			CU_ASSERT_EQUAL(memcmp(r + len, "\0\0\0", 4), 0);
		}
	}
	down();
}

static void test_refused(void)
{
	struct done d = { 0 };
	uint8_t *heap = malloc(4096);
	struct svio_nvme_range range = { .lba = 0, .nlb = 1 };

	up(8);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 0, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem + 8, 5, 0, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, FAKE_BLOCKS, 1, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, FAKE_BLOCKS - 1, 2, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, UINT64_MAX, 1, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, UINT64_MAX - 3, 8, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 2049, 0, cb, &d), -EINVAL); /* above 1 MiB */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 0x80000000u, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, UINT32_MAX, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem + 2, 0, 1, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 1u << 7, cb, &d), -EINVAL); /* unknown flag */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0x80000000u, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, heap, 0, 1, 0, cb, &d), -EFAULT);
	CU_ASSERT_EQUAL(svio_nvme_write_zeroes(qp, &ns, FAKE_BLOCKS, 1, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_write_zeroes(qp, &ns, 0, 65537, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, &range, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, &range, 257, cb, &d), -EINVAL);
	range.lba = FAKE_BLOCKS;
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, &range, 1, cb, &d), -EINVAL);
	/* The end of the largest mapping: the last page is in, what begins there and goes on is not. */
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
	CU_ASSERT_EQUAL(poll_all(), 0);
	CU_ASSERT_EQUAL(dev->fetched, 0);
	CU_ASSERT_EQUAL(d.calls, 0);
	/* Nothing was lost by the refusals. */
	for (int i = 0; i < 7; i++)
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, &d), 0);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, &d), -EAGAIN);
	CU_ASSERT_EQUAL(svio_nvme_flush(qp, &ns, cb, &d), -EAGAIN);
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 7);
	CU_ASSERT_EQUAL(poll_all(), 7);
	CU_ASSERT_EQUAL(d.calls, 7);
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
	down();
	free(heap);
}

static void test_arena_end(void)
{
	struct done d = { 0 };
	const struct svio_ioas_hot_range *hot;
	uint8_t *end;

	up(8);
	hot = svio_ioas_hot_range(fake_ioas());
	end = (uint8_t *)(uintptr_t)(hot->va + hot->len);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, end, 0, 1, 0, cb, &d), -EFAULT);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, end - 512, 0, 2, 0, cb, &d), -EFAULT);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, end - 4096, 0, 9, 0, cb, &d), -EFAULT);
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
	down();
}

static void test_batch(void)
{
	struct done d = { 0 };
	uint64_t db;

	up(64);
	db = dev->db_stores;
	for (int i = 0; i < 32; i++)
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem + 4096 * i, (uint64_t)i, 1, SVIO_NVME_MORE, cb, &d), 0);
	CU_ASSERT_EQUAL(poll_all(), 0);
	CU_ASSERT_EQUAL(dev->fetched, 0);
	CU_ASSERT_EQUAL(dev->db_stores, db);
	svio_nvme_ring(qp);
	CU_ASSERT_EQUAL(poll_all(), 32);
	CU_ASSERT_EQUAL(dev->db_stores, db + 1);
	svio_nvme_ring(qp); /* nothing to tell */
	fake_run(dev);
	CU_ASSERT_EQUAL(dev->db_stores, db + 1);
	/* The last without MORE rings for all; a ring after it has nothing to tell. */
	for (int i = 0; i < 8; i++)
		CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, 0, 1, i < 7 ? SVIO_NVME_MORE : 0, cb, &d), 0);
	CU_ASSERT_EQUAL(poll_all(), 8);
	CU_ASSERT_EQUAL(dev->db_stores, db + 2);
	CU_ASSERT_EQUAL(d.calls, 40);
	down();
}

/* Rings go around many times, with every number in flight; the phase follows. */
static void test_wrap(void)
{
	static const uint32_t depths[] = { 2, 3, 4, 5, 8, 100 };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(depths); i++) {
		struct done d = { 0 };
		int sent = 0;

		up(depths[i]);
		for (uint32_t round = 0; round < 500; round++) {
			uint32_t n = 1 + round % (depths[i] - 1);

			for (uint32_t k = 0; k < n; k++, sent++)
				CU_ASSERT_EQUAL_FATAL(svio_nvme_read(qp, &ns, mem, round, 1, 0, cb, &d), 0);
			CU_ASSERT_EQUAL_FATAL(poll_all(), n);
		}
		CU_ASSERT_EQUAL(d.calls, sent);
		down();
	}
}

/* The limit of a poll, and completions in another order than the submissions. */
static void test_poll_limit(void)
{
	struct done d[16] = { 0 };

	dev = fake_new();
	dev->auto_io = false;
	up(32);
	for (int i = 0; i < 16; i++)
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, (uint64_t)i, 1, 0, cb, &d[i]), 0);
	fake_run(dev);
	CU_ASSERT_EQUAL(dev->num_cmds, 16);
	while (dev->num_cmds)
		fake_complete(dev, dev->num_cmds - 1, dev->num_cmds == 5 ? NVME_STATUS_MAKE(2, 0x81) : 0);
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 1), 1);
	CU_ASSERT_EQUAL(d[15].calls, 1);
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 5), 5);
	CU_ASSERT_EQUAL(d[10].calls, 1);
	CU_ASSERT_EQUAL(d[9].calls, 0);
	CU_ASSERT_EQUAL(svio_nvme_poll(qp, 100), 10);
	for (int i = 0; i < 16; i++) {
		CU_ASSERT_EQUAL(d[i].calls, 1);
		CU_ASSERT_EQUAL(d[i].status, i == 4 ? SVIO_NVME_SC(2, 0x81) : 0);
	}
	down();
}

static int nested;

static void cb_submit(void *ctx, int status)
{
	(void)status;
	if (nested++ < 100)
		CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb_submit, ctx), 0);
}

static void test_submit_in_callback(void)
{
	up(2); /* one request: its id must be free when its callback runs */
	nested = 0;
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb_submit, NULL), 0);
	for (int i = 0; i < 300 && nested < 101; i++)
		poll_all();
	CU_ASSERT_EQUAL(nested, 101);
	down();
}

static void test_vectors(void)
{
	struct done d = { 0 };
	struct svio_nvme_iov iov[40];

	up(8);
	pattern(mem, 1 << 20, 77);
	/* By pages: PRPs. */
	iov[0] = (struct svio_nvme_iov){ mem + 512, 4096 - 512 };
	iov[1] = (struct svio_nvme_iov){ mem + 65536, 8192 };
	iov[2] = (struct svio_nvme_iov){ mem + 32768, 512 };
	CU_ASSERT_EQUAL(svio_nvme_writev(qp, &ns, iov, 3, 10, 24, 0, cb, &d), 0);
	fake_run(dev);
	poll_all();
	CU_ASSERT_TRUE(d.calls == 1 && d.status == 0);
	CU_ASSERT_EQUAL(memcmp(dev->store + 5120, mem + 512, 3584), 0);
	CU_ASSERT_EQUAL(memcmp(dev->store + 5120 + 3584, mem + 65536, 8192), 0);
	CU_ASSERT_EQUAL(memcmp(dev->store + 5120 + 11776, mem + 32768, 512), 0);
	/* Anything: an SGL. */
	for (int i = 0; i < 40; i++)
		iov[i] = (struct svio_nvme_iov){ mem + 1000 * i + 4 * (i % 3), 512u * (1 + i % 2) };
	CU_ASSERT_EQUAL(svio_nvme_writev(qp, &ns, iov, 40, 200, 60, 0, cb, &d), 0);
	poll_all();
	CU_ASSERT_TRUE(d.calls == 2 && d.status == 0);
	for (size_t i = 0, off = 200 * 512; i < 40; off += iov[i].len, i++)
		CU_ASSERT_EQUAL(memcmp(dev->store + off, iov[i].base, iov[i].len), 0);
	/* Read back the same way, elsewhere. */
	for (int i = 0; i < 40; i++)
		iov[i].base = mem + (2 << 20) + 2000 * i + 4;
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 40, 200, 60, 0, cb, &d), 0);
	poll_all();
	CU_ASSERT_TRUE(d.calls == 3 && d.status == 0);
	for (size_t i = 0, off = 200 * 512; i < 40; off += iov[i].len, i++)
		CU_ASSERT_EQUAL(memcmp(dev->store + off, iov[i].base, iov[i].len), 0);
	/* A single unaligned piece is a PRP; two that do not meet at pages make one SGL of two. */
	iov[0] = (struct svio_nvme_iov){ mem + 516, 1024 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 1, 0, 2, 0, cb, &d), 0);
	poll_all();
	CU_ASSERT_EQUAL(d.calls, 4);
	/* Refused: wrong sum, empty piece, unaligned, foreign. */
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 1, 0, 3, 0, cb, &d), -EINVAL);
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 0, 0, 1, 0, cb, &d), -EINVAL);
	iov[1] = (struct svio_nvme_iov){ mem, 0 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 2, 0, 2, 0, cb, &d), -EINVAL);
	iov[0] = (struct svio_nvme_iov){ mem + 2, 512 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 1, 0, 1, 0, cb, &d), -EINVAL);
	iov[0] = (struct svio_nvme_iov){ iov, 512 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 1, 0, 1, 0, cb, &d), -EFAULT);
	CU_ASSERT_EQUAL(svio_nvme_inflight(qp), 0);
	down();
}

static void test_no_sgl(void)
{
	struct done d = { 0 };
	struct svio_nvme_iov iov[2];

	dev = fake_new();
	dev->id.sgls = svio_cpu_to_le32(0);
	up(8);
	iov[0] = (struct svio_nvme_iov){ mem, 512 };
	iov[1] = (struct svio_nvme_iov){ mem + 4096, 512 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 2, 0, 2, 0, cb, &d), -EINVAL);
	iov[0] = (struct svio_nvme_iov){ mem + 3584, 512 };
	CU_ASSERT_EQUAL(svio_nvme_readv(qp, &ns, iov, 2, 0, 2, 0, cb, &d), 0);
	CU_ASSERT_EQUAL(poll_all(), 1);
	down();
}

static void test_others(void)
{
	struct svio_nvme_range ranges[256];
	struct done d = { 0 };

	dev = fake_new();
	dev->auto_io = false;
	up(8);
	memset(dev->store, 0x77, FAKE_BLOCKS * FAKE_LBA);
	CU_ASSERT_EQUAL(svio_nvme_flush(qp, &ns, cb, &d), 0);
	CU_ASSERT_EQUAL(svio_nvme_write_zeroes(qp, &ns, 100, 50, 0, cb, &d), 0);
	for (uint32_t i = 0; i < 256; i++)
		ranges[i] = (struct svio_nvme_range){ .lba = 1000 + i * 4, .nlb = 1 + i % 3 };
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, ranges, 256, cb, &d), 0);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, 7, 3, SVIO_NVME_FUA, cb, &d), 0);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, 7, 3, SVIO_NVME_FUA | SVIO_NVME_MORE, cb, &d), 0);
	CU_ASSERT_EQUAL(svio_nvme_write(qp, &ns, mem, 7, 3, 0, cb, &d), 0);
	fake_run(dev);
	CU_ASSERT_EQUAL_FATAL(dev->num_cmds, 6);
	CU_ASSERT_EQUAL(dev->cmds[0].cmd.opcode, NVME_IO_FLUSH);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(dev->cmds[3].cmd.cdw12), 2u | NVME_RW_FUA);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(dev->cmds[4].cmd.cdw12), 2u | NVME_RW_FUA);
	CU_ASSERT_EQUAL(svio_le32_to_cpu(dev->cmds[5].cmd.cdw12), 2u);
	fake_complete_all(dev);
	CU_ASSERT_EQUAL(poll_all(), 6);
	CU_ASSERT_TRUE(d.calls == 6 && d.status == 0);
	CU_ASSERT_TRUE(dev->store[99 * 512] == 0x77 && dev->store[100 * 512] == 0 && dev->store[149 * 512] == 0 &&
		       dev->store[150 * 512] == 0x77);
	for (uint32_t i = 0; i < 256; i++)
		CU_ASSERT_TRUE(dev->store[ranges[i].lba * 512] == 0 &&
			       dev->store[(ranges[i].lba + ranges[i].nlb) * 512] == 0x77);
	down();

	dev = fake_new();
	dev->id.oncs = svio_cpu_to_le16(0);
	up(8);
	CU_ASSERT_EQUAL(svio_nvme_write_zeroes(qp, &ns, 100, 50, 0, cb, &d), -EOPNOTSUPP);
	CU_ASSERT_EQUAL(svio_nvme_deallocate(qp, &ns, ranges, 1, cb, &d), -EOPNOTSUPP);
	down();
}

/* The interrupt fallback: armed, woken by a completion, never asleep over one that is there. */
static void test_poller(void)
{
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 8, .interrupts = true };
	struct svio_poller p;
	struct pollfd pfd = { .events = POLLIN };
	struct done d = { 0 };

	dev = fake_new();
	dev->auto_io = false;
	up(8);
	svio_nvme_qp_destroy(qp);
	CU_ASSERT_EQUAL(svio_nvme_qp_create(nvme, &opts, &qp), 0);
	CU_ASSERT_TRUE(dev->cq[1].ien);
	svio_nvme_qp_poller(qp, &p);
	CU_ASSERT_TRUE_FATAL(p.irq_fd >= 0);
	pfd.fd = p.irq_fd;
	CU_ASSERT_EQUAL(p.poll(p.ctx), 0);
	CU_ASSERT_EQUAL(p.arm(p.ctx), 0);
	CU_ASSERT_EQUAL(poll(&pfd, 1, 0), 0);
	p.disarm(p.ctx);
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, &d), 0);
	CU_ASSERT_EQUAL(p.arm(p.ctx), 0);
	CU_ASSERT_EQUAL(poll(&pfd, 1, 0), 0);
	fake_complete_all(dev);
	CU_ASSERT_EQUAL(poll(&pfd, 1, 1000), 1);
	p.disarm(p.ctx);
	CU_ASSERT_EQUAL(p.poll(p.ctx), 1);
	CU_ASSERT_EQUAL(d.calls, 1);
	/* It completes before the arming: not asleep. */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, &d), 0);
	fake_complete_all(dev);
	CU_ASSERT_TRUE(p.arm(p.ctx) > 0);
	p.disarm(p.ctx);
	CU_ASSERT_EQUAL(p.poll(p.ctx), 1);
	/* Something in flight and nothing happens: the timer wakes for a look at the clock. */
	CU_ASSERT_EQUAL(svio_nvme_read(qp, &ns, mem, 0, 1, 0, cb, &d), 0);
	CU_ASSERT_EQUAL(p.arm(p.ctx), 0);
	CU_ASSERT_EQUAL(poll(&pfd, 1, 5000), 1);
	p.disarm(p.ctx);
	fake_complete_all(dev);
	CU_ASSERT_EQUAL(p.poll(p.ctx), 1);
	fake_unplug(dev);
	for (int i = 0; i < 4; i++)
		(void)p.poll(p.ctx);
	CU_ASSERT_EQUAL(p.poll(p.ctx), -ENODEV);
	down();
}

static const struct unit_test tests[] = {
	{ "every size and alignment, written and read back", test_sizes },
	{ "what is refused, and that it costs nothing", test_refused },
	{ "the end of the mapping", test_arena_end },
	{ "batches: one doorbell, none for nothing", test_batch },
	{ "rings of every size go around", test_wrap },
	{ "poll's limit, order, error status", test_poll_limit },
	{ "a callback submits with the id that it frees", test_submit_in_callback },
	{ "scattered buffers: PRPs and SGLs", test_vectors },
	{ "scattered buffers without SGLs", test_no_sgl },
	{ "flush, write zeroes, deallocate, FUA", test_others },
	{ "interrupts: armed, fired, never asleep over work", test_poller },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/io", tests);
}
