/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests in flight, written down and read again: for both ways of moving (migrate.c, state.c). */
#ifndef NVME_LEDGER_H
#define NVME_LEDGER_H

#include "nvme_priv.h"
#include "svio_nvme_migrate.h"

/* The queue pair that requests come from. */
struct nvme_ledger_from {
	uint32_t nreq, max_transfer, page_size, list_shift;
	uint64_t lists_iova;
};

int nvme_ledger_save(struct svio_nvme_qp *qp, uint32_t cid, const struct svio_nvme_move *move, struct svio_migrate_buf *out);
/* Its id becomes busy and its seq the next; nvme_count_free() afterwards. -EINVAL without words for what makes no sense. */
int nvme_ledger_load(struct svio_nvme_qp *qp, const struct nvme_ledger_from *from, const struct svio_nvme_move *move,
		     struct svio_migrate_in *in);
void nvme_count_free(struct svio_nvme_qp *qp);

#endif
