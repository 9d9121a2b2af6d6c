/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The MMIO guard on real kernel VFIO, in the lab: a BAR disappears and comes back while another
 * thread uses it.
 *
 *	guard_probe toggle DEV	memory decoding off and on through configuration space, ten times
 *	guard_probe orderly DEV	the same through svio_device_set_memory()
 *	guard_probe reset DEV	function reset, ten times
 *	guard_probe sleep DEV	D3hot and back through the power management capability, ten times
 *	guard_probe foreign DEV	a truncated file of our own reaches the earlier handler
 *	guard_probe die DEV	the same without such a handler: ends by SIGBUS
 *
 * DEV is QEMU's nvme, edu or pci-testdev, or our model of nvme or edu (with its option `map`) over vfio-user, of whose BARs
 * only some pages can be mapped: memory that holds what was stored (nvme doorbells, edu's buffer). Prints "ok - " and "not ok - " lines. Registers: NVMe 1.4
 * §3.1 (CAP 00h, VS 08h, AQA 24h, CSTS 1Ch); QEMU docs/specs/edu.rst (00h identification, 80h DMA
 * source) and docs/specs/pci-testdev.rst (the memory BAR's header is constant but for its count).
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "svio_mmio.h"
#include "svio_pci.h"

enum { COMMAND = 0x04, COMMAND_MEMORY = 2, CAP_PM = 0x01, PMCSR = 4, PMCSR_STATE = 3, D3HOT = 3 };

#define CYCLES 10

/* What a device offers to look at. */
static const struct kind {
	uint16_t vendor, device;
	const char *name;
	uint32_t fixed[4], num_fixed; /* registers that nobody changes; 4-byte loads */
	uint32_t wide;		      /* offset of a fixed 8-byte register, or UINT32_MAX */
	uint32_t scratch; /* one that can be stored to without consequence, or UINT32_MAX */
	bool resets;	  /* it can be reset alone */
	uint64_t at;	  /* the mapping's offset in the BAR, to which the others are relative */
	uint32_t echo;	  /* memory: what is stored by region access is read through the mapping; or UINT32_MAX */
} kinds[] = {
	{ 0x1b36, 0x0010, "nvme", { 0x00, 0x04, 0x08 }, 3, 0x00, 0x24, true, 0, UINT32_MAX },
	{ 0x1234, 0x11e8, "edu", { 0x00 }, 1, UINT32_MAX, 0x80, false, 0, UINT32_MAX },
	{ 0x1b36, 0x0005, "pci-testdev", { 0x00, 0x04, 0x08 }, 3, UINT32_MAX, UINT32_MAX, false, 0, UINT32_MAX },
}, models[] = {
	{ 0x1234, 0x5356, "nvme model", { 0x80, 0x84 }, 2, 0x88, 0x100, true, 0x1000, 0x200 },
	{ 0x1234, 0x11e8, "edu model", { 0x80, 0x84 }, 2, 0x88, 0x100, true, 0x40000, 0x200 },
};

static const struct kind *kind;
static struct svio_device *dev;
static struct svio_bar *bar;
static uint32_t fixed[4];
static uint64_t wide;
static int failures;

static bool __attribute__((format(printf, 2, 3))) check(bool good, const char *fmt, ...)
{
	va_list ap;

	printf("%s - guard: %s: ", good ? "ok" : "not ok", kind ? kind->name : "?");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("%s%s\n", good ? "" : "; last error: ", good ? "" : svio_last_error());
	fflush(stdout);
	failures += !good;
	return good;
}

static volatile char *reg(uint32_t off)
{
	return (volatile char *)bar->addr + off;
}

/* ---- the other thread ------------------------------------------------------------------------ */

static struct {
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t accesses, ones, wrong;
} hammer;

static void *hammer_main(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&hammer.stop, memory_order_relaxed)) {
		for (uint32_t i = 0; i < kind->num_fixed; i++) {
			uint32_t v = svio_mmio_read32(reg(kind->fixed[i]));

			if (v == UINT32_MAX)
				atomic_fetch_add(&hammer.ones, 1);
			else if (v != fixed[i])
				atomic_fetch_add(&hammer.wrong, 1);
		}
		if (kind->scratch != UINT32_MAX)
			svio_mmio_write32(reg(kind->scratch), 0);
		if (atomic_fetch_add(&hammer.accesses, 1) % 32 == 31)
			sched_yield();
	}
	return NULL;
}

