/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory that moves along. A page is made of its number and its version; versions lie in the page alone. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "perf_ballast.h"

#define AREA	 "ballast"
#define BASE	 (SVIO_MIGRATE_ADDRESS + (UINT64_C(2) << 40))
#define PAGE	 UINT64_C(4096)
#define WORDS	 (PAGE / sizeof(uint64_t))
#define PERIOD_NS UINT64_C(10000000)

struct perf_ballast {
	struct svio_migrate *m;
	struct svio_migrate_part part;
	struct svio_migrate_area *area; /* m's */
	uint64_t pages, written, random;
	uint32_t percent;
	pthread_t thread;
	pthread_mutex_t lock; /* of everything below, and of the pages */
	pthread_cond_t change;
	bool started, frozen, stop;
};

static uint64_t mix(uint64_t x)
{
	x *= UINT64_C(0x9e3779b97f4a7c15);
	return x ^ x >> 31;
}

static void write_page(struct perf_ballast *b, uint64_t number, uint64_t version)
{
	uint64_t *p = (uint64_t *)svio_migrate_area_base(b->area) + number * WORDS, seed = mix(number + 1) ^ version;

	p[0] = version;
	for (uint64_t i = 1; i < WORDS; i++)
		p[i] = seed + i * UINT64_C(0x9e3779b97f4a7c15);
}

static bool is_sound(const struct perf_ballast *b, uint64_t number)
{
	const uint64_t *p = (const uint64_t *)svio_migrate_area_base(b->area) + number * WORDS, seed = mix(number + 1) ^ p[0];

	for (uint64_t i = 1; i < WORDS; i++)
		if (p[i] != seed + i * UINT64_C(0x9e3779b97f4a7c15))
			return false;
	return p[0] != 0;
}

/* xorshift64 (Marsaglia, 2003) */
static uint64_t next_random(struct perf_ballast *b)
{
	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	return b->random;
}

static void *writer(void *arg)
{
	struct perf_ballast *b = arg;
	uint64_t last = svio_now_ns(), owed = 0, each = UINT64_C(100000000000);

	pthread_mutex_lock(&b->lock);
	while (!b->stop) {
		uint64_t now = svio_now_ns(), until = now + PERIOD_NS;
		struct timespec ts = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };

		/* After a stop, or when others had the CPU, nothing is made up for. */
		owed += b->frozen ? 0 : SVIO_MIN(now - last, 2 * PERIOD_NS) * b->percent * b->pages;
		last = now;
		for (; owed >= each; owed -= each) {
			write_page(b, next_random(b) % b->pages, ++b->written + 1);
		}
		pthread_cond_clockwait(&b->change, &b->lock, CLOCK_MONOTONIC, &ts);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

static int start(struct perf_ballast *b)
{
	int rc;

	b->frozen = b->stop = false;
	rc = pthread_create(&b->thread, NULL, writer, b);
	b->started = rc == 0;
	return rc ? svio_fail(rc, "cannot start a thread: %s", strerror(rc)) : 0;
}

static void set_frozen(struct perf_ballast *b, bool frozen)
{
	pthread_mutex_lock(&b->lock);
	b->frozen = frozen;
	pthread_mutex_unlock(&b->lock);
}

/* ---- the part ------------------------------------------------------------------------------------------ */

static int quiesce(void *ctx)
{
	set_frozen(ctx, true);
	return 0;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	const struct perf_ballast *b = ctx;

	svio_migrate_put_u64(out, b->pages);
	svio_migrate_put_u64(out, b->written);
	svio_migrate_put_u64(out, b->random);
	return svio_migrate_put_u32(out, b->percent);
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	struct perf_ballast *b = ctx;

	if (side == SVIO_MIGRATE_TARGET) {
		b->area = NULL;
		b->pages = 0;
	}
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_ballast *b = ctx;

	(void)version;
	b->area = svio_migrate_find_area(b->m, AREA);
	b->pages = svio_migrate_get_u64(in);
	b->written = svio_migrate_get_u64(in);
	b->random = svio_migrate_get_u64(in);
	b->percent = svio_migrate_get_u32(in);
	if (!in->bad && b->percent <= 100 && b->random && b->pages == (b->area ? svio_migrate_area_bytes(b->area) / PAGE : 0))
		return 0;
	discard(b, SVIO_MIGRATE_TARGET);
	return svio_fail(EINVAL, "a state of the ballast that makes no sense");
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct perf_ballast *b = ctx;

	if (side == SVIO_MIGRATE_SOURCE)
		set_frozen(b, false);
	else if (b->pages && start(b))
		svio_log_err("the ballast is not written any more: %s", svio_last_error());
}

/* ---- its life ------------------------------------------------------------------------------------------ */

int perf_ballast_new(struct svio_migrate *m, struct perf_ballast **ballastp)
{
	struct perf_ballast *b = calloc(1, sizeof(*b));

	if (!b)
		return svio_fail(ENOMEM, "out of memory");
	b->m = m;
	b->random = UINT64_C(88172645463325252);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->change, NULL);
	b->part = (struct svio_migrate_part){ .name = "ballast", .version = 1, .quiesce = quiesce, .save = save, .load = load,
					      .resume = resume, .discard = discard, .ctx = b };
	svio_migrate_add_part(m, &b->part);
	*ballastp = b;
	return 0;
}

int perf_ballast_create(struct perf_ballast *b, uint64_t bytes, uint32_t percent)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = AREA, .base = BASE, .bytes = bytes };
	struct svio_migrate_area *area;
	int rc = svio_migrate_area_create(&opts, &area);

	if (rc)
		return rc;
	rc = svio_migrate_add_area(b->m, area);
	if (rc) {
		svio_migrate_area_destroy(area);
		return rc;
	}
	b->area = area;
	b->pages = svio_migrate_area_bytes(area) / PAGE;
	b->percent = percent;
	for (uint64_t i = 0; i < b->pages; i++)
		write_page(b, i, 1);
	return start(b);
}

static void end(struct perf_ballast *b)
{
	if (!b->started)
		return;
	pthread_mutex_lock(&b->lock);
	b->stop = true;
	pthread_cond_signal(&b->change);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	b->started = false;
}

void perf_ballast_check(struct perf_ballast *b, struct perf_ballast_result *result)
{
	end(b);
	*result = (struct perf_ballast_result){ .bytes = b->pages * PAGE, .written = b->written };
	for (uint64_t i = 0; i < b->pages; i++)
		result->wrong += !is_sound(b, i);
}

void perf_ballast_free(struct perf_ballast *b)
{
	if (!b)
		return;
	end(b);
	pthread_cond_destroy(&b->change);
	pthread_mutex_destroy(&b->lock);
	free(b);
}
