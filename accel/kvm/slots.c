/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory slots: each RAM map of the machine becomes one KVM slot with the map's index as its id.
 * Maps never change once the machine is built, so slots only change their logging flag.
 *
 * Which slots are tracked: those of migratable blocks that the guest can write. Writes of the guest
 * to read-only slots leave KVM as MMIO and go nowhere.
 */
#include "kvm-internal.h"
#include "util/bitmap.h"
#include "util/error.h"

static bool slot_set(struct kvm *kvm, unsigned id, bool log, GError **err)
{
    const struct ram_map *map = kvm->slots[id].map;
    struct kvm_userspace_memory_region region = {
        .slot = id,
        .flags = (map->readonly ? KVM_MEM_READONLY : 0) | (log ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = map->gpa,
        .memory_size = map->length,
        .userspace_addr = (uintptr_t)map->block->host + map->offset,
    };
    int rc = kvm_vm_ioctl(kvm->vm, KVM_SET_USER_MEMORY_REGION, &region);

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc,
                        "KVM refuses memory '%s' at 0x%" G_GINT64_MODIFIER "x, length "
                        "0x%" G_GINT64_MODIFIER "x%s",
                        map->block->idstr, map->gpa, map->length,
                        log ? ", with dirty logging" : "");
        return false;
    }
    return true;
}

bool kvm_slots_create(struct kvm *kvm, GError **err)
{
    unsigned count;
    const struct ram_map *maps = memory_ram_maps(kvm->vm->memory, &count);
    int max = kvm_check_extension(kvm->vm, KVM_CAP_NR_MEMSLOTS);

    if (max && count > (unsigned)max) {
        error_set(err, FERRY_ERROR_HOST, "KVM has %d memory slots, the machine needs %u", max,
                  count);
        return false;
    }
    kvm->slots = g_new0(struct kvm_slot, count);
    kvm->slot_count = count;
    for (unsigned i = 0; i < count; i++) {
        struct kvm_slot *slot = &kvm->slots[i];

        slot->map = &maps[i];
        slot->pages = maps[i].length >> TARGET_PAGE_BITS;
        slot->tracked = maps[i].block->migratable && !maps[i].readonly;
        if (!slot_set(kvm, i, false, err)) {
            return false;
        }
    }
    return true;
}

void kvm_slots_free(struct kvm *kvm)
{
    for (unsigned i = 0; i < kvm->slot_count; i++) {
        g_free(kvm->slots[i].bits);
        g_free(kvm->slots[i].unsure);
    }
    g_clear_pointer(&kvm->slots, g_free);
    g_clear_pointer(&kvm->scratch, g_free);
    kvm->slot_count = 0;
}

bool kvm_slots_log(struct kvm *kvm, bool on, GError **err)
{
    for (unsigned i = 0; i < kvm->slot_count; i++) {
        if (kvm->slots[i].tracked && !slot_set(kvm, i, on, err)) {
            for (unsigned j = 0; on && j < i; j++) {
                if (kvm->slots[j].tracked) {
                    slot_set(kvm, j, false, NULL);
                }
            }
            return false;
        }
    }
    return true;
}
