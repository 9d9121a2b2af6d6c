/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations in flight move to another device (both simulated): by re-instatement, and with the device's state. */
#include <stdlib.h>
#include <string.h>
#include "fake.h"
#include "migrate_priv.h"
#include "unit.h"

#define OPS   32u
#define LEN   6000u
#define ROOM  (3 * 8192u)
#define SOON  UINT64_C(20000000)
#define MEMBERS 4u

/* One side: a process with its device. */
struct side {
	struct svio_device *dev;
	struct svio_sva_bond bond;
	struct svio_dsa *dsa;
	struct svio_dsa_wq *wq;
};

/* One operation, and what must be there afterwards. */
struct work {
	struct svio_dsa_op op;
	struct seen seen;
	uint8_t *mem, *want; /* ROOM bytes each */
	uint32_t crc;
	bool differs;
};

static struct side src, dst;
static struct work work[OPS];
static uint32_t works;
static uint8_t *outside; /* memory that does not move */

static void open_side(struct side *s, struct svio_device *dev, bool native, uint32_t pasid, enum svio_dsa_policy policy)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .policy = policy, .wqs = 1, .timeout_ms = 100 };

	s->dev = dev ? dev : fake_new();
	s->bond = fake_bond(s->dev, native);
	if (native)
		s->bond.pasid = pasid;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(s->dev, &opts, &s->dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(s->dsa, &s->bond, NULL, &s->wq), 0);
}

static void close_side(struct side *s)
{
	svio_dsa_wq_destroy(s->wq);
	svio_dsa_close(s->dsa);
	CU_ASSERT_EQUAL(s->dev->bad_dma, 0);
	fake_free(s->dev);
}

static void begin(bool native, enum svio_dsa_policy policy)
{
	open_side(&src, NULL, native, 37, policy);
	works = 0;
	outside = fake_buf(4096);
	memset(work, 0, sizeof(work));
}

static void finish(void)
{
	close_side(&src);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
}

static void poll_side(struct side *s, int n)
{
	for (int i = 0; i < n && svio_dsa_inflight(s->wq); i++) {
		fake_run(s->dev);
		svio_dsa_poll(s->wq, 0);
		fake_now += 1000000;
	}
}

static struct work *new_work(void)
{
	struct work *w = &work[works++];

	CU_ASSERT_TRUE_FATAL(works <= OPS);
	*w = (struct work){ 0 };
	w->mem = fake_buf(ROOM);
	w->want = malloc(ROOM);
	for (uint32_t i = 0; i < ROOM; i++)
		w->mem[i] = (uint8_t)(i * 7 + (i >> 8) * 13 + works);
	return w;
}

/* An operation on memory of its own; off: where a copy goes, relative to its source. */
static struct work *make(enum svio_dsa_opcode op, int64_t off)
{
	struct work *w = new_work();
	uint8_t *s = w->mem + 8192, *d = w->mem + 8192 + off;

	w->op = (struct svio_dsa_op){ .op = op, .src = s, .dst = d, .src2 = w->mem + 16384, .dst2 = w->mem, .len = LEN,
				      .pattern = 0x1122334455667788, .seed = 5 };
	if (op == SVIO_DSA_COMPARE && off)
		memcpy(w->mem + 16384, s, LEN);
	if (op == SVIO_DSA_DUALCAST)
		w->op.dst = w->mem + 16384;
	memcpy(w->want, w->mem, ROOM);
	switch (op) {
	case SVIO_DSA_COPY:
	case SVIO_DSA_COPY_CRC:
		w->crc = svio_crc32c(5, w->want + 8192, LEN);
		memmove(w->want + 8192 + off, w->want + 8192, LEN);
		break;
	case SVIO_DSA_CRC:
		w->crc = svio_crc32c(5, w->want + 8192, LEN);
		break;
	case SVIO_DSA_FILL:
		for (uint32_t i = 0; i < LEN; i++)
			w->want[8192 + off + i] = ((const uint8_t *)&w->op.pattern)[i % 8];
		break;
	case SVIO_DSA_DUALCAST:
		memcpy(w->want, w->want + 8192, LEN);
		memcpy(w->want + 16384, w->want + 8192, LEN);
		break;
	case SVIO_DSA_COMPARE:
		w->differs = off == 0;
		break;
	case SVIO_DSA_COMPARE_PATTERN:
		w->differs = true;
		break;
	default:
		break;
	}
	return w;
}

