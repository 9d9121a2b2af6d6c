/* SPDX-License-Identifier: BSD-3-Clause */
/* VFIO_DEVICE_FEATURE: <linux/vfio.h>. The payload follows an 8-byte header whose argsz counts both. */
#include <stdlib.h>
#include <string.h>
#include "vfio_priv.h"

int svio_device_feature(struct svio_device *dev, enum svio_feature_op op, uint16_t feature,
			void *data, size_t size)
{
	static const uint32_t op_flags[] = {
		[SVIO_FEATURE_PROBE] = VFIO_DEVICE_FEATURE_PROBE,
		[SVIO_FEATURE_GET] = VFIO_DEVICE_FEATURE_GET,
		[SVIO_FEATURE_SET] = VFIO_DEVICE_FEATURE_SET,
	};
	struct vfio_device_feature *req;
	int err;

	if (op > SVIO_FEATURE_SET || size > SVIO__FEATURE_MAX || (size && !data))
		return svio_fail(EINVAL, "%s: feature %u: operation %d with %zu bytes", dev->name,
				 feature, (int)op, size);
	if (!dev->ops->feature)
		return svio_fail(ENOTTY, "%s: no features by this transport", dev->name);
	req = calloc(1, sizeof(*req) + size);
	if (!req)
		return svio_fail(ENOMEM, "%s: feature %u: out of memory", dev->name, feature);
	req->argsz = (uint32_t)(sizeof(*req) + size);
	req->flags = op_flags[op] | feature;
	if (size)
		memcpy(req->data, data, size);
	err = dev->ops->feature(dev, req);
	/* Some features return a positive value with success, for example a file descriptor inside the payload. */
	if (err >= 0 && op != SVIO_FEATURE_PROBE && size) /* some have outputs also when they are set */
		memcpy(data, req->data, size);
	free(req);
	if (err >= 0)
		return 0;
	if (err == -ENODEV)
		return svio__gone(dev, "the device is gone");
	if (err == -ENOTTY)
		return svio_fail(err, "%s: has no VFIO feature %u", dev->name, feature);
	return svio_fail(err, "%s: VFIO feature %u: %s", dev->name, feature, strerror(-err));
}
