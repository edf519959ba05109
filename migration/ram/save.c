/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM on the way out.
 *
 * A round: the bitmap of each block holds what is to be sent; the cursor walks all blocks once; at
 * the end ram_save_sync() brings what was dirtied meanwhile, and the next round begins. Memory is
 * walked in chunks: on entering one, first the dirty log is re-armed for it (accel->dirty_clear),
 * then its pages are read. In that order a write of the guest is either in the bytes sent or in the
 * log again.
 *
 * In the first round all pages count as dirty, but those the host holds nothing for are not read:
 * they are zero. Towards a destination whose memory is known to be zero nothing is sent for them,
 * else nine bytes each.
 *
 * Memory that the guest gives back (a balloon) is as if it had never been touched: in later rounds
 * the host is asked about it again, so that looking at it does not bring it back. Pages that the
 * guest says it does not need (page-hints.c) are taken for untouched in the first round. That loses
 * no write: all memory was re-armed before the guest was asked, so what it writes to such a page
 * after it has named it is in the log, and enter_chunk() clears only what a sync has seen.
 *
 * Pages go by reference; what the guest writes while the kernel copies them is logged and sent
 * again.
 */
#include <string.h>
#include <unistd.h>

#include "accel/accel.h"
#include "migration/ram/save-private.h"
#include "migration/stream/format.h"
#include "migration/vmstate/savevm.h"
#include "system/vm.h"

/* In later rounds, where little is dirty, less: what lies around a dirty page is not looked at. */
#define CHUNK_PAGES_AGAIN 1024u
/* Looking for zero pages in the first round may bring nothing to send for a long time: after this
 * much the caller gets his turn, and the peer hears of us. */
#define FIRST_SECTION_US 50000

struct ram_save *ram_save_new(struct vm *vm)
{
    struct ram_save *rs = g_new0(struct ram_save, 1);
    unsigned n = ram_block_count(vm->memory);

    rs->vm = vm;
    rs->blocks = g_new0(struct save_block, n);
    rs->pagemap_fd = -1;
    mutex_init(&rs->stats_lock);
    for (unsigned i = 0; i < n; i++) {
        struct ram_block *b = ram_block_at(vm->memory, i);

        if (b->migratable) {
            rs->blocks[rs->count++] = (struct save_block){ .block = b,
                                                           .pages = ram_block_pages(b),
                                                           .discards = atomic_load(&b->discards) };
            rs->stats.total_bytes += b->used_length;
        }
    }
    return rs;
}

/* Switches the collection of the VMM's own writes; machine lock held, as their writers hold it. */
static void track_vmm_writes(struct ram_save *rs, bool on)
{
    for (unsigned i = 0; i < rs->count; i++) {
        struct ram_block *b = rs->blocks[i].block;
        struct dirty_journal *journal =
            on ? dirty_journal_new(b->max_length >> TARGET_PAGE_BITS) : NULL;

        dirty_journal_free(atomic_exchange(&b->vmm_dirty, journal));
    }
}

void ram_save_free(struct ram_save *rs)
{
    if (!rs) {
        return;
    }
    if (rs->tracking) {
        rs->vm->accel->ops->dirty_stop(rs->vm);
        vm_lock(rs->vm);
        track_vmm_writes(rs, false);
        vm_unlock(rs->vm);
    }
    for (unsigned i = 0; i < rs->count; i++) {
        dirty_set_clear(&rs->blocks[i].dirty);
    }
    if (rs->pagemap_fd >= 0) {
        close(rs->pagemap_fd);
    }
    xbzrle_free(rs->xbzrle);
    mutex_clear(&rs->stats_lock);
    g_free(rs->blocks);
    g_free(rs);
}

