/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A server that hangs under I/O: it is stopped (SIGSTOP), so that its socket stays open and nothing is ever answered:
 *
 *	hang_probe NVME-DEVICE PID OTHER-DEVICE
 *
 * PID serves the first. Every request must end with the error that svio_vfio.h and svio_nvme.h state, in time; nothing may be left;
 * and another device must work in the same process. The server is left stopped. Prints "ok - " and "not ok - " lines.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "svio_nvme.h"

#define REQUESTS   64
#define TIMEOUT_MS 700
#define LIMIT_NS   UINT64_C(30000000000) /* a busy machine is slow, but no hang ends */

static int failures;

static void check(bool good, const char *what)
{
	printf("%s - hang: %s%s%s\n", good ? "ok" : "not ok", what, good ? "" : "; last error: ", good ? "" : svio_last_error());
	fflush(stdout);
	failures += !good;
}

static struct {
	unsigned int in_flight, good, gone, twice;
	bool busy[REQUESTS];
} io;

static void done(void *ctx, int status)
{
	size_t i = (size_t)(uintptr_t)ctx;

	io.twice += !io.busy[i];
	io.busy[i] = false;
	io.in_flight--;
	io.good += status == 0;
	io.gone += status == -ENODEV;
}

struct residue {
	int fds, threads, maps;
};

static int entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* Mappings of what devices and arenas share; the C library's own come and go. */
static struct residue residue(void)
{
	struct residue r = { entries("/proc/self/fd"), entries("/proc/self/task"), 0 };
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		r.maps += strstr(line, "/memfd:") != NULL;
	if (f)
		fclose(f);
	return r;
}

/*
 * What is left once there are but so many threads. A joined one can stay in /proc/self/task for a moment:
 * pthread_join(3) returns when the kernel clears its thread id, and the kernel takes it from the list after that.
 */
static struct residue settled(int threads)
{
	uint64_t end = svio_now_ns() + LIMIT_NS;
	struct residue r;

	do {
		r = residue();
	} while (r.threads > threads && svio_now_ns() < end);
	return r;
}

static bool stopped(int pid)
{
	char path[64], line[256], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "State: %c", &state);
	if (f)
		fclose(f);
	return state == 'T';
}

struct stack {
	struct svio_device *dev;
	struct svio_ioas *ioas;
	struct svio_nvme *nvme;
	struct svio_nvme_qp *qp;
	struct svio_nvme_ns ns;
	uint8_t *buf;
};

static bool up(struct stack *s, const char *name)
{
	const struct svio_device_opts dopts = { .size = sizeof(dopts), .msg_timeout_ms = TIMEOUT_MS };
	const struct svio_nvme_opts nopts = { .size = sizeof(nopts), .io_timeout_ms = TIMEOUT_MS, .admin_timeout_ms = TIMEOUT_MS };
	const struct svio_nvme_qp_opts qopts = { .size = sizeof(qopts), .depth = REQUESTS + 1 };

	memset(s, 0, sizeof(*s));
	return !svio_device_open(name, &dopts, &s->dev) && !svio_ioas_create(NULL, &s->ioas) && !svio_ioas_attach(s->ioas, s->dev) &&
	       !svio_nvme_open(s->dev, s->ioas, &nopts, &s->nvme) && !svio_nvme_ns_get(s->nvme, 1, &s->ns) &&
	       !svio_nvme_qp_create(s->nvme, &qopts, &s->qp) && (s->buf = svio_mem_alloc(REQUESTS * 4096, 4096, -1)) != NULL;
}

static void down(struct stack *s)
{
	svio_nvme_qp_destroy(s->qp);
	svio_nvme_close(s->nvme);
	svio_mem_free(s->buf);
	if (s->ioas && s->dev)
		svio_ioas_detach(s->ioas, s->dev);
	svio_ioas_destroy(s->ioas);
	svio_device_close(s->dev);
}

/* As many as there is room for. */
static int submit(struct stack *s)
{
	for (size_t i = 0; i < REQUESTS; i++) {
		int rc = io.busy[i] ? 0 :
			 i & 1 ? svio_nvme_write(s->qp, &s->ns, s->buf + i * 4096, i * 8, 8, 0, done, (void *)(uintptr_t)i) :
				 svio_nvme_read(s->qp, &s->ns, s->buf + i * 4096, i * 8, 8, 0, done, (void *)(uintptr_t)i);

		if (rc)
			return rc;
		io.in_flight += !io.busy[i];
		io.busy[i] = true;
	}
	return 0;
}

