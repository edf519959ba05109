/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XBZRLE on the way out: how each page is best sent, from the second round on. What is in the cache
 * is, byte for byte, what the destination has once everything queued has arrived; so a page that
 * goes into it is sent from it, and not from the guest's memory, which changes meanwhile.
 *
 * Used by the migration thread alone. Pages are named by their host address.
 */
#ifndef MIGRATION_RAM_XBZRLE_SEND_H
#define MIGRATION_RAM_XBZRLE_SEND_H

#include "migration/ram/xbzrle.h"

struct xbzrle_stats {
    uint64_t cache_bytes;
    uint64_t pages, bytes; /* sent as what has changed; bytes of their records' payload */
    uint64_t same;         /* of the pages: without any change, so that nothing was sent */
    uint64_t misses;       /* pages that were not in the cache */
    uint64_t overflows;    /* pages that had changed too much */
    double miss_rate;      /* of the last round: misses by pages */
    double encoding_rate;  /* of the last round: bytes of pages by bytes that were sent for them */
};

enum xbzrle_way {
    XBZRLE_WHOLE, /* *data is the page, by reference until the next flush */
    XBZRLE_DELTA, /* *data is mark, length and encoding; valid until the next call */
    XBZRLE_SAME,  /* the destination has it */
};

struct xbzrle;
struct xbzrle *xbzrle_new(uint64_t cache_bytes, GError **err);
void xbzrle_free(struct xbzrle *x);
/* Another cache, with what fits of the old one. Nothing may be queued that was sent from it. False:
 * the old one stays. */
bool xbzrle_resize(struct xbzrle *x, uint64_t cache_bytes, GError **err);

/*
 * How to send `page`, which is not zero. With `last` it will not be sent again, and is not worth a
 * place in the cache.
 */
enum xbzrle_way xbzrle_page(struct xbzrle *x, const uint8_t *page, bool last, const uint8_t **data,
                            size_t *len);
/* `page` is sent as zero. */
void xbzrle_zero_page(struct xbzrle *x, const uint8_t *page);
/* A round is over, and all of it has left. */
void xbzrle_end_round(struct xbzrle *x);
void xbzrle_get_stats(const struct xbzrle *x, struct xbzrle_stats *stats);

#endif
