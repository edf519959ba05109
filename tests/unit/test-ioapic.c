/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The user-space IOAPIC alone: when it delivers, what the message says, and what a move does to
 * pins whose line is high. What surrounds it is played by the functions below. Linked without the
 * rest of the program.
 */
#include <glib.h>
#include <string.h>

#include "accel/accel.h"
#include "hw/device.h"
#include "hw/intc/ioapic.h"
#include "system/memory.h"
#include "system/vm.h"

#define BASE   UINT64_C(0xfec10000)
#define MASKED 0x10000
#define LEVEL  0x8000
#define IRR    0x4000

static struct {
    const struct io_ops *ops;
    void *opaque;
    void (*timer)(void *opaque);
    int64_t timer_ns; /* -1: not armed */
    const struct device_class *class;
    GString *messages;
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
    g_assert_cmphex(base, ==, BASE);
    g_assert_cmphex(length, ==, 0x1000);
    machine.ops = ops;
    machine.opaque = opaque;
}

struct vm_timer *vm_timer_new(struct vm *vm G_GNUC_UNUSED, void (*fn)(void *opaque), void *opaque)
{
    machine.timer = fn;
    machine.timer_ns = -1;
    return opaque;
}

void vm_timer_free(struct vm_timer *t G_GNUC_UNUSED)
{
}

void vm_timer_mod(struct vm_timer *t G_GNUC_UNUSED, int64_t expire_ns)
{
    machine.timer_ns = expire_ns;
}

void vm_timer_del(struct vm_timer *t G_GNUC_UNUSED)
{
    machine.timer_ns = -1;
}

static void note_message(struct vm *vm G_GNUC_UNUSED, uint64_t address, uint32_t data)
{
    g_string_append_printf(machine.messages, "%" G_GINT64_MODIFIER "x:%x ", address, data);
}

static const struct accel_ops accel_ops = { .name = "test", .msi = note_message };

static struct device *setup(void)
{
    static struct accel accel = { .ops = &accel_ops };
    static struct vm vm = { .accel = &accel };
    struct device *dev;

    machine.messages = g_string_new(NULL);
    dev = ioapic_create(&vm, BASE, 1, NULL);
    g_assert_nonnull(dev);
    dev->class->reset(dev);
    return dev;
}

static void teardown(struct device *dev)
{
    dev->class->unrealize(dev);
    g_string_free(machine.messages, true);
    g_free(dev);
}

/* What was delivered since the last look. */
static void assert_messages(const char *want)
{
    g_assert_cmpstr(machine.messages->str, ==, want);
    g_string_truncate(machine.messages, 0);
}

static void put(unsigned reg, uint32_t value)
{
    machine.ops->write(machine.opaque, 0, reg, 4);
    machine.ops->write(machine.opaque, 0x10, value, 4);
}

static uint32_t get(unsigned reg)
{
    machine.ops->write(machine.opaque, 0, reg, 4);
    return (uint32_t)machine.ops->read(machine.opaque, 0x10, 4);
}

static void put_entry(unsigned pin, uint64_t entry)
{
    put(0x11 + 2 * pin, entry >> 32);
    put(0x10 + 2 * pin, (uint32_t)entry);
}

static uint32_t entry_low(unsigned pin)
{
    return get(0x10 + 2 * pin);
}

static void test_message(void)
{
    struct device *dev = setup();
    static const struct {
        uint64_t entry;
        const char *message;
    } cases[] = {
        { 0x31, "fee00000:31 " },
        { UINT64_C(3) << 56 | 0x44, "fee03000:44 " },
        { UINT64_C(0xff) << 56 | 0x800 | 0x55, "feeff004:55 " },  /* logical */
        { UINT64_C(0x0f) << 56 | 0x900 | 0x66, "fee0f00c:166 " }, /* lowest priority */
        { 0x400, "fee00000:400 " },                               /* NMI */
        { 0x700, "" },                                            /* ExtINT */
        { LEVEL | 0x77, "fee00000:c077 " },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        put_entry(i, cases[i].entry);
        ioapic_set_pin(dev, i, true);
        ioapic_set_pin(dev, i, false);
        assert_messages(cases[i].message);
    }
    teardown(dev);
}

static void test_edge(void)
{
    struct device *dev = setup();

    ioapic_set_pin(dev, 5, true); /* masked: waits */
    ioapic_set_pin(dev, 5, false);
    assert_messages("");
    put_entry(5, 0x30);
    assert_messages("fee00000:30 ");
    ioapic_set_pin(dev, 5, false);
    ioapic_set_pin(dev, 5, true);
    ioapic_set_pin(dev, 5, true); /* no edge */
    assert_messages("fee00000:30 ");
    put_entry(5, MASKED | 0x30);
    put_entry(5, 0x30); /* nothing waits */
    assert_messages("");
    g_assert_cmphex(entry_low(5), ==, 0x30);
    teardown(dev);
}

