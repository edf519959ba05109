/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a machine, in the one order in which nothing is used after it went: who may still run
 * the guest (migration), then the vCPUs, then who talks (monitors, qtest, devices), then what they
 * talked through (chardevs) and worked on (memory).
 */
#include "accel/accel.h"
#include "block/block.h"
#include "chardev/chardev.h"
#include "clock.h"
#include "hw/device.h"
#include "hw/virtio/virtio.h"
#include "loop.h"
#include "migration/migration.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "system/config.h"
#include "system/qtest.h"
#include "system/vm-init.h"
#include "target/i386/cpu.h"

void vm_free(struct vm *vm)
{
    vm->exiting = true;
    migration_free(vm);
    if (vm->accel) {
        vm->accel->ops->stop(vm);
    }
    virtio_thread_stop(vm);
    qtest_free(vm);
    monitor_set_free(vm->monitors);
    vm->monitors = NULL;
    while (vm->devices->len) {
        device_free(g_ptr_array_index(vm->devices, vm->devices->len - 1));
    }
    net_set_free(vm->net);
    board_free(vm);
    x86_cpus_free(vm);
    accel_free(vm->accel);
    if (vm->chardevs) {
        chardev_set_free(vm->chardevs);
    }
    block_set_free(vm->blocks);
    virtio_free(vm);
    savevm_free(vm->savevm);
    memory_free(vm->memory);
    vm_clock_free(vm->clock);
    vm_loop_free(vm->loop);
    g_ptr_array_free(vm->devices, TRUE);
    g_free(vm->name);
    vm_unlock(vm);
    mutex_clear(&vm->lock);
    g_free(vm);
}
