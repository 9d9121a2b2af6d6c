// SPDX-License-Identifier: GPL-2.0
/*
 * Engines: threads that take descriptors from the WQs of their group and execute them, one at a time. The
 * order is that of the WQ, by priority among WQs; completions of a group with several engines overtake each
 * other.
 */
#include <linux/kthread.h>
#include <linux/slab.h>

#include "simdev.h"

/* The poller's: d was stored to the portal of wq. */
void sim_submit(struct sim_dev *sd, struct sim_wq *wq, const struct dsa_desc *d)
{
	struct sim_desc *new = kmalloc(sizeof(*new), GFP_KERNEL);
	bool full;

	sim_count(sd, descriptors);
	if (!new) {
		sim_count(sd, wq_overflow);
		return;
	}
	new->d = *d;
	new->running = false;
	spin_lock(&sd->queue_lock);
	/* An engine takes a descriptor out of the WQ; who sees it completed may submit another. */
	full = wq->queued >= wq->size;
	if (!full) {
		new->seq = wq->seq++;
		wq->num++;
		wq->queued++;
		list_add_tail(&new->node, &wq->live);
	}
	spin_unlock(&sd->queue_lock);
	if (full) {
		sim_count(sd, wq_overflow);
		kfree(new);
		return;
	}
	wake_up_all(&sd->work_wait);
}

/* Queued descriptors below that number, which no engine has taken, go. */
void sim_abandon_queued(struct sim_dev *sd, struct sim_wq *wq, u64 below)
{
	struct sim_desc *d, *next;

	spin_lock(&sd->queue_lock);
	list_for_each_entry_safe(d, next, &wq->live, node) {
		if (d->running || d->seq >= below)
			continue;
		list_del(&d->node);
		wq->num--;
		wq->queued--;
		kfree(d);
		sim_count(sd, abandoned);
	}
	spin_unlock(&sd->queue_lock);
}

/* Is what rq executes to be given up? waiting: also while it waits for a page. */
bool sim_cancelled(struct sim_req *rq, bool waiting)
{
	u64 seq = rq->desc->seq;

	return READ_ONCE(rq->sd->abandon) || seq < READ_ONCE(rq->wq->reset_below) ||
	       (!waiting && seq < READ_ONCE(rq->wq->abort_below));
}

/* Between two steps of an operation: stands still for as long as debugfs says so. -ECANCELED, or 0. */
int sim_pause(struct sim_req *rq)
{
	struct sim_dev *sd = rq->sd;

	cond_resched();
	if (READ_ONCE(sd->inject.stall))
		wait_event_idle(sd->work_wait, !READ_ONCE(sd->inject.stall) || sim_cancelled(rq, false));
	return sim_cancelled(rq, false) ? -ECANCELED : 0;
}

int sim_delay(struct sim_req *rq, u32 us)
{
	if (us)
		wait_event_idle_timeout(rq->sd->work_wait, sim_cancelled(rq, true), usecs_to_jiffies(us));
	return sim_cancelled(rq, true) ? -ECANCELED : 0;
}

/* The next descriptor for an engine, by priority and then in turn. */
static struct sim_desc *next_desc(struct sim_engine *eng, struct sim_wq **from)
{
	int group = READ_ONCE(eng->group);
	struct sim_dev *sd = eng->sd;
	struct sim_desc *best = NULL, *d;

	if (group < 0 || READ_ONCE(sd->inject.stall))
		return NULL;
	spin_lock(&sd->queue_lock);
	for (unsigned int i = 0; i < SIM_WQS; i++) {
		struct sim_wq *wq = &sd->wq[(eng->next_wq + i) % SIM_WQS];

		if (READ_ONCE(wq->group) != group || (best && wq->priority <= (*from)->priority))
			continue;
		list_for_each_entry(d, &wq->live, node) {
			if (d->running)
				continue;
			best = d;
			*from = wq;
			break;
		}
	}
	if (best) {
		best->running = true;
		(*from)->queued--;
		eng->next_wq = *from - sd->wq + 1;
	}
	spin_unlock(&sd->queue_lock);
	return best;
}

static void set_busy(struct sim_engine *eng, u32 pasid)
{
	spin_lock(&eng->sd->lock);
	eng->busy_pasid = pasid;
	spin_unlock(&eng->sd->lock);
}

static void run(struct sim_engine *eng, struct sim_wq *wq, struct sim_desc *desc)
{
	struct sim_dev *sd = eng->sd;
	struct sim_req rq = {
		.eng = eng, .sd = sd, .wq = wq, .desc = desc, .d = desc->d, .batch_index = -1,
		.pasid = wq->pasid_en ? wq->pasid : IOMMU_NO_PASID,
	};
	int status;

	set_busy(eng, rq.pasid == IOMMU_NO_PASID ? SIM_IDLE : rq.pasid);
	status = sim_delay(&rq, READ_ONCE(sd->inject.descriptor_delay_us));
	if (!status)
		status = sim_execute(&rq);
	if (status >= 0)
		status = sim_complete(&rq, status);
	set_busy(eng, SIM_IDLE);
	if (status < 0)
		sim_count(sd, abandoned);
	spin_lock(&sd->queue_lock);
	list_del(&desc->node);
	wq->num--;
	spin_unlock(&sd->queue_lock);
	kfree(desc);
	wake_up_all(&sd->work_wait); /* a drain descriptor may wait for it */
}

int sim_engine(void *arg)
{
	struct sim_engine *eng = arg;
	struct sim_dev *sd = eng->sd;
	struct sim_desc *desc;
	struct sim_wq *wq = NULL;

	while (!kthread_should_stop()) {
		desc = NULL;
		wait_event_idle(sd->work_wait, kthread_should_stop() || (desc = next_desc(eng, &wq)));
		if (desc)
			run(eng, wq, desc);
	}
	return 0;
}
