/* SPDX-License-Identifier: BSD-3-Clause */
/* What only the library as a whole can offer. */
#ifndef SVIO_LINK_H
#define SVIO_LINK_H

#include "svio_vdev.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Make the models in this library (edu, nvme) known to svio_vdev_create(). Any number of times, from any thread. 0 or -errno. */
int svio_models_register(void);

#ifdef __cplusplus
}
#endif
#endif
