/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KVM's dirty ring: each vCPU has a ring of (slot, page) entries that the kernel fills. Taking an
 * entry: see its DIRTY flag (acquire), note the page, set RESET (release); KVM_RESET_DIRTY_RINGS
 * then arms the pages taken and frees the entries.
 *
 * Taken pages wait in slot->bits until migration syncs. A page is armed again before it is
 * reported, so a write in between is at worst reported twice, never lost. Hardware may buffer
 * dirtied pages while a vCPU is in the guest, so a sync makes every vCPU leave it first
 * (kvm_vcpus_flush()).
 *
 * Linux from 6.16 on breaks KVM_RESET_DIRTY_RINGS off where the calling thread has a signal
 * pending, as a vCPU that was just kicked has: it says how many entries it freed, but up to 64
 * pages of those are then not armed, and what is written to them goes unnoticed. So signals are
 * blocked meanwhile (ring_reset()). What cannot be blocked (SIGSTOP, a frozen cgroup) shows in the
 * number; the pages that may be concerned then count as dirty at every sync (slot->unsure).
 *
 * Three who take: sync, a vCPU whose ring is full (it cannot run before), and the reaper thread,
 * which keeps rings from filling up between syncs: it comes more often the fuller it finds them.
 * All hold dirty_lock over taking and resetting together.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm-internal.h"
#include "util/bitmap.h"
#include "util/error.h"

#define REAP_MIN_MS 5
#define REAP_MAX_MS 1000
#define RING_MIN    1024u
#define RESET_TRIES 1000 /* without a single entry armed */

static size_t ring_bytes(const struct kvm *kvm)
{
    return (size_t)kvm->ring_entries * sizeof(struct kvm_dirty_gfn);
}

bool kvm_ring_enable(struct kvm *kvm, uint32_t entries, GError **err)
{
    int acq_rel = kvm_check(kvm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    int plain = kvm_check(kvm, KVM_CAP_DIRTY_LOG_RING);
    uint32_t cap = acq_rel ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL : KVM_CAP_DIRTY_LOG_RING;
    uint32_t max = (uint32_t)(acq_rel ? acq_rel : plain) / sizeof(struct kvm_dirty_gfn);
    int rc;

    if (!max) {
        error_set(err, FERRY_ERROR_HOST,
                  "This host's KVM has no dirty ring; leave out dirty-ring-size");
        return false;
    }
    if (entries < RING_MIN || entries > max || entries & (entries - 1)) {
        error_set(err, FERRY_ERROR_USER,
                  "dirty-ring-size is %u, it must be a power of two from %u to %u", entries,
                  RING_MIN, max);
        return false;
    }
    rc = kvm_enable(kvm, cap, (uint64_t)entries * sizeof(struct kvm_dirty_gfn));
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses a dirty ring of %u entries",
                        entries);
        return false;
    }
    kvm->ring_entries = entries;
    return true;
}

bool kvm_ring_map(struct kvm_vcpu *v, GError **err)
{
    off_t at = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * getpagesize();
    void *p = mmap(NULL, ring_bytes(v->kvm), PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, at);

    if (p == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "KVM does not share the dirty ring of vCPU %u", v->vcpu->index);
        return false;
    }
    v->ring = p;
    return true;
}

void kvm_ring_unmap(struct kvm_vcpu *v)
{
    munmap(v->ring, ring_bytes(v->kvm));
    v->ring = NULL;
}

static struct kvm_dirty_gfn *entry(struct kvm_vcpu *v, uint64_t n)
{
    return &v->ring[n & (v->kvm->ring_entries - 1)];
}

static bool is_dirty(const struct kvm_dirty_gfn *e)
{
    return __atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY;
}

/*
 * Counts the entries that are new. What KVM itself writes (an emulated instruction, a clock) puts
 * an entry each time, also for a page that has one already; those that follow closely are not
 * counted again.
 */
static void ring_scan(struct kvm_vcpu *v)
{
    while (v->ring_seen - v->ring_next < v->kvm->ring_entries && is_dirty(entry(v, v->ring_seen))) {
        const struct kvm_dirty_gfn *e = entry(v, v->ring_seen);
        uint64_t *recent = &v->ring_recent[e->offset % KVM_RING_RECENT];
        uint64_t key = (uint64_t)e->slot << 48 | (e->offset + 1);

        v->ring_dirtied += *recent != key;
        *recent = key;
        v->ring_seen++;
    }
}

static uint32_t ring_take(struct kvm_vcpu *v)
{
    struct kvm *kvm = v->kvm;
    uint32_t taken = 0;

    ring_scan(v);
    for (; v->ring_next < v->ring_seen; v->ring_next++, taken++) {
        struct kvm_dirty_gfn *e = entry(v, v->ring_next);

        if (e->slot < kvm->slot_count && kvm->slots[e->slot].bits &&
            e->offset < kvm->slots[e->slot].pages) {
            kvm->fresh += !bitmap_test(kvm->slots[e->slot].bits, e->offset);
            bitmap_set(kvm->slots[e->slot].bits, e->offset);
        }
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    if (taken) {
        memset(v->ring_recent, 0, sizeof(v->ring_recent)); /* they are armed again */
    }
    kvm->ring_harvested += taken;
    kvm->ring_unarmed += taken;
    return taken;
}

/* Some of the pages in bits may not have been armed. */
static void become_unsure(struct kvm *kvm)
{
    for (unsigned i = 0; i < kvm->slot_count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];

        if (slot->bits) {
            if (!slot->unsure) {
                slot->unsure = bitmap_new(slot->pages);
            }
            for (uint64_t w = 0; w < BITMAP_WORDS(slot->pages); w++) {
                slot->unsure[w] |= slot->bits[w];
            }
        }
    }
}

