/* SPDX-License-Identifier: BSD-3-Clause */
/* For test/unit/nvme/fake.c in a fuzz target: what would fail a unit test is a crash here. */
#ifndef UNIT_H
#define UNIT_H

#include "fuzz.h"

#define CU_ASSERT_EQUAL(a, b)	 FZ_CHECK((a) == (b))
#define CU_ASSERT_PTR_NULL(p)	 FZ_CHECK((p) == NULL)

#endif
