/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines of JSON over a unix socket; see control.h. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "control.h"
#include "rights.h"
#include "svio_migrate.h"

#define MAX_FDS 2

int control_path(long pid, bool make, char path[CONTROL_PATH])
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	char dir[CONTROL_PATH - 24];
	struct stat st;
	int n;

	if (run && *run == '/')
		n = snprintf(dir, sizeof(dir), "%s/svio", run);
	else
		n = snprintf(dir, sizeof(dir), "/tmp/svio-%u", (unsigned int)getuid());
	if (n < 0 || (size_t)n >= sizeof(dir))
		return svio_fail(ENAMETOOLONG, "XDG_RUNTIME_DIR is too long for a socket's path: name one");
	if (make && mkdir(dir, 0700) && errno != EEXIST)
		return svio_fail(errno, "%s: %s", dir, strerror(errno));
	/* /tmp is everybody's. */
	if (lstat(dir, &st) == 0 && (!S_ISDIR(st.st_mode) || st.st_uid != getuid() || (st.st_mode & 077)))
		return svio_fail(EPERM, "%s: is not this user's alone: remove it", dir);
	snprintf(path, CONTROL_PATH, "%s/%ld.sock", dir, pid);
	return 0;
}

static int address_of(const char *path, char address[CONTROL_PATH + 8])
{
	snprintf(address, CONTROL_PATH + 8, "unix:%s", path);
	return 0;
}

int control_listen(const char *path, int *fd)
{
	char address[CONTROL_PATH + 8];
	int rc;

	address_of(path, address);
	rc = svio_migrate_listen(address, fd);
	if (rc == 0)
		fcntl(*fd, F_SETFL, O_NONBLOCK);
	return rc;
}

int control_connect(const char *path, int *fd)
{
	char address[CONTROL_PATH + 8];

	address_of(path, address);
	return svio_migrate_connect(address, fd);
}

int control_send(int fd, struct json_object *obj, const int *fds, unsigned int nfds)
{
	const char *text = json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PLAIN);
	SVIO__RIGHTS(MAX_FDS) control;
	struct iovec iov[2] = { { (void *)(uintptr_t)text, strlen(text) }, { (void *)(uintptr_t) "\n", 1 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	size_t left = iov[0].iov_len + 1;

	if (nfds)
		svio__rights_put(&msg, &control, fds, nfds);
	while (left) {
		ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return svio_fail(errno, "control socket: %s", strerror(errno));
		left -= (size_t)n;
		msg.msg_control = NULL;
		msg.msg_controllen = 0;
		for (int i = 0; i < 2; i++) {
			size_t k = SVIO_MIN((size_t)n, iov[i].iov_len);

			iov[i].iov_base = (char *)iov[i].iov_base + k;
			iov[i].iov_len -= k;
			n -= (ssize_t)k;
		}
	}
	return 0;
}

static int parse(const char *line, size_t len, struct json_object **obj)
{
	struct json_tokener *t = json_tokener_new();

	*obj = t ? json_tokener_parse_ex(t, line, (int)len) : NULL;
	if (t)
		json_tokener_free(t);
	if (*obj && json_object_is_type(*obj, json_type_object))
		return 0;
	json_object_put(*obj);
	*obj = NULL;
	return svio_fail(EPROTO, "control socket: a line that is no JSON object");
}

int control_receive(int fd, struct control_in *rest, uint32_t timeout_ms, struct json_object **obj, int *fds, unsigned int *nfds)
{
	uint64_t end = svio_now_ns() + timeout_ms * UINT64_C(1000000);
	unsigned int room = nfds ? *nfds : 0, none = 0;

	*obj = NULL;
	if (nfds)
		*nfds = 0;
	for (;;) {
		SVIO__RIGHTS(MAX_FDS) control;
		char *eol = memchr(rest->data, '\n', rest->len);
		struct iovec iov = { rest->data + rest->len, sizeof(rest->data) - rest->len };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control) };
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (eol) {
			size_t len = (size_t)(eol - rest->data);
			int rc = parse(rest->data, len, obj);

			rest->len -= len + 1;
			memmove(rest->data, eol + 1, rest->len);
			return rc;
		}
		if (!iov.iov_len)
			return svio_fail(EPROTO, "control socket: a line without end");
		if (timeout_ms && svio_now_ns() >= end)
			return svio_fail(ETIMEDOUT, "control socket: no answer in %u ms", timeout_ms);
		if (poll(&p, 1, timeout_ms ? 100 : 1000) <= 0) {
			if (!timeout_ms && cli_interrupted())
				return svio_fail(ECANCELED, "interrupted");
			continue;
		}
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return svio_fail(ECONNRESET, "control socket: the other side has gone");
		(void)svio__rights_take(&msg, fds, room, nfds ? nfds : &none);
		rest->len += (size_t)n;
	}
}

const char *control_text(struct json_object *obj, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(obj, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

uint64_t control_u64(struct json_object *obj, const char *key, uint64_t def)
{
	struct json_object *v;

	return json_object_object_get_ex(obj, key, &v) && json_object_is_type(v, json_type_int) ? json_object_get_uint64(v) : def;
}

bool control_bool(struct json_object *obj, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(obj, key, &v) && json_object_get_boolean(v);
}
