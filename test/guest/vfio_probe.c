/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Room vfio against real Linux VFIO. Run in the lab by t_vfio.sh; one check per line, "ok - what" or "not ok - what: why".
 *
 *	vfio_probe basic BDF			open, info, regions, config, DMA, close leaves nothing
 *	vfio_probe irq BDF			eventfds of MSI-X, MSI and INTx; ERR and REQ; a reset re-arms them
 *	vfio_probe reset BDF			function reset with hooks, memory decoding off and on
 *	vfio_probe hot BDF BDF			a hot reset of two functions of one bus, and with one of them closed
 *	vfio_probe domain BDF BDF		two devices in one domain, apart again, and the refusals
 *	vfio_probe limits BDF			dma_entry_limit of 4 (set by the caller); RLIMIT_MEMLOCK
 *	vfio_probe fork BDF			what a child may do
 *	vfio_probe request BDF			print PULL, wait for SVIO_EV_REQ, close
 *	vfio_probe hold BDF [TOKEN]		open, print "held", wait for the end of standard input
 *	vfio_probe vf BDF TOKEN			a VF: BARs readable with its memory bit clear
 *	vfio_probe refuse ERRNO WORDS BDF [TOKEN]	open fails with ERRNO, says WORDS, and leaves nothing
 *	vfio_probe refuse-user ERRNO WORDS BDF	the same as user 1000
 */
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "svio_vfio.h"

static int failures;

static bool check(bool good, const char *what)
{
	if (good)
		printf("ok - %s\n", what);
	else
		printf("not ok - %s: %s\n", what, svio_last_error());
	failures += !good;
	fflush(stdout);
	return good;
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	if (!d)
		return -1;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Is there a descriptor of ours below /dev/vfio, or the device's own? */
static bool holds_vfio(void)
{
	DIR *d = opendir("/proc/self/fd");
	char target[128];
	struct dirent *e;
	bool found = false;

	while (d && (e = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);

		if (n < 0)
			continue;
		target[n] = '\0';
		found |= strstr(target, "vfio") != NULL;
	}
	if (d)
		closedir(d);
	return found;
}

static struct svio_device *open_or_die(const char *name, const char *token)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .vf_token = token };
	struct svio_device *dev;

	if (!check(svio_device_open(name, &opts, &dev) == 0, "open"))
		exit(1);
	return dev;
}

