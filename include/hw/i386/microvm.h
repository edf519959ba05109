/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The microvm machine: its addresses and interrupt lines, which are QEMU's (measured with
 * `info mtree` and the ACPI tables of 7.2), and what devices ask of the board.
 *
 *            interrupts                                     virtio-mmio slots
 *   acpi=on, ioapic2=on (the default)   GSI 0-23, 24-47     24, GSI 24-47
 *   acpi=on, ioapic2=off                GSI 0-23            8, GSI 16-23
 *   acpi=off                            GSI 0-23            8, GSI 5-12
 */
#ifndef HW_I386_MICROVM_H
#define HW_I386_MICROVM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct device;
struct vm;

#define MICROVM_SERIAL_PORT 0x3f8
#define MICROVM_SERIAL_IRQ  4
#define MICROVM_RTC_PORT    0x70
#define MICROVM_RTC_IRQ     8
#define MICROVM_GED_IRQ     9

#define MICROVM_GED_BASE     UINT64_C(0xfea00000)
#define MICROVM_VIRTIO_BASE  UINT64_C(0xfeb00000)
#define MICROVM_VIRTIO_SIZE  0x200
#define MICROVM_IOAPIC_BASE  UINT64_C(0xfec00000)
#define MICROVM_IOAPIC2_BASE UINT64_C(0xfec10000)
#define MICROVM_LAPIC_BASE   UINT64_C(0xfee00000)

#define MICROVM_IOAPIC_PINS 24
#define MICROVM_MAX_SLOTS   24
/* RAM from here on is put above 4 GiB. */
#define MICROVM_BELOW_4G_MAX UINT64_C(0xc0000000)

/*
 * Takes a virtio-mmio slot, the free one with the highest address, as QEMU gives them out; NULL
 * when all are taken. The slot is a "virtio-mmio" device (hw/misc/virtio-slot.h). Before the first
 * reset of the machine; machine lock held.
 */
struct device *microvm_claim_slot(struct vm *vm, GError **err);

#endif
