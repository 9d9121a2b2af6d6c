/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts, for queue pairs that sleep when idle. Vector n belongs to queue n; the admin queue has none (it is polled). All
 * vectors are enabled at once, with the first queue pair that wants one, because older kernels cannot add to MSI-X vectors
 * that are enabled (VFIO_IRQ_INFO_NORESIZE).
 *
 * A sleeping queue pair waits for its eventfd, and for a timer while requests are in flight: a device that died raises no
 * interrupt, and somebody must look at the clock.
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "nvme_priv.h"

#define WAKE_NS (100 * 1000 * 1000) /* at least ten looks a second while something is in flight */

static void close_fds(int *fds, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(fds);
}

/* Lock held. */
static int enable_vectors(struct svio_nvme *nvme)
{
	struct svio_irq_info info;
	uint32_t count;
	int *fds, r;

	if (nvme->irq_fds)
		return 0;
	r = svio_device_irq_info(nvme->dev, SVIO_IRQ_MSIX, &info);
	if (r)
		return r;
	if (info.count < 2)
		return svio_fail(EOPNOTSUPP, "%s: %u MSI-X vectors: no interrupts for I/O queues; poll instead", nvme->name,
				 info.count);
	count = SVIO_MIN(info.count, nvme->granted + 1);
	fds = calloc(count, sizeof(*fds));
	if (!fds)
		return svio_fail(ENOMEM, "%s: out of memory", nvme->name);
	for (uint32_t i = 0; i < count; i++)
		fds[i] = -1;
	for (uint32_t i = 1; i < count; i++) {
		fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (fds[i] < 0) {
			r = svio_fail(errno, "%s: no file descriptor for MSI-X vector %u; raise RLIMIT_NOFILE", nvme->name, i);
			close_fds(fds, count);
			return r;
		}
	}
	r = svio_device_irq_enable(nvme->dev, SVIO_IRQ_MSIX, 0, count, fds);
	if (r) {
		close_fds(fds, count);
		return r;
	}
	nvme->irq_fds = fds;
	nvme->irq_count = count;
	return 0;
}

void nvme_irq_release(struct svio_nvme *nvme)
{
	if (!nvme->irq_fds)
		return;
	if (svio_device_irq_disable(nvme->dev, SVIO_IRQ_MSIX))
		svio_log_debug("%s: %s", nvme->name, svio_last_error());
	close_fds(nvme->irq_fds, nvme->irq_count);
	nvme->irq_fds = NULL;
}

static int watch_fd(struct svio_nvme_qp *qp, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };

	return epoll_ctl(qp->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

int nvme_qp_irq_create(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;
	int r;

	pthread_mutex_lock(&nvme->lock);
	r = enable_vectors(nvme);
	if (r == 0 && qp->qid >= nvme->irq_count)
		r = svio_fail(ENOSPC, "%s: no MSI-X vector for queue %u (%u vectors); poll it instead", nvme->name, qp->qid,
			      nvme->irq_count);
	if (r == 0) {
		qp->vector = qp->qid;
		qp->irq_fd = nvme->irq_fds[qp->qid]; /* the controller's, not ours to close */
	}
	pthread_mutex_unlock(&nvme->lock);
	if (r)
		return r;
	qp->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	qp->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (qp->epoll_fd < 0 || qp->timer_fd < 0 || watch_fd(qp, qp->irq_fd) || watch_fd(qp, qp->timer_fd))
		return svio_fail(errno, "%s: no file descriptors for queue %u; raise RLIMIT_NOFILE", nvme->name, qp->qid);
	return 0;
}

void nvme_qp_irq_destroy(struct svio_nvme_qp *qp)
{
	if (qp->epoll_fd >= 0)
		close(qp->epoll_fd);
	if (qp->timer_fd >= 0)
		close(qp->timer_fd);
}

static void drain(int fd)
{
	uint64_t v;

	/* Empty is as good as read. */
	if (read(fd, &v, sizeof(v)) < 0)
		return;
}

static int poller_poll(void *ctx)
{
	struct svio_nvme_qp *qp = ctx;
	uint32_t n = svio_nvme_poll(qp, 0);

	return n == 0 && qp->state == NVME_QP_DEAD ? -ENODEV : (int)n;
}

/* Empty the eventfd first and look afterwards: a completion between the two fires it again. */
static int poller_arm(void *ctx)
{
	struct svio_nvme_qp *qp = ctx;
	struct itimerspec when = { .it_value.tv_nsec = WAKE_NS };

	drain(qp->irq_fd);
	if (svio_nvme_inflight(qp) && timerfd_settime(qp->timer_fd, 0, &when, NULL))
		return -errno;
	return nvme_cqe_ready(qp) || svio_device_events(qp->nvme->dev) || nvme_get_state(qp->nvme) != NVME_RUNNING;
}

static void poller_disarm(void *ctx)
{
	struct svio_nvme_qp *qp = ctx;
	struct itimerspec off = { .it_value.tv_nsec = 0 };

	timerfd_settime(qp->timer_fd, 0, &off, NULL);
	drain(qp->timer_fd);
	drain(qp->irq_fd);
	qp->countdown = 1; /* look at the clock after a sleep */
}

void svio_nvme_qp_poller(struct svio_nvme_qp *qp, struct svio_poller *poller)
{
	*poller = (struct svio_poller){
		.name = "nvme",
		.poll = poller_poll,
		.ctx = qp,
		.irq_fd = qp->epoll_fd,
		.dev = qp->nvme->dev,
	};
	if (qp->epoll_fd >= 0) {
		poller->arm = poller_arm;
		poller->disarm = poller_disarm;
	}
}
