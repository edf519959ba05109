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

/* Walks stay this many words of the summary ahead of themselves: what was merged a whole bitmap ago
 * is no longer in a near cache. */
#define AHEAD 6u

/* The first word at or after w, below n, that is not zero; n when there is none. */
static inline uint64_t next_word(const struct dirty_set *s, uint64_t w, uint64_t n)
{
    uint64_t i = w / BITS_PER_LONG;
    unsigned long some;

    if (w >= n) {
        return n;
    }
    some = s->summary[i] & (~0ul << (w % BITS_PER_LONG));
    while (!some) {
        if (++i * BITS_PER_LONG >= n) {
            return n;
        }
        some = s->summary[i];
        if ((i + AHEAD) * BITS_PER_LONG < n && s->summary[i + AHEAD]) {
            __builtin_prefetch(&s->words[(i + AHEAD) * BITS_PER_LONG +
                                         (uint64_t)__builtin_ctzl(s->summary[i + AHEAD])],
                               1);
        }
    }
    w = i * BITS_PER_LONG + (uint64_t)__builtin_ctzl(some);
    return MIN(w, n);
}

uint64_t dirty_set_next_run(const struct dirty_set *s, uint64_t from, uint64_t end, uint64_t *first)
{
    uint64_t n = BITMAP_WORDS(end);
    uint64_t w = next_word(s, from / BITS_PER_LONG, n);
    unsigned long word;
    unsigned bit;

    if (from >= end || w == n) {
        return 0;
    }
    word = s->words[w];
    if (w == from / BITS_PER_LONG) {
        word &= ~0ul << (from % BITS_PER_LONG);
        if (!word) {
            w = next_word(s, w + 1, n);
            if (w == n) {
                return 0;
            }
            word = s->words[w];
        }
    }
    bit = (unsigned)__builtin_ctzl(word);
    uint64_t begin = w * BITS_PER_LONG + bit, stop;

    if (begin >= end) {
        return 0;
    }
    *first = begin;
    /* what follows the run's begin in its word; then whole words; then the rest */
    word = ~(word >> bit);
    if (word << bit) {
        stop = begin + (uint64_t)__builtin_ctzl(word);
    } else {
        for (w++; w < n && s->words[w] == ~0ul; w++) {
        }
        stop = w * BITS_PER_LONG + (w < n ? (uint64_t)__builtin_ctzl(~s->words[w]) : 0);
    }
    return MIN(stop, end) - begin;
}

void dirty_set_remove(struct dirty_set *s, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        s->words[w] &= ~bitmap_word_mask(w, first, end);
        if (!s->words[w]) {
            s->summary[w / BITS_PER_LONG] &= ~BIT_IN_WORD(w);
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
        /*
         * Always the locked OR, although the bit is mostly set already: it is also the barrier
         * between the data just written and a thread that takes the bit and then reads the page. A
         * plain test first would let that thread read the old page and this one believe that it is
         * still to be sent.
         */
        atomic_fetch_or(&j->words[w], bitmap_word_mask(w, first, end));
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

bool dirty_journal_has(const struct dirty_journal *j, uint64_t page)
{
    return atomic_load(&j->words[page / BITS_PER_LONG]) & BIT_IN_WORD(page);
}
