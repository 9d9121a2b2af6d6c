/* SPDX-License-Identifier: BSD-3-Clause */
/* The NVMe device model, for programs that link the device kit by themselves: svio_vdev_model_register(&svio_nvme_model). */
#ifndef SVIO_NVME_MODEL_H
#define SVIO_NVME_MODEL_H

#include "svio_vdev.h"

extern const struct svio_vdev_model svio_nvme_model;

#endif
