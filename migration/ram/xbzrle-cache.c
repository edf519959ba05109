/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The page cache of XBZRLE; see migration/ram/xbzrle-cache.h. */
#include "migration/ram/xbzrle-cache.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "util/error.h"

#define WAYS_MAX 8u
/* A place unused for so many rounds may go to another page. */
#define ROUNDS_KEPT 2u
#define NO_PAGE     UINT64_C(0)

/*
 * The places of set s are s, s + sets, s + 2 * sets ...: a stretch of pages lies in one piece, and
 * memory that is not needed is not touched.
 */
struct xbzrle_cache {
    uint64_t bytes;
    uint64_t sets; /* a power of two */
    unsigned ways;
    uint8_t *data;
    uint64_t (*numbers)[WAYS_MAX]; /* by set; NO_PAGE: free */
    uint32_t (*used)[WAYS_MAX];    /* in which round */
};

static uint8_t *map_data(uint64_t bytes, GError **err)
{
    void *data = MAP_FAILED;

    if (bytes <= PTRDIFF_MAX) {
        data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (data == MAP_FAILED) {
        error_set(err, FERRY_ERROR_HOST,
                  "Cannot allocate the xbzrle cache of %" PRIu64
                  " bytes: give a smaller xbzrle-cache-size",
                  bytes);
        return NULL;
    }
    /* only a help: each page that is compared would be a walk through page tables otherwise */
    (void)madvise(data, bytes, MADV_HUGEPAGE);
    return data;
}

bool xbzrle_cache_possible(uint64_t bytes, GError **err)
{
    uint8_t *data = map_data(bytes, err);

    if (!data) {
        return false;
    }
    munmap(data, bytes);
    return true;
}

struct xbzrle_cache *xbzrle_cache_new(uint64_t bytes, GError **err)
{
    uint64_t pages = bytes / TARGET_PAGE_SIZE;
    uint8_t *data = map_data(bytes, err);

    if (!data) {
        return NULL;
    }
    struct xbzrle_cache *c = g_new0(struct xbzrle_cache, 1);

    c->bytes = bytes;
    c->data = data;
    c->ways = (unsigned)MIN(WAYS_MAX, pages);
    c->sets = pages / c->ways;
    c->numbers = g_try_malloc0_n(c->sets, sizeof(*c->numbers));
    c->used = g_try_malloc0_n(c->sets, sizeof(*c->used));
    if (!c->numbers || !c->used) {
        error_set(err, FERRY_ERROR_HOST,
                  "Cannot allocate the tables of an xbzrle cache of %" PRIu64
                  " bytes: give a smaller xbzrle-cache-size",
                  bytes);
        xbzrle_cache_free(c);
        return NULL;
    }
    return c;
}

void xbzrle_cache_free(struct xbzrle_cache *c)
{
    if (c) {
        munmap(c->data, c->bytes);
        g_free(c->numbers);
        g_free(c->used);
        g_free(c);
    }
}

uint64_t xbzrle_cache_bytes(const struct xbzrle_cache *c)
{
    return c->bytes;
}

static uint8_t *place(const struct xbzrle_cache *c, uint64_t set, unsigned way)
{
    return c->data + (way * c->sets + set) * TARGET_PAGE_SIZE;
}

uint8_t *xbzrle_cache_find(struct xbzrle_cache *c, uint64_t number, uint32_t round)
{
    uint64_t set = number & (c->sets - 1);

    for (unsigned way = 0; way < c->ways; way++) {
        if (c->numbers[set][way] == number) {
            c->used[set][way] = round;
            return place(c, set, way);
        }
    }
    return NULL;
}

/* The free or else least recently used way of a set. */
static unsigned oldest(const struct xbzrle_cache *c, uint64_t set)
{
    unsigned best = 0;

    for (unsigned way = 0; way < c->ways; way++) {
        if (c->numbers[set][way] == NO_PAGE) {
            return way;
        }
        if (c->used[set][way] < c->used[set][best]) {
            best = way;
        }
    }
    return best;
}

uint8_t *xbzrle_cache_insert(struct xbzrle_cache *c, uint64_t number, uint32_t round)
{
    uint64_t set = number & (c->sets - 1);
    unsigned way = oldest(c, set);

    if (c->numbers[set][way] != NO_PAGE && round - c->used[set][way] < ROUNDS_KEPT) {
        return NULL;
    }
    c->numbers[set][way] = number;
    c->used[set][way] = round;
    return place(c, set, way);
}

void xbzrle_cache_take_over(struct xbzrle_cache *c, const struct xbzrle_cache *old)
{
    for (uint64_t from = 0; from < old->sets; from++) {
        for (unsigned way = 0; way < old->ways; way++) {
            uint64_t number = old->numbers[from][way], set = number & (c->sets - 1);
            uint32_t used = old->used[from][way];
            unsigned to = oldest(c, set);

            if (number == NO_PAGE || (c->numbers[set][to] != NO_PAGE && c->used[set][to] >= used)) {
                continue;
            }
            c->numbers[set][to] = number;
            c->used[set][to] = used;
            memcpy(place(c, set, to), place(old, from, way), TARGET_PAGE_SIZE);
        }
    }
}
