/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Leave something in an edu device, or look whether it is there: keep_probe DEVICE write|read. QEMU docs/specs/edu.rst: 04h, written
 * x reads ~x. Without the reset that opening a device does otherwise.
 */
#include <stdio.h>
#include <string.h>
#include "svio_vfio.h"

#define LIVE	0x04
#define PATTERN 0x12345678u

int main(int argc, char **argv)
{
	const struct svio_device_opts opts = { .size = sizeof(opts), .flags = SVIO_DEVICE_NO_RESET };
	struct svio_device *dev;
	uint32_t v = PATTERN;
	int rc;

	if (argc != 3) {
		fprintf(stderr, "usage: keep_probe DEVICE write|read\n");
		return 2;
	}
	if (svio_device_open(argv[1], &opts, &dev)) {
		fprintf(stderr, "%s\n", svio_last_error());
		return 1;
	}
	if (strcmp(argv[2], "write") == 0)
		rc = svio_device_region_write(dev, 0, LIVE, &v, sizeof(v));
	else
		rc = svio_device_region_read(dev, 0, LIVE, &v, sizeof(v));
	if (rc)
		fprintf(stderr, "%s\n", svio_last_error());
	else if (strcmp(argv[2], "read") == 0)
		puts(v == ~PATTERN ? "kept" : "reset");
	svio_device_close(dev);
	return rc != 0;
}
