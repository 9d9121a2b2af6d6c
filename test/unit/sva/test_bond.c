/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bonds on a device of memory (SIMULATED): it keeps the kernel's books of kernel/uapi/svio_vfio.h for one process, and refuses
 * what the definition refuses.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "failnth.h"
#include "sva_priv.h"
#include "unit.h"

struct svio_device {
	struct svio_device_hot hot;
	enum svio_transport transport;
	pid_t server;
	struct svio_sva_info info;
	int info_err, bind_err;
	bool no_bond_fd;
	uint32_t pasid; /* that this process gets */
	/* its books */
	unsigned int count; /* binds not yet released */
	unsigned int binds, unbinds, well_formed;
	int fd; /* the other end of the last bond descriptor */
};

static pthread_mutex_t dev_lock = PTHREAD_MUTEX_INITIALIZER;

int __wrap_svio_device_feature(struct svio_device *dev, enum svio_feature_op op, uint16_t feature, void *data, size_t size);
const char *__wrap_svio_device_name(const struct svio_device *dev);
void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info);
uint64_t __wrap_svio_ioas_lookup(const struct svio_ioas *ioas, uint64_t va, uint64_t len);

static int bind_feature(struct svio_device *dev, struct svio_sva_bind *req, size_t size)
{
	int pair[2];

	if (size != sizeof(*req) || req->flags || req->reserved || req->min != req->max)
		return svio_fail(EINVAL, "not as the definition says");
	dev->well_formed++;
	if (dev->bind_err)
		return svio_fail(dev->bind_err, "simulated refusal");
	if (req->min && req->min != dev->pasid)
		return svio_fail(ENOSPC, "taken");
	if (!(dev->info.flags & SVIO_SVA_INFO_NATIVE))
		return svio_fail(EOPNOTSUPP, "no native mode");
	req->pasid = dev->pasid;
	req->bond_fd = -1;
	if (!dev->no_bond_fd) {
		if (failnth_point("bond descriptor") || pipe2(pair, O_CLOEXEC))
			return svio_fail(EMFILE, "no descriptor");
		req->bond_fd = pair[1];
		dev->fd = pair[0];
	}
	dev->binds++;
	dev->count++;
	return 0;
}

int __wrap_svio_device_feature(struct svio_device *dev, enum svio_feature_op op, uint16_t feature, void *data, size_t size)
{
	int err = -ENOTTY;

	pthread_mutex_lock(&dev_lock);
	if (feature == SVIO_VFIO_FEATURE_SVA_INFO && op == SVIO_FEATURE_GET && size == sizeof(dev->info)) {
		err = dev->info_err;
		if (err)
			svio_fail(err, "simulated");
		else
			memcpy(data, &dev->info, sizeof(dev->info));
	} else if (feature == SVIO_VFIO_FEATURE_SVA_BIND && op == SVIO_FEATURE_SET) {
		err = bind_feature(dev, data, size);
	} else if (feature == SVIO_VFIO_FEATURE_SVA_UNBIND && op == SVIO_FEATURE_SET) {
		struct svio_sva_unbind *u = data;

		CU_ASSERT_TRUE(size == sizeof(*u) && !u->flags && u->min == dev->pasid && u->max == dev->pasid);
		u->released = dev->count ? 1 : 0;
		dev->count = 0;
		dev->unbinds++;
		err = 0;
	}
	pthread_mutex_unlock(&dev_lock);
	return err;
}

const char *__wrap_svio_device_name(const struct svio_device *dev)
{
	(void)dev;
	return "0000:99:00.0";
}

void __wrap_svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	*info = (struct svio_device_info){ .transport = dev->transport, .server_pid = dev->server };
}

/* Yama, as lib/base sees it; test/unit/base/test_ptracer.c has the rest. */
static int yama_scope, yama_err, let_in;
static pid_t let_in_whom;

int __wrap_svio__ptracer_scope(void);
int __wrap_svio__ptracer_allow(pid_t pid);
void __wrap_svio__ptracer_revoke(pid_t pid);

int __wrap_svio__ptracer_scope(void)
{
	return yama_scope;
}

