/* SPDX-License-Identifier: BSD-3-Clause */
/* A device's name says how it is reached. */
#include <string.h>
#include "vfio_priv.h"

static const struct {
	const char *prefix;
	const struct svio__transport_ops *ops; /* NULL: not in this build */
} by_prefix[] = {
	{ "user:", NULL },
	{ "sim:", NULL },
};

const struct svio__transport_ops *svio__transport(const char *name, int *err)
{
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(by_prefix); i++) {
		if (strncmp(name, by_prefix[i].prefix, strlen(by_prefix[i].prefix)) != 0)
			continue;
		if (!by_prefix[i].ops)
			*err = svio_fail(EOPNOTSUPP,
					 "%s: this build of svio has no vfio-user transport; "
					 "open a PCI function such as 0000:01:00.0",
					 name);
		return by_prefix[i].ops;
	}
	return &svio__group_ops;
}
