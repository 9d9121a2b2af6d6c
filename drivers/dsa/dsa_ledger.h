/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations in flight, written down and read again: for both ways of moving (dsa_migrate.c, dsa_state.c). */
#ifndef DSA_LEDGER_H
#define DSA_LEDGER_H

#include "dsa_priv.h"

int dsa_ledger_save(struct svio_dsa_wq *wq, uint32_t id, const struct svio_dsa_move *move, struct svio_migrate_buf *out);
/*
 * The operation becomes one in flight, with the next seq; its number is what the record says. -EINVAL without words for what makes no
 * sense. What was taken so far stays: dsa_ledger_clear().
 */
int dsa_ledger_load(struct svio_dsa_wq *wq, const struct svio_dsa_move *move, struct svio_migrate_in *in, uint32_t *id);
void dsa_ledger_clear(struct svio_dsa_wq *wq);
/* Are the addresses that the device was told those of the process? */
bool dsa_ledger_identical(struct svio_dsa_wq *wq);

#endif
