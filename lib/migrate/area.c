/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory at a fixed address, and the list of its blocks, which lies outside of it: what devices scribble on is theirs alone. */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "migrate_priv.h"

#define MAX_AREA   (UINT64_C(1) << 40)
#define MAX_BLOCKS (UINT32_C(1) << 20)
#define ADDRESSES  (UINT64_C(1) << 47)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static int map(struct svio_migrate_area *area, uint64_t base)
{
	void *want = (void *)(uintptr_t)base, *p;
	uint64_t left = svio__mg_available();

	/* Too much would wake the OOM killer instead of failing. */
	if (left < area->bytes)
		return svio_fail(ENOMEM, "area %s needs %" PRIu64 " MiB of memory, %" PRIu64 " MiB are available: end other processes, or "
				 "raise the limit of this one (its cgroup's memory.max, ulimit -v)", area->name, area->bytes >> 20, left >> 20);
	area->fd = memfd_create(area->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (area->fd < 0)
		return svio_fail(errno, "area %s: memfd_create: %m", area->name);
	if (ftruncate(area->fd, (off_t)area->bytes))
		return svio_fail(errno, "area %s of %" PRIu64 " bytes: %m", area->name, area->bytes);
	/* Whoever maps it too (a vfio-user server) must not meet holes; room mem's arenas say more. */
	if (fcntl(area->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return svio_fail(errno, "area %s: cannot be sealed: %m", area->name);
	p = mmap(want, area->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, area->fd, 0);
	if (p == MAP_FAILED && errno != EEXIST)
		return svio_fail(errno, "area %s: %" PRIu64 " bytes at 0x%" PRIx64 ": %m", area->name, area->bytes, base);
	if (p != MAP_FAILED && p != want) /* Linux before 4.17 takes it for a hint */
		munmap(p, area->bytes);
	if (p != want)
		return svio_fail(EADDRINUSE, "area %s belongs at 0x%" PRIx64 "+0x%" PRIx64 ", where something else is mapped: "
				 "see /proc/%d/maps; start the process that is to receive it anew", area->name, base, area->bytes,
				 (int)getpid());
	area->base = p;
	while (fallocate(area->fd, 0, 0, (off_t)area->bytes))
		if (errno != EINTR)
			return svio_fail(errno, "area %s: %" PRIu64 " MiB of memory: %m", area->name, area->bytes >> 20);
	/* Page tables, so that the first touch is not a fault later; only a matter of speed. */
	(void)madvise(area->base, area->bytes, MADV_POPULATE_WRITE);
	return 0;
}

int svio_migrate_area_create(const struct svio_migrate_area_opts *opts, struct svio_migrate_area **areap)
{
	uint64_t base = opts->base ? opts->base : SVIO_MIGRATE_ADDRESS, bytes = SVIO_ALIGN_UP(opts->bytes, MG_HUGE);
	struct svio_migrate_area *area;
	int rc;

	*areap = NULL;
	if (opts->size < sizeof(*opts) || !opts->name || !*opts->name || strlen(opts->name) >= MG_NAME)
		return svio_fail(EINVAL, "an area needs opts.size and a name of at most %d bytes", (int)MG_NAME - 1);
	if (base % MG_HUGE || bytes == 0 || opts->bytes > MAX_AREA || base >= ADDRESSES || bytes > ADDRESSES - base)
		return svio_fail(EINVAL, "area %s: 0x%" PRIx64 "+0x%" PRIx64 ": a multiple of 2 MiB, at most 1 TiB, below 2^47",
				 opts->name, base, opts->bytes);
	area = calloc(1, sizeof(*area));
	if (!area)
		return svio_fail(ENOMEM, "area %s: out of memory", opts->name);
	snprintf(area->name, sizeof(area->name), "%s", opts->name);
	area->bytes = bytes;
	area->fd = -1;
	pthread_mutex_init(&area->lock, NULL);
	rc = map(area, base);
	if (rc == 0)
		rc = svio_mem_register(area->base, area->bytes, area->fd, 0);
	if (rc) {
		svio_migrate_area_destroy(area);
		return rc;
	}
	area->registered = true;
	*areap = area;
	return 0;
}

void svio_migrate_area_destroy(struct svio_migrate_area *area)
{
	if (!area)
		return;
	if (area->registered)
		svio_mem_unregister(area->base, area->bytes);
	if (area->base)
		munmap(area->base, area->bytes);
	if (area->fd >= 0)
		close(area->fd);
	pthread_mutex_destroy(&area->lock);
	free(area->blocks);
	free(area->dirty);
	free(area);
}

void *svio_migrate_area_base(const struct svio_migrate_area *area)
{
	return area->base;
}

uint64_t svio_migrate_area_bytes(const struct svio_migrate_area *area)
{
	return area->bytes;
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static int insert(struct svio_migrate_area *area, size_t at, uint64_t off, uint64_t len)
{
	if (area->num_blocks == MAX_BLOCKS)
		return svio_fail(ENOSPC, "area %s has %u blocks: make fewer and larger ones", area->name, MAX_BLOCKS);
	if (area->num_blocks == area->cap_blocks) {
		size_t cap = area->cap_blocks ? 2 * area->cap_blocks : 16;
		struct mg_block *grown = reallocarray(area->blocks, cap, sizeof(*grown));

		if (!grown)
			return svio_fail(ENOMEM, "area %s: out of memory for a list of %zu blocks", area->name, cap);
		area->blocks = grown;
		area->cap_blocks = cap;
	}
	memmove(&area->blocks[at + 1], &area->blocks[at], (area->num_blocks - at) * sizeof(*area->blocks));
	area->blocks[at] = (struct mg_block){ off, len };
	area->num_blocks++;
	return 0;
}

void *svio_migrate_alloc(struct svio_migrate_area *area, uint64_t len, uint64_t align)
{
	uint64_t off = 0;
	size_t at;
	void *p = NULL;

	if (!align)
		align = SVIO_CACHELINE;
	if (len == 0 || len > MAX_AREA || (align & (align - 1)) || align > MG_HUGE) {
		svio_fail(EINVAL, "area %s: %" PRIu64 " bytes aligned to %" PRIu64 ": not 0; a power of two up to 2 MiB", area->name,
			  len, align);
		return NULL;
	}
	len = SVIO_ALIGN_UP(len, (uint64_t)SVIO_CACHELINE);
	pthread_mutex_lock(&area->lock);
	for (at = 0; at < area->num_blocks; at++) {
		if (off <= area->blocks[at].off && len <= area->blocks[at].off - off)
			break;
		off = SVIO_ALIGN_UP(area->blocks[at].off + area->blocks[at].len, align);
	}
	if (off > area->bytes || len > area->bytes - off)
		svio_fail(ENOMEM, "area %s of %" PRIu64 " KiB has no room for %" PRIu64 " bytes: create it larger", area->name,
			  area->bytes >> 10, len);
	else if (insert(area, at, off, len) == 0)
		p = area->base + off;
	pthread_mutex_unlock(&area->lock);
	if (p)
		memset(p, 0, len);
	return p;
}

/* Index of the block that contains off, or num_blocks. */
static size_t find(const struct svio_migrate_area *area, uint64_t off)
{
	size_t lo = 0, hi = area->num_blocks;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (area->blocks[mid].off + area->blocks[mid].len <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < area->num_blocks && area->blocks[lo].off <= off ? lo : area->num_blocks;
}

void svio_migrate_free(struct svio_migrate_area *area, void *ptr)
{
	uint64_t off = (uint64_t)(uintptr_t)ptr - (uint64_t)(uintptr_t)area->base;
	size_t at;

	if (!ptr)
		return;
	pthread_mutex_lock(&area->lock);
	at = find(area, off);
	if (at < area->num_blocks && area->blocks[at].off == off) {
		area->num_blocks--;
		memmove(&area->blocks[at], &area->blocks[at + 1], (area->num_blocks - at) * sizeof(*area->blocks));
	} else {
		svio_log_err("area %s: %p was not allocated, or was freed already", area->name, ptr);
	}
	pthread_mutex_unlock(&area->lock);
}

bool svio_migrate_allocated(struct svio_migrate_area *area, const void *ptr, uint64_t len)
{
	uint64_t off = (uint64_t)(uintptr_t)ptr - (uint64_t)(uintptr_t)area->base;
	bool is = false;
	size_t at;

	if (off >= area->bytes)
		return false;
	pthread_mutex_lock(&area->lock);
	at = find(area, off);
	if (at < area->num_blocks)
		is = len <= area->blocks[at].off + area->blocks[at].len - off;
	pthread_mutex_unlock(&area->lock);
	return is;
}

/* ---- the wire: name, base, bytes, blocks --------------------------------------------------------------- */

int svio__mg_area_put(struct svio_migrate_area *area, struct svio_migrate_buf *out)
{
	svio_migrate_put_text(out, area->name);
	svio_migrate_put_u64(out, (uint64_t)(uintptr_t)area->base);
	svio_migrate_put_u64(out, area->bytes);
	pthread_mutex_lock(&area->lock);
	svio_migrate_put_u32(out, (uint32_t)area->num_blocks);
	for (size_t i = 0; i < area->num_blocks; i++) {
		svio_migrate_put_u64(out, area->blocks[i].off);
		svio_migrate_put_u64(out, area->blocks[i].len);
	}
	pthread_mutex_unlock(&area->lock);
	return out->err;
}

static int get_blocks(struct svio_migrate_in *in, struct svio_migrate_area *area)
{
	uint32_t n = svio_migrate_get_u32(in);
	uint64_t end = 0;

	if (in->bad || n > MAX_BLOCKS || n > in->left / 16)
		return svio_fail(EPROTO, "area %s: a list of blocks that is not whole", area->name);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t off = svio_migrate_get_u64(in), len = svio_migrate_get_u64(in);
		int rc;

		if (off < end || len == 0 || off >= area->bytes || len > area->bytes - off)
			return svio_fail(EPROTO, "area %s: block 0x%" PRIx64 "+0x%" PRIx64 " overlaps or lies outside", area->name, off,
					 len);
		end = off + len;
		rc = insert(area, i, off, len);
		if (rc)
			return rc;
	}
	return 0;
}

int svio__mg_area_get(struct svio_migrate_in *in, uint64_t *room, struct svio_migrate_area **areap)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts) };
	char name[MG_NAME];
	int rc;

	*areap = NULL;
	if (svio_migrate_get_text(in, name, sizeof(name)) || !*name)
		return svio_fail(EPROTO, "an area without a name");
	opts.name = name;
	opts.base = svio_migrate_get_u64(in);
	opts.bytes = svio_migrate_get_u64(in);
	if (in->bad || opts.base == 0 || opts.bytes % MG_HUGE)
		return svio_fail(EPROTO, "area %s: no place", name);
	if (opts.bytes > *room)
		return svio_fail(ENOMEM, "area %s needs %" PRIu64 " MiB, and %" PRIu64 " MiB are left for it: allow more (svio migrate listen "
				 "--max-memory)", name, opts.bytes >> 20, *room >> 20);
	rc = svio_migrate_area_create(&opts, areap);
	if (rc)
		return rc;
	*room -= opts.bytes;
	rc = get_blocks(in, *areap);
	if (rc) {
		svio_migrate_area_destroy(*areap);
		*areap = NULL;
	}
	return rc;
}
