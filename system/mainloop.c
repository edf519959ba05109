/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main loop: glib's default context, polled by hand so that the machine lock is released
 * exactly while the thread sleeps. Everything that is dispatched (chardevs, monitors, timers,
 * signals) runs with the lock held.
 */
#include "loop.h"
#include "system/vm-init.h"

struct vm_loop *vm_loop_new(void)
{
    struct vm_loop *loop = g_new0(struct vm_loop, 1);

    loop->poll_fds = g_array_new(FALSE, TRUE, sizeof(GPollFD));
    cond_init(&loop->changed);
    return loop;
}

void vm_loop_free(struct vm_loop *loop)
{
    g_array_free(loop->poll_fds, TRUE);
    cond_clear(&loop->changed);
    g_free(loop);
}

void vm_loop_wake(struct vm *vm)
{
    (void)vm;
    g_main_context_wakeup(NULL);
}

void vm_main_loop_once(struct vm *vm, int timeout_ms)
{
    GMainContext *ctx = g_main_context_default();
    GArray *fds = vm->loop->poll_fds;
    int priority, timeout, n;

    while (vm_handle_requests(vm) && !vm->exiting) {
    }
    if (vm->exiting || !g_main_context_acquire(ctx)) {
        return;
    }
    g_main_context_prepare(ctx, &priority);
    while ((n = g_main_context_query(ctx, priority, &timeout, (GPollFD *)(void *)fds->data,
                                     (int)fds->len)) > (int)fds->len) {
        g_array_set_size(fds, (guint)n);
    }
    if (timeout_ms >= 0 && (timeout < 0 || timeout > timeout_ms)) {
        timeout = timeout_ms;
    }
    vm_unlock(vm);
    g_poll((GPollFD *)(void *)fds->data, (guint)n, timeout);
    vm_lock(vm);
    if (g_main_context_check(ctx, priority, (GPollFD *)(void *)fds->data, n)) {
        g_main_context_dispatch(ctx);
    }
    g_main_context_release(ctx);
    while (!vm->exiting && vm_handle_requests(vm)) {
    }
}

int vm_main_loop(struct vm *vm)
{
    while (!vm->exiting) {
        vm_main_loop_once(vm, -1);
    }
    return vm->exit_status;
}

void vm_exit(struct vm *vm, int status)
{
    if (!vm->exiting) {
        vm->exiting = true;
        vm->exit_status = status;
    }
    vm_loop_wake(vm);
}

struct deferred {
    void (*fn)(void *opaque);
    void *opaque;
};

static gboolean run_deferred(gpointer opaque)
{
    struct deferred *d = opaque;

    d->fn(d->opaque);
    return G_SOURCE_REMOVE;
}

void vm_run_in_main_loop(struct vm *vm, void (*fn)(void *opaque), void *opaque)
{
    struct deferred *d = g_new(struct deferred, 1);
    GSource *source = g_idle_source_new();

    (void)vm;
    *d = (struct deferred){ .fn = fn, .opaque = opaque };
    g_source_set_priority(source, G_PRIORITY_DEFAULT);
    g_source_set_callback(source, run_deferred, d, g_free);
    g_source_attach(source, NULL);
    g_source_unref(source);
}
