/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user as a transport: `user:PATH`, a server at a unix socket, and `sim:SPEC`, a server in a thread of this process over a
 * socketpair. Payloads of the protocol are VFIO's structures (svio_vfio_user.h), so that most operations hand them through;
 * what comes back is checked by the upper half of this room as the kernel's replies are, and by user_conn.c before that.
 *
 * A vfio-user device has an address space of its own: domains are not shared, and their mappings end with the connection.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "user_conn.h"

/*
 * Provided where the library is linked together with the device kit (lib/link/sim.c). Room vfio does not know the kit; in a
 * program without it these are absent.
 */
int svio__sim_start(const char *spec, int *fd, void **sim) __attribute__((weak));
void svio__sim_stop(void *sim) __attribute__((weak));

struct user {
	struct svio__user_conn *conn;
	void *sim;
	struct {
		int fd; /* -1: not mappable */
		uint64_t size;
	} region[SVIO__MAX_REGIONS];
};

static struct svio__user_conn *dev_conn(struct svio_device *dev)
{
	return ((struct user *)dev->priv)->conn;
}

/* ---- open and close ------------------------------------------------------------------------------ */

/* connect() waits while the server's backlog is full, for as long as SO_SNDTIMEO says (unix(7)); signals do not make it longer. */
static int connect_in_time(int fd, const struct sockaddr_un *addr, uint32_t timeout_ms)
{
	uint64_t now = svio_now_ns(), deadline = now + (uint64_t)timeout_ms * 1000000;

	for (; now < deadline; now = svio_now_ns()) {
		uint64_t us = (deadline - now + 999) / 1000;
		struct timeval tv = { .tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000) };

		if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
			return -errno;
		if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
			return 0;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return -ETIMEDOUT;
}

static int connect_path(const char *name, const char *path, uint32_t timeout_ms, int *fdp)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, err;

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return svio_fail(EINVAL, "%s: a socket path of 1 to %zu characters is expected after 'user:'", name,
				 sizeof(addr.sun_path) - 1);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err = errno;
		return svio_fail(err, "%s: no socket: %s", name, strerror(err));
	}
	err = -connect_in_time(fd, &addr, timeout_ms);
	if (err) {
		close(fd);
		if (err == ENOENT || err == ECONNREFUSED)
			return svio_fail(ENODEV,
					 "%s: no server listens there; start one, for instance: svio serve nvme "
					 "--socket %s",
					 name, path);
		if (err == ETIMEDOUT)
			return svio_fail(ENODEV,
					 "%s: the server has not taken the connection within %u ms: it hangs, or too many "
					 "clients wait for it; look at its process, or start another server on another socket",
					 name, timeout_ms);
		if (err == EACCES)
			return svio_fail(err, "%s: no permission for this socket; its owner can give it: chown USER %s",
					 name, path);
		return svio_fail(err, "%s: cannot connect: %s", name, strerror(err));
	}
	*fdp = fd;
	return 0;
}

static int get_fd(struct svio_device *dev, struct user *u, int *fd)
{
	if (strncmp(dev->name, "sim:", 4) != 0)
		return connect_path(dev->name, dev->name + strlen("user:"), dev->msg_timeout_ms, fd);
	if (!svio__sim_start)
		return svio_fail(EOPNOTSUPP, "%s: this program is linked without the device kit", dev->name);
	return svio__sim_start(dev->name + strlen("sim:"), fd, &u->sim);
}

/* 0 in another pid namespace than the server's. */
static pid_t server_of(const struct user *u, int fd)
{
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);

	if (u->sim || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || cred.pid == getpid())
		return 0;
	return cred.pid;
}

static void user_free(struct user *u, bool forked)
{
	if (u->conn) {
		svio__user_conn_disconnect(u->conn, forked);
		svio__user_conn_put(u->conn);
	}
	/* A simulated device's thread ends with its connection; a child of the process has no such thread. */
	if (u->sim && !forked)
		svio__sim_stop(u->sim);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(u->region); i++)
		if (u->region[i].fd >= 0)
			close(u->region[i].fd);
	free(u);
}

