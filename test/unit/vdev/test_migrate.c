/* SPDX-License-Identifier: BSD-3-Clause */
/* The migration state machine and its stream, also damaged and hostile. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/pci_regs.h>
#include "client.h"
#include "probe.h"

enum { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, P2P, PRE_COPY };

/* One MIG_DATA_READ. */
static int mig_read(struct tc *tc, uint32_t want, uint8_t *buf, uint32_t *got)
{
	struct svio_vfu_mig_data d = { .argsz = (uint32_t)sizeof(d) + want, .size = want };
	int err = tc_call(tc, SVIO_VFU_MIG_DATA_READ, &d, sizeof(d));

	if (err)
		return err;
	memcpy(&d, tc->data, sizeof(d));
	CU_ASSERT_EQUAL_FATAL(tc->len, sizeof(d) + d.size);
	CU_ASSERT_EQUAL(d.argsz, tc->len);
	CU_ASSERT_FATAL(d.size <= want);
	memcpy(buf, tc->data + sizeof(d), d.size);
	*got = d.size;
	return 0;
}

/* Read until short. Returns the bytes. */
static size_t drain(struct tc *tc, uint8_t *buf, size_t room, uint32_t step)
{
	size_t n = 0;
	uint32_t got;

	do {
		CU_ASSERT_FATAL(n + step <= room);
		CU_ASSERT_EQUAL_FATAL(mig_read(tc, step, buf + n, &got), 0);
		n += got;
	} while (got == step);
	return n;
}

static int mig_write(struct tc *tc, const uint8_t *buf, uint32_t len)
{
	struct svio_vfu_mig_data d = { .argsz = (uint32_t)sizeof(d), .size = len };
	uint8_t *m = malloc(sizeof(d) + len);
	int err;

	CU_ASSERT_PTR_NOT_NULL_FATAL(m);
	memcpy(m, &d, sizeof(d));
	if (len)
		memcpy(m + sizeof(d), buf, len);
	err = tc_call(tc, SVIO_VFU_MIG_DATA_WRITE, m, sizeof(d) + len);
	free(m);
	return err;
}

static void test_states(void)
{
	/* from, to, result; every pair of the five states */
	static const int arcs[][3] = {
		{ RUNNING, STOP, 0 }, { STOP, STOP_COPY, 0 }, { STOP_COPY, PRE_COPY, -EINVAL }, { STOP_COPY, STOP_COPY, 0 },
		{ STOP_COPY, RUNNING, 0 }, { RUNNING, PRE_COPY, 0 }, { PRE_COPY, STOP, 0 }, { STOP, PRE_COPY, 0 },
		{ PRE_COPY, STOP_COPY, 0 }, { STOP_COPY, RESUMING, 0 }, { RUNNING, RUNNING, 0 }, { RUNNING, STOP_COPY, 0 },
		{ STOP_COPY, STOP, 0 }, { STOP, RUNNING, 0 }, { RUNNING, RESUMING, 0 },
	};
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(tc_feature(&tc, SVIO_VFU_FEATURE_MIGRATION | SVIO_VFU_FEATURE_GET, NULL, 0, 16), 0);
	CU_ASSERT_EQUAL(tc.data[8], SVIO_VFU_MIG_STOP_COPY | SVIO_VFU_MIG_PRE_COPY);
	for (unsigned int i = 0; i < SVIO_ARRAY_SIZE(arcs); i++) {
		/* a RESUMING without data can only be left by a reset */
		if (tc_mig_get(&tc) == RESUMING || tc_mig_get(&tc) == ERROR)
			CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
		if (tc_mig_get(&tc) != (uint32_t)arcs[i][0])
			CU_ASSERT_EQUAL(tc_mig_set(&tc, (uint32_t)arcs[i][0]), 0);
		CU_ASSERT_EQUAL(tc_mig_set(&tc, (uint32_t)arcs[i][1]), arcs[i][2]);
		CU_ASSERT_EQUAL(tc_mig_get(&tc), arcs[i][2] ? (uint32_t)arcs[i][0] : (uint32_t)arcs[i][1]);
	}
	CU_ASSERT_EQUAL(tc_mig_get(&tc), RESUMING);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RUNNING), -EINVAL); /* nothing was loaded */
	CU_ASSERT_EQUAL(tc_mig_get(&tc), ERROR);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, STOP), -EINVAL);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_mig_get(&tc), RUNNING);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, ERROR), -EINVAL);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, P2P), -EINVAL);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, 7), -EINVAL);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, 8), -EINVAL); /* [L] indexes out of bounds */
	CU_ASSERT_EQUAL(tc_mig_set(&tc, UINT32_MAX), -EINVAL);
	tc_stop(&tc);
}

