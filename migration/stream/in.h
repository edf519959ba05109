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
/* A pstr into a buffer of 256 bytes, NUL-terminated; anything but printable ASCII in it is an
 * error. */
bool in_pstr(struct stream_in *in, char buf[256], GError **err);

/*
 * Looks `at` bytes ahead without consuming: whether a subsection follows is only known from its
 * name. False: no such byte (end of stream or error); the next real read then says why.
 */
bool in_peek(struct stream_in *in, size_t at, uint8_t *v);
/*
 * For who knows where the next bytes belong, in_readv() reads past the buffer straight into place:
 * one read of the channel, maybe short; only where there is a channel and nothing is buffered. What
 * turns out to belong elsewhere is given back with in_unread() and read again: the bytes of the
 * vector, up to IN_UNREAD_MAX, with nothing buffered.
 */
#define IN_UNREAD_MAX (256u * 1024)
size_t in_buffered(const struct stream_in *in);
/* The next fill of the buffer brings only some tens of bytes: behind them comes what in_readv()
 * can put in place. */
void in_expect_little(struct stream_in *in);
bool in_has_channel(const struct stream_in *in);
/* The number of bytes, at least 1; 0 and *err on failure or at the end of the stream. */
size_t in_readv(struct stream_in *in, const struct iovec *iov, int iovcnt, GError **err);
void in_unread(struct stream_in *in, const struct iovec *iov, int iovcnt);

/* Bytes consumed so far: for messages. */
uint64_t in_offset(const struct stream_in *in);
/* The stream has ended in order (no error of the channel) and all of it has been read. */
bool in_ended(const struct stream_in *in);
/* True when at least one byte can be had within timeout_ms; false at the end of the stream. */
bool in_wait(struct stream_in *in, unsigned timeout_ms);

#endif
