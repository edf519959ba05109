/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From dirty pages to pages that are owed: telling the destination what it has in vain.
 *
 * The switch may come before the first round is over. Pages that round has not looked at count as
 * dirty; those of them the host holds nothing for are known to be zero on a destination that said
 * so and are taken out first, while the guest runs: a chunk is re-armed and then asked about, in
 * that order, so that a page touched in between is found by one of the two.
 *
 * The first call names most of what is dirty while the guest runs, the second in its pause what
 * came since. The log says again what was not re-armed, so that is found by a map of what has been
 * named: a look at each word that has dirty pages in it.
 */
#include <string.h>

#include "accel/accel.h"
#include "migration/postcopy/departure-private.h"
#include "migration/stream/format.h"
#include "system/vm.h"

/* Pairs of a command, at most: as many as QEMU sends. */
#define PAIRS 12u

/* The ranges of a block on their way into commands. */
struct ranges {
    struct stream_out *o;
    const char *name;
    uint64_t first[PAIRS], count[PAIRS]; /* target pages */
    unsigned n;
};

static void flush(struct ranges *r)
{
    uint64_t pairs[2 * PAIRS];

    if (!r->n) {
        return;
    }
    for (unsigned i = 0; i < r->n; i++) {
        pairs[2 * i] = GUINT64_TO_BE(r->first[i] * TARGET_PAGE_SIZE);
        pairs[2 * i + 1] = GUINT64_TO_BE(r->count[i] * TARGET_PAGE_SIZE);
    }
    out_u8(r->o, STREAM_COMMAND);
    out_be16(r->o, STREAM_CMD_POSTCOPY_RAM_DISCARD);
    out_be16(r->o, (uint16_t)(1 + 1 + strlen(r->name) + 1 + r->n * 2 * sizeof(pairs[0])));
    out_u8(r->o, 0); /* version */
    out_pstr(r->o, r->name);
    out_u8(r->o, 0);
    out_bytes(r->o, pairs, r->n * 2 * sizeof(pairs[0]));
    r->n = 0;
}

static void add(struct ranges *r, uint64_t first, uint64_t count)
{
    if (r->n && r->first[r->n - 1] + r->count[r->n - 1] == first) {
        r->count[r->n - 1] += count;
        return;
    }
    if (r->n == PAIRS) {
        flush(r);
    }
    r->first[r->n] = first;
    r->count[r->n++] = count;
}

void departure_owe(struct departure_block *b, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        unsigned long bits = bitmap_word_mask(w, first, end);

        dirty_set_merge(b->owed, w * BITS_PER_LONG, &bits,
                        MIN(BITS_PER_LONG, b->pages - w * BITS_PER_LONG));
    }
}

/* Takes the untouched pages of a chunk out, re-arming it first. Returns how many they were. */
static uint64_t drop_untouched(struct departure *d, struct departure_block *b, uint64_t first,
                               uint64_t n)
{
    unsigned long populated[BITMAP_WORDS(CHUNK_PAGES)];
    struct data_extent *extent = &b->save->extent;
    int fd = d->rs->pagemap_fd;
    uint64_t dropped = 0, to;

    pages_populated(b->block, fd, first, n, extent, populated);
    if (bitmap_next_clear(populated, n, 0) >= n) {
        return 0;
    }
    d->rs->vm->accel->ops->dirty_clear(d->rs->vm, b->block, first, n);
    pages_populated(b->block, fd, first, n, extent, populated);
    for (uint64_t from = bitmap_next_clear(populated, n, 0); from < n;
         from = bitmap_next_clear(populated, n, to)) {
        to = bitmap_next_set(populated, n, from);
        dirty_set_remove(b->owed, first + from, to - from);
        dropped += to - from;
    }
    return dropped;
}

/* What precopy has not looked at. */
static void look_at_unseen(struct departure *d)
{
    uint64_t dropped = 0;

    ram_save_note_unseen(d->rs);
    for (unsigned i = 0; i < d->count; i++) {
        struct departure_block *b = &d->blocks[i];
        uint64_t unseen = b->save->unseen;

        if (!d->rs->config.zeroed) {
            /* the chunk at the cursor was looked at and not all of it sent */
            b->maybe_untouched = unseen ? (unseen - 1) / CHUNK_PAGES * CHUNK_PAGES : 0;
            b->asked = (void *)bitmap_new((b->pages + CHUNK_PAGES - 1) / CHUNK_PAGES);
            b->untouched = bitmap_new(b->pages);
            continue;
        }
        for (uint64_t first = unseen; first < b->pages; first += CHUNK_PAGES) {
            dropped += drop_untouched(d, b, first, MIN(CHUNK_PAGES, b->pages - first));
        }
        b->save->unseen = b->pages;
    }
    ram_save_account(d->rs, 0, dropped, dropped);
}

/* Makes host pages whole of which a page is dirty. */
static void round_out(struct departure_block *b)
{
    uint64_t first = 0, run;

    for (uint64_t from = 0; (run = dirty_set_next_run(b->owed, from, b->pages, &first));
         from = first + run) {
        uint64_t dirty = run;

        departure_round(b, &first, &run);
        if (run != dirty) { /* what a call before this has rounded is whole */
            departure_owe(b, first, run);
        }
    }
}

/* Names what is dirty and was not named. */
static uint64_t name_dirty(struct departure_block *b, struct stream_out *o)
{
    struct ranges r = { .o = o, .name = b->block->idstr };
    uint64_t first, named = 0;

    for (uint64_t w = 0; dirty_set_next_run(b->owed, w * BITS_PER_LONG, b->pages, &first); w++) {
        w = first / BITS_PER_LONG;
        unsigned long fresh = b->owed->words[w] & ~b->discarded[w];

        b->discarded[w] |= fresh;
        named += (uint64_t)__builtin_popcountl(fresh);
        while (fresh) {
            unsigned bit = (unsigned)__builtin_ctzl(fresh);
            unsigned long rest = ~(fresh >> bit);
            unsigned run = rest ? (unsigned)__builtin_ctzl(rest) : BITS_PER_LONG;

            run = MIN(run, BITS_PER_LONG - bit);
            add(&r, w * BITS_PER_LONG + bit, run);
            fresh &= ~(bitmap_word_mask(0, bit, bit + run));
        }
    }
    flush(&r);
    return named;
}

void departure_discard(struct departure *d, struct stream_out *o)
{
    uint64_t named = 0;

    if (!d->looked) {
        look_at_unseen(d);
        d->looked = true;
    }
    for (unsigned i = 0; i < d->count; i++) {
        struct departure_block *b = &d->blocks[i];

        if (b->unit > 1) {
            round_out(b);
        }
        named += name_dirty(b, o);
    }
    mutex_lock(&d->lock);
    d->stats.discarded_pages += named;
    uint64_t left = departure_remaining(d);
    mutex_unlock(&d->lock);
    ram_save_set_remaining(d->rs, left);
}

void departure_freeze(struct departure *d)
{
    mutex_lock(&d->lock);
    d->frozen = true;
    mutex_unlock(&d->lock);
}