bool ram_save_use_xbzrle(struct ram_save *rs, uint64_t cache_bytes, GError **err)
{
    if (cache_bytes == rs->cache_asked) {
        return true;
    }
    rs->cache_asked = cache_bytes;
    if (rs->xbzrle) {
        return xbzrle_resize(rs->xbzrle, cache_bytes, err);
    }
    rs->xbzrle = xbzrle_new(cache_bytes, err);
    return rs->xbzrle;
}

static void begin_round(struct ram_save *rs)
{
    rs->at_block = 0;
    rs->at_page = 0;
    rs->chunk_end = 0;
}

bool ram_save_start_tracking(struct ram_save *rs, GError **err)
{
    vm_lock(rs->vm);
    track_vmm_writes(rs, true);
    vm_unlock(rs->vm);
    rs->tracking = true;
    if (!rs->vm->accel->ops->dirty_start(rs->vm, err)) {
        vm_lock(rs->vm);
        track_vmm_writes(rs, false);
        vm_unlock(rs->vm);
        rs->tracking = false;
        return false;
    }
    rs->first_round = true;
    rs->pagemap_fd = pagemap_open();
    begin_round(rs);
    return true;
}

void ram_save_ask_for_hints(struct ram_save *rs)
{
    for (unsigned i = 0; i < rs->count; i++) {
        const struct save_block *sb = &rs->blocks[i];

        for (uint64_t at = 0; !sb->skip && at < sb->pages; at += CHUNK_PAGES) {
            rs->vm->accel->ops->dirty_clear(rs->vm, sb->block, at,
                                            MIN(CHUNK_PAGES, sb->pages - at));
        }
    }
    vm_lock(rs->vm);
    for (unsigned i = 0; i < rs->count; i++) {
        if (!rs->blocks[i].skip) {
            atomic_store(&rs->blocks[i].block->not_needed, dirty_journal_new(rs->blocks[i].pages));
        }
    }
    vm_unlock(rs->vm);
}

void ram_save_end_hints(struct ram_save *rs)
{
    for (unsigned i = 0; i < rs->count; i++) {
        dirty_journal_free(atomic_exchange(&rs->blocks[i].block->not_needed, NULL));
    }
}

void ram_save_setup(struct ram_save *rs, const struct ram_save_config *config, struct stream_out *o)
{
    uint64_t remaining = 0;

    rs->config = *config;
    out_u8(o, STREAM_SECTION_START);
    out_be32(o, SECTION_ID_RAM);
    out_pstr(o, "ram");
    out_be32(o, 0);
    out_be32(o, RAM_VERSION);
    out_be64(o, rs->stats.total_bytes | RAM_FLAG_MEM_SIZE);
    for (unsigned i = 0; i < rs->count; i++) {
        struct save_block *sb = &rs->blocks[i];

        out_pstr(o, sb->block->idstr);
        out_be64(o, sb->block->used_length);
        if (config->postcopy && sb->block->page_size != TARGET_PAGE_SIZE) {
            out_be64(o, sb->block->page_size);
        }
        if (config->ignore_shared) {
            out_be64(o, sb->block->gpa);
        }
        sb->skip = config->ignore_shared && sb->block->shared;
        dirty_set_init(&sb->dirty, sb->pages);
        if (!sb->skip) {
            dirty_set_fill(&sb->dirty);
            remaining += sb->pages;
        }
    }
    out_be64(o, RAM_FLAG_EOS);
    out_u8(o, STREAM_FOOTER);
    out_be32(o, SECTION_ID_RAM);
    mutex_lock(&rs->stats_lock);
    rs->stats.remaining_pages = remaining;
    rs->stats.sync_count = 1; /* the start of tracking is QEMU's first sync */
    mutex_unlock(&rs->stats_lock);
}

static void find_untouched(struct ram_save *rs, struct save_block *sb, uint64_t first, uint64_t n)
{
    pages_populated(sb->block, rs->pagemap_fd, first, n, &sb->extent, rs->untouched);
    for (unsigned w = 0; w < BITMAP_WORDS(n); w++) {
        rs->untouched[w] = ~rs->untouched[w];
    }
}

