/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split virtqueues: their life and their rings; see include/hw/virtio/queue.h. What a request is
 * made of is collected by queue-chain.c. Section numbers are those of the VIRTIO specification 1.1.
 *
 * Trust: none in what the rings say. Each value is read once into a variable and checked there,
 * since the guest may change it meanwhile. A ring lies in RAM as a whole (virtqueue_enable()).
 *
 * Order: an entry of the used ring is written before the index that shows it, the index before the
 * look at whether the driver wants an interrupt; what the driver wrote is read after the index that
 * shows it. Pages are marked dirty after they were written.
 *
 * Post-copy: while there is a gate, rings and buffers are waited for before they are touched, since
 * a touch would wait with the machine lock held. After any wait the queue is looked at anew.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "accel/accel.h"
#include "system/memory.h"
#include "system/vm.h"
#include "queue-chain.h"

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

/* Bytes of the three parts, event index included. */
static uint64_t desc_bytes(unsigned num)
{
    return (uint64_t)VIRTQ_DESC_SIZE * num;
}

static uint64_t avail_bytes(unsigned num)
{
    return 6 + UINT64_C(2) * num;
}

static uint64_t used_bytes(unsigned num)
{
    return 6 + UINT64_C(8) * num;
}

static uint16_t load16(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void store16(struct virtqueue *vq, uint64_t offset, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)(vq->used_host + offset), value, __ATOMIC_RELEASE);
    memory_mark_dirty(virtqueue_memory(vq), vq->used + offset, sizeof(value));
}

/* ---- the life of a queue ---- */

struct virtqueue *virtqueue_new(struct virtio_device *v, unsigned size,
                                void (*handler)(struct virtio_device *v, struct virtqueue *vq))
{
    struct virtqueue *vq = g_new0(struct virtqueue, 1);

    vq->v = v;
    vq->index = v->queues->len;
    vq->num_default = size;
    vq->handler = handler;
    vq->turn = VIRTQUEUE_NO_TURN; /* of a call of the handler: a reset meanwhile gives no new one */
    vq->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vq->kick_fd < 0) {
        v->queue_errno = errno; /* the device is not realized then */
    } else {
        virtio_thread_watch(vq);
    }
    virtqueue_reset(vq);
    return vq;
}

void virtqueue_set_default_size(struct virtqueue *vq, unsigned size)
{
    vq->num_default = size;
    if (!vq->desc) {
        vq->num = size;
    }
}

void virtqueue_free(struct virtqueue *vq)
{
    if (vq->kick_fd >= 0) {
        close(vq->kick_fd); /* which ends the watch, too */
    }
    g_free(vq);
}

/* Has the accelerator signal us, or not any more. */
static void set_direct(struct virtqueue *vq, bool on)
{
    struct vm *vm = vq->v->dev.vm;

    if (on != vq->direct && vm->accel && vm->accel->ops->ioeventfd) {
        bool done = vm->accel->ops->ioeventfd(vm, virtio_mmio_notify_address(vq->v), vq->index,
                                              vq->kick_fd, on);

        vq->direct = on && done;
    }
}

void virtqueue_reset(struct virtqueue *vq)
{
    set_direct(vq, false);
    vq->generation++;
    vq->num = vq->num_default;
    vq->align = (uint32_t)TARGET_PAGE_SIZE;
    vq->desc = vq->avail = vq->used = 0;
    vq->desc_host = vq->avail_host = vq->used_host = NULL;
    vq->enabled = vq->signalled_valid = false;
    vq->last_avail = vq->used_index = vq->signalled = 0;
    vq->used_known = vq->want_kicks = true;
    vq->in_use = vq->filled = 0;
}

void virtqueue_disable(struct virtqueue *vq)
{
    unsigned num = vq->num;

    virtqueue_reset(vq);
    vq->num = num;
}

void virtqueue_set_legacy_ring(struct virtqueue *vq, uint64_t addr)
{
    uint64_t end = addr + desc_bytes(vq->num) + avail_bytes(vq->num);

    vq->desc = addr;
    vq->avail = addr + desc_bytes(vq->num);
    vq->used = (end + vq->align - 1) & ~((uint64_t)vq->align - 1); /* 2.6.2 */
}

const char *virtqueue_check_layout(unsigned num, uint64_t desc, uint64_t avail, uint64_t used)
{
    if (!num || num > VIRTIO_QUEUE_SIZE_MAX || (num & (num - 1))) {
        return "its size is not a power of two from 1 to 1024";
    }
    if (!desc) {
        return "it is at address 0"; /* which everywhere says that there is none */
    }
    if ((desc & 15) || (avail & 1) || (used & 3)) {
        return "a part of it is not aligned";
    }
    return NULL;
}

