/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svio poll: pollers on EAL lcores, with an interrupt fallback when there is nothing to do.
 *
 * A poller is a function that looks once at a device and returns how much it found. A loop (struct
 * svio_loop) runs the pollers of one thread, usually an EAL lcore. A loop that found nothing for a
 * while arms its pollers' interrupts (each offers an eventfd and arm/disarm) and sleeps until one
 * fires, if every poller can be armed; otherwise it keeps polling.
 *
 *	svio_loop_create() → svio_poller_add()… →
 *	svio_loop_run() in the calling thread, or svio_loop_launch() on an EAL lcore →
 *	svio_loop_stop() from anywhere → svio_loop_join() → svio_loop_destroy()
 *
 * A round costs one load of a line that nobody writes, and one indirect call per poller from a
 * contiguous array.
 *
 * Orderly resets. A poller that names its device is held while svio_device_reset() and its like
 * work on it (stage SVIO_HOOK_POLL): the reset begins when none of the device's pollers runs, and
 * they go on after it. Between svio_device_set_memory(false) and (true) they are held, too, those
 * that are added meanwhile included. A reset may be called from a poller; then that one alone is
 * running, and knows.
 *
 * Threads. Add, remove, pause and resume may be called from any thread, also while the loop runs:
 * they take effect between two rounds and return after it. Called from one of the loop's own
 * pollers they take effect at once, except that what is added or resumed waits for the next round.
 * They may sleep for as long as a round takes. Not from hooks of a device: add and remove take its
 * lock. Pollers of two loops must not at the same time wait for each other's loop.
 *
 * SIGBUS is unblocked in the thread of svio_loop_run(), for room mmio's guard; a caller of
 * svio_loop_once() sees to it.
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
	uint32_t idle_rounds; /* empty rounds in a row before interrupts are armed; 0 = never */
};

struct svio_poller {
	const char *name; /* for messages; may be NULL */
	/*
	 * Look once. > 0: work done; 0: nothing; < 0: -errno, the poller is removed and `stopped`
	 * called.
	 */
	int (*poll)(void *ctx);
	void *ctx;
	/*
	 * Becomes readable when there is work, or -1: this poller cannot sleep, and neither can its
	 * loop. Waited for edge-triggered (epoll(7)): an eventfd needs no read, what is written
	 * while the loop polls costs at most one idle wake-up. Several pollers may name the same
	 * one. It stays open until the poller is removed.
	 */
	int irq_fd;
	/*
	 * Arm the interrupt, then look again. Return 0: armed; > 0: work arrived meanwhile, not
	 * armed, do not sleep; < 0: not armed, cannot sleep now. NULL with irq_fd >= 0: the fd
	 * needs no arming, and fires for every piece of work.
	 */
	int (*arm)(void *ctx);
	/* After arm() gave 0. May be NULL. */
	void (*disarm)(void *ctx);
	/* After poll() gave err < 0, in the loop's thread. May be NULL. */
	void (*stopped)(void *ctx, int err);
	struct svio_device *dev; /* held by an orderly reset of this device; may be NULL */
	void *priv[4];		 /* the room's, while added */
};

/* opts may be NULL. -ENOMEM, -EMFILE and the like. */
int svio_loop_create(const struct svio_loop_opts *opts, struct svio_loop **loopp);
/*
 * Pollers still there are removed; their stopped() is not called. The loop must not be running.
 * loop may be NULL.
 */
void svio_loop_destroy(struct svio_loop *loop);

/*
 * The poller structure is the caller's memory, and must not change, until it is removed. Its
 * device, if any, must stay open as long. -EINVAL no poll function, -EEXIST it is there, -ENOMEM,
 * -EPERM irq_fd is of a kind that epoll cannot wait for.
 */
int svio_poller_add(struct svio_loop *loop, struct svio_poller *poller);
/*
 * When it returns the poller is not running and will not run, unless it is the one that called.
 * -ENOENT when it is not there, for instance because it failed: also then it is not running any
 * more, and stopped() has returned.
 */
int svio_poller_remove(struct svio_loop *loop, struct svio_poller *poller);

/*
 * Run until svio_loop_stop(), or until there are no pollers left (held ones count). 0, or -EBUSY
 * when it runs already.
 */
int svio_loop_run(struct svio_loop *loop);
/*
 * One round over all pollers; the work found. For applications with a loop of their own; never
 * sleeps. -EBUSY as above.
 */
int svio_loop_once(struct svio_loop *loop);
/*
 * svio_loop_run() on an EAL worker lcore. -ENODEV EAL is not started, -EINVAL not a worker, -EBUSY
 * the lcore or the loop is busy. svio_loop_join() waits for the end and returns what the run
 * returned, -EINVAL when it was not launched.
 */
int svio_loop_launch(struct svio_loop *loop, unsigned int lcore);
int svio_loop_join(struct svio_loop *loop);
/*
 * End the run after the current round. Async-signal-safe. Sticky: when the loop is not running, the
 * next svio_loop_run() makes no round, so that a stop is not lost to a launch that has not begun.
 */
void svio_loop_stop(struct svio_loop *loop);

/*
 * Hold the pollers of a device between rounds; returns when none of them runs. Nests, also with
 * resets. A device that has no pollers in the loop has nothing to hold; holding ends when the last
 * is removed.
 */
void svio_loop_pause(struct svio_loop *loop, struct svio_device *dev);
void svio_loop_resume(struct svio_loop *loop, struct svio_device *dev);

/* Since creation. Each number is exact, the four are not of one moment. Any thread. */
struct svio_loop_stats {
	uint64_t rounds, busy_rounds, sleeps, wakeups;
};
void svio_loop_get_stats(const struct svio_loop *loop, struct svio_loop_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
