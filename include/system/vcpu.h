/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtual CPU: one thread, one KVM descriptor. Owned by the accelerator; migration's throttle and
 * query-cpus-fast look at it.
 */
#ifndef SYSTEM_VCPU_H
#define SYSTEM_VCPU_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;

struct vcpu {
    struct vm *vm;
    unsigned index; /* also the local APIC id */
    GThread *thread;
    int thread_id;    /* kernel tid, 0 before it started */
    void *accel_data; /* struct kvm_vcpu */
    struct {
        _Atomic uint64_t pages_per_s; /* 0: none */
        _Atomic int64_t slept_ns;
    } limit; /* system/throttle.h */
};

/*
 * CPU models: "host", "max", "qemu64" with ",+feature", ",-feature", ",feature=on|off" and a few
 * properties. Checked against what the accelerator offers; a feature asked for by name that the
 * host's KVM does not take is refused by name.
 */
struct cpu_model;
struct cpu_model *cpu_model_parse(const char *spec, GError **err);
void cpu_model_free(struct cpu_model *model);

#endif