int __wrap_svio__ptracer_allow(pid_t pid)
{
	let_in_whom = pid;
	let_in += !yama_err;
	return yama_err;
}

void __wrap_svio__ptracer_revoke(pid_t pid)
{
	let_in -= pid == let_in_whom;
}

/* An ioas with one mapping, 0x10000 bytes, at IOVA = VA + 0x1000. */
struct svio_ioas {
	struct svio_ioas_hot hot;
};
static uint8_t registered[0x10000];
static struct svio_ioas ioas;

uint64_t __wrap_svio_ioas_lookup(const struct svio_ioas *as, uint64_t va, uint64_t len)
{
	(void)as;
	(void)va;
	(void)len;
	return SVIO_IOVA_BAD;
}

static struct svio_device native(void)
{
	ioas.hot.near[0] = (struct svio_ioas_hot_range){ (uintptr_t)registered, sizeof(registered), 0x1000 };
	atomic_init(&ioas.hot.range, &ioas.hot.near[0]);
	return (struct svio_device){ .transport = SVIO_TRANSPORT_GROUP,
				     .info = { .flags = SVIO_SVA_INFO_NATIVE | SVIO_SVA_INFO_PRI, .pasid_bits = 20, .quota = 1000 },
				     .pasid = 37,
				     .fd = -1 };
}

/* Sanitizers map memory of their own. */
static int maps_now(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return 0;
#else
	return unit_count_maps();
#endif
}

static bool closed(const struct svio_device *dev)
{
	char byte;

	return read(dev->fd, &byte, 1) == 0; /* end of file: nobody has the other end */
}

static bool says(const char *text)
{
	return strstr(svio_last_error(), text) != NULL;
}

static void test_native(void)
{
	struct svio_device dev = native();
	struct svio_sva_bond *a, *b, *c;
	struct svio_sva_report report;
	int fds = unit_count_fds(), maps = maps_now();

	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL(a->mode, SVIO_SVA_NATIVE);
	CU_ASSERT_EQUAL(a->pasid, 37);
	CU_ASSERT_EQUAL(a->info_flags, dev.info.flags);
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, NULL, SVIO_SVA_WANT_NATIVE, &b), 0);
	CU_ASSERT_PTR_EQUAL(a, b);
	CU_ASSERT_EQUAL(dev.binds, 1);
	/* Identity beside it, when asked for. */
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, SVIO_SVA_WANT_IDENTITY, &c), 0);
	CU_ASSERT_PTR_NOT_EQUAL(a, c);
	CU_ASSERT_EQUAL(c->mode, SVIO_SVA_IDENTITY);
	CU_ASSERT_EQUAL(c->pasid, SVIO_SVA_PASID_NONE);
	svio_sva_unbind(c);

	/* Any pointer will do, but none that wraps. */
	CU_ASSERT_EQUAL(svio_sva_addr(a, &dev, sizeof(dev)), (uintptr_t)&dev);
	CU_ASSERT_EQUAL(svio_sva_addr(a, (void *)UINTPTR_MAX, 2), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_sva_check(a, &dev, 1), 0);
	CU_ASSERT_EQUAL(svio_sva_check(a, (void *)(UINTPTR_MAX - 10), 100), -EFAULT);

	svio_sva_bond_report(a, &report);
	CU_ASSERT_EQUAL(report.mode, SVIO_SVA_NATIVE);
	CU_ASSERT_PTR_NOT_NULL(strstr(report.why, "20 bits"));
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(dev.unbinds, 0);
	svio_sva_unbind(b);
	CU_ASSERT_EQUAL(dev.unbinds, 1);
	CU_ASSERT_EQUAL(dev.count, 0);
	CU_ASSERT_TRUE(closed(&dev));
	close(dev.fd);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(maps_now(), maps);
	svio_sva_unbind(NULL);
}

