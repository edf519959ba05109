/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each ready-made policy and a custom one, climbed step by step under a clock of the test's own. */
#include <string.h>

#include "migration/converge/policy.h"
#include "util/error.h"

#define S   INT64_C(1000000000)
#define GIB (UINT64_C(1) << 30)

/* A migration of 1 GiB that leaves `left` pages each round and takes a second for each. */
struct sim {
    struct policy_run run;
    struct policy_view v;
    GPtrArray *said; /* of the last call */
    unsigned at;
};

static MigrationPolicy arguments(MigrationPolicyName name)
{
    return (MigrationPolicy){ .policy = name };
}

/* What was said and nobody has looked at any more. */
static void forget(struct sim *s)
{
    g_clear_pointer(&s->said, g_ptr_array_unref);
}

#define SIM(s) __attribute__((cleanup(forget))) struct sim s = { 0 }

static void begin_with(struct sim *s, const MigrationPolicy *arg)
{
    struct policy p;
    GError *error = NULL;

    policy_default(&p);
    g_assert_true(policy_from_qmp(&p, arg, &error));
    g_assert_no_error(error);
    forget(s);
    *s = (struct sim){ .v = { .memory_bytes = GIB,
                              .remaining_pages = 262144,
                              .expected_downtime_us = 20 * 1000 * 1000,
                              .downtime_limit_ms = 300 } };
    policy_run_init(&s->run, &p);
    s->said = policy_begin(&s->run, &s->v);
    s->at = 0;
}

static void begin(struct sim *s, MigrationPolicyName name)
{
    MigrationPolicy arg = arguments(name);

    begin_with(s, &arg);
}

/* The next thing that was said is this. */
static const struct policy_verdict *expect(struct sim *s, MigrationAction action, int64_t value,
                                           bool skipped)
{
    g_assert_nonnull(s->said);
    g_assert_cmpint(s->at, <, s->said->len);
    const struct policy_verdict *v = g_ptr_array_index(s->said, s->at++);

    g_assert_cmpstr(qapi_migration_action_str(v->action), ==, qapi_migration_action_str(action));
    g_assert_cmpint(v->value, ==, value);
    g_assert_cmpint(v->skipped, ==, skipped);
    g_assert_nonnull(v->reason);
    g_assert_cmpint(strlen(v->reason), >, 10);
    if (action == MIGRATION_ACTION_DOWNTIME_LIMIT && !skipped) {
        s->v.downtime_limit_ms = (uint64_t)value; /* as who carries it out does */
    }
    return v;
}

static void limit(struct sim *s, int64_t ms)
{
    expect(s, MIGRATION_ACTION_DOWNTIME_LIMIT, ms, false);
}

/* Nothing more was said. */
static void quiet(struct sim *s)
{
    if (s->said) {
        g_assert_cmpint(s->at, ==, s->said->len);
        g_ptr_array_unref(s->said);
        s->said = NULL;
    }
    s->at = 0;
}

static void round_with(struct sim *s, uint64_t left)
{
    quiet(s);
    s->v.now_ns += S;
    s->v.remaining_pages = left;
    s->said = policy_round(&s->run, &s->v);
}

static void stall(struct sim *s)
{
    round_with(s, 100000);
}

static void tick_at(struct sim *s, int64_t ns)
{
    quiet(s);
    s->v.now_ns = ns;
    s->said = policy_tick(&s->run, &s->v);
}

static void test_legacy(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_LEGACY);
    for (int i = 0; i < 1000; i++) {
        stall(&s);
        quiet(&s);
    }
    tick_at(&s, 1000000 * S);
    quiet(&s);
}

static void minimal_ladder(struct sim *s)
{
    static const int64_t after[] = { 0, 150, 200, 300, 400, 0, 500 };

    limit(s, 100);
    stall(s); /* the first round has nothing to compare with */
    quiet(s);
    for (unsigned stalls = 1; stalls < G_N_ELEMENTS(after); stalls++) {
        stall(s);
        if (after[stalls]) {
            limit(s, after[stalls]);
        }
        quiet(s);
    }
}

