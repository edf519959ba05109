/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tracking of the guest's writes, as accel_ops has it: from KVM's slots to the bitmaps of blocks.
 * Where the bits come from is the business of dirty-log.c or dirty-ring.c.
 *
 * A block may be mapped in several slots, each of which knows only the writes that went through it;
 * they are merged: page of the block = (map's offset + offset in the slot) / page size.
 *
 * Migration may call from any thread, one at a time, without the machine lock; dirty_lock keeps the
 * ring's reaper and vCPU threads apart from it. Tracking is on while it has a user; migration alone
 * collects pages, the others count them (kvm_dirty_count(), kvm_vcpu_dirtied()), which takes
 * nothing from migration.
 */
#include <inttypes.h>

#include "kvm-internal.h"
#include "util/bitmap.h"
#include "util/dirty-set.h"
#include "util/error.h"

/* users_lock */
static bool begin(struct kvm *kvm, GError **err)
{
    uint64_t largest = 0;
    bool ok;

    mutex_lock(&kvm->dirty_lock);
    for (unsigned i = 0; i < kvm->slot_count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];

        if (slot->tracked) {
            slot->bits = bitmap_new(slot->pages);
            largest = MAX(largest, slot->pages);
        }
    }
    kvm->scratch = bitmap_new(largest);
    ok = kvm_slots_log(kvm, true, err);
    kvm->tracking = ok;
    mutex_unlock(&kvm->dirty_lock);
    if (ok && kvm->ring_entries) {
        kvm_ring_start(kvm);
    }
    return ok;
}

/* users_lock */
static void end(struct kvm *kvm)
{
    if (kvm->ring_entries) {
        kvm_ring_stop(kvm);
    }
    mutex_lock(&kvm->dirty_lock);
    if (kvm->tracking) {
        kvm_slots_log(kvm, false, NULL);
        if (kvm->ring_entries) {
            kvm_ring_harvest(kvm); /* leave empty rings behind */
        }
    }
    kvm->tracking = false;
    for (unsigned i = 0; i < kvm->slot_count; i++) {
        g_clear_pointer(&kvm->slots[i].bits, g_free);
        g_clear_pointer(&kvm->slots[i].unsure, g_free);
    }
    g_clear_pointer(&kvm->scratch, g_free);
    mutex_unlock(&kvm->dirty_lock);
}

/*
 * What a new user finds as seen, and may be cleared. Migration sends everything in its first round,
 * so what the log or the ring holds by then is superfluous. Where the log begins with all pages
 * set, they are cleared one by one by that round; who only counts has them cleared at once.
 * dirty_lock.
 */
static bool welcome(struct kvm *kvm, enum kvm_dirty_user user, bool first, GError **err)
{
    bool ok = true;

    for (unsigned i = 0; ok && i < kvm->slot_count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];

        if (!slot->bits) {
            continue;
        }
        if (first && kvm->initially_set) {
            bitmap_set_range(slot->bits, 0, slot->pages);
            if (user != KVM_DIRTY_MIGRATION) {
                kvm_log_clear(kvm, i, 0, slot->pages);
            }
        } else if (user == KVM_DIRTY_MIGRATION && kvm->ring_entries) {
            bitmap_clear_range(slot->bits, 0, slot->pages);
        } else if (user == KVM_DIRTY_MIGRATION && !first) {
            ok = kvm_log_sync(kvm, i, err);
        }
    }
    return ok;
}

bool kvm_dirty_use(struct vm *vm, enum kvm_dirty_user user, GError **err)
{
    struct kvm *kvm = kvm_of(vm);
    bool ok = true;

    mutex_lock(&kvm->users_lock);
    if (!(kvm->users & user)) {
        ok = kvm->users || begin(kvm, err);
        if (ok) {
            mutex_lock(&kvm->dirty_lock);
            ok = welcome(kvm, user, !kvm->users, err);
            mutex_unlock(&kvm->dirty_lock);
        }
        if (ok) {
            kvm->users |= user;
        } else if (!kvm->users) {
            end(kvm);
        }
    }
    mutex_unlock(&kvm->users_lock);
    return ok;
}

