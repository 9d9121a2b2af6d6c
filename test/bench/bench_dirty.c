/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Cost of svio_dirty_sync(): memory of an arena, of which a share was written since the last sync; by stores of the CPU, and by NVMe reads
 * of our own model in this process (SIMULATED device), found by the driver's log or by the device's.
 *
 *	bench_dirty [--size 1G] [--percent 1] [--rounds 15] [--grow] [--json]
 *
 * The model is a thread that polls. Where a thread of the process runs on another CPU, PAGEMAP_SCAN interrupts it once for each 2 MiB with
 * a written page (Linux 6.18 fs/proc/task_mmu.c, pagemap_scan_pmd_entry: flush_tlb_range()); in a virtual machine that is most of a
 * sync. So the CPU's row is shown without such a thread too.
 *
 * For each source the best and the median time of a sync, and its ratio to copying the pages that it names; --grow: from
 * 64 MiB to 8 GiB, as far as there is memory. The goal, 2 ms for 1 GiB with 1 % written, is shown beside, and fails nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include "svio_dirty.h"
#include "svio_nvme.h"

#define PAGE	4096u
#define GIB	(UINT64_C(1) << 30)
#define GOAL_NS UINT64_C(2000000) /* a GiB with 1 % written */
#define DEPTH	32u

static struct svio_device *dev;
static struct svio_ioas *ioas;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static uint32_t pending;
static bool json, first = true;

