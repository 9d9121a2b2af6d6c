/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Records: every field of a real one (what each process says, a device with migration state, NVMe's facts) is spoiled in turn, and
 * the difference names it, both values and what helps. Then what strangers send, and what parts read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "migrate_priv.h"
#include "unit.h"

#define MAX_DIFF 16u

/* ---- comparing: a device's record ------------------------------------------------------------------------- */

/* Names and rules as in lib/migrate/device.c and move.c, drivers/nvme/migrate.c; each line: what the target has instead, and if it fits. */
static const struct {
	const char *name;
	const char *text;      /* of the source; NULL: a number */
	enum svio_migrate_rule rule;
	uint64_t num;
	const char *other_text;
	uint64_t less, more;
	bool less_fits, more_fits;
} facts[] = {
	{ "byte order", "little", 0, 0, "big", 0, 0, false, false },
	{ "page size", NULL, SVIO_MIGRATE_SAME, 4096, NULL, 1024, 65536, false, false },
	{ "area.perf", "0x300000000000+0x400000", 0, 0, "something else is mapped there", 0, 0, false, false },
	{ "memory", NULL, SVIO_MIGRATE_AT_LEAST, 1 << 22, NULL, (1 << 22) - 1, 1 << 23, false, true },
	{ "nvme device.version", NULL, SVIO_MIGRATE_AT_LEAST, 2, NULL, 1, 3, false, true },
	{ "nvme device.id", NULL, SVIO_MIGRATE_SAME, 0x1b360010, NULL, 0x1b360009, 0x1b360011, false, false },
	{ "nvme device.class", NULL, SVIO_MIGRATE_SAME, 0x010802, NULL, 0x010801, 0x010803, false, false },
	{ "nvme device.revision", NULL, SVIO_MIGRATE_SAME, 2, NULL, 1, 3, false, false },
	{ "nvme device.migration", NULL, SVIO_MIGRATE_BITS, 5, NULL, 1, 7, false, true },
	{ "nvme device.bar0", NULL, SVIO_MIGRATE_SAME, 0x4000, NULL, 0x2000, 0x8000, false, false },
	{ "nvme.namespace.identity", "nguid:00", 0, 0, "nguid:01", 0, 0, false, false },
	{ "nvme.namespace.blocks", NULL, SVIO_MIGRATE_SAME, 1000, NULL, 999, 1001, false, false },
	{ "nvme.queues", NULL, SVIO_MIGRATE_AT_LEAST, 4, NULL, 3, 5, false, true },
	{ "nvme.queue_depth", NULL, SVIO_MIGRATE_AT_LEAST, 33, NULL, 32, 34, false, true },
	{ "nvme.optional_commands", NULL, SVIO_MIGRATE_BITS, 0x0c, NULL, 0x04, 0x1c, false, true },
};

static int say(struct svio_migrate_record *rec, size_t i, const char *text, uint64_t num, const char *hint)
{
	return facts[i].text ? svio_migrate_fact_text(rec, facts[i].name, text, hint) :
			       svio_migrate_fact_u64(rec, facts[i].name, facts[i].rule, num, hint);
}

/* All facts, but number `which` with another value, or not at all (missing). */
static struct svio_migrate_record record_with(size_t which, uint64_t num, bool missing)
{
	struct svio_migrate_record rec = { 0 };

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(facts); i++) {
		char hint[64];

		snprintf(hint, sizeof(hint), "hint %zu", i);
		if (i != which) {
			CU_ASSERT_EQUAL(say(&rec, i, facts[i].text, facts[i].num, hint), 0);
		} else if (!missing) {
			CU_ASSERT_EQUAL(say(&rec, i, facts[i].other_text, num, "the target's hint does not count"), 0);
		}
	}
	return rec;
}

/* Over the wire, as it always comes. */
static struct svio_migrate_record sent(const struct svio_migrate_record *rec)
{
	struct svio_migrate_record back = { 0 };
	struct svio_migrate_buf b = { .max = 1 << 20 };
	struct svio_migrate_in in;

	CU_ASSERT_EQUAL(svio__mg_record_put(rec, &b), 0);
	in = (struct svio_migrate_in){ .at = b.data, .left = b.len };
	CU_ASSERT_EQUAL(svio__mg_record_get(&back, &in), 0);
	CU_ASSERT_EQUAL(in.left, 0);
	svio__mg_buf_free(&b);
	return back;
}

