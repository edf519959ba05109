/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A look at some pages of the guest's memory, to find out later how many of them have changed. Any
 * thread, no locks; never touches memory that was never touched.
 */
#ifndef MIGRATION_CONVERGE_SAMPLE_H
#define MIGRATION_CONVERGE_SAMPLE_H

#include <stdint.h>

struct memory;
struct sample;

/* So many pages per GiB, picked at random from all blocks that migrate. */
struct sample *sample_take(struct memory *mem, uint64_t pages_per_gib);
/* Pages of the guest that have changed since, reckoned from those that were looked at. */
uint64_t sample_changed(const struct sample *s);
void sample_free(struct sample *s);

#endif
