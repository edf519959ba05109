/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XBZRLE: the encoders against a naive one, the decoder against every damage, the cache, and both
 * ends together with a guest that writes at random.
 */
#include <string.h>
#include <sys/mman.h>

#include "migration/ram/xbzrle-cache.h"
#include "migration/ram/xbzrle-send.h"
#include "migration/ram/xbzrle.h"

#define PAGE ((unsigned)TARGET_PAGE_SIZE)

/* --- a naive coder: byte by byte, from the description of the format --- */

static unsigned naive_length(uint8_t *out, unsigned length)
{
    if (length < 128) {
        out[0] = (uint8_t)length;
        return 1;
    }
    out[0] = (uint8_t)(128 + length % 128);
    out[1] = (uint8_t)(length / 128);
    return 2;
}

/* Unchanged stretches of up to `join` bytes between changes count as changed. */
static unsigned naive_encode(const uint8_t *old, const uint8_t *page, unsigned join, uint8_t *out)
{
    unsigned len = 0, done = 0, at = 0;

    for (;;) {
        while (at < PAGE && old[at] == page[at]) {
            at++;
        }
        if (at == PAGE) {
            return len;
        }
        unsigned start = at, end = at;

        for (unsigned same = 0; at < PAGE && same <= join; at++) {
            same = old[at] == page[at] ? same + 1 : 0;
            end = same ? end : at + 1;
        }
        at = end;
        len += naive_length(out + len, start - done);
        len += naive_length(out + len, end - start);
        memcpy(out + len, page + start, end - start);
        len += end - start;
        done = end;
    }
}

/* The result, or false when it is not a page's encoding. */
static bool naive_decode(uint8_t *page, const uint8_t *data, size_t len)
{
    size_t i = 0, at = 0;
    bool changed = false;

    while (i < len) {
        size_t first = i, length = data[i++];

        if (length >= 128) {
            if (i == len || data[i] >= 128) {
                return false;
            }
            length = length - 128 + 128u * data[i++];
        }
        if (length > PAGE - at || (!length && (changed || first))) {
            return false;
        }
        if (changed) {
            if (length > len - i) {
                return false;
            }
            memcpy(page + at, data + i, length);
            i += length;
        }
        at += length;
        changed = !changed;
    }
    return !changed;
}

/* --- memory whose ends are guarded --- */

