/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtio devices, whatever carries them. A device is one file: its configuration space, its queues
 * and what it does with a request; rings (queue.h), registers (virtio-mmio.c), notification,
 * interrupts and the wire layout of what all devices have in common are here.
 *
 *   struct virtio_rng { struct virtio_device vdev; ...own state... };
 *   static const struct property rng_properties[] = { ..., VIRTIO_PROPERTIES, {} };
 *   static const struct virtio_class rng_class = { .device = { VIRTIO_DEVICE_LIFE,
 *                                                              .name = "virtio-rng-device", ... },
 *                                                  .device_id = 4, ... };
 *   VIRTIO_CLASS(rng_class);
 *
 * -device finds it by that name, sets its properties and realizes it: it takes a slot, class->
 * realize adds queues and features, the registers are plugged in. What realize made before it
 * failed, it takes away itself; else unrealize does, when the machine ends.
 *
 * Threads. Queue handlers run on the I/O thread of the machine ("virtio", virtio_context()), with
 * the machine lock held, after the guest's notification (ioeventfd, or a register write where there
 * is none). Everything else of a device runs with the machine lock held on whatever thread came.
 * The lock may be dropped inside virtqueue_pop() where memory has not come yet (post-copy): see
 * there.
 *
 * A stopped machine: no handler is called, nothing is popped, nothing is pushed but what
 * class->drain waits for. When it runs again every ready queue's handler is called once.
 *
 * A guest that breaks the rules gets virtio_error(): the device is broken (DEVICE_NEEDS_RESET where
 * VERSION_1 was negotiated), does nothing any more, and comes back with a reset by its driver.
 */
#ifndef HW_VIRTIO_VIRTIO_H
#define HW_VIRTIO_VIRTIO_H

#include "hw/device.h"

#define VIRTIO_QUEUE_MAX      1024 /* queues on the wire; a device has as many as it adds */
#define VIRTIO_QUEUE_SIZE_MAX 1024
#define VIRTIO_CONFIG_MAX     256

/* Device status: VIRTIO 1.1, 2.1. */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER      0x02
#define VIRTIO_STATUS_DRIVER_OK   0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED      0x80

/* Feature bits that are not about one kind of device: VIRTIO 1.1, 6 and 6.3. */
#define VIRTIO_FEATURE_NOTIFY_ON_EMPTY 24 /* legacy */
#define VIRTIO_FEATURE_ANY_LAYOUT      27 /* legacy */
#define VIRTIO_FEATURE_INDIRECT_DESC   28
#define VIRTIO_FEATURE_EVENT_IDX       29
#define VIRTIO_FEATURE_VERSION_1       32

struct stream_in;
struct stream_out;
struct virtio_device;
struct virtqueue;
struct vm;

/*
 * The device's part of its section, behind what all devices have in common. It is written and read
 * by hand (migration/stream/out.h and in.h), so that lists fit in it. Machine lock held but in
 * parse(), the machine stopped and drained.
 */
struct virtio_wire {
    size_t state_size;
    void (*save)(struct virtio_device *vdev, struct stream_out *out);
    /*
     * Reads and checks into zeroed memory of state_size bytes; nothing of the device changes.
     * features: bits 0-31 of those that the driver accepted on the source; version: of the section.
     * No lock: only what is constant after realize may be read. On failure state holds what clear()
     * frees.
     */
    bool (*parse)(struct virtio_device *vdev, void *state, uint64_t features, int version,
                  struct stream_in *in, GError **err);
    /* Puts it in, when the whole stream was good; status, features and queues are in already. */
    bool (*load)(struct virtio_device *vdev, const void *state, GError **err);
    void (*clear)(void *state); /* frees what parse() hung into it; may be NULL */
};

struct virtio_class {
    struct device_class device; /* .size covers the device's own struct; .vmstate stays NULL */
    uint16_t device_id;         /* VIRTIO specification, chapter 5 */
    const char *wire_name;      /* "virtio-rng": of the section, behind the slot's path */
    int version;                /* of the section */

    /*
     * Adds queues, checks properties, sets config_len, adds to host_features, which hold the
     * transport's bits already (a device may clear them: virtio-blk has no ANY_LAYOUT).
     */
    bool (*realize)(struct virtio_device *vdev, GError **err);
    void (*unrealize)(struct virtio_device *vdev);
    /* What the driver sees; the whole space is refreshed (little-endian where VERSION_1 was
     * negotiated, which on x86 is the same). NULL: none. */
    void (*get_config)(struct virtio_device *vdev, uint8_t *config);
    /* The driver has written to it; config is the whole space afterwards. NULL: read-only. */
    void (*set_config)(struct virtio_device *vdev, const uint8_t *config);
    /* The driver has accepted features; also called on load. May be NULL. */
    void (*set_features)(struct virtio_device *vdev);
    /* status as the driver wrote it (DRIVER_OK: it may be used from now on). May be NULL. */
    void (*set_status)(struct virtio_device *vdev, uint8_t status);
    /* By the driver or the machine; requests in flight must be gone when it returns (what they push
     * meanwhile is ignored). Queues are off already. May be NULL. */
    void (*reset)(struct virtio_device *vdev);
    /* The machine stops (false) or runs (true). May be NULL. */
    void (*run_state)(struct virtio_device *vdev, bool running);
    /* Returns when no request is in flight outside the device (what is to be retried may stay). The
     * machine is stopped; the lock may be dropped meanwhile. May be NULL. */
    void (*drain)(struct virtio_device *vdev);
    /* Calls add() with what the check before a migration must know beyond features and queues, by
     * names that migration/check/virtio.c has a rule for. May be NULL. */
    void (*describe)(struct virtio_device *vdev,
                     void (*add)(void *opaque, const char *name, const char *value), void *opaque);
    const struct virtio_wire *wire; /* NULL: the device has nothing of its own */
};

