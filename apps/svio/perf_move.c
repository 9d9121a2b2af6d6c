/* SPDX-License-Identifier: BSD-3-Clause */
/* `svio nvme perf` moves: its part, at the source and at the target. */
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "move_peer.h"
#include "move_stage.h"
#include "perf_ballast.h"
#include "perf_run.h"
#include "rate.h"

#define AREA	    "perf"
#define DRIVER_AREA "nvme"
#define DRIVER_BYTES (UINT64_C(8) << 20) /* admin queue, rings */
#define REQUEST_BYTES UINT64_C(4096)	 /* list memory of a request */
#define READY_MS      UINT64_C(5000)

struct perf_move {
	struct perf_run *run;
	struct move_peer peer;
	struct svio_migrate_part part;
	struct svio_migrate_device *device; /* by its own state */
	struct perf_ahead ahead;	    /* target, by the driver: queue pairs that wait for their requests */
	bool told;			    /* source: what they are like */
	struct svio_migrate_part room; /* is made for it */
	struct perf_ballast *ballast;
	struct rate rate; /* before anybody slowed it down */
	bool gone;
};

static int reset_controller(void *ctx)
{
	return svio_nvme_reset(((struct perf_run *)ctx)->session.nvme);
}

static void stage_of(struct perf_run *r, const char *stage)
{
	move_stage(r->session.dev, reset_controller, r, stage);
}

/* ---- the part -------------------------------------------------------------------------------------------- */

static int describe(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	const struct perf_config *c = &r->args.config;
	struct svio_nvme_needs needs = { .queues = c->queues, .depth = c->qd + 1, .max_transfer = c->bs };
	int rc = svio_migrate_fact_text(mine, "application", "svio nvme perf", "the other side is another program");

	if (rc == 0)
		rc = svio_migrate_fact_text(mine, "way", r->args.way == PERF_BY_STATE ? "state" : "driver",
					    "give both sides the same --by");
	return rc ? rc : svio_nvme_describe(r->session.nvme, &needs, &r->ns, mine, source);
}

/*
 * By the controller's own state: the driver with which the target looked at its controller lets go of it before the controller
 * becomes another one. A part that is told so, before the device's.
 */
static int tell(void *ctx, struct svio_migrate_buf *out)
{
	(void)ctx;
	return svio_migrate_put_u32(out, 0);
}

static int let_go(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;

	(void)version;
	(void)svio_migrate_get_u32(in);
	svio_nvme_close(r->session.nvme);
	r->session.nvme = NULL;
	return 0;
}

/*
 * By the driver: commands to the target's controller take longer than anything else at the end. So its queue pairs are made
 * while the source works. Empty, they touch nothing that is shared.
 */
static int precopy(void *ctx, struct svio_migrate_buf *out)
{
	struct perf_move *move = ctx;
	const struct perf_config *c = &move->run->args.config;

	if (move->told || move->run->args.way == PERF_BY_STATE)
		return 0;
	svio_migrate_put_u32(out, c->queues);
	svio_migrate_put_u32(out, c->qd);
	svio_migrate_put_u32(out, c->bs);
	move->told = true;
	return svio_migrate_put_u32(out, c->interrupts);
}

static int load_precopy(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_move *move = ctx;
	struct perf_run *r = move->run;
	struct perf_config c = { 0 };
	uint32_t interrupts;
	int rc;

	(void)version;
	c.queues = svio_migrate_get_u32(in);
	c.qd = svio_migrate_get_u32(in);
	c.bs = svio_migrate_get_u32(in);
	interrupts = svio_migrate_get_u32(in);
	c.interrupts = interrupts;
	if (in->bad || move->ahead.queues || !r->session.nvme || r->args.way == PERF_BY_STATE || c.queues == 0 || c.qd == 0 || c.bs == 0 ||
	    c.queues > PERF_MAX_QUEUES || c.qd > PERF_MAX_QD || c.bs > PERF_MAX_BS || interrupts > 1)
		return svio_fail(EINVAL, "queues that make no sense");
	rc = perf_prepare(&c, r->session.dev, r->session.nvme, move->ahead.qps);
	if (rc)
		return rc;
	move->ahead.queues = c.queues;
	move->ahead.qd = c.qd;
	move->ahead.bs = c.bs;
	move->ahead.interrupts = c.interrupts;
	return 0;
}