static void submit(struct work *w)
{
	CU_ASSERT_EQUAL(svio_dsa_submit(src.wq, &w->op, cb, &w->seen), 0);
}

static void one_of_each(void)
{
	submit(make(SVIO_DSA_COPY, 8192));
	submit(make(SVIO_DSA_COPY, -8192));
	submit(make(SVIO_DSA_FILL, 8192));
	submit(make(SVIO_DSA_COMPARE, 1));
	submit(make(SVIO_DSA_COMPARE, 0));
	submit(make(SVIO_DSA_COMPARE_PATTERN, 0));
	submit(make(SVIO_DSA_DUALCAST, 0));
	submit(make(SVIO_DSA_CRC, 0));
	submit(make(SVIO_DSA_COPY_CRC, 8192));
	submit(make(SVIO_DSA_NOOP, 0));
	submit(make(SVIO_DSA_DRAIN, 0));
}

static void judge(const struct work *w, int status)
{
	CU_ASSERT_EQUAL(w->seen.calls, 1);
	CU_ASSERT_EQUAL(w->seen.res.status, status);
	if (status)
		return;
	CU_ASSERT_EQUAL(memcmp(w->mem, w->want, ROOM), 0);
	CU_ASSERT_EQUAL(w->seen.res.differs, w->differs);
	if (w->op.op == SVIO_DSA_CRC || w->op.op == SVIO_DSA_COPY_CRC)
		CU_ASSERT_EQUAL(w->seen.res.crc, w->crc);
}

/* All of them, and their memory back. */
static void judge_all(int status)
{
	for (uint32_t i = 0; i < works; i++) {
		judge(&work[i], status);
		free(work[i].want);
	}
	works = 0;
}

/* ---- what the application does ------------------------------------------------------------------------------ */

static int app_save(void *app, svio_dsa_cb back, void *ctx, uint64_t *cookie)
{
	(void)app;
	CU_ASSERT_PTR_EQUAL(back, cb);
	for (uint32_t i = 0; i < OPS; i++)
		if (ctx == &work[i].seen) {
			*cookie = i;
			return 0;
		}
	return svio_fail(EINVAL, "whose is it?");
}

static bool app_moves(void *app, const void *ptr, uint64_t len)
{
	(void)app;
	return fake_in_arena(ptr, len) && !((const uint8_t *)ptr < outside + 4096 && (const uint8_t *)ptr + len > outside);
}

static int app_load(void *app, uint64_t cookie, svio_dsa_cb *back, void **ctx)
{
	(void)app;
	if (cookie >= works || work[cookie].seen.calls)
		return svio_fail(EINVAL, "no such operation");
	*back = cb;
	*ctx = &work[cookie].seen;
	return 0;
}

static const struct svio_dsa_move app = { .save = app_save, .moves = app_moves, .load = app_load };

static struct svio_migrate_buf new_buf(void)
{
	return (struct svio_migrate_buf){ .max = 1u << 20 };
}

static int load_into(struct side *s, const struct svio_migrate_buf *buf)
{
	struct svio_migrate_in in = { .at = buf->data, .left = buf->len };
	int rc = svio_dsa_wq_load(s->wq, &app, &in);

	if (rc == 0)
		CU_ASSERT_TRUE(in.left == 0 && !in.bad);
	return rc;
}

/* From src, which is held, to dst, made now. *count: operations that moved. */
static void move_over(bool native, uint32_t *count)
{
	struct svio_migrate_buf buf = new_buf();

	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_save(src.wq, &app, &buf, count), 0);
	open_side(&dst, NULL, native, 4711, SVIO_DSA_REQUEUE);
	CU_ASSERT_EQUAL_FATAL(load_into(&dst, &buf), 0);
	CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq), *count);
	CU_ASSERT_EQUAL(dst.dev->executed, 0);
	/* The source ends first: it must not touch anything any more. */
	src.dev->executed = 0;
	for (uint32_t i = 0; i < works; i++)
		work[i].seen.calls += 100;
	svio_dsa_wq_destroy(src.wq);
	svio_dsa_close(src.dsa);
	CU_ASSERT_EQUAL(src.dev->executed, 0);
	for (uint32_t i = 0, there = 0; i < works; i++) {
		/* Its callbacks are nobody's any more: the process is gone. */
		there += work[i].seen.calls > 100 && work[i].seen.res.status == -ECANCELED;
		if (work[i].seen.calls > 100 && work[i].seen.res.status == -ECANCELED)
			work[i].seen = (struct seen){ 0 };
		else
			work[i].seen.calls -= 100;
		if (i + 1 == works)
			CU_ASSERT_EQUAL(there, *count);
	}
	CU_ASSERT_EQUAL(src.dev->bad_dma, 0);
	svio_dsa_wq_replay(dst.wq);
	poll_side(&dst, 1000);
	CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq), 0);
	svio__mg_buf_free(&buf);
	fake_free(src.dev);
	src = dst;
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

