/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM on the way out and in, through memory, with a fake accelerator whose dirty log the test
 * writes: what is sent, what is not, what a second round brings, and everything a peer may get
 * wrong.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "accel/accel.h"
#include "io/channel-private.h"
#include "migration/ram/load.h"
#include "migration/ram/pages.h"
#include "migration/ram/save.h"
#include "migration/stream/format.h"
#include "system/vm-init.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"
#include "util/error.h"

#define PAGES 8192u /* two chunks */

/* The guest's writes since the last sync, and which pages were re-armed before they were read. */
struct fake {
    struct accel accel;
    unsigned long *dirty;
    unsigned clears;
};

static struct fake *fake_of(struct vm *vm)
{
    return (struct fake *)(void *)vm->accel;
}

static bool fake_start(struct vm *vm, GError **err)
{
    (void)vm;
    (void)err;
    return true;
}

static void fake_stop(struct vm *vm)
{
    (void)vm;
}

static void fake_free(struct accel *accel)
{
    (void)accel; /* part of the fixture */
}

static bool fake_sync(struct vm *vm, struct ram_block *block, struct dirty_set *set, GError **err)
{
    (void)err;
    if (block->index == 0) {
        dirty_set_merge(set, 0, fake_of(vm)->dirty, PAGES);
        memset(fake_of(vm)->dirty, 0, PAGES / 8);
    }
    return true;
}

static void fake_clear(struct vm *vm, struct ram_block *block, uint64_t first, uint64_t pages)
{
    (void)block;
    g_assert_cmpuint(first % 64, ==, 0);
    g_assert_cmpuint(pages, >, 0);
    fake_of(vm)->clears++;
}

static const struct accel_ops fake_ops = { .name = "fake",
                                           .dirty_start = fake_start,
                                           .dirty_stop = fake_stop,
                                           .stop = fake_stop,
                                           .free = fake_free,
                                           .dirty_sync = fake_sync,
                                           .dirty_clear = fake_clear };

struct fixture {
    struct vm *vm;
    struct fake fake;
    struct ram_block *ram, *rom;
    GByteArray *bytes;
    struct stream_out *o;
};

static void set_up(struct fixture *f, gconstpointer share)
{
    struct ram_backing backing = { .type = RAM_ANON,
                                   .share = share != NULL,
                                   .madvise_merge = -1,
                                   .madvise_hugepage = 0,
                                   .madvise_dump = -1 };

    f->vm = vm_new();
    f->fake.accel.ops = &fake_ops;
    f->fake.dirty = bitmap_new(PAGES);
    f->vm->accel = &f->fake.accel;
    f->ram = ram_block_new(f->vm->memory, "ram0", PAGES * TARGET_PAGE_SIZE, 0, &backing, NULL);
    backing.share = false;
    f->rom = ram_block_new(f->vm->memory, "rom", 2 * TARGET_PAGE_SIZE, 8 * TARGET_PAGE_SIZE,
                           &backing, NULL);
    g_assert_nonnull(f->ram);
    g_assert_nonnull(f->rom);
    f->bytes = g_byte_array_new();
    f->o = out_new_memory(f->bytes);
    vm_unlock(f->vm);
}

static void tear_down(struct fixture *f, gconstpointer data)
{
    (void)data;
    out_free(f->o);
    g_byte_array_unref(f->bytes);
    vm_lock(f->vm);
    vm_free(f->vm);
    g_free(f->fake.dirty);
}

/* The payloads of all ram sections in `in`, read as a destination does. */
static bool load_from(struct fixture *f, struct stream_in *in, GError **err)
{
    struct ram_load *rl = ram_load_new(f->vm, NULL);
    bool ok = true;
    uint8_t type;

    while (ok && in_u8(in, &type, NULL)) {
        ok = in_skip(in, type == STREAM_SECTION_START ? 4 + 1 + 3 + 4 + 4 : 4, err) &&
             ram_load_section(rl, in, err) && in_skip(in, 5, err);
    }
    ram_load_free(rl);
    return ok;
}

