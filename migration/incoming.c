/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may bring the guest. The main loop begins to listen; thread "mig/incoming" accepts, and each
 * connection is greeted (greeting.c) on a thread of its own, "mig/greet", so that any number of
 * checks and a peer that stalls leave the way free:
 *
 *   mig/incoming:  accept -> start a greeting -> ... -> one of them turns out to be a guest
 *                  -> stop listening, end the other greetings -> load_guest()
 *
 * The first connection that goes beyond its greeting has the destination; the listening socket is
 * closed behind it, so that a second source is turned away instead of sending its guest to nobody.
 * Until then nothing on this side has changed. What is not a socket to listen on (a file, a
 * command, one connected descriptor) is greeted on "mig/incoming" itself.
 *
 * Failure: a connection that only checked, or from which nothing ever came, is forgotten. One that
 * began as a migration and broke, or made no sense, ends the destination, as a failed load does:
 * its manager waits for that. A host that has no descriptor or memory left for a connection is
 * waited for.
 *
 * Deadlines: a greeting as a whole has begin-timeout, one that only checks CHECK_TIMEOUT_MS,
 * so dripping bytes do not help; with GREETINGS_MAX of them the oldest is ended.
 *
 * Trust: none. Who connects costs a thread and a few KiB until a deadline; how many there are is
 * bounded.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migration/destination.h"
#include "migration/postcopy/destination.h"
#include "migration/postcopy/urgent.h"
#include "migration/ram/load.h"
#include "migration/stream/in.h"
#include "qapi/qapi-events.h"
#include "system/vm-init.h"
#include "util/error.h"

#define CHECK_TIMEOUT_MS   10000
#define COLLECT_TIMEOUT_MS 10000 /* for threads that only have to be let run */
#define GREETINGS_MAX      16
#define ACCEPT_RETRY_MS    200

struct greeter {
    struct load *l;
    GThread *thread;
    int64_t began_us;
    bool ended_by_us; /* too slow, or one too many */
    atomic_bool done; /* all below is set */
    enum greeting outcome;
    GError *error;
};

static void greeter_free(gpointer opaque)
{
    struct greeter *g = opaque;

    g_clear_error(&g->error);
    load_free(g->l);
    g_free(g);
}

