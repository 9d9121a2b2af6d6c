/* SPDX-License-Identifier: BSD-3-Clause */
/* SIMULATED: an NVMe driver over memory, with faults to order. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "fake_nvme.h"
#include "svio_migrate.h"

#define MAX_PENDING 4096

struct fake_request {
	uint8_t *buf;
	uint64_t lba;
	uint32_t nlb;
	bool write, flush, again;
	svio_nvme_cb cb;
	void *ctx;
	uint32_t number;
};

struct svio_nvme_qp {
	struct fake_request pending[MAX_PENDING]; /* unordered */
	struct fake_request lost[MAX_PENDING];
	uint32_t count, visible, depth, lost_count;
	uint32_t submitted, written, read;
	uint64_t random;
};

struct fake_faults fake_faults;
struct svio_nvme_ns fake_ns;
uint8_t fake_disk[FAKE_LBA_SIZE * FAKE_BLOCKS];

static struct fake_opaque {
	_Alignas(64) uint8_t bytes[64];
} device_memory, nvme_memory;
struct svio_device *const fake_device = (struct svio_device *)(void *)&device_memory;
struct svio_nvme *const fake_nvme = (struct svio_nvme *)(void *)&nvme_memory;

static _Atomic uint32_t total_submitted, queue_pairs, max_inflight, wrong_offsets, expected_offset;
static _Atomic bool overlapped, device_gone;
/* Who uses each block: readers, or UINT32_MAX for a writer. */
static pthread_mutex_t users_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t users[FAKE_BLOCKS + 4096];

void fake_reset(void)
{
	memset(&fake_faults, 0, sizeof(fake_faults));
	memset(fake_disk, 0, sizeof(fake_disk));
	memset(users, 0, sizeof(users));
	fake_ns = (struct svio_nvme_ns){
		.nsid = 1, .lba_size = FAKE_LBA_SIZE, .lba_shift = 9, .blocks = FAKE_BLOCKS
	};
	total_submitted = max_inflight = wrong_offsets = expected_offset = 0;
	overlapped = device_gone = false;
}

uint32_t fake_max_inflight(void)
{
	return max_inflight;
}

uint32_t fake_queue_pairs(void)
{
	return queue_pairs;
}

bool fake_overlapped(void)
{
	return overlapped;
}

void fake_expect_offset(uint32_t offset)
{
	expected_offset = offset;
}

uint32_t fake_wrong_offsets(void)
{
	return wrong_offsets;
}

static bool due(uint32_t every, uint32_t number)
{
	return every && number % every == 0;
}

static void use_blocks(const struct fake_request *r, bool begin)
{
	pthread_mutex_lock(&users_lock);
	for (uint64_t b = r->lba; b < r->lba + r->nlb; b++) {
		if (begin && (users[b] == UINT32_MAX || (r->write && users[b])))
			overlapped = true;
		if (r->write)
			users[b] = begin ? UINT32_MAX : 0;
		else
			users[b] += begin ? 1u : UINT32_MAX;
	}
	pthread_mutex_unlock(&users_lock);
}

static int submit(struct svio_nvme_qp *qp, struct fake_request r, uint32_t flags)
{
	uint32_t total;

	if (device_gone)
		return -ENODEV;
	if (qp->count + 1 >= qp->depth)
		return -EAGAIN;
	if (!r.flush && (r.nlb == 0 || r.lba >= FAKE_BLOCKS || r.nlb > FAKE_BLOCKS - r.lba))
		return -EINVAL;
	r.number = ++qp->submitted;
	if (due(fake_faults.busy, r.number))
		return -EAGAIN;
	total = ++total_submitted;
	if (fake_faults.refuse_after && total > fake_faults.refuse_after)
		return -EFAULT;
	if (fake_faults.gone_after && total > fake_faults.gone_after)
		device_gone = true;
	if (!r.flush && ((uintptr_t)r.buf & 4095) != expected_offset)
		wrong_offsets++;
	use_blocks(&r, true);
	qp->pending[qp->count++] = r;
	if (qp->count > max_inflight)
		max_inflight = qp->count;
	if (!(flags & SVIO_NVME_MORE))
		qp->visible = qp->count;
	return 0;
}

int svio_nvme_read(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, void *buf, uint64_t lba,
		   uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx)
{
	(void)ns;
	return submit(
		qp,
		(struct fake_request){ .buf = buf, .lba = lba, .nlb = nlb, .cb = cb, .ctx = ctx },
		flags);
}