static void test_level(void)
{
    struct device *dev = setup();

    put_entry(23, LEVEL | 0x41);
    ioapic_set_pin(dev, 23, true);
    assert_messages("fee00000:c041 ");
    g_assert_cmphex(entry_low(23), ==, LEVEL | IRR | 0x41);
    /* the device still wants attention after the guest acknowledged something */
    ioapic_set_pin(dev, 23, true);
    assert_messages("fee00000:c041 ");
    ioapic_set_pin(dev, 23, false);
    assert_messages("");
    g_assert_cmphex(entry_low(23), ==, LEVEL | 0x41);
    teardown(dev);
}

static void test_level_masked(void)
{
    struct device *dev = setup();

    put_entry(1, LEVEL | MASKED | 0x42);
    ioapic_set_pin(dev, 1, true);
    assert_messages("");
    put_entry(1, LEVEL | 0x42);
    assert_messages("fee00000:c042 ");
    put_entry(1, LEVEL | MASKED | 0x42);
    ioapic_set_pin(dev, 1, false);
    put_entry(1, LEVEL | 0x42); /* the line went low meanwhile */
    assert_messages("");
    teardown(dev);
}

static void test_becomes_level(void)
{
    struct device *dev = setup();

    put_entry(1, MASKED | 0x42);
    ioapic_set_pin(dev, 1, true); /* before the guest says that the pin is level-triggered */
    put_entry(1, LEVEL | 0x42);
    assert_messages("fee00000:c042 ");
    put_entry(1, 0x42); /* to edge and back: how Linux clears remote IRR */
    g_assert_cmphex(entry_low(1), ==, 0x42);
    assert_messages("");
    put_entry(1, LEVEL | 0x42);
    assert_messages("fee00000:c042 ");
    teardown(dev);
}

static void test_eoi_register(void)
{
    struct device *dev = setup();

    put_entry(2, LEVEL | 0x43);
    put_entry(3, LEVEL | 0x44);
    ioapic_set_pin(dev, 2, true);
    ioapic_set_pin(dev, 3, true);
    assert_messages("fee00000:c043 fee00000:c044 ");
    machine.ops->write(machine.opaque, 0x40, 0x43, 4); /* the line is still high */
    assert_messages("fee00000:c043 ");
    ioapic_set_pin(dev, 2, false);
    machine.ops->write(machine.opaque, 0x40, 0x43, 4);
    assert_messages("");
    teardown(dev);
}

static void test_move(void)
{
    struct device *dev = setup();
    const struct vmstate *vms = dev->class->vmstate;
    g_autofree void *state = g_malloc0(vms->size);
    GError *err = NULL;

    put_entry(2, LEVEL | 0x43);
    put_entry(3, MASKED | 0x44);
    put_entry(4, 0x45);
    put(0, 0x05000000);
    ioapic_set_pin(dev, 2, true);
    ioapic_set_pin(dev, 3, true);
    ioapic_set_pin(dev, 4, true);
    assert_messages("fee00000:c043 fee00000:45 ");
    g_assert_true(vms->save(dev, state, &err));
    teardown(dev);

    dev = setup();
    g_assert_true(vms->load(dev, state, 3, &err));
    assert_messages(""); /* not before the machine runs */
    g_assert_cmpint(machine.timer_ns, ==, 0);
    machine.timer(machine.opaque);
    assert_messages("fee00000:c043 "); /* the line is high still; the edge was delivered before */
    g_assert_cmphex(get(0), ==, 0x05000000);
    g_assert_cmphex(entry_low(2), ==, LEVEL | IRR | 0x43);
    put_entry(3, 0x44); /* the masked edge moved along */
    assert_messages("fee00000:44 ");
    ioapic_set_pin(dev, 2, false);
    ioapic_set_pin(dev, 2, true);
    assert_messages("fee00000:c043 ");
    dev->class->reset(dev);
    g_assert_cmphex(entry_low(2), ==, MASKED);
    ioapic_set_pin(dev, 2, true);
    assert_messages("");
    teardown(dev);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ioapic/message", test_message);
    g_test_add_func("/ioapic/edge", test_edge);
    g_test_add_func("/ioapic/level", test_level);
    g_test_add_func("/ioapic/level-masked", test_level_masked);
    g_test_add_func("/ioapic/becomes-level", test_becomes_level);
    g_test_add_func("/ioapic/eoi-register", test_eoi_register);
    g_test_add_func("/ioapic/move", test_move);
    return g_test_run();
}
