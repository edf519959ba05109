/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ready-made ladders, and the engine that climbs them. See policy.h. */
#include "migration/converge/policy.h"

#include <inttypes.h>
#include <stdarg.h>

#include "util/error.h"

/* With ladders, unless told otherwise: what KubeVirt uses. */
#define COMPLETION_S_PER_GIB 150
#define PROGRESS_S           150
#define TIMEOUT_S_MAX        (7 * 24 * 3600)
/* For so many rounds in a row a slow link is no reason to act. */
#define DIP_ROUNDS_MAX  2
#define DOWNTIME_MS_MAX (2000 * 1000) /* as the parameter downtime-limit */

#define LIMIT(stalls, ms)                                                                          \
    {                                                                                              \
        stalls, MIGRATION_ACTION_DOWNTIME_LIMIT, ms                                                \
    }
#define SUSPEND(stalls, ms)                                                                        \
    {                                                                                              \
        stalls, MIGRATION_ACTION_SUSPEND, ms                                                       \
    }
#define POST_COPY(stalls)                                                                          \
    {                                                                                              \
        stalls, MIGRATION_ACTION_POST_COPY, -1                                                     \
    }
#define ABORT(stalls)                                                                              \
    {                                                                                              \
        stalls, MIGRATION_ACTION_ABORT, -1                                                         \
    }

#define MINIMAL                                                                                    \
    LIMIT(0, 100), LIMIT(1, 150), LIMIT(2, 200), LIMIT(3, 300), LIMIT(4, 400), LIMIT(6, 500)

static const struct ladder {
    unsigned timeouts; /* 1: it has deadlines by default */
    bool post_copy;    /* allowed by default, and needed */
    unsigned count;
    struct policy_step steps[POLICY_STEPS_MAX];
} ladders[MIGRATION_POLICY_NAME__MAX] = {
    [MIGRATION_POLICY_NAME_LEGACY] = { 0 },
    [MIGRATION_POLICY_NAME_MINIMAL_DOWNTIME] = { 1, false, 7, { MINIMAL, ABORT(7) } },
    [MIGRATION_POLICY_NAME_POST_COPY] = { 1,
                                          true,
                                          5,
                                          { LIMIT(0, 100), LIMIT(1, 150), LIMIT(2, 200),
                                            POST_COPY(3), ABORT(4) } },
    [MIGRATION_POLICY_NAME_SUSPEND] = { 1, false, 8, { MINIMAL, SUSPEND(7, 5000), ABORT(8) } },
    [MIGRATION_POLICY_NAME_VERY_LARGE] = { 1,
                                           false,
                                           8,
                                           { LIMIT(0, 300), LIMIT(1, 400), LIMIT(2, 500),
                                             LIMIT(3, 700), LIMIT(4, 1000), LIMIT(6, 1500),
                                             LIMIT(7, 5000), ABORT(8) } },
    [MIGRATION_POLICY_NAME_CUSTOM] = { 1, false, 0, { { 0 } } },
};

void policy_default(struct policy *p)
{
    *p = (struct policy){ .name = MIGRATION_POLICY_NAME_LEGACY };
}

/* --- from and to QMP --- */

/* What a step of a custom ladder may carry. */
static const struct {
    bool step;     /* may be one */
    int64_t least; /* of value; 0: it has none */
    int64_t most;
    bool optional;     /* the value */
    const char *range; /* for the error */
} rules[MIGRATION_ACTION__MAX] = {
    [MIGRATION_ACTION_DOWNTIME_LIMIT] = { true, 1, DOWNTIME_MS_MAX, false,
                                          "1 to 2000000 milliseconds" },
    [MIGRATION_ACTION_THROTTLE] = { true, 1, 99, true, "1 to 99 percent" },
    [MIGRATION_ACTION_POST_COPY] = { true, 1, TIMEOUT_S_MAX, true, "1 to 604800 seconds" },
    [MIGRATION_ACTION_SUSPEND] = { true, 1, DOWNTIME_MS_MAX, false, "1 to 2000000 milliseconds" },
    [MIGRATION_ACTION_ABORT] = { true, 0, 0, false, NULL },
};

