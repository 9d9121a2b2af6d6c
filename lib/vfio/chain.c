/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Variable-length replies of VFIO: argsz, and capability chains.
 *
 * <linux/vfio.h>: the caller states the room in argsz; the kernel fills what fits and sets argsz to what it has. A capability
 * starts with struct vfio_info_cap_header, whose `next` is an offset from the start of the reply, 0 at the end. It carries
 * no length of its own. A vfio-user server sends the same bytes and is not to be trusted.
 */
#include <stdlib.h>
#include <string.h>
#include "vfio_priv.h"

static uint32_t reply_argsz(const void *reply)
{
	uint32_t argsz;

	memcpy(&argsz, reply, sizeof(argsz));
	return argsz;
}

int svio__reply(const struct svio__reply_call *rc, size_t size, void **reply, size_t *len)
{
	size_t have = size;
	uint32_t want;
	void *buf;
	int err;

	/* Two calls are the rule. A reply that keeps growing is followed as long as it grows, up to the limit. */
	for (;;) {
		buf = calloc(1, have);
		if (!buf)
			return svio_fail(ENOMEM, "out of memory for a VFIO reply of %zu bytes",
					 have);
		want = (uint32_t)have;
		memcpy(buf, &want, sizeof(want));
		if (rc->prepare)
			rc->prepare(rc->ctx, buf);
		err = rc->call(rc->ctx, buf);
		if (err) {
			free(buf);
			return err;
		}
		want = reply_argsz(buf);
		if (want <= have)
			break;
		free(buf);
		if (want > SVIO__REPLY_MAX)
			return svio_fail(EPROTO,
					 "a VFIO reply asks for %u bytes, more than the %u allowed",
					 want, SVIO__REPLY_MAX);
		have = want;
	}
	if (want < size) {
		free(buf);
		return svio_fail(EPROTO,
				 "a VFIO reply is %u bytes long, less than its fixed part of %zu",
				 want, size);
	}
	*reply = buf;
	*len = want;
	return 0;
}

int svio__chain_find(const void *reply, size_t len, size_t fixed, uint32_t first, uint16_t id,
		     size_t *cap, size_t *room)
{
	struct vfio_info_cap_header h;
	size_t at = first;
	size_t hops =
		len / sizeof(h); /* headers do not overlap, so a longer chain has met one twice */

	while (at) {
		if (at < fixed || at > len || len - at < sizeof(h))
			return svio_fail(
				EPROTO,
				"VFIO capability at %zu lies outside the reply of %zu bytes", at,
				len);
		if (hops-- == 0)
			return svio_fail(EPROTO, "VFIO capability chain loops");
		memcpy(&h, (const char *)reply + at,
		       sizeof(h)); /* kernels before 6.6 do not align them */
		if (h.id == id) {
			*cap = at;
			*room = len - at;
			return 0;
		}
		at = h.next;
	}
	return -ENOENT;
}