static int user_open(struct svio_device *dev, const struct svio_device_opts *opts)
{
	struct svio_dma_domain *domain;
	struct user *u = calloc(1, sizeof(*u));
	pid_t server = 0;
	int err, fd = -1;

	(void)opts; /* the timeout is in dev */
	if (!u)
		return svio_fail(ENOMEM, "%s: out of memory", dev->name);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(u->region); i++)
		u->region[i].fd = -1;
	err = get_fd(dev, u, &fd);
	if (!err)
		server = server_of(u, fd);
	if (!err)
		err = svio__user_conn_new(fd, dev->name, dev->msg_timeout_ms, &u->conn);
	if (err) {
		user_free(u, false);
		return err;
	}
	domain = svio__domain_new(dev->ops);
	if (!domain) {
		user_free(u, false);
		return svio_fail(ENOMEM, "%s: out of memory", dev->name);
	}
	svio__user_conn_get(u->conn);
	domain->priv = u->conn;
	dev->domain = domain;
	dev->priv = u;
	dev->info.iommu_group = -1;
	dev->info.numa_node = -1;
	dev->info.server_pid = server;
	svio__user_conn_set_device(u->conn, dev);
	return 0;
}

static void user_close(struct svio_device *dev, bool forked)
{
	user_free(dev->priv, forked);
	dev->priv = NULL;
	svio_dma_domain_put(dev->domain);
	dev->domain = NULL;
}

/* ---- description ----------------------------------------------------------------------------------- */

/* A request of at most 64 bytes whose reply has the same layout: fixed part, perhaps more behind it. */
static int query(struct svio_device *dev, uint16_t cmd, void *body, size_t len, size_t cap, size_t *got, int *fd)
{
	uint8_t ask[64]; /* the reader thread may fill body while the request is still being sent */
	struct svio__user_req req = { .cmd = cmd,
				      .head = ask,
				      .head_len = len,
				      .reply = body,
				      .reply_cap = cap,
				      .want_fd = fd != NULL };
	int err;

	memcpy(ask, body, len);
	err = svio__user_call(dev_conn(dev), &req);
	if (err)
		return err;
	if (req.reply_len < len) {
		if (req.reply_fd >= 0)
			close(req.reply_fd);
		return svio_fail(EPROTO, "%s: the reply to request %u is cut short", dev->name, cmd);
	}
	if (got)
		*got = req.reply_len;
	if (fd)
		*fd = req.reply_fd;
	return 0;
}

static int user_info(struct svio_device *dev, struct vfio_device_info *info)
{
	struct svio_vfu_device_info body = { .argsz = sizeof(body) };
	int err = query(dev, SVIO_VFU_GET_INFO, &body, sizeof(body), sizeof(body), NULL, NULL);

	if (err)
		return err;
	if (!(body.flags & SVIO_VFU_DEV_F_PCI))
		return svio_fail(EPROTO, "%s: the server offers something else than a PCI device", dev->name);
	info->flags = VFIO_DEVICE_FLAGS_PCI | (body.flags & SVIO_VFU_DEV_F_RESET ? VFIO_DEVICE_FLAGS_RESET : 0);
	info->num_regions = body.num_regions;
	info->num_irqs = body.num_irqs;
	return 0;
}

