/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptors on the I/O thread. A callback may wait for the machine lock while whoever holds it
 * frees the watch; the source lives on until it returns, and the look at its state once the lock is
 * there keeps fn from being called then.
 */
#include "net-private.h"

#include <glib-unix.h>

#include "hw/virtio/virtio.h"
#include "system/vm.h"

struct net_watch {
    GSource source;
    struct vm *vm;
    gpointer tag; /* NULL: not watched */
    int fd;
    GIOCondition condition;
    void (*fn)(void *opaque);
    void *opaque;
};

static gboolean watch_dispatch(GSource *source, GSourceFunc unused G_GNUC_UNUSED,
                               gpointer data G_GNUC_UNUSED)
{
    struct net_watch *watch = (struct net_watch *)source;

    vm_lock(watch->vm);
    if (!g_source_is_destroyed(source) && watch->tag) {
        g_source_set_ready_time(source, -1);
        watch->fn(watch->opaque);
    }
    vm_unlock(watch->vm);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs watch_funcs = {
    .dispatch = watch_dispatch,
};

struct net_watch *net_watch_new(struct vm *vm, int fd, GIOCondition condition,
                                void (*fn)(void *opaque), void *opaque)
{
    GSource *source = g_source_new(&watch_funcs, sizeof(struct net_watch));
    struct net_watch *watch = (struct net_watch *)source;

    watch->vm = vm;
    watch->fd = fd;
    watch->fn = fn;
    watch->opaque = opaque;
    g_source_set_name(source, "net");
    g_source_set_can_recurse(source, TRUE);
    net_watch_set(watch, condition);
    g_source_attach(source, virtio_context(vm));
    return watch;
}

void net_watch_set(struct net_watch *watch, GIOCondition condition)
{
    if (watch->condition == condition) {
        return;
    }
    watch->condition = condition;
    /* not just no condition: poll() would report errors all the same, again and again */
    if (!condition) {
        g_source_remove_unix_fd(&watch->source, g_steal_pointer(&watch->tag));
    } else if (watch->tag) {
        g_source_modify_unix_fd(&watch->source, watch->tag, condition);
    } else {
        watch->tag = g_source_add_unix_fd(&watch->source, watch->fd, condition);
    }
}

void net_watch_fire(struct net_watch *watch)
{
    g_source_set_ready_time(&watch->source, 0);
}

void net_watch_free(struct net_watch *watch)
{
    if (watch) {
        g_source_destroy(&watch->source);
        g_source_unref(&watch->source);
    }
}
