/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of struct departure, for departure.c (asking and sending), discard.c (before freeze)
 * and departure-resume.c (a new link, giving memory back).
 */
#ifndef MIGRATION_POSTCOPY_DEPARTURE_PRIVATE_H
#define MIGRATION_POSTCOPY_DEPARTURE_PRIVATE_H

#include "migration/postcopy/departure.h"
#include "migration/postcopy/order.h"
#include "migration/ram/save-private.h"

struct departure_block {
    struct ram_block *block;
    struct save_block *save;
    struct dirty_set *owed; /* to be sent and not claimed: precopy's set of dirty pages */
    uint64_t pages, unit;   /* target pages; in a host page */

    unsigned long *discarded; /* named in a DISCARD command */

    /* Where the host may hold nothing for a page that is owed: pages from maybe_untouched on. Asked
     * once for each chunk, under ask_lock; a chunk's answer is read once its bit in `asked` is
     * set. NULL: nowhere. */
    uint64_t maybe_untouched;
    _Atomic(unsigned long) *asked;
    unsigned long *untouched;

    /* with release_ram, where only we map the block: sent, and not known to have arrived; given
     * back */
    unsigned long *sent, *released;
    unsigned long *marked; /* of sent: before departure_mark() */

    unsigned long
        *again; /* asked for while on its way, and sent once more; see departure_overtake() */

    bool heard;            /* its bitmap came since the last resume */
    uint64_t unbelievable; /* pages that it claims to have and that were never sent */
};

/* A host page that was asked for; it has been claimed. */
struct wanted {
    unsigned block;
    bool again; /* it has been sent, too */
    uint64_t page;
};

struct departure {
    struct ram_save *rs;
    struct departure_block *blocks;
    struct order_block *order_blocks;
    unsigned count;
    bool release_ram;
    bool looked; /* discard.c has taken out what nobody ever touched */
    struct mutex ask_lock;

    /* All below, and from freeze on the sets, under this leaf lock. */
    struct mutex lock;
    bool frozen;
    bool overtake;
    struct order order;
    const struct departure_block *last; /* of the last request; NULL: none came */
    /* a ring with room for a power of two; never more entries than host pages */
    struct wanted *queue;
    unsigned queue_room, queue_head;
    _Atomic(unsigned) queue_len; /* changes under the lock, is read without */
    uint64_t queued_pages;
    struct departure_stats stats; /* but remaining_pages and queue_max are counted here too */
};

/* Rounds the range out to host pages of the block. */
static inline void departure_round(const struct departure_block *b, uint64_t *first,
                                   uint64_t *count)
{
    uint64_t end = (*first + *count + b->unit - 1) / b->unit * b->unit;

    *first = *first / b->unit * b->unit;
    *count = MIN(end, b->pages) - *first;
}
/* NULL: no such block travels. */
struct departure_block *departure_find(struct departure *d, const char *idstr);
/* Adds a range to what is owed. */
void departure_owe(struct departure_block *b, uint64_t first, uint64_t count);
/* Pages that are owed or were asked for and not sent yet; lock held, or before freeze. */
uint64_t departure_remaining(const struct departure *d);

#endif
