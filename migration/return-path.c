/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The return path.
 *
 * On the source a thread reads it, because an answer may come while the migration thread is blocked
 * in a write. Trust: none. Lengths are fixed per type or bounded, all that arrives only sets flags
 * under one lock, and a text of the destination is shown to people and never interpreted. What was
 * not asked for ends the path: an answer to a ping that was not sent, a hello without the ping that
 * asks for it, READY before the end of the stream, SHUT 0 before the guest was given away; each
 * also the second time. (SWITCHOVER_ACK alone is ignored whenever it comes: a QEMU may be told by
 * its options to send it.) The first error sticks.
 */
#include "migration/return-path.h"

#include <inttypes.h>
#include <string.h>

#include "migration/check/wire.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "util/error.h"
#include "util/sync.h"

/* So many may wait for their answer; no more are sent to a peer that gives none. */
#define PINGS_MAX 16u
/* What has arrived and nobody has read: how often it is looked for, and how long. */
#define READ_AGAIN_US   (50 * 1000)
#define READ_LONGEST_MS 10000

struct return_path {
    struct channel *ch;
    struct stream_in *in;
    GThread *thread;
    struct mutex lock;
    struct cond cond;
    /* all under lock */
    bool asked[RETURN_WAIT_SHUT + 1]; /* and not answered yet */
    bool got[RETURN_WAIT_SHUT + 1];
    bool greeted; /* a hello came */
    uint64_t features;
    uint32_t pings[PINGS_MAX]; /* asked and not answered yet */
    unsigned ping_count;
    uint32_t pong;     /* the last one, FERRY_PING_MAGIC apart */
    bool refused;      /* the peer said that it does not take the guest */
    bool closed;       /* nothing more comes: the peer has closed, or is gone */
    bool shut_by_us;   /* with closed: this side has ended it, which says nothing of the peer */
    GByteArray *check; /* what came of the answer to a check; NULL: none was asked for */
    uint64_t runs_ns;  /* what FERRY_RUNS said; UINT64_MAX: nothing */
    const struct return_path_ops *ops; /* NULL: the guest is still here */
    void *opaque;
    char *bitmap_of; /* block whose received bitmap was asked for */
    uint64_t bitmap_pages;
    GError *error;
};

/* The ops once there are any; they stay. */
static const struct return_path_ops *ops_of(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    const struct return_path_ops *ops = rp->ops;
    mutex_unlock(&rp->lock);
    return ops;
}

static void note_refusal(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    rp->refused = true;
    mutex_unlock(&rp->lock);
}

/* An answer came; false and *err: nothing asked for it. */
static bool note(struct return_path *rp, enum return_wait what, const char *message, GError **err)
{
    mutex_lock(&rp->lock);
    bool asked = rp->asked[what];
    rp->asked[what] = false;
    rp->got[what] = rp->got[what] || asked;
    cond_broadcast(&rp->cond);
    mutex_unlock(&rp->lock);
    if (!asked) {
        error_set(err, FERRY_ERROR_PEER, "The destination sent a %s that nothing asked for",
                  message);
    }
    return asked;
}

/* Lock held. Takes the ping from those that wait for their answer. */
static bool take_ping(struct return_path *rp, uint32_t value)
{
    for (unsigned i = 0; i < rp->ping_count; i++) {
        if (rp->pings[i] == value) {
            rp->pings[i] = rp->pings[--rp->ping_count];
            return true;
        }
    }
    return false;
}

static bool handle_hello(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    uint32_t version;
    uint64_t features;

    if (len < 12) {
        error_set(err, FERRY_ERROR_PEER, "The destination's hello is too short (%u bytes)", len);
        return false;
    }
    memcpy(&version, p, 4);
    memcpy(&features, p + 4, 8);
    if (GUINT32_FROM_BE(version) < FERRY_VERSION_1) {
        error_set(err, FERRY_ERROR_PEER, "The destination's hello has version %u",
                  GUINT32_FROM_BE(version));
        return false;
    }
    mutex_lock(&rp->lock);
    bool asked = rp->asked[RETURN_WAIT_FERRY_PONG] && !rp->greeted;
    rp->greeted = true;
    rp->features = asked ? GUINT64_FROM_BE(features) & FERRY_FEATURES_ALL : rp->features;
    mutex_unlock(&rp->lock);
    if (!asked) {
        error_set(err, FERRY_ERROR_PEER, "The destination sent a hello that nothing asked for");
    }
    return asked;
}

