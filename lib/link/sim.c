/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where the client's rooms and the device kit meet. Neither knows the other; the library that contains both introduces them here:
 * room vfio asks for a simulated device by name, and the kit makes one of the models that the library has.
 */
#include "svio_dsa_model.h"
#include "svio_edu_model.h"
#include "svio_nvme_model.h"
#include "svio_link.h"

int svio__sim_start(const char *spec, int *fd, void **sim);
void svio__sim_stop(void *sim);

int svio_models_register(void)
{
	static const struct svio_vdev_model *const models[] = { &svio_dsa_model, &svio_edu_model, &svio_nvme_model };
	int err = 0;

	for (size_t i = 0; i < SVIO_ARRAY_SIZE(models) && !err; i++)
		err = svio_vdev_model_register(models[i]);
	return err;
}

int svio__sim_start(const char *spec, int *fd, void **sim)
{
	struct svio_vdev_sim *s;
	int err = svio_models_register();

	if (!err)
		err = svio_vdev_sim_start(spec, 0, fd, &s);
	if (!err)
		*sim = s;
	return err;
}

void svio__sim_stop(void *sim)
{
	svio_vdev_sim_stop(sim);
}
