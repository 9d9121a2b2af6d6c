/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's log for dirty tracking (svio_ioas.h): the data of reads is marked when their completion is taken, rings and the
 * controller's pages whenever somebody collects.
 *
 * A queue pair that is tracked has cid_limit 0, so that each completion fails the test of its id and is looked at once
 * more, off the straight path. The table is stored first: who sees the limit sees the table.
 */
#include "nvme_priv.h"

static void track(struct svio_nvme_qp *qp, uint8_t *table)
{
	if (table)
		qp->dirty = table;
	__atomic_store_n(&qp->cid_limit, table ? 0 : qp->nreq, __ATOMIC_RELEASE);
}

static void log_set(void *ctx, uint8_t *table)
{
	struct svio_nvme *nvme = ctx;

	pthread_mutex_lock(&nvme->log_lock);
	nvme->dirty = table;
	for (struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
		track(qp, table);
	pthread_mutex_unlock(&nvme->log_lock);
}

/* What the controller writes by itself: completions, what EventIdx asks for, answers to admin commands. */
static void log_touch(void *ctx, uint8_t *table)
{
	static const uint8_t pages[] = { NVME_PAGE_CQ, NVME_PAGE_IDENTIFY, NVME_PAGE_INIT, NVME_PAGE_LOG, NVME_PAGE_EVENTIDX };
	struct svio_nvme *nvme = ctx;

	pthread_mutex_lock(&nvme->log_lock);
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(pages); i++)
		svio_dirty_mark(table, nvme_page(nvme, pages[i]), (size_t)1 << nvme->page_shift);
	for (const struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
		svio_dirty_mark(table, qp->cq, (size_t)qp->entries * sizeof(*qp->cq));
	pthread_mutex_unlock(&nvme->log_lock);
}

void nvme_qp_link(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;

	pthread_mutex_lock(&nvme->log_lock);
	qp->next = nvme->qps;
	nvme->qps = qp;
	qp->in_list = true;
	track(qp, nvme->dirty);
	pthread_mutex_unlock(&nvme->log_lock);
}

void nvme_qp_unlink(struct svio_nvme_qp *qp)
{
	struct svio_nvme *nvme = qp->nvme;

	pthread_mutex_lock(&nvme->log_lock);
	/* The ring's last completions; nobody will ask for it again. */
	if (nvme->dirty)
		svio_dirty_mark(nvme->dirty, qp->cq, (size_t)qp->entries * sizeof(*qp->cq));
	for (struct svio_nvme_qp **p = &nvme->qps; *p; p = &(*p)->next)
		if (*p == qp) {
			*p = qp->next;
			break;
		}
	pthread_mutex_unlock(&nvme->log_lock);
}

void nvme_log_open(struct svio_nvme *nvme)
{
	nvme->log = (struct svio_ioas_log){ .dev = nvme->dev, .set = log_set, .touch = log_touch, .ctx = nvme };
	svio_ioas_log_add(nvme->ioas, &nvme->log);
}

void nvme_log_close(struct svio_nvme *nvme)
{
	if (nvme->log.dev)
		svio_ioas_log_remove(nvme->ioas, &nvme->log);
	nvme->log.dev = NULL;
}

/* ---- scattered reads: the ledger has what was told to the controller, in IOVAs ------------------------------------ */

static void mark_iova(const struct svio_nvme_qp *qp, uint64_t iova, uint64_t len)
{
	const void *ptr = svio_ioas_va(qp->nvme->ioas, iova, len);

	if (ptr && len)
		svio_dirty_mark(nvme_dirty_table(qp), ptr, len);
}

/* As prp.c writes them (1.4 §4.3). */
static void mark_prps(const struct svio_nvme_qp *qp, const struct nvme_req *req, const uint64_t *list)
{
	uint64_t left = (uint64_t)req->nlb * req->lba_size, mask = qp->page_size - 1;
	uint32_t per_page = qp->page_size / 8, pos = 0;
	uint64_t piece = SVIO_MIN(left, qp->page_size - (req->dptr[0] & mask));

	mark_iova(qp, req->dptr[0], piece);
	left -= piece;
	if (left && left <= qp->page_size) {
		mark_iova(qp, req->dptr[1], left);
		return;
	}
	for (; left; left -= piece) {
		/* The last word of a list page leads to the next one, unless it is the last of all. */
		if (pos % per_page == per_page - 1 && left > qp->page_size)
			pos++;
		piece = SVIO_MIN(left, (uint64_t)qp->page_size);
		mark_iova(qp, le64toh(list[pos++]), piece);
	}
}

static void mark_sgl(const struct svio_nvme_qp *qp, const struct nvme_req *req, const struct nvme_sgl *list)
{
	struct nvme_sgl first;
	uint64_t words[2] = { htole64(req->dptr[0]), htole64(req->dptr[1]) };

	__builtin_memcpy(&first, words, sizeof(first));
	if (first.type == NVME_SGL_DATA) {
		mark_iova(qp, svio_le64_to_cpu(first.addr), svio_le32_to_cpu(first.len));
		return;
	}
	for (uint32_t i = 0; i < svio_le32_to_cpu(first.len) / sizeof(*list); i++)
		mark_iova(qp, svio_le64_to_cpu(list[i].addr), svio_le32_to_cpu(list[i].len));
}

void nvme_mark_scattered(const struct svio_nvme_qp *qp, const struct nvme_req *req)
{
	const void *list = qp->lists + ((size_t)(req - qp->reqs) << qp->list_shift);

	if (req->flags & NVME_REQ_SGL)
		mark_sgl(qp, req, list);
	else
		mark_prps(qp, req, list);
}
