/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Connect, use, disconnect, again and again, and count what is left:
 *
 *	cycle_probe NVME-DEVICE N
 *
 * Each cycle opens the device, maps its doorbells and memory for DMA, sets interrupts, reads a register, and closes; every other one
 * leaves all the tidying to the close. Prints "ok - " and "not ok - " lines. No EAL: its memory would hide a leak of ours.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "svio_mmio.h"

#define MEM_LEN (64u << 10)
#define WARM_UP 50

/* Sanitizers keep what is freed, for a while; there LeakSanitizer looks for leaks at the end. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

struct residue {
	long fds, maps, rss; /* rss in KiB */
};

static struct residue residue(void)
{
	struct residue r = { 0, 0, 0 };
	DIR *d = opendir("/proc/self/fd");
	char line[512];
	FILE *f;

	while (d && readdir(d))
		r.fds++;
	if (d)
		closedir(d);
	f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		r.maps++;
	if (f)
		fclose(f);
	f = fopen("/proc/self/status", "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "VmRSS: %ld", &r.rss);
	if (f)
		fclose(f);
	return r;
}

/* NULL, or what failed. */
static const char *cycle(const char *name, int memfd, uint8_t *mem, const int *eventfds, bool tidy)
{
	struct svio_dma_map map = { .vaddr = mem, .len = MEM_LEN, .iova = 0x100000, .prot = SVIO_DMA_READ | SVIO_DMA_WRITE,
				    .fd = memfd };
	struct svio_device *dev;
	struct svio_bar *bar = NULL;
	const char *bad = NULL;
	uint32_t vs = 0;

	if (svio_device_open(name, NULL, &dev))
		return "open";
	if (svio_bar_map(dev, 0, 0x1000, 0, 0, &bar))
		bad = "map the doorbells";
	else if (svio_dma_map(svio_device_domain(dev), &map))
		bad = "map memory";
	else if (svio_device_irq_enable(dev, SVIO_IRQ_MSIX, 0, 2, eventfds))
		bad = "set interrupts";
	else if (svio_device_region_read(dev, 0, 8, &vs, sizeof(vs)) || vs != 0x10400)
		bad = "read the version";
	else if (svio_mmio_read32((uint8_t *)bar->addr) != 0)
		bad = "read a doorbell";
	if (!bad && tidy && (svio_device_irq_disable(dev, SVIO_IRQ_MSIX) || svio_dma_unmap(svio_device_domain(dev), map.iova, MEM_LEN)))
		bad = "tidy up";
	svio_bar_unmap(bar);
	svio_device_close(dev);
	return bad;
}

int main(int argc, char **argv)
{
	struct residue before = { 0, 0, 0 }, after;
	int memfd, eventfds[2], n;
	const char *bad = NULL;
	uint8_t *mem;
	bool good;

	if (argc != 3 || (n = atoi(argv[2])) < 1) {
		fprintf(stderr, "usage: cycle_probe NVME-DEVICE N\n");
		return 2;
	}
	memfd = memfd_create("cycle_probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	eventfds[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	eventfds[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (memfd < 0 || eventfds[0] < 0 || eventfds[1] < 0 || ftruncate(memfd, MEM_LEN))
		return 2;
	mem = mmap(NULL, MEM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (mem == MAP_FAILED)
		return 2;
	memset(mem, 1, MEM_LEN);
	for (int i = -WARM_UP; i < n && !bad; i++) {
		if (i == 0)
			before = residue();
		bad = cycle(argv[1], memfd, mem, eventfds, i & 1);
	}
	after = residue();
	printf("%s - %d connections%s%s%s%s\n", bad ? "not ok" : "ok", n, bad ? ": cannot " : "", bad ? bad : "", bad ? ": " : "",
	       bad ? svio_last_error() : "");
	/* Memory that the C library keeps differs by some pages; a leak of 256 bytes in each of 1,000 cycles shows. */
	good = before.fds == after.fds &&
	       (SANITIZED || (before.maps == after.maps && after.rss - before.rss <= SVIO_MAX(n / 4, 256)));
	printf("%s - the client has what it had: fds %ld, %ld; mappings %ld, %ld; KiB %ld, %ld\n", good ? "ok" : "not ok", before.fds,
	       after.fds, before.maps, after.maps, before.rss, after.rss);
	return bad || !good;
}
