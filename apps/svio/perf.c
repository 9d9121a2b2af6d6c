/* SPDX-License-Identifier: BSD-3-Clause */
/* The engine's life: memory, queue pairs, threads, phases, results. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "perf_priv.h"
#include "rate.h"

#define PAGE 4096
/* Empty rounds of a loop before it arms interrupts. */
#define IDLE_ROUNDS 2000

/* Spreads seeds that differ in one bit (Steele, Lea and Flood, 2014: SplitMix64). */
static uint64_t mix(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

uint64_t perf_buffer_stride(const struct perf_config *c)
{
	return SVIO_ALIGN_UP((uint64_t)c->bs + c->offset, (uint64_t)PAGE);
}

uint64_t perf_memory(const struct perf_config *config)
{
	return perf_buffer_stride(config) * config->qd * config->queues;
}

/* What may have to move lies in the area, if there is one; zeroed. */
static void *get(const struct perf_config *c, uint64_t len, uint64_t align)
{
	void *p;

	if (c->area)
		return svio_migrate_alloc(c->area, len, align);
	p = aligned_alloc(align, SVIO_ALIGN_UP(len, align));
	if (p)
		memset(p, 0, len);
	return p;
}

static void put(const struct perf_config *c, void *p)
{
	if (c->area)
		svio_migrate_free(c->area, p);
	else
		free(p);
}

uint64_t perf_area_bytes(const struct perf_config *c, const struct svio_nvme_ns *ns)
{
	uint64_t slots, each = c->verify ? sizeof(struct verify_slot) + sizeof(uint32_t) : 0;

	if (perf_check_config(c, ns, &slots))
		slots = 0;
	/* And what is lost between pages and blocks. */
	return perf_memory(c) + SVIO_MIN(slots, PERF_MAX_SLOTS) * each +
	       (uint64_t)c->queues * (c->qd * sizeof(struct perf_req) + 2 * (uint64_t)PAGE) + 4 * (uint64_t)PAGE;
}

int perf_check_config(const struct perf_config *c, const struct svio_nvme_ns *ns, uint64_t *slots)
{
	uint64_t blocks = c->blocks, nlb;

	if (c->bs == 0 || c->bs % ns->lba_size)
		return svio_fail(EINVAL,
				 "a request of %" PRIu32
				 " bytes is no whole number of blocks of %" PRIu32 " bytes",
				 c->bs, ns->lba_size);
	if (c->lba >= ns->blocks || blocks > ns->blocks - c->lba)
		return svio_fail(ERANGE,
				 "the range reaches beyond namespace %" PRIu32
				 ", which has %" PRIu64 " blocks",
				 ns->nsid, ns->blocks);
	if (!blocks)
		blocks = ns->blocks - c->lba;
	nlb = c->bs / ns->lba_size;
	*slots = blocks / nlb;
	/* Each queue needs a place of its own where places are not shared. */
	if (*slots < c->queues)
		return svio_fail(ERANGE,
				 "a range of %" PRIu64 " blocks holds %" PRIu64
				 " requests of %" PRIu64 " blocks, fewer than there are queues",
				 blocks, *slots, nlb);
	return 0;
}

static int describe_queue(struct perf *perf, uint32_t index)
{
	const struct perf_config *c = &perf->config;
	struct perf_queue *q = &perf->queues[index];
	uint64_t state = c->seed + index;
	bool mixed = c->rw == PERF_RANDRW, reads = c->rw == PERF_READ || c->rw == PERF_RANDREAD;

	q->perf = perf;
	q->nlb = c->bs / perf->ns.lba_size;
	q->batch = c->batch;
	q->verify = c->verify;
	q->sequential = c->rw == PERF_READ || c->rw == PERF_WRITE;
	q->read_limit = (UINT64_C(1) << 32) * (mixed ? c->read_pct : reads ? 100 : 0) / 100;
	q->rng[0] = mix(&state);
	q->rng[1] = mix(&state);
	q->parked = calloc(c->qd, sizeof(*q->parked));
	return q->parked ? 0 : -ENOMEM;
}

static int create_queue(struct perf *perf, uint32_t index)
{
	const struct perf_config *c = &perf->config;
	struct perf_queue *q = &perf->queues[index];
	uint64_t stride = perf_buffer_stride(c), state = c->seed + index;

	perf_queue_place(q, index);
	if (perf->written)
		q->written = perf->written + (q->book - perf->book);
	/* The addresses' random numbers are taken: the buffers get others. */
	mix(&state);
	mix(&state);
	q->reqs = get(c, c->qd * sizeof(*q->reqs), SVIO_CACHELINE);
	if (!q->reqs)
		return -ENOMEM;
	q->buffers = c->area ? svio_migrate_alloc(c->area, stride * c->qd, PAGE) : svio_mem_alloc(stride * c->qd, PAGE, -1);
	if (!q->buffers)
		return svio_last_error()[0] ? -ENOMEM : svio_fail(ENOMEM, "out of DMA memory");
	for (uint32_t i = 0; i < c->qd; i++) {
		uint8_t *buf = (uint8_t *)q->buffers + i * stride + c->offset;

		q->reqs[i].queue = q;
		q->reqs[i].buf = buf;
		/* Something that neither compresses nor deduplicates, in case it is written. */
		for (uint32_t o = 0; o + 8 <= c->bs; o += 8) {
			uint64_t word = mix(&state);

			memcpy(buf + o, &word, sizeof(word));
		}
	}
	return 0;
}

/* One thread for each CPU that we have, but not more than queues. */
static int create_threads(struct perf *perf)
{
	uint32_t cpus = (uint32_t)CPU_COUNT(&perf->config.cpus);
	int cpu = -1;

	perf->nthreads = cpus ? SVIO_MIN(cpus, perf->config.queues) : 1;
	perf->threads = calloc(perf->nthreads, sizeof(*perf->threads));
	if (!perf->threads)
		return -ENOMEM;
	for (uint32_t i = 0; i < perf->nthreads; i++) {
		perf->threads[i].perf = perf;
		if (cpus)
			do
				cpu++;
			while (!CPU_ISSET((size_t)cpu, &perf->config.cpus));
		perf->threads[i].cpu = cpu;
	}
	return 0;
}

int perf_new(const struct perf_config *config, const struct svio_nvme_ns *ns, uint64_t slots, struct perf **perfp)
{
	struct perf *perf = aligned_alloc(SVIO_CACHELINE, SVIO_ALIGN_UP(sizeof(*perf), (size_t)SVIO_CACHELINE));
	int rc = -ENOMEM;

	if (!perf)
		return -ENOMEM;
	memset(perf, 0, sizeof(*perf));
	atomic_init(&perf->stop, true);
	atomic_init(&perf->frozen, false);
	sem_init(&perf->ended, 0, 0);
	perf->config = *config;
	perf->ns = *ns;
	perf->range_cut = config->verify && slots > PERF_MAX_SLOTS;
	perf->slots = config->verify ? SVIO_MIN(slots, PERF_MAX_SLOTS) : slots;
	perf->queues = aligned_alloc(SVIO_CACHELINE, config->queues * sizeof(*perf->queues));
	if (perf->queues) {
		memset(perf->queues, 0, config->queues * sizeof(*perf->queues));
		rc = 0;
	}
	for (uint32_t i = 0; rc == 0 && i < config->queues; i++)
		rc = describe_queue(perf, i);
	if (rc == 0)
		rc = create_threads(perf);
	if (rc)
		perf_destroy(perf);
	else
		*perfp = perf;
	return rc;
}

int perf_create(const struct perf_config *config, const struct svio_nvme_ns *ns,
		struct perf **perfp)
{
	struct perf *perf;
	uint64_t slots = 0;
	int rc;

	rc = perf_check_config(config, ns, &slots);
	if (rc == 0)
		rc = perf_new(config, ns, slots, &perf);
	if (rc)
		return rc;
	if (config->verify) {
		perf->book = get(config, perf->slots * sizeof(*perf->book), SVIO_CACHELINE);
		if (config->rw == PERF_RANDRW)
			perf->written = get(config, perf->slots * sizeof(*perf->written), SVIO_CACHELINE);
		if (!perf->book || (config->rw == PERF_RANDRW && !perf->written))
			rc = -ENOMEM;
	}
	for (uint32_t i = 0; rc == 0 && i < config->queues; i++)
		rc = create_queue(perf, i);
	if (rc)
		perf_destroy(perf);
	else
		*perfp = perf;
	return rc;
}

void perf_destroy(struct perf *perf)
{
	if (!perf)
		return;
	perf_detach(perf);
	for (uint32_t i = 0; perf->queues && i < perf->config.queues; i++) {
		struct perf_queue *q = &perf->queues[i];

		if (perf->config.area)
			svio_migrate_free(perf->config.area, q->buffers);
		else
			svio_mem_free(q->buffers);
		put(&perf->config, q->reqs);
		free(q->parked);
	}
	put(&perf->config, perf->written);
	put(&perf->config, perf->book);
	free(perf->queues);
	free(perf->threads);
	sem_destroy(&perf->ended);
	free(perf);
}

/* ---- controller ------------------------------------------------------------------------------------ */

static uint64_t new_run_number(const struct perf *perf)
{
	uint64_t state =
		perf->config.seed ^ svio_now_ns() ^ (uint64_t)getpid() << 40 ^ perf->media << 56;

	return mix(&state);
}

static void new_medium(struct perf *perf, uint64_t run)
{
	perf->media++;
	if (perf->book)
		memset(perf->book, 0, perf->slots * sizeof(*perf->book));
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		struct perf_queue *q = &perf->queues[i];

		q->written_count = 0;
		q->run = (struct verify_run){ .run = run,
					      .nsid = perf->ns.nsid,
					      .lba_size = perf->ns.lba_size };
	}
}

