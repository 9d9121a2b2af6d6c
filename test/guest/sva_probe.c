/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * kernel/svio_vfio_pci against real Linux VFIO, by its own ioctls and without the library. Run in the lab by t_sva.sh; one check
 * per line, "ok - what" or "not ok - what: why". Device work is done on the registers of DSA (drivers/dsa/dsa_spec.h), which the simulated
 * device kernel/svio_simdev has.
 *
 *	sva_probe reason BDF REASON [ERRNO]	no native mode, and why; the features' argument rules
 *	sva_probe sleepless BDF			low power works as ever where nothing is bound
 *	sva_probe api BDF			bind, count, range, unbind, bond files, failures without residue
 *	sva_probe sleep BDF			no low power while bound, no bond while asleep
 *	sva_probe cycles BDF N			N binds and unbinds leave nothing
 *	sva_probe pasids BDF N			N processes that end with a bond give their PASIDs back
 *	sva_probe quota BDF			quota (set to 2 by the caller)
 *	sva_probe pass BDF			bond file and device file in other hands
 *	sva_probe fork BDF			a child, its copies and its own bond
 *	sva_probe exec BDF			exec with and without the device's file
 *	sva_probe end BDF exit|kill|exec	a process ends with DMA in flight
 *	sva_probe close BDF			last close of the device with bonds open
 *	sva_probe reset BDF			ioctl, config space and sysfs resets of a bound function
 *	sva_probe storm BDF SECONDS		binds, resets and BAR faults at the same time
 *	sva_probe two BDF			two processes, two bonds, two work queues; one is killed
 *	sva_probe hold BDF			bind, print "held", wait for the bond's end, print "ended", close
 *	sva_probe keep BDF			bind, close the device, print "held", keep the bond file until input ends
 *	sva_probe request BDF			bind, print "held"; let go when VFIO asks
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include "dsa_spec.h"
#include "uapi/svio_vfio.h"

static int failures;

__attribute__((format(printf, 2, 3))) static bool check(bool good, const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	printf(good ? "ok - " : "not ok - ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	if (!good)
		printf(" (errno %d: %s)", err, strerror(err));
	putchar('\n');
	fflush(stdout);
	failures += !good;
	return good;
}

__attribute__((noreturn)) static void die(const char *what)
{
	check(false, "%s", what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- VFIO ------------------------------------------------------------------------------------------------ */

struct dev {
	const char *name;
	int container, group, fd;
	uint64_t config; /* offset of config space in fd */
	volatile uint8_t *regs, *portals;
	unsigned int slot[2];
};

static void dev_open(struct dev *d, const char *name)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	char path[128], target[256];
	ssize_t n;

	memset(d, 0, sizeof(*d));
	d->name = name;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		die("iommu_group");
	target[n] = '\0';
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(target, '/') + 1);
	d->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	d->group = open(path, O_RDWR | O_CLOEXEC);
	if (d->container < 0 || d->group < 0 || ioctl(d->group, VFIO_GROUP_SET_CONTAINER, &d->container) ||
	    ioctl(d->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("VFIO group");
	d->fd = ioctl(d->group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (d->fd < 0)
		die("VFIO device");
	fcntl(d->fd, F_SETFD, FD_CLOEXEC);
	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &r))
		die("config region");
	d->config = r.offset;
}

static void dev_unmap(struct dev *d)
{
	if (d->regs)
		munmap((void *)(uintptr_t)d->regs, 0x1000);
	if (d->portals)
		munmap((void *)(uintptr_t)d->portals, 2 * DSA_PORTAL_STRIDE);
	d->regs = d->portals = NULL;
}

static void dev_close(struct dev *d)
{
	dev_unmap(d);
	close(d->fd);
	close(d->group);
	close(d->container);
}

static void *dev_map(struct dev *d, uint32_t bar, size_t len)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = bar };
	void *p;

	if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &r))
		die("BAR");
	if (r.size < len) {
		printf("# BAR %u has %#llx bytes\n", bar, r.size);
		die("BAR");
	}
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)r.offset);
	if (p == MAP_FAILED)
		die("mmap of a BAR");
	return p;
}

static uint32_t config_get(struct dev *d, unsigned int at, size_t size)
{
	uint32_t v = 0;

	if (pread(d->fd, &v, size, (off_t)(d->config + at)) != (ssize_t)size)
		die("config read");
	return v;
}

static int config_set(struct dev *d, unsigned int at, size_t size, uint32_t v)
{
	return pwrite(d->fd, &v, size, (off_t)(d->config + at)) == (ssize_t)size ? 0 : -errno;
}

static unsigned int capability(struct dev *d, unsigned int id)
{
	unsigned int at = config_get(d, PCI_CAPABILITY_LIST, 1);

	for (int n = 0; at >= 0x40 && n < 48; n++, at = config_get(d, at + 1, 1))
		if (config_get(d, at, 1) == id)
			return at;
	return 0;
}

