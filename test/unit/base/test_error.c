/* SPDX-License-Identifier: BSD-3-Clause */
/* The last error: per thread, preserved errno, bounded; the log: level, sink. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "svio_base.h"
#include "unit.h"

static void test_fail_records(void)
{
	errno = 77;
	CU_ASSERT_EQUAL(svio_fail(ENODEV, "%s: no such device", "x"), -ENODEV);
	CU_ASSERT_EQUAL(svio_fail(-ENODEV, "%s: no such device", "x"), -ENODEV);
	CU_ASSERT_EQUAL(errno, 77);
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "x: no such device");
	CU_ASSERT_EQUAL(svio_fail_prefix(-EIO, "opening %d", 3), -EIO);
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "opening 3: x: no such device");
	/* The old sentence may be an argument of the new one. */
	svio_fail(EIO, "again: %s", svio_last_error());
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "again: opening 3: x: no such device");
	svio_clear_error();
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "");
}

static void test_long_text_is_cut(void)
{
	char big[2 * SVIO_ERROR_MAX];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	svio_fail(EIO, "%s", big);
	CU_ASSERT_EQUAL(strlen(svio_last_error()), SVIO_ERROR_MAX - 1);
	svio_fail_prefix(-EIO, "%s", "front");
	CU_ASSERT_EQUAL(strlen(svio_last_error()), SVIO_ERROR_MAX - 1);
	CU_ASSERT_EQUAL(strncmp(svio_last_error(), "front: aaa", 10), 0);
}

static void *other_thread(void *arg)
{
	*(bool *)arg = svio_last_error()[0] == '\0';
	svio_fail(EIO, "other");
	return NULL;
}

static void test_threads_are_separate(void)
{
	bool empty = false;
	pthread_t t;

	svio_fail(EIO, "mine");
	CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, other_thread, &empty), 0);
	pthread_join(t, NULL);
	CU_ASSERT_TRUE(empty);
	CU_ASSERT_STRING_EQUAL(svio_last_error(), "mine");
}

static struct {
	int lines;
	enum svio_log_level level;
	char text[64];
} seen;

static void sink(void *ctx, enum svio_log_level level, const char *line)
{
	CU_ASSERT_PTR_EQUAL(ctx, &seen);
	seen.lines++;
	seen.level = level;
	snprintf(seen.text, sizeof(seen.text), "%s", line);
	errno = 5;
}

static void test_log(void)
{
	svio_log_set(SVIO_LOG_INFO, sink, &seen);
	errno = 3;
	svio_log_info("n=%d", 4);
	CU_ASSERT_EQUAL(errno, 3);
	CU_ASSERT_EQUAL(seen.lines, 1);
	CU_ASSERT_EQUAL(seen.level, SVIO_LOG_INFO);
	CU_ASSERT_STRING_EQUAL(seen.text, "n=4");
	svio_log_debug("%s", "not at this level");
	CU_ASSERT_EQUAL(seen.lines, 1);
	svio_log_set(SVIO_LOG_WARN, NULL, NULL);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{ "svio_fail records, prefixes and keeps errno", test_fail_records },
		{ "long sentences are cut, not overrun", test_long_text_is_cut },
		{ "each thread has its own", test_threads_are_separate },
		{ "log level and sink", test_log },
		{ NULL, NULL },
	};

	return unit_run("base/error", tests);
}
