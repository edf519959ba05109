/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of the background.
 *
 * A guest that waits for a page will soon want what lies beside it. So from where it asked the
 * background works outward, to both sides, upwards first: most programs read so. Where requests
 * follow each other in one direction three of four pieces go there; else a guest that reads
 * downwards would find in each of its short waits only what it has left behind.
 *
 * Several vCPUs read in several places, so the last ORDER_PLACES of them are kept, the latest
 * first, and a request that is near to one moves that one. The first gets every second piece, the
 * next every fourth, and so on: a vCPU that waits is served at once, and places that were asked for
 * by chance, or by somebody who has gone on, cost the others little. In the model of tests/unit/
 * test-order.c, of 16 vCPUs that read upwards together half as fast as the link, each waits 9 times
 * in 2,000 pages; with pages in order of address, 640 times. A guest that jumps about at random
 * gains and loses nothing.
 *
 * A place is done when its block is. What is left then goes in order of address: nothing is known
 * of it.
 */
#include "migration/postcopy/order.h"

#include <glib.h>
#include <string.h>

#include "util/bitmap.h"

/* A request so many host pages beyond what was sent around a place belongs to it. */
#define NEARBY 512u
/* So many requests turn a direction round. */
#define TREND 2

void order_init(struct order *o, const struct order_block *blocks, unsigned count)
{
    *o = (struct order){ .blocks = blocks, .count = count };
}

void order_reset(struct order *o)
{
    order_init(o, o->blocks, o->count);
}

/* The place that the page belongs to; o->used when it is a new one. */
static unsigned place_of(const struct order *o, unsigned block, uint64_t page)
{
    for (unsigned i = 0; i < o->used; i++) {
        const struct order_place *p = &o->places[i];
        uint64_t reach = NEARBY * o->blocks[block].unit;

        if (p->block == block && page < p->up + reach && page + reach >= p->down) {
            return i;
        }
    }
    return o->used;
}

void order_asked(struct order *o, unsigned block, uint64_t page)
{
    unsigned i = place_of(o, block, page);
    struct order_place place;

    if (i < o->used) {
        place = o->places[i];
        place.trend += page > place.last ? 1 : page < place.last ? -1 : 0;
        place.trend = CLAMP(place.trend, -TREND, TREND);
    } else {
        place = (struct order_place){ .block = block };
        if (o->used < ORDER_PLACES) {
            o->used++;
        }
        i = o->used - 1;
    }
    place.last = page;
    place.up = page + o->blocks[block].unit;
    place.down = page;
    place.turn = 0;
    memmove(o->places + 1, o->places, i * sizeof(o->places[0]));
    o->places[0] = place;
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

static bool above(struct order *o, struct order_place *at, uint64_t max_pages, struct piece *p)
{
    const struct order_block *b = &o->blocks[at->block];
    uint64_t run = dirty_set_next_run(b->owed, at->up, b->owed->pages, &p->first);

    if (!run) {
        at->up = b->owed->pages;
        return false;
    }
    p->block = at->block;
    p->count = MIN(run, limit(b->unit, max_pages));
    at->up = p->first + p->count;
    return true;
}

static bool below(struct order *o, struct order_place *at, uint64_t max_pages, struct piece *p)
{
    const struct order_block *b = &o->blocks[at->block];
    uint64_t last, first, run, window = limit(b->unit, max_pages);

    if (!last_before(b->owed, at->down, &last)) {
        at->down = 0;
        return false;
    }
    /* the last run in the window that ends with that page */
    uint64_t from = last + 1 > window ? last + 1 - window : 0;

    from = (from + b->unit - 1) / b->unit * b->unit; /* the block's last one may be cut short */
    for (; (run = dirty_set_next_run(b->owed, from, last + 1, &first)) && first + run <= last;
         from = first + run) {
    }
    *p = (struct piece){ .block = at->block, .first = first, .count = run };
    at->down = first;
    return true;
}

/* From one place, outward. */
static bool outward(struct order *o, struct order_place *at, uint64_t max_pages, struct piece *p)
{
    bool up = at->trend > 0   ? at->turn % 4 != 3
              : at->trend < 0 ? at->turn % 4 == 3
                              : at->turn % 2 == 0;

    at->turn++;
    return up ? above(o, at, max_pages, p) || below(o, at, max_pages, p)
              : below(o, at, max_pages, p) || above(o, at, max_pages, p);
}

bool order_next(struct order *o, uint64_t max_pages, struct piece *p)
{
    while (o->used) {
        unsigned rank = (unsigned)__builtin_ctz(++o->turn | 1u << 31);
        unsigned i = MIN(rank, o->used - 1);

        if (outward(o, &o->places[i], max_pages, p)) {
            return true;
        }
        memmove(&o->places[i], &o->places[i + 1], (--o->used - i) * sizeof(o->places[0]));
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