static bool check_step(const struct policy *p, unsigned i, const MigrationPolicyStep *s,
                       const MigrationPolicyStep *before, bool last, GError **err)
{
    const char *name = qapi_migration_action_str(s->action);

    if (!rules[s->action].step) {
        error_set(
            err, FERRY_ERROR_USER,
            "Parameter 'steps' has '%s' as step %u, which is what a migration does by itself: "
            "leave it out",
            name, i + 1);
    } else if (s->has_value && !rules[s->action].least) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has a value with step %u: '%s' takes none", i + 1, name);
    } else if (rules[s->action].least && !s->has_value && !rules[s->action].optional) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has no value with step %u: '%s' takes %s", i + 1, name,
                  rules[s->action].range);
    } else if (s->has_value &&
               (s->value < rules[s->action].least || s->value > rules[s->action].most)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has the value %" PRId64 " with step %u: '%s' takes %s",
                  s->value, i + 1, name, rules[s->action].range);
    } else if (s->stalls < 0 || s->stalls > 1000000 || (before && s->stalls < before->stalls)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has %" PRId64 " stalls with step %u: they must not fall, and "
                  "lie between 0 and 1000000",
                  s->stalls, i + 1);
    } else if (s->action == MIGRATION_ACTION_ABORT && !last) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' goes on after 'abort', step %u: nothing can follow it", i + 1);
    } else if (!s->stalls && s->action != MIGRATION_ACTION_DOWNTIME_LIMIT &&
               s->action != MIGRATION_ACTION_THROTTLE) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has '%s' with 0 stalls, step %u: it needs at least 1", name,
                  i + 1);
    } else if (s->action == MIGRATION_ACTION_POST_COPY && !p->allow_post_copy) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has 'post-copy', step %u, which 'allow-post-copy' must allow",
                  i + 1);
    } else if (s->action == MIGRATION_ACTION_THROTTLE && !p->allow_auto_converge) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'steps' has 'throttle', step %u, which 'allow-auto-converge' must "
                  "allow",
                  i + 1);
    } else {
        return true;
    }
    return false;
}

static bool read_steps(struct policy *p, const MigrationPolicy *arg, GError **err)
{
    bool custom = p->name == MIGRATION_POLICY_NAME_CUSTOM;

    if (!custom && arg->steps) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'steps' belongs to policy 'custom' alone");
        return false;
    }
    if (!custom) {
        p->count = ladders[p->name].count;
        for (unsigned i = 0; i < p->count; i++) {
            p->steps[i] = ladders[p->name].steps[i];
        }
        return true;
    }
    if (!arg->steps || !arg->steps->len || arg->steps->len > POLICY_STEPS_MAX) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'steps' must have 1 to %u steps",
                  POLICY_STEPS_MAX);
        return false;
    }
    for (unsigned i = 0; i < arg->steps->len; i++) {
        const MigrationPolicyStep *s = g_ptr_array_index(arg->steps, i);
        const MigrationPolicyStep *before = i ? g_ptr_array_index(arg->steps, i - 1) : NULL;

        if (!check_step(p, i, s, before, i + 1 == arg->steps->len, err)) {
            return false;
        }
        p->steps[i] =
            (struct policy_step){ (unsigned)s->stalls, s->action, s->has_value ? s->value : -1 };
    }
    p->count = arg->steps->len;
    return true;
}

static bool read_number(const char *name, bool given, int64_t value, int64_t least, int64_t most,
                        GError **err)
{
    if (given && (value < least || value > most)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter '%s' expects a value of %" PRId64 " to %" PRId64, name, least, most);
        return false;
    }
    return true;
}

