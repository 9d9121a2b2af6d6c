/* SPDX-License-Identifier: BSD-3-Clause */
/* `svio nvme perf` as a process that moves: its part in a migration, and the socket over which it is told to. */
#ifndef SVIO_PERF_MOVE_H
#define SVIO_PERF_MOVE_H

#include <stdbool.h>
#include "move_peer.h"

struct perf_run;
struct perf_ballast_result;
struct perf_move;

/* Before the controller is opened: where its driver's queues lie, when it moves by its own state. */
int perf_move_driver_area(struct perf_run *r);
/* Before perf_create(): an area for it (config.area), and a control socket. */
int perf_move_start(struct perf_run *r, struct perf_move **movep);
/* Commands that came: carried out here, threads of the engine working on. */
void perf_move_poll(struct perf_move *move);
/* The run's controller is about to be closed, or another one was opened (--wait-replug). */
int perf_move_device(struct perf_move *move, bool there);
/* It runs elsewhere now. */
bool perf_move_gone(const struct perf_move *move);
/* What moves along, looked at; it is not written any more. */
void perf_move_check(const struct perf_move *move, struct perf_ballast_result *result);
/* The last word of a process that has moved away. Exit code. */
int perf_move_report(const struct perf_move *move);
void perf_move_end(struct perf_move *move); /* NULL is fine */

/* `svio migrate listen`: wait for a run, and be it. Exit code. */
int perf_move_listen(const struct move_listen *args);

#endif
