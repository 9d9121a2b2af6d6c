/* SPDX-License-Identifier: BSD-3-Clause */
/* A run that moves: its session, its part in a migration, its report. The work itself: dsa_work.c. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "dsa_move.h"
#include "dsa_session.h"
#include "move_stage.h"
#include "rate.h"
#include "svio_pci.h"

#define AREA	     "dsa work"
#define DRIVER_AREA  "dsa records"
#define DRIVER_BYTES (UINT64_C(4) << 20) /* of a queue: records and lists */
#define TICK_NS	     5000000

struct run {
	struct dsa_move_args args;
	struct dsa_session s;
	struct svio_dsa_wq *wqs[DSA_WORK_QUEUES];
	struct dsa_work *work;
	struct svio_migrate_area *driver_area; /* by state; the peer's */
	struct move_peer peer;
	struct rate rate; /* before anybody slowed it down */
	struct svio_migrate_part part, room;
	struct svio_migrate_device *device; /* by state */
	uint64_t started, ran_ns;	    /* ran_ns: of time_ms, in processes before this one */
	uint64_t moves, requeued, canceled, page_faults, resets; /* all but `moves`: of processes before this one */
	bool gone, received, failed;
};

/* ---- the driver ---------------------------------------------------------------------------------------------------- */

static int open_driver(struct run *r, uint32_t wqs)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = wqs, .policy = SVIO_DSA_REQUEUE, .area = r->driver_area };
	int rc;

	svio_dsa_close(r->s.dsa);
	rc = svio_dsa_open(r->s.dev, &opts, &r->s.dsa);
	if (rc == 0)
		svio_dsa_get_info(r->s.dsa, &r->s.info);
	return rc;
}

static int create_queues(struct run *r, uint32_t count)
{
	struct svio_dsa_wq_opts opts = { .size = sizeof(opts), .max_batch = DSA_WORK_BATCH };
	int rc = 0;

	for (uint32_t i = 0; i < count && rc == 0; i++)
		rc = svio_dsa_wq_create(r->s.dsa, r->s.bond, &opts, &r->wqs[i]);
	return rc;
}

static void destroy_queues(struct run *r)
{
	for (uint32_t i = 0; i < DSA_WORK_QUEUES; i++) {
		svio_dsa_wq_destroy(r->wqs[i]);
		r->wqs[i] = NULL;
	}
}

static void stage_of(struct run *r, const char *stage)
{
	move_stage(r->s.dev, NULL, NULL, stage);
}

/* ---- the part -------------------------------------------------------------------------------------------------------- */

static int describe(void *ctx, struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	struct run *r = ctx;
	const struct dsa_work_config *c = &r->args.work;
	struct svio_dsa_needs needs = { .wqs = c->queues, .depth = c->depth, .max_batch = DSA_WORK_BATCH, .by_state = r->args.by_state };
	uint64_t wqs;
	int rc = svio_migrate_fact_text(mine, "application", "svio dsa perf", "the other side is another program");

	if (rc == 0)
		rc = svio_migrate_fact_text(mine, "way", r->args.by_state ? "state" : "driver", "give both sides the same --by");
	/* Entries are divided among queues: set up so many as will come. What cannot be is seen in the comparison. */
	if (rc == 0 && source && svio_migrate_fact_find_u64(source, "dsa.queues", &wqs) && wqs && wqs <= DSA_WORK_QUEUES &&
	    wqs != r->s.info.wqs && open_driver(r, (uint32_t)wqs))
		rc = open_driver(r, 1);
	return rc ? rc : svio_dsa_describe(r->s.dsa, r->s.bond, &needs, mine, source);
}

/* By state: the target's driver and bond make room for what comes. A part that is told so, before the device's. */
static int tell(void *ctx, struct svio_migrate_buf *out)
{
	const struct run *r = ctx;

	return svio_migrate_put_u32(out, r->s.bond->pasid);
}

static int let_go(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct run *r = ctx;

	(void)version;
	(void)svio_migrate_get_u32(in);
	svio_dsa_close(r->s.dsa);
	r->s.dsa = NULL;
	svio_sva_unbind(r->s.bond);
	r->s.bond = NULL;
	return 0;
}

