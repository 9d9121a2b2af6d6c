/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVA_PRIV_H
#define SVA_PRIV_H

#ifndef SVIO_ROOM_SVA
#error "sva_priv.h is private to lib/sva"
#endif

#include <sys/types.h>
#include "svio_sva.h"

/*
 * Let the process in that will read and write this one's memory, if there is one: the server of a vfio-user device. 0, and *tracer
 * is to be given to svio__ptracer_revoke() if it is not 0; or why it could not be let in, which it may not need.
 */
int svio__sva_let_in(struct svio_device *dev, pid_t *tracer);

/* Why the server may not reach this process's memory; tracer_err: svio__sva_let_in()'s. */
#define SVIO__SVA_ACCESS_MAX 256
void svio__sva_explain_access(int tracer_err, char *buf, size_t len);

/* Why there is no native mode, for people: cause and remedy, into buf. err: of asking for SVA_INFO, or 0. */
void svio__sva_explain(struct svio_device *dev, const struct svio_sva_info *info, int err, int tracer_err, char *buf, size_t len);

#endif