/*
 * Until the other thread has been round n times more: it is alive, and has met what was done before
 * the call.
 */
static void let_hammer(uint64_t n)
{
	uint64_t until = atomic_load(&hammer.accesses) + n;

	while (atomic_load(&hammer.accesses) < until)
		sched_yield();
}

static void hammer_start(void)
{
	memset(&hammer, 0, sizeof(hammer));
	if (pthread_create(&hammer.thread, NULL, hammer_main, NULL) != 0)
		abort();
	let_hammer(2);
}

static void hammer_stop(void)
{
	let_hammer(2);
	atomic_store(&hammer.stop, true);
	pthread_join(hammer.thread, NULL);
	check(atomic_load(&hammer.wrong) == 0,
	      "the other thread read registers or all ones, nothing else (%llu rounds, %llu all ones)",
	      (unsigned long long)atomic_load(&hammer.accesses),
	      (unsigned long long)atomic_load(&hammer.ones));
}

/* ---- states ---------------------------------------------------------------------------------- */

static bool raised(uint32_t events)
{
	return svio_device_events(dev) & events;
}

static bool reads_ones(void)
{
	bool ones = true;

	for (uint32_t i = 0; i < kind->num_fixed; i++)
		ones = ones && svio_mmio_read32(reg(kind->fixed[i])) == UINT32_MAX &&
		       svio_mmio_read16(reg(kind->fixed[i])) == UINT16_MAX &&
		       svio_mmio_read8(reg(kind->fixed[i])) == UINT8_MAX;
	return ones &&
	       (kind->wide == UINT32_MAX || svio_mmio_read64(reg(kind->wide)) == UINT64_MAX);
}

/* The mapping leads to the device, not to some other page that reads the same. */
static bool echoes(void)
{
	static uint32_t n;

	if (kind->echo == UINT32_MAX)
		return true;
	n++;
	return svio_device_region_write(dev, 0, kind->at + kind->echo, &n, sizeof(n)) == 0 &&
	       svio_mmio_read32(reg(kind->echo)) == n;
}

static bool reads_right(void)
{
	bool right = true;

	for (uint32_t i = 0; i < kind->num_fixed; i++)
		right = right && svio_mmio_read32(reg(kind->fixed[i])) == fixed[i];
	return right && (kind->wide == UINT32_MAX || svio_mmio_read64(reg(kind->wide)) == wide) && echoes();
}

/* Both with the hammer running, and with it having run in that state. */
static bool is_withdrawn(void)
{
	bool ones = reads_ones();

	let_hammer(3);
	return ones && reads_ones() && svio_bar_revoked(bar) && raised(SVIO_EV_REVOKED);
}

static bool is_back(const void *addr)
{
	let_hammer(3);
	return reads_right() && !svio_bar_revoked(bar) && !raised(SVIO_EV_REVOKED) &&
	       bar->addr == addr;
}

static int set_command(bool memory)
{
	uint32_t cmd;
	int rc = svio_device_config_read(dev, COMMAND, 2, &cmd);

	if (rc != 0)
		return rc;
	return svio_device_config_write(
		dev, COMMAND, 2, memory ? cmd | COMMAND_MEMORY : cmd & ~(uint32_t)COMMAND_MEMORY);
}

/*
 * A fault withdraws a page: what a cycle may cost is bounded by the pages that are touched and the
 * threads that touch them.
 */