/* Re-arms the chunk that begins at the cursor and learns which of its pages the host holds nothing
 * for: in the first round, and where pages were given back since. */
static void enter_chunk(struct ram_save *rs, struct save_block *sb)
{
    uint64_t size = rs->first_round ? CHUNK_PAGES : CHUNK_PAGES_AGAIN;
    uint64_t first = rs->at_page - rs->at_page % (rs->first_round ? size : BITS_PER_LONG);
    uint64_t n = MIN(rs->at_page - rs->at_page % size + size, sb->pages) - first;

    rs->chunk_first = first;
    rs->chunk_end = first + n;
    rs->untouched_known = rs->first_round || sb->discards != atomic_load(&sb->block->discards);
    if (rs->first_round && rs->leave_dirty) {
        find_untouched(rs, sb, first, n);
        if (bitmap_next_set(rs->untouched, n, 0) >= n) {
            return;
        }
    }
    /* before the question, or a page touched in between would be taken for untouched and clean */
    rs->vm->accel->ops->dirty_clear(rs->vm, sb->block, first, n);
    if (rs->untouched_known) {
        find_untouched(rs, sb, first, n);
    }
}

static void put_record(struct ram_save *rs, struct stream_out *o, struct ram_block *b,
                       uint64_t page, unsigned flag)
{
    uint64_t word = page * TARGET_PAGE_SIZE | flag;

    if (rs->named == b) {
        out_be64(o, word | RAM_FLAG_CONTINUE);
    } else {
        out_be64(o, word);
        out_pstr(o, b->idstr);
        rs->named = b;
    }
}

/* The look at a page's first bytes, which tells most pages from zeroes, misses the cache and the
 * TLB each time: it is asked for so many pages before. */
#define AHEAD_PAGES 8

struct progress {
    uint64_t normal, zero, untouched, compared;
    gint64 give_way; /* monotonic us; of the first round: the section ends with its chunk */
};

/* Sends a page that the destination may have in another form. */
static void send_changes(struct ram_save *rs, struct stream_out *o, struct ram_block *b,
                         uint64_t page, bool last, struct progress *p)
{
    const uint8_t *data;
    size_t len;

    switch (xbzrle_page(rs->xbzrle, b->host + page * TARGET_PAGE_SIZE, last, &data, &len)) {
    case XBZRLE_WHOLE:
        p->normal++;
        put_record(rs, o, b, page, RAM_FLAG_PAGE);
        out_ref(o, data, len);
        break;
    case XBZRLE_DELTA:
        p->compared++;
        put_record(rs, o, b, page, RAM_FLAG_XBZRLE);
        out_bytes(o, data, len);
        break;
    case XBZRLE_SAME:
        p->compared++;
        break;
    }
}

/* Nobody needs to see what is in it: the host holds nothing for it, or the guest does not need it.
 */
static bool is_untouched(const struct ram_save *rs, const struct save_block *sb, uint64_t page)
{
    const struct dirty_journal *not_needed = atomic_load(&sb->block->not_needed);

    return (rs->untouched_known && bitmap_test(rs->untouched, page - rs->chunk_first)) ||
           (rs->first_round && not_needed && dirty_journal_has(not_needed, page));
}

/* Sends one dirty page; with `last` for the last time. */
static void send_page(struct ram_save *rs, struct stream_out *o, struct save_block *sb,
                      uint64_t page, bool last, struct progress *p)
{
    uint8_t *host = sb->block->host + page * TARGET_PAGE_SIZE;
    bool untouched = is_untouched(rs, sb, page);

    if (untouched || page_is_zero(host)) {
        p->zero++;
        if (rs->first_round && rs->config.zeroed) {
            p->untouched++;
            return;
        }
        put_record(rs, o, sb->block, page, RAM_FLAG_ZERO);
        out_u8(o, 0);
        if (rs->xbzrle) {
            xbzrle_zero_page(rs->xbzrle, host);
        }
    } else if (rs->xbzrle && !rs->first_round) {
        send_changes(rs, o, sb->block, page, last, p);
    } else {
        p->normal++;
        put_record(rs, o, sb->block, page, RAM_FLAG_PAGE);
        out_ref(o, host, TARGET_PAGE_SIZE);
    }
}

