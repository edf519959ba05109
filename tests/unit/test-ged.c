/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The generic event device alone: what surrounds it is played by the functions below, which note
 * what the device asks of the machine. Linked without the rest of the program.
 */
#include <glib.h>
#include <string.h>

#include "hw/acpi/ged.h"
#include "hw/device.h"
#include "system/memory.h"
#include "system/vm.h"

#define BASE UINT64_C(0xfea00000)
#define GSI  9

static struct {
    struct {
        uint64_t base, length;
        const struct io_ops *ops;
        void *opaque;
    } regions[2];
    unsigned region_count;
    const struct device_class *class;
    void (*power_button)(void *opaque);
    void *power_button_opaque;
    GString *log; /* what the device asked for, in order */
} machine;

void device_class_register(const struct device_class *class)
{
    machine.class = class;
}

struct device *device_new(struct vm *vm, const struct device_class *class,
                          const char *id G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    struct device *dev = g_malloc0(class->size);

    dev->class = class;
    dev->vm = vm;
    return dev;
}

bool device_realize(struct device *dev, GError **err)
{
    return dev->class->realize(dev, err);
}

void memory_add_io(struct memory *mem G_GNUC_UNUSED, enum io_space space, uint64_t base,
                   uint64_t length, const struct io_ops *ops, void *opaque,
                   const char *name G_GNUC_UNUSED)
{
    g_assert_cmpint(space, ==, IO_SPACE_MEM);
    g_assert_cmpuint(machine.region_count, <, G_N_ELEMENTS(machine.regions));
    machine.regions[machine.region_count].base = base;
    machine.regions[machine.region_count].length = length;
    machine.regions[machine.region_count].ops = ops;
    machine.regions[machine.region_count++].opaque = opaque;
}

void vm_set_powerdown_handler(struct vm *vm G_GNUC_UNUSED, void (*fn)(void *opaque), void *opaque)
{
    machine.power_button = fn;
    machine.power_button_opaque = opaque;
}

void vm_irq_set(struct vm *vm G_GNUC_UNUSED, unsigned gsi, bool level)
{
    g_string_append_printf(machine.log, "irq%u=%d ", gsi, level);
}

void vm_request_reset(struct vm *vm G_GNUC_UNUSED, ShutdownCause cause)
{
    g_assert_cmpint(cause, ==, SHUTDOWN_CAUSE_GUEST_RESET);
    g_string_append(machine.log, "reset ");
}

void vm_request_shutdown(struct vm *vm G_GNUC_UNUSED, ShutdownCause cause)
{
    g_assert_cmpint(cause, ==, SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    g_string_append(machine.log, "shutdown ");
}

static struct device *setup(void)
{
    static struct vm vm;
    g_autoptr(GError) err = NULL;
    struct device *dev;

    machine.region_count = 0;
    machine.log = g_string_new(NULL);
    dev = ged_create(&vm, BASE, GSI, &err);
    g_assert_no_error(err);
    g_assert_nonnull(dev);
    g_assert_cmpuint(machine.region_count, ==, 2);
    dev->class->reset(dev);
    return dev;
}

static void teardown(struct device *dev)
{
    dev->class->unrealize(dev);
    g_assert_true(machine.power_button == NULL);
    g_string_free(machine.log, true);
    g_free(dev);
}

/* Like the machine's memory: wide accesses are split, and nothing outside a region reaches it. */
static uint64_t bus(uint64_t addr, uint64_t value, unsigned size, bool write)
{
    uint64_t result = 0;

    for (unsigned i = 0; i < machine.region_count; i++) {
        uint64_t offset = addr - machine.regions[i].base;
        const struct io_ops *ops = machine.regions[i].ops;
        unsigned step = MIN(size, ops->max_size);

        if (addr < machine.regions[i].base || offset >= machine.regions[i].length) {
            continue;
        }
        for (unsigned done = 0; done < size && offset + done < machine.regions[i].length;
             done += step) {
            if (write) {
                ops->write(machine.regions[i].opaque, offset + done, value >> (8 * done), step);
            } else {
                result |= ops->read(machine.regions[i].opaque, offset + done, step) << (8 * done);
            }
        }
    }
    return result;
}

static uint64_t bus_read(uint64_t addr, unsigned size)
{
    return bus(addr, 0, size, false);
}

static void bus_write(uint64_t addr, uint64_t value, unsigned size)
{
    bus(addr, value, size, true);
}

static void assert_log(const char *expected)
{
    g_assert_cmpstr(machine.log->str, ==, expected);
    g_string_truncate(machine.log, 0);
}

static void press(void)
{
    machine.power_button(machine.power_button_opaque);
}

static void test_power_button(void)
{
    struct device *dev = setup();

    g_assert_cmpuint(bus_read(BASE, 4), ==, 0);
    press();
    assert_log("irq9=1 irq9=0 ");
    /* only a whole, aligned read fetches the events */
    g_assert_cmpuint(bus_read(BASE, 1), ==, 0);
    g_assert_cmpuint(bus_read(BASE, 2), ==, 0);
    g_assert_cmpuint(bus_read(BASE + 1, 4), ==, 0);
    g_assert_cmpuint(bus_read(BASE + 2, 2), ==, 0);
    bus_write(BASE, UINT32_MAX, 4);
    bus_write(BASE, 0, 4);
    g_assert_cmpuint(bus_read(BASE, 4), ==, GED_EVENT_POWER_BUTTON);
    g_assert_cmpuint(bus_read(BASE, 4), ==, 0);

    press();
    press();
    assert_log("irq9=1 irq9=0 irq9=1 irq9=0 ");
    g_assert_cmpuint(bus_read(BASE, 4), ==, GED_EVENT_POWER_BUTTON);
    g_assert_cmpuint(bus_read(BASE, 4), ==, 0);
    teardown(dev);
}

static void test_sleep_control(void)
{
    struct device *dev = setup();

    for (unsigned value = 0; value < 256; value++) {
        bus_write(BASE + 0x200, value, 1);
        /* enable bit and type 5, whatever the bits beside them */
        assert_log((value & 0x3c) == 0x34 ? "shutdown " : "");
    }
    bus_write(BASE + 0x201, 0x80, 1);
    assert_log("");
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(bus_read(BASE + 0x200 + i, 1), ==, 0);
    }
    teardown(dev);
}

