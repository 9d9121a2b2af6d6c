/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * BARs: mapping, restoring, and the hook that withdraws them around an orderly reset.
 *
 * Locks, outermost first: the device's own lock, which svio_device_hook_add/remove take and which
 * is held around hooks (so neither is called with a lock of ours); room_lock (the list of devices,
 * the table, which handler is installed); guard_dev.lock (restore against a reset by another
 * thread).
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "mmio_priv.h"

#define PCI_COMMAND	   0x04 /* PCI Local Bus 3.0 §6.2.2 */
#define PCI_COMMAND_MEMORY 0x0002
#define RESTORE_ATTEMPTS   16

/* What this room knows of a device that has BARs. */
struct guard_dev {
	struct svio_device *dev;
	struct bar *bars;
	struct svio_device_hook hook;
	pthread_mutex_t lock;
	bool withdrawn; /* between prepare and done */
	struct guard_dev *next;
};

struct bar {
	struct svio_bar pub;
	struct guard_slot *slot;
	struct guard_dev *gd;
	void *map; /* page aligned, and where it is in the region */
	size_t map_len;
	uint64_t map_offset;
	uint32_t flags;
	int prot;
	struct bar *next;
};

static pthread_mutex_t room_lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard_dev *guard_devs;

/* ---- touching -------------------------------------------------------------------------------- */

/*
 * Fault the pages in. A touch may itself meet a withdrawn page: the handler absorbs that, and there
 * is no point in going on. A synchronous SIGBUS kills while it is blocked, so it is not.
 */
