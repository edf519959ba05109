/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reading end of a stream; see migration/stream/in.h.
 *
 * Trust: none. Every read is bounded by its caller, who names the length; nothing is allocated by a
 * number of the stream; a name is at most 255 printable bytes. What lies ahead is looked at within
 * the buffer only.
 */
#include "migration/stream/in.h"

#include <inttypes.h>
#include <string.h>

#include "util/error.h"

/*
 * Large enough that a read brings tens of pages, small enough to stay in the second-level cache
 * until they are copied out.
 */
#define IN_BUFFER IN_UNREAD_MAX

struct stream_in {
    struct channel *ch;  /* NULL: memory only */
    const uint8_t *data; /* buffer, or the caller's memory */
    uint8_t *buffer;
    size_t pos, len; /* unread: data[pos..len) */
    uint64_t base;   /* stream offset of data[0] */
    size_t next;     /* the next fill brings at most this much; 0: as much as there is room for */
    bool ended;
    GError *error; /* with which the channel failed; sticks */
};

struct stream_in *in_new_channel(struct channel *ch)
{
    struct stream_in *in = g_new0(struct stream_in, 1);

    in->ch = channel_ref(ch);
    in->buffer = g_malloc(IN_BUFFER);
    in->data = in->buffer;
    return in;
}

struct stream_in *in_new_memory(const void *data, size_t len)
{
    struct stream_in *in = g_new0(struct stream_in, 1);

    in->data = data;
    in->len = len;
    return in;
}

void in_free(struct stream_in *in)
{
    if (in) {
        if (in->ch) {
            channel_unref(in->ch);
        }
        g_clear_error(&in->error);
        g_free(in->buffer);
        g_free(in);
    }
}

uint64_t in_offset(const struct stream_in *in)
{
    return in->base + in->pos;
}

/* Brings more bytes behind the unread ones. */
static bool fill(struct stream_in *in, GError **err)
{
    if (in->error) { /* in_peek() met it: a second read might wait where the first one failed */
        if (err) {
            *err = g_error_copy(in->error);
        }
        return false;
    }
    if (in->ch && !in->ended) {
        if (in->pos) {
            memmove(in->buffer, in->buffer + in->pos, in->len - in->pos);
            in->base += in->pos;
            in->len -= in->pos;
            in->pos = 0;
        }
        size_t room = IN_BUFFER - in->len;
        struct iovec iov = { .iov_base = in->buffer + in->len,
                             .iov_len = in->next ? MIN(room, in->next) : room };

        in->next = 0;
        ssize_t n = channel_readv(in->ch, &iov, 1, &in->error);

        if (n > 0) {
            in->len += (size_t)n;
            return true;
        }
        if (n < 0) {
            return fill(in, err);
        }
        in->ended = true;
    }
    error_set(err, FERRY_ERROR_LINK, "The migration stream ended early, after %" PRIu64 " bytes",
              in->base + in->len);
    return false;
}

bool in_bytes(struct stream_in *in, void *buf, size_t len, GError **err)
{
    uint8_t *p = buf;

    while (len) {
        size_t n = MIN(len, in->len - in->pos);

        if (!n) {
            if (!fill(in, err)) {
                return false;
            }
            continue;
        }
        memcpy(p, in->data + in->pos, n);
        in->pos += n;
        p += n;
        len -= n;
    }
    return true;
}

bool in_skip(struct stream_in *in, uint64_t len, GError **err)
{
    while (len) {
        uint64_t n = MIN(len, (uint64_t)(in->len - in->pos));

        if (!n) {
            if (!fill(in, err)) {
                return false;
            }
            continue;
        }
        in->pos += (size_t)n;
        len -= n;
    }
    return true;
}

bool in_u8(struct stream_in *in, uint8_t *v, GError **err)
{
    return in_bytes(in, v, sizeof(*v), err);
}

bool in_be16(struct stream_in *in, uint16_t *v, GError **err)
{
    bool ok = in_bytes(in, v, sizeof(*v), err);

    *v = ok ? GUINT16_FROM_BE(*v) : 0;
    return ok;
}

bool in_be32(struct stream_in *in, uint32_t *v, GError **err)
{
    bool ok = in_bytes(in, v, sizeof(*v), err);

    *v = ok ? GUINT32_FROM_BE(*v) : 0;
    return ok;
}

bool in_be64(struct stream_in *in, uint64_t *v, GError **err)
{
    bool ok = in_bytes(in, v, sizeof(*v), err);

    *v = ok ? GUINT64_FROM_BE(*v) : 0;
    return ok;
}

bool in_pstr(struct stream_in *in, char buf[256], GError **err)
{
    uint8_t len;

    if (!in_u8(in, &len, err) || !in_bytes(in, buf, len, err)) {
        return false;
    }
    buf[len] = '\0';
    /* names go into messages and from there into JSON */
    for (unsigned i = 0; i < len; i++) {
        if (buf[i] < ' ' || buf[i] > '~') {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has a name with the byte 0x%02x before offset %" PRIu64,
                      (uint8_t)buf[i], in_offset(in));
            return false;
        }
    }
    return true;
}

bool in_peek(struct stream_in *in, size_t at, uint8_t *v)
{
    g_assert(at < IN_BUFFER / 2);
    while (in->len - in->pos <= at) {
        if (!fill(in, NULL)) {
            return false;
        }
    }
    *v = in->data[in->pos + at];
    return true;
}

bool in_has_channel(const struct stream_in *in)
{
    return in->ch;
}

void in_expect_little(struct stream_in *in)
{
    in->next = 64;
}

size_t in_buffered(const struct stream_in *in)
{
    return in->len - in->pos;
}

size_t in_readv(struct stream_in *in, const struct iovec *iov, int iovcnt, GError **err)
{
    ssize_t n;

    g_assert(in->ch && in->pos == in->len);
    in->base += in->pos;
    in->pos = in->len = 0;
    n = in->ended ? 0 : channel_readv(in->ch, iov, iovcnt, err);
    if (n > 0) {
        in->base += (uint64_t)n;
        return (size_t)n;
    }
    if (n == 0) {
        in->ended = true;
        error_set(err, FERRY_ERROR_LINK,
                  "The migration stream ended early, after %" PRIu64 " bytes", in->base);
    }
    return 0;
}

void in_unread(struct stream_in *in, const struct iovec *iov, int iovcnt)
{
    g_assert(in->ch && in->pos == 0 && in->len == 0);
    for (int i = 0; i < iovcnt; i++) {
        g_assert(iov[i].iov_len <= IN_BUFFER - in->len);
        memcpy(in->buffer + in->len, iov[i].iov_base, iov[i].iov_len);
        in->len += iov[i].iov_len;
    }
    in->base -= in->len;
}

bool in_ended(const struct stream_in *in)
{
    return (in->ended || !in->ch) && in->pos == in->len;
}

bool in_wait(struct stream_in *in, unsigned timeout_ms)
{
    uint8_t unused;

    if (in->pos < in->len) {
        return true;
    }
    if (!in->ch || in->ended) {
        return false;
    }
    channel_set_timeout(in->ch, timeout_ms);
    return in_peek(in, 0, &unused);
}
