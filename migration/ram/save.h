/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM on the way out: which pages are still to be sent, and sending them. Used by the migration
 * thread alone; the statistics may be read by others through ram_save_stats().
 */
#ifndef MIGRATION_RAM_SAVE_H
#define MIGRATION_RAM_SAVE_H

#include "migration/ram/xbzrle-send.h"
#include "migration/stream/out.h"
#include "system/memory.h"

struct vm;

struct ram_save_config {
    bool ignore_shared; /* capability x-ignore-shared */
    bool zeroed;        /* the destination's memory is known to be zero: FERRY_FEATURE_ZEROED */
    bool postcopy;      /* POSTCOPY_ADVISE was sent: the list has the sizes of huge pages */
};

struct ram_save_stats {
    uint64_t total_bytes;     /* used length of all blocks */
    uint64_t remaining_pages; /* still to be sent, as far as known */
    uint64_t normal_pages,
        zero_pages;             /* sent since the beginning; never-touched pages count as zero */
    uint64_t sync_count;        /* dirty log read so often */
    uint64_t dirtied_last;      /* pages the last sync found newly dirty */
    uint64_t untouched_pages;   /* not even sent as zero */
    struct xbzrle_stats xbzrle; /* zero when it is off */
    double page_bytes;          /* with xbzrle: of a page of the last round on the wire */
};

struct ram_save;
struct ram_save *ram_save_new(struct vm *vm);
/* Ends dirty tracking if it is on. Takes the machine lock for a moment. */
void ram_save_free(struct ram_save *rs);

/*
 * Sends what changes in a page that was sent before (xbzrle), with a cache of so many bytes: a
 * power of two, at least a page. To be called before the first section, and again for another size,
 * at best before each section: it does nothing when the size is the one of the last call. Nothing
 * may be queued. False: the host does not give so much memory; a cache that there was stays.
 */
bool ram_save_use_xbzrle(struct ram_save *rs, uint64_t cache_bytes, GError **err);
/* Starts dirty tracking with every page to be sent. Takes the machine lock for a moment. */
bool ram_save_start_tracking(struct ram_save *rs, GError **err);
/* Which sizes the host's pages have, or'ed together: what POSTCOPY_ADVISE says. Bytes. */
uint64_t ram_save_page_sizes(const struct ram_save *rs);
/* Writes the START section: the list of blocks. */
void ram_save_setup(struct ram_save *rs, const struct ram_save_config *config,
                    struct stream_out *o);
/*
 * After setup, before the first section: re-arms all memory and from then on takes pages that the
 * guest says it does not need (ram_block_not_needed()) for untouched, in the first round. Takes the
 * machine lock for a moment. end: with the machine lock held.
 */
void ram_save_ask_for_hints(struct ram_save *rs);
void ram_save_end_hints(struct ram_save *rs);
/*
 * Writes one PART (or, with end, the END section) with up to about max_bytes of what is left of the
 * round; less where finding it takes long, unless max_bytes is UINT64_MAX. True when the round is
 * over: every page that was dirty at the last sync has been sent.
 */
bool ram_save_section(struct ram_save *rs, struct stream_out *o, uint64_t max_bytes, bool end);
/* Collects what was dirtied since the last time and starts a new round. */
bool ram_save_sync(struct ram_save *rs, GError **err);
/*
 * For the rest of the first round pages that are sent are not re-armed, and so all to be sent again
 * in the second one: for a guest that writes to all of them anyway, which then does not pay for a
 * fault each time. Memory that was never touched is left out of it.
 */
void ram_save_leave_dirty(struct ram_save *rs);
uint64_t ram_save_remaining(const struct ram_save *rs);
/* Any thread. */
void ram_save_get_stats(struct ram_save *rs, struct ram_save_stats *stats);

#endif
