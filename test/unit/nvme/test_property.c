/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A million requests of all kinds over a device that completes in any order and at any time, and is withdrawn, reset,
 * aborted and restored at any moment. For each request: exactly one completion, with success; for each write: its data in the
 * namespace; for each read: the namespace's data in its buffer; and the order of submission kept over every reset.
 *
 * SEED=n OPS=n in the environment choose another run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fake.h"
#include "unit.h"

#define QPS   3u
#define SLOTS 64u /* requests of one queue pair; each has blocks and memory of its own */
#define SPAN  16u /* blocks of a slot: 4096 / (QPS * SLOTS) and less */

struct slot {
	struct svio_nvme_qp **qp;
	uint8_t *buf;
	uint64_t lba;
	uint32_t nlb, stamp, blocks; /* of the request in flight */
	int kind;		     /* 0: idle */
	uint64_t completions, submissions;
	bool failed_ok;
};

static struct svio_device *dev;
static struct svio_nvme *nvme;
static struct svio_nvme_qp *qps[QPS];
static struct svio_nvme_ns ns;
static struct slot slots[QPS * SLOTS];
static uint64_t rng, done, canceled, wrong;

static uint32_t rnd(uint32_t n)
{
	rng = rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(rng >> 33) % n;
}

static void fill(uint8_t *p, uint32_t nlb, uint64_t lba, uint32_t stamp)
{
	for (uint32_t b = 0; b < nlb; b++)
		for (uint32_t i = 0; i < 512; i += 8) {
			uint32_t v[2] = { (uint32_t)(lba + b) * 512 + i, stamp };

			memcpy(p + b * 512 + i, v, 8);
		}
}

static void cb(void *ctx, int status)
{
	struct slot *s = ctx;
	int kind = s->kind;

	s->completions++;
	done++;
	if (s->completions != s->submissions || kind == 0) {
		wrong++;
		return;
	}
	s->kind = 0;
	if (status == -ECANCELED && s->failed_ok) {
		canceled++;
		return;
	}
	if (status) {
		wrong++;
		return;
	}
	switch (kind) {
	case 1: /* write: in the namespace now */
	case 2: /* read: the buffer is what is there */
		if (memcmp(s->buf, dev->store + s->lba * 512, (size_t)s->nlb * 512))
			wrong++;
		break;
	case 3: /* zeroes */
		for (uint32_t i = 0; i < s->nlb * 512; i++)
			if (dev->store[s->lba * 512 + i]) {
				wrong++;
				break;
			}
		break;
	default:
		break;
	}
}

static bool submit(struct slot *s)
{
	struct svio_nvme_iov iov[2];
	struct svio_nvme_range range;
	uint32_t flags = rnd(4) ? 0 : SVIO_NVME_MORE, first;
	int kind = 1 + (int)rnd(5), r;

	s->nlb = 1 + rnd(SPAN);
	s->stamp++;
	switch (kind) {
	case 1:
		fill(s->buf, s->nlb, s->lba, s->stamp);
		if (s->nlb > 1 && rnd(3) == 0) {
			first = (1 + rnd(s->nlb - 1)) * 512;
			iov[0] = (struct svio_nvme_iov){ s->buf, first };
			iov[1] = (struct svio_nvme_iov){ s->buf + first, s->nlb * 512 - first };
			r = svio_nvme_writev(*s->qp, &ns, iov, 2, s->lba, s->nlb, flags, cb, s);
		} else {
			r = svio_nvme_write(*s->qp, &ns, s->buf, s->lba, s->nlb, flags, cb, s);
		}
		break;
	case 2:
		memset(s->buf, 0xcc, s->nlb * 512);
		r = svio_nvme_read(*s->qp, &ns, s->buf, s->lba, s->nlb, flags, cb, s);
		break;
	case 3:
		r = rnd(2) ? svio_nvme_write_zeroes(*s->qp, &ns, s->lba, s->nlb, flags, cb, s) : -1;
		if (r == -1) {
			range = (struct svio_nvme_range){ s->lba, s->nlb };
			r = svio_nvme_deallocate(*s->qp, &ns, &range, 1, cb, s);
		}
		break;
	default:
		kind = 4;
		r = svio_nvme_flush(*s->qp, &ns, cb, s);
		break;
	}
	if (r == -EAGAIN)
		return false;
	if (r) {
		wrong++;
		return false;
	}
	s->kind = kind;
	s->submissions++;
	return true;
}

static void disturb(uint32_t what)
{
	switch (what) {
	case 0:
		fake_revoke(dev);
		break;
	case 1: /* reset, maybe while withdrawn */
		fake_function_reset(dev, false);
		break;
	case 2:
		fake_function_reset(dev, true);
		break;
	case 3:
		if (!dev->revoked)
			(void)svio_nvme_reset(nvme);
		break;
	case 4: /* done, not reported: the controller dies between the two */
		if (dev->num_cmds)
			fake_execute(dev, rnd(dev->num_cmds));
		fake_function_reset(dev, false);
		break;
	default: /* disabled and enabled again at once: the driver finds another controller state than it left */
		fake_revoke(dev);
		fake_decode(dev, true);
		break;
	}
}

