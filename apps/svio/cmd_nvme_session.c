/* SPDX-License-Identifier: BSD-3-Clause */
/* A controller from its name to readiness, and back. */
#include <inttypes.h>
#include <sched.h>
#include "cmd_nvme.h"

/* Of the driver, beside the command's own buffers: admin queue and Identify data; entries and a PRP list per request. */
#define DRIVER_MEMORY  (UINT64_C(2) << 20)
#define REQUEST_MEMORY UINT64_C(2560)

static bool mem_started;

int nvme_mem_start(uint64_t bytes, uint64_t requests)
{
	/* One arena large enough from the start is one DMA mapping, found at the first compare. */
	struct svio_mem_opts opts = {
		.size = sizeof(opts),
		.bytes = bytes + bytes / 16 + DRIVER_MEMORY + requests * REQUEST_MEMORY,
	};

	cpu_set_t cpus;
	bool known = sched_getaffinity(0, sizeof(cpus), &cpus) == 0;
	int rc;

	opts.bytes = SVIO_ALIGN_UP(opts.bytes, UINT64_C(2) << 20);
#ifdef __SANITIZE_THREAD__ /* svio_mem.h: its shadow memory is where ours would be */
	opts.base = UINT64_C(256) << 30;
#endif
	rc = svio_mem_start(&opts);

	/* EAL ties the calling thread to one CPU. Ours only waits, and what it starts chooses for itself. */
	if (known)
		sched_setaffinity(0, sizeof(cpus), &cpus);
	mem_started = rc == 0;
	return rc;
}

void nvme_mem_stop(void)
{
	if (mem_started)
		svio_mem_stop();
	mem_started = false;
}

int nvme_session_open(struct nvme_session *s, const char *name, const struct svio_nvme_opts *opts)
{
	char why[SVIO_ERROR_MAX];
	int rc;

	*s = (struct nvme_session){ 0 };
	svio_clear_error();
	rc = svio_device_open(name, NULL, &s->dev);
	if (rc)
		goto fail;
	rc = svio_ioas_create(NULL, &s->ioas);
	if (rc)
		goto fail;
	rc = svio_ioas_attach(s->ioas, s->dev);
	if (rc)
		goto fail;
	s->attached = true;
	rc = svio_nvme_open(s->dev, s->ioas, opts, &s->nvme);
	if (rc)
		goto fail;
	return 0;
fail:
	/* Closing what is half open may fail in its own way; the first reason is the one to tell. */
	snprintf(why, sizeof(why), "%s", svio_last_error());
	nvme_session_close(s);
	return why[0] ? svio_fail(rc, "%s", why) : rc;
}

void nvme_session_close(struct nvme_session *s)
{
	svio_nvme_close(s->nvme);
	if (s->attached) {
		/* svio_nvme_close() has stopped the controller; this holds for one that did not obey. */
		svio_device_set_master(s->dev, false);
		svio_ioas_detach(s->ioas, s->dev);
	}
	svio_ioas_destroy(s->ioas);
	svio_device_close(s->dev);
	*s = (struct nvme_session){ 0 };
}

int nvme_session_ns(struct nvme_session *s, uint32_t nsid, struct svio_nvme_ns *ns)
{
	const char *name = svio_device_name(s->dev);
	uint32_t count = 1;
	int rc;

	if (!nsid) {
		rc = svio_nvme_ns_list(s->nvme, &nsid, &count);
		if (rc)
			return rc;
		if (count == 0)
			return svio_fail(ENOENT, "%s: the controller has no active namespace",
					 name);
	}
	rc = svio_nvme_ns_get(s->nvme, nsid, ns);
	if (rc == -ENOENT)
		return svio_fail(ENOENT,
				 "%s: namespace %" PRIu32
				 " is not active; run: svio nvme identify %s",
				 name, nsid, name);
	if (rc)
		return rc;
	if (ns->metadata_size)
		return svio_fail(
			ENOTSUP,
			"%s: namespace %" PRIu32 " has %" PRIu32
			" bytes of metadata per block, which this command cannot carry; use a "
			"namespace formatted without metadata",
			name, nsid, ns->metadata_size);
	return 0;
}

static uint64_t arg_check(const struct argp_state *state, const char *name, const char *text,
			  int rc, uint64_t value, uint64_t min, uint64_t max)
{
	if (rc == -EINVAL)
		argp_error(state, "%s %s: not a number", name, text);
	if (rc || value < min || value > max)
		argp_error(state, "%s %s: must be %" PRIu64 " to %" PRIu64, name, text, min, max);
	return value;
}

uint64_t nvme_arg_u64(const struct argp_state *state, const char *name, const char *text,
		      uint64_t min, uint64_t max)
{
	uint64_t value = 0;
	int rc = svio_parse_u64(text, UINT64_MAX, &value);

	return arg_check(state, name, text, rc, value, min, max);
}

uint64_t nvme_arg_size(const struct argp_state *state, const char *name, const char *text,
		       uint64_t min, uint64_t max)
{
	uint64_t value = 0;
	int rc = svio_parse_size(text, &value);

	return arg_check(state, name, text, rc, value, min, max);
}
