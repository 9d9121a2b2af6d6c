/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two igb functions (Intel 82576) on one wire: frames leave the one and arrive at the other, through svio's rooms alone: device,
 * ioas, guarded BAR, polling. And a virtual function: registers behind its BAR answer, whatever its memory enable bit says.
 *
 *	igb_probe wire DEV_A DEV_B		64 frames from A to B, every byte compared
 *	igb_probe vf PF VF TOKEN		both opened with one VF token; the VF's registers and memory bit
 *
 * Prints one line a check, "ok - …" or "not ok - …". Register offsets: Intel 82576EB datasheet (revision 2.65) §8.2 ff.; the
 * transmit descriptors are the legacy ones, §7.2.2.1; virtual function registers are §8.29.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "svio_ioas.h"

enum {
	CTRL = 0x0000, CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26,
	STATUS = 0x0008, STATUS_LU = 1 << 1,
	MDIC = 0x0020, MDIC_WRITE = 1 << 26, MDIC_PHY1 = 1 << 21, MDIC_READY = 1 << 28,
	IMC = 0x150c, EIMC = 0x1528,
	RCTL = 0x0100, RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_MPE = 1 << 4, RCTL_BAM = 1 << 15,
	TCTL = 0x0400, TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3,
	RDBAL = 0xc000, RDBAH = 0xc004, RDLEN = 0xc008, SRRCTL = 0xc00c, RDT = 0xc018, RXDCTL = 0xc028,
	TDBAL = 0xe000, TDBAH = 0xe004, TDLEN = 0xe008, TDT = 0xe018, TXDCTL = 0xe028,
	QUEUE_ENABLE = 1 << 25,
	VF_STATUS = 0x0008, VF_RDBAL = 0x2800, VF_RDBAH = 0x2804, VF_RDLEN = 0x2808, VF_TDBAL = 0x3800,
};

/* Advanced, one buffer: §7.1.5.1 as we write it, §7.1.5.2 as the device does. QEMU's igb knows no legacy receive descriptors. */
union rx_desc {
	struct {
		uint64_t addr, header;
	} read;
	struct {
		uint64_t rss;
		uint32_t status; /* bit 0: done; bits 31:20: errors */
		uint16_t len, vlan;
	} back;
};

struct tx_desc { /* §7.2.2.1 */
	uint64_t addr;
	uint16_t len;
	uint8_t cso, cmd, status, css;
	uint16_t vlan;
};
_Static_assert(sizeof(union rx_desc) == 16 && sizeof(struct tx_desc) == 16, "16-byte descriptors");

#define TX_CMD_EOP  0x01
#define TX_CMD_IFCS 0x02
#define TX_CMD_RS   0x08
#define DESC_DONE   0x01

#define RING   128
#define FRAMES 64
#define BUF    2048

struct igb {
	struct svio_device *dev;
	struct svio_bar *bar;
	volatile union rx_desc *rx;
	volatile struct tx_desc *tx;
	uint8_t *buf; /* RING buffers */
};

static int failures;

static void __attribute__((format(printf, 2, 3))) check(bool good, const char *fmt, ...)
{
	va_list ap;

	printf("%s - igb: ", good ? "ok" : "not ok");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	failures += !good;
}

static uint32_t rd(const struct igb *i, uint32_t reg)
{
	return svio_mmio_read32((char *)i->bar->addr + reg);
}

static void wr(const struct igb *i, uint32_t reg, uint32_t v)
{
	svio_mmio_write32((char *)i->bar->addr + reg, v);
}

/* Poll a register until these bits of it have that value, at most 10 s of the clock. */
static bool wait_reg(const struct igb *i, uint32_t reg, uint32_t bits, uint32_t value)
{
	uint64_t end = svio_now_ns() + UINT64_C(10000000000);

	while ((rd(i, reg) & bits) != value) {
		if (svio_now_ns() > end) {
			printf("# %s: register %#x is %#x, %#x of %#x wanted\n", svio_device_name(i->dev),
			       reg, rd(i, reg), value, bits);
			return false;
		}
	}
	return true;
}

static int igb_open(struct igb *i, const char *name, struct svio_ioas *ioas, const char *token)
{
	struct svio_device_opts opts = { .size = sizeof(opts), .vf_token = token };
	int rc = svio_device_open(name, &opts, &i->dev);

	if (!rc)
		rc = svio_ioas_attach(ioas, i->dev);
	if (!rc)
		rc = svio_device_set_master(i->dev, true);
	if (!rc)
		rc = svio_bar_map(i->dev, 0, 0, 0, 0, &i->bar);
	return rc;
}

