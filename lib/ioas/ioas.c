/* SPDX-License-Identifier: BSD-3-Clause */
#include "svio_ioas.h"
