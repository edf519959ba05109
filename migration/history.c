/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rounds and decisions of an outgoing migration, see history.h. */
#include "migration/history.h"

#include <stdarg.h>
#include <string.h>

#include "migration/internal.h"
#include "qapi/qapi-events.h"
#include "system/vm.h"

void history_clear(struct migration_history *h)
{
    for (unsigned i = 0; i < h->decision_count; i++) {
        g_free(h->decisions[i].reason);
    }
    h->round_count = 0;
    h->decision_count = 0;
}

/* Two neighbours as one: sums, and the state at the end of the later one. */
static struct migration_round joined(const struct migration_round *a,
                                     const struct migration_round *b)
{
    struct migration_round r = *b;
    double seconds = (double)(a->duration_ns + b->duration_ns) / 1e9;

    r.began_ns = a->began_ns;
    r.duration_ns = a->duration_ns + b->duration_ns;
    r.bytes = a->bytes + b->bytes;
    r.dirtied_pages = a->dirtied_pages + b->dirtied_pages;
    r.bytes_per_s = seconds > 0 ? (double)r.bytes / seconds : b->bytes_per_s;
    r.throttle = MAX(a->throttle, b->throttle);
    return r;
}

/* Makes room in the older half; the first round, which sends everything, and the latest stay as
 * they are. */
static void thin_out(struct migration_history *h)
{
    unsigned to = 1, from = 1;

    while (from + 1 < HISTORY_ROUNDS / 2) {
        h->rounds[to++] = joined(&h->rounds[from], &h->rounds[from + 1]);
        from += 2;
    }
    memmove(&h->rounds[to], &h->rounds[from], (h->round_count - from) * sizeof(h->rounds[0]));
    h->round_count -= from - to;
}

void history_add(struct migration_history *h, const struct migration_round *round)
{
    if (h->round_count == HISTORY_ROUNDS) {
        thin_out(h);
    }
    h->rounds[h->round_count++] = *round;
}

void history_add_decision(struct migration_history *h, struct migration_decision d)
{
    if (h->decision_count == HISTORY_DECISIONS) {
        g_free(h->decisions[0].reason);
        memmove(&h->decisions[0], &h->decisions[1],
                (HISTORY_DECISIONS - 1) * sizeof(h->decisions[0]));
        h->decision_count--;
    }
    h->decisions[h->decision_count++] = d;
}

GPtrArray *history_rounds(const struct migration_history *h)
{
    GPtrArray *list;

    if (!h->round_count) {
        return NULL;
    }
    list = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_migration_round_free);
    for (unsigned i = 0; i < h->round_count; i++) {
        const struct migration_round *from = &h->rounds[i];
        MigrationRound *r = g_new0(MigrationRound, 1);

        r->number = from->number;
        r->start = from->began_ns / 1000;
        r->duration = from->duration_ns / 1000;
        r->bytes = from->bytes;
        r->dirtied_pages = (int64_t)from->dirtied_pages;
        r->remaining_pages = (int64_t)from->remaining_pages;
        r->bandwidth = (uint64_t)from->bytes_per_s;
        r->throttle = from->throttle;
        r->expected_downtime = from->expected_downtime_us;
        g_ptr_array_add(list, r);
    }
    return list;
}

GPtrArray *history_decisions(const struct migration_history *h)
{
    GPtrArray *list;

    if (!h->decision_count) {
        return NULL;
    }
    list = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_migration_decision_free);
    for (unsigned i = 0; i < h->decision_count; i++) {
        const struct migration_decision *from = &h->decisions[i];
        MigrationDecision *d = g_new0(MigrationDecision, 1);

        d->round = from->round;
        d->time = from->time_ns / 1000000;
        d->action = from->action;
        d->reason = g_strdup(from->reason);
        d->has_value = from->value >= 0;
        d->value = d->has_value ? from->value : 0;
        g_ptr_array_add(list, d);
    }
    return list;
}

void history_decide(struct outgoing *out, MigrationAction action, int64_t value, const char *reason,
                    ...)
{
    struct migration_decision d = {
        .round = out->rounds,
        .time_ns = monotonic_ns() - out->stats.start_ns,
        .action = action,
        .value = value,
    };
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, reason);
    text = g_strdup_vprintf(reason, ap);
    va_end(ap);
    d.reason = g_strdup(text);
    mutex_lock(&out->m->lock);
    history_add_decision(&out->history, d);
    mutex_unlock(&out->m->lock);
    vm_lock(out->vm);
    qapi_event_send_migration_decision(out->vm, d.round, d.time_ns / 1000000, action, text,
                                       value >= 0, value);
    vm_unlock(out->vm);
}
