/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The link of a post-copy at the destination. "mig/listen" reads what comes after the package on
 * the first link, and everything on a later one:
 *
 *   ram PART ..., ram END, EOF      memory; EOF is its end
 *   PING                            PONG
 *   GO                              the guest may run
 *   RECV_BITMAP, POSTCOPY_RESUME    the beginning of a link that takes up another
 *
 * Trust: none. What it reads places pages that are missing and nothing else; a peer that sends
 * anything else loses the link. Silence is bounded by link-timeout: a source that has nothing to
 * send says PING.
 */
#include "migration/postcopy/listen.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "migration/return-path.h"
#include "migration/postcopy/destination.h"
#include "migration/postcopy/urgent.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "system/vm.h"
#include "util/error.h"

/* A link on which requests cannot be written for so long is broken. */
#define SAY_TIMEOUT_MS 5000
/* How long a source may take to say that it has heard of the end. */
#define BYE_TIMEOUT_MS 2000
/* A link that takes up another begins with questions, at once: who is silent is not the source, and
 * must not keep it waiting. */
#define FIRST_WORD_MS 5000
/* Without an address to listen on: so often it is looked whether there is one by now. */
#define IDLE_LOOK_US 50000

static bool refuse(struct postcopy_in *p, GError **err, const char *what)
{
    error_set(err, FERRY_ERROR_PEER, "%s in post-copy, at offset %" PRIu64 " of the stream", what,
              in_offset(p->stream));
    return false;
}

/* --- commands --- */

static bool read_ping(struct postcopy_in *p, unsigned len, GError **err)
{
    uint32_t value;

    (void)len;
    if (!in_be32(p->stream, &value, err)) {
        return false;
    }
    value = GUINT32_TO_BE(value);
    return postcopy_say(p->l, RETURN_PONG, &value, sizeof(value), err);
}

static bool read_go(struct postcopy_in *p, unsigned len, GError **err)
{
    struct load *l = p->l;
    struct migration *m = l->in->m;
    uint64_t pause;

    (void)len;
    if (!in_be64(p->stream, &pause, err)) {
        return false;
    }
    if (!(l->features & FERRY_FEATURE_COMMIT)) {
        return refuse(p, err, "A go that was not agreed on");
    }
    mutex_lock(&m->lock);
    bool again = l->go, runs = p->runs;

    if (!again) {
        l->go = true;
        l->pause_ns = pause;
        l->go_at_ns = monotonic_ns();
    }
    cond_broadcast(&m->cond);
    mutex_unlock(&m->lock);
    return !runs || load_say_runs(p->l, err); /* the source has not heard it */
}

static bool read_bitmap_request(struct postcopy_in *p, unsigned len, GError **err)
{
    g_autofree uint8_t *bits = NULL;
    const struct ram_block *b;
    struct iovec iov[4];
    uint16_t header[2];
    uint64_t size, mark;
    uint8_t name_len;
    char name[256];
    size_t bytes;

    if (!in_pstr(p->stream, name, err)) {
        return false;
    }
    b = ram_block_find(p->l->vm->memory, name);
    if (len != 1 + strlen(name) || !b || !b->migratable) {
        return refuse(p, err, "A question for the bitmap of a block that is not there");
    }
    bits = arrival_received(p->arrival, b, &bytes);
    name_len = (uint8_t)strlen(name);
    header[0] = GUINT16_TO_BE(RETURN_RECV_BITMAP);
    header[1] = GUINT16_TO_BE((uint16_t)(1 + name_len));
    size = GUINT64_TO_BE((uint64_t)bytes);
    mark = GUINT64_TO_BE(RETURN_BITMAP_END);

    g_autoptr(GByteArray) head = g_byte_array_new();

    g_byte_array_append(head, (const uint8_t *)header, sizeof(header));
    g_byte_array_append(head, &name_len, 1);
    g_byte_array_append(head, (const uint8_t *)name, name_len);
    g_byte_array_append(head, (const uint8_t *)&size, sizeof(size));
    iov[0] = (struct iovec){ head->data, head->len };
    iov[1] = (struct iovec){ bits, bytes };
    iov[2] = (struct iovec){ &mark, sizeof(mark) };
    mutex_lock(&p->say_lock);
    bool ok = channel_writev_all(p->ch, iov, 3, err);
    mutex_unlock(&p->say_lock);
    return ok;
}

