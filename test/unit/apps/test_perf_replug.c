/* SPDX-License-Identifier: BSD-3-Clause */
/* Waiting for a device: which of those in sysfs counts as come back. Scan and bind are replaced (ld --wrap). */
#include <stdlib.h>
#include <string.h>
#include "perf_replug.h"
#include "unit.h"

#define NVME 0x010802
#define MAX  4
#define MS   UINT64_C(1000000)

int __wrap_svio_pci_scan(struct svio_pci_info **list, size_t *count);
int __wrap_svio_pci_bind(const struct svio_pci_addr *addr, const char *driver, uint32_t flags);

/* What sysfs shows, one state per look; the last one stays. */
static struct state {
	struct svio_pci_info devices[MAX];
	size_t count;
} states[4];
static unsigned int nstates, looks, binds;
static int bind_rc;

int __wrap_svio_pci_scan(struct svio_pci_info **list, size_t *count)
{
	const struct state *s = &states[looks < nstates ? looks : nstates - 1];

	looks++;
	*count = s->count;
	*list = calloc(MAX, sizeof(**list));
	memcpy(*list, s->devices, sizeof(s->devices));
	return 0;
}

int __wrap_svio_pci_bind(const struct svio_pci_addr *addr, const char *driver, uint32_t flags)
{
	(void)addr;
	(void)flags;
	CU_ASSERT_STRING_EQUAL(driver, "vfio-pci");
	binds++;
	return bind_rc ? svio_fail(-bind_rc, "not bound") : 0;
}

static void begin_states(void)
{
	memset(states, 0, sizeof(states));
	nstates = looks = binds = 0;
	bind_rc = 0;
}

static void state(void)
{
	nstates++;
}

static void device(const char *name, const char *driver, uint32_t class_code)
{
	struct state *s = &states[nstates - 1];
	struct svio_pci_info *d = &s->devices[s->count++];

	CU_ASSERT_EQUAL(svio_pci_parse_addr(name, &d->addr), 0);
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->driver, sizeof(d->driver), "%s", driver);
	d->has_driver = driver[0];
	d->class_code = class_code;
}

static bool never(void)
{
	return false;
}

static bool at_once(void)
{
	return true;
}

/* `looks_wanted` looks at most, then the time is over. */
static int wait_for(const char *name, bool bind_it, unsigned int looks_wanted, char *found)
{
	struct perf_replug r;
	int rc;

	CU_ASSERT_EQUAL_FATAL(perf_replug_begin(&r, name, bind_it), 0);
	rc = perf_replug_wait(&r, svio_now_ns() + looks_wanted * 600 * MS - 500 * MS, never, found);
	perf_replug_end(&r);
	return rc;
}

static void test_uevents(void)
{
	static const char event[] =
		"remove@/devices/pci0000:00/0000:00:02.0/0000:01:00.0\0ACTION=remove";
	static const char other[] = "add@/devices/pci0000:00/0000:00:02.0/0000:01:00.0\0ACTION=add";
	static const char queue[] = "remove@/devices/pci0000:00/0000:00:02.0/nvme/nvme0\0";
	struct svio_pci_addr addr = { 0 };

	CU_ASSERT(perf_replug_changed(event, sizeof(event), &addr));
	CU_ASSERT(addr.bus == 1 && addr.dev == 0 && addr.fn == 0);
	CU_ASSERT(perf_replug_changed(other, sizeof(other), &addr));
	CU_ASSERT_FALSE(perf_replug_changed("bind@/devices/0000:01:00.0", 27, &addr));
	CU_ASSERT_FALSE(perf_replug_changed(queue, sizeof(queue), &addr));
	/* From a socket: perhaps cut, perhaps without an end. */
	CU_ASSERT_FALSE(perf_replug_changed(event, 20, &addr));
	CU_ASSERT_FALSE(perf_replug_changed("", 0, &addr));
	CU_ASSERT_FALSE(perf_replug_changed("remove@", 8, &addr));
}

/* Still there, still bound: it has not been away, so it is not back. */
static void test_not_away(void)
{
	char found[PERF_REPLUG_NAME];

	begin_states();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", true, 1, found), -ETIMEDOUT);
	CU_ASSERT_EQUAL(wait_for("any", true, 1, found), -ETIMEDOUT);
	CU_ASSERT_EQUAL(binds, 0);
}

