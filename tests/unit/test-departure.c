/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Post-copy's source: what is discarded and when, who sends which page, what a broken link and a
 * hostile destination change. Streams go through memory to a peer of the test that keeps an image
 * of the guest and counts what comes how often. The accelerator is a fake with KVM's kind of dirty
 * log: all pages set at first, read without clearing, cleared by range.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "accel/accel.h"
#include "io/channel-private.h"
#include "migration/postcopy/departure.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "system/vm-init.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"
#include "util/error.h"

#define PAGES     8192u /* two chunks */
#define ROM_PAGES 3u
#define HUGE      512u /* pages in a huge one */
#define KINDS     2u   /* blocks */

/* --- the guest --- */

struct fake {
    struct accel accel;
    unsigned long *dirty; /* the kernel's */
    unsigned long *seen;  /* what the last sync showed: only that may be cleared */
    uint64_t touch_at; /* page that the guest touches in the middle of the next clear; or PAGES */
    bool touch_before;
    uint8_t *ram;
    unsigned clears;
};

static struct fake *fake_of(struct vm *vm)
{
    return (struct fake *)(void *)vm->accel;
}

static bool fake_start(struct vm *vm, GError **err)
{
    (void)err;
    bitmap_set_range(fake_of(vm)->dirty, 0, PAGES);
    bitmap_set_range(fake_of(vm)->seen, 0, PAGES);
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
        memcpy(fake_of(vm)->seen, fake_of(vm)->dirty, PAGES / 8);
        dirty_set_merge(set, 0, fake_of(vm)->dirty, PAGES);
    }
    return true;
}

static void guest_writes(struct fake *fake, uint64_t page, uint8_t value)
{
    memset(fake->ram + page * TARGET_PAGE_SIZE + page % 4000, value, 8);
    bitmap_set(fake->dirty, page);
}

static void fake_clear(struct vm *vm, struct ram_block *block, uint64_t first, uint64_t pages)
{
    struct fake *f = fake_of(vm);
    bool touch = f->touch_at >= first && f->touch_at < first + pages;

    g_assert_cmpuint(first % 64, ==, 0);
    g_assert_cmpuint(pages, >, 0);
    f->clears++;
    if (block->index) {
        return;
    }
    if (touch && f->touch_before) {
        guest_writes(f, f->touch_at, 'T');
    }
    for (uint64_t p = first; p < first + pages; p++) {
        if (bitmap_test(f->seen, p)) {
            bitmap_clear(f->seen, p);
            bitmap_clear(f->dirty, p);
        }
    }
    if (touch && !f->touch_before) {
        guest_writes(f, f->touch_at, 'T');
    }
    if (touch) {
        f->touch_at = PAGES;
    }
}

static const struct accel_ops fake_ops = { .name = "fake",
                                           .dirty_start = fake_start,
                                           .dirty_stop = fake_stop,
                                           .stop = fake_stop,
                                           .free = fake_free,
                                           .dirty_sync = fake_sync,
                                           .dirty_clear = fake_clear };

struct options {
    bool share, huge, zeroed, release;
    bool hugetlb; /* huge, and truly so */
};

struct peer_block {
    uint8_t *image;
    uint64_t pages;
    unsigned long *missing; /* discarded and not here */
    uint8_t *times;         /* how often it came since the first discard */
};

struct fixture {
    const struct options *options;
    struct vm *vm;
    struct fake fake;
    struct ram_block *ram, *rom;
    struct ram_save *rs;
    struct departure *d;
    GByteArray *bytes;
    struct stream_out *o;
    struct departure_stream s;

    struct peer_block peer[KINDS];
    const struct peer_block *named;
    bool postcopy;
    unsigned commands, pairs, most_pairs;
    uint64_t discarded_pages;
};

/* NULL where the host has no huge pages. */
static struct ram_block *new_hugetlb(struct vm *vm)
{
    struct ram_backing backing = { .type = RAM_MEMFD,
                                   .hugetlb = true,
                                   .hugetlbsize = HUGE * TARGET_PAGE_SIZE,
                                   .madvise_merge = -1,
                                   .madvise_hugepage = -1,
                                   .madvise_dump = -1 };

