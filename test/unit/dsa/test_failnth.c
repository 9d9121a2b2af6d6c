/* SPDX-License-Identifier: BSD-3-Clause */
/* Every allocation of opening, queues in both modes and closing fails in turn. */
#include "failnth.h"
#include "fake.h"
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

static const struct unit_test tests[] = {
	{ "open, two queues, close", test_sweep },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/failnth", tests);
}