static bool master(struct dev *d)
{
	return config_get(d, PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
}

static void set_master(struct dev *d, bool on)
{
	uint32_t c = config_get(d, PCI_COMMAND, 2) | PCI_COMMAND_MEMORY;

	config_set(d, PCI_COMMAND, 2, on ? c | PCI_COMMAND_MASTER : c & ~(uint32_t)PCI_COMMAND_MASTER);
}

/* ---- the three features ------------------------------------------------------------------------------------- */

/* argsz: of the payload, as it is said; size: what there is. */
static int feature_sized(int fd, uint32_t flags, void *data, size_t size, size_t argsz)
{
	_Alignas(8) uint8_t buf[512] = { 0 };
	struct vfio_device_feature *f = (struct vfio_device_feature *)buf;
	int rc;

	f->argsz = (uint32_t)(sizeof(*f) + argsz);
	f->flags = flags;
	memcpy(f->data, data, size);
	do
		rc = ioctl(fd, VFIO_DEVICE_FEATURE, f);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	memcpy(data, f->data, size);
	return rc;
}

static int feature(int fd, uint32_t flags, void *data, size_t size)
{
	return feature_sized(fd, flags, data, size, size);
}

#define GET(index) (VFIO_DEVICE_FEATURE_GET | (index))
#define SET(index) (VFIO_DEVICE_FEATURE_SET | (index))

static int sva_info(struct dev *d, struct svio_sva_info *info)
{
	memset(info, 0, sizeof(*info));
	return feature(d->fd, GET(SVIO_VFIO_FEATURE_SVA_INFO), info, sizeof(*info));
}

static unsigned int bonds(struct dev *d)
{
	struct svio_sva_info info;

	return sva_info(d, &info) ? 99 : info.bonds;
}

/* The bond file, or -errno. */
static int bind_range(struct dev *d, uint32_t min, uint32_t max, uint32_t *pasid)
{
	struct svio_sva_bind b = { .min = min, .max = max, .bond_fd = -1 };
	int rc = feature(d->fd, SET(SVIO_VFIO_FEATURE_SVA_BIND), &b, sizeof(b));

	if (rc)
		return rc;
	if (pasid)
		*pasid = b.pasid;
	return b.bond_fd;
}

static int bind_any(struct dev *d, uint32_t *pasid)
{
	return bind_range(d, 0, 0, pasid);
}

static int must_bind(struct dev *d, uint32_t *pasid)
{
	int fd = bind_any(d, pasid);

	if (fd < 0) {
		errno = -fd;
		die("bind");
	}
	return fd;
}

/* Bonds released, or -errno. */
static int unbind(struct dev *d, uint32_t min, uint32_t max)
{
	struct svio_sva_unbind u = { .min = min, .max = max, .released = 77 };
	int rc = feature(d->fd, SET(SVIO_VFIO_FEATURE_SVA_UNBIND), &u, sizeof(u));

	return rc ? rc : (int)u.released;
}

/* Milliseconds, of which a guest has more that is slower than usual (test/guest/vm). */
static int patience(int ms)
{
	const char *slow = getenv("SVIO_LAB_SLOW");

	return slow && ms > 0 ? ms * atoi(slow) : ms;
}

/* Has the bond of this file ended, or does it within ms? */
static bool ended(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, patience(ms)) == 1 && (p.revents & POLLHUP);
}

/* ---- DSA, as little of it as it takes -------------------------------------------------------------------------- */

static uint32_t r32(struct dev *d, uint32_t at)
{
	return *(volatile uint32_t *)(d->regs + at);
}

static uint64_t r64(struct dev *d, uint32_t at)
{
	return *(volatile uint64_t *)(d->regs + at);
}

static void w32(struct dev *d, uint32_t at, uint32_t v)
{
	*(volatile uint32_t *)(d->regs + at) = v;
}

static int dsa_cmd(struct dev *d, uint32_t code, uint32_t operand)
{
	double end = now() + 10;

	w32(d, DSA_REG_CMDSTS, DSA_CMDSTS_ACTIVE);
	w32(d, DSA_REG_CMD, DSA_CMD(code, operand));
	while (r32(d, DSA_REG_CMDSTS) & DSA_CMDSTS_ACTIVE)
		if (now() > end)
			return -ETIMEDOUT;
	return (int)DSA_CMDSTS_ERR(r32(d, DSA_REG_CMDSTS));
}

static void dsa_map(struct dev *d)
{
	d->regs = dev_map(d, DSA_BAR_REGS, 0x1000);
	d->portals = dev_map(d, DSA_BAR_PORTALS, 2 * DSA_PORTAL_STRIDE);
}

/* One group of both work queues and two engines; the device enabled, the queues not. */
static void dsa_start(struct dev *d)
{
	uint64_t offsets;
	uint32_t grp, wq, stride;

	if (!d->regs)
		dsa_map(d);
	set_master(d, true);
	if (dsa_cmd(d, DSA_CMD_RESET_DEVICE, 0))
		die("DSA: reset");
	offsets = r64(d, DSA_REG_OFFSETS);
	grp = DSA_OFFSETS_GRPCFG(offsets);
	wq = DSA_OFFSETS_WQCFG(offsets);
	stride = (uint32_t)DSA_WQCAP_WQCFG_BYTES(r64(d, DSA_REG_WQCAP));
	w32(d, grp + DSA_GRPCFG_WQS, 3);
	w32(d, grp + DSA_GRPCFG_ENGINES, 3);
	w32(d, grp + DSA_GRPCFG_FLAGS, DSA_GRPFLAGS_TC_A(0) | DSA_GRPFLAGS_TC_B(1) | DSA_GRPFLAGS_RDBUF_ALLOWED(8));
	w32(d, wq + DSA_WQCFG_SIZE, 16);
	w32(d, wq + stride + DSA_WQCFG_SIZE, 16);
	if (dsa_cmd(d, DSA_CMD_ENABLE_DEVICE, 0))
		die("DSA: enable device");
}

static int dsa_wq(struct dev *d, unsigned int n, uint32_t pasid)
{
	uint32_t at = DSA_OFFSETS_WQCFG(r64(d, DSA_REG_OFFSETS)) +
		      n * (uint32_t)DSA_WQCAP_WQCFG_BYTES(r64(d, DSA_REG_WQCAP));

	w32(d, at + DSA_WQCFG_MODE, DSA_WQCFG_DEDICATED | DSA_WQCFG_BLOCK_ON_FAULT | DSA_WQCFG_PRIORITY(1) |
				    DSA_WQCFG_PASID_EN | DSA_WQCFG_PASID(pasid));
	w32(d, at + DSA_WQCFG_LIMITS, DSA_WQCFG_MAX_XFER(20));
	d->slot[n] = 0;
	return dsa_cmd(d, DSA_CMD_ENABLE_WQ, n);
}

static void dsa_submit(struct dev *d, unsigned int n, void *dst, const void *src, uint32_t len, struct dsa_completion *cr)
{
	volatile uint64_t *slot = (volatile uint64_t *)(d->portals + n * DSA_PORTAL_STRIDE + 64 * (d->slot[n]++ % DSA_PORTAL_SLOTS));
	struct dsa_desc desc = {
		.op_flags = DSA_DESC_OP(DSA_OP_MEMMOVE, DSA_FLAG_CR_VALID | DSA_FLAG_CR_REQUEST | DSA_FLAG_BLOCK_ON_FAULT),
		.cr_addr = (uintptr_t)cr, .src = (uintptr_t)src, .dst = (uintptr_t)dst, .size = len,
	};
	uint64_t w[8];

	memset(cr, 0, sizeof(*cr));
	memcpy(w, &desc, sizeof(w));
	for (int i = 1; i < 8; i++)
		slot[i] = w[i];
	atomic_thread_fence(memory_order_seq_cst);
	slot[0] = w[0];
}

