/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Questions about pages of a RAM block: is it zero, does the host hold anything for it at all. */
#ifndef MIGRATION_RAM_PAGES_H
#define MIGRATION_RAM_PAGES_H

#include "system/memory.h"

/* True when all of the target page is zero. Reads it (so it must be known to be populated). */
bool page_is_zero(const void *page);

/* The stretch of data in the backing file that was found last, so that a walk through the block
 * asks once per stretch and not once per call. Starts zeroed. */
struct data_extent {
    int64_t start, end; /* bytes */
    unsigned discards;  /* of the block when it was found */
};

/*
 * Sets the bits [0, pages) of `populated` for those of the block's pages [first, first + pages) for
 * which the host holds memory, swap or file data; the others read as zero and were never touched.
 * Where the kernel does not tell, all are said to be populated. pagemap_fd comes from
 * pagemap_open().
 */
void pages_populated(const struct ram_block *block, int pagemap_fd, uint64_t first, uint64_t pages,
                     struct data_extent *extent, unsigned long *populated);
/* -1: not to be had; pages_populated() then answers "all". */
int pagemap_open(void);

/* Makes all of the block read as zero, without touching what was never touched. Vcpus stopped. */
void ram_block_zero(struct ram_block *block);

#endif
