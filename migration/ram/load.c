/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM on the way in. Trusts nothing from the peer: a record names a known block and a page inside
 * it before a byte is written; the list of blocks must agree with ours, except that resizable
 * blocks follow; nothing is allocated from a number in the stream.
 */
#include "migration/ram/load.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/ram/pages.h"
#include "migration/ram/xbzrle.h"
#include "migration/ram/premap.h"
#include "migration/stream/format.h"
#include "migration/stream/row.h"
#include "system/vm.h"
#include "util/bitmap.h"
#include "util/error.h"

struct ram_load {
    struct vm *vm;
    struct premap *premap; /* stopped once the stream begins; may be NULL */
    bool ignore_shared;
    bool advised;              /* ram_load_advise() */
    bool listed;               /* the START section's list has come */
    struct ram_block *current; /* of the last record */
    unsigned long **touched;   /* per block index: pages that may hold something other than zero */
    unsigned long **received;  /* per block index: pages that a record has named */
    bool *named;               /* per block index: the list has it */
    const struct ram_block *mapped_block; /* map_ahead() has been up to mapped_end in it */
    uint64_t mapped_end;
    unsigned in_order;  /* page records in a row that each followed the one before */
    uint64_t next_word; /* the header that would continue the row */
    unsigned count;
};

struct ram_load *ram_load_new(struct vm *vm, struct premap *premap)
{
    struct ram_load *rl = g_new0(struct ram_load, 1);

    rl->vm = vm;
    rl->premap = premap;
    rl->count = ram_block_count(vm->memory);
    rl->touched = g_new0(unsigned long *, rl->count);
    rl->received = g_new0(unsigned long *, rl->count);
    rl->named = g_new0(bool, rl->count);
    for (unsigned i = 0; i < rl->count; i++) {
        rl->touched[i] = bitmap_new(ram_block_at(vm->memory, i)->max_length >> TARGET_PAGE_BITS);
        rl->received[i] = bitmap_new(ram_block_at(vm->memory, i)->max_length >> TARGET_PAGE_BITS);
    }
    return rl;
}

void ram_load_free(struct ram_load *rl)
{
    if (rl) {
        for (unsigned i = 0; i < rl->count; i++) {
            g_free(rl->touched[i]);
            g_free(rl->received[i]);
        }
        g_free(rl->touched);
        g_free(rl->received);
        g_free(rl->named);
        g_free(rl);
    }
}

void ram_load_zero(struct ram_load *rl)
{
    for (unsigned i = 0; i < rl->count; i++) {
        struct ram_block *b = ram_block_at(rl->vm->memory, i);

        if (b->migratable && !b->persistent) {
            ram_block_zero(b);
        }
    }
}