static uint8_t dsa_status(const struct dsa_completion *cr)
{
	return DSA_STATUS(__atomic_load_n(&cr->status, __ATOMIC_ACQUIRE));
}

static int dsa_wait(const struct dsa_completion *cr, double seconds)
{
	double end = now() + seconds;

	while (!dsa_status(cr))
		if (now() > end)
			return -ETIMEDOUT;
	return dsa_status(cr);
}

/* Does the device work on this process's pointers? */
static bool dsa_copies_within(struct dev *d, unsigned int wq, double seconds)
{
	static _Alignas(32) struct dsa_completion cr;
	size_t len = 40000;
	uint8_t *src = malloc(len), *dst = malloc(len);
	bool good;

	for (size_t i = 0; i < len; i++)
		src[i] = (uint8_t)(i * 7 + i / 256);
	dsa_submit(d, wq, dst, src, (uint32_t)len, &cr);
	good = dsa_wait(&cr, seconds) == DSA_ST_SUCCESS && !memcmp(src, dst, len);
	free(src);
	free(dst);
	return good;
}

static bool dsa_copies(struct dev *d, unsigned int wq)
{
	return dsa_copies_within(d, wq, 20);
}

/*
 * Keep `wq` full of copies between two areas, verifying all of them, and say so on `out` after each round; until killed, or until
 * `out` is closed at the other end. Returns what went wrong, or NULL.
 */
static const char *dsa_work(struct dev *d, unsigned int wq, int out)
{
	enum { DEPTH = 8, LEN = 128 << 10 };
	static _Alignas(32) struct dsa_completion cr[DEPTH];
	uint8_t *src = malloc(DEPTH * LEN), *dst = malloc(DEPTH * LEN);

	signal(SIGPIPE, SIG_IGN);
	for (unsigned int round = 0;; round++) {
		memset(src, (int)round & 0xff, DEPTH * LEN);
		for (int i = 0; i < DEPTH; i++)
			dsa_submit(d, wq, dst + i * LEN, src + i * LEN, LEN, &cr[i]);
		for (int i = 0; i < DEPTH; i++)
			if (dsa_wait(&cr[i], 30) != DSA_ST_SUCCESS)
				return "a copy failed";
		if (memcmp(src, dst, DEPTH * LEN))
			return "a copy is wrong";
		if (write(out, ".", 1) != 1)
			return NULL;
	}
}

/* ---- DMA that is under way ---------------------------------------------------------------------------------------- */

/* A thread that keeps work queue 0 full of copies within this process, for whatever happens to the function under them. */
static struct load {
	struct dev *d;
	pthread_t thread;
	atomic_bool stop;
	atomic_ulong submitted, done, wrong;
} load;

static void *load_run(void *unused)
{
	enum { DEPTH = 8, LEN = 128 << 10 };
	static _Alignas(32) struct dsa_completion cr[DEPTH];
	static uint8_t src[DEPTH * LEN], dst[DEPTH * LEN]; /* not given back: DMA may be under way */
	unsigned int n = 0;

	memset(src, 0x6b, sizeof(src));
	for (;; n++) {
		unsigned int i = n % DEPTH;
		uint8_t status = 0;

		while (n >= DEPTH && !(status = dsa_status(&cr[i])))
			if (atomic_load(&load.stop))
				return NULL; /* with what it has submitted under way */
		if (n >= DEPTH) {
			if (status == DSA_ST_SUCCESS && memcmp(dst + i * LEN, src + i * LEN, LEN))
				atomic_fetch_add(&load.wrong, 1);
			memset(dst + i * LEN, 0, LEN);
			atomic_fetch_add(&load.done, 1);
		}
		dsa_submit(load.d, 0, dst + i * LEN, src + i * LEN, LEN, &cr[i]);
		atomic_fetch_add(&load.submitted, 1);
	}
	return unused;
}

/* Returns when copies have been done and others are under way. */
static void load_start(struct dev *d, uint32_t pasid)
{
	double until = now() + 30;

	load.d = d;
	atomic_store(&load.stop, false);
	atomic_store(&load.submitted, 0);
	atomic_store(&load.done, 0);
	dsa_start(d);
	if (dsa_wq(d, 0, pasid) || pthread_create(&load.thread, NULL, load_run, NULL))
		die("load");
	while (!atomic_load(&load.done) && now() < until)
		sched_yield();
	check(atomic_load(&load.done) > 0, "DMA is under way");
}

/* No more is submitted, and what was is not waited for. */
static void load_leave(void)
{
	atomic_store(&load.stop, true);
	pthread_join(load.thread, NULL);
	check(atomic_load(&load.submitted) > atomic_load(&load.done) && !atomic_load(&load.wrong),
	      "%lu of %lu copies were under way, none was wrong", atomic_load(&load.submitted) - atomic_load(&load.done),
	      atomic_load(&load.submitted));
}

/* ---- children ---------------------------------------------------------------------------------------------------- */

static bool told(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&p, 1, patience(ms)) == 1 && read(fd, &c, 1) == 1;
}

static void tell(int fd)
{
	if (write(fd, "x", 1) != 1)
		_exit(99);
}

