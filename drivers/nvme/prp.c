/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Describing data to the controller: PRP lists (1.4 §4.3; 2.0 §4.1.1) and SGLs (1.4 §4.4; 2.0 §4.1.2). Pure: addresses in,
 * entries out. The list memory is one request's own, contiguous for us and for the device, on a page boundary.
 */
#include "nvme_priv.h"

void nvme_prp_begin(struct nvme_prp *p, void *list, uint64_t list_iova, uint32_t list_bytes, uint32_t page_size)
{
	*p = (struct nvme_prp){
		.list = list,
		.list_iova = list_iova,
		.list_words = list_bytes / 8,
		.page_size = page_size,
	};
}

/* Bytes of list memory for any transfer of max_transfer bytes, with the chain entries that long lists need. */
uint32_t nvme_prp_list_bytes(uint64_t max_transfer, uint32_t page_size)
{
	uint64_t per_page = page_size / 8;
	/* One page more than its size when the buffer starts inside a page; the first goes into PRP1. */
	uint64_t entries = (max_transfer + page_size - 1) / page_size;
	uint64_t pages = 1;

	if (entries > per_page) /* the last word of every list page but the last leads to the next one */
		pages = (entries - 1 + per_page - 2) / (per_page - 1);
	return (uint32_t)(pages * page_size);
}

static int prp_push(struct nvme_prp *p, uint64_t page)
{
	uint32_t per_page = p->page_size / 8;

	if (p->pos >= per_page && p->pos % per_page == 0) {
		/*
		 * This list page is full and one more entry comes: its last word becomes the pointer to the next page
		 * and what was there moves on.
		 */
		if (p->pos + 1 >= p->list_words)
			return -EINVAL;
		p->list[p->pos] = p->list[p->pos - 1];
		p->list[p->pos - 1] = htole64(p->list_iova + (uint64_t)p->pos * 8);
		p->pos++;
	}
	if (p->pos >= p->list_words)
		return -EINVAL;
	p->list[p->pos++] = htole64(page);
	return 0;
}

/*
 * Append [iova, iova + len). -EINVAL when PRPs cannot say it: a piece other than the first that starts inside a page, one that
 * follows a piece that ended inside a page, an unaligned dword, or a list longer than its memory.
 */
int nvme_prp_add(struct nvme_prp *p, uint64_t iova, uint64_t len)
{
	uint64_t mask = p->page_size - 1;
	uint64_t end = iova + len;

	if (len == 0 || (iova & 3) || p->closed || (p->pages > 0 && (iova & mask)))
		return -EINVAL;
	if (p->pages == 0) {
		p->prp1 = iova;
		p->pages = 1;
		iova = (iova & ~mask) + p->page_size;
	}
	for (; iova < end; iova += p->page_size) {
		if (prp_push(p, iova))
			return -EINVAL;
		p->pages++;
	}
	p->closed = end & mask;
	return 0;
}

uint64_t nvme_prp_end(const struct nvme_prp *p)
{
	if (p->pages <= 1)
		return 0;
	if (p->pages == 2)
		return le64toh(p->list[0]);
	return p->list_iova;
}

void nvme_sgl_begin(struct nvme_sgl_build *s, void *list, uint64_t list_iova, uint32_t list_bytes)
{
	*s = (struct nvme_sgl_build){
		.list = list,
		.list_iova = list_iova,
		.capacity = list_bytes / (uint32_t)sizeof(struct nvme_sgl),
	};
}

/* Append a data block descriptor. -EINVAL when the list is full. */
int nvme_sgl_add(struct nvme_sgl_build *s, uint64_t iova, uint64_t len)
{
	if (len == 0 || len > UINT32_MAX || s->count >= s->capacity)
		return -EINVAL;
	s->list[s->count++] = (struct nvme_sgl){
		.addr = svio_cpu_to_le64(iova),
		.len = svio_cpu_to_le32(len),
		.type = NVME_SGL_DATA,
	};
	return 0;
}

/* The descriptor for the command: the only data block itself, or the last (and only) segment. */
struct nvme_sgl nvme_sgl_end(const struct nvme_sgl_build *s)
{
	if (s->count == 1)
		return s->list[0];
	return (struct nvme_sgl){
		.addr = svio_cpu_to_le64(s->list_iova),
		.len = svio_cpu_to_le32(s->count * sizeof(struct nvme_sgl)),
		.type = NVME_SGL_LAST,
	};
}