static uint32_t command(struct svio_device *dev)
{
	uint32_t v = 0xffff;

	svio_device_config_read(dev, 4, 2, &v);
	return v;
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

static bool take(int fd)
{
	uint64_t n;

	return readable(fd, 2000) && read(fd, &n, sizeof(n)) == sizeof(n);
}

static int first_bar(struct svio_device *dev, struct svio_region_info *r)
{
	for (uint32_t i = 0; i < 6; i++)
		if (svio_device_region_info(dev, i, r) == 0 && r->num_areas)
			return (int)i;
	return -1;
}

static void basic(const char *name)
{
	struct svio_device_info info;
	struct svio_region_info r;
	struct svio_dma_info dma;
	struct svio_dma_map map = {
		.iova = 0x10000000, .len = 2 << 20, .prot = SVIO_DMA_READ | SVIO_DMA_WRITE, .fd = -1
	};
	struct svio_device *dev, *again;
	void *p, *mem;
	uint32_t a, b;
	int fds, bar;

	/* Once before counting: what libc opens and keeps is not ours. */
	svio_device_close(open_or_die(name, NULL));
	fds = count_fds();
	dev = open_or_die(name, NULL);
	svio_device_get_info(dev, &info);
	check(info.transport == SVIO_TRANSPORT_GROUP && info.num_regions >= 9 && info.num_irqs >= 5,
	      "info: counts");
	check(info.vendor && info.vendor != 0xffff && info.iommu_group >= 0 && info.class_code,
	      "info: identity");
	check(strcmp(svio_device_name(dev), name) == 0, "name");
	check((command(dev) & 6) == 2, "after open: memory decoding on, bus mastering off");
	check(svio_device_set_master(dev, true) == 0 && (command(dev) & 6) == 6,
	      "set_master(true)");
	check(svio_device_set_master(dev, false) == 0 && (command(dev) & 6) == 2,
	      "set_master(false)");
	check(svio_device_open(name, NULL, &again) == -EBUSY && !again,
	      "second open in this process is refused");

	bar = first_bar(dev, &r);
	check(bar >= 0, "a BAR that can be mapped");
	printf("# BAR %d: %#llx bytes, %u areas, first %#llx+%#llx\n", bar,
	       (unsigned long long)r.size, r.num_areas, (unsigned long long)r.areas[0].offset,
	       (unsigned long long)r.areas[0].size);
	check(svio_device_region_mmap(dev, (uint32_t)bar, r.areas[0].offset, 4096,
				      PROT_READ | PROT_WRITE, NULL, &p) == 0,
	      "mmap");
	check(svio_device_region_read(dev, (uint32_t)bar, r.areas[0].offset, &a, 4) == 0 &&
		      a == *(volatile uint32_t *)p && a != UINT32_MAX,
	      "region read agrees with the mapping");
	check(munmap(p, 4096) == 0, "munmap");
	check(svio_device_region_read(dev, (uint32_t)bar, r.size - 2, &a, 4) == -EINVAL,
	      "read over the end is refused");
	check(svio_device_config_read(dev, 0, 2, &b) == 0 && b == info.vendor, "config space");

	check(svio_device_config_write(dev, 4, 2, command(dev) & ~2u) == 0, "memory decoding off");
	if (!info.is_vf)
		check(svio_device_region_read(dev, (uint32_t)bar, r.areas[0].offset, &a, 4) == -EIO,
		      "region read without decoding is -EIO");
	check(svio_device_config_write(dev, 4, 2, command(dev) | 2u) == 0, "memory decoding on");

	check(svio_dma_info(svio_device_domain(dev), &dma) == 0 && dma.num_ranges > 1 &&
		      dma.pgsizes & 4096 && dma.max_mappings > 1000,
	      "DMA information");
	for (uint32_t i = 0; i < dma.num_ranges; i++)
		printf("# IOVA %#llx-%#llx\n", (unsigned long long)dma.ranges[i].start,
		       (unsigned long long)dma.ranges[i].last);
	printf("# pgsizes %#llx dma_avail %llu dirty %d memlock %d\n",
	       (unsigned long long)dma.pgsizes, (unsigned long long)dma.max_mappings,
	       dma.dirty_tracking, dma.accounts_memlock);
	mem = mmap(NULL, map.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	map.vaddr = mem;
	check(svio_dma_map(svio_device_domain(dev), &map) == 0, "DMA map");
	check(svio_dma_map(svio_device_domain(dev), &map) == -EEXIST, "DMA map twice is -EEXIST");
	check(svio_dma_unmap(svio_device_domain(dev), map.iova, 4096) == -EINVAL,
	      "partial unmap is -EINVAL");
	check(svio_dma_unmap(svio_device_domain(dev), map.iova, map.len) == 0, "DMA unmap");
	check(svio_dma_unmap(svio_device_domain(dev), map.iova, map.len) == -ENOENT,
	      "unmap of nothing is -ENOENT");
	munmap(mem, map.len);
	svio_device_close(dev);
	check(count_fds() == fds && !holds_vfio(), "close leaves no descriptor");
}

/* ---- interrupts -------------------------------------------------------------------------------------- */

static void irq_index(struct svio_device *dev, uint32_t index, const char *name)
{
	struct svio_irq_info info;
	int fds[8], extra;
	uint32_t n;
	char what[96];

	if (svio_device_irq_info(dev, index, &info) != 0 || !info.count) {
		printf("# no %s\n", name);
		return;
	}
	n = info.count < 8 ? info.count : 8;
	printf("# %s: %u vectors, noresize %d, maskable %d\n", name, info.count, info.noresize,
	       info.maskable);
	for (uint32_t i = 0; i < n; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	extra = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	snprintf(what, sizeof(what), "%s: enable %u", name, n > 1 ? n - 1 : n);
	if (!check(svio_device_irq_enable(dev, index, 0, n > 1 ? n - 1 : n, fds) == 0, what))
		return;
	if (n > 2) {
		snprintf(what, sizeof(what), "%s: one more vector", name);
		check(svio_device_irq_enable(dev, index, n - 1, 1, &fds[n - 1]) == 0, what);
	}
	snprintf(what, sizeof(what), "%s: triggers reach their eventfds", name);
	n = n == 2 ? 1 : n;
	check(svio_device_irq_trigger(dev, index, 0, n) == 0 && take(fds[0]) &&
		      (n == 1 || take(fds[n - 1])),
	      what);
	for (uint32_t i = 1; i + 1 < n; i++)
		take(fds[i]);
	snprintf(what, sizeof(what), "%s: an eventfd replaced", name);
	check(svio_device_irq_enable(dev, index, 0, 1, &extra) == 0 &&
		      svio_device_irq_trigger(dev, index, 0, 1) == 0 && take(extra) &&
		      !readable(fds[0], 0),
	      what);
	if (index == SVIO_IRQ_INTX)
		check(svio_device_irq_mask(dev, index, 0, 1) == 0 &&
			      svio_device_irq_unmask(dev, index, 0, 1) == 0,
		      "INTx: mask and unmask");
	snprintf(what, sizeof(what), "%s: re-armed by a reset", name);
	check(svio_device_reset(dev) == 0 && svio_device_irq_trigger(dev, index, 0, n) == 0 &&
		      take(extra) && (n == 1 || take(fds[n - 1])),
	      what);
	for (uint32_t i = 1; i < n; i++)
		readable(fds[i], 0);
	check(svio_device_irq_enable(dev, index == SVIO_IRQ_MSIX ? SVIO_IRQ_INTX : SVIO_IRQ_MSIX, 0,
				     1, &extra) < 0,
	      "another type is refused meanwhile");
	snprintf(what, sizeof(what), "%s: disable", name);
	check(svio_device_irq_disable(dev, index) == 0 &&
		      svio_device_irq_trigger(dev, index, 0, 1) == -EINVAL,
	      what);
	for (uint32_t i = 0; i < (info.count < 8 ? info.count : 8); i++)
		close(fds[i]);
	close(extra);
}

static bool event_comes(struct svio_device *dev, uint32_t event, int ms)
{
	uint64_t end = svio_now_ns() + (uint64_t)ms * 1000000;

	while (!(svio_device_events(dev) & event))
		if (svio_now_ns() > end)
			return false;
	return true;
}

static void irq(const char *name)
{
	struct svio_device *dev;
	int fds;

	svio_device_close(open_or_die(name, NULL));
	fds = count_fds();
	dev = open_or_die(name, NULL);
	irq_index(dev, SVIO_IRQ_MSIX, "MSI-X");
	irq_index(dev, SVIO_IRQ_MSI, "MSI");
	irq_index(dev, SVIO_IRQ_INTX, "INTx");
	check(svio_device_irq_trigger(dev, SVIO_IRQ_REQ, 0, 1) == 0 &&
		      event_comes(dev, SVIO_EV_REQ, 5000),
	      "REQ becomes an event");
	check(svio_device_irq_trigger(dev, SVIO_IRQ_ERR, 0, 1) == 0 &&
		      event_comes(dev, SVIO_EV_ERR, 5000),
	      "ERR becomes an event");
	svio_device_event_clear(dev, SVIO_EV_REQ | SVIO_EV_RESET);
	check(svio_device_reset(dev) == 0 &&
		      svio_device_irq_trigger(dev, SVIO_IRQ_REQ, 0, 1) == 0 &&
		      event_comes(dev, SVIO_EV_REQ, 5000),
	      "REQ is armed again by a reset");
	svio_device_close(dev);
	check(count_fds() == fds && !holds_vfio(), "close leaves no descriptor");
}

/* ---- reset -------------------------------------------------------------------------------------------- */

static int prepared, finished;

static void on_prepare(void *ctx, struct svio_device *dev)
{
	(void)ctx;
	(void)dev;
	prepared++;
}

static void on_done(void *ctx, struct svio_device *dev, int err)
{
	(void)ctx;
	(void)dev;
	finished += err == 0;
}

static struct svio_device_hook hook = { .stage = SVIO_HOOK_DRIVER,
					.prepare = on_prepare,
					.done = on_done };

static void reset(const char *name)
{
	struct svio_device *dev = open_or_die(name, NULL);
	struct svio_region_info r;
	uint32_t v;
	int bar = first_bar(dev, &r);

	svio_device_hook_add(dev, &hook);
	check(svio_device_set_master(dev, true) == 0, "bus mastering on");
	for (int i = 0; i < 10; i++)
		if (svio_device_reset(dev) != 0)
			break;
	check(prepared == 10 && finished == 10, "ten resets with their hooks");
	check((command(dev) & 6) == 6 && svio_device_events(dev) == SVIO_EV_RESET,
	      "mastering restored, event raised");
	check(svio_device_set_memory(dev, false) == 0 && !(command(dev) & 2) && prepared == 11 &&
		      finished == 10 &&
		      svio_device_region_read(dev, (uint32_t)bar, 0, &v, 4) == -EIO,
	      "memory decoding off");
	check(svio_device_set_memory(dev, true) == 0 && command(dev) & 2 && finished == 11 &&
		      svio_device_region_read(dev, (uint32_t)bar, 0, &v, 4) == 0,
	      "memory decoding on");
	svio_device_hook_remove(dev, &hook);
	svio_device_close(dev);
}

static void hot(const char *one, const char *two)
{
	struct svio_device *a = open_or_die(one, NULL), *b = open_or_die(two, NULL);

	svio_device_hook_add(b, &hook);
	check(svio_device_domain(a) == svio_device_domain(b),
	      "functions of one group share its domain");
	check(svio_device_set_master(b, true) == 0, "bus mastering of the neighbour on");
	check(svio_device_hot_reset(a) == 0, "hot reset of both");
	check(prepared == 1 && finished == 1 && (command(b) & 6) == 6 &&
		      svio_device_events(b) & SVIO_EV_RESET,
	      "the neighbour's hooks ran, it was restored, and it knows");
	svio_device_hook_remove(b, &hook);
	svio_device_close(b);
	check(svio_device_hot_reset(a) == 0, "hot reset with the neighbour closed");
	svio_device_close(a);
	check(!holds_vfio(), "close leaves no descriptor");
}

/* ---- domains ------------------------------------------------------------------------------------------- */

static void domain(const char *one, const char *two)
{
	struct svio_dma_map map = {
		.iova = 0x10000000, .len = 1 << 20, .prot = SVIO_DMA_READ | SVIO_DMA_WRITE, .fd = -1
	};
	struct svio_device *a = open_or_die(one, NULL), *b = open_or_die(two, NULL);
	struct svio_dma_domain *d = svio_device_domain(a);
	int efd = eventfd(0, EFD_CLOEXEC), bar, fds;
	struct svio_region_info r;
	void *p;

	map.vaddr = mmap(NULL, map.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	svio_dma_domain_get(d);
	fds = count_fds();
	check(d != svio_device_domain(b), "a domain each");
	check(svio_dma_map(d, &map) == 0, "map before the second device");
	check(svio_device_irq_enable(b, SVIO_IRQ_MSIX, 0, 1, &efd) == 0 &&
		      svio_device_set_domain(b, d) == -EBUSY,
	      "no move with interrupts");
	check(svio_device_irq_disable(b, SVIO_IRQ_MSIX) == 0, "disable");
	bar = first_bar(b, &r);
	check(svio_device_region_mmap(b, (uint32_t)bar, 0, 4096, PROT_READ, NULL, &p) == 0 &&
		      svio_device_set_domain(b, d) == -EBUSY && strstr(svio_last_error(), "BARs"),
	      "no move with a mapped BAR");
	check(*(volatile uint32_t *)p != UINT32_MAX && (command(b) & 2),
	      "and the device works after the refusal");
	munmap(p, 4096);
	check(svio_device_set_domain(b, d) == 0 && svio_device_domain(b) == d,
	      "the second device joins");
	check(count_fds() == fds - 1, "its own container is closed");
	check((command(b) & 6) == 2 && svio_device_irq_trigger(b, SVIO_IRQ_REQ, 0, 1) == 0 &&
		      event_comes(b, SVIO_EV_REQ, 5000),
	      "restored after the move");
	check(svio_device_set_domain(a, NULL) == 0, "the first one leaves");
	check(svio_dma_map(d, &map) == -EEXIST, "the mapping is still there");
	check(svio_device_set_domain(b, NULL) == -EBUSY, "the last one may not leave mappings");
	check(svio_dma_unmap(d, map.iova, map.len) == 0 && svio_device_set_domain(b, NULL) == 0,
	      "without them it may");
	check(svio_dma_map(d, &map) < 0, "nothing maps without a device");
	printf("# %s\n", svio_last_error());
	check(svio_device_set_domain(a, d) == 0 && svio_dma_map(d, &map) == 0,
	      "and it takes devices again");
	svio_device_close(b);
	svio_device_close(a);
	svio_dma_domain_put(d);
	munmap(map.vaddr, map.len);
	close(efd);
	check(!holds_vfio(), "close leaves no descriptor");
}

static void limits(const char *name)
{
	struct svio_dma_map map = { .len = 4096, .prot = SVIO_DMA_READ, .fd = -1 };
	struct rlimit low = { 1 << 20, 1 << 20 };
	struct svio_device *dev = open_or_die(name, NULL);
	struct svio_dma_domain *d = svio_device_domain(dev);
	struct svio_dma_info info;
	size_t len = 8 << 20;
	int err = 0;

	map.vaddr = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(svio_dma_info(d, &info) == 0 && info.max_mappings == 4,
	      "dma_entry_limit is known beforehand");
	for (int i = 0; i < 5 && !err; i++) {
		map.iova = (uint64_t)i << 20;
		err = svio_dma_map(d, &map);
	}
	check(err == -ENOSPC && strstr(svio_last_error(), "dma_entry_limit"),
	      "the fifth mapping is -ENOSPC");
	printf("# %s\n", svio_last_error());
	for (int i = 0; i < 4; i++)
		svio_dma_unmap(d, (uint64_t)i << 20, 4096);
	/* CAP_IPC_LOCK lifts the limit, so that it goes with root. */
	if (setrlimit(RLIMIT_MEMLOCK, &low) != 0 || setresuid(1000, 1000, 1000) != 0)
		exit(1);
	check(svio_dma_info(d, &info) == 0 && info.accounts_memlock, "RLIMIT_MEMLOCK counts now");
	map.iova = 0;
	map.len = len;
	check(svio_dma_map(d, &map) == -ENOMEM && strstr(svio_last_error(), "ulimit -l 8192"),
	      "more than RLIMIT_MEMLOCK is -ENOMEM and says how much");
	printf("# %s\n", svio_last_error());
	map.len = 512 << 10;
	check(svio_dma_map(d, &map) == 0 && svio_dma_unmap(d, 0, map.len) == 0,
	      "less is fine, nothing was left");
	svio_device_close(dev);
}

/* ---- the rest ------------------------------------------------------------------------------------------- */

static void forked(const char *name)
{
	struct svio_device *dev = open_or_die(name, NULL);
	int status = -1;
	uint32_t v;
	pid_t pid;

	check(svio_device_set_master(dev, true) == 0, "bus mastering on");
	pid = fork();
	if (pid == 0) {
		svio_device_close(dev);
		_exit(holds_vfio() ? 1 : 0);
	}
	check(waitpid(pid, &status, 0) == pid && status == 0, "the child closes its copies");
	check((command(dev) & 6) == 6 && svio_device_region_read(dev, 0, 0, &v, 4) == 0,
	      "the parent's device works on");
	check(svio_device_irq_trigger(dev, SVIO_IRQ_REQ, 0, 1) == 0 &&
		      event_comes(dev, SVIO_EV_REQ, 5000),
	      "the parent's watcher works on");
	svio_device_close(dev);
	check(!holds_vfio(), "close leaves no descriptor");
}

static void request(const char *name)
{
	struct svio_device *dev = open_or_die(name, NULL);

	printf("PULL\n");
	fflush(stdout);
	check(event_comes(dev, SVIO_EV_REQ, 60000), "the host asks for the device back");
	svio_device_close(dev);
	check(!holds_vfio(), "given back");
}

static void hold(const char *name, const char *token)
{
	struct svio_device *dev = open_or_die(name, token);
	char c;

	printf("held\n");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	svio_device_close(dev);
}

static void vf(const char *name, const char *token)
{
	struct svio_device *dev = open_or_die(name, token);
	struct svio_device_info info;
	struct svio_region_info r;
	int bar = first_bar(dev, &r);
	uint32_t a, b;
	void *p;

	svio_device_get_info(dev, &info);
	check(info.is_vf && info.vendor == 0x8086 && info.device == 0x10ca,
	      "is a VF, with its identity");
	check(svio_device_set_master(dev, true) == 0 && command(dev) & 4, "bus mastering on");
	check(svio_device_region_mmap(dev, (uint32_t)bar, 0, 4096, PROT_READ | PROT_WRITE, NULL,
				      &p) == 0,
	      "mmap");
	/* VFSTATUS (82576 datasheet, §7.8 of the VF registers): offset 0x8 */
	check(svio_device_region_read(dev, (uint32_t)bar, 8, &a, 4) == 0 &&
		      a == ((volatile uint32_t *)p)[2],
	      "region read agrees with the mapping");
	/*
	 * PCIe 5.0 §9.3.4.1.3: the bit does not exist, and Linux neither returns -EIO nor withdraws the mapping. QEMU's VFs
	 * have the bit and obey it (so does setpci on a VF without any VFIO), and what is read meanwhile is not the register.
	 */
	check(svio_device_config_write(dev, 4, 2, 4) == 0, "memory bit clear");
	check(svio_device_region_read(dev, (uint32_t)bar, 8, &b, 4) == 0,
	      "BAR accessible by region access");
	b = ((volatile uint32_t *)p)[2];
	check(true, "BAR accessible through its mapping: no signal");
	check(svio_device_config_write(dev, 4, 2, 6) == 0 && ((volatile uint32_t *)p)[2] == a &&
		      svio_device_region_read(dev, (uint32_t)bar, 8, &b, 4) == 0 && b == a,
	      "BAR as before with the bit set");
	check(svio_device_set_memory(dev, false) == -EOPNOTSUPP, "set_memory is refused");
	check(svio_device_reset(dev) == 0 && command(dev) & 4, "reset");
	munmap(p, 4096);
	svio_device_close(dev);
	check(!holds_vfio(), "close leaves no descriptor");
}

static void refuse(int err, const char *words, const char *name, const char *token)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .vf_token = token };
	struct svio_device *dev;
	char what[160];
	int got = svio_device_open(name, &opts, &dev);

	snprintf(what, sizeof(what), "refused with %d and \"%s\" (got %d)", err, words, got);
	printf("# %s\n", svio_last_error());
	check(got == -err && !dev && strstr(svio_last_error(), words) && !holds_vfio(), what);
}

int main(int argc, char **argv)
{
	const char *op = argc > 2 ? argv[1] : "", *two = argc > 3 ? argv[3] : NULL;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(op, "basic") == 0)
		basic(argv[2]);
	else if (strcmp(op, "irq") == 0)
		irq(argv[2]);
	else if (strcmp(op, "reset") == 0)
		reset(argv[2]);
	else if (strcmp(op, "hot") == 0 && two)
		hot(argv[2], two);
	else if (strcmp(op, "domain") == 0 && two)
		domain(argv[2], two);
	else if (strcmp(op, "limits") == 0)
		limits(argv[2]);
	else if (strcmp(op, "fork") == 0)
		forked(argv[2]);
	else if (strcmp(op, "request") == 0)
		request(argv[2]);
	else if (strcmp(op, "hold") == 0)
		hold(argv[2], two);
	else if (strcmp(op, "vf") == 0 && two)
		vf(argv[2], two);
	else if (strcmp(op, "refuse") == 0 && argc > 4)
		refuse(atoi(argv[2]), argv[3], argv[4], argc > 5 ? argv[5] : NULL);
	else if (strcmp(op, "refuse-user") == 0 && argc > 4 && setresuid(1000, 1000, 1000) == 0)
		refuse(atoi(argv[2]), argv[3], argv[4], NULL);
	else
		return 2;
	return failures ? 1 : 0;
}