static bool read_resume(struct postcopy_in *p, unsigned len, GError **err)
{
    uint32_t ok = GUINT32_TO_BE(RETURN_RESUME_OK);
    struct load *l = p->l;

    (void)len;
    vm_lock(l->vm);
    bool expected = l->in->m->status == MIGRATION_STATUS_POSTCOPY_RECOVER || p->untold;

    if (expected && !p->untold) {
        g_clear_pointer(&l->in->error, g_free);
        migration_set_status(l->in->m, MIGRATION_STATUS_POSTCOPY_ACTIVE);
    }
    vm_unlock(l->vm);
    if (!expected) {
        return refuse(p, err, "A resume that nothing waits for");
    }
    load_phase(l, MIGRATION_PHASE_POSTCOPY);
    if (!postcopy_say(l, RETURN_RESUME_ACK, &ok, sizeof(ok), err)) {
        return false;
    }
    channel_set_read_timeout(p->ch, migration_timeout(l->in->m, link_timeout));
    mutex_lock(&p->say_lock);
    p->asking = true;
    mutex_unlock(&p->say_lock);
    arrival_ask_again(p->arrival);
    return true;
}

static const struct {
    unsigned command, min_length, max_length;
    bool (*handle)(struct postcopy_in *p, unsigned len, GError **err);
} commands[] = {
    { STREAM_CMD_PING, 4, 4, read_ping },
    { STREAM_CMD_FERRY_GO, 8, 8, read_go },
    { STREAM_CMD_RECV_BITMAP, 1, 256, read_bitmap_request },
    { STREAM_CMD_POSTCOPY_RESUME, 0, 0, read_resume },
};

static bool read_command(struct postcopy_in *p, GError **err)
{
    uint16_t command, len;

    if (!in_be16(p->stream, &command, err) || !in_be16(p->stream, &len, err)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].command == command && len >= commands[i].min_length &&
            len <= commands[i].max_length) {
            return commands[i].handle(p, len, err);
        }
    }
    return refuse(p, err, "A command that does not belong there");
}

/* --- the stream --- */

static bool read_memory(struct postcopy_in *p, bool last, GError **err)
{
    struct load *l = p->l;
    uint32_t id, footer;
    uint8_t type;

    if (!in_be32(p->stream, &id, err)) {
        return false;
    }
    if (id != l->ram_id || l->ram_ended) {
        return refuse(p, err, "A section that is not the memory's, or after its end");
    }
    l->ram_ended = last;
    if (!arrival_read_section(p->reader, p->stream, err) || !in_u8(p->stream, &type, err)) {
        return false;
    }
    if (type != STREAM_FOOTER) {
        return refuse(p, err, "A section of memory without its footer");
    }
    if (!in_be32(p->stream, &footer, err)) {
        return false;
    }
    return footer == id || refuse(p, err, "A footer of another section");
}

/* What was sent on a connection for urgent pages may still be on its way. */
static uint64_t missing_in_the_end(struct postcopy_in *p)
{
    int64_t deadline =
        g_get_monotonic_time() + (int64_t)migration_timeout(p->l->in->m, link_timeout) * 1000;
    uint64_t missing;

    while ((missing = arrival_missing_pages(p->arrival)) && p->l->in->urgent &&
           urgent_is_open(p->l->in->urgent) && g_get_monotonic_time() < deadline &&
           !atomic_load(&p->l->in->cancelled)) {
        g_usleep(1000);
    }
    return missing;
}

static bool read_end(struct postcopy_in *p, GError **err)
{
    uint64_t missing = missing_in_the_end(p);

    if (missing) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source ends the stream, and %" PRIu64 " pages of memory have not come",
                  missing);
        return false;
    }
    return true;
}

/* True: all memory has come. */
static bool read_link(struct postcopy_in *p, GError **err)
{
    for (;;) {
        uint8_t type;
        bool ok;

        if (!in_u8(p->stream, &type, err)) {
            return false;
        }
        switch (type) {
        case STREAM_EOF:
            return read_end(p, err);
        case STREAM_SECTION_PART:
        case STREAM_SECTION_END:
            ok = read_memory(p, type == STREAM_SECTION_END, err);
            break;
        case STREAM_COMMAND:
            ok = read_command(p, err);
            break;
        default:
            ok = refuse(p, err, "An unknown record");
            break;
        }
        if (!ok) {
            return false;
        }
    }
}

GError *listen_real_reason(struct postcopy_in *p, GError *error)
{
    if (!p->unsent || !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        return error;
    }
    g_error_free(error);
    return g_error_copy(p->unsent);
}

