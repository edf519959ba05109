/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the destination asks for, and what goes by itself.
 *
 * A page is claimed by taking it out of the set of what is owed, under the lock; then it is the
 * claimer's, who queues it without one. A request claims its page at once and puts it into a queue:
 * so whoever comes later, the background or a second request for the same page, finds nothing. What
 * was claimed and got lost with its link is found again by the destination's bitmap
 * (departure-resume.c).
 *
 * Requests come from a hostile peer: block and range are checked in departure_request(), and the
 * queue cannot grow beyond the pages that are owed.
 */
#include "migration/postcopy/departure-private.h"

#include <string.h>

#include "migration/stream/format.h"
#include "migration/vmstate/savevm.h"
#include "util/error.h"

/* Pages that the background takes at a time from one place, and pieces that it takes before it
 * looks again where the guest is. */
#define PIECE_PAGES 16u
#define PIECES      16u
#define CLAIM_PAGES 64u
/* What a page costs of the allowance in bytes at least: testing one for zero takes about an eighth
 * of the time that sending it takes. */
#define LEAST_COST 512u

struct departure *departure_new(struct ram_save *rs, bool release_ram)
{
    struct departure *d = g_new0(struct departure, 1);

    d->rs = rs;
    d->release_ram = release_ram;
    d->blocks = g_new0(struct departure_block, rs->count);
    d->order_blocks = g_new0(struct order_block, rs->count);
    mutex_init(&d->lock);
    mutex_init(&d->ask_lock);
    for (unsigned i = 0; i < rs->count; i++) {
        struct save_block *sb = &rs->blocks[i];
        struct departure_block *b = &d->blocks[d->count];

        if (sb->skip) {
            continue;
        }
        *b = (struct departure_block){
            .block = sb->block,
            .save = sb,
            .owed = &sb->dirty,
            .pages = sb->pages,
            .unit = MAX(sb->block->page_size / TARGET_PAGE_SIZE, 1),
            .discarded = bitmap_new(sb->pages),
            .again = bitmap_new(sb->pages),
            .maybe_untouched = sb->pages,
        };
        if (release_ram && !sb->block->shared) {
            b->sent = bitmap_new(sb->pages);
            b->released = bitmap_new(sb->pages);
            b->marked = bitmap_new(sb->pages);
        }
        d->order_blocks[d->count++] = (struct order_block){ .owed = b->owed, .unit = b->unit };
    }
    order_init(&d->order, d->order_blocks, d->count);
    return d;
}

void departure_free(struct departure *d)
{
    if (!d) {
        return;
    }
    for (unsigned i = 0; i < d->count; i++) {
        g_free(d->blocks[i].discarded);
        g_free(d->blocks[i].again);
        g_free((void *)d->blocks[i].asked);
        g_free(d->blocks[i].untouched);
        g_free(d->blocks[i].sent);
        g_free(d->blocks[i].released);
        g_free(d->blocks[i].marked);
    }
    g_free(d->queue);
    g_free(d->order_blocks);
    g_free(d->blocks);
    mutex_clear(&d->ask_lock);
    mutex_clear(&d->lock);
    g_free(d);
}

uint64_t departure_remaining(const struct departure *d)
{
    uint64_t pages = d->queued_pages;

    for (unsigned i = 0; i < d->count; i++) {
        pages += d->blocks[i].owed->count;
    }
    return pages;
}

/* --- requests --- */

struct departure_block *departure_find(struct departure *d, const char *idstr)
{
    for (unsigned i = 0; i < d->count; i++) {
        if (strcmp(d->blocks[i].block->idstr, idstr) == 0) {
            return &d->blocks[i];
        }
    }
    return NULL;
}

static void enqueue(struct departure *d, unsigned block, uint64_t page, bool again)
{
    unsigned len = d->queue_len;

    if (len == d->queue_room) {
        unsigned room = d->queue_room ? 2 * d->queue_room : 64;
        struct wanted *queue = g_new(struct wanted, room);

        for (unsigned i = 0; i < len; i++) {
            queue[i] = d->queue[(d->queue_head + i) & (d->queue_room - 1)];
        }
        g_free(d->queue);
        d->queue = queue;
        d->queue_room = room;
        d->queue_head = 0;
    }
    d->queue[(d->queue_head + len) & (d->queue_room - 1)] =
        (struct wanted){ .block = block, .again = again, .page = page };
    d->queue_len = len + 1;
    d->stats.queue_max = MAX(d->stats.queue_max, len + 1);
}

static void set_again(struct departure_block *b, uint64_t page)
{
    bitmap_set_range(b->again, page, MIN(b->unit, b->pages - page));
}

/* What of the range was sent by the background lies in buffers behind other pages. Lock held. */
static void overtake(struct departure *d, struct departure_block *b, uint64_t first, uint64_t end)
{
    for (uint64_t page = first; page < end; page += b->unit) {
        if (!bitmap_test(b->again, page) && !(b->released && bitmap_test(b->released, page))) {
            set_again(b, page);
            enqueue(d, (unsigned)(b - d->blocks), page, true);
        }
    }
}

