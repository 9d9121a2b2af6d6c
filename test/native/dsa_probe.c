/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The DSA driver and its bonds on a device: sim:dsa, user:SOCKET, or a PCI address in the lab (kernel/svio_simdev, hardware).
 *
 *	dsa_probe DEVICE TEST [N]
 *
 *	random [N]	N random operations (a million) at full depth on malloc, stack, mapped file and untouched memory, each verified
 *	faults		what is not there: absent, evicted, copy-on-write, read-only, unmapped, behind a file's end, nothing
 *	big		one long copy and CRC, beyond the largest transfer
 *	trouble [N]	N resets and losses of decoding under load on two queues, both policies
 *	bonds [N]	N bonds, bound and unbound; fork; two devices' worth of use of one bond
 *	identity	registered memory only: the same operations, and refusal of everything else
 *	death		load until the device is gone (somebody kills the server): prints READY, then judges
 *	mode		prints the mode and why
 *	all [N]		all but death, big with 64 MiB
 *
 * Prints "ok - " and "not ok - " lines. In modes other than native the tests that need native say "ok - … # skip".
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "svio_dsa.h"

#define PAGE	4096u
#define DEPTH	64u
#define ROOM	(48u << 10) /* of one operation: two destinations, and what must stay around them */
#define MAX_LEN (16u << 10)
#define SOURCE	(256u << 10)

static int failed;
static struct svio_device *dev;
static struct svio_sva_bond *bond;
static struct svio_ioas *ioas;
static const char *name;

static void verdict(bool good, const char *what)
{
	printf("%s - %s\n", good ? "ok" : "not ok", what);
	if (!good && svio_last_error()[0])
		printf("# %s\n", svio_last_error());
	fflush(stdout);
	failed |= !good;
	svio_clear_error();
}

static bool native(void)
{
	return bond->mode == SVIO_SVA_NATIVE;
}

/* ---- memory of many kinds --------------------------------------------------------------------------------- */

enum kind { HEAP, STACK, FILE_BACKED, ANONYMOUS, KINDS };

struct memory {
	uint8_t *src[KINDS], *dst[KINDS]; /* SOURCE, DEPTH * ROOM */
	unsigned int kinds;
};

static uint8_t *map_file(size_t len)
{
	int fd = memfd_create("dsa_probe", MFD_CLOEXEC);
	uint8_t *p;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		return NULL;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

static uint8_t *anonymous(size_t len)
{
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* stack: the caller's, SOURCE + DEPTH * ROOM bytes. */
static bool memory_init(struct memory *m, uint8_t *stack)
{
	if (!native()) {
		m->kinds = 1;
		m->src[0] = svio_mem_alloc(SOURCE, PAGE, -1);
		m->dst[0] = svio_mem_alloc(DEPTH * ROOM, PAGE, -1);
	} else {
		m->kinds = KINDS;
		m->src[HEAP] = malloc(SOURCE);
		m->dst[HEAP] = malloc(DEPTH * ROOM);
		m->src[STACK] = stack;
		m->dst[STACK] = stack + SOURCE;
		m->src[FILE_BACKED] = map_file(SOURCE);
		m->dst[FILE_BACKED] = map_file(DEPTH * ROOM);
		m->src[ANONYMOUS] = anonymous(SOURCE);
		m->dst[ANONYMOUS] = anonymous(DEPTH * ROOM);
	}
	for (unsigned int k = 0; k < m->kinds; k++) {
		uint64_t *words = (uint64_t *)(void *)m->src[k];

		if (!m->src[k] || !m->dst[k])
			return false;
		for (size_t i = 0; i < SOURCE / 8; i++)
			words[i] = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) * (k + 3);
	}
	return true;
}

static void memory_free(struct memory *m)
{
	if (!native()) {
		svio_mem_free(m->src[0]);
		svio_mem_free(m->dst[0]);
		return;
	}
	free(m->src[HEAP]);
	free(m->dst[HEAP]);
	for (unsigned int k = FILE_BACKED; k < KINDS; k++) {
		munmap(m->src[k], SOURCE);
		munmap(m->dst[k], DEPTH * ROOM);
	}
}

/* ---- verified random operations ----------------------------------------------------------------------------- */

#define GUARD 24u
#define BATCH 6u

struct slot {
	struct load *load;
	uint8_t *room; /* ROOM bytes of this slot, in the kind of the moment */
	struct svio_dsa_op op, ops[BATCH];
	struct svio_dsa_result results[BATCH];
	uint32_t n; /* operations of the batch, 0: none */
	uint64_t differ; /* comparisons: where, or UINT64_MAX */
	uint8_t guard;
	bool busy;
	unsigned int calls;
};

struct load {
	struct svio_dsa_wq *wq;
	struct memory *m;
	struct slot slot[DEPTH];
	uint32_t depth;
	uint64_t rng;
	uint64_t submitted, good, canceled, gone, other, wrong, twice;
	int last_status;
	char first_wrong[160];
};

static uint64_t rnd(struct load *l)
{
	l->rng ^= l->rng << 13;
	l->rng ^= l->rng >> 7;
	l->rng ^= l->rng << 17;
	return l->rng;
}

static bool all_are(const uint8_t *p, uint8_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != v)
			return false;
	return true;
}

