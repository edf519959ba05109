/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of the background.
 *
 * A guest that waits for a page will soon want what lies beside it; so from the page that was asked
 * for last the background works outward in pieces, until its block is done. Most programs read
 * upwards, so the first piece is the one above, and then they alternate. What is left of the other
 * blocks then goes in order of address: nothing is known of it.
 */
#include "migration/postcopy/order.h"

#include <glib.h>
#include <string.h>

#include "util/bitmap.h"

void order_init(struct order *o, const struct order_block *blocks, unsigned count)
{
    *o = (struct order){ .blocks = blocks, .count = count };
}

void order_reset(struct order *o)
{
    order_init(o, o->blocks, o->count);
}

void order_asked(struct order *o, unsigned block, uint64_t page)
{
    o->focused = true;
    o->block = block;
    o->up = page + o->blocks[block].unit;
    o->down = page;
    o->turn = 0;
}

/* The last page below `end` that is in the set; false when there is none. */
static bool last_before(const struct dirty_set *s, uint64_t end, uint64_t *page)
{
    if (!end) {
        return false;
    }
    uint64_t w = (end - 1) / BITS_PER_LONG;
    unsigned long word = s->words[w] & bitmap_word_mask(w, 0, end);

    if (!word) {
        if (!w) {
            return false;
        }
        uint64_t i = (w - 1) / BITS_PER_LONG;
        unsigned long some = s->summary[i] & bitmap_word_mask(i, 0, w);

        while (!some) {
            if (!i) {
                return false;
            }
            some = s->summary[--i];
        }
        w = i * BITS_PER_LONG + BITS_PER_LONG - 1 - (unsigned)__builtin_clzl(some);
        word = s->words[w];
    }
    *page = w * BITS_PER_LONG + BITS_PER_LONG - 1 - (unsigned)__builtin_clzl(word);
    return true;
}

/* How many pages a piece has: whole host pages, at least one. */
static uint64_t limit(uint64_t unit, uint64_t max_pages)
{
    return MAX(max_pages / unit, 1) * unit;
}

static bool above(struct order *o, uint64_t max_pages, struct piece *p)
{
    const struct order_block *b = &o->blocks[o->block];
    uint64_t run = dirty_set_next_run(b->owed, o->up, b->owed->pages, &p->first);

    if (!run) {
        o->up = b->owed->pages;
        return false;
    }
    p->block = o->block;
    p->count = MIN(run, limit(b->unit, max_pages));
    o->up = p->first + p->count;
    return true;
}

static bool below(struct order *o, uint64_t max_pages, struct piece *p)
{
    const struct order_block *b = &o->blocks[o->block];
    uint64_t last, first, run, window = limit(b->unit, max_pages);

    if (!last_before(b->owed, o->down, &last)) {
        o->down = 0;
        return false;
    }
    /* the last run in the window that ends with that page */
    uint64_t from = last + 1 > window ? last + 1 - window : 0;

    from = (from + b->unit - 1) / b->unit * b->unit; /* the block's last one may be cut short */
    for (; (run = dirty_set_next_run(b->owed, from, last + 1, &first)) && first + run <= last;
         from = first + run) {
    }
    *p = (struct piece){ .block = o->block, .first = first, .count = run };
    o->down = first;
    return true;
}

bool order_next(struct order *o, uint64_t max_pages, struct piece *p)
{
    if (o->focused) {
        bool up_first = o->turn++ % 2 == 0;

        if (up_first ? above(o, max_pages, p) || below(o, max_pages, p)
                     : below(o, max_pages, p) || above(o, max_pages, p)) {
            return true;
        }
        o->focused = false;
    }
    for (; o->at_block < o->count; o->at_block++, o->at_page = 0) {
        const struct order_block *b = &o->blocks[o->at_block];
        uint64_t run = dirty_set_next_run(b->owed, o->at_page, b->owed->pages, &p->first);

        if (run) {
            p->block = o->at_block;
            p->count = MIN(run, limit(b->unit, max_pages));
            o->at_page = p->first + p->count;
            return true;
        }
    }
    return false;
}
