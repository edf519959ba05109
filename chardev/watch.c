/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A descriptor watched by the main loop. Made and changed with the machine lock held, from any
 * thread; called from the main loop, which holds it too, so a watch never fires after it was freed.
 */
#include "chardev-private.h"

struct chardev_watch {
    GSource source;
    gpointer tag;
    GIOCondition condition;
    void (*fn)(void *opaque, GIOCondition revents);
    void *opaque;
};

static gboolean watch_dispatch(GSource *source, GSourceFunc unused G_GNUC_UNUSED,
                               gpointer data G_GNUC_UNUSED)
{
    struct chardev_watch *watch = (struct chardev_watch *)source;
    GIOCondition revents = g_source_query_unix_fd(source, watch->tag);

    if (revents) {
        watch->fn(watch->opaque, revents);
    }
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs watch_funcs = {
    .dispatch = watch_dispatch,
};

struct chardev_watch *chardev_watch_new(int fd, GIOCondition condition,
                                        void (*fn)(void *opaque, GIOCondition revents),
                                        void *opaque)
{
    GSource *source = g_source_new(&watch_funcs, sizeof(struct chardev_watch));
    struct chardev_watch *watch = (struct chardev_watch *)source;

    watch->fn = fn;
    watch->opaque = opaque;
    watch->condition = condition;
    watch->tag = g_source_add_unix_fd(source, fd, condition);
    g_source_set_name(source, "chardev");
    g_source_attach(source, NULL);
    return watch;
}

void chardev_watch_set(struct chardev_watch *watch, GIOCondition condition)
{
    if (watch->condition != condition) {
        watch->condition = condition;
        g_source_modify_unix_fd(&watch->source, watch->tag, condition);
    }
}

void chardev_watch_free(struct chardev_watch *watch)
{
    if (watch) {
        g_source_destroy(&watch->source);
        g_source_unref(&watch->source);
    }
}