static int quiesce(void *ctx)
{
	struct run *r = ctx;
	int rc;

	dsa_work_stop(r->work);
	stage_of(r, "frozen");
	if (dsa_work_failed(r->work))
		return svio_fail(EBUSY, "the run has failed: there is nothing sound to be moved");
	if (r->args.by_state) {
		svio_dsa_state_quiesce(r->s.dsa);
		return 0;
	}
	rc = svio_dsa_quiesce(r->s.dsa);
	if (rc == 0)
		stage_of(r, "held");
	return rc;
}

static int save_queues(struct run *r, const struct svio_dsa_move *move, struct svio_migrate_buf *out)
{
	struct dsa_work_result result;
	uint32_t count, all = 0;
	int rc = 0;

	for (uint32_t i = 0; i < r->args.work.queues && rc == 0; i++) {
		rc = svio_dsa_wq_save(r->wqs[i], move, out, &count);
		all += rc ? 0 : count;
	}
	dsa_work_get_result(r->work, &result);
	if (rc == 0 && all != result.inflight)
		rc = svio_fail(EIO, "%" PRIu64 " operations in flight, and %" PRIu32 " in the driver's ledger", result.inflight, all);
	return rc;
}

static int save(void *ctx, struct svio_migrate_buf *out)
{
	struct run *r = ctx;
	struct svio_dsa_move move = dsa_work_move(r->work);
	struct svio_dsa_stats st;
	int rc;

	svio_dsa_get_stats(r->s.dsa, &st);
	svio_migrate_put_u64(out, r->ran_ns + (svio_now_ns() - r->started));
	svio_migrate_put_u64(out, r->args.time_ms);
	svio_migrate_put_u64(out, r->moves + 1);
	svio_migrate_put_u64(out, r->requeued + st.requeued);
	svio_migrate_put_u64(out, r->canceled + st.canceled);
	svio_migrate_put_u64(out, r->page_faults + st.page_faults);
	svio_migrate_put_u64(out, r->resets + st.resets);
	svio_migrate_put_u32(out, r->s.bond->pasid);
	dsa_work_save(r->work, out);
	if (r->args.by_state)
		rc = svio_dsa_state_save(r->s.dsa, r->wqs, r->args.work.queues, &move, out);
	else
		rc = save_queues(r, &move, out);
	if (rc == 0)
		stage_of(r, "saved");
	return rc;
}

/* The bond that the device's state names. */
static int load_bond(struct run *r, uint32_t pasid)
{
	if (pasid == SVIO_SVA_PASID_NONE)
		return svio_sva_bind(r->s.dev, r->s.ioas, SVIO_SVA_WANT_IDENTITY, &r->s.bond);
	return svio_sva_bind_pasid(r->s.dev, pasid, &r->s.bond);
}

static int load_device(struct run *r, uint32_t pasid, const struct svio_dsa_move *move, struct svio_migrate_in *in)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .policy = SVIO_DSA_REQUEUE, .area = r->driver_area };
	int rc = load_bond(r, pasid);

	if (rc == 0)
		rc = svio_dsa_state_load(r->s.dev, r->s.bond, &opts, move, in, &r->s.dsa, r->wqs, r->args.work.queues);
	if (rc == 0)
		svio_dsa_get_info(r->s.dsa, &r->s.info);
	return rc;
}

static int load_queues(struct run *r, const struct svio_dsa_move *move, struct svio_migrate_in *in)
{
	int rc = create_queues(r, r->args.work.queues);

	for (uint32_t i = 0; i < r->args.work.queues && rc == 0; i++)
		rc = svio_dsa_wq_load(r->wqs[i], move, in);
	return rc;
}

static void unload(struct run *r)
{
	if (r->work)
		dsa_work_forget(r->work);
	destroy_queues(r);
	dsa_work_destroy(r->work);
	r->work = NULL;
}

