/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio edu: a driver for QEMU's educational device, and the example of how a small driver is written: registers by a mapped BAR or by
 * region access, completion by polling or by an interrupt, DMA to memory of an ioas.
 *
 *	svio_device_open() → svio_ioas_attach() → svio_edu_open() → svio_edu_factorial(), svio_edu_copy_in/out() →
 *	svio_edu_close()
 *
 * One thread at a time. Calls wait for the device, at most one second: -ETIMEDOUT after that, -ENODEV when registers read all ones.
 *
 * Source: QEMU documentation, "EDU device" (docs/specs/edu).
 */
#ifndef SVIO_EDU_H
#define SVIO_EDU_H

#include "svio_ioas.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SVIO_EDU_BUF 4096u /* bytes of the device's own buffer */

struct svio_edu;

enum svio_edu_flags {
	SVIO_EDU_INTERRUPT = 1u << 0, /* wait for the device's MSI (or INTx) on an eventfd instead of polling its registers */
};

/*
 * Take the device into use: identified (-ENODEV when it is no edu device), bus mastering on. ioas: where the memory of copies is mapped.
 * The device reaches only addresses below its dma_mask (28 bits by default in QEMU: give it -device edu,dma_mask=-1 or mask
 * your own IOVAs accordingly); a copy to an address beyond it is refused with -ERANGE by svio_edu_set_dma_mask()'s value.
 */
int svio_edu_open(struct svio_device *dev, struct svio_ioas *ioas, uint32_t flags, struct svio_edu **edup);
void svio_edu_close(struct svio_edu *edu); /* bus mastering off; NULL is fine */

/* Tell the driver the device's dma_mask; it has no register for it. Default: the device's default, 28 bits. */
void svio_edu_set_dma_mask(struct svio_edu *edu, uint64_t mask);

/* Interface version: major in bits 15:8, minor in bits 7:0. */
uint16_t svio_edu_version(struct svio_edu *edu);

/* *result = n! modulo 2^32, computed by the device. */
int svio_edu_factorial(struct svio_edu *edu, uint32_t n, uint32_t *result);

/*
 * DMA between [ptr, ptr + len), memory of the ioas, and the device's buffer from offset off on. -EINVAL beyond SVIO_EDU_BUF, -EFAULT
 * when the memory is not mapped, -ERANGE beyond the dma mask.
 */
int svio_edu_copy_in(struct svio_edu *edu, uint32_t off, const void *ptr, uint32_t len);
int svio_edu_copy_out(struct svio_edu *edu, void *ptr, uint32_t off, uint32_t len);

#ifdef __cplusplus
}
#endif
#endif
