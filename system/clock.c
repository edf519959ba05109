/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtual clock and its timers. The clock runs with CLOCK_MONOTONIC while the vCPUs run and
 * stands still while they are stopped, so that device timers neither fire nor age in a paused or
 * migrating machine. Its value travels in the `timer` section.
 *
 * Under -accel qtest it is manual: it moves only when the test says so, and timers fire in order at
 * exactly their times.
 *
 * All with the machine lock held.
 */
#include "clock.h"
#include "system/vm-init.h"
#include "util/clock.h"

/* Later than any machine runs; a stream may say more, and sums with it must not overflow. */
#define EXPIRE_MAX (INT64_MAX / 2)

struct vm_timer {
    struct vm *vm;
    void (*fn)(void *opaque);
    void *opaque;
    int64_t expire_ns; /* -1: not armed */
};

struct vm_clock {
    bool running, manual;
    int64_t value_ns;  /* while it stands */
    int64_t offset_ns; /* while it runs: value = monotonic + offset */
    GPtrArray *armed;  /* struct vm_timer *, by expire_ns */
    GSource *source;
};

int64_t vm_clock_ns(struct vm *vm)
{
    const struct vm_clock *c = vm->clock;

    return c->running && !c->manual ? monotonic_ns() + c->offset_ns : c->value_ns;
}

/* Tells the main loop when to look at the timers next. */
static void rearm(struct vm *vm)
{
    struct vm_clock *c = vm->clock;
    int64_t ready = -1;

    if (c->running && !c->manual && c->armed->len) {
        const struct vm_timer *first = g_ptr_array_index(c->armed, 0);

        ready = MAX((first->expire_ns - c->offset_ns + 999) / 1000, 0);
    }
    g_source_set_ready_time(c->source, ready);
}

static void run_expired(struct vm *vm, int64_t now)
{
    struct vm_clock *c = vm->clock;

    while (c->armed->len) {
        struct vm_timer *t = g_ptr_array_index(c->armed, 0);

        if (t->expire_ns > now) {
            break;
        }
        if (c->manual) {
            c->value_ns = MAX(c->value_ns, t->expire_ns);
        }
        t->expire_ns = -1;
        g_ptr_array_remove_index(c->armed, 0);
        t->fn(t->opaque);
    }
}

static gboolean clock_dispatch(GSource *source, GSourceFunc fn, gpointer opaque)
{
    struct vm *vm = opaque;

    (void)source;
    (void)fn;
    if (vm->clock->running && !vm->clock->manual) {
        run_expired(vm, vm_clock_ns(vm));
    }
    rearm(vm);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs clock_source_funcs = { .dispatch = clock_dispatch };

static gboolean unused_callback(gpointer opaque)
{
    (void)opaque;
    return G_SOURCE_CONTINUE;
}

struct vm_clock *vm_clock_new(struct vm *vm)
{
    struct vm_clock *c = g_new0(struct vm_clock, 1);

    c->armed = g_ptr_array_new();
    c->source = g_source_new(&clock_source_funcs, sizeof(GSource));
    g_source_set_callback(c->source, unused_callback, vm, NULL);
    g_source_set_priority(c->source, G_PRIORITY_HIGH);
    g_source_attach(c->source, NULL);
    return c;
}

void vm_clock_free(struct vm_clock *c)
{
    g_source_destroy(c->source);
    g_source_unref(c->source);
    g_ptr_array_free(c->armed, TRUE);
    g_free(c);
}

void vm_clock_run(struct vm *vm, bool run)
{
    struct vm_clock *c = vm->clock;

    if (run == c->running) {
        return;
    }
    if (run) {
        c->offset_ns = c->value_ns - monotonic_ns();
    } else if (!c->manual) {
        c->value_ns = monotonic_ns() + c->offset_ns;
    }
    c->running = run;
    rearm(vm);
}

void vm_clock_set_ns(struct vm *vm, int64_t ns)
{
    g_assert(!vm->clock->running || vm->clock->manual);
    vm->clock->value_ns = ns;
}

void vm_clock_use_manual(struct vm *vm)
{
    vm->clock->manual = true;
}

void vm_clock_advance_to(struct vm *vm, int64_t ns)
{
    run_expired(vm, ns);
    vm->clock->value_ns = MAX(vm->clock->value_ns, ns);
}

int64_t vm_clock_next_deadline(struct vm *vm)
{
    const struct vm_clock *c = vm->clock;

    return c->armed->len ? ((struct vm_timer *)g_ptr_array_index(c->armed, 0))->expire_ns : -1;
}

struct vm_timer *vm_timer_new(struct vm *vm, void (*fn)(void *opaque), void *opaque)
{
    struct vm_timer *t = g_new0(struct vm_timer, 1);

    *t = (struct vm_timer){ .vm = vm, .fn = fn, .opaque = opaque, .expire_ns = -1 };
    return t;
}

void vm_timer_del(struct vm_timer *t)
{
    if (t->expire_ns >= 0) {
        t->expire_ns = -1;
        g_ptr_array_remove(t->vm->clock->armed, t);
        rearm(t->vm);
    }
}

void vm_timer_free(struct vm_timer *t)
{
    if (t) {
        vm_timer_del(t);
        g_free(t);
    }
}

void vm_timer_mod(struct vm_timer *t, int64_t expire_ns)
{
    struct vm_clock *c = t->vm->clock;
    unsigned at = 0;

    if (t->expire_ns >= 0) {
        g_ptr_array_remove(c->armed, t);
    }
    t->expire_ns = CLAMP(expire_ns, 0, EXPIRE_MAX);
    while (at < c->armed->len &&
           ((struct vm_timer *)g_ptr_array_index(c->armed, at))->expire_ns <= t->expire_ns) {
        at++;
    }
    g_ptr_array_insert(c->armed, (int)at, t);
    rearm(t->vm);
}

int64_t vm_timer_expire_ns(const struct vm_timer *t)
{
    return t->expire_ns;
}