int svio_nvme_write(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, const void *buf,
		    uint64_t lba, uint32_t nlb, uint32_t flags, svio_nvme_cb cb, void *ctx)
{
	(void)ns;
	return submit(qp,
		      (struct fake_request){ .buf = (uint8_t *)(uintptr_t)buf,
					     .lba = lba,
					     .nlb = nlb,
					     .write = true,
					     .cb = cb,
					     .ctx = ctx },
		      flags);
}

int svio_nvme_flush(struct svio_nvme_qp *qp, const struct svio_nvme_ns *ns, svio_nvme_cb cb,
		    void *ctx)
{
	(void)ns;
	return submit(qp, (struct fake_request){ .flush = true, .cb = cb, .ctx = ctx }, 0);
}

void svio_nvme_ring(struct svio_nvme_qp *qp)
{
	qp->visible = qp->count;
}

/* What the medium does. */
static int carry_out(struct svio_nvme_qp *qp, struct fake_request *r)
{
	uint8_t *place = fake_disk + r->lba * FAKE_LBA_SIZE;
	size_t len = (size_t)r->nlb * FAKE_LBA_SIZE;

	if (device_gone)
		return -ENODEV;
	if (due(fake_faults.fail, r->number))
		return fake_faults.fail_status;
	if (r->flush)
		return 0;
	if (!r->write) {
		memcpy(r->buf, place, len);
		if (due(fake_faults.flip, ++qp->read))
			r->buf[len / 2 + 100] ^= 1;
		return 0;
	}
	qp->written++;
	if (due(fake_faults.torn, qp->written)) {
		memcpy(place, r->buf, FAKE_LBA_SIZE);
		return SVIO_NVME_SC(2, 0x80); /* write fault: NVMe 1.4 §4.6.1.2.3 */
	}
	if (due(fake_faults.misplace, qp->written) && r->lba + 2 * r->nlb <= FAKE_BLOCKS)
		place += len;
	if (!due(fake_faults.drop_write, qp->written))
		memcpy(place, r->buf, len);
	return 0;
}

static void forget(struct svio_nvme_qp *qp, uint32_t i)
{
	qp->visible--;
	qp->pending[i] = qp->pending[qp->visible];
	qp->pending[qp->visible] = qp->pending[--qp->count];
}

/* One request, any of those that the doorbell has shown. */
static bool complete_one(struct svio_nvme_qp *qp)
{
	struct fake_request r;
	uint32_t i;
	int status;

	if (qp->visible == 0)
		return false;
	qp->random = qp->random * UINT64_C(6364136223846793005) + 1;
	i = (uint32_t)(qp->random >> 33) % qp->visible;
	r = qp->pending[i];
	if (!r.again && due(fake_faults.lose, r.number)) {
		qp->lost[qp->lost_count++] = r;
		forget(qp, i);
		return false;
	}
	status = r.again ? 0 : carry_out(qp, &r);
	if (!r.again && due(fake_faults.twice, r.number)) {
		qp->pending[i].again = true;
	} else {
		forget(qp, i);
	}
	if (!r.again && !r.flush)
		use_blocks(&r, false);
	r.cb(r.ctx, status);
	return true;
}

uint32_t svio_nvme_poll(struct svio_nvme_qp *qp, uint32_t max)
{
	uint32_t n = 0, limit = device_gone ? qp->count : qp->visible;

	if (device_gone)
		qp->visible = qp->count;
	else if (limit) /* some of them, so that polls and completions do not go in step */
		limit = 1 + (uint32_t)(qp->random >> 40) % limit;
	if (max && max < limit)
		limit = max;
	for (; limit; limit--)
		n += complete_one(qp);
	return n;
}

uint32_t svio_nvme_inflight(const struct svio_nvme_qp *qp)
{
	return qp->count;
}

int svio_nvme_qp_create(struct svio_nvme *nvme, const struct svio_nvme_qp_opts *opts,
			struct svio_nvme_qp **qpp)
{
	(void)nvme;
	*qpp = calloc(1, sizeof(**qpp));
	if (!*qpp)
		return -ENOMEM;
	(*qpp)->depth = opts->depth;
	(*qpp)->random = ++queue_pairs;
	return 0;
}

