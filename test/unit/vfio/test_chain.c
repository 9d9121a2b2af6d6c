/* SPDX-License-Identifier: BSD-3-Clause */
/* Replies that lie: capability chains that loop, leave the reply, or are cut off; argsz that grows for ever. */
#include <stdlib.h>
#include <string.h>
#include "unit.h"
#include "vfio_priv.h"

#define FIXED 32

struct chain {
	size_t len;
	unsigned char *
		bytes; /* on the heap and exact, so that AddressSanitizer sees a read behind the end */
};

static struct chain chain_new(size_t len)
{
	return (struct chain){ len, calloc(1, len) };
}

static void put(struct chain *c, size_t at, uint16_t id, uint32_t next)
{
	struct vfio_info_cap_header h = { .id = id, .version = 1, .next = next };

	memcpy(c->bytes + at, &h, sizeof(h));
}

static int find(struct chain *c, uint32_t first, uint16_t id, size_t *cap, size_t *room)
{
	return svio__chain_find(c->bytes, c->len, FIXED, first, id, cap, room);
}

static void test_walk(void)
{
	struct chain c = chain_new(FIXED + 44);
	size_t cap = 0, room = 0;

	put(&c, FIXED, 1, FIXED + 17); /* unaligned, as kernels before 6.6 made them */
	put(&c, FIXED + 17, 2, FIXED + 36);
	put(&c, FIXED + 36, 3, 0);
	CU_ASSERT_EQUAL(find(&c, FIXED, 1, &cap, &room), 0);
	CU_ASSERT_EQUAL(cap, FIXED);
	CU_ASSERT_EQUAL(room, 44);
	CU_ASSERT_EQUAL(find(&c, FIXED, 2, &cap, &room), 0);
	CU_ASSERT_EQUAL(cap, FIXED + 17);
	CU_ASSERT_EQUAL(find(&c, FIXED, 3, &cap, &room), 0);
	CU_ASSERT_EQUAL(room, 8);
	CU_ASSERT_EQUAL(find(&c, FIXED, 4, &cap, &room), -ENOENT);
	CU_ASSERT_EQUAL(find(&c, 0, 1, &cap, &room), -ENOENT);
	free(c.bytes);
}

static void test_cycles(void)
{
	struct chain c = chain_new(FIXED + 64);
	size_t cap, room;

	put(&c, FIXED, 1, FIXED);
	CU_ASSERT_EQUAL(find(&c, FIXED, 9, &cap, &room), -EPROTO);
	put(&c, FIXED, 1, FIXED + 16);
	put(&c, FIXED + 16, 2, FIXED + 32);
	put(&c, FIXED + 32, 3, FIXED + 16);
	CU_ASSERT_EQUAL(find(&c, FIXED, 9, &cap, &room), -EPROTO);
	/* What lies on the loop is still found. */
	CU_ASSERT_EQUAL(find(&c, FIXED, 3, &cap, &room), 0);
	free(c.bytes);
}

static void test_bounds(void)
{
	static const uint32_t bad[] = { 1,	    FIXED - 1,	FIXED + 57, FIXED + 64,
					FIXED + 65, 0x7fffffff, UINT32_MAX, UINT32_MAX - 7 };
	struct chain c = chain_new(FIXED + 64);
	size_t cap, room;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(bad); i++) {
		CU_ASSERT_EQUAL(find(&c, bad[i], 1, &cap, &room), -EPROTO);
		put(&c, FIXED, 7, bad[i]);
		CU_ASSERT_EQUAL(find(&c, FIXED, 1, &cap, &room), -EPROTO);
	}
	put(&c, FIXED + 56, 5, 0); /* the last place where a header fits */
	put(&c, FIXED, 7, FIXED + 56);
	CU_ASSERT_EQUAL(find(&c, FIXED, 5, &cap, &room), 0);
	free(c.bytes);
}

/* ---- argsz ------------------------------------------------------------------------------------------ */