static void test_minimal(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME);
    minimal_ladder(&s);
    stall(&s);
    g_assert_nonnull(
        strstr(expect(&s, MIGRATION_ACTION_ABORT, -1, false)->reason, "7 rounds have brought no"));
    stall(&s);
    quiet(&s); /* said once */
}

static void test_progress_is_no_stall(void)
{
    SIM(s);
    uint64_t left = 200000;

    begin(&s, MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME);
    limit(&s, 100);
    for (int i = 0; i < 20; i++) {
        round_with(&s, left);
        quiet(&s);
        left = left * 89 / 100;
    }
    /* compared with the least ever, not with the round before */
    round_with(&s, left * 2);
    limit(&s, 150);
    round_with(&s, left * 3 / 2);
    limit(&s, 200);
    round_with(&s, left / 2);
    quiet(&s);
    /* and the ladder goes on where it was */
    round_with(&s, left / 2);
    limit(&s, 300);
    quiet(&s);
}

/* A round in which the guest was slowed down further has not shown anything yet. */
static void test_brake_is_no_stall(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME);
    limit(&s, 100);
    stall(&s);
    for (unsigned throttle = 10; throttle <= 90; throttle += 10) {
        s.v.throttle = throttle;
        stall(&s);
        quiet(&s);
    }
    stall(&s);
    limit(&s, 150);
    quiet(&s);
}

static void test_abort_waits_for_what_fits(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME);
    minimal_ladder(&s);
    s.v.expected_downtime_us = 499 * 1000;
    stall(&s);
    quiet(&s);
    stall(&s);
    quiet(&s);
    s.v.expected_downtime_us = 501 * 1000;
    stall(&s);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    quiet(&s);
}

/* The first steps of policy post-copy, up to two stalls. */
static void three_limits(struct sim *s)
{
    limit(s, 100);
    stall(s); /* the first round has nothing to compare with */
    stall(s);
    limit(s, 150);
    stall(s);
    limit(s, 200);
}

static void test_post_copy(void)
{
    for (int possible = 0; possible < 2; possible++) {
        SIM(s);

        begin(&s, MIGRATION_POLICY_NAME_POST_COPY);
        s.v.post_copy_possible = possible;
        three_limits(&s);
        stall(&s);
        expect(&s, MIGRATION_ACTION_POST_COPY, -1, !possible);
        if (possible) {
            quiet(&s); /* the guest has left: nothing is decided any more */
            stall(&s);
            quiet(&s);
            continue;
        }
        stall(&s);
        expect(&s, MIGRATION_ACTION_ABORT, -1, false);
        quiet(&s);
    }
}

/* The rest must be worth it: at most twice the 150 s that a GiB may take. */
static void test_post_copy_within_budget(void)
{
    for (int slow = 0; slow < 2; slow++) {
        SIM(s);

        begin(&s, MIGRATION_POLICY_NAME_POST_COPY);
        s.v.post_copy_possible = true;
        s.v.bytes_per_s = 100000.0 * 4096 / (slow ? 301 : 299); /* what a stall leaves */
        three_limits(&s);
        stall(&s);
        const struct policy_verdict *v = expect(&s, MIGRATION_ACTION_POST_COPY, -1, slow);

        if (slow) {
            g_assert_nonnull(strstr(v->reason, "301 s, more than twice the 150 s"));
        }
        quiet(&s);
    }
}

/* One or two rounds on a link that has slowed down say nothing of the guest; a third one does. */
static void test_dip(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_POST_COPY);
    s.v.post_copy_possible = true;
    s.v.bytes_per_s = 1e9;
    three_limits(&s);
    s.v.bytes_per_s = 4e8;
    stall(&s);
    stall(&s);
    quiet(&s);
    s.v.bytes_per_s = 1e9;
    round_with(&s, 40000); /* it was a dip */
    quiet(&s);
    s.v.bytes_per_s = 4e8;
    stall(&s);
    stall(&s);
    quiet(&s);
    stall(&s); /* it stays so */
    expect(&s, MIGRATION_ACTION_POST_COPY, -1, false);
    quiet(&s);
}