static gpointer listen_thread(gpointer opaque)
{
    struct postcopy_in *p = opaque;
    struct migration *m = p->l->in->m;
    GError *error = NULL;
    bool all = read_link(p, &error);

    mutex_lock(&p->say_lock);
    p->why = listen_real_reason(p, error);
    mutex_unlock(&p->say_lock);
    mutex_lock(&m->lock);
    p->link = all;
    bool never = !all && !p->l->go && !p->run;
    cond_broadcast(&m->cond);
    mutex_unlock(&m->lock);
    if (never) {
        /* the guest stays with the source: a device that is being loaded, and may wait for a page
         * with the machine lock held, waits no longer */
        arrival_stop(p->arrival);
    }
    return NULL;
}

/* --- links --- */

/* Until when it listens by itself. */
static int64_t give_up_us(struct migration *m, int64_t paused_us)
{
    unsigned ms = migration_timeout(m, reconnect_timeout);

    return ms ? paused_us + (int64_t)ms * 1000 : INT64_MAX;
}

bool listen_start(struct postcopy_in *p, struct channel *ch, struct stream_in *stream, GError **err)
{
    struct incoming *in = p->l->in;

    p->new_ch = NULL;
    p->own_stream = !stream;
    p->stream = stream ? stream : in_new_channel(ch);
    p->l->ram_ended = false;
    if (p->own_stream) {
        arrival_reader_set_block(p->reader, NULL); /* a new link names its blocks anew */
    }
    channel_set_read_timeout(ch, stream ? migration_timeout(in->m, link_timeout) : FIRST_WORD_MS);
    channel_set_write_timeout(ch, SAY_TIMEOUT_MS);
    mutex_lock(&p->say_lock);
    p->ch = channel_ref(ch);
    p->named = NULL;
    g_clear_error(&p->unsent);
    p->asking = stream; /* on a later link not before its RESUME_ACK */
    mutex_unlock(&p->say_lock);
    if (p->own_stream) {
        channel_unref(ch); /* that of new_ch */
    }
    mutex_lock(&in->m->lock);
    in->ch = ch;
    p->link = true;
    if (atomic_load(&in->cancelled)) {
        channel_shutdown(ch);
    }
    mutex_unlock(&in->m->lock);
    if (in->urgent) {
        urgent_listen(in->urgent, p->arrival);
    }
    p->thread = g_thread_try_new("mig/listen", listen_thread, p, err);
    if (!p->thread) {
        g_prefix_error(err, "Cannot start the thread that reads the guest's memory: ");
        listen_stop(p);
        return false;
    }
    return true;
}

static void close_urgent(struct postcopy_in *p)
{
    urgent_free(p->l->in->urgent);
    p->l->in->urgent = NULL;
}

/* After the thread: nobody writes or reads on this link any more. */
void listen_close(struct postcopy_in *p)
{
    struct incoming *in = p->l->in;

    mutex_lock(&in->m->lock);
    if (p->own_stream) {
        in->ch = NULL; /* the first one is forgotten by who has accepted it */
    }
    p->link = false;
    mutex_unlock(&in->m->lock);
    mutex_lock(&p->say_lock);
    struct channel *ch = p->ch;

    p->ch = NULL;
    mutex_unlock(&p->say_lock);
    if (ch) {
        channel_shutdown(ch);
        channel_unref(ch);
    }
    if (p->own_stream) {
        in_free(p->stream);
        p->stream = NULL;
        p->own_stream = false;
    }
}

bool listen_join(struct postcopy_in *p, GError **err)
{
    g_thread_join(p->thread);
    p->thread = NULL;
    close_urgent(p);
    if (!p->why) {
        return true; /* the link stays, for the last word */
    }
    g_propagate_error(err, g_steal_pointer(&p->why));
    listen_close(p);
    return false;
}

bool listen_bye(struct postcopy_in *p)
{
    uint16_t command, len;
    uint8_t type;

    if (!(p->l->features & FERRY_FEATURE_BYE)) {
        return true; /* nobody will say */
    }
    return in_wait(p->stream, BYE_TIMEOUT_MS) && in_u8(p->stream, &type, NULL) &&
           in_be16(p->stream, &command, NULL) && in_be16(p->stream, &len, NULL) &&
           type == STREAM_COMMAND && command == STREAM_CMD_FERRY_BYE && !len;
}

void listen_stop(struct postcopy_in *p)
{
    mutex_lock(&p->say_lock);
    if (p->ch) {
        channel_shutdown(p->ch);
    }
    mutex_unlock(&p->say_lock);
    if (p->thread) {
        g_thread_join(p->thread);
        p->thread = NULL;
        g_clear_error(&p->why);
        close_urgent(p);
    }
    if (p->ch) {
        listen_close(p);
    }
    arrival_reader_free(p->reader);
    p->reader = NULL;
}