static void test_stop(void)
{
	unsigned int polls;
	struct probe *p;
	uint32_t v = 9;
	int fd;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	p = svio_vdev_priv(tc.dev);
	fd = tc_eventfd();
	CU_ASSERT_EQUAL(tc_irqs(&tc, SVIO_VFU_IRQ_DATA_EVENTFD | SVIO_VFU_IRQ_ACTION_TRIGGER, 2, 1, 1, &fd, 1), 0);
	p->hold = 4;
	polls = p->polls;
	CU_ASSERT_EQUAL(tc_mig_set(&tc, STOP), 0);
	CU_ASSERT_EQUAL(p->why, SVIO_VDEV_Q_STOP);
	CU_ASSERT(p->polls > polls); /* it was polled while it had to finish */
	polls = p->polls;
	tc_rounds(&tc, 50);
	CU_ASSERT_EQUAL(p->polls, polls); /* and is not any more */
	CU_ASSERT_EQUAL(tc_write(&tc, 0, 0, &v, 4), -EBUSY);
	CU_ASSERT_EQUAL(tc_write(&tc, 0, 0x1000, &v, 4), -EBUSY);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 0);
	tc_cfg_set(&tc, 4, 2, 6); /* configuration and MSI-X stay usable */
	tc_w32(&tc, 0x2000, 0xfee00000);
	svio_vdev_irq_raise(tc.dev, 1);
	CU_ASSERT_EQUAL(tc_signalled(fd), 0);
	CU_ASSERT_EQUAL(p->resumed, 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RUNNING), 0);
	CU_ASSERT_EQUAL(p->resumed, 1);
	CU_ASSERT_EQUAL(tc_signalled(fd), 1);
	tc_rounds(&tc, 5);
	CU_ASSERT(p->polls > polls);
	close(fd);
	tc_stop(&tc);
}


/* Save a configured device; returns the stream. */
static size_t save(uint8_t *buf, size_t room, bool precopy, uint32_t step)
{
	size_t n = 0;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	tc_master(&tc);
	tc_cfg_set(&tc, 0x14, 4, 0x1234);
	tc_w32(&tc, 0, 4711);
	tc_w32(&tc, 0x1ffc, 0xd00bbe11);
	tc_w32(&tc, 0x2000 + 16 * 7, 0xfee07000);
	tc_w32(&tc, 0x0c, 1);
	if (precopy) {
		CU_ASSERT_EQUAL(tc_mig_set(&tc, PRE_COPY), 0);
		for (int i = 0; i < 5; i++)
			n += drain(&tc, buf + n, room - n, step);
		CU_ASSERT_EQUAL(((struct probe *)svio_vdev_priv(tc.dev))->precopies, 3);
		tc_w32(&tc, 0, 4712); /* it goes on running */
	}
	CU_ASSERT_EQUAL(tc_mig_set(&tc, STOP_COPY), 0);
	n += drain(&tc, buf + n, room - n, step);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, STOP), 0);
	CU_ASSERT_EQUAL(mig_read(&tc, 100, buf + n, &(uint32_t){ 0 }), -EINVAL);
	tc_stop(&tc);
	return n;
}

static int load(struct tc *tc, const uint8_t *buf, size_t len, uint32_t step)
{
	int err = tc_mig_set(tc, RESUMING);

	for (size_t pos = 0; !err && pos < len; pos += step)
		err = mig_write(tc, buf + pos, (uint32_t)SVIO_MIN((size_t)step, len - pos));
	if (tc_mig_set(tc, STOP) != 0)
		err = err ? err : -EINVAL;
	return err;
}

