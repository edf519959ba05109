/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sets of dirty pages; see include/util/dirty-set.h. */
#include "util/dirty-set.h"

#include <glib.h>
#include <string.h>

#include "util/bitmap.h"

#define BIT_IN_WORD(i) (1ul << ((i) % BITS_PER_LONG))

void dirty_set_init(struct dirty_set *s, uint64_t pages)
{
    *s = (struct dirty_set){
        .words = bitmap_new(pages),
        .summary = bitmap_new(BITMAP_WORDS(pages)),
        .pages = pages,
    };
}

void dirty_set_clear(struct dirty_set *s)
{
    g_free(s->words);
    g_free(s->summary);
    *s = (struct dirty_set){ 0 };
}

void dirty_set_fill(struct dirty_set *s)
{
    bitmap_set_range(s->words, 0, s->pages);
    bitmap_set_range(s->summary, 0, BITMAP_WORDS(s->pages));
    s->count = s->pages;
}

/* Adds a word's bits; returns how many are new. */
static inline __attribute__((always_inline)) uint64_t add_word(struct dirty_set *s, uint64_t w,
                                                               unsigned long bits)
{
    unsigned long before = s->words[w];

    if (!before) {
        s->summary[w / BITS_PER_LONG] |= BIT_IN_WORD(w);
    }
    s->words[w] = before | bits;
    return (uint64_t)__builtin_popcountl(bits & ~before);
}

/* Words that lie on the set's own. Most are zero, so eight are looked at together. */
static inline __attribute__((always_inline)) uint64_t
merge_aligned(struct dirty_set *s, uint64_t at, const unsigned long *bits, uint64_t n)
{
    typedef unsigned long __attribute__((vector_size(32), aligned(8))) four;
    uint64_t fresh = 0, i = 0;

    for (; i + 8 <= n; i += 8) {
        const four *v = (const four *)(const void *)(bits + i);
        four any = v[0] | v[1];

        if (any[0] | any[1] | any[2] | any[3]) {
            for (unsigned k = 0; k < 8; k++) {
                if (bits[i + k]) {
                    fresh += add_word(s, at + i + k, bits[i + k]);
                }
            }
        }
    }
    for (; i < n; i++) {
        if (bits[i]) {
            fresh += add_word(s, at + i, bits[i]);
        }
    }
    return fresh;
}

__attribute__((target("avx2,popcnt"))) static uint64_t
merge_aligned_avx2(struct dirty_set *s, uint64_t at, const unsigned long *bits, uint64_t n)
{
    return merge_aligned(s, at, bits, n);
}

static uint64_t merge_aligned_any(struct dirty_set *s, uint64_t at, const unsigned long *bits,
                                  uint64_t n)
{
    return merge_aligned(s, at, bits, n);
}

/* A word's bits at any page. */
static uint64_t merge_word(struct dirty_set *s, uint64_t first, unsigned long bits)
{
    uint64_t w = first / BITS_PER_LONG, fresh = 0;
    unsigned shift = first % BITS_PER_LONG;

    if (bits << shift) {
        fresh += add_word(s, w, bits << shift);
    }
    if (shift && bits >> (BITS_PER_LONG - shift)) {
        fresh += add_word(s, w + 1, bits >> (BITS_PER_LONG - shift));
    }
    return fresh;
}

uint64_t dirty_set_merge(struct dirty_set *s, uint64_t first, const unsigned long *bits,
                         uint64_t count)
{
    uint64_t whole = count / BITS_PER_LONG, fresh = 0;

    g_assert(first <= s->pages && count <= s->pages - first);
    if (first % BITS_PER_LONG) {
        for (uint64_t i = 0; i < whole; i++) {
            if (bits[i]) {
                fresh += merge_word(s, first + i * BITS_PER_LONG, bits[i]);
            }
        }
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) {
        fresh = merge_aligned_avx2(s, first / BITS_PER_LONG, bits, whole);
    } else {
        fresh = merge_aligned_any(s, first / BITS_PER_LONG, bits, whole);
    }
    if (count % BITS_PER_LONG) {
        fresh +=
            merge_word(s, first + whole * BITS_PER_LONG, bits[whole] & (BIT_IN_WORD(count) - 1));
    }
    s->count += fresh;
    return fresh;
}