#define TRY(call)                                                                                      \
	do {                                                                                           \
		if ((call) != 0) {                                                                     \
			fprintf(stderr, "bench_dirty: %s: %s\n", #call, svio_last_error());            \
			exit(1);                                                                       \
		}                                                                                      \
	} while (0)

static void done(void *ctx, int status)
{
	(void)ctx;
	if (status)
		exit(1);
	pending--;
}

static void write_cpu(uint8_t *mem, uint64_t page)
{
	mem[page * PAGE]++;
}

static void write_device(uint8_t *mem, uint64_t page)
{
	while (pending >= DEPTH)
		svio_nvme_poll(qp, 0);
	TRY(svio_nvme_read(qp, &ns, mem + page * PAGE, 0, PAGE / ns.lba_size, 0, done, NULL));
	pending++;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t copy_named(const uint8_t *mem, uint8_t *to, const uint64_t *bits, uint64_t pages)
{
	uint64_t start = svio_now_ns();

	for (uint64_t p = svio_bitmap_next_set(bits, pages, 0); p < pages; p = svio_bitmap_next_set(bits, pages, p + 1))
		memcpy(to, mem + p * PAGE, PAGE);
	return svio_now_ns() - start;
}

typedef int (*sync_fn)(struct svio_dirty *, uint64_t, uint64_t, uint64_t *, uint64_t *);

static void row(const char *name, sync_fn sync, uint32_t sources, void (*write)(uint8_t *, uint64_t), uint8_t *mem, uint64_t len, double percent,
		uint32_t rounds)
{
	struct svio_dirty_opts opts = { .size = sizeof(opts), .addr = (uintptr_t)mem, .len = len, .ioas = &ioas, .num_ioas = 1,
					.sources = sources };
	uint64_t pages = len / PAGE, want = (uint64_t)((double)pages * percent / 100), *times = calloc(rounds, 8), copy = 0, n;
	uint64_t *bits = calloc(SVIO_BITMAP_WORDS(pages), 8), step = want ? pages / want : pages, goal;
	uint8_t *to = malloc(PAGE);
	struct svio_dirty *set;

	if (!times || !bits || !to)
		exit(1);
	TRY(svio_dirty_start(&opts, &set));
	for (uint32_t r = 0; r < rounds; r++) {
		for (uint64_t i = 0; i < want; i++)
			write(mem, (i * step + r) % pages);
		while (pending)
			svio_nvme_poll(qp, 0);
		memset(bits, 0, SVIO_BITMAP_WORDS(pages) * 8);
		times[r] = svio_now_ns();
		TRY(sync(set, opts.addr, len, bits, &n));
		times[r] = svio_now_ns() - times[r];
		if (n != want) {
			fprintf(stderr, "bench_dirty: %s: %" PRIu64 " pages named, %" PRIu64 " written\n", name, n, want);
			exit(1);
		}
		/* What a last look has named may be named again: here it is not the last. */
		if (sync == svio_dirty_last)
			TRY(svio_dirty_sync(set, opts.addr, len, bits, NULL));
		copy += copy_named(mem, to, bits, pages);
	}
	svio_dirty_stop(set);
	qsort(times, rounds, sizeof(*times), by_value);
	goal = (uint64_t)((double)GOAL_NS * (double)len / (double)GIB);
	if (json)
		printf("%s{\"source\": \"%s\", \"bytes\": %" PRIu64 ", \"pages\": %" PRIu64 ", \"best_ns\": %" PRIu64
		       ", \"median_ns\": %" PRIu64 ", \"copy_ns\": %" PRIu64 ", \"goal_ns\": %" PRIu64 "}",
		       first ? "" : ", ", name, len, want, times[0], times[rounds / 2], copy / rounds, goal);
	else
		printf("%-22s %6" PRIu64 " MiB %8" PRIu64 " pages %9.3f ms %9.3f ms %9.2f %8.2f ms%s\n", name, len >> 20, want,
		       (double)times[0] / 1e6, (double)times[rounds / 2] / 1e6,
		       copy ? (double)times[rounds / 2] * rounds / (double)copy : 0, (double)goal / 1e6,
		       percent <= 1 && times[rounds / 2] > goal ? "  MISSED" : "");
	first = false;
	free(times);
	free(bits);
	free(to);
}

static void size(uint64_t len, double percent, uint32_t rounds)
{
	uint8_t *mem = svio_mem_alloc(len, PAGE, -1);

	if (!mem) {
		fprintf(stderr, "bench_dirty: %" PRIu64 " MiB: %s\n", len >> 20, svio_last_error());
		exit(1);
	}
	memset(mem, 1, len);
	if (!nvme) {
		row("CPU, no other thread", svio_dirty_sync, SVIO_DIRTY_CPU, write_cpu, mem, len, percent, rounds);
		svio_mem_free(mem);
		return;
	}
	row("CPU", svio_dirty_sync, SVIO_DIRTY_CPU, write_cpu, mem, len, percent, rounds);
	row("CPU, the last look", svio_dirty_last, SVIO_DIRTY_CPU, write_cpu, mem, len, percent, rounds);
	row("driver's log", svio_dirty_sync, SVIO_DIRTY_DRIVER, write_device, mem, len, percent, rounds);
	row("device's log", svio_dirty_sync, SVIO_DIRTY_DEVICE, write_device, mem, len, percent, rounds);
	row("CPU and driver's log", svio_dirty_sync, SVIO_DIRTY_CPU | SVIO_DIRTY_DRIVER, write_cpu, mem, len, percent, rounds);
	row("CPU and device's log", svio_dirty_sync, SVIO_DIRTY_CPU | SVIO_DIRTY_DEVICE, write_cpu, mem, len, percent, rounds);
	svio_mem_free(mem);
}

int main(int argc, char **argv)
{
	struct svio_mem_opts mopts = { .size = sizeof(mopts), .huge = SVIO_MEM_HUGE_NEVER };
	const struct svio_nvme_qp_opts qopts = { .size = sizeof(qopts), .depth = 64 };
	uint64_t len = GIB, largest = UINT64_C(8) << 30, rounds = 15, first_len, last_len;
	struct sysinfo si;
	double percent = 1;
	bool grow = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		const char *arg = i + 1 < argc ? argv[i + 1] : "";

		if (strcmp(argv[i], "--json") == 0) {
			json = true;
		} else if (strcmp(argv[i], "--grow") == 0) {
			grow = true;
		} else if ((strcmp(argv[i], "--size") == 0 && svio_parse_size(arg, &len) == 0 && len >= 1u << 20 && len % PAGE == 0) ||
			   (strcmp(argv[i], "--percent") == 0 && (percent = atof(arg)) > 0 && percent <= 50) ||
			   (strcmp(argv[i], "--rounds") == 0 && svio_parse_u64(arg, 100000, &rounds) == 0 && rounds)) {
			i++;
		} else {
			fprintf(stderr, "usage: bench_dirty [--size 1G] [--percent 1] [--rounds 15] [--grow] [--json]\n");
			return 2;
		}
	}
	/* The largest that leaves half of what is free to others. */
	if (sysinfo(&si) == 0)
		while (largest > (uint64_t)si.freeram * si.mem_unit / 2)
			largest /= 2;
	first_len = grow ? UINT64_C(64) << 20 : len;
	last_len = grow ? largest : len;
	mopts.bytes = last_len + (UINT64_C(64) << 20);
	TRY(svio_mem_start(&mopts));
	TRY(svio_ioas_create(NULL, &ioas));
	if (json)
		printf("{\"benchmark\": \"dirty\", \"percent\": %g, \"rounds\": %" PRIu64 ", \"rows\": [", percent, rounds);
	else
		printf("%-22s %10s %14s %12s %12s %9s %11s\n", "sync, found by", "memory", "written", "best", "median", "/ copy", "goal");
	for (uint64_t l = first_len; l <= last_len; l *= 2)
		size(l, percent, (uint32_t)rounds);
	TRY(svio_device_open("sim:nvme,size=1M", NULL, &dev));
	TRY(svio_ioas_attach(ioas, dev));
	TRY(svio_nvme_open(dev, ioas, NULL, &nvme));
	TRY(svio_nvme_ns_get(nvme, 1, &ns));
	TRY(svio_nvme_qp_create(nvme, &qopts, &qp));
	for (uint64_t l = first_len; l <= last_len; l *= 2)
		size(l, percent, (uint32_t)rounds);
	if (json)
		printf("]}\n");
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	TRY(svio_ioas_detach(ioas, dev));
	svio_device_close(dev);
	TRY(svio_ioas_destroy(ioas));
	svio_mem_stop();
	return 0;
}