    return ram_block_new(vm->memory, "ram0", PAGES * TARGET_PAGE_SIZE, 0, &backing, NULL);
}

static bool without_huge_pages(const struct fixture *f)
{
    if (!f->ram) {
        g_test_skip("the host has no 16 free huge pages: write to /proc/sys/vm/nr_hugepages");
    }
    return !f->ram;
}

static void set_up(struct fixture *f, gconstpointer options)
{
    struct ram_backing backing = {
        .type = RAM_ANON, .madvise_merge = -1, .madvise_hugepage = 0, .madvise_dump = -1
    };

    f->options = options;
    backing.share = f->options->share;
    f->vm = vm_new();
    f->fake.accel.ops = &fake_ops;
    f->fake.dirty = bitmap_new(PAGES);
    f->fake.seen = bitmap_new(PAGES);
    f->fake.touch_at = PAGES;
    f->vm->accel = &f->fake.accel;
    f->ram = f->options->hugetlb ? new_hugetlb(f->vm)
                                 : ram_block_new(f->vm->memory, "ram0", PAGES * TARGET_PAGE_SIZE, 0,
                                                 &backing, NULL);
    backing.share = false;
    f->rom = ram_block_new(f->vm->memory, "rom", ROM_PAGES * TARGET_PAGE_SIZE, 0, &backing, NULL);
    g_assert_true(f->ram || f->options->hugetlb);
    g_assert_nonnull(f->rom);
    if (f->ram) {
        f->fake.ram = f->ram->host;
    }
    if (f->options->huge && f->ram) {
        f->ram->page_size = HUGE * TARGET_PAGE_SIZE;
    }
    f->bytes = g_byte_array_new();
    f->o = out_new_memory(f->bytes);
    f->s.o = f->o;
    f->peer[0].pages = PAGES;
    f->peer[1].pages = ROM_PAGES;
    for (unsigned i = 0; i < KINDS; i++) {
        f->peer[i].image = g_malloc0(f->peer[i].pages * TARGET_PAGE_SIZE);
        f->peer[i].missing = bitmap_new(f->peer[i].pages);
        f->peer[i].times = g_malloc0(f->peer[i].pages);
    }
    vm_unlock(f->vm);
}

static void tear_down(struct fixture *f, gconstpointer options)
{
    (void)options;
    departure_free(f->d);
    ram_save_free(f->rs);
    out_free(f->o);
    g_byte_array_unref(f->bytes);
    for (unsigned i = 0; i < KINDS; i++) {
        g_free(f->peer[i].image);
        g_free(f->peer[i].missing);
        g_free(f->peer[i].times);
    }
    vm_lock(f->vm);
    vm_free(f->vm);
    g_free(f->fake.dirty);
    g_free(f->fake.seen);
}

/* --- the peer --- */

static struct peer_block *peer_find(struct fixture *f, const char *name)
{
    g_assert_true(strcmp(name, "ram0") == 0 || strcmp(name, "rom") == 0);
    return &f->peer[strcmp(name, "rom") == 0];
}

static uint64_t unit_of(const struct fixture *f, const struct peer_block *b)
{
    return f->options->huge && b == &f->peer[0] ? HUGE : 1;
}

static uint64_t read_be64(struct stream_in *in)
{
    uint64_t v;

    g_assert_true(in_be64(in, &v, NULL));
    return v;
}

