/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices that refuse, hang, go away and come back, under operations: simulated. */
#include <stdlib.h>
#include <string.h>
#include "fake.h"
#include "unit.h"

static struct svio_device *dev;
static struct svio_dsa *dsa;
static struct svio_dsa_wq *wq;
static struct svio_sva_bond bond;

static void begin(enum svio_dsa_policy policy)
{
	struct svio_dsa_opts opts = { .size = sizeof(opts), .policy = policy, .wqs = 2 };

	dev = fake_new();
	bond = fake_bond(dev, true);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(dev, &opts, &dsa), 0);
	CU_ASSERT_EQUAL_FATAL(svio_dsa_wq_create(dsa, &bond, NULL, &wq), 0);
}

static void finish(void)
{
	svio_dsa_wq_destroy(wq);
	svio_dsa_close(dsa);
	CU_ASSERT_EQUAL(dev->bad_dma, 0);
	fake_free(dev);
}

static void poll_some(int n)
{
	for (int i = 0; i < n; i++) {
		fake_run(dev);
		svio_dsa_poll(wq, 0);
		fake_now += 100000;
	}
}

static void test_open(void)
{
	static const struct {
		int cmd;
		uint32_t err;
		const char *word;
	} refusals[] = {
		{ DSA_CMD_RESET_DEVICE, DSA_CMD_HW_ERROR, "hardware error" },
		{ DSA_CMD_ENABLE_DEVICE, DSA_CMD_BAD_PASID_CAP, "PASID, ATS and PRI" },
	};
	struct svio_dsa_opts opts = { .size = sizeof(opts), .wqs = 5 };

	dev = fake_new();
	bond = fake_bond(dev, true);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(refusals); i++) {
		dev->fail_cmd = refusals[i].cmd;
		dev->fail_err = refusals[i].err;
		CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -EIO);
		CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), refusals[i].word));
		CU_ASSERT_FALSE(dev->master);
		dev->fail_cmd = -1;
		dev->hang_cmd = refusals[i].cmd;
		CU_ASSERT_TRUE(svio_dsa_open(dev, NULL, &dsa) < 0);
		dev->hang_cmd = -1;
		dev->cmdsts = 0;
	}
	CU_ASSERT_EQUAL(svio_dsa_open(dev, &opts, &dsa), -EINVAL);
	dev->no_portals = true;
	CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -ENOTSUP);
	dev->no_portals = false;
	dev->gencap &= ~DSA_GENCAP_CONFIG;
	CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -ENOTSUP);
	dev->gencap |= DSA_GENCAP_CONFIG;
	dev->offsets = 0xff;
	CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -EPROTO);
	dev->offsets = 4 | 6 << 16;
	dev->info.device = 0x1234;
	CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -ENODEV);
	dev->info.device = DSA_SIM_DEVICE;
	dev->decoding = false;
	CU_ASSERT_EQUAL(svio_dsa_open(dev, NULL, &dsa), -ENODEV);
	dev->decoding = true;
	opts.wqs = 2;
	CU_ASSERT_EQUAL_FATAL(svio_dsa_open(dev, &opts, &dsa), 0);
	dev->fail_cmd = DSA_CMD_ENABLE_WQ;
	dev->fail_err = DSA_CMD_WQ_PASID;
	CU_ASSERT_EQUAL(svio_dsa_wq_create(dsa, &bond, NULL, &wq), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "PASID capability"));
	dev->fail_cmd = -1;
	CU_ASSERT_EQUAL(svio_dsa_wq_create(dsa, &bond, NULL, &wq), 0);
	svio_dsa_wq_destroy(wq);
	bond.mode = SVIO_SVA_DEAD;
	CU_ASSERT_EQUAL(svio_dsa_wq_create(dsa, &bond, NULL, &wq), -ESRCH);
	svio_dsa_close(dsa);
	fake_free(dev);
}

enum trouble { BY_DECODING, BY_RESET, BY_ORDERLY_RESET, BY_OURSELVES, TROUBLES };

static void make_trouble(enum trouble t)
{
	switch (t) {
	case BY_DECODING:
		fake_revoke(dev);
		poll_some(20);
		fake_restore(dev);
		break;
	case BY_RESET:
		fake_function_reset(dev, false);
		break;
	case BY_ORDERLY_RESET:
		fake_function_reset(dev, true);
		break;
	default:
		svio_dsa_reset(dsa);
		break;
	}
}