/* Claims what is owed of the range, host page by host page. Lock held. */
static void want(struct departure *d, struct departure_block *b, uint64_t first, uint64_t count)
{
    unsigned block = (unsigned)(b - d->blocks);
    uint64_t begun, end, run;

    departure_round(b, &first, &count);
    begun = first;
    end = first + count;
    /* also when it is on its way already: that is where the guest is */
    order_asked(&d->order, block, (end - 1) / b->unit * b->unit);
    for (; (run = dirty_set_next_run(b->owed, first, end, &first)); first += run) {
        dirty_set_remove(b->owed, first, run);
        d->queued_pages += run;
        for (uint64_t page = first; page < first + run; page += b->unit) {
            if (d->overtake) {
                set_again(b, page); /* it is on its way by itself */
            }
            enqueue(d, block, page, false);
        }
    }
    if (d->overtake) {
        overtake(d, b, begun, end);
    }
}

void departure_overtake(struct departure *d, bool on)
{
    mutex_lock(&d->lock);
    d->overtake = on;
    mutex_unlock(&d->lock);
}

bool departure_request(struct departure *d, const char *idstr, uint64_t offset, uint64_t length,
                       GError **err)
{
    bool ok = true;

    mutex_lock(&d->lock);
    const struct departure_block *last = d->last;
    struct departure_block *b = idstr  ? departure_find(d, idstr)
                                : last ? &d->blocks[last - d->blocks]
                                       : NULL;

    if (!d->frozen) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination asks for memory while the guest runs here");
        ok = false;
    } else if (!b && idstr) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination asks for memory '%s', which is not part of this migration",
                  idstr);
        ok = false;
    } else if (!b) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination asks for memory and has not said of which block");
        ok = false;
    } else if (!length || offset >= b->block->used_length ||
               length > b->block->used_length - offset) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination asks for 0x%" G_GINT64_MODIFIER "x bytes at 0x%" //
                  G_GINT64_MODIFIER "x of memory '%s', which has 0x%" G_GINT64_MODIFIER "x",
                  length, offset, b->block->idstr, b->block->used_length);
        ok = false;
    } else {
        uint64_t first = offset / TARGET_PAGE_SIZE;

        d->last = b;
        d->stats.requests++;
        want(d, b, first, (offset + length - 1) / TARGET_PAGE_SIZE + 1 - first);
    }
    mutex_unlock(&d->lock);
    return ok;
}

bool departure_wanted(struct departure *d)
{
    return d->queue_len != 0;
}

/* --- sending --- */

/* What one call has sent. */
struct tally {
    uint64_t normal, zero;
};

/* The host holds nothing for the page. It must not be read then: in shared memory that would make
 * the host hold a page of zeroes. Memory is constant, so a chunk is asked about once. */
static bool is_untouched(struct departure *d, struct departure_block *b, uint64_t page)
{
    uint64_t chunk = page / CHUNK_PAGES, first = chunk * CHUNK_PAGES;
    unsigned long mask = 1ul << (chunk % BITS_PER_LONG);
    _Atomic(unsigned long) *asked = &b->asked[chunk / BITS_PER_LONG];

    if (!(atomic_load_explicit(asked, memory_order_acquire) & mask)) {
        mutex_lock(&d->ask_lock);
        if (!(atomic_load_explicit(asked, memory_order_relaxed) & mask)) {
            uint64_t n = MIN(CHUNK_PAGES, b->pages - first);
            unsigned long *map = b->untouched + first / BITS_PER_LONG;

            pages_populated(b->block, d->rs->pagemap_fd, first, n, &b->save->extent, map);
            for (unsigned w = 0; w < BITMAP_WORDS(n); w++) {
                map[w] = ~map[w];
            }
            atomic_fetch_or_explicit(asked, mask, memory_order_release);
        }
        mutex_unlock(&d->ask_lock);
    }
    return bitmap_test(b->untouched, page);
}

static void put_word(struct departure_stream *s, const struct ram_block *b, uint64_t word)
{
    if (s->named == b) {
        out_be64(s->o, word | RAM_FLAG_CONTINUE);
    } else {
        out_be64(s->o, word);
        out_pstr(s->o, b->idstr);
        s->named = b;
    }
}

/* Queues pages that have been claimed, in order. */
static void send(struct departure *d, struct departure_stream *s, const struct piece *p,
                 struct tally *t)
{
    struct departure_block *b = &d->blocks[p->block];
    const uint8_t *host = b->block->host + p->first * TARGET_PAGE_SIZE;

    for (uint64_t page = p->first; page < p->first + p->count; page++, host += TARGET_PAGE_SIZE) {
        if ((page >= b->maybe_untouched && is_untouched(d, b, page)) || page_is_zero(host)) {
            put_word(s, b->block, page * TARGET_PAGE_SIZE | RAM_FLAG_ZERO);
            out_u8(s->o, 0);
            t->zero++;
        } else {
            put_word(s, b->block, page * TARGET_PAGE_SIZE | RAM_FLAG_PAGE);
            out_ref(s->o, host, TARGET_PAGE_SIZE);
            t->normal++;
        }
    }
}

