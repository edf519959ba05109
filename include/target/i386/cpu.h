/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's x86 processors: made by the board from -cpu and -smp, run by the accelerator, saved
 * in the sections cpu_common, cpu and apic.
 */
#ifndef TARGET_I386_CPU_H
#define TARGET_I386_CPU_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "qapi/qapi-types.h"
#include "system/vcpu.h"

struct vm;
struct vm_config;

/*
 * Makes vm->vcpus from cfg's -cpu and -smp, resolves the CPU model against the accelerator, and
 * registers the sections of all vCPUs where include/hw/i386/savevm-order.h wants them, kvm-tpr-opt
 * (device "kvmvapic") included. vm->accel exists and is not started. Machine lock held.
 */
bool x86_cpus_new(struct vm *vm, const struct vm_config *cfg, GError **err);
/* After accel->ops->stop; vm->vcpus is NULL afterwards. */
void x86_cpus_free(struct vm *vm);

/*
 * A move of a running machine: the guest stood still for pause_ns until now, and its clocks shall
 * have gone on. On a destination, called after the stream was loaded and before vm_start(): adds
 * the pause to the TSC and to kvmclock, and what passes from now to the start too. On a source that
 * runs again after a failed move only kvmclock stood still, so only it is moved. False (and nothing
 * is done) without KVM or for a negative pause. vCPUs stopped, machine lock held.
 */
bool x86_clock_adjust(struct vm *vm, int64_t pause_ns);
/*
 * The host's CLOCK_MONOTONIC (ns) when the guest's clocks were read at the last stop: where a pause
 * begins. Later than the call of vm_stop() by what the vCPUs took to leave the guest. 0: never.
 */
int64_t x86_clock_stopped_at(struct vm *vm);

/* The time that the first vCPU would compute from its kvmclock page now; false: it has none. vCPUs
 * stopped, machine lock held. */
bool x86_guest_clock_ns(struct vm *vm, uint64_t *ns);

/*
 * How the guest sees its processors and what this host could show it, for comparison with another
 * host. NULL without KVM. Machine lock held. Feature names are in the order of the table of
 * target/i386/cpu-features.c.
 */
MigrationSideCpu *x86_cpu_describe(struct vm *vm);
/* "CPUID.07H:EBX bit 16" for the feature "avx512f"; NULL: no such feature. g_free() */
char *x86_feature_place(const char *name);

/* The TSC frequency of the guest in kHz; 0: not known. */
int64_t x86_tsc_khz(struct vm *vm);

#endif
