/* SPDX-License-Identifier: BSD-3-Clause */
/* Fault injection: take the device away from under a running load. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "perf_disturb.h"

/* PCI command register: PCIe 5.0 §7.5.1.1.3. */
#define PCI_COMMAND	   0x04
#define PCI_COMMAND_MEMORY UINT32_C(0x2)

#define HOLD_MS	   200
#define RECOVER_MS 20000
#define LOOK_NS	   UINT64_C(1000000)
#define MS	   UINT64_C(1000000)

struct perf_disturber {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop; /* lock */
	_Atomic bool finished;
	struct perf_disturb_spec *specs;
	uint32_t count;
	struct svio_device *dev;
	struct svio_nvme *nvme;
	const struct perf *perf;
	uint64_t period_ns;
};

/* Sleep until then. False when it is time to end. */
static bool sleep_until(struct perf_disturber *d, uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000),
			       .tv_nsec = (long)(ns % 1000000000) };
	bool go_on;

	pthread_mutex_lock(&d->lock);
	while (!d->stop && svio_now_ns() < ns)
		pthread_cond_timedwait(&d->wake, &d->lock, &ts);
	go_on = !d->stop;
	pthread_mutex_unlock(&d->lock);
	return go_on && !svio_nvme_gone(d->nvme);
}

static uint64_t completed(const struct perf *perf)
{
	struct perf_sample s;

	perf_sample(perf, &s);
	return s.ops[PERF_OP_READ] + s.ops[PERF_OP_WRITE];
}

static uint64_t interruptions(struct svio_nvme *nvme)
{
	struct svio_nvme_stats s;

	svio_nvme_get_stats(nvme, &s);
	return s.revocations + s.resets;
}

static bool wait_noticed(struct perf_disturber *d, uint64_t before, uint64_t limit_ms)
{
	uint64_t end = svio_now_ns() + limit_ms * MS;

	while (interruptions(d->nvme) == before) {
		if (svio_now_ns() >= end || !sleep_until(d, svio_now_ns() + LOOK_NS))
			return false;
	}
	return true;
}

static bool wait_recovered(struct perf_disturber *d)
{
	uint64_t end = svio_now_ns() + RECOVER_MS * MS, before = completed(d->perf);

	while (!svio_nvme_ready(d->nvme) || completed(d->perf) == before)
		if (svio_now_ns() >= end || !sleep_until(d, svio_now_ns() + LOOK_NS))
			return false;
	return true;
}

static int disturb_decode(struct perf_disturber *d, bool *noticed)
{
	uint64_t before = interruptions(d->nvme);
	uint32_t command;
	int rc, back;

	rc = svio_device_config_read(d->dev, PCI_COMMAND, 2, &command);
	if (rc)
		return rc;
	rc = svio_device_config_write(d->dev, PCI_COMMAND, 2, command & ~PCI_COMMAND_MEMORY);
	if (!rc)
		*noticed = wait_noticed(d, before, HOLD_MS);
	back = svio_device_config_write(d->dev, PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY);
	return rc ? rc : back;
}

static int disturb_once(struct perf_disturber *d, enum perf_disturb_kind kind, bool *noticed)
{
	uint64_t before = interruptions(d->nvme);
	int rc;

	if (kind == PERF_DISTURB_DECODE)
		return disturb_decode(d, noticed);
	rc = kind == PERF_DISTURB_RESET ? svio_device_reset(d->dev) : svio_nvme_reset(d->nvme);
	if (!rc)
		*noticed = wait_noticed(d, before, RECOVER_MS);
	return rc;
}

/* The one that has done the least of its share, or NULL when all have done theirs. */
static struct perf_disturb_spec *next_spec(struct perf_disturber *d)
{
	struct perf_disturb_spec *best = NULL;

	for (uint32_t i = 0; i < d->count; i++) {
		struct perf_disturb_spec *s = &d->specs[i];

		if (s->done + s->failed < s->count &&
		    (!best || (uint64_t)(s->done + s->failed) * best->count <
				      (uint64_t)(best->done + best->failed) * s->count))
			best = s;
	}
	return best;
}

static void *disturber_main(void *arg)
{
	struct perf_disturber *d = arg;
	struct perf_disturb_spec *s;
	uint64_t start = svio_now_ns(), left = 1, turn = 0;

	for (uint32_t i = 0; i < d->count; i++)
		left += d->specs[i].count - d->specs[i].done - d->specs[i].failed;
	while ((s = next_spec(d))) {
		bool noticed = false;
		int rc;

		if (!sleep_until(d, start + ++turn * d->period_ns / left))
			break;
		rc = disturb_once(d, s->kind, &noticed);
		if (rc)
			svio_log_warn("%s: %s", perf_disturb_name(s->kind), svio_last_error());
		if (rc == 0 && wait_recovered(d)) {
			s->done++;
			s->noticed += noticed;
		} else if (sleep_until(d, 0)) {
			s->failed++;
		}
	}
	atomic_store(&d->finished, s == NULL);
	return NULL;
}

int perf_disturb_start(struct perf_disturb_spec *specs, uint32_t count, struct svio_device *dev,
		       struct svio_nvme *nvme, const struct perf *perf, uint64_t period_ns,
		       struct perf_disturber **dp)
{
	struct perf_disturber *d = calloc(1, sizeof(*d));
	pthread_condattr_t attr;
	int rc;

	if (!d)
		return -ENOMEM;
	d->specs = specs;
	d->count = count;
	d->dev = dev;
	d->nvme = nvme;
	d->perf = perf;
	d->period_ns = period_ns;
	pthread_mutex_init(&d->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* svio_now_ns() */
	pthread_cond_init(&d->wake, &attr);
	pthread_condattr_destroy(&attr);
	rc = pthread_create(&d->thread, NULL, disturber_main, d);
	if (rc) {
		pthread_cond_destroy(&d->wake);
		pthread_mutex_destroy(&d->lock);
		free(d);
		return svio_fail(rc, "cannot start a thread: %s", strerror(rc));
	}
	*dp = d;
	return 0;
}

bool perf_disturb_finished(const struct perf_disturber *d)
{
	return atomic_load(&d->finished);
}

void perf_disturb_stop(struct perf_disturber *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_cond_signal(&d->wake);
	pthread_mutex_unlock(&d->lock);
	pthread_join(d->thread, NULL);
	pthread_cond_destroy(&d->wake);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/*
 * VFIO's mappings are of files named "anon_inode:[vfio-device]" (group) or /dev/vfio/devices/… (cdev). proc(5): the
 * first word of a line is the range, the sixth the name. Adjacent lines are one mapping that was replaced in parts.
 */
char *perf_device_mappings(void)
{
	unsigned long start, end, last = 0;
	char line[512], *text = NULL;
	size_t size;
	FILE *maps, *out;

	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return NULL;
	out = open_memstream(&text, &size);
	while (out && fgets(line, sizeof(line), maps)) {
		if (!strstr(line, "vfio-dev") && !strstr(line, "/dev/vfio/"))
			continue;
		if (sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		if (start != last)
			fprintf(out, "%s%lx", last ? " " : "", start);
		last = end;
	}
	if (out)
		fclose(out);
	fclose(maps);
	return text;
}
