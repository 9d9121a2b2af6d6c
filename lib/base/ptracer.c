/* SPDX-License-Identifier: BSD-3-Clause */
/* prctl(PR_SET_PTRACER): one place in the kernel, shared by the rooms. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "ptracer.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner;   /* the process that the rest is about: a child of fork inherits the words, not the kernel's side */
static pid_t allowed; /* valid while count */
static unsigned int count;
static bool borrowed; /* the kernel's place holds somebody else for a moment */

int svio__ptracer_scope(void)
{
	FILE *f = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
	int scope = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%d", &scope) != 1)
		scope = 0;
	fclose(f);
	return scope;
}

static int name(pid_t pid)
{
	if (!prctl(PR_SET_PTRACER, pid, 0, 0, 0))
		return 0;
	return errno == EINVAL ? -ESRCH : -errno; /* EINVAL: no such process; Yama itself is there */
}

static void own(void)
{
	pid_t self = getpid();

	if (owner == self)
		return;
	owner = self;
	count = 0;
	borrowed = false;
}

int svio__ptracer_allow(pid_t pid)
{
	int err = 0;

	if (svio__ptracer_scope() != 1)
		return 0;
	pthread_mutex_lock(&lock);
	own();
	if (count && allowed != pid)
		err = -EBUSY;
	else if (!count && !borrowed)
		err = name(pid);
	if (!err) {
		allowed = pid;
		count++;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

void svio__ptracer_revoke(pid_t pid)
{
	pthread_mutex_lock(&lock);
	own();
	/* Not counted: it was let in at a scope that asks for nothing. */
	if (count && allowed == pid && --count == 0 && !borrowed)
		name(0);
	pthread_mutex_unlock(&lock);
}

void svio__ptracer_borrow(pid_t pid)
{
	pthread_mutex_lock(&lock);
	own();
	borrowed = true;
	name(pid); /* without Yama it fails, and is not needed */
	pthread_mutex_unlock(&lock);
}

void svio__ptracer_return(void)
{
	pthread_mutex_lock(&lock);
	borrowed = false;
	name(count ? allowed : 0);
	pthread_mutex_unlock(&lock);
}
