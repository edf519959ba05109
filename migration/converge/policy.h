/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policies: what a migration does by itself when it gets no further, so that a manager that has
 * died or forgotten it does not strand the guest.
 *
 * A policy is a ladder and some bounds. The ladder is a list of steps, each taken once, when so
 * many rounds have been stalls. A round is a stall when it leaves no less than nine tenths of the
 * least that any round before left; the count only rises. A round in which the guest's throttle
 * was changed is none: it has not yet shown what it is good for. Nor is one of the first two rounds
 * in which the link carries less than half of what it did: that is a dip and not the guest.
 *
 * Post-copy is decided only where the rest of the memory could be sent within twice the time that
 * the policy allows for the whole: the guest runs slowly until it is there.
 *
 * This is the engine: pure, it decides from a view of the migration and changes nothing but its own
 * state, so that tests step it under a clock of their own. apply.c asks it and does what it says.
 */
#ifndef MIGRATION_CONVERGE_POLICY_H
#define MIGRATION_CONVERGE_POLICY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "qapi/qapi-types.h"

#define POLICY_STEPS_MAX 32u

struct policy_step {
    unsigned stalls;
    MigrationAction action;
    int64_t value; /* ms, percent or s; -1: none */
};

struct policy {
    MigrationPolicyName name;
    struct policy_step steps[POLICY_STEPS_MAX];
    unsigned count;
    unsigned completion_s_per_gib; /* 0: none */
    uint64_t completion_ms;        /* 0: none; the earlier counts */
    unsigned progress_s;           /* 0: none */
    uint64_t max_downtime_ms;      /* 0: no cap */
    bool allow_post_copy;
    bool allow_auto_converge;
};

/* Legacy: no ladder, no bounds. */
void policy_default(struct policy *p);
/* A policy from a command's arguments, with what is not given at its default. *err names the
 * argument that cannot be; *p is then unchanged. */
bool policy_from_qmp(struct policy *p, const MigrationPolicy *arg, GError **err);
MigrationPolicy *policy_to_qmp(const struct policy *p);

/* What the engine sees; times since the migration's start. */
struct policy_view {
    int64_t now_ns;
    uint64_t memory_bytes;
    uint64_t remaining_pages;
    int64_t expected_downtime_us;
    uint64_t downtime_limit_ms; /* in force */
    unsigned throttle;          /* percent, in force during the round */
    double bytes_per_s;         /* carried in the last round; 0: not known */
    bool post_copy_possible;
};

struct policy_verdict {
    MigrationAction action;
    int64_t value; /* -1: none */
    bool skipped;  /* not done, for the reason */
    char *reason;
};

/* A policy at work on one migration. */
struct policy_run {
    struct policy policy;
    unsigned next; /* step */
    unsigned stalls;
    unsigned throttle;     /* of the last round */
    uint64_t least;        /* pages, that any round left */
    uint64_t least_ever;   /* pages, at any moment */
    int64_t progressed_ns; /* when that last fell */
    double usual;          /* bytes/s of the link, over some rounds */
    unsigned dips;         /* rounds in a row far below that */
    bool fits;             /* what the last round left would keep the limit */
    bool over;             /* an abort or switchover has been decided */
};

void policy_run_init(struct policy_run *run, const struct policy *policy);

/*
 * Each returns a list of struct policy_verdict *, to be carried out in order, or NULL;
 * g_ptr_array_unref(). begin: before the first round. round: after each. tick: at any moment in
 * between; it only looks at the deadlines.
 */
GPtrArray *policy_begin(struct policy_run *run, const struct policy_view *v);
GPtrArray *policy_round(struct policy_run *run, const struct policy_view *v);
GPtrArray *policy_tick(struct policy_run *run, const struct policy_view *v);

/* Until the next deadline that may end it; -1: none. */
int64_t policy_left_ns(const struct policy_run *run, const struct policy_view *v);

/* The completion deadline, since the start; 0: none. */
int64_t policy_deadline_ns(const struct policy *p, uint64_t memory_bytes);

#endif