void svio_nvme_qp_destroy(struct svio_nvme_qp *qp)
{
	if (!qp)
		return;
	for (uint32_t i = 0; i < qp->count; i++)
		if (!qp->pending[i].again)
			qp->pending[i].cb(qp->pending[i].ctx, -ECANCELED);
	for (uint32_t i = 0; i < qp->lost_count; i++)
		qp->lost[i].cb(qp->lost[i].ctx, -ECANCELED);
	free(qp);
	queue_pairs--;
}

void svio_nvme_qp_poller(struct svio_nvme_qp *qp, struct svio_poller *poller)
{
	*poller = (struct svio_poller){ .ctx = qp, .irq_fd = -1 };
}

/* ---- the controller -------------------------------------------------------------------------------- */

int svio_nvme_open(struct svio_device *dev, struct svio_ioas *ioas,
		   const struct svio_nvme_opts *opts, struct svio_nvme **nvmep)
{
	(void)dev;
	(void)ioas;
	(void)opts;
	device_gone = false;
	*nvmep = fake_nvme;
	return 0;
}

void svio_nvme_close(struct svio_nvme *nvme)
{
	(void)nvme;
}

void svio_nvme_get_info(struct svio_nvme *nvme, struct svio_nvme_info *info)
{
	(void)nvme;
	*info = (struct svio_nvme_info){ .serial = "FAKE",
					 .model = "disk of memory",
					 .max_transfer = 1 << 20,
					 .max_queues = 64,
					 .max_queue_depth = 2048 };
}

int svio_nvme_ns_get(struct svio_nvme *nvme, uint32_t nsid, struct svio_nvme_ns *ns)
{
	(void)nvme;
	*ns = fake_ns;
	return nsid == fake_ns.nsid ? 0 : -ENOENT;
}

int svio_nvme_ns_list(struct svio_nvme *nvme, uint32_t *nsids, uint32_t *count)
{
	(void)nvme;
	if (*count)
		nsids[0] = fake_ns.nsid;
	*count = 1;
	return 0;
}

const char *svio_nvme_status_text(int status)
{
	return status < 0 ? strerror(-status) : "a status";
}

void svio_nvme_get_stats(struct svio_nvme *nvme, struct svio_nvme_stats *stats)
{
	(void)nvme;
	*stats = (struct svio_nvme_stats){ 0 };
}

bool svio_nvme_ready(const struct svio_nvme *nvme)
{
	(void)nvme;
	return !device_gone;
}

bool svio_nvme_gone(const struct svio_nvme *nvme)
{
	(void)nvme;
	return device_gone;
}

/* ---- the rooms below ------------------------------------------------------------------------------- */

int svio_device_open(const char *name, const struct svio_device_opts *opts,
		     struct svio_device **devp)
{
	(void)name;
	(void)opts;
	*devp = fake_device;
	return 0;
}

void svio_device_close(struct svio_device *dev)
{
	(void)dev;
}

const char *svio_device_name(const struct svio_device *dev)
{
	(void)dev;
	return "fake";
}

int svio_device_set_master(struct svio_device *dev, bool on)
{
	(void)dev;
	(void)on;
	return 0;
}

int svio_ioas_create(const struct svio_ioas_opts *opts, struct svio_ioas **ioasp)
{
	(void)opts;
	*ioasp = NULL;
	return 0;
}

int svio_ioas_destroy(struct svio_ioas *ioas)
{
	(void)ioas;
	return 0;
}

int svio_ioas_attach(struct svio_ioas *ioas, struct svio_device *dev)
{
	(void)ioas;
	(void)dev;
	return 0;
}

int svio_ioas_detach(struct svio_ioas *ioas, struct svio_device *dev)
{
	(void)ioas;
	(void)dev;
	return 0;
}

int svio_mem_start(const struct svio_mem_opts *opts)
{
	(void)opts;
	return 0;
}

void svio_mem_stop(void)
{
}

void *svio_mem_alloc(size_t len, size_t align, int numa_node)
{
	void *ptr;

	(void)numa_node;
	if (posix_memalign(&ptr, align, len))
		return NULL;
	return memset(ptr, 0, len);
}

void svio_mem_free(void *ptr)
{
	free(ptr);
}

/* ---- areas: these tests have none ---------------------------------------------------------------------- */

void *svio_migrate_alloc(struct svio_migrate_area *area, uint64_t len, uint64_t align)
{
	(void)area;
	(void)len;
	(void)align;
	return NULL;
}

void svio_migrate_free(struct svio_migrate_area *area, void *ptr)
{
	(void)area;
	(void)ptr;
}