bool policy_from_qmp(struct policy *p, const MigrationPolicy *arg, GError **err)
{
    const struct ladder *l = &ladders[arg->policy];
    struct policy new = {
        .name = arg->policy,
        .completion_s_per_gib = l->timeouts * COMPLETION_S_PER_GIB,
        .progress_s = l->timeouts * PROGRESS_S,
        .allow_post_copy = arg->has_allow_post_copy ? arg->allow_post_copy : l->post_copy,
        .allow_auto_converge = arg->has_allow_auto_converge && arg->allow_auto_converge,
    };

    if (!read_number("completion-timeout-per-gib", arg->has_completion_timeout_per_gib,
                     arg->completion_timeout_per_gib, 0, TIMEOUT_S_MAX, err) ||
        !read_number("completion-timeout", arg->has_completion_timeout, arg->completion_timeout, 0,
                     TIMEOUT_S_MAX * INT64_C(1000), err) ||
        !read_number("progress-timeout", arg->has_progress_timeout, arg->progress_timeout, 0,
                     TIMEOUT_S_MAX, err) ||
        !read_number("max-downtime", arg->has_max_downtime, arg->max_downtime, 1, DOWNTIME_MS_MAX,
                     err)) {
        return false;
    }
    if (l->post_copy && !new.allow_post_copy) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'allow-post-copy' forbids what policy '%s' is made of",
                  qapi_migration_policy_name_str(arg->policy));
        return false;
    }
    if (arg->has_completion_timeout_per_gib) {
        new.completion_s_per_gib = (unsigned)arg->completion_timeout_per_gib;
    }
    if (arg->has_completion_timeout) {
        new.completion_ms = (uint64_t)arg->completion_timeout;
    }
    if (arg->has_progress_timeout) {
        new.progress_s = (unsigned)arg->progress_timeout;
    }
    if (arg->has_max_downtime) {
        new.max_downtime_ms = (uint64_t)arg->max_downtime;
    }
    if (!read_steps(&new, arg, err)) {
        return false;
    }
    *p = new;
    return true;
}

MigrationPolicy *policy_to_qmp(const struct policy *p)
{
    MigrationPolicy *q = g_new0(MigrationPolicy, 1);

    q->policy = p->name;
    q->steps = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_migration_policy_step_free);
    for (unsigned i = 0; i < p->count; i++) {
        MigrationPolicyStep *s = g_new0(MigrationPolicyStep, 1);

        s->stalls = p->steps[i].stalls;
        s->action = p->steps[i].action;
        s->has_value = p->steps[i].value >= 0;
        s->value = s->has_value ? p->steps[i].value : 0;
        g_ptr_array_add(q->steps, s);
    }
    q->has_completion_timeout_per_gib = q->has_completion_timeout = q->has_progress_timeout = true;
    q->completion_timeout_per_gib = p->completion_s_per_gib;
    q->completion_timeout = (int64_t)p->completion_ms;
    q->progress_timeout = p->progress_s;
    q->has_max_downtime = p->max_downtime_ms;
    q->max_downtime = (int64_t)p->max_downtime_ms;
    q->has_allow_post_copy = q->has_allow_auto_converge = true;
    q->allow_post_copy = p->allow_post_copy;
    q->allow_auto_converge = p->allow_auto_converge;
    return q;
}

/* --- the engine --- */

static void verdict_free(gpointer p)
{
    struct policy_verdict *v = p;

    g_free(v->reason);
    g_free(v);
}

static void add(GPtrArray **list, MigrationAction action, int64_t value, bool skipped,
                const char *reason, ...) G_GNUC_PRINTF(5, 6);

static void add(GPtrArray **list, MigrationAction action, int64_t value, bool skipped,
                const char *reason, ...)
{
    struct policy_verdict *v = g_new0(struct policy_verdict, 1);
    va_list ap;

    va_start(ap, reason);
    *v = (struct policy_verdict){ action, value, skipped, g_strdup_vprintf(reason, ap) };
    va_end(ap);
    if (!*list) {
        *list = g_ptr_array_new_with_free_func(verdict_free);
    }
    g_ptr_array_add(*list, v);
}