int perf_prepare(const struct perf_config *c, struct svio_device *dev, struct svio_nvme *nvme, struct svio_nvme_qp **qps)
{
	const char *name = svio_device_name(dev);
	struct svio_nvme_qp_opts opts = { .size = sizeof(opts),
					  .depth = c->qd + 1,
					  .max_transfer = c->bs,
					  .interrupts = c->interrupts };
	struct svio_nvme_info info;
	int rc;

	svio_nvme_get_info(nvme, &info);
	if (c->bs > info.max_transfer)
		return svio_fail(EINVAL,
				 "%s: the largest transfer is %" PRIu32 " bytes; use --bs %" PRIu32,
				 name, info.max_transfer, info.max_transfer);
	if (c->qd >= info.max_queue_depth)
		return svio_fail(EINVAL,
				 "%s: queues have %" PRIu32 " entries; use --qd %" PRIu32
				 " and more --queues",
				 name, info.max_queue_depth, info.max_queue_depth - 1);
	for (uint32_t i = 0; i < c->queues; i++) {
		rc = svio_nvme_qp_create(nvme, &opts, &qps[i]);
		if (rc) {
			svio_fail_prefix(rc, "queue %" PRIu32 " of %" PRIu32, i + 1, c->queues);
			while (i--)
				svio_nvme_qp_destroy(qps[i]);
			return rc;
		}
	}
	return 0;
}

