/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sets. Sources report and clear at once; what they report goes into the pending bitmaps of all sets that want it, so that one
 * set's sync takes nothing from another. A sync collects from the sources, and then takes the pending bits of its range.
 *
 * Everything runs under one lock; start and stop also under another, outside of it, since they enter ioases.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "dirty_priv.h"

#define MAX_LEN	 (UINT64_C(16) << 40)
#define MAX_PAGE (UINT64_C(1) << 30)
#define DMA_SOURCES (SVIO_DIRTY_DRIVER | SVIO_DIRTY_DEVICE | SVIO_DIRTY_IOMMU)

struct svio_dirty {
	enum svio_dirty_space space;
	uint64_t addr, len;
	unsigned int shift; /* of page_size */
	uint32_t sources;
	const struct dirty_cpu *cpu; /* NULL: not watched */
	char why_no_cpu[160];
	struct dirty_as **as;
	uint32_t num_as;
	uint64_t *pending; /* mapped; only what is written takes memory */
	uint64_t coarse, unseen;
	struct svio_dirty *next;
};

/* VA spans to collect. */
struct spans {
	struct dirty_span *v;
	size_t n, cap;
};

static pthread_mutex_t change = PTHREAD_MUTEX_INITIALIZER; /* start and stop */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct svio_dirty *sets;
static struct svio_dirty *syncing; /* whose coarse bytes are counted */
static uint64_t sync_addr, sync_len;
static bool guessing; /* what is handed out now is not known to be written */

void svio__dirty_lock(void)
{
	pthread_mutex_lock(&lock);
}

void svio__dirty_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* ---- what was found goes to the sets ------------------------------------------------------------------- */

static bool clip(uint64_t *start, uint64_t *len, uint64_t addr, uint64_t n)
{
	uint64_t last = SVIO_MIN(*start + (*len - 1), addr + (n - 1));

	*start = SVIO_MAX(*start, addr);
	*len = last - *start + 1;
	return *start <= last;
}

/* In the set's own addresses. */
static void pend(struct svio_dirty *set, uint64_t start, uint64_t len)
{
	uint64_t first, last;

	if (!clip(&start, &len, set->addr, set->len))
		return;
	if (guessing && set == syncing) {
		uint64_t a = start, n = len;

		set->coarse += clip(&a, &n, sync_addr, sync_len) ? n : 0;
	}
	first = (start - set->addr) >> set->shift;
	last = (start - set->addr + (len - 1)) >> set->shift;
	if (first == last)
		svio_bitmap_set(set->pending, first);
	else
		svio_bitmap_set_range(set->pending, first, last - first + 1);
}

/* [va, va + len), wherever an IOVA of the set leads there. */
static void pend_va(struct svio_dirty *set, uint64_t va, uint64_t len)
{
	const struct dirty_as *as;

	if (set->space == SVIO_DIRTY_VA) {
		pend(set, va, len);
		return;
	}
	as = set->as[0];
	for (size_t i = svio__dirty_find_va(as, va); i < as->by_va.n && as->by_va.v[i].va < va + len; i++) {
		const struct dirty_seg *s = &as->by_va.v[i];
		uint64_t a = va, n = len;

		if (clip(&a, &n, s->va, s->len))
			pend(set, s->iova + (a - s->va), n);
	}
}

static void pend_iova(struct svio_dirty *set, const struct dirty_as *as, uint64_t iova, uint64_t len)
{
	if (set->space == SVIO_DIRTY_IOVA) {
		pend(set, iova, len);
		return;
	}
	for (size_t i = svio__dirty_find_iova(as, iova);
	     i < as->by_iova.n && as->by_iova.v[i].iova <= iova + (len - 1); i++) {
		const struct dirty_seg *s = &as->by_iova.v[i];
		uint64_t a = iova, n = len;

		if (clip(&a, &n, s->iova, s->len))
			pend(set, s->va + (a - s->iova), n);
	}
}

static void found_by_cpu(void *ctx, uint64_t va, uint64_t len)
{
	(void)ctx;
	for (struct svio_dirty *set = sets; set; set = set->next)
		if (set->cpu)
			pend_va(set, va, len);
}

static void found_in_table(void *ctx, uint64_t va, uint64_t len)
{
	(void)ctx;
	for (struct svio_dirty *set = sets; set; set = set->next)
		if (set->num_as && (set->sources & DMA_SOURCES))
			pend_va(set, va, len);
}

static bool uses(const struct svio_dirty *set, const struct dirty_as *as)
{
	for (uint32_t i = 0; i < set->num_as; i++)
		if (set->as[i] == as)
			return true;
	return false;
}