/* Between bonds of both kinds, with some of it done, all of it, or nothing. */
static void test_move(void)
{
	for (unsigned int modes = 0; modes < 4; modes++)
		for (unsigned int done = 0; done < 3; done++) {
			struct svio_dsa_result res;
			uint32_t count;

			begin(modes & 1, SVIO_DSA_REQUEUE);
			src.dev->stall_until = UINT64_MAX;
			one_of_each();
			fake_run(src.dev);
			for (unsigned int i = 0; i < (done == 2 ? 11 : done * 5); i++)
				fake_execute(src.dev, 0);
			src.dev->half = true;
			CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
			CU_ASSERT_EQUAL(src.dev->gensts, DSA_GENSTS_DISABLED);
			move_over(modes & 2, &count);
			CU_ASSERT_EQUAL(count, done == 2 ? 0 : 11 - done * 5);
			judge_all(0);
			/* And it works on. */
			CU_ASSERT_EQUAL(svio_dsa_run(src.wq, &(struct svio_dsa_op){ .op = SVIO_DSA_NOOP }, &res), 0);
			finish();
		}
}

/*
 * Copies that overlap themselves, on a device that stops in the middle of each without a word: waited for. Those that do not are not: of
 * them one is never begun.
 */
static void test_overlap(void)
{
	static const int64_t offs[] = { 1, 100, 4096, -1, -100, -4096 };
	uint64_t stalled;
	uint32_t count;

	begin(true, SVIO_DSA_REQUEUE);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(offs); i++)
		submit(make(SVIO_DSA_COPY, offs[i]));
	submit(make(SVIO_DSA_COPY, 8192));
	stalled = src.dev->stall_until = fake_now + SOON;
	src.dev->half = true;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_TRUE(fake_now >= stalled);
	move_over(true, &count);
	CU_ASSERT_EQUAL(count, 0);
	judge_all(0);
	/* Nothing to wait for. */
	stalled = src.dev->stall_until = fake_now + SOON;
	submit(make(SVIO_DSA_COPY, 8192));
	src.dev->half = true;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_TRUE(fake_now < stalled);
	move_over(true, &count);
	CU_ASSERT_EQUAL(count, 1);
	judge_all(0);
	finish();
}

/* Its record tells that it stopped at a page, forwards or backwards: from there it goes on, over there. */
static void test_overlap_partial(void)
{
	for (int backward = 0; backward < 2; backward++) {
		struct svio_dsa_stats st;
		struct work *w;
		uint32_t count;

		begin(true, SVIO_DSA_REQUEUE);
		w = make(SVIO_DSA_COPY, backward ? 50 : -50);
		fake_absent(src.dev, w->mem + 8192 + 4096, false);
		submit(w);
		src.dev->half = true;
		CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
		svio_dsa_get_stats(src.dsa, &st);
		CU_ASSERT_EQUAL(st.page_faults, 1);
		CU_ASSERT_EQUAL(w->seen.calls, 0);
		move_over(true, &count);
		CU_ASSERT_EQUAL(count, 1);
		judge_all(0);
		finish();
	}
}