/* In flight when the device goes: canceled, or done again; submitted meanwhile: done. */
static void test_policies(void)
{
	for (int policy = 0; policy < 2; policy++)
		for (enum trouble t = 0; t < TROUBLES; t++) {
			struct seen s[4] = { 0 }, later = { 0 };
			struct svio_dsa_stats stats;
			uint8_t *buf;

			begin(policy ? SVIO_DSA_REQUEUE : SVIO_DSA_FAIL);
			buf = fake_buf(65536);
			memset(buf, 0x5a, 4096);
			dev->lose = true;
			for (int i = 0; i < 3; i++)
				CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 8192 * (i + 1), buf, 4096, cb, &s[i]), 0);
			/* Overlapping: from an unknown point it cannot be repeated. */
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 40000, buf + 40100, 4096, cb, &s[3]), 0);
			fake_run(dev);
			dev->lose = false;
			make_trouble(t);
			svio_dsa_poll(wq, 0); /* the queue knows: what comes now is not in flight */
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 60000, buf, 4096, cb, &later), 0);
			poll_some(200);
			for (int i = 0; i < 4; i++) {
				CU_ASSERT_EQUAL(s[i].calls, 1);
				CU_ASSERT_EQUAL(s[i].res.status, policy && i < 3 ? 0 : -ECANCELED);
				CU_ASSERT_EQUAL(i < 3 && buf[8192 * (i + 1) + 4095], policy && i < 3);
			}
			CU_ASSERT_EQUAL(later.calls, 1);
			CU_ASSERT_EQUAL(later.res.status, 0);
			/* The PASID of a renewed bond is what the queue works with. */
			CU_ASSERT_EQUAL(bond.pasid, t == BY_RESET || t == BY_ORDERLY_RESET ? 38 : 37);
			CU_ASSERT_EQUAL(DSA_WQCFG_PASID_OF(dev->wqcfg[0][DSA_WQCFG_MODE / 4]), bond.pasid);
			svio_dsa_get_stats(dsa, &stats);
			CU_ASSERT_TRUE(stats.resets >= 1);
			CU_ASSERT_EQUAL(stats.canceled, policy ? 1 : 4);
			CU_ASSERT_EQUAL(stats.requeued, policy ? 3 : 0);
			CU_ASSERT_EQUAL(stats.revocations, t == BY_DECODING);
			finish();
		}
}

/* Settled one completion a poll: nothing is settled twice. */
static void test_little_by_little(void)
{
	struct svio_dsa_stats stats;
	struct seen s[8] = { 0 };
	uint8_t *buf;

	begin(SVIO_DSA_REQUEUE);
	buf = fake_buf(65536);
	dev->lose = true;
	for (int i = 0; i < 8; i++) /* every other one overlaps */
		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 8192 * i, buf + 8192 * i + (i & 1 ? 100 : 4096), 4096, cb, &s[i]), 0);
	fake_run(dev);
	dev->lose = false;
	svio_dsa_reset(dsa);
	for (int i = 0; i < 200; i++) {
		CU_ASSERT_TRUE(svio_dsa_poll(wq, 1) <= 1);
		fake_run(dev);
		fake_now += 100000;
	}
	for (int i = 0; i < 8; i++)
		CU_ASSERT_TRUE(s[i].calls == 1 && s[i].res.status == (i & 1 ? -ECANCELED : 0));
	svio_dsa_get_stats(dsa, &stats);
	CU_ASSERT_TRUE(stats.requeued == 4 && stats.canceled == 4);
	finish();
}

/* A bond that is refused later is waited for, one that is refused for good is the end: everything completes. */
static void test_bond_lost(void)
{
	for (int good = 0; good < 2; good++) {
		struct seen s = { 0 };
		uint8_t *buf;

		begin(SVIO_DSA_REQUEUE);
		buf = fake_buf(8192);
		dev->lose = true;
		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s), 0);
		fake_run(dev);
		dev->lose = false;
		dev->renew_err = EBUSY;
		fake_function_reset(dev, true);
		poll_some(100);
		CU_ASSERT_EQUAL(s.calls, 0);
		dev->renew_err = good ? 0 : EDQUOT;
		poll_some(100);
		CU_ASSERT_EQUAL(s.calls, 1);
		CU_ASSERT_EQUAL(s.res.status, good ? 0 : -ENODEV);
		CU_ASSERT_EQUAL(svio_dsa_gone(dsa), !good);
		finish();
	}
}

