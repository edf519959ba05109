/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine: an io_uring and a pool of threads, both of which report to one eventfd that is polled
 * by the context where completions are delivered.
 *
 * io_uring is touched only with the machine lock held, by whatever thread submits or reaps. Reads,
 * writes and flushes go there; what it brings back short goes on in the pool (perform.c). A ring
 * that is full, or a kernel that has no memory for a moment, leaves transfers in the backlog, which
 * is looked at with every completion.
 *
 * The pool has a lock of its own, below the machine lock. Threads are made as they are needed, up
 * to POOL_THREADS, and stay. One that hangs in a system call (a server that does not answer) keeps
 * its thread; the others go on.
 */
#include "engine.h"

#include <errno.h>
#include <glib-unix.h>
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "system/vm.h"
#include "util/error.h"
#include "util/sync.h"

#define RING_ENTRIES 256
#define POOL_THREADS 16
#define RETRY_MS     1

struct io_list {
    struct block_io *first, **end;
};

struct block_engine {
    struct vm *vm;
    GMainContext *context;
    GSource *source;
    int event;
    void (*delivered)(void *opaque);
    void *opaque;

    bool has_ring;
    struct io_uring ring;
    struct io_list backlog; /* for the ring */
    unsigned in_ring, plugged, unsubmitted;
    bool reaps_next; /* who submits looks for completions right after */

    struct io_list done; /* known already; the machine lock */

    struct mutex lock; /* of what follows */
    struct cond work;
    struct io_list todo, performed;
    unsigned idle, queued;
    bool stopping;
    GPtrArray *threads; /* GThread * */
};

static void list_init(struct io_list *l)
{
    l->first = NULL;
    l->end = &l->first;
}

static void list_add(struct io_list *l, struct block_io *io)
{
    io->next = NULL;
    *l->end = io;
    l->end = &io->next;
}

static struct block_io *list_take(struct io_list *l)
{
    struct block_io *io = l->first;

    if (io) {
        l->first = io->next;
        if (!l->first) {
            l->end = &l->first;
        }
    }
    return io;
}

static void wake(struct block_engine *e)
{
    uint64_t one = 1;
    ssize_t ret = write(e->event, &one, sizeof(one));

    (void)ret; /* full means that it is awake */
}

/* --- the pool --- */

static gpointer pool_thread(gpointer opaque)
{
    struct block_engine *e = opaque;

    mutex_lock(&e->lock);
    while (!e->stopping) {
        struct block_io *io = list_take(&e->todo);

        if (!io) {
            e->idle++;
            cond_wait(&e->work, &e->lock);
            e->idle--;
            continue;
        }
        e->queued--;
        mutex_unlock(&e->lock);
        io->ret = block_io_perform(io);
        mutex_lock(&e->lock);
        /* who takes the list takes all of it, and the first in it has woken somebody */
        bool first = !e->performed.first;

        list_add(&e->performed, io);
        if (first) {
            mutex_unlock(&e->lock); /* which is what who wakes takes first */
            wake(e);
            mutex_lock(&e->lock);
        }
    }
    mutex_unlock(&e->lock);
    return NULL;
}

static void pool_submit(struct block_engine *e, struct block_io *io)
{
    mutex_lock(&e->lock);
    list_add(&e->todo, io);
    e->queued++;
    if (e->queued > e->idle && e->threads->len < POOL_THREADS) {
        g_autofree char *name = g_strdup_printf("block/%u", e->threads->len);

        g_ptr_array_add(e->threads, g_thread_new(name, pool_thread, e));
    }
    mutex_unlock(&e->lock);
    cond_signal(&e->work);
}

/* --- io_uring --- */

bool block_uring_possible(GError **err)
{
    struct io_uring ring;
    const char *aio = g_getenv("FERRY_BLOCK_AIO");
    int ret;

    if (aio && strcmp(aio, "threads") == 0) {
        error_set(err, FERRY_ERROR_HOST, "io_uring is switched off by FERRY_BLOCK_AIO=threads");
        return false;
    }
    ret = io_uring_queue_init(1, &ring, 0);
    if (ret < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -ret,
                        "The host does not allow io_uring, aio=threads does without");
        return false;
    }
    io_uring_queue_exit(&ring);
    return true;
}

