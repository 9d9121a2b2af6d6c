/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Flush without waiting. fdatasync() on a busy disk takes seconds, and a server that waits in it answers nobody: clients take it for
 * dead after 5 s. One thread of a controller does it; requests hold a ticket and complete in a later poll.
 *
 * Everything asked for before a pass begins is covered by it, so that many flushes cost one. What the server's thread has stored
 * before it asked is in the page cache by then (the lock orders the two). The thread touches the stores' descriptors
 * and this structure, never a request: a reset drops those while it works.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "nvme_model.h"

struct nm_sync {
	struct svio_vdev *dev;
	struct nm_ns *ns;
	uint32_t nns;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t asked_for;
	bool stop;
	uint64_t asked, done; /* tickets */
	uint32_t wanted;      /* namespaces, by bit, since the last pass began */
	int err[NM_MAX_NS];   /* of passes that have ended, until they are told */
};

static void *sync_main(void *arg)
{
	struct nm_sync *s = arg;
	uint64_t ticket;
	uint32_t wanted;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->stop && s->asked == s->done)
			pthread_cond_wait(&s->asked_for, &s->lock);
		if (s->asked == s->done)
			break;
		ticket = s->asked;
		wanted = s->wanted;
		s->wanted = 0;
		for (uint32_t i = 0; i < s->nns; i++) {
			int err;

			if (!(wanted >> i & 1))
				continue;
			pthread_mutex_unlock(&s->lock);
			err = svio__nm_store_flush(&s->ns[i].store);
			pthread_mutex_lock(&s->lock);
			if (err)
				s->err[i] = err;
		}
		s->done = ticket;
		svio_vdev_kick(s->dev);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static struct nm_sync *sync_start(struct nm *m)
{
	struct nm_sync *s = calloc(1, sizeof(*s));
	sigset_t all, old;
	int err;

	if (!s)
		return NULL;
	s->dev = m->dev;
	s->ns = m->ns;
	s->nns = m->nns;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->asked_for, NULL);
	sigfillset(&all); /* the server's signals are its thread's */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&s->thread, NULL, sync_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		pthread_mutex_destroy(&s->lock);
		pthread_cond_destroy(&s->asked_for);
		free(s);
		return NULL;
	}
	return s;
}

int svio__nm_sync_ask(struct nm *m, uint32_t namespaces, uint64_t *ticket)
{
	int err = 0;

	*ticket = 0;
	for (uint32_t i = 0; i < m->nns; i++)
		if (!m->ns[i].store.is_file || m->ns[i].store.readonly)
			namespaces &= ~(UINT32_C(1) << i);
	if (!namespaces)
		return 0;
	if (!m->sync)
		m->sync = sync_start(m);
	if (!m->sync) { /* no thread to be had: it takes as long as the disk does */
		for (uint32_t i = 0; i < m->nns && !err; i++)
			if (namespaces >> i & 1)
				err = svio__nm_store_flush(&m->ns[i].store);
		return err;
	}
	pthread_mutex_lock(&m->sync->lock);
	*ticket = ++m->sync->asked;
	m->sync->wanted |= namespaces;
	pthread_cond_signal(&m->sync->asked_for);
	pthread_mutex_unlock(&m->sync->lock);
	return 0;
}

void svio__nm_sync_look(struct nm *m)
{
	struct nm_sync *s = m->sync;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	m->synced = s->done;
	for (uint32_t i = 0; i < m->nns; i++) {
		if (s->err[i])
			m->sync_err[i] = s->err[i];
		s->err[i] = 0;
	}
	pthread_mutex_unlock(&s->lock);
}

void svio__nm_sync_end(struct nm *m)
{
	struct nm_sync *s = m->sync;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->asked_for);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL); /* what was asked for is done first */
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->asked_for);
	free(s);
	m->sync = NULL;
}