static void compare_one(size_t which, uint64_t num, bool missing, bool fits)
{
	struct svio_migrate_record mine = record_with(SIZE_MAX, 0, false), source = sent(&mine);
	struct svio_migrate_record target = record_with(which, num, missing);
	struct svio_migrate_difference d[MAX_DIFF];
	uint32_t n = svio__mg_record_compare(&source, &target, d, MAX_DIFF);
	char want[64];

	CU_ASSERT_EQUAL(n, fits ? 0 : 1);
	if (n == 1) {
		snprintf(want, sizeof(want), "hint %zu", which);
		CU_ASSERT_STRING_EQUAL(d[0].name, facts[which].name);
		CU_ASSERT_STRING_EQUAL(d[0].hint, want);
		if (missing)
			CU_ASSERT_STRING_EQUAL(d[0].target, "(nothing)");
		if (facts[which].text) {
			CU_ASSERT_STRING_EQUAL(d[0].source, facts[which].text);
			CU_ASSERT_STRING_EQUAL(d[0].target, missing ? "(nothing)" : facts[which].other_text);
		} else {
			CU_ASSERT_EQUAL(strtoull(d[0].source, NULL, 0), facts[which].num);
			if (!missing)
				CU_ASSERT_EQUAL(strtoull(d[0].target, NULL, 0), num);
			CU_ASSERT_EQUAL(strncmp(d[0].source, "0x", 2) == 0, facts[which].rule == SVIO_MIGRATE_BITS);
		}
	}
	svio__mg_record_free(&mine);
	svio__mg_record_free(&source);
	svio__mg_record_free(&target);
}

static void test_each_field(void)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(facts); i++) {
		if (facts[i].text) {
			compare_one(i, 0, false, false);
		} else {
			compare_one(i, facts[i].num, false, true);
			compare_one(i, facts[i].less, false, facts[i].less_fits);
			compare_one(i, facts[i].more, false, facts[i].more_fits);
		}
		compare_one(i, 0, true, false);
	}
}

/* More differences than there is room for are counted; what the target says beyond the source is nobody's business. */
static void test_many(void)
{
	struct svio_migrate_record source = { 0 }, target = { 0 };
	struct svio_migrate_difference d[3];

	for (uint64_t i = 0; i < 10; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%d", (int)i);
		CU_ASSERT_EQUAL(svio_migrate_fact_u64(&source, name, SVIO_MIGRATE_SAME, i, NULL), 0);
		CU_ASSERT_EQUAL(svio_migrate_fact_u64(&target, name, SVIO_MIGRATE_SAME, i + i % 2, NULL), 0);
	}
	CU_ASSERT_EQUAL(svio_migrate_fact_u64(&target, "more", SVIO_MIGRATE_SAME, 1, NULL), 0);
	CU_ASSERT_EQUAL(svio__mg_record_compare(&source, &target, d, 3), 5);
	CU_ASSERT_STRING_EQUAL(d[2].name, "f5");
	/* A number where a text belongs. */
	CU_ASSERT_EQUAL(svio_migrate_fact_text(&source, "kind", "1", NULL), 0);
	CU_ASSERT_EQUAL(svio_migrate_fact_u64(&target, "kind", SVIO_MIGRATE_SAME, 1, NULL), 0);
	CU_ASSERT_EQUAL(svio__mg_record_compare(&source, &target, d, 3), 6);
	svio__mg_record_free(&source);
	svio__mg_record_free(&target);
}

static void test_limits(void)
{
	char name[SVIO_MIGRATE_NAME_MAX], value[8], text[SVIO_MIGRATE_VALUE_MAX];
	struct svio_migrate_record rec = { 0 };
	uint64_t num;

	CU_ASSERT_EQUAL(svio_migrate_fact_text(&rec, "a", "text", NULL), 0);
	CU_ASSERT_EQUAL(svio_migrate_fact_u64(&rec, "a", SVIO_MIGRATE_SAME, 1, NULL), -EEXIST);
	CU_ASSERT_EQUAL(svio_migrate_fact_u64(&rec, "n", SVIO_MIGRATE_SAME, 7, NULL), 0);
	CU_ASSERT_TRUE(svio_migrate_fact_find_text(&rec, "a", text, sizeof(text)) && strcmp(text, "text") == 0);
	CU_ASSERT_TRUE(svio_migrate_fact_find_u64(&rec, "n", &num) && num == 7);
	CU_ASSERT_FALSE(svio_migrate_fact_find_text(&rec, "n", value, sizeof(value)));
	CU_ASSERT_FALSE(svio_migrate_fact_find_u64(&rec, "a", &num));
	CU_ASSERT_FALSE(svio_migrate_fact_find_u64(NULL, "a", &num));
	for (int i = 2; i < MG_MAX_FACTS; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		CU_ASSERT_EQUAL(svio_migrate_fact_u64(&rec, name, SVIO_MIGRATE_SAME, 0, NULL), 0);
	}
	CU_ASSERT_EQUAL(svio_migrate_fact_u64(&rec, "one more", SVIO_MIGRATE_SAME, 0, NULL), -ENOSPC);
	svio__mg_record_free(&rec);
}

