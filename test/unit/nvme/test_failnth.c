/* SPDX-License-Identifier: BSD-3-Clause */
/* Every allocation and descriptor of opening, a queue pair with interrupts, namespaces and closing fails in turn. */
#include "failnth.h"
#include "fake.h"
#include "unit.h"

static void cb(void *ctx, int status)
{
	*(int *)ctx = status;
}

static int scenario(void *ctx)
{
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 16, .interrupts = true };
	struct svio_device *dev = ctx;
	struct svio_nvme_qp *qp = NULL;
	struct svio_nvme *nvme;
	struct svio_nvme_ns ns;
	size_t before = fake_mem_out();
	uint32_t nsid, count = 1;
	int r, status = 1;
	uint8_t *buf;

	r = svio_nvme_open(dev, fake_ioas(), NULL, &nvme);
	if (r)
		goto out;
	r = svio_nvme_ns_list(nvme, &nsid, &count);
	if (r == 0)
		r = svio_nvme_ns_get(nvme, nsid, &ns);
	if (r == 0)
		r = svio_nvme_qp_create(nvme, &opts, &qp);
	if (r == 0) {
		failnth_pause();
		buf = fake_alloc(4096);
		r = svio_nvme_read(qp, &ns, buf, 0, 1, 0, cb, &status);
		fake_run(dev);
		CU_ASSERT_EQUAL(svio_nvme_poll(qp, 0), 1);
		CU_ASSERT_EQUAL(status, 0);
		svio_mem_free(buf);
		failnth_resume();
	}
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
out:
	CU_ASSERT_EQUAL(fake_mem_out(), before);
	CU_ASSERT_EQUAL(dev->bars, 0);
	CU_ASSERT_PTR_NULL(dev->hook);
	/* An error that a user meets is explained. */
	if (r)
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
	svio_clear_error();
	return r;
}

static void test_sweep(void)
{
	struct svio_device *dev = fake_new();

	CU_ASSERT_TRUE(failnth_sweep(scenario, dev) > 10);
	fake_free(dev);
}

static const struct unit_test tests[] = {
	{ "open, namespaces, queue pair, I/O, close", test_sweep },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/failnth", tests);
}
