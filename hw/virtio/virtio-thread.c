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
 * Polling. To sleep and be woken costs more than a request for what the host has in its memory, and
 * a notification costs the guest an exit. So when a queue that wants it (a disk's) is notified soon
 * after this thread had gone to sleep, the thread looks at that queue by itself from then on, for
 * POLL_US before it sleeps, and its driver need not notify. The first time that it looks in vain
 * ends that until the guest has been quick again, so a guest that asks now and then costs nothing.
 * With requests in flight the thread sleeps, as their end is not seen by looking.
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
#define POLL_US  32
/* While looking finds something others have their turn so often. */
#define POLL_TURN_US 500
#define POLLED       4u  /* queues at once */
#define PAUSES       16u /* of the CPU, between two looks */

struct virtio_set {
    struct vm *vm;
    int epoll_fd;
    GSource *kicks;
    GMainContext *context;
    GThread *thread;
    atomic_bool quit;
    GPtrArray *devices; /* struct virtio_device *, in order of realisation */

    /* Of the I/O thread alone. */
    bool quick;      /* the guest is: what notifies is looked at from then on */
    bool noticed;    /* a queue that wants to be looked at, since the thread went to sleep */
    int64_t idle_us; /* since when nothing was to be done */

    struct virtqueue *polled[POLLED]; /* those that are `unheard`; machine lock */
    unsigned polled_count;
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

/* After a turn, without the lock: who waits for it gets it. */
static void give_way(struct virtio_set *set)
{
    if (vm_lock_is_wanted(set->vm)) {
        g_usleep(YIELD_US);
    }
}

/* ---- polling; machine lock held ---- */

static bool may_poll(const struct virtqueue *vq)
{
    return vq->v->running && virtqueue_may_poll(vq);
}

/* What the driver adds is found by looking. */
static void poll_begin(struct virtio_set *set, struct virtqueue *vq)
{
    if (!vq->unheard && set->polled_count < POLLED && may_poll(vq)) {
        set->polled[set->polled_count++] = vq;
        vq->unheard = true;
    }
}

/* The driver notifies again; what it has added meanwhile is handled soon. */
static void poll_end(struct virtio_set *set, unsigned i)
{
    struct virtqueue *vq = set->polled[i];

    set->polled[i] = set->polled[--set->polled_count];
    vq->unheard = false;
    virtqueue_want_kicks(vq, true);
    if (!virtqueue_is_empty(vq)) {
        virtqueue_kick(vq);
    }
}

static void poll_end_of(struct virtio_set *set, const struct virtio_device *v)
{
    for (unsigned i = set->polled_count; i-- > 0;) {
        if (!v || set->polled[i]->v == v) {
            poll_end(set, i);
        }
    }
}

/* What can be seen of a polled queue without the lock: guest RAM stays where it is. */
struct glimpse {
    const uint8_t *avail_index;
    uint16_t seen;
};

/* Handles what waits in polled queues, and says where to look for the next; how many. */
static unsigned poll_handle(struct virtio_set *set, struct glimpse *next)
{
    unsigned n = 0;

    for (unsigned i = 0; i < set->polled_count; i++) {
        struct virtqueue *vq = set->polled[i];

        if (may_poll(vq) && virtqueue_waits(vq)) {
            serve(vq); /* may drop the lock, and take any of them off the list */
        }
    }
    for (unsigned i = set->polled_count; i-- > 0;) {
        if (may_poll(set->polled[i])) {
            next[n].avail_index = virtqueue_avail_index(set->polled[i], &next[n].seen);
            n++;
        } else {
            poll_end(set, i);
        }
    }
    return n;
}

static bool anything_new(const struct glimpse *glimpses, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (virtqueue_glimpse(glimpses[i].avail_index) != glimpses[i].seen) {
            return true;
        }
    }
    return false;
}

/* Looks for requests before the thread sleeps. True: it should not sleep yet. No lock held. */
static bool look(struct virtio_set *set)
{
    struct glimpse glimpses[POLLED];
    int64_t now, turn = g_get_monotonic_time() + POLL_TURN_US;
    unsigned n;
    bool found;

    do {
        vm_lock(set->vm);
        n = poll_handle(set, glimpses);
        vm_unlock(set->vm);
        now = set->idle_us = g_get_monotonic_time();
        while (!(found = anything_new(glimpses, n)) && n && now < set->idle_us + POLL_US) {
            for (unsigned i = 0; i < PAUSES; i++) {
                __builtin_ia32_pause();
            }
            now = g_get_monotonic_time();
        }
    } while (found && now < turn);
    if (found) {
        give_way(set);
        return true;
    }
    vm_lock(set->vm);
    poll_end_of(set, NULL);
    vm_unlock(set->vm);
    set->quick = false;
    return false;
}

/* ---- the thread ---- */

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
            if (vq->wants_poll && !set->noticed) {
                set->noticed = true;
                set->quick = g_get_monotonic_time() - set->idle_us < POLL_US;
            }
            if (set->quick) {
                poll_begin(set, vq);
            }
            full |= serve(vq);
        }
    }
    vm_unlock(set->vm);
    if (full) {
        give_way(set);
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
        bool awake = set->quick && look(set);

        if (!set->quick) {
            set->idle_us = g_get_monotonic_time();
        }
        set->noticed = false;
        g_main_context_iteration(set->context, !awake);
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
    poll_end_of(set_of(v->dev.vm), v);
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
    if (!running) {
        poll_end_of(v->dev.vm->virtio, v); /* as a driver expects it, wherever it goes on */
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
