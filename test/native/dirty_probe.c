/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dirty set against an oracle. Threads store to random pages, and devices write to random pages of the same memory; each notes what
 * it wrote.
 *
 *	dirty_probe exact SPACE SOURCES NVME EDU OPS [DSA]
 *							rounds in which nobody writes during sync: equal, page by page
 *	dirty_probe moving SPACE SOURCES NVME EDU OPS [DSA]
 *							sync while all write: the copy made of what sync names becomes equal to the
 *							memory, and nothing is named that nobody wrote
 *	dirty_probe follow NVME EDU			mappings, devices and drivers that come and go while a set is active
 *	dirty_probe messages EDU			memory without a descriptor: the server writes by messages
 *	dirty_probe coarse NVME				kernel VFIO: type1's bitmap has what the driver marked, and more
 *
 * SPACE is va or iova (then with IOVAs that are not the addresses); SOURCES cpu+device or cpu+driver; NVME and EDU are devices, EDU may
 * be "-": none; OPS how many writes; DSA a device that writes under SVA, by plain pointers, which the CPU's source sees; with "identity:"
 * before its name, it is attached like the others, and writes by IOVAs. Prints "ok - …" for each thing shown.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "svio_dirty.h"
#include "svio_dsa.h"
#include "svio_edu.h"
#include "svio_nvme.h"

#define PAGE	    4096u
#define PAGES	    8192u
#define LEN	    ((size_t)PAGES * PAGE)
#define WORDS	    SVIO_BITMAP_WORDS(PAGES)
#define CPU_THREADS 3u
#define BLOCKS	    64u /* of 4 KiB on the namespace, each with bytes of its own */
#define DEPTH	    16u

static struct svio_device *nvme_dev, *edu_dev;
static struct svio_ioas *ioas;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qp;
static struct svio_nvme_ns ns;
static struct svio_edu *edu;
static struct svio_device *dsa_dev;
static struct svio_sva_bond *bond;
static struct svio_dsa *dsa;
static struct svio_dsa_wq *wq;
static bool dsa_by_iova;
static uint8_t *mem;   /* what is written and watched */
static uint8_t *stage; /* DMA memory beside it */
static uint64_t base;  /* mem in the set's addresses */