static bool handle_pong(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    uint32_t value;

    (void)len;
    memcpy(&value, p, 4);
    value = GUINT32_FROM_BE(value);
    mutex_lock(&rp->lock);
    bool asked = take_ping(rp, value);
    if (asked && value == FERRY_PING_MAGIC) {
        rp->asked[RETURN_WAIT_FERRY_PONG] = false;
        rp->got[RETURN_WAIT_FERRY_PONG] = true;
    } else if (asked) {
        rp->pong = value;
    }
    cond_broadcast(&rp->cond);
    mutex_unlock(&rp->lock);
    if (!asked) {
        error_set(err, FERRY_ERROR_PEER, "The destination answered a ping 0x%x that was not sent",
                  value);
    }
    return asked;
}

static bool handle_shut(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    uint32_t value;

    (void)len;
    memcpy(&value, p, 4);
    if (value) {
        note_refusal(rp);
        error_set(err, FERRY_ERROR_PEER,
                  "The destination could not load the guest (it reported error %u)",
                  GUINT32_FROM_BE(value));
        return false;
    }
    return note(rp, RETURN_WAIT_SHUT, "confirmation that it runs the guest", err);
}

static bool handle_ready(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    (void)p;
    (void)len;
    return note(rp, RETURN_WAIT_READY, "confirmation that it has loaded the guest", err);
}

static bool handle_check(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    bool ok, last = false;

    mutex_lock(&rp->lock);
    ok = rp->check && !rp->got[RETURN_WAIT_CHECK];
    if (!ok) {
        error_set(err, FERRY_ERROR_PEER, "The destination answers a check that nobody asked for");
    } else {
        ok = check_collect(rp->check, p, len, &last, err);
    }
    mutex_unlock(&rp->lock);
    return ok && (!last || note(rp, RETURN_WAIT_CHECK, "check", err));
}

static bool handle_runs(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    uint64_t ns;

    (void)len;
    memcpy(&ns, p, 8);
    mutex_lock(&rp->lock);
    bool asked = rp->asked[RETURN_WAIT_SHUT] || rp->asked[RETURN_WAIT_RUNS];
    rp->runs_ns = asked ? GUINT64_FROM_BE(ns) : rp->runs_ns;
    rp->got[RETURN_WAIT_RUNS] = rp->got[RETURN_WAIT_RUNS] || asked;
    rp->asked[RETURN_WAIT_RUNS] = false;
    cond_broadcast(&rp->cond);
    mutex_unlock(&rp->lock);
    if (!asked) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination said when the guest began to run, before it was given away");
    }
    return asked;
}

static bool handle_error(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    g_autofree char *text = g_utf8_make_valid((const char *)p, len);

    note_refusal(rp);
    error_set(err, FERRY_ERROR_PEER, "The destination refused the guest: %s", text);
    return false;
}

/* A pstr that fills the rest of a payload, into a buffer of 256 bytes. */
static bool take_name(const uint8_t *p, unsigned len, char name[256], GError **err)
{
    if (len < 1 || p[0] != len - 1 || memchr(p + 1, 0, len - 1)) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination named a block of memory in a way that makes no sense");
        return false;
    }
    memcpy(name, p + 1, len - 1);
    name[len - 1] = 0;
    return true;
}

static bool request(struct return_path *rp, const char *idstr, const uint8_t *p, GError **err)
{
    const struct return_path_ops *ops = ops_of(rp);
    uint64_t offset;
    uint32_t length;

    memcpy(&offset, p, 8);
    memcpy(&length, p + 8, 4);
    if (!ops) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination asked for pages of a guest that has not left");
        return false;
    }
    return ops->request(rp->opaque, idstr, GUINT64_FROM_BE(offset), GUINT32_FROM_BE(length), err);
}

static bool handle_request(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    (void)len;
    return request(rp, NULL, p, err);
}

static bool handle_request_id(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    char name[256];

    return take_name(p + 12, len - 12, name, err) && request(rp, name, p, err);
}

