/* SPDX-License-Identifier: BSD-3-Clause */
/* Re-instatement: the controller stopped and held, the ledger saved, loaded and sent again. Rules: svio_nvme_migrate.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "nvme_priv.h"
#include "nvme_ledger.h"

#define MAX_NAMESPACES 1024u

/* ---- held ---------------------------------------------------------------------------------------------- */

static bool is_held(struct svio_nvme *nvme)
{
	bool held;

	pthread_mutex_lock(&nvme->lock);
	nvme_advance(nvme, svio_now_ns());
	held = nvme->step == NVME_STEP_HELD;
	for (struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
		held &= qp->settled && qp->state != NVME_QP_LIVE;
	pthread_mutex_unlock(&nvme->lock);
	return held;
}

void svio_nvme_unquiesce(struct svio_nvme *nvme)
{
	pthread_mutex_lock(&nvme->lock);
	if (nvme->hold) {
		nvme->hold = false;
		if (nvme->step == NVME_STEP_HELD)
			nvme_freeze(nvme, NVME_WHY_USER);
	}
	pthread_mutex_unlock(&nvme->lock);
}

int svio_nvme_quiesce(struct svio_nvme *nvme)
{
	uint64_t start = svio_now_ns(), limit = (3 * nvme->ready_ms + nvme->opts.admin_timeout_ms) * NVME_MS, nap = 5000;

	pthread_mutex_lock(&nvme->lock);
	nvme->hold = true;
	nvme_freeze(nvme, NVME_WHY_USER);
	pthread_mutex_unlock(&nvme->lock);
	while (!is_held(nvme)) {
		/* Each looks up at its next poll, parks, and settles once the controller has stopped. Creating nothing: it is held. */
		for (struct svio_nvme_qp *qp = nvme->qps; qp; qp = qp->next)
			svio_nvme_poll(qp, 0);
		if (nvme_get_state(nvme) == NVME_GONE) {
			svio_nvme_unquiesce(nvme);
			return svio_fail(ENODEV, "%s: the device is gone", nvme->name);
		}
		if (svio_now_ns() - start > limit) {
			svio_nvme_unquiesce(nvme);
			return svio_fail(ETIMEDOUT, "%s: the controller does not stop%s; requests that it may still carry out cannot move",
					 nvme->name, svio_device_events(nvme->dev) & SVIO_EV_REVOKED ? " (its BAR is withdrawn)" : "");
		}
		nvme_nap(nap);
		nap = SVIO_MIN(nap * 2, NVME_MS);
	}
	return 0;
}

/* ---- the ledger out -------------------------------------------------------------------------------------- */

static bool has_list(const struct nvme_req *req)
{
	return req->op == NVME_REQ_READV || req->op == NVME_REQ_WRITEV || req->op == NVME_REQ_DSM;
}

/* Words of a scattered request's list that are addresses: all of a PRP list, every other one of SGL descriptors. */
static uint32_t list_step(const struct nvme_req *req)
{
	return req->flags & NVME_REQ_SGL ? 2 : 1;
}

static int check_scattered(struct svio_nvme_qp *qp, const struct nvme_req *req, const struct svio_nvme_move *move,
			   const uint64_t *list, uint64_t words)
{
	uint64_t lists_len = (uint64_t)qp->nreq << qp->list_shift;

	/* An address that is not the list's own is data. Zero words lie behind the list's end. */
	for (uint64_t i = 0; i < words + 2; i++) {
		uint64_t a = i < words ? le64toh(list[i]) : req->dptr[i - words];

		if ((i < words ? i % list_step(req) : req->flags & NVME_REQ_SGL && i != words) || a == 0 ||
		    a - qp->lists_iova < lists_len)
			continue;
		if (!move->moves(move->app, (const void *)(uintptr_t)a, 1))
			return svio_fail(EFAULT, "%s: a scattered request in flight has a piece at 0x%" PRIx64
					 ", which is in no area that moves", qp->nvme->name, a);
	}
	return 0;
}

int nvme_ledger_save(struct svio_nvme_qp *qp, uint32_t cid, const struct svio_nvme_move *move, struct svio_migrate_buf *out)
{
	const struct nvme_req *req = &qp->reqs[cid];
	uint8_t *list = qp->lists + ((size_t)cid << qp->list_shift);
	uint64_t bytes = UINT64_C(1) << qp->list_shift, cookie = 0;
	int rc;

	if ((req->op == NVME_REQ_READ || req->op == NVME_REQ_WRITE) &&
	    !move->moves(move->app, req->buf, (uint64_t)req->nlb * req->lba_size))
		return svio_fail(EFAULT, "%s: the buffer %p of a request in flight is in no area that moves: svio_migrate_alloc() it",
				 qp->nvme->name, req->buf);
	rc = move->save(move->app, req->cb, req->ctx, &cookie);
	if (rc)
		return rc;
	svio_migrate_put_u32(out, cid);
	svio_migrate_put_u32(out, (uint32_t)req->op | (uint32_t)(req->flags & (NVME_REQ_FUA | NVME_REQ_SGL)) << 8);
	svio_migrate_put_u32(out, req->nsid);
	svio_migrate_put_u32(out, req->lba_size);
	svio_migrate_put_u32(out, req->nlb);
	svio_migrate_put_u64(out, req->lba);
	svio_migrate_put_u64(out, req->dptr[0]);
	svio_migrate_put_u64(out, req->dptr[1]);
	svio_migrate_put_u64(out, cookie);
	if (!has_list(req))
		return 0;
	if (req->op != NVME_REQ_DSM) {
		struct svio_ioas_stats st;

		svio_ioas_get_stats(qp->nvme->ioas, &st);
		if (!st.identity)
			return svio_fail(EOPNOTSUPP, "%s: a scattered request in flight, and IOVAs are not addresses: it cannot be re-based",
					 qp->nvme->name);
		rc = check_scattered(qp, req, move, (const uint64_t *)(void *)list, bytes / 8);
		if (rc)
			return rc;
	}
	return svio_migrate_put(out, list, bytes);
}

static int compare_seq(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int svio_nvme_qp_save(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_buf *out, uint32_t *count)
{
	uint32_t n = 0;
	int rc = 0;

	if (!qp->settled || qp->state == NVME_QP_LIVE || qp->state == NVME_QP_DEAD)
		return svio_fail(EBUSY, "%s: queue %u is not held: svio_nvme_quiesce() first", qp->nvme->name, qp->qid);
	for (uint32_t cid = 0; cid < qp->nreq; cid++)
		if (qp->reqs[cid].op != NVME_REQ_FREE)
			qp->order[n++] = qp->reqs[cid].seq << 16 | cid;
	qsort(qp->order, n, sizeof(*qp->order), compare_seq);
	svio_migrate_put_u32(out, qp->nreq);
	svio_migrate_put_u32(out, qp->max_transfer);
	svio_migrate_put_u32(out, qp->page_size);
	svio_migrate_put_u32(out, qp->list_shift);
	svio_migrate_put_u64(out, qp->lists_iova);
	svio_migrate_put_u32(out, n);
	for (uint32_t i = 0; i < n && rc == 0; i++)
		rc = nvme_ledger_save(qp, (uint32_t)qp->order[i] & 0xffff, move, out);
	if (count)
		*count = n;
	return rc;
}

/* ---- and in ------------------------------------------------------------------------------------------------ */

/* Addresses in the source's list memory become those of ours. */
static uint64_t rebase(const struct svio_nvme_qp *qp, const struct nvme_ledger_from *from, uint64_t a)
{
	uint64_t off = a - from->lists_iova;

	return off < (uint64_t)from->nreq << from->list_shift ? qp->lists_iova + off : a;
}

static int load_list(struct svio_nvme_qp *qp, const struct nvme_ledger_from *from, uint32_t cid, struct nvme_req *req,
		     struct svio_migrate_in *in)
{
	uint64_t bytes = UINT64_C(1) << from->list_shift, *list;
	const void *data = svio_migrate_get(in, bytes);

	if (!data)
		return -EINVAL;
	list = (void *)(qp->lists + ((size_t)cid << qp->list_shift));
	memcpy(list, data, bytes);
	if (req->op == NVME_REQ_DSM)
		return 0;
	for (uint64_t i = 0; i < bytes / 8; i += list_step(req))
		list[i] = htole64(rebase(qp, from, le64toh(list[i])));
	req->dptr[0] = rebase(qp, from, req->dptr[0]);
	if (!(req->flags & NVME_REQ_SGL))
		req->dptr[1] = rebase(qp, from, req->dptr[1]);
	return 0;
}

int nvme_ledger_load(struct svio_nvme_qp *qp, const struct nvme_ledger_from *from, const struct svio_nvme_move *move,
		    struct svio_migrate_in *in)
{
	uint32_t cid = svio_migrate_get_u32(in), what = svio_migrate_get_u32(in), op = what & 0xff, flags = what >> 8;
	struct nvme_req req = { .op = (uint8_t)op, .flags = (uint8_t)flags };
	uint64_t cookie;
	int rc;

	req.nsid = svio_migrate_get_u32(in);
	req.lba_size = svio_migrate_get_u32(in);
	req.nlb = svio_migrate_get_u32(in);
	req.lba = svio_migrate_get_u64(in);
	req.dptr[0] = svio_migrate_get_u64(in);
	req.dptr[1] = svio_migrate_get_u64(in);
	cookie = svio_migrate_get_u64(in);
	if (in->bad || cid >= qp->nreq || qp->reqs[cid].op != NVME_REQ_FREE || op > NVME_REQ_DSM ||
	    (flags & ~(uint32_t)(NVME_REQ_FUA | NVME_REQ_SGL)) || req.nsid == 0 || req.nlb > 65536)
		return -EINVAL;
	if ((flags & NVME_REQ_SGL) && (!qp->sgl || (op != NVME_REQ_READV && op != NVME_REQ_WRITEV)))
		return -EINVAL;
	if (op <= NVME_REQ_WRITEV && (req.nlb == 0 || req.lba_size < 512 || req.lba_size > NVME_MAX_TRANSFER ||
				      (uint64_t)req.nlb * req.lba_size > qp->max_transfer))
		return -EINVAL;
	if ((op == NVME_REQ_DSM && req.nlb - 1 >= NVME_DSM_MAX_RANGES) || (op == NVME_REQ_ZEROES && req.nlb == 0))
		return -EINVAL;
	rc = move->load(move->app, cookie, &req.cb, &req.ctx);
	if (rc)
		return rc;
	if (has_list(&req)) {
		rc = load_list(qp, from, cid, &req, in);
		if (rc)
			return rc;
	}
	req.seq = qp->seq++;
	qp->reqs[cid] = req;
	return 0;
}

/* The stack of free ids, from the ledger. */
void nvme_count_free(struct svio_nvme_qp *qp)
{
	int64_t n = 0;

	for (uint32_t cid = qp->nreq; cid-- > 0;)
		if (qp->reqs[cid].op == NVME_REQ_FREE)
			nvme_free_ids(qp)[--n] = (uint16_t)cid;
	qp->free_idx = n;
}

int svio_nvme_qp_load(struct svio_nvme_qp *qp, const struct svio_nvme_move *move, struct svio_migrate_in *in)
{
	struct nvme_ledger_from from;
	uint32_t n;
	int rc = 0;

	from.nreq = svio_migrate_get_u32(in);
	from.max_transfer = svio_migrate_get_u32(in);
	from.page_size = svio_migrate_get_u32(in);
	from.list_shift = svio_migrate_get_u32(in);
	from.lists_iova = svio_migrate_get_u64(in);
	n = svio_migrate_get_u32(in);
	if (in->bad || n > from.nreq || from.nreq > UINT16_MAX)
		return svio_fail(EINVAL, "%s: a ledger that is not whole", qp->nvme->name);
	if (svio_nvme_inflight(qp) || qp->closed || qp->seq)
		return svio_fail(EBUSY, "%s: queue %u was in use already", qp->nvme->name, qp->qid);
	if (from.nreq > qp->nreq || from.max_transfer > qp->max_transfer || from.page_size != qp->page_size ||
	    from.list_shift != qp->list_shift)
		return svio_fail(EINVAL, "%s: a queue of %u requests of %u bytes (pages of %u) does not fit into one of %u of %u (pages of %u)",
				 qp->nvme->name, from.nreq, from.max_transfer, from.page_size, qp->nreq, qp->max_transfer, qp->page_size);
	while (n-- && rc == 0)
		rc = nvme_ledger_load(qp, &from, move, in);
	if (rc) {
		for (uint32_t cid = 0; cid < qp->nreq; cid++)
			qp->reqs[cid].op = NVME_REQ_FREE;
		if (rc == -EINVAL && !in->bad)
			svio_fail(EINVAL, "%s: a request in the ledger that makes no sense", qp->nvme->name);
		qp->seq = 0;
	}
	nvme_count_free(qp);
	return rc;
}

void svio_nvme_qp_replay(struct svio_nvme_qp *qp)
{
	/* When the controller was reset meanwhile, its return sends them. */
	if (qp->state == NVME_QP_LIVE && svio_nvme_inflight(qp))
		nvme_qp_resubmit(qp);
}

void svio_nvme_set_policy(struct svio_nvme *nvme, enum svio_nvme_policy policy)
{
	pthread_mutex_lock(&nvme->lock);
	nvme->opts.policy = policy;
	pthread_mutex_unlock(&nvme->lock);
}

/* ---- what must fit --------------------------------------------------------------------------------------------- */

/* NGUID, UUID and EUI64, as far as there are any: "nguid:… uuid:… eui64:…". */
static void identity(const struct svio_nvme_ns *ns, char *text, size_t size)
{
	static const struct {
		const char *name;
		size_t off, len;
	} ids[] = {
		{ "nguid", offsetof(struct svio_nvme_ns, nguid), 16 },
		{ "uuid", offsetof(struct svio_nvme_ns, uuid), 16 },
		{ "eui64", offsetof(struct svio_nvme_ns, eui64), 8 },
	};
	static const uint8_t zero[16];
	size_t n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < SVIO_ARRAY_SIZE(ids); i++) {
		const uint8_t *id = (const uint8_t *)ns + ids[i].off;

		if (memcmp(id, zero, ids[i].len) == 0)
			continue;
		n += (size_t)snprintf(text + n, size - n, "%s%s:", n ? " " : "", ids[i].name);
		for (size_t b = 0; b < ids[i].len; b++)
			n += (size_t)snprintf(text + n, size - n, "%02x", id[b]);
	}
}

/* The namespace whose identity this is; its own first one otherwise, so that the difference can be told. */
static int find_ns(struct svio_nvme *nvme, const char *want, struct svio_nvme_ns *ns)
{
	uint32_t count = MAX_NAMESPACES, *nsids = calloc(MAX_NAMESPACES, sizeof(*nsids));
	char text[SVIO_MIGRATE_VALUE_MAX];
	int rc = nsids ? svio_nvme_ns_list(nvme, nsids, &count) : svio_fail(ENOMEM, "out of memory");
	bool have = false;

	for (uint32_t i = 0; rc == 0 && i < SVIO_MIN(count, MAX_NAMESPACES); i++) {
		struct svio_nvme_ns one;

		rc = svio_nvme_ns_get(nvme, nsids[i], &one);
		if (rc)
			break;
		identity(&one, text, sizeof(text));
		if (!have || strcmp(text, want) == 0)
			*ns = one;
		if (strcmp(text, want) == 0)
			break;
		have = true;
	}
	free(nsids);
	return rc;
}

int svio_nvme_describe(struct svio_nvme *nvme, const struct svio_nvme_needs *needs, struct svio_nvme_ns *ns,
		       struct svio_migrate_record *mine, const struct svio_migrate_record *source)
{
	char want[SVIO_MIGRATE_VALUE_MAX] = "", text[SVIO_MIGRATE_VALUE_MAX];
	struct svio_nvme_info info;
	int rc;

	svio_nvme_get_info(nvme, &info);
	if (source) {
		svio_migrate_fact_find_text(source, "nvme.namespace.identity", want, sizeof(want));
		memset(ns, 0, sizeof(*ns));
		rc = find_ns(nvme, want, ns);
		if (rc)
			return rc;
	}
	identity(ns, text, sizeof(text));
	if (!source && !text[0])
		return svio_fail(EOPNOTSUPP, "%s: namespace %u has neither NGUID, UUID nor EUI64: it could not be known again on the target",
				 nvme->name, ns->nsid);
	rc = svio_migrate_fact_text(mine, "nvme.namespace.identity", text,
				    "choose a controller that reaches the same namespace (svio nvme identify shows what each has)");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.namespace.blocks", SVIO_MIGRATE_SAME, ns->blocks,
					   "the namespace has another size there: is it really the same one?");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.namespace.block_size", SVIO_MIGRATE_SAME, ns->lba_size,
					   "the namespace is formatted differently there");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.queues", SVIO_MIGRATE_AT_LEAST, source ? info.max_queues : needs->queues,
					   "choose a controller with more queue pairs, or use fewer");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.queue_depth", SVIO_MIGRATE_AT_LEAST, source ? info.max_queue_depth : needs->depth,
					   "choose a controller with longer queues, or use shorter ones");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.max_transfer", SVIO_MIGRATE_AT_LEAST,
					   source ? info.max_transfer : needs->max_transfer,
					   "choose a controller that takes larger requests, or send smaller ones");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.page_size", SVIO_MIGRATE_SAME, UINT64_C(1) << nvme->page_shift,
					   "choose a controller with the same CAP.MPSMIN");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.optional_commands", SVIO_MIGRATE_BITS, info.oncs,
					   "the other controller lacks commands (ONCS) that this one has");
	if (rc == 0)
		rc = svio_migrate_fact_u64(mine, "nvme.sgl", SVIO_MIGRATE_AT_LEAST, info.sgl,
					   "the other controller takes no scatter-gather lists (SGLS)");
	return rc;
}
