/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does what a policy says to a running migration, and the commands that set and show it.
 *
 * A raised limit is written to the parameter downtime-limit, where a manager sees it; the end of
 * the migration puts back what stood there, unless somebody has changed it meanwhile.
 */
#include "migration/converge/apply.h"

#include "migration/internal.h"
#include "migration/postcopy/source.h"
#include "migration/ram/save.h"
#include "qapi/qapi-commands.h"
#include "system/throttle.h"
#include "system/vm.h"
#include "util/error.h"

/* --- commands --- */

bool qmp_migrate_set_policy(struct vm *vm, const MigrationPolicy *arg, GError **err)
{
    struct migration *m = vm->migration;
    struct policy p;

    if (migration_is_active(m)) {
        error_set(err, FERRY_ERROR_USER, "There's a migration process in progress");
        return false;
    }
    if (!policy_from_qmp(&p, arg, err)) {
        return false;
    }
    m->policy = p;
    return true;
}

MigrationPolicy *qmp_query_migrate_policy(struct vm *vm, GError **err)
{
    (void)err;
    return policy_to_qmp(&vm->migration->policy);
}

/* --- at work --- */

static struct policy_view look(struct outgoing *out)
{
    struct policy_view v = { .now_ns = monotonic_ns() - out->stats.start_ns };
    struct ram_save_stats rs;

    v.post_copy_possible = out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM];
    ram_save_get_stats(out->ram, &rs);
    v.memory_bytes = rs.total_bytes;
    v.remaining_pages = rs.remaining_pages;
    mutex_lock(&out->m->lock);
    v.downtime_limit_ms = out->m->options.downtime_limit;
    v.expected_downtime_us = out->stats.expected_downtime_us;
    mutex_unlock(&out->m->lock);
    return v;
}

static void set_limit(struct outgoing *out, uint64_t ms)
{
    mutex_lock(&out->m->lock);
    if (!out->policy_limit) {
        out->limit_before = out->m->options.downtime_limit;
    }
    out->policy_limit = ms;
    out->m->options.downtime_limit = ms;
    mutex_unlock(&out->m->lock);
}

static bool do_it(struct outgoing *out, const struct policy_verdict *v, GError **err)
{
    switch (v->action) {
    case MIGRATION_ACTION_DOWNTIME_LIMIT:
        set_limit(out, (uint64_t)v->value);
        break;
    case MIGRATION_ACTION_THROTTLE:
        if (v->value < 0) {
            out->options.caps[MIGRATION_CAPABILITY_AUTO_CONVERGE] =
                true; /* converge_round() acts */
        } else {
            vcpu_throttle_set(out->vm, (unsigned)v->value); /* converge_stop() lifts it */
        }
        break;
    case MIGRATION_ACTION_SUSPEND:
        out->suspend_ms = (uint64_t)v->value;
        break;
    case MIGRATION_ACTION_SWITCHOVER:
        out->switch_now = true;
        break;
    case MIGRATION_ACTION_POST_COPY:
        postcopy_want(out);
        break;
    default: /* abort */
        error_set(err, FERRY_ERROR_GUEST, "The migration was given up by policy '%s': %s",
                  qapi_migration_policy_name_str(out->policy.policy.name), v->reason);
        return false;
    }
    return true;
}

/* Takes over `verdicts`, which may be NULL. */
static bool carry_out(struct outgoing *out, GPtrArray *verdicts, GError **err)
{
    bool ok = true;

    for (unsigned i = 0; verdicts && ok && i < verdicts->len; i++) {
        const struct policy_verdict *v = g_ptr_array_index(verdicts, i);

        /* done first, said then: who hears of it finds it so */
        ok = v->skipped || do_it(out, v, err);
        history_decide(out, v->action, v->value, "%s", v->reason);
    }
    if (verdicts) {
        g_ptr_array_unref(verdicts);
    }
    return ok;
}

void policy_take(struct outgoing *out)
{
    const struct policy *p = &out->m->policy;
    bool stepwise = false;

    policy_run_init(&out->policy, p);
    for (unsigned i = 0; i < p->count; i++) {
        stepwise |= p->steps[i].action == MIGRATION_ACTION_THROTTLE;
    }
    /* the two ways to slow a guest down exclude each other */
    if (p->allow_auto_converge && !stepwise &&
        !out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        out->options.caps[MIGRATION_CAPABILITY_AUTO_CONVERGE] = true;
    }
}

bool policy_start(struct outgoing *out, GError **err)
{
    struct policy_view v = look(out);

    return carry_out(out, policy_begin(&out->policy, &v), err);
}

bool policy_after_round(struct outgoing *out, const struct migration_round *round, GError **err)
{
    struct policy_view v = look(out);

    v.remaining_pages = round->remaining_pages;
    v.expected_downtime_us = round->expected_downtime_us;
    v.throttle = round->throttle;
    v.bytes_per_s = round->bytes_per_s;
    return carry_out(out, policy_round(&out->policy, &v), err);
}

bool policy_check(struct outgoing *out, GError **err)
{
    struct policy_view v = look(out);

    return carry_out(out, policy_tick(&out->policy, &v), err);
}

unsigned policy_patience_ms(struct outgoing *out, unsigned most)
{
    struct policy_view v = look(out);
    int64_t left = policy_left_ns(&out->policy, &v);

    return left < 0 ? most : (unsigned)MIN((int64_t)most, left / 1000000 + 1);
}

bool policy_blame(struct outgoing *out, GError **err)
{
    struct policy_view v = look(out);
    GError *policy = NULL;

    /* what has been put into buffers that nobody empties is no progress */
    v.remaining_pages = UINT64_MAX;
    if (!carry_out(out, policy_tick(&out->policy, &v), &policy)) {
        g_clear_error(err);
        g_propagate_error(err, policy);
    }
    return false;
}

void policy_end(struct outgoing *out)
{
    mutex_lock(&out->m->lock);
    if (out->policy_limit && out->m->options.downtime_limit == out->policy_limit) {
        out->m->options.downtime_limit = out->limit_before;
    }
    out->policy_limit = 0;
    mutex_unlock(&out->m->lock);
}
