/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KVM for those who speak to it: the CPU code and the in-kernel devices.
 *
 * In-kernel state is a copy. While the vCPUs are stopped, the owner of a piece of state (a part)
 * keeps what is to be run next in its own struct and marks it pending; kvm_parts_put() writes all
 * pending pieces into the kernel, by rising stage, before vCPUs run. So reset and loading a stream
 * touch only plain memory, in any order, and one function knows the order that KVM needs.
 */
#ifndef ACCEL_KVM_H
#define ACCEL_KVM_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;
struct vcpu;

/* True under -accel kvm. */
bool kvm_enabled(const struct vm *vm);

/* ioctl() on the system, VM or vCPU descriptor, repeated on EINTR; the result, or -errno. */
int kvm_system_ioctl(struct vm *vm, unsigned long request, void *arg);
int kvm_vm_ioctl(struct vm *vm, unsigned long request, void *arg);
int kvm_vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg);
/* KVM_CHECK_EXTENSION on the VM; 0: not there. */
int kvm_check_extension(struct vm *vm, int cap);
/* KVM_ENABLE_CAP on the VM with one argument; 0 or -errno. */
int kvm_vm_enable_cap(struct vm *vm, uint32_t cap, uint64_t arg);

/*
 * Runs fn(vcpu, opaque) on the vCPU's own thread, outside the guest, with the machine lock held.
 * Machine lock held; with wait = true it is dropped until fn returned. On the vCPU's own thread fn
 * is called at once.
 */
void kvm_run_on_vcpu(struct vcpu *vcpu, void (*fn)(struct vcpu *vcpu, void *opaque), void *opaque,
                     bool wait);
/* Makes a vCPU leave the guest for a moment. Any thread, no lock needed. */
void kvm_kick_vcpu(struct vcpu *vcpu);

/* In which order pending state reaches the kernel. */
enum kvm_stage {
    KVM_STAGE_IRQCHIP, /* PIC and IOAPIC */
    KVM_STAGE_PIT,
    KVM_STAGE_CLOCK, /* before the vCPUs' kvmclock MSRs */
    KVM_STAGE_VCPU,
    KVM_STAGE_LAST,
};

struct kvm_part_ops {
    /* Writes pending state; true when there was nothing to do. Called before vCPUs run and before
     * anybody reads state back. vCPUs stopped, machine lock held. */
    bool (*put)(void *opaque, GError **err);
    /* The vCPUs have just stopped: read what would otherwise run on (clocks). May be NULL. */
    void (*stopped)(void *opaque);
    /* The vCPUs are about to run, put follows: what depends on the time of day of the start is
     * pending again. May be NULL. */
    void (*resuming)(void *opaque);
    /* accel->ops->reset. May be NULL (devices have their class's reset). */
    void (*reset)(void *opaque);
    /* After KVM_CREATE_VCPU of each vCPU. May be NULL. */
    bool (*vcpu_created)(void *opaque, struct vcpu *vcpu, GError **err);
};
/* Nothing happens under another accelerator. */
void kvm_part_add(struct vm *vm, enum kvm_stage stage, const struct kvm_part_ops *ops,
                  void *opaque);
void kvm_part_remove(struct vm *vm, void *opaque);
bool kvm_parts_put(struct vm *vm, GError **err);

/*
 * Dirty tracking has several users; it is on while there is one. Only migration collects the pages,
 * the others count. Any thread, no locks. With the machine lock dropped or not.
 */
enum kvm_dirty_user {
    KVM_DIRTY_MIGRATION = 1, /* dirty_start, dirty_stop */
    KVM_DIRTY_RATE = 2,      /* calc-dirty-rate */
    KVM_DIRTY_LIMIT = 4,     /* limits of vCPUs */
};
bool kvm_dirty_use(struct vm *vm, enum kvm_dirty_user user, GError **err);
void kvm_dirty_unuse(struct vm *vm, enum kvm_dirty_user user);
/* Dirty ring: pages that a vCPU has dirtied since it was made, as often as they were re-armed. */
uint64_t kvm_vcpu_dirtied(struct vcpu *vcpu);
/* Dirty ring: entries taken out of the rings since the VM was made (statistics). */
uint64_t kvm_dirty_ring_harvested(struct vm *vm);
/* Times a vCPU had to stop because its ring was full. */
uint64_t kvm_dirty_ring_full_exits(struct vm *vm);

#endif
