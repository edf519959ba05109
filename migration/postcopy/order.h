/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In which order pages go that nobody has asked for; the rule and its reasons are in order.c. It
 * only looks: whoever takes what it proposes removes it from the set.
 *
 * Whoever holds the lock of the sets may call it.
 */
#ifndef MIGRATION_POSTCOPY_ORDER_H
#define MIGRATION_POSTCOPY_ORDER_H

#include "util/dirty-set.h"

struct order_block {
    const struct dirty_set *owed; /* whole host pages */
    uint64_t unit;                /* target pages in a host page */
};

/* A place where the guest reads. */
struct order_place {
    unsigned block;
    uint64_t up, down; /* the way up goes on at `up`, the way down ends at `down` */
    uint64_t last;     /* page that was asked for last */
    int trend;         /* > 0: each request is above the one before */
    unsigned turn;
};
#define ORDER_PLACES 16u

struct order {
    const struct order_block *blocks;
    unsigned count;

    struct order_place places[ORDER_PLACES]; /* the one of the last request first */
    unsigned used;
    unsigned turn;

    /* the sweep over what is left */
    unsigned at_block;
    uint64_t at_page;
};

struct piece {
    unsigned block;
    uint64_t first, count; /* target pages: whole host pages */
};

/* The blocks stay with the caller. */
void order_init(struct order *o, const struct order_block *blocks, unsigned count);
/* Begins anew: pages may be owed again that were not. */
void order_reset(struct order *o);
/* The guest waits for this page. */
void order_asked(struct order *o, unsigned block, uint64_t page);
/* What is to go next, at most about max_pages of it but a host page. False: nothing is owed. */
bool order_next(struct order *o, uint64_t max_pages, struct piece *p);

#endif