/* A page of RAM; false for EOS, or the end of a channel of bare records. */
static bool read_page(struct fixture *f, struct stream_in *in, const struct peer_block **named)
{
    uint8_t page[TARGET_PAGE_SIZE] = { 0 }, fill;
    uint64_t word;
    char name[256];

    if (!in_be64(in, &word, NULL) || word == RAM_FLAG_EOS) {
        return false;
    }
    if (!(word & RAM_FLAG_CONTINUE)) {
        g_assert_true(in_pstr(in, name, NULL));
        *named = peer_find(f, name);
    }
    g_assert_nonnull(*named);
    const struct peer_block *b = *named;
    uint64_t at = word / TARGET_PAGE_SIZE;

    g_assert_cmpuint(at, <, b->pages);
    if (word & RAM_FLAG_ZERO) {
        g_assert_true(in_u8(in, &fill, NULL));
        g_assert_cmpuint(fill, ==, 0);
    } else {
        g_assert_true(word & RAM_FLAG_PAGE);
        g_assert_true(in_bytes(in, page, sizeof(page), NULL));
    }
    memcpy(b->image + at * TARGET_PAGE_SIZE, page, sizeof(page));
    if (f->postcopy) {
        g_assert_true(bitmap_test_and_clear(b->missing, at));
        b->times[at]++;
        if (at % unit_of(f, b)) {
            g_assert_false(bitmap_test(b->missing, at - 1)); /* in order */
        }
    }
    return true;
}

static void read_discard(struct fixture *f, struct stream_in *in, unsigned len)
{
    uint8_t version, nul;
    char name[256];

    g_assert_true(in_u8(in, &version, NULL));
    g_assert_cmpuint(version, ==, 0);
    g_assert_true(in_pstr(in, name, NULL));
    g_assert_true(in_u8(in, &nul, NULL));
    g_assert_cmpuint(nul, ==, 0);
    struct peer_block *b = peer_find(f, name);
    unsigned rest = len - 3 - (unsigned)strlen(name);

    g_assert_cmpuint(rest % 16, ==, 0);
    g_assert_cmpuint(rest, >, 0);
    f->commands++;
    f->pairs += rest / 16;
    f->most_pairs = MAX(f->most_pairs, rest / 16);
    for (; rest; rest -= 16) {
        uint64_t first = read_be64(in), bytes = read_be64(in);
        uint64_t unit = unit_of(f, b);

        g_assert_cmpuint(first % (unit * TARGET_PAGE_SIZE), ==, 0);
        g_assert_cmpuint(bytes % (unit * TARGET_PAGE_SIZE), ==, 0);
        g_assert_cmpuint(bytes, >, 0);
        g_assert_cmpuint(first + bytes, <=, b->pages * TARGET_PAGE_SIZE);
        for (uint64_t p = first / TARGET_PAGE_SIZE; p < (first + bytes) / TARGET_PAGE_SIZE; p++) {
            g_assert_false(bitmap_test(b->missing, p));
            bitmap_set(b->missing, p);
            memset(b->image + p * TARGET_PAGE_SIZE, 0xdd, TARGET_PAGE_SIZE);
            f->discarded_pages++;
        }
    }
}

static void read_start(struct fixture *f, struct stream_in *in)
{
    uint64_t total;
    char name[256];

    g_assert_true(in_skip(in, 4 + 4 + 4, NULL)); /* "ram", instance, version */
    total = read_be64(in) & ~(uint64_t)RAM_FLAG_MEM_SIZE;
    while (total) {
        g_assert_true(in_pstr(in, name, NULL));
        struct peer_block *b = peer_find(f, name);

        total -= read_be64(in);
        if (unit_of(f, b) > 1) {
            g_assert_cmpuint(read_be64(in), ==, HUGE * TARGET_PAGE_SIZE);
        }
    }
    g_assert_cmpuint(read_be64(in), ==, RAM_FLAG_EOS);
}

