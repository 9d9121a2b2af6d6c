/* SPDX-License-Identifier: BSD-3-Clause */
/* See fake.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "fake.h"
#include "unit.h"

uint64_t fake_now = 1000000000;
static struct svio_device *the_device;
static uint8_t *arena;
static size_t arena_used, mem_out;

#define GRPCFG 0x400u
#define WQCFG  0x600u
#define REGS   0x1000u

/* ---- time ------------------------------------------------------------------------------------------------- */

uint64_t __wrap_svio_now_ns(void);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *rem);

uint64_t __wrap_svio_now_ns(void)
{
	for (struct svio_device *dev = the_device; dev; dev = dev->prev)
		fake_run(dev);
	return fake_now += 1000;
}

int __wrap_nanosleep(const struct timespec *ts, struct timespec *rem)
{
	(void)rem;
	fake_now += (uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec;
	return 0;
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

struct svio_ioas {
	struct svio_ioas_hot hot;
};
static struct svio_ioas the_ioas;
struct svio_ioas *const fake_ioas = &the_ioas;

uint64_t svio_ioas_lookup(const struct svio_ioas *ioas, uint64_t va, uint64_t len)
{
	(void)ioas;
	(void)va;
	(void)len;
	return SVIO_IOVA_BAD;
}

bool fake_in_arena(const void *ptr, uint64_t len)
{
	uint64_t off = (uint64_t)((uintptr_t)ptr - (uintptr_t)arena);

	return len && off < FAKE_ARENA && len <= FAKE_ARENA - off;
}

void *svio_ioas_va(struct svio_ioas *ioas, uint64_t iova, uint64_t len)
{
	void *ptr = (void *)(uintptr_t)(iova - FAKE_DELTA);

	(void)ioas;
	return fake_in_arena(ptr, len) ? ptr : NULL;
}

void svio_ioas_get_stats(struct svio_ioas *ioas, struct svio_ioas_stats *stats)
{
	(void)ioas;
	*stats = (struct svio_ioas_stats){ .identity = FAKE_DELTA == 0 };
}

void svio_ioas_log_add(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	CU_ASSERT_PTR_EQUAL(ioas, fake_ioas);
	CU_ASSERT_PTR_NULL(log->dev->log);
	log->dev->log = log;
}

void svio_ioas_log_remove(struct svio_ioas *ioas, struct svio_ioas_log *log)
{
	CU_ASSERT_PTR_EQUAL(ioas, fake_ioas);
	CU_ASSERT_PTR_EQUAL(log->dev->log, log);
	log->dev->log = NULL;
}

uint8_t *fake_dirty_table(void)
{
	static uint8_t *pages;

	if (!pages)
		pages = calloc(1, FAKE_ARENA >> SVIO_DIRTY_SHIFT);
	return (uint8_t *)((uintptr_t)pages - ((uintptr_t)arena >> SVIO_DIRTY_SHIFT));
}

static uint8_t *arena_take(size_t len)
{
	uint8_t *p = arena + arena_used;

	arena_used += SVIO_ALIGN_UP(len, (size_t)4096);
	if (arena_used > FAKE_ARENA)
		abort();
	memset(p, 0, len);
	return p;
}

uint8_t *fake_buf(size_t len)
{
	return arena_take(len);
}

void *svio_mem_alloc(size_t len, size_t align, int node)
{
	void *probe = malloc(16); /* the fail-nth sweep decides */

	(void)align;
	(void)node;
	if (!probe) {
		svio_fail(ENOMEM, "no memory");
		return NULL;
	}
	free(probe);
	mem_out++;
	return arena_take(len);
}

void svio_mem_free(void *ptr)
{
	mem_out -= ptr != NULL;
}

/* Areas: the arena is one. */
void *svio_migrate_alloc(struct svio_migrate_area *area, uint64_t len, uint64_t align)
{
	(void)area;
	return svio_mem_alloc(len, align, -1);
}

void svio_migrate_free(struct svio_migrate_area *area, void *ptr)
{
	(void)area;
	svio_mem_free(ptr);
}

bool svio_migrate_allocated(struct svio_migrate_area *area, const void *ptr, uint64_t len)
{
	(void)area;
	return fake_in_arena(ptr, len);
}

size_t fake_mem_out(void)
{
	return mem_out;
}

/* ---- absent pages ----------------------------------------------------------------------------------------- */

int __wrap_svio_sva_touch(const void *ptr, uint64_t len, bool write);

static int find_absent(const struct svio_device *dev, uint64_t page)
{
	for (uint32_t i = 0; i < dev->num_absent; i++)
		if (dev->absent[i].page == page)
			return (int)i;
	return -1;
}

void fake_absent(struct svio_device *dev, const void *page, bool nothing)
{
	uint64_t at = (uintptr_t)page & ~UINT64_C(4095);

	if (find_absent(dev, at) >= 0)
		dev->absent[find_absent(dev, at)].nothing |= nothing;
	if (find_absent(dev, at) >= 0 || dev->num_absent == FAKE_PAGES)
		return;
	dev->absent[dev->num_absent].page = at;
	dev->absent[dev->num_absent++].nothing = nothing;
}

/* As lib/sva's, but one page only, so that every absent page is a stop. */
int __wrap_svio_sva_touch(const void *ptr, uint64_t len, bool write)
{
	CU_ASSERT_TRUE(len > 0);
	(void)write;
	/* Memory is the process's: all devices see it alike. */
	for (struct svio_device *dev = the_device; dev; dev = dev->prev) {
		int i = find_absent(dev, (uintptr_t)ptr & ~UINT64_C(4095));

		dev->touches++;
		if (i >= 0 && dev->absent[i].nothing)
			return svio_fail(EFAULT, "nothing there");
		if (i >= 0 && !dev->stubborn)
			dev->absent[i] = dev->absent[--dev->num_absent];
	}
	return 0;
}

/* A function reset ends bonds, as the kernel's do; renewing gives another PASID here, so that the driver must program it. */
int __wrap_svio_sva_renew(struct svio_sva_bond *bond);

int __wrap_svio_sva_renew(struct svio_sva_bond *bond)
{
	if (bond->dev->renew_err)
		return svio_fail(bond->dev->renew_err, "no bond");
	if (bond->dev->bond_ended)
		bond->pasid++;
	bond->dev->bond_ended = false;
	return 0;
}

/* ---- executing -------------------------------------------------------------------------------------------- */

struct job {
	struct svio_device *dev;
	bool native;
	uint8_t status, result;
	uint32_t bytes;
	uint64_t fault, crc;
};

/* Where the device's address is for us, up to the next absent page: *len is shortened; status is set if there is nothing of it. */
static uint8_t *reach(struct job *j, uint64_t addr, uint32_t *len, bool write)
{
	uint64_t va = j->native ? addr : addr - FAKE_DELTA;

	if (va < (uintptr_t)arena || va + *len > (uintptr_t)arena + FAKE_ARENA || !j->dev->master) {
		if (!j->native || !j->dev->master) {
			j->dev->bad_dma++;
			*len = 0;
			j->status = DSA_ST_TRANSLATION;
			return NULL;
		}
	}
	for (uint32_t done = 0; done < *len;) {
		uint64_t page = (va + done) & ~UINT64_C(4095);

		if (find_absent(j->dev, page) >= 0) {
			*len = done;
			if (!j->status) {
				j->status = (uint8_t)(DSA_ST_PAGE_FAULT | (write ? DSA_STATUS_WRITE : 0));
				j->fault = addr + done;
			}
			break;
		}
		done += (uint32_t)(4096 - (va + done) % 4096);
	}
	return (uint8_t *)(uintptr_t)va;
}

static uint32_t shorter(struct job *j, uint32_t a, uint64_t addr, bool write, uint8_t **p)
{
	uint32_t n = a;
	struct job other = { .dev = j->dev, .native = j->native };

	*p = reach(&other, addr, &n, write);
	if (other.status && (!j->status || n < a)) {
		j->status = other.status;
		j->fault = other.fault;
	}
	return n;
}

static bool overlap(const uint8_t *a, const uint8_t *b, uint32_t len)
{
	return (uintptr_t)a < (uintptr_t)b + len && (uintptr_t)b < (uintptr_t)a + len;
}

static void do_memory(struct job *j, const struct dsa_desc *d, unsigned int op)
{
	uint32_t size = le32toh(d->size), n = size, m;
	uint8_t *src = NULL, *dst = NULL, *third = NULL;
	uint64_t pattern = 0;

	if (op != DSA_OP_FILL)
		n = shorter(j, n, le64toh(d->src), false, &src);
	if (op == DSA_OP_COMPARE)
		n = shorter(j, n, le64toh(d->src2), false, &third);
	if (op == DSA_OP_MEMMOVE || op == DSA_OP_FILL || op == DSA_OP_DUALCAST || op == DSA_OP_COPY_CRC)
		n = shorter(j, n, le64toh(d->dst), true, &dst);
	if (op == DSA_OP_DUALCAST)
		n = shorter(j, n, le64toh(d->dst2), true, &third);
	j->bytes = n;
	if (j->status == DSA_ST_TRANSLATION)
		return;
	switch (op) {
	case DSA_OP_MEMMOVE:
		if (dst > src && dst < src + size && n < size) {
			/* Backwards, as real overlap: what can be done from the end. */
			for (m = 0; m < size; m++) {
				uint64_t a = (uintptr_t)(src + size - 1 - m) & ~UINT64_C(4095), b = (uintptr_t)(dst + size - 1 - m) & ~UINT64_C(4095);

				if (find_absent(j->dev, a) >= 0 || find_absent(j->dev, b) >= 0) {
					j->fault = find_absent(j->dev, a) >= 0 ? a : b;
					j->status = (uint8_t)(DSA_ST_PAGE_FAULT | (find_absent(j->dev, a) >= 0 ? 0 : DSA_STATUS_WRITE));
					break;
				}
			}
			memmove(dst + size - m, src + size - m, m);
			j->bytes = m;
			j->result = DSA_RESULT_BACKWARD;
			break;
		}
		memmove(dst, src, n);
		break;
	case DSA_OP_FILL:
		pattern = d->pattern;
		for (m = 0; m < n; m++)
			dst[m] = ((uint8_t *)&pattern)[m % 8];
		break;
	case DSA_OP_COMPARE:
	case DSA_OP_COMPARE_PATTERN:
		pattern = d->cmp_pattern;
		for (m = 0; m < n; m++)
			if (src[m] != (third ? third[m] : ((uint8_t *)&pattern)[m % 8])) {
				j->status = 0;
				j->result = DSA_RESULT_DIFFERENT;
				j->bytes = m;
				break;
			}
		break;
	case DSA_OP_DUALCAST:
		if (overlap(src, dst, size) || overlap(src, third, size) || overlap(dst, third, size)) {
			j->status = DSA_ST_OVERLAP;
			break;
		}
		memcpy(dst, src, n);
		memcpy(third, src, n);
		break;
	case DSA_OP_COPY_CRC:
		if (overlap(src, dst, size)) {
			j->status = DSA_ST_OVERLAP;
			break;
		}
		memcpy(dst, src, n);
		/* fall through */
	case DSA_OP_CRC:
		j->crc = svio_crc32c(le32toh(d->seed), src, n);
		break;
	default:
		j->status = DSA_ST_BAD_OP;
	}
}

static uint8_t one(struct svio_device *dev, const struct dsa_desc *d, bool native);

static void do_batch(struct job *j, const struct dsa_desc *d)
{
	const struct dsa_desc *list;
	uint32_t len = le32toh(d->count) * 64, failed = 0;

	if (le32toh(d->count) < 2 || le64toh(d->desc_list) % 64) {
		j->dev->bad_desc++;
		return;
	}
	list = (void *)(uintptr_t)(le64toh(d->desc_list) - (j->native ? 0 : FAKE_DELTA));
	(void)len;
	for (uint32_t i = 0; i < le32toh(d->count); i++) {
		if (le32toh(list[i].op_flags) & DSA_FLAG_FENCE && failed)
			break;
		failed += one(j->dev, &list[i], j->native) != DSA_ST_SUCCESS;
	}
	j->status = failed ? DSA_ST_BATCH_FAIL : 0;
}

static uint8_t one(struct svio_device *dev, const struct dsa_desc *d, bool native)
{
	uint32_t op_flags = le32toh(d->op_flags);
	struct dsa_completion *cr = (void *)(uintptr_t)(le64toh(d->cr_addr) - (native ? 0 : FAKE_DELTA));
	struct job j = { .dev = dev, .native = native };
	unsigned int op = DSA_DESC_OP_OF(op_flags);

	dev->last_op = (uint8_t)op;
	dev->executed++;
	if (le64toh(d->cr_addr) % DSA_CR_ALIGN || !(op_flags & DSA_FLAG_CR_VALID) || !(op_flags & DSA_FLAG_CR_REQUEST) || d->reserved ||
	    (!d->size && op != DSA_OP_NOOP && op != DSA_OP_DRAIN))
		dev->bad_desc++;
	if (op == DSA_OP_BATCH)
		do_batch(&j, d);
	else if (op != DSA_OP_NOOP && op != DSA_OP_DRAIN)
		do_memory(&j, d, op);
	if (dev->force) {
		j.status = dev->force;
		j.result = dev->force_result;
		j.bytes = dev->force_bytes;
	}
	cr->result = j.result;
	cr->bytes = htole32(j.bytes);
	cr->fault_addr = htole64(j.fault);
	cr->crc = htole64(j.crc);
	__atomic_store_n(&cr->status, j.status ? j.status : DSA_ST_SUCCESS, __ATOMIC_RELEASE);
	return j.status ? j.status : DSA_ST_SUCCESS;
}

static uint32_t wq_mode(const struct svio_device *dev, uint32_t wq)
{
	return dev->wqcfg[wq][DSA_WQCFG_MODE / 4];
}

static bool wq_enabled(const struct svio_device *dev, uint32_t wq)
{
	return DSA_WQCFG_STATE_OF(dev->wqcfg[wq][DSA_WQCFG_STATE / 4]) == DSA_WQ_ENABLED;
}

void fake_execute(struct svio_device *dev, uint32_t n)
{
	struct dsa_desc d = dev->taken[n];
	uint32_t wq = le16toh(d.int_handle);

	memmove(&dev->taken[n], &dev->taken[n + 1], (dev->num_taken - n - 1) * sizeof(d));
	dev->num_taken--;
	d.int_handle = 0;
	if (wq_mode(dev, wq) & DSA_WQCFG_PASID_EN && le32toh(d.pasid) != DSA_WQCFG_PASID_OF(wq_mode(dev, wq)))
		dev->bad_desc++; /* another process's */
	one(dev, &d, wq_mode(dev, wq) & DSA_WQCFG_PASID_EN);
}

void fake_run(struct svio_device *dev)
{
	if (dev->gone || dev->stop)
		return;
	for (uint32_t wq = 0; wq < FAKE_WQS; wq++) {
		while (wq_enabled(dev, wq)) {
			uint64_t *slot = (uint64_t *)(void *)(dev->portals + wq * DSA_PORTAL_STRIDE + dev->slot[wq] % DSA_PORTAL_SLOTS * 64);
			struct dsa_desc *d = &dev->taken[dev->num_taken];

			if (!__atomic_load_n(slot, __ATOMIC_ACQUIRE))
				break;
			memcpy(d, slot, 64);
			if (d->int_handle)
				dev->bad_desc++;
			d->int_handle = htole16((uint16_t)wq); /* where it came from; none of ours asks for interrupts */
			*slot = 0;
			dev->slot[wq]++;
			dev->num_taken += !dev->lose;
			dev->overruns += dev->num_taken > FAKE_WQS * 64;
		}
	}
	while (dev->num_taken && fake_now >= dev->stall_until)
		fake_execute(dev, dev->reverse ? dev->num_taken - 1 : 0);
}

/* ---- registers -------------------------------------------------------------------------------------------- */

/* As far as hardware might have come, without telling. */
static void do_half(const struct dsa_desc *d, bool native)
{
	uint64_t delta = native ? 0 : FAKE_DELTA;
	uint8_t *dst = (void *)(uintptr_t)(le64toh(d->dst) - delta);
	const uint8_t *src = (void *)(uintptr_t)(le64toh(d->src) - delta);

	if (DSA_DESC_OP_OF(le32toh(d->op_flags)) == DSA_OP_BATCH)
		for (uint32_t i = 0; i < le32toh(d->count); i++)
			do_half((const struct dsa_desc *)(const void *)(uintptr_t)(le64toh(d->desc_list) - delta) + i, native);
	if (DSA_DESC_OP_OF(le32toh(d->op_flags)) == DSA_OP_MEMMOVE)
		memmove(dst, src, le32toh(d->size) / 2);
}

static void device_reset(struct svio_device *dev)
{
	for (uint32_t i = 0; dev->half && i < dev->num_taken; i++)
		do_half(&dev->taken[i], wq_mode(dev, le16toh(dev->taken[i].int_handle)) & DSA_WQCFG_PASID_EN);
	dev->gensts = DSA_GENSTS_DISABLED;
	memset(dev->wqcfg, 0, sizeof(dev->wqcfg));
	memset(dev->grpcfg, 0, sizeof(dev->grpcfg));
	dev->num_taken = 0;
	dev->cmdsts = 0;
	dev->resets++;
}

static uint32_t enable_wq(struct svio_device *dev, uint32_t wq)
{
	uint32_t *cfg = dev->wqcfg[wq];

	if (dev->gensts != DSA_GENSTS_ENABLED)
		return DSA_CMD_DEV_NOT_ENABLED;
	if (wq >= FAKE_WQS || !(dev->grpcfg[0][0] >> wq & 1) || !cfg[0])
		return DSA_CMD_WQ_SIZE_ZERO;
	if (wq_enabled(dev, wq))
		return DSA_CMD_WQ_NOT_DISABLED;
	if (!DSA_WQCFG_PRIORITY_OF(cfg[2]))
		return DSA_CMD_WQ_PRIORITY_ZERO;
	if (dev->bond_ended)
		dev->bad_desc++; /* a PASID that nobody has any more */
	if (!(cfg[2] & DSA_WQCFG_DEDICATED))
		return DSA_CMD_WQ_MODE;
	if (1ull << DSA_WQCFG_MAX_XFER_OF(cfg[3]) > DSA_GENCAP_MAX_XFER(dev->gencap))
		return DSA_CMD_WQ_MAX_XFER;
	cfg[6] = DSA_WQ_ENABLED << DSA_WQCFG_STATE_LSB;
	for (uint32_t i = 0; i < DSA_PORTAL_SLOTS; i++)
		memset(dev->portals + wq * DSA_PORTAL_STRIDE + i * 64, 0, 8);
	dev->slot[wq] = 0;
	return 0;
}

static uint32_t command(struct svio_device *dev, uint32_t v)
{
	uint32_t operand = DSA_CMD_OPERAND(v), wqs = 0;

	switch (DSA_CMD_CODE(v)) {
	case DSA_CMD_ENABLE_DEVICE:
		if (dev->gensts != DSA_GENSTS_DISABLED)
			return DSA_CMD_DEV_NOT_DISABLED;
		if (!dev->master)
			return DSA_CMD_NO_BUS_MASTER;
		for (uint32_t i = 0; i < FAKE_WQS; i++)
			wqs += dev->wqcfg[i][0];
		if (wqs > dev->total)
			return DSA_CMD_WQ_SIZES;
		if (!dev->grpcfg[0][DSA_GRPCFG_ENGINES / 8])
			return DSA_CMD_GRP_NO_ENGINE;
		dev->gensts = DSA_GENSTS_ENABLED;
		dev->enables++;
		return 0;
	case DSA_CMD_RESET_DEVICE:
		device_reset(dev);
		return 0;
	case DSA_CMD_ENABLE_WQ:
		return enable_wq(dev, operand);
	case DSA_CMD_RESET_WQ:
		for (uint32_t i = 0; i < FAKE_WQS; i++)
			if (operand >> i & 1) {
				if (!wq_enabled(dev, i))
					return DSA_CMD_WQ_NOT_ENABLED;
				memset(&dev->wqcfg[i][1], 0, sizeof(dev->wqcfg[i]) - 4);
			}
		dev->num_taken = 0;
		return 0;
	default:
		return DSA_CMD_BAD_COMMAND;
	}
}

static uint32_t half(uint64_t v, uint64_t off)
{
	return (uint32_t)(off & 4 ? v >> 32 : v);
}

static uint32_t reg_read(struct svio_device *dev, uint64_t off)
{
	if (off >= WQCFG && off < WQCFG + sizeof(dev->wqcfg))
		return ((uint32_t *)dev->wqcfg)[(off - WQCFG) / 4];
	switch (off & ~UINT64_C(4)) {
	case DSA_REG_VERSION:
		return dev->version;
	case DSA_REG_GENCAP:
		return half(dev->gencap, off);
	case DSA_REG_WQCAP:
		return half(dev->wqcap, off);
	case DSA_REG_GRPCAP:
		return half(dev->grpcap, off);
	case DSA_REG_ENGCAP:
		return half(dev->engcap, off);
	case DSA_REG_OPCAP:
		return half(dev->opcap, off);
	case DSA_REG_OFFSETS:
		return half(dev->offsets, off);
	case DSA_REG_GENSTS:
		return dev->gensts;
	case DSA_REG_CMDSTS:
		return dev->cmdsts;
	case DSA_REG_SWERR:
		return half(dev->swerr, off);
	default:
		return 0;
	}
}

static void reg_write(struct svio_device *dev, uint64_t off, uint32_t v)
{
	if (off >= WQCFG && off < WQCFG + sizeof(dev->wqcfg)) {
		((uint32_t *)dev->wqcfg)[(off - WQCFG) / 4] = v;
	} else if (off >= GRPCFG && off < GRPCFG + sizeof(dev->grpcfg)) {
		((uint32_t *)dev->grpcfg)[(off - GRPCFG) / 4] = v;
	} else if (off == DSA_REG_SWERR) {
		dev->swerr = 0;
	} else if (off == DSA_REG_CMD && !(dev->cmdsts & DSA_CMDSTS_ACTIVE)) {
		if ((int)DSA_CMD_CODE(v) == dev->hang_cmd)
			dev->cmdsts = DSA_CMDSTS_ACTIVE;
		else
			dev->cmdsts = (int)DSA_CMD_CODE(v) == dev->fail_cmd ? dev->fail_err : command(dev, v);
	}
}

int svio_device_region_read(struct svio_device *dev, uint32_t region, uint64_t off, void *buf, size_t len)
{
	uint32_t v;

	if (dev->gone || !dev->decoding)
		return svio_fail(EIO, "not there");
	if (region || len != 4)
		return svio_fail(EINVAL, "a read of %zu bytes of region %u", len, region);
	v = htole32(reg_read(dev, off));
	memcpy(buf, &v, 4);
	return 0;
}

int svio_device_region_write(struct svio_device *dev, uint32_t region, uint64_t off, const void *buf, size_t len)
{
	uint32_t v[2];

	if (dev->gone || !dev->decoding)
		return svio_fail(EIO, "not there");
	if (region || (len != 4 && len != 8))
		return svio_fail(EINVAL, "a write of %zu bytes of region %u", len, region);
	memcpy(v, buf, len);
	for (size_t i = 0; i < len / 4; i++)
		reg_write(dev, off + 4 * i, le32toh(v[i]));
	return 0;
}

/* ---- the rooms below -------------------------------------------------------------------------------------- */

const char *svio_device_name(const struct svio_device *dev)
{
	(void)dev;
	return "fake";
}

void svio_device_get_info(const struct svio_device *dev, struct svio_device_info *info)
{
	*info = dev->info;
}

int svio_device_region_info(struct svio_device *dev, uint32_t region, struct svio_region_info *info)
{
	(void)dev;
	*info = (struct svio_region_info){ .size = region ? FAKE_WQS * DSA_PORTAL_STRIDE : REGS };
	return 0;
}

int svio_device_config_read(struct svio_device *dev, uint16_t off, uint32_t width, uint32_t *value)
{
	(void)width;
	if (dev->gone)
		return -ENODEV;
	*value = off == 4 ? (dev->master ? 4u : 0) | (dev->decoding ? 2u : 0) : dev->info.vendor;
	return 0;
}

int svio_device_set_master(struct svio_device *dev, bool on)
{
	dev->master = on;
	return 0;
}

int svio_device_feature(struct svio_device *dev, enum svio_feature_op op, uint16_t feature, void *data, size_t size)
{
	(void)dev;
	(void)op;
	(void)feature;
	(void)data;
	(void)size;
	return -ENOTTY;
}

void svio_device_hook_add(struct svio_device *dev, struct svio_device_hook *hook)
{
	dev->hook = hook;
}

void svio_device_hook_remove(struct svio_device *dev, struct svio_device_hook *hook)
{
	CU_ASSERT_PTR_EQUAL(dev->hook, hook);
	dev->hook = NULL;
}


int svio_bar_map(struct svio_device *dev, uint32_t region, uint64_t off, size_t len, uint32_t flags, struct svio_bar **barp)
{
	struct svio_bar *bar;

	(void)flags;
	*barp = NULL;
	if (region == 0 || dev->no_portals)
		return svio_fail(EINVAL, "not mappable");
	CU_ASSERT_TRUE(region == 2 && off == 0 && len <= FAKE_WQS * DSA_PORTAL_STRIDE);
	bar = malloc(sizeof(*bar));
	if (!bar)
		return svio_fail(ENOMEM, "no memory");
	*bar = (struct svio_bar){ .addr = dev->portals, .len = len, .region = region, .dev = dev };
	dev->bars++;
	*barp = bar;
	return 0;
}

void svio_bar_unmap(struct svio_bar *bar)
{
	if (bar)
		bar->dev->bars--;
	free(bar);
}

int svio_bar_restore(struct svio_device *dev)
{
	if (dev->gone)
		return -ENODEV;
	if (!dev->decoding)
		return -EAGAIN;
	dev->revoked = false;
	svio_device_event_clear(dev, SVIO_EV_REVOKED);
	return 0;
}

void fake_revoke(struct svio_device *dev)
{
	dev->decoding = false;
	dev->revoked = true;
	svio_device_event_set(dev, SVIO_EV_REVOKED);
}

void fake_restore(struct svio_device *dev)
{
	dev->decoding = true;
}

void fake_function_reset(struct svio_device *dev, bool hooks)
{
	if (hooks && dev->hook) {
		svio_device_event_set(dev, SVIO_EV_QUIESCE);
		dev->hook->prepare(dev->hook->ctx, dev);
	}
	device_reset(dev);
	dev->bond_ended = true;
	svio_device_event_set(dev, SVIO_EV_RESET);
	if (hooks && dev->hook) {
		dev->hook->done(dev->hook->ctx, dev, 0);
		svio_device_event_clear(dev, SVIO_EV_QUIESCE);
	}
}

void fake_unplug(struct svio_device *dev)
{
	dev->gone = true;
	svio_device_event_set(dev, SVIO_EV_GONE | SVIO_EV_REVOKED);
}

void cb(void *ctx, const struct svio_dsa_result *res)
{
	struct seen *s = ctx;

	s->res = *res;
	s->calls++;
}

static void silent(void *ctx, enum svio_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	if (getenv("FAKE_LOG"))
		puts(line);
}

struct svio_device *fake_new(void)
{
	struct svio_device *dev;

	if (!arena) {
		arena = mmap(NULL, FAKE_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (arena == MAP_FAILED)
			abort();
	}
	if (!the_device)
		arena_used = 0;
	the_ioas.hot.near[0] = (struct svio_ioas_hot_range){ (uintptr_t)arena, FAKE_ARENA, FAKE_DELTA };
	atomic_init(&the_ioas.hot.range, &the_ioas.hot.near[0]);
	svio_log_set(SVIO_LOG_INFO, silent, NULL);
	dev = aligned_alloc(64, sizeof(*dev));
	memset(dev, 0, sizeof(*dev));
	dev->portals = aligned_alloc(4096, FAKE_WQS * DSA_PORTAL_STRIDE);
	memset(dev->portals, 0, FAKE_WQS * DSA_PORTAL_STRIDE);
	dev->info = (struct svio_device_info){ .vendor = DSA_SIM_VENDOR, .device = DSA_SIM_DEVICE, .numa_node = -1 };
	dev->version = DSA_VERSION_1;
	dev->total = 128;
	dev->gencap = DSA_GENCAP_BLOCK_ON_FAULT | DSA_GENCAP_OVERLAP_COPY | DSA_GENCAP_CONFIG | 20ull << DSA_GENCAP_MAX_XFER_LSB |
		      5ull << DSA_GENCAP_MAX_BATCH_LSB;
	dev->wqcap = 128 | (uint64_t)FAKE_WQS << DSA_WQCAP_WQS_LSB | 1ull << DSA_WQCAP_WQCFG_LSB | DSA_WQCAP_DEDICATED;
	dev->grpcap = 4;
	dev->engcap = 2;
	dev->opcap = 1u << DSA_OP_NOOP | 1u << DSA_OP_BATCH | 1u << DSA_OP_DRAIN | 1u << DSA_OP_MEMMOVE | 1u << DSA_OP_FILL |
		     1u << DSA_OP_COMPARE | 1u << DSA_OP_COMPARE_PATTERN | 1u << DSA_OP_DUALCAST | 1u << DSA_OP_CRC | 1u << DSA_OP_COPY_CRC;
	dev->offsets = GRPCFG / DSA_OFFSETS_UNIT | (WQCFG / DSA_OFFSETS_UNIT) << 16;
	dev->fail_cmd = dev->hang_cmd = -1;
	dev->decoding = true;
	dev->prev = the_device;
	the_device = dev;
	return dev;
}

struct svio_device *fake_move(struct svio_device *dev)
{
	struct svio_device *to = fake_new();
	struct svio_device keep = *to;

	*to = *dev;
	to->hot = keep.hot;
	to->prev = keep.prev;
	to->portals = keep.portals;
	to->hook = NULL;
	to->log = NULL;
	to->bars = 0;
	memcpy(to->portals, dev->portals, FAKE_WQS * DSA_PORTAL_STRIDE);
	device_reset(dev);
	return to;
}

void fake_free(struct svio_device *dev)
{
	CU_ASSERT_EQUAL(dev->bars, 0);
	CU_ASSERT_PTR_NULL(dev->hook);
	CU_ASSERT_PTR_NULL(dev->log);
	CU_ASSERT_EQUAL(dev->bad_desc, 0);
	CU_ASSERT_EQUAL(dev->overruns, 0);
	for (struct svio_device **p = &the_device; *p; p = &(*p)->prev)
		if (*p == dev) {
			*p = dev->prev;
			break;
		}
	free(dev->portals);
	free(dev);
}

struct svio_sva_bond fake_bond(struct svio_device *dev, bool native)
{
	if (native)
		return (struct svio_sva_bond){ SVIO_SVA_NATIVE, 37, NULL, SVIO_SVA_INFO_NATIVE, dev };
	return (struct svio_sva_bond){ SVIO_SVA_IDENTITY, SVIO_SVA_PASID_NONE, fake_ioas, 0, dev };
}
