/* SPDX-License-Identifier: BSD-3-Clause */
/* The models known by name. */
#include <pthread.h>
#include <string.h>
#include "svio_vdev.h"

#define MAX_MODELS 32

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct svio_vdev_model *models[MAX_MODELS];

int svio_vdev_model_register(const struct svio_vdev_model *model)
{
	int err = -ENOSPC;

	if (!model || !model->name || !model->name[0] || strpbrk(model->name, ",=") || !model->init)
		return svio_fail(EINVAL,
				 "a device model needs a name without ',' and '=', and an init()");
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < MAX_MODELS; i++) {
		if (!models[i]) {
			models[i] = model;
			err = 0;
			break;
		}
		if (strcmp(models[i]->name, model->name) == 0) {
			err = models[i] == model ? 0 : -EEXIST;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	if (err == -EEXIST)
		return svio_fail(err, "there is another device model named %s", model->name);
	if (err)
		return svio_fail(err, "more than %d device models", MAX_MODELS);
	return 0;
}

const struct svio_vdev_model *svio_vdev_model_at(unsigned int i)
{
	const struct svio_vdev_model *model;

	if (i >= MAX_MODELS)
		return NULL;
	pthread_mutex_lock(&lock);
	model = models[i];
	pthread_mutex_unlock(&lock);
	return model;
}

const struct svio_vdev_model *svio_vdev_model_find(const char *name)
{
	const struct svio_vdev_model *model;

	for (unsigned int i = 0; (model = svio_vdev_model_at(i)); i++)
		if (strcmp(model->name, name) == 0)
			return model;
	return NULL;
}
