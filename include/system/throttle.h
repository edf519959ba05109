/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of the time vCPUs may run, so that a guest writes no faster than a migration can send.
 *
 * Two brakes, both applied by a vCPU's own thread between two stays in the guest, in slices of a
 * few milliseconds, so that the guest's timers and interrupts go on:
 *
 *   throttle  a share of the time that every vCPU sleeps (auto-converge)
 *   limit     a number of pages per second that one vCPU may dirty (dirty-limit, needs the dirty
 *             ring); one that writes less is not slowed
 *
 * A vCPU that sleeps counts as stopped: vm_stop(), reset, work for it and exit do not wait for it.
 * Under an accelerator that runs no vCPUs both are only remembered.
 */
#ifndef SYSTEM_THROTTLE_H
#define SYSTEM_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

struct vm;

#define VCPU_THROTTLE_MAX 99

/*
 * Makes every vCPU sleep `percent` (0 to 99, more is 99) of the time; 0 lifts it. Any thread, no
 * lock needed; takes effect within a slice (25 ms).
 */
void vcpu_throttle_set(struct vm *vm, unsigned percent);
unsigned vcpu_throttle_get(const struct vm *vm);

/*
 * Lets vCPU `cpu` dirty at most so many pages a second, 0: as many as it likes. The caller has seen
 * to it that the ring counts them (kvm_dirty_use()). Any thread, no lock needed; takes effect
 * within a slice (10 ms).
 */
void vcpu_limit_set(struct vm *vm, unsigned cpu, uint64_t pages_per_s);
uint64_t vcpu_limit_get(const struct vm *vm, unsigned cpu);

/* Nanoseconds that vCPU `cpu` has slept on account of its limit since the machine was built. Any
 * thread. */
uint64_t vcpu_limit_slept_ns(const struct vm *vm, unsigned cpu);

#endif