/*
 * COOP_TASKRUN: what a kernel worker has completed is delivered when the thread that submitted it
 * enters the kernel or sleeps there, instead of by an interruption for each: that thread is never
 * one that runs a vCPU, which may be in the guest for long. Linux 5.19; older ones interrupt.
 */
static bool ring_open(struct block_engine *e)
{
    if (!block_uring_possible(NULL) ||
        (io_uring_queue_init(RING_ENTRIES, &e->ring, IORING_SETUP_COOP_TASKRUN) < 0 &&
         io_uring_queue_init(RING_ENTRIES, &e->ring, 0) < 0)) {
        return false;
    }
    if (io_uring_register_eventfd(&e->ring, e->event) < 0) {
        io_uring_queue_exit(&e->ring);
        return false;
    }
    return true;
}

static void prepare(struct io_uring_sqe *sqe, struct block_io *io)
{
    if (io->op == BLOCK_FLUSH) {
        io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
    } else if (io->op == BLOCK_READ) {
        io_uring_prep_readv(sqe, io->fd, io->iov, io->iov_count, io->offset);
    } else {
        io_uring_prep_writev(sqe, io->fd, io->iov, io->iov_count, io->offset);
        sqe->rw_flags = io->sync ? RWF_DSYNC : 0;
    }
    io_uring_sqe_set_data(sqe, io);
}

/* What fits goes to the kernel. */
static void ring_submit(struct block_engine *e)
{
    struct io_uring_sqe *sqe;

    do {
        while (e->backlog.first && (sqe = io_uring_get_sqe(&e->ring))) {
            prepare(sqe, list_take(&e->backlog));
            e->in_ring++;
            e->unsubmitted++;
        }
        if (e->unsubmitted) {
            /* what is done at once need not wake anybody: see block_engine_unplug_and_reap() */
            io_uring_cq_eventfd_toggle(&e->ring, false);
            int ret = io_uring_submit(&e->ring);
            io_uring_cq_eventfd_toggle(&e->ring, true);
            if (!e->reaps_next && io_uring_cq_ready(&e->ring)) {
                wake(e);
            }

            if (ret <= 0) {
                if (e->unsubmitted == e->in_ring) {
                    wake(e); /* no completion will */
                }
                return;
            }
            e->unsubmitted -= MIN((unsigned)ret, e->unsubmitted);
        }
    } while (e->backlog.first);
}

/* Its buffers and its place in the file are as they were: what is missing is done elsewhere. */
static bool ring_incomplete(const struct block_io *io, int res)
{
    if (res == -EAGAIN || res == -EINTR || res == -EOPNOTSUPP) {
        return true;
    }
    return io->op != BLOCK_FLUSH && res >= 0 && (uint64_t)res < io->bytes;
}

static void ring_reap(struct block_engine *e)
{
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&e->ring, &cqe) == 0) {
        struct block_io *io = io_uring_cqe_get_data(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&e->ring, cqe);
        e->in_ring--;
        if (ring_incomplete(io, res)) {
            io->got = (uint64_t)MAX(res, 0);
            pool_submit(e, io);
        } else {
            io->ret = MIN(res, 0);
            list_add(&e->done, io);
        }
    }
    if (!e->plugged && (e->backlog.first || e->unsubmitted)) {
        ring_submit(e);
    }
}

/* --- both --- */

void block_engine_submit(struct block_engine *e, struct block_io *io)
{
    bool ring = e->has_ring && !io->threads_only && !io->bounce && io->op <= BLOCK_FLUSH &&
                io->iov_count <= IOV_MAX && io->bytes <= INT_MAX;

    io->got = 0;
    if (!ring) {
        pool_submit(e, io);
        return;
    }
    list_add(&e->backlog, io);
    if (!e->plugged) {
        ring_submit(e);
    }
}

void block_engine_complete(struct block_engine *e, struct block_io *io, int ret)
{
    io->ret = ret;
    list_add(&e->done, io);
    wake(e);
}