static int user_region_info(struct svio_device *dev, struct vfio_region_info *info)
{
	struct user *u = dev->priv;
	uint32_t room = info->argsz, index = info->index;
	size_t got = 0;
	int fd = -1, err;

	/* The same layout, from argsz to offset (<linux/vfio.h>, [Device get region info]). */
	_Static_assert(sizeof(*info) == sizeof(struct svio_vfu_region_info), "one layout");
	err = query(dev, SVIO_VFU_GET_REGION_INFO, info, sizeof(*info), room, &got, &fd);
	if (err)
		return err;
	/* What it did not send is not there, whatever argsz says; more than we have room for asks for another call. */
	if (info->argsz <= room && info->argsz > got)
		info->argsz = (uint32_t)got;
	if (info->index != index || index >= SVIO_ARRAY_SIZE(u->region)) {
		if (fd >= 0)
			close(fd);
		return svio_fail(EPROTO, "%s: the server answered for region %u instead of %u", dev->name,
				 info->index, index);
	}
	if (fd >= 0) {
		struct stat st;

		/* Only a file can be mapped; a region that is none is reached by messages. */
		if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
			close(fd);
			return svio_fail(EPROTO, "%s: the server sent something else than a file for region %u",
					 dev->name, index);
		}
		if (u->region[index].fd >= 0)
			close(u->region[index].fd);
		u->region[index].fd = fd;
	}
	u->region[index].size = info->size;
	if (u->region[index].fd < 0 && info->argsz <= room)
		info->flags &= ~(uint32_t)VFIO_REGION_INFO_FLAG_MMAP;
	return 0;
}

/* ---- region access --------------------------------------------------------------------------------- */

static ssize_t user_region_read(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, void *buf,
				size_t len)
{
	uint32_t count = (uint32_t)SVIO_MIN(len, svio__user_max_xfer(dev_conn(dev)));
	struct svio_vfu_region_rw rw = { .offset = pos, .region = region, .count = count };
	struct {
		struct svio_vfu_region_rw rw;
		uint8_t data[256];
	} small, *reply = &small;
	struct svio__user_req req = { .cmd = SVIO_VFU_REGION_READ, .head = &rw, .head_len = sizeof(rw) };
	ssize_t ret;

	(void)offset; /* regions are named by index on the wire */
	if (count > sizeof(small.data)) {
		reply = malloc(sizeof(rw) + count);
		if (!reply)
			return -ENOMEM;
	}
	req.reply = reply;
	req.reply_cap = sizeof(rw) + count;
	ret = svio__user_call(dev_conn(dev), &req);
	if (!ret) {
		if (req.reply_len < sizeof(rw) || reply->rw.region != region || reply->rw.offset != pos ||
		    reply->rw.count != req.reply_len - sizeof(rw) || reply->rw.count == 0) {
			ret = svio_fail(EPROTO, "%s: a wrong reply to a read of region %u", dev->name, region);
		} else {
			ret = (ssize_t)reply->rw.count;
			memcpy(buf, reply->data, reply->rw.count);
		}
	}
	if (reply != &small)
		free(reply);
	return ret;
}

static ssize_t user_region_write(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos,
				 const void *buf, size_t len)
{
	uint32_t count = (uint32_t)SVIO_MIN(len, svio__user_max_xfer(dev_conn(dev)));
	struct svio_vfu_region_rw rw = { .offset = pos, .region = region, .count = count };
	struct svio_vfu_region_rw reply = { 0 };
	struct svio__user_req req = { .cmd = SVIO_VFU_REGION_WRITE,
				      .head = &rw,
				      .head_len = sizeof(rw),
				      .data = buf,
				      .data_len = count,
				      .reply = &reply,
				      .reply_cap = sizeof(reply) };
	int err = svio__user_call(dev_conn(dev), &req);

	(void)offset;
	if (err)
		return err;
	if (req.reply_len != sizeof(reply) || reply.count == 0 || reply.count > count)
		return svio_fail(EPROTO, "%s: a wrong reply to a write of region %u", dev->name, region);
	return (ssize_t)reply.count;
}

