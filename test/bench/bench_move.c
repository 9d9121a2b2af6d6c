/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pre-copy of an area from one process to another, and a plain copy of the same bytes over the same kind of socket.
 *
 *	bench_move copy|stream|move BYTES unix|tcp
 *
 * All fill an area with random words, fork, and connect by svio_migrate_listen() and svio_migrate_connect(). copy: the area is
 * written into the socket and read into an area of the other process, in pieces as large as a frame, and one byte comes back.
 * move: svio_migrate_send() and svio_migrate_receive(), without devices; what counts is the first round, up to the
 * answer that all of it is in place. stream: the same, with the pages in the stream also where the target could read them itself.
 * Prints one JSON object: time, and the processor time of each side while it took.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "svio_migrate.h"

#define PIECE (UINT64_C(512) << 10)

static char address[128];

struct result { /* of the target */
	uint64_t cpu_ns;
	uint64_t sound;
};

#define TRY(call)                                                                           \
	do {                                                                                \
		if ((call) != 0) {                                                          \
			fprintf(stderr, "bench_move: %s: %s\n", #call, svio_last_error());  \
			exit(1);                                                            \
		}                                                                           \
	} while (0)

static uint64_t cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u + (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

static uint64_t word(uint64_t i)
{
	i = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
	return i ^ i >> 29;
}

static void fill(uint8_t *base, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes / 8; i++)
		memcpy(base + i * 8, &(uint64_t){ word(i) }, 8);
}

static bool is_filled(const uint8_t *base, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes / 8; i++)
		if (memcmp(base + i * 8, &(uint64_t){ word(i) }, 8) != 0)
			return false;
	return true;
}

static struct svio_migrate_area *area(uint64_t bytes)
{
	struct svio_migrate_area_opts opts = { .size = sizeof(opts), .name = "bench", .bytes = bytes };
	struct svio_migrate_area *a;

	TRY(svio_migrate_area_create(&opts, &a));
	return a;
}

static void transfer(int fd, uint8_t *p, uint64_t len, bool out)
{
	while (len) {
		size_t piece = SVIO_MIN(len, PIECE);
		ssize_t n = out ? write(fd, p, piece) : read(fd, p, piece);

		if (n <= 0) {
			fprintf(stderr, "bench_move: the connection is lost\n");
			exit(1);
		}
		p += n;
		len -= (uint64_t)n;
	}
}

/* ---- target ------------------------------------------------------------------------------------------------ */

static uint64_t received_from, received_until;

static void target_progress(void *ctx, const struct svio_migrate_report *report)
{
	(void)ctx;
	if (report->phase == SVIO_MIGRATE_PRECOPY)
		received_from = cpu_ns();
	if (report->phase == SVIO_MIGRATE_STOPPED)
		received_until = cpu_ns();
}

/* In the target, which must be whom the source finds at the other end. */
static int listen_at(bool tcp)
{
	int fd;

	if (tcp) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		uint16_t port;

		TRY(svio_migrate_listen("tcp:127.0.0.1:0", &fd));
		TRY(getsockname(fd, (struct sockaddr *)&sa, &len));
		memcpy(&port, (uint8_t *)&sa + 2, 2);
		snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", (unsigned int)be16toh(port));
	} else {
		snprintf(address, sizeof(address), "unix:/tmp/bench_move.%ld", (long)getpid());
		TRY(svio_migrate_listen(address, &fd));
	}
	return fd;
}

static void target(bool plain, uint64_t bytes, bool tcp, int report)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .progress = target_progress };
	struct result r = { 0 };
	struct svio_migrate *m;
	struct svio_migrate_area *a;
	int fd, listen_fd = listen_at(tcp);
	uint8_t done = 1;

	if (write(report, address, sizeof(address)) != sizeof(address))
		exit(1);
	TRY(svio_migrate_create(&m));
	a = plain ? area(bytes) : NULL;
	fd = accept(listen_fd, NULL, NULL);
	if (plain) {
		transfer(fd, &done, 1, true); /* the area is there */
		received_from = cpu_ns();
		transfer(fd, svio_migrate_area_base(a), bytes, false);
		transfer(fd, &done, 1, true);
		received_until = cpu_ns();
	} else {
		TRY(svio_migrate_receive(m, fd, fd, &opts, NULL));
		a = svio_migrate_find_area(m, "bench");
	}
	r.cpu_ns = received_until - received_from;
	r.sound = a && is_filled(svio_migrate_area_base(a), bytes);
	if (write(report, &r, sizeof(r)) != sizeof(r))
		exit(1);
	exit(0);
}