/* `len` bytes that end where memory does. */
static uint8_t *guarded(size_t len)
{
    size_t body = (len + PAGE - 1) / PAGE * PAGE;
    uint8_t *map =
        mmap(NULL, body + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(map != MAP_FAILED);
    g_assert_cmpint(mprotect(map, PAGE, PROT_NONE), ==, 0);
    g_assert_cmpint(mprotect(map + PAGE + body, PAGE, PROT_NONE), ==, 0);
    return map + PAGE + body - len;
}

static void guarded_free(uint8_t *p, size_t len)
{
    size_t body = (len + PAGE - 1) / PAGE * PAGE;

    munmap(p + len - body - PAGE, body + 2 * PAGE);
}

/* --- encoders --- */

struct coder {
    const struct xbzrle_encoder *encoder;
    uint8_t *old, *page, *out;
};

static void coder_begin(struct coder *c, const struct xbzrle_encoder *encoder)
{
    c->encoder = encoder;
    c->old = guarded(PAGE);
    c->page = guarded(PAGE);
    c->out = guarded(XBZRLE_BUFFER);
}

static void coder_end(struct coder *c)
{
    guarded_free(c->old, PAGE);
    guarded_free(c->page, PAGE);
    guarded_free(c->out, XBZRLE_BUFFER);
}

/* Encodes c->page against c->old, and checks everything that can be said about it. */
static int check_pair(struct coder *c)
{
    uint8_t before[PAGE], expected[2 * PAGE];
    unsigned want = naive_encode(c->old, c->page, 2, expected);
    int got;

    memcpy(before, c->old, PAGE);
    got = c->encoder->encode(c->old, c->page, c->out);
    g_assert_cmpmem(c->old, PAGE, c->page, PAGE);
    if (want > (unsigned)XBZRLE_MAX + 2) {
        g_assert_cmpint(got, ==, XBZRLE_OVERFLOW);
    }
    if (got == XBZRLE_OVERFLOW) {
        /* what is left for the lengths is taken to be two bytes each */
        g_assert_cmpuint(want, >, XBZRLE_MAX - 3);
        return got;
    }
    g_assert_cmpmem(c->out, got, expected, want);
    g_assert_true(xbzrle_decode(before, c->out, (size_t)got));
    g_assert_cmpmem(before, PAGE, c->page, PAGE);
    return got;
}

static void fill_random(uint8_t *p, unsigned len)
{
    for (unsigned i = 0; i < len; i++) {
        p[i] = (uint8_t)g_test_rand_int();
    }
}

static void test_edges(gconstpointer data)
{
    struct coder c;

    coder_begin(&c, data);
    g_assert_cmpint(check_pair(&c), ==, 0);
    /* one byte at every place */
    for (unsigned i = 0; i < PAGE; i++) {
        c.page[i] ^= 0x5a;
        g_assert_cmpint(check_pair(&c), ==, i < 128 ? 3 : 4);
    }
    /* a run of every length, from the start, to the end, and in the middle */
    for (unsigned len = 1; len <= PAGE; len++) {
        unsigned places[] = { 0, PAGE - len, (PAGE - len) / 2 };

        for (unsigned k = 0; k < G_N_ELEMENTS(places); k++) {
            memset(c.page + places[k], (int)(c.page[places[k]] + 1 + k), len);
            check_pair(&c);
        }
    }
    /* two runs with every short gap between them, across every border of a vector */
    for (unsigned gap = 0; gap < 6; gap++) {
        for (unsigned at = 0; at + gap + 2 <= 200; at++) {
            c.page[at]++;
            c.page[at + gap + 1]++;
            check_pair(&c);
        }
    }
    coder_end(&c);
}

static void test_overflow(gconstpointer data)
{
    struct coder c;
    int got;

    coder_begin(&c, data);
    /* one run from the start: lengths of 1 and 2 bytes */
    for (unsigned len = PAGE - 16; len <= PAGE; len++) {
        for (unsigned i = 0; i < len; i++) {
            c.page[i]++;
        }
        got = check_pair(&c);
        g_assert_cmpint(got, ==, len + 4 <= (unsigned)XBZRLE_MAX ? (int)len + 3 : XBZRLE_OVERFLOW);
    }
    /* the worst for an encoder: every fourth byte */
    for (unsigned i = 0; i < PAGE; i += 4) {
        c.page[i]++;
    }
    g_assert_cmpint(check_pair(&c), ==, PAGE / 4 * 3);
    /* and every other, which is cheaper as one run */
    for (unsigned i = 0; i < PAGE; i += 2) {
        c.page[i]++;
    }
    g_assert_cmpint(check_pair(&c), ==, XBZRLE_OVERFLOW);
    coder_end(&c);
}

static void test_random(gconstpointer data)
{
    struct coder c;

    coder_begin(&c, data);
    fill_random(c.page, PAGE);
    memcpy(c.old, c.page, PAGE);
    for (unsigned turn = 0; turn < 20000; turn++) {
        unsigned runs = (unsigned)g_test_rand_int_range(0, turn % 50 ? 20 : 400);

        for (unsigned i = 0; i < runs; i++) {
            unsigned at = (unsigned)g_test_rand_int_range(0, (int)PAGE);
            unsigned len = (unsigned)g_test_rand_int_range(1, turn % 7 ? 12 : 600);

            fill_random(c.page + at, MIN(len, PAGE - at));
        }
        check_pair(&c);
    }
    coder_end(&c);
}

struct writer {
    uint8_t *page;
    gint end;
};

static gpointer write_on(gpointer opaque)
{
    struct writer *w = opaque;

    for (unsigned i = 0; !g_atomic_int_get(&w->end); i++) {
        volatile uint64_t *word = (volatile uint64_t *)(void *)w->page + i * 7 % 64 * 8;

        *word = *word + 0x0101010101010101u * (i | 1);
    }
    return NULL;
}

/* Whatever the guest writes meanwhile: what is encoded leads from the old copy to the new one. */
static void test_written_meanwhile(gconstpointer data)
{
    struct coder c;
    uint8_t there[PAGE];
    unsigned deltas = 0;

    coder_begin(&c, data);
    struct writer w = { .page = c.page };
    GThread *thread = g_thread_new("writer", write_on, &w);

    memcpy(there, c.old, PAGE);
    for (unsigned turn = 0; turn < 20000 || deltas < 100; turn++) {
        int got = c.encoder->encode(c.old, c.page, c.out);

        if (got == XBZRLE_OVERFLOW) {
            memcpy(there, c.old, PAGE);
        } else {
            deltas += got > 0;
            g_assert_true(xbzrle_decode(there, c.out, (size_t)got));
        }
        g_assert_cmpmem(there, PAGE, c.old, PAGE);
    }
    g_atomic_int_set(&w.end, 1);
    g_thread_join(thread);
    g_assert_cmpuint(deltas, >, 0);
    coder_end(&c);
}

/* --- the decoder --- */

struct sample {
    const char *bytes; /* hexadecimal */
    bool good;
};

static const struct sample samples[] = {
    { "", true }, /* nothing has changed */
    { "00", false },
    { "01", false },
    { "0001", false },     /* a byte is missing */
    { "000141", true },    /* the first byte */
    { "00014142", false }, /* ends in an unchanged run */
    { "ff1f0141", true },  /* the last byte: 4095 */
    { "80200141", false }, /* one past it */
    { "ff7f0141", false }, /* the largest number */
    { "80800141", false }, /* three bytes */
    { "80010141", true },  /* 128 */
    { "81000141", true },  /* 1 in two bytes */
    { "0000", false },     /* nothing changed */
    { "0100", false },
    { "01800041", false },
    { "0180800041", false },
    { "0002414200014300", false },
    { "00024142000143", false }, /* a run without distance to the one before */
    { "00024142010143", true },
    { "fe1f0241420141", false }, /* past the end after a run up to it */
    { "ff1f024142", false },     /* begins inside, ends outside */
    { "0080", false },
    { "00", false },
    { "80", false },
};

static size_t from_hex(const char *text, uint8_t *out)
{
    size_t len = strlen(text) / 2;

    for (size_t i = 0; i < len; i++) {
        out[i] = (uint8_t)(g_ascii_xdigit_value(text[2 * i]) * 16 +
                           g_ascii_xdigit_value(text[2 * i + 1]));
    }
    return len;
}

static void test_grammar(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(samples); i++) {
        size_t len = strlen(samples[i].bytes) / 2;
        uint8_t *page = guarded(PAGE), *data = guarded(len), expected[PAGE];

        from_hex(samples[i].bytes, data);
        memset(page, 0x11, PAGE);
        memset(expected, 0x11, PAGE);
        if (xbzrle_decode(page, data, len) != samples[i].good) {
            g_error("'%s' is taken as %s", samples[i].bytes, samples[i].good ? "bad" : "good");
        }
        g_assert_true(naive_decode(expected, data, len) == samples[i].good);
        g_assert_cmpmem(page, PAGE, expected, PAGE);
        guarded_free(page, PAGE);
        guarded_free(data, len);
    }
}

