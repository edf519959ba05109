/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling the network where a guest is. Machine lock held for all of it. */
#ifndef MIGRATION_ANNOUNCE_H
#define MIGRATION_ANNOUNCE_H

#include "system/vm.h"

/* What can be asked for; ms and rounds. */
#define ANNOUNCE_INITIAL_MAX 100000
#define ANNOUNCE_MAX_MAX     100000
#define ANNOUNCE_ROUNDS_MAX  1000
#define ANNOUNCE_STEP_MAX    10000

/*
 * A guest has arrived: it is announced, as the migration parameters say, when it runs: at once, or
 * when `cont` starts it.
 */
void announce_arrival(struct vm *vm);
/* What announce_arrival() began is taken back: the guest is not here after all. */
void announce_cancel_arrival(struct vm *vm);
/* The machine has begun to run: called by vm_start(). */
void announce_machine_runs(struct vm *vm);
/* At the end of the machine. */
void announce_free(struct vm *vm);

#endif
