/* SPDX-License-Identifier: BSD-3-Clause */
/* Descriptors that travel with bytes over a unix socket: SCM_RIGHTS, unix(7), cmsg(3). */
#ifndef SVIO_RIGHTS_H
#define SVIO_RIGHTS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for the control data of so many. */
#define SVIO__RIGHTS(max)                              \
	union {                                        \
		char buf[CMSG_SPACE((max) * sizeof(int))]; \
		struct cmsghdr align;                  \
	}

/* They leave with the next byte of msg that is sent. `control`: an SVIO__RIGHTS() for at least num of them, num > 0. */
static inline void svio__rights_put(struct msghdr *msg, void *control, const int *fds, uint32_t num)
{
	size_t len = num * sizeof(*fds);
	struct cmsghdr *c;

	memset(control, 0, CMSG_SPACE(len));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(len);
	c = CMSG_FIRSTHDR(msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), fds, len);
}

/*
 * What came with a message goes behind the *num that are in fds, and is the caller's to close. False: there were more than max of them, or
 * than this process may have (MSG_CTRUNC); those that do not fit are closed.
 */
static inline bool svio__rights_take(struct msghdr *msg, int *fds, uint32_t max, uint32_t *num)
{
	bool all = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t len = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; at + sizeof(int) <= len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
			if (*num < max) {
				fds[(*num)++] = fd;
			} else {
				close(fd);
				all = false;
			}
		}
	}
	return all;
}

#endif
