/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Drivers that do what qtest, which is one thread and has the machine lock, cannot: offer requests
 * from another CPU while they are served, and write to registers while a reset waits. And what
 * takes 65,536 requests. The device is the test's own.
 */
#include <jansson.h>
#include <string.h>

#include "hw/device.h"
#include "hw/misc/virtio-slot.h"
#include "qapi/json.h"
#include "system/vm-init.h"

#include "../../hw/virtio/virtio-internal.h"
#include "../fuzz/fuzz-machine.h"

#define BASE UINT64_C(0xfeb02e00) /* of the first device, downwards */
#define SLOT UINT64_C(0x200)
#define RING UINT64_C(0x100000)
#define NUM  1024u /* so that the driver is ahead of the device with every store */

#define AVAIL (RING + 16 * NUM)
#define USED  (RING + 0x5000)

enum { LEGACY, MODERN };

struct test_device {
    struct virtio_device vdev;
    unsigned calls, served;
    void (*in_reset)(struct test_device *d);
    uint64_t features; /* as they were last accepted */
};

static struct fuzz_machine *machine;
static struct test_device *devices[2];

static void handle(struct virtio_device *v, struct virtqueue *vq)
{
    struct test_device *d = (struct test_device *)v;
    struct virtqueue_element *elem;

    d->calls++;
    do {
        while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
            virtqueue_push(vq, elem, 0);
            g_free(elem);
            d->served++;
        }
    } while (!virtqueue_is_empty(vq)); /* as careful devices do */
    virtqueue_notify(vq);
}

static bool realize(struct virtio_device *v, GError **err)
{
    (void)err;
    v->host_features |= 0xff;
    virtio_add_queue(v, NUM, handle);
    devices[virtio_slot_legacy(v->slot) ? LEGACY : MODERN] = (struct test_device *)v;
    return true;
}

static void reset(struct virtio_device *v)
{
    struct test_device *d = (struct test_device *)v;

    if (d->in_reset) {
        d->in_reset(d);
    }
}

static void set_features(struct virtio_device *v)
{
    ((struct test_device *)v)->features = v->guest_features;
}

static const struct property properties[] = { VIRTIO_PROPERTIES, {} };

static const struct virtio_class test_class = {
    .device = { VIRTIO_DEVICE_LIFE, .name = "test-device", .description = "for tests",
                .size = sizeof(struct test_device), .properties = properties },
    .device_id = 63,
    .wire_name = "test",
    .version = 1,
    .realize = realize,
    .reset = reset,
    .set_features = set_features,
};
VIRTIO_CLASS(test_class)

static void add_devices(struct vm *vm, void *opaque G_GNUC_UNUSED)
{
    g_autoptr(json_t) options = json_pack("{s:s}", "driver", "test-device");
    unsigned slots = 0;

    for (unsigned i = vm->devices->len; i-- > 0;) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (g_str_equal(dev->class->name, "virtio-mmio") && slots++ == MODERN) {
            device_set_property(dev, "force-legacy", "off", NULL);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        GError *err = NULL;

        device_add(vm, options, &err);
        g_assert_no_error(err);
    }
}

/* ---- a driver ---- */

static void put(unsigned device, unsigned offset, uint32_t value)
{
    memory_io(machine->vm->memory, IO_SPACE_MEM, BASE - SLOT * device + offset, &value, 4, true);
}

static uint32_t get(unsigned device, unsigned offset)
{
    uint32_t value;

    memory_io(machine->vm->memory, IO_SPACE_MEM, BASE - SLOT * device + offset, &value, 4, false);
    return value;
}

static uint8_t *guest(uint64_t gpa)
{
    return memory_ram_ptr(machine->vm->memory, gpa, 1, true);
}

static void store(uint64_t gpa, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)guest(gpa), value, __ATOMIC_RELEASE);
}

static uint16_t load(uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)(void *)guest(gpa), __ATOMIC_ACQUIRE);
}

