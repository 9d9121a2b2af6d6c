/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Work queues: memory, enabling, what a poll does when something is the matter, and the end.
 *
 *	LIVE → PARKED	the portal leads to a dummy page; new operations are kept
 *	settle		once its generation is dead: take the records that are there; then, by policy, cancel what remains, or keep it
 *	ENABLING	ENABLE WQ, which later polls find completed; slots are counted from 0 again
 *	LIVE		what is kept is sent, in the order of submission
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "dsa_priv.h"

#define TICK_MIN      (2 * DSA_MS)
#define TICK_MAX      (20 * DSA_MS)
#define COUNTDOWN_MAX (1u << 16)
#define DEFAULT_BATCH 32u

/* ---- memory --------------------------------------------------------------------------------------------- */

/*
 * Records, lists and their records. In a native bond the process's own memory will do: locked if that is allowed, since a record that is not
 * resident would cost a page request, and out of children, whose fork would make the device's next write a copy.
 */
static size_t lists_at(const struct svio_dsa_wq *wq)
{
	return SVIO_ALIGN_UP((size_t)wq->depth * DSA_CR_STRIDE, (size_t)4096);
}

size_t dsa_wq_mem_len(const struct svio_dsa_wq *wq)
{
	size_t lists = (size_t)wq->depth * wq->max_batch;

	return SVIO_ALIGN_UP(lists_at(wq) + lists * (sizeof(struct dsa_desc) + sizeof(struct dsa_completion)), (size_t)4096);
}

/* In an area: moves with the device's state, which names its addresses. */
static int area_mem(struct svio_dsa_wq *wq, void *mem)
{
	struct svio_migrate_area *area = wq->dsa->opts.area;

	if (mem && !svio_migrate_allocated(area, mem, wq->mem_len))
		return svio_fail(EINVAL, "%s: queue memory outside of its area", wq->dsa->name);
	wq->mem = mem ? mem : svio_migrate_alloc(area, wq->mem_len, 4096);
	return wq->mem ? 0 : svio_fail_prefix(-ENOMEM, "%s: queue memory", wq->dsa->name);
}