uint32_t svio__dirty_wanted(const struct dirty_as *as, const struct dirty_dev *d)
{
	uint32_t wanted = 0;

	for (const struct svio_dirty *set = sets; set; set = set->next)
		if (uses(set, as))
			wanted |= svio__dirty_choose(d, set->sources);
	return wanted;
}

void svio__dirty_written(struct dirty_as *as, const struct dirty_dev *d, uint32_t source, uint64_t iova, uint64_t len)
{
	guessing = source == 0 || source == SVIO_DIRTY_IOMMU;
	for (struct svio_dirty *set = sets; set; set = set->next)
		if (uses(set, as) && (set->sources & DMA_SOURCES) && svio__dirty_choose(d, set->sources) == source)
			pend_iova(set, as, iova, len);
	guessing = false;
}

void svio__dirty_mapped(struct dirty_as *as, const struct dirty_seg *seg)
{
	/* For whoever looks at IOVAs, everything there is new. */
	for (struct svio_dirty *set = sets; set; set = set->next)
		if (set->space == SVIO_DIRTY_IOVA && uses(set, as))
			pend(set, seg->iova, seg->len);
}

/* ---- collect ----------------------------------------------------------------------------------------------- */

static int span_add(struct spans *s, uint64_t va, uint64_t len)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 16;
		struct dirty_span *v = reallocarray(s->v, cap, sizeof(*v));

		if (!v)
			return svio_fail(ENOMEM, "no memory to look at %zu pieces of memory", cap);
		s->v = v;
		s->cap = cap;
	}
	s->v[s->n++] = (struct dirty_span){ va, len };
	return 0;
}

/* The process's memory in a range of the set. */
static int spans_of(struct spans *s, const struct svio_dirty *set, uint64_t addr, uint64_t len)
{
	const struct dirty_as *as;
	int rc = 0;

	if (set->space == SVIO_DIRTY_VA)
		return span_add(s, addr, len);
	as = set->as[0];
	for (size_t i = svio__dirty_find_iova(as, addr);
	     rc == 0 && i < as->by_iova.n && as->by_iova.v[i].iova <= addr + (len - 1); i++) {
		const struct dirty_seg *seg = &as->by_iova.v[i];
		uint64_t a = addr, n = len;

		if (clip(&a, &n, seg->iova, seg->len))
			rc = span_add(s, seg->va + (a - seg->iova), n);
	}
	return rc;
}

static int collect_cpu(const struct dirty_cpu *cpu, const struct dirty_span *v, size_t n, bool last, uint64_t *unseen)
{
	struct spans all = { 0 };
	int rc = 0;

	if (!cpu->global)
		return cpu->collect(v, n, last, found_by_cpu, NULL, unseen);
	for (const struct svio_dirty *set = sets; set && rc == 0; set = set->next)
		if (set->cpu)
			rc = spans_of(&all, set, set->addr, set->len);
	if (rc == 0)
		rc = cpu->collect(all.v, all.n, last, found_by_cpu, NULL, unseen);
	free(all.v);
	return rc;
}

void svio__dirty_unmapping(struct dirty_as *as, const struct dirty_seg *seg)
{
	const struct dirty_span span = { seg->va, seg->len };
	const struct dirty_cpu *cpu = NULL;
	uint64_t unseen = 0;
	bool table = false;

	/* Sets of IOVAs find the way from the addresses to their bits for the last time. */
	for (const struct svio_dirty *set = sets; set; set = set->next)
		if (set->space == SVIO_DIRTY_IOVA && uses(set, as)) {
			cpu = set->cpu ? set->cpu : cpu;
			table = true;
		}
	if (table) {
		svio__dirty_as_touch(as);
		svio__dirty_table_collect(&span, found_in_table, NULL);
	}
	if (!cpu || collect_cpu(cpu, &span, 1, false, &unseen) == 0)
		return;
	svio_log_warn("%s: memory that is unmapped now counts as written", svio_last_error());
	found_by_cpu(NULL, seg->va, seg->len);
}

