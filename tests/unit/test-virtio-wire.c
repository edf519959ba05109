/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sections of virtio devices from a hostile peer: cut off everywhere, every byte damaged, on
 * machines whose rings are in use, one with output that was written in part. Each is refused with a
 * sentence, or loads as a state that saves and loads again. And layouts and messages by name.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chardev/chardev.h"
#include "hw/device.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate/savevm.h"
#include "qapi/json.h"
#include "system/vm-init.h"

#include "../fuzz/fuzz-machine.h"

#define BASE UINT64_C(0xfeb02e00)
#define SLOT UINT64_C(0x200)
#define RING UINT64_C(0x100000) /* per device 256 KiB */

/* In order of slots: legacy, legacy, version 2. */
enum { RNG, SERIAL, MODERN, DEVICES };
static const char *const idstr[] = {
    [RNG] = "virtio-mmio@00000000feb02e00/virtio-rng",
    [SERIAL] = "virtio-mmio@00000000feb02c00/virtio-console",
    [MODERN] = "virtio-mmio@00000000feb02a00/virtio-rng",
};

static struct fuzz_machine *machine;
static int peer; /* of the port; nobody reads it */

static void must(bool ok, GError *err)
{
    if (!ok) {
        g_error("%s", err->message);
    }
}

static void add(struct vm *vm, const char *driver)
{
    g_autoptr(json_t) options = json_pack("{s:s}", "driver", driver);
    GError *err = NULL;

    if (g_str_equal(driver, "virtserialport")) {
        json_object_set_new(options, "chardev", json_string("c0"));
    }
    must(device_add(vm, options, &err), err);
}

static void add_devices(struct vm *vm, void *opaque G_GNUC_UNUSED)
{
    g_autoptr(json_t) options = NULL;
    g_autofree char *number = NULL;
    GError *err = NULL;
    unsigned slots = 0;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    peer = fds[0];
    number = g_strdup_printf("%d", fds[1]);
    options = json_pack("{s:s, s:s, s:s}", "backend", "socket", "id", "c0", "fd", number);
    must(chardev_open(vm->chardevs, options, &err), err);
    for (unsigned i = vm->devices->len; i-- > 0;) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (g_str_equal(dev->class->name, "virtio-mmio") && slots++ == MODERN) {
            device_set_property(dev, "force-legacy", "off", NULL);
        }
    }
    add(vm, "virtio-rng-device");
    add(vm, "virtio-serial-device");
    add(vm, "virtio-rng-device");
    add(vm, "virtserialport");
}

/* --- a driver --- */

static void put(unsigned device, unsigned offset, uint32_t value)
{
    memory_io(machine->vm->memory, IO_SPACE_MEM, BASE - SLOT * device + offset, &value, 4, true);
}

static uint64_t ring_of(unsigned device, unsigned queue)
{
    return RING + 0x40000 * device + 0x2000 * queue;
}

static void set_up(unsigned device, unsigned queue, unsigned num)
{
    uint64_t ring = ring_of(device, queue);

    put(device, 0x30, queue);
    put(device, 0x38, num);
    if (device == MODERN) {
        put(device, 0x80, (uint32_t)ring);
        put(device, 0x90, (uint32_t)ring + 16 * num);
        put(device, 0xa0, (uint32_t)ring + 0x1000);
        put(device, 0x44, 1);
    } else {
        put(device, 0x28, 4096);
        put(device, 0x40, (uint32_t)(ring / 4096));
    }
}

static void start_driver(unsigned device, uint32_t features)
{
    put(device, 0x70, 3);
    put(device, 0x24, 1);
    put(device, 0x20, 1);
    put(device, 0x24, 0);
    put(device, 0x20, features);
    put(device, 0x70, device == MODERN ? 11 : 3);
}

/* Request n of a ring of 8: a buffer of len bytes in two pieces. */
static void offer(unsigned device, unsigned queue, unsigned n, uint32_t len, bool write)
{
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } d[2] = { { 0x800000, len / 2, (uint16_t)(1 | (write ? 2 : 0)), (uint16_t)(2 * n % 8 + 1) },
               { 0x800000 + len / 2, len / 2, write ? 2 : 0, 0 } };
    uint64_t ring = ring_of(device, queue), avail = ring + 16 * 8;
    uint16_t head = (uint16_t)(2 * n % 8), index = (uint16_t)(n + 1);

    memory_write(machine->vm->memory, ring + 16 * head, d, sizeof(d));
    memory_write(machine->vm->memory, avail + 4 + 2 * (n % 8), &head, 2);
    memory_write(machine->vm->memory, avail + 2, &index, 2);
    put(device, 0x50, queue);
}

static uint16_t used_index(unsigned device, unsigned queue)
{
    uint16_t index;

    memory_read(machine->vm->memory, ring_of(device, queue) + 0x1000 + 2, &index, 2);
    return index;
}

