/* SPDX-License-Identifier: GPL-2.0-or-later */
/* calc-dirty-rate: how fast a guest writes, measured beside everything else. Machine lock held. */
#ifndef MIGRATION_CONVERGE_DIRTY_RATE_H
#define MIGRATION_CONVERGE_DIRTY_RATE_H

struct dirty_rate;
struct vm;

struct dirty_rate *dirty_rate_new(struct vm *vm);
/* Breaks a measurement off; the machine lock is dropped while its thread ends. */
void dirty_rate_free(struct dirty_rate *r);

#endif
