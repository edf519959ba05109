/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lists of rounds and decisions stay bounded, and what is put together loses nothing. */
#include "migration/history.h"

static struct migration_round round_at(uint32_t n)
{
    return (struct migration_round){
        .number = n,
        .began_ns = (n - 1) * INT64_C(1000000),
        .duration_ns = 1000000,
        .bytes = 1000 + n,
        .dirtied_pages = 7,
        .remaining_pages = n,
        .bytes_per_s = 1e6,
        .throttle = n % 100,
        .expected_downtime_us = n,
    };
}

static void check(const struct migration_history *h, uint32_t added)
{
    uint64_t bytes = 0, dirtied = 0, want = 0;
    int64_t at = 0;

    for (unsigned i = 0; i < h->round_count; i++) {
        const struct migration_round *r = &h->rounds[i];

        g_assert_cmpint(r->began_ns, ==, at); /* without gaps */
        at += r->duration_ns;
        bytes += r->bytes;
        dirtied += r->dirtied_pages;
        g_assert_cmpint(r->remaining_pages, ==, r->number);
        g_assert_cmpint(at, ==, r->number * INT64_C(1000000));
    }
    for (uint32_t n = 1; n <= added; n++) {
        want += 1000 + n;
    }
    g_assert_cmpint(bytes, ==, want);
    g_assert_cmpint(dirtied, ==, 7 * added);
    g_assert_cmpint(h->rounds[h->round_count - 1].number, ==, added);
    g_assert_cmpint(h->rounds[0].number, ==, 1);
}

static void test_rounds(void)
{
    g_autofree struct migration_history *h = g_new0(struct migration_history, 1);

    g_assert_null(history_rounds(h));
    for (uint32_t n = 1; n <= 5000; n++) {
        struct migration_round r = round_at(n);

        history_add(h, &r);
        g_assert_cmpint(h->round_count, <=, HISTORY_ROUNDS);
        if (n <= HISTORY_ROUNDS) {
            g_assert_cmpint(h->round_count, ==, n);
        }
        check(h, n);
    }
    /* the latest ones are as they were */
    for (uint32_t n = 4900; n <= 5000; n++) {
        g_assert_cmpint(h->rounds[h->round_count - 1 - (5000 - n)].bytes, ==, 1000 + n);
    }
    g_autoptr(GPtrArray) list = history_rounds(h);
    const MigrationRound *last = g_ptr_array_index(list, list->len - 1);

    g_assert_cmpint(list->len, ==, h->round_count);
    g_assert_cmpint(last->number, ==, 5000);
    g_assert_cmpint(last->start, ==, 4999000);
    g_assert_cmpint(last->duration, ==, 1000);
    history_clear(h);
    g_assert_cmpint(h->round_count, ==, 0);
}

static void test_decisions(void)
{
    g_autofree struct migration_history *h = g_new0(struct migration_history, 1);

    g_assert_null(history_decisions(h));
    for (uint32_t n = 1; n <= 1000; n++) {
        history_add_decision(h, (struct migration_decision){
                                    .round = n,
                                    .time_ns = n * INT64_C(1000000),
                                    .action = MIGRATION_ACTION_THROTTLE,
                                    .value = n % 2 ? (int64_t)n : -1,
                                    .reason = g_strdup_printf("%u", n),
                                });
        g_assert_cmpint(h->decision_count, <=, HISTORY_DECISIONS);
    }
    g_autoptr(GPtrArray) list = history_decisions(h);

    g_assert_cmpint(list->len, ==, HISTORY_DECISIONS);
    for (unsigned i = 0; i < list->len; i++) {
        const MigrationDecision *d = g_ptr_array_index(list, i);
        uint32_t n = 1000 - HISTORY_DECISIONS + 1 + i;
        g_autofree char *reason = g_strdup_printf("%u", n);

        g_assert_cmpint(d->round, ==, n);
        g_assert_cmpint(d->time, ==, n);
        g_assert_cmpstr(d->reason, ==, reason);
        g_assert_cmpint(d->has_value, ==, n % 2);
    }
    history_clear(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/history/rounds", test_rounds);
    g_test_add_func("/history/decisions", test_decisions);
    return g_test_run();
}