static int status_of(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

static bool clean_exit(pid_t pid)
{
	int status = status_of(pid);

	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void send_fd(int sock, int fd)
{
	char byte = 'f', room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	if (sendmsg(sock, &m, 0) != 1)
		die("sendmsg");
}

static int take_fd(int sock)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int fd;

	if (recvmsg(sock, &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/* ---- checks --------------------------------------------------------------------------------------------------------- */

static void rules(struct dev *d, bool native)
{
	struct { struct svio_sva_info i; uint32_t more[2]; } info = { 0 };
	struct { struct svio_sva_bind b; uint32_t more[2]; } b = { 0 };
	struct { struct svio_sva_unbind u; uint32_t more[2]; } u = { 0 };
	int fd = d->fd;

	for (uint32_t i = SVIO_VFIO_FEATURE_SVA_INFO; i <= SVIO_VFIO_FEATURE_SVA_UNBIND; i++) {
		uint32_t right = i == SVIO_VFIO_FEATURE_SVA_INFO ? VFIO_DEVICE_FEATURE_GET : VFIO_DEVICE_FEATURE_SET;
		uint32_t wrong = i == SVIO_VFIO_FEATURE_SVA_INFO ? VFIO_DEVICE_FEATURE_SET : VFIO_DEVICE_FEATURE_GET;

		check(feature(fd, VFIO_DEVICE_FEATURE_PROBE | right | i, &b, 0) == 0 &&
		      feature(fd, VFIO_DEVICE_FEATURE_PROBE | i, &b, 0) == 0, "rules: %#x: probe", i);
		check(feature(fd, wrong | i, &b, sizeof(b.b)) == -EINVAL && feature(fd, i, &b, sizeof(b.b)) == -EINVAL,
		      "rules: %#x: get and set are not mixed up", i);
		check(feature(fd, right | i, &b, 8) == -EINVAL, "rules: %#x: argsz must cover the structure", i);
		memset(&b, 0, sizeof(b));
	}
	check(feature(fd, VFIO_DEVICE_FEATURE_PROBE | (SVIO_VFIO_FEATURE_SVA_UNBIND + 1), &b, 0) == -ENOTTY,
	      "rules: a feature that there is not");
	check(feature(fd, GET(SVIO_VFIO_FEATURE_SVA_INFO), &info, sizeof(info)) == 0 && !info.more[0],
	      "rules: what is longer is ignored if it is zero");
	info.more[1] = 1;
	u.more[1] = 1;
	u.u.max = UINT32_MAX;
	b.more[0] = 1;
	check(feature(fd, GET(SVIO_VFIO_FEATURE_SVA_INFO), &info, sizeof(info)) == -E2BIG &&
	      feature(fd, SET(SVIO_VFIO_FEATURE_SVA_UNBIND), &u, sizeof(u)) == -E2BIG &&
	      feature(fd, SET(SVIO_VFIO_FEATURE_SVA_BIND), &b, sizeof(b)) == -E2BIG, "rules: and refused otherwise");
	b.more[0] = 0;
	b.b.flags = 1;
	check(feature(fd, SET(SVIO_VFIO_FEATURE_SVA_BIND), &b, sizeof(b)) == -EINVAL, "rules: bind: unknown flag");
	b.b.flags = 0;
	b.b.reserved = 1;
	check(feature(fd, SET(SVIO_VFIO_FEATURE_SVA_BIND), &b, sizeof(b)) == -EINVAL, "rules: bind: reserved field");
	check(bind_range(d, 5, 4, NULL) == -EINVAL, "rules: bind: range upside down");
	u.more[1] = 0;
	u.u.flags = 4;
	check(feature(fd, SET(SVIO_VFIO_FEATURE_SVA_UNBIND), &u, sizeof(u)) == -EINVAL && unbind(d, 2, 1) == -EINVAL,
	      "rules: unbind: unknown flag, range upside down");
	check(unbind(d, 0, UINT32_MAX) == 0, "rules: nothing to unbind");
	if (!native)
		check(bind_any(d, NULL) == -EOPNOTSUPP, "rules: bind without native mode");
}

static void reason(struct dev *d, char **argv)
{
	struct svio_sva_info info;
	uint32_t want = (uint32_t)strtoul(argv[3], NULL, 0);
	int err = argv[4] ? atoi(argv[4]) : 0;
	unsigned int fds = count_fds();

	check(sva_info(d, &info) == 0, "info");
	check(info.reason == want && !(info.flags & SVIO_SVA_INFO_NATIVE), "reason %u (%u), no native mode", info.reason, want);
	check(info.error == err, "error %d (%d)", info.error, err);
	check(info.quota && info.bonds == 0 && !info.reserved[0] && !info.reserved[1], "quota %u, no bonds", info.quota);
	rules(d, false);
	check(bonds(d) == 0 && count_fds() == fds, "nothing is left");
}

static void sleepless(struct dev *d)
{
	unsigned int pm = capability(d, PCI_CAP_ID_PM);
	struct { uint32_t nothing; } none = { 0 };
	int rc = feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY), &none, 0);

	check(rc == 0 && feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT), &none, 0) == 0,
	      "low power: entry and exit (%d)", rc);
	if (!pm)
		return;
	check(config_set(d, pm + PCI_PM_CTRL, 2, 3) == 0 && (config_get(d, pm + PCI_PM_CTRL, 2) & 3) == 3, "D3hot");
	check(config_set(d, pm + PCI_PM_CTRL, 2, 0) == 0 && (config_get(d, pm + PCI_PM_CTRL, 2) & 3) == 0, "and back");
}

