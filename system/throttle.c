/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When a braked vCPU sleeps, and for how long. Here is only the arithmetic; the accelerator brings
 * a vCPU back after vcpu_pace_slice_ns(), asks vcpu_pace_rest_ns() and lets its thread sleep.
 *
 * Throttle: the thread runs (1-p) of a period of 10 ms (up to 25 ms, where that is very little) and
 * sleeps the rest. What counts is the time
 * that it was in the guest, by the clock, because that is what the share is of; but a vCPU that
 * halted used next to no processor, wrote nothing, and is not made to sleep for it.
 *
 * Limit: the pages of a slice are paid for with as much time as the limit allows them. A slice is
 * made so short that this is about 10 ms, so that the guest's timers live even where the limit is a
 * hundredth of what the guest would write.
 *
 * A sleep is never longer than REST_MAX_NS, so that the guest's timers live; what a limit wants
 * beyond that is slept after the next slices. For the throttle nothing is carried over: what a
 * thread was kept from (a busy host, a lock) is not the guest's debt.
 */
#include "system/throttle.h"

#include "accel/accel.h"
#include "system/pace.h"
#include "system/vcpu.h"
#include "system/vm.h"

#define PERIOD_NS    (10 * INT64_C(1000000))
#define SLICE_MIN_NS (50 * INT64_C(1000))
/* Less at a time and a guest only gets to its interrupts. */
#define RUN_MIN_NS  (250 * INT64_C(1000))
#define REST_MAX_NS (100 * INT64_C(1000000))
#define OWED_MAX_NS (500 * INT64_C(1000000))
/* A thread that used less than a quarter of its slice was mostly halted. */
#define BUSY_FACTOR 4

static void kick(struct vm *vm)
{
    if (vm->accel && vm->accel->ops->kick) {
        vm->accel->ops->kick(vm);
    }
}

void vcpu_throttle_set(struct vm *vm, unsigned percent)
{
    percent = MIN(percent, (unsigned)VCPU_THROTTLE_MAX);
    if (atomic_exchange(&vm->throttle, percent) != percent) {
        kick(vm);
    }
}

unsigned vcpu_throttle_get(const struct vm *vm)
{
    return atomic_load(&vm->throttle);
}

void vcpu_limit_set(struct vm *vm, unsigned cpu, uint64_t pages_per_s)
{
    if (atomic_exchange(&vm->vcpus[cpu]->limit.pages_per_s, pages_per_s) != pages_per_s) {
        kick(vm);
    }
}

uint64_t vcpu_limit_get(const struct vm *vm, unsigned cpu)
{
    return atomic_load(&vm->vcpus[cpu]->limit.pages_per_s);
}

uint64_t vcpu_limit_slept_ns(const struct vm *vm, unsigned cpu)
{
    return (uint64_t)atomic_load(&vm->vcpus[cpu]->limit.slept_ns);
}

bool vcpu_is_braked(const struct vcpu *vcpu)
{
    return atomic_load(&vcpu->vm->throttle) || atomic_load(&vcpu->limit.pages_per_s);
}

int64_t vcpu_pace_slice_ns(const struct vcpu *vcpu, struct vcpu_pace *pace)
{
    unsigned percent = atomic_load(&vcpu->vm->throttle);
    int64_t slice = 0;

    if (percent) {
        slice = MAX(PERIOD_NS * (100 - (int64_t)percent) / 100, RUN_MIN_NS);
    }
    if (atomic_load(&vcpu->limit.pages_per_s)) {
        if (!pace->limit_slice_ns) {
            pace->limit_slice_ns = 2 * SLICE_MIN_NS; /* nothing is known yet */
        }
        slice = slice ? MIN(slice, pace->limit_slice_ns) : pace->limit_slice_ns;
    } else {
        pace->limit_slice_ns = pace->owed_ns = 0;
    }
    return slice;
}

static int64_t limit_rest(uint64_t pages_per_s, struct vcpu_pace *pace, int64_t ran_ns,
                          uint64_t dirtied)
{
    /* beyond the number of pages that a ring can hold in a slice it makes no difference */
    int64_t cost_ns =
        (int64_t)((double)MIN(dirtied, UINT64_C(1) << 32) * 1e9 / (double)pages_per_s);
    int64_t aim = pace->limit_slice_ns * 2;

    if (cost_ns > PERIOD_NS / 2) {
        aim = (int64_t)((double)ran_ns * (double)PERIOD_NS / (double)cost_ns);
        aim = CLAMP(aim, pace->limit_slice_ns / 8, pace->limit_slice_ns * 2);
    }
    pace->limit_slice_ns = CLAMP(aim, SLICE_MIN_NS, PERIOD_NS);
    pace->owed_ns = CLAMP(pace->owed_ns + cost_ns - ran_ns, 0, OWED_MAX_NS);
    return MIN(pace->owed_ns, REST_MAX_NS);
}

int64_t vcpu_pace_rest_ns(struct vcpu *vcpu, struct vcpu_pace *pace, int64_t ran_ns,
                          int64_t used_ns, uint64_t dirtied)
{
    unsigned percent = atomic_load(&vcpu->vm->throttle);
    uint64_t limit = atomic_load(&vcpu->limit.pages_per_s);
    int64_t rest = 0;

    ran_ns = MAX(ran_ns, 0);
    if (percent) {
        int64_t charged = MIN(ran_ns, MAX(used_ns, 0) * BUSY_FACTOR);

        rest = MIN(charged, REST_MAX_NS) * percent / (100 - (int64_t)percent);
    }
    if (limit) {
        int64_t due = limit_rest(limit, pace, ran_ns, dirtied);

        atomic_fetch_add(&vcpu->limit.slept_ns, due);
        rest = MAX(rest, due);
    }
    rest = MIN(rest, REST_MAX_NS);
    pace->owed_ns = MAX(pace->owed_ns - rest, 0);
    return rest;
}
