/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's I/O thread, "virtio": where queue handlers and the descriptors of back ends are
 * served, so that disks and networks neither wait for the main loop nor keep QMP waiting. It holds
 * no lock while it sleeps; each callback takes the machine lock.
 *
 * Notifications of all queues, of which a virtio-serial alone has 64, are one descriptor to glib's
 * loop: an epoll set of the queues' eventfds. They are edge-triggered, so nobody reads the
 * eventfds; each write to one is an event.
 *
 * Sources with descriptors are marked with g_source_set_can_recurse(), although none recurses: else
 * glib takes their descriptors out of the poll while they are dispatched and puts them back, and
 * each of both wakes the context, which is this thread: two writes, a read and a poll for nothing
 * with every event.
 *
 * Turns. A guest can offer requests as fast as they are done, from another vCPU and without an
 * exit. So a call of a handler pops a limited number; then others have the lock, for which a mutex
 * alone does not care: who gives it up and wants it again at once would get it each time.
 *
 * Order at a stop: vCPUs first, then here all devices are told (no handler is called from then on),
 * then each is drained. The lock may be dropped in a drain; a completion that comes meanwhile is
 * still pushed. At a start devices are told before the vCPUs run, and every ready queue is looked
 * at once, because kicks that came while the machine stood still were dropped.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "system/vm.h"
#include "virtio-internal.h"

#define EVENTS   32 /* that are fetched at once */
#define TURN     VIRTIO_QUEUE_SIZE_MAX
#define YIELD_US 50 /* after a full turn: long enough for a thread to wake */

struct virtio_set {
    struct vm *vm;
    int epoll_fd;
    GSource *kicks;
    GMainContext *context;
    GThread *thread;
    atomic_bool quit;
    GPtrArray *devices; /* struct virtio_device *, in order of realisation */
};

/* True: the queue has had a full turn, and is called again. */
static bool serve(struct virtqueue *vq)
{
    bool full;

    vq->turn = TURN;
    vq->handler(vq->v, vq);
    full = !vq->turn;
    vq->turn = VIRTQUEUE_NO_TURN;
    if (full) {
        virtqueue_kick(vq);
    }
    return full;
}

/* Queues were notified, by the guest or by ourselves. */
static gboolean kicked(GSource *source, GSourceFunc fn, gpointer opaque)
{
    struct virtio_set *set = opaque;
    struct epoll_event events[EVENTS];
    int n = epoll_wait(set->epoll_fd, events, EVENTS, 0);
    bool full = false;

    (void)source;
    (void)fn;
    if (n <= 0) {
        return G_SOURCE_CONTINUE;
    }
    vm_lock(set->vm);
    for (int i = 0; i < n; i++) {
        struct virtqueue *vq = events[i].data.ptr;

        if (vq->v->running && virtqueue_is_ready(vq)) {
            full |= serve(vq);
        }
    }
    vm_unlock(set->vm);
    if (full) {
        g_usleep(YIELD_US);
    }
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs kick_funcs = { .dispatch = kicked };

static gboolean unused_callback(gpointer opaque)
{
    (void)opaque;
    return G_SOURCE_CONTINUE;
}

static gpointer io_thread(gpointer opaque)
{
    struct virtio_set *set = opaque;

    g_main_context_push_thread_default(set->context);
    while (!atomic_load(&set->quit)) {
        g_main_context_iteration(set->context, TRUE);
    }
    g_main_context_pop_thread_default(set->context);
    return NULL;
}

static struct virtio_set *set_of(struct vm *vm)
{
    struct virtio_set *set = vm->virtio;

    if (!set) {
        set = vm->virtio = g_new0(struct virtio_set, 1);
        set->vm = vm;
        set->context = g_main_context_new();
        set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (set->epoll_fd < 0) {
            g_error("epoll: %s", g_strerror(errno)); /* while the machine is built */
        }
        set->kicks = g_source_new(&kick_funcs, sizeof(GSource));
        g_source_set_callback(set->kicks, unused_callback, set, NULL);
        g_source_set_can_recurse(set->kicks, TRUE);
        g_source_add_unix_fd(set->kicks, set->epoll_fd, G_IO_IN);
        g_source_attach(set->kicks, set->context);
        set->devices = g_ptr_array_new();
        set->thread = g_thread_new("virtio", io_thread, set);
    }
    return set;
}

GMainContext *virtio_context(struct vm *vm)
{
    return set_of(vm)->context;
}

void virtio_thread_watch(struct virtqueue *vq)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = vq };
    struct virtio_set *set = set_of(vq->v->dev.vm);

    if (epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, vq->kick_fd, &event) < 0) {
        g_error("epoll: %s", g_strerror(errno)); /* while the machine is built */
    }
}

bool virtio_on_thread(struct vm *vm)
{
    return vm->virtio && vm->virtio->thread == g_thread_self();
}

void virtio_thread_add(struct virtio_device *v)
{
    g_ptr_array_add(set_of(v->dev.vm)->devices, v);
    v->running = vm_is_running(v->dev.vm);
}

void virtio_thread_remove(struct virtio_device *v)
{
    g_ptr_array_remove(set_of(v->dev.vm)->devices, v);
}

void virtio_foreach(struct vm *vm, void (*fn)(struct virtio_device *v, void *opaque), void *opaque)
{
    for (unsigned i = 0; vm->virtio && i < vm->virtio->devices->len; i++) {
        fn(g_ptr_array_index(vm->virtio->devices, i), opaque);
    }
}

static void tell(struct virtio_device *v, bool running)
{
    if (v->running == running) {
        return;
    }
    v->running = running;
    if (running && v->isr) {
        virtio_mmio_update_irq(v); /* of a device that was loaded: nobody has heard it yet */
    }
    if (virtio_class_of(v)->run_state) {
        virtio_class_of(v)->run_state(v, running);
    }
    for (unsigned i = 0; running && i < v->queues->len; i++) {
        struct virtqueue *vq = g_ptr_array_index(v->queues, i);

        if (virtqueue_is_ready(vq)) {
            virtqueue_kick(vq);
        }
    }
}

void virtio_run_state(struct vm *vm, bool running)
{
    struct virtio_set *set = vm->virtio;

    for (unsigned i = 0; set && i < set->devices->len; i++) {
        tell(g_ptr_array_index(set->devices, i), running);
    }
    for (unsigned i = 0; set && !running && i < set->devices->len; i++) {
        struct virtio_device *v = g_ptr_array_index(set->devices, i);

        if (virtio_class_of(v)->drain) {
            virtio_class_of(v)->drain(v);
        }
    }
}

void virtio_thread_stop(struct vm *vm)
{
    struct virtio_set *set = vm->virtio;

    if (!set) {
        return;
    }
    virtio_run_state(vm, false);
    atomic_store(&set->quit, true);
    g_main_context_wakeup(set->context);
    vm_unlock(vm);
    g_thread_join(set->thread);
    vm_lock(vm);
    set->thread = NULL;
}

void virtio_free(struct vm *vm)
{
    struct virtio_set *set = vm->virtio;

    if (set) {
        vm->virtio = NULL;
        g_source_destroy(set->kicks);
        g_source_unref(set->kicks);
        close(set->epoll_fd);
        g_main_context_unref(set->context);
        g_ptr_array_free(set->devices, TRUE);
        g_free(set);
    }
}
