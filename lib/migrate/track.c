/* SPDX-License-Identifier: BSD-3-Clause */
/* Which pages of the areas were written since the last look: a dirty set for each, over the address spaces of all devices. */
#include <stdio.h>
#include <string.h>
#include "migrate_priv.h"

static void describe(struct mg_move *x, const struct svio_dirty_info *info)
{
	static const char *const cpu[] = {
		[SVIO_DIRTY_CPU_OFF] = "nothing",
		[SVIO_DIRTY_CPU_WP_ASYNC] = "write protection",
		[SVIO_DIRTY_CPU_SOFT_DIRTY] = "soft-dirty bits",
	};

	snprintf(x->report->tracker, sizeof(x->report->tracker), "%s; devices: %u log, %u driver, %u iommu, %u none", cpu[info->cpu],
		 info->by_device, info->by_driver, info->by_iommu, info->uncovered);
}

int svio__mg_track_start(struct mg_move *x)
{
	struct svio_dirty_info info = { 0 };

	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next) {
		struct svio_dirty_opts opts = { .size = sizeof(opts), .space = SVIO_DIRTY_VA, .addr = (uint64_t)(uintptr_t)a->base,
						.len = a->bytes, .ioas = x->m->ioas, .num_ioas = x->m->num_ioas };
		int rc = svio_dirty_start(&opts, &a->set);

		if (rc)
			return svio_fail_prefix(rc, "area %s", a->name);
		svio_dirty_get_info(a->set, &info);
		if (info.cpu != SVIO_DIRTY_CPU_OFF)
			continue;
		/* Half an answer is none. */
		svio_dirty_stop(a->set);
		a->set = NULL;
		svio_log_warn("area %s: this kernel does not tell what the CPU writes: every page counts as written in every round", a->name);
	}
	describe(x, &info);
	return 0;
}

static int sync_area(struct svio_migrate_area *a, bool last)
{
	if (a->set && last)
		return svio_dirty_last(a->set, (uint64_t)(uintptr_t)a->base, a->bytes, a->dirty, NULL);
	if (a->set)
		return svio_dirty_sync(a->set, (uint64_t)(uintptr_t)a->base, a->bytes, a->dirty, NULL);
	svio_bitmap_set_range(a->dirty, 0, a->bytes / MG_PAGE);
	return 0;
}

int svio__mg_track_sync(struct mg_move *x, bool last, uint64_t *dirty_pages)
{
	*dirty_pages = 0;
	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next) {
		int rc = sync_area(a, last);

		if (rc)
			return svio_fail_prefix(rc, "area %s", a->name);
		*dirty_pages += svio_bitmap_weight(a->dirty, a->bytes / MG_PAGE);
	}
	return 0;
}

void svio__mg_track_stop(struct mg_move *x)
{
	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next) {
		svio_dirty_stop(a->set);
		a->set = NULL;
	}
}
