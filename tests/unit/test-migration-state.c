/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each legal and each illegal transition of a migration's status, spelled out once more and
 * independently of the table. */
#include "migration/internal.h"

#define S(name) (UINT64_C(1) << MIGRATION_STATUS_##name)

/* What may follow each status. */
static const uint64_t legal[MIGRATION_STATUS__MAX] = {
    [MIGRATION_STATUS_NONE] = S(SETUP),
    [MIGRATION_STATUS_SETUP] = S(ACTIVE) | S(CANCELLING) | S(FAILED),
    [MIGRATION_STATUS_ACTIVE] = S(PRE_SWITCHOVER) | S(DEVICE) | S(COMPLETED) | S(CANCELLING) |
                                S(FAILED) | S(POSTCOPY_ACTIVE),
    [MIGRATION_STATUS_PRE_SWITCHOVER] = S(DEVICE) | S(CANCELLING) | S(FAILED),
    [MIGRATION_STATUS_DEVICE] = S(COMPLETED) | S(CANCELLING) | S(FAILED) | S(POSTCOPY_ACTIVE),
    [MIGRATION_STATUS_POSTCOPY_ACTIVE] = S(POSTCOPY_PAUSED) | S(COMPLETED) | S(FAILED),
    [MIGRATION_STATUS_POSTCOPY_PAUSED] = S(POSTCOPY_RECOVER) | S(FAILED),
    [MIGRATION_STATUS_POSTCOPY_RECOVER] = S(POSTCOPY_ACTIVE) | S(POSTCOPY_PAUSED),
    [MIGRATION_STATUS_CANCELLING] = S(CANCELLED),
    [MIGRATION_STATUS_CANCELLED] = S(SETUP),
    [MIGRATION_STATUS_COMPLETED] = S(SETUP),
    [MIGRATION_STATUS_FAILED] = S(SETUP),
};

static void test_all(void)
{
    for (int from = 0; from < MIGRATION_STATUS__MAX; from++) {
        for (int to = 0; to < MIGRATION_STATUS__MAX; to++) {
            bool want = legal[from] >> to & 1;

            g_test_message("%s -> %s", qapi_migration_status_str((MigrationStatus)from),
                           qapi_migration_status_str((MigrationStatus)to));
            g_assert_cmpint(migration_transition_legal((MigrationStatus)from, (MigrationStatus)to),
                            ==, want);
        }
    }
}

static void test_picture(void)
{
    g_autofree char *dot = migration_state_dot();
    g_autofree char *path =
        g_build_filename(g_getenv("FERRY_SOURCE_DIR"), "docs", "migration-states.dot", NULL);
    g_autofree char *kept = NULL;

    if (g_getenv("FERRY_UPDATE_DOCS")) {
        g_assert_true(g_file_set_contents(path, dot, -1, NULL));
    }
    g_assert_true(g_file_get_contents(path, &kept, NULL, NULL));
    g_assert_cmpstr(dot, ==, kept); /* FERRY_UPDATE_DOCS=1 writes it anew */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/migration-state/all-transitions", test_all);
    g_test_add_func("/migration-state/picture-in-docs", test_picture);
    return g_test_run();
}