static int load(void *ctx, uint32_t version, struct svio_migrate_in *in)
{
	struct run *r = ctx;
	struct svio_migrate_area *area = svio_migrate_find_area(r->peer.m, AREA);
	struct svio_dsa_move move;
	char why[SVIO_ERROR_MAX];
	uint32_t pasid;
	int rc;

	(void)version;
	stage_of(r, "loading");
	r->ran_ns = svio_migrate_get_u64(in);
	r->args.time_ms = svio_migrate_get_u64(in);
	r->moves = svio_migrate_get_u64(in);
	r->requeued = svio_migrate_get_u64(in);
	r->canceled = svio_migrate_get_u64(in);
	r->page_faults = svio_migrate_get_u64(in);
	r->resets = svio_migrate_get_u64(in);
	pasid = svio_migrate_get_u32(in);
	r->driver_area = svio_migrate_find_area(r->peer.m, DRIVER_AREA);
	if (!area || !r->driver_area != !r->args.by_state || in->bad)
		return svio_fail(EINVAL, "a state of `svio dsa perf` without its area, or not whole");
	rc = dsa_work_load(area, in, &r->work);
	if (rc)
		return rc;
	r->args.work = *dsa_work_get_config(r->work);
	move = dsa_work_move(r->work);
	rc = r->args.by_state ? load_device(r, pasid, &move, in) : load_queues(r, &move, in);
	if (rc) {
		snprintf(why, sizeof(why), "%s", svio_last_error());
		unload(r);
		return svio_fail(-rc, "%s", why);
	}
	dsa_work_set_queues(r->work, r->wqs);
	stage_of(r, "loaded");
	return 0;
}

static void resume(void *ctx, enum svio_migrate_side side)
{
	struct run *r = ctx;

	if (!r->args.by_state && side == SVIO_MIGRATE_SOURCE)
		svio_dsa_unquiesce(r->s.dsa);
	for (uint32_t i = 0; !r->args.by_state && side == SVIO_MIGRATE_TARGET && i < r->args.work.queues; i++)
		svio_dsa_wq_replay(r->wqs[i]);
	if (side == SVIO_MIGRATE_TARGET)
		r->started = svio_now_ns();
	if (dsa_work_start(r->work, r->s.info.simulated)) {
		cli_error("cannot start again: %s", svio_last_error());
		r->failed = true;
	}
	stage_of(r, side == SVIO_MIGRATE_TARGET ? "running" : "back");
}

static void discard(void *ctx, enum svio_migrate_side side)
{
	struct run *r = ctx;

	if (side == SVIO_MIGRATE_TARGET) {
		unload(r);
		return;
	}
	dsa_work_forget(r->work);
	r->gone = true;
}

static void round_ended(void *ctx, uint32_t round)
{
	struct run *r = ctx;
	char stage[24] = "before";

	if (round == 0)
		rate_begin(&r->rate, dsa_work_completed(r->work));
	else
		snprintf(stage, sizeof(stage), "round%" PRIu32, round);
	stage_of(r, stage);
}

static void throttle(void *ctx, unsigned int percent)
{
	struct run *r = ctx;

	dsa_work_limit(r->work, rate_share(&r->rate, dsa_work_completed(r->work), percent));
}

/* ---- begin and end ------------------------------------------------------------------------------------------------------ */

static int add_parts(struct run *r)
{
	int rc = move_peer_init(&r->peer, r->args.device, &r->s.dev);

	r->part = (struct svio_migrate_part){ .name = "dsa perf", .version = 1, .describe = describe, .quiesce = quiesce, .save = save,
					      .load = load, .resume = resume, .discard = discard, .throttle = throttle, .ctx = r };
	r->room = (struct svio_migrate_part){ .name = "dsa driver", .version = 1, .precopy = tell, .load_precopy = let_go,
					      .save = tell, .load = let_go,
					      .ctx = r };
	r->peer.round = round_ended;
	r->peer.ctx = r;
	if (rc == 0 && r->s.ioas)
		rc = svio_migrate_add_ioas(r->peer.m, r->s.ioas);
	if (rc == 0 && r->args.by_state)
		rc = move_peer_device(&r->peer, "dsa device", &r->device);
	if (rc)
		return rc;
	/* The device before its driver: see svio_migrate_device_create(). */
	if (r->device) {
		svio_migrate_add_part(r->peer.m, &r->room);
		svio_migrate_add_part(r->peer.m, svio_migrate_device_part(r->device));
	}
	svio_migrate_add_part(r->peer.m, &r->part);
	return 0;
}

