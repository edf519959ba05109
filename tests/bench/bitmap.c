/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a round costs in bitmaps alone, for a guest too large to have here: the functions that a
 * migration uses, called in the same order, without the two ioctls and without sending anything.
 *
 *   bitmap GIB PERMILLE RUN TURNS
 *
 * PERMILLE of all pages are dirty, in runs of RUN pages at random places. Prints one JSON object:
 * medians in ms of TURNS rounds. "merge": what the log says is added to the set, and what the VMM
 * wrote itself; "walk": each run found, its chunk's mask for KVM made, and the run taken out.
 */
#include <err.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>

#include "accel/kvm/kvm-internal.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"

#define CHUNK_PAGES 1024u /* CHUNK_PAGES_AGAIN of migration/ram/save.c */

struct round {
    double merge_ms, walk_ms;
    uint64_t pages, runs;
};

static double ms_since(int64_t begun)
{
    return (double)(g_get_monotonic_time() - begun) / 1e3;
}

static void dirty(unsigned long *log, uint64_t pages, uint64_t permille, uint64_t run, GRand *rand)
{
    for (uint64_t n = pages / 1000 * permille / run; n > 0; n--) {
        uint64_t at = (uint64_t)(g_rand_double(rand) * (double)(pages - run));

        bitmap_set_range(log, at, run);
    }
}

static void walk(struct dirty_set *set, struct kvm_slot *slot, struct round *r)
{
    unsigned long mask[BITMAP_WORDS(CHUNK_PAGES) + 1];
    uint64_t at = 0, chunk_end = 0, n;

    while (dirty_set_next_run(set, at, set->pages, &at)) {
        if (at >= chunk_end) {
            uint64_t first = at - at % BITS_PER_LONG;
            struct kvm_clear_dirty_log clear;

            chunk_end = MIN(at - at % CHUNK_PAGES + CHUNK_PAGES, set->pages);
            if (kvm_log_clear_mask(slot, first, chunk_end - first, mask, &clear)) {
                bitmap_clear_range(slot->bits, first, chunk_end - first);
            }
        }
        while ((n = dirty_set_next_run(set, at, chunk_end, &at))) {
            dirty_set_remove(set, at, n);
            at += n;
            r->pages += n;
            r->runs++;
        }
        at = chunk_end;
    }
}

static int by_total(const void *a, const void *b)
{
    const struct round *x = a, *y = b;
    double d = x->merge_ms + x->walk_ms - y->merge_ms - y->walk_ms;

    return (d > 0) - (d < 0);
}

int main(int argc, char **argv)
{
    uint64_t v[4];

    if (argc != 5) {
        errx(1, "usage: bitmap GIB PERMILLE RUN TURNS");
    }
    for (unsigned i = 0; i < 4; i++) {
        v[i] = strtoull(argv[i + 1], NULL, 10);
        if (!v[i]) {
            errx(1, "'%s' is not a number above 0", argv[i + 1]);
        }
    }
    uint64_t pages = v[0] << 18, turns = v[3];
    struct kvm_slot slot = { .pages = pages, .bits = bitmap_new(pages) };
    struct dirty_journal *journal = dirty_journal_new(pages);
    g_autofree struct round *rounds = g_new0(struct round, turns);
    GRand *rand = g_rand_new_with_seed(1);
    struct dirty_set set;

    dirty_set_init(&set, pages);
    dirty_set_fill(&set); /* touches all of it, as the first round does */
    dirty_set_remove(&set, 0, pages);
    for (uint64_t i = 0; i < turns; i++) {
        struct round *r = &rounds[i];

        dirty(slot.bits, pages, v[1], v[2], rand);
        for (unsigned k = 0; k < 100; k++) {
            dirty_journal_add(journal, (uint64_t)(g_rand_double(rand) * (double)(pages - 8)), 8);
        }
        int64_t begun = g_get_monotonic_time();

        dirty_set_merge(&set, 0, slot.bits, pages);
        dirty_journal_take(journal, &set);
        r->merge_ms = ms_since(begun);
        begun = g_get_monotonic_time();
        walk(&set, &slot, r);
        r->walk_ms = ms_since(begun);
        if (set.count) {
            errx(1, "The walk has left pages behind");
        }
    }
    qsort(rounds, turns, sizeof(*rounds), by_total);
    const struct round *m = &rounds[turns / 2];

    printf("{\"gib\": %s, \"run\": %s, \"pages\": %llu, \"runs\": %llu, \"merge_ms\": %.2f, "
           "\"walk_ms\": %.2f, \"round_ms\": %.2f}\n",
           argv[1], argv[3], (unsigned long long)m->pages, (unsigned long long)m->runs, m->merge_ms,
           m->walk_ms, m->merge_ms + m->walk_ms);
    g_rand_free(rand);
    dirty_set_clear(&set);
    dirty_journal_free(journal);
    g_free(slot.bits);
    return 0;
}
