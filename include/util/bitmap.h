/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bitmaps over unsigned long, bit i in word i / 64 at position i % 64 (what KVM's dirty log uses on
 * little-endian hosts). Lengths are in bits. Not atomic unless the name says so.
 */
#ifndef UTIL_BITMAP_H
#define UTIL_BITMAP_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_PER_LONG   64u
#define BITMAP_WORDS(n) (((n) + BITS_PER_LONG - 1) / BITS_PER_LONG)

static inline unsigned long *bitmap_new(uint64_t bits)
{
    return g_new0(unsigned long, BITMAP_WORDS(bits) ? BITMAP_WORDS(bits) : 1);
}
static inline bool bitmap_test(const unsigned long *map, uint64_t bit)
{
    return map[bit / BITS_PER_LONG] >> (bit % BITS_PER_LONG) & 1;
}
static inline void bitmap_set(unsigned long *map, uint64_t bit)
{
    map[bit / BITS_PER_LONG] |= 1ul << (bit % BITS_PER_LONG);
}
static inline void bitmap_clear(unsigned long *map, uint64_t bit)
{
    map[bit / BITS_PER_LONG] &= ~(1ul << (bit % BITS_PER_LONG));
}
static inline bool bitmap_test_and_clear(unsigned long *map, uint64_t bit)
{
    unsigned long mask = 1ul << (bit % BITS_PER_LONG);
    bool was = map[bit / BITS_PER_LONG] & mask;

    map[bit / BITS_PER_LONG] &= ~mask;
    return was;
}

/* The bits of word w that lie in [first, end), which the word overlaps. */
static inline unsigned long bitmap_word_mask(uint64_t w, uint64_t first, uint64_t end)
{
    unsigned long mask = ~0ul;
    uint64_t base = w * BITS_PER_LONG;

    if (first > base) {
        mask &= ~0ul << (first - base);
    }
    if (end < base + BITS_PER_LONG) {
        mask &= ~0ul >> (base + BITS_PER_LONG - end);
    }
    return mask;
}

void bitmap_set_range(unsigned long *map, uint64_t first, uint64_t count);
void bitmap_clear_range(unsigned long *map, uint64_t first, uint64_t count);
uint64_t bitmap_count(const unsigned long *map, uint64_t bits);
/* Set bits in [first, first + count). */
uint64_t bitmap_count_range(const unsigned long *map, uint64_t first, uint64_t count);
/* The first set (clear) bit at or after `from`, or `bits` when there is none. */
uint64_t bitmap_next_set(const unsigned long *map, uint64_t bits, uint64_t from);
uint64_t bitmap_next_clear(const unsigned long *map, uint64_t bits, uint64_t from);

#endif
