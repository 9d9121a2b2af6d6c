/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Between the two sides of a migration, and at a process's control socket:
 *
 *	migrate_probe relay LISTEN TARGET FRAME PID [drop]	unix sockets. Passes frames on, both ways. When the first FRAME (PAGES,
 *							PREPARE, READY, COMMIT) has come, kills process PID (0: nobody) by SIGKILL,
 *							waits until it is gone with all that it held, and only then passes FRAME on,
 *							or never
 *	migrate_probe finish CONTROL			asks a `--migratable` process to end well, now
 *
 * `relay` prints "relaying" when it listens, "PID killed at FRAME" when it has, and ends when both sides have closed.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* Of the stream: lib/migrate/stream.c. All numbers are little-endian. */
#define HEADER	  24
#define AT_TYPE	  4
#define AT_LEN	  12
#define FRAME_MAX (UINT32_C(2) << 20)
#define GONE_MS	  60000

static const struct {
	const char *name;
	uint8_t type;
} kinds[] = { { "PAGES", 6 }, { "PREPARE", 12 }, { "READY", 13 }, { "COMMIT", 14 } };

static int die(const char *what, const char *name)
{
	fprintf(stderr, "migrate_probe: %s: %s: %s\n", name, what, strerror(errno));
	exit(1);
}

static int unix_socket(const char *path, struct sockaddr_un *sun)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(sun, 0, sizeof(*sun));
	sun->sun_family = AF_UNIX;
	if (fd < 0 || strlen(path) >= sizeof(sun->sun_path))
		die("socket", path);
	strcpy(sun->sun_path, path);
	return fd;
}

static int dial(const char *path)
{
	struct sockaddr_un sun;
	int fd = unix_socket(path, &sun);

	if (connect(fd, (const struct sockaddr *)&sun, sizeof(sun)))
		die("connect", path);
	return fd;
}

static int answer(const char *path)
{
	struct sockaddr_un sun;
	int fd = unix_socket(path, &sun), conn;

	if (bind(fd, (const struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 1))
		die("listen", path);
	puts("relaying");
	fflush(stdout);
	conn = accept(fd, NULL, NULL);
	if (conn < 0)
		die("accept", path);
	close(fd);
	return conn;
}

/* false: end of file, or the other side died. */
static bool read_whole(int fd, uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = read(fd, p, len);

		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* Who does not listen any more misses it. */
static void write_whole(int fd, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = write(fd, p, len);

		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

static void end_process(pid_t pid, const char *frame)
{
	struct pollfd p = { .fd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1, .events = POLLIN };

	if (pid && (p.fd < 0 || kill(pid, SIGKILL)))
		die("kill", frame);
	/* A process can be waited for when its descriptors are closed: devices, locks and sockets are free. */
	if (pid && poll(&p, 1, GONE_MS) != 1)
		die("it does not go", frame);
	if (pid)
		close(p.fd);
	printf("%d killed at %s\n", (int)pid, frame);
	fflush(stdout);
}

static int relay(int argc, char **argv)
{
	static uint8_t frame[HEADER + FRAME_MAX];
	struct pollfd side[2];
	bool killed = false, drop = argc == 7;
	pid_t pid = (pid_t)strtol(argv[5], NULL, 10);
	size_t kind = 0;

	while (kind < 4 && strcmp(kinds[kind].name, argv[4]) != 0)
		kind++;
	if (kind == 4 || pid < 0 || pid == 1) {
		fprintf(stderr, "migrate_probe: which frame, whom?\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	side[0] = (struct pollfd){ .fd = answer(argv[2]), .events = POLLIN };
	side[1] = (struct pollfd){ .fd = dial(argv[3]), .events = POLLIN };
	while (side[0].events || side[1].events) {
		/* One that has ended is not looked at: poll() tells of a hang-up unasked. */
		struct pollfd look[2] = { { .fd = side[0].events ? side[0].fd : -1, .events = POLLIN },
					  { .fd = side[1].events ? side[1].fd : -1, .events = POLLIN } };

		if (poll(look, 2, -1) < 0)
			die("poll", "relay");
		for (int i = 0; i < 2; i++) {
			uint32_t len = 0;

			if (!look[i].revents)
				continue;
			if (!read_whole(side[i].fd, frame, HEADER)) {
				shutdown(side[!i].fd, SHUT_WR);
				side[i].events = 0;
				continue;
			}
			for (int b = 3; b >= 0; b--)
				len = len << 8 | frame[AT_LEN + b];
			if (len > FRAME_MAX || !read_whole(side[i].fd, frame + HEADER, len)) {
				fprintf(stderr, "migrate_probe: a frame of %u bytes that is not whole\n", len);
				return 1;
			}
			if (!killed && frame[AT_TYPE] == kinds[kind].type) {
				killed = true;
				end_process(pid, argv[4]);
				if (drop)
					continue;
			}
			write_whole(side[!i].fd, frame, HEADER + len);
		}
	}
	return killed ? 0 : 1;
}

static int finish(const char *path)
{
	static const char command[] = "{\"command\":\"finish\"}\n";
	char text[256] = "";
	int fd = dial(path);

	write_whole(fd, (const uint8_t *)command, sizeof(command) - 1);
	if (read(fd, text, sizeof(text) - 1) <= 0 || !strstr(text, "\"ok\"") || !strstr(text, "true")) {
		fprintf(stderr, "migrate_probe: it answers: %s\n", text);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "finish") == 0)
		return finish(argv[2]);
	if ((argc == 6 || (argc == 7 && strcmp(argv[6], "drop") == 0)) && strcmp(argv[1], "relay") == 0)
		return relay(argc, argv);
	fprintf(stderr, "usage: migrate_probe relay LISTEN TARGET FRAME PID [drop] | finish CONTROL\n");
	return 2;
}