void policy_run_init(struct policy_run *run, const struct policy *policy)
{
    *run = (struct policy_run){ .policy = *policy, .least = UINT64_MAX, .least_ever = UINT64_MAX };
}

int64_t policy_deadline_ns(const struct policy *p, uint64_t memory_bytes)
{
    double gib = MAX((double)memory_bytes / (double)(UINT64_C(1) << 30), 1);
    /* less than a GiB counts as one: connecting and switching do not shrink with memory */
    int64_t by_size = (int64_t)MIN(gib * p->completion_s_per_gib * 1e9, 9e18);
    int64_t fixed = (int64_t)p->completion_ms * 1000000;

    return by_size && fixed ? MIN(by_size, fixed) : MAX(by_size, fixed);
}

static double budget_of(const struct policy_run *run, const struct policy_view *v)
{
    return (double)policy_deadline_ns(&run->policy, v->memory_bytes) / 1e9;
}

/* Seconds that the rest would take at the link's usual pace. */
static double rest_of(const struct policy_run *run, const struct policy_view *v)
{
    return run->usual > 0 ? (double)v->remaining_pages * 4096 / run->usual : 0;
}

/* After a switch it would go on for so long that the deadline means nothing. */
static bool rest_is_too_much(const struct policy_run *run, const struct policy_view *v)
{
    double budget_s = budget_of(run, v);

    return budget_s > 0 && rest_of(run, v) > 2 * budget_s;
}

int64_t policy_left_ns(const struct policy_run *run, const struct policy_view *v)
{
    int64_t deadline = policy_deadline_ns(&run->policy, v->memory_bytes), left = INT64_MAX;

    bool switches = run->policy.allow_post_copy && v->post_copy_possible;

    if (run->over || run->fits || (switches && !rest_is_too_much(run, v))) {
        return -1; /* see look_at_deadlines() */
    }
    if (deadline) {
        left = deadline - v->now_ns;
    }
    if (run->policy.progress_s) {
        left = MIN(left,
                   run->progressed_ns + run->policy.progress_s * INT64_C(1000000000) - v->now_ns);
    }
    return left == INT64_MAX ? -1 : MAX(left, 0);
}

/* Why the ladder moves; for reasons. */
static char *stalled(const struct policy_run *run)
{
    if (!run->stalls) {
        return g_strdup_printf("Policy '%s' begins so",
                               qapi_migration_policy_name_str(run->policy.name));
    }
    return g_strdup_printf("%u round%s brought no progress", run->stalls,
                           run->stalls == 1 ? " has" : "s have");
}

static void take_limit(struct policy_run *run, const struct policy_view *v, int64_t value,
                       const char *why, GPtrArray **list)
{
    int64_t ms = value;

    if (run->policy.max_downtime_ms && (uint64_t)ms > run->policy.max_downtime_ms) {
        ms = (int64_t)run->policy.max_downtime_ms;
    }
    if (run->stalls && (uint64_t)ms <= v->downtime_limit_ms) {
        add(list, MIGRATION_ACTION_DOWNTIME_LIMIT, (int64_t)v->downtime_limit_ms, true,
            "%s, but the limit stays: %s", why,
            ms < value ? "the policy's max-downtime allows no more" : "it is not below the step's");
        return;
    }
    add(list, MIGRATION_ACTION_DOWNTIME_LIMIT, ms, false,
        "%s: a pause of %" PRId64 " ms is allowed", why, ms);
}