/* Is what the operation has left right, within its range and around it? */
static bool sound(const struct slot *s, const struct svio_dsa_op *op, const struct svio_dsa_result *res)
{
	const uint8_t *src = op->src, *dst = op->dst;
	uint64_t len = op->len;
	bool equal = s->differ == UINT64_MAX;

	switch (op->op) {
	case SVIO_DSA_COPY:
	case SVIO_DSA_COPY_CRC:
	case SVIO_DSA_DUALCAST:
		if (memcmp(src, dst, len) || !all_are(dst - GUARD, s->guard, GUARD) || !all_are(dst + len, s->guard, GUARD))
			return false;
		if (op->op == SVIO_DSA_DUALCAST)
			return !memcmp(src, op->dst2, len) && all_are((uint8_t *)op->dst2 + len, s->guard, GUARD);
		return op->op == SVIO_DSA_COPY || res->crc == svio_crc32c(op->seed, src, len);
	case SVIO_DSA_FILL:
		for (uint64_t i = 0; i < len; i++)
			if (dst[i] != ((const uint8_t *)&op->pattern)[i % 8])
				return false;
		return all_are(dst - GUARD, s->guard, GUARD) && all_are(dst + len, s->guard, GUARD);
	case SVIO_DSA_COMPARE:
	case SVIO_DSA_COMPARE_PATTERN:
		return res->differs == !equal && res->bytes == (equal ? len : s->differ);
	case SVIO_DSA_CRC:
		return res->crc == svio_crc32c(op->seed, src, len);
	default:
		return true;
	}
}

static void done(void *ctx, const struct svio_dsa_result *res)
{
	struct slot *s = ctx;
	struct load *l = s->load;
	bool ok = true;

	l->twice += !s->busy || ++s->calls > 1;
	s->busy = false;
	l->last_status = res->status;
	if (res->status == -ECANCELED) {
		l->canceled++;
		return;
	}
	if (res->status == -ENODEV) {
		l->gone++;
		return;
	}
	if (res->status) {
		l->other++;
		if (!l->first_wrong[0])
			snprintf(l->first_wrong, sizeof(l->first_wrong), "operation %#x: status %d (%s), address %#" PRIx64, s->op.op,
				 res->status, svio_dsa_status_text(res->status), res->fault_addr);
		return;
	}
	__atomic_fetch_add(&l->good, 1, __ATOMIC_RELAXED); /* others look whether it goes on */
	if (s->n)
		for (uint32_t i = 0; i < s->n; i++)
			ok &= s->results[i].status == 0 && sound(s, &s->ops[i], &s->results[i]);
	else
		ok = sound(s, &s->op, res);
	if (ok)
		return;
	l->wrong++;
	if (!l->first_wrong[0])
		snprintf(l->first_wrong, sizeof(l->first_wrong), "operation %#x, %" PRIu64 " bytes, %u in a batch: wrong data or result",
			 s->op.op, s->op.len, s->n);
}

static uint64_t length(struct load *l)
{
	switch (rnd(l) % 8) {
	case 0:
		return 1 + rnd(l) % 16;
	case 1:
		return 1 + rnd(l) % MAX_LEN;
	case 2:
		return PAGE - 2 + rnd(l) % 5;
	default:
		return 1 + rnd(l) % 700;
	}
}