static int alloc_mem(struct svio_dsa_wq *wq, void *mem)
{
	size_t lists = (size_t)wq->depth * wq->max_batch, at = lists_at(wq);
	struct svio_device_info info;

	wq->mem_len = dsa_wq_mem_len(wq);
	if (wq->dsa->opts.area) {
		int err = area_mem(wq, mem);

		if (err)
			return err;
	} else if (wq->native) {
		wq->mem = mmap(NULL, wq->mem_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (wq->mem == MAP_FAILED) {
			wq->mem = NULL;
			return svio_fail(ENOMEM, "%s: no memory for a queue", wq->dsa->name);
		}
		madvise(wq->mem, wq->mem_len, MADV_DONTFORK);
		if (mlock(wq->mem, wq->mem_len))
			svio_log_debug("%s: queue memory is not locked: RLIMIT_MEMLOCK", wq->dsa->name);
	} else {
		svio_device_get_info(wq->dsa->dev, &info);
		wq->mem = svio_mem_alloc(wq->mem_len, 4096, info.numa_node);
		if (!wq->mem)
			return svio_fail_prefix(-ENOMEM, "%s: queue memory", wq->dsa->name);
	}
	if (svio_sva_addr(wq->bond, wq->mem, wq->mem_len) == SVIO_IOVA_BAD)
		return svio_fail(EFAULT, "%s: the queue's memory is not mapped in the bond's ioas", wq->dsa->name);
	wq->crs = wq->mem;
	wq->lists = (void *)(wq->mem + at);
	wq->batch_crs = (void *)(wq->mem + at + lists * sizeof(struct dsa_desc));
	wq->members = calloc(lists, sizeof(*wq->members));
	if (!wq->members || posix_memalign((void **)&wq->dummy, 4096, DSA_PORTAL_SIZE)) {
		wq->dummy = NULL;
		return svio_fail(ENOMEM, "%s: no memory for a queue", wq->dsa->name);
	}
	memset(wq->dummy, 0, DSA_PORTAL_SIZE);
	return 0;
}

static void free_mem(struct svio_dsa_wq *wq)
{
	if (wq->dsa->opts.area)
		svio_migrate_free(wq->dsa->opts.area, wq->mem);
	else if (wq->native && wq->mem)
		munmap(wq->mem, wq->mem_len);
	else
		svio_mem_free(wq->mem);
	free(wq->members);
	free(wq->dummy);
	free(wq);
}

/* ---- enabling ------------------------------------------------------------------------------------------- */

void dsa_park(struct svio_dsa_wq *wq)
{
	wq->state = DSA_WQ_PARKED;
	wq->settled = false;
	wq->kept = 0;
	wq->park_seq = wq->seq;
	wq->portal = wq->dummy;
}

/* WQCFG of a disabled queue; its size was written while the device was disabled. */
static bool write_wqcfg(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	uint32_t reg = dsa->wqcfg + wq->index * dsa->wqcfg_bytes, mode = DSA_WQCFG_DEDICATED | DSA_WQCFG_PRIORITY(8);

	if (wq->block)
		mode |= DSA_WQCFG_BLOCK_ON_FAULT;
	if (wq->native)
		mode |= DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(wq->pasid);
	dsa_write32(dsa, reg + DSA_WQCFG_THRESHOLD, 0);
	dsa_write32(dsa, reg + DSA_WQCFG_MODE, mode);
	dsa_write32(dsa, reg + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(wq->max_xfer_shift) |
							 DSA_WQCFG_MAX_BATCH((uint32_t)__builtin_ctz(dsa->max_batch)));
	if (dsa->wqcap & DSA_WQCAP_OP_CONFIG)
		for (uint32_t i = 0; i < DSA_OPCAP_WORDS * 2; i++)
			dsa_write32(dsa, reg + DSA_WQCFG_OPS + 4 * i, dsa_read32(dsa, DSA_REG_OPCAP + 4 * i));
	return dsa_cmd_start(dsa, &wq->cmd_result, DSA_CMD_ENABLE_WQ, wq->index);
}

/* The bond may have ended with a reset of the function. False: not yet, or not at all. */
static bool renew_bond(struct svio_dsa_wq *wq)
{
	int err;

	if (!wq->native)
		return true;
	err = svio_sva_renew(wq->bond);
	if (!err) {
		wq->pasid = wq->bond->pasid;
		return true;
	}
	if (err == -EBUSY)
		return false;
	svio_log_err("%s", svio_last_error());
	wq->enable_err = err;
	if (wq->created)
		dsa_set_gone(wq->dsa, false);
	return false;
}

/* One step of a settled queue towards being live. Lock held. */
static void enable_step(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	int r;

	if (dsa_get_state(dsa) != DSA_RUNNING) {
		wq->state = DSA_WQ_PARKED;
		return;
	}
	/* Another generation began meanwhile, and the command went with the old one. */
	if (wq->state == DSA_WQ_ENABLING && wq->gen != dsa->gen)
		wq->state = DSA_WQ_PARKED;
	if (wq->state == DSA_WQ_PARKED) {
		if (dsa->cmd.result || !renew_bond(wq) || !write_wqcfg(wq))
			return;
		wq->gen = dsa->gen;
		wq->state = DSA_WQ_ENABLING;
	}
	dsa_cmd_service(dsa, svio_now_ns());
	r = wq->cmd_result;
	if (r == DSA_CMD_PENDING)
		return;
	if (r) {
		wq->state = DSA_WQ_PARKED;
		if (r == -ECANCELED)
			return;
		if (r == -ENODEV && wq->created) { /* away again; the device's machine finds out how */
			dsa_freeze(dsa, "registers read all ones");
			return;
		}
		wq->enable_err = svio_fail(r == -ETIMEDOUT ? ETIMEDOUT : r == -ENODEV ? ENODEV : EIO, "%s: ENABLE WQ %u: %s", dsa->name,
					   wq->index, dsa_cmd_text(r));
		if (wq->created) { /* later on it is the device that is at fault */
			svio_log_err("%s", svio_last_error());
			dsa_freeze(dsa, "a queue cannot be enabled");
			if (++dsa->strikes >= DSA_MAX_STRIKES)
				dsa_set_gone(dsa, false);
		}
		return;
	}
	wq->slot = 0;
	wq->portal = dsa_portal(dsa, wq->index);
	wq->state = DSA_WQ_LIVE;
	atomic_store_explicit(&wq->word, dsa_device_word(dsa), memory_order_release);
}

/* ---- settling, sending again, the end -------------------------------------------------------------------- */

struct aged {
	uint64_t seq;
	uint32_t id;
};

static int compare_aged(const void *a, const void *b)
{
	const struct aged *x = a, *y = b;

	return (x->seq > y->seq) - (x->seq < y->seq);
}

uint32_t dsa_in_order(const struct svio_dsa_wq *wq, uint64_t mask, uint64_t before, uint32_t ids[DSA_PORTAL_SLOTS])
{
	struct aged list[DSA_PORTAL_SLOTS];
	uint32_t n = 0;

	for (uint64_t m = mask; m; m &= m - 1) {
		uint32_t id = (uint32_t)__builtin_ctzll(m);

		if (wq->reqs[id].seq < before)
			list[n++] = (struct aged){ wq->reqs[id].seq, id };
	}
	if (n > 1)
		qsort(list, n, sizeof(*list), compare_aged);
	for (uint32_t i = 0; i < n; i++)
		ids[i] = list[i].id;
	return n;
}

static uint32_t settle(struct svio_dsa_wq *wq, uint32_t max)
{
	struct svio_dsa *dsa = wq->dsa;
	uint32_t ids[DSA_PORTAL_SLOTS], n = dsa_reap(wq, max), count;

	if (n >= max)
		return n;
	count = dsa_in_order(wq, wq->inflight, wq->park_seq, ids);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = ids[i];
		bool late = wq->late >> id & 1;

		if (wq->kept >> id & 1)
			continue;
		/* What was not sent since its last record is where that record says, overlapping or not. */
		if (!late && dsa->opts.policy == SVIO_DSA_REQUEUE && (wq->known >> id & 1 || dsa_rewind(wq, id))) {
			dsa_count(&dsa->stats.requeued, 1);
			wq->kept |= UINT64_C(1) << id;
			continue;
		}
		if (n >= max)
			return n;
		dsa_count(&dsa->stats.canceled, 1);
		dsa_complete(wq, id, late ? -ETIMEDOUT : -ECANCELED);
		n++;
	}
	wq->late = 0;
	wq->settled = true;
	return n + dsa_release_held(wq, max - n);
}

