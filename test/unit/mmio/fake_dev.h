/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A fake device whose "BAR" is a memfd mapping: truncating the memfd makes the kernel raise a true
 * SIGBUS with a true si_addr on the next access, as vfio-pci does when decoding is off. Simulated
 * here are therefore the device and room vfio's calls; faults, signals and mappings are real.
 *
 * Switching on makes a new memfd with the registers in it, so that no thread ever sees a
 * half-written BAR: a load gives the register or all ones.
 */
#ifndef FAKE_DEV_H
#define FAKE_DEV_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "mmio_priv.h"
#include "unit.h"

#define FAKE_PAGE    4096
#define FAKE_BAR_LEN (8 * FAKE_PAGE) /* region 0: fits the shadow file */
#define FAKE_BIG_LEN \
	(32 *        \
	 FAKE_PAGE) /* region 2: from page 8 on it does not; in the same file, behind region 0 */
#define FAKE_FILE_LEN (FAKE_BAR_LEN + FAKE_BIG_LEN)

struct fake {
	struct svio_device_hot hot; /* as room vfio's struct svio_device begins */
	pthread_mutex_t lock;
	int fd;
	uint32_t fill; /* register at offset o reads fill + o */
	uint16_t command;
	bool is_vf, config_gone, asleep, no_mmap;
	int region_reads, mmaps, hooks;
	bool off_in_mmap;  /* decoding goes off just after the next mmap */
	bool open_in_mmap; /* the gate opens then */
	struct svio_device_hook *hook;
};

/* The handler's mmap waits: 1 = one that comes shall wait, 2 = it waits, 0 = it goes on. */
static _Atomic int fake_gate;

static inline struct fake *fake_of(const struct svio_device *dev)
{
	return (struct fake *)(uintptr_t)dev;
}

static inline struct svio_device *fake_dev(struct fake *f)
{
	return (struct svio_device *)(void *)f;
}

static inline uint32_t fake_reg(const struct fake *f, size_t off)
{
	return f->fill + (uint32_t)off;
}

static inline int fake_file(const struct fake *f)
{
	int fd = memfd_create("fake-bar", MFD_CLOEXEC);
	uint32_t *p;

	if (fd < 0 || ftruncate(fd, FAKE_FILE_LEN) != 0)
		abort();
	p = mmap(NULL, FAKE_FILE_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	for (size_t off = 0; off < FAKE_FILE_LEN; off += 4)
		p[off / 4] = fake_reg(f, off);
	munmap(p, FAKE_FILE_LEN);
	return fd;
}

static inline void fake_init(struct fake *f)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->lock, NULL);
	f->fill = 0x5a000000;
	f->command = 0x2;
	f->fd = fake_file(f);
}

static inline void fake_fini(struct fake *f)
{
	close(f->fd);
	pthread_mutex_destroy(&f->lock);
}

/* Decoding off: every access from now on faults. */
static inline void fake_off_locked(struct fake *f)
{
	f->command = 0;
	if (ftruncate(f->fd, 0) != 0)
		abort();
}

static inline void fake_off(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	fake_off_locked(f);
	pthread_mutex_unlock(&f->lock);
}

static inline void fake_on(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	close(f->fd);
	f->fd = fake_file(f);
	f->command = 0x2;
	pthread_mutex_unlock(&f->lock);
}

/* ---- room vfio's calls ----------------------------------------------------------------------- */

const char *__wrap_svio_device_name(const struct svio_device *dev);
void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info);
int __wrap_svio_device_region_info(struct svio_device *dev, uint32_t region,
				   struct svio_region_info *info);
int __wrap_svio_device_region_mmap(struct svio_device *dev, uint32_t region, uint64_t off,
				   size_t len, int prot, void *fixed, void **addr);
int __wrap_svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off,
				   void *buf, size_t len);
int __wrap_svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width,
				   uint32_t *value);
void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook);
void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook);
long __wrap_syscall(long nr, ...);
long __real_syscall(long nr, ...);

const char *__wrap_svio_device_name(const struct svio_device *dev)
{
	(void)dev;
	return "fake";
}

void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	memset(info, 0, sizeof(*info));
	info->is_vf = fake_of(dev)->is_vf;
}

/*
 * Region 0: one area; region 1: not mappable; region 2: pages 0-3 and 8-31, as around an MSI-X
 * table.
 */
