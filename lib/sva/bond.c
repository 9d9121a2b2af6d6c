/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bonds: one a process, device and mode, counted.
 *
 * What users see lies in a page of its own that the kernel zeroes in a child (MADV_WIPEONFORK), so that a child that uses an
 * inherited bond finds none, at no cost for the parent. What it takes to release a bond, its count and its descriptor, lies in
 * ordinary memory, which the child does inherit: it closes its copy of the descriptor and nothing else.
 */
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ptracer.h"
#include "sva_priv.h"

struct bond {
	struct svio_sva_bond *seen;
	struct bond *next;
	struct svio_device *dev;
	struct svio_ioas *ioas;
	enum svio_sva_mode mode;
	uint32_t pasid;
	unsigned int refs;
	pid_t pid; /* of the process whose address space it is */
	pid_t tracer; /* the server's process, which was let in; 0: none */
	int fd;	   /* -1: the connection, or the device's file, is the lifetime */
	struct svio_sva_report report;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct bond *bonds;

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

static struct bond **find(const struct svio_sva_bond *seen)
{
	struct bond **pp;

	for (pp = &bonds; *pp && (*pp)->seen != seen; pp = &(*pp)->next)
		;
	return pp;
}

static struct bond *find_same(const struct svio_device *dev, const struct svio_ioas *ioas, enum svio_sva_mode mode)
{
	pid_t pid = getpid();

	for (struct bond *b = bonds; b; b = b->next)
		if (b->dev == dev && b->mode == mode && b->pid == pid && (mode == SVIO_SVA_NATIVE || b->ioas == ioas))
			return b;
	return NULL;
}

static void bond_free(struct bond *b)
{
	if (b->tracer && b->pid == getpid())
		svio__ptracer_revoke(b->tracer);
	if (b->fd >= 0)
		close(b->fd);
	if (b->seen)
		munmap(b->seen, page_size());
	free(b);
}

static struct bond *bond_new(struct svio_device *dev, enum svio_sva_mode mode, const struct svio_sva_report *report)
{
	struct bond *b = calloc(1, sizeof(*b));
	void *page;

