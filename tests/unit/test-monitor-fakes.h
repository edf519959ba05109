/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the fakes of test-monitor-fakes.c have seen. */
#ifndef TEST_MONITOR_FAKES_H
#define TEST_MONITOR_FAKES_H

#include "qapi/qapi-types.h"

extern struct fake {
    int migrate_fd; /* what the last migrate with fd: got */
    MigrateSetParameters params;
    unsigned quits, cancels;
    struct qmp_answer *answer; /* what the last migrate-check is to be answered with */
} fake;

#endif
