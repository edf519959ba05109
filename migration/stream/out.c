/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The writing end of a stream; see migration/stream/out.h. */
#include "migration/stream/out.h"

#include <string.h>

struct stream_out *out_new_channel(struct channel *ch)
{
    struct stream_out *o = g_new(struct stream_out, 1);

    memset(o, 0, offsetof(struct stream_out, iov));
    o->ch = channel_ref(ch);
    return o;
}

struct stream_out *out_new_memory(GByteArray *memory)
{
    struct stream_out *o = g_new(struct stream_out, 1);

    memset(o, 0, offsetof(struct stream_out, iov));
    o->memory = memory;
    return o;
}

void out_free(struct stream_out *o)
{
    if (o) {
        if (o->ch) {
            channel_unref(o->ch);
        }
        g_clear_error(&o->error);
        g_free(o);
    }
}

void out_fail(struct stream_out *o, GError *error)
{
    if (o->error) {
        g_error_free(error);
    } else {
        o->error = error;
    }
}

/* Sends what is queued; errors stay in o->error. */
static void flush(struct stream_out *o)
{
    if (!o->error && o->iovcnt) {
        if (o->ch) {
            channel_writev_all(o->ch, o->iov, o->iovcnt, &o->error);
        } else {
            for (int i = 0; i < o->iovcnt; i++) {
                g_byte_array_append(o->memory, o->iov[i].iov_base, (guint)o->iov[i].iov_len);
            }
        }
    }
    o->iovcnt = 0;
    o->buffered = 0;
    o->pending = 0;
}

bool out_flush(struct stream_out *o, GError **err)
{
    flush(o);
    if (o->error) {
        if (err) {
            *err = g_error_copy(o->error);
        }
        return false;
    }
    return true;
}

static void add(struct stream_out *o, const void *data, size_t len)
{
    struct iovec *last = o->iovcnt ? &o->iov[o->iovcnt - 1] : NULL;

    if (last && (const uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += len;
    } else {
        o->iov[o->iovcnt++] = (struct iovec){ .iov_base = (void *)(uintptr_t)data, .iov_len = len };
    }
    o->pending += len;
    o->bytes += len;
}

void out_ref(struct stream_out *o, const void *data, size_t len)
{
    if (o->error) {
        return;
    }
    if (o->iovcnt == OUT_MAX_IOV) {
        flush(o);
    }
    add(o, data, len);
}

void out_bytes(struct stream_out *o, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len && !o->error) {
        if (o->buffered == OUT_BUFFER || o->iovcnt == OUT_MAX_IOV) {
            flush(o);
        }
        size_t n = MIN(len, OUT_BUFFER - o->buffered);

        memcpy(o->buffer + o->buffered, p, n);
        add(o, o->buffer + o->buffered, n);
        o->buffered += n;
        p += n;
        len -= n;
    }
}

void out_u8(struct stream_out *o, uint8_t v)
{
    out_bytes(o, &v, 1);
}

void out_be16(struct stream_out *o, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    out_bytes(o, &v, sizeof(v));
}

void out_be32(struct stream_out *o, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    out_bytes(o, &v, sizeof(v));
}

/* One goes before each page, so it has a short way. */
void out_be64(struct stream_out *o, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    if (o->error || o->buffered > OUT_BUFFER - sizeof(v) || o->iovcnt == OUT_MAX_IOV) {
        out_bytes(o, &v, sizeof(v));
        return;
    }
    memcpy(o->buffer + o->buffered, &v, sizeof(v));
    add(o, o->buffer + o->buffered, sizeof(v));
    o->buffered += sizeof(v);
}

void out_pstr(struct stream_out *o, const char *s)
{
    size_t len = strlen(s);

    g_assert(len <= 255); /* names of ours; block names are limited where they are made */
    out_u8(o, (uint8_t)len);
    out_bytes(o, s, len);
}
