/* SPDX-License-Identifier: BSD-3-Clause */
/* A device's name says how it is reached. */
#include <string.h>
#include "vfio_priv.h"

const struct svio__transport_ops *svio__transport(const char *name)
{
	if (strncmp(name, "user:", 5) == 0 || strncmp(name, "sim:", 4) == 0)
		return &svio__user_ops;
	return &svio__group_ops;
}