/* Listens at reconnect-listen, if that is wanted and nobody has said where else. */
static void listen_by_itself(struct postcopy_in *p, int64_t paused_us, char **complaint)
{
    struct incoming *in = p->l->in;
    g_autoptr(transport_address) addr = migration_reconnect_listen(in->m);
    g_autoptr(GError) error = NULL;
    struct listener *listener;

    if (!addr || g_get_monotonic_time() >= give_up_us(in->m, paused_us)) {
        return;
    }
    listener = transport_listen(addr, -1, &error);
    vm_lock(in->vm);
    if (listener && !in->listener) {
        in->listener = g_steal_pointer(&listener);
        p->listens_by_itself = true;
    }
    vm_unlock(in->vm);
    listener_free(listener);
    if (error && g_strcmp0(*complaint, error->message)) {
        report_warning("%s", error->message); /* once, not at each try */
        g_free(*complaint);
        *complaint = g_strdup(error->message);
    }
}

/* Milliseconds that are left for the listener, 0 without limit; at the end it is closed. */
static bool still_listens(struct postcopy_in *p, int64_t paused_us, unsigned *left_ms)
{
    struct incoming *in = p->l->in;
    int64_t until = give_up_us(in->m, paused_us), now = g_get_monotonic_time();

    *left_ms = 0;
    if (!p->listens_by_itself || until == INT64_MAX) {
        return true;
    }
    if (now >= until) {
        vm_lock(in->vm);
        g_clear_pointer(&in->listener, listener_free);
        vm_unlock(in->vm);
        p->listens_by_itself = false;
        return false;
    }
    *left_ms = (unsigned)MIN((until - now) / 1000 + 1, 1000);
    return true;
}

bool listen_accept(struct postcopy_in *p, GError **err)
{
    struct incoming *in = p->l->in;
    int64_t paused_us = g_get_monotonic_time();
    g_autofree char *complaint = NULL;

    p->listens_by_itself = false;
    for (;;) {
        GError *error = NULL;
        struct listener *listener;
        uint64_t unused;
        unsigned left_ms;

        vm_lock(in->vm);
        listener = in->listener;
        vm_unlock(in->vm);
        if (atomic_load(&in->cancelled)) {
            error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
            return false;
        }
        if (!listener) {
            listen_by_itself(p, paused_us, &complaint);
            vm_lock(in->vm);
            listener = in->listener;
            vm_unlock(in->vm);
        }
        if (!listener || !still_listens(p, paused_us, &left_ms)) {
            mutex_lock(&in->m->lock);
            if (!atomic_load(&in->cancelled)) {
                cond_wait_until(&in->m->cond, &in->m->lock, g_get_monotonic_time() + IDLE_LOOK_US);
            }
            mutex_unlock(&in->m->lock);
            continue;
        }
        p->new_ch = transport_accept(listener, in->wake_fd, left_ms, &error);
        if (p->new_ch) {
            /* first: paused and without a listener would invite another migrate-recover */
            vm_lock(in->vm);
            if (in->m->status == MIGRATION_STATUS_POSTCOPY_PAUSED) {
                migration_set_status(in->m, MIGRATION_STATUS_POSTCOPY_RECOVER);
            }
            vm_unlock(in->vm);
            incoming_take_listener(in);
            return true;
        }
        if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
            if (read(in->wake_fd, &unused, sizeof(unused)) < 0) {
                /* somebody was faster: nothing to take */
            }
        } else if (!left_ms) {
            report_warning("%s", error->message);
        }
        g_error_free(error);
    }
}

bool listen_request(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length)
{
    struct postcopy_in *p = opaque;
    uint8_t payload[12 + 256];
    uint64_t start = GUINT64_TO_BE(offset);
    uint32_t bytes = GUINT32_TO_BE((uint32_t)length);
    size_t name_len = strlen(b->idstr), len = 12;
    g_autoptr(GError) error = NULL;
    bool ok = false;

    memcpy(payload, &start, 8);
    memcpy(payload + 8, &bytes, 4);
    mutex_lock(&p->say_lock);
    if (p->ch && p->asking) {
        bool named = p->named == b;

        if (!named) {
            payload[12] = (uint8_t)name_len;
            memcpy(payload + 13, b->idstr, name_len);
            len += 1 + name_len;
        }
        ok = return_path_send(p->ch, named ? RETURN_REQ_PAGES : RETURN_REQ_PAGES_ID, payload, len,
                              &error);
        p->named = b;
        if (!ok) {
            if (!p->unsent && !g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
                p->unsent = g_steal_pointer(&error);
            }
            channel_shutdown(p->ch); /* who reads it sees to the rest */
        }
    }
    mutex_unlock(&p->say_lock);
    return ok;
}