void dsa_resend(struct svio_dsa_wq *wq)
{
	uint32_t ids[DSA_PORTAL_SLOTS], count = dsa_in_order(wq, wq->inflight, UINT64_MAX, ids);

	wq->known = 0;
	for (uint32_t i = 0; i < count; i++) {
		wq->reqs[ids[i]].stamp = 0;
		dsa_send(wq, ids[i]);
	}
}

/* After the end, or before the queue is freed: everything completes, nothing more is taken. */
static uint32_t end(struct svio_dsa_wq *wq, uint32_t max, int status)
{
	uint32_t ids[DSA_PORTAL_SLOTS], n = 0, count;

	wq->portal = wq->dummy;
	if (wq->state != DSA_WQ_DEAD) {
		wq->state = DSA_WQ_DEAD;
		n = dsa_reap(wq, UINT32_MAX); /* what is there counts, whatever max says: once */
	}
	count = dsa_in_order(wq, wq->inflight | wq->held, UINT64_MAX, ids);
	for (uint32_t i = 0; i < count && n < max; i++, n++) {
		dsa_count(&wq->dsa->stats.canceled, 1);
		dsa_complete(wq, ids[i], status);
	}
	return n;
}

/* ---- the clock -------------------------------------------------------------------------------------------- */

/*
 * Late is what waits for long in a queue that does nothing any more; behind long operations it may take its time, though not for ever,
 * since a device may also forget one.
 */
