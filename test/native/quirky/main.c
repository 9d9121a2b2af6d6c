/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * quirky CASE SOCKET: other clients' ways with an NVMe device of `svio serve`, by a client and a driver of its own. Prints "ok - " and
 * "not ok - " lines; exits with 1 when there was one of the latter. Nothing of svio is linked.
 */
#include <stdio.h>
#include <string.h>
#include "cases.h"

int main(int argc, char **argv)
{
	const char *c = argc == 3 ? argv[1] : "";

	if (strcmp(c, "spdk") == 0)
		case_spdk(argv[2], false, true);
	else if (strcmp(c, "spdk-split") == 0)
		case_spdk(argv[2], true, true);
	else if (strcmp(c, "spdk-messages") == 0)
		case_spdk(argv[2], true, false);
	else if (strcmp(c, "fua") == 0)
		case_fua(argv[2]);
	else if (strcmp(c, "qemu") == 0)
		case_qemu(argv[2], true);
	else if (strcmp(c, "qemu-messages") == 0)
		case_qemu(argv[2], false);
	else if (strcmp(c, "viommu") == 0)
		case_viommu(argv[2]);
	else if (strcmp(c, "sleep") == 0)
		case_sleep(argv[2]);
	else {
		fprintf(stderr, "usage: quirky spdk|spdk-split|spdk-messages|fua|qemu|qemu-messages|viommu|sleep SOCKET\n");
		return 2;
	}
	return qk_failures() != 0;
}
