/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XBZRLE: a page as what has changed in it since the destination got it last.
 *
 *   page   := { unchanged changed byte[changed] }      what follows the last change is unchanged
 *   length := ULEB128 in one or two bytes
 *
 * `unchanged` is 0 only at the start of a page, `changed` never; the bytes are the new ones. On the
 * wire a mark and the length stand before it (XBZRLE_MARK, be16).
 *
 * Pure functions: no state, any thread.
 */
#ifndef MIGRATION_RAM_XBZRLE_H
#define MIGRATION_RAM_XBZRLE_H

#include "system/memory.h"

#define XBZRLE_MARK 0x01u
/* Mark and length, which a page sent whole does not need. */
#define XBZRLE_HEADER 3u
/* The longest encoding that is shorter than the page itself. */
#define XBZRLE_MAX      ((int)(TARGET_PAGE_SIZE - XBZRLE_HEADER - 1))
#define XBZRLE_OVERFLOW (-1)
/* What an encoder writes into: short runs are copied with more than their length. */
#define XBZRLE_BUFFER (TARGET_PAGE_SIZE + 16)

/*
 * Encodes `page` against `old` into `out` (XBZRLE_BUFFER bytes) and makes `old` equal to it. The
 * guest may write to `page` meanwhile: what is encoded always leads from what was in `old` to what
 * is then in it, and that is the page as it was at some moment of the call, line by line.
 *
 * Returns the length, at most XBZRLE_MAX; 0 when nothing has changed; XBZRLE_OVERFLOW when the
 * encoding would be longer: then `old` is what to send.
 */
typedef int (*xbzrle_encode_fn)(uint8_t *old, const uint8_t *page, uint8_t *out);

struct xbzrle_encoder {
    const char *name;
    bool (*usable)(void); /* on this CPU */
    xbzrle_encode_fn encode;
};
/* From slow to fast; the first is usable everywhere. Ends with a NULL name. */
extern const struct xbzrle_encoder xbzrle_encoders[];
xbzrle_encode_fn xbzrle_encoder_best(void);

/*
 * Applies `len` bytes of a peer's encoding to `page`. False: they break the grammar or leave the
 * page; nothing outside it was touched, but what came before the mistake has been applied.
 */
bool xbzrle_decode(uint8_t *page, const uint8_t *data, size_t len);

#endif
