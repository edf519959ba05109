/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hold point: makes a migration wait at a named place, so that a test can reach a state that
 * lasts a millisecond, look, cancel, or kill. A cancel or the end of the process releases it.
 */
#include "migration/internal.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"

void migration_hold(struct migration *m, MigrationHoldPoint point, atomic_bool *cancelled)
{
    mutex_lock(&m->lock);
    while (m->hold == point && !atomic_load(cancelled)) {
        m->held = true;
        cond_wait(&m->cond, &m->lock);
    }
    m->held = false;
    if (m->hold == point) {
        m->hold = MIGRATION_HOLD_POINT_NONE; /* else somebody already asked for another point */
    }
    mutex_unlock(&m->lock);
}

bool qmp_x_migrate_hold(struct vm *vm, const struct qmp_x_migrate_hold_arg *arg, GError **err)
{
    struct migration *m = vm->migration;

    (void)err;
    mutex_lock(&m->lock);
    m->hold = arg->point;
    m->held = false; /* until it waits there, also where it has waited elsewhere */
    cond_broadcast(&m->cond);
    mutex_unlock(&m->lock);
    return true;
}

MigrationHoldInfo *qmp_x_query_migrate_hold(struct vm *vm, GError **err)
{
    struct migration *m = vm->migration;
    MigrationHoldInfo *info = g_new0(MigrationHoldInfo, 1);

    (void)err;
    mutex_lock(&m->lock);
    info->point = m->hold;
    info->held = m->held;
    mutex_unlock(&m->lock);
    return info;
}