static bool load(struct fixture *f, GError **err)
{
    struct stream_in *in = in_new_memory(f->bytes->data, f->bytes->len);
    bool ok = load_from(f, in, err);

    in_free(in);
    return ok;
}

struct feeder {
    const GByteArray *bytes;
    int fd;
    size_t piece; /* bytes a write, at most */
};

static gpointer feed(gpointer opaque)
{
    struct feeder *feeder = opaque;
    size_t at = 0;

    while (at < feeder->bytes->len) {
        ssize_t n = write(feeder->fd, feeder->bytes->data + at,
                          MIN(feeder->piece, feeder->bytes->len - at));

        g_assert_cmpint(n, >, 0);
        at += (size_t)n;
    }
    close(feeder->fd);
    return NULL;
}

/* The same over a socket, where pages are read straight into place; the writer cuts its writes as
 * it likes. */
static bool load_from_socket(struct fixture *f, size_t piece, GError **err)
{
    struct feeder feeder = { .bytes = f->bytes, .piece = piece };
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    feeder.fd = fds[1];
    GThread *thread = g_thread_new("feed", feed, &feeder);
    struct channel *ch = channel_new_socket("test", fds[0], NULL);
    struct stream_in *in = in_new_channel(ch);
    bool ok = load_from(f, in, err);

    g_thread_join(thread);
    in_free(in);
    channel_unref(ch);
    return ok;
}
static void start(struct fixture *f, struct ram_save **rs, bool zeroed)
{
    struct ram_save_config config = { .zeroed = zeroed };

    *rs = ram_save_new(f->vm);
    g_assert_true(ram_save_start_tracking(*rs, NULL));
    ram_save_setup(*rs, &config, f->o);
}

static bool resident(struct fixture *f, unsigned page)
{
    unsigned char vec;

    g_assert_cmpint(mincore(f->ram->host + page * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE, &vec), ==, 0);
    return vec & 1;
}

static void test_rounds(struct fixture *f, gconstpointer data)
{
    struct ram_save *rs;
    struct ram_save_stats s;

    (void)data;
    memset(f->ram->host + 5 * TARGET_PAGE_SIZE, 'a', TARGET_PAGE_SIZE);
    memset(f->ram->host + 5000 * TARGET_PAGE_SIZE, 'b', TARGET_PAGE_SIZE);
    f->ram->host[6 * TARGET_PAGE_SIZE] = 0; /* touched, and zero */
    start(f, &rs, true);
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, false));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, 2);
    g_assert_cmpuint(s.zero_pages, ==, PAGES - 2 + 2);
    g_assert_cmpuint(s.remaining_pages, ==, 0);
    g_assert_cmpuint(f->fake.clears, ==, 3); /* each chunk once */
    g_assert_false(resident(f, 100));        /* never touched, never read */
    g_assert_cmpuint(f->o->bytes, <, 2 * 4096 + 300);

    /* the guest writes two pages, the VMM a third; one of them becomes zero */
    memset(f->ram->host + 5 * TARGET_PAGE_SIZE, 0, TARGET_PAGE_SIZE);
    memset(f->ram->host + 7 * TARGET_PAGE_SIZE, 'c', TARGET_PAGE_SIZE);
    bitmap_set(f->fake.dirty, 5);
    bitmap_set(f->fake.dirty, 7);
    ram_block_mark_dirty(f->ram, 5000 * TARGET_PAGE_SIZE + 4095, 2);
    g_assert_true(ram_save_sync(rs, NULL));
    g_assert_cmpuint(ram_save_remaining(rs), ==, 4); /* 5000 and 5001 */
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, 4);
    g_assert_cmpuint(s.dirtied_last, ==, 4);
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));

    /* the stream alone makes the same memory */
    g_autofree uint8_t *copy = g_memdup2(f->ram->host, PAGES * TARGET_PAGE_SIZE);
    GError *err = NULL;

    memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(load(f, &err));
    g_assert_no_error(err);
    g_assert_cmpint(memcmp(f->ram->host, copy, PAGES * TARGET_PAGE_SIZE), ==, 0);
}

