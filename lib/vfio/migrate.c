/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device's own migration state: VFIO migration v2 (<linux/vfio.h>, VFIO_DEVICE_FEATURE_MIGRATION and _MIG_DEVICE_STATE). On
 * kernel VFIO the stream is a file that comes with the change of state; over vfio-user it is messages.
 */
#include <string.h>
#include "vfio_priv.h"

static const char *state_name(uint32_t state)
{
	static const char *const names[] = { "ERROR",	  "STOP",	"RUNNING",  "STOP_COPY",
					     "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P" };

	return state < SVIO_ARRAY_SIZE(names) ? names[state] : "?";
}

int svio_device_mig_flags(struct svio_device *dev, uint64_t *flags)
{
	struct vfio_device_feature_migration m = { 0 };
	int err = svio_device_feature(dev, SVIO_FEATURE_GET, VFIO_DEVICE_FEATURE_MIGRATION, &m, sizeof(m));

	*flags = err ? 0 : m.flags;
	return err;
}

int svio_device_mig_get(struct svio_device *dev, enum svio_mig_state *state)
{
	struct vfio_device_feature_mig_state s = { .data_fd = -1 };
	int err = svio_device_feature(dev, SVIO_FEATURE_GET, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &s, sizeof(s));

	if (!err && s.device_state > SVIO_MIG_PRE_COPY_P2P)
		err = svio_fail(EPROTO, "%s: is in migration state %u, which is none", dev->name, s.device_state);
	*state = err ? SVIO_MIG_ERROR : (enum svio_mig_state)s.device_state;
	return err;
}

static void drop_stream(struct svio_device *dev)
{
	if (dev->mig_open)
		close(dev->mig_fd);
	dev->mig_open = false;
}

void svio__mig_close(struct svio_device *dev)
{
	drop_stream(dev);
}

int svio_device_mig_set(struct svio_device *dev, enum svio_mig_state state)
{
	struct vfio_device_feature_mig_state s = { .device_state = state, .data_fd = -1 };
	int err = svio_device_feature(dev, SVIO_FEATURE_SET, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &s, sizeof(s));

	if (err)
		return svio_fail_prefix(err, "%s: to migration state %s", dev->name, state_name(state));
	if (dev->ops->mig_read)
		return 0;
	/* PRE_COPY to STOP_COPY goes on in the same file. */
	if (s.data_fd >= 0) {
		drop_stream(dev);
		dev->mig_fd = s.data_fd;
		dev->mig_open = true;
	} else if (state != SVIO_MIG_STOP_COPY) {
		drop_stream(dev);
	}
	return 0;
}

int svio_device_mig_read(struct svio_device *dev, void *buf, size_t len, size_t *got)
{
	ssize_t n;

	*got = 0;
	if (dev->ops->mig_read)
		return dev->ops->mig_read(dev, buf, len, got);
	if (!dev->mig_open)
		return svio_fail(EINVAL, "%s: has no migration stream in this state", dev->name);
	do
		n = read(dev->mig_fd, buf, len);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != ENOMSG) /* PRE_COPY: nothing more for now */
		return svio_fail(errno, "%s: migration state: %s", dev->name, strerror(errno));
	*got = n > 0 ? (size_t)n : 0;
	return 0;
}

int svio_device_mig_write(struct svio_device *dev, const void *buf, size_t len)
{
	const char *p = buf;

	if (dev->ops->mig_write)
		return dev->ops->mig_write(dev, buf, len);
	if (!dev->mig_open)
		return svio_fail(EINVAL, "%s: has no migration stream in this state", dev->name);
	while (len) {
		ssize_t n = write(dev->mig_fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return svio_fail(n < 0 ? errno : EIO, "%s: migration state: %s", dev->name, n < 0 ? strerror(errno) : "not taken");
		p += n;
		len -= (size_t)n;
	}
	return 0;
}
