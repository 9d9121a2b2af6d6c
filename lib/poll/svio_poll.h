/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio poll: pollers on EAL lcores, with an interrupt fallback when there is nothing to do.
 *
 * A poller is a function that looks once at a device and returns how much it found. A loop (struct svio_loop) runs the pollers
 * of one lcore. A loop that found nothing for a while arms its pollers' interrupts (each offers an eventfd and arm/disarm) and
 * sleeps until one fires, if every poller can be armed; otherwise it keeps polling.
 *
 *	svio_loop_create() → svio_poller_add()… → svio_loop_run() in the calling thread, or svio_loop_launch() on an EAL lcore →
 *	svio_loop_stop() from anywhere → svio_loop_destroy()
 *
 * Threads: add, remove, pause and resume may be called from any thread, also while the loop runs: they take effect between two
 * rounds and return after it. Pollers run in the loop's thread, and may add and remove (also themselves).
 */
#ifndef SVIO_POLL_H
#define SVIO_POLL_H

#include "svio_vfio.h"

#ifdef __cplusplus
extern "C" {
#endif

struct svio_loop;

struct svio_loop_opts {
	size_t size;	      /* sizeof(struct svio_loop_opts) of the caller */
	uint32_t idle_rounds; /* empty rounds before interrupts are armed; 0 = never sleep */
};

struct svio_poller {
	const char *name;
	/* Look once. > 0: work done; 0: nothing; < 0: -errno, the poller is removed and `stopped` called. */
	int (*poll)(void *ctx);
	void *ctx;
	int irq_fd; /* eventfd that fires when there is work, or -1: this poller cannot sleep */
	/*
	 * Arm the interrupt. Return > 0 when work arrived meanwhile (do not sleep), 0 armed, < 0 cannot sleep now. NULL with
	 * irq_fd >= 0: armed by itself.
	 */
	int (*arm)(void *ctx);
	void (*disarm)(void *ctx);
	void (*stopped)(void *ctx, int err); /* may be NULL */
	struct svio_device *dev; /* paused by an orderly reset of this device; may be NULL */
	void *priv[4];		 /* the room's, while added */
};

int svio_loop_create(const struct svio_loop_opts *opts, struct svio_loop **loopp);
/* Pollers still there are removed. The loop must not be running. */
void svio_loop_destroy(struct svio_loop *loop);

/* The poller structure is the caller's memory until removed. */
int svio_poller_add(struct svio_loop *loop, struct svio_poller *poller);
/* When it returns the poller is not running and will not run. -ENOENT when it is not there. */
int svio_poller_remove(struct svio_loop *loop, struct svio_poller *poller);

/* Run until svio_loop_stop(), or until there are no pollers left. */
int svio_loop_run(struct svio_loop *loop);
/* One round over all pollers; the work found. For applications with a loop of their own. */
int svio_loop_once(struct svio_loop *loop);
/* Run on an EAL worker lcore (room mem must be started with it). svio_loop_join() waits for the end. */
int svio_loop_launch(struct svio_loop *loop, unsigned int lcore);
int svio_loop_join(struct svio_loop *loop);
/* Async-signal-safe. */
void svio_loop_stop(struct svio_loop *loop);

/* Hold the pollers of a device between rounds; returns when none of them runs. Nests. */
void svio_loop_pause(struct svio_loop *loop, struct svio_device *dev);
void svio_loop_resume(struct svio_loop *loop, struct svio_device *dev);

struct svio_loop_stats {
	uint64_t rounds, busy_rounds, sleeps, wakeups;
};
void svio_loop_get_stats(const struct svio_loop *loop, struct svio_loop_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