/* With a ring whose every entry is descriptor 0, of one byte. */
static void start_driver(unsigned device, uint64_t features)
{
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } d = { RING + 0x8000, 1, 0, 0 };

    memset(guest(RING), 0, 0x8000);
    memcpy(guest(RING), &d, sizeof(d));
    put(device, 0x70, 0);
    put(device, 0x70, 3);
    put(device, 0x24, 1);
    put(device, 0x20, device == MODERN);
    put(device, 0x24, 0);
    put(device, 0x20, (uint32_t)features);
    put(device, 0x70, device == MODERN ? 11 : 3);
    put(device, 0x30, 0);
    put(device, 0x38, NUM);
    if (device == MODERN) {
        put(device, 0x80, (uint32_t)RING);
        put(device, 0x90, (uint32_t)AVAIL);
        put(device, 0xa0, (uint32_t)USED);
        put(device, 0x44, 1);
    } else {
        put(device, 0x28, 4096);
        put(device, 0x40, (uint32_t)(RING / 4096));
    }
    put(device, 0x70, device == MODERN ? 15 : 7);
}

/* ---- */

static atomic_bool over;

/* Keeps the ring full. */
static gpointer greedy_driver(gpointer unused)
{
    while (!atomic_load(&over)) {
        store(AVAIL + 2, (uint16_t)(load(USED + 2) + NUM));
    }
    return unused;
}

/* A driver that is faster than its device keeps nobody from the lock. */
static void test_turns(void)
{
    struct vm *vm = machine->vm;
    struct test_device *d = devices[MODERN];
    GThread *driver;
    int64_t longest = 0;

    start_driver(MODERN, 0);
    guest(AVAIL)[0] = 1; /* no interrupts */
    atomic_store(&over, false);
    driver = g_thread_new("driver", greedy_driver, NULL);
    while (!load(AVAIL + 2)) {
        g_thread_yield();
    }
    for (unsigned i = 0; i < 50 || (d->served <= 20 * 1024 && i < 5000); i++) {
        int64_t begun;

        put(MODERN, 0x50, 0); /* the driver may not have had a CPU for a while */
        vm_unlock(vm);
        g_usleep(2000);
        begun = g_get_monotonic_time();
        vm_lock(vm);
        longest = MAX(longest, g_get_monotonic_time() - begun);
    }
    g_test_message("%u requests in %u calls, %" G_GINT64_FORMAT " us for the lock", d->served,
                   d->calls, longest);
    g_assert_cmpuint(d->served, >, 20 * 1024);
    g_assert_cmpuint(d->served, <=, d->calls * 1024);
    g_assert_cmpint(longest, <, 20 * G_TIME_SPAN_SECOND); /* else for ever */
    atomic_store(&over, true);
    g_thread_join(driver);
    /* none was forgotten */
    put(MODERN, 0x50, 0);
    vm_unlock(vm);
    for (unsigned i = 0; i < 60000 && load(USED + 2) != load(AVAIL + 2); i++) {
        g_usleep(1000);
    }
    vm_lock(vm);
    g_assert_cmpuint(load(USED + 2), ==, load(AVAIL + 2));
    g_assert_false(d->vdev.broken);
    put(MODERN, 0x70, 0);
}

/* One request, as a device would serve it; whether the driver was interrupted. leave: so many more
 * are offered. */
static bool one_request(unsigned device, uint16_t *next, unsigned leave)
{
    struct virtqueue *vq = g_ptr_array_index(devices[device]->vdev.queues, 0);
    struct virtqueue_element *elem;
    uint32_t isr;

    store(AVAIL + 2, (uint16_t)(*next + 1 + leave));
    elem = virtqueue_pop(vq, sizeof(*elem));
    g_assert_nonnull(elem);
    virtqueue_push(vq, elem, 0);
    virtqueue_notify(vq);
    g_free(elem);
    ++*next;
    isr = get(device, 0x60);
    put(device, 0x64, isr);
    return isr & 1;
}

/*
 * 65,536 requests after an interrupt by event index the next is not taken for the same one, also
 * where those between were told of because the queue was empty.
 */
