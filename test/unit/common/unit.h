/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What every CUnit program here shares: a table of tests becomes a suite, and main() is one line:
 *
 *	static const struct unit_test tests[] = {
 *		{ "an empty bitmap has no bits", test_empty },
 *		{ NULL, NULL }
 *	};
 *	int main(void) { return unit_run("base/bitmap", tests); }
 *
 * unit_run() prints CUnit's own summary and returns the number of failures (0 = success).
 */
#ifndef UNIT_H
#define UNIT_H

#include <CUnit/CUnit.h>

struct unit_test {
	const char *name;
	void (*fn)(void);
};

int unit_run(const char *suite, const struct unit_test *tests);

/* Open file descriptors and mappings of this process: compare before and after to prove that nothing leaks. */
int unit_count_fds(void);
int unit_count_maps(void);

#endif