static bool faults_bounded(uint64_t before, int cycles)
{
	uint64_t n = svio_bar_fault_count() - before;

	return n >= (uint64_t)cycles && n <= (uint64_t)cycles * 8 * (bar->len / 4096 + 1);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_toggle(void)
{
	uint64_t faults = svio_bar_fault_count();
	const void *addr = bar->addr;
	bool off = true, answer = true, refused = true, on = true, back = true;
	uint32_t v;

	hammer_start();
	for (int i = 0; i < CYCLES; i++) {
		off = off && set_command(false) == 0 && is_withdrawn();
		answer = answer &&
			 svio_device_region_read(dev, bar->region, 0, &v, sizeof(v)) == -EIO;
		refused = refused && svio_bar_restore(dev) == -EAGAIN && is_withdrawn();
		on = on && set_command(true) == 0 && is_withdrawn();
		back = back && svio_bar_restore(dev) == 0 && is_back(addr);
	}
	check(off,
	      "decoding off, %d times: loads give all ones, the BAR is revoked, the event is raised",
	      CYCLES);
	check(answer, "region access gives -EIO meanwhile");
	check(refused, "restore gives -EAGAIN while decoding is off, and changes nothing");
	check(on, "decoding on: the shadow stays until restore");
	check(back, "restored at the same address, registers right, the event gone");
	check(faults_bounded(faults, CYCLES), "%llu faults in all: nothing span",
	      (unsigned long long)(svio_bar_fault_count() - faults));
	hammer_stop();
}

static void test_orderly(void)
{
	const void *addr = bar->addr;
	bool off = true, refused = true, back = true;

	hammer_start();
	for (int i = 0; i < CYCLES; i++) {
		off = off && svio_device_set_memory(dev, false) == 0 && is_withdrawn();
		refused = refused && svio_bar_restore(dev) == -EAGAIN;
		back = back && svio_device_set_memory(dev, true) == 0 && is_back(addr);
	}
	check(off, "svio_device_set_memory(false), %d times: withdrawn", CYCLES);
	check(refused, "restore gives -EAGAIN meanwhile");
	check(back, "svio_device_set_memory(true): restored by itself");
	hammer_stop();
}

static void test_reset(void)
{
	struct svio_device_info info;
	const void *addr = bar->addr;
	bool reset = true, told = true, back = true;

	svio_device_get_info(dev, &info);
	if (!info.can_reset) {
		check(!kind->resets, "no function reset, as expected of it");
		check(svio_device_reset(dev) == -ENOTTY && reads_right(),
		      "asked for one all the same: -ENOTTY, BAR as it was");
		return;
	}
	hammer_start();
	for (int i = 0; i < CYCLES; i++) {
		svio_device_event_clear(dev, SVIO_EV_RESET);
		reset = reset && svio_device_reset(dev) == 0;
		told = told && raised(SVIO_EV_RESET);
		back = back && is_back(addr);
	}
	check(reset, "reset %d times while the other thread uses the BAR", CYCLES);
	check(told, "SVIO_EV_RESET after each");
	check(back, "the BAR is back after each, at its address, registers right");
	hammer_stop();
}

static void test_sleep(void)
{
	uint8_t cfg[256], cap;
	const void *addr = bar->addr;
	bool off = true, refused = true, back = true;
	uint32_t pmcsr;

	if (!check(svio_device_region_read(dev, SVIO_REGION_CONFIG, 0, cfg, sizeof(cfg)) == 0,
		   "configuration space is read"))
		return;
	cap = svio_pci_find_cap(cfg, sizeof(cfg), CAP_PM, 0);
	if (!cap) {
		check(strcmp(kind->name, "nvme") != 0,
		      "no power management capability, as expected of it");
		return;
	}
	hammer_start();
	for (int i = 0; i < CYCLES; i++) {
		uint16_t at = (uint16_t)(cap + PMCSR);

		off = off && svio_device_config_read(dev, at, 2, &pmcsr) == 0 &&
		      svio_device_config_write(dev, at, 2,
					       (pmcsr & ~(uint32_t)PMCSR_STATE) | D3HOT) == 0 &&
		      is_withdrawn();
		/*
		 * Memory decoding stays on in the command register: only the region access tells.
		 */
		refused = refused && svio_bar_restore(dev) == -EAGAIN && is_withdrawn();
		back = back &&
		       svio_device_config_write(dev, at, 2, pmcsr & ~(uint32_t)PMCSR_STATE) == 0 &&
		       svio_bar_restore(dev) == 0 && is_back(addr);
	}
	check(off, "D3hot, %d times: loads give all ones, the BAR is revoked, the event is raised",
	      CYCLES);
	check(refused, "restore gives -EAGAIN in D3hot");
	check(back, "D0: restored at the same address, registers right");
	hammer_stop();
}

/* ---- foreign faults -------------------------------------------------------------------------- */

static volatile sig_atomic_t foreign_calls;
static void *volatile foreign_addr;

static void on_foreign(int sig, siginfo_t *info, void *uc)
{
	(void)sig;
	(void)uc;
	foreign_calls++;
	foreign_addr = info->si_addr;
	mmap((void *)((uintptr_t)info->si_addr & ~(uintptr_t)4095), 4096, PROT_READ,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* A mapping of a file that is truncated behind it. */
static volatile char *truncated(void)
{
	char path[] = "/tmp/guard_probe.XXXXXX";
	int fd = mkstemp(path);
	char *p;

	if (fd < 0 || unlink(path) != 0 || ftruncate(fd, 8192) != 0)
		abort();
	p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || ftruncate(fd, 4096) != 0)
		abort();
	close(fd);
	return p;
}

static void test_foreign(void)
{
	volatile char *p = truncated();

	hammer_start();
	check(set_command(false) == 0 && is_withdrawn(),
	      "withdrawn, with a SIGBUS handler of the application's own");
	check(foreign_calls == 0, "which was not asked about the BAR");
	(void)p[0];
	check(foreign_calls == 0, "the part of a truncated file that is there");
	(void)p[5000];
	check(foreign_calls == 1 && foreign_addr == p + 5000,
	      "the part that is not: the handler got it, with the address");
	check(set_command(true) == 0 && svio_bar_restore(dev) == 0 && is_back(bar->addr),
	      "restored");
	hammer_stop();
}

static void test_die(void)
{
	volatile char *p = truncated();

	hammer_start();
	check(set_command(false) == 0 && is_withdrawn(),
	      "withdrawn, without a SIGBUS handler of the application's own");
	(void)p[5000];
	check(false, "a foreign fault did not kill");
}

/* ---- main ------------------------------------------------------------------------------------ */

static const struct {
	const char *name;
	void (*fn)(void);
} tests[] = {
	{ "toggle", test_toggle }, { "orderly", test_orderly }, { "reset", test_reset },
	{ "sleep", test_sleep },   { "foreign", test_foreign }, { "die", test_die },
};

static bool setup(const char *name)
{
	struct svio_device_info info;

	if (svio_device_open(name, NULL, &dev) != 0)
		return check(false, "open %s", name);
	svio_device_get_info(dev, &info);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(kinds); i++)
		if (kinds[i].vendor == info.vendor && kinds[i].device == info.device)
			kind = &kinds[i];
	for (size_t i = 0; info.transport == SVIO_TRANSPORT_USER && i < SVIO_ARRAY_SIZE(models); i++)
		if (models[i].vendor == info.vendor && models[i].device == info.device)
			kind = &models[i];
	if (!kind)
		return check(false, "%s is %04x:%04x, which is none of mine", name, info.vendor,
			     info.device);
	if (svio_bar_map(dev, 0, kind->at, 0, 0, &bar) != 0)
		return check(false, "map BAR 0");
	for (uint32_t i = 0; i < kind->num_fixed; i++)
		fixed[i] = svio_mmio_read32(reg(kind->fixed[i]));
	if (kind->wide != UINT32_MAX)
		wide = svio_mmio_read64(reg(kind->wide));
	/* A register that reads all ones anyway would prove nothing. */
	return check(!reads_ones() && reads_right() && !svio_bar_revoked(bar) &&
			     !raised(SVIO_EV_REVOKED),
		     "BAR 0 is mapped, %zu bytes, first register 0x%08x", bar->len, fixed[0]);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_flags = SA_SIGINFO };

	for (size_t i = 0; argc == 3 && i < SVIO_ARRAY_SIZE(tests); i++) {
		if (strcmp(argv[1], tests[i].name) != 0)
			continue;
		if (tests[i].fn == test_foreign) {
			sa.sa_sigaction = on_foreign;
			sigaction(SIGBUS, &sa, NULL);
		}
		if (setup(argv[2]))
			tests[i].fn();
		svio_bar_unmap(bar);
		svio_device_close(dev);
		if (tests[i].fn == test_foreign) {
			sigaction(SIGBUS, NULL, &sa);
			check(sa.sa_sigaction == on_foreign,
			      "after the last unmap the handler is the application's again");
		}
		return failures != 0;
	}
	fprintf(stderr, "usage: guard_probe toggle|orderly|reset|sleep|foreign|die DEVICE\n");
	return 2;
}