static void wake(struct incoming *in)
{
    uint64_t one = 1;

    if (write(in->wake_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the incoming migration: %s", g_strerror(errno));
    }
}

/* --- greetings --- */

static gpointer greeter_thread(gpointer opaque)
{
    struct greeter *g = opaque;
    struct incoming *in = g->l->in;

    g->outcome = load_greet(g->l, &g->error);
    if (g->outcome == GREETING_FAILED && atomic_load(&g->l->seen_check)) {
        load_send_failure(g->l, g->error);
    }
    atomic_store(&g->done, true); /* g may be gone from here on */
    wake(in);
    return NULL;
}

/* Makes a greeting end at once. Who calls holds m, or is "mig/incoming", which owns the list. */
static void greeter_stop(struct greeter *g)
{
    atomic_store(&g->l->cancelled, true);
    channel_shutdown(g->l->ch);
    cond_broadcast(&g->l->in->m->cond); /* it may be held */
}

static void greeter_start(struct incoming *in, struct channel *ch)
{
    struct migration *m = in->m;
    struct greeter *g = g_new0(struct greeter, 1);
    GError *error = NULL;

    channel_set_timeout(ch, migration_timeout(m, begin_timeout));
    g->l = load_new(in, ch);
    g->began_us = g_get_monotonic_time();
    mutex_lock(&m->lock);
    g_ptr_array_add(in->greeters, g);
    if (atomic_load(&in->cancelled)) {
        greeter_stop(g); /* incoming_free() has not seen it */
    }
    mutex_unlock(&m->lock);
    g->thread = g_thread_try_new("mig/greet", greeter_thread, g, &error);
    if (!g->thread) {
        report_warning("A connection to %s cannot be greeted: %s", channel_name(ch),
                       error->message);
        g_error_free(error);
        mutex_lock(&m->lock);
        g_ptr_array_remove(in->greeters, g);
        mutex_unlock(&m->lock);
    }
}

static void greeter_forget(struct incoming *in, struct greeter *g)
{
    g_thread_join(g->thread);
    mutex_lock(&in->m->lock);
    g_ptr_array_remove(in->greeters, g);
    mutex_unlock(&in->m->lock);
}

/* Whether the end of a greeting that failed is the end of the migration that it began. */
static bool was_a_migration(const struct greeter *g)
{
    return !g->ended_by_us && !atomic_load(&g->l->seen_check) && in_offset(g->l->s) > 0;
}

/*
 * Forgets greetings that came to nothing; the one that brings the guest, or that began to and
 * failed, is returned and stays in the list.
 */
static struct greeter *reap(struct incoming *in)
{
    for (unsigned i = 0; i < in->greeters->len;) {
        struct greeter *g = g_ptr_array_index(in->greeters, i);

        if (!atomic_load(&g->done)) {
            i++;
            continue;
        }
        if (g->outcome == GREETING_GUEST || (g->outcome == GREETING_FAILED && was_a_migration(g))) {
            return g;
        }
        if (g->outcome == GREETING_FAILED && !atomic_load(&in->cancelled)) {
            report_warning("A connection to %s came to nothing: %s", channel_name(g->l->ch),
                           g->ended_by_us ? "it took too long" : g->error->message);
        }
        greeter_forget(in, g);
    }
    return NULL;
}

/* Ends greetings that take too long; milliseconds until the next one does, 0: none is there. */
static unsigned enforce_deadlines(struct incoming *in)
{
    int64_t now = g_get_monotonic_time(), next = INT64_MAX;

    for (unsigned i = 0; i < in->greeters->len; i++) {
        struct greeter *g = g_ptr_array_index(in->greeters, i);
        /* which of the two it is is only known from its first bytes: looked at twice */
        int64_t early = g->began_us + (int64_t)CHECK_TIMEOUT_MS * 1000;
        int64_t late = g->began_us + (int64_t)migration_timeout(in->m, begin_timeout) * 1000;
        bool check = atomic_load(&g->l->seen_check);
        int64_t deadline = now < early ? MIN(early, late) : late;

        if (g->ended_by_us) {
            continue;
        }
        if (now >= late || (check && now >= early)) {
            g->ended_by_us = true;
            greeter_stop(g);
        } else {
            next = MIN(next, deadline);
        }
    }
    return next == INT64_MAX ? 0 : (unsigned)((next - now) / 1000 + 1);
}

static void make_room(struct incoming *in)
{
    struct greeter *g;

    if (in->greeters->len >= GREETINGS_MAX) {
        g = g_ptr_array_index(in->greeters, 0);
        if (atomic_load(&g->done)) {
            return; /* it may be the one that brings the guest: reap() looks at it next */
        }
        g->ended_by_us = true;
        greeter_stop(g);
        g_thread_join(g->thread);
        mutex_lock(&in->m->lock);
        g_ptr_array_remove_index(in->greeters, 0);
        mutex_unlock(&in->m->lock);
    }
}

/* The host has no descriptor or no memory left for a connection. It may have one later, and whoever
 * connects waits in the socket's queue until then. Warns once. */
static void wait_for_the_host(struct incoming *in, const GError *error, bool *warned)
{
    struct pollfd pfd = { .fd = in->wake_fd, .events = POLLIN };

    if (!*warned) {
        *warned = true;
        report_warning("%s: the destination goes on trying", error->message);
    }
    poll(&pfd, 1, ACCEPT_RETRY_MS);
}

/* The one whose guest it is, NULL and *err (CANCELLED when the process ends). */
static struct greeter *wait_for_guest(struct incoming *in, GError **err)
{
    bool warned = false;

    for (;;) {
        struct greeter *g = reap(in);
        GError *error = NULL;
        struct channel *ch;
        uint64_t unused;

        if (g) {
            return g;
        }
        ch = transport_accept(in->listener, in->wake_fd, enforce_deadlines(in), &error);
        if (ch) {
            make_room(in);
            greeter_start(in, ch);
            channel_unref(ch);
        } else if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
            if (atomic_load(&in->cancelled)) {
                g_propagate_error(err, error);
                return NULL;
            }
            if (read(in->wake_fd, &unused, sizeof(unused)) < 0) {
                /* somebody was faster: nothing to take */
            }
        } else if (!g_error_matches(error, FERRY_ERROR, FERRY_ERROR_LINK)) {
            wait_for_the_host(in, error, &warned);
        }
        g_clear_error(&error);
    }
}

/*
 * Connections that have said nothing may be the second one of the guest's source, see urgent.h: one
 * that is lost here ends the migration when the first page is sent on it. Their threads find out by
 * themselves that a guest has come, however long a busy host takes to let them run; one that has
 * said something is not waited for.
 */