#define TRY(call)                                                                                      \
	do {                                                                                           \
		if ((call) != 0) {                                                                     \
			printf("not ok - %s: %s\n", #call, svio_last_error());                         \
			exit(1);                                                                       \
		}                                                                                      \
	} while (0)

static void check(bool good, const char *what)
{
	printf("%s - %s\n", good ? "ok" : "not ok", what);
	if (!good)
		exit(1);
}

static uint64_t rnd(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- devices --------------------------------------------------------------------------------------------- */

static uint32_t pending;

static void done(void *ctx, int status)
{
	(void)ctx;
	if (status) {
		printf("not ok - NVMe: %s\n", svio_nvme_status_text(status));
		exit(1);
	}
	pending--;
}

static void drain(void)
{
	while (pending)
		svio_nvme_poll(qp, 0);
}

static void open_devices(const char *nvme_name, const char *edu_name, uint32_t ioas_flags)
{
	const struct svio_ioas_opts opts = { .size = sizeof(opts), .flags = ioas_flags };
	const struct svio_mem_opts mopts = { .size = sizeof(mopts), .bytes = UINT64_C(96) << 20, .huge = SVIO_MEM_HUGE_NEVER };

	TRY(svio_mem_start(&mopts));
	TRY(svio_ioas_create(&opts, &ioas));
	if (nvme_name) {
		TRY(svio_device_open(nvme_name, NULL, &nvme_dev));
		TRY(svio_ioas_attach(ioas, nvme_dev));
	}
	if (edu_name) {
		TRY(svio_device_open(edu_name, NULL, &edu_dev));
		TRY(svio_ioas_attach(ioas, edu_dev));
	}
	mem = svio_mem_alloc(LEN, PAGE, -1);
	stage = svio_mem_alloc(BLOCKS * PAGE, PAGE, -1);
	if (!mem || !stage)
		TRY(-ENOMEM);
}

static void open_nvme(void)
{
	const struct svio_nvme_qp_opts opts = { .size = sizeof(opts), .depth = 64 };

	TRY(svio_nvme_open(nvme_dev, ioas, NULL, &nvme));
	TRY(svio_nvme_ns_get(nvme, 1, &ns));
	TRY(svio_nvme_qp_create(nvme, &opts, &qp));
}

static void open_edu(void)
{
	TRY(svio_edu_open(edu_dev, ioas, 0, &edu));
	svio_edu_set_dma_mask(edu, UINT64_MAX);
}

static void open_dsa(const char *name)
{
	dsa_by_iova = strncmp(name, "identity:", 9) == 0;
	TRY(svio_device_open(name + (dsa_by_iova ? 9 : 0), NULL, &dsa_dev));
	if (dsa_by_iova)
		TRY(svio_ioas_attach(ioas, dsa_dev));
	TRY(svio_sva_bind(dsa_dev, dsa_by_iova ? ioas : NULL, dsa_by_iova ? SVIO_SVA_WANT_IDENTITY : 0, &bond));
	TRY(svio_dsa_open(dsa_dev, NULL, &dsa));
	TRY(svio_dsa_wq_create(dsa, bond, NULL, &wq));
}

static void close_dsa(void)
{
	svio_dsa_wq_destroy(wq);
	svio_dsa_close(dsa);
	svio_sva_unbind(bond);
	if (dsa_by_iova)
		TRY(svio_ioas_detach(ioas, dsa_dev));
	svio_device_close(dsa_dev);
}

static uint32_t blocks_of(uint32_t bytes)
{
	return bytes / ns.lba_size;
}

/* Something different in each block, so that every read changes its page. */
static void fill_namespace(void)
{
	for (uint32_t i = 0; i < BLOCKS * PAGE; i++)
		stage[i] = (uint8_t)(i * 167 + i / PAGE);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		TRY(svio_nvme_write(qp, &ns, stage + (size_t)i * PAGE, (uint64_t)i * blocks_of(PAGE), blocks_of(PAGE), 0, done, NULL));
		pending++;
		drain();
	}
}

static void close_devices(void)
{
	svio_nvme_qp_destroy(qp);
	svio_nvme_close(nvme);
	svio_edu_close(edu);
	if (nvme_dev)
		TRY(svio_ioas_detach(ioas, nvme_dev));
	if (edu_dev)
		TRY(svio_ioas_detach(ioas, edu_dev));
	svio_device_close(nvme_dev);
	svio_device_close(edu_dev);
	TRY(svio_ioas_destroy(ioas));
}

/* ---- writers ---------------------------------------------------------------------------------------------- */

struct writer {
	void (*write)(struct writer *w, uint64_t ops);
	pthread_t thread;
	uint64_t seed, ops;
	uint64_t oracle[WORDS];
};

static pthread_barrier_t gate;
static _Atomic bool quit;
static _Atomic uint32_t running;

static void wrote(struct writer *w, size_t off, size_t len)
{
	for (size_t page = off / PAGE; page <= (off + len - 1) / PAGE; page++)
		svio_bitmap_set(w->oracle, page);
}

/* Mostly a few hundred hot pages and now and then any, so that rounds are neither empty nor full. */
static size_t pick(struct writer *w, size_t len)
{
	uint64_t r = rnd(&w->seed);

	if (r % 16)
		return (r >> 8) % ((LEN / 32 - len) / 8) * 8;
	return (r >> 8) % ((LEN - len) / 8) * 8;
}

static void cpu_write(struct writer *w, uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		size_t off = pick(w, 8);

		wrote(w, off, 8);
		__atomic_fetch_add((uint64_t *)(void *)(mem + off), rnd(&w->seed) | 1, __ATOMIC_RELAXED);
	}
}

