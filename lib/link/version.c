/* SPDX-License-Identifier: BSD-3-Clause */
#include "svio_base.h"

const char *svio_version(void)
{
	return "0.1.0";
}
