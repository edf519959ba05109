/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much a guest has to be throttled: the reckoning alone, without clocks, locks or vCPUs.
 *
 * What matters for a migration to end is not how much the guest writes but how many pages have to
 * be sent again: a page written while it is still to be sent costs nothing. The dirty log counts
 * just that, each page once from the moment it has been sent, and several times a second. So the
 * computed throttle compares that count with what the link carries and keeps it at AIM of it; then
 * each round is AIM times the one before, with the least throttling that does it. It begins where
 * the count stays above throttle-trigger-threshold for a while, goes there within a few looks, and
 * follows both ways.
 *
 * KVM's ring counts otherwise: a page once in a round, whether it has been sent by then or not.
 * There a guest that has written to everything looks quiet for the rest of the round; so looks only
 * brake, and it is the round's sum that lets go again.
 *
 * Where nobody can count (no manual protect), the rounds are looked at instead. And where the
 * operator set the steps, the steps are gone: two rounds too many, a step.
 */
#ifndef MIGRATION_CONVERGE_THROTTLE_H
#define MIGRATION_CONVERGE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

/* The parameters, in percent, as migrate-set-parameters has checked them. */
struct throttle_params {
    unsigned trigger;                 /* throttle-trigger-threshold */
    unsigned initial, increment, max; /* cpu-throttle-initial, -increment, max-cpu-throttle */
    bool tailslow;
    bool ladder; /* go by the steps */
};

struct throttle {
    bool engaged;
    double share;              /* of the time that vCPUs run; while engaged */
    unsigned high_looks, high; /* looks, and rounds, in a row above the trigger */
    bool per_round;            /* a page is counted once in a round */
};

/*
 * A look: in `seconds` so many pages became dirty that have to be sent (again), and the link
 * carries so many pages a second. Returns the percentage from now on. Not with a ladder.
 */
unsigned throttle_look(struct throttle *t, const struct throttle_params *p, uint64_t pages,
                       double seconds, double link_pages_per_s);
/*
 * A round has ended, in which so many pages were sent and so many became dirty; for the ladder,
 * with per_round, and where nobody counts in between (blind). Returns the percentage from now on.
 */
unsigned throttle_round(struct throttle *t, const struct throttle_params *p, uint64_t sent_pages,
                        uint64_t dirtied_pages, bool blind);

#endif