/* One operation in room [at, at + space). */
static void compose(struct load *l, struct slot *s, struct svio_dsa_op *op, uint8_t *at, uint64_t max)
{
	static const enum svio_dsa_opcode codes[] = { SVIO_DSA_COPY, SVIO_DSA_COPY, SVIO_DSA_FILL, SVIO_DSA_COMPARE,
						      SVIO_DSA_COMPARE_PATTERN, SVIO_DSA_DUALCAST, SVIO_DSA_CRC, SVIO_DSA_COPY_CRC };
	const uint8_t *src = l->m->src[rnd(l) % l->m->kinds];
	uint64_t len = length(l);
	uint8_t *dst = at + GUARD + rnd(l) % 100;

	len = SVIO_MIN(len, max);
	src += rnd(l) % (SOURCE - len);
	*op = (struct svio_dsa_op){ .op = codes[rnd(l) % SVIO_ARRAY_SIZE(codes)], .src = src, .dst = dst, .len = len,
				    .pattern = rnd(l), .seed = (uint32_t)rnd(l), .flags = rnd(l) & SVIO_DSA_CACHE };
	s->differ = UINT64_MAX;
	memset(dst - GUARD, s->guard, len + 2 * GUARD);
	if (op->op == SVIO_DSA_DUALCAST) { /* the same bits 11:0 */
		op->dst2 = dst + SVIO_ALIGN_UP(len + 2 * GUARD, (uint64_t)PAGE);
		memset((uint8_t *)op->dst2 - GUARD, s->guard, len + 2 * GUARD);
	} else if (op->op == SVIO_DSA_COMPARE) {
		memcpy(dst, src, len);
		op->src2 = dst;
	} else if (op->op == SVIO_DSA_COMPARE_PATTERN) {
		for (uint64_t i = 0; i < len; i++)
			dst[i] = ((const uint8_t *)&op->pattern)[i % 8];
		op->src = dst;
	}
	if ((op->op == SVIO_DSA_COMPARE || op->op == SVIO_DSA_COMPARE_PATTERN) && rnd(l) & 1) {
		s->differ = rnd(l) % len;
		dst[s->differ] ^= 0x40;
	}
}

static int submit(struct load *l, struct slot *s)
{
	int err;

	s->room = l->m->dst[rnd(l) % l->m->kinds] + (size_t)(s - l->slot) * ROOM;
	s->guard = (uint8_t)rnd(l);
	s->n = rnd(l) % 16 == 0 ? 2 + (uint32_t)rnd(l) % (BATCH - 1) : 0;
	s->calls = 0;
	s->busy = true;
	if (s->n) {
		for (uint32_t i = 0; i < s->n; i++) {
			do
				compose(l, s, &s->ops[i], s->room + i * (ROOM / BATCH), 1000);
			while (s->ops[i].op == SVIO_DSA_DUALCAST || s->differ != UINT64_MAX);
			s->ops[i].flags |= rnd(l) % 4 ? 0 : SVIO_DSA_FENCE;
		}
		s->differ = UINT64_MAX;
		s->op = s->ops[0];
		err = svio_dsa_batch(l->wq, s->ops, s->n, s->results, done, s);
	} else {
		compose(l, s, &s->op, s->room, MAX_LEN);
		err = svio_dsa_submit(l->wq, &s->op, done, s);
	}
	if (err)
		s->busy = false;
	else
		l->submitted++;
	return err;
}

static int pump(struct load *l)
{
	int err = 0;

	for (uint32_t i = 0; i < l->depth && !err; i++)
		if (!l->slot[i].busy)
			err = submit(l, &l->slot[i]);
	if (svio_dsa_poll(l->wq, 0) == 0)
		sched_yield(); /* the model may want this CPU */
	return err == -EAGAIN ? 0 : err;
}

/* Of a load that is all zeroes. */
static void load_init(struct load *l, struct svio_dsa_wq *wq, struct memory *m, uint64_t seed)
{
	l->wq = wq;
	l->m = m;
	l->rng = seed;
	l->depth = SVIO_MIN(svio_dsa_depth(wq), DEPTH);
	for (uint32_t i = 0; i < DEPTH; i++)
		l->slot[i].load = l;
}

static bool settled(struct load *l)
{
	uint64_t end = svio_now_ns() + UINT64_C(60000000000);

	while (svio_dsa_inflight(l->wq) && svio_now_ns() < end)
		svio_dsa_poll(l->wq, 0);
	return svio_dsa_inflight(l->wq) == 0;
}