static int collect(struct svio_dirty *set, uint64_t addr, uint64_t len, bool last)
{
	struct spans s = { 0 };
	uint64_t unseen = 0;
	int rc = spans_of(&s, set, addr, len);

	if (rc)
		goto out;
	if (set->num_as && (set->sources & DMA_SOURCES)) {
		for (uint32_t i = 0; i < set->num_as; i++)
			svio__dirty_as_touch(set->as[i]);
		for (size_t i = 0; i < s.n; i++)
			svio__dirty_table_collect(&s.v[i], found_in_table, NULL);
		for (uint32_t i = 0; i < set->num_as; i++) {
			if (set->space == SVIO_DIRTY_IOVA) {
				svio__dirty_as_collect(set->as[i], addr, len);
				continue;
			}
			/* The mappings of this memory. */
			for (size_t k = svio__dirty_find_va(set->as[i], addr);
			     k < set->as[i]->by_va.n && set->as[i]->by_va.v[k].va < addr + len; k++) {
				const struct dirty_seg *seg = &set->as[i]->by_va.v[k];
				uint64_t a = addr, n = len;

				if (clip(&a, &n, seg->va, seg->len))
					svio__dirty_as_collect(set->as[i], seg->iova + (a - seg->va), n);
			}
		}
	}
	if (set->cpu)
		rc = collect_cpu(set->cpu, s.v, s.n, last, &unseen);
	set->unseen = unseen;
out:
	free(s.v);
	return rc;
}

/* ---- start and stop ------------------------------------------------------------------------------------- */

static int check(const struct svio_dirty_opts *o, uint64_t page)
{
	if (page < SVIO_DIRTY_PAGE || page > MAX_PAGE || (page & (page - 1)))
		return svio_fail(EINVAL, "opts.page_size %" PRIu64 ": a power of two from 4096 to 1 GiB", page);
	if (o->len == 0 || o->len > MAX_LEN || (o->addr | o->len) & (page - 1) || o->addr + (o->len - 1) < o->addr)
		return svio_fail(EINVAL, "range 0x%" PRIx64 "+0x%" PRIx64 ": whole pages of %" PRIu64 " bytes, at most 16 TiB", o->addr,
				 o->len, page);
	if (o->space != SVIO_DIRTY_VA && o->space != SVIO_DIRTY_IOVA)
		return svio_fail(EINVAL, "opts.space %d is not an enum svio_dirty_space", (int)o->space);
	if (o->sources & ~(uint32_t)SVIO_DIRTY_ALL_SOURCES)
		return svio_fail(EINVAL, "opts.sources 0x%x has bits that are not in enum svio_dirty_source", o->sources);
	if (o->space == SVIO_DIRTY_IOVA && o->num_ioas != 1)
		return svio_fail(EINVAL, "IOVAs are those of one ioas; opts.num_ioas is %u", o->num_ioas);
	if (o->num_ioas && !o->ioas)
		return svio_fail(EINVAL, "opts.ioas is NULL, and opts.num_ioas %u", o->num_ioas);
	if (o->space == SVIO_DIRTY_VA && (o->addr + (o->len - 1)) >> 48)
		return svio_fail(EINVAL, "range 0x%" PRIx64 "+0x%" PRIx64 " is above 48 bits of address", o->addr, o->len);
	return 0;
}

static size_t pending_bytes(const struct svio_dirty *set)
{
	return SVIO_BITMAP_WORDS(set->len >> set->shift) * sizeof(uint64_t);
}

static struct svio_dirty *set_new(const struct svio_dirty_opts *o, uint64_t page)
{
	struct svio_dirty *set = calloc(1, sizeof(*set));

	if (!set)
		return NULL;
	set->space = o->space;
	set->addr = o->addr;
	set->len = o->len;
	set->shift = (unsigned int)__builtin_ctzll(page);
	set->sources = o->sources ? o->sources : SVIO_DIRTY_ALL_SOURCES;
	set->as = calloc(o->num_ioas + 1, sizeof(struct dirty_as *));
	set->pending = mmap(NULL, pending_bytes(set), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!set->as || set->pending == MAP_FAILED) {
		if (set->pending != MAP_FAILED)
			munmap(set->pending, pending_bytes(set));
		free(set->as);
		free(set);
		return NULL;
	}
	return set;
}

/* Memory that no other set may look at need not be protected any more: a convenience, since protection is only slow. */
static void forget_cpu(const struct svio_dirty *set)
{
	struct spans s = { 0 };
	int rc = spans_of(&s, set, set->addr, set->len);

	for (size_t i = 0; i < s.n && rc == 0; i++) {
		bool shared = false;

		for (const struct svio_dirty *o = sets; o && !shared; o = o->next)
			shared = o->cpu && (o->space == SVIO_DIRTY_IOVA ||
					    (o->addr < s.v[i].va + s.v[i].len && s.v[i].va < o->addr + o->len));
		if (!shared)
			set->cpu->forget(&s.v[i]);
	}
	free(s.v);
}