/* Nothing ends before the device has stopped: while it is away its descriptors may still be at work. */
static void test_not_too_early(void)
{
	struct seen s = { 0 };
	uint8_t *buf;

	begin(SVIO_DSA_FAIL);
	buf = fake_buf(8192);
	dev->lose = true;
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 4096, cb, &s), 0);
	fake_run(dev);
	fake_revoke(dev);
	poll_some(1000);
	CU_ASSERT_EQUAL(s.calls, 0);
	CU_ASSERT_FALSE(svio_dsa_ready(dsa));
	fake_restore(dev);
	poll_some(100);
	CU_ASSERT_EQUAL(s.calls, 1);
	CU_ASSERT_EQUAL(s.res.status, -ECANCELED);
	CU_ASSERT_TRUE(svio_dsa_ready(dsa));
	finish();
}

static void test_gone(void)
{
	struct seen s[3] = { 0 }, done = { 0 };
	uint8_t *buf;

	for (int asked = 0; asked < 2; asked++) {
		memset(s, 0, sizeof(s));
		memset(&done, 0, sizeof(done));
		begin(SVIO_DSA_REQUEUE);
		buf = fake_buf(8192);
		dev->lose = true;
		for (int i = 0; i < 2; i++)
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s[i]), 0);
		fake_run(dev);
		/* What the device had completed counts, though nobody has looked yet. */
		dev->lose = false;
		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &done), 0);
		fake_run(dev);
		dev->stop = true;
		if (asked)
			svio_device_event_set(dev, SVIO_EV_REQ);
		else
			fake_unplug(dev);
		poll_some(50);
		for (int i = 0; i < 2; i++)
			CU_ASSERT_TRUE(s[i].calls == 1 && s[i].res.status == -ENODEV);
		CU_ASSERT_TRUE(done.calls == 1 && done.res.status == 0);
		CU_ASSERT_TRUE(svio_dsa_gone(dsa));
		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s[2]), -ENODEV);
		CU_ASSERT_EQUAL(dev->gensts == DSA_GENSTS_ENABLED, !asked);
		finish();
	}
}

static void test_timeout(void)
{
	struct seen s[2] = { 0 };
	struct svio_dsa_stats stats;
	uint8_t *buf;

	begin(SVIO_DSA_REQUEUE);
	buf = fake_buf(8192);
	dev->lose = true;
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s[0]), 0);
	fake_run(dev);
	for (int i = 0; i < 1000 && !s[0].calls; i++) {
		fake_now += 20000000;
		svio_dsa_poll(wq, 0);
		if (s[0].calls == 0 && i == 400) { /* younger: 2 s of the 10 */
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 512, buf + 4096, 64, cb, &s[1]), 0);
			fake_run(dev);
			dev->lose = false;
		}
	}
	CU_ASSERT_EQUAL(s[0].res.status, -ETIMEDOUT);
	poll_some(100);
	CU_ASSERT_TRUE(s[1].calls == 1 && s[1].res.status == 0);
	svio_dsa_get_stats(dsa, &stats);
	CU_ASSERT_EQUAL(stats.timeouts, 1);
	finish();
}

/* A queue that completes others is not late for one that it began long ago, until that is eight times too old. */
static void test_slow(void)
{
	struct svio_dsa_stats stats;
	struct seen slow = { 0 };
	uint8_t *buf;
	uint64_t begun;

	begin(SVIO_DSA_FAIL);
	buf = fake_buf(8192);
	dev->lose = true;
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &slow), 0);
	fake_run(dev);
	dev->lose = false;
	begun = fake_now;
	while (!slow.calls && fake_now - begun < UINT64_C(200000000000)) {
		struct seen other = { 0 };

		CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf + 512, buf + 4096, 64, cb, &other), 0);
		for (int i = 0; i < 100 && !other.calls; i++) {
			fake_run(dev);
			svio_dsa_poll(wq, 0);
			fake_now += 1000000;
		}
		fake_now += 1000000000;
	}
	CU_ASSERT_EQUAL(slow.res.status, -ETIMEDOUT);
	CU_ASSERT_TRUE(fake_now - begun > UINT64_C(78000000000) && fake_now - begun < UINT64_C(100000000000));
	svio_dsa_get_stats(dsa, &stats);
	CU_ASSERT_EQUAL(stats.timeouts, 1);
	finish();
}

