/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies of pages as the destination has them, for XBZRLE.
 *
 * Set-associative: a page has a few places, all in the set that its number names. Pages that lie
 * side by side fall into sets side by side, so a stretch of memory up to the size of the cache fits
 * without a collision. Each place has the round in which it was used last. A page that comes anew
 * takes a free place, or the one unused for longest, but never one used in this round or the one
 * before: where the guest writes to more than the cache holds, those pages that are in it stay and
 * go on to pay, instead of all of them pushing each other out.
 *
 * Used by the migration thread alone.
 */
#ifndef MIGRATION_RAM_XBZRLE_CACHE_H
#define MIGRATION_RAM_XBZRLE_CACHE_H

#include "system/memory.h"

struct xbzrle_cache;

/* `bytes` is a power of two and at least a page. The memory is not touched before it is used. */
struct xbzrle_cache *xbzrle_cache_new(uint64_t bytes, GError **err);
void xbzrle_cache_free(struct xbzrle_cache *c);
uint64_t xbzrle_cache_bytes(const struct xbzrle_cache *c);
/* Whether this host would give so much memory. */
bool xbzrle_cache_possible(uint64_t bytes, GError **err);

/* The copy of page `number` (not 0), which counts as used in this round; NULL when there is none.
 */
uint8_t *xbzrle_cache_find(struct xbzrle_cache *c, uint64_t number, uint32_t round);
/*
 * A place for a page that is not in the cache; NULL when all of its places were used lately. What
 * it held in this round or the one before is still there.
 */
uint8_t *xbzrle_cache_insert(struct xbzrle_cache *c, uint64_t number, uint32_t round);
/* Takes over what fits, where not all does what was used last. */
void xbzrle_cache_take_over(struct xbzrle_cache *c, const struct xbzrle_cache *old);

#endif
