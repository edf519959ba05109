/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Thread "mig/fault" reads faults, many at once, and for each page either answers it here (it is
 * not absent, so it is zero), or notes who waits and asks the source, once however many wait.
 *
 * Ordering. The thread sets a page's `wanted` bit and then looks whether the page is still absent;
 * who places clears `absent` and then looks at `wanted`. So one of the two sees the other, and no
 * wait is left in the table for a page that is in place. Placing wakes, but a fault may also come
 * between that and the clearing of `absent`: a mapping that another thread is just changing looks
 * empty for a moment (private mappings of files), and the kernel may take a page of a file out
 * again. So whoever takes a wait out of the table wakes once more.
 *
 * The lock is a leaf around the table and the figures: for some instructions a fault, and for who
 * places only when the page is wanted. Requests are sent outside it.
 *
 * Failure. A link that is down leaves a page wanted: its threads wait, everybody else goes on, and
 * faults_ask_again() asks anew. When the host has no memory for a page of zeroes, there is nobody
 * to tell but the log; the thread that waits is let go and faults again.
 */
#include "migration/postcopy/faults.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "migration/postcopy/blocktime.h"
#include "migration/postcopy/uffd.h"
#include "system/vcpu.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/sync.h"

#define EVENTS_MAX 128u
/* Niceness of the threads that somebody waits for. */
#define URGENT (-10)

/* One thread that waits. */
struct waiter {
    struct waiter *next;
    int64_t since;
    int vcpu; /* -1: a thread of the VMM, or of KVM */
};

/* One page that is waited for. */
struct wait {
    struct arrival_block *ab;
    uint64_t page;
    bool requested;
    struct waiter *waiters;
};

struct faults {
    struct arrival *a;
    arrival_request *request;
    void *opaque;
    GThread *thread;
    int wake_fd;
    atomic_bool stop, again;
    GHashTable *vcpu_of; /* tid -> index + 1; constant */

    struct mutex lock; /* a leaf; around all below */
    GHashTable *waits; /* host address of the page -> struct wait, which it owns */
    struct wait **on;  /* per vCPU: what it waits for */
    struct blocktime *bt;
    uint64_t local, requests;
    unsigned queue_max;
};

void arrival_thread_urgent(void)
{
    /* a help on a busy host; whoever may not do this does without */
    (void)setpriority(PRIO_PROCESS, 0, URGENT);
}

/* --- who waits; lock held --- */

static void wait_free(gpointer opaque)
{
    struct wait *w = opaque;

    while (w->waiters) {
        struct waiter *waiter = w->waiters;

        w->waiters = waiter->next;
        g_free(waiter);
    }
    g_free(w);
}

/*
 * A vCPU that now waits for something else: it was let go, and who placed the page has not got to
 * saying so, or a signal took it out of its wait.
 */
static void leave(struct faults *f, unsigned vcpu, int64_t now)
{
    struct waiter **at = &f->on[vcpu]->waiters;

    while ((*at)->vcpu != (int)vcpu) {
        at = &(*at)->next;
    }
    struct waiter *waiter = *at;

    if (!atomic_bit_test(f->on[vcpu]->ab->missing, f->on[vcpu]->page)) {
        blocktime_answered(f->bt, now - waiter->since);
    }
    *at = waiter->next;
    g_free(waiter);
    f->on[vcpu] = NULL;
    blocktime_end(f->bt, vcpu, now);
}

static void add_waiter(struct faults *f, struct wait *w, int vcpu, int64_t now)
{
    if (vcpu >= 0) {
        if (f->on[vcpu] == w) {
            return; /* a signal took it out of its wait, and it is back */
        }
        if (f->on[vcpu]) {
            leave(f, (unsigned)vcpu, now);
        }
        f->on[vcpu] = w;
        blocktime_begin(f->bt, (unsigned)vcpu, now);
    }
    struct waiter *waiter = g_new(struct waiter, 1);

    *waiter = (struct waiter){ .next = w->waiters, .since = now, .vcpu = vcpu };
    w->waiters = waiter;
}

static void end_wait(struct faults *f, struct wait *w)
{
    int64_t now = monotonic_ns();

    for (struct waiter *i = w->waiters; i; i = i->next) {
        blocktime_answered(f->bt, now - i->since);
        if (i->vcpu >= 0) {
            f->on[i->vcpu] = NULL;
            blocktime_end(f->bt, (unsigned)i->vcpu, now);
        }
    }
    atomic_fetch_and(&w->ab->wanted[w->page / BITS_PER_LONG], ~(1ul << (w->page % BITS_PER_LONG)));
    g_hash_table_remove(f->waits, arrival_host(w->ab, w->page));
}