static void test_untouched_are_named_for_others(struct fixture *f, gconstpointer data)
{
    struct ram_save *rs;

    (void)data;
    start(f, &rs, false);
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    g_assert_cmpuint(f->o->bytes, >, PAGES * 9); /* word and fill byte for every page */
    g_assert_false(resident(f, 100));            /* and yet none was read */
    ram_save_free(rs);
}

static void discard(struct fixture *f, unsigned first, unsigned count)
{
    GError *err = NULL;

    g_assert_true(
        ram_block_discard(f->ram, first * TARGET_PAGE_SIZE, count * TARGET_PAGE_SIZE, &err));
    g_assert_no_error(err);
}

/* Memory that is given back while it is walked: where it comes next, and after it was written. */
static void test_given_back(struct fixture *f, gconstpointer data)
{
    struct ram_save_stats s;
    struct ram_save *rs;

    (void)data;
    memset(f->ram->host, 'x', PAGES * TARGET_PAGE_SIZE);
    start(f, &rs, true);
    g_assert_false(ram_save_section(rs, f->o, 100000, false));
    discard(f, 5000, 1000); /* of the second chunk */
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, false));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, PAGES - 1000);
    for (unsigned i = 5000; i < 6000; i++) {
        g_assert_false(resident(f, i));
    }

    /* 0-9 were sent, written and given back, 20-29 only given back, 10-19 only written */
    for (unsigned i = 0; i < 20; i++) {
        bitmap_set(f->fake.dirty, i);
    }
    discard(f, 0, 10);
    discard(f, 20, 10);
    g_assert_true(ram_save_sync(rs, NULL));
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, PAGES - 1000 + 10);
    g_assert_false(resident(f, 0));
    g_assert_false(resident(f, 9));
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));
    memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(load(f, NULL));
    for (unsigned i = 0; i < PAGES; i++) {
        /* 20-29 are what was sent of them: nobody may rely on it */
        bool zero = i < 10 || (i >= 5000 && i < 6000);

        g_assert_cmpint(f->ram->host[i * TARGET_PAGE_SIZE], ==, zero ? 0 : 'x');
    }
}

/* Pages that the guest does not need are not sent, unless it writes to them again. */
static void test_not_needed(struct fixture *f, gconstpointer data)
{
    struct ram_save_stats s;
    struct ram_save *rs;

    memset(f->ram->host, 'x', PAGES * TARGET_PAGE_SIZE);
    start(f, &rs, data != NULL);
    ram_block_not_needed(f->ram, 0, PAGES * TARGET_PAGE_SIZE); /* nobody has asked */
    ram_save_ask_for_hints(rs);
    g_assert_cmpuint(f->fake.clears, ==, 3); /* everything, before anybody is asked */
    ram_block_not_needed(f->ram, 0, 0);
    ram_block_not_needed(f->ram, 1, 2 * TARGET_PAGE_SIZE - 2); /* no whole page */
    ram_block_not_needed(f->ram, 100 * TARGET_PAGE_SIZE - 1, 100 * TARGET_PAGE_SIZE + 2);
    ram_block_not_needed(f->ram, 4000 * TARGET_PAGE_SIZE, 1000 * TARGET_PAGE_SIZE);
    memset(f->ram->host + 150 * TARGET_PAGE_SIZE, 'y', TARGET_PAGE_SIZE);
    bitmap_set(f->fake.dirty, 150);
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, false));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, PAGES - 1100);
    vm_lock(f->vm);
    ram_save_end_hints(rs);
    vm_unlock(f->vm);
    ram_block_not_needed(f->ram, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(ram_save_sync(rs, NULL));
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.normal_pages, ==, PAGES - 1100 + 1);
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));
    memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(load(f, NULL));
    for (unsigned i = 0; i < PAGES; i++) {
        bool gone = (i >= 100 && i < 200) || (i >= 4000 && i < 5000);

        g_assert_cmpint(f->ram->host[i * TARGET_PAGE_SIZE], ==, i == 150 ? 'y' : gone ? 0 : 'x');
    }
}

