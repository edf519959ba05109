/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A policy at work on a running migration. Migration thread, no locks held, unless said otherwise.
 */
#ifndef MIGRATION_CONVERGE_APPLY_H
#define MIGRATION_CONVERGE_APPLY_H

#include <glib.h>
#include <stdbool.h>

struct migration_round;
struct outgoing;

/* The policy in force becomes the migration's. Before its thread starts; machine lock held. */
void policy_take(struct outgoing *out);
/*
 * Each decides, writes the decisions down, and does what is not the switchover's: that finds
 * outgoing.suspend_ms or outgoing.switch_now. False and *err: the migration is given up.
 * start: before the first round. after_round: at the end of each. check: now and then in between.
 */
bool policy_start(struct outgoing *out, GError **err);
bool policy_after_round(struct outgoing *out, const struct migration_round *round, GError **err);
bool policy_check(struct outgoing *out, GError **err);
/* How long a wait for the peer may take: at most `most`, and no longer than to the next deadline of
 * the policy. blame: the wait has failed with *err; where that was because of the policy, *err says
 * so from now on. Always false. */
unsigned policy_patience_ms(struct outgoing *out, unsigned most);
bool policy_blame(struct outgoing *out, GError **err);
/* The migration ends, in whatever way: what the policy has changed is put back. Machine lock held
 * or not. */
void policy_end(struct outgoing *out);

#endif
