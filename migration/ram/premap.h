/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages of the destination's memory files, mapped while it waits for its source. */
#ifndef MIGRATION_RAM_PREMAP_H
#define MIGRATION_RAM_PREMAP_H

#include <stdint.h>

struct vm;
struct premap;

/* Starts the thread "mig/premap", where there is anything to map; NULL otherwise, or when there is
 * no thread to be had: everything works without. Machine lock held, vCPUs do not run. */
struct premap *premap_start(struct vm *vm);
/* Ends the thread, within a millisecond or so. From any one thread; NULL and twice are fine. */
void premap_stop(struct premap *pm);
/* After premap_stop(): the pages of the block [0, this) are mapped, as far as the host has them. */
uint64_t premap_end(const struct premap *pm, unsigned block_index);
void premap_free(struct premap *pm);

#endif