/* True when request n was answered within a time that is enough for what can be answered. */
static bool answered(unsigned device, unsigned queue, unsigned n, unsigned ms)
{
    for (unsigned i = 0; i < ms * 10 && used_index(device, queue) <= n; i++) {
        vm_unlock(machine->vm);
        g_usleep(100);
        vm_lock(machine->vm);
    }
    return used_index(device, queue) > n;
}

/* Rings in use, and output that waits for a reader that does not come. */
static void use_devices(void)
{
    unsigned n = 0;

    vm_start(machine->vm);
    for (unsigned device = 0; device < DEVICES; device++) {
        start_driver(device, device == SERIAL ? 2 : 1u << 29);
        set_up(device, device == SERIAL ? 5 : 0, 8);
        put(device, 0x70, device == MODERN ? 15 : 7);
    }
    for (unsigned i = 0; i < 3; i++) {
        offer(RNG, 0, i, 64, true);
        offer(MODERN, 0, i, 64, true);
        g_assert_true(answered(RNG, 0, i, 60000) && answered(MODERN, 0, i, 60000));
    }
    do {
        offer(SERIAL, 5, n, 0x20000, false);
    } while (answered(SERIAL, 5, n, 2000) && n++ < 100);
    g_assert_cmpuint(n, <, 100);
    g_assert_true(vm_stop(machine->vm, RUN_STATE_PAUSED, NULL));
}

/* --- sections --- */

struct section {
    uint32_t version;
    const uint8_t *data;
    size_t len;
};

/* Finds a device's section in what all devices saved. */
static struct section find(const GByteArray *all, unsigned device)
{
    struct section s = {};
    const char *name = idstr[device];
    const uint8_t *at = memmem(all->data, all->len, name, strlen(name)), *end;

    g_assert_nonnull(at);
    at += strlen(name) + 4;
    s.version = at[3];
    s.data = at + 4;
    end = device + 1 < DEVICES
              ? memmem(at, all->len - (size_t)(at - all->data), idstr[device + 1], 10)
              : memmem(at, all->len - (size_t)(at - all->data), "globalstate", 11);
    g_assert_nonnull(end);
    s.len = (size_t)(end - s.data) - 1 - 4 - 1 - 5; /* head of the next, footer of this */
    return s;
}

/* Reads a section; true: it was taken, and the device has it. */
static bool load(unsigned device, uint32_t version, const uint8_t *data, size_t len, GError **err)
{
    struct savevm_load *l = savevm_load_new(machine->vm->savevm);
    struct stream_in *in = in_new_memory(data, len);
    bool ok = savevm_load_section(l, in, idstr[device], 0, version, err) && in_offset(in) == len &&
              savevm_load_commit(l, err);

    in_free(in);
    savevm_load_free(l);
    return ok;
}

static void check_refusal(GError *err)
{
    if (err) {
        g_assert_true(g_utf8_validate(err->message, -1, NULL));
        g_assert_null(strchr(err->message, '\n'));
        g_assert_true(g_ascii_isupper(err->message[0]));
    }
}

/* What was taken must be a state that is taken again. */
static void check_again(unsigned device)
{
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, device);
    GError *err = NULL;

    must(load(device, s.version, s.data, s.len, &err), err);
}

static void test_cut(gconstpointer opaque)
{
    unsigned device = GPOINTER_TO_UINT(opaque);
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, device);
    GError *err = NULL;

    for (size_t n = 0; n < s.len; n += n < 2000 || s.len - n < 2000 ? 1 : 61) {
        struct savevm_load *l = savevm_load_new(machine->vm->savevm);
        struct stream_in *in = in_new_memory(s.data, n);
        g_autoptr(GError) error = NULL;
        bool ok = savevm_load_section(l, in, idstr[device], 0, s.version, &error);

        /* between two subsections it is a whole one, for a section has no length */
        g_assert_true(ok == !error);
        if (!ok) {
            check_refusal(error);
        }
        in_free(in);
        savevm_load_free(l);
    }
    must(load(device, s.version, s.data, s.len, &err), err);
}

static void test_damaged(gconstpointer opaque)
{
    static const uint8_t masks[] = { 0x01, 0x80, 0xff };
    unsigned device = GPOINTER_TO_UINT(opaque), taken = 0, refused = 0;
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, device);
    g_autofree uint8_t *copy = g_memdup2(s.data, s.len);
    GError *err = NULL;

    for (size_t i = 0; i < s.len; i += i < 1500 || s.len - i < 300 ? 1 : 97) {
        for (unsigned k = 0; k < G_N_ELEMENTS(masks); k++) {
            g_autoptr(GError) error = NULL;

            copy[i] ^= masks[k];
            if (load(device, s.version, copy, s.len, &error)) {
                check_again(device);
                taken++;
            } else {
                check_refusal(error);
                refused++;
            }
            copy[i] ^= masks[k];
        }
    }
    g_test_message("%zu bytes: %u taken, %u refused", s.len, taken, refused);
    g_assert_cmpuint(refused, >, 100);
    must(load(device, s.version, s.data, s.len, &err), err);
}

/* --- by name --- */

static void put_be(uint8_t *at, unsigned bytes, uint64_t value)
{
    while (bytes) {
        at[--bytes] = (uint8_t)value;
        value >>= 8;
    }
}

