/* SPDX-License-Identifier: BSD-3-Clause */
/* SIMULATED: as much of room poll as a thread that polls a few queues needs. */
#include <stdlib.h>
#include "svio_poll.h"

#define MAX_POLLERS 64

struct svio_loop {
	_Atomic bool stop;
	struct svio_poller *pollers[MAX_POLLERS];
	uint32_t count;
};

int svio_loop_create(const struct svio_loop_opts *opts, struct svio_loop **loopp)
{
	(void)opts;
	*loopp = calloc(1, sizeof(**loopp));
	return *loopp ? 0 : -ENOMEM;
}

void svio_loop_destroy(struct svio_loop *loop)
{
	free(loop);
}

int svio_poller_add(struct svio_loop *loop, struct svio_poller *poller)
{
	if (loop->count == MAX_POLLERS)
		return -ENOSPC;
	loop->pollers[loop->count++] = poller;
	return 0;
}

int svio_loop_run(struct svio_loop *loop)
{
	while (loop->count && !atomic_exchange(&loop->stop, false))
		for (uint32_t i = 0; i < loop->count;) {
			struct svio_poller *p = loop->pollers[i];
			int rc = p->poll(p->ctx);

			if (rc >= 0) {
				i++;
				continue;
			}
			loop->pollers[i] = loop->pollers[--loop->count];
			if (p->stopped)
				p->stopped(p->ctx, rc);
		}
	return 0;
}

void svio_loop_stop(struct svio_loop *loop)
{
	atomic_store(&loop->stop, true);
}
