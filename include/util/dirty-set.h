/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sets of dirty pages whose cost follows what is in them, not how large the guest is: above the
 * bitmap (a word for 64 pages) lies a summary with a bit for each word that is not zero.
 *
 * struct dirty_set belongs to one thread. struct dirty_journal is written by any threads and taken
 * by one.
 */
#ifndef UTIL_DIRTY_SET_H
#define UTIL_DIRTY_SET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct dirty_set {
    unsigned long *words;   /* bit i: page i */
    unsigned long *summary; /* bit w: words[w] is not zero */
    uint64_t pages;
    uint64_t count; /* pages in it */
};

void dirty_set_init(struct dirty_set *s, uint64_t pages); /* empty */
void dirty_set_clear(struct dirty_set *s);                /* frees; zeroed structs are fine */
void dirty_set_fill(struct dirty_set *s);                 /* every page */
/*
 * Adds the pages first + i for the bits i of `bits`, of which there are `count`; bits beyond are
 * not looked at. Returns how many were not in it before. The caller's range lies inside the set.
 */
uint64_t dirty_set_merge(struct dirty_set *s, uint64_t first, const unsigned long *bits,
                         uint64_t count);
/* The first run of pages in [from, end): its length, 0 when there is none. */
uint64_t dirty_set_next_run(const struct dirty_set *s, uint64_t from, uint64_t end,
                            uint64_t *first);
/* Takes pages out that are in it. */
void dirty_set_remove(struct dirty_set *s, uint64_t first, uint64_t count);

struct dirty_journal {
    uint64_t pages;
    _Atomic(unsigned long) *words, *summary;
};

struct dirty_journal *dirty_journal_new(uint64_t pages);
void dirty_journal_free(struct dirty_journal *j); /* NULL is fine */
/* Any thread. A page whose data was written before is never missed by a later take. */
void dirty_journal_add(struct dirty_journal *j, uint64_t first, uint64_t count);
/* Empties it into the set, which has as many pages or fewer; returns how many were not in it
 * before. */
uint64_t dirty_journal_take(struct dirty_journal *j, struct dirty_set *s);
/* Whether a page is in it; takes nothing. */
bool dirty_journal_has(const struct dirty_journal *j, uint64_t page);

#endif