/* ---- strangers ------------------------------------------------------------------------------------------------ */

static int read_record(const uint8_t *data, size_t len)
{
	struct svio_migrate_in in = { .at = data, .left = len };
	struct svio_migrate_record rec = { 0 };
	int rc = svio__mg_record_get(&rec, &in);

	svio__mg_record_free(&rec);
	return rc;
}

static void test_strangers(void)
{
	struct svio_migrate_record rec = record_with(SIZE_MAX, 0, false);
	struct svio_migrate_buf b = { .max = 1 << 20 };
	uint8_t *copy;
	int rejected = 0;

	CU_ASSERT_EQUAL_FATAL(svio__mg_record_put(&rec, &b), 0);
	copy = malloc(b.len);
	for (size_t n = 0; n < b.len; n++) {
		memcpy(copy, b.data, n); /* exactly so long: a sanitizer sees what is read beyond */
		CU_ASSERT_EQUAL(read_record(copy, n), -EPROTO);
	}
	/* Any byte may be anything: refused or taken, but nothing else happens. */
	for (size_t n = 0; n < b.len; n++) {
		memcpy(copy, b.data, b.len);
		copy[n] ^= 0xff;
		rejected += read_record(copy, b.len) != 0;
	}
	CU_ASSERT_TRUE(rejected > 50);
	memcpy(copy, b.data, b.len);
	copy[0] = copy[1] = 0xff;
	CU_ASSERT_EQUAL(read_record(copy, b.len), -EPROTO);
	free(copy);
	svio__mg_buf_free(&b);
	/* The same fact twice; a rule that there is not. */
	svio_migrate_put_u32(&b, 2);
	b.max = 4096;
	b.err = 0;
	svio_migrate_put_u32(&b, 2);
	for (int i = 0; i < 2; i++) {
		svio_migrate_put_text(&b, "x");
		svio_migrate_put_u32(&b, SVIO_MIGRATE_SAME);
		svio_migrate_put_u64(&b, 1);
		svio_migrate_put_text(&b, "");
	}
	CU_ASSERT_EQUAL(read_record(b.data, b.len), -EEXIST);
	b.data[4 + 5] = 3;
	CU_ASSERT_EQUAL(read_record(b.data, b.len), -EPROTO);
	svio__mg_buf_free(&b);
	svio__mg_record_free(&rec);
}

/* ---- what every process says: describe() of both sides ---------------------------------------------------------- */

static void describe_both(uint64_t max_bytes, struct svio_migrate_difference *d, uint32_t want)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = "a", .bytes = MG_HUGE };
	struct svio_migrate_record source = { 0 }, target = { 0 };
	struct mg_move *x = calloc(2, sizeof(*x));
	struct svio_migrate_area *area;

	CU_ASSERT_EQUAL_FATAL(svio_migrate_create(&x[0].m), 0);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_create(&x[1].m), 0);
#ifdef __SANITIZE_THREAD__
	opts.base = UINT64_C(320) << 30;
#endif
	CU_ASSERT_EQUAL_FATAL(svio_migrate_area_create(&opts, &area), 0);
	CU_ASSERT_EQUAL_FATAL(svio_migrate_add_area(x[0].m, area), 0);
	CU_ASSERT_EQUAL(svio__mg_describe(&x[0], &source, NULL), 0);
	x[1].opts.max_bytes = max_bytes;
	if (want < 2) /* otherwise it lies where the target, which is this process, would have to put it */
		svio__mg_drop_areas(x[0].m);
	CU_ASSERT_EQUAL(svio__mg_describe(&x[1], &target, &source), 0);
	CU_ASSERT_EQUAL(svio__mg_record_compare(&source, &target, d, MAX_DIFF), want);
	svio__mg_record_free(&source);
	svio__mg_record_free(&target);
	svio_migrate_destroy(x[0].m);
	svio_migrate_destroy(x[1].m);
	free(x);
}

