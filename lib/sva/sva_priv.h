/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVA_PRIV_H
#define SVA_PRIV_H

#ifndef SVIO_ROOM_SVA
#error "sva_priv.h is private to lib/sva"
#endif

#include "svio_sva.h"

/* Why there is no native mode, for people: cause and remedy, into buf. err: of asking for SVA_INFO, or 0. */
void svio__sva_explain(struct svio_device *dev, const struct svio_sva_info *info, int err, char *buf, size_t len);

#endif