static void api(struct dev *d)
{
	struct svio_sva_info info;
	struct vfio_device_feature *f;
	uint32_t pasid = 0, again = 0;
	unsigned int fds = count_fds();
	int a, b, fd;
	long page = sysconf(_SC_PAGESIZE);
	uint8_t *two = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(sva_info(d, &info) == 0, "info");
	check(info.reason == SVIO_SVA_OK && !info.error && (info.flags & SVIO_SVA_INFO_NATIVE), "native mode (reason %u)",
	      info.reason);
	check((info.flags & SVIO_SVA_INFO_SIMULATED) && (info.flags & SVIO_SVA_INFO_ATS) && (info.flags & SVIO_SVA_INFO_PRI) &&
	      !(info.flags & SVIO_SVA_INFO_RANGE), "flags %#x: ATS, PRI, simulated", info.flags);
	check(info.pasid_bits > 0 && info.pasid_bits <= 20 && info.bonds == 0 && info.quota == 1000,
	      "%u bits, %u bonds, quota %u", info.pasid_bits, info.bonds, info.quota);
	rules(d, true);
	check(count_fds() == fds && bonds(d) == 0, "the rules left nothing");

	a = must_bind(d, &pasid);
	check(pasid > 0 && pasid < 1u << info.pasid_bits && (fcntl(a, F_GETFD) & FD_CLOEXEC), "bind: PASID %u", pasid);
	check(bonds(d) == 1 && !ended(a, 0), "one bond");
	b = must_bind(d, &again);
	check(again == pasid && b != a && bonds(d) == 1, "bind again: the same PASID, another file");
	close(a);
	check(bonds(d) == 1 && !ended(b, 0), "a file less");
	close(b);
	check(bonds(d) == 0, "the last file ends the bond");

	a = must_bind(d, &again);
	b = must_bind(d, NULL);
	check(again == pasid, "the process keeps its PASID");
	check(unbind(d, pasid + 1, UINT32_MAX) == 0 && unbind(d, 0, pasid - 1) == 0 && bonds(d) == 1, "unbind: another range");
	check(unbind(d, 0, UINT32_MAX) == 1 && bonds(d) == 0, "unbind: with its whole count");
	check(ended(a, 0) && ended(b, 0), "its files say so");
	fd = must_bind(d, NULL);
	close(a);
	close(b);
	check(bonds(d) == 1 && !ended(fd, 0), "dead files have no say in the next bond");
	check(unbind(d, pasid, pasid) == 1 && unbind(d, pasid, pasid) == 0, "unbind: exactly");
	close(fd);

	fds = count_fds();
	check(bind_range(d, pasid + 1, pasid + 9, NULL) == -ERANGE && bonds(d) == 0 && count_fds() == fds, "bind: out of range");
	fd = bind_range(d, pasid, pasid, &again);
	check(fd >= 0 && again == pasid, "bind: in range");
	check(bind_range(d, pasid + 1, pasid + 9, NULL) == -ERANGE && bonds(d) == 1, "bind again: out of range");
	close(fd);

	/* The answer cannot be delivered: the bond must not stay. */
	mprotect(two, (size_t)page, PROT_READ | PROT_WRITE);
	f = (struct vfio_device_feature *)two;
	f->argsz = sizeof(*f) + sizeof(struct svio_sva_bind);
	f->flags = SET(SVIO_VFIO_FEATURE_SVA_BIND);
	mprotect(two, (size_t)page, PROT_READ);
	check(ioctl(d->fd, VFIO_DEVICE_FEATURE, f) < 0 && errno == EFAULT && bonds(d) == 0 && count_fds() == fds,
	      "bind: answer into read-only memory");
	f = (struct vfio_device_feature *)(two + page) - 1;
	mprotect(two, 2 * (size_t)page, PROT_READ | PROT_WRITE);
	f->argsz = sizeof(*f) + sizeof(struct svio_sva_bind);
	f->flags = SET(SVIO_VFIO_FEATURE_SVA_BIND);
	munmap(two + page, (size_t)page);
	check(ioctl(d->fd, VFIO_DEVICE_FEATURE, f) < 0 && errno == EFAULT && bonds(d) == 0 && count_fds() == fds,
	      "bind: arguments beyond memory");

	/* DMA by the PASID works, and stops with the bond. */
	fd = must_bind(d, &pasid);
	dsa_start(d);
	check(dsa_wq(d, 0, pasid) == 0 && dsa_copies(d, 0), "the device copies between plain pointers");
	check(dsa_cmd(d, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0)) == 0 && dsa_wq(d, 0, pasid) == 0, "work queue restarted");
	close(fd);
	check(!dsa_copies_within(d, 0, 1), "not without a bond");
}

static void sleep_refused(struct dev *d)
{
	struct { uint32_t nothing; } none = { 0 };
	unsigned int pm = capability(d, PCI_CAP_ID_PM);
	int fd = must_bind(d, NULL);

	check(feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY), &none, 0) == -EBUSY, "no low power while bound");
	check(feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY) | VFIO_DEVICE_FEATURE_PROBE, &none, 0) == 0,
	      "the feature is there all the same");
	if (pm) {
		check(config_set(d, pm + PCI_PM_CTRL, 2, 3) == -EBUSY && !(config_get(d, pm + PCI_PM_CTRL, 2) & 3),
		      "no D3hot while bound");
		check(config_set(d, pm, 4, 3u << 24) == 0 && config_set(d, pm + PCI_PM_CTRL, 2, 0) == 0, "other writes pass");
	}
	close(fd);
	if (!check(feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY), &none, 0) == 0, "low power without bonds"))
		return;
	check(bind_any(d, NULL) == -EBUSY, "no bond in low power");
	check(feature(d->fd, SET(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT), &none, 0) == 0, "awake");
	fd = bind_any(d, NULL);
	check(fd >= 0, "and bound again");
	close(fd);
}

