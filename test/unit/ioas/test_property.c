/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Room ioas against a plain model: random maps, unmaps, attaches, detaches and failures; after each step the list of
 * mappings, every device's page table and the translation of random addresses must be what the model says. The model is an
 * unsorted array, searched linearly; it knows nothing of trees, hot ranges or allocators.
 *
 *	unit_ioas_property [seed [steps]]
 */
#include "fake.h"

#define RW	 (SVIO_DMA_READ | SVIO_DMA_WRITE)
#define SPAN	 (UINT64_C(6) << 30)
#define MAX_MAPS 40
#define DEVICES  4

struct model_map {
	uint64_t off, len, iova; /* off: into the span */
};

static struct model_map model[MAX_MAPS];
static unsigned int num_model;
static bool attached[DEVICES];
static uint8_t *span;
static uint64_t seed;

static uint64_t rnd(uint64_t n)
{
	/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016 */
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (seed * UINT64_C(2685821657736338717) >> 11) % n;
}

static uint64_t random_size(void)
{
	switch (rnd(6)) {
	case 0:
		return 4096;
	case 1:
		return 4096 * (1 + rnd(16));
	case 2:
		return 2 * MIB * (1 + rnd(8));
	case 3:
		return GIB;
	case 4:
		return 4096 * (1 + rnd(600 * 1024));
	default:
		return 4096 * (1 + rnd(2048));
	}
}

static uint64_t random_off(void)
{
	uint64_t align = (const uint64_t[]){ 4096, 4096, 2 * MIB, GIB }[rnd(4)];

	return rnd(SPAN / align) * align;
}

static int model_overlap(uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < num_model; i++)
		if (off < model[i].off + model[i].len && model[i].off < off + len)
			return (int)i;
	return -1;
}

static uint64_t model_translate(uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < num_model; i++)
		if (off >= model[i].off && off - model[i].off < model[i].len && len <= model[i].len - (off - model[i].off))
			return model[i].iova == SVIO_IOVA_BAD ? SVIO_IOVA_BAD : model[i].iova + (off - model[i].off);
	return SVIO_IOVA_BAD;
}

/* Does the domain hold exactly the model's mappings? */
static bool domain_agrees(const struct svio_dma_domain *d)
{
	if (d->num_maps != num_model)
		return false;
	for (unsigned int i = 0; i < num_model; i++) {
		bool found = false;

		for (unsigned int k = 0; k < d->num_maps; k++)
			found |= d->maps[k].vaddr == span + model[i].off && d->maps[k].len == model[i].len &&
				 d->maps[k].iova == model[i].iova;
		if (!found)
			return false;
	}
	return true;
}

static bool superpage_kept(const struct model_map *m)
{
	uint64_t va = (uintptr_t)span + m->off;
	bool has_2m = SVIO_ALIGN_UP(va, 2 * MIB) + 2 * MIB <= va + m->len;

	return !has_2m || (va - m->iova) % (2 * MIB) == 0;
}