/* Larger than a piece (1 MiB here): the rest is not begun on the source. */
static void test_pieces(void)
{
	uint64_t len = UINT64_C(2) << 20, off = 700000;
	struct work *w;
	uint32_t count;
	uint8_t *mem, *want;

	begin(true, SVIO_DSA_REQUEUE);
	mem = fake_buf(len + off);
	want = malloc(len + off);
	for (uint64_t i = 0; i < len + off; i++)
		mem[i] = want[i] = (uint8_t)(i * 31 + i / 4096);
	memmove(want + off, want, len);
	w = new_work();
	memcpy(w->want, w->mem, ROOM);
	w->op = (struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = mem, .dst = mem + off, .len = len };
	submit(w);
	src.dev->half = true;
	src.dev->stall_until = fake_now + SOON;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL(w->seen.calls, 0);
	move_over(true, &count);
	CU_ASSERT_EQUAL(count, 1);
	CU_ASSERT_EQUAL(w->seen.res.bytes, len);
	CU_ASSERT_EQUAL(memcmp(mem, want, len + off), 0);
	judge_all(0);
	free(want);
	finish();
}

/* A batch in the middle: what is done is not repeated, fences hold, results arrive in the array. */
static void test_batches(void)
{
	for (unsigned int done = 0; done <= MEMBERS + 1; done++) {
		struct svio_dsa_result *results;
		struct svio_dsa_op ops[MEMBERS];
		struct work *batch, *w[MEMBERS];
		uint32_t count;

		begin(done & 1, SVIO_DSA_REQUEUE);
		results = (void *)fake_buf(MEMBERS * sizeof(*results));
		batch = new_work();
		memcpy(batch->want, batch->mem, ROOM);
		w[0] = make(SVIO_DSA_COPY, 8192);
		w[1] = make(SVIO_DSA_CRC, 0);
		w[2] = make(SVIO_DSA_COPY, done == MEMBERS + 1 ? 8192 : 60); /* overlaps: the batch is waited for */
		w[3] = make(SVIO_DSA_FILL, 8192);
		for (unsigned int i = 0; i < MEMBERS; i++)
			ops[i] = w[i]->op;
		ops[3].flags = SVIO_DSA_FENCE;
		/* A page that is not there stops the batch at one of them. */
		if (done < MEMBERS)
			fake_absent(src.dev, (const uint8_t *)(done == 1 ? ops[done].src : ops[done].dst) + 4096, false);
		CU_ASSERT_EQUAL(svio_dsa_batch(src.wq, ops, MEMBERS, results, cb, &batch->seen), 0);
		src.dev->half = true;
		src.dev->stall_until = done == MEMBERS + 1 ? UINT64_MAX : fake_now + SOON;
		if (done & 1 || done >= MEMBERS) { /* an identity bond's pages do not fault */
			CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
			move_over(true, &count);
			CU_ASSERT_EQUAL(count, done != MEMBERS);
			CU_ASSERT_EQUAL(batch->seen.res.bytes, MEMBERS);
			for (unsigned int i = 0; i < MEMBERS; i++) {
				w[i]->seen = (struct seen){ results[i], 1 };
				CU_ASSERT_EQUAL(results[i].bytes, LEN);
			}
			judge_all(0);
		} else {
			src.dev->num_absent = 0;
			src.dev->stall_until = 0;
			poll_side(&src, 100);
			for (unsigned int i = 0; i < MEMBERS; i++)
				w[i]->seen = (struct seen){ results[i], 1 };
			judge_all(0);
		}
		finish();
	}
}

/* It came to nothing: the source goes on, with what was in flight and with what came meanwhile. */
static void test_back(void)
{
	struct svio_migrate_buf buf = new_buf();
	uint32_t count;

	begin(true, SVIO_DSA_REQUEUE);
	src.dev->stall_until = UINT64_MAX;
	one_of_each();
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL(svio_dsa_wq_save(src.wq, &app, &buf, &count), 0);
	CU_ASSERT_EQUAL(count, works);
	/* However long it lasts, and whoever resets it: held is held. */
	fake_now += UINT64_C(60000000000);
	svio_dsa_reset(src.dsa);
	for (int i = 0; i < 20; i++)
		svio_dsa_poll(src.wq, 0);
	CU_ASSERT_EQUAL(src.dev->gensts, DSA_GENSTS_DISABLED);
	submit(make(SVIO_DSA_COPY, 8192));
	svio_dsa_unquiesce(src.dsa);
	svio_dsa_unquiesce(src.dsa);
	src.dev->stall_until = 0;
	poll_side(&src, 1000);
	CU_ASSERT_TRUE(svio_dsa_ready(src.dsa));
	judge_all(0);
	finish();
	svio__mg_buf_free(&buf);
}