/* ---- source ------------------------------------------------------------------------------------------------ */

static uint64_t cpu_started, cpu_round;

static void progress(void *ctx, const struct svio_migrate_report *report)
{
	(void)ctx;
	if (report->phase == SVIO_MIGRATE_PRECOPY && report->rounds == 0)
		cpu_started = cpu_ns();
	if (report->rounds == 1 && !cpu_round)
		cpu_round = cpu_ns() - cpu_started;
}

int main(int argc, char **argv)
{
	struct svio_migrate_opts opts = { .size = sizeof(opts), .progress = progress };
	static struct svio_migrate_report report;
	bool plain, tcp;
	uint64_t bytes = 0, ns;
	struct svio_migrate *m;
	struct svio_migrate_area *a;
	struct result r;
	int fd, back[2], status;
	uint8_t done;
	pid_t pid;

	plain = argc == 4 && strcmp(argv[1], "copy") == 0;
	opts.no_share = argc == 4 && strcmp(argv[1], "stream") == 0;
	tcp = argc == 4 && strcmp(argv[3], "tcp") == 0;
	if (argc != 4 || (!plain && !opts.no_share && strcmp(argv[1], "move") != 0) || svio_parse_size(argv[2], &bytes) || bytes < PIECE ||
	    bytes % (UINT64_C(2) << 20) || (!tcp && strcmp(argv[3], "unix") != 0)) {
		fprintf(stderr, "usage: bench_move copy|stream|move BYTES unix|tcp (BYTES: a multiple of 2 MiB)\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (pipe(back))
		return 1;
	pid = fork();
	if (pid == 0)
		target(plain, bytes, tcp, back[1]);
	close(back[1]);
	if (read(back[0], address, sizeof(address)) != sizeof(address))
		return 1;
	TRY(svio_migrate_create(&m));
	a = area(bytes);
	fill(svio_migrate_area_base(a), bytes);
	TRY(svio_migrate_connect(address, &fd));
	if (plain)
		transfer(fd, &done, 1, false);
	cpu_started = cpu_ns();
	ns = svio_now_ns();
	if (plain) {
		transfer(fd, svio_migrate_area_base(a), bytes, true);
		transfer(fd, &done, 1, false);
		ns = svio_now_ns() - ns;
		cpu_round = cpu_ns() - cpu_started;
	} else {
		TRY(svio_migrate_add_area(m, a));
		TRY(svio_migrate_send(m, fd, fd, &opts, &report));
		ns = report.round[0].ns;
	}
	if (!tcp)
		unlink(address + strlen("unix:"));
	if (read(back[0], &r, sizeof(r)) != sizeof(r) || waitpid(pid, &status, 0) != pid || status || !r.sound) {
		fprintf(stderr, "bench_move: what arrived is not what was sent\n");
		return 1;
	}
	printf("{\"what\": \"%s\", \"bytes\": %" PRIu64 ", \"socket\": \"%s\", \"ns\": %" PRIu64 ", \"source_cpu_ns\": %" PRIu64
	       ", \"target_cpu_ns\": %" PRIu64 ", \"shared_bytes\": %" PRIu64 ", \"rounds\": %" PRIu32 ", \"downtime_ns\": %" PRIu64 ", \"quiesce_ns\": %" PRIu64 ", \"copy_ns\": %" PRIu64
	       ", \"load_ns\": %" PRIu64 ", \"tracker\": \"%s\"}\n",
	       argv[1], bytes, argv[3], ns, cpu_round, r.cpu_ns, report.shared_bytes, report.rounds, report.downtime_ns, report.quiesce_ns, report.copy_ns,
	       report.load_ns, report.tracker);
	return 0;
}