static void test_slices(struct fixture *f, gconstpointer data)
{
    struct ram_save *rs;
    unsigned slices = 1;

    (void)data;
    memset(f->ram->host, 'x', PAGES * TARGET_PAGE_SIZE);
    start(f, &rs, true);
    while (!ram_save_section(rs, f->o, 100000, false)) {
        slices++;
    }
    g_assert_cmpuint(slices, >, 300);
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));
    memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(load(f, NULL));
    g_assert_cmpint(f->ram->host[PAGES * TARGET_PAGE_SIZE - 1], ==, 'x');
}

/* Runs of pages in order, broken by zero and by missing pages at all distances, then a second round
 * in which pages come again. */
static void test_runs(struct fixture *f, gconstpointer data)
{
    static const size_t pieces[] = { 1 << 20, 4096, 4104, 5000, 300000, 77 };
    g_autofree uint8_t *copy = NULL;
    struct ram_save *rs;
    unsigned gap = 1;

    (void)data;
    for (unsigned p = 0; p < PAGES; p++) {
        bool skip = p > 500 && p % (300 + gap) < 3;

        if (!skip) {
            memset(f->ram->host + p * TARGET_PAGE_SIZE, (int)(p % 255) + 1, TARGET_PAGE_SIZE);
        } else {
            gap += 13;
        }
    }
    memset(f->rom->host, 'r', 2 * TARGET_PAGE_SIZE);
    start(f, &rs, true);
    while (!ram_save_section(rs, f->o, 1 << 20, false)) {
    }
    for (unsigned p = 1000; p < 3000; p++) {
        f->ram->host[p * TARGET_PAGE_SIZE] ^= 0xff;
        bitmap_set(f->fake.dirty, p);
    }
    g_assert_true(ram_save_sync(rs, NULL));
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));
    copy = g_memdup2(f->ram->host, PAGES * TARGET_PAGE_SIZE);
    for (unsigned i = 0; i < G_N_ELEMENTS(pieces); i++) {
        GError *err = NULL;

        memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
        memset(f->rom->host, 0, 2 * TARGET_PAGE_SIZE);
        g_assert_true(load_from_socket(f, pieces[i], &err));
        g_assert_no_error(err);
        g_assert_cmpint(memcmp(f->ram->host, copy, PAGES * TARGET_PAGE_SIZE), ==, 0);
        g_assert_cmpint(f->rom->host[TARGET_PAGE_SIZE], ==, 'r');
    }
    /* and cut off in the middle of a run */
    GError *err = NULL;

    g_byte_array_set_size(f->bytes, f->bytes->len / 2);
    g_assert_false(load_from_socket(f, 1 << 20, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_clear_error(&err);
}

static void dirty(struct fixture *f, unsigned page, unsigned offset, uint8_t value)
{
    f->ram->host[page * TARGET_PAGE_SIZE + offset] = value;
    bitmap_set(f->fake.dirty, page);
}

/* Pages that come again are sent as what has changed, and the stream alone makes the same memory,
 * even where the guest writes between the queueing of a page and its leaving. */
static void test_changes(struct fixture *f, gconstpointer data)
{
    struct ram_save *rs;
    struct ram_save_stats s;
    uint64_t before;

    (void)data;
    memset(f->ram->host, 0x21, 200 * TARGET_PAGE_SIZE);
    start(f, &rs, true);
    g_assert_true(ram_save_use_xbzrle(rs, 64 * TARGET_PAGE_SIZE, NULL));
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, false));
    g_assert_true(out_flush(f->o, NULL));
    for (unsigned round = 1; round < 12; round++) {
        for (unsigned p = 0; p < 32; p++) {
            dirty(f, p, round * 17 + p, (uint8_t)round);
        }
        memset(f->ram->host + 40 * TARGET_PAGE_SIZE, round % 2 ? 0 : 3, TARGET_PAGE_SIZE);
        dirty(f, 40, 0, 0);
        for (unsigned i = 0; i < TARGET_PAGE_SIZE; i++) {
            dirty(f, 41, i, (uint8_t)g_random_int());
        }
        dirty(f, 42, 0, 0x21);         /* as it was */
        dirty(f, 100 + round, 7, 0x8); /* never again */
        g_assert_true(ram_save_sync(rs, NULL));
        g_assert_true(ram_save_use_xbzrle(rs, (round < 6 ? 64 : 128) * TARGET_PAGE_SIZE, NULL));
        before = f->o->bytes;
        g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, false));
        if (round > 1) {
            g_assert_cmpuint(f->o->bytes - before, <, 5 * 4096);
        }
        /* what is queued stays as it was; the guest goes on */
        for (unsigned p = 0; p < 32; p++) {
            dirty(f, p, 4000, (uint8_t)(round + p));
        }
        g_assert_true(out_flush(f->o, NULL));
        for (unsigned p = 0; p < 32; p++) {
            dirty(f, p, 4000, 0x21);
        }
    }
    g_assert_true(ram_save_sync(rs, NULL));
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.remaining_pages, ==, 0);
    g_assert_cmpuint(s.xbzrle.cache_bytes, ==, 128 * TARGET_PAGE_SIZE);
    g_assert_cmpuint(s.xbzrle.pages, >=, 10 * 33 + 32);
    g_assert_cmpuint(s.xbzrle.same, >=, 10);
    g_assert_cmpuint(s.xbzrle.overflows, >=, 10);
    g_assert_cmpuint(s.xbzrle.misses, >=, 11);
    ram_save_free(rs);
    g_assert_true(out_flush(f->o, NULL));

    g_autofree uint8_t *copy = g_memdup2(f->ram->host, PAGES * TARGET_PAGE_SIZE);
    GError *err = NULL;

    memset(f->ram->host, 0, PAGES * TARGET_PAGE_SIZE);
    g_assert_true(load(f, &err));
    g_assert_no_error(err);
    g_assert_cmpint(memcmp(f->ram->host, copy, PAGES * TARGET_PAGE_SIZE), ==, 0);
}