struct virtio_device {
    struct device dev; /* first */
    struct device *slot;

    uint8_t status, isr;
    uint64_t host_features, guest_features;
    uint8_t config[VIRTIO_CONFIG_MAX];
    size_t config_len;
    uint32_t config_generation;
    uint32_t generation; /* counts resets: who had dropped the lock compares */
    bool broken, running;
    bool resetting;  /* a reset waits for what is in flight, maybe without the lock */
    int queue_errno; /* why a queue could not be made; 0: all could */
    unsigned errors_reported;
    GPtrArray *queues; /* struct virtqueue * */
    unsigned queues_shown;

    bool indirect_desc, event_idx, notify_on_empty, any_layout; /* properties */
    struct vmstate vmstate;                                     /* of the section */
    struct virtio_mmio *transport;                              /* hw/virtio/virtio-mmio.c */
};

/* Ends DEVICE's property table, before {}. */
#define VIRTIO_PROPERTY_BIT(n, m, h)                                                               \
    {                                                                                              \
        .name = n, .type = PROPERTY_BOOL, .offset = offsetof(struct virtio_device, m), .def = 1,   \
        .help = h                                                                                  \
    }
#define VIRTIO_PROPERTIES                                                                          \
    VIRTIO_PROPERTY_BIT("indirect_desc", indirect_desc, "offer indirect descriptors"),             \
        VIRTIO_PROPERTY_BIT("event_idx", event_idx, "offer notification by event index"),          \
        VIRTIO_PROPERTY_BIT("notify_on_empty", notify_on_empty,                                    \
                            "legacy: interrupt when a queue is empty"),                            \
        VIRTIO_PROPERTY_BIT("any_layout", any_layout, "legacy: any layout of requests")

/* What every virtio class has in .device. */
#define VIRTIO_DEVICE_LIFE                                                                         \
    .realize = virtio_device_realize, .unrealize = virtio_device_unrealize,                        \
    .reset = virtio_device_reset, .user_creatable = true
bool virtio_device_realize(struct device *dev, GError **err);
void virtio_device_unrealize(struct device *dev);
void virtio_device_reset(struct device *dev);

#define VIRTIO_CLASS(c)                                                                            \
    static void __attribute__((constructor)) c##_register(void)                                    \
    {                                                                                              \
        device_class_register(&c.device);                                                          \
    }

static inline bool virtio_has(const struct virtio_device *v, unsigned feature_bit)
{
    return v->guest_features >> feature_bit & 1;
}

static inline const struct virtio_class *virtio_class_of(const struct virtio_device *v)
{
    return (const struct virtio_class *)(const void *)v->dev.class;
}

/* In realize. handler: the guest has something for it (or the machine runs again). size: of the
 * ring until the driver chooses, a power of two, part of the stream and therefore QEMU's; drivers
 * may choose up to VIRTIO_QUEUE_SIZE_MAX. */
struct virtqueue *virtio_add_queue(struct virtio_device *v, unsigned size,
                                   void (*handler)(struct virtio_device *v, struct virtqueue *vq));
/* The driver, and the stream, see only the first `count` queues: where that depends on features.
 * Those hidden must not be in use. */
void virtio_show_queues(struct virtio_device *v, unsigned count);
/* The guest broke a rule: format says which, for the log. */
void virtio_error(struct virtio_device *v, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The configuration space has changed: the driver is told, if it runs. */
void virtio_notify_config(struct virtio_device *v);

/*
 * Where handlers run; file descriptors and timers of devices that serve queues are attached here.
 * Their callbacks take the machine lock themselves. The first call makes the thread, which ends in
 * vm_free() before devices go; the context lasts until the machine is gone. Machine lock held.
 * Sources with descriptors: g_source_set_can_recurse(), see virtio-thread.c.
 */
GMainContext *virtio_context(struct vm *vm);

/* The machine's devices, in order of creation. Machine lock held. */
void virtio_foreach(struct vm *vm, void (*fn)(struct virtio_device *v, void *opaque), void *opaque);
/* Of the device's section in a stream; to be freed. */
char *virtio_section_name(const struct virtio_device *v);

/*
 * For the machine (system/vm.c). The vCPUs have stopped (false): no handler runs from now on, and
 * when it returns no request is in flight; drops the machine lock meanwhile. They are about to run
 * (true).
 */
void virtio_run_state(struct vm *vm, bool running);
/* For vm_free(): stops and drains the devices, and ends the thread; drops the lock meanwhile. */
void virtio_thread_stop(struct vm *vm);
/* What is left: the context. Devices and back ends are gone. */
void virtio_free(struct vm *vm);

#endif
