/* SPDX-License-Identifier: BSD-3-Clause */
/* What a migration tells: as JSON (which is what goes over the control socket), for people, and as a picture of its rounds. */
#ifndef SVIO_MIGRATE_REPORT_H
#define SVIO_MIGRATE_REPORT_H

#include "cli.h"
#include "svio_migrate.h"

/* ok, or the error's words (why; NULL: none). */
struct json_object *migrate_report_json(const struct svio_migrate_report *r, bool ok, const char *why);
/* One line of progress; buf of 160 bytes. */
char *migrate_progress_text(struct json_object *report, char *buf, size_t size);
void migrate_report_text(struct json_object *report, FILE *out);
/* migrate_svg.c. Bars: bytes and time of each round, stop-and-copy in another colour; line: what was left after it. */
int migrate_report_svg(struct json_object *report, const char *path);

#endif
