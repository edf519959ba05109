/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking again and again; see poller.h. */
#include "poller.h"
#include "machines.h"
#include "util/sync.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FAST_MS    50
#define FAST_TIMES 20

struct poller {
    const struct ctl *ctl;
    qmp_address *address;
    int64_t interval_us;
    int abort_fd, news_fd;
    GThread *thread;

    struct mutex lock; /* for all below */
    struct cond wake;
    bool stop;
    const char *command; /* literal; NULL: none */
    move *state;
    char *refusal;
    GError *error;
};

/* Returns NULL with *err set when the machine cannot be asked. */
static move *ask(struct poller *p, const char *command, GError **err)
{
    g_autoptr(qmp) q = qmp_connect(p->address, p->ctl->patience_ms, p->abort_fd, err);
    g_autoptr(GError) error = NULL;
    g_autofree char *run_state = NULL;
    move *m;

    if (!q) {
        return NULL;
    }
    if (command && !qmp_do(q, command, NULL, &error)) {
        if (error->code != CTL_REFUSED) {
            g_propagate_error(err, g_steal_pointer(&error));
            return NULL;
        }
        mutex_lock(&p->lock);
        g_free(p->refusal);
        p->refusal = g_strdup(error->message);
        mutex_unlock(&p->lock);
    }
    m = move_query(p->ctl, q, err);
    run_state = m ? machines_run_state(p->ctl, q, err) : NULL;
    if (m && !run_state) {
        g_clear_pointer(&m, move_unref);
    } else if (m) {
        m->run_state = g_steal_pointer(&run_state);
    }
    return m;
}

static gpointer poller_thread(gpointer opaque)
{
    struct poller *p = opaque;
    unsigned times = 0;

    mutex_lock(&p->lock);
    while (!p->stop && !p->error) {
        const char *command = g_steal_pointer(&p->command);
        GError *error = NULL;
        move *m;
        int64_t next;

        mutex_unlock(&p->lock);
        m = ask(p, command, &error);
        mutex_lock(&p->lock);

        if (m) { /* a state that nobody has taken yet outlives a failure to ask again */
            g_clear_pointer(&p->state, move_unref);
            p->state = m;
        }
        p->error = error;
        p->stop |= m && move_is_over(m); /* which is the last thing there is to know */
        eventfd_write(p->news_fd, 1);
        next = g_get_monotonic_time() +
               (times++ < FAST_TIMES ? MIN(FAST_MS * 1000, p->interval_us) : p->interval_us);
        while (!p->stop && !p->command && cond_wait_until(&p->wake, &p->lock, next)) {
        }
    }
    mutex_unlock(&p->lock);
    return NULL;
}

struct poller *poller_new(const struct ctl *ctl, const qmp_address *address, int64_t interval_ms)
{
    struct poller *p = g_new0(struct poller, 1);

    p->ctl = ctl;
    p->address = g_new0(qmp_address, 1);
    p->address->text = g_strdup(address->text);
    p->address->path = g_strdup(address->path);
    p->address->host = g_strdup(address->host);
    p->address->port = g_strdup(address->port);
    p->interval_us = interval_ms * 1000;
    mutex_init(&p->lock);
    cond_init(&p->wake);
    p->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->abort_fd < 0 || p->news_fd < 0) {
        g_error("No event descriptors left");
    }
    p->thread = g_thread_new("poller", poller_thread, p);
    return p;
}

void poller_free(struct poller *p)
{
    mutex_lock(&p->lock);
    p->stop = true;
    cond_signal(&p->wake);
    mutex_unlock(&p->lock);
    eventfd_write(p->abort_fd, 1);
    g_thread_join(p->thread);

    close(p->abort_fd);
    close(p->news_fd);
    g_clear_pointer(&p->state, move_unref);
    g_clear_error(&p->error);
    g_free(p->refusal);
    qmp_address_free(p->address);
    mutex_clear(&p->lock);
    cond_clear(&p->wake);
    g_free(p);
}

int poller_fd(const struct poller *p)
{
    return p->news_fd;
}

void poller_take(struct poller *p, move **state, char **refusal, GError **error)
{
    eventfd_t count;

    mutex_lock(&p->lock);
    eventfd_read(p->news_fd, &count);
    *state = g_steal_pointer(&p->state);
    *refusal = g_steal_pointer(&p->refusal);
    *error = p->error ? g_error_copy(p->error) : NULL;
    mutex_unlock(&p->lock);
}

void poller_command(struct poller *p, const char *command)
{
    mutex_lock(&p->lock);
    p->command = command;
    cond_signal(&p->wake);
    mutex_unlock(&p->lock);
}