/* Either both take it, with the same result, or neither does. */
static void check_damaged(uint8_t *page, const uint8_t *data, size_t len)
{
    uint8_t expected[PAGE];

    memset(page, 0x33, PAGE);
    memset(expected, 0x33, PAGE);
    g_assert_true(xbzrle_decode(page, data, len) == naive_decode(expected, data, len));
    g_assert_cmpmem(page, PAGE, expected, PAGE);
}

static void test_damage(void)
{
    uint8_t *page = guarded(PAGE), old[PAGE], fresh[PAGE], encoded[2 * PAGE];

    fill_random(old, PAGE);
    memcpy(fresh, old, PAGE);
    for (unsigned at = 0; at < PAGE; at += 150) {
        fresh[at]++;
        fresh[PAGE - 1 - at / 3]++;
    }
    memset(fresh + 1000, 7, 300);
    unsigned len = naive_encode(old, fresh, 2, encoded);

    for (unsigned cut = 0; cut < len; cut++) {
        uint8_t *data = guarded(cut);

        memcpy(data, encoded, cut);
        check_damaged(page, data, cut);
        guarded_free(data, cut);
    }
    uint8_t *data = guarded(len);

    memcpy(data, encoded, len);
    for (unsigned bit = 0; bit < 8 * len; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        check_damaged(page, data, len);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (unsigned turn = 0; turn < 100000; turn++) {
        fill_random(data, 12);
        data[g_test_rand_int_range(0, 12)] &= 0x0f;
        data[g_test_rand_int_range(0, 12)] &= 0x0f;
        check_damaged(page, data, 12);
    }
    guarded_free(data, len);
    guarded_free(page, PAGE);
}

/* --- the cache --- */

static void test_cache(void)
{
    struct xbzrle_cache *c = xbzrle_cache_new(16 * PAGE, NULL);
    uint8_t *at[64];

    g_assert_nonnull(c);
    g_assert_cmpuint(xbzrle_cache_bytes(c), ==, 16 * PAGE);
    /* as many as it holds, side by side, all at once */
    for (unsigned i = 0; i < 16; i++) {
        g_assert_null(xbzrle_cache_find(c, 100 + i, 1));
        at[i] = xbzrle_cache_insert(c, 100 + i, 1);
        g_assert_nonnull(at[i]);
        memset(at[i], (int)i, PAGE);
    }
    for (unsigned i = 0; i < 16; i++) {
        g_assert_true(xbzrle_cache_find(c, 100 + i, 1) == at[i]);
        g_assert_cmpuint(at[i][PAGE - 1], ==, i);
    }
    /* in this round and the next they are not pushed out */
    g_assert_null(xbzrle_cache_insert(c, 200, 1));
    g_assert_null(xbzrle_cache_insert(c, 200, 2));
    g_assert_true(xbzrle_cache_find(c, 100, 2) == at[0]);
    /* then the one of the set that was not used, and only it */
    for (unsigned i = 1; i < 16; i++) {
        if (i != 8) {
            g_assert_nonnull(xbzrle_cache_find(c, 100 + i, 2));
        }
    }
    g_assert_true(xbzrle_cache_insert(c, 200, 3) == at[8]);
    g_assert_null(xbzrle_cache_insert(c, 202, 3));
    g_assert_null(xbzrle_cache_find(c, 108, 3));
    xbzrle_cache_free(c);

    /* the smallest */
    c = xbzrle_cache_new(PAGE, NULL);
    at[0] = xbzrle_cache_insert(c, 1, 1);
    memset(at[0], 1, PAGE);
    g_assert_null(xbzrle_cache_insert(c, 2, 2));
    g_assert_true(xbzrle_cache_insert(c, 2, 3) == at[0]);
    xbzrle_cache_free(c);
}

/* A working set of twice the cache, written to in order, round after round. */
static void test_cache_does_not_thrash(void)
{
    const unsigned pages = 64;
    struct xbzrle_cache *c = xbzrle_cache_new(pages * PAGE, NULL);
    unsigned hits = 0;

    for (uint32_t round = 0; round < 10; round++) {
        for (unsigned i = 0; i < 2 * pages; i++) {
            if (xbzrle_cache_find(c, 1000 + i, round)) {
                hits++;
            } else {
                xbzrle_cache_insert(c, 1000 + i, round);
            }
        }
    }
    g_assert_cmpuint(hits, ==, 9 * pages);
    xbzrle_cache_free(c);
}

static void test_cache_take_over(void)
{
    static const unsigned sizes[] = { 1, 4, 32, 64, 256 };

    for (unsigned k = 0; k < G_N_ELEMENTS(sizes); k++) {
        struct xbzrle_cache *old = xbzrle_cache_new(64 * PAGE, NULL),
                            *c = xbzrle_cache_new(sizes[k] * PAGE, NULL);
        unsigned kept = 0;

        for (unsigned i = 0; i < 64; i++) {
            memset(xbzrle_cache_insert(old, 1000 + i, i), (int)i, PAGE);
        }
        xbzrle_cache_take_over(c, old);
        xbzrle_cache_free(old);
        for (unsigned i = 0; i < 64; i++) {
            const uint8_t *copy = xbzrle_cache_find(c, 1000 + i, 64);

            if (copy) {
                g_assert_cmpuint(copy[0], ==, i);
                g_assert_cmpuint(copy[PAGE - 1], ==, i);
                g_assert_cmpuint(i, >=, 64 - MIN(sizes[k], 64)); /* the latest */
                kept++;
            }
        }
        g_assert_cmpuint(kept, ==, MIN(sizes[k], 64));
        xbzrle_cache_free(c);
    }
}

static void test_cache_too_large(void)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(xbzrle_cache_new(UINT64_C(1) << 62, &err));
    g_assert_nonnull(strstr(err->message, "Cannot allocate the xbzrle cache of 4611686018427387904 "
                                          "bytes: give a smaller xbzrle-cache-size"));
    g_clear_error(&err);
    g_assert_false(xbzrle_cache_possible(UINT64_C(1) << 63, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_true(xbzrle_cache_possible(PAGE, &err));
    g_assert_no_error(err);
}

/* --- both ends --- */

#define GUEST_PAGES 256u

struct ends {
    uint8_t *here, *there;
    struct xbzrle *x;
    bool zero[GUEST_PAGES];
};

/* Sends a page as ram/save.c does, and puts it where it belongs. */
static void send(struct ends *e, unsigned i, bool last)
{
    static const uint8_t nothing[PAGE];
    uint8_t *page = e->here + i * PAGE, *target = e->there + i * PAGE;
    const uint8_t *data;
    size_t len;

    if (!memcmp(page, nothing, PAGE)) {
        xbzrle_zero_page(e->x, page);
        memset(target, 0, PAGE);
        return;
    }
    switch (xbzrle_page(e->x, page, last, &data, &len)) {
    case XBZRLE_WHOLE:
        g_assert_cmpuint(len, ==, PAGE);
        memcpy(target, data, PAGE);
        break;
    case XBZRLE_DELTA:
        g_assert_cmpuint(data[0], ==, XBZRLE_MARK);
        g_assert_cmpuint(data[1] * 256u + data[2] + XBZRLE_HEADER, ==, len);
        g_assert_cmpuint(len, <, PAGE);
        g_assert_true(xbzrle_decode(target, data + XBZRLE_HEADER, len - XBZRLE_HEADER));
        break;
    case XBZRLE_SAME:
        break;
    }
}

static void write_page(uint8_t *page)
{
    switch (g_test_rand_int_range(0, 8)) {
    case 0:
        memset(page, 0, PAGE);
        break;
    case 1:
        fill_random(page, PAGE);
        break;
    case 2:
        break; /* written, not changed */
    default:
        for (unsigned i = 0; i < 8; i++) {
            page[g_test_rand_int_range(0, (int)PAGE)]++;
        }
    }
}

static void test_ends(void)
{
    static const unsigned cache_pages[] = { 1, 2, 8, 64, 256, 1024 };

    for (unsigned k = 0; k < G_N_ELEMENTS(cache_pages); k++) {
        const size_t size = (size_t)GUEST_PAGES * PAGE;
        struct ends e = { .here = guarded(size), .there = guarded(size) };
        struct xbzrle_stats s;
        uint64_t sent = 0;

        e.x = xbzrle_new(cache_pages[k] * PAGE, NULL);
        for (unsigned round = 0; round < 30; round++) {
            bool dirty[GUEST_PAGES] = { false };

            for (unsigned i = 0; i < 200; i++) {
                unsigned page = (unsigned)g_test_rand_int_range(0, round % 2 ? GUEST_PAGES : 60);

                write_page(e.here + page * PAGE);
                dirty[page] = true;
            }
            for (unsigned i = 0; i < GUEST_PAGES; i++) {
                if (dirty[i]) {
                    send(&e, i, round == 29);
                    sent++;
                }
            }
            xbzrle_end_round(e.x);
            g_assert_cmpmem(e.there, size, e.here, size);
            if (round == 10) {
                g_assert_true(xbzrle_resize(e.x, 32 * PAGE, NULL));
            }
            if (round == 15) {
                g_assert_false(xbzrle_resize(e.x, UINT64_C(1) << 62, NULL));
            }
            if (round == 20) {
                g_assert_true(xbzrle_resize(e.x, cache_pages[k] * PAGE, NULL));
            }
        }
        xbzrle_get_stats(e.x, &s);
        g_assert_cmpuint(s.cache_bytes, ==, cache_pages[k] * PAGE);
        g_assert_cmpuint(s.pages, >, 0);
        g_assert_cmpuint(s.same, >, 0);
        g_assert_cmpuint(s.overflows, >, 0);
        g_assert_cmpuint(s.misses, >, 0);
        g_assert_cmpuint(s.pages + s.overflows + s.misses, <, sent);
        g_assert_true(s.miss_rate >= 0 && s.miss_rate <= 1);
        xbzrle_free(e.x);
        guarded_free(e.here, size);
        guarded_free(e.there, size);
    }
}

static void test_stats(void)
{
    uint8_t *page = guarded(3 * PAGE);
    struct xbzrle *x = xbzrle_new(16 * PAGE, NULL);
    struct xbzrle_stats s;
    const uint8_t *data;
    size_t len;

    page[0] = page[PAGE] = 1;
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_WHOLE);
    g_assert_true(data != page); /* from the copy */
    xbzrle_zero_page(x, page + 2 * PAGE);
    xbzrle_end_round(x);
    xbzrle_get_stats(x, &s);
    g_assert_cmpfloat(s.miss_rate, ==, 0.5);
    g_assert_cmpfloat(s.encoding_rate, ==, 0);
    g_assert_cmpuint(s.misses, ==, 1);
    page[0]++;
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_DELTA);
    g_assert_cmpmem(data, len, "\1\0\3\0\1\2", 6);
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_SAME);
    /* not worth a place any more */
    g_assert_cmpint(xbzrle_page(x, page + PAGE, true, &data, &len), ==, XBZRLE_WHOLE);
    g_assert_true(data == page + PAGE);
    g_assert_cmpint(xbzrle_page(x, page + PAGE, true, &data, &len), ==, XBZRLE_WHOLE);
    xbzrle_end_round(x);
    xbzrle_get_stats(x, &s);
    g_assert_cmpuint(s.pages, ==, 2);
    g_assert_cmpuint(s.same, ==, 1);
    g_assert_cmpuint(s.bytes, ==, 6);
    g_assert_cmpuint(s.misses, ==, 3);
    g_assert_cmpfloat(s.miss_rate, ==, 0.5);
    g_assert_cmpfloat(s.encoding_rate, ==, 2.0 * PAGE / 6);
    xbzrle_free(x);
    guarded_free(page, 3 * PAGE);
}