void faults_placed(struct faults *f, struct arrival_block *ab, uint64_t page)
{
    mutex_lock(&f->lock);
    struct wait *w = g_hash_table_lookup(f->waits, arrival_host(ab, page));

    if (w) {
        end_wait(f, w);
    }
    mutex_unlock(&f->lock);
    if (w) {
        uffd_wake(f->a->uffd, arrival_host(ab, page), UINT64_C(1) << ab->shift);
    }
}

/* --- the thread --- */

/* What is to be asked for once the lock is dropped. */
struct ask {
    struct arrival_block *ab;
    uint64_t page;
};

static struct arrival_block *find_block(struct arrival *a, uint64_t address)
{
    for (unsigned i = 0; i < a->count; i++) {
        struct arrival_block *ab = &a->blocks[i];
        uint64_t start = (uint64_t)(uintptr_t)ab->b->host;

        if (ab->travels && address >= start && address - start < ab->b->used_length) {
            return ab;
        }
    }
    return NULL;
}

/* Notes that `tid` waits for a page of the source. True: it is to be asked for. Lock held. */
static bool note_wait(struct faults *f, struct arrival_block *ab, uint64_t page, int32_t tid,
                      int64_t now)
{
    int vcpu = GPOINTER_TO_INT(g_hash_table_lookup(f->vcpu_of, GINT_TO_POINTER(tid))) - 1;
    struct wait *w = g_hash_table_lookup(f->waits, arrival_host(ab, page));

    if (!w) {
        w = g_new0(struct wait, 1);
        w->ab = ab;
        w->page = page;
        g_hash_table_insert(f->waits, arrival_host(ab, page), w);
    }
    add_waiter(f, w, vcpu, now);
    atomic_bit_set(ab->wanted, page);
    if (!atomic_bit_test(ab->absent, page)) {
        end_wait(f, w); /* it was put in place just now */
        uffd_wake(f->a->uffd, arrival_host(ab, page), UINT64_C(1) << ab->shift);
        return false;
    }
    bool ask = !w->requested;

    w->requested = true;
    return ask;
}

static void answer_here(struct faults *f, struct arrival_block *ab, const struct uffd_fault *fault)
{
    uint64_t page = (fault->address - (uint64_t)(uintptr_t)ab->b->host) >> ab->shift;

    if (!arrival_place_here(f->a, ab, page, fault->minor)) {
        report_warning("Cannot give memory '%s' a page of zeroes at 0x%" G_GINT64_MODIFIER "x: %s",
                       ab->b->idstr, page << ab->shift, g_strerror(errno));
        g_usleep(10000); /* the thread faults again at once */
        uffd_wake(f->a->uffd, arrival_host(ab, page), UINT64_C(1) << ab->shift);
    }
}

static void send_requests(struct faults *f, const struct ask *asks, unsigned n)
{
    unsigned sent = 0;

    for (unsigned i = 0; i < n; i++) {
        struct arrival_block *ab = asks[i].ab;

        if (f->request(f->opaque, ab->b, asks[i].page << ab->shift, UINT64_C(1) << ab->shift)) {
            sent++;
            continue;
        }
        mutex_lock(&f->lock);
        struct wait *w = g_hash_table_lookup(f->waits, arrival_host(ab, asks[i].page));

        if (w) {
            w->requested = false;
        }
        mutex_unlock(&f->lock);
    }
    mutex_lock(&f->lock);
    f->requests += sent;
    mutex_unlock(&f->lock);
}

static void handle(struct faults *f, const struct uffd_fault *faults, unsigned n)
{
    struct ask asks[EVENTS_MAX];
    unsigned to_ask = 0, here = 0;
    struct arrival_block *blocks[EVENTS_MAX];
    int64_t now = monotonic_ns();

    mutex_lock(&f->lock);
    f->queue_max = MAX(f->queue_max, n);
    for (unsigned i = 0; i < n; i++) {
        struct arrival_block *ab = find_block(f->a, faults[i].address);

        blocks[i] = NULL;
        if (!ab) {
            continue; /* nothing else is watched */
        }
        uint64_t page = (faults[i].address - (uint64_t)(uintptr_t)ab->b->host) >> ab->shift;

        if (!atomic_bit_test(ab->absent, page)) {
            blocks[i] = ab;
            here++;
        } else if (note_wait(f, ab, page, faults[i].tid, now)) {
            asks[to_ask++] = (struct ask){ ab, page };
        }
    }
    f->local += here;
    mutex_unlock(&f->lock);
    send_requests(f, asks, to_ask);
    for (unsigned i = 0; here && i < n; i++) {
        if (blocks[i]) {
            answer_here(f, blocks[i], &faults[i]);
        }
    }
}