/* SVIO_DSA_FAIL: canceled before anything is saved. */
static void test_fail_policy(void)
{
	struct svio_migrate_buf buf = new_buf();
	uint32_t count = 9;

	begin(true, SVIO_DSA_FAIL);
	src.dev->stall_until = UINT64_MAX;
	one_of_each();
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL(svio_dsa_wq_save(src.wq, &app, &buf, &count), 0);
	CU_ASSERT_EQUAL(count, 0);
	judge_all(-ECANCELED);
	finish();
	svio__mg_buf_free(&buf);
}

/* A device that does not end what must end, does not stop, or goes away. */
static void test_trouble(void)
{
	struct svio_migrate_buf buf = new_buf();
	struct work *plain;

	begin(true, SVIO_DSA_REQUEUE);
	src.dev->lose = true;
	submit(make(SVIO_DSA_COPY, 100));
	plain = make(SVIO_DSA_COPY, 8192);
	submit(plain);
	CU_ASSERT_EQUAL(svio_dsa_quiesce(src.dsa), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "overlapping"));
	CU_ASSERT_EQUAL(svio_dsa_wq_save(src.wq, &app, &buf, NULL), -EBUSY);
	src.dev->lose = false;
	poll_side(&src, 1000);
	judge(plain, 0);
	CU_ASSERT_EQUAL(work[0].seen.res.status, -ECANCELED);
	CU_ASSERT_EQUAL(work[0].seen.calls, 1);
	free(work[0].want);
	free(plain->want);
	finish();

	/* Lost under a copy that was waited for: canceled, as without a migration; held when it is back. */
	begin(true, SVIO_DSA_REQUEUE);
	src.dev->lose = true;
	submit(make(SVIO_DSA_COPY, 100));
	fake_run(src.dev);
	src.dev->lose = false;
	fake_function_reset(src.dev, false);
	CU_ASSERT_EQUAL(svio_dsa_quiesce(src.dsa), 0);
	judge_all(-ECANCELED);
	finish();

	begin(true, SVIO_DSA_REQUEUE);
	fake_revoke(src.dev);
	CU_ASSERT_EQUAL(svio_dsa_quiesce(src.dsa), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "withdrawn"));
	fake_restore(src.dev);
	submit(make(SVIO_DSA_COPY, 8192));
	poll_side(&src, 1000);
	judge_all(0);
	fake_unplug(src.dev);
	CU_ASSERT_EQUAL(svio_dsa_quiesce(src.dsa), -ENODEV);
	finish();
	svio__mg_buf_free(&buf);
}

/* Memory that stays behind; queues that do not fit. */
static void test_refusals(void)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 2, .wq_size = 8 };
	struct svio_migrate_buf buf = new_buf();
	struct work *w;

	begin(true, SVIO_DSA_REQUEUE);
	src.dev->stall_until = UINT64_MAX;
	CU_ASSERT_EQUAL(svio_dsa_wq_save(src.wq, &app, &buf, NULL), -EBUSY);
	w = make(SVIO_DSA_COPY, 8192);
	w->op.src = outside;
	w->op.len = 64;
	submit(w);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL(svio_dsa_wq_save(src.wq, &app, &buf, NULL), -EFAULT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "svio_migrate_alloc"));
	svio_dsa_unquiesce(src.dsa);
	src.dev->stall_until = 0;
	poll_side(&src, 1000);
	CU_ASSERT_EQUAL(w->seen.res.status, 0);
	free(w->want);
	works = 0;

	buf.len = 0;
	src.dev->stall_until = UINT64_MAX;
	submit(make(SVIO_DSA_COPY, 8192));
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_save(src.wq, &app, &buf, NULL), 0);
	dst.dev = fake_new();
	dst.bond = fake_bond(dst.dev, true);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(dst.dev, &opts, &dst.dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(dst.dsa, &dst.bond, NULL, &dst.wq), 0);
	CU_ASSERT_EQUAL(load_into(&dst, &buf), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "does not fit"));
	CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq), 0);
	CU_ASSERT_EQUAL(svio_dsa_run(dst.wq, &(struct svio_dsa_op){ .op = SVIO_DSA_NOOP }, NULL), 0);
	CU_ASSERT_EQUAL(load_into(&dst, &buf), -EBUSY);
	close_side(&dst);
	svio_dsa_unquiesce(src.dsa);
	src.dev->stall_until = 0;
	poll_side(&src, 1000);
	judge_all(0);
	finish();
	svio__mg_buf_free(&buf);
}

