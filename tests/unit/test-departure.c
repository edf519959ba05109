/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Post-copy's source: what is discarded and when, who sends which page, what a broken link and a
 * hostile destination change.
 */
#include "test-departure-machine.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "io/channel-private.h"
#include "util/bitmap.h"
#include "util/error.h"

/* --- discards --- */

/* After a whole round: what was dirtied, before and after the first discard, and nothing else. */
static void test_discard(struct fixture *f, gconstpointer data)
{
    unsigned huge = f->options->huge ? HUGE : 1;

    (void)data;
    fill(f);
    start(f);
    g_assert_true(ram_save_section(f->rs, f->o, UINT64_MAX, false));
    for (unsigned p = 5; p < 4096; p += 3) {
        guest_writes(&f->fake, p, 'a');
    }
    g_assert_true(ram_save_sync(f->rs, NULL));
    discard(f);
    g_assert_cmpuint(f->discarded_pages, ==, huge > 1 ? 4096 : (4096 - 5 + 2) / 3);
    g_assert_cmpuint(f->most_pairs, ==, huge > 1 ? 1 : 12);
    g_assert_cmpuint(f->commands, ==, (f->pairs + 11) / 12);
    g_assert_cmpuint(remaining(f), ==, f->discarded_pages);
    g_assert_true(bitmap_test(f->peer[0].missing, 8));
    g_assert_false(bitmap_test(f->peer[1].missing, 0));

    /* old ones again, a new one, and one by a device */
    f->commands = 0;
    f->discarded_pages = 0;
    guest_writes(&f->fake, 8, 'b');
    guest_writes(&f->fake, 6000, 'b');
    memset(f->ram->host + 7000 * TARGET_PAGE_SIZE, 'd', 3);
    ram_block_mark_dirty(f->ram, 7000 * TARGET_PAGE_SIZE, 3);
    leave(f);
    g_assert_cmpuint(f->commands, ==, 1);
    g_assert_cmpuint(f->discarded_pages, ==, 2 * huge);
    g_assert_cmpuint(stats_of(f).discarded_pages, ==, remaining(f));
    send_all(f);
    g_assert_cmpuint(remaining(f), ==, 0);
    assert_same_memory(f);
}

/* The switch comes in the middle of the first round. */
static void test_first_round(struct fixture *f, gconstpointer data)
{
    uint64_t untouched = 0;

    (void)data;
    if (without_huge_pages(f)) {
        return;
    }
    fill(f);
    for (unsigned p = 0; p < PAGES; p++) {
        untouched += !resident(f, p);
    }
    start(f);
    g_assert_false(ram_save_section(f->rs, f->o, 1500000, false));
    guest_writes(&f->fake, 3, 'a'); /* was sent */
    discard(f);
    /* the guest goes on, where nobody ever was before, too */
    for (unsigned p = 1; p < PAGES; p += 97) {
        untouched -= !resident(f, p);
        guest_writes(&f->fake, p, 'w');
    }
    leave(f);
    g_assert_true(bitmap_test(f->peer[0].missing, 3));
    g_assert_cmpuint(peer_missing(f), ==, remaining(f));
    if (f->options->zeroed && !f->options->huge) {
        g_assert_cmpuint(peer_missing(f), <, PAGES - untouched + 1);
    }
    send_all(f);
    for (unsigned p = 0; p < PAGES; p++) {
        untouched -= !resident(f, p);
    }
    /* Not where huge pages are small ones in truth; and hugetlbfs does not say where it has holes.
     */
    if (!f->options->hugetlb && (!f->options->huge || !f->options->zeroed)) {
        g_assert_cmpuint(untouched, ==, 0); /* none was read */
    }
    assert_same_memory(f);
}

/* At once: nothing was sent, nothing was looked at. */
static void test_before_the_first_page(struct fixture *f, gconstpointer data)
{
    (void)data;
    fill(f);
    start(f);
    discard(f);
    leave(f);
    send_all(f);
    assert_same_memory(f);
}

/* A page that nobody had touched is touched in the very moment when it is dropped. */
static void test_touched_meanwhile(struct fixture *f, gconstpointer data)
{
    (void)data;
    for (unsigned before = 0; before < 2; before++) {
        f->fake.touch_at = 5000 + before;
        f->fake.touch_before = before;
        if (!before) {
            start(f);
        } else {
            departure_free(f->d);
            f->d = NULL;
            ram_save_free(f->rs);
            f->postcopy = false;
            start(f);
        }
        discard(f);
        g_assert_cmpuint(f->fake.touch_at, ==, PAGES);
        leave(f);
        send_all(f);
        assert_same_memory(f);
    }
}