static unsigned int run(uint32_t flags, unsigned int steps)
{
	struct svio_ioas *ioas = make_ioas(flags);
	struct fake_dev dev[DEVICES];
	unsigned int wrong = 0, done[6] = { 0 };
	bool settled = false;

	num_model = 0;
	for (int i = 0; i < DEVICES; i++) {
		fake_init(&dev[i], (const char *[]){ "a", "b", "c", "d" }[i], 48);
		attached[i] = false;
	}
	dev[1].own.info.ranges[1].last = (UINT64_C(1) << 39) - 1; /* a narrow one */
	dev[2].lonely = true;
	dev[3].lonely = true;
	dev[3].own.info.max_mappings = 30;

	for (unsigned int step = 0; step < steps && !wrong; step++) {
		uint64_t off = random_off(), len = random_size(), iova = 0;
		unsigned int k = (unsigned int)rnd(DEVICES), op = (unsigned int)rnd(10);
		int hit, rc;

		len = SVIO_MIN(len, SPAN - off);
		fail_nth(rnd(8) == 0 ? 1 + (int)rnd(6) : 0);
		if (op < 5 && num_model < MAX_MAPS) {
			bool ask = rnd(2);

			hit = model_overlap(off, len);
			rc = svio_ioas_map(ioas, span + off, len, RW, -1, 0, ask ? &iova : NULL);
			fail_at = 0;
			wrong += (hit >= 0) != (rc == -EEXIST) && !(fail_hit && rc);
			if (rc == 0) {
				if (!ask)
					iova = settled ? svio_ioas_lookup(ioas, (uintptr_t)span + off, len) : SVIO_IOVA_BAD;
				wrong += settled && iova == SVIO_IOVA_BAD;
				model[num_model] = (struct model_map){ off, len, iova };
				wrong += iova != SVIO_IOVA_BAD && !superpage_kept(&model[num_model]);
				num_model++;
				done[0]++;
			}
		} else if (op < 7 && num_model) {
			hit = (int)rnd(num_model);
			fail_at = 0;
			if (rnd(3) == 0) { /* not quite it */
				rc = svio_ioas_unmap(ioas, span + model[hit].off, model[hit].len + 4096);
				wrong += rc != -EINVAL;
			} else {
				rc = svio_ioas_unmap(ioas, span + model[hit].off, model[hit].len);
				wrong += rc != 0;
				model[hit] = model[--num_model];
				done[1]++;
			}
		} else if (op < 9 && !attached[k]) {
			bool was_settled = settled;

			rc = svio_ioas_attach(ioas, DEV(&dev[k]));
			fail_at = 0;
			if (rc == 0) {
				attached[k] = settled = true;
				done[2]++;
				for (unsigned int i = 0; i < num_model && !was_settled; i++) {
					uint64_t now = svio_ioas_lookup(ioas, (uintptr_t)span + model[i].off, model[i].len);

					wrong += now == SVIO_IOVA_BAD || (model[i].iova != SVIO_IOVA_BAD && model[i].iova != now);
					model[i].iova = now;
					wrong += !superpage_kept(&model[i]);
				}
			} else {
				wrong += !fake_is_clean(&dev[k]);
				done[3]++;
			}
		} else if (attached[k]) {
			fail_at = 0;
			wrong += svio_ioas_detach(ioas, DEV(&dev[k])) != 0;
			attached[k] = false;
			done[4]++;
		}
		fail_at = 0;

		for (int i = 0; i < DEVICES; i++)
			wrong += attached[i] && !domain_agrees(dev[i].domain);
		for (int i = 0; i < 64; i++) {
			/* Any address, or one near the edge of a mapping. */
			uint64_t at = rnd(SPAN), n = rnd(4) ? 1 + rnd(8192) : 1 + rnd(2 * GIB);

			if (num_model && rnd(2)) {
				const struct model_map *m = &model[rnd(num_model)];

				at = (rnd(2) ? m->off : m->off + m->len) + rnd(8192);
				at = at < 4096 ? 0 : at - 4096;
				if (rnd(2))
					n = m->len > n ? m->len - rnd(SVIO_MIN(n, UINT64_C(8192))) : n;
			}
			wrong += svio_ioas_iova_range(ioas, span + at, n) != model_translate(at, n);
			wrong += svio_ioas_lookup(ioas, (uintptr_t)span + at, n) != model_translate(at, n);
			wrong += svio_ioas_iova(ioas, span + at) != model_translate(at, 1);
			done[5] += model_translate(at, n) != SVIO_IOVA_BAD;
		}
		if (wrong)
			printf(" step %u, op %u: model and room differ", step, op);
	}
	printf(" [%u maps, %u unmaps, %u attaches, %u refused, %u detaches, %u hits]", done[0], done[1], done[2], done[3],
	       done[4], done[5]);
	/* The sequence was worth something. */
	CU_ASSERT(done[0] > steps / 50 && done[1] > steps / 50 && done[2] > steps / 100 && done[3] > 0 && done[4] > steps / 100);
	CU_ASSERT(done[5] > steps);

	for (int i = 0; i < DEVICES; i++)
		if (attached[i])
			CU_ASSERT_EQUAL(svio_ioas_detach(ioas, DEV(&dev[i])), 0);
	CU_ASSERT_EQUAL(svio_ioas_destroy(ioas), 0);
	for (int i = 0; i < DEVICES; i++)
		CU_ASSERT(fake_is_clean(&dev[i]));
	return wrong;
}

static unsigned int steps = 3000;

static void test_identity(void)
{
	CU_ASSERT_EQUAL(run(SVIO_IOAS_NO_AUTO, steps), 0);
}

static void test_allocated(void)
{
	CU_ASSERT_EQUAL(run(SVIO_IOAS_NO_AUTO | SVIO_IOAS_NO_IDENTITY, steps), 0);
}

static const struct unit_test tests[] = {
	{ "random sequences, IOVA = VA where it fits", test_identity },
	{ "random sequences, IOVAs always allocated", test_allocated },
	{ NULL, NULL }
};

int main(int argc, char **argv)
{
	uint64_t s = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;

	seed = s ? s : 1;
	steps = argc > 2 ? (unsigned int)strtoul(argv[2], NULL, 0) : steps;
	span = addresses(SPAN, GIB);
	return unit_run("ioas/property", tests);
}
