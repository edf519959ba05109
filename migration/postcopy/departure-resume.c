/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A link broke: what is owed is found anew. All threads that send have ended by then.
 *
 * The destination says which pages it has. Those it lacks are owed, whoever claimed them before,
 * for memory is constant and sending a page twice harms nobody. Those it claims to have are done,
 * unless they never were sent: then a confused or hostile destination would run on something that
 * is not the guest's memory, so they stay owed, and the log says so.
 *
 * What was given back to the host can be sent no more. It was confirmed before; a destination that
 * now lacks it is refused.
 */
#include "migration/postcopy/departure-private.h"

#include <string.h>
#include <sys/mman.h>

#include "util/error.h"

/* What was asked for and not sent is owed again; the destination asks again. Lock held. */
static void forget_requests(struct departure *d)
{
    for (; d->queue_len; d->queue_len--) {
        struct wanted w = d->queue[d->queue_head];
        struct departure_block *b = &d->blocks[w.block];

        if (!w.again) {
            departure_owe(b, w.page, MIN(b->unit, b->pages - w.page));
        }
        d->queue_head = (d->queue_head + 1) & (d->queue_room - 1);
    }
    d->queued_pages = 0;
    d->last = NULL;
}

/* The pages of the block that the bitmap leaves out, rounded out to host pages. */
static unsigned long *missing_pages(const struct departure_block *b, const uint8_t *bits)
{
    unsigned long *missing = bitmap_new(b->pages);

    for (uint64_t w = 0; w < BITMAP_WORDS(b->pages); w++) {
        uint64_t have;

        memcpy(&have, bits + w * sizeof(have), sizeof(have));
        missing[w] = ~GUINT64_FROM_LE(have) & bitmap_word_mask(w, 0, b->pages);
    }
    if (b->unit > 1) {
        for (uint64_t first = bitmap_next_set(missing, b->pages, 0); first < b->pages;
             first = bitmap_next_set(missing, b->pages, first)) {
            uint64_t count = 1;

            departure_round(b, &first, &count);
            bitmap_set_range(missing, first, count);
            first += count;
        }
    }
    return missing;
}

/* The first page that is missing and was given back; b->pages when there is none. */
static uint64_t first_released(const struct departure_block *b, const unsigned long *missing)
{
    for (uint64_t w = 0; b->released && w < BITMAP_WORDS(b->pages); w++) {
        unsigned long both = missing[w] & b->released[w];

        if (both) {
            return w * BITS_PER_LONG + (unsigned)__builtin_ctzl(both);
        }
    }
    return b->pages;
}

bool departure_received(struct departure *d, const char *idstr, const uint8_t *bits, size_t len,
                        GError **err)
{
    struct departure_block *b = departure_find(d, idstr);

    if (!b) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination says what it has of memory '%s', which is not part of this "
                  "migration",
                  idstr);
        return false;
    }
    size_t expected = BITMAP_WORDS(b->pages) * sizeof(uint64_t);

    if (len != expected) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination says in %zu bytes what it has of memory '%s', which takes %zu",
                  len, idstr, expected);
        return false;
    }
    g_autofree unsigned long *missing = missing_pages(b, bits);
    uint64_t gone = first_released(b, missing);

    if (gone < b->pages) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination lacks memory at 0x%" G_GINT64_MODIFIER
                  "x of '%s', which it had confirmed and the source has given back",
                  gone * TARGET_PAGE_SIZE, idstr);
        return false;
    }
    mutex_lock(&d->lock);
    forget_requests(d);
    b->heard = true;
    b->unbelievable = 0;
    for (uint64_t w = 0; w < BITMAP_WORDS(b->pages); w++) {
        b->unbelievable += (uint64_t)__builtin_popcountl(b->owed->words[w] & ~missing[w]);
    }
    dirty_set_merge(b->owed, 0, missing, b->pages);
    if (b->sent) {
        /* what it has needs no other confirmation; what it lacks was never sent */
        for (uint64_t w = 0; w < BITMAP_WORDS(b->pages); w++) {
            b->sent[w] = (b->sent[w] | b->marked[w]) & ~missing[w];
            b->marked[w] = 0;
        }
    }
    mutex_unlock(&d->lock);
    return true;
}

const char *departure_block_name(const struct departure *d, unsigned index)
{
    return index < d->count ? d->blocks[index].block->idstr : NULL;
}

void departure_resume(struct departure *d)
{
    mutex_lock(&d->lock);
    forget_requests(d);
    order_reset(&d->order);
    for (unsigned i = 0; i < d->count; i++) {
        struct departure_block *b = &d->blocks[i];

        if (!b->heard) {
            /* nobody said anything: all that can be sent is */
            for (uint64_t w = 0; w < BITMAP_WORDS(b->pages); w++) {
                unsigned long bits = ~(b->released ? b->released[w] : 0);

                dirty_set_merge(b->owed, w * BITS_PER_LONG, &bits,
                                MIN(BITS_PER_LONG, b->pages - w * BITS_PER_LONG));
            }
        }
        if (b->unbelievable) {
            report_warning("The destination says it has %" G_GUINT64_FORMAT
                           " pages of memory '%s' that were never sent; they are sent all the same",
                           b->unbelievable, b->block->idstr);
        }
        memset(b->again, 0, BITMAP_WORDS(b->pages) * sizeof(*b->again));
        b->heard = false;
        b->unbelievable = 0;
    }
    uint64_t left = departure_remaining(d);
    mutex_unlock(&d->lock);
    ram_save_set_remaining(d->rs, left);
}

void departure_mark(struct departure *d)
{
    mutex_lock(&d->lock);
    for (unsigned i = 0; i < d->count; i++) {
        struct departure_block *b = &d->blocks[i];

        for (uint64_t w = 0; b->sent && w < BITMAP_WORDS(b->pages); w++) {
            b->marked[w] |= b->sent[w];
            b->sent[w] = 0;
        }
    }
    mutex_unlock(&d->lock);
}

void departure_release(struct departure *d)
{
    for (unsigned i = 0; i < d->count; i++) {
        struct departure_block *b = &d->blocks[i];

        if (!b->sent) {
            continue;
        }
        g_autofree unsigned long *done = bitmap_new(b->pages);

        mutex_lock(&d->lock);
        for (uint64_t w = 0; w < BITMAP_WORDS(b->pages); w++) {
            done[w] = b->marked[w] & ~b->again[w]; /* it may be about to be sent once more */
            b->released[w] |= done[w];
            b->marked[w] = 0;
        }
        mutex_unlock(&d->lock);
        uint64_t to;

        for (uint64_t from = bitmap_next_set(done, b->pages, 0); from < b->pages;
             from = bitmap_next_set(done, b->pages, to)) {
            to = bitmap_next_clear(done, b->pages, from);
            /* what the host does not take back it keeps */
            (void)madvise(b->block->host + from * TARGET_PAGE_SIZE, (to - from) * TARGET_PAGE_SIZE,
                          MADV_DONTNEED);
        }
    }
}