/* The kernel gives up what its caches hold of freed objects: on processors' lists, and in KASAN's quarantine. */
static void shrink_caches(void)
{
	glob_t caches;

	if (glob("/sys/kernel/slab/*/shrink", 0, NULL, &caches))
		return;
	for (size_t i = 0; i < caches.gl_pathc; i++) {
		int fd = open(caches.gl_pathv[i], O_WRONLY | O_CLOEXEC);

		/* One that goes away meanwhile holds nothing. */
		if (fd >= 0 && write(fd, "1", 1) < 0)
			printf("# %s: %s\n", caches.gl_pathv[i], strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	globfree(&caches);
}

/* Objects of the driver's own cache. Those on processors' lists count as used, so a few are no leak. */
static long cached_bonds(void)
{
	char line[256];
	long used = -1;
	FILE *f = fopen("/proc/slabinfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "svio_bond %ld", &used) == 1)
			break;
	if (f)
		fclose(f);
	return used;
}

static long meminfo(const char *what)
{
	char line[128], name[64];
	long kb, found = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63[^:]: %ld", name, &kb) == 2 && !strcmp(name, what))
			found = kb;
	if (f)
		fclose(f);
	return found;
}

static void cycle(struct dev *d, long n, uint32_t pasid)
{
	for (long i = 0; i < n; i++) {
		uint32_t got = 0;
		int fd = bind_any(d, &got);

		if (fd < 0 || got != pasid) {
			errno = fd < 0 ? -fd : 0;
			die("a cycle");
		}
		/* Each way out in turn. */
		if (i % 2 && unbind(d, pasid, pasid) != 1)
			die("a cycle's unbind");
		close(fd);
	}
}

static void cycles(struct dev *d, char **argv)
{
	long n = atol(argv[3]), before, after;
	uint32_t pasid;
	double began, end;
	int fd = must_bind(d, &pasid);

	close(fd);
	cycle(d, n / 10 + 1, pasid);
	shrink_caches();
	before = meminfo("SUnreclaim");
	began = now();
	cycle(d, n, pasid);
	end = now();
	printf("# %ld cycles, %.0f us each\n", n, (end - began) / (double)n * 1e6);
	/* What is freed after a grace period is waited for. */
	shrink_caches();
	while ((cached_bonds() > n / 10 || meminfo("SUnreclaim") > before + 1024) && now() < end + 30) {
		usleep(100000);
		shrink_caches();
	}
	after = meminfo("SUnreclaim");
	check(cached_bonds() >= 0 && cached_bonds() <= n / 10, "%ld cycles: %ld bonds in the cache", n, cached_bonds());
	check(after <= before + 1024, "%ld cycles: kernel memory %ld kB before, %ld kB after", n, before, after);
	check(bonds(d) == 0 && bind_any(d, NULL) >= 0, "and it still binds");
}

static void pasids(struct dev *d, char **argv)
{
	int n = atoi(argv[3]), pipes[2];
	uint32_t most = 0, pasid;

	if (pipe(pipes))
		die("pipe");
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			if (bind_any(d, &pasid) < 0 || write(pipes[1], &pasid, sizeof(pasid)) != sizeof(pasid))
				_exit(1);
			_exit(0);
		}
		if (!clean_exit(pid) || read(pipes[0], &pasid, sizeof(pasid)) != sizeof(pasid)) {
			check(false, "process %d did not bind", i);
			return;
		}
		if (pasid > most)
			most = pasid;
	}
	/* Each is freed with its address space, a little after the process. */
	check(most && most < (uint32_t)n / 2, "%d processes, PASIDs up to %u", n, most);
}

static void quota(struct dev *d)
{
	struct svio_sva_info info;
	int go[2], ready[2], fd;
	pid_t pid;

	if (pipe(go) || pipe(ready))
		die("pipe");
	sva_info(d, &info);
	check(info.quota == 2, "quota %u", info.quota);
	fd = must_bind(d, NULL);
	pid = fork();
	if (pid == 0) {
		if (bind_any(d, NULL) < 0)
			_exit(1);
		tell(ready[1]);
		told(go[0], -1);
		_exit(0);
	}
	check(told(ready[0], 10000), "a second process binds");
	check(bind_any(d, NULL) >= 0, "the quota is of processes: the first one again");
	if (fork() == 0)
		_exit(bind_any(d, NULL) == -EDQUOT ? 0 : 1);
	check(clean_exit(-1), "a third one does not");
	tell(go[1]);
	check(clean_exit(pid), "the second ends");
	pid = fork();
	if (pid == 0) {
		/* The bond of the second goes with a work item. */
		double end = now() + 10;
		int rc;

		while ((rc = bind_any(d, NULL)) == -EDQUOT && now() < end)
			;
		_exit(rc >= 0 ? 0 : 1);
	}
	check(clean_exit(pid), "and then another one does");
	close(fd);
}

static void pass(struct dev *d)
{
	int sock[2], go[2], fd;
	uint32_t pasid;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock) || pipe(go))
		die("socketpair");
	pid = fork(); /* before the bond: what it has of it, it got passed */
	if (pid == 0) {
		int got = take_fd(sock[1]);
		bool good = got >= 0 && !ended(got, 0);

		tell(sock[1]);
		good = good && told(go[0], 10000);
		close(got);
		tell(sock[1]);
		good = good && told(go[0], 10000);
		got = take_fd(sock[1]);
		tell(sock[1]);
		good = good && ended(got, 10000);
		_exit(good ? 0 : 1);
	}
	fd = must_bind(d, &pasid);
	send_fd(sock[0], fd);
	check(told(sock[0], 10000), "passed");
	close(fd);
	check(bonds(d) == 1, "the bond lives on in the other process's file");
	tell(go[1]);
	check(told(sock[0], 10000), "closed there");
	check(bonds(d) == 0, "and ends with it");
	fd = must_bind(d, &pasid);
	tell(go[1]);
	send_fd(sock[0], fd);
	check(told(sock[0], 10000), "passed again");
	check(unbind(d, 0, UINT32_MAX) == 1, "unbound while passed");
	check(clean_exit(pid), "the other process is told of it");
	close(fd);
}

static void forked(struct dev *d)
{
	int go[2], ready[2], fd;
	uint32_t pasid, other;
	pid_t pid;

	if (pipe(go) || pipe(ready))
		die("pipe");
	fd = must_bind(d, &pasid);
	pid = fork();
	if (pid == 0) {
		int mine;

		check(bonds(d) == 0, "child: no bond");
		check(unbind(d, 0, UINT32_MAX) == 0, "child: nothing of its parent's to release");
		mine = must_bind(d, &other);
		check(other != pasid && bonds(d) == 1, "child: PASID %u of its own, its parent's is %u", other, pasid);
		check(unbind(d, 0, UINT32_MAX) == 1 && ended(mine, 0) && !ended(fd, 0), "child: releases its own alone");
		tell(ready[1]);
		told(go[0], 10000);
		_exit(failures ? 1 : 0);
	}
	check(told(ready[0], 10000) && bonds(d) == 1, "parent: still bound");
	close(fd);
	check(bonds(d) == 1, "parent: the child has a copy of the bond's file");
	tell(go[1]);
	check(clean_exit(pid), "child ends");
	check(bonds(d) == 0, "parent: and with it the bond's last file");
}

/* In the child of exec: argv[3] is the device's file. */
static int after_exec(char **argv)
{
	struct dev d = { .fd = atoi(argv[3]) };
	uint32_t pasid;
	int fd;

	if (bonds(&d) != 0)
		return 2;
	fd = bind_any(&d, &pasid);
	return fd >= 0 && bonds(&d) == 1 ? 0 : 3;
}

static void execed(struct dev *d, const char *self)
{
	int pipes[2], fd, sock[2];
	char number[16];
	pid_t pid;

	if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock))
		die("pipe");
	snprintf(number, sizeof(number), "%d", d->fd);
	pid = fork();
	if (pid == 0) {
		fd = must_bind(d, NULL);
		send_fd(sock[1], fd);
		told(pipes[0], 10000);
		fcntl(d->fd, F_SETFD, 0);
		execl(self, self, "after-exec", d->name, number, NULL);
		_exit(9);
	}
	fd = take_fd(sock[0]);
	check(fd >= 0 && !ended(fd, 0), "bound before exec");
	tell(pipes[1]);
	check(clean_exit(pid), "after exec: no bond, and a new one can be had");
	check(ended(fd, 10000), "the old one has ended, though a file of it is open elsewhere");
	close(fd);
}

