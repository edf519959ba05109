/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks of two sides; see disks.c. */
#ifndef MIGRATION_CHECK_DISKS_H
#define MIGRATION_CHECK_DISKS_H

#include "migration/check/findings.h"

/* Adds what stands between the source's disks and the destination's. */
void disks_compare(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings);

#endif