static bool once(const struct load *l)
{
	bool all = l->submitted == l->good + l->canceled + l->gone + l->other && !l->twice;

	if (!all || l->wrong || l->other)
		printf("# submitted %" PRIu64 ", good %" PRIu64 ", canceled %" PRIu64 ", gone %" PRIu64 ", other %" PRIu64 ", wrong %" PRIu64
		       ", twice %" PRIu64 "; %s\n", l->submitted, l->good, l->canceled, l->gone, l->other, l->wrong, l->twice, l->first_wrong);
	return all && !l->wrong && !l->other;
}

static void test_random(struct svio_dsa *dsa, uint64_t n)
{
	static struct load l;
	uint8_t *stack = __builtin_alloca(SOURCE + DEPTH * ROOM);
	struct svio_dsa_wq *wq;
	struct svio_dsa_stats st;
	struct memory m;
	char text[200];
	bool good;

	if (!memory_init(&m, stack) || svio_dsa_wq_create(dsa, bond, NULL, &wq)) {
		verdict(false, "random: memory and a queue");
		return;
	}
	load_init(&l, wq, &m, 0x1234567);
	while (l.submitted < n && !l.wrong && !l.other && pump(&l) == 0)
		;
	good = settled(&l) && once(&l) && l.submitted >= n && l.good == l.submitted;
	svio_dsa_get_stats(dsa, &st);
	snprintf(text, sizeof(text), "%s: %" PRIu64 " random operations of %" PRIu64 " verified (%" PRIu64 " page faults on the way)",
		 svio_sva_mode_text(bond->mode), l.good, n, st.page_faults);
	verdict(good, text);
	svio_dsa_wq_destroy(wq);
	memory_free(&m);
}

/* ---- what is not there --------------------------------------------------------------------------------------- */

static int one(struct svio_dsa_wq *wq, void *dst, const void *src, uint64_t len, struct svio_dsa_result *res)
{
	return svio_dsa_run(wq, &(struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = src, .dst = dst, .len = len }, res);
}

static bool in_page(uint64_t addr, const uint8_t *page)
{
	return (addr & ~(uint64_t)(PAGE - 1)) == (uintptr_t)page;
}

static void copy_on_write(struct svio_dsa_wq *wq, const uint8_t *src)
{
	uint8_t *p = anonymous(4 * PAGE);
	int go[2], status = -1;
	pid_t child;

	memset(p, 0x11, 4 * PAGE);
	if (pipe(go))
		return;
	child = fork();
	if (child == 0) {
		char byte;
		ssize_t n = read(go[0], &byte, 1);

		_exit(n == 1 && all_are(p, 0x11, 4 * PAGE) ? 0 : 1);
	}
	/* The pages are shared, read-only: the device's writes must copy them. */
	verdict(one(wq, p, src, 4 * PAGE, NULL) == 0 && !memcmp(p, src, 4 * PAGE), "copy-on-write after fork: the parent has the device's data");
	status = write(go[1], "x", 1) == 1 ? 0 : -1;
	verdict(waitpid(child, &status, 0) == child && status == 0, "copy-on-write after fork: the child's data are its own");
	close(go[0]);
	close(go[1]);
	munmap(p, 4 * PAGE);
}

