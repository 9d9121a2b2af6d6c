/* SPDX-License-Identifier: BSD-3-Clause */
/* svio nvme: commands that drive an NVMe controller. */
#include "cli.h"
#include "cmd_nvme.h"

static const struct cli_command nvme_commands[] = {
	{ "identify", "show what a controller or namespace says of itself", cmd_nvme_identify },
	{ "read", "copy blocks of a namespace to a file", cmd_nvme_read },
	{ "write", "copy a file to blocks of a namespace", cmd_nvme_write },
	{ "perf", "measure, and verify, reads and writes", cmd_nvme_perf },
	{ NULL, NULL, NULL },
};

int cmd_nvme(int argc, char **argv)
{
	return cli_dispatch("svio nvme", "Drive an NVMe controller from user space.", nvme_commands,
			    argc, argv);
}