static void cancel(void *ctx, enum svio_migrate_side side)
{
	struct perf_move *move = ctx;

	(void)side;
	while (move->ahead.queues)
		svio_nvme_qp_destroy(move->ahead.qps[--move->ahead.queues]);
	move->told = false;
}

/*
 * By its own state a controller cannot move in the middle of a reset, which the threads are about to finish. Another one may begin while
 * they end: then they go on, and finish that.
 */
static int freeze_ready(struct perf *perf, const struct svio_nvme *nvme)
{
	uint64_t end = svio_now_ns() + READY_MS * 1000000;
	int rc;

	do {
		while (!svio_nvme_ready(nvme) && !svio_nvme_gone(nvme) && svio_now_ns() < end)
			poll(NULL, 0, 1);
		rc = perf_freeze(perf);
		if (rc || svio_nvme_ready(nvme) || svio_nvme_gone(nvme) || svio_now_ns() >= end)
			break;
		rc = perf_thaw(perf);
	} while (rc == 0);
	return rc;
}

static int quiesce(void *ctx)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	int rc = r->args.way == PERF_BY_STATE ? freeze_ready(r->perf, r->session.nvme) : perf_freeze(r->perf);

	stage_of(r, "frozen");
	if (rc || r->args.way == PERF_BY_STATE)
		return rc;
	rc = svio_nvme_quiesce(r->session.nvme);
	if (rc == 0)
		stage_of(r, "held");
	return rc;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	const struct perf_args *a = &r->args;
	struct svio_nvme_stats s;
	int rc;

	svio_nvme_get_stats(r->session.nvme, &s);
	svio_migrate_put_u64(out, r->ran_now);
	svio_migrate_put_u32(out, a->seconds);
	svio_migrate_put_u64(out, a->min_ios);
	svio_migrate_put_u32(out, a->policy);
	svio_migrate_put_u32(out, a->force);
	svio_migrate_put_u32(out, r->out.moves + 1);
	svio_migrate_put_u32(out, r->out.lost_devices);
	svio_migrate_put_u32(out, r->out.replugs);
	svio_migrate_put_u64(out, r->out.stats.resets + s.resets);
	svio_migrate_put_u64(out, r->out.stats.revocations + s.revocations);
	svio_migrate_put_u64(out, r->out.stats.requeued + s.requeued);
	svio_migrate_put_u64(out, r->out.stats.failed + s.failed);
	svio_migrate_put_u64(out, r->out.stats.aborts + s.aborts);
	svio_migrate_put_u64(out, r->out.stats.timeouts + s.timeouts);
	rc = perf_save(r->perf, a->way, r->session.nvme, out);
	if (rc == 0)
		stage_of(r, "saved");
	return rc;
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct perf_move *move = ctx;
	struct perf_run *r = move->run;
	struct svio_nvme_opts opts = { .size = sizeof(opts), .max_queues = r->args.config.queues + 1 };
	struct perf_place place = { .area = svio_migrate_find_area(move->peer.m, AREA), .dev = r->session.dev, .ioas = r->session.ioas,
				    .opts = &opts, .ns = &r->ns, .ahead = &move->ahead };
	uint32_t policy;
	int rc;

	stage_of(r, "loading");
	r->ran_ns = svio_migrate_get_u64(in);
	r->args.seconds = svio_migrate_get_u32(in);
	r->args.min_ios = svio_migrate_get_u64(in);
	policy = svio_migrate_get_u32(in);
	r->args.force = svio_migrate_get_u32(in);
	r->out.moves = svio_migrate_get_u32(in);
	if (version >= 2) {
		r->out.lost_devices = svio_migrate_get_u32(in);
		r->out.replugs = svio_migrate_get_u32(in);
	}
	r->out.stats.resets = svio_migrate_get_u64(in);
	r->out.stats.revocations = svio_migrate_get_u64(in);
	r->out.stats.requeued = svio_migrate_get_u64(in);
	r->out.stats.failed = svio_migrate_get_u64(in);
	r->out.stats.aborts = svio_migrate_get_u64(in);
	r->out.stats.timeouts = svio_migrate_get_u64(in);
	opts.area = svio_migrate_find_area(move->peer.m, DRIVER_AREA);
	if (!place.area || !opts.area != (r->args.way != PERF_BY_STATE) || in->bad || policy > SVIO_NVME_FAIL)
		return svio_fail(EINVAL, "a state of `svio nvme perf` without its area, or not whole");
	r->args.policy = (enum svio_nvme_policy)policy;
	opts.policy = r->args.policy;
	if (r->session.nvme)
		svio_nvme_set_policy(r->session.nvme, r->args.policy);
	rc = perf_load(&place, in, &r->session.nvme, &r->perf);
	if (rc == 0) {
		r->driver_area = opts.area;
		r->args.config = *perf_get_config(r->perf);
		r->out.lba_size = r->ns.lba_size;
		r->out.nsid = r->ns.nsid;
		stage_of(r, "loaded");
	}
	return rc;
}

