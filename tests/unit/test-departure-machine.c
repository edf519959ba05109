/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See test-departure-machine.h. */
#include "test-departure-machine.h"

#include <string.h>
#include <sys/mman.h>

#include "util/bitmap.h"
#include "util/dirty-set.h"

/* --- the guest --- */

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

void guest_writes(struct fake *fake, uint64_t page, uint8_t value)
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

bool without_huge_pages(const struct fixture *f)
{
    if (!f->ram) {
        g_test_skip("the host has no 16 free huge pages: write to /proc/sys/vm/nr_hugepages");
    }
    return !f->ram;
}

void set_up(struct fixture *f, gconstpointer options)
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

void tear_down(struct fixture *f, gconstpointer options)
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

struct peer_block *peer_find(struct fixture *f, const char *name)
{
    g_assert_true(strcmp(name, "ram0") == 0 || strcmp(name, "rom") == 0);
    return &f->peer[strcmp(name, "rom") == 0];
}

uint64_t unit_of(const struct fixture *f, const struct peer_block *b)
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
bool read_page(struct fixture *f, struct stream_in *in, const struct peer_block **named)
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
void peer_reads(struct fixture *f)
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

uint64_t peer_missing(struct fixture *f)
{
    return bitmap_count(f->peer[0].missing, PAGES) + bitmap_count(f->peer[1].missing, ROM_PAGES);
}

void assert_same_memory(struct fixture *f)
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

void start(struct fixture *f)
{
    struct ram_save_config config = { .zeroed = f->options->zeroed, .postcopy = true };

    f->rs = ram_save_new(f->vm);
    g_assert_true(ram_save_start_tracking(f->rs, NULL));
    ram_save_setup(f->rs, &config, f->o);
}

void discard(struct fixture *f)
{
    if (!f->d) {
        f->d = departure_new(f->rs, f->options->release);
    }
    departure_discard(f->d, f->o);
    peer_reads(f);
}

/* The guest stops; what it has dirtied since the last discard goes into the second. */
void leave(struct fixture *f)
{
    g_assert_true(ram_save_sync(f->rs, NULL));
    discard(f);
    departure_freeze(f->d);
    f->postcopy = true;
}

void send_all(struct fixture *f)
{
    while (departure_send_requested(f->d, &f->s) ||
           departure_send_background(f->d, &f->s, 300000)) {
    }
    departure_end(&f->s);
    peer_reads(f);
}

struct departure_stats stats_of(struct fixture *f)
{
    struct departure_stats s;

    departure_get_stats(f->d, &s);
    return s;
}

uint64_t remaining(struct fixture *f)
{
    struct ram_save_stats s;

    ram_save_get_stats(f->rs, &s);
    g_assert_cmpuint(s.remaining_pages, ==, stats_of(f).remaining_pages);
    return s.remaining_pages;
}

bool resident(struct fixture *f, uint64_t page)
{
    unsigned char vec;

    g_assert_cmpint(mincore(f->ram->host + page * TARGET_PAGE_SIZE, TARGET_PAGE_SIZE, &vec), ==, 0);
    return vec & 1;
}

/* Pages with something in them, at all distances, with some that were touched and are zero. */
void fill(struct fixture *f)
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
