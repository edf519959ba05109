/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzz target: a guest's virtio drivers. An input is a program of register accesses and of writes
 * to guest memory, which holds rings and buffers, against a machine with one device of each kind on
 * legacy registers and one on version 2. The I/O thread does its work between accesses.
 *
 *   u8   opcode in the low half (see run()), device in the high half; then operands. Opcodes write
 * to registers and to the memory of rings, set up a ring or start the device as a good driver does,
 * notify, wait, stop and start the machine, save and load its devices
 *
 * What is checked: nothing crashes, waits for ever or fills the log; devices that broke can be
 * reset; the state of the devices, saved, loads, and saved once more is the same.
 */
#include "fuzz-machine.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>

#include "chardev/chardev.h"
#include "hw/device.h"
#include "hw/virtio/virtio.h"
#include "qapi/json.h"
#include "system/vm-init.h"
#include "util/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BASE    UINT64_C(0xfeb02e00) /* of the first device, downwards */
#define SLOT    UINT64_C(0x200)
#define RINGS   UINT64_C(0x100000)
#define AREA    UINT64_C(0x40000) /* bytes that programs write to, per device */
#define QUEUES  6u
#define DEVICES G_N_ELEMENTS(device_options)

/* The first half on legacy registers, the second on version 2. */
static const char *const device_options[] = {
    "{'driver': 'virtio-rng-device'}",
    "{'driver': 'virtio-serial-device', 'max_ports': 2, 'id': 's0'}",
    "{'driver': 'virtio-rng-device'}",
    "{'driver': 'virtio-serial-device', 'max_ports': 2, 'id': 's1'}",
};

static const char *const port_options[] = {
    "{'driver': 'virtconsole', 'chardev': 'c0', 'bus': 's0.0'}",
    "{'driver': 'virtserialport', 'chardev': 'c1', 'bus': 's0.0', 'nr': 1, 'name': 'org.a'}",
    "{'driver': 'virtconsole', 'chardev': 'c2', 'bus': 's1.0'}",
    "{'driver': 'virtserialport', 'chardev': 'c3', 'bus': 's1.0', 'nr': 1, 'id': 'p1'}",
};
#define PORTS G_N_ELEMENTS(port_options)

static bool is_modern(unsigned device)
{
    return device >= DEVICES / 2;
}

struct reader {
    const uint8_t *at;
    size_t left;
    bool saved; /* which takes longer than all else and is done once */
};

static uint8_t next8(struct reader *r)
{
    if (!r->left) {
        return 0;
    }
    r->left--;
    return *r->at++;
}

static uint32_t next32(struct reader *r)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < 4; i++) {
        v |= (uint32_t)next8(r) << 8 * i;
    }
    return v;
}

static int peers[PORTS]; /* our ends of what the ports are connected to */

static void must(bool ok, GError *err)
{
    if (!ok) {
        g_error("%s", err->message);
    }
}

static void add_device(struct vm *vm, const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(json_t) options = json_loads(json, 0, NULL);
    GError *err = NULL;

    must(device_add(vm, options, &err), err);
}

/* Slots are given out from the highest address down. */
static void make_modern(struct vm *vm, unsigned devices_before)
{
    unsigned slots = 0;

    for (unsigned i = vm->devices->len; i-- > 0;) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (g_str_equal(dev->class->name, "virtio-mmio") && slots++ >= devices_before) {
            device_set_property(dev, "force-legacy", "off", NULL);
        }
    }
}

static void add_devices(struct vm *vm, void *opaque G_GNUC_UNUSED)
{
    GError *err = NULL;

    for (unsigned i = 0; i < PORTS; i++) {
        g_autofree char *id = g_strdup_printf("c%u", i);
        g_autofree char *number = NULL;
        g_autoptr(json_t) options = NULL;
        int fds[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
            g_error("socketpair: %s", g_strerror(errno));
        }
        peers[i] = fds[0];
        number = g_strdup_printf("%d", fds[1]);
        options = json_pack("{s:s, s:s, s:s}", "backend", "socket", "id", id, "fd", number);
        must(chardev_open(vm->chardevs, options, &err), err);
    }
    make_modern(vm, DEVICES / 2);
    for (unsigned i = 0; i < DEVICES; i++) {
        add_device(vm, device_options[i]);
    }
    for (unsigned i = 0; i < PORTS; i++) {
        add_device(vm, port_options[i]);
    }
}

static void put(struct vm *vm, uint64_t addr, uint32_t value, unsigned size)
{
    memory_io(vm->memory, IO_SPACE_MEM, addr, &value, size, true);
}

static uint32_t get(struct vm *vm, uint64_t addr)
{
    uint32_t value;

    memory_io(vm->memory, IO_SPACE_MEM, addr, &value, sizeof(value), false);
    return value;
}

/* A queue where a good driver would have put it. */
static void set_up(struct vm *vm, uint64_t base, uint64_t ring, unsigned queue, unsigned num,
                   bool modern)
{
    uint64_t avail = ring + 16 * (uint64_t)num,
             used = (avail + 6 + 2 * num + 4095) & ~UINT64_C(4095);

    put(vm, base + 0x30, queue, 4);
    put(vm, base + 0x38, num, 4);
    if (!modern) {
        put(vm, base + 0x28, 4096, 4);
        put(vm, base + 0x3c, 4096, 4);
        put(vm, base + 0x40, (uint32_t)(ring / 4096), 4);
        return;
    }
    put(vm, base + 0x80, (uint32_t)ring, 4);
    put(vm, base + 0x90, (uint32_t)avail, 4);
    put(vm, base + 0xa0, (uint32_t)used, 4);
    put(vm, base + 0x44, 1, 4);
}