/* A process that keeps the device busy until it ends, in one of several ways. */
static pid_t worker(struct dev *d, unsigned int wq, const int *pipes, int sock, const char *self, const char *how)
{
	pid_t pid = fork();
	int fd, out = pipes[1];
	uint32_t pasid;
	const char *why;

	if (pid)
		return pid;
	close(pipes[0]);
	dev_unmap(d);
	dsa_map(d);
	fd = must_bind(d, &pasid);
	if (sock >= 0)
		send_fd(sock, fd);
	if (dsa_wq(d, wq, pasid))
		die("work queue");
	if (!strcmp(how, "kill"))
		why = dsa_work(d, wq, out);
	else {
		static _Alignas(32) struct dsa_completion cr[8];
		uint8_t *mem = malloc(16 << 20);

		/* Leave with all this under way. */
		for (int i = 0; i < 8; i++)
			dsa_submit(d, wq, mem + (i << 20), mem + ((8 + i) << 20), 1 << 20, &cr[i]);
		tell(out);
		if (!strcmp(how, "exec"))
			execl(self, self, "nothing", NULL);
		_exit(0);
	}
	printf("# worker: %s\n", why ? why : "told to stop");
	_exit(why ? 1 : 0);
}

/* After a reset everything works. */
static void works_again(struct dev *d)
{
	uint32_t pasid;
	int fd;

	check(ioctl(d->fd, VFIO_DEVICE_RESET) == 0, "reset");
	fd = must_bind(d, &pasid);
	dsa_start(d);
	check(dsa_wq(d, 0, pasid) == 0 && dsa_copies(d, 0), "and the device works for another process");
	dsa_cmd(d, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0));
	close(fd);
}

static void end(struct dev *d, const char *how, const char *self)
{
	int pipes[2], sock[2], fd, status;
	bool killed = !strcmp(how, "kill");
	pid_t pid;

	if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock))
		die("pipe");
	dsa_start(d);
	pid = worker(d, 0, pipes, sock[1], self, how);
	fd = take_fd(sock[0]);
	check(fd >= 0 && told(pipes[0], 30000), "%s: DMA is in flight", how);
	if (killed)
		kill(pid, SIGKILL);
	status = status_of(pid);
	check(killed ? WIFSIGNALED(status) : WIFEXITED(status) && !WEXITSTATUS(status), "%s: the process has ended", how);
	check(ended(fd, 10000), "%s: its bond has ended", how);
	check(!master(d), "%s: the function's bus mastering is off", how);
	close(fd);
	works_again(d);
}

static void closed(const char *name)
{
	struct dev d;
	uint32_t pasid;
	int fd, second;

	dev_open(&d, name);
	fd = must_bind(&d, &pasid);
	second = must_bind(&d, NULL);
	dsa_start(&d);
	check(dsa_wq(&d, 0, pasid) == 0 && dsa_copies(&d, 0), "close: bound and at work");
	load_start(&d, pasid);
	load_leave();
	dev_close(&d);
	check(ended(fd, 0) && ended(second, 0), "close: the bond had ended when close returned");
	dev_open(&d, name);
	check(bonds(&d) == 0, "open again: no bond");
	works_again(&d);
	check(ended(fd, 0), "the old file stays dead");
	close(fd);
	dev_close(&d);
	close(second);
}

