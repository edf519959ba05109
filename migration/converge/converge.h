/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a guest slow enough for its link: what the outgoing side calls. Migration thread, no locks,
 * unless said otherwise.
 */
#ifndef MIGRATION_CONVERGE_CONVERGE_H
#define MIGRATION_CONVERGE_CONVERGE_H

#include <stdbool.h>

struct migration_round;
struct outgoing;

/* While a round is sent, after each slice: looks now and then how fast memory changes. Cheap. */
void converge_tick(struct outgoing *out);
/* A round has ended (sent, drained, synchronised): may set the throttle or the limit. */
void converge_round(struct outgoing *out, const struct migration_round *round);
/* The migration ends, in whatever way: lifts both at once. Before the guest is given back; machine
 * lock held or not. More than once does no harm. */
void converge_stop(struct outgoing *out);

#endif
