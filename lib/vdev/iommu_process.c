/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Process bonds: the memory of the process at the other end of the socket, by process_vm_readv(2) and process_vm_writev(2).
 *
 * These calls name the process by its id, which may be another's by the time of the call, and they go to whatever program the
 * process runs by then. So the bond holds the address space itself, by an open /proc/PID/mem: reading it gives end-of-file as
 * soon as the last user of that address space is gone, by exit or by exec(). Each access asks it before. It is not used for the
 * data, since it writes to read-only pages as a debugger does. Between the question and the access remains a window of some
 * instructions; what could get hurt in it is memory that the kernel lets us access, and a bond is refused to a process of
 * another user than ours, so that it is never more than that user's own.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "iommu_priv.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static int open_pidfd(int sock, pid_t pid)
{
	socklen_t len = sizeof(int);
	int fd;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
		return fd;
	if (errno == ESRCH || errno == EINVAL) /* it has ended and was waited for */
		return -ESRCH;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : fd;
}

static bool has_ended(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, 0) != 0;
}

/* May we? Address 0 is not mapped anywhere where mmap_min_addr is not 0: the answer is about the right, before it is about the page. */
static int try_access(pid_t pid)
{
	char byte;
	struct iovec l = { .iov_base = &byte, .iov_len = 1 }, r = { .iov_base = NULL, .iov_len = 1 };

	if (process_vm_readv(pid, &l, 1, &r, 1, 0) >= 0 || errno == EFAULT)
		return 0;
	return -errno;
}

static int refused(const struct svio_vdev *dev, pid_t pid, int err)
{
	if (err == -ESRCH)
		return svio_fail(err, "%s: the process that connected (%d) has ended", dev->model->name, (int)pid);
	if (err == -EPERM || err == -EACCES)
		return svio_fail(EPERM,
				 "%s: the kernel does not let us access the memory of process %d; let it call prctl(PR_SET_PTRACER, %d), or set kernel.yama.ptrace_scope=0",
				 dev->model->name, (int)pid, (int)getpid());
	return svio_fail(err, "%s: the memory of process %d cannot be reached: %s", dev->model->name, (int)pid, strerror(-err));
}

int svio__vd_process_open(struct svio_vdev *dev, struct vd_process *p)
{
	const struct ucred *cred = &dev->conn.cred;
	char path[64];
	int err;

	*p = (struct vd_process){ .pid = cred->pid, .pidfd = -1, .mem = -1 };
	if (!dev->conn.has_cred || cred->pid <= 0)
		return svio_fail(EPERM, "%s: the client's process is not known here (another pid namespace, or not a unix socket)",
				 dev->model->name);
	if (cred->uid != geteuid())
		return svio_fail(EPERM, "%s: the client runs as user %u and the server as %u; run the server as the client's user",
				 dev->model->name, cred->uid, geteuid());
	p->self = cred->pid == getpid();
	if (!p->self) {
		p->pidfd = open_pidfd(dev->conn.fd, p->pid);
		if (p->pidfd < 0) {
			err = p->pidfd;
			goto fail;
		}
		snprintf(path, sizeof(path), "/proc/%d/mem", (int)p->pid);
		p->mem = open(path, O_RDONLY | O_CLOEXEC);
		if (p->mem < 0) {
			err = errno == ENOENT ? -ESRCH : -errno;
			goto fail;
		}
		if (has_ended(p->pidfd)) { /* if not, the id was its own all the time */
			err = -ESRCH;
			goto fail;
		}
	}
	err = try_access(p->pid);
	if (!err)
		return 0;
fail:
	svio__vd_process_close(p);
	return refused(dev, p->pid, err);
}

void svio__vd_process_close(struct vd_process *p)
{
	if (p->pidfd >= 0)
		close(p->pidfd);
	if (p->mem >= 0)
		close(p->mem);
	p->pidfd = p->mem = -1;
}

/* The address space that was bound still has a user, that is, the process still runs in it. */
static bool alive(const struct vd_process *p)
{
	char byte;

	if (p->self)
		return true;
	/* 1: read. -1, EIO: nothing is mapped there, but there is an address space. 0: there is none any more. */
	return pread(p->mem, &byte, 1, 0) != 0;
}

int svio__vd_process_rw(struct vd_space *s, uint64_t addr, void *buf, uint32_t len, enum svio_vdev_access access)
{
	const struct vd_process *p = &s->process;

	if (len && addr + len - 1 < addr)
		return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_PROCESS, -EFAULT);
	for (uint32_t done = 0; done < len;) {
		struct iovec l = { .iov_base = (uint8_t *)buf + done, .iov_len = len - done };
		struct iovec r = { .iov_base = (void *)(uintptr_t)(addr + done), .iov_len = len - done };
		ssize_t n;

		if (!alive(p))
			return svio__vd_fault(s, addr, access, SVIO_VDEV_FAULT_GONE, -EIO);
		n = access == SVIO_VDEV_WRITE ? process_vm_writev(p->pid, &l, 1, &r, 1, 0) :
						process_vm_readv(p->pid, &l, 1, &r, 1, 0);
		if (n > 0)
			done += (uint32_t)n; /* short: the next one says why */
		else if (n < 0 && errno == EFAULT)
			return svio__vd_fault(s, addr + done, access, SVIO_VDEV_FAULT_PROCESS, -EFAULT);
		else if (n == 0 || errno != EINTR)
			return svio__vd_fault(s, addr + done, access, SVIO_VDEV_FAULT_GONE, -EIO);
	}
	return 0;
}

/*
 * Where the process is our own, one call copies from one of its ranges to another, and both sides may fault: the kernel's copying
 * stops there. Which side it was is found out by doing it in two steps; so is what overlaps.
 */
int svio__vd_process_copy(struct vd_space *s, uint64_t dst, uint64_t src, uint32_t len)
{
	struct iovec l = { .iov_base = (void *)(uintptr_t)src, .iov_len = len };
	struct iovec r = { .iov_base = (void *)(uintptr_t)dst, .iov_len = len };

	if (!s->process.self || (dst < src ? src - dst : dst - src) < len)
		return -EOPNOTSUPP;
	return process_vm_writev(s->process.pid, &l, 1, &r, 1, 0) == (ssize_t)len ? 0 : -EOPNOTSUPP;
}

/* All but the first byte, then the first byte, in one call: the kernel takes the pieces in their order. */
int svio__vd_process_record(struct vd_space *s, uint64_t addr, const void *record, uint32_t len)
{
	uint8_t *p = (uint8_t *)(uintptr_t)record;
	struct iovec l[2] = { { .iov_base = p + 1, .iov_len = len - 1 }, { .iov_base = p, .iov_len = 1 } };
	struct iovec r[2] = { { .iov_base = (void *)(uintptr_t)(addr + 1), .iov_len = len - 1 },
			      { .iov_base = (void *)(uintptr_t)addr, .iov_len = 1 } };

	if (len < 2 || !alive(&s->process))
		return -EOPNOTSUPP;
	return process_vm_writev(s->process.pid, l, 2, r, 2, 0) == (ssize_t)len ? 0 : -EOPNOTSUPP;
}
