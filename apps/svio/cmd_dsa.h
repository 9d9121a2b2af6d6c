/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVIO_CMD_DSA_H
#define SVIO_CMD_DSA_H

#include "cli.h"

int cmd_dsa_perf(int argc, char **argv);

#endif