/* --- requests --- */

static void to_the_switch(struct fixture *f)
{
    fill(f);
    start(f);
    g_assert_false(ram_save_section(f->rs, f->o, 1500000, false));
    discard(f);
    leave(f);
}

static bool ask(struct fixture *f, const char *name, uint64_t page)
{
    return departure_request(f->d, name, page * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE, NULL);
}

static void test_requests(struct fixture *f, gconstpointer data)
{
    struct departure_stats s;

    (void)data;
    to_the_switch(f);
    g_assert_false(departure_wanted(f->d));
    g_assert_false(departure_send_requested(f->d, &f->s));
    uint64_t page = bitmap_next_set(f->peer[0].missing, PAGES, 7000);
    uint64_t before = remaining(f);

    g_assert_true(ask(f, "rom", 1));
    g_assert_true(ask(f, "ram0", page));
    g_assert_true(ask(f, NULL, page)); /* wanted already */
    g_assert_true(ask(f, NULL, 3));    /* sent before the switch */
    g_assert_true(departure_wanted(f->d));
    g_assert_cmpuint(remaining(f), ==, before);
    s = stats_of(f);
    g_assert_cmpuint(s.requests, ==, 4);
    g_assert_cmpuint(s.queue_max, ==, f->options->zeroed ? 1 : 2);
    if (!f->options->zeroed) {
        g_assert_true(departure_send_requested(f->d, &f->s));
        peer_reads(f);
        g_assert_cmpuint(f->peer[1].times[1], ==, 1); /* in the order of asking */
    }
    g_assert_true(departure_send_requested(f->d, &f->s));
    g_assert_false(departure_send_requested(f->d, &f->s));
    peer_reads(f);
    g_assert_cmpuint(f->peer[0].times[page], ==, 1);
    g_assert_true(ask(f, "ram0", page));
    g_assert_false(departure_wanted(f->d));

    /* the block is named once on a stream */
    g_assert_true(ask(f, NULL, bitmap_next_set(f->peer[0].missing, PAGES, 4096)));
    g_assert_true(ask(f, NULL, bitmap_next_set(f->peer[0].missing, PAGES, 5200)));
    g_assert_true(departure_send_requested(f->d, &f->s));
    uint64_t bytes = f->o->bytes, sent = stats_of(f).normal_pages, zero = stats_of(f).zero_pages;

    g_assert_true(departure_send_requested(f->d, &f->s));
    sent = stats_of(f).normal_pages - sent;
    zero = stats_of(f).zero_pages - zero;
    g_assert_cmpuint(f->o->bytes - bytes, ==, 5 + 8 + 5 + sent * (8 + 4096) + zero * 9);
    peer_reads(f);

    /* many at once: all that is left of the block, twice */
    for (unsigned i = 0; i < 2; i++) {
        g_assert_true(departure_request(f->d, "ram0", 0, PAGES * TARGET_PAGE_SIZE, NULL));
    }
    uint64_t queue = bitmap_count(f->peer[0].missing, PAGES) / (f->options->huge ? HUGE : 1);

    g_assert_cmpuint(stats_of(f).queue_max, ==, queue);
    send_all(f);
    assert_same_memory(f);
}