static void begin(struct departure_stream *s)
{
    if (!s->bare) {
        out_u8(s->o, STREAM_SECTION_PART);
        out_be32(s->o, SECTION_ID_RAM);
    }
}

static void end(struct departure_stream *s)
{
    if (!s->bare) {
        out_be64(s->o, RAM_FLAG_EOS);
        out_u8(s->o, STREAM_FOOTER);
        out_be32(s->o, SECTION_ID_RAM);
    }
}

/* Lock held. */
static void account(struct departure *d, const struct departure_stream *s,
                    const struct piece *pieces, unsigned n, const struct tally *t)
{
    for (unsigned i = 0; i < n; i++) {
        struct departure_block *b = &d->blocks[pieces[i].block];

        if (b->sent && !s->bare) { /* nobody confirms what a connection of its own carries */
            bitmap_set_range(b->sent, pieces[i].first, pieces[i].count);
        }
    }
    d->stats.normal_pages += t->normal;
    d->stats.zero_pages += t->zero;
}

bool departure_send_requested(struct departure *d, struct departure_stream *s)
{
    struct tally t = { 0 };
    struct piece p;

    if (!departure_wanted(d) || !out_ok(s->o)) {
        return false;
    }
    mutex_lock(&d->lock);
    if (!d->queue_len) { /* another thread was faster */
        mutex_unlock(&d->lock);
        return false;
    }
    struct wanted w = d->queue[d->queue_head];
    struct departure_block *b = &d->blocks[w.block];

    p = (struct piece){ w.block, w.page, MIN(b->unit, b->pages - w.page) };
    d->queue_head = (d->queue_head + 1) & (d->queue_room - 1);
    d->queue_len--;
    d->queued_pages -= w.again ? 0 : p.count;
    mutex_unlock(&d->lock);

    begin(s);
    send(d, s, &p, &t);
    end(s);
    if (w.again) {
        return true; /* it has been counted */
    }
    mutex_lock(&d->lock);
    account(d, s, &p, 1, &t);
    mutex_unlock(&d->lock);
    ram_save_account(d->rs, t.normal, t.zero, 0);
    return true;
}

/* Takes up to about so many pages out of what is owed. Lock held. */
static unsigned claim(struct departure *d, uint64_t max_pages, struct piece *pieces)
{
    unsigned n = 0;

    for (uint64_t pages = 0; n < PIECES && pages < max_pages; n++) {
        if (!order_next(&d->order, MIN(PIECE_PAGES, max_pages - pages), &pieces[n])) {
            break;
        }
        dirty_set_remove(d->blocks[pieces[n].block].owed, pieces[n].first, pieces[n].count);
        pages += pieces[n].count;
    }
    return n;
}

bool departure_send_background(struct departure *d, struct departure_stream *s, uint64_t max_bytes)
{
    struct piece pieces[PIECES];
    struct tally all = { 0 };
    uint64_t spent = 0;
    bool begun = false;

    while ((spent < max_bytes || !begun) && out_ok(s->o)) {
        struct tally t = { 0 };

        mutex_lock(&d->lock);
        unsigned n =
            claim(d, CLAMP((max_bytes - spent) / TARGET_PAGE_SIZE, 1, CLAIM_PAGES), pieces);
        mutex_unlock(&d->lock);
        if (!n) {
            break;
        }
        if (!begun) {
            begin(s);
            begun = true;
        }
        for (unsigned i = 0; i < n; i++) {
            send(d, s, &pieces[i], &t);
        }
        mutex_lock(&d->lock);
        account(d, s, pieces, n, &t);
        mutex_unlock(&d->lock);
        all.normal += t.normal;
        all.zero += t.zero;
        spent += t.normal * TARGET_PAGE_SIZE + t.zero * LEAST_COST;
    }
    if (begun) {
        end(s);
        ram_save_account(d->rs, all.normal, all.zero, 0);
    }
    return begun;
}

void departure_end(struct departure_stream *s)
{
    out_u8(s->o, STREAM_SECTION_END);
    out_be32(s->o, SECTION_ID_RAM);
    out_be64(s->o, RAM_FLAG_EOS);
    out_u8(s->o, STREAM_FOOTER);
    out_be32(s->o, SECTION_ID_RAM);
}

void departure_get_stats(struct departure *d, struct departure_stats *s)
{
    struct ram_save_stats rs;

    ram_save_get_stats(d->rs, &rs);
    mutex_lock(&d->lock);
    *s = d->stats;
    /* up to freeze the sets are the migration thread's alone */
    s->remaining_pages = d->frozen ? departure_remaining(d) : rs.remaining_pages;
    mutex_unlock(&d->lock);
}