/* Offsets in a section of a device with a configuration space of c bytes. */
#define SHIFT    8u
#define SELECTOR 14u
#define FEATURES 16u
#define CONFIG   20u
#define COUNT(c) (24u + (c))
#define QUEUE(c) (28u + (c)) /* be32 size, be32 align, be64 ring, be16 index */

static void refused(unsigned device, size_t at, unsigned bytes, uint64_t value, const char *says)
{
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, device);
    g_autofree uint8_t *copy = g_memdup2(s.data, s.len);
    g_autoptr(GError) err = NULL;

    put_be(copy + at, bytes, value);
    g_assert_false(load(device, s.version, copy, s.len, &err));
    if (!err || !strstr(err->message, says)) {
        g_error("'%s' is not what was to be said: %s", err ? err->message : "", says);
    }
}

static void test_refusals(void)
{
    refused(RNG, SHIFT, 4, 32, "page shift 32");
    refused(RNG, SELECTOR, 2, 1024, "queue 1024 selected");
    refused(RNG, CONFIG, 4, 257, "configuration space of 257");
    refused(RNG, COUNT(0), 4, 2, "2 queues where this one has 1");
    refused(RNG, QUEUE(0), 4, 3, "queue 0 of 3 entries");
    refused(RNG, QUEUE(0), 4, 0, "queue 0 of 0 entries");
    refused(RNG, QUEUE(0), 4, 2048, "queue 0 of 2048 entries");
    refused(RNG, QUEUE(0) + 4, 4, 0, "aligned to 0");
    refused(RNG, QUEUE(0) + 4, 4, 3, "aligned to 3");
    refused(RNG, QUEUE(0) + 8, 8, 0, "without a ring at index 3");
    refused(RNG, QUEUE(0) + 8, 8, 0x100001, "not aligned");
    refused(RNG, QUEUE(0) + 8, 8, FUZZ_RAM, "not in memory");
    refused(RNG, QUEUE(0) + 8, 8, FUZZ_RAM - 16, "not in memory");
    refused(RNG, QUEUE(0) + 8, 8, UINT64_C(0xfffffffffffff000), "not in memory");
}

static void test_features(void)
{
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, RNG);
    g_autofree uint8_t *copy = g_memdup2(s.data, s.len);
    uint8_t *wide = memmem(copy, s.len, "virtio/64bit_features", 21);
    g_autoptr(GError) err = NULL;

    g_assert_nonnull(wide);
    put_be(wide + 21 + 4, 8, 1);
    g_assert_false(load(RNG, s.version, copy, s.len, &err));
    g_assert_nonnull(strstr(err->message, " in one place and 0x1 in another"));
    g_clear_error(&err);
    put_be(copy + 16, 4, 1); /* the low half, behind selectors, status and queue */
    g_assert_false(load(RNG, s.version, copy, s.len, &err));
    g_assert_nonnull(
        strstr(err->message, "Features 0x1 unsupported. Allowed features: 0x39000000"));
}

/* An index that the ring in memory contradicts breaks the device when it is used, not the load. */
static void test_wrong_index(void)
{
    g_autoptr(GByteArray) all = fuzz_machine_devices(machine);
    struct section s = find(all, RNG);
    g_autofree uint8_t *copy = g_memdup2(s.data, s.len);
    GError *err = NULL;

    put_be(copy + QUEUE(0) + 16, 2, 1000);
    must(load(RNG, s.version, copy, s.len, &err), err);
    vm_start(machine->vm);
    offer(RNG, 0, 3, 64, true);
    g_assert_false(answered(RNG, 0, 3, 100));
    g_assert_true(vm_stop(machine->vm, RUN_STATE_PAUSED, NULL));
    must(load(RNG, s.version, s.data, s.len, &err), err);
    vm_start(machine->vm);
    g_assert_true(answered(RNG, 0, 3, 60000)); /* it was offered */
    g_assert_true(vm_stop(machine->vm, RUN_STATE_PAUSED, NULL));
}

int main(int argc, char **argv)
{
    static const char *const names[] = { "rng", "serial", "modern" };
    int rc;

    g_test_init(&argc, &argv, NULL);
    machine = fuzz_machine_new_with(add_devices, NULL);
    use_devices();
    g_test_add_func("/virtio-wire/refusals", test_refusals);
    g_test_add_func("/virtio-wire/features", test_features);
    g_test_add_func("/virtio-wire/wrong-index", test_wrong_index);
    for (unsigned i = 0; i < DEVICES; i++) {
        g_autofree char *cut = g_strdup_printf("/virtio-wire/cut/%s", names[i]);
        g_autofree char *damaged = g_strdup_printf("/virtio-wire/damaged/%s", names[i]);

        g_test_add_data_func(cut, GUINT_TO_POINTER(i), test_cut);
        g_test_add_data_func(damaged, GUINT_TO_POINTER(i), test_damaged);
    }
    rc = g_test_run();
    fuzz_machine_free(machine);
    close(peer);
    return rc;
}
