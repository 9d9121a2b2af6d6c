/* SPDX-License-Identifier: BSD-3-Clause */
/* Which pages were written since the last look. */
#include <stdio.h>
#include <string.h>
#include "migrate_priv.h"

int svio__mg_track_start(struct mg_move *x)
{
	snprintf(x->report->tracker, sizeof(x->report->tracker), "none: every page counts as written");
	return 0;
}

int svio__mg_track_sync(struct mg_move *x, uint64_t *dirty_pages)
{
	*dirty_pages = 0;
	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next) {
		svio_bitmap_set_range(a->dirty, 0, a->bytes / MG_PAGE);
		*dirty_pages += a->bytes / MG_PAGE;
	}
	return 0;
}

void svio__mg_track_stop(struct mg_move *x)
{
	(void)x;
}