/* The name is followed, outside of the message's length, by be64 bytes, the bits, an end mark. */
static bool handle_bitmap(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    g_autofree uint8_t *bits = NULL;
    char name[256];
    uint64_t size, mark, most;

    if (!take_name(p, len, name, err)) {
        return false;
    }
    mutex_lock(&rp->lock);
    bool asked = rp->asked[RETURN_WAIT_BITMAP] && g_str_equal(rp->bitmap_of, name);
    most = (rp->bitmap_pages + 63) / 64 * 8;
    mutex_unlock(&rp->lock);
    if (!asked) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination sent a bitmap of '%s' that nothing asked for", name);
        return false;
    }
    if (!in_be64(rp->in, &size, err)) {
        return false;
    }
    if (size != most) {
        error_set(err, FERRY_ERROR_PEER,
                  "The destination sent a bitmap of %" PRIu64 " bytes for '%s', which has %" PRIu64,
                  size, name, most);
        return false;
    }
    bits = g_malloc(size);
    if (!in_bytes(rp->in, bits, size, err) || !in_be64(rp->in, &mark, err)) {
        return false;
    }
    if (mark != RETURN_BITMAP_END) {
        error_set(err, FERRY_ERROR_PEER, "The destination's bitmap of '%s' does not end", name);
        return false;
    }
    return ops_of(rp)->received(rp->opaque, name, bits, size, err) &&
           note(rp, RETURN_WAIT_BITMAP, "bitmap", err);
}

static bool handle_resume(struct return_path *rp, const uint8_t *p, unsigned len, GError **err)
{
    uint32_t value;

    (void)len;
    memcpy(&value, p, 4);
    if (GUINT32_FROM_BE(value) != RETURN_RESUME_OK) {
        error_set(err, FERRY_ERROR_PEER, "The destination cannot go on with the guest (%u)",
                  GUINT32_FROM_BE(value));
        return false;
    }
    return note(rp, RETURN_WAIT_RESUME, "confirmation that it goes on", err);
}

static const struct {
    unsigned type, min_length, max_length;
    bool (*handle)(struct return_path *rp, const uint8_t *payload, unsigned len, GError **err);
} messages[] = {
    { RETURN_SHUT, 4, 4, handle_shut },
    { RETURN_PONG, 4, 4, handle_pong },
    { RETURN_REQ_PAGES, 12, 12, handle_request },
    { RETURN_REQ_PAGES_ID, 13, 12 + 256, handle_request_id },
    { RETURN_RECV_BITMAP, 1, 256, handle_bitmap },
    { RETURN_RESUME_ACK, 4, 4, handle_resume },
    { RETURN_SWITCHOVER_ACK, 0, 0, NULL },
    { RETURN_FERRY_HELLO, 12, RETURN_MAX_PAYLOAD, handle_hello },
    { RETURN_FERRY_READY, 0, 0, handle_ready },
    { RETURN_FERRY_CHECK, 1, RETURN_MAX_PAYLOAD, handle_check },
    { RETURN_FERRY_ERROR, 0, RETURN_MAX_PAYLOAD, handle_error },
    { RETURN_FERRY_RUNS, 8, 8, handle_runs },
};

static bool read_message(struct return_path *rp, GError **err)
{
    uint8_t payload[RETURN_MAX_PAYLOAD];
    uint16_t type, len;

    if (!in_be16(rp->in, &type, err) || !in_be16(rp->in, &len, err)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(messages); i++) {
        if (messages[i].type != type) {
            continue;
        }
        if (len < messages[i].min_length || len > messages[i].max_length) {
            error_set(err, FERRY_ERROR_PEER,
                      "The destination sent a return-path message 0x%x of %u bytes", type, len);
            return false;
        }
        return in_bytes(rp->in, payload, len, err) &&
               (!messages[i].handle || messages[i].handle(rp, payload, len, err));
    }
    error_set(err, FERRY_ERROR_PEER,
              "The destination sent a return-path message 0x%x that nothing asked for", type);
    return false;
}

/*
 * Nothing more comes (error: for this reason, else the peer ended it between two messages). Unless
 * all has been said, the migration has failed, and a write that waits for room at a peer that will
 * not read again need not wait out its deadline.
 */
static void ended(struct return_path *rp, GError *error)
{
    g_autoptr(GError) why = NULL;
    uint8_t unused;
    bool shut_by_us = !error && !in_u8(rp->in, &unused, &why) &&
                      g_error_matches(why, FERRY_ERROR, FERRY_ERROR_CANCELLED);

    mutex_lock(&rp->lock);
    rp->closed = !error;
    rp->shut_by_us = shut_by_us;
    rp->error = error;
    bool done = rp->got[RETURN_WAIT_SHUT];
    const struct return_path_ops *ops = rp->ops;
    cond_broadcast(&rp->cond);
    mutex_unlock(&rp->lock);
    if (!done) {
        channel_shutdown(rp->ch);
    }
    if (ops) {
        ops->woken(rp->opaque);
    }
}

