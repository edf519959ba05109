/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty tracking as tests and operators see it. Main loop, machine lock held. */
#include "accel/accel.h"
#include "accel/kvm.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

DirtyTrackingInfo *qmp_x_query_dirty_tracking(struct vm *vm, GError **err)
{
    DirtyTrackingInfo *info;

    if (!kvm_enabled(vm)) {
        error_set(err, FERRY_ERROR_USER, "Dirty tracking is KVM's: start Ferry with -accel kvm");
        return NULL;
    }
    info = g_new0(DirtyTrackingInfo, 1);
    info->ring_size = vm->accel->dirty_ring_size;
    if (info->ring_size) {
        info->ring_entries = kvm_dirty_ring_harvested(vm);
        info->ring_full_exits = kvm_dirty_ring_full_exits(vm);
    }
    return info;
}
