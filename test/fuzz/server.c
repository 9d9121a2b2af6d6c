/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile client: messages, true and false, to a server of the kit.
 *
 * Input: configuration byte, then records. A record is control, argument, and
 *	control & 0x80	argument bytes for the stream as they are
 *	otherwise	a message: command = argument, 16-bit length, payload
 * control also says which descriptors come along, whether the message is a reply, wants none, and how far the server may go.
 * The server's DMA messages are answered as the configuration byte says.
 */
#include <sys/eventfd.h>
#include <sys/socket.h>
#include "kit.h"

#define JSON "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fz_kit_init();
	return 0;
}

static unsigned int make_fds(unsigned int kind, int *fds)
{
	unsigned int n = 1;

	switch (kind) {
	case 1:
		fds[0] = fz_memfd(64 << 10, true);
		break;
	case 2:
		fds[0] = fz_memfd(64 << 10, false);
		break;
	case 3:
		fds[0] = eventfd(0, EFD_CLOEXEC);
		break;
	case 4:
		for (n = 0; n < 4; n++)
			fds[n] = eventfd(0, EFD_CLOEXEC);
		break;
	case 5:
		fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
		break;
	case 6:
		fds[0] = open("/dev/zero", O_PATH | O_CLOEXEC);
		break;
	case 7:
		for (n = 0; n < 20; n++)
			fds[n] = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
		break;
	default:
		n = 0;
	}
	return n;
}

static void answer_dma(struct fz_kit *k, const struct fz_msg *m, struct fz_in *in)
{
	struct svio_vfu_hdr h = { .id = m->hdr.id, .cmd = m->hdr.cmd, .flags = SVIO_VFU_REPLY, .size = sizeof(h) };
	static uint8_t reply[sizeof(h) + sizeof(struct svio_vfu_dma_rw) + (2u << 20)];
	struct svio_vfu_dma_rw rw = { 0 };
	uint8_t how = fz_u8(in);
	size_t data = 0;

	if (m->len >= sizeof(rw))
		memcpy(&rw, m->data, sizeof(rw));
	FZ_CHECK(rw.count && rw.count <= VD_MAX_XFER && rw.iova + rw.count - 1 >= rw.iova);
	FZ_CHECK(m->len == sizeof(rw) + (m->hdr.cmd == SVIO_VFU_DMA_WRITE ? rw.count : 0));
	if (how & 1) {
		h.flags |= SVIO_VFU_ERROR;
		h.error = 14;
	} else {
		if (how & 2)
			rw.count = rw.count / 2 + 1;
		if (how & 4)
			rw.iova += 8;
		if (m->hdr.cmd == SVIO_VFU_DMA_READ)
			data = how & 8 ? rw.count / 2 : rw.count;
		memcpy(reply + sizeof(h), &rw, sizeof(rw));
		memset(reply + sizeof(h) + sizeof(rw), how, data);
		h.size += (uint32_t)(sizeof(rw) + data);
	}
	if (how & 16)
		h.cmd ^= 7;
	if (how & 32)
		h.id ^= 0x100;
	memcpy(reply, &h, sizeof(h));
	fz_send(k, reply, h.size, NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const specs[] = { "edu,dma_mask=0xffffffffffffffff", "edu,map", "nvme,queues=2,entries=8,size=64K",
					     "probe,iommu" };
	struct fz_in in = { data, size };
	uint8_t conf = fz_u8(&in);
	int before = fz_next_fd();
	static uint8_t payload[(1u << 20) + 65536];
	unsigned int records = 0;
	struct fz_kit k;

	fz_kit_open(&k, specs[conf & 3], (conf >> 2 & 1 ? SVIO_VDEV_RESET_ON_CLOSE : 0) | (conf >> 3 & 1 ? SVIO_VDEV_NO_MMAP : 0) |
						 (conf >> 4 & 1 ? SVIO_VDEV_TRUST_CLIENT : 0) |
						 (conf >> 5 & 1 ? SVIO_VDEV_VF : 0));
	if (!(conf & 0x40))
		fz_kit_version(&k, JSON);
	while (in.left && !k.over && records++ < 64) {
		uint8_t ctl = fz_u8(&in), arg = fz_u8(&in);
		int fds[20];
		unsigned int nfds = make_fds(ctl & 7, fds);
		struct fz_msg m;

		if (ctl & 0x80) {
			size_t n = fz_bytes(&in, payload, SVIO_MIN((size_t)arg, in.left));

			fz_send(&k, payload, n, fds, nfds);
		} else {
			size_t len = fz_u16(&in), got = fz_bytes(&in, payload, len);

			if (ctl & 0x40) /* long ones cost the input nothing */
				len = (size_t)arg * 4096 + len;
			else
				len = got;
			memset(payload + got, 0, len - got);
			fz_send_msg(&k, ctl & 0x40 ? arg % 19 : arg,
				    (ctl & 8 ? SVIO_VFU_REPLY : SVIO_VFU_COMMAND) | (ctl & 16 ? SVIO_VFU_NO_REPLY : 0), payload, len,
				    fds, nfds);
		}
		for (unsigned int i = 0; i < nfds; i++)
			close(fds[i]);
		if (ctl & 0x20) /* pipelined: the next one comes before the server has looked */
			continue;
		fz_kit_turn(&k, 2);
		while (fz_recv(&k, &m))
			if ((m.hdr.flags & SVIO_VFU_TYPE_MASK) == SVIO_VFU_COMMAND && conf & 0x80)
				answer_dma(&k, &m, &in);
	}
	fz_kit_turn(&k, 3);
	fz_kit_close(&k);
	FZ_CHECK(fz_next_fd() == before);
	return 0;
}