/* What a moved device's state names: this one, or an error, and no other. */
static void test_pasid(void)
{
	struct svio_device dev = native(), none = { 0 };
	struct svio_sva_bond *a, *b;

	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&dev, 0, &a), -EINVAL);
	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&dev, SVIO_SVA_PASID_NONE, &a), -EINVAL);
	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&dev, 36, &a), -ERANGE);
	CU_ASSERT_PTR_NOT_NULL(strstr(svio_last_error(), "PASID 36"));
	CU_ASSERT_EQUAL(dev.count, 0);
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind_pasid(&dev, 37, &a), 0);
	CU_ASSERT_EQUAL(a->pasid, 37);
	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&dev, 37, &b), 0);
	CU_ASSERT_PTR_EQUAL(a, b);
	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&dev, 38, &b), -ERANGE);
	svio_sva_unbind(a);
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(dev.count, 0);
	CU_ASSERT_TRUE(closed(&dev));
	close(dev.fd);
	none.info_err = -ENOTTY;
	CU_ASSERT_EQUAL(svio_sva_bind_pasid(&none, 37, &a), -EOPNOTSUPP);
}

static void test_close_on_exec(void)
{
	struct svio_device dev = native();
	struct svio_sva_bond *a;

	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, NULL, 0, &a), 0);
	/* The bond's end of the pipe is the highest descriptor of ours or its neighbour. */
	CU_ASSERT_TRUE(fcntl(dev.fd + 1, F_GETFD) & FD_CLOEXEC);
	svio_sva_unbind(a);
	close(dev.fd);
}

static void test_identity(void)
{
	struct svio_device dev = native();
	struct svio_sva_bond *a, *b;

	dev.info = (struct svio_sva_info){ .reason = SVIO_SVA_NO_KERNEL };
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, NULL, 0, &a), -EINVAL);
	CU_ASSERT_TRUE(says("needs the ioas"));
	CU_ASSERT_PTR_NULL(a);
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL(a->mode, SVIO_SVA_IDENTITY);
	CU_ASSERT_EQUAL(dev.binds, 0);
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 0, &b), 0);
	CU_ASSERT_PTR_EQUAL(a, b);
	svio_sva_unbind(b);

	/* What goes into a descriptor is the IOVA, and only for what is registered as a whole. */
	CU_ASSERT_EQUAL(svio_sva_addr(a, registered, sizeof(registered)), (uintptr_t)registered + 0x1000);
	CU_ASSERT_EQUAL(svio_sva_addr(a, registered, sizeof(registered) + 1), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_sva_addr(a, (void *)((uintptr_t)registered - 1), 2), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_sva_addr(a, &dev, 1), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_sva_addr(a, registered + 5, UINT64_MAX), SVIO_IOVA_BAD);
	CU_ASSERT_EQUAL(svio_sva_check(a, &dev, 1), -EFAULT);
	CU_ASSERT_TRUE(says("not wholly in registered memory") && says("svio_mem_register"));
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(dev.unbinds, 0);
}

/* Every reason has its sentence, and native that was asked for fails with it. */
static void test_reasons(void)
{
	static const char *const words[] = {
		[SVIO_SVA_NO_KERNEL] = "CVE-2025-71202", [SVIO_SVA_NO_IOMMU] = "sm_on",	     [SVIO_SVA_NO_PASID] = "PASID capability",
		[SVIO_SVA_NO_PRI] = "PRI",		 [SVIO_SVA_NO_ATS] = "ATS",	     [SVIO_SVA_SHARED_GROUP] = "IOMMU group",
		[SVIO_SVA_DENYLIST] = "denylist",	 [SVIO_SVA_REFUSED] = "Invalid argument", [SVIO_SVA_REFUSED + 1] = "newer",
	};
	struct svio_device dev = native();
	struct svio_sva_report report;
	struct svio_sva_bond *a;

	for (uint32_t r = SVIO_SVA_NO_KERNEL; r < SVIO_ARRAY_SIZE(words); r++) {
		dev.info = (struct svio_sva_info){ .reason = r, .error = r == SVIO_SVA_REFUSED ? -EINVAL : 0 };
		CU_ASSERT_EQUAL(svio_sva_get_report(&dev, &report), 0);
		CU_ASSERT_EQUAL(report.mode, SVIO_SVA_IDENTITY);
		CU_ASSERT_TRUE(report.has_info);
		CU_ASSERT_PTR_NOT_NULL(strstr(report.why, words[r]));
		CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, SVIO_SVA_WANT_NATIVE, &a), -EOPNOTSUPP);
		CU_ASSERT_TRUE(says(words[r]));
	}
	dev.info_err = -ENOTTY;
	CU_ASSERT_EQUAL(svio_sva_get_report(&dev, &report), 0);
	CU_ASSERT_FALSE(report.has_info);
	CU_ASSERT_PTR_NOT_NULL(strstr(report.why, "svio bind --driver svio-vfio-pci 0000:99:00.0"));
	dev.transport = SVIO_TRANSPORT_USER;
	svio_sva_get_report(&dev, &report);
	CU_ASSERT_PTR_NOT_NULL(strstr(report.why, "vfio-user"));
	dev.info_err = -EIO;
	svio_sva_get_report(&dev, &report);
	CU_ASSERT_PTR_NOT_NULL(strstr(report.why, "Input/output error"));
	dev.info_err = -ENODEV;
	CU_ASSERT_EQUAL(svio_sva_get_report(&dev, &report), -ENODEV);
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 0, &a), -ENODEV);
}