int perf_adopt(struct perf *perf, struct svio_device *dev, struct svio_nvme_qp *const *qps, const struct svio_nvme_ns *ns,
	       bool same_medium)
{
	const struct perf_config *c = &perf->config;

	if (ns->lba_size != perf->ns.lba_size ||
	    ns->blocks < c->lba + perf->slots * (c->bs / ns->lba_size))
		return svio_fail(EINVAL,
				 "%s: namespace %" PRIu32
				 " is smaller or formatted differently than "
				 "the one before",
				 svio_device_name(dev), ns->nsid);
	perf->ns = *ns;
	perf->dev = dev;
	perf->attached = true;
	if (!same_medium)
		new_medium(perf, new_run_number(perf));
	for (uint32_t i = 0; i < c->queues; i++) {
		struct perf_queue *q = &perf->queues[i];

		q->ns = *ns;
		q->qp = qps[i];
		if (c->interrupts)
			svio_nvme_qp_poller(q->qp, &q->irq);
	}
	return 0;
}

int perf_attach(struct perf *perf, struct svio_device *dev, struct svio_nvme *nvme,
		const struct svio_nvme_ns *ns, bool same_medium)
{
	struct svio_nvme_qp *qps[PERF_MAX_QUEUES];
	int rc = perf_prepare(&perf->config, dev, nvme, qps);

	if (rc)
		return rc;
	rc = perf_adopt(perf, dev, qps, ns, same_medium);
	for (uint32_t i = 0; rc && i < perf->config.queues; i++)
		svio_nvme_qp_destroy(qps[i]);
	return rc;
}