static void test_suspend(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_SUSPEND);
    minimal_ladder(&s);
    s.v.expected_downtime_us = 4900 * 1000;
    stall(&s);
    expect(&s, MIGRATION_ACTION_SUSPEND, 5000, false);
    quiet(&s);
    stall(&s);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    quiet(&s);

    /* what cannot work is not done to the guest */
    begin(&s, MIGRATION_POLICY_NAME_SUSPEND);
    minimal_ladder(&s);
    s.v.expected_downtime_us = 6300 * 1000;
    stall(&s);
    expect(&s, MIGRATION_ACTION_SUSPEND, 5000, true);
    quiet(&s);
}

static void test_very_large(void)
{
    static const int64_t after[] = { 300, 400, 500, 700, 1000, 0, 1500, 5000 };
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_VERY_LARGE);
    limit(&s, 300);
    stall(&s);
    for (unsigned stalls = 1; stalls < G_N_ELEMENTS(after); stalls++) {
        stall(&s);
        if (after[stalls]) {
            limit(&s, after[stalls]);
        }
        quiet(&s);
    }
    stall(&s);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    quiet(&s);
}

static void test_cap(void)
{
    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_SUSPEND);
    SIM(s);

    arg.has_max_downtime = true;
    arg.max_downtime = 250;
    begin_with(&s, &arg);
    three_limits(&s);
    stall(&s);
    limit(&s, 250);
    stall(&s);
    g_assert_nonnull(
        strstr(expect(&s, MIGRATION_ACTION_DOWNTIME_LIMIT, 250, true)->reason, "max-downtime"));
    stall(&s);
    stall(&s);
    expect(&s, MIGRATION_ACTION_DOWNTIME_LIMIT, 250, true);
    s.v.expected_downtime_us = 260 * 1000;
    stall(&s);
    expect(&s, MIGRATION_ACTION_SUSPEND, 250, false);
    quiet(&s);

    /* without a ladder it binds what an operator has set */
    arg.policy = MIGRATION_POLICY_NAME_LEGACY;
    begin_with(&s, &arg);
    limit(&s, 250);
    quiet(&s);
    arg.max_downtime = 400;
    begin_with(&s, &arg);
    quiet(&s);
}

static void test_completion_deadline(void)
{
    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    SIM(s);

    arg.has_completion_timeout_per_gib = true;
    arg.completion_timeout_per_gib = 10;
    begin_with(&s, &arg);
    tick_at(&s, 10 * S - 1);
    quiet(&s);
    g_assert_cmpint(policy_left_ns(&s.run, &s.v), ==, 1);
    tick_at(&s, 10 * S);
    g_assert_nonnull(
        strstr(expect(&s, MIGRATION_ACTION_ABORT, -1, false)->reason, "10 s that the policy"));
    tick_at(&s, 20 * S);
    quiet(&s);

    /* by memory, and a small guest has the time of one GiB */
    begin_with(&s, &arg);
    s.v.memory_bytes = 4 * GIB;
    tick_at(&s, 40 * S - 1);
    quiet(&s);
    tick_at(&s, 40 * S);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    begin_with(&s, &arg);
    s.v.memory_bytes = GIB / 64;
    tick_at(&s, 9 * S);
    quiet(&s);

    /* a guest that fits is moved, at the end of a round */
    begin_with(&s, &arg);
    s.v.expected_downtime_us = 299 * 1000;
    stall(&s);
    tick_at(&s, 10 * S);
    quiet(&s);
    stall(&s);
    expect(&s, MIGRATION_ACTION_SWITCHOVER, -1, false);
    quiet(&s);

    arg.has_allow_post_copy = arg.allow_post_copy = true;
    begin_with(&s, &arg);
    tick_at(&s, 10 * S);
    expect(&s, MIGRATION_ACTION_POST_COPY, -1, true);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    begin_with(&s, &arg);
    s.v.post_copy_possible = true;
    tick_at(&s, 10 * S - 1);
    quiet(&s);
    /* nothing ends then: what is written meanwhile may take its time */
    g_assert_cmpint(policy_left_ns(&s.run, &s.v), ==, -1);
    tick_at(&s, 10 * S);
    expect(&s, MIGRATION_ACTION_POST_COPY, -1, false);
    quiet(&s);
}

