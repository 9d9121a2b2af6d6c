/* SPDX-License-Identifier: BSD-3-Clause */
/* svio dsa: commands about a DMA engine itself. */
#include "cmd_dsa.h"

static const struct cli_command dsa_commands[] = {
	{ "perf", "measure copies against memcpy and against map-copy-unmap", cmd_dsa_perf },
	{ NULL, NULL, NULL },
};

int cmd_dsa(int argc, char **argv)
{
	return cli_dispatch("svio dsa", "Drive a DMA engine (Intel DSA) from user space.", dsa_commands, argc, argv);
}
