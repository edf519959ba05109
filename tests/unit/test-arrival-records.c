/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the stream brings to memory that arrives: records and the ways to get them wrong, ends at
 * every byte, discards, and memory that cannot arrive at all.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/channel-private.h"
#include "migration/stream/format.h"
#include "test-arrival-machine.h"
#include "util/error.h"

/* A link may break after any byte: what was whole is in place, the rest is missing, and a new link
 * brings it. */
static void test_broken_anywhere(gconstpointer data)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t host = f.ram->page_size / TARGET_PAGE_SIZE;
        size_t step = host == 1 ? 1 : 100003;

        put_page(bytes, 0, "ram0");
        size_t whole = bytes->len;

        for (uint64_t i = 1; i < 4 * host; i++) {
            put_page(bytes, i, NULL);
        }
        put_eos(bytes);
        discard(&f, 0, PAGES);
        listen_now(&f);
        for (size_t cut = 0; cut < bytes->len; cut += step) {
            struct arrival_reader *r = arrival_reader_new(f.a);
            struct stream_in *in = in_new_memory(bytes->data, cut);
            GError *err = NULL;

            g_assert_false(arrival_read_section(r, in, &err));
            g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
            g_clear_error(&err);
            in_free(in);
            if (host == 1 && cut < whole) {
                g_assert_true(arrival_is_missing(f.a, f.ram, 0));
            }
            arrival_reader_free(r);
        }
        /* the last cut left out the end mark only, or part of the last page */
        struct arrival_reader *r = arrival_reader_new(f.a);

        read_section(r, bytes);
        arrival_reader_free(r);
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES - 4 * host);
        for (uint64_t i = 0; i < 4 * host; i++) {
            check_page(&f, i);
        }
    }
    tear_down(&f);
}

/* --- hostile sources --- */

static void name_it(GByteArray *b, uint64_t offset, unsigned flags, const char *name)
{
    uint8_t zero[TARGET_PAGE_SIZE] = { 0 };

    put_word(b, offset, flags, name);
    g_byte_array_append(b, zero, sizeof(zero));
}
static void bad_continue(GByteArray *b)
{
    name_it(b, 0, RAM_FLAG_PAGE, NULL);
}
static void bad_block(GByteArray *b)
{
    name_it(b, 0, RAM_FLAG_PAGE, "nobody");
}
static void bad_offset(GByteArray *b)
{
    name_it(b, PAGES * TARGET_PAGE_SIZE, RAM_FLAG_PAGE, "ram0");
}
static void bad_far_offset(GByteArray *b)
{
    name_it(b, UINT64_MAX & TARGET_PAGE_MASK, RAM_FLAG_ZERO, "ram0");
}
static void bad_rom_offset(GByteArray *b)
{
    name_it(b, ROM_PAGES * TARGET_PAGE_SIZE, RAM_FLAG_ZERO, "rom");
}
static void bad_after_unknown(GByteArray *b)
{
    put_page(b, 0, "rom");
    put_word(b, 0, RAM_FLAG_PAGE, "a\nb");
}
static void bad_fill(GByteArray *b)
{
    uint8_t fill = 1;

    put_word(b, 0, RAM_FLAG_ZERO, "ram0");
    g_byte_array_append(b, &fill, 1);
}
static void bad_list(GByteArray *b)
{
    put_be64(b, PAGES * TARGET_PAGE_SIZE | RAM_FLAG_MEM_SIZE);
}
static void bad_xbzrle(GByteArray *b)
{
    name_it(b, 0, RAM_FLAG_XBZRLE, "ram0");
}
static void bad_compressed(GByteArray *b)
{
    name_it(b, 0, RAM_FLAG_COMPRESS, "ram0");
}
static void bad_hook(GByteArray *b)
{
    put_be64(b, RAM_FLAG_HOOK);
}
static void bad_multifd(GByteArray *b)
{
    put_be64(b, RAM_FLAG_MULTIFD);
}
static void bad_two_flags(GByteArray *b)
{
    name_it(b, 0, RAM_FLAG_PAGE | RAM_FLAG_ZERO, "ram0");
}
static void bad_no_flags(GByteArray *b)
{
    put_be64(b, 0);
}
static void bad_eos(GByteArray *b)
{
    put_be64(b, TARGET_PAGE_SIZE | RAM_FLAG_EOS);
}

