/* SPDX-License-Identifier: BSD-3-Clause */
/* Loops on EAL lcores. */
#include <string.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include "poll_priv.h"

static int lcore_main(void *arg)
{
	struct svio_loop *loop = arg;
	int rc = svio_loop_run(loop);

	/*
	 * Orders the run before the join by itself: EAL's own ordering is invisible to
	 * ThreadSanitizer.
	 */
	atomic_store(&loop->ended, true);
	return rc;
}

int svio_loop_launch(struct svio_loop *loop, unsigned int lcore)
{
	int rc;

	if (rte_lcore_count() == 0)
		return svio_fail(ENODEV, "lcore %u: EAL is not started; call svio_mem_start()",
				 lcore);
	if (lcore >= RTE_MAX_LCORE || !rte_lcore_is_enabled(lcore))
		return svio_fail(EINVAL,
				 "lcore %u is not one of EAL's %u; name it in svio_mem_opts.lcores",
				 lcore, rte_lcore_count());
	if (lcore == rte_get_main_lcore())
		return svio_fail(EINVAL, "lcore %u is EAL's main lcore; call svio_loop_run() there",
				 lcore);
	pthread_mutex_lock(&loop->lock);
	if (loop->launched) {
		rc = svio_fail(EBUSY, "poll loop: it is launched on lcore %u", loop->lcore);
	} else {
		atomic_store(&loop->ended, false);
		rc = rte_eal_remote_launch(lcore_main, loop, lcore);
		if (rc == 0) {
			loop->launched = true;
			loop->lcore = lcore;
		} else {
			rc = svio_fail(rc, "lcore %u: %s", lcore,
				       rc == -EBUSY ? "it is running something else"
						    : strerror(-rc));
		}
	}
	pthread_mutex_unlock(&loop->lock);
	return rc;
}

int svio_loop_join(struct svio_loop *loop)
{
	bool launched;
	int rc;

	pthread_mutex_lock(&loop->lock);
	launched = loop->launched;
	pthread_mutex_unlock(&loop->lock);
	if (!launched)
		return svio_fail(EINVAL, "poll loop: it is not launched on an lcore");
	rc = rte_eal_wait_lcore(loop->lcore);
	pthread_mutex_lock(&loop->lock);
	if (atomic_load(&loop->ended))
		loop->launched = false;
	pthread_mutex_unlock(&loop->lock);
	return rc;
}