static void take_suspend(struct policy_run *run, const struct policy_view *v, int64_t ms,
                         const char *why, GPtrArray **list)
{
    if (run->policy.max_downtime_ms && (uint64_t)ms > run->policy.max_downtime_ms) {
        ms = (int64_t)run->policy.max_downtime_ms;
    }
    /* predictions may be a quarter off; beyond that the stop would be for nothing */
    if ((double)v->expected_downtime_us / 1e3 > (double)ms * 1.25) {
        add(list, MIGRATION_ACTION_SUSPEND, ms, true,
            "%s, but the guest is not stopped: sending the rest would take %" PRId64
            " ms, and %" PRId64 " ms are allowed",
            why, v->expected_downtime_us / 1000, ms);
        return;
    }
    add(list, MIGRATION_ACTION_SUSPEND, ms, false,
        "%s: the guest is stopped for at most %" PRId64 " ms", why, ms);
}

/* Whether the guest may go before its memory; a no is a verdict that says why. */
static bool may_post_copy(const struct policy_run *run, const struct policy_view *v,
                          const char *why, GPtrArray **list)
{
    if (!v->post_copy_possible) {
        add(list, MIGRATION_ACTION_POST_COPY, -1, true,
            "%s, but post-copy is not possible: capability 'postcopy-ram' is off", why);
        return false;
    }
    if (rest_is_too_much(run, v)) {
        add(list, MIGRATION_ACTION_POST_COPY, -1, true,
            "%s, but after a switch to post-copy the rest of the memory would take %.0f s, more "
            "than twice the %.0f s that the policy allows",
            why, rest_of(run, v), budget_of(run, v));
        return false;
    }
    return true;
}

static void take_post_copy(struct policy_run *run, const struct policy_view *v, const char *why,
                           GPtrArray **list)
{
    if (may_post_copy(run, v, why, list)) {
        add(list, MIGRATION_ACTION_POST_COPY, -1, false, "%s: the guest moves before its memory",
            why);
        run->over = true;
    }
}

/* One step of the ladder. False: it stays, it is to be looked at again after the next round. */
static bool take_step(struct policy_run *run, const struct policy_view *v, GPtrArray **list)
{
    const struct policy_step *s = &run->policy.steps[run->next];
    g_autofree char *why = stalled(run);

    switch (s->action) {
    case MIGRATION_ACTION_DOWNTIME_LIMIT:
        take_limit(run, v, s->value, why, list);
        return true;
    case MIGRATION_ACTION_THROTTLE:
        add(list, MIGRATION_ACTION_THROTTLE, s->value, false, "%s: the guest is slowed down", why);
        return true;
    case MIGRATION_ACTION_POST_COPY:
        take_post_copy(run, v, why, list);
        return true;
    case MIGRATION_ACTION_SUSPEND:
        take_suspend(run, v, s->value, why, list);
        return true;
    default: /* abort */
        if (run->fits) {
            return false; /* it is about to be moved */
        }
        add(list, MIGRATION_ACTION_ABORT, -1, false, "%s, and policy '%s' has nothing left to try",
            why, qapi_migration_policy_name_str(run->policy.name));
        run->over = true;
        return true;
    }
}

static void climb(struct policy_run *run, const struct policy_view *v, GPtrArray **list)
{
    /* a suspend is tried before anything behind it is thought of */
    while (!run->over && run->next < run->policy.count &&
           run->stalls >= run->policy.steps[run->next].stalls) {
        guint before = *list ? (*list)->len : 0;

        if (!take_step(run, v, list)) {
            return;
        }
        run->next++;
        const struct policy_verdict *last = g_ptr_array_index(*list, before);

        if (last->action == MIGRATION_ACTION_SUSPEND && !last->skipped) {
            return;
        }
    }
}

GPtrArray *policy_begin(struct policy_run *run, const struct policy_view *v)
{
    GPtrArray *list = NULL;
    bool limited = run->policy.count && !run->policy.steps[0].stalls &&
                   run->policy.steps[0].action == MIGRATION_ACTION_DOWNTIME_LIMIT;

    climb(run, v, &list);
    if (run->policy.max_downtime_ms && run->policy.max_downtime_ms < v->downtime_limit_ms &&
        !limited) {
        add(&list, MIGRATION_ACTION_DOWNTIME_LIMIT, (int64_t)run->policy.max_downtime_ms, false,
            "The policy's max-downtime is below the downtime-limit that was set");
    }
    return list;
}