/* A device that is reset for faults again and again is given up, with everything completed. */
static void test_given_up(void)
{
	unsigned int calls = 0;
	uint8_t *buf;

	begin(SVIO_DSA_REQUEUE);
	buf = fake_buf(8192);
	dev->lose = true;
	for (int i = 0; i < 20 && !svio_dsa_gone(dsa); i++) {
		struct seen s = { 0 };

		if (svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s) == -ENODEV)
			break;
		for (int p = 0; p < 10000 && !s.calls; p++) {
			fake_now += 20000000;
			svio_dsa_poll(wq, 0);
		}
		calls += s.calls;
		CU_ASSERT_EQUAL(s.calls, 1);
	}
	CU_ASSERT_TRUE(svio_dsa_gone(dsa));
	CU_ASSERT_EQUAL(calls, 5);
	CU_ASSERT_FALSE(dev->master);
	finish();
}

/* Halted, or disabled behind our back; errors that it reports. */
static void test_watch(void)
{
	struct svio_dsa_stats stats;
	struct seen s = { 0 };
	uint8_t *buf;

	begin(SVIO_DSA_REQUEUE);
	buf = fake_buf(8192);
	dev->lose = true;
	CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s), 0);
	fake_run(dev);
	dev->lose = false;
	dev->swerr = DSA_SWERR_VALID | DSA_ST_CR_FAULT << DSA_SWERR_ERROR_LSB;
	for (int i = 0; i < 2000; i++)
		svio_dsa_poll(wq, 0);
	fake_now += 200000000;
	for (int i = 0; i < 70000 && dev->swerr; i++)
		svio_dsa_poll(wq, 0);
	CU_ASSERT_EQUAL(dev->swerr, 0);
	dev->gensts = DSA_GENSTS_HALT;
	for (int i = 0; i < 200 && !s.calls; i++) {
		fake_now += 20000000;
		for (int p = 0; p < 100; p++)
			svio_dsa_poll(wq, 0);
	}
	CU_ASSERT_TRUE(s.calls == 1 && s.res.status == 0);
	svio_dsa_get_stats(dsa, &stats);
	CU_ASSERT_TRUE(stats.device_errors == 1 && stats.resets == 1 && stats.requeued == 1);
	finish();
}

/* ---- random operations under random trouble: each completes once, and what completes well is right -------------------------- */

#define SLOTS 48
#define LEN   9000u

struct work {
	uint8_t *src, *dst;
	uint64_t len;
	uint32_t seed;
	unsigned int calls;
	bool busy, batch, crc;
	struct svio_dsa_result results[4];
};

static unsigned int good, canceled, wrong;

static void work_done(void *ctx, const struct svio_dsa_result *res)
{
	struct work *w = ctx;

	w->calls++;
	w->busy = false;
	if (res->status == -ECANCELED || res->status == -ETIMEDOUT) {
		canceled++;
		return;
	}
	good++;
	if (res->status || (!w->batch && res->bytes != w->len))
		wrong++;
	if (w->crc)
		wrong += res->crc != svio_crc32c(w->seed, w->src, w->len);
	else if (w->batch)
		for (uint32_t i = 0; i < 4; i++)
			wrong += memcmp(w->src + i * 100, w->dst + i * 100, 90) != 0 || w->results[i].status;
	else
		wrong += memcmp(w->src, w->dst, w->len) != 0;
}

static int start(struct work *w)
{
	struct svio_dsa_op op = { .op = SVIO_DSA_COPY, .src = w->src, .dst = w->dst }, ops[4];

	w->len = 1 + (uint64_t)rand() % (LEN - 1);
	w->calls = 0;
	w->crc = w->batch = false;
	memset(w->dst, 0, LEN);
	for (uint32_t i = 0; i < LEN; i += 64)
		w->src[i] = (uint8_t)rand();
	switch (rand() % 3) {
	case 0:
		w->crc = true;
		op.op = SVIO_DSA_CRC;
		op.seed = w->seed = (uint32_t)rand();
		break;
	case 1:
		w->batch = true;
		for (uint32_t i = 0; i < 4; i++)
			ops[i] = (struct svio_dsa_op){ .op = SVIO_DSA_COPY, .src = w->src + i * 100, .dst = w->dst + i * 100, .len = 90,
						       .flags = i == 2 ? SVIO_DSA_FENCE : 0 };
		return svio_dsa_batch(wq, ops, 4, w->results, work_done, w);
	default:
		break;
	}
	op.len = w->len;
	return svio_dsa_submit(wq, &op, work_done, w);
}