static void collect_silent(struct incoming *in)
{
    int64_t deadline = g_get_monotonic_time() + (int64_t)COLLECT_TIMEOUT_MS * 1000;

    atomic_store(&in->taken, true);
    for (unsigned i = 0; i < in->greeters->len;) {
        struct greeter *g = g_ptr_array_index(in->greeters, i);

        while (!atomic_load(&g->done) && !atomic_load(&g->l->spoken) &&
               !atomic_load(&in->cancelled) && g_get_monotonic_time() < deadline) {
            g_usleep(1000);
        }
        if (!atomic_load(&g->done) || g->outcome != GREETING_SILENT) {
            i++;
            continue;
        }
        urgent_add(in->urgent, g->l->ch);
        greeter_forget(in, g);
    }
}

/* Those that are still there: another one has the destination, or nobody will. */
static void end_greetings(struct incoming *in)
{
    g_autoptr(GError) taken = NULL;

    error_set(&taken, FERRY_ERROR_PEER, "Another source brings its guest here");
    mutex_lock(&in->m->lock);
    for (unsigned i = 0; i < in->greeters->len; i++) {
        struct greeter *g = g_ptr_array_index(in->greeters, i);

        if (!atomic_load(&g->done)) {
            greeter_stop(g);
        }
    }
    cond_broadcast(&in->m->cond);
    mutex_unlock(&in->m->lock);
    for (unsigned i = 0; i < in->greeters->len; i++) {
        struct greeter *g = g_ptr_array_index(in->greeters, i);

        if (atomic_load(&g->done)) {
            load_send_failure(g->l, taken);
        }
    }
    while (in->greeters->len) {
        greeter_forget(in, g_ptr_array_index(in->greeters, 0));
    }
}

/* --- the thread --- */

static void exit_later(void *opaque)
{
    vm_exit(opaque, 1);
}

static void fail(struct incoming *in, const GError *error)
{
    vm_lock(in->vm);
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED) &&
        (atomic_load(&in->cancelled) || in->vm->exiting)) {
        vm_unlock(in->vm);
        return; /* the process ends: nobody asks */
    }
    report_error("load of migration failed: %s", error->message);
    in->error = g_strdup(error->message);
    if (in->m->status == MIGRATION_STATUS_SETUP || in->m->status == MIGRATION_STATUS_ACTIVE ||
        in->m->status == MIGRATION_STATUS_POSTCOPY_ACTIVE) {
        migration_set_status(in->m, MIGRATION_STATUS_FAILED);
    }
    if (in->exit_on_error) {
        vm_run_in_main_loop(in->vm, exit_later, in->vm);
    }
    vm_unlock(in->vm);
}

static bool is_listening(struct incoming *in)
{
    const struct transport_address *const *unused;

    return transport_listener_addresses(in->listener, &unused) > 0;
}

static void stop_listening(struct incoming *in)
{
    vm_lock(in->vm); /* query-migrate shows the addresses */
    listener_free(in->listener);
    in->listener = NULL;
    vm_unlock(in->vm);
}

void incoming_take_listener(struct incoming *in)
{
    struct migration_options now;
    g_autoptr(GError) error = NULL;

    migration_options_get(in->m, &now);
    if (now.caps[MIGRATION_CAPABILITY_POSTCOPY_PREEMPT] && is_listening(in)) {
        in->urgent = urgent_new(in->listener, &error);
        if (in->urgent) {
            vm_lock(in->vm);
            in->listener = NULL;
            vm_unlock(in->vm);
            return;
        }
        report_warning("Pages come on one connection: %s", error->message);
    }
    stop_listening(in);
}

/* From here on incoming_free() ends this connection. */
static void set_channel(struct incoming *in, struct channel *ch)
{
    mutex_lock(&in->m->lock);
    in->ch = ch;
    if (ch && atomic_load(&in->cancelled)) {
        channel_shutdown(ch); /* incoming_free() has not seen it */
    }
    mutex_unlock(&in->m->lock);
}

static bool greet_and_load(struct load *l, GError **err)
{
    GError *error = NULL;

    switch (load_greet(l, &error)) {
    case GREETING_GUEST:
        return load_guest(l, err);
    case GREETING_CHECKED:
        error_set(err, FERRY_ERROR_LINK,
                  "The connection %s over which the guest was to come was used up by a check: give "
                  "the destination a socket to listen on",
                  channel_name(l->ch));
        return false;
    default:
        load_name_place(l, error);
        load_send_failure(l, error);
        g_propagate_error(err, error);
        return false;
    }
}

/* The one connection there is. */
static bool take_only_connection(struct incoming *in, GError **err)
{
    struct channel *ch = transport_accept(in->listener, in->wake_fd, 0, err);
    bool ok;

    if (!ch) {
        return false;
    }
    set_channel(in, ch);
    stop_listening(in);
    channel_set_read_timeout(ch, 0); /* a command or a file may take its time to begin */
    ok = incoming_load(in, ch, err);
    set_channel(in, NULL);
    channel_unref(ch);
    return ok;
}