static const struct {
    const char *message;
    void (*make)(GByteArray *b);
} bad[] = {
    { "*continues a block before any was named*at offset 8", bad_continue },
    { "Can't find block nobody*", bad_block },
    { "Illegal RAM offset 0x800000 in block 'ram0' of 0x800000 bytes", bad_offset },
    { "Illegal RAM offset 0xfffffffffffff000 in block 'ram0'*", bad_far_offset },
    { "Illegal RAM offset 0x2000 in block 'rom'*", bad_rom_offset },
    { "*a name with the byte 0x0a*", bad_after_unknown },
    { "*equal bytes that are not zero*", bad_fill },
    { "*second list of RAM blocks*", bad_list },
    { "*xbzrle*", bad_xbzrle },
    { "*compressed page*", bad_compressed },
    { "Unknown combination of migration flags: 0x80,*", bad_hook },
    { "Unknown combination of migration flags: 0x200,*", bad_multifd },
    { "Unknown combination of migration flags: 0xa,*", bad_two_flags },
    { "Unknown combination of migration flags: 0x0,*", bad_no_flags },
    { "*end of memory with an offset*", bad_eos },
};

static void refused(struct fixture *f, const GByteArray *bytes, const char *message)
{
    struct arrival_reader *r = arrival_reader_new(f->a);
    struct stream_in *in = in_new_memory(bytes->data, bytes->len);
    GError *err = NULL;

    g_assert_false(arrival_read_section(r, in, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    if (!g_pattern_match_simple(message, err->message)) {
        g_error("'%s' is not like '%s'", err->message, message);
    }
    g_error_free(err);
    in_free(in);
    arrival_reader_free(r);
}

static void test_bad_records(void)
{
    g_autoptr(GByteArray) early = g_byte_array_new();
    struct fixture f;

    if (set_up(&f, ANON)) {
        discard(&f, 0, PAGES);
        put_page(early, 0, "ram0");
        put_eos(early);
        refused(&f, early, "*before the guest was taken over*");
        listen_now(&f);
        for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
            g_autoptr(GByteArray) bytes = g_byte_array_new();

            bad[i].make(bytes);
            refused(&f, bytes, bad[i].message);
            g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES);
        }
    }
    tear_down(&f);
}