static void hang(struct stack *s, int pid)
{
	uint64_t end = svio_now_ns() + LIMIT_NS, begin;
	unsigned int before;
	uint32_t v;
	int rc;

	while (io.good < 10 * REQUESTS && svio_now_ns() < end && !submit(s))
		svio_nvme_poll(s->qp, 0);
	check(io.good >= 10 * REQUESTS && io.gone == 0, "I/O is under way");
	kill(pid, SIGSTOP);
	while (!stopped(pid) && svio_now_ns() < end)
		svio_nvme_poll(s->qp, 0);
	while (svio_nvme_poll(s->qp, 0)) /* what it had completed before it stopped */
		;
	submit(s);
	before = io.in_flight;
	check(stopped(pid) && before == REQUESTS, "the server is stopped, with 64 requests in flight");
	begin = svio_now_ns();
	end = begin + LIMIT_NS;
	while (io.in_flight && svio_now_ns() < end)
		svio_nvme_poll(s->qp, 0);
	printf("# %u requests ended after %u ms; %s\n", before, (unsigned int)((svio_now_ns() - begin) / 1000000), svio_last_error());
	check(io.in_flight == 0 && io.twice == 0, "each ends, once, while the server hangs");
	check(io.gone == REQUESTS, "with -ENODEV");
	check(svio_device_events(s->dev) & SVIO_EV_GONE && svio_nvme_gone(s->nvme), "the device counts as gone");
	rc = svio_nvme_read(s->qp, &s->ns, s->buf, 0, 8, 0, done, NULL);
	check(rc == -ENODEV, "further requests are refused with -ENODEV");
	rc = svio_device_region_read(s->dev, 0, 8, &v, sizeof(v));
	check(rc == -ENODEV && strstr(svio_last_error(), "gone"), "and so are register reads");
}

static void elsewhere(const char *name)
{
	uint64_t end = svio_now_ns() + LIMIT_NS;
	struct stack s;

	memset(&io, 0, sizeof(io));
	if (!up(&s, name)) {
		check(false, "another device is attached");
	} else {
		while (io.good < 10 * REQUESTS && svio_now_ns() < end && !submit(&s))
			svio_nvme_poll(s.qp, 0);
		while (io.in_flight && svio_now_ns() < end)
			svio_nvme_poll(s.qp, 0);
		check(io.good >= 10 * REQUESTS && !io.gone && !io.twice && !io.in_flight, "another device is attached, and works");
	}
	down(&s);
}

int main(int argc, char **argv)
{
	const struct svio_device_opts opts = { .size = sizeof(opts), .msg_timeout_ms = TIMEOUT_MS };
	struct residue before, after;
	struct svio_device *dev;
	struct stack s;
	int pid, rc, threads;

	if (argc != 4 || (pid = atoi(argv[2])) < 2) {
		fprintf(stderr, "usage: hang_probe NVME-DEVICE PID OTHER-DEVICE\n");
		return 2;
	}
	if (svio_mem_start(NULL)) {
		check(false, "memory");
		return 1;
	}
	svio_mem_free(svio_mem_alloc(4096, 0, -1)); /* the arena is there before we count */
	threads = residue().threads;
	elsewhere(argv[3]); /* and what a first device brings for good: no thread */
	before = settled(threads);
	check(before.threads == threads, "a device that was closed leaves no thread");
	if (!up(&s, argv[1])) {
		check(false, "open");
		return 1;
	}
	memset(&io, 0, sizeof(io));
	hang(&s, pid);
	down(&s);
	after = settled(threads);
	printf("# descriptors %d, %d; threads %d, %d; mappings %d, %d\n", before.fds, after.fds, before.threads, after.threads, before.maps, after.maps);
	check(memcmp(&before, &after, sizeof(before)) == 0, "closed, it leaves nothing");
	rc = svio_device_open(argv[1], &opts, &dev);
	check(rc == -ENODEV && strstr(svio_last_error(), "did not answer"), "opened again, it says that the server does not answer");
	elsewhere(argv[3]);
	svio_mem_stop();
	return failures != 0;
}
