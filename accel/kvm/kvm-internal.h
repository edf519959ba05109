/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of accel/kvm share. */
#ifndef ACCEL_KVM_INTERNAL_H
#define ACCEL_KVM_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "accel/accel.h"
#include "accel/kvm.h"
#include "system/pace.h"
#include "system/vcpu.h"
#include "system/vm.h"

/* Makes a vCPU thread leave KVM_RUN. */
#define KVM_KICK_SIGNAL SIGUSR1

/* Pages of a ring that are remembered to be counted once. */
#define KVM_RING_RECENT 64

/* One KVM memory slot per RAM map, same index; the slot id is the index. */
struct kvm_slot {
    const struct ram_map *map;
    bool tracked; /* guest writes to it are tracked when tracking is on */
    uint64_t pages;
    /*
     * Dirty log: pages reported to migration and not yet re-armed (manual protect). Dirty ring:
     * pages taken out of the rings and not yet reported. While tracking is on; dirty_lock.
     */
    unsigned long *bits;
    unsigned long *unsure; /* ring: pages that may not be armed, always dirty; NULL: none */
};

struct kvm_vcpu {
    struct vcpu *vcpu;
    struct kvm *kvm;
    int fd;
    struct kvm_run *run;

    /* machine lock */
    pthread_t pthread;
    bool thread_started;
    bool parked; /* outside the run loop, in a consistent state */
    bool held;   /* does not run until the next resume or reset (failed, or asked for one) */
    bool quit;
    GQueue work; /* struct vcpu_work * */
    struct cond wake;

    /* since the last resume */
    _Atomic enum { ENTRY_OPEN, ENTRY_TRIED, ENTRY_MADE, ENTRY_FAILED } entry;
    bool fail_run; /* test aid: it never enters the guest; from FERRY_FAIL_RUN */

    /* odd while in KVM_RUN; whoever waits for an exit watches it change */
    _Atomic unsigned run_seq;

    /* dirty ring; dirty_lock */
    struct kvm_dirty_gfn *ring;
    uint64_t ring_next;                    /* entries taken since the vCPU was made */
    uint64_t ring_seen;                    /* entries looked at, at least ring_next */
    uint64_t ring_dirtied;                 /* pages in them */
    uint64_t ring_recent[KVM_RING_RECENT]; /* of those since the last reset */

    /* brakes; the vCPU's thread alone */
    struct vcpu_pace pace;
    timer_t pace_timer;
    bool pace_timer_made, pace_timer_failed, pace_armed;
    int64_t pace_began_ns, pace_used_ns; /* when it entered the guest; 0: not braked */
    uint64_t pace_dirtied;
    int64_t rest_until_ns; /* CLOCK_MONOTONIC; 0: no rest is due */
};

struct kvm {
    struct accel accel;
    struct vm *vm;
    int fd, vm_fd;
    size_t run_size; /* bytes of a vCPU's shared page(s) */

    GPtrArray *parts; /* struct kvm_part *, by stage */

    struct kvm_slot *slots;
    unsigned slot_count;

    struct kvm_vcpu *vcpus; /* NULL before start */
    unsigned vcpu_count;
    bool running;            /* vCPUs may run; machine lock */
    struct cond parked_cond; /* a vCPU parked, or a work item is done */

    /* dirty tracking */
    struct mutex
        dirty_lock; /* slots' bits, rings; never taken before the machine lock is asked for */
    bool tracking;
    struct mutex users_lock; /* who switches tracking; before dirty_lock */
    unsigned users;          /* enum kvm_dirty_user, ORed; users_lock */
    uint64_t fresh; /* log: pages cleared since the VM was made; ring: pages newly set in bits */
    bool initially_set;     /* tracking begins with every page dirty and not yet write-protected */
    bool manual_protect;    /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
    unsigned long *scratch; /* as large as the largest slot's bitmap: what is to be cleared */
    uint32_t ring_entries;  /* 0: dirty log */
    uint64_t ring_harvested, ring_full;
    uint64_t ring_unarmed; /* entries taken whose pages KVM has not armed yet */
    GThread *reaper;
    struct cond reaper_wake; /* with dirty_lock */
    bool reaper_quit;
    struct mutex exit_lock; /* for exit_cond; a leaf */
    struct cond exit_cond;  /* a vCPU left KVM_RUN while exit_waiters > 0 */
    _Atomic unsigned exit_waiters;
};

