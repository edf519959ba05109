/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupt lines of the machine. GSI 0-23 belong to the accelerator, which feeds its PIC and its
 * IOAPIC (or, where it has no IOAPIC, ours); GSI 24-47 are the pins of the second IOAPIC, which is
 * ours and delivers by message.
 */
#include "board.h"

#include "accel/accel.h"
#include "hw/intc/ioapic.h"
#include "system/qtest.h"
#include "system/vm.h"

void vm_irq_set(struct vm *vm, unsigned gsi, bool level)
{
    struct board *board = vm->board;

    if (vm->qtest && gsi < VM_GSI_COUNT) {
        qtest_irq_changed(vm, gsi, level);
    }
    if (gsi < MICROVM_IOAPIC_PINS) {
        vm->accel->ops->irq_line(vm, gsi, level);
        if (board->ioapic[0]) {
            /* ISA interrupt 0 is wired to pin 2, as fw_cfg and the MADT say */
            ioapic_set_pin(board->ioapic[0], gsi == 0 ? 2 : gsi, level);
        }
    } else if (gsi < VM_GSI_COUNT && board->ioapic[1]) {
        ioapic_set_pin(board->ioapic[1], gsi - MICROVM_IOAPIC_PINS, level);
    }
}