static void pretouch(const struct bar *bar)
{
	size_t psz = guard_page_size();
	sigset_t bus, saved;

	if (bar->flags & SVIO_BAR_NO_PRETOUCH)
		return;
	sigemptyset(&bus);
	sigaddset(&bus, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &bus, &saved);
	for (size_t off = 0; off < bar->map_len && !atomic_load(&bar->slot->revoked); off += psz)
		(void)svio_mmio_read32((char *)bar->map + off);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

/* ---- restore --------------------------------------------------------------------------------- */

static bool any_revoked(const struct guard_dev *gd)
{
	for (const struct bar *b = gd->bars; b; b = b->next)
		if (atomic_load(&b->slot->revoked))
			return true;
	return false;
}

/*
 * Would an access reach the device? The command register first (not on a VF, whose bit means
 * nothing, PCIe 5.0 §9.3.4.1.3); then, since it says nothing about power states, a region read,
 * which the kernel answers with -EIO where a load would fault.
 */
static int check_decoding(struct guard_dev *gd)
{
	const char *name = svio_device_name(gd->dev);
	struct svio_device_info info;
	uint32_t v;
	int rc;

	svio_device_get_info(gd->dev, &info);
	if (!info.is_vf) {
		rc = svio_device_config_read(gd->dev, PCI_COMMAND, 2, &v);
		if (rc != 0)
			return rc;
		if (!(v & PCI_COMMAND_MEMORY))
			return svio_fail(EAGAIN,
					 "%s: memory decoding is off (command register 0x%04x); "
					 "svio_device_set_memory() turns it on",
					 name, v);
	}
	for (const struct bar *b = gd->bars; b; b = b->next) {
		if (!atomic_load(&b->slot->revoked) || (b->flags & SVIO_BAR_NO_PRETOUCH))
			continue;
		rc = svio_device_region_read(gd->dev, b->pub.region, b->map_offset, &v, sizeof(v));
		if (rc == -EIO)
			return svio_fail(
				EAGAIN,
				"%s: region %u does not answer: the function is in a low-power "
				"state or being reset",
				name, b->pub.region);
		return rc;
	}
	return 0;
}

static int restore_bar(struct bar *bar)
{
	struct guard_slot *slot = bar->slot;
	void *addr;
	int rc;

	/* Cleared before the device is mapped: see mark_revoked(). */
	atomic_store(&slot->revoked, 0);
	rc = svio_device_region_mmap(bar->pub.dev, bar->pub.region, bar->map_offset, bar->map_len,
				     bar->prot, bar->map, &addr);
	if (rc != 0) {
		/* A failed MAP_FIXED may have left a hole where others could map: fill it. */
		guard_withdraw(slot);
		return svio_fail_prefix(rc, "%s: restoring region %u",
					svio_device_name(bar->pub.dev), bar->pub.region);
	}
	madvise(bar->map, bar->map_len, MADV_DONTFORK);
	pretouch(bar);
	/*
	 * Handlers that met what was before: their pages are ours to replace now, and not a
	 * revocation to report afterwards.
	 */
	guard_quiesce(slot);
	return 0;
}

/* With gd->lock. */
static int restore_all(struct guard_dev *gd)
{
	for (int i = 0; i < RESTORE_ATTEMPTS; i++) {
		int rc;

		if (svio_device_events(gd->dev) & SVIO_EV_GONE)
			return svio_fail(ENODEV, "%s: the device is gone",
					 svio_device_name(gd->dev));
		if (any_revoked(gd)) {
			rc = check_decoding(gd);
			for (struct bar *b = gd->bars; b && rc == 0; b = b->next)
				if (atomic_load(&b->slot->revoked))
					rc = restore_bar(b);
			if (rc != 0)
				return rc;
			/*
			 * Handlers on other threads put shadow pages in meanwhile, or decoding went
			 * off again.
			 */
			if (any_revoked(gd))
				continue;
		}
		/*
		 * All real. A handler sets the flag before the event: if the event that it raised
		 * is cleared here, the flag is seen below; if it raises it later, it stays.
		 */
		svio_device_event_clear(gd->dev, SVIO_EV_REVOKED);
		if (!any_revoked(gd))
			return 0;
		svio_device_event_set(gd->dev, SVIO_EV_REVOKED);
	}
	return svio_fail(EAGAIN, "%s: BARs were withdrawn again while they were restored, %d times",
			 svio_device_name(gd->dev), RESTORE_ATTEMPTS);
}

static struct guard_dev *find_dev(const struct svio_device *dev)
{
	struct guard_dev *gd;

	for (gd = guard_devs; gd && gd->dev != dev; gd = gd->next)
		;
	return gd;
}

int svio_bar_restore(struct svio_device *dev)
{
	struct guard_dev *gd;
	int rc = 0;

	pthread_mutex_lock(&room_lock);
	gd = find_dev(dev);
	if (gd)
		rc = chain_ensure();
	pthread_mutex_unlock(&room_lock);
	if (!gd || rc != 0)
		return rc;
	pthread_mutex_lock(&gd->lock);
	if (gd->withdrawn)
		rc = svio_fail(EAGAIN, "%s: an orderly reset or disable has not ended",
			       svio_device_name(dev));
	else
		rc = restore_all(gd);
	pthread_mutex_unlock(&gd->lock);
	return rc;
}

/* ---- orderly reset: SVIO_HOOK_MMIO ----------------------------------------------------------- */

static void hook_prepare(void *ctx, struct svio_device *dev)
{
	struct guard_dev *gd = ctx;
	int rc;

	pthread_mutex_lock(&gd->lock);
	gd->withdrawn = true;
	for (struct bar *b = gd->bars; b; b = b->next) {
		rc = guard_withdraw(b->slot);
		/*
		 * The kernel withdraws it itself where it must; what is lost is that nobody reaches
		 * it before.
		 */
		if (rc != 0)
			svio_log_warn("%s: region %u stays mapped during the reset: %s",
				      svio_device_name(dev), b->pub.region, strerror(-rc));
	}
	pthread_mutex_unlock(&gd->lock);
}

static void hook_done(void *ctx, struct svio_device *dev, int err)
{
	struct guard_dev *gd = ctx;
	int rc;

	(void)dev;
	pthread_mutex_lock(&gd->lock);
	/*
	 * There was no prepare for us if the first BAR was mapped while decoding was off in the
	 * orderly way.
	 */
	gd->withdrawn = false;
	/*
	 * Even a failed reset may have left a device that works; -ENODEV leaves the shadow pages
	 * where they are.
	 */
	if (err != -ENODEV) {
		rc = restore_all(gd);
		if (rc != 0)
			svio_log_info("BARs stay withdrawn: %s", svio_last_error());
	}
	pthread_mutex_unlock(&gd->lock);
}

/* ---- map and unmap --------------------------------------------------------------------------- */

static int get_dev(struct svio_device *dev, struct guard_dev **gdp)
{
	struct guard_dev *gd = find_dev(dev);

	if (!gd) {
		gd = calloc(1, sizeof(*gd));
		if (!gd)
			return svio_fail(ENOMEM, "%s: out of memory", svio_device_name(dev));
		gd->dev = dev;
		gd->hook.stage = SVIO_HOOK_MMIO;
		gd->hook.prepare = hook_prepare;
		gd->hook.done = hook_done;
		gd->hook.ctx = gd;
		pthread_mutex_init(&gd->lock, NULL);
		gd->next = guard_devs;
		guard_devs = gd;
	}
	*gdp = gd;
	return 0;
}

/* Forget a device without BARs. The caller removes its hook, without the lock, and frees it. */
static void put_dev(struct guard_dev *gd)
{
	struct guard_dev **p = &guard_devs;

	svio_device_event_clear(gd->dev, SVIO_EV_REVOKED);
	while (*p != gd)
		p = &(*p)->next;
	*p = gd->next;
}

static void free_dev(struct guard_dev *gd)
{
	pthread_mutex_destroy(&gd->lock);
	free(gd);
}

/* The last BAR is gone: so is the handler, and what it needs. */
static void put_guard(void)
{
	if (guard_devs)
		return;
	chain_remove();
	guard_close();
}

/* Find the mappable area that holds off, and the pages of [off, off + *lenp). */
static int check_range(struct svio_device *dev, uint32_t region, uint64_t off, size_t *lenp,
		       uint64_t *map_off, size_t *map_len)
{
	const char *name = svio_device_name(dev);
	uint64_t psz = guard_page_size(), first, last;
	struct svio_region_info *info = calloc(1, sizeof(*info));
	int rc;

	if (!info)
		return svio_fail(ENOMEM, "%s: out of memory", name);
	rc = svio_device_region_info(dev, region, info);
	if (rc != 0)
		goto out;
	rc = -EINVAL;
	if (!(info->flags & SVIO_REGION_MMAP))
		goto refuse;
	for (uint32_t i = 0; i < info->num_areas && i < SVIO_MAX_SPARSE; i++) {
		const struct svio_sparse_area *a = &info->areas[i];

		if (off < a->offset || off - a->offset >= a->size)
			continue;
		if (*lenp > a->size - (off - a->offset)) {
			rc = svio_fail(EINVAL,
				       "%s: region %u: [0x%llx, +0x%zx) leaves the mappable area "
				       "[0x%llx, +0x%llx)",
				       name, region, (unsigned long long)off, *lenp,
				       (unsigned long long)a->offset, (unsigned long long)a->size);
			goto out;
		}
		if (*lenp == 0)
			*lenp = (size_t)(a->size - (off - a->offset));
		first = SVIO_ALIGN_DOWN(off, psz);
		last = SVIO_ALIGN_UP(off + *lenp, psz);
		if (first < a->offset || last - a->offset > a->size)
			break;
		*map_off = first;
		*map_len = (size_t)(last - first);
		rc = 0;
		goto out;
	}
refuse:
	svio_fail(rc, "%s: region %u cannot be mapped at 0x%llx; use svio_device_region_read() and _write()", name, region,
		  (unsigned long long)off);
out:
	free(info);
	return rc;
}

int svio_bar_map(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, uint32_t flags,
		 struct svio_bar **barp)
{
	struct bar *bar;
	bool first;
	int rc;

	*barp = NULL;
	if (flags & ~(uint32_t)(SVIO_BAR_READONLY | SVIO_BAR_WC | SVIO_BAR_NO_PRETOUCH))
		return svio_fail(EINVAL, "%s: unknown BAR flags 0x%x", svio_device_name(dev),
				 flags);
	bar = calloc(1, sizeof(*bar));
	if (!bar)
		return svio_fail(ENOMEM, "%s: out of memory", svio_device_name(dev));
	rc = check_range(dev, region, off, &len, &bar->map_offset, &bar->map_len);
	if (rc != 0)
		goto free_bar;
	bar->flags = flags;
	bar->prot = (flags & SVIO_BAR_READONLY) ? PROT_READ : PROT_READ | PROT_WRITE;

	pthread_mutex_lock(&room_lock);
	rc = guard_open();
	if (rc != 0)
		goto unlock;
	rc = guard_reserve(&bar->slot);
	if (rc != 0)
		goto unguard;
	rc = get_dev(dev, &bar->gd);
	if (rc != 0)
		goto unreserve;
	rc = chain_ensure();
	if (rc != 0)
		goto undev;
	rc = svio_device_region_mmap(dev, region, bar->map_offset, bar->map_len, bar->prot, NULL,
				     &bar->map);
	if (rc != 0)
		goto undev;
	if (madvise(bar->map, bar->map_len, MADV_DONTFORK) != 0) {
		rc = svio_fail(errno, "%s: madvise(MADV_DONTFORK) on region %u: %s",
			       svio_device_name(dev), region, strerror(errno));
		munmap(bar->map, bar->map_len);
		goto undev;
	}
	bar->pub = (struct svio_bar){
		.addr = (char *)bar->map + (off - bar->map_offset),
		.len = len,
		.offset = off,
		.region = region,
		.dev = dev,
	};
	guard_publish(bar->slot, dev, bar->map, bar->map_len, bar->prot);
	pthread_mutex_lock(&bar->gd->lock);
	first = !bar->gd->bars;
	bar->next = bar->gd->bars;
	bar->gd->bars = bar;
	pthread_mutex_unlock(&bar->gd->lock);
	pthread_mutex_unlock(&room_lock);

	if (first)
		svio_device_hook_add(dev, &bar->gd->hook);
	if (flags & SVIO_BAR_WC)
		svio_log_info("%s: region %u is mapped uncached: VFIO offers no write-combining",
			      svio_device_name(dev), region);
	pretouch(bar);
	*barp = &bar->pub;
	return 0;

undev:
	if (!bar->gd->bars) {
		put_dev(bar->gd);
		free_dev(bar->gd);
	}
unreserve:
	guard_release(bar->slot);
unguard:
	put_guard();
unlock:
	pthread_mutex_unlock(&room_lock);
free_bar:
	free(bar);
	return rc;
}

void svio_bar_unmap(struct svio_bar *pub)
{
	struct bar *bar = (struct bar *)pub, **p;
	struct guard_dev *gd;

	_Static_assert(offsetof(struct bar, pub) == 0,
		       "a struct svio_bar is the beginning of ours");
	if (!bar)
		return;
	pthread_mutex_lock(&room_lock);
	pthread_mutex_lock(&bar->gd->lock);
	for (p = &bar->gd->bars; *p != bar; p = &(*p)->next)
		;
	*p = bar->next;
	pthread_mutex_unlock(&bar->gd->lock);
	/* A forked child inherits the object and neither the mapping nor the slot. */
	if (guard_owns(bar->slot, bar->map)) {
		guard_release(bar->slot);
		munmap(bar->map, bar->map_len);
	}
	gd = bar->gd->bars ? NULL : bar->gd;
	if (gd)
		put_dev(gd);
	put_guard();
	pthread_mutex_unlock(&room_lock);
	if (gd) {
		svio_device_hook_remove(gd->dev, &gd->hook);
		free_dev(gd);
	}
	free(bar);
}

bool svio_bar_revoked(const struct svio_bar *pub)
{
	return atomic_load_explicit(&((const struct bar *)pub)->slot->revoked,
				    memory_order_acquire);
}
