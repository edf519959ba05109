/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps; see include/util/bitmap.h. */
#include "util/bitmap.h"

void bitmap_set_range(unsigned long *map, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        map[w] |= bitmap_word_mask(w, first, end);
    }
}

void bitmap_clear_range(unsigned long *map, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        map[w] &= ~bitmap_word_mask(w, first, end);
    }
}

uint64_t bitmap_count(const unsigned long *map, uint64_t bits)
{
    return bitmap_count_range(map, 0, bits);
}

uint64_t bitmap_count_range(const unsigned long *map, uint64_t first, uint64_t count)
{
    uint64_t end = first + count, n = 0;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        n += __builtin_popcountl(map[w] & bitmap_word_mask(w, first, end));
    }
    return n;
}

static uint64_t next(const unsigned long *map, uint64_t bits, uint64_t from, unsigned long invert)
{
    if (from >= bits) {
        return bits;
    }
    uint64_t w = from / BITS_PER_LONG;
    unsigned long word = (map[w] ^ invert) & (~0ul << (from % BITS_PER_LONG));

    while (!word) {
        if (++w * BITS_PER_LONG >= bits) {
            return bits;
        }
        word = map[w] ^ invert;
    }
    uint64_t bit = w * BITS_PER_LONG + __builtin_ctzl(word);
    return bit < bits ? bit : bits;
}

uint64_t bitmap_next_set(const unsigned long *map, uint64_t bits, uint64_t from)
{
    return next(map, bits, from, 0);
}

uint64_t bitmap_next_clear(const unsigned long *map, uint64_t bits, uint64_t from)
{
    return next(map, bits, from, ~0ul);
}
