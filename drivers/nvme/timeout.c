/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a live queue pair does now and then: look at the clock, serve the admin queue, see that the controller is alive,
 * find requests that take too long. A poll counts down to it, so that it costs no clock; the count adapts to the rate of
 * polls, so that about one tick falls into a millisecond.
 *
 * A request older than io_timeout_ms is aborted (1.4 §5.1); if it has not completed ABORT_GRACE later, the controller is
 * reset, and it completes with -ETIMEDOUT.
 */
#include "nvme_priv.h"

#define TICK_MIN	(NVME_MS / 2)
#define TICK_MAX	(4 * NVME_MS)
#define COUNTDOWN_MAX	(1u << 18)
#define ADMIN_EVERY	(10 * NVME_MS)
#define WATCH_EVERY	(1000 * NVME_MS)
#define ABORT_GRACE_MS	5000u
#define ABORT_UNIT	(8 * NVME_MS)

static void adapt(struct svio_nvme_qp *qp, uint64_t elapsed)
{
	if (elapsed < TICK_MIN && qp->countdown_from < COUNTDOWN_MAX)
		qp->countdown_from *= 2;
	else if (elapsed > 16 * TICK_MAX)
		qp->countdown_from = 1;
	else if (elapsed > TICK_MAX && qp->countdown_from > 1)
		qp->countdown_from /= 2;
	qp->countdown = qp->countdown_from;
}

/* Admin completions, events of the controller. Whoever holds the lock does the same. */
static void serve_admin(struct svio_nvme *nvme, uint64_t now)
{
	if (pthread_mutex_trylock(&nvme->lock))
		return;
	nvme_advance(nvme, now);
	pthread_mutex_unlock(&nvme->lock);
}

static void watch(struct svio_nvme_qp *qp)
{
	uint32_t csts = nvme_read32(qp->nvme, NVME_REG_CSTS);

	if (csts == NVME_REG_DEAD) {
		/* Withdrawn BARs raise their own event. */
		if (!(svio_device_events(qp->nvme->dev) & (SVIO_EV_REVOKED | SVIO_EV_GONE)))
			nvme_qp_fault(qp, "registers read all ones");
	} else if (csts & NVME_CSTS_CFS) {
		nvme_qp_fault(qp, "controller fatal status (CSTS 0x%x)", csts);
	} else if (!(csts & NVME_CSTS_RDY)) {
		nvme_qp_fault(qp, "not ready any more (CSTS 0x%x): it was reset behind our back", csts);
	}
}

/* Ask for an abort. Beyond the controller's limit (ACL) there is none, and the reset is what helps. */
static void abort_request(struct svio_nvme_qp *qp, uint32_t cid, uint16_t tick)
{
	struct svio_nvme *nvme = qp->nvme;
	struct nvme_req *req = &qp->reqs[cid];
	struct nvme_cmd cmd = {
		.opcode = NVME_ADM_ABORT,
		.cdw10 = svio_cpu_to_le32(NVME_ABORT_CDW10(qp->qid, cid)),
	};

	if (pthread_mutex_trylock(&nvme->lock))
		return;
	if (nvme_get_state(nvme) == NVME_RUNNING && qp->epoch == nvme->epoch &&
	    nvme->aborts_out <= nvme->id.acl &&
	    nvme_admin_submit(nvme, &cmd, NVME_SLOT_ABORT, nvme->opts.admin_timeout_ms) >= 0) {
		nvme->aborts_out++;
		nvme_count(&nvme->stats.aborts, 1);
	}
	pthread_mutex_unlock(&nvme->lock);
	svio_log_warn("%s: queue %u: command %u has taken more than %u ms: abort", nvme->name, qp->qid, cid,
		      nvme->opts.io_timeout_ms);
	nvme_count(&nvme->stats.timeouts, 1);
	req->flags |= NVME_REQ_TIMEDOUT;
	req->aborted = tick;
}

/*
 * What is too old? Requests carry no time; they carry their place in the order of submission. Samples of (time, place), taken
 * every eighth of the limit, say which places were reached how long ago.
 */
static uint64_t overdue_before(const struct svio_nvme_qp *qp, uint64_t now, uint64_t limit_ns)
{
	uint32_t have = SVIO_MIN(qp->num_samples, NVME_SAMPLES);

	for (uint32_t i = 1; i <= have; i++) { /* newest first */
		uint32_t k = (qp->num_samples - i) % NVME_SAMPLES;

		if (now - qp->samples[k].ns >= limit_ns)
			return qp->samples[k].seq;
	}
	return 0;
}

static void scan(struct svio_nvme_qp *qp, uint64_t now)
{
	uint32_t limit = qp->nvme->opts.io_timeout_ms, grace = SVIO_MIN(limit, ABORT_GRACE_MS);
	uint64_t overdue = overdue_before(qp, now, limit * NVME_MS);
	uint16_t tick = (uint16_t)(now / ABORT_UNIT);

	for (uint32_t cid = 0; cid < qp->nreq; cid++) {
		struct nvme_req *req = &qp->reqs[cid];

		if (req->op == NVME_REQ_FREE || req->seq >= overdue)
			continue;
		if (!(req->flags & NVME_REQ_TIMEDOUT)) {
			abort_request(qp, cid, tick);
		} else if ((uint16_t)(tick - req->aborted) * (ABORT_UNIT / NVME_MS) > grace) {
			nvme_qp_fault(qp, "queue %u: command %u was not aborted in %u ms", qp->qid, cid, grace);
			return;
		}
	}
}

static void sample(struct svio_nvme_qp *qp, uint64_t now)
{
	uint32_t k = qp->num_samples++ % NVME_SAMPLES;

	qp->samples[k].ns = now;
	qp->samples[k].seq = qp->seq;
}

/* After completions were taken, so that none that waits in memory is called late. */
void nvme_tick(struct svio_nvme_qp *qp)
{
	uint64_t now = svio_now_ns();
	uint64_t every = qp->nvme->opts.io_timeout_ms * NVME_MS / 8;

	adapt(qp, now - qp->tick_ns);
	qp->tick_ns = now;
	if (now - qp->admin_ns >= ADMIN_EVERY) {
		qp->admin_ns = now;
		serve_admin(qp->nvme, now);
	}
	if (qp->state != NVME_QP_LIVE)
		return;
	if (svio_nvme_inflight(qp) && now - qp->watch_ns >= WATCH_EVERY) {
		qp->watch_ns = now;
		watch(qp);
	}
	if (qp->num_samples && now - qp->samples[(qp->num_samples - 1) % NVME_SAMPLES].ns < every)
		return;
	if (svio_nvme_inflight(qp) && !nvme_cqe_ready(qp))
		scan(qp, now);
	sample(qp, now);
}
