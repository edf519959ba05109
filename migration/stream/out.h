/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The writing end of a stream: small pieces are copied, pages go by reference, and both leave in
 * large gather writes.
 *
 * Errors are sticky: after the first one puts do nothing, and out_flush() (or out_ok()) reports it.
 * So a section is written without a check per field, and nothing is sent after a failure. One
 * thread uses it.
 */
#ifndef MIGRATION_STREAM_OUT_H
#define MIGRATION_STREAM_OUT_H

#include "io/channel.h"

#define OUT_MAX_IOV 1024
/*
 * The devices' part of a stream leaves in one write. QEMU's load of a virtio-serial port that has
 * output in flight (49 KiB) is not safe against a pause of the stream right behind that request: it
 * carries the request out too early and then calls the driver's ring broken.
 */
#define OUT_BUFFER (128 * 1024)

struct stream_out {
    struct channel *ch; /* NULL: collects in `memory` */
    GByteArray *memory;
    uint64_t bytes; /* queued since the beginning */
    GError *error;
    int iovcnt;
    size_t buffered; /* used of buffer */
    size_t pending;  /* bytes named by iov */
    struct iovec iov[OUT_MAX_IOV];
    uint8_t buffer[OUT_BUFFER];
};

/* Takes a reference to ch. */
struct stream_out *out_new_channel(struct channel *ch);
/* Everything is appended to `memory` at the next flush; the caller keeps ownership. */
struct stream_out *out_new_memory(GByteArray *memory);
void out_free(struct stream_out *o);

void out_bytes(struct stream_out *o, const void *data, size_t len);
/* By reference: data must stay until the next flush; what it contains is read at that time. */
void out_ref(struct stream_out *o, const void *data, size_t len);
void out_u8(struct stream_out *o, uint8_t v);
void out_be16(struct stream_out *o, uint16_t v);
void out_be32(struct stream_out *o, uint32_t v);
void out_be64(struct stream_out *o, uint64_t v);
void out_pstr(struct stream_out *o, const char *s);

/* Writes out what is queued. False: this or an earlier write failed; *err is a copy of the sticky
 * error. */
bool out_flush(struct stream_out *o, GError **err);
static inline bool out_ok(const struct stream_out *o)
{
    return !o->error;
}
/* Makes the stream fail from here on (a device that cannot be saved). Takes ownership of error. */
void out_fail(struct stream_out *o, GError *error);

#endif