static int reset_by(struct dev *d, unsigned int how)
{
	char path[96];
	unsigned int at;
	int fd, rc;

	switch (how) {
	case 0:
		return ioctl(d->fd, VFIO_DEVICE_RESET) ? -errno : 0;
	case 1:
		at = capability(d, PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL;
		return config_set(d, at, 2, config_get(d, at, 2) | PCI_EXP_DEVCTL_BCR_FLR);
	default:
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/reset", d->name);
		fd = open(path, O_WRONLY);
		rc = fd < 0 || write(fd, "1", 1) != 1 ? -errno : 0;
		close(fd);
		return rc;
	}
}

static void reset(struct dev *d)
{
	static const char *const ways[] = { "VFIO_DEVICE_RESET", "FLR by config space", "sysfs reset" };
	uint32_t pasid, again;
	int fd;

	for (unsigned int i = 0; i < 3; i++) {
		fd = must_bind(d, &pasid);
		dsa_start(d);
		check(dsa_wq(d, 0, pasid) == 0 && dsa_copies(d, 0), "%s: bound and at work", ways[i]);
		load_start(d, pasid);
		load_leave();
		check(reset_by(d, i) == 0, "%s", ways[i]);
		check(ended(fd, 0) && bonds(d) == 0, "%s: the bond had ended when it returned", ways[i]);
		check(master(d), "%s: bus mastering is as before", ways[i]);
		close(fd);
		fd = must_bind(d, &again);
		dsa_start(d);
		check(again == pasid && dsa_wq(d, 0, again) == 0 && dsa_copies(d, 0), "%s: bound again, same PASID, at work", ways[i]);
		dsa_cmd(d, DSA_CMD_DISABLE_WQ, DSA_CMD_WQ_OPERAND(0));
		close(fd);
		set_master(d, false);
		fd = must_bind(d, NULL);
		check(reset_by(d, i) == 0 && ended(fd, 0) && !master(d), "%s: and off if it was off", ways[i]);
		close(fd);
	}
}

/* ---- storm ---- */

static atomic_bool stop;
static atomic_uint bound, refused, odd, faults, resets;

static void *storm_bind(void *arg)
{
	struct dev *d = arg;

	while (!stop) {
		int fd = bind_any(d, NULL);

		if (fd >= 0) {
			bound++;
			if (bound % 3 == 0)
				unbind(d, 0, UINT32_MAX);
			close(fd);
		} else if (fd == -EBUSY) {
			refused++;
		} else {
			odd++;
			errno = -fd;
			perror("bind");
		}
	}
	return NULL;
}

static void *storm_fault(void *arg)
{
	struct dev *d = arg;

	while (!stop) {
		/* Back after each reset, which takes the mapping away: the fault waits for it. */
		volatile uint8_t *bar = dev_map(d, DSA_BAR_REGS, 0x1000);

		for (int i = 0; i < 64; i++)
			(void)bar[DSA_REG_VERSION];
		munmap((void *)(uintptr_t)bar, 0x1000);
		faults++;
	}
	return NULL;
}

static void storm(struct dev *d, int seconds)
{
	pthread_t t[4];
	double end = now() + seconds, limit = end + patience(60), longest = 0;
	uint32_t pasid;
	int fd;

	set_master(d, true);
	for (int i = 0; i < 4; i++)
		if (pthread_create(&t[i], NULL, i < 3 ? storm_bind : storm_fault, d))
			die("thread");
	/* Until enough has met, on a slow machine too. */
	while (now() < end || (now() < limit && (resets <= 2 || bound <= 10 || faults <= 10))) {
		double began = now();
		int rc = reset_by(d, resets % 3);

		if (rc && rc != -EAGAIN) { /* the device lock was taken */
			errno = -rc;
			check(false, "storm: reset");
		}
		resets++;
		if (now() - began > longest)
			longest = now() - began;
	}
	stop = true;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	printf("# %u resets (longest %.2f s), %u binds, %u refused, %u BAR mappings\n", resets, longest, bound, refused, faults);
	check(resets > 2 && bound > 10 && faults > 10 && !odd, "storm: binds, resets and BAR faults at the same time");
	check(longest < 5, "storm: no reset took %.1f s", longest);
	check(bonds(d) == 0, "storm: nothing is left bound");
	fd = must_bind(d, &pasid);
	dsa_start(d);
	check(dsa_wq(d, 0, pasid) == 0 && dsa_copies(d, 0), "storm: the device works");
	close(fd);
}

static void two(struct dev *d, const char *self)
{
	int a[2], b[2], sock[2], fd;
	pid_t pa, pb;

	if (pipe(a) || pipe(b) || socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		die("pipe");
	dsa_start(d);
	/* One after the other: the command register is one. */
	pa = worker(d, 0, a, -1, self, "kill");
	check(told(a[0], 30000), "two: first process at work");
	pb = worker(d, 1, b, sock[1], self, "kill");
	fd = take_fd(sock[0]);
	check(told(b[0], 30000), "two: second process at work");
	kill(pb, SIGKILL);
	check(WIFSIGNALED(status_of(pb)) && ended(fd, 10000), "two: the second is killed, its bond ends");
	close(fd);
	check(master(d), "two: bus mastering stays on for the first");
	/* What it had in the pipe already, and then news. */
	fcntl(a[0], F_SETFL, O_NONBLOCK);
	for (char c; read(a[0], &c, 1) == 1;)
		;
	fcntl(a[0], F_SETFL, 0);
	check(told(a[0], 30000) && told(a[0], 30000) && told(a[0], 30000), "two: the first goes on, its copies are right");
	close(a[1]);
	close(a[0]);
	check(clean_exit(pa), "two: the first ends well");
	works_again(d);
}

static void hold(const char *name)
{
	struct dev d;
	uint32_t pasid;
	int fd;

	dev_open(&d, name);
	fd = must_bind(&d, &pasid);
	load_start(&d, pasid);
	printf("held\n");
	fflush(stdout);
	check(ended(fd, 60000), "held bond has ended");
	load_leave();
	check(bind_any(&d, NULL) == -ENODEV, "the function is gone");
	dev_close(&d);
	close(fd);
}

static void keep(const char *name)
{
	struct dev d;
	char c;
	int fd;

	dev_open(&d, name);
	fd = must_bind(&d, NULL);
	dev_close(&d);
	check(ended(fd, 0), "kept bond file is dead");
	printf("held\n");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	close(fd);
}

static void request(const char *name)
{
	struct { struct vfio_irq_set set; int32_t fd; } irq = {
		.set = { .argsz = sizeof(irq), .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			 .index = VFIO_PCI_REQ_IRQ_INDEX, .count = 1 },
	};
	unsigned long done;
	uint64_t times;
	uint32_t pasid;
	double until;
	struct dev d;
	int fd;

	dev_open(&d, name);
	irq.fd = eventfd(0, EFD_CLOEXEC);
	check(ioctl(d.fd, VFIO_DEVICE_SET_IRQS, &irq) == 0, "request: eventfd");
	fd = must_bind(&d, &pasid);
	load_start(&d, pasid);
	printf("held\n");
	fflush(stdout);
	check(read(irq.fd, &times, sizeof(times)) == sizeof(times), "request: VFIO asks for the function");
	done = atomic_load(&load.done);
	until = now() + 30;
	while (atomic_load(&load.done) < done + 16 && now() < until)
		sched_yield();
	check(!ended(fd, 0) && bonds(&d) == 1 && atomic_load(&load.done) >= done + 16,
	      "request: until it is let go of, the bond is good, and DMA goes on");
	load_leave();
	dev_close(&d);
	check(ended(fd, 0), "request: ended with the close");
	close(fd);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct dev d;

	if (!strcmp(what, "nothing"))
		return 0;
	if (argc < 3) {
		fprintf(stderr, "usage: sva_probe WHAT BDF [ARGUMENT]...\n");
		return 2;
	}
	if (!strcmp(what, "after-exec"))
		return after_exec(argv);
	if (!strcmp(what, "close"))
		closed(argv[2]);
	else if (!strcmp(what, "hold"))
		hold(argv[2]);
	else if (!strcmp(what, "keep"))
		keep(argv[2]);
	else if (!strcmp(what, "request"))
		request(argv[2]);
	else {
		dev_open(&d, argv[2]);
		if (!strcmp(what, "reason") && argc > 3)
			reason(&d, argv);
		else if (!strcmp(what, "sleepless"))
			sleepless(&d);
		else if (!strcmp(what, "api"))
			api(&d);
		else if (!strcmp(what, "sleep"))
			sleep_refused(&d);
		else if (!strcmp(what, "cycles") && argc > 3)
			cycles(&d, argv);
		else if (!strcmp(what, "pasids") && argc > 3)
			pasids(&d, argv);
		else if (!strcmp(what, "quota"))
			quota(&d);
		else if (!strcmp(what, "pass"))
			pass(&d);
		else if (!strcmp(what, "fork"))
			forked(&d);
		else if (!strcmp(what, "exec"))
			execed(&d, argv[0]);
		else if (!strcmp(what, "end") && argc > 3)
			end(&d, argv[3], argv[0]);
		else if (!strcmp(what, "reset"))
			reset(&d);
		else if (!strcmp(what, "storm") && argc > 3)
			storm(&d, atoi(argv[3]));
		else if (!strcmp(what, "two"))
			two(&d, argv[0]);
		else
			check(false, "no such check: %s", what);
		dev_close(&d);
	}
	return failures ? 1 : 0;
}