static void test_faults(struct svio_dsa *dsa)
{
	struct svio_dsa_wq_opts block = { .size = sizeof(block), .block_on_fault = true };
	uint8_t *src, *p, *f;
	struct svio_dsa_result res;
	struct svio_dsa_info info;
	struct svio_dsa_wq *wq;

	if (!native()) {
		printf("ok - page faults # skip: mode %s\n", svio_sva_mode_text(bond->mode));
		return;
	}
	svio_dsa_get_info(dsa, &info);
	src = malloc(64 * PAGE);
	for (size_t i = 0; i < 64 * PAGE; i++)
		src[i] = (uint8_t)(i * 7 + i / PAGE);
	for (int b = 0; b < (info.block_on_fault ? 2 : 1); b++) {
		char text[120];
		const char *how = b ? " (block on fault)" : "";

		if (svio_dsa_wq_create(dsa, bond, b ? &block : NULL, &wq)) {
			verdict(false, "a queue");
			break;
		}
		p = anonymous(64 * PAGE);
		snprintf(text, sizeof(text), "memory never touched, as destination%s", how);
		verdict(one(wq, p + 5, src, 60 * PAGE, &res) == 0 && !memcmp(p + 5, src, 60 * PAGE) && res.bytes == 60 * PAGE, text);
		madvise(p, 64 * PAGE, MADV_DONTNEED);
		snprintf(text, sizeof(text), "MADV_DONTNEED: zeroes are read, then written%s", how);
		memset(src, 0xff, PAGE);
		verdict(one(wq, src, p + 3 * PAGE, PAGE, NULL) == 0 && all_are(src, 0, PAGE) && one(wq, p, src + PAGE, 63 * PAGE, NULL) == 0 &&
				!memcmp(p, src + PAGE, 63 * PAGE), text);
		madvise(p, 64 * PAGE, MADV_PAGEOUT);
		snprintf(text, sizeof(text), "MADV_PAGEOUT%s", how);
		verdict(one(wq, p + PAGE, src + PAGE, 30 * PAGE, NULL) == 0 && !memcmp(p + PAGE, src + PAGE, 30 * PAGE), text);

		snprintf(text, sizeof(text), "a pointer to nothing%s", how);
		verdict(one(wq, NULL, src, 100, &res) == -EFAULT && res.fault_addr < PAGE && res.bytes == 0, text);
		munmap(p + 20 * PAGE, PAGE);
		memset(p, 0, 20 * PAGE);
		snprintf(text, sizeof(text), "an unmapped page half-way: the address, and what lies before it%s", how);
		verdict(one(wq, p + 10 * PAGE + 1, src + PAGE, 20 * PAGE, &res) == -EFAULT && in_page(res.fault_addr, p + 20 * PAGE) &&
				res.bytes == 10 * PAGE - 1 && !memcmp(p + 10 * PAGE + 1, src + PAGE, res.bytes), text);
		snprintf(text, sizeof(text), "an unmapped page as source%s", how);
		verdict(one(wq, src, p + 20 * PAGE, 64, &res) == -EFAULT && in_page(res.fault_addr, p + 20 * PAGE), text);
		mprotect(p + 30 * PAGE, PAGE, PROT_READ);
		f = p + 30 * PAGE;
		memcpy(src + 40 * PAGE, f, PAGE);
		snprintf(text, sizeof(text), "read-only memory is read, not written%s", how);
		verdict(one(wq, src + 41 * PAGE, f, PAGE, NULL) == 0 && !memcmp(src + 41 * PAGE, f, PAGE) &&
				one(wq, f, src, PAGE, &res) == -EFAULT && in_page(res.fault_addr, f) && !memcmp(src + 40 * PAGE, f, PAGE), text);
		f = map_file(PAGE);
		f = mremap(f, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
		snprintf(text, sizeof(text), "behind the end of a file%s", how);
		verdict(f != MAP_FAILED && one(wq, f + PAGE - 10, src, 20, &res) == -EFAULT && in_page(res.fault_addr, f + PAGE) && res.bytes == 10,
			text);
		munmap(f, 2 * PAGE);
		copy_on_write(wq, src);
		verdict(one(wq, src + PAGE, src, PAGE, NULL) == 0, "and the queue goes on");
		munmap(p, 64 * PAGE);
		svio_dsa_wq_destroy(wq);
	}
	free(src);
}

static void test_big(struct svio_dsa *dsa, uint64_t len)
{
	uint8_t *src = native() ? anonymous(len) : svio_mem_alloc(len, PAGE, -1), *dst = native() ? anonymous(len) : svio_mem_alloc(len, PAGE, -1);
	struct svio_dsa_result res;
	struct svio_dsa_wq *wq;
	char text[100];

	if (!src || !dst || svio_dsa_wq_create(dsa, bond, NULL, &wq)) {
		verdict(false, "big: memory and a queue");
		return;
	}
	for (uint64_t i = 0; i < len; i += 64)
		*(uint64_t *)(void *)(src + i) = i * UINT64_C(0x9e3779b97f4a7c15);
	snprintf(text, sizeof(text), "copy of %" PRIu64 " MiB into memory never touched", len >> 20);
	verdict(one(wq, dst, src, len, &res) == 0 && res.bytes == len && !memcmp(src, dst, len), text);
	verdict(one(wq, dst + 4097, dst, len - 4097, &res) == 0 && !memcmp(src, dst + 4097, len - 4097), "… moved by a page and a byte");
	verdict(svio_dsa_run(wq, &(struct svio_dsa_op){ .op = SVIO_DSA_CRC, .src = src, .len = len }, &res) == 0 &&
			res.crc == svio_crc32c(0, src, len), "… its CRC");
	svio_dsa_wq_destroy(wq);
	if (native()) {
		munmap(src, len);
		munmap(dst, len);
	} else {
		svio_mem_free(src);
		svio_mem_free(dst);
	}
}

/* ---- trouble --------------------------------------------------------------------------------------------------- */

static _Atomic bool stop;

struct worker {
	struct svio_dsa *dsa;
	struct load load;
	struct memory m;
	uint8_t *stack;
	pthread_t thread;
	bool good;
};

static void *work(void *ctx)
{
	struct worker *w = ctx;
	struct svio_dsa_wq *wq;

	if (!memory_init(&w->m, w->stack) || svio_dsa_wq_create(w->dsa, bond, NULL, &wq))
		return NULL;
	load_init(&w->load, wq, &w->m, (uintptr_t)w | 1);
	w->good = true;
	while (!stop && !w->load.wrong && !w->load.other)
		if (pump(&w->load))
			break;
	w->good = settled(&w->load) && once(&w->load);
	svio_dsa_wq_destroy(wq);
	return NULL;
}

static void nap_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

/* Both queues complete operations again. */
static bool wait_going(struct svio_dsa *dsa, const struct worker *w)
{
	for (int q = 0; q < 2; q++) {
		uint64_t before = __atomic_load_n(&w[q].load.good, __ATOMIC_RELAXED);

		for (int i = 0; __atomic_load_n(&w[q].load.good, __ATOMIC_RELAXED) < before + 100; i++) {
			if (i == 30000 || svio_dsa_gone(dsa))
				return false;
			nap_ms(1);
		}
	}
	return true;
}

/* Decoding off and on behind the driver's back: the next store to the portal meets nothing, and the guard. */
static int lose_decoding(void)
{
	uint32_t command;
	int err = svio_device_config_read(dev, 4, 2, &command);

	if (!err)
		err = svio_device_config_write(dev, 4, 2, command & ~2u);
	nap_ms(20);
	return err ? err : svio_device_config_write(dev, 4, 2, command | 2u);
}

/* Four kinds in turn. 0 or what failed. */
static int disturb(struct svio_dsa *dsa, uint64_t i)
{
	int err;

	switch (i % 4) {
	case 3:
		return lose_decoding();
	case 0:
		err = svio_device_set_memory(dev, false);
		nap_ms(5);
		return err ? err : svio_device_set_memory(dev, true);
	case 1:
		return svio_device_reset(dev);
	default:
		svio_dsa_reset(dsa);
		return 0;
	}
}

static void test_trouble(uint64_t n)
{
	static struct worker w[2];

	for (int policy = 0; policy < 2; policy++) {
		struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 2, .policy = policy ? SVIO_DSA_REQUEUE : SVIO_DSA_FAIL };
		struct svio_dsa_stats st;
		struct svio_dsa *dsa;
		uint64_t canceled, done_well;
		char text[220];
		bool good = true;

		if (svio_dsa_open(dev, &opts, &dsa)) {
			verdict(false, "open with two queues");
			return;
		}
		stop = false;
		for (int i = 0; i < 2; i++) {
			memset(&w[i], 0, sizeof(w[i]));
			w[i].dsa = dsa;
			w[i].stack = malloc(SOURCE + DEPTH * ROOM);
			pthread_create(&w[i].thread, NULL, work, &w[i]);
		}
		for (uint64_t i = 0; i < n && good; i++) {
			int err;

			good = wait_going(dsa, w);
			err = good ? disturb(dsa, i) : 0;
			if (err && !(i % 4 == 0 && err == -EOPNOTSUPP) && !(i % 4 == 1 && err == -ENOTTY))
				good = false;
		}
		good = good && wait_going(dsa, w);
		stop = true;
		for (int i = 0; i < 2; i++) {
			pthread_join(w[i].thread, NULL);
			good &= w[i].good;
			memory_free(&w[i].m);
			free(w[i].stack);
		}
		svio_dsa_get_stats(dsa, &st);
		canceled = w[0].load.canceled + w[1].load.canceled;
		done_well = w[0].load.good + w[1].load.good;
		good &= st.resets > 0 && done_well > 0 && (!policy || canceled == 0);
		snprintf(text, sizeof(text), "%" PRIu64 " resets and losses of decoding under load, %s: %" PRIu64 " operations done and verified, %"
			 PRIu64 " canceled, %" PRIu64 " sent again, none lost (%" PRIu64 " recoveries, %" PRIu64 " revocations)", n,
			 policy ? "requeue" : "fail", done_well, canceled, st.requeued, st.resets, st.revocations);
		verdict(good, text);
		svio_dsa_close(dsa);
	}
}

