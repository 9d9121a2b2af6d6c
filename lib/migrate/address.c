/* SPDX-License-Identifier: BSD-3-Clause */
/* "unix:PATH" and "tcp:HOST:PORT". */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "migrate_priv.h"

static int unix_address(const char *path, struct sockaddr_un *sa)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (!*path || strlen(path) >= sizeof(sa->sun_path))
		return svio_fail(EINVAL, "unix:%s: a path of 1 to %zu bytes", path, sizeof(sa->sun_path) - 1);
	strcpy(sa->sun_path, path);
	return 0;
}

static int unix_socket(const char *path, bool listening, int *fdp)
{
	struct sockaddr_un sa;
	int rc = unix_address(path, &sa), fd;

	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return svio_fail(errno, "unix:%s: %m", path);
	if (!listening)
		rc = connect(fd, (struct sockaddr *)&sa, sizeof(sa));
	else
		rc = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	if (rc && listening && errno == EADDRINUSE) {
		struct stat st;
		int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		/* Left behind by a process that is gone? */
		if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && connect(probe, (struct sockaddr *)&sa, sizeof(sa)) &&
		    errno == ECONNREFUSED && unlink(path) == 0)
			rc = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
		else
			errno = EADDRINUSE;
		close(probe);
	}
	if (!rc && listening) {
		chmod(path, 0600);
		rc = listen(fd, 8);
	}
	if (rc) {
		rc = svio_fail(errno, "unix:%s: %s%s", path, strerror(errno),
			       listening ? "" : "; does 'svio migrate listen' run there?");
		close(fd);
		return rc;
	}
	*fdp = fd;
	return 0;
}

static int tcp_try(const struct addrinfo *ai, bool listening)
{
	int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol), one = 1, err;

	if (fd < 0)
		return -errno;
	if (listening)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	else
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (listening ? bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 8) : connect(fd, ai->ai_addr, ai->ai_addrlen)) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

static int tcp_socket(const char *text, bool listening, int *fdp)
{
	struct addrinfo want = { .ai_socktype = SOCK_STREAM, .ai_flags = listening ? AI_PASSIVE : 0 }, *list;
	const char *colon = strrchr(text, ':');
	char host[256];
	int rc, fd = -EINVAL;

	if (!colon || (size_t)(colon - text) >= sizeof(host))
		return svio_fail(EINVAL, "tcp:%s: must be tcp:HOST:PORT", text);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	if (host[0] == '[' && host[strlen(host) - 1] == ']') { /* [::1] */
		host[strlen(host) - 1] = '\0';
		memmove(host, host + 1, strlen(host));
	}
	rc = getaddrinfo(*host ? host : NULL, colon + 1, &want, &list);
	if (rc)
		return svio_fail(EINVAL, "tcp:%s: %s", text, gai_strerror(rc));
	for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = tcp_try(ai, listening);
	freeaddrinfo(list);
	if (fd < 0)
		return svio_fail(-fd, "tcp:%s: %s%s", text, strerror(-fd), listening ? "" : "; does 'svio migrate listen' run there?");
	*fdp = fd;
	return 0;
}

static int open_address(const char *address, bool listening, int *fd)
{
	if (strncmp(address, "unix:", 5) == 0)
		return unix_socket(address + 5, listening, fd);
	if (strncmp(address, "tcp:", 4) == 0)
		return tcp_socket(address + 4, listening, fd);
	return svio_fail(EINVAL, "%s: must be unix:PATH or tcp:HOST:PORT", address);
}

int svio_migrate_connect(const char *address, int *fd)
{
	return open_address(address, false, fd);
}

int svio_migrate_listen(const char *address, int *fd)
{
	return open_address(address, true, fd);
}