static void test_back(void)
{
	char found[PERF_REPLUG_NAME];

	begin_states();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	state();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", false, 3, found), 0);
	CU_ASSERT_STRING_EQUAL(found, "0000:01:00.0");
	CU_ASSERT_EQUAL(binds, 0);
}

static void test_bound_by_us(void)
{
	char found[PERF_REPLUG_NAME];

	begin_states();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	state();
	state();
	device("0000:01:00.0", "", NVME);
	/* Without being told to, it is left alone, and the error says what to do. */
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", false, 3, found), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "--bind"));
	CU_ASSERT_EQUAL(binds, 0);
	looks = 0;
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", true, 3, found), 0);
	CU_ASSERT_EQUAL(binds, 1);
	looks = 0;
	bind_rc = -EBUSY;
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", true, 3, found), -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "not bound"));
}

/* The host took it and gave it back: it may be taken when it is ours again, and not torn away. */
static void test_unbound_by_the_host(void)
{
	char found[PERF_REPLUG_NAME];

	begin_states();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	state();
	device("0000:01:00.0", "nvme", NVME);
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", true, 2, found), -ETIMEDOUT);
	CU_ASSERT_EQUAL(binds, 0);
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	looks = 0;
	CU_ASSERT_EQUAL(wait_for("0000:01:00.0", true, 3, found), 0);
	CU_ASSERT_EQUAL(binds, 0);
}

static void test_any(void)
{
	char found[PERF_REPLUG_NAME];

	begin_states();
	state();
	device("0000:01:00.0", "vfio-pci", NVME);
	device("0000:02:00.0", "vfio-pci", NVME); /* somebody else's */
	state();
	device("0000:02:00.0", "vfio-pci", NVME);
	device("0000:03:00.0", "", 0x020000); /* no NVMe controller */
	state();
	device("0000:02:00.0", "vfio-pci", NVME);
	device("0000:03:00.0", "", 0x020000);
	device("0000:04:00.0", "", NVME);
	CU_ASSERT_EQUAL(wait_for("any", true, 3, found), 0);
	CU_ASSERT_STRING_EQUAL(found, "0000:04:00.0");
	CU_ASSERT_EQUAL(binds, 1);
}

/* While the old device is held, sysfs is not read: the kernel may hold what it would wait for. */
static void test_not_before_closing(void)
{
	struct perf_replug r;

	begin_states();
	state();
	CU_ASSERT_EQUAL_FATAL(perf_replug_begin(&r, "0000:01:00.0", true), 0);
	CU_ASSERT_EQUAL(looks, 0);
	perf_replug_end(&r);
}

static void test_other_names(void)
{
	char found[PERF_REPLUG_NAME], longest[PERF_REPLUG_NAME + 8];
	struct perf_replug r;

	begin_states();
	CU_ASSERT_EQUAL(wait_for("user:/tmp/x.sock", false, 1, found), 0);
	CU_ASSERT_STRING_EQUAL(found, "user:/tmp/x.sock");
	CU_ASSERT_EQUAL(looks, 0);
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	CU_ASSERT_EQUAL(perf_replug_begin(&r, longest, false), -ENAMETOOLONG);
}

static void test_interrupted_and_closed(void)
{
	char found[PERF_REPLUG_NAME];
	struct perf_replug r;
	int fds = unit_count_fds();

	begin_states();
	state();
	CU_ASSERT_EQUAL_FATAL(perf_replug_begin(&r, "any", false), 0);
	CU_ASSERT_EQUAL(perf_replug_wait(&r, svio_now_ns() + 3600000 * MS, at_once, found), -EINTR);
	perf_replug_end(&r);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static const struct unit_test tests[] = {
	{ "uevents", test_uevents },
	{ "a device that never left is not back", test_not_away },
	{ "a device that was away is back", test_back },
	{ "bound only on request", test_bound_by_us },
	{ "a device that the host took is not torn away", test_unbound_by_the_host },
	{ "any: a new NVMe controller, and nothing else", test_any },
	{ "sysfs is read only when the device is closed", test_not_before_closing },
	{ "names that are no PCI address", test_other_names },
	{ "an interrupt ends it, and nothing stays open", test_interrupted_and_closed },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("apps/perf_replug", tests);
}
