/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of struct ram_save, for those who go on where precopy ends: migration/postcopy takes
 * the sets of dirty pages over as they are. Nobody else includes this.
 */
#ifndef MIGRATION_RAM_SAVE_PRIVATE_H
#define MIGRATION_RAM_SAVE_PRIVATE_H

#include "migration/ram/pages.h"
#include "migration/ram/save.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"
#include "util/sync.h"

/* 16 MiB: one ioctl re-arms it, and a busy guest cannot dirty it much again before it is sent. A
 * multiple of 64, as KVM wants. */
#define CHUNK_PAGES 4096u

struct save_block {
    struct ram_block *block;
    uint64_t pages;
    struct dirty_set dirty;
    bool skip; /* its pages do not travel */
    struct data_extent extent;
    unsigned discards; /* of the block when tracking began */
    uint64_t unseen;   /* pages from here on the first round has not looked at; see
                          ram_save_note_unseen() */
};

struct ram_save {
    struct vm *vm;
    struct ram_save_config config;
    struct save_block *blocks;
    unsigned count;
    bool tracking;
    bool first_round;
    bool leave_dirty; /* see ram_save_leave_dirty() */
    int pagemap_fd;
    struct xbzrle *xbzrle; /* NULL: off */
    uint64_t cache_asked;  /* bytes; what its cache was last told to be */
    uint64_t round_bytes, round_pages;

    /* cursor of the round */
    unsigned at_block;
    uint64_t at_page;
    uint64_t chunk_end;            /* pages below it are re-armed */
    const struct ram_block *named; /* block of the last record, for CONTINUE */
    uint64_t chunk_first;
    /* Of the current chunk: pages that are sent as zero without a look at them. Known in the first
     * round, and later where memory was discarded meanwhile. */
    bool untouched_known;
    unsigned long untouched[BITMAP_WORDS(CHUNK_PAGES)];

    struct mutex stats_lock;
    struct ram_save_stats stats;
};

/* Puts down how far the first round came, if it is not over: what lies behind is dirty only because
 * nobody has looked at it. The migration thread, before freeze. */
void ram_save_note_unseen(struct ram_save *rs);
/* So many of what remained were sent, of the zero pages `untouched` not even as zero. Any thread.
 */
void ram_save_account(struct ram_save *rs, uint64_t normal, uint64_t zero, uint64_t untouched);
/* So many remain. Any thread. */
void ram_save_set_remaining(struct ram_save *rs, uint64_t pages);

#endif
