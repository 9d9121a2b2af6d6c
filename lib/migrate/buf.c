/* SPDX-License-Identifier: BSD-3-Clause */
/* What parts write, and how they read it again. */
#include <stdlib.h>
#include <string.h>
#include "migrate_priv.h"

void svio__mg_buf_free(struct svio_migrate_buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

int svio_migrate_put(struct svio_migrate_buf *buf, const void *data, size_t len)
{
	if (buf->err)
		return buf->err;
	if (len > buf->max - buf->len)
		return buf->err = svio_fail(E2BIG, "a state of more than %zu bytes", buf->max);
	if (len > buf->room - buf->len) {
		size_t room = SVIO_MAX(SVIO_MAX(2 * buf->room, buf->len + len), (size_t)4096);
		uint8_t *grown = realloc(buf->data, room);

		if (!grown)
			return buf->err = svio_fail(ENOMEM, "out of memory for a state of %zu bytes", buf->len + len);
		buf->data = grown;
		buf->room = room;
	}
	if (len)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	return 0;
}

int svio_migrate_put_u32(struct svio_migrate_buf *buf, uint32_t value)
{
	svio_le32 le = svio_cpu_to_le32(value);

	return svio_migrate_put(buf, &le, sizeof(le));
}

int svio_migrate_put_u64(struct svio_migrate_buf *buf, uint64_t value)
{
	svio_le64 le = svio_cpu_to_le64(value);

	return svio_migrate_put(buf, &le, sizeof(le));
}

int svio_migrate_put_text(struct svio_migrate_buf *buf, const char *text)
{
	size_t len = strlen(text);

	svio_migrate_put_u32(buf, (uint32_t)len);
	return svio_migrate_put(buf, text, len);
}

const void *svio_migrate_get(struct svio_migrate_in *in, size_t len)
{
	const void *p = in->at;

	if (in->bad || len > in->left) {
		in->bad = true;
		in->left = 0;
		return NULL;
	}
	in->at += len;
	in->left -= len;
	return p;
}

uint32_t svio_migrate_get_u32(struct svio_migrate_in *in)
{
	const void *p = svio_migrate_get(in, sizeof(svio_le32));
	svio_le32 le = 0;

	if (p)
		memcpy(&le, p, sizeof(le));
	return svio_le32_to_cpu(le);
}

uint64_t svio_migrate_get_u64(struct svio_migrate_in *in)
{
	const void *p = svio_migrate_get(in, sizeof(svio_le64));
	svio_le64 le = 0;

	if (p)
		memcpy(&le, p, sizeof(le));
	return svio_le64_to_cpu(le);
}

int svio_migrate_get_text(struct svio_migrate_in *in, char *text, size_t size)
{
	uint32_t len = svio_migrate_get_u32(in);
	const char *p;

	text[0] = '\0';
	if (len >= size)
		in->bad = true;
	p = svio_migrate_get(in, len);
	if (!p || memchr(p, 0, len))
		return -EINVAL;
	memcpy(text, p, len);
	text[len] = '\0';
	return 0;
}
