/* SPDX-License-Identifier: BSD-3-Clause */
/* Which way to watch the CPU, and how many want it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dirty_priv.h"

static const struct dirty_cpu *const ways[] = { &svio__dirty_uffd, &svio__dirty_soft }; /* the better first */
static const struct dirty_cpu *cpu;
static unsigned int users;

int svio__dirty_cpu_get(const struct dirty_cpu **cpup)
{
	char why[2][200] = { "", "" };
	int rc = -EOPNOTSUPP;

	for (size_t i = 0; !cpu && i < SVIO_ARRAY_SIZE(ways); i++) {
		if (i == 0 && getenv("SVIO_DIRTY_SOFT")) { /* for tests of the other way */
			svio_fail(EOPNOTSUPP, "SVIO_DIRTY_SOFT is set");
			snprintf(why[i], sizeof(why[i]), "%s", svio_last_error());
			continue;
		}
		rc = ways[i]->open();
		if (rc == 0)
			cpu = ways[i];
		else if (rc != -EOPNOTSUPP)
			return rc;
		else
			snprintf(why[i], sizeof(why[i]), "%s", svio_last_error());
	}
	if (!cpu)
		return svio_fail(EOPNOTSUPP, "writes of the CPU cannot be watched: %s; %s", why[0], why[1]);
	users++;
	*cpup = cpu;
	return 0;
}

void svio__dirty_cpu_put(void)
{
	if (--users == 0) {
		cpu->close();
		cpu = NULL;
	}
}

enum svio_dirty_cpu svio_dirty_cpu_probe(const char **why)
{
	static _Thread_local char text[256];
	const struct dirty_cpu *c;
	enum svio_dirty_cpu kind = SVIO_DIRTY_CPU_OFF;

	text[0] = '\0';
	svio__dirty_lock();
	if (svio__dirty_cpu_get(&c) == 0) {
		kind = c->kind;
		svio__dirty_cpu_put();
	}
	if (kind != SVIO_DIRTY_CPU_WP_ASYNC)
		snprintf(text, sizeof(text), "%s", svio_last_error());
	svio__dirty_unlock();
	if (why)
		*why = text;
	return kind;
}

int svio__dirty_each_vma(uint64_t start, uint64_t end, int (*fn)(void *ctx, const struct dirty_vma *vma), void *ctx)
{
	FILE *f = fopen("/proc/self/maps", "re");
	struct dirty_vma vma;
	char line[512];
	bool more = false; /* the rest of a line longer than ours */
	int rc = 0;

	if (!f)
		return svio_fail(errno, "/proc/self/maps: %s; is /proc mounted?", strerror(errno));
	while (rc == 0 && fgets(line, sizeof(line), f)) {
		bool first = !more;

		more = !strchr(line, '\n');
		if (!first || sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &vma.start, &vma.end, vma.perms) != 3)
			continue;
		if (vma.start >= end)
			break;
		if (vma.end > start)
			rc = fn(ctx, &vma);
	}
	fclose(f);
	return rc;
}
