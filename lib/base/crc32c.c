/* SPDX-License-Identifier: BSD-3-Clause */
/* CRC-32C by isa-l, which picks the CPU's fastest way. */
#include <isa-l/crc.h>
#include "svio_base.h"

uint32_t svio_crc32c(uint32_t crc, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	/* isa-l takes an int length, and leaves the initial and final inversion to the caller. */
	crc = ~crc;
	while (len > 0) {
		int n = (int)SVIO_MIN(len, (size_t)1 << 30);

		crc = crc32_iscsi((unsigned char *)(uintptr_t)p, n, crc);
		p += n;
		len -= (size_t)n;
	}
	return ~crc;
}
