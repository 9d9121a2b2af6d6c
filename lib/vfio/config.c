/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration space: PCIe 5.0 §7.5.1.1.
 *
 * The command register has two bits that we own. Memory Space Enable is on from open; Bus Master Enable is off until
 * svio_device_set_master(), and off again after close. Linux saves and restores configuration space around a reset, a vfio-user
 * server may not: what we set is compared after each reset and set again.
 */
#include <string.h>
#include "vfio_priv.h"

#define OUR_BITS ((uint16_t)(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER))

/* Bits of ours that this function has: PCIe 5.0 §9.3.4.1.3, a VF's Memory Space Enable does not exist. */
static uint16_t our_bits(const struct svio_device *dev)
{
	return dev->info.is_vf ? PCI_COMMAND_MASTER : OUR_BITS;
}

int svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t *value)
{
	svio_le32 v = svio_cpu_to_le32(0);
	int err;

	if (width != 1 && width != 2 && width != 4)
		return svio_fail(EINVAL, "%s: configuration access of %u bytes", dev->name, width);
	err = svio_device_region_read(dev, SVIO_REGION_CONFIG, off, &v, width);
	if (!err)
		*value = svio_le32_to_cpu(v);
	return err;
}

int svio_device_config_write(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t value)
{
	svio_le32 v = svio_cpu_to_le32(value);
	uint32_t cmd;
	int err;

	if (width != 1 && width != 2 && width != 4)
		return svio_fail(EINVAL, "%s: configuration access of %u bytes", dev->name, width);
	err = svio_device_region_write(dev, SVIO_REGION_CONFIG, off, &v, width);
	/* Who writes the command register here means it: a later reset must not turn it back. */
	if (!err && off <= PCI_COMMAND && off + width > PCI_COMMAND &&
	    svio_device_config_read(dev, PCI_COMMAND, 2, &cmd) == 0)
		dev->command = (uint16_t)((dev->command & ~our_bits(dev)) | (cmd & our_bits(dev)));
	return err;
}

/* Give `bits` of the command register the value `value`, and see that the function took them. */
int svio__config_command(struct svio_device *dev, uint16_t bits, uint16_t value)
{
	uint32_t cmd;
	int err;

	bits &= our_bits(dev);
	value &= bits;
	err = svio_device_config_read(dev, PCI_COMMAND, 2, &cmd);
	if (err)
		return err;
	if (cmd == 0xffff)
		return svio__gone(dev, "configuration space reads all ones: the device is gone");
	if ((cmd & bits) == value)
		return 0;
	err = svio_device_region_write(
		dev, SVIO_REGION_CONFIG, PCI_COMMAND,
		&(svio_le16){ svio_cpu_to_le16((cmd & ~(uint32_t)bits) | value) }, 2);
	if (err)
		return err;
	err = svio_device_config_read(dev, PCI_COMMAND, 2, &cmd);
	if (err)
		return err;
	if ((cmd & bits) != value)
		return svio_fail(
			EIO,
			"%s: the command register stays at %#06x, %#06x was written to bits %#06x",
			dev->name, cmd, value, bits);
	return 0;
}

int svio__config_open(struct svio_device *dev)
{
	uint8_t h[64];
	int err;

	if (dev->regions[SVIO_REGION_CONFIG].info.size < 256)
		return svio_fail(
			EPROTO,
			"%s: configuration space of %llu bytes; a PCI function has 256 or 4096",
			dev->name, (unsigned long long)dev->regions[SVIO_REGION_CONFIG].info.size);
	err = svio_device_region_read(dev, SVIO_REGION_CONFIG, 0, h, sizeof(h));
	if (err)
		return err;
	if (h[PCI_VENDOR_ID] == 0xff && h[PCI_VENDOR_ID + 1] == 0xff)
		return svio__gone(
			dev,
			"configuration space reads all ones: the device is gone or powered down");
	dev->info.vendor = (uint16_t)(h[PCI_VENDOR_ID] | h[PCI_VENDOR_ID + 1] << 8);
	dev->info.device = (uint16_t)(h[PCI_DEVICE_ID] | h[PCI_DEVICE_ID + 1] << 8);
	dev->info.revision = h[PCI_REVISION_ID];
	dev->info.class_code = h[PCI_CLASS_PROG] | (uint32_t)h[PCI_CLASS_PROG + 1] << 8 |
			       (uint32_t)h[PCI_CLASS_PROG + 2] << 16;
	dev->info.pci_quirks = svio_pci_quirks(dev->info.vendor, dev->info.device);
	err = svio__config_command(dev, OUR_BITS, PCI_COMMAND_MEMORY);
	if (!err)
		dev->command = PCI_COMMAND_MEMORY & our_bits(dev);
	return err;
}

int svio__config_restore(struct svio_device *dev)
{
	return svio__config_command(dev, OUR_BITS, dev->command);
}

/* At close: nothing reaches memory any more. A device that is gone cannot either. */
void svio__config_close(struct svio_device *dev)
{
	if (svio_device_events(dev) & SVIO_EV_GONE)
		return;
	svio__config_command(dev, PCI_COMMAND_MASTER, 0);
	dev->command &= (uint16_t)~PCI_COMMAND_MASTER;
}

int svio_device_set_master(struct svio_device *dev, bool on)
{
	/* Decoding that was taken away in an orderly way comes back by svio_device_set_memory() only. */
	uint16_t bits = on && !dev->quiesced ? OUR_BITS : PCI_COMMAND_MASTER;
	uint16_t value = on ? bits : 0;
	int err;

	err = svio__config_command(dev, bits, value);
	if (!err)
		dev->command = (uint16_t)((dev->command & ~bits) | (value & our_bits(dev)));
	return err;
}