/* The server is let in for as long as there is a bond; when it still may not, the sentence says why. */
static void test_server_let_in(void)
{
	static const struct {
		int scope, err;
		const char *word;
	} cases[] = {
		{ 0, 0, "same user" }, { 1, 0, "not the reason" }, { 1, -EBUSY, "one server at a time" },
		{ 1, -ESRCH, "container" }, { 2, 0, "CAP_SYS_PTRACE" }, { 3, 0, "boot without it" },
	};
	struct svio_device dev = native();
	struct svio_sva_report report;
	struct svio_sva_bond *a, *b;

	let_in_whom = 0;
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL(let_in_whom, 0); /* the kernel needs nobody's leave */
	svio_sva_unbind(a);
	dev.transport = SVIO_TRANSPORT_USER;
	dev.server = 77;
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &b), 0);
	CU_ASSERT_EQUAL(let_in_whom, 77);
	svio_sva_unbind(b);
	CU_ASSERT_EQUAL(let_in, 1);
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(let_in, 0);
	dev.bind_err = EPERM;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		yama_scope = cases[i].scope;
		yama_err = cases[i].err;
		CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 0, &a), -EPERM);
		CU_ASSERT_TRUE(says(cases[i].word));
		CU_ASSERT_EQUAL(let_in, 0);
	}
	/* The server's own account of it: asked for while it is let in, and in the same words. */
	dev.info.flags = 0;
	dev.info.reason = SVIO_SVA_REFUSED;
	dev.info.error = -EPERM;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		yama_scope = cases[i].scope;
		yama_err = cases[i].err;
		let_in_whom = 0;
		CU_ASSERT_EQUAL(svio_sva_get_report(&dev, &report), 0);
		CU_ASSERT_PTR_NOT_NULL(strstr(report.why, cases[i].word));
		CU_ASSERT_EQUAL(let_in_whom, 77);
		CU_ASSERT_EQUAL(let_in, 0);
	}
	dev.info = native().info;
	/* A server with rights of its own needs none from us. */
	dev.bind_err = 0;
	yama_scope = 1;
	yama_err = -EBUSY;
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(let_in, 0);
	yama_scope = yama_err = 0;
}