static void test_progress_deadline(void)
{
    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    SIM(s);

    arg.has_progress_timeout = true;
    arg.progress_timeout = 5;
    begin_with(&s, &arg);
    for (int i = 0; i < 100; i++) {
        s.v.remaining_pages -= 1; /* however slow */
        tick_at(&s, s.v.now_ns + S);
        quiet(&s);
    }
    tick_at(&s, s.v.now_ns + 5 * S - 1);
    quiet(&s);
    tick_at(&s, s.v.now_ns + 1);
    g_assert_nonnull(strstr(expect(&s, MIGRATION_ACTION_ABORT, -1, false)->reason, "For 5 s"));
    quiet(&s);
}

static void test_default_deadlines(void)
{
    SIM(s);

    begin(&s, MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME);
    limit(&s, 100);
    g_assert_cmpint(policy_deadline_ns(&s.run.policy, 2 * GIB), ==, 300 * S);
    tick_at(&s, 149 * S);
    quiet(&s);
    tick_at(&s, 150 * S);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    begin(&s, MIGRATION_POLICY_NAME_LEGACY);
    g_assert_cmpint(policy_deadline_ns(&s.run.policy, 2 * GIB), ==, 0);
}

/* --- custom --- */

struct row {
    int64_t stalls;
    MigrationAction action;
    int64_t value; /* -1: none */
};

static MigrationPolicy custom(const struct row *rows, unsigned n)
{
    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_CUSTOM);

    arg.steps = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_migration_policy_step_free);
    for (unsigned i = 0; i < n; i++) {
        MigrationPolicyStep *s = g_new0(MigrationPolicyStep, 1);

        *s = (MigrationPolicyStep){ .stalls = rows[i].stalls,
                                    .action = rows[i].action,
                                    .has_value = rows[i].value >= 0,
                                    .value = rows[i].value };
        g_ptr_array_add(arg.steps, s);
    }
    return arg;
}

/* A step with a time does not wait for stalls. */
static void test_post_copy_time(void)
{
    static const struct row rows[] = { { 5, MIGRATION_ACTION_POST_COPY, 20 } };
    MigrationPolicy arg = custom(rows, G_N_ELEMENTS(rows));

    for (int possible = 0; possible < 2; possible++) {
        SIM(s);

        arg.has_allow_post_copy = arg.allow_post_copy = true;
        begin_with(&s, &arg);
        s.v.post_copy_possible = possible;
        tick_at(&s, 19 * S);
        quiet(&s);
        tick_at(&s, 20 * S);
        expect(&s, MIGRATION_ACTION_POST_COPY, -1, !possible);
        tick_at(&s, 21 * S);
        quiet(&s); /* said once */
    }
    g_ptr_array_unref(arg.steps);
}