/* Reads of one to four pages, straight, across page borders, and scattered. */
static void nvme_write(struct writer *w, uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint32_t pages = 1 + (uint32_t)(rnd(&w->seed) % 4), bytes = pages * PAGE;
		uint64_t lba = rnd(&w->seed) % (BLOCKS - 4) * blocks_of(PAGE);
		int rc;

		while (pending >= DEPTH)
			svio_nvme_poll(qp, 0);
		if (rnd(&w->seed) % 3) {
			size_t off = pick(w, bytes);

			wrote(w, off, bytes);
			rc = svio_nvme_read(qp, &ns, mem + off, lba, blocks_of(bytes), 0, done, NULL);
		} else {
			struct svio_nvme_iov iov[4];

			for (uint32_t k = 0; k < pages; k++) {
				size_t off = pick(w, PAGE) / PAGE * PAGE;

				wrote(w, off, PAGE);
				iov[k] = (struct svio_nvme_iov){ .base = mem + off, .len = PAGE };
			}
			rc = svio_nvme_readv(qp, &ns, iov, pages, lba, blocks_of(bytes), 0, done, NULL);
		}
		if (rc) {
			printf("not ok - NVMe read: %d\n", rc);
			exit(1);
		}
		pending++;
	}
	drain();
}

static void edu_write(struct writer *w, uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint32_t len = 8 + (uint32_t)(rnd(&w->seed) % 64) * 8;
		size_t off = pick(w, len);

		if (i % 16 == 0) {
			for (uint32_t k = 0; k < PAGE; k++)
				stage[k] = (uint8_t)rnd(&w->seed);
			TRY(svio_edu_copy_in(edu, 0, stage, PAGE));
		}
		wrote(w, off, len);
		TRY(svio_edu_copy_out(edu, mem + off, (uint32_t)(i % 16) * 128, len));
	}
}

static void dsa_done(void *ctx, const struct svio_dsa_result *res)
{
	*(int *)ctx = res->status ? res->status : 1;
}

static void dsa_batch(const struct svio_dsa_op *ops, uint32_t n)
{
	int status = 0;

	TRY(svio_dsa_batch(wq, ops, n, NULL, dsa_done, &status));
	while (!status)
		svio_dsa_poll(wq, 0);
	TRY(status != 1);
}

/* In pieces that begin and end anywhere: fills, copies, to two places at a time, and several in a batch. */
static void dsa_write(struct writer *w, uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		size_t len = 8 + rnd(&w->seed) % 1024 * 8, off = pick(w, len), other = pick(w, len + PAGE) / PAGE * PAGE + off % PAGE;
		struct svio_dsa_op op[2] = {
			{ .op = SVIO_DSA_FILL, .dst = mem + off, .len = len, .pattern = rnd(&w->seed) },
			{ .op = SVIO_DSA_COPY, .src = stage, .dst = mem + other, .len = len },
		};
		uint64_t what = rnd(&w->seed) % 4;

		if (what != 1)
			wrote(w, off, len);
		if (what)
			wrote(w, other, len);
		op[1].dst2 = mem + off;
		if (what == 2 && (other + len <= off || off + len <= other))
			op[1].op = SVIO_DSA_DUALCAST; /* whose destinations lie apart */
		else if (what == 2)
			what = 3;
		if (what == 3)
			dsa_batch(op, 2);
		else
			TRY(svio_dsa_run(wq, &op[what != 0], NULL));
	}
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	for (;;) {
		pthread_barrier_wait(&gate);
		if (quit)
			return NULL;
		w->write(w, w->ops);
		running--;
		pthread_barrier_wait(&gate);
	}
}

/* ---- the two proofs -------------------------------------------------------------------------------------- */

static struct svio_dirty *begin(bool iova, uint32_t sources)
{
	struct svio_dirty_opts opts = {
		.size = sizeof(opts), .space = iova ? SVIO_DIRTY_IOVA : SVIO_DIRTY_VA, .len = LEN, .ioas = &ioas, .num_ioas = 1,
		.sources = sources,
	};
	struct svio_dirty *set;

