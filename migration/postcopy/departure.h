/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory of a guest that has left before all of it was sent. Made of what precopy knows (which
 * pages are dirty) when the switch begins:
 *
 *   departure_new -> departure_discard (the guest still runs: most of what is dirty)
 *     -> guest stops, ram_save_sync() -> departure_discard (the rest) -> departure_freeze
 *     -> requests and background, from any thread, until nothing remains
 *
 * From freeze on memory is constant, and each page is claimed once: whoever claims it sends it. A
 * host page (2 MiB with hugetlb) is claimed and sent as a whole, its target pages in order.
 *
 * Background order follows the guest: outward from the page that was asked for last, then whatever
 * is left.
 *
 * Threads: up to freeze the migration thread; from then on any, under a leaf lock of its own that
 * is never held while a stream is written.
 */
#ifndef MIGRATION_POSTCOPY_DEPARTURE_H
#define MIGRATION_POSTCOPY_DEPARTURE_H

#include "migration/ram/save.h"
#include "migration/stream/out.h"

struct departure;

/* rs outlives it. With release_ram memory is given back to the host once it has been sent and the
 * destination is known to have it (recovery needs it until then), where only we map it. */
struct departure *departure_new(struct ram_save *rs, bool release_ram);
void departure_free(struct departure *d); /* NULL is fine */

/*
 * Queues POSTCOPY_RAM_DISCARD commands for all pages that are dirty and were not discarded by an
 * earlier call; pages that precopy has not looked at yet are among them, save those that are known
 * to be zero on the destination (FERRY_FEATURE_ZEROED and never touched here). Dirty pages are
 * rounded out to host pages.
 */
void departure_discard(struct departure *d, struct stream_out *o);
/* The guest has stopped and the last discard is queued. Dirty tracking is read no more, but is left
 * on until ram_save_free(): to end it takes a while, and this is in the pause. */
void departure_freeze(struct departure *d);

/*
 * The destination asks for bytes of a block; NULL: of the block of the last request. False and *err
 * (PEER): no such block, or not inside it. What was claimed already is on its way, and ignored.
 */
bool departure_request(struct departure *d, const char *idstr, uint64_t offset, uint64_t length,
                       GError **err);

/*
 * Whether a page that is asked for while the background has it on its way is sent once more: worth
 * it where there is a connection that overtakes the background, and only towards a destination that
 * drops what it has already. Not while pages are sent.
 */
void departure_overtake(struct departure *d, bool on);

/* One stream that pages go out on, with the block it named last. */
struct departure_stream {
    struct stream_out *o;
    const struct ram_block *named;
    bool bare; /* records alone (preempt channel), else PART sections */
};
/* Queues one host page that was asked for. False: none is wanted, or the stream is broken. */
bool departure_send_requested(struct departure *d, struct departure_stream *s);
/* Queues up to about max_bytes (at least one host page) that nobody has asked for. False: nothing
 * is left to claim, or the stream is broken. All is queued when this says false, nothing is wanted
 * and no other thread is inside of a send. */
bool departure_send_background(struct departure *d, struct departure_stream *s, uint64_t max_bytes);
/* The END section of memory; on a stream that is not bare. */
void departure_end(struct departure_stream *s);
bool departure_wanted(struct departure *d); /* a request is waiting */

/* A new link: the destination has the pages whose bits are set (as in RECV_BITMAP), and no others.
 * False and *err (PEER): a bitmap of another length. All blocks, then departure_resume(). */
bool departure_received(struct departure *d, const char *idstr, const uint8_t *bits, size_t len,
                        GError **err);
/* The next block a bitmap is to be asked for, from index 0; NULL after the last. */
const char *departure_block_name(const struct departure *d, unsigned index);
/* Forgets requests (they are sent again) and begins anew with what is missing there. */
void departure_resume(struct departure *d);

/* With release_ram: what the main stream has carried up to the mark is known to have arrived. Gives
 * it back to the host where only we map it. The guest can then not run here any more. */
void departure_mark(struct departure *d);
void departure_release(struct departure *d);

struct departure_stats {
    uint64_t remaining_pages; /* not sent: owed, or asked for and waiting */
    uint64_t normal_pages, zero_pages, requests, discarded_pages;
    unsigned queue_max; /* most requests that waited at once */
};
void departure_get_stats(struct departure *d, struct departure_stats *s); /* any thread */

#endif