uint64_t dirty_set_next_run(const struct dirty_set *s, uint64_t from, uint64_t end, uint64_t *first)
{
    uint64_t w = from / BITS_PER_LONG;
    unsigned long word;

    if (from >= end) {
        return 0;
    }
    word = s->words[w] & (~0ul << (from % BITS_PER_LONG));
    if (!word) {
        w = bitmap_next_set(s->summary, BITMAP_WORDS(end), w + 1);
        if (w >= BITMAP_WORDS(end)) {
            return 0;
        }
        word = s->words[w];
    }
    *first = w * BITS_PER_LONG + (uint64_t)__builtin_ctzl(word);
    if (*first >= end) {
        return 0;
    }
    return bitmap_next_clear(s->words, end, *first) - *first;
}

void dirty_set_remove(struct dirty_set *s, uint64_t first, uint64_t count)
{
    if (!count) {
        return;
    }
    bitmap_clear_range(s->words, first, count);
    for (uint64_t w = first / BITS_PER_LONG; w <= (first + count - 1) / BITS_PER_LONG; w++) {
        if (!s->words[w]) {
            bitmap_clear(s->summary, w);
        }
    }
    s->count -= count;
}

/* --- the journal --- */

struct dirty_journal *dirty_journal_new(uint64_t pages)
{
    struct dirty_journal *j = g_new0(struct dirty_journal, 1);

    j->pages = pages;
    j->words = (void *)bitmap_new(pages);
    j->summary = (void *)bitmap_new(BITMAP_WORDS(pages));
    return j;
}

void dirty_journal_free(struct dirty_journal *j)
{
    if (j) {
        g_free((void *)j->words);
        g_free((void *)j->summary);
        g_free(j);
    }
}

void dirty_journal_add(struct dirty_journal *j, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        uint64_t base = w * BITS_PER_LONG;
        unsigned long mask = ~0ul;

        if (first > base) {
            mask &= ~0ul << (first - base);
        }
        if (end < base + BITS_PER_LONG) {
            mask &= ~0ul >> (base + BITS_PER_LONG - end);
        }
        /*
         * Always the locked OR, although the bit is mostly set already: it is also the barrier
         * between the data just written and a thread that takes the bit and then reads the page. A
         * plain test first would let that thread read the old page and this one believe that it is
         * still to be sent.
         */
        atomic_fetch_or(&j->words[w], mask);
        /* The summary may be tested: a taker empties it before the word, so one that has emptied
         * it after this look will see the bit just set. */
        if (!(atomic_load(&j->summary[w / BITS_PER_LONG]) & BIT_IN_WORD(w))) {
            atomic_fetch_or(&j->summary[w / BITS_PER_LONG], BIT_IN_WORD(w));
        }
    }
}

uint64_t dirty_journal_take(struct dirty_journal *j, struct dirty_set *s)
{
    uint64_t fresh = 0;

    for (uint64_t i = 0; i < BITMAP_WORDS(BITMAP_WORDS(j->pages)); i++) {
        if (!atomic_load_explicit(&j->summary[i], memory_order_relaxed)) {
            continue;
        }
        unsigned long todo = atomic_exchange(&j->summary[i], 0);

        for (; todo; todo &= todo - 1) {
            uint64_t w = i * BITS_PER_LONG + (uint64_t)__builtin_ctzl(todo);
            unsigned long bits = atomic_exchange(&j->words[w], 0);
            uint64_t left = s->pages > w * BITS_PER_LONG ? s->pages - w * BITS_PER_LONG : 0;

            if (left < BITS_PER_LONG) {
                bits &= (1ul << left) - 1; /* a resizable block may have become shorter */
            }
            if (bits) {
                fresh += add_word(s, w, bits);
            }
        }
    }
    s->count += fresh;
    return fresh;
}