/* Off the list, its sources off, and gone. With the change lock only. */
static void set_free(struct svio_dirty *set, bool table)
{
	struct svio_dirty **p;

	svio__dirty_lock();
	for (p = &sets; *p && *p != set; p = &(*p)->next)
		;
	if (*p)
		*p = set->next;
	if (set->cpu) {
		forget_cpu(set);
		svio__dirty_cpu_put();
	}
	svio__dirty_unlock();
	for (uint32_t i = 0; i < set->num_as; i++) {
		struct dirty_as *as = set->as[i];
		bool last;

		svio__dirty_lock();
		svio__dirty_as_cover(as);
		last = svio__dirty_as_put(as);
		svio__dirty_unlock();
		if (last) {
			svio_ioas_watch_remove(as->ioas, &as->watch);
			svio__dirty_as_free(as);
		}
	}
	if (table) {
		svio__dirty_lock();
		svio__dirty_table_put();
		svio__dirty_unlock();
	}
	munmap(set->pending, pending_bytes(set));
	free(set->as);
	free(set);
}

static int watch_ioas(struct svio_dirty *set, struct svio_ioas *ioas)
{
	struct dirty_as *as;
	bool fresh;

	if (!ioas)
		return svio_fail(EINVAL, "opts.ioas has a NULL in it");
	svio__dirty_lock();
	as = svio__dirty_as_get(ioas, &fresh);
	svio__dirty_unlock();
	if (!as)
		return svio_fail(ENOMEM, "no memory to follow an I/O address space");
	set->as[set->num_as++] = as;
	if (fresh)
		svio_ioas_watch_add(ioas, &as->watch);
	return 0;
}

/* The CPU: an error only when it was asked for by name. */
static int watch_cpu(struct svio_dirty *set, bool by_name)
{
	int rc;

	if (!(set->sources & SVIO_DIRTY_CPU))
		return 0;
	svio__dirty_lock();
	rc = svio__dirty_cpu_get(&set->cpu);
	svio__dirty_unlock();
	if (rc != -EOPNOTSUPP || by_name)
		return rc;
	snprintf(set->why_no_cpu, sizeof(set->why_no_cpu), "%s", svio_last_error());
	svio_log_warn("%s", set->why_no_cpu);
	return 0;
}

int svio_dirty_start(const struct svio_dirty_opts *opts, struct svio_dirty **setp)
{
	struct svio_dirty_opts o = { 0 };
	struct svio_dirty *set;
	uint64_t page;
	bool table = false;
	int rc;

	if (!opts || opts->size < sizeof(o))
		return svio_fail(EINVAL, "opts.size: set it to sizeof(struct svio_dirty_opts)");
	o = *opts;
	page = o.page_size ? o.page_size : SVIO_DIRTY_PAGE;
	rc = check(&o, page);
	if (rc)
		return rc;
	pthread_mutex_lock(&change);
	set = set_new(&o, page);
	if (!set) {
		rc = svio_fail(ENOMEM, "no memory for a dirty set of %" PRIu64 " pages", o.len / page);
		goto out;
	}
	rc = watch_cpu(set, o.sources != 0);
	if (rc == 0 && o.num_ioas) {
		svio__dirty_lock();
		rc = svio__dirty_table_get();
		svio__dirty_unlock();
		table = rc == 0;
	}
	for (uint32_t i = 0; i < o.num_ioas && rc == 0; i++)
		rc = watch_ioas(set, o.ioas[i]);
	if (rc == 0) {
		svio__dirty_lock();
		set->next = sets;
		sets = set;
		for (uint32_t i = 0; i < set->num_as; i++)
			svio__dirty_as_cover(set->as[i]);
		/* Once, so that everything is watched; what lies before does not count, but for others it does. */
		rc = collect(set, set->addr, set->len, false);
		madvise(set->pending, pending_bytes(set), MADV_DONTNEED);
		svio__dirty_unlock();
	}
	if (rc == 0)
		*setp = set;
	else
		set_free(set, table);
out:
	pthread_mutex_unlock(&change);
	return rc;
}

void svio_dirty_stop(struct svio_dirty *set)
{
	if (!set)
		return;
	pthread_mutex_lock(&change);
	set_free(set, set->num_as != 0);
	pthread_mutex_unlock(&change);
}

/* ---- sync --------------------------------------------------------------------------------------------------- */