static void test_shared_does_not_travel(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct fixture f;
    GError *err = NULL;

    if (set_up(&f, MEMFD)) {
        arrival_free(f.a);
        f.a = arrival_new(f.vm, true, &err);
        g_assert_no_error(err);
        g_assert_false(arrival_discard(f.a, f.ram, 0, TARGET_PAGE_SIZE, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_clear_error(&err);
        listen_now(&f);
        f.ram->host[0] = 1; /* is not watched at all */
        put_page(bytes, 0, "ram0");
        refused(&f, bytes, "*is shared and its pages do not travel*");
    }
    tear_down(&f);
}

static void test_bad_discards(gconstpointer data)
{
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t size = f.ram->used_length, page = f.ram->page_size;
        const struct {
            uint64_t offset, length;
        } ranges[] = {
            { size, page },
            { 0, size + page },
            { size - page, 2 * page },
            { 1, page },
            { 0, page - 1 },
            { page / 2, page },
            { page, page / 2 },
            { UINT64_MAX - page + 1, 1 },
            { UINT64_MAX & ~(page - 1), page },
            { page, UINT64_MAX & ~(page - 1) },
        };
        GError *err = NULL;

        for (unsigned i = 0; i < G_N_ELEMENTS(ranges); i++) {
            g_assert_false(arrival_discard(f.a, f.ram, ranges[i].offset, ranges[i].length, &err));
            g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
            g_clear_error(&err);
        }
        g_assert_true(arrival_discard(f.a, f.ram, size, 0, &err));
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, 0);
        discard(&f, 0, page / TARGET_PAGE_SIZE);
        listen_now(&f);
        g_assert_false(arrival_discard(f.a, f.ram, page, page, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_clear_error(&err);
        g_assert_false(arrival_listen(f.a, request, &f, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_clear_error(&err);
    }
    tear_down(&f);
}

static void test_page_sizes(gconstpointer data)
{
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        uint64_t sum = f.ram->page_size | TARGET_PAGE_SIZE;
        GError *err = NULL;

        g_assert_true(arrival_check_page_sizes(f.vm, sum, TARGET_PAGE_SIZE, &err));
        g_assert_false(arrival_check_page_sizes(f.vm, sum, 2 * TARGET_PAGE_SIZE, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_clear_error(&err);
        g_assert_false(arrival_check_page_sizes(f.vm, sum ^ HUGE_SIZE * UINT64_C(512),
                                                TARGET_PAGE_SIZE, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
        g_clear_error(&err);
    }
    tear_down(&f);
}

/* A huge page must come as a whole and in order. */
static void test_torn(gconstpointer data)
{
    const uint64_t host = HUGE_SIZE / TARGET_PAGE_SIZE;
    const struct {
        uint64_t pages[3];
        const char *message;
    } torn[] = {
        { { 0, 2, 3 }, "*tears a huge page: 0x2000 of memory 'ram0' came where 0x1000*" },
        { { 0, 0, 1 }, "*0x0 of memory 'ram0' came where 0x1000*" },
        { { 0, 1, host }, "*0x200000 of memory 'ram0' came where 0x2000*" },
        { { 1, 2, 3 }, "*0x1000 of memory 'ram0' came where the beginning of one*" },
        { { host, host + 1, 2 }, "*0x2000 of memory 'ram0' came where 0x202000*" },
    };
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        discard(&f, 0, PAGES);
        listen_now(&f);
        for (unsigned i = 0; i < G_N_ELEMENTS(torn); i++) {
            g_autoptr(GByteArray) bytes = g_byte_array_new();

            for (unsigned k = 0; k < 3; k++) {
                put_page(bytes, torn[i].pages[k], "ram0");
            }
            refused(&f, bytes, torn[i].message);
        }
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES);

        /* two streams, each in the middle of the same page, and sections that end in it */
        struct arrival_reader *a = arrival_reader_new(f.a), *b = arrival_reader_new(f.a);

        arrive(a, 0, 100);
        arrive(b, 0, host - 1);
        arrive(a, 100, host - 100);
        check_page(&f, 0);
        check_page(&f, host - 1);
        f.ram->host[8] = 77;
        arrive(b, host - 1, 1);
        g_assert_cmpint(f.ram->host[8], ==, 77);
        arrival_reader_free(a);
        arrival_reader_free(b);
    }
    tear_down(&f);
}

/*
 * Huge pages that were given back are anybody's. When they are gone, a page that comes is refused,
 * stays missing, and can come once more.
 */
static void test_no_huge_page_left(gconstpointer data)
{
    const uint64_t host = HUGE_SIZE / TARGET_PAGE_SIZE;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    void *thief[64];
    unsigned n = 0;
    struct fixture f;

    if (set_up(&f, GPOINTER_TO_INT(data))) {
        memset(f.ram->host, 0xee, f.ram->used_length);
        discard(&f, 0, PAGES);
        listen_now(&f);
        while (n < G_N_ELEMENTS(thief)) {
            thief[n] = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
            if (thief[n] == MAP_FAILED) {
                break;
            }
            n++;
        }
        for (uint64_t i = 0; i < host; i++) {
            put_page(bytes, i, i ? NULL : "ram0");
        }
        put_eos(bytes);

        struct arrival_reader *r = arrival_reader_new(f.a);
        struct stream_in *in = in_new_memory(bytes->data, bytes->len);
        GError *err = NULL;
        bool ok = arrival_read_section(r, in, &err);

        g_test_message("%u huge pages taken away; %s", n, ok ? "one was kept" : err->message);
        g_assert_true(ok || GPOINTER_TO_INT(data) != HUGE_SHARED); /* it keeps its pages */
        if (!ok) {
            g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
            g_clear_error(&err);
            g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES);
        }
        while (n) {
            munmap(thief[--n], HUGE_SIZE);
        }
        read_section(r, bytes); /* of a page that is in place nothing is taken */
        check_page(&f, 0);
        check_page(&f, host - 1);
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES - host);
        in_free(in);
        arrival_reader_free(r);
    }
    tear_down(&f);
}

/* The list of blocks of a source that may switch has the size of huge pages. */
static void test_list(gconstpointer data)
{
    bool huge = GPOINTER_TO_INT(data) == HUGE_SHARED;
    const uint64_t sizes[] = { HUGE_SIZE, TARGET_PAGE_SIZE };
    struct fixture f;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();
        GError *err = NULL;

        if (set_up(&f, GPOINTER_TO_INT(data))) {
            put_be64(bytes, (PAGES + ROM_PAGES) * TARGET_PAGE_SIZE | RAM_FLAG_MEM_SIZE);
            g_byte_array_append(bytes, (const uint8_t *)"\4ram0", 5);
            put_be64(bytes, PAGES * TARGET_PAGE_SIZE);
            if (huge) {
                put_be64(bytes, sizes[i]);
            }
            g_byte_array_append(bytes, (const uint8_t *)"\3rom", 4);
            put_be64(bytes, ROM_PAGES * TARGET_PAGE_SIZE);
            put_page(bytes, 7, "ram0");
            put_eos(bytes);

            struct stream_in *in = in_new_memory(bytes->data, bytes->len);

            g_assert_null(ram_load_current(f.rl));
            ram_load_advise(f.rl);
            bool ok = ram_load_section(f.rl, in, &err);

            if (huge && i == 1) {
                g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
                g_assert_nonnull(strstr(err->message, "host pages of 0x1000 bytes"));
                g_clear_error(&err);
            } else {
                g_assert_no_error(err);
                g_assert_true(ok);
                g_assert_true(ram_load_current(f.rl) == f.ram);
                check_page(&f, 7);
            }
            in_free(in);
        }
        tear_down(&f);
    }
}

/* Which block a stream goes on with, and pages of several blocks. */
static void test_blocks(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct arrival_reader *r;
    struct fixture f;
    GError *err = NULL;

    if (set_up(&f, ANON)) {
        g_assert_true(arrival_discard(f.a, f.rom, 0, ROM_PAGES * TARGET_PAGE_SIZE, &err));
        discard(&f, 4, 4);
        listen_now(&f);
        r = arrival_reader_new(f.a);
        arrival_reader_set_block(r, f.ram);
        put_page(bytes, 4, NULL);
        put_page(bytes, 0, "rom");
        put_page(bytes, 1, NULL);
        put_page(bytes, 5, "ram0");
        put_eos(bytes);
        read_section(r, bytes);
        g_byte_array_set_size(bytes, 0);
        put_page(bytes, 6, NULL);
        put_eos(bytes);
        read_section(r, bytes);
        arrival_reader_free(r);
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, 1);
        for (uint64_t i = 4; i < 7; i++) {
            check_page(&f, i);
        }
        for (unsigned i = 0; i < ROM_PAGES; i++) {
            uint64_t words[TARGET_PAGE_SIZE / 8];

            fill_page(words, i);
            g_assert_cmpint(memcmp(f.rom->host + i * TARGET_PAGE_SIZE, words, sizeof(words)), ==,
                            0);
        }
    }
    tear_down(&f);
}

/* A channel of bare records ends where it likes, but not in a record. */
static void test_bare(void)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct fixture f;

    if (set_up(&f, ANON)) {
        discard(&f, 0, PAGES);
        listen_now(&f);
        put_page(bytes, 0, "ram0");
        put_page(bytes, 1, NULL);
        size_t no_eos = bytes->len;

        put_eos(bytes);
        for (size_t cut = 0; cut <= bytes->len; cut++) {
            size_t first = 8 + 5 + TARGET_PAGE_SIZE;
            bool between = cut == 0 || cut == first || cut == no_eos, whole = cut == bytes->len;
            struct arrival_reader *r = arrival_reader_new(f.a);
            struct channel *ch;
            struct stream_in *in;
            int fds[2];
            bool ended = true;
            GError *err = NULL;

            g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
            g_assert_cmpint(write(fds[1], bytes->data, cut), ==, cut);
            close(fds[1]);
            ch = channel_new_socket("test", fds[0], NULL);
            in = in_new_channel(ch);
            bool ok = arrival_read_bare(r, in, &ended, &err);

            g_assert_cmpint(ok, ==, between || whole);
            if (!ok) {
                g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
                g_clear_error(&err);
            } else {
                g_assert_no_error(err);
                g_assert_cmpint(ended, ==, between);
            }
            if (whole) {
                g_assert_true(arrival_read_bare(r, in, &ended, &err));
                g_assert_true(ended);
            }
            in_free(in);
            channel_unref(ch);
            arrival_reader_free(r);
        }
        g_assert_cmpuint(arrival_missing_pages(f.a), ==, PAGES - 2);
        check_page(&f, 0);
        check_page(&f, 1);
    }
    tear_down(&f);
}

