/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trust: none. A connection costs a descriptor and, from LISTEN on, a thread; URGENT_MAX bounds
 * them. What it sends can place pages that are missing and nothing else (arrival.h); anything else
 * ends it. That alone is no failure of the migration: the main link decides that.
 */
#include "migration/postcopy/urgent.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migration/postcopy/arrival.h"
#include "migration/stream/in.h"
#include "util/error.h"
#include "util/sync.h"

#define URGENT_MAX 4u

struct urgent_reader {
    struct urgent *u;
    struct channel *ch;
    GThread *thread; /* NULL until LISTEN */
    bool ended;      /* u.lock */
};

struct urgent {
    struct listener *listener;
    int stop_fd;
    GThread *accepter;
    atomic_bool stopping;
    struct mutex lock; /* a leaf */
    GPtrArray *readers;
    bool complained;         /* lock; of one connection too many */
    struct arrival *arrival; /* NULL until LISTEN */
};

static gpointer reader_thread(gpointer opaque)
{
    struct urgent_reader *r = opaque;
    struct urgent *u = r->u;
    struct arrival_reader *reader = arrival_reader_new(u->arrival);
    struct stream_in *in = in_new_channel(r->ch);
    g_autoptr(GError) error = NULL;
    bool ended = false;

    arrival_thread_urgent();
    while (!ended && arrival_read_bare(reader, in, &ended, &error)) {
    }
    if (!ended && !atomic_load(&u->stopping)) {
        report_warning("The connection %s for urgent pages ended: %s", channel_name(r->ch),
                       error->message);
    }
    in_free(in);
    arrival_reader_free(reader);
    mutex_lock(&u->lock);
    r->ended = true;
    mutex_unlock(&u->lock);
    return NULL;
}

/* Lock held. */
static void start_reader(struct urgent_reader *r)
{
    g_autoptr(GError) error = NULL;

    r->thread = g_thread_try_new("mig/urgent", reader_thread, r, &error);
    if (!r->thread) {
        r->ended = true;
        channel_shutdown(r->ch);
        report_warning("Urgent pages cannot be read from %s: %s", channel_name(r->ch),
                       error->message);
    }
}

/* Those whose connection is over make room for others. Lock held. */
static void forget_ended(struct urgent *u)
{
    for (unsigned i = u->readers->len; i-- > 0;) {
        struct urgent_reader *r = g_ptr_array_index(u->readers, i);

        if (r->ended) {
            if (r->thread) {
                g_thread_join(r->thread); /* it has let go of the lock for the last time */
            }
            channel_unref(r->ch);
            g_ptr_array_remove_index(u->readers, i);
        }
    }
}

void urgent_add(struct urgent *u, struct channel *ch)
{
    struct urgent_reader *r;

    channel_set_read_timeout(ch, 0); /* nothing comes as long as nothing is asked for */
    mutex_lock(&u->lock);
    forget_ended(u);
    if (u->readers->len >= URGENT_MAX) {
        bool first = !u->complained;

        u->complained = true;
        mutex_unlock(&u->lock);
        if (first) { /* who connects without end must not fill the log */
            report_warning("A connection to %s is one too many for urgent pages", channel_name(ch));
        }
        return;
    }
    r = g_new0(struct urgent_reader, 1);
    r->u = u;
    r->ch = channel_ref(ch);
    g_ptr_array_add(u->readers, r);
    if (u->arrival) {
        start_reader(r);
    }
    mutex_unlock(&u->lock);
}

void urgent_listen(struct urgent *u, struct arrival *a)
{
    mutex_lock(&u->lock);
    u->arrival = a;
    for (unsigned i = 0; i < u->readers->len; i++) {
        start_reader(g_ptr_array_index(u->readers, i));
    }
    mutex_unlock(&u->lock);
}

bool urgent_is_open(struct urgent *u)
{
    bool open = false;

    mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->readers->len; i++) {
        struct urgent_reader *r = g_ptr_array_index(u->readers, i);

        open = open || !r->ended;
    }
    mutex_unlock(&u->lock);
    return open;
}

static gpointer accept_thread(gpointer opaque)
{
    struct urgent *u = opaque;

    while (!atomic_load(&u->stopping)) {
        g_autoptr(GError) error = NULL;
        struct channel *ch = transport_accept(u->listener, u->stop_fd, 0, &error);

        if (ch) {
            urgent_add(u, ch);
            channel_unref(ch);
        } else if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_LINK) &&
                   !atomic_load(&u->stopping)) {
            report_warning("No further connection for urgent pages can be taken: %s",
                           error->message);
            break;
        }
    }
    return NULL;
}

struct urgent *urgent_new(struct listener *listener, GError **err)
{
    struct urgent *u = g_new0(struct urgent, 1);

    u->readers = g_ptr_array_new_with_free_func(g_free);
    mutex_init(&u->lock);
    u->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->stop_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot create an eventfd for post-copy");
        urgent_free(u);
        return NULL;
    }
    u->listener = listener;
    u->accepter = g_thread_try_new("mig/accept", accept_thread, u, err);
    if (!u->accepter) {
        u->listener = NULL;
        urgent_free(u);
        return NULL;
    }
    return u;
}

void urgent_free(struct urgent *u)
{
    uint64_t one = 1;

    if (!u) {
        return;
    }
    atomic_store(&u->stopping, true);
    if (u->accepter) {
        if (write(u->stop_fd, &one, sizeof(one)) < 0) {
            report_warning("Cannot signal a thread of post-copy: %s", g_strerror(errno));
        }
        g_thread_join(u->accepter);
    }
    for (unsigned i = 0; i < u->readers->len; i++) {
        struct urgent_reader *r = g_ptr_array_index(u->readers, i);

        channel_shutdown(r->ch);
        if (r->thread) {
            g_thread_join(r->thread);
        }
        channel_unref(r->ch);
    }
    g_ptr_array_unref(u->readers);
    listener_free(u->listener);
    if (u->stop_fd >= 0) {
        close(u->stop_fd);
    }
    mutex_clear(&u->lock);
    g_free(u);
}
