/* SPDX-License-Identifier: BSD-3-Clause */
/* svio: one command. Each row of the table below is a file cmd_<name>.c beside this one. */
#include "cli.h"

static const struct cli_command commands[] = {
	{ "list", "PCI functions, their drivers and groups, and what svio can do with each", cmd_list },
	{ "info", "one device: regions, interrupts, capabilities, group, DMA ranges", cmd_info },
	{ "doctor", "is this machine ready, and what to do about what is not", cmd_doctor },
	{ "bind", "give a function to vfio-pci (or another driver)", cmd_bind },
	{ "unbind", "give a function back to the driver it had", cmd_unbind },
	{ "nvme", "drive an NVMe controller: identify, read, write, perf", cmd_nvme },
	{ "migrate", "move a running process to another process, controller or machine", cmd_migrate },
	{ "copy", "copy a file by a DMA engine (Intel DSA), from page to page", cmd_copy },
	{ "crc", "CRC-32C of a file by a DMA engine", cmd_crc },
	{ "dsa", "drive a DMA engine: perf", cmd_dsa },
	{ "serve", "simulated devices for vfio-user clients: svio, QEMU, SPDK", cmd_serve },
	{ NULL, NULL, NULL },
};

int main(int argc, char **argv)
{
	int rc;

	argp_err_exit_status = CLI_USAGE;
	rc = cli_dispatch("svio", "Drive PCIe devices from user space.", commands, argc, argv);
	/* A full disk or a closed pipe must not look like success. */
	if ((fflush(stdout) || ferror(stdout)) && rc == CLI_OK)
		rc = cli_error("cannot write to standard output");
	return rc;
}
