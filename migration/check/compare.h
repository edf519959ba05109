/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Can the guest of one side move to the other? */
#ifndef MIGRATION_CHECK_COMPARE_H
#define MIGRATION_CHECK_COMPARE_H

#include "migration/check/findings.h"

/*
 * Adds what stands in the way of a guest that `source` describes moving to `destination`, whose
 * description is complete with its host. Pure: no lock, no machine; `source` may be a hostile
 * peer's, as far as the schema lets it through.
 */
void sides_compare(const MigrationSide *source, const MigrationSide *destination,
                   GPtrArray *findings);

#endif