static void test_custom(void)
{
    static const struct row rows[] = {
        { 0, MIGRATION_ACTION_DOWNTIME_LIMIT, 50 }, { 1, MIGRATION_ACTION_THROTTLE, 40 },
        { 3, MIGRATION_ACTION_THROTTLE, -1 },       { 3, MIGRATION_ACTION_DOWNTIME_LIMIT, 60 },
        { 3, MIGRATION_ACTION_SUSPEND, 1000 },      { 3, MIGRATION_ACTION_POST_COPY, -1 },
        { 5, MIGRATION_ACTION_ABORT, -1 },
    };
    MigrationPolicy arg = custom(rows, G_N_ELEMENTS(rows));
    SIM(s);

    arg.has_allow_auto_converge = arg.allow_auto_converge = true;
    arg.has_allow_post_copy = arg.allow_post_copy = true;
    begin_with(&s, &arg);
    limit(&s, 50);
    stall(&s);
    stall(&s);
    expect(&s, MIGRATION_ACTION_THROTTLE, 40, false);
    stall(&s);
    quiet(&s);
    s.v.expected_downtime_us = 900 * 1000;
    stall(&s);
    expect(&s, MIGRATION_ACTION_THROTTLE, -1, false);
    limit(&s, 60);
    expect(&s, MIGRATION_ACTION_SUSPEND, 1000, false);
    quiet(&s); /* what comes behind a suspension waits for how it ends */
    stall(&s);
    expect(&s, MIGRATION_ACTION_POST_COPY, -1, true);
    stall(&s);
    expect(&s, MIGRATION_ACTION_ABORT, -1, false);
    quiet(&s);
    g_ptr_array_unref(arg.steps);
}

static void refused(const MigrationPolicy *arg, const char *with)
{
    struct policy p, before;
    g_autoptr(GError) error = NULL;

    memset(&p, 0, sizeof(p));
    policy_default(&p);
    before = p;
    g_assert_false(policy_from_qmp(&p, arg, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_USER);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, with));
    g_assert_cmpmem(&p, sizeof(p), &before, sizeof(before));
}

static void refused_steps(const struct row *rows, unsigned n, const char *with)
{
    MigrationPolicy arg = custom(rows, n);

    refused(&arg, with);
    g_ptr_array_unref(arg.steps);
}

static void test_refused(void)
{
#define R(with, ...)                                                                               \
    do {                                                                                           \
        static const struct row rows[] = { __VA_ARGS__ };                                          \
        refused_steps(rows, G_N_ELEMENTS(rows), with);                                             \
    } while (0)
#define A(name) MIGRATION_ACTION_##name
    R("no value with step 1", { 0, A(DOWNTIME_LIMIT), -1 });
    R("1 to 2000000", { 0, A(DOWNTIME_LIMIT), 0 });
    R("1 to 2000000", { 0, A(DOWNTIME_LIMIT), 2000001 });
    R("step 2", { 0, A(DOWNTIME_LIMIT), 5 }, { 1, A(SUSPEND), -1 });
    R("takes none", { 1, A(ABORT), 3 });
    R("goes on after 'abort', step 1", { 1, A(ABORT), -1 }, { 2, A(DOWNTIME_LIMIT), 5 });
    R("must not fall", { 2, A(DOWNTIME_LIMIT), 5 }, { 1, A(ABORT), -1 });
    R("must not fall", { 1000001, A(DOWNTIME_LIMIT), 5 });
    R("needs at least 1", { 0, A(SUSPEND), 5 });
    R("needs at least 1", { 0, A(ABORT), -1 });
    R("by itself", { 1, A(SWITCHOVER), -1 });
    R("by itself", { 1, A(RESUME), -1 });
    R("'allow-post-copy' must allow", { 1, A(POST_COPY), -1 });
    R("'allow-auto-converge' must allow", { 1, A(THROTTLE), 50 });
    R("1 to 99", { 1, A(THROTTLE), 100 });
#undef A
#undef R
    struct row many[POLICY_STEPS_MAX + 1];

    for (unsigned i = 0; i < G_N_ELEMENTS(many); i++) {
        many[i] = (struct row){ i, MIGRATION_ACTION_DOWNTIME_LIMIT, 100 };
    }
    refused_steps(many, G_N_ELEMENTS(many), "1 to 32 steps");
    refused_steps(many, 0, "1 to 32 steps");

    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_CUSTOM);

    refused(&arg, "1 to 32 steps");
    arg = custom(many, 1);
    arg.policy = MIGRATION_POLICY_NAME_SUSPEND;
    refused(&arg, "belongs to policy 'custom'");
    g_ptr_array_unref(arg.steps);
    arg = arguments(MIGRATION_POLICY_NAME_POST_COPY);
    arg.has_allow_post_copy = true;
    refused(&arg, "made of");
    arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    arg.has_max_downtime = true;
    refused(&arg, "max-downtime");
    arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    arg.has_progress_timeout = true;
    arg.progress_timeout = -1;
    refused(&arg, "progress-timeout");
    arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    arg.has_completion_timeout_per_gib = true;
    arg.completion_timeout_per_gib = INT64_MAX;
    refused(&arg, "completion-timeout-per-gib");
    arg = arguments(MIGRATION_POLICY_NAME_LEGACY);
    arg.has_completion_timeout = true;
    arg.completion_timeout = INT64_MAX;
    refused(&arg, "completion-timeout'");
    arg.completion_timeout = -1;
    refused(&arg, "completion-timeout'");
}

