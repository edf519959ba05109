/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sets of dirty pages against a naive list of flags. */
#include <glib.h>
#include <string.h>

#include "util/bitmap.h"
#include "util/dirty-set.h"

#define PAGES 9001u

struct pair {
    struct dirty_set set;
    bool naive[PAGES];
};

static void assert_same(const struct pair *p)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        g_assert_cmpint(bitmap_test(p->set.words, i), ==, p->naive[i]);
        count += p->naive[i];
    }
    for (unsigned w = 0; w < BITMAP_WORDS(PAGES); w++) {
        g_assert_cmpint(bitmap_test(p->set.summary, w), ==, p->set.words[w] != 0);
    }
    g_assert_cmpuint(p->set.count, ==, count);
}

/* Some runs, some single pages; mostly nothing. */
static uint64_t random_bits(unsigned long *bits, uint64_t count)
{
    memset(bits, 0, BITMAP_WORDS(PAGES) * sizeof(*bits));
    for (int n = g_random_int_range(0, 20); n > 0; n--) {
        uint64_t first = (uint64_t)g_random_int_range(0, (int)count);
        uint64_t len = g_random_boolean() ? 1 : (uint64_t)g_random_int_range(1, 300);

        bitmap_set_range(bits, first, MIN(len, count - first));
    }
    return bitmap_count(bits, count);
}

static void merge(struct pair *p)
{
    unsigned long bits[BITMAP_WORDS(PAGES)];
    uint64_t first = (uint64_t)g_random_int_range(0, PAGES), fresh = 0;

    if (g_random_boolean()) {
        first -= first % BITS_PER_LONG;
    }
    uint64_t count = (uint64_t)g_random_int_range(1, (int)(PAGES - first) + 1);

    random_bits(bits, count);
    for (uint64_t i = 0; i < count; i++) {
        fresh += bitmap_test(bits, i) && !p->naive[first + i];
        p->naive[first + i] |= bitmap_test(bits, i);
    }
    /* what lies behind the count is not looked at */
    if (count % BITS_PER_LONG) {
        bits[count / BITS_PER_LONG] |= ~0ul << (count % BITS_PER_LONG);
    }
    g_assert_cmpuint(dirty_set_merge(&p->set, first, bits, count), ==, fresh);
}

static void walk_and_remove(struct pair *p)
{
    uint64_t from = (uint64_t)g_random_int_range(0, PAGES), at = from;
    uint64_t end = from + (uint64_t)g_random_int_range(0, (int)(PAGES - from) + 1), n;

    while ((n = dirty_set_next_run(&p->set, at, end, &at))) {
        for (; from < at; from++) {
            g_assert_false(p->naive[from]);
        }
        for (uint64_t i = 0; i < n; i++) {
            g_assert_true(p->naive[at + i]);
        }
        g_assert_true(at + n == end || !p->naive[at + n]);
        if (g_random_boolean()) {
            dirty_set_remove(&p->set, at, n);
            memset(p->naive + at, 0, n);
        }
        at += n;
        from = at;
    }
    for (; from < end; from++) {
        g_assert_false(p->naive[from]);
    }
}

static void journal(struct pair *p, struct dirty_journal *j)
{
    uint64_t fresh = 0;

    for (int n = g_random_int_range(0, 5); n > 0; n--) {
        uint64_t first = (uint64_t)g_random_int_range(0, PAGES);
        uint64_t count = (uint64_t)g_random_int_range(1, (int)MIN(200, PAGES - first) + 1);

        dirty_journal_add(j, first, count);
        for (uint64_t i = first; i < first + count; i++) {
            fresh += !p->naive[i];
            p->naive[i] = true;
        }
    }
    g_assert_cmpuint(dirty_journal_take(j, &p->set), ==, fresh);
    g_assert_cmpuint(dirty_journal_take(j, &p->set), ==, 0);
}

static void test_random(void)
{
    struct dirty_journal *j = dirty_journal_new(PAGES + 70);
    g_autofree struct pair *p = g_new0(struct pair, 1);

    dirty_set_init(&p->set, PAGES);
    for (unsigned turn = 0; turn < 400; turn++) {
        merge(p);
        assert_same(p);
        walk_and_remove(p);
        assert_same(p);
        journal(p, j);
        assert_same(p);
    }
    dirty_set_fill(&p->set);
    memset(p->naive, 1, PAGES);
    assert_same(p);
    dirty_set_remove(&p->set, 0, PAGES);
    memset(p->naive, 0, PAGES);
    assert_same(p);
    /* a block that has become shorter */
    dirty_journal_add(j, PAGES - 1, 60);
    g_assert_cmpuint(dirty_journal_take(j, &p->set), ==, 1);
    p->naive[PAGES - 1] = true;
    assert_same(p);
    dirty_set_clear(&p->set);
    dirty_journal_free(j);
}

/* --- what is written is never missed --- */

struct race {
    struct dirty_journal *journal;
    atomic_uint data[64 * 64];
    atomic_bool done;
};

static gpointer writer(gpointer opaque)
{
    struct race *r = opaque;

    for (unsigned n = 1; n <= 20000; n++) {
        unsigned page = n * 37 % G_N_ELEMENTS(r->data);

        atomic_store_explicit(&r->data[page], n, memory_order_relaxed);
        dirty_journal_add(r->journal, page, 1);
    }
    atomic_store(&r->done, true);
    return NULL;
}

static void take(struct race *r, struct dirty_set *set, unsigned *copy)
{
    uint64_t at = 0, n;

    dirty_journal_take(r->journal, set);
    while ((n = dirty_set_next_run(set, at, set->pages, &at))) {
        dirty_set_remove(set, at, n);
        for (; n; n--, at++) {
            copy[at] = atomic_load_explicit(&r->data[at], memory_order_relaxed);
        }
    }
}

static void test_race(void)
{
    g_autofree struct race *r = g_new0(struct race, 1);
    unsigned copy[G_N_ELEMENTS(r->data)] = { 0 };
    struct dirty_set set;

    r->journal = dirty_journal_new(G_N_ELEMENTS(r->data));
    dirty_set_init(&set, G_N_ELEMENTS(r->data));
    GThread *thread = g_thread_new("writer", writer, r);

    while (!atomic_load(&r->done)) {
        take(r, &set, copy);
    }
    g_thread_join(thread);
    take(r, &set, copy);
    for (unsigned i = 0; i < G_N_ELEMENTS(copy); i++) {
        g_assert_cmpuint(copy[i], ==, atomic_load(&r->data[i]));
    }
    dirty_set_clear(&set);
    dirty_journal_free(r->journal);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_random_set_seed(1); /* the same in each run */
    g_test_add_func("/dirty-set/random", test_random);
    g_test_add_func("/dirty-set/race", test_race);
    return g_test_run();
}
