/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices and qtest reach guest memory with the machine lock held, and a page that is missing makes
 * them wait for the source. They must not take the lock into that wait: whoever mends a broken link
 * needs it. So before a pointer is given out (memory_set_gate()) a missing page is touched without
 * the lock.
 *
 * A vCPU waits as long as it takes, as it does in the guest. The main loop has QMP to answer: it
 * lets a thread touch the page, "mig/touch", and waits for PATIENCE_US; after that the access
 * fails, which only qtest sees.
 */
#include "migration/postcopy/gate.h"

#include <unistd.h>

#include "system/vm.h"
#include "util/error.h"

#define PATIENCE_US 2000000
#define LOOK_US     200

struct touch {
    const volatile uint8_t *at;
    uint64_t length, step;
    atomic_bool done;
};

/* Reads a byte of each host page. */
static void touch(const volatile uint8_t *at, uint64_t length, uint64_t step)
{
    for (uint64_t i = 0; i < length; i += step) {
        (void)at[i];
    }
    (void)at[length - 1];
}

static gpointer touch_thread(gpointer opaque)
{
    struct touch *t = opaque;

    touch(t->at, t->length, t->step);
    atomic_store(&t->done, true);
    return NULL;
}

static void forget_touch(struct postcopy_in *p)
{
    if (p->toucher) {
        g_thread_join(p->toucher);
        p->toucher = NULL;
        g_clear_pointer(&p->touch, g_free);
    }
}

/* On the main loop, which may wait for a moment. */
static bool touch_with_patience(struct postcopy_in *p, const struct ram_block *b, uint64_t offset,
                                uint64_t length)
{
    int64_t until = g_get_monotonic_time() + PATIENCE_US;

    if (p->toucher) {
        if (!atomic_load(&p->touch->done)) {
            return false; /* one is waiting already */
        }
        forget_touch(p);
    }
    p->touch = g_new0(struct touch, 1);
    *p->touch = (struct touch){ b->host + offset, length, b->page_size, false };
    p->toucher = g_thread_try_new("mig/touch", touch_thread, p->touch, NULL);
    if (!p->toucher) {
        g_clear_pointer(&p->touch, g_free);
        return false;
    }
    vm_unlock(p->vm);
    while (!atomic_load(&p->touch->done) && g_get_monotonic_time() < until) {
        g_usleep(LOOK_US);
    }
    vm_lock(p->vm);
    return atomic_load(&p->touch->done);
}

static bool gate(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length)
{
    struct postcopy_in *p = opaque;
    struct vm *vm = p->vm;
    uint64_t first = offset - offset % b->page_size;
    bool missing = false;

    for (uint64_t at = first; at < offset + length; at += b->page_size) {
        missing = missing || arrival_is_missing(p->arrival, b, at);
    }
    if (!missing) {
        return true;
    }
    if (getpid() == gettid()) {
        return touch_with_patience(p, b, offset, length);
    }
    vm_unlock(vm);
    touch(b->host + offset, length, b->page_size);
    vm_lock(vm); /* p may be gone */
    return true;
}

void gate_open(struct postcopy_in *p)
{
    memory_set_gate(p->vm->memory, gate, p);
}

void gate_close(struct postcopy_in *p)
{
    memory_set_gate(p->vm->memory, NULL, NULL);
    g_main_context_wakeup(NULL); /* a reset may have waited for all of memory */
}

void gate_free(struct postcopy_in *p)
{
    forget_touch(p);
}