void perf_detach(struct perf *perf)
{
	if (!perf->attached)
		return;
	atomic_store(&perf->stop, true); /* callbacks that still come submit nothing */
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		svio_nvme_qp_destroy(perf->queues[i].qp);
		perf->queues[i].qp = NULL;
	}
	perf->attached = false;
}

/* ---- threads --------------------------------------------------------------------------------------- */

static int arm(void *ctx)
{
	struct perf_queue *q = ctx;

	/* Parked requests wait for no interrupt, and neither does the end. */
	if (q->parked_count || atomic_load(&q->perf->stop))
		return 1;
	return q->irq.arm ? q->irq.arm(q->irq.ctx) : 0;
}

static void disarm(void *ctx)
{
	struct perf_queue *q = ctx;

	if (q->irq.disarm)
		q->irq.disarm(q->irq.ctx);
}

static void ended(void *ctx, int err)
{
	struct perf_queue *q = ctx;

	if (err != -ESHUTDOWN && !q->failed) {
		q->failed = true;
		q->error = err;
	}
	q->ended = true;
}

static bool is_live(const struct perf_thread *t)
{
	const struct perf *perf = t->perf;

	for (uint32_t i = (uint32_t)(t - perf->threads); i < perf->config.queues;
	     i += perf->nthreads)
		if (!perf->queues[i].ended)
			return true;
	return false;
}

static void *thread_main(void *arg)
{
	struct perf_thread *t = arg;
	struct perf *perf = t->perf;
	cpu_set_t set;
	int rc = 0;

	if (t->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((size_t)t->cpu, &set);
		pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	}
	/* perf_stop() and perf_wake() make the loop return; it ends when every queue has. */
	while (rc == 0 && is_live(t))
		rc = svio_loop_run(t->loop);
	if (rc) {
		struct perf_queue *q = &perf->queues[t - perf->threads];

		q->failed = true;
		q->error = rc;
		snprintf(q->error_text, sizeof(q->error_text), "%s", svio_last_error());
	}
	atomic_store(&t->running, false);
	sem_post(&perf->ended);
	return NULL;
}

static int start_thread(struct perf *perf, uint32_t index)
{
	struct svio_loop_opts opts = { .size = sizeof(opts),
				       .idle_rounds = perf->config.interrupts ? IDLE_ROUNDS : 0 };
	struct perf_thread *t = &perf->threads[index];
	int rc;

	rc = svio_loop_create(&opts, &t->loop);
	if (rc)
		return rc;
	for (uint32_t i = index; i < perf->config.queues; i += perf->nthreads) {
		struct perf_queue *q = &perf->queues[i];

		q->poller = (struct svio_poller){ .name = "perf",
						  .poll = perf_queue_poll,
						  .ctx = q,
						  .irq_fd = perf->config.interrupts ? q->irq.irq_fd
										    : -1,
						  .arm = arm,
						  .disarm = disarm,
						  .stopped = ended,
						  .dev = perf->dev };
		rc = svio_poller_add(t->loop, &q->poller);
		if (rc)
			return rc;
	}
	atomic_store(&t->running, true);
	rc = -pthread_create(&t->id, NULL, thread_main, t);
	if (rc) {
		atomic_store(&t->running, false);
		return svio_fail(-rc, "cannot start a thread: %s", strerror(-rc));
	}
	t->started = true;
	return 0;
}

void perf_threads_end(struct perf *perf)
{
	for (uint32_t i = 0; i < perf->nthreads; i++) {
		struct perf_thread *t = &perf->threads[i];

		if (t->started)
			pthread_join(t->id, NULL);
		t->started = false;
		if (t->loop)
			svio_loop_destroy(t->loop);
		t->loop = NULL;
	}
	while (sem_trywait(&perf->ended) == 0)
		;
}

int perf_threads_start(struct perf *perf)
{
	atomic_store(&perf->stop, false);
	for (uint32_t i = 0; i < perf->nthreads; i++) {
		int rc = start_thread(perf, i);

		if (rc) {
			perf_stop(perf);
			perf_threads_end(perf);
			return rc;
		}
	}
	return 0;
}