static bool take_first_guest(struct incoming *in, GError **err)
{
    struct greeter *g = wait_for_guest(in, err);
    unsigned at;
    bool ok = false;

    if (g) {
        mutex_lock(&in->m->lock);
        in->ch = g->l->ch;
        g_ptr_array_find(in->greeters, g, &at);
        g_ptr_array_steal_index(in->greeters, at);
        if (atomic_load(&in->cancelled)) {
            channel_shutdown(g->l->ch);
        }
        mutex_unlock(&in->m->lock);
        g_thread_join(g->thread);
        incoming_take_listener(in);
        if (in->urgent) {
            collect_silent(in);
        }
    }
    end_greetings(in);
    if (!g) {
        return false;
    }
    if (g->outcome == GREETING_GUEST) {
        ok = load_guest(g->l, err);
    } else {
        load_name_place(g->l, g->error);
        load_send_failure(g->l, g->error);
        g_propagate_error(err, g_steal_pointer(&g->error));
    }
    set_channel(in, NULL);
    greeter_free(g);
    return ok;
}

static void prepare_memory(struct incoming *in)
{
    in->ram = ram_load_new(in->vm, in->m->premap);
    mutex_init(&in->ram_lock);
    ram_load_zero(in->ram);
}

static void release_memory(struct incoming *in)
{
    ram_load_free(in->ram);
    mutex_clear(&in->ram_lock);
}

bool incoming_load(struct incoming *in, struct channel *ch, GError **err)
{
    bool prepared = in->ram != NULL;
    struct load *l;
    bool ok;

    if (!prepared) {
        prepare_memory(in);
    }
    l = load_new(in, ch);
    ok = greet_and_load(l, err);
    load_free(l);
    if (!prepared) {
        release_memory(in);
        in->ram = NULL;
    }
    return ok;
}

static gpointer incoming_thread(gpointer opaque)
{
    struct incoming *in = opaque;
    GError *error = NULL;

    prepare_memory(in);
    if (!(is_listening(in) ? take_first_guest(in, &error) : take_only_connection(in, &error))) {
        fail(in, error);
        g_clear_error(&error);
    }
    urgent_free(in->urgent);
    in->urgent = NULL;
    release_memory(in);
    atomic_store(&in->finished, true);
    return NULL;
}

static void destroy(struct incoming *in)
{
    listener_free(in->listener);
    transport_address_free(in->addr);
    g_ptr_array_unref(in->greeters);
    postcopy_in_free(in->postcopy);
    if (in->wake_fd >= 0) {
        close(in->wake_fd);
    }
    g_free(in->error);
    g_free(in);
}

bool incoming_start(struct migration *m, struct transport_address *addr, int fd, bool exit_on_error,
                    GError **err)
{
    struct incoming *in = g_new0(struct incoming, 1);

    in->m = m;
    in->vm = m->vm;
    in->addr = addr;
    in->exit_on_error = exit_on_error;
    in->phase = MIGRATION_PHASE_LISTEN;
    in->greeters = g_ptr_array_new_with_free_func(greeter_free);
    in->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (in->wake_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot create an eventfd for the incoming migration");
        if (fd >= 0) {
            close(fd);
        }
        goto fail;
    }
    in->listener = transport_listen(addr, fd, err);
    if (!in->listener) {
        goto fail;
    }
    /* it wants the machine lock for the first thing that shows */
    in->thread = g_thread_try_new("mig/incoming", incoming_thread, in, err);
    if (!in->thread) {
        g_prefix_error(err, "Cannot start the thread of the incoming migration: ");
        goto fail;
    }
    m->in = in;
    migration_set_status(m, MIGRATION_STATUS_SETUP);
    return true;

fail:
    destroy(in);
    return false;
}

void incoming_free(struct incoming *in)
{
    if (!in) {
        return;
    }
    atomic_store(&in->cancelled, true);
    mutex_lock(&in->m->lock);
    if (in->ch) {
        channel_shutdown(in->ch);
    }
    for (unsigned i = 0; i < in->greeters->len; i++) {
        greeter_stop(g_ptr_array_index(in->greeters, i));
    }
    cond_broadcast(&in->m->cond);
    mutex_unlock(&in->m->lock);
    wake(in);
    postcopy_in_abandon(in);
    vm_unlock(in->vm);
    g_thread_join(in->thread);
    vm_lock(in->vm);
    in->m->in = NULL;
    destroy(in);
}