/* A native mode that fails is an error with its own words: never a silent identity bond. */
static void test_refusals(void)
{
	static const struct {
		int err, result;
		const char *word;
	} cases[] = {
		{ EDQUOT, -EDQUOT, "1000" },	 { ENOSPC, -ENOSPC, "no PASID" },     { ERANGE, -ERANGE, "20 bits" },
		{ EOVERFLOW, -ERANGE, "20 bits" }, { EBUSY, -EBUSY, "being reset" },    { EPERM, -EPERM, "same user" },
		{ ENOMEM, -ENOMEM, "cannot bind" }, { ENODEV, -ENODEV, "refusal" },
	};
	struct svio_device dev = native();
	struct svio_sva_bond *a;
	int fds = unit_count_fds(), maps = maps_now();

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(cases); i++) {
		dev.bind_err = cases[i].err;
		a = (void *)&dev;
		CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 0, &a), cases[i].result);
		CU_ASSERT_PTR_NULL(a);
		CU_ASSERT_TRUE(says(cases[i].word));
	}
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 4, &a), -EINVAL);
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, SVIO_SVA_WANT_NATIVE | SVIO_SVA_WANT_IDENTITY, &a), -EINVAL);
	/* PASIDs that make no sense are given back. */
	dev.bind_err = 0;
	for (int i = 0; i < 2; i++) {
		dev.pasid = i ? 1u << 20 : 0;
		CU_ASSERT_EQUAL(svio_sva_bind(&dev, &ioas, 0, &a), -EPROTO);
		CU_ASSERT_EQUAL(dev.count, 0);
		CU_ASSERT_TRUE(closed(&dev));
		close(dev.fd);
	}
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
	CU_ASSERT_EQUAL(maps_now(), maps);
}

/* A hostile server may write any number into bond_fd: it is not closed for it. */
static void test_foreign_fd(void)
{
	struct svio_device dev = native();
	struct svio_sva_bond *a;

	dev.transport = SVIO_TRANSPORT_USER;
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, NULL, 0, &a), 0);
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(fcntl(dev.fd + 1, F_GETFD) & ~FD_CLOEXEC, 0); /* still open */
	close(dev.fd + 1);
	close(dev.fd);
}

static void test_fork(void)
{
	struct svio_device dev = native();
	struct svio_sva_report report;
	struct svio_sva_bond *a, *i;
	int status = -1;
	pid_t child;

	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, SVIO_SVA_WANT_IDENTITY, &i), 0);
	child = fork();
	if (child == 0) {
		int bad = 0;

		bad |= a->mode != SVIO_SVA_DEAD || i->mode != SVIO_SVA_DEAD ? 1 : 0;
		bad |= svio_sva_addr(a, &dev, 1) != SVIO_IOVA_BAD || svio_sva_addr(i, registered, 1) != SVIO_IOVA_BAD ? 2 : 0;
		bad |= svio_sva_check(a, &dev, 1) != -ESRCH || !says("fork") ? 4 : 0;
		svio_sva_bond_report(a, &report);
		bad |= report.mode != SVIO_SVA_DEAD ? 8 : 0;
		/* Its own bond is a new one, and letting go of the parent's releases no PASID. */
		svio_sva_unbind(a);
		svio_sva_unbind(i);
		bad |= dev.unbinds || fcntl(dev.fd + 1, F_GETFD) >= 0 ? 16 : 0;
		bad |= svio_sva_bind(&dev, NULL, 0, &a) || dev.binds != 2 || a->mode != SVIO_SVA_NATIVE ? 32 : 0;
		_exit(bad);
	}
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT_EQUAL(status, 0);
	/* The parent's is untouched. */
	CU_ASSERT_EQUAL(a->mode, SVIO_SVA_NATIVE);
	CU_ASSERT_EQUAL(svio_sva_addr(i, registered, 1), (uintptr_t)registered + 0x1000);
	svio_sva_unbind(i);
	svio_sva_unbind(a);
	CU_ASSERT_TRUE(closed(&dev));
	close(dev.fd);
}