bool ram_load_begin(struct ram_load *rl, bool ignore_shared)
{
    bool zeroed = true;
    int fd = pagemap_open();

    premap_stop(rl->premap);
    rl->ignore_shared = ignore_shared;
    for (unsigned i = 0; i < rl->count; i++) {
        struct ram_block *b = ram_block_at(rl->vm->memory, i);

        if (b->migratable && b->persistent && !ignore_shared) {
            struct data_extent extent = { 0 };

            pages_populated(b, fd, 0, ram_block_pages(b), &extent, rl->touched[i]);
            zeroed = zeroed &&
                     bitmap_next_set(rl->touched[i], ram_block_pages(b), 0) == ram_block_pages(b);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return zeroed;
}

static bool bad(struct stream_in *in, GError **err, const char *what)
{
    error_set(err, FERRY_ERROR_PEER, "The migration stream has %s at offset %" PRIu64, what,
              in_offset(in));
    return false;
}

void ram_load_advise(struct ram_load *rl)
{
    rl->advised = true;
}

struct ram_block *ram_load_current(const struct ram_load *rl)
{
    return rl->current;
}

static bool load_list_entry(struct ram_load *rl, struct stream_in *in, uint64_t *length,
                            GError **err)
{
    char idstr[256];
    uint64_t gpa, page_size;

    if (!in_pstr(in, idstr, err) || !in_be64(in, length, err)) {
        return false;
    }
    struct ram_block *b = ram_block_find(rl->vm->memory, idstr);

    if (!b || !b->migratable) {
        error_set(err, FERRY_ERROR_PEER, "Unknown ramblock \"%s\", cannot accept migration", idstr);
        return false;
    }
    if (rl->named[b->index]) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream names the memory '%s' twice", idstr);
        return false;
    }
    rl->named[b->index] = true;
    if (rl->advised && b->page_size != TARGET_PAGE_SIZE) {
        if (!in_be64(in, &page_size, err)) {
            return false;
        }
        if (page_size != b->page_size) {
            error_set(err, FERRY_ERROR_PEER,
                      "The source's memory '%s' has host pages of 0x%" PRIx64
                      " bytes, and 0x%" PRIx64
                      " here: post-copy needs the same memory backend on both sides",
                      idstr, page_size, b->page_size);
            return false;
        }
    }
    if (rl->ignore_shared) {
        if (!in_be64(in, &gpa, err)) {
            return false;
        }
        if (b->shared && gpa != b->gpa) {
            error_set(err, FERRY_ERROR_PEER,
                      "Mismatched GPAs for block %s 0x%" PRIx64 " != 0x%" PRIx64, idstr, gpa,
                      b->gpa);
            return false;
        }
    }
    if (*length != b->used_length) {
        vm_lock(rl->vm);
        bool ok = ram_block_resize(rl->vm->memory, b, *length, err);
        vm_unlock(rl->vm);
        return ok;
    }
    return true;
}

static bool load_list(struct ram_load *rl, struct stream_in *in, uint64_t total, GError **err)
{
    if (rl->listed) {
        return bad(in, err, "a second list of RAM blocks");
    }
    rl->listed = true;
    while (total) {
        uint64_t length;

        if (!load_list_entry(rl, in, &length, err)) {
            return false;
        }
        if (length > total) {
            return bad(in, err, "RAM blocks longer than their total");
        }
        total -= length;
    }
    for (unsigned i = 0; i < rl->count; i++) {
        const struct ram_block *b = ram_block_at(rl->vm->memory, i);

        if (b->migratable && !rl->named[i]) {
            error_set(err, FERRY_ERROR_PEER,
                      "The source's machine has no memory '%s': give both sides the same machine "
                      "options",
                      b->idstr);
            return false;
        }
    }
    return true;
}

/* The page that a record is for; NULL and *err when there is no such page. */
static uint8_t *record_page(struct ram_load *rl, struct stream_in *in, uint64_t offset,
                            unsigned flags, GError **err)
{
    char idstr[256];

    if (!(flags & RAM_FLAG_CONTINUE)) {
        if (!in_pstr(in, idstr, err)) {
            return NULL;
        }
        rl->current = ram_block_find(rl->vm->memory, idstr);
        if (!rl->current || !rl->current->migratable) {
            rl->current = NULL;
            error_set(err, FERRY_ERROR_PEER,
                      "Can't find block %s, as a page of the migration stream names it", idstr);
            return NULL;
        }
    }
    if (!rl->current) {
        bad(in, err,
            "a page that continues a block before any was named (Ack, bad migration stream!)");
        return NULL;
    }
    if (offset >= rl->current->used_length) {
        error_set(err, FERRY_ERROR_PEER,
                  "Illegal RAM offset 0x%" PRIx64 " in block '%s' of 0x%" PRIx64 " bytes", offset,
                  rl->current->idstr, rl->current->used_length);
        return NULL;
    }
    if (rl->ignore_shared && rl->current->shared) {
        error_set(err, FERRY_ERROR_PEER,
                  "Illegal RAM offset 0x%" PRIx64
                  ": memory '%s' is shared and its pages do not travel",
                  offset, rl->current->idstr);
        return NULL;
    }
    return rl->current->host + offset;
}

static bool load_zero_page(struct ram_load *rl, struct stream_in *in, uint8_t *page,
                           uint64_t offset, GError **err)
{
    unsigned long *touched = rl->touched[rl->current->index];
    uint8_t fill;

    if (!in_u8(in, &fill, err)) {
        return false;
    }
    bitmap_set(rl->received[rl->current->index], offset >> TARGET_PAGE_BITS);
    /* a page that holds nothing is zero already and stays so; one that is zero is not written again
     */
    if (fill || (bitmap_test(touched, offset >> TARGET_PAGE_BITS) && !page_is_zero(page))) {
        memset(page, fill, TARGET_PAGE_SIZE);
        bitmap_set(touched, offset >> TARGET_PAGE_BITS);
    }
    return true;
}

/* Applies what has changed in a page that came before. */
static bool load_changes(struct ram_load *rl, struct stream_in *in, uint8_t *page, uint64_t offset,
                         GError **err)
{
    uint8_t mark, encoded[TARGET_PAGE_SIZE];
    uint16_t len;

    if (!in_u8(in, &mark, err) || !in_be16(in, &len, err)) {
        return false;
    }
    if (mark != XBZRLE_MARK || len > sizeof(encoded)) {
        return bad(in, err, "a changed page (xbzrle) of an unknown kind or longer than a page");
    }
    if (!in_bytes(in, encoded, len, err)) {
        return false;
    }
    if (!bitmap_test(rl->received[rl->current->index], offset >> TARGET_PAGE_BITS)) {
        return bad(in, err, "changes (xbzrle) of a page that has not come before");
    }
    if (!xbzrle_decode(page, encoded, len)) {
        return bad(in, err, "a changed page (xbzrle) that cannot be decoded");
    }
    bitmap_set(rl->touched[rl->current->index], offset >> TARGET_PAGE_BITS);
    return true;
}

static uint64_t page_word(uint64_t page)
{
    return page * TARGET_PAGE_SIZE | RAM_FLAG_PAGE | RAM_FLAG_CONTINUE;
}

static void page_came(struct ram_load *rl, uint64_t page)
{
    rl->next_word = page_word(page + 1);
    bitmap_set(rl->touched[rl->current->index], page);
    bitmap_set(rl->received[rl->current->index], page);
}

/* So many pages in order promise more of them; a wrong guess costs a copy of what was read too far.
 */
#define RUN_AFTER 64u
/* With fewer than these the buffer is cheaper: a read for each page costs more than its copy. It is
 * the way of all rounds but the first, in which pages that have data already come once more. */
#define RUN_MIN 8u

/* Pages mapped at once, see map_ahead(). */
#define MAP_AHEAD 128u

/* How many pages after `page` may be foreseen. */
static unsigned run_length(const struct ram_load *rl, uint64_t page)
{
    const unsigned long *received = rl->received[rl->current->index];
    uint64_t end = MIN(page + 1 + ROW_PAGES, ram_block_pages(rl->current));

    return page + 1 < end ? (unsigned)(bitmap_next_set(received, end, page + 1) - page - 1) : 0;
}

/* The pages [page, page + count) were written by a wrong guess. */
static void undo_guess(struct ram_load *rl, uint64_t page, uint64_t count)
{
    const unsigned long *touched = rl->touched[rl->current->index];

    for (uint64_t i = page; i < page + count; i++) {
        if (!bitmap_test(touched, i)) {
            memset(rl->current->host + i * TARGET_PAGE_SIZE, 0, TARGET_PAGE_SIZE);
        }
    }
}

/*
 * Pages of a file that the host has but this process has not mapped yet would each cost a fault in
 * the middle of the copy: map a window of them at once. Reading is enough, and leaves pages of a
 * shared file writable. Only where there is something: never-touched memory stays so.
 */
static void map_ahead(struct ram_load *rl, uint64_t page, unsigned count)
{
    const struct ram_block *b = rl->current;
    uint64_t end = page + count;

    if ((b == rl->mapped_block && end <= rl->mapped_end) ||
        end <= premap_end(rl->premap, b->index) || !bitmap_test(rl->touched[b->index], end - 1)) {
        return;
    }
    if (b != rl->mapped_block || page > rl->mapped_end) {
        rl->mapped_end = page;
    }
    end = MIN(rl->mapped_end + MAP_AHEAD, ram_block_pages(b));
    /* only a help: without it the faults do the same */
    (void)madvise(b->host + rl->mapped_end * TARGET_PAGE_SIZE,
                  (end - rl->mapped_end) * TARGET_PAGE_SIZE, MADV_POPULATE_READ);
    rl->mapped_block = b;
    rl->mapped_end = end;
}

/* Reads the data of `page`, whose header has been read, and of the pages that follow it in order as
 * far as they go. Nothing is buffered but part of `page`. */
static bool load_run(struct ram_load *rl, struct stream_in *in, uint64_t page, GError **err)
{
    uint8_t *host = rl->current->host;
    size_t have = in_buffered(in);
    struct row row = { .next = true };

    if (!in_bytes(in, host + page * TARGET_PAGE_SIZE, have, err)) {
        return false;
    }
    while (row.next) {
        unsigned n = run_length(rl, page);
        bool more = n >= RUN_MIN && page + n + 1 < ram_block_pages(rl->current);

        n = n < RUN_MIN ? 0 : n; /* only what is left of this page */
        map_ahead(rl, page, n + 1);
        if (!row_read(in, host + page * TARGET_PAGE_SIZE, have, page_word(page), n, more, &row,
                      err)) {
            return false;
        }
        for (unsigned i = 0; i < row.pages; i++) {
            page_came(rl, page + i);
        }
        page += row.pages;
        have = row.begun;
        undo_guess(rl, page, row.spoiled);
    }
    if (row.other) {
        /* the end of a section does not end the row */
        rl->in_order = row.ended ? RUN_AFTER : 0;
    }
    return true;
}

static bool load_page(struct ram_load *rl, struct stream_in *in, uint64_t word, GError **err)
{
    uint64_t offset = word & TARGET_PAGE_MASK;
    uint8_t *page = record_page(rl, in, offset, word & ~TARGET_PAGE_MASK, err);

    if (!page) {
        return false;
    }
    rl->in_order = word == rl->next_word ? rl->in_order + 1 : 0;
    if (rl->in_order >= RUN_AFTER && in_has_channel(in) && in_buffered(in) < TARGET_PAGE_SIZE &&
        run_length(rl, offset >> TARGET_PAGE_BITS) >= RUN_MIN) {
        return load_run(rl, in, offset >> TARGET_PAGE_BITS, err);
    }
    if (!in_bytes(in, page, TARGET_PAGE_SIZE, err)) {
        return false;
    }
    page_came(rl, offset >> TARGET_PAGE_BITS);
    return true;
}

bool ram_load_section(struct ram_load *rl, struct stream_in *in, GError **err)
{
    for (;;) {
        uint64_t word, offset;
        unsigned flags;
        uint8_t *page;

        if (!in_be64(in, &word, err)) {
            return false;
        }
        offset = word & TARGET_PAGE_MASK;
        flags = word & ~TARGET_PAGE_MASK;

        switch (flags & ~RAM_FLAG_CONTINUE) {
        case RAM_FLAG_EOS:
            if (rl->in_order >= RUN_AFTER) {
                in_expect_little(in); /* the next section's head, then pages in a row again */
            }
            return rl->listed || bad(in, err, "memory without a list of its blocks");
        case RAM_FLAG_MEM_SIZE:
            if (!load_list(rl, in, offset, err)) {
                return false;
            }
            break;
        case RAM_FLAG_PAGE:
            if (!load_page(rl, in, word, err)) {
                return false;
            }
            break;
        case RAM_FLAG_ZERO:
            page = record_page(rl, in, offset, flags, err);
            if (!page || !load_zero_page(rl, in, page, offset, err)) {
                return false;
            }
            break;
        case RAM_FLAG_XBZRLE:
            page = record_page(rl, in, offset, flags, err);
            if (!page || !load_changes(rl, in, page, offset, err)) {
                return false;
            }
            break;
        case RAM_FLAG_COMPRESS:
            return bad(in, err, "an unexpected compressed page");
        default: {
            g_autofree char *what =
                g_strdup_printf("Unknown combination of migration flags: 0x%x", flags);

            error_set(err, FERRY_ERROR_PEER, "%s, at offset %" PRIu64 " of the migration stream",
                      what, in_offset(in));
            return false;
        }
        }
    }
}

bool ram_load_complete(const struct ram_load *rl, GError **err)
{
    for (unsigned i = 0; i < rl->count; i++) {
        const struct ram_block *b = ram_block_at(rl->vm->memory, i);
        uint64_t pages = ram_block_pages(b), missing;

        if (!b->migratable || (rl->ignore_shared && b->shared)) {
            continue;
        }
        missing = bitmap_next_clear(rl->received[i], pages, 0);
        if (missing < pages) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream ends before all of the memory has come: %" PRIu64
                      " pages of '%s' are missing, the first at 0x%" PRIx64,
                      pages - bitmap_count(rl->received[i], pages), b->idstr,
                      missing * TARGET_PAGE_SIZE);
            return false;
        }
    }
    return true;
}