int __wrap_svio_device_region_info(struct svio_device *dev, uint32_t region,
				   struct svio_region_info *info)
{
	(void)dev;
	memset(info, 0, sizeof(*info));
	info->flags = SVIO_REGION_READ | SVIO_REGION_WRITE | SVIO_REGION_MMAP;
	if (region == 0) {
		info->size = FAKE_BAR_LEN;
		info->num_areas = 1;
		info->areas[0].size = FAKE_BAR_LEN;
	} else if (region == 1) {
		info->size = FAKE_BAR_LEN;
		info->flags = SVIO_REGION_READ | SVIO_REGION_WRITE;
	} else if (region == 2) {
		info->size = FAKE_BIG_LEN;
		info->num_areas = 2;
		info->areas[0].size = 4 * FAKE_PAGE;
		info->areas[1].offset = 8 * FAKE_PAGE;
		info->areas[1].size = FAKE_BIG_LEN - 8 * FAKE_PAGE;
	} else {
		return -EINVAL;
	}
	return 0;
}

int __wrap_svio_device_region_mmap(struct svio_device *dev, uint32_t region, uint64_t off,
				   size_t len, int prot, void *fixed, void **addr)
{
	struct fake *f = fake_of(dev);
	void *p;

	pthread_mutex_lock(&f->lock);
	f->mmaps++;
	if (f->no_mmap) {
		/* What a failed MAP_FIXED may leave behind: a hole. */
		if (fixed)
			munmap(fixed, len);
		pthread_mutex_unlock(&f->lock);
		return svio_fail(ENOMEM, "fake: no memory");
	}
	/*
	 * The raw call: ThreadSanitizer takes mmap() for a write by this thread, and to change what
	 * is mapped is the point.
	 */
	p = (void *)__real_syscall(SYS_mmap, fixed, len, prot, MAP_SHARED | (fixed ? MAP_FIXED : 0),
				   f->fd, off + (region == 2 ? FAKE_BAR_LEN : 0));
	if (f->off_in_mmap) {
		f->off_in_mmap = false;
		fake_off_locked(f);
	}
	if (f->open_in_mmap) {
		f->open_in_mmap = false;
		atomic_store(&fake_gate, 0);
	}
	pthread_mutex_unlock(&f->lock);
	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

int __wrap_svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off,
				   void *buf, size_t len)
{
	struct fake *f = fake_of(dev);
	ssize_t n;

	pthread_mutex_lock(&f->lock);
	f->region_reads++;
	n = f->asleep ? 0 : pread(f->fd, buf, len, (off_t)(off + (region == 2 ? FAKE_BAR_LEN : 0)));
	pthread_mutex_unlock(&f->lock);
	return n == (ssize_t)len ? 0 : -EIO;
}

int __wrap_svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width,
				   uint32_t *value)
{
	struct fake *f = fake_of(dev);

	if (off != 4 || width != 2)
		return -EINVAL;
	if (f->config_gone)
		return -ENODEV;
	pthread_mutex_lock(&f->lock);
	*value = f->command;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

void __wrap_svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	fake_of(dev)->hooks++;
	fake_of(dev)->hook = hook;
}

void __wrap_svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	struct fake *f = fake_of(dev);

	if (f->hook == hook)
		f->hook = NULL;
	f->hooks--;
}

/* The handler's mmap fails this many times. */
static _Atomic int fake_mmap_failures;

long __wrap_syscall(long nr, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (nr == SYS_mmap && atomic_load(&fake_mmap_failures) > 0) {
		atomic_fetch_sub(&fake_mmap_failures, 1);
		errno = ENOMEM;
		return -1;
	}
	if (nr == SYS_mmap && atomic_load(&fake_gate) == 1) {
		atomic_store(&fake_gate, 2);
		while (atomic_load(&fake_gate) == 2)
			sched_yield();
		/* Whoever opened the gate gets far ahead, unless he waits for us. */
		for (int i = 0; i < 2000; i++)
			sched_yield();
	}
	return __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- helpers --------------------------------------------------------------------------------- */

static inline bool fake_revoked_event(struct fake *f)
{
	return svio_device_events(fake_dev(f)) & SVIO_EV_REVOKED;
}

static inline uint32_t fake_load(const struct svio_bar *bar, size_t off)
{
	return svio_mmio_read32((char *)bar->addr + off);
}

static inline void fake_store(const struct svio_bar *bar, size_t off, uint32_t v)
{
	svio_mmio_write32((char *)bar->addr + off, v);
}

/* Run fn in a child; its wait status. fn returning ends it with exit code 0, fn's false with 1. */
static inline int fake_in_child(bool (*fn)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(60);
		_exit(fn() ? 0 : 1);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

static inline struct sigaction fake_current_action(void)
{
	struct sigaction sa;

	sigaction(SIGBUS, NULL, &sa);
	return sa;
}

#endif
