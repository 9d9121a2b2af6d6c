/* SPDX-License-Identifier: BSD-3-Clause */
/* A simulated device: a device, its server and a thread, inside of the client's process. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "vdev_priv.h"

struct svio_vdev_sim {
	struct svio_vdev *dev;
	struct svio_vdev_server *srv;
	pthread_t thread;
};

static void *loop(void *arg)
{
	struct svio_vdev_sim *sim = arg;
	int err = svio_vdev_server_run(sim->srv);

	if (err)
		svio_log_err("sim: the device's loop ended: %d", err);
	return NULL;
}

int svio_vdev_sim_start(const char *spec, uint32_t flags, int *client_fd,
			struct svio_vdev_sim **simp)
{
	struct svio_vdev_sim *sim;
	sigset_t all, old;
	int pair[2], err;

	sim = calloc(1, sizeof(*sim));
	if (!sim)
		return -ENOMEM;
	err = svio_vdev_create(spec, flags | SVIO_VDEV_TRUST_CLIENT, &sim->dev);
	if (err)
		goto out_free;
	err = svio_vdev_server_create(NULL, &sim->srv);
	if (err)
		goto out_dev;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		err = -errno;
		goto out_srv;
	}
	err = svio_vdev_server_attach(sim->srv, sim->dev, pair[1]);
	if (err)
		goto out_pair;
	/* Signals are the application's: none is delivered to this thread. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&sim->thread, NULL, loop, sim);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		goto out_pair;
	*client_fd = pair[0];
	*simp = sim;
	return 0;
out_pair:
	close(pair[0]);
out_srv:
	svio_vdev_server_destroy(sim->srv);
out_dev:
	svio_vdev_destroy(sim->dev);
out_free:
	free(sim);
	return err;
}

void svio_vdev_sim_stop(struct svio_vdev_sim *sim)
{
	if (!sim)
		return;
	svio_vdev_server_stop(sim->srv);
	pthread_join(sim->thread, NULL);
	svio_vdev_server_destroy(sim->srv);
	svio_vdev_destroy(sim->dev);
	free(sim);
}