/* A post-copy step whose time has come, whatever the rounds bring. */
static void look_at_post_copy_time(struct policy_run *run, const struct policy_view *v,
                                   GPtrArray **list)
{
    for (unsigned i = run->next; !run->over && i < run->policy.count; i++) {
        struct policy_step *s = &run->policy.steps[i];

        if (s->action == MIGRATION_ACTION_POST_COPY && s->value > 0 &&
            v->now_ns >= s->value * INT64_C(1000000000)) {
            g_autofree char *why = g_strdup_printf("%" PRId64 " s have passed", s->value);

            s->value = -1; /* once */
            take_post_copy(run, v, why, list);
        }
    }
}

/* Deadlines. `settle`: at the end of a round, where a guest that fits can be moved at once. */
static void look_at_deadlines(struct policy_run *run, const struct policy_view *v, bool settle,
                              GPtrArray **list)
{
    int64_t deadline = policy_deadline_ns(&run->policy, v->memory_bytes);
    g_autofree char *why = NULL;

    if (v->remaining_pages < run->least_ever) {
        run->least_ever = v->remaining_pages;
        run->progressed_ns = v->now_ns;
    }
    look_at_post_copy_time(run, v, list);
    if (run->over) {
        return;
    }
    if (deadline && v->now_ns >= deadline) {
        why = g_strdup_printf("The %g s that the policy allows are over", (double)deadline / 1e9);
    } else if (run->policy.progress_s &&
               v->now_ns - run->progressed_ns >= run->policy.progress_s * INT64_C(1000000000)) {
        why = g_strdup_printf("For %u s there has been no progress", run->policy.progress_s);
    } else {
        return;
    }
    if (run->fits) {
        if (!settle) {
            return; /* the end of this round is near: it leaves about as much as the one before */
        }
        add(list, MIGRATION_ACTION_SWITCHOVER, -1, false, "%s, and what is left keeps the limit",
            why);
        run->over = true;
        return;
    }
    if (run->policy.allow_post_copy) {
        take_post_copy(run, v, why, list);
        if (run->over) {
            return;
        }
    }
    add(list, MIGRATION_ACTION_ABORT, -1, false, "%s", why);
    run->over = true;
}

/* Notes what the link has carried. True: much less than it usually does, and not for long yet. */
static bool is_dip(struct policy_run *run, double bytes_per_s)
{
    bool dip = bytes_per_s > 0 && run->usual > 0 && bytes_per_s < run->usual / 2 &&
               run->dips < DIP_ROUNDS_MAX;

    run->dips = dip ? run->dips + 1 : 0;
    if (!dip && bytes_per_s > 0) {
        run->usual = run->usual > 0 ? (run->usual * 2 + bytes_per_s) / 3 : bytes_per_s;
    }
    return dip;
}

GPtrArray *policy_round(struct policy_run *run, const struct policy_view *v)
{
    GPtrArray *list = NULL;
    bool braked = v->throttle > run->throttle;
    bool dip = is_dip(run, v->bytes_per_s);

    run->fits = v->expected_downtime_us <= (int64_t)v->downtime_limit_ms * 1000;
    run->throttle = v->throttle;
    if (run->least == UINT64_MAX || v->remaining_pages < run->least - run->least / 10) {
        run->least = v->remaining_pages;
    } else if (!braked && !dip) {
        run->stalls++;
    }
    look_at_deadlines(run, v, true, &list);
    climb(run, v, &list);
    return list;
}

GPtrArray *policy_tick(struct policy_run *run, const struct policy_view *v)
{
    GPtrArray *list = NULL;

    look_at_deadlines(run, v, false, &list);
    return list;
}
