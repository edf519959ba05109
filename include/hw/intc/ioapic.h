/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An I/O APIC in user space: 24 interrupt pins, delivered as messages through the accelerator. Used
 * for the second IOAPIC of a machine, and for the first where the accelerator has none.
 *
 * A device that keeps a level-triggered line high after the guest acknowledged something calls
 * vm_irq_set() again with the level it wants: see hw/intc/ioapic.c. Machine lock held.
 */
#ifndef HW_INTC_IOAPIC_H
#define HW_INTC_IOAPIC_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct device;
struct vm;

/* Makes the IOAPIC with registers at guest-physical `base`; instance: 0, 1, in the stream. NULL:
 * err is set. */
struct device *ioapic_create(struct vm *vm, uint64_t base, uint32_t instance, GError **err);
void ioapic_set_pin(struct device *ioapic, unsigned pin, bool level);

#endif