static int user_region_mmap(struct svio_device *dev, uint32_t region, uint64_t offset, uint64_t pos, size_t len,
			    int prot, int flags, void *where, void **addr)
{
	struct user *u = dev->priv;
	void *p;

	if (region >= SVIO_ARRAY_SIZE(u->region) || u->region[region].fd < 0)
		return -EINVAL;
	if (svio__user_dead(u->conn))
		return -ENODEV;
	/* The upper half has checked pos and len against the region. The file may be shorter: the guard absorbs that fault. */
	if (offset > (uint64_t)INT64_MAX - pos)
		return -EPROTO;
	p = mmap(where, len, prot, flags, u->region[region].fd, (off_t)(offset + pos));
	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

/* ---- interrupts ------------------------------------------------------------------------------------ */

static int user_irq_info(struct svio_device *dev, struct vfio_irq_info *info)
{
	_Static_assert(sizeof(*info) == sizeof(struct svio_vfu_irq_info), "one layout");
	return query(dev, SVIO_VFU_GET_IRQ_INFO, info, sizeof(*info), sizeof(*info), NULL, NULL);
}

static int set_irqs(struct svio_device *dev, uint32_t index, uint32_t flags, uint32_t start, uint32_t count,
		    const int *fds, uint32_t num_fds)
{
	struct svio_vfu_irq_set set = { .argsz = sizeof(set), .flags = flags, .index = index, .start = start,
					.count = count };
	struct svio__user_req req = { .cmd = SVIO_VFU_SET_IRQS,
				      .head = &set,
				      .head_len = sizeof(set),
				      .fds = fds,
				      .num_fds = num_fds };

	return svio__user_call(dev_conn(dev), &req);
}

/*
 * On the wire a message carries `count` descriptors or none, which takes the eventfds away [Device set irqs]; VFIO's array may hold -1
 * in between. So: runs of descriptors, no longer than a message may carry, and runs of holes.
 */
static int user_irq_set(struct svio_device *dev, uint32_t index, uint32_t flags, uint32_t start, uint32_t count,
			const int *fds)
{
	uint32_t max = svio__user_max_fds(dev_conn(dev));
	uint32_t n;
	int err = 0;

	if (!fds)
		return set_irqs(dev, index, flags, start, count, NULL, 0);
	if (max == 0)
		return svio_fail(EOPNOTSUPP, "%s: the server takes no descriptors, so it cannot send interrupts",
				 dev->name);
	for (uint32_t i = 0; i < count && !err; i += n) {
		bool hole = fds[i] < 0;

		for (n = 1; i + n < count && (fds[i + n] < 0) == hole && (hole || n < max); n++)
			;
		err = set_irqs(dev, index, flags, start + i, n, hole ? NULL : fds + i, hole ? 0 : n);
	}
	/* Half of a set is none; what this undoes is the index as a whole, as the caller's error path does too. */
	if (err)
		set_irqs(dev, index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, NULL, 0);
	return err;
}

/* ---- reset and features ------------------------------------------------------------------------------ */

static int user_reset(struct svio_device *dev)
{
	struct svio__user_req req = { .cmd = SVIO_VFU_DEVICE_RESET };

	return svio__user_call(dev_conn(dev), &req);
}

static int feature_call(struct svio_device *dev, uint32_t flags, const void *data, size_t len, void *reply, size_t cap,
			size_t *got)
{
	struct svio_vfu_feature head = { .argsz = (uint32_t)(sizeof(head) + SVIO_MAX(len, cap)), .flags = flags };
	struct svio__user_req req = { .cmd = SVIO_VFU_DEVICE_FEATURE,
				      .head = &head,
				      .head_len = sizeof(head),
				      .data = data,
				      .data_len = len,
				      .reply_cap = sizeof(head) + SVIO_MAX(len, cap) };
	int err;

	req.reply = malloc(req.reply_cap);
	if (!req.reply)
		return svio_fail(ENOMEM, "%s: out of memory for a device feature", dev->name);
	err = svio__user_call(dev_conn(dev), &req);
	if (!err && req.reply_len < sizeof(head))
		err = svio_fail(EPROTO, "%s: the reply to a device feature is cut short", dev->name);
	if (!err) {
		size_t n = SVIO_MIN(req.reply_len - sizeof(head), cap);

		if (n)
			memcpy(reply, (uint8_t *)req.reply + sizeof(head), n);
		if (got)
			*got = n;
	}
	free(req.reply);
	/* Servers without a feature say so in different words. */
	return err == -EINVAL || err == -EOPNOTSUPP || err == -ENOSYS ? -ENOTTY : err;
}

/* The ioctl passes a pointer to the ranges; the wire has them in the message. */
static int logging_start(struct svio_device *dev, const struct vfio_device_feature *f, size_t len)
{
	struct vfio_device_feature_dma_logging_control c;
	struct svio_vfu_dma_log_start *start;
	size_t bytes;
	int err;

	if (len < sizeof(c))
		return -EINVAL;
	memcpy(&c, f->data, sizeof(c));
	bytes = sizeof(*start) + (size_t)c.num_ranges * sizeof(struct svio_vfu_dma_log_range);
	if (bytes > svio__user_max_xfer(dev_conn(dev)))
		return svio_fail(EINVAL, "%s: %u ranges are too many to log", dev->name, c.num_ranges);
	start = calloc(1, bytes);
	if (!start)
		return -ENOMEM;
	start->page_size = c.page_size;
	start->num_ranges = c.num_ranges;
	_Static_assert(sizeof(struct vfio_device_feature_dma_logging_range) == sizeof(struct svio_vfu_dma_log_range),
		       "one layout");
	if (c.num_ranges)
		memcpy(start->ranges, (const void *)(uintptr_t)c.ranges, bytes - sizeof(*start));
	err = feature_call(dev, f->flags, start, bytes, NULL, 0, NULL);
	free(start);
	return err;
}

/* The ioctl ORs into the caller's bitmap; the wire returns one, so long ranges go in pieces of whole words. */
static int logging_report(struct svio_device *dev, const struct vfio_device_feature *f, size_t len)
{
	struct vfio_device_feature_dma_logging_report r;
	struct {
		struct svio_vfu_dma_log_report head;
		uint64_t words[4096];
	} *reply;
	uint64_t *bitmap, words, done = 0;
	int err = 0;

	if (len < sizeof(r))
		return -EINVAL;
	memcpy(&r, f->data, sizeof(r));
	if (!r.page_size || r.page_size & (r.page_size - 1) || !r.length || r.length % r.page_size)
		return -EINVAL;
	bitmap = (uint64_t *)(uintptr_t)r.bitmap;
	words = SVIO_BITMAP_WORDS(r.length / r.page_size);
	reply = malloc(sizeof(*reply));
	if (!reply)
		return -ENOMEM;
	while (done < words && !err) {
		uint64_t n = SVIO_MIN(words - done, (uint64_t)SVIO_ARRAY_SIZE(reply->words));
		uint64_t skip = done * 64 * r.page_size;
		struct svio_vfu_dma_log_report ask = { .iova = r.iova + skip,
						       .length = SVIO_MIN(n * 64 * r.page_size, r.length - skip),
						       .page_size = r.page_size };
		size_t got = 0;

		err = feature_call(dev, f->flags, &ask, sizeof(ask), reply, sizeof(ask) + n * 8, &got);
		if (!err && got != sizeof(ask) + n * 8)
			err = svio_fail(EPROTO, "%s: a dirty log of %zu bytes instead of %zu", dev->name, got,
					(size_t)(sizeof(ask) + n * 8));
		for (uint64_t i = 0; !err && i < n; i++)
			bitmap[done + i] |= reply->words[i];
		done += n;
	}
	free(reply);
	return err;
}

static int user_feature(struct svio_device *dev, struct vfio_device_feature *f)
{
	size_t len = f->argsz - sizeof(*f);
	uint32_t feature = f->flags & VFIO_DEVICE_FEATURE_MASK;

	if (f->argsz < sizeof(*f))
		return -EINVAL;
	if (!(f->flags & VFIO_DEVICE_FEATURE_PROBE)) {
		if (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
			return logging_start(dev, f, len);
		if (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT)
			return logging_report(dev, f, len);
	}
	if (sizeof(*f) + len > svio__user_max_xfer(dev_conn(dev)))
		return -EINVAL;
	return feature_call(dev, f->flags, f->data, len, f->data, len, NULL);
}

/* ---- DMA ------------------------------------------------------------------------------------------- */

static void user_domain_free(struct svio_dma_domain *domain)
{
	svio__user_conn_put(domain->priv);
	free(domain);
}

/* As the kernel would describe it: the whole of a 64-bit space, pages of 4 KiB and up, so many mappings. */
/* ---- migration stream: [Mig data read], [Mig data write] ----------------------------------------------- */

static int user_mig_read(struct svio_device *dev, void *buf, size_t len, size_t *got)
{
	uint32_t ask = (uint32_t)SVIO_MIN(len, (size_t)svio__user_max_xfer(dev_conn(dev)) - sizeof(struct svio_vfu_mig_data));
	struct svio_vfu_mig_data head = { .argsz = (uint32_t)sizeof(head) + ask, .size = ask }, h;
	struct svio__user_req req = { .cmd = SVIO_VFU_MIG_DATA_READ, .head = &head, .head_len = sizeof(head),
				      .reply_cap = sizeof(head) + ask };
	int err;

	req.reply = malloc(req.reply_cap);
	if (!req.reply)
		return svio_fail(ENOMEM, "%s: out of memory for migration state", dev->name);
	err = svio__user_call(dev_conn(dev), &req);
	if (!err && req.reply_len < sizeof(h))
		err = -EPROTO;
	if (!err) {
		memcpy(&h, req.reply, sizeof(h));
		/* Some servers always send as much as was asked for: size is what counts. */
		if (h.size > ask || h.size > req.reply_len - sizeof(h)) {
			err = -EPROTO;
		} else {
			memcpy(buf, (uint8_t *)req.reply + sizeof(h), h.size);
			*got = h.size;
		}
	}
	free(req.reply);
	return err ? svio_fail(-err, "%s: reading migration state: %s", dev->name, strerror(-err)) : 0;
}

static int user_mig_write(struct svio_device *dev, const void *buf, size_t len)
{
	size_t most = svio__user_max_xfer(dev_conn(dev)) - sizeof(struct svio_vfu_mig_data);
	const uint8_t *p = buf;

	while (len) {
		uint32_t n = (uint32_t)SVIO_MIN(len, most);
		struct svio_vfu_mig_data head = { .argsz = (uint32_t)sizeof(head) + n, .size = n }, reply;
		struct svio__user_req req = { .cmd = SVIO_VFU_MIG_DATA_WRITE, .head = &head, .head_len = sizeof(head), .data = p,
					      .data_len = n, .reply = &reply, .reply_cap = sizeof(reply) };
		int err = svio__user_call(dev_conn(dev), &req);

		if (err)
			return svio_fail(-err, "%s: writing migration state: %s", dev->name, strerror(-err));
		p += n;
		len -= n;
	}
	return 0;
}

static int user_domain_info(struct svio_dma_domain *domain, struct vfio_iommu_type1_info *info)
{
	struct full {
		struct vfio_iommu_type1_info info;
		struct vfio_iommu_type1_info_dma_avail avail;
		struct {
			struct vfio_iommu_type1_info_cap_iova_range head;
			struct vfio_iova_range range;
		} iova;
	} full = { .info = { .argsz = sizeof(full), .flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS } };
	struct svio__user_conn *conn = domain->priv;
	uint64_t max = svio__user_max_maps(conn);
	uint32_t room = info->argsz;

	if (svio__user_dead(conn))
		return -ENODEV;
	full.info.iova_pgsizes = ~UINT64_C(0xfff);
	full.info.cap_offset = offsetof(struct full, avail);
	full.avail.header.id = VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
	full.avail.header.version = 1;
	full.avail.header.next = offsetof(struct full, iova);
	full.avail.avail = (uint32_t)(domain->mappings < max ? max - domain->mappings : 0);
	full.iova.head.header.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
	full.iova.head.header.version = 1;
	full.iova.head.nr_iovas = 1;
	full.iova.range.end = UINT64_MAX;
	memcpy(info, &full, SVIO_MIN(room, sizeof(full)));
	return 0;
}

static int user_domain_map(struct svio_dma_domain *domain, const struct svio_dma_map *map)
{
	struct svio__user_conn *conn = domain->priv;
	struct svio_vfu_dma_map body = { .argsz = sizeof(body), .iova = map->iova, .size = map->len };
	struct svio__user_req req = { .cmd = SVIO_VFU_DMA_MAP, .head = &body, .head_len = sizeof(body) };
	int err;

	if (svio__user_dead(conn))
		return -ENODEV;
	if (domain->mappings >= svio__user_max_maps(conn))
		return -ENOSPC;
	if (map->prot & SVIO_DMA_READ)
		body.flags |= SVIO_VFU_DMA_F_READ;
	if (map->prot & SVIO_DMA_WRITE)
		body.flags |= SVIO_VFU_DMA_F_WRITE;
	if (map->fd >= 0 && svio__user_max_fds(conn) > 0) {
		body.offset = map->fd_offset;
		req.fds = &map->fd;
		req.num_fds = 1;
	}
	/* Before the server knows of it, since it may ask at once. */
	err = svio__user_mem_add(conn, map);
	if (err)
		return err;
	err = svio__user_call(conn, &req);
	if (err)
		svio__user_mem_del(conn, map->iova, map->len);
	return err;
}

static int user_domain_unmap(struct svio_dma_domain *domain, uint64_t iova, uint64_t len, uint64_t *unmapped)
{
	struct svio__user_conn *conn = domain->priv;
	struct svio_vfu_dma_unmap body = { .argsz = sizeof(body), .iova = iova, .size = len };
	struct svio_vfu_dma_unmap reply = { 0 };
	struct svio__user_req req = { .cmd = SVIO_VFU_DMA_UNMAP,
				      .head = &body,
				      .head_len = sizeof(body),
				      .reply = &reply,
				      .reply_cap = sizeof(reply) };
	int err = 0;

	*unmapped = len;
	if (!svio__user_dead(conn)) {
		err = svio__user_call(conn, &req);
		if (err == -ENOENT) {
			*unmapped = 0;
			err = 0;
		} else if (!err && req.reply_len == sizeof(reply)) {
			*unmapped = reply.size;
		}
	}
	/* The end of the connection ended the device's DMA, by messages at least: the server may still hold shared memory. */
	if (err == -ENODEV || err == -EPROTO) {
		*unmapped = len;
		err = 0;
	}
	if (!err)
		svio__user_mem_del(conn, iova, len);
	return err;
}

const struct svio__transport_ops svio__user_ops = {
	.transport = SVIO_TRANSPORT_USER,
	.open = user_open,
	.close = user_close,
	.info = user_info,
	.region_info = user_region_info,
	.region_read = user_region_read,
	.region_write = user_region_write,
	.region_mmap = user_region_mmap,
	.irq_info = user_irq_info,
	.irq_set = user_irq_set,
	.reset = user_reset,
	.feature = user_feature,
	.mig_read = user_mig_read,
	.mig_write = user_mig_write,
	.domain_free = user_domain_free,
	.domain_info = user_domain_info,
	.domain_map = user_domain_map,
	.domain_unmap = user_domain_unmap,
};