static void test_reset_register(void)
{
    struct device *dev = setup();

    for (unsigned value = 0; value < 256; value++) {
        bus_write(BASE + 0x202, value, 1);
        assert_log(value == 0x42 ? "reset " : "");
    }
    /* wider writes reach it byte by byte */
    bus_write(BASE + 0x200, 0x420000, 4);
    assert_log("reset ");
    bus_write(BASE + 0x201, 0x4200, 2);
    assert_log("reset ");
    bus_write(BASE + 0x202, 0x4242, 2);
    assert_log("reset ");
    teardown(dev);
}

static void test_machine_reset(void)
{
    struct device *dev = setup();

    press();
    dev->class->reset(dev);
    g_assert_cmpuint(bus_read(BASE, 4), ==, 0);
    teardown(dev);
}

/* An event that waits travels. The wire has it in ged_state.sel; see also the subsection. */
static void test_state(void)
{
    struct device *from = setup();
    const struct vmstate *vmstate = from->class->vmstate;
    const struct vmstate *memhp = vmstate->subsections[0].vmstate;
    g_autofree uint8_t *state = g_malloc0(vmstate->size);
    g_autoptr(GError) err = NULL;
    struct device *to;

    g_assert_cmpstr(vmstate->name, ==, "acpi-ged");
    g_assert_cmpstr(vmstate->fields[0].name, ==, "ged_state");
    g_assert_cmpstr(vmstate->fields[0].sub->fields[0].name, ==, "sel");
    g_assert_cmpstr(memhp->name, ==, "acpi-ged/memhp");
    g_assert_cmpstr(memhp->fields[0].sub->fields[0].name, ==, "selector");
    g_assert_true(vmstate->subsections[0].needed(state));

    press();
    g_assert_true(vmstate->save(from, state, &err));
    g_assert_cmpuint(*(uint32_t *)(state + vmstate->fields[0].offset), ==, GED_EVENT_POWER_BUTTON);
    *(uint32_t *)(state + memhp->fields[0].offset) = 7;
    teardown(from);

    to = setup();
    g_assert_true(vmstate->load(to, state, 1, &err));
    memset(state, 0, vmstate->size);
    g_assert_true(vmstate->save(to, state, &err));
    g_assert_cmpuint(*(uint32_t *)(state + memhp->fields[0].offset), ==, 7);
    g_assert_cmpuint(bus_read(BASE, 4), ==, GED_EVENT_POWER_BUTTON);
    assert_log("");
    teardown(to);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_nonnull(machine.class);
    g_test_add_func("/ged/power-button", test_power_button);
    g_test_add_func("/ged/sleep-control", test_sleep_control);
    g_test_add_func("/ged/reset-register", test_reset_register);
    g_test_add_func("/ged/machine-reset", test_machine_reset);
    g_test_add_func("/ged/state", test_state);
    return g_test_run();
}
