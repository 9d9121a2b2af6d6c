/* SPDX-License-Identifier: BSD-3-Clause */
/* What a namespace keeps its blocks in: memory, a mapped file, or a file read and written past the page cache. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "nvme_model.h"

static int open_file(struct nm_store *st, const char *path, uint64_t bytes, bool direct, bool shared)
{
	int flags = (st->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | (direct ? O_DIRECT : 0);
	struct stat info;
	int err;

	st->fd = open(path, flags);
	if (st->fd < 0) {
		err = errno;
		return svio_fail(err, "%s: %s%s", path, strerror(err),
				 err == ENOENT ? "; make it, for instance: truncate -s 1G FILE" :
				 err == EINVAL && direct ? " (its filesystem has no O_DIRECT; leave 'direct' away)" : "");
	}
	/* Two controllers that do not know of each other would corrupt each other's filesystems. */
	if (!shared && flock(st->fd, (st->readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0) {
		err = errno;
		return svio_fail(err == EWOULDBLOCK ? EBUSY : err,
				 "%s: in use by another server; 'shared' permits that, for clients that coordinate", path);
	}
	if (fstat(st->fd, &info) < 0)
		return svio_fail(errno, "%s: %s", path, strerror(errno));
	if (S_ISBLK(info.st_mode)) {
		if (ioctl(st->fd, BLKGETSIZE64, &st->bytes) < 0)
			return svio_fail(errno, "%s: size: %s", path, strerror(errno));
	} else if (S_ISREG(info.st_mode)) {
		st->bytes = (uint64_t)info.st_size;
	} else {
		return svio_fail(EINVAL, "%s: neither a regular file nor a block device", path);
	}
	if (bytes && bytes < st->bytes)
		st->bytes = bytes;
	if (bytes > st->bytes)
		return svio_fail(EINVAL, "%s: has %llu bytes, fewer than the %llu asked for; enlarge it: truncate -s %llu %s", path,
				 (unsigned long long)st->bytes, (unsigned long long)bytes, (unsigned long long)bytes, path);
	return 0;
}

int svio__nm_store_open(struct nm_store *st, const char *path, uint64_t bytes, bool direct, bool readonly, bool shared)
{
	void *p;
	int err;

	memset(st, 0, sizeof(*st));
	st->fd = -1;
	st->readonly = readonly;
	st->is_file = path != NULL;
	st->bytes = bytes;
	if (path) {
		err = open_file(st, path, bytes, direct, shared);
		if (err || direct) {
			if (err)
				svio__nm_store_close(st);
			return err;
		}
	}
	if (!st->bytes || st->bytes > SIZE_MAX / 2) {
		svio__nm_store_close(st);
		return svio_fail(EINVAL, "a namespace of %llu bytes cannot be made", (unsigned long long)st->bytes);
	}
	p = mmap(NULL, st->bytes, PROT_READ | (readonly ? 0 : PROT_WRITE),
		 path ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, st->fd, 0);
	if (p == MAP_FAILED) {
		err = errno;
		svio__nm_store_close(st);
		return svio_fail(err, "%s: %llu bytes cannot be mapped: %s", path ? path : "namespace memory",
				 (unsigned long long)bytes, strerror(err));
	}
	st->mem = p;
	if (!path)
		madvise(p, st->bytes, MADV_HUGEPAGE); /* fewer TLB misses; without them it works as well */
	madvise(p, st->bytes, MADV_DONTDUMP);
	return 0;
}

void svio__nm_store_close(struct nm_store *st)
{
	if (st->mem)
		munmap(st->mem, st->bytes);
	if (st->fd >= 0)
		close(st->fd);
	st->mem = NULL;
	st->fd = -1;
}

int svio__nm_store_rw(struct nm_store *st, bool write, uint64_t off, void *buf, uint32_t len)
{
	if (write && st->readonly)
		return -EROFS;
	if (st->mem) {
		if (write)
			memcpy(st->mem + off, buf, len);
		else
			memcpy(buf, st->mem + off, len);
		return 0;
	}
	while (len) {
		ssize_t n = write ? pwrite(st->fd, buf, len, (off_t)off) : pread(st->fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		buf = (char *)buf + n;
		off += (uint64_t)n;
		len -= (uint32_t)n;
	}
	return 0;
}

int svio__nm_store_zero(struct nm_store *st, uint64_t off, uint64_t len, bool discard)
{
	if (st->readonly)
		return -EROFS;
	if (!len)
		return 0;
	if (st->is_file) {
		int mode = FALLOC_FL_KEEP_SIZE | (discard ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

		if (fallocate(st->fd, mode, (off_t)off, (off_t)len) == 0)
			return 0;
		if (errno != EOPNOTSUPP && errno != ENODEV)
			return -errno;
		if (!st->mem) { /* no such call on this filesystem, and no mapping: write zeroes */
			static const uint8_t zeroes[NM_PAGE] __attribute__((aligned(NM_PAGE)));

			for (int err; len; len -= SVIO_MIN(len, NM_PAGE), off += NM_PAGE) {
				err = svio__nm_store_rw(st, true, off, (void *)(uintptr_t)zeroes,
						  (uint32_t)SVIO_MIN(len, NM_PAGE));
				if (err)
					return err;
			}
			return 0;
		}
	} else {
		/* Whole pages of private memory read as zeroes once they are given back. */
		uint64_t a = SVIO_ALIGN_UP(off, (uint64_t)NM_PAGE), b = SVIO_ALIGN_DOWN(off + len, (uint64_t)NM_PAGE);

		if (a < b && b - a >= 64 * NM_PAGE && madvise(st->mem + a, b - a, MADV_DONTNEED) == 0) {
			memset(st->mem + off, 0, a - off);
			memset(st->mem + b, 0, off + len - b);
			return 0;
		}
	}
	memset(st->mem + off, 0, len);
	return 0;
}

int svio__nm_store_flush(struct nm_store *st)
{
	/* Stores to a shared mapping are in the page cache, which fdatasync() writes back. */
	return st->is_file && !st->readonly && fdatasync(st->fd) < 0 ? -errno : 0;
}
