/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state machine of a migration, as one table: which status may follow which. Everything else in
 * migration/ goes through migration_set_status(), so that an event is never forgotten and a step
 * never skipped. docs/migration-states.dot is made from the table.
 */
#include "migration/internal.h"
#include "migration/migration.h"
#include "qapi/qapi-events.h"
#include "system/vm.h"

#define S(name) MIGRATION_STATUS_##name

static const struct {
    MigrationStatus from, to;
    const char *when;
} transitions[] = {
    { S(NONE), S(SETUP), "migrate, or a destination begins to listen" },
    { S(COMPLETED), S(SETUP), "migrate again" },
    { S(FAILED), S(SETUP), "migrate again" },
    { S(CANCELLED), S(SETUP), "migrate again" },
    { S(SETUP), S(ACTIVE), "connected, dirty tracking on" },
    { S(SETUP), S(CANCELLING), "migrate_cancel" },
    { S(SETUP), S(FAILED), "no connection" },
    { S(ACTIVE), S(PRE_SWITCHOVER), "guest stopped, pause-before-switchover" },
    { S(ACTIVE), S(DEVICE), "guest stopped" },
    { S(ACTIVE), S(COMPLETED), "destination: the guest is here" },
    { S(ACTIVE), S(CANCELLING), "migrate_cancel" },
    { S(ACTIVE), S(FAILED), "link, peer or host" },
    { S(PRE_SWITCHOVER), S(DEVICE), "migrate-continue" },
    { S(PRE_SWITCHOVER), S(CANCELLING), "migrate_cancel" },
    { S(PRE_SWITCHOVER), S(FAILED), "link, peer or host" },
    { S(DEVICE), S(COMPLETED), "the destination has the guest" },
    { S(DEVICE), S(CANCELLING), "migrate_cancel, before the commit point" },
    { S(DEVICE), S(FAILED), "link, peer or host" },
    { S(DEVICE), S(POSTCOPY_ACTIVE), "the guest runs there, the rest of its memory follows" },
    { S(ACTIVE), S(POSTCOPY_ACTIVE), "destination: the rest of the memory will follow" },
    { S(POSTCOPY_ACTIVE), S(POSTCOPY_PAUSED), "the link broke, or migrate-pause" },
    { S(POSTCOPY_ACTIVE), S(COMPLETED), "all memory is there" },
    { S(POSTCOPY_ACTIVE), S(FAILED), "before the guest ran there" },
    { S(POSTCOPY_PAUSED), S(POSTCOPY_RECOVER), "a new link" },
    { S(POSTCOPY_PAUSED), S(FAILED), "the guest is taken back, or nobody came" },
    { S(POSTCOPY_RECOVER), S(POSTCOPY_ACTIVE), "both know what is missing" },
    { S(POSTCOPY_RECOVER), S(POSTCOPY_PAUSED), "that link broke too" },
    { S(CANCELLING), S(CANCELLED), "the guest runs here again" },
};

bool migration_transition_legal(MigrationStatus from, MigrationStatus to)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(transitions); i++) {
        if (transitions[i].from == from && transitions[i].to == to) {
            return true;
        }
    }
    return false;
}

void migration_set_status(struct migration *m, MigrationStatus to)
{
    if (!migration_transition_legal(m->status, to)) {
        g_error("migration: %s cannot follow %s", qapi_migration_status_str(to),
                qapi_migration_status_str(m->status));
    }
    m->status = to;
    if (m->options.caps[MIGRATION_CAPABILITY_EVENTS]) {
        qapi_event_send_migration(m->vm, to);
    }
}

bool migration_is_active(const struct migration *m)
{
    switch (m->status) {
    case S(SETUP):
    case S(ACTIVE):
    case S(PRE_SWITCHOVER):
    case S(DEVICE):
    case S(POSTCOPY_ACTIVE):
    case S(POSTCOPY_PAUSED):
    case S(POSTCOPY_RECOVER):
    case S(CANCELLING):
        return true;
    default:
        return false;
    }
}

char *migration_state_dot(void)
{
    GString *s = g_string_new("digraph migration {\n");

    for (unsigned i = 0; i < G_N_ELEMENTS(transitions); i++) {
        g_string_append_printf(s, "    \"%s\" -> \"%s\" [label=\"%s\"];\n",
                               qapi_migration_status_str(transitions[i].from),
                               qapi_migration_status_str(transitions[i].to), transitions[i].when);
    }
    g_string_append(s, "}\n");
    return g_string_free(s, FALSE);
}