static gpointer reader(gpointer opaque)
{
    struct return_path *rp = opaque;
    GError *error = NULL;
    uint8_t unused;

    while (!error && in_peek(rp->in, 0, &unused)) {
        const struct return_path_ops *ops;

        if (read_message(rp, &error) && (ops = ops_of(rp))) {
            ops->woken(rp->opaque);
        }
    }
    ended(rp, error);
    return NULL;
}

struct return_path *return_path_new(struct channel *ch, GError **err)
{
    struct return_path *rp = g_new0(struct return_path, 1);

    rp->ch = channel_ref(ch);
    rp->runs_ns = UINT64_MAX;
    /* silence is normal here: each wait has its own deadline in return_path_wait() */
    channel_set_read_timeout(ch, 0);
    rp->in = in_new_channel(ch);
    mutex_init(&rp->lock);
    cond_init(&rp->cond);
    rp->thread = g_thread_try_new("mig/return", reader, rp, err);
    if (!rp->thread) {
        g_prefix_error(err, "Cannot start the thread of the return path: ");
        return_path_free(rp);
        return NULL;
    }
    return rp;
}

void return_path_free(struct return_path *rp)
{
    if (!rp) {
        return;
    }
    channel_shutdown(rp->ch);
    if (rp->thread) {
        g_thread_join(rp->thread);
    }
    in_free(rp->in);
    channel_unref(rp->ch);
    g_clear_error(&rp->error);
    g_clear_pointer(&rp->check, g_byte_array_unref);
    g_free(rp->bitmap_of);
    mutex_clear(&rp->lock);
    cond_clear(&rp->cond);
    g_free(rp);
}

void return_path_ask(struct return_path *rp, enum return_wait what)
{
    mutex_lock(&rp->lock);
    rp->asked[what] = true;
    mutex_unlock(&rp->lock);
}

void return_path_serve(struct return_path *rp, const struct return_path_ops *ops, void *opaque)
{
    mutex_lock(&rp->lock);
    rp->ops = ops;
    rp->opaque = opaque;
    mutex_unlock(&rp->lock);
}

void return_path_ask_bitmap(struct return_path *rp, const char *idstr, uint64_t pages)
{
    mutex_lock(&rp->lock);
    g_free(rp->bitmap_of);
    rp->bitmap_of = g_strdup(idstr);
    rp->bitmap_pages = pages;
    rp->asked[RETURN_WAIT_BITMAP] = true;
    rp->got[RETURN_WAIT_BITMAP] = false;
    mutex_unlock(&rp->lock);
}

bool return_path_has(struct return_path *rp, enum return_wait what)
{
    mutex_lock(&rp->lock);
    bool has = rp->got[what];
    mutex_unlock(&rp->lock);
    return has;
}

bool return_path_answered(struct return_path *rp, uint32_t value)
{
    bool waits = false;

    mutex_lock(&rp->lock);
    for (unsigned i = 0; i < rp->ping_count; i++) {
        waits = waits || rp->pings[i] == value;
    }
    mutex_unlock(&rp->lock);
    return !waits;
}

bool return_path_closed(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    bool closed = rp->closed && !rp->shut_by_us && !channel_lost(rp->ch);
    mutex_unlock(&rp->lock);
    return closed;
}

bool return_path_ask_pong(struct return_path *rp, uint32_t value)
{
    mutex_lock(&rp->lock);
    bool room = rp->ping_count < PINGS_MAX;

    if (room) {
        rp->pings[rp->ping_count++] = value;
        rp->asked[RETURN_WAIT_FERRY_PONG] |= value == FERRY_PING_MAGIC;
    }
    mutex_unlock(&rp->lock);
    return room;
}

/* Lock held. */
static bool check_locked(struct return_path *rp, GError **err)
{
    if (rp->error) {
        if (err) {
            *err = g_error_copy(rp->error);
        }
        return false;
    }
    if (rp->closed && !rp->got[RETURN_WAIT_SHUT]) {
        int lost = channel_lost(rp->ch);

        if (lost) {
            error_set_errno(err, FERRY_ERROR_LINK, lost, "The connection %s has been lost",
                            channel_name(rp->ch));
            return false;
        }
        error_set(err, FERRY_ERROR_PEER,
                  "The destination closed the connection %s: look at its log for the reason",
                  channel_name(rp->ch));
        return false;
    }
    return true;
}