	base = iova ? svio_ioas_iova(ioas, mem) : (uintptr_t)mem;
	opts.addr = base;
	TRY(svio_dirty_start(&opts, &set));
	return set;
}

static uint64_t bits[WORDS];

static uint64_t sync_all(struct svio_dirty *set)
{
	uint64_t n = 0;

	memset(bits, 0, sizeof(bits));
	TRY(svio_dirty_sync(set, base, LEN, bits, &n));
	if (n != svio_bitmap_weight(bits, PAGES)) {
		printf("not ok - sync counted %llu pages, and named %llu\n", (unsigned long long)n,
		       (unsigned long long)svio_bitmap_weight(bits, PAGES));
		exit(1);
	}
	return n;
}

static void take_copy(uint8_t *copy)
{
	for (uint64_t p = svio_bitmap_next_set(bits, PAGES, 0); p < PAGES; p = svio_bitmap_next_set(bits, PAGES, p + 1))
		memcpy(copy + p * PAGE, mem + p * PAGE, PAGE);
}

static void union_of(struct writer *w, size_t n, uint64_t *all)
{
	memset(all, 0, sizeof(bits));
	for (size_t i = 0; i < n; i++)
		svio_bitmap_or(all, w[i].oracle, PAGES);
}

static void compare(const uint64_t *oracle, const char *when, uint64_t round)
{
	for (uint32_t page = 0; page < PAGES; page++)
		if (svio_bitmap_test(bits, page) != svio_bitmap_test(oracle, page)) {
			printf("not ok - %s, round %llu: page %u was %swritten, and is %snamed\n", when, (unsigned long long)round, page,
			       svio_bitmap_test(oracle, page) ? "" : "not ", svio_bitmap_test(bits, page) ? "" : "not ");
			exit(1);
		}
}

static const char *cpu_name(enum svio_dirty_cpu cpu)
{
	return cpu == SVIO_DIRTY_CPU_WP_ASYNC ? "write protection" : cpu == SVIO_DIRTY_CPU_SOFT_DIRTY ? "soft-dirty bits" : "nothing";
}