static void account(struct ram_save *rs, const struct progress *p)
{
    mutex_lock(&rs->stats_lock);
    rs->stats.normal_pages += p->normal;
    rs->stats.zero_pages += p->zero;
    rs->stats.untouched_pages += p->untouched;
    rs->stats.remaining_pages -= p->normal + p->zero + p->compared;
    if (rs->xbzrle) {
        xbzrle_get_stats(rs->xbzrle, &rs->stats.xbzrle);
    }
    mutex_unlock(&rs->stats_lock);
}

/* The destination's memory is zero: pages of the chunk that the host holds nothing for are done. */
static void skip_untouched(struct ram_save *rs, struct save_block *sb, struct progress *p)
{
    uint64_t first = rs->at_page, n = rs->chunk_end - first, to;

    for (uint64_t from = bitmap_next_set(rs->untouched, n, 0); from < n;
         from = bitmap_next_set(rs->untouched, n, to)) {
        to = bitmap_next_clear(rs->untouched, n, from);
        dirty_set_remove(&sb->dirty, first + from, to - from);
        p->zero += to - from;
        p->untouched += to - from;
    }
}

/* Sends the run of dirty pages at the cursor, which moves on. False: the allowance is used up. */
static bool send_run(struct ram_save *rs, struct stream_out *o, struct save_block *sb,
                     uint64_t pages, uint64_t stop_at, bool last, struct progress *p)
{
    uint64_t first = rs->at_page, end = first + pages;

    while (rs->at_page < end && o->bytes < stop_at && out_ok(o)) {
        uint64_t ahead = MIN(rs->at_page + AHEAD_PAGES, end - 1);

        __builtin_prefetch(sb->block->host + ahead * TARGET_PAGE_SIZE);
        send_page(rs, o, sb, rs->at_page++, last, p);
    }
    dirty_set_remove(&sb->dirty, first, rs->at_page - first);
    return rs->at_page == end;
}

/* Walks on from the cursor until the block, or the allowance, is at its end. True: the block is
 * done; false may also be said at its very end. */
static bool send_block(struct ram_save *rs, struct stream_out *o, struct save_block *sb,
                       uint64_t stop_at, bool last, struct progress *p)
{
    while (rs->at_page < sb->pages) {
        uint64_t run;

        /* the first round enters every chunk: the log may start with all pages set */
        if (!rs->first_round &&
            !dirty_set_next_run(&sb->dirty, rs->at_page, sb->pages, &rs->at_page)) {
            break;
        }
        if (rs->at_page >= rs->chunk_end) {
            enter_chunk(rs, sb);
            if (rs->first_round && rs->config.zeroed) {
                skip_untouched(rs, sb, p);
            }
        }
        while ((run = dirty_set_next_run(&sb->dirty, rs->at_page, rs->chunk_end, &rs->at_page))) {
            if (!send_run(rs, o, sb, run, stop_at, last, p)) {
                return false;
            }
        }
        rs->at_page = rs->chunk_end;
        if (p->give_way && g_get_monotonic_time() >= p->give_way) {
            return false;
        }
    }
    return true;
}

