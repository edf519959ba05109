/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bitmaps against a plain array of bytes, at lengths around the word size. */
#include <string.h>

#include "util/bitmap.h"

static void test_ranges(void)
{
    enum { BITS = 200 };

    for (unsigned first = 0; first < BITS; first += 7) {
        for (unsigned count = 0; first + count <= BITS; count += 5) {
            g_autofree unsigned long *map = bitmap_new(BITS);

            bitmap_set_range(map, first, count);
            for (unsigned i = 0; i < BITS; i++) {
                g_assert_cmpint(bitmap_test(map, i), ==, i >= first && i < first + count);
            }
            g_assert_cmpuint(bitmap_count(map, BITS), ==, count);
            g_assert_cmpuint(bitmap_next_set(map, BITS, 0), ==, count ? first : BITS);
            g_assert_cmpuint(bitmap_next_clear(map, BITS, first), ==, first + count);
            g_assert_cmpuint(bitmap_count_range(map, first, count / 2), ==, count / 2);
            bitmap_clear_range(map, first, count);
            g_assert_cmpuint(bitmap_count(map, BITS), ==, 0);
        }
    }
}

static void test_next_past_end(void)
{
    g_autofree unsigned long *map = bitmap_new(128);

    /* bits past the length do not count */
    bitmap_set(map, 100);
    g_assert_cmpuint(bitmap_next_set(map, 100, 0), ==, 100);
    g_assert_cmpuint(bitmap_next_set(map, 101, 0), ==, 100);
    g_assert_cmpuint(bitmap_next_set(map, 101, 101), ==, 101);
    g_assert_true(bitmap_test_and_clear(map, 100));
    g_assert_false(bitmap_test_and_clear(map, 100));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bitmap/ranges", test_ranges);
    g_test_add_func("/bitmap/next-past-end", test_next_past_end);
    return g_test_run();
}