/* A cache that the host has no room for does not begin, or leaves the one there is. */
static void test_changes_without_room(struct fixture *f, gconstpointer data)
{
    g_autoptr(GError) err = NULL;
    struct ram_save_stats s;
    struct ram_save *rs;

    (void)data;
    start(f, &rs, true);
    g_assert_false(ram_save_use_xbzrle(rs, UINT64_C(1) << 62, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_clear_error(&err);
    g_assert_true(ram_save_use_xbzrle(rs, TARGET_PAGE_SIZE, &err));
    g_assert_false(ram_save_use_xbzrle(rs, UINT64_C(1) << 62, &err));
    g_clear_error(&err);
    g_assert_true(ram_save_use_xbzrle(rs, UINT64_C(1) << 62, &err)); /* said once */
    g_assert_true(ram_save_section(rs, f->o, UINT64_MAX, true));
    ram_save_get_stats(rs, &s);
    g_assert_cmpuint(s.xbzrle.cache_bytes, ==, TARGET_PAGE_SIZE);
    ram_save_free(rs);
}

static void test_zeroing(struct fixture *f, gconstpointer data)
{
    (void)data;
    f->ram->host[3 * TARGET_PAGE_SIZE + 4095] = 1;
    f->ram->host[8000 * TARGET_PAGE_SIZE] = 1;
    ram_block_zero(f->ram);
    g_assert_cmpint(f->ram->host[3 * TARGET_PAGE_SIZE + 4095], ==, 0);
    g_assert_cmpint(f->ram->host[8000 * TARGET_PAGE_SIZE], ==, 0);
    g_assert_false(resident(f, 4000));
}

static void test_zero_page(void)
{
    uint8_t page[TARGET_PAGE_SIZE] __attribute__((aligned(64))) = { 0 };

    g_assert_true(page_is_zero(page));
    for (unsigned i = 0; i < sizeof(page); i++) {
        page[i] = 1;
        g_assert_false(page_is_zero(page));
        page[i] = 0;
    }
}

/* One record in a section of its own; must be refused with this text. */
static void bad_record(struct fixture *f, uint64_t word, const char *name, const char *text)
{
    GError *err = NULL;

    g_byte_array_set_size(f->bytes, 0);
    out_u8(f->o, STREAM_SECTION_PART);
    out_be32(f->o, 1);
    out_be64(f->o, word);
    if (name) {
        out_pstr(f->o, name);
    }
    for (int i = 0; i < 600; i++) {
        out_be64(f->o, 0);
    }
    g_assert_true(out_flush(f->o, NULL));
    g_assert_false(load(f, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    if (!strstr(err->message, text)) {
        g_error("'%s' lacks '%s'", err->message, text);
    }
    g_clear_error(&err);
}

static void test_bad_records(struct fixture *f, gconstpointer data)
{
    const uint64_t end = PAGES * TARGET_PAGE_SIZE;

    (void)data;
    bad_record(f, end | RAM_FLAG_PAGE, "ram0", "Illegal RAM offset 0x2000000 in block 'ram0'");
    bad_record(f, (UINT64_MAX & TARGET_PAGE_MASK) | RAM_FLAG_PAGE, "ram0", "Illegal RAM offset");
    bad_record(f, 2 * TARGET_PAGE_SIZE | RAM_FLAG_ZERO, "rom",
               "Illegal RAM offset"); /* below its maximum, past its length */
    bad_record(f, RAM_FLAG_PAGE, "nobody", "Can't find block nobody");
    bad_record(f, RAM_FLAG_PAGE | RAM_FLAG_CONTINUE, NULL, "bad migration stream");
    bad_record(f, RAM_FLAG_COMPRESS, NULL, "compressed page");
    bad_record(f, RAM_FLAG_MULTIFD, NULL, "Unknown combination of migration flags: 0x200");
    bad_record(f, RAM_FLAG_MEM_SIZE | TARGET_PAGE_SIZE, "nobody", "Unknown ramblock \"nobody\"");
}

/* A page of ram0, when it is to come first, and then changes to it: mark, length, encoding. */
static void bad_changes(struct fixture *f, bool first, const char *record, size_t len,
                        const char *text)
{
    GError *err = NULL;

    g_byte_array_set_size(f->bytes, 0);
    out_u8(f->o, STREAM_SECTION_PART);
    out_be32(f->o, 1);
    if (first) {
        out_be64(f->o, RAM_FLAG_ZERO);
        out_pstr(f->o, "ram0");
        out_u8(f->o, 0);
    }
    out_be64(f->o, RAM_FLAG_XBZRLE);
    out_pstr(f->o, "ram0");
    out_bytes(f->o, record, len);
    out_be64(f->o, RAM_FLAG_EOS);
    out_u8(f->o, STREAM_FOOTER);
    out_be32(f->o, 1);
    g_assert_true(out_flush(f->o, NULL));
    g_assert_false(load(f, &err));
    if (!strstr(err->message, text)) {
        g_error("'%s' lacks '%s'", err->message, text);
    }
    g_clear_error(&err);
}

static void test_bad_changes(struct fixture *f, gconstpointer data)
{
    (void)data;
    bad_changes(f, false, "\1\0\3\0\1x", 6, "changes (xbzrle) of a page that has not come before");
    bad_changes(f, true, "\2\0\3\0\1x", 6, "unknown kind or longer than a page");
    bad_changes(f, true, "\1\20\1\0\1x", 6, "unknown kind or longer than a page");
    bad_changes(f, true, "\1\377\377", 3, "unknown kind or longer than a page");
    bad_changes(f, true, "\1\0\3\0\2x", 6, "cannot be decoded");
    bad_changes(f, true, "\1\0\1\5", 4, "cannot be decoded");
    bad_changes(f, true, "\1\0\5\200\40\1x", 7, "cannot be decoded"); /* takes a byte of EOS */
    bad_changes(f, true, "\1\20\0", 3, "ended early");
}

static void bad_list(struct fixture *f, uint64_t total, const char *name, uint64_t length,
                     const char *text)
{
    GError *err = NULL;

    g_byte_array_set_size(f->bytes, 0);
    out_u8(f->o, STREAM_SECTION_PART);
    out_be32(f->o, 1);
    out_be64(f->o, total | RAM_FLAG_MEM_SIZE);
    out_pstr(f->o, name);
    out_be64(f->o, length);
    g_assert_true(out_flush(f->o, NULL));
    g_assert_false(load(f, &err));
    if (!strstr(err->message, text)) {
        g_error("'%s' lacks '%s'", err->message, text);
    }
    g_clear_error(&err);
}

static void test_bad_lists(struct fixture *f, gconstpointer data)
{
    const uint64_t all = PAGES * TARGET_PAGE_SIZE;

    (void)data;
    bad_list(f, all, "ram0", all / 2, "Length mismatch: ram0");
    bad_list(f, all, "ram0", all + 4096, "Length mismatch");
    bad_list(f, 4096, "ram0", all, "longer than their total");
    bad_list(f, all, "rom", 9 * TARGET_PAGE_SIZE, "Length mismatch: rom"); /* above its maximum */
    bad_list(f, all, "rom", 100, "Length mismatch");
    bad_list(f, all, "rom", 0, "Length mismatch");
    bad_list(f, all, "ram0", UINT64_MAX & TARGET_PAGE_MASK, "Length mismatch");
    bad_list(f, all, "ram0", all, "no memory 'rom'");
}

static void test_resizable(struct fixture *f, gconstpointer data)
{
    (void)data;
    g_byte_array_set_size(f->bytes, 0);
    out_u8(f->o, STREAM_SECTION_PART);
    out_be32(f->o, 1);
    out_be64(f->o, ((PAGES + 4) * TARGET_PAGE_SIZE) | RAM_FLAG_MEM_SIZE);
    out_pstr(f->o, "ram0");
    out_be64(f->o, PAGES * TARGET_PAGE_SIZE);
    out_pstr(f->o, "rom");
    out_be64(f->o, 4 * TARGET_PAGE_SIZE);
    out_be64(f->o, (3 * TARGET_PAGE_SIZE) | RAM_FLAG_ZERO);
    out_pstr(f->o, "rom");
    out_u8(f->o, 'z');
    out_be64(f->o, RAM_FLAG_EOS);
    out_be32(f->o, 0);
    out_u8(f->o, 0);
    g_assert_true(out_flush(f->o, NULL));
    g_assert_true(load(f, NULL));
    g_assert_cmpuint(f->rom->used_length, ==, 4 * TARGET_PAGE_SIZE);
    g_assert_cmpint(f->rom->host[3 * TARGET_PAGE_SIZE + 17], ==, 'z');
}

#define CASE(path, fn, arg) g_test_add(path, struct fixture, arg, set_up, fn, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_random_set_seed(1); /* the same in each run */
    CASE("/ram/rounds/private", test_rounds, NULL);
    CASE("/ram/rounds/shared", test_rounds, "share");
    CASE("/ram/untouched-are-named-for-others", test_untouched_are_named_for_others, NULL);
    CASE("/ram/untouched-are-named-for-others/shared", test_untouched_are_named_for_others,
         "share");
    CASE("/ram/given-back/private", test_given_back, NULL);
    CASE("/ram/given-back/shared", test_given_back, "share");
    CASE("/ram/not-needed", test_not_needed, NULL);
    CASE("/ram/not-needed/zeroed", test_not_needed, "share");
    CASE("/ram/slices", test_slices, NULL);
    CASE("/ram/runs", test_runs, NULL);
    CASE("/ram/changes/private", test_changes, NULL);
    CASE("/ram/changes/shared", test_changes, "share");
    CASE("/ram/changes/without-room", test_changes_without_room, NULL);
    CASE("/ram/zeroing", test_zeroing, NULL);
    CASE("/ram/zeroing/shared", test_zeroing, "share");
    g_test_add_func("/ram/zero-page", test_zero_page);
    CASE("/ram/bad-records", test_bad_records, NULL);
    CASE("/ram/bad-changes", test_bad_changes, NULL);
    CASE("/ram/bad-lists", test_bad_lists, NULL);
    CASE("/ram/resizable", test_resizable, NULL);
    return g_test_run();
}
