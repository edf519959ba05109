/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reading end of a stream, and the only way to its bytes. Trusts nothing: every read is bounded
 * by its caller's size, the end of the stream is an error with the offset, and nothing is allocated
 * from a length that was not checked. One thread uses it.
 */
#ifndef MIGRATION_STREAM_IN_H
#define MIGRATION_STREAM_IN_H

#include "io/channel.h"

struct stream_in;

/* Takes a reference to ch. */
struct stream_in *in_new_channel(struct channel *ch);
/* Reads from memory that stays the caller's: tests and packages. */
struct stream_in *in_new_memory(const void *data, size_t len);
void in_free(struct stream_in *in);

bool in_bytes(struct stream_in *in, void *buf, size_t len, GError **err);
bool in_skip(struct stream_in *in, uint64_t len, GError **err);
bool in_u8(struct stream_in *in, uint8_t *v, GError **err);
bool in_be16(struct stream_in *in, uint16_t *v, GError **err);
bool in_be32(struct stream_in *in, uint32_t *v, GError **err);
bool in_be64(struct stream_in *in, uint64_t *v, GError **err);
/* A pstr into a buffer of 256 bytes, NUL-terminated; a NUL inside it is an error. */
bool in_pstr(struct stream_in *in, char buf[256], GError **err);

/*
 * Looks `at` bytes ahead without consuming: whether a subsection follows is only known from its
 * name. False: no such byte (end of stream or error); the next real read then says why.
 */
bool in_peek(struct stream_in *in, size_t at, uint8_t *v);
/* Bytes consumed so far: for messages. */
uint64_t in_offset(const struct stream_in *in);
/* True when at least one byte can be had within timeout_ms; false at the end of the stream. */
bool in_wait(struct stream_in *in, unsigned timeout_ms);

#endif