/* A reset of the function ends the bond: the descriptor says so, and binding again keeps what users hold. */
static void test_renew(void)
{
	struct svio_device dev = native();
	struct svio_sva_bond *a, *i, *again;
	int fds = unit_count_fds(), status = -1;
	pid_t child;

	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, 0, &a), 0);
	CU_ASSERT_EQUAL_FATAL(svio_sva_bind(&dev, &ioas, SVIO_SVA_WANT_IDENTITY, &i), 0);
	CU_ASSERT_EQUAL(svio_sva_renew(a), 0);
	CU_ASSERT_EQUAL(svio_sva_renew(i), 0);
	CU_ASSERT_EQUAL(dev.binds, 1);
	close(dev.fd); /* POLLERR at the other end */
	dev.count = 0;
	dev.bind_err = EBUSY;
	CU_ASSERT_EQUAL(svio_sva_renew(a), -EBUSY);
	CU_ASSERT_EQUAL(a->mode, SVIO_SVA_NATIVE);
	dev.bind_err = 0;
	dev.pasid = 41;
	CU_ASSERT_EQUAL(svio_sva_renew(a), 0);
	CU_ASSERT_EQUAL(a->pasid, 41);
	CU_ASSERT_EQUAL(dev.binds, 2);
	CU_ASSERT_EQUAL(svio_sva_renew(a), 0);
	CU_ASSERT_EQUAL(dev.binds, 2);
	/* Binding again, too, gives a bond that lives. */
	close(dev.fd);
	dev.bind_err = ENOSPC;
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, NULL, 0, &again), -ENOSPC);
	dev.bind_err = 0;
	CU_ASSERT_EQUAL(svio_sva_bind(&dev, NULL, 0, &again), 0);
	CU_ASSERT_PTR_EQUAL(again, a);
	CU_ASSERT_EQUAL(dev.binds, 3);
	svio_sva_unbind(again);
	child = fork();
	if (child == 0)
		_exit(svio_sva_renew(a) != -ESRCH);
	CU_ASSERT_TRUE(waitpid(child, &status, 0) == child && status == 0);
	svio_sva_unbind(i);
	svio_sva_unbind(a);
	CU_ASSERT_TRUE(closed(&dev));
	close(dev.fd);
	CU_ASSERT_EQUAL(unit_count_fds(), fds);
}

static int scenario(void *ctx)
{
	struct svio_device *dev = ctx;
	struct svio_sva_bond *a, *b = NULL;
	int err = svio_sva_bind(dev, &ioas, 0, &a);

	if (!err)
		err = svio_sva_bind(dev, &ioas, SVIO_SVA_WANT_IDENTITY, &b);
	svio_sva_unbind(b);
	svio_sva_unbind(a);
	CU_ASSERT_EQUAL(dev->count, 0);
	if (dev->fd >= 0) {
		CU_ASSERT_TRUE(closed(dev));
		close(dev->fd);
	}
	dev->fd = -1;
	if (err)
		CU_ASSERT_NOT_EQUAL(svio_last_error()[0], '\0');
	svio_clear_error();
	return err;
}

static void test_failnth(void)
{
	struct svio_device dev = native();

	CU_ASSERT_TRUE(failnth_sweep(scenario, &dev) >= 5);
}

static void *bind_often(void *ctx)
{
	for (int i = 0; i < 2000; i++) {
		struct svio_sva_bond *bond;

		if (svio_sva_bind(ctx, &ioas, 0, &bond))
			return "bind";
		if (bond->pasid != 37 || svio_sva_addr(bond, &i, sizeof(i)) != (uintptr_t)&i)
			return "used";
		svio_sva_unbind(bond);
	}
	return NULL;
}

static void test_threads(void)
{
	struct svio_device dev = native();
	pthread_t thread[4];

	dev.no_bond_fd = true;
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(thread); i++)
		pthread_create(&thread[i], NULL, bind_often, &dev);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(thread); i++) {
		void *failed;

		pthread_join(thread[i], &failed);
		CU_ASSERT_PTR_NULL(failed);
	}
	CU_ASSERT_EQUAL(dev.count, 0);
	CU_ASSERT_EQUAL(dev.binds, dev.unbinds);
}

static const struct unit_test tests[] = {
	{ "a native bond is shared, counted and released", test_native },
	{ "a PASID of the caller's choice", test_pasid },
	{ "its descriptor does not outlive exec", test_close_on_exec },
	{ "an identity bond knows registered memory only", test_identity },
	{ "each reason against native has its words", test_reasons },
		{ "a server is let in where Yama is active", test_server_let_in },
	{ "a native mode that fails is an error", test_refusals },
	{ "a server's number is no descriptor", test_foreign_fd },
	{ "a child has no bond", test_fork },
	{ "a bond that a reset has ended is renewed", test_renew },
	{ "every allocation fails in turn", test_failnth },
	{ "threads bind at once", test_threads },
	{ NULL, NULL },
};

int main(void)
{
	return unit_run("sva/bond", tests);
}