static void test_event_index(void)
{
    uint16_t next = 0;

    start_driver(LEGACY, 1u << VIRTIO_FEATURE_EVENT_IDX | 1u << VIRTIO_FEATURE_NOTIFY_ON_EMPTY);
    for (unsigned round = 0; round < 2; round++) {
        store(AVAIL + 4 + 2 * NUM, next);
        g_assert_true(one_request(LEGACY, &next, 1));
        for (unsigned i = 1; i < 65536; i++) {
            g_assert_true(one_request(LEGACY, &next, 0));
        }
    }
    /* it asked for the 100th from here on */
    store(AVAIL + 4 + 2 * NUM, (uint16_t)(next + 99));
    for (unsigned i = 1; i < 100; i++) {
        g_assert_false(one_request(LEGACY, &next, 1));
    }
    g_assert_true(one_request(LEGACY, &next, 1));
    g_assert_false(one_request(LEGACY, &next, 1));
    put(LEGACY, 0x70, 0);
}

static void other_cpu(struct test_device *d)
{
    vm_unlock(d->vdev.dev.vm);
    g_usleep(1000);
    vm_lock(d->vdev.dev.vm); /* as in a reset that waits; and what came meanwhile: */
    put(MODERN, 0x70, 3);
    put(MODERN, 0x30, 0);
    put(MODERN, 0x80, (uint32_t)RING);
    put(MODERN, 0x90, (uint32_t)AVAIL);
    put(MODERN, 0xa0, (uint32_t)USED);
    put(MODERN, 0x44, 1);
    put(MODERN, 0x70, 15);
    put(MODERN, 0x70, 0);
}

static void test_reset(void)
{
    struct test_device *d = devices[MODERN];
    struct virtqueue *vq = g_ptr_array_index(d->vdev.queues, 0);

    start_driver(MODERN, 0);
    d->in_reset = other_cpu;
    put(MODERN, 0x70, 0);
    d->in_reset = NULL;
    g_assert_cmphex(get(MODERN, 0x70), ==, 0);
    put(MODERN, 0x30, 0);
    g_assert_cmphex(get(MODERN, 0x44), ==, 0);
    g_assert_false(vq->enabled);
    start_driver(MODERN, 0);
    g_assert_true(vq->enabled);
    put(MODERN, 0x70, 0);
}

/* What was agreed on stays until a reset. */
static void test_features(void)
{
    start_driver(MODERN, 1);
    g_assert_cmphex(devices[MODERN]->features, ==, UINT64_C(1) << VIRTIO_FEATURE_VERSION_1 | 1);
    put(MODERN, 0x70, 7); /* without FEATURES_OK */
    put(MODERN, 0x20, 2);
    put(MODERN, 0x70, 15);
    g_assert_cmphex(devices[MODERN]->features, ==, UINT64_C(1) << VIRTIO_FEATURE_VERSION_1 | 1);
    put(MODERN, 0x70, 0);
    g_assert_cmphex(get(MODERN, 0x70), ==, 0);

    start_driver(LEGACY, 1);
    put(LEGACY, 0x20, 2);
    g_assert_cmphex(devices[LEGACY]->features, ==, 1);
    put(LEGACY, 0x70, 0);
    put(LEGACY, 0x70, 3);
    put(LEGACY, 0x20, 2);
    g_assert_cmphex(devices[LEGACY]->features, ==, 2);
    put(LEGACY, 0x70, 0);
}

/* Address 0 says everywhere that there is no ring: a driver that has one there would not move. */
static void test_ring_at_zero(void)
{
    start_driver(MODERN, 0);
    put(MODERN, 0x44, 0);
    put(MODERN, 0x80, 0);
    put(MODERN, 0x44, 1);
    g_assert_true(devices[MODERN]->vdev.broken);
    g_assert_cmphex(get(MODERN, 0x44), ==, 0);
    g_assert_cmphex(get(MODERN, 0x70) & VIRTIO_STATUS_NEEDS_RESET, !=, 0);
    vm_stop(machine->vm, RUN_STATE_PAUSED, NULL);
    fuzz_machine_check_saved(machine);
    vm_start(machine->vm);
    put(MODERN, 0x70, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    machine = fuzz_machine_new_with(add_devices, NULL);
    vm_start(machine->vm);
    g_test_add_func("/virtio/driver/turns", test_turns);
    g_test_add_func("/virtio/driver/event-index", test_event_index);
    g_test_add_func("/virtio/driver/reset", test_reset);
    g_test_add_func("/virtio/driver/features", test_features);
    g_test_add_func("/virtio/driver/ring-at-zero", test_ring_at_zero);
    int status = g_test_run();
    fuzz_machine_free(machine);
    return status;
}