struct source {
	uint32_t step, end;
	int calls, err;
};

static int grow(void *ctx, void *reply)
{
	struct source *s = ctx;
	uint32_t argsz;

	s->calls++;
	if (s->err)
		return s->err;
	memcpy(&argsz, reply, sizeof(argsz));
	if (argsz < s->end)
		argsz += s->step;
	memcpy(reply, &argsz, sizeof(argsz));
	return 0;
}

static int reply(struct source *s, size_t *len)
{
	const struct svio__reply_call rc = { .call = grow, .ctx = s };
	void *buf = NULL;
	int err = svio__reply(&rc, FIXED, &buf, len);

	if (!err)
		((char *)buf)[*len - 1] = 1; /* all of it is there */
	free(buf);
	return err;
}

static void test_argsz(void)
{
	struct source same = { 0, 0, 0, 0 }, once = { 100, FIXED + 1, 0, 0 },
		      twice = { 100, FIXED + 101, 0, 0 };
	struct source endless = { 4096, UINT32_MAX, 0, 0 },
		      huge = { UINT32_MAX - FIXED, UINT32_MAX, 0, 0 };
	struct source fails = { 0, 0, 0, -EIO }, shrinks = { (uint32_t)-8, FIXED + 1, 0, 0 };
	size_t len;

	CU_ASSERT_EQUAL(reply(&same, &len), 0);
	CU_ASSERT_EQUAL(len, FIXED);
	CU_ASSERT_EQUAL(same.calls, 1);
	CU_ASSERT_EQUAL(reply(&once, &len), 0);
	CU_ASSERT_EQUAL(len, FIXED + 100);
	CU_ASSERT_EQUAL(once.calls, 2);
	CU_ASSERT_EQUAL(reply(&twice, &len), 0);
	CU_ASSERT_EQUAL(len, FIXED + 200);
	CU_ASSERT_EQUAL(reply(&endless, &len), -EPROTO);
	CU_ASSERT(endless.calls <= 17);
	CU_ASSERT_EQUAL(reply(&huge, &len), -EPROTO);
	CU_ASSERT_EQUAL(reply(&shrinks, &len), -EPROTO);
	CU_ASSERT_EQUAL(reply(&fails, &len), -EIO);
}

/* ---- areas ------------------------------------------------------------------------------------------ */

static void test_cut(void)
{
	struct svio_region_info r = { .num_areas = 1, .areas = { { 0, 0x10000 } } };

	svio__areas_cut(&r, 0x4000, 0x6000); /* a hole */
	CU_ASSERT_EQUAL(r.num_areas, 2);
	CU_ASSERT_EQUAL(r.areas[0].size, 0x4000);
	CU_ASSERT_EQUAL(r.areas[1].offset, 0x6000);
	CU_ASSERT_EQUAL(r.areas[1].size, 0xa000);
	svio__areas_cut(&r, 0x4000, 0x6000); /* nothing there any more */
	CU_ASSERT_EQUAL(r.num_areas, 2);
	svio__areas_cut(&r, 0x3000, 0x7000); /* over both edges */
	CU_ASSERT_EQUAL(r.areas[0].size, 0x3000);
	CU_ASSERT_EQUAL(r.areas[1].offset, 0x7000);
	svio__areas_cut(&r, 0, 0x3000); /* a whole area */
	CU_ASSERT_EQUAL(r.num_areas, 1);
	CU_ASSERT_EQUAL(r.areas[0].offset, 0x7000);
	svio__areas_cut(&r, 0, 0x100000);
	CU_ASSERT_EQUAL(r.num_areas, 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "a chain is walked, aligned or not", test_walk },
		{ "a chain that loops ends", test_cycles },
		{ "a chain that leaves the reply is refused", test_bounds },
		{ "argsz is followed, up to a limit", test_argsz },
		{ "areas lose what is cut out", test_cut },
		{ NULL, NULL },
	};

	return unit_run("vfio/chain", tests);
}