static void test_random(void)
{
	for (int policy = 0; policy < 2; policy++) {
		struct work work[SLOTS] = { 0 };
		unsigned int submitted = 0;

		begin(policy ? SVIO_DSA_REQUEUE : SVIO_DSA_FAIL);
		good = canceled = wrong = 0;
		srand(42);
		for (int i = 0; i < SLOTS; i++) {
			work[i].src = fake_buf(LEN);
			work[i].dst = fake_buf(LEN);
		}
		for (int step = 0; step < 60000; step++) {
			struct work *w = &work[rand() % SLOTS];

			dev->reverse = rand() & 1;
			dev->stop = rand() % 8 == 0;
			if (!w->busy && start(w) == 0) {
				w->busy = true;
				submitted++;
			}
			if (rand() % 4 == 0 && dev->num_absent < FAKE_PAGES)
				fake_absent(dev, work[rand() % SLOTS].dst + 4096 * (rand() % 3), false);
			if (rand() % 3 == 0)
				fake_run(dev);
			svio_dsa_poll(wq, rand() % 5 ? 0 : 1);
			if (rand() % 300 == 0)
				fake_revoke(dev);
			else if (rand() % 60 == 0)
				fake_restore(dev);
			else if (rand() % 500 == 0 && dev->decoding)
				fake_function_reset(dev, rand() & 1);
			else if (rand() % 500 == 0)
				svio_dsa_reset(dsa);
			fake_now += (uint64_t)rand() % 2000000;
		}
		dev->stop = false;
		fake_restore(dev);
		poll_some(2000);
		CU_ASSERT_EQUAL(svio_dsa_inflight(wq), 0);
		CU_ASSERT_EQUAL(submitted, good + canceled);
		CU_ASSERT_EQUAL(wrong, 0);
		CU_ASSERT_TRUE(good > 10000);
		for (int i = 0; i < SLOTS; i++)
			CU_ASSERT_TRUE(work[i].calls <= 1 && !work[i].busy);
		if (policy)
			CU_ASSERT_EQUAL(canceled, 0);
		finish();
	}
}

/* Destroyed with operations in flight, also while the device is away. */
static void test_destroy(void)
{
	for (int away = 0; away < 2; away++) {
		struct seen s[10] = { 0 };
		uint8_t *buf;

		begin(SVIO_DSA_REQUEUE);
		buf = fake_buf(8192);
		dev->stop = true;
		for (int i = 0; i < 10; i++)
			CU_ASSERT_EQUAL(svio_dsa_copy(wq, buf, buf + 4096, 64, cb, &s[i]), 0);
		if (away)
			fake_revoke(dev);
		svio_dsa_wq_destroy(wq);
		for (int i = 0; i < 10; i++)
			CU_ASSERT_TRUE(s[i].calls == 1 && s[i].res.status == -ECANCELED);
		/* What could not be stopped has no access to memory any more. */
		CU_ASSERT_EQUAL(dev->master, !away);
		wq = NULL;
		finish();
	}
}

static const struct unit_test tests[] = {
	{ "opening: refusals, hangs, nonsense", test_open },
	{ "each trouble under each policy", test_policies },
	{ "settled little by little", test_little_by_little },
	{ "a bond that a reset has ended", test_bond_lost },
	{ "nothing ends before the device has stopped", test_not_too_early },
	{ "gone, or wanted back", test_gone },
	{ "an operation that takes too long", test_timeout },
	{ "slow is not hung", test_slow },
	{ "a device that fails again and again", test_given_up },
	{ "halted; errors that the device reports", test_watch },
	{ "destroyed with operations in flight", test_destroy },
	{ "random operations under random trouble", test_random },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("dsa/recover", tests);
}
