/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where each section of the microvm machine stands in a migration stream. A QEMU destination
 * finds sections by name, but loads them as they come, so the order is the one that QEMU's microvm
 * sends. Numbers go to savevm_register() (devices: dev->savevm_order); equal numbers are sent in
 * order of registration.
 *
 *   timer, slirp, fw_cfg, {cpu_common, cpu, [kvm-tpr-opt], apic} per vCPU, ioapic, ioapic#1,
 *   kvmclock, acpi-ged, i8259, i8259#1, i8254, mc146818rtc, serial, virtio..., globalstate
 */
#ifndef HW_I386_SAVEVM_ORDER_H
#define HW_I386_SAVEVM_ORDER_H

enum {
    SAVEVM_ORDER_TIMER = 0,
    SAVEVM_ORDER_NETDEV = 100,
    SAVEVM_ORDER_FW_CFG = 200,
    SAVEVM_ORDER_CPU = 300, /* first vCPU; use the macros below */
    SAVEVM_ORDER_IOAPIC = 400,
    SAVEVM_ORDER_KVMCLOCK = 500,
    SAVEVM_ORDER_GED = 600,
    SAVEVM_ORDER_PIC = 700,
    SAVEVM_ORDER_PIT = 710,
    SAVEVM_ORDER_RTC = 720,
    SAVEVM_ORDER_SERIAL = 730,
    SAVEVM_ORDER_VIRTIO = 800,
    SAVEVM_ORDER_GLOBALSTATE = 900,
};

/* cpu_common and cpu (registered in this order) of vCPU i, then its apic; kvm-tpr-opt comes
 * between cpu and apic of the first vCPU. */
#define SAVEVM_ORDER_CPU_STATE(i) (SAVEVM_ORDER_CPU + 4 * (i))
#define SAVEVM_ORDER_TPR_OPT      (SAVEVM_ORDER_CPU + 1)
#define SAVEVM_ORDER_APIC(i)      (SAVEVM_ORDER_CPU + 4 * (i) + 2)

#endif
