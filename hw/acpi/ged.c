/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The generic event device; registers and interface in include/hw/acpi/ged.h.
 *
 * An event is a bit that stays until the guest reads it, and a pulse on the interrupt line. The
 * pulse may be lost (a guest that has not set up the line yet); the bit then goes along with the
 * next event. Register accesses and the power button come with the machine lock held, which is all
 * the locking there is.
 *
 * In the stream: the pending events, and the selector of QEMU's memory hotplug registers. Those
 * registers are not reachable on this machine (it has no memory slots), so the selector is only
 * carried.
 */
#include "hw/acpi/ged.h"

#include "hw/device.h"
#include "hw/i386/savevm-order.h"
#include "system/memory.h"
#include "system/vm.h"

#define SLEEP_ENABLE     0x20
#define SLEEP_TYPE_SHIFT 2
#define SLEEP_TYPE_MASK  7

/* What is saved, in the shape the wire has. */
struct ged_events {
    uint32_t pending;
};

struct ged_memory_hotplug {
    uint32_t selector;
};

struct ged_state {
    struct ged_events events;
    struct ged_memory_hotplug memory_hotplug;
};

struct ged {
    struct device dev;
    uint64_t base;
    unsigned gsi;
    struct ged_state state;
};

static uint64_t ged_events_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ged *ged = opaque;
    uint32_t pending = ged->state.events.pending;

    if (offset != 0 || size != GED_EVENTS_SIZE) {
        return 0;
    }
    ged->state.events.pending = 0;
    return pending;
}

static void ged_ignore_write(void *opaque G_GNUC_UNUSED, uint64_t offset G_GNUC_UNUSED,
                             uint64_t value G_GNUC_UNUSED, unsigned size G_GNUC_UNUSED)
{
}

static uint64_t ged_registers_read(void *opaque G_GNUC_UNUSED, uint64_t offset G_GNUC_UNUSED,
                                   unsigned size G_GNUC_UNUSED)
{
    return 0;
}

static void ged_sleep_control(struct ged *ged, uint8_t value)
{
    unsigned type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;

    if ((value & SLEEP_ENABLE) && type == GED_SLEEP_TYPE_S5) {
        vm_request_shutdown(ged->dev.vm, SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    }
}

static void ged_registers_write(void *opaque, uint64_t offset, uint64_t value,
                                unsigned size G_GNUC_UNUSED)
{
    struct ged *ged = opaque;

    switch (offset + GED_SLEEP_CONTROL) {
    case GED_SLEEP_CONTROL:
        ged_sleep_control(ged, value);
        break;
    case GED_RESET:
        if ((uint8_t)value == GED_RESET_VALUE) {
            vm_request_reset(ged->dev.vm, SHUTDOWN_CAUSE_GUEST_RESET);
        }
        break;
    }
}

static const struct io_ops ged_events_ops = {
    .read = ged_events_read,
    .write = ged_ignore_write,
    .max_size = GED_EVENTS_SIZE,
};

static const struct io_ops ged_registers_ops = {
    .read = ged_registers_read,
    .write = ged_registers_write,
    .max_size = 1,
};

static void ged_press_power_button(void *opaque)
{
    struct ged *ged = opaque;

    ged->state.events.pending |= GED_EVENT_POWER_BUTTON;
    vm_irq_set(ged->dev.vm, ged->gsi, true);
    vm_irq_set(ged->dev.vm, ged->gsi, false);
}

static bool ged_realize(struct device *dev, GError **err G_GNUC_UNUSED)
{
    struct ged *ged = (struct ged *)dev;
    struct memory *mem = dev->vm->memory;

    memory_add_io(mem, IO_SPACE_MEM, ged->base + GED_EVENTS, GED_EVENTS_SIZE, &ged_events_ops, ged,
                  "acpi-ged");
    memory_add_io(mem, IO_SPACE_MEM, ged->base + GED_SLEEP_CONTROL, GED_REGISTERS_SIZE,
                  &ged_registers_ops, ged, "acpi-ged-regs");
    vm_set_powerdown_handler(dev->vm, ged_press_power_button, ged);
    return true;
}

static void ged_unrealize(struct device *dev)
{
    vm_set_powerdown_handler(dev->vm, NULL, NULL);
}

static void ged_reset(struct device *dev)
{
    struct ged *ged = (struct ged *)dev;

    ged->state = (struct ged_state){ 0 };
}

static const struct vmstate ged_events_vmstate = {
    .name = "acpi-ged-state",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct ged_events),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct ged_events, "sel", VMS_U32, pending),
            {},
        },
};

static const struct vmstate ged_memory_hotplug_vmstate = {
    .name = "memory hotplug state",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct ged_memory_hotplug),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct ged_memory_hotplug, "selector", VMS_U32, selector),
            {},
        },
};

static const struct vmstate ged_memhp_vmstate = {
    .name = "acpi-ged/memhp",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct ged_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_NEST(struct ged_state, "memhp_state", memory_hotplug, &ged_memory_hotplug_vmstate),
            {},
        },
};

static bool ged_memhp_needed(const void *state G_GNUC_UNUSED)
{
    return true; /* QEMU sends it always */
}

static bool ged_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    const struct ged *ged = opaque;

    *(struct ged_state *)state = ged->state;
    return true;
}

static bool ged_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                     GError **err G_GNUC_UNUSED)
{
    struct ged *ged = opaque;

    ged->state = *(const struct ged_state *)state;
    return true;
}

static const struct vmstate ged_vmstate = {
    .name = "acpi-ged",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct ged_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_NEST(struct ged_state, "ged_state", events, &ged_events_vmstate),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &ged_memhp_vmstate, .needed = ged_memhp_needed },
            {},
        },
    .save = ged_save,
    .load = ged_load,
};

static const struct device_class ged_class = {
    .name = "acpi-ged-x86",
    .description = "ACPI generic event device",
    .size = sizeof(struct ged),
    .realize = ged_realize,
    .unrealize = ged_unrealize,
    .reset = ged_reset,
    .vmstate = &ged_vmstate,
};
DEVICE_CLASS(ged_class);

struct device *ged_create(struct vm *vm, uint64_t base, unsigned gsi, GError **err)
{
    struct device *dev = device_new(vm, &ged_class, NULL, err);
    struct ged *ged = (struct ged *)dev;

    if (!dev) {
        return NULL;
    }
    dev->savevm_order = SAVEVM_ORDER_GED;
    ged->base = base;
    ged->gsi = gsi;
    return device_realize(dev, err) ? dev : NULL;
}
