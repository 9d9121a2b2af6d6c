/* SPDX-License-Identifier: BSD-3-Clause */
/* The lock of the dirty set. */
#include <pthread.h>
#include "dirty_priv.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void svio__dirty_lock(void)
{
	pthread_mutex_lock(&lock);
}

void svio__dirty_unlock(void)
{
	pthread_mutex_unlock(&lock);
}