/* ---- bonds ------------------------------------------------------------------------------------------------------ */

static void test_bonds(uint64_t n)
{
	struct svio_sva_report before, after;
	struct svio_sva_bond *b = bond;
	int status = -1;
	bool good = true;
	char text[100];
	pid_t child;

	child = fork();
	if (child == 0)
		_exit(b->mode == SVIO_SVA_DEAD && svio_sva_addr(b, &status, 1) == SVIO_IOVA_BAD && svio_sva_check(b, &status, 1) == -ESRCH ? 0 : 1);
	verdict(waitpid(child, &status, 0) == child && status == 0, "a child of fork has no bond");
	if (!native()) {
		printf("ok - bind and unbind # skip: mode %s\n", svio_sva_mode_text(bond->mode));
		return;
	}
	svio_sva_unbind(bond);
	svio_sva_get_report(dev, &before);
	for (uint64_t i = 0; i < n && good; i++) {
		good = svio_sva_bind(dev, ioas, SVIO_SVA_WANT_NATIVE, &b) == 0 && b->pasid != SVIO_SVA_PASID_NONE;
		if (good)
			svio_sva_unbind(b);
	}
	snprintf(text, sizeof(text), "%" PRIu64 " times bound and unbound", n);
	verdict(good, text);
	svio_sva_get_report(dev, &after);
	verdict(before.info.bonds == 0 && after.info.bonds == 0, "no bond is left");
	bond = NULL;
	verdict(svio_sva_bind(dev, ioas, 0, &bond) == 0, "bound again");
}