static void test_bad_requests(struct fixture *f, gconstpointer data)
{
    static const struct {
        const char *name;
        uint64_t offset, length;
        const char *says;
    } bad[] = {
        { NULL, 0, 4096, "*not said of which block*" },
        { "", 0, 4096, "*not part of this migration*" },
        { "ram1", 0, 4096, "*'ram1'*not part of this migration*" },
        { "rom", 0, 0, "*'rom'*" },
        { "rom", ROM_PAGES * TARGET_PAGE_SIZE, 1, "*'rom'*has 0x3000*" },
        { "rom", ROM_PAGES * TARGET_PAGE_SIZE - 1, 2, "*0x2 bytes at 0x2fff*" },
        { "rom", 0, ROM_PAGES * TARGET_PAGE_SIZE + 1, "*0x3001 bytes at 0x0 *" },
        { "rom", UINT64_MAX, 1, "*'rom'*" },
        { "rom", 4096, UINT64_MAX, "*'rom'*" },
        { "rom", UINT64_MAX - 4095, 8192, "*'rom'*" },
    };
    g_autoptr(GError) err = NULL;

    (void)data;
    fill(f);
    start(f);
    discard(f);
    g_assert_false(departure_request(f->d, "rom", 0, 4096, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    g_assert_true(g_pattern_match_simple("*while the guest runs here*", err->message));
    g_clear_error(&err);
    leave(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(departure_request(f->d, bad[i].name, bad[i].offset, bad[i].length, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        if (!g_pattern_match_simple(bad[i].says, err->message)) {
            g_error("%u: %s", i, err->message);
        }
        g_clear_error(&err);
    }
    g_assert_false(departure_wanted(f->d));
    g_assert_cmpuint(stats_of(f).requests, ==, 0);
    send_all(f);
    assert_same_memory(f);
}

/* --- many threads --- */

struct sender {
    struct fixture *f;
    GByteArray *bytes;
    struct departure_stream s;
    bool urgent;
    _Atomic(bool) *asked_all;
};

static gpointer sender_thread(gpointer opaque)
{
    struct sender *t = opaque;
    struct departure *d = t->f->d;
    bool more = true;

    while (more) {
        bool done = atomic_load(t->asked_all);

        more = departure_send_requested(d, &t->s) ||
               (!t->urgent && departure_send_background(d, &t->s, 20000));
        more = more || (t->urgent && !done);
        if (!more && !done) {
            more = true;
            g_thread_yield();
        }
    }
    g_assert_true(out_flush(t->s.o, NULL));
    return NULL;
}

static gpointer asker_thread(gpointer opaque)
{
    struct fixture *f = opaque;
    GRand *rand = g_rand_new_with_seed(5);
    struct departure_stats s;

    for (unsigned i = 0; i < 20000; i++) {
        g_assert_true(ask(f, i % 10 ? NULL : "ram0", (uint64_t)g_rand_int_range(rand, 0, PAGES)));
        if (i % 1000 == 0) {
            departure_get_stats(f->d, &s);
            g_assert_cmpuint(s.remaining_pages, <=, PAGES + ROM_PAGES);
        }
    }
    g_rand_free(rand);
    return NULL;
}

/* Four threads, each with a stream of its own, one of them bare; each page comes exactly once. */
static void test_threads(struct fixture *f, gconstpointer data)
{
    struct sender senders[4];
    GThread *threads[4];
    _Atomic(bool) asked_all = false;

    (void)data;
    if (without_huge_pages(f)) {
        return;
    }
    to_the_switch(f);
    g_assert_true(ask(f, "ram0", 0));
    g_autofree unsigned long *wanted = g_memdup2(f->peer[0].missing, PAGES / 8);

    for (unsigned i = 0; i < 4; i++) {
        GByteArray *bytes = g_byte_array_new();

        senders[i] = (struct sender){ .f = f,
                                      .bytes = bytes,
                                      .s = { .o = out_new_memory(bytes), .bare = i == 0 },
                                      .urgent = i < 2,
                                      .asked_all = &asked_all };
        threads[i] = g_thread_new("sender", sender_thread, &senders[i]);
    }
    GThread *asker = g_thread_new("asker", asker_thread, f);

    g_thread_join(asker);
    atomic_store(&asked_all, true);
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        if (senders[i].s.bare) {
            struct stream_in *in = in_new_memory(senders[i].bytes->data, senders[i].bytes->len);
            const struct peer_block *named = NULL;

            while (read_page(f, in, &named)) {
            }
            in_free(in);
        } else {
            g_byte_array_append(f->bytes, senders[i].bytes->data, senders[i].bytes->len);
            f->named = NULL;
            peer_reads(f);
        }
        out_free(senders[i].s.o);
        g_byte_array_unref(senders[i].bytes);
    }
    for (unsigned p = 0; p < PAGES; p++) {
        g_assert_cmpuint(f->peer[0].times[p], ==, bitmap_test(wanted, p));
    }
    g_assert_cmpuint(remaining(f), ==, 0);
    assert_same_memory(f);
}

/* --- recovery --- */

static uint8_t *received(struct fixture *f, unsigned block, size_t *len)
{
    const struct peer_block *b = &f->peer[block];
    uint8_t *bits;

    *len = (b->pages + 63) / 64 * 8;
    bits = g_malloc0(*len);
    for (uint64_t p = 0; p < b->pages; p++) {
        bits[p / 8] |= (uint8_t)(!bitmap_test(b->missing, p) << p % 8);
    }
    return bits;
}

static void recover(struct fixture *f)
{
    const char *name;

    for (unsigned i = 0; (name = departure_block_name(f->d, i)); i++) {
        size_t len;
        g_autofree uint8_t *bits = received(f, (unsigned)(peer_find(f, name) - f->peer), &len);
        g_autoptr(GError) err = NULL;

        g_assert_true(departure_received(f->d, name, bits, len, &err));
        g_assert_no_error(err);
    }
    departure_resume(f->d);
    f->s.named = NULL;
    f->named = NULL;
}

/* What was queued is lost, by host pages, at random. */
static void lose(struct fixture *f, GRand *rand)
{
    g_autofree unsigned long *before[KINDS];

    for (unsigned i = 0; i < KINDS; i++) {
        before[i] = g_memdup2(f->peer[i].missing, BITMAP_WORDS(f->peer[i].pages) * sizeof(long));
    }
    peer_reads(f);
    for (unsigned i = 0; i < KINDS; i++) {
        struct peer_block *b = &f->peer[i];
        uint64_t unit = unit_of(f, b);

        for (uint64_t p = 0; p < b->pages; p += unit) {
            if (bitmap_test(before[i], p) && !bitmap_test(b->missing, p) && g_rand_boolean(rand)) {
                bitmap_set_range(b->missing, p, unit);
                memset(b->image + p * TARGET_PAGE_SIZE, 0xee, unit * TARGET_PAGE_SIZE);
            }
        }
    }
    g_free(before[1]);
}

static void test_recovery(struct fixture *f, gconstpointer data)
{
    GRand *rand = g_rand_new_with_seed(9);

    (void)data;
    to_the_switch(f);
    for (unsigned turn = 0; turn < 12; turn++) {
        for (unsigned i = 0; i < 20; i++) {
            g_assert_true(ask(f, "ram0", (uint64_t)g_rand_int_range(rand, 0, PAGES)));
            if (i % 3) {
                departure_send_requested(f->d, &f->s);
            }
        }
        departure_send_background(f->d, &f->s, 1000000);
        lose(f, rand);
        if (turn % 3 == 0) { /* the first bitmaps come, and the link breaks again */
            size_t len;
            g_autofree uint8_t *bits = received(f, 0, &len);

            g_assert_true(departure_received(f->d, "ram0", bits, len, NULL));
        }
        recover(f);
        g_assert_false(departure_wanted(f->d));
        g_assert_cmpuint(remaining(f), ==, peer_missing(f));
        g_assert_false(departure_request(f->d, NULL, 0, 4096, NULL));
    }
    send_all(f);
    assert_same_memory(f);
    g_rand_free(rand);
}

/* Bitmaps that are not what a bitmap of this guest can be. */
static void test_bad_bitmaps(struct fixture *f, gconstpointer data)
{
    g_autoptr(GError) err = NULL;
    g_autofree uint8_t *bits = NULL;
    size_t len;

    (void)data;
    to_the_switch(f);
    bits = received(f, 0, &len);
    g_assert_false(departure_received(f->d, "ram1", bits, len, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    g_clear_error(&err);
    g_assert_false(departure_received(f->d, "ram0", bits, len - 8, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    g_clear_error(&err);
    g_assert_false(departure_received(f->d, "rom", bits, len, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    g_assert_true(g_pattern_match_simple("*in 1024 bytes*'rom'*takes 8", err->message));
    g_clear_error(&err);
    g_assert_cmpuint(remaining(f), ==, peer_missing(f));

    /* it says it has all, of which nothing was sent, not even what it has asked for */
    g_assert_true(departure_request(f->d, "ram0", 0, PAGES / 2 * TARGET_PAGE_SIZE, NULL));
    g_assert_true(departure_wanted(f->d));
    memset(bits, 0xff, len);
    g_assert_true(departure_received(f->d, "ram0", bits, len, NULL));
    g_assert_true(departure_received(f->d, "rom", bits, 8, NULL));
    departure_resume(f->d);
    g_assert_cmpuint(remaining(f), ==, peer_missing(f));

    /* it has nothing, not even what precopy brought: then it gets all of it */
    memset(bits, 0, len);
    g_assert_true(departure_received(f->d, "ram0", bits, len, NULL));
    g_assert_true(departure_received(f->d, "rom", bits, 8, NULL));
    departure_resume(f->d);
    g_assert_cmpuint(remaining(f), ==, PAGES + ROM_PAGES);
    bitmap_set_range(f->peer[0].missing, 0, PAGES);
    bitmap_set_range(f->peer[1].missing, 0, ROM_PAGES);
    send_all(f);
    assert_same_memory(f);

    /* it says nothing at all */
    departure_resume(f->d);
    g_assert_cmpuint(remaining(f), ==, PAGES + ROM_PAGES);
}

static void test_release(struct fixture *f, gconstpointer data)
{
    g_autofree uint8_t *copy = NULL;
    g_autoptr(GError) err = NULL;
    g_autofree uint8_t *bits = NULL;
    size_t len;

    (void)data;
    to_the_switch(f);
    copy = g_memdup2(f->ram->host, PAGES * TARGET_PAGE_SIZE);
    uint64_t page = PAGES;

    for (unsigned p = 0; p < PAGES; p++) {
        if (f->ram->host[p * TARGET_PAGE_SIZE] && bitmap_test(f->peer[0].missing, p)) {
            page = p;
        }
    }
    g_assert_cmpuint(page, <, PAGES);
    g_assert_true(ask(f, "ram0", page));
    g_assert_true(departure_send_requested(f->d, &f->s));
    peer_reads(f);
    departure_release(f->d); /* nothing is marked yet */
    g_assert_cmpint(f->ram->host[page * TARGET_PAGE_SIZE], ==, copy[page * TARGET_PAGE_SIZE]);
    departure_mark(f->d);
    departure_release(f->d);
    /* only what was sent after the switch, and only where nobody else sees it */
    g_assert_cmpint(f->ram->host[page * TARGET_PAGE_SIZE], ==,
                    f->options->share ? copy[page * TARGET_PAGE_SIZE] : 0);
    g_assert_cmpint(memcmp(f->ram->host, copy, page / 2 * TARGET_PAGE_SIZE), ==, 0);

    recover(f);
    bits = received(f, 0, &len);
    bits[page / 8] &= (uint8_t) ~(1 << page % 8);
    if (!f->options->share) { /* what was given back cannot be sent again */
        g_assert_false(departure_received(f->d, "ram0", bits, len, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_assert_true(g_pattern_match_simple("*which it had confirmed*", err->message));
    }
    send_all(f);
    g_assert_cmpuint(peer_missing(f), ==, 0);
    g_assert_cmpint(memcmp(copy, f->peer[0].image, PAGES * TARGET_PAGE_SIZE), ==, 0);
    departure_release(f->d);
}

/* --- a broken stream, and what is not travelling --- */

static void test_broken_stream(struct fixture *f, gconstpointer data)
{
    GError *err = NULL;

    (void)data;
    to_the_switch(f);
    g_assert_true(departure_request(f->d, "ram0", 0, PAGES * TARGET_PAGE_SIZE, NULL));
    uint64_t before = remaining(f);

    error_set(&err, FERRY_ERROR_LINK, "Cut");
    out_fail(f->o, err);
    g_assert_false(departure_send_requested(f->d, &f->s));
    g_assert_false(departure_send_background(f->d, &f->s, 1000000));
    g_assert_cmpuint(remaining(f), ==, before);
    out_free(f->o);
    f->o = f->s.o = out_new_memory(f->bytes);
    recover(f);
    send_all(f);
    assert_same_memory(f);
}

static void test_page_sizes(struct fixture *f, gconstpointer data)
{
    (void)data;
    start(f);
    g_assert_cmpuint(ram_save_page_sizes(f->rs), ==, f->options->huge ? 0x201000 : 0x1000);
    peer_reads(f); /* and so does the list of blocks */
}

/* --- what it costs; only with -m perf --- */

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

#define TURNS 24u

/* Pages one by one, into a device that takes all: in precopy, then in post-copy. */
static void test_cost(struct fixture *f, gconstpointer data)
{
    g_autofree uint8_t *bits = g_malloc(PAGES / 8);
    struct channel *ch = channel_new_fds("null", -1, open("/dev/null", O_WRONLY | O_CLOEXEC), NULL);
    struct stream_out *null = out_new_channel(ch);
    struct departure_stream s = { .o = null };
    uint64_t precopy = 0, postcopy = 0, first, second;
    uint64_t pages = TURNS * PAGES / 2;

    (void)data;
    memset(f->ram->host, 'x', PAGES * TARGET_PAGE_SIZE);
    memset(f->rom->host, 'x', ROM_PAGES * TARGET_PAGE_SIZE);
    start(f);
    g_assert_true(ram_save_section(f->rs, null, UINT64_MAX, false));
    for (unsigned turn = 0; turn < TURNS; turn++) {
        for (unsigned p = 0; p < PAGES; p += 2) {
            bitmap_set(f->fake.dirty, p);
        }
        g_assert_true(ram_save_sync(f->rs, NULL));
        precopy -= cpu_ns();
        while (!ram_save_section(f->rs, null, 256 * 1024, false)) {
            g_assert_true(out_flush(null, NULL));
        }
        precopy += cpu_ns();
    }
    for (unsigned p = 0; p < PAGES; p += 2) {
        bitmap_set(f->fake.dirty, p);
    }
    g_assert_true(ram_save_sync(f->rs, NULL));
    f->d = departure_new(f->rs, false);
    first = cpu_ns();
    departure_discard(f->d, null);
    second = cpu_ns();
    departure_discard(f->d, null);
    g_test_message("discard: %.1f ns a page, %.1f ns a page that was named before",
                   (double)(second - first) / (PAGES / 2),
                   (double)(cpu_ns() - second) / (PAGES / 2));
    departure_freeze(f->d);
    memset(bits, 0xaa, PAGES / 8);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        g_assert_true(departure_received(f->d, "ram0", bits, PAGES / 8, NULL));
        g_assert_true(departure_received(f->d, "rom", (const uint8_t *)"\7\0\0\0\0\0\0", 8, NULL));
        departure_resume(f->d);
        postcopy -= cpu_ns();
        while (departure_send_background(f->d, &s, 256 * 1024)) {
            g_assert_true(out_flush(null, NULL));
        }
        postcopy += cpu_ns();
    }
    g_assert_cmpuint(stats_of(f).normal_pages, ==, pages);
    g_test_message("a page of precopy: %.0f ns, of post-copy: %.0f ns",
                   (double)precopy / (double)pages, (double)postcopy / (double)pages);
    g_assert_cmpuint(postcopy, <, precopy + precopy / 4);
    out_free(null);
    channel_unref(ch);
}

#define CASE(name, function, ...)                                                                  \
    do {                                                                                           \
        static const struct options o = { __VA_ARGS__ };                                           \
        g_test_add("/departure/" name, struct fixture, &o, set_up, function, tear_down);           \
    } while (0)
#define CASES(name, function)                                                                      \
    do {                                                                                           \
        CASE(name, function, .zeroed = false);                                                     \
        CASE(name "/zeroed", function, .zeroed = true);                                            \
        CASE(name "/huge", function, .huge = true);                                                \
        CASE(name "/huge-zeroed", function, .huge = true, .zeroed = true);                         \
    } while (0)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    CASES("discard", test_discard);
    CASES("first-round", test_first_round);
    CASE("first-round/shared", test_first_round, .share = true);
    CASE("first-round/shared-zeroed", test_first_round, .share = true, .zeroed = true);
    CASES("before-the-first-page", test_before_the_first_page);
    CASE("touched-meanwhile", test_touched_meanwhile, .zeroed = true);
    CASES("requests", test_requests);
    CASE("bad-requests", test_bad_requests, .zeroed = false);
    CASES("threads", test_threads);
    CASES("recovery", test_recovery);
    CASE("bad-bitmaps", test_bad_bitmaps, .zeroed = true);
    CASE("release", test_release, .release = true);
    CASE("release/shared", test_release, .release = true, .share = true);
    CASE("first-round/hugetlb", test_first_round, .huge = true, .hugetlb = true);
    CASE("first-round/hugetlb-zeroed", test_first_round, .huge = true, .hugetlb = true,
         .zeroed = true);
    CASE("threads/hugetlb", test_threads, .huge = true, .hugetlb = true);
    CASE("broken-stream", test_broken_stream, .zeroed = false);
    CASE("page-sizes", test_page_sizes, .huge = true);
    CASE("page-sizes/small", test_page_sizes, .huge = false);
    if (g_test_perf()) {
        CASE("cost", test_cost, .zeroed = true);
    }
    return g_test_run();
}