	if (!b)
		goto no_memory;
	b->fd = -1;
	page = mmap(NULL, page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		goto no_memory;
	b->seen = page;
	/* Linux 4.14; before it a child is told by the pid alone, in everything but translation. */
	if (madvise(page, page_size(), MADV_WIPEONFORK))
		svio_log_warn("%s: this kernel cannot wipe memory at fork: a child must not use the bond", svio_device_name(dev));
	b->dev = dev;
	b->mode = mode;
	b->pasid = SVIO_SVA_PASID_NONE;
	b->pid = getpid();
	b->refs = 1;
	b->report = *report;
	b->report.mode = mode;
	return b;
no_memory:
	free(b);
	svio_fail(ENOMEM, "%s: no memory for a bond", svio_device_name(dev));
	return NULL;
}

/* From here on it is found and used. */
static struct svio_sva_bond *publish(struct bond *b)
{
	*b->seen = (struct svio_sva_bond){ .mode = b->mode,
					   .pasid = b->pasid,
					   .ioas = b->ioas,
					   .info_flags = b->mode == SVIO_SVA_NATIVE ? b->report.info.flags : 0,
					   .dev = b->dev };
	b->next = bonds;
	bonds = b;
	return b->seen;
}

/* ---- native ------------------------------------------------------------------------------------------ */

/* All of this process's bonds with the PASID. The device has stopped using it, as svio_sva_unbind() asks. */
static void release_pasid(struct svio_device *dev, uint32_t pasid)
{
	struct svio_sva_unbind u = { .min = pasid, .max = pasid };
	int err = svio_device_feature(dev, SVIO_FEATURE_SET, SVIO_VFIO_FEATURE_SVA_UNBIND, &u, sizeof(u));

	/* Gone with the device; otherwise the definition says that it cannot fail, and the descriptor's end says it again. */
	if (err && err != -ENODEV)
		svio_log_warn("%s: PASID %" PRIu32 " was not released: %s", svio_device_name(dev), pasid, svio_last_error());
}

static int explain_bind(struct svio_device *dev, int err, const struct svio_sva_report *report, uint32_t want,
			int tracer_err)
{
	const char *name = svio_device_name(dev);
	char why[SVIO__SVA_ACCESS_MAX];

	if (want && (err == -ENOSPC || err == -ERANGE || err == -EOVERFLOW))
		return svio_fail(ERANGE, "%s: PASID %" PRIu32 " is not to be had here", name, want);
	switch (err) {
	case -EDQUOT:
		return svio_fail(EDQUOT, "%s: no bond more: its users have the %" PRIu32 " that are allowed; end one of them, or "
				 "raise the quota of svio_vfio_pci", name, report->info.quota);
	case -ENOSPC:
		return svio_fail(ENOSPC, "%s: no PASID is left for this process", name);
	case -ERANGE:
	case -EOVERFLOW:
		return svio_fail(ERANGE, "%s: this process has a PASID already, on another device, that does not fit the %" PRIu32
				 " bits of this one; bind this device first", name, report->info.pasid_bits);
	case -EBUSY:
		return svio_fail(EBUSY, "%s: cannot bind now: the device is being reset, or this process uses LAM", name);
	case -EPERM:
	case -EACCES:
		svio__sva_explain_access(tracer_err, why, sizeof(why));
		return svio_fail(EPERM, "%s: %s", name, why);
	case -ENODEV:
		return err;
	default:
		return svio_fail_prefix(err, "%s: cannot bind this process", name);
	}
}

/*
 * Ask for a PASID (`want`; 0: any), checked; *fd is the bond's descriptor, or -1. What fails leaves nothing. tracer_err: what
 * became of letting the server in; it may not need that.
 */
static int ask(struct svio_device *dev, const struct svio_sva_report *report, uint32_t want, int tracer_err, uint32_t *pasid,
	       int *fd)
{
	uint32_t limit = UINT32_C(1) << SVIO_MIN(report->info.pasid_bits, 20u);
	struct svio_sva_bind req = { .min = want, .max = want, .bond_fd = -1 };
	struct svio_device_info info;
	int err;

	do
		err = svio_device_feature(dev, SVIO_FEATURE_SET, SVIO_VFIO_FEATURE_SVA_BIND, &req, sizeof(req));
	while (err == -EINTR);
	if (err)
		return explain_bind(dev, err, report, want, tracer_err);
	/* Over vfio-user a number in this field is no descriptor of ours, whatever the server wrote. */
	svio_device_get_info(dev, &info);
	if (info.transport == SVIO_TRANSPORT_USER)
		req.bond_fd = -1;
	if (req.pasid == 0 || req.pasid >= limit || (want && req.pasid != want)) { /* PASID 0 is what requests without one use (Intel VT-d §3.5) */
		release_pasid(dev, req.pasid);
		if (req.bond_fd >= 0)
			close(req.bond_fd);
		return svio_fail(EPROTO, "%s: bound with PASID %" PRIu32 ", which is none of its %" PRIu32 " bits",
				 svio_device_name(dev), req.pasid, report->info.pasid_bits);
	}
	*pasid = req.pasid;
	*fd = req.bond_fd;
	return 0;
}

static int bind_native(struct svio_device *dev, const struct svio_sva_report *report, uint32_t want, struct svio_sva_bond **bondp)
{
	struct bond *b = bond_new(dev, SVIO_SVA_NATIVE, report);
	int err;

	if (!b)
		return -ENOMEM;
	err = svio__sva_let_in(dev, &b->tracer);
	err = ask(dev, report, want, err, &b->pasid, &b->fd);
	if (err) {
		bond_free(b);
		return err;
	}
	*bondp = publish(b);
	return 0;
}

static bool has_ended(const struct bond *b)
{
	struct pollfd p = { .fd = b->fd };

	return b->fd >= 0 && poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

static int renew(struct bond *b)
{
	int fd, err;

	if (b->mode != SVIO_SVA_NATIVE || !has_ended(b))
		return 0;
	err = ask(b->dev, &b->report, 0, 0, &b->pasid, &fd);
	if (err)
		return err;
	close(b->fd);
	b->fd = fd;
	b->seen->pasid = b->pasid;
	svio_log_info("%s: the process is bound again, PASID %" PRIu32, svio_device_name(b->dev), b->pasid);
	return 0;
}

static int bind_identity(struct svio_device *dev, struct svio_ioas *ioas, const struct svio_sva_report *report,
			 struct svio_sva_bond **bondp)
{
	struct bond *b;

	if (!ioas)
		return svio_fail(EINVAL, "%s: no native SVA (%s), and identity mode needs the ioas that the device is attached to",
				 svio_device_name(dev), report->why);
	b = bond_new(dev, SVIO_SVA_IDENTITY, report);
	if (!b)
		return -ENOMEM;
	b->ioas = ioas;
	*bondp = publish(b);
	return 0;
}

/* ---- the calls ------------------------------------------------------------------------------------------ */

static int bind_locked(struct svio_device *dev, struct svio_ioas *ioas, uint32_t flags, struct svio_sva_bond **bondp)
{
	struct svio_sva_report report;
	struct bond *b;
	int err;

	b = flags & SVIO_SVA_WANT_IDENTITY ? NULL : find_same(dev, ioas, SVIO_SVA_NATIVE);
	if (!b && !(flags & SVIO_SVA_WANT_NATIVE))
		b = find_same(dev, ioas, SVIO_SVA_IDENTITY);
	/* An identity bond that was asked for as such does not make the next one identity. */
	if (b && (b->mode == SVIO_SVA_NATIVE || flags & SVIO_SVA_WANT_IDENTITY)) {
		err = renew(b);
		if (err)
			return err;
		b->refs++;
		*bondp = b->seen;
		return 0;
	}
	err = svio_sva_get_report(dev, &report);
	if (err)
		return err;
	if (report.mode == SVIO_SVA_NATIVE && !(flags & SVIO_SVA_WANT_IDENTITY))
		return bind_native(dev, &report, 0, bondp);
	if (flags & SVIO_SVA_WANT_NATIVE)
		return svio_fail(EOPNOTSUPP, "%s: no native SVA: %s", svio_device_name(dev), report.why);
	if (b) {
		b->refs++;
		*bondp = b->seen;
		return 0;
	}
	return bind_identity(dev, ioas, &report, bondp);
}

int svio_sva_bind(struct svio_device *dev, struct svio_ioas *ioas, uint32_t flags, struct svio_sva_bond **bondp)
{
	int err;

	*bondp = NULL;
	if (flags & ~(uint32_t)(SVIO_SVA_WANT_NATIVE | SVIO_SVA_WANT_IDENTITY) ||
	    flags == (SVIO_SVA_WANT_NATIVE | SVIO_SVA_WANT_IDENTITY))
		return svio_fail(EINVAL, "%s: SVA flags %#x", svio_device_name(dev), flags);
	pthread_mutex_lock(&lock);
	err = bind_locked(dev, ioas, flags, bondp);
	pthread_mutex_unlock(&lock);
	return err;
}

static int bind_pasid_locked(struct svio_device *dev, uint32_t pasid, struct svio_sva_bond **bondp)
{
	struct bond *b = find_same(dev, NULL, SVIO_SVA_NATIVE);
	struct svio_sva_report report;
	int err;

	if (b) {
		err = renew(b);
		if (err)
			return err;
		if (b->pasid != pasid)
			return svio_fail(ERANGE, "%s: this process is bound with PASID %" PRIu32 " already, not %" PRIu32,
					 svio_device_name(dev), b->pasid, pasid);
		b->refs++;
		*bondp = b->seen;
		return 0;
	}
	err = svio_sva_get_report(dev, &report);
	if (err)
		return err;
	if (report.mode != SVIO_SVA_NATIVE)
		return svio_fail(EOPNOTSUPP, "%s: no native SVA: %s", svio_device_name(dev), report.why);
	return bind_native(dev, &report, pasid, bondp);
}

int svio_sva_bind_pasid(struct svio_device *dev, uint32_t pasid, struct svio_sva_bond **bondp)
{
	int err;

	*bondp = NULL;
	if (pasid == 0 || pasid == SVIO_SVA_PASID_NONE)
		return svio_fail(EINVAL, "%s: PASID %" PRIu32 " is none", svio_device_name(dev), pasid);
	pthread_mutex_lock(&lock);
	err = bind_pasid_locked(dev, pasid, bondp);
	pthread_mutex_unlock(&lock);
	return err;
}

int svio_sva_renew(struct svio_sva_bond *seen)
{
	struct bond *b;
	int err;

	pthread_mutex_lock(&lock);
	b = *find(seen);
	if (!b || b->pid != getpid())
		err = svio_fail(ESRCH, "the bond belongs to another process, or to nobody");
	else
		err = renew(b);
	pthread_mutex_unlock(&lock);
	return err;
}

void svio_sva_unbind(struct svio_sva_bond *seen)
{
	struct bond **pp, *b;

	if (!seen)
		return;
	pthread_mutex_lock(&lock);
	pp = find(seen);
	b = *pp;
	if (!b) {
		svio_log_err("svio_sva_unbind(%p): no such bond", (void *)seen);
	} else if (--b->refs == 0) {
		*pp = b->next;
		seen->mode = SVIO_SVA_DEAD;
		/* In a child the descriptor alone is ours; the address space is the parent's. */
		if (b->mode == SVIO_SVA_NATIVE && b->pid == getpid())
			release_pasid(b->dev, b->pasid);
		bond_free(b);
	}
	pthread_mutex_unlock(&lock);
}

void svio_sva_bond_report(const struct svio_sva_bond *seen, struct svio_sva_report *report)
{
	struct bond *b;

	memset(report, 0, sizeof(*report));
	pthread_mutex_lock(&lock);
	b = *find(seen);
	if (b && b->pid == getpid())
		*report = b->report;
	pthread_mutex_unlock(&lock);
}

int svio_sva_check(const struct svio_sva_bond *bond, const void *ptr, uint64_t len)
{
	if (svio_sva_addr(bond, ptr, len) != SVIO_IOVA_BAD)
		return 0;
	if (bond->mode == SVIO_SVA_DEAD)
		return svio_fail(ESRCH, "the bond belongs to another process: a child of fork() has none and binds its own devices");
	if (bond->mode == SVIO_SVA_NATIVE)
		return svio_fail(EFAULT, "%" PRIu64 " bytes at %p wrap around the end of the address space", len, ptr);
	return svio_fail(EFAULT, "%s: %" PRIu64 " bytes at %p are not wholly in registered memory, and without native SVA the device "
			 "reaches no other; use svio_mem_alloc() or svio_mem_register(), or see svio info %s for what native needs",
			 svio_device_name(bond->dev), len, ptr, svio_device_name(bond->dev));
}