static void test_identity(struct svio_dsa *dsa)
{
	uint8_t *src = svio_mem_alloc(16 * PAGE, PAGE, -1), *dst = svio_mem_alloc(16 * PAGE, PAGE, -1), *heap = malloc(16 * PAGE);
	struct svio_sva_bond *b;
	struct svio_dsa_wq *wq;
	struct svio_sva_report report;
	struct svio_dsa_result res;
	uint8_t *own = anonymous(4 * PAGE);

	if (!ioas) {
		printf("ok - identity # skip: memory of room mem is not used in this run\n");
		free(heap);
		return;
	}
	if (!svio_sva_get_report(dev, &report) && report.mode != SVIO_SVA_NATIVE)
		verdict(svio_sva_bind(dev, ioas, SVIO_SVA_WANT_NATIVE, &b) == -EOPNOTSUPP && strstr(svio_last_error(), report.why),
			"identity: native mode is refused, with the reason");
	if (svio_sva_bind(dev, ioas, SVIO_SVA_WANT_IDENTITY, &b) || svio_dsa_wq_create(dsa, b, NULL, &wq)) {
		verdict(false, "identity: a bond and a queue");
		return;
	}
	for (size_t i = 0; i < 16 * PAGE; i++)
		src[i] = (uint8_t)(i * 13);
	memset(heap, 0xab, 16 * PAGE);
	verdict(one(wq, dst + 3, src, 15 * PAGE, &res) == 0 && !memcmp(dst + 3, src, 15 * PAGE), "identity: registered memory is copied");
	verdict(one(wq, heap, src, PAGE, NULL) == -EFAULT && all_are(heap, 0xab, PAGE) && strstr(svio_last_error(), "registered"),
		"identity: other memory is refused, with a sentence, and untouched");
	verdict(one(wq, dst, heap, PAGE, NULL) == -EFAULT, "identity: also as source");
	verdict(svio_mem_register(own, 4 * PAGE, -1, 0) == 0 && one(wq, own + 1, src, 3 * PAGE, NULL) == 0 && !memcmp(own + 1, src, 3 * PAGE),
		"identity: what is registered can be used");
	verdict(svio_mem_unregister(own, 4 * PAGE) == 0 && one(wq, own + 1, src, PAGE, NULL) == -EFAULT, "identity: and no longer when it is not");
	svio_dsa_wq_destroy(wq);
	svio_sva_unbind(b);
	svio_mem_free(src);
	svio_mem_free(dst);
	free(heap);
	munmap(own, 4 * PAGE);
}