static void ask_for_all(struct faults *f)
{
    g_autoptr(GArray) asks = g_array_new(FALSE, FALSE, sizeof(struct ask));
    GHashTableIter iter;
    gpointer value;

    mutex_lock(&f->lock);
    g_hash_table_iter_init(&iter, f->waits);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct wait *w = value;
        struct ask ask = { w->ab, w->page };

        w->requested = true;
        g_array_append_val(asks, ask);
    }
    mutex_unlock(&f->lock);
    send_requests(f, (const struct ask *)(void *)asks->data, asks->len);
}

static gpointer fault_thread(gpointer opaque)
{
    struct faults *f = opaque;
    struct uffd_fault faults[EVENTS_MAX];
    struct pollfd fds[2] = { { .fd = f->a->uffd, .events = POLLIN },
                             { .fd = f->wake_fd, .events = POLLIN } };

    arrival_thread_urgent();
    while (!atomic_load(&f->stop)) {
        uint64_t count;
        int n;

        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            report_warning("Cannot wait for faults of the guest: %s", g_strerror(errno));
            break;
        }
        do { /* the next poll() finds what has come meanwhile */
            n = uffd_read(f->a->uffd, faults, EVENTS_MAX);
            if (n > 0) {
                handle(f, faults, (unsigned)n);
            }
        } while (n == (int)EVENTS_MAX);
        if (n < 0) {
            report_warning("Cannot read faults of the guest: %s", g_strerror(errno));
            break;
        }
        if ((fds[1].revents & POLLIN) && read(f->wake_fd, &count, sizeof(count)) > 0 &&
            atomic_exchange(&f->again, false)) {
            ask_for_all(f);
        }
    }
    return NULL;
}

static void wake_thread(struct faults *f)
{
    uint64_t one = 1;

    if (write(f->wake_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the thread of faults: %s", g_strerror(errno));
    }
}

void faults_ask_again(struct faults *f)
{
    atomic_store(&f->again, true);
    wake_thread(f);
}

struct faults *faults_new(struct arrival *a, arrival_request *request, void *opaque, GError **err)
{
    struct faults *f = g_new0(struct faults, 1);
    unsigned vcpus = a->vm->vcpu_count;
    g_autoptr(GError) why = NULL;

    f->a = a;
    f->request = request;
    f->opaque = opaque;
    mutex_init(&f->lock);
    f->waits = g_hash_table_new_full(NULL, NULL, NULL, wait_free);
    f->vcpu_of = g_hash_table_new(NULL, NULL);
    f->on = g_new0(struct wait *, vcpus);
    f->bt = blocktime_new(vcpus);
    for (unsigned i = 0; i < vcpus; i++) {
        if (a->vm->vcpus[i]->thread_id) {
            g_hash_table_insert(f->vcpu_of, GINT_TO_POINTER(a->vm->vcpus[i]->thread_id),
                                GINT_TO_POINTER((int)i + 1));
        }
    }
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->wake_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot make a descriptor for post-copy");
        faults_free(f);
        return NULL;
    }
    f->thread = g_thread_try_new("mig/fault", fault_thread, f, &why);
    if (!f->thread) {
        error_set(err, FERRY_ERROR_HOST, "Cannot start the thread of faults: %s", why->message);
        faults_free(f);
        return NULL;
    }
    return f;
}

void faults_stop(struct faults *f)
{
    GHashTableIter iter;
    gpointer value;

    atomic_store(&f->stop, true);
    wake_thread(f);
    g_thread_join(f->thread);
    f->thread = NULL;
    mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->a->vm->vcpu_count; i++) {
        blocktime_end(f->bt, i, monotonic_ns());
        f->on[i] = NULL;
    }
    g_hash_table_iter_init(&iter, f->waits);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        g_hash_table_iter_remove(&iter);
    }
    mutex_unlock(&f->lock);
}

void faults_free(struct faults *f)
{
    if (!f) {
        return;
    }
    if (f->wake_fd >= 0) {
        close(f->wake_fd);
    }
    g_hash_table_unref(f->waits);
    g_hash_table_unref(f->vcpu_of);
    g_free(f->on);
    blocktime_free(f->bt);
    mutex_clear(&f->lock);
    g_free(f);
}

void faults_get_blocktime(struct faults *f, struct arrival_blocktime *t)
{
    memset(t, 0, sizeof(*t));
    if (!f) {
        return;
    }
    mutex_lock(&f->lock);
    blocktime_get(f->bt, monotonic_ns(), t);
    t->local = f->local;
    t->requests = f->requests;
    t->queue_max = f->queue_max;
    mutex_unlock(&f->lock);
}
