/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an outgoing migration has done so far: a line for each round of memory and one for each
 * decision with its reason. query-migrate shows both; decisions are events too.
 *
 * At the end of each round source.c calls, in this order: history_add(), what converge/ wants of
 * it, policy_round(), switchover_due().
 *
 * Both lists are bounded, whatever a guest or a link does: of many rounds the older ones are put
 * together in pairs, of many decisions the oldest go.
 */
#ifndef MIGRATION_HISTORY_H
#define MIGRATION_HISTORY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "qapi/qapi-types.h"

struct outgoing;

#define HISTORY_ROUNDS    256u
#define HISTORY_DECISIONS 128u

/* One round. The first one sends all memory, each later one what was dirtied during the one before
 * it. */
struct migration_round {
    uint32_t number;              /* from 1 */
    int64_t began_ns;             /* since the migration's start */
    int64_t duration_ns;          /* until the end of the sync behind it */
    uint64_t bytes;               /* sent in it */
    uint64_t dirtied_pages;       /* found by the sync at its end */
    uint64_t remaining_pages;     /* after that sync */
    double bytes_per_s;           /* what the link carried in it */
    unsigned throttle;            /* percent in force during it */
    int64_t expected_downtime_us; /* if the guest were stopped now */
};

struct migration_decision {
    uint32_t round;
    int64_t time_ns; /* since the migration's start */
    MigrationAction action;
    int64_t value; /* -1: none */
    char *reason;
};

struct migration_history {
    struct migration_round rounds[HISTORY_ROUNDS];
    unsigned round_count;
    struct migration_decision decisions[HISTORY_DECISIONS];
    unsigned decision_count;
};

void history_clear(struct migration_history *h);
/* Puts a line to the others; whoever shares the history holds its lock. */
void history_add(struct migration_history *h, const struct migration_round *round);
/* Takes over the reason. */
void history_add_decision(struct migration_history *h, struct migration_decision d);

/* Lists for query-migrate; NULL when empty. */
GPtrArray *history_rounds(const struct migration_history *h);
GPtrArray *history_decisions(const struct migration_history *h);

/*
 * Writes a decision of a running migration down and sends the event MIGRATION_DECISION. Migration
 * thread; takes the machine lock and m. value: milliseconds or percent as the action has it, or -1.
 * The reason is one sentence without a full stop.
 */
void history_decide(struct outgoing *out, MigrationAction action, int64_t value, const char *reason,
                    ...) G_GNUC_PRINTF(4, 5);

#endif