/* A stranger's ledger: every byte wrong in several ways, and every length. Nothing comes of it but an error, or operations that are possible. */
static void test_hostile(void)
{
	static const uint8_t flips[] = { 0x01, 0x10, 0x80, 0xff };
	struct svio_migrate_buf buf = new_buf();
	struct svio_dsa_op ops[2];
	struct work *batch;
	uint32_t bad = 0;

	begin(true, SVIO_DSA_REQUEUE);
	src.dev->stall_until = UINT64_MAX;
	submit(make(SVIO_DSA_COPY, 8192));
	submit(make(SVIO_DSA_DUALCAST, 0));
	batch = new_work();
	memcpy(batch->want, batch->mem, ROOM);
	ops[0] = make(SVIO_DSA_CRC, 0)->op;
	ops[1] = make(SVIO_DSA_FILL, 8192)->op;
	CU_ASSERT_EQUAL(svio_dsa_batch(src.wq, ops, 2, NULL, cb, &batch->seen), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_quiesce(src.dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_save(src.wq, &app, &buf, NULL), 0);
	for (size_t at = 0; at < buf.len; at += 1 + (at > 200)) {
		struct svio_migrate_in in = { .at = buf.data, .left = at };

		open_side(&dst, NULL, true, 5, SVIO_DSA_REQUEUE);
		CU_ASSERT_EQUAL(svio_dsa_wq_load(dst.wq, &app, &in), -EINVAL);
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
		CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq), 0);
		for (size_t i = 0; i < SVIO_ARRAY_SIZE(flips); i++) {
			int rc;

			buf.data[at] ^= flips[i];
			in = (struct svio_migrate_in){ .at = buf.data, .left = buf.len };
			rc = svio_dsa_wq_load(dst.wq, &app, &in);
			buf.data[at] ^= flips[i];
			bad += rc != 0;
			CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq) != 0, rc == 0);
			if (rc == 0) {
				/* Possible, if another one: it runs, on memory of ours. */
				for (uint32_t k = 0; k < works; k++)
					work[k].seen = (struct seen){ 0 };
				svio_dsa_wq_replay(dst.wq);
				poll_side(&dst, 1000);
				CU_ASSERT_EQUAL(svio_dsa_inflight(dst.wq), 0);
				for (uint32_t k = 0; k < works; k++)
					work[k].seen = (struct seen){ 0 };
				close_side(&dst);
				open_side(&dst, NULL, true, 5, SVIO_DSA_REQUEUE);
			}
		}
		close_side(&dst);
		/* Memory of the arena is not given back one by one. */
		if (works > OPS)
			break;
	}
	CU_ASSERT_TRUE(bad > 500);
	for (uint32_t i = 0; i < works; i++)
		free(work[i].want);
	finish();
	svio__mg_buf_free(&buf);
}

/* ---- with the device's state ------------------------------------------------------------------------------------- */