static void find_late(struct svio_dsa_wq *wq)
{
	uint32_t limit = wq->dsa->opts.timeout_ms;
	uint64_t late = 0;

	if (wq->now_ms - wq->progress_ms <= limit)
		limit = limit > UINT32_MAX / 8 ? UINT32_MAX : limit * 8;
	for (uint64_t m = wq->inflight; m; m &= m - 1) {
		uint32_t id = (uint32_t)__builtin_ctzll(m), stamp = wq->reqs[id].stamp;

		/* Its clock starts at the first tick that sees it: whoever polls seldom is not called late for that. */
		if (!stamp)
			wq->reqs[id].stamp = wq->now_ms;
		else if (wq->now_ms - stamp > limit)
			late |= UINT64_C(1) << id;
	}
	if (!late)
		return;
	wq->late = late;
	dsa_count(&wq->dsa->stats.timeouts, (uint64_t)__builtin_popcountll(late));
	dsa_wq_fault(wq, "an operation has taken too long");
}

/* Now and then: about every few milliseconds, however fast it is polled. */
static void tick(struct svio_dsa_wq *wq)
{
	uint64_t now = svio_now_ns(), elapsed = now - wq->tick_ns;

	if (elapsed < TICK_MIN && wq->countdown_from < COUNTDOWN_MAX)
		wq->countdown_from *= 2;
	else if (elapsed > 16 * TICK_MAX)
		wq->countdown_from = 1;
	else if (elapsed > TICK_MAX && wq->countdown_from > 1)
		wq->countdown_from /= 2;
	wq->countdown = wq->countdown_from;
	wq->tick_ns = now;
	wq->now_ms = (uint32_t)(now / DSA_MS) | 1;
	if (wq->progressed)
		wq->progress_ms = wq->now_ms;
	wq->progressed = false;
	if (wq->state != DSA_WQ_LIVE || !wq->inflight)
		return;
	if (now >= atomic_load_explicit(&wq->dsa->next_watch, memory_order_relaxed) && !pthread_mutex_trylock(&wq->dsa->lock)) {
		dsa_advance(wq->dsa, now);
		pthread_mutex_unlock(&wq->dsa->lock);
	}
	find_late(wq);
}

uint32_t dsa_poll_slow(struct svio_dsa_wq *wq, uint32_t max)
{
	const _Atomic uint32_t *word = atomic_load_explicit(&wq->word, memory_order_acquire);
	struct svio_dsa *dsa = wq->dsa;
	bool gone, dead, unsettled;
	uint32_t n;

	if (wq->countdown == 0) {
		wq->countdown = wq->countdown_from;
		if (!atomic_load_explicit(word, memory_order_relaxed)) {
			n = dsa_reap(wq, max);
			tick(wq);
			return n;
		}
	}
	/* Somebody else is at it. */
	if (pthread_mutex_trylock(&dsa->lock))
		return 0;
	dsa_advance(dsa, svio_now_ns());
	gone = dsa_get_state(dsa) == DSA_GONE;
	if (wq->state == DSA_WQ_LIVE && wq->gen == dsa->gen && dsa_get_state(dsa) == DSA_RUNNING) {
		/* Not for us, or over already. */
		atomic_store_explicit(&wq->word, dsa_device_word(dsa), memory_order_release);
		pthread_mutex_unlock(&dsa->lock);
		return dsa_reap(wq, max);
	}
	if (wq->state == DSA_WQ_LIVE)
		dsa_park(wq);
	dead = wq->gen <= dsa->dead;
	unsettled = !wq->settled;
	if (!gone && !unsettled)
		enable_step(wq);
	pthread_mutex_unlock(&dsa->lock);

	if (gone)
		return end(wq, max, -ENODEV);
	if (unsettled)
		return dead ? settle(wq, max) : 0;
	if (wq->state == DSA_WQ_LIVE)
		dsa_resend(wq);
	return 0;
}

/* ---- create and destroy ------------------------------------------------------------------------------------ */

