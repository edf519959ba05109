/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What this host could still give to a guest. */
#ifndef MIGRATION_CHECK_HOST_H
#define MIGRATION_CHECK_HOST_H

#include "qapi/qapi-types.h"

/*
 * Free memory, the limit of the control group, CPUs and their load, read from /proc and /sys (below
 * $FERRY_HOST_FACTS, if that is set: for tests). What cannot be read counts as nothing in the way.
 * Any thread; never NULL.
 */
MigrationSideHost *host_describe(void);

/* Bytes of anonymous memory that this process holds. Any thread. */
uint64_t host_own_anonymous_bytes(void);

#endif