static void round_trip(bool precopy, uint32_t step)
{
	static uint8_t buf[256 << 10];
	size_t n = save(buf, sizeof(buf), precopy, step);
	uint64_t shared;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(load(&tc, buf, n, step == 65536 ? 17 : 65536), 0);
	CU_ASSERT_EQUAL(tc_mig_get(&tc), STOP);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RUNNING), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), precopy ? 4712 : 4711);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x1ffc), 0xd00bbe11);
	memcpy(&shared, (uint8_t *)svio_vdev_bar_mem(tc.dev, 0) + 0x1ff8, 8);
	CU_ASSERT_EQUAL(shared, 0xd00bbe1100000000);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 4, 2), 6);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 0x14, 4), 0x1234);
	CU_ASSERT(svio_vdev_bus_master(tc.dev));
	CU_ASSERT_EQUAL(tc_r32(&tc, 0x2000 + 16 * 7), 0xfee07000);
	CU_ASSERT_EQUAL(tc_cfg(&tc, 6, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	CU_ASSERT_EQUAL(((struct probe *)svio_vdev_priv(tc.dev))->precopies_loaded, precopy ? 3 : 0);
	tc_stop(&tc);
}

static void test_round_trip(void)
{
	round_trip(false, 65536);
	round_trip(false, 100);
}

static void test_precopy(void)
{
	round_trip(true, 65536);
	round_trip(true, 1000);
	round_trip(true, 5016); /* exactly one section */
}

/* Every prefix, and every byte flipped, is refused: the device stays in ERROR until it is reset. */
static void test_damaged(void)
{
	static uint8_t buf[256 << 10];
	size_t n = save(buf, sizeof(buf), true, 65536);
	unsigned int refused = 0, tried = 0;
	struct tc tc;

	tc_start(&tc, "probe", 0);
	for (size_t cut = 0; cut < n; cut += cut < 200 || cut > n - 200 ? 1 : 997) {
		((struct probe *)svio_vdev_priv(tc.dev))->precopies_loaded = 0;
		refused += load(&tc, buf, cut, 65536) != 0;
		tried++;
		CU_ASSERT_EQUAL(tc_mig_get(&tc), ERROR);
		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	}
	CU_ASSERT_EQUAL(refused, tried);
	refused = tried = 0;
	for (size_t at = 0; at < n; at += at < 100 || at > n - 6000 ? 7 : 501) {
		((struct probe *)svio_vdev_priv(tc.dev))->precopies_loaded = 0;
		buf[at] ^= 0x40;
		refused += load(&tc, buf, n, 65536) != 0;
		buf[at] ^= 0x40;
		tried++;
		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	}
	CU_ASSERT_EQUAL(refused, tried);
	/* more behind the end */
	((struct probe *)svio_vdev_priv(tc.dev))->precopies_loaded = 0;
	buf[n] = 0;
	CU_ASSERT_NOT_EQUAL(load(&tc, buf, n + 1, 65536), 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	/* and the whole one still works */
	((struct probe *)svio_vdev_priv(tc.dev))->precopies_loaded = 0;
	CU_ASSERT_EQUAL(load(&tc, buf, n, 65536), 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RUNNING), 0);
	CU_ASSERT_EQUAL(tc_r32(&tc, 0), 4712);
	tc_stop(&tc);
}

/* Sections that claim to be endless or come in endless numbers are bounded. */
static void test_bounded(void)
{
	struct {
		uint64_t magic;
		char model[32];
		uint32_t type, version;
		uint64_t len;
	} __attribute__((packed)) m = { .model = "probe", .type = 4, .version = 3, .len = UINT64_MAX };
	static uint8_t buf[256 << 10], junk[512 << 10];
	size_t n = save(buf, sizeof(buf), false, 65536);
	struct tc tc;

	CU_ASSERT(n > sizeof(m));
	memcpy(&m.magic, buf, 8);
	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RESUMING), 0);
	CU_ASSERT_EQUAL(mig_write(&tc, (uint8_t *)&m, sizeof(m)), -EINVAL);
	CU_ASSERT_EQUAL(mig_write(&tc, (uint8_t *)&m, 1), -EINVAL); /* it stays bad */
	CU_ASSERT_EQUAL(tc_mig_set(&tc, STOP), -EINVAL);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	CU_ASSERT_EQUAL(tc_mig_set(&tc, RESUMING), 0);
	m.len = 300 << 10;
	CU_ASSERT_EQUAL(mig_write(&tc, (uint8_t *)&m, sizeof(m)), 0);
	CU_ASSERT_NOT_EQUAL(mig_write(&tc, junk, sizeof(junk)), 0);
	CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_DEVICE_RESET, NULL, 0), 0);
	/* another model's */
	tc_stop(&tc);
	tc_start(&tc, "edu", 0);
	CU_ASSERT_EQUAL(load(&tc, buf, n, 65536), -EINVAL);
	tc_stop(&tc);
	/* messages: sizes beyond the body, wrong states */
	tc_start(&tc, "probe", 0);
	CU_ASSERT_EQUAL(mig_write(&tc, buf, 10), -EINVAL);
	{
		struct svio_vfu_mig_data d = { .argsz = 8, .size = 100 };

		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_MIG_DATA_WRITE, &d, sizeof(d)), -EINVAL);
		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_MIG_DATA_READ, &d, sizeof(d)), -EINVAL);
		d.argsz = d.size = UINT32_MAX;
		CU_ASSERT_EQUAL(tc_call(&tc, SVIO_VFU_MIG_DATA_READ, &d, sizeof(d)), -EINVAL);
	}
	/* load() says no */
	((struct probe *)svio_vdev_priv(tc.dev))->fail_load = true;
	CU_ASSERT_EQUAL(load(&tc, buf, n, 65536), -EINVAL);
	CU_ASSERT_EQUAL(tc_mig_get(&tc), ERROR);
	tc_stop(&tc);
}

static const struct unit_test tests[] = {
	{ "the state machine: direct arcs, combined ones, forbidden ones", test_states },
	{ "STOP: DMA ended, nothing moves, interrupts pend; then it goes on", test_stop },
	{ "stop-and-copy round trip", test_round_trip },
	{ "pre-copy round trip", test_precopy },
	{ "truncated and damaged streams are refused", test_damaged },
	{ "hostile streams are bounded", test_bounded },
	{ NULL, NULL }
};

int main(void)
{
	svio_log_set(SVIO_LOG_ERR, NULL, NULL);
	return unit_run("vdev/migrate", tests);
}
