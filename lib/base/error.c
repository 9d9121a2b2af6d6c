/* SPDX-License-Identifier: BSD-3-Clause */
/* The last failure of each thread, as a sentence. */
#include <stdio.h>
#include <string.h>
#include "svio_base.h"

static _Thread_local char last_error[SVIO_ERROR_MAX];

int svio_fail(int err, const char *fmt, ...)
{
	char text[SVIO_ERROR_MAX]; /* the arguments may point into last_error */
	int saved = errno;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(last_error, text, sizeof(text));
	svio_log_debug("error %d: %s", err < 0 ? -err : err, last_error);
	errno = saved;
	return err < 0 ? err : -err;
}

int svio_fail_prefix(int err, const char *fmt, ...)
{
	char text[SVIO_ERROR_MAX];
	int saved = errno, n;
	va_list ap;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n, ": %.*s",
			 (int)(sizeof(text) - (size_t)n), last_error);
	memcpy(last_error, text, sizeof(text));
	errno = saved;
	return err;
}

const char *svio_last_error(void)
{
	return last_error;
}

void svio_clear_error(void)
{
	last_error[0] = '\0';
}