/* Arms all that was taken. False: it is not, and what is written next would be missed. */
static bool ring_reset(struct kvm *kvm)
{
    sigset_t all, before;

    if (!kvm->ring_unarmed) {
        return true;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned tries = 0; kvm->ring_unarmed && tries < RESET_TRIES; tries++) {
        int rc = kvm_vm_ioctl(kvm->vm, KVM_RESET_DIRTY_RINGS, NULL);
        uint64_t freed = MIN((uint64_t)MAX(rc, 0), kvm->ring_unarmed);

        kvm->ring_unarmed -= freed;
        if (freed && kvm->ring_unarmed) {
            become_unsure(kvm);
            tries = 0;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !kvm->ring_unarmed;
}

uint64_t kvm_ring_dirtied(struct kvm_vcpu *v)
{
    uint64_t n;

    if (!v->ring) {
        return 0;
    }
    mutex_lock(&v->kvm->dirty_lock);
    ring_scan(v);
    n = v->ring_dirtied;
    mutex_unlock(&v->kvm->dirty_lock);
    return n;
}

uint64_t kvm_vcpu_dirtied(struct vcpu *vcpu)
{
    return kvm_ring_dirtied(vcpu->accel_data);
}

/* Those with at least so many entries; returns the number taken from the fullest ring. */
static uint32_t take(struct kvm *kvm, uint32_t least)
{
    uint32_t most = 0;

    for (unsigned i = 0; i < kvm->vcpu_count; i++) {
        struct kvm_vcpu *v = &kvm->vcpus[i];
        uint32_t n =
            v->ring && is_dirty(entry(v, v->ring_next + MAX(least, 1u) - 1)) ? ring_take(v) : 0;

        most = MAX(most, n);
    }
    ring_reset(kvm);
    return most;
}

bool kvm_ring_harvest(struct kvm *kvm)
{
    take(kvm, 0);
    return !kvm->ring_unarmed;
}

void kvm_ring_full(struct kvm_vcpu *v)
{
    struct kvm *kvm = v->kvm;

    mutex_lock(&kvm->dirty_lock);
    kvm->ring_full++;
    ring_take(v);
    ring_reset(kvm);
    mutex_unlock(&kvm->dirty_lock);
}

static gpointer reaper_thread(gpointer opaque)
{
    struct kvm *kvm = opaque;
    unsigned wait_ms = REAP_MIN_MS;

    mutex_lock(&kvm->dirty_lock);
    while (!kvm->reaper_quit) {
        /* a page that is armed again costs its vCPU a fault: rings with room are left alone */
        uint32_t most = take(kvm, kvm->ring_entries / 16);

        if (most > kvm->ring_entries / 4) {
            wait_ms = MAX(wait_ms / 2, (unsigned)REAP_MIN_MS);
        } else if (most < kvm->ring_entries / 16) {
            wait_ms = MIN(wait_ms * 2, (unsigned)REAP_MAX_MS);
        }
        cond_wait_until(&kvm->reaper_wake, &kvm->dirty_lock,
                        g_get_monotonic_time() + (gint64)wait_ms * G_TIME_SPAN_MILLISECOND);
    }
    mutex_unlock(&kvm->dirty_lock);
    return NULL;
}

void kvm_ring_start(struct kvm *kvm)
{
    if (!kvm->reaper) {
        kvm->reaper_quit = false;
        /* without it (the host has no thread left) full rings are emptied by their vCPUs */
        kvm->reaper = g_thread_try_new("kvm-ring-reaper", reaper_thread, kvm, NULL);
    }
}

void kvm_ring_stop(struct kvm *kvm)
{
    if (kvm->reaper) {
        mutex_lock(&kvm->dirty_lock);
        kvm->reaper_quit = true;
        cond_signal(&kvm->reaper_wake);
        mutex_unlock(&kvm->dirty_lock);
        g_thread_join(kvm->reaper);
        kvm->reaper = NULL;
    }
}

uint64_t kvm_dirty_ring_harvested(struct vm *vm)
{
    struct kvm *kvm = kvm_of(vm);
    uint64_t n;

    mutex_lock(&kvm->dirty_lock);
    n = kvm->ring_harvested;
    mutex_unlock(&kvm->dirty_lock);
    return n;
}

uint64_t kvm_dirty_ring_full_exits(struct vm *vm)
{
    struct kvm *kvm = kvm_of(vm);
    uint64_t n;

    mutex_lock(&kvm->dirty_lock);
    n = kvm->ring_full;
    mutex_unlock(&kvm->dirty_lock);
    return n;
}