static void proof(bool moving, bool iova, uint32_t sources, uint64_t ops)
{
	static struct writer w[CPU_THREADS + 3];
	static uint64_t oracle[WORDS], named[WORDS];
	const size_t n = CPU_THREADS + 1 + (edu != NULL) + (dsa != NULL);
	const uint32_t devices = 1 + (edu != NULL) + dsa_by_iova;
	const uint64_t rounds = 40;
	uint64_t syncs = 0, total = 0, pages = 0;
	uint8_t *copy = malloc(LEN);
	struct svio_dirty_info info;
	struct svio_dirty *set;
	char line[320];

	for (size_t i = 0; i < n; i++) {
		w[i].seed = UINT64_C(0x9e3779b97f4a7c15) * (i + 1);
		w[i].write = i < CPU_THREADS ? cpu_write : i == CPU_THREADS ? nvme_write :
			     i == CPU_THREADS + 1 && edu ? edu_write : dsa_write;
		/* Device writes cost thousands of times as much as stores. */
		w[i].ops = (i < CPU_THREADS ? ops / CPU_THREADS : ops / 250) / rounds + 1;
	}
	pthread_barrier_init(&gate, NULL, (unsigned int)n + 1);
	memset(mem, 1, LEN);
	set = begin(iova, sources);
	memcpy(copy, mem, LEN);
	svio_dirty_get_info(set, &info);
	snprintf(line, sizeof(line), "exact, as said: the CPU by %s, %u devices by their log, %u by their driver%s%s",
		 cpu_name(info.cpu), info.by_device, info.by_driver, info.why[0] ? "; but " : "", info.why);
	check(info.exact && info.devices == devices && info.cpu != SVIO_DIRTY_CPU_OFF &&
		      (sources & SVIO_DIRTY_DEVICE ? info.by_device : info.by_driver) == devices, line);
	check(sync_all(set) == 0, "nothing counts as written at first");
	for (size_t i = 0; i < n; i++)
		if (pthread_create(&w[i].thread, NULL, writer_main, &w[i]))
			exit(1);
	for (uint64_t r = 0; r < rounds; r++) {
		for (size_t i = 0; i < n; i++) {
			memset(w[i].oracle, 0, moving ? 0 : sizeof(w[i].oracle));
			total += w[i].ops;
		}
		running = (uint32_t)n;
		pthread_barrier_wait(&gate);
		while (moving && running) {
			pages += sync_all(set);
			syncs++;
			svio_bitmap_or(named, bits, PAGES);
			take_copy(copy);
		}
		pthread_barrier_wait(&gate);
		if (!moving) {
			pages += sync_all(set);
			syncs++;
			union_of(w, n, oracle);
			compare(oracle, "quiet", r);
		}
	}
	quit = true;
	pthread_barrier_wait(&gate);
	for (size_t i = 0; i < n; i++)
		pthread_join(w[i].thread, NULL);
	if (moving) {
		pages += sync_all(set);
		svio_bitmap_or(named, bits, PAGES);
		take_copy(copy);
		check(memcmp(copy, mem, LEN) == 0, "copying what sync names makes the copy equal to the memory");
		union_of(w, n, oracle);
		memcpy(bits, named, sizeof(bits));
		compare(oracle, "all rounds together", 0);
	}
	snprintf(line, sizeof(line), "%s: %llu writes, %llu syncs, %llu pages named: every page that was written, and no other",
		 moving ? "while all write" : "round by round", (unsigned long long)total, (unsigned long long)syncs,
		 (unsigned long long)pages);
	check(true, line);
	check(sync_all(set) == 0, "and then nothing any more");
	svio_dirty_stop(set);
	free(copy);
}

/* ---- what comes and goes --------------------------------------------------------------------------------- */

static void edu_to(void *ptr, uint8_t value)
{
	memset(stage, value, PAGE);
	TRY(svio_edu_copy_in(edu, 0, stage, PAGE));
	TRY(svio_edu_copy_out(edu, ptr, 0, 256));
}

