/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between two processes of one machine pages need not go through the socket: the source gives the target its areas' memfds, to
 * read only, and says which pages; the target reads them into its own areas. That is one copy instead of two.
 *
 * The source offers it if the other end of its unix socket is the process that said HELLO: nobody stands between them who would want to
 * see the pages, and nothing that could damage them, so they need no checksum. The target may decline.
 *
 * A page is named only after the dirty set has forgotten it, and read before the round ends, because the source waits for the answers to
 * all that it named: what is written to it meanwhile is found at the round's end, as with a page that changes while it is copied.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "migrate_priv.h"

#define AHEAD 2u /* frames that may be unanswered: the source looks for the next pages while the target reads */

/* ---- the source -------------------------------------------------------------------------------------------- */

/* Another open file of the same memory, which cannot be written through. */
static int open_to_read(int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int svio__mg_share_offer(struct mg_move *x)
{
	int fds[MG_MAX_AREAS], rc;
	uint32_t n = 0;
	struct svio_migrate_in in;
	svio_le32 count;
	bool all = true;

	if (!x->direct || !x->peer_share || x->opts.no_share || !x->m->areas)
		return 0;
	for (struct svio_migrate_area *a = x->m->areas; a && all; a = a->next) {
		fds[n] = open_to_read(a->fd);
		all = fds[n] >= 0;
		n += all;
	}
	rc = 0;
	if (all) {
		count = svio_cpu_to_le32(n);
		rc = svio__mg_tx(&x->stream, MG_SHARE, &count, sizeof(count), NULL, 0);
		if (rc == 0)
			rc = svio__mg_tx_fds(&x->stream, fds, n);
		if (rc == 0)
			rc = svio__mg_expect(&x->stream, MG_SHARE_OK, &in);
		if (rc == 0)
			x->shared = svio_migrate_get_u32(&in) == 1 && !in.bad;
	}
	while (n)
		close(fds[--n]);
	return rc;
}

static int answered(struct mg_move *x, uint32_t left)
{
	struct svio_migrate_in in;
	int rc = 0;

	while (rc == 0 && x->unanswered > left) {
		rc = svio__mg_expect(&x->stream, MG_HERE_OK, &in);
		x->unanswered--;
	}
	return rc;
}

int svio__mg_share_pages(struct mg_move *x, const struct mg_run *run, uint32_t runs, uint32_t pages)
{
	int rc = answered(x, AHEAD - 1);

	if (rc == 0)
		rc = svio__mg_tx(&x->stream, MG_HERE, run, runs * sizeof(*run), NULL, 0);
	if (rc == 0) {
		x->unanswered++;
		x->shared_bytes += pages * MG_PAGE;
	}
	return rc;
}

int svio__mg_share_wait(struct mg_move *x)
{
	return answered(x, 0);
}

/* ---- the target -------------------------------------------------------------------------------------------- */

/* A memfd of that size for good, and nothing that reading could wait for. */
bool svio__mg_share_fits(int fd, uint64_t bytes)
{
	const int want = F_SEAL_SHRINK | F_SEAL_GROW;
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & want) == want && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

void svio__mg_share_end(struct mg_move *x)
{
	while (x->num_there)
		close(x->there[--x->num_there]);
	x->shared = false;
}

int svio__mg_share_take(struct mg_move *x, struct svio_migrate_in *in)
{
	uint32_t count = svio_migrate_get_u32(in), n = 0;
	svio_le32 yes;
	bool fits;
	int rc;

	if (in->bad || in->left || x->shared || x->num_there)
		return svio_fail(EPROTO, "a SHARE of another form");
	/* As many as came: a limit of descriptors, here or there, keeps the others away. */
	rc = svio__mg_rx_fds(&x->stream, x->there, MG_MAX_AREAS, &x->num_there);
	if (rc)
		return rc;
	fits = count == x->num_there;
	for (struct svio_migrate_area *a = x->m->areas; a; a = a->next, n++)
		fits = fits && n < count && svio__mg_share_fits(x->there[n], a->bytes);
	x->shared = fits && n == count;
	if (!x->shared)
		svio__mg_share_end(x);
	yes = svio_cpu_to_le32(x->shared);
	return svio__mg_tx(&x->stream, MG_SHARE_OK, &yes, sizeof(yes), NULL, 0);
}

static int read_run(int fd, uint8_t *to, uint64_t bytes, uint64_t at)
{
	while (bytes) {
		ssize_t n = pread(fd, to, bytes, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			return svio_fail(EPROTO, "the source's memory ends");
		if (n < 0)
			return svio_fail(errno, "the source's memory cannot be read: %m");
		to += n;
		at += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

int svio__mg_share_read(struct mg_move *x, struct svio_migrate_in *in)
{
	if (!x->shared)
		return svio_fail(EPROTO, "pages of memory that was not shared");
	while (in->left) {
		const struct mg_run *run = svio_migrate_get(in, sizeof(*run));
		uint64_t bytes = 0;
		uint8_t *to = run ? svio__mg_place(x, run, &bytes) : NULL;
		int rc;

		if (!to)
			return svio_fail(EPROTO, "pages that belong nowhere");
		rc = read_run(x->there[svio_le32_to_cpu(run->area)], to, bytes, svio_le64_to_cpu(run->first) * MG_PAGE);
		if (rc)
			return rc;
		x->pages += bytes / MG_PAGE;
		x->shared_bytes += bytes;
	}
	return svio__mg_tx(&x->stream, MG_HERE_OK, NULL, 0, NULL, 0);
}
