/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe driver's hot path over the unit tests' controller of memory (SIMULATED; it completes at
 * once and counts for nothing here). For callgrind, which collects inside the function named on its
 * command line:
 *
 *	bench_nvme ROW COUNT
 *
 * ROW is one of the table at the end; each repeats its case COUNT times, and prints "calls N": how
 * often the collected function ran. test/bench/run makes the table.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fake.h"

#define BATCH 32u

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint8_t *mem;
static uint64_t completed;

/* Exported, so that its own cost can be collected and subtracted. */
void bench_callback(void *ctx, int status);

__attribute__((noinline)) void bench_callback(void *ctx, int status)
{
	(void)ctx;
	if (status)
		abort();
	completed++;
}

static void read_one(uint32_t bytes, uint32_t flags, uint64_t lba)
{
	if (svio_nvme_read(qp, &ns, mem, lba % 64, bytes / 512, flags, bench_callback, NULL))
		abort();
}

static void finish(uint32_t per_poll)
{
	fake_run(dev);
	while (svio_nvme_inflight(qp)) {
		uint64_t before = completed;

		(void)svio_nvme_poll(qp, per_poll);
		if (completed == before) /* the clock's turn, or a stale byte: look again */
			fake_run(dev);
	}
}

/* One by one: submit a read of `bytes`, complete it. */
static uint64_t one_by_one(uint64_t count, uint32_t bytes)
{
	for (uint64_t i = 0; i < count; i++) {
		read_one(bytes, 0, i);
		finish(0);
	}
	return count;
}

static uint64_t row_single(uint64_t count)
{
	return one_by_one(count, 4096);
}

static uint64_t row_single_list(uint64_t count)
{
	return one_by_one(count, 128 * 1024);
}

static uint64_t row_batch(uint64_t count)
{
	for (uint64_t i = 0; i < count; i += BATCH) {
		for (uint32_t k = 0; k < BATCH; k++)
			read_one(4096, k + 1 < BATCH ? SVIO_NVME_MORE : 0, k);
		finish(0);
	}
	return count;
}

static uint64_t row_empty(uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (svio_nvme_poll(qp, 0))
			abort();
	return count;
}

static const struct {
	const char *name;
	uint64_t (*fn)(uint64_t count);
	bool shadow, tracked; /* with dirty tracking on */
} rows[] = {
	{ "single", row_single, false, false },	  { "list", row_single_list, false, false },
	{ "batch", row_batch, false, false },	  { "empty", row_empty, false, false },
	{ "shadow", row_single, true, false },	  { "shadow-batch", row_batch, true, false },
	{ "tracked", row_single, false, true },	  { "tracked-batch", row_batch, false, true },
	{ "tracked-empty", row_empty, false, true },
};

int main(int argc, char **argv)
{
	uint64_t count = argc == 3 ? strtoull(argv[2], NULL, 0) : 0;
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 256 };
	size_t i;

	for (i = 0; i < SVIO_ARRAY_SIZE(rows) && argc == 3 && strcmp(rows[i].name, argv[1]); i++)
		;
	if (argc != 3 || i == SVIO_ARRAY_SIZE(rows) || count == 0 || count % BATCH) {
		fprintf(stderr,
			"usage: bench_nvme single|list|batch|empty|shadow|shadow-batch|tracked|tracked-batch|tracked-empty COUNT\n"
			"COUNT is a multiple of %u; see test/bench/run\n",
			BATCH);
		return 2;
	}
	dev = fake_new();
	if (rows[i].shadow)
		dev->id.oacs = svio_cpu_to_le16(NVME_OACS_DBBUF);
	if (svio_nvme_open(dev, fake_ioas(), NULL, &nvme) || svio_nvme_ns_get(nvme, 1, &ns) ||
	    svio_nvme_qp_create(nvme, &opts, &qp)) {
		fprintf(stderr, "bench_nvme: %s\n", svio_last_error());
		return 1;
	}
	mem = fake_alloc(1 << 20);
	if (rows[i].tracked)
		fake_log->set(fake_log->ctx, fake_dirty_table());
	fake_idle = true; /* a tick of the driver is counted, what it would cause here is not */
	printf("calls %llu\n", (unsigned long long)rows[i].fn(count));
	fake_idle = false;
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	return 0;
}