/* Move the bits of n pages from `first` on to the bitmap; how many there were. */
static uint64_t take(struct svio_dirty *set, uint64_t first, uint64_t n, uint64_t *bitmap)
{
	uint64_t a, b, count = 0, end = first + n;

	/* Aligned, mostly: whole words. */
	for (; first % 64 == 0 && n >= 64; first += 64, n -= 64, bitmap++) {
		uint64_t got = set->pending[first / 64];

		if (!got)
			continue;
		set->pending[first / 64] = 0;
		*bitmap |= got;
		count += (uint64_t)__builtin_popcountll(got);
	}
	for (a = svio_bitmap_next_set(set->pending, end, first); a < end; a = svio_bitmap_next_set(set->pending, end, b)) {
		b = svio_bitmap_next_clear(set->pending, end, a);
		svio_bitmap_set_range(bitmap, a - first, b - a);
		svio_bitmap_clear_range(set->pending, a, b - a);
		count += b - a;
	}
	return count;
}

static int sync_range(struct svio_dirty *set, uint64_t addr, uint64_t len, bool last, uint64_t *bitmap, uint64_t *pages)
{
	uint64_t page = UINT64_C(1) << set->shift, count = 0;
	int rc;

	if (len == 0 || addr < set->addr || (addr | len) & (page - 1) || addr - set->addr >= set->len ||
	    len > set->len - (addr - set->addr))
		return svio_fail(EINVAL, "0x%" PRIx64 "+0x%" PRIx64 " is not made of pages of the set 0x%" PRIx64 "+0x%" PRIx64, addr, len,
				 set->addr, set->len);
	svio__dirty_lock();
	syncing = set;
	sync_addr = addr;
	sync_len = len;
	set->coarse = 0;
	rc = collect(set, addr, len, last);
	syncing = NULL;
	for (uint32_t i = 0; i < set->num_as; i++)
		if (set->as[i]->lost) {
			pend(set, addr, len);
			set->coarse += len;
		}
	if (rc == 0)
		count = take(set, (addr - set->addr) >> set->shift, len >> set->shift, bitmap);
	svio__dirty_unlock();
	if (rc == 0 && pages)
		*pages = count;
	return rc;
}

int svio_dirty_sync(struct svio_dirty *set, uint64_t addr, uint64_t len, uint64_t *bitmap, uint64_t *pages)
{
	return sync_range(set, addr, len, false, bitmap, pages);
}

int svio_dirty_last(struct svio_dirty *set, uint64_t addr, uint64_t len, uint64_t *bitmap, uint64_t *pages)
{
	return sync_range(set, addr, len, true, bitmap, pages);
}

/* ---- info ---------------------------------------------------------------------------------------------------- */

static void count_devices(const struct svio_dirty *set, struct svio_dirty_info *info)
{
	for (uint32_t i = 0; i < set->num_as; i++) {
		info->rearmed += set->as[i]->rearmed;
		if (set->as[i]->lost && !info->why[0])
			snprintf(info->why, sizeof(info->why), "there was no memory to follow the mappings");
		for (const struct dirty_dev *d = set->as[i]->devs; d; d = d->next) {
			const char *coarse = "nothing tells what it writes";

			info->devices++;
			switch (svio__dirty_choose(d, set->sources)) {
			case SVIO_DIRTY_DEVICE:
				info->by_device++;
				continue;
			case SVIO_DIRTY_DRIVER:
				info->by_driver++;
				continue;
			case SVIO_DIRTY_IOMMU:
				info->by_iommu++;
				coarse = "the IOMMU's bitmap is coarse";
				break;
			default:
				info->uncovered++;
				break;
			}
			if (!info->why[0])
				snprintf(info->why, sizeof(info->why), "%s: %s%s%.100s", svio_device_name(d->dev), coarse,
					 d->why[0] ? "; " : "", d->why);
		}
	}
}

void svio_dirty_get_info(struct svio_dirty *set, struct svio_dirty_info *info)
{
	*info = (struct svio_dirty_info){ 0 };
	svio__dirty_lock();
	info->cpu = set->cpu ? set->cpu->kind : SVIO_DIRTY_CPU_OFF;
	if ((set->sources & SVIO_DIRTY_CPU) && !set->cpu)
		snprintf(info->why, sizeof(info->why), "%s", set->why_no_cpu);
	info->coarse_bytes = set->coarse;
	info->unseen_bytes = set->unseen;
	if (set->unseen && !info->why[0])
		snprintf(info->why, sizeof(info->why), "%" PRIu64 " KiB of memory cannot be write protected", set->unseen >> 10);
	if (set->sources & DMA_SOURCES)
		count_devices(set, info);
	info->exact = !info->why[0];
	svio__dirty_unlock();
}
