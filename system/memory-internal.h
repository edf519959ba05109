/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between system/memory.c and system/ram-block.c. */
#ifndef SYSTEM_MEMORY_INTERNAL_H
#define SYSTEM_MEMORY_INTERNAL_H

#include "system/memory.h"

/* Takes ownership of the block and keeps the list sorted. */
void memory_insert_block(struct memory *mem, struct ram_block *block);
/* used_length changed: maps of the block follow. */
void memory_block_resized(struct memory *mem, struct ram_block *block);
void ram_block_free(struct ram_block *block);

#endif
