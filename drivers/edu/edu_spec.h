/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Registers of QEMU's educational PCI device: QEMU documentation, "EDU device" (docs/specs/edu).
 * Shared by the driver and the device model.
 */
#ifndef EDU_SPEC_H
#define EDU_SPEC_H

/* PCI specs */
#define EDU_VENDOR	0x1234
#define EDU_DEVICE	0x11e8
#define EDU_REVISION	0x10
#define EDU_CLASS	0x00ff00 /* unclassified device */
#define EDU_BAR_SIZE	0x100000

/* MMIO area spec: 4-byte access below EDU_REG_WIDE, 4 or 8 bytes from there on */
#define EDU_REG_ID	0x00 /* RO */
#define EDU_REG_LIVE	0x04 /* reads back the inverse of what was written */
#define EDU_REG_FACT	0x08 /* write n, read n! (modulo 2^32) when EDU_STATUS_BUSY is clear */
#define EDU_REG_STATUS	0x20
#define EDU_REG_IRQ_STATUS 0x24 /* RO */
#define EDU_REG_IRQ_RAISE  0x60 /* WO: set bits in the interrupt status */
#define EDU_REG_IRQ_ACK	   0x64 /* WO: clear them */
#define EDU_REG_WIDE	0x80
#define EDU_REG_DMA_SRC 0x80
#define EDU_REG_DMA_DST 0x88
#define EDU_REG_DMA_CNT 0x90
#define EDU_REG_DMA_CMD 0x98

#define EDU_ID		0x010000edu /* major version 1, minor 0 */

#define EDU_STATUS_BUSY 0x01 /* computing a factorial, RO */
#define EDU_STATUS_IRQ	0x80 /* interrupt when done */

#define EDU_DMA_START	0x01 /* set to start, clears when done */
#define EDU_DMA_TO_RAM	0x02 /* from the buffer to memory; otherwise from memory to the buffer */
#define EDU_DMA_IRQ	0x04 /* interrupt when done */

/* Bits that the device itself raises in the interrupt status */
#define EDU_IRQ_FACT	0x001
#define EDU_IRQ_DMA	0x100

/* DMA controller: the device's buffer, in its own address space */
#define EDU_BUF		0x40000
#define EDU_BUF_SIZE	4096
#define EDU_DMA_MASK	0x0fffffff /* default: 28 address bits */

#endif