/* Memory that cannot be watched is refused by name, before anything starts. */
static void test_impossible(void)
{
    g_autofree char *disk = g_strdup_printf("/var/tmp/test-arrival-%d", getpid());
    g_autofree char *shm = g_strdup_printf("/dev/shm/test-arrival-%d", getpid());
    const struct {
        const char *path;
        bool share;
        const char *message;
    } cases[] = {
        { disk, true, "*memory 'file', a file on a disk: put it on a tmpfs*" },
        { disk, false, "*memory 'file', a file on a disk: put it on a tmpfs*" },
        { shm, false, "*memory 'file', a private mapping of a file*share=on*" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct ram_backing backing = { .type = RAM_FILE,
                                       .path = cases[i].path,
                                       .share = cases[i].share,
                                       .madvise_merge = -1,
                                       .madvise_hugepage = -1,
                                       .madvise_dump = -1 };
        GError *err = NULL;
        struct fixture f;

        if (set_up(&f, ANON)) {
            arrival_free(f.a);
            g_assert_nonnull(ram_block_new(f.vm->memory, "file", 16384, 0, &backing, NULL));
            g_assert_false(arrival_possible(f.vm, false, &err));
            g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
            g_assert_true(g_pattern_match_simple(cases[i].message, err->message));
            g_clear_error(&err);
            g_assert_cmpint(arrival_possible(f.vm, true, NULL), ==, cases[i].share);
            f.a = arrival_new(f.vm, false, &err);
            g_assert_null(f.a);
            g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
            g_clear_error(&err);
        }
        tear_down(&f);
        unlink(cases[i].path);
    }
}

static void add(const char *name, void (*fn)(gconstpointer), enum memory_kind kind)
{
    static const char *const kinds[] = {
        "anonymous", "memfd",       "memfd-holes", "memfd-private",
        "shm-file",  "huge-shared", "huge-holes",  "huge-private"
    };
    g_autofree char *path = g_strdup_printf("/arrival/%s/%s", name, kinds[kind]);

    g_test_add_data_func(path, GINT_TO_POINTER(kind), fn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("broken-anywhere", test_broken_anywhere, ANON);
    add("broken-anywhere", test_broken_anywhere, HUGE_SHARED);
    add("bad-discards", test_bad_discards, ANON);
    add("bad-discards", test_bad_discards, HUGE_SHARED);
    add("page-sizes", test_page_sizes, ANON);
    add("page-sizes", test_page_sizes, HUGE_SHARED);
    add("no-huge-page-left", test_no_huge_page_left, HUGE_SHARED);
    add("no-huge-page-left", test_no_huge_page_left, HUGE_HOLES);
    add("no-huge-page-left", test_no_huge_page_left, HUGE_PRIVATE);
    add("list", test_list, ANON);
    add("list", test_list, HUGE_SHARED);
    add("torn", test_torn, HUGE_SHARED);
    add("torn", test_torn, HUGE_PRIVATE);
    g_test_add_func("/arrival/bad-records", test_bad_records);
    g_test_add_func("/arrival/shared-does-not-travel", test_shared_does_not_travel);
    g_test_add_func("/arrival/blocks", test_blocks);
    g_test_add_func("/arrival/bare", test_bare);
    g_test_add_func("/arrival/impossible", test_impossible);
    return g_test_run();
}
