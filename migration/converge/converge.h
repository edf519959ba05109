/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a guest slow enough for its link: what the outgoing side calls. Migration thread, no locks
 * held.
 */
#ifndef MIGRATION_CONVERGE_CONVERGE_H
#define MIGRATION_CONVERGE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/converge/throttle.h"

struct migration_round;
struct outgoing;

/* Of one outgoing migration; its thread's alone, except where it says otherwise. */
struct converge {
    struct throttle throttle;
    int64_t looked_ns; /* 0: there was no look yet */
    uint64_t looked_pages, looked_bytes;
    int64_t look_every_ns;
    double link; /* bytes/s */
    bool cannot_count;
    bool enough;         /* what is left fits downtime-limit */
    unsigned high_looks; /* in the first round, in a row */
    bool hopeless;       /* all that is sent in it will be dirty again */
    unsigned told;       /* percent, by the last decision */
    int64_t told_ns;

    bool limiting;        /* dirty-limit is in force */
    unsigned high_rounds; /* in a row, for dirty-limit */
    uint64_t *slept_ns;   /* of each vCPU, at the end of the round before */
    uint64_t *dirtied;
    uint64_t limit_slept_us, ring_full_us; /* m; of the last round */
};

/* Memory begins to be sent. */
void converge_start(struct outgoing *out);
/* While a round is sent, after each slice: looks several times a second how fast memory becomes
 * dirty. Cheap. */
void converge_tick(struct outgoing *out);
/* A round has ended (sent, drained, synchronised): may set the throttle or the limit. */
void converge_round(struct outgoing *out, const struct migration_round *round);
/* The migration ends, in whatever way: lifts both at once. Machine lock held or not. More than once
 * does no harm. */
void converge_stop(struct outgoing *out);

#endif