static uint64_t completions(const struct perf *perf)
{
	struct perf_sample s;

	perf_sample(perf, &s);
	return s.ops[PERF_OP_READ] + s.ops[PERF_OP_WRITE];
}

static void round_ended(void *ctx, uint32_t round)
{
	struct perf_move *move = ctx;
	char stage[24] = "before";

	if (round == 0)
		rate_begin(&move->rate, completions(move->run->perf));
	else
		snprintf(stage, sizeof(stage), "round%" PRIu32, round);
	stage_of(move->run, stage);
}

static void throttle(void *ctx, unsigned int percent)
{
	struct perf_move *move = ctx;

	perf_limit(move->run->perf, rate_share(&move->rate, completions(move->run->perf), percent));
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct perf_run *r = ((struct perf_move *)ctx)->run;
	int rc;

	if (r->args.way == PERF_BY_STATE)
		; /* its device runs again, and that is all */
	else if (side == SVIO_MIGRATE_SOURCE)
		svio_nvme_unquiesce(r->session.nvme);
	else
		perf_replay(r->perf);
	rc = perf_thaw(r->perf);
	if (rc)
		cli_error("cannot start again: %s", svio_last_error());
	r->received = side == SVIO_MIGRATE_TARGET;
	stage_of(r, r->received ? "running" : "back");
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	struct perf_move *move = ctx;

	if (side == SVIO_MIGRATE_SOURCE) {
		move->gone = true;
		return;
	}
	perf_forget(move->run->perf);
	move->run->perf = NULL;
}

static int move_new(struct perf_run *r, struct perf_move **movep)
{
	struct perf_move *move = cli_alloc(sizeof(*move));
	int rc;

	move->run = r;
	move->part = (struct svio_migrate_part){ .name = "nvme perf", .version = 2, .describe = describe, .precopy = precopy,
						 .load_precopy = load_precopy, .quiesce = quiesce, .save = save, .load = load,
						 .resume = resume, .discard = discard, .cancel = cancel,
						 .throttle = throttle, .ctx = move };
	rc = move_peer_init(&move->peer, r->device, &r->session.dev);
	move->peer.round = round_ended;
	move->peer.ctx = move;
	if (rc == 0)
		rc = svio_migrate_add_ioas(move->peer.m, r->session.ioas);
	if (rc == 0)
		rc = perf_ballast_new(move->peer.m, &move->ballast);
	if (rc == 0 && r->args.way == PERF_BY_STATE)
		rc = move_peer_device(&move->peer, "nvme device", &move->device);
	if (rc) {
		perf_ballast_free(move->ballast);
		move_peer_end(&move->peer);
		free(move);
		return rc;
	}
	/* The device before its driver: see svio_migrate_device_create(). */
	if (move->device) {
		move->room = (struct svio_migrate_part){ .name = "controller", .version = 1, .precopy = tell, .load_precopy = let_go,
							 .save = tell, .load = let_go, .ctx = move };
		svio_migrate_add_part(move->peer.m, &move->room);
		svio_migrate_add_part(move->peer.m, svio_migrate_device_part(move->device));
	}
	svio_migrate_add_part(move->peer.m, &move->part);
	*movep = move;
	return 0;
}

void perf_move_end(struct perf_move *move)
{
	if (!move)
		return;
	perf_ballast_free(move->ballast);
	move_peer_end(&move->peer);
	svio_migrate_device_destroy(move->device);
	free(move);
}