static void follow(void)
{
	const size_t len = 16 * PAGE;
	int fd = memfd_create("extra", MFD_CLOEXEC);
	uint64_t got[1] = { 0 }, page = 0;
	struct svio_dirty_opts opts = { .size = sizeof(opts), .ioas = &ioas, .num_ioas = 1, .len = len, .sources = SVIO_DIRTY_DEVICE };
	struct svio_dirty *set, *driver;
	struct svio_dirty_info info;
	uint8_t *extra;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		exit(1);
	extra = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (extra == MAP_FAILED)
		exit(1);
	open_edu();
	opts.addr = (uintptr_t)extra;
	TRY(svio_dirty_start(&opts, &set));

	/* Mapped after the start, written, unmapped again before the sync. */
	TRY(svio_ioas_map(ioas, extra, len, SVIO_DMA_READ | SVIO_DMA_WRITE, fd, 0, NULL));
	edu_to(extra + 3 * PAGE, 1);
	TRY(svio_ioas_unmap(ioas, extra, len));
	TRY(svio_dirty_sync(set, opts.addr, len, got, &page));
	check(page == 1 && got[0] == 1u << 3, "device log: memory mapped, written and unmapped while tracking: exactly that page");

	/* A driver that ends and begins again, and a device that is detached. */
	TRY(svio_ioas_map(ioas, extra, len, SVIO_DMA_READ | SVIO_DMA_WRITE, fd, 0, NULL));
	opts.sources = SVIO_DIRTY_DRIVER;
	TRY(svio_dirty_start(&opts, &driver));
	svio_dirty_get_info(driver, &info);
	check(info.devices == 2 && info.by_driver == 1 && info.uncovered == 1 && !info.exact,
	      "a device whose driver is not there is not covered, and that is said");
	got[0] = 0;
	TRY(svio_dirty_sync(driver, opts.addr, len, got, &page));
	check(page == 16, "everything that it could write counts as written");
	open_nvme();
	got[0] = 0;
	TRY(svio_dirty_sync(driver, opts.addr, len, got, &page));
	check(page == 16, "also once when the driver comes, for what was before");
	edu_to(extra + 5 * PAGE, 2);
	TRY(svio_nvme_read(qp, &ns, extra + 7 * PAGE, 0, blocks_of(PAGE), 0, done, NULL));
	pending++;
	drain();
	got[0] = 0;
	TRY(svio_dirty_sync(driver, opts.addr, len, got, &page));
	svio_dirty_get_info(driver, &info);
	check(page == 2 && got[0] == (1u << 5 | 1u << 7) && info.exact, "from then on exactly what it wrote");
	got[0] = 0;
	TRY(svio_dirty_sync(set, opts.addr, len, got, &page));
	check(page == 2 && got[0] == (1u << 5 | 1u << 7), "and the other set has it from the devices' logs");
	edu_to(extra + 9 * PAGE, 3);
	svio_edu_close(edu);
	edu = NULL;
	TRY(svio_ioas_detach(ioas, edu_dev));
	svio_device_close(edu_dev);
	edu_dev = NULL;
	got[0] = 0;
	TRY(svio_dirty_sync(set, opts.addr, len, got, &page));
	check(page == 1 && got[0] == 1u << 9, "what a device wrote before it was detached and closed is not lost: its log");
	got[0] = 0;
	TRY(svio_dirty_sync(driver, opts.addr, len, got, &page));
	/* Between its driver's end and that, nobody vouched for it: more may be named. */
	check(got[0] & 1u << 9, "nor what its driver had marked");
	svio_dirty_stop(set);
	svio_dirty_stop(driver);
	TRY(svio_ioas_unmap(ioas, extra, len));
	munmap(extra, len);
	close(fd);
}

static void messages(void)
{
	const size_t len = 16 * PAGE;
	uint64_t got[1] = { 0 }, page = 0;
	struct svio_dirty_opts opts = { .size = sizeof(opts), .ioas = &ioas, .num_ioas = 1, .len = len, .sources = SVIO_DIRTY_DEVICE };
	uint8_t *extra = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct svio_dirty *set;

	if (extra == MAP_FAILED)
		exit(1);
	open_edu();
	TRY(svio_ioas_map(ioas, extra, len, SVIO_DMA_READ | SVIO_DMA_WRITE, -1, 0, NULL));
	opts.addr = (uintptr_t)extra;
	TRY(svio_dirty_start(&opts, &set));
	edu_to(extra + 2 * PAGE - 8, 7);
	check(extra[2 * PAGE] == 7, "the server wrote memory that it has no descriptor for");
	TRY(svio_dirty_sync(set, opts.addr, len, got, &page));
	check(page == 2 && got[0] == (1u << 1 | 1u << 2), "written by message: exactly these pages");
	svio_dirty_stop(set);
	TRY(svio_ioas_unmap(ioas, extra, len));
	munmap(extra, len);
}

