/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The generic event device: what a hardware-reduced ACPI machine has instead of fixed power
 * management hardware. Two register windows in memory, and one edge-triggered interrupt.
 *
 *   base + 0x000  le32, read only: events since the last read; reading clears. Other widths and
 *                 unaligned reads give 0 and clear nothing.
 *   base + 0x200  u8, write only: sleep control; a write of "enter S5" powers off
 *   base + 0x201  u8: sleep status; always 0, the machine never wakes from anything
 *   base + 0x202  u8, write only: reset; GED_RESET_VALUE resets the machine
 *
 * The layout is that of QEMU's microvm (measured), so a guest can move between the two while it
 * holds tables of the other.
 */
#ifndef HW_ACPI_GED_H
#define HW_ACPI_GED_H

#include <glib.h>
#include <stdint.h>

struct device;
struct vm;

enum {
    GED_EVENTS = 0x000, /* offsets from the base */
    GED_EVENTS_SIZE = 4,
    GED_SLEEP_CONTROL = 0x200,
    GED_SLEEP_STATUS = 0x201,
    GED_RESET = 0x202,
    GED_REGISTERS_SIZE = 3,
};

#define GED_EVENT_POWER_BUTTON 0x02 /* bit in GED_EVENTS */
#define GED_RESET_VALUE        0x42
#define GED_SLEEP_TYPE_S5      5

/*
 * Makes the machine's event device: registers at guest-physical @base, events signalled on @gsi.
 * It becomes what the power button of the machine presses. Machine lock held. NULL on failure.
 */
struct device *ged_create(struct vm *vm, uint64_t base, unsigned gsi, GError **err);

#endif