static void start_driver(struct vm *vm, uint64_t base, uint32_t features, bool modern)
{
    put(vm, base + 0x70, 0, 4);
    put(vm, base + 0x70, 3, 4);
    put(vm, base + 0x24, 0, 4);
    put(vm, base + 0x20, features & get(vm, base + 0x10), 4);
    put(vm, base + 0x24, 1, 4);
    put(vm, base + 0x20, modern, 4);
    put(vm, base + 0x70, 11, 4);
    put(vm, base + 0x70, 15, 4);
}

/* Lets the I/O thread do what it was asked for. */
static void rest(struct vm *vm)
{
    vm_unlock(vm);
    g_thread_yield();
    g_usleep(20);
    vm_lock(vm);
}

/* Characters for a port, and a turn of the main loop; what came out is read. */
static void chars(struct vm *vm, struct reader *r)
{
    unsigned which = next8(r) % PORTS, n = next8(r);
    uint8_t bytes[256];
    char out[4096];

    for (unsigned i = 0; i < n; i++) {
        bytes[i] = next8(r);
    }
    if (n && send(peers[which], bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        g_assert(errno == EAGAIN);
    }
    vm_main_loop_once(vm, 0);
    while (recv(peers[which], out, sizeof(out), MSG_DONTWAIT) > 0) {
    }
}

static void run(struct fuzz_machine *m, struct reader *r)
{
    struct vm *vm = m->vm;
    uint8_t op = next8(r);
    unsigned device = (op >> 4) % DEVICES;
    bool modern = is_modern(device);
    uint64_t base = BASE - SLOT * device, area = RINGS + AREA * device;

    switch (op & 15) {
    case 0: /* any access to the registers */
        put(vm, base + (next8(r) | (uint64_t)(op >> 7) << 8), next32(r), 1u << (next8(r) & 3) % 3);
        break;
    case 1: /* a register that there is */
        put(vm, base + 4 * (uint64_t)(next8(r) & 0x3f), next32(r), 4);
        break;
    case 2: { /* bytes of the area */
        uint64_t at = area + next32(r) % AREA;
        unsigned n = next8(r) % 64;

        for (unsigned i = 0; i < n; i++) {
            uint8_t b = next8(r);
            memory_write(vm->memory, at + i, &b, 1);
        }
        break;
    }
    case 3: { /* a descriptor */
        uint8_t queue = next8(r), index = next8(r), where = next8(r), flags = next8(r);
        struct {
            uint64_t addr;
            uint32_t len;
            uint16_t flags, next;
        } d = { area + 0x20000 + 64 * where, next8(r), flags & 7, next8(r) % 9 };

        if (flags & 0x80) {
            d.addr = (uint64_t)next32(r) << 32 | next32(r);
            d.len = next32(r);
        }
        memory_write(vm->memory, area + 0x4000 * (queue % QUEUES) + 16 * (index % 8), &d,
                     sizeof(d));
        break;
    }
    case 4: { /* an offer of the next request */
        uint64_t avail = area + 0x4000 * (next8(r) % QUEUES) + 16 * 8;
        uint16_t index, head = next8(r) % 9;

        memory_read(vm->memory, avail + 2, &index, 2);
        memory_write(vm->memory, avail + 4 + 2 * (index % 8), &head, 2);
        index = (uint16_t)(index + 1);
        memory_write(vm->memory, avail + 2, &index, 2);
        break;
    }
    case 5:
        put(vm, base + 0x50, next8(r) % (QUEUES + 1), 4);
        rest(vm);
        break;
    case 6: {
        unsigned queue = next8(r) % QUEUES;

        set_up(vm, base, area + 0x4000 * queue, queue, 8, modern);
        break;
    }
    case 7:
        start_driver(vm, base, next32(r), modern);
        break;
    case 8:
        put(vm, base + 0x64, 3, 4);
        rest(vm);
        break;
    case 9:
        for (unsigned i = 0; i < 0x200; i += 4) {
            get(vm, base + i);
        }
        break;
    case 10:
        vm_stop(vm, RUN_STATE_PAUSED, NULL);
        break;
    case 11:
        vm_start(vm);
        break;
    case 12:
        chars(vm, r);
        break;
    case 13:
        vm_clock_advance_to(vm, vm_clock_ns(vm) + next32(r));
        break;
    case 14:
        if (!r->saved) {
            r->saved = true;
            vm_stop(vm, RUN_STATE_PAUSED, NULL);
            fuzz_machine_check_saved(m);
            vm_start(vm);
        }
        break;
    default:
        rest(vm);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_machine *m;
    struct reader r = { .at = data, .left = size };

    if (!m) {
        m = fuzz_machine_new_with(add_devices, NULL);
    } else {
        vm_lock(m->vm);
    }
    for (unsigned i = 0; i < DEVICES; i++) {
        uint64_t base = BASE - SLOT * i;

        memset(memory_ram_ptr(m->vm->memory, RINGS + AREA * i, AREA, true), 0, AREA);
        put(m->vm, base + 0x70, 0, 4);
        g_assert_cmpuint(get(m->vm, base + 0x70), ==, 0);
    }
    vm_start(m->vm);
    while (r.left) {
        run(m, &r);
    }
    rest(m->vm);
    vm_stop(m->vm, RUN_STATE_PAUSED, NULL);
    if (size % 16 == 0) {
        fuzz_machine_check_saved(m);
    }
    vm_unlock(m->vm);
    return 0;
}