static inline struct kvm *kvm_of(const struct vm *vm)
{
    return (struct kvm *)vm->accel; /* accel is the first member */
}

/* kvm.c: like kvm_check_extension() and kvm_vm_enable_cap(), before vm->accel is set. */
int kvm_check(struct kvm *kvm, int cap);
int kvm_enable(struct kvm *kvm, uint32_t cap, uint64_t arg);

/* slots.c */
bool kvm_slots_create(struct kvm *kvm, GError **err);
void kvm_slots_free(struct kvm *kvm);
/* Turns logging of guest writes on or off for all tracked slots. */
bool kvm_slots_log(struct kvm *kvm, bool on, GError **err);

/* vcpu.c */
bool kvm_vcpus_create(struct kvm *kvm, GError **err);
void kvm_vcpus_destroy(struct kvm *kvm);
void kvm_kick_all(struct vm *vm);
bool kvm_pause(struct vm *vm, unsigned timeout_ms, GError **err); /* see accel_ops.pause */
void kvm_resume(struct vm *vm);
bool kvm_entered(struct vm *vm, unsigned timeout_us, GError **err); /* see accel_ops.entered */
/*
 * Waits until every vCPU that is inside the guest now has left it once, so that what its hardware
 * buffered about dirtied pages has been flushed. False after 30 s. No locks held.
 */
bool kvm_vcpus_flush(struct kvm *kvm, GError **err);

/* pace.c: brakes on the vCPU's own thread. enter: about to go into the guest; leave: back from it
 * (neither with the machine lock held); resting: must sleep until rest_until_ns. */
void kvm_pace_enter(struct kvm_vcpu *v);
void kvm_pace_leave(struct kvm_vcpu *v);
bool kvm_pace_resting(struct kvm_vcpu *v);
void kvm_pace_free(struct kvm_vcpu *v); /* at the thread's end */

/* exit.c: handles the exit in run; false: the vCPU must look at its requests before going on. */
bool kvm_handle_exit(struct kvm_vcpu *v);
/* KVM_RUN itself failed. */
void kvm_run_failed(struct kvm_vcpu *v, int errnum);

/* dirty.c: what log and ring share. */
extern const struct accel_ops kvm_accel_ops;
bool kvm_dirty_start(struct vm *vm, GError **err);
void kvm_dirty_stop(struct vm *vm);
void kvm_dirty_end(struct kvm *kvm); /* for all users */
bool kvm_dirty_sync(struct vm *vm, struct ram_block *block, struct dirty_set *set, GError **err);
bool kvm_dirty_count(struct vm *vm, uint64_t *pages);
void kvm_dirty_clear(struct vm *vm, struct ram_block *block, uint64_t first_page, uint64_t pages);

/* dirty-log.c */
bool kvm_log_sync(struct kvm *kvm, unsigned slot, GError **err);
/* Adds how many pages of the slot the log has as dirty. Manual protect. */
bool kvm_log_count(struct kvm *kvm, unsigned slot, uint64_t *pages);
/* What to tell KVM_CLEAR_DIRTY_LOG about pages that were seen dirty; false: none was. `mask` has
 * room for `pages` and 63 more. */
bool kvm_log_clear_mask(const struct kvm_slot *slot, uint64_t first, uint64_t pages,
                        unsigned long *mask, struct kvm_clear_dirty_log *clear);
void kvm_log_clear(struct kvm *kvm, unsigned slot, uint64_t first, uint64_t pages);

/* dirty-ring.c */
bool kvm_ring_enable(struct kvm *kvm, uint32_t entries, GError **err);
bool kvm_ring_map(struct kvm_vcpu *v, GError **err);
void kvm_ring_unmap(struct kvm_vcpu *v);
void kvm_ring_start(struct kvm *kvm);
void kvm_ring_stop(struct kvm *kvm);
/* Takes everything out of all rings into the slots' bits and re-arms those pages; false: KVM did
 * not do so, and what is written to them next is not known. dirty_lock. */
bool kvm_ring_harvest(struct kvm *kvm);
/* Pages that the vCPU has dirtied since it was made, as far as its ring knows; 0 without one. No
 * dirty_lock. */
uint64_t kvm_ring_dirtied(struct kvm_vcpu *v);
/* On a vCPU thread: its ring is full. */
void kvm_ring_full(struct kvm_vcpu *v);

#endif