/* ---- the source -------------------------------------------------------------------------------------------- */

int perf_move_driver_area(struct perf_run *r)
{
	const struct perf_config *c = &r->args.config;
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = DRIVER_AREA, .base = SVIO_MIGRATE_ADDRESS + (UINT64_C(1) << 40) };

	if (r->args.way != PERF_BY_STATE)
		return 0;
	opts.bytes = DRIVER_BYTES + 2 * (uint64_t)c->qd * c->queues * REQUEST_BYTES;
	return svio_migrate_area_create(&opts, &r->driver_area);
}

int perf_move_start(struct perf_run *r, struct perf_move **movep)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = AREA };
	struct svio_migrate_area *area;
	struct perf_move *move;
	int rc;

#ifdef __SANITIZE_THREAD__ /* its shadow memory is where ours would be: cmd_nvme_session.c */
	opts.base = UINT64_C(320) << 30;
#endif
	rc = move_new(r, &move);
	if (rc)
		return rc;
	opts.bytes = perf_area_bytes(&r->args.config, &r->ns);
	rc = r->driver_area ? svio_migrate_add_area(move->peer.m, r->driver_area) : 0;
	if (rc == 0)
		rc = svio_migrate_area_create(&opts, &area);
	if (rc == 0)
		rc = svio_migrate_add_area(move->peer.m, area);
	if (rc == 0 && r->args.ballast)
		rc = perf_ballast_create(move->ballast, r->args.ballast, r->args.ballast_percent);
	if (rc == 0)
		rc = move_peer_control(&move->peer, r->args.control);
	if (rc) {
		perf_move_end(move);
		return rc;
	}
	r->args.config.area = area;
	*movep = move;
	return 0;
}

void perf_move_poll(struct perf_move *move)
{
	move_peer_poll(&move->peer);
	if (move->peer.finish)
		move->run->finish = true;
}

int perf_move_device(struct perf_move *move, bool there)
{
	if (there)
		return svio_migrate_add_ioas(move->peer.m, move->run->session.ioas);
	svio_migrate_remove_ioas(move->peer.m, move->run->session.ioas);
	return 0;
}

bool perf_move_gone(const struct perf_move *move)
{
	return move->gone;
}

void perf_move_check(const struct perf_move *move, struct perf_ballast_result *result)
{
	perf_ballast_check(move->ballast, result);
}

int perf_move_report(const struct perf_move *move)
{
	return move_peer_report(&move->peer, move->run->args.common.json);
}

/* ---- the target ------------------------------------------------------------------------------------------------ */

/* One that was made room for is not there to be described again; and one that has gone does not come back. */
static bool again(void *ctx)
{
	const struct perf_run *r = ctx;

	return r->session.nvme && !svio_nvme_gone(r->session.nvme);
}

int perf_move_listen(const struct move_listen *args)
{
	struct perf_run *r = cli_alloc(sizeof(*r));
	int rc, exit_code = CLI_OK;

	cli_catch_signals();
	r->args.device = args->device;
	r->args.common.json = args->json;
	r->args.migratable = true;
	r->args.replug_timeout = 60;
	r->args.config.queues = 63; /* so many are asked for: more than a run will have */
	r->args.force = true;	    /* whether to write was decided at the source */
	r->args.way = args->by_state ? PERF_BY_STATE : PERF_BY_DRIVER;
	snprintf(r->device, sizeof(r->device), "%s", args->device);
	rc = nvme_mem_start(UINT64_C(32) << 20, 0);
	if (rc) {
		free(r);
		return cli_fail(rc);
	}
	svio_clear_error();
	rc = perf_run_open(r);
	if (rc == 0)
		rc = move_new(r, &r->move);
	if (rc) {
		r->out.error = rc;
		return perf_run_end(r);
	}
	if (!move_peer_listen(&r->move->peer, args, r->device, again, r, &exit_code)) {
		perf_move_end(r->move);
		nvme_session_close(&r->session);
		nvme_mem_stop();
		free(r);
		return exit_code;
	}
	exit_code = perf_run_received(r);
	move_peer_unlisten(args);
	return exit_code;
}