int perf_start(struct perf *perf, enum perf_phase phase)
{
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		/* What one queue wrote another one reads back. */
		perf_queue_place(&perf->queues[i],
				 phase == PERF_READBACK ? (i + 1) % perf->config.queues : i);
		perf_queue_begin(&perf->queues[i], phase);
	}
	return perf_threads_start(perf);
}

void perf_wake(struct perf *perf)
{
	for (uint32_t i = 0; i < perf->nthreads; i++)
		if (perf->threads[i].loop)
			svio_loop_stop(perf->threads[i].loop);
}

void perf_stop(struct perf *perf)
{
	atomic_store(&perf->stop, true);
	perf_wake(perf);
}

int perf_join(struct perf *perf)
{
	int rc = 0;

	perf_threads_end(perf);
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		const struct perf_queue *q = &perf->queues[i];

		if (q->failed)
			return q->error_text[0] ? svio_fail(-q->error, "%s", q->error_text)
						: q->error;
		if (q->lost)
			return svio_fail(ETIMEDOUT,
					 "%" PRIu64 " requests did not complete within %" PRIu32
					 " ms",
					 q->lost, perf->config.drain_ms);
		if (q->gone)
			rc = -ENODEV;
	}
	return rc;
}

bool perf_running(const struct perf *perf)
{
	for (uint32_t i = 0; i < perf->nthreads; i++)
		if (atomic_load(&perf->threads[i].running))
			return true;
	return false;
}

bool perf_gone(const struct perf *perf)
{
	for (uint32_t i = 0; i < perf->config.queues; i++)
		if (__atomic_load_n(&perf->queues[i].gone, __ATOMIC_RELAXED))
			return true;
	return false;
}

void perf_wait(struct perf *perf, uint64_t until_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(until_ns / 1000000000),
			       .tv_nsec = (long)(until_ns % 1000000000) };

	sem_clockwait(&perf->ended, CLOCK_MONOTONIC, &ts);
}

void perf_limit(struct perf *perf, uint64_t per_second)
{
	atomic_store(&perf->gap, rate_gap(per_second, perf->config.queues));
}

/* ---- results --------------------------------------------------------------------------------------- */

void perf_sample(const struct perf *perf, struct perf_sample *sample)
{
	*sample = (struct perf_sample){ 0 };
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		const struct perf_queue *q = &perf->queues[i];

		for (int op = 0; op < PERF_OPS; op++)
			sample->ops[op] += __atomic_load_n(&q->ops[op], __ATOMIC_RELAXED);
		sample->failed += __atomic_load_n(&q->errors, __ATOMIC_RELAXED);
	}
}

static void add_status(struct perf_result *r, const struct perf_status *s)
{
	struct perf_status *row = r->status, *last = &r->status[PERF_STATUSES - 1];

	while (row < last && row->count && row->status != s->status)
		row++;
	row->status = row == last ? 0 : s->status;
	row->count += s->count;
}

void perf_get_result(const struct perf *perf, struct perf_result *r)
{
	*r = (struct perf_result){ .bs = perf->config.bs,
				   .threads = perf->nthreads,
				   .lba = perf->config.lba,
				   .blocks = perf->slots * (perf->config.bs / perf->ns.lba_size),
				   .range_cut = perf->range_cut,
				   .run = perf->queues[0].run.run };
	for (uint32_t i = 0; i < perf->config.queues; i++) {
		const struct perf_queue *q = &perf->queues[i];

		r->submitted += q->submitted;
		r->completed_err += q->errors;
		r->lost += q->lost;
		r->doubled += q->doubled;
		r->readback_slots += q->readback_slots;
		for (int op = 0; op < PERF_OPS; op++) {
			r->completed_ok += q->ops[op];
			svio_hist_merge(&r->latency[op], &q->latency[op]);
		}
		for (int s = 0; s < PERF_STATUSES; s++)
			if (q->status[s].count)
				add_status(r, &q->status[s]);
		for (int v = 0; v < VERIFY_RESULTS; v++) {
			r->verified[v] += q->verified[v];
			if (verify_is_error((enum verify_result)v))
				r->verify_errors += q->verified[v];
		}
		for (uint32_t k = 0; k < q->complaints && r->complaints < PERF_COMPLAINTS; k++)
			r->complaint[r->complaints++] = q->complaint[k];
	}
	for (uint64_t i = 0; perf->book && i < perf->slots; i++)
		r->slots_written += perf->book[i].attempted > 0;
}
