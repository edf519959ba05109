/* SPDX-License-Identifier: GPL-2.0-or-later */
/* XBZRLE on the way out; see migration/ram/xbzrle-send.h. */
#include "migration/ram/xbzrle-send.h"

#include <string.h>

#include "migration/ram/xbzrle-cache.h"

/*
 * A round goes through memory in order, so the next page is probably the next one to be sent. Its
 * first lines are called for while this one is compared: the processor finds the rest by itself,
 * and the first one costs a walk through page tables and a way to memory. More of them is slower.
 */
#define LINES_AHEAD 2u

struct xbzrle {
    struct xbzrle_cache *cache;
    xbzrle_encode_fn encode;
    uint32_t round;
    struct xbzrle_stats stats, before; /* now, and at the begin of the round */
    uint64_t round_pages;
    uint8_t record[XBZRLE_HEADER + XBZRLE_BUFFER];
};

struct xbzrle *xbzrle_new(uint64_t cache_bytes, GError **err)
{
    struct xbzrle_cache *cache = xbzrle_cache_new(cache_bytes, err);

    if (!cache) {
        return NULL;
    }
    struct xbzrle *x = g_new0(struct xbzrle, 1);

    x->cache = cache;
    x->encode = xbzrle_encoder_best();
    x->stats.cache_bytes = cache_bytes;
    return x;
}

void xbzrle_free(struct xbzrle *x)
{
    if (x) {
        xbzrle_cache_free(x->cache);
        g_free(x);
    }
}

bool xbzrle_resize(struct xbzrle *x, uint64_t cache_bytes, GError **err)
{
    struct xbzrle_cache *cache = xbzrle_cache_new(cache_bytes, err);

    if (!cache) {
        return false;
    }
    xbzrle_cache_take_over(cache, x->cache);
    xbzrle_cache_free(x->cache);
    x->cache = cache;
    x->stats.cache_bytes = cache_bytes;
    return true;
}

static uint64_t number_of(const uint8_t *page)
{
    return (uint64_t)(uintptr_t)page / TARGET_PAGE_SIZE;
}

/* A page that is not in the cache is sent whole; by way of the cache where that has a place. */
static const uint8_t *miss(struct xbzrle *x, const uint8_t *page, bool last)
{
    uint8_t *copy = last ? NULL : xbzrle_cache_insert(x->cache, number_of(page), x->round);

    x->stats.misses++;
    return copy ? memcpy(copy, page, TARGET_PAGE_SIZE) : page;
}

enum xbzrle_way xbzrle_page(struct xbzrle *x, const uint8_t *page, bool last, const uint8_t **data,
                            size_t *len)
{
    uint8_t *copy = xbzrle_cache_find(x->cache, number_of(page), x->round);
    int encoded;

    x->round_pages++;
    *len = TARGET_PAGE_SIZE;
    if (!copy) {
        *data = miss(x, page, last);
        return XBZRLE_WHOLE;
    }
    for (unsigned line = 0; line < LINES_AHEAD; line++) {
        __builtin_prefetch(page + TARGET_PAGE_SIZE + 64 * line);
    }
    encoded = x->encode(copy, page, x->record + XBZRLE_HEADER);
    if (encoded == XBZRLE_OVERFLOW) {
        x->stats.overflows++;
        *data = copy;
        return XBZRLE_WHOLE;
    }
    x->stats.pages++;
    if (!encoded) {
        x->stats.same++;
        return XBZRLE_SAME;
    }
    x->record[0] = XBZRLE_MARK;
    x->record[1] = (uint8_t)(encoded >> 8);
    x->record[2] = (uint8_t)encoded;
    *data = x->record;
    *len = XBZRLE_HEADER + (size_t)encoded;
    x->stats.bytes += *len;
    return XBZRLE_DELTA;
}

void xbzrle_zero_page(struct xbzrle *x, const uint8_t *page)
{
    uint8_t *copy = xbzrle_cache_find(x->cache, number_of(page), x->round);

    x->round_pages++;
    if (copy) {
        memset(copy, 0, TARGET_PAGE_SIZE);
    }
}

void xbzrle_end_round(struct xbzrle *x)
{
    struct xbzrle_stats *s = &x->stats;
    uint64_t bytes = s->bytes - x->before.bytes;

    if (x->round_pages) {
        s->miss_rate = (double)(s->misses - x->before.misses) / (double)x->round_pages;
        s->encoding_rate =
            bytes ? (double)(s->pages - x->before.pages) * (double)TARGET_PAGE_SIZE / (double)bytes
                  : 0;
    }
    x->before = *s;
    x->round_pages = 0;
    x->round++;
}

void xbzrle_get_stats(const struct xbzrle *x, struct xbzrle_stats *stats)
{
    *stats = x->stats;
}
