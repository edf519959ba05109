/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the check before a migration says of virtio devices that both sides have. */
#ifndef MIGRATION_CHECK_VIRTIO_H
#define MIGRATION_CHECK_VIRTIO_H

#include "migration/check/findings.h"
#include "qapi/qapi-types.h"

/* Adds what stands in the way of the source's devices, and what is worth to know. Pure. */
void virtio_compare(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings);

#endif
