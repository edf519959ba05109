/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtio devices, whatever carries them. A device is one file: its configuration space, its queues
 * and what it does with a request; rings (queue.h), registers (virtio-mmio.c), notification,
 * interrupts and the wire layout of what all devices have in common are here.
 *
 *   struct virtio_rng { struct virtio_device vdev; ...own state... };
 *   static const struct virtio_class rng_class = { .device = { .name = "virtio-rng-device", ... },
 *                                                  .device_id = 4, ... };
 *   VIRTIO_CLASS(rng_class);
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

struct virtio_device;
struct virtqueue;

struct virtio_class {
    struct device_class device; /* .size covers the device's own struct; .vmstate stays NULL */
    uint16_t device_id;         /* VIRTIO specification, chapter 5 */
    const char *wire_name;      /* "virtio-rng": of the section, behind the slot's path */
    int version;                /* of the section */

    /* Adds queues, checks properties, sets host_features and config_len. */
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
    /* By the driver or the machine; requests in flight must be gone when it returns. */
    void (*reset)(struct virtio_device *vdev);
    /* The machine stops (false) or runs (true). */
    void (*run_state)(struct virtio_device *vdev, bool running);
    /* Returns when no request is in flight outside the device (what is to be retried may stay). The
     * machine is stopped; the lock may be dropped meanwhile. */
    void (*drain)(struct virtio_device *vdev);

    /*
     * The device's part of its section, behind what all have in common: `state` is zeroed memory of
     * state_size bytes, written and read by hand in the layout of docs/wire (stream.h gives the
     * writers and bounded readers), so that lists fit in it. load_state() parses and checks only;
     * load() puts it into the device when the whole stream was good. All may be NULL.
     */
    const struct virtio_wire *wire;
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
    GPtrArray *queues; /* struct virtqueue * */
};

#define VIRTIO_CLASS(c) DEVICE_CLASS(c.device)

static inline bool virtio_has(const struct virtio_device *v, unsigned feature_bit)
{
    return v->guest_features >> feature_bit & 1;
}

/* In realize. handler: the guest has something for it (or the machine runs again). */
struct virtqueue *virtio_add_queue(struct virtio_device *v, unsigned size,
                                   void (*handler)(struct virtio_device *v, struct virtqueue *vq));
/* The guest broke a rule: format says which, for the log. */
void virtio_error(struct virtio_device *v, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The configuration space has changed: the driver is told, if it runs. */
void virtio_notify_config(struct virtio_device *v);
/* Where handlers run; file descriptors and timers of devices that serve queues are attached here.
 * Their callbacks take the machine lock themselves. */
struct vm;
GMainContext *virtio_context(struct vm *vm);

#endif