static void test_memory(void)
{
	struct svio_migrate_difference d[MAX_DIFF];

	describe_both(0, d, 0);
	describe_both(MG_HUGE, d, 0);
	describe_both(MG_HUGE - 1, d, 1);
	CU_ASSERT_STRING_EQUAL(d[0].name, "memory");
	CU_ASSERT_STRING_EQUAL(d[0].source, "2097152");
	CU_ASSERT_STRING_EQUAL(d[0].target, "2097151");
	CU_ASSERT_PTR_NOT_NULL(strstr(d[0].hint, "--max-memory"));
	describe_both(1, d, 2);
	CU_ASSERT_STRING_EQUAL(d[0].name, "area.a");
	CU_ASSERT_PTR_NOT_NULL(strstr(d[0].source, "+0x200000"));
	CU_ASSERT_PTR_NOT_NULL(strstr(d[0].target, "something else is mapped"));
	CU_ASSERT_PTR_NOT_NULL(strstr(d[0].hint, "anew"));
	CU_ASSERT_STRING_EQUAL(d[1].name, "memory");
}

/* Places that make no sense are a stranger's. */
static void test_bad_area(void)
{
	static const char *const bad[] = { "", "0x1000", "0x200000+0x0", "0x1000+0x200000", "0x200000+0x1000", "x+y" };
	struct mg_move *x = calloc(1, sizeof(*x));

	CU_ASSERT_EQUAL_FATAL(svio_migrate_create(&x->m), 0);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(bad); i++) {
		struct svio_migrate_record source = { 0 }, mine = { 0 };

		CU_ASSERT_EQUAL(svio_migrate_fact_text(&source, "area.x", bad[i], NULL), 0);
		CU_ASSERT_EQUAL(svio__mg_describe(x, &mine, &source), -EPROTO);
		svio__mg_record_free(&source);
		svio__mg_record_free(&mine);
	}
	svio_migrate_destroy(x->m);
	free(x);
}

/* ---- buffers ------------------------------------------------------------------------------------------------------ */

static void test_buf(void)
{
	struct svio_migrate_buf b = { .max = 16 };
	struct svio_migrate_in in;
	char text[4];

	CU_ASSERT_EQUAL(svio_migrate_put_u64(&b, UINT64_C(0x1122334455667788)), 0);
	CU_ASSERT_EQUAL(b.data[0], 0x88);
	CU_ASSERT_EQUAL(svio_migrate_put_text(&b, "abc"), 0);
	CU_ASSERT_EQUAL(svio_migrate_put_u64(&b, 1), -E2BIG);
	/* Remembered: what fits would leave a hole. */
	CU_ASSERT_EQUAL(svio_migrate_put(&b, "x", 1), -E2BIG);
	CU_ASSERT_EQUAL(b.len, 15);
	in = (struct svio_migrate_in){ .at = b.data, .left = b.len };
	CU_ASSERT_EQUAL(svio_migrate_get_u64(&in), UINT64_C(0x1122334455667788));
	CU_ASSERT_EQUAL(svio_migrate_get_text(&in, text, sizeof(text)), 0);
	CU_ASSERT_STRING_EQUAL(text, "abc");
	CU_ASSERT_FALSE(in.bad);
	CU_ASSERT_EQUAL(svio_migrate_get_u32(&in), 0);
	CU_ASSERT_TRUE(in.bad);
	CU_ASSERT_PTR_NULL(svio_migrate_get(&in, 0));
	/* A text that is longer than its place, or has an end in the middle. */
	in = (struct svio_migrate_in){ .at = b.data + 8, .left = b.len - 8 };
	CU_ASSERT_EQUAL(svio_migrate_get_text(&in, text, 3), -EINVAL);
	CU_ASSERT_TRUE(in.bad && text[0] == '\0');
	b.data[13] = 0;
	in = (struct svio_migrate_in){ .at = b.data + 8, .left = b.len - 8 };
	CU_ASSERT_EQUAL(svio_migrate_get_text(&in, text, sizeof(text)), -EINVAL);
	svio__mg_buf_free(&b);
	CU_ASSERT_PTR_NULL(b.data);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "every field spoiled in turn: named, with both values and what helps", test_each_field },
		{ "many differences, other kinds", test_many },
		{ "said twice, too many, looked up", test_limits },
		{ "a record cut at each byte, with each byte changed", test_strangers },
		{ "memory and addresses of both sides", test_memory },
		{ "places that make no sense", test_bad_area },
		{ "buffers", test_buf },
		{ NULL, NULL },
	};

	return unit_run("migrate/record", tests);
}
