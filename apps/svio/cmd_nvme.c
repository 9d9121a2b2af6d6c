/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme: commands that drive an NVMe controller. */
#include "cli.h"

static const struct cli_command nvme_commands[] = {
	{ NULL, NULL, NULL },
};

int cmd_nvme(int argc, char **argv)
{
	return cli_dispatch("svio nvme", "Drive an NVMe controller from user space.", nvme_commands,
			    argc, argv);
}
