/* SPDX-License-Identifier: BSD-3-Clause */
/* Every allocation of opening, queues in both modes and closing fails in turn. */
#include <string.h>
#include "failnth.h"
#include "fake.h"
#include "migrate_priv.h"
#include "unit.h"

static int scenario(void *ctx)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 2 };
	struct svio_device *dev = ctx;
	struct svio_sva_bond native = fake_bond(dev, true), identity = fake_bond(dev, false);
	struct svio_dsa_wq *a = NULL, *b = NULL;
	struct svio_dsa *dsa;
	int r = svio_dsa_open(dev, &opts, &dsa);

	if (!r)
		r = svio_dsa_wq_create(dsa, &native, NULL, &a);
	if (!r)
		r = svio_dsa_wq_create(dsa, &identity, NULL, &b);
	if (!r) {
		failnth_pause();
		r = svio_dsa_run(b, &(struct svio_dsa_op){ .op = SVIO_DSA_NOOP }, NULL);
		failnth_resume();
	}
	svio_dsa_wq_destroy(b);
	svio_dsa_wq_destroy(a);
	svio_dsa_close(dsa);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	CU_ASSERT_EQUAL(dev->bars, 0);
	if (r)
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
	svio_clear_error();
	return r;
}

static void test_sweep(void)
{
	struct svio_device *dev = fake_new();

	CU_ASSERT_TRUE(failnth_sweep(scenario, dev) > 8);
	fake_free(dev);
}

/* ---- a move ------------------------------------------------------------------------------------------------- */

#define OPS 3u

static struct seen seen[OPS];

static int app_save(void *app, svio_dsa_cb back, void *ctx, uint64_t *cookie)
{
	(void)app;
	(void)back;
	*cookie = (uint64_t)((struct seen *)ctx - seen);
	return 0;
}

static bool app_moves(void *app, const void *ptr, uint64_t len)
{
	(void)app;
	return fake_in_arena(ptr, len);
}

static int app_load(void *app, uint64_t cookie, svio_dsa_cb *back, void **ctx)
{
	(void)app;
	*back = cb;
	*ctx = &seen[cookie];
	return 0;
}

static void poll_until_done(struct svio_device *dev, struct svio_dsa_wq *wq)
{
	for (int i = 0; i < 1000 && svio_dsa_inflight(wq); i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
		fake_now += 1000000;
	}
	CU_ASSERT_EQUAL(svio_dsa_inflight(wq), 0);
}

struct ends {
	struct svio_device *from, *to;
	uint8_t *mem;
};

/* In flight here, saved, loaded there. If that fails, they end here. */
static int move(void *ctx)
{
	static const struct svio_dsa_move app = { .save = app_save, .moves = app_moves, .load = app_load };
	struct ends *e = ctx;
	struct svio_dsa_opts opts = { .size = sizeof(opts), .policy = SVIO_DSA_REQUEUE };
	struct svio_sva_bond here = fake_bond(e->from, true), there = fake_bond(e->to, false);
	struct svio_migrate_buf buf = { .max = 1u << 20 };
	struct svio_dsa *a = NULL, *b = NULL;
	struct svio_dsa_wq *from = NULL, *to = NULL;
	struct svio_dsa_op ops[2] = { { .op = SVIO_DSA_COPY, .src = e->mem, .dst = e->mem + 4096, .len = 4096 },
				      { .op = SVIO_DSA_FILL, .dst = e->mem + 8192, .len = 4096 } };
	int r;

	memset(seen, 0, sizeof(seen));
	e->from->stall_until = UINT64_MAX;
	r = svio_dsa_open(e->from, &opts, &a);
	if (!r)
		r = svio_dsa_wq_create(a, &here, NULL, &from);
	for (uint32_t i = 0; !r && i + 1 < OPS; i++)
		r = svio_dsa_submit(from, &ops[i], cb, &seen[i]);
	if (!r)
		r = svio_dsa_batch(from, ops, 2, NULL, cb, &seen[OPS - 1]);
	if (!r)
		r = svio_dsa_quiesce(a);
	if (!r)
		r = svio_dsa_wq_save(from, &app, &buf, NULL);
	if (!r)
		r = svio_dsa_open(e->to, &opts, &b);
	if (!r)
		r = svio_dsa_wq_create(b, &there, NULL, &to);
	if (!r)
		r = svio_dsa_wq_load(to, &app, &(struct svio_migrate_in){ .at = buf.data, .left = buf.len });
	failnth_pause();
	e->from->stall_until = 0;
	if (!r) {
		svio_dsa_wq_replay(to);
		poll_until_done(e->to, to);
	} else if (from) {
		svio_dsa_unquiesce(a);
		poll_until_done(e->from, from);
	}
	for (uint32_t i = 0; from && i < OPS; i++) {
		CU_ASSERT_EQUAL(seen[i].calls, 1);
		CU_ASSERT_EQUAL(seen[i].res.status, 0);
	}
	failnth_resume();
	svio_dsa_wq_destroy(to);
	svio_dsa_close(b);
	svio_dsa_wq_destroy(from);
	svio_dsa_close(a);
	svio__mg_buf_free(&buf);
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	if (r)
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
	svio_clear_error();
	return r;
}

static void test_move(void)
{
	struct ends e = { .from = fake_new(), .to = fake_new() };

	e.mem = fake_buf(12288);
	CU_ASSERT_TRUE(failnth_sweep(move, &e) > 12);
	fake_free(e.to);
	fake_free(e.from);
}

static const struct unit_test tests[] = {
	{ "open, two queues, close", test_sweep },
	{ "a move with operations in flight", test_move },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/failnth", tests);
}
