/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rounds of memory of an outgoing migration; see migration/rounds.c. */
#ifndef MIGRATION_ROUNDS_H
#define MIGRATION_ROUNDS_H

#include <glib.h>
#include <stdbool.h>

struct outgoing;

/* Rounds until it is time for the switchover or for post-copy, or until the guest stands. False and
 * *err: it failed, was cancelled or given up. The migration thread, no lock held. */
bool rounds_run(struct outgoing *out, GError **err);

#endif