bool return_path_check(struct return_path *rp, GError **err)
{
    mutex_lock(&rp->lock);
    bool ok = check_locked(rp, err);
    mutex_unlock(&rp->lock);
    return ok;
}

bool return_path_failure(struct return_path *rp, unsigned timeout_ms, GError **err)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    gint64 last = deadline + (gint64)READ_LONGEST_MS * 1000;

    mutex_lock(&rp->lock);
    while (!rp->error && !rp->closed) {
        if (cond_wait_until(&rp->cond, &rp->lock, deadline)) {
            continue;
        }
        /* what has arrived is read as soon as a busy host lets "mig/return" run */
        if (deadline >= last || !channel_wait_readable(rp->ch, 0)) {
            break;
        }
        deadline = MIN(last, g_get_monotonic_time() + READ_AGAIN_US);
    }
    bool said = rp->error && g_error_matches(rp->error, FERRY_ERROR, FERRY_ERROR_PEER);
    if (said) {
        *err = g_error_copy(rp->error);
    }
    mutex_unlock(&rp->lock);
    return said;
}

bool return_path_refused(struct return_path *rp, bool by_closing)
{
    mutex_lock(&rp->lock);
    /* a link that broke is no answer: the peer may run the guest */
    bool refused = rp->refused || (by_closing && rp->closed && !rp->shut_by_us &&
                                   !rp->got[RETURN_WAIT_SHUT] && !channel_lost(rp->ch));
    mutex_unlock(&rp->lock);
    return refused;
}

bool return_path_wait(struct return_path *rp, enum return_wait what, unsigned timeout_ms,
                      GError **err)
{
    static const char *const names[] = { "answer to the first ping",
                                         "answer to the check",
                                         "confirmation that the guest is loaded",
                                         "confirmation that the guest has begun to run",
                                         "bitmap of the memory that it has",
                                         "confirmation that it goes on",
                                         "confirmation that the guest runs" };
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool ok = true;

    mutex_lock(&rp->lock);
    while (!rp->got[what] && (ok = check_locked(rp, err))) {
        if (!cond_wait_until(&rp->cond, &rp->lock, deadline)) {
            ok = rp->got[what];
            if (!ok) {
                error_set(err, FERRY_ERROR_LINK, "The destination at %s gave no %s within %g s",
                          channel_name(rp->ch), names[what], timeout_ms / 1e3);
            }
            break;
        }
    }
    mutex_unlock(&rp->lock);
    return ok;
}

bool return_path_wait_pong(struct return_path *rp, uint32_t value, unsigned timeout_ms,
                           GError **err)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    bool ok = true;

    mutex_lock(&rp->lock);
    while (rp->pong != value && (ok = check_locked(rp, err))) {
        if (!cond_wait_until(&rp->cond, &rp->lock, deadline) && rp->pong != value) {
            ok = false;
            error_set(err, FERRY_ERROR_LINK, "The destination at %s has not read on for %g s",
                      channel_name(rp->ch), timeout_ms / 1e3);
            break;
        }
    }
    mutex_unlock(&rp->lock);
    return ok;
}

uint64_t return_path_features(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    uint64_t f = rp->features;
    mutex_unlock(&rp->lock);
    return f;
}

void return_path_expect_check(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    rp->asked[RETURN_WAIT_CHECK] = true;
    rp->check = g_byte_array_new();
    mutex_unlock(&rp->lock);
}

GByteArray *return_path_take_check(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    GByteArray *check = g_steal_pointer(&rp->check);
    mutex_unlock(&rp->lock);
    return check;
}

uint64_t return_path_runs_ns(struct return_path *rp)
{
    mutex_lock(&rp->lock);
    uint64_t ns = rp->runs_ns;
    mutex_unlock(&rp->lock);
    return ns;
}

bool return_path_send(struct channel *ch, unsigned type, const void *payload, size_t len,
                      GError **err)
{
    uint16_t header[2] = { GUINT16_TO_BE((uint16_t)type), GUINT16_TO_BE((uint16_t)len) };
    struct iovec iov[2] = { { .iov_base = header, .iov_len = sizeof(header) },
                            { .iov_base = (void *)(uintptr_t)payload, .iov_len = len } };

    return channel_writev_all(ch, iov, len ? 2 : 1, err);
}

bool return_path_send_be32(struct channel *ch, unsigned type, uint32_t value, GError **err)
{
    uint32_t be = GUINT32_TO_BE(value);

    return return_path_send(ch, type, &be, sizeof(be), err);
}