/* §4.2.1.6.1 software reset, then one receive and one transmit queue (§4.5.9, §4.5.10). */
static bool igb_start(struct igb *i, const struct svio_ioas *ioas)
{
	uint64_t rx_iova, tx_iova;

	wr(i, IMC, UINT32_MAX);
	wr(i, EIMC, UINT32_MAX);
	wr(i, CTRL, rd(i, CTRL) | CTRL_RST);
	/* On hardware EECD.Auto_RD tells too that the EEPROM has been read (§8.4.2); QEMU's igb never sets it. */
	if (!wait_reg(i, CTRL, CTRL_RST, 0))
		return false;
	wr(i, IMC, UINT32_MAX);
	wr(i, EIMC, UINT32_MAX);
	wr(i, CTRL, rd(i, CTRL) | CTRL_SLU);
	/* The PHY's control register, IEEE 802.3 §22.2.4.1: enable and restart auto-negotiation, through MDIC (§8.2.4). */
	wr(i, MDIC, MDIC_WRITE | MDIC_PHY1 | 0 << 16 | 0x1200);
	if (!wait_reg(i, MDIC, MDIC_READY, MDIC_READY))
		return false;

	i->rx = svio_mem_alloc(RING * sizeof(*i->rx), 4096, -1);
	i->tx = svio_mem_alloc(RING * sizeof(*i->tx), 4096, -1);
	i->buf = svio_mem_alloc(RING * BUF, 4096, -1);
	if (!i->rx || !i->tx || !i->buf)
		return false;
	rx_iova = svio_ioas_iova_range(ioas, (const void *)i->rx, RING * sizeof(*i->rx));
	tx_iova = svio_ioas_iova_range(ioas, (const void *)i->tx, RING * sizeof(*i->tx));
	for (int d = 0; d < RING; d++)
		i->rx[d].read.addr = htole64(svio_ioas_iova_range(ioas, i->buf + d * BUF, BUF));

	wr(i, RDBAL, (uint32_t)rx_iova);
	wr(i, RDBAH, (uint32_t)(rx_iova >> 32));
	wr(i, RDLEN, RING * sizeof(*i->rx));
	wr(i, SRRCTL, BUF / 1024 | 1 << 25); /* buffers in KiB, advanced one-buffer descriptors (§8.10.2) */
	wr(i, RXDCTL, rd(i, RXDCTL) | QUEUE_ENABLE);
	if (!wait_reg(i, RXDCTL, QUEUE_ENABLE, QUEUE_ENABLE))
		return false;
	wr(i, RCTL, RCTL_EN | RCTL_UPE | RCTL_MPE | RCTL_BAM);
	wr(i, RDT, RING - 1);

	wr(i, TDBAL, (uint32_t)tx_iova);
	wr(i, TDBAH, (uint32_t)(tx_iova >> 32));
	wr(i, TDLEN, RING * sizeof(*i->tx));
	wr(i, TXDCTL, rd(i, TXDCTL) | QUEUE_ENABLE);
	if (!wait_reg(i, TXDCTL, QUEUE_ENABLE, QUEUE_ENABLE))
		return false;
	wr(i, TCTL, TCTL_EN | TCTL_PSP);
	return wait_reg(i, STATUS, STATUS_LU, STATUS_LU);
}

static void igb_close(struct igb *i, struct svio_ioas *ioas)
{
	svio_bar_unmap(i->bar);
	if (i->dev) {
		svio_device_set_master(i->dev, false);
		svio_ioas_detach(ioas, i->dev);
	}
	svio_device_close(i->dev);
	svio_mem_free((void *)i->rx);
	svio_mem_free((void *)i->tx);
	svio_mem_free(i->buf);
}

static void fill(uint8_t *frame, unsigned int n, unsigned int len)
{
	static const uint8_t head[14] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5 };

	memcpy(frame, head, sizeof(head)); /* broadcast, EtherType for local experiments (IEEE 802) */
	for (unsigned int b = sizeof(head); b < len; b++)
		frame[b] = (uint8_t)(b * 31 + n * 7);
}