static uint8_t *map(struct virtqueue *vq, uint64_t gpa, uint64_t len, bool write)
{
    uint64_t n = len;
    uint8_t *host = memory_ram_span(virtqueue_memory(vq), gpa, &n, write);

    return host && n == len ? host : NULL;
}

bool virtqueue_enable(struct virtqueue *vq)
{
    const char *wrong = virtqueue_check_layout(vq->num, vq->desc, vq->avail, vq->used);

    if (!wrong) {
        vq->desc_host = map(vq, vq->desc, desc_bytes(vq->num), false);
        vq->avail_host = map(vq, vq->avail, avail_bytes(vq->num), false);
        vq->used_host = map(vq, vq->used, used_bytes(vq->num), true);
        if (!vq->desc_host || !vq->avail_host || !vq->used_host) {
            wrong = "a part of it is not in memory";
        }
    }
    vq->enabled = !wrong;
    set_direct(vq, !wrong);
    if (wrong) {
        vq->desc = vq->avail = vq->used =
            0; /* what cannot be is not sent to a destination either */
        virtio_error(vq->v, "Queue %u cannot be used: %s", vq->index, wrong);
    }
    return !wrong;
}

bool virtqueue_is_ready(const struct virtqueue *vq)
{
    const struct virtio_device *v = vq->v;

    return vq->enabled && !v->broken &&
           ((v->status & VIRTIO_STATUS_DRIVER_OK) || !virtio_has(v, VIRTIO_FEATURE_VERSION_1));
}

bool virtqueue_may_poll(const struct virtqueue *vq)
{
    return virtqueue_is_ready(vq) && vq->used_known && !vq->in_use &&
           !memory_has_gate(virtqueue_memory(vq));
}

bool virtqueue_element_is_stale(const struct virtqueue_element *elem)
{
    return elem->generation != elem->vq->generation;
}

unsigned virtqueue_index(const struct virtqueue *vq)
{
    return vq->index;
}