/* As it is, in the middle of anything; the same PASID, or not at all. */
static void test_state(void)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 1, .policy = SVIO_DSA_REQUEUE, .area = (void *)&opts };
	struct svio_migrate_buf buf = new_buf();
	struct svio_migrate_in in;
	struct svio_device *moved;
	uint64_t resets;

	src.dev = fake_new();
	src.bond = fake_bond(src.dev, true);
	outside = fake_buf(4096);
	works = 0;
	memset(work, 0, sizeof(work));
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(src.dev, &opts, &src.dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(src.dsa, &src.bond, NULL, &src.wq), 0);
	src.dev->stall_until = UINT64_MAX;
	one_of_each();
	submit(make(SVIO_DSA_COPY, 100));
	fake_run(src.dev);
	for (unsigned int i = 0; i < 4; i++)
		fake_execute(src.dev, 0);
	src.dev->stop = true;
	submit(make(SVIO_DSA_COPY, -100)); /* stays in the portal */
	svio_dsa_state_quiesce(src.dsa);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_state_save(src.dsa, &src.wq, 1, &app, &buf), 0);
	moved = fake_move(src.dev);
	resets = moved->resets;
	/* Another PASID: the state names one that is not ours. */
	dst.bond = fake_bond(moved, true);
	dst.bond.pasid++;
	in = (struct svio_migrate_in){ .at = buf.data, .left = buf.len };
	CU_ASSERT_EQUAL(svio_dsa_state_load(moved, &dst.bond, &opts, &app, &in, &dst.dsa, &dst.wq, 1), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "PASID"));
	dst.bond.pasid--;
	for (size_t at = 0; at < buf.len; at += 3) {
		in = (struct svio_migrate_in){ .at = buf.data, .left = at };
		CU_ASSERT_TRUE(svio_dsa_state_load(moved, &dst.bond, &opts, &app, &in, &dst.dsa, &dst.wq, 1) < 0);
		CU_ASSERT_EQUAL(moved->bars, 0);
	}
	in = (struct svio_migrate_in){ .at = buf.data, .left = buf.len };
	dst.dev = moved;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_state_load(moved, &dst.bond, &opts, &app, &in, &dst.dsa, &dst.wq, 1), 0);
	CU_ASSERT_EQUAL(moved->resets, resets);
	/* Both processes are this one, and each gives its copy of the records back. */
	CU_ASSERT_PTR_NOT_NULL(svio_migrate_alloc(opts.area, 4096, 0));
	/* The source ends without callbacks that anybody hears. */
	svio_dsa_wq_destroy(src.wq);
	svio_dsa_close(src.dsa);
	for (uint32_t i = 0; i < works; i++)
		work[i].seen = (struct seen){ 0 };
	fake_free(src.dev);
	src = dst;
	moved->stall_until = 0;
	moved->stop = false;
	poll_side(&src, 1000);
	CU_ASSERT_EQUAL(moved->resets, resets);
	CU_ASSERT_EQUAL(svio_dsa_inflight(src.wq), 0);
	judge_all(0);
	/* It survives what a device may go through, too. */
	svio_dsa_reset(src.dsa);
	submit(make(SVIO_DSA_COPY, 8192));
	poll_side(&src, 1000);
	judge_all(0);
	svio_dsa_wq_destroy(src.wq);
	svio_dsa_close(src.dsa);
	fake_free(src.dev);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	svio__mg_buf_free(&buf);
}

static void test_describe(void)
{
	struct svio_dsa_needs needs = { .wqs = 2, .depth = 32, .max_batch = 8 };
	struct svio_migrate_difference diff[8];
	struct svio_migrate_record *from = calloc(1, sizeof(*from)), *to = calloc(1, sizeof(*to));

	begin(true, SVIO_DSA_REQUEUE);
	CU_ASSERT_EQUAL(svio_dsa_describe(src.dsa, &src.bond, &needs, from, NULL), 0);
	dst.dev = fake_new();
	dst.dev->opcap &= ~(UINT64_C(1) << DSA_OP_CRC);
	dst.dev->gencap &= ~DSA_GENCAP_OVERLAP_COPY;
	open_side(&dst, dst.dev, false, 0, SVIO_DSA_REQUEUE);
	CU_ASSERT_EQUAL(svio_dsa_describe(dst.dsa, &dst.bond, &needs, to, from), 0);
	/* operations, queues, overlapping copies, native */
	CU_ASSERT_EQUAL(svio__mg_record_compare(from, to, diff, SVIO_ARRAY_SIZE(diff)), 4);
	close_side(&dst);
	finish();
	svio__mg_record_free(from);
	svio__mg_record_free(to);
	free(from);
	free(to);
}

static const struct unit_test tests[] = {
	{ "operations move, between both kinds of bonds", test_move },
	{ "copies that overlap are waited for", test_overlap },
	{ "or go on from where their record tells", test_overlap_partial },
	{ "the rest of a long one is not begun", test_pieces },
	{ "batches", test_batches },
	{ "it came to nothing", test_back },
	{ "policy: fail", test_fail_policy },
	{ "devices that do not stop, or go", test_trouble },
	{ "what does not fit", test_refusals },
	{ "a hostile ledger", test_hostile },
	{ "by the device's state", test_state },
	{ "what must fit", test_describe },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/migrate", tests);
}