static void run(enum svio_nvme_policy policy, bool shadow, uint64_t seed, uint64_t ops)
{
	struct svio_nvme_opts opts = { .size = sizeof(opts), .policy = policy };
	struct svio_nvme_stats stats;
	uint64_t submitted = 0, idle = 0;

	rng = seed;
	done = 0;
	canceled = 0;
	wrong = 0;
	memset(slots, 0, sizeof(slots));
	dev = fake_new();
	if (shadow)
		dev->id.oacs = svio_cpu_to_le16(NVME_OACS_DBBUF);
	nvme = fake_open(dev, &opts);
	CU_ASSERT_EQUAL(svio_nvme_ns_get(nvme, 1, &ns), 0);
	for (uint32_t q = 0; q < QPS; q++)
		qps[q] = fake_qp(nvme, 4u << (2 * q)); /* 4, 16, 64 */
	for (uint32_t i = 0; i < QPS * SLOTS; i++) {
		slots[i].qp = &qps[i / SLOTS];
		slots[i].buf = (uint8_t *)fake_alloc(SPAN * 512 + 4096) + 4 * rnd(1024);
		slots[i].lba = (uint64_t)i * SPAN;
		slots[i].failed_ok = policy == SVIO_NVME_FAIL;
	}
	dev->auto_io = false;
	while (done < ops && !wrong) {
		uint32_t q = rnd(QPS), k;
		uint64_t before = done;

		for (k = rnd(8); k; k--) {
			struct slot *s = &slots[q * SLOTS + rnd(SLOTS)];

			if (s->kind == 0)
				submitted += submit(s);
		}
		if (rnd(2))
			svio_nvme_ring(qps[q]);
		if (rnd(3))
			fake_run(dev);
		for (k = rnd(6); k && dev->num_cmds; k--)
			fake_complete(dev, rnd(dev->num_cmds), 0);
		(void)svio_nvme_poll(qps[q], rnd(4) ? 0 : 1 + rnd(4));
		fake_now += rnd(200000);
		if (rnd(400) == 0)
			disturb(rnd(6));
		if (dev->revoked && rnd(10) == 0)
			fake_decode(dev, true);
		if (rnd(20000) == 0) { /* a queue pair comes and goes beside them */
			struct svio_nvme_qp *extra = NULL;

			fake_decode(dev, true);
			if (svio_nvme_qp_create(nvme, NULL, &extra) == 0)
				svio_nvme_qp_destroy(extra);
		}
		/* A run that stands still fails instead of turning for ever. */
		idle = done == before ? idle + 1 : 0;
		if (idle > 200000)
			wrong++;
	}
	fake_decode(dev, true);
	for (int i = 0; i < 2000 && done < submitted; i++) {
		for (uint32_t q = 0; q < QPS; q++) {
			svio_nvme_ring(qps[q]);
			fake_complete_all(dev);
			(void)svio_nvme_poll(qps[q], 0);
		}
		fake_now += 1000000;
	}
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(done, submitted);
	for (uint32_t i = 0; i < QPS * SLOTS; i++)
		CU_ASSERT_EQUAL(slots[i].completions, slots[i].submissions);
	svio_nvme_get_stats(nvme, &stats);
	printf("\n  seed %llu: %llu requests, %llu canceled, %llu resets, %llu withdrawals, %llu written again ",
	       (unsigned long long)seed, (unsigned long long)done, (unsigned long long)canceled,
	       (unsigned long long)stats.resets, (unsigned long long)stats.revocations, (unsigned long long)stats.requeued);
	CU_ASSERT_TRUE(stats.resets > 20 && (policy == SVIO_NVME_FAIL ? canceled > 100 : stats.requeued > 100 && canceled == 0));
	for (uint32_t q = 0; q < QPS; q++)
		svio_nvme_qp_destroy(qps[q]);
	svio_nvme_close(nvme);
	for (uint32_t i = 0; i < QPS * SLOTS; i++)
		svio_mem_free((void *)((uintptr_t)slots[i].buf & ~(uintptr_t)4095));
	CU_ASSERT_EQUAL(fake_mem_out(), 0);
	fake_free(dev);
}

static uint64_t env(const char *name, uint64_t value)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : value;
}

static void test_requeue(void)
{
	run(SVIO_NVME_REQUEUE, false, env("SEED", 1), env("OPS", 500000));
}

static void test_requeue_shadow(void)
{
	run(SVIO_NVME_REQUEUE, true, env("SEED", 2), env("OPS", 300000));
}

static void test_fail(void)
{
	run(SVIO_NVME_FAIL, false, env("SEED", 3), env("OPS", 200000));
}

static const struct unit_test tests[] = {
	{ "requeue: exactly once, with the right data", test_requeue },
	{ "requeue with shadow doorbells", test_requeue_shadow },
	{ "fail: exactly once, canceled or right", test_fail },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("nvme/property", tests);
}
