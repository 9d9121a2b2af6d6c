/* SPDX-License-Identifier: BSD-3-Clause */
/* The process's log: a level and a sink, both the application's choice. */
#include <stdio.h>
#include "svio_base.h"

static enum svio_log_level log_level = SVIO_LOG_WARN;
static svio_log_fn log_fn;
static void *log_ctx;

void svio_log_set(enum svio_log_level level, svio_log_fn fn, void *ctx)
{
	log_level = level;
	log_fn = fn;
	log_ctx = ctx;
}

bool svio_log_enabled(enum svio_log_level level)
{
	return level <= log_level;
}

void svio_log(enum svio_log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[1024];
	int saved = errno;
	va_list ap;

	if (!svio_log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (log_fn)
		log_fn(log_ctx, level, line);
	else
		fprintf(stderr, "svio: %s: %s\n", names[level], line);
	errno = saved;
}