/* What is in the cache is sent from it; another size does not lose it; rounds make room. */
static void test_from_the_cache(void)
{
    uint8_t *page = guarded(2 * PAGE);
    struct xbzrle *x = xbzrle_new(PAGE, NULL);
    const uint8_t *data;
    size_t len;

    fill_random(page, 2 * PAGE);
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_WHOLE);
    g_assert_true(data != page);
    fill_random(page, PAGE);
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_WHOLE);
    g_assert_true(data != page);
    g_assert_cmpmem(data, len, page, PAGE);
    g_assert_true(xbzrle_resize(x, 2 * PAGE, NULL));
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_SAME);
    g_assert_true(xbzrle_resize(x, PAGE, NULL));
    g_assert_cmpint(xbzrle_page(x, page, false, &data, &len), ==, XBZRLE_SAME);
    for (unsigned round = 0; round < 3; round++) {
        g_assert_cmpint(xbzrle_page(x, page + PAGE, false, &data, &len), ==, XBZRLE_WHOLE);
        g_assert_true((data == page + PAGE) == (round < 2)); /* no place, no place, a place */
        xbzrle_end_round(x);
    }
    g_assert_cmpint(xbzrle_page(x, page + PAGE, false, &data, &len), ==, XBZRLE_SAME);
    xbzrle_free(x);
    guarded_free(page, 2 * PAGE);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        GTestDataFunc run;
    } of_encoders[] = {
        { "edges", test_edges },
        { "overflow", test_overflow },
        { "random", test_random },
        { "written-meanwhile", test_written_meanwhile },
    };

    g_test_init(&argc, &argv, NULL);
    for (const struct xbzrle_encoder *e = xbzrle_encoders; e->name; e++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(of_encoders) && e->usable(); i++) {
            g_autofree char *path = g_strdup_printf("/xbzrle/%s/%s", e->name, of_encoders[i].name);

            g_test_add_data_func(path, e, of_encoders[i].run);
        }
    }
    g_test_add_func("/xbzrle/grammar", test_grammar);
    g_test_add_func("/xbzrle/damage", test_damage);
    g_test_add_func("/xbzrle/cache/places", test_cache);
    g_test_add_func("/xbzrle/cache/does-not-thrash", test_cache_does_not_thrash);
    g_test_add_func("/xbzrle/cache/take-over", test_cache_take_over);
    g_test_add_func("/xbzrle/cache/too-large", test_cache_too_large);
    g_test_add_func("/xbzrle/ends", test_ends);
    g_test_add_func("/xbzrle/stats", test_stats);
    g_test_add_func("/xbzrle/from-the-cache", test_from_the_cache);
    return g_test_run();
}