void kvm_dirty_unuse(struct vm *vm, enum kvm_dirty_user user)
{
    struct kvm *kvm = kvm_of(vm);

    mutex_lock(&kvm->users_lock);
    if (kvm->users & user) {
        kvm->users &= ~(unsigned)user;
        if (!kvm->users) {
            end(kvm);
        }
    }
    mutex_unlock(&kvm->users_lock);
}

void kvm_dirty_end(struct kvm *kvm)
{
    mutex_lock(&kvm->users_lock);
    kvm->users = 0;
    end(kvm);
    mutex_unlock(&kvm->users_lock);
}

bool kvm_dirty_start(struct vm *vm, GError **err)
{
    return kvm_dirty_use(vm, KVM_DIRTY_MIGRATION, err);
}

void kvm_dirty_stop(struct vm *vm)
{
    kvm_dirty_unuse(vm, KVM_DIRTY_MIGRATION);
}

bool kvm_dirty_count(struct vm *vm, uint64_t *pages)
{
    struct kvm *kvm = kvm_of(vm);
    bool ok = true;

    mutex_lock(&kvm->dirty_lock);
    if (kvm->tracking && kvm->ring_entries) {
        ok = kvm_ring_harvest(kvm);
    }
    *pages = kvm->fresh;
    for (unsigned i = 0; ok && !kvm->ring_entries && i < kvm->slot_count; i++) {
        ok = !kvm->slots[i].tracked || kvm_log_count(kvm, i, pages);
    }
    ok = ok && kvm->tracking;
    mutex_unlock(&kvm->dirty_lock);
    return ok;
}

static bool ring_harvest(struct kvm *kvm, GError **err)
{
    if (!kvm_ring_harvest(kvm)) {
        error_set(err, FERRY_ERROR_HOST,
                  "KVM does not reset its dirty rings (%" PRIu64
                  " entries are left), so pages written next would be missed; leave out "
                  "dirty-ring-size",
                  kvm->ring_unarmed);
        return false;
    }
    return true;
}

bool kvm_dirty_sync(struct vm *vm, struct ram_block *block, struct dirty_set *set, GError **err)
{
    struct kvm *kvm = kvm_of(vm);
    bool ok = true, flushed = false;

    for (unsigned i = 0; ok && i < kvm->slot_count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];

        if (slot->map->block != block || !slot->tracked) {
            continue;
        }
        if (kvm->ring_entries && !flushed) {
            ok = kvm_vcpus_flush(kvm, err);
            flushed = true;
        }
        mutex_lock(&kvm->dirty_lock);
        if (ok && kvm->tracking) {
            if (kvm->ring_entries) {
                ok = ring_harvest(kvm, err);
            } else {
                ok = kvm_log_sync(kvm, i, err);
            }
            if (ok) {
                dirty_set_merge(set, slot->map->offset >> TARGET_PAGE_BITS, slot->bits,
                                slot->pages);
            }
            if (ok && slot->unsure) {
                dirty_set_merge(set, slot->map->offset >> TARGET_PAGE_BITS, slot->unsure,
                                slot->pages);
            }
            if (kvm->ring_entries) {
                memset(slot->bits, 0, BITMAP_WORDS(slot->pages) * sizeof(long));
            }
        }
        mutex_unlock(&kvm->dirty_lock);
    }
    return ok;
}

void kvm_dirty_clear(struct vm *vm, struct ram_block *block, uint64_t first_page, uint64_t pages)
{
    struct kvm *kvm = kvm_of(vm);

    if (!kvm->manual_protect) {
        return; /* the log re-arms when it is read, the ring when it is reset */
    }
    mutex_lock(&kvm->dirty_lock);
    for (unsigned i = 0; kvm->tracking && i < kvm->slot_count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];
        uint64_t at = slot->map->offset >> TARGET_PAGE_BITS;
        uint64_t first = MAX(first_page, at);
        uint64_t end = MIN(first_page + pages, at + slot->pages);

        if (slot->map->block == block && slot->tracked && first < end) {
            kvm_log_clear(kvm, i, first - at, end - first);
        }
    }
    mutex_unlock(&kvm->dirty_lock);
}