/* Drive the queue's enabling to its end. */
static int bring_up(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	uint64_t end_ns = svio_now_ns() + 4 * dsa->opts.cmd_timeout_ms * DSA_MS, nap = 20000;

	for (;;) {
		pthread_mutex_lock(&dsa->lock);
		dsa_advance(dsa, svio_now_ns());
		enable_step(wq);
		pthread_mutex_unlock(&dsa->lock);
		if (wq->state == DSA_WQ_LIVE)
			return 0;
		if (wq->enable_err)
			return wq->enable_err;
		if (dsa_get_state(dsa) == DSA_GONE)
			return svio_fail(ENODEV, "%s: the device is gone", dsa->name);
		if (svio_now_ns() > end_ns)
			return svio_fail(ETIMEDOUT, "%s: queue %u did not come up: the device is away", dsa->name, wq->index);
		dsa_nap(nap);
		nap = SVIO_MIN(nap * 2, DSA_MS);
	}
}

int dsa_wq_new(struct svio_dsa *dsa, struct svio_sva_bond *bond, const struct svio_dsa_wq_opts *user, void *mem, struct svio_dsa_wq **wqp)
{
	struct svio_dsa_wq_opts opts = { 0 };
	struct svio_dsa_wq *wq;
	uint32_t index;
	int err;

	*wqp = NULL;
	if (user)
		memcpy(&opts, user, SVIO_MIN(user->size, sizeof(opts)));
	if (bond->mode != SVIO_SVA_NATIVE && bond->mode != SVIO_SVA_IDENTITY)
		return svio_fail(ESRCH, "%s: the bond belongs to another process", dsa->name);
	if (bond->dev != dsa->dev)
		return svio_fail(EINVAL, "%s: the bond is with another device", dsa->name);
	if (posix_memalign((void **)&wq, SVIO_CACHELINE, sizeof(*wq)))
		return svio_fail(ENOMEM, "%s: no memory for a queue", dsa->name);
	memset(wq, 0, sizeof(*wq));
	wq->dsa = dsa;
	wq->bond = bond;
	wq->native = bond->mode == SVIO_SVA_NATIVE;
	wq->pasid = wq->native ? bond->pasid : 0;
	wq->model = dsa->model;
	wq->depth = dsa->wq_size;
	wq->free = wq->depth == 64 ? UINT64_MAX : (UINT64_C(1) << wq->depth) - 1;
	wq->max_batch = SVIO_MIN(opts.max_batch ? opts.max_batch : DEFAULT_BATCH, dsa->max_batch);
	wq->max_xfer = SVIO_MIN(dsa->max_xfer, DSA_PIECE);
	wq->max_xfer_shift = (uint32_t)__builtin_ctzll(dsa->max_xfer);
	wq->ops = dsa->opcap;
	wq->cache = dsa->gencap & DSA_GENCAP_CACHE_MEM ? SVIO_DSA_CACHE : 0;
	wq->block = opts.block_on_fault && wq->native && dsa->gencap & DSA_GENCAP_BLOCK_ON_FAULT;
	wq->desc_flags = DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST | (wq->block ? DSA_FLAG_BLOCK_ON_FAULT : 0);
	wq->countdown = wq->countdown_from = 8;
	wq->tick_ns = svio_now_ns();
	atomic_init(&wq->word, &dsa->alarm);
	atomic_init(&wq->special, DSA_SPECIAL);
	for (uint32_t i = 0; i < SVIO_ARRAY_SIZE(wq->reqs); i++)
		wq->reqs[i].op = DSA_OP_FREE;
	err = alloc_mem(wq, mem);
	if (err) {
		wq->mem = mem ? NULL : wq->mem; /* not ours to free */
		free_mem(wq);
		return err;
	}
	wq->portal = wq->dummy;
	wq->state = DSA_WQ_PARKED;
	wq->settled = true;

	pthread_mutex_lock(&dsa->lock);
	for (index = 0; index < dsa->wqs && dsa->wq[index]; index++)
		;
	wq->index = index;
	if (index < dsa->wqs)
		dsa->wq[index] = wq;
	pthread_mutex_unlock(&dsa->lock);
	if (index == dsa->wqs) {
		wq->mem = mem ? NULL : wq->mem;
		free_mem(wq);
		return svio_fail(ENOSPC, "%s: all %u queues are in use; open the device with more (svio_dsa_opts.wqs)", dsa->name, dsa->wqs);
	}
	err = dsa_log_join(wq);
	if (err) {
		wq->mem = mem ? NULL : wq->mem;
		dsa_wq_free(wq);
		return err;
	}
	*wqp = wq;
	return 0;
}