static void wire(const char *name_a, const char *name_b)
{
	struct igb a = { 0 }, b = { 0 };
	struct svio_ioas *ioas = NULL;
	uint8_t want[BUF], *frames = NULL;
	unsigned int good = 0, sent = 0;
	uint64_t end;
	int rc = svio_mem_start(NULL);

	if (!rc)
		rc = svio_ioas_create(NULL, &ioas);
	if (!rc)
		rc = igb_open(&a, name_a, ioas, NULL);
	if (!rc)
		rc = igb_open(&b, name_b, ioas, NULL);
	check(!rc, "two functions in one ioas%s%s", rc ? ": " : "", rc ? svio_last_error() : "");
	if (rc)
		return;
	rc = igb_start(&a, ioas) && igb_start(&b, ioas);
	check(rc, "reset, queues enabled, link up");
	frames = svio_mem_alloc(FRAMES * BUF, 4096, -1);
	if (!rc || !frames)
		return;

	for (unsigned int n = 0; n < FRAMES; n++) {
		unsigned int len = 60 + n * 22;

		fill(frames + n * BUF, n, len);
		a.tx[n] = (struct tx_desc){ .addr = htole64(svio_ioas_iova(ioas, frames + n * BUF)),
					    .len = htole16((uint16_t)len),
					    .cmd = TX_CMD_EOP | TX_CMD_IFCS | TX_CMD_RS };
	}
	svio_dma_wmb();
	wr(&a, TDT, FRAMES);
	end = svio_now_ns() + UINT64_C(10000000000);
	for (unsigned int n = 0; n < FRAMES && svio_now_ns() < end;) {
		if (!(le32toh(b.rx[n].back.status) & DESC_DONE))
			continue;
		svio_dma_rmb();
		fill(want, n, 60 + n * 22);
		/* QEMU may deliver the frame check sequence with the frame; the payload is what counts. */
		if (le16toh(b.rx[n].back.len) >= 60 + n * 22 && le32toh(b.rx[n].back.status) >> 20 == 0 &&
		    memcmp(b.buf + n * BUF, want, 60 + n * 22) == 0)
			good++;
		n++;
	}
	for (unsigned int n = 0; n < FRAMES; n++)
		sent += a.tx[n].status & DESC_DONE;
	check(sent == FRAMES, "%u of %u transmit descriptors written back", sent, FRAMES);
	check(good == FRAMES, "%u of %u frames arrived byte for byte", good, FRAMES);
	igb_close(&a, ioas);
	igb_close(&b, ioas);
	svio_mem_free(frames);
	check(svio_ioas_destroy(ioas) == 0, "everything returned");
	svio_mem_stop();
}

static void vf(const char *pf_name, const char *vf_name, const char *token)
{
	struct igb p = { 0 }, v = { 0 };
	struct svio_ioas *ioas = NULL;
	struct svio_device_info info;
	uint32_t command = 0, after;
	int rc = svio_mem_start(NULL);

	if (!rc)
		rc = svio_ioas_create(NULL, &ioas);
	if (!rc)
		rc = igb_open(&p, pf_name, ioas, token);
	if (!rc)
		rc = igb_open(&v, vf_name, ioas, token);
	check(!rc, "PF and VF opened with one token%s%s", rc ? ": " : "", rc ? svio_last_error() : "");
	if (rc)
		return;
	svio_device_get_info(v.dev, &info);
	check(info.is_vf, "the VF says that it is one");
	wr(&v, VF_RDBAL, 0x12345000);
	wr(&v, VF_RDBAH, 0x1);
	wr(&v, VF_RDLEN, 4096);
	wr(&v, VF_TDBAL, 0x6789a000);
	check(rd(&v, VF_RDBAL) == 0x12345000 && rd(&v, VF_RDBAH) == 1 && rd(&v, VF_RDLEN) == 4096 &&
		      rd(&v, VF_TDBAL) == 0x6789a000,
	      "the VF's receive and transmit registers hold what was written");
	svio_device_config_read(v.dev, 4, 2, &command);
	svio_device_config_write(v.dev, 4, 2, command & ~2u);
	after = rd(&v, VF_RDBAL);
	/*
	 * A VF has no memory enable bit (PCIe 5.0 §9.3.4.1.3), and Linux leaves its mapping alone. QEMU's VF has the bit and obeys it, so
	 * what is read is not the register; that there is no signal and no revocation is what counts here.
	 */
	check(!svio_bar_revoked(v.bar), "the VF's BAR stays mapped with its memory bit clear (reads %#x)", after);
	svio_device_config_write(v.dev, 4, 2, command | 2u);
	check(rd(&v, VF_RDBAL) == 0x12345000, "and its registers are as they were");
	svio_device_config_read(p.dev, 4, 2, &command);
	svio_device_config_write(p.dev, 4, 2, command & ~2u);
	check(rd(&p, STATUS) == UINT32_MAX && svio_bar_revoked(p.bar), "the PF's does not");
	svio_device_config_write(p.dev, 4, 2, command | 2u);
	check(svio_bar_restore(p.dev) == 0 && rd(&p, STATUS) != UINT32_MAX, "and is restored");
	igb_close(&v, ioas);
	igb_close(&p, ioas);
	check(svio_ioas_destroy(ioas) == 0, "everything returned");
	svio_mem_stop();
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 4 && strcmp(argv[1], "wire") == 0)
		wire(argv[2], argv[3]);
	else if (argc == 5 && strcmp(argv[1], "vf") == 0)
		vf(argv[2], argv[3], argv[4]);
	else
		return 2;
	return failures ? 1 : 0;
}
