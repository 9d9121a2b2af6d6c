/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The Data Streaming Accelerator as a model for the device kit: register it with svio_vdev_model_register(&svio_dsa_model), then
 * create "dsa", "dsa,wqs=4,engines=2" …; `svio serve dsa`, `sim:dsa`.
 */
#ifndef SVIO_DSA_MODEL_H
#define SVIO_DSA_MODEL_H

#include "svio_vdev.h"

extern const struct svio_vdev_model svio_dsa_model;

#endif