static int add_area(struct run *r, const char *name, uint64_t at, uint64_t bytes, struct svio_migrate_area **areap)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = name, .base = SVIO_MIGRATE_ADDRESS + at, .bytes = bytes };
	int rc;

#ifdef __SANITIZE_THREAD__ /* its shadow memory is where ours would be: dsa_session.c */
	opts.base = (UINT64_C(320) << 30) + (at >> 6);
#endif
	rc = svio_migrate_area_create(&opts, areap);
	return rc ? rc : svio_migrate_add_area(r->peer.m, *areap);
}

static void release(struct run *r)
{
	if (r->work)
		dsa_work_stop(r->work);
	destroy_queues(r);
	dsa_work_destroy(r->work);
	svio_dsa_close(r->s.dsa);
	r->s.dsa = NULL;
	/* Areas go with the migration, while their ioas is there; the device has stopped. */
	if (r->peer.m)
		move_peer_end(&r->peer);
	svio_migrate_device_destroy(r->device);
	dsa_session_close(&r->s);
}

static bool over(const struct run *r)
{
	return r->gone || r->failed || r->peer.finish || cli_interrupted() || dsa_work_failed(r->work) ||
	       r->ran_ns + (svio_now_ns() - r->started) >= r->args.time_ms * UINT64_C(1000000);
}

static int report(struct run *r)
{
	struct dsa_work_result res;
	struct json_object *doc, *kinds;
	struct svio_dsa_stats st;
	bool ok;

	dsa_work_get_result(r->work, &res);
	svio_dsa_get_stats(r->s.dsa, &st);
	ok = !r->failed && !res.wrong && !res.errors && !res.doubled && !res.lost && !res.inflight && res.completed == res.submitted &&
	     !svio_dsa_gone(r->s.dsa);
	if (!r->args.json) {
		printf("%s: %s: %" PRIu64 " operations submitted, %" PRIu64 " completed, %" PRIu64 " with an error, %" PRIu64 " lost, %" PRIu64
		       " twice\n", svio_device_name(r->s.dev), svio_sva_mode_text(r->s.bond->mode), res.submitted, res.completed, res.errors,
		       res.lost, res.doubled);
		if (r->args.work.verify)
			printf("  verified: %" PRIu64 ", of them %" PRIu64 " WRONG\n", res.verified, res.wrong);
		printf("  moved: %" PRIu64 " times; %" PRIu64 " operations sent again\n", r->moves, r->requeued + st.requeued);
		return ok ? CLI_OK : cli_error("the run has failed");
	}
	doc = json_object_new_object();
	dsa_session_json(&r->s, doc);
	cli_json_bool(doc, "ok", ok);
	cli_json_u64(doc, "pasid", r->s.bond->pasid);
	cli_json_u64(doc, "submitted", res.submitted);
	cli_json_u64(doc, "completed", res.completed);
	cli_json_u64(doc, "verified", res.verified);
	cli_json_u64(doc, "wrong", res.wrong);
	cli_json_u64(doc, "errors", res.errors);
	cli_json_u64(doc, "lost", res.lost + res.inflight);
	cli_json_u64(doc, "doubled", res.doubled);
	cli_json_u64(doc, "moves", r->moves);
	cli_json_u64(doc, "requeued", r->requeued + st.requeued);
	cli_json_u64(doc, "canceled", r->canceled + st.canceled);
	cli_json_u64(doc, "page_faults", r->page_faults + st.page_faults);
	cli_json_u64(doc, "resets", r->resets + st.resets);
	if (res.wrong)
		cli_json_u64(doc, "first_wrong", res.first_wrong);
	if (res.errors)
		cli_json_str(doc, "first_error", svio_dsa_status_text(res.first_error));
	kinds = json_object_new_object();
	for (int i = 0; i < DSA_WORK_KINDS; i++)
		cli_json_u64(kinds, dsa_work_kind_name((enum dsa_work_kind)i), res.kinds[i]);
	json_object_object_add(doc, "kinds", kinds);
	return cli_json_print(doc) == CLI_OK && ok ? CLI_OK : CLI_FAILED;
}