void dsa_wq_free(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;

	dsa_log_leave(wq);
	pthread_mutex_lock(&dsa->lock);
	dsa->wq[wq->index] = NULL;
	if (dsa->cmd.result == &wq->cmd_result)
		dsa->cmd.result = &dsa->nobodys_result;
	pthread_mutex_unlock(&dsa->lock);
	free_mem(wq);
}

int svio_dsa_wq_create(struct svio_dsa *dsa, struct svio_sva_bond *bond, const struct svio_dsa_wq_opts *opts, struct svio_dsa_wq **wqp)
{
	struct svio_dsa_wq *wq;
	int err;

	*wqp = NULL;
	err = dsa_wq_new(dsa, bond, opts, NULL, &wq);
	if (err)
		return err;
	err = bring_up(wq);
	if (err) {
		dsa_wq_free(wq);
		return err;
	}
	wq->created = true;
	*wqp = wq;
	return 0;
}

/* The queue, or the device, does not write to our memory any more. Lock held. */
static bool stop_queue(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa = wq->dsa;
	uint64_t end_ns = svio_now_ns() + 3 * dsa->opts.cmd_timeout_ms * DSA_MS;
	bool sent = false;

	while (svio_now_ns() < end_ns) {
		dsa_advance(dsa, svio_now_ns());
		if (dsa_get_state(dsa) == DSA_GONE || wq->gen <= dsa->dead)
			return true;
		if (dsa_get_state(dsa) == DSA_RUNNING && !sent)
			sent = dsa_cmd_start(dsa, &wq->cmd_result, DSA_CMD_RESET_WQ, DSA_CMD_WQ_OPERAND(wq->index));
		if (dsa_get_state(dsa) == DSA_RUNNING && sent) {
			int r = wq->cmd_result;

			if (r == 0 || r == DSA_CMD_WQ_NOT_ENABLED)
				return true;
			if (r != DSA_CMD_PENDING)
				dsa_freeze(dsa, "a queue cannot be reset");
		}
		if (dsa_get_state(dsa) != DSA_RUNNING)
			sent = false;
		/* Others may need the lock to get on. */
		pthread_mutex_unlock(&dsa->lock);
		dsa_nap(20000);
		pthread_mutex_lock(&dsa->lock);
		/* An orderly reset or withdrawn memory takes as long as its owner likes; our memory does not wait for that. */
		if (dsa->quiesced || svio_device_events(dsa->dev) & (SVIO_EV_QUIESCE | SVIO_EV_REVOKED))
			break;
	}
	return dsa_get_state(dsa) == DSA_GONE || wq->gen <= dsa->dead;
}

void svio_dsa_wq_destroy(struct svio_dsa_wq *wq)
{
	struct svio_dsa *dsa;

	if (!wq)
		return;
	dsa = wq->dsa;
	if (wq->state == DSA_WQ_LIVE)
		dsa_park(wq); /* nothing more reaches the portal */
	pthread_mutex_lock(&dsa->lock);
	if (!stop_queue(wq)) {
		svio_log_warn("%s: queue %u cannot be stopped: the device loses its access to memory", dsa->name, wq->index);
		dsa_set_gone(dsa, false);
	}
	pthread_mutex_unlock(&dsa->lock);
	end(wq, UINT32_MAX, -ECANCELED);
	dsa_wq_free(wq);
}

static int poller_poll(void *ctx)
{
	return (int)svio_dsa_poll(ctx, 0);
}

void svio_dsa_wq_poller(struct svio_dsa_wq *wq, struct svio_poller *poller)
{
	*poller = (struct svio_poller){ .name = wq->dsa->name, .poll = poller_poll, .ctx = wq, .irq_fd = -1, .dev = wq->dsa->dev };
}
