/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The file that decides. Whoever runs holds flock(2) on it (given back by the kernel when the process dies); it says in words of 40
 * bytes what was offered to whom. Written by the holder of the lock only.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "migrate_priv.h"

#define MAGIC UINT64_C(0x3145534c4f495653) /* "SVIOLSE1" */

enum { HELD = 0, OFFERED = 1, TAKEN = 2 };

struct lease {
	svio_le64 magic;
	svio_le32 what, crc;
	uint8_t session[MG_SESSION];
	uint8_t zero[8];
} __attribute__((packed));
_Static_assert(sizeof(struct lease) == 40, "on disk");

static uint32_t checksum(struct lease l)
{
	l.crc = 0;
	return svio_crc32c(0, &l, sizeof(l));
}

static int put(int fd, uint32_t what, const uint8_t *session)
{
	struct lease l = { .magic = svio_cpu_to_le64(MAGIC), .what = svio_cpu_to_le32(what) };

	if (session)
		memcpy(l.session, session, MG_SESSION);
	l.crc = svio_cpu_to_le32(checksum(l));
	if (pwrite(fd, &l, sizeof(l), 0) != sizeof(l) || fdatasync(fd))
		return svio_fail(errno ? errno : EIO, "the lease cannot be written: %m");
	return 0;
}

/* What it says; HELD of nobody when it is new. */
static int get(int fd, struct lease *l)
{
	ssize_t n = pread(fd, l, sizeof(*l), 0);

	if (n == 0) {
		memset(l, 0, sizeof(*l));
		return 0;
	}
	if (n != sizeof(*l) || svio_le64_to_cpu(l->magic) != MAGIC || svio_le32_to_cpu(l->crc) != checksum(*l))
		return svio_fail(EBADMSG, "the lease file is not one, or damaged");
	return 0;
}

static int open_locked(const char *path, int *fdp)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), rc;

	if (fd < 0)
		return svio_fail(errno, "lease %s: %m", path);
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		rc = svio_fail(errno == EWOULDBLOCK ? EBUSY : errno, "lease %s: %s", path,
			       errno == EWOULDBLOCK ? "somebody else runs" : strerror(errno));
		close(fd);
		return rc;
	}
	*fdp = fd;
	return 0;
}

int svio__mg_lease_hold(const char *path, int *fd)
{
	int rc;

	if (*fd >= 0)
		return 0;
	rc = open_locked(path, fd);
	if (rc == 0)
		rc = put(*fd, HELD, NULL);
	if (rc && *fd >= 0) {
		close(*fd);
		*fd = -1;
	}
	return rc;
}

int svio__mg_lease_offer(int fd, const uint8_t session[MG_SESSION])
{
	int rc = put(fd, OFFERED, session);

	if (rc == 0 && flock(fd, LOCK_UN))
		rc = svio_fail(errno, "the lease cannot be unlocked: %m");
	return rc;
}

int svio__mg_lease_take(const char *path, const uint8_t session[MG_SESSION], int *fdp)
{
	struct lease l;
	int fd, rc = open_locked(path, &fd);

	if (rc)
		return rc;
	rc = get(fd, &l);
	if (rc == 0 && (svio_le32_to_cpu(l.what) != OFFERED || memcmp(l.session, session, MG_SESSION) != 0))
		rc = svio_fail(EPERM, "lease %s: the source has taken its offer back", path);
	if (rc == 0)
		rc = put(fd, TAKEN, session);
	if (rc) {
		close(fd);
		return rc;
	}
	*fdp = fd;
	return 0;
}

int svio__mg_lease_ask(int fd, const uint8_t session[MG_SESSION], enum mg_lease *answer)
{
	struct lease l;
	int rc;

	*answer = MG_LEASE_THEIRS;
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return svio_fail(errno, "the lease cannot be locked: %m");
		/* Locked: by the target, or for a moment by a stranger, who lets go again. */
		rc = get(fd, &l);
		if (rc == 0 && svio_le32_to_cpu(l.what) == TAKEN && memcmp(l.session, session, MG_SESSION) == 0)
			return 0;
		return -EAGAIN;
	}
	rc = get(fd, &l);
	if (rc == 0 && svio_le32_to_cpu(l.what) == OFFERED && memcmp(l.session, session, MG_SESSION) == 0) {
		rc = put(fd, HELD, NULL);
		*answer = MG_LEASE_OURS;
	} else if (rc == 0) {
		*answer = MG_LEASE_TAKEN;
	}
	return rc;
}