/* From here on it runs in this process, until it ends or moves away. Exit code. */
static int carry_on(struct run *r)
{
	struct timespec tick = { .tv_nsec = TICK_NS };

	while (!over(r)) {
		nanosleep(&tick, NULL);
		move_peer_poll(&r->peer);
	}
	if (r->gone)
		return move_peer_report(&r->peer, r->args.json);
	dsa_work_finish(r->work);
	return report(r);
}

/* ---- the source -------------------------------------------------------------------------------------------------------------- */

static int begin(struct run *r)
{
	const struct dsa_work_config *c = &r->args.work;
	struct svio_migrate_area *area;
	int rc = dsa_session_movable(&r->s, r->args.device);

	if (rc == 0)
		rc = add_parts(r);
	if (rc == 0 && r->args.by_state)
		rc = add_area(r, DRIVER_AREA, UINT64_C(1) << 40, c->queues * DRIVER_BYTES, &r->driver_area);
	if (rc == 0)
		rc = add_area(r, AREA, 0, dsa_work_area_bytes(c), &area);
	if (rc == 0)
		rc = open_driver(r, c->queues);
	if (rc == 0 && c->depth > r->s.info.wq_size)
		rc = svio_fail(EINVAL, "%s: %" PRIu32 " queues have %" PRIu32 " entries each; --depth %" PRIu32 " is too much",
			       r->args.device, c->queues, r->s.info.wq_size, c->depth);
	if (rc == 0)
		rc = create_queues(r, c->queues);
	if (rc == 0)
		rc = dsa_work_create(c, area, &r->work);
	if (rc == 0)
		rc = move_peer_control(&r->peer, r->args.control);
	if (rc)
		return rc;
	dsa_work_set_queues(r->work, r->wqs);
	r->started = svio_now_ns();
	return dsa_work_start(r->work, r->s.info.simulated);
}

int dsa_move_run(const struct dsa_move_args *args)
{
	struct run *r = cli_alloc(sizeof(*r));
	int rc;

	cli_catch_signals();
	r->args = *args;
	rc = begin(r);
	rc = rc ? cli_fail(rc) : carry_on(r);
	release(r);
	free(r);
	return rc;
}

/* ---- the target -------------------------------------------------------------------------------------------------------------- */

bool dsa_move_is_dsa(const char *name)
{
	struct svio_device_info info;
	struct svio_pci_info *pci;
	struct svio_pci_addr addr;
	struct svio_device *dev;
	bool dsa;

	if (strncmp(name, "sim:", 4) == 0)
		return strncmp(name + 4, "dsa", 3) == 0;
	if (strncmp(name, "user:", 5) != 0) {
		if (svio_pci_parse_addr(name, &addr))
			return false;
		pci = cli_alloc(sizeof(*pci));
		dsa = svio_pci_get(&addr, pci) == 0 && svio_dsa_supports(pci->vendor, pci->device);
		free(pci);
		return dsa;
	}
	/* A server is asked. What is wrong with it, who opens it next will say. */
	if (svio_device_open(name, NULL, &dev))
		return false;
	svio_device_get_info(dev, &info);
	svio_device_close(dev);
	return svio_dsa_supports(info.vendor, info.device);
}

/* A driver that has made room cannot be described again; and a device that has gone does not come back. */
static bool again(void *ctx)
{
	const struct run *r = ctx;

	return r->s.dsa && !svio_dsa_gone(r->s.dsa);
}

int dsa_move_listen(const struct move_listen *args)
{
	struct run *r = cli_alloc(sizeof(*r));
	int rc, exit_code = CLI_OK;

	cli_catch_signals();
	r->args = (struct dsa_move_args){ .device = args->device, .by_state = args->by_state, .json = args->json };
	rc = dsa_session_movable(&r->s, args->device);
	if (rc == 0)
		rc = open_driver(r, 1);
	if (rc == 0)
		rc = add_parts(r);
	if (rc)
		exit_code = cli_fail(rc);
	else if (move_peer_listen(&r->peer, args, args->device, again, r, &exit_code)) {
		exit_code = carry_on(r);
		move_peer_unlisten(args);
	}
	release(r);
	free(r);
	return exit_code;
}
