/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Descriptions and answers as JSON text, in chunks; both directions of both sides. */
#ifndef MIGRATION_CHECK_WIRE_H
#define MIGRATION_CHECK_WIRE_H

#include "qapi/qapi-types.h"

struct channel;
struct stream_out;

/* Longest description or answer, bytes of JSON. */
#define CHECK_MAX_BYTES (256u << 10)

/* Adds a chunk (its byte "last" included, at least 1 byte long); *last: the text is complete. PEER
 * when it gets too long. */
bool check_collect(GByteArray *text, const uint8_t *chunk, size_t len, bool *last, GError **err);

/*
 * From what came. Members that this version does not know are passed over; ones that are missing or
 * of the wrong type are errors (PEER). The result is the caller's.
 */
MigrationSide *check_side_from_text(const GByteArray *text, GError **err);
MigrationCheckAnswer *check_answer_from_text(const GByteArray *text, GError **err);

/* Source: queues the description as FERRY_CHECK commands; false and *err (HOST) if it is too long
 * to be taken. */
bool check_send_side(struct stream_out *o, const MigrationSide *side, GError **err);
/* Destination: sends the answer as FERRY_CHECK messages. Blocks up to the channel's timeout. */
bool check_send_answer(struct channel *ch, const MigrationCheckAnswer *answer, GError **err);

#endif