void virtqueue_kick(struct virtqueue *vq)
{
    uint64_t one = 1;
    ssize_t n;

    do {
        n = write(vq->kick_fd, &one, sizeof(one));
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so somebody has been told */
}

/* ---- what the driver says ---- */

/* Whether this thread may wait for memory; if not, the I/O thread is asked to look. */
static bool may_wait(struct virtqueue *vq)
{
    if (virtio_on_thread(vq->v->dev.vm)) {
        return true;
    }
    virtqueue_kick(vq);
    return false;
}

bool virtqueue_rings_are_here(struct virtqueue *vq)
{
    struct memory *mem = virtqueue_memory(vq);

    return memory_is_here(mem, vq->desc, desc_bytes(vq->num)) &&
           memory_is_here(mem, vq->avail, avail_bytes(vq->num)) &&
           memory_is_here(mem, vq->used, used_bytes(vq->num));
}

/* The used index of a ring that came with a stream is in its memory. False: the guest's memory
 * contradicts what the stream said. */
static bool know_used(struct virtqueue *vq)
{
    if (vq->used_known) {
        return true;
    }
    vq->used_index = load16(vq->used_host + 2);
    vq->used_known = true;
    vq->in_use = (uint16_t)(vq->last_avail - vq->used_index);
    if (vq->in_use > vq->num) {
        virtio_error(vq->v, "Queue %u of %u has %u requests in flight", vq->index, vq->num,
                     vq->in_use);
        return false;
    }
    return true;
}

static uint16_t available(const struct virtqueue *vq)
{
    return (uint16_t)(load16(vq->avail_host + 2) - vq->last_avail);
}

bool virtqueue_waits(const struct virtqueue *vq)
{
    return available(vq) != 0;
}

const uint8_t *virtqueue_avail_index(const struct virtqueue *vq, uint16_t *seen)
{
    *seen = vq->last_avail;
    return vq->avail_host + 2;
}

uint16_t virtqueue_glimpse(const uint8_t *avail_index)
{
    return load16(avail_index);
}

/* Where the driver goes by event index (2.6.7.2): it says so when it adds the next one. */
static void arm(struct virtqueue *vq)
{
    if (vq->want_kicks && virtio_has(vq->v, VIRTIO_FEATURE_EVENT_IDX)) {
        store16(vq, 4 + 8 * (uint64_t)vq->num, vq->last_avail); /* avail_event */
    }
}

/*
 * Between a store to the ring and a load from it, where the driver does it the other way round
 * (2.6.7 and 2.6.10): one of the two sees the other's. By hand, as the thread sanitizer of gcc
 * refuses fences.
 */
static inline void full_fence(void)
{
    __asm__ volatile("lock addl $0, (%%rsp)" ::: "memory", "cc");
}

/* How many requests wait. When it says none, a notification comes for the next. */
static uint16_t waiting_or_armed(struct virtqueue *vq)
{
    uint16_t n = available(vq);

    if (!n && vq->want_kicks) {
        arm(vq);
        full_fence();
        n = available(vq);
    }
    return n;
}

bool virtqueue_is_empty(struct virtqueue *vq)
{
    if (!virtqueue_is_ready(vq) || !vq->turn) {
        return true;
    }
    if (memory_has_gate(virtqueue_memory(vq))) {
        uint32_t generation = vq->generation;

        if (!may_wait(vq) || !virtqueue_rings_are_here(vq) || generation != vq->generation) {
            return true;
        }
    }
    return waiting_or_armed(vq) == 0;
}

/* ---- requests ---- */

/* Everything but the gate: reads the next chain and takes it. */
static struct virtqueue_element *pop_now(struct virtqueue *vq, size_t size, bool gated)
{
    struct virtio_device *v = vq->v;
    g_autoptr(GByteArray) copy = NULL;
    struct virtqueue_chain c;
    uint32_t generation = vq->generation;
    uint16_t waiting, last = vq->last_avail;
    unsigned head;
    enum virtqueue_walk w;

    if (!know_used(vq)) {
        return NULL;
    }
    waiting = waiting_or_armed(vq);
    if (!waiting) {
        return NULL;
    }
    if (waiting > vq->num || vq->in_use >= vq->num) {
        virtio_error(v, "Queue %u of %u: the driver's index jumped by %u, with %u in flight",
                     vq->index, vq->num, waiting, vq->in_use);
        return NULL;
    }
    head = load16(vq->avail_host + 4 + 2 * (size_t)(last & (vq->num - 1)));
    if (head >= vq->num) {
        virtio_error(v, "Queue %u of %u: descriptor %u is offered", vq->index, vq->num, head);
        return NULL;
    }
    w = virtqueue_walk(vq, head, &c, &copy);
    if (w == VIRTQUEUE_WALK_DONE && gated && !virtqueue_chain_is_here(vq, &c)) {
        w = VIRTQUEUE_WALK_LATER;
    }
    if (w == VIRTQUEUE_WALK_BROKEN) {
        return NULL;
    }
    /* the lock may have been dropped */
    if (gated && (generation != vq->generation || !v->running || !virtqueue_is_ready(vq) ||
                  last != vq->last_avail)) {
        w = VIRTQUEUE_WALK_LATER;
    }
    if (w == VIRTQUEUE_WALK_LATER) {
        virtqueue_kick(vq);
        return NULL;
    }
    vq->last_avail++;
    vq->in_use++;
    vq->turn -= vq->turn != VIRTQUEUE_NO_TURN;
    arm(vq); /* a device may stop here and come back only when there is more */
    return virtqueue_element_new(vq, head, c.out_count, c.in_count, c.iov, c.addr, size);
}

/* The queue may be used and its rings are there; if that is a question of time, the handler is
 * called again. */
static bool may_look(struct virtqueue *vq, bool gated)
{
    struct virtio_device *v = vq->v;
    uint32_t generation = vq->generation;

    if (!v->running || !virtqueue_is_ready(vq) || !vq->turn) {
        return false;
    }
    if (!gated) {
        return true;
    }
    if (!may_wait(vq)) {
        return false;
    }
    if (!virtqueue_rings_are_here(vq) || generation != vq->generation || !v->running ||
        !virtqueue_is_ready(vq)) {
        virtqueue_kick(vq);
        return false;
    }
    return true;
}

struct virtqueue_element *virtqueue_pop(struct virtqueue *vq, size_t size)
{
    bool gated = memory_has_gate(virtqueue_memory(vq));

    return may_look(vq, gated) ? pop_now(vq, size, gated) : NULL;
}

bool virtqueue_take_back(struct virtqueue *vq)
{
    if (!may_look(vq, memory_has_gate(virtqueue_memory(vq))) || !know_used(vq)) {
        return false;
    }
    vq->last_avail = (uint16_t)(vq->last_avail - vq->in_use);
    vq->in_use = 0;
    return true;
}

void virtqueue_unpop(struct virtqueue *vq, struct virtqueue_element *elem)
{
    if (!virtqueue_element_is_stale(elem)) {
        vq->last_avail--;
        vq->in_use--;
    }
}

/* Marks the first `written` bytes of what the device may write. */
static void mark_written(struct virtqueue *vq, const struct virtqueue_element *elem, uint64_t left)
{
    for (unsigned i = 0; left && i < elem->in_count; i++) {
        uint64_t n = MIN(left, elem->in[i].iov_len);

        memory_mark_dirty(virtqueue_memory(vq), elem->in_addr[i], n);
        left -= n;
    }
}

void virtqueue_fill(struct virtqueue *vq, struct virtqueue_element *elem, uint32_t written,
                    unsigned ahead)
{
    struct virtio_device *v = vq->v;
    uint64_t at;

    mark_written(vq, elem, written);
    if (virtqueue_element_is_stale(elem) || v->broken || !vq->enabled) {
        return;
    }
    /* only where it did not come through virtqueue_pop(): in flight when the guest came here */
    if (memory_has_gate(virtqueue_memory(vq)) &&
        (!virtqueue_rings_are_here(vq) || virtqueue_element_is_stale(elem))) {
        return;
    }
    if (!know_used(vq)) {
        return;
    }
    at = 4 + 8 * (uint64_t)((uint16_t)(vq->used_index + ahead) & (vq->num - 1));
    *(volatile uint32_t *)(void *)(vq->used_host + at) = elem->head;
    *(volatile uint32_t *)(void *)(vq->used_host + at + 4) = written;
    memory_mark_dirty(virtqueue_memory(vq), vq->used + at, 8);
    vq->filled = MAX(vq->filled, ahead + 1);
}

void virtqueue_flush(struct virtqueue *vq, unsigned count)
{
    /* what was stale, or of a broken device, was not filled in and is not shown */
    count = MIN(MIN(count, vq->filled), vq->in_use);
    vq->filled = 0;
    if (!count || !vq->enabled || vq->v->broken) {
        return;
    }
    vq->used_index = (uint16_t)(vq->used_index + count);
    vq->in_use -= count;
    store16(vq, 2, vq->used_index);
}

void virtqueue_push(struct virtqueue *vq, struct virtqueue_element *elem, uint32_t written)
{
    virtqueue_fill(vq, elem, written, 0);
    virtqueue_flush(vq, 1);
}

/* 2.6.7 and 2.6.8: whether the driver wants to hear of what was used since it last did. */
static bool wants_interrupt(struct virtqueue *vq)
{
    struct virtio_device *v = vq->v;
    uint16_t old = vq->signalled, now = vq->used_index, event;
    bool valid = vq->signalled_valid;

    /* in any case: an `old` of 65,536 requests ago would look like one of just now */
    vq->signalled = now;
    vq->signalled_valid = true;
    if (virtio_has(v, VIRTIO_FEATURE_NOTIFY_ON_EMPTY) && !vq->in_use && !available(vq)) {
        return true;
    }
    if (!virtio_has(v, VIRTIO_FEATURE_EVENT_IDX)) {
        return !(load16(vq->avail_host) & AVAIL_NO_INTERRUPT);
    }
    event = load16(vq->avail_host + 4 + 2 * (size_t)vq->num);
    return !valid || (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

void virtqueue_notify(struct virtqueue *vq)
{
    full_fence();
    if (vq->enabled && !vq->v->broken && vq->used_known && wants_interrupt(vq)) {
        virtio_interrupt(vq->v, VIRTIO_ISR_QUEUE);
    }
}

void virtqueue_want_poll(struct virtqueue *vq)
{
    vq->wants_poll = true;
}

void virtqueue_want_kicks(struct virtqueue *vq, bool want)
{
    want = want && !vq->unheard;
    if (!want && !vq->want_kicks) {
        return; /* said already */
    }
    vq->want_kicks = want;
    if (!virtqueue_is_ready(vq)) {
        return;
    }
    if (memory_has_gate(virtqueue_memory(vq))) {
        uint32_t generation = vq->generation;

        /* "no" is only a hint; without "yes", where the source had said "no", none would come */
        if (!want || !may_wait(vq) || !virtqueue_rings_are_here(vq) ||
            generation != vq->generation) {
            return;
        }
    }
    if (virtio_has(vq->v, VIRTIO_FEATURE_EVENT_IDX)) {
        arm(vq);
    } else {
        store16(vq, 0, want ? 0 : USED_NO_NOTIFY);
    }
    full_fence();
}
