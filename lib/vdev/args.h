/* SPDX-License-Identifier: BSD-3-Clause */
/* The parsed options of a device, private to args.c and device.c. */
#ifndef VDEV_ARGS_H
#define VDEV_ARGS_H

#include "svio_vdev.h"

#define VD_MAX_ARGS 64

struct svio_vdev_args {
	char *text; /* owns what the pointers below point into */
	const char *model;
	unsigned int num;
	struct {
		const char *key, *value;
		bool used;
	} arg[VD_MAX_ARGS];
};

int svio__vd_args_parse(const char *spec, struct svio_vdev_args *args);
void svio__vd_args_free(struct svio_vdev_args *args);
/* 0, or -EINVAL naming the first option that nobody asked for. */
int svio__vd_args_unused(const struct svio_vdev_args *args, const char *help);

#endif