static void coarse(void)
{
	const size_t len = 64 * PAGE;
	uint64_t exact[1] = { 0 }, type1[1] = { 0 }, pages;
	struct svio_dirty_opts opts = { .size = sizeof(opts), .ioas = &ioas, .num_ioas = 1, .len = len };
	struct svio_dirty *by_driver, *by_iommu;
	struct svio_dirty_info info;
	uint8_t *extra = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (extra == MAP_FAILED)
		exit(1);
	memset(extra, 1, len);
	TRY(svio_ioas_map(ioas, extra, len, SVIO_DMA_READ | SVIO_DMA_WRITE, -1, 0, NULL));
	opts.addr = (uintptr_t)extra;
	opts.sources = SVIO_DIRTY_DRIVER;
	TRY(svio_dirty_start(&opts, &by_driver));
	opts.sources = SVIO_DIRTY_DEVICE | SVIO_DIRTY_IOMMU;
	TRY(svio_dirty_start(&opts, &by_iommu));
	svio_dirty_get_info(by_iommu, &info);
	printf("# type1: %s\n", info.why);
	check(info.by_iommu == 1 && !info.exact, "type1 answers for the device, and that this is coarse is said");
	for (uint32_t i = 0; i < 20; i++) {
		TRY(svio_nvme_read(qp, &ns, extra + (size_t)(i * 13 % 64) * PAGE, 0, blocks_of(PAGE), 0, done, NULL));
		pending++;
		drain();
	}
	TRY(svio_dirty_sync(by_driver, opts.addr, len, exact, &pages));
	check(pages == 20, "the driver's log names the 20 pages that were read into");
	TRY(svio_dirty_sync(by_iommu, opts.addr, len, type1, &pages));
	svio_dirty_get_info(by_iommu, &info);
	printf("# type1 names %llu pages, %llu bytes without knowing\n", (unsigned long long)pages, (unsigned long long)info.coarse_bytes);
	check((exact[0] & ~type1[0]) == 0 && pages >= 20 && info.coarse_bytes == pages * PAGE, "type1's bitmap has them all");
	TRY(svio_nvme_read(qp, &ns, extra + 9 * PAGE, 0, blocks_of(PAGE), 0, done, NULL));
	pending++;
	drain();
	TRY(svio_ioas_unmap(ioas, extra, len));
	exact[0] = type1[0] = 0;
	TRY(svio_dirty_sync(by_driver, opts.addr, len, exact, &pages));
	check(pages == 1 && exact[0] == 1u << 9, "unmapped before the sync: the driver's log has the page");
	TRY(svio_dirty_sync(by_iommu, opts.addr, len, type1, &pages));
	check((type1[0] & exact[0]) == exact[0], "unmapping with bitmap has it too");
	type1[0] = 0;
	TRY(svio_dirty_sync(by_iommu, opts.addr, len, type1, &pages));
	check(pages == 0, "and nothing is reported of what is not mapped any more");
	svio_dirty_stop(by_driver);
	svio_dirty_stop(by_iommu);
	munmap(extra, len);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if ((argc == 7 || argc == 8) && (strcmp(mode, "exact") == 0 || strcmp(mode, "moving") == 0)) {
		bool iova = strcmp(argv[2], "iova") == 0;
		uint32_t dma = strcmp(argv[3], "cpu+driver") == 0 ? SVIO_DIRTY_DRIVER : SVIO_DIRTY_DEVICE;

		open_devices(argv[4], strcmp(argv[5], "-") ? argv[5] : NULL, iova ? SVIO_IOAS_NO_IDENTITY : 0);
		open_nvme();
		if (edu_dev)
			open_edu();
		if (argc == 8)
			open_dsa(argv[7]);
		fill_namespace();
		proof(mode[0] == 'm', iova, SVIO_DIRTY_CPU | dma, strtoull(argv[6], NULL, 0));
	} else if (argc == 4 && strcmp(mode, "follow") == 0) {
		open_devices(argv[2], argv[3], 0);
		follow();
	} else if (argc == 3 && strcmp(mode, "messages") == 0) {
		open_devices(NULL, argv[2], 0);
		messages();
	} else if (argc == 3 && strcmp(mode, "coarse") == 0) {
		open_devices(argv[2], NULL, 0);
		open_nvme();
		coarse();
	} else {
		fprintf(stderr, "usage: dirty_probe exact|moving va|iova cpu+device|cpu+driver NVME EDU|- OPS [DSA]\n"
				"       dirty_probe follow NVME EDU\n       dirty_probe messages EDU\n       dirty_probe coarse NVME\n");
		return 2;
	}
	close_dsa();
	close_devices();
	svio_mem_free(mem);
	svio_mem_free(stage);
	svio_mem_stop();
	return 0;
}
