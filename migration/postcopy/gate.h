/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The VMM's own way to guest memory that has not come yet. Private to the incoming side. */
#ifndef MIGRATION_POSTCOPY_GATE_H
#define MIGRATION_POSTCOPY_GATE_H

#include "migration/postcopy/listen.h"

/* Both with the machine lock held. */
void gate_open(struct postcopy_in *p);  /* from LISTEN on */
void gate_close(struct postcopy_in *p); /* all memory is here, or the process ends; idempotent */
/* Joins what gate_close() has let go of; the watch has ended. */
void gate_free(struct postcopy_in *p);

#endif
