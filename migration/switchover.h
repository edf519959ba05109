/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The steps that a switchover has with and without post-copy. The migration thread. */
#ifndef MIGRATION_SWITCHOVER_H
#define MIGRATION_SWITCHOVER_H

#include "migration/internal.h"

/*
 * From a running guest to status device: stops it, asks the operator where that is wanted. False
 * with *again: the guest asked for a reset or a shutdown meanwhile, which goes first. False with
 * *err: it failed or was cancelled; the caller gives the guest back.
 */
bool switchover_stop(struct outgoing *out, bool *again, GError **err);
/* Ends a part of the pause. */
void switchover_pause_part(struct outgoing *out, enum pause_part part);
/* From here on no cancel; false: one came just before. */
bool switchover_commit(struct outgoing *out, GError **err);
/* The destination is known not to run the guest: it is ours again. */
void switchover_uncommit(struct outgoing *out);
/* Queues GO. */
void switchover_put_go(struct outgoing *out);
/* Queues GO and writes it out. False: if nothing of it has left, the guest is ours again. */
bool switchover_go(struct outgoing *out, GError **err);
/* The guest runs over there: the pause is over. */
void switchover_end_pause(struct outgoing *out);

#endif