/* ---- death ------------------------------------------------------------------------------------------------------ */

static void test_death(struct svio_dsa *dsa)
{
	static struct load l;
	uint8_t *stack = malloc(SOURCE + DEPTH * ROOM);
	uint64_t end = svio_now_ns() + UINT64_C(120000000000);
	struct svio_dsa_wq *wq;
	struct memory m;
	bool said = false;
	char text[160];

	if (!memory_init(&m, stack) || svio_dsa_wq_create(dsa, bond, NULL, &wq)) {
		verdict(false, "death: memory and a queue");
		return;
	}
	load_init(&l, wq, &m, 77);
	while (svio_now_ns() < end && pump(&l) == 0)
		if (!said && l.good > 1000) {
			said = true;
			printf("READY\n");
			fflush(stdout);
		}
	settled(&l);
	snprintf(text, sizeof(text), "the device died under load: %" PRIu64 " operations done and verified, %" PRIu64 " ended with -ENODEV, none lost",
		 l.good, l.gone);
	verdict(said && svio_dsa_gone(dsa) && once(&l) && l.gone > 0 && l.canceled == 0, text);
	svio_dsa_wq_destroy(wq);
	memory_free(&m);
	free(stack);
}

/* ---- main ---------------------------------------------------------------------------------------------------------- */

static bool is(const char *test, const char *what)
{
	return strcmp(test, what) == 0 || strcmp(test, "all") == 0;
}

static int setup(bool registered)
{
	struct svio_sva_report report;
	struct svio_mem_opts mem = { .size = sizeof(mem), .bytes = UINT64_C(160) << 20 };
	int err;

#ifdef __SANITIZE_THREAD__
	mem.base = UINT64_C(256) << 30;
#endif
	err = svio_device_open(name, NULL, &dev);
	if (err)
		return err;
	err = svio_sva_get_report(dev, &report);
	if (err)
		return err;
	if (registered || report.mode == SVIO_SVA_IDENTITY) {
		err = svio_mem_start(&mem);
		if (!err)
			err = svio_ioas_create(NULL, &ioas);
		if (!err)
			err = svio_ioas_attach(ioas, dev);
		if (err)
			return err;
	}
	err = svio_sva_bind(dev, ioas, 0, &bond);
	if (err)
		return err;
	svio_sva_bond_report(bond, &report);
	printf("# %s: %s: %s\n", name, svio_sva_mode_text(bond->mode), report.why);
	return 0;
}

int main(int argc, char **argv)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 1, .policy = SVIO_DSA_REQUEUE };
	const char *test = argc > 2 ? argv[2] : "all";
	uint64_t n = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
	struct svio_dsa *dsa = NULL;

	if (argc < 2) {
		fprintf(stderr, "usage: dsa_probe DEVICE [random|faults|big|trouble|bonds|identity|death|mode|all] [N]\n");
		return 2;
	}
	name = argv[1];
	if (getenv("DSA_PROBE_VERBOSE"))
		svio_log_set(SVIO_LOG_INFO, NULL, NULL);
	if (setup(is(test, "identity"))) {
		verdict(false, "device, memory and bond");
		return 1;
	}
	if (is(test, "bonds"))
		test_bonds(n ? n : 10000);
	if (is(test, "trouble"))
		test_trouble(n ? SVIO_MIN(n, 300u) : 30);
	if (strcmp(test, "mode") && strcmp(test, "bonds") && strcmp(test, "trouble")) {
		if (svio_dsa_open(dev, &opts, &dsa)) {
			verdict(false, "svio_dsa_open()");
			return 1;
		}
		if (is(test, "random"))
			test_random(dsa, n ? n : 1000000);
		if (is(test, "faults"))
			test_faults(dsa);
		if (is(test, "identity"))
			test_identity(dsa);
		if (is(test, "big"))
			test_big(dsa, strcmp(test, "big") || !n ? UINT64_C(64) << 20 : n << 20);
		if (strcmp(test, "death") == 0)
			test_death(dsa);
	}
	svio_dsa_close(dsa);
	svio_sva_unbind(bond);
	if (ioas) {
		svio_device_set_master(dev, false);
		verdict(svio_ioas_detach(ioas, dev) == 0 || strcmp(test, "death") == 0, "detached");
		svio_ioas_destroy(ioas);
	}
	svio_device_close(dev);
	if (ioas)
		svio_mem_stop();
	return failed;
}