/* A deadline by size and a fixed one: the earlier counts. */
static void test_two_deadlines(void)
{
    static const struct {
        unsigned per_gib;
        uint64_t ms, gib;
        int64_t want_ms;
    } rows[] = {
        { 0, 0, 4, 0 },          { 10, 0, 4, 40000 },     { 0, 1500, 4, 1500 },
        { 10, 1500, 4, 1500 },   { 10, 90000, 4, 40000 }, { 10, 20000, 0, 10000 },
        { 10, 40000, 4, 40000 }, { 0, 1, 4, 1 },          { 604800, 0, 1 << 30, 9000000000000 }
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct policy p = { .completion_s_per_gib = rows[i].per_gib, .completion_ms = rows[i].ms };

        g_assert_cmpint(policy_deadline_ns(&p, rows[i].gib << 30), ==, rows[i].want_ms * 1000000);
    }
}

static void test_query(void)
{
    MigrationPolicy arg = arguments(MIGRATION_POLICY_NAME_SUSPEND);
    struct policy p;

    g_assert_true(policy_from_qmp(&p, &arg, NULL));
    MigrationPolicy *q = policy_to_qmp(&p);
    const MigrationPolicyStep *s = g_ptr_array_index(q->steps, 6);

    g_assert_cmpint(q->steps->len, ==, 8);
    g_assert_cmpint(s->action, ==, MIGRATION_ACTION_SUSPEND);
    g_assert_cmpint(s->value, ==, 5000);
    g_assert_cmpint(s->stalls, ==, 7);
    g_assert_cmpint(q->completion_timeout_per_gib, ==, 150);
    g_assert_cmpint(q->progress_timeout, ==, 150);
    g_assert_false(q->has_max_downtime);
    g_assert_false(q->allow_post_copy);
    qapi_migration_policy_free(q);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy/two-deadlines", test_two_deadlines);
    g_test_add_func("/policy/legacy", test_legacy);
    g_test_add_func("/policy/minimal-downtime", test_minimal);
    g_test_add_func("/policy/progress-is-no-stall", test_progress_is_no_stall);
    g_test_add_func("/policy/brake-is-no-stall", test_brake_is_no_stall);
    g_test_add_func("/policy/abort-waits-for-what-fits", test_abort_waits_for_what_fits);
    g_test_add_func("/policy/post-copy", test_post_copy);
    g_test_add_func("/policy/post-copy-within-budget", test_post_copy_within_budget);
    g_test_add_func("/policy/post-copy-after-a-time", test_post_copy_time);
    g_test_add_func("/policy/dip-of-the-link", test_dip);
    g_test_add_func("/policy/suspend", test_suspend);
    g_test_add_func("/policy/very-large", test_very_large);
    g_test_add_func("/policy/max-downtime", test_cap);
    g_test_add_func("/policy/completion-deadline", test_completion_deadline);
    g_test_add_func("/policy/progress-deadline", test_progress_deadline);
    g_test_add_func("/policy/default-deadlines", test_default_deadlines);
    g_test_add_func("/policy/custom", test_custom);
    g_test_add_func("/policy/refused", test_refused);
    g_test_add_func("/policy/query", test_query);
    return g_test_run();
}
