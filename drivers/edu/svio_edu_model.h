/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The edu device as a model for the device kit: register it with
 * svio_vdev_model_register(&svio_edu_model), then create "edu", "edu,dma_mask=0xffffffffffffffff"
 * or "edu,map".
 */
#ifndef SVIO_EDU_MODEL_H
#define SVIO_EDU_MODEL_H

#include "svio_vdev.h"

extern const struct svio_vdev_model svio_edu_model;

#endif