/* Reads all that is in the stream, and empties it. */
static void peer_reads(struct fixture *f)
{
    uint8_t type;

    g_assert_true(out_flush(f->o, NULL));
    struct stream_in *in = in_new_memory(f->bytes->data, f->bytes->len);

    while (in_u8(in, &type, NULL)) {
        uint16_t command = 0, len = 0;
        uint32_t id = 0;

        if (type == STREAM_COMMAND) {
            g_assert_true(in_be16(in, &command, NULL) && in_be16(in, &len, NULL));
            g_assert_cmpuint(command, ==, STREAM_CMD_POSTCOPY_RAM_DISCARD);
            read_discard(f, in, len);
            continue;
        }
        g_assert_true(in_be32(in, &id, NULL));
        if (type == STREAM_SECTION_START) {
            read_start(f, in);
        } else {
            g_assert_true(type == STREAM_SECTION_PART || type == STREAM_SECTION_END);
            while (read_page(f, in, &f->named)) {
            }
        }
        g_assert_true(in_u8(in, &type, NULL));
        g_assert_cmpuint(type, ==, STREAM_FOOTER);
        g_assert_true(in_be32(in, &id, NULL));
    }
    in_free(in);
    g_byte_array_set_size(f->bytes, 0);
}

static uint64_t peer_missing(struct fixture *f)
{
    return bitmap_count(f->peer[0].missing, PAGES) + bitmap_count(f->peer[1].missing, ROM_PAGES);
}

static void assert_same_memory(struct fixture *f)
{
    g_assert_cmpuint(peer_missing(f), ==, 0);
    for (unsigned p = 0; p < PAGES; p++) {
        if (memcmp(f->ram->host + p * TARGET_PAGE_SIZE, f->peer[0].image + p * TARGET_PAGE_SIZE,
                   TARGET_PAGE_SIZE)) {
            g_error("page %u differs", p);
        }
    }
    g_assert_cmpint(memcmp(f->rom->host, f->peer[1].image, ROM_PAGES * TARGET_PAGE_SIZE), ==, 0);
}

/* --- the flow --- */

static void start(struct fixture *f)
{
    struct ram_save_config config = { .zeroed = f->options->zeroed, .postcopy = true };

    f->rs = ram_save_new(f->vm);
    g_assert_true(ram_save_start_tracking(f->rs, NULL));
    ram_save_setup(f->rs, &config, f->o);
}

static void discard(struct fixture *f)
{
    if (!f->d) {
        f->d = departure_new(f->rs, f->options->release);
    }
    departure_discard(f->d, f->o);
    peer_reads(f);
}

/* The guest stops; what it has dirtied since the last discard goes into the second. */
static void leave(struct fixture *f)
{
    g_assert_true(ram_save_sync(f->rs, NULL));
    discard(f);
    departure_freeze(f->d);
    f->postcopy = true;
}

static void send_all(struct fixture *f)
{
    while (departure_send_requested(f->d, &f->s) ||
           departure_send_background(f->d, &f->s, 300000)) {
    }
    departure_end(&f->s);
    peer_reads(f);
}

static struct departure_stats stats_of(struct fixture *f)
{
    struct departure_stats s;

    departure_get_stats(f->d, &s);
    return s;
}

static uint64_t remaining(struct fixture *f)
{
    struct ram_save_stats s;

    ram_save_get_stats(f->rs, &s);
    g_assert_cmpuint(s.remaining_pages, ==, stats_of(f).remaining_pages);
    return s.remaining_pages;
}

static bool resident(struct fixture *f, uint64_t page)
{
    unsigned char vec;

    g_assert_cmpint(mincore(f->ram->host + page * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE, &vec), ==, 0);
    return vec & 1;
}

/* Pages with something in them, at all distances, with some that were touched and are zero. */
static void fill(struct fixture *f)
{
    for (uint64_t p = 0, gap = 1; p < PAGES; p += gap, gap = (gap * 7 + 3) % 61 + 1) {
        if (f->options->hugetlb && p / HUGE % 4 == 2) {
            continue; /* nobody ever was there */
        }
        for (uint64_t i = p; i < MIN(p + gap % 23, PAGES); i++) {
            memset(f->ram->host + i * TARGET_PAGE_SIZE, i % 11 ? (int)(i % 251) + 1 : 0,
                   TARGET_PAGE_SIZE);
        }
    }
    memset(f->rom->host, 'r', TARGET_PAGE_SIZE);
}

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
