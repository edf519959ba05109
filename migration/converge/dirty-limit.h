/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The capability dirty-limit: vCPUs that dirty more pages than vcpu-dirty-limit are made to sleep,
 * those that do not are left alone. Counted by KVM's dirty ring, which must be on.
 *
 * Limits of vCPUs (set-vcpu-dirty-limit) are the operator's and are there without a migration, too;
 * one with the capability sets them for all vCPUs when two rounds in a row left too much, and lifts
 * them at its end. Migration thread.
 */
#ifndef MIGRATION_CONVERGE_DIRTY_LIMIT_H
#define MIGRATION_CONVERGE_DIRTY_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct dirty_limits;
struct migration_round;
struct outgoing;
struct vm;

/* The operator's limits of a machine. Machine lock held. */
struct dirty_limits *dirty_limits_new(struct vm *vm);
void dirty_limits_free(struct dirty_limits *l);

void dirty_limit_begin(struct outgoing *out);
void dirty_limit_round(struct outgoing *out, const struct migration_round *round);
void dirty_limit_end(struct outgoing *out);

#endif