bool ram_save_section(struct ram_save *rs, struct stream_out *o, uint64_t max_bytes, bool end)
{
    uint64_t stop_at = max_bytes > UINT64_MAX - o->bytes ? UINT64_MAX : o->bytes + max_bytes;
    uint64_t begun = o->bytes;
    struct progress p = { 0 };

    if (rs->first_round && stop_at != UINT64_MAX) {
        p.give_way = g_get_monotonic_time() + FIRST_SECTION_US;
    }
    out_u8(o, end ? STREAM_SECTION_END : STREAM_SECTION_PART);
    out_be32(o, SECTION_ID_RAM);
    while (rs->at_block < rs->count) {
        struct save_block *sb = &rs->blocks[rs->at_block];

        if (!sb->skip && !send_block(rs, o, sb, stop_at, end, &p)) {
            break;
        }
        rs->at_block++;
        rs->at_page = 0;
        rs->chunk_end = 0;
    }
    out_be64(o, RAM_FLAG_EOS);
    out_u8(o, STREAM_FOOTER);
    out_be32(o, SECTION_ID_RAM);
    if (!rs->first_round) {
        rs->round_bytes += o->bytes - begun;
        rs->round_pages += p.normal + p.zero + p.compared;
    }
    account(rs, &p);
    return rs->at_block == rs->count;
}

void ram_save_note_unseen(struct ram_save *rs)
{
    for (unsigned i = 0; rs->first_round && i < rs->count; i++) {
        struct save_block *sb = &rs->blocks[i];

        sb->unseen = i < rs->at_block ? sb->pages : i > rs->at_block ? 0 : rs->chunk_end;
    }
}

bool ram_save_sync(struct ram_save *rs, GError **err)
{
    uint64_t fresh = 0, left = 0;

    ram_save_note_unseen(rs);

    for (unsigned i = 0; i < rs->count; i++) {
        struct save_block *sb = &rs->blocks[i];
        uint64_t before = sb->dirty.count;

        if (sb->skip) {
            continue;
        }
        if (!rs->vm->accel->ops->dirty_sync(rs->vm, sb->block, &sb->dirty, err)) {
            return false;
        }
        dirty_journal_take(atomic_load(&sb->block->vmm_dirty), &sb->dirty);
        fresh += sb->dirty.count - before;
        left += sb->dirty.count;
    }
    rs->first_round = false;
    begin_round(rs);
    if (rs->xbzrle) {
        xbzrle_end_round(rs->xbzrle);
    }
    mutex_lock(&rs->stats_lock);
    if (rs->xbzrle) {
        xbzrle_get_stats(rs->xbzrle, &rs->stats.xbzrle);
        if (rs->round_pages) {
            rs->stats.page_bytes = (double)rs->round_bytes / (double)rs->round_pages;
        }
    }
    rs->round_bytes = rs->round_pages = 0;
    rs->stats.remaining_pages = left;
    rs->stats.dirtied_last = fresh;
    rs->stats.sync_count++;
    mutex_unlock(&rs->stats_lock);
    return true;
}

void ram_save_account(struct ram_save *rs, uint64_t normal, uint64_t zero, uint64_t untouched)
{
    mutex_lock(&rs->stats_lock);
    rs->stats.normal_pages += normal;
    rs->stats.zero_pages += zero;
    rs->stats.untouched_pages += untouched;
    rs->stats.remaining_pages -= normal + zero;
    mutex_unlock(&rs->stats_lock);
}

void ram_save_set_remaining(struct ram_save *rs, uint64_t pages)
{
    mutex_lock(&rs->stats_lock);
    rs->stats.remaining_pages = pages;
    mutex_unlock(&rs->stats_lock);
}

uint64_t ram_save_page_sizes(const struct ram_save *rs)
{
    uint64_t sizes = 0;

    for (unsigned i = 0; i < rs->count; i++) {
        sizes |= rs->blocks[i].block->page_size;
    }
    return sizes;
}

void ram_save_leave_dirty(struct ram_save *rs)
{
    rs->leave_dirty = true;
}

uint64_t ram_save_remaining(const struct ram_save *rs)
{
    return rs->stats.remaining_pages; /* written by this thread only */
}

void ram_save_get_stats(struct ram_save *rs, struct ram_save_stats *stats)
{
    mutex_lock(&rs->stats_lock);
    *stats = rs->stats;
    mutex_unlock(&rs->stats_lock);
}
