/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One side of a migration as data: made on both sides, sent by the source, compared by the
 * destination. */
#ifndef MIGRATION_CHECK_SIDE_H
#define MIGRATION_CHECK_SIDE_H

#include "qapi/qapi-types.h"

struct migration;

/* All but `host` and the blocks' `room`. Machine lock held; never NULL. */
MigrationSide *side_describe(struct migration *m);
/* The rest: reads files, so without the machine lock. Any thread. */
void side_describe_host(struct migration *m, MigrationSide *side);

/* The setting of that name, NULL when it is not in the list. */
const char *side_setting(const GPtrArray *settings, const char *name);
bool side_has_capability(const MigrationSide *side, const char *name);

#endif
