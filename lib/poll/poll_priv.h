/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * poll internals.
 *
 *	loop.c		rounds, sleeping and waking: the loop's own thread
 *	member.c	who is in the loop: add, remove, pause, resume from any thread
 *	device.c	the reset hook of each device that has pollers in the loop
 *	launch.c	EAL lcores
 *
 * What the round runs over (slots) belongs to the thread that owns the loop, and to nobody else
 * while there is one. Others change `all` under the lock, raise ATTN_CHANGE, and wait until the
 * owner has rebuilt the slots between two rounds; when the loop has no owner they rebuild them
 * themselves. That both agree on who does it is Dekker's argument: the newcomer publishes itself as
 * owner and then looks at `attention`; the changer publishes ATTN_CHANGE and then looks at `owner`.
 */
#ifndef SVIO_POLL_PRIV_H
#define SVIO_POLL_PRIV_H

#ifndef SVIO_ROOM_POLL
#error "poll_priv.h belongs to room poll"
#endif

#include <pthread.h>
#include "svio_poll.h"

enum { ATTN_CHANGE = 1u << 0, ATTN_STOP = 1u << 1 };

struct poll_slot {
	int (*poll)(void *ctx);
	void *ctx;
};

/* A device with pollers in a loop. */
struct poll_dev {
	struct svio_loop *loop;
	struct svio_device *dev;
	struct svio_device_hook hook;
	struct poll_dev *next;
	uint32_t pollers;
	uint32_t pauses; /* svio_loop_pause() */
	bool held;	 /* by a reset, or because the hook is not in place yet */
	bool settled;	 /* the hook has spoken */
};

struct svio_loop {
	/* Every round reads these; written by the owner, or under the lock when there is none. */
	_Alignas(SVIO_CACHELINE) struct poll_slot *slots;
	uint32_t num_slots;
	uint32_t idle_rounds, idle;
	bool can_sleep, empty;
	struct svio_poller **who; /* whose slot it is; NULL: removed during this round */

	/* Written by others, rarely; read once a round. */
	_Alignas(SVIO_CACHELINE) _Atomic uint32_t attention;

	/* Written by the owner every round. */
	_Alignas(SVIO_CACHELINE) _Atomic uint64_t rounds;
	_Atomic uint64_t busy_rounds, sleeps, wakeups;

	/* pthread_self() of the thread inside, or 0. */
	_Alignas(SVIO_CACHELINE) _Atomic uintptr_t owner;
	_Atomic bool sleeping;
	int epoll_fd, wake_fd;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct svio_poller **all;
	uint32_t num_all, cap_all;
	struct poll_slot *spare_slots; /* of cap_all, when the slots in use are too few */
	struct svio_poller **spare_who;
	uint64_t version, applied; /* of `all` and of the slots */
	struct poll_dev *devs;
	const struct svio_device *parked; /* the owner waits for this device's lock: see device.c */
	unsigned int lcore;
	bool launched;
	_Atomic bool ended; /* the run on the lcore */
};

/* What a poller's priv[] holds. */
enum { PRIV_LOOP, PRIV_DEV };

static inline uintptr_t poll_self(void)
{
	return (uintptr_t)pthread_self();
}

static inline bool poll_is_owner(const struct svio_loop *loop)
{
	return atomic_load(&loop->owner) == poll_self();
}

/* All with the lock held. */
void poll_apply(struct svio_loop *loop);
/*
 * Something changed; it is in force when this returns, or, in the owner's thread, from the next
 * round on.
 */
void poll_changed(struct svio_loop *loop);
/* The same, content with the owner being parked on `dev`. */
void poll_changed_or_parked(struct svio_loop *loop, const struct svio_device *dev);
/* In the owner's thread: slot i is not called any more in this round. */
void poll_blank_slot(struct svio_loop *loop, uint32_t i);
/*
 * In the owner's thread: the held pollers of pd's device do not run any more, not even in this
 * round.
 */
void poll_blank_held(struct svio_loop *loop, const struct poll_dev *pd);
/* Take a poller out; *unhook is the poll_dev that it was the last of. False: not there. */
bool poll_take_out(struct svio_loop *loop, struct svio_poller *poller, struct poll_dev **unhook);

/* Without the lock: they take the device's. */
void poll_dev_hook(struct poll_dev *pd);
void poll_dev_unhook(struct poll_dev *pd);

void poll_wake(struct svio_loop *loop);

#endif
