/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KVM's dirty log: one bit per page of a slot.
 *
 * With manual protect reading the log changes nothing; a page is armed again by
 * KVM_CLEAR_DIRTY_LOG, which migration asks for just before it sends the page. A bit may be cleared
 * only if migration has seen it: a page dirtied since the last read has its bit set in the kernel
 * but not in migration's bitmap, and clearing that bit would lose the page. slot->bits is what
 * migration has seen and not yet cleared; only those bits are ever cleared.
 *
 * Without manual protect KVM_GET_DIRTY_LOG reads, clears and arms in one go.
 */
#include <string.h>

#include "kvm-internal.h"
#include "util/bitmap.h"
#include "util/error.h"

bool kvm_log_sync(struct kvm *kvm, unsigned id, GError **err)
{
    struct kvm_slot *slot = &kvm->slots[id];
    /* what is not cleared yet is reported again, so this is always the whole of it */
    struct kvm_dirty_log log = { .slot = id, .dirty_bitmap = slot->bits };
    int rc = kvm_vm_ioctl(kvm->vm, KVM_GET_DIRTY_LOG, &log);

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc,
                        "KVM does not say which pages of memory '%s' are dirty",
                        slot->map->block->idstr);
        return false;
    }
    return true;
}

bool kvm_log_count(struct kvm *kvm, unsigned id, uint64_t *pages)
{
    struct kvm_slot *slot = &kvm->slots[id];
    struct kvm_dirty_log log = { .slot = id, .dirty_bitmap = kvm->scratch };

    if (!kvm->manual_protect || !kvm->tracking ||
        kvm_vm_ioctl(kvm->vm, KVM_GET_DIRTY_LOG, &log) < 0) {
        return false;
    }
    *pages += bitmap_count(kvm->scratch, slot->pages);
    return true;
}

bool kvm_log_clear_mask(const struct kvm_slot *slot, uint64_t first, uint64_t pages,
                        unsigned long *mask, struct kvm_clear_dirty_log *clear)
{
    uint64_t end = first + pages;
    uint64_t from = bitmap_next_set(slot->bits, end, first);

    if (from >= end) {
        return false;
    }
    /* KVM wants the first page and, unless it ends the slot, the number to be multiples of 64 */
    uint64_t base = from / BITS_PER_LONG * BITS_PER_LONG;
    uint64_t count = MIN(BITMAP_WORDS(end) * BITS_PER_LONG, slot->pages) - base;
    uint64_t words = BITMAP_WORDS(count);

    clear->first_page = base;
    clear->num_pages = (uint32_t)count;
    clear->dirty_bitmap = mask;
    memcpy(mask, slot->bits + base / BITS_PER_LONG, words * sizeof(long));
    bitmap_clear_range(mask, 0, from - base);
    if (base + words * BITS_PER_LONG > end) {
        bitmap_clear_range(mask, end - base, words * BITS_PER_LONG - (end - base));
    }
    return true;
}

void kvm_log_clear(struct kvm *kvm, unsigned id, uint64_t first, uint64_t pages)
{
    struct kvm_slot *slot = &kvm->slots[id];
    struct kvm_clear_dirty_log clear = { .slot = id };

    if (!kvm_log_clear_mask(slot, first, pages, kvm->scratch, &clear) ||
        kvm_vm_ioctl(kvm->vm, KVM_CLEAR_DIRTY_LOG, &clear) < 0) {
        return; /* after an error the bits stay set: the pages are only reported again */
    }
    kvm->fresh += bitmap_count_range(slot->bits, first, pages);
    bitmap_clear_range(slot->bits, first, pages);
}