void block_engine_plug(struct block_engine *e)
{
    e->plugged++;
}

void block_engine_unplug(struct block_engine *e)
{
    if (--e->plugged == 0) {
        block_engine_push(e);
    }
}

void block_engine_push(struct block_engine *e)
{
    if (e->has_ring && (e->backlog.first || e->unsubmitted)) {
        ring_submit(e);
    }
}

/* Everything that is done; the eventfd stays as it is. */
static void reap(struct block_engine *e)
{
    struct block_io *io;

    if (e->has_ring) {
        ring_reap(e);
    }
    mutex_lock(&e->lock);
    while ((io = list_take(&e->performed))) {
        list_add(&e->done, io);
    }
    mutex_unlock(&e->lock);
    block_engine_plug(e); /* who completes requests usually makes new ones */
    bool any = e->done.first;

    while ((io = list_take(&e->done))) {
        io->done(io, io->ret);
    }
    if (any) {
        e->delivered(e->opaque);
    }
    block_engine_unplug(e);
}

void block_engine_reap(struct block_engine *e)
{
    uint64_t count;
    ssize_t ret = read(e->event, &count, sizeof(count));

    (void)ret; /* nothing to read: somebody else was woken too */
    reap(e);
}

void block_engine_unplug_and_reap(struct block_engine *e)
{
    if (!e->has_ring || e->plugged > 1) {
        block_engine_unplug(e);
        return;
    }
    e->reaps_next = true;
    block_engine_unplug(e);
    e->reaps_next = false;
    if (io_uring_cq_ready(&e->ring)) {
        reap(e);
    }
}

static gboolean on_event(gint fd G_GNUC_UNUSED, GIOCondition condition G_GNUC_UNUSED,
                         gpointer opaque)
{
    struct block_engine *e = opaque;
    struct vm *vm = e->vm;

    vm_lock(vm);
    if (!g_source_is_destroyed(g_main_current_source())) {
        block_engine_reap(e);
    }
    vm_unlock(vm);
    return G_SOURCE_CONTINUE;
}

bool block_engine_acquire(struct block_engine *e)
{
    return g_main_context_acquire(e->context);
}

void block_engine_release(struct block_engine *e)
{
    g_main_context_release(e->context);
}

void block_engine_sleep(struct block_engine *e, int timeout_ms)
{
    struct pollfd pfd = { .fd = e->event, .events = POLLIN };

    poll(&pfd, 1, timeout_ms);
}

struct block_engine *block_engine_new(struct vm *vm, GMainContext *context,
                                      void (*delivered)(void *opaque), void *opaque, GError **err)
{
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct block_engine *e;

    if (event < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot make an event for disk requests");
        return NULL;
    }
    e = g_new0(struct block_engine, 1);
    e->vm = vm;
    e->context = g_main_context_ref(context);
    e->event = event;
    e->delivered = delivered;
    e->opaque = opaque;
    list_init(&e->backlog);
    list_init(&e->done);
    list_init(&e->todo);
    list_init(&e->performed);
    mutex_init(&e->lock);
    cond_init(&e->work);
    e->threads = g_ptr_array_new();
    e->has_ring = ring_open(e);
    e->source = g_unix_fd_source_new(e->event, G_IO_IN);
    g_source_set_callback(e->source, G_SOURCE_FUNC(on_event), e, NULL);
    g_source_set_can_recurse(e->source, TRUE);
    g_source_attach(e->source, context);
    return e;
}

void block_engine_free(struct block_engine *e)
{
    g_source_destroy(e->source);
    g_source_unref(e->source);
    mutex_lock(&e->lock);
    e->stopping = true;
    cond_broadcast(&e->work);
    mutex_unlock(&e->lock);
    for (unsigned i = 0; i < e->threads->len; i++) {
        g_thread_join(g_ptr_array_index(e->threads, i));
    }
    g_ptr_array_free(e->threads, TRUE);
    if (e->has_ring) {
        io_uring_queue_exit(&e->ring);
    }
    mutex_clear(&e->lock);
    cond_clear(&e->work);
    close(e->event);
    g_main_context_unref(e->context);
    g_free(e);
}
